//! Several of the others at once

use std::time::{Duration, Instant};

use rejoin_smol::chaos::{End, Fault, Kind};

use crate::stress::fleet::Plan;
use crate::stress::load::{Job, Load};
use crate::stress::mischief::Mischief;
use crate::stress::scenario::{Planted, Scenario, Stage, Trouble, pause};
use crate::stress::task::Work;

use super::steady_load::{after_mischief, any};

pub(in crate::stress) const SCENARIO: Scenario = Scenario {
    name: "concurrent",
    says: "a flood of messages, checkpoints of megabytes, slow links, kills and black holes at once",
    caught: &[Planted::Bug(4)],
    play: |stage| Box::pin(play(stage)),
};

async fn play(stage: &mut Stage) -> Result<(), Trouble> {
    let (workers, span) = (stage.workers(8, 24).max(4), stage.span(18, 600));
    let mut plan = Plan { clients: 3, ..Plan::of(workers, 4) };
    plan.lost_after = Duration::from_secs(3);
    let mut fleet = stage.fleet(plan).await?;
    let loads = (0..3).map(|n| Load::start(&fleet, n)).collect::<Result<Vec<Load>, Trouble>>()?;
    // A quarter of the links is slow, for as long as all this lasts.
    for worker in fleet.workers.iter().step_by(4) {
        let slow = |kind, towards, amount| Fault { towards, amount, ..Fault::of_all(kind).lasting(span) };
        worker.cable.strike(slow(Kind::Far, End::Peer, 50_000));
        worker.cable.strike(slow(Kind::Bandwidth, End::Coordinator, 100_000));
        worker.cable.strike(slow(Kind::Bandwidth, End::Peer, 100_000));
    }
    loads[0].chatter(true)?;
    let flood = Work { steps: 20, step_ms: 5, output_bytes: 64, result_bytes: 64, ..Work::default() };
    let heavy = Work { steps: 4, step_ms: 400, checkpoint_bytes: 2_000_000, fresh_permille: 500, ..Work::default() };
    let mut mischief = Mischief::new(Duration::from_secs(5), 12);
    let begun = Instant::now();
    while begun.elapsed() < span {
        loads[0].submit_all(workers.saturating_sub(loads[0].open()), Job::of(flood))?;
        loads[1].submit_all((workers / 4).saturating_sub(loads[1].open()), Job::of(heavy))?;
        while loads[2].open() < workers {
            loads[2].submit(any(stage))?;
        }
        pause(stage.between(300, 800)).await;
        mischief.strike(stage, &mut fleet).await?;
    }
    loads[0].chatter(false)?;
    mischief.end(&mut fleet).await?;
    fleet.workers.iter().for_each(|worker| worker.cable.heal());
    stage.conclude(fleet, loads, after_mischief(workers)).await
}
