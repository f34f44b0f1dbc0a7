//! The coordinator's one port: worker links and the health check over HTTP/1.1
//!
//! [`serve`] answers plain requests itself and hands on every connection that a
//! worker upgrades to a WebSocket. Anyone can reach the port, so every
//! connection is bounded in time, bytes and number until it is upgraded.

use std::convert::Infallible;
use std::future::ready;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_tungstenite::tungstenite::handshake::derive_accept_key;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode, Version};
use smol::channel::Sender;
use smol::io::AsyncWriteExt;
use smol::net::{TcpListener, TcpStream};
use smol::{Executor, Timer, future};
use smol_hyper::rt::{FuturesIo, SmolTimer};

use crate::greeting;
use crate::journal::lock;
use crate::tls::Certificate;
use crate::transport::{Socket, within};
use crate::url::WORKER_PATH;
use crate::wire::{Tcp, Wire};

/// Path of the health check
pub const HEALTH_PATH: &str = "/healthz";

/// Least buffer that hyper works with
const BUFFER_BYTES_MIN: usize = 8 * 1024;

/// Pause after the system had no means for another connection
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Longest wait for a client to take the last answer and close
const DRAIN_PATIENCE: Duration = Duration::from_secs(1);

/// What is said to connections beyond the limit, before they are read at all
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n\
    content-type: text/plain\r\ncontent-length: 21\r\n\r\ntoo many connections\n";

/// The first byte of a TLS handshake, with which no request begins
const TLS_RECORD: u8 = 0x16;

/// What is said to whoever speaks plain HTTP where TLS is spoken
const NO_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: text/plain\r\n\
    content-length: 50\r\n\r\nthis port speaks TLS only: use wss:// or https://\n";

/// Bounds for connections that are not upgraded yet
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Longest time for TLS to begin
    pub tls_timeout: Duration,
    /// Longest time for a request's header to arrive, and to idle between requests
    pub header_timeout: Duration,
    /// Most bytes of a request's header
    pub header_bytes_max: usize,
    /// Longest time for a connection to stay without an upgrade, busy or not
    pub plain_time_max: Duration,
    /// Most connections at one time; further ones are turned away
    pub connections_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            tls_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            header_bytes_max: 8 * 1024,
            plain_time_max: Duration::from_secs(60),
            connections_max: 1024,
        }
    }
}

/// Somebody who asks to be let in
#[derive(Clone, Debug)]
pub struct Visitor {
    /// Where the connection comes from
    pub address: SocketAddr,
    /// What only the two ends of the TLS connection can derive; none without TLS (AUTH-7)
    pub binding: Option<[u8; 32]>,
    /// The first message of its handshake, if that came with the upgrade (AUTH-9)
    pub hello: Option<Vec<u8>>,
}

/// What became of a connection that was admitted
#[derive(Debug)]
pub struct Upgraded<T> {
    /// The open WebSocket, unless the peer vanished before it was one
    pub socket: Option<Socket>,
    /// What admission gave it
    pub admitted: T,
}

/// Accepts connections, by TLS where there is a certificate, until dropped, or until nobody receives from `upgraded` any more
///
/// `admit` is asked for each valid upgrade before it is answered. Its error is the time after which the worker may
/// try again, and goes out as a 503 with `Retry-After`. Whatever it admits gets to `upgraded`, with or without a link.
/// What it gives beside that is the answer to the visitor's hello, for the response.
///
/// Dropping the future closes all connections but those that are upgraded.
///
/// # Errors
///
/// When the listener does not listen any more. Everything else is waited out.
pub async fn serve<A, T, F>(
    listener: TcpListener,
    limits: Limits,
    certificate: Option<Certificate>,
    admit: A,
    upgraded: Sender<Upgraded<T>>,
) -> io::Result<()>
where
    A: Fn(Visitor) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<(T, Option<Vec<u8>>), Duration>> + Send + 'static,
    T: Send + 'static,
{
    let open = Arc::new(());
    // Owns the connections' tasks, so that they end with this future.
    let executor = Executor::new();
    let accepting = async {
        loop {
            let (tcp, peer) = accept(&listener).await?;
            if Arc::strong_count(&open) > limits.connections_max {
                // To a peer that begins TLS these words would be noise.
                if certificate.is_none() {
                    turn_away(&tcp);
                }
            } else {
                let (slot, admit, upgraded) = (open.clone(), admit.clone(), upgraded.clone());
                let certificate = certificate.clone();
                let attended = async move {
                    if let Some(wire) = secure(tcp, limits, certificate).await {
                        let visitor = Visitor { address: peer, binding: wire.binding(), hello: None };
                        attend(wire, limits, Routes { admit, visitor, admitted: Arc::default() }, upgraded).await;
                    }
                    drop(slot);
                };
                executor.spawn(attended).detach();
            }
            // A flood of connections must not keep the accepted ones waiting.
            future::yield_now().await;
        }
    };
    let unwanted = async {
        upgraded.closed().await;
        Ok(())
    };
    executor.run(future::or(unwanted, accepting)).await
}

