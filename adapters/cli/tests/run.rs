//! `rejoin run` as its users run it: a process, its output, its exit status

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Whatever takes longer hangs, however slow and busy the machine
const RUN_TIME_MAX: Duration = Duration::from_secs(300);

/// A run that has ended
struct Run {
    out: Vec<u8>,
    err: String,
    code: Option<i32>,
}

impl Run {
    fn text(&self) -> &str {
        str::from_utf8(&self.out).expect("UTF-8")
    }

    /// Its JSON lines: those of tasks, and the summary
    fn json(&self) -> (Vec<Value>, Value) {
        let mut lines: Vec<Value> = self.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let summary = lines.pop().expect("a summary");
        assert!(lines.iter().all(|line| line["type"] == "task") && summary["type"] == "summary");
        (lines, summary)
    }

    /// A number of the summary line, by the word behind it
    fn summed(&self, word: &str) -> u64 {
        let summary = self.err.lines().last().expect("a summary");
        let before = summary.split(word).next().expect("a number before the word");
        before.trim().rsplit([' ', '(']).next().and_then(|number| number.parse().ok()).expect(summary)
    }

    /// The end of the summary that all of this is about
    fn is_clean(&self) -> bool {
        self.err.ends_with("lost 0, duplicated 0\n")
    }
}

fn start<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rejoin"));
    command.arg("run").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("the program to start")
}

fn end(child: Child) -> Run {
    let pid = child.id();
    let (ended, timer) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        let hangs = timer.recv_timeout(RUN_TIME_MAX) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if hangs {
            signal("KILL", pid);
        }
        hangs
    });
    let Output { status, stdout, stderr } = child.wait_with_output().expect("an exit status");
    drop(ended);
    assert!(!watchdog.join().expect("no panic"), "the run did not end: {}", String::from_utf8_lossy(&stderr));
    Run { out: stdout, err: String::from_utf8(stderr).expect("UTF-8"), code: status.code() }
}

/// Runs the program to its end
fn run<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Run {
    let mut child = start(args);
    drop(child.stdin.take());
    end(child)
}

/// Runs the program with words that have no spaces in them
fn run_words(words: &str) -> Run {
    run(words.split(' '))
}

fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status();
    assert!(sent.expect("kill").success());
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < RUN_TIME_MAX, "{what} never comes");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A directory of files to work on
fn files(count: usize) -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().expect("a directory");
    let paths: Vec<PathBuf> = (0..count).map(|n| dir.path().join(format!("file {n}"))).collect();
    for (n, path) in paths.iter().enumerate() {
        fs::write(path, n.to_string()).expect("a file");
    }
    (dir, paths)
}

/// Bytes without a pattern
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(next).collect()
}

/// Processes that have this text in their command line
fn processes_of(marker: &str) -> usize {
    let entries = fs::read_dir("/proc").expect("a proc file system").flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.windows(marker.len()).any(|part| part == marker.as_bytes())).count()
}

// The main job.

fn equals_a_direct_run(disrupt: &str, reconnections_min: u64) {
    let (_dir, paths) = files(200);
    let script = r#"sleep 0.05; sha256sum "$1""#;
    let mut direct = Vec::new();
    for path in &paths {
        direct.extend(Command::new("sha256sum").arg(path).output().expect("sha256sum").stdout);
    }
    let mut args: Vec<OsString> =
        ["--workers", "4", "--keep-order", "--seed", "7", "--disrupt", disrupt].map(OsString::from).into();
    args.extend(["--", "sh", "-c", script, "_", "{}", ":::"].map(OsString::from));
    args.extend(paths.into_iter().map(OsString::from));
    let run = run(args);
    assert!(run.out == direct, "the output differs:\n{}", run.err);
    assert!(run.code == Some(0) && run.is_clean(), "{}", run.err);
    assert_eq!(run.summed(" succeeded"), 200);
    let reconnections = run.summed(" reconnection");
    assert!(reconnections >= reconnections_min, "{}", run.err);
}

#[test]
fn output_equals_a_direct_run_on_quiet_links() {
    equals_a_direct_run("none", 0);
}

#[test]
fn output_equals_a_direct_run_through_cuts() {
    equals_a_direct_run("cuts", 20);
}

