//! Tasks and their attempts: what is wanted, what runs, and how it ended (TASK-1 to TASK-3, TASK-6)

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use sha2::{Digest, Sha256};

use crate::about::About;
use crate::ids::{SessionId, TaskId, Token};
use crate::stream::Incoming;
use crate::wire::message::{Outcome, StreamEnd, TaskSpec};

use super::peers::PeerIx;
use super::queues::{KindIx, Place, Queues};
use crate::time::Instant;

/// How far a task is
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TaskState {
    /// Submitted, its record not yet durable
    Accepting,
    /// Waits for a worker; in the ready set
    Ready,
    /// An attempt failed; waits before the next
    Backoff,
    /// An attempt is at a worker, or on its way
    Assigned,
    /// Over; its outcome never changes
    Ended,
}

/// What can happen to a task
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskStep {
    /// Its record is durable
    Accept,
    /// A worker gets it
    Assign,
    /// A worker turned out to have it
    Adopt,
    /// Its attempt failed, another will follow
    Retry,
    /// The pause is over
    Due,
    /// Its attempt is gone without a result
    Requeue,
    /// It has its outcome
    End,
}

impl TaskState {
    /// The table of transitions; `None` is refused
    pub(crate) const fn after(self, step: TaskStep) -> Option<TaskState> {
        use TaskState as S;
        use TaskStep as T;
        match (self, step) {
            (S::Accepting, T::Accept) => Some(S::Ready),
            (S::Ready, T::Assign) => Some(S::Assigned),
            (S::Ready | S::Backoff, T::Adopt) => Some(S::Assigned),
            (S::Assigned, T::Retry) => Some(S::Backoff),
            (S::Backoff, T::Due) => Some(S::Ready),
            (S::Assigned, T::Requeue) => Some(S::Ready),
            (S::Accepting | S::Ready | S::Backoff | S::Assigned, T::End) => Some(S::Ended),
            _ => None,
        }
    }
}

/// A task as the coordinator holds it
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) spec: TaskSpec,
    pub(crate) content: [u8; 32],
    pub(crate) payload: Box<[u8]>,
    /// What people call it
    pub(crate) title: Box<str>,
    /// What it needs of a worker
    pub(crate) kind: KindIx,
    /// Order of submission
    pub(crate) order: u64,
    pub(crate) place: Place,
    pub(crate) state: TaskState,
    pub(crate) cancel_requested: bool,
    /// Attempts given so far; one that was given back unstarted does not count
    pub(crate) attempts: u32,
    pub(crate) retries: u32,
    pub(crate) losses: u32,
    pub(crate) crashes: u32,
    /// Ran when its worker crashed, beside others: runs alone until cleared (TASK-6)
    pub(crate) suspect: bool,
    /// Live tokens, oldest first (TASK-3)
    pub(crate) live: Vec<Token>,
    /// Attempts that failed, and were counted: whoever says so again says nothing new (TASK-3)
    pub(crate) concluded: Vec<Token>,
    /// The newest checkpoint (CKPT-4)
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) ended: Option<Ended>,
    /// Whether the record of its end is durable, so that it may be told
    pub(crate) told: bool,
    pub(crate) watchers: BTreeSet<PeerIx>,
}

/// A checkpoint of a task
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    pub(crate) token: Token,
    pub(crate) number: u64,
    pub(crate) bytes: Box<[u8]>,
}

/// How a task ended
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) token: Option<Token>,
    pub(crate) attempt: u32,
    pub(crate) result: Box<[u8]>,
    pub(crate) streams: [StreamEnd; 2],
}

/// A live attempt
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) task: TaskId,
    pub(crate) peer: PeerIx,
    pub(crate) attempt: u32,
    /// Number of its assignment in the session it was given in; `None` before it was sent
    pub(crate) sent_as: Option<(SessionId, u64)>,
    pub(crate) running: bool,
    pub(crate) progress: u64,
    /// Its worker was declared lost: it may still deliver, nobody waits for it (TASK-3)
    pub(crate) detached: bool,
    pub(crate) recalled: bool,
    /// A checkpoint follows its assignment (CKPT-4)
    pub(crate) restores: bool,
    pub(crate) streams: [Incoming; 2],
    /// A result that waits for the rest of its output
    pub(crate) early: Option<Box<EarlyResult>>,
}

/// A result that came back on a new connection before the output in front of it
#[derive(Clone, Debug)]
pub(crate) struct EarlyResult {
    pub(crate) number: u64,
    pub(crate) outcome: Outcome,
    pub(crate) result: Box<[u8]>,
    pub(crate) streams: [StreamEnd; 2],
}

/// What is remembered of a forgotten task (TASK-1)
#[derive(Clone, Copy, Debug)]
pub(crate) struct Remembered {
    pub(crate) content: [u8; 32],
    pub(crate) outcome: Outcome,
}

