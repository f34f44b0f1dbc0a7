//! The records that a coordinator's memory is made of (JOURN-1)
//!
//! The coordinator hands each record out with its number, as bytes; the embedder appends them in order and says how
//! far they are durable. Replaying them gives the same tables again.

mod compact;

use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

pub use self::compact::{Census, Compaction, Kept};
use crate::blob::ChunkName;
use crate::coordinator::content_digest;
use crate::ids::{ClusterId, PeerName, TaskId, Token};
use crate::wire::message::{Outcome, Stream, StreamEnd, TaskSpec};

/// Version of the record format, the first byte of each record
pub const RECORD_VERSION: u8 = 1;

/// One thing that happened and must not be forgotten
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record<'a> {
    /// A coordinator started; first record of each start (JOURN-2)
    Epoch {
        /// Higher than any before
        epoch: u64,
        /// Always the same
        cluster: ClusterId,
    },
    /// Tokens below this may have been given (TASK-2)
    Tokens {
        /// The first token of no block yet
        below: u64,
    },
    /// A task was accepted (TASK-1)
    Submit {
        /// Which task
        task: TaskId,
        /// How to treat it
        spec: TaskSpec,
        /// Its name, and what it needs of a worker: an encoded [`About`](crate::about::About)
        #[serde(with = "serde_bytes", borrow)]
        about: &'a [u8],
        /// Its input
        #[serde(with = "serde_bytes", borrow)]
        payload: &'a [u8],
    },
    /// An attempt was given to a worker; written before it is sent, not waited for (TASK-2)
    Assign {
        /// Which task
        task: TaskId,
        /// The attempt's token
        token: Token,
        /// Its number among the task's attempts
        attempt: u32,
        /// To whom
        worker: PeerName,
    },
    /// An attempt ended, and the task with it if `last`
    Result {
        /// Which task
        task: TaskId,
        /// Which attempt; `None` if the task ended without one
        token: Option<Token>,
        /// The attempt's number; 0 if there was none
        attempt: u32,
        /// How it ended
        outcome: Outcome,
        /// Whether this is the task's outcome; if not, another attempt follows
        last: bool,
        /// What it returned
        #[serde(with = "serde_bytes", borrow)]
        result: &'a [u8],
        /// Its complete output streams
        streams: [StreamEnd; 2],
    },
    /// Somebody wants the task stopped (TASK-7)
    Cancel {
        /// Which task
        task: TaskId,
    },
    /// The task's content is gone; its id and outcome stay for the retention time (TASK-1)
    Forget {
        /// Which task
        task: TaskId,
    },
    /// A piece of an output stream; its bytes may be kept beside the journal (LOG-1)
    Output {
        /// Which task
        task: TaskId,
        /// Which attempt
        token: Token,
        /// Which stream
        stream: Stream,
        /// Where the bytes stand in it; pieces follow each other without gap or overlap
        offset: u64,
        /// The bytes
        #[serde(with = "serde_bytes", borrow)]
        bytes: &'a [u8],
    },
    /// A checkpoint of a task; its bytes may be kept beside the journal, and only those of the newest (CKPT-1)
    Checkpoint {
        /// Which task
        task: TaskId,
        /// The attempt that made it
        token: Token,
        /// Rises with each checkpoint of the task
        number: u64,
        /// The bytes
        #[serde(with = "serde_bytes", borrow)]
        bytes: &'a [u8],
    },
    /// A piece of a chunk of a checkpoint; its bytes may be kept beside the journal (CKPT-1)
    Piece {
        /// Of which task
        task: TaskId,
        /// Names the chunk; never used before
        home: u64,
        /// Where the bytes stand in it; pieces follow each other without gap or overlap
        offset: u64,
        /// The bytes
        #[serde(with = "serde_bytes", borrow)]
        bytes: &'a [u8],
    },
    /// A chunk is whole, and its content has this name (CKPT-1)
    Chunk {
        /// Of which task
        task: TaskId,
        /// Which chunk
        home: u64,
        /// Its bytes
        length: u64,
        /// SHA-256 of its content
        name: ChunkName,
    },
    /// A checkpoint of a task, or what an attempt returned in front of its result, all of whose chunks are whole (CKPT-1, FRAME-3)
    Manifest {
        /// Which task
        task: TaskId,
        /// The attempt that made it
        token: Token,
        /// Rises with each checkpoint of the task; [`RESULT`](crate::blob::RESULT) if it is none
        number: u64,
        /// All its bytes
        length: u64,
        /// The chunks that it consists of: [`homes_of`], one behind the other
        #[serde(with = "serde_bytes", borrow)]
        homes: &'a [u8],
    },
    /// The newest checkpoint of a task cannot be read (CKPT-4), or is not wanted any more (CKPT-2): the one before is the newest
    Unreadable {
        /// Which task
        task: TaskId,
    },
    /// Chunks that no checkpoint consists of any more (JOURN-5)
    Gone {
        /// Of which task
        task: TaskId,
        /// Which chunks: [`homes_of`]
        #[serde(with = "serde_bytes", borrow)]
        homes: &'a [u8],
    },
    /// What is left of a forgotten task, in the place of all other records of it (JOURN-5)
    Forgotten {
        /// Which task
        task: TaskId,
        /// What makes two submits the same (TASK-1)
        content: [u8; 32],
        /// How it had ended
        outcome: Outcome,
    },
    /// The retention time of a forgotten task is over: its id is free again (TASK-1)
    Lapsed {
        /// Which task
        task: TaskId,
    },
    /// Exclusive tasks that are assigned from here on run under such leases (TASK-4)
    Lease {
        /// How long one lasts from its last renewal, in microseconds
        ttl_us: u64,
        /// Within so many microseconds more everything under it is over
        grace_us: u64,
    },
    /// A coordinator started that was told that all records before may be old (JOURN-2)
    Restored {
        /// The first token that may have been given in an epoch of which nothing is known
        from: u64,
        /// The first one above that was not; as low as `from` where this says only what follows
        below: u64,
        /// Leases of such an epoch may be in force, so that exclusive tasks wait (TASK-4)
        waits: bool,
    },
    /// A task was accepted whose large input has come, piece by piece, in the records before (FRAME-3)
    SubmitLarge {
        /// Its id
        task: TaskId,
        /// How to treat it
        spec: TaskSpec,
        /// An encoded [`About`](crate::about::About)
        #[serde(with = "serde_bytes", borrow)]
        about: &'a [u8],
        /// What comes beside the large input
        #[serde(with = "serde_bytes", borrow)]
        payload: &'a [u8],
        /// All bytes of the large input
        length: u64,
        /// The name of each of its chunks, one behind the other
        #[serde(with = "serde_bytes", borrow)]
        names: &'a [u8],
        /// Where the chunks are, in the same order: [`homes_of`]
        #[serde(with = "serde_bytes", borrow)]
        homes: &'a [u8],
    },
}

