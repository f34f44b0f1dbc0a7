//! What becomes of each connection by its number, where no schedule says it

use std::error::Error;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::fault::{End, Fault, Kind, Whom};
use super::random::{Purpose, Random};

/// Longest that a fault lasts which lasts as long as its connection
const FOR_GOOD: Duration = Duration::from_secs(86_400);
/// Life of a connection that is cut, in milliseconds
const LIFE_MS: (u64, u64) = (50, 300);
/// Bytes at the start of a connection that carry its handshake
const EARLY_BYTES: u64 = 2048;
/// Bytes between two of which a bit is flipped, on average
const NOISE_BYTES: f64 = 10_000.0;
/// Most bits that are flipped in either direction of a connection
const NOISE_MAX: usize = 120;

/// A habit of breaking connections
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Nothing breaks
    Calm,
    /// Each connection is cut after a short life, by reset or by silence
    Cuts,
    /// Cuts, and stalls, delays, flipped bytes and refused connections before them
    Storm,
    /// Nothing is cut, and everything takes long
    Slow,
    /// One bit in some 10,000 bytes is flipped, each way
    Noise,
}

impl Profile {
    /// All of them
    pub const ALL: [Profile; 5] = [Profile::Calm, Profile::Cuts, Profile::Storm, Profile::Slow, Profile::Noise];

    /// What it is called
    pub fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Cuts => "cuts",
            Self::Storm => "storm",
            Self::Slow => "slow",
            Self::Noise => "noise",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, UnknownProfile> {
        Profile::ALL.into_iter().find(|profile| profile.name() == name).ok_or(UnknownProfile)
    }
}

/// A name that is no [`Profile`]'s
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownProfile;

impl fmt::Display for UnknownProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such profile: use calm, cuts, storm, slow or noise")
    }
}

impl Error for UnknownProfile {}

/// What is to become of a connection, and when from its start; the first one accepted has number 0
///
/// The same arguments always give the same faults. Their `whom` means nothing.
pub fn fate(profile: Profile, seed: u64, connection: u64) -> Vec<(Duration, Fault)> {
    let mut fate = Fate { seed, connection, faults: Vec::new() };
    match profile {
        Profile::Calm => {}
        Profile::Cuts => _ = fate.cut(),
        Profile::Storm => fate.storm(),
        Profile::Slow => fate.slow(),
        Profile::Noise => fate.noise(),
    }
    fate.faults
}

struct Fate {
    seed: u64,
    connection: u64,
    faults: Vec<(Duration, Fault)>,
}

impl Fate {
    fn draw(&self, purpose: Purpose) -> Random {
        Random::keyed(self.seed, purpose, &[self.connection])
    }

    fn add(&mut self, at: Duration, kind: Kind, towards: End, span: Duration, amount: u64) {
        self.faults.push((at, Fault { kind, whom: Whom::All, towards, span, amount, after: 0 }));
    }

    /// Cuts it: half of the time so that both ends learn it, and of the rest at one end alone in three out of ten
    fn cut(&mut self) -> Duration {
        let (mut cut, mut silence) = (self.draw(Purpose::Cut), self.draw(Purpose::Silence));
        let life = cut.millis(LIFE_MS.0, LIFE_MS.1);
        let kind = match (cut.one_in(500), silence.one_in(300)) {
            (true, _) => Kind::Reset,
            (false, true) => Kind::HalfOpen,
            (false, false) => Kind::Dead,
        };
        self.add(life, kind, end(&mut silence), Duration::ZERO, 0);
        life
    }

    fn storm(&mut self) {
        let mut refusal = self.draw(Purpose::Refusal);
        if refusal.one_in(50) {
            let kind = if refusal.one_in(500) { Kind::Refuse } else { Kind::AcceptReset };
            return self.add(Duration::ZERO, kind, End::Peer, FOR_GOOD, refusal.between(1, 20_000));
        }
        let life = self.cut();
        let mut early = self.draw(Purpose::EarlyFlip);
        if early.one_in(150) {
            let (towards, bit) = (end(&mut early), early.below(EARLY_BYTES * 8));
            self.add(Duration::ZERO, Kind::Flip, towards, Duration::ZERO, bit);
        }
        let mut late = self.draw(Purpose::LateFlip);
        if late.one_in(50) {
            let (at, towards, bit) = (late.millis(0, LIFE_MS.1), end(&mut late), late.below(EARLY_BYTES * 8));
            self.add(at, Kind::Flip, towards, Duration::ZERO, bit);
        }
        let mut stalls = self.draw(Purpose::Stalls);
        if stalls.one_in(500) {
            let mut at = stalls.millis(20, 200);
            while at < life {
                let span = stalls.millis(20, 400);
                self.add(at, Kind::Partition, End::Peer, span, 0);
                at += span + stalls.millis(20, 200);
            }
        }
        let mut delay = self.draw(Purpose::Delay);
        if delay.one_in(400) {
            let (towards, us) = (end(&mut delay), delay.between(1_000, 30_000));
            self.add(Duration::ZERO, Kind::Jitter, towards, FOR_GOOD, us);
        }
        let mut rechunk = self.draw(Purpose::Rechunk);
        if rechunk.one_in(200) {
            let (towards, bytes) = (end(&mut rechunk), rechunk.between(1, 256));
            self.add(Duration::ZERO, Kind::Rechunk, towards, FOR_GOOD, bytes);
        }
    }

