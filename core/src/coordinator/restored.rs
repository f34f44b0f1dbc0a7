//! Records that may be older than what peers have seen: a backup was put back, or the store was lost (JOURN-2)
//!
//! Nothing here knows what is missing. So epoch and tokens go beyond all that may have been seen, exclusive tasks wait until no
//! lease of a lost epoch can be in force, and what peers bring along that is not known is counted and named.

use core::ops::Range;

use crate::ids::TaskId;
use crate::journal::Record;
use crate::lease::Lease;
use crate::limits::{RESTORED_EPOCHS, RESTORED_TOKENS, RESTORED_TOKENS_PER_MS};
use crate::terms::Class;
use crate::wire::message::InventoryItem;

use super::tasks::TaskStep;
use super::{Desk, Timer};

/// What may have been given out and submitted in epochs of which nothing is known
#[derive(Clone, Debug)]
pub(super) struct Gap {
    tokens: Range<u64>,
    /// Tasks submitted later begin here
    submits_from: u64,
}

impl Desk {
    /// Goes beyond all epochs and tokens that there may have been (JOURN-2, TASK-2)
    ///
    /// By the time, so that the same records may be put back twice. Only where a clock is wrong, and behind what the records have, by
    /// a step: one on top of the time would be beyond what the next such start goes by.
    pub(super) fn leap(&mut self, time: u64) {
        let beyond = |known: u64, time: u64, step| if time > known { time } else { known.saturating_add(step) };
        self.config.epoch = beyond(self.config.epoch, time, RESTORED_EPOCHS);
        let from = self.token_next;
        let below = beyond(from, time.saturating_mul(RESTORED_TOKENS_PER_MS), RESTORED_TOKENS);
        // In front of the epoch: a journal that is cut behind this gives no token twice, and its epoch is refused.
        self.gate.write(&Record::Restored { from, below, waits: true });
        self.gone_back(from, below, true);
        self.config.tokens_from = self.token_next;
    }

    /// Takes in that the records so far may be old
    pub(super) fn gone_back(&mut self, from: u64, below: u64, waits: bool) {
        if from < below {
            self.gaps.push(Gap { tokens: from..below, submits_from: self.tasks.next_order() });
            let next = self.token_next.max(below);
            (self.token_next, self.tokens_reserved, self.tokens_asked) = (next, next, next);
        }
        self.unknown_leases = waits;
    }

    /// Has exclusive tasks wait until no lease can be in force that was given in an epoch of which nothing is known (TASK-4)
    pub(super) fn wait_for_unknown_leases(&mut self) {
        if self.unknown_leases {
            let leases = self.tasks.attempts.values().filter_map(|attempt| attempt.lease);
            let longest = leases.chain(self.recorded_lease).chain([self.lease()]).map(Lease::wait).max();
            self.exclusive_from = self.now + longest.unwrap_or_default();
            self.timers.set(Timer::UnknownLeases, Some(self.exclusive_from));
        }
    }

    /// All such leases have ended
    pub(super) fn unknown_leases_over(&mut self) {
        self.unknown_leases = false;
        self.gate.write(&Record::Restored { from: 0, below: 0, waits: false });
    }

    /// Whether the journal knows nothing of what a worker holds
    pub(super) fn is_unheard_of(&self, item: &InventoryItem) -> bool {
        let token = item.token.0;
        !self.tasks.knows(item.task)
            || self.gaps.iter().any(|gap| gap.tokens.contains(&token))
            || token >= self.token_next
    }

    /// Whether a token was given before its task was submitted: then it is of another task of that id, which was lost with a
    /// store or is forgotten, and nobody knows whether that was the same (TASK-1)
    pub(super) fn is_of_a_namesake(&self, item: &InventoryItem) -> bool {
        let (token, order) = (item.token.0, self.tasks.all.get(&item.task).map_or(0, |task| task.order));
        let lost = |gap: &Gap| token < gap.tokens.end && order >= gap.submits_from;
        (token < self.config.tokens_from && order >= self.submits_from) || self.gaps.iter().any(lost)
    }

    /// Whether a task waits for leases that nobody here knows of (TASK-4)
    pub(super) fn waits_for_unknown_lease(&self, id: TaskId) -> bool {
        let exclusive = self.tasks.all.get(&id).is_some_and(|task| task.terms.class == Class::Exclusive);
        exclusive && self.now < self.exclusive_from
    }

    /// Puts a task off that is to be given out, if it waits for such leases
    pub(super) fn hold_back(&mut self, id: TaskId) -> bool {
        let waits = self.waits_for_unknown_lease(id);
        if waits {
            self.tasks.step(id, TaskStep::Hold);
            self.timers.set(Timer::Retry(id), Some(self.exclusive_from));
            self.story.note(self.now, id, None, "waits for leases of lost epochs");
        }
        waits
    }
}
