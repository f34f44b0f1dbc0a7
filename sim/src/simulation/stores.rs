//! Stores of the coordinator that are not what they were: put back, lost, or an old copy in the place of the right one (JOURN-2)

use std::time::Duration;

use rejoin_core::coordinator::Event;
use rejoin_core::journal::Record;

use super::{Happening, Simulation, Who};
use crate::audit::Check;
use crate::menu::Kind;
use crate::schedule::Fault;
use crate::world::{forget, retire};

/// How long the start of a coordinator takes on that clock: longer than here, where it takes no time
const START_TAKES_MS: u64 = 10_000;
/// What a clock on the wall shows when a simulation begins, in milliseconds
const WALL_CLOCK_MS: u64 = 1_700_000_000_000;
/// The first epoch where an old copy of the store is to have lower ones
const LATE_EPOCH: u64 = 1_000;

impl Simulation {
    /// The time by which a coordinator that is started as restored goes; later at each start
    pub(super) fn wall_clock(&self) -> Option<u64> {
        let ms = WALL_CLOCK_MS + self.now.as_micros() / 1000;
        self.chief.restored.then(|| ms + self.chief.life.number * START_TAKES_MS)
    }

    /// The epoch of a coordinator that finds nothing in its store
    pub(super) fn first_epoch(&self) -> u64 {
        let old_copies = self.schedule.entries.iter().any(|entry| entry.what.is_one_of(&[Kind::OldStore]));
        if old_copies && self.chief.aside.is_none() { LATE_EPOCH } else { 1 }
    }

    pub(super) fn change_store(&mut self, fault: Fault) {
        if self.chief.machine.is_none() || self.chief.aside.is_some() {
            return;
        }
        self.kill_chief(0);
        let ago = Duration::from_micros(fault.amount);
        let kept = if fault.kind == Kind::Wipe { 0 } else { self.durable_before(ago) };
        if fault.kind == Kind::OldStore {
            self.take_old_copy(kept);
            self.happen(fault.span, 0, Happening::RightStore);
            return self.happen(Duration::ZERO, 0, Happening::Start(Who::Chief));
        }
        if kept < self.chief.journal.durable {
            self.tally.hit(fault.kind);
        }
        self.go_back(kept);
        self.chief.restored = true;
        self.happen(fault.span, 0, Happening::Start(Who::Chief));
    }

    /// How many records were durable so long before; as many as at the last compaction, if that was later
    fn durable_before(&self, ago: Duration) -> usize {
        let wanted = self.now.as_micros().saturating_sub(ago.as_micros() as u64);
        let before = self.chief.history.iter().rev().find(|(at, _)| at.as_micros() <= wanted);
        before.or(self.chief.history.first()).map_or(self.chief.journal.durable, |(_, durable)| *durable)
    }

    /// Everything behind so many records is gone, for good
    fn go_back(&mut self, kept: usize) {
        self.chief.history.retain(|(_, durable)| *durable <= kept);
        let mut records = std::mem::take(&mut self.chief.journal.records);
        records.truncate(kept);
        self.auditor.went_back(records.iter().filter_map(|record| Record::decode(record)));
        self.chief.journal.replace(records);
    }

    /// The coordinator is to run on a copy of so many records, of epochs that everybody has seen to end
    fn take_old_copy(&mut self, kept: usize) {
        let past = |record: &Vec<u8>| match Record::decode(record) {
            Some(Record::Epoch { epoch, cluster }) => {
                let epoch = epoch.min(LATE_EPOCH + self.chief.life.number) / 2;
                Record::Epoch { epoch, cluster }.encode()
            }
            _ => record.clone(),
        };
        let records = self.chief.journal.records[..kept].iter().map(past).collect();
        let mut copy = self.chief.journal.clone();
        copy.replace(records);
        self.chief.aside = Some(Box::new(std::mem::replace(&mut self.chief.journal, copy)));
    }

    /// The right store is there again, and the coordinator starts on it as if nothing had happened
    pub(super) fn right_store(&mut self) {
        if self.chief.aside.is_none() {
            return;
        }
        self.kill_chief(0);
        let Some(right) = self.chief.aside.take() else { return };
        self.chief.journal = *right;
        self.auditor.right_store();
        self.happen(Duration::ZERO, 0, Happening::Start(Who::Chief));
    }

    /// Whether a peer is kept from a coordinator with an old store: one that has seen nothing later cannot know
    pub(super) fn is_kept_away(&self, peer: usize) -> bool {
        let epoch = self.chief.machine.as_ref().map_or(0, |machine| machine.epoch().1);
        let seen = self.peers[peer].machine.as_ref().map_or(0, |machine| machine.epoch());
        self.chief.aside.is_some() && seen <= epoch
    }

    /// The coordinator has something to tell its people
    pub(super) fn chief_told(&mut self, event: &Event) {
        match event {
            Event::Unknown { attempts, .. } => self.auditor.named(*attempts),
            Event::Outdated { .. } => self.auditor.outdated(),
            Event::Connected { peer, .. } if self.chief.aside.is_some() => {
                let ours = (0..self.people()).any(|n| self.key_of(n).name == *peer);
                self.auditor.expect(Check::S35, !ours, || format!("{peer} goes on with an old copy of the store"));
            }
            Event::KeyUsed { peer, key } => {
                let retired = retire(&mut self.chief.config, peer, *key);
                retired.into_iter().for_each(|key| self.auditor.retired(key));
            }
            Event::KeyUntold { key } => forget(&mut self.chief.config, *key),
            Event::Connected { .. }
            | Event::Accepted { .. }
            | Event::Running { .. }
            | Event::Again { .. }
            | Event::Ended { .. }
            | Event::Disconnected { .. }
            | Event::Lost { .. }
            | Event::Drifted { .. }
            | Event::UnknownKey { .. }
            | Event::Stopped => {}
        }
    }
}
