//! What clients are told when they ask about the coordinator (section 12 of PROTOCOL.md)
//!
//! An answer says nothing that is not durable (JOURN-3): it is made once everything written before the question is, with no
//! outcome that is younger than that, and leaves once everything written before it was made is durable as well.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use serde::Serialize;

use crate::error::Rejected;
use crate::ids::{PeerName, Role, SessionId, TaskId};
use crate::limits::{ANSWER_BYTES_MAX, ASKS_MAX, ROTATION_SINCE, TERMS_SINCE};
use crate::time::micros;
use crate::wire::message::{Outcome, Stream};
use crate::wire::view::{Forgetting, Page, Question, StatusView, TaskView, Why, WorkerState, WorkerView};

use super::fetches::Fetch;
use super::gate::Effect;
use super::peers::{PeerIx, Sent};
use super::tasks::TaskState;
use super::{Desk, PeerState};

impl Desk {
    /// A client asks; most questions change nothing
    pub(super) fn asked(&mut self, ix: PeerIx, ask: u64, question: Question) {
        if let Question::Drain(name) = &question
            && let Some(worker) = self.may_drain(name)
        {
            self.drain_worker(worker);
        }
        if let Question::DropCheckpoints(task) = question {
            self.drop_checkpoints(task);
        }
        if let Some(session) = self.roster.get(ix).session.as_ref().map(|session| session.numbers.id) {
            self.gate.then(Effect::Answer(ix, session, ask, question));
        }
    }

    /// Everything written before the question is durable: answer it as things stand now
    pub(super) fn answer(&mut self, ix: PeerIx, session: SessionId, ask: u64, question: &Question) {
        let version = self.version_of(ix);
        let answer = match question {
            Question::Status => encoded(&self.status_view()),
            Question::Workers { after } => {
                let behind = self.roster.workers_behind(after.as_ref());
                page(behind.map(|ix| self.worker_view(ix, version)))
            }
            Question::Tasks { after, open } => {
                let behind = self.tasks.by_order.range(after.saturating_add(1)..).map(|(_, id)| *id);
                let views = behind.filter_map(|id| self.task_view(id, version));
                page(views.filter(|view| !open || view.outcome.is_none()))
            }
            Question::Task(id) => encoded(&self.task_view(*id, version)),
            Question::Drain(name) => encoded(&self.may_drain(name).is_some()),
            Question::RotateKey(name) => encoded(&self.rotate_key(name)),
            Question::Brake { end } => {
                let view = encoded(&self.brake_view());
                if *end {
                    self.end_brake();
                }
                view
            }
            Question::Terms(id) => {
                let task = self.tasks.all.get(id).filter(|task| task.state != TaskState::Accepting);
                encoded(&task.map(|task| task.terms))
            }
            Question::Checkpoints(task) | Question::DropCheckpoints(task) => encoded(&self.checkpoint_views(*task)),
            Question::Forget(task) => encoded(&self.forget_for(*task)),
            Question::CheckpointPiece { task, number, offset } => {
                return self.fetch(ix, Fetch { session, ask, task: *task, number: *number, offset: *offset });
            }
        };
        self.reply(ix, session, ask, answer);
    }

    /// Tells an answer as soon as everything that it may be derived from is durable (JOURN-3)
    pub(super) fn reply(&mut self, ix: PeerIx, session: SessionId, ask: u64, answer: Vec<u8>) {
        let peer = self.roster.get_mut(ix);
        // Who asks anew has the answers to what it asked before that many questions.
        while peer.answers.len() >= ASKS_MAX {
            peer.answers.pop_first();
        }
        peer.answers.insert(ask, answer.into());
        self.gate.then(Effect::Say(ix, session, Sent::Answer(ask)));
    }

    /// Somebody wants a task to be forgotten, and asks again if the answer was lost (TASK-1)
    fn forget_for(&mut self, task: TaskId) -> Forgetting {
        match self.forget(task) {
            Ok(()) => Forgetting::Done,
            Err(Rejected::Unknown) if self.tasks.forgotten.contains_key(&task) => Forgetting::Done,
            Err(Rejected::Unknown) => Forgetting::Unknown,
            Err(_) => Forgetting::Open,
        }
    }

    /// Somebody wants a worker to drain: it gets nothing more, and is told now or when it is back (TASK-8)
    pub(super) fn drain_worker(&mut self, worker: PeerIx) {
        let peer = self.roster.get_mut(worker);
        if !core::mem::replace(&mut peer.to_drain, true) && peer.session.is_some() {
            self.say(worker, Sent::Drain);
        }
        self.place(worker);
    }

    /// A worker of this name that is there, or may come back
    fn may_drain(&self, name: &PeerName) -> Option<PeerIx> {
        let is_there = |ix: &PeerIx| self.roster.get(*ix).conn.is_some() || self.roster.may_come_back(*ix);
        self.roster.worker(name).filter(is_there)
    }

