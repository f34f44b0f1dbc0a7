//! Keys that are replaced while their holders are connected (AUTH-6)
//!
//! Each end takes half of its time until the key is on its disk, and the other half until the machine knows that. So an
//! end may crash before, in between and behind.

use std::time::Duration;

use rejoin_core::coordinator;
use rejoin_core::ids::KeyId;
use rejoin_core::wire::keys::Key;
use rejoin_core::worker;

use super::super::nodes::Machine;
use super::super::{Happening, Simulation, Who};
use crate::schedule::Fault;

impl Simulation {
    /// An operator wants a worker to have another key
    pub(super) fn rotate(&mut self, peer: usize, fault: Fault) {
        let takes = Duration::from_micros(fault.amount);
        let (name, now) = (self.key_of(peer).name, self.clock(Who::Chief));
        self.peers[peer].keeping = takes;
        self.chief.keeping = takes;
        let Some(machine) = &mut self.chief.machine else { return };
        if machine.handle(now, coordinator::Input::RotateKey { peer: &name }).is_ok() {
            self.tally.hit(fault.kind);
            self.dirty.insert(Who::Chief);
        }
    }

    /// Whether another process has a worker's key, which might be given the new one in its place
    pub(super) fn has_double(&self, peer: usize) -> bool {
        self.peers.iter().any(|other| other.clone_of == Some(peer) && other.machine.is_some())
    }

    /// Whether a worker is to have another key, which would be given to whoever comes first under its name
    pub(super) fn awaits_key(&self, peer: usize) -> bool {
        let (name, config) = (self.key_of(peer).name, &self.chief.config);
        config.keys.iter().any(|key| key.name == name && config.next.contains(&key.id))
    }

    pub(in super::super) fn chief_keeps(&mut self, key: Key, after: KeyId, life: u64) {
        let config = &mut self.chief.config;
        if self.chief.life.number != life || self.chief.machine.is_none() || config.revoked.contains(&after) {
            return;
        }
        let id = key.id;
        if !config.keys.iter().any(|known| known.id == id) {
            config.next.push(id);
            config.keys.push(key);
        }
        self.happen(self.chief.keeping / 2, 0, Happening::ChiefKept { key: id, life });
    }

    pub(in super::super) fn chief_kept(&mut self, key: KeyId, life: u64) {
        let now = self.clock(Who::Chief);
        if let Some(machine) = self.chief.machine.as_mut().filter(|_| self.chief.life.number == life) {
            // After its journal has failed it takes nothing in; the next one has it from its settings.
            let _ = machine.handle(now, coordinator::Input::KeyKept { key, kept: true });
            self.dirty.insert(Who::Chief);
        }
    }

    pub(in super::super) fn worker_keeps(&mut self, peer: usize, life: u64) {
        let node = &mut self.peers[peer];
        let Some(Machine::Worker(worker)) = node.machine.as_ref().filter(|_| node.life.number == life) else { return };
        node.rotated = worker.next_key();
        node.joins = false;
        // What was put back to a time before would come with a key that is retired, as a copy of its disk would.
        node.snapshot = None;
        self.happen(self.peers[peer].keeping / 2, peer as u64, Happening::WorkerKept { peer, life });
    }

    pub(in super::super) fn worker_kept(&mut self, peer: usize, life: u64) {
        let now = self.clock(Who::Peer(peer));
        let node = &mut self.peers[peer];
        if let Some(Machine::Worker(worker)) = node.machine.as_mut().filter(|_| node.life.number == life) {
            worker.handle(now, worker::Input::KeyKept { kept: true }).expect("it was asked for");
            self.dirty.insert(Who::Peer(peer));
        }
    }
}
