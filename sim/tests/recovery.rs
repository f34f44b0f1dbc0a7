//! A coordinator that ends and starts again from its journal

mod common;

use common::{connected, drive_connected, ms, noise, secs};
use rejoin_core::coordinator::{Config, Coordinator, Input, Recovery, RecoveryError, TaskState};
use rejoin_core::ids::{ClusterId, Role, TaskId, Token};
use rejoin_core::journal::Record;
use rejoin_core::wire::keys::Key;
use rejoin_core::wire::message::{Failure, Outcome, Stream, StreamEnd, TaskSpec};
use rejoin_core::{Instant, Seed};
use rejoin_sim::{Job, JournalMode, Setup, World, worker_key};

fn recover<'r>(records: impl IntoIterator<Item = &'r [u8]>) -> Result<Coordinator, RecoveryError> {
    recover_with(vec![worker_key(0), worker_key(1)], records)
}

fn recover_with<'r>(keys: Vec<Key>, records: impl IntoIterator<Item = &'r [u8]>) -> Result<Coordinator, RecoveryError> {
    let config = Config::new(ClusterId([9; 16]), 1, keys);
    let mut recovery = Recovery::start(config, Seed([1; 32]), Instant::ZERO).expect("legal settings");
    records.into_iter().try_for_each(|record| recovery.take(record))?;
    Ok(recovery.finish())
}

/// A world in which everything happened that leaves a record
fn eventful() -> World {
    let mut world = connected(Setup { workers: 2, coordinator: |c| c.lost_after = secs(1), ..Setup::default() });
    world.submit("plain", Job::prints(&noise(50_000)));
    world.submit_with("fails", TaskSpec { priority: 1, retries: 2 }, Job::fails(1));
    let cancelled = world.submit("cancelled", Job::takes(secs(50)));
    let moved = world.submit("moved", Job::takes(secs(5)));
    world.run_for(secs(1));
    world.tell_coordinator(Input::Cancel { task: cancelled }).expect("it runs");
    let holder = (0..2).find(|n| world.worker(*n).story(moved).next().is_some()).expect("one has it");
    world.wire(holder).refuses = true;
    world.reset(holder);
    world.run_for(secs(2));
    world.wire(holder).refuses = false;
    world.drive_until("all is over", |world| world.coordinator.counts().open() == 0);
    let forgotten = world.submit("forgotten", Job::takes(ms(1)));
    world.drive_until("it is over", |world| world.succeeded(forgotten));
    world.tell_coordinator(Input::Forget { task: forgotten }).expect("it is over");
    world.submit("last", Job::takes(secs(100)));
    world.run_for(ms(100));
    world
}

#[test]
fn journ_4_a_journal_cut_behind_any_record_is_a_coordinator_that_stopped_there() {
    let world = eventful();
    let records: Vec<Vec<u8>> = world.journal.records(true).map(|record| record.encode()).collect();
    assert!(records.len() > 20, "{}", records.len());
    for cut in 0..=records.len() {
        let kept = &records[..cut];
        let coordinator =
            recover(kept.iter().map(Vec::as_slice)).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        coordinator.check();
        for record in kept.iter().filter_map(|bytes| Record::decode(bytes)) {
            let Record::Submit { task, .. } = record else { continue };
            let mut ends = kept.iter().filter_map(|bytes| Record::decode(bytes)).filter_map(|record| match record {
                Record::Result { task: id, outcome, last: true, .. } if id == task => Some(outcome),
                Record::Epoch { .. }
                | Record::Tokens { .. }
                | Record::Lease { .. }
                | Record::Restored { .. }
                | Record::Submit { .. }
                | Record::SubmitLarge { .. }
                | Record::Assign { .. }
                | Record::Result { .. }
                | Record::Cancel { .. }
                | Record::Forget { .. }
                | Record::Output { .. }
                | Record::Checkpoint { .. }
                | Record::Piece { .. }
                | Record::Chunk { .. }
                | Record::Manifest { .. }
                | Record::Unreadable { .. }
                | Record::Forgotten { .. }
                | Record::Lapsed { .. }
                | Record::Gone { .. } => None,
            });
            let told = coordinator.task(task).and_then(|view| view.end).map(|end| end.outcome);
            let forgotten = kept.iter().any(|bytes| Record::decode(bytes) == Some(Record::Forget { task }));
            assert!(forgotten || told == ends.next(), "cut at {cut}: {task} ended as {told:?}");
        }
    }
}

