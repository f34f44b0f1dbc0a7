//! A clock that never goes back and runs on while the machine sleeps, and fresh randomness

use std::io;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use rejoin_core::{Instant, Seed};

/// The clock that runs through suspend, where there is one: leases are counted by it (LIVE-5, TASK-4)
#[cfg(any(target_os = "linux", target_os = "android"))]
const RUNS_ON: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const RUNS_ON: ClockId = ClockId::Monotonic;

/// Longest pause between two looks at the clock: timers stand still while the machine sleeps
const LOOKS_AFTER: Duration = Duration::from_secs(1);

/// Tells the machines what time it is
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Duration,
}

impl Clock {
    /// Starts a clock
    pub fn start() -> Self {
        Clock { start: since_boot() }
    }

    /// Returns the time since the start
    pub fn now(&self) -> Instant {
        Instant::ZERO + since_boot().saturating_sub(self.start)
    }

    /// Waits until a machine's deadline, for ever if it has none
    pub async fn wait_until(&self, at: Option<Instant>) {
        match at {
            Some(at) => loop {
                let left = at.since(self.now());
                if left.is_zero() {
                    return;
                }
                smol::Timer::after(left.min(LOOKS_AFTER)).await;
            },
            None => smol::future::pending().await,
        }
    }

    /// Waits until that time without looking at the clock in between: for so many at once that looking would cost more
    /// than they do, and none of whom minds to oversleep by as long as the machine does
    pub(crate) async fn sleep_until(&self, at: Instant) {
        smol::Timer::after(at.since(self.now())).await;
    }
}

fn since_boot() -> Duration {
    let shown = clock_gettime(RUNS_ON);
    let (seconds, nanos) = (u64::try_from(shown.tv_sec), u32::try_from(shown.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
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
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_5_the_clock_never_goes_back_and_deadlines_come_in_time() {
        let clock = Clock::start();
        let begun = clock.now();
        let at = begun + Duration::from_millis(1_200);
        smol::block_on(clock.wait_until(Some(at)));
        let late = clock.now().since(at);
        assert!(clock.now() >= at && late < Duration::from_secs(10), "{late:?}");
        smol::block_on(clock.wait_until(Some(begun)));
    }
}
