//! The coordinator: the machine, its port, and its journal

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rejoin_core::Rejected;
use rejoin_core::coordinator::{Address, Config, Coordinator, Counts, Event, Input, Output, PeerView};
use rejoin_core::ids::{ConnId, TaskId, Token};
use rejoin_core::limits::FRAME_BYTES_MAX;
use rejoin_core::stats::CoordinatorStats;
use rejoin_core::wire::message::{Outcome, StreamEnd, TaskSpec};
use smol::channel::{Receiver, Sender, bounded, unbounded};
use smol::future::FutureExt;
use smol::net::TcpListener;

use crate::clock::{Clock, entropy, seed};
use crate::http::{self, Limits, Upgraded};
use crate::journal::{Journal, OutputStore};
use crate::pump::{Pump, Queue, Report};

/// Events taken in between two drains, so that one connection cannot starve the others, nor all of them the timers
const BATCH: usize = 256;
/// Events that may wait to be taken in
const QUEUE: usize = 256;

/// Something that happened, with what the machine knows of it
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A task is over
    Ended(Ended),
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
    /// What it returned
    pub result: Vec<u8>,
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
    Submit { task: TaskId, spec: TaskSpec, payload: Vec<u8>, answer: Sender<Result<(), Rejected>> },
    Cancel { tasks: Vec<TaskId>, answer: Sender<Result<(), Rejected>> },
    Forget { task: TaskId, answer: Sender<Result<(), Rejected>> },
    Overview { answer: Sender<Overview> },
    Admit { address: Address, answer: Sender<Result<ConnId, Duration>> },
}

