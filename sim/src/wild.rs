//! A second generator: stories in which one thing leads to another, and extreme values
//!
//! The first one ([`generate`](crate::generate)) draws each kind of fault on its own, at any time. What it is unlikely to
//! draw is drawn here on purpose: everybody struck at once, a peer that flaps in step with heartbeats, what breaks
//! exactly so many microseconds behind a submit, settings at the ends of their ranges. The two share no code, so that
//! what one leaves out by mistake the other may have.

use std::time::Duration;

use crate::draws::{Draws, Purpose};
use crate::generate::terms;
use crate::menu::{Kind, Scope};
use crate::net::Side;
use crate::schedule::{Entry, Fault, Knob, Node, Schedule, Setting, Task, What};

const US: Duration = Duration::from_micros(1);
const SAFETY_MIN: Duration = Duration::from_secs(1);
const SAFETY_MAX: Duration = Duration::from_secs(600);
/// Heartbeat period where nothing else is said
const HEARTBEAT_MS: u64 = 2_000;
/// Periods of all peers together that most seeds may take, and few
const BEATS: u64 = 1_200;
const BEATS_MANY: u64 = 12_000;
/// Bytes of output, results and input that a seed may move
const BYTES: u64 = 3 << 20;
/// Slots and tasks that wait, of all workers together: each costs memory when a worker starts
const PLACES: u64 = 256;
const TASKS: u32 = 150;
const FAULTS: usize = 400;

/// Makes the schedule of a seed
pub fn generate(seed: u64) -> Schedule {
    let mut wild = Wild::new(seed);
    wild.choose_settings();
    wild.load();
    wild.stories();
    wild.choose_stores();
    wild.schedule.sort();
    wild.schedule
}

/// A schedule that is being made, and what it may still cost
struct Wild {
    schedule: Schedule,
    draws: Draws,
    beat: Duration,
    /// How much longer tasks may run, how far clocks may still go back, and bytes that may still be moved
    work_left: Duration,
    back_left: Duration,
    bytes_left: u64,
    faults: usize,
}

impl Wild {
    fn new(seed: u64) -> Wild {
        let mut draws = Draws::new(seed, Purpose::Wild, 0);
        let mut schedule = Schedule::quiet(seed);
        schedule.workers = match draws.below(100) {
            0..2 => draws.between(40, 200) as u16,
            2..40 => draws.between(1, 2) as u16,
            _ => draws.between(1, 12) as u16,
        };
        schedule.clients = *draws.pick(&[1, 1, 1, 2, 3, 8]);
        let beat_ms = match draws.below(10) {
            0..3 => HEARTBEAT_MS,
            3 => *draws.pick(&[50, 51, 39_999, 40_000]),
            _ => draws.between_log(50, 10_000),
        };
        if beat_ms != HEARTBEAT_MS {
            schedule.settings.push(Setting { name: Knob::Heartbeat, value: beat_ms });
        }
        let beat = Duration::from_millis(beat_ms);
        let peers = u64::from(schedule.workers) + u64::from(schedule.clients);
        let beats = if draws.one_in(20) { BEATS_MANY } else { BEATS } / peers;
        let most = beat * beats.clamp(4, 10_000) as u32 / 2;
        schedule.safety = match draws.below(10) {
            0 => SAFETY_MIN,
            1 => most,
            2 => beat * 2 + US,
            _ => Duration::from_micros(draws.between_log(500_000, most.as_micros() as u64)),
        }
        .clamp(SAFETY_MIN, SAFETY_MAX.min(most.max(SAFETY_MIN)));
        Wild { schedule, draws, beat, work_left: most, back_left: most / 2, bytes_left: BYTES, faults: 0 }
    }

    // Settings.

