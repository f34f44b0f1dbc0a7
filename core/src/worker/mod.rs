//! The worker: takes attempts, has them run, and keeps each result until the coordinator has it durably
//!
//! | room | concern |
//! | --- | --- |
//! | `config`, `seam` | settings; what goes in and what comes out |
//! | `attempt` | an attempt that is held, and the table of its states |
//! | `conditions` | leases, and what else attempts have to keep to |
//! | `checkpoints` | what attempts start from and what they make, in messages and in chunks |
//! | `keeping` | what outlives the process, and what an earlier one had finished |
//! | `arena`, `intake`, `outbox` | where bytes are kept; what is to be said, lane by lane |
//! | `outline` | what its future depends on, for searches |

mod arena;
mod attempt;
mod attempts;
mod cadence;
mod checkpoints;
mod conditions;
mod config;
mod intake;
mod keeping;
mod outbox;
mod outline;
mod seam;

use alloc::boxed::Box;
use core::hash::{Hash, Hasher};

pub use crate::stream::StreamMeter;
pub use crate::worker::attempt::AttemptState;
pub use crate::worker::checkpoints::Restored;
pub use crate::worker::conditions::Tenure;
pub use crate::worker::config::Config;
pub use crate::worker::keeping::Finished;
pub use crate::worker::seam::{Input, Output, StopReason};

use crate::blob::{ChunkName, Sending, names_of};
use crate::channel::{Violation, body_of};
use crate::digest::Digest;
use crate::drift::mark;
use crate::error::{ConfigError, Rejected};
use crate::ids::{ClusterId, TaskId, Token};
use crate::limits::{BLOB_BYTES_MAX, FRAME_BYTES_MAX, INLINE_BYTES_MAX, WORKER_BULK_WINDOW_BYTES};
use crate::link::{Link, LinkEvent, LinkOutput, LinkState, Reason};
use crate::planted::{self, Bug};
use crate::rng::Seed;
use crate::stats::LinkStats;
use crate::story::{Note, Story};
use crate::stream::Outgoing;
use crate::terms::Conditions;
use crate::time::{Instant, earliest};
use crate::wire::codec::Scratch;
use crate::wire::keys::Key;
use crate::wire::message::{BodyReader, CancelReason, Class, Failure, Item, Outcome, Stream, ToWorker, Verdict};
use crate::worker::arena::Arena;
use crate::worker::attempt::{Attempt, AttemptStep, Checkpoint};
use crate::worker::attempts::Attempts;
use crate::worker::cadence::{Cadence, Rhythm};
use crate::worker::conditions::Standing;
use crate::worker::intake::Intake;
use crate::worker::outbox::{Outbox, SentLog, Source, Stores};

/// A worker as a state machine
///
/// Tell it what happened with [`handle`](Worker::handle), then ask [`poll`](Worker::poll) what to do until it says
/// [`Output::Idle`]. It allocates when it is made, and never again, unless [`Config::reserve`] is off.
#[derive(Clone, Debug)]
pub struct Worker {
    now: Instant,
    scratch: Scratch,
    desk: Box<Desk>,
}

/// Everything but the working memory, so that messages can be read from there while this changes
#[derive(Clone, Debug)]
struct Desk {
    link: Link<SentLog>,
    slots: u16,
    prefetch: u16,
    attempts: Attempts,
    payloads: Arena,
    /// Two places for each: what is under way, and what was made meanwhile (CKPT-3)
    checkpoints: Arena,
    /// Pieces of checkpoints to start from, until the embedder has taken them over
    intake: Intake,
    results: Arena,
    /// Largest results, in a message and in chunks
    result_bytes_max: u32,
    large_result_max: u64,
    outbox: Outbox,
    /// Assignments taken in this session
    assigned: u64,
    arrivals: u64,
    /// Attempts not judged yet in this session (SESS-7)
    unjudged: u16,
    /// Attempts whose stop the embedder has to be told
    cancels: u16,
    /// Attempts of whose checkpoint the embedder has to be told
    answers: u16,
    /// Attempts the embedder may forget
    gone: u16,
    /// Attempts that are over, which the embedder has to be told to keep
    keeps: u16,
    /// Attempts not kept for which the embedder has room (SESS-9)
    reserved: u16,
    /// An attempt may be waiting for its turn
    may_start: bool,
    /// Takes nothing new, and leaves when nothing is left (TASK-8)
    draining: bool,
    /// What attempts have to keep to
    standing: Standing,
    /// How often they are asked for checkpoints
    cadence: Cadence,
    story: Story,
}

