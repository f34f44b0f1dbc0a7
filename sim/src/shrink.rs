//! From a schedule that fails to a small one that fails alike
//!
//! Lines are left out, first many at a time and then fewer (delta debugging), workers and clients too; then what is left
//! is made shorter and simpler. Whatever fails the same check counts, even if it does so in another way. The best so far
//! is there at any time.

use std::fmt;
use std::time::{Duration, Instant};

use crate::audit::Check;
use crate::schedule::{Entry, Schedule, What};
use crate::simulation::Ending;
use crate::swarm::{Failure, attempt};

/// What a failure is known by
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// This check does not hold
    Check(Check),
    /// A machine panics
    Panic,
    /// It does not do the same again (S29)
    NotDeterministic,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mark::Check(check) => write!(f, "{check}"),
            Mark::Panic => f.write_str("a panic"),
            Mark::NotDeterministic => f.write_str("S29"),
        }
    }
}

impl Mark {
    /// How a schedule fails, if it does; that it does not do the same again is seen only if it is run twice
    pub fn of(schedule: &Schedule, double: bool) -> Option<Mark> {
        Mark::of_attempt(attempt(schedule, double))
    }

    pub(crate) fn of_attempt(ending: Result<Ending, Failure>) -> Option<Mark> {
        match ending {
            Ok(ending) => ending.violation.map(|violation| Mark::Check(violation.check)),
            Err(Failure::Violation(violation)) => Some(Mark::Check(violation.check)),
            Err(Failure::Panic(_)) => Some(Mark::Panic),
            Err(Failure::NotDeterministic { .. }) => Some(Mark::NotDeterministic),
        }
    }
}

/// What shrinking has come to
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The smallest schedule that fails alike
    pub schedule: Schedule,
    /// How it fails
    pub mark: Mark,
    /// Schedules tried
    pub tried: u64,
    /// Whether nothing more could be left out
    pub finished: bool,
}

/// How the remark begins that nothing more can be left out of a schedule
const FINISHED: &str = "# shrunk: ";

impl Shrunk {
    /// What a file of it says: how it fails, whether it can be smaller, and the schedule
    pub fn file(&self) -> String {
        let remark = if self.finished { FINISHED } else { "# smaller than it was: " };
        format!("{remark}{}\n{}", self.mark, self.schedule)
    }
}

/// Whether a file says that nothing more can be left out of its schedule
pub fn is_shrunk(text: &str) -> bool {
    text.lines().any(|line| line.starts_with(FINISHED))
}

/// Shrinks a schedule that fails, for so long; `None` if it does not fail
pub fn shrink(schedule: &Schedule, budget: Duration) -> Option<Shrunk> {
    shrink_with(schedule, budget, &Mark::of)
}

/// The same, where `mark_of` says how a schedule fails, run twice or once
pub(crate) fn shrink_with(
    schedule: &Schedule,
    budget: Duration,
    mark_of: &dyn Fn(&Schedule, bool) -> Option<Mark>,
) -> Option<Shrunk> {
    let mark = mark_of(schedule, false).or_else(|| mark_of(schedule, true))?;
    let best = Shrunk { schedule: schedule.clone(), mark, tried: 1, finished: false };
    let mut shrinker = Shrinker { best, mark_of, until: Instant::now() + budget };
    shrinker.cut_time();
    loop {
        let before = shrinker.best.schedule.clone();
        shrinker.leave_out_lines();
        shrinker.leave_out_settings();
        shrinker.leave_out_people();
        shrinker.simplify();
        if shrinker.is_late() {
            return Some(shrinker.best);
        }
        if before == shrinker.best.schedule {
            shrinker.best.finished = true;
            return Some(shrinker.best);
        }
    }
}

struct Shrinker<'a> {
    best: Shrunk,
    mark_of: &'a dyn Fn(&Schedule, bool) -> Option<Mark>,
    until: Instant,
}

impl Shrinker<'_> {
    fn is_late(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Takes a smaller schedule if it fails alike
    fn try_it(&mut self, candidate: Schedule) -> bool {
        if self.is_late() || candidate == self.best.schedule {
            return false;
        }
        self.best.tried += 1;
        let double = self.best.mark == Mark::NotDeterministic;
        let fails = (self.mark_of)(&candidate, double) == Some(self.best.mark);
        if fails {
            self.best.schedule = candidate;
        }
        fails
    }

    /// The end of faults, earlier
    fn cut_time(&mut self) {
        for share in [8, 4, 2] {
            let mut candidate = self.best.schedule.clone();
            candidate.safety /= share;
            let safety = candidate.safety;
            candidate.entries.retain(|entry| entry.at <= safety);
            if self.try_it(candidate) {
                return;
            }
        }
    }

    fn leave_out_lines(&mut self) {
        let mut size = self.best.schedule.entries.len().div_ceil(2);
        while size > 0 && !self.is_late() {
            let mut at = 0;
            while at < self.best.schedule.entries.len() && !self.is_late() {
                let mut candidate = self.best.schedule.clone();
                let end = (at + size).min(candidate.entries.len());
                candidate.entries.drain(at..end);
                if !self.try_it(candidate) {
                    at += size;
                }
            }
            size /= 2;
        }
    }

    fn leave_out_settings(&mut self) {
        for at in (0..self.best.schedule.settings.len()).rev() {
            let mut candidate = self.best.schedule.clone();
            candidate.settings.remove(at);
            self.try_it(candidate);
        }
    }

    /// Workers and clients that nobody names, from the end
    fn leave_out_people(&mut self) {
        for fewer in [1, 2, self.best.schedule.workers / 2, self.best.schedule.workers.saturating_sub(1)] {
            let mut candidate = self.best.schedule.clone();
            candidate.workers = fewer.max(1).min(candidate.workers);
            if self.try_it(candidate) {
                break;
            }
        }
        let mut candidate = self.best.schedule.clone();
        candidate.clients = 1;
        self.try_it(candidate);
    }

    /// Each line as plain as it can be
    fn simplify(&mut self) {
        for at in 0..self.best.schedule.entries.len() {
            for simpler in simpler(&self.best.schedule.entries[at]) {
                let mut candidate = self.best.schedule.clone();
                candidate.entries[at] = simpler;
                self.try_it(candidate);
            }
        }
    }
}

/// Plainer lines in the place of one
fn simpler(entry: &Entry) -> Vec<Entry> {
    let with = |what: What| Entry { at: entry.at, what };
    match entry.what {
        What::Submit(task) => {
            let plain = crate::schedule::Task::new(task.client, task.number);
            let mut one = plain;
            (one.takes, one.poison, one.fails, one.retries) = (task.takes, task.poison, task.fails, task.retries);
            [plain, one].map(|task| with(What::Submit(task))).into()
        }
        What::Fault(fault) => {
            let shorter = crate::schedule::Fault { span: fault.span / 2, ..fault };
            let less = crate::schedule::Fault { amount: fault.amount / 2, ..fault };
            let both = [shorter, less].into_iter().filter(|other| *other != fault);
            both.map(|fault| with(What::Fault(fault))).collect()
        }
        What::Cancel { .. } | What::Again { .. } | What::Clash { .. } => Vec::new(),
    }
}
