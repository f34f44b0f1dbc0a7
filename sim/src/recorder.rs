//! Looks at messages for those who want to see them: what each says, and what becomes of it
//!
//! A message is known again by its bytes, which no other one has: each has a tag of its own. So nothing needs to go with
//! the bytes through the virtual sockets, and what a fault does to them is seen as an end sees it.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{Hash, Hasher};

use rejoin_core::ids::{Role, TaskId, Token};
use rejoin_core::journal::{Record, homes_of};
use rejoin_core::wire::handshake::{Hello, Proof};
use rejoin_core::wire::message::{Control, ToWorker};

use crate::net::Side;
use crate::schedule::Node;
use crate::tap::{Handshake, Message, Said, messages, short};
use crate::trace::{Arrival, Line, Stage, Told};

/// Most lines that are kept of one message
const LINES_MAX: usize = 64;

/// What is known of messages and names, while somebody looks
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder {
    sent: usize,
    /// Messages that have not arrived, by connection and who is to receive them: number, and hash of their bytes
    under_way: BTreeMap<(u64, Node), VecDeque<(usize, u64)>>,
    /// All that have arrived, by the hash of their bytes
    arrived: BTreeMap<u64, usize>,
    /// The last that arrived in its place
    last: BTreeMap<(u64, Node), usize>,
    names: BTreeMap<TaskId, u32>,
    attempts: BTreeMap<Token, u32>,
    scratch: Vec<u8>,
}

