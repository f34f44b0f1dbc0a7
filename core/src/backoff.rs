//! When to dial again (BACK-1, BACK-3), and how long to stay away after failed handshakes (AUTH-2)

use core::time::Duration;

use crate::limits::{FAILED_HANDSHAKES_MAX, RETRY_AFTER_MAX, SLOW_LANE_MAX, SLOW_LANE_MIN};
use crate::outline::Outline;
use crate::planted::{self, Bug};
use crate::rng::Rng;
use crate::time::{Instant, micros};

/// The law of reconnection
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackoffConfig {
    /// Shortest pause after the first retry
    pub base: Duration,
    /// Longest pause
    pub cap: Duration,
    /// How long a peer may fail before `late_cap` holds
    pub late_after: Duration,
    /// Longest pause then
    pub late_cap: Duration,
    /// How long an authenticated session must last to make the next loss a first one again
    pub stable_after: Duration,
    /// Shortest pause in the slow lane, where failed handshakes lead (AUTH-2)
    pub slow_min: Duration,
    /// Longest pause in the slow lane
    pub slow_max: Duration,
}

impl Default for BackoffConfig {
    fn default() -> Self {
        BackoffConfig {
            base: Duration::from_millis(100),
            cap: Duration::from_secs(30),
            late_after: Duration::from_secs(600),
            late_cap: Duration::from_secs(120),
            stable_after: Duration::from_secs(30),
            slow_min: SLOW_LANE_MIN,
            slow_max: SLOW_LANE_MAX,
        }
    }
}

/// Why there is no connection
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The peer closed or reset the connection, or refused it: it may have done so to many at once
    Peer,
    /// Silence, or an error on this side: nobody else need be affected
    Local,
    /// The peer is busy and named a time, at most [`RETRY_AFTER_MAX`] of which is obeyed (BACK-2)
    Busy {
        /// How long to stay away
        retry_after: Duration,
    },
}

/// Decides on the next dial
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    config: BackoffConfig,
    previous: Option<Duration>,
    failing_since: Option<Instant>,
    welcomed_at: Option<Instant>,
    spread: Duration,
    failed_handshakes: u32,
    slow: bool,
}

impl Backoff {
    pub(crate) fn new(config: BackoffConfig) -> Self {
        Backoff {
            config,
            previous: None,
            failing_since: None,
            welcomed_at: None,
            spread: Duration::ZERO,
            failed_handshakes: 0,
            slow: false,
        }
    }

    /// An authenticated session is up, in a fleet that wants first retries spread like this
    pub(crate) fn welcomed(&mut self, now: Instant, spread: Duration) {
        self.welcomed_at = Some(now);
        self.spread = spread;
        self.failed_handshakes = 0;
        self.slow = false;
    }

    /// The transport is open, which shows nothing yet
    pub(crate) fn opened(&mut self) {
        if planted::is(Bug::ResetOnConnect) {
            (self.previous, self.failing_since) = (None, None);
        }
    }

    /// A handshake failed verification; returns whether this is what put the peer into the slow lane
    pub(crate) fn failed_handshake(&mut self) -> bool {
        self.failed_handshakes = self.failed_handshakes.saturating_add(1);
        let entered = !self.slow && self.failed_handshakes >= FAILED_HANDSHAKES_MAX;
        self.slow |= entered;
        entered
    }

    /// The session ended for a breach of the rules: slow lane at once (FRAME-2)
    pub(crate) fn breached(&mut self) {
        self.failed_handshakes = FAILED_HANDSHAKES_MAX;
        self.slow = true;
    }

    /// Whether the peer is in the slow lane
    pub(crate) fn is_slow(&self) -> bool {
        self.slow
    }

    /// Returns when to dial again after a loss
    pub(crate) fn lost(&mut self, now: Instant, loss: Loss, rng: &mut Rng) -> Instant {
        self.settled(now);
        let failing_for = now.since(*self.failing_since.get_or_insert(now));
        let pause = if self.slow {
            rng.between(self.config.slow_min, self.config.slow_max)
        } else {
            self.pause(failing_for, loss, rng)
        };
        let floor = match loss {
            Loss::Busy { retry_after } => retry_after.min(RETRY_AFTER_MAX),
            Loss::Peer | Loss::Local => Duration::ZERO,
        };
        now + pause.max(floor)
    }

    /// Returns when to dial again after the coordinator has named a slot (BACK-3), or another key (AUTH-6)
    ///
    /// Neither a failure nor a success: the pause behind the next loss is what it would have been. Not at once in any
    /// case, so that no coordinator can have itself dialled for ever.
    pub(crate) fn sent_away(&mut self, now: Instant, slot: Duration) -> Instant {
        self.settled(now);
        now + slot.clamp(self.config.base.min(RETRY_AFTER_MAX), RETRY_AFTER_MAX)
    }

    /// The session is over; if it was stable, the loss behind it is a first one
    fn settled(&mut self, now: Instant) {
        if self.welcomed_at.take().is_some_and(|at| now.since(at) >= self.config.stable_after) {
            self.previous = None;
            self.failing_since = None;
        }
    }

    /// Takes in how it would decide, as far as that is no matter of time
    pub(crate) fn outline(&self, o: &mut Outline) {
        o.put((self.previous.is_some(), self.welcomed_at.is_some(), self.slow, self.failed_handshakes));
    }

