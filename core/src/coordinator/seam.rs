//! What goes into a coordinator and what comes out of it

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use crate::ids::{ConnId, KeyId, PeerName, TaskId, Token};
use crate::link::Reason;
use crate::stats::LawStats;
use crate::time::Instant;
use crate::wire::keys::Key;
use crate::wire::message::{Outcome, Stream, StreamEnd, TaskSpec};

use super::admission::Address;
use super::tasks::TaskState;

/// What happened
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Somebody connected; refused with [`Rejected::RetryAfter`](crate::Rejected::RetryAfter) when too many do
    Accepted {
        /// A name never used before
        conn: ConnId,
        /// From where
        address: Address,
        /// 32 fresh random bytes
        entropy: [u8; 32],
        /// What both ends of the TLS connection beneath can derive from it by RFC 9266, if there is one (AUTH-7)
        binding: Option<[u8; 32]>,
    },
    /// A message arrived
    Received {
        /// On which connection
        conn: ConnId,
        /// The whole message
        bytes: &'a [u8],
    },
    /// Bytes of a message that is not complete yet arrived (LIVE-2)
    Arriving {
        /// On which connection
        conn: ConnId,
    },
    /// A connection is gone
    Closed {
        /// Which one
        conn: ConnId,
    },
    /// A connection takes more, or takes no more
    Writable {
        /// Which one
        conn: ConnId,
        /// Whether it takes more
        writable: bool,
    },
    /// Accept a task; the same one again is fine (TASK-1)
    Submit {
        /// The key of idempotence
        task: TaskId,
        /// How to treat it
        spec: TaskSpec,
        /// An encoded [`About`](crate::about::About); may be empty
        about: &'a [u8],
        /// Its input, at most [`INLINE_BYTES_MAX`](crate::limits::INLINE_BYTES_MAX) bytes
        payload: &'a [u8],
    },
    /// Stop a task; again is fine (TASK-7)
    Cancel {
        /// Which one
        task: TaskId,
    },
    /// Drop everything of an ended task but its id and outcome (TASK-1)
    Forget {
        /// Which one
        task: TaskId,
    },
    /// Let another peer in (AUTH-6)
    AddKey {
        /// Its key
        key: &'a Key,
    },
    /// Let a worker enrol that has this join token (AUTH-6)
    AddToken {
        /// The token
        key: &'a Key,
        /// How long it is good
        valid: Duration,
    },
    /// Let a peer in no more, and end its connection (AUTH-6)
    RevokeKey {
        /// Its key
        key: KeyId,
    },
    /// Give a connected worker another key (AUTH-6)
    RotateKey {
        /// Which one
        peer: &'a PeerName,
    },
    /// The answer to [`Output::KeepKey`]
    KeyKept {
        /// Which one
        key: KeyId,
        /// Whether it is there for good; if not, it is forgotten, and its holder keeps the one it has
        kept: bool,
    },
    /// Workers that are away are lost when their time is over, however many they are (TASK-10)
    EndBrake,
    /// This coordinator is about to end, and another one goes on from its journal: whoever is connected is told when to
    /// come back, and nobody is let in any more (BACK-3)
    GoAway {
        /// In about what time the other one is there
        back_in: Duration,
    },
    /// Every record up to this one is durable
    Journaled {
        /// The record's number
        upto: u64,
    },
    /// A record could not be made durable, and none will be: final (JOURN-3)
    JournalFailed,
    /// The answer to [`Output::ReadOutput`]
    OutputRead {
        /// Which attempt
        token: Token,
        /// Which stream
        stream: Stream,
        /// As asked
        offset: u64,
        /// The bytes there, at least one
        bytes: &'a [u8],
    },
    /// The answer to [`Output::ReadChunk`]
    ChunkRead {
        /// Which chunk
        home: u64,
        /// As asked
        offset: u64,
        /// As many bytes as were asked for; fewer if they cannot be read, so that the checkpoint before is taken (CKPT-4)
        bytes: &'a [u8],
    },
    /// Time has passed
    Timeout,
}

/// What to do next
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<'b> {
    /// Append this record, and say [`Input::Journaled`] once it is durable
    Journal {
        /// Its number; they rise by one
        seq: u64,
        /// An encoded [`Record`](crate::journal::Record)
        record: &'b [u8],
    },
    /// Send a message
    Send {
        /// On which connection
        conn: ConnId,
        /// The whole message
        bytes: &'b [u8],
    },
    /// Close a connection
    Close {
        /// Which one
        conn: ConnId,
        /// Why
        reason: Reason,
    },
    /// Keep this key for good behind those of its name, unused, and say [`Input::KeyKept`] (AUTH-6)
    ///
    /// Not if `after` has been revoked, or if it cannot be kept: that is to be said as well, or the key counts for ever.
    /// `after` may be a join token.
    ///
    /// With [`Config::next`](super::Config::next) it is known when the coordinator starts again. Its holder is told of it behind that.
    KeepKey {
        /// The key
        key: Box<Key>,
        /// The one that it is to replace
        after: KeyId,
    },
    /// Answer with a piece of kept output, at once if possible
    ReadOutput {
        /// Which attempt
        token: Token,
        /// Which stream
        stream: Stream,
        /// Where
        offset: u64,
        /// How many bytes at most
        max: u32,
    },
    /// Answer with a piece of a chunk that was kept, at once if possible: of what the [`Piece`](crate::journal::Record::Piece) records carried
    ReadChunk {
        /// Which chunk
        home: u64,
        /// Where
        offset: u64,
        /// How many bytes
        max: u32,
    },
    /// Something the embedder may want to know
    Event(Event),
    /// Nothing, until something happens or the time has come
    Idle {
        /// When to say [`Input::Timeout`]
        wake_at: Option<Instant>,
    },
}

