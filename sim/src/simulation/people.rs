//! What workers and clients do: their lives, their tasks, and what they tell

use std::time::Duration;

use rejoin_core::Seed;
use rejoin_core::client::{self, Client};
use rejoin_core::ids::{BootId, TaskId, Token};
use rejoin_core::link::{LinkConfig, Reason};
use rejoin_core::wire::keys::Key;
use rejoin_core::wire::message::{Failure, Follow, Outcome, Stream, TaskSpec};
use rejoin_core::worker::{self, Worker};

use super::nodes::{Execution, Machine, printed};
use super::{Happening, Moment, Simulation, Who};
use crate::audit::Check;
use crate::draws::{Draws, Purpose};
use crate::net::Side;
use crate::schedule::{Knob, Node, Schedule, Task};
use crate::trace::{Stage, Told};
use crate::world::{client_key, worker_key};

/// How long a task takes to end when it is told to
const STOPS_AFTER: Duration = Duration::from_millis(5);
/// How long a worker that its task took along stays away
const AWAY_AFTER_POISON: Duration = Duration::from_millis(500);

impl Simulation {
    pub(super) fn key_of(&self, peer: usize) -> Key {
        if self.is_worker(peer) { worker_key(peer) } else { client_key(peer - usize::from(self.schedule.workers)) }
    }

    fn link_config(&mut self, peer: usize) -> LinkConfig {
        self.boots += 1;
        let mut boot = [7; 16];
        boot[..8].copy_from_slice(&self.boots.to_le_bytes());
        let mut link = LinkConfig::new(self.key_of(peer), BootId(boot), "ws://coordinator/v1/worker");
        let ms = |knob, usual| Duration::from_millis(self.schedule.setting(knob).unwrap_or(usual));
        link.heartbeat = Some(heartbeat(&self.schedule));
        link.backoff.cap = ms(Knob::BackoffCap, 2_000).max(link.backoff.base);
        link.backoff.late_cap = link.backoff.cap;
        (link.backoff.slow_min, link.backoff.slow_max) = (Duration::from_secs(2), Duration::from_secs(5));
        link.compress = self.schedule.setting(Knob::Compress) != Some(0);
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
        let link = self.link_config(peer);
        self.peers[peer].life.number += 1;
        self.peers[peer].draining = false;
        let now = self.clock(Who::Peer(peer));
        let jitter = Draws::new(self.schedule.seed, Purpose::Jitter, self.boots).bytes();
        let machine = if self.is_worker(peer) {
            let config = worker_config(&self.schedule, link);
            let worker = Worker::new(config, Seed(jitter), now).expect("settings that are legal together");
            Machine::Worker(Box::new(worker))
        } else {
            let client = Client::new(client::Config::new(link), Seed(jitter), now);
            Machine::Client(Box::new(client.expect("settings that are legal together")))
        };
        self.peers[peer].machine = Some(machine);
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
        self.peers[peer].running.clear();
        self.peers[peer].life.wake = None;
        let old: Vec<_> = self.sockets.values().filter(|s| s.peer == Some(peer) && s.is_open(Side::Peer)).collect();
        for conn in old.into_iter().map(|socket| socket.conn).collect::<Vec<_>>() {
            self.hang_up(conn, Side::Peer);
        }
        self.peers[peer].conn = None;
    }

    // What people ask for.

