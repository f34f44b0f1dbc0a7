//! What attempts have to keep to while the coordinator is out of reach, and when they do not get on (TASK-4, TASK-5, LIVE-4)
//!
//! An exclusive attempt runs under the worker's lease. The lease is counted from the sending of whatever the coordinator
//! answered: M3 of the handshake, and then heartbeats. So this end's count began before the coordinator's did, whatever
//! the network does in between. Once it has ended, what runs is stopped, and what waits goes back: another worker may have
//! it by the time the coordinator is in reach again.

use core::time::Duration;

use crate::ids::Token;
use crate::terms::Conditions;
use crate::time::Instant;
use crate::worker::attempt::{Attempt, AttemptState, AttemptStep};
use crate::worker::seam::StopReason;
use crate::worker::{Desk, Worker};

/// The lease that a worker holds, or has held
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// When it ends, unless it is renewed; exclusive tasks are stopped then
    pub until: Instant,
    /// How much later they must be over
    pub grace: Duration,
}

/// Where the worker stands in time, as far as attempts have to keep to that
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) lease: Option<Tenure>,
    /// Since when the coordinator is out of reach
    cut_off: Option<Instant>,
    /// Since when it is not known whether the lease holds at the other end: this end had not looked for a long time (LIVE-5)
    pub(crate) unsure_since: Option<Instant>,
    /// Attempts that have to keep to anything
    pub(crate) bound: u16,
}

impl Worker {
    /// Returns the lease under which exclusive tasks run, if there has been one (TASK-4)
    ///
    /// Whoever can end tasks that this process cannot, because it stands still, should be told whenever this changes.
    pub fn lease(&self) -> Option<Tenure> {
        self.desk.standing.lease
    }

    /// Whether an attempt runs under the lease
    pub fn is_exclusive(&self, token: Token) -> bool {
        self.desk.attempts.get(&token).is_some_and(|attempt| attempt.conditions.exclusive)
    }
}

impl Desk {
    /// Takes in how things stand with the coordinator, and stops what may not go on
    pub(super) fn keep_conditions(&mut self, now: Instant) {
        if let Some((lease, from)) = self.link.lease() {
            let until = self.standing.lease.map_or(Instant::ZERO, |held| held.until).max(from + lease.ttl);
            self.standing.lease = Some(Tenure { until, grace: lease.grace });
        }
        if self.link.take_stalled() {
            self.standing.unsure_since = Some(now);
        }
        // What was asked since then has been answered.
        if let (Some(unsure_since), Some((_, from))) = (self.standing.unsure_since, self.link.lease())
            && from >= unsure_since
        {
            self.standing.unsure_since = None;
            self.may_start = true;
        }
        if self.link.is_welcomed() {
            self.standing.cut_off = None;
        } else {
            self.standing.cut_off.get_or_insert(now);
        }
        while let Some((token, reason)) = self.to_be_stopped(now) {
            self.stop_by_condition(now, token, reason);
        }
    }

    /// When something has to be stopped next, if nothing is heard until then
    pub(super) fn conditions_deadline(&self) -> Option<Instant> {
        if self.standing.bound == 0 {
            return None;
        }
        self.attempts.values().flat_map(|attempt| self.deadlines(attempt)).map(|(at, _)| at).min()
    }

    /// The next exclusive attempt that is to stand still, or to go on (LIVE-5)
    pub(super) fn next_freeze(&mut self) -> Option<(Token, bool)> {
        if self.standing.bound == 0 {
            return None;
        }
        let unsure = self.standing.unsure_since.is_some();
        let differs = |a: &Attempt| a.state == AttemptState::Running && a.conditions.exclusive && a.frozen != unsure;
        let (token, attempt) = self.attempts.iter_mut().find(|(_, attempt)| differs(attempt))?;
        attempt.frozen = unsure;
        Some((*token, unsure))
    }

    /// An attempt has reported something (LIVE-4)
    pub(super) fn reported(&mut self, now: Instant, token: Token) {
        if let Some(attempt) = self.attempts.get_mut(&token) {
            attempt.reported = now;
        }
    }

    fn to_be_stopped(&self, now: Instant) -> Option<(Token, StopReason)> {
        if self.standing.bound == 0 {
            return None;
        }
        let due = |attempt| self.deadlines(attempt).find(|(at, _)| *at <= now).map(|(_, reason)| reason);
        self.attempts.iter().find_map(|(token, attempt)| Some((*token, due(attempt)?)))
    }

    /// Until when an attempt may go on, by each of the things that it has to keep to
    fn deadlines(&self, attempt: &Attempt) -> impl Iterator<Item = (Instant, StopReason)> + use<> {
        let Conditions { exclusive, self_stop_after_us, progress_timeout_us } = attempt.conditions;
        let span = |us: Option<u64>| us.map(Duration::from_micros);
        let waits = attempt.state == AttemptState::Waiting && !attempt.lapsed;
        let runs = matches!(attempt.state, AttemptState::Starting | AttemptState::Running);
        let lease_end = self.standing.lease.map_or(Instant::ZERO, |lease| lease.until);
        let under_lease = exclusive && !attempt.lapsed && (waits || attempt.state.occupies_slot());
        let cut_off = self.standing.cut_off.filter(|_| waits || runs).zip(span(self_stop_after_us));
        let reports = span(progress_timeout_us).filter(|_| attempt.state == AttemptState::Running);
        let all = [
            under_lease.then_some((lease_end, StopReason::LeaseEnded)),
            cut_off.map(|(since, after)| (since + after, StopReason::CutOff)),
            reports.map(|timeout| (attempt.reported + timeout, StopReason::Stalled)),
        ];
        all.into_iter().flatten()
    }

    fn stop_by_condition(&mut self, now: Instant, token: Token, reason: StopReason) {
        let Some(attempt) = self.attempts.get_mut(&token) else { return };
        attempt.lapsed |= reason != StopReason::Stalled;
        attempt.stalled |= reason == StopReason::Stalled;
        if attempt.state != AttemptState::Waiting {
            // One that is being stopped already is told that it has less time than it may have thought.
            self.step(now, token, AttemptStep::Cancel);
            self.order_stop(token, reason);
        } else if !attempt.unjudged {
            self.give_back(now, token);
        }
    }
}
