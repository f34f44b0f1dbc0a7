//! From the records of earlier epochs to the tables of this one (JOURN-4)
//!
//! Replay goes the way that the records describe, not the way that led to them: a record says what became of a task, and
//! the steps in between that left no record are made up for. It is idempotent in the sense that matters: whatever prefix
//! of the records there is, the tables are those of a coordinator that stopped there.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::fmt;

use crate::blob::{ChunkName, RESULT, chunks};
use crate::error::ConfigError;
use crate::ids::{PeerName, SessionId, TaskId, Token};
use crate::journal::{Record, homes_of};
use crate::lease::Lease;
use crate::stream::Piece;
use crate::terms::Class;
use crate::wire::message::{Outcome, Stream};

use super::inputs::Large;
use super::peers::PeerIx;
use super::tasks::{Body, Checkpoint, Chunk, Ended, TaskState, TaskStep, content_digest};
use super::{Config, Coordinator, Desk, Remembered, Timer};
use crate::about::About;
use crate::planted::{self, Bug};
use crate::rng::Seed;
use crate::time::Instant;
use crate::wire::codec::Scratch;

/// A coordinator in the making, out of the records that earlier ones have written (JOURN-4)
///
/// Records are taken one by one, in their order, so that they need not be in memory all at once.
#[derive(Debug)]
pub struct Recovery {
    desk: Desk,
    taken: usize,
}

impl Recovery {
    /// Starts with empty tables
    ///
    /// The coordinator will be in the next epoch and above every token that may have been given (JOURN-2, TASK-2), far above
    /// with [`Config::restored`], whatever `config` says, and in the cluster of the records, if there are any.
    pub fn start(config: Config, seed: Seed, now: Instant) -> Result<Self, ConfigError> {
        Ok(Recovery { desk: Desk::new(config, seed, now)?, taken: 0 })
    }

    /// Takes the next record
    pub fn take(&mut self, record: &[u8]) -> Result<(), RecoveryError> {
        let index = self.taken;
        self.taken += 1;
        let record = Record::decode(record).ok_or(RecoveryError::Damaged { index })?;
        self.desk.replay(&record).map_err(|NoSuchHistory| RecoveryError::Impossible { index })
    }

    /// All records are in: ended tasks keep their outcome, open ones go on
    ///
    /// Those that were at a worker stay its own until it is back, or has been away for [`Config::recovery_window`].
    pub fn finish(mut self) -> Coordinator {
        self.desk.begin();
        self.desk.recovered();
        // Whoever is not waited for at all has been away for long enough already.
        self.desk.settle_down();
        Coordinator { scratch: Scratch::new(), desk: alloc::boxed::Box::new(self.desk) }
    }
}

/// Why a coordinator cannot be made out of these records
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RecoveryError {
    /// A record cannot be read: the journal is damaged, or of another version
    Damaged {
        /// Which one, counted from 0
        index: usize,
    },
    /// A record cannot follow those before it: some are missing, or they are not of one journal
    Impossible {
        /// Which one, counted from 0
        index: usize,
    },
}

impl fmt::Display for RecoveryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecoveryError::Damaged { index } => {
                write!(f, "record {index} of the journal cannot be read: it is damaged, or of another version")
            }
            RecoveryError::Impossible { index } => {
                write!(f, "record {index} of the journal cannot follow those before it: some are missing")
            }
        }
    }
}

impl core::error::Error for RecoveryError {}

/// A record contradicts those before it
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoSuchHistory;

