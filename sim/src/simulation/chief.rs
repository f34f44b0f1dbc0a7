//! What the coordinator does, and its journal

use std::time::Duration;

use rejoin_core::coordinator::{self, Config, Coordinator, Recovery, Why};
use rejoin_core::ids::{ClusterId, TaskId};
use rejoin_core::journal::Record;
use rejoin_core::terms::Terms;
use rejoin_core::{Instant, Seed};

use super::net::Timed;
use super::nodes::{Chief, Life};
use super::people::{heartbeat, pins};
use super::{Happening, Simulation, Who, rogue};
use crate::audit::Check;
use crate::draws::{Draws, Purpose, mix};
use crate::journal::Journal;
use crate::menu::Kind;
use crate::net::Side;
use crate::schedule::{Knob, Node, Schedule};
use crate::trace::Told;
use crate::words::words;
use crate::world::{client_key, worker_key};

/// How long whoever supervises the coordinator waits until it is started once more
const TRIES_AGAIN_AFTER: Duration = Duration::from_millis(300);
/// How long losses are delayed after many workers have vanished, where nothing else is said
pub(super) const BRAKE_MS: u64 = 5_000;
/// Leases, where nothing else is said
pub(super) const LEASE_TTL_MS: u64 = 3_000;
pub(super) const LEASE_GRACE_MS: u64 = 500;
/// How long a sync takes, where nothing else is said
const SYNC_TAKES: Duration = Duration::from_micros(500);
/// Tasks and peers above which the coordinator checks itself less often
const MANY: u64 = 1024;
/// The recovery window, where nothing else is said
pub(super) const RECOVERY_WINDOW_MS: u64 = 6_000;

impl Chief {
    pub(super) fn new(schedule: &Schedule) -> Chief {
        let takes = schedule.setting(Knob::SyncTakes).map_or(SYNC_TAKES, Duration::from_micros);
        Chief {
            machine: None,
            life: Life::default(),
            begun: Instant::ZERO,
            config: config(schedule),
            journal: Journal::new(),
            written: 0,
            syncing: None,
            sync_takes: takes,
            slow: Default::default(),
            fails_next: None,
            full: Timed::default(),
            unreadable: Timed::default(),
            dies_again: None,
            history: Vec::new(),
            restored: false,
            aside: None,
            keeping: Duration::ZERO,
            slots_end: Instant::ZERO,
        }
    }
}

fn config(schedule: &Schedule) -> Config {
    let workers = (0..usize::from(schedule.workers)).map(worker_key);
    let clients = (0..usize::from(schedule.clients)).map(client_key);
    let keys = workers.chain(clients).chain(rogue::keys(schedule)).collect();
    let mut config = Config::new(ClusterId([9; 16]), 1, keys);
    let ms = |knob, usual| Duration::from_millis(schedule.setting(knob).unwrap_or(usual));
    config.heartbeat = Some(heartbeat(schedule));
    config.lost_after = ms(Knob::LostAfter, 4_000);
    config.flapping_within = ms(Knob::FlappingWithin, 20_000);
    config.brake_for = ms(Knob::BrakeFor, BRAKE_MS);
    config.lease_ttl = Some(ms(Knob::LeaseTtl, LEASE_TTL_MS));
    config.lease_grace = ms(Knob::LeaseGrace, LEASE_GRACE_MS);
    config.recovery_window = ms(Knob::RecoveryWindow, RECOVERY_WINDOW_MS);
    config.session_lifetime = ms(Knob::SessionLifetime, 10_000);
    config.retry_pause = ms(Knob::RetryPause, 100);
    config.crashes_max = schedule.setting(Knob::CrashesMax).unwrap_or(3).clamp(1, 1_000_000) as u32;
    config.compress = schedule.setting(Knob::Compress) != Some(0);
    config.pins = pins(schedule);
    config.checkpoint_bytes_max = schedule.setting(Knob::CheckpointsMax).unwrap_or(16 << 20);
    config.ageing = ms(Knob::Ageing, 60_000);
    config.losses_max = schedule.setting(Knob::LossesMax).unwrap_or(20).min(1_000_000) as u32;
    config.tasks_max = schedule.setting(Knob::TasksMax).unwrap_or(1_000_000) as usize;
    config.pending_max = schedule.setting(Knob::PendingMax).unwrap_or(4096) as usize;
    if let Some(most) = schedule.setting(Knob::OutputMax) {
        config.output_bytes_max = most;
    }
    if let Some(rate) = schedule.setting(Knob::AdmissionRate) {
        config.admission.rate = rate.clamp(1, 100_000) as u32;
        config.admission.burst = config.admission.rate;
    }
    if schedule.setting(Knob::NoReplay) == Some(1) {
        config.session_lifetime = Duration::ZERO;
    }
    config
}

