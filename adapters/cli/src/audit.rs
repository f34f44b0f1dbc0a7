//! An independent audit of a run: was every task's result applied exactly once?
//!
//! It looks at facts only: what the journal says happened, in its order, and
//! what the workers noted when they started a command. No table of the
//! coordinator takes part, so that a fault in one cannot hide itself.

use std::collections::BTreeMap;
use std::fmt;

/// Most anomalies that are described; those beyond are only counted
pub const ANOMALIES_MAX: usize = 50;

/// Name of a task
pub type Task = [u8; 16];

/// One entry of the journal
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fact {
    /// A task was taken on
    Submitted {
        /// The task
        task: Task,
    },
    /// A task was given to a worker
    Assigned {
        /// The task
        task: Task,
        /// Stands for this assignment and no other
        token: u64,
        /// Which attempt at the task it is
        attempt: u32,
    },
    /// An attempt at a task, or the task, ended
    Ended {
        /// The task
        task: Task,
        /// The assignment that ended, none if there was none
        token: Option<u64>,
        /// How it ended
        outcome: Ended,
        /// Whether the task ended with it; if not, it will be tried again
        last: bool,
    },
}

/// How an attempt or a task ended
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its command succeeded
    Succeeded,
    /// Its command failed
    Failed,
    /// It was given up
    Cancelled,
}

/// A worker's note that it starts a command
///
/// As text it has a fixed length, so that a line torn off by the end of its
/// worker cannot be taken for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Start {
    /// The assignment it acts on
    pub token: u64,
    /// The task
    pub task: Task,
    /// Which attempt at the task it is
    pub attempt: u32,
}

/// Result of an audit
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    /// Tasks that were taken on
    pub submitted: u64,
    /// Tasks whose first final result is a success
    pub succeeded: u64,
    /// Tasks whose first final result is a failure
    pub failed: u64,
    /// Tasks that were given up
    pub cancelled: u64,
    /// Final results that were applied, duplicates among them
    pub applied: u64,
    /// Tasks taken on that have no final result
    pub lost: u64,
    /// Results applied and commands started again that should not have been
    pub duplicated: u64,
    /// Commands that were started
    pub executions: u64,
    /// What else does not add up, and each duplicate, described
    pub anomalies: Vec<String>,
}

/// Audits a run
///
/// `facts` are in the journal's order; the order of `starts` does not matter.
pub fn audit(facts: impl Iterator<Item = Fact>, starts: impl Iterator<Item = Start>) -> Audit {
    let mut auditor = Auditor::default();
    for fact in facts {
        auditor.note(fact);
    }
    // Sorted, so that starts under one token are neighbours and the order in
    // which the workers' notes were gathered shows nowhere.
    let mut starts: Vec<_> = starts.collect();
    starts.sort_unstable();
    for (index, start) in starts.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| starts[before].token);
        auditor.start(*start, before == Some(start.token));
    }
    auditor.conclude()
}

impl Audit {
    /// Whether all adds up: nothing lost, nothing duplicated, no anomaly
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost == 0 && self.duplicated == 0 && self.anomalies.is_empty()
    }
}

impl Start {
    /// Reads what [`Display`](fmt::Display) has written, without a newline
    ///
    /// # Errors
    ///
    /// If it is anything else, such as a line torn off.
    pub fn parse(line: &str) -> Result<Self, BadStart> {
        let mut fields = line.split(' ');
        let mut field = |digits| fields.next().and_then(|text| hex(text, digits)).ok_or(BadStart);
        let start = Self {
            task: field(32)?.to_be_bytes(),
            token: u64::try_from(field(16)?).map_err(|_| BadStart)?,
            attempt: u32::try_from(field(8)?).map_err(|_| BadStart)?,
        };
        fields.next().is_none().then_some(start).ok_or(BadStart)
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let task = u128::from_be_bytes(self.task);
        write!(f, "{task:032x} {:016x} {:08x}", self.token, self.attempt)
    }
}

/// A line is not a whole [`Start`]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadStart;

impl fmt::Display for BadStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a whole line of a start log")
    }
}

impl std::error::Error for BadStart {}

/// A number of exactly so many digits, in small letters as it was written
fn hex(text: &str, digits: usize) -> Option<u128> {
    let plain = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (plain && text.len() == digits).then(|| u128::from_str_radix(text, 16).ok())?
}

/// What is known about a task
#[derive(Default)]
struct Trail {
    submitted: bool,
    /// The first final result
    end: Option<End>,
}