    pub(super) fn submit(&mut self, task: Task) {
        let id = self.task_id(task.number);
        let peer = self.client_peer(task.client);
        if self.tasks.contains_key(&id) {
            return;
        }
        self.tasks.insert(id, task);
        self.auditor.submitted(id);
        self.see_task(peer, id, || Stage::Submitted(id));
        let spec = TaskSpec { priority: task.priority, retries: task.retries };
        let mut payload = task.number.to_le_bytes().to_vec();
        payload.resize(4 + task.input as usize, 0x17);
        let now = self.clock(Who::Peer(peer));
        let Some(Machine::Client(client)) = &mut self.peers[peer].machine else { return };
        let follow = Follow::Output;
        let asked = client.handle(now, client::Input::Submit { task: id, spec, about: &[], payload: &payload, follow });
        asked.expect("a client has room for the tasks of a schedule");
        self.figures.submitted += 1;
        self.dirty.insert(Who::Peer(peer));
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
        if let Some(machine) = &self.peers[peer].machine
            && self.figures.events.is_multiple_of(64)
        {
            // Panics if a queue, window or table is larger than it may be.
            machine.check();
            self.auditor.expect(Check::S17, true, String::new);
            self.trace.mix(machine.digest());
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
                let life = self.peers[peer].life.number;
                if let Some(execution) = self.peers[peer].running.get_mut(&token).filter(|e| !e.over) {
                    execution.outcome = Outcome::Cancelled;
                    let ends = Happening::Work { peer, life, token, moment: Moment::Ends };
                    self.happen(STOPS_AFTER, peer as u64, ends);
                }
            }
            worker::Output::ReadOutput { token, stream, offset, max } => {
                let bytes = self.peers[peer].running.get(&token).map(|e| e.read(stream, offset, max));
                let now = self.clock(Who::Peer(peer));
                let Some(Machine::Worker(worker)) = &mut self.peers[peer].machine else { return false };
                let bytes = bytes.unwrap_or_default();
                let input = worker::Input::OutputRead { token, stream, offset, bytes: &bytes };
                worker.handle(now, input).expect("an answer is never refused");
            }
            worker::Output::Checkpointed { refused, .. } => self.figures.checkpoints += u64::from(refused.is_none()),
            worker::Output::Forget { token } => {
                if let Some(execution) = self.peers[peer].running.remove(&token).filter(|e| e.over) {
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
                let from = self.tasks.get(&task).map_or(0, |task| task.number);
                let right = bytes.iter().zip(offset..).all(|(byte, at)| *byte == printed(from, at));
                self.auditor.expect_of(Check::Log1, task, offset == expected && right, || {
                    format!("output of {task}: {} bytes at {offset}, expected at {expected}", bytes.len())
                });
            }
            client::Output::Answer { .. } => {}
            client::Output::Event(event) => self.client_told(peer, &event),
            client::Output::Idle { .. } => return false,
        }
        true
    }

    fn client_told(&mut self, peer: usize, event: &client::Event) {
        match *event {
            client::Event::Accepted { task } => {
                self.see_task(peer, task, || Stage::Accepted);
                self.auditor.accepted(task);
            }
            client::Event::Refused { .. } => self.figures.refused += 1,
            client::Event::Progress { .. } => {}
            client::Event::Ended { task } => {
                let Some(Machine::Client(client)) = &self.peers[peer].machine else { return };
                let outcome = client.task(task).and_then(|task| task.end).map(|end| end.0);
                self.figures.told += 1;
                let Some(outcome) = outcome else {
                    return self.auditor.expect_of(Check::S5, task, false, || format!("{task} ended without outcome"));
                };
                self.see_task(peer, task, || Stage::Ended(format!("{outcome:?}")));
                self.auditor.told(task, outcome);
                let Some(known) = self.tasks.get(&task).copied() else { return };
                if known.poison > 100 && outcome != Outcome::Cancelled {
                    let failed = matches!(outcome, Outcome::Failed(Failure::Poisonous | Failure::WorkerLost));
                    self.auditor.expect_of(Check::L8, task, failed, || {
                        format!("{task} takes every worker along, and ended as {outcome:?}")
                    });
                }
                let number = (peer - usize::from(self.schedule.workers)) as u16;
                let have = self.output.get(&(number, task)).map_or(0, |(_, have)| *have);
                if outcome == Outcome::Succeeded {
                    let all = u64::from(known.prints);
                    self.auditor.expect_of(Check::Log1, task, have == all, || {
                        format!("{task} wrote {all} bytes, and {have} of them reached its client")
                    });
                }
            }
        }
    }

    /// A machine closes its connection
    fn gives_up(&mut self, peer: usize, attempt: u64, reason: Reason) {
        let who = self.name(Who::Peer(peer));
        self.trace.note_with(self.now, who, || format!("closes its connection: {reason}"));
        self.figures.silences += u64::from(reason == Reason::Silence);
        if reason == Reason::Left {
            let over: Vec<_> =
                self.peers[peer].running.iter().filter(|(_, e)| e.over).map(|(t, e)| (e.id, *t)).collect();
            over.into_iter().for_each(|(task, token)| self.auditor.forgotten(task, token));
        }
        let conn =
            self.sockets.values().find(|s| s.peer == Some(peer) && s.attempt == attempt && s.is_open(Side::Peer));
        match conn.map(|socket| socket.conn) {
            Some(conn) => self.hang_up(conn, Side::Peer),
            None => self.peers[peer].conn = None,
        }
    }

    // Tasks.

