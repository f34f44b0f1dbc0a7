//! An end by plan: whoever is connected is told when to come back, one behind the other (BACK-3)

use alloc::vec::Vec;
use core::time::Duration;

use crate::ids::{ConnId, Role};
use crate::limits::{RETRY_AFTER_MAX, SLOTS_SINCE};
use crate::link::Reason;
use crate::time::micros;
use crate::wire::message::Control;

use super::Desk;
use super::entry::Conn;

/// Least that anybody is asked to stay away
const AWAY_MIN: Duration = Duration::from_millis(100);

impl Desk {
    /// Sends everybody away, each with a slot of its own; workers come back before clients
    pub(super) fn go_away(&mut self, back_in: Duration) {
        let back_in = back_in.clamp(AWAY_MIN, RETRY_AFTER_MAX);
        self.back_at = Some(self.now + back_in);
        let strangers = self.door.clear();
        self.closes.extend(strangers.into_iter().map(|conn| (conn, Reason::Stopping)));
        let is_contender = |conn: &ConnId| matches!(self.conns.get(conn), Some(Conn::Contending(_)));
        let contenders: Vec<ConnId> = self.conns.keys().copied().filter(is_contender).collect();
        // First, because the end of the old connection would let them in.
        contenders.into_iter().for_each(|conn| self.hang_up(conn, Reason::Stopping));
        let mut there: Vec<(bool, ConnId, u16)> = Vec::new();
        for (conn, known) in &self.conns {
            let Conn::Live(live) = known else { continue };
            let role = self.roster.get(live.peer).role;
            there.push((role == Role::Client, *conn, live.channel.version));
        }
        there.sort_unstable();
        let between = Duration::from_micros(1_000_000 / u64::from(self.config.admission.rate));
        let mut slot = back_in;
        for (_, conn, version) in there {
            if version < SLOTS_SINCE {
                self.hang_up(conn, Reason::Stopping);
                continue;
            }
            slot = (slot + between).min(RETRY_AFTER_MAX);
            let slot_us = micros(self.rng.between(slot * 9 / 10, slot * 11 / 10));
            self.part(conn, Control::GoAway { slot_us }, Reason::Stopping);
        }
    }

    /// How long whoever comes now is to stay away, once this coordinator is about to end
    pub(super) fn away_for(&self) -> Option<Duration> {
        self.back_at.map(|at| at.since(self.now).max(AWAY_MIN))
    }
}
