//! What is done meanwhile: a client that submits tasks, follows them, and compares what they return with what they must

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rejoin_core::about::{About, Tag, Tags};
use rejoin_core::backoff::BackoffConfig;
use rejoin_core::blob::RESULT;
use rejoin_core::client::{Config, Event};
use rejoin_core::ids::{BootId, TaskId};
use rejoin_core::link::{LinkConfig, LinkState};
use rejoin_core::stats::LinkStats;
use rejoin_core::terms::{Class, Terms};
use rejoin_core::wire::message::{Follow, Outcome, TaskSpec};
use rejoin_core::wire::view::Question;
use rejoin_smol::client::{Connection, Told};
use rejoin_smol::clock::entropy;
use rejoin_smol::command::Command;
use rejoin_smol::crowd::{LABEL, PRETEND};
use rejoin_smol::tls::Trust;
use rejoin_smol::url::Endpoint;
use serde_bytes::ByteBuf;
use smol::Timer;
use smol::channel::{Receiver, Sender, unbounded};
use smol::future::FutureExt;

use super::fleet::Fleet;
use super::log::Stamp;
use super::scenario::Trouble;
use super::task::{Work, content};

/// How often the client looks at its counters while nothing happens
const TICK: Duration = Duration::from_millis(50);
/// Most questions of the chatter that are under way; others are asked beside them
const ASKED_MAX: usize = 8;

/// The label by which a task is meant for one worker
pub(crate) const ONLY: &str = "worker";

/// A task to be submitted
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    /// What it does
    pub(crate) work: Work,
    /// Its urgency, 0 the most
    pub(crate) priority: u8,
    /// What executing it twice would do
    pub(crate) class: Class,
    /// Bytes of its input
    pub(crate) input_bytes: u64,
    /// The one worker that may have it
    pub(crate) only: Option<usize>,
    /// For how many milliseconds a lightweight worker is to pretend to do it, in the place of the work
    pub(crate) pretend_ms: Option<u64>,
}

impl Job {
    /// One of ordinary urgency without an input
    pub(crate) fn of(work: Work) -> Job {
        Job { work, priority: 2, class: Class::Idempotent, input_bytes: 0, only: None, pretend_ms: None }
    }

    /// One that a lightweight worker pretends to do
    pub(crate) fn pretended(ms: u64) -> Job {
        Job { pretend_ms: Some(ms), ..Job::of(Work::default()) }
    }
}

/// What is known of a task
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// What it is
    pub(crate) job: Job,
    /// When it was submitted, accepted, and told to have ended
    pub(crate) submitted: Stamp,
    pub(crate) accepted: Option<Stamp>,
    pub(crate) ended: Option<Stamp>,
    /// How often its end was told
    pub(crate) ends: u32,
    /// How it ended
    pub(crate) outcome: Option<Outcome>,
    /// What was wrong with what it returned, or with how it was treated
    pub(crate) wrong: Option<String>,
}

impl Entry {
    /// From its submission to its client's being told of its end, in microseconds
    pub(crate) fn latency(&self) -> Option<u64> {
        Some(self.ended?.since(self.submitted))
    }
}

/// All tasks of a client, by id
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// The tasks
    pub(crate) tasks: BTreeMap<TaskId, Entry>,
    /// How many have ended
    pub(crate) ended: usize,
    /// The connection's counters
    pub(crate) stats: LinkStats,
    /// Answers to questions that were asked only to have something said
    pub(crate) answers: u64,
    /// Such questions that were not answered yet
    pub(crate) unanswered: usize,
    /// Why the client has ended, if it has
    pub(crate) over: Option<String>,
    connected: bool,
}

enum Order {
    Submit(TaskId, Job),
    Chatter(bool),
    Leave,
}

/// A client with a thread of its own
pub(crate) struct Load {
    orders: Sender<Order>,
    book: Arc<Mutex<Book>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

struct Client {
    connection: Connection,
    book: Arc<Mutex<Book>>,
    program: PathBuf,
    marks: PathBuf,
    /// What large results are being fetched: the task of each question, and what came so far
    fetches: BTreeMap<u64, Fetch>,
    chatters: bool,
    /// The questions of the chatter that are under way
    asked: BTreeSet<u64>,
}

/// A large result on its way
struct Fetch {
    task: TaskId,
    length: u64,
    so_far: Vec<u8>,
}

impl Load {
    /// A client on a fleet's `nth` key, by that client's own cable
    pub(crate) fn start(fleet: &Fleet, nth: usize) -> Result<Load, Trouble> {
        let cap = Duration::from_secs(1);
        let slow = BackoffConfig { slow_min: cap, slow_max: cap * 2, ..BackoffConfig::default() };
        Load::with_pauses(fleet, nth, BackoffConfig { cap, late_cap: cap, ..slow })
    }

