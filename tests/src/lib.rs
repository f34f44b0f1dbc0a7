//! A coordinator, its peers and whatever stands between them: one process, real sockets
//!
//! [`Rig`] starts the coordinator, and the rest as a test wants it. Nothing here sleeps and hopes: whatever a test
//! depends on is waited for, with [`until`] or by its own event.

use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rejoin_core::backoff::BackoffConfig;
use rejoin_core::ids::{BootId, ClusterId, KeyId, Role, TaskId, Token};
use rejoin_core::link::{LinkConfig, LinkState};
use rejoin_core::wire::keys::{Key, Secret};
use rejoin_core::wire::message::{Stream, TaskSpec};
use rejoin_core::{client, coordinator, worker};
use rejoin_smol::chaos::{Profile, Proxy};
use rejoin_smol::clock::entropy;
use rejoin_smol::command::Command;
use rejoin_smol::coordinator::{Ended, Handle, Notice, Overview, Port, Server};
use rejoin_smol::journal::{Journal, MemoryJournal, OutputStore, Outputs};
use rejoin_smol::tls::Trust;
use rejoin_smol::url::Endpoint;
use rejoin_smol::worker::{Glance, Options, Order, Watch};
use smol::Timer;
use smol::channel::{Receiver, Sender, bounded};
use smol::future::FutureExt;

/// Any free port on loopback
pub const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// Heartbeat period of coordinator and peers, unless a test wants another
pub const PERIOD: Duration = Duration::from_millis(100);
/// Names of the workers that a coordinator here knows
pub const WORKERS: [&str; 8] = ["w0", "w1", "w2", "w3", "w4", "w5", "w6", "w7"];
/// Name of the client that it knows
pub const CLIENT: &str = "client";

/// Longest that a test may take, however slow the machine
const TEST_TIME_MAX: Duration = Duration::from_secs(120);

/// Runs a test, and fails it when it hangs
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let late = async {
        Timer::after(TEST_TIME_MAX).await;
        panic!("the test hangs");
    };
    smol::block_on(test.or(late))
}

/// Waits until something holds
pub async fn until(holds: impl AsyncFn() -> bool) {
    while !holds().await {
        Timer::after(Duration::from_millis(1)).await;
    }
}

/// The key that belongs to a name
pub fn key(name: &str, role: Role) -> Key {
    let [id, secret] = ["id", "secret"].map(|part| TaskId::from_text(&format!("{part} of {name}")).0);
    let mut key = KeyId([0; 8]);
    key.0.copy_from_slice(&id[..8]);
    let secret = [secret, secret].concat().try_into().expect("32 bytes");
    Key { id: key, secret: Secret::new(secret), name: name.parse().expect("a name"), role }
}

/// The endpoint at an address
pub fn endpoint(at: SocketAddr) -> Endpoint {
    format!("ws://{at}").parse().expect("an endpoint")
}

/// How a peer reaches the coordinator here: heartbeats and reconnections as quick as tests want them
pub fn link(key: Key, endpoint: &Endpoint) -> LinkConfig {
    let boot = BootId(entropy().expect("randomness"));
    let mut link = LinkConfig::new(key, boot, &endpoint.to_string());
    link.backoff = BackoffConfig {
        base: Duration::from_millis(2),
        cap: Duration::from_millis(50),
        stable_after: Duration::from_secs(1),
        ..BackoffConfig::default()
    };
    link.handshake_time = Duration::from_secs(2);
    link
}

/// A task that runs a shell script
pub fn shell(script: &str) -> Command {
    Command { argv: ["sh", "-c", script].map(Into::into).into(), cwd: None, timeout: None, output_bytes_max: 64 << 20 }
}

/// The same bytes for the same length, and no pattern to lose them in
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(next).collect()
}

/// A coordinator with its files
pub struct Rig {
    /// The coordinator's address
    pub address: SocketAddr,
    /// A way to talk to it
    pub handle: Handle,
    /// Where it keeps output
    pub outputs: OutputStore,
    /// The coordinator
    pub server: Server,
    notices: Receiver<Notice>,
    noticed: Mutex<Vec<Ended>>,
    dir: tempfile::TempDir,
}

