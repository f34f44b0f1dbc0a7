//! Results that are too large for a message (FRAME-3)
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::{connected, ms, secs, to_worker};
use rejoin_core::blob::{RESULT, chunk_name};
use rejoin_core::client::Input;
use rejoin_core::coordinator;
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::journal::{Record, homes_of};
use rejoin_core::limits::{ANSWER_BYTES_MAX, BLOB_BYTES_MAX};
use rejoin_core::wire::message::{Class, Control, Credit, Failure, FromWorker, Outcome, Settlement, ToWorker};
use rejoin_core::wire::view::Question;
use rejoin_core::worker;
use rejoin_sim::schedule::Schedule;
use rejoin_sim::simulation::{Ending, Simulation};
use rejoin_sim::{Job, Puppet, Setup, World};

const MIB: u64 = 1 << 20;

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

fn returning(result: Vec<u8>) -> Job {
    Job { returns: result, ..Job::takes(ms(10)) }
}

/// Bytes of chunks that the coordinator took in
fn sent(world: &World) -> u64 {
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

fn ask(world: &mut World, question: &Question) -> Vec<u8> {
    let asked = world.answers.len();
    world.tell_client(0, Input::Ask { ask: asked as u64, question }).unwrap();
    world.drive_until("it is answered", |world| world.answers.len() > asked);
    world.answers.last().unwrap().2.clone()
}

/// What a task returned, as a client fetches it
fn fetched(world: &mut World, task: TaskId) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    loop {
        let offset = all.len() as u64;
        let piece = ask(world, &Question::CheckpointPiece { task, number: RESULT, offset });
        let piece: Vec<u8> = postcard::from_bytes::<Option<_>>(&piece).unwrap()?;
        assert!(piece.len() <= ANSWER_BYTES_MAX);
        if piece.is_empty() {
            return Some(all);
        }
        all.extend_from_slice(&piece);
    }
}

#[test]
fn frame_3_a_result_of_16_mib_reaches_its_client_and_each_chunk_is_sent_once() {
    let length = 16 * MIB;
    let ending = run(&[format!("1.000000 submit c0 task=1 returns={length} takes=1.000000")]);
    assert_eq!((ending.figures.told, ending.figures.executions, ending.figures.chunk_bytes), (1, 1, length));
    assert_eq!(ending.seen.tasks[&1].result.len() as u64, length);
}

#[test]
fn frame_3_over_a_link_that_is_cut_each_second_no_chunk_of_a_result_that_arrived_is_sent_again() {
    let mut lines = vec![format!("1.000000 submit c0 task=1 returns={} takes=1.000000", 16 * MIB)];
    let cuts = 8;
    for node in ["w0", "w1"] {
        lines.push(format!("1.000000 bandwidth {node} towards=coordinator for=59.000000 amount=2000000"));
        lines.extend((3..3 + cuts).map(|second| format!("{second}.300000 reset {node}")));
        lines.extend((4..4 + cuts).map(|second| format!("{second}.600000 reset c0")));
    }
    let ending = run(&lines);
    assert_eq!((ending.figures.told, ending.figures.executions), (1, 1));
    let (sent, whole) = (ending.figures.chunk_bytes, 16 * MIB);
    assert!((whole..=whole + cuts * MIB).contains(&sent), "{sent} bytes in all");
    assert!(ending.figures.resumed >= cuts, "{:?}", ending.figures);
}

#[test]
fn frame_3_a_result_of_more_than_16_mib_is_a_failure_before_anything_is_sent() {
    let ending = run(&[format!("1.000000 submit c0 task=1 retries=3 returns={} takes=1.000000", 16 * MIB + 1)]);
    assert_eq!(ending.seen.tasks[&1].outcome, Some(Outcome::Failed(Failure::ResultTooLarge)));
    assert_eq!((ending.figures.chunk_bytes, ending.figures.executions), (0, 1));
}

