//! How attempts and tasks end: results, retries, losses, crashes and cancels (TASK-3, TASK-6, TASK-7)

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use crate::blob::RESULT;
use crate::error::Rejected;
use crate::ids::{SessionId, TaskId, Token};
use crate::journal::Record;
use crate::planted::{self, Bug};
use crate::wire::message::{CancelReason, Failure, Outcome, Settlement, Stream, StreamEnd};

use super::gate::Effect;
use super::peers::{PeerIx, Sent};
use super::tasks::{Attempt, Body, EarlyResult, Ended, TaskState, TaskStep};
use super::uploads::homes_in;
use super::{Desk, Event, Timer};

const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);

impl Desk {
    // Results.

    /// A worker delivers a result: it is applied, or known, or stale, and the worker is told which (TASK-3)
    #[allow(clippy::too_many_arguments)]
    pub(super) fn take_result(
        &mut self,
        ix: PeerIx,
        number: u64,
        task: TaskId,
        token: Token,
        outcome: Outcome,
        result: Body,
        streams: [StreamEnd; 2],
    ) {
        let Some(session) = &mut self.roster.get_mut(ix).session else { return };
        session.drift.is_over(token);
        let id = session.numbers.id;
        let attempt = self.tasks.attempts.get_mut(&token).filter(|a| a.peer == ix && a.task == task);
        let Some(attempt) = attempt else {
            if planted::is(Bug::StaleTokenAccepted) {
                self.overrule(task, token, outcome, result.inline(), streams);
            }
            return self.refuse_result(ix, task, token);
        };
        attempt.running = true;
        let before = attempt.early.take().map(|early| (early.session, early.number));
        let arrived = Stream::ALL.map(|stream| attempt.streams[stream.index()].end());
        let is_here = result.elsewhere().is_none();
        if arrived == streams && is_here {
            self.conclude(token, outcome, result, streams);
        } else if arrived == streams || (is_behind(&arrived, &streams) && number > 0) {
            // Its chunks follow it. Or it was sent again on a new connection, in front of the output that the cut swallowed.
            attempt.early = Some(Box::new(EarlyResult { session: id, number, outcome, result, streams }));
            session.early.insert(number);
            if !is_here {
                self.begin_result(token);
            }
        } else {
            let why = b"output and its length or digest disagree"[..].into();
            self.conclude(token, Outcome::Failed(Failure::Error), why, arrived);
        }
        if let Some((session, before)) = before.filter(|before| *before != (id, number)) {
            // It has changed its mind: what it had promised to send cannot be read any more. Or this is another session.
            self.no_longer_early(ix, session, before);
        }
    }

    /// Output has come in, or the last chunk of a result: that may have waited for it
    pub(super) fn try_early_result(&mut self, token: Token) {
        let Some(attempt) = self.tasks.attempts.get_mut(&token) else { return };
        let arrived = Stream::ALL.map(|stream| attempt.streams[stream.index()].end().len);
        let chunks = self.tasks.all.get(&attempt.task).map(|task| &task.chunks);
        let is_whole = |body: &Body| body.names().iter().all(|name| chunks.is_some_and(|all| all.contains_key(name)));
        let complete = attempt
            .early
            .as_ref()
            .is_some_and(|early| early.streams.map(|s| s.len) == arrived && is_whole(&early.result));
        if !complete {
            return;
        }
        let Some(early) = attempt.early.take() else { return };
        let (ix, streams) = (attempt.peer, Stream::ALL.map(|stream| attempt.streams[stream.index()].end()));
        let EarlyResult { session, number, outcome, result, streams: claimed } = *early;
        if streams == claimed {
            self.conclude(token, outcome, result, streams);
        } else {
            let why = b"output and its digest disagree"[..].into();
            self.conclude(token, Outcome::Failed(Failure::Error), why, streams);
        }
        self.no_longer_early(ix, session, number);
    }

    /// Acknowledgements may go past a result that waited, once what became of it is durable (SESS-2)
    fn no_longer_early(&mut self, ix: PeerIx, id: SessionId, number: u64) {
        let Some(session) = self.roster.get_mut(ix).session_mut(id) else { return };
        if session.early.contains(&number) {
            let received = session.numbers.received();
            self.gate.then(Effect::NotEarly(ix, id, number));
            self.gate.then(Effect::Ack(ix, id, received));
        }
    }

