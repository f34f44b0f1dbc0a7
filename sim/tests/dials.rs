//! Virtual dials are like real ones: what `tests/conformance` compares with real sockets, without these

use rejoin_core::Instant;
use rejoin_sim::recorded::Recorded;
use rejoin_sim::schedule::Node;
use rejoin_sim::simulation::Stop;
use rejoin_sim::trace::Told;

/// When things happened in the first 20 seconds of a schedule
fn told(lines: &str, is: impl Fn(&Told) -> bool) -> Vec<u64> {
    let text = format!("rejoin schedule 1\nworkers 1\nsafety 30\n{lines}");
    let schedule = text.parse().expect("a schedule");
    let recorded = Recorded::run(&schedule, Some(Stop::At(Instant::from_micros(20_000_000)))).expect("no panic");
    assert!(recorded.failure.is_none(), "{:?}", recorded.failure);
    let steps = recorded.steps().iter().filter(|(_, _, told)| is(told));
    steps.map(|(at, _, _)| at.as_micros() / 1000).collect()
}

fn is_taken(told: &Told) -> bool {
    matches!(told, Told::Opened { peer: Some(Node::Worker(0)), .. })
}

fn is_dial(told: &Told) -> bool {
    matches!(told, Told::Dialled(Node::Worker(0), _))
}

#[test]
fn a_dial_that_hangs_opens_when_that_is_over_unless_it_was_given_up() {
    for kind in ["hang", "partition"] {
        let lines = format!("1.0 {kind} w0 for=4\n1.0 reset w0\n");
        let (dials, taken) = (told(&lines, is_dial), told(&lines, is_taken));
        assert_eq!((dials.len(), taken.len()), (2, 2), "{kind}");
        assert!((5000..5010).contains(&taken[1]), "{taken:?}");
        // Ten seconds are as long as anybody waits.
        let lines = format!("1.0 {kind} w0 for=13\n1.0 reset w0\n");
        let (dials, taken) = (told(&lines, is_dial), told(&lines, is_taken));
        assert_eq!((dials.len(), taken.len()), (3, 2), "{kind}");
        assert!(dials[2] > dials[1] + 10_000 && (14_000..14_010).contains(&taken[1]), "{dials:?}, {taken:?}");
    }
}

#[test]
fn a_coordinator_hears_of_no_connection_on_which_nothing_ever_arrives() {
    let lines = "1.0 mute w0 for=5\n1.0 reset w0\n";
    assert_eq!((told(lines, is_dial).len(), told(lines, is_taken).len()), (3, 2));
}
