//! Where the coordinator's records go

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rejoin_core::ids::Token;
use rejoin_core::journal::Record;
use rejoin_core::wire::message::Stream;

use crate::spool::{MEMORY_BYTES_MAX, Spool};

/// Keeps records in order
///
/// A failure of either call is final: the coordinator stops.
pub trait Journal: Send {
    /// Takes a record in; it need not be durable yet
    fn append(&mut self, record: &[u8]) -> io::Result<()>;

    /// Makes all records taken in durable
    fn sync(&mut self) -> io::Result<()>;
}

/// A journal that lives as long as the process; task output goes to an [`OutputStore`]
#[derive(Clone, Debug)]
pub struct MemoryJournal {
    records: Arc<Mutex<Vec<Box<[u8]>>>>,
    outputs: OutputStore,
}

impl MemoryJournal {
    /// Makes an empty journal
    pub fn new(outputs: OutputStore) -> Self {
        MemoryJournal { records: Arc::default(), outputs }
    }

    /// Returns all records but those of output, for whoever wants to check what happened
    pub fn records(&self) -> Vec<Box<[u8]>> {
        lock(&self.records).clone()
    }
}

impl Journal for MemoryJournal {
    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        if let Some(Record::Output { token, stream, bytes, .. }) = Record::decode(record) {
            return self.outputs.append(token, stream, bytes);
        }
        lock(&self.records).push(record.into());
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Output of tasks, by attempt; small ones in memory, large ones in files
#[derive(Clone, Debug)]
pub struct OutputStore {
    dir: Arc<Path>,
    spools: Arc<Mutex<BTreeMap<Token, [Spool; 2]>>>,
}

impl OutputStore {
    /// Makes an empty store whose files are in `dir`
    pub fn new(dir: Arc<Path>) -> Self {
        OutputStore { dir, spools: Arc::default() }
    }

    /// Appends to a stream
    pub fn append(&self, token: Token, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let mut spools = lock(&self.spools);
        let pair = spools.entry(token).or_insert_with(|| self.empty());
        pair[stream.index()].append(bytes)
    }

    /// Reads from a stream; nothing where there is nothing
    pub fn read_at(&self, token: Token, stream: Stream, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        match lock(&self.spools).get(&token) {
            Some(pair) => pair[stream.index()].read_at(offset, out),
            None => Ok(0),
        }
    }

    /// Takes an attempt's output out of the store; empty where there is none
    pub fn take(&self, token: Token) -> [Spool; 2] {
        lock(&self.spools).remove(&token).unwrap_or_else(|| self.empty())
    }

    fn empty(&self) -> [Spool; 2] {
        [0, 1].map(|_| Spool::new(self.dir.clone(), MEMORY_BYTES_MAX))
    }
}

/// A panic of another thread does not make the data wrong: each change is complete in itself
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
