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

/// Number of bytes the next read would find, 0 at the end, `None` if it would wait
///
/// The system tells an error only once: who finds one here must act on it.
pub(super) fn peek(socket: &Socket) -> io::Result<Option<usize>> {
    match socket.get_ref().peek(&mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        found => found.map(Some),
    }
}

/// Whether the peer is known to be gone, as nothing more can be read
pub(super) fn is_closed(socket: &Socket) -> bool {
    matches!(peek(socket), Ok(Some(0)) | Err(_))
}

/// Does some work unless it takes too long
pub(super) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let too_long = async {
        Timer::after(limit).await;
        None
    };
    async { Some(work.await) }.or(too_long).await
}
