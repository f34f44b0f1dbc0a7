//! Thousands of workers lose their coordinator at once, and come back at once
//!
//! Most of them are lightweight, in one process; some are real. What they do about it is the law of backoff's business
//! (BACK-1), and how many are let in that of admission (BACK-2).

use std::time::{Duration, Instant};

use rejoin_core::coordinator::AdmissionConfig;
use rustix::process::{Resource, getrlimit};
use serde_json::Value;

use crate::stress::crowd::{Crowd, Second};
use crate::stress::findings::{Findings, Table};
use crate::stress::fleet::Plan;
use crate::stress::judge::Expected;
use crate::stress::load::{Job, Load};
use crate::stress::scenario::{Planted, Scenario, Stage, Trouble, pause};
use crate::stress::task::Work;

pub(in crate::stress) const SCENARIO: Scenario = Scenario {
    name: "thundering-herd",
    says: "thousands of workers lose the coordinator at once and come back by the law of backoff, as fast as they are let in",
    caught: &[Planted::Bug(15), Planted::Bug(17)],
    play: |stage| Box::pin(play(stage)),
};

/// How many lightweight workers begin in a second, so that the beginning is no herd
const RATE: usize = 1000;
/// How much later than by the rate of admission 99 of 100 are back
const LATER: Duration = Duration::from_secs(30);
/// The coordinator's own settings
const ADMISSION: AdmissionConfig = AdmissionConfig { rate: 2000, burst: 2000, address_rate: 1000, address_burst: 1000 };

async fn play(stage: &mut Stage) -> Result<(), Trouble> {
    let (workers, herd) = (stage.workers(6, 50), stage.pick(2_000, 10_000));
    fits(herd, workers)?;
    let back_within = Duration::from_secs((herd + workers) as u64 / u64::from(ADMISSION.rate)) + LATER;
    let heartbeat = Duration::from_secs((herd as u64 / 400).clamp(5, 40));
    let recovery_window = 2 * back_within;
    let plan = Plan { crowd: herd, heartbeat, recovery_window, ..Plan::of(workers, 2) };
    let mut fleet = stage.fleet(plan).await?;
    let mut crowd = Crowd::start(&fleet, RATE)?;
    stage.watch("lightweight workers", crowd.pid());
    let all = herd as u64;
    let begin_max = Duration::from_secs((herd / RATE) as u64) + Duration::from_secs(90);
    crowd.until("all are connected", begin_max, |second| second.connected == all).await?;
    let load = Load::start(&fleet, 0)?;
    submit(&load, herd, workers)?;
    // In the midst of it: some run, and most wait.
    crowd.until("tasks run", Duration::from_secs(60), |second| second.started > 0).await?;
    pause(Duration::from_millis(500)).await;
    let before = crowd.seconds()?.len();
    fleet.kill_coordinator()?;
    let away = Instant::now();
    crowd.until("all have lost the coordinator", Duration::from_secs(30), |second| second.connected == 0).await?;
    pause(stage.pick(Duration::from_secs(3), Duration::from_secs(5)).saturating_sub(away.elapsed())).await;
    fleet.start_coordinator()?;
    fleet.all_over();
    let (listens, silent) = (Instant::now(), crowd.seconds()?.len());
    // Somebody else must find out whether it is too late: the figures are worth more than an early end.
    crowd.until("99 % are back", 2 * back_within, |second| second.connected * 100 >= all * 99).await?;
    let back = listens.elapsed();
    crowd.until("all are back", 3 * back_within, |second| second.connected == all).await?;
    let in_all = listens.elapsed();
    load.down_to(0, Duration::from_secs(120)).await?;
    let seconds = crowd.seconds()?;
    let summary = crowd.end().await?;
    stage.findings.check(
        Some("L2"),
        format!("99 % of the herd are back {} s after the coordinator listens again", back_within.as_secs()),
        back <= back_within,
        format!("{:.1} s, and all of it {:.1} s", back.as_secs_f64(), in_all.as_secs_f64()),
    );
    attempts(&mut stage.findings, &summary, all);
    admission(&mut stage.findings, &seconds[silent.min(seconds.len())..], in_all);
    table(&mut stage.findings, &seconds[before.min(seconds.len())..]);
    let expected = Expected {
        tasks: (herd / 2) as u64,
        faults: workers as u64,
        resume_max: back_within,
        resume_half_max: back_within,
        redone_max_percent: 1,
        ..Expected::default()
    };
    stage.conclude(fleet, vec![load], expected).await
}

