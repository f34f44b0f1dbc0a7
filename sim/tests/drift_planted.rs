//! What goes wrong in a worker's memory or the coordinator's is put right while they are connected (SESS-8)
#![cfg(rejoin_planted)]

mod common;

use common::{connected, ms, secs};
use rejoin_core::coordinator::Event;
use rejoin_core::ids::TaskId;
use rejoin_sim::mutants::{Bug, hunt, with};
use rejoin_sim::{Job, Setup, World};

fn run(bug: Bug) -> World {
    with(Some(bug), || {
        let mut world = connected(Setup {
            workers: 2,
            worker: |config| (config.slots, config.prefetch, config.link.heartbeat) = (2, 2, Some(ms(200))),
            ..Setup::default()
        });
        let tasks: Vec<TaskId> = (0..12).map(|n| world.submit(&format!("task {n}"), Job::takes(ms(300)))).collect();
        world.drive_until("all are over", |world| tasks.iter().all(|task| world.succeeded(*task)));
        world.run_for(secs(2));
        world
    })
}

/// One test, because a bug is planted in the whole process
#[test]
fn sess_8_forgotten_assignments_are_given_out_again_on_the_same_connection() {
    let world = run(Bug::AssignmentForgotten);
    let drifted = |event: &&Event| matches!(event, Event::Drifted { lost: 1.., discarded: 0, .. });
    assert!(world.events.iter().any(|event| drifted(&event)), "it was found");
    assert_eq!((world.closes.len(), world.leaves.len()), (0, 0), "and nobody was disconnected");
    let found = hunt(Some(Bug::AssignmentForgotten), 20, 2).expect("it is found");
    assert!(found.failure.to_string().contains("S34"), "after {} seeds: {}", found.seeds, found.failure);
}
