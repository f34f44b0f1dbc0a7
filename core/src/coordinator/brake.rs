//! The brake on losses: when many workers vanish at a time, it is hardly all of them that have failed (TASK-10)
//!
//! What has failed is more likely a network, and giving all their tasks to the few that are left would make it worse. So
//! losses are delayed, and then come one by one. Nothing else changes: whoever is back has its tasks.

use alloc::collections::{BTreeSet, VecDeque};
use core::time::Duration;

use crate::ids::Role;
use crate::time::{Instant, micros};
use crate::wire::view::BrakeView;

use super::peers::PeerIx;
use super::{Desk, Timer};

/// Fewer workers are no fleet in which a share means anything
const FLEET_MIN: usize = 10;
/// Within this many must vanish
const WINDOW: Duration = Duration::from_secs(60);
const SECOND_US: u64 = 1_000_000;

/// How the brake stands
#[derive(Clone, Debug, Default)]
pub(crate) struct Brake {
    /// Workers whose connections ended within the last minute
    vanished: VecDeque<(Instant, PeerIx)>,
    /// Nothing is lost before, and slowly after that
    until: Option<Instant>,
    /// When the next worker may be lost
    next: Instant,
    /// Workers that would be lost by now
    delayed: BTreeSet<PeerIx>,
}

impl Desk {
    /// A worker's connection has ended: one of many?
    pub(super) fn count_vanished(&mut self, ix: PeerIx) {
        let now = self.now;
        if self.config.brake_for.is_zero() {
            return;
        }
        let Desk { brake, roster, .. } = self;
        brake.vanished.push_back((now, ix));
        brake.vanished.retain(|(at, ix)| now.since(*at) <= WINDOW && roster.get(*ix).conn.is_none());
        if brake.vanished.len() <= 3 {
            return;
        }
        let (fleet, gone) = self.fleet();
        let lately = self.brake.vanished.len();
        if fleet >= FLEET_MIN && (lately > (fleet / 5).max(3) || gone * 100 >= fleet * 55) {
            self.brake.until = Some(now + self.config.brake_for);
        }
    }

    /// Workers that are there, or are waited for, and those of them that are waited for
    fn fleet(&self) -> (usize, usize) {
        let workers = || self.roster.iter().filter(|(_, peer)| peer.role == Role::Worker && !peer.lost);
        let there = workers().filter(|(_, peer)| peer.conn.is_some()).count();
        let gone = workers().filter(|(_, peer)| peer.conn.is_none() && peer.disconnected_at.is_some()).count();
        (there + gone, gone)
    }

    /// When a worker that would be lost now may be; nothing if that is now
    pub(super) fn delayed_until(&mut self, ix: PeerIx) -> Option<Instant> {
        let until = self.brake.until.filter(|_| self.roster.may_come_back(ix))?;
        let now = self.now;
        if now < until {
            self.brake.delayed.insert(ix);
            return Some(until);
        }
        if self.brake.next > now {
            self.brake.delayed.insert(ix);
            return Some(self.brake.next);
        }
        self.brake.next = now + Duration::from_micros(SECOND_US / self.losses_per_second());
        self.not_delayed(ix);
        None
    }

    /// A worker is back, or lost: it waits for nothing any more
    pub(super) fn not_delayed(&mut self, ix: PeerIx) {
        self.brake.delayed.remove(&ix);
        if self.brake.delayed.is_empty() && self.brake.until.is_some_and(|until| until <= self.now) {
            self.brake.until = None;
        }
    }

    fn losses_per_second(&self) -> u64 {
        (self.fleet().0 as u64 / 100).max(1)
    }

    /// Somebody knows better: whatever was delayed is lost now
    pub(super) fn end_brake(&mut self) {
        self.brake.until = None;
        for ix in core::mem::take(&mut self.brake.delayed) {
            self.timers.set(Timer::Lost(ix), Some(self.now));
        }
    }

    /// How the brake stands, if it is on
    pub(super) fn brake_view(&self) -> Option<BrakeView> {
        let until = self.brake.until?;
        let (delayed, per_second) = (self.brake.delayed.len() as u64, self.losses_per_second());
        Some(BrakeView { delayed, left_us: micros(until.since(self.now)), per_second })
    }
}
