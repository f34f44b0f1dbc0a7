//! Keys that are replaced while their holders are connected (AUTH-6)
//!
//! The new key follows from the handshake of the connection, at both ends, and so nothing secret travels. It is durable here
//! before the worker is told, and there before it is used. Until then both keys are good; the first handshake with
//! the new one retires what was there before. A later key never retires one that its holder may still come with: a worker dials
//! nobody while it keeps a key, so that a connection with an older key is one that the newer key did not reach. Such a
//! rotation begins again by itself.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::error::Rejected;
use crate::ids::{ConnId, KeyId, PeerName};
use crate::limits::{KEYS_NEXT_MAX, ROTATION_SINCE};
use crate::wire::keys::Key;
use crate::wire::message::Denied;
use crate::wire::view::RotationView;

use super::entry::Conn;
use super::peers::{Peer, PeerIx};
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
    ///
    /// It counts from now on, whatever becomes of the connection that it follows from.
    pub(super) fn next_keep(&mut self) -> Option<(Box<Key>, KeyId)> {
        while let Some(conn) = self.keeps.pop_front() {
            let Some((key, after)) = self.enrolled_keep(conn).or_else(|| self.rotated_keep(conn)) else { continue };
            // If its id stands for another key, which is as unlikely as guessing one, there is no other key this time.
            if self.roster.keep(&key, after) {
                return Some((key, after));
            }
        }
        None
    }

    fn rotated_keep(&self, conn: ConnId) -> Option<(Box<Key>, KeyId)> {
        let Some(Conn::Live(live)) = self.conns.get(&conn) else { return None };
        let peer = self.roster.get(live.peer);
        Some((Box::new(live.next.of(&peer.name, peer.role)), live.key))
    }

    /// A key is durable, or could not be made so: its holder is told, if the connection that it follows from is still there
    pub(super) fn key_kept(&mut self, key: KeyId, kept: bool) {
        let good = self.roster.kept(key, kept);
        if self.enrolled(key, good) || self.rotated(key, good) || !good {
            return;
        }
        // It follows from a connection that is gone, and from no other.
        self.roster.forget_next(key);
        self.events.push_back(Event::KeyUntold { key });
    }

    /// Whoever waits for this key is told, if it is good; `false` if nobody does
    fn rotated(&mut self, key: KeyId, good: bool) -> bool {
        for entry in self.conns.values_mut() {
            let Conn::Live(live) = entry else { continue };
            if live.next.id == key && live.rotation == Rotation::Keeping {
                live.rotation = if good { Rotation::Due } else { Rotation::No };
                let ix = live.peer;
                self.touch(ix);
                return true;
            }
        }
        false
    }

    /// A key has opened the door: if it was new, those before it do so no more
    pub(super) fn key_used(&mut self, key: KeyId) {
        let Some((peer, retired)) = self.roster.used(key) else { return };
        self.events.push_back(Event::KeyUsed { peer, key });
        retired.into_iter().for_each(|key| self.shut_out(key));
    }

    /// Lets nobody in by a key any more, nor by those that follow from it
    pub(super) fn revoke(&mut self, key: KeyId) -> Result<(), Rejected> {
        if !self.roster.has_key(key) {
            return Err(Rejected::Unknown);
        }
        let followers = self.roster.followers(key);
        self.shut_out(key);
        followers.into_iter().for_each(|key| self.shut_out(key));
        Ok(())
    }

    fn shut_out(&mut self, key: KeyId) {
        self.roster.revoke(key);
        self.token_revoked(key);
        let holds = |conn: &&ConnId| self.key_of(**conn) == Some(key);
        let mut holders: Vec<ConnId> = self.conns.keys().filter(holds).copied().collect();
        // First whoever waits: the end of the old connection would let it in.
        holders.sort_by_key(|conn| matches!(self.conns.get(conn), Some(Conn::Live(_))));
        holders.into_iter().for_each(|conn| self.deny(conn, Denied::Revoked));
        let away = |(_, peer): &(PeerIx, &Peer)| peer.conn.is_none() && !peer.held.is_empty();
        for ix in self.roster.iter().filter(away).map(|(ix, _)| ix).collect::<Vec<PeerIx>>() {
            if !self.roster.may_come_back(ix) {
                self.watch_absence(ix);
            }
        }
    }
}
