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

use super::scenario::Scenario;

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
