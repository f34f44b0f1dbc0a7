//! An embedded coordinator, its local workers, and whatever disturbs the links between them

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rejoin_core::backoff::BackoffConfig;
use rejoin_core::coordinator;
use rejoin_core::ids::{BootId, ClusterId, KeyId, Role, Token};
use rejoin_core::journal::Record;
use rejoin_core::link::{LinkConfig, LinkState};
use rejoin_core::stats::LinkStats;
use rejoin_core::wire::keys::{Key, Secret};
use rejoin_core::wire::message::{Outcome, Stream};
use rejoin_core::worker;
use rejoin_smol::chaos::{Profile, Proxy};
use rejoin_smol::clock::entropy;
use rejoin_smol::coordinator::Server;
use rejoin_smol::guardian::Guardian;
use rejoin_smol::journal::{DurableJournal, DurableOutputs, Journal, MemoryJournal, OutputStore, Outputs, Records};
use rejoin_smol::spool::{MEMORY_BYTES_MAX, Spool};
use rejoin_smol::tls::Trust;
use rejoin_smol::url::Endpoint;
use rejoin_smol::worker::{Options, Watch, run};
use smol::channel::bounded;

use crate::audit::{Audit, Ended, Fact, Start, audit};

/// Heartbeats between workers and coordinator where the links are left alone
const HEARTBEAT: Duration = Duration::from_secs(1);
/// Heartbeats where they are not, so that half-open links are found at once
const HEARTBEAT_DISRUPTED: Duration = Duration::from_millis(100);

/// What a fleet is made of
#[derive(Debug)]
pub struct Plan {
    /// Number of workers
    pub workers: u16,
    /// Tasks that each runs at a time
    pub slots: u16,
    /// What disturbs the links
    pub disrupt: Option<Profile>,
    /// Seed of the disturbances
    pub seed: u64,
    /// Most bytes a task may write to each stream
    pub output_max: u64,
    /// Tasks that are open at a time
    pub tasks_open_max: usize,
    /// What is to outlive this process
    pub keep: Keep,
}

/// What of a run is to outlive its process
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: the journal is in memory
    Nothing,
    /// A journal on disk, begun anew
    Anew,
    /// The journal on disk of a run that was interrupted
    GoOn,
}

/// A coordinator and its workers
pub struct Fleet {
    /// The coordinator
    pub server: Server,
    kept: Kept,
    spool_dir: Arc<Path>,
    workers: Arc<Mutex<Vec<LocalWorker>>>,
    proxy: Option<Proxy>,
    killer: Option<smol::Task<()>>,
    kills: Arc<Mutex<u64>>,
    starts_dir: PathBuf,
}

/// Records and output, wherever they are
enum Kept {
    Memory(MemoryJournal, OutputStore),
    Disk(Records, DurableOutputs),
}

/// A worker in this process
struct LocalWorker {
    key: Key,
    watch: Watch,
    task: Option<smol::Task<()>>,
    /// Counters of its earlier lives
    earlier: LinkStats,
}

/// What the links went through
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// Welcomes after the first
    pub reconnections: u64,
    /// Sessions that went on where they were
    pub resumed: u64,
    /// Disturbances that took effect
    pub disruptions: u64,
    /// Workers that are not connected now
    pub away: u64,
}