impl Rig {
    /// A coordinator with a journal in memory
    pub async fn start() -> Rig {
        Rig::with(|_| {}, |journal| journal).await
    }

    /// A coordinator with other settings, or another journal
    pub async fn with<J: Journal + 'static>(
        adjust: impl FnOnce(&mut coordinator::Config),
        journal: impl FnOnce(MemoryJournal) -> J,
    ) -> Rig {
        Rig::on(LOOPBACK, adjust, journal).await
    }

    /// A coordinator on a port that may speak TLS
    pub async fn on<J: Journal + 'static>(
        port: impl Into<Port>,
        adjust: impl FnOnce(&mut coordinator::Config),
        journal: impl FnOnce(MemoryJournal) -> J,
    ) -> Rig {
        let workers = WORKERS.map(|name| key(name, Role::Worker));
        let keys = workers.into_iter().chain([key(CLIENT, Role::Client)]).collect();
        let mut config = coordinator::Config::new(ClusterId([7; 16]), 1, keys);
        config.heartbeat = Some(PERIOD);
        adjust(&mut config);
        let dir = tempfile::tempdir().expect("a directory");
        let outputs = OutputStore::new(dir.path().into());
        let journal = journal(MemoryJournal::new(outputs.clone()));
        let server = Server::start(port, config, journal).await.expect("a server");
        let (address, handle, notices) = (server.address(), server.handle(), server.notices());
        Rig { address, handle, outputs, server, notices, noticed: Mutex::default(), dir }
    }

    /// A proxy in front of the coordinator
    pub async fn proxy(&self, profile: Profile) -> Proxy {
        Proxy::start(LOOPBACK, self.address, profile, 1).await.expect("a proxy")
    }

    /// A worker that runs commands, dialling `via`
    pub fn worker(&self, name: &str, via: SocketAddr) -> LocalWorker {
        self.worker_with(link(key(name, Role::Worker), &endpoint(via)), endpoint(via), |_| {})
    }

    /// The same with other settings
    pub fn worker_with(
        &self,
        link: LinkConfig,
        endpoint: Endpoint,
        adjust: impl FnOnce(&mut worker::Config),
    ) -> LocalWorker {
        self.worker_trusting(link, endpoint, Trust::system(), adjust)
    }

    /// The same over TLS
    pub fn worker_trusting(
        &self,
        link: LinkConfig,
        endpoint: Endpoint,
        trust: Trust,
        adjust: impl FnOnce(&mut worker::Config),
    ) -> LocalWorker {
        let mut config = worker::Config::new(link);
        adjust(&mut config);
        let watch = Watch::default();
        let options = Options {
            endpoints: vec![endpoint],
            trust,
            config,
            spool_dir: self.path().into(),
            keep_bytes_max: None,
            start_log: None,
            drain_within: Duration::from_secs(30),
            guardian: None,
            key_keeper: None,
        };
        let (orders, ordered) = bounded(2);
        let running = smol::spawn(rejoin_smol::worker::run(options, watch.clone(), ordered));
        LocalWorker { watch, orders, running }
    }

    /// A client, dialling `via`
    pub fn client(&self, via: SocketAddr) -> rejoin_smol::client::Connection {
        let endpoint = endpoint(via);
        let config = client::Config::new(link(key(CLIENT, Role::Client), &endpoint));
        rejoin_smol::client::Connection::new(vec![endpoint], config).expect("a client")
    }

    /// Submits a task
    pub async fn submit(&self, task: &str, payload: Vec<u8>) -> TaskId {
        let id = TaskId::from_text(task);
        let spec = TaskSpec { priority: 2, retries: 0 };
        self.handle.submit(id, spec, Vec::new(), payload).await.expect("a task to be accepted");
        id
    }

    /// Waits for the end of a task
    pub async fn ended(&self, task: TaskId) -> Ended {
        loop {
            let known = self.noticed.lock().expect("no panic").iter().find(|ended| ended.task == task).cloned();
            if let Some(ended) = known {
                return ended;
            }
            if let Notice::Ended(ended) = self.notices.recv().await.expect("a coordinator that goes on") {
                self.noticed.lock().expect("no panic").push(ended);
            }
        }
    }

    /// Submits a task, and waits for its end
    pub async fn done(&self, task: &str, command: &Command) -> Ended {
        self.ended(self.submit(task, command.encode()).await).await
    }

    /// What a task wrote to a stream
    pub fn output(&self, ended: &Ended, stream: Stream) -> Vec<u8> {
        let token = ended.token.unwrap_or(Token(0));
        let mut bytes = vec![0; ended.streams[stream.index()].len as usize];
        let mut at = 0;
        while at < bytes.len() {
            let count = self.outputs.read_at(token, stream, at as u64, &mut bytes[at..]).expect("output");
            assert!(count > 0, "the output is shorter than the result says");
            at += count;
        }
        bytes
    }

    /// The state of things at the coordinator
    pub async fn overview(&self) -> Overview {
        self.handle.overview().await.expect("a coordinator that goes on")
    }

    /// Waits until a peer is connected, or is not
    pub async fn until_connected(&self, name: &str, connected: bool) {
        until(async || {
            let overview = self.overview().await;
            let peer = overview.peers.iter().find(|peer| peer.name.as_str() == name).expect("a peer that is known");
            // One that is suspected is neither: nothing has been found out about it yet.
            match connected {
                true => peer.state == coordinator::PeerState::Connected,
                false => matches!(peer.state, coordinator::PeerState::Disconnected | coordinator::PeerState::Lost),
            }
        })
        .await;
    }

    /// A directory for files of the test
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// A worker in this process; dropping it ends it
pub struct LocalWorker {
    watch: Watch,
    /// What it may be told
    pub orders: Sender<Order>,
    /// The worker
    pub running: smol::Task<rejoin_smol::worker::Ended>,
}

