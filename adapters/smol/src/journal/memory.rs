//! A journal that lives as long as the process

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use rejoin_core::ids::Token;
use rejoin_core::journal::{Record, homes_of};
use rejoin_core::wire::message::Stream;

use super::{Attempts, Journal, Outputs, lock};
use crate::spool::{MEMORY_BYTES_MAX, Spool};

/// A journal that lives as long as the process; task output goes to an [`OutputStore`]
#[derive(Clone, Debug)]
pub struct MemoryJournal {
    records: Arc<Mutex<Vec<Box<[u8]>>>>,
    outputs: OutputStore,
    /// Attempts whose output may be in the store
    attempts: Attempts,
}

impl MemoryJournal {
    /// Makes an empty journal
    pub fn new(outputs: OutputStore) -> Self {
        MemoryJournal { records: Arc::default(), outputs, attempts: Attempts::default() }
    }

    /// Returns all records but those of output, for whoever wants to check what happened
    pub fn records(&self) -> Vec<Box<[u8]>> {
        lock(&self.records).clone()
    }
}

impl Journal for MemoryJournal {
    type Outputs = OutputStore;

    fn outputs(&self) -> OutputStore {
        self.outputs.clone()
    }

    fn replay(&mut self, _: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        Ok(())
    }

    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let decoded = Record::decode(record).ok_or(io::ErrorKind::InvalidData)?;
        if let Record::Output { token, stream, bytes, .. } = decoded {
            return self.outputs.append(token, stream, bytes);
        }
        if let Record::Piece { home, bytes, .. } = decoded {
            return self.outputs.append_chunk(home, bytes);
        }
        if let Record::Gone { homes, .. } = decoded {
            homes_of(homes).for_each(|home| self.outputs.drop_chunk(home));
        }
        for token in self.attempts.note(&decoded).outputs {
            self.outputs.take(token);
        }
        if !matches!(decoded, Record::Checkpoint { .. }) {
            // Of a coordinator that is not recovered nobody asks for checkpoints.
            lock(&self.records).push(record.into());
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn waits(&self) -> bool {
        false
    }
}

/// Output of tasks, by attempt; small ones in memory, large ones in files; and chunks of checkpoints
#[derive(Clone, Debug)]
pub struct OutputStore {
    dir: Arc<Path>,
    spools: Arc<Mutex<BTreeMap<Token, [Spool; 2]>>>,
    chunks: Arc<Mutex<BTreeMap<u64, Spool>>>,
}

impl OutputStore {
    /// Makes an empty store whose files are in `dir`
    pub fn new(dir: Arc<Path>) -> Self {
        OutputStore { dir, spools: Arc::default(), chunks: Arc::default() }
    }

    /// Appends to a stream
    pub fn append(&self, token: Token, stream: Stream, bytes: &[u8]) -> io::Result<()> {
        let mut spools = lock(&self.spools);
        let pair = spools.entry(token).or_insert_with(|| self.empty());
        pair[stream.index()].append(bytes)
    }

    /// Takes an attempt's output out of the store; empty where there is none
    pub fn take(&self, token: Token) -> [Spool; 2] {
        lock(&self.spools).remove(&token).unwrap_or_else(|| self.empty())
    }

    fn append_chunk(&self, home: u64, bytes: &[u8]) -> io::Result<()> {
        let mut chunks = lock(&self.chunks);
        // In files: checkpoints are large, and hardly ever read.
        chunks.entry(home).or_insert_with(|| Spool::new(self.dir.clone(), 0)).append(bytes)
    }

    fn drop_chunk(&self, home: u64) {
        lock(&self.chunks).remove(&home);
    }

    fn empty(&self) -> [Spool; 2] {
        [0, 1].map(|_| Spool::new(self.dir.clone(), MEMORY_BYTES_MAX))
    }
}

impl Outputs for OutputStore {
    fn read_at(&self, token: Token, stream: Stream, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        match lock(&self.spools).get(&token) {
            Some(pair) => pair[stream.index()].read_at(offset, out),
            None => Ok(0),
        }
    }

    fn read_chunk(&self, home: u64, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        lock(&self.chunks).get(&home).map_or(Ok(0), |chunk| chunk.read_at(offset, out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rejoin_core::ids::TaskId;
    use rejoin_core::wire::message::Outcome;

    #[test]
    fn only_the_output_of_the_attempt_that_counts_is_kept_and_only_until_the_task_is_forgotten() {
        let outputs = OutputStore::new(std::env::temp_dir().into());
        let mut journal = MemoryJournal::new(outputs.clone());
        let task = TaskId([1; 16]);
        let length = |token| outputs.read_at(token, Stream::Out, 0, &mut [0; 9]).unwrap();
        let mut append = |record: Record<'_>| journal.append(&record.encode()).unwrap();
        for (attempt, token) in [(1, Token(7)), (2, Token(8))] {
            append(Record::Assign { task, token, attempt, worker: "w".parse().unwrap() });
            append(Record::Output { task, token, stream: Stream::Out, offset: 0, bytes: b"out" });
        }
        let (outcome, streams) = (Outcome::Succeeded, Default::default());
        let token = Some(Token(8));
        append(Record::Result { task, token, attempt: 2, outcome, last: true, result: &[], streams });
        assert_eq!((length(Token(7)), length(Token(8))), (0, 3));
        append(Record::Forget { task });
        assert_eq!(length(Token(8)), 0);
        assert_eq!(journal.records().len(), 4, "output is not among the records");
    }
}
