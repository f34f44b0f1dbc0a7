//! Real processes, and what becomes of them

use super::*;
use crate::checkpoint::StartsFrom;
use smol::future::block_on;
use std::collections::BTreeMap;
use std::env;
use std::os::unix::fs::PermissionsExt;

struct Run {
    execution: Execution,
    events: Receiver<ExecEvent>,
}

/// Nothing but a place for output
fn around(spool_dir: &Path) -> Surroundings {
    Surroundings { spool_dir: spool_dir.into(), guardian: None, exclusive: false, checkpoints: None }
}

impl Run {
    fn start(spec: CommandSpec) -> Self {
        let (sender, events) = channel::unbounded();
        let execution = Execution::start(7, spec, around(&env::temp_dir()), sender);
        Self { execution, events }
    }

    fn finish(&self) -> Exit {
        loop {
            if let ExecEvent::Finished { id: 7, exit } = block_on(self.events.recv()).unwrap() {
                assert!(self.events.is_empty());
                return exit;
            }
        }
    }

    fn read(&self, stream: Stream) -> Vec<u8> {
        let mut out = vec![0; self.execution.len(stream) as usize];
        assert_eq!(self.execution.read_at(stream, 0, &mut out).unwrap(), out.len());
        out
    }

    /// Waits for a line of numbers on standard output, which are ids of processes
    fn pids(&self) -> Vec<Pid> {
        loop {
            let text = String::from_utf8(self.read(Stream::Stdout)).unwrap();
            if let Some((line, _)) = text.split_once('\n') {
                let number = |word: &str| Pid::from_raw(word.parse().unwrap()).unwrap();
                return line.split(' ').map(number).collect();
            }
            let event = block_on(self.events.recv()).unwrap();
            assert!(matches!(event, ExecEvent::Grew { .. }), "{event:?}");
        }
    }
}

fn sh(script: &str) -> CommandSpec {
    let args = vec!["-c".into(), script.into()];
    CommandSpec { args, ..CommandSpec::new("/bin/sh") }
}

/// Waits until a process that is no child of this one is gone
fn await_gone(pid: Pid) {
    if let Some(pidfd) = open_pidfd(pid) {
        block_on(pidfd.readable()).unwrap();
    }
}

#[test]
fn keeps_both_outputs_byte_for_byte() {
    let run = Run::start(sh(r"printf 'a\000\377\n'; printf 'e\001' >&2"));
    assert_eq!(run.finish(), Exit::Code(0));
    assert_eq!(run.read(Stream::Stdout), b"a\0\xff\n");
    assert_eq!(run.read(Stream::Stderr), b"e\x01");
}

#[test]
fn keeps_long_output_and_tells_each_growth_once() {
    let run = Run::start(sh("head -c 20971520 /dev/zero | tr '\\0' x; head -c 9 /dev/zero >&2"));
    let (mut read, mut out) = (0, vec![0; 1 << 16]);
    let mut told = 0;
    let exit = loop {
        match block_on(run.events.recv()).unwrap() {
            ExecEvent::Finished { exit, .. } => break exit,
            ExecEvent::Grew { stream: Stream::Stderr, .. }
            | ExecEvent::Checkpoint { .. }
            | ExecEvent::Result { .. } => {}
            ExecEvent::Grew { total, .. } => {
                assert!(total > told && read == told, "{told} {read} {total}");
                told = total;
                while read < total {
                    let room = (total - read).min(out.len() as u64) as usize;
                    let count = run.execution.read_at(Stream::Stdout, read, &mut out[..room]);
                    read += count.unwrap() as u64;
                }
            }
        }
    };
    assert_eq!(exit, Exit::Code(0));
    assert_eq!(run.read(Stream::Stdout), vec![b'x'; 20 << 20]);
    assert_eq!(run.read(Stream::Stderr), [0; 9]);
}

#[test]
fn an_unread_stream_is_told_once() {
    let run = Run::start(sh("for i in 1 2 3 4 5; do /bin/echo $i; done"));
    let mut events = Vec::new();
    loop {
        events.push(block_on(run.events.recv()).unwrap());
        if matches!(events.last(), Some(ExecEvent::Finished { .. })) {
            break;
        }
    }
    assert_eq!(events.len(), 2, "{events:?}");
    run.read(Stream::Stdout);
    assert!(run.events.is_empty());
}

#[test]
fn tells_codes_and_signals() {
    assert_eq!(Run::start(sh("exit 3")).finish(), Exit::Code(3));
    assert_eq!(Run::start(sh("kill -SEGV $$")).finish(), Exit::Signal(11));
}

#[test]
fn hands_over_environment_directory_and_default_signals() {
    let mut spec = sh("echo $A-$B; pwd; cat; grep -E 'Sig(Blk|Ign)' /proc/self/status");
    spec.env = vec![("A".into(), "1".into()), ("B".into(), "2".into())];
    spec.cwd = Some("/".into());
    let run = Run::start(spec);
    assert_eq!(run.finish(), Exit::Code(0));
    let out = String::from_utf8(run.read(Stream::Stdout)).unwrap();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..2], ["1-2", "/"]);
    assert_eq!(lines[2], "SigBlk:\t0000000000000000");
    let ignored = u64::from_str_radix(&lines[3][8..], 16).unwrap();
    assert_eq!(ignored & (1 << 12), 0, "SIGPIPE is ignored");
}

