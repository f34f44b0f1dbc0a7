//! Whether pauses between dials follow the law of reconnection (BACK-1)
//!
//! It is written from the law's text and not from the code that implements it, and sees what can be seen from outside:
//! when a dial or a connection was lost, who ended it, and when the next dial is due.
//!
//! A pause shows little by itself, since it is drawn; and those of many workers at one step cannot be compared with what
//! the law would draw there, since whoever is still without a connection at the tenth dial had short pauses before. So
//! each pause is turned into its place, from 0 to 1, among all that the law could have drawn *behind what this worker did
//! before*. By the law such places are spread evenly, whatever became of the workers meanwhile.

use std::time::Duration;

/// Longest pause
const CAP_S: f64 = 30.0;
/// Where pauses begin
const BASE_S: f64 = 0.1;
/// How long a worker fails until the cap is another one
const LATE_AFTER: Duration = Duration::from_secs(600);
/// How long a session lasts that ends a row of failures
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// Steps that are looked at: behind these all pauses are at the cap
const STEPS_MAX: usize = 12;
/// Rows of failures that are looked at
const ROWS_MAX: usize = 4_000;
/// First pauses that are kept
const FIRST_MAX: usize = 50_000;
/// Values that stand for what is not known of a worker: what its last pause was drawn from
const POINTS: usize = 32;

/// Who ended a connection, or a dial
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The other end, or the way to it
    Peer,
    /// This end: silence, a timeout, damage
    Local,
    /// The other end is busy and has named a time, which is a floor for the pause
    Busy(Option<Duration>),
}

/// Where one worker is in its row of failures
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Row {
    step: usize,
    since: Option<Duration>,
    welcomed: Option<Duration>,
    /// Where its pauses are kept, if they are
    place: Option<usize>,
}

impl Row {
    /// The worker was welcomed at that time
    pub(super) fn welcomed(&mut self, at: Duration) {
        self.welcomed = Some(at);
    }

    /// It has lost a connection at that time, or a dial failed; returns the step of the pause that follows, where the
    /// law is to be seen in it
    pub(super) fn lost(&mut self, at: Duration) -> Option<usize> {
        if self.welcomed.take().is_some_and(|welcomed| at.saturating_sub(welcomed) >= STABLE_AFTER) {
            *self = Row::default();
        }
        let failing_for = at.saturating_sub(*self.since.get_or_insert(at));
        let step = self.step;
        self.step += 1;
        (failing_for < LATE_AFTER).then_some(step)
    }
}

/// A pause behind the first, in seconds
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pause {
    /// As it was drawn, which can be seen only because it is above a time that somebody has named, or above 0
    Drawn(f32, f32),
    /// No longer than this was drawn: somebody has named a time
    AtMost(f32),
}

/// The pauses that workers made
#[derive(Clone, Debug, Default)]
pub struct Pauses {
    /// Behind the first loss, where the peer had ended the connection, in seconds
    first: Vec<f32>,
    /// Those that followed, in the order in which a worker made them
    rows: Vec<Vec<Pause>>,
    /// Pauses shorter than the time that was named, or than the law ever makes them, or longer
    pub breaches: u64,
    /// What the first of these was
    pub breach: Option<String>,
}

/// How well the pauses of one step fit the law
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// Which step; 0 is behind the first loss
    pub step: usize,
    /// How many pauses there were
    pub pauses: usize,
    /// The middle one of their places; by the law it is about 0.5
    pub middle: f64,
    /// How far the places are from being spread evenly (Kolmogorov–Smirnov), 0 to 1
    pub distance: f64,
}

impl Fit {
    fn of(step: usize, mut places: Vec<f64>) -> Fit {
        places.sort_by(f64::total_cmp);
        let count = places.len() as f64;
        let far =
            |(n, place): (usize, &f64)| (place - n as f64 / count).abs().max((place - (n + 1) as f64 / count).abs());
        let distance = places.iter().enumerate().map(far).fold(0.0, f64::max);
        Fit { step, pauses: places.len(), middle: places.get(places.len() / 2).copied().unwrap_or(0.5), distance }
    }

    /// The distance beyond which chance is no explanation: once in a million times it is as large
    pub fn bound(&self) -> f64 {
        2.7 / (self.pauses as f64).sqrt()
    }

    /// Whether the pauses can be what the law draws
    pub fn holds(&self) -> bool {
        self.distance <= self.bound()
    }
}