#[test]
fn journ_4_damage_in_the_middle_is_named_and_missing_records_are_noticed() {
    let world = eventful();
    let records: Vec<Vec<u8>> = world.journal.records(true).map(|record| record.encode()).collect();
    let damaged = |index: usize| {
        let mut damaged = records.clone();
        damaged[index].truncate(1);
        recover(damaged.iter().map(Vec::as_slice)).err()
    };
    assert_eq!(damaged(7), Some(RecoveryError::Damaged { index: 7 }));
    let submit = records.iter().position(|bytes| matches!(Record::decode(bytes), Some(Record::Submit { .. })));
    let submit = submit.expect("there are submits");
    let without = records.iter().enumerate().filter(|(n, _)| *n != submit).map(|(_, bytes)| bytes.as_slice());
    assert!(matches!(recover(without), Err(RecoveryError::Impossible { .. })));
}

#[test]
fn journ_4_a_record_that_contradicts_those_before_it_is_named() {
    let (task, other) = (TaskId::from_text("a"), TaskId::from_text("b"));
    let worker = || worker_key(0).name;
    let submit = |task| Record::Submit { task, spec: TaskSpec::default(), about: &[], payload: b"" };
    let assign = |task, token| Record::Assign { task, token: Token(token), attempt: 1, worker: worker() };
    let output = |offset| Record::Output { task, token: Token(1), stream: Stream::Out, offset, bytes: b"12" };
    let checkpoint = |task| Record::Checkpoint { task, token: Token(1), number: 1, bytes: b"" };
    let result = |task, token: Option<u64>, last| Record::Result {
        task,
        token: token.map(Token),
        attempt: 1,
        outcome: Outcome::Failed(Failure::Exit(1)),
        last,
        result: &[],
        streams: [StreamEnd::default(); 2],
    };
    let before = || {
        let epoch = Record::Epoch { epoch: 1, cluster: ClusterId([9; 16]) };
        vec![epoch, Record::Tokens { below: 10 }, submit(task), submit(other), assign(task, 1)]
    };
    let take = |more: Vec<Record<'_>>| {
        let records: Vec<Vec<u8>> = before().iter().chain(&more).map(|record| record.encode()).collect();
        recover(records.iter().map(Vec::as_slice))
    };
    let contradictions = [
        ("a task that is known is submitted", vec![submit(task)]),
        ("a token of no block that was reserved", vec![assign(other, 10)]),
        ("an attempt at a task that was never submitted", vec![assign(TaskId::from_text("c"), 2)]),
        ("an attempt at a task that is over", vec![result(task, Some(1), true), assign(task, 2)]),
        ("another end", vec![result(task, Some(1), true), result(task, Some(1), true)]),
        ("a failed attempt without a token", vec![result(task, None, false)]),
        ("a failed attempt that was never given", vec![result(task, Some(2), false)]),
        ("a cancel of nothing", vec![Record::Cancel { task: TaskId::from_text("c") }]),
        ("an open task is forgotten", vec![Record::Forget { task }]),
        ("output with a hole in it", vec![output(0), output(3)]),
        ("a checkpoint of nothing", vec![checkpoint(TaskId::from_text("c"))]),
        ("a checkpoint of what is over", vec![result(task, Some(1), true), checkpoint(task)]),
    ];
    for (what, records) in contradictions {
        let index = before().len() + records.len() - 1;
        let error = take(records).err();
        assert_eq!(error, Some(RecoveryError::Impossible { index }), "{what}");
        assert!(error.is_some_and(|error| error.to_string().contains(&format!("record {index} "))), "{what}");
    }
    // What looks odd and is not: an attempt that was adopted by a later epoch is written down again, output may have
    // been taken in before a record of its attempt was lost, and what was given up may still fail.
    let coordinator = take(vec![assign(task, 1), output(0), output(0)]).expect("one history");
    assert_eq!(coordinator.task(task).map(|task| task.attempts), Some(1));
    let again = take(vec![assign(task, 2), output(0), result(task, Some(1), false), output(0)]).expect("one history");
    assert_eq!(again.task(task).map(|task| (task.state, task.attempts)), Some((TaskState::Assigned, 1)));
    // A worker may say of an attempt that it is another task's, and is believed where nobody can know better.
    let moved = take(vec![assign(other, 1)]).expect("one history");
    let states = [task, other].map(|id| moved.task(id).map(|task| task.state));
    assert_eq!(states, [Some(TaskState::Ready), Some(TaskState::Assigned)]);
    let damage = RecoveryError::Damaged { index: 3 }.to_string();
    assert!(damage.contains("record 3 ") && damage.contains("damaged"), "{damage}");
}

