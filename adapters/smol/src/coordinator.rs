//! The coordinator: the machine, its port, and its journal

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rejoin_core::Rejected;
use rejoin_core::coordinator::{Address, Config, Coordinator, Counts, Event, Input, Output, PeerView, Recovery};
use rejoin_core::ids::{ClusterId, ConnId, KeyId, TaskId, Token};
use rejoin_core::limits::FRAME_BYTES_MAX;
use rejoin_core::link::Reason;
use rejoin_core::stats::CoordinatorStats;
use rejoin_core::wire::keys::Key;
use rejoin_core::wire::message::{Outcome, StreamEnd, TaskSpec};
use smol::channel::{Receiver, Sender, bounded, unbounded};
use smol::future::FutureExt;
use smol::net::TcpListener;

use crate::clock::{Clock, entropy, seed};
use crate::http::{self, Limits, Upgraded, Visitor};
use crate::journal::{Journal, Outputs};
use crate::pump::{Pump, Queue, Report};
use crate::seen::Seen;
use crate::tls::Certificate;

/// Events taken in between two drains, so that one connection cannot starve the others, nor all of them the timers
const BATCH: usize = 256;
/// Events that may wait to be taken in
const QUEUE: usize = 256;
/// How long the last words of an orderly end may take to leave
const FAREWELL: Duration = Duration::from_secs(1);
/// Connections whose end is remembered until they are upgraded
const CLOSED_MAX: usize = 1024;
/// How often at most a line is spent on connections that were refused
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Something that happened, with what the machine knows of it
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A task is over
    Ended(Ended),
    /// A worker is to have this key in the place of another one: to be kept, and then [`Handle::key_kept`] (AUTH-6)
    ///
    /// Nobody is told of one that is not.
    KeepKey {
        /// The key
        key: Box<Key>,
        /// The one that it is to replace; if that has been revoked, the new one is not to be kept
        after: KeyId,
    },
    /// Anything else
    Event(Event),
}

/// How a task ended
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Which one
    pub task: TaskId,
    /// How
    pub outcome: Outcome,
    /// The attempt that ended it, whose output is the task's
    pub token: Option<Token>,
    /// Its number; 0 if there was none
    pub attempt: u32,
    /// What it returned, where that came in a message
    pub result: Vec<u8>,
    /// How many bytes it returned, where those are in chunks, which clients fetch (FRAME-3)
    pub elsewhere: Option<u64>,
    /// Its output streams
    pub streams: [StreamEnd; 2],
}

/// The coordinator at one moment
#[derive(Clone, Debug)]
pub struct Overview {
    /// Tasks in each state
    pub counts: Counts,
    /// Counters
    pub stats: CoordinatorStats,
    /// All peers
    pub peers: Vec<PeerView>,
}

/// A way to talk to a running coordinator from the same process
#[derive(Clone, Debug)]
pub struct Handle {
    asks: Sender<Ask>,
}

#[derive(Debug)]
enum Ask {
    Submit { task: TaskId, spec: TaskSpec, about: Vec<u8>, payload: Vec<u8>, answer: Sender<Result<(), Rejected>> },
    Cancel { tasks: Vec<TaskId>, answer: Sender<Result<(), Rejected>> },
    Forget { task: TaskId, answer: Sender<Result<(), Rejected>> },
    AddKey { key: Key, answer: Sender<Result<(), Rejected>> },
    AddToken { key: Key, valid: Duration, answer: Sender<Result<(), Rejected>> },
    RevokeKey { key: KeyId, answer: Sender<Result<(), Rejected>> },
    KeyKept { key: KeyId, kept: bool, answer: Sender<Result<(), Rejected>> },
    Ended { task: TaskId, answer: Sender<Option<Ended>> },
    Stop { back_in: Option<Duration> },
    Overview { answer: Sender<Overview> },
    Admit { visitor: Visitor, answer: Sender<Admitted> },
}

/// The connection's name and the answer to its hello, if it had one; or when to come back
type Admitted = Result<(ConnId, Option<Vec<u8>>), Duration>;

