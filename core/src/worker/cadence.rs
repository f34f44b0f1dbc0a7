//! When attempts are asked for a checkpoint: by what one costs and how often workers fail (LIVE-6), and when a drain begins (TASK-8)
//!
//! The law is `sqrt(2 · cost · mean time between failures)`: more often costs more than it saves, and less often loses more
//! than it costs. The coordinator knows how often workers fail; what a checkpoint costs is measured here, from asking for one
//! until it is durable. Whoever makes checkpoints without being asked is asked that much later.

use core::time::Duration;

use crate::ids::Token;
use crate::limits::{CHECKPOINT_EVERY_MAX, CHECKPOINT_EVERY_MIN, MTBF_PRIOR};
use crate::time::{Instant, micros};
use crate::worker::Desk;
use crate::worker::attempt::{Attempt, AttemptState};

/// What a checkpoint is taken to cost before the first one
const COST_AT_FIRST: Duration = Duration::from_secs(1);
/// One part in so many of what is known gives way to what is new
const SHARES: u64 = 4;

/// How often an attempt makes checkpoints
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rhythm {
    /// It runs since then, or has made its last one
    from: Instant,
    /// From asking until it is durable, in the mean
    cost_us: u64,
    /// Since when it is asked for one, and has made none
    asked: Option<Instant>,
    /// The one whose cost is measured: its number, since when, and on which connection
    measured: Option<(u64, Instant, u64)>,
    /// The embedder is to be told
    pub(crate) due: bool,
}

impl Rhythm {
    pub(crate) fn new(now: Instant) -> Rhythm {
        Rhythm { from: now, cost_us: micros(COST_AT_FIRST), asked: None, measured: None, due: false }
    }

    /// It has been asked, and has not answered
    pub(crate) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }
}

/// How often a worker asks, as far as that is the same for all its attempts
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cadence {
    /// Held at this, whatever the law says
    pinned: Option<Duration>,
    /// No attempt is to be asked before
    pub(crate) next: Option<Instant>,
    /// Attempts of which the embedder has to be told
    pub(crate) due: u16,
    /// What was last said of failures
    mean: Option<Duration>,
}

impl Cadence {
    pub(crate) fn new(pinned: Option<Duration>) -> Cadence {
        Cadence { pinned, ..Cadence::default() }
    }

    fn interval(&self, rhythm: &Rhythm) -> Duration {
        let law = || interval(rhythm.cost_us, micros(self.mean.unwrap_or(MTBF_PRIOR)));
        self.pinned.unwrap_or_else(law)
    }

    fn is_to_look(&mut self, at: Instant) {
        self.next = Some(self.next.map_or(at, |next| next.min(at)));
    }
}

/// How long a task runs from one checkpoint to the next (LIVE-6)
fn interval(cost_us: u64, mean_us: u64) -> Duration {
    let law = Duration::from_micros(cost_us.saturating_mul(2).saturating_mul(mean_us).isqrt());
    law.clamp(CHECKPOINT_EVERY_MIN, CHECKPOINT_EVERY_MAX)
}

impl Desk {
    /// From now on the attempt runs
    pub(super) fn begin_rhythm(&mut self, now: Instant, token: Token) {
        let Some(attempt) = self.attempts.get_mut(&token) else { return };
        attempt.rhythm = Rhythm::new(now);
        self.cadence.is_to_look(now + self.cadence.interval(&attempt.rhythm));
    }

    /// It has made one, asked or not
    pub(super) fn has_made(&mut self, now: Instant, token: Token) {
        let connection = self.link.connection();
        let Some(attempt) = self.attempts.get_mut(&token) else { return };
        let (number, rhythm) = (attempt.checkpoint.made, &mut attempt.rhythm);
        let since = rhythm.asked.take().unwrap_or(now);
        rhythm.measured.get_or_insert((number, since, connection));
        rhythm.from = now;
        if core::mem::take(&mut rhythm.due) {
            self.cadence.due -= 1;
        }
        self.cadence.is_to_look(now + self.cadence.interval(rhythm));
    }

    /// It is durable, or refused
    pub(super) fn measure(&mut self, now: Instant, token: Token, number: u64) {
        let connection = self.link.connection();
        let Some(rhythm) = self.attempts.get_mut(&token).map(|attempt| &mut attempt.rhythm) else { return };
        let Some((_, since, on)) = rhythm.measured.take_if(|measured| measured.0 <= number) else { return };
        // A cut is no cost of checkpoints.
        if on == connection {
            let cost = micros(now.since(since)).min(micros(CHECKPOINT_EVERY_MAX));
            rhythm.cost_us = rhythm.cost_us - rhythm.cost_us / SHARES + cost / SHARES;
        }
    }

    /// Asks whoever has run for long enough
    pub(super) fn ask_for_checkpoints(&mut self, now: Instant) {
        let mean = self.link.mtbf();
        if core::mem::replace(&mut self.cadence.mean, mean) != mean {
            self.cadence.next = Some(now);
        }
        if self.cadence.next.is_none_or(|at| now < at) {
            return;
        }
        self.cadence.next = None;
        for attempt in self.attempts.values_mut().filter(|attempt| may_be_asked(attempt)) {
            let at = attempt.rhythm.from + self.cadence.interval(&attempt.rhythm);
            if at <= now {
                ask(&mut self.cadence, now, attempt);
            } else {
                self.cadence.is_to_look(at);
            }
        }
    }

    /// Asks all: whatever they have not finished in time goes on elsewhere
    pub(super) fn ask_all(&mut self, now: Instant) {
        for attempt in self.attempts.values_mut().filter(|attempt| may_be_asked(attempt)) {
            ask(&mut self.cadence, now, attempt);
        }
    }

    /// The next attempt of which the embedder has to be told that it should make one
    pub(super) fn next_wanted(&mut self) -> Option<Token> {
        while self.cadence.due > 0 {
            let (token, attempt) = self.attempts.iter_mut().find(|(_, attempt)| attempt.rhythm.due)?;
            attempt.rhythm.due = false;
            self.cadence.due -= 1;
            if attempt.state == AttemptState::Running {
                return Some(*token);
            }
        }
        None
    }
}

fn may_be_asked(attempt: &Attempt) -> bool {
    attempt.state == AttemptState::Running && !attempt.rhythm.is_asked()
}

fn ask(cadence: &mut Cadence, now: Instant, attempt: &mut Attempt) {
    attempt.rhythm.asked = Some(now);
    attempt.rhythm.due = true;
    cadence.due += 1;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_6_the_interval_is_the_root_of_twice_the_product_within_its_bounds() {
        let (second, hour) = (1_000_000, 3_600_000_000);
        assert_eq!(interval(second, 2 * hour), Duration::from_secs(120));
        assert_eq!(interval(8 * second, hour), Duration::from_secs(240));
        assert_eq!(interval(100, hour), CHECKPOINT_EVERY_MIN);
        for (cost, mean) in [(hour, 100 * hour), (u64::MAX, 1), (u64::MAX, u64::MAX)] {
            assert_eq!(interval(cost, mean), CHECKPOINT_EVERY_MAX);
        }
    }

    #[test]
    fn live_6_a_pinned_interval_is_what_it_is_pinned_to() {
        let cadence = Cadence::new(Some(Duration::from_secs(3)));
        assert_eq!(cadence.interval(&Rhythm::new(Instant::ZERO)), Duration::from_secs(3));
        let law = Cadence::default().interval(&Rhythm::new(Instant::ZERO));
        assert_eq!(law, interval(1_000_000, micros(MTBF_PRIOR)));
    }
}