    /// The newer of two attempts has the last word
    fn overrule(&mut self, id: TaskId, token: Token, outcome: Outcome, result: &[u8], streams: [StreamEnd; 2]) {
        let end = self.tasks.all.get_mut(&id).and_then(|task| task.ended.as_mut());
        if let Some(end) = end.filter(|end| end.token.is_some_and(|by| by < token)) {
            (end.outcome, end.token, end.result, end.streams) = (outcome, Some(token), result.into(), streams);
            let (token, attempt) = (end.token, end.attempt);
            self.gate.write(&Record::Result { task: id, token, attempt, outcome, last: true, result, streams });
            self.drop_chunks(id);
        }
    }

    /// How a task ended, if it has, whether it is forgotten or not
    pub(super) fn outcome_of(&self, task: TaskId) -> Option<Outcome> {
        let end = self.tasks.all.get(&task).and_then(|task| task.ended.as_ref());
        end.map(|end| end.outcome).or(self.tasks.forgotten.get(&task).map(|old| old.outcome))
    }

    fn refuse_result(&mut self, ix: PeerIx, task: TaskId, token: Token) {
        let end = self.tasks.all.get(&task).and_then(|task| task.ended.as_ref());
        let outcome = self.outcome_of(task);
        let settlement = if end.is_some_and(|end| end.token == Some(token)) {
            self.stats.duplicate_results += 1;
            Settlement::Duplicate
        } else {
            self.stats.stale_results += 1;
            Settlement::Stale
        };
        self.story.note(self.now, task, Some(token), "late result refused");
        self.say_settled(ix, token, settlement, outcome);
    }

    /// An attempt is over, with all its output here
    fn conclude(&mut self, token: Token, outcome: Outcome, result: Body, streams: [StreamEnd; 2]) {
        let Some(Attempt { task: id, peer, attempt, detached, .. }) = self.drop_attempt(token) else { return };
        let Some(task) = self.tasks.all.get_mut(&id) else { return };
        task.suspect = false;
        task.crashes = 0;
        self.stats.applied += 1;
        let again = match outcome {
            Outcome::Succeeded => false,
            // It was stopped, but nobody wants the task stopped: the attempt is lost, the task is not.
            Outcome::Cancelled => !task.cancel_requested,
            Outcome::Failed(failure) => {
                let may = may_retry(failure) && task.retries < task.spec.retries;
                // A replacement is on its way: the failure of what it replaces decides nothing.
                (may && !task.cancel_requested) || detached
            }
        };
        if !again {
            self.end_task(id, Some((token, attempt)), outcome, result, streams);
            self.say_settled(peer, token, Settlement::Applied, Some(outcome));
            return;
        }
        task.concluded.push(token);
        let counts = matches!(outcome, Outcome::Failed(_)) && !detached;
        // Nobody asks what an attempt returned that another one follows, but for what went wrong.
        let (token_of, result) = (Some(token), result.inline());
        self.gate.write(&Record::Result { task: id, token: token_of, attempt, outcome, last: false, result, streams });
        self.drop_chunks(id);
        self.gate.then(Effect::AttemptOver(id, token, streams.map(|stream| stream.len)));
        self.say_settled(peer, token, Settlement::Applied, None);
        if detached {
            return;
        }
        if counts {
            self.retry(id);
            self.gate.then(Effect::Event(Event::Again { task: id }));
        } else {
            if self.roster.get(peer).is_draining() {
                // Handed over on purpose, by a worker that will not take it again (TASK-8).
                self.never_ran(id);
                self.gate.then(Effect::Event(Event::Again { task: id }));
            } else {
                // Bounded like any other loss, or a worker that gives up everything would be given it for ever.
                self.again_after_loss(id);
            }
        }
    }

    fn retry(&mut self, id: TaskId) {
        let Some(task) = self.tasks.all.get_mut(&id) else { return };
        let pause = self.config.retry_pause.saturating_mul(1 << task.retries.min(16)).min(RETRY_PAUSE_MAX);
        task.retries += 1;
        self.tasks.step(id, TaskStep::Retry);
        let pause = self.rng.between(pause / 2, pause);
        self.timers.set(Timer::Retry(id), Some(self.now + pause));
        self.story.note(self.now, id, None, "failed, will be tried again");
    }

    /// The coordinator itself ends an attempt as failed, for good
    pub(super) fn fail_attempt(&mut self, token: Token, failure: Failure) {
        self.part_with(token);
        let Some(attempt) = self.tasks.attempts.get_mut(&token) else { return };
        let (peer, streams) = (attempt.peer, Stream::ALL.map(|stream| attempt.streams[stream.index()].end()));
        let early = attempt.early.take();
        self.conclude(token, Outcome::Failed(failure), Body::default(), streams);
        if let Some(early) = early {
            self.no_longer_early(peer, early.session, early.number);
        }
        self.say(peer, Sent::Cancel(token, CancelReason::Replaced));
    }