impl Handle {
    /// Submits a task; accepted once [`Event::Accepted`] was told
    ///
    /// `about` is an encoded [`About`](rejoin_core::about::About), or empty.
    pub async fn submit(&self, task: TaskId, spec: TaskSpec, about: Vec<u8>, payload: Vec<u8>) -> Result<(), Rejected> {
        self.ask(|answer| Ask::Submit { task, spec, about, payload, answer }).await
    }

    /// Asks for tasks to be stopped, all at once: none of them starts in the place of another
    ///
    /// Tasks that are unknown or over are no error.
    pub async fn cancel(&self, tasks: Vec<TaskId>) -> Result<(), Rejected> {
        self.ask(|answer| Ask::Cancel { tasks, answer }).await
    }

    /// Drops everything of an ended task but its id and outcome
    pub async fn forget(&self, task: TaskId) -> Result<(), Rejected> {
        self.ask(|answer| Ask::Forget { task, answer }).await
    }

    /// Lets another peer in (AUTH-6)
    pub async fn add_key(&self, key: Key) -> Result<(), Rejected> {
        self.ask(|answer| Ask::AddKey { key, answer }).await
    }

    /// Lets a worker enrol that has this join token, for so long (AUTH-6)
    pub async fn add_token(&self, key: Key, valid: Duration) -> Result<(), Rejected> {
        self.ask(|answer| Ask::AddToken { key, valid, answer }).await
    }

    /// Lets a peer in no more, and ends its connection (AUTH-6)
    pub async fn revoke_key(&self, key: KeyId) -> Result<(), Rejected> {
        self.ask(|answer| Ask::RevokeKey { key, answer }).await
    }

    /// Says whether the key of [`Notice::KeepKey`] is kept for good (AUTH-6)
    pub async fn key_kept(&self, key: KeyId, kept: bool) -> Result<(), Rejected> {
        self.ask(|answer| Ask::KeyKept { key, kept, answer }).await
    }

    /// Returns how a task ended, if it has; of a forgotten one there is only the outcome
    pub async fn ended(&self, task: TaskId) -> Option<Ended> {
        let (answer, answered) = bounded(1);
        self.asks.send(Ask::Ended { task, answer }).await.ok()?;
        answered.recv().await.ok()?
    }

    /// Asks for an orderly end: what was said becomes durable, and all connections are closed
    ///
    /// [`Server::ended`] says when it is over.
    pub async fn stop(&self) {
        // One that has ended need not be told.
        let _ = self.asks.send(Ask::Stop { back_in: None }).await;
    }

    /// Asks for an orderly end as well, and has everybody told when to come back: another coordinator goes on from the
    /// journal in about so long (BACK-3)
    pub async fn go_away(&self, back_in: Duration) {
        let _ = self.asks.send(Ask::Stop { back_in: Some(back_in) }).await;
    }

    /// Returns the state of things, unless the coordinator has ended
    pub async fn overview(&self) -> Option<Overview> {
        let (answer, answered) = bounded(1);
        self.asks.send(Ask::Overview { answer }).await.ok()?;
        answered.recv().await.ok()
    }

    async fn ask(&self, ask: impl FnOnce(Sender<Result<(), Rejected>>) -> Ask) -> Result<(), Rejected> {
        let (answer, answered) = bounded(1);
        if self.asks.send(ask(answer)).await.is_err() {
            return Err(Rejected::Stopped);
        }
        answered.recv().await.unwrap_or(Err(Rejected::Stopped))
    }
}

/// Where a coordinator listens
#[derive(Clone, Debug)]
pub struct Port {
    /// The address
    pub listen: SocketAddr,
    /// What it shows of itself; without one there is no TLS (AUTH-7)
    pub certificate: Option<Certificate>,
}

impl From<SocketAddr> for Port {
    fn from(listen: SocketAddr) -> Self {
        Port { listen, certificate: None }
    }
}

/// A coordinator on its port; dropping it ends it
pub struct Server {
    handle: Handle,
    notices: Receiver<Notice>,
    address: SocketAddr,
    recovered: Recovered,
    running: smol::Task<io::Result<()>>,
}

/// What a coordinator has found in its journal
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The cluster, and the epoch of it that has begun
    pub cluster: ClusterId,
    /// See there
    pub epoch: u64,
    /// Records taken in, pieces of output among them
    pub records: u64,
    /// Tasks that have no outcome yet
    pub open: u64,
    /// Tasks that have one, and are not forgotten
    pub ended: u64,
    /// How long it took
    pub took: Duration,
}

