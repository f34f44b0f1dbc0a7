//! How a worker leaves: nothing new, all that it has, and then goodbye (TASK-8)

mod common;

use common::{connected, drive_connected, ms, secs};
use rejoin_core::coordinator::{Event, TaskState};
use rejoin_core::link::{LinkState, Reason};
use rejoin_core::worker::Input;
use rejoin_sim::{Job, Setup, World};

fn fleet() -> World {
    connected(Setup {
        workers: 2,
        coordinator: |config| config.session_lifetime = secs(1),
        worker: |config| config.prefetch = 4,
        ..Setup::default()
    })
}

fn left(world: &World, worker: usize) -> bool {
    world.worker(worker).stopped() == Some(Reason::Left)
}

#[test]
fn task_8_what_has_not_started_goes_back_wherever_it_is_when_the_drain_begins() {
    // While the assignments are under way, and from then on until all is over.
    for drain_after in 0..40 {
        let mut world = fleet();
        let tasks = [0, 1, 2, 3, 4, 5].map(|n| world.submit(&format!("task {n}"), Job::takes(ms(20))));
        for _ in 0..drain_after {
            world.step();
        }
        world.tell_worker(0, Input::Drain).expect("never refused");
        assert!(world.worker(0).is_draining());
        world.tell_worker(0, Input::Drain).expect("again is fine");
        world.drive_until("it has left", |world| left(world, 0));
        assert_eq!(world.worker(0).held(), 0, "drained after step {drain_after}");
        world.drive_until("all are over", |world| tasks.iter().all(|task| world.succeeded(*task)));
        for task in tasks {
            let attempts = world.coordinator.task(task).map(|task| task.attempts);
            assert_eq!((world.executions(task), attempts), (1, Some(1)), "what never started was no attempt");
        }
        assert_eq!(world.coordinator.stats().lost_attempts, 0);
        world.audit();
    }
}

#[test]
fn task_8_a_drain_that_begins_without_a_session_gives_back_what_the_coordinator_keeps_for_it() {
    let mut world = fleet();
    world.wire(1).refuses = true;
    world.reset(1);
    world.run_for(ms(5));
    let tasks = [0, 1, 2].map(|n| world.submit(&format!("task {n}"), Job::takes(secs(5))));
    world.run_for(ms(100));
    assert_eq!(world.worker(0).held(), 3);
    world.wire(0).refuses = true;
    world.reset(0);
    // Long enough that the session goes, too short for the tasks to go to others.
    world.run_for(secs(2));
    world.tell_worker(0, Input::Drain).expect("never refused");
    world.wire(0).refuses = false;
    world.wire(1).refuses = false;
    (0..2).for_each(|peer| drive_connected(&mut world, peer));
    world.run_for(ms(100));
    assert_eq!(world.worker(0).held(), 1, "the one that runs is finished here");
    let given = |world: &World| world.starts.iter().filter(|start| start.3 == 1).count();
    assert_eq!((world.worker(1).held(), given(&world)), (2, 1));
    world.drive_until("it has left", |world| left(world, 0));
    world.drive_until("all are over", |world| tasks.iter().all(|task| world.succeeded(*task)));
    assert!(tasks.iter().all(|task| world.executions(*task) == 1));
    world.audit();
}

#[test]
fn task_8_a_worker_that_leaves_at_once_has_what_it_held_given_to_others_at_once() {
    let mut world = fleet();
    let task = world.submit("runs", Job::takes(secs(3)));
    world.run_for(ms(100));
    let holder = world.starts[0].3;
    world.tell_worker(holder, Input::Leave).expect("never refused");
    world.drive_until("it runs elsewhere", |world| world.starts.len() == 2);
    assert_eq!(world.starts[1].3, 1 - holder);
    assert!(world.now().as_micros() < 2_000_000, "nobody is waited for who said goodbye");
    world.drive_until("it is over", |world| world.succeeded(task));
    assert_eq!(world.state(holder), LinkState::Stopped);
    assert!(world.events.contains(&Event::Again { task }));
    world.audit();
}

#[test]
fn task_8_a_worker_that_leaves_while_it_is_not_connected_just_stops() {
    let mut world = connected(Setup { coordinator: |config| config.lost_after = secs(5), ..Setup::default() });
    world.wire(0).refuses = true;
    world.reset(0);
    world.run_for(ms(500));
    world.tell_worker(0, Input::Leave).expect("never refused");
    assert!(left(&world, 0));
    let dials = world.dials(0);
    let task = world.submit("waits", Job::takes(ms(1)));
    world.run_for(secs(100));
    assert_eq!((world.dials(0), world.coordinator.task(task).map(|t| t.state)), (dials, Some(TaskState::Ready)));
}
