//! Checkpoints and results that come in chunks (FRAME-3, CKPT-1 to CKPT-3)
//!
//! A piece is a record as soon as it has come, so that its bytes need not be held here. A chunk counts once it is whole and
//! verified, a checkpoint or a result once all its chunks are there: nothing partial can be seen.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::blob::{ChunkName, ChunkSet, RESULT, Receiving, chunk_span, names_of};
use crate::channel::Violation;
use crate::ids::{ConnId, TaskId, Token};
use crate::journal::{Record, homes};
use crate::limits::SESSION_UNACKED_MAX;
use crate::planted::{self, Bug};
use crate::wire::message::{CheckpointRefused, Failure, Outcome};

use super::Desk;
use super::gate::Effect;
use super::peers::{PeerIx, PeerSession};
use super::tasks::{Body, Checkpoint, Chunk, Task};

const CONTRADICTION: &str = "the result and the names of its chunks disagree";
const FULL: &str = "the coordinator holds as many bytes of results as it may: forget tasks, or try again later";
/// Chunks whose end one record tells: it has to fit into the buffer for a frame
const GONE_AT_ONCE: usize = 4096;

/// A checkpoint on its way here, or what an attempt returned
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    /// Of the checkpoint, or [`RESULT`]
    pub(crate) number: u64,
    length: u64,
    pub(crate) names: Box<[ChunkName]>,
    receiving: Receiving,
    /// Where the chunk is kept that has come in part
    home: Option<u64>,
    /// Bytes of the chunks that are still to come, for which room is kept
    promised: u64,
}

impl Upload {
    /// Bytes that are still to come
    pub(crate) fn promised(&self) -> u64 {
        self.promised
    }

    /// Which chunks are wanted, as they are named on the wire
    pub(crate) fn wanted(&self) -> heapless::Vec<u8, { ChunkSet::BYTES_MAX }> {
        self.receiving.missing().bytes(self.names.len())
    }
}

impl Desk {
    /// A worker offers a checkpoint: it is told what is missing, or that it is durable, or why it is not taken
    pub(super) fn take_offer(
        &mut self,
        ix: PeerIx,
        token: Token,
        number: u64,
        length: u64,
        names: &[u8],
    ) -> Result<(), Violation> {
        let names = names_of(length, names).filter(|_| number != RESULT).ok_or(Violation)?;
        let backlog = self.roster.get(ix).session.as_ref().map_or(0, PeerSession::backlog);
        if backlog + self.gate.says(ix) >= SESSION_UNACKED_MAX {
            // Whoever asks without end and takes no answers breaks what credit is for.
            return Err(Violation);
        }
        let attempt = self.tasks.attempts.get(&token).filter(|attempt| attempt.peer == ix);
        let Some(task) = attempt.map(|attempt| attempt.task) else {
            // The result of a replaced attempt that has failed waits until its last checkpoint is answered (CKPT-4).
            self.answer_checkpoint(ix, token, number, Some(CheckpointRefused::Stale));
            return Ok(());
        };
        // Whatever else was coming is not sent any more.
        self.drop_upload(token);
        let kept = self.checkpoint_of(ix, token, number);
        match kept.and_then(|kept| if kept { Ok(None) } else { self.chunks_to_come(task, length, names).map(Some) }) {
            Ok(None) => self.answer_checkpoint(ix, token, number, None),
            Ok(Some(missing)) => self.begin_upload(ix, token, number, length, names, missing),
            Err(refused) => self.answer_checkpoint(ix, token, number, Some(refused)),
        }
        // What had come as a whole, and this one has not in common.
        self.drop_chunks(task);
        Ok(())
    }

    /// What has to come for a checkpoint, if there is room for it (CKPT-2)
    fn chunks_to_come(&self, id: TaskId, length: u64, names: &[ChunkName]) -> Result<ChunkSet, CheckpointRefused> {
        let task = self.tasks.all.get(&id).ok_or(CheckpointRefused::Stale)?;
        if length > self.config.checkpoint_max {
            return Err(CheckpointRefused::TooLarge);
        }
        let missing = missing(task, length, names).ok_or(CheckpointRefused::Damaged)?;
        // What came for another one, and this one has not in common, goes when this one begins.
        let useless: u64 = self.tasks.unused_chunks(task, names).map(|(_, chunk)| chunk.length).sum();
        let taken = self.tasks.checkpoint_bytes + self.tasks.promised - useless;
        if taken + bytes_of(&missing, length, names.len()) > self.config.checkpoint_bytes_max {
            return Err(CheckpointRefused::Full);
        }
        Ok(missing)
    }

