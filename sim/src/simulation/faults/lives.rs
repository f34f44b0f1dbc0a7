//! Crashes, clones, keys, and the coordinator's disk

use std::time::Duration;

use rejoin_core::Loss;
use rejoin_core::coordinator;
use rejoin_core::limits::{ROTATION_SINCE, WIRE_VERSION, WIRE_VERSION_OLDEST};
use rejoin_core::worker;

use super::super::nodes::{Machine, Peer, Snapshot};
use super::super::spools::{Foreign, Store};
use super::super::{Happening, Simulation, Who};
use crate::menu::Kind;
use crate::schedule::Fault;

/// How long join tokens are good: whatever clocks do, nobody has to bring another one
const TOKEN_VALID: Duration = Duration::MAX;

/// Most processes with somebody else's key at a time
const CLONES_MAX: usize = 8;

impl Simulation {
    pub(super) fn disturb_worker(&mut self, peer: usize, fault: Fault) {
        let until = self.now + fault.span;
        let who = Who::Peer(peer);
        let lives = self.peers[peer].machine.is_some();
        match fault.kind {
            Kind::Crash if lives => {
                self.tally.hit(fault.kind);
                self.kill_peer(peer);
                self.happen(fault.span, peer as u64, Happening::Start(who));
            }
            Kind::WipeStore if lives => {
                if self.peers[peer].store.len() > 0 {
                    self.tally.hit(fault.kind);
                }
                self.kill_peer(peer);
                self.replace_store(peer, Store::default());
                self.happen(fault.span, peer as u64, Happening::Start(who));
            }
            Kind::SwapStores if lives => self.swap_stores(peer, fault),
            Kind::OldSpool if lives => {
                let store = Box::new(self.peers[peer].store.clone());
                self.happen(fault.span, peer as u64, Happening::OldSpool { peer, store });
            }
            Kind::StoreFull => self.fill_store(peer, fault.span),
            Kind::Upgrade if lives => {
                self.tally.hit(fault.kind);
                if !self.peers[peer].joins {
                    self.peers[peer].wire_version = Some(self.version(fault.amount));
                }
                self.kill_peer(peer);
                self.happen(fault.span, peer as u64, Happening::Start(who));
            }
            Kind::CrashLoop => {
                self.peers[peer].life.loops.set(fault.amount, until);
                if lives {
                    self.dies(peer, self.peers[peer].life.number, Kind::CrashLoop, Duration::ZERO);
                }
            }
            Kind::CrashResuming => self.peers[peer].dies_resuming = Some((fault.amount, fault.span)),
            Kind::Snapshot if !self.peers[peer].revoked && !self.peers[peer].wrong_key && !self.peers[peer].joins => {
                let node = &mut self.peers[peer];
                let Some(machine) = node.machine.clone() else { return };
                if matches!(&machine, Machine::Worker(worker) if worker.next_key().is_some()) {
                    // Nobody would tell it, put back, what became of its key.
                    return;
                }
                let running = node.running.iter().map(|(token, e)| (*token, e.id, e.over)).collect();
                let (saved, restores, fed) = (node.saved.clone(), node.restores.clone(), node.fed.clone());
                let dialled = node.dialled;
                let store = node.store.clone();
                node.snapshot = Some(Box::new(Snapshot { machine, running, saved, restores, fed, store, dialled }));
                self.happen(fault.span, peer as u64, Happening::PutBack { peer });
            }
            // A token is one holder's, and good for nothing where version 1 is spoken.
            Kind::Clone if !self.peers[peer].joins && !self.awaits_key(peer) => self.start_clone(peer, fault.span),
            Kind::WrongKey if lives && !self.peers[peer].revoked => {
                self.tally.hit(fault.kind);
                self.peers[peer].wrong_key = true;
                self.peers[peer].snapshot = None;
                self.kill_peer(peer);
                self.start_peer(peer);
                self.happen(fault.span, peer as u64, Happening::RightKey { peer });
            }
            Kind::Rekey if !self.peers[peer].revoked && self.chief.machine.is_some() => {
                self.tally.hit(fault.kind);
                self.revoke(peer);
                self.happen(fault.span, peer as u64, Happening::Enrols { peer });
            }
            Kind::Token if !self.peers[peer].revoked && self.chief.machine.is_some() && !self.has_double(peer) => {
                self.tally.hit(fault.kind);
                self.revoke(peer);
                self.peers[peer].token = Some(Duration::from_micros(fault.amount));
                self.happen(fault.span, peer as u64, Happening::Enrols { peer });
            }
            Kind::Rotate if lives && !self.has_double(peer) => self.rotate(peer, fault),
            Kind::Drain if lives && !self.peers[peer].draining => {
                self.drain_worker(peer);
                self.tally.hit(fault.kind);
                self.happen(fault.span, peer as u64, Happening::Start(who));
            }
            Kind::Frozen => self.peers[peer].frozen = true,
            // It is not there to suffer that.
            _ => {}
        }
    }