impl Server {
    /// Recovers from the journal, then starts to serve a port
    ///
    /// Whoever starts it must read [`Server::notices`] to the end: they are not bounded.
    pub async fn start<J: Journal>(port: impl Into<Port>, config: Config, mut journal: J) -> io::Result<Server> {
        let Port { listen, certificate } = port.into();
        let listener = TcpListener::bind(listen).await.map_err(|error| {
            io::Error::new(error.kind(), format!("cannot listen on {listen}: {error}; give another address"))
        })?;
        let address = listener.local_addr()?;
        let clock = Clock::start();
        // May read for as long as it takes: nobody is let in before.
        let (machine, journal, recovered) = smol::unblock(move || {
            let (machine, recovered) = recover(config, clock, &mut journal)?;
            Ok::<_, io::Error>((machine, journal, recovered))
        })
        .await?;
        let (asks, asked) = bounded(QUEUE);
        let (notices, noticed) = unbounded();
        let (upgraded_to, upgraded) = bounded(QUEUE);
        let handle = Handle { asks };
        let door = smol::spawn(serve(listener, certificate, handle.clone(), upgraded_to));
        let desk = Desk {
            address,
            clock,
            machine,
            outputs: journal.outputs(),
            writer: Writer::new(journal),
            conns: BTreeMap::new(),
            upgrading: BTreeMap::new(),
            closed: BTreeMap::new(),
            next_conn: 0,
            reports: bounded(QUEUE),
            asked,
            upgraded,
            notices,
            stopping: false,
            back_in: None,
            farewells: Vec::new(),
            complained: None,
            frame: vec![0; FRAME_BYTES_MAX],
            piece: vec![0; FRAME_BYTES_MAX],
            _door: door,
        };
        Ok(Server { handle, notices: noticed, address, recovered, running: smol::spawn(desk.run()) })
    }

    /// Returns what was found in the journal
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// Returns the address it listens on
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns a way to talk to it
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Returns what it has to tell
    pub fn notices(&self) -> Receiver<Notice> {
        self.notices.clone()
    }

    /// Waits until it has ended, which it does when it was told to, or when its journal fails
    ///
    /// Ask once.
    pub async fn ended(&mut self) -> io::Result<()> {
        (&mut self.running).await
    }
}

async fn serve(
    listener: TcpListener,
    certificate: Option<Certificate>,
    handle: Handle,
    upgraded: Sender<Upgraded<ConnId>>,
) -> io::Result<()> {
    let admit = move |visitor: Visitor| {
        let handle = handle.clone();
        async move {
            let (answer, answered) = bounded(1);
            let asked = handle.asks.send(Ask::Admit { visitor, answer }).await;
            let later = Err(Duration::from_secs(1));
            if asked.is_err() { later } else { answered.recv().await.unwrap_or(later) }
        }
    };
    http::serve(listener, Limits::default(), certificate, admit, upgraded).await
}

/// Makes the machine out of what the journal has
fn recover<J: Journal>(config: Config, clock: Clock, journal: &mut J) -> io::Result<(Coordinator, Recovered)> {
    let begun = clock.now();
    let mut recovery = Recovery::start(config, seed()?, begun).map_err(io::Error::other)?;
    let mut records = 0;
    journal.replay(&mut |record| {
        records += 1;
        recovery.take(record).map_err(io::Error::other)
    })?;
    let machine = recovery.finish();
    let (counts, (cluster, epoch)) = (machine.counts(), machine.epoch());
    let took = clock.now().since(begun);
    Ok((machine, Recovered { cluster, epoch, records, open: counts.open(), ended: counts.ended, took }))
}