    fn run_task(&mut self, peer: usize, id: TaskId, token: Token, attempt: u32) {
        let now = self.clock(Who::Peer(peer));
        let slots = worker_slots(&self.schedule);
        let Some(Machine::Worker(worker)) = &mut self.peers[peer].machine else { return };
        let restored = worker.checkpoint(token).map(|(number, bytes)| (number, bytes[0]));
        let right = worker.payload(token).is_some_and(|payload| payload.len() >= 4);
        worker.handle(now, worker::Input::Started { token }).expect("it was to be started");
        let Some(task) = self.tasks.get(&id).copied().filter(|_| right) else {
            return self.auditor.expect_of(Check::S1, id, false, || format!("{id} is run, and nobody submitted it"));
        };
        let who = self.name(Who::Peer(peer));
        self.trace.starts(self.now, who, task.number, attempt, token);
        self.figures.executions += 1;
        self.auditor.started(id, token, attempt, restored.map(|(number, _)| number));
        let outcome = if attempt <= task.fails { Outcome::Failed(Failure::Exit(1)) } else { Outcome::Succeeded };
        let execution = Execution { id, task, outcome, printed: 0, over: false };
        self.peers[peer].running.insert(token, execution);
        let running = self.peers[peer].running.values().filter(|execution| !execution.over).count();
        self.auditor
            .expect_of(Check::S21, id, running <= slots, || format!("{who} runs {running} tasks in {slots} slots"));
        let life = self.peers[peer].life.number;
        let mut work = |after, moment| {
            self.happen(after, peer as u64, Happening::Work { peer, life, token, moment });
        };
        let done = restored.map_or(0, |(_, step)| step).min(task.steps);
        let left = u32::from(task.steps - done).max(1);
        let takes = task.takes * left / u32::from(task.steps);
        work(takes / 2, Moment::Prints);
        for step in done + 1..task.steps {
            work(takes * u32::from(step - done) / left, Moment::Step(step));
        }
        if attempt <= task.poison {
            work(takes / 2, Moment::Kills);
        }
        work(takes, Moment::Ends);
    }

    pub(super) fn work(&mut self, peer: usize, life: u64, token: Token, moment: Moment) {
        let now = self.clock(Who::Peer(peer));
        if self.peers[peer].life.number != life {
            return;
        }
        if let Moment::Kills = moment {
            let runs = self.peers[peer].running.get(&token).is_some_and(|e| !e.over);
            if runs {
                self.figures.poisoned += 1;
                self.kill_peer(peer);
                self.happen(AWAY_AFTER_POISON, peer as u64, Happening::Start(Who::Peer(peer)));
            }
            return;
        }
        let node = &mut self.peers[peer];
        let Some(Machine::Worker(worker)) = &mut node.machine else { return };
        let Some(execution) = node.running.get_mut(&token).filter(|execution| !execution.over) else { return };
        let stream = Stream::Out;
        // A task that was told to stop may be gone by now, which is why these may be refused.
        match moment {
            Moment::Prints => {
                execution.printed = u64::from(execution.task.prints / 2);
                let _ = worker.handle(now, worker::Input::OutputGrew { token, stream, total: execution.printed });
                let _ = worker.handle(now, worker::Input::Progress { token, value: 50 });
            }
            Moment::Step(step) => {
                if execution.outcome != Outcome::Cancelled {
                    let (at, task) = (Node::Worker(peer as u16), execution.task.number);
                    let stage = Stage::Checkpoint { token, step };
                    self.trace.see(self.now, || Told::Task { at, task, stage });
                    let _ = worker.handle(now, worker::Input::Checkpoint { token, bytes: &[step; 20] });
                }
            }
            Moment::Ends => {
                execution.over = true;
                execution.printed = u64::from(execution.task.prints);
                let (outcome, total) = (execution.outcome, execution.printed);
                let (at, task) = (Node::Worker(peer as u16), execution.task.number);
                self.trace.see(self.now, || Told::Task {
                    at,
                    task,
                    stage: Stage::Finished { token, outcome: format!("{outcome:?}") },
                });
                let result = vec![7; execution.task.returns as usize];
                let _ = worker.handle(now, worker::Input::OutputGrew { token, stream, total });
                let finished = worker.handle(now, worker::Input::Finished { token, outcome, result: &result });
                if finished.is_ok() {
                    self.auditor.finished(token, outcome);
                }
            }
            Moment::Kills => {}
        }
        self.dirty.insert(Who::Peer(peer));
    }
}

pub(super) fn heartbeat(schedule: &Schedule) -> Duration {
    Duration::from_millis(schedule.setting(Knob::Heartbeat).unwrap_or(2_000))
}

fn worker_slots(schedule: &Schedule) -> usize {
    schedule.setting(Knob::Slots).unwrap_or(2).clamp(1, 64) as usize
}

fn worker_config(schedule: &Schedule, link: LinkConfig) -> worker::Config {
    let mut config = worker::Config::new(link);
    config.slots = worker_slots(schedule) as u16;
    config.prefetch = schedule.setting(Knob::Prefetch).unwrap_or(1).min(64) as u16;
    let attempts = schedule.setting(Knob::AttemptsMax).unwrap_or(16).min(512) as u16;
    config.attempts_max = attempts.max(config.slots + config.prefetch);
    config.result_bytes_max = 1024;
    config
}
