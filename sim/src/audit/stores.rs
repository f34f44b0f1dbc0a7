//! What holds where the coordinator's store goes back to what it was, or an old one is there for a while (JOURN-2)
//!
//! Everything that follows from records is made anew from those that are left. What was told of the others stays known, as far as
//! tokens must not be given again, and as words of it may still be under way.

use std::collections::{BTreeMap, BTreeSet};

use rejoin_core::ids::{TaskId, Token};
use rejoin_core::journal::Record;
use rejoin_core::wire::message::Verdict;

use super::{Auditor, Check};

/// Refusals of a coordinator with an old store from which on it must have said that it has one: a greeting may be altered
const REFUSALS: u64 = 3;

/// What is known of records that are gone
#[derive(Clone, Debug, Default)]
pub(super) struct Stores {
    /// Attempts that were given
    given: BTreeMap<Token, (TaskId, u32)>,
    /// Attempts whose results had counted
    counted: BTreeSet<Token>,
    /// Attempts at lost tasks that workers were told to forget, and how many attempts the coordinator has named
    discarded: BTreeSet<Token>,
    named: u64,
    /// Greetings of those that had seen a later epoch, and whether the coordinator has said so
    refusals: u64,
    outdated: bool,
}

impl Stores {
    /// As what an attempt was given whose record is gone
    pub(super) fn was_given(&self, token: Token) -> Option<(TaskId, u32)> {
        self.given.get(&token).copied()
    }

    /// Whether an attempt was given, or its result had counted, and the record of that is gone
    pub(super) fn is_undone(&self, token: Token) -> bool {
        self.given.contains_key(&token) || self.counted.contains(&token)
    }

    /// Somebody greets who has seen a later epoch than that of the coordinator who answers
    pub(super) fn refused(&mut self) {
        self.refusals += 1;
    }
}

impl Auditor {
    /// The store has these records, and none of those behind them any more
    pub(crate) fn went_back<'a>(&mut self, records: impl Iterator<Item = Record<'a>>) {
        let given = std::mem::take(&mut self.assigned);
        let counted = std::mem::take(&mut self.results);
        let mut before = BTreeMap::new();
        for (task, known) in &mut self.submitted {
            before.insert(*task, (known.durable, known.ended));
            (known.durable, known.cancel_durable, known.attempts) = (false, false, 0);
            (known.ended, known.ended_by, known.newest) = (None, None, None);
            known.checkpoints.clear();
        }
        self.waiting.clear();
        records.for_each(|record| self.durable(&record));
        let assigned = &self.assigned;
        self.stores.given.extend(given.into_iter().filter(|(token, _)| !assigned.contains_key(token)));
        let results = &self.results;
        self.stores.counted.extend(counted.into_iter().filter(|token| !results.contains(token)));
        let given = &self.stores.given;
        for (task, known) in &mut self.submitted {
            let (durable, ended) = before.get(task).copied().unwrap_or_default();
            known.begun.retain(|_, token| !given.contains_key(token));
            if !known.durable {
                known.undone |= durable;
                (known.accepted, known.content) = (false, None);
            }
            if known.ended.is_none() {
                known.undone_end = ended.or(known.undone_end);
                known.told = None;
            }
            let waits = known.durable && known.attempts == 0 && known.ended.is_none() && !known.cancel_durable;
            if let Some(place) = known.place.filter(|_| waits) {
                self.waiting.insert(place, *task);
            }
        }
    }

    /// Whether an attempt was given before the store went back, and there is no record of that
    pub(crate) fn is_undone(&self, token: Token) -> bool {
        self.stores.is_undone(token)
    }

    /// Whether a task was durable once, and nothing is known of it any more
    pub(crate) fn is_lost(&self, task: TaskId) -> bool {
        self.submitted.get(&task).is_some_and(|known| known.undone && !known.durable)
    }

    /// Whether a task had ended, and the store went back behind that
    pub(crate) fn end_is_undone(&self, task: TaskId) -> bool {
        self.submitted.get(&task).is_some_and(|known| known.undone_end.is_some())
    }

    /// The coordinator says of so many attempts that it knows nothing of them
    pub(crate) fn named(&mut self, attempts: u64) {
        self.stores.named += attempts;
    }

    /// A worker is told to forget an attempt: at a lost task, that must be said to people
    pub(super) fn judged_as(&mut self, token: Token, verdict: Verdict) {
        let lost = self.stores.was_given(token).is_some_and(|(task, _)| self.is_lost(task));
        if verdict == Verdict::Discard && lost {
            self.stores.discarded.insert(token);
        }
    }

    /// Whether what is lost has been said to people, as far as workers brought it along (S35)
    pub(crate) fn expect_named(&mut self) {
        let (discarded, named) = (self.stores.discarded.len() as u64, self.stores.named);
        if discarded > 0 {
            self.expect(Check::S35, discarded <= named, || {
                format!("{discarded} attempts at lost tasks are to be forgotten, and {named} were named")
            });
        }
    }

    /// The coordinator says that its store is an old one
    pub(crate) fn outdated(&mut self) {
        self.stores.outdated = true;
    }

    /// The right store is there again
    pub(crate) fn right_store(&mut self) {
        let refusals = std::mem::take(&mut self.stores.refusals);
        let told = std::mem::take(&mut self.stores.outdated);
        if refusals >= REFUSALS {
            self.expect(Check::S35, told, || {
                format!("{refusals} greetings told the coordinator that its store is an old one, and it did not say so")
            });
        }
    }
}
