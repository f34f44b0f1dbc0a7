//! The coordinator is killed again and again while tasks are done

use std::time::Duration;

use crate::stress::fleet::Plan;
use crate::stress::judge::Expected;
use crate::stress::load::{Job, Load};
use crate::stress::scenario::{Scenario, Stage, Trouble, pause};
use crate::stress::task::Work;

pub(in crate::stress) const SCENARIO: Scenario = Scenario {
    name: "coordinator-kill",
    says: "the coordinator is killed again and again under load, and goes on from its journal",
    caught: &[1],
    play: |stage| Box::pin(play(stage)),
};

async fn play(stage: &mut Stage) -> Result<(), Trouble> {
    let (workers, kills) = (stage.workers(50, 200), stage.pick(10, 50));
    let mut fleet = stage.fleet(Plan::of(workers, 2)).await?;
    let load = Load::start(&fleet, 0)?;
    let work = Work { steps: 1, step_ms: 300, result_bytes: 200, ..Work::default() };
    for _ in 0..kills {
        load.submit_all((workers / 2).saturating_sub(load.open()), Job::of(work))?;
        // In the midst of it: some are being submitted, some run, some have just ended.
        pause(stage.between(100, 500)).await;
        fleet.kill_coordinator();
        pause(stage.between(50, 200)).await;
        fleet.start_coordinator()?;
        (0..workers).for_each(|n| fleet.over(n));
        fleet.all_connected(Duration::from_secs(30)).await?;
    }
    let expected = Expected {
        tasks: kills as u64,
        faults: kills as u64,
        redone_max_percent: 1,
        unplanned_max: workers / 10,
        ..Expected::default()
    };
    stage.conclude(fleet, vec![load], expected).await
}
