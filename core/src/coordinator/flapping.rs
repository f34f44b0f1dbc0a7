//! Workers whose links break again and again get less work: one task at a time, and after all others (TASK-10)
//!
//! They are never refused, and may always deliver.

use crate::ids::Role;
use crate::link::Reason;

use super::peers::{Peer, PeerIx};
use super::{Desk, Timer};

/// Cuts within the time that is set that are no flapping yet
pub(crate) const CUTS_MAX: usize = 5;

/// Goes on top of the load of a worker that flaps, so that it comes last
const LAST: usize = 1 << 20;

impl Desk {
    /// A worker's connection has ended; not counted if that was meant, as it is where the worker comes back with another key
    pub(super) fn count_cut(&mut self, ix: PeerIx, reason: Option<Reason>, rekeyed: bool) {
        let meant = rekeyed || matches!(reason, Some(Reason::Left | Reason::Stopping | Reason::Denied(_)));
        let (now, within) = (self.now, self.config.flapping_within);
        let peer = self.roster.get(ix);
        if peer.role != Role::Worker || meant {
            return;
        }
        self.count_vanished(ix);
        if within.is_zero() {
            return;
        }
        let peer = self.roster.get_mut(ix);
        peer.cuts.push_back(now);
        if peer.cuts.len() > CUTS_MAX + 1 {
            peer.cuts.pop_front();
        }
        if self.is_flapping(ix) {
            let steady = self.roster.get(ix).cuts.front().map(|first| *first + within);
            self.timers.set(Timer::Steady(ix), steady);
        }
    }

    /// Whether a worker has lost its connection so often, and so lately, that it gets less work
    pub(super) fn is_flapping(&self, ix: PeerIx) -> bool {
        let Peer { cuts, .. } = self.roster.get(ix);
        cuts.len() > CUTS_MAX && cuts.front().is_some_and(|first| self.now < *first + self.config.flapping_within)
    }

    /// Where a worker stands among others: by what it holds, and behind all of them if it flaps
    pub(super) fn rank(&self, ix: PeerIx) -> usize {
        self.roster.get(ix).held.len() + if self.is_flapping(ix) { LAST } else { 0 }
    }

    /// Whether a worker gets something now, if there is anything; not while it is suspected (LIVE-3)
    pub(super) fn is_free(&self, ix: PeerIx) -> bool {
        let peer = self.roster.get(ix);
        peer.takes_tasks()
            && !self.is_suspected(ix)
            && !peer.reserved
            && (peer.held.is_empty() || !self.is_flapping(ix))
    }
}