#[test]
fn says_why_a_program_cannot_start() {
    let dir = env::temp_dir().join(format!("exec-start-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let (plain, script) = (dir.join("plain"), dir.join("script"));
    std::fs::write(&plain, "").unwrap();
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let huge = CommandSpec { args: vec!["x".repeat(4 << 20).into()], ..sh("") };
    let lost = CommandSpec { cwd: Some("/no/dir".into()), ..sh("") };
    for (spec, reason) in [
        (CommandSpec::new("no-such-program"), "no-such-program: not found in PATH"),
        (CommandSpec::new("/no/such"), "/no/such: not found"),
        (CommandSpec::new(""), "the name is empty"),
        (CommandSpec::new(&plain), "permission denied"),
        (CommandSpec::new(&dir), "is a directory"),
        (CommandSpec::new(&script), "interpreter"),
        (huge, "/bin/sh: argument list too long"),
        (lost, "working directory /no/dir"),
    ] {
        let exit = Run::start(spec).finish();
        let Exit::CannotStart(text) = exit else { panic!("{exit:?} instead of {reason}") };
        assert!(text.contains(reason), "{text}");
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn a_script_that_is_still_open_for_writing_is_tried_again() {
    let script = env::temp_dir().join(format!("exec-busy-{}", std::process::id()));
    std::fs::write(&script, "#!/bin/sh\nexit 6\n").unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let writer = std::fs::File::options().append(true).open(&script).unwrap();
    let run = Run::start(CommandSpec::new(&script));
    // Long enough for the first try, short enough for the last.
    block_on(Timer::after(4 * RETRY_PAUSE));
    drop(writer);
    assert_eq!(run.finish(), Exit::Code(6));
    std::fs::remove_file(&script).unwrap();
}

#[test]
fn a_timeout_kills_the_grandchildren() {
    let mut spec = sh("trap '' TERM; sleep 1000 & echo $$ $!; while :; do wait; done");
    spec.timeout = Some(Duration::from_millis(300));
    spec.grace = Duration::from_millis(50);
    let run = Run::start(spec);
    let pids = run.pids();
    assert_eq!(run.finish(), Exit::TimedOut);
    pids.into_iter().for_each(await_gone);
}

#[test]
fn a_cancellation_kills_who_ignores_it_after_the_grace_time() {
    let spec = sh("trap '' TERM; echo $$; while :; do sleep 1000; done");
    let grace = Duration::from_millis(100);
    let run = Run::start(CommandSpec { grace, ..spec });
    run.pids();
    let start = Instant::now();
    run.execution.cancel();
    run.execution.cancel();
    assert_eq!(run.finish(), Exit::Cancelled);
    assert!(start.elapsed() >= grace);
}

#[test]
fn a_cancellation_lets_the_program_clean_up() {
    let run = Run::start(sh("trap 'echo bye; exit 5' TERM; echo $$; while :; do sleep 0.01; done"));
    run.pids();
    run.execution.cancel();
    assert_eq!(run.finish(), Exit::Cancelled);
    assert!(run.read(Stream::Stdout).ends_with(b"bye\n"));
}

#[test]
fn ends_what_is_not_started_yet() {
    for end in [Execution::cancel, Execution::kill] {
        let run = Run::start(sh("sleep 1000"));
        end(&run.execution);
        assert_eq!(run.finish(), Exit::Cancelled);
    }
}

#[test]
fn a_program_that_ended_by_itself_is_not_cancelled() {
    // The grandchild keeps the pipe open, so that the execution is not over.
    let run = Run::start(sh("sleep 1000 & echo $$; exit 4"));
    run.pids().into_iter().for_each(await_gone);
    run.execution.cancel();
    assert_eq!(run.finish(), Exit::Code(4));
}

#[test]
fn a_grandchild_that_holds_the_pipe_is_killed() {
    let run = Run::start(sh("sleep 1000 & echo $!; exit 4"));
    let pids = run.pids();
    assert_eq!(run.finish(), Exit::Code(4));
    pids.into_iter().for_each(await_gone);
}

#[test]
fn a_stream_may_be_as_long_as_allowed_and_no_longer() {
    for (allowed, exit) in [(100_000, Exit::Code(0)), (99_999, Exit::OutputTooLarge(Stream::Stderr))] {
        let mut spec = sh("head -c 100000 /dev/zero >&2");
        spec.output_bytes_max = allowed;
        let run = Run::start(spec);
        assert_eq!(run.finish(), exit);
        assert_eq!(run.execution.len(Stream::Stderr), allowed);
    }
    let run = Run::start(CommandSpec { output_bytes_max: 10, ..sh("yes") });
    assert_eq!(run.finish(), Exit::OutputTooLarge(Stream::Stdout));
}

#[test]
fn dropping_the_handle_kills_the_group() {
    let run = Run::start(sh("trap '' TERM; sleep 1000 & echo $$ $!; wait"));
    let pids = run.pids();
    drop(run.execution);
    pids.into_iter().for_each(await_gone);
}

#[test]
fn a_lost_output_is_told() {
    let (sender, events) = channel::unbounded();
    let execution = Execution::start(7, sh("yes"), around(Path::new("/no/dir")), sender);
    let run = Run { execution, events };
    let exit = run.finish();
    let Exit::Lost(text) = exit else { panic!("{exit:?}") };
    assert!(text.contains("/no/dir"), "{text}");
}

/// Runs itself again in a process of its own, where no other test opens descriptors
#[test]
fn many_executions_leave_nothing_behind() {
    const ALONE: &str = "REJOIN_TEST_ALONE";
    if env::var_os(ALONE).is_none() {
        let (_, module) = module_path!().split_once("::").unwrap();
        let name = format!("{module}::many_executions_leave_nothing_behind");
        let mut command = Command::new(env::current_exe().unwrap());
        let status = command.args(["--exact", &name]).env(ALONE, "1").status();
        assert!(status.unwrap().success());
        return;
    }
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert_eq!(Run::start(sh("")).finish(), Exit::Code(0));
    let before = descriptors();
    let (sender, events) = channel::unbounded();
    let mut live = BTreeMap::new();
    for id in 0..500 {
        let spec = if id % 9 == 0 { CommandSpec::new("/no") } else { sh("echo x") };
        live.insert(id, Execution::start(id, spec, around(&env::temp_dir()), sender.clone()));
        while live.len() > 20 || (id == 499 && !live.is_empty()) {
            if let ExecEvent::Finished { id, .. } = block_on(events.recv()).unwrap() {
                live.remove(&id);
            }
        }
    }
    assert_eq!(descriptors(), before);
    let none = process::waitpid(None, process::WaitOptions::NOHANG);
    assert_eq!(none.err(), Some(Errno::CHILD), "a zombie is left");
}

fn checkpointing(script: &str, restored: Option<&[u8]>) -> (tempfile::TempDir, Run) {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Some(Checkpoints::new(dir.path(), restored.map(StartsFrom::Bytes), 64).unwrap());
    let (sender, events) = channel::unbounded();
    let around = Surroundings { checkpoints, ..around(dir.path()) };
    (dir, Run { execution: Execution::start(7, sh(script), around, sender), events })
}

#[test]
fn ckpt_4_checkpoints_are_noticed_while_the_program_runs_and_the_last_one_before_its_end() {
    let script = r#"
        put() { printf "$1" > "$REJOIN_CHECKPOINT_OUT.own"; mv "$REJOIN_CHECKPOINT_OUT.own" "$REJOIN_CHECKPOINT_OUT"; }
        put one; while [ -e "$REJOIN_CHECKPOINT_OUT" ]; do sleep 0.01; done; put two; kill -9 $$"#;
    let (_dir, run) = checkpointing(script, None);
    let mut made = Vec::new();
    let start = std::time::Instant::now();
    loop {
        match block_on(run.events.recv()).unwrap() {
            ExecEvent::Checkpoint { made: Ok(Made::Small(bytes)), .. } => made.push(bytes),
            ExecEvent::Checkpoint { made: other, .. } => panic!("{other:?}"),
            ExecEvent::Finished { exit, .. } => {
                assert_eq!(exit, Exit::Signal(9));
                break;
            }
            ExecEvent::Grew { .. } => {}
            ExecEvent::Result { made, .. } => panic!("{made:?}"),
        }
    }
    assert_eq!(made, [b"one".to_vec(), b"two".to_vec()], "in {:?}", start.elapsed());
}

#[test]
fn ckpt_4_a_program_finds_what_it_starts_from_and_nothing_where_there_is_nothing() {
    let script = r#"cat "$REJOIN_CHECKPOINT_IN""#;
    let (_dir, run) = checkpointing(script, Some(b"so far"));
    assert_eq!((run.finish(), run.read(Stream::Stdout)), (Exit::Code(0), b"so far".to_vec()));
    let (_dir, run) = checkpointing(r#"echo "${REJOIN_CHECKPOINT_IN-unset}""#, None);
    assert_eq!((run.finish(), run.read(Stream::Stdout)), (Exit::Code(0), b"unset\n".to_vec()));
}

#[test]
fn live_5_a_task_that_stands_still_does_nothing_until_it_goes_on_or_is_stopped() {
    let run = Run::start(sh("echo $$; while :; do echo x; sleep 0.01; done"));
    run.pids();
    run.execution.freeze();
    std::thread::sleep(Duration::from_millis(100));
    let still = run.execution.len(Stream::Stdout);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(run.execution.len(Stream::Stdout), still);
    run.execution.thaw();
    let begun = Instant::now();
    while run.execution.len(Stream::Stdout) == still {
        assert!(begun.elapsed() < Duration::from_secs(10), "it does not go on");
        std::thread::sleep(Duration::from_millis(10));
        run.read(Stream::Stdout);
    }
    run.execution.freeze();
    run.execution.cancel();
    assert_eq!(run.finish(), Exit::Cancelled);
    assert!(begun.elapsed() < Duration::from_secs(9), "it had to be killed");
}