#[test]
fn output_equals_a_direct_run_through_a_storm() {
    equals_a_direct_run("storm", 20);
}

#[test]
fn five_thousand_tiny_items_are_no_matter() {
    let items = (0..5000).map(|n| n.to_string());
    let args = ["--slots", "4", "--keep-order", "--", "echo", "{}", ":::"].map(String::from);
    let run = run(args.into_iter().chain(items.clone()));
    assert!(run.text().lines().map(String::from).eq(items), "{}", run.err);
    assert!(run.code == Some(0) && run.is_clean(), "{}", run.err);
}

// Items.

#[test]
fn items_arrive_as_they_are_whatever_they_hold() {
    let odd = ["a b", "it's", "\"q\"", "-n", "--help", "$HOME `id` \\", "two\nlines", "*", "", "a b", "é", ";exit 9"];
    let args = ["--keep-order", "--", "printf", "<%s>", "{}", ":::"].into_iter().chain(odd);
    let run = run(args);
    assert_eq!(run.text(), odd.map(|item| format!("<{item}>")).concat());
    assert_eq!((run.code, run.summed(" succeeded")), (Some(0), 12), "equal items are separate tasks");
}

#[test]
fn the_item_goes_wherever_braces_are() {
    assert_eq!(run_words("-- printf %s. {}a{}b{} {} ::: x").text(), "xaxbx.x.");
    assert_eq!(run_words("-- {} from the item ::: echo").text(), "from the item\n");
    assert_eq!(run_words("-- echo last ::: x").text(), "last x\n", "without braces it is the last argument");
}

#[test]
fn items_come_from_a_file_or_from_standard_input() {
    let (dir, _) = files(0);
    let list = dir.path().join("list");
    fs::write(&list, "one\n two \n\\n\nlast").unwrap();
    let expected = "<one>< two ><\\n><last>";
    let command = ["--keep-order", "--", "printf", "<%s>"];
    let from_file = run([OsStr::new("--from"), list.as_os_str()].into_iter().chain(command.map(OsStr::new)));
    assert_eq!((from_file.text(), from_file.code), (expected, Some(0)));
    for from in [&["--from", "-"][..], &[]] {
        let mut child = start(from.iter().chain(&command));
        child.stdin.take().expect("a pipe").write_all(&fs::read(&list).unwrap()).unwrap();
        assert_eq!(end(child).text(), expected);
    }
    let none = run(["--", "false"]);
    assert_eq!((none.text(), none.code), ("", Some(0)), "no items, no tasks");
}

#[test]
fn a_task_knows_what_it_is_part_of() {
    let run =
        run(["--keep-order", "--", "sh", "-c", "echo $REJOIN_ATTEMPT ${#REJOIN_TASK} $REJOIN_TOKEN", ":::", "a", "b"]);
    let lines: Vec<Vec<&str>> = run.text().lines().map(|line| line.split(' ').collect()).collect();
    assert!(lines.iter().all(|line| line[0] == "1" && line[1] == "32"));
    assert_ne!(lines[0][2], lines[1][2], "no token is given twice");
}

// Output.

#[test]
fn large_binary_output_is_kept_byte_for_byte_through_cuts() {
    let (dir, _) = files(0);
    let (path, bytes) = (dir.path().join("noise"), noise(20 << 20));
    fs::write(&path, &bytes).unwrap();
    let args = ["--disrupt", "cuts", "--seed", "3", "--", "cat", "{}", ":::"].map(OsStr::new);
    let run = run(args.into_iter().chain([path.as_os_str()]));
    assert!(run.out == bytes, "{} bytes came out: {}", run.out.len(), run.err);
    assert!(run.code == Some(0) && run.is_clean(), "{}", run.err);
}

#[test]
fn both_streams_stay_apart_and_each_tasks_output_stays_whole() {
    let script = r#"for n in 1 2 3; do echo "out $1 $n"; echo "err $1 $n" >&2; sleep 0.01; done"#;
    let run = run(["--workers", "4", "--", "sh", "-c", script, "_", "{}", ":::", "a", "b", "c", "d"]);
    let told: Vec<&str> = run.err.lines().filter(|line| !line.starts_with("rejoin: ")).collect();
    for (lines, stream) in [(run.text().lines().collect(), "out"), (told, "err")] {
        for task in lines.chunks(3) {
            let name = &task[0][4..5];
            assert_eq!(task, [1, 2, 3].map(|n| format!("{stream} {name} {n}")), "mixed: {lines:?}");
        }
        assert_eq!(lines.len(), 12);
    }
}

