//! The judge: compares what clients were told, what the journal says, and what the tasks themselves have left as marks
//!
//! Checks have the names that the simulator gives them where they are the same. No table of a machine takes part.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rejoin_core::blob::RESULT;
use rejoin_core::ids::TaskId;
use rejoin_core::journal::Record;
use rejoin_core::terms::Class;
use rejoin_core::wire::message::Outcome;
use rejoin_smol::journal::DurableJournal;

use crate::audit::{Audit, Ended, Fact, Start, audit};
use crate::fleet::fact;

use super::crowd;
use super::findings::{Findings, Story};
use super::fleet::Fleet;
use super::hits::{noticed, unplanned};
use super::load::{Entry, Job, Load};
use super::log::{Stamp, Word};
use super::scenario::Trouble;
use super::task::{Deed, Mark};

/// Longest pause between two dials: whoever loses one connection after another comes to that (BACK-1)
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What must come of a scenario
#[derive(Clone, Debug)]
pub(crate) struct Expected {
    /// At least so many tasks
    pub(crate) tasks: u64,
    /// At least so many things that break, each with an effect
    pub(crate) faults: u64,
    /// From when a fault is over, and noticed, to when its worker is connected
    pub(crate) resume_max: Duration,
    /// The same for half of them
    pub(crate) resume_half_max: Duration,
    /// From the last fault to the end of the last task
    pub(crate) end_within: Duration,
    /// From then to when every worker is connected; zero if nobody need be
    pub(crate) back_within: Duration,
    /// Share of the work that may be done again, in percent of all that was done
    pub(crate) redone_max_percent: u64,
    /// Connections that no fault accounts for
    pub(crate) unplanned_max: usize,
}

impl Default for Expected {
    fn default() -> Self {
        Expected {
            tasks: 1,
            faults: 1,
            resume_max: PAUSE_MAX + Duration::from_secs(3),
            resume_half_max: Duration::from_secs(2),
            end_within: Duration::from_secs(60),
            back_within: PAUSE_MAX + Duration::from_secs(10),
            redone_max_percent: 50,
            unplanned_max: 4,
        }
    }
}

/// All that is known of a fleet's tasks
struct Evidence {
    /// What clients know
    told: BTreeMap<TaskId, Entry>,
    /// What the journal says, in its order
    facts: Vec<Fact>,
    /// What tasks have left
    marks: Vec<Mark>,
}

/// Judges a fleet that has ended
pub(super) fn judge(
    findings: &mut Findings,
    fleet: &Fleet,
    loads: &[Load],
    expected: &Expected,
    ended_after: Duration,
) -> Result<(), Trouble> {
    let told: BTreeMap<TaskId, Entry> = loads.iter().flat_map(|load| load.book().tasks.clone()).collect();
    let mut facts = Vec::new();
    let journal = DurableJournal::open(&fleet.journal()).map_err(|error| Trouble::new(error.to_string()))?;
    let mut saved: BTreeMap<TaskId, u32> = BTreeMap::new();
    #[allow(clippy::wildcard_enum_match_arm, reason = "of all records only these are about durable checkpoints")]
    journal.reader().read(&mut |record| {
        let Some(record) = Record::decode(record) else { return };
        facts.extend(fact(&record));
        match record {
            Record::Manifest { task, number, .. } if number != RESULT => *saved.entry(task).or_default() += 1,
            Record::Checkpoint { task, .. } => *saved.entry(task).or_default() += 1,
            _ => {}
        }
    })?;
    let mut marks = Mark::read(&fleet.marks())?;
    marks.extend(crowd::marks(fleet)?);
    let evidence = Evidence { told, facts, marks };
    breaking(findings, fleet, expected);
    counts(findings, &evidence, expected);
    attempts(findings, &evidence);
    contents(findings, &evidence);
    alone(findings, &evidence);
    work(findings, &evidence, expected);
    words(findings, fleet);
    let bound = expected.end_within.as_secs();
    findings.check(
        Some("L1"),
        format!("every task has ended {bound} s after the last fault"),
        true,
        format!("{:.1} s", ended_after.as_secs_f64()),
    );
    findings.latencies.extend(evidence.told.values().filter_map(Entry::latency));
    findings.marks.extend(evidence.marks.iter().copied());
    findings.carried_bytes += fleet.carried();
    let payload = evidence.told.iter().map(|(task, entry)| payload(&entry.job, saved.get(task).copied().unwrap_or(0)));
    findings.payload_bytes += payload.sum::<u64>();
    findings.saved.append(&mut saved);
    Ok(())
}

