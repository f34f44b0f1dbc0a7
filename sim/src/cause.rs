//! The point of no return: which fault tips a schedule that fails, and until when healing still helps
//!
//! The faults of a schedule are taken in the order of time, and the first so many kept: the smallest number with which it
//! still fails alike names the fault that tips it. Whether fewer do is tried as well, because a fault may hide what those
//! before it have done. Then the end of faults is moved, to see until when it would have helped.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rejoin_core::ids::TaskId;

use crate::recorded::{Recorded, Step};
use crate::schedule::{Entry, Node, Schedule, What};
use crate::shrink::Mark;
use crate::swarm::Failure;
use crate::trace::Told;

/// How exactly the moment is sought until which healing helps
const GRAIN: Duration = Duration::from_millis(1);

/// Why a schedule fails
pub struct Cause {
    /// How it fails
    pub mark: Mark,
    /// How many of its first faults it takes; 0 if it fails without any
    pub enough: usize,
    /// The schedule with these only
    pub schedule: Schedule,
    /// The last of them, which tips it
    pub fault: Option<Entry>,
    /// Healing everything then saves it, and then not any more; none if nothing behind the fault helps
    pub healing: Option<(Duration, Duration)>,
    /// With so many of its first faults, more than enough, it does not fail
    pub undone: Vec<usize>,
    /// How many numbers of first faults there was no time to try
    pub untried: usize,
    /// Schedules tried
    pub tried: u64,
    /// The run with these faults only
    pub run: Recorded,
}

/// Looks for the cause, for so long; `None` if the schedule does not fail
pub fn cause(schedule: &Schedule, budget: Duration) -> Option<Cause> {
    let mark = Mark::of(schedule, false)?;
    let alike = |candidate: &Schedule| Mark::of(candidate, false) == Some(mark);
    let mut seeker = Seeker { schedule, alike, until: Instant::now() + budget, tried: 1 };
    let all = schedule.faults();
    let mut enough = seeker.bisect(all);
    let (fewer, mut untried) = seeker.first_failing(enough);
    enough = fewer.unwrap_or(enough);
    let kept = with_first(schedule, enough);
    let fault = kept.entries.iter().rfind(|entry| is_fault(entry)).cloned();
    let run = Recorded::run(&kept, None).ok()?;
    let ended = Duration::from_micros(run.simulation.now().as_micros());
    let healing = fault.as_ref().and_then(|fault| seeker.healing(&kept, fault.at, ended));
    let (undone, longer_untried) = seeker.undone(enough, all);
    untried += longer_untried;
    let tried = seeker.tried;
    Some(Cause { mark, enough, schedule: kept, fault, healing, undone, untried, tried, run })
}

fn is_fault(entry: &Entry) -> bool {
    matches!(entry.what, What::Fault(_))
}

/// A schedule with its first faults only
fn with_first(schedule: &Schedule, count: usize) -> Schedule {
    let mut kept = schedule.clone();
    let mut left = count;
    kept.entries.retain(|entry| {
        let stays = !is_fault(entry) || left > 0;
        left -= usize::from(stays && is_fault(entry));
        stays
    });
    kept
}

struct Seeker<'a, F> {
    schedule: &'a Schedule,
    /// Whether one fails as the whole does
    alike: F,
    until: Instant,
    tried: u64,
}

impl<F: FnMut(&Schedule) -> bool> Seeker<'_, F> {
    /// Whether it fails alike; `None` once the time is over
    fn fails(&mut self, candidate: &Schedule) -> Option<bool> {
        if Instant::now() >= self.until {
            return None;
        }
        self.tried += 1;
        Some((self.alike)(candidate))
    }

    /// A number of first faults with which it fails, where one less does not
    fn bisect(&mut self, all: usize) -> usize {
        if all == 0 || self.fails(&with_first(self.schedule, 0)) == Some(true) {
            return 0;
        }
        let (mut too_few, mut enough) = (0, all);
        while enough - too_few > 1 {
            let middle = too_few + (enough - too_few) / 2;
            match self.fails(&with_first(self.schedule, middle)) {
                Some(true) => enough = middle,
                Some(false) => too_few = middle,
                None => break,
            }
        }
        enough
    }

    /// The smallest number below with which it fails after all, and how many could not be tried
    fn first_failing(&mut self, below: usize) -> (Option<usize>, usize) {
        for count in 1..below {
            match self.fails(&with_first(self.schedule, count)) {
                Some(true) => return (Some(count), 0),
                Some(false) => {}
                None => return (None, below - count),
            }
        }
        (None, 0)
    }

    /// Larger numbers with which it does not fail, and how many could not be tried
    fn undone(&mut self, enough: usize, all: usize) -> (Vec<usize>, usize) {
        let mut undone = Vec::new();
        for count in enough + 1..all {
            match self.fails(&with_first(self.schedule, count)) {
                Some(true) => {}
                Some(false) => undone.push(count),
                None => return (undone, all - count),
            }
        }
        (undone, 0)
    }

    /// Until when healing everything saves it, and from when on it does not
    fn healing(&mut self, kept: &Schedule, fault: Duration, ended: Duration) -> Option<(Duration, Duration)> {
        let healed_at = |safety: Duration| Schedule { safety, ..kept.clone() };
        if self.fails(&healed_at(fault))? {
            return None;
        }
        let (mut saved, mut lost) = (fault, kept.safety.min(ended.max(fault)));
        while lost.saturating_sub(saved) > GRAIN {
            let middle = saved + (lost - saved) / 2;
            match self.fails(&healed_at(middle)) {
                Some(true) => lost = middle,
                Some(false) => saved = middle,
                None => break,
            }
        }
        Some((saved, lost))
    }
}

