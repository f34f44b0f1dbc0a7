//! The link breaks behind every byte of what is said about one task, one after another

use std::time::Duration;

use rejoin_smol::chaos::{End, Fault, Kind};

use crate::stress::fleet::Plan;
use crate::stress::hits::{Hit, Notice};
use crate::stress::judge::Expected;
use crate::stress::load::{Job, Load};
use crate::stress::log::Stamp;
use crate::stress::scenario::{Planted, Scenario, Stage, Trouble};
use crate::stress::task::Work;

use super::until_struck;

pub(in crate::stress) const SCENARIO: Scenario = Scenario {
    name: "unplug-mid-result",
    says: "the link of a worker is cut between each two things that are said about one task, in either direction",
    caught: &[Planted::Bug(2), Planted::Bug(13)],
    play: |stage| Box::pin(play(stage)),
};

/// Bytes between two places where it is cut: fewer than any frame has
const APART: u64 = 24;

async fn play(stage: &mut Stage) -> Result<(), Trouble> {
    let workers = stage.workers(12, 24);
    let rounds = stage.pick(4, 12);
    let mut plan = Plan::of(workers, 1);
    // Heartbeats would be struck in place of what the task is about.
    plan.heartbeat = Duration::from_secs(5);
    plan.coordinator = ["--flapping-within", "1ms"].map(str::to_owned).to_vec();
    let mut fleet = stage.fleet(plan).await?;
    let load = Load::start(&fleet, 0)?;
    let work = Work { steps: 1, step_ms: 100, result_bytes: 100, output_bytes: 50, ..Work::default() };
    for round in 0..rounds {
        fleet.all_connected(Duration::from_secs(33)).await?;
        for n in 0..workers {
            let place = (round / 2 * workers + n) as u64;
            let towards = if round % 2 == 0 { End::Peer } else { End::Coordinator };
            let soon = Some(Duration::from_secs(20));
            let fault = Fault { towards, amount: 1 + place * APART, ..Fault::of_all(Kind::ResetAfter) };
            let mut hit = Hit::new(
                n,
                Kind::ResetAfter.name(),
                Stamp::now(),
                Notice { worker: soon, coordinator: soon, silent: false },
            );
            (hit.kind, hit.untimed) = (Some(Kind::ResetAfter), true);
            fleet.workers[n].cable.strike(fault);
            fleet.hits.push(hit);
            load.submit(Job { only: Some(n), ..Job::of(work) })?;
        }
        load.down_to(0, Duration::from_secs(40)).await?;
        until_struck(&mut fleet, &load, Kind::ResetAfter).await?;
    }
    let expected = Expected {
        tasks: (workers * rounds) as u64,
        faults: (workers * rounds) as u64,
        redone_max_percent: 0,
        ..Expected::default()
    };
    stage.conclude(fleet, vec![load], expected).await
}