struct Desk<J: Journal> {
    /// Where it listens
    address: SocketAddr,
    clock: Clock,
    machine: Coordinator,
    outputs: J::Outputs,
    writer: Writer<J>,
    conns: BTreeMap<ConnId, Pump>,
    /// Connections that are being upgraded, and who waits for the answer to the hello that came with it (AUTH-9)
    upgrading: BTreeMap<ConnId, Option<Sender<Admitted>>>,
    /// Connections that the machine has closed before they were upgraded
    closed: BTreeMap<ConnId, Reason>,
    next_conn: u64,
    reports: Queue<(ConnId, Report)>,
    asked: Receiver<Ask>,
    upgraded: Receiver<Upgraded<ConnId>>,
    notices: Sender<Notice>,
    /// Somebody wants an orderly end
    stopping: bool,
    /// In what time another one goes on, if anybody knows
    back_in: Option<Duration>,
    /// Connections whose last words are leaving, in an orderly end
    farewells: Vec<smol::Task<()>>,
    /// When it was last said that somebody was sent away
    complained: Option<rejoin_core::Instant>,
    frame: Vec<u8>,
    piece: Vec<u8>,
    _door: smol::Task<io::Result<()>>,
}

/// What the coordinator wakes up for
enum Wake {
    Report(ConnId, Report),
    Ask(Ask),
    Upgraded(Box<Upgraded<ConnId>>),
    /// The group of records up to this one was synced, or was not
    Synced(io::Result<u64>),
    Time,
}

impl<J: Journal> Desk<J> {
    async fn run(mut self) -> io::Result<()> {
        loop {
            let wake_at = match self.drain() {
                Ok(wake_at) => wake_at,
                Err(error) => return self.fail(error),
            };
            if self.stopping && self.writer.is_idle() {
                return self.close().await;
            }
            if self.stopping {
                // Nothing new is taken in: what is there becomes durable, and is told.
                let wake = Wake::Synced(self.writer.synced().await);
                if let Err(error) = self.take(wake) {
                    return self.fail(error);
                }
                continue;
            }
            let wake = self.next_wake(wake_at).await;
            if let Err(error) = self.take(wake) {
                return self.fail(error);
            }
            for _ in 1..BATCH {
                let Some(wake) = self.try_wake() else { break };
                if let Err(error) = self.take(wake) {
                    return self.fail(error);
                }
            }
        }
    }

    /// Everything that was said is durable: close what is open, and end
    async fn close(&mut self) -> io::Result<()> {
        if let Some(back_in) = self.back_in {
            self.tell(Input::GoAway { back_in });
            self.drain()?;
        }
        for pump in std::mem::take(&mut self.conns).into_values() {
            self.hang_up(pump, Reason::Stopping);
        }
        // So that the last words leave; whoever does not take them learns of the end by the end of the connection.
        let farewells = std::mem::take(&mut self.farewells);
        let all = async {
            for farewell in farewells {
                farewell.await;
            }
        };
        let late = async { _ = smol::Timer::after(FAREWELL).await };
        all.or(late).await;
        Ok(())
    }

    /// The journal failed: tell nobody anything more, close everything, end (JOURN-3)
    fn fail(&mut self, error: io::Error) -> io::Result<()> {
        self.tell(Input::JournalFailed);
        // What the machine says now is to close what is open, which the end of this task does.
        self.conns.clear();
        let _ = self.notices.try_send(Notice::Event(Event::Stopped));
        let message = format!("the journal failed, so that nothing more can be accepted: {error}");
        Err(io::Error::new(error.kind(), message))
    }

