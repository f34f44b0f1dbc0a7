//! Tasks are asked for checkpoints as often as that pays, and when their worker is drained (LIVE-6, TASK-8)
#![allow(clippy::unwrap_used)]

mod common;

use common::{connected, drive_connected, ms, secs};
use rejoin_core::ids::Token;
use rejoin_core::limits::MTBF_PRIOR;
use rejoin_core::worker::Input;
use rejoin_sim::{Job, JournalMode, Setup, World};
use std::time::Duration;

/// A world whose worker runs a task that makes checkpoints when this test says so
fn running(setup: Setup) -> (World, Token) {
    let mut world = connected(setup);
    world.submit("long", Job::takes(secs(100_000)));
    world.drive_until("it runs", |world| !world.starts.is_empty());
    let token = world.starts[0].1;
    (world, token)
}

/// Drives until a worker is asked once more, and returns how long that took
fn asked(world: &mut World) -> Duration {
    let (from, known) = (world.now(), world.wanted.len());
    while world.wanted.len() == known {
        assert!(world.step() && world.now().since(from) < secs(3_601), "it is asked");
    }
    world.now().since(from)
}

fn make(world: &mut World, token: Token) {
    world.tell_worker(0, Input::Checkpoint { token, bytes: &[1; 20] }).expect("it runs");
}

fn root(cost: Duration, mean: Duration) -> Duration {
    Duration::from_secs_f64((2.0 * cost.as_secs_f64() * mean.as_secs_f64()).sqrt())
}

fn about(is: Duration, should: Duration) -> bool {
    is.abs_diff(should) < should / 50
}

#[test]
fn live_6_a_task_is_asked_once_until_it_has_made_one_and_by_what_they_cost() {
    let (mut world, token) = running(Setup::default());
    world.journal.mode = JournalMode::Syncs(secs(8));
    let first = asked(&mut world);
    assert!(about(first, root(secs(1), MTBF_PRIOR)), "{first:?}");
    world.run_for(secs(4_000));
    assert_eq!(world.wanted.len(), 1, "once");
    for _ in 0..20 {
        make(&mut world, token);
        asked(&mut world);
    }
    make(&mut world, token);
    let mean = MTBF_PRIOR + Duration::from_micros(world.now().as_micros());
    let later = asked(&mut world);
    assert!(later > root(secs(8), MTBF_PRIOR) * 49 / 50 && later < root(secs(8), mean) * 51 / 50, "{later:?}");
}

#[test]
fn live_6_whoever_makes_checkpoints_without_being_asked_is_not_asked() {
    let pinned = |config: &mut rejoin_core::worker::Config| config.link.pins.checkpoint_every = Some(secs(101));
    let (mut world, token) = running(Setup { worker: pinned, ..Setup::default() });
    for _ in 0..100 {
        world.run_for(secs(100));
        make(&mut world, token);
    }
    assert!(world.wanted.is_empty(), "{:?}", world.wanted);
}

#[test]
fn live_6_a_cut_does_not_count_as_cost() {
    let (mut world, token) = running(Setup::default());
    asked(&mut world);
    let made = world.now();
    make(&mut world, token);
    world.wire(0).refuses = true;
    world.reset(0);
    world.run_for(secs(30));
    world.wire(0).refuses = false;
    drive_connected(&mut world, 0);
    world.run_for(secs(1));
    assert_eq!(world.checkpointed.len(), 1, "it is durable");
    asked(&mut world);
    let next = world.now().since(made);
    assert!(about(next, root(secs(1), MTBF_PRIOR)), "{next:?}");
}

#[test]
fn live_6_where_workers_fail_often_all_are_asked_more_often_also_those_that_were_there_before() {
    let (mut world, token) = running(Setup { workers: 2, ..Setup::default() });
    let (keeps, fails) = (world.starts[0].3, 1 - world.starts[0].3);
    for n in 0..12 {
        world.submit(&format!("short {n}"), Job::takes(secs(50)));
        world.drive_until("it runs there", |world| world.starts.last().is_some_and(|start| start.3 == fails));
        world.crash(fails);
        world.restart(fails);
        drive_connected(&mut world, fails);
        world.run_for(secs(1));
    }
    world.tell_worker(keeps, Input::Checkpoint { token, bytes: &[1; 20] }).expect("it runs");
    world.wanted.clear();
    world.drive_until("it is asked", |world| world.wanted.iter().any(|(_, at, _)| *at == keeps));
    let (first, _, _) = *world.wanted.iter().find(|(_, at, _)| *at == keeps).unwrap();
    world.tell_worker(keeps, Input::Checkpoint { token, bytes: &[1; 20] }).expect("it runs");
    world.wanted.clear();
    world.drive_until("it is asked", |world| world.wanted.iter().any(|(_, at, _)| *at == keeps));
    let (second, _, _) = *world.wanted.iter().find(|(_, at, _)| *at == keeps).unwrap();
    // What was told last is at most twice what is true.
    assert!(second.since(first) < root(secs(1), MTBF_PRIOR / 6), "{:?}", second.since(first));
}

#[test]
fn live_6_the_interval_can_be_pinned() {
    let (mut world, token) =
        running(Setup { worker: |config| config.link.pins.checkpoint_every = Some(secs(3)), ..Setup::default() });
    for _ in 0..5 {
        let after = asked(&mut world);
        assert!(after <= secs(3) && after > ms(2_900), "{after:?}");
        make(&mut world, token);
    }
}

#[test]
fn task_8_a_drain_asks_at_once_for_what_goes_on_elsewhere() {
    let mut world = connected(Setup { workers: 2, ..Setup::default() });
    let task = world.submit("task", Job::steps(2, secs(400)));
    world.drive_until("it runs", |world| !world.starts.is_empty());
    let token = world.starts[0].1;
    let (drains, other) = (world.starts[0].3, 1 - world.starts[0].3);
    world.tell_worker(drains, Input::Drain).expect("never refused");
    world.run_for(ms(10));
    assert_eq!(world.wanted.iter().map(|(_, at, token)| (*at, *token)).collect::<Vec<_>>(), [(drains, token)]);
    world.tell_worker(drains, Input::Checkpoint { token, bytes: &[1; 20] }).expect("it runs");
    world.run_for(secs(1));
    world.tell_worker(drains, Input::Leave).expect("never refused");
    world.drive_until("it goes on elsewhere", |world| world.starts.len() == 2);
    let (_, _, _, at) = world.starts[1];
    assert_eq!((at, world.checkpointed.len()), (other, 1));
    world.drive_until("it ends", |world| world.succeeded(task));
    world.audit();
}
