//! What workers and clients do: their lives, their tasks, and what they tell

use std::collections::BTreeSet;
use std::time::Duration;

use rejoin_core::Seed;
use rejoin_core::about::About;
use rejoin_core::blob::{ChunkName, INPUT, RESULT, chunk_name};
use rejoin_core::client::{self, Client};
use rejoin_core::ids::{BootId, TaskId, Token};
use rejoin_core::limits::{
    BLOB_BYTES_MAX, BULK_PIECE_BYTES_MAX, BULK_PIECE_BYTES_MIN, COMPRESS_FROM_BYTES_MIN, INLINE_BYTES_MAX,
};
use rejoin_core::link::{LinkConfig, Reason};
use rejoin_core::pins::Pins;
use rejoin_core::terms::Class;
use rejoin_core::wire::keys::{Key, Secret};
use rejoin_core::wire::message::{Failure, Outcome, Refused, Stream};
use rejoin_core::worker::{self, Restored, Worker};

use super::nodes::{Execution, Machine, Peer};
use super::{Happening, Moment, Simulation, Who};
use crate::audit::Check;
use crate::draws::{Draws, Purpose};
use crate::logic::{ACTS_AT_ONCE_MAX, Act, Logic, RESULT_BYTES_MAX, Start};
use crate::menu::Kind;
use crate::net::Side;
use crate::schedule::{Knob, Schedule, Task};
use crate::trace::{Stage, Told};
use crate::words::words;
use crate::world::{chunk_names, client_key, later_worker_key};

/// How long a task takes to end when it is told to
const STOPS_AFTER: Duration = Duration::from_millis(5);
/// One that does not stop is killed after that long (TASK-7)
const KILLED_AFTER: Duration = Duration::from_secs(2);
/// Longest time that the upload of a checkpoint takes where nothing is broken
const UPLOAD_TAKES: Duration = Duration::from_secs(3);
/// Ways between the ends until an upload is through, most of them while it finds out what the link carries
const UPLOAD_TRIPS: u32 = 24;
/// How long a worker that its task took along stays away
const AWAY_AFTER_POISON: Duration = Duration::from_millis(500);

impl Simulation {
    /// The key that a peer's name has now
    pub(super) fn key_of(&self, peer: usize) -> Key {
        let node = &self.peers[peer];
        match (self.is_worker(peer), node.clone_of) {
            (true, None) => node.rotated.clone().unwrap_or_else(|| later_worker_key(peer, node.enrolled)),
            (true, Some(original)) => self.key_of(original),
            (false, _) => client_key(peer - usize::from(self.schedule.workers)),
        }
    }

    /// The life that a peer has now: nobody else ever has the same
    fn life_id(&self, peer: usize) -> u64 {
        (peer as u64 + 1) << 32 | self.peers[peer].life.number
    }

    fn link_config(&self, peer: usize) -> LinkConfig {
        let mut boot = [7; 16];
        boot[..8].copy_from_slice(&self.life_id(peer).to_le_bytes());
        let mut key = self.key_of(peer);
        if self.peers[peer].wrong_key {
            key.secret = Secret::new([0x55; 32]);
        }
        let mut link = LinkConfig::new(key, BootId(boot), "ws://coordinator/v1/worker");
        let ms = |knob, usual| Duration::from_millis(self.schedule.setting(knob).unwrap_or(usual));
        link.heartbeat = Some(heartbeat(&self.schedule));
        link.backoff.cap = ms(Knob::BackoffCap, 2_000).max(link.backoff.base);
        link.backoff.late_cap = link.backoff.cap;
        (link.backoff.slow_min, link.backoff.slow_max) = (Duration::from_secs(2), Duration::from_secs(5));
        link.wire_version = self.peers[peer].wire_version.unwrap_or(link.wire_version);
        link.token = self.peers[peer].joins;
        link.compress = self.schedule.setting(Knob::Compress) != Some(0);
        link.pins = pins(&self.schedule);
        link
    }

