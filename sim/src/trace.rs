//! A fingerprint of all that happens, and, where it is asked for, what that was

use std::fmt;

use rejoin_core::Instant;
use rejoin_core::ids::{TaskId, Token};

use crate::recorder::Recorder;
use crate::schedule::{Fault, Node, What};

/// Something that happened, for those who look at it
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A machine's time had come
    Woken(Node),
    /// A message left an end
    Sent {
        /// From whom
        from: Node,
        /// To whom
        to: Node,
        /// On which connection
        conn: u64,
        /// Its bytes
        bytes: usize,
        /// Counts the messages from 0
        message: usize,
        /// What it says
        says: Vec<Line>,
    },
    /// A message reached an end
    Received {
        /// By whom
        by: Node,
        /// From whom
        from: Node,
        /// On which connection
        conn: u64,
        /// Its bytes
        bytes: usize,
        /// Which message it is, or was before it was altered; none for what no machine has sent
        message: Option<usize>,
        /// How it arrived
        arrival: Arrival,
    },
    /// A peer dialled; no connection where nobody was there to take it
    Dialled(Node, Option<u64>),
    /// Both ends have a connection
    Opened {
        /// Which one
        conn: u64,
        /// Who dialled; none for a stranger
        peer: Option<Node>,
    },
    /// An end closed its connection, for the reason that was told last
    HungUp(Node, u64),
    /// An end learned that its connection is gone
    Lost(Node, u64),
    /// A process began
    Started(Node),
    /// A process ended with all it knew
    Died(Node),
    /// Something of a task
    Task {
        /// At whom
        at: Node,
        /// Its number in the schedule
        task: u32,
        /// What
        stage: Stage,
    },
    /// A record of the coordinator became durable
    Durable {
        /// What it says
        record: String,
        /// Which task it is about
        task: Option<u32>,
    },
    /// From here on something else is looked at
    Phase(&'static str),
    /// Anything else, in words
    Note(Node, String),
    /// Something breaks
    Fault(Fault),
}

impl Told {
    /// Whom it is about
    pub fn nodes(&self) -> impl Iterator<Item = Node> {
        let (one, other) = match *self {
            Told::Sent { from: one, to: other, .. } | Told::Received { by: one, from: other, .. } => {
                (Some(one), Some(other))
            }
            Told::Opened { peer, .. } => (peer, None),
            Told::Woken(node)
            | Told::Dialled(node, _)
            | Told::HungUp(node, _)
            | Told::Lost(node, _)
            | Told::Started(node)
            | Told::Died(node)
            | Told::Task { at: node, .. }
            | Told::Note(node, _)
            | Told::Fault(Fault { node, .. }) => (Some(node), None),
            Told::Durable { .. } => (Some(Node::Coordinator), None),
            Told::Phase(_) => (None, None),
        };
        one.into_iter().chain(other)
    }
}

/// How a message arrived
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// As it was sent, behind those that were sent before it
    InPlace,
    /// As it was sent, behind one that was sent after it
    OutOfPlace,
    /// Once more
    Again,
    /// Not as it was sent
    Altered,
}

/// One thing that a message says
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// In words
    pub text: String,
    /// Its first word
    pub verb: &'static str,
    /// Number of the task that it is about
    pub task: Option<u32>,
    /// The session, for what tells which one it is
    pub session: Option<String>,
    /// The session's generation, and whether it went on, for a welcome
    pub welcome: Option<(u64, bool)>,
}