    /// None, one, some or all of them, most at an end of their range or beside it
    fn choose_settings(&mut self) {
        let share = *self.draws.pick(&[0, 80, 80, 300, 1000]);
        for knob in Knob::ALL.iter().copied().filter(|knob| ![Knob::Heartbeat, Knob::Keeps].contains(knob)) {
            if !self.draws.one_in(share) {
                continue;
            }
            let (low, high) = self.bounds(knob);
            let value = match self.draws.below(6) {
                0 => low,
                1 => (low + 1).min(high),
                2 => high,
                3 => high.saturating_sub(1).max(low),
                _ => self.draws.between_log(low, high).clamp(low, high),
            };
            self.schedule.settings.push(Setting { name: knob, value });
        }
    }

    /// Whether workers have a store, from a stream of its own; said or left out
    fn choose_stores(&mut self) {
        let mut draws = Draws::new(self.schedule.seed, Purpose::Keeps, 1);
        let struck = |entry: &Entry| matches!(entry.what, What::Fault(fault) if fault.kind.is_of_stores());
        let struck = self.schedule.entries.iter().any(struck);
        match draws.below(10) {
            0 => self.schedule.settings.push(Setting { name: Knob::Keeps, value: 0 }),
            n if n < 7 || struck => self.schedule.settings.push(Setting { name: Knob::Keeps, value: 1 }),
            _ => {}
        }
    }

    /// What a setting may be so that a world can come to rest at all, within its budget
    fn bounds(&mut self, knob: Knob) -> (u64, u64) {
        let (low, high) = knob.range();
        let workers = u64::from(self.schedule.workers);
        let peers = workers + u64::from(self.schedule.clients);
        let most = match knob {
            // A handshake has five seconds for its proof, and silence is measured in heartbeats.
            Knob::Latency => (self.beat.as_micros() as u64 / 4).min(1_000_000),
            Knob::SyncTakes => 2_000_000,
            Knob::Slots | Knob::Prefetch => (PLACES / 2 / workers).clamp(1, 64),
            // What is uploaded is to be there within some round trips.
            Knob::BulkUnderWay => return (high, high),
            // Everybody is to be let in within some twenty seconds.
            Knob::AdmissionRate => return ((peers / 20).max(low), high),
            // Those that greet at once must not push each other out for ever.
            Knob::PendingMax => return ((peers * 2).max(low), high),
            Knob::Heartbeat
            | Knob::LostAfter
            | Knob::RecoveryWindow
            | Knob::SessionLifetime
            | Knob::BackoffCap
            | Knob::AttemptsMax
            | Knob::CrashesMax
            | Knob::RetryPause
            | Knob::SendBuffer
            | Knob::Compress
            | Knob::NoReplay
            | Knob::BulkPiece
            | Knob::CompressFrom
            | Knob::CheckpointEvery
            | Knob::Ageing
            | Knob::LossesMax
            | Knob::TasksMax
            | Knob::OutputMax
            | Knob::FlappingWithin
            | Knob::Keeps
            | Knob::CheckpointsMax => high,
            // Whoever waits for one to end does so in this simulation.
            Knob::LeaseTtl | Knob::LeaseGrace | Knob::BrakeFor => 600_000,
            // It would run everything twice.
            Knob::Compare => 0,
        };
        (low, most.clamp(low, high))
    }

    fn setting(&self, knob: Knob, usual: u64) -> u64 {
        self.schedule.setting(knob).unwrap_or(usual)
    }

    // Tasks.

