//! What goes into a worker, and what comes out

use crate::backoff::Loss;
use crate::blob::ChunkName;
use crate::ids::{TaskId, Token};
use crate::link::Reason;
use crate::time::Instant;
use crate::wire::message::{CancelReason, CheckpointRefused, Outcome, Stream, StreamEnd};
use crate::worker::keeping::Finished;

/// What happened
///
/// `attempt` counts the dials: it comes with [`Output::Connect`], and an event that bears an older one changes
/// nothing (SESS-4).
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The transport is open
    Connected {
        /// Which dial
        attempt: u64,
        /// 32 fresh random bytes
        entropy: [u8; 32],
        /// What both ends of the TLS connection beneath can derive from it by RFC 9266, if there is one (AUTH-7)
        binding: Option<[u8; 32]>,
    },
    /// A message arrived
    Received {
        /// Which dial
        attempt: u64,
        /// The whole message
        bytes: &'a [u8],
    },
    /// Bytes of a message that is not complete yet arrived (LIVE-2)
    Arriving {
        /// Which dial
        attempt: u64,
    },
    /// The transport is gone, or could not be opened
    Disconnected {
        /// Which dial
        attempt: u64,
        /// Who ended it
        loss: Loss,
    },
    /// The transport takes more, or takes no more
    Writable {
        /// Which dial
        attempt: u64,
        /// Whether it takes more
        writable: bool,
    },
    /// The task runs
    Started {
        /// Which attempt
        token: Token,
    },
    /// The task reports how far it is, in whatever unit it likes
    Progress {
        /// Which attempt
        token: Token,
        /// How far
        value: u64,
    },
    /// An output stream has grown
    OutputGrew {
        /// Which attempt
        token: Token,
        /// Which stream
        stream: Stream,
        /// All its bytes by now
        total: u64,
    },
    /// The answer to [`Output::ReadOutput`]: at least one byte, at most as many as were asked for
    OutputRead {
        /// Which attempt
        token: Token,
        /// Which stream
        stream: Stream,
        /// As asked
        offset: u64,
        /// The bytes there
        bytes: &'a [u8],
    },
    /// The task has made a checkpoint, of at most [`INLINE_BYTES_MAX`](crate::limits::INLINE_BYTES_MAX) bytes; a newer one replaces one that waits (CKPT-3)
    Checkpoint {
        /// Which attempt
        token: Token,
        /// The bytes
        bytes: &'a [u8],
    },
    /// The task has made a checkpoint too large for [`Input::Checkpoint`], whose bytes stay here until it is answered
    ///
    /// [`Worker::newest_checkpoint`](crate::worker::Worker::newest_checkpoint) says its number then.
    LargeCheckpoint {
        /// Which attempt
        token: Token,
        /// All its bytes
        length: u64,
        /// The [name](crate::blob::chunk_name) of each of its [chunks](crate::blob::chunk_span)
        names: &'a [ChunkName],
    },
    /// The answer to [`Output::ReadCheckpoint`]; no bytes if they cannot be read, which ends the upload as damaged, or makes
    /// the result a failure
    CheckpointRead {
        /// Which attempt
        token: Token,
        /// Which checkpoint, as asked
        number: u64,
        /// As asked
        offset: u64,
        /// The bytes there: at least one, at most as many as were asked for
        bytes: &'a [u8],
    },
    /// The task is over; all its output and checkpoints were reported before
    Finished {
        /// Which attempt
        token: Token,
        /// How it ended
        outcome: Outcome,
        /// What it returned, or a sentence on what went wrong
        result: &'a [u8],
    },
    /// The task is over, and returned more than [`Input::Finished`] takes; the bytes stay here until [`Output::Forget`]
    ///
    /// More than [`Config::large_result_max`](crate::worker::Config::large_result_max) becomes a failure, and so does
    /// this where the coordinator speaks wire version 1 (FRAME-3).
    FinishedLarge {
        /// Which attempt
        token: Token,
        /// How it ended
        outcome: Outcome,
        /// All bytes that it returned
        length: u64,
        /// The [name](crate::blob::chunk_name) of each of their [chunks](crate::blob::chunk_span)
        names: &'a [ChunkName],
    },
    /// The task that was to be started cannot be started here, through no fault of its own: it goes back
    ///
    /// It counts as no attempt. Whoever cannot start one had better [`Drain`](Input::Drain): others would follow.
    Declined {
        /// Which attempt
        token: Token,
    },
    /// An attempt is kept: should this process end, the next one will be told of it by [`Input::Restore`] (SESS-9)
    Kept {
        /// Which attempt
        token: Token,
    },
    /// There is room to keep so many attempts beside those that are kept already: nothing beyond is taken (SESS-9)
    ///
    /// Without a word of that it is `attempts_max`. What was granted stays granted, so say a lower number only together
    /// with the [`Input::Kept`] that it comes from, and in front of that.
    Reserved {
        /// How many
        attempts: u16,
    },
    /// An earlier life of this worker had finished this attempt, and did not live to see it settled (SESS-9)
    ///
    /// Only before the first session, and each attempt once. [`Rejected::Full`](crate::error::Rejected::Full) beyond
    /// `attempts_max`, and [`Rejected::TooLarge`](crate::error::Rejected::TooLarge) for a result larger than this worker takes. Its output
    /// is asked for by [`Output::ReadOutput`] as any, and a result in chunks by [`Output::ReadCheckpoint`].
    Restore {
        /// What had been kept
        finished: Finished<'a>,
        /// Lengths and digests of its output
        streams: [StreamEnd; 2],
    },
    /// The answer to [`Output::KeepKey`] (AUTH-6)
    KeyKept {
        /// Whether it is there for good; if not, the key before stays in use
        kept: bool,
    },
    /// Take nothing new, give back what has not started, and leave once all is settled (TASK-8)
    ///
    /// How long the tasks that run may take is the embedder's business: it stops them when it wants to wait no longer.
    Drain,
    /// Leave now: what is still held is lost, and given to others at once (TASK-8)
    Leave,
    /// Time has passed
    Timeout,
}

