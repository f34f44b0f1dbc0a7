//! A fleet of separate processes: its coordinator and its workers may be killed at any time

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{Fleet, lives, until};
use rejoin_smol::chaos::{Fault, Kind, Profile, Proxy};
use serde_json::Value;

/// Puts a checkpoint in place
const PUT: &str =
    r#"put() { echo "$1" > "$REJOIN_CHECKPOINT_OUT.own"; mv "$REJOIN_CHECKPOINT_OUT.own" "$REJOIN_CHECKPOINT_OUT"; };"#;

#[test]
fn a_coordinator_killed_again_and_again_costs_no_task_anything() {
    let mut fleet = Fleet::start(&[]);
    const TASKS: usize = 300;
    let workers: Vec<_> = (0..3).map(|n| fleet.worker(&format!("w{n}"), &["--slots", "4"])).collect();
    fs::create_dir(fleet.path("starts")).expect("a directory");
    let script = format!("echo x >> {}/$1; sleep 0.3; echo done $1", fleet.path("starts").display());
    let items: Vec<String> = (0..TASKS).map(|n| n.to_string()).collect();
    let args = ["--keep-order", "--", "sh", "-c", &script, "_", "{}", ":::"];
    let run = fleet.client("run", args.into_iter().chain(items.iter().map(String::as_str)));
    for kill in 1..=10 {
        let begun = || fs::read_dir(fleet.path("starts")).expect("a directory").count();
        let enough = (begun() + 20).min(TASKS);
        until("more work", || begun() >= enough);
        // Anywhere between two starts of tasks.
        std::thread::sleep(Duration::from_millis(kill * 7919 % 97));
        fleet.kill_coordinator();
        fleet.start_coordinator();
        if kill % 5 == 0 {
            // While it recovers, or right behind that.
            fleet.kill_coordinator();
            fleet.start_coordinator_unwatched();
            std::thread::sleep(Duration::from_millis(kill));
            fleet.kill_coordinator();
            fleet.start_coordinator();
        }
    }
    let run = run.end();
    assert_eq!(run.code, Some(0), "{}", run.err);
    let expected: String = items.iter().map(|n| format!("done {n}\n")).collect();
    assert_eq!(run.out, expected, "{}", run.err);
    for n in &items {
        let starts = fs::read_to_string(fleet.path("starts").join(n)).expect("it was started");
        assert_eq!(starts, "x\n", "task {n} was executed again");
    }
    assert!(workers.iter().all(|worker| lives(worker.pid())), "no worker had to be started again");
    let tasks = fleet.json("tasks", &[]);
    let all = tasks.as_array().expect("an array");
    // One that was not executed again may still have been given out again, if its assignment never left.
    assert!(all.len() == TASKS && all.iter().all(|task| task["status"] == "succeeded"));
    assert!(fleet.json("status", &[])["epoch"].as_u64() >= Some(11));
}

#[test]
fn ckpt_4_another_worker_goes_on_from_the_checkpoint_of_one_that_was_killed() {
    let mut fleet = Fleet::start(&["--lost-after", "500ms"]);
    let first = fleet.worker("w1", &[]);
    let steps = fleet.path("steps");
    let pid = fleet.path("pid");
    let script = format!(
        r#"{PUT} from=0; [ -z "$REJOIN_CHECKPOINT_IN" ] || from=$(cat "$REJOIN_CHECKPOINT_IN");
           echo "attempt $REJOIN_ATTEMPT from $from"; echo $$ > {pid};
           for n in $(seq $((from + 1)) 6); do echo "$REJOIN_ATTEMPT $n" >> {steps}; put $n;
           while [ -e "$REJOIN_CHECKPOINT_OUT" ]; do sleep 0.01; done;
           [ $n != 3 ] || [ $REJOIN_ATTEMPT != 1 ] || {{ sleep 300 & wait; }}; done"#,
        pid = pid.display(),
        steps = steps.display()
    );
    let task = fleet.submit(&["--id", "steps"], &["sh", "-c", &script]);
    until("the third checkpoint", || fleet.json("result", &["id:steps"])["checkpoint"] == 3);
    let task_pid: i32 = fs::read_to_string(&pid).expect("a process id").trim().parse().expect("a number");
    let killed = Instant::now();
    first.kill();
    until("the end of the dead worker's task", || !lives(task_pid));
    println!("its processes were gone after {:?}", killed.elapsed());
    let _second = fleet.worker("w2", &[]);
    let waited = fleet.client("wait", [task.as_str()]).end();
    assert_eq!(waited.code, Some(0), "{}", waited.err);
    assert_eq!(fleet.client("logs", [task.as_str()]).end().out, "attempt 2 from 3\n");
    let executed = fs::read_to_string(&steps).expect("steps");
    assert_eq!(executed, "1 1\n1 2\n1 3\n2 4\n2 5\n2 6\n", "nothing was done twice");
}

#[test]
fn ckpt_4_another_worker_goes_on_from_megabytes_though_the_coordinator_was_killed_as_well() {
    let mut fleet = Fleet::start(&["--lost-after", "500ms", "--recovery-window", "1s"]);
    let first = fleet.worker("w1", &[]);
    let sum = fleet.path("sum");
    let script = format!(
        r#"if [ -n "$REJOIN_CHECKPOINT_IN" ]; then sha256sum < "$REJOIN_CHECKPOINT_IN"; exit; fi
           own="$REJOIN_CHECKPOINT_OUT.own"; head -c 5000001 /dev/urandom > "$own"; sha256sum < "$own" > {sum};
           mv "$own" "$REJOIN_CHECKPOINT_OUT"; sleep 300 & wait"#,
        sum = sum.display()
    );
    let task = fleet.submit(&["--id", "large"], &["sh", "-c", &script]);
    until("the checkpoint", || fleet.json("result", &["id:large"])["checkpoint"] == 1);
    first.kill();
    fleet.kill_coordinator();
    fleet.start_coordinator();
    let _second = fleet.worker("w2", &[]);
    let waited = fleet.client("wait", [task.as_str()]).end();
    assert_eq!(waited.code, Some(0), "{}", waited.err);
    let expected = fs::read_to_string(&sum).expect("a digest");
    assert_eq!(fleet.client("logs", [task.as_str()]).end().out, expected);
}

