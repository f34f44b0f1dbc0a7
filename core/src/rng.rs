//! Reproducible randomness for jitter and nothing else

use core::time::Duration;

use crate::time::micros;

/// Where a machine's jitter comes from: the same seed gives the same decisions
///
/// Never a source of nonces or keys; those come with the `entropy` of each new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed(pub [u8; 32]);

/// xoshiro256++
#[derive(Clone, Debug)]
pub(crate) struct Rng {
    state: [u64; 4],
}

impl Rng {
    pub(crate) fn new(seed: Seed) -> Self {
        let mut state = [0; 4];
        for (word, bytes) in state.iter_mut().zip(seed.0.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        if state == [0; 4] {
            // The one state this generator never leaves.
            state = [0x9E37_79B9_7F4A_7C15, 1, 2, 3];
        }
        let mut rng = Rng { state };
        for _ in 0..8 {
            rng.next();
        }
        rng
    }

    /// A number below `bound`; zero if the bound is zero
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A span from `low` to `high`, both included; `low` if they are the wrong way round
    pub(crate) fn between(&mut self, low: Duration, high: Duration) -> Duration {
        let width = micros(high).saturating_sub(micros(low)).saturating_add(1);
        Duration::from_micros(micros(low).saturating_add(self.below(width)))
    }

    fn next(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_draws_and_bounds_hold() {
        let mut a = Rng::new(Seed([7; 32]));
        let mut b = Rng::new(Seed([7; 32]));
        let mut zero = Rng::new(Seed([0; 32]));
        let mut seen = [false; 5];
        for _ in 0..1000 {
            let draw = a.below(5);
            assert_eq!(draw, b.below(5));
            seen[draw as usize] = true;
            let span = zero.between(Duration::from_micros(3), Duration::from_micros(4));
            assert!((3..=4).contains(&(span.as_micros() as u64)));
        }
        assert_eq!(seen, [true; 5]);
        assert_eq!(a.below(0), 0);
        assert_eq!(a.between(Duration::from_secs(2), Duration::from_secs(1)), Duration::from_secs(2));
    }
}
