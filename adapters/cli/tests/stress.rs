//! The scenarios of `rejoin stress`, shorter than by themselves

use std::process::{Command, Stdio};

use serde_json::Value;

/// Plays a scenario, and returns what was found
fn play(words: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rejoin"));
    command.arg("stress").args(words).env_remove("REJOIN_LOG").stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().expect("the program to start");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

/// It must pass, and not by having done nothing
fn passes(name: &str, words: &[&str]) -> Value {
    // One after another, whatever runs the tests: what is measured is time.
    let lock = std::fs::File::create(concat!(env!("CARGO_TARGET_TMPDIR"), "/stress.lock")).expect("a file");
    lock.lock().expect("a lock");
    let (code, out) = play(&[&[name, "--json", "--seed", "7"], words].concat());
    let found: Value = serde_json::from_str(out.trim()).unwrap_or_else(|_| panic!("no JSON: {out}"));
    let failed: Vec<&Value> =
        found["checks"].as_array().expect("checks").iter().filter(|check| check["holds"] == false).collect();
    assert!(code == Some(0) && found["passed"] == true, "{name}: {failed:#?}");
    let tasks = &found["tasks"];
    assert!(tasks["applied"].as_u64() > Some(0) && tasks["applied"] == tasks["submitted"], "{tasks}");
    assert_eq!((&tasks["lost"], &tasks["duplicated"]), (&0.into(), &0.into()));
    assert!(found["reconnections"].as_u64() > Some(0), "{found}");
    found
}

#[test]
fn a_flood_of_small_messages_through_cut_links() {
    passes("message-flood", &["--for", "4s"]);
}

#[test]
fn links_that_become_black_holes() {
    passes("half-open", &["--for", "3s", "--workers", "4"]);
}

#[test]
fn workers_that_are_killed_and_frozen() {
    passes("worker-kill", &["--for", "10s", "--workers", "4"]);
}

#[test]
fn a_coordinator_that_is_killed_again_and_again() {
    passes("coordinator-kill", &["--workers", "20"]);
}

#[test]
fn checkpoints_of_ten_megabytes_over_slow_links() {
    passes("checkpoint-heavy", &[]);
}

#[test]
fn a_mix_of_tasks_and_of_faults() {
    passes("steady-load", &["--for", "8s"]);
}

#[test]
fn urgent_tasks_beside_bulk() {
    passes("mixed-priority", &["--for", "4s"]);
}

#[test]
fn several_at_once() {
    passes("concurrent", &["--for", "8s"]);
}

#[test]
fn part_of_the_network_is_gone() {
    passes("partial-outage", &[]);
}

#[test]
fn flipped_bits_are_refused() {
    let found = passes("corruption", &["--for", "4s"]);
    let flips = |over: &str| found["faults"][over]["felt"].as_u64().unwrap_or(0);
    assert!(flips("flip over ws") > 100 && flips("flip over wss") > 100, "{}", found["faults"]);
}

#[test]
fn links_of_all_kinds_of_slowness() {
    let found = passes("slow-link", &[]);
    assert_eq!(found["tables"][0]["rows"].as_array().map(Vec::len), Some(24));
}

#[test]
fn a_link_that_is_cut_between_any_two_steps() {
    passes("unplug-mid-result", &[]);
}

#[test]
fn workers_that_sleep_and_return() {
    passes("suspend", &[]);
}

#[test]
fn a_herd_that_loses_its_coordinator_at_once() {
    let found = passes("thundering-herd", &[]);
    assert_eq!(found["tables"][0]["title"], "The herd, second by second");
}

#[test]
fn a_fleet_that_is_upgraded_and_taken_back_while_it_works() {
    let found = passes("rolling-upgrade", &[]);
    assert_eq!(found["tables"][0]["rows"].as_array().map(Vec::len), Some(7));
}

#[test]
fn every_scenario_has_a_test_here() {
    let (_, list) = play(&["--list"]);
    let tests = include_str!("stress.rs");
    for name in list.lines().filter_map(|line| line.split(' ').next()) {
        assert!(tests.contains(&format!("passes(\"{name}\"")), "{name}");
    }
}

#[test]
fn a_scenario_that_nobody_knows_is_refused_and_all_are_listed() {
    let (code, _) = play(&["thunder"]);
    assert_eq!(code, Some(255));
    let (code, out) = play(&["--list"]);
    assert!(code == Some(0) && out.lines().any(|line| line.starts_with("worker-kill ")), "{out}");
}
