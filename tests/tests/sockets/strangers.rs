//! Whoever else knocks at the port, and in whatever words

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rejoin_core::ids::Role;
use rejoin_core::wire::message::Outcome;
use rejoin_tests::{Rig, WORKERS, key, link, noise, run, shell};
use tungstenite::{Message, WebSocket};

/// Longest wait for the server to close
const PATIENCE: Duration = Duration::from_secs(20);

fn connect(to: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect(to).expect("a connection");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a socket");
    tcp
}

fn upgrade(to: SocketAddr) -> WebSocket<TcpStream> {
    tungstenite::client(format!("ws://{to}/v1/worker"), connect(to)).expect("an upgrade").0
}

/// Reads to the end, which must be the server's doing
fn until_closed(mut tcp: &TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    match tcp.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    answer
}

/// Says something as the first message over a link, which the server must close
fn say(to: SocketAddr, message: Message) {
    let mut link = upgrade(to);
    // It may be closed before all was said.
    let _ = link.send(message);
    until_closed(link.get_ref());
}

/// Everything a stranger may try; returns connections that stay open
fn try_everything(to: SocketAddr) -> Vec<TcpStream> {
    for request in [&b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01\r\n\r\n"]
    {
        let mut tcp = connect(to);
        tcp.write_all(request).expect("a request");
        let answer = until_closed(&tcp);
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"));
    }
    let mut health = connect(to);
    health.write_all(b"GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").expect("a request");
    assert!(until_closed(&health).starts_with(b"HTTP/1.1 200"));

    say(to, Message::binary(noise(300)));
    say(to, Message::binary(Vec::new()));
    say(to, Message::binary(noise(60_000)));
    say(to, Message::binary(noise(70_000)));
    say(to, Message::text("hello"));
    let mut raw = upgrade(to);
    // No frame has all bits of its first byte set.
    raw.get_mut().write_all(&[0xff; 64]).expect("bytes");
    until_closed(raw.get_ref());

    // Nobody closes these for now: idle ones, half a request, an open link without a word.
    let mut idle: Vec<TcpStream> = (0..200).map(|_| connect(to)).collect();
    let mut half = connect(to);
    half.write_all(b"GET /v1/worker HTTP/1.1\r\nHost: h\r\nUpgr").expect("half a request");
    idle.push(half);
    idle.extend((0..20).map(|_| upgrade(to).get_ref().try_clone().expect("a socket")));
    idle
}

#[test]
fn auth_5_strangers_change_nothing_while_a_job_is_done_beside_them() {
    run(async {
        let rig = Rig::start().await;
        let worker = rig.worker("w0", rig.address);
        worker.connected().await;
        let address = rig.address;
        let strangers = smol::unblock(move || try_everything(address));
        for n in 0..20 {
            assert_eq!(rig.done(&n.to_string(), &shell("sleep 0.01")).await.outcome, Outcome::Succeeded);
        }
        let _idle = strangers.await;
        assert_eq!(rig.done("among the idle", &shell("true")).await.outcome, Outcome::Succeeded);
        let stats = rig.overview().await.stats;
        assert_eq!((stats.opened, stats.resumed, stats.applied, stats.violations, stats.bad_tags), (1, 0, 21, 0, 0));
        assert!(stats.failed_handshakes >= 3, "{stats:?}");
        assert_eq!(worker.glance().stats.reconnections, 0);
    });
}

#[test]
fn every_spelling_of_the_url_leads_to_the_coordinator() {
    run(async {
        let rig = Rig::start().await;
        let port = rig.address.port();
        let spellings = [
            format!("127.0.0.1:{port}"),
            format!("ws://127.0.0.1:{port}"),
            format!("WS://127.0.0.1:{port}/"),
            format!("http://127.0.0.1:{port}/v1/worker"),
            format!("//127.0.0.1:{port}/v1/worker/"),
            format!("localhost:{port}"),
            format!("ws://LocalHost.:0{port}//v1//worker"),
            format!("127.0.0.1:{port}/%761/worker/"),
        ];
        for (name, spelling) in WORKERS.into_iter().zip(spellings) {
            let endpoint = spelling.parse().expect("a URL");
            let worker = rig.worker_with(link(key(name, Role::Worker), &endpoint), endpoint, |_| {});
            worker.connected().await;
        }
    });
}
