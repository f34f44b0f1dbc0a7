//! What clients may ask about a coordinator, and what they are told

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, PeerName, TaskId, Token};
use crate::wire::message::{Outcome, TaskSpec};

/// What a client may ask
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// The coordinator as a whole; answered by [`StatusView`]
    Status,
    /// Workers in the order of their names, in pages; answered by a [`Page`] of [`WorkerView`]s
    Workers {
        /// Those behind this name
        after: Option<PeerName>,
    },
    /// Tasks in the order in which they were submitted, in pages; answered by a [`Page`] of [`TaskView`]s
    Tasks {
        /// Those behind this position, 0 for all
        after: u64,
        /// Only those that have no outcome yet
        open: bool,
    },
    /// One task; answered by `Option<TaskView>`
    Task(TaskId),
    /// Drain a worker; answered by whether there is one of this name (TASK-8)
    Drain(PeerName),
    /// The terms of a task; answered by `Option<Terms>`, since wire version 2 (TASK-5)
    Terms(TaskId),
    /// The brake on losses, and whether to end it; answered by `Option<BrakeView>`, since wire version 2 (TASK-10)
    Brake {
        /// Whatever is delayed is lost now
        end: bool,
    },
    /// The checkpoints that are kept of a task, newest first; answered by a list of [`CheckpointView`]s, since wire version 2 (CKPT-2)
    Checkpoints(TaskId),
    /// A piece of a checkpoint, or of what a task returned; answered by an option of bytes, at most
    /// [`ANSWER_BYTES_MAX`](crate::limits::ANSWER_BYTES_MAX) and none at its end, since wire version 2
    CheckpointPiece {
        /// Of which task
        task: TaskId,
        /// Which of its checkpoints; [`RESULT`](crate::blob::RESULT) for what it returned
        number: u64,
        /// From where on
        offset: u64,
    },
    /// Do without the checkpoints of a task, so that its next attempt begins anew; answered by what is left, as
    /// [`Question::Checkpoints`] is, since wire version 2
    DropCheckpoints(TaskId),
    /// Forget a task that has ended: of all there is of it only id and outcome stay, for the retention time; answered by
    /// [`Forgetting`], since wire version 2 (TASK-1)
    Forget(TaskId),
    /// Give a connected worker another key; answered by [`RotationView`], since wire version 2 (AUTH-6)
    RotateKey(PeerName),
}

/// Whether a task is forgotten
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Forgetting {
    /// It is, by now or before
    Done,
    /// It has not ended, and stays as it is
    Open,
    /// There is no such task
    Unknown,
}

/// What has become of the wish that a worker be given another key (AUTH-6)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RotationView {
    /// It is being made durable, and its holder is told behind that
    Begun,
    /// There is no worker of this name
    Unknown,
    /// It is not connected
    Away,
    /// It speaks a wire version that knows nothing of this
    TooOld,
    /// So many keys of this name were never used that it gets no more: its key is to be revoked
    TooMany,
}

/// A durable checkpoint
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointView {
    /// Its number among those of its task
    pub number: u64,
    /// Which attempt made it
    pub token: Token,
    /// Its bytes
    pub length: u64,
    /// In how many chunks it is kept; 0 if it came in one message
    pub chunks: u32,
}

/// Many workers have vanished at a time, so that they are not taken for lost yet (TASK-10)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrakeView {
    /// Workers that would be lost by now
    pub delayed: u64,
    /// Microseconds until the first of them is
    pub left_us: u64,
    /// How many are lost in a second from then on
    pub per_second: u64,
}

/// The coordinator as a whole
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusView {
    /// Which cluster
    pub cluster: ClusterId,
    /// Which life of the coordinator
    pub epoch: u64,
    /// Microseconds since this life began
    pub up_us: u64,
    /// Tasks that wait for a worker, those that pause after a failure included
    pub waiting: u64,
    /// Tasks that are at a worker
    pub assigned: u64,
    /// Tasks that succeeded, failed and were cancelled, as far as they are not forgotten
    pub ended: [u64; 3],
    /// Workers that have a key
    pub workers: u64,
    /// Those of them that are connected
    pub connected: u64,
    /// Results that were refused because their attempt no longer counted
    pub stale: u64,
    /// Sessions that went on where they were
    pub resumed: u64,
}

/// Part of an answer: as many items as fit, one behind the other
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page<'a> {
    /// Whether nothing follows
    pub last: bool,
    /// The items
    #[serde(with = "serde_bytes", borrow)]
    pub items: &'a [u8],
}

/// A worker, as clients are told of it
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerView {
    /// Its name
    pub name: PeerName,
    /// Where it stands
    pub state: WorkerState,
    /// Attempts it holds, and those of them that run
    pub held: [u32; 2],
    /// Last round trip of a heartbeat, in microseconds
    pub rtt_us: Option<u64>,
    /// Microseconds since its connection ended
    pub away_us: Option<u64>,
    /// What it offers: encoded [`Tags`](crate::about::Tags)
    pub offers: Vec<u8>,
}

/// Where a worker stands, seen from the coordinator
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WorkerState {
    /// Has a key and was not seen in this epoch
    Unknown,
    /// Connected
    Connected,
    /// Connected, and silent for longer than 1.5 heartbeats
    Suspect,
    /// Takes nothing new, and leaves when all it holds is settled
    Draining,
    /// Not connected; its tasks are still its own
    Disconnected,
    /// Not connected for so long that its tasks went to others
    Lost,
    /// Connected, and gets less work because its connection breaks again and again (TASK-10); since wire version 2
    Flapping,
    /// Not connected, and has no key that opens a session: each was revoked (AUTH-6); since wire version 2
    Revoked,
}

/// A task, as clients are told of it
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskView {
    /// Its position in the order of submission
    pub position: u64,
    /// Its id
    pub task: TaskId,
    /// What people call it
    pub title: String,
    /// How to treat it
    pub spec: TaskSpec,
    /// Attempts so far
    pub attempts: u32,
    /// Why it does not run, or that it does
    pub why: Why,
    /// Which worker has its newest attempt
    pub worker: Option<PeerName>,
    /// What it last reported
    pub progress: u64,
    /// Its newest durable checkpoint
    pub checkpoint: Option<u64>,
    /// The attempt whose output there is
    pub token: Option<Token>,
    /// How much of its output is kept
    pub kept: [u64; 2],
    /// How it ended
    pub outcome: Option<Outcome>,
}

/// Why a task does not run (TASK-9)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Why {
    /// Its submit is not durable yet
    NotDurable,
    /// No worker is connected
    NoWorker,
    /// No connected worker offers what it needs
    NothingFits,
    /// All connected workers that could take it have as much as they take
    WorkersBusy,
    /// Its last attempt failed; the next one waits for its time
    Pausing,
    /// Its worker crashed while others ran beside it: it waits for a worker of its own (TASK-6)
    WaitsToRunAlone,
    /// It is at a worker and has not started
    AtWorker,
    /// It runs
    Runs,
    /// Its worker is not connected; it may run
    WorkerAway,
    /// It is over
    Ended,
    /// It is exclusive, and the lease of its last worker has not ended yet (TASK-4); since wire version 2
    LeaseHeld,
}
