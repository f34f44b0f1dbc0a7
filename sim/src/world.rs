//! The world: machines, sockets, tasks, a journal, and time that jumps

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use rejoin_core::blob::{ChunkName, INPUT, RESULT, chunk_name, chunk_span, chunks};
use rejoin_core::client::{self, Client};
use rejoin_core::coordinator::{self, Address, Coordinator, PeerState, Recovery};
use rejoin_core::ids::{BootId, ClusterId, ConnId, KeyId, PeerName, Role, TaskId, Token};
use rejoin_core::limits::{FRAME_BYTES_MAX, INLINE_BYTES_MAX};
use rejoin_core::link::{LinkConfig, LinkState, Reason};
use rejoin_core::wire::keys::{Key, Secret};
use rejoin_core::wire::message::{CheckpointRefused, Follow, Outcome, Stream, TaskSpec};
use rejoin_core::worker::{self, Restored, Worker};
use rejoin_core::{Instant, Loss, Seed};

use crate::executor::{Executor, Job, Running, checkpoint};
use crate::journal::{Journal, JournalMode};
use crate::net::{Side, Socket, Tapped, Wire};
use crate::store::Kept;

/// How a world begins; everything has a default that suits most stories
pub struct Setup {
    /// Number of workers
    pub workers: usize,
    /// Number of clients
    pub clients: usize,
    /// Everything random follows from it
    pub seed: u64,
    /// Last changes to the coordinator's settings
    pub coordinator: fn(&mut coordinator::Config),
    /// Last changes to each worker's settings
    pub worker: fn(&mut worker::Config),
    /// Last changes to each client's settings
    pub client: fn(&mut client::Config),
}

impl Default for Setup {
    fn default() -> Self {
        Setup { workers: 1, clients: 0, seed: 1, coordinator: |_| {}, worker: |_| {}, client: |_| {} }
    }
}

/// The key of worker `n`
pub fn worker_key(n: usize) -> Key {
    key(&format!("worker-{n}"), 1, n, Role::Worker)
}

/// The key that worker `n` has after so many others under its name
pub(crate) fn later_worker_key(n: usize, earlier: u32) -> Key {
    key(&format!("worker-{n}"), 1, n + ((earlier as usize) << 16), Role::Worker)
}

/// The key of client `n`
pub fn client_key(n: usize) -> Key {
    key(&format!("client-{n}"), 2, n, Role::Client)
}

fn key(name: &str, kind: u8, n: usize, role: Role) -> Key {
    let mut id = [kind; 8];
    id[..4].copy_from_slice(&(n as u32).to_le_bytes());
    let name = name.parse().expect("a legal name");
    Key { id: KeyId(id), secret: Secret::new(secret(kind, n)), name, role }
}

/// What the key of worker `n` (kind 1) or client `n` (kind 2) keeps to itself
pub(crate) fn secret(kind: u8, n: usize) -> [u8; 32] {
    let mut secret = [kind; 32];
    secret[..8].copy_from_slice(&(n as u64).to_le_bytes());
    secret
}

/// Keeps that a key was used, and that those in front of it are retired; with a join token, all others of its name
pub(crate) fn retire(config: &mut coordinator::Config, name: &PeerName, used: KeyId) -> Vec<KeyId> {
    config.next.retain(|key| *key != used);
    let others = config.keys.iter().filter(|key| key.name == *name && key.id != used);
    let others: Vec<KeyId> = others.map(|key| key.id).filter(|key| !config.revoked.contains(key)).collect();
    let before: Vec<KeyId> = config.keys.iter().map(|key| key.id).take_while(|key| *key != used).collect();
    let in_use = |key: &KeyId| !config.next.contains(key) && !config.tokens.iter().any(|(token, _)| token == key);
    let burns = !others.iter().any(|key| in_use(key) && before.contains(key));
    let retired: Vec<KeyId> = others.into_iter().filter(|key| burns || before.contains(key)).collect();
    config.next.retain(|key| !retired.contains(key));
    config.revoked.extend(&retired);
    retired
}

/// Forgets a key that nobody was told of
pub(crate) fn forget(config: &mut coordinator::Config, key: KeyId) {
    config.next.retain(|next| *next != key);
    config.keys.retain(|known| known.id != key);
}

/// One coordinator, its workers and clients, and the network between them
///
/// Peers are counted from 0, workers first. After each event the invariants of every machine are checked.
pub struct World {
    now: Instant,
    /// The coordinator; read it as you like
    pub coordinator: Coordinator,
    /// Its journal
    pub journal: Journal,
    /// What the coordinator told its embedder
    pub events: Vec<coordinator::Event>,
    /// What a client told its embedder, by client
    pub client_events: Vec<Vec<client::Event>>,
    /// Output that reached a client, by client
    pub client_output: Vec<BTreeMap<(TaskId, Token, Stream), Vec<u8>>>,
    /// Executions begun: task, token, attempt, worker
    pub starts: Vec<(TaskId, Token, u32, usize)>,
    /// Steps of tasks that were executed: task and step, in the order of their ends
    pub steps: Vec<(TaskId, u8)>,
    /// Checkpoints that were answered: attempt, number, why it was refused
    pub checkpointed: Vec<(Token, u64, Option<CheckpointRefused>)>,
    /// Attempts that were to stand still or to go on, in order
    pub frozen: Vec<(Token, bool)>,
    /// Attempts that were asked for a checkpoint, when and by which worker
    pub wanted: Vec<(Instant, usize, Token)>,
    /// Large inputs of tasks that clients submit (FRAME-3)
    pub inputs: BTreeMap<TaskId, Vec<u8>>,
    /// Large inputs that have reached workers, by attempt
    pub fed: BTreeMap<Token, Vec<u8>>,
    /// Answers that reached clients: client, question, answer
    pub answers: Vec<(usize, u64, Vec<u8>)>,
    /// Why the coordinator closed connections
    pub closes: BTreeMap<ConnId, Reason>,
    /// Why peers gave connections up, in order
    pub leaves: Vec<(usize, Reason)>,
    /// Peers and the endpoints that they dialled
    pub dialled: Vec<(usize, usize)>,
    /// Every message that arrived, once a story asks for it with `Some`
    pub tap: Option<Vec<Tapped>>,
    /// Workers keep what they have finished until it is settled, once a story says so (SESS-9)
    pub keeps: bool,
    /// Whether peers and coordinator say that a new key is kept, which it is in any case
    pub keeps_keys: [bool; 2],
    /// Whether the coordinator's embedder keeps which keys are retired
    pub keeps_retired: bool,
    /// New keys of which the coordinator was not told that they are kept
    pub unsaid_keys: Vec<KeyId>,
    /// Keys that workers were told to keep, and begin with when they begin again
    pub kept_keys: BTreeMap<usize, Key>,
    heard: BTreeMap<ConnId, VecDeque<Vec<u8>>>,
    arrivals: BTreeMap<(usize, Side), u64>,
    coordinator_config: coordinator::Config,
    peers: Vec<Peer>,
    sockets: BTreeMap<ConnId, Socket>,
    heap: BinaryHeap<Reverse<(Instant, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    sequence: u64,
    entropy: u64,
    boots: u64,
    worker_setup: fn(&mut worker::Config),
    jobs: BTreeMap<TaskId, Job>,
    /// What the coordinator's embedder submitted
    submits: Vec<(String, TaskSpec)>,
    frame: Vec<u8>,
}

struct Peer {
    machine: Machine,
    wire: Wire,
    executor: Executor,
    /// What it keeps, with what it had executed
    store: BTreeMap<Token, (Kept, Running)>,
    alive: bool,
    /// Flip this bit, or one in the middle, in the next message towards an end
    flip: BTreeMap<Side, Option<usize>>,
    /// Connections this peer dialled
    pub(crate) dials: u64,
}

enum Machine {
    Worker(Box<Worker>),
    Client(Box<Client>),
}

enum Happening {
    Opened { conn: ConnId },
    Refused { peer: usize, attempt: u64 },
    Arrives { conn: ConnId, at: Side, bytes: Vec<u8> },
    Closed { conn: ConnId, at: Side, loss: Loss },
    Printed { peer: usize, token: Token },
    Step { peer: usize, token: Token, step: u8 },
    Finished { peer: usize, token: Token },
    Durable { upto: u64 },
    JournalFailed,
}

impl World {
    /// Keys that the coordinator has for good, and that were not used yet
    pub fn next_keys(&self) -> usize {
        self.coordinator_config.next.len()
    }

