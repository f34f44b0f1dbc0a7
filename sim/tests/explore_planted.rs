//! The search finds bugs that are there
#![cfg(rejoin_planted)]

use rejoin_sim::explore::{Plan, Size, explore};
use rejoin_sim::mutants::{Bug, plant};

/// One test, because a bug is planted in the whole process
#[test]
fn planted_bugs_are_found_by_a_short_way() {
    let size = Size { workers: 2, tasks: 2, faults: 2 };
    for bug in [
        Bug::AckBeforeDurable,
        Bug::DialledTwice,
        Bug::ResumesTooLate,
        Bug::AttemptReused,
        Bug::TagWithoutCounter,
        Bug::InFlightTwice,
        Bug::OwnSendsAreLife,
        Bug::TokensReused,
        Bug::TimerSpins,
    ] {
        plant(Some(bug));
        let report = explore(&Plan { size, depth: 12, states: 60_000, jobs: 2 });
        plant(None);
        let states = report.states();
        let found = report.found.unwrap_or_else(|| panic!("{bug:?} is not found in {states} states"));
        assert!(found.steps.len() <= 7, "{bug:?}: {found:?}");
    }
}
