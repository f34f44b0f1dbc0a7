//! Whether pauses between dials follow the law of reconnection (BACK-1)
//!
//! It is written from the law's text and not from the code that implements it, and sees what can be seen from outside:
//! when a dial or a connection was lost, who ended it, and when the next dial is due. Single pauses show little, since they are drawn; what all
//! workers drew at the same step is compared with what the law would have drawn.

use std::time::Duration;

/// Longest pause
const CAP_S: f64 = 30.0;
/// Where pauses begin
const BASE_S: f64 = 0.1;
/// How long a worker fails until the cap is another one, and how long a session lasts that ends a row of failures
const LATE_AFTER: Duration = Duration::from_secs(600);
const STABLE_AFTER: Duration = Duration::from_secs(30);
/// Steps that are looked at: behind these all pauses are at the cap
const STEPS_MAX: usize = 12;
/// Pauses that are kept of each step
const SAMPLES_MAX: usize = 20_000;
/// Draws that stand for the law
const DRAWS: usize = 20_000;

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
}

impl Row {
    /// It was welcomed at that time
    pub(super) fn welcomed(&mut self, at: Duration) {
        self.welcomed = Some(at);
    }

    /// It has lost a connection at that time, or a dial failed; returns the step of the pause that follows, where the law is to be seen in it
    pub(super) fn lost(&mut self, at: Duration) -> Option<usize> {
        if self.welcomed.take().is_some_and(|welcomed| at.saturating_sub(welcomed) >= STABLE_AFTER) {
            (self.step, self.since) = (0, None);
        }
        let failing_for = at.saturating_sub(*self.since.get_or_insert(at));
        let step = self.step;
        self.step += 1;
        (failing_for < LATE_AFTER).then_some(step)
    }
}

/// The pauses that workers made, by step
#[derive(Clone, Debug, Default)]
pub struct Pauses {
    /// Behind the first loss, where the peer had ended the connection, in seconds
    first: Vec<f32>,
    /// Behind those that followed
    later: [Vec<f32>; STEPS_MAX],
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
    /// Half of them were shorter than this
    pub median: Duration,
    /// Half of those that the law draws are
    pub expected: Duration,
    /// Largest distance between the two distributions (Kolmogorov–Smirnov), 0 to 1
    pub distance: f64,
}

impl Fit {
    /// The distance beyond which chance is no explanation: once in a million times it is as large
    pub fn bound(&self) -> f64 {
        let (n, m) = (self.pauses as f64, DRAWS as f64);
        2.7 * ((n + m) / (n * m)).sqrt()
    }

    /// Whether the pauses can be what the law draws
    pub fn holds(&self) -> bool {
        self.distance <= self.bound()
    }
}