impl Worker {
    /// Makes a worker that wants to dial at once
    pub fn new(config: Config, seed: Seed, now: Instant) -> Result<Self, ConfigError> {
        config.validate()?;
        let offers = config.offers.encode();
        let offers = offers.map_err(|_| ConfigError { field: "offers", allowed: "at most 2,400 bytes" })?;
        let cadence = Cadence::new(config.link.pins.checkpoint_every);
        let result_room = config.result_room();
        let reserve = config.reserve;
        let (scratch, log, story) = match reserve {
            true => (Scratch::new(), SentLog::reserved(), Story::reserved()),
            false => (Scratch::none(), SentLog::default(), Story::default()),
        };
        let link = Link::new(config.link, seed, now, log, WORKER_BULK_WINDOW_BYTES)?;
        let desk = Desk {
            link,
            slots: config.slots,
            prefetch: config.prefetch,
            attempts: Attempts::new(config.attempts_max, reserve),
            payloads: Arena::new(config.slots + config.prefetch, INLINE_BYTES_MAX, reserve),
            checkpoints: Arena::new(2 * (config.slots + config.prefetch), INLINE_BYTES_MAX, reserve),
            intake: Intake::new(reserve),
            results: Arena::new(config.attempts_max, result_room, reserve),
            result_bytes_max: config.result_bytes_max,
            large_result_max: config.large_result_max,
            outbox: Outbox::new(offers.into(), config.attempts_max, reserve),
            assigned: 0,
            arrivals: 0,
            unjudged: 0,
            cancels: 0,
            answers: 0,
            gone: 0,
            keeps: 0,
            reserved: config.attempts_max,
            may_start: false,
            draining: false,
            standing: Standing::default(),
            cadence,
            story,
        };
        let mut worker = Worker { now, scratch, desk: Box::new(desk) };
        worker.desk.link.expire(now);
        worker.desk.grant();
        Ok(worker)
    }

    /// Takes in what happened
    ///
    /// Fires what is due as well; several calls before the next [`poll`](Worker::poll) are fine. What a peer does
    /// never causes an error.
    pub fn handle(&mut self, now: Instant, input: Input<'_>) -> Result<(), Rejected> {
        self.now = self.now.max(now);
        let now = self.now;
        let desk = &mut *self.desk;
        let result = match input {
            Input::Connected { attempt, entropy, binding } => desk.link.opened(now, attempt, entropy, binding),
            Input::Received { attempt, bytes } => {
                if let Some(body) = desk.link.receive(now, attempt, bytes, &mut self.scratch) {
                    desk.take_batch(now, body);
                }
                desk.follow_link();
                Ok(())
            }
            Input::Arriving { attempt } => {
                desk.link.arriving(now, attempt);
                Ok(())
            }
            Input::Disconnected { attempt, loss } => {
                desk.link.closed(now, attempt, loss);
                Ok(())
            }
            Input::Writable { attempt, writable } => {
                desk.link.set_writable(attempt, writable);
                Ok(())
            }
            Input::Started { token } => desk.started(now, token),
            Input::Progress { token, value } => {
                desk.reported(now, token);
                desk.progress(token, value)
            }
            Input::OutputGrew { token, stream, total } => {
                desk.reported(now, token);
                desk.output_grew(token, stream, total)
            }
            Input::OutputRead { token, stream, offset, bytes } => {
                desk.outbox.take_read(token, Source::Stream(stream), offset, bytes);
                Ok(())
            }
            Input::Checkpoint { token, bytes } => {
                desk.reported(now, token);
                desk.checkpoint_made(now, token, bytes)
            }
            Input::LargeCheckpoint { token, length, names } => {
                desk.reported(now, token);
                desk.large_checkpoint_made(now, token, length, names)
            }
            Input::CheckpointRead { token, number, offset, bytes } => {
                desk.checkpoint_read(token, number, offset, bytes);
                Ok(())
            }
            Input::Finished { token, outcome, result } => desk.finished(now, token, outcome, result),
            Input::FinishedLarge { token, outcome, length, names } => {
                desk.finished_large(now, token, outcome, length, names)
            }
            Input::Declined { token } => desk.declined(now, token),
            Input::Kept { token } => {
                desk.kept(token);
                Ok(())
            }
            Input::Reserved { attempts } => {
                desk.reserved = attempts;
                Ok(())
            }
            Input::Restore { finished, streams } => desk.restore_finished(now, finished, streams),
            Input::KeyKept { kept } => desk.link.key_kept(now, kept),
            Input::Drain => {
                desk.drain(now);
                Ok(())
            }
            Input::Leave => {
                desk.link.leave();
                Ok(())
            }
            Input::Timeout => Ok(()),
        };
        desk.link.expire(now);
        desk.keep_conditions(now);
        desk.ask_for_checkpoints(now);
        desk.refuse_what_cannot_be_sent();
        desk.leave_if_drained();
        desk.grant();
        result
    }

