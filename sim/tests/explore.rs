//! The search through all short histories

use rejoin_sim::explore::{Kind, Plan, Size, explore};

const PLAN: Plan = Plan { size: Size { workers: 2, tasks: 2, faults: 2 }, depth: 100, states: 1_500, jobs: 1 };

#[test]
fn every_short_history_of_a_small_fleet_keeps_all_promises_on_any_number_of_threads() {
    let report = explore(&PLAN);
    assert!(report.found.is_none(), "{:?}", report.found);
    assert!(report.states() >= 1_500 && report.complete >= 3);
    assert!(report.transitions > report.states() && report.healed > 10);
    let missing: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| !report.kinds.contains_key(kind)).collect();
    assert!(missing.iter().all(|kind| *kind == Kind::Stop), "never tried: {missing:?}");
    let again = explore(&Plan { jobs: 3, ..PLAN });
    assert_eq!((&report.levels, report.transitions, report.healed), (&again.levels, again.transitions, again.healed));
    assert_eq!(report.premises, again.premises);
}

#[test]
fn a_smaller_fleet_without_faults_is_gone_through_to_a_stated_depth() {
    let size = Size { workers: 1, tasks: 1, faults: 0 };
    let report = explore(&Plan { size, depth: 12, ..PLAN });
    assert!(report.found.is_none(), "{:?}", report.found);
    assert_eq!(report.complete, 12);
    assert!(report.kinds.keys().all(|kind| !kind.is_fault()));
}
