//! Checkpoints: durable before they are answered, one under way at a time, restored into the next attempt
#![allow(clippy::unwrap_used)]

mod common;

use common::{connected, ms, puppet_worker, secs, to_worker};
use rejoin_core::coordinator::Event;
use rejoin_core::journal::Record;
use rejoin_core::limits::INLINE_BYTES_MAX;
use rejoin_core::wire::message::{CheckpointRefused, Class, FromWorker, Outcome, ToWorker};
use rejoin_sim::{Job, JournalMode, Setup, World};

fn ended(world: &World) -> usize {
    world.events.iter().filter(|event| matches!(event, Event::Ended { .. })).count()
}

fn numbers(world: &World) -> Vec<u64> {
    world.checkpointed.iter().map(|(_, number, _)| *number).collect()
}

#[test]
fn ckpt_1_a_checkpoint_is_answered_once_it_is_durable() {
    let mut world = connected(Setup::default());
    world.submit("a", Job::steps(3, ms(300)));
    world.drive_until("it runs", |world| !world.starts.is_empty());
    world.journal.mode = JournalMode::Stuck;
    world.run_for(ms(150));
    assert_eq!((world.steps.len(), world.checkpointed.len()), (1, 0), "made, and not durable");
    world.journal.mode = JournalMode::Syncs(ms(5));
    world.restart_coordinator();
    world.drive_until("it ends", |world| ended(world) == 1);
    assert!(world.checkpointed.iter().all(|(.., refused)| refused.is_none()), "{:?}", world.checkpointed);
    assert_eq!(world.executions(world.starts[0].0), 1, "it went on all the time");
    world.audit();
}

#[test]
fn ckpt_2_a_refusal_is_final_for_that_checkpoint_and_the_task_goes_on() {
    // Each of these has 20 bytes.
    let tight = |config: &mut rejoin_core::coordinator::Config| config.checkpoint_bytes_max = 30;
    let mut world = connected(Setup { workers: 2, coordinator: tight, ..Setup::default() });
    world.submit("a", Job::steps(3, ms(300)));
    world.submit("b", Job::steps(3, ms(300)));
    world.drive_until("both end", |world| ended(world) == 2);
    let answers = world.checkpointed.clone().into_iter();
    let (kept, refused): (Vec<_>, Vec<_>) = answers.partition(|(.., refused)| refused.is_none());
    assert!(!kept.is_empty() && !refused.is_empty(), "{:?}", world.checkpointed);
    assert!(refused.iter().all(|(.., reason)| *reason == Some(CheckpointRefused::Full)), "{refused:?}");
    assert!(kept.iter().all(|(token, ..)| *token == kept[0].0), "the first one has the room until it ends");
    world.audit();
}

