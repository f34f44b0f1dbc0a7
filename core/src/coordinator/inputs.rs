//! Large inputs: on their way from whoever submits their task, and to whoever executes it (FRAME-3)
//!
//! A task is accepted once its input is here as a whole. Until then it is a draft, which belongs to the session of its client
//! and is in no table of tasks: after a restart nothing is left of it, and the client begins anew.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::about::About;
use crate::blob::{ChunkName, ChunkSet, INPUT, Receiving, chunk_bytes, chunk_span, names_of};
use crate::channel::Violation;
use crate::error::Rejected;
use crate::ids::{ConnId, TaskId, Token};
use crate::journal::{Record, homes, homes_of};
use crate::limits::{BLOB_BYTES_MAX, INLINE_BYTES_MAX};
use crate::wire::message::{Failure, Follow, Outcome, Refused, Stream, TaskSpec};

use super::Desk;
use super::client_talk::refused;
use super::gate::Effect;
use super::peers::{PeerIx, Reading, Sent};
use super::tasks::{Attempt, content_digest};

const UNREADABLE: &[u8] = b"the input of the task cannot be read any more";

/// A large input
#[derive(Clone, Debug)]
pub(crate) struct Large {
    pub(crate) length: u64,
    pub(crate) names: Box<[ChunkName]>,
    /// Where the chunks are that have come
    chunks: BTreeMap<ChunkName, u64>,
}

impl Large {
    /// Reads what a record says; `None` if that contradicts itself
    ///
    /// Of a task that has ended since, nothing may be there any more.
    pub(crate) fn recorded(
        length: u64,
        names: &[u8],
        homes: &[u8],
        strays: &mut BTreeMap<u64, TaskId>,
    ) -> Option<Large> {
        let names: Box<[ChunkName]> = names_of(length, names)?.into();
        let homes: Vec<u64> = homes_of(homes).collect();
        let named = names.iter().copied().zip(homes.iter().copied());
        let chunks: BTreeMap<ChunkName, u64> = named.filter(|(_, home)| strays.contains_key(home)).collect();
        chunks.values().for_each(|home| {
            strays.remove(home);
        });
        (homes.len() == names.len()).then_some(Large { length, names, chunks })
    }

    /// Where its chunks are, each once
    pub(crate) fn homes(&self) -> impl Iterator<Item = u64> + '_ {
        self.chunks.values().copied()
    }

    fn record_homes(&self) -> Vec<u8> {
        homes(self.names.iter().filter_map(|name| self.chunks.get(name)).copied())
    }

    /// What has not come; `None` if one name stands for two lengths
    fn missing(&self) -> Option<ChunkSet> {
        let mut lengths = BTreeMap::new();
        let mut missing = ChunkSet::default();
        for (chunk, name) in self.names.iter().enumerate() {
            let span = chunk_span(self.length, chunk);
            let length = span.end - span.start;
            match lengths.insert(name, length) {
                None if self.chunks.contains_key(name) => {}
                None => missing.insert(chunk),
                Some(known) if known == length => {}
                Some(_) => return None,
            }
        }
        Some(missing)
    }
}

/// A task whose large input is still coming
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    spec: TaskSpec,
    about: Box<[u8]>,
    payload: Box<[u8]>,
    content: [u8; 32],
    follow: Follow,
    pub(crate) input: Large,
    receiving: Receiving,
    /// Where the chunk is kept that has come in part
    home: Option<u64>,
    /// Somebody has asked for it to be stopped
    cancel: bool,
    /// It was submitted again: pieces may be under way that answer what was wanted before
    again: bool,
}

impl Draft {
    /// Whether a piece is of no use: it answers what was wanted before the task was submitted again, or comes once more
    ///
    /// Where a chunk begins anew, what has come of it is dropped; returns where that was kept.
    fn passes_over(&mut self, offset: u64) -> (bool, Option<u64>) {
        let Some(begins) = self.receiving.chunk_begins().filter(|_| self.again) else { return (false, None) };
        if offset == begins && self.receiving.done() > 0 {
            self.receiving.rewind();
            return (false, self.home.take());
        }
        (offset != begins + self.receiving.done(), None)
    }

    /// Which chunks are wanted, as they are named on the wire
    pub(crate) fn wanted(&self) -> heapless::Vec<u8, { ChunkSet::BYTES_MAX }> {
        self.receiving.missing().bytes(self.input.names.len())
    }
}

/// What a client says of a task with a large input
#[derive(Clone, Copy, Debug)]
pub(super) struct Offered<'a> {
    pub(super) spec: TaskSpec,
    pub(super) about: &'a [u8],
    pub(super) payload: &'a [u8],
    pub(super) length: u64,
    pub(super) names: &'a [u8],
    pub(super) follow: Follow,
}

impl Desk {
    // On its way here.