/// Something the embedder may want to know; what it is about is looked up by id
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The task is durable
    Accepted {
        /// Which one
        task: TaskId,
    },
    /// An attempt runs
    Running {
        /// Of which task
        task: TaskId,
        /// Which attempt
        token: Token,
    },
    /// An attempt failed or was lost; another follows
    Again {
        /// Of which task
        task: TaskId,
    },
    /// The task is over, durably
    Ended {
        /// Which one
        task: TaskId,
    },
    /// A peer is connected
    Connected {
        /// Which one
        peer: PeerName,
        /// Whether its session went on
        resumed: bool,
    },
    /// A peer is not connected any more
    Disconnected {
        /// Which one
        peer: PeerName,
        /// Why
        reason: Option<Reason>,
    },
    /// A worker has been away for so long that its tasks go to others
    Lost {
        /// Which one
        peer: PeerName,
    },
    /// A connected worker did not hold what it should: it was asked, and what was found is mended (SESS-8)
    ///
    /// Neither lost nor discarded: it only counts its attempts in another way. In either case something is wrong there, or
    /// here.
    Drifted {
        /// Which one
        peer: PeerName,
        /// Attempts that it does not have; their tasks go to others
        lost: u64,
        /// Attempts that it should not have, and was told to forget
        discarded: u64,
    },
    /// A worker held attempts that the journal knows nothing of, and was told to forget them (JOURN-2)
    ///
    /// Their tasks, or their tokens: the journal is older than what the worker was told, if it is not of another one.
    Unknown {
        /// Which one
        peer: PeerName,
        /// How many
        attempts: u64,
        /// Of which tasks, the first [`UNKNOWN_TASKS_MAX`](crate::limits::UNKNOWN_TASKS_MAX) of them
        tasks: Vec<TaskId>,
    },
    /// Somebody says to have seen a higher epoch than this one: the journal is an old one, if that is true (JOURN-2)
    ///
    /// Unproven: whoever has seen one breaks off before it proves anything, and says the same where it runs. Told once in
    /// an epoch.
    Outdated {
        /// Who it says to be
        peer: PeerName,
        /// This epoch
        epoch: u64,
        /// The one it says to have seen
        seen: u64,
    },
    /// Somebody came with a key that is not known, and was refused; another try will follow
    ///
    /// Whoever keeps keys in a place of their own may look there for a new one. As often as admission lets
    /// strangers in (BACK-2).
    UnknownKey {
        /// Which one was named
        key: KeyId,
    },
    /// A key that came about by rotation or enrolment was used first (AUTH-6)
    ///
    /// The keys of its name in front of it are retired, which whoever keeps them should keep as well; if none of them was in
    /// use, so are those behind it, since all followed from one join token.
    KeyUsed {
        /// Whose it is
        peer: PeerName,
        /// The key
        key: KeyId,
    },
    /// A key that was kept is forgotten: the connection that it follows from was gone before its holder was told (AUTH-6)
    ///
    /// Whoever keeps keys should forget it as well. If not, it is one of those that were not used.
    KeyUntold {
        /// The key
        key: KeyId,
    },
    /// The journal failed: nothing more will be accepted, acknowledged or told
    Stopped,
}

/// A task as the embedder sees it
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskView<'a> {
    /// How far it is
    pub state: TaskState,
    /// Attempts so far
    pub attempts: u32,
    /// How it ended
    pub end: Option<EndView<'a>>,
}

/// How a task ended
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndView<'a> {
    /// How
    pub outcome: Outcome,
    /// The attempt that ended it, whose output is the task's
    pub token: Option<Token>,
    /// Its number; 0 if there was none
    pub attempt: u32,
    /// What it returned, where that came in a message
    pub result: &'a [u8],
    /// How many bytes it returned, where those are in chunks: clients fetch them (FRAME-3)
    pub elsewhere: Option<u64>,
    /// Its output streams
    pub streams: [StreamEnd; 2],
}

/// A peer as the embedder sees it
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerView {
    /// Its name
    pub name: PeerName,
    /// Where its connection stands
    pub state: PeerState,
    /// Attempts it holds
    pub held: usize,
    /// Whether its connection has broken so often that it gets less work (TASK-10)
    pub flapping: bool,
    /// Last round trip of a heartbeat that this side sent, in microseconds
    pub rtt_us: Option<u64>,
    /// What the laws of its connection have come to at this side, while there is one
    pub laws: Option<LawStats>,
}

/// Where a peer's connection stands, seen from the coordinator
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PeerState {
    /// Never seen
    Unknown,
    /// Connected; both sides are comparing what they hold
    Reconciling,
    /// Connected
    Connected,
    /// Connected, and silent for longer than is usual with it; it gets nothing new until it is heard (LIVE-3)
    Suspect,
    /// Connected, takes nothing new, and leaves when all it holds is settled (TASK-8)
    Draining,
    /// Not connected; its tasks are still its own
    Disconnected,
    /// Not connected for so long that its tasks went to others
    Lost,
}