#[test]
fn frame_3_whole_chunks_of_a_result_outlive_the_coordinator_and_the_result_counts_once() {
    let mut world = connected(Setup { clients: 1, ..Setup::default() });
    let result = bytes(400_000);
    let task = world.submit_by_client(0, "large", returning(result.clone()));
    for _ in 0..3 {
        let before = sent(&world);
        world.drive_until("some chunks are there", |world| sent(world) >= before + 100_000);
        world.restart_coordinator();
    }
    world.drive_until("the client is told", |world| world.client(0).task(task).unwrap().elsewhere.is_some());
    assert_eq!(world.client(0).task(task).unwrap().elsewhere, Some(400_000));
    assert_eq!(fetched(&mut world, task), Some(result.clone()));
    assert!(sent(&world) < 400_000 + 3 * 65_536, "{} bytes", sent(&world));
    world.restart_coordinator();
    assert_eq!(fetched(&mut world, task), Some(result));
    assert_eq!((world.executions(task), chunks(&world)), (1, 7));
    world.audit();
}

#[test]
fn sess_9_a_large_result_outlives_its_worker_and_goes_on_where_it_was() {
    let mut world = connected(Setup { clients: 1, ..Setup::default() });
    world.keeps = true;
    let result = bytes(400_000);
    world.wire(0).latency = ms(20);
    let task = world.submit_by_client(0, "large", returning(result.clone()));
    world.drive_until("half of it has come", |world| sent(world) >= 200_000);
    let before = sent(&world);
    world.crash(0);
    world.run_for(ms(100));
    world.restart(0);
    common::drive_connected(&mut world, 0);
    world.drive_until("it is delivered", |world| world.succeeded(task));
    assert_eq!(fetched(&mut world, task), Some(result));
    assert!(before < 400_000 && sent(&world) < 400_000 + 65_536, "{before}, then {}", sent(&world));
    assert_eq!((world.starts.len(), world.coordinator.stats().crashed_attempts), (1, 0));
    world.drive_until("it is forgotten", |world| world.worker(0).held() == 0);
    assert_eq!(world.kept(0), 0);
    world.audit();
}

#[test]
fn sess_9_a_large_result_that_is_not_kept_is_lost_with_its_worker_and_the_task_is_executed_again() {
    let mut world = connected(Setup { clients: 1, ..Setup::default() });
    let result = bytes(400_000);
    world.wire(0).latency = ms(20);
    let task = world.submit_by_client(0, "large", returning(result.clone()));
    world.drive_until("half of it has come", |world| sent(world) >= 200_000);
    world.crash(0);
    world.run_for(ms(100));
    world.restart(0);
    common::drive_connected(&mut world, 0);
    world.drive_until("it is delivered", |world| world.succeeded(task));
    assert_eq!(fetched(&mut world, task), Some(result));
    assert_eq!((world.starts.len(), world.coordinator.stats().crashed_attempts), (2, 1));
    world.audit();
}

#[test]
fn frame_3_a_result_goes_on_where_it_was_wherever_its_link_is_cut() {
    for arrival in 1..60 {
        let mut world = connected(Setup { clients: 1, ..Setup::default() });
        let result = bytes(150_000);
        let arrivals = world.arrivals(0, rejoin_sim::Side::Coordinator);
        let task = world.submit_by_client(0, "large", returning(result.clone()));
        if !world.drive_to_arrival(0, rejoin_sim::Side::Coordinator, arrivals + arrival) {
            break;
        }
        world.reset(0);
        world.drive_until("the client is told", |world| world.client(0).task(task).unwrap().elsewhere.is_some());
        assert_eq!(fetched(&mut world, task), Some(result));
        assert!(sent(&world) < 150_000 + 65_536, "{} bytes after a cut at {arrival}", sent(&world));
        world.audit();
    }
}

#[test]
fn task_7_a_cancel_while_a_result_is_on_its_way_does_not_hold_it_up() {
    let mut world = connected(Setup { clients: 1, ..Setup::default() });
    let task = world.submit_by_client(0, "large", returning(bytes(400_000)));
    world.drive_until("some chunks are there", |world| sent(world) >= 100_000);
    world.tell_client(0, Input::Cancel { task }).unwrap();
    world.drive_until("it is over", |world| world.outcome(task).is_some());
    assert_eq!(world.outcome(task), Some(Outcome::Succeeded));
    world.audit();
}

