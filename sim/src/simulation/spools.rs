//! What workers keep on their disks: what they had finished, until that is settled (SESS-9)
//!
//! A store survives the process, as far as it was synced. The room for what is still to be kept is reserved before
//! work is taken, so that a disk that is full takes what is under way and nothing more.

use std::collections::BTreeMap;
use std::time::Duration;

use rejoin_core::blob::RESULT;
use rejoin_core::ids::Token;
use rejoin_core::worker;

use super::net::Timed;
use super::nodes::{Execution, Machine};
use super::people::{Gone, worker_places};
use super::{Happening, Simulation, Who};
use crate::audit::Check;
use crate::menu::Kind;
use crate::schedule::Knob;
use crate::store::Kept;

/// The disk of one worker
#[derive(Clone, Debug, Default)]
pub(super) struct Store {
    /// Synced
    kept: BTreeMap<Token, Kept>,
    /// Written, and gone if the process ends now
    written: BTreeMap<Token, Kept>,
    /// It is not what this worker left there
    foreign: Option<Foreign>,
    /// It takes nothing more
    full: Timed,
    /// Places that were reserved and could not be reserved anew since
    short: u16,
}

/// What becomes of a store that is another worker's, or an old one
#[derive(Clone, Copy, Debug)]
pub(super) enum Foreign {
    /// It is not taken; its worker gets an empty one
    Refused,
    /// It is, though it should not be
    Taken,
}

impl Store {
    /// Has what another one has, and gives back what was here
    pub(super) fn exchange(&mut self, other: Store, as_what: Foreign) -> Store {
        self.foreign = Some(as_what);
        let kept = std::mem::replace(&mut self.kept, other.kept);
        Store { kept, ..Store::default() }
    }

    /// How much is in it that a later life will be told of
    pub(super) fn len(&self) -> usize {
        self.kept.len()
    }

    /// What is not synced goes with the process
    pub(super) fn crash(&mut self) {
        self.written.clear();
    }

    /// Takes the place of what is there, as after a restore of the disk
    pub(super) fn put_back(&mut self, old: Store) {
        self.kept = old.kept;
        self.written = old.written;
    }
}

impl Simulation {
    /// Whether workers keep anything
    fn workers_keep(&self) -> bool {
        self.schedule.setting(Knob::Keeps) == Some(1)
    }

    /// A worker wants something kept that is over
    pub(super) fn keep(&mut self, peer: usize, token: Token) {
        if !self.workers_keep() {
            return;
        }
        let printed = self.printed.get(&token).map_or(&[][..], |printed| printed);
        let Some(Machine::Worker(worker)) = &self.peers[peer].machine else { return };
        let returned = self.peers[peer].saved.get(&(token, RESULT)).map_or(&[][..], |returned| returned);
        let Some(kept) = Kept::of(worker, token, printed, returned) else { return };
        let node = &mut self.peers[peer];
        node.store.written.insert(token, kept);
        let life = node.life.number;
        self.happen(self.chief.sync_takes, peer as u64, Happening::Kept { peer, life, token });
    }

    /// It is synced
    pub(super) fn kept(&mut self, peer: usize, life: u64, token: Token) {
        let (now, clock) = (self.now, self.clock(Who::Peer(peer)));
        let places = worker_places(&self.schedule);
        let node = &mut self.peers[peer];
        if node.life.number != life {
            return;
        }
        // Settled meanwhile, it need not be kept.
        let Some(kept) = node.store.written.remove(&token) else { return };
        node.store.kept.insert(token, kept);
        self.auditor.kept(peer, token);
        if node.store.full.at(now).is_some() {
            // The room that it took was reserved, and there is none to reserve in its place.
            node.store.short = (node.store.short + 1).min(places);
            self.tally.hit(Kind::StoreFull);
        }
        let attempts = places - node.store.short;
        let Some(Machine::Worker(worker)) = &mut node.machine else { return };
        worker.handle(clock, worker::Input::Reserved { attempts }).expect("room is never refused");
        worker.handle(clock, worker::Input::Kept { token }).expect("it is never refused that something is kept");
        self.dirty.insert(Who::Peer(peer));
    }

