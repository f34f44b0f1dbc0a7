//! Tasks and their attempts: what is wanted, what runs, and how it ended (TASK-1 to TASK-3, TASK-6)

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use sha2::{Digest, Sha256};

use crate::ids::{SessionId, TaskId, Token};
use crate::stream::Incoming;
use crate::wire::message::{Outcome, StreamEnd, TaskSpec};

use super::peers::PeerIx;

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
    /// Order of submission
    pub(crate) order: u64,
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
    pub(crate) ended: Option<Ended>,
    /// Whether the record of its end is durable, so that it may be told
    pub(crate) told: bool,
    pub(crate) watchers: BTreeSet<PeerIx>,
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
    /// Ready tasks, most urgent first, FIFO within (TASK-9)
    pub(crate) ready: BTreeMap<(u8, u64), TaskId>,
    /// Ready tasks that must run alone (TASK-6)
    pub(crate) suspects: BTreeMap<(u8, u64), TaskId>,
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
    /// Adds a task that is not there yet
    pub(crate) fn insert(&mut self, id: TaskId, spec: TaskSpec, payload: &[u8]) {
        self.order += 1;
        let task = Task {
            spec,
            content: content_digest(spec, payload),
            payload: payload.into(),
            order: self.order,
            state: TaskState::Accepting,
            cancel_requested: false,
            attempts: 0,
            retries: 0,
            losses: 0,
            crashes: 0,
            suspect: false,
            live: Vec::new(),
            ended: None,
            told: false,
            watchers: BTreeSet::new(),
        };
        self.counts.accepting += 1;
        self.all.insert(id, task);
    }

    /// Whether a task was accepted within the retention time
    pub(crate) fn knows(&self, id: TaskId) -> bool {
        self.all.contains_key(&id) || self.forgotten.contains_key(&id)
    }

    /// Moves a task along its table and between the sets; `None` if there is none or the step is refused
    pub(crate) fn step(&mut self, id: TaskId, step: TaskStep) -> Option<TaskState> {
        let task = self.all.get_mut(&id)?;
        let next = task.state.after(step)?;
        let place = (task.spec.priority, task.order);
        if task.state == TaskState::Ready {
            self.ready.remove(&place);
            self.suspects.remove(&place);
        }
        if next == TaskState::Ready {
            if task.suspect { &mut self.suspects } else { &mut self.ready }.insert(place, id);
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
        let new = Attempt {
            task: id,
            peer,
            attempt,
            sent_as: None,
            running: false,
            progress: 0,
            detached: false,
            recalled: false,
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
            let place = (task.spec.priority, task.order);
            let ready = self.ready.get(&place) == Some(id);
            let suspect = self.suspects.get(&place) == Some(id);
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
        }
        assert_eq!(counts, self.counts);
        assert_eq!(self.ready.len() as u64 + self.suspects.len() as u64, counts.ready);
        for (token, attempt) in &self.attempts {
            let live = self.all.get(&attempt.task).is_some_and(|task| task.live.contains(token));
            assert!(live, "{token} is live and its task does not know");
        }
    }
}

/// What makes two submits the same (TASK-1)
pub(crate) fn content_digest(spec: TaskSpec, payload: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([spec.priority]);
    hash.update(spec.retries.to_le_bytes());
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
        assert_eq!(content_digest(spec, b"x"), content_digest(spec, b"x"));
        assert_ne!(content_digest(spec, b"x"), content_digest(spec, b"y"));
        assert_ne!(content_digest(spec, b"x"), content_digest(TaskSpec { priority: 2, ..spec }, b"x"));
    }
}
