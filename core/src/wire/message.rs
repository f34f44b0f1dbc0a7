//! Messages and how a frame's body carries a batch of them (FRAME-3, FRAME-6)
//!
//! | bytes | what |
//! | --- | --- |
//! | 2 | length of the payload, little endian |
//! | 1 | class: 0 control, 1 numbered, 2 loose; bit 7 is set when the message may be skipped by a peer that does not know it |
//! | 8 | the number, little endian; only for numbered messages (SESS-1) |
//! | n | the payload: one value in postcard's format |
//!
//! A numbered message without payload is VOID: its cause is gone, its number is not (SESS-3).
//!
//! The enums below are closed. A variant is never renumbered and its fields never change; new ones are appended.

use serde::{Deserialize, Serialize};

use crate::ids::{SessionId, TaskId, Token};
use crate::limits::{
    BODY_BYTES_MAX, CHUNKS_SINCE, DIGEST_SINCE, FORGOTTEN_SINCE, MESSAGE_BYTES_MAX, TERMS_SINCE, WIRE_VERSION_OLDEST,
};
use crate::terms::Conditions;
use crate::wire::view::Question;

const ITEM_HEAD_BYTES: usize = 3;
const NUMBER_BYTES: usize = 8;
const CLASS_IGNORABLE: u8 = 0x80;

/// How a message takes part in the session
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// About the connection itself; a [`Control`]
    Control,
    /// Reliable, with its number in the session
    Numbered(u64),
    /// Replaceable by a newer one, or resumed by offset
    Loose,
}

/// One message of a batch, not yet decoded
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<'a> {
    /// How it takes part in the session
    pub class: Class,
    /// Whether a peer that cannot decode it may go on
    pub ignorable: bool,
    /// The encoded message; empty for VOID
    pub payload: &'a [u8],
}

impl<'a> Item<'a> {
    /// Decodes the payload completely, borrowing from it
    pub fn decode<T: Deserialize<'a>>(&self) -> Option<T> {
        match postcard::take_from_bytes(self.payload) {
            Ok((value, [])) => Some(value),
            _ => None,
        }
    }
}

/// Writes a batch into the room for a frame's body
#[derive(Debug)]
pub struct BodyWriter<'a> {
    buf: &'a mut [u8],
    len: usize,
}

impl<'a> BodyWriter<'a> {
    /// Starts an empty body; no more than [`BODY_BYTES_MAX`] bytes of `buf` are used
    pub fn new(buf: &'a mut [u8]) -> Self {
        let cap = buf.len().min(BODY_BYTES_MAX);
        BodyWriter { buf: &mut buf[..cap], len: 0 }
    }

    /// Appends a message; `false` and no change if it does not fit any more
    pub fn push<T: Serialize>(&mut self, class: Class, message: &T) -> bool {
        let at = self.head_end(class);
        let end = self.buf.len().min(at + MESSAGE_BYTES_MAX);
        let Some(room) = self.buf.get_mut(at..end) else {
            return false;
        };
        let Ok(len) = postcard::to_slice(message, room).map(|used| used.len()) else {
            return false;
        };
        self.finish(class, at, len);
        true
    }

    /// Appends a number whose cause is gone (SESS-3)
    pub fn push_void(&mut self, number: u64) -> bool {
        let at = self.head_end(Class::Numbered(number));
        if at > self.buf.len() {
            return false;
        }
        self.finish(Class::Numbered(number), at, 0);
        true
    }

    /// Returns the bytes written so far
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was written yet
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn head_end(&self, class: Class) -> usize {
        self.len + ITEM_HEAD_BYTES + if matches!(class, Class::Numbered(_)) { NUMBER_BYTES } else { 0 }
    }

    fn finish(&mut self, class: Class, at: usize, len: usize) {
        let head = &mut self.buf[self.len..at];
        head[..2].copy_from_slice(&(len as u16).to_le_bytes());
        head[2] = match class {
            Class::Control => 0,
            Class::Numbered(number) => {
                head[ITEM_HEAD_BYTES..].copy_from_slice(&number.to_le_bytes());
                1
            }
            Class::Loose => 2,
        };
        self.len = at + len;
    }
}

/// Reads a body, item by item
#[derive(Clone, Debug)]
pub struct BodyReader<'a> {
    rest: &'a [u8],
}