    pub(super) fn start_peer(&mut self, peer: usize) {
        if self.is_gone(peer) {
            self.kill_peer(peer);
        } else if self.peers[peer].machine.is_some() {
            if self.peers[peer].draining && !self.healed {
                // It starts again once it has come to the end of its drain.
                self.happen(Duration::from_secs(1), peer as u64, Happening::Start(Who::Peer(peer)));
            }
            return;
        }
        self.peers[peer].life.number += 1;
        let link = self.link_config(peer);
        let life = &self.peers[peer].life;
        self.auditor.born(peer);
        if let Some(us) = life.loops.at(self.now) {
            let dies = Happening::Dies { peer, life: life.number, kind: Kind::CrashLoop, away: Duration::ZERO };
            self.happen(Duration::from_micros(us), peer as u64, dies);
        }
        self.peers[peer].draining = false;
        let now = self.clock(Who::Peer(peer));
        let jitter = Draws::new(self.schedule.seed, Purpose::Jitter, self.life_id(peer)).bytes();
        let machine = if self.is_worker(peer) {
            let config = worker_config(&self.schedule, link);
            let worker = Worker::new(config, Seed(jitter), now).expect("settings that are legal together");
            Machine::Worker(Box::new(worker))
        } else {
            let client = Client::new(client::Config::new(link), Seed(jitter), now);
            Machine::Client(Box::new(client.expect("settings that are legal together")))
        };
        self.peers[peer].machine = Some(machine);
        self.restore_kept(peer);
        let who = self.name(Who::Peer(peer));
        self.trace.see(self.now, || Told::Started(who));
        self.dirty.insert(Who::Peer(peer));
        self.drain();
    }

    /// A process ends with all it knew; its connection breaks
    pub(super) fn kill_peer(&mut self, peer: usize) {
        if let Some(machine) = self.peers[peer].machine.take() {
            let who = self.name(Who::Peer(peer));
            self.trace.see(self.now, || Told::Died(who));
            self.breaches += machine.violations();
        }
        let node = &mut self.peers[peer];
        node.running.clear();
        node.saved.clear();
        node.restores.clear();
        node.fed.clear();
        node.store.crash();
        let life = &mut self.peers[peer].life;
        (life.wake, life.alarm, life.overslept) = (None, None, false);
        let open: Vec<_> = self.sockets_of(peer).filter(|s| s.is_open(Side::Peer)).map(|s| s.conn).collect();
        for conn in open {
            self.hang_up(conn, Side::Peer);
        }
        self.peers[peer].conn = None;
    }

    /// An execution of a worker that was put back: if it was not over then, it ends as failed
    pub(super) fn execution_gone(&mut self, peer: usize, token: Token, id: TaskId, over: bool) {
        let execution = Execution { over, ..Execution::new(id, Box::new(Gone)) };
        self.peers[peer].running.insert(token, execution);
        let life = self.peers[peer].life.number;
        self.happen(Duration::ZERO, peer as u64, Happening::Work { peer, life, token, moment: Moment::Acts });
    }

    // What people ask for.

    pub(super) fn submit(&mut self, task: Task) {
        let id = self.task_id(task.number);
        let peer = self.client_peer(task.client);
        if self.tasks.contains_key(&id) {
            return;
        }
        self.tasks.insert(id, task);
        self.auditor.submitted(id, task.terms.class == Class::Exclusive);
        self.see_task(peer, id, || Stage::Submitted(id));
        let payload = self.workload.payload(&task);
        self.ask_for(peer, id, &task, payload);
    }

    /// A client submits what another one has submitted, or something else under its id (TASK-1)
    pub(super) fn submit_again(&mut self, client: u16, number: u32, other: bool) {
        let (id, peer) = (self.task_id(number), self.client_peer(client));
        let Some(task) = self.tasks.get(&id).copied() else { return };
        let Some(Machine::Client(client)) = &self.peers[peer].machine else { return };
        if client.task(id).is_some() {
            return;
        }
        let submitted = self.workload.payload(&task);
        let payload = if other { something_else(submitted) } else { submitted };
        self.ask_for(peer, id, &task, payload);
        if other {
            self.auditor.clashes(id, peer);
        }
    }

    /// A client learns that its task is lost, and submits it once more; every other one (JOURN-2)
    fn submit_lost(&mut self, peer: usize, id: TaskId) {
        let Some(task) = self.tasks.get(&id).copied().filter(|task| task.number % 2 == 0) else { return };
        if !self.auditor.is_lost(id) || self.client_peer(task.client) != peer {
            return;
        }
        let now = self.clock(Who::Peer(peer));
        let payload = self.workload.payload(&task);
        let Some(Machine::Client(client)) = &mut self.peers[peer].machine else { return };
        client.handle(now, client::Input::Forget { task: id }).expect("it was followed");
        self.ask_for(peer, id, &task, payload);
        self.output.remove(&((peer - usize::from(self.schedule.workers)) as u16, id));
    }

    pub(super) fn cancel(&mut self, client: u16, number: u32) {
        let (id, peer) = (self.task_id(number), self.client_peer(client));
        let now = self.clock(Who::Peer(peer));
        self.see_task(peer, id, || Stage::CancelAsked);
        let Some(Machine::Client(client)) = &mut self.peers[peer].machine else { return };
        // A task that was not submitted, in what is left of a schedule.
        if client.handle(now, client::Input::Cancel { task: id }).is_ok() {
            self.auditor.cancel_asked(id);
            self.figures.cancels += 1;
        }
        self.dirty.insert(Who::Peer(peer));
    }

