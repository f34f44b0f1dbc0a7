//! `rejoin sim` as its users run it: runs that are compared, looked at, measured and kept

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs `rejoin sim` in that folder: its exit status, what it wrote to both streams
fn sim(dir: &Path, words: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rejoin"));
    let command = command.current_dir(dir).arg("sim").args(words).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().expect("the program to run");
    let [out, err] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
    (status.code(), out, err)
}

/// The same with something on standard input
fn sim_told(dir: &Path, words: &[&str], told: &str) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rejoin"));
    let command = command.current_dir(dir).arg("sim").args(words).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program to run");
    child.stdin.take().expect("a pipe").write_all(told.as_bytes()).expect("it reads");
    let Output { status, stdout, stderr } = child.wait_with_output().expect("it ends");
    let [out, err] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
    (status.code(), out, err)
}

/// A task, a slow network and a crash
const SMALL: &str = "\
rejoin schedule 1
seed 1
workers 2
clients 1
safety 10.0
0.5 submit c0 task=1 takes=2.0 prints=1000
0.6 delay w1 towards=peer for=1.0 amount=20000
1.0 reset w0
";

/// With the second fault the run takes some seconds longer, and its last part finds a task that comes late
const FAILS: &str = "\
rejoin schedule 1
seed 1
workers 1
clients 1
safety 20.0
set heartbeat-ms 10000
2.0 delay w0 towards=peer for=1.0 amount=1000
3.0 half-open w0 towards=coordinator
17.0 submit c0 task=1 takes=1.0
354.0 submit c0 task=2 takes=0.1
";

#[test]
fn two_runs_are_the_same_or_part_at_an_event_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("a.sched"), SMALL).unwrap();
    fs::write(dir.join("b.sched"), SMALL.replace("1.0 reset w0\n", "")).unwrap();
    let (code, out, err) = sim(dir, &["diff", "a.sched", "a.sched"]);
    assert!(code == Some(0) && out.starts_with("the same: ") && err.is_empty(), "{out}{err}");
    let (code, out, _) = sim(dir, &["diff", "a.sched", "b.sched"]);
    assert_eq!(code, Some(1));
    let line = |name: &str| out.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {out}"));
    assert!(
        line("first").ends_with("1.000000s w0: reset w0") && out.lines().filter(|l| l.starts_with("both")).count() == 5
    );
    assert!(!line("second").contains("reset"), "{out}");
    assert_eq!(sim(dir, &["diff", "a.sched", "nothing"]).0, Some(254));
    fs::write(dir.join("bad.sched"), "rain\n").unwrap();
    let (code, _, err) = sim(dir, &["diff", "a.sched", "bad.sched"]);
    assert!(code == Some(255) && err.contains("line 1"), "{err}");
}

#[test]
fn the_cause_of_a_failure_is_named_and_what_holds_has_none() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("fails.sched"), FAILS).unwrap();
    fs::write(dir.join("holds.sched"), SMALL).unwrap();
    let (code, out, err) = sim(dir, &["cause", "fails.sched"]);
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("tips it 3.000000 half-open w0 towards=coordinator\n        number 2 of 2"), "{out}");
    assert!(out.contains("heals   ") && out.contains("from the fault to the failure"), "{out}");
    assert!(out.contains("event   #") && err.contains("schedules tried"), "{out}{err}");
    let (code, out, err) = sim(dir, &["cause", "holds.sched"]);
    assert!(code == Some(1) && out.is_empty() && err.contains("does not fail"), "{err}");
}

#[test]
fn faults_are_shown_by_state_and_what_was_never_reached_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, _) = sim(dir.path(), &["cover", "--seeds", "12", "--missing", "3", "--jobs", "1"]);
    assert_eq!(code, Some(0), "{out}");
    for part in
        ["12 seeds, ", "reconciling", "recovering", "never", "cells never reached: ", "checks without an occasion"]
    {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(out.lines().last().is_some_and(|line| line.starts_with("and ")), "{out}");
}

