//! Workers are killed or frozen past every lease, and their tasks go on elsewhere from their checkpoints

use std::time::{Duration, Instant};

use rejoin_core::terms::Class;

use crate::stress::fleet::Plan;
use crate::stress::judge::Expected;
use crate::stress::load::{Job, Load};
use crate::stress::scenario::{Planted, Scenario, Stage, Trouble, pause};
use crate::stress::task::Work;

pub(in crate::stress) const SCENARIO: Scenario = Scenario {
    name: "worker-kill",
    says: "workers are killed, and frozen for longer than their leases, while tasks make checkpoints",
    caught: &[Planted::Bug(20)],
    play: |stage| Box::pin(play(stage)),
};

/// When a worker that is away is lost
const LOST_AFTER: Duration = Duration::from_secs(3);
/// Longer than that, and than lease and grace together
const AWAY: Duration = Duration::from_secs(6);

async fn play(stage: &mut Stage) -> Result<(), Trouble> {
    let (workers, span) = (stage.workers(6, 20).max(3), stage.span(20, 600));
    let mut plan = Plan::of(workers, 2);
    plan.lost_after = LOST_AFTER;
    plan.coordinator = ["--lease", "2s", "--lease-grace", "1s"].map(str::to_owned).to_vec();
    let mut fleet = stage.fleet(plan).await?;
    let load = Load::start(&fleet, 0)?;
    let work = Work {
        steps: 10,
        step_ms: 200,
        checkpoint_bytes: 4000,
        fresh_permille: 1000,
        result_bytes: 100,
        ..Work::default()
    };
    let begun = Instant::now();
    while begun.elapsed() < span {
        // Somebody always has something to do.
        while load.open() < workers * 3 {
            let class = if stage.below(3) == 0 { Class::Exclusive } else { Class::Idempotent };
            load.submit(Job { class, ..Job::of(work) })?;
        }
        pause(stage.between(800, 1600)).await;
        let victim = stage.below(workers);
        fleet.connected(victim, Duration::from_secs(20)).await?;
        match stage.below(4) {
            0 => {
                fleet.freeze(victim);
                pause(AWAY).await;
                fleet.thaw(victim);
            }
            1 => {
                fleet.kill_worker(victim);
                pause(AWAY).await;
                fleet.over(victim);
                fleet.start_worker(victim)?;
            }
            _ => {
                fleet.kill_worker(victim);
                fleet.over(victim);
                fleet.start_worker(victim)?;
            }
        }
        fleet.connected(victim, Duration::from_secs(20)).await?;
    }
    let expected = Expected {
        tasks: workers as u64,
        faults: 3,
        resume_max: Duration::from_secs(5),
        redone_max_percent: 40,
        ..Expected::default()
    };
    stage.conclude(fleet, vec![load], expected).await
}
