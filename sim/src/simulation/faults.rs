//! What each kind of fault does

#![allow(clippy::wildcard_enum_match_arm, reason = "a kind without an effect fails the swarm")]

use std::time::Duration;

use rejoin_core::Instant;
use rejoin_core::coordinator::{self, Address};
use rejoin_core::ids::ConnId;
use rejoin_core::worker;

use super::net::{LENGTH_BYTES, Pipe, Socket, framed};
use super::nodes::{Life, Machine};
use super::{Happening, Simulation, Who};
use crate::draws::mix;
use crate::menu::Kind;
use crate::net::Side;
use crate::schedule::{Fault, Node, What};
use crate::trace::Told;

/// How late what a dead connection had under way arrives
const GHOST_AFTER: Duration = Duration::from_millis(30);
/// How long the coordinator believes in a dead connection behind that
const GHOST_STAYS: Duration = Duration::from_millis(20);

impl Simulation {
    /// A line of the schedule comes true
    pub(super) fn line(&mut self, index: usize) {
        let Some(entry) = self.schedule.entries.get(index) else { return };
        match entry.what.clone() {
            What::Submit(task) => self.submit(task),
            What::Cancel { client, task } => self.cancel(client, task),
            What::Fault(fault) if !self.healed => {
                self.trace.fault(self.now, fault);
                self.tally.fire(fault.kind);
                self.figures.faults += 1;
                self.fault(fault);
            }
            What::Fault(_) => {}
        }
    }

    /// Who is meant; nobody in what is left of a schedule
    fn who(&self, node: Node) -> Option<Who> {
        match node {
            Node::Coordinator => Some(Who::Chief),
            Node::Worker(n) => (n < self.schedule.workers).then(|| Who::Peer(usize::from(n))),
            Node::Client(n) if n < self.schedule.clients => Some(Who::Peer(self.client_peer(n))),
            Node::Client(_) => None,
        }
    }

    fn fault(&mut self, fault: Fault) {
        let Some(who) = self.who(fault.node) else { return };
        let until = self.now + fault.span;
        match (fault.kind, who) {
            (
                Kind::Delay
                | Kind::Jitter
                | Kind::Bandwidth
                | Kind::Rechunk
                | Kind::Stall
                | Kind::Blocked
                | Kind::Partition
                | Kind::Refuse
                | Kind::Hang
                | Kind::AcceptReset
                | Kind::Flip
                | Kind::Snip
                | Kind::Insert
                | Kind::Drop
                | Kind::Duplicate
                | Kind::Swap
                | Kind::Replay,
                Who::Peer(peer),
            ) => self.disturb_net(peer, fault, until),
            (
                Kind::Reset
                | Kind::ResetAfter
                | Kind::Close
                | Kind::CutSeenBy
                | Kind::LateClose
                | Kind::HalfOpen
                | Kind::Ghost,
                Who::Peer(peer),
            ) => {
                if let Some(conn) = self.peers[peer].conn {
                    self.disturb_connection(conn, fault);
                }
            }
            (Kind::Crash, Who::Peer(peer)) if self.is_worker(peer) && self.peers[peer].machine.is_some() => {
                self.tally.hit(fault.kind);
                self.kill_peer(peer);
                self.happen(fault.span, peer as u64, Happening::Start(who));
            }
            (Kind::Restart, Who::Chief) if self.chief.machine.is_some() => {
                self.tally.hit(fault.kind);
                self.kill_chief(fault.amount);
                self.happen(fault.span, 0, Happening::Start(Who::Chief));
            }
            (Kind::SyncError, Who::Chief) => self.chief.fails_next = Some(fault.span),
            (Kind::SlowSync, Who::Chief) => self.chief.slow.set(fault.amount, until),
            (Kind::Drain, Who::Peer(peer))
                if self.is_worker(peer) && self.peers[peer].machine.is_some() && !self.peers[peer].draining =>
            {
                self.drain_worker(peer);
                self.tally.hit(fault.kind);
                self.happen(fault.span, peer as u64, Happening::Start(who));
            }
            (Kind::Pause | Kind::ClockStep | Kind::ClockBack | Kind::Drift | Kind::Coarse, _) => {
                self.disturb_time(who, fault, until);
            }
            (Kind::Stranger, Who::Chief) => self.stranger(fault.amount),
            // Of those who are not there, or not of that kind: a line of a schedule from which others are gone.
            (_, _) => {}
        }
    }

