//! One WebSocket as a pipe of binary messages
//!
//! [`dial`](crate::dial::dial) opens a [`Socket`] to a coordinator; the coordinator's
//! own end is the same type. A socket is split into a [`Reader`] and a [`Writer`], which never
//! wait for each other: a writer stuck behind a full window leaves the reader
//! reading. What a message means is nobody's business here.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use async_tungstenite::tungstenite::error::ProtocolError;
use async_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use async_tungstenite::tungstenite::{Error as WsError, Message};
use async_tungstenite::{ByteWriter, WebSocketReceiver, WebSocketSender, WebSocketStream};
use smol::io::AsyncWriteExt;
use smol::stream::StreamExt;
use smol::{Timer, future};

use crate::wire::Wire;

pub use async_tungstenite::tungstenite::Bytes;

/// Most bytes of a message, in both directions
pub const MESSAGE_BYTES_MAX: usize = 65_536;

/// Bytes read at once; held by every link, however idle, and therefore small
const READ_BYTES: usize = 4 * 1024;

/// Bytes gathered from small messages before they are written without a flush
const GATHER_BYTES: usize = 16 * 1024;

/// Room for frame headers and answers to pings behind the gathered messages
const CONTROL_BYTES: usize = 1024;

/// Longest wait for a close to reach the peer and for the peer to close as well
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BYTES)
        .write_buffer_size(GATHER_BYTES)
        .max_write_buffer_size(GATHER_BYTES + MESSAGE_BYTES_MAX + CONTROL_BYTES)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX))
}

/// Runs `work` for `limit` at most
pub(crate) async fn within<T>(limit: Duration, work: impl Future<Output = T>) -> Option<T> {
    let late = async {
        Timer::after(limit).await;
        None
    };
    future::or(async { Some(work.await) }, late).await
}

/// An open WebSocket, on either side
///
/// The TCP connection is closed as soon as the socket, or both of its halves, are dropped.
#[derive(Debug)]
pub struct Socket {
    pub(crate) ws: WebSocketStream<Wire>,
    pub(crate) wire: Wire,
}

impl Socket {
    /// The server's end of `wire`, of which the upgrade has already read `ahead`
    pub(crate) async fn accepted(wire: Wire, ahead: Vec<u8>) -> Self {
        let ws = WebSocketStream::from_partially_read(wire.clone(), ahead, Role::Server, Some(config()));
        Self { ws: ws.await, wire }
    }

    /// The two halves, which may live in different tasks
    pub fn split(self) -> (Reader, Writer) {
        let Self { ws, wire } = self;
        let (sender, receiver) = ws.split();
        let reader = Reader { messages: receiver, arrived: wire.arrived() };
        (reader, Writer { messages: ByteWriter::new(sender), wire })
    }
}

/// The receiving half of a [`Socket`]
#[derive(Debug)]
pub struct Reader {
    messages: WebSocketReceiver<Wire>,
    arrived: Arc<AtomicU64>,
}

impl Reader {
    /// The next message; pings are answered on the way
    ///
    /// Dropping the future loses nothing. The bytes may share memory with what was read around
    /// them, so that a message that is kept for long is better copied.
    ///
    /// # Errors
    ///
    /// When the link has ended, which it then has for good.
    pub async fn next(&mut self) -> Result<Bytes, Ended> {
        loop {
            match self.messages.next().await {
                Some(Ok(Message::Binary(bytes))) => return Ok(bytes),
                // Control messages that never stop must not keep the thread from other tasks.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => future::yield_now().await,
                Some(Ok(Message::Text(_))) => {
                    return Err(Ended::Protocol("a text message came where only binary ones may".to_owned()));
                }
                Some(Ok(Message::Close(frame))) => {
                    // The answer to the close is sent by the next read, which has nothing else to do.
                    future::poll_once(self.messages.next()).await;
                    return Err(Ended::Closed(frame.map(|frame| frame.code.into())));
                }
                Some(Err(WsError::Io(error))) => return Err(Ended::Reset(error)),
                Some(Err(WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => {
                    return Err(Ended::Reset(cut_off()));
                }
                Some(Err(error)) => return Err(Ended::Protocol(error.to_string())),
                None => return Err(Ended::Closed(None)),
            }
        }
    }

    /// Counter of all bytes read from the TCP connection so far, those of the upgrade included
    ///
    /// It grows only while [`next`](Self::next) is waited for. Growth without a message means that
    /// one is on its way over a slow link.
    pub fn arrived(&self) -> Arc<AtomicU64> {
        self.arrived.clone()
    }
}

/// Why a [`Reader`] has no more messages
#[derive(Debug)]
pub enum Ended {
    /// The peer closed the link in good order, perhaps with a code that says why
    Closed(Option<u16>),
    /// The connection broke, or ended without a close
    Reset(io::Error),
    /// The peer sent what it must not, such as a message that is too long
    Protocol(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(Some(code)) => write!(f, "the peer closed the link with code {code}"),
            Self::Closed(None) => f.write_str("the peer closed the link"),
            Self::Reset(error) => write!(f, "the link broke: {error}"),
            Self::Protocol(what) => write!(f, "the peer broke the protocol: {what}"),
        }
    }
}

impl Error for Ended {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Reset(error) => Some(error),
            Self::Closed(_) | Self::Protocol(_) => None,
        }
    }
}

