//! Checkpoints of 10 MB each second, over links of which most are far too slow for that, cut in the midst of a chunk

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rejoin_core::ids::TaskId;
use rejoin_smol::chaos::{End, Fault, Kind};

use crate::stress::findings::Table;
use crate::stress::fleet::{Fleet, Plan};
use crate::stress::hits::{Hit, Notice};
use crate::stress::judge::Expected;
use crate::stress::load::{Job, Load};
use crate::stress::log::{Stamp, Word};
use crate::stress::scenario::{Planted, Scenario, Stage, Trouble, pause};
use crate::stress::task::{Deed, Work};

use super::until_struck;

pub(in crate::stress) const SCENARIO: Scenario = Scenario {
    name: "checkpoint-heavy",
    says: "10 MB checkpoints each second over links of 1 KB/s to full speed, which are cut in the midst of a chunk",
    caught: &[Planted::Bug(23)],
    play: |stage| Box::pin(play(stage)),
};

/// Bytes per second from the worker to the coordinator; none is as much as there is
const RATES: [Option<u64>; 5] = [None, None, Some(4_000_000), Some(64_000), Some(1000)];
const CHECKPOINT_BYTES: u64 = 10_000_000;
/// What is new in each, by link, in thousandths
const FRESH: [u64; 5] = [1000, 100, 100, 10, 10];
/// Longer than all of this takes
const FOR_GOOD: Duration = Duration::from_secs(86_400);
/// However slow the machine is
const LONGEST: Duration = Duration::from_secs(90);
/// How long a result may take to come beside a checkpoint, of which 30 s may be a pause between two dials (BACK-1)
const RESULT_MAX: Duration = Duration::from_secs(45);

async fn play(stage: &mut Stage) -> Result<(), Trouble> {
    let steps = stage.pick(8, 60);
    let mut plan = Plan::of(RATES.len(), 1);
    // The slowest link takes a second for what is said when it is resumed.
    plan.heartbeat = Duration::from_secs(5);
    let mut fleet = stage.fleet(plan).await?;
    for (worker, rate) in fleet.workers.iter().zip(RATES) {
        let Some(amount) = rate else { continue };
        let fault = Fault { towards: End::Coordinator, amount, ..Fault::of_all(Kind::Bandwidth).lasting(FOR_GOOD) };
        worker.cable.strike(fault);
    }
    let load = Load::start(&fleet, 0)?;
    let mut tasks = Vec::new();
    let (begun, mut killed) = (Instant::now(), false);
    // However fast this machine is, so much goes over the fastest link.
    let enough = CHECKPOINT_BYTES * stage.pick(4, 40);
    while begun.elapsed() < LONGEST * stage.pick(1, 10) && (fleet.workers[0].cable.carried()[1] < enough || !killed) {
        supply(&load, steps, &mut tasks)?;
        pause(stage.between(1500, 2500)).await;
        if !killed && !fleet.waits(0, Kind::ResetAfter) && fleet.workers[0].cable.carried()[1] > enough / 2 {
            // The next attempt starts from 10 MB.
            killed = true;
            fleet.connected(0, Duration::from_secs(30)).await?;
            fleet.kill_worker(0);
            fleet.over(0);
            fleet.start_worker(0)?;
        }
        cut(stage, &mut fleet)?;
    }
    load.down_to(0, Duration::from_secs(60 + steps * 3)).await?;
    until_struck(&mut fleet, &load, Kind::ResetAfter).await?;
    let took = begun.elapsed();
    let to_coordinator: Vec<u64> = fleet.workers.iter().map(|worker| worker.cable.carried()[1]).collect();
    let ended: BTreeMap<TaskId, Stamp> =
        load.book().tasks.iter().filter_map(|(task, entry)| Some((*task, entry.ended?))).collect();
    let expected = Expected {
        tasks: RATES.len() as u64,
        faults: 4,
        resume_half_max: Duration::from_secs(5),
        redone_max_percent: 25,
        ..Expected::default()
    };
    fleet.look()?;
    let restored = fleet.workers[0].log.said.iter().filter(|said| said.word == Word::Restored).count();
    stage.findings.check(
        Some("S13"),
        "a killed worker's task went on from its checkpoint",
        restored > 0,
        restored.to_string(),
    );
    let found = if killed { "it was" } else { "too little came through for that" };
    stage.findings.check(None, "a worker is killed", killed, found);
    stage.conclude(fleet, vec![load], expected).await?;
    figures(stage, &tasks, &ended, &to_coordinator, took);
    Ok(())
}