/// All tasks, and the sets that each is in exactly one of
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    pub(crate) all: BTreeMap<TaskId, Task>,
    pub(crate) attempts: BTreeMap<Token, Attempt>,
    /// Ready tasks (TASK-9)
    pub(crate) queues: Queues,
    /// Ready tasks that must run alone (TASK-6)
    pub(crate) suspects: BTreeMap<Place, TaskId>,
    /// All tasks in the order of submission
    pub(crate) by_order: BTreeMap<u64, TaskId>,
    /// Bytes of all checkpoints
    pub(crate) checkpoint_bytes: u64,
    pub(crate) forgotten: BTreeMap<TaskId, Remembered>,
    pub(crate) order: u64,
    /// Tasks in each state
    pub(crate) counts: Counts,
}

/// Tasks in each state
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// [`TaskState::Accepting`]
    pub accepting: u64,
    /// [`TaskState::Ready`]
    pub ready: u64,
    /// [`TaskState::Backoff`]
    pub backoff: u64,
    /// [`TaskState::Assigned`]
    pub assigned: u64,
    /// [`TaskState::Ended`]
    pub ended: u64,
}

impl Counts {
    fn of(&mut self, state: TaskState) -> &mut u64 {
        match state {
            TaskState::Accepting => &mut self.accepting,
            TaskState::Ready => &mut self.ready,
            TaskState::Backoff => &mut self.backoff,
            TaskState::Assigned => &mut self.assigned,
            TaskState::Ended => &mut self.ended,
        }
    }

    /// Tasks that have no outcome yet
    pub fn open(&self) -> u64 {
        self.accepting + self.ready + self.backoff + self.assigned
    }
}

impl Tasks {
    /// Adds a task that is not there yet; `true` if nobody is listed as free for its kind yet
    pub(crate) fn insert(&mut self, id: TaskId, new: NewTask<'_>) -> bool {
        let NewTask { spec, about, content, payload, submitted, ageing } = new;
        self.order += 1;
        let (kind, is_new) = self.queues.enter(about.needs);
        let task = Task {
            spec,
            content,
            payload: payload.into(),
            title: about.title.into_boxed_str(),
            kind,
            order: self.order,
            place: Place::new(submitted, spec.priority, ageing, self.order),
            state: TaskState::Accepting,
            cancel_requested: false,
            attempts: 0,
            retries: 0,
            losses: 0,
            crashes: 0,
            suspect: false,
            live: Vec::new(),
            concluded: Vec::new(),
            checkpoint: None,
            ended: None,
            told: false,
            watchers: BTreeSet::new(),
        };
        self.counts.accepting += 1;
        self.by_order.insert(self.order, id);
        self.all.insert(id, task);
        is_new
    }

    /// Forgets an ended task
    pub(crate) fn remove(&mut self, id: TaskId) -> Option<Task> {
        let task = self.all.remove(&id)?;
        self.by_order.remove(&task.order);
        self.counts.ended -= 1;
        Some(task)
    }

    /// Replaces a task's checkpoint
    pub(crate) fn set_checkpoint(&mut self, id: TaskId, new: Option<Checkpoint>) {
        let Some(task) = self.all.get_mut(&id) else { return };
        let bytes = |checkpoint: &Option<Checkpoint>| checkpoint.as_ref().map_or(0, |c| c.bytes.len() as u64);
        self.checkpoint_bytes += bytes(&new);
        self.checkpoint_bytes -= bytes(&task.checkpoint);
        task.checkpoint = new;
    }

    /// Whether a task was accepted within the retention time
    pub(crate) fn knows(&self, id: TaskId) -> bool {
        self.all.contains_key(&id) || self.forgotten.contains_key(&id)
    }

    /// Moves a task along its table and between the sets; `None` if there is none or the step is refused
    pub(crate) fn step(&mut self, id: TaskId, step: TaskStep) -> Option<TaskState> {
        let task = self.all.get_mut(&id)?;
        let next = task.state.after(step)?;
        let (place, kind) = (task.place, task.kind);
        if task.state == TaskState::Ready {
            self.queues.remove(kind, place);
            self.suspects.remove(&place);
        }
        match next {
            TaskState::Ready if task.suspect => {
                self.suspects.insert(place, id);
            }
            TaskState::Ready => self.queues.push(kind, place, id),
            TaskState::Ended => self.queues.leave(kind),
            TaskState::Accepting | TaskState::Backoff | TaskState::Assigned => {}
        }
        *self.counts.of(task.state) -= 1;
        *self.counts.of(next) += 1;
        task.state = next;
        Some(next)
    }

    /// Makes an attempt live
    pub(crate) fn give(&mut self, token: Token, id: TaskId, peer: PeerIx, attempt: u32) {
        let Some(task) = self.all.get_mut(&id) else { return };
        // One that is adopted is older than what was given since.
        let place = task.live.partition_point(|live| *live < token);
        task.live.insert(place, token);
        task.attempts = task.attempts.max(attempt);
        let restores = task.checkpoint.is_some();
        let new = Attempt {
            task: id,
            peer,
            attempt,
            sent_as: None,
            running: false,
            progress: 0,
            detached: false,
            recalled: false,
            restores,
            streams: [Incoming::new(), Incoming::new()],
            early: None,
        };
        self.attempts.insert(token, new);
    }

