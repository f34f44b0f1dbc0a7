//! What attempts start from and what they make: in messages, or in chunks where it is larger (CKPT-1 to CKPT-4)

use crate::blob::{ChunkName, ChunkSet, INPUT, RESULT, Receiving, chunks, names_of};
use crate::channel::Violation;
use crate::error::Rejected;
use crate::ids::Token;
use crate::limits::{CHUNKS_MAX, CHUNKS_SINCE, INLINE_BYTES_MAX};
use crate::time::Instant;
use crate::wire::message::{CheckpointRefused, Failure, Outcome};
use crate::worker::Desk;
use crate::worker::attempt::{Attempt, AttemptState, Feeding, Made, Restoring};
use crate::worker::intake::Head;
use crate::worker::outbox::Source;

/// What an attempt starts from (CKPT-4)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored<'a> {
    /// These bytes
    Bytes(&'a [u8]),
    /// The pieces that have come, this many bytes in all
    Pieces(u64),
}

impl Desk {
    // What the embedder says.

    pub(super) fn checkpoint_made(&mut self, now: Instant, token: Token, bytes: &[u8]) -> Result<(), Rejected> {
        if bytes.len() > INLINE_BYTES_MAX {
            return Err(Rejected::TooLarge);
        }
        self.made(token, None, bytes)?;
        self.has_made(now, token);
        Ok(())
    }

    pub(super) fn large_checkpoint_made(
        &mut self,
        now: Instant,
        token: Token,
        length: u64,
        names: &[ChunkName],
    ) -> Result<(), Rejected> {
        if names.len() > CHUNKS_MAX {
            return Err(Rejected::TooLarge);
        }
        if names_of(length, names.as_flattened()).is_none() {
            return Err(Rejected::BadSpec);
        }
        self.made(token, Some(length), names.as_flattened())?;
        self.has_made(now, token);
        Ok(())
    }

    /// Keeps what has to be sent of a checkpoint: the next one to go, or what waits for the one under way (CKPT-3)
    fn made(&mut self, token: Token, chunked: Option<u64>, bytes: &[u8]) -> Result<(), Rejected> {
        let attempt = self.attempts.get_mut(&token).ok_or(Rejected::Unknown)?;
        let runs = matches!(attempt.state, AttemptState::Running | AttemptState::Stopping);
        let kept = &mut attempt.checkpoint;
        let busy = kept.in_flight.is_some();
        let slot = if busy { &mut kept.newer } else { &mut kept.slot };
        let Some(slot) = slot.as_mut().filter(|_| runs) else { return Err(Rejected::NotExpected) };
        let fits = self.checkpoints.fill(slot, bytes);
        debug_assert!(
            fits,
            "a slot has room for the largest checkpoint, and for the names of as many chunks as there may be"
        );
        kept.made += 1;
        let made = Some(Made { number: kept.made, chunked });
        if busy {
            kept.waiting = made;
        } else {
            (kept.current, kept.waiting) = (made, None);
        }
        self.outbox.offer_checkpoint(token, attempt);
        Ok(())
    }

    pub(super) fn checkpoint_read(&mut self, token: Token, number: u64, offset: u64, bytes: &[u8]) {
        self.outbox.take_read(token, Source::Checkpoint(number), offset, bytes);
        let under_way = self.attempts.get(&token).and_then(Attempt::under_way);
        if !bytes.is_empty() || under_way != Some(number) {
            return;
        }
        if number == RESULT {
            self.result_is_gone(token);
        } else {
            self.checkpoint_answered(token, number, Some(CheckpointRefused::Damaged));
        }
    }

    /// What an attempt returned cannot be read any more: it has failed, and says so anew
    fn result_is_gone(&mut self, token: Token) {
        let Some(attempt) = self.attempts.get_mut(&token) else { return };
        (attempt.large, attempt.outcome) = (None, Outcome::Failed(Failure::Error));
        let why = &b"what the task returned cannot be read any more"[..];
        if !self.results.fill(&mut attempt.result, why) {
            self.results.fill(&mut attempt.result, &[]);
        }
        attempt.result_queued = false;
        self.outbox.offer_result(token, attempt);
    }

    // What the coordinator says.

    /// What is missing of a checkpoint or a result; of another one than is under way it means nothing any more
    pub(super) fn checkpoint_needed(&mut self, token: Token, number: u64, wanted: &[u8]) -> Result<(), Violation> {
        let Some(attempt) = self.attempts.get_mut(&token) else { return Ok(()) };
        if attempt.under_way() == Some(number) {
            attempt.sending(number).need(wanted)?;
            self.outbox.may_read = true;
        }
        Ok(())
    }