impl Handle {
    /// Submits a task; accepted once [`Event::Accepted`] was told
    pub async fn submit(&self, task: TaskId, spec: TaskSpec, payload: Vec<u8>) -> Result<(), Rejected> {
        self.ask(|answer| Ask::Submit { task, spec, payload, answer }).await
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

/// A coordinator on its port; dropping it ends it
pub struct Server {
    handle: Handle,
    notices: Receiver<Notice>,
    address: SocketAddr,
    running: smol::Task<io::Result<()>>,
}

impl Server {
    /// Starts to serve a port
    ///
    /// Whoever starts it must read [`Server::notices`] to the end: they are not bounded.
    pub async fn start<J: Journal + 'static>(
        listen: SocketAddr,
        config: Config,
        journal: J,
        outputs: OutputStore,
    ) -> io::Result<Server> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let (asks, asked) = bounded(QUEUE);
        let (notices, noticed) = unbounded();
        let clock = Clock::start();
        let machine = Coordinator::new(config, seed()?, clock.now()).map_err(io::Error::other)?;
        let (upgraded_to, upgraded) = bounded(QUEUE);
        let handle = Handle { asks };
        let door = smol::spawn(serve(listener, handle.clone(), upgraded_to));
        let desk = Desk {
            clock,
            machine,
            journal,
            outputs,
            conns: BTreeMap::new(),
            next_conn: 0,
            reports: bounded(QUEUE),
            asked,
            upgraded,
            notices,
            frame: vec![0; FRAME_BYTES_MAX],
            piece: vec![0; FRAME_BYTES_MAX],
            _door: door,
        };
        Ok(Server { handle, notices: noticed, address, running: smol::spawn(desk.run()) })
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

    /// Waits until it has ended, which it does by itself only when its journal fails
    ///
    /// Ask once.
    pub async fn ended(&mut self) -> io::Result<()> {
        (&mut self.running).await
    }
}

async fn serve(listener: TcpListener, handle: Handle, upgraded: Sender<Upgraded<ConnId>>) -> io::Result<()> {
    let admit = move |peer: SocketAddr| {
        let handle = handle.clone();
        async move {
            let (answer, answered) = bounded(1);
            let asked = handle.asks.send(Ask::Admit { address: address_of(peer), answer }).await;
            let later = Err(Duration::from_secs(1));
            if asked.is_err() { later } else { answered.recv().await.unwrap_or(later) }
        }
    };
    http::serve(listener, Limits::default(), admit, upgraded).await
}

struct Desk<J> {
    clock: Clock,
    machine: Coordinator,
    journal: J,
    outputs: OutputStore,
    conns: BTreeMap<ConnId, Pump>,
    next_conn: u64,
    reports: Queue<(ConnId, Report)>,
    asked: Receiver<Ask>,
    upgraded: Receiver<Upgraded<ConnId>>,
    notices: Sender<Notice>,
    frame: Vec<u8>,
    piece: Vec<u8>,
    _door: smol::Task<io::Result<()>>,
}

/// What the coordinator wakes up for
enum Wake {
    Report(ConnId, Report),
    Ask(Ask),
    Upgraded(Box<Upgraded<ConnId>>),
    Time,
}

impl<J: Journal> Desk<J> {
    async fn run(mut self) -> io::Result<()> {
        loop {
            let wake_at = match self.drain() {
                Ok(wake_at) => wake_at,
                Err(error) => return self.fail(error),
            };
            let wake = self.next_wake(wake_at).await;
            self.take(wake)?;
            for _ in 1..BATCH {
                let Some(wake) = self.try_wake() else { break };
                self.take(wake)?;
            }
        }
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

    /// Does what the machine asks for, until it asks for nothing and all its records are durable
    fn drain(&mut self) -> io::Result<Option<rejoin_core::Instant>> {
        let mut unsynced = None;
        loop {
            match self.machine.poll(&mut self.frame) {
                Output::Journal { seq, record } => {
                    self.journal.append(record)?;
                    unsynced = Some(seq);
                }
                Output::Send { conn, bytes } => {
                    if self.conns.get(&conn).is_some_and(|pump| !pump.send(bytes)) {
                        self.tell(Input::Writable { conn, writable: false });
                    }
                }
                Output::Close { conn, reason } => {
                    if let Some(pump) = self.conns.remove(&conn) {
                        pump.close(reason.close_code());
                    }
                }
                Output::ReadOutput { token, stream, offset, max } => {
                    let read = self.outputs.read_at(token, stream, offset, &mut self.piece[..max as usize])?;
                    let input = Input::OutputRead { token, stream, offset, bytes: &self.piece[..read] };
                    expected(self.machine.handle(self.clock.now(), input));
                }
                Output::Event(event) => self.notify(event),
                Output::Idle { wake_at } => match unsynced.take() {
                    // One sync for all records of a drain; what they were waited for comes out in the next one.
                    Some(upto) => {
                        self.journal.sync()?;
                        self.tell(Input::Journaled { upto });
                    }
                    None => return Ok(wake_at),
                },
            }
        }
    }

    fn notify(&mut self, event: Event) {
        let Event::Ended { task } = event else {
            return self.notice(Notice::Event(event));
        };
        if let Some(end) = self.machine.task(task).and_then(|view| view.end) {
            let ended = Ended {
                task,
                outcome: end.outcome,
                token: end.token,
                attempt: end.attempt,
                result: end.result.into(),
                streams: end.streams,
            };
            self.notice(Notice::Ended(ended));
        }
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
        report.or(upgraded).or(ask).or(time).await
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
            Wake::Upgraded(upgraded) => match upgraded.socket {
                Some(socket) => {
                    let conn = upgraded.admitted;
                    self.conns.insert(conn, Pump::start(socket, conn, self.reports.0.clone()));
                }
                None => self.tell(Input::Closed { conn: upgraded.admitted }),
            },
            Wake::Ask(ask) => self.answer(ask)?,
            Wake::Time => {
                let arriving: Vec<_> =
                    self.conns.iter_mut().filter_map(|(conn, pump)| pump.is_arriving().then_some(*conn)).collect();
                arriving.into_iter().for_each(|conn| self.tell(Input::Arriving { conn }));
                self.tell(Input::Timeout);
            }
        }
        Ok(())
    }

    fn answer(&mut self, ask: Ask) -> io::Result<()> {
        let now = self.clock.now();
        // Whoever asked may have gone away meanwhile.
        match ask {
            Ask::Submit { task, spec, payload, answer } => {
                let _ = answer.try_send(self.machine.handle(now, Input::Submit { task, spec, payload: &payload }));
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
            Ask::Overview { answer } => {
                let counts = self.machine.counts();
                let (stats, peers) = (self.machine.stats(), self.machine.peers().collect());
                let _ = answer.try_send(Overview { counts, stats, peers });
            }
            Ask::Admit { address, answer } => {
                self.next_conn += 1;
                let conn = ConnId(self.next_conn);
                let entropy = entropy()?;
                let admitted = match self.machine.handle(now, Input::Accepted { conn, address, entropy }) {
                    Ok(()) => Ok(conn),
                    Err(Rejected::RetryAfter(us)) => Err(Duration::from_micros(us)),
                    Err(_) => Err(Duration::from_secs(1)),
                };
                let _ = answer.try_send(admitted);
            }
        }
        Ok(())
    }

    fn tell(&mut self, input: Input<'_>) {
        expected(self.machine.handle(self.clock.now(), input));
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