    /// A client has a task with a large input: it is told what is missing of that, or why the task is not taken
    pub(super) fn submit_large(&mut self, ix: PeerIx, task: TaskId, offered: Offered<'_>) -> Result<(), Violation> {
        let Offered { spec, about, payload, length, names, follow } = offered;
        let named = names_of(length, names).ok_or(Violation)?;
        let content = content_digest(spec, about, payload, Some((length, names)));
        let fits = length <= BLOB_BYTES_MAX && payload.len() + names.len() <= INLINE_BYTES_MAX;
        let known = if fits { self.may_submit(task, spec, about, content) } else { Err(Rejected::TooLarge) };
        match known {
            Ok(Some(_)) => {}
            Ok(None) => {
                self.drop_draft(ix, task);
                self.watch(ix, task, follow);
                return Ok(());
            }
            Err(rejected) => {
                self.refuse_draft(ix, task, refused(rejected));
                return Ok(());
            }
        }
        if let Some(draft) = self.tasks.drafts.get_mut(&(ix, task)).filter(|draft| draft.content == content) {
            // In a session of its own again, or its client has begun anew: what has come of it is still here.
            draft.follow = follow;
            draft.again = true;
            self.roster.get_mut(ix).inputs_due.insert(task);
            self.touch(ix);
            return Ok(());
        }
        self.drop_draft(ix, task);
        // A draft has as much that is to be remembered as a task.
        let tasks = self.tasks.all.len() + self.tasks.drafts.len();
        if self.tasks.kept_bytes() + length > self.config.blob_bytes_max || tasks >= self.config.tasks_max {
            self.refuse_draft(ix, task, Refused::Full);
            return Ok(());
        }
        let input = Large { length, names: named.into(), chunks: BTreeMap::new() };
        let Some(missing) = input.missing() else {
            self.refuse_draft(ix, task, Refused::Damaged);
            return Ok(());
        };
        let receiving = Receiving::new(length, missing);
        let (about, payload) = (about.into(), payload.into());
        let draft =
            Draft { spec, about, payload, content, follow, input, receiving, home: None, cancel: false, again: false };
        self.tasks.input_bytes += length;
        self.tasks.drafts.insert((ix, task), draft);
        self.roster.get_mut(ix).inputs_due.insert(task);
        self.touch(ix);
        Ok(())
    }

