//! Random numbers that a seed determines

use std::time::Duration;

/// What a sequence of draws is for
///
/// Each purpose of each connection has its own, so that no draw moves another's.
#[derive(Clone, Copy)]
pub(crate) enum Purpose {
    Refusal,
    Cut,
    Silence,
    EarlyFlip,
    LateFlip,
    Stalls,
    Delay,
    Rechunk,
    Slow,
    Law,
    Share,
    Swizzle,
    Noise,
    PacketLoss,
    PacketCopy,
    PacketOrder,
    PacketLateness,
    PacketJitter,
    PacketCorruption,
    PacketCorruptionPlace,
    PacketFlip,
    PacketFlipPlace,
}

/// A small generator of random numbers (SplitMix64)
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The sequence of something that several numbers name, for a purpose, under a seed
    pub(crate) fn keyed(seed: u64, purpose: Purpose, names: &[u64]) -> Self {
        let key = [seed, purpose as u64].into_iter().chain(names.iter().copied());
        Self(key.fold(0, |state, part| Self(state ^ part).next()))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number less than `bound`
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from a range, both ends included
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// A number above 0, and at most 1
    pub(crate) fn share(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// True so many times in a thousand
    pub(crate) fn one_in(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// A time from a range of milliseconds
    pub(crate) fn millis(&mut self, low: u64, high: u64) -> Duration {
        Duration::from_micros(self.between(low * 1000, high * 1000))
    }
}
