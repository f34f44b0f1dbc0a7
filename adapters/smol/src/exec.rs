//! Running one command: a process group of its own, both outputs spooled, one outcome.

use crate::checkpoint::{self, Checkpoints, Claimed, Made, NotTaken};
use crate::guardian::{ATTEMPT_MARK, Guardian, MARK, kill_marked, signal_marked};
use crate::journal::lock;
use crate::spool::{self, Spool};
use rejoin_core::limits::INLINE_BYTES_MAX;
use rustix::io::Errno;
use rustix::process::{self, Pid, Signal, WaitId, WaitIdOptions};
use smol::channel::{self, Receiver, Sender};
use smol::{Async, Timer, future};
use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

/// Most bytes read from a pipe at once
const CHUNK_BYTES: usize = 32 * 1024;

/// How long the outputs may be silent after the end of the program before they count as ended
///
/// A program that is gone writes nothing more, so that only processes it left behind can hold the
/// pipes open. Waiting for them without bound would let `daemon &` occupy a worker for ever.
const DRAIN_QUIET: Duration = Duration::from_secs(1);

/// How long the outputs are read after the end of the program even when they are not silent
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// Pause before the second try of a start that failed for want of something; it doubles each time
const RETRY_PAUSE: Duration = Duration::from_millis(5);

/// Tries of a start; the pauses between them make up 1.3 s
const TRIES_MAX: u32 = 9;

/// Interval of looking after a process where the kernel gives no descriptor to wait on
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// How often a process whose pipes are closed is looked after before its end is waited for
const END_LOOKS: u32 = 4;

/// What to run, and within which bounds
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CommandSpec {
    /// Path of the program, or a bare name that is searched in `PATH`
    pub program: OsString,
    /// Arguments after the program's name
    pub args: Vec<OsString>,
    /// Variables that are added to the inherited environment
    pub env: Vec<(OsString, OsString)>,
    /// Working directory, that of this process when absent
    pub cwd: Option<PathBuf>,
    /// File that is its standard input; empty when absent
    pub stdin: Option<PathBuf>,
    /// Longest run time, unbounded when absent
    pub timeout: Option<Duration>,
    /// Time between SIGTERM and SIGKILL at a timeout or a cancellation
    pub grace: Duration,
    /// Most bytes that each of the two streams may have
    pub output_bytes_max: u64,
}

impl CommandSpec {
    /// Runs `program` without arguments: no timeout, 10 s grace, outputs of any length
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            stdin: None,
            timeout: None,
            grace: Duration::from_secs(10),
            output_bytes_max: u64::MAX,
        }
    }
}

/// One of the two outputs
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output
    Stdout,
    /// Standard error
    Stderr,
}

impl fmt::Display for Stream {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Stdout => "standard output",
            Self::Stderr => "standard error",
        })
    }
}

/// How an execution ended
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Exit {
    /// The program ended by itself with this code
    Code(i32),
    /// The program was killed by this signal, which did not come from here
    Signal(i32),
    /// The program was ended because its time was over
    TimedOut,
    /// The program never ran; the text names it and the reason
    CannotStart(String),
    /// The program was ended because this stream was longer than allowed
    OutputTooLarge(Stream),
    /// The program was ended, or not even started, because that was asked for
    Cancelled,
    /// The program ran, but its output or its status could not be kept; the text says why
    Lost(String),
}

/// What an execution tells while it runs
#[derive(Debug)]
pub enum ExecEvent {
    /// A stream has grown to `total` bytes
    ///
    /// The next one of the same stream comes only after [`Execution::read_at`] has read up to
    /// `total`, and then at once when there is more.
    Grew {
        /// Number given to [`Execution::start`]
        id: u64,
        /// The stream that has grown
        stream: Stream,
        /// Bytes that can be read from it
        total: u64,
    },
    /// The task has left a checkpoint, or something in its place that is none
    Checkpoint {
        /// Number given to [`Execution::start`]
        id: u64,
        /// What it is, or why it is not taken
        made: Result<Made, NotTaken>,
    },
    /// The program has succeeded and left a result, or something in its place that is none; in front of `Finished`
    Result {
        /// Number given to [`Execution::start`]
        id: u64,
        /// What it is, or why it is not taken
        made: Result<Made, NotTaken>,
    },
    /// The execution is over; this comes exactly once and is the last event
    ///
    /// Both streams are complete then, also when no [`ExecEvent::Grew`] told their last bytes.
    Finished {
        /// Number given to [`Execution::start`]
        id: u64,
        /// How it ended
        exit: Exit,
    },
}