#[test]
fn the_corpus_takes_what_passes_once_and_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("small.sched"), SMALL).unwrap();
    fs::write(dir.join("fails.sched"), FAILS).unwrap();
    let add =
        |file: &str, more: &[&str]| sim(dir, &[&["corpus", "add", file, "--says", "L2: it was lost"], more].concat());
    let (code, _, err) = add("small.sched", &[]);
    assert!(code == Some(254) && err.contains("in a checkout"), "{err}");
    fs::create_dir_all(dir.join("sim/corpus")).unwrap();
    let (code, out, _) = add("small.sched", &[]);
    assert_eq!((code, out.as_str()), (Some(0), "added sim/corpus/l2-it-was-lost.sched\n"));
    let (code, _, err) = add("small.sched", &["--name", "other"]);
    assert!(code == Some(1) && err.contains("there already"), "{err}");
    let (code, out, _) = sim(dir, &["corpus", "check"]);
    assert!(code == Some(0) && out.ends_with("1 schedules: 0 failed\n"), "{out}");
    let (code, _, err) = add("fails.sched", &["--name", "other"]);
    assert!(code == Some(1) && err.contains("still fails"), "{err}");
    assert_eq!(add("fails.sched", &["--name", "other", "--still-fails"]).0, Some(0));
    let (code, out, _) = sim(dir, &["corpus", "check", "sim/corpus"]);
    assert!(code == Some(1) && out.contains("FAILED  other: ") && out.contains("once: L2: it was lost"), "{out}");
    assert_eq!(sim(dir, &["corpus", "check", "nowhere"]).0, Some(254));
    assert_eq!(add("small.sched", &["--name", "../up"]).0, Some(255));
}

#[test]
fn a_replay_stops_where_it_is_told_to_and_shows_everything_there() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("a.sched"), SMALL).unwrap();
    let (code, out, _) = sim(dir, &["replay", "a.sched", "--until", "0.9"]);
    assert!(code == Some(0) && out.starts_with("stopped behind event #"), "{out}");
    for part in [
        "0.900000s: faults may strike, fingerprint ",
        "\nw0: life 1, connected on ",
        "task 1",
        "1 assigned",
        "wakes in",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    let (code, out, _) = sim(dir, &["replay", "a.sched", "--until", "#20", "--step"]);
    assert!(code == Some(0) && out.contains("\n#20 ") && out.contains("stopped behind event #2"), "{out}");
    let (code, out, _) = sim(dir, &["replay", "a.sched", "--step"]);
    assert!(code == Some(0) && out.starts_with("#1 ") && out.contains("1.000000s w0: reset w0"), "{out}");
    let (_, out, _) = sim(dir, &["replay", "a.sched", "--until", "100000"]);
    assert!(out.starts_with("over behind event #"), "{out}");
    assert_eq!(sim(dir, &["replay", "a.sched", "--until", "soon"]).0, Some(255));
}

#[test]
fn a_replay_is_walked_through_by_a_script() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("a.sched"), SMALL).unwrap();
    let walk = |script: &str| sim_told(dir, &["replay", "a.sched", "--step"], script);
    let (code, out, _) = walk("3\n\nq\n");
    assert!(code == Some(0) && out.lines().count() == 5 && out.contains("\n#5 "), "{out}");
    let (code, out, err) = walk("soon\n");
    assert!(code == Some(255) && out.lines().count() == 1 && err.contains("what is soon?"), "{out}{err}");
    // The events are those of JSONL, with the same numbers.
    let (_, lines, _) = sim(dir, &["replay", "a.sched", "--jsonl", "-"]);
    let (_, all, _) = sim(dir, &["replay", "a.sched", "--step"]);
    assert_eq!(lines.lines().count(), all.lines().count());
    let fault = |text: &str, sign: &str| text.lines().position(|line| line.contains(sign)).expect(sign);
    let nth = fault(&lines, "\"fault\":\"reset\"");
    assert_eq!(nth, fault(&all, "w0: reset w0"));
    assert!(lines.lines().nth(nth).is_some_and(|line| line.starts_with(&format!("{{\"n\":{},", nth + 1))));
    for more in [["--until", "1"].as_slice(), &["--step"]] {
        let (code, _, err) = sim(dir, &[&["replay", "a.sched", "--double"], more].concat());
        assert!(code == Some(255) && err.contains("--double"), "{err}");
    }
}

