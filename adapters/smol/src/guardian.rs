//! A small process that outlives its worker just long enough to end the worker's tasks
//!
//! A worker that is killed cannot end what it runs. Its guardian can: it holds the other end of a pipe, which the system
//! closes whatever happens to the worker. It knows the process groups of the tasks, and on Linux it also finds the
//! processes that bear the worker's mark in their environment, because a task may leave its group, and may have begun
//! just before the worker could say so.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid};

use crate::clock::entropy;
use crate::journal::lock;

/// Variable that all processes of a worker's tasks have in their environment
pub const MARK: &str = "REJOIN_WORKER";

/// What a worker says that ends in order
const FAREWELL: &str = "bye\n";

/// How long a guardian goes on killing: what is born while it looks is found the next time
const PERSISTENCE: Duration = Duration::from_millis(900);
/// Pause between two looks
const LOOK_EVERY: Duration = Duration::from_millis(50);
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
    groups: BTreeSet<i32>,
    complained: bool,
}

impl Guardian {
    /// Starts a guardian: a process that runs [`guard`] on its standard input
    ///
    /// It gets a process group of its own, so that what a terminal sends to the worker does not reach it.
    pub fn start(mut command: Command) -> io::Result<Guardian> {
        let mark = entropy::<16>()?.iter().map(|byte| format!("{byte:02x}")).collect();
        command.stdin(Stdio::piped()).stdout(Stdio::null()).env_remove(MARK).process_group(0);
        let state = State { command, guard: None, groups: BTreeSet::new(), complained: false };
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

    /// The guardian's process, if there is one
    pub fn process(&self) -> Option<u32> {
        lock(&self.0.state).guard.as_ref().map(|(child, _)| child.id())
    }

    /// A task's process group is there
    pub(crate) fn watch(&self, group: Pid) {
        let group = group.as_raw_nonzero().get();
        let mut state = lock(&self.0.state);
        state.groups.insert(group);
        state.tell(&self.0.mark, &format!("+{group}\n"));
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
        let groups: String = self.groups.iter().map(|group| format!("+{group}\n")).collect();
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

/// The guardian's life: listens until its worker is gone, then ends what that has left behind
///
/// A worker that ends in order says so, and nothing is ended.
pub fn guard(orders: impl Read) {
    let mut orders = BufReader::new(orders);
    let Some(mark) = whole_line(&mut orders) else { return };
    let mut groups = BTreeSet::new();
    while let Some(line) = whole_line(&mut orders) {
        if line == FAREWELL.trim_end() {
            return;
        }
        let Some(group) = line.get(1..).and_then(|n| n.parse().ok()).and_then(Pid::from_raw) else { continue };
        if line.starts_with('+') {
            groups.insert(group.as_raw_nonzero())
        } else {
            groups.remove(&group.as_raw_nonzero())
        };
    }
    let mark = format!("{MARK}={mark}");
    let (begun, mut clean) = (Instant::now(), 0);
    while clean < CLEAN_LOOKS && begun.elapsed() < PERSISTENCE {
        let mut found = false;
        for group in &groups {
            let group = Pid::from_raw(group.get());
            found |= group.is_some_and(|group| kill_process_group(group, Signal::KILL).is_ok());
        }
        for process in marked(&mark) {
            found |= kill_process(process, Signal::KILL).is_ok();
        }
        clean = if found { 0 } else { clean + 1 };
        thread::sleep(LOOK_EVERY);
    }
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