impl Simulation {
    /// Recovers a coordinator from what is durable
    pub(super) fn start_chief(&mut self) {
        if self.chief.machine.is_some() {
            return;
        }
        if self.chief.unreadable.at(self.now).is_some() && !self.healed {
            self.tally.hit(Kind::ReadError);
            return self.happen(TRIES_AGAIN_AFTER, 0, Happening::Start(Who::Chief));
        }
        self.chief.life.number += 1;
        self.chief.begun = self.now;
        let life = self.chief.life.number;
        let now = self.clock(Who::Chief);
        let seed = Seed(Draws::new(self.schedule.seed, Purpose::Jitter, life << 32).bytes());
        self.chief.config.restored = self.wall_clock();
        let all = self.chief.journal.records.len();
        let Some(mut machine) = self.recover(seed, now, all) else { return };
        if life > 1 {
            if mix(self.schedule.seed ^ life).is_multiple_of(8) {
                // What compaction leaves is as good.
                let compacted = self.chief.journal.compacted();
                self.chief.journal.replace(compacted);
                let Some(from_less) = self.recover(seed, now, self.chief.journal.records.len()) else { return };
                let same = from_less.digest() == machine.digest();
                self.auditor.expect(Check::S27, same, || "a recovery from compacted records differs".into());
                machine = from_less;
                self.chief.history.clear();
            }
            let all = self.chief.journal.records.len();
            self.figures.recoveries += 1;
            let again = self.recover(seed, now, all).map(|machine| machine.digest());
            let same = again == Some(machine.digest());
            self.auditor.expect(Check::S27, same, || "two recoveries from the same records differ".into());
            // A journal that ends anywhere is one that can be read.
            let part = mix(self.schedule.seed ^ life) as usize % (all + 1);
            if let Some(part) = self.recover(seed, now, part) {
                part.check();
            }
        }
        if life > 1 && self.chief.aside.is_none() {
            let (ageing, tasks) = (self.chief.config.ageing, &self.tasks);
            self.auditor.requeued(now, |task| ageing * tasks.get(&task).map_or(0, |task| u32::from(task.priority)));
            for task in self.auditor.promised().collect::<Vec<_>>() {
                let known = machine.task(task).is_some() || machine.remembered(task).is_some();
                self.auditor.expect_of(Check::S1, task, known, || format!("{task} was accepted, and is not recovered"));
            }
        }
        self.chief.machine = Some(Box::new(machine));
        self.trace.see(self.now, || Told::Started(Node::Coordinator));
        (self.chief.written, self.chief.syncing) = (0, None);
        if life > 1
            && let Some((us, away)) = self.chief.dies_again.take()
        {
            self.happen(Duration::from_micros(us), 0, Happening::ChiefDies { life, away });
        }
        self.dirty.insert(Who::Chief);
        self.drain();
    }

    /// Takes note of when a task was taken in (S19)
    fn queued(&mut self, task: TaskId, priority: u8) {
        let later = self.chief.config.ageing * u32::from(priority);
        let now = self.clock(Who::Chief);
        self.auditor.queued(task, now, later);
    }

    /// Whether nothing that still waits should have been given out in the place of one that was (S19)
    fn expect_order(&mut self, given: &[TaskId]) {
        let Some(machine) = &self.chief.machine else { return };
        for task in given {
            self.auditor.waits_no_more(*task);
        }
        // One that waits for a worker that has words for its terms (FRAME-6) lets others go first.
        let (spoke_old, tasks) = (self.auditor.spoke_old(), &self.tasks);
        let may_wait = |task: &TaskId| spoke_old && tasks.get(task).is_some_and(|task| task.terms != Terms::default());
        let busy = |task: &TaskId| machine.why(*task) == Some(Why::WorkersBusy);
        for task in given {
            let first = self.auditor.goes_before(*task).find(|other| busy(other) && !may_wait(other));
            self.auditor.expect_of(Check::S19, *task, first.is_none(), || {
                format!("{task} is given out, and {} should come before it", words(first))
            });
        }
    }

