//! `rejoin netbox`: fleets and other services behind a network that loses and damages packets
//!
//! Where there can be no such box, all of these are ignored, and that is said. With `REJOIN_NEEDS_NAMESPACES=1` they fail.

mod common;

use std::fs::{self, File};
use std::net::UdpSocket;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use common::{Process, lives, order_at, until};
use libtest_mimic::{Arguments, Trial};
use rejoin_smol::chaos::End;
use rejoin_smol::packets::{Condition, Forwarder, Kind};
use serde_json::Value;

/// Says which of the helpers at the end of this file the program is
const ROLE: &str = "REJOIN_TEST_ROLE";
const REJOIN: &str = env!("CARGO_BIN_EXE_rejoin");
const COORDINATOR: &str = "192.0.2.1:7878";

fn main() -> ExitCode {
    match std::env::var(ROLE).as_deref() {
        Ok("send") => return send(),
        Ok("receive") => return receive(),
        _ => {}
    }
    let needed = std::env::var_os("REJOIN_NEEDS_NAMESPACES").is_some_and(|value| value != "0");
    let probe = Command::new(REJOIN).args(["netbox", "--", "true"]).output().expect("the program to start");
    let ignored = !probe.status.success() && !needed;
    if ignored {
        let why = String::from_utf8_lossy(&probe.stderr);
        eprintln!("SKIPPED, NOT PASSED: no packet box can be made on this machine, so nothing of it is tested: {why}");
    }
    let tests: [(&str, fn()); 12] = [
        ("the_exit_status_is_the_commands", the_exit_status_is_the_commands),
        ("whatever_was_started_ends_with_the_box", whatever_was_started_ends_with_the_box),
        ("a_service_that_does_not_start_is_told", a_service_that_does_not_start_is_told),
        ("conditions_come_and_end_at_their_times", conditions_come_and_end_at_their_times),
        ("the_same_packets_are_lost_each_time", the_same_packets_are_lost_each_time),
        ("every_task_ends_once_at_20_percent_loss", every_task_ends_once_at_20_percent_loss),
        ("every_task_ends_once_in_a_mess", every_task_ends_once_in_a_mess),
        ("no_damage_that_tcp_lets_through_is_believed", no_damage_that_tcp_lets_through_is_believed),
        ("a_black_hole_for_large_packets_costs_nothing_once_healed", a_black_hole_costs_nothing_once_healed),
        ("one_way_loss_costs_nothing_once_healed", one_way_loss_costs_nothing_once_healed),
        ("a_device_that_was_down_costs_nothing", a_device_that_was_down_costs_nothing),
        ("a_worker_that_roams_goes_on_from_its_new_address", a_worker_that_roams_goes_on),
    ];
    let tests = tests.map(|(name, test)| {
        let test = move || {
            test();
            Ok(())
        };
        Trial::test(name, test).with_ignored_flag(ignored)
    });
    libtest_mimic::run(&Arguments::from_args(), tests.into()).exit_code()
}

fn netbox(options: &[&str], words: &[&str]) -> Command {
    let mut command = Command::new(REJOIN);
    command.env_remove("REJOIN_LOG").stdin(Stdio::null()).arg("netbox").args(options).arg("--").args(words);
    command
}

