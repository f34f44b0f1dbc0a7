//! JOURN-2: a store that is not what it was: an old copy, one that was put back, and one that is lost

mod common;

use common::{connected, drive_connected, ms, secs};
use rejoin_core::about::About;
use rejoin_core::client;
use rejoin_core::coordinator::{Config, Coordinator, Event, Input, Recovery, Why};
use rejoin_core::ids::{ClusterId, Token};
use rejoin_core::journal::{Census, Kept, Record};
use rejoin_core::limits::{RESTORED_EPOCHS, RESTORED_TOKENS, RESTORED_TOKENS_PER_MS, TOKEN_BLOCK};
use rejoin_core::link::Reason;
use rejoin_core::terms::{Class, Terms};
use rejoin_core::wire::message::{Refused, TaskSpec};
use rejoin_core::{Instant, Seed};
use rejoin_sim::{Job, Setup, World, worker_key};

/// A time of a clock on the wall, in milliseconds
const TIME: u64 = 1_700_000_000_000;

fn is_epoch(bytes: &[u8]) -> bool {
    matches!(Record::decode(bytes), Some(Record::Epoch { .. }))
}

fn is_tokens(bytes: &[u8]) -> bool {
    matches!(Record::decode(bytes), Some(Record::Tokens { .. }))
}

/// A coordinator that was told the time, or was not, made out of records; and what it writes first
fn recovered(restored: Option<u64>, records: &[Vec<u8>]) -> (Coordinator, Vec<Vec<u8>>) {
    let config = Config { restored, ..Config::new(ClusterId([9; 16]), 1, vec![worker_key(0)]) };
    let mut recovery = Recovery::start(config, Seed([1; 32]), Instant::ZERO).expect("legal settings");
    records.iter().for_each(|record| recovery.take(record).expect("it can be read"));
    let mut coordinator = recovery.finish();
    let mut frame = vec![0; rejoin_core::limits::FRAME_BYTES_MAX];
    let mut written = Vec::new();
    while let rejoin_core::coordinator::Output::Journal { record, .. } = coordinator.poll(&mut frame) {
        written.push(record.to_vec());
    }
    (coordinator, written)
}

/// The first token that a coordinator made out of these records may give
fn first_token(records: &[Vec<u8>]) -> u64 {
    let (_, written) = recovered(None, records);
    let below = written.iter().find_map(|bytes| match Record::decode(bytes) {
        Some(Record::Tokens { below }) => Some(below),
        _ => None,
    });
    below.expect("a block is reserved") - TOKEN_BLOCK
}

#[test]
fn journ_2_a_store_older_than_what_workers_have_seen_is_named_once_and_nothing_goes_on_with_it() {
    let mut world = connected(Setup { workers: 2, clients: 1, ..Setup::default() });
    for _ in 0..2 {
        world.restart_coordinator();
        (0..3).for_each(|peer| drive_connected(&mut world, peer));
    }
    let task = world.submit_by_client(0, "task", Job::takes(secs(30)));
    world.drive_until("it runs", |world| world.coordinator.why(task) == Some(Why::Runs));
    let right = world.journal.clone();
    world.forget_records_behind(|bytes| is_tokens(bytes));
    world.restart_coordinator();
    world.run_for(secs(900));
    let stats = world.coordinator.stats();
    assert_eq!(world.coordinator.epoch(), (ClusterId([9; 16]), 2));
    assert!(stats.newer_epochs > 3, "{stats:?}");
    assert_eq!((stats.opened, stats.assigned, stats.applied), (0, 0, 0));
    let told: Vec<_> = world.events.iter().filter(|event| matches!(event, Event::Outdated { .. })).collect();
    assert!(matches!(told[..], [Event::Outdated { epoch: 2, seen: 3, .. }]), "{told:?}");
    let reason = Reason::OldCoordinator { epoch: 2, seen: 3 };
    assert_eq!(world.leaves.last().map(|leave| leave.1), Some(reason));
    let says = reason.to_string();
    assert!(says.contains("epoch 2, and 3 was seen") && says.contains("--restored"), "{says}");
    assert!((0..2).all(|worker| world.worker(worker).is_slow() && world.worker(worker).stopped().is_none()));
    // As if nothing had happened.
    world.journal = right;
    world.restart_coordinator();
    world.drive_until("it has ended", |world| world.succeeded(task));
    assert_eq!(world.executions(task), 1);
    world.audit();
}