    pub(super) fn checkpoint_answered(&mut self, token: Token, number: u64, refused: Option<CheckpointRefused>) {
        let Some(attempt) = self.attempts.get_mut(&token) else { return };
        let kept = &mut attempt.checkpoint;
        let Some(current) = kept.current.filter(|current| (kept.answered + 1..=current.number).contains(&number))
        else {
            // Answered before, on another connection.
            return;
        };
        kept.answered = number;
        if number == current.number {
            kept.in_flight = None;
            kept.sending.rewind();
        }
        if number == current.number && kept.waiting.is_some() {
            kept.current = kept.waiting.take();
            core::mem::swap(&mut kept.slot, &mut kept.newer);
        }
        self.answers += u16::from(kept.told.replace((number, refused)).is_none());
        self.outbox.offer_checkpoint(token, attempt);
        self.outbox.offer_result(token, attempt);
        self.free_checkpoint(token);
    }

    /// An attempt that is over needs room for checkpoints only as long as one has to be sent
    pub(super) fn free_checkpoint(&mut self, token: Token) {
        let Some(attempt) = self.attempts.get_mut(&token).filter(|a| !a.state.is_active()) else { return };
        let wanted =
            attempt.checkpoint.is_unanswered() && matches!(attempt.outcome, Outcome::Failed(_) | Outcome::Cancelled);
        if wanted {
            return;
        }
        let slots = [attempt.checkpoint.slot.take(), attempt.checkpoint.newer.take()];
        slots.into_iter().flatten().for_each(|slot| self.checkpoints.free(slot));
    }

    /// A coordinator that knows nothing of chunks takes none
    pub(super) fn refuse_what_cannot_be_sent(&mut self) {
        if !self.link.is_welcomed() || self.link.version() >= CHUNKS_SINCE {
            return;
        }
        let cannot = |attempt: &Attempt| !attempt.unjudged && attempt.checkpoint.upload().is_some();
        while let Some(token) = self.attempts.find(cannot) {
            let Some((number, _)) = self.attempts.get(&token).and_then(|a| a.checkpoint.upload()) else { return };
            self.checkpoint_answered(token, number, Some(CheckpointRefused::TooLarge));
        }
    }

    /// What the next start goes on from; of no use to what runs already (CKPT-4)
    pub(super) fn restore(&mut self, token: Token, number: u64, bytes: &[u8]) -> Result<(), Violation> {
        if bytes.len() > INLINE_BYTES_MAX {
            return Err(Violation);
        }
        let Some(attempt) = self.attempts.get_mut(&token).filter(|a| a.state == AttemptState::Waiting) else {
            return Ok(());
        };
        let Some(slot) = &mut attempt.checkpoint.slot else { return Ok(()) };
        let fits = self.checkpoints.fill(slot, bytes);
        debug_assert!(fits, "a slot has room for the largest checkpoint");
        self.restored(token, Made { number, chunked: None });
        Ok(())
    }

    /// The attempt may start from this
    fn restored(&mut self, token: Token, from: Made) {
        let Some(attempt) = self.attempts.get_mut(&token) else { return };
        let kept = &mut attempt.checkpoint;
        (kept.current, kept.made, kept.answered) = (Some(from), from.number, from.number);
        (kept.awaited, kept.restoring) = (false, None);
        self.may_start = true;
    }

    /// A checkpoint in chunks: says what is missing of it, which is all of it, or what a cut has left
    pub(super) fn restore_offered(
        &mut self,
        token: Token,
        number: u64,
        length: u64,
        names: &[u8],
    ) -> Result<(), Violation> {
        let Some(attempt) = self.attempts.get_mut(&token).filter(|attempt| attempt.checkpoint.awaited) else {
            return Ok(());
        };
        if length == 0 {
            // There is none that can be read.
            self.restored(token, Made { number: 0, chunked: None });
            return Ok(());
        }
        names_of(length, names).ok_or(Violation)?;
        let kept = &mut attempt.checkpoint;
        let Some(slot) = &mut kept.slot else { return Ok(()) };
        let same = kept.restoring.as_ref().is_some_and(|r| (r.number, r.length, r.bad) == (number, length, false));
        if let Some(restoring) = kept.restoring.as_mut().filter(|_| same && self.checkpoints.bytes(slot) == names) {
            restoring.receiving.rewind();
            restoring.need_due = true;
        } else {
            let fits = self.checkpoints.fill(slot, names);
            debug_assert!(fits, "a slot has room for as many names as there may be chunks");
            let mut all = ChunkSet::default();
            (0..chunks(length)).for_each(|chunk| all.insert(chunk));
            let receiving = Receiving::new(length, all);
            kept.restoring = Some(Restoring { number, length, receiving, need_due: true, bad: false });
        }
        self.outbox.may_transfer = true;
        Ok(())
    }

