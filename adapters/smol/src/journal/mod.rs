//! Where the coordinator's records go (JOURN-1 to JOURN-4)

mod compaction;
mod durable;
mod format;
mod memory;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use durable::{DurableJournal, DurableOutputs, OpenError, Records};
pub use memory::{MemoryJournal, OutputStore};
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::journal::Record;
use rejoin_core::wire::message::Stream;

/// Keeps records in order, and what tasks wrote beside them
///
/// A failure of any call is final: the coordinator stops.
pub trait Journal: Send + 'static {
    /// How output is read while records are being written
    type Outputs: Outputs;

    /// Returns a way to read output
    fn outputs(&self) -> Self::Outputs;

    /// Hands out all records of earlier coordinators, in their order (JOURN-4); asked once, before anything is appended
    fn replay(&mut self, take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()>;

    /// Takes a record in; it need not be durable yet
    fn append(&mut self, record: &[u8]) -> io::Result<()>;

    /// Makes all records taken in durable
    fn sync(&mut self) -> io::Result<()>;

    /// Whether [`sync`](Self::sync) waits for a disk, so that it wants a thread of its own
    fn waits(&self) -> bool;
}

/// Reads the output of tasks, and the chunks of their checkpoints
pub trait Outputs: Clone + Send + 'static {
    /// Reads from a stream as many bytes as are there and fit; nothing where there is nothing
    fn read_at(&self, token: Token, stream: Stream, offset: u64, out: &mut [u8]) -> io::Result<usize>;

    /// Reads from a chunk of a checkpoint as many bytes as are there and fit; nothing where there is nothing (CKPT-4)
    fn read_chunk(&self, home: u64, offset: u64, out: &mut [u8]) -> io::Result<usize>;
}

/// Attempts of each task whose output is kept
#[derive(Clone, Debug, Default)]
struct Attempts(BTreeMap<TaskId, Kept>);

#[derive(Clone, Debug, Default)]
struct Kept {
    tokens: Vec<Token>,
    /// The last of them that failed: whoever follows the task may still be reading its last words
    failed: Option<Token>,
    over: bool,
}

/// What a record makes useless
#[derive(Debug, PartialEq, Eq)]
struct Useless {
    /// Output of these attempts
    outputs: Vec<Token>,
    /// The checkpoint of this task
    checkpoint: Option<TaskId>,
}

impl Attempts {
    /// Takes note of a record, and returns what is of no use any more
    fn note(&mut self, record: &Record<'_>) -> Useless {
        let mut useless = Useless { outputs: Vec::new(), checkpoint: None };
        match *record {
            Record::Assign { task, token, .. } => self.0.entry(task).or_default().tokens.push(token),
            Record::Result { task, token, last: true, .. } => {
                useless.outputs = self.retain(task, token);
                useless.checkpoint = Some(task);
            }
            Record::Result { task, token: Some(token), last: false, .. } => {
                let kept = self.0.entry(task).or_default();
                if let Some(before) = kept.failed.replace(token) {
                    kept.tokens.retain(|kept| *kept != before);
                    useless.outputs.push(before);
                }
            }
            Record::Forget { task } => useless.outputs = self.retain(task, None),
            Record::Epoch { .. }
            | Record::Tokens { .. }
            | Record::Lease { .. }
            | Record::Restored { .. }
            | Record::Submit { .. }
            | Record::SubmitLarge { .. }
            | Record::Result { .. }
            | Record::Cancel { .. }
            | Record::Output { .. }
            | Record::Checkpoint { .. }
            | Record::Piece { .. }
            | Record::Chunk { .. }
            | Record::Manifest { .. }
            | Record::Unreadable { .. }
            | Record::Forgotten { .. }
            | Record::Lapsed { .. }
            | Record::Gone { .. } => {}
        }
        useless
    }

    /// The task is over: drops its attempts, all but one if that is named
    fn retain(&mut self, task: TaskId, except: Option<Token>) -> Vec<Token> {
        let attempts = self.0.remove(&task).unwrap_or_default().tokens;
        let (tokens, dropped): (Vec<_>, Vec<_>) = attempts.into_iter().partition(|token| Some(*token) == except);
        if !tokens.is_empty() {
            self.0.insert(task, Kept { tokens, failed: None, over: true });
        }
        dropped
    }

    /// Attempts that go on, of tasks that are not over
    fn open(&self) -> impl Iterator<Item = (TaskId, Token)> + '_ {
        let open = self.0.iter().filter(|(_, kept)| !kept.over);
        open.flat_map(|(task, kept)| {
            let going_on = kept.tokens.iter().filter(|token| Some(**token) != kept.failed);
            going_on.map(|token| (*task, *token))
        })
    }
}

/// A panic of another thread does not make the data wrong: each change is complete in itself
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