impl Desk {
    /// Takes the next record of an earlier epoch in
    pub(super) fn replay(&mut self, record: &Record<'_>) -> Result<(), NoSuchHistory> {
        match *record {
            Record::Epoch { epoch, cluster } => {
                self.config.epoch = self.config.epoch.max(epoch.saturating_add(1));
                self.config.cluster = cluster;
            }
            Record::Tokens { below } => {
                if !planted::is(Bug::TokensReused) {
                    self.token_next = self.token_next.max(below);
                }
                self.tokens_reserved = self.token_next;
                self.tokens_asked = self.token_next;
            }
            Record::Submit { task, spec, about, payload } => {
                // One that was forgotten for so long that its id was free again; that had left no record once.
                self.lapse(task);
                if self.tasks.knows(task) {
                    return Err(NoSuchHistory);
                }
                let content = content_digest(spec, about, payload, None);
                let about = About::decode(about).map_err(|_| NoSuchHistory)?;
                self.insert(task, spec, about, content, payload, None);
                self.step(task, TaskStep::Accept)?;
            }
            Record::SubmitLarge { task, spec, about, payload, length, names, homes } => {
                self.lapse(task);
                if self.tasks.knows(task) {
                    return Err(NoSuchHistory);
                }
                let content = content_digest(spec, about, payload, Some((length, names)));
                let about = About::decode(about).map_err(|_| NoSuchHistory)?;
                let last = homes_of(homes).max().unwrap_or(0);
                self.next_home = self.next_home.max(last.saturating_add(1));
                let input = Large::recorded(length, names, homes, &mut self.strays).ok_or(NoSuchHistory)?;
                self.insert(task, spec, about, content, payload, Some(input));
                self.step(task, TaskStep::Accept)?;
            }
            Record::Assign { task, token, attempt, ref worker } => self.replay_assign(task, token, attempt, worker)?,
            Record::Result { task, token, outcome, last: false, .. } => {
                let token = token.ok_or(NoSuchHistory)?;
                self.replay_failed_attempt(task, token, outcome)?;
            }
            Record::Result { task, token, attempt, outcome, last: true, result, streams } => {
                self.step(task, TaskStep::End)?;
                let large = self.returned.remove(&task).filter(|(by, _)| Some(*by) == token);
                let result = large.map_or_else(|| result.into(), |(_, large)| large);
                let input = self.tasks.set_end(task, Ended { outcome, token, attempt, result, streams });
                // That it is gone is one of the next records.
                self.strays.extend(input.into_iter().map(|home| (home, task)));
                let Some(known) = self.tasks.all.get_mut(&task) else { return Err(NoSuchHistory) };
                known.told = true;
                *self.told_as(outcome) += 1;
                self.tasks.set_checkpoint(task, None);
                let Some(known) = self.tasks.all.get(&task) else { return Err(NoSuchHistory) };
                for live in known.live.clone() {
                    self.drop_attempt(live);
                }
            }
            Record::Cancel { task } => {
                self.tasks.all.get_mut(&task).ok_or(NoSuchHistory)?.cancel_requested = true;
            }
            Record::Forget { task } => {
                let ended = self.tasks.all.get(&task).and_then(|known| known.ended.as_ref()).ok_or(NoSuchHistory)?;
                let outcome = ended.outcome;
                *self.told_as(outcome) -= 1;
                let known = self.tasks.remove(task).ok_or(NoSuchHistory)?;
                // That they are gone is the next record.
                self.strays.extend(known.chunks.values().map(|chunk| (chunk.home, task)));
                self.remember(task, known.content, outcome);
            }
            Record::Forgotten { task, content, outcome } => {
                if self.tasks.all.contains_key(&task) {
                    return Err(NoSuchHistory);
                }
                self.remember(task, content, outcome);
            }
            Record::Lapsed { task } => self.lapse(task),
            Record::Output { token, stream, offset, bytes, .. } => self.replay_output(token, stream, offset, bytes)?,
            Record::Checkpoint { task, token, number, bytes } => self.replay_checkpoint(task, token, number, bytes)?,
            Record::Piece { task, home, .. } => {
                self.next_home = self.next_home.max(home.saturating_add(1));
                self.strays.insert(home, task);
            }
            Record::Chunk { task, home, length, name } => self.replay_chunk(task, home, length, name)?,
            Record::Manifest { task, token, number, length, homes } => {
                self.replay_manifest(task, token, number, length, homes)?;
            }
            Record::Unreadable { task } => self.tasks.fall_back(task),
            Record::Gone { task, homes } => self.replay_gone(task, homes),
            Record::Lease { ttl_us, grace_us } => self.recorded_lease = Some(Lease::new(ttl_us, grace_us)),
            Record::Restored { from, below, waits } => self.gone_back(from, below, waits),
        }
        Ok(())
    }

    fn replay_chunk(&mut self, task: TaskId, home: u64, length: u64, name: ChunkName) -> Result<(), NoSuchHistory> {
        if self.tasks.forgotten.contains_key(&task) {
            // Of a task of which nothing else is left: it goes with what has come in part.
            return Ok(());
        }
        let known = self.tasks.all.get(&task).filter(|task| task.ended.is_none()).ok_or(NoSuchHistory)?;
        if !self.strays.contains_key(&home) {
            return Err(NoSuchHistory);
        }
        if known.chunks.contains_key(&name) {
            // Once is enough: this one goes with what has come in part.
            return Ok(());
        }
        self.strays.remove(&home);
        self.tasks.add_chunk(task, name, Chunk { home, length });
        Ok(())
    }