    /// Has it seen where a task stands
    fn see_task(&mut self, peer: usize, task: TaskId, stage: impl FnOnce() -> Stage) {
        let (at, task) = (self.name(Who::Peer(peer)), self.tasks.get(&task).map(|task| task.number));
        let Some(task) = task else { return };
        self.trace.see(self.now, || Told::Task { at, task, stage: stage() });
    }

    pub(super) fn client_peer(&self, client: u16) -> usize {
        usize::from(self.schedule.workers) + usize::from(client % self.schedule.clients)
    }

    // What machines want done.

    pub(super) fn drain_peer(&mut self, peer: usize) {
        let mut frame = std::mem::take(&mut self.frame);
        loop {
            let goes_on = match self.peers[peer].machine {
                Some(Machine::Worker(_)) => self.worker_output(peer, &mut frame),
                Some(Machine::Client(_)) => self.client_output(peer, &mut frame),
                None => false,
            };
            if !goes_on {
                break;
            }
        }
        self.frame = frame;
        if self.peers[peer].guarded.is_some() {
            self.guard(peer);
        }
        let whole = self.figures.events.is_multiple_of(64.max(self.tasks.len().next_power_of_two() as u64 / 2));
        // Clients fill their windows in a moment, and have them full for as long. Each goes through all of its tasks.
        let often = 16.max(self.tasks.len().next_power_of_two() as u64 / 16);
        let client = !self.is_worker(peer) && self.figures.events.is_multiple_of(often);
        if let Some(machine) = &self.peers[peer].machine
            && (whole || client)
        {
            // Panics if a queue, window or table is larger than it may be.
            machine.check();
            self.auditor.expect(Check::S17, true, String::new);
            if whole {
                self.trace.mix(machine.digest());
            }
        }
    }

