//! When peers dial: the law of backoff, and slots of their own (S22)
//!
//! Only of lives whose clocks are right and that do not stand still: of others it cannot be said from outside when they
//! know what.

use rejoin_core::Instant;
use rejoin_core::backoff::BackoffConfig;
use rejoin_core::ids::ConnId;
use rejoin_core::limits::RETRY_AFTER_MAX;
use std::collections::BTreeMap;
use std::time::Duration;

use super::{Auditor, Check};

/// From which loss in a row on pauses are drawn
const DRAWN_FROM: u32 = 2;
/// Equal pauses of different peers, to the microsecond, that chance makes now and then
const EQUAL_MAX: u32 = 4;
/// How much later than in its slot a peer may dial
const SLOT_MISSED: Duration = Duration::from_millis(1);
/// Pauses squared for which there may be one more: many are drawn from the first hundred thousand microseconds
const PAIRS_FOR_ONE: u64 = 50_000;

/// What is known of a peer's dials
#[derive(Clone, Copy, Debug, Default)]
struct Dials {
    /// Losses in a row, none behind a session that was stable
    losses: u32,
    lost_at: Option<Instant>,
    opened_at: Option<Instant>,
    /// What the coordinator last said when it went away, and on which connection
    named: Option<(ConnId, Duration)>,
    /// It was told, and has not dialled since
    slot: Option<Duration>,
    /// It dials nobody before: it keeps a key until then (AUTH-6)
    keeps_until: Instant,
}

impl Dials {
    /// The connection has ended as it was meant to, and the peer is to be back in its slot
    fn comes_back(&mut self, now: Instant, slot: Option<Duration>) {
        let BackoffConfig { stable_after, base, .. } = BackoffConfig::default();
        if self.opened_at.take().is_some_and(|at| now.since(at) >= stable_after) {
            self.losses = 0;
        }
        self.lost_at = Some(now);
        self.slot = slot.map(|slot| slot.clamp(base, RETRY_AFTER_MAX));
    }
}

/// All of them
#[derive(Clone, Debug, Default)]
pub(super) struct DialAudit {
    peers: BTreeMap<usize, Dials>,
    /// Pauses that were drawn, and by whom
    pauses: BTreeMap<u64, usize>,
    drawn: u64,
    equal: u32,
}

impl Auditor {
    /// A peer's life begins
    pub(crate) fn born(&mut self, peer: usize) {
        self.dials.peers.insert(peer, Dials::default());
    }

    /// A peer's connection opens
    pub(crate) fn opened(&mut self, peer: usize, now: Instant) {
        self.dials.peers.entry(peer).or_default().opened_at = Some(now);
    }

    /// A peer knows that it has no connection, or that a dial has failed
    pub(crate) fn lost(&mut self, peer: usize, now: Instant) {
        let stable = BackoffConfig::default().stable_after;
        let dials = self.dials.peers.entry(peer).or_default();
        if dials.lost_at.is_some() {
            // It knew before.
            return;
        }
        let was_stable = dials.opened_at.take().is_some_and(|at| now.since(at) >= stable);
        dials.losses = if was_stable { 1 } else { dials.losses + 1 };
        dials.lost_at = Some(now);
    }

    /// The coordinator goes away, and says to a peer when to come back (BACK-3)
    pub(crate) fn named_slot(&mut self, peer: usize, conn: ConnId, slot: Duration) {
        self.dials.peers.entry(peer).or_default().named = Some((conn, slot));
    }

    /// A peer has heard that; it counts neither as a loss nor as the end of one
    pub(crate) fn sent_away(&mut self, peer: usize, conn: ConnId, now: Instant) {
        let dials = self.dials.peers.entry(peer).or_default();
        let named = dials.named.take().filter(|(on, _)| *on == conn);
        dials.comes_back(now, named.map(|(_, slot)| slot));
        self.expect(Check::S22, named.is_some(), || format!("peer {peer} is sent away, and nobody has said so"));
    }

    /// A worker has another key, and comes back with it at once: no loss either (AUTH-6)
    pub(crate) fn rekeyed(&mut self, peer: usize, now: Instant) {
        self.dials.peers.entry(peer).or_default().comes_back(now, Some(Duration::ZERO));
    }

    /// A peer keeps a key, and dials nobody until that is done
    pub(crate) fn keeps_key(&mut self, peer: usize, until: Instant) {
        self.dials.peers.entry(peer).or_default().keeps_until = until;
    }

    /// A peer dials; `sound` says that its clock can be believed
    pub(crate) fn dials(&mut self, peer: usize, now: Instant, sound: bool) {
        let dials = self.dials.peers.entry(peer).or_default();
        let (Some(lost_at), losses) = (dials.lost_at.take(), dials.losses) else { return };
        if let Some(slot) = dials.slot.take() {
            let (pause, keeps) = (now.since(lost_at), dials.keeps_until.since(lost_at));
            return self.expect(Check::S22, !sound || (slot..=slot.max(keeps) + SLOT_MISSED).contains(&pause), || {
                format!("peer {peer} dials {pause:?} after it was sent away, and its slot is behind {slot:?}")
            });
        }
        if losses < DRAWN_FROM || !sound {
            return;
        }
        let (pause, least) = (now.since(lost_at), BackoffConfig::default().base / 2);
        self.expect(Check::S22, pause >= least, || {
            format!("peer {peer} dials {pause:?} after its loss number {losses} in a row, and {least:?} is the least")
        });
        if losses > DRAWN_FROM {
            let by = *self.dials.pauses.entry(pause.as_micros() as u64).or_insert(peer);
            self.dials.equal += u32::from(by != peer);
            self.dials.drawn += 1;
            let (equal, drawn) = (self.dials.equal, self.dials.drawn);
            let by_chance = (drawn * drawn / PAIRS_FOR_ONE) as u32;
            self.expect(Check::S22, equal <= EQUAL_MAX + by_chance, || {
                format!("{equal} times two peers paused for the same time, now for {pause:?}")
            });
        }
    }
}
