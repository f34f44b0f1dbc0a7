//! Dials, bytes and closes

use std::time::Duration;

use rejoin_core::coordinator::{self, Address};
use rejoin_core::ids::{ConnId, Role};
use rejoin_core::wire::message::{FromClient, FromWorker};
use rejoin_core::{Instant, Loss, Rejected};

use super::net::{Arrived, Pipe, Socket, Timed, framed};
use super::people::heartbeat;
use super::{Happening, Simulation, Who};
use crate::audit::Check;
use crate::draws::{Draws, Purpose};
use crate::menu::Kind;
use crate::net::Side;
use crate::schedule::{Knob, Node};
use crate::tap::{Message, Said, messages};
use crate::trace::Told;
use crate::words::words;

/// Messages at the start of a connection that are kept for those who say them again
const SAID_MAX: usize = 16;
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

    /// The name of a peer's next connection, or of an intruder's: whoever else dials has no part in it
    pub(super) fn next_conn(&mut self, peer: Option<usize>) -> ConnId {
        let (of, count) = match peer {
            Some(peer) => (peer as u64 + 1, &mut self.peers[peer].dials),
            None => (0, &mut self.intruders),
        };
        *count += 1;
        ConnId(of << 32 | *count)
    }

    // Dials.

    pub(super) fn dial(&mut self, peer: usize, attempt: u64) {
        let open = self.peers[peer].conn.is_some();
        let who = self.name(Who::Peer(peer));
        self.auditor.expect(Check::S23, !open, || format!("{who} dials while it has a connection"));
        let (now, whole) = (self.now, self.is_whole(Who::Peer(peer)));
        let life = self.peers[peer].life.number;
        self.figures.dials += 1;
        let (clock, sound) = (self.clock(Who::Peer(peer)), !self.peers[peer].life.disturbed);
        self.auditor.dials(peer, clock, sound);
        self.peers[peer].dialled = attempt;
        let hangs = self.hangs(peer).is_some();
        let net = &self.peers[peer].net;
        let struck = |timed: &Timed| !whole && timed.at(now).is_some();
        let refused = !hangs && struck(&net.refuses);
        if refused {
            self.tally.hit(Kind::Refuse);
        }
        if refused || (!hangs && self.chief.machine.is_none()) {
            let failed = Happening::Fails { peer, attempt, life, loss: Loss::Peer };
            self.trace.see(now, || Told::Dialled(who, None));
            return self.happen(self.latency * 2, peer as u64, failed);
        }
        let breaks = net.breaks.at(now).filter(|_| !whole);
        let mute = struck(&net.mute);
        let opens = self.opens_at(peer);
        let conn = self.next_conn(Some(peer));
        let mut pipes = [Pipe::default(), Pipe::default()];
        if mute {
            self.tally.hit(Kind::Mute);
            pipes.iter_mut().for_each(Pipe::die);
        }
        self.sockets.insert(conn, Socket { peer: Some(peer), attempt, life, pipes, ..Socket::dialled(conn, now) });
        self.peers[peer].conn = Some(conn);
        self.peers[peer].said.clear();
        self.trace.see(now, || Told::Dialled(who, Some(conn.0)));
        self.happen_at(opens, conn.0, Happening::Opens { conn });
        if let Some(us) = breaks {
            self.tally.hit(Kind::AcceptReset);
            self.happen_at(opens + Duration::from_micros(us), conn.0, Happening::Breaks { conn });
        }
    }

    /// Why and until when dials hang, if they do: their first packets are lost, and sent again until they get through
    fn hangs(&self, peer: usize) -> Option<(Kind, Instant)> {
        let (net, now) = (&self.peers[peer].net, self.now);
        if self.is_whole(Who::Peer(peer)) {
            return None;
        }
        let both = [(Kind::Partition, &net.partitioned), (Kind::Hang, &net.hangs)];
        let held = both.into_iter().filter_map(|(kind, timed)| Some((kind, Instant::from_micros(timed.at(now)?))));
        held.max_by_key(|(_, until)| *until)
    }

    /// When a dial opens that begins now: both systems have to hear each other for that
    fn opens_at(&mut self, peer: usize) -> Instant {
        let now = self.now;
        let plain = now + self.latency * 2;
        if self.is_whole(Who::Peer(peer)) {
            return plain;
        }
        let net = &self.peers[peer].net;
        let late = net.dials_late.at(now).map(Duration::from_micros);
        let held = net.ways.iter().filter_map(|way| way.stalled.at(now)).max().map(Instant::from_micros);
        if late.is_some() {
            self.tally.hit(Kind::SlowDial);
        }
        if held.is_some() {
            self.tally.hit(Kind::Stall);
        }
        (plain + late.unwrap_or_default()).max(held.unwrap_or(plain))
    }

    pub(super) fn dial_fails(&mut self, peer: usize, attempt: u64, life: u64, loss: Loss) {
        if self.peers[peer].life.number == life {
            let who = self.name(Who::Peer(peer));
            self.trace.see(self.now, || Told::Note(who, format!("its dial fails: {}", words(loss))));
            self.tell_lost(peer, attempt, loss);
        }
    }

    /// Both systems have shaken hands; the peer's process learns it, and the coordinator's too
    pub(super) fn opens(&mut self, conn: ConnId) {
        let Some(socket) = self.sockets.get(&conn).filter(|socket| socket.is_open(Side::Peer)) else { return };
        let Some(peer) = socket.peer else { return };
        if let Some((kind, until)) = self.hangs(peer) {
            self.tally.hit(kind);
            return self.happen_when_over(until, Who::Peer(peer), conn.0, &Happening::Opens { conn });
        }
        if self.put_off(Who::Peer(peer), conn.0, &Happening::Opens { conn }) {
            return;
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
        let peer = self.sockets.get(&conn).and_then(|socket| socket.peer);
        if peer.is_some_and(|peer| self.is_kept_away(peer)) {
            return self.break_now(conn);
        }
        if self.sockets.get(&conn).is_some_and(|socket| socket.pipes[Side::Coordinator as usize].deaf) {
            // Its process hears of a connection with the first message, which never arrives.
            return self.opened_at_peer(conn);
        }
        let (now, entropy) = (self.clock(Who::Chief), self.fresh(conn, Side::Coordinator));
        let Some(machine) = &mut self.chief.machine else { return self.break_now(conn) };
        let input = coordinator::Input::Accepted { conn, address: Address::LOOPBACK, entropy, binding: None };
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
        self.opened_at_peer(conn);
    }

    /// Whoever dialled has a connection
    fn opened_at_peer(&mut self, conn: ConnId) {
        let Some(socket) = self.sockets.get(&conn) else { return };
        let (peer, attempt, life) = (socket.peer, socket.attempt, socket.life);
        let Some(peer) = peer else { return };
        let (now, entropy) = (self.clock(Who::Peer(peer)), self.fresh(conn, Side::Peer));
        if let Some(machine) = &mut self.peers[peer].machine {
            machine.connected(now, attempt, entropy).expect("what the network does is never refused");
            self.dirty.insert(Who::Peer(peer));
            self.auditor.opened(peer, now);
        }
        if self.sockets.get(&conn).is_some_and(|socket| socket.pipes[Side::Peer as usize].deaf) {
            self.expect_found_out(conn, Side::Peer);
        }
        if let Some((us, away)) = self.peers[peer].dies_resuming.take() {
            let dies = Happening::Dies { peer, life, kind: Kind::CrashResuming, away };
            self.happen(Duration::from_micros(us), peer as u64, dies);
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
        if let Some(peer) = peer {
            self.read(conn, peer, from, message);
        }
        if self.remembers {
            self.remember(conn, towards, message);
        }
        match peer {
            Some(peer) if self.is_struck(peer, towards) => {
                for bytes in self.strike(conn, peer, towards, message) {
                    self.put_under_way(conn, Some(peer), towards, bytes);
                }
            }
            Some(_) => self.put_under_way(conn, peer, towards, framed(message)),
            None => self.told_intruder(conn, message),
        }
        self.fill(conn, from);
    }

    /// Reads what a message says, and that an end is not silent
    fn read(&mut self, conn: ConnId, peer: usize, from: Side, message: &[u8]) {
        let role = if self.is_worker(peer) { Role::Worker } else { Role::Client };
        if from == Side::Coordinator {
            // One that stands still, or has lost time, is late.
            let lifetime = if self.chief.life.disturbed { Duration::MAX } else { self.chief.config.session_lifetime };
            self.auditor.coordinator_at(self.clock(Who::Chief), lifetime);
        }
        let Simulation { scratch, auditor, figures, .. } = self;
        messages(message, role, from.other(), scratch, |said| {
            figures.messages += 1;
            if let Said::Loose(
                Message::FromWorker(FromWorker::Piece { bytes, .. })
                | Message::FromClient(FromClient::InputPiece { bytes, .. }),
            ) = &said
            {
                figures.chunk_bytes += bytes.len() as u64;
            }
            auditor.said(conn, peer, from, &said);
        });
        let (now, quiet) = (self.now, self.quiet);
        // A tenth is jitter (LIVE-1).
        let within = heartbeat(&self.schedule) * 11 / 10 + Duration::from_millis(1);
        // The coordinator answers beats, the first of which comes that long after its welcome has arrived.
        let within = within + if from == Side::Coordinator { self.latency * 2 } else { Duration::ZERO };
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        let before = std::mem::replace(&mut socket.spoke[from as usize], now);
        if quiet {
            let gap = now.since(before);
            self.auditor.expect(Check::S24, gap <= within, || {
                format!("the {from} was silent for {gap:?} on connection {}, and may be for {within:?}", conn.0)
            });
        }
    }

    /// Keeps what was said, for those who say it again
    fn remember(&mut self, conn: ConnId, towards: Side, message: &[u8]) {
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        socket.pipe(towards).remember(message);
        if let Some(peer) = socket.peer.filter(|_| towards == Side::Coordinator)
            && self.peers[peer].said.len() < SAID_MAX
        {
            self.peers[peer].said.push(message.into());
        }
    }

    /// Somebody who is nobody's worker or client hears the coordinator
    fn told_intruder(&mut self, conn: ConnId, message: &[u8]) {
        let Some(rogue) = self.sockets.get_mut(&conn).and_then(|socket| socket.rogue.as_mut()) else { return };
        let answers = rogue.answer(message);
        if !answers.is_empty() {
            self.tally.hit(Kind::Rogue);
        }
        answers.iter().for_each(|answer| self.says(conn, framed(answer)));
    }

    /// Tells an end that it may not send, while too much is under way or its buffer is full
    fn fill(&mut self, conn: ConnId, from: Side) {
        let (blocked, bloated, buffer) = (self.blocked(conn, from), self.bloated(conn, from), self.send_buffer);
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        let pipe = socket.pipe(from.other());
        let full = pipe.in_flight as u64 > buffer && !bloated;
        if pipe.full || (!full && blocked.is_none()) {
            return;
        }
        pipe.full = true;
        self.was_full = true;
        if let Some(until) = blocked {
            self.tally.hit(Kind::Blocked);
            self.happen_at(until, conn.0, Happening::Writable { conn, at: from });
        }
        self.tell_writable(conn, from, false);
    }

    /// Until when an end may not send, whatever is under way
    fn blocked(&self, conn: ConnId, from: Side) -> Option<Instant> {
        let peer = self.sockets.get(&conn)?.peer.filter(|peer| !self.is_whole(Who::Peer(*peer)))?;
        self.peers[peer].net.ways[from.other() as usize].blocked.at(self.now).map(Instant::from_micros)
    }

    /// Whether some buffer on the way takes in whatever is sent
    fn bloated(&self, conn: ConnId, from: Side) -> bool {
        let peer = self.sockets.get(&conn).and_then(|socket| socket.peer);
        peer.is_some_and(|peer| {
            let bloat = &self.peers[peer].net.ways[from.other() as usize].bloat;
            bloat.at(self.now).is_some() && !self.is_whole(Who::Peer(peer))
        })
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
        let Some(who) = self.end_of(conn, at) else { return };
        if self.put_off(who, conn.0, &Happening::Writable { conn, at }) {
            return;
        }
        let (blocked, buffer) = (self.blocked(conn, at), self.send_buffer);
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
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
        let now = self.now;
        let mut at = now + self.latency;
        let mut pieces = None;
        if let Some(peer) = peer.filter(|peer| !self.is_whole(Who::Peer(*peer))) {
            let seed = self.schedule.seed;
            let way = &mut self.peers[peer].net.ways[towards as usize];
            for law in way.laws.iter().filter(|law| now < law.until) {
                way.drawn += 1;
                let entity = (peer as u64) << 33 | (towards as u64) << 32 | way.drawn;
                at = at + law.draw(now, &mut Draws::new(seed, Purpose::Latency, entity));
                self.tally.hit(law.kind);
            }
            for (kind, narrow) in [(Kind::Bandwidth, &way.bandwidth), (Kind::Bloat, &way.bloat)] {
                let Some(rate) = narrow.at(now) else { continue };
                let takes = (bytes.len() as u64).saturating_mul(1_000_000) / rate.max(1);
                way.busy_until = way.busy_until.max(now) + Duration::from_micros(takes);
                at = at.max(way.busy_until + self.latency);
                self.tally.hit(kind);
            }
            // However small the pieces, no more than a few hundred events for one message.
            let least = bytes.len() / 256;
            if let Some(size) = way.rechunk.at(now) {
                pieces = Some((Kind::Rechunk, (size.max(1) as usize).max(least), PIECE_PAUSE));
            }
            if let Some(us) = way.drip.at(now) {
                pieces = Some((Kind::Drip, least.max(1), Duration::from_micros(us)));
            }
        }
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        let pipe = socket.pipe(towards);
        let Some((kind, piece, pause)) = pieces.filter(|(_, piece, _)| *piece < bytes.len()) else {
            let at = pipe.push(at, bytes);
            return self.happen_at(at, conn.0, Happening::Bytes { conn, towards });
        };
        self.tally.hit(kind);
        let mut arrivals = Vec::new();
        for part in bytes.chunks(piece) {
            arrivals.push(pipe.push(at, part.into()));
            at = at + pause;
        }
        for at in arrivals {
            self.happen_at(at, conn.0, Happening::Bytes { conn, towards });
        }
    }

    /// Until when nothing arrives at an end, though it is under way
    fn held_up(&self, conn: ConnId, towards: Side) -> Option<(Kind, Instant)> {
        let socket = self.sockets.get(&conn)?;
        if let Some(peer) = socket.peer.filter(|peer| !self.is_whole(Who::Peer(*peer))) {
            let net = &self.peers[peer].net;
            if let Some(until) = net.ways[towards as usize].stalled.at(self.now) {
                return Some((Kind::Stall, Instant::from_micros(until)));
            }
            if let Some(until) = net.partitioned.at(self.now) {
                return Some((Kind::Partition, Instant::from_micros(until)));
            }
        }
        self.stands_still(self.end_of(conn, towards)?)
    }

    /// Hands over what has arrived at an end
    pub(super) fn bytes(&mut self, conn: ConnId, towards: Side) {
        if let Some((kind, until)) = self.held_up(conn, towards) {
            self.tally.hit(kind);
            return self.happen_at(until, conn.0, Happening::Bytes { conn, towards });
        }
        let now = self.now;
        let Some(socket) = self.sockets.get_mut(&conn) else { return };
        let mut all = std::mem::take(&mut self.arrived);
        let was_deaf = socket.pipe(towards).deaf && socket.pipe(towards).in_flight > 0;
        socket.pipe(towards).arrive(now, |one| all.push(one));
        if towards == Side::Coordinator {
            if socket.pipe(towards).is_arriving() {
                self.arriving.insert(conn);
            } else {
                self.arriving.remove(&conn);
            }
        }
        let room = socket.pipe(towards).full;
        let ghost = socket.ghost && towards == Side::Coordinator;
        if was_deaf && socket.is_open(towards) {
            self.tally.hit(Kind::HalfOpen);
        }
        for one in all.drain(..) {
            if !ghost && !self.sockets.get(&conn).is_some_and(|socket| socket.is_open(towards)) {
                break;
            }
            match one {
                Arrived::Message(message, altered) => self.deliver(conn, towards, &message, altered),
                Arrived::Nonsense => {
                    self.see_end(conn, towards, Told::Lost);
                    self.tell_closed(conn, towards);
                    self.hang_up(conn, towards);
                }
                Arrived::Break => {
                    self.tally.hit(Kind::ResetAfter);
                    self.break_now(conn);
                }
                Arrived::Over => {
                    // Whoever reads that no more will come closes in his turn.
                    self.see_end(conn, towards, Told::Lost);
                    self.tell_closed(conn, towards);
                    self.hang_up(conn, towards);
                }
            }
        }
        self.arrived = all;
        if room {
            self.writable_again(conn, towards.other());
        }
    }

    /// A message reaches a machine
    pub(super) fn deliver(&mut self, conn: ConnId, at: Side, message: &[u8], altered: bool) {
        let Some(socket) = self.sockets.get(&conn) else { return };
        let (peer, attempt, rogue) = (socket.peer, socket.attempt, socket.rogue.is_some());
        let over = !socket.is_open(at);
        let Some(who) = self.end_of(conn, at) else { return };
        self.trace.mix_bytes(message);
        let other = peer.map_or(Node::Coordinator, |peer| self.name(Who::Peer(peer)));
        let (by, from) = if at == Side::Peer { (other, Node::Coordinator) } else { (Node::Coordinator, other) };
        self.trace.received(self.now, by, from, conn.0, message);
        let now = self.clock(who);
        match who {
            Who::Chief => {
                if over {
                    self.deliver_idle(conn, message, Check::S8);
                } else if altered {
                    self.deliver_idle(conn, message, Check::S15);
                } else if rogue {
                    self.deliver_idle(conn, message, Check::S7);
                } else if let Some(machine) = &mut self.chief.machine {
                    let before = machine.stats();
                    // After its journal has failed it takes nothing in.
                    let _ = machine.handle(now, coordinator::Input::Received { conn, bytes: message });
                    let after = machine.stats();
                    if after.digests > before.digests && !self.doubled {
                        self.auditor.expect(Check::S34, after.mismatches == before.mismatches, || {
                            format!("on connection {} another digest came than was expected", conn.0)
                        });
                    }
                }
            }
            Who::Peer(peer) => {
                let Some(machine) = &mut self.peers[peer].machine else { return };
                if altered {
                    // Whatever is due is not the message's doing.
                    machine.timeout(now).expect("time is never refused");
                }
                let before = altered.then(|| machine.believed());
                let sent_away = machine.sent_away();
                machine.received(now, attempt, message).expect("what the network does is never refused");
                if machine.sent_away() > sent_away {
                    self.auditor.sent_away(peer, conn, now);
                }
                if let Some(before) = before {
                    let same = machine.believed() == before;
                    self.auditor.expect(Check::S15, same, || format!("connection {} changed something", conn.0));
                }
            }
        }
        self.dirty.insert(who);
    }

    /// A message reaches the coordinator that may not change anything, for the reason that a check says
    fn deliver_idle(&mut self, conn: ConnId, message: &[u8], check: Check) {
        let now = self.clock(Who::Chief);
        let Some(machine) = &mut self.chief.machine else { return };
        // Whatever is due is not the message's doing.
        machine.handle(now, coordinator::Input::Timeout).expect("time is never refused");
        let (before, stats) = (machine.digest(), machine.stats());
        let _ = machine.handle(now, coordinator::Input::Received { conn, bytes: message });
        let (same, new) = (machine.digest() == before, machine.stats());
        // The connection that it ends may take its worker's tasks along at once.
        let same = same || self.schedule.setting(Knob::LostAfter) == Some(0);
        self.auditor.expect(check, same, || format!("connection {} changed something", conn.0));
        let counted = (new.bad_tags + new.violations + new.failed_handshakes)
            - (stats.bad_tags + stats.violations + stats.failed_handshakes);
        let rogue = self.sockets.get_mut(&conn).and_then(|socket| socket.rogue.as_mut());
        let least = u64::from(rogue.is_some_and(|rogue| rogue.breaks_a_rule()));
        self.auditor.expect(Check::S16, (least..=1).contains(&counted), || {
            format!("a message counts as {counted} bad ones, and {least} is the least")
        });
        self.provoked += new.violations - stats.violations;
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
                for conn in &self.arriving {
                    if self.sockets.get(conn).is_some_and(|socket| socket.is_open(Side::Coordinator)) {
                        let _ = machine.handle(now, coordinator::Input::Arriving { conn: *conn });
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
        self.tell_closed(conn, at);
    }

    fn tell_closed(&mut self, conn: ConnId, at: Side) {
        let Some(socket) = self.sockets.get(&conn) else { return };
        let (peer, attempt) = (socket.peer, socket.attempt);
        match at {
            Side::Coordinator => {
                let now = self.clock(Who::Chief);
                if let Some(peer) = peer {
                    self.auditor.ended_at(conn, peer, now);
                }
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
        if attempt == self.peers[peer].dialled {
            // Of an earlier connection it knew, or a late word of it is no loss.
            self.auditor.lost(peer, now);
        }
        if let Some(machine) = &mut self.peers[peer].machine {
            machine.lost(now, attempt, loss).expect("what the network does is never refused");
            self.dirty.insert(Who::Peer(peer));
        }
    }

    /// Nobody believes in it any more, and nothing is under way
    pub(super) fn forget_if_over(&mut self, conn: ConnId) {
        let over = |socket: &Socket| {
            let closed = socket.open == [false; 2] && !socket.ghost;
            closed && socket.pipes.iter().all(|pipe| pipe.in_flight == 0)
        };
        if self.sockets.get(&conn).is_some_and(over) {
            self.sockets.remove(&conn);
            self.auditor.hung_up(conn);
            self.arriving.remove(&conn);
        }
    }

    /// An end that hears nothing more should have given its connection up by now (L3)
    pub(super) fn found_out(&mut self, conn: ConnId, at: Side, who: Who, life: u64) {
        let current = self.life(who);
        if current.number != life || current.disturbed {
            return;
        }
        let open = self.sockets.get(&conn).is_some_and(|socket| socket.is_open(at));
        let name = self.name(who);
        self.auditor.expect(Check::L3, !open, || format!("{name} still believes in connection {}", conn.0));
    }
}