    fn status_view(&self) -> StatusView {
        let counts = self.tasks.counts;
        StatusView {
            cluster: self.config.cluster,
            epoch: self.config.epoch,
            up_us: micros(self.now.since(self.began)),
            waiting: counts.accepting + counts.ready + counts.backoff,
            // As long as its outcome is not durable a task is where it was.
            assigned: counts.assigned + counts.ended - self.told.iter().sum::<u64>(),
            ended: self.told,
            workers: self.roster.workers(),
            connected: self.schedule.connected(),
            stale: self.stats.stale_results,
            resumed: self.stats.resumed,
        }
    }

    fn worker_view(&self, ix: PeerIx, version: u16) -> WorkerView {
        let peer = self.roster.get(ix);
        debug_assert_eq!(peer.role, Role::Worker);
        let state = match self.peer_state(ix) {
            PeerState::Unknown | PeerState::Disconnected | PeerState::Lost
                if version >= ROTATION_SINCE && !self.roster.may_come_back(ix) =>
            {
                WorkerState::Revoked
            }
            PeerState::Unknown => WorkerState::Unknown,
            PeerState::Reconciling | PeerState::Connected if version >= TERMS_SINCE && self.is_flapping(ix) => {
                WorkerState::Flapping
            }
            PeerState::Reconciling | PeerState::Connected => WorkerState::Connected,
            PeerState::Suspect => WorkerState::Suspect,
            PeerState::Draining => WorkerState::Draining,
            PeerState::Disconnected => WorkerState::Disconnected,
            PeerState::Lost => WorkerState::Lost,
        };
        let runs = peer.held.iter().filter(|token| self.tasks.attempts.get(token).is_some_and(|a| a.running));
        let away = peer.disconnected_at.filter(|_| peer.conn.is_none());
        WorkerView {
            name: peer.name.clone(),
            state,
            held: [peer.held.len() as u32, runs.count() as u32],
            rtt_us: peer.conn.and_then(|conn| self.rtt(conn)),
            away_us: away.map(|at| micros(self.now.since(at))),
            offers: peer.session.as_ref().and_then(|session| session.offers.encode().ok()).unwrap_or_default(),
        }
    }

    /// A task as a peer can be told of it that speaks this version
    fn task_view(&self, id: TaskId, version: u16) -> Option<TaskView> {
        // Nobody hears of a task before it is durable.
        let task = self.tasks.all.get(&id).filter(|task| task.state != TaskState::Accepting)?;
        let end = task.ended.as_ref().filter(|_| task.told);
        let current = self.tasks.current(id);
        let attempt = current.and_then(|token| self.tasks.attempts.get(&token));
        let kept = |stream: Stream| attempt.map_or(0, |a| a.streams[stream.index()].kept());
        Some(TaskView {
            position: task.order,
            task: id,
            title: (*task.title).into(),
            spec: task.spec,
            attempts: task.attempts,
            why: match (&task.ended, end) {
                (Some(_), None) => Why::Runs,
                _ => spoken_in(self.why(id)?, version),
            },
            worker: attempt
                .map(|attempt| attempt.peer)
                .or(self.waits_for_lease(id))
                .map(|ix| self.roster.get(ix).name.clone()),
            progress: attempt.map_or(0, |attempt| attempt.progress),
            checkpoint: task.checkpoint.as_ref().map(|checkpoint| checkpoint.number),
            token: end.map_or(current, |end| end.token),
            kept: end.map_or(Stream::ALL.map(kept), |end| end.streams.map(|stream| stream.len)),
            outcome: end.map(|end| end.outcome.spoken_in(version)),
        })
    }

    /// The counter of tasks that people see ended like this
    pub(super) fn told_as(&mut self, outcome: Outcome) -> &mut u64 {
        let [succeeded, failed, cancelled] = &mut self.told;
        match outcome {
            Outcome::Succeeded => succeeded,
            Outcome::Failed(_) => failed,
            Outcome::Cancelled => cancelled,
        }
    }
}

fn spoken_in(why: Why, version: u16) -> Why {
    if why == Why::LeaseHeld && version < TERMS_SINCE { Why::Pausing } else { why }
}

pub(super) fn encoded<T: Serialize>(view: &T) -> Vec<u8> {
    match postcard::to_allocvec(view) {
        Ok(bytes) => bytes,
        Err(_) => unreachable!("memory grows, and every field can be encoded"),
    }
}

/// As many items as fit
fn page<T: Serialize>(items: impl Iterator<Item = T>) -> Vec<u8> {
    let mut items = items.map(|item| encoded(&item)).peekable();
    let mut page: VecDeque<u8> = VecDeque::new();
    while let Some(item) = items.next_if(|item| page.len() + item.len() <= ANSWER_BYTES_MAX) {
        page.extend(item);
    }
    encoded(&Page { last: items.peek().is_none(), items: page.make_contiguous() })
}
