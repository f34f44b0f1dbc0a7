//! How many seeds it takes to find each planted bug
//!
//! Only in builds that have them: see `rejoin_core::planted`.

pub use rejoin_core::planted::{Bug, plant};

use crate::generate::Profile;
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
