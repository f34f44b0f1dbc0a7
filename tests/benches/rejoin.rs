//! What a cut costs: the time from the reset of a worker's link to its next acknowledged result
//!
//! Beside it, in turns and through a proxy of the same kind: bare WebSockets that are reset, connect again, and have one
//! message echoed. `cargo bench -p rejoin-tests` prints both and their ratio.
//!
//! In each round the links fall silent first, and the workers' tasks end into that silence, so that no process is part
//! of what is measured. Then all links are reset. The clock stops for each worker when the coordinator tells that its
//! result is durable. Each cut is a first one to the workers, which come back at once; after a second one within
//! seconds they would wait on purpose.

use std::fmt;
use std::time::{Duration, Instant};

use rejoin_core::backoff::BackoffConfig;
use rejoin_core::coordinator::Event;
use rejoin_core::ids::Role;
use rejoin_core::wire::message::Outcome;
use rejoin_smol::chaos::{Fault, Kind, Profile, Proxy};
use rejoin_smol::coordinator::Notice;
use rejoin_smol::dial::dial;
use rejoin_smol::http::{Limits, Upgraded, serve};
use rejoin_smol::tls::Trust;
use rejoin_smol::transport::{Reader, Writer};
use rejoin_tests::{LOOPBACK, LocalWorker, Rig, WORKERS, endpoint, key, link, run, shell};
use smol::net::TcpListener;

/// Links that are reset together
const LINKS: usize = 3;
const ROUNDS: usize = 40;
/// Rounds before those that count
const WARM_UP: usize = 5;

fn main() {
    run(async {
        let (bare, mut rejoining) = (Bare::start().await, Rejoining::start().await);
        let (mut echoes, mut results) = (Times::default(), Times::default());
        for round in 0..WARM_UP + ROUNDS {
            let (echo, result) = (bare.round().await, rejoining.round(round).await);
            if round >= WARM_UP {
                echoes.0.extend(echo);
                results.0.extend(result);
            }
        }
        println!("bare WebSocket, reset to one echo:         {echoes}");
        println!("rejoin, reset to next acknowledged result: {results}");
        println!("ratio of the medians: {:.2}", results.median().as_secs_f64() / echoes.median().as_secs_f64());
    });
}

#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    fn median(&self) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort();
        sorted[sorted.len() / 2]
    }
}

impl fmt::Display for Times {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [min, max] = [self.0.iter().min(), self.0.iter().max()].map(|time| time.map_or(0, Duration::as_micros));
        let median = self.median().as_micros();
        write!(f, "median {median} µs, min {min} µs, max {max} µs ({} reconnections)", self.0.len())
    }
}

/// An echo server, with nothing but WebSockets behind the proxy
struct Bare {
    proxy: Proxy,
    _server: smol::Task<()>,
}

impl Bare {
    async fn start() -> Self {
        let listener = TcpListener::bind(LOOPBACK).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (upgraded, links) = smol::channel::unbounded();
        let server = smol::spawn(async move {
            let serving =
                smol::spawn(serve(listener, Limits::default(), None, |_| std::future::ready(Ok(((), None))), upgraded));
            while let Ok(Upgraded { socket, .. }) = links.recv().await {
                socket.into_iter().for_each(|socket| smol::spawn(echo(socket.split())).detach());
            }
            drop(serving);
        });
        let proxy = Proxy::start(LOOPBACK, address, Profile::Calm, 1).await.expect("a proxy");
        Bare { proxy, _server: server }
    }

    async fn round(&self) -> Vec<Duration> {
        let at = endpoint(self.proxy.local_addr());
        let connect = async || dial(&at, &Trust::system(), Duration::from_secs(5)).await.expect("a link").split();
        let mut links = Vec::new();
        for _ in 0..LINKS {
            links.push(connect().await);
        }
        let start = Instant::now();
        let returning: Vec<smol::Task<Duration>> = links
            .into_iter()
            .map(|(mut reader, _writer)| {
                let at = at.clone();
                smol::spawn(async move {
                    reader.next().await.expect_err("a reset");
                    let (mut reader, mut writer) =
                        dial(&at, &Trust::system(), Duration::from_secs(5)).await.expect("a link").split();
                    writer.send(b"a result").await.expect("an open link");
                    writer.flush().await.expect("an open link");
                    reader.next().await.expect("an echo");
                    start.elapsed()
                })
            })
            .collect();
        self.proxy.strike(Fault::of_all(Kind::Reset));
        let mut times = Vec::new();
        for task in returning {
            times.push(task.await);
        }
        times
    }
}

async fn echo((mut reader, mut writer): (Reader, Writer)) {
    while let Ok(message) = reader.next().await {
        if writer.send(&message).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
}

/// A coordinator and its workers, each of which has one result to deliver in each round
struct Rejoining {
    rig: Rig,
    proxy: Proxy,
    workers: Vec<LocalWorker>,
}

impl Rejoining {
    async fn start() -> Self {
        let rig = Rig::with(|config| config.heartbeat = Some(Duration::from_secs(5)), |journal| journal).await;
        let proxy = rig.proxy(Profile::Calm).await;
        let at = endpoint(proxy.local_addr());
        let worker = |name| {
            let mut link = link(key(name, Role::Worker), &at);
            link.backoff = BackoffConfig { stable_after: Duration::ZERO, ..link.backoff };
            rig.worker_with(link, at.clone(), |config| config.prefetch = 0)
        };
        let workers: Vec<LocalWorker> = WORKERS[..LINKS].iter().map(|name| worker(name)).collect();
        for worker in &workers {
            worker.connected().await;
        }
        Rejoining { rig, proxy, workers }
    }

    async fn round(&mut self, round: usize) -> Vec<Duration> {
        let notices = self.rig.server.notices();
        let gate = self.rig.path().join(format!("gate {round}"));
        let wait = shell(&format!("while ! [ -e '{}' ]; do sleep 0.005; done", gate.display()));
        for n in 0..LINKS {
            self.rig.submit(&format!("{round} {n}"), wait.encode()).await;
        }
        let mut running = 0;
        while running < LINKS {
            running += usize::from(matches!(notices.recv().await, Ok(Notice::Event(Event::Running { .. }))));
        }
        self.proxy.strike(Fault::of_all(Kind::Dead));
        std::fs::write(gate, "").expect("a file");
        // Long enough for all processes to end; if one did not, it shows as a maximum.
        smol::Timer::after(Duration::from_millis(60)).await;
        let start = Instant::now();
        self.proxy.strike(Fault::of_all(Kind::Reset));
        let mut times = Vec::new();
        while times.len() < LINKS {
            if let Ok(Notice::Ended(ended)) = notices.recv().await {
                assert_eq!((ended.outcome, ended.attempt), (Outcome::Succeeded, 1));
                times.push(start.elapsed());
            }
        }
        for worker in &self.workers {
            worker.reconnected(round as u64 + 1).await;
        }
        times
    }
}
