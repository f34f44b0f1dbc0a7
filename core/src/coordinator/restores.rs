//! Checkpoints that go out in chunks, to those who start from them (CKPT-4)

use crate::blob::{INPUT, chunk_bytes, chunk_span};
use crate::channel::Violation;
use crate::ids::{TaskId, Token};
use crate::journal::Record;
use crate::limits::CHUNKS_SINCE;
use crate::wire::message::{BodyWriter, Class, ToClient, ToWorker};

use super::Desk;
use super::gate::Effect;
use super::peers::{Peer, PeerIx, Piece, Reading, Sent};
use super::tasks::{Attempt, Body, Checkpoint, Tasks};

impl Desk {
    /// The worker says what it lacks; of a checkpoint that is not the newest any more, or of none, it gets no more
    pub(super) fn take_restore_need(
        &mut self,
        ix: PeerIx,
        token: Token,
        number: u64,
        wanted: &[u8],
    ) -> Result<(), Violation> {
        let Some(attempt) = self.restored_by(ix, token, number) else { return Ok(()) };
        let Some(sending) = &mut attempt.restoring else { return Ok(()) };
        sending.need(wanted)?;
        self.send_chunks(ix, token);
        Ok(())
    }

    /// A worker waits for chunks of what an attempt starts from
    pub(super) fn send_chunks(&mut self, ix: PeerIx, token: Token) {
        let peer = self.roster.get_mut(ix);
        if !peer.restoring.contains(&token) {
            peer.restoring.push_back(token);
        }
        self.readers.insert(ix);
    }

    /// The worker cannot start from it: from the one before, then, or from the beginning (CKPT-4)
    ///
    /// Nobody else is believed that: not whoever runs already, nor an attempt that was replaced.
    pub(super) fn take_restore_bad(&mut self, ix: PeerIx, token: Token, number: u64) {
        let starts = self.restored_by(ix, token, number).filter(|a| a.restoring.is_some() && a.restores && !a.running);
        let Some(id) = starts.map(|attempt| attempt.task) else { return };
        let Some(task) = self.tasks.all.get(&id).filter(|_| self.is_newest(token)) else { return };
        if task.checkpoint.as_ref().is_none_or(|newest| newest.names().is_empty()) {
            return;
        }
        self.stats.checkpoints_unreadable += 1;
        self.story.note(self.now, id, Some(token), "checkpoint unreadable");
        self.gate.write(&Record::Unreadable { task: id });
        self.tasks.fall_back(id);
        self.drop_chunks(id);
        self.renew_restores(id, None);
    }

    /// The newest checkpoint of a task is another one: whoever has not started yet starts from that
    pub(super) fn renew_restores(&mut self, id: TaskId, maker: Option<Token>) {
        let Some(task) = self.tasks.all.get(&id) else { return };
        let from = task.checkpoint.as_ref();
        let inline = from.is_some_and(|from| from.names().is_empty());
        for token in task.live.clone().into_iter().filter(|token| Some(*token) != maker) {
            let restoring = self.tasks.all.get(&id).and_then(|task| task.checkpoint.as_ref()?.to_send());
            let attempt = self.tasks.attempts.get_mut(&token).filter(|attempt| attempt.restores && !attempt.running);
            let Some(attempt) = attempt else { continue };
            attempt.restoring = restoring;
            let ix = attempt.peer;
            if inline {
                self.say(ix, Sent::Restore(token));
            } else {
                self.gate.then(Effect::Offer(ix, token));
            }
        }
    }

    /// What an attempt starts from is durable: it may be offered
    pub(super) fn offer_restore(&mut self, ix: PeerIx, token: Token) {
        let version = self.version_of(ix);
        if version >= CHUNKS_SINCE && self.roster.get(ix).held.contains(&token) {
            self.roster.get_mut(ix).to_offer.insert(token);
            self.touch(ix);
        }
    }

    /// Whether an attempt that has not started waits for what cannot be said on this connection
    pub(super) fn cannot_restore(&self, ix: PeerIx, token: Token) -> bool {
        let waits = |attempt: &Attempt| attempt.restoring.is_some() || attempt.feeding.is_some();
        let chunked = self.tasks.attempts.get(&token).is_some_and(waits);
        chunked && self.version_of(ix) < CHUNKS_SINCE
    }

    /// The attempt that is to start from a task's newest checkpoint, if this is its number
    fn restored_by(&mut self, ix: PeerIx, token: Token, number: u64) -> Option<&mut Attempt> {
        let attempt = self.tasks.attempts.get_mut(&token).filter(|attempt| attempt.peer == ix)?;
        let newest = self.tasks.all.get(&attempt.task)?.checkpoint.as_ref()?.number;
        (newest == number).then_some(attempt)
    }

    /// On a new connection: what was under way is lost, and offered again
    ///
    /// A result is not said again in a session that goes on: it is asked for what is missing.
    pub(super) fn restart_transfers(&mut self, ix: PeerIx, goes_on: bool) {
        let peer = self.roster.get_mut(ix);
        peer.restoring.clear();
        peer.to_offer.clear();
        peer.to_need.clear();
        self.restart_drafts(ix);
        if !goes_on {
            // Said again first, and then told.
            self.roster.get_mut(ix).inputs_due.clear();
        }
        for token in self.roster.get(ix).held.clone() {
            // It offers again what it has to send.
            self.drop_upload(token);
            if goes_on {
                self.begin_result(token);
            }
            if let Some(feeding) = self.tasks.attempts.get_mut(&token).and_then(|attempt| attempt.feeding.as_mut()) {
                feeding.rewind();
            }
            let attempt = self.tasks.attempts.get_mut(&token).filter(|attempt| attempt.restores && !attempt.running);
            let Some(attempt) = attempt else { continue };
            let from = self.tasks.all.get(&attempt.task).and_then(|task| task.checkpoint.as_ref());
            attempt.restoring = from.and_then(Checkpoint::to_send);
            self.gate.then(Effect::Offer(ix, token));
        }
    }