    /// Makes a world in which everybody is about to dial
    pub fn new(setup: Setup) -> Self {
        let keys = (0..setup.workers).map(worker_key).chain((0..setup.clients).map(client_key)).collect();
        let mut config = coordinator::Config::new(ClusterId([9; 16]), 1, keys);
        (setup.coordinator)(&mut config);
        let now = Instant::from_micros(1_000_000);
        let coordinator = Coordinator::new(config.clone(), seed(setup.seed, 0), now).expect("legal settings");
        let mut world = World {
            now,
            coordinator,
            journal: Journal::new(),
            events: Vec::new(),
            client_events: vec![Vec::new(); setup.clients],
            client_output: vec![BTreeMap::new(); setup.clients],
            starts: Vec::new(),
            steps: Vec::new(),
            checkpointed: Vec::new(),
            frozen: Vec::new(),
            wanted: Vec::new(),
            inputs: BTreeMap::new(),
            fed: BTreeMap::new(),
            answers: Vec::new(),
            closes: BTreeMap::new(),
            leaves: Vec::new(),
            dialled: Vec::new(),
            tap: None,
            keeps: false,
            keeps_keys: [true; 2],
            keeps_retired: true,
            unsaid_keys: Vec::new(),
            kept_keys: BTreeMap::new(),
            heard: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            coordinator_config: config,
            peers: Vec::new(),
            sockets: BTreeMap::new(),
            heap: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            sequence: 0,
            entropy: setup.seed << 32,
            boots: 0,
            worker_setup: setup.worker,
            jobs: BTreeMap::new(),
            submits: Vec::new(),
            frame: vec![0; FRAME_BYTES_MAX],
        };
        for n in 0..setup.workers {
            let machine = world.new_worker(worker_key(n), setup.seed);
            world.peers.push(Peer::new(machine));
        }
        for n in 0..setup.clients {
            let mut config = client::Config::new(world.link_config(client_key(n)));
            (setup.client)(&mut config);
            let client = Client::new(config, seed(setup.seed, 1000 + n as u64), now).expect("legal settings");
            world.peers.push(Peer::new(Machine::Client(Box::new(client))));
        }
        world.drain();
        world
    }

    fn link_config(&mut self, key: Key) -> LinkConfig {
        self.boots += 1;
        let mut boot = [7; 16];
        boot[..8].copy_from_slice(&self.boots.to_le_bytes());
        LinkConfig::new(key, BootId(boot), "ws://coordinator/v1/worker")
    }

    fn new_worker(&mut self, key: Key, seed_number: u64) -> Machine {
        let own = self.kept_keys.values().any(|kept| kept.id == key.id);
        let link = self.link_config(key);
        let mut config = worker::Config::new(link);
        (self.worker_setup)(&mut config);
        config.link.token &= !own;
        let seed = seed(seed_number, self.boots);
        Machine::Worker(Box::new(Worker::new(config, seed, self.now).expect("legal settings")))
    }

    // What a story can do.

    /// Submits a task at the coordinator, as its embedder would
    pub fn submit(&mut self, name: &str, job: Job) -> TaskId {
        self.submit_with(name, TaskSpec::default(), job)
    }

    /// Submits a task with a specification
    pub fn submit_with(&mut self, name: &str, spec: TaskSpec, job: Job) -> TaskId {
        let task = TaskId::from_text(name);
        self.jobs.insert(task, job);
        self.submits.push((name.into(), spec));
        let input = coordinator::Input::Submit { task, spec, about: &[], payload: name.as_bytes() };
        self.coordinator.handle(self.now, input).expect("the submit is legal");
        self.drain();
        task
    }

    /// Says what executing a task does that a story submits by itself, with whatever it says about it
    pub fn plan(&mut self, name: &str, job: Job) -> TaskId {
        let task = TaskId::from_text(name);
        self.jobs.insert(task, job);
        task
    }

    /// Submits a task through client `n`
    pub fn submit_by_client(&mut self, n: usize, name: &str, job: Job) -> TaskId {
        let task = TaskId::from_text(name);
        self.jobs.insert(task, job);
        let input = client::Input::Submit {
            task,
            spec: TaskSpec::default(),
            about: &[],
            payload: name.as_bytes(),
            follow: Follow::Output,
        };
        self.tell_client(n, input).expect("the submit is legal");
        task
    }