    /// What is to be done, in one of several shapes
    fn load(&mut self) {
        let safety = self.schedule.safety;
        let tasks = match self.draws.below(10) {
            0 => 1,
            1 => TASKS,
            _ => self.draws.between_log(1, 60) as u32,
        };
        let (shape, manner) = (self.draws.below(9), self.draws.below(6));
        let priority = self.draws.one_in(200).then(|| self.draws.below(5) as u8);
        let period = safety / tasks.max(1);
        let room = self.setting(Knob::TasksMax, u64::MAX);
        for number in 0..tasks {
            let at = match shape {
                0 => Duration::ZERO,
                1 => safety,
                2 => safety - safety / 10,
                3 => period * number,
                4 => self.beat * (number % 20),
                5 => *self.draws.pick(&[Duration::ZERO, US, safety / 2, safety]),
                _ => self.moment(),
            };
            let client = self.draws.below(self.schedule.clients.into()) as u16;
            let mut task = self.task(client, number, manner);
            task.priority = priority.unwrap_or(task.priority);
            self.push(at, What::Submit(task));
            let end = at + task.takes;
            // One is always left to be executed, and where there is room for one only, it must not be for a cancelled one.
            if number > 0 && room > 1 && (shape == 8 || self.draws.one_in(150)) {
                let behind = self.near();
                let from = if self.draws.one_in(500) { at } else { end };
                let by = if self.draws.one_in(100) { self.draws.below(8) as u16 } else { client };
                let again = if self.draws.one_in(200) { 2 } else { 1 };
                (0..again).for_each(|_| self.push(from + behind, What::Cancel { client: by, task: number }));
            }
            // The same once more by everybody, or something else under its id, before and behind it.
            if self.draws.one_in(50) {
                let behind = Duration::from_micros(self.draws.between_log(1, 5_000_000));
                for client in 0..self.schedule.clients {
                    let again = self.draws.one_in(700);
                    let what = |task| if again { What::Again { client, task } } else { What::Clash { client, task } };
                    let behind = behind * self.draws.below(2) as u32;
                    self.push(at + behind, what(number));
                }
            }
        }
        if self.draws.one_in(30) {
            // Asked for before there is such a task, and once for one that never is.
            self.push(Duration::ZERO, What::Cancel { client: 0, task: 1 });
            self.push(safety, What::Cancel { client: 0, task: u32::MAX });
        }
    }

    /// A task; the manner is that of its seed, so that there are seeds with nothing but one
    fn task(&mut self, client: u16, number: u32, manner: u64) -> Task {
        let mut task = Task::new(client, number);
        task.priority = self.draws.below(5) as u8;
        task.takes = match self.draws.below(6) {
            0 => Duration::ZERO,
            1 => US,
            2 => self.beat * 2 + self.beat / 2,
            3 => self.schedule.safety,
            _ => Duration::from_micros(self.draws.between_log(100, 180_000_000)),
        };
        let tries = *self.draws.pick(&[1, 2, 3, 5]);
        match if manner == 0 { self.draws.between(1, 5) } else { manner } {
            1 => {
                task.input = *self.draws.pick(&[1, 507, 508, 16_384, 49_147, 49_148]);
                task.returns = *self.draws.pick(&[1, 1_023, 1_024, 1_025, 49_152, 65_536, 65_537, 1 << 20]);
                if self.draws.one_in(50) {
                    task.returns = *self.draws.pick(&[16 << 20, (16 << 20) + 1]);
                }
                let mut draws = Draws::new(self.schedule.seed, Purpose::Inputs, number.into());
                if draws.one_in(200) {
                    task.input = *draws.pick(&[49_149, 65_536, 65_537, 131_072, 1 << 20, 16 << 20]);
                }
                task.prints = *self.draws.pick(&[1, 2, 16_383, 16_384, 16_385, 300_000, (1 << 20) + 1]);
            }
            2 => {
                task.fails = tries;
                task.retries = *self.draws.pick(&[tries - 1, tries, tries + 1]);
            }
            3 => task.poison = *self.draws.pick(&[1, 2, 3, 4, 19, 20, 200]),
            4 => {
                task.steps = *self.draws.pick(&[2, 3, 20, 199, 200]);
                if task.steps <= 20 {
                    task.saves = *self.draws.pick(&[20, 49_152, 49_153, 65_536, 131_073, 1 << 20]);
                }
            }
            _ => {}
        }
        if self.draws.one_in(50) {
            (task.fails, task.retries, task.poison, task.steps) = (1, 1, 1, 10);
        }
        let attempts = 1 + task.fails.min(task.retries) + task.poison.min(20);
        task.takes = whole(task.takes.min(self.work_left / attempts / 2));
        self.work_left = self.work_left.saturating_sub(task.takes * attempts / u32::from(self.schedule.workers));
        let saved = task.saves * u32::from(task.steps - 1);
        let bytes = u64::from(task.input + task.returns + task.prints + saved) * u64::from(attempts);
        if bytes > self.bytes_left {
            (task.input, task.returns, task.prints, task.saves) = (0, 1, 1, 20);
        }
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        let mut draws = Draws::new(self.schedule.seed, Purpose::Terms, number.into());
        if draws.one_in(200) {
            task.terms = terms(&mut draws);
        }
        task
    }