    pub(super) fn restore_piece(
        &mut self,
        token: Token,
        number: u64,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Violation> {
        let len = bytes.len();
        self.link.bulk_arrived(len as u64)?;
        if number == INPUT {
            return self.input_piece(token, offset, bytes);
        }
        let kept = self.attempts.get_mut(&token).map(|attempt| &mut attempt.checkpoint);
        let slot = kept.as_ref().and_then(|kept| Some(self.checkpoints.bytes(kept.slot.as_ref()?)));
        let restoring = kept.and_then(|kept| kept.restoring.as_mut()).filter(|r| r.number == number && !r.bad);
        let (Some(restoring), Some(names)) = (restoring, slot) else {
            // Of an attempt that is no more, or of another checkpoint: of no use, but it makes room.
            self.link.bulk_dealt_with(len as u64);
            return Ok(());
        };
        let whole = restoring.receiving.arrive(offset, bytes)?;
        let name = whole.and_then(|whole| names.as_chunks::<32>().0.get(whole.chunk).map(|name| (name, whole.name)));
        restoring.bad = name.is_some_and(|(expected, name)| *expected != name);
        restoring.need_due = restoring.bad;
        let complete = !restoring.bad && restoring.receiving.missing().is_empty();
        let length = restoring.length;
        self.outbox.may_transfer |= restoring.bad;
        if !self.intake.push(Head { token, number, offset, len }, bytes) {
            return Err(Violation);
        }
        if complete {
            self.restored(token, Made { number, chunked: Some(length) });
        }
        Ok(())
    }

    /// An attempt was given whose input goes in chunks: nothing of it is here
    pub(super) fn feed(&mut self, token: Token, length: u64, payload: usize, names: &[u8]) {
        let Some(attempt) = self.attempts.get_mut(&token) else { return };
        // Where it was given back at once nothing is held of it any more.
        let Some(slot) = &mut attempt.payload else { return };
        let fits = self.payloads.extend(slot, names);
        debug_assert!(fits, "a slot has room for the payload and the names together");
        let mut all = ChunkSet::default();
        (0..chunks(length)).for_each(|chunk| all.insert(chunk));
        let receiving = Receiving::new(length, all);
        attempt.input = Some(Feeding { length, payload, receiving, need_due: true, bad: false });
        self.outbox.may_transfer = true;
    }

    fn input_piece(&mut self, token: Token, offset: u64, bytes: &[u8]) -> Result<(), Violation> {
        let len = bytes.len();
        let attempt = self.attempts.get_mut(&token).filter(|attempt| attempt.state == AttemptState::Waiting);
        let slot = attempt.as_ref().and_then(|attempt| attempt.payload.as_ref()).map(|slot| self.payloads.bytes(slot));
        let feeding = attempt.and_then(|attempt| attempt.input.as_mut()).filter(|feeding| !feeding.bad);
        let (Some(feeding), Some(held)) = (feeding, slot) else {
            // Of an attempt that is no more: of no use, but it makes room.
            self.link.bulk_dealt_with(len as u64);
            return Ok(());
        };
        let names = held[feeding.payload..].as_chunks::<32>().0;
        let whole = feeding.receiving.arrive(offset, bytes)?;
        feeding.bad = whole.is_some_and(|whole| names.get(whole.chunk) != Some(&whole.name));
        feeding.need_due = feeding.bad;
        self.outbox.may_transfer |= feeding.bad;
        self.may_start |= feeding.is_here();
        if self.intake.push(Head { token, number: INPUT, offset, len }, bytes) { Ok(()) } else { Err(Violation) }
    }

    // What to do next.

    /// Hands a piece that has come over to the embedder, which makes room for another
    pub(super) fn next_restored(&mut self, out: &mut [u8]) -> Option<(Token, u64, u64, usize)> {
        let Head { token, number, offset, len } = self.intake.pop(out)?;
        self.link.bulk_dealt_with(len as u64);
        Some((token, number, offset, len))
    }

    pub(super) fn next_answer(&mut self) -> Option<(Token, u64, Option<CheckpointRefused>)> {
        if self.answers == 0 {
            return None;
        }
        let (token, attempt) = self.attempts.iter_mut().find(|(_, a)| a.checkpoint.told.is_some())?;
        self.answers -= 1;
        attempt.checkpoint.told.take().map(|(number, refused)| (*token, number, refused))
    }
}
