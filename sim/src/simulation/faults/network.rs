//! What networks and dials are like for a while

use std::time::Duration;

use rejoin_core::Instant;

use super::super::laws::Law;
use super::super::net::Timed;
use super::super::people::heartbeat;
use super::super::{Happening, Simulation, Who};
use crate::draws::mix;
use crate::menu::Kind;
use crate::schedule::Fault;

impl Simulation {
    pub(super) fn disturb_net(&mut self, peer: usize, fault: Fault) {
        let (now, until) = (self.now, self.now + fault.span);
        let net = &mut self.peers[peer].net;
        let way = &mut net.ways[fault.towards as usize];
        let held = until.as_micros();
        match fault.kind {
            Kind::Far => {
                let law = Law { kind: fault.kind, scale_us: fault.amount, since: now, until: Timed::FOR_EVER };
                net.ways.iter_mut().for_each(|way| way.delays(law));
            }
            kind if Law::is(kind) => way.delays(Law { kind, scale_us: fault.amount, since: now, until }),
            Kind::Bandwidth => way.bandwidth.set(fault.amount, until),
            Kind::Bloat => way.bloat.set(fault.amount, until),
            Kind::Rechunk => way.rechunk.set(fault.amount, until),
            Kind::Drip => way.drip.set(fault.amount, until),
            Kind::Stall => way.stalled.set(held, until),
            Kind::Blocked => way.blocked.set(held, until),
            Kind::Partition => net.partitioned.set(held, until),
            Kind::Refuse => net.refuses.set(held, until),
            Kind::Hang => net.hangs.set(held, until),
            Kind::SlowDial => net.dials_late.set(fault.amount, until),
            Kind::Mute => net.mute.set(held, until),
            Kind::AcceptReset => net.breaks.set(fault.amount, until),
            Kind::Flap => {
                let beat = heartbeat(&self.schedule).as_micros() as u64;
                net.flaps.set((beat << fault.amount.min(2)) / 2, until);
                self.flaps(peer);
            }
            Kind::Downgrade => net.downgrade = Some(fault),
            Kind::Regreet => net.regreet = true,
            // Those that strike what is sent next.
            _ => way.struck.push_back(fault),
        }
    }

    /// A connection breaks once more, and will again
    pub(in super::super) fn flaps(&mut self, peer: usize) {
        let Some(period) = self.peers[peer].net.flaps.at(self.now).filter(|_| !self.is_whole(Who::Peer(peer))) else {
            return;
        };
        if let Some(conn) = self.peers[peer].conn {
            self.tally.hit(Kind::Flap);
            self.break_now(conn);
        }
        self.happen(Duration::from_micros(period.max(1_000)), peer as u64, Happening::Flaps { peer });
    }

    /// What befalls many peers together
    pub(super) fn disturb_many(&mut self, struck: &[usize], fault: Fault) {
        if !struck.is_empty() {
            self.tally.hit(fault.kind);
        }
        let end = self.now + fault.span;
        for (nth, peer) in struck.iter().copied().enumerate() {
            let draw = mix(self.now.as_micros() ^ peer as u64);
            match fault.kind {
                Kind::Split => self.peers[peer].net.partitioned.set(end.as_micros(), end),
                Kind::Swizzle => {
                    // Cut off in turn, within the first half; back in any order, within the second.
                    let half = fault.span / 2;
                    let back = self.now + half + Duration::from_micros(draw % (half.as_micros() as u64).max(1));
                    let after = half * nth as u32 / struck.len() as u32;
                    self.happen(after, peer as u64, Happening::CutOff { peer, until: back });
                }
                Kind::MassReset => {
                    if let Some(conn) = self.peers[peer].conn {
                        self.break_now(conn);
                    }
                }
                _ => {
                    if self.is_worker(peer) && self.peers[peer].machine.is_some() {
                        self.kill_peer(peer);
                        let away = Duration::from_micros(draw % (fault.span.as_micros() as u64).max(1));
                        self.happen(away, peer as u64, Happening::Start(Who::Peer(peer)));
                    }
                }
            }
        }
    }

    /// A peer is cut off from the coordinator
    pub(in super::super) fn cut_off(&mut self, peer: usize, until: Instant) {
        self.peers[peer].net.partitioned.set(until.as_micros(), until);
    }
}
