//! `rejoin crowd`: many lightweight workers in one process, against a coordinator of its own

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::{Fleet, Process, until};
use serde_json::Value;

/// A fleet with keys for so many lightweight workers
fn fleet(count: u32, options: &[&str]) -> Fleet {
    let fleet = Fleet::start(options);
    fleet.rejoin(&["key", "new", "crowd", "--count", &count.to_string(), "--out", "crowd.keys", "--keys", "keys"]);
    fleet
}

fn crowd(fleet: &Fleet, options: &[&str]) -> Process {
    let url = fleet.url();
    let words = ["crowd", "--coordinator", &url, "--key", "crowd.keys", "--json"];
    fleet.start_rejoin(words.into_iter().chain(options.iter().copied()))
}

/// What it has said so far, an object for each line
fn said(out: &str) -> Vec<Value> {
    let whole = out.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"))).collect()
}

/// What the last second that it has told of was like
fn last(crowd: &Process, what: &str) -> u64 {
    let said = said(&crowd.out());
    said.iter().rev().find(|said| said["type"] == "second").and_then(|said| said[what].as_u64()).unwrap_or_default()
}

#[test]
fn a_crowd_comes_back_from_a_killed_coordinator_and_its_tasks_are_done_once() {
    const WORKERS: u64 = 60;
    let mut fleet = fleet(WORKERS as u32, &["--heartbeat", "1s"]);
    let crowd = crowd(&fleet, &["--log", "starts"]);
    until("all are connected", || last(&crowd, "connected") == WORKERS);
    let items: Vec<String> = (0..300).map(|n| format!("{}", 50 + n % 3)).collect();
    fs::write(fleet.path("items"), items.join("\n") + "\n").expect("a file");
    let run = fleet.client("run", ["--json", "--need", "crowd=yes", "--from", "items", "--", "pretend"]);
    until("tasks are started", || fs::read_to_string(fleet.path("starts")).unwrap_or_default().lines().count() > 20);
    fleet.kill_coordinator();
    until("the loss is seen", || last(&crowd, "connected") == 0);
    fleet.start_coordinator();
    let run = run.end();
    assert_eq!(run.code, Some(0), "{}", run.err);
    until("all are back", || last(&crowd, "connected") == WORKERS);
    crowd.signal("TERM");
    let ended = crowd.end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let summary = said(&ended.out).pop().expect("a summary");
    assert_eq!((&summary["seen"], &summary["connected"]), (&WORKERS.into(), &WORKERS.into()), "{summary}");
    assert_eq!((&summary["lost"], &summary["returns"]), (&WORKERS.into(), &WORKERS.into()), "{summary}");
    assert_eq!((&summary["started"], &summary["finished"]), (&300.into(), &300.into()), "{summary}");
    assert_eq!(summary["pauses_against_the_law"], 0, "{summary}");
    let log = fs::read_to_string(fleet.path("starts")).expect("a log");
    let (ends, starts): (Vec<&str>, Vec<&str>) = log.lines().partition(|line| line.ends_with(" end"));
    let tasks: BTreeSet<&str> = starts.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!((tasks.len(), starts.len(), ends.len()), (300, 300, 300), "each was started and ended once");
}

#[test]
fn a_crowd_runs_no_commands_and_says_so() {
    let fleet = fleet(2, &[]);
    let crowd = crowd(&fleet, &[]);
    until("all are connected", || last(&crowd, "connected") == 2);
    let ended = fleet.client("submit", ["--wait", "--", "true"]).end();
    assert_ne!(ended.code, Some(0));
    assert!(ended.err.contains("runs no commands"), "{} {}", ended.out, ended.err);
    crowd.signal("INT");
    assert_eq!(crowd.end().code, Some(0));
}

#[test]
fn a_crowd_that_nobody_lets_in_says_so_and_fails() {
    let mut fleet = fleet(3, &[]);
    fleet.kill_coordinator();
    let ended = crowd(&fleet, &["--for", "2s"]).end();
    assert_eq!(ended.code, Some(1), "{}", ended.err);
    let summary = said(&ended.out).pop().expect("a summary");
    assert_eq!((&summary["seen"], &summary["connected"]), (&0.into(), &0.into()), "{summary}");
    assert!(summary["troubles"].to_string().contains("nothing listens there"), "{summary}");
}

#[test]
fn what_does_not_fit_is_refused_before_anything_starts() {
    let fleet = fleet(100, &[]);
    let url = fleet.url();
    let words = ["crowd", "--coordinator", &url, "--key", "crowd.keys"];
    let ended = fleet.limited("ulimit -n 120", &words);
    assert_eq!((ended.code, ended.out.as_str()), (Some(255), ""), "{}", ended.err);
    assert!(ended.err.contains("100 workers need about 174 open files"), "{}", ended.err);
    assert!(ended.err.contains("may have 120: raise `ulimit -Hn`, or lower --workers"), "{}", ended.err);
    let ended = fleet.rejoin_unchecked(&[&words[..], &["--workers", "101"]].concat());
    assert_eq!(ended.code, Some(255));
    assert!(ended.err.contains("crowd.keys has 100 keys, and 101 workers need one each"), "{}", ended.err);
    // A coordinator's file has others' keys in it, among them those of clients.
    let ended = fleet.rejoin_unchecked(&["crowd", "--coordinator", &url, "--key", "keys"]);
    assert_eq!(ended.code, Some(255));
    assert!(ended.err.contains("a crowd has workers' keys only"), "{}", ended.err);
}

#[test]
fn keys_for_a_crowd_are_made_at_once_or_not_at_all() {
    let fleet = fleet(3, &[]);
    let made = |name: &str, count: &str, out: &str| {
        fleet.rejoin_unchecked(&["key", "new", name, "--count", count, "--out", out, "--keys", "keys"])
    };
    let keys = fs::read_to_string(fleet.path("crowd.keys")).expect("a file");
    let names: Vec<&str> = keys.lines().skip(1).filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(names, ["crowd-1", "crowd-2", "crowd-3"]);
    let before = fs::read_to_string(fleet.path("keys")).expect("a file");
    let ended = made("crowd", "4", "more.keys");
    assert_eq!(ended.code, Some(255));
    assert!(ended.err.contains("crowd-1 has a key"), "{}", ended.err);
    let ended = made(&"n".repeat(63), "9", "more.keys");
    assert_eq!(ended.code, Some(255));
    assert!(ended.err.contains("give a shorter one"), "{}", ended.err);
    assert_eq!(fs::read_to_string(fleet.path("keys")).expect("a file"), before);
    assert!(!fleet.path("more.keys").exists());
}
