//! In which order tasks are given out (S19)

use std::time::Duration;

use rejoin_core::Instant;
use rejoin_core::ids::TaskId;

use super::Auditor;

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
        self.submitted.entry(task).or_default().place = Some(place);
    }

    /// Another coordinator knows nothing of when tasks were submitted, but for their order
    pub(crate) fn requeued(&mut self, now: Instant, later: impl Fn(TaskId) -> Duration) {
        let mut waiting: Vec<(Place, TaskId)> =
            self.submitted.iter().filter_map(|(id, known)| Some((known.place?, *id))).collect();
        waiting.sort_by_key(|(place, _)| place.order);
        self.queued_at = now;
        for (_, task) in waiting {
            self.queued(task, now, later(task));
        }
    }

    /// Tasks that should be given out before this one, if they can be: never given out, and with a lower place
    pub(crate) fn goes_before(&self, task: TaskId) -> Vec<TaskId> {
        let Some(place) = self.submitted.get(&task).and_then(|known| known.place) else { return Vec::new() };
        let first = self.submitted.iter().filter(|(_, known)| {
            let waits = known.durable && known.attempts == 0 && known.ended.is_none() && !known.cancel_durable;
            waits && known.place.is_some_and(|other| other < place)
        });
        first.map(|(id, _)| *id).collect()
    }
}
