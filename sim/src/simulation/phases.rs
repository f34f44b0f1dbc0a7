//! From the start to the last audit

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use rejoin_core::Instant;
use rejoin_core::link::{LinkState, Reason};

use super::net::Net;
use super::nodes::Machine;
use super::people::heartbeat;
use super::{Happening, Simulation, Who};
use crate::audit::{Auditor, Check, Violation};
use crate::menu::{Kind, Tally};
use crate::schedule::{Fault, Knob, Schedule, What};
use crate::swarm::Failure;
use crate::trace::{Told, Trace};

/// Heartbeats of quiet
const QUIET_HEARTBEATS: u32 = 20;

/// What a simulation has to show
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Things that happened
    pub events: u64,
    /// Messages that machines sent, and their bytes
    pub frames: u64,
    /// Their bytes
    pub bytes: u64,
    /// Records that the coordinator wrote
    pub records: u64,
    /// Dials
    pub dials: u64,
    /// Sessions that went on where they were
    pub resumed: u64,
    /// Sessions that were opened
    pub opened: u64,
    /// Links found dead by silence
    pub silences: u64,
    /// Faults that happened
    pub faults: u64,
    /// Tasks submitted
    pub submitted: u64,
    /// Submits that were refused
    pub refused: u64,
    /// Cancels asked for
    pub cancels: u64,
    /// Executions begun
    pub executions: u64,
    /// Checkpoints that workers were told to be durable
    pub checkpoints: u64,
    /// Workers that a task took along
    pub poisoned: u64,
    /// Recoveries of the coordinator
    pub recoveries: u64,
    /// Outcomes that clients were told
    pub told: u64,
    /// Virtual time, in microseconds
    pub time_us: u64,
}

impl Figures {
    /// Adds those of another simulation
    pub fn add(&mut self, other: &Figures) {
        let sums = [
            (&mut self.events, other.events),
            (&mut self.frames, other.frames),
            (&mut self.bytes, other.bytes),
            (&mut self.records, other.records),
            (&mut self.dials, other.dials),
            (&mut self.resumed, other.resumed),
            (&mut self.opened, other.opened),
            (&mut self.silences, other.silences),
            (&mut self.faults, other.faults),
            (&mut self.submitted, other.submitted),
            (&mut self.refused, other.refused),
            (&mut self.cancels, other.cancels),
            (&mut self.executions, other.executions),
            (&mut self.checkpoints, other.checkpoints),
            (&mut self.poisoned, other.poisoned),
            (&mut self.recoveries, other.recoveries),
            (&mut self.told, other.told),
            (&mut self.time_us, other.time_us),
        ];
        sums.into_iter().for_each(|(sum, n)| *sum += n);
    }
}

/// How a simulation ended
#[derive(Clone, Debug)]
pub struct Ending {
    /// What did not hold, if anything
    pub violation: Option<Violation>,
    /// Nothing was done, so that nothing was shown
    pub void: bool,
    /// What it has to show
    pub figures: Figures,
    /// Which faults happened, and had an effect
    pub tally: Tally,
    /// How often each check had occasion to fail
    pub premises: Vec<u64>,
    /// The fingerprint of all that happened (S29)
    pub hash: u64,
    /// What happened, where it was recorded
    pub trace: Trace,
}

impl Simulation {
    /// Runs a schedule from the start to the last audit
    pub fn run(schedule: &Schedule) -> Ending {
        Simulation::new(schedule).finish()
    }

    /// Runs to the last audit, or the first violation
    pub fn finish(mut self) -> Ending {
        self.go_through();
        self.end()
    }

    /// Records all of it, and says what failed, if anything; a panic of a machine leaves what led to it
    pub fn watch(schedule: &Schedule) -> (Trace, Option<Failure>) {
        let mut simulation = Simulation::with(schedule, Trace::recording());
        // What a panic leaves half done is only looked at.
        let went = catch_unwind(AssertUnwindSafe(|| simulation.go_through()));
        let violation = simulation.auditor.violation().cloned().map(Failure::Violation);
        (simulation.trace, went.err().map(Failure::panicked).or(violation))
    }

    fn go_through(&mut self) {
        self.run_until(Instant::ZERO + self.schedule.safety);
        if self.goes_on() {
            self.see_phase("healed");
            self.heal();
            self.come_to_rest();
        }
        if self.goes_on() {
            self.see_phase("quiet");
            self.be_quiet();
        }
        if self.goes_on() {
            self.see_phase("drain");
            self.leave();
        }
    }

