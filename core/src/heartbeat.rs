//! Whether the link lives: heartbeats, probes, suspicion, and the verdict that it is dead (LIVE-1, LIVE-2, LIVE-3)
//!
//! Whoever has not looked for a long time, because it was suspended or stood still, cannot say that the other end was silent:
//! it asks, and waits for the answer (LIVE-5).

use core::time::Duration;

use crate::limits::SLOW_FRAME_REPRIEVES;
use crate::outline::Outline;
use crate::planted::{self, Bug};
use crate::rng::Rng;
use crate::suspicion::Suspicion;
use crate::time::{Instant, earliest};

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
    suspicion: Suspicion,
    /// Silent for longer than is usual, and not heard since
    suspected: bool,
    /// When this end last looked, and whether it came late to that: nobody has asked yet
    looked: Instant,
    stalled: bool,
    /// It came late once since anything was heard, which is excused once
    excused: bool,
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
    pub(crate) fn new(now: Instant, period: Duration, beats: bool, pinned: Option<u64>, rng: &mut Rng) -> Self {
        Heartbeat {
            period,
            beat_at: beats.then(|| now + jittered(period, rng)),
            heard: now,
            probed: false,
            reprieves: SLOW_FRAME_REPRIEVES,
            suspicion: Suspicion::new(now, period, pinned),
            suspected: false,
            looked: now,
            stalled: false,
            excused: false,
        }
    }

    /// An authenticated frame arrived; nothing else is life, least of all what this end sends (LIVE-1)
    pub(crate) fn heard(&mut self, now: Instant) {
        self.look(now);
        if !self.stalled && !self.excused {
            self.suspicion.heard(now, now.since(self.heard));
        }
        self.heard = now;
        self.probed = false;
        self.suspected = false;
        self.excused = false;
        self.reprieves = SLOW_FRAME_REPRIEVES;
    }

    /// Bytes of an unfinished frame arrived: a slow link is not a dead one, for a while (LIVE-2)
    pub(crate) fn arriving(&mut self, now: Instant) {
        self.look(now);
        if self.reprieves > 0 && now > self.heard {
            self.reprieves -= 1;
            self.heard = now;
        }
    }

    /// When [`Self::expire`] has something to say
    pub(crate) fn deadline(&self) -> Instant {
        let silence = self.silence_deadline();
        self.beat_at.map_or(silence, |beat| beat.min(silence))
    }

    /// Says what is due, if anything; call again until it says nothing
    pub(crate) fn expire(&mut self, now: Instant, rng: &mut Rng) -> Option<Pulse> {
        self.look(now);
        if core::mem::take(&mut self.stalled) {
            // Whatever it has missed, the other end has one period to answer.
            self.excused = true;
            self.heard = self.heard.max(now - self.period * 3 / 2);
            self.probed = true;
            self.beat_at = self.beat_at.map(|_| now + jittered(self.period, rng));
            return Some(Pulse::Beat);
        }
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
        let suspects = !self.suspected && self.suspect_at() <= now;
        let probes = !self.probed && self.probe_at() <= now;
        self.suspected |= suspects;
        self.probed |= probes;
        (suspects || probes).then_some(Pulse::Beat)
    }

    /// Whether silence lasts for longer than is usual with this peer (LIVE-3)
    pub(crate) fn is_suspect(&self) -> bool {
        self.suspected
    }

    /// Silence on which the peer is suspected
    pub(crate) fn suspect_after(&self) -> Duration {
        self.suspicion.after()
    }

    /// Takes note of when this end looks, and of whether it comes late to that
    fn look(&mut self, now: Instant) {
        self.stalled |= !self.excused && now.since(self.looked) > self.period * 2;
        self.looked = self.looked.max(now);
    }

    /// Whether this end was found to have come late, and has not asked the other one yet (LIVE-5)
    pub(crate) fn is_stalled(&mut self, now: Instant) -> bool {
        self.look(now);
        self.stalled
    }

    /// Takes in when it has something to say
    pub(crate) fn outline(&self, o: &mut Outline) {
        o.put((self.probed, self.suspected, self.reprieves));
        o.at(self.beat_at);
        o.at(Some(self.silence_deadline()));
    }

    fn silence_deadline(&self) -> Instant {
        let suspect = (!self.suspected).then(|| self.suspect_at());
        let probe = (!self.probed).then(|| self.probe_at());
        earliest(suspect, probe).map_or(self.dead_at(), |first| first.min(self.dead_at()))
    }

    fn suspect_at(&self) -> Instant {
        self.heard + self.suspicion.after()
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
        let mut h = Heartbeat::new(at(0), PERIOD, true, None, &mut rng);
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
        let mut h = Heartbeat::new(at(0), PERIOD, false, None, &mut rng);
        assert_eq!(h.deadline(), at(15));
        assert_eq!(h.expire(at(15), &mut rng), Some(Pulse::Beat));
        assert_eq!(h.deadline(), at(25));
        assert_eq!(h.expire(at(24), &mut rng), None);
        assert_eq!(h.expire(at(25), &mut rng), Some(Pulse::Dead));
    }

    #[test]
    fn live_2_an_unfinished_frame_puts_death_off_twice_at_most() {
        let mut rng = Rng::new(Seed([1; 32]));
        let mut h = Heartbeat::new(at(0), PERIOD, false, None, &mut rng);
        for second in [20, 40, 60, 61, 62] {
            h.arriving(at(second));
        }
        assert_eq!(h.expire(at(40 + 25), &mut rng), Some(Pulse::Dead));
        h.heard(at(80));
        h.arriving(at(100));
        assert_ne!(h.expire(at(106), &mut rng), Some(Pulse::Dead), "an authenticated frame renews the reprieves");
    }

    #[test]
    fn live_3_whoever_is_heard_regularly_is_asked_early_and_suspected_until_it_is_heard() {
        let mut rng = Rng::new(Seed([1; 32]));
        let mut h = Heartbeat::new(at(0), PERIOD, false, None, &mut rng);
        for n in 1..200 {
            h.heard(at(n * 10));
        }
        let last = at(1990);
        let suspicious = last + Duration::from_millis(12_500);
        assert_eq!((h.deadline(), h.suspect_after()), (suspicious, Duration::from_millis(12_500)));
        assert_eq!(h.expire(suspicious, &mut rng), Some(Pulse::Beat), "it is asked");
        assert!(h.is_suspect());
        assert_eq!(h.expire(at(2005), &mut rng), Some(Pulse::Beat), "and once more, as anybody is (LIVE-2)");
        assert_eq!((h.deadline(), h.expire(at(2014), &mut rng)), (at(2015), None));
        h.heard(at(2014));
        assert!(!h.is_suspect());
        let mut off = Heartbeat::new(at(0), PERIOD, false, Some(2_500), &mut rng);
        assert_eq!([15, 24].map(|s| off.expire(at(s), &mut rng)), [Some(Pulse::Beat), None]);
        assert!(!off.is_suspect());
        assert_eq!(off.expire(at(25), &mut rng), Some(Pulse::Dead));
    }

    #[test]
    fn live_5_whoever_has_not_looked_asks_first_and_waits_for_one_period_once() {
        let mut rng = Rng::new(Seed([1; 32]));
        for asleep in [21, 25, 300] {
            let mut h = Heartbeat::new(at(0), PERIOD, true, None, &mut rng);
            assert_eq!(h.expire(at(asleep), &mut rng), Some(Pulse::Beat));
            assert_ne!(h.expire(at(asleep + 9), &mut rng), Some(Pulse::Dead));
            let mut answered = h.clone();
            answered.heard(at(asleep + 9));
            assert_ne!(answered.expire(at(asleep + 20), &mut rng), Some(Pulse::Dead));
            while let Some(pulse) = h.expire(at(asleep + 9), &mut rng) {
                assert_eq!(pulse, Pulse::Beat);
            }
            assert_eq!(h.expire(at(asleep + 10), &mut rng), Some(Pulse::Dead), "after {asleep} s");
        }
        // Only once: whoever always comes late must find out as well.
        let mut late = Heartbeat::new(at(0), PERIOD, true, None, &mut rng);
        assert_eq!(late.expire(at(30), &mut rng), Some(Pulse::Beat));
        assert_eq!(late.expire(at(60), &mut rng), Some(Pulse::Dead));
    }
}
