//! Leases: how long exclusive attempts may run without a word from the coordinator (TASK-4)

use core::time::Duration;

use crate::limits::CLOCK_DRIFT_PERCENT;

/// How long a lease lasts from its last renewal, and what comes behind that; fixed for a session
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// From its last renewal to its end, at the worker
    pub(crate) ttl: Duration,
    /// From its end until whatever ran under it is over
    pub(crate) grace: Duration,
}

impl Lease {
    /// As messages and records carry it
    pub(crate) const fn new(ttl_us: u64, grace_us: u64) -> Lease {
        Lease { ttl: Duration::from_micros(ttl_us), grace: Duration::from_micros(grace_us) }
    }

    /// From the last renewal, at the coordinator, until another worker may run what ran under it
    ///
    /// Longer by three times the drift of one clock: one fast and one slow make two, and the third is for second order
    /// and rounding. The second is for whatever is not counted by clocks.
    pub(crate) fn wait(self) -> Duration {
        let all = self.ttl.saturating_add(self.grace);
        let drift = all.saturating_mul(3 * CLOCK_DRIFT_PERCENT) / 100;
        all.saturating_add(drift).saturating_add(Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_4_the_wait_covers_a_fast_and_a_slow_clock() {
        let lease = Lease::new(30_000_000, 10_000_000);
        assert_eq!(lease.wait(), Duration::from_millis(42_200));
        // The worker's clock is slow by 1 %, and the coordinator's is fast by 1 %.
        let (worker, coordinator) = (40.0 / 0.99, lease.wait().as_secs_f64() / 1.01);
        assert!(worker < coordinator);
        assert!(Lease::new(u64::MAX, u64::MAX).wait() > Duration::from_micros(u64::MAX));
    }
}