/// The next connection, however long the system cannot provide one
async fn accept(listener: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        match listener.accept().await {
            Err(error) => match pause(&error) {
                Some(pause) => Timer::after(pause).await,
                None => return Err(error),
            },
            accepted => return accepted,
        };
    }
}

/// How long to wait after a failed accept, unless it will fail for ever
fn pause(error: &io::Error) -> Option<Duration> {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, InvalidInput};
    let kind = error.kind();
    if kind == InvalidInput {
        None
    } else if [ConnectionAborted, ConnectionReset, Interrupted].contains(&kind) {
        // Only this one connection is concerned, and it is gone from the queue.
        Some(Duration::ZERO)
    } else {
        // Most often there are no descriptors or no memory left, and trying at once would spin.
        Some(ACCEPT_PAUSE)
    }
}

/// Answers in one write that the empty buffer of a new connection is sure to take
fn turn_away(tcp: &TcpStream) {
    let tcp = Arc::from(tcp.clone());
    let mut tcp: &std::net::TcpStream = smol::Async::get_ref(&tcp);
    tcp.write_all(BUSY).ok();
}

/// Begins TLS, where there is a certificate; none if nothing comes of it
async fn secure(tcp: TcpStream, limits: Limits, certificate: Option<Certificate>) -> Option<Wire> {
    let mut tcp = Tcp::new(tcp.into()).ok()?;
    let Some(certificate) = certificate else { return Some(Wire::plain(tcp)) };
    let secured = async {
        if tcp.first_byte().await.ok()?? == TLS_RECORD {
            return certificate.accept(tcp).await.ok();
        }
        tcp.write_all(NO_TLS).await.ok()?;
        within(DRAIN_PATIENCE, tcp.drain()).await;
        None
    };
    within(limits.tls_timeout, secured).await.flatten()
}

async fn attend<A, T, F>(wire: Wire, limits: Limits, routes: Routes<A, T>, upgraded: Sender<Upgraded<T>>)
where
    A: Fn(Visitor) -> F + Clone + Send + 'static,
    F: Future<Output = Result<(T, Option<Vec<u8>>), Duration>> + Send + 'static,
    T: Send + 'static,
{
    let admitted = routes.admitted.clone();
    let http = http1::Builder::new()
        .timer(SmolTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(limits.header_bytes_max)
        .max_buf_size(limits.header_bytes_max.max(BUFFER_BYTES_MIN))
        .serve_connection(FuturesIo::new(wire.clone()), routes);
    let served = within(limits.plain_time_max, http.without_shutdown()).await;
    let admitted = lock(&admitted).take();
    match (served, admitted) {
        (Some(Ok(parts)), Some(admitted)) => {
            let socket = Some(Socket::accepted(wire, parts.read_buf.into()).await);
            upgraded.send(Upgraded { socket, admitted }).await.ok();
        }
        (_, Some(admitted)) => {
            upgraded.send(Upgraded { socket: None, admitted }).await.ok();
        }
        // Closing with unread bytes would make the system destroy the last answer on its way.
        (_, None) => {
            within(DRAIN_PATIENCE, wire.drain()).await;
        }
    }
}

/// The answers to one connection's requests
struct Routes<A, T> {
    admit: A,
    visitor: Visitor,
    /// What admission gave, once the upgrade has been answered
    admitted: Arc<Mutex<Option<T>>>,
}

impl<A, T, F> Service<Request<Incoming>> for Routes<A, T>
where
    A: Fn(Visitor) -> F + Clone + Send + 'static,
    F: Future<Output = Result<(T, Option<Vec<u8>>), Duration>> + Send + 'static,
    T: Send + 'static,
{
    type Response = Response<Line>;
    type Error = Infallible;
    type Future = future::Boxed<Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let path = request.uri().path();
        let answer = match path.strip_suffix('/').unwrap_or(path) {
            WORKER_PATH => match accept_key(&request) {
                Ok(accept) => return self.upgrade(accept, greeting::decode(request.headers(), greeting::HELLO)),
                Err(refusal) => refusal.answer(),
            },
            HEALTH_PATH => health(request.method()),
            _ => plain(StatusCode::NOT_FOUND, "nothing is here: check the path\n"),
        };
        Box::pin(ready(Ok(answer)))
    }
}

