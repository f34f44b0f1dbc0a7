//! Opening a link to the coordinator

use std::error::Error;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_tungstenite::tungstenite::Error as WsError;
use async_tungstenite::tungstenite::client::IntoClientRequest;
use async_tungstenite::tungstenite::error::ProtocolError;
use async_tungstenite::tungstenite::http::{HeaderMap, header::RETRY_AFTER};
use smol::{Async, net};

use crate::greeting;
use crate::tls::{TlsError, Trust};
use crate::transport::{Socket, config, cut_off, within};
use crate::url::Endpoint;
use crate::wire::{Tcp, Wire};

/// Connects to the coordinator, by TLS where the endpoint says so, and upgrades to a WebSocket, within `timeout` for all of it
///
/// All addresses of the host are tried in turn, each with an equal share of the time that is
/// left, so that one address that swallows packets does not cost the link.
///
/// # Errors
///
/// See [`DialError`], whose message says what to do.
pub async fn dial(endpoint: &Endpoint, trust: &Trust, timeout: Duration) -> Result<Socket, DialError> {
    let upgraded = async { open(endpoint, trust, timeout).await?.upgrade(None, timeout).await };
    within(timeout, upgraded).await.unwrap_or(Err(DialError::TimedOut)).map(|upgraded| upgraded.socket)
}

/// Connects to the coordinator, by TLS where the endpoint says so, within `timeout` for all of it
///
/// # Errors
///
/// See [`DialError`], whose message says what to do.
pub async fn open(endpoint: &Endpoint, trust: &Trust, timeout: Duration) -> Result<Opened, DialError> {
    let opened = async {
        let tcp = connect(endpoint, timeout).await?;
        Ok(match endpoint.is_tls() {
            true => trust.connect(endpoint.host(), tcp).await.map_err(DialError::Tls)?,
            false => Wire::plain(tcp),
        })
    };
    let wire = within(timeout, opened).await.unwrap_or(Err(DialError::TimedOut))?;
    Ok(Opened { endpoint: endpoint.clone(), wire })
}

/// A connection that is no WebSocket yet; dropping it closes it
#[derive(Debug)]
pub struct Opened {
    endpoint: Endpoint,
    wire: Wire,
}

/// A WebSocket, and what came with it
#[derive(Debug)]
pub struct Upgraded {
    /// The open WebSocket
    pub socket: Socket,
    /// What the coordinator answered to a hello, unless the hello or the answer was lost on the way (AUTH-9)
    pub challenge: Option<Vec<u8>>,
}

impl Opened {
    /// What only the two ends of the TLS connection can derive; none without TLS (AUTH-7)
    pub fn binding(&self) -> Option<[u8; 32]> {
        self.wire.binding()
    }

    /// Upgrades to a WebSocket, within `timeout`; a hello goes along, if it is not too long (AUTH-9)
    ///
    /// # Errors
    ///
    /// See [`DialError`], whose message says what to do.
    pub async fn upgrade(self, hello: Option<&[u8]>, timeout: Duration) -> Result<Upgraded, DialError> {
        let Self { endpoint, wire } = self;
        within(timeout, upgrade(&endpoint, wire, hello)).await.unwrap_or(Err(DialError::TimedOut))
    }
}

async fn connect(endpoint: &Endpoint, timeout: Duration) -> Result<Tcp, DialError> {
    let start = Instant::now();
    let host = (endpoint.host(), endpoint.port());
    let addresses = fit(endpoint, net::resolve(host).await.map_err(DialError::Resolve)?);
    let mut failure = DialError::Resolve(io::Error::other("the name has no address"));
    for (address, shares) in addresses.iter().zip((1..=addresses.len()).rev()) {
        let left = timeout.saturating_sub(start.elapsed());
        let share = left / u32::try_from(shares).unwrap_or(u32::MAX);
        match within(share, Async::<TcpStream>::connect(*address)).await {
            Some(Ok(tcp)) => return Tcp::new(Arc::new(tcp)).map_err(DialError::Io),
            Some(Err(error)) => failure = DialError::Io(error),
            None => failure = DialError::TimedOut,
        }
    }
    Err(failure)
}

/// The addresses that may be dialled
///
/// Where a name alone makes an endpoint fit for a plain link, no name server may lead it to another host (AUTH-7).
fn fit(endpoint: &Endpoint, mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    if !endpoint.is_tls() && endpoint.is_loopback() {
        addresses.retain(|address| address.ip().to_canonical().is_loopback());
    }
    addresses
}

async fn upgrade(endpoint: &Endpoint, wire: Wire, hello: Option<&[u8]>) -> Result<Upgraded, DialError> {
    // TLS, if there is any, is beneath.
    let url = format!("ws://{}{}", endpoint.authority(), endpoint.path());
    let mut request = url.into_client_request().map_err(DialError::from_handshake)?;
    if let Some(hello) = hello.and_then(greeting::encode) {
        request.headers_mut().insert(greeting::HELLO, hello);
    }
    match async_tungstenite::client_async_with_config(request, wire.clone(), Some(config())).await {
        Ok((ws, answer)) => {
            let challenge = greeting::decode(answer.headers(), greeting::CHALLENGE);
            Ok(Upgraded { socket: Socket { ws, wire }, challenge })
        }
        Err(error) => Err(DialError::from_handshake(error)),
    }
}