    fn replay_manifest(
        &mut self,
        task: TaskId,
        token: Token,
        number: u64,
        length: u64,
        homes: &[u8],
    ) -> Result<(), NoSuchHistory> {
        let known = self.tasks.all.get(&task).filter(|task| task.ended.is_none()).ok_or(NoSuchHistory)?;
        let by_home: BTreeMap<u64, ChunkName> = known.chunks.iter().map(|(name, chunk)| (chunk.home, *name)).collect();
        let names: Option<Box<[ChunkName]>> = homes_of(homes).map(|home| by_home.get(&home).copied()).collect();
        let names = names.filter(|names| length > 0 && names.len() == chunks(length)).ok_or(NoSuchHistory)?;
        let body = Body::Chunks { length, names };
        if number == RESULT {
            self.returned.insert(task, (token, body));
            return Ok(());
        }
        self.tasks.set_checkpoint(task, Some(Checkpoint { token, number, body }));
        Ok(())
    }

    fn replay_gone(&mut self, task: TaskId, homes: &[u8]) {
        let gone: BTreeSet<u64> = homes_of(homes).collect();
        self.strays.retain(|home, _| !gone.contains(home));
        let chunks = self.tasks.all.get(&task).map(|task| task.chunks.clone()).unwrap_or_default();
        for (name, _) in chunks.into_iter().filter(|(_, chunk)| gone.contains(&chunk.home)) {
            self.tasks.drop_chunk(task, &name);
        }
    }

    /// All records are in: those who hold tasks get their time to come back, and what was cut off is finished
    pub(super) fn recovered(&mut self) {
        let cancelled = self.tasks.all.iter().filter(|(_, t)| t.cancel_requested && t.state == TaskState::Ready);
        for task in cancelled.map(|(id, _)| *id).collect::<Vec<TaskId>>() {
            self.end_task(task, None, Outcome::Cancelled, Default::default(), Default::default());
        }
        self.returned.clear();
        // What came in part comes again; whole chunks may be of use to whoever offers them next.
        for (home, task) in core::mem::take(&mut self.strays) {
            self.chunks_gone(task, alloc::vec![home]);
        }
        let ended = self.tasks.all.iter().filter(|(_, task)| task.ended.is_some() && !task.chunks.is_empty());
        for task in ended.map(|(id, _)| *id).collect::<Vec<TaskId>>() {
            self.drop_chunks(task);
        }
        if let Some(keep) = self.config.forget_after {
            // When they ended is not recorded: they are kept for longer rather than for less.
            let ended = self.tasks.all.iter().filter(|(_, task)| task.ended.is_some());
            for task in ended.map(|(id, _)| *id).collect::<Vec<TaskId>>() {
                self.timers.set(Timer::Forget(task), Some(self.now + keep));
            }
        }
        (self.config.tokens_from, self.submits_from) = (self.token_next, self.tasks.next_order());
        let window = self.config.recovery_window.max(self.config.lost_after);
        let holders = self.roster.iter().filter(|(_, peer)| !peer.held.is_empty()).map(|(ix, _)| ix);
        for ix in holders.collect::<Vec<PeerIx>>() {
            // What runs there does so under a lease that the last epoch may have renewed until a moment ago.
            let leases = self.roster.get(ix).held.iter().filter_map(|token| self.tasks.attempts.get(token)?.lease);
            let wait = leases.map(Lease::wait).max();
            let (now, peer) = (self.now, self.roster.get_mut(ix));
            peer.disconnected_at = Some(now);
            peer.leased_until = wait.map_or(Instant::ZERO, |wait| now + wait);
            peer.withheld_until = peer.leased_until.max(now + window);
            self.watch_absence(ix);
        }
        // The next record of a lease is this epoch's.
        self.recorded_lease = None;
    }

