//! From a schedule that fails to a small one that fails alike
//!
//! Lines are left out, first many at a time and then fewer (delta debugging), faults before all others, workers and clients
//! too; then what is left is made shorter and simpler. Where no line can be left out any more, two faults are left out
//! together, or plain ones that hit harder stand in for what is left. Whatever fails the same check counts, even if it
//! does so in another way. The best so far is there at any time.

use std::fmt;
use std::time::{Duration, Instant};

use crate::audit::Check;
use crate::menu::Kind;
use crate::net::Side;
use crate::schedule::{Entry, Fault, Node, Schedule, What};
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
    // What runs faster is tried more often, and faults are what people read first.
    shrinker.leave_out_people();
    shrinker.leave_out(&is_fault);
    loop {
        let before = shrinker.best.schedule.clone();
        shrinker.leave_out(&|_| true);
        shrinker.leave_out_settings();
        shrinker.leave_out_people();
        shrinker.simplify();
        if shrinker.is_late() {
            return Some(shrinker.best);
        }
        if before == shrinker.best.schedule && !shrinker.leave_out_two() && !shrinker.replace_faults() {
            if shrinker.is_late() {
                return Some(shrinker.best);
            }
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

    /// Lines of a sort, so many of them at a time
    fn leave_out(&mut self, sort: &dyn Fn(&Entry) -> bool) {
        let mut size = self.places(sort).len().div_ceil(2);
        while size > 0 && !self.is_late() {
            let mut at = 0;
            loop {
                let places = self.places(sort);
                let Some(those) = places.get(at..(at + size).min(places.len())).filter(|those| !those.is_empty())
                else {
                    break;
                };
                if self.is_late() || !self.try_it(self.without(those)) {
                    at += size;
                }
            }
            size /= 2;
        }
    }

    /// Two faults that hold each other up; whether something was left out
    fn leave_out_two(&mut self) -> bool {
        let faults = self.places(&is_fault);
        if faults.len() > FAULTS_PAIRED_MAX {
            return false;
        }
        let pairs =
            faults.iter().flat_map(|one| faults.iter().filter(move |other| one < other).map(move |o| [*one, *o]));
        pairs.into_iter().any(|pair| self.try_it(self.without(&pair)))
    }

    /// Plain faults that hit harder, one in the place of each; whether there are fewer then
    fn replace_faults(&mut self) -> bool {
        let before = self.best.schedule.clone();
        let faults = self.places(&is_fault);
        // One that is alone can only be left out.
        for at in faults.iter().copied().filter(|_| faults.len() > 1) {
            for harder in harder(&before.entries[at], before.workers) {
                let mut candidate = before.clone();
                candidate.entries[at] = harder;
                if self.try_it(candidate) {
                    self.leave_out(&is_fault);
                    if self.best.schedule.faults() < before.faults() {
                        return true;
                    }
                    self.best.schedule = before.clone();
                }
            }
        }
        false
    }

    /// Where the lines of a sort are
    fn places(&self, sort: &dyn Fn(&Entry) -> bool) -> Vec<usize> {
        let entries = self.best.schedule.entries.iter().enumerate();
        entries.filter(|(_, entry)| sort(entry)).map(|(at, _)| at).collect()
    }

    /// The best without the lines at these places, which rise
    fn without(&self, places: &[usize]) -> Schedule {
        let mut candidate = self.best.schedule.clone();
        for at in places.iter().rev() {
            candidate.entries.remove(*at);
        }
        candidate
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

/// Most faults of which all pairs are tried
const FAULTS_PAIRED_MAX: usize = 16;

fn is_fault(entry: &Entry) -> bool {
    matches!(entry.what, What::Fault(_))
}

/// Most workers that a fault is moved to
const MOVED_MAX: u16 = 8;

/// Faults in the place of one: it lasts for longer, or one of few words that breaks its link, the link of some worker, or
/// all links, or has the coordinator begin again
fn harder(entry: &Entry, workers: u16) -> Vec<Entry> {
    let What::Fault(fault) = entry.what else { return Vec::new() };
    let longer = Fault { span: fault.span * 4, ..fault };
    let plain = |kind, node, amount| Fault { kind, node, towards: Side::Peer, span: Duration::ZERO, amount, after: 0 };
    let its_own = [plain(Kind::Reset, fault.node, 0), plain(Kind::Dead, fault.node, 0)];
    let all = [plain(Kind::MassReset, Node::Coordinator, 1000), plain(Kind::Restart, Node::Coordinator, 0)];
    let its_own = its_own.into_iter().filter(|plain| plain.node != Node::Coordinator);
    let unseen = |n| Fault { towards: Side::Coordinator, ..plain(Kind::CutSeenBy, Node::Worker(n), 0) };
    let unseen = (0..workers.min(MOVED_MAX)).map(unseen);
    let others = [longer].into_iter().chain(its_own).chain(all).chain(unseen).filter(|other| *other != fault);
    others.map(|fault| Entry { at: entry.at, what: What::Fault(fault) }).collect()
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
            let sooner = crate::schedule::Fault { after: fault.after / 2, ..fault };
            let all = [shorter, less, sooner].into_iter().filter(|other| *other != fault);
            all.map(|fault| with(What::Fault(fault))).collect()
        }
        What::Cancel { .. } | What::Again { .. } | What::Clash { .. } => Vec::new(),
    }
}
