//! Randomness by purpose: a stream for each purpose and entity, so that a new draw moves nobody else's

/// What a draw is for; append only, because the number is part of every stream
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Settings of a seed
    Settings,
    /// Which faults a seed has, and how often
    Menu,
    /// When a fault of one kind happens, to whom, and how
    Fault,
    /// Tasks and their submits
    Load,
    /// Seeds of the machines' own jitter
    Jitter,
    /// Fresh entropy for nonces and keys
    Entropy,
    /// How long bytes take
    Latency,
    /// Everything that the second generator draws
    Wild,
    /// An execution of a user's own logic
    Logic,
    /// How large the checkpoints of a task are
    Saves,
    /// What may happen to a task when its worker is out of reach
    Terms,
    /// Whether workers keep what they have finished
    Keeps,
    /// How large the large results of tasks are
    Returns,
    /// How large the large inputs of tasks are
    Inputs,
}

/// A stream of random numbers
#[derive(Clone, Debug)]
pub struct Draws {
    key: u64,
    count: u64,
}

impl Draws {
    /// The stream of an entity, for a purpose, under a seed
    pub fn new(seed: u64, purpose: Purpose, entity: u64) -> Self {
        let key = mix(mix(seed ^ 0x5EED) ^ mix((purpose as u64) << 32 ^ 0x9_0E05)).wrapping_add(mix(entity));
        Draws { key: mix(key), count: 0 }
    }

    /// The next 64 bits
    pub fn bits(&mut self) -> u64 {
        self.count += 1;
        mix(self.key.wrapping_add(self.count.wrapping_mul(0x9E37_79B9_7F4A_7C15)))
    }

    /// A number below a bound; 0 for a bound of 0
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from a range, both ends included
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// A number from a range, both ends included, each order of magnitude as likely as any other
    pub fn between_log(&mut self, low: u64, high: u64) -> u64 {
        let (low, high) = (low.max(1) as f64, high.max(1) as f64);
        let share = self.share();
        (low * (high / low).powf(share)).round() as u64
    }

    /// A number above 0, and at most 1
    pub fn share(&mut self) -> f64 {
        ((self.bits() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    /// True so many times in a thousand
    pub fn one_in(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of several
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }

    /// So many random bytes
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.bits().to_le_bytes()[..chunk.len()]);
        }
        bytes
    }
}

/// Mixes 64 bits so that each depends on all; Stafford's variant 13
pub(crate) fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s_29_a_draw_moves_no_other_stream_and_means_the_same_for_ever() {
        let mut first = Draws::new(7, Purpose::Fault, 3);
        let mut second = Draws::new(7, Purpose::Fault, 4);
        let before = second.clone().bits();
        (0..100).for_each(|_| _ = first.bits());
        assert_eq!(second.bits(), before);
        let pinned = [Purpose::Settings, Purpose::Fault, Purpose::Entropy].map(|p| Draws::new(1, p, 0).bits());
        assert_eq!(pinned, PINNED, "old seeds would mean something else");
    }

    const PINNED: [u64; 3] = [10_459_610_520_455_009_121, 451_038_689_027_896_671, 11_517_751_255_079_450_092];

    #[test]
    fn draws_are_within_their_bounds_and_use_all_of_them() {
        let mut draws = Draws::new(1, Purpose::Load, 0);
        let mut seen = [0; 5];
        (0..1000).for_each(|_| seen[draws.below(5) as usize] += 1);
        assert!(seen.iter().all(|count| (100..300).contains(count)), "{seen:?}");
        assert_eq!(draws.below(0), 0);
        let logs: Vec<u64> = (0..1000).map(|_| draws.between_log(10, 100_000)).collect();
        assert!(logs.iter().all(|n| (10..=100_000).contains(n)));
        let small = logs.iter().filter(|n| **n < 1000).count();
        assert!((400..600).contains(&small), "as many below the middle magnitude as above: {small}");
        assert!((0..1000).all(|_| (3..=4).contains(&draws.between(3, 4))));
    }
}
