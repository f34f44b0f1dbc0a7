//! Checkpoints that come in chunks (CKPT-1 to CKPT-3)
//!
//! A piece is a record as soon as it has come, so that its bytes need not be held here. A chunk counts once it is whole and
//! verified, a checkpoint once all its chunks are there: nothing partial can be seen.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::blob::{ChunkName, ChunkSet, Receiving, chunk_span, names_of};
use crate::channel::Violation;
use crate::ids::{ConnId, TaskId, Token};
use crate::journal::{Record, homes};
use crate::planted::{self, Bug};
use crate::wire::message::CheckpointRefused;

use super::Desk;
use super::entry::Conn;
use super::gate::Effect;
use super::peers::PeerIx;
use super::tasks::{Checkpoint, CheckpointBody, Chunk, Task};

/// A checkpoint on its way here
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    pub(crate) number: u64,
    length: u64,
    pub(crate) names: Box<[ChunkName]>,
    receiving: Receiving,
    /// Where the chunk is kept that has come in part
    home: Option<u64>,
}

impl Upload {
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
        let names = names_of(length, names).ok_or(Violation)?;
        let known = self.checkpoint_of(ix, token, number);
        let judged = match known {
            Ok(true) => Err(None),
            Ok(false) => self.room_for(ix, token, length, names).map_err(Some),
            Err(refused) => Err(Some(refused)),
        };
        match judged {
            Ok(()) => self.begin_upload(ix, token, number, length, names),
            Err(refused) => self.answer_checkpoint(ix, token, number, refused),
        }
        Ok(())
    }

    /// Whether a checkpoint of this length may be taken (CKPT-2)
    fn room_for(&self, ix: PeerIx, token: Token, length: u64, names: &[ChunkName]) -> Result<(), CheckpointRefused> {
        let task = self.task_of(ix, token).ok_or(CheckpointRefused::Stale)?.1;
        if length > self.config.checkpoint_max {
            return Err(CheckpointRefused::TooLarge);
        }
        let missing = missing(task, names);
        let new: u64 = (0..names.len()).filter(|chunk| missing.has(*chunk)).map(|chunk| len(length, chunk)).sum();
        if self.tasks.checkpoint_bytes + new > self.config.checkpoint_bytes_max {
            return Err(CheckpointRefused::Full);
        }
        Ok(())
    }

    fn begin_upload(&mut self, ix: PeerIx, token: Token, number: u64, length: u64, names: &[ChunkName]) {
        self.drop_upload(token);
        let Some((_, task)) = self.task_of(ix, token) else { return };
        let receiving = Receiving::new(length, missing(task, names));
        let complete = receiving.missing().is_empty();
        let upload = Box::new(Upload { number, length, names: names.into(), receiving, home: None });
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
        let Some(Conn::Live(live)) = self.conns.get_mut(&conn) else { return Err(Violation) };
        live.channel.bulk_arrived(len)?;
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
        let wanted = whole.map(|whole| (upload.names[whole.chunk] == whole.name, whole));
        let complete = upload.receiving.missing().is_empty();
        if wanted.is_some() {
            upload.home = None;
        }
        let length = upload.length;
        self.next_home = self.next_home.max(home + 1);
        self.gate.write(&Record::Piece { task, home, offset: within, bytes });
        self.gate.then(Effect::Bulk(conn, len));
        match wanted {
            None => {}
            Some((true, whole)) => {
                let chunk = Chunk { home, length: self::len(length, whole.chunk) };
                self.gate.write(&Record::Chunk { task, home, length: chunk.length, name: whole.name });
                self.tasks.add_chunk(task, whole.name, chunk);
                if complete || planted::is(Bug::PartialCheckpoint) {
                    self.complete_upload(ix, token);
                }
            }
            Some((false, _)) => {
                self.gate.write(&Record::Gone { task, homes: &homes([home]) });
                self.drop_upload(token);
                self.answer_checkpoint(ix, token, number, Some(CheckpointRefused::Damaged));
            }
        }
        Ok(())
    }

    /// All chunks are there: the checkpoint is, unless the task has gone on without it meanwhile
    fn complete_upload(&mut self, ix: PeerIx, token: Token) {
        let Some(attempt) = self.tasks.attempts.get_mut(&token) else { return };
        let (id, Some(upload)) = (attempt.task, attempt.upload.take()) else { return };
        let Upload { number, length, names, .. } = *upload;
        if let Err(refused) = self.checkpoint_of(ix, token, number) {
            return self.answer_checkpoint(ix, token, number, Some(refused));
        }
        let Some(task) = self.tasks.all.get(&id) else { return };
        let of_chunks = names.iter().filter_map(|name| task.chunks.get(name)).map(|chunk| chunk.home);
        let record = Record::Manifest { task: id, token, number, length, homes: &homes(of_chunks) };
        self.gate.write(&record);
        let body = CheckpointBody::Chunks { length, names };
        self.tasks.set_checkpoint(id, Some(Checkpoint { token, number, body }));
        self.drop_chunks(id);
        self.story.note(self.now, id, Some(token), "checkpoint kept");
        self.answer_checkpoint(ix, token, number, None);
    }

    /// The worker sends nothing more of it, or all of it again
    pub(super) fn drop_upload(&mut self, token: Token) {
        let Some(attempt) = self.tasks.attempts.get_mut(&token) else { return };
        let (task, ix) = (attempt.task, attempt.peer);
        let Some(upload) = attempt.upload.take() else { return };
        self.roster.get_mut(ix).to_need.remove(&token);
        self.chunks_gone(task, upload.home.into_iter().collect());
    }

    /// Forgets the chunks of a task that are of no use any more
    pub(super) fn drop_chunks(&mut self, task: TaskId) {
        let gone = self.tasks.drop_chunks(task);
        self.chunks_gone(task, gone);
    }

    pub(super) fn chunks_gone(&mut self, task: TaskId, gone: Vec<u64>) {
        if !gone.is_empty() {
            self.gate.write(&Record::Gone { task, homes: &homes(gone) });
        }
    }

    fn task_of(&self, ix: PeerIx, token: Token) -> Option<(TaskId, &Task)> {
        let attempt = self.tasks.attempts.get(&token).filter(|attempt| attempt.peer == ix)?;
        Some((attempt.task, self.tasks.all.get(&attempt.task)?))
    }
}

/// Chunks to ask for: of those with one content the first
fn missing(task: &Task, names: &[ChunkName]) -> ChunkSet {
    let mut asked = alloc::collections::BTreeSet::new();
    let mut missing = ChunkSet::default();
    for (chunk, name) in names.iter().enumerate() {
        if !task.chunks.contains_key(name) && asked.insert(name) {
            missing.insert(chunk);
        }
    }
    missing
}

fn len(length: u64, chunk: usize) -> u64 {
    let span = chunk_span(length, chunk);
    span.end - span.start
}
