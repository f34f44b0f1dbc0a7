//! Processes: a machine, its clock, and what it runs or keeps

use std::collections::BTreeMap;
use std::time::Duration;

use rejoin_core::client::Client;
use rejoin_core::coordinator::{self, Coordinator};
use rejoin_core::ids::{ConnId, TaskId, Token};
use rejoin_core::wire::message::{Outcome, Stream};
use rejoin_core::worker::Worker;
use rejoin_core::{Instant, Loss, Rejected};

use super::net::{Net, Timed};
use crate::journal::Journal;
use crate::schedule::Task;

/// What every clock shows at the start, so that there is room to go back
const CLOCK_START: u64 = 10_000_000_000;

/// A clock that may be wrong
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// When it was last set, what it showed then, and how many thousandths it is fast
    since: Instant,
    shown: u64,
    fast: u64,
    /// It shows whole multiples of this
    grain: u64,
}

impl Default for Clock {
    fn default() -> Self {
        Clock { since: Instant::ZERO, shown: CLOCK_START, fast: 0, grain: 1 }
    }
}

impl Clock {
    /// What it shows
    pub(super) fn read(&self, now: Instant) -> Instant {
        Instant::from_micros(self.exact(now) / self.grain * self.grain)
    }

    fn exact(&self, now: Instant) -> u64 {
        let passed = now.as_micros() - self.since.as_micros();
        self.shown + passed + passed * self.fast / 1000
    }

    /// When it will show that, or more
    pub(super) fn when(&self, shows: Instant) -> Instant {
        let wanted = shows.as_micros().div_ceil(self.grain).saturating_mul(self.grain);
        let left = wanted.saturating_sub(self.shown);
        let span = (u128::from(left) * 1000).div_ceil(u128::from(1000 + self.fast));
        Instant::from_micros(self.since.as_micros().saturating_add(u64::try_from(span).unwrap_or(u64::MAX)))
    }

    pub(super) fn step(&mut self, now: Instant, ahead: i64) {
        self.shown = self.exact(now).saturating_add_signed(ahead);
        self.since = now;
    }

    pub(super) fn drift(&mut self, now: Instant, fast: u64) {
        self.step(now, 0);
        self.fast = fast.min(1_000_000);
    }

    pub(super) fn coarsen(&mut self, grain: u64) {
        self.grain = grain.max(1);
    }
}

/// What any process has
#[derive(Clone, Debug, Default)]
pub(super) struct Life {
    /// Counts its starts
    pub(super) number: u64,
    pub(super) clock: Clock,
    /// It stands still
    pub(super) paused: Timed,
    /// When it will be woken
    pub(super) wake: Option<Instant>,
    /// It has stood still, or its clock was wrong: nothing can be said of when it does what
    pub(super) disturbed: bool,
}

/// A worker or a client
#[derive(Clone, Debug, Default)]
pub(super) struct Peer {
    /// None while it is not alive
    pub(super) machine: Option<Machine>,
    pub(super) life: Life,
    pub(super) net: Net,
    pub(super) conn: Option<ConnId>,
    pub(super) running: BTreeMap<Token, Execution>,
    /// It has been told to drain
    pub(super) draining: bool,
}

/// A peer's machine
#[derive(Clone, Debug)]
pub(super) enum Machine {
    Worker(Box<Worker>),
    Client(Box<Client>),
}

/// A task that runs at a worker
#[derive(Clone, Debug)]
pub(super) struct Execution {
    pub(super) id: TaskId,
    pub(super) task: Task,
    pub(super) outcome: Outcome,
    pub(super) printed: u64,
    pub(super) over: bool,
}

/// The byte of a task's output at an offset
pub(super) fn printed(task: u32, offset: u64) -> u8 {
    (u64::from(task).wrapping_mul(31).wrapping_add(offset.wrapping_mul(7)) ^ (offset >> 8)) as u8
}

impl Execution {
    pub(super) fn read(&self, stream: Stream, offset: u64, max: u32) -> Vec<u8> {
        let total = if stream == Stream::Out { self.printed } else { 0 };
        (offset..total.min(offset + u64::from(max))).map(|at| printed(self.task.number, at)).collect()
    }
}

impl Machine {
    pub(super) fn wake_at(&self) -> Option<Instant> {
        match self {
            Machine::Worker(worker) => worker.wake_at(),
            Machine::Client(client) => client.wake_at(),
        }
    }