/// Runs a box to its end: exit status, standard output and standard error
fn run(mut command: Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("the program to start");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn the_exit_status_is_the_commands() {
    let (status, out, err) = run(netbox(&["--seed", "7"], &["sh", "-c", "echo hello; exit 3"]));
    assert_eq!((status, out.as_str()), (Some(3), "hello\n"), "{err}");
    assert!(err.contains("service at 192.0.2.1, command at 192.0.2.2, seed 7"), "{err}");
    let (status, _, err) = run(netbox(&[], &["sh", "-c", "kill -KILL $$"]));
    assert_eq!(status, Some(128 + 9), "{err}");
    let (status, _, err) = run(netbox(&[], &["./there-is-no-such-program"]));
    assert_eq!(status, Some(254), "{err}");
    assert!(err.contains("there-is-no-such-program: No such file"), "{err}");
}

fn a_service_that_does_not_start_is_told() {
    let (status, _, err) = run(netbox(&["--serve", "exit 4", "--wait-for", "80"], &["true"]));
    assert_eq!(status, Some(254), "{err}");
    assert!(err.contains("the service has ended before it accepted connections: exit status: 4"), "{err}");
}

fn conditions_come_and_end_at_their_times() {
    // A route is there while the device is up; the table of addresses has the one of the moment.
    let seen = "seen() { for i in $(seq 1500); do eval \"$2\" && { echo $1; return; }; sleep 0.02; done; exit 9; }
        seen up 'grep -q rejoin0 /proc/net/route'
        seen down '! grep -q rejoin0 /proc/net/route'
        seen up 'grep -q rejoin0 /proc/net/route'
        seen elsewhere 'grep -qw 192.0.2.3 /proc/net/fib_trie && ! grep -qw 192.0.2.2 /proc/net/fib_trie'";
    let options = ["--at", "5s", "roam", "--at", "500ms", "down towards=peer for=2s"];
    let (status, out, err) = run(netbox(&options, &["sh", "-c", seen]));
    assert_eq!((status, out.as_str()), (Some(0), "up\ndown\nup\nelsewhere\n"), "{err}");
    assert!(err.contains("the command's side has roamed to 192.0.2.3 (changes of its address: 1)"), "{err}");
}

fn whatever_was_started_ends_with_the_box() {
    // Each way of ending, with a command and a service that have left processes behind.
    for signal in [None, Some("TERM"), Some("KILL")] {
        let dir = tempfile::tempdir().expect("a directory");
        // Each of them can write only while it lives; the names of processes mean nothing outside.
        let mark = "trap '' HUP; while :; do echo >> $0; sleep 0.02; done";
        let left = |name: &str| format!("sh -c \"{mark}\" {} &", dir.path().join(name).display()).replace("$0", "\\$0");
        let last = if signal.is_none() { "sleep 0.5" } else { "sleep 1000" };
        let (service, command) = (left("service"), format!("{} {last}", left("command")));
        let service = format!("{service} sleep 1000");
        let (out, err) = (dir.path().join("out"), dir.path().join("err"));
        let mut started = netbox(&["--serve", &service], &["sh", "-c", &command]);
        started.stdout(File::create(&out).expect("a file")).stderr(File::create(&err).expect("a file"));
        let process = Process::of(started.spawn().expect("the program to start"), out, err);
        let size = |name: &str| fs::metadata(dir.path().join(name)).map_or(0, |data| data.len());
        until("both to run", || size("service") > 0 && size("command") > 0);
        if let Some(signal) = signal {
            process.signal(signal);
        }
        let pid = process.pid();
        let ended = process.end();
        assert!(!lives(pid), "{signal:?}: {}", ended.err);
        // Whoever is killed cannot wait for the rest, which the system kills as well.
        let mut before = (0, 0);
        until("nobody to write any more", || {
            std::thread::sleep(Duration::from_millis(300));
            let now = (size("service"), size("command"));
            std::mem::replace(&mut before, now) == now
        });
    }
}

fn the_same_packets_are_lost_each_time() {
    const COUNT: u64 = 200;
    let mut expected = Vec::new();
    let mut forwarder = Forwarder::new(7);
    forwarder.set(Duration::ZERO, Condition::new(Kind::Loss, 200_000)).expect("room for a condition");
    for number in 0..COUNT {
        // What counts is that it is a packet, and its number.
        forwarder.handle(Duration::ZERO, End::Coordinator, &[0x45; 60]);
        if forwarder.poll(Duration::ZERO).is_some() {
            expected.push(number.to_string());
        }
    }
    let share = expected.len() as f64 / COUNT as f64;
    assert!((0.7..0.9).contains(&share), "{share}");
    let itself = std::env::current_exe().expect("a program");
    let itself = itself.to_str().expect("UTF-8");
    for _ in 0..2 {
        let dir = tempfile::tempdir().expect("a directory");
        let service = format!("{ROLE}=receive exec {itself}");
        let mut command = netbox(&["--seed", "7", "--loss", "20%", "--serve", &service], &[itself]);
        command.current_dir(dir.path()).env(ROLE, "send").env("COUNT", COUNT.to_string());
        let (status, out, err) = run(command);
        assert_eq!(status, Some(0), "{err}");
        assert_eq!(out.split_whitespace().collect::<Vec<_>>(), expected);
    }
}

// Fleets.

/// A coordinator on one side, a worker and a client on the other, and many tasks
struct Lab {
    dir: tempfile::TempDir,
    process: Process,
    control: String,
}

const TASKS: usize = 60;

impl Lab {
    fn start(options: &[&str]) -> Lab {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, role) in [("w0", "worker"), ("client", "client")] {
            let key = format!("{name}.key");
            let mut made = Command::new(REJOIN);
            made.args(["key", "new", name, "--role", role, "--out", &key, "--keys", "keys"]).current_dir(dir.path());
            assert!(made.output().expect("the program to start").status.success(), "no key");
        }
        fs::create_dir(dir.path().join("starts")).expect("a directory");
        // Large enough for packets of full size, and one file for each task with a line for each start.
        fs::write(dir.path().join("task"), "echo x >> starts/$1; sleep 0.1; seq 1 1200; echo done $1\n")
            .expect("a file");
        let serve = format!(
            "exec {REJOIN} coordinator --listen {COORDINATOR} --insecure-ws --data data --keys keys --heartbeat 500ms"
        );
        let reach = format!("--coordinator ws://{COORDINATOR} --insecure-ws");
        let items: Vec<String> = (0..TASKS).map(|n| n.to_string()).collect();
        let work = format!(
            "{REJOIN} worker {reach} --key w0.key --slots 4 & \
             exec {REJOIN} run {reach} --key client.key --keep-order -- sh task {{}} ::: {}",
            items.join(" ")
        );
        let fixed = ["--seed", "7", "--json", "--report", "report", "--control", "127.0.0.1:0", "--wait-for", "7878"];
        let mut command = netbox(&[&fixed, &["--serve", &serve][..], options].concat(), &["sh", "-c", &work]);
        let (out, err) = (dir.path().join("out"), dir.path().join("err"));
        command.stdout(File::create(&out).expect("a file")).stderr(File::create(&err).expect("a file"));
        let process = Process::of(command.current_dir(dir.path()).spawn().expect("the program to start"), out, err);
        let mut lab = Lab { process, control: String::new(), dir };
        until("its address", || {
            assert!(lives(lab.process.pid()), "{}", lab.process.err());
            lab.control = lab.report().first().map_or("", |ready| ready["control"].as_str().expect("it")).to_owned();
            !lab.control.is_empty()
        });
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the box has said so far
    fn report(&self) -> Vec<Value> {
        let report = fs::read_to_string(self.path("report")).unwrap_or_default();
        let whole = report.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn order(&self, line: &str) {
        assert_eq!(order_at(&self.control, line), "ok", "{line}");
    }

    /// How often something has befallen packets, both ways together
    fn count(&self, name: &str) -> u64 {
        both(&serde_json::from_str(&order_at(&self.control, "status")).expect("JSON"), name)
    }

    fn until_work_is_under_way(&self) {
        let starts = self.path("starts");
        until("some tasks", || fs::read_dir(&starts).expect("a directory").count() >= 8);
    }

    fn until_counted(&self, name: &str, times: u64) {
        until(name, || self.count(name) >= times);
    }

    /// Waits for the end, where every task has been executed once and printed once; returns the summary
    fn end_well(self) -> Value {
        let Lab { dir, process, .. } = self;
        let pid = process.pid();
        let ended = process.end();
        let log: String = ended.err.lines().rev().take(40).map(|line| format!("{line}\n")).collect();
        assert_eq!(ended.code, Some(0), "{pid}: {log}");
        let numbers: String = (1..=1200).map(|n| format!("{n}\n")).collect();
        let expected: String = (0..TASKS).map(|n| format!("{numbers}done {n}\n")).collect();
        assert!(ended.out == expected, "the output is another one: {} bytes: {log}", ended.out.len());
        assert_started_once(dir.path());
        let report = fs::read_to_string(dir.path().join("report")).expect("a report");
        serde_json::from_str(report.lines().last().expect("a summary")).expect("JSON")
    }
}

fn assert_started_once(dir: &Path) {
    for n in 0..TASKS {
        let starts = fs::read_to_string(dir.join("starts").join(n.to_string())).expect("it was started");
        assert_eq!(starts, "x\n", "task {n} was executed again");
    }
}

fn both(summary: &Value, name: &str) -> u64 {
    let of = |side: &str| summary[side][name].as_u64().expect("a number");
    of("towards_peer") + of("towards_coordinator")
}

fn every_task_ends_once_at_20_percent_loss() {
    let summary = Lab::start(&["--loss", "20%", "--delay", "5ms"]).end_well();
    let (lost, packets) = (both(&summary, "lost"), both(&summary, "packets"));
    assert!(lost * 10 > packets, "{lost} of {packets}");
}

fn every_task_ends_once_in_a_mess() {
    let options = "--duplicate 10% --reorder 20% --corrupt 5% --jitter 20ms --bandwidth 2Mbit";
    let summary = Lab::start(&options.split(' ').collect::<Vec<_>>()).end_well();
    for name in ["duplicated", "reordered", "corrupted"] {
        assert!(both(&summary, name) > 0, "{name}: {summary}");
    }
}

fn no_damage_that_tcp_lets_through_is_believed() {
    let lab = Lab::start(&[]);
    lab.until_work_is_under_way();
    lab.order("flip 20%");
    lab.until_counted("flipped", 5);
    lab.order("flip 1%");
    let summary = lab.end_well();
    assert!(both(&summary, "flipped") >= 5, "{summary}");
}

fn a_black_hole_costs_nothing_once_healed() {
    let lab = Lab::start(&[]);
    lab.until_work_is_under_way();
    lab.order("blackhole 600");
    // Large ones are sent again and again, and on several connections.
    lab.until_counted("blackholed", 10);
    lab.order("heal");
    lab.end_well();
}

fn one_way_loss_costs_nothing_once_healed() {
    for towards in ["peer", "coordinator"] {
        let lab = Lab::start(&[]);
        lab.until_work_is_under_way();
        lab.order(&format!("loss 100% towards={towards}"));
        lab.until_counted("lost", 10);
        lab.order("heal");
        let summary = lab.end_well();
        let other = if towards == "peer" { "towards_coordinator" } else { "towards_peer" };
        assert_eq!(summary[other]["lost"], 0, "{summary}");
    }
}

fn a_device_that_was_down_costs_nothing() {
    let lab = Lab::start(&[]);
    lab.until_work_is_under_way();
    lab.order("down towards=peer");
    lab.until_counted("undeliverable", 1);
    lab.order("heal");
    lab.end_well();
}

fn a_worker_that_roams_goes_on() {
    let lab = Lab::start(&[]);
    lab.until_work_is_under_way();
    lab.order("roam");
    let summary = lab.end_well();
    assert_eq!((&summary["roamed"], &summary["peer"]), (&1.into(), &"192.0.2.3".into()), "{summary}");
}

// Helpers that run inside a box.

/// Sends numbers, then asks until it is told which of them have arrived
fn send() -> ExitCode {
    let count: u64 = std::env::var("COUNT").expect("how many").parse().expect("a number");
    until("somebody who receives", || Path::new("receives").exists());
    let socket = UdpSocket::bind("192.0.2.2:0").expect("a socket");
    socket.connect("192.0.2.1:9").expect("an address");
    for number in 0..count {
        socket.send(number.to_string().as_bytes()).expect("room for a packet");
    }
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("a limit");
    let mut answer = [0; 1400];
    until("an answer", || {
        socket.send(b"?").expect("room for a packet");
        let Ok(len) = socket.recv(&mut answer) else { return false };
        println!("{}", String::from_utf8_lossy(&answer[..len]));
        true
    });
    ExitCode::SUCCESS
}

fn receive() -> ExitCode {
    let socket = UdpSocket::bind("192.0.2.1:9").expect("a socket");
    File::create("receives").expect("a file");
    let mut numbers = Vec::new();
    loop {
        let mut bytes = [0; 100];
        let (len, from) = socket.recv_from(&mut bytes).expect("a packet");
        match std::str::from_utf8(&bytes[..len]).expect("UTF-8") {
            "?" => _ = socket.send_to(numbers.join(" ").as_bytes(), from).expect("room for a packet"),
            number => numbers.push(number.to_owned()),
        }
    }
}