impl Fleet {
    /// Starts everything; `data` must exist and belong to this run alone
    pub async fn start(plan: &Plan, data: &Path) -> io::Result<Fleet> {
        let spool_dir: Arc<Path> = fresh_dir(&data.join("spool"))?.into();
        let (starts_dir, journal_dir) = (data.join("starts"), data.join("journal"));
        if plan.keep != Keep::GoOn {
            fresh_dir(&starts_dir)?;
            fresh_dir(&journal_dir)?;
        }
        let keys = (0..plan.workers).map(new_key).collect::<io::Result<Vec<Key>>>()?;
        let config = coordinator_config(plan, keys.clone())?;
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let (server, kept) = if plan.keep == Keep::Nothing {
            let outputs = OutputStore::new(spool_dir.clone());
            let journal = MemoryJournal::new(outputs.clone());
            let server = Server::start(loopback, config, journal.clone()).await?;
            (server, Kept::Memory(journal, outputs))
        } else {
            let journal = DurableJournal::open(&journal_dir).map_err(io::Error::other)?;
            let kept = Kept::Disk(journal.reader(), journal.outputs());
            (Server::start(loopback, config, journal).await?, kept)
        };
        let proxy = match plan.disrupt {
            Some(profile) => Some(Proxy::start(loopback, server.address(), profile, plan.seed).await?),
            None => None,
        };
        let address = proxy.as_ref().map_or(server.address(), |proxy| proxy.local_addr());
        let endpoint: Endpoint = format!("ws://{address}").parse().map_err(io::Error::other)?;
        let maker = Maker {
            endpoint,
            spool_dir: spool_dir.to_path_buf(),
            starts_dir: starts_dir.clone(),
            slots: plan.slots,
            disrupted: plan.disrupt.is_some(),
            guardian: guardian()?,
        };
        let workers = keys.into_iter().map(|key| maker.worker(key)).collect::<io::Result<Vec<LocalWorker>>>()?;
        let workers = Arc::new(Mutex::new(workers));
        let kills = Arc::new(Mutex::new(0));
        let killer = (plan.disrupt == Some(Profile::Storm))
            .then(|| smol::spawn(kill_now_and_then(workers.clone(), maker, plan.seed, kills.clone())));
        Ok(Fleet { server, kept, spool_dir, workers, proxy, killer, kills, starts_dir })
    }

    /// Ends all workers, and kills the processes of their tasks before it returns
    pub async fn end(mut self) {
        self.killer = None;
        let tasks: Vec<_> = lock(&self.workers).iter_mut().filter_map(|worker| worker.task.take()).collect();
        for task in tasks {
            task.cancel().await;
        }
    }

    /// Stops to disturb the links
    pub fn calm(&mut self) {
        self.killer = None;
        if let Some(proxy) = &self.proxy {
            proxy.heal();
        }
    }

    /// Returns what the links went through so far
    pub fn links(&self) -> Links {
        let mut links = Links::default();
        for worker in lock(&self.workers).iter() {
            let glance = worker.watch.glance();
            links.reconnections += glance.stats.reconnections + worker.earlier.reconnections;
            links.resumed += glance.stats.resumed + worker.earlier.resumed;
            links.away += u64::from(glance.state != LinkState::Connected);
        }
        links.disruptions = self.proxy.as_ref().map_or(0, |proxy| proxy.counts().disruptions()) + *lock(&self.kills);
        links
    }

    /// Returns what an attempt has written
    pub fn take_output(&self, token: Token) -> io::Result<[Spool; 2]> {
        match &self.kept {
            Kept::Memory(_, outputs) => Ok(outputs.take(token)),
            Kept::Disk(_, outputs) => {
                let mut spools = [0, 1].map(|_| Spool::new(self.spool_dir.clone(), MEMORY_BYTES_MAX));
                let mut piece = vec![0; 1 << 16];
                for stream in Stream::ALL {
                    let spool = &mut spools[stream.index()];
                    loop {
                        let count = outputs.read_at(token, stream, spool.len(), &mut piece)?;
                        if count == 0 {
                            break;
                        }
                        spool.append(&piece[..count])?;
                    }
                }
                Ok(spools)
            }
        }
    }

