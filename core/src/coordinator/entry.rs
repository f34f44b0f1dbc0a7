//! From an accepted connection to a session, and to its end (AUTH-4, AUTH-8, SESS-4 to SESS-6)

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::time::Duration;

use crate::channel::{Channel, Violation, body_of};
use crate::error::Rejected;
use crate::ids::{ConnId, KeyId, Role};
use crate::lease::Lease;
use crate::limits::{
    BULK_WINDOW_BYTES, CHUNKS_SINCE, FRAME_BYTES_MAX, MTBF_SINCE, PROBE_TIME, TERMS_SINCE, WIRE_VERSION_OLDEST,
};
use crate::link::Reason;
use crate::outline::{Name, Outline};
use crate::planted::{self, Bug};
use crate::session::Numbers;
use crate::stats::LawStats;
use crate::time::{Instant, micros};
use crate::wire::codec::{OpenError, Scratch};
use crate::wire::handshake::{Refusal, Resume};
use crate::wire::keys::NextKey;
use crate::wire::message::{Class, Control, Denied, Welcome};

use super::admission::{Address, Admitted};
use super::door::{Face, Newer, Verdict, Verified, encoded};
use super::peers::{PeerIx, PeerSession};
use super::rotation::Rotation;
use super::{Contention, Desk, Event, PeerState, Timer};

const CONTENDER_FRAMES_MAX: usize = 8;

/// A connection whose peer has proved who it is
#[derive(Clone, Debug)]
pub(crate) enum Conn {
    /// The one that counts
    Live(Box<Live>),
    /// Waits for an older connection to answer, or to fail to (AUTH-4)
    Contending(Box<Contending>),
}

#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) peer: PeerIx,
    /// What it proved itself with
    pub(super) key: KeyId,
    /// What that may be replaced by, and how far that is (AUTH-6)
    pub(super) next: NextKey,
    pub(super) rotation: Rotation,
    pub(crate) channel: Channel,
    pub(crate) generation: u64,
    /// M4, until it is sent
    pub(crate) welcome: Option<Welcome>,
    /// What comes belongs to a session that is no more, until the peer begins anew (AUTH-3)
    pub(crate) awaiting_begin: bool,
    /// To be told right behind the welcome (TASK-4)
    pub(crate) lease: Option<Lease>,
    /// How long workers go between failures, to be told (LIVE-6)
    pub(crate) mtbf: Option<Duration>,
    /// The peer is asked what it holds; whether that has been said (SESS-8)
    pub(crate) compare: Option<bool>,
}

#[derive(Clone, Debug)]
pub(crate) struct Contending {
    peer: PeerIx,
    since: Instant,
    verified: Box<Verified>,
    /// What the newcomer sent behind its proof; sealed, so that order and tags keep
    frames: Vec<Vec<u8>>,
}

/// A last word to seal, send, and close behind (AUTH-2)
#[derive(Clone, Debug)]
pub(crate) struct Goodbye {
    pub(crate) conn: ConnId,
    channel: Channel,
    word: Control,
    reason: Reason,
}

impl Contending {
    /// Takes in who waits, and with how much behind its proof
    pub(super) fn outline(&self, o: &mut Outline) {
        o.put((self.peer, self.frames.len()));
        o.name(Name::Session(self.verified.session));
    }
}

impl Desk {
    pub(super) fn accepted(
        &mut self,
        conn: ConnId,
        address: Address,
        entropy: [u8; 32],
        binding: Option<[u8; 32]>,
    ) -> Result<(), Rejected> {
        let enrols = self.enrolling.values().any(|entry| entry.conn == conn);
        if self.door.has(conn) || self.conns.contains_key(&conn) || enrols {
            return Err(Rejected::Conflict);
        }
        if let Some(slot) = self.away_for() {
            self.stats.turned_away += 1;
            return Err(Rejected::RetryAfter(micros(slot)));
        }
        let only_open = match self.admission.charge(self.now, address, &mut self.rng) {
            Admitted::Yes => false,
            Admitted::IfOpen => true,
            Admitted::No(slot) => {
                self.stats.turned_away += 1;
                return Err(Rejected::RetryAfter(micros(slot)));
            }
        };
        self.stats.accepted += 1;
        if let Some(crowded) = self.door.accept(self.now, conn, entropy, binding, only_open) {
            self.timers.set(Timer::Conn(crowded), None);
            self.closes.push_back((crowded, Reason::Crowded));
        }
        self.timers.set(Timer::Conn(conn), self.door.deadline(conn));
        Ok(())
    }

