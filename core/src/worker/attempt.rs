//! One attempt as its worker sees it

use crate::blob::{RESULT, Receiving, Sending};
use crate::ids::TaskId;
use crate::stream::Outgoing;
use crate::terms::Conditions;
use crate::time::Instant;
use crate::wire::message::{CheckpointRefused, Held, Outcome};
use crate::worker::arena::Slot;
use crate::worker::cadence::Rhythm;
use crate::worker::seam::StopReason;

/// How far an attempt is
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AttemptState {
    /// Assigned, not started
    Waiting,
    /// The embedder was told to run it
    Starting,
    /// The embedder said that it runs
    Running,
    /// The embedder was told to stop it; its outcome still counts
    Stopping,
    /// The embedder was told to stop it; nobody wants its outcome
    Abandoned,
    /// Over; outcome and result wait to be settled
    Finished,
    /// Settled; the embedder is to forget it
    Gone,
}

/// What can happen to an attempt
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AttemptStep {
    /// It is its turn
    Run,
    /// The embedder runs it
    Start,
    /// The coordinator wants it stopped
    Cancel,
    /// The embedder says that it is over
    Finish,
    /// The coordinator wants it back
    Recall,
    /// The embedder cannot start it
    Decline,
    /// The coordinator has, or does not want, its result
    Settle,
}

impl AttemptState {
    /// The table of transitions; `None` is refused
    pub(crate) const fn after(self, step: AttemptStep) -> Option<AttemptState> {
        use AttemptState as S;
        use AttemptStep as T;
        match (self, step) {
            (S::Waiting, T::Run) => Some(S::Starting),
            (S::Starting, T::Start) => Some(S::Running),
            // The start was under way when the order to stop came.
            (S::Stopping, T::Start) => Some(S::Stopping),
            (S::Abandoned, T::Start) => Some(S::Abandoned),
            // What never ran is over at once; its outcome is "cancelled".
            (S::Waiting, T::Cancel) => Some(S::Finished),
            (S::Starting | S::Running | S::Stopping, T::Cancel) => Some(S::Stopping),
            (S::Finished, T::Cancel) => Some(S::Finished),
            (S::Starting | S::Running | S::Stopping, T::Finish) => Some(S::Finished),
            (S::Abandoned, T::Finish) => Some(S::Gone),
            (S::Waiting, T::Recall) => Some(S::Gone),
            (S::Starting, T::Decline) => Some(S::Gone),
            (S::Waiting | S::Finished, T::Settle) => Some(S::Gone),
            (S::Starting | S::Running | S::Stopping, T::Settle) => Some(S::Abandoned),
            _ => None,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            AttemptState::Waiting => "waiting",
            AttemptState::Starting => "starting",
            AttemptState::Running => "running",
            AttemptState::Stopping => "stopping",
            AttemptState::Abandoned => "abandoned",
            AttemptState::Finished => "finished",
            AttemptState::Gone => "gone",
        }
    }

    /// Whether it waits or runs
    pub(crate) const fn is_active(self) -> bool {
        matches!(self, AttemptState::Waiting) || self.occupies_slot()
    }

    /// Whether it takes one of the slots in which tasks run
    pub(crate) const fn occupies_slot(self) -> bool {
        matches!(
            self,
            AttemptState::Starting | AttemptState::Running | AttemptState::Stopping | AttemptState::Abandoned
        )
    }
}

/// An attempt the worker holds
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) task: TaskId,
    /// What it counts as in a digest (SESS-8)
    pub(crate) mark: u64,
    pub(crate) attempt: u32,
    pub(crate) priority: u8,
    /// Order of arrival
    pub(crate) arrival: u64,
    pub(crate) state: AttemptState,
    pub(crate) progress: u64,
    /// Held until the embedder has started the task
    pub(crate) payload: Option<Slot>,
    /// What goes in chunks beside that (FRAME-3)
    pub(crate) input: Option<Feeding>,
    /// Reserved from the start, so that a result, or the names of its chunks, always has room (SESS-9)
    pub(crate) result: Slot,
    /// Length of what it returned, if that goes in chunks (FRAME-3)
    pub(crate) large: Option<u64>,
    /// What of that is to be sent, once it is numbered
    pub(crate) returning: Sending,
    pub(crate) outcome: Outcome,
    pub(crate) streams: [Outgoing; 2],
    /// In the inventory of this session and not judged yet (SESS-7)
    pub(crate) unjudged: bool,
    /// In the queue of what is to be reported as running
    pub(crate) report_queued: bool,
    /// In the queue of results, or numbered
    pub(crate) result_queued: bool,
    /// Its result has a number in this session
    pub(crate) result_numbered: bool,
    /// The embedder is to be told to stop it
    pub(crate) cancel_due: Option<StopReason>,
    /// What it has to keep to
    pub(crate) conditions: Conditions,
    /// The lease has ended: it is being stopped, or must not start any more (TASK-4)
    pub(crate) lapsed: bool,
    /// The embedder was told to have it stand still (LIVE-5)
    pub(crate) frozen: bool,
    /// It was stopped because it had reported nothing for too long (LIVE-4)
    pub(crate) stalled: bool,
    /// When it last reported anything
    pub(crate) reported: Instant,
    /// What it starts from, and what it has made since (CKPT-1, CKPT-4)
    pub(crate) checkpoint: Checkpoint,
    /// When it is asked for another
    pub(crate) rhythm: Rhythm,
    /// The embedder is to be told to keep it (SESS-9)
    pub(crate) keep_due: bool,
    /// A later life of this worker will be told of it
    pub(crate) kept: bool,
}

