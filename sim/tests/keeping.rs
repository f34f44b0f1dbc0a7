//! What outlives a worker: results that were finished and not settled (SESS-9)

mod common;

use common::{connected, drive_connected, ms, secs};
use rejoin_core::Rejected;
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::wire::message::{Failure, Outcome, Stream, StreamEnd, TaskSpec};
use rejoin_core::worker::{AttemptState, Finished, Input, StreamMeter};
use rejoin_sim::{Job, JournalMode, Setup, World};

const TEXT: &[u8] = &[b'x'; 40_000];

/// A worker that keeps what it finishes, and has finished something without a way to say so
fn cut_off_with_a_result(world: &mut World, job: Job) -> (TaskId, Token) {
    world.keeps = true;
    let takes = job.takes;
    let task = world.submit("finished while cut", job);
    world.run_for(ms(3));
    world.wire(0).refuses = true;
    world.reset(0);
    world.run_for(takes + ms(10));
    let token = world.starts[0].1;
    assert_eq!(world.worker(0).attempt(token), Some(AttemptState::Finished));
    assert_eq!(world.kept(0), 1);
    (task, token)
}

fn come_back(world: &mut World) {
    world.crash(0);
    world.run_for(ms(50));
    world.restart(0);
    assert_eq!(world.worker(0).held(), 1, "it is there before anybody asks");
    world.wire(0).refuses = false;
    drive_connected(world, 0);
}

fn returned(world: &World, task: TaskId) -> Vec<u8> {
    world.coordinator.task(task).and_then(|task| task.end).expect("over").result.to_vec()
}

#[test]
fn sess_9_the_next_life_delivers_what_was_kept_and_nothing_is_executed_again() {
    let mut world = connected(Setup::default());
    let job = Job { returns: b"kept".to_vec(), ..Job::prints(TEXT) };
    let (task, token) = cut_off_with_a_result(&mut world, job);
    come_back(&mut world);
    world.drive_until("it is delivered", |world| world.succeeded(task));
    assert_eq!((returned(&world, task), world.starts.len()), (b"kept".to_vec(), 1));
    assert_eq!(world.journal.kept(token, Stream::Out), TEXT);
    assert_eq!(world.coordinator.stats().crashed_attempts, 0, "what had ended did not crash (TASK-6)");
    world.drive_until("it is forgotten", |world| world.worker(0).held() == 0);
    assert_eq!(world.kept(0), 0);
    world.audit();
}

#[test]
fn sess_9_output_goes_on_where_the_coordinator_stands_whichever_life_had_sent_it() {
    let mut world = connected(Setup::default());
    world.keeps = true;
    let task = world.submit("prints twice", Job { takes: secs(2), ..Job::prints(TEXT) });
    // Half of it comes in the midst of the first life.
    world.run_for(ms(1_500));
    let token = world.starts[0].1;
    assert_eq!(world.journal.kept(token, Stream::Out).len(), TEXT.len() / 2);
    world.wire(0).refuses = true;
    world.reset(0);
    world.run_for(secs(1));
    come_back(&mut world);
    world.drive_until("it is delivered", |world| world.succeeded(task));
    assert_eq!(world.journal.kept(token, Stream::Out), TEXT);
    assert_eq!(world.starts.len(), 1);
    world.audit();
}

#[test]
fn sess_9_a_restarted_coordinator_takes_what_was_kept_as_well() {
    let mut world = connected(Setup::default());
    let (task, _) = cut_off_with_a_result(&mut world, Job::prints(TEXT));
    world.crash(0);
    world.restart_coordinator();
    world.run_for(ms(50));
    world.restart(0);
    world.wire(0).refuses = false;
    drive_connected(&mut world, 0);
    world.drive_until("it is delivered", |world| world.succeeded(task));
    assert_eq!(world.starts.len(), 1);
    world.audit();
}

