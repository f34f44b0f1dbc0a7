//! Ready tasks, in one queue for each kind of need, most urgent first (TASK-9)
//!
//! Tasks that need the same of a worker are alike to the scheduler: whoever can take the first one of a queue can take
//! any. So what is looked at grows with the kinds of need that there are, not with the tasks.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;
use core::time::Duration;

use crate::about::Tags;
use crate::ids::TaskId;
use crate::planted::{self, Bug};
use crate::time::{Instant, micros};

use super::peers::PeerIx;

/// A task's place in its queue: lower goes first
///
/// Ageing without moving anybody: a task competes as if it had been submitted later by its priority times the ageing
/// time, so that the order of two tasks never changes while they wait, and nobody waits for ever (LANES-1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    due: Instant,
    order: u64,
}

impl Place {
    pub(crate) fn new(submitted: Instant, priority: u8, ageing: Duration, order: u64) -> Self {
        if planted::is(Bug::Starvation) {
            return Place { due: Instant::from_micros(u64::from(priority)), order };
        }
        let later = micros(ageing).saturating_mul(u64::from(priority));
        Place { due: Instant::from_micros(submitted.as_micros().saturating_add(later)), order }
    }
}

/// What a task needs of a worker
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Need {
    /// Labels and amounts
    pub(crate) tags: Tags,
    /// That it knows what terms are (FRAME-6)
    pub(crate) terms: bool,
}

impl Need {
    /// Whether every worker will do
    pub(crate) fn is_nothing(&self) -> bool {
        self.tags.is_empty() && !self.terms
    }
}

/// A kind of need
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KindIx(u32);

#[derive(Clone, Debug, Default)]
struct Kind {
    needs: Need,
    /// Tasks of this kind that have no outcome
    tasks: u64,
    ready: BTreeMap<Place, TaskId>,
    /// Workers that could take a task of this kind now, by load
    free: BTreeSet<(usize, PeerIx)>,
}

/// All queues
#[derive(Clone, Debug)]
pub(crate) struct Queues {
    kinds: BTreeMap<KindIx, Kind>,
    by_needs: BTreeMap<Need, KindIx>,
    next: u32,
}

impl Default for Queues {
    fn default() -> Self {
        // What needs nothing is always there.
        let none = KindIx(0);
        Queues {
            kinds: BTreeMap::from([(none, Kind::default())]),
            by_needs: BTreeMap::from([(Need::default(), none)]),
            next: 1,
        }
    }
}

impl Queues {
    /// Finds the kind of a new task; `true` if there was none like it, so that nobody is listed as free for it yet
    pub(crate) fn enter(&mut self, needs: Need) -> (KindIx, bool) {
        let next = KindIx(self.next);
        let kind = *self.by_needs.entry(needs.clone()).or_insert(next);
        if kind == next {
            self.next += 1;
            self.kinds.insert(kind, Kind { needs, ..Kind::default() });
        }
        if let Some(known) = self.kinds.get_mut(&kind) {
            known.tasks += 1;
        }
        (kind, kind == next)
    }

    /// A task of this kind has its outcome; a kind without tasks is forgotten
    pub(crate) fn leave(&mut self, kind: KindIx) {
        let Some(known) = self.kinds.get_mut(&kind) else { return };
        known.tasks -= 1;
        if known.tasks == 0 && !known.needs.is_nothing() {
            self.by_needs.remove(&known.needs);
            self.kinds.remove(&kind);
        }
    }

    pub(crate) fn push(&mut self, kind: KindIx, place: Place, task: TaskId) {
        if let Some(kind) = self.kinds.get_mut(&kind) {
            kind.ready.insert(place, task);
        }
    }

    pub(crate) fn remove(&mut self, kind: KindIx, place: Place) {
        if let Some(kind) = self.kinds.get_mut(&kind) {
            kind.ready.remove(&place);
        }
    }

    /// The most urgent task that a free worker can take, and the least loaded of those
    pub(crate) fn next(&self) -> Option<(TaskId, PeerIx)> {
        let takeable = self.kinds.values().filter_map(|kind| {
            let ((place, task), (load, mut worker)) = (kind.ready.first_key_value()?, *kind.free.first()?);
            if planted::is(Bug::UnorderedDispatch) {
                let alike = || kind.free.iter().take_while(|(other, _)| *other == load);
                worker = alike().nth(planted::whim() % alike().count())?.1;
            }
            Some((*place, *task, worker))
        });
        takeable.min_by_key(|(place, ..)| *place).map(|(_, task, worker)| (task, worker))
    }