    /// Submits a task with a large input through client `n`
    pub fn submit_large(
        &mut self,
        n: usize,
        name: &str,
        input: &[u8],
        job: Job,
    ) -> Result<TaskId, rejoin_core::Rejected> {
        let task = TaskId::from_text(name);
        self.jobs.insert(task, job);
        self.inputs.insert(task, input.into());
        let submit = client::Input::SubmitLarge {
            task,
            spec: TaskSpec::default(),
            about: &[],
            payload: name.as_bytes(),
            length: input.len() as u64,
            names: &chunk_names(input),
            follow: Follow::Output,
        };
        self.tell_client(n, submit).map(|()| task)
    }

    /// Tells client `n` something
    pub fn tell_client(&mut self, n: usize, input: client::Input<'_>) -> Result<(), rejoin_core::Rejected> {
        let at = self.client_peer(n);
        let now = self.now;
        let Machine::Client(client) = &mut self.peers[at].machine else { panic!("peer {at} is a worker") };
        let result = client.handle(now, input);
        self.drain();
        result
    }

    /// Tells worker `n` something
    pub fn tell_worker(&mut self, n: usize, input: worker::Input<'_>) -> Result<(), rejoin_core::Rejected> {
        let now = self.now;
        let Machine::Worker(worker) = &mut self.peers[n].machine else { panic!("peer {n} is a client") };
        let result = worker.handle(now, input);
        self.drain();
        result
    }

    /// Lets worker `n` see what time it will be so much later, as if it had slept until then
    pub fn oversleeps(&mut self, n: usize, span: Duration) {
        let later = self.now + span;
        let Machine::Worker(worker) = &mut self.peers[n].machine else { panic!("peer {n} is a client") };
        worker.handle(later, worker::Input::Timeout).expect("time is never refused");
        self.drain();
    }

    /// Lets the coordinator see what time it will be so much later
    pub fn coordinator_oversleeps(&mut self, span: Duration) {
        let later = self.now + span;
        self.coordinator.handle(later, coordinator::Input::Timeout).expect("time is never refused");
        self.drain();
    }

    /// Tells the coordinator something
    pub fn tell_coordinator(&mut self, input: coordinator::Input<'_>) -> Result<(), rejoin_core::Rejected> {
        let result = self.coordinator.handle(self.now, input);
        self.drain();
        result
    }

    /// Cuts a peer's connection so that both ends notice
    pub fn reset(&mut self, peer: usize) {
        let Some(conn) = self.connection(peer) else { return };
        self.forget_in_flight(conn);
        self.happen(Duration::ZERO, Happening::Closed { conn, at: Side::Peer, loss: Loss::Peer });
        self.happen(Duration::ZERO, Happening::Closed { conn, at: Side::Coordinator, loss: Loss::Peer });
    }

    /// Cuts a peer's connection so that only one end notices; the other one hears nothing any more
    pub fn reset_seen_by(&mut self, peer: usize, side: Side) {
        let Some(conn) = self.connection(peer) else { return };
        self.forget_in_flight(conn);
        self.make_deaf(conn, side.other());
        self.happen(Duration::ZERO, Happening::Closed { conn, at: side, loss: Loss::Peer });
    }

    /// From now on nothing arrives at an end of a peer's connection, and nobody is told
    pub fn half_open(&mut self, peer: usize, deaf: Side) {
        let Some(conn) = self.connection(peer) else { return };
        self.make_deaf(conn, deaf);
    }

    /// Tells the coordinator late that a peer's connections of the past are gone
    pub fn deliver_old_closes(&mut self, peer: usize) {
        let current = self.connection(peer);
        let old: Vec<ConnId> =
            self.sockets.values().filter(|s| s.peer == peer && Some(s.conn) != current).map(|s| s.conn).collect();
        for conn in old {
            self.coordinator.handle(self.now, coordinator::Input::Closed { conn }).expect("a close is never refused");
        }
        self.drain();
    }

    /// Flips a bit in the next message that arrives at an end of a peer's connection
    pub fn corrupt_next(&mut self, peer: usize, at: Side) {
        self.peers[peer].flip.insert(at, None);
    }

    /// Flips one bit of the next message that arrives at an end of a peer's connection
    pub fn corrupt_bit(&mut self, peer: usize, at: Side, bit: usize) {
        self.peers[peer].flip.insert(at, Some(bit));
    }

    /// Ends a worker and all it knew
    pub fn crash(&mut self, peer: usize) {
        self.reset(peer);
        self.die(peer);
    }

    /// Ends a worker so that the coordinator does not notice
    pub fn crash_unnoticed(&mut self, peer: usize) {
        self.half_open(peer, Side::Coordinator);
        if let Some(conn) = self.connection(peer) {
            self.make_deaf(conn, Side::Peer);
        }
        self.die(peer);
    }

    fn die(&mut self, peer: usize) {
        for socket in self.sockets.values_mut().filter(|socket| socket.peer == peer) {
            socket.close(Side::Peer);
        }
        // Whatever was under way to this life must not reach the next one.
        self.happenings.retain(|_, happening| !matches!(happening, Happening::Refused { peer: to, .. } if *to == peer));
        self.peers[peer].alive = false;
        self.peers[peer].executor = Executor::default();
    }

    /// Starts a worker that had crashed, with nothing in its memory but what it had kept
    pub fn restart(&mut self, peer: usize) {
        assert!(!self.peers[peer].alive, "peer {peer} runs");
        let key = self.kept_keys.get(&peer).cloned().unwrap_or_else(|| worker_key(peer));
        let machine = self.new_worker(key, peer as u64);
        self.peers[peer].machine = machine;
        self.peers[peer].alive = true;
        let now = self.now;
        let Peer { machine: Machine::Worker(worker), executor, store, .. } = &mut self.peers[peer] else { return };
        for (token, (kept, running)) in store.iter() {
            kept.restore(worker, now).expect("there is room for what was kept");
            executor.running.insert(*token, running.clone());
        }
        self.drain();
    }

    /// Exchanges what two workers keep
    pub fn swap_stores(&mut self, one: usize, other: usize) {
        let store = std::mem::take(&mut self.peers[one].store);
        self.peers[one].store = std::mem::replace(&mut self.peers[other].store, store);
    }

    /// How much a worker keeps
    pub fn kept(&self, peer: usize) -> usize {
        self.peers[peer].store.len()
    }

