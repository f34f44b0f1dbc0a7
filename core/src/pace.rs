//! How much bulk is put onto a link at a time, found out from how long the link takes (FRAME-4, LIVE-6)
//!
//! Whatever is on its way stands in front of an urgent message that comes later. So no more bulk is put under way than
//! the link carries in its shortest round trip and a short wait. A beat behind a piece is a *mark*: its echo says that
//! everything in front of it has arrived, and how long that took. Every peer answers beats, of whatever version.
//!
//! The law, for each connection and direction:
//!
//! * `shortest` is the shortest round trip. It is asked for by a beat with no bulk in front of it, before the first
//!   piece and every [`RENEWED_AFTER`] of sending; to that end nothing is sent until nothing is under way.
//! * `wait` = `shortest` / 4, between [`WAIT_MIN`] and [`WAIT_MAX`].
//! * A round ends when all that was under way at its start has arrived. `carried` is what arrived meanwhile, `took` how
//!   long it lasted, and `queue` what the quickest mark in it took longer than `shortest`, less
//!   what its own piece takes, but no more than one and a half `wait`.
//! * `fits` = `carried` · (`shortest` + `wait` / 2) / `took`, and a smallest piece.
//! * What may be under way starts at [`START_BYTES`] and doubles in each round that makes use of it, up to the first
//!   with a `queue` above a quarter of `wait`, and again when `shortest` has risen by more than `wait`. From then on it rises
//!   to `fits` when `queue` is below that. It falls to `fits` when `queue` is above `wait` at the end of the doubling or
//!   in two rounds running: one alone may be a link that stood still for a moment. Two marks in a row that took longer
//!   by two and a half `wait` end the doubling, and the round, at once.
//! * A connection begins with what the one before in its session had at the end of its last round, at most
//!   [`BEGINS_WITH_MAX`]; with half of what that began with if it had no round. So links that break again and again are
//!   made use of, and one that has become narrow is not overrun for long.
//! * It lies between [`BULK_PIECE_BYTES_MIN`] and [`BULK_WINDOW_BYTES`]. A piece is sent if half of it fits in, or if
//!   nothing is under way. Where nothing was for longer than `wait`, not all of it may be used at once: a piece, and then of
//!   what arrives half as much more, or a quarter from the half on; all of it while it doubles.
//! * A piece is an eighth of it, between [`BULK_PIECE_BYTES_MIN`] and [`BULK_PIECE_BYTES_MAX`].

use core::time::Duration;

use crate::limits::{BULK_PIECE_BYTES_MAX, BULK_PIECE_BYTES_MIN, BULK_WINDOW_BYTES};
use crate::pins::Pins;
use crate::time::{Instant, micros};

/// How long the shortest round trip holds until it is looked for again
const RENEWED_AFTER: Duration = Duration::from_secs(20);
/// Least that bulk may wait on its way, so that a link of little delay and some jitter is made use of
const WAIT_MIN: Duration = Duration::from_millis(10);
/// Most that bulk may wait on its way
const WAIT_MAX: Duration = Duration::from_millis(100);
/// Under way at first, when nothing is known of the link
const START_BYTES: u64 = 4 * BULK_PIECE_BYTES_MIN;
/// Under way at first, at most, when the connection before has found out more
const BEGINS_WITH_MAX: u64 = 64 * 1024;
/// Pieces and marks for all that may be under way
const PIECES: u64 = 8;
/// Marks that wait for their echoes
const MARKS_MAX: usize = 2 * PIECES as usize;

/// What one end puts onto one connection
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    pins: Pins,
    sent: u64,
    arrived: u64,
    marks: heapless::Deque<Mark, MARKS_MAX>,
    /// Bytes sent when the newest beat left
    marked: u64,
    under_way_max: u64,
    /// What may be made use of by now
    opened: u64,
    /// No round has shown a queue
    rising: bool,
    shortest: Option<Shortest>,
    /// What it was when it was known last
    shortest_before_us: u64,
    /// Nothing is sent until nothing is under way
    drains: bool,
    round: Round,
    queue_before_us: u64,
    /// Marks in a row that took far too long, while all that may be under way still doubles
    slow_marks: u8,
    echoed_at: Instant,
}

/// A beat that left, and what had been sent by then
#[derive(Clone, Copy, Debug)]
struct Mark {
    stamp: u64,
    sent: u64,
}

/// The shortest round trip, and since when it has been looked for
#[derive(Clone, Copy, Debug)]
struct Shortest {
    us: u64,
    since: Instant,
}