impl<'a> BodyReader<'a> {
    /// Starts at the body's first item
    pub fn new(body: &'a [u8]) -> Self {
        BodyReader { rest: body }
    }
}

impl<'a> Iterator for BodyReader<'a> {
    type Item = Result<Item<'a>, BadBody>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = split_item(self.rest);
        self.rest = item.map_or(&[], |(_, rest)| rest);
        Some(item.map(|(item, _)| item).ok_or(BadBody))
    }
}

/// A body that is not a batch of items
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBody;

fn split_item(bytes: &[u8]) -> Option<(Item<'_>, &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<ITEM_HEAD_BYTES>()?;
    let len = usize::from(u16::from_le_bytes([head[0], head[1]]));
    let (class, rest) = match head[2] & !CLASS_IGNORABLE {
        0 => (Class::Control, rest),
        1 => {
            let (number, rest) = rest.split_first_chunk::<NUMBER_BYTES>()?;
            (Class::Numbered(u64::from_le_bytes(*number)), rest)
        }
        2 => (Class::Loose, rest),
        _ => return None,
    };
    if len > MESSAGE_BYTES_MAX {
        return None;
    }
    let (payload, rest) = rest.split_at_checked(len)?;
    Some((Item { class, ignorable: head[2] & CLASS_IGNORABLE != 0, payload }, rest))
}

/// About the connection and its session, in both directions
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Control {
    /// M4, first sealed frame of the coordinator
    Welcome(Welcome),
    /// The peer is not wanted; sealed, so that it may be final (AUTH-2)
    Denied(Denied),
    /// First answer to a welcome; confirms the session (AUTH-8)
    Confirm {
        /// The generation welcomed to
        generation: u64,
    },
    /// From here on the sender numbers from 1 in this session (AUTH-3)
    Begin {
        /// The session just opened
        session: SessionId,
    },
    /// Every number up to this one was taken in; said by the coordinator, durably so (SESS-2)
    Ack {
        /// The highest such number
        received: u64,
    },
    /// What the peer may still send
    Credit(Credit),
    /// Heartbeat; wants an echo (LIVE-1)
    Beat {
        /// Meaningful to its sender only
        stamp: u64,
        /// Repeated here so that no lost message can stall the peer (LANES-2)
        credit: Credit,
    },
    /// The answer to a heartbeat
    Echo {
        /// As it came
        stamp: u64,
        /// Repeated here so that no lost message can stall the peer (LANES-2)
        credit: Credit,
    },
    /// The sender leaves and wants nothing any more: its session ends here (TASK-8)
    Bye,
    /// The worker holds a lease, renewed with each echo; right behind `Welcome`, since wire version 2 (TASK-4)
    Lease {
        /// For so many microseconds from the sending of what was answered
        ttl_us: u64,
        /// Within so many microseconds of its end everything exclusive must be over
        grace_us: u64,
    },
    /// What the worker holds, as a number; in the frame of each `Beat`, since wire version 2 (SESS-8)
    Digest {
        /// Highest number of the coordinator's taken in
        received: u64,
        /// Highest number given, all of them sent on this connection
        sent: u64,
        /// XOR of the [marks](crate::drift::mark) of all attempts held and not reported as over
        held: u64,
    },
    /// The worker is to say what it holds, since wire version 2 (SESS-8)
    Compare,
    /// The coordinator ends by plan, and another one goes on; its last word, since wire version 2 (BACK-3)
    GoAway {
        /// Not to be dialled before so many microseconds
        slot_us: u64,
    },
    /// How long workers go between failures, in the mean; behind `Welcome` and when that has become half as long, since wire
    /// version 2 (LIVE-6)
    Mtbf {
        /// So many microseconds
        mean_us: u64,
    },
    /// The key that follows from this connection's handshake is durable here: keep it, and use it from the next
    /// connection on; to workers, since wire version 2 (AUTH-6)
    NextKey,
}

/// Absolute totals, never lowered (LANES-2)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credit {
    /// Tasks that may be assigned in this session
    pub tasks: u64,
    /// Highest message number that may be used in this session
    pub messages: u64,
    /// Bulk bytes that may be sent on this connection
    ///
    /// Per connection, unlike the others: what a cut swallowed would never be accounted for in a total of the session.
    pub bulk: u64,
}

