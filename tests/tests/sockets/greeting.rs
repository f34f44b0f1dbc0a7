//! The first messages as headers of the upgrade, and what proxies make of headers (AUTH-9)

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rejoin_core::ids::Role;
use rejoin_core::wire::message::Outcome;
use rejoin_tests::{LOOPBACK, LocalWorker, Rig, endpoint, key, link, run, shell};
use smol::future;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::net::{TcpListener, TcpStream};

/// A proxy that may change heads of requests and responses, and passes on everything behind them
struct Meddler {
    address: SocketAddr,
    /// The heads that came, as they were: request, then response, for each connection
    heads: Arc<Mutex<Vec<[String; 2]>>>,
    _running: smol::Task<()>,
}

/// Makes a request or a response out of itself and of the first one that came
type Change = fn(&str, &str) -> String;

const AS_IT_IS: Change = |head, _| head.to_owned();
const WITHOUT: Change = |head, _| lines(head, |line| !is_ours(line)).concat();
const TWICE: Change = |head, _| {
    let all = lines(head, |_| true);
    all.iter().map(|line| if is_ours(line) { line.repeat(2) } else { line.clone() }).collect()
};
const SPOILT: Change = |head, _| {
    let all = lines(head, |_| true);
    all.iter().map(|line| if is_ours(line) { line.replacen(": ", ": AAAA", 1) } else { line.clone() }).collect()
};
const OLD: Change = |head, first| {
    let old = lines(first, is_ours).concat();
    lines(head, |_| true).iter().map(|line| if is_ours(line) { old.clone() } else { line.clone() }).collect()
};

fn is_ours(line: &str) -> bool {
    line.to_ascii_lowercase().starts_with("rejoin-")
}

fn lines(head: &str, wanted: fn(&str) -> bool) -> Vec<String> {
    head.split_inclusive("\r\n").filter(|line| wanted(line)).map(str::to_owned).collect()
}

impl Meddler {
    /// Leaves the first `spared` connections alone
    async fn start(to: SocketAddr, spared: usize, request: Change, response: Change) -> Meddler {
        let listener = TcpListener::bind(LOOPBACK).await.expect("a listener");
        let address = listener.local_addr().expect("an address");
        let heads: Arc<Mutex<Vec<[String; 2]>>> = Arc::default();
        let told = heads.clone();
        let running = smol::spawn(async move {
            let mut links = Vec::new();
            loop {
                let (near, _) = listener.accept().await.expect("a connection");
                let told = told.clone();
                links.push(smol::spawn(async move { pass(near, to, spared, request, response, &told).await }));
            }
        });
        Meddler { address, heads, _running: running }
    }

    fn heads(&self) -> Vec<[String; 2]> {
        self.heads.lock().expect("nobody panicked").clone()
    }
}

async fn pass(
    mut near: TcpStream,
    to: SocketAddr,
    spared: usize,
    request: Change,
    response: Change,
    told: &Mutex<Vec<[String; 2]>>,
) -> Option<()> {
    let mut far = TcpStream::connect(to).await.ok()?;
    let asked = head(&mut near).await?;
    let number = {
        let mut told = told.lock().expect("nobody panicked");
        told.push([asked.clone(), String::new()]);
        told.len() - 1
    };
    let first = |part: usize| told.lock().expect("nobody panicked")[0][part].clone();
    let sent = if number < spared { asked } else { request(&asked, &first(0)) };
    far.write_all(sent.as_bytes()).await.ok()?;
    let answered = head(&mut far).await?;
    told.lock().expect("nobody panicked")[number][1] = answered.clone();
    let sent = if number < spared { answered } else { response(&answered, &first(1)) };
    near.write_all(sent.as_bytes()).await.ok()?;
    let up = smol::io::copy(near.clone(), far.clone());
    let down = smol::io::copy(far.clone(), near.clone());
    future::or(up, down).await.ok().map(drop)
}