/// All that was under way at a moment is to arrive
#[derive(Clone, Copy, Debug)]
struct Round {
    since: Instant,
    arrived: u64,
    ends_at: u64,
    quickest_us: u64,
}

impl Round {
    fn start(now: Instant, arrived: u64, ends_at: u64) -> Self {
        Round { since: now, arrived, ends_at, quickest_us: u64::MAX }
    }
}

impl Pace {
    pub(crate) fn new(pins: Pins) -> Self {
        Pace {
            pins,
            sent: 0,
            arrived: 0,
            marks: heapless::Deque::new(),
            marked: 0,
            under_way_max: START_BYTES,
            opened: START_BYTES,
            rising: true,
            shortest: None,
            shortest_before_us: 0,
            drains: false,
            round: Round::start(Instant::ZERO, 0, 0),
            queue_before_us: 0,
            slow_marks: 0,
            echoed_at: Instant::ZERO,
        }
    }

    /// Begins with what the connection before had come to
    pub(crate) fn begin(&mut self, bytes: u64) {
        self.under_way_max = bytes.clamp(START_BYTES, BEGINS_WITH_MAX);
        self.opened = self.under_way_max;
    }

    /// Bytes of bulk sent
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes of the next piece, none while enough is under way
    pub(crate) fn next_piece(&self) -> Option<u64> {
        let (under_way, piece) = (self.under_way(), self.piece_bytes());
        let fits = under_way == 0 || under_way + piece / 2 < self.usable();
        (fits && !self.drains).then_some(piece)
    }

    fn usable(&self) -> u64 {
        self.pins.bulk_under_way.unwrap_or(self.opened.min(self.under_way_max))
    }

    /// Bytes of a piece
    pub(crate) fn piece_bytes(&self) -> u64 {
        let law = (self.under_way_max / PIECES).clamp(BULK_PIECE_BYTES_MIN, BULK_PIECE_BYTES_MAX as u64);
        self.pins.bulk_piece.unwrap_or(law)
    }

    /// Bytes that may be under way
    pub(crate) fn under_way_max(&self) -> u64 {
        self.pins.bulk_under_way.unwrap_or(self.under_way_max)
    }

    /// The shortest round trip, in microseconds
    pub(crate) fn shortest_us(&self) -> Option<u64> {
        self.shortest.map(|shortest| shortest.us)
    }

    /// Whether a beat should go in front of the next piece, in a frame of its own
    pub(crate) fn is_unmeasured(&mut self, now: Instant) -> bool {
        if self.under_way() > 0 || !self.marks.is_empty() {
            return false;
        }
        if self.shortest.is_some_and(|shortest| shortest.since + RENEWED_AFTER <= now) {
            (self.shortest, self.opened) = (None, self.piece_bytes());
        }
        self.shortest.is_none()
    }

    /// Whether a beat should go behind what has been sent
    pub(crate) fn wants_mark(&self) -> bool {
        let unmarked = self.sent - self.marked;
        let enough = unmarked >= self.under_way_max() / PIECES || self.next_piece().is_none();
        unmarked > 0 && enough && !self.marks.is_full()
    }

    /// A piece left
    pub(crate) fn bulk_sent(&mut self, now: Instant, bytes: u64) {
        self.sent += bytes;
        if self.arrived == self.sent - bytes {
            let idle_us = micros(now.since(self.echoed_at));
            if self.shortest.is_some_and(|shortest| idle_us > wait_us(shortest.us)) {
                self.opened = self.piece_bytes();
            }
            self.round = Round::start(now, self.arrived, self.sent);
        }
    }

    /// A beat left
    pub(crate) fn beat_sent(&mut self, now: Instant) {
        let stamp = now.as_micros();
        // Of two at the same time nobody could tell which one was answered.
        if self.marks.back().is_none_or(|mark| mark.stamp < stamp)
            && self.marks.push_back(Mark { stamp, sent: self.sent }).is_ok()
        {
            self.marked = self.sent;
        }
    }