impl Pauses {
    /// A worker makes this pause at this step of its row
    pub(super) fn made(&mut self, step: usize, kind: Kind, pause: Duration) {
        let seconds = pause.as_secs_f32();
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
        let samples = match (step, kind) {
            (_, Kind::Busy(_)) | (0, Kind::Local) => return,
            (0, Kind::Peer) => &mut self.first,
            (step, Kind::Peer | Kind::Local) if step <= STEPS_MAX => &mut self.later[step - 1],
            (_, Kind::Peer | Kind::Local) => return,
        };
        if samples.len() < SAMPLES_MAX {
            samples.push(seconds);
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

    /// Compares the pauses of each step of which there are at least so many with the law
    ///
    /// `spread` is what the coordinator spreads first dials over (BACK-1).
    pub fn fits(&self, spread: Duration, pauses_min: usize) -> Vec<Fit> {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let first: Vec<f32> = (0..DRAWS).map(|_| (random.unit() * spread.as_secs_f64()) as f32).collect();
        let steps = std::iter::once((&self.first, first)).chain(self.later.iter().zip(drawn(&mut random)));
        let enough = steps.enumerate().filter(|(_, (samples, _))| samples.len() >= pauses_min.max(1));
        enough.map(|(step, (samples, law))| fit(step, samples.clone(), law)).collect()
    }
}

/// What the law draws at the first steps behind the first
fn drawn(random: &mut Random) -> [Vec<f32>; STEPS_MAX] {
    let mut steps: [Vec<f32>; STEPS_MAX] = Default::default();
    for _ in 0..DRAWS {
        let mut previous = BASE_S;
        for step in &mut steps {
            previous = (BASE_S + random.unit() * (3.0 * previous - BASE_S)).min(CAP_S);
            step.push((previous * (0.5 + random.unit() / 2.0)) as f32);
        }
    }
    steps
}

fn fit(step: usize, mut samples: Vec<f32>, mut law: Vec<f32>) -> Fit {
    samples.sort_by(f32::total_cmp);
    law.sort_by(f32::total_cmp);
    // Microseconds are nothing to either.
    let share = |sorted: &[f32], at: f32| sorted.partition_point(|x| *x <= at + 1e-5) as f64 / sorted.len() as f64;
    let points = samples.iter().chain(&law);
    let distance = points.map(|at| (share(&samples, *at) - share(&law, *at)).abs()).fold(0.0, f64::max);
    let middle = |sorted: &[f32]| Duration::from_secs_f32(sorted[sorted.len() / 2]);
    Fit { step, pauses: samples.len(), median: middle(&samples), expected: middle(&law), distance }
}

/// Splitmix: what is compared with must be the same each time
struct Random(u64);

impl Random {
    /// From 0 to 1
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) as f64 / u64::MAX as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rejoin_core::backoff::{BackoffConfig, Loss};

    /// Pauses as a worker's own machine makes them, where each dial is refused
    fn made(config: &BackoffConfig, workers: u8) -> Pauses {
        use rejoin_core::ids::{BootId, KeyId, Role};
        use rejoin_core::link::LinkConfig;
        use rejoin_core::wire::keys::{Key, Secret};
        use rejoin_core::worker::{Config, Input, Output, Worker};
        use rejoin_core::{Instant, Seed};
        let mut pauses = Pauses::default();
        let mut frame = vec![0; rejoin_core::limits::FRAME_BYTES_MAX];
        for worker in 0..workers {
            let name = "w".parse().expect("a legal name");
            let key = Key { id: KeyId([1; 8]), secret: Secret::new([2; 32]), name, role: Role::Worker };
            let mut link = LinkConfig::new(key, BootId([3; 16]), "ws://nowhere");
            link.backoff = config.clone();
            let config = Config { reserve: false, ..Config::new(link) };
            let mut machine = Worker::new(config, Seed([worker; 32]), Instant::ZERO).expect("legal settings");
            let (mut now, mut row, mut lost) = (Instant::ZERO, Row::default(), None);
            while row.step < 9 {
                match machine.poll(&mut frame) {
                    Output::Connect { attempt, .. } => {
                        if let Some((step, at)) = lost.take() {
                            pauses.made(step, Kind::Peer, now.since(at));
                        }
                        let refused = Input::Disconnected { attempt, loss: Loss::Peer };
                        machine.handle(now, refused).expect("a refused dial is no news");
                        lost = row.lost(now.since(Instant::ZERO)).map(|step| (step, now));
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
    fn back_1_the_machines_pauses_are_those_of_the_law() {
        let pauses = made(&BackoffConfig::default(), 200);
        assert_eq!(pauses.breaches, 0, "{:?}", pauses.breach);
        let fits = pauses.fits(Duration::ZERO, 100);
        assert_eq!(fits.len(), 8);
        for fit in fits {
            assert!(fit.holds(), "{fit:?}, at most {}", fit.bound());
        }
    }

    #[test]
    fn back_1_pauses_of_another_law_are_seen() {
        let hasty = BackoffConfig { cap: Duration::from_millis(500), ..BackoffConfig::default() };
        let slow = BackoffConfig { base: Duration::from_millis(200), ..BackoffConfig::default() };
        for other in [hasty, slow] {
            let fits = made(&other, 200).fits(Duration::ZERO, 100);
            assert!(fits.iter().any(|fit| !fit.holds()), "{fits:?}");
        }
        // No jitter: everybody comes at once, though in the middle of what the law allows.
        let mut together = Pauses::default();
        (0..200).for_each(|_| together.made(1, Kind::Peer, Duration::from_millis(150)));
        assert!(!together.fits(Duration::ZERO, 100)[0].holds());
        // First dials that are not spread.
        (0..200).for_each(|_| together.made(0, Kind::Peer, Duration::ZERO));
        assert!(!together.fits(Duration::from_secs(4), 100)[0].holds());
        assert!(together.fits(Duration::ZERO, 100)[0].holds());
    }

    #[test]
    fn back_2_a_pause_below_the_time_that_was_named_is_a_breach() {
        let mut pauses = Pauses::default();
        let busy = Kind::Busy(Some(Duration::from_secs(2)));
        pauses.made(3, busy, Duration::from_secs(2));
        assert_eq!(pauses.breaches, 0);
        pauses.made(3, busy, Duration::from_millis(1_900));
        pauses.made(2, Kind::Peer, Duration::from_millis(49));
        pauses.made(2, Kind::Peer, Duration::from_millis(30_100));
        pauses.made(0, Kind::Local, Duration::from_millis(1));
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