    /// Retires a token: whatever comes under it is stale (TASK-3)
    pub(crate) fn retire(&mut self, token: Token) -> Option<Attempt> {
        let attempt = self.attempts.remove(&token)?;
        if let Some(task) = self.all.get_mut(&attempt.task) {
            task.live.retain(|live| *live != token);
        }
        Some(attempt)
    }

    /// The attempt that the task's state is about: the newest that is not detached
    pub(crate) fn current(&self, id: TaskId) -> Option<Token> {
        let task = self.all.get(&id)?;
        task.live.iter().rev().copied().find(|token| self.attempts.get(token).is_some_and(|a| !a.detached))
    }

    /// Panics if a task is in no set, or in two (S20)
    pub(crate) fn check(&self) {
        let mut counts = Counts::default();
        for (id, task) in &self.all {
            *counts.of(task.state) += 1;
            let ready = self.queues.has(task.kind, task.place, *id);
            let suspect = self.suspects.get(&task.place) == Some(id);
            assert_eq!(
                ready || suspect,
                task.state == TaskState::Ready,
                "{id} is ready and in no queue, or the reverse"
            );
            assert!(!(ready && suspect), "{id} is in both queues");
            assert_eq!(task.ended.is_some(), task.state == TaskState::Ended, "{id} has an outcome and no end");
            assert_eq!(
                self.current(*id).is_some(),
                task.state == TaskState::Assigned,
                "{id} is assigned to nobody, or the reverse"
            );
            assert!(task.ended.is_none() || task.live.is_empty(), "{id} is over and has live attempts (TASK-3)");
            assert!(task.live.is_sorted(), "tokens of {id} do not rise (TASK-2)");
            assert!(task.ended.is_none() || task.checkpoint.is_none(), "{id} is over and keeps a checkpoint");
            assert_eq!(self.by_order.get(&task.order), Some(id));
        }
        assert_eq!(counts, self.counts);
        assert_eq!(self.queues.len() as u64 + self.suspects.len() as u64, counts.ready);
        assert_eq!(self.by_order.len(), self.all.len());
        let kept = self.all.values().filter_map(|task| task.checkpoint.as_ref());
        assert_eq!(kept.map(|checkpoint| checkpoint.bytes.len() as u64).sum::<u64>(), self.checkpoint_bytes);
        self.queues.check(|kind| {
            let open = |task: &&Task| task.kind == kind && task.state != TaskState::Ended;
            self.all.values().filter(open).count() as u64
        });
        for (token, attempt) in &self.attempts {
            let live = self.all.get(&attempt.task).is_some_and(|task| task.live.contains(token));
            assert!(live, "{token} is live and its task does not know");
        }
    }
}

/// A task that comes in
#[derive(Debug)]
pub(crate) struct NewTask<'a> {
    pub(crate) spec: TaskSpec,
    pub(crate) about: About,
    pub(crate) content: [u8; 32],
    pub(crate) payload: &'a [u8],
    pub(crate) submitted: Instant,
    pub(crate) ageing: Duration,
}

/// What makes two submits the same (TASK-1)
pub(crate) fn content_digest(spec: TaskSpec, about: &[u8], payload: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([spec.priority]);
    hash.update(spec.retries.to_le_bytes());
    hash.update((about.len() as u64).to_le_bytes());
    hash.update(about);
    hash.update(payload);
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_step_of_a_task_is_legal_or_refused_as_the_table_says() {
        use TaskState as S;
        use TaskStep as T;
        let steps = [T::Accept, T::Assign, T::Adopt, T::Retry, T::Due, T::Requeue, T::End];
        let none = None;
        let end = Some(S::Ended);
        let table = [
            (S::Accepting, [Some(S::Ready), none, none, none, none, none, end]),
            (S::Ready, [none, Some(S::Assigned), Some(S::Assigned), none, none, none, end]),
            (S::Backoff, [none, none, Some(S::Assigned), none, Some(S::Ready), none, end]),
            (S::Assigned, [none, none, none, Some(S::Backoff), none, Some(S::Ready), end]),
            (S::Ended, [none; 7]),
        ];
        for (state, row) in table {
            for (step, expected) in steps.into_iter().zip(row) {
                assert_eq!(state.after(step), expected, "{state:?} × {step:?}");
            }
        }
    }

    #[test]
    fn task_1_content_is_specification_and_input() {
        let spec = TaskSpec { priority: 1, retries: 0 };
        assert_eq!(content_digest(spec, b"", b"x"), content_digest(spec, b"", b"x"));
        assert_ne!(content_digest(spec, b"", b"x"), content_digest(spec, b"", b"y"));
        assert_ne!(content_digest(spec, b"", b"x"), content_digest(TaskSpec { priority: 2, ..spec }, b"", b"x"));
    }
}