#[test]
fn journ_2_a_restored_coordinator_goes_beyond_all_epochs_and_tokens_as_often_as_that_is_needed() {
    let mut world = connected(Setup::default());
    for _ in 0..3 {
        world.restart_coordinator();
        drive_connected(&mut world, 0);
    }
    let backup = world.journal.clone();
    let mut tokens = std::collections::BTreeSet::new();
    let mut epoch = world.coordinator.epoch().1;
    for round in 0..3 {
        let task = world.submit(&format!("task {round}"), Job::takes(secs(2)));
        world.drive_until("it runs", |world| world.coordinator.why(task) == Some(Why::Runs));
        world.journal = backup.clone();
        world.restart_restored(TIME + round * 60_000);
        assert!(world.coordinator.epoch().1 > epoch);
        epoch = world.coordinator.epoch().1;
        assert_eq!(epoch, TIME + round * 60_000);
        drive_connected(&mut world, 0);
        // It is submitted again, as its submitter knows of it.
        world.drive_until("it has ended", |world| world.succeeded(task));
        let after = world.submit(&format!("after {round}"), Job::takes(ms(1)));
        world.drive_until("it has ended", |world| world.succeeded(after));
        assert!(world.executions(task) <= 2 && world.executions(after) == 1);
        let token = world.starts.last().map_or(Token(0), |start| start.1);
        assert!(tokens.insert(token) && token.0 >= (TIME + round * 60_000) * RESTORED_TOKENS_PER_MS);
    }
}

#[test]
fn journ_2_where_the_clock_is_behind_a_restored_coordinator_goes_by_steps() {
    let records = [
        Record::Epoch { epoch: TIME, cluster: ClusterId([9; 16]) }.encode(),
        Record::Tokens { below: TIME * RESTORED_TOKENS_PER_MS }.encode(),
    ];
    let (coordinator, written) = recovered(Some(5), &records);
    assert_eq!(coordinator.epoch().1, TIME + 1 + RESTORED_EPOCHS);
    let from = TIME * RESTORED_TOKENS_PER_MS;
    let first = written.first().and_then(|bytes| Record::decode(bytes));
    assert_eq!(first, Some(Record::Restored { from, below: from + RESTORED_TOKENS, waits: true }));
    // An empty store, in the cluster that is named.
    let (coordinator, _) = recovered(Some(TIME), &[]);
    assert_eq!(coordinator.epoch(), (ClusterId([9; 16]), TIME));
}

#[test]
fn journ_4_a_restored_journal_cut_behind_any_record_gives_no_token_twice() {
    let before = vec![
        Record::Epoch { epoch: 3, cluster: ClusterId([9; 16]) }.encode(),
        Record::Tokens { below: 4 * TOKEN_BLOCK }.encode(),
    ];
    let (_, written) = recovered(Some(TIME), &before);
    assert!(is_epoch(&written[1]) && is_tokens(&written[2]), "{written:?}");
    for cut in 1..=written.len() {
        let records: Vec<Vec<u8>> = before.iter().chain(&written[..cut]).cloned().collect();
        assert!(first_token(&records) >= TIME * RESTORED_TOKENS_PER_MS, "cut behind {cut}");
        // What compaction leaves says the same (JOURN-5).
        let mut census = Census::default();
        records.iter().filter_map(|bytes| Record::decode(bytes)).for_each(|record| census.note(&record));
        let mut compaction = census.compact();
        let kept: Vec<Vec<u8>> = records
            .iter()
            .filter_map(|bytes| match compaction.keep(&Record::decode(bytes)?) {
                Kept::Same => Some(bytes.clone()),
                Kept::Instead(other) => Some(other),
                Kept::Nothing => None,
            })
            .collect();
        assert!(first_token(&kept) >= TIME * RESTORED_TOKENS_PER_MS, "cut behind {cut}, and compacted");
    }
}

