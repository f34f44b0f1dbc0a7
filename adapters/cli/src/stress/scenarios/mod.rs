//! All scenarios, a file each

mod checkpoint_heavy;
mod concurrent;
mod coordinator_kill;
mod corruption;
mod half_open;
mod message_flood;
mod mixed_priority;
mod partial_outage;
mod slow_link;
mod steady_load;
mod suspend;
mod unplug_mid_result;
mod worker_kill;

use std::time::Duration;

use rejoin_smol::chaos::Kind;

use super::fleet::Fleet;
use super::load::{Job, Load};
use super::scenario::{Scenario, Trouble, pause};
use super::task::Work;

/// Most tasks that are done until a fault strikes which waits for more bytes: one that takes more is out of reach
const ROUNDS_MAX: usize = 200;

/// Their table, in the order in which they are played
pub(super) const ALL: &[Scenario] = &[
    message_flood::SCENARIO,
    checkpoint_heavy::SCENARIO,
    steady_load::SCENARIO,
    mixed_priority::SCENARIO,
    concurrent::SCENARIO,
    partial_outage::SCENARIO,
    corruption::SCENARIO,
    slow_link::SCENARIO,
    half_open::SCENARIO,
    coordinator_kill::SCENARIO,
    worker_kill::SCENARIO,
    unplug_mid_result::SCENARIO,
    suspend::SCENARIO,
];

/// Has small tasks done until each fault has struck that waits for more bytes
async fn until_struck(fleet: &Fleet, load: &Load, kind: Kind) -> Result<(), Trouble> {
    let work = Work { steps: 1, step_ms: 20, result_bytes: 5000, ..Work::default() };
    let waits = |n: &usize| {
        let planned = fleet.hits.iter().filter(|hit| hit.worker == *n && hit.kind == Some(kind)).count() as u64;
        fleet.workers[*n].cable.counts().felt(kind) < planned
    };
    for _ in 0..ROUNDS_MAX {
        pause(Duration::from_millis(50)).await;
        let waiting: Vec<usize> = (0..fleet.workers.len()).filter(waits).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        for n in waiting {
            load.submit(Job { only: Some(n), ..Job::of(work) })?;
        }
        load.down_to(0, Duration::from_secs(40)).await?;
    }
    Err(Trouble::new(format!("some links were not broken by {ROUNDS_MAX} tasks")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_scenario_has_a_name_of_its_own_and_says_what_happens() {
        let names: BTreeSet<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.iter().all(|scenario| !scenario.says.is_empty() && !scenario.says.ends_with('.')));
    }
}