/// Whether the coordinator can have as many descriptors as it needs
fn fits(herd: usize, workers: usize) -> Result<(), Trouble> {
    // Those in front of the door, the journal, logs, and the rest.
    let needed = herd + workers + 1024 + 64;
    let have = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if have >= needed as u64 {
        return Ok(());
    }
    Err(Trouble::new(format!(
        "a coordinator of {herd} lightweight and {workers} real workers needs about {needed} open files, and a process \
         may have {have}: raise `ulimit -Hn`, or play the short form"
    )))
}

/// A task for every second lightweight worker, and some for each real one
fn submit(load: &Load, herd: usize, workers: usize) -> Result<(), Trouble> {
    for n in 0..herd / 2 {
        load.submit(Job::pretended(4_000 + (n % 100) as u64 * 40))?;
    }
    let work = Work { steps: 8, step_ms: 500, result_bytes: 100, ..Work::default() };
    (0..4 * workers).try_for_each(|n| load.submit(Job { only: Some(n % workers), ..Job::of(work) }).map(|_| ()))
}

/// Whether all of them were there, were cut off, and dialled by the law (BACK-1)
fn attempts(findings: &mut Findings, summary: &Value, herd: u64) {
    let field = |name: &str| summary[name].as_u64().unwrap_or_default();
    let (seen, lost, refused) = (field("seen"), field("lost"), field("refused"));
    findings.check(
        None,
        "each of the herd was connected, and cut off once",
        (seen, lost, refused) == (herd, herd, 0),
        format!("{seen} connected, {lost} cut off, {refused} refused"),
    );
    findings.reconnections += field("returns");
    let outside = field("pauses_against_the_law");
    let first = summary["first_of_these"].as_str().unwrap_or("none");
    findings.check(None, "no pause between dials is outside of the law of backoff", outside == 0, first);
    let fits: Vec<(u64, f64, f64)> = summary["law"].as_array().into_iter().flatten().filter_map(fit).collect();
    let far = |(step, distance, bound): &(u64, f64, f64)| format!("step {step}: {distance:.3}, at most {bound:.3}");
    let odd: Vec<String> = fits.iter().filter(|(_, distance, bound)| distance > bound).map(far).collect();
    findings.check(None, "pauses are seen that can be compared with it", !fits.is_empty(), fits.len().to_string());
    findings.check_none(None, "they are spread as it spreads them, but those of", &odd);
    first_dials(findings, summary, herd);
}

fn fit(fit: &Value) -> Option<(u64, f64, f64)> {
    Some((fit["step"].as_u64()?, fit["distance"].as_f64()?, fit["bound"].as_f64()?))
}