    /// A worker ends, because some fault says so of this life, and starts again after a while
    pub(in super::super) fn dies(&mut self, peer: usize, life: u64, kind: Kind, away: Duration) {
        let node = &self.peers[peer];
        if node.life.number != life || node.machine.is_none() || self.is_whole(Who::Peer(peer)) {
            return;
        }
        self.tally.hit(kind);
        self.kill_peer(peer);
        // Whoever supervises it needs a moment.
        let away = away.max(Duration::from_millis(200));
        self.happen(away, peer as u64, Happening::Start(Who::Peer(peer)));
    }

    /// A worker goes on from what it was some time ago, as a machine does that is put back to a snapshot
    pub(in super::super) fn put_back(&mut self, peer: usize) {
        let Some(snapshot) = self.peers[peer].snapshot.take() else { return };
        if self.is_whole(Who::Peer(peer)) {
            return;
        }
        self.tally.hit(Kind::Snapshot);
        self.clocks_differ = true;
        self.kill_peer(peer);
        let Snapshot { machine, running, saved, restores, fed, store, dialled } = *snapshot;
        let node = &mut self.peers[peer];
        (node.saved, node.restores, node.fed) = (saved, restores, fed);
        node.life.number += 1;
        node.draining = matches!(&machine, Machine::Worker(worker) if worker.is_draining());
        node.machine = Some(machine);
        // Nothing can be said of when it does what: its clock is ahead of all that it remembers.
        node.life.disturbed = true;
        self.auditor.put_back(peer);
        self.auditor.forgets();
        self.auditor.born(peer);
        running.into_iter().for_each(|(token, id, over)| self.execution_gone(peer, token, id, over));
        self.replace_store(peer, store);
        self.sync_again(peer);
        self.tell_lost(peer, dialled, Loss::Local);
        self.drain();
    }

    /// Two workers end, and each starts again with the other's store
    fn swap_stores(&mut self, peer: usize, fault: Fault) {
        let other = (peer + 1) % usize::from(self.schedule.workers);
        if other == peer || self.peers[other].machine.is_none() {
            return;
        }
        let as_what = if fault.amount.is_multiple_of(2) { Foreign::Refused } else { Foreign::Taken };
        if self.peers[peer].store.len() + self.peers[other].store.len() > 0 {
            self.tally.hit(fault.kind);
        }
        for peer in [peer, other] {
            self.kill_peer(peer);
            self.peers[peer].snapshot = None;
            self.happen(fault.span, peer as u64, Happening::Start(Who::Peer(peer)));
        }
        let mine = self.peers[peer].store.clone();
        let theirs = self.peers[other].store.exchange(mine, as_what);
        self.peers[peer].store.exchange(theirs, as_what);
    }

