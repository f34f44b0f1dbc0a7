//! Processes: a machine, its clock, and what it runs or keeps

use std::collections::BTreeMap;
use std::time::Duration;

use rejoin_core::client::Client;
use rejoin_core::coordinator::{self, Coordinator};
use rejoin_core::ids::{ConnId, TaskId, Token};
use rejoin_core::wire::keys::Key;
use rejoin_core::worker::Worker;
use rejoin_core::{Instant, Loss, Rejected};

use super::fetches::Fetches;
use super::net::{Net, Timed};
use super::spools::Store;
use crate::journal::Journal;
use crate::logic::Logic;
use crate::menu::Kind;

/// What every clock shows at the start, so that there is room to go back
const CLOCK_START: u64 = 10_000_000_000;

/// A clock that may be wrong
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// When it was last set, what it showed then, and how many thousandths it is fast
    since: Instant,
    shown: u64,
    fast: i64,
    /// It shows whole multiples of this
    grain: u64,
    /// It has stood still since then
    halted: Option<Instant>,
}

impl Default for Clock {
    fn default() -> Self {
        Clock { since: Instant::ZERO, shown: CLOCK_START, fast: 0, grain: 1, halted: None }
    }
}

impl Clock {
    /// What it shows
    pub(super) fn read(&self, now: Instant) -> Instant {
        Instant::from_micros(self.exact(now) / self.grain * self.grain)
    }

    fn exact(&self, now: Instant) -> u64 {
        let now = self.halted.map_or(now, |halted| halted.min(now));
        let passed = now.as_micros() - self.since.as_micros();
        if self.fast == 0 {
            return self.shown + passed;
        }
        let ran = u128::from(passed) * 1000u128.saturating_add_signed(self.fast.into()) / 1000;
        self.shown.saturating_add(u64::try_from(ran).unwrap_or(u64::MAX))
    }

    /// When it will show that, or more
    pub(super) fn when(&self, shows: Instant) -> Instant {
        let wanted = shows.as_micros().div_ceil(self.grain).saturating_mul(self.grain);
        let left = wanted.saturating_sub(self.shown);
        let span = (u128::from(left) * 1000).div_ceil(1000u128.saturating_add_signed(self.fast.into()));
        Instant::from_micros(self.since.as_micros().saturating_add(u64::try_from(span).unwrap_or(u64::MAX)))
    }

    pub(super) fn step(&mut self, now: Instant, ahead: i64) {
        self.shown = self.exact(now).saturating_add_signed(ahead);
        self.since = now;
        self.halted = None;
    }

    /// It stands still until it is set
    pub(super) fn halt(&mut self, now: Instant) {
        self.step(now, 0);
        self.halted = Some(now);
    }

    /// It runs so many thousandths fast, or slow, from now on
    pub(super) fn drift(&mut self, now: Instant, fast: i64) {
        self.step(now, 0);
        self.fast = fast.clamp(-900, 1_000_000);
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
    /// It stands still, and its clock with it
    pub(super) suspended: Timed,
    /// It runs every other span of so many microseconds
    pub(super) slow: Timed,
    /// It is woken so many microseconds late
    pub(super) late: Timed,
    /// It should have been woken before
    pub(super) overslept: bool,
    /// It ends so many microseconds after each start
    pub(super) loops: Timed,
    /// When it is to be woken, and when the alarm rings that is set: then, or before
    pub(super) wake: Option<Instant>,
    pub(super) alarm: Option<Instant>,
    /// It has stood still, or its clock was wrong: nothing can be said of when it does what
    pub(super) disturbed: bool,
}

impl Life {
    /// Until when it stands still, and what by
    pub(super) fn stands_still(&self, now: Instant) -> Option<(Kind, Instant)> {
        if let Some(until) = self.paused.at(now) {
            return Some((Kind::Pause, Instant::from_micros(until)));
        }
        if let Some(until) = self.suspended.at(now) {
            return Some((Kind::Suspend, Instant::from_micros(until)));
        }
        let span = self.slow.at(now)?.max(1);
        let spans = now.as_micros() / span;
        (spans % 2 == 1).then(|| (Kind::Slow, Instant::from_micros((spans + 1) * span)))
    }
}

/// What a worker was at some time
#[derive(Clone, Debug)]
pub(super) struct Snapshot {
    pub(super) machine: Machine,
    /// What it was executing: task, and whether that was over
    pub(super) running: Vec<(Token, TaskId, bool)>,
    pub(super) saved: BTreeMap<(Token, u64), Vec<u8>>,
    pub(super) restores: BTreeMap<Token, (u64, Vec<u8>)>,
    pub(super) fed: BTreeMap<Token, (u64, Vec<u8>)>,
    pub(super) store: Store,
    /// Its last dial
    pub(super) dialled: u64,
}

/// A worker or a client
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// None while it is not alive
    pub(super) machine: Option<Machine>,
    pub(super) life: Life,
    pub(super) net: Net,
    pub(super) conn: Option<ConnId>,
    /// Its last dial, and how many connections it has had
    pub(super) dialled: u64,
    pub(super) dials: u64,
    pub(super) running: BTreeMap<Token, Execution>,
    /// Large checkpoints that were made, until they are answered, and large results, until they are settled
    pub(super) saved: BTreeMap<(Token, u64), Vec<u8>>,
    /// Large checkpoints from which attempts are to start: number and bytes
    pub(super) restores: BTreeMap<Token, (u64, Vec<u8>)>,
    /// Large inputs of attempts that have not started: the same
    pub(super) fed: BTreeMap<Token, (u64, Vec<u8>)>,
    /// Payloads with large inputs that a client has submitted, until they are accepted
    pub(super) inputs: BTreeMap<TaskId, Vec<u8>>,
    /// Its disk, which outlives it
    pub(super) store: Store,
    /// Large results that a client fetches
    pub(super) fetches: Fetches,
    /// It has been told to drain
    pub(super) draining: bool,
    /// It is another process with the key of that worker
    pub(super) clone_of: Option<usize>,
    /// Counts the keys that its name has had
    pub(super) enrolled: u32,
    /// The key that has taken the place of the one that it was given, on its disk
    pub(super) rotated: Option<Key>,
    /// How long it takes to write a key there
    pub(super) keeping: Duration,
    /// Its key was revoked, and it has no other one yet
    pub(super) revoked: bool,
    /// The newest wire version that it speaks, if it is not the newest that there is
    pub(super) wire_version: Option<u16>,
    /// It was given a wrong secret
    pub(super) wrong_key: bool,
    /// Its key is a join token, and it has kept none that followed (AUTH-6)
    pub(super) joins: bool,
    /// How long each end takes to keep what follows from its next join token
    pub(super) token: Option<Duration>,
    /// What is broken here when all else heals stays so (liveness B)
    pub(super) frozen: bool,
    /// It ends so many microseconds after its next connection opened, and for how long
    pub(super) dies_resuming: Option<(u64, Duration)>,
    /// The first messages that it said on its newest connection
    pub(super) said: Vec<Vec<u8>>,
    pub(super) snapshot: Option<Box<Snapshot>>,
    /// Until when exclusive tasks may run, as the guardian of that life knows it
    pub(super) guarded: Option<(u64, Instant)>,
}