    /// The task has its outcome: the first durable one wins and retires every token (TASK-3)
    pub(super) fn end_task(
        &mut self,
        id: TaskId,
        by: Option<(Token, u32)>,
        outcome: Outcome,
        result: Body,
        streams: [StreamEnd; 2],
    ) {
        if self.tasks.step(id, TaskStep::End).is_none() {
            return;
        }
        self.timers.set(Timer::Retry(id), None);
        let Some(task) = self.tasks.all.get_mut(&id) else { return };
        let (token, attempt) = (by.map(|by| by.0), by.map_or(0, |by| by.1));
        let live = task.live.clone();
        let input = self.tasks.set_end(id, Ended { outcome, token, attempt, result, streams });
        let mut overtaken = Vec::new();
        for other in live {
            if planted::is(Bug::RetiredUntold) {
                self.drop_attempt(other);
                continue;
            }
            self.part_with(other);
            if let Some(attempt) = self.retire(other) {
                self.say(attempt.peer, Sent::Cancel(other, CancelReason::Replaced));
                overtaken.extend(attempt.early.map(|early| (other, attempt.peer, early.session)));
            }
        }
        self.write_end(id);
        overtaken.into_iter().for_each(|(token, peer, session)| self.overtaken(peer, session, token));
        self.tasks.set_checkpoint(id, None);
        self.drop_chunks(id);
        self.chunks_gone(id, input);
        self.gate.then(Effect::End(id));
        self.story.note(self.now, id, token, "ended");
    }

    /// Writes what a task returned where that is in chunks, then how it ended
    fn write_end(&mut self, id: TaskId) {
        let Some(task) = self.tasks.all.get(&id) else { return };
        let Some(Ended { outcome, token, attempt, ref result, streams }) = task.ended else { return };
        if let (Body::Chunks { length, names }, Some(token)) = (result, token) {
            let homes = homes_in(task, names);
            self.gate.write(&Record::Manifest { task: id, token, number: RESULT, length: *length, homes: &homes });
        }
        let result = result.inline();
        self.gate.write(&Record::Result { task: id, token, attempt, outcome, last: true, result, streams });
    }

    // Attempts that end without a result.

    /// The worker does not have it, or is gone for good; then it may run all the same for a while
    pub(super) fn lost_attempt(&mut self, token: Token, may_still_run: bool) {
        let Some(attempt) = self.drop_attempt(token) else { return };
        if may_still_run && attempt.sent_as.is_some() {
            self.may_still_run(attempt.task, attempt.peer);
        }
        if attempt.detached {
            return;
        }
        if attempt.sent_as.is_some() {
            self.stats.lost_attempts += 1;
            self.again_after_loss(attempt.task);
        } else {
            // It never left, so that nothing was lost.
            self.never_ran(attempt.task);
        }
    }

    /// A worker's memory is gone: what ran there crashed with it, what did not start is merely lost (TASK-6)
    pub(super) fn crashed(&mut self, absent: &[Token]) {
        let ran = absent.iter().filter(|token| self.tasks.attempts.get(token).is_some_and(|a| a.running));
        let ran = ran.count();
        let alone = ran == 1;
        if ran > 0 {
            self.count_failure();
        }
        for token in absent {
            let Some(attempt) = self.drop_attempt(*token) else { continue };
            if attempt.sent_as.is_some() {
                // Its process may outlive the memory of it for a while.
                self.may_still_run(attempt.task, attempt.peer);
            }
            if !attempt.running {
                match (attempt.detached, attempt.sent_as) {
                    (true, _) => {}
                    (false, None) => self.never_ran(attempt.task),
                    // Most likely it had not started; but if it is what crashes workers, there must be an end to it.
                    (false, Some(_)) => self.again_after_loss(attempt.task),
                }
                continue;
            }
            self.stats.crashed_attempts += 1;
            let Some(task) = self.tasks.all.get_mut(&attempt.task) else { continue };
            if alone {
                task.crashes += 1;
            }
            task.suspect |= !alone;
            let poisonous = task.crashes >= self.config.crashes_max;
            self.story.note(self.now, attempt.task, Some(*token), "crashed");
            if poisonous && !attempt.detached {
                let by = Some((*token, attempt.attempt));
                let streams = Stream::ALL.map(|stream| attempt.streams[stream.index()].end());
                self.end_task(attempt.task, by, Outcome::Failed(Failure::Poisonous), Body::default(), streams);
            } else if !attempt.detached {
                self.again_after_loss(attempt.task);
            }
        }
    }