/// The checkpoints of an attempt: what it starts from, what is under way, and what was made meanwhile
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    /// The bytes of `current`, or the names of its chunks; reserved from the start, free once the attempt is over
    pub(crate) slot: Option<Slot>,
    /// The same for `waiting`
    pub(crate) newer: Option<Slot>,
    /// What it starts from, and after that what is to be sent or was last
    pub(crate) current: Option<Made>,
    /// Made while the current one is under way; a newer one takes its place (CKPT-3)
    pub(crate) waiting: Option<Made>,
    /// Number of the newest that was made
    pub(crate) made: u64,
    /// Announced with the assignment, and still on its way: the attempt must not start
    pub(crate) awaited: bool,
    /// The newest number that was answered, or was there from the start
    pub(crate) answered: u64,
    /// In the queue of what is to be sent
    pub(crate) queued: bool,
    /// Numbered or offered, and not answered yet; one at a time (CKPT-3)
    pub(crate) in_flight: Option<u64>,
    /// An answer the embedder is to be told
    pub(crate) told: Option<(u64, Option<CheckpointRefused>)>,
    /// What of the current one is to be sent, if that is in chunks
    pub(crate) sending: Sending,
    /// It has to be offered on this connection
    pub(crate) offer_due: bool,
    /// What is still to come of a checkpoint in chunks from which the attempt starts
    pub(crate) restoring: Option<Restoring>,
}

/// A checkpoint
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Made {
    /// Rises with each checkpoint of the task
    pub(crate) number: u64,
    /// Its length, if it goes in chunks
    pub(crate) chunked: Option<u64>,
}

/// A task's large input, whose chunks are named behind its payload
#[derive(Clone, Debug)]
pub(crate) struct Feeding {
    pub(crate) length: u64,
    /// How many of the bytes held are the payload
    pub(crate) payload: usize,
    pub(crate) receiving: Receiving,
    /// The coordinator has to be told what is missing
    pub(crate) need_due: bool,
    /// A chunk had another content than its name says
    pub(crate) bad: bool,
}

impl Feeding {
    /// Whether the attempt may start from it
    pub(crate) fn is_here(&self) -> bool {
        !self.bad && self.receiving.missing().is_empty()
    }

    /// What is missing has to be said, again on each connection
    pub(crate) fn ask(&mut self) {
        self.receiving.rewind();
        self.need_due = self.bad || !self.is_here();
    }
}

/// A checkpoint from which the attempt starts, on its way in chunks (CKPT-4)
#[derive(Clone, Debug)]
pub(crate) struct Restoring {
    pub(crate) number: u64,
    pub(crate) length: u64,
    pub(crate) receiving: Receiving,
    /// The coordinator has to be told what is missing
    pub(crate) need_due: bool,
    /// A chunk had another content than its name says
    pub(crate) bad: bool,
}

impl Checkpoint {
    pub(crate) fn new(slot: Option<Slot>, newer: Option<Slot>, awaited: bool) -> Self {
        Checkpoint {
            slot,
            newer,
            current: None,
            waiting: None,
            made: 0,
            awaited,
            answered: 0,
            queued: false,
            in_flight: None,
            told: None,
            sending: Sending::default(),
            offer_due: false,
            restoring: None,
        }
    }

    /// Whether there is one that the coordinator has not answered
    pub(crate) fn is_unanswered(&self) -> bool {
        self.waiting.is_some() || (self.slot.is_some() && self.current.is_some_and(|c| c.number > self.answered))
    }

