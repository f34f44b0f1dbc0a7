//! What befalls the next bytes or messages

use std::time::Duration;

use rejoin_core::ids::{ConnId, Role};
use rejoin_core::wire::handshake::Hello;
use rejoin_core::wire::message::Control;

use super::super::net::{LENGTH_BYTES, framed};
use super::super::{Simulation, Who};
use crate::draws::mix;
use crate::menu::Kind;
use crate::net::Side;
use crate::schedule::Fault;
use crate::tap::{Said, messages};

/// Most bytes that are made up at a time
const NOISE_MAX: usize = 100_000;

/// What goes on its way in the place of a message
struct Struck {
    parts: Vec<Vec<u8>>,
    /// Behind how many of their bytes nothing is as it should be, if it is not
    altered_behind: Option<usize>,
}

impl Struck {
    fn altered(parts: Vec<Vec<u8>>) -> Struck {
        Struck { parts, altered_behind: Some(0) }
    }

    fn untouched(bytes: Vec<u8>) -> Struck {
        Struck { parts: vec![bytes], altered_behind: None }
    }
}

impl Simulation {
    /// Whether something waits for the next message of a peer's network
    pub(in super::super) fn is_struck(&self, peer: usize, towards: Side) -> bool {
        let net = &self.peers[peer].net;
        let way = &net.ways[towards as usize];
        let waits = !way.struck.is_empty() || way.overtaken.is_some();
        let greeting = match towards {
            Side::Coordinator => net.downgrade.is_some() || net.regreet,
            Side::Peer => net.unanswered.is_some(),
        };
        (waits || greeting) && !self.is_whole(Who::Peer(peer))
    }

    /// What becomes of a message that leaves: the bytes that go on their way in its place
    ///
    /// From the first byte that differs on, nothing on this connection may count any more (S15).
    pub(in super::super) fn strike(
        &mut self,
        conn: ConnId,
        peer: usize,
        towards: Side,
        message: &[u8],
    ) -> Vec<Vec<u8>> {
        if let Some(altered) = self.downgraded(peer, towards, message) {
            self.tally.hit(Kind::Downgrade);
            self.alter(conn, towards, 0);
            return vec![framed(&altered)];
        }
        if let Some(parts) = self.regreeted(conn, peer, towards, message) {
            return parts;
        }
        let role = if self.is_worker(peer) { Role::Worker } else { Role::Client };
        let again = self.said_before(peer, towards);
        let way = &mut self.peers[peer].net.ways[towards as usize];
        let held = way.overtaken.take();
        let Some(fault) = way.next_strike() else {
            let Some((of, held)) = held else { return vec![framed(message)] };
            let out = vec![framed(message), held];
            self.tally.hit(Kind::Swap);
            // On another connection than its own only the one that was overtaken is out of place.
            self.alter(conn, towards, if of == conn { 0 } else { out[0].len() });
            return out;
        };
        // A greeting that comes twice is answered twice, which is no damage: `regreet` is about that.
        let spares = fault.kind == Kind::Duplicate && Hello::decode(message).is_some();
        if spares || (fault.kind == Kind::Hold && !is_of_kind(message, role, towards, fault.amount)) {
            way.struck.push_front(fault);
            way.overtaken = held;
            return vec![framed(message)];
        }
        // One that nothing has overtaken yet goes first after all.
        let in_place = held.as_ref().map_or(0, |(of, held)| if *of == conn { held.len() } else { 0 });
        let foreign = held.as_ref().is_some_and(|(of, _)| *of != conn);
        let struck = match fault.kind {
            Kind::Swap => {
                way.overtaken = Some((conn, framed(message)));
                Struck { parts: Vec::new(), altered_behind: None }
            }
            Kind::Hold => {
                self.tally.hit(Kind::Hold);
                self.hold_back(conn, towards, fault.span);
                Struck::untouched(framed(message))
            }
            _ => struck(fault, message, again),
        };
        if struck.altered_behind.is_some() {
            self.tally.hit(fault.kind);
        }
        if struck.altered_behind.is_some()
            && struck.parts.iter().all(Vec::is_empty)
            && let Some(socket) = self.sockets.get_mut(&conn)
        {
            // It was never sent: said again, it would be in its place after all.
            socket.pipe(towards).history.pop_back();
        }
        if let Some(behind) = struck.altered_behind.or(foreign.then_some(0)) {
            self.alter(conn, towards, if foreign { 0 } else { in_place + behind });
        }
        held.into_iter().map(|(_, held)| held).chain(struck.parts).collect()
    }

    /// Behind so many more bytes, what goes towards an end is not what it should be
    fn alter(&mut self, conn: ConnId, towards: Side, behind: usize) {
        if let Some(socket) = self.sockets.get_mut(&conn) {
            socket.pipe(towards).alter(behind as u64);
        }
    }

    /// Whatever is sent from now on arrives that much later
    fn hold_back(&mut self, conn: ConnId, towards: Side, span: Duration) {
        let at = self.now + span;
        if let Some(socket) = self.sockets.get_mut(&conn) {
            socket.pipe(towards).nothing_before(at);
        }
    }