    fn worker_output(&mut self, peer: usize, frame: &mut [u8]) -> bool {
        let Some(Machine::Worker(worker)) = &mut self.peers[peer].machine else { return false };
        match worker.poll(frame) {
            worker::Output::Connect { attempt, .. } => self.dial(peer, attempt),
            worker::Output::Disconnect { attempt, reason } => self.gives_up(peer, attempt, reason),
            worker::Output::Send { bytes } => {
                if let Some(conn) = self.peers[peer].conn {
                    self.send(conn, Side::Peer, bytes);
                }
            }
            worker::Output::Run { task, token, attempt } => self.run_task(peer, task, token, attempt),
            worker::Output::Cancel { token, .. } => {
                let grace = worker.lease().map(|lease| lease.grace);
                let life = self.peers[peer].life.number;
                if let Some(execution) = self.peers[peer].running.get_mut(&token).filter(|e| !e.over) {
                    execution.stops = true;
                    // Every other exclusive one does not stop by itself: it is killed when it must be over.
                    let stubborn = execution.exclusive && token.0 % 2 == 0;
                    let after = grace.filter(|_| stubborn).unwrap_or_default().clamp(STOPS_AFTER, KILLED_AFTER);
                    let stopped = Happening::Work { peer, life, token, moment: Moment::Stopped };
                    self.happen(after, peer as u64, stopped);
                }
            }
            worker::Output::Freeze { token } => {
                if let Some(execution) = self.peers[peer].running.get_mut(&token) {
                    execution.frozen = true;
                }
            }
            worker::Output::Thaw { token } => {
                let life = self.peers[peer].life.number;
                let Some(execution) = self.peers[peer].running.get_mut(&token) else { return true };
                execution.frozen = false;
                if std::mem::take(&mut execution.missed) {
                    let acts = Happening::Work { peer, life, token, moment: Moment::Acts };
                    self.happen(Duration::ZERO, peer as u64, acts);
                }
            }
            worker::Output::WantCheckpoint { token } => {
                let running = self.peers[peer].running.get_mut(&token);
                let running = running.filter(|execution| !execution.over && !execution.stops && !execution.frozen);
                if let Some(bytes) = running.and_then(|execution| execution.logic.wanted()) {
                    let who = self.name(Who::Peer(peer));
                    self.trace.note_with(self.now, who, || format!("is asked for a checkpoint of {token}"));
                    self.save(peer, token, bytes);
                }
            }
            worker::Output::ReadOutput { token, stream, offset, max } => {
                let now = self.clock(Who::Peer(peer));
                let Some(Machine::Worker(worker)) = &mut self.peers[peer].machine else { return false };
                let output = self.printed.get(&token).filter(|_| stream == Stream::Out);
                let bytes = output.and_then(|output| output.get(offset as usize..)).unwrap_or_default();
                let bytes = &bytes[..bytes.len().min(max as usize)];
                let input = worker::Input::OutputRead { token, stream, offset, bytes };
                worker.handle(now, input).expect("an answer is never refused");
            }
            worker::Output::ReadCheckpoint { token, number, offset, max } => {
                let now = self.clock(Who::Peer(peer));
                let node = &mut self.peers[peer];
                let Some(Machine::Worker(worker)) = &mut node.machine else { return false };
                let bytes = node.saved.get(&(token, number)).map_or(&[][..], |saved| &saved[offset as usize..]);
                let bytes = &bytes[..bytes.len().min(max as usize)];
                let input = worker::Input::CheckpointRead { token, number, offset, bytes };
                worker.handle(now, input).expect("an answer is never refused");
            }
            worker::Output::RestorePiece { token, number, offset, bytes } => {
                let node = &mut self.peers[peer];
                let stores = if number == INPUT { &mut node.fed } else { &mut node.restores };
                let kept = stores.entry(token).or_default();
                if kept.0 != number {
                    *kept = (number, Vec::new());
                }
                let end = offset as usize + bytes.len();
                kept.1.resize(kept.1.len().max(end), 0);
                kept.1[offset as usize..end].copy_from_slice(bytes);
            }
            worker::Output::Checkpointed { token, number, refused } => {
                self.figures.checkpoints += u64::from(refused.is_none());
                self.peers[peer].saved.retain(|(of, n), _| *of != token || *n > number || *n == RESULT);
                self.expect_uploaded(peer, token);
                if let Some(execution) = self.peers[peer].running.get_mut(&token) {
                    execution.uploads = None;
                }
            }
            worker::Output::Keep { token } => self.keep(peer, token),
            worker::Output::KeepKey => {
                let life = self.peers[peer].life.number;
                self.auditor.keeps_key(peer, self.clock(Who::Peer(peer)) + self.peers[peer].keeping);
                self.happen(self.peers[peer].keeping / 2, peer as u64, Happening::WorkerKeeps { peer, life });
            }
            worker::Output::Forget { token } => {
                self.peers[peer].saved.retain(|(of, _), _| *of != token);
                self.peers[peer].restores.remove(&token);
                self.peers[peer].fed.remove(&token);
                self.let_go(peer, token);
                if let Some(execution) = self.peers[peer].running.remove(&token).filter(|e| e.over && !e.foreign) {
                    self.auditor.forgotten(execution.id, token);
                }
            }
            worker::Output::Idle { .. } => return false,
        }
        true
    }

    fn client_output(&mut self, peer: usize, frame: &mut [u8]) -> bool {
        let number = (peer - usize::from(self.schedule.workers)) as u16;
        let Some(Machine::Client(client)) = &mut self.peers[peer].machine else { return false };
        match client.poll(frame) {
            client::Output::Connect { attempt, .. } => self.dial(peer, attempt),
            client::Output::Disconnect { attempt, reason } => self.gives_up(peer, attempt, reason),
            client::Output::Send { bytes } => {
                if let Some(conn) = self.peers[peer].conn {
                    self.send(conn, Side::Peer, bytes);
                }
            }
            client::Output::Piece { task, token, offset, bytes, .. } => {
                let known = self.output.entry((number, task)).or_insert((token, 0));
                if known.0 != token {
                    *known = (token, 0);
                }
                let expected = known.1;
                known.1 += bytes.len() as u64;
                let output = self.printed.get(&token).and_then(|output| output.get(offset as usize..));
                let right = output.is_some_and(|output| output.starts_with(bytes));
                self.auditor.expect_of(Check::Log1, task, offset == expected && right, || {
                    format!("output of {task}: {} bytes at {offset}, expected at {expected}", bytes.len())
                });
            }
            client::Output::Answer { ask, answer } => {
                let piece = postcard::from_bytes::<Option<&[u8]>>(answer).ok().flatten();
                self.fetched(peer, ask, piece.unwrap_or_default());
            }
            client::Output::ReadInput { task, offset, max } => self.read_input(peer, task, offset, max),
            client::Output::Event(event) => self.client_told(peer, &event),
            client::Output::Idle { .. } => return false,
        }
        true
    }

