//! Answers to upgrades in the place of the service

use std::io::{self, ErrorKind};
use std::net::Shutdown;
use std::time::Duration;

use smol::io::{AsyncReadExt, AsyncWriteExt};

use super::frames::HEAD_BYTES_MAX;
use super::socket::{Socket, within};

/// Longest wait for the client to ask
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest wait for the client to hang up behind an answer
const FAREWELL: Duration = Duration::from_secs(1);

/// Waits for what the client asks: whether that is HTTP, of which nothing was read if it is not
///
/// # Errors
///
/// When the client is gone, or says no more in the midst of its request.
pub(super) async fn asks(client: &Socket) -> io::Result<bool> {
    let mut first = [0; 4];
    match within(PATIENCE, client.peek(&mut first)).await {
        None => return Ok(false),
        Some(count) => match count? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count if !b"GET ".starts_with(&first[..count]) => return Ok(false),
            _ => {}
        },
    }
    let reading = async {
        let (mut head, mut client, mut buffer) = (Vec::new(), client, [0; 1024]);
        while !head.ends_with(b"\r\n\r\n") {
            match client.read(&mut buffer).await? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                _ if head.len() > HEAD_BYTES_MAX => return Err(ErrorKind::InvalidData.into()),
                count => head.extend_from_slice(&buffer[..count]),
            }
        }
        Ok(true)
    };
    within(PATIENCE, reading).await.unwrap_or_else(|| Err(ErrorKind::TimedOut.into()))
}

/// Answers with a status, and hangs up; whoever is to come back is told when
pub(super) async fn answer(mut client: &Socket, status: u16, wait: Duration) {
    let more = match status {
        // A time of zero would have it come at once, and meet the same again.
        429 | 503 => format!("Retry-After: {}\r\n", wait.as_millis().div_ceil(1000).max(1)),
        300..400 => "Location: /\r\n".to_owned(),
        _ => String::new(),
    };
    let text = format!("HTTP/1.1 {status} \r\n{more}Content-Length: 0\r\nConnection: close\r\n\r\n");
    let farewell = async {
        client.write_all(text.as_bytes()).await?;
        client.get_ref().shutdown(Shutdown::Write)?;
        // Bytes that nobody has read would make the system reset what is under way.
        while client.read(&mut [0; 1024]).await? > 0 {}
        io::Result::Ok(())
    };
    // It is over in any case.
    let _ = within(FAREWELL, farewell).await;
}