/// Whether first dials are spread over as long as it takes to let all but a burst in (BACK-1)
fn first_dials(findings: &mut Findings, summary: &Value, herd: u64) {
    let (rate, burst) = (u64::from(ADMISSION.rate), u64::from(ADMISSION.burst));
    let spread_ms = (herd.saturating_sub(burst) * 1000 / rate).min(30_000);
    let deciles: Vec<u64> =
        summary["first_pause_deciles_ms"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    let seen = summary["first_pauses"].as_u64().unwrap_or_default();
    // Whoever had failed before, on its way in, is at a later step by now. Real workers count among those that are known; a tenth
    // of the spread is far more than chance explains.
    let slack = spread_ms / 10 + 50;
    let near = |(n, at): (usize, &u64)| at.abs_diff(spread_ms * n as u64 / 10) <= slack;
    let holds = deciles.len() == 11 && seen * 2 >= herd && deciles.iter().enumerate().all(near);
    let says = format!("first dials of the herd are spread evenly over {spread_ms} ms");
    findings.check(None, says, holds, format!("{seen} of them, by tenths: {deciles:?} ms"));
}

/// Whether no more were let in than admission allows (BACK-2)
fn admission(findings: &mut Findings, seconds: &[Second], took: Duration) {
    let (rate, burst) = (u64::from(ADMISSION.rate), u64::from(ADMISSION.burst));
    let (mut all, mut over, mut most) = (0, Vec::new(), 0);
    for (n, second) in (1..).zip(seconds) {
        all += second.welcomed;
        most = most.max(second.welcomed);
        // Its seconds are not the coordinator's, and one of them may be told late.
        let bound = burst + rate * (n + 1);
        if all > bound {
            over.push(format!("{all} in {n} s, at most {bound}"));
        }
    }
    findings.check_none(None, format!("no more are let in than {burst} at once and {rate} a second, but"), &over);
    let turned_away: u64 = seconds.iter().map(|second| second.turned_away).sum();
    findings.tables.push(Table {
        title: "Admission".into(),
        head: ["let in", "most in a second", "told to come later", "seconds"].map(str::to_owned).to_vec(),
        rows: vec![vec![
            all.to_string(),
            most.to_string(),
            turned_away.to_string(),
            format!("{:.1}", took.as_secs_f64()),
        ]],
    });
}

/// What became of the herd from the kill on
fn table(findings: &mut Findings, seconds: &[Second]) {
    let row = |(n, second): (usize, &Second)| {
        let Second { connected, dials, welcomed, turned_away, failed, .. } = second;
        [n as u64 + 1, *dials, *welcomed, *turned_away, *failed, *connected].map(|count| count.to_string()).to_vec()
    };
    let rows = seconds.iter().take(120).enumerate().map(row).collect();
    let head = ["second", "dials", "welcomed", "told to come later", "failed", "connected"].map(str::to_owned).to_vec();
    findings.tables.insert(0, Table { title: "The herd, second by second".into(), head, rows });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stress::scenario::Setting;
    use serde_json::json;

    fn findings() -> Findings {
        let program = std::path::PathBuf::new();
        let setting =
            Setting { long: false, span: None, workers: None, seed: 1, program, old: None, logs: None, planted: None };
        Findings::new("x", "y", &setting)
    }

    /// What fails of a summary with one field in the place of a good one
    fn failed(field: &str, value: Value) -> Vec<String> {
        let mut summary = json!({
            "seen": 10_000, "lost": 10_000, "refused": 0, "returns": 10_000, "pauses_against_the_law": 0,
            "first_of_these": null, "law": [{ "step": 1, "distance": 0.01, "bound": 0.03 }], "first_pauses": 10_000,
            "first_pause_deciles_ms": [3, 419, 819, 1223, 1617, 2000, 2404, 2793, 3191, 3599, 3999],
        });
        summary[field] = value;
        let mut findings = findings();
        attempts(&mut findings, &summary, 10_000);
        findings.checks.into_iter().filter(|check| !check.holds).map(|check| check.says).collect()
    }

    #[test]
    fn back_1_each_way_to_break_the_law_is_seen() {
        assert_eq!(failed("x", Value::Null), [""; 0]);
        for (field, value, part) in [
            ("seen", json!(9_999), "was connected, and cut off once"),
            ("lost", json!(10_001), "was connected, and cut off once"),
            ("refused", json!(1), "was connected, and cut off once"),
            ("pauses_against_the_law", json!(1), "outside of the law"),
            ("law", json!([]), "pauses are seen"),
            ("law", json!([{ "step": 2, "distance": 0.2, "bound": 0.03 }]), "spread as it spreads them"),
            ("first_pause_deciles_ms", json!(vec![0; 11]), "spread evenly over 4000 ms"),
            ("first_pauses", json!(100), "spread evenly over 4000 ms"),
        ] {
            let failed = failed(field, value);
            assert!(failed.len() == 1 && failed[0].contains(part), "{field}: {failed:?}");
        }
    }

    #[test]
    fn back_2_more_than_admission_allows_is_seen() {
        let seconds = |each: &[u64]| -> Vec<Second> {
            each.iter().map(|welcomed| Second { welcomed: *welcomed, ..Second::default() }).collect()
        };
        for (each, holds) in [(&[4000, 2000, 2000, 2000][..], true), (&[10_000], false), (&[0, 9_000], false)] {
            let mut findings = findings();
            admission(&mut findings, &seconds(each), Duration::from_secs(4));
            assert_eq!(findings.checks[0].holds, holds, "{each:?}");
        }
    }

    #[test]
    fn a_herd_beyond_all_descriptors_is_refused_with_figures() {
        if let Some(have) = getrlimit(Resource::Nofile).maximum {
            let told = fits(have as usize, 1).expect_err("more than there are").what;
            assert!(told.contains("ulimit -Hn") && told.contains(&have.to_string()), "{told}");
        }
        assert!(fits(10, 1).is_ok());
    }
}