    /// Whether whatever was made last is numbered or answered; what goes in chunks has to be answered
    fn went_ahead(&self) -> bool {
        let numbered = |current: Made| current.chunked.is_none() && self.in_flight == Some(current.number);
        !self.is_unanswered() || (self.waiting.is_none() && self.current.is_some_and(numbered))
    }

    /// The checkpoint in chunks that is under way
    pub(crate) fn upload(&self) -> Option<(u64, u64)> {
        let current = self.current.filter(|current| self.in_flight == Some(current.number))?;
        Some((current.number, current.chunked?))
    }

    /// A new session: nothing was said in it yet
    pub(crate) fn start_over(&mut self) {
        (self.queued, self.in_flight, self.offer_due) = (false, None, false);
        self.sending.rewind();
    }

    /// Nobody will start from it
    pub(crate) fn is_of_no_use(&mut self) {
        self.answered = self.made;
        self.waiting = None;
        self.start_over();
    }
}

impl Attempt {
    /// What an inventory says of it
    pub(crate) fn held(&self) -> Held {
        match self.state {
            AttemptState::Waiting => Held::Waiting,
            AttemptState::Starting | AttemptState::Running | AttemptState::Stopping | AttemptState::Abandoned => {
                Held::Running { progress: self.progress }
            }
            AttemptState::Finished | AttemptState::Gone => Held::Finished,
        }
    }

    /// Whether the coordinator believes it here, as far as it has been told (SESS-8)
    pub(crate) fn counts(&self) -> bool {
        !self.result_numbered && !matches!(self.state, AttemptState::Abandoned | AttemptState::Gone)
    }

    /// Whether it may start: it is wanted, and what it is to start from is there (SESS-7, CKPT-4)
    pub(crate) fn may_start(&self) -> bool {
        let fed = self.input.as_ref().is_none_or(Feeding::is_here);
        self.state == AttemptState::Waiting && !self.unjudged && !self.checkpoint.awaited && !self.lapsed && fed
    }

    /// Whether its result may be numbered: over, and all its output and its last checkpoint went before (LOG-1, CKPT-4)
    pub(crate) fn result_ready(&self) -> bool {
        self.state == AttemptState::Finished
            && !self.unjudged
            && self.streams.iter().all(|stream| stream.unsent().is_none())
            && self.checkpoint.went_ahead()
    }

    /// What of it goes in chunks at present: a checkpoint, and behind the last of them its result
    pub(crate) fn under_way(&self) -> Option<u64> {
        let result = self.large.filter(|_| self.state == AttemptState::Finished && self.result_numbered);
        result.map(|_| RESULT).or(self.checkpoint.upload().map(|(number, _)| number))
    }

    /// What is to be sent of a checkpoint, or of the result
    pub(crate) fn sending(&mut self, number: u64) -> &mut Sending {
        if number == RESULT { &mut self.returning } else { &mut self.checkpoint.sending }
    }

    /// Whether its newest checkpoint may be numbered: one is on its way at a time (CKPT-3)
    pub(crate) fn checkpoint_ready(&self) -> bool {
        !self.unjudged
            && self.checkpoint.is_unanswered()
            && self.checkpoint.in_flight.is_none()
            && (self.state.occupies_slot() || self.state == AttemptState::Finished)
            && self.state != AttemptState::Abandoned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_and_step_of_an_attempt_is_legal_or_refused_as_the_table_says() {
        use AttemptState as S;
        use AttemptStep as T;
        let steps = [T::Run, T::Start, T::Cancel, T::Finish, T::Recall, T::Decline, T::Settle];
        let none = None;
        let table = [
            (S::Waiting, [Some(S::Starting), none, Some(S::Finished), none, Some(S::Gone), none, Some(S::Gone)]),
            (
                S::Starting,
                [none, Some(S::Running), Some(S::Stopping), Some(S::Finished), none, Some(S::Gone), Some(S::Abandoned)],
            ),
            (S::Running, [none, none, Some(S::Stopping), Some(S::Finished), none, none, Some(S::Abandoned)]),
            (
                S::Stopping,
                [none, Some(S::Stopping), Some(S::Stopping), Some(S::Finished), none, none, Some(S::Abandoned)],
            ),
            (S::Abandoned, [none, Some(S::Abandoned), none, Some(S::Gone), none, none, none]),
            (S::Finished, [none, none, Some(S::Finished), none, none, none, Some(S::Gone)]),
            (S::Gone, [none; 7]),
        ];
        for (state, row) in table {
            for (step, expected) in steps.into_iter().zip(row) {
                assert_eq!(state.after(step), expected, "{state:?} × {step:?}");
            }
        }
    }
}