#[test]
fn journ_5_the_chunks_of_a_result_go_when_its_task_is_forgotten() {
    let mut world = connected(Setup { clients: 1, ..Setup::default() });
    let task = world.submit("large", returning(bytes(150_000)));
    world.drive_until("it is over", |world| world.succeeded(task));
    assert_eq!((chunks(&world), fetched(&mut world, task).map(|all| all.len())), (3, Some(150_000)));
    world.tell_coordinator(coordinator::Input::Forget { task }).unwrap();
    assert_eq!((chunks(&world), fetched(&mut world, task)), (0, None));
    // A backup that ends between the two records.
    world.run_for(secs(1));
    world.forget_records_behind(|record| matches!(Record::decode(record), Some(Record::Forget { .. })));
    assert_eq!(chunks(&world), 3);
    world.restart_coordinator();
    assert_eq!(chunks(&world), 0);
}

#[test]
fn frame_6_neither_a_worker_nor_a_client_of_version_1_has_large_results() {
    let old_worker = |config: &mut worker::Config| config.link.wire_version = 1;
    let mut world = connected(Setup { worker: old_worker, clients: 1, ..Setup::default() });
    let task = world.submit("large", returning(bytes(150_000)));
    world.drive_until("it is over", |world| world.outcome(task).is_some());
    assert_eq!(world.outcome(task), Some(Outcome::Failed(Failure::ResultTooLarge)));

    let mut world = connected(Setup { client: |config| config.link.wire_version = 1, clients: 1, ..Setup::default() });
    let task = world.submit_by_client(0, "large", returning(bytes(150_000)));
    world.drive_until("the client is told", |world| world.client(0).task(task).unwrap().end.is_some());
    let view = world.client(0).task(task).unwrap();
    assert_eq!((view.end.map(|end| (end.0, end.1.len())), view.elsewhere), (Some((Outcome::Succeeded, 0)), None));
}

/// A worker worked by hand that runs a task
fn by_hand(setup: Setup) -> (World, Puppet, TaskId, Token) {
    let mut world = World::new(setup);
    world.wire(0).refuses = true;
    world.reset(0);
    let mut puppet = Puppet::worker(0);
    let mut hello = puppet.hello();
    hello.versions = [2].into_iter().collect();
    puppet.greet_with(&mut world, &hello);
    puppet.challenged(&mut world);
    puppet.prove(&mut world);
    let session = puppet.session.unwrap().0;
    let credit = Credit { tasks: 1, messages: 4096, bulk: MIB };
    puppet.say(&mut world, |body| {
        assert!(body.push(Class::Control, &Control::Begin { session }));
        assert!(body.push(Class::Control, &Control::Confirm { generation: 1 }));
        assert!(body.push(Class::Control, &Control::Credit(credit)));
        assert!(body.push(Class::Numbered(1), &FromWorker::Inventory { part: 0, last: true, cut: 0, items: &[] }));
    });
    let task = world.submit("a", Job::takes(ms(1)));
    world.run_for(ms(50));
    let heard = puppet.hear(&mut world);
    let assigned = heard
        .iter()
        .filter_map(to_worker)
        .find_map(|(_, message)| if let ToWorker::Assign { token, .. } = message { Some(token) } else { None });
    (world, puppet, task, assigned.unwrap())
}

