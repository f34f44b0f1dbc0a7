//! Dials, bytes and closes

use std::time::Duration;

use rejoin_core::coordinator::{self, Address};
use rejoin_core::ids::ConnId;
use rejoin_core::{Instant, Loss, Rejected};

use super::net::{Arrived, Pipe, Socket};
use super::{Happening, Simulation, Who};
use crate::audit::Check;
use crate::menu::Kind;
use crate::net::Side;
use crate::schedule::Node;
use crate::trace::Told;

/// Pause between two pieces of what is cut into pieces
const PIECE_PAUSE: Duration = Duration::from_micros(20);

impl Simulation {
    /// Who is at an end of a connection; nobody at a stranger's
    pub(super) fn end_of(&self, conn: ConnId, side: Side) -> Option<Who> {
        let socket = self.sockets.get(&conn)?;
        match side {
            Side::Coordinator => Some(Who::Chief),
            Side::Peer => socket.peer.map(Who::Peer),
        }
    }

    pub(super) fn next_conn(&mut self) -> ConnId {
        self.sequence += 1;
        ConnId(self.sequence)
    }

    // Dials.

    pub(super) fn dial(&mut self, peer: usize, attempt: u64) {
        let open = self.peers[peer].conn.is_some();
        let who = self.name(Who::Peer(peer));
        self.auditor.expect(Check::S23, !open, || format!("{who} dials while it has a connection"));
        let (now, healed) = (self.now, self.healed);
        let life = self.peers[peer].life.number;
        self.figures.dials += 1;
        let net = &self.peers[peer].net;
        let struck = |timed: &super::net::Timed| !healed && timed.at(now).is_some();
        if struck(&net.hangs) || struck(&net.partitioned) {
            let kind = if struck(&net.partitioned) { Kind::Partition } else { Kind::Hang };
            self.trace.see(now, || Told::Dialled(who, None));
            return self.tally.hit(kind);
        }
        let refused = struck(&net.refuses);
        if refused {
            self.tally.hit(Kind::Refuse);
        }
        if refused || self.chief.machine.is_none() {
            let failed = Happening::Fails { peer, attempt, life, loss: Loss::Peer };
            self.trace.see(now, || Told::Dialled(who, None));
            return self.happen(self.latency * 2, peer as u64, failed);
        }
        let breaks = struck(&net.breaks).then(|| net.breaks.at(now).unwrap_or(0));
        let conn = self.next_conn();
        let pipes = [Pipe::default(), Pipe::default()];
        self.sockets.insert(conn, Socket { peer: Some(peer), attempt, life, conn, open: [true, false], pipes });
        self.peers[peer].conn = Some(conn);
        self.trace.see(now, || Told::Dialled(who, Some(conn.0)));
        self.happen(self.latency * 2, conn.0, Happening::Opens { conn });
        if let Some(us) = breaks {
            self.tally.hit(Kind::AcceptReset);
            self.happen(self.latency * 2 + Duration::from_micros(us), conn.0, Happening::Breaks { conn });
        }
    }

    pub(super) fn dial_fails(&mut self, peer: usize, attempt: u64, life: u64, loss: Loss) {
        if self.peers[peer].life.number == life {
            let who = self.name(Who::Peer(peer));
            self.trace.see(self.now, || Told::Note(who, format!("its dial fails: {loss:?}")));
            self.tell_lost(peer, attempt, loss);
        }
    }

    /// Both systems have shaken hands; the peer's process learns it, and the coordinator's too
    pub(super) fn opens(&mut self, conn: ConnId) {
        let Some(socket) = self.sockets.get(&conn).filter(|socket| socket.is_open(Side::Peer)) else { return };
        let Some(peer) = socket.peer else { return };
        if let Some(until) = self.paused_until(Who::Peer(peer)) {
            return self.happen_at(until, conn.0, Happening::Opens { conn });
        }
        if self.chief.machine.is_none() {
            return self.break_now(conn);
        }
        self.happen(Duration::ZERO, conn.0, Happening::Accepted { conn });
    }