    /// The next piece that a worker waits for, of at most so many bytes, to be read by the embedder
    pub(super) fn next_chunk_for(&mut self, ix: PeerIx, most: u64) -> Option<Reading> {
        while let Some(token) = self.roster.get(ix).restoring.front().copied() {
            let reading = self.next_of_input(token, most).or_else(|| next_chunk(token, &self.tasks, most));
            let line = &mut self.roster.get_mut(ix).restoring;
            if reading.is_some() {
                // To the back of the line, so that one large checkpoint does not hold up the others.
                line.rotate_left(1);
                return reading;
            }
            line.pop_front();
        }
        None
    }

    /// The embedder answers; if it has nothing, the checkpoint cannot be read
    pub(super) fn chunk_read(&mut self, home: u64, offset: u64, bytes: &[u8]) {
        let asked = |from: &Reading| match *from {
            Reading::Chunk { home: h, within, .. } | Reading::Shown { home: h, within, .. } => {
                (h, within) == (home, offset)
            }
            Reading::Output { .. } => false,
        };
        let Some(ix) = self.roster.iter().find(|(_, peer)| peer.reading.as_ref().is_some_and(asked)).map(|(ix, _)| ix)
        else {
            return;
        };
        let peer = self.roster.get_mut(ix);
        let Some(from) = peer.reading.take() else { return };
        let (token, number, max) = match from {
            Reading::Chunk { token, number, max, .. } => (token, number, max),
            Reading::Shown { ask, max, .. } => return self.shown(ix, ask, bytes.get(..max as usize)),
            Reading::Output { .. } => return,
        };
        self.readers.insert(ix);
        if bytes.len() >= max as usize {
            peer.piece = Some(Piece { from, bytes: bytes[..max as usize].into() });
            return self.touch(ix);
        }
        // Asked once more the answer would be the same.
        peer.restoring.retain(|waiting| *waiting != token);
        if number == INPUT {
            self.input_is_bad(ix, token);
        } else if self.is_newest(token) {
            self.take_restore_bad(ix, token, number);
        } else {
            self.recall(ix, token);
        }
    }

    /// Whether no later attempt of its task was given out
    fn is_newest(&self, token: Token) -> bool {
        let task = self.tasks.attempts.get(&token).and_then(|attempt| self.tasks.all.get(&attempt.task));
        task.is_some_and(|task| task.live.last() == Some(&token))
    }
}

fn next_chunk(token: Token, tasks: &Tasks, most: u64) -> Option<Reading> {
    let attempt = tasks.attempts.get(&token)?;
    let task = tasks.all.get(&attempt.task)?;
    let checkpoint = task.checkpoint.as_ref()?;
    let Body::Chunks { length, names } = &checkpoint.body else { return None };
    let (offset, len) = attempt.restoring.as_ref()?.next(most)?;
    let chunk = (offset / chunk_bytes(*length)) as usize;
    let home = task.chunks.get(names.get(chunk)?)?.home;
    let within = offset - chunk_span(*length, chunk).start;
    Some(Reading::Chunk { token, number: checkpoint.number, offset, home, within, max: len as u32 })
}

/// Says what is missing of offers, and offers what attempts start from; `false` when the frame is full
pub(super) fn tell_transfers(ix: PeerIx, peer: &mut Peer, tasks: &Tasks, body: &mut BodyWriter<'_>) -> bool {
    while let Some(task) = peer.inputs_due.first().copied() {
        if let Some(draft) = tasks.drafts.get(&(ix, task))
            && !body.push(Class::Loose, &ToClient::InputNeed { task, wanted: &draft.wanted() })
        {
            return false;
        }
        peer.inputs_due.remove(&task);
    }
    while let Some(token) = peer.to_need.first().copied() {
        if let Some(upload) = tasks.attempts.get(&token).and_then(|attempt| attempt.upload.as_ref())
            && !body.push(Class::Loose, &ToWorker::Need { token, number: upload.number, wanted: &upload.wanted() })
        {
            return false;
        }
        peer.to_need.remove(&token);
    }
    while let Some(token) = peer.to_offer.first().copied() {
        if !offer(token, tasks, body) {
            return false;
        }
        peer.to_offer.remove(&token);
    }
    true
}

fn offer(token: Token, tasks: &Tasks, body: &mut BodyWriter<'_>) -> bool {
    // Behind its assignment, or nobody knows what it is about; that comes with an offer of its own.
    let Some(attempt) = tasks.attempts.get(&token).filter(|attempt| attempt.sent_as.is_some()) else { return true };
    let Some(task) = tasks.all.get(&attempt.task) else { return true };
    match task.checkpoint.as_ref() {
        Some(Checkpoint { number, body: Body::Chunks { length, names }, .. }) => {
            let (number, length, names) = (*number, *length, names.as_flattened());
            body.push(Class::Loose, &ToWorker::RestoreOffer { token, number, length, names })
        }
        Some(Checkpoint { body: Body::Inline(_), .. }) => true,
        None => body.push(Class::Loose, &ToWorker::RestoreOffer { token, number: 0, length: 0, names: &[] }),
    }
}
