//! Which records are still of use (JOURN-5)
//!
//! A [`Census`] takes note of every record. What is of no use by then is left out by the [`Compaction`] that it makes: a
//! coordinator recovered from what is left is the same as one recovered from all, but that it does not know any more
//! how often tasks that have ended had failed before.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::{Record, homes_of};
use crate::blob::RESULT;
use crate::ids::TaskId;
use crate::wire::message::Outcome;

/// What has become of a task
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It has its outcome
    Ended(Outcome),
    /// Its id and outcome are all that is left of it
    Forgotten(Outcome),
    /// Nothing is left of it
    Lapsed,
}

/// What has become of the tasks and chunks that records are about; costs some 30 bytes for each task that has ended
#[derive(Clone, Debug, Default)]
pub struct Census {
    /// Of tasks that are not open
    fates: BTreeMap<TaskId, Fate>,
    gone: BTreeSet<u64>,
    epoch: u64,
    tokens_below: u64,
}

impl Census {
    /// Takes note of the next record
    pub fn note(&mut self, record: &Record<'_>) {
        match *record {
            Record::Epoch { epoch, .. } => self.epoch = self.epoch.max(epoch),
            Record::Tokens { below } => self.tokens_below = self.tokens_below.max(below),
            Record::Submit { task, .. } | Record::SubmitLarge { task, .. } => {
                // Its id was free again.
                self.fates.remove(&task);
            }
            Record::Result { task, outcome, last: true, .. } => {
                self.fates.insert(task, Fate::Ended(outcome));
            }
            Record::Forget { task } => {
                if let Some(Fate::Ended(outcome)) = self.fates.get(&task).copied() {
                    self.fates.insert(task, Fate::Forgotten(outcome));
                }
            }
            Record::Forgotten { task, outcome, .. } => {
                self.fates.insert(task, Fate::Forgotten(outcome));
            }
            Record::Lapsed { task } => {
                self.fates.insert(task, Fate::Lapsed);
            }
            Record::Gone { homes, .. } => self.gone.extend(homes_of(homes)),
            // What they say holds for what follows: they stay.
            Record::Lease { .. } | Record::Restored { .. } => {}
            Record::Assign { .. }
            | Record::Result { .. }
            | Record::Cancel { .. }
            | Record::Output { .. }
            | Record::Checkpoint { .. }
            | Record::Piece { .. }
            | Record::Chunk { .. }
            | Record::Manifest { .. }
            | Record::Unreadable { .. } => {}
        }
    }

    /// Begins to leave out what is of no use by now, and forgets here what will not be there any more
    pub fn compact(&mut self) -> Compaction {
        let census = self.clone();
        self.fates.retain(|_, fate| *fate != Fate::Lapsed);
        self.gone.clear();
        Compaction { census, first_epoch: true, first_tokens: true, unread: BTreeSet::new() }
    }
}

/// Goes through all records from the first one on, and leaves some out
#[derive(Clone, Debug)]
pub struct Compaction {
    census: Census,
    first_epoch: bool,
    first_tokens: bool,
    /// Tasks whose newest manifest was left out
    unread: BTreeSet<TaskId>,
}

/// What is to stand in a record's place
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The record itself
    Same,
    /// Another one, encoded
    Instead(Vec<u8>),
    /// None
    Nothing,
}

impl Compaction {
    /// What is to stand in the place of the next record
    pub fn keep(&mut self, record: &Record<'_>) -> Kept {
        let keep_if = |keep| if keep { Kept::Same } else { Kept::Nothing };
        match *record {
            // Those that follow are about what the highest of them allows.
            Record::Epoch { epoch, cluster } => {
                let first = core::mem::take(&mut self.first_epoch);
                let highest = self.census.epoch;
                if first { instead(&Record::Epoch { epoch: highest, cluster }) } else { keep_if(epoch > highest) }
            }
            Record::Tokens { below } => {
                let first = core::mem::take(&mut self.first_tokens);
                let highest = self.census.tokens_below;
                if first { instead(&Record::Tokens { below: highest }) } else { keep_if(below > highest) }
            }
            Record::Submit { task, .. } | Record::SubmitLarge { task, .. } => match self.census.fates.get(&task) {
                Some(Fate::Forgotten(outcome)) => {
                    let content = record.content().unwrap_or_default();
                    instead(&Record::Forgotten { task, content, outcome: *outcome })
                }
                Some(Fate::Lapsed) => Kept::Nothing,
                Some(Fate::Ended(_)) | None => Kept::Same,
            },
            Record::Result { task, last, .. } => {
                let fate = self.census.fates.get(&task);
                keep_if(fate.is_none() || (last && matches!(fate, Some(Fate::Ended(_)))))
            }
            Record::Assign { task, .. } | Record::Cancel { task } | Record::Output { task, .. } => {
                keep_if(matches!(self.census.fates.get(&task), Some(Fate::Ended(_)) | None))
            }
            Record::Forget { task } | Record::Lapsed { task } => keep_if(!self.census.fates.contains_key(&task)),
            Record::Forgotten { task, .. } => {
                keep_if(matches!(self.census.fates.get(&task), Some(Fate::Forgotten(_)) | None))
            }
            Record::Checkpoint { task, .. } => {
                // What is said of the newest one from here on is said of this.
                self.unread.remove(&task);
                keep_if(!self.census.fates.contains_key(&task))
            }
            Record::Piece { home, .. } | Record::Chunk { home, .. } => keep_if(!self.census.gone.contains(&home)),
            Record::Manifest { task, number: RESULT, homes, .. } => {
                let whole = homes_of(homes).all(|home| !self.census.gone.contains(&home));
                keep_if(whole && matches!(self.census.fates.get(&task), Some(Fate::Ended(_)) | None))
            }
            Record::Manifest { task, homes, .. } => {
                let whole = homes_of(homes).all(|home| !self.census.gone.contains(&home));
                let keep = whole && !self.census.fates.contains_key(&task);
                if keep {
                    self.unread.remove(&task);
                } else {
                    self.unread.insert(task);
                }
                keep_if(keep)
            }
            Record::Unreadable { task } => {
                keep_if(!self.unread.remove(&task) && !self.census.fates.contains_key(&task))
            }
            Record::Lease { .. } | Record::Restored { .. } => Kept::Same,
            Record::Gone { homes, .. } => keep_if(homes_of(homes).any(|home| !self.census.gone.contains(&home))),
        }
    }
}

fn instead(record: &Record<'_>) -> Kept {
    Kept::Instead(record.encode())
}
