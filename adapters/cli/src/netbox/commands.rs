//! The processes of a box: the command and the service, as the first process of their namespace sees them

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use async_signal::{Signal, Signals};
use rejoin_smol::chaos::End;
use rejoin_smol::packets::Netbox;
use rustix::process::{Pid, Signal as Kill, WaitOptions, kill_process, kill_process_group, wait};
use smol::Timer;
use smol::channel::{Receiver, Sender, bounded};
use smol::future::FutureExt;
use smol::stream::StreamExt;

use crate::args;
use crate::caller::Failed;
use crate::say::complain;

/// Longest that a service may take until it accepts connections
const READY_TIME_MAX: Duration = Duration::from_secs(30);
/// How long a service has to end
const GRACE: Duration = Duration::from_secs(10);
/// Pause between two looks
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Exit status of whoever was told to stop by SIGTERM
const TERMINATED: u8 = 128 + 15;

pub(super) struct Commands<'a> {
    netbox: &'a Netbox,
    /// Whoever was started, by process id, and how it has ended
    ended: RefCell<BTreeMap<i32, Option<ExitStatus>>>,
    /// Has whoever waits for an end look again
    reaped: (Sender<()>, Receiver<()>),
    /// The command, which is told to stop when this process is
    command: RefCell<Option<Pid>>,
}

impl<'a> Commands<'a> {
    pub(super) fn new(netbox: &'a Netbox) -> Commands<'a> {
        Commands { netbox, ended: RefCell::default(), reaped: bounded(1), command: RefCell::new(None) }
    }

    /// Runs the service and the command, and returns the latter's exit status
    pub(super) async fn run(&self, args: &args::Netbox, signals: Signals, begun: &Sender<()>) -> Result<u8, Failed> {
        let working = async {
            let service = match &args.serve {
                Some(line) => Some(self.serve(line, args.wait_for).await?),
                None => None,
            };
            let mut command = Command::new(&args.command[0]);
            command.args(&args.command[1..]);
            let command = self.start(End::Peer, command, &args.command[0].to_string_lossy())?;
            *self.command.borrow_mut() = Some(command);
            let _ = begun.try_send(());
            let ended = self.end(command).await;
            if let Some(service) = service {
                self.stop(service).await;
            }
            Ok(status(ended))
        };
        working.or(self.listen(signals)).await
    }

    async fn serve(&self, line: &std::ffi::OsStr, port: Option<u16>) -> Result<Pid, Failed> {
        let mut command = Command::new("sh");
        // What a terminal sends is for the command alone, whose output is its own.
        command.arg("-c").arg(line).process_group(0).stdin(Stdio::null());
        command.stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
        let service = self.start(End::Coordinator, command, "sh")?;
        let Some(port) = port else { return Ok(service) };
        let start = Instant::now();
        while !self.netbox.service_listens(port) {
            if let Some(ended) = self.ended(service) {
                return Err(Failed::Internal(format!("the service has ended before it accepted connections: {ended}")));
            }
            if start.elapsed() > READY_TIME_MAX {
                let message = format!("nobody accepts connections at 192.0.2.1:{port} after {READY_TIME_MAX:?}");
                return Err(Failed::Internal(message));
            }
            Timer::after(LOOK_EVERY).await;
        }
        Ok(service)
    }

    fn start(&self, end: End, command: Command, name: &str) -> Result<Pid, Failed> {
        let child = self.netbox.spawn(end, command);
        let child = child.map_err(|error| Failed::Internal(format!("{name}: {error}")))?;
        let pid = Pid::from_child(&child);
        self.ended.borrow_mut().insert(pid.as_raw_nonzero().get(), None);
        Ok(pid)
    }

    /// Tells a service to stop, and waits a while for its end; whatever is left ends with this process
    async fn stop(&self, service: Pid) {
        if let Some(ended) = self.ended(service).filter(|ended| !ended.success()) {
            complain(&format!("the service had ended before the command: {ended}"));
        }
        // Its group may have members even if it has ended itself.
        let _ = kill_process_group(service, Kill::TERM);
        let late = async {
            Timer::after(GRACE).await;
            complain(&format!("the service goes on {GRACE:?} after SIGTERM, and is killed"));
        };
        let ends = async { _ = self.end(service).await };
        ends.or(late).await;
    }

    async fn end(&self, pid: Pid) -> ExitStatus {
        loop {
            if let Some(ended) = self.ended(pid) {
                return ended;
            }
            let _ = self.reaped.1.recv().await;
        }
    }

    fn ended(&self, pid: Pid) -> Option<ExitStatus> {
        self.ended.borrow().get(&pid.as_raw_nonzero().get()).copied().flatten()
    }

    /// Waits for whatever process has ended, and passes on that it is to stop
    async fn listen(&self, mut signals: Signals) -> Result<u8, Failed> {
        let mut told = false;
        loop {
            let signal = signals.next().await;
            if matches!(signal, Some(Ok(Signal::Child))) {
                self.reap();
            } else if matches!(signal, Some(Ok(Signal::Term | Signal::Hup))) {
                let Some(command) = self.command.borrow().filter(|command| !told && self.ended(*command).is_none())
                else {
                    return Ok(TERMINATED);
                };
                told = true;
                let _ = kill_process(command, Kill::TERM);
            }
        }
    }

    /// Those that nobody started here are orphans, which become this process's own
    fn reap(&self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(ended) = self.ended.borrow_mut().get_mut(&pid.as_raw_nonzero().get()) {
                *ended = Some(ExitStatus::from_raw(status.as_raw()));
                let _ = self.reaped.0.try_send(());
            }
        }
    }
}

/// The exit status that says how a process has ended
pub(super) fn status(ended: ExitStatus) -> u8 {
    let code = ended.code().or(ended.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}
