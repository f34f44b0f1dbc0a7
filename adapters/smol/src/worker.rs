//! A worker: the machine, one WebSocket at a time, and the processes of its tasks

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rejoin_core::Rejected;
use rejoin_core::blob::{INPUT, RESULT};
use rejoin_core::ids::{ClusterId, PeerName, TaskId, Token};
use rejoin_core::limits::{FRAME_BYTES_MAX, WORKER_ATTEMPTS_MAX};
use rejoin_core::link::{LinkState, Reason};
use rejoin_core::stats::LinkStats;
use rejoin_core::wire::keys::Key;
use rejoin_core::wire::message::{CheckpointRefused, Failure, Outcome, Stream};
use rejoin_core::worker::{Config, Finished, Input, Output, Restored, Worker};
use smol::channel::{Receiver, unbounded};
use smol::future::FutureExt;

use crate::checkpoint::{self, Checkpoints, Large, Made, NotTaken, Restoring, StartsFrom};
use crate::clock::{Clock, entropy, seed};
use crate::command::{Command, GRACE};
use crate::exec::{self, ExecEvent, Execution, Exit, Surroundings};
use crate::guardian::Guardian;
use crate::journal::lock;
use crate::line::{Line, LineEvent};
use crate::pump::Queue;
use crate::results::{Folder, Found, FoundOutput, Happened, Job, Keeper, Kept, cluster_of};
use crate::tls::Trust;
use crate::url::Endpoint;

/// Events taken in between two drains, so that a flood cannot starve the timers
const BATCH: usize = 64;
/// How long the results of tasks that were stopped by a drain may take to be settled
const SETTLING: Duration = Duration::from_secs(5);
/// How long a farewell may take
const FAREWELL: Duration = Duration::from_secs(1);

/// What a worker needs beside the machine's own settings
#[derive(Clone, Debug)]
pub struct Options {
    /// The coordinator: the endpoints of `config`, in the same order
    pub endpoints: Vec<Endpoint>,
    /// Who is believed when a coordinator says by TLS which host it is
    pub trust: Trust,
    /// The machine's settings
    pub config: Config,
    /// Where output that does not fit into memory goes until the coordinator has it
    pub spool_dir: PathBuf,
    /// Most bytes that it keeps there of what it has finished, so that a later process delivers that (SESS-9); `None` for nothing
    pub keep_bytes_max: Option<u64>,
    /// Where each start of a task is written down, one line each, before it happens
    pub start_log: Option<PathBuf>,
    /// How long tasks may go on when the worker is to drain; then they are stopped, and handed over (TASK-8)
    pub drain_within: Duration,
    /// Who ends the tasks' processes, should this process be killed
    pub guardian: Option<Guardian>,
    /// Who keeps another key that it is given; without, it stays with the one it has (AUTH-6)
    pub key_keeper: Option<KeyKeeper>,
}

type KeepKey = dyn Fn(&Key, Option<ClusterId>) -> io::Result<()> + Send + Sync;

/// Puts a new key where the worker's key is read from when it starts, for good, and all of it or nothing (AUTH-6)
#[derive(Clone)]
pub struct KeyKeeper(Arc<KeepKey>);

impl KeyKeeper {
    /// Keeps keys like that; nothing else happens in the worker meanwhile
    ///
    /// A worker that came with a join token has no key yet: then the cluster is named that it belongs to from now on.
    pub fn new(keep: impl Fn(&Key, Option<ClusterId>) -> io::Result<()> + Send + Sync + 'static) -> KeyKeeper {
        KeyKeeper(Arc::new(keep))
    }
}

impl fmt::Debug for KeyKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyKeeper")
    }
}

/// What a worker may be told while it runs
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Take nothing new, finish what runs within [`Options::drain_within`], and leave (TASK-8)
    Drain,
    /// Stop everything, and leave at once
    Leave,
}

/// What can be seen of a worker from outside
#[derive(Clone, Debug, Default)]
pub struct Watch(Arc<Mutex<Glance>>);

/// A worker at one moment
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    /// Where its connection stands
    pub state: LinkState,
    /// Its counters
    pub stats: LinkStats,
    /// Whether failed handshakes have put it into the slow lane
    pub slow: bool,
}

impl Default for Glance {
    fn default() -> Self {
        Glance { state: LinkState::Waiting, stats: LinkStats::default(), slow: false }
    }
}

impl Watch {
    /// Returns how the worker stood when it last did something
    pub fn glance(&self) -> Glance {
        *lock(&self.0)
    }
}

