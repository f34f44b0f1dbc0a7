//! A connection to a running coordinator, as commands of people need it: with patience, and with reasons

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use rejoin_core::backoff::BackoffConfig;
use rejoin_core::client::Config;
use rejoin_core::ids::{PeerName, Role, TaskId};
use rejoin_core::link::{LinkState, Reason};
use rejoin_core::wire::view::{Page, Question, RotationView, StatusView, TaskView, WorkerView};
use rejoin_smol::client::{Connection, Told};
use serde::Deserialize;
use smol::future::FutureExt;

use crate::args::Reach;
use crate::report::{EXIT_INTERNAL, EXIT_USAGE};
use crate::say::complain;
use crate::{access, keys};

/// How long the first connection may take where nothing else was asked for
const FIRST_PATIENCE: Duration = Duration::from_secs(30);
/// Longest pause between two dials: somebody waits for the answer
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How long the coordinator may be away before that is worth a word
const QUIET: Duration = Duration::from_secs(2);
/// How long a farewell may take
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a command cannot go on
#[derive(Debug)]
pub enum Failed {
    /// It was called with something that cannot be used, such as a file that holds no key
    Usage(String),
    /// There was no coordinator for too long
    Unreachable(String),
    /// The coordinator refused for good
    Refused(Reason),
    /// Anything else
    Internal(String),
}

impl Failed {
    /// The exit status that says so
    pub fn status(&self) -> u8 {
        match self {
            Failed::Usage(_) => EXIT_USAGE,
            Failed::Unreachable(_) | Failed::Refused(_) | Failed::Internal(_) => EXIT_INTERNAL,
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failed::Usage(message) | Failed::Internal(message) => f.write_str(message),
            Failed::Unreachable(why) => write!(f, "cannot reach the coordinator: {why}"),
            Failed::Refused(reason) => write!(f, "the coordinator refused this client: {reason}"),
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Failed::Internal(error.to_string())
    }
}

/// A client of a running coordinator
pub struct Caller {
    connection: Connection,
    /// How long to be without a coordinator, once there was one; for ever if absent
    patience: Option<Duration>,
    first: Duration,
    was_connected: bool,
    away_since: Option<Instant>,
    told_away: bool,
    waiting: Vec<Told>,
}

impl Caller {
    /// Makes a client that dials when it is first waited for
    ///
    /// One that follows tasks is patient for ever once it was connected, unless a patience was asked for.
    pub fn new(reach: &Reach, follows: bool) -> Result<Caller, Failed> {
        let key = keys::load_key(&reach.access.key).map_err(|error| Failed::Usage(error.to_string()))?;
        if key.role != Role::Client {
            let message =
                format!("{}: this is a worker's key; make one with --role client", reach.access.key.display());
            return Err(Failed::Usage(message));
        }
        let endpoints = reach.access.coordinators.clone();
        let (mut link, trust) = access::link(&reach.access, key)?;
        link.backoff = BackoffConfig { cap: PAUSE_MAX, late_cap: PAUSE_MAX, ..BackoffConfig::default() };
        let connection = Connection::new(endpoints, Config::new(link))?.trusting(trust);
        let first = reach.patience.unwrap_or(FIRST_PATIENCE);
        Ok(Caller {
            connection,
            patience: reach.patience.or((!follows).then_some(FIRST_PATIENCE)),
            first,
            was_connected: false,
            away_since: None,
            told_away: false,
            waiting: Vec::new(),
        })
    }

    /// The connection itself
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// Whether the coordinator is there now
    pub fn is_connected(&self) -> bool {
        self.connection.state() == LinkState::Connected
    }

