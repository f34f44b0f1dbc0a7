//! What was found of a scenario: checks with their bounds, figures, and the verdict that follows from them

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use rejoin_core::ids::TaskId;
use serde::Serialize;

use super::measure::{Look, Spread};
use super::scenario::{Setting, Trouble};
use super::task::Mark;

/// Fewest looks at processes from which anything follows
const LOOKS_MIN: usize = 12;
/// Memory that a coordinator of a fleet of these sizes may take
const MEMORY_MAX_MIB: u64 = 400;
/// Most remarks on one check
const REMARKS_MAX: usize = 10;

/// Something that must hold
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Check {
    /// Its name, where it is one the simulator has as well
    pub(crate) rule: Option<&'static str>,
    /// What must hold
    pub(crate) says: String,
    /// What was found
    pub(crate) found: String,
    /// Whether it does
    pub(crate) holds: bool,
}

/// What became of tasks
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tasks {
    /// Submitted, by the clients' count
    pub(crate) submitted: u64,
    /// Final results in the journal
    pub(crate) applied: u64,
    /// Results and executions too many
    pub(crate) duplicated: u64,
    /// Tasks without an end
    pub(crate) lost: u64,
    /// Executions, by the tasks' own marks
    pub(crate) executions: u64,
}

/// How often something was broken
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Often {
    /// How often that was done
    pub(crate) planned: u64,
    /// How often it had an effect
    pub(crate) felt: u64,
}

/// How soon a kind of fault was noticed and mended
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Speed {
    /// From striking to being noticed, by each end that must
    pub(crate) detect: Spread,
    /// From being over and noticed to being connected
    pub(crate) resume: Spread,
}

/// One thing that was broken, and what came of it
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Story {
    /// Whose connection it was about
    pub(crate) worker: String,
    /// What it was
    pub(crate) label: &'static str,
    /// When it struck, in seconds since the first one
    pub(crate) at_s: f64,
    /// When the ends noticed it that had to, in milliseconds behind that
    pub(crate) noticed_ms: Vec<u64>,
    /// How long it then took to be connected
    pub(crate) resumed_ms: Option<u64>,
    /// Whether another one struck before it had to be noticed
    pub(crate) overtaken: bool,
}

/// Figures in rows
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Table {
    /// What it is about
    pub(crate) title: String,
    /// What stands above each column
    pub(crate) head: Vec<String>,
    /// The rows
    pub(crate) rows: Vec<Vec<String>>,
}

/// All that was found
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Findings {
    #[serde(rename = "type")]
    kind: &'static str,
    /// Which scenario
    pub(crate) name: &'static str,
    /// What happened
    pub(crate) says: &'static str,
    /// Whether all checks hold
    pub(crate) passed: bool,
    /// Whether it was the long form
    pub(crate) long: bool,
    /// By which it can be repeated, as far as real machines go
    pub(crate) seed: u64,
    /// How long it took
    pub(crate) seconds: f64,
    /// What became of tasks
    pub(crate) tasks: Tasks,
    /// What was broken
    pub(crate) faults: BTreeMap<&'static str, Often>,
    /// Connections behind the first, by the workers' own count
    pub(crate) reconnections: u64,
    /// All kinds of fault together
    pub(crate) speed: Speed,
    /// Each for itself
    pub(crate) speeds: BTreeMap<&'static str, Speed>,
    /// Work done in all, and that of it which was done again, in milliseconds
    pub(crate) done_ms: u64,
    /// The latter
    pub(crate) redone_ms: u64,
    /// Bytes over the cables of workers, and those of them that tasks asked for
    pub(crate) carried_bytes: u64,
    /// The latter
    pub(crate) payload_bytes: u64,
    /// From a task's submission to its client's being told of its end
    pub(crate) latency: Spread,
    /// Memory and descriptors over time
    pub(crate) looks: BTreeMap<&'static str, Vec<Look>>,
    /// Further figures
    pub(crate) tables: Vec<Table>,
    /// What must hold
    pub(crate) checks: Vec<Check>,
    /// What was broken, one by one
    pub(crate) stories: Vec<Story>,
    /// Large checkpoints of each task that are durable, by the journal
    #[serde(skip)]
    pub(crate) saved: BTreeMap<TaskId, u32>,
    /// What tasks have left as marks
    #[serde(skip)]
    pub(crate) marks: Vec<Mark>,
    #[serde(skip)]
    pub(crate) latencies: Vec<u64>,
    #[serde(skip)]
    pub(crate) detected: BTreeMap<&'static str, Vec<u64>>,
    #[serde(skip)]
    pub(crate) resumed: BTreeMap<&'static str, Vec<u64>>,
}

