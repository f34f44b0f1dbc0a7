//! A mix of tasks, and a random mix of what may befall those who do them

use std::time::{Duration, Instant};

use rejoin_core::terms::Class;

use crate::stress::fleet::Plan;
use crate::stress::judge::Expected;
use crate::stress::load::{Job, Load};
use crate::stress::mischief::Mischief;
use crate::stress::scenario::{Planted, Scenario, Stage, Trouble, pause};
use crate::stress::task::Work;

pub(in crate::stress) const SCENARIO: Scenario = Scenario {
    name: "steady-load",
    says: "a mix of tasks, while workers are killed, frozen, cut off and silenced at random, and the coordinator is killed",
    caught: &[Planted::Bug(37)],
    play: |stage| Box::pin(play(stage)),
};

async fn play(stage: &mut Stage) -> Result<(), Trouble> {
    let (workers, span) = (stage.workers(8, 20), stage.span(18, 3600));
    let mut plan = Plan::of(workers, 2);
    plan.lost_after = Duration::from_secs(3);
    plan.coordinator = ["--lease", "2s", "--lease-grace", "1s"].map(str::to_owned).to_vec();
    let mut fleet = stage.fleet(plan).await?;
    let load = Load::start(&fleet, 0)?;
    let mut mischief = Mischief::new(Duration::from_secs(5), 9);
    let begun = Instant::now();
    while begun.elapsed() < span {
        while load.open() < workers * 2 {
            load.submit(any(stage))?;
        }
        pause(stage.between(400, 1000)).await;
        mischief.strike(stage, &mut fleet).await?;
    }
    mischief.end(&mut fleet).await?;
    stage.conclude(fleet, vec![load], after_mischief(workers)).await
}

/// A task of any kind
pub(super) fn any(stage: &mut Stage) -> Job {
    let (steps, step_ms) = (1 + stage.below(8) as u64, 20 + stage.below(200) as u64);
    let small = Work { steps, step_ms, ..Work::default() };
    match stage.below(6) {
        0 => Job { class: Class::Exclusive, ..Job::of(Work { result_bytes: 100, ..small }) },
        1 => Job::of(Work { result_bytes: 300_000, ..small }),
        2 => Job::of(Work { checkpoint_bytes: 200_000, fresh_permille: 300, result_bytes: 10, ..small }),
        3 => Job { input_bytes: 200_000, ..Job::of(Work { result_bytes: 10_000, ..small }) },
        4 => Job::of(Work { output_bytes: 20_000, ..small }),
        _ => Job { priority: 0, ..Job::of(Work { result_bytes: 10, ..small }) },
    }
}

/// What must come of a fleet that was broken at random
pub(super) fn after_mischief(workers: usize) -> Expected {
    Expected {
        tasks: workers as u64,
        faults: workers as u64,
        redone_max_percent: 40,
        unplanned_max: workers,
        ..Expected::default()
    }
}
