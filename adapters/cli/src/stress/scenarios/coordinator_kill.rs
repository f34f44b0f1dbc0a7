//! The coordinator is killed again and again while tasks are done

use std::time::{Duration, Instant};

use crate::stress::fleet::Plan;
use crate::stress::judge::Expected;
use crate::stress::load::{Job, Load};
use crate::stress::scenario::{Planted, Scenario, Stage, Trouble, pause};
use crate::stress::task::Work;

pub(in crate::stress) const SCENARIO: Scenario = Scenario {
    name: "coordinator-kill",
    says: "the coordinator is killed again and again under load, and goes on from its journal",
    caught: &[Planted::Bug(32), Planted::Bug(30)],
    play: |stage| Box::pin(play(stage)),
};

async fn play(stage: &mut Stage) -> Result<(), Trouble> {
    let (workers, kills) = (stage.workers(50, 200), stage.pick(10, 50));
    // Silence is not what this is about, and so many processes on few processors are silent for long.
    let plan = Plan { heartbeat: Duration::from_secs(3), ..Plan::of(workers, 2) };
    let mut fleet = stage.fleet(plan).await?;
    let load = Load::start(&fleet, 0)?;
    let work = Work { steps: 1, step_ms: 300, result_bytes: 200, ..Work::default() };
    let most = Duration::from_secs(30);
    for _ in 0..kills {
        // Those that were cut off again and again stay away for longer each time: half of them will do.
        let begun = Instant::now();
        while fleet.connected_now()? < workers / 2 && begun.elapsed() < most {
            pause(Duration::from_millis(20)).await;
        }
        load.submit_all((workers / 2).saturating_sub(load.open()), Job::of(work))?;
        // In the midst of it: some are being submitted, some run, some have just ended.
        pause(stage.between(100, 500)).await;
        fleet.kill_coordinator()?;
        pause(stage.between(20, 100)).await;
        fleet.start_coordinator()?;
        fleet.all_over();
    }
    let expected = Expected {
        tasks: kills as u64,
        faults: kills as u64,
        redone_max_percent: 1,
        resume_half_max: Duration::from_secs(4),
        unplanned_max: workers / 10,
        ..Expected::default()
    };
    stage.conclude(fleet, vec![load], expected).await
}