    /// The same with other pauses between its dials
    pub(crate) fn with_pauses(fleet: &Fleet, nth: usize, pauses: BackoffConfig) -> Result<Load, Trouble> {
        let scheme = if fleet.plan.secure { "wss" } else { "ws" };
        let (key, cable) = &fleet.clients[nth];
        let url = format!("{scheme}://{}", cable.local_addr());
        let endpoint: Endpoint = url.parse().map_err(|error| Trouble::new(format!("{url}: {error}")))?;
        let mut link = LinkConfig::new(key.clone(), BootId(entropy()?), &url);
        link.backoff = pauses;
        let trust = match fleet.certificate() {
            Some(path) => Trust::from_file(&path).map_err(|error| Trouble::new(error.to_string()))?,
            None => Trust::system(),
        };
        let connection = Connection::new(vec![endpoint], Config::new(link))?.trusting(trust);
        let book = Arc::new(Mutex::new(Book::default()));
        let client = Client {
            connection,
            book: book.clone(),
            program: std::env::current_exe()?,
            marks: fleet.marks(),
            fetches: BTreeMap::new(),
            chatters: false,
            asked: BTreeSet::new(),
        };
        let (orders, taken) = unbounded();
        let thread = std::thread::spawn(move || smol::block_on(client.run(taken)));
        Ok(Load { orders, book, thread: Some(thread) })
    }

    /// Submits a task
    pub(crate) fn submit(&self, job: Job) -> Result<TaskId, Trouble> {
        let task = TaskId(entropy()?);
        let entry =
            Entry { job, submitted: Stamp::now(), accepted: None, ended: None, ends: 0, outcome: None, wrong: None };
        self.book().tasks.insert(task, entry);
        self.tell(Order::Submit(task, job))?;
        Ok(task)
    }

    /// Submits so many equal tasks
    pub(crate) fn submit_all(&self, count: usize, job: Job) -> Result<(), Trouble> {
        (0..count).try_for_each(|_| self.submit(job).map(|_| ()))
    }

    /// Asks small questions from now on or not any more, as fast as they are answered
    pub(crate) fn chatter(&self, on: bool) -> Result<(), Trouble> {
        self.tell(Order::Chatter(on))
    }

    fn tell(&self, order: Order) -> Result<(), Trouble> {
        self.orders.try_send(order).map_err(|_| Trouble::new(format!("the client has ended: {:?}", self.book().over)))
    }

    /// What is known
    pub(crate) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tasks that have not ended
    pub(crate) fn open(&self) -> usize {
        let book = self.book();
        book.tasks.len() - book.ended
    }

    /// Whether the client is connected
    pub(crate) fn is_connected(&self) -> bool {
        self.book().connected
    }

