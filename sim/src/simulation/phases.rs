//! From the start to the last audit

use std::collections::BTreeSet;
use std::time::Duration;

use rejoin_core::Instant;
use rejoin_core::ids::TaskId;
use rejoin_core::limits::{BULK_PIECE_BYTES_MIN, INLINE_BYTES_MAX, RETRY_AFTER_MAX, WIRE_VERSION};
use rejoin_core::link::{LinkState, Reason};
use rejoin_core::terms::{Class, Terms};

use super::chief::{BRAKE_MS, LEASE_GRACE_MS, LEASE_TTL_MS};
use super::net::{Net, Pipe, Timed};
use super::nodes::Machine;
use super::people::heartbeat;
use super::{Happening, Simulation, Who};
use crate::audit::{Auditor, Check, Violation};
use crate::cover::Cover;
use crate::logic::{RESULT_BYTES_MAX, Seen};
use crate::menu::{Kind, Tally};
use crate::schedule::{Fault, Knob, Schedule, Task, What};
use crate::trace::{Told, Trace};
use crate::words::words;

/// Longest pause behind a failed attempt
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Heartbeats of quiet
const QUIET_HEARTBEATS: u32 = 20;

/// What a simulation has to show
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Things that happened
    pub events: u64,
    /// Frames that machines sent, those of handshakes included
    pub frames: u64,
    /// Messages in them
    pub messages: u64,
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
    /// Bytes of chunks that workers and clients sent, whether they arrived or not
    pub chunk_bytes: u64,
    /// Attempts that workers had finished in an earlier life and took back
    pub restored: u64,
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
            (&mut self.messages, other.messages),
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
            (&mut self.chunk_bytes, other.chunk_bytes),
            (&mut self.restored, other.restored),
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
    /// In which states faults struck
    pub cover: Cover,
    /// How often each check had occasion to fail
    pub premises: Vec<u64>,
    /// How the tasks ended
    pub seen: Seen,
    /// The fingerprint of all that happened (S29)
    pub hash: u64,
    /// What happened, where it was recorded
    pub trace: Trace,
}

/// All pauses of a task that fails so often: each twice as long as the one before
fn retry_pauses(first: Duration, fails: u32) -> Duration {
    let pause = |n: u32| first.saturating_mul(1 << n.min(16)).min(RETRY_PAUSE_MAX);
    let doubling = fails.min(17);
    (0..doubling).map(pause).sum::<Duration>() + pause(16) * (fails - doubling)
}

impl Simulation {
    /// Runs a schedule from the start to the last audit, with tasks that do what its lines say
    pub fn run(schedule: &Schedule) -> Ending {
        Simulation::new(schedule).finish()
    }

    /// Runs to the last audit, or the first violation
    pub fn finish(mut self) -> Ending {
        self.pass_phases();
        if self.goes_on() {
            self.compare();
        }
        self.end()
    }

    /// Everything up to the last audit, the first violation, or where it is to stop
    pub(crate) fn pass_phases(&mut self) {
        self.run_until(Instant::ZERO + self.schedule.safety);
        if self.goes_on() {
            self.see_phase("healed");
            self.heal();
            self.come_to_rest();
        }
        if self.goes_on() && self.thaw() {
            self.come_to_rest();
        }
        if self.goes_on() {
            self.see_phase("quiet");
            self.be_quiet();
        }
        if self.goes_on() {
            self.measure_goodput();
        }
        if self.goes_on() {
            self.see_phase("drain");
            self.leave();
        }
        if self.goes_on() {
            let outside = self.workload.check(&self.seen);
            self.auditor.expect(Check::Outside, outside.is_ok(), || outside.err().unwrap_or_default());
        }
    }

    fn see_phase(&mut self, phase: &'static str) {
        self.trace.see(self.now, || Told::Phase(phase));
    }

    pub(super) fn goes_on(&self) -> bool {
        self.auditor.violation().is_none() && !self.stopped
    }

