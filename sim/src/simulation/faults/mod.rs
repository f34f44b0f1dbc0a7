//! What each kind of fault does
//!
//! | room | concern |
//! | --- | --- |
//! | `mod` | from a line of the schedule to whoever does it |
//! | `network` | what networks and dials are like for a while |
//! | `connections` | what befalls a connection |
//! | `strikes` | what befalls the next bytes or messages |
//! | `rotation` | keys that are replaced while their holders are connected |
//! | `lives` | crashes, pauses, clones, keys, and the coordinator's disk |
//! | `clocks` | clocks that are wrong |
//! | `intruders` | those who have no business here |

#![allow(clippy::wildcard_enum_match_arm, reason = "a kind without an effect fails the swarm")]

mod clocks;
mod connections;
mod intruders;
mod lives;
mod network;
mod rotation;
mod strikes;

use std::time::Duration;

use super::people::heartbeat;
use super::{Simulation, Who};
use crate::draws::mix;
use crate::menu::Kind;
use crate::schedule::{Fault, Node, What};

impl Simulation {
    /// A line of the schedule comes true
    pub(super) fn line(&mut self, index: usize) {
        let Some(entry) = self.schedule.entries.get(index) else { return };
        match entry.what.clone() {
            What::Submit(task) => self.submit(task),
            What::Cancel { client, task } => self.cancel(client, task),
            What::Again { client, task } => self.submit_again(client, task, false),
            What::Clash { client, task } => self.submit_again(client, task, true),
            What::Fault(fault) if !self.healed => {
                self.trace.fault(self.now, fault);
                self.tally.fire(fault.kind);
                self.disturbed_by(fault);
                self.figures.faults += 1;
                self.count_states(fault);
                self.fault(fault);
            }
            What::Fault(_) => {}
        }
    }

    /// Takes note of until when what a fault leaves behind may be felt
    fn disturbed_by(&mut self, fault: Fault) {
        let lasts = if fault.kind == Kind::Far { Duration::from_secs(1 << 32) } else { fault.span };
        let settles = heartbeat(&self.schedule) * 4 + Duration::from_secs(15);
        self.calm_since = self.calm_since.max(self.now + lasts + settles);
    }

    /// Who is meant; nobody in what is left of a schedule
    pub(super) fn who(&self, node: Node) -> Option<Who> {
        match node {
            Node::Coordinator => Some(Who::Chief),
            Node::Worker(n) => (n < self.schedule.workers).then(|| Who::Peer(usize::from(n))),
            Node::Client(n) if n < self.schedule.clients => Some(Who::Peer(self.client_peer(n))),
            Node::Client(_) => None,
        }
    }

    fn fault(&mut self, fault: Fault) {
        let Some(who) = self.who(fault.node) else { return };
        match fault.kind {
            Kind::Pause | Kind::Suspend | Kind::Slow | Kind::LateTimers => self.hold_up(who, fault),
            Kind::ClockStep
            | Kind::ClockBack
            | Kind::ClockAge
            | Kind::Drift
            | Kind::DriftSlow
            | Kind::Wander
            | Kind::Coarse => self.disturb_clock(who, fault),
            _ => match who {
                Who::Chief => self.fault_at_chief(fault),
                Who::Peer(peer) => self.fault_at_peer(peer, fault),
            },
        }
    }

    fn fault_at_chief(&mut self, fault: Fault) {
        match fault.kind {
            Kind::Restart
            | Kind::PlannedRestart
            | Kind::Roll
            | Kind::RestartAgain
            | Kind::SlowSync
            | Kind::SyncError
            | Kind::DiskFull
            | Kind::RestoreOld
            | Kind::Wipe
            | Kind::OldStore
            | Kind::ReadError => self.disturb_chief(fault),
            Kind::Split | Kind::Swizzle | Kind::MassReset | Kind::MassCrash => {
                let struck = self.struck_of_all(fault);
                self.disturb_many(&struck, fault);
            }
            Kind::Stranger => self.stranger(fault.amount),
            Kind::Rogue => self.rogue(fault.amount),
            // What peers alone can suffer: a line of a schedule that somebody wrote.
            _ => {}
        }
    }

    fn fault_at_peer(&mut self, peer: usize, fault: Fault) {
        match fault.kind {
            Kind::Reset
            | Kind::ResetAfter
            | Kind::Close
            | Kind::HalfClose
            | Kind::CutSeenBy
            | Kind::LateClose
            | Kind::HalfOpen
            | Kind::Dead
            | Kind::Ghost => {
                if let Some(conn) = self.peers[peer].conn {
                    self.disturb_connection(conn, fault);
                }
            }
            Kind::Crash
            | Kind::CrashLoop
            | Kind::CrashResuming
            | Kind::Snapshot
            | Kind::Clone
            | Kind::WrongKey
            | Kind::Rekey
            | Kind::Token
            | Kind::Rotate
            | Kind::Drain
            | Kind::Upgrade
            | Kind::WipeStore
            | Kind::SwapStores
            | Kind::OldSpool
            | Kind::StoreFull
            | Kind::Frozen => {
                if self.is_worker(peer) {
                    self.disturb_worker(peer, fault);
                }
            }
            Kind::Impostor => self.impostor(peer, fault.amount),
            _ => self.disturb_net(peer, fault),
        }
    }

    /// The peers that a fault of many strikes
    fn struck_of_all(&self, fault: Fault) -> Vec<usize> {
        let all = usize::from(self.schedule.workers) + usize::from(self.schedule.clients);
        let draw = |peer: usize| mix(self.schedule.seed ^ mix(self.now.as_micros()) ^ peer as u64);
        if fault.kind == Kind::Swizzle {
            let mut peers: Vec<usize> = (0..all).collect();
            peers.sort_by_key(|peer| draw(*peer));
            peers.truncate(fault.amount as usize);
            return peers;
        }
        (0..all).filter(|peer| draw(*peer) % 1000 < fault.amount).collect()
    }
}
