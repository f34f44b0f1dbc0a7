//! What `rejoin crowd` says while it runs, and at the end

use std::fmt::Write;
use std::fs;
use std::time::Duration;

use rejoin_smol::crowd::{Crowd, Second, Tally};
use serde_json::{Value, json};

/// Fewest pauses of a step that are compared with the law
const PAUSES_MIN: usize = 100;

/// Bytes of memory that this process has, where the system tells
pub(super) fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?;
    Some(kib.parse::<u64>().ok()? * 1024)
}

/// Descriptors that are open, where the system tells
fn open_files() -> Option<usize> {
    fs::read_dir("/proc/self/fd").ok().map(Iterator::count)
}

/// The first words
pub(super) struct Begin {
    pub(super) workers: usize,
    pub(super) rate: u32,
}

impl Begin {
    pub(super) fn text(&self, json: bool) -> String {
        let Begin { workers, rate } = self;
        if json {
            return line(&json!({ "type": "crowd", "workers": workers, "rate": rate }));
        }
        format!("{workers} workers begin, {rate} in a second\n")
    }
}

/// What was seen so far
pub(super) struct Figures {
    workers: usize,
    /// Memory before there were workers
    before: Option<u64>,
    /// Memory for each, when all were connected for the first time
    resident_bytes_each: Option<u64>,
    open_files_max: Option<usize>,
    /// When all were connected for the first time
    all_after: Option<Duration>,
    /// The next second to be told
    second: usize,
    connected: usize,
}

impl Figures {
    pub(super) fn new(workers: usize, before: Option<u64>) -> Self {
        Figures {
            workers,
            before,
            resident_bytes_each: None,
            open_files_max: None,
            all_after: None,
            second: 0,
            connected: 0,
        }
    }

    /// In what time the second that runs is over
    pub(super) fn next_look(&self, age: Duration) -> Duration {
        Duration::from_secs(self.second as u64 + 1).saturating_sub(age).max(Duration::from_millis(1))
    }

    /// What there is to tell of the seconds that are over; in JSON each of them, else those in which anything changed
    pub(super) fn look(&mut self, crowd: &Crowd, json: bool) -> String {
        let (tally, age) = (crowd.tally(), crowd.age());
        if self.all_after.is_none() && tally.connected == self.workers {
            self.all_after = Some(age);
            let resident = resident_bytes().zip(self.before);
            self.resident_bytes_each = resident.map(|(now, before)| now.saturating_sub(before) / self.workers as u64);
        }
        if self.all_after == Some(age) || self.second % 10 == 9 {
            self.open_files_max = self.open_files_max.max(open_files());
        }
        let mut text = String::new();
        while self.second < usize::try_from(age.as_secs()).unwrap_or(usize::MAX) {
            let second = tally.seconds.get(self.second).copied().unwrap_or_default();
            self.second += 1;
            let changed = self.connected != tally.connected || second.dials > 0;
            self.connected = tally.connected;
            if json || changed {
                text += &said(self.second, &tally, second, json);
            }
        }
        text
    }
}

fn said(number: usize, tally: &Tally, second: Second, json: bool) -> String {
    let Second { dials, welcomed, turned_away, failed, lost, started, finished } = second;
    let (connected, workers) = (tally.connected, tally.workers);
    if json {
        return line(&json!({
            "type": "second", "second": number, "connected": connected, "dials": dials, "welcomed": welcomed,
            "turned_away": turned_away, "failed": failed, "lost": lost, "started": started, "finished": finished,
        }));
    }
    let mut text = format!("{number} s: {connected} of {workers} connected, {dials} dials");
    for (count, what) in
        [(lost, "lost"), (turned_away, "told to come later"), (failed, "failed"), (finished, "tasks done")]
    {
        if count > 0 {
            // A string takes anything.
            let _ = write!(text, ", {count} {what}");
        }
    }
    text + "\n"
}

/// What is said at the end
pub(super) struct Report {
    tally: Tally,
    connected: usize,
    all_after: Option<Duration>,
    resident_bytes_each: Option<u64>,
    open_files_max: Option<usize>,
}

impl Report {
    pub(super) fn new(figures: &Figures, connected: usize, tally: Tally) -> Self {
        let (all_after, resident_bytes_each) = (figures.all_after, figures.resident_bytes_each);
        Report { tally, connected, all_after, resident_bytes_each, open_files_max: figures.open_files_max }
    }

    /// Whether each worker was connected at some time, and none refused for good
    pub(super) fn all_came(&self) -> bool {
        self.tally.seen == self.tally.workers && self.tally.refused == 0
    }