    pub(super) fn take_input_piece(
        &mut self,
        conn: ConnId,
        ix: PeerIx,
        task: TaskId,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Violation> {
        let len = bytes.len() as u64;
        self.bulk_arrived(conn, len)?;
        let next_home = self.next_home;
        let Some(draft) = self.tasks.drafts.get_mut(&(ix, task)) else {
            // Of a task that was accepted or refused meanwhile: of no use, but it makes room.
            self.bulk_dealt_with(conn, len);
            return Ok(());
        };
        let (passed_over, dropped) = draft.passes_over(offset);
        if passed_over {
            self.bulk_dealt_with(conn, len);
            return Ok(());
        }
        let within = draft.receiving.done();
        let whole = draft.receiving.arrive(offset, bytes)?;
        let home = *draft.home.get_or_insert(next_home);
        self.next_home = self.next_home.max(home + 1);
        self.gate.write(&Record::Piece { task, home, offset: within, bytes });
        self.gate.then(Effect::Bulk(conn, len));
        self.chunks_gone(task, dropped.into_iter().collect());
        let Some(draft) = self.tasks.drafts.get_mut(&(ix, task)) else { return Ok(()) };
        let Some(whole) = whole else { return Ok(()) };
        if draft.input.names[whole.chunk] != whole.name {
            self.refuse_draft(ix, task, Refused::Damaged);
            return Ok(());
        }
        draft.home = None;
        draft.input.chunks.insert(whole.name, home);
        if draft.receiving.missing().is_empty() {
            self.accept_draft(ix, task);
        }
        Ok(())
    }

    /// All of the input is here: the task is accepted once the record that says so is durable (TASK-1)
    fn accept_draft(&mut self, ix: PeerIx, task: TaskId) {
        let Some(draft) = self.tasks.drafts.get(&(ix, task)) else { return };
        let (spec, content, follow, cancel) = (draft.spec, draft.content, draft.follow, draft.cancel);
        let about = draft.about.clone();
        match self.may_submit(task, spec, &about, content) {
            Ok(Some(said)) => {
                let Some(draft) = self.tasks.drafts.remove(&(ix, task)) else { return };
                let Draft { payload, input, .. } = draft;
                let (length, names, homes) = (input.length, input.names.as_flattened(), input.record_homes());
                let record =
                    Record::SubmitLarge { task, spec, about: &about, payload: &payload, length, names, homes: &homes };
                self.gate.write(&record);
                self.tasks.input_bytes -= length;
                self.insert(task, spec, said, content, &payload, Some(input));
                self.accept(task);
            }
            // Somebody else was faster.
            Ok(None) => self.drop_draft(ix, task),
            Err(rejected) => return self.refuse_draft(ix, task, refused(rejected)),
        }
        self.watch(ix, task, follow);
        if cancel {
            self.cancel_for(ix, task);
        }
    }

    /// Somebody wants a task stopped that is still a draft of theirs: as soon as it is accepted (TASK-7)
    pub(super) fn cancel_draft(&mut self, ix: PeerIx, task: TaskId) -> bool {
        let draft = self.tasks.drafts.get_mut(&(ix, task));
        draft.map(|draft| draft.cancel = true).is_some()
    }

    fn refuse_draft(&mut self, ix: PeerIx, task: TaskId, reason: Refused) {
        self.drop_draft(ix, task);
        self.say(ix, Sent::Refused(task, reason));
    }

    fn drop_draft(&mut self, ix: PeerIx, task: TaskId) {
        let Some(draft) = self.tasks.drafts.remove(&(ix, task)) else { return };
        self.tasks.input_bytes -= draft.input.length;
        self.roster.get_mut(ix).inputs_due.remove(&task);
        self.chunks_gone(task, draft.input.homes().chain(draft.home).collect());
    }

    /// Their client is gone, and with it what it wanted
    pub(super) fn drop_drafts(&mut self, ix: PeerIx) {
        self.drafts_of(ix).into_iter().for_each(|task| self.drop_draft(ix, task));
    }

    /// On a new connection: what has come of a chunk comes again
    pub(super) fn restart_drafts(&mut self, ix: PeerIx) {
        self.drafts_of(ix).into_iter().for_each(|task| self.restart_draft(ix, task));
    }

    fn restart_draft(&mut self, ix: PeerIx, task: TaskId) {
        let Some(draft) = self.tasks.drafts.get_mut(&(ix, task)) else { return };
        draft.receiving.rewind();
        draft.again = false;
        let partial = draft.home.take();
        self.chunks_gone(task, partial.into_iter().collect());
        self.roster.get_mut(ix).inputs_due.insert(task);
        self.touch(ix);
    }

    fn drafts_of(&self, ix: PeerIx) -> Vec<TaskId> {
        let all = (ix, TaskId([0; 16]))..=(ix, TaskId([255; 16]));
        self.tasks.drafts.range(all).map(|((_, task), _)| *task).collect()
    }

    // On its way out.

    /// A worker says what it lacks of its task's input
    pub(super) fn take_input_need(&mut self, ix: PeerIx, token: Token, wanted: &[u8]) -> Result<(), Violation> {
        let attempt = self.tasks.attempts.get_mut(&token).filter(|attempt| attempt.peer == ix);
        let Some(feeding) = attempt.and_then(|attempt| attempt.feeding.as_mut()) else { return Ok(()) };
        feeding.need(wanted)?;
        self.send_chunks(ix, token);
        Ok(())
    }

    /// The input of a task cannot be read any more: nobody can ever execute it
    pub(super) fn input_is_bad(&mut self, ix: PeerIx, token: Token) {
        let feeds = |attempt: &&Attempt| attempt.peer == ix && attempt.feeding.is_some() && !attempt.running;
        let Some(attempt) = self.tasks.attempts.get(&token).filter(feeds) else { return };
        let (id, number) = (attempt.task, attempt.attempt);
        let streams = Stream::ALL.map(|stream| attempt.streams[stream.index()].end());
        self.end_task(id, Some((token, number)), Outcome::Failed(Failure::Error), UNREADABLE.into(), streams);
    }

    /// The next piece of a task's input for one of its attempts, of at most so many bytes
    pub(super) fn next_of_input(&self, token: Token, most: u64) -> Option<Reading> {
        let attempt = self.tasks.attempts.get(&token)?;
        let input = self.tasks.all.get(&attempt.task)?.input.as_ref()?;
        let (offset, len) = attempt.feeding.as_ref()?.next(most)?;
        let chunk = (offset / chunk_bytes(input.length)) as usize;
        let home = *input.chunks.get(input.names.get(chunk)?)?;
        let within = offset - chunk_span(input.length, chunk).start;
        Some(Reading::Chunk { token, number: INPUT, offset, home, within, max: len as u32 })
    }
}

impl Desk {
    /// What a new task says of itself; `None` if it is known, and the same
    pub(super) fn may_submit(
        &self,
        id: TaskId,
        spec: TaskSpec,
        about: &[u8],
        content: [u8; 32],
    ) -> Result<Option<About>, Rejected> {
        if spec.priority >= crate::limits::PRIORITIES {
            return Err(Rejected::BadSpec);
        }
        let known = self.tasks.all.get(&id).map(|task| task.content);
        if let Some(known) = known.or(self.tasks.forgotten.get(&id).map(|old| old.content)) {
            return if known == content { Ok(None) } else { Err(Rejected::Conflict) };
        }
        let said = About::decode(about).map_err(|_| Rejected::BadSpec)?;
        if self.tasks.all.len() >= self.config.tasks_max || self.tasks.forgotten.len() >= self.config.forgotten_max {
            return Err(Rejected::Full);
        }
        said.terms.agree_with(self.config.lost_after, self.lease().wait()).map_err(|_| Rejected::BadSpec)?;
        Ok(Some(said))
    }
}
