//! Many seeds, and what they have shown together

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::audit::{Check, Violation};
use crate::cover::Cover;
use crate::diff::{Difference, diff};
use crate::generate::{Profile, generate};
use crate::logic::{Scripted, Workload};
use crate::menu::{Kind, Tally};
use crate::schedule::Schedule;
use crate::simulation::{Ending, Figures, Simulation};

/// How often two runs that differed are run again, to see where they part
const RECORDED_PAIRS: usize = 4;
/// How long a seed may go on behind the end of a swarm's time
const GRACE: Duration = Duration::from_secs(2);

/// Which seeds to run, and how
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// The first
    pub first: u64,
    /// How many
    pub seeds: u64,
    /// How wide
    pub profile: Profile,
    /// Whether each seed is run twice, to see whether it does the same again (S29)
    pub double: bool,
    /// Threads
    pub jobs: usize,
}

/// Why a seed failed
#[derive(Clone, Debug)]
pub enum Failure {
    /// Something did not hold
    Violation(Violation),
    /// A machine panicked, which is a bug of its own
    Panic(String),
    /// It did not do the same again
    NotDeterministic {
        /// The fingerprint of the first time
        first: u64,
        /// The one of the second
        second: u64,
        /// Where they part, unless two more that were recorded were the same
        parts: Option<Box<Difference>>,
    },
}

impl Failure {
    pub(crate) fn panicked(panic: Box<dyn Any + Send>) -> Failure {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Failure::Panic(text.unwrap_or_else(|| "without a word".into()))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Violation(Violation { check, at, what, .. }) => {
                write!(f, "{check}: {} (at {at:?}: {what})", check.sentence())
            }
            Failure::Panic(message) => write!(f, "a machine panicked: {message}"),
            Failure::NotDeterministic { first, second, parts } => {
                write!(f, "S29: the same schedule went two ways: {first:016x} and {second:016x}")?;
                match parts {
                    Some(difference) => write!(f, "\n{}", difference.to_string().trim_end()),
                    None => f.write_str("; runs that were recorded to see where they part were the same"),
                }
            }
        }
    }
}

/// What a swarm has shown
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Seeds that were run
    pub seeds: u64,
    /// Seeds in which nothing was done
    pub void: u64,
    /// Seeds that failed, and why
    pub failures: BTreeMap<u64, Failure>,
    /// Sums of all
    pub figures: Figures,
    /// Which faults happened, and had an effect
    pub tally: Tally,
    /// In which states faults struck
    pub cover: Cover,
    /// How often each check had occasion to fail
    pub premises: Vec<u64>,
    /// Tasks, reconnections and kinds of fault with effect, by seed: for their medians
    spread: Vec<(u64, u64, u64)>,
}

impl Report {
    fn take(&mut self, seed: u64, schedule: &Schedule, ending: Result<Ending, Failure>) {
        self.seeds += 1;
        let ending = match ending {
            Ok(ending) => ending,
            Err(failure) => return drop(self.failures.insert(seed, failure)),
        };
        self.void += u64::from(ending.void);
        self.figures.add(&ending.figures);
        self.tally.add(&ending.tally);
        self.cover.add(&ending.cover);
        self.premises.resize(Check::ALL.len(), 0);
        self.premises.iter_mut().zip(&ending.premises).for_each(|(sum, n)| *sum += n);
        let peers = u64::from(schedule.workers) + u64::from(schedule.clients);
        let reconnections = ending.figures.dials.saturating_sub(peers);
        self.spread.push((schedule.tasks() as u64, reconnections, ending.tally.kinds_hit() as u64));
        if let Some(violation) = ending.violation {
            self.failures.insert(seed, Failure::Violation(violation));
        }
    }

    fn merge(&mut self, other: Report) {
        self.seeds += other.seeds;
        self.void += other.void;
        self.failures.extend(other.failures);
        self.figures.add(&other.figures);
        self.tally.add(&other.tally);
        self.cover.add(&other.cover);
        self.premises.resize(Check::ALL.len(), 0);
        self.premises.iter_mut().zip(&other.premises).for_each(|(sum, n)| *sum += n);
        self.spread.extend(other.spread);
    }

    /// Medians over the seeds: tasks, reconnections, kinds of fault with effect
    pub fn medians(&self) -> [u64; 3] {
        let median = |of: fn(&(u64, u64, u64)) -> u64| {
            let mut all: Vec<u64> = self.spread.iter().map(of).collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied().unwrap_or(0)
        };
        [median(|s| s.0), median(|s| s.1), median(|s| s.2)]
    }

    /// Kinds of fault that never happened, or never had an effect
    pub fn dead(&self) -> Vec<Kind> {
        Kind::ALL.iter().copied().filter(|kind| self.tally.hit[*kind as usize] == 0).collect()
    }

    /// Checks that never had occasion to fail
    pub fn idle(&self) -> Vec<Check> {
        Check::ALL.iter().copied().filter(|check| self.premises.get(*check as usize).is_none_or(|n| *n == 0)).collect()
    }
}

