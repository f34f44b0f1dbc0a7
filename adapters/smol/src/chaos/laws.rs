//! Laws of delay: how much longer bytes take

use std::time::{Duration, Instant};

use super::fault::Kind;
use super::random::Random;

/// Most that any law adds
const MOST: Duration = Duration::from_secs(60);

/// What a way is like for a while
#[derive(Clone, Copy, Debug)]
pub(super) struct Spell {
    pub(super) kind: Kind,
    pub(super) amount: u64,
    pub(super) since: Instant,
    /// When it is over; never for what holds for good
    pub(super) until: Option<Instant>,
    /// Whether it has had an effect here
    pub(super) felt: bool,
}

impl Spell {
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.since <= now && self.until.is_none_or(|until| now < until)
    }

    /// How much longer bytes take that leave now; nothing for what is no law of delay
    #[allow(clippy::wildcard_enum_match_arm, reason = "whatever is no law of delay adds none")]
    pub(super) fn delay(&self, now: Instant, random: &mut Random) -> Option<Duration> {
        let scale = self.amount as f64;
        let us = match self.kind {
            Kind::Delay | Kind::Far => scale,
            Kind::Jitter => random.below(self.amount.saturating_add(1)) as f64,
            Kind::Exponential => -random.share().ln() * scale,
            Kind::LogNormal => {
                // Twelve shares make a bell with a deviation of one.
                let bell: f64 = (0..12).map(|_| random.share()).sum::<f64>() - 6.0;
                bell.exp() * scale
            }
            Kind::Pareto => scale / random.share().powf(1.0 / 1.2),
            Kind::Bimodal => scale * f64::from(u8::from(random.one_in(125))),
            Kind::Ramp => {
                let whole = self.until.map_or(1, |until| until.duration_since(self.since).as_micros().max(1));
                scale * now.duration_since(self.since).as_micros() as f64 / whole as f64
            }
            _ => return None,
        };
        Some(Duration::from_micros(us as u64).min(MOST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_law_has_its_shape() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut random = Random(1);
        let mut spread = |kind| {
            let spell = Spell { kind, amount: 10_000, since: at(0), until: Some(at(1_000)), felt: false };
            let mut all: Vec<u64> =
                (0..1000).map(|n| spell.delay(at(n), &mut random).expect("a law").as_micros() as u64).collect();
            all.sort_unstable();
            (all[100], all[500], all[900], all[999])
        };
        assert_eq!(spread(Kind::Delay), (10_000, 10_000, 10_000, 10_000));
        assert_eq!(spread(Kind::Far), (10_000, 10_000, 10_000, 10_000));
        assert!(matches!(spread(Kind::Jitter), (500..2_000, 4_000..6_000, 8_000..9_900, ..=10_000)));
        assert!(matches!(spread(Kind::Exponential), (700..1_500, 6_000..8_000, 20_000..27_000, 50_000..)));
        assert!(matches!(spread(Kind::LogNormal), (2_000..4_000, 9_000..11_000, 30_000..45_000, 100_000..)));
        assert!(matches!(spread(Kind::Pareto), (10_000..12_000, 15_000..20_000, 50_000..90_000, 500_000..)));
        assert!(matches!(spread(Kind::Bimodal), (0, 0, 10_000, 10_000)));
        assert!(matches!(spread(Kind::Ramp), (900..1_100, 4_900..5_100, 8_900..9_100, 9_900..)));
    }
}