impl Cause {
    /// The step in which the fault strikes
    fn struck(&self) -> Option<usize> {
        let faults = self.run.steps().iter().enumerate().filter(|(_, step)| matches!(step.2, Told::Fault(..)));
        faults.map(|(index, _)| index).nth(self.enough.checked_sub(1)?)
    }

    /// How long it takes from the fault to the failure
    pub fn takes(&self) -> Option<Duration> {
        let struck = self.run.steps()[self.struck()?].0;
        Some(self.run.simulation.now().since(struck))
    }

    /// What happens from the fault on to those whom the failure is about, with its numbers
    pub fn events(&self) -> Vec<(usize, &Step)> {
        let steps = self.run.steps();
        let from = self.struck().unwrap_or(0);
        let whom = self.concerned();
        let about = |told: &Told| match told {
            Told::Woken(_) => false,
            // To the coordinator everybody talks.
            Told::Sent { .. } | Told::Received { .. } => told.nodes().any(|node| whom.contains(&node)),
            Told::Dialled(..)
            | Told::Opened { .. }
            | Told::HungUp(..)
            | Told::Lost(..)
            | Told::Started(_)
            | Told::Died(_)
            | Told::Task { .. }
            | Told::Note(..)
            | Told::Fault(_) => told.nodes().any(|node| node == Node::Coordinator || whom.contains(&node)),
            Told::Durable { .. } | Told::Phase(_) => true,
        };
        (from + 1..).zip(&steps[from..]).filter(|(_, (_, _, told))| about(told)).collect()
    }

    /// Workers and clients whom the failure is about: struck, named, or with the task that is
    fn concerned(&self) -> BTreeSet<Node> {
        let mut whom = BTreeSet::new();
        if let Some(Entry { what: What::Fault(fault), .. }) = &self.fault {
            whom.insert(fault.node);
        }
        if let Some(Failure::Violation(violation)) = &self.run.failure {
            let words = violation.what.split(|c: char| !c.is_ascii_alphanumeric());
            whom.extend(words.filter_map(|word| word.parse::<Node>().ok()));
            let tasks = self.schedule.entries.iter().filter_map(|entry| match entry.what {
                What::Submit(task) => Some(task),
                What::Cancel { .. } | What::Again { .. } | What::Clash { .. } | What::Fault(_) => None,
            });
            for task in tasks {
                if violation.task != Some(TaskId::from_text(&format!("task {}", task.number))) {
                    continue;
                }
                whom.insert(Node::Client(task.client % self.schedule.clients));
                let its = |told: &&Told| matches!(told, Told::Task { task: number, .. } if *number == task.number);
                whom.extend(self.run.steps().iter().map(|(_, _, told)| told).filter(its).flat_map(Told::nodes));
            }
        }
        whom.remove(&Node::Coordinator);
        whom
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One fault a second on ten workers
    fn schedule() -> Schedule {
        let lines: String = (0..10).map(|n| format!("{}.0 crash w{n}\n", n + 1)).collect();
        format!("rejoin schedule 1\nworkers 10\nsafety 30.0\n0.5 submit c0 task=1\n{lines}").parse().unwrap()
    }

    fn seeker<F: FnMut(&Schedule) -> bool>(schedule: &Schedule, alike: F) -> Seeker<'_, F> {
        Seeker { schedule, alike, until: Instant::now() + Duration::from_secs(60), tried: 0 }
    }

    #[test]
    fn the_first_so_many_faults_are_kept_and_everything_else_is() {
        let schedule = schedule();
        assert_eq!([0, 1, 9, 10, 11].map(|count| with_first(&schedule, count).faults()), [0, 1, 9, 10, 10]);
        assert_eq!(with_first(&schedule, 1).tasks(), 1);
        assert!(cause(&schedule, Duration::from_secs(5)).is_none(), "it does not fail");
    }

    #[test]
    fn the_fault_that_tips_it_is_found_and_until_when_healing_helps() {
        let schedule = schedule();
        // The sixth fault tips it, unless everything heals before 7.25 s.
        let mut found = seeker(&schedule, |one| one.faults() >= 6 && one.safety >= Duration::from_millis(7_250));
        assert_eq!(found.bisect(10), 6);
        assert_eq!((found.first_failing(6), found.undone(6, 10)), ((None, 0), (Vec::new(), 0)));
        let kept = with_first(&schedule, 6);
        let (saved, lost) = found.healing(&kept, Duration::from_secs(6), Duration::from_secs(40)).unwrap();
        let at = Duration::from_millis(7_250);
        assert!(saved < at && at <= lost && lost - saved <= GRAIN, "{saved:?} {lost:?}");
        let mut at_once = seeker(&schedule, |one| one.faults() >= 6);
        assert_eq!(at_once.healing(&kept, Duration::from_secs(6), Duration::from_secs(40)), None);
        assert_eq!(seeker(&schedule, |_| true).bisect(10), 0, "it fails without any fault");
    }

    #[test]
    fn what_comes_and_goes_with_more_faults_is_said_to() {
        let schedule = schedule();
        let mut found = seeker(&schedule, |one| matches!(one.faults(), 3 | 8 | 10));
        assert_eq!(found.bisect(10), 8);
        assert_eq!(found.first_failing(8), (Some(3), 0));
        assert_eq!(found.undone(3, 10), (vec![4, 5, 6, 7, 9], 0));
        let mut late = Seeker { until: Instant::now(), ..seeker(&schedule, |_| false) };
        assert_eq!((late.first_failing(4), late.undone(4, 10)), ((None, 3), (Vec::new(), 5)));
    }
}
