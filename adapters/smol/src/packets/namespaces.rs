//! Processes of their own: a user, process and mount namespace, whose end is the end of everybody in it
//!
//! Only the child of a process that has left its namespace of processes is in the new one, as its first process. So there
//! are two: [`launch`] starts the second one, and passes signals on to it; that calls [`settle`] as it begins.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::process::{Command, ExitStatus};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Pid, Signal as Kill, getegid, geteuid, kill_process, set_parent_process_death_signal};

/// Why there can be no box on this machine
#[derive(Debug)]
pub struct Unavailable {
    what: &'static str,
    error: io::Error,
}

impl Unavailable {
    pub(super) fn of<E: Into<io::Error>>(what: &'static str) -> impl FnOnce(E) -> Unavailable {
        move |error| Unavailable { what, error: error.into() }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unavailable { what, error } = self;
        write!(
            f,
            "cannot {what}: {error}. This takes Linux with user namespaces and /dev/net/tun: \
             `unshare -Urnm --pid --fork --mount-proc ip tuntap add dev probe mode tun` must work. \
             In a container, it may need more rights; of `sysctl`, user.max_user_namespaces must not be 0, and if they are there \
             kernel.unprivileged_userns_clone must be 1 and kernel.apparmor_restrict_unprivileged_userns 0"
        )
    }
}

impl Error for Unavailable {}

/// Runs a command as the first process of namespaces of its own, with the rights of root there, to its end
///
/// Must be called while the process has a single thread; it can start none any more. SIGTERM and SIGHUP go to the command;
/// SIGINT does not, since a terminal sends it to both. When this process is killed, so are all of the command's.
///
/// # Errors
///
/// What the system does not let us do.
pub fn launch(command: &mut Command) -> Result<ExitStatus, Unavailable> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNS)
        .map_err(Unavailable::of("make namespaces"))?;
    for (file, text) in
        [("setgroups", "deny".to_owned()), ("uid_map", format!("0 {user} 1")), ("gid_map", format!("0 {group} 1"))]
    {
        fs::write(format!("/proc/self/{file}"), text).map_err(Unavailable::of("become root of a user namespace"))?;
    }
    // Those that come before there is anybody to pass them on to must wait.
    let signals = signals();
    signals.thread_block().map_err(Unavailable::of("block signals"))?;
    let mut child = command.spawn().map_err(Unavailable::of("start a process in its namespaces"))?;
    loop {
        let signal = signals.wait().map_err(Unavailable::of("wait for signals"))?;
        if signal == Signal::SIGTERM || signal == Signal::SIGHUP {
            // It has not been waited for, so that this is nobody else.
            let _ = kill_process(Pid::from_child(&child), Kill::TERM);
        }
        if let Some(status) = child.try_wait().map_err(Unavailable::of("wait for a process"))? {
            return Ok(status);
        }
    }
}

/// Makes itself at home as the first process of its namespaces: sees its own processes, and ends with whoever started it
///
/// # Errors
///
/// What the system does not let us do.
pub fn settle() -> Result<(), Unavailable> {
    // Whoever starts a process hands down what it has blocked.
    signals().thread_unblock().map_err(Unavailable::of("unblock signals"))?;
    set_parent_process_death_signal(Some(Kill::KILL)).map_err(Unavailable::of("end with another process"))?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(Unavailable::of("keep mounts private"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none).map_err(Unavailable::of("mount /proc"))
}

/// Those that are waited for while the other process runs
fn signals() -> SigSet {
    SigSet::from_iter([Signal::SIGCHLD, Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM])
}