    pub(super) fn connected(&mut self, now: Instant, attempt: u64, entropy: [u8; 32]) -> Result<(), Rejected> {
        match self {
            Machine::Worker(worker) => worker.handle(now, rejoin_core::worker::Input::Connected { attempt, entropy }),
            Machine::Client(client) => client.handle(now, rejoin_core::client::Input::Connected { attempt, entropy }),
        }
    }

    pub(super) fn received(&mut self, now: Instant, attempt: u64, bytes: &[u8]) -> Result<(), Rejected> {
        match self {
            Machine::Worker(worker) => worker.handle(now, rejoin_core::worker::Input::Received { attempt, bytes }),
            Machine::Client(client) => client.handle(now, rejoin_core::client::Input::Received { attempt, bytes }),
        }
    }

    pub(super) fn arriving(&mut self, now: Instant, attempt: u64) -> Result<(), Rejected> {
        match self {
            Machine::Worker(worker) => worker.handle(now, rejoin_core::worker::Input::Arriving { attempt }),
            Machine::Client(client) => client.handle(now, rejoin_core::client::Input::Arriving { attempt }),
        }
    }

    pub(super) fn lost(&mut self, now: Instant, attempt: u64, loss: Loss) -> Result<(), Rejected> {
        match self {
            Machine::Worker(worker) => worker.handle(now, rejoin_core::worker::Input::Disconnected { attempt, loss }),
            Machine::Client(client) => client.handle(now, rejoin_core::client::Input::Disconnected { attempt, loss }),
        }
    }

    pub(super) fn writable(&mut self, now: Instant, attempt: u64, writable: bool) -> Result<(), Rejected> {
        match self {
            Machine::Worker(worker) => worker.handle(now, rejoin_core::worker::Input::Writable { attempt, writable }),
            Machine::Client(client) => client.handle(now, rejoin_core::client::Input::Writable { attempt, writable }),
        }
    }

    pub(super) fn timeout(&mut self, now: Instant) -> Result<(), Rejected> {
        match self {
            Machine::Worker(worker) => worker.handle(now, rejoin_core::worker::Input::Timeout),
            Machine::Client(client) => client.handle(now, rejoin_core::client::Input::Timeout),
        }
    }

    pub(super) fn check(&self) {
        match self {
            Machine::Worker(worker) => worker.check(),
            Machine::Client(client) => client.check(),
        }
    }

    /// Breaches of the rules that it has found
    pub(super) fn violations(&self) -> u64 {
        match self {
            Machine::Worker(worker) => worker.stats().violations,
            Machine::Client(client) => client.stats().violations,
        }
    }

    pub(super) fn digest(&self) -> u64 {
        match self {
            Machine::Worker(worker) => worker.digest(),
            Machine::Client(client) => client.digest(),
        }
    }
}

/// The coordinator and its disk
#[derive(Clone, Debug)]
pub(super) struct Chief {
    /// None while it is not alive
    pub(super) machine: Option<Box<Coordinator>>,
    pub(super) life: Life,
    /// When its life began
    pub(super) begun: Instant,
    pub(super) config: coordinator::Config,
    pub(super) journal: Journal,
    /// The last record handed out, and the one up to which a sync is under way
    pub(super) written: u64,
    pub(super) syncing: Option<u64>,
    pub(super) sync_takes: Duration,
    pub(super) slow: Timed,
    pub(super) fails_next: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_asked_when_shows_it_then_and_not_before() {
        let at = Instant::from_micros;
        let mut clock = Clock::default();
        for (fast, grain, step) in [(0, 1, 0), (100, 1, 5_000), (7, 15_600, -3_000_000), (0, 1_000, 1)] {
            clock.drift(at(1_000_000), fast);
            clock.coarsen(grain);
            clock.step(at(1_000_000), step);
            for ahead in [1, 999, 15_600, 1_234_567] {
                let shows = Instant::from_micros(clock.read(at(1_000_000)).as_micros() + ahead);
                let when = clock.when(shows);
                assert!(clock.read(when) >= shows, "{fast} {grain} {step} {ahead}");
                let before = at(when.as_micros() - 1);
                assert!(clock.read(before) < shows, "{fast} {grain} {step} {ahead}");
            }
        }
    }
}