impl<A, T, F> Routes<A, T>
where
    A: Fn(Visitor) -> F + Clone + Send + 'static,
    F: Future<Output = Result<(T, Option<Vec<u8>>), Duration>> + Send + 'static,
    T: Send + 'static,
{
    fn upgrade(
        &self,
        accept: HeaderValue,
        hello: Option<Vec<u8>>,
    ) -> future::Boxed<Result<Response<Line>, Infallible>> {
        let (admit, slot) = (self.admit.clone(), self.admitted.clone());
        let visitor = Visitor { hello, ..self.visitor.clone() };
        Box::pin(async move {
            Ok(match admit(visitor).await {
                Ok((admitted, challenge)) => {
                    *lock(&slot) = Some(admitted);
                    let answer = answer(StatusCode::SWITCHING_PROTOCOLS, "");
                    let answer = with(offer_websocket(answer), header::SEC_WEBSOCKET_ACCEPT, accept);
                    match challenge.as_deref().and_then(greeting::encode) {
                        Some(challenge) => with(answer, greeting::CHALLENGE, challenge),
                        None => answer,
                    }
                }
                Err(wait) => {
                    let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                    let busy = plain(StatusCode::SERVICE_UNAVAILABLE, "no link is taken now: retry later\n");
                    with(busy, header::RETRY_AFTER, HeaderValue::from(seconds.max(1)))
                }
            })
        })
    }
}

fn health(method: &Method) -> Response<Line> {
    if [Method::GET, Method::HEAD].contains(method) { plain(StatusCode::OK, "ok\n") } else { not_allowed("GET, HEAD") }
}

/// The proof that the upgrade in `request` was understood
fn accept_key(request: &Request<Incoming>) -> Result<HeaderValue, Refusal> {
    if request.method() != Method::GET {
        return Err(Refusal::Method);
    }
    let upgrades = request.version() == Version::HTTP_11
        && lists(request, header::CONNECTION, "upgrade")
        && lists(request, header::UPGRADE, "websocket");
    if !upgrades {
        return Err(Refusal::NoUpgrade);
    }
    if request.headers().get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != VERSION) {
        return Err(Refusal::Version);
    }
    // It would be taken for the first messages.
    if !request.body().is_end_stream() {
        return Err(Refusal::Body);
    }
    let key = request.headers().get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes);
    let accept = key.filter(|key| is_key(key)).map(derive_accept_key).ok_or(Refusal::Key)?;
    HeaderValue::try_from(accept).map_err(|_| Refusal::Key)
}

/// The one version of the WebSocket protocol
const VERSION: &str = "13";

/// Why a request is no valid upgrade
enum Refusal {
    Method,
    NoUpgrade,
    Version,
    Body,
    Key,
}

