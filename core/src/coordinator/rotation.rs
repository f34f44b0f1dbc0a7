//! Keys that are replaced while their holders are connected (AUTH-6)
//!
//! The new key follows from the handshake of the connection, at both ends, and so nothing secret travels. It is durable here
//! before the worker is told, and there before it is used. Until then both keys are good; the first handshake with
//! the new one retires what was there before. A later key never retires one that its holder may still come with: a worker dials
//! nobody while it keeps a key, so that a connection with an older key is one that the newer key did not reach. Such a
//! rotation begins again by itself.

use alloc::boxed::Box;

use crate::ids::{ConnId, KeyId, PeerName};
use crate::limits::{KEYS_NEXT_MAX, ROTATION_SINCE};
use crate::wire::keys::Key;
use crate::wire::view::RotationView;

use super::entry::Conn;
use super::peers::PeerIx;
use super::{Desk, Event};

/// How far the next key of a connection is
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Rotation {
    /// Nobody asked for it
    No,
    /// The embedder is to make it durable
    Keeping,
    /// It is durable; its holder is to be told
    Due,
    /// Its holder was told
    Told,
}

impl Desk {
    /// Somebody wants a worker to have another key
    pub(super) fn rotate_key(&mut self, name: &PeerName) -> RotationView {
        let Some(ix) = self.roster.worker(name) else { return RotationView::Unknown };
        let Some(conn) = self.roster.get(ix).conn else { return RotationView::Away };
        let waiting = self.roster.next_keys(name);
        let Some(Conn::Live(live)) = self.conns.get_mut(&conn) else { return RotationView::Away };
        if live.channel.version < ROTATION_SINCE {
            return RotationView::TooOld;
        }
        match live.rotation {
            Rotation::No if waiting >= KEYS_NEXT_MAX => return RotationView::TooMany,
            // Again, where it was asked for before and did not come about.
            Rotation::No | Rotation::Keeping => {
                live.rotation = Rotation::Keeping;
                self.keeps.push_back(conn);
            }
            Rotation::Due | Rotation::Told => {
                live.rotation = Rotation::Due;
                self.touch(ix);
            }
        }
        RotationView::Begun
    }

    /// A worker has come with a key that was to be replaced before: it is given another one, as far as the bound goes
    pub(super) fn finish_rotation(&mut self, conn: ConnId, ix: PeerIx) {
        let waiting = self.roster.next_keys(&self.roster.get(ix).name);
        let Some(Conn::Live(live)) = self.conns.get_mut(&conn) else { return };
        if (1..KEYS_NEXT_MAX).contains(&waiting) && live.channel.version >= ROTATION_SINCE {
            live.rotation = Rotation::Keeping;
            self.keeps.push_back(conn);
        }
    }

    /// A key that the embedder is to make durable, and the one that it is to replace
    pub(super) fn next_keep(&mut self) -> Option<(Box<Key>, KeyId)> {
        while let Some(conn) = self.keeps.pop_front() {
            if let Some(enrolled) = self.enrolled_keep(conn) {
                return Some(enrolled);
            }
            let Some(Conn::Live(live)) = self.conns.get(&conn) else { continue };
            let peer = self.roster.get(live.peer);
            return Some((Box::new(live.next.of(&peer.name, peer.role)), live.key));
        }
        None
    }

    /// A key is durable: its holder may be told, if the connection that it follows from is still there
    pub(super) fn key_kept(&mut self, key: KeyId) {
        if self.enrolled(key) {
            return;
        }
        let ready = |(conn, entry): (&ConnId, &mut Conn)| match entry {
            Conn::Live(live) if live.next.id == key && live.rotation == Rotation::Keeping => {
                live.rotation = Rotation::Due;
                Some((*conn, live.peer, live.next.clone()))
            }
            Conn::Live(_) | Conn::Contending(_) => None,
        };
        let Some((conn, ix, next)) = self.conns.iter_mut().find_map(ready) else { return };
        let peer = self.roster.get(ix);
        let known = self.roster.add_key(next.of(&peer.name, peer.role)) && self.roster.is_next(key);
        if let (false, Some(Conn::Live(live))) = (known, self.conns.get_mut(&conn)) {
            // Its id stands for another key: as unlikely as guessing one.
            live.rotation = Rotation::No;
        }
        self.touch(ix);
    }

    /// A key has opened the door: if it was new, those before it do so no more
    pub(super) fn key_used(&mut self, key: KeyId) {
        let Some((peer, retired)) = self.roster.used(key) else { return };
        self.events.push_back(Event::KeyUsed { peer, key });
        for key in retired {
            let known = self.revoke(key);
            debug_assert!(known.is_ok(), "it was just found");
        }
    }
}