/// Runs one schedule; a panic of a machine is a failure like any other
pub fn attempt(schedule: &Schedule, double: bool) -> Result<Ending, Failure> {
    attempt_with(schedule, double, &|| Box::new(Scripted))
}

/// The same, until somebody gives it up; what it has come to by then is of no use
fn attempt_until(schedule: &Schedule, double: bool, given_up: &GivenUp) -> Result<Ending, Failure> {
    attempt_by(schedule, double, &|| {
        let mut simulation = Simulation::new(schedule);
        simulation.stop_when(given_up.clone());
        simulation.finish()
    })
}

/// Makes a workload, a new one for each simulation
pub(crate) type Make<'a> = &'a dyn Fn() -> Box<dyn Workload>;

/// Whether nobody waits any more for what is under way
pub(crate) type GivenUp = Arc<AtomicBool>;

pub(crate) fn attempt_with(schedule: &Schedule, double: bool, make: Make<'_>) -> Result<Ending, Failure> {
    attempt_by(schedule, double, &|| Simulation::with(schedule, make()).finish())
}

fn attempt_by(schedule: &Schedule, double: bool, simulate: &dyn Fn() -> Ending) -> Result<Ending, Failure> {
    let run = || std::panic::catch_unwind(AssertUnwindSafe(simulate)).map_err(Failure::panicked);
    let ending = run()?;
    if double {
        let again = run()?;
        if again.hash != ending.hash {
            let parts = (0..RECORDED_PAIRS).find_map(|_| diff(schedule, schedule).ok()?.difference);
            return Err(Failure::NotDeterministic {
                first: ending.hash,
                second: again.hash,
                parts: parts.map(Box::new),
            });
        }
    }
    Ok(ending)
}

/// Runs seeds on several threads
pub fn swarm(plan: &Plan) -> Report {
    swarm_for(plan, None)
}

/// The same; no seed is begun once so much time of this machine has passed, and one that is under way has two seconds
/// to end
pub fn swarm_for(plan: &Plan, time: Option<Duration>) -> Report {
    let try_seed = |seed, given_up: &GivenUp| {
        let schedule = generate(seed, plan.profile);
        let ending = attempt_until(&schedule, plan.double, given_up);
        (schedule, ending)
    };
    let until = time.map(|time| Instant::now() + time);
    swarm_of(plan.first, plan.seeds, plan.jobs, until, &try_seed)
}

/// The schedule of a seed, and how it ended
type Tried = (Schedule, Result<Ending, Failure>);

/// Runs seeds on several threads, each as it is told to
pub(crate) fn swarm_of(
    first: u64,
    seeds: u64,
    jobs: usize,
    until: Option<Instant>,
    try_seed: &(dyn Fn(u64, &GivenUp) -> Tried + Sync),
) -> Report {
    let next = AtomicU64::new(0);
    let report = Mutex::new(Report::default());
    let given_up = GivenUp::default();
    let work = |_works: Sender<()>| {
        let mut own = Report::default();
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            if nth >= seeds || until.is_some_and(|until| Instant::now() >= until) {
                break;
            }
            let seed = first.saturating_add(nth);
            let (schedule, ending) = try_seed(seed, &given_up);
            if given_up.load(Ordering::Relaxed) && !has_failed(&ending) {
                break;
            }
            own.take(seed, &schedule, ending);
        }
        report.lock().unwrap_or_else(std::sync::PoisonError::into_inner).merge(own);
    };
    thread::scope(|scope| {
        let (works, all) = channel();
        for _ in 0..jobs.max(1) {
            let works = works.clone();
            scope.spawn(|| work(works));
        }
        drop(works);
        if let Some(until) = until {
            // Nothing is ever said: it ends when all have gone, or when they are given up.
            let _ = all.recv_timeout(until.saturating_duration_since(Instant::now()) + GRACE);
            given_up.store(true, Ordering::Relaxed);
        }
    });
    report.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Whether a seed failed for sure, also if it did not come to its end
fn has_failed(ending: &Result<Ending, Failure>) -> bool {
    match ending {
        Ok(ending) => ending.violation.is_some(),
        Err(Failure::Violation(_) | Failure::Panic(_)) => true,
        // Two that were given up differ in where they were.
        Err(Failure::NotDeterministic { .. }) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swarm_of_some_seeds_holds_does_work_and_does_the_same_again() {
        let profile = Profile::Standard;
        let plan = Plan { first: 0, seeds: 40, profile, double: true, jobs: 2 };
        let report = swarm(&plan);
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        assert_eq!((report.seeds, report.void), (40, 0));
        let [tasks, reconnections, kinds] = report.medians();
        assert!(tasks >= 50 && reconnections >= 5 && kinds >= 3, "{tasks} {reconnections} {kinds}");
        let one = swarm(&Plan { jobs: 1, double: false, ..plan });
        assert_eq!(one.figures, report.figures, "whichever thread runs a seed");
        assert_eq!(swarm_for(&plan, Some(Duration::ZERO)).seeds, 0, "the time is over at once");
    }
}