impl Refusal {
    fn answer(self) -> Response<Line> {
        match self {
            Self::Method => not_allowed("GET"),
            Self::NoUpgrade => {
                offer_websocket(plain(StatusCode::UPGRADE_REQUIRED, "only WebSocket upgrades are taken here\n"))
            }
            Self::Version => {
                let required = plain(StatusCode::UPGRADE_REQUIRED, "only WebSocket version 13 is taken here\n");
                let version = HeaderValue::from_static(VERSION);
                with(offer_websocket(required), header::SEC_WEBSOCKET_VERSION, version)
            }
            Self::Body => plain(StatusCode::BAD_REQUEST, "an upgrade has no body\n"),
            Self::Key => plain(StatusCode::BAD_REQUEST, "the Sec-WebSocket-Key is missing or invalid\n"),
        }
    }
}

/// Whether the comma-separated lists under `name` hold `token`, in any case
fn lists(request: &Request<Incoming>, name: HeaderName, token: &str) -> bool {
    let lines = request.headers().get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

/// Whether these are 16 bytes in base64
fn is_key(key: &[u8]) -> bool {
    let is_digit = |c: &u8| c.is_ascii_alphanumeric() || b"+/".contains(c);
    key.strip_suffix(b"==").is_some_and(|digits| digits.len() == 22 && digits.iter().all(is_digit))
}

fn not_allowed(methods: &'static str) -> Response<Line> {
    let refusal = plain(StatusCode::METHOD_NOT_ALLOWED, "this path does not take the method\n");
    with(refusal, header::ALLOW, HeaderValue::from_static(methods))
}

fn offer_websocket(answer: Response<Line>) -> Response<Line> {
    let answer = with(answer, header::CONNECTION, HeaderValue::from_static("upgrade"));
    with(answer, header::UPGRADE, HeaderValue::from_static("websocket"))
}

fn plain(status: StatusCode, line: &'static str) -> Response<Line> {
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    with(answer(status, line), header::CONTENT_TYPE, text)
}

fn answer(status: StatusCode, line: &'static str) -> Response<Line> {
    let mut answer = Response::new(Line(line));
    *answer.status_mut() = status;
    answer
}

fn with(mut answer: Response<Line>, name: HeaderName, value: HeaderValue) -> Response<Line> {
    answer.headers_mut().insert(name, value);
    answer
}

/// A body of one line, or of nothing
struct Line(&'static str);

impl Body for Line {
    type Data = &'static [u8];
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<&'static [u8]>, Infallible>>> {
        let line = std::mem::take(&mut self.get_mut().0);
        Poll::Ready((!line.is_empty()).then(|| Ok(Frame::data(line.as_bytes()))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dial::{DialError, dial};
    use crate::tls::Trust;
    use smol::channel::{self, Receiver};
    use smol::io::AsyncReadExt;
    use std::sync::atomic::{AtomicBool, Ordering};

    const UPGRADE: &str = "GET /v1/worker HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\n\
        Upgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    type Serving = future::Boxed<io::Result<()>>;

    async fn serving<A>(limits: Limits, admit: A) -> (SocketAddr, Receiver<Upgraded<()>>, Serving)
    where
        A: Fn(SocketAddr) -> Result<(), Duration> + Clone + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (upgraded, links) = channel::unbounded();
        let admit = move |visitor: Visitor| ready(admit(visitor.address).map(|()| ((), None)));
        (address, links, Box::pin(serve(listener, limits, None, admit, upgraded)))
    }

    /// Runs `client` beside a server, and fails when that takes too long
    fn with_server<T, F: Future<Output = T>>(
        limits: Limits,
        client: impl FnOnce(SocketAddr, Receiver<Upgraded<()>>) -> F,
    ) -> T {
        let all = async {
            let (address, links, server) = serving(limits, |_| Ok(())).await;
            let stopped = async { panic!("serve ended: {:?}", server.await) };
            future::or(client(address, links.clone()), stopped).await
        };
        smol::block_on(within(Duration::from_secs(20), all)).expect("the test hangs")
    }

    /// All that the server answers to `request` until it closes
    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut tcp = TcpStream::connect(address).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await.unwrap();
        answer.to_ascii_lowercase()
    }

    async fn asked_with(address: SocketAddr, from: &str, to: &str) -> String {
        let request = UPGRADE.replace(from, to);
        ask(address, &request.replace("keep-alive", "close")).await
    }

    #[test]
    fn every_route_has_its_answer() {
        let plain = |line: &str| format!("{line} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let table = [
            ("GET /healthz", "200 ok", "\r\n\r\nok\n"),
            ("GET /healthz/?x=1", "200 ok", "\r\n\r\nok\n"),
            ("HEAD /healthz", "200 ok", "content-length: 3\r\n"),
            ("POST /healthz", "405 ", "allow: get, head\r\n"),
            ("GET /v1/worker", "426 ", "upgrade: websocket\r\n"),
            ("GET /v1/worker/", "426 ", "connection: upgrade"),
            ("POST /v1/worker", "405 ", "allow: get\r\n"),
            ("GET /v1/worker//", "404 ", "nothing is here"),
            ("GET /v1/worker/x", "404 ", "content-type: text/plain"),
            ("GET /V1/worker", "404 ", ""),
            ("GET /", "404 ", ""),
            ("OPTIONS *", "404 ", ""),
        ];
        with_server(Limits::default(), |address, _links| async move {
            for (line, status, part) in table {
                let answer = ask(address, &plain(line)).await;
                assert!(answer.starts_with(&format!("http/1.1 {status}")), "{line}: {answer}");
                assert!(answer.contains(part), "{line}: {answer}");
                assert_eq!(answer.ends_with("\r\n\r\n"), line.starts_with("HEAD"), "{line}: {answer}");
            }
        });
    }

    #[test]
    fn wrong_upgrades_are_told_why() {
        let table = [
            ("Version: 13", "Version: 8", "426 ", "sec-websocket-version: 13\r\n"),
            ("Sec-WebSocket-Version: 13\r\n", "", "426 ", "sec-websocket-version: 13\r\n"),
            ("Sec-WebSocket-Key", "X-Key", "400 ", "sec-websocket-key"),
            ("dGhl", "", "400 ", "sec-websocket-key"),
            ("Host: h", "Host: h\r\nContent-Length: 2", "400 ", "no body"),
            (", Upgrade", "", "426 ", "only websocket upgrades"),
            ("WebSocket\r\n", "h2c\r\n", "426 ", "only websocket upgrades"),
            ("HTTP/1.1", "HTTP/1.0", "426 ", "only websocket upgrades"),
        ];
        with_server(Limits::default(), |address, _links| async move {
            for (from, to, status, part) in table {
                let answer = asked_with(address, from, to).await;
                assert!(answer.split_at(9).1.starts_with(status), "{to}: {answer}");
                assert!(answer.contains(part), "{to}: {answer}");
            }
        });
    }

    #[test]
    fn upgrade_keeps_what_was_sent_ahead() {
        with_server(Limits::default(), |address, links| async move {
            let mut tcp = TcpStream::connect(address).await.unwrap();
            tcp.write_all(UPGRADE.as_bytes()).await.unwrap();
            tcp.write_all(&[0x82, 0x82, 0, 0, 0, 0, 7, 8]).await.unwrap();
            let upgraded = links.recv().await.unwrap();
            let (mut reader, _writer) = upgraded.socket.unwrap().split();
            assert_eq!(reader.next().await.unwrap(), &[7, 8][..]);
            let mut answer = vec![0; 512];
            let count = tcp.read(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
            assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
            // The example of RFC 6455.
            assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{answer}");
        });
    }

    #[test]
    fn plain_connections_are_bounded() {
        let short = Duration::from_millis(50);
        let limits = Limits { header_timeout: short, ..Limits::default() };
        with_server(limits, |address, _links| async move {
            // Each of these must be closed by the server, for `ask` waits for the end.
            ask(address, "").await;
            ask(address, "GET /healthz HT").await;
            let idle = ask(address, "GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").await;
            assert!(idle.ends_with("ok\n"), "{idle}");
            let garbage = ask(address, "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n").await;
            assert!(garbage.is_empty() || garbage.starts_with("http/1.1 400 "), "{garbage}");
            let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(9000));
            let long = ask(address, &long).await;
            assert!(long.starts_with("http/1.1 431 "), "{long}");
        });
        let limits = Limits { plain_time_max: short, ..Limits::default() };
        with_server(limits, |address, _links| async move { ask(address, "GET /").await });
    }

    #[test]
    fn connections_beyond_the_limit_are_turned_away() {
        let limits = Limits { connections_max: 1, ..Limits::default() };
        with_server(limits, |address, links| async move {
            let mut first = TcpStream::connect(address).await.unwrap();
            let answer = ask(address, "").await;
            assert!(answer.starts_with("http/1.1 503 ") && answer.ends_with("too many connections\n"), "{answer}");
            // An upgraded link counts no more.
            first.write_all(UPGRADE.as_bytes()).await.unwrap();
            let _link = links.recv().await.unwrap();
            while !ask(address, "GET / HTTP/1.0\r\n\r\n").await.starts_with("http/1.0 404") {}
        });
    }

    #[test]
    fn refused_worker_learns_when_to_retry() {
        let waits = [(0, 0, 1), (1, 0, 1), (1, 1, 2), (90, 999_999_999, 91)];
        let all = async {
            for (seconds, nanos, told) in waits {
                let wait = Duration::new(seconds, nanos);
                let (address, _links, server) = serving(Limits::default(), move |_| Err(wait)).await;
                let endpoint = format!("ws://{address}").parse().unwrap();
                let dialled = async { Ok(dial(&endpoint, &Trust::system(), Duration::from_secs(20)).await) };
                let ended = async { Err(server.await) };
                let error = future::or(dialled, ended).await.unwrap().unwrap_err();
                let told = Some(Duration::from_secs(told));
                assert!(
                    matches!(error, DialError::Http { status: 503, retry_after } if retry_after == told),
                    "{error}"
                );
            }
        };
        smol::block_on(all);
    }

    #[test]
    fn dropping_serve_closes_all_but_links() {
        let all = async {
            let (address, links, server) = serving(Limits::default(), |_| Ok(())).await;
            let server = smol::spawn(server);
            let mut plain = TcpStream::connect(address).await.unwrap();
            let endpoint = format!("ws://{address}").parse().unwrap();
            let (mut reader, _writer) =
                dial(&endpoint, &Trust::system(), Duration::from_secs(20)).await.unwrap().split();
            let (_far, mut far) = links.recv().await.unwrap().socket.unwrap().split();
            server.cancel().await;
            assert!(plain.read(&mut [0]).await.is_ok_and(|count| count == 0));
            far.send(b"still here").await.unwrap();
            far.flush().await.unwrap();
            assert_eq!(reader.next().await.unwrap(), &b"still here"[..]);
        };
        smol::block_on(within(Duration::from_secs(20), all)).expect("the test hangs");
    }

    #[test]
    fn serve_ends_with_its_receiver() {
        let all = async {
            let (_, links, server) = serving(Limits::default(), |_| Ok(())).await;
            drop(links);
            server.await
        };
        smol::block_on(within(Duration::from_secs(20), all)).expect("the test hangs").unwrap();
    }

    #[test]
    fn failed_accepts_are_waited_out() {
        let failing = |error: i32| pause(&io::Error::from_raw_os_error(error));
        // EMFILE, ENFILE and ENOMEM; then ECONNABORTED; then EINVAL.
        assert!([24, 23, 12].iter().all(|error| failing(*error) == Some(ACCEPT_PAUSE)));
        assert_eq!(pause(&io::ErrorKind::ConnectionAborted.into()), Some(Duration::ZERO));
        assert_eq!(failing(22), None);
    }

    #[test]
    fn admit_is_asked_for_valid_upgrades_only() {
        let asked = Arc::new(AtomicBool::new(false));
        let ask_me = asked.clone();
        let all = async {
            let (address, _links, server) = serving(Limits::default(), move |_| {
                ask_me.store(true, Ordering::SeqCst);
                Err(Duration::ZERO)
            })
            .await;
            let client = async {
                asked_with(address, "Version: 13", "Version: 8").await;
                assert!(!asked.load(Ordering::SeqCst));
                asked_with(address, "", "").await
            };
            let ended = async { panic!("serve ended: {:?}", server.await) };
            let answer = future::or(client, ended).await;
            assert!(answer.starts_with("http/1.1 503 ") && answer.contains("retry-after: 1\r\n"), "{answer}");
        };
        smol::block_on(within(Duration::from_secs(20), all)).expect("the test hangs");
    }
}