/// Why a worker ended
#[derive(Debug)]
pub enum Ended {
    /// It has left in order: everything it held is settled, or handed over (TASK-8)
    Left,
    /// It has left, and the coordinator could not be told what became of so many tasks: they go to others
    LeftBehind(usize),
    /// It has left, and so many results wait on its disk for the next process
    LeftWaiting(usize),
    /// The coordinator does not want it any more (AUTH-2)
    Refused(Reason),
    /// Something on this side failed
    Failed(io::Error),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Left => f.write_str("the worker has left"),
            Ended::LeftBehind(tasks) => write!(
                f,
                "the worker has left without a word to the coordinator: {tasks} of its tasks will be given to others, \
                 and executed again"
            ),
            Ended::LeftWaiting(results) => write!(
                f,
                "the worker has left without a word to the coordinator: {results} of its results are in its data \
                 directory, and are delivered when it is started with that again"
            ),
            Ended::Refused(reason) => write!(f, "the coordinator refused this worker for good: {reason}"),
            Ended::Failed(error) => write!(f, "the worker cannot go on: {error}"),
        }
    }
}

/// Runs a worker until it has left, is refused for good, or is dropped: then its tasks' processes are killed
pub async fn run(options: Options, watch: Watch, orders: Receiver<Order>) -> Ended {
    match Runner::new(options, watch, orders) {
        Ok(mut runner) => runner.run().await.unwrap_or_else(Ended::Failed),
        Err(error) => Ended::Failed(error),
    }
}

/// Files by attempt and number of checkpoint, or [`RESULT`]
type Saved = BTreeMap<(Token, u64), Large>;

struct Runner {
    clock: Clock,
    worker: Worker,
    line: Line,
    /// What this worker is called
    name: PeerName,
    executions: BTreeMap<Token, Execution>,
    /// Large checkpoints and results that are being sent, or wait for that, by attempt and number
    saved: Saved,
    /// What programs have left as their results, until they are over
    results: BTreeMap<Token, Result<Made, NotTaken>>,
    /// Largest result that the machine keeps
    result_bytes_max: u32,
    /// Large checkpoints that attempts are to start from
    restores: BTreeMap<Token, Restoring>,
    /// Large inputs of attempts that have not started
    inputs: BTreeMap<Token, Restoring>,
    exec_events: Queue<ExecEvent>,
    spool_dir: Arc<std::path::Path>,
    start_log: Option<File>,
    watch: Watch,
    orders: Receiver<Order>,
    drain_within: Duration,
    drain: Option<Drain>,
    /// Whether the coordinator was there, before the worker stopped
    was_connected: bool,
    /// Why tasks cannot be started here any more
    broken: Option<io::Error>,
    /// Why the coordinator that was reached last is not listened to
    wrong_coordinator: Option<Reason>,
    guardian: Option<Guardian>,
    /// Who keeps what is over, what is kept, and the output of what an earlier process had finished
    keeper: Option<Keeper>,
    kept: BTreeSet<Token>,
    found: BTreeMap<Token, FoundOutput>,
    cannot_keep: bool,
    key_keeper: Option<KeyKeeper>,
    /// It has a join token, and no key yet
    enrols: bool,
    /// When exclusive tasks must be over, as the guardian knows it
    lease_end: Option<rejoin_core::Instant>,
    frame: Vec<u8>,
    piece: Vec<u8>,
}

/// How far a drain has come, and when it goes on
#[derive(Clone, Copy, Debug)]
enum Drain {
    /// What runs may finish until then
    Finishing(Instant),
    /// What ran was told to stop; what is not settled by then is left behind
    Stopping(Instant),
    /// The coordinator is being told that this worker leaves
    Leaving(Instant),
}

/// What a worker wakes up for
enum Event {
    Line(LineEvent),
    Exec(ExecEvent),
    Kept(Happened),
    Order(Order),
    Time,
}

