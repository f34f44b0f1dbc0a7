//! The dialling end of a connection and its session, shared by worker and client
//!
//! A link dials, proves who it is, resumes or opens a session, watches the connection and comes back when it is
//! lost. What the messages mean is its owner's business: the owner asks the link for its part of each frame.

mod config;
mod state;

use core::hash::Hash;
use core::time::Duration;

pub use self::config::LinkConfig;
pub use self::state::{LinkState, Reason};

use self::state::LinkStep;
use crate::backoff::{Backoff, Loss};
use crate::binding::{Binding, TLS_EXPORTER};
use crate::channel::{Channel, Violation};
use crate::error::{ConfigError, Rejected};
use crate::ids::{ClusterId, Role, SessionId};
use crate::lease::Lease;
use crate::limits::{
    CHUNKS_SINCE, DIGEST_SINCE, MTBF_MAX, MTBF_MIN, MTBF_SINCE, RETRY_AFTER_MAX, ROTATION_SINCE, SESSION_UNACKED_MAX,
    SLOTS_SINCE, TERMS_SINCE, WIRE_VERSION_OLDEST, WRONG_COORDINATOR_MAX, WRONG_COORDINATOR_MIN,
};
use crate::outline::{Counter, Giver, Outline};
use crate::planted::{self, Bug};
use crate::rng::{Rng, Seed};
use crate::session::{Arrival, Log, Numbers, Session};
use crate::stats::LinkStats;
use crate::time::{Instant, earliest};
use crate::wire::codec::{Codec, OpenError, Scratch};
use crate::wire::handshake::{CAPABILITY_LZ4, Challenge, Hello, Proof, Refusal, RejectCode, Resume, append_mac};
use crate::wire::keys::{Key, NextKey, Proofs, Secret, Transcript};
use crate::wire::message::{BodyWriter, Class, Control, Denied, Item, Welcome};

/// What the link wants its owner to pass on
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkOutput {
    Connect { attempt: u64, endpoint: usize },
    Disconnect { attempt: u64, reason: Reason },
    Send { len: usize },
}

/// What a control message means to the owner
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkEvent {
    Nothing,
    /// The session goes on: replay has been set up
    Resumed,
    /// A new session was opened: nothing that was sent counts
    Anew,
}

/// What a worker says of all that it holds (SESS-8)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Account {
    /// As a number
    Digest,
    /// One by one
    Holdings,
}

/// The dialling end
#[derive(Clone, Debug)]
pub(crate) struct Link<L> {
    config: LinkConfig,
    state: LinkState,
    rng: Rng,
    backoff: Backoff,
    attempt: u64,
    /// Which of the endpoints is dialled: the one that worked, or the next in turn (BACK-4)
    endpoint: usize,
    /// Endpoints that failed since one worked, or since the last pause
    tried: usize,
    /// No pause ends before: one of the endpoints tried has asked for it (BACK-2)
    not_before: Instant,
    dial_at: Option<Instant>,
    give_up_at: Option<Instant>,
    hello: Option<HelloState>,
    proved: Option<Proved>,
    channel: Option<Channel>,
    session: Option<Session<L>>,
    spare_log: Option<L>,
    /// Both sides know what the other holds (SESS-7)
    reconciled: bool,
    epoch: u64,
    cluster: Option<ClusterId>,
    /// M1 or M3, until it is sent
    greeting: heapless::Vec<u8, 1024>,
    connect: bool,
    disconnect: Option<(u64, Reason)>,
    begin: bool,
    confirm: bool,
    /// The lease that this connection renews, and when M3 was made: the first such renewal (TASK-4)
    lease: Option<Lease>,
    /// How long workers go between failures, as the coordinator last said (LIVE-6)
    mtbf: Option<Duration>,
    proved_at: Instant,
    /// The coordinator wants to know what is held (SESS-8)
    compare: bool,
    /// The key that follows from the newest handshake, and how far this end is with it (AUTH-6)
    next: Option<NextKey>,
    keeping: Keeping,
    leaving: Leaving,
    /// Frames can be sent on a connection that the owner has not noticed yet
    fresh: bool,
    /// Tasks granted to the coordinator in this session, as the owner counts them
    pub(crate) tasks: u64,
    /// Bulk bytes taken in at a time
    bulk_window: u64,
    stopped: Option<Reason>,
    /// This end had not looked for a long time, and its owner has not heard of that (LIVE-5)
    stalled: bool,
    stats: LinkStats,
}

/// How far a key that is to replace this end's is (AUTH-6)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Keeping {
    No,
    /// The owner's embedder is to keep it
    Due,
    /// It was told to; nobody is dialled before it has answered, so that whoever comes with an old key never has a newer
    Asked,
}

/// Whether this end goes for good, by its own will (TASK-8)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// `Bye` is to be said
    Due,
    /// `Bye` is in the last frame
    Said,
}