    /// There is room on a disk again
    pub(super) fn store_has_room(&mut self, peer: usize) {
        let (now, clock) = (self.now, self.clock(Who::Peer(peer)));
        let attempts = worker_places(&self.schedule);
        let node = &mut self.peers[peer];
        if node.store.full.at(now).is_some() || std::mem::take(&mut node.store.short) == 0 {
            return;
        }
        if let Some(Machine::Worker(worker)) = &mut node.machine {
            worker.handle(clock, worker::Input::Reserved { attempts }).expect("room is never refused");
            self.dirty.insert(Who::Peer(peer));
        }
    }

    /// Nothing is broken about a disk any more
    pub(super) fn heal_store(&mut self, peer: usize) {
        self.peers[peer].store.full = Timed::default();
        self.store_has_room(peer);
    }

    /// A disk takes nothing more for a while
    pub(super) fn fill_store(&mut self, peer: usize, span: Duration) {
        let until = self.now + span;
        self.peers[peer].store.full.set(until.as_micros(), until);
        self.happen_at(until, peer as u64, Happening::StoreRoom { peer });
    }

    /// Everything kept of an attempt goes
    pub(super) fn let_go(&mut self, peer: usize, token: Token) {
        let store = &mut self.peers[peer].store;
        store.written.remove(&token);
        store.kept.remove(&token);
        self.auditor.let_go(peer, token);
    }

    /// A store is another one from now on, or none
    pub(super) fn replace_store(&mut self, peer: usize, store: Store) {
        self.peers[peer].store.put_back(store);
        let tokens = self.peers[peer].store.kept.keys().copied().collect();
        self.auditor.store_replaced(peer, tokens);
    }

    /// What was being written when a worker was as it is now is written
    pub(super) fn sync_again(&mut self, peer: usize) {
        let life = self.peers[peer].life.number;
        let written: Vec<Token> = self.peers[peer].store.written.keys().copied().collect();
        for token in written {
            self.happen(self.chief.sync_takes, peer as u64, Happening::Kept { peer, life, token });
        }
    }

    /// A worker that begins is told what an earlier life had finished
    pub(super) fn restore_kept(&mut self, peer: usize) {
        let foreign = self.peers[peer].store.foreign.take();
        match foreign {
            None => {}
            Some(Foreign::Refused) => self.replace_store(peer, Store::default()),
            Some(Foreign::Taken) => {
                let store = self.peers[peer].store.clone();
                self.replace_store(peer, store);
            }
        }
        let now = self.clock(Who::Peer(peer));
        let kept: Vec<Kept> = self.peers[peer].store.kept.values().cloned().collect();
        let short = self.peers[peer].store.short;
        let attempts = worker_places(&self.schedule) - short;
        for kept in kept {
            let Some(Machine::Worker(worker)) = &mut self.peers[peer].machine else { return };
            let taken = kept.restore(worker, now);
            let (id, token) = (kept.task, kept.token);
            let at = self.name(Who::Peer(peer));
            self.auditor.expect_of(Check::S36, id, taken.is_ok(), || {
                format!("{at} does not take back what it had kept of {token}: {taken:?}")
            });
            self.figures.restored += 1;
            let foreign = foreign.is_some();
            let execution = Execution { foreign, over: true, ..Execution::new(id, Box::new(Gone)) };
            self.peers[peer].running.insert(token, execution);
            if !kept.bytes.is_empty() {
                self.peers[peer].saved.insert((token, RESULT), kept.bytes);
            }
        }
        let holds = |simulation: &Simulation, token: Token| match &simulation.peers[peer].machine {
            Some(Machine::Worker(worker)) => worker.finished(token).is_some(),
            Some(Machine::Client(_)) | None => false,
        };
        for token in self.auditor.kept_by(peer) {
            let holds = holds(self, token);
            self.auditor.expect(Check::S36, holds, || format!("what was kept of {token} is gone with a crash"));
        }
        if let Some(Machine::Worker(worker)) = &mut self.peers[peer].machine
            && short > 0
        {
            worker.handle(now, worker::Input::Reserved { attempts }).expect("room is never refused");
        }
    }
}
