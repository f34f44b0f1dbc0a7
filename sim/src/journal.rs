//! A journal in memory that can be told to lag or to fail

use std::collections::BTreeMap;
use std::time::Duration;

use rejoin_core::ids::{TaskId, Token};
use rejoin_core::journal::{Census, Kept, Record, homes_of};
use rejoin_core::wire::message::{Outcome, Stream};

/// How the journal behaves
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalMode {
    /// Everything is durable after this time
    Syncs(Duration),
    /// Nothing becomes durable any more
    Stuck,
    /// The next record fails
    Fails,
}

/// Records in the order in which they were written
#[derive(Clone, Debug)]
pub struct Journal {
    /// How it behaves from now on
    pub mode: JournalMode,
    pub(crate) records: Vec<Vec<u8>>,
    /// How many of them are durable
    pub(crate) durable: usize,
    /// Records of earlier coordinators
    pub(crate) earlier: usize,
    pub(crate) kept: BTreeMap<(Token, Stream), Vec<u8>>,
    /// Chunks of checkpoints
    chunks: BTreeMap<u64, Vec<u8>>,
}

impl Journal {
    pub(crate) fn new() -> Self {
        Journal {
            mode: JournalMode::Syncs(Duration::ZERO),
            records: Vec::new(),
            durable: 0,
            earlier: 0,
            kept: BTreeMap::new(),
            chunks: BTreeMap::new(),
        }
    }

    /// Loses whatever was not durable; the next coordinator counts its records from 1
    pub(crate) fn crash(&mut self) {
        self.records.truncate(self.durable);
        self.earlier = self.durable;
        self.kept.clear();
        self.chunks.clear();
        let records = std::mem::take(&mut self.records);
        records.iter().for_each(|record| self.keep(record));
        self.records = records;
    }

    pub(crate) fn append(&mut self, record: &[u8]) {
        self.keep(record);
        self.records.push(record.into());
    }

    fn keep(&mut self, record: &[u8]) {
        match Record::decode(record) {
            Some(Record::Output { token, stream, offset, bytes, .. }) => {
                let kept = self.kept.entry((token, stream)).or_default();
                assert!(offset <= kept.len() as u64, "pieces of output follow each other without gap (LOG-1)");
                // An attempt that is adopted says again what it had said before it was given up (TASK-2).
                kept.truncate(offset as usize);
                kept.extend_from_slice(bytes);
            }
            Some(Record::Piece { home, offset, bytes, .. }) => {
                let kept = self.chunks.entry(home).or_default();
                assert_eq!(offset, kept.len() as u64, "pieces of a chunk follow each other (CKPT-1)");
                kept.extend_from_slice(bytes);
            }
            Some(Record::Gone { homes, .. }) => homes_of(homes).for_each(|home| {
                let known = self.chunks.remove(&home).is_some();
                assert!(known, "chunk {home} goes, and is not there (JOURN-5)");
            }),
            Some(
                Record::Epoch { .. }
                | Record::Tokens { .. }
                | Record::Lease { .. }
                | Record::Restored { .. }
                | Record::Submit { .. }
                | Record::SubmitLarge { .. }
                | Record::Assign { .. }
                | Record::Result { .. }
                | Record::Cancel { .. }
                | Record::Forget { .. }
                | Record::Checkpoint { .. }
                | Record::Chunk { .. }
                | Record::Manifest { .. }
                | Record::Unreadable { .. }
                | Record::Forgotten { .. }
                | Record::Lapsed { .. },
            )
            | None => {}
        }
    }

    /// Returns the durable records that are of use, as compaction leaves them (JOURN-5)
    pub(crate) fn compacted(&self) -> Vec<Vec<u8>> {
        let durable = &self.records[..self.durable];
        let decoded = || durable.iter().filter_map(|record| Some((record, Record::decode(record)?)));
        let mut census = Census::default();
        decoded().for_each(|(_, record)| census.note(&record));
        let mut compaction = census.compact();
        let kept = decoded().filter_map(|(bytes, record)| match compaction.keep(&record) {
            Kept::Same => Some(bytes.clone()),
            Kept::Instead(other) => Some(other),
            Kept::Nothing => None,
        });
        kept.collect()
    }

    /// Goes on with other records in the place of all
    pub(crate) fn replace(&mut self, records: Vec<Vec<u8>>) {
        self.durable = records.len();
        self.records = records;
        self.crash();
    }

    /// Returns what is kept of a chunk of a checkpoint
    pub(crate) fn chunk(&self, home: u64) -> &[u8] {
        self.chunks.get(&home).map_or(&[], Vec::as_slice)
    }

    /// Loses what is in all chunks, as a bad disk does
    pub fn lose_chunks(&mut self) {
        self.chunks.values_mut().for_each(Vec::clear);
    }

    /// Returns how many chunks of checkpoints are kept
    pub(crate) fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Returns all records, or only those that are durable
    pub fn records(&self, durable_only: bool) -> impl Iterator<Item = Record<'_>> {
        let count = if durable_only { self.durable } else { self.records.len() };
        self.records[..count].iter().map(|bytes| Record::decode(bytes).expect("the coordinator writes whole records"))
    }

    /// Returns how often a task ended, and the last way it did; an honest history has each task end once (S3)
    pub fn ends(&self, task: TaskId) -> Vec<Outcome> {
        self.records(true)
            .filter_map(|record| {
                let Record::Result { task: id, outcome, last: true, .. } = record else { return None };
                (id == task).then_some(outcome)
            })
            .collect()
    }

    /// Returns what is kept of an output stream
    pub fn kept(&self, token: Token, stream: Stream) -> &[u8] {
        self.kept.get(&(token, stream)).map_or(&[], Vec::as_slice)
    }
}