#[test]
fn ckpt_3_one_is_under_way_and_a_newer_one_replaces_the_one_that_waits() {
    let mut world = connected(Setup::default());
    world.journal.mode = JournalMode::Syncs(ms(450));
    world.submit("a", Job::steps(10, ms(1000)));
    world.drive_until("it ends", |world| ended(world) == 1);
    let numbers = numbers(&world);
    assert_eq!(numbers[0], 1, "the first one was not waited for in vain");
    assert!(numbers.len() < 5 && numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    world.audit();
}

#[test]
fn ckpt_3_only_the_newest_attempt_makes_any() {
    let mut world =
        connected(Setup { workers: 2, coordinator: |config| config.lost_after = secs(1), ..Setup::default() });
    world.submit("a", Job::steps(40, secs(40)));
    world.drive_until("its first checkpoint", |world| !world.checkpointed.is_empty());
    let first = world.starts[0];
    world.wire(first.3).refuses = true;
    world.reset(first.3);
    world.drive_until("another attempt has made one", |world| {
        world.starts.len() == 2 && world.checkpointed.iter().any(|(token, ..)| *token == world.starts[1].1)
    });
    world.wire(first.3).refuses = false;
    world.drive_until("the old one is back and told", |world| {
        world.checkpointed.contains(&(first.1, world.checkpointed.last().unwrap().1, Some(CheckpointRefused::Stale)))
    });
    world.drive_until("it ends", |world| ended(world) == 1);
    let second = world.starts[1].1;
    assert!(world.checkpointed.iter().filter(|(token, ..)| *token == second).all(|(.., refused)| refused.is_none()));
    world.audit();
}

#[test]
fn ckpt_4_the_next_attempt_goes_on_from_the_newest_one_also_after_a_restart_of_the_coordinator() {
    for restart in [false, true] {
        let mut world = connected(Setup {
            workers: 2,
            coordinator: |config| {
                config.lost_after = secs(1);
                config.recovery_window = secs(2);
            },
            ..Setup::default()
        });
        let task = world.submit("a", Job::steps(5, ms(500)));
        world.drive_until("its third checkpoint", |world| numbers(world) == [1, 2, 3]);
        let worker = world.starts[0].3;
        world.crash(worker);
        if restart {
            world.restart_coordinator();
        }
        world.drive_until("it ends", |world| ended(world) == 1);
        let steps: Vec<u8> = world.steps.iter().map(|(_, step)| *step).collect();
        assert_eq!(steps, [1, 2, 3, 4], "no step twice, none left out (restart: {restart})");
        assert_eq!(numbers(&world)[3..], [4], "numbers go on");
        assert_eq!(world.coordinator.task(task).unwrap().end.unwrap().outcome, Outcome::Succeeded);
        world.audit();
    }
}

#[test]
fn ckpt_2_one_that_is_sent_again_is_kept_and_one_beyond_the_limit_is_refused() {
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world, 1);
    world.submit("a", Job::takes(ms(1)));
    let heard = puppet.hear(&mut world);
    let Some((_, ToWorker::Assign { token, .. })) = heard.iter().filter_map(to_worker).next() else { panic!() };
    let large = vec![0; INLINE_BYTES_MAX + 1];
    let made: [(u64, &[u8]); 4] = [(1, b"one"), (1, b"one"), (2, &large), (2, &large[1..])];
    for (n, (number, bytes)) in (2..).zip(made) {
        puppet.say(&mut world, |body| {
            assert!(body.push(Class::Numbered(n), &FromWorker::Checkpoint { token, number, bytes }));
        });
    }
    let heard = puppet.hear(&mut world);
    let answers = heard.iter().filter_map(to_worker).filter_map(|(_, message)| match message {
        ToWorker::Checkpointed { number, refused, .. } => Some((number, refused)),
        ToWorker::Assign { .. }
        | ToWorker::Cancel { .. }
        | ToWorker::Recall { .. }
        | ToWorker::Verdict { .. }
        | ToWorker::Settled { .. }
        | ToWorker::Kept { .. }
        | ToWorker::Restore { .. }
        | ToWorker::Drain
        | ToWorker::Need { .. }
        | ToWorker::RestoreOffer { .. }
        | ToWorker::RestorePiece { .. }
        | ToWorker::AssignUnder { .. }
        | ToWorker::AssignLarge { .. } => None,
    });
    let answers: Vec<_> = answers.collect();
    assert_eq!(answers, [(1, None), (1, None), (2, Some(CheckpointRefused::TooLarge)), (2, None)]);
    let kept = world.journal.records(true).filter(|record| matches!(record, Record::Checkpoint { .. })).count();
    assert_eq!(kept, 2);
}

#[test]
fn ckpt_4_what_waits_at_a_worker_still_starts_from_its_checkpoint_when_the_session_is_lost() {
    let mut world = connected(Setup {
        workers: 2,
        coordinator: |config| {
            config.session_lifetime = secs(0);
            config.lost_after = secs(1);
        },
        ..Setup::default()
    });
    let long = world.submit("long", Job::takes(secs(5)));
    let task = world.submit("steps", Job::steps(5, ms(500)));
    world.drive_until("its second checkpoint", |world| numbers(world) == [1, 2]);
    let (other, maker) = (world.starts[0].3, world.starts[1].3);
    world.crash(maker);
    world.drive_until("it waits behind the long one", |world| world.worker(other).held() == 2);
    world.run_for(ms(20));
    assert_eq!(world.executions(task), 1);
    world.reset(other);
    world.drive_until("both end", |world| ended(world) == 2);
    let steps: Vec<u8> = world.steps.iter().map(|step| step.1).collect();
    assert_eq!(steps, [1, 2, 3, 4], "no step twice, none left out");
    assert_eq!((world.executions(long), world.executions(task)), (1, 2));
    world.audit();
}
