//! Workers that are away: when each of their tasks is given up, and what exclusive ones wait for (TASK-4, TASK-5)
//!
//! A worker has one timer for all that it holds: it fires when the first of its tasks is to be given up, and is set again
//! for the next.
//!
//! An exclusive attempt runs under its worker's lease, which this end counts from the receipt of whatever it answers. One
//! that was lost without a word may run until that lease has ended: until then its task pauses, and the next attempt
//! retires the token of the last.

use alloc::vec::Vec;
use core::time::Duration;

use crate::ids::{ConnId, Role, TaskId, Token};
use crate::journal::Record;
use crate::lease::Lease;
use crate::limits::{PROBE_TIME, TERMS_SINCE};
use crate::terms::{Class, OnReturn, Replace};
use crate::time::{Instant, earliest, micros};
use crate::wire::message::{CancelReason, Failure, Outcome};

use super::entry::Conn;
use super::gate::Effect;
use super::peers::{Peer, PeerIx, Sent};
use super::tasks::{TaskState, TaskStep};
use super::{Desk, Event, Timer};

/// Shortest lease, unless a setting says otherwise
const LEASE_TTL: Duration = Duration::from_secs(30);

impl Desk {
    // Leases.

    /// The lease that a session gets which opens now
    pub(super) fn lease(&self) -> Lease {
        let ttl = self.config.lease_ttl.unwrap_or(LEASE_TTL).max(self.heartbeat() * 3);
        Lease { ttl, grace: self.config.lease_grace }
    }

    /// Something is answered that renews the lease of a worker
    pub(super) fn renew_lease(&mut self, ix: PeerIx) {
        let now = self.now;
        let peer = self.roster.get_mut(ix);
        if let Some(lease) = peer.session.as_ref().and_then(|session| session.lease) {
            peer.leased_until = peer.leased_until.max(now + lease.wait());
        }
    }

    /// Whether the worker's connection speaks of leases and terms (FRAME-6)
    pub(super) fn knows_terms(&self, ix: PeerIx) -> bool {
        self.version_of(ix) >= TERMS_SINCE
    }

    /// Writes down under which lease exclusive attempts are given out from here on, if that is news
    pub(super) fn record_lease(&mut self, ix: PeerIx) {
        let lease = self.roster.get(ix).session.as_ref().and_then(|session| session.lease);
        if lease.is_some() && lease != self.recorded_lease {
            self.recorded_lease = lease;
            let Some(Lease { ttl, grace }) = lease else { return };
            self.gate.write(&Record::Lease { ttl_us: micros(ttl), grace_us: micros(grace) });
        }
    }

    /// An attempt was lost, and may still run at its worker
    pub(super) fn may_still_run(&mut self, id: TaskId, ix: PeerIx) {
        let until = self.roster.get(ix).leased_until;
        let task = self.tasks.all.get_mut(&id).filter(|task| task.terms.class == Class::Exclusive);
        if let Some(task) = task
            && task.leased.is_none_or(|(known, _)| known < until)
        {
            task.leased = Some((until, ix));
        }
    }

    /// Another attempt of an exclusive task begins: those before it count no more (TASK-3)
    pub(super) fn retire_others(&mut self, id: TaskId) {
        let Some(task) = self.tasks.all.get_mut(&id).filter(|task| task.terms.class == Class::Exclusive) else {
            return;
        };
        task.leased = None;
        for token in task.live.clone() {
            self.part_with(token);
            if let Some(attempt) = self.drop_attempt(token) {
                self.say(attempt.peer, Sent::Cancel(token, CancelReason::Replaced));
            }
        }
    }

    /// Whose lease a task waits for
    pub(super) fn waits_for_lease(&self, id: TaskId) -> Option<PeerIx> {
        let task = self.tasks.all.get(&id).filter(|task| task.state == TaskState::Backoff)?;
        task.leased.filter(|(until, _)| *until > self.now).map(|(_, ix)| ix)
    }

    /// This end comes so late to what was due that it has not looked for a long time: nobody is lost for that (LIVE-5)
    ///
    /// Whoever was away has as long as was left, and one heartbeat at least; of each connection its own watch sees to that. Leases
    /// go on: they are there for whoever does not look.
    pub(super) fn excuse_what_was_missed(&mut self) {
        let Some(late) = self.timers.next().map(|due| self.now.since(due)) else { return };
        let beat = self.heartbeat();
        if late <= beat * 2 {
            return;
        }
        self.stats.stalls += 1;
        let seen = self.now - late;
        let away = |(_, peer): &(PeerIx, &Peer)| peer.role == Role::Worker && peer.conn.is_none();
        for ix in self.roster.iter().filter(away).map(|(ix, _)| ix).collect::<Vec<_>>() {
            let (now, peer) = (self.now, self.roster.get_mut(ix));
            peer.disconnected_at = peer.disconnected_at.map(|at| (at + late).min(now));
            if peer.withheld_until > seen {
                peer.withheld_until = peer.withheld_until + late;
            }
            peer.withheld_until = peer.withheld_until.max(now + beat);
            self.watch_absence(ix);
        }
        let waits = |conn: &ConnId| matches!(self.conns.get(conn), Some(Conn::Contending(_)));
        for conn in self.conns.keys().copied().filter(waits).collect::<Vec<_>>() {
            self.timers.set(Timer::Contender(conn), Some(self.now + PROBE_TIME));
        }
    }

    // Losses.