    pub(super) fn received(&mut self, conn: ConnId, bytes: &[u8], scratch: &mut Scratch) {
        if self.door.has(conn) {
            return self.knocked(conn, bytes, scratch);
        }
        match self.conns.get_mut(&conn) {
            Some(Conn::Live(live)) => {
                let (peer, was_suspect) = (live.peer, live.channel.is_suspect());
                match live.channel.open(self.now, bytes, scratch) {
                    Ok(body) => {
                        self.stats.frames_in += 1;
                        if was_suspect {
                            self.place(peer);
                        }
                        self.take_batch(conn, body);
                        self.heard(peer);
                    }
                    Err(OpenError::BadTag) => {
                        self.stats.bad_tags += 1;
                        self.hang_up(conn, Reason::BadTag);
                    }
                    Err(OpenError::Malformed) => self.violated(conn),
                }
            }
            Some(Conn::Contending(contending)) => {
                if contending.frames.len() < CONTENDER_FRAMES_MAX && bytes.len() <= FRAME_BYTES_MAX {
                    contending.frames.push(bytes.into());
                } else {
                    self.hang_up(conn, Reason::Crowded);
                }
            }
            None => {}
        }
    }

    /// A handshake message came in
    fn knocked(&mut self, conn: ConnId, bytes: &[u8], scratch: &mut Scratch) {
        match self.door.receive(self.now, conn, bytes, Face::of(&self.config), &self.roster) {
            Verdict::Answer(answer, newer) => {
                newer.into_iter().for_each(|newer| self.outdated_by(newer));
                self.answers.push_back((conn, answer));
                self.timers.set(Timer::Conn(conn), self.door.deadline(conn));
            }
            Verdict::Refuse(answer, reason) => self.refuse(conn, answer, reason),
            Verdict::Later => {
                let slot = self.admission.send_away(self.now, &mut self.rng);
                let answer = encoded(Refusal::RetryAfter(micros(slot)));
                self.refuse(conn, Some(answer), Reason::RetryAfter);
            }
            Verdict::Unknown(answer, key) => {
                self.refuse(conn, Some(answer), Reason::Rejected);
                self.events.push_back(Event::UnknownKey { key });
            }
            Verdict::Enter(verified) => {
                self.timers.set(Timer::Conn(conn), None);
                self.enter(conn, verified, scratch);
            }
        }
    }

    /// A peer has seen a later epoch, as it says: it will not go on here, and that is worth a word, but not each time
    fn outdated_by(&mut self, Newer { name, epoch: seen }: Newer) {
        self.stats.newer_epochs += 1;
        if !core::mem::replace(&mut self.outdated, true) {
            self.events.push_back(Event::Outdated { peer: name, epoch: self.config.epoch, seen });
        }
    }

    fn refuse(&mut self, conn: ConnId, answer: Option<Vec<u8>>, reason: Reason) {
        self.stats.failed_handshakes += u64::from(reason != Reason::RetryAfter);
        self.stats.turned_away += u64::from(reason == Reason::RetryAfter);
        self.timers.set(Timer::Conn(conn), None);
        self.answers.extend(answer.map(|answer| (conn, answer)));
        self.closes.push_back((conn, reason));
    }

    fn enter(&mut self, conn: ConnId, verified: Box<Verified>, scratch: &mut Scratch) {
        if verified.revoked {
            return self.turn_away(conn, *verified, Denied::Revoked);
        }
        if let Some((name, until)) = self.roster.token(verified.key) {
            return self.enrol(conn, verified, name, until);
        }
        self.key_used(verified.key);
        let Some(ix) = self.place_for(&verified) else {
            let retry_after_us = micros(Duration::from_secs(1));
            return self.turn_away(conn, *verified, Denied::Busy { retry_after_us });
        };
        if let Some(resume) = verified.resume.filter(|resume| self.may_resume(ix, resume)) {
            return self.resume(conn, ix, *verified, resume);
        }
        let peer = self.roster.get(ix);
        let confirmed = peer.session.as_ref().is_some_and(|session| session.confirmed.is_some());
        if peer.conn.is_some() && confirmed {
            self.contend(conn, ix, verified);
        } else {
            self.open(conn, ix, *verified, Vec::new(), scratch);
        }
    }

