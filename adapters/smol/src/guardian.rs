//! A small process that outlives its worker just long enough to end the worker's tasks
//!
//! A worker that is killed cannot end what it runs. Its guardian can: it holds the other end of a pipe, which the system
//! closes whatever happens to the worker. It knows the process groups of the tasks, and on Linux it also finds the
//! processes that bear the worker's mark in their environment, because a task may leave its group, and may have begun
//! just before the worker could say so.
//!
//! A worker that stands still cannot end anything either, and its lease may end meanwhile. So its guardian knows which
//! groups are exclusive, and until when they may run: told anew whenever the lease is renewed, by the clock that goes on
//! while the machine sleeps. What has not ended by then it kills, and what has left these groups (TASK-4).

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, getpgid, kill_process, kill_process_group, waitid};

use crate::clock::entropy;
use crate::journal::lock;

/// Variable that all processes of a worker's tasks have in their environment
pub const MARK: &str = "REJOIN_WORKER";

/// Variable that all processes of one attempt have in their environment, whatever group they are in
pub(crate) const ATTEMPT_MARK: &str = "REJOIN_EXECUTION";

/// What a worker says that ends in order
const FAREWELL: &str = "bye\n";

/// How long a guardian goes on killing: what is born while it looks is found the next time
const PERSISTENCE: Duration = Duration::from_millis(900);
/// Pause between two looks
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Longest pause between two looks at the time
const LOOK_AT_LEAST: Duration = Duration::from_secs(1);
/// Looks in a row that must find nobody
const CLEAN_LOOKS: u32 = 3;

/// The worker's end; cheap to clone
#[derive(Clone, Debug)]
pub struct Guardian(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    mark: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Starts another one, should this one die
    command: Command,
    guard: Option<(Child, ChildStdin)>,
    /// Process groups of tasks, and which attempt it is if that is exclusive
    groups: BTreeMap<i32, Option<u64>>,
    /// When exclusive ones must be over
    lease_end: Option<Duration>,
    complained: bool,
}

impl Guardian {
    /// Starts a guardian: a process that runs [`guard`] on its standard input
    ///
    /// It gets a process group of its own, so that what a terminal sends to the worker does not reach it.
    pub fn start(mut command: Command) -> io::Result<Guardian> {
        let mark = entropy::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        command.stdin(Stdio::piped()).stdout(Stdio::null()).env_remove(MARK).process_group(0);
        let state = State { command, guard: None, groups: BTreeMap::new(), lease_end: None, complained: false };
        let guardian = Guardian(Arc::new(Inner { mark, state: Mutex::new(state) }));
        let process = lock(&guardian.0.state).begin(&guardian.0.mark)?;
        guardian.look_after(process);
        Ok(guardian)
    }