    fn disturb_net(&mut self, peer: usize, fault: Fault, until: Instant) {
        let net = &mut self.peers[peer].net;
        let way = &mut net.ways[fault.towards as usize];
        let held = until.as_micros();
        match fault.kind {
            Kind::Delay => way.delay.set(fault.amount, until),
            Kind::Jitter => way.jitter.set(fault.amount, until),
            Kind::Bandwidth => way.bandwidth.set(fault.amount, until),
            Kind::Rechunk => way.rechunk.set(fault.amount, until),
            Kind::Stall => way.stalled.set(held, until),
            Kind::Blocked => way.blocked.set(held, until),
            Kind::Partition => net.partitioned.set(held, until),
            Kind::Refuse => net.refuses.set(held, until),
            Kind::Hang => net.hangs.set(held, until),
            Kind::AcceptReset => net.breaks.set(fault.amount, until),
            // Those that strike what is sent next.
            _ => way.struck.push_back(fault),
        }
    }

    fn disturb_connection(&mut self, conn: ConnId, fault: Fault) {
        let (now, towards) = (self.now, fault.towards);
        // One that is still being opened suffers what dials suffer.
        let Some(socket) = self.sockets.get_mut(&conn).filter(|socket| socket.open == [true; 2]) else { return };
        match fault.kind {
            Kind::Reset => {
                self.tally.hit(fault.kind);
                self.break_now(conn);
            }
            Kind::ResetAfter => socket.pipe(towards).breaks_after = Some(fault.amount.max(1)),
            Kind::Close => {
                self.tally.hit(fault.kind);
                let ends = [Side::Peer, Side::Coordinator].map(|side| {
                    socket.pipe(side).over = true;
                    (side, socket.pipe(side).last_arrival().max(now))
                });
                for (towards, at) in ends {
                    self.happen_at(at, conn.0, Happening::Bytes { conn, towards });
                }
            }
            Kind::CutSeenBy | Kind::LateClose => {
                self.tally.hit(fault.kind);
                socket.pipes.iter_mut().for_each(|pipe| {
                    pipe.clear();
                    pipe.deaf = true;
                });
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
            _ => {
                // The peer moves on; what it had under way reaches the coordinator beside its new connection.
                if socket.pipe(Side::Coordinator).in_flight > 0 {
                    self.tally.hit(Kind::Ghost);
                }
                let late = now + GHOST_AFTER;
                socket.pipe(Side::Coordinator).postpone(late);
                self.happen(Duration::ZERO, conn.0, Happening::Closed { conn, at: Side::Peer });
                self.happen_at(late, conn.0, Happening::Bytes { conn, towards: Side::Coordinator });
                self.happen_at(late + GHOST_STAYS, conn.0, Happening::Closed { conn, at: Side::Coordinator });
            }
        }
    }

    /// Has it looked at whether an end that hears nothing more finds that out in time (L3)
    fn expect_found_out(&mut self, conn: ConnId, at: Side) {
        let Some(who) = self.end_of(conn, at) else { return };
        let life = match who {
            Who::Chief => self.chief.life.number,
            Who::Peer(peer) => self.peers[peer].life.number,
        };
        // Two and a half periods with their jitter, put off twice by a message that never ends, or a handshake's time.
        let bound = super::people::heartbeat(&self.schedule) * 10 + Duration::from_secs(11);
        self.happen(bound, conn.0, Happening::FoundOut { conn, at, who, life });
    }

    fn disturb_time(&mut self, who: Who, fault: Fault, until: Instant) {
        let now = self.now;
        let life: &mut Life = match who {
            Who::Chief => &mut self.chief.life,
            Who::Peer(peer) => &mut self.peers[peer].life,
        };
        life.disturbed = true;
        let amount = fault.amount.min(1 << 40) as i64;
        match fault.kind {
            Kind::Pause => return life.paused.set(until.as_micros(), until),
            Kind::ClockStep => life.clock.step(now, amount),
            Kind::ClockBack => life.clock.step(now, -amount),
            Kind::Drift => life.clock.drift(now, fault.amount),
            _ => life.clock.coarsen(fault.amount),
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

    pub(super) fn clock_right(&mut self, who: Who) {
        let now = self.now;
        let life = match who {
            Who::Chief => &mut self.chief.life,
            Who::Peer(peer) => &mut self.peers[peer].life,
        };
        life.clock.drift(now, 0);
        life.clock.coarsen(1);
        self.tell_time(who);
    }

    pub(super) fn drain_worker(&mut self, peer: usize) {
        let now = self.clock(Who::Peer(peer));
        if let Some(Machine::Worker(worker)) = &mut self.peers[peer].machine {
            worker.handle(now, worker::Input::Drain).expect("a drain is never refused");
            self.peers[peer].draining = true;
            self.dirty.insert(Who::Peer(peer));
        }
    }

    /// Somebody connects and says nothing that makes sense
    fn stranger(&mut self, bytes: u64) {
        if self.chief.machine.is_none() {
            return;
        }
        let conn = self.next_conn();
        let pipes = [Pipe::default(), Pipe::default()];
        let open = [true, false];
        self.sockets.insert(conn, Socket { peer: None, attempt: 0, life: 0, conn, open, pipes });
        let (now, entropy) = (self.clock(Who::Chief), self.fresh());
        let Some(machine) = &mut self.chief.machine else { return };
        let accepted = machine.handle(now, coordinator::Input::Accepted { conn, address: Address::LOOPBACK, entropy });
        if accepted.is_err() {
            self.sockets.remove(&conn);
            return;
        }
        if let Some(socket) = self.sockets.get_mut(&conn) {
            socket.open[Side::Coordinator as usize] = true;
        }
        self.trace.see(self.now, || Told::Opened { conn: conn.0, peer: None });
        // More than any message has says nothing more.
        let noise: Vec<u8> = (0..bytes.min(100_000)).map(|n| mix(n ^ conn.0) as u8).collect();
        let message = if bytes.is_multiple_of(2) { framed(&noise) } else { noise };
        let at = self.now + self.latency;
        if let Some(socket) = self.sockets.get_mut(&conn) {
            socket.pipe(Side::Coordinator).push(at, message);
        }
        self.happen_at(at, conn.0, Happening::Bytes { conn, towards: Side::Coordinator });
        self.tally.hit(Kind::Stranger);
        self.dirty.insert(Who::Chief);
    }

    /// What becomes of a message that leaves: the bytes that go on their way in its place
    ///
    /// From the first byte that differs on, nothing on this connection may count any more (S15).
    pub(super) fn strike(&mut self, conn: ConnId, peer: Option<usize>, towards: Side, message: &[u8]) -> Vec<Vec<u8>> {
        let plain = || vec![framed(message)];
        let Some(peer) = peer.filter(|_| !self.healed) else { return plain() };
        let history = self.peers[peer].conn.and_then(|conn| self.sockets.get(&conn)).map(|socket| {
            let history = &socket.pipes[towards as usize].history;
            move |back: u64| history.iter().rev().nth(back as usize).cloned()
        });
        let again = history.and_then(|get| {
            let fault = self.peers[peer].net.ways[towards as usize].struck.front()?;
            (fault.kind == Kind::Replay).then(|| get(fault.amount))?
        });
        let way = &mut self.peers[peer].net.ways[towards as usize];
        let held = way.overtaken.take();
        let Some(fault) = way.struck.pop_front() else {
            let Some((of, held)) = held else { return plain() };
            let out = [plain(), vec![held]].concat();
            self.tally.hit(Kind::Swap);
            // On another connection than its own only the one that was overtaken is out of place.
            self.alter(conn, towards, if of == conn { 0 } else { out[0].len() });
            return out;
        };
        // One that nothing has overtaken yet goes first after all.
        let in_place = held.as_ref().map_or(0, |(of, held)| if *of == conn { held.len() } else { 0 });
        let mut bytes = framed(message);
        let (whole, amount) = (bytes.len(), fault.amount as usize);
        // What is sent in its place, and behind how many bytes of that nothing is as it should be.
        let (struck, altered_behind) = match fault.kind {
            Kind::Flip => {
                let bit = amount % (whole * 8);
                bytes[bit / 8] ^= 1 << (bit % 8);
                (vec![bytes], Some(0))
            }
            Kind::Snip => {
                bytes.drain(..amount.clamp(1, whole));
                (vec![bytes], Some(0))
            }
            Kind::Insert => {
                let noise: Vec<u8> =
                    (0..amount.clamp(1, 100_000)).map(|n| mix(n as u64 ^ fault.amount) as u8).collect();
                (vec![noise, bytes], Some(0))
            }
            Kind::Drop => (Vec::new(), Some(0)),
            Kind::Duplicate => (vec![bytes.clone(), bytes], Some(whole)),
            Kind::Swap => {
                way.overtaken = Some((conn, bytes));
                (Vec::new(), None)
            }
            // There may be nothing yet that could be said again.
            _ => match again {
                Some(again) => (vec![framed(&again), bytes], Some(0)),
                None => (vec![bytes], None),
            },
        };
        let foreign = held.as_ref().is_some_and(|(of, _)| *of != conn);
        let out: Vec<Vec<u8>> = held.into_iter().map(|(_, held)| held).chain(struck).collect();
        if altered_behind.is_some() {
            self.tally.hit(fault.kind);
        }
        if fault.kind == Kind::Drop
            && let Some(socket) = self.sockets.get_mut(&conn)
        {
            // It was never sent: said again, it would be in its place after all.
            socket.pipe(towards).history.pop_back();
        }
        if let Some(behind) = altered_behind.or(foreign.then_some(0)) {
            self.alter(conn, towards, if foreign { 0 } else { in_place + behind });
        }
        debug_assert!(out.iter().all(|bytes| bytes.len() < LENGTH_BYTES + (1 << 20)));
        out
    }

    /// Behind so many more bytes, what goes towards an end is not what it should be
    fn alter(&mut self, conn: ConnId, towards: Side, behind: usize) {
        if let Some(socket) = self.sockets.get_mut(&conn) {
            socket.pipe(towards).alter(behind as u64);
        }
    }
}