    /// Recovers from the first so many records
    fn recover(&mut self, seed: Seed, now: Instant, upto: usize) -> Option<Coordinator> {
        let mut config = self.chief.config.clone();
        config.epoch = self.first_epoch();
        let mut recovery = Recovery::start(config, seed, now).expect("settings that are legal together");
        for record in &self.chief.journal.records[..upto] {
            if let Err(error) = recovery.take(record) {
                self.auditor.expect(Check::S27, false, || format!("what a coordinator wrote cannot be read: {error}"));
                return None;
            }
        }
        Some(recovery.finish())
    }

    /// The coordinator's process ends; so many of its unsynced records survive
    pub(super) fn kill_chief(&mut self, survive: u64) {
        if let Some(machine) = self.chief.machine.take() {
            self.trace.see(self.now, || Told::Died(Node::Coordinator));
            let stats = machine.stats();
            self.breaches += stats.violations;
            self.figures.resumed += stats.resumed;
            self.figures.opened += stats.opened;
        }
        let life = &mut self.chief.life;
        (life.wake, life.alarm, life.overslept) = (None, None, false);
        let left = self.chief.journal.records.len() - self.chief.journal.durable;
        let survive = (survive as usize).min(left);
        let from = self.chief.journal.durable;
        self.chief.journal.durable += survive;
        self.audit_durable(from);
        self.chief.journal.crash();
        self.chief.fails_next = None;
        self.auditor.sessions_over();
        let open: Vec<_> = self.sockets.values().filter(|s| s.is_open(Side::Coordinator)).map(|s| s.conn).collect();
        for conn in open {
            self.hang_up(conn, Side::Coordinator);
        }
    }

    pub(super) fn synced(&mut self, upto: u64, life: u64) {
        // One that took very long may have been made good when all healed.
        let due = self.chief.syncing == Some(upto) && self.chief.life.number == life;
        if !due || self.chief.machine.is_none() {
            return;
        }
        let now = self.clock(Who::Chief);
        let from = self.chief.journal.durable;
        self.chief.journal.durable = self.chief.journal.earlier + upto as usize;
        self.audit_durable(from);
        (self.chief.syncing, self.chief.restored) = (None, false);
        if let Some(machine) = &mut self.chief.machine {
            machine.handle(now, coordinator::Input::Journaled { upto }).expect("the journal has not failed");
        }
        self.dirty.insert(Who::Chief);
    }

    /// Tells the auditor what has become durable
    fn audit_durable(&mut self, from: usize) {
        if self.chief.aside.is_some() {
            // In a store that nobody is to believe in.
            return;
        }
        self.chief.history.push((self.now, self.chief.journal.durable));
        for record in &self.chief.journal.records[from..self.chief.journal.durable] {
            if let Some(record) = Record::decode(record) {
                self.trace.durable(self.now, &record);
                self.auditor.durable(&record);
            }
        }
    }

