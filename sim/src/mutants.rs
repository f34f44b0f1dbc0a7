//! How many seeds it takes to find each planted bug
//!
//! Only in builds that have them: see `rejoin_core::planted`.

pub use rejoin_core::planted::{Bug, TOGETHER, plant};

use crate::generate::Profile;
use crate::schedule::{Entry, Schedule, What};
use crate::shrink::Mark;
use crate::swarm::{Failure, Plan, swarm};

/// How a planted bug was found
#[derive(Clone, Debug)]
pub struct Found {
    /// Seeds until then, this one included
    pub seeds: u64,
    /// The seed
    pub seed: u64,
    /// What it broke
    pub failure: Failure,
}

/// Where a checkout keeps schedules, as small as they can be, that fail with one of the bugs of [`TOGETHER`] in them
pub const FOLDER: &str = "sim/planted";

/// Whether a schedule fails with a bug, and none does that has one of its faults or settings less; how many of both that
/// takes
///
/// # Errors
///
/// What is not so.
pub fn together(bug: Bug, schedule: &Schedule) -> Result<(usize, usize), String> {
    let faults = |entry: &Entry| matches!(entry.what, What::Fault(_));
    let places = schedule.entries.iter().enumerate().filter(|(_, entry)| faults(entry)).map(|(at, _)| at);
    with(Some(bug), || {
        if Mark::of(schedule, false).is_none() {
            return Err("its schedule does not fail".into());
        }
        for at in places {
            let mut spared = schedule.clone();
            let fault = spared.entries.remove(at);
            if let Some(mark) = Mark::of(&spared, false) {
                return Err(format!("its schedule fails without `{fault}` as well: {mark}"));
            }
        }
        for at in 0..schedule.settings.len() {
            let mut spared = schedule.clone();
            let setting = spared.settings.remove(at);
            if let Some(mark) = Mark::of(&spared, false) {
                return Err(format!("its schedule fails without its {} as well: {mark}", setting.name.name()));
            }
        }
        match (schedule.faults(), schedule.settings.len()) {
            (0, _) | (1, 0) => Err("its schedule has less than two faults, and no fault with a setting".into()),
            both => Ok(both),
        }
    })
}

/// Does something in a process that has this bug, if any, and has none afterwards
pub fn with<T>(bug: Option<Bug>, act: impl FnOnce() -> T) -> T {
    plant(bug);
    let done = act();
    plant(None);
    done
}

/// Plants a bug, and runs seeds until one fails; `None` if none does
///
/// The same seeds on any number of threads: the lowest that fails counts.
pub fn hunt(bug: Option<Bug>, seeds_max: u64, jobs: usize) -> Option<Found> {
    // Nothing that a run shows by itself: only another one that differs does.
    let double = bug == Some(Bug::UnorderedDispatch);
    with(bug, || {
        let (mut first, mut batch) = (0, jobs as u64 * 2);
        let mut found = None;
        while first < seeds_max && found.is_none() {
            let seeds = batch.min(seeds_max - first);
            let plan = Plan { first, seeds, profile: Profile::Standard, double, jobs };
            let failed = swarm(&plan).failures.into_iter().next();
            found = failed.map(|(seed, failure)| Found { seeds: seed + 1, seed, failure });
            first += seeds;
            batch = (batch * 2).min(200);
        }
        found
    })
}