    /// When an attempt is given up, if its worker stays away
    fn given_up_at(&self, ix: PeerIx, token: Token) -> Option<Instant> {
        let attempt = self.tasks.attempts.get(&token).filter(|attempt| !attempt.detached)?;
        let terms = self.tasks.all.get(&attempt.task)?.terms;
        self.lost_at(ix, terms.given_up_after(self.config.lost_after))
    }

    /// When a worker that is away has been so for so long
    fn lost_at(&self, ix: PeerIx, after: Duration) -> Option<Instant> {
        let peer = self.roster.get(ix);
        let since = peer.disconnected_at.filter(|_| peer.conn.is_none())?;
        // Whoever has no key any more is not waited for (AUTH-6).
        Some(if self.roster.may_come_back(ix) { (since + after).max(peer.withheld_until) } else { since })
    }

    /// Sets the timer for the first thing that a worker's absence leads to
    pub(super) fn watch_absence(&mut self, ix: PeerIx) {
        let peer = self.roster.get(ix);
        if peer.role != Role::Worker {
            return;
        }
        let lost = if peer.lost { None } else { self.lost_at(ix, self.config.lost_after) };
        let first = peer.held.iter().filter_map(|token| self.given_up_at(ix, *token)).min();
        self.timers.set(Timer::Lost(ix), earliest(lost, first));
    }

    /// A worker has been away for too long, for some of its tasks or for all (TASK-3, TASK-5)
    pub(super) fn absence_due(&mut self, ix: PeerIx) {
        let now = self.now;
        if self.away_for().is_some() {
            // They were sent away: who is lost is the next coordinator's to say (BACK-3).
            return;
        }
        if let Some(at) = self.delayed_until(ix) {
            return self.timers.set(Timer::Lost(ix), Some(at));
        }
        if !self.roster.get(ix).lost && self.lost_at(ix, self.config.lost_after).is_some_and(|at| at <= now) {
            let peer = self.roster.get_mut(ix);
            peer.lost = true;
            self.events.push_back(Event::Lost { peer: peer.name.clone() });
            self.count_failure();
        }
        for token in self.roster.get(ix).held.clone() {
            if self.given_up_at(ix, token).is_some_and(|at| at <= now) {
                self.give_up(token);
            }
        }
        self.watch_absence(ix);
    }

    /// Nobody waits for an attempt any more; it may still deliver (TASK-3)
    fn give_up(&mut self, token: Token) {
        let Some(attempt) = self.tasks.attempts.get_mut(&token) else { return };
        attempt.detached = true;
        let (task, ix) = (attempt.task, attempt.peer);
        self.drop_upload(token);
        self.stats.lost_attempts += 1;
        self.schedule.not_recalled(token);
        self.may_still_run(task, ix);
        self.again_after_loss(task);
    }

    /// A task's attempt was lost with its worker: what follows, if anything
    pub(super) fn again_after_loss(&mut self, id: TaskId) {
        let Some(task) = self.tasks.all.get_mut(&id) else { return };
        task.losses += 1;
        let hopeless = task.losses >= self.config.losses_max || task.terms.replace == Replace::Never;
        if task.cancel_requested {
            self.end_task(id, None, Outcome::Cancelled, Default::default(), Default::default());
        } else if hopeless {
            self.end_task(id, None, Outcome::Failed(Failure::WorkerLost), Default::default(), Default::default());
        } else {
            match task.leased.map(|(until, _)| until).filter(|until| *until > self.now) {
                Some(until) => {
                    self.tasks.step(id, TaskStep::Retry);
                    self.timers.set(Timer::Retry(id), Some(until));
                    self.story.note(self.now, id, None, "waits for a lease to end");
                }
                None => {
                    self.tasks.step(id, TaskStep::Requeue);
                }
            }
            self.story.note(self.now, id, None, "lost with its worker");
            self.gate.then(Effect::Event(Event::Again { task: id }));
        }
    }

    // The way back.

    /// A worker is back: its tasks are its own again, as far as nobody else has them
    pub(super) fn welcome_back(&mut self, ix: PeerIx) {
        let peer = self.roster.get_mut(ix);
        peer.lost = false;
        for token in peer.held.clone() {
            self.take_back(token);
            self.yield_to_replacement(token);
        }
    }

    /// An attempt that nobody waited for any more is there after all
    pub(super) fn take_back(&mut self, token: Token) {
        let Some(attempt) = self.tasks.attempts.get(&token).filter(|attempt| attempt.detached) else { return };
        let task = attempt.task;
        if self.tasks.current(task).is_none() && self.tasks.step(task, TaskStep::Adopt).is_some() {
            self.timers.set(Timer::Retry(task), None);
            if let Some(attempt) = self.tasks.attempts.get_mut(&token) {
                attempt.detached = false;
            }
            if let Some(known) = self.tasks.all.get_mut(&task) {
                known.leased = None;
            }
            self.story.note(self.now, task, Some(token), "taken back");
        }
    }

    /// An attempt that was replaced is stopped, if its task is to keep the replacement (TASK-5)
    ///
    /// Its token stays live: what it has finished already is worth more than what a replacement may still finish.
    pub(super) fn yield_to_replacement(&mut self, token: Token) {
        let Some(attempt) = self.tasks.attempts.get(&token).filter(|attempt| attempt.detached) else { return };
        let (ix, task) = (attempt.peer, self.tasks.all.get(&attempt.task));
        if task.is_some_and(|task| task.terms.on_return == OnReturn::KeepReplacement) {
            self.say(ix, Sent::Cancel(token, CancelReason::Replaced));
        }
    }
}