    /// The coordinator's process takes the connection
    pub(super) fn accepted(&mut self, conn: ConnId) {
        if !self.sockets.get(&conn).is_some_and(|socket| socket.is_open(Side::Peer)) {
            return;
        }
        let (now, entropy) = (self.clock(Who::Chief), self.fresh());
        let Some(machine) = &mut self.chief.machine else { return self.break_now(conn) };
        let input = coordinator::Input::Accepted { conn, address: Address::LOOPBACK, entropy };
        let accepted = machine.handle(now, input);
        self.dirty.insert(Who::Chief);
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        let (peer, attempt, life) = (socket.peer, socket.attempt, socket.life);
        if let Err(rejected) = accepted {
            self.sockets.remove(&conn);
            let Some(peer) = peer else { return };
            self.peers[peer].conn = None;
            let loss = if let Rejected::RetryAfter(us) = rejected {
                Loss::Busy { retry_after: Duration::from_micros(us) }
            } else {
                Loss::Peer
            };
            return self.happen(self.latency, peer as u64, Happening::Fails { peer, attempt, life, loss });
        }
        socket.open[Side::Coordinator as usize] = true;
        let dialled = peer.map(|peer| self.name(Who::Peer(peer)));
        self.trace.see(self.now, || Told::Opened { conn: conn.0, peer: dialled });
        let Some(peer) = peer else { return };
        let (now, entropy) = (self.clock(Who::Peer(peer)), self.fresh());
        if let Some(machine) = &mut self.peers[peer].machine {
            machine.connected(now, attempt, entropy).expect("what the network does is never refused");
            self.dirty.insert(Who::Peer(peer));
        }
    }

    // Messages.

    /// An end says something
    pub(super) fn send(&mut self, conn: ConnId, from: Side, message: &[u8]) {
        self.figures.frames += 1;
        self.figures.bytes += message.len() as u64;
        self.trace.mix_bytes(message);
        let Some(socket) = self.sockets.get(&conn).filter(|socket| socket.is_open(from)) else { return };
        let towards = from.other();
        let (peer, at_peer) = (socket.peer, from == Side::Peer);
        let named = peer.map_or(Node::Coordinator, |peer| self.name(Who::Peer(peer)));
        let (from_node, to) = if at_peer { (named, Node::Coordinator) } else { (Node::Coordinator, named) };
        self.trace.sent(self.now, from_node, to, conn.0, message);
        if self.remembers
            && let Some(socket) = self.sockets.get_mut(&conn)
        {
            socket.pipe(towards).remember(message);
        }
        for bytes in self.strike(conn, peer, towards, message) {
            self.put_under_way(conn, peer, towards, bytes);
        }
        self.fill(conn, from);
    }

    /// Tells an end that it may not send, while too much is under way or its buffer is full
    fn fill(&mut self, conn: ConnId, from: Side) {
        let (now, healed, buffer) = (self.now, self.healed, self.send_buffer);
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        let blocked = socket.peer.and_then(|peer| {
            let way = &self.peers[peer].net.ways[from.other() as usize];
            way.blocked.at(now).filter(|_| !healed).map(Instant::from_micros)
        });
        let pipe = socket.pipe(from.other());
        let full = pipe.in_flight as u64 > buffer;
        if pipe.full || (!full && blocked.is_none()) {
            return;
        }
        pipe.full = true;
        if let Some(until) = blocked {
            self.tally.hit(Kind::Blocked);
            self.happen_at(until, conn.0, Happening::Writable { conn, at: from });
        }
        self.tell_writable(conn, from, false);
    }