#[test]
fn sess_9_what_another_attempt_has_ended_meanwhile_is_stale_and_forgotten() {
    let mut world = connected(Setup { workers: 2, ..Setup::default() });
    world.keeps = true;
    let task = world.submit("finished twice", Job { returns: b"once".to_vec(), ..Job::takes(ms(10)) });
    world.run_for(ms(3));
    let first = world.starts[0].3;
    world.wire(first).refuses = true;
    world.reset(first);
    world.run_for(ms(50));
    assert_eq!(world.kept(first), 1);
    world.crash(first);
    world.drive_until("another worker has done it", |world| world.succeeded(task));
    let by = world.coordinator.task(task).and_then(|task| task.end).expect("over").token;
    world.restart(first);
    world.wire(first).refuses = false;
    drive_connected(&mut world, first);
    world.drive_until("it is forgotten", |world| world.worker(first).held() == 0);
    let end = world.coordinator.task(task).and_then(|task| task.end).expect("over");
    assert_eq!((end.token, world.kept(first), world.starts.len()), (by, 0, 2));
    world.audit();
}

#[test]
fn sess_9_what_ran_beside_a_kept_result_is_what_crashed_alone() {
    let mut world = connected(Setup { worker: |config| config.slots = 2, ..Setup::default() });
    let beside = world.submit("runs on", Job::takes(secs(20)));
    world.run_for(ms(20));
    world.keeps = true;
    let task = world.submit("ends", Job::takes(ms(10)));
    world.run_for(ms(5));
    world.wire(0).refuses = true;
    world.reset(0);
    world.run_for(ms(50));
    assert_eq!(world.kept(0), 1);
    come_back(&mut world);
    world.drive_until("it is delivered", |world| world.succeeded(task));
    assert_eq!(world.coordinator.stats().crashed_attempts, 1, "one ran, and one had ended (TASK-6)");
    world.drive_until("the other one is done again", |world| world.succeeded(beside));
    let begun = |task| world.starts.iter().filter(|start| start.0 == task).count();
    assert_eq!((begun(task), begun(beside)), (1, 2));
}

#[test]
fn sess_9_a_last_checkpoint_goes_in_front_of_the_failure_that_was_kept() {
    let mut world = connected(Setup::default());
    world.keeps = true;
    let fails = vec![Outcome::Failed(Failure::Exit(1))];
    let spec = TaskSpec { retries: 1, ..TaskSpec::default() };
    let task = world.submit_with("fails behind a step", spec, Job { ends: fails, ..Job::steps(2, ms(40)) });
    world.run_for(ms(5));
    world.wire(0).refuses = true;
    world.reset(0);
    world.run_for(ms(100));
    assert_eq!(world.kept(0), 1);
    come_back(&mut world);
    world.drive_until("another attempt has done it", |world| world.succeeded(task));
    let steps: Vec<u8> = world.steps.iter().map(|(_, step)| *step).collect();
    assert_eq!((world.starts.len(), steps), (2, vec![1]), "the second attempt began behind the step");
    world.audit();
}

#[test]
fn sess_9_results_of_another_worker_change_nothing() {
    let mut world = connected(Setup { workers: 2, ..Setup::default() });
    let (task, _) = cut_off_with_a_result(&mut world, Job::takes(ms(10)));
    let (first, other) = (world.starts[0].3, 1 - world.starts[0].3);
    assert_eq!(first, 0);
    world.crash(0);
    world.crash(other);
    world.swap_stores(0, other);
    world.restart(other);
    drive_connected(&mut world, other);
    world.drive_until("it is told to forget it", |world| world.worker(other).held() == 0);
    assert!(!world.succeeded(task), "under the token of another worker nothing counts");
    world.restart(0);
    world.wire(0).refuses = false;
    world.drive_until("it is executed again", |world| world.succeeded(task));
    assert_eq!(world.starts.len(), 2);
}