    pub(super) fn turn_away(&mut self, conn: ConnId, verified: Verified, denied: Denied) {
        self.dismiss(conn, verified, Control::Denied(denied), Reason::Denied(denied));
    }

    /// Says one thing to a peer that has proved who it is, and closes behind it
    pub(super) fn dismiss(&mut self, conn: ConnId, verified: Verified, word: Control, reason: Reason) {
        let channel = Channel::new(verified.codec, verified.version, 0, self.config.pins);
        self.goodbyes.push_back(Goodbye { conn, channel, word, reason });
    }

    /// The place of a peer that has proved who it is; a client that is away makes room for a new one
    fn place_for(&mut self, verified: &Verified) -> Option<PeerIx> {
        let (key, boot, max) = (verified.key, verified.boot, self.config.clients_max);
        if let Some(ix) = self.roster.admit(key, boot, max) {
            return Some(ix);
        }
        let away = self.roster.oldest_away()?;
        self.session_over(away);
        self.roster.admit(key, boot, max)
    }

    /// Whether a proven resume belongs to the same history (SESS-5)
    fn may_resume(&self, ix: PeerIx, resume: &Resume) -> bool {
        let Some(session) = self.roster.get(ix).session_named(resume.session) else { return false };
        let Resume { received, sent, acknowledged, .. } = *resume;
        let known = session.confirmed.unwrap_or(0)..=session.numbers.generation;
        known.contains(&resume.generation) && session.numbers.agrees(Numbers { received, sent, acknowledged })
    }

    /// Goes on in a session; an older connection of it is closed at once (AUTH-4)
    fn resume(&mut self, conn: ConnId, ix: PeerIx, verified: Verified, resume: Resume) {
        self.replace_connection(ix);
        let peer = self.roster.get_mut(ix);
        if peer.session.as_ref().is_none_or(|session| session.numbers.id != resume.session) {
            // The unconfirmed session never came about; the one it would have replaced goes on (AUTH-8).
            peer.session = peer.previous.take();
            self.drop_watches(ix);
        }
        let Some(session) = &mut self.roster.get_mut(ix).session else { return };
        let plausible = session.numbers.acknowledge(resume.received).and(session.numbers.rewind(resume.received));
        debug_assert!(plausible.is_ok(), "the numbers agreed");
        session.numbers.ack_told(self.now, session.tellable);
        let received = Some(session.tellable);
        self.stats.resumed += 1;
        self.go_live(conn, ix, verified, received);
        self.tell_kept_again(ix);
        self.rewind_watches(ix);
        self.welcome_back(ix);
    }

    /// The wire version that is spoken with a peer now; the oldest where nothing is
    pub(super) fn version_of(&self, ix: PeerIx) -> u16 {
        match self.roster.get(ix).conn.and_then(|conn| self.conns.get(&conn)) {
            Some(Conn::Live(live)) => live.channel.version,
            Some(Conn::Contending(_)) | None => WIRE_VERSION_OLDEST,
        }
    }

    /// Opens a new session; what it would replace stays valid until it is confirmed (AUTH-8)
    fn open(&mut self, conn: ConnId, ix: PeerIx, verified: Verified, frames: Vec<Vec<u8>>, scratch: &mut Scratch) {
        self.replace_connection(ix);
        let peer = self.roster.get_mut(ix);
        let old = peer.session.replace(PeerSession::open(
            verified.session,
            verified.resume_key.clone(),
            verified.boot,
            verified.version,
        ));
        // A client's watches do not outlast the exchange; it asks again, which is harmless.
        let keeps = peer.role == Role::Worker;
        if let Some(old) = old.filter(|old| keeps && old.confirmed.is_some()) {
            peer.previous = Some(old);
        }
        self.drop_watches(ix);
        self.stats.opened += 1;
        self.go_live(conn, ix, verified, None);
        for frame in frames {
            self.received(conn, &frame, scratch);
        }
    }

