//! Random numbers that a seed determines

use std::ops::RangeInclusive;
use std::time::Duration;

/// Longest time drawn, whatever the settings say, so that no deadline overflows
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// What a sequence of draws is for
///
/// Each purpose of each connection has its own, so that no draw moves another's.
#[derive(Clone, Copy)]
pub(super) enum Purpose {
    Refusal,
    Cut,
    Silence,
    EarlyFlip,
    Stalls,
    StallTimes,
    UpPace,
    DownPace,
    UpFlips,
    DownFlips,
}

/// A small generator of random numbers (SplitMix64)
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn keyed(seed: u64, connection: u64, purpose: Purpose) -> Self {
        let key = [seed, connection, purpose as u64].into_iter();
        Self(key.fold(0, |state, part| Self(state ^ part).next()))
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number less than `bound`
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from 0 up to, but not, 1
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    pub(super) fn duration(&mut self, range: &RangeInclusive<Duration>) -> Duration {
        let from = LONGEST.min(*range.start());
        let width = LONGEST.min(*range.end()).saturating_sub(from);
        from + Duration::from_nanos(self.below(width.as_nanos() as u64 + 1))
    }

    /// Number of misses before the next hit, where `share` of all tries hit
    pub(super) fn gap(&mut self, share: f64) -> u64 {
        let unit = self.unit();
        if share > 0.0 {
            // Converting saturates, which is what a far too rare hit calls for.
            ((1.0 - unit).ln() / (-share.min(1.0)).ln_1p()) as u64
        } else {
            u64::MAX
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flips_are_as_frequent_as_asked() {
        let draw = |share| Random(4).gap(share);
        assert_eq!((draw(0.0), draw(1.0)), (u64::MAX, 0));
        let mut random = Random(4);
        let mean = (0..10_000).map(|_| random.gap(0.01)).sum::<u64>() / 10_000;
        assert!((90..110).contains(&mean), "{mean}");
    }
}