/// M4: the peer is known, and this is how things stand
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Counts the connections of this session (SESS-4)
    pub generation: u64,
    /// `Some(received)` when the session goes on; `None` when a new one was opened
    pub resumed: Option<u64>,
    /// Period of heartbeats, in microseconds (LIVE-1)
    pub heartbeat_us: u64,
    /// Upper bound of the first pause after the coordinator closed or reset a connection, in microseconds (BACK-1)
    pub spread_us: u64,
    /// How long the coordinator keeps the session after a disconnection, in microseconds (SESS-9)
    pub lifetime_us: u64,
    /// What the coordinator grants
    pub credit: Credit,
}

/// Why a peer is not wanted
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Denied {
    /// The key was revoked
    Revoked,
    /// The peer was removed by an operator
    Removed,
    /// Another holder of the same key took this one's place (AUTH-4)
    TakenOver,
    /// No common version
    Version,
    /// The peer's settings contradict the coordinator's
    Config,
    /// Another connection under this name is alive; come back (AUTH-4)
    Busy {
        /// Not before this many microseconds
        retry_after_us: u64,
    },
    /// A sealed frame broke the rules; the session has ended (FRAME-2)
    Protocol,
    /// The join token's time is over, or too many have come with it, since wire version 2 (AUTH-6)
    Spent,
}

impl Denied {
    /// Whether the peer must stop for good (AUTH-2)
    pub fn is_final(self) -> bool {
        match self {
            Denied::Revoked
            | Denied::Removed
            | Denied::TakenOver
            | Denied::Version
            | Denied::Config
            | Denied::Spent => true,
            Denied::Busy { .. } | Denied::Protocol => false,
        }
    }
}

/// How a task ended, or an attempt at it
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// As it should
    Succeeded,
    /// Not as it should
    Failed(Failure),
    /// On request
    Cancelled,
}

/// What went wrong
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Failure {
    /// It ended with this exit status
    Exit(i32),
    /// It was ended by this signal
    Signal(i32),
    /// It ran longer than allowed
    TimedOut,
    /// It could not be started; the result says why
    CannotStart,
    /// It wrote more to a stream than allowed (LOG-1)
    OutputTooLarge,
    /// Its result exceeds what may be sent (FRAME-3)
    ResultTooLarge,
    /// Its worker crashed each time it ran (TASK-6)
    Poisonous,
    /// Its workers were lost too often (TASK-6)
    WorkerLost,
    /// Something else; the result says what
    Error,
    /// It reported nothing for longer than allowed (LIVE-4); since wire version 2
    Stalled,
}

impl Outcome {
    /// As a peer knows it that speaks this version
    pub(crate) fn spoken_in(self, version: u16) -> Outcome {
        match self {
            Outcome::Failed(Failure::Stalled) if version < TERMS_SINCE => Outcome::Failed(Failure::TimedOut),
            Outcome::Succeeded | Outcome::Failed(_) | Outcome::Cancelled => self,
        }
    }
}

/// Length and digest of an output stream, once it is complete (LOG-1)
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamEnd {
    /// All its bytes
    pub len: u64,
    /// Their SHA-256; zeroes when the stream is empty
    pub sha256: [u8; 32],
}

/// Output streams of a task
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output
    Out,
    /// Standard error
    Err,
}

impl Stream {
    /// Both, in the order in which arrays hold them
    pub const ALL: [Stream; 2] = [Stream::Out, Stream::Err];

    /// Position in arrays that hold something for each stream
    pub const fn index(self) -> usize {
        match self {
            Stream::Out => 0,
            Stream::Err => 1,
        }
    }
}