pub(crate) fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended without a close")
}

/// The sending half of a [`Socket`]
pub struct Writer {
    messages: ByteWriter<WebSocketSender<Wire>>,
    wire: Wire,
}

impl Writer {
    /// Queues one message; a [`flush`](Self::flush) must follow to be sure that it leaves
    ///
    /// Waits while earlier messages are stuck. Dropping the future drops the whole message or
    /// nothing of it.
    ///
    /// # Errors
    ///
    /// When the message is longer than [`MESSAGE_BYTES_MAX`], which leaves the link as it was, or
    /// when the link has ended.
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the message is longer than 65536 bytes"));
        }
        self.messages.write(bytes).await.map(drop)
    }

    /// Hands all queued messages to the system
    ///
    /// It may take for ever when the peer does not read. Dropping the future keeps what is queued
    /// for the next flush.
    ///
    /// # Errors
    ///
    /// When the link has ended.
    pub async fn flush(&mut self) -> io::Result<()> {
        self.messages.flush().await
    }

    /// Tells the peer why, if that is possible within a second, and ends the connection
    ///
    /// What is queued goes first. What still arrives is discarded, since unread bytes would make
    /// the system reset the connection and so destroy the close on its way; a reader that waits
    /// meanwhile ends in any way.
    pub async fn close(self, code: u16) {
        let Self { messages, wire } = self;
        let frame = CloseFrame { code: code.into(), reason: Default::default() };
        let farewell = async {
            if messages.into_inner().close(Some(frame)).await.is_ok() {
                wire.drain().await.ok();
            }
        };
        within(CLOSE_PATIENCE, farewell).await;
        // The reader may still hold the connection.
        wire.cut();
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("wire", &self.wire).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::dial::dial;
    use crate::http::{Limits, serve};
    use crate::tls::Trust;
    use crate::url::Endpoint;
    use async_tungstenite::tungstenite::{self, WebSocket};
    use smol::Async;
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::atomic::Ordering;
    use std::time::Instant;

    pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

    pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
        smol::block_on(within(PATIENCE, work)).expect("the test hangs")
    }

    pub(crate) fn listen() -> (std::net::TcpListener, Endpoint) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("ws://{}", listener.local_addr().unwrap()).parse().unwrap();
        (listener, endpoint)
    }

    /// Both ends of a link, first the dialled one
    async fn pair() -> ((Reader, Writer), (Reader, Writer)) {
        let (listener, endpoint) = listen();
        let listener = Async::new(listener).unwrap().into();
        let (upgraded, links) = smol::channel::unbounded();
        let server =
            smol::spawn(serve(listener, Limits::default(), None, |_| std::future::ready(Ok(((), None))), upgraded));
        let near = dial(&endpoint, &Trust::system(), PATIENCE).await.unwrap();
        let far = links.recv().await.unwrap().socket.unwrap();
        server.cancel().await;
        (near.split(), far.split())
    }

    /// The dialled end of a link whose other end may send what it likes
    async fn with_raw_peer() -> ((Reader, Writer), WebSocket<TcpStream>) {
        let (listener, endpoint) = listen();
        let peer = smol::unblock(move || {
            let (tcp, _) = listener.accept().unwrap();
            tcp.set_read_timeout(Some(PATIENCE)).unwrap();
            tungstenite::accept(tcp).unwrap()
        });
        let (near, peer) = future::zip(dial(&endpoint, &Trust::system(), PATIENCE), peer).await;
        (near.unwrap().split(), peer)
    }

    /// Writes to the writer until it is stuck
    async fn fill(writer: &mut Writer) {
        let message = vec![7; MESSAGE_BYTES_MAX];
        // A send that waits for the loopback to move is not stuck yet.
        while within(Duration::from_millis(200), writer.send(&message)).await.transpose().unwrap().is_some() {}
    }

    #[test]
    fn messages_of_all_sizes_are_echoed() {
        block_on(async {
            let ((mut reader, mut writer), (mut far_reader, mut far_writer)) = pair().await;
            let echo = smol::spawn(async move {
                while let Ok(message) = far_reader.next().await {
                    far_writer.send(&message).await.unwrap();
                    far_writer.flush().await.unwrap();
                }
            });
            for len in [0, 1, 125, 126, 4096, MESSAGE_BYTES_MAX - 1, MESSAGE_BYTES_MAX] {
                let message: Vec<u8> = (0..len).map(|i| i as u8).collect();
                writer.send(&message).await.unwrap();
                writer.flush().await.unwrap();
                assert_eq!(reader.next().await.unwrap(), message);
            }
            drop((reader, writer));
            echo.await;
        });
    }

    #[test]
    fn longer_messages_are_refused_on_both_sides() {
        block_on(async {
            let ((mut reader, mut writer), mut peer) = with_raw_peer().await;
            let long = vec![0; MESSAGE_BYTES_MAX + 1];
            assert_eq!(writer.send(&long).await.unwrap_err().kind(), io::ErrorKind::InvalidInput);
            writer.send(b"still open").await.unwrap();
            writer.flush().await.unwrap();
            assert_eq!(peer.read().unwrap().into_data(), &b"still open"[..]);
            peer.get_mut().write_all(&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 1]).unwrap();
            assert!(matches!(reader.next().await, Err(Ended::Protocol(_))));
            // Fragments do not help.
            let ((mut reader, _writer), mut peer) = with_raw_peer().await;
            peer.get_mut().write_all(&[0x02, 1, 0]).unwrap();
            let mut rest = vec![0x80, 127, 0, 0, 0, 0, 0, 1, 0, 0];
            rest.resize(10 + MESSAGE_BYTES_MAX, 0);
            peer.get_mut().write_all(&rest).unwrap();
            assert!(matches!(reader.next().await, Err(Ended::Protocol(_))));
        });
    }

    #[test]
    fn text_and_garbage_break_the_protocol() {
        for frame in [&[0x81, 2, b'h', b'i'][..], &[0x83, 0], &[0xc2, 0], &[0x80, 0], &[0x82, 0x80, 0, 0, 0, 0]] {
            block_on(async {
                let ((mut reader, _writer), mut peer) = with_raw_peer().await;
                peer.get_mut().write_all(frame).unwrap();
                assert!(matches!(reader.next().await, Err(Ended::Protocol(_))), "{frame:x?}");
            });
        }
    }

    #[test]
    fn pings_are_answered() {
        block_on(async {
            let ((mut reader, _writer), mut peer) = with_raw_peer().await;
            peer.send(Message::Ping(Bytes::from_static(b"are you there"))).unwrap();
            let pong = smol::unblock(move || (peer.read().unwrap(), peer));
            let reading = async { Err(reader.next().await) };
            let (pong, mut peer) = future::or(async { Ok(pong.await) }, reading).await.unwrap();
            assert_eq!(pong, Message::Pong(Bytes::from_static(b"are you there")));
            peer.send(Message::binary(&b"done"[..])).unwrap();
            assert_eq!(reader.next().await.unwrap(), &b"done"[..]);
        });
    }

    #[test]
    fn reset_and_sudden_end_are_told_from_a_close() {
        block_on(async {
            let ((mut reader, mut writer), peer) = with_raw_peer().await;
            socket2::SockRef::from(peer.get_ref()).set_linger(Some(Duration::ZERO)).unwrap();
            drop(peer);
            let Err(Ended::Reset(error)) = reader.next().await else { panic!("not reset") };
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            assert!(matches!(reader.next().await, Err(Ended::Closed(None))));
            assert!(async { writer.send(b"x").await.and(writer.flush().await) }.await.is_err());

            let ((mut reader, _writer), peer) = with_raw_peer().await;
            drop(peer);
            assert!(matches!(reader.next().await, Err(Ended::Reset(_))));
        });
    }

    #[test]
    fn close_arrives_behind_messages_and_before_unread_ones() {
        block_on(async {
            let (near, (mut far_reader, mut far_writer)) = pair().await;
            let (near_reader, mut near_writer) = near;
            // The near end never reads this, which must not cost the far end the code.
            far_writer.send(&[1; MESSAGE_BYTES_MAX]).await.unwrap();
            far_writer.flush().await.unwrap();
            near_writer.send(b"last words").await.unwrap();
            drop(near_reader);
            let far = async {
                assert_eq!(far_reader.next().await.unwrap(), &b"last words"[..]);
                assert!(matches!(far_reader.next().await, Err(Ended::Closed(Some(4001)))));
                drop((far_reader, far_writer));
            };
            let start = Instant::now();
            future::zip(near_writer.close(4001), far).await;
            assert!(start.elapsed() < CLOSE_PATIENCE, "the peer's end was not noticed");
        });
    }

    #[test]
    fn close_is_bounded_and_ends_a_waiting_reader() {
        block_on(async {
            let ((mut reader, mut writer), _far) = pair().await;
            fill(&mut writer).await;
            let (_, end) = future::zip(writer.close(1000), reader.next()).await;
            assert!(matches!(end, Err(Ended::Reset(_))));
        });
    }

    #[test]
    fn reading_goes_on_while_the_writer_is_stuck() {
        block_on(async {
            let ((mut reader, mut writer), (_far_reader, mut far_writer)) = pair().await;
            fill(&mut writer).await;
            let stuck = async { Err(writer.flush().await) };
            let reading = async {
                for round in 0..100_u8 {
                    far_writer.send(&[round; 1000]).await.unwrap();
                    far_writer.flush().await.unwrap();
                    assert_eq!(reader.next().await.unwrap(), &[round; 1000][..]);
                }
                Ok(())
            };
            future::or(stuck, reading).await.unwrap();
        });
    }

    #[test]
    fn stuck_flush_can_be_dropped_and_taken_up_again() {
        block_on(async {
            let ((_reader, mut writer), (mut far_reader, _far_writer)) = pair().await;
            fill(&mut writer).await;
            assert!(future::poll_once(writer.flush()).await.is_none());
            let finish = async {
                writer.flush().await.unwrap();
                writer.send(b"end").await.unwrap();
                writer.flush().await.unwrap();
            };
            let receive = async { while far_reader.next().await.unwrap() != b"end"[..] {} };
            future::zip(finish, receive).await;
        });
    }

    #[test]
    fn halves_work_in_different_tasks_under_pings() {
        block_on(async {
            let ((mut reader, mut writer), mut peer) = with_raw_peer().await;
            const ROUNDS: u32 = 400;
            let mut pinger = WebSocket::from_raw_socket(peer.get_ref().try_clone().unwrap(), Role::Server, None);
            let pings = smol::unblock(move || {
                for _ in 0..ROUNDS {
                    pinger.send(Message::Ping(Bytes::from_static(&[1; 100]))).unwrap();
                }
                pinger.send(Message::binary(&b"end"[..])).unwrap();
            });
            let reading = smol::spawn(async move { (reader.next().await.unwrap(), reader) });
            let writing = smol::spawn(async move {
                for _ in 0..ROUNDS {
                    writer.send(&[2; 50_000]).await.unwrap();
                    writer.flush().await.unwrap();
                }
                writer
            });
            let received = smol::unblock(move || {
                let mut bytes = 0;
                while bytes < ROUNDS as usize * 50_000 {
                    bytes += Some(peer.read().unwrap()).filter(Message::is_binary).map_or(0, |message| message.len());
                }
                peer
            });
            let _peer = received.await;
            pings.await;
            assert_eq!(reading.await.0, &b"end"[..]);
            writing.await;
        });
    }

    #[test]
    fn part_of_a_message_is_seen_to_arrive() {
        block_on(async {
            let ((mut reader, _writer), mut peer) = with_raw_peer().await;
            let arrived = reader.arrived();
            let before = arrived.load(Ordering::Relaxed);
            peer.get_mut().write_all(&[0x82, 126, 0x10, 0]).unwrap();
            peer.get_mut().write_all(&[5; 0xfff]).unwrap();
            while arrived.load(Ordering::Relaxed) < before + 4 + 0xfff {
                assert!(future::poll_once(reader.next()).await.is_none());
                future::yield_now().await;
            }
            peer.get_mut().write_all(&[5]).unwrap();
            assert_eq!(reader.next().await.unwrap(), &[5; 0x1000][..]);
        });
    }

    #[test]
    fn dropping_both_halves_closes() {
        block_on(async {
            let (near, mut peer) = with_raw_peer().await;
            peer.get_ref().set_nonblocking(true).unwrap();
            drop(near.0);
            assert_eq!(peer.get_mut().read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
            peer.get_ref().set_nonblocking(false).unwrap();
            drop(near.1);
            assert_eq!(peer.get_mut().read(&mut [0]).unwrap(), 0);
        });
    }
}
