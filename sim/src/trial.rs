//! A trial of a user's own tasks: with their settings, under the faults of many seeds

use std::ops::Range;
use std::time::Duration;

use crate::draws::{Draws, Purpose};
use crate::generate::{Profile, generate};
use crate::logic::Workload;
use crate::schedule::{Entry, Schedule, Setting, Task, What};
use crate::shrink::{Mark, Shrunk, shrink_with};
use crate::simulation::Ending;
use crate::swarm::{Failure, Report, attempt_with, swarm_of};

/// Tasks, settings, and what makes the workload of each simulation
///
/// A failure is kept as its schedule, which is text: with the same `workload` it fails again.
#[derive(Clone, Debug)]
pub struct Trial<F> {
    /// What is submitted, at times that are drawn; `takes` is the longest that an execution takes, and what a line may say
    /// besides is for the workload to heed
    pub tasks: Vec<Task>,
    /// Settings that are not at the simulator's defaults
    pub settings: Vec<Setting>,
    /// Where the faults come from
    pub profile: Profile,
    /// Makes the workload, a new one for each simulation
    pub workload: F,
}

impl<F, W> Trial<F>
where
    F: Fn() -> W + Sync,
    W: Workload + 'static,
{
    /// The schedule of a seed: the faults of its profile, with these tasks and settings
    ///
    /// Tasks come in their order, at drawn times of the first three quarters of safety.
    pub fn schedule(&self, seed: u64) -> Schedule {
        let mut schedule = generate(seed, self.profile);
        schedule.settings.clone_from(&self.settings);
        schedule.entries.retain(|entry| matches!(entry.what, What::Fault(_)));
        let mut draws = Draws::new(seed, Purpose::Logic, 0);
        let latest = schedule.safety.as_micros() as u64 / 4 * 3;
        let mut times: Vec<u64> = self.tasks.iter().map(|_| draws.between(0, latest)).collect();
        times.sort_unstable();
        let tasks = times.into_iter().zip(&self.tasks);
        let submits = tasks.map(|(at, task)| Entry { at: Duration::from_micros(at), what: What::Submit(*task) });
        schedule.entries.extend(submits);
        schedule.sort();
        schedule
    }

    /// Runs a schedule, which may be one that was read from a file
    ///
    /// # Errors
    ///
    /// A panic, or two ways of the same schedule; what does not hold is in [`Ending::violation`].
    pub fn run(&self, schedule: &Schedule) -> Result<Ending, Failure> {
        self.attempt(schedule, false)
    }

    fn attempt(&self, schedule: &Schedule, double: bool) -> Result<Ending, Failure> {
        attempt_with(schedule, double, &|| Box::new((self.workload)()))
    }

    /// Runs seeds on several threads, each of them twice, to see whether it does the same again
    pub fn swarm(&self, seeds: Range<u64>, jobs: usize) -> Report {
        let try_seed = |seed, _: &_| {
            let schedule = self.schedule(seed);
            let ending = self.attempt(&schedule, true);
            (schedule, ending)
        };
        swarm_of(seeds.start, seeds.end.saturating_sub(seeds.start), jobs, None, &try_seed)
    }

    /// Makes a schedule that fails as small as it can be, for so long; `None` if it does not fail
    pub fn shrink(&self, schedule: &Schedule, budget: Duration) -> Option<Shrunk> {
        shrink_with(schedule, budget, &|schedule, double| Mark::of_attempt(self.attempt(schedule, double)))
    }
}