    fn see_phase(&mut self, phase: &'static str) {
        self.trace.see(self.now, || Told::Phase(phase));
    }

    fn goes_on(&self) -> bool {
        self.auditor.violation().is_none()
    }

    /// Nothing breaks any more: links are whole, everybody is there, clocks run right from where they are
    fn heal(&mut self) {
        self.healed = true;
        let now = self.now;
        self.chief.life.clock.drift(now, 0);
        self.chief.life.clock.coarsen(1);
        self.chief.fails_next = None;
        self.start_chief();
        for peer in 0..self.peers.len() {
            self.peers[peer].net = Net::default();
            self.peers[peer].life.clock.drift(now, 0);
            self.peers[peer].life.clock.coarsen(1);
            self.start_peer(peer);
            self.tell_time(Who::Peer(peer));
        }
        self.tell_time(Who::Chief);
        // What waited for a stall or a full buffer goes on now.
        self.sockets.values_mut().flat_map(|socket| &mut socket.pipes).for_each(|pipe| pipe.breaks_after = None);
        let all: Vec<_> = self.sockets.keys().copied().collect();
        for conn in all {
            for side in [crate::net::Side::Peer, crate::net::Side::Coordinator] {
                self.happen(Duration::ZERO, conn.0, Happening::Bytes { conn, towards: side });
                self.happen(Duration::ZERO, conn.0, Happening::Writable { conn, at: side });
            }
        }
        self.drain();
    }

    /// Whether a worker has left for good
    pub(super) fn is_gone(&self, peer: usize) -> bool {
        matches!(&self.peers[peer].machine, Some(Machine::Worker(worker)) if worker.stopped() == Some(Reason::Left))
    }

    /// Longest time that everything may take to end, after nothing breaks any more
    fn patience(&self) -> Duration {
        let ms = |knob, usual| Duration::from_millis(self.schedule.setting(knob).unwrap_or(usual));
        let timers = ms(Knob::RecoveryWindow, 6_000).max(ms(Knob::LostAfter, 4_000))
            + ms(Knob::LostAfter, 4_000)
            + ms(Knob::SessionLifetime, 10_000)
            + ms(Knob::BackoffCap, 2_000) * 4
            + heartbeat(&self.schedule) * 10
            + Duration::from_secs(5 + 10 + 10 + 5);
        let tasks = self.schedule.entries.iter().filter_map(|entry| match entry.what {
            // Each attempt, and the pauses between them.
            What::Submit(task) => {
                let attempts = 1 + task.fails.min(task.retries) + task.poison.min(10);
                Some((task.takes + Duration::from_secs(1)).saturating_mul(attempts))
            }
            What::Cancel { .. } | What::Fault(_) => None,
        });
        let work = tasks.fold(Duration::ZERO, Duration::saturating_add);
        let slots = self.schedule.setting(Knob::Slots).unwrap_or(2).max(1) as u32;
        let pauses = Duration::from_secs(130).min(work);
        // A year is for ever.
        let all = timers.saturating_add(work / slots).saturating_add(pauses).min(Duration::from_secs(366 * 86_400));
        all * 2 + self.time_lost()
    }

    /// How long a clock that went back may stand still for its machine
    fn time_lost(&self) -> Duration {
        let back = self.schedule.entries.iter().filter_map(|entry| match entry.what {
            What::Fault(Fault { kind: Kind::ClockBack, amount, .. }) => Some(Duration::from_micros(amount)),
            What::Fault(_) | What::Submit(_) | What::Cancel { .. } => None,
        });
        back.sum()
    }

    /// Everything ends, everybody is connected, and every client knows (L1, L2)
    fn come_to_rest(&mut self) {
        let (from, patience) = (self.now, self.patience());
        let end = from + patience;
        while self.goes_on() && self.now < end && !self.is_at_rest() {
            for peer in 0..usize::from(self.schedule.workers) {
                if self.is_gone(peer) {
                    // It was told to before, and has come to the end of that only now.
                    self.start_peer(peer);
                }
            }
            let next = self.now + Duration::from_millis(250);
            self.run_until(next.min(end));
        }
        if !self.goes_on() {
            return;
        }
        for peer in 0..self.peers.len() {
            let (name, state) = (self.name(Who::Peer(peer)), self.state(peer));
            self.auditor.expect(Check::L2, state == Some(LinkState::Connected), || {
                format!("{name} is {state:?}, {patience:?} after the network has healed")
            });
        }
        for id in self.auditor.promised().collect::<Vec<_>>() {
            let ended = self.auditor.ended(id);
            let number = self.tasks.get(&id).map_or(0, |task| task.number);
            let state = self.chief.machine.as_ref().and_then(|machine| machine.task(id)).map(|task| task.state);
            self.auditor.expect_of(Check::L1, id, ended.is_some(), || {
                format!("task {number} is {state:?}, {patience:?} after the network has healed")
            });
        }
        let told = self.figures.told >= self.figures.submitted.saturating_sub(self.figures.refused);
        let (have, want) = (self.figures.told, self.figures.submitted);
        self.auditor.expect(Check::L1, told, || format!("clients were told {have} of {want} outcomes"));
    }

