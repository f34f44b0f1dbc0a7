//! Inputs that are too large for a message (FRAME-3)
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::{connected, ms};
use rejoin_core::Rejected;
use rejoin_core::client::{Event, Input};
use rejoin_core::ids::TaskId;
use rejoin_core::journal::{Record, homes_of};
use rejoin_core::limits::BLOB_BYTES_MAX;
use rejoin_core::wire::message::{Failure, Outcome, Refused};
use rejoin_sim::schedule::Schedule;
use rejoin_sim::simulation::{Ending, Simulation};
use rejoin_sim::{Job, Setup, World};

const MIB: u64 = 1 << 20;

/// A run in which S1 compares what each attempt starts from with what was submitted
fn run(lines: &[String]) -> Ending {
    let head = "rejoin schedule 1\nseed 1\nworkers 2\nclients 1\nsafety 60.000000\n";
    let schedule: Schedule = format!("{head}{}\n", lines.join("\n")).parse().unwrap();
    let ending = Simulation::run(&schedule);
    assert_eq!(ending.violation, None);
    ending
}

fn bytes(length: usize) -> Vec<u8> {
    (0..length as u32).map(|n| (n * 7 + n / 251) as u8).collect()
}

fn world() -> World {
    connected(Setup { clients: 2, ..Setup::default() })
}

/// Bytes of chunks that the coordinator took in
fn taken_in(world: &World) -> u64 {
    let pieces = world
        .journal
        .records(false)
        .map(|record| if let Record::Piece { bytes, .. } = record { bytes.len() as u64 } else { 0 });
    pieces.sum()
}

/// Chunks that are kept
fn chunks(world: &World) -> usize {
    let mut kept = BTreeSet::new();
    for record in world.journal.records(false) {
        if let Record::Piece { home, .. } = record {
            kept.insert(home);
        }
        if let Record::Gone { homes, .. } = record {
            kept.retain(|home| !homes_of(homes).any(|gone| gone == *home));
        }
    }
    kept.len()
}

fn is_accepted(world: &World, task: TaskId) -> bool {
    world.client_events[0].contains(&Event::Accepted { task })
}

#[test]
fn frame_3_an_input_of_16_mib_reaches_its_worker_and_each_chunk_is_sent_once() {
    let ending = run(&[format!("1.000000 submit c0 task=1 input={} takes=1.000000", 16 * MIB)]);
    assert_eq!((ending.figures.told, ending.figures.executions, ending.figures.chunk_bytes), (1, 1, 16 * MIB));
}

#[test]
fn frame_3_over_a_link_that_is_cut_each_second_no_chunk_of_an_input_that_arrived_is_sent_again() {
    let mut lines = vec![format!("1.000000 submit c0 task=1 input={} takes=1.000000", 4 * MIB)];
    let cuts = 6;
    lines.push("1.000000 bandwidth c0 towards=coordinator for=59.000000 amount=500000".into());
    lines.extend((2..2 + cuts).map(|second| format!("{second}.300000 reset c0")));
    lines.extend((9..20).flat_map(|second| ["w0", "w1"].map(|node| format!("{second}.300000 reset {node}"))));
    let ending = run(&lines);
    assert_eq!((ending.figures.told, ending.figures.executions), (1, 1));
    let sent = ending.figures.chunk_bytes;
    assert!((4 * MIB..=4 * MIB + cuts * MIB).contains(&sent), "{sent} bytes in all");
}

#[test]
fn frame_3_a_task_with_a_large_input_is_accepted_and_starts_when_all_of_it_is_there() {
    let mut world = world();
    let input = bytes(400_000);
    world.wire(0).latency = ms(20);
    let task = world.submit_large(0, "large", &input, Job::takes(ms(10))).unwrap();
    while !is_accepted(&world, task) {
        assert!(world.coordinator.task(task).is_none() || taken_in(&world) == 400_000, "known before it is here");
        assert!(world.step());
    }
    assert!(world.starts.is_empty(), "it is under way to its worker");
    world.drive_until("it is over", |world| world.succeeded(task));
    let token = world.starts[0].1;
    assert_eq!((world.fed[&token] == input, world.starts.len()), (true, 1));
    assert_eq!(chunks(&world), 0, "nobody needs it any more (JOURN-5)");
    world.audit();
}

#[test]
fn frame_3_of_a_large_input_that_was_cut_off_the_client_of_a_new_session_sends_what_is_missing() {
    let mut world = world();
    let at = world.client_peer(0);
    world.wire(at).latency = ms(20);
    let task = world.submit_large(0, "large", &bytes(400_000), Job::takes(ms(10))).unwrap();
    world.drive_until("half of it has come", |world| taken_in(world) >= 200_000);
    world.reset(at);
    world.drive_until("it is accepted", |world| is_accepted(world, task));
    assert!(taken_in(&world) < 400_000 + 65_536, "{}", taken_in(&world));
    world.drive_until("it is over", |world| world.succeeded(task));
    world.audit();
}

#[test]
fn frame_3_a_restart_of_the_coordinator_before_all_has_come_leaves_nothing_and_the_client_begins_anew() {
    let mut world = world();
    let at = world.client_peer(0);
    world.wire(at).latency = ms(20);
    let task = world.submit_large(0, "large", &bytes(400_000), Job::takes(ms(10))).unwrap();
    world.drive_until("half of it has come", |world| taken_in(world) >= 200_000);
    world.restart_coordinator();
    assert_eq!(chunks(&world), 0);
    world.drive_until("it is accepted", |world| is_accepted(world, task));
    world.restart_coordinator();
    world.drive_until("it is over", |world| world.succeeded(task));
    assert_eq!((world.executions(task), chunks(&world)), (1, 0));
    world.audit();
}