    /// Waits until at most so many tasks are open
    pub(crate) async fn down_to(&self, open: usize, within: Duration) -> Result<(), Trouble> {
        let begun = Instant::now();
        while self.open() > open {
            if let Some(why) = &self.book().over {
                return Err(Trouble::new(format!("the client has ended: {why}")));
            }
            if begun.elapsed() > within {
                let left = self.open();
                return Err(Trouble::rule("L1", format!("{left} tasks had not ended {within:?} after the last fault")));
            }
            Timer::after(Duration::from_millis(10)).await;
        }
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.orders.try_send(Order::Leave);
        if let Some(thread) = self.thread.take() {
            // A panic in it shows as tasks that never end.
            let _ = thread.join();
        }
    }
}

impl Client {
    async fn run(mut self, orders: Receiver<Order>) {
        enum Next {
            Told(Told),
            Over(String),
            Order(Order),
            Tick,
        }
        loop {
            let told = async {
                match self.connection.next().await {
                    Ok(told) => Next::Told(told),
                    Err(reason) => Next::Over(reason.to_string()),
                }
            };
            let order = async { Next::Order(orders.recv().await.unwrap_or(Order::Leave)) };
            let tick = async {
                Timer::after(TICK).await;
                Next::Tick
            };
            match order.or(told).or(tick).await {
                Next::Told(told) => self.told(told),
                Next::Order(Order::Submit(task, job)) => self.submit(task, job),
                Next::Order(Order::Chatter(on)) => {
                    self.chatters = on;
                    self.chat();
                }
                Next::Order(Order::Leave) => break,
                Next::Over(why) => {
                    self.book().over = Some(why);
                    return;
                }
                Next::Tick => {}
            }
            let (stats, state) = (self.connection.stats(), self.connection.state());
            let mut book = self.book();
            (book.stats, book.connected) = (stats, state == LinkState::Connected);
            book.unanswered = self.asked.len();
        }
        self.connection.leave();
        let gone = async { while self.connection.next().await.is_ok() {} };
        gone.or(async { _ = Timer::after(Duration::from_secs(1)).await }).await;
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(&mut self, task: TaskId, job: Job) {
        let argv = match job.pretend_ms {
            Some(ms) => vec![PRETEND.into(), ms.to_string().into()],
            None => job.work.argv(&self.program, &self.marks),
        };
        let command = Command { argv, cwd: None, timeout: None, output_bytes_max: 64 << 20 };
        let spec = TaskSpec { priority: job.priority, retries: 0 };
        let terms = Terms { class: job.class, ..Terms::default() };
        let mut needs = Tags::default();
        if let Some(n) = job.only
            && needs.insert(ONLY, Tag::Label(format!("w{n}"))).is_err()
        {
            return self.wrong(task, "its label is none".into());
        }
        if job.pretend_ms.is_some() && needs.insert(LABEL.0, Tag::Label(LABEL.1.into())).is_err() {
            return self.wrong(task, "its label is none".into());
        }
        let about = About { title: "stress".into(), needs, terms };
        let Ok(about) = about.encode() else { return self.wrong(task, "it cannot be described".into()) };
        // What its worker returns is told with its end; what it writes is only counted by the coordinator.
        let done = match job.input_bytes {
            0 => self.connection.submit(task, spec, &about, &command.encode(), Follow::Outcome),
            bytes => {
                let input = content(task.0, 1, bytes);
                self.connection.submit_large(task, spec, &about, &command.encode(), input, Follow::Outcome)
            }
        };
        if let Err(error) = done {
            self.wrong(task, format!("it cannot be submitted: {error}"));
        }
    }

    fn told(&mut self, told: Told) {
        match told {
            Told::Event(Event::Accepted { task }) => {
                let now = Stamp::now();
                if let Some(entry) = self.book().tasks.get_mut(&task) {
                    entry.accepted.get_or_insert(now);
                }
            }
            Told::Event(Event::Refused { task, reason }) => self.wrong(task, format!("it was refused: {reason:?}")),
            Told::Event(Event::Ended { task }) => self.ended(task),
            Told::Event(Event::Forgotten { task }) => self.wrong(task, "it was forgotten".into()),
            Told::Event(Event::Progress { .. }) | Told::Piece { .. } => {}
            Told::Answer { ask, answer } => self.answered(ask, &answer),
        }
    }

    fn ended(&mut self, task: TaskId) {
        let now = Stamp::now();
        let elsewhere = self.connection.elsewhere(task);
        let end = self.connection.end(task).map(|(outcome, result, _)| (outcome, result.to_vec()));
        let Some((outcome, result)) = end else { return };
        {
            let mut book = self.book();
            let Some(entry) = book.tasks.get_mut(&task) else { return };
            (entry.ends, entry.outcome) = (entry.ends + 1, Some(outcome));
            if entry.ends > 1 {
                return;
            }
            entry.ended = Some(now);
        }
        match elsewhere {
            Some(length) => self.fetch(Fetch { task, length, so_far: Vec::new() }),
            None => self.returned(task, &result),
        }
    }

    /// Compares what a task has returned with what it must
    fn returned(&mut self, task: TaskId, result: &[u8]) {
        let mut book = self.book();
        book.ended += 1;
        if let Some(entry) = book.tasks.get_mut(&task) {
            let succeeded = entry.outcome == Some(Outcome::Succeeded);
            if succeeded && result != content(task.0, 0, entry.job.work.result_bytes) {
                entry.wrong.get_or_insert_with(|| format!("{} bytes came that it has not returned", result.len()));
            }
            if !succeeded {
                let why = format!("it ended as {:?}: {}", entry.outcome, String::from_utf8_lossy(result));
                entry.wrong.get_or_insert(why);
            }
        }
        drop(book);
        self.connection.forget(task);
    }

    fn fetch(&mut self, fetch: Fetch) {
        let (task, offset) = (fetch.task, fetch.so_far.len() as u64);
        match self.connection.ask(&Question::CheckpointPiece { task, number: RESULT, offset }) {
            Ok(ask) => _ = self.fetches.insert(ask, fetch),
            Err(error) => self.wrong(task, format!("its result cannot be fetched: {error}")),
        }
    }

    fn answered(&mut self, ask: u64, answer: &[u8]) {
        if self.asked.remove(&ask) {
            self.book().answers += 1;
            return self.chat();
        }
        let Some(mut fetch) = self.fetches.remove(&ask) else { return };
        match postcard::from_bytes::<Option<ByteBuf>>(answer) {
            Ok(Some(piece)) if !piece.is_empty() => fetch.so_far.extend_from_slice(&piece),
            Ok(_) | Err(_) => return self.wrong(fetch.task, "its result is not there".into()),
        }
        if fetch.so_far.len() as u64 >= fetch.length {
            return self.returned(fetch.task, &fetch.so_far);
        }
        self.fetch(fetch);
    }

    fn chat(&mut self) {
        while self.chatters && self.asked.len() < ASKED_MAX {
            let Ok(ask) = self.connection.ask(&Question::Status) else { return };
            self.asked.insert(ask);
        }
    }

    fn wrong(&mut self, task: TaskId, what: String) {
        let mut book = self.book();
        if let Some(entry) = book.tasks.get_mut(&task) {
            entry.wrong.get_or_insert(what);
        }
    }
}