#[derive(Clone, Copy)]
struct End {
    token: Option<u64>,
    outcome: Ended,
}

/// What is known about an assignment
struct Lease {
    task: Task,
    attempt: u32,
    ended: bool,
    started: bool,
}

#[derive(Default)]
struct Auditor {
    tasks: BTreeMap<Task, Trail>,
    leases: BTreeMap<u64, Lease>,
    audit: Audit,
    // Anomalies there was no room to describe
    undescribed: u64,
}

impl Auditor {
    fn note(&mut self, fact: Fact) {
        match fact {
            Fact::Submitted { task } => self.submitted(task),
            Fact::Assigned { task, token, attempt } => self.assigned(task, token, attempt),
            Fact::Ended { task, token, outcome, last } => {
                let again = token.is_some_and(|token| self.lease_ended(task, token));
                self.ended(task, End { token, outcome }, last, again);
            }
        }
    }

    fn submitted(&mut self, task: Task) {
        let trail = self.tasks.entry(task).or_default();
        if std::mem::replace(&mut trail.submitted, true) {
            self.anomaly(format_args!("task {} was submitted twice", Id(task)));
        } else {
            self.audit.submitted += 1;
        }
    }

    fn assigned(&mut self, task: Task, token: u64, attempt: u32) {
        match self.tasks.get(&task) {
            Some(Trail { submitted: true, end: None }) => {}
            Some(Trail { submitted: true, .. }) => {
                self.anomaly(format_args!("task {} was assigned under token {token:x} after its end", Id(task)))
            }
            _ => self.anomaly(format_args!("task {} was assigned under token {token:x} but never submitted", Id(task))),
        }
        let lease = Lease { task, attempt, ended: false, started: false };
        if self.leases.insert(token, lease).is_some() {
            self.anomaly(format_args!("token {token:x} was assigned twice"));
        }
    }

    /// Marks an assignment as ended, and tells whether it was before
    fn lease_ended(&mut self, task: Task, token: u64) -> bool {
        match self.leases.get_mut(&token) {
            Some(lease) if lease.task == task => std::mem::replace(&mut lease.ended, true),
            _ => {
                self.anomaly(format_args!(
                    "task {} ended under token {token:x}, which was never assigned to it",
                    Id(task)
                ));
                false
            }
        }
    }

    fn ended(&mut self, task: Task, end: End, last: bool, again: bool) {
        let trail = self.tasks.entry(task).or_default();
        let submitted = trail.submitted;
        let ended_before = trail.end.is_some();
        if last {
            trail.end.get_or_insert(end);
            self.audit.applied += 1;
        }
        if !submitted {
            self.anomaly(format_args!("task {} ended but was not submitted", Id(task)));
        }
        if !last && end.outcome != Ended::Failed {
            self.anomaly(format_args!("task {} is tried again without a failure", Id(task)));
        }
        if again || (last && ended_before) {
            self.audit.duplicated += 1;
            self.anomaly(format_args!("task {} has a result too many", Id(task)));
        } else if ended_before {
            self.anomaly(format_args!("task {} is tried again after its end", Id(task)));
        }
    }

    fn start(&mut self, start: Start, again: bool) {
        self.audit.executions += 1;
        let Start { token, task, attempt } = start;
        if again {
            self.audit.duplicated += 1;
            self.anomaly(format_args!("token {token:x} was started twice"));
        }
        match self.leases.get_mut(&token) {
            Some(lease) if lease.task == task => {
                lease.started = true;
                if lease.attempt != attempt {
                    let assigned = lease.attempt;
                    self.anomaly(format_args!(
                        "task {} was started as attempt {attempt}, but {token:x} is for {assigned}",
                        Id(task)
                    ));
                }
            }
            _ => self.anomaly(format_args!(
                "task {} was started under token {token:x}, which was never assigned to it",
                Id(task)
            )),
        }
    }

    fn conclude(mut self) -> Audit {
        let mut tasks: Vec<_> = std::mem::take(&mut self.tasks).into_iter().collect();
        // Otherwise the same run would be described differently each time.
        tasks.sort_unstable_by_key(|(task, _)| *task);
        for (task, Trail { submitted, end }) in tasks {
            match end {
                None => self.audit.lost += u64::from(submitted),
                Some(end) => self.outcome(task, end),
            }
        }
        if self.undescribed > 0 {
            self.audit.anomalies.push(format!("and {} more", self.undescribed));
        }
        self.audit
    }

