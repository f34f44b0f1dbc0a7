//! Laws of delay: how much longer bytes take

use std::time::Duration;

use rejoin_core::Instant;

use crate::draws::Draws;
use crate::menu::Kind;

/// Most that any law adds
const MOST: Duration = Duration::from_secs(60);

/// A law that holds for a while
#[derive(Clone, Copy, Debug)]
pub(super) struct Law {
    /// Which of the kinds that [`Law::is`] names
    pub(super) kind: Kind,
    pub(super) scale_us: u64,
    pub(super) since: Instant,
    pub(super) until: Instant,
}

impl Law {
    /// Whether a kind of fault is a law of delay
    pub(super) fn is(kind: Kind) -> bool {
        let laws = [Kind::Delay, Kind::Jitter, Kind::Exponential, Kind::LogNormal, Kind::Pareto, Kind::Bimodal];
        laws.contains(&kind) || matches!(kind, Kind::Ramp | Kind::Far)
    }

    /// How much longer what leaves now takes
    #[allow(clippy::wildcard_enum_match_arm, reason = "only laws are asked")]
    pub(super) fn draw(&self, now: Instant, draws: &mut Draws) -> Duration {
        let scale = self.scale_us as f64;
        let us = match self.kind {
            Kind::Jitter => draws.below(self.scale_us + 1) as f64,
            Kind::Exponential => -draws.share().ln() * scale,
            Kind::LogNormal => {
                // Twelve shares make a bell with a deviation of one.
                let bell: f64 = (0..12).map(|_| draws.share()).sum::<f64>() - 6.0;
                bell.exp() * scale
            }
            Kind::Pareto => scale / draws.share().powf(1.0 / 1.2),
            Kind::Bimodal => scale * f64::from(u8::from(draws.one_in(125))),
            Kind::Ramp => {
                let whole = self.until.since(self.since).as_micros().max(1) as f64;
                scale * now.since(self.since).as_micros() as f64 / whole
            }
            // What is constant, for a while or for good.
            _ => scale,
        };
        Duration::from_micros(us as u64).min(MOST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draws::Purpose;

    #[test]
    fn each_law_has_its_shape() {
        let at = |ms: u64| Instant::ZERO + Duration::from_millis(ms);
        let mut draws = Draws::new(1, Purpose::Latency, 0);
        let mut spread = |kind| {
            let law = Law { kind, scale_us: 10_000, since: at(0), until: at(1_000) };
            let mut all: Vec<u64> = (0..1000).map(|n| law.draw(at(n), &mut draws).as_micros() as u64).collect();
            all.sort_unstable();
            (all[100], all[500], all[900], all[999])
        };
        assert_eq!(spread(Kind::Far), (10_000, 10_000, 10_000, 10_000));
        assert!(matches!(spread(Kind::Jitter), (500..2_000, 4_000..6_000, 8_000..9_900, ..=10_000)));
        assert!(matches!(spread(Kind::Exponential), (700..1_500, 6_000..8_000, 20_000..27_000, 50_000..)));
        assert!(matches!(spread(Kind::LogNormal), (2_000..4_000, 9_000..11_000, 30_000..45_000, 100_000..)));
        assert!(matches!(spread(Kind::Pareto), (10_000..12_000, 15_000..20_000, 50_000..90_000, 500_000..)));
        assert!(matches!(spread(Kind::Bimodal), (0, 0, 10_000, 10_000)));
        assert!(matches!(spread(Kind::Ramp), (900..1_100, 4_900..5_100, 8_900..9_100, 9_900..)));
    }
}