    fn keep(&mut self, peer: usize, token: Token) {
        let now = self.now;
        let Peer { machine: Machine::Worker(worker), executor, store, .. } = &mut self.peers[peer] else { return };
        // What was cancelled before it began has printed nothing, and the next life need not know.
        let Some(running) = executor.running.get(&token).filter(|_| self.keeps) else { return };
        let Some(kept) = Kept::of(worker, token, &running.job.prints[..running.printed], &running.job.returns) else {
            return;
        };
        store.insert(token, (kept, running.clone()));
        worker.handle(now, worker::Input::Kept { token }).expect("it is never refused that something is kept");
    }

    /// Replaces a peer's worker by one made from other settings
    pub fn replace_worker(&mut self, peer: usize, worker: Worker) {
        self.peers[peer].machine = Machine::Worker(Box::new(worker));
        self.peers[peer].alive = true;
        self.drain();
    }

    /// A peer's network
    pub fn wire(&mut self, peer: usize) -> &mut Wire {
        &mut self.peers[peer].wire
    }

    /// Adds a worker with the key of worker `n` and a memory of its own; returns its peer number
    pub fn add_clone(&mut self, n: usize) -> usize {
        let machine = self.new_worker(worker_key(n), n as u64);
        self.peers.push(Peer::new(machine));
        self.drain();
        self.peers.len() - 1
    }

    /// Opens a connection worked by hand; returns its name
    pub fn stranger(&mut self) -> Result<ConnId, rejoin_core::Rejected> {
        self.stranger_from(Address::LOOPBACK)
    }

    /// Opens a connection worked by hand from an address
    pub fn stranger_from(&mut self, address: Address) -> Result<ConnId, rejoin_core::Rejected> {
        let conn = self.next_conn();
        let entropy = self.fresh();
        self.tell_coordinator(coordinator::Input::Accepted { conn, address, entropy, binding: None })?;
        let (peer, attempt, deaf, by_hand) = (usize::MAX, 0, [false; 2], Some(Side::Peer));
        let (peer_open, coordinator_open) = (true, true);
        self.sockets.insert(conn, Socket { peer, attempt, conn, peer_open, coordinator_open, deaf, by_hand });
        self.drain();
        Ok(conn)
    }

    /// Says something on a connection worked by hand; it arrives at once
    pub fn say(&mut self, conn: ConnId, bytes: &[u8]) {
        let by_hand = self.sockets.get(&conn).and_then(|socket| socket.by_hand).expect("a connection worked by hand");
        self.arrive(conn, by_hand.other(), bytes.into());
        self.drain();
    }

    /// Takes what has arrived by now on a connection worked by hand
    pub fn hear(&mut self, conn: ConnId) -> Vec<Vec<u8>> {
        self.run_for(Duration::ZERO);
        self.heard.remove(&conn).unwrap_or_default().into()
    }

    /// Closes a connection worked by hand
    pub fn close_by_hand(&mut self, conn: ConnId) {
        let by_hand = self.sockets.get(&conn).and_then(|socket| socket.by_hand).expect("a connection worked by hand");
        self.hang_up(conn, by_hand);
        self.run_for(Duration::ZERO);
    }

    /// Ends the coordinator and starts one from its journal, in the next epoch
    ///
    /// Every connection breaks. What the journal had not made durable is gone, and the embedder submits again.
    pub fn restart_coordinator(&mut self) {
        for peer in 0..self.peers.len() {
            self.reset(peer);
        }
        self.happenings.retain(|_, happening| !matches!(happening, Happening::Durable { .. }));
        self.journal.crash();
        let seed = seed(self.entropy, self.sequence);
        let mut recovery = Recovery::start(self.coordinator_config.clone(), seed, self.now).expect("legal settings");
        for record in &self.journal.records {
            recovery.take(record).expect("what a coordinator wrote can be read");
        }
        self.coordinator = recovery.finish();
        for (name, spec) in &self.submits {
            // Harmless where it was accepted, and needed where it was not (TASK-1).
            let (task, spec, payload) = (TaskId::from_text(name), *spec, name.as_bytes());
            let again =
                self.coordinator.handle(self.now, coordinator::Input::Submit { task, spec, about: &[], payload });
            again.expect("the submit is legal");
        }
        for socket in self.sockets.values_mut() {
            socket.close(Side::Coordinator);
        }
        self.drain();
    }

    /// Ends the coordinator, and starts another one that is told that its journal may be old (JOURN-2)
    pub fn restart_restored(&mut self, time: u64) {
        self.coordinator_config.restored = Some(time);
        self.restart_coordinator();
        self.coordinator_config.restored = None;
    }

    /// Puts a backup of the journal back that ends behind the first record of some kind
    pub fn forget_records_behind(&mut self, last: impl Fn(&Vec<u8>) -> bool) {
        let kept = self.journal.records.iter().position(last).expect("there is such a record") + 1;
        self.journal.records.truncate(kept);
        self.journal.durable = kept;
    }

    // Time.

    /// Now
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Jumps to the next thing that happens, and lets it happen; `false` when nothing ever will
    pub fn step(&mut self) -> bool {
        self.step_before(Instant::from_micros(u64::MAX))
    }

    /// Lets this much time pass
    pub fn run_for(&mut self, span: Duration) {
        let end = self.now + span;
        while self.step_before(end) {}
        self.now = end;
    }

    /// Lets time pass until something holds; panics after ten virtual minutes
    pub fn drive_until(&mut self, what: &str, mut holds: impl FnMut(&mut World) -> bool) {
        let end = self.now + Duration::from_secs(600);
        while !holds(self) {
            assert!(self.step_before(end), "{what}: still not so after ten minutes");
        }
    }

    // What there is to see.

    /// Whether a task is over and succeeded
    pub fn succeeded(&self, task: TaskId) -> bool {
        self.outcome(task) == Some(Outcome::Succeeded)
    }

    /// How a task ended, durably
    pub fn outcome(&self, task: TaskId) -> Option<Outcome> {
        self.coordinator.task(task)?.end.map(|end| end.outcome)
    }

    /// What is kept of a task's standard output, once it is over
    pub fn output(&self, task: TaskId) -> &[u8] {
        let token = self.coordinator.task(task).and_then(|task| task.end).and_then(|end| end.token);
        token.map_or(&[], |token| self.journal.kept(token, Stream::Out))
    }

    /// Worker `n`
    pub fn worker(&self, n: usize) -> &Worker {
        match &self.peers[n].machine {
            Machine::Worker(worker) => worker,
            Machine::Client(_) => panic!("peer {n} is a client"),
        }
    }