    // Stories.

    fn stories(&mut self) {
        for _ in 0..*self.draws.pick(&[0, 1, 1, 1, 2, 2, 3, 5]) {
            let at = match self.draws.below(8) {
                0 => Duration::ZERO,
                1 => self.schedule.safety,
                _ => self.moment(),
            };
            match self.draws.below(13) {
                0 => self.rack(at),
                1 => self.rolling(at),
                2 => self.flapping(at),
                3 => self.recovery_upon_recovery(at),
                4 => self.on_the_heels(),
                5 => self.one_instant(at),
                6 => self.picked_on(at),
                7 => self.up_to_the_end(at),
                8 => self.clocks(at),
                9 => self.one_for_each_task(),
                10 => self.store(at),
                11 => self.whole_menu(at),
                _ => self.over_and_over(at),
            }
        }
    }

    /// Neighbours suffer the same at once, and once more when they have just come back
    fn rack(&mut self, at: Duration) {
        let kind = self.kind(|kind| kind.dish().scope == Scope::Link);
        let from = self.draws.below(self.schedule.workers.into()) as u16;
        let to = self.draws.between(from.into(), u64::from(self.schedule.workers) - 1) as u16;
        let again = self.near();
        let like = self.fault(kind);
        let times = if self.draws.one_in(500) { vec![at, at + like.span + again] } else { vec![at] };
        for at in times {
            (from..=to.min(from + 40)).for_each(|n| self.strike(at, Fault { node: Node::Worker(n), ..like }));
        }
    }

    /// Everybody goes and comes back, one behind the other, the coordinator in between or not
    fn rolling(&mut self, at: Duration) {
        let kind = self.kind(|kind| kind.dish().scope == Scope::Worker);
        let step = self.rhythm();
        let like = self.fault(kind);
        let mut at = at;
        for n in 0..self.schedule.workers.min(40) {
            self.strike(at, Fault { node: Node::Worker(n), ..like });
            at += step;
            if self.draws.one_in(100) {
                self.strike_with(at, Kind::Restart);
            }
        }
    }

    /// One peer, in step with its heartbeats or a microsecond beside
    fn flapping(&mut self, at: Duration) {
        let kind = self.kind(|kind| kind.dish().scope == Scope::Link);
        let (node, step) = (self.node_for(kind), self.rhythm());
        for n in 0..self.draws.between(3, 25) as u32 {
            let fault = self.fault(kind);
            self.strike(at + step * n, Fault { node, span: fault.span.min(step), ..fault });
        }
    }

    /// The coordinator ends again while it recovers
    fn recovery_upon_recovery(&mut self, at: Duration) {
        let window = Duration::from_millis(self.setting(Knob::RecoveryWindow, 6_000));
        let mut at = at;
        for _ in 0..self.draws.between(2, 6) {
            let kind = if self.draws.one_in(150) { Kind::SyncError } else { Kind::Restart };
            let fault = self.strike_with(at, kind);
            let near = self.near();
            let parts = [Duration::ZERO, US, near, window / 2, window.saturating_sub(US), window, window + US];
            at += fault.span + *self.draws.pick(&parts);
        }
    }

    /// Something breaks so soon behind a submit, a cancel or an end that it may come first
    fn on_the_heels(&mut self) {
        let kind = self.kind(|_| true);
        let moments: Vec<_> = self.schedule.entries.iter().filter_map(what_at).collect();
        let share = *self.draws.pick(&[100, 500, 1000]);
        for (at, takes) in moments {
            if self.draws.one_in(share) {
                let from = if self.draws.one_in(500) { at } else { at + takes };
                let behind = self.near();
                self.strike_with(from + behind, kind);
            }
        }
    }