/// From worker to coordinator
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromWorker<'a> {
    /// Part of what the worker holds, after a session was opened (SESS-7)
    Inventory {
        /// Counts the parts from 0
        part: u16,
        /// Whether this is the last part
        last: bool,
        /// Highest number of the coordinator's taken in when it was made
        cut: u64,
        /// [`InventoryItem`]s, one behind the other
        #[serde(with = "serde_bytes", borrow)]
        items: &'a [u8],
    },
    /// The task runs; newest value wins
    Running {
        /// Which attempt
        token: Token,
        /// Whatever number the task last reported, 0 before
        progress: u64,
    },
    /// The attempt is over; kept by the worker until settled
    Result {
        /// Which task
        task: TaskId,
        /// Which attempt
        token: Token,
        /// How it ended
        outcome: Outcome,
        /// What it returned, or a sentence on what went wrong
        #[serde(with = "serde_bytes", borrow)]
        result: &'a [u8],
        /// Its complete output streams
        streams: [StreamEnd; 2],
    },
    /// Not started, and not going to be (TASK-9)
    GivenBack {
        /// Which attempt
        token: Token,
    },
    /// A piece of an output stream; loose (LOG-1)
    Output {
        /// Which attempt
        token: Token,
        /// Which stream
        stream: Stream,
        /// Where the bytes stand in it
        offset: u64,
        /// The bytes
        #[serde(with = "serde_bytes", borrow)]
        bytes: &'a [u8],
    },
    /// What the worker offers, before its inventory; nothing before that (TASK-9)
    Offers {
        /// Encoded [`Tags`](crate::about::Tags)
        #[serde(with = "serde_bytes", borrow)]
        tags: &'a [u8],
    },
    /// The worker takes nothing new, gives back what has not started, and leaves when all is settled (TASK-8)
    Draining,
    /// A checkpoint of a running attempt; newest value wins (CKPT-1)
    Checkpoint {
        /// Which attempt
        token: Token,
        /// Rises with each checkpoint of the task
        number: u64,
        /// The bytes
        #[serde(with = "serde_bytes", borrow)]
        bytes: &'a [u8],
    },
    /// A checkpoint too large for a message: what it consists of; loose, again on each connection until answered (CKPT-1)
    ///
    /// From here on: since wire version 2.
    Offer {
        /// Which attempt
        token: Token,
        /// Rises with each checkpoint of the task
        number: u64,
        /// All its bytes
        length: u64,
        /// The name of each chunk, one behind the other
        #[serde(with = "serde_bytes", borrow)]
        names: &'a [u8],
    },
    /// A piece of a checkpoint, of a chunk that is missing; loose (CKPT-1)
    Piece {
        /// Which attempt
        token: Token,
        /// Which checkpoint
        number: u64,
        /// Where the bytes stand in it
        offset: u64,
        /// The bytes
        #[serde(with = "serde_bytes", borrow)]
        bytes: &'a [u8],
    },
    /// What is missing of the checkpoint from which an attempt is to start; loose (CKPT-4)
    RestoreNeed {
        /// Which attempt
        token: Token,
        /// Which checkpoint
        number: u64,
        /// A bit for each chunk, lowest first
        #[serde(with = "serde_bytes", borrow)]
        wanted: &'a [u8],
    },
    /// A chunk of the checkpoint from which an attempt is to start has another content than its name says; loose (CKPT-4)
    RestoreBad {
        /// Which attempt
        token: Token,
        /// Which checkpoint
        number: u64,
    },
    /// What the worker holds, in answer to [`Control::Compare`]; loose (SESS-8)
    Holdings {
        /// Highest number of the coordinator's taken in
        received: u64,
        /// Highest number given, all of them sent on this connection
        sent: u64,
        /// Task and token of each attempt held and not reported as over, one behind the other
        #[serde(with = "serde_bytes", borrow)]
        items: &'a [u8],
    },
    /// An attempt is over, and what it returned goes in chunks; in the place of `Result`, and numbered like that (FRAME-3)
    LargeResult {
        /// Which task
        task: TaskId,
        /// Which attempt
        token: Token,
        /// How it ended
        outcome: Outcome,
        /// All bytes of what it returned
        length: u64,
        /// The name of each chunk, one behind the other
        #[serde(with = "serde_bytes", borrow)]
        names: &'a [u8],
        /// Its complete output streams
        streams: [StreamEnd; 2],
    },
}