    fn client_told(&mut self, peer: usize, event: &client::Event) {
        match *event {
            client::Event::Accepted { task } => {
                self.peers[peer].inputs.remove(&task);
                self.see_task(peer, task, || Stage::Accepted);
                self.auditor.accepted(task, peer);
            }
            client::Event::Refused { task, reason } => {
                self.figures.refused += 1;
                if reason == Refused::Unknown {
                    self.submit_lost(peer, task);
                }
            }
            client::Event::Progress { .. } => {}
            client::Event::Forgotten { task } => {
                self.auditor.told_forgotten(task);
                self.ended(peer, task, false);
            }
            client::Event::Ended { task } => self.ended(peer, task, true),
        }
    }

    /// A client knows how a task has ended, and has all of it unless that was forgotten
    fn ended(&mut self, peer: usize, task: TaskId, whole: bool) {
        let Some(Machine::Client(client)) = &self.peers[peer].machine else { return };
        let view = client.task(task);
        let end = view.and_then(|task| task.end).map(|end| (end.0, end.1.to_vec()));
        let elsewhere = view.and_then(|task| task.elsewhere);
        self.figures.told += 1;
        let Some((outcome, result)) = end else {
            return self.auditor.expect_of(Check::S5, task, false, || format!("{task} ended without outcome"));
        };
        self.see_task(peer, task, || Stage::Ended(words(outcome)));
        self.auditor.told(task, outcome);
        let Some(known) = self.tasks.get(&task).copied() else { return };
        // Each crash and each loss is an attempt.
        let crashes = self.chief.config.crashes_max.saturating_add(self.chief.config.losses_max);
        let seen = self.seen.tasks.entry(known.number).or_default();
        seen.outcome = Some(outcome);
        if whole {
            seen.result = result;
        }
        if let Some(length) = elsewhere {
            self.peers[peer].fetches.begin(task, length);
            self.fetch(peer);
        }
        if known.poison > crashes.max(100) && outcome != Outcome::Cancelled {
            let failed = matches!(outcome, Outcome::Failed(_));
            self.auditor.expect_of(Check::L8, task, failed, || {
                format!("{task} takes every worker along, and ended as {}", words(outcome))
            });
        }
        let number = (peer - usize::from(self.schedule.workers)) as u16;
        let have = self.output.get(&(number, task)).map_or(0, |(_, have)| *have);
        if whole && outcome == Outcome::Succeeded && self.auditor.ended(task).is_some() {
            let by = self.auditor.ended_by(task);
            let all = by.and_then(|token| self.printed.get(&token)).map_or(0, |output| output.len() as u64);
            self.auditor.expect_of(Check::Log1, task, have == all, || {
                format!("{task} wrote {all} bytes, and {have} of them reached its client")
            });
        }
    }

    /// A machine closes its connection
    fn gives_up(&mut self, peer: usize, attempt: u64, reason: Reason) {
        let who = self.name(Who::Peer(peer));
        self.trace.note_with(self.now, who, || format!("closes its connection: {reason}"));
        self.figures.silences += u64::from(reason == Reason::Silence);
        if matches!(reason, Reason::OldCoordinator { .. }) {
            self.tally.hit(Kind::OldStore);
        }
        let clock = self.clock(Who::Peer(peer));
        // Of an end by plan it knows since that was said.
        if reason == Reason::Rekeyed {
            self.auditor.rekeyed(peer, clock);
        } else {
            self.auditor.lost(peer, clock);
        }
        if reason == Reason::Left {
            let over: Vec<_> = self.peers[peer]
                .running
                .iter()
                .filter(|(_, e)| e.over && !e.foreign)
                .map(|(t, e)| (e.id, *t))
                .collect();
            over.into_iter().for_each(|(task, token)| self.auditor.forgotten(task, token));
        }
        let conn = self.sockets_of(peer).find(|s| s.attempt == attempt && s.is_open(Side::Peer));
        match conn.map(|socket| socket.conn) {
            Some(conn) => self.hang_up(conn, Side::Peer),
            None => self.peers[peer].conn = None,
        }
    }

    // Tasks.