    /// Takes note of a worker that had one load and has another, and of what it can take with that
    pub(crate) fn list(&mut self, ix: PeerIx, before: Option<usize>, now: Option<(usize, impl Fn(&Need) -> bool)>) {
        for kind in self.kinds.values_mut() {
            if let Some(load) = before {
                kind.free.remove(&(load, ix));
            }
            if let Some((load, can_take)) = &now
                && (kind.needs.is_nothing() || can_take(&kind.needs))
            {
                kind.free.insert((*load, ix));
            }
        }
    }

    /// Workers that take something now, by load
    pub(crate) fn free(&self) -> impl Iterator<Item = (usize, PeerIx)> + '_ {
        self.kinds.get(&KindIx(0)).into_iter().flat_map(|kind| kind.free.iter().copied())
    }

    /// Whether a worker that has nothing could take a task of this kind now
    pub(crate) fn has_idle(&self, kind: KindIx) -> bool {
        self.kinds.get(&kind).and_then(|kind| kind.free.first()).is_some_and(|(load, _)| *load == 0)
    }

    /// Whether any task needs anything
    pub(crate) fn has_needs(&self) -> bool {
        self.kinds.len() > 1
    }

    /// What tasks of a kind need
    pub(crate) fn needs(&self, kind: KindIx) -> Option<&Need> {
        self.kinds.get(&kind).map(|kind| &kind.needs)
    }

    /// Whether no task waits for a worker
    pub(crate) fn is_idle(&self) -> bool {
        self.kinds.values().all(|kind| kind.ready.is_empty())
    }

    /// Whether this task stands there
    pub(crate) fn has(&self, kind: KindIx, place: Place, task: TaskId) -> bool {
        self.kinds.get(&kind).is_some_and(|kind| kind.ready.get(&place) == Some(&task))
    }

    /// How many tasks wait
    pub(crate) fn len(&self) -> usize {
        self.kinds.values().map(|kind| kind.ready.len()).sum()
    }

    /// Panics unless each kind has as many tasks as are counted
    pub(crate) fn check(&self, tasks_of: impl Fn(KindIx) -> u64) {
        assert_eq!(self.kinds.len(), self.by_needs.len());
        for (ix, kind) in &self.kinds {
            assert_eq!(kind.tasks, tasks_of(*ix), "tasks that need {:?}", kind.needs);
        }
    }

    /// Kinds for whose tasks a worker is listed as free
    pub(crate) fn listed(&self, load: usize, ix: PeerIx) -> Vec<&Need> {
        self.kinds.values().filter(|kind| kind.free.contains(&(load, ix))).map(|kind| &kind.needs).collect()
    }

    /// All kinds
    pub(crate) fn all_needs(&self) -> impl Iterator<Item = &Need> {
        self.kinds.values().map(|kind| &kind.needs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_9_whether_anybody_idle_could_take_a_task_is_asked_of_its_kind_and_not_of_all_workers() {
        let mut queues = Queues::default();
        let mut tags = Tags::default();
        tags.insert("os", crate::about::Tag::Label("linux".into())).expect("a legal label");
        let (picky, _) = queues.enter(Need { tags, terms: false });
        let (any, _) = queues.enter(Need::default());
        // A thousand that offer nothing, and one that could take it but has something.
        for n in 0..1000 {
            queues.list(PeerIx(n), None, Some((0, |need: &Need| need.is_nothing())));
        }
        queues.list(PeerIx(1000), None, Some((1, |_: &Need| true)));
        assert_eq!((queues.has_idle(picky), queues.has_idle(any)), (false, true));
        queues.list(PeerIx(1000), Some(1), Some((0, |_: &Need| true)));
        assert!(queues.has_idle(picky));
    }

    #[test]
    fn lanes_1_a_task_that_has_waited_long_enough_goes_before_a_more_urgent_one() {
        let ageing = Duration::from_secs(60);
        let at = |seconds: u64| Instant::from_micros(seconds * 1_000_000);
        let place = |seconds, priority, order| Place::new(at(seconds), priority, ageing, order);
        assert!(place(10, 0, 2) < place(0, 4, 1), "urgent ones first");
        assert!(place(0, 2, 1) < place(0, 2, 2), "in order within");
        assert!(place(0, 4, 1) < place(241, 0, 2), "but nobody waits for ever");
        assert!(place(239, 0, 2) < place(0, 4, 1));
    }
}