    fn is_at_rest(&self) -> bool {
        let told = self.figures.told >= self.figures.submitted.saturating_sub(self.figures.refused);
        let connected = (0..self.peers.len()).all(|peer| self.state(peer) == Some(LinkState::Connected));
        told && connected && self.auditor.promised().all(|task| self.auditor.ended(task).is_some())
    }

    fn state(&self, peer: usize) -> Option<LinkState> {
        match self.peers[peer].machine.as_ref()? {
            Machine::Worker(worker) => Some(worker.state()),
            Machine::Client(client) => Some(client.state()),
        }
    }

    /// Nothing but heartbeats (L6)
    fn be_quiet(&mut self) {
        let period = heartbeat(&self.schedule);
        // What is still owed is said, and links that died without a word are found: after 2.5 periods, put off twice by
        // what looks like a message that is on its way.
        self.run_until(self.now + period * 8 + Duration::from_secs(2) + self.time_lost());
        let (frames, dials) = (self.figures.frames, self.figures.dials);
        self.run_until(self.now + period * QUIET_HEARTBEATS);
        if !self.goes_on() {
            return;
        }
        let (frames, dials) = (self.figures.frames - frames, self.figures.dials - dials);
        // A beat and its echo, from both ends of each link, with a tenth more for jitter.
        let most = self.peers.len() as u64 * u64::from(QUIET_HEARTBEATS + 3) * 4;
        self.auditor.expect(Check::L6, frames <= most && dials == 0, || {
            format!("{frames} frames and {dials} dials in {QUIET_HEARTBEATS} heartbeats, at most {most} are due")
        });
        let live = |peer: &super::nodes::Peer| matches!(peer.machine, Some(Machine::Worker(_)));
        let held: usize = self.peers.iter().filter(|peer| live(peer)).map(|peer| peer.running.len()).sum();
        self.auditor.expect(Check::S30, held == 0, || format!("workers still keep {held} executions"));
    }

    /// Every worker leaves in order, and nothing is left (L11, S30)
    fn leave(&mut self) {
        let workers = 0..usize::from(self.schedule.workers);
        for peer in workers.clone() {
            self.drain_worker(peer);
        }
        self.drain();
        self.run_until(self.now + heartbeat(&self.schedule) * 4 + Duration::from_secs(10));
        if !self.goes_on() {
            return;
        }
        for peer in workers {
            let (name, gone) = (self.name(Who::Peer(peer)), self.is_gone(peer));
            self.auditor.expect(Check::L11, gone, || format!("{name} does not come to the end of its drain"));
        }
        let counts = self.chief.machine.as_ref().map(|machine| machine.counts());
        let open = counts.map_or(0, |counts| counts.open());
        self.auditor.expect(Check::S30, open == 0, || format!("{open} tasks are left"));
        let mut violations = self.breaches;
        if let Some(machine) = &self.chief.machine {
            machine.check();
            violations += machine.stats().violations;
        }
        for peer in &self.peers {
            if let Some(machine) = &peer.machine {
                machine.check();
                violations += machine.violations();
            }
        }
        self.auditor.expect(Check::S11, violations == 0, || format!("{violations} breaches were found"));
    }

    fn end(mut self) -> Ending {
        self.figures.time_us = self.now.as_micros();
        if let Some(machine) = &self.chief.machine {
            self.figures.resumed += machine.stats().resumed;
            self.figures.opened += machine.stats().opened;
        }
        let void = self.figures.executions == 0 && self.schedule.tasks() > 0;
        Ending {
            violation: self.auditor.violation().cloned(),
            void,
            figures: self.figures,
            tally: self.tally,
            premises: Auditor::premises(&self.auditor).to_vec(),
            hash: self.trace.hash(),
            trace: self.trace,
        }
    }
}
