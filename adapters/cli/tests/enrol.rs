//! Workers that come with a join token, as processes (AUTH-6)

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread::sleep;
use std::time::Duration;

use common::{Fleet, Process, until};

fn token(fleet: &Fleet, name: &str, valid: &str) -> String {
    let file = format!("{name}.token");
    fleet.rejoin(&["key", "token", name, "--out", &file, "--keys", "keys", "--valid", valid]);
    file
}

fn newcomer(fleet: &Fleet, token: &str, key: &str) -> Process {
    fleet.worker_with_key(&fleet.path(key), &["--token-file", token])
}

fn endings(fleet: &Fleet, name: &str) -> Vec<String> {
    let keys = fs::read_to_string(fleet.path("keys")).expect("keys");
    let of_name = keys.lines().filter(|line| line.split(' ').nth(1) == Some(name));
    of_name.map(|line| line.split(' ').nth(4).unwrap_or_default().to_owned()).collect()
}

#[test]
fn auth_6_a_worker_enrols_whatever_ends_it_and_its_token_is_good_once() {
    let mut fleet = Fleet::start(&[]);
    let file = token(&fleet, "w1", "10m");
    assert_eq!(endings(&fleet, "w1"), ["token"]);
    // It is cut off at any point, and so is the coordinator.
    for ms in [20, 60, 120, 250] {
        let worker = newcomer(&fleet, &file, "w1.key");
        sleep(Duration::from_millis(ms));
        worker.kill();
        if ms == 60 {
            fleet.kill_coordinator();
            fleet.start_coordinator();
        }
    }
    let worker = newcomer(&fleet, &file, "w1.key");
    until("it is connected", || fleet.json("workers", &[])[0]["state"] == "connected");
    let key = fs::read_to_string(fleet.path("w1.key")).expect("a key");
    assert!(key.lines().any(|line| line.starts_with("cluster ")), "{key:.40}");
    assert_eq!(fs::metadata(fleet.path("w1.key")).expect("a key").permissions().mode() & 0o777, 0o600);
    until("the token is burnt", || {
        let endings = endings(&fleet, "w1");
        endings[0] == "revoked" && endings.iter().filter(|ending| *ending != "revoked").eq([""])
    });
    let task = fleet.submit(&[], &["echo", "fine"]);
    assert_eq!(fleet.client("wait", [task.as_str()]).end().code, Some(0));
    // Whoever else has the token comes too late.
    let second = newcomer(&fleet, &file, "second.key").end();
    assert!(second.code == Some(254) && second.err.contains("used already"), "{}", second.err);
    assert!(!fleet.path("second.key").exists());
    // The same command starts it again, by its key.
    worker.kill();
    fleet.kill_coordinator();
    fleet.start_coordinator();
    let again = newcomer(&fleet, &file, "w1.key");
    until("it is connected again", || fleet.json("workers", &[])[0]["state"] == "connected");
    fleet.rejoin(&["key", "revoke", "w1", "--keys", "keys"]);
    let ended = again.end();
    assert!(ended.code == Some(254) && ended.err.contains("w1.key is revoked: remove that file"), "{}", ended.err);
    assert_eq!(fleet.json("workers", &[])[0]["state"], "revoked");
}

#[test]
fn auth_6_a_token_that_is_revoked_too_old_or_would_travel_in_the_open_is_not_used() {
    let fleet = Fleet::start(&[]);
    let revoked = token(&fleet, "w1", "10m");
    let log = || fs::read_to_string(fleet.path("coordinator.err")).unwrap_or_default();
    until("the coordinator knows it", || log().contains("join token added"));
    fleet.rejoin(&["key", "revoke", "w1", "--keys", "keys"]);
    let late = newcomer(&fleet, &revoked, "w1.key").end();
    assert!(late.code == Some(254) && late.err.contains("revoked"), "{}", late.err);
    // Made and revoked before the coordinator has looked.
    let hasty = token(&fleet, "w4", "10m");
    fleet.rejoin(&["key", "revoke", "w4", "--keys", "keys"]);
    let late = newcomer(&fleet, &hasty, "w4.key").end();
    assert!(late.code == Some(254) && late.err.contains("revoked"), "{}", late.err);
    let old = token(&fleet, "w2", "1s");
    sleep(Duration::from_millis(2100));
    let late = newcomer(&fleet, &old, "w2.key").end();
    assert!(late.code == Some(255) && late.err.contains("is over"), "{}", late.err);
    let open = token(&fleet, "w3", "1h");
    let words = ["worker", "--coordinator", "ws://192.0.2.1:7878", "--insecure-ws", "--key", "w3.key"];
    let words: Vec<&str> = words.into_iter().chain(["--token-file", &open]).collect();
    let refused = fleet.rejoin_unchecked(&words);
    assert!(refused.code == Some(255) && refused.err.contains("over TLS only"), "{}", refused.err);
    for key in ["w1.key", "w2.key", "w3.key"] {
        assert!(!fleet.path(key).exists(), "{key}");
    }
}
