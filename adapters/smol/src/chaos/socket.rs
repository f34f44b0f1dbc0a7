//! Small things about sockets

use std::future::Future;
use std::io;
use std::net::TcpStream;
use std::time::Duration;

use smol::future::FutureExt;
use smol::{Async, Timer};
use socket2::SockRef;

pub(super) type Socket = Async<TcpStream>;

/// Makes the drop of each socket a reset, with whatever was not delivered yet lost
pub(super) fn reset_on_close(sockets: &[&Socket]) {
    for socket in sockets {
        // Fails only on a socket that is gone already.
        let _ = SockRef::from(socket.get_ref()).set_linger(Some(Duration::ZERO));
    }
}

/// Whether the peer is known to be gone, as nothing more can be read
///
/// The system tells an error only once: whoever reads behind that finds an end in its place.
pub(super) fn is_closed(socket: &Socket) -> bool {
    match socket.get_ref().peek(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    }
}

/// Does some work unless it takes too long
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let too_long = async {
        Timer::after(limit).await;
        None
    };
    async { Some(work.await) }.or(too_long).await
}
