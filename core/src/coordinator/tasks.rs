//! Tasks and their attempts: what is wanted, what runs, and how it ended (TASK-1 to TASK-3, TASK-6)

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use sha2::{Digest, Sha256};

use crate::about::About;
use crate::blob::{ChunkName, Sending};
use crate::drift::mark;
use crate::ids::{SessionId, TaskId, Token};
use crate::lease::Lease;
use crate::stream::Incoming;
use crate::terms::Terms;
use crate::wire::message::{Outcome, StreamEnd, TaskSpec};

use super::inputs::{Draft, Large};
use super::peers::PeerIx;
use super::queues::{KindIx, Need, Place, Queues};
use super::uploads::Upload;
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
    /// It has to wait before it may be given out
    Hold,
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
            (S::Assigned, T::Retry) | (S::Ready, T::Hold) => Some(S::Backoff),
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
    /// What goes in chunks beside that, while somebody may need it (FRAME-3)
    pub(crate) input: Option<Box<Large>>,
    /// What people call it
    pub(crate) title: Box<str>,
    /// What it needs of a worker
    pub(crate) kind: KindIx,
    /// What may happen to it when its worker is out of reach
    pub(crate) terms: Terms,
    /// An attempt of it may still run under a lease: until when, and whose (TASK-4)
    pub(crate) leased: Option<(Instant, PeerIx)>,
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
    /// The one before, should the newest turn out to be unreadable
    pub(crate) previous: Option<Checkpoint>,
    /// Whole chunks of checkpoints, by their content (CKPT-1)
    pub(crate) chunks: BTreeMap<ChunkName, Chunk>,
    pub(crate) ended: Option<Ended>,
    /// Whether the record of its end is durable, so that it may be told
    pub(crate) told: bool,
    pub(crate) watchers: BTreeSet<PeerIx>,
}

impl Task {
    /// The checkpoints that are kept, newest first (CKPT-2)
    pub(crate) fn checkpoints(&self) -> impl Iterator<Item = &Checkpoint> {
        [&self.checkpoint, &self.previous].into_iter().flatten()
    }
}

/// A checkpoint of a task
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    pub(crate) token: Token,
    pub(crate) number: u64,
    pub(crate) body: Body,
}

/// Where the bytes of a checkpoint or a result are
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// Here
    Inline(Box<[u8]>),
    /// With the embedder, in chunks
    Chunks { length: u64, names: Box<[ChunkName]> },
}

impl Body {
    /// The bytes that are here
    pub(crate) fn inline(&self) -> &[u8] {
        match self {
            Body::Inline(bytes) => bytes,
            Body::Chunks { .. } => &[],
        }
    }

    /// How many bytes are with the embedder, where they are
    pub(crate) fn elsewhere(&self) -> Option<u64> {
        match self {
            Body::Inline(_) => None,
            Body::Chunks { length, .. } => Some(*length),
        }
    }

    /// All bytes, wherever they are
    pub(crate) fn len(&self) -> u64 {
        self.elsewhere().unwrap_or(self.inline().len() as u64)
    }

    /// The chunks that it consists of
    pub(crate) fn names(&self) -> &[ChunkName] {
        match self {
            Body::Inline(_) => &[],
            Body::Chunks { names, .. } => names,
        }
    }
}

impl Default for Body {
    fn default() -> Self {
        Body::Inline(Box::default())
    }
}

impl From<&[u8]> for Body {
    fn from(bytes: &[u8]) -> Self {
        Body::Inline(bytes.into())
    }
}

/// A whole chunk; its bytes are with the embedder
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// What the embedder knows it by
    pub(crate) home: u64,
    pub(crate) length: u64,
}

impl Checkpoint {
    /// Bytes that it takes here
    pub(crate) fn inline_bytes(&self) -> u64 {
        self.body.inline().len() as u64
    }

    /// How it goes out to whoever starts from it, where that is in chunks
    pub(crate) fn to_send(&self) -> Option<Box<Sending>> {
        self.body.elsewhere().map(|length| Box::new(Sending::new(length)))
    }

    /// The chunks that it consists of
    pub(crate) fn names(&self) -> &[ChunkName] {
        self.body.names()
    }
}