    /// Reads the journal's records and the workers' start logs, and nothing else, for what became of each task
    pub fn audit(&self) -> io::Result<Audit> {
        let mut facts = Vec::new();
        let mut note = |record: &[u8]| facts.extend(Record::decode(record).and_then(|record| fact(&record)));
        match &self.kept {
            Kept::Memory(journal, _) => journal.records().iter().for_each(|record| note(record)),
            Kept::Disk(records, _) => records.read(&mut note)?,
        }
        let mut starts = Vec::new();
        for entry in fs::read_dir(&self.starts_dir)? {
            let log = fs::read_to_string(entry?.path())?;
            starts.extend(log.lines().filter_map(|line| Start::parse(line).ok()));
        }
        Ok(audit(facts.into_iter(), starts.into_iter()))
    }
}

/// Makes workers, again and again
struct Maker {
    endpoint: Endpoint,
    spool_dir: PathBuf,
    starts_dir: PathBuf,
    slots: u16,
    disrupted: bool,
    guardian: Option<Guardian>,
}

impl Maker {
    fn worker(&self, key: Key) -> io::Result<LocalWorker> {
        let watch = Watch::default();
        let task = self.spawn(&key, watch.clone())?;
        Ok(LocalWorker { key, watch, task: Some(task), earlier: LinkStats::default() })
    }

    fn spawn(&self, key: &Key, watch: Watch) -> io::Result<smol::Task<()>> {
        let mut link = LinkConfig::new(key.clone(), BootId(entropy()?), &self.endpoint.to_string());
        // A coordinator in the same process is in no danger from a herd, and comes back at once.
        link.backoff = BackoffConfig {
            base: Duration::from_millis(2),
            cap: Duration::from_millis(50),
            stable_after: Duration::from_secs(1),
            slow_min: Duration::from_millis(500),
            slow_max: Duration::from_secs(2),
            ..BackoffConfig::default()
        };
        link.heartbeat = Some(heartbeat(self.disrupted));
        link.handshake_time = if self.disrupted { Duration::from_secs(1) } else { link.handshake_time };
        // Nothing leaves this machine: what compression would save costs more than it is worth.
        link.compress = false;
        let mut config = worker::Config::new(link);
        config.slots = self.slots;
        config.prefetch = self.slots;
        config.attempts_max = (self.slots * 4).clamp(64, 512);
        let options = Options {
            endpoints: vec![self.endpoint.clone()],
            trust: Trust::system(),
            config,
            spool_dir: self.spool_dir.clone(),
            keep_bytes_max: None,
            start_log: Some(self.starts_dir.join(key.name.as_str())),
            drain_within: Duration::ZERO,
            guardian: self.guardian.clone(),
            key_keeper: None,
        };
        let (_, orders) = bounded(1);
        let name = key.name.clone();
        Ok(smol::spawn(async move {
            let ended = run(options, watch, orders).await;
            eprintln!("rejoin: {name}: {ended}");
        }))
    }
}

/// Kills a worker with all its tasks, as a crash would; ever more rarely, so that any task has its chance to end
async fn kill_now_and_then(workers: Arc<Mutex<Vec<LocalWorker>>>, maker: Maker, seed: u64, kills: Arc<Mutex<u64>>) {
    let mut draw = seed ^ 0x6B69_6C6C;
    let mut pause = Duration::from_millis(700);
    loop {
        draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        smol::Timer::after(pause.mul_f64(0.75 + (draw >> 40) as f64 / (1u64 << 25) as f64)).await;
        pause = pause.mul_f64(1.5);
        let (task, victim) = {
            let mut workers = lock(&workers);
            let victim = (draw >> 33) as usize % workers.len();
            let worker = &mut workers[victim];
            let stats = worker.watch.glance().stats;
            worker.earlier.reconnections += stats.reconnections;
            worker.earlier.resumed += stats.resumed;
            (worker.task.take(), victim)
        };
        if let Some(task) = task {
            // Dropped with its executions: their processes are killed before this returns.
            task.cancel().await;
            *lock(&kills) += 1;
        }
        let mut workers = lock(&workers);
        let worker = &mut workers[victim];
        worker.watch = Watch::default();
        match maker.spawn(&worker.key, worker.watch.clone()) {
            Ok(task) => worker.task = Some(task),
            Err(error) => eprintln!("rejoin: cannot start {} again: {error}", worker.key.name),
        }
    }
}

