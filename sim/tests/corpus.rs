//! Schedules that once failed, shrunk: none may fail again

use std::path::Path;

use rejoin_sim::corpus::check;

#[test]
fn nothing_in_the_corpus_fails_again() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let checked = check(&folder).expect("the corpus can be read");
    for one in &checked {
        assert!(one.result.is_ok(), "{}: {:?}", one.path.display(), one.result);
    }
    assert!(checked.len() >= 4, "only {} schedules", checked.len());
}