#[test]
fn frame_3_a_large_input_of_a_client_that_leaves_goes_with_it() {
    let mut world = world();
    let at = world.client_peer(0);
    world.wire(at).latency = ms(20);
    let task = world.submit_large(0, "large", &bytes(400_000), Job::takes(ms(10))).unwrap();
    world.drive_until("half of it has come", |world| taken_in(world) >= 200_000);
    world.tell_client(0, Input::Leave).unwrap();
    world.run_for(ms(1000));
    assert_eq!((chunks(&world), world.coordinator.task(task).is_none()), (0, true));
}

#[test]
fn frame_3_a_large_input_that_changes_while_it_is_sent_is_refused_and_nothing_is_kept_of_it() {
    let mut world = world();
    let at = world.client_peer(0);
    world.wire(at).latency = ms(20);
    let task = world.submit_large(0, "large", &bytes(400_000), Job::takes(ms(10))).unwrap();
    world.drive_until("some of it has come", |world| taken_in(world) >= 70_000);
    world.inputs.insert(task, vec![0; 400_000]);
    let refused = Event::Refused { task, reason: Refused::Damaged };
    world.drive_until("it is refused", |world| world.client_events[0].contains(&refused));
    world.run_for(ms(1000));
    assert_eq!((chunks(&world), world.coordinator.task(task).is_none()), (0, true));
}

#[test]
fn frame_3_an_input_of_more_than_16_mib_is_refused_before_anything_is_sent() {
    let mut world = world();
    let larger = vec![7; BLOB_BYTES_MAX as usize + 1];
    assert_eq!(world.submit_large(0, "larger", &larger, Job::takes(ms(10))), Err(Rejected::TooLarge));
    world.run_for(ms(100));
    assert_eq!((taken_in(&world), &*world.client_events[0]), (0, &[][..]));
}

#[test]
fn frame_6_towards_a_coordinator_of_version_1_a_large_input_is_refused_here() {
    for connected_before in [true, false] {
        let mut world =
            World::new(Setup { clients: 1, client: |config| config.link.wire_version = 1, ..Setup::default() });
        if connected_before {
            world.run_for(ms(500));
        }
        let task = world.submit_large(0, "large", &bytes(100_000), Job::takes(ms(10))).unwrap();
        world.run_for(ms(500));
        let refused = Event::Refused { task, reason: Refused::TooLarge };
        assert_eq!(world.client_events[0], [refused]);
        assert_eq!((world.coordinator.stats().violations, taken_in(&world)), (0, 0));
    }
}

#[test]
fn frame_3_an_input_for_which_there_is_no_room_is_refused() {
    let mut world =
        connected(Setup { clients: 1, coordinator: |config| config.blob_bytes_max = 300_000, ..Setup::default() });
    let task = world.submit_large(0, "large", &bytes(400_000), Job::takes(ms(10))).unwrap();
    let refused = Event::Refused { task, reason: Refused::Full };
    world.drive_until("it is refused", |world| world.client_events[0].contains(&refused));
    assert_eq!(taken_in(&world), 0);
}

#[test]
fn task_1_of_two_clients_with_one_task_and_its_large_input_the_first_to_deliver_is_taken() {
    let mut world = world();
    let input = bytes(400_000);
    let task = world.submit_large(0, "large", &input, Job::takes(ms(10))).unwrap();
    world.submit_large(1, "large", &input, Job::takes(ms(10))).unwrap();
    world.drive_until("both know", |world| (0..2).all(|n| world.client_events[n].contains(&Event::Ended { task })));
    assert_eq!((world.executions(task), chunks(&world)), (1, 0));
    let (other, before) = (bytes(400_001), taken_in(&world));
    world.tell_client(1, Input::Forget { task }).unwrap();
    world.submit_large(1, "large", &other, Job::takes(ms(10))).unwrap();
    let refused = Event::Refused { task, reason: Refused::Conflict };
    world.drive_until("it is refused", |world| world.client_events[1].contains(&refused));
    assert_eq!(taken_in(&world), before, "known before anything is sent");
    world.audit();
}

#[test]
fn task_7_a_task_that_is_cancelled_while_its_large_input_comes_is_never_executed() {
    let mut world = world();
    let task = world.submit_large(0, "large", &bytes(400_000), Job::takes(ms(10))).unwrap();
    world.tell_client(0, Input::Cancel { task }).unwrap();
    world.drive_until("it is over", |world| world.client_events[0].contains(&Event::Ended { task }));
    assert_eq!(world.outcome(task), Some(Outcome::Cancelled));
    assert_eq!((world.starts.len(), chunks(&world)), (0, 0));
    world.audit();
}

#[test]
fn frame_3_a_task_whose_large_input_cannot_be_read_any_more_has_failed() {
    let mut world = world();
    world.wire(0).latency = ms(20);
    let task = world.submit_large(0, "large", &bytes(400_000), Job::takes(ms(10))).unwrap();
    world.drive_until("it is accepted", |world| is_accepted(world, task));
    world.journal.lose_chunks();
    world.drive_until("it is over", |world| world.client_events[0].contains(&Event::Ended { task }));
    assert_eq!(world.outcome(task), Some(Outcome::Failed(Failure::Error)));
    assert!(world.starts.is_empty());
}
