//! Checkpoints that people look at: which there are, their bytes, and doing without them; and what tasks returned (CKPT-2)

use alloc::vec::Vec;

use crate::blob::{RESULT, chunk_bytes, chunk_span};
use crate::ids::{SessionId, TaskId};
use crate::journal::Record;
use crate::limits::{ANSWER_BYTES_MAX, ASKS_MAX};
use crate::wire::view::CheckpointView;

use super::Desk;
use super::peers::{PeerIx, Reading};
use super::tasks::{Body, Tasks};
use super::views::encoded;

/// A piece of a checkpoint, or of what a task returned, that a client waits for
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fetch {
    pub(crate) session: SessionId,
    pub(crate) ask: u64,
    pub(crate) task: TaskId,
    pub(crate) number: u64,
    pub(crate) offset: u64,
}

/// Where a piece is
enum Found<'a> {
    /// Here
    Here(&'a [u8]),
    /// With the embedder
    There(Reading),
}

impl Desk {
    /// The checkpoints that are kept of a task, newest first
    pub(super) fn checkpoint_views(&self, id: TaskId) -> Vec<CheckpointView> {
        let task = self.tasks.all.get(&id);
        let views = task.into_iter().flat_map(|task| task.checkpoints()).map(|checkpoint| CheckpointView {
            number: checkpoint.number,
            token: checkpoint.token,
            length: checkpoint.body.len(),
            chunks: checkpoint.names().len() as u32,
        });
        views.collect()
    }

    /// Answers when the piece has been read; that goes on where it was if the client's connection breaks meanwhile
    pub(super) fn fetch(&mut self, ix: PeerIx, fetch: Fetch) {
        let peer = self.roster.get_mut(ix);
        while peer.fetching.len() >= ASKS_MAX {
            peer.fetching.pop_front();
        }
        peer.fetching.push_back(fetch);
        self.readers.insert(ix);
    }

    /// The next piece of a chunk that a client waits for, to be read by the embedder
    pub(super) fn next_fetch(&mut self, ix: PeerIx) -> Option<Reading> {
        while let Some(fetch) = self.roster.get(ix).fetching.front().copied() {
            match find(&fetch, &self.tasks) {
                Some(Found::There(reading)) => return Some(reading),
                Some(Found::Here(bytes)) => {
                    let answer = answer(Some(bytes));
                    self.fetched(ix, answer);
                }
                None => self.fetched(ix, answer(None)),
            }
        }
        None
    }

    /// The embedder has read what a client waits for, if that is there
    pub(super) fn shown(&mut self, ix: PeerIx, ask: u64, bytes: Option<&[u8]>) {
        if self.roster.get(ix).fetching.front().is_some_and(|fetch| fetch.ask == ask) {
            self.fetched(ix, answer(bytes));
        }
        self.readers.insert(ix);
    }

    fn fetched(&mut self, ix: PeerIx, answer: Vec<u8>) {
        if let Some(fetch) = self.roster.get_mut(ix).fetching.pop_front() {
            self.reply(ix, fetch.session, fetch.ask, answer);
            self.let_effects_happen();
        }
    }

    /// Somebody wants the task's next attempt to begin anew: nothing is kept of its checkpoints
    ///
    /// An attempt that runs may make others.
    pub(super) fn drop_checkpoints(&mut self, id: TaskId) {
        let kept = self.tasks.all.get(&id).map_or(0, |task| task.checkpoints().count());
        for _ in 0..kept {
            self.gate.write(&Record::Unreadable { task: id });
            self.tasks.fall_back(id);
        }
        if kept > 0 {
            self.story.note(self.now, id, None, "checkpoints dropped");
            self.drop_chunks(id);
            self.renew_restores(id, None);
        }
    }
}

/// Where the bytes from an offset on are, as many as fit into an answer; none at the end
fn find<'a>(fetch: &Fetch, tasks: &'a Tasks) -> Option<Found<'a>> {
    let task = tasks.all.get(&fetch.task)?;
    let body = match fetch.number {
        RESULT => &task.ended.as_ref().filter(|_| task.told)?.result,
        number => &task.checkpoints().find(|checkpoint| checkpoint.number == number)?.body,
    };
    match body {
        Body::Inline(bytes) => {
            let rest = &bytes[bytes.len().min(usize::try_from(fetch.offset).unwrap_or(usize::MAX))..];
            Some(Found::Here(&rest[..rest.len().min(ANSWER_BYTES_MAX)]))
        }
        Body::Chunks { length, .. } if fetch.offset >= *length => Some(Found::Here(&[])),
        Body::Chunks { length, names } => {
            let chunk = (fetch.offset / chunk_bytes(*length)) as usize;
            let (home, span) = (task.chunks.get(names.get(chunk)?)?.home, chunk_span(*length, chunk));
            let max = (span.end - fetch.offset).min(ANSWER_BYTES_MAX as u64) as u32;
            Some(Found::There(Reading::Shown { ask: fetch.ask, home, within: fetch.offset - span.start, max }))
        }
    }
}

fn answer(bytes: Option<&[u8]>) -> Vec<u8> {
    encoded(&bytes.map(serde_bytes::Bytes::new))
}