impl Runner {
    fn new(options: Options, watch: Watch, orders: Receiver<Order>) -> io::Result<Self> {
        let clock = Clock::start();
        let dial_time = options.config.link.handshake_time;
        let result_bytes_max = options.config.result_bytes_max;
        let mut config = options.config;
        let (mut folder, mut found) = (None, Vec::new());
        if let Some(bytes_max) = options.keep_bytes_max {
            let places = config.slots.saturating_add(config.prefetch);
            let (dir, name) = (&options.spool_dir, &config.link.key.name);
            let opened = Folder::open(dir, name, bytes_max, config.result_bytes_max, places);
            let (opened, all) = opened.map_err(io::Error::other)?;
            make_room(&mut config, &all);
            (folder, found) = (Some(opened), all);
        }
        let (name, enrols) = (config.link.key.name.clone(), config.link.token);
        let mut worker = Worker::new(config, seed()?, clock.now()).map_err(io::Error::other)?;
        let (found, saved) = restore(&mut worker, clock.now(), found)?;
        let kept = found.keys().copied().collect();
        if let Some(folder) = &folder {
            let input = Input::Reserved { attempts: folder.reserved() };
            worker.handle(clock.now(), input).map_err(io::Error::other)?;
        }
        let keeper = folder.map(Keeper::start).transpose()?;
        let start_log = options.start_log.map(|path| OpenOptions::new().create(true).append(true).open(path));
        Ok(Runner {
            clock,
            worker,
            name,
            line: Line::new(options.endpoints, dial_time).trusting(options.trust),
            executions: BTreeMap::new(),
            saved,
            results: BTreeMap::new(),
            result_bytes_max,
            restores: BTreeMap::new(),
            inputs: BTreeMap::new(),
            exec_events: unbounded(),
            spool_dir: options.spool_dir.into(),
            start_log: start_log.transpose()?,
            watch,
            orders,
            drain_within: options.drain_within,
            drain: None,
            was_connected: false,
            broken: None,
            wrong_coordinator: None,
            guardian: options.guardian,
            keeper,
            kept,
            found,
            cannot_keep: false,
            key_keeper: options.key_keeper,
            enrols,
            lease_end: None,
            frame: vec![0; FRAME_BYTES_MAX],
            piece: vec![0; FRAME_BYTES_MAX],
        })
    }

    async fn run(&mut self) -> io::Result<Ended> {
        let ended = self.work().await;
        if let Some(keeper) = self.keeper.take() {
            // What is settled must not come again with the next process, and what is not must.
            keeper.finish().await;
        }
        ended
    }

    async fn work(&mut self) -> io::Result<Ended> {
        loop {
            let wake_at = self.act()?;
            let wake_at = self.keep_lease(wake_at);
            self.show();
            if let Some(reason) = self.worker.stopped() {
                self.line.finish().await;
                return Ok(match (reason, self.broken.take()) {
                    (Reason::Left, Some(error)) => Ended::Failed(error),
                    (Reason::Left, None) => self.left(),
                    (reason, _) => Ended::Refused(reason),
                });
            }
            if self.is_late() {
                return Ok(self.left());
            }
            let event = self.next_event(wake_at).await;
            self.take(event)?;
            for _ in 1..BATCH {
                let Some(event) = self.try_event() else { break };
                self.take(event)?;
            }
        }
    }

    /// Has the guardian know until when exclusive tasks may run, and ends those that have not ended by then (TASK-4)
    fn keep_lease(&mut self, wake_at: Option<rejoin_core::Instant>) -> Option<rejoin_core::Instant> {
        let Some(lease) = self.worker.lease() else { return wake_at };
        let (now, end) = (self.clock.now(), lease.until + lease.grace);
        if self.lease_end.replace(end) != Some(end)
            && let Some(guardian) = &self.guardian
        {
            guardian.lease_ends_in(end.since(now));
        }
        let exclusive = self.executions.iter().filter(|(token, _)| self.worker.is_exclusive(**token));
        if end <= now {
            exclusive.for_each(|(_, execution)| execution.kill());
            return wake_at;
        }
        let runs = exclusive.count() > 0;
        if runs { Some(wake_at.map_or(end, |wake_at| wake_at.min(end))) } else { wake_at }
    }

