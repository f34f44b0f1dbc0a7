//! Whether the link lives: heartbeats, probes, and the verdict that it is dead (LIVE-1, LIVE-2)

use core::time::Duration;

use crate::limits::SLOW_FRAME_REPRIEVES;
use crate::outline::Outline;
use crate::planted::{self, Bug};
use crate::rng::Rng;
use crate::time::Instant;

/// Watches one connection
#[derive(Clone, Debug)]
pub(crate) struct Heartbeat {
    period: Duration,
    /// When the next heartbeat is due; the accepting end only answers and probes
    beat_at: Option<Instant>,
    /// Silence is counted from here
    heard: Instant,
    probed: bool,
    reprieves: u8,
}

/// What the passing of time asks for
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pulse {
    /// Send a heartbeat
    Beat,
    /// No authenticated frame for 2.5 periods (LIVE-2)
    Dead,
}

impl Heartbeat {
    /// Starts to watch; the end that dialled beats, the other one answers
    pub(crate) fn new(now: Instant, period: Duration, beats: bool, rng: &mut Rng) -> Self {
        Heartbeat {
            period,
            beat_at: beats.then(|| now + jittered(period, rng)),
            heard: now,
            probed: false,
            reprieves: SLOW_FRAME_REPRIEVES,
        }
    }

    /// An authenticated frame arrived; nothing else is life, least of all what this end sends (LIVE-1)
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.probed = false;
        self.reprieves = SLOW_FRAME_REPRIEVES;
    }

    /// Bytes of an unfinished frame arrived: a slow link is not a dead one, for a while (LIVE-2)
    pub(crate) fn arriving(&mut self, now: Instant) {
        if self.reprieves > 0 && now > self.heard {
            self.reprieves -= 1;
            self.heard = now;
        }
    }

    /// When [`Self::expire`] has something to say
    pub(crate) fn deadline(&self) -> Instant {
        let silence = if self.probed { self.dead_at() } else { self.probe_at() };
        self.beat_at.map_or(silence, |beat| beat.min(silence))
    }

    /// Says what is due, if anything; call again until it says nothing
    pub(crate) fn expire(&mut self, now: Instant, rng: &mut Rng) -> Option<Pulse> {
        if self.dead_at() <= now {
            return Some(Pulse::Dead);
        }
        if self.beat_at.is_some_and(|at| at <= now) {
            // Counted from now: beats missed during a stall become one.
            self.beat_at = Some(now + jittered(self.period, rng));
            if planted::is(Bug::OwnSendsAreLife) {
                self.heard(now);
            }
            return Some(Pulse::Beat);
        }
        if !self.probed && self.probe_at() <= now {
            self.probed = true;
            return Some(Pulse::Beat);
        }
        None
    }

    /// Whether silence has lasted for 1.5 periods
    pub(crate) fn is_suspect(&self, now: Instant) -> bool {
        self.probe_at() <= now
    }

    /// Takes in when it has something to say
    pub(crate) fn outline(&self, o: &mut Outline) {
        o.put((self.probed, self.reprieves));
        o.at(self.beat_at);
        o.at(Some(if self.probed { self.dead_at() } else { self.probe_at() }));
    }

    fn probe_at(&self) -> Instant {
        self.heard + self.period * 3 / 2
    }

    fn dead_at(&self) -> Instant {
        self.heard + self.period * 5 / 2
    }
}

fn jittered(period: Duration, rng: &mut Rng) -> Duration {
    rng.between(period * 9 / 10, period * 11 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Seed;

    const PERIOD: Duration = Duration::from_secs(10);

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    #[test]
    fn live_1_beats_come_every_period_give_or_take_a_tenth() {
        let mut rng = Rng::new(Seed([1; 32]));
        let mut h = Heartbeat::new(at(0), PERIOD, true, &mut rng);
        let mut last = at(0);
        for _ in 0..50 {
            let due = h.deadline();
            assert!(due.since(last) >= PERIOD * 9 / 10 && due.since(last) <= PERIOD * 11 / 10);
            assert_eq!(h.expire(due - Duration::from_micros(1), &mut rng), None);
            assert_eq!(h.expire(due, &mut rng), Some(Pulse::Beat));
            assert_eq!(h.expire(due, &mut rng), None);
            h.heard(due);
            last = due;
        }
        // Ten periods asleep, then life again: one beat, not ten.
        h.heard(at(10_000));
        assert_eq!(h.expire(at(10_000), &mut rng), Some(Pulse::Beat));
        assert_eq!(h.expire(at(10_000), &mut rng), None);
    }

    #[test]
    fn live_2_silence_is_probed_at_one_and_a_half_and_deadly_at_two_and_a_half_periods() {
        let mut rng = Rng::new(Seed([1; 32]));
        let mut h = Heartbeat::new(at(0), PERIOD, false, &mut rng);
        assert_eq!(h.deadline(), at(15));
        assert_eq!(h.expire(at(15), &mut rng), Some(Pulse::Beat));
        assert_eq!(h.deadline(), at(25));
        assert_eq!(h.expire(at(24), &mut rng), None);
        assert_eq!(h.expire(at(25), &mut rng), Some(Pulse::Dead));
    }

    #[test]
    fn live_2_an_unfinished_frame_puts_death_off_twice_at_most() {
        let mut rng = Rng::new(Seed([1; 32]));
        let mut h = Heartbeat::new(at(0), PERIOD, false, &mut rng);
        for second in [20, 40, 60, 61, 62] {
            h.arriving(at(second));
        }
        assert_eq!(h.expire(at(40 + 25), &mut rng), Some(Pulse::Dead));
        h.heard(at(100));
        h.arriving(at(120));
        assert_eq!(h.expire(at(126), &mut rng), None, "an authenticated frame renews the reprieves");
    }
}
