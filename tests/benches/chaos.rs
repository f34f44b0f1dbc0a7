//! What the chaos proxy costs while it breaks nothing: an idle round trip through it, against the bare one
//!
//! The proxy is a thread of its own, as it is in `rejoin chaos`, and so is the service behind it. Round trips
//! with and without it take turns, one byte at a time. `cargo bench -p rejoin-tests --bench chaos` prints both, round by round, and the
//! medians of their ratios over all rounds: on a machine that does other things as well no single round means much.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rejoin_smol::chaos::{Profile, Proxy, Settings};
use rejoin_tests::LOOPBACK;

/// Rounds, each with its own quantiles: one in which the machine had something else to do counts like any other
const ROUNDS: usize = 15;
/// Pairs of round trips in a round
const PAIRS: usize = 2_000;
/// Pairs before those that count
const WARM_UP: usize = 1_000;
/// Pause in front of each round trip, so that everybody waits when it begins
const IDLE: Duration = Duration::from_micros(200);

fn main() {
    let service = echo();
    let (proxy, serving) = Proxy::bind(LOOPBACK, service, Settings::of(Profile::Calm, 1)).expect("a port");
    let through = proxy.local_addr();
    std::thread::spawn(move || smol::block_on(serving));
    let mut ways = [service, through].map(|address| Way { stream: connect(address), times: Vec::new() });
    pairs(&mut ways, WARM_UP);
    let mut ratios = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        pairs(&mut ways, PAIRS);
        let [bare, proxied] = ways.each_mut().map(Way::quantiles);
        println!(
            "bare: p50 {:?}, p99 {:?}; through chaos: p50 {:?}, p99 {:?}",
            bare[0], bare[1], proxied[0], proxied[1]
        );
        for (n, all) in ratios.iter_mut().enumerate() {
            all.push(proxied[n].as_secs_f64() / bare[n].as_secs_f64());
        }
    }
    let [p50, p99] = ratios.map(|mut all| {
        all.sort_by(f64::total_cmp);
        (all[all.len() / 2], all[0], all[all.len() - 1])
    });
    println!("ratios, median and range of {ROUNDS} rounds: p50 {:.2} ({:.2} to {:.2})", p50.0, p50.1, p50.2);
    println!("                                     p99 {:.2} ({:.2} to {:.2})", p99.0, p99.1, p99.2);
}

/// Round trips with and without the proxy, in turns, and either first every other time
fn pairs(ways: &mut [Way; 2], count: usize) {
    ways.iter_mut().for_each(|way| way.times.clear());
    for pair in 0..count {
        let first = pair % 2;
        ways[first].round_trip();
        ways[1 - first].round_trip();
    }
}

/// A connection, and how long its round trips took
struct Way {
    stream: TcpStream,
    times: Vec<Duration>,
}

impl Way {
    fn round_trip(&mut self) {
        std::thread::sleep(IDLE);
        let start = Instant::now();
        self.stream.write_all(b"x").expect("an open connection");
        self.stream.read_exact(&mut [0]).expect("an echo");
        self.times.push(start.elapsed());
    }

    /// The median, and what one in a hundred exceeds
    fn quantiles(&mut self) -> [Duration; 2] {
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
