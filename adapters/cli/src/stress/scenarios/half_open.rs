//! Nothing arrives any more, one way or both, and nobody is told

use std::time::{Duration, Instant};

use rejoin_smol::chaos::{End, Fault, Kind};

use crate::stress::fleet::{Fleet, Plan};
use crate::stress::hits::Notice;
use crate::stress::judge::Expected;
use crate::stress::load::{Job, Load};
use crate::stress::scenario::{Planted, Scenario, Stage, Trouble, pause};
use crate::stress::task::Work;

pub(in crate::stress) const SCENARIO: Scenario = Scenario {
    name: "half-open",
    says: "links become black holes, one way or both, idle and busy, and a NAT forgets a link that was idle for long",
    caught: &[Planted::Bug(31)],
    play: |stage| Box::pin(play(stage)),
};

async fn play(stage: &mut Stage) -> Result<(), Trouble> {
    let (workers, span) = (stage.workers(6, 20).max(2), stage.span(12, 600));
    let mut fleet = stage.fleet(Plan { heartbeat: Duration::from_millis(500), ..Plan::of(workers, 2) }).await?;
    let load = Load::start(&fleet, 0)?;
    let work = Work { steps: 5, step_ms: 100, result_bytes: 2000, output_bytes: 500, ..Work::default() };
    let begun = Instant::now();
    let mut round = 0;
    while begun.elapsed() < span || round < 6 {
        let busy = round % 2 == 0;
        if busy {
            load.submit_all(workers * 4, Job::of(work))?;
            pause(Duration::from_millis(200)).await;
        }
        // Each way in turn, on some workers at a time; all others go on.
        for n in (0..workers).filter(|n| n % 2 == round % 2) {
            fleet.connected(n, Duration::from_secs(20)).await?;
            blackhole(&mut fleet, n, round / 2 + n);
        }
        pause(fleet.plan.silence_max()).await;
        fleet.all_connected(Duration::from_secs(20)).await?;
        load.down_to(0, Duration::from_secs(60)).await?;
        round += 1;
    }
    nat(stage, &mut fleet).await?;
    load.submit_all(workers, Job::of(work))?;
    let expected = Expected {
        tasks: workers as u64 * 4,
        faults: workers as u64,
        redone_max_percent: 5,
        unplanned_max: workers,
        ..Expected::default()
    };
    stage.conclude(fleet, vec![load], expected).await
}

/// A link carries nothing any more: towards the worker, towards the coordinator, or both
fn blackhole(fleet: &mut Fleet, n: usize, which: usize) {
    let silence = Some(fleet.plan.silence_max());
    let notice = Notice { worker: silence, coordinator: silence, silent: true };
    let one_way = |towards| Fault { towards, ..Fault::of_all(Kind::HalfOpen) };
    match which % 3 {
        // The end that hears nothing gives up, and its closing does not arrive either.
        0 => fleet.strike(n, one_way(End::Peer), Notice { coordinator: None, ..notice }),
        1 => fleet.strike(n, one_way(End::Coordinator), Notice { worker: None, ..notice }),
        _ => fleet.strike(n, Fault::of_all(Kind::Dead), notice),
    }
}

/// A NAT forgets a link on which nothing was said for long: heartbeats are what keeps it, and what finds it out
async fn nat(stage: &mut Stage, fleet: &mut Fleet) -> Result<(), Trouble> {
    pause(Duration::from_secs(stage.pick(5, 60))).await;
    for n in 0..fleet.workers.len().min(2) {
        blackhole(fleet, n, 2);
    }
    pause(fleet.plan.silence_max()).await;
    fleet.all_connected(Duration::from_secs(20)).await
}