/// Writes the names of chunks as records carry them
pub(crate) fn homes(homes: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut one = [0; 10];
    for home in homes {
        let written = postcard::to_slice(&home, &mut one).map_or(&[][..], |written| written);
        bytes.extend_from_slice(written);
    }
    bytes
}

/// Reads the names of chunks in a record; ends before anything that is none
pub fn homes_of(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        let (home, behind) = postcard::take_from_bytes::<u64>(rest).ok()?;
        rest = behind;
        Some(home)
    })
}

impl<'a> Record<'a> {
    /// Writes a record with its version in front
    pub fn encode(&self) -> Vec<u8> {
        match postcard::to_extend(self, alloc::vec![RECORD_VERSION]) {
            Ok(bytes) => bytes,
            Err(_) => unreachable!("memory grows, and every field can be encoded"),
        }
    }

    /// What makes two submits the same (TASK-1); `None` of other records
    pub(crate) fn content(&self) -> Option<[u8; 32]> {
        match *self {
            Record::Submit { spec, about, payload, .. } => Some(content_digest(spec, about, payload, None)),
            Record::SubmitLarge { spec, about, payload, length, names, .. } => {
                Some(content_digest(spec, about, payload, Some((length, names))))
            }
            Record::Epoch { .. }
            | Record::Tokens { .. }
            | Record::Assign { .. }
            | Record::Result { .. }
            | Record::Cancel { .. }
            | Record::Forget { .. }
            | Record::Output { .. }
            | Record::Checkpoint { .. }
            | Record::Piece { .. }
            | Record::Chunk { .. }
            | Record::Manifest { .. }
            | Record::Unreadable { .. }
            | Record::Gone { .. }
            | Record::Forgotten { .. }
            | Record::Lapsed { .. }
            | Record::Lease { .. }
            | Record::Restored { .. } => None,
        }
    }

    /// Reads a record; `None` if it is damaged or of another version
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        match postcard::take_from_bytes(bytes.strip_prefix(&[RECORD_VERSION])?) {
            Ok((record, [])) => Some(record),
            _ => None,
        }
    }
}