/// What to do next
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output<'b> {
    /// Open a transport to the coordinator; never while another one is open
    Connect {
        /// Names the connection in all its events
        attempt: u64,
        /// Which of [`LinkConfig::endpoints`](crate::link::LinkConfig::endpoints) to dial (BACK-4)
        endpoint: usize,
    },
    /// Close the transport
    Disconnect {
        /// Which dial
        attempt: u64,
        /// Why
        reason: Reason,
    },
    /// Send a message on the current transport
    Send {
        /// The whole message
        bytes: &'b [u8],
    },
    /// Start a task; [`Worker::payload`](crate::worker::Worker::payload) has its input until [`Input::Started`], and [`Worker::checkpoint`](crate::worker::Worker::checkpoint) what it goes on
    /// from
    Run {
        /// Which task
        task: TaskId,
        /// Which attempt
        token: Token,
        /// Its number among the task's attempts, from 1
        attempt: u32,
    },
    /// Stop a task that runs; say [`Input::Finished`] when it is over
    Cancel {
        /// Which attempt
        token: Token,
        /// Why
        reason: StopReason,
    },
    /// Have an exclusive task stand still, if that can be done: this process has not looked for a long time, and does not know
    /// yet whether the task is still its own (LIVE-5)
    Freeze {
        /// Which attempt
        token: Token,
    },
    /// Have it go on: it is
    ///
    /// A task that is told to stop while it stands still has to be woken for that.
    Thaw {
        /// Which attempt
        token: Token,
    },
    /// A task should make a checkpoint soon, if it can: its last one is as old as pays (LIVE-6), or this worker is being drained
    /// (TASK-8)
    ///
    /// Said once until it has made one. A task that makes checkpoints as it likes, or none, need not care.
    WantCheckpoint {
        /// Which attempt
        token: Token,
    },
    /// Answer with a piece of an output stream, at once if possible
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
    /// Answer with a piece of a large checkpoint, or of a large result, at once if possible
    ReadCheckpoint {
        /// Which attempt
        token: Token,
        /// Which checkpoint; [`RESULT`](crate::blob::RESULT) for what the attempt returned
        number: u64,
        /// Where
        offset: u64,
        /// How many bytes at most
        max: u32,
    },
    /// Keep this piece of the large checkpoint that an attempt is to start from
    ///
    /// Pieces come in any order of chunks, and again after a cut. Those of another number begin anew.
    RestorePiece {
        /// Which attempt
        token: Token,
        /// Which checkpoint
        number: u64,
        /// Where the bytes stand in it
        offset: u64,
        /// The bytes
        bytes: &'b [u8],
    },
    /// The coordinator has answered to a checkpoint, or to a newer one of the same attempt
    Checkpointed {
        /// Which attempt
        token: Token,
        /// Which checkpoint
        number: u64,
        /// Why it was not taken; `None` when it is durable
        refused: Option<CheckpointRefused>,
    },
    /// An attempt is over: keep it where the next process finds it, with its output, and say [`Input::Kept`] (SESS-9)
    ///
    /// [`Worker::finished`](crate::worker::Worker::finished) says what there is to keep. Whoever keeps nothing need not
    /// answer: then an attempt that was not settled when the process ends counts as lost with it.
    ///
    /// The result does not wait for that, and may be on its way already. What is kept matters only after this process
    /// has ended, and only if the coordinator has not made the result durable by then; so to wait would make each task
    /// slower by a sync and nothing safer. What is settled first need not be kept at all.
    Keep {
        /// Which attempt
        token: Token,
    },
    /// Keep [`Worker::next_key`](crate::worker::Worker::next_key) for good in the place of the key before, all of it or nothing, and say
    /// [`Input::KeyKept`] (AUTH-6)
    ///
    /// Until then nothing is dialled.
    KeepKey,
    /// Everything kept for this attempt may go, in this process and for the next one
    Forget {
        /// Which attempt
        token: Token,
    },
    /// Nothing, until something happens or the time has come
    Idle {
        /// When to say [`Input::Timeout`]
        wake_at: Option<Instant>,
    },
}

/// Why a task is to be stopped
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopReason {
    /// Its submitter asked for it
    Requested,
    /// Another attempt ended the task, or took its place
    Replaced,
    /// It is exclusive, and the lease has ended: it must be over within [`Worker::lease`](crate::worker::Worker::lease)'s grace (TASK-4)
    LeaseEnded,
    /// This worker has been cut off for as long as the task may run like that (TASK-5)
    CutOff,
    /// It has reported nothing for too long (LIVE-4)
    Stalled,
}

impl From<CancelReason> for StopReason {
    fn from(reason: CancelReason) -> StopReason {
        match reason {
            CancelReason::Requested => StopReason::Requested,
            CancelReason::Replaced => StopReason::Replaced,
        }
    }
}