#[test]
fn frame_3_a_result_of_16_mib_is_what_a_command_left_and_a_larger_one_is_a_failure() {
    let mut fleet = Fleet::start(&[]);
    let _worker = fleet.worker("w1", &[]);
    let (copy, fetched) = (fleet.path("copy"), fleet.path("fetched"));
    let to = fetched.to_str().expect("UTF-8");
    for (id, bytes) in [("large", 16 << 20), ("small", 100), ("none", 0)] {
        let script = format!(r#"head -c {bytes} /dev/urandom > {0}; cp {0} "$REJOIN_RESULT""#, copy.display());
        fleet.submit(&["--id", id], &["sh", "-c", &script]);
        let id = format!("id:{id}");
        assert_eq!(fleet.client("wait", [id.as_str()]).end().code, Some(0));
        assert_eq!(fleet.json("result", &[&id])["returned_bytes"], bytes);
        let got = fleet.client("result", [id.as_str(), "--fetch", to]).end();
        assert_eq!(got.code, Some(if bytes > 0 { 0 } else { 254 }), "{}", got.err);
        assert!(bytes == 0 || fs::read(&fetched).expect("a result") == fs::read(&copy).expect("what was left"));
    }
    fleet.submit(&["--id", "larger"], &["sh", "-c", r#"head -c 16777217 /dev/zero > "$REJOIN_RESULT""#]);
    let waited = fleet.client("wait", ["id:larger"]).end();
    assert_eq!(waited.code, Some(1));
    assert!(waited.out.contains("it has 16777217 bytes, and 16777216 are taken"), "{}", waited.out);
}

#[test]
fn frame_3_ten_mib_go_in_and_come_out_while_all_links_are_cut_again_and_again() {
    let mut fleet = Fleet::start(&["--heartbeat", "100ms"]);
    let coordinator: std::net::SocketAddr = fleet.dial(String::new()).parse().expect("an address");
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let proxy = smol::block_on(Proxy::start(loopback, coordinator, Profile::Calm, 7)).expect("a proxy");
    // Every now and then all are reset, or fall silent; not for ever, since on a slow machine nothing might come through.
    let proxy = Arc::new(proxy);
    let cuts =
        (1..25).map(|n| (Duration::from_millis(700) * n, Fault::of_all([Kind::Dead, Kind::Reset][n as usize % 2])));
    let breaks = proxy.clone();
    let _cutting = smol::spawn(async move { breaks.follow(cuts).await });
    fleet.dial(proxy.local_addr().to_string());
    let _worker = fleet.worker("w1", &[]);
    let (given, fetched) = (fleet.path("given"), fleet.path("fetched"));
    let mut state = 1_u64;
    let line = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{state:020}\n")
    };
    let text: String = std::iter::repeat_with(line).take(10 * 1024 * 1024 / 21 + 1).collect();
    fs::write(&given, &text).expect("a file");
    let input = given.to_str().expect("UTF-8");
    fleet.submit(&["--id", "both", "--input", input], &["sh", "-c", r#"cat > "$REJOIN_RESULT""#]);
    let waited = fleet.client("wait", ["id:both"]).end();
    assert_eq!(waited.code, Some(0), "{} {}", waited.out, waited.err);
    let got = fleet.client("result", ["id:both", "--fetch", fetched.to_str().expect("UTF-8")]).end();
    assert_eq!(got.code, Some(0), "{}", got.err);
    assert!(fs::read(&fetched).expect("a result") == text.as_bytes(), "the result is another one");
    let printed = fleet.client("result", ["id:both", "--fetch", "-"]).end();
    assert!(printed.out == text, "{}", printed.err);
    assert!(proxy.counts().disruptions() >= 5, "{:?}", proxy.counts());
    // The same again is the same task, and another input another one.
    fleet.submit(&["--id", "both", "--input", input], &["sh", "-c", r#"cat > "$REJOIN_RESULT""#]);
    fs::write(&given, &text[1..]).expect("a file");
    let other = ["--id", "both", "--input", input, "--", "sh", "-c", r#"cat > "$REJOIN_RESULT""#];
    let other = fleet.client("submit", other).end();
    assert!(other.code == Some(254) && other.err.contains("another task has this id"), "{}", other.err);
}

#[test]
fn frame_3_an_input_above_16_mib_is_refused_before_anything_is_sent() {
    let fleet = Fleet::start(&[]);
    let given = fleet.path("given");
    fs::File::create(&given).and_then(|file| file.set_len((16 << 20) + 1)).expect("a file");
    let words = ["--input", given.to_str().expect("UTF-8"), "--", "cat"];
    let refused = fleet.client("submit", words).end();
    assert!(refused.code == Some(255) && refused.err.contains("at most 16 MiB"), "{}", refused.err);
    assert_eq!(fleet.json("tasks", &[]).as_array().map(Vec::len), Some(0));
}

#[test]
fn ckpt_2_checkpoints_are_listed_fetched_and_done_without() {
    let mut fleet = Fleet::start(&[]);
    let _worker = fleet.worker("w1", &[]);
    let (copy, fetched) = (fleet.path("copy"), fleet.path("fetched"));
    let script = format!(
        r#"own="$REJOIN_CHECKPOINT_OUT.own"; head -c 5000001 /dev/urandom > "$own"; cp "$own" {copy};
           mv "$own" "$REJOIN_CHECKPOINT_OUT"; sleep 300 & wait"#,
        copy = copy.display()
    );
    fleet.submit(&["--id", "large"], &["sh", "-c", &script]);
    until("the checkpoint", || fleet.json("result", &["id:large"])["checkpoint"] == 1);
    let listed = fleet.json("checkpoints", &["id:large"]);
    assert_eq!((&listed[0]["number"], &listed[0]["bytes"], &listed[1]), (&1.into(), &5_000_001.into(), &Value::Null));
    let fetch = |number: &str| {
        let to = fetched.to_str().expect("UTF-8");
        fleet.client("checkpoints", ["id:large", "--fetch", to, "--number", number]).end()
    };
    let refused = fetch("7");
    assert_eq!((refused.code, fetched.exists()), (Some(254), false));
    assert!(refused.err.contains("no checkpoint 7, but 1"), "{}", refused.err);
    assert_eq!(fetch("1").code, Some(0));
    assert!(fs::read(&fetched).expect("a copy") == fs::read(&copy).expect("what was made"));
    assert_eq!(fleet.client("checkpoints", ["id:large", "--drop", "--number", "1"]).end().code, Some(255));
    assert_eq!(fleet.client("checkpoints", ["id:large", "--drop"]).end().code, Some(0));
    assert_eq!(fleet.client("checkpoints", ["id:large", "--drop"]).end().code, Some(254), "there are none");
    assert_eq!(fleet.client("checkpoints", ["id:large"]).end().out, "no checkpoints\n");
    assert_eq!(fleet.client("checkpoints", ["id:nobodys"]).end().code, Some(254));
}

#[test]
fn task_3_a_worker_that_was_frozen_too_long_delivers_in_vain() {
    let mut fleet = Fleet::start(&["--lost-after", "500ms", "--heartbeat", "200ms"]);
    let frozen = fleet.worker("w1", &["--heartbeat", "200ms"]);
    let (go, done) = (fleet.path("go"), fleet.path("done"));
    let script = format!(
        "echo $REJOIN_ATTEMPT; [ $REJOIN_ATTEMPT = 2 ] || while [ ! -e {} ]; do sleep 0.01; done; echo x >> {}",
        go.display(),
        done.display()
    );
    let task = fleet.submit(&[], &["sh", "-c", &script]);
    until("it runs", || fleet.json("result", &[&task])["status"] == "running");
    frozen.signal("STOP");
    let _other = fleet.worker("w2", &[]);
    assert_eq!(fleet.client("wait", [task.as_str()]).end().code, Some(0));
    // The first attempt, whose worker sleeps, ends after the second one has.
    fs::write(&go, b"").expect("a file");
    until("both were done", || fs::read_to_string(&done).is_ok_and(|text| text.lines().count() == 2));
    assert_eq!(fleet.json("workers", &[])[0]["state"], "lost");
    frozen.signal("CONT");
    until("it is back", || fleet.json("workers", &[])[0]["state"] == "connected");
    until("its result was refused", || fleet.json("status", &[])["results_stale"] == 1);
    until("it holds nothing", || fleet.json("workers", &[])[0]["tasks"] == 0);
    assert_eq!(fleet.client("logs", [task.as_str()]).end().out, "2\n");
    assert_eq!(fleet.json("status", &[])["tasks"]["succeeded"], 1);
}

#[test]
fn auth_2_a_wrong_key_is_never_let_in_and_does_not_spin() {
    let fleet = Fleet::start(&[]);
    let stranger = Fleet::start(&[]);
    let key = stranger.key("w1", "worker");
    let worker = fleet.worker_with_key(&key, &[]);
    until("it has given up for now", || worker.err().contains("no handshake succeeds"));
    std::thread::sleep(Duration::from_secs(1));
    assert!(worker.err().lines().count() < 10, "{}", worker.err());
    assert!(worker.cpu_time() < Duration::from_millis(300), "{:?}", worker.cpu_time());
    let key = fleet.path("wrong.key");
    fs::copy(stranger.path("client.key"), &key).expect("a key");
    let asked = fleet.client_with_key(&key, "status", &[]).end();
    assert_eq!(asked.code, Some(254));
    assert!(asked.err.contains("does not know this key"), "{}", asked.err);
}

#[test]
fn auth_6_a_revoked_worker_stops_and_says_why_and_a_new_key_is_taken_up_while_running() {
    let mut fleet = Fleet::start(&[]);
    let worker = fleet.worker("w1", &[]);
    until("it is connected", || fleet.json("workers", &[])[0]["state"] == "connected");
    fleet.rejoin(&["key", "revoke", "w1", "--keys", "keys"]);
    let ended = worker.end();
    assert_eq!(ended.code, Some(254));
    assert!(ended.err.contains("has been revoked"), "{}", ended.err);
    let again = fleet.worker_with_key(&fleet.path("w1.key"), &[]).end();
    assert!(again.code == Some(254) && again.err.contains("has been revoked"), "{}", again.err);
    let _other = fleet.worker("w2", &[]);
    until("a key made meanwhile works", || {
        fleet.json("workers", &[]).as_array().is_some_and(|all| all.iter().any(|w| w["state"] == "connected"))
    });
}

#[test]
fn auth_6_a_workers_key_is_replaced_while_it_works_and_each_end_starts_again_with_the_new_one() {
    let mut fleet = Fleet::start(&[]);
    let worker = fleet.worker("w1", &[]);
    until("it is connected", || fleet.json("workers", &[])[0]["state"] == "connected");
    let task = fleet.submit(&[], &["sh", "-c", "echo one; sleep 2; echo two"]);
    until("it runs", || fleet.json("tasks", &[])[0]["stdout_bytes"] == 4);
    let path = fleet.path("w1.key");
    let old = fs::read_to_string(&path).expect("a key");
    fs::copy(&path, fleet.path("old.key")).expect("a copy");
    let rotate = ["key", "rotate", "w1", "--coordinator", &fleet.url(), "--key", "client.key"];
    assert!(fleet.rejoin(&rotate).contains("is to be given another key"));
    let keys = || fs::read_to_string(fleet.path("keys")).expect("keys");
    until("the old key is retired", || keys().lines().filter(|line| line.ends_with(" revoked")).count() == 1);
    let new = fs::read_to_string(&path).expect("a key");
    let line = |text: &str| text.lines().last().unwrap_or_default().to_owned();
    assert_ne!(line(&old), line(&new));
    assert!(keys().lines().any(|known| known == line(&new)), "the coordinator has the same, as a key like any other");
    for file in ["keys", "w1.key"] {
        assert_eq!(fs::metadata(fleet.path(file)).expect("a file").permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(fleet.client("wait", [task.as_str()]).end().code, Some(0));
    assert_eq!(fleet.client("logs", [task.as_str()]).end().out, "one\ntwo\n", "it costs the task nothing");
    let refused = fleet.worker_with_key(&fleet.path("old.key"), &[]).end();
    assert!(refused.code == Some(254) && refused.err.contains("has been revoked"), "{}", refused.err);
    worker.kill();
    fleet.kill_coordinator();
    fleet.start_coordinator();
    let _again = fleet.worker("w1", &[]);
    until("they are a pair again", || fleet.json("workers", &[])[0]["state"] == "connected");
    let nobody = fleet.rejoin_unchecked(&["key", "rotate", "w9", "--coordinator", &fleet.url(), "--key", "client.key"]);
    assert!(nobody.code == Some(254) && nobody.err.contains("there is no worker w9"), "{}", nobody.err);
}

#[test]
fn auth_4_a_clone_waits_and_does_not_disturb_the_first() {
    let mut fleet = Fleet::start(&["--heartbeat", "300ms"]);
    let first = fleet.worker("w1", &[]);
    until("it is connected", || fleet.json("workers", &[])[0]["state"] == "connected");
    let clone = fleet.worker_with_key(&fleet.path("w1.key"), &[]);
    until("the clone was told to wait", || clone.err().contains("another holder of the same key"));
    let task = fleet.submit(&[], &["echo", "fine"]);
    assert_eq!(fleet.client("wait", [task.as_str()]).end().code, Some(0));
    assert_eq!(first.err().matches("connection lost").count(), 0, "{}", first.err());
    assert!(clone.err().lines().count() < 10, "{}", clone.err());
    first.kill();
    drop(clone);
}

#[test]
fn task_8_a_drain_under_load_loses_nothing_and_ends_within_its_bound() {
    let mut fleet = Fleet::start(&[]);
    let first = fleet.worker("w1", &["--slots", "4"]);
    let run = fleet.client(
        "run",
        ["--", "sh", "-c", "sleep 0.2; echo $REJOIN_ATTEMPT", "_", "{}", ":::"].into_iter().chain(["x"; 60]),
    );
    until("it runs", || fleet.json("workers", &[])[0]["running"] == 4);
    let _second = fleet.worker("w2", &["--slots", "4"]);
    let asked = Instant::now();
    first.signal("TERM");
    let ended = first.end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    let run = run.end();
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert_eq!(run.out, "1\n".repeat(60), "what had begun was finished, and nothing was lost");
    // And by an operator.
    let third = fleet.worker("w3", &[]);
    until("it is there", || fleet.json("workers", &[])[2]["state"] == "connected");
    assert_eq!(fleet.client("drain", ["w3"]).end().code, Some(0));
    assert_eq!(third.end().code, Some(0));
    assert_eq!(fleet.client("drain", ["nobody"]).end().code, Some(254));
}

#[test]
fn task_8_what_does_not_end_in_time_is_handed_over_with_its_checkpoint() {
    let mut fleet = Fleet::start(&[]);
    let first = fleet.worker("w1", &["--drain-timeout", "300ms"]);
    let script = format!(
        r#"{PUT} [ -z "$REJOIN_CHECKPOINT_IN" ] || {{ cat "$REJOIN_CHECKPOINT_IN"; exit; }};
           trap 'put saved; exit 1' TERM; while :; do sleep 0.05; done"#
    );
    let task = fleet.submit(&[], &["sh", "-c", &script]);
    until("it runs", || fleet.json("result", &[&task])["status"] == "running");
    first.signal("TERM");
    assert_eq!(first.end().code, Some(0));
    let _second = fleet.worker("w2", &[]);
    assert_eq!(fleet.client("wait", [task.as_str()]).end().code, Some(0));
    assert_eq!(fleet.client("logs", [task.as_str()]).end().out, "saved\n");
}

#[test]
fn live_6_a_task_is_asked_for_checkpoints_at_a_pinned_interval_and_when_its_worker_drains() {
    for pinned in ["1s", "1h"] {
        let mut fleet = Fleet::start(&[]);
        let first = fleet.worker("w1", &["--drain-timeout", "2s", "--pin", &format!("checkpoint-every={pinned}")]);
        // It saves once, when it is asked to, and only then.
        let script = format!(
            r#"{PUT} [ -z "$REJOIN_CHECKPOINT_IN" ] || {{ cat "$REJOIN_CHECKPOINT_IN"; exit; }};
               until [ -e "$REJOIN_CHECKPOINT_WANTED" ]; do sleep 0.05; done; put asked; sleep 300"#
        );
        let task = fleet.submit(&[], &["sh", "-c", &script]);
        until("it runs", || fleet.json("result", &[&task])["status"] == "running");
        if pinned == "1s" {
            until("it is saved", || fleet.json("checkpoints", &[&task])[0]["number"] == 1);
        } else {
            assert!(fleet.json("checkpoints", &[&task]).as_array().is_some_and(Vec::is_empty));
        }
        first.signal("TERM");
        assert_eq!(first.end().code, Some(0));
        let _second = fleet.worker("w2", &[]);
        assert_eq!(fleet.client("wait", [task.as_str()]).end().code, Some(0));
        assert_eq!(fleet.client("logs", [task.as_str()]).end().out, "asked\n");
    }
}

#[test]
fn task_8_a_second_signal_ends_a_worker_at_once_and_its_tasks_go_to_others_at_once() {
    let mut fleet = Fleet::start(&[]);
    let first = fleet.worker("w1", &[]);
    let task = fleet.submit(&[], &["sh", "-c", "trap '' TERM; [ $REJOIN_ATTEMPT = 2 ] || sleep 300; echo second"]);
    until("it runs", || fleet.json("result", &[&task])["status"] == "running");
    let _second = fleet.worker("w2", &[]);
    first.signal("TERM");
    until("it drains", || fleet.json("workers", &[])[0]["state"] == "draining");
    let asked = Instant::now();
    first.signal("TERM");
    assert_eq!(first.end().code, Some(0));
    assert_eq!(fleet.client("wait", [task.as_str()]).end().code, Some(0), "although nobody is lost for a minute");
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
}

#[test]
fn a_coordinator_that_is_told_to_stop_does_so_and_the_next_one_goes_on() {
    let mut fleet = Fleet::start(&[]);
    let _worker = fleet.worker("w1", &["--slots", "2"]);
    let run =
        fleet.client("run", ["--", "sh", "-c", "sleep 0.1; echo x", "_", "{}", ":::"].into_iter().chain(["y"; 30]));
    until("some are done", || fleet.json("status", &[])["tasks"]["succeeded"].as_u64() > Some(5));
    let stopped = fleet.stop_coordinator();
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    fleet.start_coordinator();
    let run = run.end();
    assert_eq!((run.code, run.out), (Some(0), "x\n".repeat(30)), "{}", run.err);
    assert!(fleet.json("tasks", &[]).as_array().expect("an array").iter().all(|task| task["attempt"] == 1));
}

#[test]
fn task_9_tasks_find_workers_by_labels_and_amounts() {
    let mut fleet = Fleet::start(&[]);
    let _plain = fleet.worker("plain", &["--slots", "4"]);
    let _gpu = fleet.worker("gpu", &["--slots", "4", "--label", "os=linux", "--resource", "gpu=1"]);
    until("both are there", || fleet.json("status", &[])["workers"]["connected"] == 2);
    let nowhere = fleet.submit(&["--need", "os=plan9"], &["true"]);
    let why = |task: &str| fleet.json("result", &[task])["why"].as_str().unwrap_or_default().to_owned();
    until("it is known why it waits", || why(&nowhere).contains("no connected worker offers"));
    let count = fleet.path("count");
    let script = format!("echo + >> {0}; sleep 0.1; echo - >> {0}", count.display());
    let tasks: Vec<String> =
        (0..4).map(|_| fleet.submit(&["--need", "os=linux", "--take", "gpu=1"], &["sh", "-c", &script])).collect();
    assert_eq!(fleet.client("wait", tasks.iter().map(String::as_str)).end().code, Some(0));
    assert_eq!(fs::read_to_string(count).expect("a file"), "+\n-\n".repeat(4), "one at a time");
    let cancelled = fleet.client("cancel", [nowhere.as_str()]).end();
    assert_eq!((cancelled.code, cancelled.out), (Some(0), format!("{nowhere} cancelled\n")));
}

#[test]
fn task_1_the_same_submit_again_is_the_same_task_and_another_one_a_conflict() {
    let mut fleet = Fleet::start(&[]);
    let _worker = fleet.worker("w1", &[]);
    let once = fleet.submit(&["--id", "backup"], &["echo", "once"]);
    assert_eq!(fleet.submit(&["--id", "backup"], &["echo", "once"]), once);
    assert_eq!(fleet.client("wait", ["id:backup"]).end().code, Some(0));
    let other = fleet.client("submit", ["--id", "backup", "--", "echo", "twice"]).end();
    assert!(other.code == Some(254) && other.err.contains("another task has this id"), "{}", other.err);
    let waited = fleet.client("submit", ["--id", "backup", "--wait", "--", "echo", "once"]).end();
    assert_eq!((waited.code, waited.out.as_str()), (Some(0), "once\n"));
    let unknown = fleet.client("wait", ["id:nothing"]).end();
    assert!(unknown.code == Some(254) && unknown.err.contains("no such task"), "{}", unknown.err);
    assert_eq!(fleet.json("tasks", &[]).as_array().map(Vec::len), Some(1));
}

#[test]
fn output_of_a_running_task_can_be_read_and_followed() {
    let mut fleet = Fleet::start(&[]);
    let _worker = fleet.worker("w1", &[]);
    let go = fleet.path("go");
    let script = format!("echo one; echo err >&2; while [ ! -e {} ]; do sleep 0.01; done; echo two", go.display());
    let task = fleet.submit(&[], &["sh", "-c", &script]);
    until("its first line is kept", || fleet.json("result", &[&task])["stdout_bytes"] == 4);
    assert_eq!(fleet.client("logs", [task.as_str()]).end().out, "one\n");
    until("the other stream as well", || fleet.json("result", &[&task])["stderr_bytes"] == 4);
    assert_eq!(fleet.client("logs", ["--stderr", &task]).end().out, "err\n");
    assert_eq!(fleet.client("result", [task.as_str()]).end().code, Some(2), "not over yet");
    let following = fleet.client("logs", ["--follow", &task]);
    fs::write(&go, b"").expect("a file");
    assert_eq!(following.end().out, "one\ntwo\n");
}

#[test]
fn journ_4_a_folder_is_one_coordinators_and_a_damaged_journal_is_named() {
    let mut fleet = Fleet::start(&[]);
    let second =
        fleet.rejoin_unchecked(&["coordinator", "--listen", "127.0.0.1:0", "--data", "data", "--keys", "keys"]);
    assert_eq!(second.code, Some(254));
    assert!(second.err.contains("another coordinator or a worker is using this folder"), "{}", second.err);
    let worker = fleet.worker("w1", &[]);
    let task = fleet.submit(&[], &["true"]);
    assert_eq!(fleet.client("wait", [task.as_str()]).end().code, Some(0));
    drop(worker);
    fleet.kill_coordinator();
    let file = fleet.path("data/journal.redb");
    let mut bytes = fs::read(&file).expect("a journal");
    // Wherever one stands or stood: the file is written anew in place of being overwritten.
    let groups: Vec<usize> = (0..bytes.len() - 3).filter(|at| bytes[*at..].starts_with(b"rjg1")).collect();
    assert!(!groups.is_empty(), "a group of records");
    groups.into_iter().for_each(|at| bytes[at + 30] ^= 1);
    fs::write(&file, bytes).expect("a journal");
    let damaged =
        fleet.rejoin_unchecked(&["coordinator", "--listen", "127.0.0.1:0", "--data", "data", "--keys", "keys"]);
    assert_eq!((damaged.code, damaged.out.as_str()), (Some(254), ""), "{}", damaged.err);
    assert!(damaged.err.contains("journal.redb") && damaged.err.contains("backup"), "{}", damaged.err);
}

#[test]
fn journ_3_a_full_disk_ends_the_coordinator_and_loses_nothing() {
    let mut fleet = Fleet::start(&[]);
    let _worker = fleet.worker("w1", &[]);
    let before = fleet.submit(&[], &["echo", "before"]);
    assert_eq!(fleet.client("wait", [before.as_str()]).end().code, Some(0));
    fleet.kill_coordinator();
    let size = fs::metadata(fleet.path("data/journal.redb")).expect("a journal").len();
    // No file may grow beyond what the journal has: as good as a full disk.
    fleet.start_coordinator_with_file_limit(size + (256 << 10));
    let mut accepted = vec![before];
    let refused = (0..200).find_map(|n| {
        let (id, long) = (format!("big {n}"), "x".repeat(30_000));
        let submitted = fleet.client("submit", ["--patience", "2s", "--id", &id, "--", "true", &long]).end();
        match submitted.code {
            Some(0) => {
                accepted.push(submitted.out.trim().to_owned());
                None
            }
            _ => Some(submitted),
        }
    });
    assert!(refused.is_some(), "the disk is never full");
    let ended = fleet.coordinator_end();
    assert_eq!(ended.code, Some(254));
    assert!(ended.err.contains("the journal failed"), "{}", ended.err);
    fleet.start_coordinator();
    let all = fleet.json("tasks", &[]);
    let known: Vec<&str> = all.as_array().expect("an array").iter().filter_map(|task| task["id"].as_str()).collect();
    assert!(accepted.iter().all(|id| known.contains(&id.as_str())), "what was accepted is there");
}

#[test]
fn a_run_on_a_fleet_that_was_interrupted_goes_on_where_it_was() {
    let mut fleet = Fleet::start(&[]);
    let _worker = fleet.worker("w1", &["--slots", "2"]);
    fs::create_dir(fleet.path("ran")).expect("a directory");
    let script = format!("sleep 0.15; echo x >> {}/$1; echo $1", fleet.path("ran").display());
    let args = |more: &'static [&'static str]| {
        let items = (0..30).map(|n| n.to_string());
        let words = more.iter().copied().chain(["--data", "run", "--", "sh", "-c", &script, "_", "{}", ":::"]);
        words.map(str::to_owned).chain(items).collect::<Vec<String>>()
    };
    let first = fleet.client("run", args(&[]).iter().map(String::as_str));
    until("some are done", || fs::read_dir(fleet.path("ran")).expect("a directory").count() > 6);
    first.signal("INT");
    let first = first.end();
    assert_eq!(first.code, Some(130), "{}", first.err);
    assert!(first.err.contains("--resume"), "{}", first.err);
    let second = fleet.client("run", args(&["--resume"]).iter().map(String::as_str)).end();
    assert_eq!(second.code, Some(0), "{}", second.err);
    assert!(second.err.contains("30 succeeded, 0 failed"), "{}", second.err);
    for n in 0..30 {
        let ran = fs::read_to_string(fleet.path(&format!("ran/{n}"))).expect("it ran");
        assert_eq!(ran, "x\n", "task {n} ran twice");
    }
    let mut printed: Vec<u32> =
        format!("{}{}", first.out, second.out).lines().map(|n| n.parse().expect("a number")).collect();
    printed.sort_unstable();
    assert_eq!(printed, (0..30).collect::<Vec<u32>>(), "each was printed once");
}

#[test]
fn json_has_one_value_and_the_states_of_workers() {
    let mut fleet = Fleet::start(&["--lost-after", "300ms"]);
    let worker = fleet.worker("w1", &["--label", "zone=a"]);
    let state = || fleet.json("workers", &[])[0]["state"].clone();
    until("connected", || state() == "connected");
    let view = fleet.json("workers", &[]);
    assert_eq!(view[0]["labels"]["zone"], "a");
    assert_eq!(view[0]["name"], "w1");
    worker.kill();
    until("disconnected", || ["disconnected", "lost"].contains(&state().as_str().unwrap_or_default()));
    until("lost", || state() == "lost");
}

#[test]
fn a_worker_that_cannot_start_tasks_gives_them_back_and_leaves() {
    let mut fleet = Fleet::start(&[]);
    let gone = fleet.path("gone");
    let broken = fleet.worker("w1", &["--slots", "2", "--data", gone.to_str().expect("UTF-8")]);
    until("it is there", || fleet.json("status", &[])["workers"]["connected"] == 1);
    fs::remove_dir_all(&gone).expect("a directory");
    let tasks: Vec<String> = (0..6).map(|_| fleet.submit(&[], &["true"])).collect();
    let ended = broken.end();
    assert!(ended.code == Some(254) && ended.err.contains("no room for a task's files"), "{}", ended.err);
    let _healthy = fleet.worker("w2", &[]);
    let waited = fleet.client("wait", tasks.iter().map(String::as_str)).end();
    assert_eq!(waited.code, Some(0), "no task is to blame for that: {}", waited.out);
}

#[test]
fn task_8_a_worker_that_leaves_without_its_coordinator_says_what_that_means() {
    let mut fleet = Fleet::start(&[]);
    let worker = fleet.worker("w1", &["--drain-timeout", "1s"]);
    let done = fleet.path("done");
    let task = fleet.submit(&[], &["sh", "-c", &format!("sleep 0.5; echo x > {}", done.display())]);
    until("it runs", || fleet.json("result", &[&task])["status"] == "running");
    fleet.kill_coordinator();
    until("it is done", || done.exists());
    worker.signal("TERM");
    worker.signal("TERM");
    std::thread::sleep(Duration::from_millis(300));
    worker.signal("TERM");
    let ended = worker.end();
    assert!(ended.code == Some(254) && ended.err.contains("1 of its tasks will be given to others"), "{}", ended.err);
}

#[test]
fn journ_2_an_old_journal_is_named_by_workers_and_coordinator_and_taken_up_with_restored() {
    let mut fleet = Fleet::start(&[]);
    fleet.stop_coordinator();
    let copied = std::process::Command::new("cp").arg("-r").args([fleet.path("data"), fleet.path("backup")]).status();
    assert!(copied.expect("cp").success());
    fleet.start_coordinator();
    fleet.stop_coordinator();
    fleet.start_coordinator();
    let worker = fleet.worker("w0", &[]);
    fleet.submit(&["--id", "lost", "--wait"], &["true"]);
    fleet.stop_coordinator();
    fs::remove_dir_all(fleet.path("data")).expect("it goes");
    fs::rename(fleet.path("backup"), fleet.path("data")).expect("it is put back");
    fleet.start_coordinator();
    until("the worker says so", || worker.err().contains("older than what was seen here (epoch 2, and 3 was seen)"));
    let log = || fs::read_to_string(fleet.path("coordinator.err")).unwrap_or_default();
    until("the coordinator says so", || log().contains("older than what workers have seen (epoch 2, and 3 was seen)"));
    assert_eq!(log().matches("older than what workers").count(), 1);
    assert!(lives(worker.pid()));
    drop(worker);
    fleet.stop_coordinator();
    fleet.option("--restored");
    fleet.start_coordinator();
    assert!(fleet.json("status", &[])["epoch"].as_u64() > Some(1_700_000_000_000));
    assert_eq!(fleet.client("result", ["id:lost"]).end().code, Some(254), "nothing is known of it");
    let _worker = fleet.worker("w1", &[]);
    fleet.submit(&["--id", "lost", "--wait"], &["true"]);
    assert_eq!(fleet.json("result", &["id:lost"])["status"], "succeeded");
}

#[test]
fn journ_5_what_has_ended_is_forgotten_on_request_and_what_has_not_stays() {
    let mut fleet = Fleet::start(&[]);
    let _worker = fleet.worker("w0", &[]);
    fleet.submit(&["--id", "over", "--wait"], &["echo", "hello"]);
    fleet.submit(&["--id", "open"], &["sleep", "100"]);
    let open = fleet.client("forget", ["id:open"]).end();
    assert!(open.code == Some(1) && open.err.contains("has not ended") && open.out.is_empty(), "{}", open.err);
    let none = fleet.client("forget", ["id:none"]).end();
    assert!(none.code == Some(254) && none.err.contains("no such task"), "{}", none.err);
    let over = fleet.json("forget", &["id:over"]);
    assert!(over[0]["forgotten"] == true && over[0]["error"].is_null(), "{over}");
    let again = fleet.client("forget", ["id:over"]).end();
    assert!(again.code == Some(0) && again.out.ends_with(" forgotten\n"), "{}", again.out);
    for asks in ["logs", "result"] {
        let gone = fleet.client(asks, ["id:over"]).end();
        assert!(gone.code == Some(254) && gone.err.contains("succeeded, and") && gone.out.is_empty(), "{}", gone.err);
    }
    let gone = fleet.client("submit", ["--id", "over", "--wait", "--", "echo", "hello"]).end();
    assert!(gone.code == Some(254) && gone.err.contains("forgotten"), "{}", gone.err);
    assert!(fleet.client("wait", ["id:over"]).end().out.contains("succeeded"), "how it ended is not");
    fleet.client("cancel", ["id:open"]).end();
}

/// A worker that finishes a task while its coordinator is gone, and is killed then; returns the task
fn killed_with_a_result(fleet: &mut Fleet, script: &str) -> String {
    let worker = fleet.worker("w1", &["--data", "w1.data"]);
    let (go, starts) = (fleet.path("go"), fleet.path("starts"));
    let script = format!(
        "echo $REJOIN_ATTEMPT >> {starts}; while [ ! -e {go} ]; do sleep 0.01; done; {script}",
        starts = starts.display(),
        go = go.display()
    );
    let task = fleet.submit(&[], &["sh", "-c", &script]);
    until("it runs", || fleet.json("result", &[&task])["status"] == "running");
    fleet.kill_coordinator();
    fs::write(&go, b"").expect("a file");
    until("it is kept", || !results(fleet, "result").is_empty());
    worker.kill();
    task
}

/// Files of a kind among what the worker keeps
fn results(fleet: &Fleet, extension: &str) -> Vec<std::path::PathBuf> {
    let Ok(all) = fs::read_dir(fleet.path("w1.data/results")) else { return Vec::new() };
    let paths = all.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter(|path| path.extension().is_some_and(|own| own == extension)).collect()
}

#[test]
fn sess_9_a_killed_worker_delivers_what_it_had_finished_when_it_is_started_again() {
    let mut fleet = Fleet::start(&[]);
    // One stream that is too large for memory, and one that is not.
    let task = killed_with_a_result(&mut fleet, "seq 1 30000; echo complaint >&2; exit 7");
    assert_eq!(results(&fleet, "out").len(), 1);
    let again = fleet.worker("w1", &["--data", "w1.data"]);
    until("it has found it", || again.err().contains("an earlier process had finished tasks"));
    fleet.start_coordinator();
    assert_eq!(fleet.client("wait", [task.as_str()]).end().code, Some(1), "it had failed");
    let result = fleet.json("result", &[&task]);
    assert_eq!((&result["exit_code"], &result["attempt"]), (&7.into(), &1.into()), "{result}");
    let expected: String = (1..=30_000).map(|n| format!("{n}\n")).collect();
    assert!(fleet.client("logs", [task.as_str()]).end().out == expected, "its output is as it was");
    assert_eq!(fleet.client("logs", ["--stderr", task.as_str()]).end().out, "complaint\n");
    assert_eq!(fs::read_to_string(fleet.path("starts")).expect("it was started"), "1\n", "executed once");
    until("nothing is kept any more", || results(&fleet, "result").len() + results(&fleet, "out").len() == 0);
    again.signal("TERM");
    assert_eq!(again.end().code, Some(0));
}

#[test]
fn sess_9_a_killed_worker_delivers_a_large_result_as_well() {
    let mut fleet = Fleet::start(&[]);
    let (copy, fetched) = (fleet.path("copy"), fleet.path("fetched"));
    let script = format!(r#"head -c 5000001 /dev/urandom > {0}; cp {0} "$REJOIN_RESULT""#, copy.display());
    let task = killed_with_a_result(&mut fleet, &script);
    assert_eq!(results(&fleet, "large").len(), 1);
    let again = fleet.worker("w1", &["--data", "w1.data"]);
    until("it has found it", || again.err().contains("an earlier process had finished tasks"));
    fleet.start_coordinator();
    assert_eq!(fleet.client("wait", [task.as_str()]).end().code, Some(0));
    let got = fleet.client("result", [task.as_str(), "--fetch", fetched.to_str().expect("UTF-8")]).end();
    assert_eq!(got.code, Some(0), "{}", got.err);
    assert!(fs::read(&fetched).expect("a result") == fs::read(&copy).expect("what was left"));
    assert_eq!(fs::read_to_string(fleet.path("starts")).expect("it was started"), "1\n", "executed once");
    until("nothing is kept any more", || results(&fleet, "result").len() + results(&fleet, "large").len() == 0);
}

#[test]
fn sess_9_a_result_that_is_torn_is_named_and_its_task_is_executed_again() {
    let mut fleet = Fleet::start(&[]);
    let task = killed_with_a_result(&mut fleet, "echo done");
    let torn = results(&fleet, "result").remove(0);
    let bytes = fs::read(&torn).expect("a result");
    fs::write(&torn, &bytes[..bytes.len() / 2]).expect("half a result");
    let again = fleet.worker("w1", &["--data", "w1.data"]);
    until("it says so", || again.err().contains("set aside as"));
    fleet.start_coordinator();
    assert_eq!(fleet.client("wait", [task.as_str()]).end().code, Some(0));
    assert_eq!(fs::read_to_string(fleet.path("starts")).expect("it was started"), "1\n2\n");
    assert_eq!(results(&fleet, "damaged").len(), 1);
}

#[test]
fn sess_9_a_data_directory_is_refused_to_whoever_it_does_not_belong_to() {
    let mut fleet = Fleet::start(&[]);
    killed_with_a_result(&mut fleet, "echo done");
    let stranger = fleet.worker("w2", &["--data", "w1.data"]).end();
    assert_eq!(stranger.code, Some(254));
    assert!(stranger.err.contains("a result of the worker w1, and this worker is w2"), "{}", stranger.err);
    let again = fleet.worker("w1", &["--data", "w1.data"]);
    until("it has the directory", || again.err().contains("an earlier process had finished tasks"));
    let second = fleet.worker("w1", &["--data", "w1.data"]).end();
    assert_eq!(second.code, Some(254));
    assert!(second.err.contains("another worker or a coordinator is using this folder"), "{}", second.err);
    // It cannot deliver now, and says where what it has is.
    again.signal("TERM");
    std::thread::sleep(Duration::from_millis(300));
    again.signal("TERM");
    let ended = again.end();
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(ended.err.contains("1 of its results are in its data directory"), "{}", ended.err);
    assert_eq!(results(&fleet, "result").len(), 1);
    let small = fleet.worker("w1", &["--data", "w1.data", "--spool-max", "1000"]).end();
    assert!(small.code == Some(254) && small.err.contains("are too few"), "{}", small.err);
}