impl FromWorker<'_> {
    /// First wire version in which it may be said (FRAME-6)
    pub fn since(&self) -> u16 {
        match self {
            FromWorker::Offer { .. }
            | FromWorker::Piece { .. }
            | FromWorker::RestoreNeed { .. }
            | FromWorker::RestoreBad { .. }
            | FromWorker::LargeResult { .. } => CHUNKS_SINCE,
            FromWorker::Holdings { .. } => DIGEST_SINCE,
            FromWorker::Inventory { .. }
            | FromWorker::Running { .. }
            | FromWorker::Result { .. }
            | FromWorker::GivenBack { .. }
            | FromWorker::Output { .. }
            | FromWorker::Offers { .. }
            | FromWorker::Draining
            | FromWorker::Checkpoint { .. } => WIRE_VERSION_OLDEST,
        }
    }

    /// Whether it has no number: a newer one replaces it, or it is resumed by offset (SESS-1)
    pub fn is_loose(&self) -> bool {
        match self {
            FromWorker::Output { .. }
            | FromWorker::Offer { .. }
            | FromWorker::Piece { .. }
            | FromWorker::RestoreNeed { .. }
            | FromWorker::RestoreBad { .. }
            | FromWorker::Holdings { .. } => true,
            FromWorker::Inventory { .. }
            | FromWorker::Running { .. }
            | FromWorker::Result { .. }
            | FromWorker::LargeResult { .. }
            | FromWorker::GivenBack { .. }
            | FromWorker::Offers { .. }
            | FromWorker::Draining
            | FromWorker::Checkpoint { .. } => false,
        }
    }
}

/// What a worker holds of one attempt (SESS-7)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InventoryItem {
    /// Which task
    pub task: TaskId,
    /// Which attempt
    pub token: Token,
    /// Its number among the task's attempts
    pub attempt: u32,
    /// How far it is
    pub held: Held,
}

/// How far an attempt is at its worker
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Held {
    /// Not started
    Waiting,
    /// Started, with the last progress reported
    Running {
        /// Whatever number the task last reported, 0 before
        progress: u64,
    },
    /// Over; the result waits
    Finished,
}

/// From coordinator to worker
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToWorker<'a> {
    /// Run this
    Assign {
        /// Which task
        task: TaskId,
        /// The attempt's fencing token
        token: Token,
        /// Its number among the task's attempts, from 1
        attempt: u32,
        /// 0 is the most urgent
        priority: u8,
        /// A checkpoint follows, from which it is to start; not before that (CKPT-4)
        restores: bool,
        /// The task's input
        #[serde(with = "serde_bytes", borrow)]
        payload: &'a [u8],
    },
    /// Stop this; the outcome comes as a result (TASK-7)
    Cancel {
        /// Which attempt
        token: Token,
        /// Why
        reason: CancelReason,
    },
    /// Give this back if it has not started (TASK-9)
    Recall {
        /// Which attempt
        token: Token,
    },
    /// What to do with an item of the inventory (SESS-7)
    Verdict {
        /// Which attempt
        token: Token,
        /// What to do
        verdict: Verdict,
    },
    /// The result is durable, or of no use any more: forget the attempt (TASK-3)
    Settled {
        /// Which attempt
        token: Token,
        /// What became of the result
        settlement: Settlement,
        /// The task's outcome, once it has one
        outcome: Option<Outcome>,
    },
    /// Output up to here is durable; loose, newest wins (LOG-1)
    Kept {
        /// Which attempt
        token: Token,
        /// Which stream
        stream: Stream,
        /// All bytes below are kept
        offset: u64,
    },
    /// Start from this checkpoint; ignored for what has started (CKPT-4)
    Restore {
        /// Which attempt
        token: Token,
        /// The checkpoint's number; those of this attempt go on above it
        number: u64,
        /// Its bytes
        #[serde(with = "serde_bytes", borrow)]
        bytes: &'a [u8],
    },
    /// What became of a checkpoint (CKPT-1)
    Checkpointed {
        /// Which attempt
        token: Token,
        /// Which checkpoint
        number: u64,
        /// Why it was not taken; `None` when it is durable
        refused: Option<CheckpointRefused>,
    },
    /// Somebody wants this worker to drain (TASK-8)
    Drain,
    /// What is missing of a checkpoint that was offered; loose (CKPT-1)
    ///
    /// From here on: since wire version 2.
    Need {
        /// Which attempt
        token: Token,
        /// Which checkpoint
        number: u64,
        /// A bit for each chunk, lowest first
        #[serde(with = "serde_bytes", borrow)]
        wanted: &'a [u8],
    },
    /// A checkpoint too large for a message from which an attempt is to start; loose, again on each connection (CKPT-4)
    RestoreOffer {
        /// Which attempt
        token: Token,
        /// The checkpoint's number; those of this attempt go on above it
        number: u64,
        /// All its bytes; 0 if there is none that can be read, so that the attempt starts from the beginning
        length: u64,
        /// The name of each chunk, one behind the other
        #[serde(with = "serde_bytes", borrow)]
        names: &'a [u8],
    },
    /// A piece of it, of a chunk that is missing; loose (CKPT-4)
    RestorePiece {
        /// Which attempt
        token: Token,
        /// Which checkpoint
        number: u64,
        /// Where the bytes stand in it
        offset: u64,
        /// The bytes
        #[serde(with = "serde_bytes", borrow)]
        bytes: &'a [u8],
    },
    /// Run this, under terms that concern its worker; in the place of `Assign`, and numbered like that (TASK-4, TASK-5)
    AssignUnder {
        /// Which task
        task: TaskId,
        /// The attempt's fencing token
        token: Token,
        /// Its number among the task's attempts, from 1
        attempt: u32,
        /// 0 is the most urgent
        priority: u8,
        /// A checkpoint follows, from which it is to start; not before that (CKPT-4)
        restores: bool,
        /// What the worker has to keep to
        conditions: Conditions,
        /// The task's input
        #[serde(with = "serde_bytes", borrow)]
        payload: &'a [u8],
    },
    /// Run this, once its large input has come; in the place of `Assign`, and numbered like that (FRAME-3)
    ///
    /// The worker asks for the input by `RestoreNeed` with the number 0, on each connection until it is there.
    AssignLarge {
        /// Which task
        task: TaskId,
        /// The attempt's fencing token
        token: Token,
        /// Its number among the task's attempts, from 1
        attempt: u32,
        /// 0 is the most urgent
        priority: u8,
        /// A checkpoint follows, from which it is to start; not before that (CKPT-4)
        restores: bool,
        /// What the worker has to keep to
        conditions: Conditions,
        /// What comes beside the large input
        #[serde(with = "serde_bytes", borrow)]
        payload: &'a [u8],
        /// All bytes of the large input
        length: u64,
        /// The name of each of its chunks, one behind the other
        #[serde(with = "serde_bytes", borrow)]
        names: &'a [u8],
    },
}