    fn tell_writable(&mut self, conn: ConnId, at: Side, writable: bool) {
        let Some(socket) = self.sockets.get(&conn) else { return };
        if !socket.is_open(at) {
            return;
        }
        let (attempt, Some(who)) = (socket.attempt, self.end_of(conn, at)) else { return };
        let now = self.clock(who);
        match who {
            Who::Chief => {
                if let Some(machine) = &mut self.chief.machine {
                    // After its journal has failed it takes nothing in.
                    let _ = machine.handle(now, coordinator::Input::Writable { conn, writable });
                }
            }
            Who::Peer(peer) => {
                if let Some(machine) = &mut self.peers[peer].machine {
                    machine.writable(now, attempt, writable).expect("what the network does is never refused");
                }
            }
        }
        self.dirty.insert(who);
    }

    /// What was under way is through, or the buffer has room: an end may send again
    pub(super) fn writable_again(&mut self, conn: ConnId, at: Side) {
        let (now, healed, buffer) = (self.now, self.healed, self.send_buffer);
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        let blocked = socket.peer.and_then(|peer| {
            let way = &self.peers[peer].net.ways[at.other() as usize];
            way.blocked.at(now).filter(|_| !healed).map(Instant::from_micros)
        });
        let pipe = socket.pipe(at.other());
        if let Some(until) = blocked.filter(|_| pipe.full) {
            return self.happen_at(until, conn.0, Happening::Writable { conn, at });
        }
        if pipe.full && (pipe.in_flight as u64) <= buffer / 2 {
            pipe.full = false;
            self.tell_writable(conn, at, true);
        }
    }

    /// Sends bytes on their way
    pub(super) fn put_under_way(&mut self, conn: ConnId, peer: Option<usize>, towards: Side, bytes: Vec<u8>) {
        let (now, healed) = (self.now, self.healed);
        let mut at = now + self.latency;
        let mut piece = usize::MAX;
        if let Some(peer) = peer.filter(|_| !healed) {
            let way = &mut self.peers[peer].net.ways[towards as usize];
            if let Some(us) = way.delay.at(now) {
                at = at + Duration::from_micros(us);
                self.tally.hit(Kind::Delay);
            }
            if let Some(us) = way.jitter.at(now) {
                at = at + Duration::from_micros(self.latency_draws.below(us + 1));
                self.tally.hit(Kind::Jitter);
            }
            if let Some(rate) = way.bandwidth.at(now) {
                let takes = (bytes.len() as u64).saturating_mul(1_000_000) / rate.max(1);
                way.busy_until = way.busy_until.max(now) + Duration::from_micros(takes);
                at = at.max(way.busy_until + self.latency);
                self.tally.hit(Kind::Bandwidth);
            }
            if let Some(size) = way.rechunk.at(now) {
                // However small the pieces, no more than a few hundred events for one message.
                piece = (size.max(1) as usize).max(bytes.len() / 256);
            }
        }
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        let pipe = socket.pipe(towards);
        if bytes.len() <= piece {
            let at = pipe.push(at, bytes);
            return self.happen_at(at, conn.0, Happening::Bytes { conn, towards });
        }
        self.tally.hit(Kind::Rechunk);
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        let pipe = socket.pipe(towards);
        let mut arrivals = Vec::new();
        for part in bytes.chunks(piece) {
            arrivals.push(pipe.push(at, part.into()));
            at = at + PIECE_PAUSE;
        }
        for at in arrivals {
            self.happen_at(at, conn.0, Happening::Bytes { conn, towards });
        }
    }

    /// Until when nothing arrives at an end, though it is under way
    fn held_up(&self, conn: ConnId, towards: Side) -> Option<(Kind, Instant)> {
        let socket = self.sockets.get(&conn)?;
        if self.healed {
            return None;
        }
        if let Some(peer) = socket.peer {
            let net = &self.peers[peer].net;
            if let Some(until) = net.ways[towards as usize].stalled.at(self.now) {
                return Some((Kind::Stall, Instant::from_micros(until)));
            }
            if let Some(until) = net.partitioned.at(self.now) {
                return Some((Kind::Partition, Instant::from_micros(until)));
            }
        }
        let until = self.paused_until(self.end_of(conn, towards)?)?;
        Some((Kind::Pause, until))
    }