    /// Does what the machine asks for, until it asks for nothing
    fn act(&mut self) -> io::Result<Option<rejoin_core::Instant>> {
        loop {
            match self.worker.poll(&mut self.frame) {
                Output::Connect { attempt, endpoint } => self.line.connect(attempt, endpoint),
                Output::Disconnect { reason, .. } => {
                    self.gave_up(reason);
                    self.line.disconnect(reason);
                }
                Output::Send { bytes } => {
                    if let Some(attempt) = self.line.send(bytes) {
                        self.tell(Input::Writable { attempt, writable: false });
                    }
                }
                Output::Run { task, token, attempt } => self.start(task, token, attempt)?,
                Output::Cancel { token, .. } => {
                    if let Some(execution) = self.executions.get(&token) {
                        execution.cancel();
                    }
                }
                Output::Freeze { token } => {
                    tracing::warn!(%token, "not looked after for too long: stands still until the coordinator answers");
                    if let Some(execution) = self.executions.get(&token) {
                        execution.freeze();
                    }
                }
                Output::Thaw { token } => {
                    if let Some(execution) = self.executions.get(&token) {
                        execution.thaw();
                    }
                }
                Output::WantCheckpoint { token } => {
                    let wanted = self.executions.get(&token).map_or(Ok(()), Execution::want_checkpoint);
                    if let Err(error) = wanted {
                        tracing::warn!(%token, %error, "the task cannot be told that a checkpoint is due");
                    }
                }
                Output::ReadOutput { token, stream, offset, max } => self.read_output(token, stream, offset, max)?,
                Output::Checkpointed { token, number, refused } => self.checkpoint_answered(token, number, refused),
                Output::ReadCheckpoint { token, number, offset, max } => {
                    self.read_checkpoint(token, number, offset, max);
                }
                Output::RestorePiece { token, number, offset, bytes } => {
                    let files = if number == INPUT { &mut self.inputs } else { &mut self.restores };
                    let written = keep_piece(files, &self.spool_dir, token, number, offset, bytes);
                    if let Err(error) = written {
                        tracing::error!(%error, "no room for what a task starts from: nothing new is taken");
                        files.remove(&token);
                        self.broken = Some(error);
                        self.order(Order::Drain);
                    }
                }
                Output::Keep { token } => self.keep(token),
                Output::KeepKey => self.keep_key()?,
                Output::Forget { token } => {
                    if let Some(keeper) = &self.keeper {
                        keeper.remove(token);
                    }
                    self.kept.remove(&token);
                    self.found.remove(&token);
                    self.executions.remove(&token);
                    self.results.remove(&token);
                    self.restores.remove(&token);
                    self.inputs.remove(&token);
                    self.saved.retain(|(of, _), _| *of != token);
                }
                Output::Idle { wake_at } => return Ok(wake_at),
            }
        }
    }

    /// Says why a connection was given up: once, where that is so until somebody does something about the coordinator
    fn gave_up(&mut self, reason: Reason) {
        let wrong = matches!(reason, Reason::OldCoordinator { .. } | Reason::OtherCluster { .. });
        let before = self.wrong_coordinator.replace(reason).filter(|_| wrong);
        self.wrong_coordinator = self.wrong_coordinator.filter(|_| wrong);
        match (reason, wrong) {
            (Reason::Left, _) => {}
            (_, true) if before == Some(reason) => tracing::debug!(%reason, "connection given up"),
            (_, true) => {
                tracing::warn!(%reason, "not working for this coordinator; what runs goes on, and results are kept")
            }
            (_, false) => tracing::info!(%reason, "connection given up"),
        }
    }

    /// Keeps the key that is to be used from the next connection on
    fn keep_key(&mut self) -> io::Result<()> {
        let cluster = self.worker.cluster().filter(|_| self.enrols);
        let (Some(key), Some(KeyKeeper(keep))) = (self.worker.next_key(), &self.key_keeper) else {
            tracing::warn!("another key was offered, and is kept nowhere: the one before stays in use");
            self.tell(Input::KeyKept { kept: false });
            return Ok(());
        };
        let kept = keep(&key, cluster);
        match &kept {
            Ok(()) => tracing::info!(key = %key.id, "another key is kept, and used from now on"),
            // Without a key there is nothing to go on with, and each try takes one.
            Err(_) if self.enrols => return kept,
            Err(error) => tracing::error!(%error, "another key cannot be kept: the one before stays in use"),
        }
        self.enrols = false;
        self.tell(Input::KeyKept { kept: kept.is_ok() });
        Ok(())
    }

    /// Shows how the worker stands, and says what has changed since
    fn show(&mut self) {
        let (state, slow) = (self.worker.state(), self.worker.is_slow());
        if state != LinkState::Stopped {
            self.was_connected = state == LinkState::Connected;
        }
        let mut glance = lock(&self.watch.0);
        let before = *glance;
        *glance = Glance { state, stats: self.worker.stats(), slow };
        drop(glance);
        match (before.state == LinkState::Connected, state == LinkState::Connected) {
            (false, true) => {
                let wire_version = self.worker.wire_version().unwrap_or_default();
                tracing::info!(tasks = self.worker.held(), wire_version, "connected");
            }
            (true, false) => tracing::info!(tasks = self.worker.held(), "connection lost"),
            (true, true) | (false, false) => {}
        }
        if slow && !before.slow && self.wrong_coordinator.is_none() {
            tracing::warn!("no handshake succeeds: is the key right? trying again now and then");
        }
        if self.worker.is_draining() && self.drain.is_none() {
            self.begin_drain();
        }
    }

    // Leaving.

    fn order(&mut self, order: Order) {
        match order {
            Order::Drain if self.drain.is_none() => {
                self.tell(Input::Drain);
                self.begin_drain();
            }
            Order::Drain => {}
            Order::Leave => self.leave(),
        }
    }