impl ToWorker<'_> {
    /// First wire version in which it may be said (FRAME-6)
    pub fn since(&self) -> u16 {
        match self {
            ToWorker::Need { .. } | ToWorker::RestoreOffer { .. } | ToWorker::RestorePiece { .. } => CHUNKS_SINCE,
            ToWorker::AssignUnder { .. } => TERMS_SINCE,
            ToWorker::AssignLarge { .. } => CHUNKS_SINCE,
            ToWorker::Checkpointed { refused: Some(CheckpointRefused::Damaged), .. } => CHUNKS_SINCE,
            ToWorker::Assign { .. }
            | ToWorker::Cancel { .. }
            | ToWorker::Recall { .. }
            | ToWorker::Verdict { .. }
            | ToWorker::Settled { .. }
            | ToWorker::Kept { .. }
            | ToWorker::Restore { .. }
            | ToWorker::Checkpointed { .. }
            | ToWorker::Drain => WIRE_VERSION_OLDEST,
        }
    }

    /// Whether it has no number: a newer one replaces it, or it is resumed by offset (SESS-1)
    pub fn is_loose(&self) -> bool {
        match self {
            ToWorker::Kept { .. }
            | ToWorker::Need { .. }
            | ToWorker::RestoreOffer { .. }
            | ToWorker::RestorePiece { .. } => true,
            ToWorker::Assign { .. }
            | ToWorker::AssignUnder { .. }
            | ToWorker::AssignLarge { .. }
            | ToWorker::Cancel { .. }
            | ToWorker::Recall { .. }
            | ToWorker::Verdict { .. }
            | ToWorker::Settled { .. }
            | ToWorker::Restore { .. }
            | ToWorker::Checkpointed { .. }
            | ToWorker::Drain => false,
        }
    }
}

/// Why a checkpoint was not taken; the attempt goes on (CKPT-2)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CheckpointRefused {
    /// The attempt is not the task's newest, or has made a newer one
    Stale,
    /// It has more bytes than are taken
    TooLarge,
    /// All checkpoints together would have more bytes than the coordinator holds
    Full,
    /// A chunk had another content than its name says: it changed while it was sent; since wire version 2
    Damaged,
}

/// Why a task is stopped
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CancelReason {
    /// Its submitter asked for it
    Requested,
    /// Another attempt ended the task, or took its place
    Replaced,
}