    fn run_task(&mut self, peer: usize, id: TaskId, token: Token, attempt: u32) {
        let now = self.clock(Who::Peer(peer));
        let slots = worker_slots(&self.schedule);
        let task = self.tasks.get(&id).copied();
        let node = &mut self.peers[peer];
        let Some(Machine::Worker(worker)) = &mut node.machine else { return };
        let restored = worker.checkpoint(token).map(|(number, _)| number);
        let mut payload = worker.payload(token).unwrap_or_default().to_vec();
        if let Some(length) = worker.input(token) {
            let whole = node.fed.remove(&token).filter(|(_, bytes)| bytes.len() as u64 == length);
            payload.extend(whole.unwrap_or_default().1);
        }
        let payload = &*payload;
        let exclusive = worker.is_exclusive(token);
        let known = task.is_some_and(|task| {
            let submitted = self.workload.payload(&task);
            submitted == payload || something_else(submitted) == payload
        });
        let Some(task) = task.filter(|_| known) else {
            worker.handle(now, worker::Input::Started { token }).expect("it was to be started");
            return self.auditor.expect_of(Check::S1, id, false, || format!("{id} is run, and nobody submitted it"));
        };
        let draws = Draws::new(self.schedule.seed, Purpose::Logic, token.0);
        let checkpoint = worker.checkpoint(token).map(|(number, restored)| match restored {
            Restored::Bytes(bytes) => (number, bytes),
            Restored::Pieces(length) => {
                let kept = node.restores.get(&token).filter(|kept| kept.0 == number);
                let whole = kept.filter(|kept| kept.1.len() as u64 == length);
                (number, whole.map_or(&[][..], |kept| &kept.1))
            }
        });
        let made = checkpoint.is_none_or(|(number, bytes)| {
            let content = content_name(&chunk_names(bytes));
            self.made.contains(&(id, number, content))
        });
        let checkpoint = checkpoint.map(|(_, bytes)| bytes.to_vec());
        self.auditor.expect_of(Check::S14, id, made, || format!("{id} starts from a checkpoint that it never made"));
        let checkpoint = checkpoint.as_deref();
        let logic = self.workload.execute(Start { task, payload, attempt, token, checkpoint, draws });
        worker.handle(now, worker::Input::Started { token }).expect("it was to be started");
        let who = self.name(Who::Peer(peer));
        self.trace.starts(self.now, who, task.number, attempt, token);
        self.figures.executions += 1;
        self.seen.tasks.entry(task.number).or_default().executions += 1;
        self.auditor.started(id, token, attempt, restored);
        self.printed.insert(token, Vec::new());
        if exclusive {
            self.runs_alone(peer, id, token);
        }
        self.peers[peer].running.insert(token, Execution { exclusive, ..Execution::new(id, logic) });
        if exclusive {
            self.guard(peer);
        }
        let running = self.peers[peer].running.values().filter(|execution| !execution.over).count();
        self.auditor
            .expect_of(Check::S21, id, running <= slots, || format!("{who} runs {running} tasks in {slots} slots"));
        let life = self.peers[peer].life.number;
        self.happen(Duration::ZERO, peer as u64, Happening::Work { peer, life, token, moment: Moment::Acts });
    }

    /// An exclusive attempt begins: no other attempt of that task may run (S9)
    ///
    /// That is promised as long as clocks run at one rate, give or take a hundredth, and workers are not put back to
    /// what they were. Beyond that the token fences, which other checks see.
    fn runs_alone(&mut self, peer: usize, id: TaskId, token: Token) {
        let begun_before = self.seen.tasks.get(&self.tasks[&id].number).is_some_and(|task| task.executions > 1);
        if !begun_before || self.clocks_differ {
            return;
        }
        let runs = |node: &Peer| node.running.iter().find(|(_, e)| e.id == id && !e.over).map(|(token, _)| *token);
        let other = self.peers.iter().enumerate().find_map(|(n, node)| Some((n, runs(node)?)));
        let at = self.name(Who::Peer(peer));
        self.auditor.expect_of(Check::S9, id, other.is_none(), || {
            format!("{token} begins at {at}, and {other:?} of the same exclusive task still runs")
        });
    }

    /// A worker's guardian is told until when exclusive tasks may run there
    fn guard(&mut self, peer: usize) {
        let node = &mut self.peers[peer];
        let Some(Machine::Worker(worker)) = &node.machine else { return };
        let exclusive = node.running.values().any(|e| e.exclusive && !e.over);
        let Some(lease) = worker.lease().filter(|_| exclusive) else { return };
        let (life, end) = (node.life.number, lease.until + lease.grace);
        if node.guarded.is_none_or(|(of, _)| of != life) {
            let at = node.life.clock.when(end);
            self.happen_at(at.max(self.now), peer as u64, Happening::Guards { peer, life });
        }
        self.peers[peer].guarded = Some((life, end));
    }