    /// How long there has been no coordinator
    pub fn away_for(&self) -> Duration {
        self.away_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Waits for the next thing to be told; may be dropped and called again
    pub async fn next(&mut self) -> Result<Told, Failed> {
        if !self.waiting.is_empty() {
            return Ok(self.waiting.remove(0));
        }
        loop {
            let told = async { Some(self.connection.next().await) };
            let tick = async {
                smol::Timer::after(Duration::from_millis(100)).await;
                None
            };
            match told.or(tick).await {
                Some(Ok(told)) => {
                    self.look()?;
                    return Ok(told);
                }
                Some(Err(reason)) => return Err(Failed::Refused(reason)),
                None => self.look()?,
            }
        }
    }

    /// Looks whether there is a coordinator, and how long there was none
    fn look(&mut self) -> Result<(), Failed> {
        if self.is_connected() {
            if std::mem::take(&mut self.told_away) {
                complain("the coordinator is back");
            }
            (self.was_connected, self.away_since) = (true, None);
            return Ok(());
        }
        let away = self.away_since.get_or_insert_with(Instant::now).elapsed();
        let patience = if self.was_connected { self.patience } else { Some(self.first) };
        // A key that is not known does not become known by waiting.
        let hopeless = !self.was_connected && self.connection.is_slow();
        if hopeless || patience.is_some_and(|patience| away >= patience) {
            return Err(Failed::Unreachable(self.trouble()));
        }
        if away >= QUIET && !std::mem::replace(&mut self.told_away, true) {
            complain(&format!("waiting for the coordinator: {}", self.trouble()));
        }
        Ok(())
    }

    fn trouble(&self) -> String {
        self.connection.trouble().unwrap_or_else(|| "no answer yet".into())
    }

    /// Asks a question, and waits for its answer
    pub async fn ask<T: for<'de> Deserialize<'de>>(&mut self, question: &Question) -> Result<T, Failed> {
        let ask = self.begin(question)?;
        self.answer_to(ask).await
    }

    /// Asks a question, to wait for its answer later
    pub fn begin(&mut self, question: &Question) -> Result<u64, Failed> {
        self.connection.ask(question).map_err(|error| Failed::Internal(error.to_string()))
    }

    /// Waits for an answer
    pub async fn answer_to<T: for<'de> Deserialize<'de>>(&mut self, ask: u64) -> Result<T, Failed> {
        let answer = self.answer(ask).await?;
        decode(&answer)
    }

    async fn answer(&mut self, ask: u64) -> Result<Vec<u8>, Failed> {
        let mut others = std::mem::take(&mut self.waiting);
        let answer = loop {
            match self.next().await? {
                Told::Answer { ask: to, answer } if to == ask => break answer,
                other @ (Told::Answer { .. } | Told::Event(_) | Told::Piece { .. }) => others.push(other),
            }
        };
        self.waiting = others;
        Ok(answer)
    }

    /// The coordinator as a whole
    pub async fn status(&mut self) -> Result<StatusView, Failed> {
        self.ask(&Question::Status).await
    }

    /// All workers
    pub async fn workers(&mut self) -> Result<Vec<WorkerView>, Failed> {
        let mut all: Vec<WorkerView> = Vec::new();
        loop {
            let after = all.last().map(|worker| worker.name.clone());
            if self.page(&Question::Workers { after }, &mut all).await? {
                return Ok(all);
            }
        }
    }

    /// All tasks, or those that have no outcome
    pub async fn tasks(&mut self, open: bool) -> Result<Vec<TaskView>, Failed> {
        let mut all: Vec<TaskView> = Vec::new();
        loop {
            let after = all.last().map_or(0, |task| task.position);
            if self.page(&Question::Tasks { after, open }, &mut all).await? {
                return Ok(all);
            }
        }
    }

    /// One task, if it is known
    pub async fn task(&mut self, task: TaskId) -> Result<Option<TaskView>, Failed> {
        self.ask(&Question::Task(task)).await
    }

    /// Has a worker drained; `false` if there is none of this name
    pub async fn drain(&mut self, worker: &PeerName) -> Result<bool, Failed> {
        self.ask(&Question::Drain(worker.clone())).await
    }

    /// Has a worker given another key
    pub async fn rotate_key(&mut self, worker: &PeerName) -> Result<RotationView, Failed> {
        self.ask(&Question::RotateKey(worker.clone())).await
    }

    /// Adds a page's items; `true` if it was the last
    async fn page<T: for<'de> Deserialize<'de>>(
        &mut self,
        question: &Question,
        all: &mut Vec<T>,
    ) -> Result<bool, Failed> {
        let ask = self.begin(question)?;
        let answer = self.answer(ask).await?;
        let Page { last, mut items } = decode(&answer)?;
        while !items.is_empty() {
            let (item, rest) = postcard::take_from_bytes(items).map_err(|_| foreign())?;
            all.push(item);
            items = rest;
        }
        Ok(last)
    }

    /// Says goodbye, so that the coordinator need not remember this client
    pub async fn leave(mut self) {
        self.connection.leave();
        let gone = async { while self.connection.next().await.is_ok() {} };
        let late = async {
            smol::Timer::after(FAREWELL).await;
        };
        gone.or(late).await;
    }
}

fn decode<'a, T: Deserialize<'a>>(answer: &'a [u8]) -> Result<T, Failed> {
    postcard::from_bytes(answer).map_err(|_| foreign())
}

fn foreign() -> Failed {
    Failed::Internal("the coordinator's answer cannot be read: it is of another version".into())
}
