//! The terms of a task: what may happen to it when its worker is out of reach (TASK-4, TASK-5, LIVE-4)

use core::fmt;
use core::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::TERM_MAX;
use crate::time::micros;

/// What a submitter wants to happen to a task whose worker is out of reach, or that does not get on
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Terms {
    /// What executing it twice, or twice at a time, would do
    pub class: Class,
    /// From the end of its worker's connection to being lost; `None` is the coordinator's choice
    pub lost_after: Option<Span>,
    /// Whether and when another attempt takes the place of one whose worker is away
    pub replace: Replace,
    /// What becomes of an attempt that was replaced and whose worker comes back
    pub on_return: OnReturn,
    /// A worker that has been cut off for so long stops it by itself
    pub self_stop_after: Option<Span>,
    /// An attempt that has reported nothing for so long is stopped, and has failed (LIVE-4)
    pub progress_timeout: Option<Span>,
}

/// What executing a task twice would do (TASK-4)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Nothing: it acts upon nothing, so that it may be given out again early
    Pure,
    /// No harm: the second execution leaves things as the first one did
    #[default]
    Idempotent,
    /// Harm, if both happen at a time: an attempt runs under a lease, and the next one waits for that to end
    Exclusive,
}

/// Whether another attempt takes the place of one whose worker is away (TASK-5)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Replace {
    /// No: a task that is lost has failed
    Never,
    /// Once its worker is lost for it
    #[default]
    WhenLost,
    /// So long after the end of its worker's connection
    After(Span),
}

/// What becomes of an attempt that was replaced and whose worker comes back (TASK-5)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OnReturn {
    /// Both go on, and the first durable result counts
    #[default]
    FirstResult,
    /// It is stopped, unless it has ended already
    KeepReplacement,
}

/// A time in whole microseconds, above 0 and at most [`TERM_MAX`]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Span(u64);

impl Span {
    /// As a duration
    pub const fn get(self) -> Duration {
        Duration::from_micros(self.0)
    }

    fn is_legal(self) -> bool {
        (1..=micros(TERM_MAX)).contains(&self.0)
    }
}

impl TryFrom<Duration> for Span {
    type Error = BadTerms;

    fn try_from(span: Duration) -> Result<Span, BadTerms> {
        Some(Span(micros(span))).filter(|span| span.is_legal()).ok_or(BadTerms::Time)
    }
}

/// Terms that contradict each other
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadTerms {
    /// A time is zero, or longer than [`TERM_MAX`]
    Time,
    /// There is to be no replacement, and it is to be kept
    NoReplacementToKeep,
    /// Two times say when the task is given to another worker
    LostAndReplaced,
    /// The worker stops the task later than another one may have it
    StopsTooLate,
    /// Another worker would have it while the lease of the first one may last
    WithinLease,
}

impl fmt::Display for BadTerms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BadTerms::Time => "a time is above 0 and at most 365 days",
            BadTerms::NoReplacementToKeep => {
                "a task that is never replaced has no replacement to keep: leave out --on-return, or let it be replaced"
            }
            BadTerms::LostAndReplaced => {
                "a task that is replaced after a time of its own is not replaced when it is lost: leave out --lost-after, \
                 or replace it when it is lost"
            }
            BadTerms::StopsTooLate => {
                "an exclusive task must be stopped before another worker has it: let self-stop-after be shorter than the \
                 time after which it is replaced"
            }
            BadTerms::WithinLease => {
                "an exclusive task can be replaced only when the lease of its worker has ended: let lost-after, or the \
                 time after which it is replaced, be longer, or make the coordinator's lease shorter"
            }
        })
    }
}

impl core::error::Error for BadTerms {}

impl Terms {
    /// Whether they contradict each other, as far as that does not depend on the coordinator's settings
    pub fn validate(&self) -> Result<(), BadTerms> {
        let after = match self.replace {
            Replace::After(span) => Some(span),
            Replace::Never | Replace::WhenLost => None,
        };
        let times = [self.lost_after, after, self.self_stop_after, self.progress_timeout];
        if !times.into_iter().flatten().all(Span::is_legal) {
            return Err(BadTerms::Time);
        }
        if self.replace == Replace::Never && self.on_return == OnReturn::KeepReplacement {
            return Err(BadTerms::NoReplacementToKeep);
        }
        if after.is_some() && self.lost_after.is_some() {
            return Err(BadTerms::LostAndReplaced);
        }
        let given_up = after.or(self.lost_after);
        let too_late = |stop: Span| given_up.is_some_and(|given_up| stop >= given_up);
        if self.class == Class::Exclusive && self.self_stop_after.is_some_and(too_late) {
            return Err(BadTerms::StopsTooLate);
        }
        Ok(())
    }

    /// Whether they contradict the coordinator's settings
    pub(crate) fn agree_with(&self, lost_after: Duration, lease_wait: Duration) -> Result<(), BadTerms> {
        if self.class != Class::Exclusive {
            return Ok(());
        }
        let chosen = self.lost_after.is_some() || matches!(self.replace, Replace::After(_));
        let given_up = self.given_up_after(lost_after);
        if chosen && given_up < lease_wait {
            return Err(BadTerms::WithinLease);
        }
        if self.self_stop_after.is_some_and(|stop| stop.get() >= given_up.max(lease_wait)) {
            return Err(BadTerms::StopsTooLate);
        }
        Ok(())
    }