    /// Does what the machine asks for, until it asks for nothing; records are written on the way, or beside it (JOURN-1)
    fn drain(&mut self) -> io::Result<Option<rejoin_core::Instant>> {
        loop {
            match self.machine.poll(&mut self.frame) {
                Output::Journal { seq, record } => self.writer.append(seq, record)?,
                Output::Send { conn, bytes } => {
                    if let Some(answer) = self.upgrading.get_mut(&conn).and_then(Option::take) {
                        let _ = answer.try_send(Ok((conn, Some(bytes.into()))));
                    } else if self.conns.get(&conn).is_some_and(|pump| !pump.send(bytes)) {
                        self.tell(Input::Writable { conn, writable: false });
                    }
                }
                Output::Close { conn, reason } => {
                    Seen::Closes(reason).by_coordinator(self.address, conn);
                    self.turned_away(reason);
                    if let Some(pump) = self.conns.remove(&conn) {
                        self.hang_up(pump, reason);
                    } else if let Some(answer) = self.upgrading.remove(&conn) {
                        self.closed_early(conn, reason, answer);
                    }
                }
                Output::ReadOutput { token, stream, offset, max } => {
                    let read = self.outputs.read_at(token, stream, offset, &mut self.piece[..max as usize])?;
                    let input = Input::OutputRead { token, stream, offset, bytes: &self.piece[..read] };
                    expected(self.machine.handle(self.clock.now(), input));
                }
                Output::ReadChunk { home, offset, max } => {
                    let room = &mut self.piece[..max as usize];
                    let read = match self.outputs.read_chunk(home, offset, room) {
                        Ok(read) => read,
                        Err(error) => {
                            tracing::error!(%error, "a checkpoint cannot be read: the one before is taken");
                            0
                        }
                    };
                    let input = Input::ChunkRead { home, offset, bytes: &self.piece[..read] };
                    expected(self.machine.handle(self.clock.now(), input));
                }
                Output::KeepKey { key, after } => self.notice(Notice::KeepKey { key, after }),
                Output::Event(event) => self.notify(event),
                Output::Idle { wake_at } => match self.writer.sync()? {
                    // What it was waited for comes out in the next round.
                    Some(upto) => self.tell(Input::Journaled { upto }),
                    None => return Ok(wake_at),
                },
            }
        }
    }

    /// Lets a connection be upgraded that is closed already, so that its peer learns why
    fn closed_early(&mut self, conn: ConnId, reason: Reason, answer: Option<Sender<Admitted>>) {
        if let Some(answer) = answer {
            let _ = answer.try_send(Ok((conn, None)));
        }
        // Some are never upgraded: their peers have gone.
        self.closed.insert(conn, reason);
        if self.closed.len() > CLOSED_MAX {
            self.closed.pop_first();
        }
    }

    /// Says why somebody was sent away whose settings contradict this coordinator's, and not too often: anybody can
    /// have it said
    fn turned_away(&mut self, reason: Reason) {
        let now = self.clock.now();
        let quiet = self.complained.is_some_and(|at| now.since(at) < COMPLAIN_EVERY);
        if matches!(reason, Reason::Unbound | Reason::Audience | Reason::Version) && !quiet {
            self.complained = Some(now);
            tracing::warn!(%reason, "a connection was refused");
        } else {
            tracing::debug!(%reason, "connection closed");
        }
    }

    fn notify(&mut self, event: Event) {
        let Event::Ended { task } = event else {
            return self.notice(Notice::Event(event));
        };
        if let Some(ended) = self.end_of(task) {
            self.notice(Notice::Ended(ended));
        }
    }

    fn end_of(&self, task: TaskId) -> Option<Ended> {
        if let Some(outcome) = self.machine.remembered(task) {
            return Some(Ended {
                task,
                outcome,
                token: None,
                attempt: 0,
                result: Vec::new(),
                elsewhere: None,
                streams: Default::default(),
            });
        }
        let end = self.machine.task(task)?.end?;
        let (outcome, token, attempt, streams) = (end.outcome, end.token, end.attempt, end.streams);
        let (result, elsewhere) = (end.result.into(), end.elsewhere);
        Some(Ended { task, outcome, token, attempt, result, elsewhere, streams })
    }

    fn notice(&self, notice: Notice) {
        // Nobody may be listening, and that is fine.
        let _ = self.notices.try_send(notice);
    }

    async fn next_wake(&mut self, wake_at: Option<rejoin_core::Instant>) -> Wake {
        let report = async {
            match self.reports.1.recv().await {
                Ok((conn, report)) => Wake::Report(conn, report),
                Err(_) => smol::future::pending().await,
            }
        };
        let ask = async {
            match self.asked.recv().await {
                Ok(ask) => Wake::Ask(ask),
                Err(_) => smol::future::pending().await,
            }
        };
        let upgraded = async {
            match self.upgraded.recv().await {
                Ok(upgraded) => Wake::Upgraded(Box::new(upgraded)),
                Err(_) => smol::future::pending().await,
            }
        };
        let time = async {
            self.clock.wait_until(wake_at).await;
            Wake::Time
        };
        let synced = async { Wake::Synced(self.writer.synced().await) };
        synced.or(report).or(upgraded).or(ask).or(time).await
    }