    fn go_live(&mut self, conn: ConnId, ix: PeerIx, verified: Verified, resumed: Option<u64>) {
        let (heartbeat, spread, lifetime) = (self.heartbeat(), self.spread(), self.config.session_lifetime);
        // Workers say first how much they take; clients take the first window without a word.
        let says_first = self.roster.get(ix).role == Role::Worker && verified.version >= CHUNKS_SINCE;
        let granted = if says_first { 0 } else { BULK_WINDOW_BYTES };
        let mut channel = Channel::new(verified.codec, verified.version, granted, self.config.pins);
        channel.watch(self.now, heartbeat, false, &mut self.rng);
        let leases = verified.version >= TERMS_SINCE && self.roster.get(ix).role == Role::Worker;
        let lease = leases.then(|| self.lease());
        let tells = verified.version >= MTBF_SINCE && self.roster.get(ix).role == Role::Worker;
        let mtbf = tells.then(|| self.mtbf());
        let peer = self.roster.get_mut(ix);
        let Some(session) = &mut peer.session else { return };
        session.lease = session.lease.or(lease).filter(|_| leases);
        let lease = session.lease;
        session.numbers.generation += 1;
        let generation = session.numbers.generation;
        channel.begin_bulk(&mut session.numbers);
        let credit = channel.credit(&session.numbers, 0);
        channel.credit_told(credit);
        let welcome = Welcome {
            generation,
            resumed,
            heartbeat_us: micros(heartbeat),
            spread_us: micros(spread),
            lifetime_us: micros(lifetime),
            credit,
        };
        peer.conn = Some(conn);
        peer.disconnected_at = None;
        let event = Event::Connected { peer: peer.name.clone(), resumed: resumed.is_some() };
        self.events.push_back(event);
        self.timers.set(Timer::Lost(ix), None);
        self.timers.set(Timer::Session(ix), None);
        self.not_delayed(ix);
        let awaiting_begin = resumed.is_none();
        let goes_on = resumed.is_some();
        let (key, next, welcome) = (verified.key, verified.next, Some(welcome));
        let (rotation, compare) = (Rotation::No, None);
        let live =
            Live { peer: ix, key, next, rotation, channel, generation, welcome, awaiting_begin, lease, mtbf, compare };
        self.conns.insert(conn, Conn::Live(Box::new(live)));
        self.renew_lease(ix);
        self.restart_transfers(ix, goes_on);
        self.finish_rotation(conn, ix);
        self.place(ix);
        self.touch(ix);
    }

    // Contention.

    /// Holds a newcomer until the old connection has answered, or failed to (AUTH-4)
    fn contend(&mut self, conn: ConnId, ix: PeerIx, verified: Box<Verified>) {
        if let Some(earlier) = self.roster.get_mut(ix).contender.replace(conn) {
            self.timers.set(Timer::Contender(earlier), None);
            self.deny(earlier, Denied::Busy { retry_after_us: micros(PROBE_TIME) });
        }
        if let Some(Conn::Live(old)) = self.roster.get(ix).conn.and_then(|old| self.conns.get_mut(&old)) {
            old.channel.probe();
        }
        let contending = Contending { peer: ix, since: self.now, verified, frames: Vec::new() };
        self.conns.insert(conn, Conn::Contending(Box::new(contending)));
        self.timers.set(Timer::Contender(conn), Some(self.now + PROBE_TIME));
        self.touch(ix);
    }