/// A peer's machine
#[derive(Clone, Debug)]
pub(super) enum Machine {
    Worker(Box<Worker>),
    Client(Box<Client>),
}

/// A task that runs at a worker
#[derive(Debug)]
pub(super) struct Execution {
    pub(super) id: TaskId,
    pub(super) logic: Box<dyn Logic>,
    /// It was told to stop
    pub(super) stops: bool,
    /// When it made a checkpoint of which nothing was heard yet
    pub(super) uploads: Option<Instant>,
    pub(super) over: bool,
    /// It runs under the worker's lease
    pub(super) exclusive: bool,
    /// It came with another worker's store
    pub(super) foreign: bool,
    /// It stands still, and would have gone on by now
    pub(super) frozen: bool,
    pub(super) missed: bool,
}

impl Execution {
    /// One that has just begun
    pub(super) fn new(id: TaskId, logic: Box<dyn Logic>) -> Self {
        Execution {
            id,
            logic,
            stops: false,
            uploads: None,
            over: false,
            exclusive: false,
            foreign: false,
            frozen: false,
            missed: false,
        }
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
            Machine::Worker(worker) => {
                worker.handle(now, rejoin_core::worker::Input::Connected { attempt, entropy, binding: None })
            }
            Machine::Client(client) => {
                client.handle(now, rejoin_core::client::Input::Connected { attempt, entropy, binding: None })
            }
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

    /// Frames that it took for genuine, and attempts that it holds
    pub(super) fn believed(&self) -> (u64, usize) {
        match self {
            Machine::Worker(worker) => (worker.stats().frames_in, worker.held()),
            Machine::Client(client) => (client.stats().frames_in, 0),
        }
    }

    /// The highest epoch of the coordinator that it has seen
    pub(super) fn epoch(&self) -> u64 {
        match self {
            Machine::Worker(worker) => worker.epoch(),
            Machine::Client(client) => client.epoch(),
        }
    }

    /// How often it was told to come back in a slot of its own
    pub(super) fn sent_away(&self) -> u64 {
        match self {
            Machine::Worker(worker) => worker.stats().sent_away,
            Machine::Client(client) => client.stats().sent_away,
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
    /// Every sync fails
    pub(super) full: Timed,
    /// Nothing can be read
    pub(super) unreadable: Timed,
    /// It ends so many microseconds after its next start, and for how long
    pub(super) dies_again: Option<(u64, Duration)>,
    /// When how many records were durable, since they were compacted last
    pub(super) history: Vec<(Instant, usize)>,
    /// It is started as restored, until its first records are durable (JOURN-2)
    pub(super) restored: bool,
    /// The right store, while the coordinator runs on an old copy of it
    pub(super) aside: Option<Box<Journal>>,
    /// How long it takes to write a key
    pub(super) keeping: Duration,
    /// Nobody has a slot in which to come back any more from then on (BACK-3)
    pub(super) slots_end: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_asked_when_shows_it_then_and_not_before() {
        let at = Instant::from_micros;
        let mut clock = Clock::default();
        for (fast, grain, step) in [(0, 1, 0), (100, 1, 5_000), (-300, 1, 7), (7, 15_600, -3_000_000), (-3, 1_000, 1)] {
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
