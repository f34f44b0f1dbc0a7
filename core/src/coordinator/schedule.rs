//! Who gets what: pull by credit, most urgent first, least loaded worker first (TASK-9)

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use crate::about::{Tag, Tags};
use crate::ids::{Role, TaskId, Token};
use crate::journal::Record;
use crate::outline::{Name, Outline};
use crate::planted::{self, Bug};
use crate::terms::Class;
use crate::wire::view::Why;

use super::Desk;
use super::gate::Effect;
use super::peers::{Peer, PeerIx, Sent};
use super::queues::{Need, Queues};
use super::tasks::{Attempt, Task, TaskState, TaskStep, Tasks};

/// Workers by load
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedule {
    /// All connected workers; those that take tasks now are listed in the queues
    connected: BTreeSet<(usize, PeerIx)>,
    places: BTreeMap<PeerIx, Listed>,
    /// The worker that is kept free for a suspect, or runs one (TASK-6)
    reserved: Option<PeerIx>,
    /// Attempts asked back that have neither started nor come
    recalled: BTreeSet<Token>,
    /// Workers with more than one task that were not found to have started them all since their place last changed
    lenders: BTreeSet<(usize, PeerIx)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Listed {
    load: usize,
    free: bool,
}

impl Schedule {
    /// An attempt that was asked back has started, or is gone
    pub(crate) fn not_recalled(&mut self, token: Token) {
        self.recalled.remove(&token);
    }

    /// Takes in what is not seen from tasks and peers
    pub(crate) fn outline(&self, o: &mut Outline) {
        o.put(self.reserved);
        o.names(self.recalled.iter().map(|token| Name::Token(*token)));
    }

    /// Returns how many workers are connected
    pub(crate) fn connected(&self) -> u64 {
        self.connected.len() as u64
    }
}

impl Desk {
    /// Takes note of how a worker stands now
    pub(super) fn place(&mut self, ix: PeerIx) {
        let before = self.schedule.places.remove(&ix);
        if let Some(old) = before {
            self.schedule.connected.remove(&(old.load, ix));
            self.schedule.lenders.remove(&(old.load, ix));
        }
        let peer = self.roster.get(ix);
        let there = peer.role == Role::Worker
            && peer.conn.is_some()
            && peer.session.as_ref().is_some_and(|session| session.reconciled);
        let several = peer.held.len() >= 2;
        let now = there.then(|| Listed { load: self.rank(ix), free: self.is_free(ix) });
        if let Some(listed) = now {
            self.schedule.places.insert(ix, listed);
            self.schedule.connected.insert((listed.load, ix));
            if several {
                self.schedule.lenders.insert((listed.load, ix));
            }
        }
        let knows_terms = self.knows_terms(ix);
        let Desk { tasks, roster, .. } = self;
        let Tasks { queues, all, attempts, .. } = tasks;
        // What a kind needs is looked at while the kinds change hands, so that amounts are summed up beforehand.
        let taken = taken(roster.get(ix), all, attempts, queues);
        let offers = roster.get(ix).session.as_ref().map(|session| &session.offers);
        let fits = |need: &Need| {
            let met = |offers| need.tags.met_with(offers, |name| taken.get(name).copied().unwrap_or(0));
            (knows_terms || !need.terms) && offers.is_some_and(met)
        };
        let free = now.filter(|listed| listed.free).map(|listed| (listed.load, fits));
        queues.list(ix, before.filter(|old| old.free).map(|old| old.load), free);
    }

    /// A kind of need is new: whoever could take it is to be listed for it
    pub(super) fn list_all(&mut self) {
        for ix in self.schedule.places.keys().copied().collect::<Vec<_>>() {
            self.place(ix);
        }
    }

    /// Whether a worker offers what a task needs, were it free
    fn fits(&self, id: TaskId, ix: PeerIx) -> bool {
        let needs = self.tasks.all.get(&id).and_then(|task| self.tasks.queues.needs(task.kind));
        let offers = self.roster.get(ix).session.as_ref().map(|session| &session.offers);
        let told = |need: &Need| !need.terms || self.knows_terms(ix);
        needs.zip(offers).is_some_and(|(need, offers)| need.tags.met_by(offers) && told(need))
    }

    pub(super) fn check_schedule(&self) {
        for (ix, listed) in &self.schedule.places {
            let peer = self.roster.get(*ix);
            assert_eq!(listed.load, self.rank(*ix), "{} has another load than it is listed with", peer.name);
            assert_eq!(listed.free, self.is_free(*ix), "{} is listed wrongly", peer.name);
            let Tasks { queues, all, attempts, .. } = &self.tasks;
            let taken = taken(peer, all, attempts, queues);
            let offers = peer.session.as_ref().map(|session| &session.offers);
            let knows_terms = self.knows_terms(*ix);
            let fits = |need: &&Need| {
                let met = |offers: &Tags| need.tags.met_with(offers, |name| taken.get(name).copied().unwrap_or(0));
                listed.free && (need.is_nothing() || (offers.is_some_and(met) && (knows_terms || !need.terms)))
            };
            let expected: Vec<&Need> = queues.all_needs().filter(fits).collect();
            assert_eq!(queues.listed(listed.load, *ix), expected, "{} is listed for other tasks", peer.name);
        }
    }

    /// Gives out what can be given out
    pub(super) fn give_tasks(&mut self) {
        if self.gate.has_failed() {
            return;
        }
        self.give_suspects();
        while let Some((id, ix)) = self.tasks.queues.next() {
            if !self.assign(id, ix) {
                break;
            }
        }
        self.rebalance();
    }

    /// Suspects run one at a time, on a worker that has nothing else (TASK-6)
    fn give_suspects(&mut self) {
        if let Some(ix) = self.schedule.reserved {
            let peer = self.roster.get(ix);
            let gone = peer.conn.is_none() && (peer.held.is_empty() || peer.lost);
            let waits_for_it = self.tasks.suspects.values().next().is_some_and(|id| self.fits(*id, ix));
            let idle = peer.held.is_empty() && (!waits_for_it || !peer.takes_tasks());
            if gone || idle || (!self.runs_suspect(ix) && self.is_idle_elsewhere(ix)) {
                self.schedule.reserved = None;
                self.roster.get_mut(ix).reserved = false;
                self.place(ix);
            }
        }
        let Some(id) = self.tasks.suspects.first_key_value().map(|(_, id)| *id) else { return };
        if self.schedule.reserved.is_none() {
            // One that has nothing and takes nothing would be waited for in vain.
            let useful = |(_, ix): &&(usize, PeerIx)| {
                let peer = self.roster.get(*ix);
                !peer.is_draining() && (!peer.held.is_empty() || peer.takes_tasks()) && self.fits(id, *ix)
            };
            let Some((_, ix)) = self.schedule.connected.iter().find(useful).copied() else { return };
            self.schedule.reserved = Some(ix);
            self.roster.get_mut(ix).reserved = true;
            self.place(ix);
        }
        let Some(ix) = self.schedule.reserved else { return };
        let takes = self.roster.get(ix).takes_tasks() && !self.is_suspected(ix);
        if self.roster.get(ix).held.is_empty() && takes && self.fits(id, ix) {
            self.assign(id, ix);
        }
    }

    fn runs_suspect(&self, ix: PeerIx) -> bool {
        let suspect = |token: &Token| {
            let task = self.tasks.attempts.get(token).and_then(|attempt| self.tasks.all.get(&attempt.task));
            task.is_some_and(|task| task.suspect)
        };
        self.roster.get(ix).held.iter().any(suspect)
    }

    /// Whether another worker has nothing to do, while this one has
    fn is_idle_elsewhere(&self, ix: PeerIx) -> bool {
        !self.roster.get(ix).held.is_empty() && self.tasks.queues.free().next().is_some_and(|(load, _)| load == 0)
    }

    /// `false` when no token may be used yet
    fn assign(&mut self, id: TaskId, ix: PeerIx) -> bool {
        if self.hold_back(id) {
            return true;
        }
        let Some(token) = self.next_token() else { return false };
        self.tasks.step(id, TaskStep::Assign);
        self.retire_others(id);
        let Some(task) = self.tasks.all.get(&id) else { return false };
        let reused = planted::is(Bug::AttemptReused) && task.attempts > 0;
        let attempt = task.attempts.saturating_add(u32::from(!reused));
        let restores = task.checkpoint.as_ref().is_some_and(|from| from.names().is_empty());
        if task.terms.class == Class::Exclusive {
            self.record_lease(ix);
        }
        self.tasks.give(token, id, ix, attempt);
        let peer = self.roster.get_mut(ix);
        peer.held.insert(token);
        self.gate.write(&Record::Assign { task: id, token, attempt, worker: peer.name.clone() });
        if let Some(session) = &mut peer.session {
            session.tasks_given += 1;
            let id = session.numbers.id;
            // Behind its own record: were it lost with this epoch, another worker could be given the task as well.
            self.gate.then(Effect::Say(ix, id, Sent::Assign(token)));
            if restores {
                self.gate.then(Effect::Say(ix, id, Sent::Restore(token)));
            }
        }
        self.stats.assigned += 1;
        self.story.note(self.now, id, Some(token), "assigned");
        self.place(ix);
        self.touch(ix);
        true
    }

    /// Asks unstarted work back from the most loaded worker for one that has nothing (TASK-9)
    fn rebalance(&mut self) {
        if self.schedule.lenders.is_empty() || !self.tasks.queues.is_idle() {
            return;
        }
        // As many are asked for as there are workers with nothing, of whom there may be thousands.
        while self.tasks.queues.free().nth(self.schedule.recalled.len()).is_some_and(|(load, _)| load == 0) {
            let Some((ix, token)) = self.unstarted() else { return };
            if self.tasks.attempts.get(&token).is_some_and(|attempt| attempt.sent_as.is_none()) {
                // Its assignment has not even left: nobody need be asked.
                self.take_unstarted_back(token);
                return self.give_tasks();
            }
            self.schedule.recalled.insert(token);
            self.recall(ix, token);
        }
    }

    /// An attempt is asked for, if it has not started
    pub(super) fn recall(&mut self, ix: PeerIx, token: Token) {
        if let Some(attempt) = self.tasks.attempts.get_mut(&token) {
            attempt.recalled = true;
            // Behind the gate, as the verdict is which the attempt may be waiting for.
            self.say(ix, Sent::Recall(token));
        }
    }

    /// The last attempt that the most loaded worker has not started, and that a worker with nothing could take
    fn unstarted(&mut self) -> Option<(PeerIx, Token)> {
        let mut from = (usize::MAX, PeerIx(u32::MAX));
        while let Some((load, ix)) = self.schedule.lenders.range(..from).next_back().copied() {
            let attempts = &self.tasks.attempts;
            let is_waiting = |a: &Attempt| !a.running && !a.recalled && !a.detached;
            let held = self.roster.get(ix).held.iter().rev();
            let waiting: Vec<_> = held.filter_map(|t| Some((*t, attempts.get(t).filter(|a| is_waiting(a))?))).collect();
            let Tasks { all, queues, .. } = &self.tasks;
            let wanted = |attempt: &Attempt| all.get(&attempt.task).is_some_and(|task| queues.has_idle(task.kind));
            if let Some((token, _)) = waiting.iter().find(|(_, attempt)| wanted(attempt)) {
                return Some((ix, *token));
            }
            if waiting.is_empty() {
                // Looked at again when its place changes, so that not every message goes through all workers.
                self.schedule.lenders.remove(&(load, ix));
            }
            from = (load, ix);
        }
        None
    }

    pub(super) fn why(&self, id: TaskId) -> Option<Why> {
        let task = self.tasks.all.get(&id)?;
        let fits = || self.schedule.connected.iter().any(|(_, ix)| self.fits(id, *ix));
        Some(match task.state {
            TaskState::Accepting => Why::NotDurable,
            TaskState::Ready if self.schedule.connected.is_empty() => Why::NoWorker,
            TaskState::Ready if !fits() => Why::NothingFits,
            TaskState::Ready if task.suspect => Why::WaitsToRunAlone,
            TaskState::Ready => Why::WorkersBusy,
            TaskState::Backoff if self.waits_for_lease(id).is_some() || self.waits_for_unknown_lease(id) => {
                Why::LeaseHeld
            }
            TaskState::Backoff => Why::Pausing,
            TaskState::Assigned => {
                let current = self.tasks.current(id).and_then(|token| self.tasks.attempts.get(&token));
                match current {
                    Some(attempt) if self.roster.get(attempt.peer).conn.is_none() => Why::WorkerAway,
                    Some(attempt) if attempt.running => Why::Runs,
                    Some(_) | None => Why::AtWorker,
                }
            }
            TaskState::Ended => Why::Ended,
        })
    }
}

/// How much of each amount the tasks of a worker take
fn taken(
    peer: &Peer,
    tasks: &BTreeMap<TaskId, Task>,
    attempts: &BTreeMap<Token, Attempt>,
    queues: &Queues,
) -> BTreeMap<String, u64> {
    let mut taken = BTreeMap::new();
    if !queues.has_needs() {
        return taken;
    }
    for token in &peer.held {
        let task = attempts.get(token).and_then(|attempt| tasks.get(&attempt.task));
        let needs = task.and_then(|task| queues.needs(task.kind));
        for (name, tag) in needs.into_iter().flat_map(|need| need.tags.iter()) {
            if let Tag::Amount(amount) = tag {
                *taken.entry(name.into()).or_default() += u64::from(*amount);
            }
        }
    }
    taken
}