    fn begin_drain(&mut self) {
        tracing::info!(tasks = self.worker.held(), within = ?self.drain_within, "draining");
        self.drain = Some(Drain::Finishing(Instant::now() + self.drain_within));
    }

    /// Kills what runs, and lets the coordinator know that nothing more is to be expected from here
    fn leave(&mut self) {
        self.executions.values().for_each(Execution::kill);
        self.tell(Input::Leave);
        self.drain = Some(Drain::Leaving(Instant::now() + FAREWELL));
    }

    /// Goes on with a drain whose time has come; `true` when nobody can be waited for any more
    fn is_late(&mut self) -> bool {
        let now = Instant::now();
        match self.drain {
            Some(Drain::Finishing(at)) if at <= now => {
                tracing::info!(tasks = self.executions.len(), "stopping what still runs");
                self.executions.values().for_each(Execution::cancel);
                self.drain = Some(Drain::Stopping(now + GRACE + SETTLING));
                false
            }
            Some(Drain::Stopping(at)) if at <= now => {
                self.leave();
                false
            }
            Some(Drain::Leaving(at)) => at <= now,
            Some(Drain::Finishing(_) | Drain::Stopping(_)) | None => false,
        }
    }

    fn left(&self) -> Ended {
        let waits = |token: &&Token| self.worker.finished(**token).is_some();
        let kept = self.kept.iter().filter(waits).count();
        match self.worker.held() - kept {
            tasks if tasks > 0 && !self.was_connected => Ended::LeftBehind(tasks),
            _ if kept > 0 && !self.was_connected => Ended::LeftWaiting(kept),
            _ => Ended::Left,
        }
    }

    fn start(&mut self, task: TaskId, token: Token, attempt: u32) -> io::Result<()> {
        let command = self.worker.payload(token).and_then(Command::decode);
        let Some(command) = command else {
            let message = b"the input of this task is not a command this worker understands";
            self.tell(Input::Finished { token, outcome: Outcome::Failed(Failure::Error), result: message });
            return Ok(());
        };
        if let Some(log) = &mut self.start_log {
            // One write for one line, so that a killed worker leaves whole lines only.
            log.write_all(format!("{task} {:016x} {attempt:08x}\n", token.0).as_bytes())?;
        }
        let env = [
            ("REJOIN_TASK", task.to_string()),
            ("REJOIN_ATTEMPT", attempt.to_string()),
            ("REJOIN_TOKEN", token.0.to_string()),
        ];
        let env = env.into_iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect();
        let checkpoints = match self.surround(task, token, attempt) {
            Ok(checkpoints) => checkpoints,
            Err(error) => {
                // The disk is full, or the folder is gone. Whoever fails at once would get task after task.
                tracing::error!(%error, "no room for a task's files: nothing new is taken");
                self.tell(Input::Declined { token });
                self.broken = Some(error);
                self.order(Order::Drain);
                return Ok(());
            }
        };
        let around = Surroundings {
            checkpoints: Some(checkpoints),
            spool_dir: self.spool_dir.clone(),
            guardian: self.guardian.clone(),
            exclusive: self.worker.is_exclusive(token),
        };
        tracing::debug!(%task, attempt, %token, "task starts");
        let events = self.exec_events.0.clone();
        let execution = Execution::start(token.0, command.spec(env), around, events);
        self.executions.insert(token, execution);
        self.tell(Input::Started { token });
        Ok(())
    }

    /// Makes the folder of an execution, with what it starts from
    fn surround(&mut self, task: TaskId, token: Token, attempt: u32) -> io::Result<Checkpoints> {
        let restoring = self.restores.remove(&token);
        let from = match self.worker.checkpoint(token) {
            None => None,
            Some((number, Restored::Bytes(bytes))) => Some((number, bytes.len() as u64, StartsFrom::Bytes(bytes))),
            Some((number, Restored::Pieces(length))) => {
                let restoring = restoring.as_ref().filter(|restoring| restoring.number() == number);
                let path = restoring.ok_or_else(|| io::Error::other("what the task starts from could not be kept"))?;
                Some((number, length, StartsFrom::File(path.path())))
            }
        };
        if let Some((number, bytes, _)) = from {
            tracing::info!(%task, attempt, number, bytes, "task goes on from a checkpoint");
        }
        let fed = self.worker.input(token).is_some();
        let mut surroundings = Checkpoints::new(&self.spool_dir, from.map(|(.., from)| from), checkpoint::BYTES_MAX)?;
        if fed {
            let input = self.inputs.remove(&token);
            let input = input.ok_or_else(|| io::Error::other("the task's input could not be kept"))?;
            surroundings.feed(input.path())?;
        }
        Ok(surroundings)
    }