    /// Client `n`
    pub fn client(&self, n: usize) -> &Client {
        match &self.peers[self.client_peer(n)].machine {
            Machine::Client(client) => client,
            Machine::Worker(_) => panic!("peer is a worker"),
        }
    }

    /// Where a peer's connection stands, as the peer sees it
    pub fn state(&self, peer: usize) -> LinkState {
        match &self.peers[peer].machine {
            Machine::Worker(worker) => worker.state(),
            Machine::Client(client) => client.state(),
        }
    }

    /// Dials that a peer has begun
    pub fn dials(&self, peer: usize) -> u64 {
        self.peers[peer].dials
    }

    /// Messages that have arrived at an end of a peer's connections
    pub fn arrivals(&self, peer: usize, at: Side) -> u64 {
        self.arrivals.get(&(peer, at)).copied().unwrap_or(0)
    }

    /// Lets time pass until this many messages have arrived at an end of a peer's connections; `false` if they never do
    pub fn drive_to_arrival(&mut self, peer: usize, at: Side, count: u64) -> bool {
        let end = self.now + Duration::from_secs(60);
        while self.arrivals(peer, at) < count {
            if !self.step_before(end) {
                return false;
            }
        }
        true
    }

    /// How the coordinator sees a worker
    pub fn seen(&self, n: usize) -> PeerState {
        self.coordinator.peers().nth(n).expect("a peer").state
    }

    /// How often a task was started
    pub fn executions(&self, task: TaskId) -> usize {
        self.starts.iter().filter(|start| start.0 == task).count()
    }

    /// The peer number of client `n`
    pub fn client_peer(&self, n: usize) -> usize {
        self.peers.iter().position(|p| matches!(p.machine, Machine::Client(_))).expect("there are clients") + n
    }

    /// The connection a peer believes in
    pub fn connection(&self, peer: usize) -> Option<ConnId> {
        self.sockets.values().rev().find(|s| s.peer == peer && s.peer_open).map(|s| s.conn)
    }

    /// Panics unless every submitted task ended exactly once, durably
    pub fn audit(&self) {
        for task in self.jobs.keys() {
            let ends = self.journal.ends(*task);
            let story: Vec<String> = self.coordinator.story(*task).map(|note| note.to_string()).collect();
            assert_eq!(ends.len(), 1, "{task} ended {} times (S3)\n{}", ends.len(), story.join("\n"));
        }
        let mut tokens = BTreeSet::new();
        for (task, token, _, worker) in &self.starts {
            assert!(tokens.insert((*token, *worker)), "{task} was started twice under {token} (S10)");
        }
    }

    // Inside.

    fn step_before(&mut self, end: Instant) -> bool {
        let wakes = self.peers.iter().filter(|peer| peer.alive).filter_map(|peer| peer.machine.wake_at());
        let wake = wakes.chain(self.coordinator.wake_at()).min();
        let next = self.heap.peek().map(|Reverse((at, _))| *at);
        let Some(at) = [wake, next].into_iter().flatten().min().filter(|at| *at <= end) else { return false };
        self.now = self.now.max(at);
        if next == Some(at) {
            let Some(Reverse((_, key))) = self.heap.pop() else { return false };
            if let Some(happening) = self.happenings.remove(&key) {
                self.let_happen(happening);
            }
        } else {
            self.wake_everybody();
        }
        self.drain();
        true
    }

    fn wake_everybody(&mut self) {
        let now = self.now;
        self.coordinator.handle(now, coordinator::Input::Timeout).expect("time is never refused");
        for peer in self.peers.iter_mut().filter(|peer| peer.alive) {
            match &mut peer.machine {
                Machine::Worker(worker) => worker.handle(now, worker::Input::Timeout).expect("time is never refused"),
                Machine::Client(client) => client.handle(now, client::Input::Timeout).expect("time is never refused"),
            }
        }
    }

    fn happen(&mut self, after: Duration, happening: Happening) {
        self.sequence += 1;
        self.heap.push(Reverse((self.now + after, self.sequence)));
        self.happenings.insert(self.sequence, happening);
    }

    fn let_happen(&mut self, happening: Happening) {
        match happening {
            Happening::Opened { conn } => self.open(conn),
            Happening::Refused { peer, attempt } => self.tell_lost(peer, attempt, Loss::Peer),
            Happening::Arrives { conn, at, bytes } => self.arrive(conn, at, bytes),
            Happening::Closed { conn, at, loss } => self.close(conn, at, loss),
            Happening::Printed { peer, token } => self.printed(peer, token),
            Happening::Step { peer, token, step } => self.step_done(peer, token, step),
            Happening::Finished { peer, token } => self.finished(peer, token),
            Happening::Durable { upto } => {
                let upto_all = self.journal.earlier + upto as usize;
                self.journal.durable = self.journal.durable.max(upto_all);
                // After a failure nothing is taken in any more.
                let _ = self.coordinator.handle(self.now, coordinator::Input::Journaled { upto });
            }
            Happening::JournalFailed => {
                self.coordinator
                    .handle(self.now, coordinator::Input::JournalFailed)
                    .expect("a failure is never refused");
            }
        }
    }

    fn open(&mut self, conn: ConnId) {
        if !self.sockets.get(&conn).is_some_and(|socket| socket.peer_open) {
            return;
        }
        let entropy = self.fresh();
        let address = Address::LOOPBACK;
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        let (peer, attempt) = (socket.peer, socket.attempt);
        let [theirs, ours] = self.peers.get(peer).map_or([None; 2], |peer| peer.wire.exporters);
        let accepted = match socket.by_hand {
            Some(_) => Ok(()),
            None => self
                .coordinator
                .handle(self.now, coordinator::Input::Accepted { conn, address, entropy, binding: ours }),
        };
        if accepted.is_err() {
            socket.close(Side::Peer);
            return self.tell_lost(peer, attempt, Loss::Peer);
        }
        socket.coordinator_open = true;
        let entropy = self.fresh();
        self.tell_peer(peer, |machine, now| match machine {
            Machine::Worker(worker) => {
                worker.handle(now, worker::Input::Connected { attempt, entropy, binding: theirs })
            }
            Machine::Client(client) => {
                client.handle(now, client::Input::Connected { attempt, entropy, binding: theirs })
            }
        });
    }