    /// An echo came: what was in front of that beat has arrived; of a beat that nobody sent it means nothing
    ///
    /// Returns what may be under way when that ends a round.
    pub(crate) fn echoed(&mut self, now: Instant, stamp: u64) -> Option<u64> {
        if !self.marks.iter().any(|mark| mark.stamp == stamp) {
            return None;
        }
        let (took, before) = (now.as_micros().saturating_sub(stamp).max(1), self.arrived);
        while let Some(mark) = self.marks.front().filter(|mark| mark.stamp <= stamp) {
            self.arrived = mark.sent;
            self.marks.pop_front();
        }
        self.echoed_at = now;
        let (more, most) = (self.arrived - before, self.under_way_max());
        let step = if self.rising { more } else { more / if self.opened < most / 2 { 2 } else { 4 } };
        self.opened = (self.opened + step).min(most);
        match &mut self.shortest {
            Some(shortest) => shortest.us = shortest.us.min(took),
            None => {
                let before = core::mem::replace(&mut self.shortest_before_us, took);
                self.rising |= took > before + wait_us(before);
                self.shortest = Some(Shortest { us: took, since: now });
            }
        }
        self.round.quickest_us = self.round.quickest_us.min(took);
        let limit = self.shortest_us().map_or(u64::MAX, |us| us + wait_us(us) * 5 / 2);
        self.slow_marks = if self.rising && took > limit { self.slow_marks + 1 } else { 0 };
        if self.slow_marks == 2 && self.arrived > self.round.arrived {
            self.round.quickest_us = took;
            self.round.ends_at = self.arrived;
        }
        let over = self.arrived > self.round.arrived && self.arrived >= self.round.ends_at;
        if over {
            self.round_over(now);
        }
        if self.drains && self.under_way() == 0 {
            (self.drains, self.shortest, self.opened) = (false, None, self.piece_bytes());
        }
        over.then(|| self.under_way_max.min(BEGINS_WITH_MAX))
    }

    fn under_way(&self) -> u64 {
        self.sent - self.arrived
    }

    fn round_over(&mut self, now: Instant) {
        let round = core::mem::replace(&mut self.round, Round::start(now, self.arrived, self.sent));
        let Some(shortest) = self.shortest else { return };
        let wait = wait_us(shortest.us);
        let carried = self.arrived - round.arrived;
        let took = micros(now.since(round.since)).max(1);
        let piece = self.piece_bytes();
        let own = (took.saturating_mul(piece) / carried).min(wait * 3 / 2);
        let queue = round.quickest_us.saturating_sub(shortest.us).saturating_sub(own);
        let fits = BULK_PIECE_BYTES_MIN + carried.saturating_mul(shortest.us.saturating_add(wait / 2)) / took;
        let empty = queue <= wait / 4;
        let queue_before = core::mem::replace(&mut self.queue_before_us, queue);
        let rising = self.rising;
        self.rising &= empty;
        let max = self.under_way_max;
        self.under_way_max = if rising && empty {
            max.max(self.opened * 2)
        } else if empty {
            max.max(fits.min(max * 2))
        } else if queue > wait && (queue_before > wait || rising) {
            max.min(fits)
        } else {
            max
        };
        self.under_way_max = self.under_way_max.clamp(BULK_PIECE_BYTES_MIN, BULK_WINDOW_BYTES);
        self.drains |= shortest.since + RENEWED_AFTER <= now;
    }
}