/// What an execution has around it
#[derive(Debug)]
pub struct Surroundings {
    /// Where output goes that does not fit into memory
    pub spool_dir: Arc<Path>,
    /// Who ends the processes, should this one be killed
    pub guardian: Option<Guardian>,
    /// Whether it runs under its worker's lease (TASK-4)
    pub exclusive: bool,
    /// Where the program's checkpoints are looked for
    pub checkpoints: Option<Checkpoints>,
}

/// Handle of one running attempt of a command; dropping it kills the process group
#[derive(Debug)]
pub struct Execution {
    shared: Arc<Shared>,
    /// Closed to wake the task that enforces the grace time
    cancel: Sender<Infallible>,
}

impl Execution {
    /// Starts `spec` in a process group of its own; what was put beside its checkpoints is its standard input
    ///
    /// Returns at once: the start itself, which may block, happens in the background on smol's
    /// global executor. `events` should be unbounded; at most two unread `Grew` and the one
    /// `Finished` of each execution are in it when its reader reads no further than it was told.
    /// With a full bounded channel a `Grew` waits for the next bytes and `Finished` for room.
    pub fn start(id: u64, mut spec: CommandSpec, around: Surroundings, events: Sender<ExecEvent>) -> Self {
        let Surroundings { spool_dir: dir, guardian, exclusive, checkpoints } = around;
        spec.env.extend(checkpoints.as_ref().map(Checkpoints::env).unwrap_or_default());
        spec.stdin = checkpoints.as_ref().and_then(Checkpoints::input).or(spec.stdin);
        let mark = guardian.as_ref().map(|guardian| guardian.attempt_mark(id));
        spec.env.extend(guardian.as_ref().map(|guardian| (MARK.into(), guardian.mark().into())));
        spec.env.extend(mark.as_ref().map(|mark| (ATTEMPT_MARK.into(), mark.into())));
        let output = |stream| {
            Mutex::new(Output {
                stream,
                spool: Spool::new(Arc::clone(&dir), spool::MEMORY_BYTES_MAX),
                announced: 0,
                consumed: 0,
                over: false,
            })
        };
        let shared = Arc::new(Shared {
            id,
            stdout: output(Stream::Stdout),
            stderr: output(Stream::Stderr),
            output_bytes_max: spec.output_bytes_max,
            leader: Mutex::new(Leader::Awaited),
            guardian,
            mark,
            exclusive,
            checkpoints,
            claimed: Mutex::new(None),
            cause: OnceLock::new(),
            events,
        });
        let (cancel, cancelled) = channel::bounded(1);
        smol::spawn(Arc::clone(&shared).run(spec, cancelled)).detach();
        Self { shared, cancel }
    }

    /// Reads bytes of `stream` from `offset` on into `out` and returns how many
    ///
    /// Only bytes that are there are read, so that 0 does not mean the end before `Finished` came.
    ///
    /// # Errors
    ///
    /// When the file that holds the bytes cannot be read.
    pub fn read_at(&self, stream: Stream, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let mut output = self.shared.output(stream);
        let count = output.spool.read_at(offset, out)?;
        output.consumed = output.consumed.max(offset.saturating_add(count as u64));
        self.shared.announce(&mut output);
        Ok(count)
    }

    /// Number of bytes of `stream` so far
    #[must_use]
    pub fn len(&self, stream: Stream) -> u64 {
        self.shared.output(stream).spool.len()
    }

    /// The output alone, for whoever keeps it when the execution is over
    pub(crate) fn outputs(&self) -> Outputs {
        Outputs(Arc::clone(&self.shared))
    }

    /// Sends SIGTERM to the process group and, where there is a guardian, to what has left it; SIGKILL when the grace time is over
    ///
    /// Does nothing when that was done before or the program has ended by itself.
    pub fn cancel(&self) {
        if self.cancel.close() {
            self.shared.end(Signal::TERM, Exit::Cancelled);
            // One that stands still hears nothing else.
            self.shared.signal(Signal::CONT);
        }
    }

    /// Has the process group stand still
    ///
    /// Does nothing when no process is there yet, or none is left.
    pub fn freeze(&self) {
        self.shared.signal(Signal::STOP);
    }

