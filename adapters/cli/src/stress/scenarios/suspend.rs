//! A worker is frozen, and returns as if no time had passed

use std::time::Duration;

use rejoin_core::terms::Class;

use crate::stress::fleet::Plan;
use crate::stress::judge::Expected;
use crate::stress::load::{Job, Load};
use crate::stress::log::Word;
use crate::stress::scenario::{Planted, Scenario, Stage, Trouble, pause};
use crate::stress::task::Work;

pub(in crate::stress) const SCENARIO: Scenario = Scenario {
    name: "suspend",
    says: "workers are frozen, some for so long that their tasks go to others, and return in the midst of their own",
    caught: &[Planted::Bug(11), Planted::Bug(20)],
    play: |stage| Box::pin(play(stage)),
};

async fn play(stage: &mut Stage) -> Result<(), Trouble> {
    let workers = stage.workers(6, 12).max(4);
    let (lost_after, nap, sleep) = stage.pick((7, 4, 12), (40, 20, 180));
    let mut plan = Plan::of(workers, 2);
    plan.lost_after = Duration::from_secs(lost_after);
    plan.coordinator = ["--lease", "2s", "--lease-grace", "1s"].map(str::to_owned).to_vec();
    let mut fleet = stage.fleet(plan).await?;
    let load = Load::start(&fleet, 0)?;
    let rounds = stage.pick(1, 3);
    for _ in 0..rounds {
        for n in 0..workers * 2 {
            let work = Work { steps: 20, step_ms: 300, checkpoint_bytes: 1000, result_bytes: 100, ..Work::default() };
            let class = if n % 3 == 0 { Class::Exclusive } else { Class::Idempotent };
            load.submit(Job { class, ..Job::of(work) })?;
        }
        pause(Duration::from_secs(1)).await;
        // Half of them for a nap, out of which sessions go on, one of them for long.
        let half: Vec<usize> = (0..workers / 2).collect();
        half.iter().for_each(|n| fleet.freeze(*n));
        pause(Duration::from_secs(nap)).await;
        half.iter().skip(1).for_each(|n| fleet.thaw(*n));
        pause(Duration::from_secs(sleep - nap)).await;
        fleet.thaw(0);
        load.down_to(0, Duration::from_secs(60)).await?;
        fleet.all_connected(Duration::from_secs(20)).await?;
    }
    let lost = fleet.said.said.iter().filter(|said| matches!(said.word, Word::Lost { .. })).count();
    let found = format!("{lost} workers were lost");
    stage.findings.check(Some("L5"), "whoever was frozen for long was lost, and nobody else", lost == rounds, found);
    let expected = Expected {
        tasks: (workers * 2) as u64,
        faults: (workers / 2 * rounds) as u64,
        resume_max: Duration::from_secs(5),
        redone_max_percent: 35,
        ..Expected::default()
    };
    stage.conclude(fleet, vec![load], expected).await
}