impl Pauses {
    /// A worker makes this pause at this step of its row
    pub(super) fn made(&mut self, row: &mut Row, step: usize, kind: Kind, pause: Duration) {
        let (least, most) = match (step, kind) {
            (0, Kind::Local) => (0.0, 0.0),
            (0, Kind::Peer) => (0.0, CAP_S),
            (_, Kind::Peer | Kind::Local) => (BASE_S / 2.0, CAP_S),
            (_, Kind::Busy(floor)) => (floor.unwrap_or_default().as_secs_f64(), f64::MAX),
        };
        // Times are counted in microseconds.
        if !(least - 2e-6..=most + 2e-6).contains(&pause.as_secs_f64()) {
            self.breaches += 1;
            self.breach.get_or_insert_with(|| format!("step {step}, {kind:?}: a pause of {pause:?}"));
        }
        let seconds = pause.as_secs_f32();
        match (step, kind) {
            (0, Kind::Peer) if self.first.len() < FIRST_MAX => self.first.push(seconds),
            (0, Kind::Peer | Kind::Local | Kind::Busy(_)) => {}
            (_, Kind::Peer | Kind::Local) => self.keep(row, step, Pause::Drawn(seconds, 0.0)),
            (_, Kind::Busy(Some(floor))) if pause > floor + Duration::from_micros(2) => {
                self.keep(row, step, Pause::Drawn(seconds, floor.as_secs_f32()));
            }
            (_, Kind::Busy(_)) => self.keep(row, step, Pause::AtMost(seconds)),
        }
    }

    fn keep(&mut self, row: &mut Row, step: usize, pause: Pause) {
        if step == 1 && self.rows.len() < ROWS_MAX {
            row.place = Some(self.rows.len());
            self.rows.push(Vec::new());
        }
        // One behind a pause that was not seen says nothing.
        let whole = |row: &&mut Vec<Pause>| row.len() + 1 == step && step <= STEPS_MAX;
        if let Some(row) = row.place.and_then(|place| self.rows.get_mut(place)).filter(whole) {
            row.push(pause);
        }
    }

    /// How many pauses behind a first loss there were, where the peer had ended the connection
    pub fn first_count(&self) -> usize {
        self.first.len()
    }

    /// How long the shortest of these, each next tenth of them, and the longest were; none if there were none
    pub fn first_deciles(&self) -> Option<[Duration; 11]> {
        let mut sorted = self.first.clone();
        sorted.sort_by(f32::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        Some(std::array::from_fn(|tenth| Duration::from_secs_f32(sorted[last * tenth / 10])))
    }

    /// Compares the pauses behind a first loss with the law, where the coordinator spreads them over such a time
    pub fn first_fit(&self, spread: Duration) -> Option<Fit> {
        let spread = spread.as_secs_f64();
        let places = match spread > 0.0 {
            true => self.first.iter().map(|pause| f64::from(*pause) / spread).collect(),
            // Each is to be none at all: any that is not has no place.
            false => {
                let count = self.first.len();
                let place = |n: usize, pause: f32| if pause > 2e-6 { 1.0 } else { (n as f64 + 0.5) / count as f64 };
                self.first.iter().enumerate().map(|(n, pause)| place(n, *pause)).collect()
            }
        };
        (!self.first.is_empty()).then(|| Fit::of(0, places))
    }

    /// Compares the pauses of each later step, of which there are at least so many, with the law
    pub fn fits(&self, pauses_min: usize) -> Vec<Fit> {
        let mut places: [Vec<f64>; STEPS_MAX] = Default::default();
        for row in &self.rows {
            let mut before = Belief::begin();
            for (pause, places) in row.iter().zip(&mut places) {
                if let Pause::Drawn(seconds, above) = pause {
                    let [place, hidden] = [*seconds, *above].map(|pause| before.place(f64::from(pause)));
                    places.push(if hidden < 1.0 { (place - hidden) / (1.0 - hidden) } else { 1.0 });
                }
                before = before.behind(*pause);
            }
        }
        let steps = places.into_iter().zip(1..).filter(|(places, _)| places.len() >= pauses_min.max(1));
        steps.map(|(places, step)| Fit::of(step, places)).collect()
    }
}

/// What is known of `previous` in the law, behind the pauses that were seen: values and how likely each is
struct Belief(Vec<(f64, f64)>);

impl Belief {
    fn begin() -> Belief {
        Belief(vec![(BASE_S, 1.0)])
    }