    /// A peer was heard: if that was the answer to a probe, it decides who stays
    fn heard(&mut self, ix: PeerIx) {
        let Some(newcomer) = self.roster.get(ix).contender else { return };
        let Some(Conn::Contending(contending)) = self.conns.get(&newcomer) else { return };
        let Some(old) = self.roster.get(ix).conn else { return };
        // Only an echo of the probe says that the old connection works both ways; frames may have been under way.
        let answered =
            matches!(self.conns.get(&old), Some(Conn::Live(live)) if live.channel.echoed >= Some(contending.since));
        if !answered {
            return;
        }
        match self.config.contention {
            Contention::Reject => {
                self.roster.get_mut(ix).contender = None;
                self.timers.set(Timer::Contender(newcomer), None);
                self.deny(newcomer, Denied::Busy { retry_after_us: micros(Duration::from_secs(30)) });
            }
            Contention::Newest => {
                // Leaving makes room: the newcomer enters when the connection ends.
                self.deny(old, Denied::TakenOver);
            }
        }
    }

    /// The old connection has not answered: it is dead
    pub(super) fn contention_over(&mut self, newcomer: ConnId) {
        let Some(Conn::Contending(contending)) = self.conns.get(&newcomer) else { return };
        match self.roster.get(contending.peer).conn {
            Some(old) => self.hang_up(old, Reason::Silence),
            None => self.let_contender_in(contending.peer),
        }
    }

    fn let_contender_in(&mut self, ix: PeerIx) {
        let Some(newcomer) = self.roster.get_mut(ix).contender.take() else { return };
        self.timers.set(Timer::Contender(newcomer), None);
        let Some(Conn::Contending(contending)) = self.conns.remove(&newcomer) else { return };
        // The newcomer's frames are few and small; working memory of their own keeps this off the hot path.
        self.open(newcomer, ix, *contending.verified, contending.frames, &mut Scratch::new());
    }

    // The end of a connection.

    /// The transport is gone; a connection that was replaced is not known any more (SESS-4)
    pub(super) fn closed(&mut self, conn: ConnId) {
        if self.door.leave(conn) {
            self.timers.set(Timer::Conn(conn), None);
            return;
        }
        if self.enrolling_over(conn) {
            return;
        }
        self.end(conn, None);
    }

    /// Closes a connection from this side
    pub(super) fn hang_up(&mut self, conn: ConnId, reason: Reason) {
        self.closes.push_back((conn, reason));
        self.end(conn, Some(reason));
    }

    /// Refuses a peer under seal, then closes (AUTH-2)
    pub(super) fn deny(&mut self, conn: ConnId, denied: Denied) {
        self.part(conn, Control::Denied(denied), Reason::Denied(denied));
    }

    /// Says a last word under seal, then closes
    pub(super) fn part(&mut self, conn: ConnId, word: Control, reason: Reason) {
        let channel = match self.conns.get(&conn) {
            Some(Conn::Live(live)) => live.channel.clone(),
            Some(Conn::Contending(contending)) => {
                let verified = &contending.verified;
                Channel::new(verified.codec.clone(), verified.version, 0, self.config.pins)
            }
            None => return,
        };
        self.goodbyes.push_back(Goodbye { conn, channel, word, reason });
        self.end(conn, Some(reason));
    }

    /// What a connection proved itself with
    pub(super) fn key_of(&self, conn: ConnId) -> Option<KeyId> {
        match self.conns.get(&conn)? {
            Conn::Live(live) => Some(live.key),
            Conn::Contending(contending) => Some(contending.verified.key),
        }
    }

    /// The peer broke the rules under its own seal: its session ends, its tasks do not (FRAME-2)
    pub(super) fn violated(&mut self, conn: ConnId) {
        self.stats.violations += 1;
        let Some(Conn::Live(live)) = self.conns.get(&conn) else { return };
        let ix = live.peer;
        // First, because whoever waits for the end of this connection opens a session of its own.
        self.session_over(ix);
        self.deny(conn, Denied::Protocol);
    }