    /// Nothing breaks any more: links are whole, everybody is there, clocks run right from where they are
    fn heal(&mut self) {
        self.healed = true;
        let now = self.now;
        self.chief.life.clock.drift(now, 0);
        self.chief.life.clock.coarsen(1);
        self.chief.fails_next = None;
        self.chief.life.overslept = false;
        if let Some(upto) = self.chief.syncing {
            let life = self.chief.life.number;
            self.happen(self.chief.sync_takes, 0, Happening::Synced { upto, life });
        }
        if self.needs_new_words() && self.chief.config.wire_version < WIRE_VERSION {
            self.chief.config.wire_version = WIRE_VERSION;
            self.kill_chief(0);
        }
        self.right_store();
        self.start_chief();
        // Somebody has to do the work.
        if (0..usize::from(self.schedule.workers)).all(|peer| self.peers[peer].frozen) {
            self.peers[0].frozen = false;
        }
        for peer in 0..self.people() {
            if self.peers[peer].frozen {
                self.freeze(peer);
            } else {
                self.heal_peer(peer);
            }
        }
        for clone in self.people()..self.peers.len() {
            self.kill_peer(clone);
        }
        self.tell_time(Who::Chief);
        self.wake_sockets();
    }

    /// What waited for a stall or a full buffer goes on now
    fn wake_sockets(&mut self) {
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

    fn heal_peer(&mut self, peer: usize) {
        let now = self.now;
        let node = &mut self.peers[peer];
        node.frozen = false;
        node.net = Net::default();
        node.life.clock.drift(now, 0);
        node.life.clock.coarsen(1);
        node.life.overslept = false;
        let is_old = node.wire_version.is_some_and(|version| version < WIRE_VERSION);
        if is_old && self.needs_new_words() {
            self.peers[peer].wire_version = None;
            self.kill_peer(peer);
        }
        self.right_key(peer);
        self.enrols(peer);
        self.heal_store(peer);
        self.start_peer(peer);
        self.tell_time(Who::Peer(peer));
    }

    /// Whether there are tasks that wait for ever where all speak a version that has no words for their terms or inputs (FRAME-6)
    fn needs_new_words(&self) -> bool {
        let is_large = |task: &Task| self.workload.payload(task).len() > INLINE_BYTES_MAX;
        self.tasks.values().any(|task| task.terms != Terms::default() || is_large(task))
    }

    /// What had stayed broken heals as well; `false` if nothing had
    fn thaw(&mut self) -> bool {
        let frozen: Vec<usize> = (0..self.people()).filter(|peer| self.peers[*peer].frozen).collect();
        frozen.iter().for_each(|peer| self.heal_peer(*peer));
        self.wake_sockets();
        !frozen.is_empty()
    }

    /// What is broken at a worker stays so; where nothing is, it is cut off
    fn freeze(&mut self, peer: usize) {
        self.tally.hit(Kind::Frozen);
        self.orphans.extend(self.peers[peer].running.values().filter(|e| !e.over).map(|e| e.id));
        let (now, for_ever) = (self.now, Timed::FOR_EVER);
        let life = &mut self.peers[peer].life;
        if life.paused.at(now).is_some() {
            life.paused.set(for_ever.as_micros(), for_ever);
        } else {
            self.peers[peer].net.partitioned.set(for_ever.as_micros(), for_ever);
        }
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
            + self.longest_absence()
            + ms(Knob::BrakeFor, BRAKE_MS)
            + Duration::from_secs(self.schedule.workers.into())
            + Duration::from_secs(5 + 10 + 10 + 5);
        // Whoever comes second with a key is told to stay away for so long.
        let clones = self.schedule.entries.iter().any(|entry| entry.what.is_one_of(&[Kind::Clone]));
        let timers = timers + Duration::from_secs(if clones { 45 } else { 0 });
        // Everybody is let in, and says and writes down what there is.
        let us = |knob, usual| Duration::from_micros(self.schedule.setting(knob).unwrap_or(usual));
        let talk = us(Knob::Latency, 1_000) * 10 + us(Knob::SyncTakes, 500) * 4;
        let rate = self.schedule.setting(Knob::AdmissionRate).unwrap_or(2_000).max(1);
        // Whoever dials again and again while few are let in may have been told to stay away for the longest time there is.
        let herd = Duration::from_secs(self.peers.len() as u64 / rate)
            + if rate < 1_000 { RETRY_AFTER_MAX } else { Duration::ZERO };
        // Each attempt, and the pauses between them.
        let lost = self.chief.config.losses_max.saturating_add(self.chief.config.crashes_max);
        let (mut work, mut pauses, mut poisonous) = (Duration::ZERO, Duration::ZERO, false);
        let mut longest = Duration::ZERO;
        for entry in &self.schedule.entries {
            let What::Submit(task) = entry.what else { continue };
            let fails = task.fails.min(task.retries);
            let attempts = 1 + fails + task.poison.min(lost);
            let bytes = self.transfer(task.returns)
                + self.transfer(if task.input as usize > INLINE_BYTES_MAX { task.input } else { 0 });
            let takes = task.takes + Duration::from_secs(1) + talk + bytes;
            let takes = takes.saturating_mul(attempts);
            work = work.saturating_add(takes);
            longest = longest.max(takes);
            pauses = pauses.max(retry_pauses(ms(Knob::RetryPause, 100), fails));
            if task.terms.class == Class::Exclusive {
                // Each worker that it takes along has had a lease.
                pauses = pauses.saturating_add(self.longest_lease().saturating_mul(task.poison.min(lost)));
            }
            poisonous |= task.poison > 0;
        }
        // Whoever goes takes along what runs beside, and who flaps runs one at a time, so that slots are of no help.
        let slots = if poisonous || self.schedule.faults() > 0 {
            1
        } else {
            self.schedule.setting(Knob::Slots).unwrap_or(2).max(1) as u32
        };
        let work = (work / slots).saturating_add(longest).saturating_add(pauses);
        // A year is for ever.
        let all = (timers + talk + herd).saturating_add(work).min(Duration::from_secs(366 * 86_400));
        all * 2 + self.time_lost()
    }

    /// Longest time that an input or a result is on its way in pieces, to the coordinator and on from there
    fn transfer(&self, bytes: u32) -> Duration {
        if bytes <= RESULT_BYTES_MAX {
            return Duration::ZERO;
        }
        let piece = self
            .schedule
            .setting(Knob::SendBuffer)
            .map_or(BULK_PIECE_BYTES_MIN, |most| most.clamp(1, BULK_PIECE_BYTES_MIN));
        // Where little is let under way, or a buffer holds less than a piece, each waits for the one before to arrive.
        let pieces = u32::try_from(u64::from(bytes).div_ceil(piece)).unwrap_or(u32::MAX);
        (self.latency * 4 + self.chief.sync_takes).saturating_mul(pieces.saturating_add(8))
    }

    /// Longest time that an exclusive task waits for a lease to end
    fn longest_lease(&self) -> Duration {
        let ms = |knob, usual| Duration::from_millis(self.schedule.setting(knob).unwrap_or(usual));
        let ttl = ms(Knob::LeaseTtl, LEASE_TTL_MS).max(heartbeat(&self.schedule) * 3);
        (ttl + ms(Knob::LeaseGrace, LEASE_GRACE_MS)) * 2 + Duration::from_secs(2)
    }

    /// Longest time that a task waits for a worker that stays away, or for its lease to end
    fn longest_absence(&self) -> Duration {
        let ms = |knob, usual| Duration::from_millis(self.schedule.setting(knob).unwrap_or(usual));
        let tasks = self.schedule.entries.iter().filter_map(|entry| match entry.what {
            What::Submit(task) => Some(task.terms),
            What::Fault(_) | What::Cancel { .. } | What::Again { .. } | What::Clash { .. } => None,
        });
        let lost_after = ms(Knob::LostAfter, 4_000);
        let wait = self.longest_lease();
        let given_up = tasks.map(|terms| {
            let lease = if terms.class == Class::Exclusive { wait } else { Duration::ZERO };
            terms.given_up_after(lost_after) + lease
        });
        given_up.max().unwrap_or_default()
    }

    /// How long a clock that went back may stand still for its machine
    fn time_lost(&self) -> Duration {
        let back = self.schedule.entries.iter().filter_map(|entry| match entry.what {
            What::Fault(Fault { kind: Kind::ClockBack, amount, .. }) => Some(Duration::from_micros(amount)),
            What::Fault(_) | What::Submit(_) | What::Cancel { .. } | What::Again { .. } | What::Clash { .. } => None,
        });
        back.sum()
    }

    /// Everything ends, everybody is connected, and every client knows (L1, L2)
    fn come_to_rest(&mut self) {
        let (from, patience) = (self.now, self.patience());
        let end = from + patience;
        while self.goes_on() && self.now < end && !self.is_at_rest() {
            for peer in 0..usize::from(self.schedule.workers) {
                if self.is_gone(peer) && !self.peers[peer].frozen {
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
        for peer in (0..self.people()).filter(|peer| !self.peers[*peer].frozen) {
            let (name, state) = (self.name(Who::Peer(peer)), self.state(peer));
            self.auditor.expect(Check::L2, state == Some(LinkState::Connected), || {
                let state = state.map_or("not alive".into(), words);
                format!("{name} is {state}, {patience:?} after the network has healed")
            });
        }
        for id in self.auditor.promised().collect::<Vec<_>>() {
            let ended = self.auditor.ended(id);
            let number = self.tasks.get(&id).map_or(0, |task| task.number);
            let state = self.chief.machine.as_ref().and_then(|machine| machine.task(id)).map(|task| task.state);
            self.auditor.expect_of(Check::L1, id, ended.is_some(), || {
                let state = state.map_or("not known".into(), words);
                format!("task {number} is {state}, {patience:?} after the network has healed")
            });
        }
        // What went with the coordinator's store is no promise any more.
        let promised: BTreeSet<TaskId> = self.auditor.promised().collect();
        for id in std::mem::take(&mut self.orphans).into_iter().filter(|id| promised.contains(id)) {
            let ended = self.auditor.ended(id).is_some();
            self.auditor.expect_of(Check::L5, id, ended, || format!("{id} waits for a worker that does not come back"));
        }
        let least = self.tasks.iter().filter(|(_, task)| task.priority == 4).map(|(id, _)| *id);
        for id in least.filter(|id| self.auditor.is_promised(*id)).collect::<Vec<_>>() {
            let ended = self.auditor.ended(id).is_some();
            self.auditor.expect_of(Check::L7, id, ended, || format!("{id} is one of the least urgent, and not done"));
        }
        let told = self.figures.told >= self.figures.submitted.saturating_sub(self.figures.refused);
        let (have, want) = (self.figures.told, self.figures.submitted);
        self.auditor.expect(Check::L1, told, || format!("clients were told {have} of {want} outcomes"));
        let fetched = self.peers.iter().all(|peer| peer.fetches.is_empty());
        self.auditor.expect(Check::L1, fetched, || "a client still fetches a result".into());
    }

    fn is_at_rest(&self) -> bool {
        let told = self.figures.told >= self.figures.submitted.saturating_sub(self.figures.refused);
        let told = told && self.peers.iter().all(|peer| peer.fetches.is_empty());
        let connected =
            (0..self.people()).all(|peer| self.peers[peer].frozen || self.state(peer) == Some(LinkState::Connected));
        told && connected && self.auditor.promised().all(|task| self.auditor.ended(task).is_some())
    }

    pub(super) fn state(&self, peer: usize) -> Option<LinkState> {
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
        // A key that is being kept is used when it is there, by a dial (AUTH-6).
        let keeping = self.chief.keeping + self.peers.iter().map(|peer| peer.keeping).max().unwrap_or_default();
        // And whoever was told in which slot to come back does that (BACK-3).
        let last_back = self.now.max(self.chief.slots_end);
        self.run_until(last_back + period * 8 + Duration::from_secs(2) + self.time_lost() + keeping);
        let (frames, dials) = (self.figures.frames, self.figures.dials);
        self.quiet = true;
        self.run_until(self.now + period * QUIET_HEARTBEATS);
        self.quiet = false;
        if !self.goes_on() {
            return;
        }
        let (frames, dials) = (self.figures.frames - frames, self.figures.dials - dials);
        // A beat and its echo, from both ends of each link, with a tenth more for jitter.
        let most = self.people() as u64 * u64::from(QUIET_HEARTBEATS + 3) * 4;
        self.auditor.expect(Check::L6, frames <= most && dials == 0, || {
            format!("{frames} frames and {dials} dials in {QUIET_HEARTBEATS} heartbeats, at most {most} are due")
        });
        for peer in self.peers.iter().filter(|peer| matches!(peer.machine, Some(Machine::Worker(_)))) {
            let waits = peer.running.iter().find(|(_, execution)| execution.over);
            let (token, task) = (waits.map(|(token, _)| *token), waits.map(|(_, execution)| execution.id));
            self.auditor.expect_of(Check::L4, task, waits.is_none(), || {
                format!("a result still waits: {} at {}", words(token), words(task))
            });
        }
        let live = |peer: &super::nodes::Peer| matches!(peer.machine, Some(Machine::Worker(_)));
        let held: usize = self.peers.iter().filter(|peer| live(peer)).map(|peer| peer.running.len()).sum();
        self.auditor.expect(Check::S30, held == 0, || format!("workers still keep {held} executions"));
        let machine = self.chief.machine.as_ref();
        let ends = self.tasks.keys().filter_map(|task| machine?.task(*task)?.end);
        let results = ends.filter(|end| end.elsewhere.is_some()).filter_map(|end| self.returned.get(&end.token?));
        let (kept, wanted) = (self.chief.journal.chunks(), results.map(|(_, chunks)| chunks).sum::<usize>());
        self.auditor.expect(Check::S30, kept == wanted, || {
            format!("{kept} chunks are still kept, and results consist of {wanted}")
        });
        if self.was_full {
            let stuck = |pipe: &Pipe| pipe.full && pipe.in_flight == 0;
            let full = self.sockets.values().filter(|s| s.open == [true; 2] && s.pipes.iter().any(stuck));
            let full = full.count();
            self.auditor.expect(Check::L9, full == 0, || format!("{full} connections still take nothing in"));
        }
        self.expect_counts();
    }

    /// The coordinator knows as many tasks as were accepted, and in the end all of them as ended (S20)
    fn expect_counts(&mut self) {
        let Some(machine) = &self.chief.machine else { return };
        let (counts, promised) = (machine.counts(), self.auditor.promised().count() as u64);
        self.auditor.expect(Check::S20, counts.open() == 0 && counts.ended == promised, || {
            format!("{} tasks are open and {} ended, and {promised} were accepted", counts.open(), counts.ended)
        });
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
        let provoked = self.provoked;
        self.auditor.expect(Check::S11, violations == provoked, || {
            format!("{violations} breaches were found, and {provoked} committed")
        });
    }

    pub(crate) fn end(mut self) -> Ending {
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
            cover: self.cover,
            premises: Auditor::premises(&self.auditor).to_vec(),
            seen: self.seen,
            hash: self.trace.hash(),
            trace: self.trace,
        }
    }
}