/// Bytes that have to travel for a task, there and back: of checkpoints what was new in those that became durable
fn payload(job: &Job, saved: u32) -> u64 {
    let work = job.work;
    let new = |permille: u64| work.checkpoint_bytes * permille / 1000;
    let checkpoints = saved.checked_sub(1).map_or(0, |more| new(1000) + new(work.fresh_permille) * u64::from(more));
    job.input_bytes + work.result_bytes + work.output_bytes * work.steps + checkpoints
}

/// What was broken, whether that had an effect, and how soon it was noticed and mended
fn breaking(findings: &mut Findings, fleet: &Fleet, expected: &Expected) {
    let mut idle = Vec::new();
    for hit in &fleet.hits {
        let often = findings.faults.entry(hit.label).or_default();
        often.planned += 1;
        // What befalls processes is done by this one, and has its effect for sure.
        often.felt += u64::from(hit.kind.is_none());
    }
    let kinds: BTreeSet<_> = fleet.hits.iter().filter_map(|hit| hit.kind.map(|kind| (hit.worker, kind))).collect();
    for (n, kind) in kinds {
        let planned = fleet.hits.iter().filter(|hit| hit.worker == n && hit.kind == Some(kind)).count() as u64;
        let felt = fleet.workers[n].cable.counts().felt(kind);
        if let Some(often) = findings.faults.get_mut(kind.name()) {
            often.felt += felt.min(planned);
        }
        if felt < planned {
            idle.push(format!("{} of w{n}: {felt} of {planned}", kind.name()));
        }
    }
    findings.check_none(None, "every fault that was planned has had its effect", &idle);
    let felt = findings.felt();
    findings.check(None, format!("at least {} faults", expected.faults), felt >= expected.faults, felt.to_string());
    let all = noticed(fleet);
    let mut late = Vec::new();
    let first = fleet.hits.first().map_or(Stamp(0), |hit| hit.at);
    for (hit, noticed) in fleet.hits.iter().zip(&all) {
        findings.stories.push(Story {
            worker: fleet.workers[hit.worker].name.clone(),
            label: hit.label,
            at_s: (hit.at.since(first) / 10_000) as f64 / 100.0,
            noticed_ms: noticed.detected.iter().map(|us| us / 1000).collect(),
            resumed_ms: noticed.resumed.map(|us| us / 1000),
            overtaken: noticed.overtaken,
        });
        findings.detected.entry(noticed.label).or_default().extend(&noticed.detected);
        findings.resumed.entry(noticed.label).or_default().extend(noticed.resumed);
        if let Some(took) = noticed.resumed.filter(|took| u128::from(*took) > expected.resume_max.as_micros()) {
            late.push(format!("{} of w{}: {} ms", noticed.label, noticed.worker, took / 1000));
        }
    }
    let overtaken = all.iter().filter(|noticed| noticed.overtaken).count();
    findings.check(
        None,
        "at most a quarter of the faults was overtaken by another one before it had to be noticed",
        overtaken * 4 <= all.len(),
        format!("{overtaken} of {}", all.len()),
    );
    let missed: Vec<String> = all.iter().filter_map(|noticed| noticed.fault.clone()).collect();
    findings.check_none(Some("L3"), "every fault is noticed by the ends that must, in time, and mended", &missed);
    let bound = expected.resume_max.as_millis();
    findings.check_none(Some("L2"), format!("connected again within {bound} ms of what was broken being whole"), &late);
    let mut times: Vec<u64> = all.iter().filter_map(|noticed| noticed.resumed).collect();
    times.sort_unstable();
    let half = times.get(times.len() / 2).copied().unwrap_or_default();
    findings.check(
        None,
        format!("half of them within {} ms", expected.resume_half_max.as_millis()),
        u128::from(half) <= expected.resume_half_max.as_micros(),
        format!("{} ms", half / 1000),
    );
    let mended = all.iter().filter(|noticed| noticed.resumed.is_some()).count();
    findings.reconnections += mended as u64;
    if expected.faults > 0 && !fleet.hits.is_empty() {
        findings.check(None, "there were reconnections", mended > 0, mended.to_string());
    }
    let unplanned = unplanned(fleet);
    findings.check(
        None,
        format!("at most {} connections that no fault accounts for", expected.unplanned_max),
        unplanned <= expected.unplanned_max,
        unplanned.to_string(),
    );
}

