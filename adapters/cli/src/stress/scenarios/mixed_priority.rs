//! Urgent tasks beside bulk: how much later they are done

use std::time::{Duration, Instant};

use rejoin_smol::chaos::{End, Fault, Kind};

use crate::stress::findings::Table;
use crate::stress::fleet::{Fleet, Plan};
use crate::stress::judge::Expected;
use crate::stress::load::{Entry, Job, Load};
use crate::stress::measure::Spread;
use crate::stress::scenario::{Planted, Scenario, Stage, Trouble, pause};
use crate::stress::task::Work;

pub(in crate::stress) const SCENARIO: Scenario = Scenario {
    name: "mixed-priority",
    says: "urgent tasks alone, and beside checkpoints and results that fill the same links, which are cut now and then",
    caught: &[Planted::Options(
        &["--pin", "bulk-piece=32KiB", "--pin", "bulk-under-way=1MiB"],
        "as much bulk is under way as a window has, whatever the link carries",
    )],
    play: |stage| Box::pin(play(stage)),
};

/// Bytes per second of each link, each way, which is what bulk and urgent tasks share
const RATE: u64 = 2_000_000;
/// One way
const LATENCY_US: u64 = 10_000;
/// Longer than all of this takes
const FOR_GOOD: Duration = Duration::from_secs(86_400);
const URGENT: Work =
    Work { steps: 1, step_ms: 100, checkpoint_bytes: 0, fresh_permille: 0, result_bytes: 100, output_bytes: 100 };
const BULK: Work = Work {
    steps: 4,
    step_ms: 1000,
    checkpoint_bytes: 3_000_000,
    fresh_permille: 1000,
    result_bytes: 2_000_000,
    output_bytes: 0,
};

async fn play(stage: &mut Stage) -> Result<(), Trouble> {
    let (workers, span) = (stage.workers(2, 4), stage.span(8, 60));
    let mut fleet = stage.fleet(Plan { clients: 2, ..Plan::of(workers, 16) }).await?;
    for worker in &fleet.workers {
        let fault = |kind, towards, amount| Fault { towards, amount, ..Fault::of_all(kind).lasting(FOR_GOOD) };
        worker.cable.strike(fault(Kind::Far, End::Peer, LATENCY_US));
        worker.cable.strike(fault(Kind::Bandwidth, End::Peer, RATE));
        worker.cable.strike(fault(Kind::Bandwidth, End::Coordinator, RATE));
    }
    let (urgent, bulk) = (Load::start(&fleet, 0)?, Load::start(&fleet, 1)?);
    let alone = urgently(stage, &mut fleet, &urgent, None, span).await?;
    let carried = fleet.carried();
    let beside = urgently(stage, &mut fleet, &urgent, Some(&bulk), span).await?;
    let used = (fleet.carried() - carried) * 100 / (RATE * span.as_secs() * workers as u64);
    for worker in &fleet.workers {
        worker.cable.heal();
    }
    let full = urgently(stage, &mut fleet, &urgent, Some(&bulk), span / 2).await?;
    // Beside the figures: links that are cut cost nobody anything but time.
    for n in 0..workers {
        fleet.connected(n, Duration::from_secs(20)).await?;
        fleet.reset(n);
    }
    let most = alone.p99_ms * 2.0 + 250.0;
    for (link, beside) in [("2 MB/s", &beside), ("full speed", &full)] {
        let found = format!("{:.0} ms beside bulk, {:.0} ms alone", beside.p99_ms, alone.p99_ms);
        let says = format!(
            "{link}: 99 % of the urgent tasks end within twice the time they take alone, and 250 ms: {most:.0} ms"
        );
        stage.findings.check(None, says, beside.p99_ms <= most && beside.count > 0, found);
    }
    stage.findings.check(None, "bulk takes at least a fifth of the links", used >= 20, format!("{used} %"));
    let row = |what: &str, spread: &Spread| {
        let ms = |ms: f64| format!("{ms:.0} ms");
        vec![what.to_owned(), spread.count.to_string(), ms(spread.p50_ms), ms(spread.p99_ms), ms(spread.max_ms)]
    };
    let head = ["urgent tasks", "number", "half", "99 %", "all"].map(str::to_owned).to_vec();
    let rows = vec![row("alone", &alone), row("beside bulk, 2 MB/s", &beside), row("beside bulk, full speed", &full)];
    stage.findings.tables.push(Table { title: "From submitting an urgent task to its end".into(), head, rows });
    let expected = Expected { tasks: 20, faults: workers as u64, redone_max_percent: 0, ..Expected::default() };
    stage.conclude(fleet, vec![urgent, bulk], expected).await
}

/// Submits urgent tasks one after another, beside bulk or not: how long they take
async fn urgently(
    stage: &mut Stage,
    fleet: &mut Fleet,
    urgent: &Load,
    bulk: Option<&Load>,
    span: Duration,
) -> Result<Spread, Trouble> {
    let workers = fleet.workers.len();
    let fill = |bulk: &Load| {
        let more = (workers * 3).saturating_sub(bulk.open());
        bulk.submit_all(more, Job { priority: 4, ..Job::of(BULK) })
    };
    if let Some(bulk) = bulk {
        fill(bulk)?;
        // Until the first checkpoints are under way.
        pause(Duration::from_secs(2)).await;
    }
    let (begun, mut own) = (Instant::now(), Vec::new());
    while begun.elapsed() < span {
        own.push(urgent.submit(Job { priority: 0, ..Job::of(URGENT) })?);
        if let Some(bulk) = bulk {
            fill(bulk)?;
        }
        pause(stage.between(60, 140)).await;
    }
    urgent.down_to(0, Duration::from_secs(60)).await?;
    let book = urgent.book();
    Ok(Spread::of(own.iter().filter_map(|task| book.tasks.get(task).and_then(Entry::latency))))
}