    /// A worker starts anew, with the store that it had some time ago
    pub(in super::super) fn old_spool(&mut self, peer: usize, store: Store) {
        if self.is_whole(Who::Peer(peer)) || self.peers[peer].machine.is_none() {
            return;
        }
        if self.peers[peer].store.len() + store.len() > 0 {
            self.tally.hit(Kind::OldSpool);
        }
        self.kill_peer(peer);
        // What the coordinator made of it since nobody can say.
        self.peers[peer].store.exchange(store, Foreign::Taken);
        self.happen(Duration::from_millis(200), peer as u64, Happening::Start(Who::Peer(peer)));
    }

    /// Another process with a worker's key starts
    fn start_clone(&mut self, of: usize, span: Duration) {
        let first = usize::from(self.schedule.workers) + usize::from(self.schedule.clients);
        let free = (first..self.peers.len()).find(|peer| self.peers[*peer].machine.is_none());
        let clone = match free {
            Some(clone) => clone,
            None if self.peers.len() < first + CLONES_MAX => {
                self.peers.push(Peer::default());
                self.peers.len() - 1
            }
            None => return,
        };
        self.tally.hit(Kind::Clone);
        self.peers[clone].clone_of = Some(of);
        self.replace_store(clone, Store::default());
        self.auditor.forgets();
        self.start_peer(clone);
        let life = self.peers[clone].life.number;
        self.happen(span, clone as u64, Happening::CloneEnds { clone, life });
    }

    /// Nobody starts it again
    pub(in super::super) fn clone_ends(&mut self, clone: usize, life: u64) {
        if self.peers[clone].life.number == life {
            self.kill_peer(clone);
        }
    }

    /// Its secret is the right one again
    pub(in super::super) fn right_key(&mut self, peer: usize) {
        if std::mem::take(&mut self.peers[peer].wrong_key) && self.peers[peer].machine.is_some() {
            self.kill_peer(peer);
            self.start_peer(peer);
        }
    }

    /// The coordinator takes back a worker's key (AUTH-6)
    fn revoke(&mut self, peer: usize) {
        let name = self.key_of(peer).name;
        self.peers[peer].revoked = true;
        self.peers[peer].snapshot = None;
        // All that the name has, those that came about by rotation included.
        let config = &mut self.chief.config;
        let good = config.keys.iter().filter(|key| key.name == name && !config.revoked.contains(&key.id));
        let keys: Vec<_> = good.map(|key| key.id).collect();
        config.next.retain(|key| !keys.contains(key));
        config.revoked.extend(&keys);
        let now = self.clock(Who::Chief);
        for key in keys {
            self.auditor.retired(key);
            if let Some(machine) = &mut self.chief.machine {
                // After its journal has failed it takes nothing in; the next one has it from its settings. One that it has
                // not been told of yet it is never told of.
                let _ = machine.handle(now, coordinator::Input::RevokeKey { key });
                self.dirty.insert(Who::Chief);
            }
        }
    }

    /// A worker whose key was revoked has another one, under its old name
    pub(in super::super) fn enrols(&mut self, peer: usize) {
        if !std::mem::take(&mut self.peers[peer].revoked) {
            return;
        }
        self.peers[peer].enrolled += 1;
        self.peers[peer].rotated = None;
        let speaks = self.chief.config.wire_version.min(self.peers[peer].wire_version.unwrap_or(WIRE_VERSION));
        let token = self.peers[peer].token.take().filter(|_| speaks >= ROTATION_SINCE);
        self.peers[peer].joins = token.is_some();
        let key = self.key_of(peer);
        self.chief.config.keys.push(key.clone());
        if let Some(takes) = token {
            (self.peers[peer].keeping, self.chief.keeping) = (takes, takes);
            self.chief.config.tokens.push((key.id, TOKEN_VALID));
        }
        let now = self.clock(Who::Chief);
        if let Some(machine) = &mut self.chief.machine {
            let _ = machine.handle(
                now,
                match token {
                    Some(_) => coordinator::Input::AddToken { key: &key, valid: TOKEN_VALID },
                    None => coordinator::Input::AddKey { key: &key },
                },
            );
            self.dirty.insert(Who::Chief);
        }
        self.kill_peer(peer);
        self.start_peer(peer);
    }

