//! One byte in ten thousand is damaged, in either direction, over ws and over wss

use std::time::{Duration, Instant};

use rejoin_core::backoff::BackoffConfig;
use rejoin_smol::chaos::{Kind, Profile};

use crate::stress::findings::{Often, Table};
use crate::stress::fleet::{Fleet, Plan};
use crate::stress::judge::Expected;
use crate::stress::load::{Job, Load};
use crate::stress::scenario::{Planted, Scenario, Stage, Trouble, pause};
use crate::stress::task::Work;

pub(in crate::stress) const SCENARIO: Scenario = Scenario {
    name: "corruption",
    says: "a bit is flipped in one of 10,000 bytes, each way, over ws and over wss: each of these is refused",
    caught: &[Planted::Bug(25), Planted::Bug(26)],
    play: |stage| Box::pin(play(stage)),
};

/// A connection that has been damaged ends within that: by silence, if a length was damaged (LIVE-2)
const ENDS_WITHIN: Duration = Duration::from_secs(12);
/// Clients come back at once, so that much goes over noisy links: a worker's pauses would grow to half a minute
const PAUSES: BackoffConfig = BackoffConfig {
    base: Duration::from_millis(20),
    cap: Duration::from_millis(60),
    late_after: Duration::from_secs(600),
    late_cap: Duration::from_millis(60),
    stable_after: Duration::from_secs(1),
    slow_min: Duration::from_millis(50),
    slow_max: Duration::from_millis(200),
};

async fn play(stage: &mut Stage) -> Result<(), Trouble> {
    let mut rows = Vec::new();
    for secure in [false, true] {
        rows.push(over(stage, secure).await?);
    }
    let head = ["links", "bytes", "bits flipped", "connections", "tasks"].map(str::to_owned).to_vec();
    stage.findings.tables.push(Table { title: "What was damaged".into(), head, rows });
    Ok(())
}

async fn over(stage: &mut Stage, secure: bool) -> Result<Vec<String>, Trouble> {
    let (workers, clients, span) = (stage.workers(4, 16), stage.pick(10, 32), stage.span(12, 300));
    let plan = Plan { clients, secure, noise: Some(Profile::Noise), ..Plan::of(workers, 8) };
    let mut fleet = stage.fleet(plan).await?;
    let load = |n| Load::with_pauses(&fleet, n, PAUSES.clone());
    let loads = (0..clients).map(load).collect::<Result<Vec<Load>, Trouble>>()?;
    let work = Work { steps: 1, step_ms: 20, result_bytes: 4000, output_bytes: 1000, ..Work::default() };
    let (begun, mut longest) = (Instant::now(), Duration::ZERO);
    while begun.elapsed() < span {
        for load in &loads {
            // Inputs are what fills the links: a piece that was damaged is sent again, and none that has arrived.
            load.submit_all(3_usize.saturating_sub(load.open()), Job { input_bytes: 60_000, ..Job::of(work) })?;
        }
        pause(Duration::from_millis(50)).await;
        longest = longest.max(scars(&fleet));
    }
    // What is damaged by then is to be refused as well.
    for cable in cables(&fleet) {
        cable.heal();
    }
    let healed = Instant::now();
    while healed.elapsed() < ENDS_WITHIN && !scars(&fleet).is_zero() {
        pause(Duration::from_millis(50)).await;
        longest = longest.max(scars(&fleet));
    }
    let kind = if secure { "wss" } else { "ws" };
    let flips: u64 = cables(&fleet).map(|cable| cable.counts().felt(Kind::Flip)).sum();
    let connections: u64 = cables(&fleet).map(|cable| cable.counts().connections).sum();
    let bytes: u64 = cables(&fleet).flat_map(|cable| cable.carried()).sum();
    let says = format!("{kind}: every connection in which a bit was flipped ends within {} s", ENDS_WITHIN.as_secs());
    let found = format!("{flips} flips, the longest went on for {} ms", longest.as_millis());
    stage.findings.check(Some("S15"), says, longest < ENDS_WITHIN && flips > 0, found);
    let least = span.as_secs() * 25;
    stage.findings.check(
        None,
        format!("{kind}: at least {least} bits were flipped"),
        flips >= least,
        flips.to_string(),
    );
    stage
        .findings
        .faults
        .insert(if secure { "flip over wss" } else { "flip over ws" }, Often { planned: flips, felt: flips });
    let tasks: usize = loads.iter().map(|load| load.book().ended).sum();
    let expected = Expected {
        tasks: clients as u64,
        faults: 0,
        // Who failed three handshakes in a row waits for half a minute and more; others do the work.
        back_within: Duration::from_secs(0),
        redone_max_percent: 5,
        unplanned_max: usize::MAX,
        ..Expected::default()
    };
    fleet.look()?;
    stage.findings.reconnections += connections - (workers + clients) as u64;
    stage.conclude(fleet, loads, expected).await?;
    Ok([kind.to_owned(), bytes.to_string(), flips.to_string(), connections.to_string(), tasks.to_string()].to_vec())
}

fn cables(fleet: &Fleet) -> impl Iterator<Item = &rejoin_smol::chaos::Proxy> {
    fleet.workers.iter().map(|worker| &worker.cable).chain(fleet.clients.iter().map(|(_, cable)| cable))
}

/// How long a damaged connection has gone on
fn scars(fleet: &Fleet) -> Duration {
    cables(fleet).filter_map(|cable| cable.scarred_for()).max().unwrap_or_default()
}