    /// Asks for what is missing of a result whose chunks are still to come
    pub(super) fn begin_result(&mut self, token: Token) {
        self.drop_upload(token);
        let Some(attempt) = self.tasks.attempts.get(&token) else { return };
        let (id, ix) = (attempt.task, attempt.peer);
        // What was said in another session is asked for once it is said in this one, which may be of an older version.
        let session = self.roster.get(ix).session.as_ref().map(|session| session.numbers.id);
        let early = attempt.early.as_ref().filter(|early| session == Some(early.session));
        let Some(Body::Chunks { length, names }) = early.map(|early| early.result.clone()) else { return };
        let Some(task) = self.tasks.all.get(&id) else { return };
        let missing = missing(task, length, &names);
        let kept = self.tasks.kept_bytes();
        match missing {
            None => self.spoil_result(token, CONTRADICTION),
            Some(missing) if kept + bytes_of(&missing, length, names.len()) > self.config.blob_bytes_max => {
                self.spoil_result(token, FULL);
            }
            Some(missing) => self.begin_upload(ix, token, RESULT, length, &names, missing),
        }
        self.drop_chunks(id);
    }

    /// What an attempt returned cannot be had: it has failed
    pub(super) fn spoil_result(&mut self, token: Token, why: &str) {
        let Some(attempt) = self.tasks.attempts.get_mut(&token) else { return };
        let Some(early) = attempt.early.as_mut() else { return };
        (early.outcome, early.result) = (Outcome::Failed(Failure::Error), why.as_bytes().into());
        self.drop_upload(token);
        self.try_early_result(token);
    }

    fn begin_upload(
        &mut self,
        ix: PeerIx,
        token: Token,
        number: u64,
        length: u64,
        names: &[ChunkName],
        missing: ChunkSet,
    ) {
        let promised = bytes_of(&missing, length, names.len());
        self.tasks.promised += promised;
        let receiving = Receiving::new(length, missing);
        let complete = receiving.missing().is_empty();
        let upload = Box::new(Upload { number, length, names: names.into(), receiving, home: None, promised });
        if let Some(attempt) = self.tasks.attempts.get_mut(&token) {
            attempt.upload = Some(upload);
        }
        if complete {
            return self.complete_upload(ix, token);
        }
        self.roster.get_mut(ix).to_need.insert(token);
        self.touch(ix);
    }