#[test]
fn json_lines_say_all_there_is_to_say() {
    let script = r#"printf '\000\377'; echo aside >&2; exit $1"#;
    let mut args: Vec<OsString> =
        ["--json", "--keep-order", "--", "sh", "-c", script, "_", "{}", ":::", "0", "3"].map(Into::into).into();
    // Not UTF-8, and no number for `exit`.
    args.push(OsString::from_vec(vec![b'x', 0xff]));
    let run = run(args);
    assert_eq!((run.code, run.err.as_str()), (Some(2), ""));
    let (tasks, summary) = run.json();
    for task in &tasks {
        assert_eq!(STANDARD.decode(task["stdout_base64"].as_str().unwrap()).unwrap(), [0, 0xff]);
        assert!(task["wall_ms"].is_u64() && task["attempt"] == 1 && task.get("stdout").is_none());
    }
    assert_eq!([&tasks[0]["stderr"], &tasks[1]["stderr"]], ["aside\n"; 2]);
    assert_eq!(
        (&tasks[0]["item"], &tasks[0]["status"], &tasks[0]["exit_code"]),
        (&"0".into(), &"succeeded".into(), &0.into())
    );
    assert_eq!(
        (&tasks[1]["status"], &tasks[1]["exit_code"], &tasks[1]["error"]),
        (&"failed".into(), &3.into(), &"exit status 3".into())
    );
    assert_eq!(STANDARD.decode(tasks[2]["item_base64"].as_str().unwrap()).unwrap(), [b'x', 0xff]);
    let counts = ["submitted", "succeeded", "failed", "cancelled", "applied", "lost", "duplicated", "executions"];
    assert_eq!(counts.map(|count| summary[count].as_u64().unwrap()), [3, 1, 2, 0, 3, 0, 0, 3]);
    assert!(["reconnections", "resumed", "disruptions", "wall_ms"].iter().all(|count| summary[count].is_u64()));
}

#[test]
fn a_reader_that_goes_away_ends_the_run() {
    let mut child = start(["--", "sh", "-c", "sleep 0.01; echo $1", "_", "{}", ":::"].into_iter().chain(["x"; 2000]));
    let mut first = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "x\n");
    assert_eq!(end(child).code, Some(130));
}

// Failures.

#[test]
fn the_exit_status_counts_failed_tasks() {
    assert_eq!(run_words("-- true ::: a").code, Some(0));
    assert_eq!(run_words("-- false ::: a").code, Some(1));
    assert_eq!(run(["--", "sh", "-c", "exit $1", "_", "{}", ":::", "0", "1", "2", "0", "3"]).code, Some(3));
    assert_eq!(run(["--", "false", ":::"].into_iter().chain(["x"; 150])).code, Some(101));
    let killed = run(["--", "sh", "-c", "kill -9 $$", ":::", "a"]);
    assert!(killed.code == Some(1) && killed.err.contains("killed by signal 9"), "{}", killed.err);
}

#[test]
fn wrong_usage_is_told_from_failure() {
    for words in
        ["", "--", "--no-such-option -- true ::: a", "--workers 0 -- true ::: a", "-- true ::: a ::: b", "true ::: a"]
    {
        let run = run_words(words);
        assert_eq!((run.code, run.text()), (Some(255), ""), "{words}: {}", run.err);
        assert!(!run.err.is_empty(), "{words}");
    }
    assert_eq!(run_words("--from /no/such/list -- true").code, Some(255));
}

#[test]
fn a_program_that_cannot_start_is_named() {
    let run = run_words("-- no-such-program-anywhere ::: a b");
    assert_eq!(run.code, Some(2));
    assert_eq!(run.err.matches("no-such-program-anywhere").count(), 2, "{}", run.err);
}