    pub(super) fn drain_chief(&mut self) {
        let mut frame = std::mem::take(&mut self.frame);
        let mut given = Vec::new();
        while let Some(machine) = &mut self.chief.machine {
            match machine.poll(&mut frame) {
                coordinator::Output::Journal { seq, record } => {
                    self.trace.mix_bytes(record);
                    self.figures.records += 1;
                    self.chief.journal.append(record);
                    self.chief.written = seq;
                    let Some(record) = Record::decode(record).filter(|_| self.chief.aside.is_none()) else { continue };
                    match record {
                        Record::Submit { task, spec, .. } | Record::SubmitLarge { task, spec, .. } => {
                            self.queued(task, spec.priority)
                        }
                        // Suspects, which have run before, are given out in a line of their own (TASK-6).
                        // Nor is it by their place that one is adopted which had been given before the store went back (TASK-2).
                        Record::Assign { task, token, attempt: 1, .. } if !self.auditor.is_undone(token) => {
                            given.push(task);
                        }
                        Record::Result { token: Some(token), outcome, .. } => self.auditor.judged(token, outcome),
                        Record::Assign { .. }
                        | Record::Result { .. }
                        | Record::Epoch { .. }
                        | Record::Tokens { .. }
                        | Record::Lease { .. }
                        | Record::Restored { .. }
                        | Record::Forget { .. }
                        | Record::Output { .. }
                        | Record::Checkpoint { .. }
                        | Record::Piece { .. }
                        | Record::Chunk { .. }
                        | Record::Manifest { .. }
                        | Record::Unreadable { .. }
                        | Record::Forgotten { .. }
                        | Record::Lapsed { .. }
                        | Record::Gone { .. }
                        | Record::Cancel { .. } => {}
                    }
                }
                coordinator::Output::Send { conn, bytes } => self.send(conn, Side::Coordinator, bytes),
                coordinator::Output::Close { conn, reason } => {
                    let name = self.name(Who::Chief);
                    self.trace.note_with(self.now, name, || format!("closes connection {}: {reason}", conn.0));
                    if let Some(peer) = self.sockets.get(&conn).and_then(|socket| socket.peer) {
                        self.auditor.ended_at(conn, peer, self.clock(Who::Chief));
                    }
                    self.hang_up(conn, Side::Coordinator);
                }
                coordinator::Output::ReadOutput { token, stream, offset, max } => {
                    let kept = self.chief.journal.kept(token, stream);
                    let end = kept.len().min((offset + u64::from(max)) as usize);
                    let bytes = kept.get(offset as usize..end).unwrap_or_default().to_vec();
                    let now = self.clock(Who::Chief);
                    let input = coordinator::Input::OutputRead { token, stream, offset, bytes: &bytes };
                    if let Some(machine) = &mut self.chief.machine {
                        machine.handle(now, input).expect("an answer is never refused");
                    }
                }
                coordinator::Output::ReadChunk { home, offset, max } => {
                    let kept = self.chief.journal.chunk(home);
                    let end = kept.len().min((offset + u64::from(max)) as usize);
                    let bytes = kept.get(offset as usize..end).unwrap_or_default().to_vec();
                    let now = self.clock(Who::Chief);
                    if let Some(machine) = &mut self.chief.machine {
                        let input = coordinator::Input::ChunkRead { home, offset, bytes: &bytes };
                        machine.handle(now, input).expect("an answer is never refused");
                    }
                }
                coordinator::Output::Event(event) => self.chief_told(&event),
                coordinator::Output::KeepKey { key, after } => {
                    let life = self.chief.life.number;
                    let writes = Happening::ChiefKeeps { key, after, life };
                    self.happen(self.chief.keeping / 2, 0, writes);
                }
                coordinator::Output::Idle { .. } => break,
            }
        }
        self.frame = frame;
        self.auditor.expect_named();
        self.expect_order(&given);
        self.sync();
        if let Some(machine) = &self.chief.machine {
            let counts = machine.counts();
            let known = self.tasks.len() as u64;
            self.auditor.expect(Check::S20, counts.open() + counts.ended <= known, || {
                format!("{} tasks are open and {} ended, of {known}", counts.open(), counts.ended)
            });
            if self.figures.events.is_multiple_of(self.chief_checked_every()) {
                machine.check();
                self.trace.mix(machine.digest());
            }
        }
    }

    /// After how many events the coordinator checks itself: it goes through all tasks and peers, and many would cost their square
    fn chief_checked_every(&self) -> u64 {
        let many = (self.tasks.len() + self.peers.len()) as u64;
        if many <= MANY { 64 } else { many.next_power_of_two() / 2 }
    }

    /// Syncs what was written meanwhile, as soon as no sync is under way (JOURN-1)
    fn sync(&mut self) {
        let durable = (self.chief.journal.durable - self.chief.journal.earlier) as u64;
        if self.chief.machine.is_none() || self.chief.syncing.is_some() || self.chief.written <= durable {
            return;
        }
        let full = self.chief.full.at(self.now).filter(|_| !self.healed).map(|_| TRIES_AGAIN_AFTER);
        if let Some(away) = self.chief.fails_next.take().or(full) {
            self.tally.hit(if full.is_some() { Kind::DiskFull } else { Kind::SyncError });
            let now = self.clock(Who::Chief);
            if let Some(machine) = &mut self.chief.machine {
                machine.handle(now, coordinator::Input::JournalFailed).expect("a failure is never refused");
            }
            // It ends with that; whatever it still says is to close what is open.
            self.kill_chief(0);
            return self.happen(away, 0, Happening::Start(Who::Chief));
        }
        let mut takes = self.chief.sync_takes;
        if let Some(us) = self.chief.slow.at(self.now).filter(|_| !self.healed) {
            takes += Duration::from_micros(us);
            self.tally.hit(Kind::SlowSync);
        }
        let (upto, life) = (self.chief.written, self.chief.life.number);
        self.chief.syncing = Some(upto);
        self.happen(takes, 0, Happening::Synced { upto, life });
    }
}
