//! In which order tasks are given out (S19)

use std::time::Duration;

use rejoin_core::Instant;
use rejoin_core::ids::TaskId;

use super::{Auditor, Promised};

/// A task's place among those that wait: lower goes first (LANES-1)
///
/// A task competes as if it had been submitted later by its priority times the ageing time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    due: Instant,
    order: u64,
}

impl Auditor {
    /// A coordinator takes a task in, at that time of its clock
    pub(crate) fn queued(&mut self, task: TaskId, now: Instant, later: Duration) {
        self.submits += 1;
        // No machine lets its time go back.
        self.queued_at = self.queued_at.max(now);
        let place = Place { due: self.queued_at + later, order: self.submits };
        if let Some(old) = self.submitted.entry(task).or_default().place.replace(place) {
            self.waiting.remove(&old);
        }
        self.waiting.insert(place, task);
    }

    /// A task was given out, or will not be
    pub(crate) fn waits_no_more(&mut self, task: TaskId) {
        if let Some(place) = self.submitted.get(&task).and_then(|known| known.place) {
            self.waiting.remove(&place);
        }
    }

    /// Another coordinator knows nothing of when tasks were submitted, but for their order
    pub(crate) fn requeued(&mut self, now: Instant, later: impl Fn(TaskId) -> Duration) {
        let mut waiting: Vec<(Place, TaskId)> = std::mem::take(&mut self.waiting).into_iter().collect();
        waiting.sort_by_key(|(place, _)| place.order);
        self.queued_at = now;
        for (_, task) in waiting {
            self.queued(task, now, later(task));
        }
    }

    /// Tasks that should be given out before this one, if they can be: never given out, and with a lower place
    ///
    /// One that became durable in this very moment may have done so behind what was given out in it.
    pub(crate) fn goes_before(&self, task: TaskId) -> impl Iterator<Item = TaskId> {
        let place = self.submitted.get(&task).and_then(|known| known.place);
        let durable = |known: &Promised| known.durable && known.durable_at < self.now;
        let before = place.into_iter().flat_map(|place| self.waiting.range(..place));
        before.map(|(_, task)| *task).filter(move |task| self.submitted.get(task).is_some_and(durable))
    }
}