    /// Waits for the end of a guardian, in a thread, and has another one take its place
    fn look_after(&self, mut process: Pid) {
        let inner = Arc::downgrade(&self.0);
        thread::spawn(move || {
            loop {
                // It is left to be reaped by whoever holds it, so that its number is nobody else's meanwhile. Where
                // that is an error it has been reaped, and replaced.
                let _ = waitid(WaitId::Pid(process), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
                let Some(inner) = inner.upgrade() else { return };
                let mut state = lock(&inner.state);
                if state.process() == Some(process) {
                    state.replace(&inner.mark);
                }
                match state.process() {
                    Some(next) if next != process => process = next,
                    Some(_) | None => return,
                }
            }
        });
    }

    /// What the environment of every task must have under [`MARK`]
    pub fn mark(&self) -> &str {
        &self.0.mark
    }

    /// What the environment of an attempt must have under [`ATTEMPT_MARK`]
    pub(crate) fn attempt_mark(&self, id: u64) -> String {
        attempt_mark(self.mark(), id)
    }

    /// The guardian's process, if there is one
    pub fn process(&self) -> Option<u32> {
        lock(&self.0.state).guard.as_ref().map(|(child, _)| child.id())
    }

    /// A task's process group is there; if it is exclusive, of which attempt
    pub(crate) fn watch(&self, group: Pid, exclusive: Option<u64>) {
        let group = group.as_raw_nonzero().get();
        let mut state = lock(&self.0.state);
        state.groups.insert(group, exclusive);
        state.tell(&self.0.mark, &group_line(group, exclusive));
    }

    /// Exclusive tasks must be over within this time from now (TASK-4)
    pub fn lease_ends_in(&self, left: Duration) {
        let mut state = lock(&self.0.state);
        let end = through_sleep() + left;
        state.lease_end = Some(end);
        state.tell(&self.0.mark, &lease_line(end));
    }

    /// A task's process group is about to be free for others; say so while its leader still keeps its number
    pub(crate) fn unwatch(&self, group: Pid) {
        let group = group.as_raw_nonzero().get();
        let mut state = lock(&self.0.state);
        state.groups.remove(&group);
        state.tell(&self.0.mark, &format!("-{group}\n"));
    }
}

impl State {
    fn begin(&mut self, mark: &str) -> io::Result<Pid> {
        let mut child = self.command.spawn()?;
        let Some(mut pipe) = child.stdin.take() else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let known = self.groups.iter().map(|(group, exclusive)| group_line(*group, *exclusive));
        let groups: String = known.chain(self.lease_end.map(lease_line)).collect();
        pipe.write_all(format!("{mark}\n{groups}").as_bytes())?;
        let process = Pid::from_child(&child);
        self.guard = Some((child, pipe));
        Ok(process)
    }

    /// Passes a line on; a guardian that has died is replaced by one that knows everything
    fn tell(&mut self, mark: &str, line: &str) {
        let told = self.guard.as_mut().is_some_and(|(_, pipe)| pipe.write_all(line.as_bytes()).is_ok());
        if !told {
            self.replace(mark);
        }
    }

    fn process(&self) -> Option<Pid> {
        self.guard.as_ref().map(|(child, _)| Pid::from_child(child))
    }

    /// Starts another guardian in the place of one that has died
    fn replace(&mut self, mark: &str) {
        if let Some((mut child, pipe)) = self.guard.take() {
            drop(pipe);
            // It has closed its end, so that it has ended or is about to.
            let _ = child.kill();
            let _ = child.wait();
        }
        match self.begin(mark) {
            Ok(_) => tracing::warn!("the guardian had died; there is another one"),
            Err(error) if !self.complained => {
                self.complained = true;
                tracing::warn!(%error, "no guardian can be started: should this worker be killed, its tasks go on");
            }
            Err(_) => {}
        }
    }
}

impl Drop for State {
    fn drop(&mut self) {
        if let Some((mut child, mut pipe)) = self.guard.take() {
            if self.groups.is_empty() {
                // Nothing is left behind, and what finished tasks left running on purpose is none of its business.
                let _ = pipe.write_all(FAREWELL.as_bytes());
            }
            drop(pipe);
            let _ = child.wait();
        }
    }
}

/// How a group is made known
fn group_line(group: i32, exclusive: Option<u64>) -> String {
    exclusive.map_or_else(|| format!("+{group}\n"), |id| format!("!{group} {id}\n"))
}

fn attempt_mark(worker: &str, id: u64) -> String {
    format!("{worker}-{id}")
}

fn lease_line(end: Duration) -> String {
    format!("@{}\n", end.as_micros())
}

/// Time by a clock that goes on while the machine sleeps, the same for all processes
fn through_sleep() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = rustix::time::ClockId::Monotonic;
    let now = rustix::time::clock_gettime(clock);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or_default())
}

/// What the guardian knows of its worker's tasks
#[derive(Debug, Default)]
struct Charges {
    groups: BTreeSet<i32>,
    /// Groups of exclusive attempts, and which these are
    exclusive: BTreeMap<i32, u64>,
    lease_end: Option<Duration>,
}

