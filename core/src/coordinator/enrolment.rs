//! Newcomers that come with a join token, and leave with a key of their own (AUTH-6)
//!
//! A join token is a key that opens no session. All that its holder gets is the key that follows from the handshake, as by
//! rotation: durable here before it is told, and used by the next connection. The first handshake with that key burns the
//! token, and whatever else followed from it. Until then the token may come again, since an answer may be lost.

use alloc::boxed::Box;
use core::time::Duration;

use crate::error::Rejected;
use crate::ids::{ConnId, KeyId, PeerName, Role};
use crate::limits::{HANDSHAKE_TIME, ROTATION_SINCE, TOKEN_KEYS_MAX};
use crate::link::Reason;
use crate::time::{Instant, micros};
use crate::wire::keys::Key;
use crate::wire::message::{Control, Denied};

use super::door::Verified;
use super::{Desk, Timer};

/// In what time some of the keys that are being made durable should be
const KEEPING_TIME: Duration = Duration::from_secs(1);

/// A connection whose holder waits for a key of its own
#[derive(Clone, Debug)]
pub(super) struct Enrolling {
    pub(super) conn: ConnId,
    name: PeerName,
    role: Role,
    verified: Box<Verified>,
}

impl Enrolling {
    fn key(&self) -> Key {
        self.verified.next.of(&self.name, self.role)
    }
}

impl Desk {
    /// Makes a key known that is good for enrolling only, and for so long
    pub(super) fn add_token(&mut self, key: &Key, valid: Duration) -> Result<(), Rejected> {
        let until = self.now + valid;
        let known = key.role == Role::Worker && self.roster.add_key(key.clone());
        if known && self.roster.is_token(key.id, until) { Ok(()) } else { Err(Rejected::Conflict) }
    }

    /// Somebody has proved to hold a join token
    pub(super) fn enrol(&mut self, conn: ConnId, verified: Box<Verified>, name: PeerName, until: Instant) {
        let token = verified.key;
        if verified.version < ROTATION_SINCE {
            return self.turn_away(conn, *verified, Denied::Version);
        }
        if until <= self.now || self.roster.next_keys_kept(&name) >= TOKEN_KEYS_MAX {
            return self.turn_away(conn, *verified, Denied::Spent);
        }
        if self.roster.next_keys(&name) >= TOKEN_KEYS_MAX {
            let retry_after_us = micros(KEEPING_TIME);
            return self.turn_away(conn, *verified, Denied::Busy { retry_after_us });
        }
        let entry = Enrolling { conn, name, role: Role::Worker, verified };
        if let Some(before) = self.enrolling.insert(token, entry) {
            self.timers.set(Timer::Conn(before.conn), None);
            self.closes.push_back((before.conn, Reason::Superseded));
        }
        self.timers.set(Timer::Conn(conn), Some(self.now + HANDSHAKE_TIME));
        self.keeps.push_back(conn);
    }

    /// The key that the holder of a token is to have, and the token
    pub(super) fn enrolled_keep(&self, conn: ConnId) -> Option<(Box<Key>, KeyId)> {
        let entry = self.enrolling.values().find(|entry| entry.conn == conn)?;
        Some((Box::new(entry.key()), entry.verified.key))
    }

    /// A key is durable, if it is good: whoever enrols is told, and is to come back with it; `false` if nobody waits for it
    pub(super) fn enrolled(&mut self, key: KeyId, good: bool) -> bool {
        let mut waiting = self.enrolling.iter();
        let Some(token) = waiting.find(|(_, entry)| entry.verified.next.id == key).map(|(token, _)| *token) else {
            return false;
        };
        let Some(entry) = self.enrolling.remove(&token) else { return false };
        self.timers.set(Timer::Conn(entry.conn), None);
        if good {
            self.dismiss(entry.conn, *entry.verified, Control::NextKey, Reason::Rekeyed);
        } else {
            self.closes.push_back((entry.conn, Reason::Crowded));
        }
        true
    }

    /// A token is good for nothing any more: whoever enrols with it is told
    pub(super) fn token_revoked(&mut self, token: KeyId) {
        if let Some(entry) = self.enrolling.remove(&token) {
            self.timers.set(Timer::Conn(entry.conn), None);
            self.turn_away(entry.conn, *entry.verified, Denied::Revoked);
        }
    }

    /// Forgets a connection that enrols; `false` if there is none of this name
    pub(super) fn enrolling_over(&mut self, conn: ConnId) -> bool {
        let before = self.enrolling.len();
        self.enrolling.retain(|_, entry| entry.conn != conn);
        self.timers.set(Timer::Conn(conn), None);
        self.enrolling.len() < before
    }
}