    /// Has an attempt kept that is over
    fn keep(&mut self, token: Token) {
        let Some(keeper) = &self.keeper else { return };
        let (Some(finished), Some(cluster)) = (self.worker.finished(token), self.worker.cluster()) else { return };
        let Finished { task, token, attempt, outcome, result, large, checkpoint } = finished;
        let kept = Kept {
            worker: self.name.clone(),
            cluster,
            task,
            token,
            attempt,
            outcome,
            result: result.into(),
            large: large.map(|(length, names)| (length, names.into())),
            checkpoint: checkpoint.map(|(number, bytes)| (number, bytes.into())),
            streams: Default::default(),
            inline: Default::default(),
        };
        let outputs = self.executions.get(&token).map(Execution::outputs);
        keeper.keep(Job { kept, outputs, large: self.saved.get(&(token, RESULT)).cloned() });
    }

    fn kept(&mut self, happened: Happened) {
        let Happened { kept, reserved, trouble } = happened;
        let cannot = trouble.is_some();
        if let Some(error) = trouble.filter(|_| !self.cannot_keep) {
            tracing::error!(%error, "a result cannot be kept: nothing new is taken meanwhile, and it is tried again");
        } else if self.cannot_keep && !cannot {
            tracing::info!("results can be kept again");
        }
        self.cannot_keep = cannot;
        // Less room first: what was kept has taken it.
        self.tell(Input::Reserved { attempts: reserved });
        for token in kept {
            if self.worker.finished(token).is_some() {
                self.kept.insert(token);
            }
            self.tell(Input::Kept { token });
        }
    }

    fn read_checkpoint(&mut self, token: Token, number: u64, offset: u64, max: u32) {
        let room = &mut self.piece[..max as usize];
        let read = match self.saved.get(&(token, number)).map(|large| large.read_at(offset, room)) {
            Some(Ok(read)) => read,
            Some(Err(error)) => {
                tracing::warn!(%token, number, %error, "a checkpoint or a result cannot be read");
                0
            }
            None => 0,
        };
        let input = Input::CheckpointRead { token, number, offset, bytes: &self.piece[..read] };
        expected(self.worker.handle(self.clock.now(), input));
    }

    fn checkpoint_made(&mut self, token: Token, made: Result<Made, NotTaken>) {
        match made {
            Ok(Made::Small(bytes)) => self.tell(Input::Checkpoint { token, bytes: &bytes }),
            Ok(Made::Large(large)) => {
                let input = Input::LargeCheckpoint { token, length: large.len(), names: large.names() };
                let taken = self.worker.handle(self.clock.now(), input);
                let number = self.worker.newest_checkpoint(token).filter(|_| taken.is_ok());
                expected(taken);
                self.saved.extend(number.map(|number| ((token, number), large)));
                // The one that waited for its turn is replaced by this one.
                let worker = &self.worker;
                self.saved.retain(|(of, number), _| *of != token || worker.keeps_checkpoint(token, *number));
            }
            Err(reason) => tracing::warn!(%token, %reason, "checkpoint not taken; the one before stays"),
        }
    }

    fn read_output(&mut self, token: Token, stream: Stream, offset: u64, max: u32) -> io::Result<()> {
        let room = &mut self.piece[..max as usize];
        let read = match self.executions.get(&token) {
            Some(execution) => execution.read_at(exec_stream(stream), offset, room)?,
            None => match self.found.get(&token) {
                Some(found) => found.read_at(stream, offset, room)?,
                None => 0,
            },
        };
        let input = Input::OutputRead { token, stream, offset, bytes: &self.piece[..read] };
        expected(self.worker.handle(self.clock.now(), input));
        Ok(())
    }

    // What happens.

    async fn next_event(&mut self, wake_at: Option<rejoin_core::Instant>) -> Event {
        let exec = async {
            match self.exec_events.1.recv().await {
                Ok(event) => Event::Exec(event),
                // This end keeps a sender, so that it never closes.
                Err(_) => smol::future::pending().await,
            }
        };
        let kept = async {
            match &self.keeper {
                Some(keeper) => Event::Kept(keeper.next().await),
                None => smol::future::pending().await,
            }
        };
        let line = async { Event::Line(self.line.next().await) };
        let time = async {
            self.clock.wait_until(wake_at).await;
            Event::Time
        };
        let order = async {
            match self.orders.recv().await {
                Ok(order) => Event::Order(order),
                // Nobody is left to give any.
                Err(_) => smol::future::pending().await,
            }
        };
        let drain = async {
            match self.drain {
                Some(Drain::Finishing(at) | Drain::Stopping(at) | Drain::Leaving(at)) => {
                    smol::Timer::at(at).await;
                    Event::Time
                }
                None => smol::future::pending().await,
            }
        };
        line.or(exec).or(kept).or(order).or(time).or(drain).await
    }