/// How a task ended
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) outcome: Outcome,
    pub(crate) token: Option<Token>,
    pub(crate) attempt: u32,
    pub(crate) result: Body,
    pub(crate) streams: [StreamEnd; 2],
}

/// A live attempt
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) task: TaskId,
    /// What it counts as in a digest (SESS-8)
    pub(crate) mark: u64,
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
    /// A result that waits for the rest of its output, or for its own chunks
    pub(crate) early: Option<Box<EarlyResult>>,
    /// A checkpoint or a result that is coming in chunks (CKPT-1)
    pub(crate) upload: Option<Box<Upload>>,
    /// What it starts from, where that goes out in chunks (CKPT-4)
    pub(crate) restoring: Option<Box<Sending>>,
    /// Its task's large input on its way out (FRAME-3)
    pub(crate) feeding: Option<Box<Sending>>,
    /// Under which it was given out, where an earlier epoch did that
    pub(crate) lease: Option<Lease>,
}

/// A result that came back on a new connection before the output in front of it, or whose chunks are still to come
#[derive(Clone, Debug)]
pub(crate) struct EarlyResult {
    /// In this session; in another one the number means something else
    pub(crate) session: SessionId,
    pub(crate) number: u64,
    pub(crate) outcome: Outcome,
    pub(crate) result: Body,
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
    /// Bytes of all checkpoints, and of all chunks of open tasks
    pub(crate) checkpoint_bytes: u64,
    /// Bytes of all chunks of tasks that have ended: those that they returned
    pub(crate) result_bytes: u64,
    /// Bytes of chunks that are to come, for which room is kept
    pub(crate) promised: u64,
    /// Tasks whose large input is still coming from the client that submits them
    pub(crate) drafts: BTreeMap<(PeerIx, TaskId), Draft>,
    /// Bytes of all large inputs: of open tasks, and of those that are still coming
    pub(crate) input_bytes: u64,
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
        let NewTask { spec, about, content, payload, input, submitted, ageing } = new;
        self.order += 1;
        let terms = about.terms;
        // Whoever knows what terms are knows chunks as well.
        let speaks = terms.at_worker().is_some() || input.is_some();
        let (kind, is_new) = self.queues.enter(Need { tags: about.needs, terms: speaks });
        self.input_bytes += input.as_ref().map_or(0, |input| input.length);
        let task = Task {
            spec,
            content,
            payload: payload.into(),
            input: input.map(Box::new),
            title: about.title.into_boxed_str(),
            kind,
            terms,
            leased: None,
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
            previous: None,
            chunks: BTreeMap::new(),
            ended: None,
            told: false,
            watchers: BTreeSet::new(),
        };
        self.counts.accepting += 1;
        self.by_order.insert(self.order, id);
        self.all.insert(id, task);
        is_new
    }

    /// The place that a task submitted now will have in the order of submission
    pub(crate) fn next_order(&self) -> u64 {
        self.order + 1
    }

    /// Bytes of all chunks, those that are to come included
    pub(crate) fn kept_bytes(&self) -> u64 {
        self.checkpoint_bytes + self.promised + self.result_bytes + self.input_bytes
    }

    /// Forgets an ended task
    pub(crate) fn remove(&mut self, id: TaskId) -> Option<Task> {
        let task = self.all.remove(&id)?;
        self.by_order.remove(&task.order);
        self.counts.ended -= 1;
        self.result_bytes -= task.chunks.values().map(|chunk| chunk.length).sum::<u64>();
        Some(task)
    }

    /// A task has its outcome: from now on its chunks are those of what it returned; returns where its input was
    pub(crate) fn set_end(&mut self, id: TaskId, end: Ended) -> Vec<u64> {
        let Some(task) = self.all.get_mut(&id) else { return Vec::new() };
        let chunks: u64 = task.chunks.values().map(|chunk| chunk.length).sum();
        if task.ended.replace(end).is_none() {
            self.checkpoint_bytes -= chunks;
            self.result_bytes += chunks;
        }
        task.payload = Box::default();
        let Some(input) = task.input.take() else { return Vec::new() };
        self.input_bytes -= input.length;
        input.homes().collect()
    }

    /// The counter for chunks of a task that has ended, or has not
    fn bytes_of(&mut self, ended: bool) -> &mut u64 {
        if ended { &mut self.result_bytes } else { &mut self.checkpoint_bytes }
    }

    /// Replaces a task's newest checkpoint, and keeps the one before where the new one could turn out to be unreadable
    pub(crate) fn set_checkpoint(&mut self, id: TaskId, new: Option<Checkpoint>) {
        let Some(task) = self.all.get_mut(&id) else { return };
        let before: u64 = task.checkpoints().map(Checkpoint::inline_bytes).sum();
        let old = core::mem::replace(&mut task.checkpoint, new);
        let keeps = task.checkpoint.as_ref().is_some_and(|new| !new.names().is_empty());
        task.previous = old.filter(|_| keeps);
        let after: u64 = task.checkpoints().map(Checkpoint::inline_bytes).sum();
        self.checkpoint_bytes = self.checkpoint_bytes + after - before;
    }

    /// The newest checkpoint of a task cannot be read: the one before is the newest (CKPT-4)
    pub(crate) fn fall_back(&mut self, id: TaskId) {
        let Some(task) = self.all.get_mut(&id) else { return };
        self.checkpoint_bytes -= task.checkpoint.as_ref().map_or(0, Checkpoint::inline_bytes);
        task.checkpoint = task.previous.take();
    }

    /// Adds a whole chunk
    pub(crate) fn add_chunk(&mut self, id: TaskId, name: ChunkName, chunk: Chunk) {
        let Some(task) = self.all.get_mut(&id) else { return };
        let known = task.chunks.insert(name, chunk);
        debug_assert_eq!(known, None, "what is there is not asked for");
        let ended = task.ended.is_some();
        *self.bytes_of(ended) += chunk.length;
    }

    /// Chunks that no checkpoint or result of their task consists of, and that none is going to; nor one of these names
    pub(crate) fn unused_chunks<'a>(
        &'a self,
        task: &'a Task,
        names: &'a [ChunkName],
    ) -> impl Iterator<Item = (&'a ChunkName, &'a Chunk)> {
        let attempts = || task.live.iter().filter_map(|token| self.attempts.get(token));
        let uploads = attempts().filter_map(|attempt| attempt.upload.as_ref());
        let early = attempts().filter_map(|attempt| attempt.early.as_ref());
        let coming = uploads.flat_map(|upload| &upload.names).chain(early.flat_map(|early| early.result.names()));
        let returned = task.ended.iter().flat_map(|end| end.result.names());
        let kept = task.checkpoints().flat_map(Checkpoint::names).chain(returned);
        let used: BTreeSet<&ChunkName> = kept.chain(coming).chain(names).collect();
        task.chunks.iter().filter(move |(name, _)| !used.contains(name))
    }

    /// Forgets the chunks of a task that are not used; returns their homes
    pub(crate) fn drop_chunks(&mut self, id: TaskId) -> Vec<u64> {
        let Some(task) = self.all.get(&id).filter(|task| !task.chunks.is_empty()) else { return Vec::new() };
        let unused: Vec<ChunkName> = self.unused_chunks(task, &[]).map(|(name, _)| *name).collect();
        unused.iter().filter_map(|name| self.drop_chunk(id, name)).map(|chunk| chunk.home).collect()
    }

    /// Forgets a chunk
    pub(crate) fn drop_chunk(&mut self, id: TaskId, name: &ChunkName) -> Option<Chunk> {
        let task = self.all.get_mut(&id)?;
        let (chunk, ended) = (task.chunks.remove(name)?, task.ended.is_some());
        *self.bytes_of(ended) -= chunk.length;
        Some(chunk)
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
            mark: mark(id, token),
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
            upload: None,
            restoring: task.checkpoint.as_ref().and_then(Checkpoint::to_send),
            feeding: task.input.as_ref().map(|input| Box::new(Sending::new(input.length))),
            lease: None,
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
            if let Some(end) = &task.ended {
                let returned: BTreeSet<&ChunkName> = end.result.names().iter().collect();
                assert_eq!(task.checkpoints().count(), 0, "{id} is over and keeps a checkpoint");
                assert!(task.chunks.keys().eq(returned), "{id} is over and keeps other chunks than it returned");
            }
            assert_eq!(self.by_order.get(&task.order), Some(id));
        }
        assert_eq!(counts, self.counts);
        assert_eq!(self.queues.len() as u64 + self.suspects.len() as u64, counts.ready);
        assert_eq!(self.by_order.len(), self.all.len());
        let inline = self.all.values().flat_map(Task::checkpoints).map(Checkpoint::inline_bytes);
        let chunks = |ended| {
            let tasks = self.all.values().filter(move |task| task.ended.is_some() == ended);
            tasks.flat_map(|task| task.chunks.values()).map(|chunk| chunk.length)
        };
        assert_eq!(inline.chain(chunks(false)).sum::<u64>(), self.checkpoint_bytes);
        assert_eq!(chunks(true).sum::<u64>(), self.result_bytes);
        let inputs = self.all.values().filter_map(|task| task.input.as_ref()).map(|input| input.length);
        let coming = self.drafts.values().map(|draft| draft.input.length);
        assert_eq!(inputs.chain(coming).sum::<u64>(), self.input_bytes);
        assert!(
            self.all.values().all(|task| task.input.is_none() || task.ended.is_none()),
            "an input is kept for nothing"
        );
        let uploads = self.attempts.values().filter_map(|attempt| attempt.upload.as_ref());
        assert_eq!(uploads.map(|upload| upload.promised()).sum::<u64>(), self.promised, "room is kept for nothing");
        for (id, task) in &self.all {
            let mut names = task.checkpoints().flat_map(Checkpoint::names);
            assert!(
                names.all(|name| task.chunks.contains_key(name)),
                "a chunk of a checkpoint of {id} is missing (S14)"
            );
        }
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
    pub(crate) input: Option<Large>,
    pub(crate) submitted: Instant,
    pub(crate) ageing: Duration,
}