#[test]
fn failed_tasks_run_again_as_often_as_allowed() {
    let third =
        |retries: &str| run(["--json", "--retries", retries, "--", "sh", "-c", "[ $REJOIN_ATTEMPT = 3 ]", ":::", "a"]);
    let (enough, short) = (third("2"), third("1"));
    assert_eq!((enough.code, &enough.json().0[0]["attempt"]), (Some(0), &3.into()));
    assert_eq!((short.code, &short.json().0[0]["attempt"]), (Some(1), &2.into()));
    assert_eq!(enough.json().1["executions"], 3);
}

#[test]
fn a_task_that_takes_too_long_is_stopped_with_its_children() {
    let run = run(["--timeout", "200ms", "--", "sh", "-c", "echo begun; sleep 4711.25; true", ":::", "a"]);
    assert_eq!((run.code, run.text()), (Some(1), "begun\n"));
    assert!(run.err.contains("--timeout"), "{}", run.err);
    assert_eq!(processes_of("4711.25"), 0);
}

#[test]
fn a_task_that_writes_too_much_is_stopped() {
    let run = run_words("--output-max 10k --json -- head -c {} /dev/zero ::: 10000 10001 1000000000");
    let (tasks, summary) = run.json();
    assert_eq!((run.code, &summary["succeeded"], &summary["executions"]), (Some(2), &1.into(), &3.into()));
    let errors: Vec<_> = tasks.iter().filter_map(|task| task["error"].as_str()).collect();
    assert!(errors.len() == 2 && errors.iter().all(|error| error.contains("output too large")), "{errors:?}");
}

#[test]
fn an_interrupt_stops_all_tasks_and_leaves_no_process() {
    let (dir, _) = files(0);
    let begun = dir.path().join("begun");
    let script = format!("echo >> '{}'; sleep 4711.5; true", begun.display());
    let child = start(["--workers", "2", "--", "sh", "-c", &script, ":::", "a", "b", "c", "d"]);
    until("the start of two tasks", || fs::read(&begun).is_ok_and(|lines| lines.len() == 2));
    signal("INT", child.id());
    let run = end(child);
    assert_eq!(run.code, Some(130), "{}", run.err);
    assert!(run.err.contains("interrupted") && run.err.contains("4 cancelled") && run.is_clean(), "{}", run.err);
    assert_eq!(processes_of("4711.5"), 0);
}

#[test]
fn a_second_interrupt_leaves_at_once_and_still_leaves_no_process() {
    let (dir, _) = files(0);
    let begun = dir.path().join("begun");
    let script = format!("trap '' TERM; echo > '{}'; while :; do sleep 4711.75; done", begun.display());
    let mut child = start(["--", "sh", "-c", &script, ":::", "a"]);
    until("the start of the task", || begun.exists());
    signal("INT", child.id());
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("interrupted") {
        line.clear();
        assert!(err.read_line(&mut line).unwrap() > 0, "no word of the interrupt");
    }
    signal("INT", child.id());
    assert_eq!(end(child).code, Some(130));
    until("the end of all processes", || processes_of("4711.75") == 0);
}

#[test]
fn a_data_directory_is_kept_and_serves_one_run_at_a_time() {
    let (dir, _) = files(0);
    let data = dir.path().join("data");
    let with_data = |rest: &[&str]| -> Vec<OsString> {
        [OsStr::new("--data"), data.as_os_str()]
            .into_iter()
            .chain(rest.iter().map(OsStr::new))
            .map(Into::into)
            .collect()
    };
    let go = dir.path().join("go");
    let script = format!("while ! [ -e '{}' ]; do sleep 0.01; done", go.display());
    let first = start(with_data(&["--", "sh", "-c", &script, ":::", "a"]));
    let starts = || -> u64 {
        let logs = fs::read_dir(data.join("rejoin-run/starts")).into_iter().flatten().flatten();
        logs.map(|log| log.metadata().map_or(0, |log| log.len())).sum()
    };
    until("the start of the task", || starts() > 0);
    let second = run(with_data(&["--", "true", ":::", "a"]));
    assert_eq!(second.code, Some(254));
    assert!(second.err.contains("another run is using this directory"), "{}", second.err);
    fs::write(&go, "").unwrap();
    assert_eq!(end(first).code, Some(0));
    assert!(Path::new(&data).is_dir() && starts() > 0);
    assert_eq!(run(with_data(&["--", "true", ":::", "a"])).code, Some(0), "it is free again");
}