    pub(super) fn take_piece(
        &mut self,
        conn: ConnId,
        ix: PeerIx,
        token: Token,
        number: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Violation> {
        let len = bytes.len() as u64;
        self.bulk_arrived(conn, len)?;
        let next_home = self.next_home;
        let attempt = self.tasks.attempts.get_mut(&token).filter(|attempt| attempt.peer == ix);
        let task = attempt.as_ref().map(|attempt| attempt.task);
        let upload = attempt.and_then(|attempt| attempt.upload.as_mut()).filter(|upload| upload.number == number);
        let (Some(task), Some(upload)) = (task, upload) else {
            // Of a checkpoint that is not taken any more: of no use, but it makes room.
            self.bulk_dealt_with(conn, len);
            return Ok(());
        };
        let within = upload.receiving.done();
        let whole = upload.receiving.arrive(offset, bytes)?;
        let home = *upload.home.get_or_insert(next_home);
        let complete = upload.receiving.missing().is_empty();
        let wanted = whole.map(|whole| {
            let length = self::len(upload.length, whole.chunk);
            upload.home = None;
            upload.promised -= length;
            self.tasks.promised -= length;
            (upload.names[whole.chunk] == whole.name, whole.name, Chunk { home, length })
        });
        self.next_home = self.next_home.max(home + 1);
        self.gate.write(&Record::Piece { task, home, offset: within, bytes });
        self.gate.then(Effect::Bulk(conn, len));
        match wanted {
            None => {}
            Some((true, name, chunk)) => {
                self.keep_chunk(task, name, chunk);
                if complete || (number != RESULT && planted::is(Bug::PartialCheckpoint)) {
                    self.complete_upload(ix, token);
                }
            }
            Some((false, ..)) => {
                self.chunks_gone(task, alloc::vec![home]);
                if number == RESULT {
                    self.spoil_result(token, CONTRADICTION);
                } else {
                    self.drop_upload(token);
                    self.answer_checkpoint(ix, token, number, Some(CheckpointRefused::Damaged));
                }
                self.drop_chunks(task);
            }
        }
        Ok(())
    }

    fn keep_chunk(&mut self, task: TaskId, name: ChunkName, chunk: Chunk) {
        let Chunk { home, length } = chunk;
        if self.tasks.all.get(&task).is_some_and(|task| task.chunks.contains_key(&name)) {
            // It has come another way meanwhile.
            return self.chunks_gone(task, alloc::vec![home]);
        }
        self.gate.write(&Record::Chunk { task, home, length, name });
        self.tasks.add_chunk(task, name, chunk);
    }

    /// All chunks are there: the result is, or the checkpoint, unless the task has gone on without that meanwhile
    fn complete_upload(&mut self, ix: PeerIx, token: Token) {
        let Some(attempt) = self.tasks.attempts.get_mut(&token) else { return };
        let (id, Some(upload)) = (attempt.task, attempt.upload.take()) else { return };
        let Upload { number, length, names, promised, .. } = *upload;
        self.tasks.promised -= promised;
        if number == RESULT {
            return self.try_early_result(token);
        }
        if let Err(refused) = self.checkpoint_of(ix, token, number) {
            self.drop_chunks(id);
            return self.answer_checkpoint(ix, token, number, Some(refused));
        }
        let Some(task) = self.tasks.all.get(&id) else { return };
        let homes = homes_in(task, &names);
        self.gate.write(&Record::Manifest { task: id, token, number, length, homes: &homes });
        self.checkpoint_kept(id, Checkpoint { token, number, body: Body::Chunks { length, names } });
        self.answer_checkpoint(ix, token, number, None);
    }

    /// The worker sends nothing more of it, or all of it again
    pub(super) fn drop_upload(&mut self, token: Token) {
        let Some(attempt) = self.tasks.attempts.get_mut(&token) else { return };
        let (task, ix) = (attempt.task, attempt.peer);
        let Some(upload) = attempt.upload.take() else { return };
        self.tasks.promised -= upload.promised;
        self.roster.get_mut(ix).to_need.remove(&token);
        self.chunks_gone(task, upload.home.into_iter().collect());
    }

    /// Forgets the chunks of a task that are of no use any more
    pub(super) fn drop_chunks(&mut self, task: TaskId) {
        let gone = self.tasks.drop_chunks(task);
        self.chunks_gone(task, gone);
    }

    pub(super) fn chunks_gone(&mut self, task: TaskId, gone: Vec<u64>) {
        for some in gone.chunks(GONE_AT_ONCE) {
            self.gate.write(&Record::Gone { task, homes: &homes(some.iter().copied()) });
        }
    }
}

/// The names by which records know the chunks of a blob that is whole
pub(super) fn homes_in(task: &Task, names: &[ChunkName]) -> Vec<u8> {
    homes(names.iter().filter_map(|name| task.chunks.get(name)).map(|chunk| chunk.home))
}

/// Chunks to ask for: of those with one content the first; `None` if one name stands for two lengths
fn missing(task: &Task, length: u64, names: &[ChunkName]) -> Option<ChunkSet> {
    let mut asked = BTreeMap::new();
    let mut missing = ChunkSet::default();
    for (chunk, name) in names.iter().enumerate() {
        let known = task.chunks.get(name).map(|chunk| chunk.length);
        match known.or_else(|| asked.insert(name, len(length, chunk))) {
            None => missing.insert(chunk),
            Some(known) if known == len(length, chunk) => {}
            Some(_) => return None,
        }
    }
    Some(missing)
}

fn bytes_of(missing: &ChunkSet, length: u64, chunks: usize) -> u64 {
    (0..chunks).filter(|chunk| missing.has(*chunk)).map(|chunk| len(length, chunk)).sum()
}

fn len(length: u64, chunk: usize) -> u64 {
    let span = chunk_span(length, chunk);
    span.end - span.start
}