    fn try_wake(&self) -> Option<Wake> {
        if let Ok((conn, report)) = self.reports.1.try_recv() {
            return Some(Wake::Report(conn, report));
        }
        if let Ok(upgraded) = self.upgraded.try_recv() {
            return Some(Wake::Upgraded(Box::new(upgraded)));
        }
        self.asked.try_recv().ok().map(Wake::Ask)
    }

    fn take(&mut self, wake: Wake) -> io::Result<()> {
        match wake {
            Wake::Report(conn, Report::Message { bytes, arrived }) => {
                if let Some(pump) = self.conns.get_mut(&conn) {
                    pump.heard(arrived);
                    self.tell(Input::Received { conn, bytes: &bytes });
                }
            }
            Wake::Report(conn, Report::Ended(_)) => {
                self.conns.remove(&conn);
                self.tell(Input::Closed { conn });
            }
            Wake::Report(conn, Report::Writable) => self.tell(Input::Writable { conn, writable: true }),
            Wake::Upgraded(upgraded) => {
                let conn = upgraded.admitted;
                let (open, closed) = (self.upgrading.remove(&conn).is_some(), self.closed.remove(&conn));
                match upgraded.socket.map(|socket| Pump::start(socket, conn, self.reports.0.clone())) {
                    Some(pump) if open => _ = self.conns.insert(conn, pump),
                    Some(pump) => self.hang_up(pump, closed.unwrap_or(Reason::Timeout)),
                    None => self.tell(Input::Closed { conn }),
                }
            }
            Wake::Ask(ask) => self.answer(ask)?,
            Wake::Synced(synced) => {
                let upto = synced?;
                self.tell(Input::Journaled { upto });
            }
            Wake::Time => {
                // Of these alone: there may be thousands of others, whose reprieves are not to be used up by that.
                let due: Vec<_> = self.machine.due(self.clock.now()).collect();
                for conn in due {
                    if self.conns.get_mut(&conn).is_some_and(Pump::is_arriving) {
                        self.tell(Input::Arriving { conn });
                    }
                }
                self.tell(Input::Timeout);
            }
        }
        Ok(())
    }

    fn answer(&mut self, ask: Ask) -> io::Result<()> {
        let now = self.clock.now();
        // Whoever asked may have gone away meanwhile.
        match ask {
            Ask::Submit { task, spec, about, payload, answer } => {
                let input = Input::Submit { task, spec, about: &about, payload: &payload };
                let _ = answer.try_send(self.machine.handle(now, input));
            }
            Ask::Cancel { tasks, answer } => {
                let cancelled =
                    tasks.into_iter().try_for_each(|task| match self.machine.handle(now, Input::Cancel { task }) {
                        Err(Rejected::Unknown) => Ok(()),
                        other => other,
                    });
                let _ = answer.try_send(cancelled);
            }
            Ask::Forget { task, answer } => {
                let _ = answer.try_send(self.machine.handle(now, Input::Forget { task }));
            }
            Ask::AddKey { key, answer } => {
                let _ = answer.try_send(self.machine.handle(now, Input::AddKey { key: &key }));
            }
            Ask::AddToken { key, valid, answer } => {
                let _ = answer.try_send(self.machine.handle(now, Input::AddToken { key: &key, valid }));
            }
            Ask::RevokeKey { key, answer } => {
                let _ = answer.try_send(self.machine.handle(now, Input::RevokeKey { key }));
            }
            Ask::KeyKept { key, kept, answer } => {
                let _ = answer.try_send(self.machine.handle(now, Input::KeyKept { key, kept }));
            }
            Ask::Ended { task, answer } => {
                let _ = answer.try_send(self.end_of(task));
            }
            Ask::Stop { back_in } => (self.stopping, self.back_in) = (true, back_in),
            Ask::Overview { answer } => {
                let counts = self.machine.counts();
                let (stats, peers) = (self.machine.stats(), self.machine.peers().collect());
                let _ = answer.try_send(Overview { counts, stats, peers });
            }
            Ask::Admit { visitor: Visitor { address, binding, hello }, answer } => {
                self.next_conn += 1;
                let conn = ConnId(self.next_conn);
                let (address, entropy) = (address_of(address), entropy()?);
                let admitted = match self.machine.handle(now, Input::Accepted { conn, address, entropy, binding }) {
                    Ok(()) => {
                        Seen::Opened.by_coordinator(self.address, conn);
                        self.upgrading.insert(conn, hello.is_some().then(|| answer.clone()));
                        if let Some(hello) = hello {
                            self.tell(Input::Received { conn, bytes: &hello });
                            return Ok(());
                        }
                        Ok((conn, None))
                    }
                    Err(Rejected::RetryAfter(us)) => Err(Duration::from_micros(us)),
                    Err(_) => Err(Duration::from_secs(1)),
                };
                let _ = answer.try_send(admitted);
            }
        }
        Ok(())
    }