    /// The guardian looks whether the lease that it knows of has ended, whatever the worker's process does
    pub(super) fn guards(&mut self, peer: usize, life: u64) {
        let node = &mut self.peers[peer];
        let Some((_, end)) = node.guarded.take_if(|(of, _)| *of == life) else { return };
        if node.life.number != life {
            return;
        }
        if node.life.clock.read(self.now) < end {
            // A clock that stands still says nothing of when that will be.
            let at = node.life.clock.when(end).max(self.now + Duration::from_millis(10));
            node.guarded = Some((life, end));
            return self.happen_at(at, peer as u64, Happening::Guards { peer, life });
        }
        let late: Vec<Token> =
            node.running.iter().filter(|(_, e)| e.exclusive && !e.over).map(|(token, _)| *token).collect();
        late.into_iter().for_each(|token| self.end_task(peer, token, Outcome::Cancelled, Vec::new()));
    }

    pub(super) fn work(&mut self, peer: usize, life: u64, token: Token, moment: Moment) {
        if self.peers[peer].life.number != life {
            return;
        }
        match moment {
            Moment::Acts => self.act(peer, token),
            Moment::Stopped => self.end_task(peer, token, Outcome::Cancelled, Vec::new()),
        }
    }

    /// An execution makes a checkpoint
    fn save(&mut self, peer: usize, token: Token, bytes: Vec<u8>) {
        let now = self.clock(Who::Peer(peer));
        self.expect_uploaded(peer, token);
        let node = &mut self.peers[peer];
        if let Some(execution) = node.running.get_mut(&token) {
            execution.uploads.get_or_insert(self.now);
        }
        let id = node.running.get(&token).map(|execution| execution.id);
        let Some(Machine::Worker(worker)) = &mut node.machine else { return };
        let names = chunk_names(&bytes);
        let kept = if bytes.len() <= INLINE_BYTES_MAX {
            worker.handle(now, worker::Input::Checkpoint { token, bytes: &bytes })
        } else {
            let length = bytes.len() as u64;
            worker.handle(now, worker::Input::LargeCheckpoint { token, length, names: &names })
        };
        if let (Ok(()), Some(number), Some(id)) = (kept, worker.newest_checkpoint(token), id) {
            self.made.insert((id, number, content_name(&names)));
            if bytes.len() > INLINE_BYTES_MAX {
                node.saved.insert((token, number), bytes);
                node.saved.retain(|(of, n), _| *of != token || worker.keeps_checkpoint(token, *n));
                let kept = node.saved.keys().filter(|(of, _)| *of == token).count();
                self.auditor.expect(Check::S17, kept <= 2, || format!("{kept} checkpoints of {token} are kept"));
            }
        }
    }

    /// An execution does what comes next, until it waits or is over
    fn act(&mut self, peer: usize, token: Token) {
        let now = self.clock(Who::Peer(peer));
        for _ in 0..ACTS_AT_ONCE_MAX {
            let node = &mut self.peers[peer];
            let Some(Machine::Worker(worker)) = &mut node.machine else { return };
            let Some(execution) = node.running.get_mut(&token).filter(|e| !e.over && !e.stops) else { return };
            if execution.frozen {
                execution.missed = true;
                return;
            }
            // A task that was told to stop may be gone by now, which is why these may be refused.
            match execution.logic.next() {
                Act::Wait(span) => {
                    let (life, moment) = (node.life.number, Moment::Acts);
                    self.dirty.insert(Who::Peer(peer));
                    return self.happen(span, peer as u64, Happening::Work { peer, life, token, moment });
                }
                Act::Print(bytes) => {
                    let output = self.printed.entry(token).or_default();
                    output.extend_from_slice(&bytes);
                    let (stream, total) = (Stream::Out, output.len() as u64);
                    let _ = worker.handle(now, worker::Input::OutputGrew { token, stream, total });
                }
                Act::Progress(value) => {
                    let _ = worker.handle(now, worker::Input::Progress { token, value });
                }
                Act::Checkpoint(bytes) => self.save(peer, token, bytes),
                Act::End(outcome, result) => return self.end_task(peer, token, outcome, result),
                Act::Crash => {
                    self.figures.poisoned += 1;
                    self.kill_peer(peer);
                    return self.happen(AWAY_AFTER_POISON, peer as u64, Happening::Start(Who::Peer(peer)));
                }
            }
        }
        panic!("a task has done {ACTS_AT_ONCE_MAX} things at one moment: let it wait between them");
    }