    /// The task waits for another worker, unless it is not to be given out again (TASK-7)
    pub(super) fn never_ran(&mut self, id: TaskId) {
        if self.tasks.all.get(&id).is_some_and(|task| task.cancel_requested) {
            self.end_task(id, None, Outcome::Cancelled, Body::default(), Default::default());
        } else {
            self.tasks.step(id, TaskStep::Requeue);
        }
    }

    // Cancels.

    /// A journaled request: never given out again, ended by whatever is durable first (TASK-7)
    pub(super) fn request_cancel(&mut self, id: TaskId) -> Result<(), Rejected> {
        let task = self.tasks.all.get_mut(&id).ok_or(Rejected::Unknown)?;
        if task.state == TaskState::Ended || core::mem::replace(&mut task.cancel_requested, true) {
            return Ok(());
        }
        let assigned = task.state == TaskState::Assigned;
        let live = task.live.clone();
        self.gate.write(&Record::Cancel { task: id });
        self.story.note(self.now, id, None, "cancel requested");
        if !assigned && planted::is(Bug::CancelledDispatched) {
            return Ok(());
        }
        if !assigned {
            self.end_task(id, None, Outcome::Cancelled, Body::default(), Default::default());
            return Ok(());
        }
        for token in live {
            if let Some(attempt) = self.tasks.attempts.get(&token) {
                self.say(attempt.peer, Sent::Cancel(token, CancelReason::Requested));
            }
        }
        Ok(())
    }

    // Inside.

    /// Retires a token, and takes it off its worker's list; its result is stale, if it was taken in and waits
    pub(super) fn drop_attempt(&mut self, token: Token) -> Option<Attempt> {
        let attempt = self.retire(token)?;
        if let Some(early) = &attempt.early {
            self.overtaken(attempt.peer, early.session, token);
        }
        Some(attempt)
    }

    /// A result was taken in and will not be applied: its worker says nothing more of it, and waits for a word
    ///
    /// In another session it is in the inventory, and gets its verdict like all that is there (SESS-7).
    fn overtaken(&mut self, ix: PeerIx, session: SessionId, token: Token) {
        self.stats.stale_results += 1;
        self.gate.then(Effect::Say(ix, session, Sent::Settled(token, Settlement::Stale, None)));
    }

    fn retire(&mut self, token: Token) -> Option<Attempt> {
        self.drop_upload(token);
        let attempt = self.tasks.retire(token)?;
        let ix = attempt.peer;
        let peer = self.roster.get_mut(ix);
        peer.held.remove(&token);
        peer.to_offer.remove(&token);
        for stream in Stream::ALL {
            peer.to_tell.remove(&(token, stream));
        }
        self.schedule.not_recalled(token);
        self.place(ix);
        if let Some(early) = &attempt.early {
            self.no_longer_early(ix, early.session, early.number);
        }
        Some(attempt)
    }

    /// Says something to a peer once everything written so far is durable (JOURN-3)
    ///
    /// While it is open which of two sessions goes on, both hear it (AUTH-8).
    pub(super) fn say(&mut self, ix: PeerIx, sent: Sent) {
        let peer = self.roster.get(ix);
        for session in [&peer.session, &peer.previous].into_iter().flatten() {
            self.gate.then(Effect::Say(ix, session.numbers.id, sent));
        }
    }

    fn say_settled(&mut self, ix: PeerIx, token: Token, settlement: Settlement, outcome: Option<Outcome>) {
        if planted::is(Bug::AckBeforeDurable)
            && let Some(session) = &mut self.roster.get_mut(ix).session
        {
            session.say(Sent::Settled(token, settlement, outcome));
            return self.touch(ix);
        }
        self.say(ix, Sent::Settled(token, settlement, outcome));
    }
}

/// Whether more output can make up the difference
fn is_behind(have: &[StreamEnd; 2], want: &[StreamEnd; 2]) -> bool {
    have.iter().zip(want).all(|(have, want)| have.len < want.len || have == want)
}

/// Whether another attempt could end differently; a limit exceeded once is exceeded again
fn may_retry(failure: Failure) -> bool {
    match failure {
        Failure::Exit(_)
        | Failure::Signal(_)
        | Failure::TimedOut
        | Failure::CannotStart
        | Failure::Error
        | Failure::Stalled => true,
        Failure::OutputTooLarge | Failure::ResultTooLarge | Failure::Poisonous | Failure::WorkerLost => false,
    }
}