    /// Lets the program know that it should make a checkpoint
    ///
    /// # Errors
    ///
    /// When the file that says so cannot be made.
    pub fn want_checkpoint(&self) -> io::Result<()> {
        self.shared.checkpoints.as_ref().map_or(Ok(()), Checkpoints::want)
    }

    /// Has it go on
    pub fn thaw(&self) {
        self.shared.signal(Signal::CONT);
    }

    /// Sends SIGKILL to the process group at once
    ///
    /// Does nothing when no process is left.
    pub fn kill(&self) {
        self.shared.end(Signal::KILL, Exit::Cancelled);
        self.cancel.close();
    }
}

impl Drop for Execution {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The output of an execution
#[derive(Debug)]
pub(crate) struct Outputs(Arc<Shared>);

impl Outputs {
    /// Returns what a stream has, if that is in memory; otherwise it is in that file from now on, which stays
    pub(crate) fn keep_as(&self, stream: Stream, path: &Path) -> io::Result<Option<Vec<u8>>> {
        self.0.output(stream).spool.keep_as(path)
    }
}

/// What the handle and the task that runs the command have in common
#[derive(Debug)]
struct Shared {
    id: u64,
    stdout: Mutex<Output>,
    stderr: Mutex<Output>,
    output_bytes_max: u64,
    leader: Mutex<Leader>,
    guardian: Option<Guardian>,
    /// What its processes bear in their environment, whatever group they are in
    mark: Option<String>,
    exclusive: bool,
    checkpoints: Option<Checkpoints>,
    /// A checkpoint that has not been read to its end
    claimed: Mutex<Option<Claimed>>,
    /// Why the program was ended, from the first who did it; empty when it ends by itself
    cause: OnceLock<Exit>,
    events: Sender<ExecEvent>,
}

/// The bytes of one stream and how far its reader is
#[derive(Debug)]
struct Output {
    stream: Stream,
    spool: Spool,
    /// The total of the last `Grew`
    announced: u64,
    /// How far the stream was read
    consumed: u64,
    /// Set before `Finished` is sent, which must stay the last event
    over: bool,
}

/// The program's own process, whose id is that of the group as well
#[derive(Clone, Copy, Debug)]
enum Leader {
    Awaited,
    /// Not reaped yet, so that its id cannot mean anyone else
    There(Pid),
    Reaped,
}

/// A program that runs, with all that is to be awaited of it
struct Started {
    child: Child,
    pid: Pid,
    /// Readable when the process has ended
    pidfd: Option<Async<OwnedFd>>,
    stdout: Async<PipeReader>,
    stderr: Async<PipeReader>,
}

impl Shared {
    async fn run(self: Arc<Self>, spec: CommandSpec, cancelled: Receiver<Infallible>) {
        let (timeout, grace) = (spec.timeout, spec.grace);
        let exit = match self.launch(spec).await {
            Ok(started) => self.supervise(started, timeout, grace, &cancelled).await,
            Err(exit) => exit,
        };
        for stream in [Stream::Stdout, Stream::Stderr] {
            self.output(stream).over = true;
        }
        let id = self.id;
        // Without a receiver nobody wants to know.
        let _ = self.events.send(ExecEvent::Finished { id, exit }).await;
    }

    /// Starts the program, again after a pause when only the moment was bad
    async fn launch(&self, spec: CommandSpec) -> Result<Started, Exit> {
        let spec = Arc::new(spec);
        let mut tries = 0;
        loop {
            if let Some(cause) = self.cause.get() {
                return Err(cause.clone());
            }
            let spec = Arc::clone(&spec);
            let last = tries + 1 == TRIES_MAX;
            // Looking up and loading the program may wait for a slow disk.
            let started = smol::unblock(move || {
                start(&spec).map_err(|error| {
                    let passing = !last && is_passing(&error);
                    (!passing).then(|| Exit::CannotStart(explain(&spec, &error)))
                })
            });
            match started.await {
                Ok(started) => {
                    self.adopt(started.pid);
                    return Ok(started);
                }
                Err(Some(exit)) => return Err(exit),
                Err(None) => {}
            }
            Timer::after(RETRY_PAUSE * (1 << tries)).await;
            tries += 1;
        }
    }