/// Why there is no link to the coordinator
#[derive(Debug)]
#[non_exhaustive]
pub enum DialError {
    /// The host name has no address, or cannot be looked up now
    Resolve(io::Error),
    /// The connection was refused or broke before the upgrade was done
    Io(io::Error),
    /// Not connected and upgraded in the given time
    TimedOut,
    /// The server answered, but not with an upgrade
    Http {
        /// The answer's status, such as 503
        status: u16,
        /// How long the server asks to wait before the next try
        retry_after: Option<Duration>,
    },
    /// The answer is no valid upgrade to a WebSocket
    NotWebSocket,
    /// The endpoint asks for TLS, and there is none to be had
    Tls(TlsError),
}

impl DialError {
    fn from_handshake(error: WsError) -> Self {
        match error {
            WsError::Io(error) => Self::Io(error),
            WsError::Http(answer) => {
                Self::Http { status: answer.status().as_u16(), retry_after: retry_after(answer.headers()) }
            }
            // A link that broke half-way, or one that crawls, says nothing about the server.
            WsError::Protocol(ProtocolError::HandshakeIncomplete) => Self::Io(cut_off()),
            WsError::AttackAttempt => Self::Io(io::Error::other("the answer came in too many pieces")),
            WsError::Protocol(_)
            | WsError::Capacity(_)
            | WsError::Utf8(_)
            | WsError::HttpFormat(_)
            | WsError::Url(_)
            | WsError::Tls(_)
            | WsError::WriteBufferFull(_)
            | WsError::ConnectionClosed
            | WsError::AlreadyClosed => Self::NotWebSocket,
        }
    }
}

/// The wait in seconds; a date is left aside, since it would need clocks that agree
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u32 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.into()))
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve(error) => write!(f, "cannot look up the host ({error}): check the URL's host and DNS"),
            Self::Io(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                f.write_str("nothing listens there: start the coordinator, or check the URL's host and port")
            }
            Self::Io(error) => write!(f, "the connection failed ({error}): check the network, then retry"),
            Self::TimedOut => f.write_str("no answer in time: check the network, firewalls and the URL's host"),
            Self::Http { status: 404, .. } => {
                f.write_str("the server has no coordinator at this path (404): check the URL's path and port")
            }
            Self::Http { status: 400, .. } => f.write_str(
                "the server cannot read the request (400): use wss:// if it speaks TLS, else check the URL's port",
            ),
            Self::Http { status: 503, retry_after: Some(wait) } => {
                write!(f, "the coordinator takes no link now (503): retry in {} s", wait.as_secs())
            }
            Self::Http { status: status @ (429 | 500..=599), .. } => {
                write!(f, "the server takes no link now ({status}): retry later")
            }
            Self::Http { status, .. } => {
                write!(f, "the server refused the upgrade ({status}): check the URL and the proxies before it")
            }
            Self::NotWebSocket => {
                f.write_str("the answer is no WebSocket upgrade: check the URL and that proxies pass upgrades on")
            }
            Self::Tls(error) => error.fmt(f),
        }
    }
}

impl Error for DialError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Resolve(error) | Self::Io(error) => Some(error),
            Self::Tls(error) => Some(error),
            Self::TimedOut | Self::Http { .. } | Self::NotWebSocket => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::tests::{PATIENCE, block_on, listen};
    use smol::future;
    use std::io::{Read, Write};

    /// What becomes of a dial whose request is answered with `answer`
    async fn answered_with(answer: &'static str) -> DialError {
        let (listener, endpoint) = listen();
        let answering = smol::unblock(move || {
            let (mut tcp, _) = listener.accept().unwrap();
            assert!(tcp.read(&mut [0; 4096]).unwrap() > 0);
            tcp.write_all(answer.as_bytes()).unwrap();
        });
        future::zip(dial(&endpoint, &Trust::system(), PATIENCE), answering).await.0.unwrap_err()
    }

    #[test]
    fn auth_7_a_plain_link_to_this_machine_leads_nowhere_else() {
        let all = ["10.0.0.1:1", "127.0.0.2:1", "[::1]:1", "[fe80::1]:1"].map(|at| at.parse().unwrap());
        let fit = |url: &str| fit(&url.parse().unwrap(), all.to_vec());
        assert_eq!(fit("ws://localhost:1"), all[1..3]);
        assert_eq!(fit("ws://a.localhost:1"), all[1..3]);
        assert_eq!(fit("wss://localhost:1"), all, "its certificate says who it is");
        assert_eq!(fit("ws://box:1"), all, "it was asked for");
    }

    #[test]
    fn failed_dials_say_what_to_do() {
        block_on(async {
            let (listener, endpoint) = listen();
            let silent = dial(&endpoint, &Trust::system(), Duration::from_millis(50)).await;
            assert!(matches!(silent, Err(DialError::TimedOut)));
            drop(listener);
            let Err(DialError::Io(refused)) = dial(&endpoint, &Trust::system(), PATIENCE).await else {
                panic!("not refused")
            };
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);

            let cut = answered_with("HTTP/1.1 101 ").await;
            assert!(matches!(cut, DialError::Io(_)), "{cut:?}");
            let other = answered_with("SSH-2.0-x\r\n\r\n").await;
            assert!(matches!(other, DialError::NotWebSocket), "{other:?}");
            let unproven = answered_with("HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n").await;
            assert!(matches!(unproven, DialError::NotWebSocket), "{unproven:?}");
            let dated = answered_with("HTTP/1.1 503 x\r\nRetry-After: Fri, 31 Dec 1999 23:59:59 GMT\r\n\r\n").await;
            assert!(matches!(dated, DialError::Http { status: 503, retry_after: None }), "{dated:?}");
        });
    }
}
