//! How long workers go between failures, from which they find out how often checkpoints pay (LIVE-6)

use core::time::Duration;

use crate::ids::Role;
use crate::limits::{MTBF_MAX, MTBF_MIN, MTBF_PRIOR, MTBF_SINCE};
use crate::time::Instant;

use super::Desk;
use super::entry::Conn;

/// Failures of workers, and the time in which they came
#[derive(Clone, Debug)]
pub(super) struct Failures {
    counted: u32,
    /// Time of all workers together
    served: Duration,
    upto: Instant,
    /// What all who are connected have been told, or more
    told: Duration,
}

impl Failures {
    pub(super) fn new(now: Instant) -> Failures {
        Failures { counted: 0, served: Duration::ZERO, upto: now, told: Duration::ZERO }
    }

    /// So many workers there were until now
    fn advance(&mut self, now: Instant, workers: u64) {
        let span = now.since(self.upto).saturating_mul(u32::try_from(workers).unwrap_or(u32::MAX));
        self.served = self.served.saturating_add(span);
        self.upto = now;
    }

    /// As if there had been one failure before in the time that is taken for granted
    fn mean(&self) -> Duration {
        (MTBF_PRIOR.saturating_add(self.served) / self.counted.saturating_add(1)).clamp(MTBF_MIN, MTBF_MAX)
    }
}

impl Desk {
    /// What a worker is told when it connects
    pub(super) fn mtbf(&mut self) -> Duration {
        self.failures.advance(self.now, self.roster.workers());
        let mean = self.failures.mean();
        self.failures.told = self.failures.told.max(mean);
        mean
    }

    /// A worker's memory is gone, or it stayed away for too long: what it ran has lost whatever was behind its last checkpoint
    pub(super) fn count_failure(&mut self) {
        self.failures.counted = self.failures.counted.saturating_add(1);
        let told = self.failures.told;
        let mean = self.mtbf();
        if mean * 2 >= told {
            return;
        }
        // Half as long as they know: they ask too seldom by half.
        self.failures.told = mean;
        for (conn, known) in &mut self.conns {
            if let Conn::Live(live) = known
                && live.channel.version >= MTBF_SINCE
                && self.roster.get(live.peer).role == Role::Worker
            {
                live.mtbf = Some(mean);
                self.dirty.insert(*conn);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_6_the_mean_time_between_failures_follows_what_is_seen_within_its_bounds() {
        let mut failures = Failures::new(Instant::ZERO);
        assert_eq!(failures.mean(), MTBF_PRIOR);
        failures.advance(Instant::ZERO + Duration::from_secs(3600), 10);
        assert_eq!(failures.mean(), MTBF_PRIOR + Duration::from_secs(36_000));
        failures.counted = 9;
        assert_eq!(failures.mean(), (MTBF_PRIOR + Duration::from_secs(36_000)) / 10);
        failures.counted = u32::MAX;
        assert_eq!(failures.mean(), MTBF_MIN);
        (failures.counted, failures.served) = (0, Duration::MAX);
        assert_eq!(failures.mean(), MTBF_MAX);
        failures.advance(Instant::ZERO + Duration::from_secs(1 << 40), u64::MAX);
        assert_eq!(failures.served, Duration::MAX);
    }
}
