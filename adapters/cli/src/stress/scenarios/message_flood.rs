//! Many producers say small things as fast as their links take them, and the links are cut

use std::time::{Duration, Instant};

use rejoin_smol::chaos::{Fault, Kind};

use crate::stress::findings::{Often, Table};
use crate::stress::fleet::Plan;
use crate::stress::judge::Expected;
use crate::stress::load::{Job, Load};
use crate::stress::scenario::{Planted, Scenario, Stage, Trouble, pause};
use crate::stress::task::Work;

pub(in crate::stress) const SCENARIO: Scenario = Scenario {
    name: "message-flood",
    says: "many clients and workers say small things as fast as their links take them, while the links are cut",
    caught: &[Planted::Bug(13)],
    play: |stage| Box::pin(play(stage)),
};

/// Tasks that each client has under way
const OPEN: usize = 12;

async fn play(stage: &mut Stage) -> Result<(), Trouble> {
    let (workers, clients, span) = (stage.workers(4, 16), stage.pick(4, 16), stage.span(12, 300));
    let mut fleet = stage.fleet(Plan { clients, ..Plan::of(workers, 4) }).await?;
    let loads = (0..clients).map(|n| Load::start(&fleet, n)).collect::<Result<Vec<Load>, Trouble>>()?;
    loads.iter().try_for_each(|load| load.chatter(true))?;
    let work = Work { steps: 40, step_ms: 2, output_bytes: 64, result_bytes: 64, ..Work::default() };
    let (begun, mut cuts) = (Instant::now(), 0);
    while begun.elapsed() < span {
        for load in &loads {
            load.submit_all(OPEN.saturating_sub(load.open()), Job::of(work))?;
        }
        pause(stage.between(100, 250)).await;
        let client = stage.below(clients);
        if loads[client].is_connected() {
            fleet.clients[client].1.strike(Fault::of_all(Kind::Reset));
            cuts += 1;
        }
        let worker = stage.below(workers);
        fleet.look()?;
        if fleet.is_connected(worker) {
            fleet.reset(worker);
        }
    }
    let took = begun.elapsed();
    loads.iter().try_for_each(|load| load.chatter(false))?;
    answered(stage, &loads).await?;
    let felt: u64 = fleet.clients.iter().map(|(_, cable)| cable.counts().felt(Kind::Reset)).sum();
    let back: u64 = loads.iter().map(|load| load.book().stats.reconnections).sum();
    stage.findings.faults.insert("reset of a client", Often { planned: cuts, felt });
    stage.findings.check(
        None,
        "clients that were cut off came back",
        felt > 0 && back * 10 >= felt * 8,
        format!("{felt} cuts, {back} reconnections"),
    );
    figures(stage, &loads, took);
    let expected =
        Expected { tasks: (clients * OPEN) as u64, faults: 10, redone_max_percent: 1, ..Expected::default() };
    stage.conclude(fleet, loads, expected).await
}

/// Every question is answered in the end
async fn answered(stage: &mut Stage, loads: &[Load]) -> Result<(), Trouble> {
    let begun = Instant::now();
    while loads.iter().any(|load| load.book().unanswered > 0) && begun.elapsed() < Duration::from_secs(30) {
        pause(Duration::from_millis(20)).await;
    }
    let (open, all) = loads
        .iter()
        .map(|load| load.book())
        .fold((0, 0), |(open, all), book| (open + book.unanswered, all + book.answers));
    stage.findings.check(
        None,
        "every question of a client is answered",
        open == 0 && all > 0,
        format!("{all} answers, {open} missing"),
    );
    Ok(())
}

fn figures(stage: &mut Stage, loads: &[Load], took: Duration) {
    let mut rows = Vec::new();
    for (n, load) in loads.iter().enumerate() {
        let book = load.book();
        let rate = |count: u64| format!("{:.0}", count as f64 / took.as_secs_f64());
        let frames = book.stats.frames_in + book.stats.frames_out;
        rows.push(vec![
            format!("c{n}"),
            rate(book.answers),
            rate(frames),
            book.ended.to_string(),
            book.stats.reconnections.to_string(),
        ]);
    }
    let head = ["client", "answers per second", "frames per second", "tasks done", "reconnections"]
        .map(str::to_owned)
        .to_vec();
    stage.findings.tables.push(Table { title: "What each client said".into(), head, rows });
}
