//! A worker that is killed leaves nothing behind
//!
//! This binary plays all parts: a test starts it again as a worker, which starts it again as its guardian.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rejoin_smol::exec::{CommandSpec, ExecEvent, Execution, Surroundings};
use rejoin_smol::guardian::{Guardian, guard};
use smol::channel::{Receiver, unbounded};

/// Which part is played, and the script of the worker's task
const PART: &str = "GUARDIAN_TEST_PART";
const SCRIPT: &str = "GUARDIAN_TEST_SCRIPT";
/// How long the worker's lease lasts, in milliseconds, grace included; where there is one, its task is exclusive
const LEASE: &str = "GUARDIAN_TEST_LEASE";

/// Longest that anything may take, however slow the machine
const PATIENCE: Duration = Duration::from_secs(60);

fn play(part: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["--exact", "part", "--nocapture"]).env(PART, part);
    command
}

/// The part that this binary was started for; nothing when it runs as a test
#[test]
fn part() {
    match std::env::var(PART).as_deref() {
        Ok("guardian") => guard(std::io::stdin()),
        Ok("worker") => work(),
        _ => {}
    }
}

/// Runs the script as a task; tells the guardian's process id, and when the task is over
fn work() {
    let guardian = Guardian::start(play("guardian")).expect("a guardian");
    let mut spec = CommandSpec::new("sh");
    spec.args = vec!["-c".into(), std::env::var_os(SCRIPT).expect("a script")];
    let (events, happened) = unbounded();
    let spool_dir = std::env::temp_dir().as_path().into();
    let lease = std::env::var(LEASE).ok().and_then(|ms| ms.parse().ok()).map(Duration::from_millis);
    if let Some(left) = lease {
        guardian.lease_ends_in(left);
    }
    let exclusive = lease.is_some();
    let around = Surroundings { spool_dir, guardian: Some(guardian), exclusive, checkpoints: None };
    let _execution = Execution::start(1, spec, around, events);
    while let Ok(event) = smol::block_on(happened.recv()) {
        if matches!(event, ExecEvent::Finished { .. }) {
            println!("over");
            // Stays until its standard input is closed.
            let _ = std::io::stdin().read_line(&mut String::new());
            return;
        }
    }
}

fn worker(script: &str) -> Child {
    let mut command = play("worker");
    command.env(SCRIPT, script).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().expect("a worker")
}

/// A directory in which a script leaves the ids of its processes
struct Pids(tempfile::TempDir);