    fn replay_assign(
        &mut self,
        task: TaskId,
        token: Token,
        attempt: u32,
        worker: &PeerName,
    ) -> Result<(), NoSuchHistory> {
        let ix = self.roster.worker_named(worker);
        if token.0 >= self.token_next {
            return Err(NoSuchHistory);
        }
        let known = self.tasks.attempts.get(&token).map(|known| (known.task, known.peer));
        let moved = known.filter(|known| *known != (task, ix));
        if let Some((of, _)) = moved {
            // Absent at its worker, it came back with another one that has its store (SESS-9), or says that it is another
            // task's.
            let was_current = self.tasks.current(of) == Some(token);
            self.drop_attempt(token);
            if was_current {
                self.step(of, TaskStep::Requeue)?;
            }
        }
        let current = self.tasks.current(task);
        if current == Some(token) {
            return Ok(());
        }
        if let Some(earlier) = current {
            // It was lost, given back, or crashed, of which there is no record: it may still deliver, as far as it is
            // there at all.
            self.detach(earlier);
            self.step(task, TaskStep::Requeue)?;
        }
        self.step(task, TaskStep::Assign)?;
        if planted::is(Bug::InFlightTwice) {
            self.step(task, TaskStep::Requeue)?;
        }
        let exclusive = self.tasks.all.get(&task).is_some_and(|task| task.terms.class == Class::Exclusive);
        if exclusive {
            let live = self.tasks.all.get(&task).map(|task| task.live.clone()).unwrap_or_default();
            for other in live.into_iter().filter(|other| *other != token) {
                self.drop_attempt(other);
            }
        }
        if known.is_none() || moved.is_some() {
            self.tasks.give(token, task, ix, attempt);
            self.roster.get_mut(ix).held.insert(token);
        }
        if let Some(new) = self.tasks.attempts.get_mut(&token) {
            // Under a session that is no more: if its worker does not have it, it is lost.
            new.sent_as = Some((SessionId([0; 16]), 0));
            // Given up in an earlier epoch, it was adopted when its worker came back with it (TASK-2).
            new.detached = false;
            new.lease = self.recorded_lease.filter(|_| exclusive);
        }
        Ok(())
    }

    fn replay_failed_attempt(&mut self, task: TaskId, token: Token, outcome: Outcome) -> Result<(), NoSuchHistory> {
        let ended = self.drop_attempt(token).ok_or(NoSuchHistory)?;
        self.tasks.all.get_mut(&task).ok_or(NoSuchHistory)?.concluded.push(token);
        if ended.detached {
            return Ok(());
        }
        if matches!(outcome, Outcome::Failed(_)) {
            self.tasks.all.get_mut(&task).ok_or(NoSuchHistory)?.retries += 1;
        }
        self.step(task, TaskStep::Requeue)
    }

    fn replay_output(&mut self, token: Token, stream: Stream, offset: u64, bytes: &[u8]) -> Result<(), NoSuchHistory> {
        // Of an attempt that is no more it is of no use.
        let Some(attempt) = self.tasks.attempts.get_mut(&token) else { return Ok(()) };
        let incoming = &mut attempt.streams[stream.index()];
        match incoming.arrive(offset, bytes) {
            Piece::New(_) | Piece::Known => incoming.keep(incoming.received()),
            Piece::Gap => return Err(NoSuchHistory),
        }
        Ok(())
    }

    fn replay_checkpoint(
        &mut self,
        task: TaskId,
        token: Token,
        number: u64,
        bytes: &[u8],
    ) -> Result<(), NoSuchHistory> {
        let known = self.tasks.all.get(&task).ok_or(NoSuchHistory)?;
        if known.ended.is_some() {
            return Err(NoSuchHistory);
        }
        let body = Body::Inline(bytes.into());
        self.tasks.set_checkpoint(task, Some(Checkpoint { token, number, body }));
        Ok(())
    }

    /// The time it was forgotten at is not recorded: it is remembered for longer rather than for less
    fn remember(&mut self, task: TaskId, content: [u8; 32], outcome: Outcome) {
        self.tasks.forgotten.insert(task, Remembered { content, outcome });
        self.timers.set(Timer::Retention(task), Some(self.now + self.config.retention));
    }

    fn lapse(&mut self, task: TaskId) {
        self.tasks.forgotten.remove(&task);
        self.timers.set(Timer::Retention(task), None);
    }

    fn detach(&mut self, token: Token) {
        if let Some(attempt) = self.tasks.attempts.get_mut(&token) {
            attempt.detached = true;
        }
    }

    fn step(&mut self, task: TaskId, step: TaskStep) -> Result<(), NoSuchHistory> {
        self.tasks.step(task, step).map(|_: TaskState| ()).ok_or(NoSuchHistory)
    }
}