    /// Hands over what has arrived at an end
    pub(super) fn bytes(&mut self, conn: ConnId, towards: Side) {
        if let Some((kind, until)) = self.held_up(conn, towards) {
            self.tally.hit(kind);
            return self.happen_at(until, conn.0, Happening::Bytes { conn, towards });
        }
        let now = self.now;
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        let mut all = Vec::new();
        let was_deaf = socket.pipe(towards).deaf && socket.pipe(towards).in_flight > 0;
        socket.pipe(towards).arrive(now, |one| all.push(one));
        let room = socket.pipe(towards).full;
        if was_deaf && socket.is_open(towards) {
            self.tally.hit(Kind::HalfOpen);
        }
        for one in all {
            if !self.sockets.get(&conn).is_some_and(|socket| socket.is_open(towards)) {
                break;
            }
            match one {
                Arrived::Message(message, altered) => self.deliver(conn, towards, &message, altered),
                Arrived::Nonsense => {
                    self.hang_up(conn, towards);
                    self.closed(conn, towards);
                }
                Arrived::Break => {
                    self.tally.hit(Kind::ResetAfter);
                    self.break_now(conn);
                }
                Arrived::Over => self.closed(conn, towards),
            }
        }
        if room {
            self.writable_again(conn, towards.other());
        }
    }

    /// A message reaches a machine
    pub(super) fn deliver(&mut self, conn: ConnId, at: Side, message: &[u8], altered: bool) {
        let Some(socket) = self.sockets.get(&conn) else { return };
        let (peer, attempt) = (socket.peer, socket.attempt);
        let Some(who) = self.end_of(conn, at) else { return };
        self.trace.mix_bytes(message);
        let other = peer.map_or(Node::Coordinator, |peer| self.name(Who::Peer(peer)));
        let (by, from) = if at == Side::Peer { (other, Node::Coordinator) } else { (Node::Coordinator, other) };
        self.trace.received(self.now, by, from, conn.0, message);
        let now = self.clock(who);
        match who {
            Who::Chief => {
                if let Some(machine) = &mut self.chief.machine {
                    let before = altered.then(|| {
                        // Whatever is due is not the message's doing.
                        machine.handle(now, coordinator::Input::Timeout).expect("time is never refused");
                        machine.digest()
                    });
                    // After its journal has failed it takes nothing in.
                    let _ = machine.handle(now, coordinator::Input::Received { conn, bytes: message });
                    if let Some(before) = before {
                        let same = machine.digest() == before;
                        self.auditor.expect(Check::S15, same, || format!("connection {} changed something", conn.0));
                    }
                }
            }
            Who::Peer(peer) => {
                if let Some(machine) = &mut self.peers[peer].machine {
                    machine.received(now, attempt, message).expect("what the network does is never refused");
                }
            }
        }
        self.dirty.insert(who);
    }

    /// Tells machines of messages that have begun to arrive (LIVE-2)
    pub(super) fn tell_arriving(&mut self, who: Who) {
        let now = self.clock(who);
        match who {
            Who::Peer(peer) => {
                let Some(socket) = self.peers[peer].conn.and_then(|conn| self.sockets.get_mut(&conn)) else { return };
                let (attempt, arriving) = (socket.attempt, socket.pipe(Side::Peer).is_arriving());
                if let Some(machine) = self.peers[peer].machine.as_mut().filter(|_| arriving) {
                    machine.arriving(now, attempt).expect("what the network does is never refused");
                }
            }
            Who::Chief => {
                let Some(machine) = &mut self.chief.machine else { return };
                for socket in self.sockets.values_mut().filter(|socket| socket.is_open(Side::Coordinator)) {
                    if socket.pipe(Side::Coordinator).is_arriving() {
                        let _ = machine.handle(now, coordinator::Input::Arriving { conn: socket.conn });
                    }
                }
            }
        }
    }

