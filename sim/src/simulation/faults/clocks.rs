//! Clocks that are wrong, and processes that come late

use rejoin_core::limits::CLOCK_DRIFT_PERCENT;

use super::super::{Happening, Simulation, Who};
use crate::menu::Kind;
use crate::schedule::{AMOUNT_MAX, Fault};

/// Microseconds of a day
const DAY_US: u64 = 86_400_000_000;

/// Most thousandths by which a clock may be off for leases to hold
const DRIFT_MAX: u64 = CLOCK_DRIFT_PERCENT as u64 * 10;

impl Simulation {
    /// A process stands still, or is late
    pub(super) fn hold_up(&mut self, who: Who, fault: Fault) {
        let (now, until) = (self.now, self.now + fault.span);
        let life = self.life_mut(who);
        life.disturbed = true;
        match fault.kind {
            Kind::Pause => life.paused.set(until.as_micros(), until),
            Kind::Slow => life.slow.set(fault.amount, until),
            Kind::LateTimers => life.late.set(fault.amount, until),
            _ => {
                self.clocks_differ = true;
                let life = self.life_mut(who);
                life.suspended.set(until.as_micros(), until);
                life.clock.halt(now);
                self.happen_at(until, u64::MAX - 1, Happening::Resumes(who));
            }
        }
    }

    /// The clock of a process that was suspended has stood still, and goes on
    pub(in super::super) fn resumes(&mut self, who: Who) {
        let now = self.now;
        if self.life_mut(who).suspended.at(now).is_none() {
            self.life_mut(who).clock.step(now, 0);
            self.tell_time(who);
        }
    }

    pub(super) fn disturb_clock(&mut self, who: Who, fault: Fault) {
        let (now, until) = (self.now, self.now + fault.span);
        let drifts = matches!(fault.kind, Kind::Drift | Kind::DriftSlow | Kind::Wander);
        self.clocks_differ |= !(fault.kind == Kind::Coarse || (drifts && fault.amount <= DRIFT_MAX));
        let amount = fault.amount.min(AMOUNT_MAX) as i64;
        let life = self.life_mut(who);
        life.disturbed = true;
        match fault.kind {
            Kind::ClockStep => life.clock.step(now, amount),
            Kind::ClockBack => life.clock.step(now, -amount),
            Kind::ClockAge => {
                life.clock.step(now, fault.amount.min(AMOUNT_MAX / DAY_US * 1000).saturating_mul(DAY_US) as i64)
            }
            Kind::Drift | Kind::Wander => life.clock.drift(now, amount),
            Kind::DriftSlow => life.clock.drift(now, -amount),
            _ => life.clock.coarsen(fault.amount),
        }
        if fault.kind == Kind::Wander {
            self.happen(fault.span / 4, 0, Happening::Drifts { who, fast: -amount });
            self.happen(fault.span * 3 / 4, 0, Happening::Drifts { who, fast: amount });
        }
        if !fault.span.is_zero() {
            self.happen_at(until, 0, Happening::ClockRight(who));
        }
        let lives = match who {
            Who::Chief => self.chief.machine.is_some(),
            Who::Peer(peer) => self.peers[peer].machine.is_some(),
        };
        if lives {
            self.tally.hit(fault.kind);
        }
        // Whatever was to happen at a time of the old clock is looked at anew.
        self.tell_time(who);
    }

    /// A clock runs at another rate from now on, unless all has healed
    pub(in super::super) fn drifts(&mut self, who: Who, fast: i64) {
        let now = self.now;
        if !self.is_whole(who) {
            self.life_mut(who).clock.drift(now, fast);
            self.tell_time(who);
        }
    }

    pub(in super::super) fn clock_right(&mut self, who: Who) {
        let now = self.now;
        let life = self.life_mut(who);
        life.clock.drift(now, 0);
        life.clock.coarsen(1);
        self.tell_time(who);
    }
}