/// What makes two submits the same (TASK-1)
///
/// A large input is its length and the names of its chunks.
pub(crate) fn content_digest(spec: TaskSpec, about: &[u8], payload: &[u8], input: Option<(u64, &[u8])>) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update([spec.priority]);
    hash.update(spec.retries.to_le_bytes());
    // Each with its length, so that no two ways to cut the same bytes are one content.
    hash.update((about.len() as u64).to_le_bytes());
    hash.update(about);
    hash.update((payload.len() as u64).to_le_bytes());
    hash.update(payload);
    if let Some((length, names)) = input {
        hash.update(length.to_le_bytes());
        hash.update(names);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_step_of_a_task_is_legal_or_refused_as_the_table_says() {
        use TaskState as S;
        use TaskStep as T;
        let steps = [T::Accept, T::Assign, T::Adopt, T::Retry, T::Hold, T::Due, T::Requeue, T::End];
        let none = None;
        let end = Some(S::Ended);
        let table = [
            (S::Accepting, [Some(S::Ready), none, none, none, none, none, none, end]),
            (S::Ready, [none, Some(S::Assigned), Some(S::Assigned), none, Some(S::Backoff), none, none, end]),
            (S::Backoff, [none, none, Some(S::Assigned), none, none, Some(S::Ready), none, end]),
            (S::Assigned, [none, none, none, Some(S::Backoff), none, none, Some(S::Ready), end]),
            (S::Ended, [none; 8]),
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
        let plain = |spec, payload: &[u8]| content_digest(spec, b"", payload, None);
        assert_eq!(plain(spec, b"x"), plain(spec, b"x"));
        assert_ne!(plain(spec, b"x"), plain(spec, b"y"));
        assert_ne!(plain(spec, b"x"), plain(TaskSpec { priority: 2, ..spec }, b"x"));
        let large = |length, name| content_digest(spec, b"", b"x", Some((length, &[name; 32])));
        assert_ne!(large(50_000, 1), plain(spec, b"x"));
        assert_ne!(large(50_000, 1), large(50_000, 2));
        assert_ne!(large(50_000, 1), large(50_001, 1));
    }
}
