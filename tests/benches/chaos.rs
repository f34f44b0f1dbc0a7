//! What the chaos proxy costs while it breaks nothing: an idle round trip through it, against the bare one
//!
//! The proxy is a thread of its own, as it is in `rejoin chaos`, and so is the service behind it. Round trips
//! with and without it take turns, one byte at a time. `cargo bench -p rejoin-tests --bench chaos` prints both and their ratios.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rejoin_smol::chaos::{Profile, Proxy, Settings};
use rejoin_tests::LOOPBACK;

const ROUNDS: usize = 20_000;
/// Rounds before those that count
const WARM_UP: usize = 1_000;
/// Pause in front of each round trip, so that everybody waits when it begins
const IDLE: Duration = Duration::from_micros(200);

fn main() {
    let service = echo();
    let (proxy, serving) = Proxy::bind(LOOPBACK, service, Settings::of(Profile::Calm, 1)).expect("a port");
    let through = proxy.local_addr();
    std::thread::spawn(move || smol::block_on(serving));
    let mut ways = [service, through].map(|address| Way { stream: connect(address), times: Vec::new() });
    for round in 0..WARM_UP + ROUNDS {
        for way in &mut ways {
            let took = way.round_trip();
            if round >= WARM_UP {
                way.times.push(took);
            }
        }
    }
    let [bare, proxied] = ways.map(Way::quantiles);
    println!("bare:          p50 {:?}, p99 {:?}", bare[0], bare[1]);
    println!("through chaos: p50 {:?}, p99 {:?}", proxied[0], proxied[1]);
    let [p50, p99] = [0, 1].map(|n| proxied[n].as_secs_f64() / bare[n].as_secs_f64());
    println!("ratios: p50 {p50:.2}, p99 {p99:.2}");
}

/// A connection, and how long its round trips took
struct Way {
    stream: TcpStream,
    times: Vec<Duration>,
}

impl Way {
    fn round_trip(&mut self) -> Duration {
        std::thread::sleep(IDLE);
        let start = Instant::now();
        self.stream.write_all(b"x").expect("an open connection");
        self.stream.read_exact(&mut [0]).expect("an echo");
        start.elapsed()
    }

    /// The median, and what one in a hundred exceeds
    fn quantiles(mut self) -> [Duration; 2] {
        self.times.sort();
        [50, 99].map(|percent| self.times[self.times.len() * percent / 100])
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_nodelay(true).expect("an open connection");
    stream
}

/// Answers each byte with itself
fn echo() -> SocketAddr {
    let listener = TcpListener::bind(LOOPBACK).expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.set_nodelay(true).expect("an open connection");
            std::thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
            });
        }
    });
    address
}