    /// Closes a connection, and does not wait for it
    fn hang_up(&mut self, pump: Pump, reason: Reason) {
        match pump.close(reason.close_code()) {
            Some(farewell) if self.stopping => self.farewells.push(farewell),
            Some(farewell) => farewell.detach(),
            None => {}
        }
    }

    fn tell(&mut self, input: Input<'_>) {
        #[allow(clippy::wildcard_enum_match_arm, reason = "the others are not about transports")]
        match &input {
            Input::Received { conn, .. } => Seen::Hears.by_coordinator(self.address, *conn),
            Input::Closed { conn } => Seen::Lost.by_coordinator(self.address, *conn),
            _ => {}
        }
        expected(self.machine.handle(self.clock.now(), input));
    }
}

/// Brings records to the journal: at once, or in groups on a thread of their own where syncing takes time
///
/// A group is synced as soon as none is being synced; what comes meanwhile is the next group (JOURN-1).
struct Writer<J> {
    /// Where it is while nothing is being synced
    journal: Option<J>,
    waits: bool,
    pending: Vec<Box<[u8]>>,
    /// The last record handed over, and the last one that is synced or being synced
    upto: u64,
    synced_upto: u64,
    syncing: Option<smol::Task<(J, io::Result<u64>)>>,
}

impl<J: Journal> Writer<J> {
    fn new(journal: J) -> Self {
        let waits = journal.waits();
        Writer { journal: Some(journal), waits, pending: Vec::new(), upto: 0, synced_upto: 0, syncing: None }
    }

    fn append(&mut self, seq: u64, record: &[u8]) -> io::Result<()> {
        self.upto = seq;
        match &mut self.journal {
            Some(journal) if !self.waits => journal.append(record),
            Some(_) | None => {
                self.pending.push(record.into());
                Ok(())
            }
        }
    }

    /// Syncs what is pending, or begins to; returns what has become durable on the spot
    fn sync(&mut self) -> io::Result<Option<u64>> {
        if self.upto == self.synced_upto || self.syncing.is_some() {
            return Ok(None);
        }
        let (group, upto) = (std::mem::take(&mut self.pending), self.upto);
        self.synced_upto = upto;
        if !self.waits {
            self.journal.as_mut().map_or(Ok(()), Journal::sync)?;
            return Ok(Some(upto));
        }
        let Some(mut journal) = self.journal.take() else { return Ok(None) };
        self.syncing = Some(smol::unblock(move || {
            let synced = group.iter().try_for_each(|record| journal.append(record)).and_then(|()| journal.sync());
            (journal, synced.map(|()| upto))
        }));
        Ok(None)
    }

    /// Waits for the end of a sync; may be dropped and called again
    async fn synced(&mut self) -> io::Result<u64> {
        let Some(syncing) = &mut self.syncing else { return smol::future::pending().await };
        let (journal, synced) = syncing.await;
        self.syncing = None;
        self.journal = Some(journal);
        synced
    }

    /// Whether everything handed over is durable
    fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.syncing.is_none()
    }
}

/// What happens on connections is refused only after the journal has failed
fn expected(result: Result<(), Rejected>) {
    if let Err(rejected) = result {
        tracing::debug!(%rejected, "too late");
    }
}

fn address_of(peer: SocketAddr) -> Address {
    match peer.ip() {
        IpAddr::V4(v4) => Address::v4(v4.octets()),
        IpAddr::V6(v6) => Address(v6.octets()),
    }
}