    /// How likely it is that the next pause is at most so long
    fn place(&self, pause: f64) -> f64 {
        let behind = |(previous, likely): &(f64, f64)| {
            let end = 3.0 * previous;
            let capped = (end - CAP_S).max(0.0) / (end - BASE_S);
            let (from, to) = (BASE_S, end.min(CAP_S));
            // A pause drawn from `drawn` is at most `pause` for sure below, and with 2 · pause / drawn - 1 up to twice as much.
            let sure = (pause.min(to) - from).max(0.0);
            let (low, high) = (pause.max(from), (2.0 * pause).min(to));
            let partly = if low < high { 2.0 * pause * (high / low).ln() - (high - low) } else { 0.0 };
            likely * ((sure + partly) / (end - BASE_S) + capped * at_most(pause, CAP_S))
        };
        self.0.iter().map(behind).sum::<f64>().clamp(0.0, 1.0)
    }

    /// What is known behind another pause
    fn behind(&self, pause: Pause) -> Belief {
        let furthest = self.0.iter().map(|(previous, _)| 3.0 * previous).fold(0.0, f64::max);
        let (low, high) = match pause {
            Pause::Drawn(pause, _) => (f64::from(pause).max(BASE_S), (2.0 * f64::from(pause)).min(furthest).min(CAP_S)),
            Pause::AtMost(pause) => (BASE_S, (2.0 * f64::from(pause)).min(furthest).min(CAP_S)),
        };
        // How well a value explains the pause.
        let explains = |drawn: f64| match pause {
            Pause::Drawn(..) => 2.0 / drawn,
            Pause::AtMost(pause) => at_most(f64::from(pause), drawn),
        };
        let step = (high - low).max(1e-9) / POINTS as f64;
        let density = |drawn: f64| -> f64 {
            let reaches = self.0.iter().filter(|(previous, _)| 3.0 * previous >= drawn);
            reaches.map(|(previous, likely)| likely / (3.0 * previous - BASE_S)).sum()
        };
        let values = (0..POINTS).map(|n| low + (n as f64 + 0.5) * step);
        let mut points: Vec<(f64, f64)> =
            values.map(|drawn| (drawn, density(drawn) * explains(drawn) * step)).collect();
        let beyond =
            |(previous, likely): &(f64, f64)| likely * (3.0 * previous - CAP_S).max(0.0) / (3.0 * previous - BASE_S);
        let possible = match pause {
            Pause::Drawn(pause, _) => f64::from(pause) >= CAP_S / 2.0,
            Pause::AtMost(_) => true,
        };
        if possible {
            points.push((CAP_S, self.0.iter().map(beyond).sum::<f64>() * explains(CAP_S)));
        }
        let all: f64 = points.iter().map(|(_, likely)| likely).sum();
        if all <= 0.0 {
            // No value explains it: the law was not followed, as its place has shown.
            return Belief(vec![(high.max(BASE_S), 1.0)]);
        }
        points.iter_mut().for_each(|(_, likely)| *likely /= all);
        points.retain(|(_, likely)| *likely > 0.0);
        Belief(points)
    }
}

/// How likely a pause between half of `drawn` and all of it is at most so long
fn at_most(pause: f64, drawn: f64) -> f64 {
    (2.0 * pause / drawn - 1.0).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rejoin_core::backoff::{BackoffConfig, Loss};
    use rejoin_core::ids::{BootId, KeyId, Role};
    use rejoin_core::link::LinkConfig;
    use rejoin_core::wire::keys::{Key, Secret};
    use rejoin_core::worker::{Config, Input, Output, Worker};
    use rejoin_core::{Instant, Seed};

    /// Pauses as workers' own machines make them while nobody listens for so long; some are told to come later
    fn made(backoff: &BackoffConfig, workers: u16, away: Duration, busy: bool) -> Pauses {
        let mut pauses = Pauses::default();
        let mut frame = vec![0; rejoin_core::limits::FRAME_BYTES_MAX];
        for n in 0..workers {
            let name = "w".parse().expect("a legal name");
            let key = Key { id: KeyId([1; 8]), secret: Secret::new([2; 32]), name, role: Role::Worker };
            let link = LinkConfig { backoff: backoff.clone(), ..LinkConfig::new(key, BootId([3; 16]), "ws://nowhere") };
            let config = Config { reserve: false, ..Config::new(link) };
            let mut seed = [7; 32];
            seed[..2].copy_from_slice(&n.to_le_bytes());
            let mut machine = Worker::new(config, Seed(seed), Instant::ZERO).expect("legal settings");
            let (mut now, mut row, mut lost) = (Instant::ZERO, Row::default(), None);
            while now.since(Instant::ZERO) < away {
                match machine.poll(&mut frame) {
                    Output::Connect { attempt, .. } => {
                        if let Some((step, at, kind)) = lost.take() {
                            pauses.made(&mut row, step, kind, now.since(at));
                        }
                        let retry_after = Duration::from_millis(300);
                        let (loss, kind) = match busy && attempt % 3 == 0 {
                            true => (Loss::Busy { retry_after }, Kind::Busy(Some(retry_after))),
                            false => (Loss::Peer, Kind::Peer),
                        };
                        machine.handle(now, Input::Disconnected { attempt, loss }).expect("a refused dial is no news");
                        lost = row.lost(now.since(Instant::ZERO)).map(|step| (step, now, kind));
                    }
                    Output::Idle { wake_at } => {
                        now = wake_at.expect("it dials again");
                        machine.handle(now, Input::Timeout).expect("time passes");
                    }
                    other @ (Output::Disconnect { .. }
                    | Output::Send { .. }
                    | Output::Run { .. }
                    | Output::Cancel { .. }
                    | Output::Freeze { .. }
                    | Output::Thaw { .. }
                    | Output::WantCheckpoint { .. }
                    | Output::ReadOutput { .. }
                    | Output::ReadCheckpoint { .. }
                    | Output::RestorePiece { .. }
                    | Output::Checkpointed { .. }
                    | Output::Keep { .. }
                    | Output::KeepKey
                    | Output::Forget { .. }) => panic!("a worker that is never connected wants {other:?}"),
                }
            }
        }
        pauses
    }

    #[test]
    fn back_1_the_machines_pauses_are_those_of_the_law_however_long_nobody_listens() {
        for (away, busy) in [(3, false), (200, false), (5, true)] {
            let pauses = made(&BackoffConfig::default(), 600, Duration::from_secs(away), busy);
            assert_eq!(pauses.breaches, 0, "{:?}", pauses.breach);
            let fits = pauses.fits(50);
            assert!(fits.len() >= 8, "{away} s: {fits:?}");
            for fit in fits {
                assert!(fit.holds(), "{away} s, {busy}: {fit:?}, at most {}", fit.bound());
            }
            assert!(pauses.first_fit(Duration::ZERO).is_some_and(|fit| fit.holds()));
        }
    }

    #[test]
    fn back_1_pauses_of_another_law_are_seen() {
        let hasty = BackoffConfig { cap: Duration::from_millis(500), ..BackoffConfig::default() };
        let slow = BackoffConfig { base: Duration::from_millis(200), ..BackoffConfig::default() };
        for other in [hasty, slow] {
            let fits = made(&other, 300, Duration::from_secs(5), false).fits(50);
            assert!(fits.iter().any(|fit| !fit.holds()), "{fits:?}");
        }
        // No jitter: everybody comes at once, though in the middle of what the law allows.
        let mut together = Pauses::default();
        for _ in 0..200 {
            let mut row = Row::default();
            together.made(&mut row, 0, Kind::Peer, Duration::ZERO);
            together.made(&mut row, 1, Kind::Peer, Duration::from_millis(150));
        }
        assert!(!together.fits(100)[0].holds());
        assert!(together.first_fit(Duration::ZERO).is_some_and(|fit| fit.holds()));
        assert!(together.first_fit(Duration::from_secs(4)).is_some_and(|fit| !fit.holds()), "they were not spread");
    }

    #[test]
    fn back_2_a_pause_below_the_time_that_was_named_is_a_breach() {
        let (mut pauses, mut row) = (Pauses::default(), Row::default());
        let busy = Kind::Busy(Some(Duration::from_secs(2)));
        pauses.made(&mut row, 3, busy, Duration::from_secs(2));
        assert_eq!(pauses.breaches, 0);
        pauses.made(&mut row, 3, busy, Duration::from_millis(1_900));
        pauses.made(&mut row, 2, Kind::Peer, Duration::from_millis(49));
        pauses.made(&mut row, 2, Kind::Peer, Duration::from_millis(30_100));
        pauses.made(&mut row, 0, Kind::Local, Duration::from_millis(1));
        assert_eq!(pauses.breaches, 4);
    }

    #[test]
    fn back_1_only_a_stable_session_ends_a_row() {
        let s = Duration::from_secs;
        let mut row = Row::default();
        assert_eq!([row.lost(s(0)), row.lost(s(1))], [Some(0), Some(1)]);
        row.welcomed(s(2));
        assert_eq!(row.lost(s(31)), Some(2), "29 s");
        row.welcomed(s(40));
        assert_eq!(row.lost(s(70)), Some(0));
        assert_eq!(row.lost(s(700)), None, "another cap holds by now");
    }
}
