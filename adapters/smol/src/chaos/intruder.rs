//! Whoever dials the service beside those who have business there

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use smol::io::{AsyncReadExt, AsyncWriteExt};

use super::fault::{Fault, Kind, Whom};
use super::memory::Memory;
use super::places::Shared;
use super::random::{Purpose, Random};
use super::socket::within;

/// Longest that an intruder may take to connect and say his bytes, and then to listen
const INTRUDER_TIME_MAX: Duration = Duration::from_secs(5);
/// Most bytes that a stranger says
const STRANGER_BYTES_MAX: u64 = 100_000;

/// Somebody who has no business there connects, and says something: nothing of sense, or what others have said
pub(super) async fn comes(shared: Arc<Shared>, fault: Fault) {
    let words = if fault.kind == Kind::Stranger {
        vec![nonsense(&shared, fault.amount)]
    } else {
        shared.memory.as_ref().map(|memory| said_by(memory, fault)).unwrap_or_default()
    };
    for said in words {
        let heard = within(INTRUDER_TIME_MAX, async {
            let socket = shared.upstream.connect().await?;
            (&socket).write_all(&said).await?;
            io::Result::Ok(socket)
        });
        // Whoever hangs up on him in the midst of it has heard him.
        let Some(heard) = heard.await else { continue };
        if heard.as_ref().err().is_none_or(|error| error.kind() != ErrorKind::ConnectionRefused) {
            shared.feel(fault.kind);
        }
        if fault.kind == Kind::Impostor
            && let Ok(socket) = heard
        {
            // He listens until he is sent away.
            let listening = async { while (&socket).read(&mut [0; 1024]).await.is_ok_and(|count| count > 0) {} };
            within(INTRUDER_TIME_MAX, listening).await;
        }
    }
}

/// Bytes of nothing
fn nonsense(shared: &Shared, bytes: u64) -> Vec<u8> {
    let mut random = Random::keyed(shared.settings.seed, Purpose::Noise, &[bytes]);
    (0..bytes.min(STRANGER_BYTES_MAX)).map(|_| random.next() as u8).collect()
}

/// How each of those whom a fault strikes has begun
fn said_by(memory: &Memory, fault: Fault) -> Vec<Vec<u8>> {
    let places = match fault.whom {
        Whom::All => memory.known(),
        Whom::Place(place) => vec![place],
    };
    let first = places.into_iter().map(|place| memory.first(place, fault.amount.max(1)));
    first.filter(|said| !said.is_empty()).collect()
}
