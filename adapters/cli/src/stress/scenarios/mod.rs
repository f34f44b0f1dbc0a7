//! All scenarios, a file each

mod checkpoint_heavy;
mod concurrent;
mod coordinator_kill;
mod corruption;
mod half_open;
mod message_flood;
mod mixed_priority;
mod partial_outage;
mod rolling_upgrade;
mod slow_link;
mod steady_load;
mod suspend;
mod thundering_herd;
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
/// How many tasks it has before it is done again
const AGAIN_EACH: usize = 20;

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
    rolling_upgrade::SCENARIO,
    thundering_herd::SCENARIO,
];

/// Has small tasks done until each fault has struck that waits for more bytes
///
/// One that was meant for a connection which then ended by itself is done again, to the next one.
async fn until_struck(fleet: &mut Fleet, load: &Load, kind: Kind) -> Result<(), Trouble> {
    let work = Work { steps: 1, step_ms: 20, result_bytes: 5000, ..Work::default() };
    for round in 1..=ROUNDS_MAX {
        pause(Duration::from_millis(50)).await;
        fleet.look()?;
        let waiting: Vec<usize> = (0..fleet.workers.len()).filter(|n| fleet.waits(*n, kind)).collect();
        if waiting.is_empty() {
            return Ok(());
        }
        for n in waiting {
            if round % AGAIN_EACH == 0 && fleet.is_connected(n) {
                fleet.strike_again(n, kind);
            }
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