    /// Makes the new process known to those who may end it, or ends it when they already came
    fn adopt(&self, pid: Pid) {
        let mut leader = lock(&self.leader);
        if let Some(guardian) = &self.guardian {
            guardian.watch(pid, self.exclusive.then_some(self.id));
        }
        *leader = Leader::There(pid);
        if self.cause.get().is_some() {
            signal_group(pid, Signal::KILL);
        }
    }

    /// Sees a program through until it is reaped and nothing is left of its group
    async fn supervise(
        &self,
        started: Started,
        timeout: Option<Duration>,
        grace: Duration,
        cancelled: &Receiver<Infallible>,
    ) -> Exit {
        let Started { mut child, pid, pidfd, stdout, stderr } = started;
        let mut pumps = pin!(future::zip(self.pump(Stream::Stdout, stdout), self.pump(Stream::Stderr, stderr),));
        let mut drained = false;
        let pumping = async {
            pumps.as_mut().await;
            drained = true;
            // A program closes its pipes as almost the last thing: looking again right away saves
            // most programs a round through the reactor.
            for _ in 0..END_LOOKS {
                if has_ended(pid) {
                    return;
                }
                future::yield_now().await;
            }
            future::pending().await
        };
        let ending = self.await_end(ended(pid, pidfd), timeout, grace, cancelled);
        future::or(future::or(pumping, ending), self.look_for_checkpoints()).await;
        if self.cause.get().is_some() {
            self.signal(Signal::KILL);
            if let Some(mark) = self.mark.clone() {
                // What was stopped is over, and so is what has left its group.
                smol::unblock(move || kill_marked(&mark)).await;
            }
        }
        if !drained {
            let silent = future::or(self.await_silence(), closed(cancelled));
            future::or(async { _ = pumps.await }, silent).await;
        }
        let status = self.reap(&mut child);
        // One that was left at the last moment counts as well, and one that was being read.
        self.read_checkpoint().await;
        self.look_for_checkpoint().await;
        let exit = self.cause.get().cloned().unwrap_or_else(|| match status {
            Ok(status) => exit_of(status),
            Err(error) => Exit::Lost(format!("cannot get the exit status: {error}")),
        });
        if exit == Exit::Code(0) {
            self.read_result().await;
        }
        exit
    }

    async fn look_for_checkpoints(&self) {
        loop {
            Timer::after(checkpoint::LOOK_EVERY).await;
            self.look_for_checkpoint().await;
        }
    }

    async fn look_for_checkpoint(&self) {
        match self.checkpoints.as_ref().and_then(Checkpoints::claim) {
            Some(Ok(claimed)) => {
                *lock(&self.claimed) = Some(claimed);
                self.read_checkpoint().await;
            }
            Some(Err(reason)) => self.tell_checkpoint(Err(reason)),
            None => {}
        }
    }

    /// Reads what was claimed; begins again if it was given up on the way
    async fn read_checkpoint(&self) {
        let claimed = lock(&self.claimed).clone();
        if let Some(claimed) = claimed {
            let made = smol::unblock(move || claimed.read(INLINE_BYTES_MAX)).await;
            *lock(&self.claimed) = None;
            self.tell_checkpoint(made);
        }
    }

    /// What the program has left as its result, if it has
    async fn read_result(&self) {
        let Some(claimed) = self.checkpoints.as_ref().and_then(Checkpoints::claim_result) else { return };
        let made = match claimed {
            Ok(claimed) => smol::unblock(move || claimed.read(0)).await,
            Err(reason) => Err(reason),
        };
        // Without a receiver nobody wants to know.
        let _ = self.events.try_send(ExecEvent::Result { id: self.id, made });
    }

    fn tell_checkpoint(&self, made: Result<Made, NotTaken>) {
        // Without a receiver nobody wants to know.
        let _ = self.events.try_send(ExecEvent::Checkpoint { id: self.id, made });
    }

    /// Waits for the end of the program and brings it about when its time is over
    async fn await_end(
        &self,
        ended: impl Future<Output = ()>,
        timeout: Option<Duration>,
        grace: Duration,
        cancelled: &Receiver<Infallible>,
    ) {
        let mut ended = pin!(async {
            ended.await;
            true
        });
        let overdue = async {
            timeout.map_or_else(Timer::never, Timer::after).await;
            self.end(Signal::TERM, Exit::TimedOut);
        };
        let stopped = async {
            future::or(closed(cancelled), overdue).await;
            // Whoever came first, SIGTERM was sent.
            Timer::after(grace).await;
            false
        };
        if !future::or(ended.as_mut(), stopped).await {
            self.signal(Signal::KILL);
            ended.await;
        }
    }