    fn try_event(&mut self) -> Option<Event> {
        let line = self.line.try_next().map(Event::Line);
        let line = line.or_else(|| self.exec_events.1.try_recv().ok().map(Event::Exec));
        line.or_else(|| self.keeper.as_ref().and_then(Keeper::try_next).map(Event::Kept))
    }

    fn take(&mut self, event: Event) -> io::Result<()> {
        match event {
            Event::Line(LineEvent::Connected { attempt, binding }) => {
                let entropy = entropy()?;
                self.tell(Input::Connected { attempt, entropy, binding });
            }
            Event::Line(LineEvent::Message { attempt, bytes }) => {
                self.tell(Input::Received { attempt, bytes: &bytes });
            }
            Event::Line(LineEvent::Disconnected { attempt, loss }) => self.tell(Input::Disconnected { attempt, loss }),
            Event::Line(LineEvent::Writable { attempt }) => self.tell(Input::Writable { attempt, writable: true }),
            Event::Exec(ExecEvent::Grew { id, stream, total }) => {
                self.tell(Input::OutputGrew { token: Token(id), stream: core_stream(stream), total });
            }
            Event::Exec(ExecEvent::Result { id, made }) => {
                self.results.insert(Token(id), made);
            }
            Event::Exec(ExecEvent::Finished { id, exit }) => self.finished(Token(id), exit),
            Event::Exec(ExecEvent::Checkpoint { id, made }) => self.checkpoint_made(Token(id), made),
            Event::Kept(happened) => self.kept(happened),
            Event::Order(order) => self.order(order),
            Event::Time => {
                if let Some(attempt) = self.line.arriving() {
                    self.tell(Input::Arriving { attempt });
                }
                self.tell(Input::Timeout);
            }
        }
        Ok(())
    }

    fn checkpoint_answered(&mut self, token: Token, number: u64, refused: Option<CheckpointRefused>) {
        self.saved.retain(|(of, made), _| *of != token || *made > number || *made == RESULT);
        match refused {
            None => tracing::debug!(%token, number, "checkpoint kept"),
            Some(CheckpointRefused::Stale) => tracing::debug!(%token, number, "checkpoint of no use any more"),
            Some(CheckpointRefused::TooLarge) => tracing::warn!(%token, number, "checkpoint refused: it is too large"),
            Some(CheckpointRefused::Full) => {
                tracing::warn!(%token, number, "checkpoint refused: the coordinator keeps as many as it may");
            }
            Some(CheckpointRefused::Damaged) => {
                tracing::warn!(%token, number, "checkpoint not taken: its file changed while it was sent; write each under a name of its own");
            }
        }
    }

    fn finished(&mut self, token: Token, exit: Exit) {
        for stream in Stream::ALL {
            let total = self.executions.get(&token).map_or(0, |execution| execution.len(exec_stream(stream)));
            self.tell(Input::OutputGrew { token, stream, total });
        }
        let (outcome, message) = outcome(exit);
        match self.results.remove(&token).filter(|_| outcome == Outcome::Succeeded) {
            Some(made) => self.returned(token, made),
            None => self.tell(Input::Finished { token, outcome, result: message.as_bytes() }),
        }
    }

    /// A program has succeeded, and left a result
    fn returned(&mut self, token: Token, made: Result<Made, NotTaken>) {
        let small = |large: &Large| {
            let mut bytes = vec![0; usize::try_from(large.len()).unwrap_or(usize::MAX)];
            let read = large.read_at(0, &mut bytes).map_err(|error| NotTaken::Unreadable(error.to_string()))?;
            bytes.truncate(read);
            Ok(Made::Small(bytes))
        };
        let made = match made {
            Ok(Made::Large(large)) if large.len() <= u64::from(self.result_bytes_max) => small(&large),
            made => made,
        };
        let outcome = Outcome::Succeeded;
        match made {
            Ok(Made::Small(bytes)) => self.tell(Input::Finished { token, outcome, result: &bytes }),
            Ok(Made::Large(large)) => {
                let (length, names) = (large.len(), large.names());
                self.tell(Input::FinishedLarge { token, outcome, length, names });
                self.saved.insert((token, RESULT), large);
            }
            Err(reason) => {
                let failure =
                    if matches!(reason, NotTaken::TooLarge { .. }) { Failure::ResultTooLarge } else { Failure::Error };
                let message = short(format!("its result is not taken: {reason}"));
                self.tell(Input::Finished { token, outcome: Outcome::Failed(failure), result: message.as_bytes() });
            }
        }
    }