    fn arrive(&mut self, conn: ConnId, at: Side, mut bytes: Vec<u8>) {
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        if !socket.is_open(at) || *socket.deaf(at) {
            return;
        }
        let (peer, attempt) = (socket.peer, socket.attempt);
        let by_hand = socket.by_hand == Some(at);
        if let Some(flip) = self.peers.get_mut(peer).and_then(|peer| peer.flip.remove(&at)) {
            let bit = flip.unwrap_or(bytes.len() / 2 * 8 + 2);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        *self.arrivals.entry((peer, at)).or_default() += 1;
        if let Some(tap) = &mut self.tap {
            tap.push(Tapped { time: self.now, conn, at, bytes: bytes.clone() });
        }
        if by_hand {
            return self.heard.entry(conn).or_default().push_back(bytes);
        }
        match at {
            Side::Coordinator => {
                let input = coordinator::Input::Received { conn, bytes: &bytes };
                // After its journal has failed the coordinator takes nothing in.
                let _ = self.coordinator.handle(self.now, input);
            }
            Side::Peer => self.tell_peer(peer, |machine, now| match machine {
                Machine::Worker(worker) => worker.handle(now, worker::Input::Received { attempt, bytes: &bytes }),
                Machine::Client(client) => client.handle(now, client::Input::Received { attempt, bytes: &bytes }),
            }),
        }
    }

    fn close(&mut self, conn: ConnId, at: Side, loss: Loss) {
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        if !socket.is_open(at) || *socket.deaf(at) {
            return;
        }
        socket.close(at);
        let (peer, attempt) = (socket.peer, socket.attempt);
        if socket.by_hand == Some(at) {
            return;
        }
        match at {
            Side::Coordinator => {
                self.coordinator.handle(self.now, coordinator::Input::Closed { conn }).expect("never refused");
            }
            Side::Peer => self.tell_lost(peer, attempt, loss),
        }
    }

    fn tell_lost(&mut self, peer: usize, attempt: u64, loss: Loss) {
        self.tell_peer(peer, |machine, now| match machine {
            Machine::Worker(worker) => worker.handle(now, worker::Input::Disconnected { attempt, loss }),
            Machine::Client(client) => client.handle(now, client::Input::Disconnected { attempt, loss }),
        });
    }

    fn tell_peer(&mut self, peer: usize, f: impl FnOnce(&mut Machine, Instant) -> Result<(), rejoin_core::Rejected>) {
        let now = self.now;
        if let Some(peer) = self.peers.get_mut(peer).filter(|peer| peer.alive) {
            f(&mut peer.machine, now).expect("what the network does is never refused");
        }
    }

    fn printed(&mut self, peer: usize, token: Token) {
        let now = self.now;
        let Peer { machine: Machine::Worker(worker), executor, .. } = &mut self.peers[peer] else { return };
        let Some(running) = executor.running.get_mut(&token).filter(|running| !running.over) else { return };
        running.printed = running.job.prints.len() / 2;
        let total = running.printed as u64;
        // A task that was told to stop may be gone by now.
        let _ = worker.handle(now, worker::Input::OutputGrew { token, stream: Stream::Out, total });
        let _ = worker.handle(now, worker::Input::Progress { token, value: 50 });
    }

    fn step_done(&mut self, peer: usize, token: Token, step: u8) {
        let now = self.now;
        let Peer { machine: Machine::Worker(worker), executor, .. } = &mut self.peers[peer] else { return };
        let stopped = |running: &&Running| !running.over && running.outcome != Outcome::Cancelled;
        if executor.running.get(&token).filter(stopped).is_none() {
            return;
        }
        if let Some(start) = self.starts.iter().find(|start| start.1 == token) {
            self.steps.push((start.0, step));
        }
        // A task that was told to stop may be gone by now.
        let _ = worker.handle(now, worker::Input::Checkpoint { token, bytes: &checkpoint(step) });
    }

    fn finished(&mut self, peer: usize, token: Token) {
        let now = self.now;
        let Peer { machine: Machine::Worker(worker), executor, .. } = &mut self.peers[peer] else { return };
        let Some(running) = executor.running.get_mut(&token).filter(|running| !running.over) else { return };
        running.over = true;
        running.printed = running.job.prints.len();
        let total = running.printed as u64;
        let (outcome, result) = (running.outcome, running.job.returns.clone());
        let _ = worker.handle(now, worker::Input::OutputGrew { token, stream: Stream::Out, total });
        let names = if result.len() > INLINE_BYTES_MAX { chunk_names(&result) } else { Vec::new() };
        let length = result.len() as u64;
        let _ = worker.handle(
            now,
            match &*names {
                [] => worker::Input::Finished { token, outcome, result: &result },
                names => worker::Input::FinishedLarge { token, outcome, length, names },
            },
        );
    }

    /// Asks every machine what to do, until none has anything to do, then checks all invariants
    fn drain(&mut self) {
        self.drain_coordinator();
        for peer in 0..self.peers.len() {
            if self.peers[peer].alive {
                self.drain_peer(peer);
            }
        }
        self.drain_coordinator();
        self.coordinator.check();
        for peer in &self.peers {
            match &peer.machine {
                Machine::Worker(worker) => worker.check(),
                Machine::Client(client) => client.check(),
            }
        }
    }

    fn drain_coordinator(&mut self) {
        let mut frame = std::mem::take(&mut self.frame);
        let mut written = None;
        loop {
            match self.coordinator.poll(&mut frame) {
                coordinator::Output::Journal { seq, record } => {
                    self.journal.append(record);
                    written = Some(seq);
                }
                coordinator::Output::Send { conn, bytes } => {
                    let bytes = bytes.into();
                    self.send(conn, Side::Coordinator, bytes);
                }
                coordinator::Output::Close { conn, reason } => {
                    self.closes.insert(conn, reason);
                    self.hang_up(conn, Side::Coordinator);
                }
                coordinator::Output::ReadOutput { token, stream, offset, max } => {
                    let kept = self.journal.kept(token, stream);
                    let end = kept.len().min((offset + u64::from(max)) as usize);
                    let bytes = kept[offset as usize..end].to_vec();
                    let input = coordinator::Input::OutputRead { token, stream, offset, bytes: &bytes };
                    self.coordinator.handle(self.now, input).expect("an answer is never refused");
                }
                coordinator::Output::ReadChunk { home, offset, max } => {
                    let kept = self.journal.chunk(home);
                    let end = kept.len().min((offset + u64::from(max)) as usize);
                    let bytes = kept[offset as usize..end].to_vec();
                    let input = coordinator::Input::ChunkRead { home, offset, bytes: &bytes };
                    self.coordinator.handle(self.now, input).expect("an answer is never refused");
                }
                coordinator::Output::KeepKey { key, after } => {
                    let known = self.coordinator_config.keys.iter().any(|other| other.id == key.id);
                    if !known && !self.coordinator_config.revoked.contains(&after) {
                        self.coordinator_config.next.push(key.id);
                        self.coordinator_config.keys.push(Key::clone(&key));
                    }
                    if self.keeps_keys[Side::Coordinator as usize] {
                        let kept = coordinator::Input::KeyKept { key: key.id, kept: true };
                        self.coordinator.handle(self.now, kept).expect("an answer is never refused");
                    } else {
                        self.unsaid_keys.push(key.id);
                    }
                }
                coordinator::Output::Event(event) => {
                    if let (coordinator::Event::KeyUsed { peer, key }, true) = (&event, self.keeps_retired) {
                        retire(&mut self.coordinator_config, peer, *key);
                    }
                    if let coordinator::Event::KeyUntold { key } = &event {
                        forget(&mut self.coordinator_config, *key);
                    }
                    self.events.push(event);
                }
                coordinator::Output::Idle { .. } => {
                    let idle = matches!(self.coordinator.poll(&mut frame), coordinator::Output::Idle { .. });
                    assert!(idle, "a drain ends when there is nothing to do");
                    break;
                }
            }
        }
        self.frame = frame;
        // What was written together becomes durable together.
        match (written, self.journal.mode) {
            (Some(upto), JournalMode::Syncs(lag)) => self.happen(lag, Happening::Durable { upto }),
            (Some(_), JournalMode::Fails) => self.happen(Duration::ZERO, Happening::JournalFailed),
            (None, _) | (_, JournalMode::Stuck) => {}
        }
    }

    fn drain_peer(&mut self, peer: usize) {
        let mut frame = std::mem::take(&mut self.frame);
        match self.peers[peer].machine {
            Machine::Worker(_) => while self.worker_output(peer, &mut frame) {},
            Machine::Client(_) => while self.client_output(peer, &mut frame) {},
        }
        self.frame = frame;
    }

    fn worker_output(&mut self, peer: usize, frame: &mut [u8]) -> bool {
        let Machine::Worker(worker) = &mut self.peers[peer].machine else { return false };
        match worker.poll(frame) {
            worker::Output::Connect { attempt, endpoint } => self.dial(peer, attempt, endpoint),
            worker::Output::Disconnect { attempt, reason } => self.leave(peer, attempt, reason),
            worker::Output::Send { bytes } => {
                let bytes = bytes.into();
                self.send_from(peer, bytes);
            }
            worker::Output::Run { task, token, attempt } => self.run(peer, task, token, attempt),
            worker::Output::Cancel { token, .. } => {
                if let Some(running) = self.peers[peer].executor.running.get_mut(&token) {
                    running.outcome = Outcome::Cancelled;
                    self.happen(Duration::from_millis(1), Happening::Finished { peer, token });
                }
            }
            worker::Output::ReadOutput { token, stream, offset, max } => {
                let Peer { machine: Machine::Worker(worker), executor, .. } = &mut self.peers[peer] else {
                    return false;
                };
                let bytes = executor.read(token, stream, offset, max);
                let input = worker::Input::OutputRead { token, stream, offset, bytes };
                worker.handle(self.now, input).expect("an answer is never refused");
            }
            worker::Output::ReadCheckpoint { token, number: RESULT, offset, max } => {
                let Peer { machine: Machine::Worker(worker), executor, .. } = &mut self.peers[peer] else {
                    return false;
                };
                let bytes = executor.returned(token, offset, max);
                let input = worker::Input::CheckpointRead { token, number: RESULT, offset, bytes };
                worker.handle(self.now, input).expect("an answer is never refused");
            }
            worker::Output::RestorePiece { token, number: INPUT, offset, bytes } => {
                let fed = self.fed.entry(token).or_default();
                fed.resize(fed.len().max(offset as usize + bytes.len()), 0);
                fed[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
            }
            worker::Output::ReadCheckpoint { .. } | worker::Output::RestorePiece { .. } => {
                panic!("the checkpoints of stories are small")
            }
            worker::Output::Checkpointed { token, number, refused } => self.checkpointed.push((token, number, refused)),
            worker::Output::Keep { token } => self.keep(peer, token),
            worker::Output::Freeze { token } => self.frozen.push((token, true)),
            worker::Output::Thaw { token } => self.frozen.push((token, false)),
            worker::Output::WantCheckpoint { token } => self.wanted.push((self.now, peer, token)),
            worker::Output::KeepKey => {
                let key = worker.next_key().expect("there is one to keep");
                self.kept_keys.insert(peer, key);
                if self.keeps_keys[Side::Peer as usize] {
                    let kept = worker::Input::KeyKept { kept: true };
                    worker.handle(self.now, kept).expect("it was asked for");
                }
            }
            worker::Output::Forget { token } => {
                self.peers[peer].store.remove(&token);
                self.peers[peer].executor.running.remove(&token);
            }
            worker::Output::Idle { .. } => {
                let idle = matches!(worker.poll(frame), worker::Output::Idle { .. });
                assert!(idle, "a drain ends when there is nothing to do");
                return false;
            }
        }
        true
    }

    fn client_output(&mut self, peer: usize, frame: &mut [u8]) -> bool {
        let n = peer - self.client_peer(0);
        let Machine::Client(client) = &mut self.peers[peer].machine else { return false };
        match client.poll(frame) {
            client::Output::Connect { attempt, endpoint } => self.dial(peer, attempt, endpoint),
            client::Output::Disconnect { attempt, reason } => self.leave(peer, attempt, reason),
            client::Output::Send { bytes } => {
                let bytes = bytes.into();
                self.send_from(peer, bytes);
            }
            client::Output::Piece { task, token, stream, offset, bytes } => {
                let kept = self.client_output[n].entry((task, token, stream)).or_default();
                assert_eq!(kept.len() as u64, offset, "a client's pieces follow each other");
                kept.extend_from_slice(bytes);
            }
            client::Output::Answer { ask, answer } => self.answers.push((n, ask, answer.into())),
            client::Output::ReadInput { task, offset, max } => {
                let input = self.inputs.get(&task).map_or(&[][..], |input| &input[offset as usize..]);
                let input = client::Input::InputRead { task, offset, bytes: &input[..input.len().min(max as usize)] };
                client.handle(self.now, input).expect("an answer is never refused");
            }
            client::Output::Event(event) => self.client_events[n].push(event),
            client::Output::Idle { .. } => {
                let idle = matches!(client.poll(frame), client::Output::Idle { .. });
                assert!(idle, "a drain ends when there is nothing to do");
                return false;
            }
        }
        true
    }

    fn run(&mut self, peer: usize, task: TaskId, token: Token, attempt: u32) {
        let now = self.now;
        let Some(job) = self.jobs.get(&task).cloned() else { panic!("{task} was never submitted") };
        self.starts.push((task, token, attempt, peer));
        let Peer { machine: Machine::Worker(worker), executor, .. } = &mut self.peers[peer] else { return };
        assert!(worker.payload(token).is_some(), "the input is there when the task is to start");
        // Where it goes on: the step behind which the checkpoint was made.
        let done = worker.checkpoint(token).map_or(0, |(_, from)| {
            let Restored::Bytes(bytes) = from else { panic!("the checkpoints of stories are small") };
            assert_eq!(bytes, checkpoint(bytes[0]), "a checkpoint comes back as it was made");
            bytes[0]
        });
        worker.handle(now, worker::Input::Started { token }).expect("it was to be started");
        let (steps, outcome) = (job.steps, job.outcome(attempt));
        let takes = job.takes * u32::from(steps - done) / u32::from(steps);
        executor.running.insert(token, Running { job, outcome, printed: 0, over: false });
        self.happen(takes / 2, Happening::Printed { peer, token });
        for step in done + 1..steps {
            let at = takes * u32::from(step - done) / u32::from(steps - done);
            self.happen(at, Happening::Step { peer, token, step });
        }
        self.happen(takes, Happening::Finished { peer, token });
    }

    fn dial(&mut self, peer: usize, attempt: u64, endpoint: usize) {
        let wire = self.peers[peer].wire;
        self.peers[peer].dials += 1;
        self.dialled.push((peer, endpoint));
        assert!(self.connection(peer).is_none(), "peer {peer} has two sockets (S23)");
        if wire.refuses || wire.only.is_some_and(|only| only != endpoint) {
            return self.happen(wire.latency * 2, Happening::Refused { peer, attempt });
        }
        let conn = self.next_conn();
        let deaf = [wire.swallows; 2];
        let (peer_open, coordinator_open) = (true, false);
        let by_hand = wire.diverted.then_some(Side::Coordinator);
        self.sockets.insert(conn, Socket { peer, attempt, conn, peer_open, coordinator_open, deaf, by_hand });
        if !wire.swallows {
            self.happen(wire.latency * 2, Happening::Opened { conn });
        }
    }

    /// A peer hangs up
    fn leave(&mut self, peer: usize, attempt: u64, reason: Reason) {
        self.leaves.push((peer, reason));
        let conn =
            self.sockets.values().find(|s| s.peer == peer && s.attempt == attempt && s.peer_open).map(|s| s.conn);
        if let Some(conn) = conn {
            self.hang_up(conn, Side::Peer);
        }
    }

    /// An end closes; the other one learns of it, if anything reaches it
    fn hang_up(&mut self, conn: ConnId, side: Side) {
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        socket.close(side);
        let latency = self.peers.get(socket.peer).map_or(Duration::ZERO, |peer| peer.wire.latency);
        self.happen(latency, Happening::Closed { conn, at: side.other(), loss: Loss::Peer });
    }

    fn send_from(&mut self, peer: usize, bytes: Vec<u8>) {
        let conn = self.connection(peer).expect("a peer sends only while it is connected");
        self.send(conn, Side::Peer, bytes);
    }

    fn send(&mut self, conn: ConnId, from: Side, bytes: Vec<u8>) {
        let Some(socket) = self.sockets.get(&conn).filter(|socket| socket.is_open(from)) else { return };
        let latency = self.peers.get(socket.peer).map_or(Duration::ZERO, |peer| peer.wire.latency);
        self.happen(latency, Happening::Arrives { conn, at: from.other(), bytes });
    }

    /// What was under way on a connection that is cut never arrives
    fn forget_in_flight(&mut self, conn: ConnId) {
        self.happenings.retain(|_, happening| match happening {
            Happening::Arrives { conn: on, .. }
            | Happening::Opened { conn: on }
            | Happening::Closed { conn: on, .. } => *on != conn,
            Happening::Refused { .. }
            | Happening::Printed { .. }
            | Happening::Step { .. }
            | Happening::Finished { .. }
            | Happening::Durable { .. }
            | Happening::JournalFailed => true,
        });
    }

    fn make_deaf(&mut self, conn: ConnId, side: Side) {
        if let Some(socket) = self.sockets.get_mut(&conn) {
            *socket.deaf(side) = true;
        }
    }

    fn next_conn(&mut self) -> ConnId {
        self.sequence += 1;
        ConnId(self.sequence)
    }

    fn fresh(&mut self) -> [u8; 32] {
        self.entropy += 1;
        let mut entropy = [0; 32];
        for (n, chunk) in entropy.chunks_mut(8).enumerate() {
            let mixed = (self.entropy ^ (n as u64) << 56).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
            chunk.copy_from_slice(&mixed.wrapping_mul(0xBF58_476D_1CE4_E5B9).to_le_bytes());
        }
        entropy
    }
}

impl Peer {
    fn new(machine: Machine) -> Self {
        Peer {
            machine,
            wire: Wire::default(),
            executor: Executor::default(),
            store: BTreeMap::new(),
            alive: true,
            flip: BTreeMap::new(),
            dials: 0,
        }
    }
}

impl Machine {
    fn wake_at(&self) -> Option<Instant> {
        match self {
            Machine::Worker(worker) => worker.wake_at(),
            Machine::Client(client) => client.wake_at(),
        }
    }
}

/// The names of a blob's chunks
pub(crate) fn chunk_names(bytes: &[u8]) -> Vec<ChunkName> {
    let length = bytes.len() as u64;
    let spans = (0..chunks(length)).map(|chunk| chunk_span(length, chunk));
    spans.map(|at| chunk_name(&bytes[at.start as usize..at.end as usize])).collect()
}

fn seed(number: u64, stream: u64) -> Seed {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&number.to_le_bytes());
    seed[8..16].copy_from_slice(&stream.to_le_bytes());
    Seed(seed)
}