    fn outcome(&mut self, task: Task, end: End) {
        match end.outcome {
            Ended::Failed => self.audit.failed += 1,
            Ended::Cancelled => self.audit.cancelled += 1,
            Ended::Succeeded => {
                self.audit.succeeded += 1;
                let lease = end.token.and_then(|token| self.leases.get(&token));
                if !lease.is_some_and(|lease| lease.started) {
                    self.anomaly(format_args!("task {} succeeded without being started", Id(task)));
                }
            }
        }
    }

    fn anomaly(&mut self, text: fmt::Arguments<'_>) {
        if self.audit.anomalies.len() < ANOMALIES_MAX {
            self.audit.anomalies.push(text.to_string());
        } else {
            self.undescribed += 1;
        }
    }
}

/// A task's name as it is written in a start log
struct Id(Task);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;

    fn task(number: u8) -> Task {
        [number; 16]
    }

    fn submitted(number: u8) -> Fact {
        Fact::Submitted { task: task(number) }
    }

    fn assigned(number: u8, token: u64, attempt: u32) -> Fact {
        Fact::Assigned { task: task(number), token, attempt }
    }

    fn ended(number: u8, token: u64, outcome: Ended, last: bool) -> Fact {
        Fact::Ended { task: task(number), token: Some(token), outcome, last }
    }

    fn succeeded(number: u8, token: u64) -> Fact {
        ended(number, token, Ended::Succeeded, true)
    }

    fn start(number: u8, token: u64, attempt: u32) -> Start {
        Start { task: task(number), token, attempt }
    }

    fn audited(facts: &[Fact], starts: &[Start]) -> Audit {
        audit(facts.iter().copied(), starts.iter().copied())
    }

    /// One anomaly, with that in its text, and nothing lost or duplicated
    fn assert_odd(facts: &[Fact], starts: &[Start], text: &str) {
        let audit = audited(facts, starts);
        assert_eq!((audit.lost, audit.duplicated), (0, 0), "{audit:?}");
        assert_eq!(audit.anomalies.len(), 1, "{audit:?}");
        assert!(audit.anomalies[0].contains(text), "{audit:?}");
        assert!(!audit.is_clean());
    }

    #[test]
    fn nothing_is_clean() {
        assert_eq!(audited(&[], &[]), Audit::default());
        assert!(Audit::default().is_clean());
    }

    #[test]
    fn one_missing_and_one_doubled_result_are_found() {
        let mut facts = Vec::new();
        let mut starts = Vec::new();
        for number in 0..10 {
            facts.extend([submitted(number), assigned(number, number.into(), 1)]);
            starts.push(start(number, number.into(), 1));
            if number != 3 {
                facts.push(succeeded(number, number.into()));
            }
        }
        facts.push(succeeded(7, 7));
        let audit = audited(&facts, &starts);
        assert_eq!((audit.lost, audit.duplicated), (1, 1));
        assert_eq!((audit.submitted, audit.succeeded, audit.applied), (10, 9, 10));
        assert_eq!(audit.executions, 10);
        assert_eq!(audit.anomalies, [format!("task {} has a result too many", Id(task(7)))]);
    }

    #[test]
    fn a_retry_and_a_reassignment_are_clean() {
        let facts = [
            submitted(1),
            submitted(2),
            submitted(3),
            assigned(1, 10, 1),
            ended(1, 10, Ended::Failed, false),
            assigned(1, 11, 2),
            ended(1, 11, Ended::Failed, true),
            assigned(2, 20, 1),
            assigned(2, 21, 1),
            succeeded(2, 21),
            Fact::Ended { task: task(3), token: None, outcome: Ended::Cancelled, last: true },
        ];
        let starts = [start(1, 10, 1), start(1, 11, 2), start(2, 20, 1), start(2, 21, 1)];
        let audit = audited(&facts, &starts);
        assert!(audit.is_clean(), "{audit:?}");
        assert_eq!((audit.succeeded, audit.failed, audit.cancelled), (1, 1, 1));
        assert_eq!((audit.submitted, audit.applied, audit.executions), (3, 3, 4));
    }

    #[test]
    fn a_second_result_counts_once_whatever_its_token() {
        let history = |second| {
            let facts = [submitted(1), assigned(1, 1, 1), assigned(1, 2, 1), succeeded(1, 1), second];
            audited(&facts, &[start(1, 1, 1), start(1, 2, 1)])
        };
        for second in [
            succeeded(1, 1),
            succeeded(1, 2),
            ended(1, 1, Ended::Failed, false),
            ended(1, 2, Ended::Failed, true),
            Fact::Ended { task: task(1), token: None, outcome: Ended::Cancelled, last: true },
        ] {
            let audit = history(second);
            assert_eq!((audit.lost, audit.duplicated), (0, 1), "{audit:?}");
            assert_eq!((audit.succeeded, audit.failed, audit.cancelled), (1, 0, 0));
        }
        assert_eq!(history(ended(1, 2, Ended::Failed, false)).duplicated, 0);
    }

    #[test]
    fn a_failed_attempt_applied_twice_is_a_duplicate() {
        let failed = ended(1, 1, Ended::Failed, false);
        let facts = [submitted(1), assigned(1, 1, 1), failed, failed];
        let audit = audited(&facts, &[start(1, 1, 1)]);
        assert_eq!((audit.lost, audit.duplicated, audit.applied), (1, 1, 0));
    }

    #[test]
    fn a_token_started_twice_is_a_duplicate() {
        let facts = [submitted(1), assigned(1, 1, 1), succeeded(1, 1)];
        let audit = audited(&facts, &[start(1, 1, 1); 3]);
        assert_eq!((audit.lost, audit.duplicated, audit.executions), (0, 2, 3));
        assert_eq!(audit.anomalies, ["token 1 was started twice"; 2]);
    }

    #[test]
    fn odd_facts_are_anomalies() {
        let begin = [submitted(1), assigned(1, 1, 1)];
        let with = |more: &[Fact]| [&begin[..], more].concat();
        let started = [start(1, 1, 1)];
        assert_odd(&with(&[submitted(1), succeeded(1, 1)]), &started, "submitted twice");
        assert_odd(&with(&[assigned(1, 1, 1), succeeded(1, 1)]), &started, "1 was assigned twice");
        assert_odd(&with(&[succeeded(1, 1), assigned(1, 2, 2)]), &started, "after its end");
        let retried = ended(1, 1, Ended::Succeeded, false);
        let again = [retried, assigned(1, 2, 2), ended(1, 2, Ended::Failed, true)];
        assert_odd(&with(&again), &started, "without a failure");
        assert_odd(&with(&[assigned(2, 2, 1), succeeded(1, 1)]), &started, "never submitted");
        assert_odd(&with(&[ended(1, 2, Ended::Failed, true)]), &started, "ended under token 2");
    }

    #[test]
    fn odd_starts_are_anomalies() {
        let facts = [submitted(1), assigned(1, 1, 1), ended(1, 1, Ended::Failed, true)];
        assert_odd(&facts, &[start(1, 2, 1)], "started under token 2");
        assert_odd(&facts, &[start(2, 1, 1)], "started under token 1");
        assert_odd(&facts, &[start(1, 1, 2)], "as attempt 2");
        assert!(audited(&facts, &[]).is_clean());
    }

    #[test]
    fn success_needs_a_start_under_its_own_token() {
        let facts = [submitted(1), assigned(1, 1, 1), assigned(1, 2, 1), succeeded(1, 2)];
        assert!(audited(&facts, &[start(1, 2, 1)]).is_clean());
        assert_odd(&facts, &[], "without being started");
        assert_odd(&facts, &[start(1, 1, 1)], "without being started");
    }

    #[test]
    fn a_wrong_token_does_not_end_the_assignment_it_belongs_to() {
        let facts = [submitted(1), submitted(2), assigned(1, 1, 1), ended(2, 1, Ended::Failed, true), succeeded(1, 1)];
        assert_odd(&facts, &[start(1, 1, 1)], "ended under token 1");
    }

    #[test]
    fn a_task_never_submitted_is_not_lost() {
        let facts = [assigned(1, 1, 1), ended(1, 1, Ended::Failed, false)];
        let audit = audited(&facts, &[start(1, 1, 1)]);
        assert_eq!((audit.submitted, audit.lost, audit.duplicated), (0, 0, 0));
        assert_eq!(audit.anomalies.len(), 2, "{audit:?}");
    }

    #[test]
    fn tasks_are_described_in_order() {
        let history = |number: u8| {
            let token = number.into();
            [submitted(number), assigned(number, token, 1), succeeded(number, token)]
        };
        let audit = audited(&(0..40).rev().flat_map(history).collect::<Vec<_>>(), &[]);
        assert_eq!(audit.anomalies.len(), 40);
        assert!(audit.anomalies.is_sorted());
    }

    #[test]
    fn anomalies_are_bounded() {
        let starts: Vec<_> = (0..200).map(|number| start(number, number.into(), 1)).collect();
        let audit = audited(&[], &starts);
        assert_eq!(audit.anomalies.len(), ANOMALIES_MAX + 1);
        assert_eq!(audit.anomalies[ANOMALIES_MAX], "and 150 more");
    }

    #[test]
    fn a_start_as_text() {
        let start = Start { task: *b"0123456789abcdef", token: 0x2a, attempt: 3 };
        let line = "30313233343536373839616263646566 000000000000002a 00000003";
        assert_eq!(start.to_string(), line);
        assert_eq!(Start::parse(line), Ok(start));
        for end in 0..line.len() {
            assert_eq!(Start::parse(&line[..end]), Err(BadStart));
        }
        for bad in [
            &format!("{line} "),
            &format!("{line}\n"),
            &format!(" {line}"),
            &line.to_uppercase(),
            &line.replace(" 0", " +"),
            &line.replace('3', "ü"),
        ] {
            assert_eq!(Start::parse(bad), Err(BadStart), "{bad}");
        }
    }

    /// A history without fault: attempts that fail, leases that are lost, ends of all kinds
    fn clean_history(shape: &[(u8, u8)]) -> (Vec<Fact>, Vec<Start>) {
        let (mut facts, mut starts) = (Vec::new(), Vec::new());
        let mut token = 0;
        for (number, (attempts, end)) in (0..=u8::MAX).zip(shape) {
            facts.push(submitted(number));
            for attempt in 1..=u32::from(attempts % 3) {
                token += 2;
                facts.extend([assigned(number, token, attempt), assigned(number, token + 1, attempt)]);
                starts.extend([start(number, token, attempt), start(number, token + 1, attempt)]);
                facts.push(ended(number, token + 1, Ended::Failed, false));
            }
            token += 2;
            let attempt = u32::from(attempts % 3) + 1;
            facts.push(assigned(number, token, attempt));
            starts.push(start(number, token, attempt));
            let outcome = [Ended::Succeeded, Ended::Failed, Ended::Cancelled][usize::from(end % 3)];
            facts.push(ended(number, token, outcome, true));
        }
        (facts, starts)
    }

    quickcheck! {
        fn a_clean_history_is_clean(shape: Vec<(u8, u8)>) -> bool {
            let (facts, starts) = clean_history(&shape);
            let audit = audited(&facts, &starts);
            audit.is_clean()
                && audit.submitted == shape.len().min(256) as u64
                && audit.applied == audit.submitted
                && audit.succeeded + audit.failed + audit.cancelled == audit.submitted
                && audit.executions == starts.len() as u64
        }

        fn the_order_of_starts_does_not_matter(
            shape: Vec<(u8, u8)>,
            more: Vec<(u8, u8)>,
            keys: Vec<u32>
        ) -> bool {
            let (facts, mut starts) = clean_history(&shape);
            starts.extend(more.iter().map(|(number, token)| start(*number, (*token).into(), 1)));
            let mut shuffled: Vec<_> = starts.iter().copied().zip(keys.iter().cycle()).collect();
            shuffled.sort_by_key(|(_, key)| **key);
            let shuffled: Vec<_> = shuffled.into_iter().map(|(start, _)| start).collect();
            keys.is_empty() || audited(&facts, &starts) == audited(&facts, &shuffled)
        }

        fn an_end_left_out_is_lost_and_one_repeated_is_duplicated(
            shape: Vec<(u8, u8)>,
            which: usize
        ) -> bool {
            let (facts, starts) = clean_history(&shape);
            let ends: Vec<usize> = (0..facts.len())
                .filter(|at| matches!(facts[*at], Fact::Ended { last: true, .. }))
                .collect();
            let Some(at) = ends.get(which % ends.len().max(1)) else { return true };
            let (mut less, mut more) = (facts.clone(), facts.clone());
            less.remove(*at);
            more.insert(*at, facts[*at]);
            let (less, more) = (audited(&less, &starts), audited(&more, &starts));
            (less.lost, less.duplicated, more.lost, more.duplicated) == (1, 0, 0, 1)
        }

        fn starts_survive_text(task: u128, token: u64, attempt: u32) -> bool {
            let start = Start { task: task.to_be_bytes(), token, attempt };
            Start::parse(&start.to_string()) == Ok(start)
        }
    }
}