/// What to do with an item of the inventory
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// Go on; the output streams are kept up to here
    Keep {
        /// Offsets kept
        kept: [u64; 2],
    },
    /// Send the result; the output streams are kept up to here
    SendResult {
        /// Offsets kept
        kept: [u64; 2],
    },
    /// Stop it if it runs, and forget it
    Discard,
}

/// What became of a result
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Settlement {
    /// It is the task's outcome, or a failed attempt that will be followed by another
    Applied,
    /// It is the task's outcome already
    Duplicate,
    /// Its token had been retired (TASK-3)
    Stale,
}

/// What a submitter asks for beside the input
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskSpec {
    /// 0 is the most urgent; below [`crate::limits::PRIORITIES`]
    pub priority: u8,
    /// How often a failed attempt is followed by another; losing a worker never counts (TASK-6)
    pub retries: u32,
}

/// From client to coordinator
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromClient<'a> {
    /// Accept this task, or confirm that it was accepted (TASK-1)
    Submit {
        /// The key of idempotence
        task: TaskId,
        /// How to treat it
        spec: TaskSpec,
        /// An encoded [`About`](crate::about::About); may be empty
        #[serde(with = "serde_bytes", borrow)]
        about: &'a [u8],
        /// Its input
        #[serde(with = "serde_bytes", borrow)]
        payload: &'a [u8],
        /// What to tell of it
        follow: Follow,
    },
    /// Tell me what becomes of it
    Watch {
        /// Which task
        task: TaskId,
        /// How much of that
        follow: Follow,
    },
    /// Stop it (TASK-7)
    Cancel {
        /// Which task
        task: TaskId,
    },
    /// Output up to here has been taken; loose, newest wins (LOG-1)
    Taken {
        /// Which task
        task: TaskId,
        /// Which attempt
        token: Token,
        /// Which stream
        stream: Stream,
        /// All bytes below are taken
        offset: u64,
    },
    /// Answer a question about the coordinator
    Ask {
        /// Names the answer; used once in a session
        ask: u64,
        /// What is wanted
        question: Question,
    },
    /// Accept this task, whose large input follows in chunks; in the place of `Submit` (FRAME-3)
    ///
    /// From here on: since wire version 2.
    SubmitLarge {
        /// The key of idempotence
        task: TaskId,
        /// How to treat it
        spec: TaskSpec,
        /// An encoded [`About`](crate::about::About); may be empty
        #[serde(with = "serde_bytes", borrow)]
        about: &'a [u8],
        /// What comes beside the large input; together with the names at most [`crate::limits::INLINE_BYTES_MAX`]
        #[serde(with = "serde_bytes", borrow)]
        payload: &'a [u8],
        /// All bytes of the large input
        length: u64,
        /// The name of each of its chunks, one behind the other
        #[serde(with = "serde_bytes", borrow)]
        names: &'a [u8],
        /// What to tell of it
        follow: Follow,
    },
    /// A piece of a large input, of a chunk that is missing; loose (FRAME-3)
    InputPiece {
        /// Which task
        task: TaskId,
        /// Where the bytes stand in the input
        offset: u64,
        /// The bytes
        #[serde(with = "serde_bytes", borrow)]
        bytes: &'a [u8],
    },
}

impl FromClient<'_> {
    /// First wire version in which it may be said (FRAME-6)
    pub fn since(&self) -> u16 {
        match self {
            FromClient::SubmitLarge { .. } | FromClient::InputPiece { .. } => CHUNKS_SINCE,
            FromClient::Submit { .. }
            | FromClient::Watch { .. }
            | FromClient::Cancel { .. }
            | FromClient::Taken { .. }
            | FromClient::Ask { .. } => WIRE_VERSION_OLDEST,
        }
    }

    /// Whether it has no number: a newer one replaces it, or it is resumed by offset (SESS-1)
    pub fn is_loose(&self) -> bool {
        match self {
            FromClient::Taken { .. } | FromClient::InputPiece { .. } => true,
            FromClient::Submit { .. }
            | FromClient::Watch { .. }
            | FromClient::Cancel { .. }
            | FromClient::Ask { .. }
            | FromClient::SubmitLarge { .. } => false,
        }
    }
}

/// What a client is told about a task
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Follow {
    /// That it was accepted, and nothing after that
    #[default]
    Acceptance,
    /// Also that it runs, and how it ended
    Outcome,
    /// Also what it writes
    Output,
}