/// How long bulk may wait on its way, beyond the shortest round trip
fn wait_us(shortest_us: u64) -> u64 {
    (shortest_us / 4).clamp(micros(WAIT_MIN), micros(WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;

    /// A link with a delay and a bandwidth, and a sender that always has more
    struct Link {
        pace: Pace,
        now: u64,
        free_at: u64,
        echoes: VecDeque<(u64, u64)>,
        worst_us: u64,
    }

    impl Link {
        fn new(pins: Pins) -> Self {
            Link { pace: Pace::new(pins), now: 1_000_000, free_at: 0, echoes: VecDeque::new(), worst_us: 0 }
        }

        /// Runs for a while, and returns the bytes that have arrived meanwhile
        fn run(&mut self, seconds: u64, round_trip_us: u64, bytes_per_s: u64, jitter_us: u64) -> u64 {
            let (end, before) = (self.now + seconds * 1_000_000, self.pace.arrived);
            self.worst_us = 0;
            let mut draws = 7u64;
            while self.now < end {
                let now = Instant::from_micros(self.now);
                while let Some(bytes) = self.pace.next_piece() {
                    draws = draws.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let late = round_trip_us + (draws >> 33) % (jitter_us + 1);
                    if self.pace.is_unmeasured(now) {
                        self.pace.beat_sent(now);
                        self.echoes.push_back((self.now.max(self.free_at) + late, self.now));
                    }
                    self.free_at = self.now.max(self.free_at) + (bytes + 100) * 1_000_000 / bytes_per_s;
                    self.worst_us = self.worst_us.max(self.free_at - self.now);
                    self.pace.bulk_sent(now, bytes);
                    self.mark(now, late);
                }
                let at = self.echoes.front().map_or(end, |echo| echo.0.max(self.now));
                self.now = at.min(end);
                if at <= end
                    && let Some((_, stamp)) = self.echoes.pop_front()
                {
                    let now = Instant::from_micros(self.now);
                    self.pace.echoed(now, stamp);
                    self.mark(now, round_trip_us);
                }
            }
            self.pace.arrived - before
        }

        fn mark(&mut self, now: Instant, late: u64) {
            if self.pace.wants_mark() {
                self.pace.beat_sent(now);
                let at = self.echoes.back().map_or(0, |echo| echo.0).max(self.now.max(self.free_at) + late);
                self.echoes.push_back((at, self.now));
            }
        }
    }

    const RATES: [u64; 6] = [8_000, 64_000, 512_000, 4_000_000, 20_000_000, 1_000_000_000];

    #[test]
    fn frame_4_whatever_the_link_it_is_made_use_of_and_nobody_waits_long_behind_bulk() {
        for round_trip_ms in [1, 20, 200] {
            for rate in RATES {
                let mut link = Link::new(Pins::default());
                let trip_us = round_trip_ms * 1000;
                link.run(5, trip_us, rate, 0);
                let arrived = link.run(60, trip_us, rate, 0) / 60;
                // The credit of a connection is for a mebibyte in each round trip, and the smallest piece is one of a kibibyte.
                let most = rate.min(BULK_WINDOW_BYTES * 1_000_000 / trip_us);
                let share = if rate < 64_000 { 2 } else { 4 };
                assert!(arrived * 5 > most * share, "{arrived} of {most} B/s at {rate} B/s and {round_trip_ms} ms");
                let piece_us = 2 * 1124 * 1_000_000 / rate;
                let most_us = wait_us(trip_us) * 2 + piece_us;
                let worst = link.worst_us;
                assert!(worst <= most_us, "{worst} us at {rate} B/s and {round_trip_ms} ms");
            }
        }
    }

    #[test]
    fn live_6_bulk_stays_within_its_bounds_and_follows_a_link_that_changes() {
        let mut link = Link::new(Pins::default());
        for (rate, round_trip_us) in [(10_000_000, 1000), (10_000, 1000), (10_000_000, 300_000), (1_000_000, 20_000)] {
            link.run(30, round_trip_us, rate, 0);
            assert!((BULK_PIECE_BYTES_MIN..=BULK_WINDOW_BYTES).contains(&link.pace.under_way_max()));
            assert!((1024..=32_768).contains(&link.pace.piece_bytes()));
            let arrived = link.run(30, round_trip_us, rate, 0) / 30;
            let most = rate.min(BULK_WINDOW_BYTES * 1_000_000 / round_trip_us);
            assert!(arrived * 5 > most * 3, "{arrived} of {most} B/s at {rate} B/s and {round_trip_us} us");
        }
    }

    #[test]
    fn frame_4_a_link_with_jitter_is_not_taken_for_a_narrow_one() {
        let mut link = Link::new(Pins::default());
        link.run(5, 20_000, 10_000_000, 30_000);
        let arrived = link.run(30, 20_000, 10_000_000, 30_000) / 30;
        assert!(arrived > 1_000_000, "{arrived} B/s");
    }

    #[test]
    fn live_6_pinned_values_stay_what_they_are() {
        let mut link = Link::new(Pins { bulk_piece: Some(2000), bulk_under_way: Some(5000), ..Pins::default() });
        link.run(5, 20_000, 10_000_000, 0);
        assert_eq!((link.pace.piece_bytes(), link.pace.under_way_max()), (2000, 5000));
        assert!((170_000..=300_000).contains(&(link.run(10, 20_000, 10_000_000, 0) / 10)));
    }

    #[test]
    fn frame_4_an_echo_of_a_beat_that_nobody_sent_changes_nothing() {
        let mut pace = Pace::new(Pins::default());
        let at = Instant::from_micros;
        pace.bulk_sent(at(5), 4096);
        pace.beat_sent(at(5));
        assert_eq!(pace.next_piece(), None);
        pace.echoed(at(6), 4);
        pace.echoed(at(6), 6);
        assert_eq!((pace.next_piece(), pace.shortest_us()), (None, None));
        pace.echoed(at(7), 5);
        assert_eq!((pace.next_piece(), pace.shortest_us()), (Some(1024), Some(2)));
    }
}