/// Reads a head to its end, and nothing behind it
async fn head(from: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        from.read_exact(&mut byte).await.ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

fn worker(rig: &Rig, via: SocketAddr) -> LocalWorker {
    rig.worker_with(link(key("w0", Role::Worker), &endpoint(via)), endpoint(via), |_| {})
}

fn has(head: &str, name: &str) -> bool {
    head.to_ascii_lowercase().contains(&format!("\r\n{name}: "))
}

#[test]
fn auth_9_the_first_two_messages_travel_with_the_upgrade() {
    run(async {
        let rig = Rig::start().await;
        let between = Meddler::start(rig.address, 0, AS_IT_IS, AS_IT_IS).await;
        let worker = worker(&rig, between.address);
        worker.connected().await;
        let [request, response] = between.heads().remove(0);
        assert!(has(&request, "rejoin-hello") && has(&response, "rejoin-challenge"), "{request}{response}");
        assert!(!request.contains("w0"), "nobody reads it in passing: {request}");
        assert_eq!(rig.done("one", &shell("true")).await.outcome, Outcome::Succeeded);
    });
}

#[test]
fn auth_9_behind_a_proxy_that_drops_headers_m1_is_the_first_message_once() {
    for (request, response) in [(WITHOUT, AS_IT_IS), (AS_IT_IS, WITHOUT), (TWICE, AS_IT_IS), (AS_IT_IS, TWICE)] {
        run(async {
            let rig = Rig::start().await;
            let between = Meddler::start(rig.address, 0, request, response).await;
            let first = worker(&rig, between.address);
            first.connected().await;
            assert_eq!(rig.done("one", &shell("true")).await.outcome, Outcome::Succeeded);
            assert_eq!(between.heads().len(), 1, "the first connection is good");
            assert_eq!(first.glance().stats.failed_handshakes, 0);
        });
    }
}

#[test]
fn auth_9_an_old_header_costs_one_connection_and_the_next_does_without() {
    for (request, response) in [(OLD, AS_IT_IS), (AS_IT_IS, OLD), (OLD, OLD), (OLD, WITHOUT)] {
        run(async {
            let rig = Rig::start().await;
            let between = Meddler::start(rig.address, 1, request, response).await;
            let before = worker(&rig, between.address);
            before.connected().await;
            drop(before);
            rig.until_connected("w0", false).await;
            let after = worker(&rig, between.address);
            after.connected().await;
            assert_eq!(rig.done("one", &shell("true")).await.outcome, Outcome::Succeeded);
            let heads = between.heads();
            assert!(heads.len() == 3 && !has(&heads[2][0], "rejoin-hello"), "{heads:?}");
            assert!(after.glance().stats.failed_handshakes <= 1 && !after.glance().slow);
        });
    }
}

#[test]
fn auth_9_a_header_that_is_changed_on_the_way_costs_one_connection() {
    for (request, response) in [(SPOILT, AS_IT_IS), (AS_IT_IS, SPOILT)] {
        run(async {
            let rig = Rig::start().await;
            let between = Meddler::start(rig.address, 0, request, response).await;
            let worker = worker(&rig, between.address);
            worker.connected().await;
            let heads = between.heads();
            assert!(heads.len() == 2 && !has(&heads[1][0], "rejoin-hello"), "{heads:?}");
            assert_eq!(worker.glance().stats.failed_handshakes, 1);
        });
    }
}

#[test]
fn auth_9_a_proxy_that_refuses_the_header_costs_one_connection() {
    const STRICT: Change = |head, _| match has(head, "rejoin-challenge") {
        true => "HTTP/1.1 431 x\r\nContent-Length: 0\r\n\r\n".into(),
        false => head.to_owned(),
    };
    run(async {
        let rig = Rig::start().await;
        let between = Meddler::start(rig.address, 0, AS_IT_IS, STRICT).await;
        let worker = worker(&rig, between.address);
        worker.connected().await;
        let heads = between.heads();
        assert!(heads.len() == 2 && !has(&heads[1][0], "rejoin-hello"), "{heads:?}");
    });
}

#[test]
fn auth_9_a_key_that_is_not_known_is_rejected_in_the_header() {
    run(async {
        let rig = Rig::start().await;
        let between = Meddler::start(rig.address, 0, AS_IT_IS, AS_IT_IS).await;
        let via = endpoint(between.address);
        let stranger = rig.worker_with(link(key("nobody", Role::Worker), &via), via, |_| {});
        rejoin_tests::until(async || stranger.glance().slow).await;
        let heads = between.heads();
        assert!(has(&heads[0][1], "rejoin-challenge"), "{heads:?}");
        // Who says so has proved nothing, and may have read something else than was said.
        assert!(heads.len() >= 3 && heads[1..].iter().all(|[request, _]| !has(request, "rejoin-hello")), "{heads:?}");
        assert_eq!(stranger.glance().stats.failed_handshakes, 3);
    });
}