impl Findings {
    /// Nothing yet
    pub(super) fn new(name: &'static str, says: &'static str, setting: &Setting) -> Findings {
        Findings {
            kind: "scenario",
            name,
            says,
            passed: false,
            long: setting.long,
            seed: setting.seed,
            seconds: 0.0,
            tasks: Tasks::default(),
            faults: BTreeMap::new(),
            reconnections: 0,
            speed: Speed::default(),
            speeds: BTreeMap::new(),
            done_ms: 0,
            redone_ms: 0,
            carried_bytes: 0,
            payload_bytes: 0,
            latency: Spread::default(),
            looks: BTreeMap::new(),
            tables: Vec::new(),
            checks: Vec::new(),
            stories: Vec::new(),
            saved: BTreeMap::new(),
            marks: Vec::new(),
            latencies: Vec::new(),
            detected: BTreeMap::new(),
            resumed: BTreeMap::new(),
        }
    }

    /// Takes down whether something holds
    pub(crate) fn check(
        &mut self,
        rule: Option<&'static str>,
        says: impl Into<String>,
        holds: bool,
        found: impl Into<String>,
    ) {
        self.checks.push(Check { rule, says: says.into(), found: found.into(), holds });
    }

    /// Takes down that there must be no such remarks
    pub(crate) fn check_none(&mut self, rule: Option<&'static str>, says: impl Into<String>, remarks: &[String]) {
        let mut found = remarks.iter().take(REMARKS_MAX).cloned().collect::<Vec<_>>().join("; ");
        if remarks.len() > REMARKS_MAX {
            let _ = write!(found, "; and {} more", remarks.len() - REMARKS_MAX);
        }
        self.check(rule, says, remarks.is_empty(), if remarks.is_empty() { "none".to_owned() } else { found });
    }

    /// Draws the conclusion
    pub(super) fn conclude(&mut self, took: Duration, played: Result<(), Trouble>) {
        if let Err(Trouble { rule, what }) = played {
            self.check(rule, "the scenario comes to its end", false, what);
        }
        self.resources();
        self.seconds = (took.as_millis() / 10) as f64 / 100.0;
        let spread = |times: &BTreeMap<&'static str, Vec<u64>>| Spread::of(times.values().flatten().copied());
        self.speed = Speed { detect: spread(&self.detected), resume: spread(&self.resumed) };
        for label in self.resumed.keys().chain(self.detected.keys()) {
            let of =
                |times: &BTreeMap<&'static str, Vec<u64>>| Spread::of(times.get(label).into_iter().flatten().copied());
            self.speeds.insert(label, Speed { detect: of(&self.detected), resume: of(&self.resumed) });
        }
        self.latency = Spread::of(std::mem::take(&mut self.latencies));
        self.passed = !self.checks.is_empty() && self.checks.iter().all(|check| check.holds);
    }

    /// Whether the coordinator keeps to what it needs, however often its peers come and go
    fn resources(&mut self) {
        let Some(looks) = self.looks.get("coordinator").filter(|looks| looks.len() >= LOOKS_MIN) else { return };
        let most = |looks: &[Look]| looks.iter().map(|look| look.descriptors).max().unwrap_or_default();
        let (early, late) = (most(&looks[..looks.len() / 2]), most(&looks[looks.len() * 3 / 4..]));
        let memory = looks.iter().map(|look| look.rss_kib).max().unwrap_or_default() / 1024;
        let holds = late <= early + early / 2 + 16;
        let found = format!("{early} in the first half, {late} in the last quarter");
        self.check(None, "the coordinator does not hold ever more descriptors", holds, found);
        let says = format!("the coordinator takes at most {MEMORY_MAX_MIB} MiB of memory");
        self.check(Some("S17"), says, memory <= MEMORY_MAX_MIB, format!("{memory} MiB"));
    }

    /// Faults that had an effect
    pub(crate) fn felt(&self) -> u64 {
        self.faults.values().map(|often| often.felt).sum()
    }

    /// The verdict on a line, and what does not hold below it
    pub(super) fn text(&self) -> String {
        let Tasks { submitted, applied, duplicated, lost, .. } = self.tasks;
        let verdict = if self.passed { "PASS" } else { "FAIL" };
        let mut text = format!(
            "{verdict} {:<18} {:>6.1} s  {submitted} / {applied} / {duplicated} / {lost}  {} faults, {} reconnections",
            self.name,
            self.seconds,
            self.felt(),
            self.reconnections
        );
        let Speed { detect, resume } = &self.speed;
        for (what, spread) in
            [("noticed", detect), ("resumed", resume)].into_iter().filter(|(_, spread)| spread.count > 0)
        {
            let _ = write!(text, "; {what} in {:.0} ms, 99 % {:.0} ms", spread.p50_ms, spread.p99_ms);
        }
        text.push('\n');
        for check in self.checks.iter().filter(|check| !check.holds) {
            let rule = check.rule.map(|rule| format!("{rule}: ")).unwrap_or_default();
            let _ = writeln!(text, "     {rule}{}: {}", check.says, check.found);
        }
        text
    }

    /// The same as an object on a line
    pub(super) fn json(&self) -> String {
        // Numbers and texts: there is nothing that could not be written.
        serde_json::to_string(self).unwrap_or_default() + "\n"
    }
}
