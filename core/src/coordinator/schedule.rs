//! Who gets what: pull by credit, most urgent first, least loaded worker first (TASK-9)

use alloc::collections::{BTreeMap, BTreeSet};

use crate::ids::{TaskId, Token};
use crate::journal::Record;

use super::Desk;
use super::peers::{PeerIx, Roster, Sent};
use super::tasks::{TaskState, TaskStep};

/// Why a task does not run
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its submit is not durable yet
    NotDurable,
    /// No worker is connected
    NoWorker,
    /// All connected workers have as much as they take
    WorkersBusy,
    /// Its last attempt failed; the next one waits for its time
    Pausing,
    /// Its worker crashed while others ran beside it: it waits for a worker of its own (TASK-6)
    WaitsToRunAlone,
    /// It is at a worker and has not started
    AtWorker,
    /// It runs
    Runs,
    /// It is over
    Ended,
}

/// Workers by load
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedule {
    /// Workers that take tasks now
    free: BTreeSet<(usize, PeerIx)>,
    /// All connected workers
    connected: BTreeSet<(usize, PeerIx)>,
    places: BTreeMap<PeerIx, Place>,
    /// The worker that is kept free for a suspect, or runs one (TASK-6)
    reserved: Option<PeerIx>,
    /// Attempts asked back that have neither started nor come
    recalled: BTreeSet<Token>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    load: usize,
    free: bool,
}

impl Schedule {
    /// Takes note of how a worker stands now
    pub(crate) fn place(&mut self, ix: PeerIx, roster: &Roster) {
        if let Some(old) = self.places.remove(&ix) {
            self.connected.remove(&(old.load, ix));
            self.free.remove(&(old.load, ix));
        }
        let peer = roster.get(ix);
        if peer.conn.is_none() || !peer.session.as_ref().is_some_and(|s| s.reconciled) {
            return;
        }
        let place = Place { load: peer.held.len(), free: peer.takes_tasks() && !peer.reserved };
        self.places.insert(ix, place);
        self.connected.insert((place.load, ix));
        if place.free {
            self.free.insert((place.load, ix));
        }
    }

    /// An attempt that was asked back has started, or is gone
    pub(crate) fn not_recalled(&mut self, token: Token) {
        self.recalled.remove(&token);
    }

    pub(crate) fn check(&self, roster: &Roster) {
        for (ix, place) in &self.places {
            let peer = roster.get(*ix);
            assert_eq!(place.load, peer.held.len(), "{} has another load than it is listed with", peer.name);
            assert_eq!(place.free, peer.takes_tasks() && !peer.reserved, "{} is listed wrongly", peer.name);
        }
    }
}

impl Desk {
    /// Gives out what can be given out
    pub(super) fn give_tasks(&mut self) {
        if self.gate.has_failed() {
            return;
        }
        self.give_suspects();
        while let Some(id) = self.tasks.ready.first_key_value().map(|(_, id)| *id) {
            let Some((_, ix)) = self.schedule.free.first().copied() else { break };
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
            let idle = peer.held.is_empty() && (self.tasks.suspects.is_empty() || !peer.takes_tasks());
            if gone || idle || (!self.runs_suspect(ix) && self.is_idle_elsewhere(ix)) {
                self.schedule.reserved = None;
                self.roster.get_mut(ix).reserved = false;
                self.schedule.place(ix, &self.roster);
            }
        }
        let Some(id) = self.tasks.suspects.first_key_value().map(|(_, id)| *id) else { return };
        if self.schedule.reserved.is_none() {
            // One that has nothing and takes nothing would be waited for in vain.
            let useful = |(load, ix): &&(usize, PeerIx)| *load > 0 || self.roster.get(*ix).takes_tasks();
            let Some((_, ix)) = self.schedule.connected.iter().find(useful).copied() else { return };
            self.schedule.reserved = Some(ix);
            self.roster.get_mut(ix).reserved = true;
            self.schedule.place(ix, &self.roster);
        }
        let Some(ix) = self.schedule.reserved else { return };
        if self.roster.get(ix).held.is_empty() && self.roster.get(ix).takes_tasks() {
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
        !self.roster.get(ix).held.is_empty() && self.schedule.free.first().is_some_and(|(load, _)| *load == 0)
    }

    /// `false` when no token may be used yet
    fn assign(&mut self, id: TaskId, ix: PeerIx) -> bool {
        let Some(token) = self.next_token() else { return false };
        self.tasks.step(id, TaskStep::Assign);
        let Some(task) = self.tasks.all.get(&id) else { return false };
        let attempt = task.attempts.saturating_add(1);
        self.tasks.give(token, id, ix, attempt);
        let peer = self.roster.get_mut(ix);
        peer.held.insert(token);
        self.gate.write(&Record::Assign { task: id, token, attempt, worker: peer.name.clone() });
        if let Some(session) = &mut peer.session {
            session.tasks_given += 1;
            // Not behind the gate: only tasks whose submit is durable are ready, and no exclusive ones exist (TASK-2).
            session.say(Sent::Assign(token));
        }
        self.stats.assigned += 1;
        self.story.note(self.now, id, Some(token), "assigned");
        self.schedule.place(ix, &self.roster);
        self.touch(ix);
        true
    }

    /// Asks unstarted work back from the most loaded worker for one that has nothing (TASK-9)
    fn rebalance(&mut self) {
        if !self.tasks.ready.is_empty() {
            return;
        }
        let idle = self.schedule.free.iter().take_while(|(load, _)| *load == 0).count();
        while self.schedule.recalled.len() < idle {
            let unstarted =
                self.schedule.connected.iter().rev().take_while(|(load, _)| *load >= 2).find_map(|(_, ix)| {
                    let held = self.roster.get(*ix).held.iter().rev();
                    let mut waiting = held.filter(|token| {
                        self.tasks.attempts.get(token).is_some_and(|a| !a.running && !a.recalled && !a.detached)
                    });
                    waiting.next().map(|token| (*ix, *token))
                });
            let Some((ix, token)) = unstarted else { return };
            if self.tasks.attempts.get(&token).is_some_and(|attempt| attempt.sent_as.is_none()) {
                // Its assignment has not even left: nobody need be asked.
                self.take_unstarted_back(token);
                return self.give_tasks();
            }
            if let Some(attempt) = self.tasks.attempts.get_mut(&token) {
                attempt.recalled = true;
            }
            self.schedule.recalled.insert(token);
            // Behind the gate, as the verdict is which the attempt may be waiting for.
            self.say(ix, Sent::Recall(token));
        }
    }

    pub(super) fn why(&self, id: TaskId) -> Option<Why> {
        let task = self.tasks.all.get(&id)?;
        Some(match task.state {
            TaskState::Accepting => Why::NotDurable,
            TaskState::Ready if self.schedule.connected.is_empty() => Why::NoWorker,
            TaskState::Ready if task.suspect => Why::WaitsToRunAlone,
            TaskState::Ready => Why::WorkersBusy,
            TaskState::Backoff => Why::Pausing,
            TaskState::Assigned => {
                let current = self.tasks.current(id).and_then(|token| self.tasks.attempts.get(&token));
                if current.is_some_and(|attempt| attempt.running) { Why::Runs } else { Why::AtWorker }
            }
            TaskState::Ended => Why::Ended,
        })
    }
}