/// Where a task stands
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A client submits it
    Submitted(TaskId),
    /// A client asks for it to be stopped
    CancelAsked,
    /// A client knows that it is accepted
    Accepted,
    /// An execution begins
    Started {
        /// Its number
        attempt: u32,
        /// Its token
        token: Token,
    },
    /// An execution makes a checkpoint
    Checkpoint {
        /// Its token
        token: Token,
        /// Behind which step
        step: u8,
    },
    /// An execution is over
    Finished {
        /// Its token
        token: Token,
        /// How it ended
        outcome: String,
    },
    /// A client knows how it ended
    Ended(String),
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Told::Woken(node) => write!(f, "{node}: time has come"),
            Told::Sent { from, to, conn, bytes, message, says } => {
                write!(f, "{from} -> {to}: {bytes} bytes on {conn}, message {message}")?;
                for (n, line) in says.iter().enumerate() {
                    write!(f, "{}{}", if n == 0 { ": " } else { "; " }, line.text)?;
                }
                Ok(())
            }
            Told::Received { by, from, conn, bytes, message, arrival } => {
                write!(f, "{by} <- {from}: {bytes} bytes on {conn}")?;
                if let Some(message) = message {
                    write!(f, ", message {message}")?;
                }
                f.write_str(match arrival {
                    Arrival::InPlace => "",
                    Arrival::OutOfPlace => ", out of place",
                    Arrival::Again => ", once more",
                    Arrival::Altered => ", altered",
                })
            }
            Told::Dialled(node, Some(conn)) => write!(f, "{node}: dials, connection {conn}"),
            Told::Dialled(node, None) => write!(f, "{node}: dials in vain"),
            Told::Opened { conn, peer: Some(peer) } => write!(f, "coordinator: takes connection {conn} of {peer}"),
            Told::Opened { conn, peer: None } => write!(f, "coordinator: takes connection {conn} of a stranger"),
            Told::HungUp(node, conn) => write!(f, "{node}: connection {conn} is closed"),
            Told::Lost(node, conn) => write!(f, "{node}: connection {conn} is gone"),
            Told::Started(node) => write!(f, "{node}: begins"),
            Told::Died(node) => write!(f, "{node}: ends"),
            Told::Task { at, task, stage } => write!(f, "{at}: {}", StageOf { task: *task, stage }),
            Told::Durable { record, .. } => write!(f, "coordinator: durable: {record}"),
            Told::Phase(phase) => write!(f, "phase: {phase}"),
            Told::Note(node, what) => write!(f, "{node}: {what}"),
            Told::Fault(fault) => write!(f, "{}: {}", fault.node, What::Fault(*fault)),
        }
    }
}

/// What a stage says of a task
pub(crate) struct StageOf<'a> {
    pub(crate) task: u32,
    pub(crate) stage: &'a Stage,
}

impl fmt::Display for StageOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let task = self.task;
        match self.stage {
            Stage::Submitted(_) => write!(f, "submits task {task}"),
            Stage::CancelAsked => write!(f, "cancels task {task}"),
            Stage::Accepted => write!(f, "knows that task {task} is accepted"),
            Stage::Started { attempt, token } => write!(f, "starts task {task}, attempt {attempt}, {token}"),
            Stage::Checkpoint { token, step } => {
                write!(f, "task {task} makes a checkpoint behind step {step}, {token}")
            }
            Stage::Finished { token, outcome } => write!(f, "task {task} is over: {outcome}, {token}"),
            Stage::Ended(outcome) => write!(f, "knows that task {task} ended: {outcome}"),
        }
    }
}

/// The rolling fingerprint (S29)
///
/// Everything that enters or leaves a machine goes into it, with its time: two runs with the same one were the same.
/// What is only recorded does not, so that it is the same whether somebody looks or not.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    hash: u64,
    recorder: Option<Box<Recorder>>,
    steps: Vec<(Instant, u64, Told)>,
}

impl Trace {
    /// One that records from the start
    pub(crate) fn recording() -> Trace {
        Trace { recorder: Some(Box::default()), ..Trace::default() }
    }

    /// Takes something in without words
    pub(crate) fn mix(&mut self, value: u64) {
        self.hash = (self.hash.rotate_left(23) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    pub(crate) fn mix_bytes(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut eight = [0; 8];
            eight.copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(eight));
        }
        chunks.remainder().iter().for_each(|byte| self.mix(u64::from(*byte)));
    }