impl LocalWorker {
    /// How it stands
    pub fn glance(&self) -> Glance {
        self.watch.glance()
    }

    /// Waits until it is connected
    pub async fn connected(&self) {
        until(async || self.glance().state == LinkState::Connected).await;
    }

    /// Waits until it was welcomed so often after the first time
    pub async fn reconnected(&self, times: u64) {
        until(async || self.glance().stats.reconnections >= times).await;
        self.connected().await;
    }
}

/// A journal that fails, and tells what it had made durable until then
#[derive(Clone)]
pub struct FailingJournal {
    outputs: OutputStore,
    appends: usize,
    syncs: usize,
    pending: Vec<Box<[u8]>>,
    durable: Arc<Mutex<Vec<Box<[u8]>>>>,
}

impl FailingJournal {
    /// A journal of which so many appends and so many syncs succeed
    pub fn after(appends: usize, syncs: usize) -> Self {
        let outputs = OutputStore::new(std::env::temp_dir().into());
        FailingJournal { outputs, appends, syncs, pending: Vec::new(), durable: Arc::default() }
    }

    /// The records that were synced
    pub fn durable(&self) -> Vec<Box<[u8]>> {
        self.durable.lock().expect("no panic").clone()
    }
}

impl Journal for FailingJournal {
    type Outputs = OutputStore;

    fn outputs(&self) -> OutputStore {
        self.outputs.clone()
    }

    fn replay(&mut self, _: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        Ok(())
    }

    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        self.appends = self.appends.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        self.pending.push(record.into());
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.syncs = self.syncs.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        self.durable.lock().expect("no panic").append(&mut self.pending);
        Ok(())
    }

    fn waits(&self) -> bool {
        true
    }
}

/// Processor time that this process has used, of all its threads
pub fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("a proc file system");
    // The name before the last parenthesis may hold anything.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

/// Runs something, and says how long it took
pub async fn timed(what: impl Future<Output = ()>) -> Duration {
    let start = Instant::now();
    what.await;
    start.elapsed()
}