    fn tell(&mut self, input: Input<'_>) {
        expected(self.worker.handle(self.clock.now(), input));
    }
}

/// Makes a worker's settings wide enough for what an earlier process had finished
fn make_room(config: &mut Config, found: &[Found]) {
    let places = usize::from(config.slots) + usize::from(config.prefetch);
    let attempts = (found.len() + places).min(WORKER_ATTEMPTS_MAX) as u16;
    config.attempts_max = config.attempts_max.max(attempts);
    let largest = found.iter().map(|found| found.kept.result.len() as u32).max().unwrap_or(0);
    config.result_bytes_max = config.result_bytes_max.max(largest);
    let largest = found.iter().filter_map(|found| found.large.as_ref()).map(Large::len).max().unwrap_or(0);
    config.large_result_max = config.large_result_max.max(largest);
    // Another cluster's coordinator would call it stale, and it would be gone.
    config.link.cluster = config.link.cluster.or(cluster_of(found));
}

/// Tells a worker what an earlier process had finished, and returns where the output of that is, and the large results
fn restore(
    worker: &mut Worker,
    now: rejoin_core::Instant,
    found: Vec<Found>,
) -> io::Result<(BTreeMap<Token, FoundOutput>, Saved)> {
    let (mut outputs, mut saved) = (BTreeMap::new(), Saved::new());
    let all = found.len();
    for Found { kept, output, large } in found {
        let Kept { task, token, attempt, outcome, ref result, ref checkpoint, streams, .. } = kept;
        let checkpoint = checkpoint.as_ref().map(|(number, bytes)| (*number, &bytes[..]));
        let in_chunks = large.as_ref().map(|large| (large.len(), large.names()));
        let finished = Finished { task, token, attempt, outcome, result, large: in_chunks, checkpoint };
        match worker.handle(now, Input::Restore { finished, streams }) {
            Ok(()) => {
                outputs.insert(token, output);
                saved.extend(large.map(|large| ((token, RESULT), large)));
            }
            // More than a worker may hold: the others wait for the next start.
            Err(Rejected::Full) => break,
            Err(rejected) => return Err(io::Error::other(rejected)),
        }
    }
    if all > 0 {
        tracing::info!(results = outputs.len(), waiting = all - outputs.len(), "an earlier process had finished tasks");
    }
    Ok((outputs, saved))
}

/// Puts a piece of what an attempt is to start from into its file
fn keep_piece(
    restores: &mut BTreeMap<Token, Restoring>,
    below: &std::path::Path,
    token: Token,
    number: u64,
    offset: u64,
    bytes: &[u8],
) -> io::Result<()> {
    if restores.get(&token).is_none_or(|restoring| restoring.number() != number) {
        restores.insert(token, Restoring::new(below, number)?);
    }
    restores.get(&token).map_or(Ok(()), |restoring| restoring.write_at(offset, bytes))
}

/// What is reported may come late: of an attempt that is no more, or in another state
fn expected(result: Result<(), Rejected>) {
    if let Err(rejected) = result {
        tracing::debug!(%rejected, "too late");
    }
}

fn outcome(exit: Exit) -> (Outcome, String) {
    let failed = Outcome::Failed;
    match exit {
        Exit::Code(0) => (Outcome::Succeeded, String::new()),
        Exit::Code(code) => (failed(Failure::Exit(code)), String::new()),
        Exit::Signal(signal) => (failed(Failure::Signal(signal)), String::new()),
        Exit::TimedOut => (failed(Failure::TimedOut), String::new()),
        Exit::CannotStart(message) => (failed(Failure::CannotStart), short(message)),
        Exit::OutputTooLarge(stream) => (failed(Failure::OutputTooLarge), stream.to_string()),
        Exit::Cancelled => (Outcome::Cancelled, String::new()),
        Exit::Lost(message) => (failed(Failure::Error), short(message)),
    }
}

/// A message must never be what makes a result too large
fn short(message: String) -> String {
    const MAX: usize = 1000;
    match message.char_indices().find(|(at, c)| at + c.len_utf8() > MAX) {
        Some((at, _)) => format!("{}…", &message[..at]),
        None => message,
    }
}

fn exec_stream(stream: Stream) -> exec::Stream {
    match stream {
        Stream::Out => exec::Stream::Stdout,
        Stream::Err => exec::Stream::Stderr,
    }
}

fn core_stream(stream: exec::Stream) -> Stream {
    match stream {
        exec::Stream::Stdout => Stream::Out,
        exec::Stream::Stderr => Stream::Err,
    }
}
