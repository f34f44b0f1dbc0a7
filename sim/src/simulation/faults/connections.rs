//! What befalls a connection

use std::time::Duration;

use rejoin_core::Loss;
use rejoin_core::coordinator::{self, Coordinator, PeerState};
use rejoin_core::ids::ConnId;

use super::super::net::Pipe;
use super::super::people::heartbeat;
use super::super::{Happening, Simulation, Who};
use crate::audit::Check;
use crate::menu::Kind;
use crate::net::Side;
use crate::schedule::Fault;

/// How late what a dead connection had under way arrives
const GHOST_AFTER: Duration = Duration::from_millis(30);
/// How long the coordinator believes in a dead connection behind that
const GHOST_STAYS: Duration = Duration::from_millis(20);

impl Simulation {
    pub(super) fn disturb_connection(&mut self, conn: ConnId, fault: Fault) {
        let (now, towards) = (self.now, fault.towards);
        // One that is still being opened suffers what dials suffer.
        let Some(socket) = self.sockets.get_mut(&conn).filter(|socket| socket.open == [true; 2]) else { return };
        match fault.kind {
            Kind::Reset => {
                self.tally.hit(fault.kind);
                self.break_now(conn);
            }
            Kind::ResetAfter => socket.pipe(towards).breaks_after = Some(fault.amount.max(1)),
            Kind::Close | Kind::HalfClose => {
                self.tally.hit(fault.kind);
                let sides = [Side::Peer, Side::Coordinator];
                for side in sides.into_iter().filter(|side| fault.kind == Kind::Close || *side == towards) {
                    let Some(socket) = self.sockets.get_mut(&conn) else { return };
                    socket.pipe(side).over = true;
                    let at = socket.pipe(side).last_arrival().max(now);
                    self.happen_at(at, conn.0, Happening::Bytes { conn, towards: side });
                }
            }
            Kind::CutSeenBy | Kind::LateClose => {
                self.tally.hit(fault.kind);
                socket.pipes.iter_mut().for_each(Pipe::die);
                self.happen(Duration::ZERO, conn.0, Happening::Closed { conn, at: towards });
                if fault.kind == Kind::LateClose {
                    self.happen(fault.span, conn.0, Happening::Closed { conn, at: towards.other() });
                } else {
                    self.expect_found_out(conn, towards.other());
                }
            }
            Kind::HalfOpen => {
                socket.pipe(towards).deaf = true;
                self.expect_found_out(conn, towards);
            }
            Kind::Dead => {
                self.tally.hit(fault.kind);
                socket.pipes.iter_mut().for_each(Pipe::die);
                self.expect_found_out(conn, Side::Peer);
                self.expect_found_out(conn, Side::Coordinator);
            }
            _ => {
                // The peer moves on; what it had under way reaches the coordinator beside its new connection.
                if socket.pipe(Side::Coordinator).in_flight > 0 {
                    self.tally.hit(Kind::Ghost);
                }
                let late = now + GHOST_AFTER;
                socket.pipe(Side::Coordinator).postpone(late);
                socket.ghost = true;
                self.happen(Duration::ZERO, conn.0, Happening::Closed { conn, at: Side::Peer });
                self.happen_at(late, conn.0, Happening::Bytes { conn, towards: Side::Coordinator });
                self.happen_at(late + GHOST_STAYS, conn.0, Happening::Vanishes { conn });
            }
        }
    }

    /// Whatever still believes in a ghost learns that it is gone; whoever knows it already hears it once more (S8)
    pub(in super::super) fn vanishes(&mut self, conn: ConnId) {
        self.closed(conn, Side::Coordinator);
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        socket.ghost = false;
        let (peer, attempt, life) = (socket.peer, socket.attempt, socket.life);
        let now = self.clock(Who::Chief);
        if let Some(machine) = &mut self.chief.machine {
            // Whatever is due is not the news' doing.
            machine.handle(now, coordinator::Input::Timeout).expect("time is never refused");
            let connected =
                |machine: &Coordinator| machine.peers().filter(|peer| peer.state == PeerState::Connected).count();
            let before = (machine.digest(), connected(machine));
            machine.handle(now, coordinator::Input::Closed { conn }).expect("a close is never refused");
            let same = (machine.digest(), connected(machine)) == before;
            self.auditor.expect(Check::S8, same, || format!("the late end of connection {} changed something", conn.0));
            self.dirty.insert(Who::Chief);
        }
        if let Some(peer) =
            peer.filter(|peer| self.peers[*peer].dialled > attempt && self.peers[*peer].life.number == life)
        {
            let before = self.state(peer);
            self.tell_lost(peer, attempt, Loss::Peer);
            let same = self.state(peer) == before;
            self.auditor.expect(Check::S8, same, || format!("the late end of connection {} ended another one", conn.0));
        }
        self.forget_if_over(conn);
    }

    /// Has it looked at whether an end that hears nothing more finds that out in time (L3)
    pub(in super::super) fn expect_found_out(&mut self, conn: ConnId, at: Side) {
        let Some(who) = self.end_of(conn, at) else { return };
        let life = self.life(who).number;
        // Two and a half periods with their jitter, put off twice by a message that never ends, or a handshake's time.
        let bound = heartbeat(&self.schedule) * 10 + Duration::from_secs(11);
        self.happen(bound, conn.0, Happening::FoundOut { conn, at, who, life });
    }
}
