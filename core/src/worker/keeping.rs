//! What outlives the process: attempts that are over and that nobody has settled (SESS-9)
//!
//! The embedder keeps each of them until it is settled, and tells the next life of the worker of what is left. There it
//! is in the inventory as any that is over, and its token decides what becomes of it.

use crate::blob::{ChunkName, Sending, names_of};
use crate::drift::mark;
use crate::error::Rejected;
use crate::ids::{TaskId, Token};
use crate::stream::Outgoing;
use crate::terms::Conditions;
use crate::time::Instant;
use crate::wire::message::{Outcome, StreamEnd};
use crate::worker::attempt::{Attempt, AttemptState, Checkpoint, Made};
use crate::worker::cadence::Rhythm;
use crate::worker::{Desk, Worker};

/// An attempt that is over, as its worker has to keep it until it is settled (SESS-9)
///
/// Its output is beside it, at the embedder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished<'a> {
    /// Which task
    pub task: TaskId,
    /// Which attempt
    pub token: Token,
    /// Its number among the task's attempts, from 1
    pub attempt: u32,
    /// How it ended
    pub outcome: Outcome,
    /// What it returned, unless that goes in chunks
    pub result: &'a [u8],
    /// The length and the names of the chunks of what it returned, where that is so; the bytes are at the embedder (FRAME-3)
    pub large: Option<(u64, &'a [ChunkName])>,
    /// The number and bytes of a checkpoint that another attempt may have to start from, as far as no answer has come
    ///
    /// One in chunks is not among them: without it the next attempt starts from the one before.
    pub checkpoint: Option<(u64, &'a [u8])>,
}

impl Worker {
    /// Returns what there is to keep of an attempt that is over and not settled
    pub fn finished(&self, token: Token) -> Option<Finished<'_>> {
        let desk = &*self.desk;
        let attempt = desk.attempts.get(&token).filter(|attempt| attempt.state == AttemptState::Finished)?;
        let Attempt { task, attempt: number, outcome, ref checkpoint, .. } = *attempt;
        let newest = [(checkpoint.waiting, &checkpoint.newer), (checkpoint.current, &checkpoint.slot)];
        let inline = newest.into_iter().find_map(|(made, slot)| {
            let made = made.filter(|made| made.chunked.is_none() && made.number > checkpoint.answered)?;
            Some((made.number, desk.checkpoints.bytes(slot.as_ref()?)))
        });
        let kept = desk.results.bytes(&attempt.result);
        let large = attempt.large.and_then(|length| Some((length, names_of(length, kept)?)));
        let result = if large.is_some() { &[] } else { kept };
        Some(Finished { task, token, attempt: number, outcome, result, large, checkpoint: inline })
    }
}

impl Desk {
    /// Takes in what an earlier life had finished
    pub(super) fn restore_finished(
        &mut self,
        now: Instant,
        finished: Finished<'_>,
        streams: [StreamEnd; 2],
    ) -> Result<(), Rejected> {
        let Finished { task, token, attempt, outcome, result: bytes, large, checkpoint } = finished;
        if self.outbox.session.is_some() || self.attempts.contains(&token) {
            return Err(Rejected::NotExpected);
        }
        let bytes = large.map_or(bytes, |(_, names)| names.as_flattened());
        let large = large.map(|(length, _)| length);
        if large.is_some_and(|length| names_of(length, bytes).is_none()) {
            return Err(Rejected::BadSpec);
        }
        let mut result = self.results.reserve().ok_or(Rejected::Full)?;
        if !self.fits(large, bytes) || !self.results.fill(&mut result, bytes) {
            self.results.free(result);
            return Err(Rejected::TooLarge);
        }
        let restored = Attempt {
            task,
            mark: mark(task, token),
            attempt,
            priority: 0,
            arrival: self.arrivals + 1,
            state: AttemptState::Finished,
            progress: 0,
            payload: None,
            input: None,
            result,
            large,
            returning: Sending::default(),
            outcome,
            streams: streams.map(Outgoing::restored),
            unjudged: false,
            report_queued: false,
            result_queued: false,
            result_numbered: false,
            cancel_due: None,
            conditions: Conditions::default(),
            lapsed: false,
            stalled: false,
            reported: now,
            frozen: false,
            checkpoint: self.restored_checkpoint(outcome, checkpoint),
            rhythm: Rhythm::new(now),
            keep_due: false,
            kept: true,
        };
        self.arrivals += 1;
        let fits = self.attempts.insert(token, restored);
        debug_assert!(fits, "the table is at least as large as the arena of results");
        self.story.note(now, task, Some(token), "restored");
        Ok(())
    }

    /// Whether this worker takes a result: the bytes of one, or a length and the names of its chunks (FRAME-3)
    pub(super) fn fits(&self, large: Option<u64>, bytes: &[u8]) -> bool {
        large.map_or(bytes.len() <= self.result_bytes_max as usize, |length| length <= self.large_result_max)
    }

    /// A checkpoint that has to go in front of its attempt's result, if anybody may start from it and there is room
    fn restored_checkpoint(&mut self, outcome: Outcome, made: Option<(u64, &[u8])>) -> Checkpoint {
        let mut checkpoint = Checkpoint::new(None, None, false);
        let Some((number, bytes)) = made.filter(|_| outcome != Outcome::Succeeded) else { return checkpoint };
        let Some(mut slot) = self.checkpoints.reserve() else { return checkpoint };
        if self.checkpoints.fill(&mut slot, bytes) {
            checkpoint.slot = Some(slot);
            (checkpoint.current, checkpoint.made) = (Some(Made { number, chunked: None }), number);
        } else {
            self.checkpoints.free(slot);
        }
        checkpoint
    }

    /// An attempt needs no room any more that is reserved for what is still to be kept
    pub(super) fn kept(&mut self, token: Token) {
        if let Some(attempt) = self.attempts.get_mut(&token).filter(|attempt| attempt.state == AttemptState::Finished) {
            attempt.kept = true;
        }
    }

    /// Attempts that the embedder has room to keep, beyond those that are held and not kept
    pub(super) fn reserved_places(&self) -> u64 {
        let unkept = self.attempts.values().filter(|attempt| !attempt.kept).count() as u64;
        u64::from(self.reserved).saturating_sub(unkept)
    }

    pub(super) fn next_keep(&mut self) -> Option<Token> {
        if self.keeps == 0 {
            return None;
        }
        let (token, attempt) = self.attempts.iter_mut().find(|(_, attempt)| attempt.keep_due)?;
        attempt.keep_due = false;
        self.keeps -= 1;
        Some(*token)
    }
}