    /// Moves the bytes of one pipe to its spool until the end, or until there is a reason to stop
    async fn pump(&self, stream: Stream, pipe: Async<PipeReader>) {
        loop {
            match pipe.read_with(|pipe| self.take(stream, pipe)).await {
                Ok(0) => return,
                // A fast writer must not keep the executor to itself.
                Ok(CHUNK_BYTES) => future::yield_now().await,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    let _ = self.cause.set(Exit::Lost(format!("{stream} is lost: {error}")));
                    return self.signal(Signal::KILL);
                }
            }
        }
    }

    /// Moves one chunk; 0 when it was the last
    fn take(&self, stream: Stream, mut pipe: &PipeReader) -> io::Result<usize> {
        // On the stack of this call, so that waiting executions hold no buffers.
        let mut chunk = [0; CHUNK_BYTES];
        let count = pipe.read(&mut chunk)?;
        let mut output = self.output(stream);
        let room = self.output_bytes_max - output.spool.len();
        let fits = usize::try_from(room).map_or(count, |room| room.min(count));
        output.spool.append(&chunk[..fits])?;
        self.announce(&mut output);
        if fits < count {
            // Even a program that has already ended by itself has said too much.
            let _ = self.cause.set(Exit::OutputTooLarge(stream));
            self.signal(Signal::KILL);
            return Ok(0);
        }
        Ok(count)
    }

    /// Tells of new bytes unless the reader still has to read what it was told before
    ///
    /// Asked by both sides, after they wrote and after they read, so that no growth goes untold.
    fn announce(&self, output: &mut Output) {
        let total = output.spool.len();
        if output.over || total <= output.announced || output.consumed < output.announced {
            return;
        }
        let (id, stream) = (self.id, output.stream);
        let event = ExecEvent::Grew { id, stream, total };
        if self.events.try_send(event).is_ok() {
            output.announced = total;
        }
    }

    /// Waits until the outputs stay silent, or for long enough
    async fn await_silence(&self) {
        let total = || self.output(Stream::Stdout).spool.len() + self.output(Stream::Stderr).spool.len();
        let start = Instant::now();
        let mut before = total();
        loop {
            Timer::after(DRAIN_QUIET).await;
            let now = total();
            if now == before || start.elapsed() >= DRAIN_MAX {
                return;
            }
            before = now;
        }
    }

    /// Kills what is left of the group and takes the status of its leader, which has ended
    fn reap(&self, child: &mut Child) -> io::Result<ExitStatus> {
        let mut leader = lock(&self.leader);
        // Only now is the id of the group free for others to get.
        if let Leader::There(pid) = *leader {
            signal_group(pid, Signal::KILL);
            // As long as its leader is not reaped, nobody else can have the number that the guardian knows.
            if let Some(guardian) = &self.guardian {
                guardian.unwatch(pid);
            }
        }
        *leader = Leader::Reaped;
        child.wait()
    }

    /// Signals the group, and makes `cause` the outcome unless the program has ended by itself
    fn end(&self, signal: Signal, cause: Exit) {
        // Held all the time: the process must not be reaped meanwhile.
        let leader = lock(&self.leader);
        match *leader {
            // Whoever starts it will look for the cause.
            Leader::Awaited => {
                let _ = self.cause.set(cause);
            }
            Leader::There(pid) => {
                if !has_ended(pid) {
                    let _ = self.cause.set(cause);
                }
                signal_group(pid, signal);
                if let Some(mark) = self.mark.clone() {
                    smol::unblock(move || signal_marked(&mark, signal, Some(pid))).detach();
                }
            }
            Leader::Reaped => {}
        }
    }

    fn signal(&self, signal: Signal) {
        let leader = lock(&self.leader);
        if let Leader::There(pid) = *leader {
            signal_group(pid, signal);
        }
    }

    fn output(&self, stream: Stream) -> MutexGuard<'_, Output> {
        lock(match stream {
            Stream::Stdout => &self.stdout,
            Stream::Stderr => &self.stderr,
        })
    }
}

