//! Checkpoints in chunks: resumed over cuts, sent once, restored whole (CKPT-1, CKPT-4)
#![allow(clippy::unwrap_used)]

use rejoin_sim::schedule::Schedule;
use rejoin_sim::simulation::{Ending, Figures, Simulation};

fn run(lines: &[String]) -> Ending {
    let head =
        "rejoin schedule 1\nseed 1\nworkers 2\nclients 1\nsafety 60.000000\nset checkpoints-max-bytes 200000000\n";
    let schedule: Schedule = format!("{head}{}\n", lines.join("\n")).parse().unwrap();
    let ending = Simulation::run(&schedule);
    assert_eq!(ending.violation, None);
    ending
}

fn figures(lines: &[&str]) -> Figures {
    run(&lines.iter().map(|line| (*line).into()).collect::<Vec<_>>()).figures
}

const MIB: u64 = 1 << 20;

#[test]
fn ckpt_1_a_large_checkpoint_is_sent_once_and_of_the_next_one_only_what_has_changed() {
    let one = figures(&["1.000000 submit c0 task=1 steps=2 saves=4194304 takes=8.000000"]);
    assert_eq!((one.checkpoints, one.chunk_bytes, one.executions), (1, 4 * MIB, 1));
    let more = figures(&["1.000000 submit c0 task=1 steps=5 saves=4194304 takes=20.000000"]);
    assert_eq!(more.checkpoints, 4);
    // A hundredth changes where it was and where it is, and the first byte: at most two chunks, two and one.
    let again = more.chunk_bytes - 4 * MIB;
    assert!(again <= 3 * 5 * 65_536, "{again} bytes for three checkpoints that have hardly changed");
}

#[test]
fn ckpt_1_over_a_link_that_is_cut_each_second_no_chunk_that_arrived_is_sent_again() {
    let task = "1.000000 submit c0 task=1 steps=3 saves=67108864 takes=150.000000";
    let narrow = |node| format!("1.000000 bandwidth {node} towards=coordinator for=59.000000 amount=8000000");
    let mut lines = vec![task.into(), narrow("w0"), narrow("w1")];
    // It is made at 51 s, and takes more than eight seconds.
    let cuts = 8;
    for second in 0..cuts {
        lines.extend(["w0", "w1"].map(|node| format!("{}.300000 reset {node}", 51 + second)));
    }
    let ending = run(&lines);
    assert_eq!((ending.figures.checkpoints, ending.figures.executions), (2, 1));
    let (sent, whole) = (ending.figures.chunk_bytes, 64 * MIB);
    // The second one, of which a hundredth has changed, costs less than three.
    assert!((whole..=whole + cuts * MIB + whole * 3 / 100).contains(&sent), "{sent} bytes in all");
    assert!(ending.figures.resumed >= cuts, "{:?}", ending.figures);
}

#[test]
fn ckpt_4_the_next_attempt_starts_from_a_large_checkpoint_whole_and_cuts_change_nothing() {
    // The first attempt fails behind its second checkpoint; what is restored is compared with what was made.
    let plain = figures(&["1.000000 submit c0 task=1 retries=1 fails=1 steps=3 saves=3000000 takes=9.000000"]);
    assert_eq!((plain.executions, plain.told), (2, 1));
    let mut lines: Vec<String> =
        vec!["1.000000 submit c0 task=1 retries=1 fails=1 steps=3 saves=3000000 takes=9.000000".into()];
    for node in ["w0", "w1"] {
        lines.push(format!("9.000000 bandwidth {node} towards=peer for=20.000000 amount=400000"));
        lines.extend((0..9).map(|n| format!("{}.500000 reset {node}", 10 + n)));
    }
    let cut = run(&lines).figures;
    assert_eq!((cut.executions, cut.told, cut.checkpoints), (2, 1, plain.checkpoints));
    assert!(cut.resumed >= 10, "{cut:?}");
}

#[test]
fn ckpt_4_a_large_checkpoint_outlives_the_coordinator_and_the_worker_that_made_it() {
    let lines = [
        "1.000000 submit c0 task=1 steps=4 saves=500000 takes=12.000000",
        "5.000000 restart coordinator for=0.500000",
        "9.000000 crash w0 for=1.000000",
        "9.000000 crash w1 for=1.000000",
    ];
    let figures = figures(&lines);
    assert_eq!(figures.told, 1);
    assert!(figures.recoveries >= 1 && figures.executions == 2, "{figures:?}");
}