#[test]
fn sess_9_nothing_is_taken_beyond_the_room_that_is_reserved_to_keep_it() {
    let mut world = connected(Setup { worker: |config| (config.slots, config.prefetch) = (2, 2), ..Setup::default() });
    world.tell_worker(0, Input::Reserved { attempts: 0 }).expect("room is never refused");
    // What was granted stays granted: four may come, and nothing behind them.
    world.journal.mode = JournalMode::Syncs(ms(1));
    let tasks: Vec<_> = (0..12).map(|n| world.submit(&format!("task {n}"), Job::takes(ms(5)))).collect();
    world.run_for(secs(3));
    assert_eq!(world.starts.len(), 4);
    world.tell_worker(0, Input::Reserved { attempts: 1 }).expect("room is never refused");
    world.drive_until("one at a time", |world| tasks.iter().all(|task| world.succeeded(*task)));
}

#[test]
fn sess_9_what_is_kept_needs_no_reserved_room_any_more() {
    let mut world = connected(Setup::default());
    world.keeps = true;
    world.run_for(ms(3));
    world.tell_worker(0, Input::Reserved { attempts: 2 }).expect("room is never refused");
    // Nothing is durable any more, so that no result is settled.
    let tasks: Vec<_> = (0..12).map(|n| world.submit(&format!("task {n}"), Job::takes(ms(5)))).collect();
    world.run_for(ms(3));
    world.tap = Some(Vec::new());
    world.drive_until("all are over", |world| tasks.iter().all(|task| world.succeeded(*task)));
    assert!(world.starts.len() == 12, "a place is free again as soon as what was in it is kept");
}

#[test]
fn sess_9_what_cannot_be_taken_back_is_refused_and_changes_nothing() {
    let mut world = World::new(Setup {
        worker: |config| (config.attempts_max, config.result_bytes_max, config.large_result_max) = (2, 100, 100_000),
        ..Setup::default()
    });
    let restore = |n: u64, result, large| {
        let (task, token) = (TaskId::from_text("any"), Token(n));
        let finished =
            Finished { task, token, attempt: 1, outcome: Outcome::Succeeded, result, large, checkpoint: None };
        Input::Restore { finished, streams: [StreamEnd::default(); 2] }
    };
    let finished = |n, result| restore(n, result, None);
    assert_eq!(world.tell_worker(0, finished(1, &[7; 101])), Err(Rejected::TooLarge));
    let large = |length, names| restore(1, &[], Some((length, names)));
    assert_eq!(world.tell_worker(0, large(70_000, &[[7; 32]])), Err(Rejected::BadSpec), "a name for each chunk");
    assert_eq!(world.tell_worker(0, large(100_001, &[[7; 32]; 2])), Err(Rejected::TooLarge));
    assert_eq!(world.worker(0).held(), 0);
    assert_eq!(world.tell_worker(0, finished(1, &[7; 100])), Ok(()));
    assert_eq!(world.tell_worker(0, finished(1, &[7; 100])), Err(Rejected::NotExpected), "once");
    assert_eq!(world.tell_worker(0, finished(2, &[])), Ok(()));
    assert_eq!(world.tell_worker(0, finished(3, &[])), Err(Rejected::Full));
    assert_eq!(world.worker(0).held(), 2);
    drive_connected(&mut world, 0);
    world.drive_until("nobody knows them", |world| world.worker(0).held() == 0);
    assert_eq!(world.tell_worker(0, finished(4, &[])), Err(Rejected::NotExpected), "a session is open");
}

#[test]
fn sess_9_what_is_said_of_output_is_what_the_coordinator_counts() {
    let mut meter = StreamMeter::new();
    assert_eq!(meter.end(), StreamEnd::default());
    TEXT.chunks(999).for_each(|piece| meter.update(piece));
    let mut world = connected(Setup::default());
    let task = world.submit("prints", Job::prints(TEXT));
    world.drive_until("it is over", |world| world.succeeded(task));
    let end = world.coordinator.task(task).and_then(|task| task.end).expect("over");
    assert_eq!(end.streams[0], meter.end());
}