    fn slow(&mut self) {
        let mut slow = self.draw(Purpose::Slow);
        self.add(Duration::ZERO, Kind::Far, End::Peer, FOR_GOOD, slow.between(1_000, 100_000));
        for towards in End::BOTH {
            let jitter = if slow.one_in(500) { Kind::Jitter } else { Kind::Exponential };
            self.add(Duration::ZERO, jitter, towards, FOR_GOOD, slow.between(1_000, 50_000));
            let narrow = if slow.one_in(750) { Kind::Bandwidth } else { Kind::Bloat };
            self.add(Duration::ZERO, narrow, towards, FOR_GOOD, slow.between(20_000, 500_000));
        }
    }

    fn noise(&mut self) {
        let mut noise = self.draw(Purpose::Noise);
        // Of every second one only one bit each way: should it go on, nothing else ends it.
        let most = if self.connection.is_multiple_of(2) { NOISE_MAX } else { 1 };
        for towards in End::BOTH {
            let mut byte = 0;
            for _ in 0..most {
                byte += (-noise.share().ln() * NOISE_BYTES) as u64;
                self.add(Duration::ZERO, Kind::Flip, towards, Duration::ZERO, byte * 8 + noise.below(8));
                byte += 1;
            }
        }
    }
}

fn end(random: &mut Random) -> End {
    if random.one_in(500) { End::Peer } else { End::Coordinator }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fates(profile: Profile, seed: u64) -> Vec<Vec<(Duration, Fault)>> {
        (0..2000).map(|connection| fate(profile, seed, connection)).collect()
    }

    #[test]
    fn a_fate_depends_on_its_arguments_alone() {
        assert_eq!(fates(Profile::Storm, 7), fates(Profile::Storm, 7));
        assert_ne!(fates(Profile::Storm, 7), fates(Profile::Storm, 8));
        // Seeds that are close together must not share fates in another order.
        assert_ne!(fate(Profile::Storm, 7, 0), fate(Profile::Storm, 6, 1));
        assert!(fates(Profile::Calm, 7).iter().all(Vec::is_empty));
        // What else a storm does moves no cut.
        for (storm, cuts) in fates(Profile::Storm, 7).iter().zip(fates(Profile::Cuts, 7)) {
            assert!(storm[0].1.kind.name().contains("re") && storm.len() == 1 || storm[0] == cuts[0]);
        }
    }

    #[test]
    fn storms_are_as_frequent_as_they_should_be() {
        let storm = fates(Profile::Storm, 9);
        let share = |kind| {
            let has = |fate: &&Vec<(Duration, Fault)>| fate.iter().any(|(_, fault)| fault.kind == kind);
            storm.iter().filter(has).count() as f64 / storm.len() as f64
        };
        for (kind, wanted) in
            [(Kind::Reset, 0.48), (Kind::Dead, 0.33), (Kind::Partition, 0.35), (Kind::Flip, 0.18), (Kind::Jitter, 0.38)]
        {
            assert!((share(kind) - wanted).abs() < 0.06, "{}: {}", kind.name(), share(kind));
        }
        for (at, _) in fates(Profile::Cuts, 9).concat() {
            assert!((50..=300).contains(&at.as_millis()));
        }
    }

    #[test]
    fn noise_flips_a_bit_in_ten_thousand_bytes() {
        let all: Vec<_> = fates(Profile::Noise, 9).into_iter().step_by(2).collect();
        let last = |fate: &Vec<(Duration, Fault)>| fate.iter().map(|(_, fault)| fault.amount / 8).max().unwrap_or(0);
        let apart = all.iter().map(last).sum::<u64>() as f64 / (all.len() * NOISE_MAX) as f64;
        assert!((9_000.0..12_000.0).contains(&apart), "{apart}");
        assert!(all.iter().flatten().all(|(_, fault)| fault.kind == Kind::Flip));
    }

    #[test]
    fn profiles_have_names() {
        for profile in Profile::ALL {
            assert_eq!(profile.to_string().parse(), Ok(profile));
        }
        assert_eq!("rain".parse::<Profile>(), Err(UnknownProfile));
    }
}