    /// Says what to do next; call until it says [`Output::Idle`]
    ///
    /// `frame` must have room for [`FRAME_BYTES_MAX`] bytes.
    pub fn poll<'b>(&mut self, frame: &'b mut [u8]) -> Output<'b> {
        assert!(frame.len() >= FRAME_BYTES_MAX, "the buffer is too small for a frame");
        let desk = &mut *self.desk;
        match desk.link.poll(frame) {
            Some(LinkOutput::Connect { attempt, endpoint }) => return Output::Connect { attempt, endpoint },
            Some(LinkOutput::Disconnect { attempt, reason }) => return Output::Disconnect { attempt, reason },
            Some(LinkOutput::Send { len }) => return Output::Send { bytes: &frame[..len] },
            None => {}
        }
        if desk.link.take_keep() {
            return Output::KeepKey;
        }
        if let Some((token, reason)) = desk.next_cancel() {
            return Output::Cancel { token, reason };
        }
        if let Some((token, freeze)) = desk.next_freeze() {
            return if freeze { Output::Freeze { token } } else { Output::Thaw { token } };
        }
        if let Some((token, number, offset, len)) = desk.next_restored(frame) {
            return Output::RestorePiece { token, number, offset, bytes: &frame[..len] };
        }
        let body_len = desk.fill(self.now, frame);
        if body_len > 0 {
            let len = desk.link.seal(frame, body_len, &mut self.scratch);
            return Output::Send { bytes: &frame[..len] };
        }
        if let Some(token) = desk.next_keep() {
            return Output::Keep { token };
        }
        match desk.next_read() {
            Some((token, Source::Stream(stream), offset, max)) => {
                return Output::ReadOutput { token, stream, offset, max };
            }
            Some((token, Source::Checkpoint(number), offset, max)) => {
                return Output::ReadCheckpoint { token, number, offset, max };
            }
            None => {}
        }
        if let Some((token, number, refused)) = desk.next_answer() {
            return Output::Checkpointed { token, number, refused };
        }
        if let Some(token) = desk.next_wanted() {
            return Output::WantCheckpoint { token };
        }
        if let Some((task, token, attempt)) = desk.next_start(self.now) {
            return Output::Run { task, token, attempt };
        }
        if let Some(token) = desk.next_gone() {
            return Output::Forget { token };
        }
        let wake_at = self.wake_at();
        debug_assert!(wake_at.is_none_or(|at| at > self.now), "a timer would spin");
        Output::Idle { wake_at }
    }

    /// When to say [`Input::Timeout`], whatever else happens
    pub fn wake_at(&self) -> Option<Instant> {
        earliest(earliest(self.desk.link.wake_at(), self.desk.conditions_deadline()), self.desk.cadence.next)
    }

    /// Where the connection stands
    pub fn state(&self) -> LinkState {
        self.desk.link.state()
    }

    /// Why the worker stopped for good, if it did
    pub fn stopped(&self) -> Option<Reason> {
        self.desk.link.stopped()
    }

    /// The highest epoch of the coordinator that it has seen; 0 before the first (JOURN-2)
    pub fn epoch(&self) -> u64 {
        self.desk.link.epoch()
    }

    /// The wire version of its connection, once both ends know it (FRAME-6)
    pub fn wire_version(&self) -> Option<u16> {
        self.desk.link.agreed_version()
    }

    /// Whether failed handshakes have put it into the slow lane (AUTH-2)
    pub fn is_slow(&self) -> bool {
        self.desk.link.is_slow()
    }

    /// Returns the key that is to be kept, from [`Output::KeepKey`] until [`Input::KeyKept`] (AUTH-6)
    pub fn next_key(&self) -> Option<Key> {
        self.desk.link.next_key()
    }

    /// Returns the input of an attempt that has not started, or what comes beside a large one
    pub fn payload(&self, token: Token) -> Option<&[u8]> {
        let attempt = self.desk.attempts.get(&token)?;
        let bytes = self.desk.payloads.bytes(attempt.payload.as_ref()?);
        Some(attempt.input.as_ref().map_or(bytes, |input| &bytes[..input.payload]))
    }

    /// Returns the length of the large input of an attempt that has not started: it has come in pieces (FRAME-3)
    pub fn input(&self, token: Token) -> Option<u64> {
        self.desk.attempts.get(&token)?.input.as_ref().map(|input| input.length)
    }

    /// Returns the checkpoint from which an attempt that is to start goes on, and its number (CKPT-4)
    pub fn checkpoint(&self, token: Token) -> Option<(u64, Restored<'_>)> {
        let attempt = self.desk.attempts.get(&token).filter(|attempt| attempt.payload.is_some())?;
        let current = attempt.checkpoint.current.filter(|current| current.number > 0)?;
        let slot = attempt.checkpoint.slot.as_ref()?;
        let bytes = || Restored::Bytes(self.desk.checkpoints.bytes(slot));
        Some((current.number, current.chunked.map_or_else(bytes, Restored::Pieces)))
    }

    /// Returns the number of the newest checkpoint that an attempt has made, or started from
    pub fn newest_checkpoint(&self, token: Token) -> Option<u64> {
        self.desk.attempts.get(&token).map(|attempt| attempt.checkpoint.made)
    }

    /// Whether the bytes of a large checkpoint may still be asked for: it is under way, or waits for that (CKPT-3)
    pub fn keeps_checkpoint(&self, token: Token, number: u64) -> bool {
        let kept = self.desk.attempts.get(&token).map(|attempt| &attempt.checkpoint);
        kept.is_some_and(|kept| {
            let made = [kept.current.filter(|current| current.number > kept.answered), kept.waiting];
            made.into_iter().flatten().any(|made| made.number == number)
        })
    }

    /// Whether it takes nothing new any more, by its own will or an operator's (TASK-8)
    pub fn is_draining(&self) -> bool {
        self.desk.draining
    }

    /// How far an attempt is
    pub fn attempt(&self, token: Token) -> Option<AttemptState> {
        self.desk.attempts.get(&token).map(|attempt| attempt.state)
    }

    /// The cluster of the coordinator that it has last proved itself to, or is bound to by its settings
    pub fn cluster(&self) -> Option<ClusterId> {
        self.desk.link.cluster()
    }

    /// Returns how many attempts are held, finished ones included
    pub fn held(&self) -> usize {
        self.desk.attempts.len()
    }

    /// Returns the counters
    pub fn stats(&self) -> LinkStats {
        self.desk.link.stats()
    }

    /// Returns the last transitions of a task
    pub fn story(&self, task: TaskId) -> impl Iterator<Item = Note> + '_ {
        self.desk.story.of(task)
    }

    /// Returns a digest of the state: equal for equal histories, on every machine
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::new();
        self.desk.link.digest(&mut digest);
        for (token, attempt) in self.desk.attempts.iter() {
            (token, attempt.task, attempt.attempt, attempt.state, attempt.progress).hash(&mut digest);
            (attempt.unjudged, attempt.result_queued, attempt.report_queued).hash(&mut digest);
            (attempt.keep_due, attempt.kept).hash(&mut digest);
        }
        digest.finish()
    }

    /// Panics if the state contradicts itself; for tests and simulation
    pub fn check(&self) {
        self.desk.check();
    }
}