/// Says that an attempt returned this, and how its settlement was
fn returns(
    world: &mut World,
    puppet: &mut Puppet,
    (task, token): (TaskId, Token),
    said: &[u8],
    sent: &[u8],
) -> Settlement {
    let names: Vec<u8> = said.chunks(65_536).flat_map(chunk_name).collect();
    let (outcome, length, streams) = (Outcome::Succeeded, said.len() as u64, Default::default());
    puppet.say(world, |body| {
        let large = FromWorker::LargeResult { task, token, outcome, length, names: &names, streams };
        assert!(body.push(Class::Numbered(2), &large));
    });
    world.run_for(ms(50));
    for (n, bytes) in sent.chunks(16_384).enumerate() {
        let offset = n as u64 * 16_384;
        puppet.say(world, |body| {
            assert!(body.push(Class::Loose, &FromWorker::Piece { token, number: RESULT, offset, bytes }));
        });
    }
    world.run_for(ms(50));
    let heard = puppet.hear(world);
    let settled = heard.iter().filter_map(to_worker).find_map(|(_, message)| {
        if let ToWorker::Settled { settlement, .. } = message { Some(settlement) } else { None }
    });
    settled.unwrap()
}

#[test]
fn frame_3_a_result_that_is_not_what_was_said_is_a_failure_and_leaves_nothing() {
    let (mut world, mut puppet, task, token) = by_hand(Setup::default());
    let said = bytes(100_000);
    let mut other = said.clone();
    other[99_999] ^= 1;
    let settled = returns(&mut world, &mut puppet, (task, token), &said, &other);
    assert_eq!((settled, world.outcome(task)), (Settlement::Applied, Some(Outcome::Failed(Failure::Error))));
    assert_eq!(chunks(&world), 0);
}

#[test]
fn frame_3_a_coordinator_that_holds_as_much_as_it_may_says_so() {
    let coordinator = |config: &mut coordinator::Config| config.blob_bytes_max = 99_999;
    let (mut world, mut puppet, task, token) = by_hand(Setup { coordinator, ..Setup::default() });
    let settled = returns(&mut world, &mut puppet, (task, token), &bytes(100_000), &[]);
    assert_eq!((settled, world.outcome(task)), (Settlement::Applied, Some(Outcome::Failed(Failure::Error))));
    let why = world.coordinator.task(task).unwrap().end.unwrap().result;
    assert!(why.starts_with(b"the coordinator holds as many bytes of results as it may"));
}

#[test]
fn task_3_a_large_result_of_a_task_that_has_ended_is_stale() {
    let (mut world, mut puppet, task, token) = by_hand(Setup::default());
    world.tell_coordinator(coordinator::Input::Cancel { task }).unwrap();
    puppet.say(&mut world, |body| {
        let (outcome, streams) = (Outcome::Cancelled, Default::default());
        let result = FromWorker::Result { task, token, outcome, result: &[], streams };
        assert!(body.push(Class::Numbered(2), &result));
    });
    world.run_for(ms(50));
    puppet.hear(&mut world);
    puppet.say(&mut world, |body| {
        let (outcome, streams, names) = (Outcome::Succeeded, Default::default(), &[0; 32]);
        let large = FromWorker::LargeResult { task, token, outcome, length: 9, names, streams };
        assert!(body.push(Class::Numbered(3), &large));
    });
    world.run_for(ms(50));
    let heard = puppet.hear(&mut world);
    let settled = heard.iter().filter_map(to_worker).any(|(_, message)| {
        matches!(message, ToWorker::Settled { settlement: Settlement::Duplicate | Settlement::Stale, .. })
    });
    assert!(settled, "it is told that its result is of no use");
    assert_eq!((world.outcome(task), chunks(&world)), (Some(Outcome::Cancelled), 0));
}

#[test]
fn frame_3_names_that_do_not_fit_the_length_or_more_than_16_mib_are_a_breach() {
    for (length, names) in [(0, 0), (65_537, 1), (BLOB_BYTES_MAX + 1, 257)] {
        let (mut world, mut puppet, task, token) = by_hand(Setup::default());
        let names = vec![7; names * 32];
        puppet.say(&mut world, |body| {
            let (outcome, streams) = (Outcome::Succeeded, Default::default());
            let large = FromWorker::LargeResult { task, token, outcome, length, names: &names, streams };
            assert!(body.push(Class::Numbered(2), &large));
        });
        world.run_for(ms(50));
        assert!(common::denied(&puppet.hear(&mut world)).is_some(), "{length} bytes in {} names", names.len() / 32);
    }
}