    fn end(&mut self, conn: ConnId, reason: Option<Reason>) {
        self.timers.set(Timer::Conn(conn), None);
        self.timers.set(Timer::Contender(conn), None);
        self.dirty.remove(&conn);
        let (ix, rekeyed) = match self.conns.remove(&conn) {
            Some(Conn::Live(live)) => (live.peer, live.rotation == Rotation::Told),
            Some(Conn::Contending(contending)) => {
                let peer = self.roster.get_mut(contending.peer);
                peer.contender = peer.contender.filter(|newcomer| *newcomer != conn);
                return;
            }
            None => return,
        };
        if planted::is(Bug::OldConnectionCounts) && self.roster.get(ix).conn != Some(conn) {
            return;
        }
        let peer = self.roster.get_mut(ix);
        peer.conn = None;
        peer.disconnected_at = Some(self.now);
        peer.reading = None;
        peer.piece = None;
        let role = peer.role;
        let event = Event::Disconnected { peer: peer.name.clone(), reason };
        self.events.push_back(event);
        if role == Role::Worker {
            self.count_cut(ix, reason, rekeyed);
            self.watch_absence(ix);
        }
        self.timers.set(Timer::Session(ix), Some(self.now + self.config.session_lifetime));
        self.place(ix);
        self.let_contender_in(ix);
    }

    /// Closes the connection that a newer one of the same peer replaces (AUTH-4)
    fn replace_connection(&mut self, ix: PeerIx) {
        if let Some(newcomer) = self.roster.get_mut(ix).contender.take() {
            self.timers.set(Timer::Contender(newcomer), None);
            self.deny(newcomer, Denied::Busy { retry_after_us: micros(PROBE_TIME) });
        }
        if let Some(old) = self.roster.get(ix).conn {
            self.stats.takeovers += 1;
            if planted::is(Bug::OldConnectionCounts) {
                return;
            }
            if planted::is(Bug::LateCloseKills) {
                // Its place is kept until its transport is gone.
                return self.closes.push_back((old, Reason::Superseded));
            }
            self.hang_up(old, Reason::Superseded);
        }
    }

    /// The session is given up; a worker that comes back reconciles (SESS-9)
    pub(super) fn session_over(&mut self, ix: PeerIx) {
        let peer = self.roster.get_mut(ix);
        peer.session = None;
        peer.previous = None;
        peer.answers.clear();
        peer.fetching.clear();
        let away = peer.conn.is_none() && peer.contender.is_none();
        self.drop_watches(ix);
        self.drop_drafts(ix);
        self.place(ix);
        if away {
            self.timers.set(Timer::Session(ix), None);
            self.readers.remove(&ix);
            self.roster.dismiss(ix);
        }
    }

    /// The peer has left for good; what it still holds is lost at once (TASK-8)
    pub(super) fn left(&mut self, conn: ConnId, ix: PeerIx) {
        self.roster.get_mut(ix).to_drain = false;
        for token in self.roster.get(ix).held.clone() {
            self.lost_attempt(token, true);
        }
        // First, because whoever waits for the end of this connection opens a session of its own.
        self.session_over(ix);
        self.hang_up(conn, Reason::Left);
        if self.roster.get(ix).conn.is_none() {
            self.timers.set(Timer::Lost(ix), None);
            self.session_over(ix);
        }
    }

    /// What a client follows belongs to its session
    fn drop_watches(&mut self, ix: PeerIx) {
        let peer = self.roster.get_mut(ix);
        peer.streaming.clear();
        peer.reading = None;
        peer.piece = None;
        for task in core::mem::take(&mut peer.watches).into_keys() {
            if let Some(task) = self.tasks.all.get_mut(&task) {
                task.watchers.remove(&ix);
            }
        }
    }

    // Small things.

    /// A deadline of a connection has come
    pub(super) fn conn_due(&mut self, conn: ConnId) {
        if self.door.leave(conn) {
            self.stats.failed_handshakes += 1;
            self.closes.push_back((conn, Reason::Timeout));
            return;
        }
        if self.enrolling_over(conn) {
            return self.closes.push_back((conn, Reason::Timeout));
        }
        let Some(Conn::Live(live)) = self.conns.get_mut(&conn) else { return };
        let ix = live.peer;
        let session = self.roster.get(ix).session.as_ref();
        let tellable = session.map_or(0, |session| session.tellable);
        if live.channel.expire(self.now, session.map(|s| &s.numbers), tellable, &mut self.rng) {
            self.stats.silences += 1;
            self.hang_up(conn, Reason::Silence);
        } else {
            // It may be suspected by now, and gets nothing new then (LIVE-3).
            self.place(ix);
            self.touch(ix);
        }
    }