    /// Many kinds at the very same time
    fn one_instant(&mut self, at: Duration) {
        let node = self.draws.one_in(400).then(|| self.anybody());
        for _ in 0..self.draws.between(3, 12) {
            let kind = self.kind(|_| true);
            let fault = self.fault(kind);
            let node = node.filter(|node| fits(kind, *node)).unwrap_or(fault.node);
            self.strike(at, Fault { node, ..fault });
        }
    }

    /// Everything happens to one peer
    fn picked_on(&mut self, at: Duration) {
        let (node, step) = (self.anybody(), self.rhythm());
        let mut at = at;
        for kind in Kind::ALL.iter().copied().filter(|kind| fits(*kind, node)) {
            let fault = self.fault(kind);
            self.strike(at, Fault { node, ..fault });
            at += step;
        }
    }

    /// What lasts up to the moment of healing, or beyond it
    fn up_to_the_end(&mut self, at: Duration) {
        for _ in 0..self.draws.between(1, 10) {
            let kind = self.kind(|kind| kind.dish().span_ms.1 > 0);
            let fault = self.fault(kind);
            let left = self.schedule.safety.saturating_sub(at);
            let span = *self.draws.pick(&[left, left.saturating_sub(US), left + US, left + self.beat]);
            self.strike(at, Fault { span, ..fault });
        }
    }

    /// All clocks at once, there and back
    fn clocks(&mut self, at: Duration) {
        let kinds = [Kind::ClockStep, Kind::ClockBack, Kind::Drift, Kind::Coarse];
        for at in [at, at + self.rhythm()] {
            let kind = *self.draws.pick(&kinds);
            let like = self.fault(kind);
            for node in self.everybody() {
                self.strike(at, Fault { node, ..like });
            }
        }
    }

    fn one_for_each_task(&mut self) {
        let moments: Vec<_> = self.schedule.entries.iter().filter_map(what_at).collect();
        for (at, takes) in moments {
            let kind = self.kind(|_| true);
            let share = *self.draws.pick(&[0, 1, 2]);
            self.strike_with(at + takes * share / 2, kind);
        }
    }

    /// A disk that is slow when it fails, and a coordinator that ends before the sync does
    fn store(&mut self, at: Duration) {
        let slow = self.strike_with(at, Kind::SlowSync);
        let amount = Duration::from_micros(slow.amount);
        let mut at = at;
        for _ in 0..self.draws.between(1, 5) {
            at += *self.draws.pick(&[US, amount / 2, amount.saturating_sub(US), amount, amount + US]);
            let kind = *self.draws.pick(&[Kind::Restart, Kind::SyncError, Kind::SlowSync]);
            self.strike_with(at, kind);
        }
    }

    /// One of each kind, in a row
    fn whole_menu(&mut self, at: Duration) {
        let step = self.rhythm();
        for (n, kind) in Kind::ALL.iter().copied().enumerate() {
            self.strike_with(at + step * n as u32, kind);
        }
    }

    /// One kind to anybody, often
    fn over_and_over(&mut self, at: Duration) {
        let (kind, mut at) = (self.kind(|_| true), at);
        for _ in 0..self.draws.between(5, 60) {
            self.strike_with(at, kind);
            at += self.rhythm();
        }
    }

    // One fault.

    fn strike_with(&mut self, at: Duration, kind: Kind) -> Fault {
        let fault = self.fault(kind);
        self.strike(at, fault);
        fault
    }

    /// Puts a fault in, unless there are too many of it
    fn strike(&mut self, at: Duration, mut fault: Fault) {
        if at > self.schedule.safety || self.faults == FAULTS {
            return;
        }
        if fault.kind == Kind::ClockBack {
            // As long as it went back, nothing happens at it.
            fault.amount = fault.amount.min(self.back_left.as_micros() as u64);
            self.back_left = self.back_left.saturating_sub(Duration::from_micros(fault.amount));
        }
        fault.span = whole(fault.span);
        self.faults += 1;
        self.push(at, What::Fault(fault));
    }

