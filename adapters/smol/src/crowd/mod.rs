//! Many lightweight workers in one process: what a coordinator of a given size has to carry
//!
//! Each has a key, a WebSocket and the machine of its own, as any worker has. What makes them light is what they lack:
//! they run no commands. Their tasks pretend to ([`PRETEND`]), within this process.
//!
//! | room | concern |
//! | --- | --- |
//! | `session` | one of them: its machine, its WebSocket, its tasks |
//! | `tally` | what all of them went through, second by second |
//! | `law` | whether the pauses between dials are those of the law of reconnection, seen from outside (BACK-1) |

mod law;
mod session;
mod tally;

use std::convert::Infallible;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rejoin_core::about::{Tag, Tags};
use rejoin_core::ids::BootId;
use rejoin_core::limits::FRAME_BYTES_MAX;
use rejoin_core::link::LinkConfig;
use rejoin_core::wire::keys::Key;
use rejoin_core::worker::Config;
use smol::channel::{Sender, bounded};

use crate::clock::{Clock, entropy};
use crate::journal::lock;
use crate::tls::Trust;
use crate::transport::within;
use crate::url::Endpoint;

pub use law::{Fit, Kind, Pauses};
pub use tally::{Second, Tally};

use session::Session;

/// The program of a command that these workers take for a task: its argument is how many milliseconds it takes
pub const PRETEND: &str = "pretend";
/// The label that they offer, for tasks to ask for: `crowd=yes`
pub const LABEL: (&str, &str) = ("crowd", "yes");
/// Most workers of a crowd
pub const WORKERS_MAX: usize = 50_000;

/// What a crowd is like
#[derive(Clone, Debug)]
pub struct Settings {
    /// The coordinator's URLs; each worker dials one of them, in turn
    pub endpoints: Vec<Endpoint>,
    /// Who is believed when a coordinator says by TLS which host it is
    pub trust: Trust,
    /// How workers reach it; key, life and endpoint are each worker's own
    pub link: LinkConfig,
    /// A key for each of them
    pub keys: Vec<Key>,
    /// How many begin in a second
    pub rate: u32,
    /// Where each start of a task is written down, one line each, before it happens, and its end: the same line and ` end`
    pub log: Option<PathBuf>,
}

/// Workers that run; dropping it cuts their connections
#[derive(Debug)]
pub struct Crowd {
    shared: Arc<Shared>,
    sessions: Vec<smol::Task<()>>,
    /// None once they are to leave
    leave: Option<Sender<Infallible>>,
}

/// What all sessions use
#[derive(Debug)]
struct Shared {
    clock: Clock,
    trust: Trust,
    tally: Mutex<Tally>,
    /// Room for a frame, while a machine is asked what to do
    frame: Mutex<Vec<u8>>,
    log: Option<Mutex<File>>,
}

impl Crowd {
    /// Starts the workers, one after the other
    ///
    /// # Errors
    ///
    /// If the settings make no sense, or the start log cannot be written.
    pub fn start(settings: Settings) -> io::Result<Crowd> {
        let Settings { endpoints, trust, link, keys, rate, log } = settings;
        if endpoints.is_empty() || rate == 0 || !(1..=WORKERS_MAX).contains(&keys.len()) {
            return Err(io::Error::other(
                "a crowd has 1 to 50,000 workers, a URL, and begins at 1 worker a second or more",
            ));
        }
        let log = log.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
        let clock = Clock::start();
        let shared = Arc::new(Shared {
            clock,
            trust,
            tally: Mutex::new(Tally::new(keys.len())),
            frame: Mutex::new(vec![0; FRAME_BYTES_MAX]),
            log: log.map(Mutex::new),
        });
        let (leave, orders) = bounded(1);
        let pause = Duration::from_secs(1) / rate;
        let mut sessions = Vec::with_capacity(keys.len());
        for (key, (index, endpoint)) in keys.into_iter().zip((0..).zip(endpoints.into_iter().cycle())) {
            let mut link = link.clone();
            (link.key, link.boot) = (key, BootId(entropy()?));
            link.endpoints = vec![endpoint.to_string()];
            let begins = clock.now() + pause * index;
            let (shared, orders, config) = (shared.clone(), orders.clone(), config(link)?);
            sessions.push(smol::spawn(async move {
                let leaving = async { _ = orders.recv().await };
                let begun = async { shared.clock.sleep_until(begins).await };
                smol::future::or(begun, leaving).await;
                if !orders.is_closed() {
                    Session::new(shared, config, endpoint, orders).run().await;
                }
            }));
        }
        Ok(Crowd { shared, sessions, leave: Some(leave) })
    }

    /// What they went through so far
    pub fn tally(&self) -> Tally {
        lock(&self.shared.tally).clone()
    }

    /// How many are welcomed at this moment
    pub fn connected(&self) -> usize {
        lock(&self.shared.tally).connected
    }

    /// How long it has been running
    pub fn age(&self) -> Duration {
        self.shared.clock.now().since(rejoin_core::Instant::ZERO)
    }

    /// Has them say goodbye and end, within that time; returns what they went through
    pub async fn leave(mut self, patience: Duration) -> Tally {
        let tally = self.tally();
        self.leave = None;
        let all = async {
            for session in std::mem::take(&mut self.sessions) {
                session.await;
            }
        };
        within(patience, all).await;
        tally
    }
}

/// A worker that is as small as can be while it does nothing
fn config(link: LinkConfig) -> io::Result<Config> {
    let mut config = Config::new(link);
    config.reserve = false;
    (config.attempts_max, config.result_bytes_max, config.large_result_max) = (4, 256, 0);
    let mut offers = Tags::default();
    offers.insert(LABEL.0, Tag::Label(LABEL.1.into())).map_err(io::Error::other)?;
    config.offers = offers;
    Ok(config)
}