    pub(in super::super) fn drain_worker(&mut self, peer: usize) {
        let now = self.clock(Who::Peer(peer));
        if let Some(Machine::Worker(worker)) = &mut self.peers[peer].machine {
            worker.handle(now, worker::Input::Drain).expect("a drain is never refused");
            self.peers[peer].draining = true;
            self.dirty.insert(Who::Peer(peer));
        }
    }

    // The coordinator.

    pub(super) fn disturb_chief(&mut self, fault: Fault) {
        let until = self.now + fault.span;
        match fault.kind {
            Kind::Restart if self.chief.machine.is_some() => {
                self.tally.hit(fault.kind);
                self.kill_chief(fault.amount);
                self.happen(fault.span, 0, Happening::Start(Who::Chief));
            }
            Kind::PlannedRestart => self.send_all_away(fault.span),
            Kind::Roll if self.chief.machine.is_some() => {
                self.tally.hit(fault.kind);
                if self.peers.iter().all(|peer| !peer.joins) {
                    self.chief.config.wire_version = self.version(fault.amount);
                }
                self.kill_chief(0);
                self.happen(fault.span, 0, Happening::Start(Who::Chief));
            }
            Kind::RestoreOld | Kind::Wipe | Kind::OldStore => self.change_store(fault),
            Kind::RestartAgain => self.chief.dies_again = Some((fault.amount, fault.span)),
            Kind::SyncError => self.chief.fails_next = Some(fault.span),
            Kind::SlowSync => self.chief.slow.set(fault.amount, until),
            Kind::DiskFull => self.chief.full.set(until.as_micros(), until),
            Kind::ReadError => self.chief.unreadable.set(until.as_micros(), until),
            _ => {}
        }
    }

    /// The coordinator is to be restarted: it says so, ends a moment later, and starts again after a while
    fn send_all_away(&mut self, away: Duration) {
        let now = self.clock(Who::Chief);
        if self.stands_still(Who::Chief).is_some() {
            return;
        }
        let Some(machine) = &mut self.chief.machine else { return };
        self.tally.hit(Kind::PlannedRestart);
        self.chief.slots_end = self.chief.slots_end.max(self.now + away * 5 / 4 + Duration::from_secs(1));
        machine.handle(now, coordinator::Input::GoAway { back_in: away }).expect("an end is never refused");
        self.dirty.insert(Who::Chief);
        self.drain();
        // As long as whoever ends it waits until that has left.
        let life = self.chief.life.number;
        self.happen(Duration::from_millis(20), 0, Happening::ChiefLeaves { life, away });
    }

    /// Whoever was to be told has been
    pub(in super::super) fn chief_leaves(&mut self, life: u64, away: Duration) {
        if self.chief.life.number == life && self.chief.machine.is_some() {
            self.kill_chief(u64::MAX);
            self.happen(away, 0, Happening::Start(Who::Chief));
        }
    }

    /// The coordinator ends once more, soon after it has started
    pub(in super::super) fn chief_dies(&mut self, life: u64, away: Duration) {
        if self.chief.life.number == life && self.chief.machine.is_some() && !self.healed {
            self.tally.hit(Kind::RestartAgain);
            self.kill_chief(0);
            self.happen(away, 0, Happening::Start(Who::Chief));
        }
    }

    /// A version that there is, whatever a line says
    fn version(&mut self, amount: u64) -> u16 {
        if amount < WIRE_VERSION.into() {
            self.auditor.speaks_old();
        }
        amount.clamp(WIRE_VERSION_OLDEST.into(), WIRE_VERSION.into()) as u16
    }
}