fn hash_of(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

impl Recorder {
    pub(crate) fn learn(&mut self, told: &Told) {
        if let Told::Task { task, stage: Stage::Submitted(id), .. } = told {
            self.names.insert(*id, *task);
        }
    }

    pub(crate) fn sent(&mut self, from: Node, to: Node, conn: u64, message: &[u8]) -> Told {
        let number = self.sent;
        self.sent += 1;
        self.under_way.entry((conn, to)).or_default().push_back((number, hash_of(message)));
        Told::Sent { from, to, conn, bytes: message.len(), message: number, says: self.says(from, to, message) }
    }

    /// Finds out which message it is, and what has befallen it
    pub(crate) fn received(&mut self, by: Node, from: Node, conn: u64, message: &[u8]) -> Told {
        let hash = hash_of(message);
        let under_way = self.under_way.entry((conn, by)).or_default();
        let (message_number, arrival) = match under_way.iter().position(|(_, sent)| *sent == hash) {
            Some(position) => {
                let number = under_way.remove(position).map_or(0, |(number, _)| number);
                let last = self.last.entry((conn, by)).or_insert(number);
                let in_place = *last <= number;
                *last = number.max(*last);
                self.arrived.insert(hash, number);
                (Some(number), if in_place { Arrival::InPlace } else { Arrival::OutOfPlace })
            }
            None => match self.arrived.get(&hash) {
                Some(number) => (Some(*number), Arrival::Again),
                // Bytes keep their order, so it is most likely what was sent next.
                None => (under_way.pop_front().map(|(number, _)| number), Arrival::Altered),
            },
        };
        Told::Received { by, from, conn, bytes: message.len(), message: message_number, arrival }
    }

    fn says(&mut self, from: Node, to: Node, message: &[u8]) -> Vec<Line> {
        let (peer, towards) =
            if to == Node::Coordinator && from != to { (from, Side::Coordinator) } else { (to, Side::Peer) };
        let role = if matches!(peer, Node::Client(_)) { Role::Client } else { Role::Worker };
        let (names, attempts) = (&self.names, &mut self.attempts);
        let name = |id: TaskId| names.get(&id).copied();
        let mut lines = Vec::new();
        messages(message, role, towards, &mut self.scratch, |said| {
            if let Some(Message::ToWorker(
                ToWorker::Assign { task, token, .. }
                | ToWorker::AssignUnder { task, token, .. }
                | ToWorker::AssignLarge { task, token, .. },
            )) = said.message()
                && let Some(task) = names.get(task)
            {
                attempts.insert(*token, *task);
            }
            if lines.len() < LINES_MAX {
                let known = said.message().and_then(|message| {
                    message.task().and_then(name).or_else(|| attempts.get(&message.token()?).copied())
                });
                lines.push(line(&said, known, &name));
            }
        });
        lines
    }

    pub(crate) fn durable(&self, record: &Record<'_>) -> Told {
        let number = |id: &TaskId| self.names.get(id).copied();
        let name = |id: &TaskId| number(id).map_or_else(|| format!("task {id}"), |task| format!("task {task}"));
        let (task, record) = match record {
            Record::Epoch { epoch, .. } => (None, format!("Epoch {epoch}")),
            Record::Tokens { below } => (None, format!("Tokens below {below}")),
            Record::Lease { ttl_us, grace_us } => (None, format!("Lease of {ttl_us} µs, grace {grace_us} µs")),
            Record::Restored { from, below, waits } => {
                let waits = if *waits { "unknown leases may be in force" } else { "no unknown lease is in force" };
                (None, format!("Restored, tokens {from}..{below} may have been given, {waits}"))
            }
            Record::Submit { task, .. } => (number(task), format!("Submit {}", name(task))),
            Record::SubmitLarge { task, length, .. } => {
                (number(task), format!("Submit {} with {length} bytes", name(task)))
            }
            Record::Assign { task, token, attempt, worker } => {
                (number(task), format!("Assign {} {token} attempt {attempt} to {worker}", name(task)))
            }
            Record::Result { task, attempt, outcome, last, .. } => {
                let last = if *last { ", the last" } else { "" };
                (number(task), format!("Result {} attempt {attempt} {outcome:?}{last}", name(task)))
            }
            Record::Cancel { task } => (number(task), format!("Cancel {}", name(task))),
            Record::Forget { task } => (number(task), format!("Forget {}", name(task))),
            Record::Output { task, token, offset, bytes, .. } => {
                (number(task), format!("Output {} {token} {offset}..{}", name(task), offset + bytes.len() as u64))
            }
            Record::Checkpoint { task, token, number: n, .. } => {
                (number(task), format!("Checkpoint {} {token} number {n}", name(task)))
            }
            Record::Piece { task, home, offset, bytes } => {
                let end = offset + bytes.len() as u64;
                (number(task), format!("Piece {} chunk {home} {offset}..{end}", name(task)))
            }
            Record::Chunk { task, home, .. } => (number(task), format!("Chunk {} chunk {home} is whole", name(task))),
            Record::Manifest { task, token, number: n, length, .. } => {
                (number(task), format!("Manifest {} {token} number {n}, {length} bytes", name(task)))
            }
            Record::Forgotten { task, outcome, .. } => (number(task), format!("Forgotten {} {outcome:?}", name(task))),
            Record::Lapsed { task } => (number(task), format!("Lapsed {}", name(task))),
            Record::Unreadable { task } => (number(task), format!("Unreadable {}", name(task))),
            Record::Gone { task, homes } => {
                (number(task), format!("Gone {} {} chunks", name(task), homes_of(homes).count()))
            }
        };
        Told::Durable { record, task }
    }
}

fn line(said: &Said<'_>, task: Option<u32>, name: &dyn Fn(TaskId) -> Option<u32>) -> Line {
    let mut text = said.with_names(name).to_string();
    if let Some(task) = task
        && said.message().is_some_and(|message| message.task().is_none())
    {
        text.push_str(&format!(" (task {task})"));
    }
    let session = match said {
        Said::Control(Control::Begin { session }) => Some(session),
        Said::Handshake(Handshake::Hello(Hello { session, .. })) => session.as_ref(),
        Said::Handshake(Handshake::Proof(Proof { resume })) => resume.as_ref().map(|resume| &resume.session),
        Said::Handshake(_) | Said::Control(_) | Said::Void(_) | Said::Numbered(..) | Said::Loose(_) => None,
        Said::Unreadable => None,
    };
    let welcome = match said {
        Said::Control(Control::Welcome(welcome)) => Some((welcome.generation, welcome.resumed.is_some())),
        Said::Handshake(_) | Said::Control(_) | Said::Void(_) | Said::Numbered(..) | Said::Loose(_) => None,
        Said::Unreadable => None,
    };
    Line { text, verb: said.verb(), task, session: session.map(|id| short(id).to_string()), welcome }
}
