//! From how much silence on a peer is suspected: by how regularly it was heard so far (LIVE-3)
//!
//! What counts is the longest silence in each period, so that work that goes on does not hide how late heartbeats come. Of
//! these there are a moving mean and a moving variance, in whole microseconds; suspicion is four deviations above the mean.

use core::time::Duration;

use crate::limits::{SUSPECT_MAX_PERMILLE, SUSPECT_MIN_PERMILLE};
use crate::time::{Instant, micros};

/// How many deviations above the mean are suspicious
const DEVIATIONS: u64 = 4;
/// One part in so many of what is known gives way to what is new
const SHARES: i64 = 8;

/// How regularly a peer is heard
#[derive(Clone, Debug)]
pub(crate) struct Suspicion {
    period_us: u64,
    pinned: Option<u64>,
    /// Since when the longest silence is looked for
    since: Instant,
    longest_us: u64,
    mean_us: i64,
    variance: i64,
}

impl Suspicion {
    /// Nothing is known yet: one and a half periods are suspicious
    pub(crate) fn new(now: Instant, period: Duration, pinned: Option<u64>) -> Self {
        let period_us = micros(period);
        let deviation = (period_us / 8) as i64;
        Suspicion {
            period_us,
            pinned,
            since: now,
            longest_us: 0,
            mean_us: period_us as i64,
            variance: deviation * deviation,
        }
    }

    /// The peer was heard, after so much silence
    pub(crate) fn heard(&mut self, now: Instant, silence: Duration) {
        self.longest_us = self.longest_us.max(micros(silence).min(self.share(SUSPECT_MAX_PERMILLE)));
        if micros(now.since(self.since)) < self.period_us {
            return;
        }
        let off = self.longest_us as i64 - self.mean_us;
        self.mean_us += off / SHARES;
        self.variance += (off * off - self.variance) / SHARES;
        (self.since, self.longest_us) = (now, 0);
    }

    /// How much silence is suspicious
    pub(crate) fn after(&self) -> Duration {
        let law = self.mean_us.unsigned_abs() + DEVIATIONS * self.variance.unsigned_abs().isqrt();
        let law = law.clamp(self.share(SUSPECT_MIN_PERMILLE), self.share(SUSPECT_MAX_PERMILLE));
        Duration::from_micros(self.pinned.map_or(law, |permille| self.share(permille)))
    }

    fn share(&self, permille: u64) -> u64 {
        self.period_us.saturating_mul(permille) / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    const PERIOD: Duration = Duration::from_secs(10);

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    /// Hears a peer after each of these silences, again and again
    fn after(pinned: Option<u64>, silences: &[u64]) -> Duration {
        let mut now = Instant::ZERO;
        let mut suspicion = Suspicion::new(now, PERIOD, pinned);
        assert_eq!(pinned.map_or(suspicion.after(), |_| ms(15_000)), ms(15_000), "one and a half at first");
        for silence in silences.iter().cycle().take(2_000) {
            now = now + ms(*silence);
            suspicion.heard(now, ms(*silence));
        }
        suspicion.after()
    }

    #[test]
    fn live_3_whoever_is_heard_regularly_is_suspected_early_and_others_late() {
        assert_eq!(after(None, &[10_000]), ms(12_500));
        assert_eq!(after(None, &[9_000, 11_000]), ms(12_500));
        let uneven = after(None, &[8_000, 13_000, 10_000, 15_000]);
        assert!(uneven > ms(15_000) && uneven < ms(22_500), "{uneven:?}");
        assert_eq!(after(None, &[1_000, 24_000]), ms(22_500), "never later than that");
    }

    #[test]
    fn live_3_work_that_goes_on_does_not_hide_how_late_heartbeats_come() {
        let quiet = [8_000, 13_000, 10_000, 15_000];
        let busy: Vec<u64> = quiet.iter().flat_map(|silence| [*silence, 1, 2, 3, 1, 1, 1, 1, 1, 1, 1]).collect();
        let (with, without) = (after(None, &busy), after(None, &quiet));
        assert!(with > ms(13_500) && with.abs_diff(without) < ms(2_500), "{with:?} and {without:?}");
    }

    #[test]
    fn live_6_suspicion_stays_within_its_bounds_and_can_be_pinned() {
        for silences in [&[1][..], &[0, 10_000], &[3_000_000], &[1, 30_000, 7]] {
            let law = after(None, silences);
            assert!(law >= ms(12_500) && law <= ms(22_500), "{law:?}");
        }
        assert_eq!(after(Some(2_000), &[10_000]), ms(20_000));
    }
}
