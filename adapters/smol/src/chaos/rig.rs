//! What the tests have in common: a proxy between two sockets, and moves to make with them

use std::future::Future;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener};
use std::time::Duration;

use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Async, Timer, future};

use super::random::Random;
use super::socket::Socket;
pub(super) use super::socket::within;
use super::{Fault, Kind, Profile, Proxy, Settings, Whom};

pub(super) const LOOPBACK: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// Longer than any test takes
pub(super) const HOUR: Duration = Duration::from_secs(3600);

/// A proxy, and the upstream behind it
pub(super) struct Rig {
    pub(super) proxy: Proxy,
    pub(super) upstream: Async<TcpListener>,
}

impl Rig {
    pub(super) async fn new(profile: Profile, seed: u64) -> Self {
        let upstream = Async::<TcpListener>::bind(LOOPBACK).expect("bind");
        let address = upstream.get_ref().local_addr().expect("address");
        let proxy = Proxy::start(LOOPBACK, address, profile, seed).await;
        Self { proxy: proxy.expect("start"), upstream }
    }

    /// One whose proxy remembers what was said
    pub(super) fn remembering() -> (Self, smol::Task<()>) {
        let upstream = Async::<TcpListener>::bind(LOOPBACK).expect("bind");
        let at = upstream.get_ref().local_addr().expect("address");
        let settings = Settings { remembers: true, ..Settings::of(Profile::Calm, 1) };
        let (proxy, serving) = Proxy::bind(LOOPBACK, at, settings).expect("a port");
        (Self { proxy, upstream }, smol::spawn(serving))
    }

    /// Both ends of a new link
    pub(super) async fn link(&self) -> (Socket, Socket) {
        let client = Socket::connect(self.proxy.local_addr()).await;
        let (server, _) = self.upstream.accept().await.expect("accept");
        (client.expect("connect"), server)
    }

    /// Both ends of a new link that something has gone through both ways
    pub(super) async fn open(&self) -> (Socket, Socket) {
        let (client, server) = self.link().await;
        assert_passes(&client, &server).await;
        (client, server)
    }

    pub(super) async fn until_empty(&self) {
        until(|| self.proxy.connections_now() == 0).await;
    }

    pub(super) async fn until_felt(&self, kind: Kind) {
        until(|| self.proxy.counts().felt(kind) > 0).await;
    }
}

/// A fault of the first connection that lasts
pub(super) fn fault(kind: Kind, amount: u64) -> Fault {
    Fault { whom: Whom::Place(0), amount, ..Fault::of_all(kind).lasting(HOUR) }
}

pub(super) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    smol::block_on(within(millis(60_000), test)).expect("the test hangs")
}

/// Runs a test with a calm proxy and both ends of its first link, which is open
pub(super) fn with_link(test: impl AsyncFnOnce(Rig, Socket, Socket)) {
    run(async {
        let rig = Rig::new(Profile::Calm, 1).await;
        let (client, server) = rig.open().await;
        test(rig, client, server).await;
    });
}

pub(super) async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        Timer::after(millis(2)).await;
    }
}

pub(super) async fn send(mut socket: &Socket, data: &[u8]) {
    socket.write_all(data).await.expect("write");
}

pub(super) async fn send_all(socket: &Socket, data: &[u8]) {
    send(socket, data).await;
    socket.get_ref().shutdown(Shutdown::Write).expect("shutdown");
}

pub(super) async fn receive_all(mut socket: &Socket) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    socket.read_to_end(&mut data).await.map(|_| data)
}

/// What the right and what the left receives when each sends all its data
pub(super) async fn swap(left: (&Socket, &[u8]), right: (&Socket, &[u8])) -> (Vec<u8>, Vec<u8>) {
    let sent = future::zip(send_all(left.0, left.1), send_all(right.0, right.1));
    let received = future::try_zip(receive_all(right.0), receive_all(left.0));
    future::zip(sent, received).await.1.expect("read")
}

pub(super) async fn read_some(mut socket: &Socket) -> [u8; 4] {
    let mut buffer = [0; 4];
    socket.read_exact(&mut buffer).await.expect("read");
    buffer
}

/// What is read within a while, if anything
pub(super) async fn read_soon(mut socket: &Socket) -> Option<io::Result<usize>> {
    within(millis(60), socket.read(&mut [0; 64])).await
}

pub(super) async fn assert_passes(client: &Socket, server: &Socket) {
    send(client, b"ping").await;
    assert_eq!(&read_some(server).await, b"ping");
    send(server, b"pong").await;
    assert_eq!(&read_some(client).await, b"pong");
}

pub(super) async fn assert_reset(socket: &Socket) {
    let error = receive_all(socket).await.expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

/// A reset shows while connecting, writing or reading, whichever comes first
pub(super) async fn assert_refuses(proxy: &Proxy) {
    let attempt = async {
        let client = Socket::connect(proxy.local_addr()).await?;
        (&client).write_all(b"hello").await?;
        receive_all(&client).await
    };
    let error = attempt.await.expect_err("a reset");
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
}

pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len).map(|_| random.next() as u8).collect()
}

/// Where two streams differ
pub(super) fn differences(left: &[u8], right: &[u8]) -> Vec<u64> {
    assert_eq!(left.len(), right.len());
    (0..).zip(left.iter().zip(right)).filter(|(_, (l, r))| l != r).map(|(at, _)| at).collect()
}
