//! Schedules that find planted bugs find nothing where none is planted

use std::fs;
use std::path::Path;

use rejoin_sim::schedule::Schedule;
use rejoin_sim::shrink::Mark;

#[test]
fn what_finds_planted_bugs_holds_without_them() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("planted");
    let mut schedules = 0;
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("it can be read").path();
        let text = fs::read_to_string(&path).expect("it is text");
        let schedule: Schedule = text.parse().expect("it is a schedule");
        assert!(schedule.faults() + schedule.settings.len() >= 2, "{}", path.display());
        assert_eq!(Mark::of(&schedule, false), None, "{}", path.display());
        schedules += 1;
    }
    assert!(schedules >= 8, "only {schedules} schedules");
}