#[test]
fn sess_7_what_workers_hold_of_lost_tasks_is_discarded_counted_and_named_and_clients_are_told() {
    let mut world = connected(Setup { clients: 2, ..Setup::default() });
    let backup = world.journal.clone();
    let task = world.submit_by_client(0, "lost", Job::takes(secs(20)));
    world.drive_until("it runs", |world| world.coordinator.why(task) == Some(Why::Runs));
    world.journal = backup;
    world.restart_restored(TIME);
    drive_connected(&mut world, 0);
    world.drive_until("the worker has nothing", |world| world.worker(0).held() == 0);
    let unknown = Event::Unknown { peer: worker_key(0).name, attempts: 1 };
    assert_eq!(world.events.iter().filter(|event| **event == unknown).count(), 1);
    assert_eq!(world.coordinator.stats().unknown_attempts, 1);
    let refused = client::Event::Refused { task, reason: Refused::Unknown };
    world.drive_until("its client is told", |world| world.client_events[0].contains(&refused));
    assert_eq!(world.coordinator.stats().unknown_tasks, 1);
    // The same id again is a task that runs.
    world.submit_by_client(1, "lost", Job::takes(ms(1)));
    world.drive_until("it has ended", |world| world.succeeded(task));
    assert_eq!(world.executions(task), 2);
}

#[test]
fn task_2_after_a_restore_what_is_known_and_waits_is_adopted_and_what_others_have_is_not() {
    let mut world = connected(Setup::default());
    let task = world.submit("task", Job::takes(secs(5)));
    world.drive_until("it runs", |world| world.coordinator.why(task) == Some(Why::Runs));
    let token = world.starts[0].1;
    world.forget_records_behind(|bytes| matches!(Record::decode(bytes), Some(Record::Submit { .. })));
    world.restart_restored(TIME);
    world.drive_until("it has ended", |world| world.succeeded(task));
    let end = world.coordinator.task(task).and_then(|task| task.end).and_then(|end| end.token);
    assert_eq!((end, world.executions(task)), (Some(token), 1));
    assert_eq!(world.coordinator.stats().unknown_attempts, 0);
}

#[test]
fn task_4_after_a_restore_exclusive_tasks_wait_for_leases_that_nobody_knows_of() {
    let mut world = connected(Setup { workers: 2, ..Setup::default() });
    let task = world.plan("alone", Job::takes(secs(500)));
    let about = About { terms: Terms { class: Class::Exclusive, ..Terms::default() }, ..About::default() };
    let about = about.encode().expect("legal");
    let submit = |world: &mut World| {
        let submit = Input::Submit { task, spec: TaskSpec::default(), about: &about, payload: b"alone" };
        world.tell_coordinator(submit).expect("the submit is legal");
    };
    let backup = world.journal.clone();
    submit(&mut world);
    world.drive_until("it runs", |world| world.coordinator.why(task) == Some(Why::Runs));
    let holder = world.starts[0].3;
    world.wire(holder).refuses = true;
    world.journal = backup;
    world.restart_restored(TIME);
    let from = world.now();
    submit(&mut world);
    drive_connected(&mut world, 1 - holder);
    world.run_for(secs(5));
    assert_eq!(world.coordinator.why(task), Some(Why::LeaseHeld));
    // A start on top of that, which nobody has to tell that it may be old, knows it as well.
    world.restart_coordinator();
    submit(&mut world);
    drive_connected(&mut world, 1 - holder);
    world.run_for(secs(30));
    assert_eq!(world.executions(task), 1);
    world.drive_until("another worker has it", |world| world.executions(task) == 2);
    assert!(world.now().since(from) >= secs(42), "{:?}", world.now().since(from));
    world.run_for(secs(5));
    // Later starts do not wait any more.
    world.wire(holder).refuses = false;
    world.restart_coordinator();
    drive_connected(&mut world, holder);
    let other = world.plan("other", Job::takes(ms(1)));
    let submit = Input::Submit { task: other, spec: TaskSpec::default(), about: &about, payload: b"other" };
    world.tell_coordinator(submit).expect("the submit is legal");
    let from = world.now();
    world.drive_until("it has ended", |world| world.succeeded(other));
    assert!(world.now().since(from) < secs(20));
}

#[test]
fn task_1_what_was_submitted_again_behind_a_restore_gets_no_result_of_what_was_lost() {
    let mut world = connected(Setup { clients: 1, ..Setup::default() });
    let backup = world.journal.clone();
    let lost = world.submit("the same name", Job { takes: secs(3), ..Job::prints(b"lost") });
    world.drive_until("it runs", |world| world.coordinator.why(lost) == Some(Why::Runs));
    world.journal = backup;
    world.restart_restored(TIME);
    // Something else, under the name of what nobody here knows of.
    assert_eq!(world.submit("the same name", Job::prints(b"other")), lost);
    world.restart_coordinator();
    world.drive_until("it has ended", |world| world.succeeded(lost));
    assert_eq!(world.output(lost), b"other");
}
