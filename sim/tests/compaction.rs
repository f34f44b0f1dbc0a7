//! What compaction leaves recovers to the same, and tasks are forgotten in time (JOURN-5)
#![allow(clippy::unwrap_used)]

mod common;

use common::{connected, ms, secs};
use rejoin_core::blob::chunk_name;
use rejoin_core::coordinator::{Config, Coordinator, Input, Recovery};
use rejoin_core::ids::{ClusterId, TaskId, Token};
use rejoin_core::journal::{Census, Kept, Record};
use rejoin_core::wire::message::TaskSpec;
use rejoin_core::{Instant, Seed};
use rejoin_sim::{Job, Setup, World, worker_key};

fn compacted(records: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut census = Census::default();
    records.iter().for_each(|record| census.note(&Record::decode(record).unwrap()));
    let mut compaction = census.compact();
    let kept = records.iter().filter_map(|record| match compaction.keep(&Record::decode(record).unwrap()) {
        Kept::Same => Some(record.clone()),
        Kept::Instead(other) => Some(other),
        Kept::Nothing => None,
    });
    kept.collect()
}

fn recover(records: &[Vec<u8>]) -> Coordinator {
    let config = Config::new(ClusterId([9; 16]), 1, vec![worker_key(0), worker_key(1)]);
    let mut recovery = Recovery::start(config, Seed([1; 32]), Instant::ZERO).unwrap();
    records.iter().for_each(|record| recovery.take(record).unwrap());
    recovery.finish()
}

fn records(world: &World) -> Vec<Vec<u8>> {
    world.journal.records(true).map(|record| record.encode()).collect()
}

#[test]
fn journ_5_whatever_prefix_of_the_records_is_compacted_recovers_to_the_same() {
    let mut world = connected(Setup { coordinator: |c| c.retention = secs(2), workers: 2, ..Setup::default() });
    let first = world.submit("first", Job::steps(3, ms(90)));
    let failing = world.submit_with("fails", TaskSpec { priority: 1, retries: 3 }, Job::fails(2));
    world.run_for(secs(1));
    for task in [first, failing] {
        world.tell_coordinator(Input::Forget { task }).unwrap();
    }
    world.run_for(ms(50));
    world.restart_coordinator();
    world.run_for(secs(1));
    let second = world.submit("second", Job::prints(b"words"));
    let cancelled = world.submit("cancelled", Job::takes(secs(60)));
    world.run_for(secs(4));
    world.tell_coordinator(Input::Cancel { task: cancelled }).unwrap();
    world.run_for(ms(50));
    world.tell_coordinator(Input::Forget { task: second }).unwrap();
    let open = world.submit("open", Job::takes(secs(60)));
    world.run_for(ms(100));
    let all = records(&world);
    assert!(all.iter().any(|record| matches!(Record::decode(record), Some(Record::Lapsed { .. }))));
    for cut in 0..=all.len() {
        let (whole, less) = (&all[..cut], compacted(&all[..cut]));
        let (from_all, from_less) = (recover(whole), recover(&less));
        from_less.check();
        assert_eq!(from_less.digest(), from_all.digest(), "cut at {cut}");
        for task in [first, failing, second, cancelled, open] {
            let known =
                |c: &Coordinator| (c.task(task).and_then(|t| Some((t.end?.outcome, t.attempts))), c.remembered(task));
            assert_eq!(known(&from_less), known(&from_all), "cut at {cut}: {task}");
        }
        assert_eq!(compacted(&less), less, "once is enough");
    }
    let lapsed = compacted(&all);
    let of_first = |record: &&Vec<u8>| record.windows(16).any(|bytes| bytes == first.0);
    assert_eq!(lapsed.iter().filter(of_first).count(), 0, "nothing is left of a task that has lapsed");
}

#[test]
fn journ_5_a_task_that_has_ended_is_forgotten_when_its_time_is_over_and_after_a_restart_no_sooner() {
    let mut world = connected(Setup { coordinator: |c| c.forget_after = Some(secs(10)), ..Setup::default() });
    let task = world.submit("brief", Job::takes(ms(20)));
    world.run_for(secs(9));
    assert!(world.coordinator.task(task).is_some());
    world.restart_coordinator();
    world.run_for(secs(9));
    assert!(world.coordinator.task(task).is_some(), "its time begins anew: when it had ended is not recorded");
    world.run_for(secs(2));
    assert!(world.coordinator.task(task).is_none() && world.coordinator.remembered(task).is_some());
    let other = world.submit("another", Job::takes(ms(20)));
    world.run_for(secs(1));
    world.tell_coordinator(Input::Forget { task: other }).unwrap();
    world.run_for(secs(20));
    world.audit();
}

#[test]
fn journ_5_a_small_checkpoint_that_was_dropped_stays_so_where_a_large_one_before_it_is_left_out() {
    let (task, token, bytes) = (TaskId::from_text("task"), Token(1), [7; 50_000]);
    let spec = TaskSpec { priority: 1, retries: 0 };
    let worker = "worker-0".parse().unwrap();
    let home = [1]; // As one number that is small enough for a byte.
    let all = [
        Record::Epoch { epoch: 1, cluster: ClusterId([9; 16]) },
        Record::Tokens { below: 1_000 },
        Record::Submit { task, spec, about: &[], payload: b"" },
        Record::Assign { task, token, attempt: 1, worker },
        Record::Piece { task, home: 1, offset: 0, bytes: &bytes },
        Record::Chunk { task, home: 1, length: 50_000, name: chunk_name(&bytes) },
        Record::Manifest { task, token, number: 1, length: 50_000, homes: &home },
        Record::Checkpoint { task, token, number: 2, bytes: b"small" },
        Record::Gone { task, homes: &home },
        Record::Unreadable { task },
    ];
    let all: Vec<Vec<u8>> = all.iter().map(Record::encode).collect();
    let less = compacted(&all);
    assert!(less.len() < all.len());
    assert_eq!(less.last(), all.last(), "or the small one would be there again");
    assert_eq!(recover(&less).digest(), recover(&all).digest());
}
