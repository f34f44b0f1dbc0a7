//! Schedules that once failed, shrunk: none may fail again

use std::fs;
use std::path::Path;

use rejoin_sim::schedule::Schedule;
use rejoin_sim::swarm::attempt;

#[test]
fn nothing_in_the_corpus_fails_again() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut replayed = 0;
    for entry in fs::read_dir(folder).expect("the corpus can be read") {
        let path = entry.expect("the corpus can be read").path();
        let text = fs::read_to_string(&path).expect("the corpus can be read");
        assert!(text.starts_with("# "), "{}: the first line says what went wrong", path.display());
        let schedule: Schedule = text.parse().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let ending = attempt(&schedule, true).unwrap_or_else(|failure| panic!("{}: {failure}", path.display()));
        assert_eq!(ending.violation, None, "{}", path.display());
        replayed += 1;
    }
    assert!(replayed >= 4, "only {replayed} schedules");
}