/// Whether each task was accepted, executed and applied, once
fn counts(findings: &mut Findings, evidence: &Evidence, expected: &Expected) {
    let starts = evidence.marks.iter().filter(|mark| matches!(mark.deed, Deed::Start(_)));
    let starts = starts.map(|mark| Start { token: mark.token, task: mark.task, attempt: mark.attempt });
    let audit: Audit = audit(evidence.facts.iter().copied(), starts);
    let submitted = evidence.told.len() as u64;
    let in_journal: BTreeSet<[u8; 16]> = evidence
        .facts
        .iter()
        .filter_map(|fact| match fact {
            Fact::Submitted { task } => Some(*task),
            Fact::Assigned { .. } | Fact::Ended { .. } => None,
        })
        .collect();
    let foreign: Vec<String> = in_journal
        .iter()
        .filter(|task| !evidence.told.contains_key(&TaskId(**task)))
        .map(|task| TaskId(*task).to_string())
        .collect();
    let missing: Vec<String> = evidence
        .told
        .iter()
        .filter(|(task, entry)| entry.accepted.is_some() && !in_journal.contains(&task.0))
        .map(|(task, _)| task.to_string())
        .collect();
    let lost = audit.lost + missing.len() as u64;
    findings.tasks.submitted += submitted;
    findings.tasks.applied += audit.applied;
    findings.tasks.duplicated += audit.duplicated;
    findings.tasks.lost += lost;
    findings.tasks.executions += audit.executions;
    findings.check(
        None,
        format!("at least {} tasks were done", expected.tasks),
        audit.succeeded >= expected.tasks,
        audit.succeeded.to_string(),
    );
    findings.check_none(Some("S1"), "what was accepted is in the journal, all but", &missing);
    findings.check_none(Some("S20"), "nothing is in the journal that nobody submitted, but", &foreign);
    findings.check(
        Some("S3"),
        "submitted / applied / duplicated / lost are n / n / 0 / 0",
        audit.applied == submitted && audit.duplicated == 0 && lost == 0,
        format!("{submitted} / {} / {} / {lost}", audit.applied, audit.duplicated),
    );
    findings.check_none(Some("S4"), "the journal and the tasks' marks agree", &audit.anomalies);
}

/// Whether attempts only rise, each under a token of its own
fn attempts(findings: &mut Findings, evidence: &Evidence) {
    // One that never reached its worker does not count.
    let started: BTreeSet<u64> = evidence.marks.iter().map(|mark| mark.token).collect();
    let mut newest: BTreeMap<[u8; 16], (u64, u32)> = BTreeMap::new();
    let mut falls = Vec::new();
    for fact in &evidence.facts {
        let Fact::Assigned { task, token, attempt } = *fact else { continue };
        if let Some((before, last)) = newest.insert(task, (token, attempt))
            && (before >= token || last > attempt || (last == attempt && started.contains(&before)))
        {
            let task = TaskId(task);
            falls.push(format!("{task}: attempt {attempt} under {token:x} behind {last} under {before:x}"));
        }
    }
    findings.check_none(Some("S10"), "attempts only rise, and so do tokens; against that", &falls);
}