    /// A fault of a kind, to somebody; its numbers at either end of what the menu has, between, or beyond
    fn fault(&mut self, kind: Kind) -> Fault {
        let dish = kind.dish();
        let (low, high) = dish.amount;
        let amount = if high == 0 {
            0
        } else {
            match self.draws.below(6) {
                0 => low,
                1 => high,
                2 => low / 2,
                3 => high * self.draws.between(2, 4),
                _ => self.draws.between_log(low, high),
            }
        };
        let (low, high) = (Duration::from_millis(dish.span_ms.0), Duration::from_millis(dish.span_ms.1));
        let span = if high.is_zero() {
            Duration::ZERO
        } else {
            match self.draws.below(8) {
                0 => low,
                1 => high,
                2 => US,
                3 => high * 4,
                4 => self.rhythm(),
                _ => Duration::from_micros(self.draws.between_log(1_000, high.as_micros() as u64)),
            }
        };
        let towards = if dish.directed { *self.draws.pick(&[Side::Peer, Side::Coordinator]) } else { Side::Peer };
        Fault { kind, node: self.node_for(kind), towards, span, amount, after: 0 }
    }

    fn kind(&mut self, fits: impl Fn(Kind) -> bool) -> Kind {
        let kinds: Vec<_> = Kind::ALL.iter().copied().filter(|kind| fits(*kind)).collect();
        *self.draws.pick(&kinds)
    }

    // Who and when.

    fn everybody(&self) -> Vec<Node> {
        let workers = (0..self.schedule.workers.min(40)).map(Node::Worker);
        let clients = (0..self.schedule.clients).map(Node::Client);
        workers.chain(clients).chain([Node::Coordinator]).collect()
    }

    fn anybody(&mut self) -> Node {
        let all = self.everybody();
        *self.draws.pick(&all)
    }

    fn node_for(&mut self, kind: Kind) -> Node {
        let all: Vec<_> = self.everybody().into_iter().filter(|node| fits(kind, *node)).collect();
        *self.draws.pick(&all)
    }

    /// Any time of safety
    fn moment(&mut self) -> Duration {
        Duration::from_micros(self.draws.between(0, self.schedule.safety.as_micros() as u64))
    }

    /// Half a heartbeat, one, two, or what silence is; or a microsecond beside, or nothing, or anything up to a second
    fn rhythm(&mut self) -> Duration {
        let beat = self.beat;
        let even = match self.draws.below(8) {
            0 => beat / 2,
            1 | 2 => beat,
            3 => beat * 2,
            4 => beat * 5 / 2,
            5 => return Duration::from_micros(self.draws.between_log(1, 1_000_000)),
            6 => return Duration::ZERO,
            _ => Duration::from_millis(self.setting(Knob::LostAfter, 4_000)).min(beat * 5),
        };
        *self.draws.pick(&[even, even, even + US, even.saturating_sub(US)])
    }

    /// So long as a message, an answer or a sync takes; or a microsecond beside
    fn near(&mut self) -> Duration {
        let one_way = Duration::from_micros(self.setting(Knob::Latency, 1_000));
        let sync = Duration::from_micros(self.setting(Knob::SyncTakes, 500));
        let spans = [Duration::ZERO, one_way, one_way * 2, sync, one_way + sync, one_way * 2 + sync];
        let span = *self.draws.pick(&spans);
        *self.draws.pick(&[span, span, span + US, span.saturating_sub(US)])
    }

    /// Puts something in, at the end of safety if it would be later
    fn push(&mut self, at: Duration, what: What) {
        self.schedule.entries.push(Entry { at: whole(at.min(self.schedule.safety)), what });
    }
}

/// A time as a schedule can have it
fn whole(span: Duration) -> Duration {
    Duration::from_micros(span.as_micros() as u64)
}