/// Between M1 and M2
#[derive(Clone)]
struct HelloState {
    transcript: Transcript,
    nonce: [u8; 32],
    /// What the handshake can be bound to, as M1 has offered (AUTH-7)
    binding: Option<[u8; 32]>,
}

impl core::fmt::Debug for HelloState {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("HelloState")
    }
}

/// Between M3 and the welcome: what a new session would be
#[derive(Clone, Debug)]
struct Proved {
    session: SessionId,
    resume_key: Secret,
    /// M2 said that the old session is open, and M3 resumed it
    open: bool,
}

impl<L: Log> Link<L> {
    pub(crate) fn new(
        config: LinkConfig,
        seed: Seed,
        now: Instant,
        log: L,
        bulk_window: u64,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Link {
            state: LinkState::Waiting,
            rng: Rng::new(seed),
            backoff: Backoff::new(config.backoff.clone()),
            attempt: 0,
            endpoint: 0,
            tried: 0,
            not_before: now,
            dial_at: Some(now),
            give_up_at: None,
            hello: None,
            proved: None,
            channel: None,
            session: None,
            spare_log: Some(log),
            reconciled: false,
            epoch: 0,
            cluster: config.cluster,
            greeting: heapless::Vec::new(),
            connect: false,
            disconnect: None,
            begin: false,
            confirm: false,
            lease: None,
            mtbf: None,
            proved_at: now,
            compare: false,
            next: None,
            keeping: Keeping::No,
            leaving: Leaving::No,
            fresh: false,
            tasks: 0,
            bulk_window,
            stopped: None,
            stalled: false,
            stats: LinkStats::default(),
            config,
        })
    }

    pub(crate) fn state(&self) -> LinkState {
        self.state
    }

    /// Why the link stopped for good
    pub(crate) fn stopped(&self) -> Option<Reason> {
        self.stopped
    }

    /// Whether failed handshakes have put it into the slow lane (AUTH-2)
    pub(crate) fn is_slow(&self) -> bool {
        self.backoff.is_slow()
    }

    /// The highest epoch seen; 0 before the first (JOURN-2)
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    pub(crate) fn session(&mut self) -> Option<&mut Session<L>> {
        self.session.as_mut()
    }

    /// Whether an event of this connection still counts (SESS-4)
    pub(crate) fn is_current(&self, attempt: u64) -> bool {
        attempt == self.attempt && !matches!(self.state, LinkState::Waiting | LinkState::Stopped)
    }

    // What happens.

    /// The transport is open: say who we are
    pub(crate) fn opened(
        &mut self,
        now: Instant,
        attempt: u64,
        entropy: [u8; 32],
        binding: Option<[u8; 32]>,
    ) -> Result<(), Rejected> {
        if !self.is_current(attempt) {
            return Ok(());
        }
        if self.state != LinkState::Connecting {
            return Err(Rejected::NotExpected);
        }
        self.step(LinkStep::Opened);
        self.backoff.opened();
        self.give_up_at = Some(now + self.config.handshake_time);
        self.stats.connections += 1;
        let binding = binding.filter(|_| self.config.binding != Binding::Off);
        if binding.is_none() && self.config.binding == Binding::Require {
            self.failed_handshake(now, Reason::Unbound);
            return Ok(());
        }
        let hello = Hello {
            versions: self.versions().rev().collect(),
            capabilities: if self.config.compress { CAPABILITY_LZ4 } else { 0 },
            audience: &self.config.endpoints[self.endpoint],
            binding: if binding.is_some() { TLS_EXPORTER } else { &[] },
            role: self.config.key.role,
            name: self.config.key.name.clone(),
            key: self.config.key.id,
            boot: self.config.boot,
            session: self.session.as_ref().map(|s| s.id),
            epoch: self.epoch,
            nonce: entropy,
        };
        // Name and audience are bounded, so that M1 fits.
        let mut greeting = [0; 1024];
        let len = hello.encode(&mut greeting);
        self.greeting.clear();
        let fits = self.greeting.extend_from_slice(&greeting[..len]).is_ok();
        debug_assert!(fits);
        self.hello = Some(HelloState { transcript: Transcript::start(&self.greeting), nonce: entropy, binding });
        Ok(())
    }

    /// The transport is gone
    pub(crate) fn closed(&mut self, now: Instant, attempt: u64, loss: Loss) {
        let late = planted::is(Bug::LateCloseKills) && self.is_current(self.attempt);
        if self.is_current(attempt) || late {
            self.lose(now, loss);
        }
    }

    pub(crate) fn set_writable(&mut self, attempt: u64, writable: bool) {
        if self.is_current(attempt)
            && let Some(channel) = &mut self.channel
        {
            channel.set_writable(writable);
        }
    }

    /// Bytes of an unfinished message have come in (LIVE-2)
    pub(crate) fn arriving(&mut self, now: Instant, attempt: u64) {
        if self.is_current(attempt)
            && let Some(channel) = &mut self.channel
        {
            channel.arriving(now);
        }
    }

    /// Takes one message of the transport in; returns the body if it was a sealed frame
    pub(crate) fn receive<'a>(
        &mut self,
        now: Instant,
        attempt: u64,
        bytes: &'a [u8],
        scratch: &'a mut Scratch,
    ) -> Option<&'a [u8]> {
        if !self.is_current(attempt) {
            return None;
        }
        match self.state {
            LinkState::Greeting => self.greeted(now, bytes),
            LinkState::Proving | LinkState::Reconciling | LinkState::Connected => {
                return self.open_frame(now, bytes, scratch);
            }
            LinkState::Waiting | LinkState::Connecting | LinkState::Stopped => {}
        }
        None
    }

    fn open_frame<'a>(&mut self, now: Instant, bytes: &'a [u8], scratch: &'a mut Scratch) -> Option<&'a [u8]> {
        let channel = self.channel.as_mut()?;
        match channel.open(now, bytes, scratch) {
            Ok(body) => {
                self.stats.frames_in += 1;
                self.stats.bytes_in += bytes.len() as u64;
                Some(body)
            }
            Err(OpenError::BadTag) => {
                self.stats.bad_tags += 1;
                self.give_up(now, Reason::BadTag, Loss::Local);
                None
            }
            Err(OpenError::Malformed) => {
                self.violated(now);
                None
            }
        }
    }

    /// The wire versions that this end speaks (FRAME-6)
    fn versions(&self) -> core::ops::RangeInclusive<u16> {
        WIRE_VERSION_OLDEST..=self.config.wire_version
    }

    /// M2 or a refusal came in
    fn greeted(&mut self, now: Instant, bytes: &[u8]) {
        if let Some(refusal) = Refusal::decode(bytes) {
            return self.refused(now, refusal);
        }
        let Some(hello) = self.hello.take() else { return };
        let Some((challenge, signed, mac)) = Challenge::decode(bytes) else {
            return self.failed_handshake(now, Reason::NotAuthenticated);
        };
        let nonces = [&hello.nonce[..], &challenge.nonce[..]];
        let bound = hello.binding.filter(|_| challenge.binding == TLS_EXPORTER);
        let binding = bound.as_ref().map_or(&[][..], |value| value);
        let proofs = hello.transcript.challenge(&self.config.key.secret, nonces, signed, binding);
        let version_is_ours = self.versions().contains(&challenge.version);
        let answers_us = version_is_ours && (bound.is_some() || challenge.binding.is_empty());
        if !proofs.mac_c_is(&mac) || !answers_us {
            return self.failed_handshake(now, Reason::NotAuthenticated);
        }
        if bound.is_none() && self.config.binding == Binding::Require {
            return self.failed_handshake(now, Reason::Unbound);
        }
        let other = self.cluster.filter(|cluster| *cluster != challenge.cluster);
        let old = (challenge.epoch < self.epoch).then_some(challenge.epoch);
        let wrong = match (other, old) {
            (Some(known), _) => Some(Reason::OtherCluster { known }),
            (None, Some(epoch)) => Some(Reason::OldCoordinator { epoch, seen: self.epoch }),
            (None, None) => None,
        };
        if let Some(wrong) = wrong {
            // An old twin of the coordinator: authentic, and still not to be listened to (JOURN-2). Not the slow lane: it is
            // for somebody to mend, and who does so is not to wait for the workers for minutes after that.
            let retry_after = self.rng.between(WRONG_COORDINATOR_MIN, WRONG_COORDINATOR_MAX);
            return self.give_up(now, wrong, Loss::Busy { retry_after });
        }
        self.cluster = Some(challenge.cluster);
        self.epoch = challenge.epoch;
        self.proved_at = now;
        self.prove(&proofs, &challenge);
    }

    fn refused(&mut self, now: Instant, refusal: Refusal) {
        match refusal {
            Refusal::RetryAfter(us) => {
                let retry_after = Duration::from_micros(us);
                self.give_up(now, Reason::RetryAfter, Loss::Busy { retry_after });
            }
            Refusal::Reject(RejectCode::Malformed | RejectCode::UnknownKey) => {
                self.failed_handshake(now, Reason::Rejected);
            }
            Refusal::Reject(RejectCode::Version) => self.failed_handshake(now, Reason::Version),
            Refusal::Reject(RejectCode::Unbound) => self.failed_handshake(now, Reason::Unbound),
            Refusal::Reject(RejectCode::Audience) => self.failed_handshake(now, Reason::Audience),
        }
    }

    /// M2 has verified: send M3, and be ready to send frames right behind it (AUTH-3)
    fn prove(&mut self, proofs: &Proofs, challenge: &Challenge<'_>) {
        let resumed = match (&mut self.session, challenge.open) {
            (Some(session), Some(received)) => session.rewind(received).is_ok(),
            _ => false,
        };
        if planted::is(Bug::DedupClearedOnReconnect)
            && let Some(session) = &mut self.session
        {
            session.forget_arrivals();
        }
        let resume = self.session.as_ref().filter(|_| resumed).map(|session| {
            let Numbers { received, sent, acknowledged } = session.numbers();
            let rmac = proofs.rmac(&session.resume_key);
            Resume { session: session.id, generation: session.generation, received, sent, acknowledged, rmac }
        });
        let mut greeting = [0; 256];
        let len = Proof { resume }.encode(&mut greeting);
        let mac = proofs.mac_w(&greeting[..len]);
        let keys = proofs.keys(&greeting[..len], &mac);
        let len = append_mac(&mut greeting, len, &mac);
        self.greeting.clear();
        let fits = self.greeting.extend_from_slice(&greeting[..len]).is_ok();
        debug_assert!(fits);
        let codec = Codec::dialer(&keys, challenge.capabilities & CAPABILITY_LZ4 != 0);
        let mut channel = Channel::new(codec, challenge.version, challenge.bulk, self.config.pins);
        if challenge.version >= CHUNKS_SINCE {
            channel.narrow_bulk(self.bulk_window);
        }
        self.channel = Some(channel);
        self.next = Some(keys.next);
        self.proved = Some(Proved { session: keys.session, resume_key: keys.resume, open: resumed });
        self.fresh = true;
        self.step(LinkStep::Challenged);
        if !resumed {
            self.open_session();
        } else if let Some(session) = &mut self.session {
            session.grant(challenge.messages);
            if let Some(channel) = &mut self.channel {
                channel.begin_bulk(session);
            }
        }
    }

    /// Starts over in the session that this handshake opened; nothing sent in the old one counts (AUTH-3)
    fn open_session(&mut self) {
        let Some(proved) = &self.proved else { return };
        let Some(log) = self.session.take().map(Session::into_log).or(self.spare_log.take()) else { return };
        self.session = Some(Session::open(proved.session, proved.resume_key.clone(), SESSION_UNACKED_MAX as u64, log));
        self.reconciled = false;
        self.begin = true;
    }

    /// The session in which frames are sent; it changes when a handshake opens a new one
    pub(crate) fn session_id(&self) -> Option<SessionId> {
        self.session.as_ref().map(|session| session.id)
    }

    /// Whether frames can be sent on a new connection, answered once for each
    pub(crate) fn take_fresh(&mut self) -> bool {
        core::mem::take(&mut self.fresh)
    }

    /// Whether this end was found to have come late, answered once for each time (LIVE-5)
    pub(crate) fn take_stalled(&mut self) -> bool {
        core::mem::take(&mut self.stalled)
    }

    /// Whether the coordinator has said how things stand; nothing else counts before (AUTH-3)
    pub(crate) fn is_welcomed(&self) -> bool {
        matches!(self.state, LinkState::Reconciling | LinkState::Connected)
    }

    /// The wire version of this connection, once both ends know it (FRAME-6)
    pub(crate) fn agreed_version(&self) -> Option<u16> {
        self.channel.as_ref().map(|channel| channel.version)
    }

    /// The wire version of this connection; the oldest where there is none (FRAME-6)
    pub(crate) fn version(&self) -> u16 {
        self.agreed_version().unwrap_or(WIRE_VERSION_OLDEST)
    }

    /// The cluster of the coordinator that was last believed, or that the settings name
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// How long workers go between failures, if the coordinator has said so (LIVE-6)
    pub(crate) fn mtbf(&self) -> Option<Duration> {
        self.mtbf
    }

    /// Which connection this is, of all that were dialled
    pub(crate) fn connection(&self) -> u64 {
        self.attempt
    }

    /// The lease of this connection, and from when on it counts: the newest proof or beat of this end that was answered
    ///
    /// By this end's own clock, from before the coordinator can have received it (TASK-4).
    pub(crate) fn lease(&self) -> Option<(Lease, Instant)> {
        let renewed = self.channel.as_ref().and_then(|channel| channel.renewed);
        self.lease.map(|lease| (lease, renewed.map_or(self.proved_at, |renewed| renewed.max(self.proved_at))))
    }

    /// Whether frames can be exchanged
    pub(crate) fn carries_frames(&self) -> bool {
        self.channel.is_some()
    }

    /// Takes a control message in
    pub(crate) fn control(&mut self, now: Instant, item: &Item<'_>) -> Result<LinkEvent, Violation> {
        let Some(control) = item.decode::<Control>() else {
            return if item.ignorable { Ok(LinkEvent::Nothing) } else { Err(Violation) };
        };
        match control {
            Control::Welcome(welcome) => self.welcomed(now, &welcome),
            Control::Lease { ttl_us, grace_us } => {
                let known = self.version() >= TERMS_SINCE && self.config.key.role == Role::Worker;
                if !known || !self.is_welcomed() || self.lease.is_some() {
                    return Err(Violation);
                }
                self.lease = Some(Lease::new(ttl_us, grace_us));
                Ok(LinkEvent::Nothing)
            }
            Control::Mtbf { mean_us } => {
                let known = self.version() >= MTBF_SINCE && self.config.key.role == Role::Worker;
                if !known || !self.is_welcomed() {
                    return Err(Violation);
                }
                self.mtbf = Some(Duration::from_micros(mean_us).clamp(MTBF_MIN, MTBF_MAX));
                Ok(LinkEvent::Nothing)
            }
            Control::Compare => {
                let known = self.version() >= DIGEST_SINCE && self.config.key.role == Role::Worker;
                if !known || !self.is_welcomed() {
                    return Err(Violation);
                }
                self.compare = true;
                Ok(LinkEvent::Nothing)
            }
            Control::NextKey => {
                let known = self.version() >= ROTATION_SINCE && self.config.key.role == Role::Worker;
                let enrols = self.config.token && self.state == LinkState::Proving;
                if !known || !(self.is_welcomed() || enrols) {
                    return Err(Violation);
                }
                if self.keeping == Keeping::No {
                    self.keeping = Keeping::Due;
                }
                Ok(LinkEvent::Nothing)
            }
            Control::Denied(denied) => {
                self.denied(now, denied);
                Ok(LinkEvent::Nothing)
            }
            Control::GoAway { slot_us } => {
                if self.version() < SLOTS_SINCE {
                    return Err(Violation);
                }
                self.sent_away(now, Duration::from_micros(slot_us));
                Ok(LinkEvent::Nothing)
            }
            Control::Confirm { .. }
            | Control::Begin { .. }
            | Control::Bye
            | Control::Ack { .. }
            | Control::Credit(_)
            | Control::Beat { .. }
            | Control::Echo { .. }
            | Control::Digest { .. } => {
                if self.state == LinkState::Proving {
                    // The welcome, or a refusal, comes first.
                    return Err(Violation);
                }
                let channel = self.channel.as_mut().ok_or(Violation)?;
                let session = self.session.as_mut().ok_or(Violation)?;
                channel.control(now, &control, session)?;
                Ok(LinkEvent::Nothing)
            }
        }
    }

    fn welcomed(&mut self, now: Instant, welcome: &Welcome) -> Result<LinkEvent, Violation> {
        if self.state != LinkState::Proving || self.config.token {
            return Err(Violation);
        }
        let resumed = self.proved.as_ref().is_some_and(|proved| proved.open);
        let event = match (resumed, welcome.resumed) {
            (true, Some(_)) => LinkEvent::Resumed,
            (false, None) => LinkEvent::Anew,
            (true, None) => {
                // The session ended between M2 and M3: what was sent behind M3 counts as never sent (AUTH-3).
                self.open_session();
                if let Some(channel) = &mut self.channel {
                    channel.forget_bulk_sent();
                }
                LinkEvent::Anew
            }
            (false, Some(_)) => return Err(Violation),
        };
        self.proved = None;
        self.give_up_at = None;
        let period = Duration::from_micros(welcome.heartbeat_us);
        let period = self.config.heartbeat.map_or(period, |wish| wish.min(period));
        let channel = self.channel.as_mut().ok_or(Violation)?;
        let session = self.session.as_mut().ok_or(Violation)?;
        if !(planted::is(Bug::NoHeartbeatAfterResume) && welcome.resumed.is_some()) {
            channel.watch(now, period, true, &mut self.rng);
        }
        channel.control(now, &Control::Credit(welcome.credit), session)?;
        self.backoff.welcomed(now, Duration::from_micros(welcome.spread_us));
        self.confirm = true;
        if self.stats.resumed + self.stats.opened > 0 || welcome.generation > 1 {
            self.stats.reconnections += 1;
        }
        session.generation = welcome.generation;
        if let Some(received) = welcome.resumed {
            session.acknowledge(received).map_err(|_| Violation)?;
            self.stats.resumed += 1;
        } else {
            self.stats.opened += 1;
        }
        self.step(if self.reconciled { LinkStep::Resumed } else { LinkStep::Anew });
        Ok(event)
    }

    fn denied(&mut self, now: Instant, denied: Denied) {
        if denied.is_final() {
            return self.stop(Reason::Denied(denied));
        }
        let loss = match denied {
            Denied::Busy { retry_after_us } => Loss::Busy { retry_after: Duration::from_micros(retry_after_us) },
            Denied::Protocol => {
                self.drop_session();
                self.backoff.breached();
                Loss::Peer
            }
            Denied::Revoked
            | Denied::Removed
            | Denied::TakenOver
            | Denied::Version
            | Denied::Config
            | Denied::Spent => Loss::Peer,
        };
        self.give_up(now, Reason::Denied(denied), loss);
    }

    /// The coordinator is about to be another one: this end comes back in its slot, where it was last (BACK-3)
    fn sent_away(&mut self, now: Instant, slot: Duration) {
        self.stats.sent_away += 1;
        if self.leaving != Leaving::No {
            return self.stop(Reason::Left);
        }
        self.disconnect = Some((self.attempt, Reason::GoingAway));
        self.end_connection();
        self.step(LinkStep::Lost);
        self.dial_at = Some(self.backoff.sent_away(now, slot));
    }

    /// The owner compared everything with the coordinator (SESS-7)
    pub(crate) fn reconciled(&mut self) {
        self.reconciled = true;
        if self.state == LinkState::Reconciling {
            self.step(LinkStep::Reconciled);
        }
    }

    /// Judges the number of a message that arrived
    pub(crate) fn arrive(&mut self, now: Instant, number: u64, bytes: usize) -> Result<bool, Violation> {
        if self.state == LinkState::Proving {
            return Err(Violation);
        }
        match self.session.as_mut().ok_or(Violation)?.arrive(now, number, bytes) {
            Arrival::New => Ok(true),
            Arrival::Duplicate => {
                self.stats.duplicates += 1;
                Ok(false)
            }
            Arrival::Gap => Err(Violation),
        }
    }

    /// The coordinator broke the rules: the session is worth nothing any more (FRAME-2)
    pub(crate) fn violated(&mut self, now: Instant) {
        self.stats.violations += 1;
        self.drop_session();
        self.backoff.breached();
        self.give_up(now, Reason::Protocol, Loss::Local);
    }

    /// Fires what is due
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.give_up_at.is_some_and(|at| at <= now) {
            self.give_up(now, Reason::Timeout, Loss::Local);
        }
        let session = self.session.as_ref();
        let tellable = session.map_or(0, Session::received);
        if self.channel.as_mut().is_some_and(|channel| channel.is_stalled(now)) {
            self.stats.stalls += 1;
            self.stalled = true;
        }
        if let Some(channel) = &mut self.channel
            && channel.expire(now, session, tellable, &mut self.rng)
        {
            self.stats.silences += 1;
            self.give_up(now, Reason::Silence, Loss::Local);
        }
        // Last, because a connection that has just been given up may be dialled again at once.
        if self.dial_at.is_some_and(|at| at <= now) && self.keeping == Keeping::No {
            if !planted::is(Bug::DialledTwice) {
                self.dial_at = None;
            }
            self.attempt += 1;
            self.give_up_at = Some(now + self.config.handshake_time);
            self.connect = true;
            self.stats.dials += 1;
            self.step(LinkStep::Dial);
        }
    }

    /// The earliest of the link's deadlines
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        let session = self.session.as_ref();
        let tellable = session.map_or(0, Session::received);
        let channel = self.channel.as_ref().and_then(|c| c.deadline(session, tellable));
        let dial_at = self.dial_at.filter(|_| self.keeping == Keeping::No);
        earliest(earliest(dial_at, self.give_up_at), channel)
    }

    /// Goes for good: says `Bye` where that can be heard, and stops (TASK-8)
    pub(crate) fn leave(&mut self) {
        if self.leaving != Leaving::No || self.state == LinkState::Stopped {
            return;
        }
        if self.is_welcomed() {
            self.leaving = Leaving::Due;
        } else {
            self.stop(Reason::Left);
        }
    }

    // Another key (AUTH-6).

    /// The key that the embedder is to keep, now or since it was told to
    pub(crate) fn next_key(&self) -> Option<Key> {
        let next = self.next.as_ref().filter(|_| self.keeping != Keeping::No)?;
        Some(next.of(&self.config.key.name, self.config.key.role))
    }

    /// Whether the embedder is to be told to keep it, answered once
    pub(crate) fn take_keep(&mut self) -> bool {
        let due = self.keeping == Keeping::Due;
        if due {
            self.keeping = Keeping::Asked;
        }
        due
    }

    /// The embedder has kept the key, or could not
    pub(crate) fn key_kept(&mut self, now: Instant, kept: bool) -> Result<(), Rejected> {
        if self.keeping != Keeping::Asked {
            return Err(Rejected::NotExpected);
        }
        let key = self.next_key();
        self.keeping = Keeping::No;
        let Some(key) = key.filter(|_| kept) else { return Ok(()) };
        self.config.key = key;
        self.config.token = false;
        if self.channel.is_some() && self.leaving == Leaving::No {
            // The old key is good until this one is used: the sooner the better, and a session goes on at once. It is no loss.
            self.disconnect = Some((self.attempt, Reason::Rekeyed));
            self.end_connection();
            self.step(LinkStep::Lost);
            self.dial_at = Some(self.backoff.sent_away(now, Duration::ZERO));
        }
        Ok(())
    }

    // What to do next.

    /// Asks for anything that concerns the transport or the handshake
    pub(crate) fn poll(&mut self, out: &mut [u8]) -> Option<LinkOutput> {
        if self.leaving == Leaving::Said && self.state != LinkState::Stopped {
            self.stop(Reason::Left);
        }
        if let Some((attempt, reason)) = self.disconnect.take() {
            return Some(LinkOutput::Disconnect { attempt, reason });
        }
        if self.connect {
            self.connect = false;
            return Some(LinkOutput::Connect { attempt: self.attempt, endpoint: self.endpoint });
        }
        if !self.greeting.is_empty() {
            let len = self.greeting.len();
            out[..len].copy_from_slice(&self.greeting);
            self.greeting.clear();
            return Some(LinkOutput::Send { len });
        }
        None
    }

    /// Whether frames may be sent now; before the welcome they are sent on trust (AUTH-3)
    pub(crate) fn may_send(&self) -> bool {
        self.greeting.is_empty() && self.channel.as_ref().is_some_and(Channel::is_writable)
    }

    /// Whether a frame must leave for the link's own sake
    pub(crate) fn has_news(&self, now: Instant) -> bool {
        let (Some(channel), Some(session)) = (&self.channel, &self.session) else { return false };
        self.begin
            || self.confirm
            || self.leaving == Leaving::Due
            || (self.compare && self.state == LinkState::Connected)
            || channel.has_news(now, session, session.received(), self.tasks)
    }

    /// Writes the link's own part of a frame, in front of everything else
    pub(crate) fn write(&mut self, now: Instant, body: &mut BodyWriter<'_>) {
        let (Some(channel), Some(session)) = (&mut self.channel, &mut self.session) else { return };
        if self.begin && body.push(Class::Control, &Control::Begin { session: session.id }) {
            self.begin = false;
        }
        if self.confirm && body.push(Class::Control, &Control::Confirm { generation: session.generation }) {
            self.confirm = false;
        }
        let received = session.received();
        channel.write(now, body, session, received, self.tasks);
        if self.leaving == Leaving::Due && body.push(Class::Control, &Control::Bye) {
            self.leaving = Leaving::Said;
        }
    }

    /// Most bytes of the bulk piece that may be sent now, if any may (FRAME-4, LANES-2)
    pub(crate) fn next_piece(&self) -> Option<u64> {
        self.channel.as_ref()?.next_piece()
    }

    /// Before a bulk piece: `true` if it has to wait for the next frame (FRAME-4)
    pub(crate) fn measure(&mut self, now: Instant, body: &mut BodyWriter<'_>) -> bool {
        let (Some(channel), Some(session)) = (&mut self.channel, &self.session) else { return false };
        channel.measure(now, body, session, self.tasks)
    }

    /// What is to be said of all attempts held, once everything numbered was sent on this connection (SESS-8)
    pub(crate) fn account_due(&self) -> Option<Account> {
        let channel = self.channel.as_ref().filter(|channel| channel.version >= DIGEST_SINCE)?;
        let replayed = self.session.as_ref().is_some_and(Session::replayed);
        if self.state != LinkState::Connected || !replayed || self.leaving != Leaving::No {
            None
        } else if self.compare {
            Some(Account::Holdings)
        } else {
            channel.digest_due.then_some(Account::Digest)
        }
    }

    /// It was said
    pub(crate) fn accounted(&mut self) {
        self.compare = false;
        if let Some(channel) = &mut self.channel {
            channel.digest_due = false;
        }
    }

    /// Counts a bulk piece sent
    pub(crate) fn bulk_sent(&mut self, now: Instant, body: &mut BodyWriter<'_>, bytes: u64) {
        if let (Some(channel), Some(session)) = (&mut self.channel, &self.session) {
            channel.bulk_sent(now, body, session, self.tasks, bytes);
        }
    }

    /// Counts a bulk piece that arrived
    pub(crate) fn bulk_arrived(&mut self, bytes: u64) -> Result<(), Violation> {
        self.channel.as_mut().map_or(Ok(()), |channel| channel.bulk_arrived(bytes))
    }

    /// Counts a bulk piece received and dealt with
    pub(crate) fn bulk_dealt_with(&mut self, bytes: u64) {
        if let Some(channel) = &mut self.channel {
            channel.bulk_dealt_with(bytes);
        }
    }

    /// Seals the frame whose body has this length
    pub(crate) fn seal(&mut self, frame: &mut [u8], body_len: usize, scratch: &mut Scratch) -> usize {
        let Some(channel) = &mut self.channel else { return 0 };
        let len = channel.seal(frame, body_len, scratch);
        self.stats.frames_out += 1;
        self.stats.bytes_out += len as u64;
        len
    }

    /// Returns the counters
    pub(crate) fn stats(&self) -> LinkStats {
        let channel = self.channel.as_ref();
        LinkStats { rtt_us: channel.and_then(|c| c.rtt_us), laws: channel.map(Channel::laws), ..self.stats }
    }

    /// Adds the link's state to a digest
    pub(crate) fn digest(&self, digest: &mut impl core::hash::Hasher) {
        (self.state, self.attempt, self.epoch, self.reconciled, self.tasks).hash(digest);
        if let Some(session) = &self.session {
            let Numbers { received, sent, acknowledged } = session.numbers();
            (session.id, session.generation, received, sent, acknowledged).hash(digest);
        }
    }

    /// Takes in what decides how the link goes on, with what each number of its log stands for
    pub(crate) fn outline(&self, o: &mut Outline, entry: impl Fn(&mut Outline, L::Entry)) {
        o.put((self.state, self.reconciled, self.connect, self.disconnect.is_some(), self.stopped.is_some()));
        o.put(self.keeping);
        o.put((self.begin, self.confirm, self.fresh, self.leaving != Leaving::No, self.greeting.is_empty()));
        o.put(self.proved.as_ref().map(|proved| proved.open));
        o.count(Counter::Epoch, self.epoch);
        o.at(self.dial_at);
        o.at(self.give_up_at);
        self.backoff.outline(o);
        o.put((self.channel.is_some(), self.session.is_some()));
        self.channel.iter().for_each(|channel| channel.outline(o));
        if let Some(session) = &self.session {
            session.outline(o, Giver::Dialler, entry);
            o.count(Counter::Tasks(session.id), self.tasks);
        }
    }

    /// Panics if something contradicts itself
    pub(crate) fn check(&self) {
        if let Some(session) = &self.session {
            session.check();
        }
        let open = matches!(self.state, LinkState::Proving | LinkState::Reconciling | LinkState::Connected);
        assert_eq!(self.channel.is_some(), open, "a channel exists exactly while frames can be exchanged");
        assert_eq!(self.dial_at.is_some(), self.state == LinkState::Waiting, "who waits has a time to dial");
        assert!(!self.reconciled || self.session.is_some());
    }

    // Inside.

    fn step(&mut self, step: LinkStep) {
        let next = self.state.after(step);
        debug_assert!(next.is_some(), "{step:?} cannot happen in {:?}", self.state);
        self.state = next.unwrap_or(self.state);
    }

    fn failed_handshake(&mut self, now: Instant, reason: Reason) {
        self.stats.failed_handshakes += 1;
        self.backoff.failed_handshake();
        self.give_up(now, reason, Loss::Local);
    }

    /// Closes the connection from this side
    fn give_up(&mut self, now: Instant, reason: Reason, loss: Loss) {
        self.disconnect = Some((self.attempt, reason));
        self.lose(now, loss);
    }

    fn lose(&mut self, now: Instant, loss: Loss) {
        if self.leaving != Leaving::No {
            // Whoever wants to go does not come back to say so.
            return self.stop(Reason::Left);
        }
        let worked = self.is_welcomed();
        self.end_connection();
        self.step(LinkStep::Lost);
        self.dial_at = Some(self.next_dial(now, loss, worked));
    }

    /// When to dial again, and where: all endpoints in turn, and only then a pause (BACK-4)
    fn next_dial(&mut self, now: Instant, loss: Loss, worked: bool) -> Instant {
        if let Loss::Busy { retry_after } = loss {
            self.not_before = self.not_before.max(now + retry_after.min(RETRY_AFTER_MAX));
        }
        if !worked {
            self.endpoint = (self.endpoint + 1) % self.config.endpoints.len();
            self.tried += 1;
            if self.tried < self.config.endpoints.len() && !self.backoff.is_slow() {
                return now;
            }
        }
        self.tried = 0;
        let not_before = core::mem::replace(&mut self.not_before, now);
        self.backoff.lost(now, loss, &mut self.rng).max(not_before)
    }

    fn stop(&mut self, reason: Reason) {
        // Not in the place of one that the embedder has not heard of: that transport would stay open for ever.
        self.disconnect.get_or_insert((self.attempt, reason));
        self.end_connection();
        self.dial_at = None;
        self.stopped = Some(reason);
        self.step(LinkStep::Stop);
    }

    fn end_connection(&mut self) {
        self.connect = false;
        self.give_up_at = None;
        self.hello = None;
        self.proved = None;
        self.channel = None;
        self.greeting.clear();
        self.begin = false;
        self.confirm = false;
        self.lease = None;
        self.compare = false;
        if self.keeping == Keeping::Due && !self.config.token {
            // Nobody was told yet, and it follows from this connection alone. Whoever enrols is left behind the word of it.
            self.keeping = Keeping::No;
        }
    }

    fn drop_session(&mut self) {
        if let Some(session) = self.session.take() {
            let mut log = session.into_log();
            log.clear();
            self.spare_log = Some(log);
        }
        self.reconciled = false;
    }
}