#[test]
fn task_7_what_was_cancelled_while_it_waited_has_ended_when_the_journal_was_cut_before_its_end() {
    let mut world = World::new(Setup { workers: 0, ..Setup::default() });
    let task = world.submit("waits", Job::takes(ms(1)));
    world.run_for(ms(1));
    world.tell_coordinator(Input::Cancel { task }).expect("it waits");
    world.run_for(ms(1));
    assert_eq!(world.outcome(task), Some(Outcome::Cancelled));
    world.forget_records_behind(|bytes| matches!(Record::decode(bytes), Some(Record::Cancel { .. })));
    world.restart_coordinator();
    world.run_for(ms(1));
    assert_eq!(world.outcome(task), Some(Outcome::Cancelled));
    world.audit();
}

#[test]
fn journ_2_each_start_raises_the_epoch_and_no_token_is_given_twice() {
    let mut world = connected(Setup::default());
    let mut tokens = std::collections::BTreeSet::new();
    for round in 0..5 {
        let task = world.submit(&format!("task {round}"), Job::takes(ms(1)));
        world.drive_until("it is over", |world| world.succeeded(task));
        let token = world.coordinator.task(task).and_then(|t| t.end).and_then(|end| end.token);
        assert!(tokens.insert(token), "{token:?} again");
        world.restart_coordinator();
        drive_connected(&mut world, 0);
    }
    let epochs: Vec<u64> = world
        .journal
        .records(true)
        .filter_map(|record| if let Record::Epoch { epoch, .. } = record { Some(epoch) } else { None })
        .collect();
    assert_eq!(epochs, [1, 2, 3, 4, 5, 6]);
}

#[test]
fn journ_4_restarts_under_load_execute_nothing_twice_and_workers_need_no_restart() {
    let mut world = connected(Setup { workers: 3, ..Setup::default() });
    world.journal.mode = JournalMode::Syncs(ms(2));
    let tasks: Vec<_> = (0..60).map(|n| world.submit(&format!("task {n}"), Job::takes(ms(300)))).collect();
    for restart in 0..10 {
        world.run_for(ms(171 + 40 * restart));
        world.restart_coordinator();
        // Now and then while it recovers.
        if restart % 4 == 3 {
            world.restart_coordinator();
        }
    }
    world.drive_until("all are over", |world| tasks.iter().all(|task| world.outcome(*task).is_some()));
    world.audit();
    for task in tasks {
        assert_eq!((world.outcome(task), world.executions(task)), (Some(Outcome::Succeeded), 1));
    }
}

#[test]
fn journ_4_workers_that_have_no_key_any_more_are_not_waited_for_whoever_has_their_names_now() {
    let mut world = connected(Setup::default());
    let task = world.submit("task", Job::takes(secs(500)));
    world.run_for(secs(1));
    let records: Vec<Vec<u8>> = world.journal.records(true).map(|record| record.encode()).collect();
    let client = Key { role: Role::Client, ..worker_key(0) };
    for keys in [vec![], vec![worker_key(1)], vec![client]] {
        let mut coordinator = recover_with(keys, records.iter().map(Vec::as_slice)).expect("a journal without fault");
        coordinator.handle(Instant::ZERO + ms(1), Input::Timeout).expect("time passes");
        assert_eq!(coordinator.task(task).map(|task| task.state), Some(TaskState::Ready));
        coordinator.check();
    }
}

#[test]
fn journ_4_who_does_not_come_back_within_the_window_loses_its_tasks_to_others() {
    let mut world = connected(Setup { workers: 2, ..Setup::default() });
    let task = world.submit("task", Job::takes(secs(500)));
    world.run_for(secs(1));
    let holder = (0..2).find(|n| world.worker(*n).held() == 1).expect("one has it");
    world.crash(holder);
    world.restart_coordinator();
    drive_connected(&mut world, 1 - holder);
    world.run_for(secs(118));
    assert_eq!((world.executions(task), world.coordinator.task(task).map(|t| t.state)), (1, Some(TaskState::Assigned)));
    world.run_for(secs(4));
    assert_eq!(world.executions(task), 2);
}

#[test]
fn task_2_an_attempt_that_was_adopted_is_in_the_journal_whatever_becomes_of_it() {
    let mut world = connected(Setup::default());
    let spec = TaskSpec { retries: 3, ..TaskSpec::default() };
    let task = world.submit_with("task", spec, Job { takes: secs(5), ..Job::fails(1) });
    world.run_for(secs(1));
    // A backup is put back that knows of the submit and not of the assignment.
    let is_submit = |bytes: &Vec<u8>| matches!(Record::decode(bytes), Some(Record::Submit { .. }));
    world.forget_records_behind(is_submit);
    world.restart_coordinator();
    world.drive_until("it has failed once", |world| world.coordinator.task(task).is_some_and(|t| t.attempts == 2));
    world.restart_coordinator();
    world.drive_until("it ends", |world| world.succeeded(task));
    assert_eq!(world.executions(task), 2, "what ran went on");
}