    pub(super) fn text(&self, json: bool) -> String {
        if json { line(&self.json()) } else { self.plain() }
    }

    fn json(&self) -> Value {
        let (tally, total) = (&self.tally, self.tally.total());
        let within = |percent| tally.returned_within(percent).map(millis);
        let law: Vec<Value> = tally
            .pauses
            .fits(PAUSES_MIN)
            .iter()
            .map(|fit| {
                json!({
                    "step": fit.step, "pauses": fit.pauses, "middle": fit.middle, "distance": fit.distance,
                    "bound": fit.bound(),
                })
            })
            .collect();
        json!({
            "type": "summary", "workers": tally.workers, "seen": tally.seen, "refused": tally.refused,
            "connected": self.connected, "all_connected_after_ms": self.all_after.map(millis),
            "dials": total.dials, "welcomed": total.welcomed, "turned_away": total.turned_away, "failed": total.failed,
            "lost": total.lost, "resumed": tally.resumed, "opened": tally.opened,
            "started": total.started, "finished": total.finished,
            "returns": tally.returns_ms.len() as u64 + tally.returns_beyond,
            "return_p50_ms": within(50), "return_p99_ms": within(99), "return_max_ms": within(100),
            "pauses_against_the_law": tally.pauses.breaches, "first_of_these": tally.pauses.breach, "law": law,
            "first_pauses": tally.pauses.first_count(),
            "first_pause_deciles_ms": tally.pauses.first_deciles().map(|deciles| deciles.map(millis)),
            "resident_bytes_each": self.resident_bytes_each, "open_files_max": self.open_files_max,
            "troubles": tally.troubles,
        })
    }

    fn plain(&self) -> String {
        let (tally, total) = (&self.tally, self.tally.total());
        let mut rows = vec![
            ("workers", format!("{}, {} of them connected at the end", tally.workers, self.connected)),
            (
                "dials",
                format!(
                    "{}: {} welcomed, {} told to come later, {} failed",
                    total.dials, total.welcomed, total.turned_away, total.failed
                ),
            ),
            ("sessions", format!("{} opened, {} gone on with", tally.opened, tally.resumed)),
        ];
        if let Some(after) = self.all_after {
            rows.push(("all connected", format!("after {:.1} s", after.as_secs_f64())));
        }
        if tally.refused > 0 {
            rows.push(("refused for good", tally.refused.to_string()));
        }
        if tally.seen < tally.workers {
            rows.push(("never connected", (tally.workers - tally.seen).to_string()));
        }
        if let [Some(p50), Some(p99), Some(max)] = [50, 99, 100].map(|percent| tally.returned_within(percent)) {
            let (p50, p99, max) = (p50.as_secs_f64(), p99.as_secs_f64(), max.as_secs_f64());
            rows.push((
                "losses",
                format!("{}; back after {p50:.2} s (median), {p99:.2} s (99 %), {max:.2} s (all)", total.lost),
            ));
        }
        if let Some(fits) = self.law() {
            rows.push(("pauses", fits));
        }
        if total.started > 0 {
            rows.push(("tasks", format!("{} begun, {} over", total.started, total.finished)));
        }
        if let Some(bytes) = self.resident_bytes_each {
            rows.push(("memory", format!("{:.1} KiB for each worker, when all were connected", bytes as f64 / 1024.0)));
        }
        if let Some(files) = self.open_files_max {
            rows.push(("descriptors", format!("{files} at most")));
        }
        rows.extend(tally.troubles.iter().map(|(what, count)| ("trouble", format!("{count} times: {what}"))));
        rows.into_iter().map(|(name, what)| format!("{name:<16} {what}\n")).collect()
    }

    /// How the pauses between dials compare with the law of reconnection
    fn law(&self) -> Option<String> {
        let pauses = &self.tally.pauses;
        if let Some(breach) = &pauses.breach {
            return Some(format!("{} were outside of the law; the first: {breach}", pauses.breaches));
        }
        let fits = pauses.fits(PAUSES_MIN);
        match (fits.is_empty(), fits.iter().find(|fit| !fit.holds())) {
            (true, _) => None,
            (false, None) => Some("as the law of reconnection draws them".into()),
            (false, Some(fit)) => Some(format!(
                "not as the law of reconnection draws them: half of those at step {} are among its shortest {:.0} %",
                fit.step,
                fit.middle * 100.0
            )),
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn line(value: &Value) -> String {
    format!("{value}\n")
}