    // What goes into the fingerprint.

    pub(crate) fn woken(&mut self, at: Instant, node: Node) {
        self.note(at, 1, |_| Told::Woken(node));
    }

    /// A message leaves an end
    pub(crate) fn sent(&mut self, at: Instant, from: Node, to: Node, conn: u64, message: &[u8]) {
        let mark = 2 ^ conn << 8 ^ (message.len() as u64) << 32;
        self.note(at, mark, |recorder| recorder.sent(from, to, conn, message));
    }

    /// A message reaches an end
    pub(crate) fn received(&mut self, at: Instant, by: Node, from: Node, conn: u64, message: &[u8]) {
        let mark = 3 ^ conn << 8 ^ (message.len() as u64) << 32;
        self.note(at, mark, |recorder| recorder.received(by, from, conn, message));
    }

    /// Words that are only made where somebody wants them
    pub(crate) fn note_with(&mut self, at: Instant, node: Node, what: impl FnOnce() -> String) {
        self.note(at, 4, |_| Told::Note(node, what()));
    }

    /// An execution begins
    pub(crate) fn starts(&mut self, at: Instant, by: Node, task: u32, attempt: u32, token: Token) {
        self.note(at, 4, |_| Told::Task { at: by, task, stage: Stage::Started { attempt, token } });
    }

    pub(crate) fn fault(&mut self, at: Instant, fault: Fault) {
        self.note(at, 5, |_| Told::Fault(fault));
    }

    fn note(&mut self, at: Instant, mark: u64, told: impl FnOnce(&mut Recorder) -> Told) {
        self.mix(at.as_micros());
        self.mix(mark);
        if let Some(recorder) = &mut self.recorder {
            let told = told(recorder);
            self.steps.push((at, self.hash, told));
        }
    }

    // What is only recorded.

    /// Something that is only for those who look, and costs nothing otherwise
    pub(crate) fn see(&mut self, at: Instant, told: impl FnOnce() -> Told) {
        if let Some(recorder) = &mut self.recorder {
            let told = told();
            recorder.learn(&told);
            self.steps.push((at, self.hash, told));
        }
    }

    /// A record of the coordinator becomes durable
    pub(crate) fn durable(&mut self, at: Instant, record: &rejoin_core::journal::Record<'_>) {
        if let Some(recorder) = &self.recorder {
            let told = recorder.durable(record);
            self.steps.push((at, self.hash, told));
        }
    }

    /// The fingerprint of all so far
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// What was recorded: when, the fingerprint behind it, and what it was
    pub fn steps(&self) -> &[(Instant, u64, Told)] {
        &self.steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Profile, generate};
    use crate::recorded::Recorded;
    use crate::simulation::Simulation;

    #[test]
    fn the_fingerprint_is_the_same_whether_somebody_looks_or_not() {
        let schedule = generate(7, Profile::Standard);
        let quiet = Simulation::run(&schedule);
        let run = Recorded::run(&schedule, None).unwrap();
        assert!(run.failure.is_none());
        let trace = run.trace();
        assert_eq!(quiet.hash, trace.hash());
        assert!(quiet.trace.steps().is_empty() && !trace.steps().is_empty());
    }

    #[test]
    fn the_fingerprint_is_a_function_of_what_it_always_was() {
        let mut trace = Trace::default();
        let at = Instant::from_micros(17);
        trace.mix_bytes(b"twelve bytes");
        trace.sent(at, Node::Worker(1), Node::Coordinator, 5, b"abc");
        trace.received(at, Node::Coordinator, Node::Worker(1), 5, b"abc");
        trace.note_with(at, Node::Worker(1), String::new);
        trace.woken(at, Node::Client(0));
        assert_eq!(trace.hash(), 0x2ebb_1949_5c6b_e399);
    }
}