#[test]
fn what_cannot_be_written_is_told_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("a.sched"), SMALL).unwrap();
    fs::write(dir.join("fails.sched"), FAILS).unwrap();
    for words in [
        ["replay", "a.sched", "--html", "no/a.html"].as_slice(),
        &["replay", "a.sched", "--until", "1", "--trace", "no/a.trace"],
        &["run", "--seed", "1", "--schedule", "no/1.sched"],
        &["run", "--seed", "1", "--mermaid", "."],
        &["shrink", "fails.sched", "--out", "no/small.sched"],
        &["swarm", "--seeds", "1", "--report", "a.sched"],
        &["mutants", "--report", "a.sched"],
    ] {
        let (code, out, err) = sim(dir, words);
        assert!(code == Some(254) && out.is_empty() && err.lines().count() == 1, "{words:?}: {out}{err}");
    }
    let (code, _, err) = sim(dir, &["replay", "a.sched", "--html", "x", "--jsonl", "x"]);
    assert!(code == Some(255) && err.contains("give each its own") && !dir.join("x").exists(), "{err}");
}

#[test]
fn lines_from_which_nothing_comes_are_named_and_what_is_shrunk_is_not_to_be_shrunk_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("a.sched"), format!("{SMALL}2.0 crash w99\n")).unwrap();
    let (code, _, err) = sim(dir, &["replay", "a.sched"]);
    assert!(code == Some(0) && err.contains("a.sched: line 9: there is no w99"), "{err}");
    fs::write(dir.join("bad.sched"), format!("{SMALL}2.0 crash w0 for=1 for=2\n")).unwrap();
    let (code, _, err) = sim(dir, &["replay", "bad.sched"]);
    assert!(code == Some(255) && err.contains("line 9: for is there twice"), "{err}");
    fs::write(dir.join("fails.sched"), FAILS).unwrap();
    let (code, out, _) = sim(dir, &["replay", "fails.sched"]);
    assert!(code == Some(1) && out.ends_with("smaller rejoin sim shrink fails.sched\n"), "{out}");
    let (code, _, err) = sim(dir, &["shrink", "fails.sched", "--out", "small.sched"]);
    assert!(code == Some(0) && !err.contains('('), "{err}");
    let (code, out, _) = sim(dir, &["replay", "small.sched"]);
    assert!(code == Some(1) && out.ends_with("cause   rejoin sim cause small.sched\n"), "{out}");
    let (_, out, _) = sim(dir, &["corpus", "check", "."]);
    assert!(out.contains("FAILED  fails: ") && !out.contains("once: \n"), "{out}");
}

#[test]
fn a_run_has_the_size_that_it_is_told_and_a_swarm_ends_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let words = ["run", "--seed", "3", "--workers", "3", "--for", "5s", "--schedule", "s.sched"];
    let (code, out, _) = sim(dir, &words);
    assert_eq!(code, Some(0), "{out}");
    let schedule = fs::read_to_string(dir.join("s.sched")).unwrap();
    assert!(schedule.contains("\nworkers 3\n") && schedule.contains("\nsafety 5.000000\n"), "{schedule}");
    assert_eq!(sim(dir, &["run", "--seed", "3", "--for", "8d"]).0, Some(255));
    let (_, out, err) = sim(dir, &["swarm", "--seeds", "1000000", "--time", "100ms", "--jobs", "1"]);
    let seeds: u64 = out.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{out}"));
    assert!((1..1000).contains(&seeds) && err.contains(&format!("{seeds} seeds in ")), "{err}");
}

#[test]
fn figures_come_with_their_load() {
    let dir = tempfile::tempdir().unwrap();
    let (code, out, err) = sim(dir.path(), &["bench", "--runs", "1", "--seeds", "2", "--loads", "1", "--share", "100"]);
    assert_eq!(code, Some(0), "{out}{err}");
    for part in ["messages/s", "messages/frame", "virtual over real", "seeds/s", "standard seeds 0..2"] {
        assert!(out.contains(part), "{part}: {out}");
    }
}