    fn pause(&mut self, failing_for: Duration, loss: Loss, rng: &mut Rng) -> Duration {
        let Some(previous) = self.previous else {
            self.previous = Some(self.config.base);
            return match loss {
                Loss::Local => Duration::ZERO,
                Loss::Peer | Loss::Busy { .. } => rng.between(Duration::ZERO, self.spread),
            };
        };
        let late = failing_for >= self.config.late_after;
        let cap = if late { self.config.late_cap } else { self.config.cap };
        if planted::is(Bug::NoJitter) {
            self.previous = Some(previous.saturating_mul(2).min(cap));
            return previous;
        }
        if planted::is(Bug::BackoffWraps) {
            let doubled = Duration::from_micros(micros(previous).wrapping_mul(2));
            self.previous = Some(doubled);
            return rng.between(doubled.min(cap) / 2, doubled.min(cap));
        }
        let drawn = rng.between(self.config.base, previous.saturating_mul(3)).min(cap);
        self.previous = Some(drawn);
        // Jitter after the cap, so that a fleet at the cap stays spread.
        rng.between(drawn / 2, drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Seed;

    fn backoff() -> (Backoff, Rng) {
        (Backoff::new(BackoffConfig::default()), Rng::new(Seed([3; 32])))
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn back_1_first_retry_is_immediate_after_silence_and_spread_after_a_close() {
        let (mut b, mut rng) = backoff();
        assert_eq!(b.lost(at(5), Loss::Local, &mut rng), at(5));
        let (mut b, mut rng) = backoff();
        assert_eq!(b.lost(at(5), Loss::Peer, &mut rng), at(5), "no spread in a small fleet");
        let mut latest = at(0);
        for seed in 0..50 {
            let (mut b, _) = backoff();
            let mut rng = Rng::new(Seed([seed; 32]));
            b.welcomed(at(0), Duration::from_secs(30));
            let dial = b.lost(at(100), Loss::Peer, &mut rng);
            assert!(dial >= at(100) && dial <= at(130));
            latest = latest.max(dial);
        }
        assert!(latest > at(115), "drawn over the whole spread");
    }

    #[test]
    fn back_1_pauses_grow_to_the_cap_stay_spread_and_never_overflow() {
        let (mut b, mut rng) = backoff();
        let mut now = at(1);
        let mut at_cap = alloc::vec::Vec::new();
        for attempt in 0..3000 {
            let dial = b.lost(now, Loss::Peer, &mut rng);
            let pause = dial.since(now);
            let late = now.since(at(1)) >= Duration::from_secs(600);
            assert!(pause <= Duration::from_secs(if late { 120 } else { 30 }));
            assert!(attempt == 0 || pause >= Duration::from_millis(50));
            if attempt > 200 {
                at_cap.push(pause);
            }
            now = dial;
        }
        at_cap.sort();
        at_cap.dedup();
        assert!(at_cap.len() > 2000, "pauses at the cap differ from each other");
        assert!(at_cap.iter().any(|p| *p > Duration::from_secs(60)), "the late cap is used after ten minutes");
    }

    #[test]
    fn back_1_only_a_stable_session_makes_the_next_loss_a_first_one() {
        let (mut b, mut rng) = backoff();
        b.lost(at(0), Loss::Local, &mut rng);
        b.welcomed(at(1), Duration::ZERO);
        assert!(b.lost(at(30), Loss::Local, &mut rng) > at(30), "29 s are not stable");
        b.welcomed(at(40), Duration::ZERO);
        assert_eq!(b.lost(at(70), Loss::Local, &mut rng), at(70));
    }

    #[test]
    fn back_2_a_slot_is_a_floor() {
        let (mut b, mut rng) = backoff();
        let busy = |seconds| Loss::Busy { retry_after: Duration::from_secs(seconds) };
        assert_eq!(b.lost(at(5), busy(4), &mut rng), at(9));
        assert!(b.lost(at(9), Loss::Peer, &mut rng) < at(10), "and holds once");
        assert_eq!(b.lost(at(20), busy(7000), &mut rng), at(320), "but not for ever");
    }

    #[test]
    fn back_3_a_slot_that_was_named_is_neither_a_failure_nor_a_success() {
        let (mut b, mut rng) = backoff();
        b.welcomed(at(0), Duration::ZERO);
        assert_eq!(b.sent_away(at(5), Duration::from_secs(2)), at(7));
        assert_eq!(b.lost(at(7), Loss::Peer, &mut rng), at(7), "the first loss is still to come");
        assert!(b.lost(at(8), Loss::Peer, &mut rng) > at(8));
        b.welcomed(at(9), Duration::ZERO);
        assert_eq!(b.sent_away(at(10), Duration::ZERO), at(10) + Duration::from_millis(100), "never at once");
        assert!(b.lost(at(11), Loss::Local, &mut rng) > at(11), "a second was not stable");
        b.welcomed(at(12), Duration::ZERO);
        assert_eq!(b.sent_away(at(60), Duration::MAX), at(360), "and not for ever");
        assert_eq!(b.lost(at(360), Loss::Local, &mut rng), at(360), "48 s were");
    }

    #[test]
    fn auth_2_three_failed_handshakes_lead_to_the_slow_lane_and_a_welcome_out_of_it() {
        let (mut b, mut rng) = backoff();
        assert_eq!([b.failed_handshake(), b.failed_handshake(), b.failed_handshake()], [false, false, true]);
        assert!(!b.failed_handshake(), "said once");
        for _ in 0..20 {
            let pause = b.lost(at(100), Loss::Local, &mut rng).since(at(100));
            assert!(pause >= SLOW_LANE_MIN && pause <= SLOW_LANE_MAX);
        }
        b.welcomed(at(200), Duration::ZERO);
        assert!(!b.is_slow());
    }
}
