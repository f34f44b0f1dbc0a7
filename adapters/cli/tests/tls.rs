//! A fleet over TLS, with a certificate that the program has made (AUTH-7)

mod common;

use std::fs;
use std::process::Command;

use common::{Fleet, until};

/// Makes a certificate and its key in a folder
fn cert(dir: &std::path::Path, name: &str) -> [String; 2] {
    let paths = ["pem", "key"].map(|kind| dir.join(format!("{name}.{kind}")).display().to_string());
    let words = ["cert", "127.0.0.1", "--tls-cert", &paths[0], "--tls-key", &paths[1]];
    let made = Command::new(env!("CARGO_BIN_EXE_rejoin")).args(words).output().expect("the program runs");
    assert!(made.status.success(), "{made:?}");
    paths
}

#[test]
fn auth_7_a_fleet_works_over_tls_and_its_certificate_can_be_replaced() {
    let dir = tempfile::tempdir().expect("a directory");
    let [pem, key] = cert(dir.path(), "one");
    let mut fleet = Fleet::start(&["--tls-cert", &pem, "--tls-key", &key, "--binding", "require"]);
    let url = fleet.secure_url();
    // The first of the addresses is in plain, and of no use.
    let worker = fleet.worker("w1", &["--coordinator", &url, "--ca", &pem]);
    let run = |ca: &str, patience: &str| {
        let words = ["--coordinator", &url, "--ca", ca, "--patience", patience, "--wait", "--", "echo", "over TLS"];
        fleet.client("submit", words).end()
    };
    let first = run(&pem, "30s");
    assert_eq!((first.code, first.out.lines().last()), (Some(0), Some("over TLS")), "{}", first.err);
    let [other_pem, other_key] = cert(dir.path(), "two");
    let unknown = run(&other_pem, "1s");
    assert_eq!(unknown.code, Some(254));
    assert!(unknown.err.contains("signed by nobody who is trusted here"), "{}", unknown.err);
    fs::copy(&other_pem, dir.path().join("ca")).expect("a file");
    fs::rename(&other_key, &key).expect("a file");
    fs::rename(&other_pem, &pem).expect("a file");
    let ca = dir.path().join("ca").display().to_string();
    until("the new certificate", || run(&ca, "1s").code == Some(0));
    assert!(!worker.err().contains("connection lost"), "{}", worker.err());
}

#[test]
fn auth_7_a_plain_link_to_another_host_is_refused_with_what_to_do() {
    let fleet = Fleet::start(&[]);
    let worker_key = fleet.key("w1", "worker");
    let key = |role: &str| if role == "worker" { worker_key.display().to_string() } else { "client.key".into() };
    for words in [
        &["status"][..],
        &["workers"],
        &["tasks"],
        &["result", "id:x"],
        &["wait", "id:x"],
        &["cancel", "id:x"],
        &["drain", "w1"],
        &["submit", "--", "true"],
        &["run", "--", "true", ":::", "1"],
        &["worker"],
    ] {
        // In front of the command of the task, where there is one.
        let (name, rest) = words.split_first().expect("a name");
        let key = key(name);
        let access = ["--coordinator", "ws://192.0.2.1:7878", "--key", &key];
        let all: Vec<_> = [*name].into_iter().chain(access).chain(rest.iter().copied()).collect();
        let refused = fleet.rejoin_unchecked(&all);
        assert_eq!(refused.code, Some(255), "{words:?}: {}", refused.err);
        let told = refused.err.contains("use wss://") && refused.err.contains("--insecure-ws");
        assert!(told, "{words:?}: {}", refused.err);
    }
    let allowed = fleet.client("status", ["--coordinator", "ws://192.0.2.1:7878", "--insecure-ws"]).end();
    assert_eq!(allowed.code, Some(0), "the other address answers: {}", allowed.err);
}

#[test]
fn auth_7_a_plain_port_for_other_hosts_must_be_asked_for() {
    let fleet = Fleet::start(&[]);
    let listen = |address, more: &[&str]| {
        let words = ["coordinator", "--listen", address, "--data", "other", "--keys", "keys"];
        fleet.rejoin_unchecked(&[&words, more].concat())
    };
    for address in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let refused = listen(address, &[]);
        assert_eq!(refused.code, Some(255), "{address}: {}", refused.err);
        let told = refused.err.contains("--tls-cert") && refused.err.contains("--insecure-ws");
        assert!(told && refused.err.contains(address), "{address}: {}", refused.err);
    }
    assert!(!fleet.path("other").exists(), "nothing was begun");
    let asked_for = listen("192.0.2.1:0", &["--insecure-ws"]);
    assert!(asked_for.code == Some(254) && asked_for.err.contains("cannot listen on"), "{}", asked_for.err);
}