/// Every worker has a task all the time
fn supply(load: &Load, steps: u64, tasks: &mut Vec<(usize, TaskId)>) -> Result<(), Trouble> {
    for (n, fresh_permille) in FRESH.into_iter().enumerate() {
        let open = |task: &TaskId| load.book().tasks.get(task).is_some_and(|entry| entry.ended.is_none());
        if tasks.iter().any(|(of, task)| *of == n && open(task)) {
            continue;
        }
        let (checkpoint_bytes, result_bytes) = (CHECKPOINT_BYTES, 200);
        let work = Work { steps, step_ms: 1000, checkpoint_bytes, fresh_permille, result_bytes, output_bytes: 0 };
        tasks.push((n, load.submit(Job { only: Some(n), ..Job::of(work) })?));
    }
    Ok(())
}

/// Cuts every link whose worker is connected, behind some more bytes: in the midst of a chunk
fn cut(stage: &mut Stage, fleet: &mut Fleet) -> Result<(), Trouble> {
    fleet.look()?;
    for (n, rate) in RATES.into_iter().enumerate() {
        let free = fleet.is_connected(n) && !fleet.waits(n, Kind::ResetAfter);
        // The slowest is cut once, since it takes seconds to come back; and each cut makes the next pause longer (BACK-1).
        let most = if rate == Some(1000) { 1 } else { stage.pick(4, 30) };
        if !free || cuts(fleet, n) >= most {
            continue;
        }
        let most = rate.map_or(200_000, |rate| (rate / 4).min(200_000)) as usize;
        let amount = 1 + stage.below(most) as u64;
        let fault = Fault { towards: End::Coordinator, amount, ..Fault::of_all(Kind::ResetAfter) };
        // When it strikes depends on how much goes over the link.
        let soon = Some(LONGEST);
        let notice = Notice { worker: soon, coordinator: soon, silent: false };
        let mut hit = Hit::new(n, Kind::ResetAfter.name(), Stamp::now(), notice);
        (hit.kind, hit.untimed) = (Some(Kind::ResetAfter), true);
        fleet.workers[n].cable.strike(fault);
        fleet.hits.push(hit);
    }
    Ok(())
}

fn cuts(fleet: &Fleet, n: usize) -> u64 {
    fleet.hits.iter().filter(|hit| hit.worker == n && hit.kind.is_some()).count() as u64
}

/// What became durable of what went over each link, and how long each result took beside that
fn figures(
    stage: &mut Stage,
    tasks: &[(usize, TaskId)],
    ended: &BTreeMap<TaskId, Stamp>,
    carried: &[u64],
    took: Duration,
) {
    let mut rows = Vec::new();
    let mut late = Vec::new();
    for (n, carried) in carried.iter().enumerate() {
        let own = || tasks.iter().filter(|(of, _)| *of == n).map(|(_, task)| *task);
        let saved: u32 = own().filter_map(|task| stage.findings.saved.get(&task)).sum();
        let marks = &stage.findings.marks;
        let took_result = |task: TaskId| {
            let end = marks.iter().find(|mark| mark.task == task.0 && mark.deed == Deed::End)?;
            Some(ended.get(&task)?.since(end.at))
        };
        let result = own().map(took_result).max().flatten();
        if result.is_none_or(|us| u128::from(us) > RESULT_MAX.as_micros()) {
            late.push(format!("w{n}: {:?} ms", result.map(|us| us / 1000)));
        }
        let fresh = FRESH[n];
        rows.push(vec![
            RATES[n].map_or("full".to_owned(), |rate| format!("{} KB/s", rate / 1000)),
            format!("{} %", fresh / 10),
            saved.to_string(),
            format!("{:.1} MB", *carried as f64 / 1e6),
            format!("{:.2} MB/s", *carried as f64 / 1e6 / took.as_secs_f64()),
            result.map_or("-".into(), |us| format!("{} ms", us / 1000)),
        ]);
        // All of the first one, and what is new in those behind it.
        if n == 0 {
            let durable = u64::from(saved) * CHECKPOINT_BYTES;
            let found = format!("{:.1} of {:.1} MB, {saved} checkpoints", durable as f64 / 1e6, *carried as f64 / 1e6);
            let says = "of what went over the fastest link, at least half became durable checkpoints";
            stage.findings.check(Some("L12"), says, saved >= 1 && durable * 2 >= *carried, found);
        }
        if n == 1 {
            let says = "where a tenth is new, more than one checkpoint became durable";
            stage.findings.check(Some("L12"), says, saved > 1, saved.to_string());
        }
    }
    let says = format!("every result comes within {} s beside a checkpoint that fills its link", RESULT_MAX.as_secs());
    stage.findings.check_none(Some("L4"), says, &late);
    let head = ["rate", "new in each", "durable checkpoints", "sent", "speed", "result after its task's end"];
    let head = head.map(str::to_owned).to_vec();
    stage.findings.tables.push(Table { title: "Checkpoints of 10 MB by link".into(), head, rows });
}