/// Starts the program once
///
/// The standard library gives it default handling of SIGPIPE and an empty signal mask. All
/// descriptors made here are closed on exec, so that no other program inherits them.
fn start(spec: &CommandSpec) -> io::Result<Started> {
    // Made before the start, so that what can fail does so while there is no process yet.
    let (stdout, stdout_writer) = io::pipe()?;
    let (stderr, stderr_writer) = io::pipe()?;
    let (stdout, stderr) = (Async::new(stdout)?, Async::new(stderr)?);
    let mut command = Command::new(&spec.program);
    command
        .args(&spec.args)
        .envs(spec.env.iter().map(|(name, value)| (name, value)))
        .stdin(match &spec.stdin {
            Some(path) => File::open(path)?.into(),
            None => Stdio::null(),
        })
        .stdout(stdout_writer)
        .stderr(stderr_writer)
        .process_group(0);
    if let Some(cwd) = &spec.cwd {
        command.current_dir(cwd);
    }
    let child = command.spawn()?;
    let pid = Pid::from_child(&child);
    Ok(Started { pidfd: open_pidfd(pid), child, pid, stdout, stderr })
}

#[cfg(target_os = "linux")]
fn open_pidfd(pid: Pid) -> Option<Async<OwnedFd>> {
    let pidfd = process::pidfd_open(pid, process::PidfdFlags::empty()).ok()?;
    Async::new(pidfd).ok()
}

#[cfg(not(target_os = "linux"))]
fn open_pidfd(_: Pid) -> Option<Async<OwnedFd>> {
    None
}

/// Whether a start that failed so may succeed a little later
fn is_passing(error: &io::Error) -> bool {
    let full = [Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::NOMEM];
    // A script just written is busy while a process forked meanwhile still has it open.
    error.kind() == io::ErrorKind::ExecutableFileBusy
        || full.iter().any(|errno| Some(errno.raw_os_error()) == error.raw_os_error())
}

/// Says which program cannot start and why
#[allow(clippy::wildcard_enum_match_arm, reason = "the system's errors are not ours to enumerate")]
fn explain(spec: &CommandSpec, error: &io::Error) -> String {
    use io::ErrorKind::{ArgumentListTooLong, NotFound, PermissionDenied};
    let is_path = spec.program.as_encoded_bytes().contains(&b'/');
    let cwd = spec.cwd.as_deref().unwrap_or(Path::new(""));
    let place = cwd.join(&spec.program);
    let reason = match error.kind() {
        _ if spec.program.is_empty() => "the name is empty".to_owned(),
        // The system does not say which of the two paths it complains about.
        _ if spec.cwd.is_some() && !cwd.is_dir() => {
            format!("working directory {}: {error}", cwd.display())
        }
        NotFound if !is_path => "not found in PATH".to_owned(),
        NotFound if place.exists() => "its interpreter was not found".to_owned(),
        NotFound => "not found".to_owned(),
        PermissionDenied if is_path && place.is_dir() => "is a directory".to_owned(),
        PermissionDenied => "permission denied".to_owned(),
        ArgumentListTooLong => "argument list too long".to_owned(),
        _ => error.to_string(),
    };
    format!("{}: {reason}", Path::new(&spec.program).display())
}

/// Waits until the process has ended, and leaves it to be reaped
async fn ended(pid: Pid, pidfd: Option<Async<OwnedFd>>) {
    while !has_ended(pid) {
        let woken = match &pidfd {
            Some(pidfd) => pidfd.readable().await.is_ok(),
            None => false,
        };
        if !woken {
            Timer::after(POLL_INTERVAL).await;
        }
    }
}

/// Whether the process has ended, reaped or not
fn has_ended(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    loop {
        match process::waitid(WaitId::Pid(pid), options) {
            Err(Errno::INTR) => {}
            state => return !matches!(state, Ok(None)),
        }
    }
}

/// Waits until the other side was closed
async fn closed(cancelled: &Receiver<Infallible>) {
    // Nothing can be sent, so that this is always the error of a closed channel.
    let _ = cancelled.recv().await;
}

fn signal_group(pid: Pid, signal: Signal) {
    // The group may have no process left that can be signalled, which is what was wanted.
    let _ = process::kill_process_group(pid, signal);
}

fn exit_of(status: ExitStatus) -> Exit {
    match (status.code(), status.signal()) {
        (Some(code), _) => Exit::Code(code),
        (None, Some(signal)) => Exit::Signal(signal),
        (None, None) => Exit::Lost(format!("unknown exit status: {status}")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