    // Ends.

    /// An end closes: the other one learns of it behind whatever is under way
    pub(super) fn hang_up(&mut self, conn: ConnId, side: Side) {
        let at = self.now + self.latency;
        self.see_end(conn, side, Told::HungUp);
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        socket.open[side as usize] = false;
        let pipe = socket.pipe(side.other());
        pipe.over = true;
        let at = at.max(pipe.last_arrival());
        if let Some(peer) = socket.peer.filter(|_| side == Side::Peer)
            && self.peers[peer].conn == Some(conn)
        {
            self.peers[peer].conn = None;
        }
        self.happen_at(at, conn.0, Happening::Bytes { conn, towards: side.other() });
        self.forget_if_over(conn);
    }

    /// Both ends learn at once that the connection is gone; what was under way is lost
    pub(super) fn break_now(&mut self, conn: ConnId) {
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        socket.pipes.iter_mut().for_each(Pipe::clear);
        for at in [Side::Peer, Side::Coordinator] {
            self.happen(Duration::ZERO, conn.0, Happening::Closed { conn, at });
        }
    }

    /// An end learns that its connection is gone
    pub(super) fn closed(&mut self, conn: ConnId, at: Side) {
        self.see_end(conn, at, Told::Lost);
        let Some(socket) = self.sockets.get_mut(&conn).filter(|socket| socket.is_open(at)) else { return };
        socket.open[at as usize] = false;
        let (peer, attempt) = (socket.peer, socket.attempt);
        match at {
            Side::Coordinator => {
                let now = self.clock(Who::Chief);
                if let Some(machine) = &mut self.chief.machine {
                    machine.handle(now, coordinator::Input::Closed { conn }).expect("a close is never refused");
                    self.dirty.insert(Who::Chief);
                }
            }
            Side::Peer => {
                if let Some(peer) = peer {
                    if self.peers[peer].conn == Some(conn) {
                        self.peers[peer].conn = None;
                    }
                    self.tell_lost(peer, attempt, Loss::Peer);
                }
            }
        }
        self.forget_if_over(conn);
    }

    /// Has it seen that somebody's end is about to be over, if it is open
    fn see_end(&mut self, conn: ConnId, side: Side, told: fn(Node, u64) -> Told) {
        if self.sockets.get(&conn).is_some_and(|socket| socket.is_open(side))
            && let Some(who) = self.end_of(conn, side)
        {
            let node = self.name(who);
            self.trace.see(self.now, || told(node, conn.0));
        }
    }

    pub(super) fn tell_lost(&mut self, peer: usize, attempt: u64, loss: Loss) {
        let now = self.clock(Who::Peer(peer));
        if let Some(machine) = &mut self.peers[peer].machine {
            machine.lost(now, attempt, loss).expect("what the network does is never refused");
            self.dirty.insert(Who::Peer(peer));
        }
    }

    /// Nobody believes in it any more, and nothing is under way
    fn forget_if_over(&mut self, conn: ConnId) {
        let over = |socket: &Socket| socket.open == [false; 2] && socket.pipes.iter().all(|pipe| pipe.in_flight == 0);
        if self.sockets.get(&conn).is_some_and(over) {
            self.sockets.remove(&conn);
        }
    }

    /// An end that hears nothing more should have given its connection up by now (L3)
    pub(super) fn found_out(&mut self, conn: ConnId, at: Side, who: Who, life: u64) {
        let current = match who {
            Who::Chief => &self.chief.life,
            Who::Peer(peer) => &self.peers[peer].life,
        };
        if current.number != life || current.disturbed {
            return;
        }
        let open = self.sockets.get(&conn).is_some_and(|socket| socket.is_open(at));
        let name = self.name(who);
        self.auditor.expect(Check::L3, !open, || format!("{name} still believes in connection {}", conn.0));
    }
}
