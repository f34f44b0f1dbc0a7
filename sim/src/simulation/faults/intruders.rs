//! Those who have no business here: somebody without a key, and somebody with one who does not keep to the rules

use rejoin_core::coordinator::{self, Address};
use rejoin_core::ids::ConnId;

use super::super::net::{Socket, framed};
use super::super::rogue::Rogue;
use super::super::{Happening, Simulation, Who};
use crate::draws::{Draws, Purpose, mix};
use crate::menu::Kind;
use crate::net::Side;

impl Simulation {
    /// Somebody connects and says nothing that makes sense
    pub(super) fn stranger(&mut self, bytes: u64) {
        let Some(conn) = self.let_in(None) else { return };
        // More than any message has says nothing more.
        let noise: Vec<u8> = (0..bytes.min(100_000)).map(|n| mix(n ^ conn.0) as u8).collect();
        let message = if bytes.is_multiple_of(2) { framed(&noise) } else { noise };
        self.says(conn, message);
        self.tally.hit(Kind::Stranger);
    }

    /// Somebody says again what a peer has said on its newest connection
    pub(super) fn impostor(&mut self, peer: usize, messages: u64) {
        let said: Vec<_> = self.peers[peer].said.iter().take(messages as usize).map(|said| framed(said)).collect();
        if said.is_empty() {
            return;
        }
        let Some(conn) = self.let_in(None) else { return };
        self.tally.hit(Kind::Impostor);
        said.into_iter().for_each(|message| self.says(conn, message));
    }

    /// Somebody with a key of his own greets; what he says in the end depends on the kind
    pub(super) fn rogue(&mut self, kind: u64) {
        let others = self.peers.iter().flat_map(|peer| peer.running.iter());
        let victim = others.map(|(token, execution)| (execution.id, *token)).next();
        let earlier = self.rogues;
        let entropy = Draws::new(self.schedule.seed, Purpose::Entropy, u64::MAX - earlier as u64).bytes();
        self.rogues += 1;
        let Some(rogue) = Rogue::new(earlier, kind, victim, entropy) else { return };
        let hello = framed(rogue.hello());
        if let Some(conn) = self.let_in(Some(Box::new(rogue))) {
            self.says(conn, hello);
        }
    }

    /// A connection that is nobody's worker or client, if the coordinator takes it
    fn let_in(&mut self, rogue: Option<Box<Rogue>>) -> Option<ConnId> {
        self.chief.machine.as_ref()?;
        let conn = self.next_conn(None);
        // Nobody is at its other end who could be told that it closes.
        let open = [rogue.is_some(), true];
        let (now, entropy) = (self.clock(Who::Chief), self.fresh(conn, Side::Coordinator));
        let machine = self.chief.machine.as_mut()?;
        let input = coordinator::Input::Accepted { conn, address: Address::LOOPBACK, entropy, binding: None };
        machine.handle(now, input).ok()?;
        self.sockets.insert(conn, Socket { open, rogue, ..Socket::dialled(conn, self.now) });
        self.dirty.insert(Who::Chief);
        Some(conn)
    }

    /// Whoever is at the other end says something
    pub(in super::super) fn says(&mut self, conn: ConnId, message: Vec<u8>) {
        let at = self.now + self.latency;
        if let Some(socket) = self.sockets.get_mut(&conn) {
            let at = socket.pipe(Side::Coordinator).push(at, message);
            self.happen_at(at, conn.0, Happening::Bytes { conn, towards: Side::Coordinator });
        }
    }
}