/// When something is asked for, and how long it takes
fn what_at(entry: &Entry) -> Option<(Duration, Duration)> {
    match entry.what {
        What::Submit(task) => Some((entry.at, task.takes)),
        What::Cancel { .. } | What::Again { .. } | What::Clash { .. } => Some((entry.at, Duration::ZERO)),
        What::Fault(_) => None,
    }
}

/// Whether a kind can strike somebody
fn fits(kind: Kind, node: Node) -> bool {
    match (kind.dish().scope, node) {
        (Scope::Anybody, _)
        | (Scope::Coordinator, Node::Coordinator)
        | (Scope::Worker | Scope::Link, Node::Worker(_))
        | (Scope::Link, Node::Client(_)) => true,
        (Scope::Worker | Scope::Link, Node::Coordinator)
        | (Scope::Worker, Node::Client(_))
        | (Scope::Coordinator, Node::Worker(_) | Node::Client(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::Simulation;

    const SEEDS: u64 = 2_000;

    #[test]
    fn a_seed_means_the_same_each_time_and_can_be_written_down() {
        for seed in 0..SEEDS {
            let schedule = generate(seed);
            assert!(schedule == generate(seed), "seed {seed}");
            assert!(schedule.to_string().parse() == Ok(schedule), "seed {seed}");
        }
    }

    #[test]
    fn settings_are_legal_together_and_within_the_budget() {
        for seed in (0..SEEDS).filter(|seed| seed % 10 == 0) {
            let schedule = generate(seed);
            drop(Simulation::new(&schedule));
            assert!((SAFETY_MIN..=SAFETY_MAX).contains(&schedule.safety), "seed {seed}: {:?}", schedule.safety);
            assert!(schedule.faults() <= FAULTS && schedule.tasks() <= TASKS as usize, "seed {seed}");
        }
    }

    #[test]
    fn the_ends_of_ranges_are_reached_and_every_kind_is_drawn_at_both_ends_and_beyond() {
        let all: Vec<Schedule> = (0..SEEDS).map(generate).collect();
        for knob in Knob::ALL.iter().copied().filter(|knob| {
            ![Knob::Latency, Knob::SyncTakes, Knob::Compare, Knob::PendingMax, Knob::BulkUnderWay].contains(knob)
        }) {
            let (low, mut high) = knob.range();
            if [Knob::LeaseTtl, Knob::LeaseGrace, Knob::BrakeFor].contains(&knob) {
                high = 600_000;
            }
            let has = |value| all.iter().any(|schedule| schedule.setting(knob) == Some(value));
            assert!(has(low) && has(high), "{}", knob.name());
        }
        let faults = || {
            all.iter().flat_map(|schedule| &schedule.entries).filter_map(|entry| match entry.what {
                What::Fault(fault) => Some((entry.at, fault)),
                What::Submit(_) | What::Cancel { .. } | What::Again { .. } | What::Clash { .. } => None,
            })
        };
        for kind in Kind::ALL.iter().copied() {
            let (dish, of) = (kind.dish(), || faults().filter(move |(_, fault)| fault.kind == kind));
            let (low, high) = dish.amount;
            assert!(of().any(|(at, _)| at.is_zero()), "{} at the start", dish.name);
            assert!(of().any(|(_, f)| f.amount == low) && of().any(|(_, f)| f.amount == high), "{}", dish.name);
            assert!(high == 0 || of().any(|(_, f)| f.amount > high), "{} beyond", dish.name);
        }
        let tasks: Vec<_> = all.iter().map(Schedule::tasks).collect();
        assert!(tasks.contains(&1) && tasks.contains(&(TASKS as usize)));
        assert!(all.iter().any(|s| s.workers == 1) && all.iter().any(|s| s.workers > 100 && s.clients == 8));
        assert!(all.iter().any(|s| s.safety == SAFETY_MIN) && all.iter().any(|s| s.safety == SAFETY_MAX));
    }
}