impl Desk {
    // What the coordinator says.

    fn take_batch(&mut self, now: Instant, body: &[u8]) {
        for item in BodyReader::new(body) {
            let taken = item.map_err(|_| Violation).and_then(|item| self.take(now, &item));
            if taken.is_err() {
                return self.link.violated(now);
            }
            if !self.link.carries_frames() {
                // The message ended the connection; nothing behind it counts.
                return;
            }
        }
    }

    fn take(&mut self, now: Instant, item: &Item<'_>) -> Result<(), Violation> {
        match item.class {
            Class::Control => match self.link.control(now, item)? {
                LinkEvent::Nothing | LinkEvent::Resumed => {}
                LinkEvent::Anew => self.judged(),
            },
            Class::Numbered(number) => {
                if self.link.arrive(now, number, item.payload.len())? && !item.payload.is_empty() {
                    self.take_message(now, item)?;
                }
            }
            Class::Loose if !self.link.is_welcomed() => return Err(Violation),
            Class::Loose => self.take_message(now, item)?,
        }
        Ok(())
    }

    fn take_message(&mut self, now: Instant, item: &Item<'_>) -> Result<(), Violation> {
        let Some(message) = item.decode::<ToWorker<'_>>() else {
            return if item.ignorable { Ok(()) } else { Err(Violation) };
        };
        if message.is_loose() != (item.class == Class::Loose) || message.since() > self.link.version() {
            return Err(Violation);
        }
        match message {
            ToWorker::Assign { task, token, attempt, priority, restores, payload } => {
                self.assign(now, task, token, (attempt, priority, restores), Conditions::default(), payload)?;
            }
            ToWorker::AssignUnder { task, token, attempt, priority, restores, conditions, payload } => {
                self.assign(now, task, token, (attempt, priority, restores), conditions, payload)?;
            }
            ToWorker::AssignLarge { task, token, attempt, priority, restores, conditions, payload, length, names } => {
                names_of(length, names).filter(|_| length <= BLOB_BYTES_MAX).ok_or(Violation)?;
                if payload.len() + names.len() > INLINE_BYTES_MAX {
                    return Err(Violation);
                }
                self.assign(now, task, token, (attempt, priority, restores), conditions, payload)?;
                self.feed(token, length, payload.len(), names);
            }
            ToWorker::Cancel { token, reason } => self.cancel(now, token, reason),
            ToWorker::Recall { token } => self.recall(now, token),
            ToWorker::Verdict { token, verdict } => self.verdict(now, token, verdict)?,
            ToWorker::Settled { token, .. } => self.settle(now, token),
            ToWorker::Kept { token, stream, offset } => {
                if let Some(attempt) = self.attempts.get_mut(&token) {
                    let stream = &mut attempt.streams[stream.index()];
                    // More than was ever sent, where this memory was put back: what it says again is known there.
                    stream.acknowledge(offset.min(stream.known()));
                    // What is kept is not sent again, and its result may have waited for nothing else.
                    self.outbox.offer_result(token, attempt);
                }
            }
            ToWorker::Restore { token, number, bytes } => self.restore(token, number, bytes)?,
            ToWorker::Checkpointed { token, number, refused } => {
                self.measure(now, token, number);
                self.checkpoint_answered(token, number, refused);
            }
            ToWorker::Drain => self.drain(now),
            ToWorker::Need { token, number, wanted } => self.checkpoint_needed(token, number, wanted)?,
            ToWorker::RestoreOffer { token, number, length, names } => {
                self.restore_offered(token, number, length, names)?;
            }
            ToWorker::RestorePiece { token, number, offset, bytes } => {
                self.restore_piece(token, number, offset, bytes)?;
            }
        }
        Ok(())
    }

    fn assign(
        &mut self,
        now: Instant,
        task: TaskId,
        token: Token,
        (attempt, priority, restores): (u32, u8, bool),
        conditions: Conditions,
        payload: &[u8],
    ) -> Result<(), Violation> {
        if self.places() == 0 || self.attempts.contains(&token) || payload.len() > INLINE_BYTES_MAX {
            // Beyond the credit, twice under one token, or larger than any input may be.
            return Err(Violation);
        }
        if planted::is(Bug::AssignmentForgotten) && token.0 % 4 == 1 {
            self.assigned += 1;
            return Ok(());
        }
        let mut slot = self.payloads.reserve().ok_or(Violation)?;
        let result = self.results.reserve().ok_or(Violation)?;
        let checkpoint = self.checkpoints.reserve().ok_or(Violation)?;
        let newer = self.checkpoints.reserve().ok_or(Violation)?;
        let fits = self.payloads.fill(&mut slot, payload);
        debug_assert!(fits, "a slot has room for the largest input");
        self.assigned += 1;
        self.arrivals += 1;
        let attempt = Attempt {
            task,
            mark: mark(task, token),
            attempt,
            priority,
            arrival: self.arrivals,
            state: AttemptState::Waiting,
            progress: 0,
            payload: Some(slot),
            input: None,
            result,
            large: None,
            returning: Sending::default(),
            outcome: Outcome::Cancelled,
            streams: [Outgoing::new(), Outgoing::new()],
            unjudged: false,
            report_queued: false,
            result_queued: false,
            result_numbered: false,
            cancel_due: None,
            conditions,
            lapsed: false,
            frozen: false,
            stalled: false,
            reported: now,
            checkpoint: Checkpoint::new(Some(checkpoint), Some(newer), restores),
            rhythm: Rhythm::new(now),
            keep_due: false,
            kept: false,
        };
        let fits = self.attempts.insert(token, attempt);
        debug_assert!(fits, "the table is at least as large as the arenas");
        self.standing.bound += u16::from(conditions != Conditions::default());
        self.story.note(now, task, Some(token), "assigned");
        self.may_start = true;
        if self.draining {
            // It was on its way when the drain began.
            self.give_back(now, token);
        }
        Ok(())
    }

    fn cancel(&mut self, now: Instant, token: Token, reason: CancelReason) {
        if self.step(now, token, AttemptStep::Cancel).is_none() {
            return;
        }
        let Some(attempt) = self.attempts.get_mut(&token) else { return };
        if reason == CancelReason::Requested {
            // Nobody will start from what it has made, and it starts from nothing any more.
            attempt.checkpoint.is_of_no_use();
            (attempt.checkpoint.awaited, attempt.checkpoint.restoring) = (false, None);
        }
        if attempt.state == AttemptState::Finished {
            self.outbox.offer_result(token, attempt);
            self.free_checkpoint(token);
        } else {
            self.order_stop(token, reason.into());
        }
    }

    fn recall(&mut self, now: Instant, token: Token) {
        if self.attempts.get(&token).is_some_and(|attempt| attempt.unjudged) {
            // The verdict on it is still to come.
            return;
        }
        self.give_back(now, token);
    }

    fn give_back(&mut self, now: Instant, token: Token) {
        if self.step(now, token, AttemptStep::Recall).is_some() {
            self.outbox.give_back(token);
        }
    }

    fn declined(&mut self, now: Instant, token: Token) -> Result<(), Rejected> {
        self.step(now, token, AttemptStep::Decline).ok_or(Rejected::NotExpected)?;
        self.outbox.give_back(token);
        Ok(())
    }

    /// From now on nothing is taken, and what has not started goes back (TASK-8)
    fn drain(&mut self, now: Instant) {
        if core::mem::replace(&mut self.draining, true) {
            return;
        }
        self.outbox.say_draining();
        self.ask_all(now);
        let unstarted = |a: &Attempt| a.state == AttemptState::Waiting && !a.unjudged;
        while let Some(token) = self.attempts.find(unstarted) {
            self.give_back(now, token);
        }
    }

    /// Leaves once the coordinator has everything, and knows that nothing is held here (TASK-8)
    fn leave_if_drained(&mut self) {
        let settled =
            |attempt: &Attempt| planted::is(Bug::DrainDropsResults) && attempt.state == AttemptState::Finished;
        if !self.draining || !self.attempts.values().all(settled) {
            return;
        }
        let said = self.outbox.is_empty() && self.link.session().is_none_or(|session| session.is_acknowledged());
        // Without a connection nobody is left to be told, and nothing is lost by that.
        if said || !self.link.is_welcomed() || planted::is(Bug::DrainDropsResults) {
            self.link.leave();
        }
    }

    fn verdict(&mut self, now: Instant, token: Token, verdict: Verdict) -> Result<(), Violation> {
        let attempt = self.attempts.get_mut(&token).filter(|attempt| attempt.unjudged).ok_or(Violation)?;
        attempt.unjudged = false;
        self.unjudged -= 1;
        match verdict {
            Verdict::Keep { kept } | Verdict::SendResult { kept } => {
                for (stream, offset) in attempt.streams.iter_mut().zip(kept) {
                    stream.go_on_at(offset.min(stream.known()));
                }
                self.outbox.resume(token, attempt);
                self.may_start = true;
                if self.draining || attempt.lapsed {
                    self.give_back(now, token);
                }
            }
            Verdict::Discard => self.settle(now, token),
        }
        self.judged();
        Ok(())
    }

    fn settle(&mut self, now: Instant, token: Token) {
        if self.step(now, token, AttemptStep::Settle) == Some(AttemptState::Abandoned) {
            self.order_stop(token, StopReason::Replaced);
        }
    }

    // What the embedder says.

    fn started(&mut self, now: Instant, token: Token) -> Result<(), Rejected> {
        let state = self.step(now, token, AttemptStep::Start).ok_or(Rejected::Unknown)?;
        let Some(attempt) = self.attempts.get_mut(&token) else { return Err(Rejected::Unknown) };
        attempt.reported = now;
        if let Some(payload) = attempt.payload.take() {
            self.payloads.free(payload);
            attempt.input = None;
        }
        if state == AttemptState::Running {
            self.outbox.report(token, attempt);
            self.begin_rhythm(now, token);
        }
        Ok(())
    }

    fn progress(&mut self, token: Token, value: u64) -> Result<(), Rejected> {
        let attempt = self.attempts.get_mut(&token).ok_or(Rejected::Unknown)?;
        if attempt.state != AttemptState::Running {
            return Err(Rejected::NotExpected);
        }
        attempt.progress = value;
        self.outbox.report(token, attempt);
        Ok(())
    }

    fn output_grew(&mut self, token: Token, stream: Stream, total: u64) -> Result<(), Rejected> {
        let attempt = self.attempts.get_mut(&token).ok_or(Rejected::Unknown)?;
        if !attempt.state.occupies_slot() {
            return Err(Rejected::NotExpected);
        }
        if attempt.state != AttemptState::Abandoned {
            attempt.streams[stream.index()].grow(total);
            self.outbox.may_read = true;
        }
        Ok(())
    }

    fn finished(&mut self, now: Instant, token: Token, outcome: Outcome, result: &[u8]) -> Result<(), Rejected> {
        let fits = self.fits(None, result);
        self.over(now, token, outcome, None, fits.then_some(result))
    }

    fn finished_large(
        &mut self,
        now: Instant,
        token: Token,
        outcome: Outcome,
        length: u64,
        names: &[ChunkName],
    ) -> Result<(), Rejected> {
        let names = names.as_flattened();
        let fits = self.fits(Some(length), names);
        if fits && names_of(length, names).is_none() {
            return Err(Rejected::BadSpec);
        }
        self.over(now, token, outcome, Some(length), fits.then_some(names))
    }

    /// An attempt is over; what is kept of its result is that itself, or the names of its chunks, or nothing if it is too large
    fn over(
        &mut self,
        now: Instant,
        token: Token,
        outcome: Outcome,
        large: Option<u64>,
        kept: Option<&[u8]>,
    ) -> Result<(), Rejected> {
        self.step(now, token, AttemptStep::Finish).ok_or(Rejected::Unknown)?;
        self.may_start = true;
        let Some(attempt) = self.attempts.get_mut(&token) else { return Err(Rejected::Unknown) };
        // One that was stopped because it did not get on has failed, unless it has succeeded in that moment.
        let stalled = attempt.stalled && outcome != Outcome::Succeeded;
        // Killed behind the end of its lease, while this worker stood still, it was stopped and did not fail (TASK-4).
        let over = attempt.conditions.exclusive && self.standing.lease.is_some_and(|lease| lease.until <= now);
        let stopped = over && matches!(outcome, Outcome::Failed(Failure::Signal(_)));
        attempt.outcome = if stalled {
            Outcome::Failed(Failure::Stalled)
        } else if stopped {
            Outcome::Cancelled
        } else {
            outcome
        };
        if kept.is_some_and(|kept| self.results.fill(&mut attempt.result, kept)) {
            attempt.large = large;
        } else {
            // Known before anything is sent, and final: a result that does not fit never will (FRAME-3).
            attempt.outcome = Outcome::Failed(Failure::ResultTooLarge);
        }
        if attempt.cancel_due.take().is_some() {
            self.cancels -= 1;
        }
        if attempt.outcome == Outcome::Succeeded {
            // Nobody will start from it.
            attempt.checkpoint.is_of_no_use();
        }
        self.outbox.offer_result(token, attempt);
        self.free_checkpoint(token);
        Ok(())
    }

    // What to do next.

    /// Writes one frame's body and returns its length, zero if there is nothing to say
    fn fill(&mut self, now: Instant, frame: &mut [u8]) -> usize {
        if !self.link.may_send() {
            return 0;
        }
        let news = self.link.has_news(now) || self.outbox.has_news(&mut self.link, &self.attempts);
        if !news {
            return 0;
        }
        let mut body = body_of(frame);
        self.link.write(now, &mut body);
        let stores = Stores { checkpoints: &self.checkpoints, results: &self.results };
        self.outbox.write(now, &mut self.link, &mut self.attempts, stores, &mut body);
        if planted::is(Bug::ResultForgottenOnSend) {
            while let Some(token) = self.outbox.a_sent_result(&self.attempts) {
                self.settle(now, token);
            }
        }
        self.grant();
        body.len()
    }

    fn next_cancel(&mut self) -> Option<(Token, StopReason)> {
        if self.cancels == 0 {
            return None;
        }
        let (token, attempt) = self.attempts.iter_mut().find(|(_, a)| a.cancel_due.is_some())?;
        self.cancels -= 1;
        attempt.cancel_due.take().map(|reason| (*token, reason))
    }

    fn next_read(&mut self) -> Option<(Token, Source, u64, u32)> {
        let most = self.link.next_piece().filter(|_| self.link.may_send())?;
        self.outbox.next_read(&self.attempts, most)
    }

    fn next_start(&mut self, now: Instant) -> Option<(TaskId, Token, u32)> {
        if !self.may_start {
            return None;
        }
        let busy = self.attempts.values().filter(|a| a.state.occupies_slot()).count();
        let unsure = self.standing.unsure_since.is_some();
        let may_start = |a: &Attempt| a.may_start() && !(unsure && a.conditions.exclusive);
        let waiting = self.attempts.iter().filter(|(_, a)| may_start(a));
        let next = waiting.min_by_key(|(_, a)| (a.priority, a.arrival)).map(|(token, _)| *token);
        let Some(token) = next.filter(|_| busy < usize::from(self.slots)) else {
            self.may_start = false;
            return None;
        };
        self.step(now, token, AttemptStep::Run)?;
        self.attempts.get(&token).map(|a| (a.task, token, a.attempt))
    }

    fn next_gone(&mut self) -> Option<Token> {
        if self.gone == 0 {
            return None;
        }
        let token = self.attempts.find(|a| a.state == AttemptState::Gone)?;
        self.gone -= 1;
        let attempt = self.attempts.swap_remove(&token)?;
        self.standing.bound -= u16::from(attempt.conditions != Conditions::default());
        self.results.free(attempt.result);
        debug_assert!(attempt.checkpoint.slot.is_none(), "its room was freed when it was settled");
        self.grant();
        Some(token)
    }

    // Inside.

    /// Moves an attempt along its table; `None` if there is none or the step is refused
    fn step(&mut self, now: Instant, token: Token, step: AttemptStep) -> Option<AttemptState> {
        let attempt = self.attempts.get_mut(&token)?;
        let next = attempt.state.after(step)?;
        if matches!(next, AttemptState::Abandoned | AttemptState::Gone) && core::mem::take(&mut attempt.unjudged) {
            self.unjudged -= 1;
        }
        if next == AttemptState::Finished && attempt.state != AttemptState::Finished {
            attempt.keep_due = true;
            self.keeps += 1;
        }
        if next == AttemptState::Gone {
            self.gone += 1;
            if core::mem::take(&mut attempt.keep_due) {
                self.keeps -= 1;
            }
            if attempt.cancel_due.take().is_some() {
                self.cancels -= 1;
            }
            if attempt.checkpoint.told.take().is_some() {
                self.answers -= 1;
            }
            if core::mem::take(&mut attempt.rhythm.due) {
                self.cadence.due -= 1;
            }
            let slots = [attempt.checkpoint.slot.take(), attempt.checkpoint.newer.take()];
            slots.into_iter().flatten().for_each(|slot| self.checkpoints.free(slot));
        }
        if matches!(next, AttemptState::Gone | AttemptState::Finished)
            && let Some(payload) = attempt.payload.take()
        {
            self.payloads.free(payload);
            attempt.input = None;
        }
        if next != attempt.state {
            self.story.note(now, attempt.task, Some(token), next.name());
        }
        attempt.state = next;
        Some(next)
    }

    fn order_stop(&mut self, token: Token, reason: StopReason) {
        let Some(attempt) = self.attempts.get_mut(&token) else { return };
        // Whoever stops it wakes it for that.
        attempt.frozen = false;
        // Nothing is more urgent than the end of a lease.
        let urgent = attempt.cancel_due.filter(|due| *due == StopReason::LeaseEnded);
        if attempt.cancel_due.replace(urgent.unwrap_or(reason)).is_none() {
            self.cancels += 1;
        }
    }

    /// Behind M3: output goes on where the coordinator stands, and in a new session an inventory is due (SESS-7)
    fn follow_link(&mut self) {
        if self.link.take_fresh() {
            self.outbox.version = self.link.version();
            self.outbox.connected(&mut self.attempts);
        }
        let Some(session) = self.link.session_id() else { return };
        if self.outbox.session == Some(session) {
            return;
        }
        self.assigned = 0;
        self.unjudged = 0;
        for attempt in self.attempts.values_mut() {
            // Nobody is to ask for the outcome of what was abandoned.
            attempt.unjudged = !matches!(attempt.state, AttemptState::Abandoned | AttemptState::Gone);
            attempt.report_queued = false;
            attempt.result_queued = false;
            attempt.result_numbered = false;
            attempt.checkpoint.start_over();
            self.unjudged += u16::from(attempt.unjudged);
        }
        self.outbox.start_over(session, self.unjudged, self.draining);
        self.judged();
    }

    fn judged(&mut self) {
        if self.unjudged == 0 {
            self.link.reconciled();
        }
    }

    /// Assignments that may still come: each has a slot or a place to wait, and room for all it may bring (LANES-2)
    ///
    /// What is given back keeps its place until the coordinator is being told, so that this news has a bound, too.
    fn room(&self) -> u64 {
        self.places().min(self.reserved_places())
    }

    /// Assignments for which there is room in memory
    fn places(&self) -> u64 {
        let active = self.attempts.values().filter(|a| a.state.is_active());
        let taken = (active.count() + self.outbox.to_give_back()) as u64;
        let places = u64::from(self.slots) + u64::from(self.prefetch);
        let room = self.payloads.room().min(self.checkpoints.room() / 2).min(self.results.room());
        places.saturating_sub(taken).min(room)
    }

    fn grant(&mut self) {
        // What was granted once stays so, but a drain grants nothing more.
        self.link.tasks = self.assigned + if self.draining { 0 } else { self.room() };
    }

    fn check(&self) {
        self.link.check();
        let count = |f: &dyn Fn(&Attempt) -> bool| self.attempts.values().filter(|a| f(a)).count();
        assert_eq!(count(&|a| a.unjudged), usize::from(self.unjudged));
        assert_eq!(count(&|a| a.cancel_due.is_some()), usize::from(self.cancels));
        assert_eq!(count(&|a| a.conditions != Conditions::default()), usize::from(self.standing.bound));
        assert_eq!(count(&|a| a.state == AttemptState::Gone), usize::from(self.gone));
        assert_eq!(count(&|a| a.keep_due), usize::from(self.keeps));
        assert!(count(&|a| a.keep_due && a.state != AttemptState::Finished) == 0, "only what is over is kept");
        assert!(count(&|a| a.state.occupies_slot()) <= usize::from(self.slots), "more tasks run than there are slots");
        assert!(
            count(&|a| a.state == AttemptState::Waiting && a.payload.is_none()) == 0,
            "what has not started still has its input"
        );
        let inputs = count(&|a| a.payload.is_some()) as u64;
        let places = u64::from(self.slots) + u64::from(self.prefetch);
        assert_eq!(inputs + self.payloads.room(), places, "room for an input is held by nobody");
        let checkpoints = count(&|a| a.checkpoint.slot.is_some()) + count(&|a| a.checkpoint.newer.is_some());
        assert_eq!(checkpoints as u64 + self.checkpoints.room(), places * 2, "room for a checkpoint is held by nobody");
        assert_eq!(count(&|a| a.checkpoint.told.is_some()), usize::from(self.answers));
        assert_eq!(
            self.attempts.len() as u64 + self.results.room(),
            self.results.slots(),
            "room for a result is held by nobody"
        );
        assert!(count(&|a| a.result_queued && a.state != AttemptState::Finished && a.state != AttemptState::Gone) == 0);
    }
}