    /// Something about a peer has changed: it may have something to be told, and another deadline
    pub(super) fn touch(&mut self, ix: PeerIx) {
        let peer = self.roster.get(ix);
        let Some(conn) = peer.conn else { return };
        let Some(Conn::Live(live)) = self.conns.get(&conn) else { return };
        let session = peer.session.as_ref();
        let tellable = session.map_or(0, |session| session.tellable);
        self.timers.advance(Timer::Conn(conn), live.channel.deadline(session.map(|s| &s.numbers), tellable));
        self.dirty.insert(conn);
    }

    /// Whether something follows now from a connection's silence: its timer may be an older one, or be about something else
    pub(super) fn is_due(&self, conn: ConnId, now: Instant) -> bool {
        matches!(self.conns.get(&conn), Some(Conn::Live(live)) if live.channel.is_due(now))
    }

    pub(super) fn arriving(&mut self, conn: ConnId) {
        if let Some(Conn::Live(live)) = self.conns.get_mut(&conn) {
            live.channel.arriving(self.now);
        }
    }

    pub(super) fn writable(&mut self, conn: ConnId, writable: bool) {
        if let Some(Conn::Live(live)) = self.conns.get_mut(&conn) {
            live.channel.set_writable(writable);
            let ix = live.peer;
            self.touch(ix);
        }
    }

    /// Bulk bytes have come on a connection, within its credit (LANES-2)
    pub(super) fn bulk_arrived(&mut self, conn: ConnId, bytes: u64) -> Result<(), Violation> {
        match self.conns.get_mut(&conn) {
            Some(Conn::Live(live)) => live.channel.bulk_arrived(bytes),
            Some(Conn::Contending(_)) | None => Err(Violation),
        }
    }

    pub(super) fn bulk_dealt_with(&mut self, conn: ConnId, bytes: u64) {
        if let Some(Conn::Live(live)) = self.conns.get_mut(&conn) {
            live.channel.bulk_dealt_with(bytes);
            let ix = live.peer;
            self.touch(ix);
        }
    }

    pub(super) fn rtt(&self, conn: ConnId) -> Option<u64> {
        match self.conns.get(&conn)? {
            Conn::Live(live) => live.channel.rtt_us,
            Conn::Contending(_) => None,
        }
    }

    pub(super) fn laws(&self, conn: ConnId) -> Option<LawStats> {
        match self.conns.get(&conn)? {
            Conn::Live(live) => Some(live.channel.laws()),
            Conn::Contending(_) => None,
        }
    }

    /// Whether a peer is silent for longer than is usual with it (LIVE-3)
    pub(super) fn is_suspected(&self, ix: PeerIx) -> bool {
        match self.roster.get(ix).conn.and_then(|conn| self.conns.get(&conn)) {
            Some(Conn::Live(live)) => live.channel.is_suspect(),
            Some(Conn::Contending(_)) | None => false,
        }
    }

    pub(super) fn peer_state(&self, ix: PeerIx) -> PeerState {
        let peer = self.roster.get(ix);
        match (peer.conn, peer.disconnected_at) {
            (Some(_), _) if self.is_suspected(ix) => PeerState::Suspect,
            (Some(_), _) if peer.is_draining() => PeerState::Draining,
            (Some(_), _) if peer.session.as_ref().is_some_and(|session| session.reconciled) => PeerState::Connected,
            (Some(_), _) => PeerState::Reconciling,
            (None, _) if peer.lost => PeerState::Lost,
            (None, Some(_)) => PeerState::Disconnected,
            (None, None) => PeerState::Unknown,
        }
    }

    pub(super) fn seal_goodbye(
        &mut self,
        goodbye: Goodbye,
        frame: &mut [u8],
        scratch: &mut Scratch,
    ) -> (ConnId, usize) {
        let Goodbye { conn, mut channel, word, reason } = goodbye;
        let mut body = body_of(frame);
        let fits = body.push(Class::Control, &word);
        debug_assert!(fits);
        let body_len = body.len();
        self.closes.push_back((conn, reason));
        self.stats.frames_out += 1;
        (conn, channel.seal(frame, body_len, scratch))
    }
}
