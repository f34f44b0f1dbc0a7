//! A client: the machine and one WebSocket at a time

use std::collections::BTreeMap;
use std::io;

use rejoin_core::blob::{ChunkName, chunk_name, chunk_span, chunks};
use rejoin_core::client::{Client, Config, Event, Input, Output};
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::limits::{BLOB_BYTES_MAX, FRAME_BYTES_MAX};
use rejoin_core::link::{LinkState, Reason};
use rejoin_core::stats::LinkStats;
use rejoin_core::wire::message::{Follow, Outcome, Stream, StreamEnd, TaskSpec};
use rejoin_core::wire::view::Question;
use rejoin_core::{Instant, Loss, Rejected};
use smol::future::FutureExt;

use crate::clock::{Clock, entropy, seed};
use crate::line::{Line, LineEvent};
use crate::tls::Trust;
use crate::url::Endpoint;

/// What a client has to tell
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// Something about a task
    Event(Event),
    /// A piece of its output; pieces of one stream follow each other without gap or overlap
    Piece {
        /// Which task
        task: TaskId,
        /// Which attempt; another one starts again at offset 0
        token: Token,
        /// Which stream
        stream: Stream,
        /// Where the bytes stand in it
        offset: u64,
        /// The bytes
        bytes: Vec<u8>,
    },
    /// The answer to a question
    Answer {
        /// Which question, as [`Connection::ask`] named it
        ask: u64,
        /// What the question says it is answered by
        answer: Vec<u8>,
    },
}

/// A client connection that lasts: dropped links are its own business
///
/// It lives in whichever task calls [`Connection::next`]; links are kept up only while that is awaited.
pub struct Connection {
    clock: Clock,
    client: Client,
    line: Line,
    asks: u64,
    /// Large inputs of tasks that were not accepted yet
    inputs: BTreeMap<TaskId, Vec<u8>>,
    /// Why the last connection was given up
    gave_up: Option<Reason>,
    frame: Vec<u8>,
}

impl Connection {
    /// Makes a client; it dials when [`Connection::next`] is awaited
    ///
    /// The endpoints are those of `config`, in the same order.
    pub fn new(endpoints: Vec<Endpoint>, config: Config) -> io::Result<Self> {
        let clock = Clock::start();
        let dial_time = config.link.handshake_time;
        let client = Client::new(config, seed()?, clock.now()).map_err(io::Error::other)?;
        let line = Line::new(endpoints, dial_time);
        Ok(Connection {
            clock,
            client,
            line,
            asks: 0,
            inputs: BTreeMap::new(),
            gave_up: None,
            frame: vec![0; FRAME_BYTES_MAX],
        })
    }

    /// Believes others than those that the system believes when a coordinator says by TLS which host it is
    pub fn trusting(self, trust: Trust) -> Self {
        Connection { line: self.line.trusting(trust), ..self }
    }

    /// Has a task done; the same one again is fine (TASK-1)
    pub fn submit(
        &mut self,
        task: TaskId,
        spec: TaskSpec,
        about: &[u8],
        payload: &[u8],
        follow: Follow,
    ) -> Result<(), Rejected> {
        self.client.handle(self.clock.now(), Input::Submit { task, spec, about, payload, follow })
    }

    /// Has a task done that has an input beside its payload, of 1 byte to 16 MiB; the same one again is fine (TASK-1, FRAME-3)
    ///
    /// The input is kept until the task is accepted, or refused.
    pub fn submit_large(
        &mut self,
        task: TaskId,
        spec: TaskSpec,
        about: &[u8],
        payload: &[u8],
        input: Vec<u8>,
        follow: Follow,
    ) -> Result<(), Rejected> {
        let length = input.len() as u64;
        if length > BLOB_BYTES_MAX {
            // Before anything is read.
            return Err(Rejected::TooLarge);
        }
        let spans = (0..chunks(length)).map(|chunk| chunk_span(length, chunk));
        let names: Vec<ChunkName> =
            spans.map(|span| chunk_name(&input[span.start as usize..span.end as usize])).collect();
        let submit = Input::SubmitLarge { task, spec, about, payload, length, names: &names, follow };
        self.client.handle(self.clock.now(), submit)?;
        self.inputs.insert(task, input);
        Ok(())
    }

    /// Follows a task that somebody submitted
    pub fn watch(&mut self, task: TaskId, follow: Follow) -> Result<(), Rejected> {
        self.client.handle(self.clock.now(), Input::Watch { task, follow })
    }

    /// Follows a task no more
    pub fn forget(&mut self, task: TaskId) {
        self.inputs.remove(&task);
        self.tell(Input::Forget { task });
    }

    /// Asks something about the coordinator; returns the name that the answer will bear
    pub fn ask(&mut self, question: &Question) -> Result<u64, Rejected> {
        self.asks += 1;
        self.client.handle(self.clock.now(), Input::Ask { ask: self.asks, question }).map(|()| self.asks)
    }