    /// Where nothing has been broken for a while, what was uploaded before is durable by now (L12)
    fn expect_uploaded(&mut self, peer: usize, token: Token) {
        let Some(execution) = self.peers[peer].running.get(&token) else { return };
        let (id, Some(since)) = (execution.id, execution.uploads) else { return };
        // Where a buffer holds less than a piece, each piece waits for the one before to arrive.
        let narrow = self.schedule.setting(Knob::SendBuffer).is_some_and(|bytes| bytes < BULK_PIECE_BYTES_MAX as u64);
        let pieces = self.tasks.get(&id).map_or(0, |task| task.saves.div_ceil(BULK_PIECE_BYTES_MIN as u32));
        let trips = UPLOAD_TRIPS + if narrow { pieces * 2 } else { 0 };
        let (takes, most) = (self.now.since(since), UPLOAD_TAKES + self.latency * trips + self.chief.sync_takes * 3);
        if since > self.calm_since {
            self.auditor.expect_of(Check::L12, id, takes <= most, || {
                format!("a checkpoint of {token} is not durable after {takes:?}, and {most:?} is the most")
            });
        }
    }

    fn end_task(&mut self, peer: usize, token: Token, outcome: Outcome, result: Vec<u8>) {
        let now = self.clock(Who::Peer(peer));
        let node = &mut self.peers[peer];
        let Some(Machine::Worker(worker)) = &mut node.machine else { return };
        let Some(execution) = node.running.get_mut(&token).filter(|execution| !execution.over) else { return };
        execution.over = true;
        let id = execution.id;
        let large = result.len() > RESULT_BYTES_MAX as usize;
        let input = worker::Input::Finished { token, outcome, result: &result };
        let names = if large { chunk_names(&result) } else { Vec::new() };
        let in_chunks = worker::Input::FinishedLarge { token, outcome, length: result.len() as u64, names: &names };
        let too_large = result.len() as u64 > BLOB_BYTES_MAX;
        if worker.handle(now, if large { in_chunks } else { input }).is_ok() {
            if large && !too_large {
                let different = names.iter().collect::<BTreeSet<_>>().len();
                self.returned.insert(token, (content_name(&names), different));
                node.saved.insert((token, RESULT), result);
            }
            self.auditor.finished(token, outcome);
            self.see_task(peer, id, || Stage::Finished { token, outcome: words(outcome) });
        }
        self.dirty.insert(Who::Peer(peer));
    }
}

/// What is said about a task
pub(super) fn about_of(task: &Task) -> Vec<u8> {
    let about = About { terms: task.terms, ..About::default() };
    about.encode().expect("terms were looked at when they were read")
}

/// What a blob's content is known by, so that no byte is hashed twice
pub(super) fn content_name(names: &[ChunkName]) -> ChunkName {
    chunk_name(names.as_flattened())
}

/// What is submitted under the id of a task that it is not
fn something_else(mut payload: Vec<u8>) -> Vec<u8> {
    payload.iter_mut().for_each(|byte| *byte ^= 0x66);
    payload
}

/// A process that is not there any more
#[derive(Debug)]
pub(super) struct Gone;

impl Logic for Gone {
    fn next(&mut self) -> Act {
        Act::End(Outcome::Failed(Failure::Signal(9)), Vec::new())
    }
}

pub(super) fn heartbeat(schedule: &Schedule) -> Duration {
    Duration::from_millis(schedule.setting(Knob::Heartbeat).unwrap_or(2_000))
}

/// What is found out by nobody, because the schedule says it
pub(super) fn pins(schedule: &Schedule) -> Pins {
    let said = |knob, least: u64| schedule.setting(knob).filter(|bytes| *bytes > 0).map(|bytes| bytes.max(least));
    Pins {
        bulk_piece: said(Knob::BulkPiece, BULK_PIECE_BYTES_MIN),
        bulk_under_way: said(Knob::BulkUnderWay, BULK_PIECE_BYTES_MIN),
        compress_from: said(Knob::CompressFrom, COMPRESS_FROM_BYTES_MIN as u64).map(|bytes| bytes as usize),
        suspect_after: None,
        checkpoint_every: said(Knob::CheckpointEvery, 1_000).map(Duration::from_millis),
    }
}

pub(super) fn worker_slots(schedule: &Schedule) -> usize {
    schedule.setting(Knob::Slots).unwrap_or(2).clamp(1, 64) as usize
}

/// Attempts that wait or run at a worker at most
pub(super) fn worker_places(schedule: &Schedule) -> u16 {
    worker_slots(schedule) as u16 + schedule.setting(Knob::Prefetch).unwrap_or(1).min(64) as u16
}

fn worker_config(schedule: &Schedule, link: LinkConfig) -> worker::Config {
    let mut config = worker::Config::new(link);
    config.slots = worker_slots(schedule) as u16;
    config.prefetch = worker_places(schedule) - config.slots;
    let attempts = schedule.setting(Knob::AttemptsMax).unwrap_or(16).min(512) as u16;
    config.attempts_max = attempts.max(config.slots + config.prefetch);
    config.result_bytes_max = RESULT_BYTES_MAX;
    config
}