/// From coordinator to client
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToClient<'a> {
    /// The task is durable (TASK-1)
    Accepted {
        /// Which task
        task: TaskId,
    },
    /// The request was not carried out
    Refused {
        /// Which task
        task: TaskId,
        /// Why
        reason: Refused,
    },
    /// An attempt runs; newest value wins
    Progress {
        /// Which task
        task: TaskId,
        /// Which attempt, from 1
        attempt: u32,
        /// Whatever number the task last reported
        progress: u64,
    },
    /// A piece of the newest attempt's output; loose (LOG-1)
    Output {
        /// Which task
        task: TaskId,
        /// Which attempt; a new one starts again at offset 0
        token: Token,
        /// Which stream
        stream: Stream,
        /// Where the bytes stand in it
        offset: u64,
        /// The bytes
        #[serde(with = "serde_bytes", borrow)]
        bytes: &'a [u8],
    },
    /// The task is over
    Outcome {
        /// Which task
        task: TaskId,
        /// The attempt that ended it; 0 if none ever ran
        attempt: u32,
        /// Its token, whose output is the task's
        token: Option<Token>,
        /// How it ended
        outcome: Outcome,
        /// What it returned
        #[serde(with = "serde_bytes", borrow)]
        result: &'a [u8],
        /// Its complete output streams
        streams: [StreamEnd; 2],
    },
    /// The answer to a question, as things stand when it leaves
    Answer {
        /// Which question
        ask: u64,
        /// What the question says it is answered by
        #[serde(with = "serde_bytes", borrow)]
        answer: &'a [u8],
    },
    /// The task is over, and all else of it has been forgotten: its result, and what had not been sent of its output (JOURN-5)
    Forgotten {
        /// Which task
        task: TaskId,
        /// How it ended
        outcome: Outcome,
    },
    /// The task is over, and what it returned is fetched in pieces; in the place of `Outcome` (FRAME-3)
    ///
    /// Since wire version 2.
    LargeOutcome {
        /// Which task
        task: TaskId,
        /// The attempt that ended it
        attempt: u32,
        /// Its token, whose output is the task's
        token: Token,
        /// How it ended
        outcome: Outcome,
        /// All bytes of what it returned
        length: u64,
        /// Its complete output streams
        streams: [StreamEnd; 2],
    },
    /// What is missing of a large input; loose, again on each connection (FRAME-3)
    ///
    /// Since wire version 2.
    InputNeed {
        /// Which task
        task: TaskId,
        /// A bit for each chunk, lowest first
        #[serde(with = "serde_bytes", borrow)]
        wanted: &'a [u8],
    },
}

impl ToClient<'_> {
    /// Whether it has no number: it is resumed by offset (SESS-1)
    pub fn is_loose(&self) -> bool {
        match self {
            ToClient::Output { .. } | ToClient::InputNeed { .. } => true,
            ToClient::Accepted { .. }
            | ToClient::Refused { .. }
            | ToClient::Progress { .. }
            | ToClient::Outcome { .. }
            | ToClient::Answer { .. }
            | ToClient::LargeOutcome { .. }
            | ToClient::Forgotten { .. } => false,
        }
    }

    /// First wire version in which it may be said (FRAME-6)
    pub fn since(&self) -> u16 {
        match self {
            ToClient::Forgotten { .. } => FORGOTTEN_SINCE,
            ToClient::LargeOutcome { .. }
            | ToClient::InputNeed { .. }
            | ToClient::Refused { reason: Refused::Damaged, .. } => CHUNKS_SINCE,
            ToClient::Accepted { .. }
            | ToClient::Refused { .. }
            | ToClient::Progress { .. }
            | ToClient::Output { .. }
            | ToClient::Outcome { .. }
            | ToClient::Answer { .. } => WIRE_VERSION_OLDEST,
        }
    }
}

/// Why a client's request was not carried out
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refused {
    /// The same id stands for another content (TASK-1)
    Conflict,
    /// No such task
    Unknown,
    /// The coordinator holds as many tasks as it may; later
    Full,
    /// The input exceeds [`crate::limits::INLINE_BYTES_MAX`], or [`crate::limits::BLOB_BYTES_MAX`] where it goes in chunks
    TooLarge,
    /// The specification is out of range
    BadSpec,
    /// A chunk of a large input had another content than its name says: it changed while it was sent; since wire version 2
    Damaged,
}