/// A guardian for the tasks of this process: this program again, in another role
///
/// None where the program cannot be found any more; then nobody ends the tasks of a process that is killed.
pub fn guardian() -> io::Result<Option<Guardian>> {
    let Ok(program) = std::env::current_exe() else { return Ok(None) };
    let mut command = std::process::Command::new(program);
    command.arg("guardian");
    Guardian::start(command).map(Some)
}

fn heartbeat(disrupted: bool) -> Duration {
    if disrupted { HEARTBEAT_DISRUPTED } else { HEARTBEAT }
}

fn coordinator_config(plan: &Plan, keys: Vec<Key>) -> io::Result<coordinator::Config> {
    let mut config = coordinator::Config::new(ClusterId(entropy()?), 1, keys);
    config.heartbeat = Some(heartbeat(plan.disrupt.is_some()));
    config.output_bytes_max = plan.output_max;
    config.tasks_max = plan.tasks_open_max * 2;
    config.forgotten_max = crate::items::ITEMS_MAX;
    // What a run has done it must know for as long as it may be continued.
    config.retention = Duration::from_secs(10 * 365 * 86_400);
    config.compress = false;
    if plan.disrupt == Some(Profile::Storm) {
        // The crashes are this run's own doing: no task is to blame for them, nor to be given up.
        config.crashes_max = u32::MAX;
        config.losses_max = u32::MAX;
    }
    Ok(config)
}

fn new_key(n: u16) -> io::Result<Key> {
    let name = format!("worker-{n}").parse().map_err(io::Error::other)?;
    Ok(Key { id: KeyId(entropy()?), secret: Secret::new(entropy()?), name, role: Role::Worker })
}

/// An empty directory; whatever an earlier run left there goes
fn fresh_dir(path: &Path) -> io::Result<PathBuf> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
        _ => fs::create_dir_all(path).map_err(named)?,
    }
    Ok(path.into())
}

/// Makes a data directory this run's own, as long as the file returned is open
pub fn claim(data: &Path) -> io::Result<File> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", data.display()));
    fs::create_dir_all(data).map_err(named)?;
    let lock = File::create(data.join("lock")).map_err(named)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(fs::TryLockError::WouldBlock) => {
            Err(named(io::Error::other("another run is using this directory: wait for it, or give another --data")))
        }
        Err(fs::TryLockError::Error(error)) => Err(named(error)),
    }
}

/// What a record of the journal says happened to a task, if it is about that
pub(crate) fn fact(record: &Record<'_>) -> Option<Fact> {
    match *record {
        Record::Submit { task, .. } | Record::SubmitLarge { task, .. } => Some(Fact::Submitted { task: task.0 }),
        Record::Assign { task, token, attempt, .. } => Some(Fact::Assigned { task: task.0, token: token.0, attempt }),
        Record::Result { task, token, outcome, last, .. } => {
            let outcome = match outcome {
                Outcome::Succeeded => Ended::Succeeded,
                Outcome::Failed(_) => Ended::Failed,
                Outcome::Cancelled => Ended::Cancelled,
            };
            Some(Fact::Ended { task: task.0, token: token.map(|token| token.0), outcome, last })
        }
        Record::Epoch { .. }
        | Record::Tokens { .. }
        | Record::Lease { .. }
        | Record::Restored { .. }
        | Record::Cancel { .. }
        | Record::Forget { .. }
        | Record::Checkpoint { .. }
        | Record::Output { .. }
        | Record::Piece { .. }
        | Record::Chunk { .. }
        | Record::Manifest { .. }
        | Record::Unreadable { .. }
        | Record::Forgotten { .. }
        | Record::Lapsed { .. }
        | Record::Gone { .. } => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