/// The guardian's life: listens until its worker is gone, then ends what that has left behind
///
/// A worker that ends in order says so, and nothing is ended.
pub fn guard(orders: impl Read + Send + 'static) {
    let (lines, heard) = channel();
    thread::spawn(move || {
        let mut orders = BufReader::new(orders);
        while let Some(line) = whole_line(&mut orders) {
            if lines.send(line).is_err() {
                return;
            }
        }
    });
    let Ok(mark) = heard.recv() else { return };
    let mut charges = Charges::default();
    loop {
        match heard.recv_timeout(charges.time_left()) {
            Ok(line) if line == FAREWELL.trim_end() => return,
            Ok(line) => charges.take(&line),
            Err(RecvTimeoutError::Timeout) => charges.end_exclusive(&mark),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let mark = format!("{MARK}={mark}");
    let (begun, mut clean) = (Instant::now(), 0);
    while clean < CLEAN_LOOKS && begun.elapsed() < PERSISTENCE {
        let mut found = false;
        for group in &charges.groups {
            found |= kill_group(*group);
        }
        for process in marked(&mark) {
            found |= kill_process(process, Signal::KILL).is_ok();
        }
        clean = if found { 0 } else { clean + 1 };
        thread::sleep(LOOK_EVERY);
    }
}

impl Charges {
    fn take(&mut self, line: &str) {
        let (sign, number) = line.split_at_checked(1).unwrap_or_default();
        if sign == "@" {
            self.lease_end = number.parse().ok().map(Duration::from_micros);
            return;
        }
        let (group, attempt) = number.split_once(' ').map_or((number, None), |(group, id)| (group, id.parse().ok()));
        let Ok(group) = group.parse() else { return };
        match sign {
            "-" => {
                self.groups.remove(&group);
                self.exclusive.remove(&group);
            }
            _ => {
                self.groups.insert(group);
                self.exclusive.extend(attempt.map(|attempt| (group, attempt)));
            }
        }
    }

    /// How long to listen until it is time to look
    fn time_left(&self) -> Duration {
        let left = self.lease_end.filter(|_| !self.exclusive.is_empty()).map(|end| end.saturating_sub(through_sleep()));
        // A clock that stands still while the machine sleeps is what waits, so that it must not wait for long.
        left.map_or(LOOK_AT_LEAST, |left| left.clamp(LOOK_EVERY, LOOK_AT_LEAST))
    }

    /// Ends what must be over by now, in whatever group it is
    fn end_exclusive(&self, mark: &str) {
        if self.exclusive.is_empty() || self.lease_end.is_none_or(|end| end > through_sleep()) {
            return;
        }
        for (group, attempt) in &self.exclusive {
            kill_group(*group);
            signal_marked(&attempt_mark(mark, *attempt), Signal::KILL, None);
        }
    }
}

/// Sends a signal to all processes of an attempt that are known by their environment, but those of a group that has had
/// it; whether there were any
pub(crate) fn signal_marked(attempt_mark: &str, signal: Signal, but: Option<Pid>) -> bool {
    let marked = marked(&format!("{ATTEMPT_MARK}={attempt_mark}"));
    let others = marked.into_iter().filter(|process| but.is_none() || getpgid(Some(*process)).ok() != but);
    others.filter(|process| kill_process(*process, signal).is_ok()).count() > 0
}

/// Kills all of an attempt's processes that are known by their environment: what is born meanwhile is found the next time
pub(crate) fn kill_marked(attempt_mark: &str) {
    let begun = Instant::now();
    while signal_marked(attempt_mark, Signal::KILL, None) && begun.elapsed() < PERSISTENCE {
        thread::sleep(LOOK_EVERY);
    }
}

fn kill_group(group: i32) -> bool {
    Pid::from_raw(group).is_some_and(|group| kill_process_group(group, Signal::KILL).is_ok())
}

/// The next line; one that was cut off names nobody
fn whole_line(from: &mut impl BufRead) -> Option<String> {
    let mut line = String::new();
    from.read_line(&mut line).ok()?;
    line.strip_suffix('\n').map(str::to_owned)
}

/// Processes that have this in their environment, as far as the system says; those that have ended have none
fn marked(mark: &str) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let bears = |pid: &i32| {
        let environ = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
    };
    pids.filter(bears).filter_map(Pid::from_raw).collect()
}