impl Pids {
    fn new() -> Self {
        Pids(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Waits until a process has left its id
    fn get(&self, name: &str) -> i32 {
        let mut pid = None;
        until(name, || {
            let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
            pid = text.strip_suffix('\n').and_then(|text| text.parse().ok());
            pid.is_some()
        });
        pid.expect("a process id")
    }
}

fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state stands behind the name, which may hold anything.
    stat.rsplit(')')
        .next()
        .is_some_and(|rest| rest.trim_start().starts_with(|state| !"ZX".contains(state) && state != '\0'))
        && !stat.is_empty()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what} never comes");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Starts a script as an attempt that is not exclusive
fn start(guardian: &Guardian, dir: &Path, id: u64, script: &str) -> (Execution, Receiver<ExecEvent>) {
    let mut spec = CommandSpec::new("sh");
    spec.args = vec!["-c".into(), script.into()];
    let (events, happened) = unbounded();
    let around =
        Surroundings { spool_dir: dir.into(), guardian: Some(guardian.clone()), exclusive: false, checkpoints: None };
    (Execution::start(id, spec, around, events), happened)
}

fn gone_after_the_kill(script: &str, names: &[&str]) {
    let pids = Pids::new();
    let dir = pids.0.path().to_str().expect("UTF-8");
    let mut worker = worker(&script.replace("DIR", dir));
    let all: Vec<i32> = names.iter().map(|name| pids.get(name)).collect();
    assert!(all.iter().all(|pid| lives(*pid)), "they run");
    worker.kill().expect("a worker to kill");
    worker.wait().expect("its end");
    let killed = Instant::now();
    until("the end of all", || !all.iter().any(|pid| lives(*pid)));
    println!("{names:?} gone after {:?}", killed.elapsed());
}

#[test]
fn the_group_of_a_killed_workers_task_ends_even_if_it_ignores_sigterm() {
    let script = "trap '' TERM HUP INT; sleep 300 & echo $! > DIR/child.x; mv DIR/child.x DIR/child; \
                  echo $$ > DIR/task.x; mv DIR/task.x DIR/task; while :; do sleep 300; done";
    gone_after_the_kill(script, &["task", "child"]);
}

#[test]
fn what_has_left_the_group_is_found_by_its_mark() {
    let script = "setsid sh -c 'echo $$ > DIR/far.x; mv DIR/far.x DIR/far; exec sleep 300' & \
                  echo $$ > DIR/task.x; mv DIR/task.x DIR/task; wait; sleep 300";
    gone_after_the_kill(script, &["task", "far"]);
}

#[test]
fn a_guardian_that_dies_is_replaced_by_one_that_knows_everything() {
    let pids = Pids::new();
    let dir = pids.0.path().to_str().expect("UTF-8");
    let script = "echo $$ > DIR/task.x; mv DIR/task.x DIR/task; sleep 300".replace("DIR", dir);
    let guardian = Guardian::start(play("guardian")).expect("a guardian");
    let start = |id, script: &str| start(&guardian, pids.0.path(), id, script);
    let (execution, _events) = start(1, &script);
    let task = pids.get("task");
    let first = guardian.process().expect("it runs");
    let killed = Command::new("kill").args(["-9", &first.to_string()]).status().expect("kill");
    assert!(killed.success());
    // The next thing to be said finds out.
    until("another guardian", || {
        let (execution, happened) = start(2, "true");
        while !matches!(smol::block_on(happened.recv()), Ok(ExecEvent::Finished { .. })) {}
        drop(execution);
        guardian.process().is_some_and(|pid| pid != first)
    });
    assert!(lives(task), "nobody was harmed by that");
    drop(execution);
    until("the end of the task", || !lives(task));
}

#[test]
fn task_7_what_is_stopped_ends_whatever_group_it_is_in() {
    let pids = Pids::new();
    let dir = pids.0.path().to_str().expect("UTF-8");
    let script = "setsid sh -c 'trap \"\" TERM; echo $$ > DIR/far.x; mv DIR/far.x DIR/far; while :; do sleep 300; done' & \
                  echo $$ > DIR/task.x; mv DIR/task.x DIR/task; wait; sleep 300";
    let guardian = Guardian::start(play("guardian")).expect("a guardian");
    let start = |id, script: &str| start(&guardian, pids.0.path(), id, script);
    let (execution, happened) = start(1, &script.replace("DIR", dir));
    let (other, _others) = start(2, &"echo $$ > DIR/other.x; mv DIR/other.x DIR/other; sleep 300".replace("DIR", dir));
    let all = ["task", "far", "other"].map(|name| pids.get(name));
    execution.cancel();
    while !matches!(smol::block_on(happened.recv()), Ok(ExecEvent::Finished { .. })) {}
    assert_eq!(all.map(lives), [false, false, true], "the task, what has left its group, and another task");
    drop(other);
    until("the end of the other", || !lives(all[2]));
}

#[test]
fn a_worker_that_ends_in_order_harms_nobody() {
    let pids = Pids::new();
    let mut bystander = Command::new("sleep").arg("300").spawn().expect("a process");
    let mut worker = worker("true");
    let mut lines = BufReader::new(worker.stdout.take().expect("a pipe")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("over"))));
    let mut stdin = worker.stdin.take().expect("a pipe");
    stdin.write_all(b"\n").expect("a worker that listens");
    assert!(worker.wait().expect("its end").success());
    assert!(bystander.try_wait().expect("a state").is_none(), "it still runs");
    bystander.kill().expect("its end");
    bystander.wait().expect("its end");
    drop(pids);
}

#[test]
fn a_guardian_that_dies_is_replaced_though_nothing_happens() {
    let guardian = Guardian::start(play("guardian")).expect("a guardian");
    let first = guardian.process().expect("a process");
    let killed = Command::new("kill").args(["-KILL", &first.to_string()]).status().expect("kill");
    assert!(killed.success());
    let start = Instant::now();
    while guardian.process().is_none_or(|process| process == first) {
        assert!(start.elapsed() < PATIENCE, "there is no other one");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn task_4_an_exclusive_task_of_a_worker_that_stands_still_ends_with_its_lease() {
    for exclusive in [true, false] {
        let pids = Pids::new();
        let dir = pids.0.path().to_str().expect("UTF-8");
        let script = "trap '' TERM; sleep 300 & echo $! > DIR/child.x; mv DIR/child.x DIR/child; \
                      setsid sh -c 'echo $$ > DIR/far.x; mv DIR/far.x DIR/far; exec sleep 300' & \
                      echo $$ > DIR/task.x; mv DIR/task.x DIR/task; while :; do sleep 300; done";
        let mut command = play("worker");
        command.env(SCRIPT, script.replace("DIR", dir)).stdin(Stdio::piped()).stdout(Stdio::piped());
        if exclusive {
            command.env(LEASE, "3000");
        }
        let begun = Instant::now();
        let mut worker = command.spawn().expect("a worker");
        let all: Vec<i32> = ["task", "child", "far"].iter().map(|name| pids.get(name)).collect();
        let process = rustix::process::Pid::from_child(&worker);
        rustix::process::kill_process(process, rustix::process::Signal::STOP).expect("a worker to stop");
        if exclusive {
            until("the end of all", || !all.iter().any(|pid| lives(*pid)));
            assert!(begun.elapsed() >= Duration::from_millis(3000), "not before it ends");
        } else {
            std::thread::sleep(Duration::from_millis(4500));
            assert!(all.iter().all(|pid| lives(*pid)), "others go on: whoever stands still may go on as well");
        }
        worker.kill().expect("a worker to kill");
        worker.wait().expect("its end");
    }
}
