//! Part of the network is gone: one way, some workers, new connections, or old ones

use std::time::Duration;

use rejoin_smol::chaos::{End, Fault, Kind};

use crate::stress::fleet::{Fleet, Plan};
use crate::stress::hits::Notice;
use crate::stress::judge::Expected;
use crate::stress::load::{Job, Load};
use crate::stress::scenario::{Planted, Scenario, Stage, Trouble, pause};
use crate::stress::task::Work;

pub(in crate::stress) const SCENARIO: Scenario = Scenario {
    name: "partial-outage",
    says: "one way of a link, some of the workers, new connections only, or old ones only are cut off; the others go on",
    caught: &[Planted::Bug(10)],
    play: |stage| Box::pin(play(stage)),
};

#[derive(Clone, Copy)]
enum Outage {
    OneWay(End),
    Some,
    NewOnly,
    OldOnly,
}

async fn play(stage: &mut Stage) -> Result<(), Trouble> {
    let workers = stage.workers(8, 24).max(2);
    let lasts = Duration::from_secs(stage.pick(5, 20));
    let mut fleet = stage.fleet(Plan::of(workers, 2)).await?;
    let load = Load::start(&fleet, 0)?;
    let outages =
        [Outage::OneWay(End::Peer), Outage::OneWay(End::Coordinator), Outage::Some, Outage::NewOnly, Outage::OldOnly];
    for _ in 0..stage.pick(1, 6) {
        for outage in outages {
            one(stage, &mut fleet, &load, outage, lasts).await?;
        }
    }
    let expected = Expected {
        tasks: (workers * 5) as u64,
        faults: (workers / 2 * 5) as u64,
        redone_max_percent: 0,
        ..Expected::default()
    };
    stage.conclude(fleet, vec![load], expected).await
}

/// Half of the workers are cut off in that way, and those that are not get on meanwhile
async fn one(
    stage: &mut Stage,
    fleet: &mut Fleet,
    load: &Load,
    outage: Outage,
    lasts: Duration,
) -> Result<(), Trouble> {
    let workers = fleet.workers.len();
    let work = Work { steps: 3, step_ms: 100, result_bytes: 500, ..Work::default() };
    fleet.all_connected(Duration::from_secs(33)).await?;
    let struck: Vec<usize> = (0..workers).filter(|n| n % 2 == 0).collect();
    for n in &struck {
        load.submit_all(4, Job { only: Some(*n), ..Job::of(work) })?;
    }
    pause(Duration::from_millis(150)).await;
    let before = load.book().ended;
    struck.iter().for_each(|n| cut_off(fleet, *n, outage, lasts));
    // What the others do is not held up.
    let own = workers - struck.len();
    for n in (0..workers).filter(|n| n % 2 == 1) {
        load.submit_all(4, Job { only: Some(n), ..Job::of(work) })?;
    }
    pause(lasts).await;
    let done = load.book().ended - before;
    let found = format!("{done} tasks in {} s", lasts.as_secs());
    stage.findings.check(Some("L7"), "the others go on meanwhile", done >= own * 4, found);
    if matches!(outage, Outage::OneWay(_) | Outage::Some | Outage::NewOnly) {
        struck.iter().for_each(|n| fleet.over(*n));
    }
    load.down_to(0, Duration::from_secs(60)).await
}

fn cut_off(fleet: &mut Fleet, n: usize, outage: Outage, lasts: Duration) {
    let silence = Some(fleet.plan.silence_max());
    let silent = Notice { worker: silence, coordinator: silence, silent: true };
    let fault = |kind, towards| Fault { towards, ..Fault::of_all(kind).lasting(lasts) };
    match outage {
        Outage::OneWay(End::Peer) => {
            fleet.strike(n, fault(Kind::Stall, End::Peer), Notice { coordinator: None, ..silent })
        }
        Outage::OneWay(End::Coordinator) => {
            fleet.strike(n, fault(Kind::Stall, End::Coordinator), Notice { worker: None, ..silent });
        }
        Outage::Some => fleet.strike(n, fault(Kind::Partition, End::Peer), silent),
        Outage::NewOnly => {
            // An old one would not notice: it is reset, so that it has to become a new one.
            fleet.workers[n].cable.strike(fault(Kind::Hang, End::Peer));
            fleet.reset(n);
        }
        Outage::OldOnly => fleet.strike(n, Fault::of_all(Kind::Dead), silent),
    }
}
