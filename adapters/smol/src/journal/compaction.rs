//! The log without what is of no use any more, copied a slice at a time (JOURN-5)
//!
//! While records come, each commit copies some groups of the log to another table. When that has caught up, it is the log,
//! and the old one goes: in one transaction, so that a crash leaves either. Numbers of records stay as they are; a group
//! may have fewer records than its count says.

use redb::{ReadableTable, TableDefinition, WriteTransaction};
use rejoin_core::journal::{Census, Compaction, Kept, Record};

use super::format::{Group, open};

/// The two tables, of which one is the log and the other one is being made, if it is there
const TABLES: [TableDefinition<'_, u64, &[u8]>; 2] = [TableDefinition::new("log"), TableDefinition::new("log 2")];
/// In the table of what the file is: which of the two is the log
const LIVE: &str = "log";
/// Bytes copied with each commit
const SLICE_BYTES: usize = 1 << 20;
/// Groups are put together up to this size
const GROUP_BYTES: usize = 64 * 1024;
/// Below that it is not worth while
const WORTH_BYTES: u64 = 16 << 20;

/// Which log is in use, and how far its copy has come
#[derive(Debug)]
pub(super) struct Log {
    live: usize,
    /// Bytes of the log
    bytes: u64,
    /// Bytes that it had when it was compacted last
    least: u64,
    /// Bytes below which it is not compacted
    pub(super) worth: u64,
    copy: Option<Copy>,
}

#[derive(Debug)]
struct Copy {
    compaction: Compaction,
    /// The next group to copy
    next: u64,
    pending: Group,
    bytes: u64,
}

impl Log {
    /// The log that a file has; whatever is left of a copy goes with the first commit
    pub(super) fn new(live: u64) -> Self {
        Log { live: usize::from(live == 1), bytes: 0, least: 0, worth: WORTH_BYTES, copy: None }
    }

    /// Where the records are
    pub(super) fn table(&self) -> TableDefinition<'static, u64, &'static [u8]> {
        TABLES[self.live]
    }

    /// Bytes of the log
    #[cfg(test)]
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// So many bytes have been read, or written
    pub(super) fn grew(&mut self, bytes: u64) {
        self.bytes += bytes;
    }

    /// Copies some groups, behind those that this transaction has written; `end` is the number behind the last record
    pub(super) fn copy_some(
        &mut self,
        txn: &WriteTransaction,
        meta: TableDefinition<'_, &str, u64>,
        census: &mut Census,
        end: u64,
    ) -> Result<(), redb::Error> {
        if self.copy.is_none() {
            if self.bytes < self.worth.max(self.least.saturating_mul(2)) {
                return Ok(());
            }
            txn.delete_table(TABLES[1 - self.live])?;
            self.copy = Some(Copy { compaction: census.compact(), next: 1, pending: Group::new(1), bytes: 0 });
        }
        let Some(copy) = &mut self.copy else { return Ok(()) };
        {
            let log = txn.open_table(TABLES[self.live])?;
            let mut other = txn.open_table(TABLES[1 - self.live])?;
            let mut copied = 0;
            for group in log.range(copy.next..)? {
                let (first, sealed) = group?;
                let sealed = sealed.value();
                let Some((count, records)) = open(first.value(), sealed) else {
                    // Damaged: whoever reads it at the next start will say so.
                    self.copy = None;
                    return Ok(());
                };
                records.for_each(|record| copy.take(record));
                copy.next = first.value() + count;
                copy.pending.end_at(copy.next);
                if copy.pending.len() >= GROUP_BYTES {
                    copy.flush(&mut other)?;
                }
                copied += sealed.len();
                if copied >= SLICE_BYTES {
                    return Ok(());
                }
            }
            debug_assert_eq!(copy.next, end);
            copy.flush(&mut other)?;
        }
        txn.open_table(meta)?.insert(LIVE, 1 - self.live as u64)?;
        txn.delete_table(TABLES[self.live])?;
        let bytes = copy.bytes;
        (self.live, self.bytes, self.least, self.copy) = (1 - self.live, bytes, bytes, None);
        Ok(())
    }

    /// Which of the two tables is the log
    pub(super) fn live_in(meta: &impl ReadableTable<&'static str, u64>) -> Result<u64, redb::Error> {
        Ok(meta.get(LIVE)?.map_or(0, |live| live.value()))
    }
}

impl Copy {
    fn take(&mut self, record: &[u8]) {
        let kept = Record::decode(record).map_or(Kept::Same, |decoded| self.compaction.keep(&decoded));
        match kept {
            Kept::Same => self.pending.push(record),
            Kept::Instead(other) => self.pending.push(&other),
            Kept::Nothing => {}
        }
    }

    fn flush(&mut self, other: &mut redb::Table<'_, u64, &'static [u8]>) -> Result<(), redb::Error> {
        let pending = std::mem::replace(&mut self.pending, Group::new(self.next));
        if pending.first() < self.next {
            let (first, sealed) = (pending.first(), pending.seal());
            self.bytes += sealed.len() as u64;
            other.insert(first, &*sealed)?;
        }
        Ok(())
    }
}
