//! Where two runs part: the first event that differs

use std::fmt;

use crate::recorded::{Recorded, Step};
use crate::schedule::Schedule;
use crate::swarm::Failure;

/// Events shown in front of the one that differs
const BEFORE: usize = 5;

/// The first event that two runs do not have in common
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Which event, from 1
    pub number: usize,
    /// The last that they have in common
    pub before: Vec<Step>,
    /// What happens in the first run; none if that is over
    pub first: Option<Step>,
    /// What happens in the second run; none if that is over
    pub second: Option<Step>,
}

/// The first event that differs; none if all are the same
pub fn first_difference(first: &[Step], second: &[Step]) -> Option<Difference> {
    let same = first.iter().zip(second).take_while(|(one, other)| one == other).count();
    let (one, other) = (first.get(same).cloned(), second.get(same).cloned());
    if one.is_none() && other.is_none() {
        return None;
    }
    let before = first[same.saturating_sub(BEFORE)..same].to_vec();
    Some(Difference { number: same + 1, before, first: one, second: other })
}

/// Two runs, and where they part
pub struct Compared {
    /// Events of the first run and of the second
    pub events: [usize; 2],
    /// Their fingerprints
    pub hashes: [u64; 2],
    /// Where they part, if they do
    pub difference: Option<Difference>,
}

/// Runs two schedules, or one twice
pub fn diff(first: &Schedule, second: &Schedule) -> Result<Compared, Failure> {
    let [one, other] = [Recorded::run(first, None)?, Recorded::run(second, None)?];
    Ok(Compared {
        events: [one.steps().len(), other.steps().len()],
        hashes: [one.simulation.hash(), other.simulation.hash()],
        difference: first_difference(one.steps(), other.steps()),
    })
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.number - self.before.len();
        for (number, (at, _, told)) in (first..).zip(&self.before) {
            writeln!(f, "both    #{number} {at:?} {told}")?;
        }
        for (run, step) in [("first", &self.first), ("second", &self.second)] {
            match step {
                Some((at, _, told)) => writeln!(f, "{run:<7} #{} {at:?} {told}", self.number)?,
                None => writeln!(f, "{run:<7} #{} nothing any more", self.number)?,
            }
        }
        if let (Some(one), Some(other)) = (&self.first, &self.second)
            && (one.0, &one.2) == (other.0, &other.2)
        {
            writeln!(
                f,
                "        the same in words: the bytes of a message, or the digest of a machine's state, differ"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rejoin_core::Instant;

    use super::*;
    use crate::generate::{Profile, generate};
    use crate::schedule::{Node, What};
    use crate::trace::Told;

    fn steps(hashes: &[u64]) -> Vec<Step> {
        let step = |(n, hash): (usize, &u64)| (Instant::from_micros(n as u64), *hash, Told::Woken(Node::Coordinator));
        hashes.iter().enumerate().map(step).collect()
    }

    #[test]
    fn the_first_that_differs_is_named_with_the_few_before() {
        let all = steps(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(first_difference(&all, &all), None);
        let found = first_difference(&all, &steps(&[1, 2, 3, 4, 5, 6, 9, 8])).unwrap();
        assert_eq!((found.number, found.before.as_slice()), (7, &all[1..6]));
        assert!(found.to_string().contains("the same in words"), "{found}");
        let found = first_difference(&all[..2], &all).unwrap();
        assert_eq!((found.number, found.first.is_none()), (3, true));
        assert!(found.to_string().contains("first   #3 nothing any more"), "{found}");
    }

    #[test]
    fn runs_without_a_fault_part_where_that_fault_strikes() {
        let mut schedules = (0..100).map(|seed| generate(seed, Profile::Standard));
        let schedule = schedules.find(|schedule| schedule.faults() > 0).unwrap();
        assert!(diff(&schedule, &schedule).unwrap().difference.is_none());
        let mut other = schedule.clone();
        let index = other.entries.iter().position(|entry| matches!(entry.what, What::Fault(_))).unwrap();
        let fault = other.entries.remove(index);
        let compared = diff(&schedule, &other).unwrap();
        let difference = compared.difference.unwrap();
        assert_ne!(compared.hashes[0], compared.hashes[1]);
        let (at, _, told) = difference.first.unwrap();
        assert!(at.as_micros() == fault.at.as_micros() as u64 && matches!(told, Told::Fault(..)), "{at:?} {told}");
    }
}
