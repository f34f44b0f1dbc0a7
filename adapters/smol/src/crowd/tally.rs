//! What the workers of a crowd went through

use std::collections::BTreeMap;
use std::time::Duration;

use super::law::Pauses;

/// Seconds that are kept apart; what comes later counts for the last one
const SECONDS_MAX: usize = 24 * 3600;
/// Times to come back that are kept; those beyond are counted only
const RETURNS_MAX: usize = 1_000_000;
/// Kinds of trouble that are told apart
const TROUBLES_MAX: usize = 16;

/// What happened in one second
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Second {
    /// Dials begun
    pub dials: u32,
    /// Workers welcomed
    pub welcomed: u32,
    /// Dials that ended in a word to come back later: `RETRY_AFTER`, or HTTP 503 (BACK-2)
    pub turned_away: u32,
    /// Dials that failed otherwise
    pub failed: u32,
    /// Connections lost that had been welcomed
    pub lost: u32,
    /// Tasks begun
    pub started: u32,
    /// Tasks that are over
    pub finished: u32,
}

/// What happened to all workers of a crowd so far
#[derive(Clone, Debug)]
pub struct Tally {
    /// How many there are
    pub workers: usize,
    /// How many are welcomed
    pub connected: usize,
    /// How many were welcomed at least once
    pub seen: usize,
    /// How many the coordinator has refused for good
    pub refused: usize,
    /// Sessions that went on where they were
    pub resumed: u64,
    /// Sessions opened
    pub opened: u64,
    /// Second by second, from the crowd's start
    pub seconds: Vec<Second>,
    /// From each loss of a connection to the welcome behind it, in milliseconds
    pub returns_ms: Vec<u32>,
    /// Those for which there was no room
    pub returns_beyond: u64,
    /// Pauses between dials
    pub pauses: Pauses,
    /// Why dials failed, and how often
    pub troubles: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn new(workers: usize) -> Self {
        Tally {
            workers,
            connected: 0,
            seen: 0,
            refused: 0,
            resumed: 0,
            opened: 0,
            seconds: Vec::new(),
            returns_ms: Vec::new(),
            returns_beyond: 0,
            pauses: Pauses::default(),
            troubles: BTreeMap::new(),
        }
    }

    /// The second that a time since the start is in
    pub(super) fn at(&mut self, age: Duration) -> &mut Second {
        let index = usize::try_from(age.as_secs()).map_or(SECONDS_MAX - 1, |second| second.min(SECONDS_MAX - 1));
        if self.seconds.len() <= index {
            self.seconds.resize(index + 1, Second::default());
        }
        &mut self.seconds[index]
    }

    pub(super) fn returned(&mut self, away: Duration) {
        if self.returns_ms.len() < RETURNS_MAX {
            self.returns_ms.push(u32::try_from(away.as_millis()).unwrap_or(u32::MAX));
        } else {
            self.returns_beyond += 1;
        }
    }

    pub(super) fn trouble(&mut self, what: &str) {
        if let Some(count) = self.troubles.get_mut(what) {
            *count += 1;
        } else if self.troubles.len() < TROUBLES_MAX {
            self.troubles.insert(what.into(), 1);
        }
    }

    /// All seconds as one
    pub fn total(&self) -> Total {
        let sum = |of: fn(&Second) -> u32| self.seconds.iter().map(|second| u64::from(of(second))).sum();
        Total {
            dials: sum(|second| second.dials),
            welcomed: sum(|second| second.welcomed),
            turned_away: sum(|second| second.turned_away),
            failed: sum(|second| second.failed),
            lost: sum(|second| second.lost),
            started: sum(|second| second.started),
            finished: sum(|second| second.finished),
        }
    }

    /// The time within which such a share of all returns were over; none if there were none
    pub fn returned_within(&self, percent: usize) -> Option<Duration> {
        let mut all = self.returns_ms.clone();
        all.sort_unstable();
        let index = (all.len() * percent).div_ceil(100).saturating_sub(1);
        all.get(index).map(|ms| Duration::from_millis(u64::from(*ms)))
    }
}

/// The sums of [`Second`]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Dials begun
    pub dials: u64,
    /// Workers welcomed
    pub welcomed: u64,
    /// Dials that ended in a word to come back later
    pub turned_away: u64,
    /// Dials that failed otherwise
    pub failed: u64,
    /// Connections lost that had been welcomed
    pub lost: u64,
    /// Tasks begun
    pub started: u64,
    /// Tasks that are over
    pub finished: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_add_up_and_late_ones_count_for_the_last() {
        let mut tally = Tally::new(1);
        tally.at(Duration::from_millis(1_500)).dials += 2;
        tally.at(Duration::from_secs(10 * 24 * 3600)).dials += 1;
        tally.at(Duration::MAX).dials += 1;
        assert_eq!((tally.seconds.len(), tally.seconds[1].dials), (SECONDS_MAX, 2));
        assert_eq!(tally.total().dials, 4);
    }

    #[test]
    fn the_share_that_is_back_is_the_slowest_of_it() {
        let mut tally = Tally::new(1);
        assert_eq!(tally.returned_within(99), None);
        (1..=200).for_each(|ms| tally.returned(Duration::from_millis(ms)));
        let within = |percent| tally.returned_within(percent).map(|time| time.as_millis());
        assert_eq!([within(1), within(50), within(99), within(100)], [Some(2), Some(100), Some(198), Some(200)]);
    }

    #[test]
    fn only_so_many_kinds_of_trouble_are_told_apart() {
        let mut tally = Tally::new(1);
        (0..100).for_each(|n| tally.trouble(&n.to_string()));
        tally.trouble("0");
        assert_eq!((tally.troubles.len(), tally.troubles["0"]), (TROUBLES_MAX, 2));
    }
}