    /// Leaves for good; [`next`](Self::next) says so in the end
    pub fn leave(&mut self) {
        self.tell(Input::Leave);
    }

    /// Where the connection stands
    pub fn state(&self) -> LinkState {
        self.client.state()
    }

    /// The wire version of the connection; the oldest where there is none (FRAME-6)
    pub fn wire_version(&self) -> u16 {
        self.client.wire_version()
    }

    /// Whether failed handshakes have put it into the slow lane: the key is wrong, or the coordinator is
    pub fn is_slow(&self) -> bool {
        self.client.is_slow()
    }

    /// Why the coordinator cannot be reached at present, if it is known
    pub fn trouble(&self) -> Option<String> {
        self.line.trouble().map(str::to_owned).or(self.gave_up.map(|reason| reason.to_string()))
    }

    /// Asks for a task to be stopped (TASK-7)
    pub fn cancel(&mut self, task: TaskId) -> Result<(), Rejected> {
        self.client.handle(self.clock.now(), Input::Cancel { task })
    }

    /// Returns how a task ended, once that was told
    pub fn end(&self, task: TaskId) -> Option<(Outcome, &[u8], [StreamEnd; 2])> {
        self.client.task(task)?.end
    }

    /// How many bytes a task returned that did not come with its end: [`Question::CheckpointPiece`] fetches them (FRAME-3)
    pub fn elsewhere(&self, task: TaskId) -> Option<u64> {
        self.client.task(task)?.elsewhere
    }

    /// Returns the newest attempt at a task that is known, from 1; 0 before
    pub fn attempt(&self, task: TaskId) -> u32 {
        self.client.task(task).map_or(0, |task| task.attempt)
    }

    /// Returns the counters
    pub fn stats(&self) -> LinkStats {
        self.client.stats()
    }

    /// Waits for the next thing to be told
    ///
    /// An error when the coordinator refused this client for good, or it has left. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Told, Reason> {
        loop {
            let (told, wake_at) = self.drain();
            if let Some(told) = told {
                return Ok(told);
            }
            if let Some(reason) = self.client.stopped() {
                self.line.finish().await;
                return Err(reason);
            }
            let time = async {
                self.clock.wait_until(wake_at).await;
                None
            };
            let happened = async { Some(self.line.next().await) }.or(time).await;
            self.take(happened);
        }
    }

    fn drain(&mut self) -> (Option<Told>, Option<Instant>) {
        loop {
            match self.client.poll(&mut self.frame) {
                Output::Connect { attempt, endpoint } => self.line.connect(attempt, endpoint),
                Output::Disconnect { reason, .. } => {
                    self.gave_up = Some(reason);
                    self.line.disconnect(reason);
                }
                Output::Send { bytes } => {
                    if let Some(attempt) = self.line.send(bytes) {
                        self.tell(Input::Writable { attempt, writable: false });
                    }
                }
                Output::Piece { task, token, stream, offset, bytes } => {
                    let bytes = bytes.into();
                    return (Some(Told::Piece { task, token, stream, offset, bytes }), None);
                }
                Output::Answer { ask, answer } => return (Some(Told::Answer { ask, answer: answer.into() }), None),
                Output::ReadInput { task, offset, max } => {
                    let input = self.inputs.get(&task).map_or(&[][..], |input| &input[offset as usize..]);
                    let bytes = &input[..input.len().min(max as usize)];
                    let read = self.client.handle(self.clock.now(), Input::InputRead { task, offset, bytes });
                    debug_assert!(read.is_ok(), "an answer is never refused");
                }
                Output::Event(event) => {
                    if let Event::Accepted { task } | Event::Refused { task, .. } = event {
                        self.inputs.remove(&task);
                    }
                    return (Some(Told::Event(event)), None);
                }
                Output::Idle { wake_at } => return (None, wake_at),
            }
        }
    }

    /// Takes in what happened; `None` is the passing of time
    fn take(&mut self, happened: Option<LineEvent>) {
        match happened {
            Some(LineEvent::Connected { attempt, binding }) => match entropy() {
                Ok(entropy) => self.tell(Input::Connected { attempt, entropy, binding }),
                Err(_) => self.tell(Input::Disconnected { attempt, loss: Loss::Local }),
            },
            Some(LineEvent::Message { attempt, bytes }) => self.tell(Input::Received { attempt, bytes: &bytes }),
            Some(LineEvent::Disconnected { attempt, loss }) => self.tell(Input::Disconnected { attempt, loss }),
            Some(LineEvent::Writable { attempt }) => self.tell(Input::Writable { attempt, writable: true }),
            None => {
                if let Some(attempt) = self.line.arriving() {
                    self.tell(Input::Arriving { attempt });
                }
                self.tell(Input::Timeout);
            }
        }
    }

    fn tell(&mut self, input: Input<'_>) {
        if let Err(rejected) = self.client.handle(self.clock.now(), input) {
            tracing::debug!(%rejected, "too late");
        }
    }
}