    /// What the next fault says again, if it is one that does
    fn said_before(&self, peer: usize, towards: Side) -> Option<Vec<u8>> {
        let fault = self.peers[peer].net.ways[towards as usize].struck.front()?;
        let back = |peer: usize, back: u64| {
            let socket = self.peers[peer].conn.and_then(|conn| self.sockets.get(&conn))?;
            let history = &socket.pipes[towards as usize].history;
            let said = history.iter().rev().nth(back as usize)?;
            // In front of M3 a greeting is one that comes twice (AUTH-9).
            (history.len() > 2 || Hello::decode(said).is_none()).then(|| said.clone())
        };
        match fault.kind {
            // None before it is the message itself, and that would be a duplicate.
            Kind::Replay => back(peer, fault.amount.max(1)),
            Kind::Splice => {
                let others = self.people().saturating_sub(1).max(1);
                back((peer + 1 + fault.amount as usize % others) % self.people(), 0).filter(|_| self.people() > 1)
            }
            _ => None,
        }
    }

    /// A greeting twice, as if it had come with the upgrade, and without the answer that went back with that (AUTH-9)
    fn regreeted(&mut self, conn: ConnId, peer: usize, towards: Side, message: &[u8]) -> Option<Vec<Vec<u8>>> {
        let net = &mut self.peers[peer].net;
        match towards {
            Side::Coordinator if net.regreet && Hello::decode(message).is_some() => {
                (net.regreet, net.unanswered) = (false, Some(conn));
                Some(vec![framed(message); 2])
            }
            Side::Peer if net.unanswered.take() == Some(conn) => {
                self.tally.hit(Kind::Regreet);
                Some(Vec::new())
            }
            Side::Coordinator | Side::Peer => None,
        }
    }

    /// A greeting with less in it than its sender put there
    fn downgraded(&mut self, peer: usize, towards: Side, message: &[u8]) -> Option<Vec<u8>> {
        let fault = self.peers[peer].net.downgrade.filter(|_| towards == Side::Coordinator)?;
        let mut hello = Hello::decode(message)?;
        self.peers[peer].net.downgrade = None;
        if fault.amount == 0 {
            hello.capabilities = !hello.capabilities & 1;
        } else {
            // As if it spoke one that nobody else speaks as well.
            hello.versions.push(u16::MAX).ok()?;
        }
        let mut out = vec![0; message.len() + 8];
        let len = hello.encode(&mut out);
        out.truncate(len);
        Some(out)
    }
}

/// What a fault makes of a message
fn struck(fault: Fault, message: &[u8], again: Option<Vec<u8>>) -> Struck {
    let mut bytes = framed(message);
    let (whole, amount) = (bytes.len(), fault.amount as usize);
    match fault.kind {
        Kind::Flip => {
            let bit = amount % (whole * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            Struck::altered(vec![bytes])
        }
        Kind::Scramble => {
            let at = amount % (whole - 1);
            let same = bytes[at] == bytes[at + 1];
            bytes.swap(at, at + 1);
            if same { Struck::untouched(bytes) } else { Struck::altered(vec![bytes]) }
        }
        Kind::Snip => {
            bytes.drain(..amount.clamp(1, whole));
            Struck::altered(vec![bytes])
        }
        Kind::Truncate => {
            // Fewer could be made good by chance, by the first bytes of what follows.
            bytes.truncate(whole - amount.clamp(4, whole));
            Struck::altered(vec![bytes])
        }
        Kind::Insert => {
            let noise = (0..amount.clamp(1, NOISE_MAX)).map(|n| mix(n as u64 ^ fault.amount) as u8).collect();
            Struck::altered(vec![noise, bytes])
        }
        Kind::Lie => {
            let more = u32::try_from(fault.amount.max(1)).unwrap_or(u32::MAX);
            let length = (message.len() as u32).saturating_add(more);
            bytes[..LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
            Struck::altered(vec![bytes])
        }
        Kind::Drop => Struck::altered(Vec::new()),
        Kind::Duplicate => Struck { parts: vec![bytes.clone(), bytes], altered_behind: Some(whole) },
        // There may be nothing yet that could be said again.
        _ => match again {
            Some(again) => Struck::altered(vec![framed(&again), bytes]),
            None => Struck::untouched(bytes),
        },
    }
}

/// Whether a message is of one of the kinds that `hold` numbers
fn is_of_kind(message: &[u8], role: Role, towards: Side, kind: u64) -> bool {
    let mut is = false;
    messages(message, role, towards, &mut Vec::new(), |said| {
        is |= match said {
            Said::Handshake(_) => kind == 0,
            Said::Control(Control::Welcome(_) | Control::Denied(_) | Control::Lease { .. }) => kind == 1,
            Said::Control(Control::Ack { .. }) => kind == 2,
            Said::Control(Control::Beat { .. } | Control::Echo { .. }) => kind == 3,
            Said::Control(
                Control::Confirm { .. }
                | Control::Begin { .. }
                | Control::Credit(_)
                | Control::Bye
                | Control::Digest { .. }
                | Control::Compare
                | Control::GoAway { .. }
                | Control::Mtbf { .. }
                | Control::NextKey,
            ) => false,
            Said::Numbered(..) | Said::Void(_) | Said::Loose(_) => kind == 4,
            Said::Unreadable => false,
        };
    });
    is
}