/// Whether what clients were told is what was done, and what tasks returned came as it was
fn contents(findings: &mut Findings, evidence: &Evidence) {
    let said = |(task, entry): (&TaskId, &Entry)| entry.wrong.as_ref().map(|wrong| format!("{task}: {wrong}"));
    let wrong: Vec<String> = evidence.told.iter().filter_map(said).collect();
    findings.check_none(Some("Frame3"), "every task ends well, and what it returned comes as it was", &wrong);
    let mut ends: BTreeMap<[u8; 16], (Ended, Option<u64>)> = BTreeMap::new();
    for fact in &evidence.facts {
        if let Fact::Ended { task, token, outcome, last: true } = fact {
            ends.entry(*task).or_insert((*outcome, *token));
        }
    }
    let done: BTreeSet<u64> =
        evidence.marks.iter().filter(|mark| mark.deed == Deed::End).map(|mark| mark.token).collect();
    let (mut torn, mut other) = (Vec::new(), Vec::new());
    for (task, (outcome, token)) in &ends {
        if *outcome == Ended::Succeeded && !token.is_some_and(|token| done.contains(&token)) {
            torn.push(format!("{} counts as succeeded, and has not come to its end", TaskId(*task)));
        }
    }
    for (task, entry) in &evidence.told {
        let told = entry.outcome.map(|outcome| match outcome {
            Outcome::Succeeded => Ended::Succeeded,
            Outcome::Failed(_) => Ended::Failed,
            Outcome::Cancelled => Ended::Cancelled,
        });
        if told.is_some() && told != ends.get(&task.0).map(|(outcome, _)| *outcome) {
            other.push(format!("{task} was told to have ended as {told:?}"));
        }
        if entry.ends > 1 {
            other.push(format!("{task} was told to have ended {} times", entry.ends));
        }
    }
    findings.check_none(Some("S31"), "what succeeded was executed to its end", &torn);
    findings.check_none(Some("S32"), "clients are told what the journal says, once", &other);
}

/// Whether two attempts of an exclusive task ran at a time
fn alone(findings: &mut Findings, evidence: &Evidence) {
    let exclusive =
        |task: &[u8; 16]| evidence.told.get(&TaskId(*task)).is_some_and(|entry| entry.job.class == Class::Exclusive);
    let mut spans: BTreeMap<([u8; 16], u64), (u64, u64)> = BTreeMap::new();
    for mark in evidence.marks.iter().filter(|mark| exclusive(&mark.task)) {
        let span = spans.entry((mark.task, mark.token)).or_insert((mark.at.0, mark.at.0));
        *span = (span.0.min(mark.at.0), span.1.max(mark.at.0));
    }
    if spans.is_empty() {
        return;
    }
    let mut both = Vec::new();
    let mut last: Option<([u8; 16], u64, u64)> = None;
    for ((task, token), (from, until)) in &spans {
        if let Some((before, other, over)) = last
            && before == *task
            && over > *from
        {
            both.push(format!("{}: under {other:x} and {token:x}", TaskId(*task)));
        }
        last = Some((*task, *token, *until));
    }
    findings.check_none(Some("S9"), "two attempts of an exclusive task never run at a time", &both);
}

/// How much was done, and how much of it again
fn work(findings: &mut Findings, evidence: &Evidence, expected: &Expected) {
    let mut steps: BTreeMap<([u8; 16], u64), u64> = BTreeMap::new();
    for mark in &evidence.marks {
        if let Deed::Step(step) = mark.deed {
            *steps.entry((mark.task, step)).or_default() += 1;
        }
    }
    let takes = |task: &[u8; 16]| evidence.told.get(&TaskId(*task)).map_or(0, |entry| entry.job.work.step_ms.max(1));
    let done: u64 = steps.iter().map(|((task, _), times)| takes(task) * times).sum();
    let redone: u64 = steps.iter().map(|((task, _), times)| takes(task) * (times - 1)).sum();
    findings.done_ms += done;
    findings.redone_ms += redone;
    let percent = (redone * 100).checked_div(done).unwrap_or(0);
    let most = expected.redone_max_percent;
    findings.check(
        None,
        format!("at most {most} % of the work was done again"),
        percent <= most,
        format!("{percent} %: {redone} of {done} ms"),
    );
}

/// What no log may say
pub(super) fn words(findings: &mut Findings, fleet: &Fleet) {
    let (mut panics, mut drifts) = (Vec::new(), Vec::new());
    let logs = fleet.workers.iter().map(|worker| (worker.name.as_str(), &worker.log));
    for (who, log) in logs.chain([("coordinator", &fleet.said)]) {
        for said in &log.said {
            match &said.word {
                Word::Panic(text) => panics.push(format!("{who}: {text}")),
                Word::Drifted => drifts.push(format!("{who} found one")),
                Word::Connected
                | Word::GaveUp(_)
                | Word::ConnectionLost
                | Word::Welcomed { .. }
                | Word::Parted { .. }
                | Word::Lost { .. }
                | Word::Restored
                | Word::Refused => {}
            }
        }
    }
    findings.check_none(None, "no process panicked", &panics);
    findings.check_none(Some("S34"), "no worker held anything else than the coordinator believed", &drifts);
}
