//! The monotonic clock, and fresh randomness

use std::io;
use std::time::Instant as StdInstant;

use rejoin_core::{Instant, Seed};

/// Tells the machines what time it is
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: StdInstant,
}

impl Clock {
    /// Starts a clock
    pub fn start() -> Self {
        Clock { start: StdInstant::now() }
    }

    /// Returns the time since the start
    pub fn now(&self) -> Instant {
        Instant::from_micros(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Waits until a machine's deadline, for ever if it has none
    pub async fn wait_until(&self, at: Option<Instant>) {
        match at {
            Some(at) => {
                smol::Timer::at(self.start + at.since(Instant::ZERO)).await;
            }
            None => smol::future::pending().await,
        }
    }
}

/// Returns fresh random bytes of the operating system
pub fn entropy<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(format!("no randomness to be had: {error}")))?;
    Ok(bytes)
}

/// Returns a seed for a machine's jitter
pub fn seed() -> io::Result<Seed> {
    entropy().map(Seed)
}