    /// How long its worker may be away until the task is given up there, where workers are lost after a time by default
    ///
    /// A pure task is given out again sooner: doing it twice costs work and nothing else (TASK-4).
    pub fn given_up_after(&self, lost_after: Duration) -> Duration {
        match (self.replace, self.lost_after) {
            (Replace::After(span), _) | (Replace::Never | Replace::WhenLost, Some(span)) => span.get(),
            (Replace::Never | Replace::WhenLost, None) if self.class == Class::Pure => {
                (lost_after / 4).max(PURE_LOST_AFTER_MIN).min(lost_after)
            }
            (Replace::Never | Replace::WhenLost, None) => lost_after,
        }
    }

    /// What a worker has to know of them; `None` if nothing
    pub(crate) fn at_worker(&self) -> Option<Conditions> {
        let exclusive = self.class == Class::Exclusive;
        let conditions = Conditions {
            exclusive,
            self_stop_after_us: self.self_stop_after.map(|span| span.0),
            progress_timeout_us: self.progress_timeout.map(|span| span.0),
        };
        (conditions != Conditions::default()).then_some(conditions)
    }
}

/// A pure task's worker may be away for so long at least, unless its terms say otherwise
pub(crate) const PURE_LOST_AFTER_MIN: Duration = Duration::from_secs(3);

/// What a worker has to keep to when it runs a task (TASK-4, TASK-5, LIVE-4)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Conditions {
    /// It starts and runs only under the worker's lease
    pub exclusive: bool,
    /// It is stopped when the worker has been cut off for so many microseconds
    pub self_stop_after_us: Option<u64>,
    /// It is stopped, and has failed, when it has reported nothing for so many microseconds
    pub progress_timeout_us: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    fn span(seconds: u64) -> Span {
        Duration::from_secs(seconds).try_into().unwrap()
    }

    #[test]
    fn task_5_contradictory_terms_are_refused_with_what_to_change() {
        let plain = Terms::default();
        let exclusive = Terms { class: Class::Exclusive, ..plain };
        let stops = |terms: Terms, seconds| Terms { self_stop_after: Some(span(seconds)), ..terms };
        for (terms, bad) in [
            (plain, None),
            (exclusive, None),
            (Terms { replace: Replace::Never, ..plain }, None),
            (Terms { replace: Replace::Never, lost_after: Some(span(5)), ..plain }, None),
            (Terms { on_return: OnReturn::KeepReplacement, ..plain }, None),
            (
                Terms { replace: Replace::Never, on_return: OnReturn::KeepReplacement, ..plain },
                Some(BadTerms::NoReplacementToKeep),
            ),
            (
                Terms { replace: Replace::After(span(9)), lost_after: Some(span(5)), ..plain },
                Some(BadTerms::LostAndReplaced),
            ),
            (stops(Terms { replace: Replace::After(span(9)), ..plain }, 9), None),
            (stops(Terms { replace: Replace::After(span(9)), ..exclusive }, 8), None),
            (stops(Terms { replace: Replace::After(span(9)), ..exclusive }, 9), Some(BadTerms::StopsTooLate)),
            (stops(Terms { lost_after: Some(span(9)), ..exclusive }, 60), Some(BadTerms::StopsTooLate)),
            (Terms { progress_timeout: Some(Span(0)), ..plain }, Some(BadTerms::Time)),
            (Terms { lost_after: Some(Span(u64::MAX)), ..plain }, Some(BadTerms::Time)),
        ] {
            assert_eq!(terms.validate().err(), bad, "{terms:?}");
        }
        assert_eq!(Span::try_from(Duration::ZERO), Err(BadTerms::Time));
        assert_eq!(Span::try_from(TERM_MAX + Duration::from_secs(1)), Err(BadTerms::Time));
        assert!(format!("{}", BadTerms::NoReplacementToKeep).contains("leave out --on-return"));
    }

    #[test]
    fn task_4_an_exclusive_task_is_not_given_up_within_a_lease() {
        let (lost_after, wait) = (Duration::from_secs(60), Duration::from_secs(43));
        let exclusive = Terms { class: Class::Exclusive, ..Terms::default() };
        let lost = |seconds| Terms { lost_after: Some(span(seconds)), ..exclusive };
        let after = |seconds| Terms { replace: Replace::After(span(seconds)), ..exclusive };
        let stops = |seconds| Terms { self_stop_after: Some(span(seconds)), ..exclusive };
        for (terms, bad) in [
            (exclusive, None),
            (lost(42), Some(BadTerms::WithinLease)),
            (lost(43), None),
            (after(42), Some(BadTerms::WithinLease)),
            (Terms { class: Class::Pure, ..after(1) }, None),
            (stops(59), None),
            (stops(60), Some(BadTerms::StopsTooLate)),
        ] {
            assert_eq!(terms.agree_with(lost_after, wait).err(), bad, "{terms:?}");
        }
        // Where workers are lost sooner than leases end, the lease is waited for, and nobody has chosen otherwise.
        assert_eq!(exclusive.agree_with(Duration::from_secs(4), wait), Ok(()));
    }

    #[test]
    fn task_4_a_pure_task_is_given_up_sooner_by_a_stated_law() {
        let pure = Terms { class: Class::Pure, ..Terms::default() };
        let seconds = |terms: Terms, lost: u64| terms.given_up_after(Duration::from_secs(lost)).as_secs();
        assert_eq!([60, 8, 2, 0].map(|lost| seconds(pure, lost)), [15, 3, 2, 0]);
        assert_eq!(seconds(Terms { lost_after: Some(span(1)), ..pure }, 60), 1, "unless its terms say otherwise");
        assert_eq!(seconds(Terms { replace: Replace::After(span(90)), ..pure }, 60), 90);
        assert_eq!(seconds(Terms::default(), 60), 60);
    }
}
