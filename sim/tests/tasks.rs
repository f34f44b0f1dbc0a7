//! TASK: attempts, tokens, results, and how a task ends

mod common;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{connected, drive_connected, ms, puppet_worker, secs, to_worker};
use rejoin_core::Rejected;
use rejoin_core::coordinator::{Event, Input, TaskState, Why};
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::journal::Record;
use rejoin_core::limits::{INLINE_BYTES_MAX, PRIORITIES, TOKEN_BLOCK};
use rejoin_core::wire::message::{CancelReason, Class, Failure, FromWorker, Outcome, Settlement, TaskSpec, ToWorker};
use rejoin_sim::{Heard, Job, JournalMode, Puppet, Setup, World};

const DONE: Option<Outcome> = Some(Outcome::Succeeded);
const CANCELLED: Option<Outcome> = Some(Outcome::Cancelled);

fn submits(world: &World) -> usize {
    world.journal.records(false).filter(|record| matches!(record, Record::Submit { .. })).count()
}

fn submit(world: &mut World, name: &str, spec: TaskSpec, payload: &[u8]) -> Result<(), Rejected> {
    world.tell_coordinator(Input::Submit { task: TaskId::from_text(name), spec, about: &[], payload })
}

// TASK-1

#[test]
fn task_1_the_same_submit_again_is_fine_and_another_content_is_a_conflict() {
    let mut world = connected(Setup::default());
    let task = world.submit("once", Job::takes(ms(5)));
    let spec = TaskSpec::default();
    let urgent = TaskSpec { priority: 1, ..spec };
    for stage in 0..3 {
        assert_eq!(submit(&mut world, "once", spec, b"once"), Ok(()), "stage {stage}");
        assert_eq!(submit(&mut world, "once", spec, b"other"), Err(Rejected::Conflict));
        assert_eq!(submit(&mut world, "once", urgent, b"once"), Err(Rejected::Conflict));
        match stage {
            0 => world.drive_until("it is over", |world| world.succeeded(task)),
            _ => assert_eq!(
                world.tell_coordinator(Input::Forget { task }),
                if stage == 1 { Ok(()) } else { Err(Rejected::Unknown) }
            ),
        }
    }
    world.run_for(secs(10));
    assert_eq!((submits(&world), world.executions(task)), (1, 1));
    assert_eq!(world.coordinator.task(task), None);
    world.run_for(secs(24 * 3600));
    assert_eq!(submit(&mut world, "once", spec, b"other"), Ok(()), "after the retention time it is another task");
}

#[test]
fn task_1_limits_refuse_a_submit_and_change_nothing() {
    let mut world = World::new(Setup {
        coordinator: |config| {
            config.tasks_max = 3;
            config.forgotten_max = 2;
        },
        ..Setup::default()
    });
    let spec = TaskSpec::default();
    let large = vec![0; INLINE_BYTES_MAX + 1];
    assert_eq!(submit(&mut world, "large", spec, &large), Err(Rejected::TooLarge));
    let wrong = TaskSpec { priority: PRIORITIES, ..spec };
    assert_eq!(submit(&mut world, "wrong", wrong, b""), Err(Rejected::BadSpec));
    assert_eq!(submits(&world), 0);
    let tasks: Vec<_> = (0..3).map(|n| world.submit(&format!("task {n}"), Job::takes(ms(1)))).collect();
    assert_eq!(submit(&mut world, "one more", spec, b""), Err(Rejected::Full));
    assert_eq!(submit(&mut world, "task 0", spec, b"task 0"), Ok(()), "it is known, so that there is room");
    assert_eq!(world.tell_coordinator(Input::Forget { task: tasks[0] }), Err(Rejected::NotExpected));
    world.drive_until("all are over", |world| tasks.iter().all(|task| world.succeeded(*task)));
    for task in &tasks[..2] {
        assert_eq!(world.tell_coordinator(Input::Forget { task: *task }), Ok(()));
    }
    assert_eq!(submit(&mut world, "one more", spec, b""), Err(Rejected::Full), "idempotence is promised to the others");
    world.run_for(secs(24 * 3600));
    world.submit("one more", Job::takes(ms(1)));
}

// TASK-2

#[test]
fn task_2_tokens_rise_and_are_never_given_twice_even_across_restarts() {
    let mut world = connected(Setup { workers: 3, ..Setup::default() });
    let mut all = Vec::new();
    for epoch in 0..3 {
        let tasks: Vec<_> = (0..5)
            .map(|n| {
                let spec = TaskSpec { retries: 2, ..TaskSpec::default() };
                world.submit_with(&format!("{epoch} {n}"), spec, Job::fails(n % 3))
            })
            .collect();
        world.drive_until("all are over", |world| tasks.iter().all(|task| world.succeeded(*task)));
        let begun: Vec<Token> = world.starts.drain(..).map(|start| start.1).collect();
        assert_eq!(begun.len(), 5 + 4);
        assert!(begun.iter().all(|token| token.0 > epoch * TOKEN_BLOCK && token.0 <= (epoch + 1) * TOKEN_BLOCK));
        all.extend(begun);
        world.restart_coordinator();
        for peer in 0..3 {
            common::drive_connected(&mut world, peer);
        }
    }
    assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len());
}

#[test]
fn task_2_no_token_is_given_before_its_block_is_durable_and_no_task_before_its_submit() {
    let mut world = connected(Setup::default());
    world.journal.mode = JournalMode::Syncs(ms(500));
    world.restart_coordinator();
    let restarted = world.now();
    let task = world.submit("early", Job::takes(ms(1)));
    common::drive_connected(&mut world, 0);
    assert_eq!(world.coordinator.why(task), Some(Why::NotDurable));
    world.drive_until("it is assigned", |world| world.coordinator.stats().assigned == 1);
    assert_eq!(world.now().since(restarted), ms(500));
    let assign = world.journal.records(false).position(|record| matches!(record, Record::Assign { .. }));
    let tokens = world.journal.records(false).enumerate().filter(|(_, r)| matches!(r, Record::Tokens { .. }));
    assert!(assign > tokens.map(|(n, _)| n).last(), "the record of the assignment is behind the block's");
    world.drive_until("it runs", |world| !world.starts.is_empty());
    let waited = world.now().since(restarted);
    assert!(waited >= ms(1000) && waited < ms(1010), "once its own assignment is durable as well: {waited:?}");
}

// TASK-3

/// A world in which puppet worker 0 was given a task, was lost, and worker 1 may have it
fn replaced(takes: Duration) -> (World, Puppet, TaskId, Token) {
    let mut world =
        World::new(Setup { workers: 2, coordinator: |config| config.lost_after = secs(1), ..Setup::default() });
    world.wire(1).refuses = true;
    world.reset(1);
    let mut puppet = puppet_worker(&mut world, 1);
    let task = world.submit("wanted", Job { returns: b"theirs".to_vec(), ..Job::takes(takes) });
    let heard = puppet.hear(&mut world);
    let Some((_, ToWorker::Assign { token, .. })) = heard.iter().filter_map(to_worker).next() else {
        panic!("no assignment in {heard:?}")
    };
    puppet.close(&mut world);
    world.run_for(secs(2));
    world.wire(1).refuses = false;
    world.drive_until("worker 1 has it", |world| world.executions(task) == 1);
    (world, puppet, task, token)
}

fn deliver(world: &mut World, puppet: &mut Puppet, number: u64, task: TaskId, token: Token) -> Vec<Heard> {
    puppet.say(world, |body| {
        let streams = Default::default();
        let result = FromWorker::Result { task, token, outcome: Outcome::Succeeded, result: b"mine", streams };
        body.push(Class::Numbered(number), &result);
    });
    puppet.hear(world)
}

fn come_back(world: &mut World, puppet: &mut Puppet) {
    puppet.greet(world);
    let received = puppet.challenged(world).expect("the session is open");
    puppet.resume(world, 1, 1, received, 0);
    puppet.hear(world);
}

fn settlement(heard: &[Heard], of: Token) -> Option<(Settlement, Option<Outcome>)> {
    heard.iter().filter_map(to_worker).find_map(|(_, message)| {
        let ToWorker::Settled { token, settlement, outcome } = message else { return None };
        (token == of).then_some((settlement, outcome))
    })
}

#[test]
fn task_3_the_first_durable_result_wins_and_the_late_one_is_stale() {
    let (mut world, mut puppet, task, token) = replaced(ms(1));
    world.drive_until("worker 1 is done", |world| world.succeeded(task));
    come_back(&mut world, &mut puppet);
    let heard = deliver(&mut world, &mut puppet, 2, task, token);
    assert_eq!(settlement(&heard, token), Some((Settlement::Stale, DONE)), "and the end is told with it");
    assert_eq!(world.coordinator.stats().stale_results, 1);
    assert_eq!(world.coordinator.task(task).and_then(|t| t.end).map(|end| end.result), Some(&b"theirs"[..]));
    world.audit();
}

#[test]
fn task_3_a_finished_original_beats_an_unfinished_replacement_and_the_same_again_is_a_duplicate() {
    let (mut world, mut puppet, task, token) = replaced(secs(30));
    come_back(&mut world, &mut puppet);
    let heard = deliver(&mut world, &mut puppet, 2, task, token);
    assert_eq!(settlement(&heard, token), Some((Settlement::Applied, DONE)));
    let heard = deliver(&mut world, &mut puppet, 3, task, token);
    assert_eq!(settlement(&heard, token), Some((Settlement::Duplicate, DONE)));
    world.run_for(ms(10));
    assert_eq!(world.worker(1).held(), 0, "the replacement was stopped, and what it had to say settled");
    assert_eq!(world.coordinator.task(task).and_then(|t| t.end).map(|end| end.result), Some(&b"mine"[..]));
    world.audit();
}

#[test]
fn task_3_a_token_serves_one_task_at_one_worker() {
    let mut world = World::new(Setup { workers: 2, ..Setup::default() });
    world.run_for(ms(10));
    let theirs = world.submit("theirs", Job::takes(secs(5)));
    world.run_for(ms(10));
    let token = world.starts[0].1;
    assert_eq!(world.starts[0].3, 0);
    world.wire(1).refuses = true;
    world.reset(1);
    let mut thief = Puppet::worker(1);
    thief.enter(&mut world);
    thief.say(&mut world, |body| {
        body.push(Class::Numbered(1), &FromWorker::Inventory { part: 0, last: true, cut: 0, items: &[] });
    });
    let heard = deliver(&mut world, &mut thief, 2, theirs, token);
    assert_eq!(settlement(&heard, token), Some((Settlement::Stale, None)));
    world.drive_until("its own worker ends it", |world| world.succeeded(theirs));
    assert_eq!(world.coordinator.task(theirs).and_then(|t| t.end).map(|end| end.result), Some(&b""[..]));
}

#[test]
fn task_3_a_settlement_made_durable_behind_an_unconfirmed_session_reaches_the_one_that_goes_on() {
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world, 1);
    let task = world.submit("done", Job::takes(ms(1)));
    let heard = puppet.hear(&mut world);
    let Some((_, ToWorker::Assign { token, .. })) = heard.iter().filter_map(to_worker).next() else { panic!() };
    world.journal.mode = JournalMode::Syncs(ms(500));
    deliver(&mut world, &mut puppet, 2, task, token);
    puppet.close(&mut world);
    let mut other = Puppet::worker(0);
    other.boot = rejoin_core::ids::BootId([1; 16]);
    other.greet(&mut world);
    other.challenged(&mut world);
    other.prove(&mut world);
    world.run_for(secs(1));
    assert!(world.succeeded(task));
    other.close(&mut world);
    puppet.greet(&mut world);
    assert_eq!(puppet.challenged(&mut world), Some(2), "the result is taken in");
    puppet.resume(&mut world, 1, 1, 2, 1);
    assert_eq!(settlement(&puppet.hear(&mut world), token), Some((Settlement::Applied, DONE)));
}

// TASK-6

#[test]
fn task_6_losing_the_link_costs_no_attempt() {
    let mut world = connected(Setup { worker: |config| config.link.backoff.cap = ms(200), ..Setup::default() });
    let task = world.submit("long", Job::takes(secs(20)));
    for _ in 0..50 {
        world.run_for(ms(300));
        world.reset(0);
    }
    world.drive_until("it is over", |world| world.succeeded(task));
    let view = world.coordinator.task(task).expect("known");
    assert_eq!((view.attempts, world.executions(task)), (1, 1));
    assert_eq!(world.coordinator.stats().lost_attempts, 0);
}

#[test]
fn task_6_failures_are_retried_as_often_as_asked_with_growing_pauses() {
    for (fails, retries) in [(0, 0), (1, 0), (1, 1), (3, 2), (3, 3), (6, 6)] {
        let mut world = connected(Setup::default());
        let spec = TaskSpec { retries, ..TaskSpec::default() };
        let task = world.submit_with("fails", spec, Job::fails(fails));
        let mut begun = Vec::new();
        world.drive_until("it is over", |world| {
            if world.starts.len() > begun.len() {
                begun.push(world.now());
            }
            world.outcome(task).is_some()
        });
        let enough = retries as usize >= fails;
        let expected = if enough { Outcome::Succeeded } else { Outcome::Failed(Failure::Exit(1)) };
        assert_eq!(world.outcome(task), Some(expected));
        assert_eq!(world.executions(task), fails.min(retries as usize) + 1);
        let attempts: Vec<u32> = world.starts.iter().map(|start| start.2).collect();
        assert_eq!(attempts, (1..=attempts.len() as u32).collect::<Vec<_>>());
        for (n, pair) in begun.windows(2).enumerate() {
            let pause = pair[1].since(pair[0]);
            assert!(pause >= ms(50 << n) && pause <= ms(100 << n) + ms(20), "pause {n}: {pause:?}");
        }
        world.audit();
    }
}

#[test]
fn task_6_three_crashes_alone_are_poison() {
    let mut world = connected(Setup::default());
    let poison = world.submit("poison", Job::takes(secs(1)));
    for crash in 1..=3 {
        assert_eq!(world.outcome(poison), None, "{crash}");
        let runs = |event: &Event| matches!(event, Event::Running { .. });
        world.drive_until("it runs", |world| world.events.iter().filter(|event| runs(event)).count() == crash);
        world.crash(0);
        world.run_for(ms(100));
        world.restart(0);
        common::drive_connected(&mut world, 0);
        world.run_for(ms(10));
    }
    assert_eq!(world.outcome(poison), Some(Outcome::Failed(Failure::Poisonous)));
    assert_eq!((world.executions(poison), world.coordinator.stats().crashed_attempts), (3, 3));
    let next = world.submit("harmless", Job::takes(ms(1)));
    world.drive_until("life goes on", |world| world.succeeded(next));
    world.audit();
}

#[test]
fn task_6_neighbours_of_a_crash_are_cleared_alone_and_never_blamed() {
    for neighbours in 1..=4 {
        let mut world = connected(Setup {
            workers: 2,
            worker: |config| {
                config.slots = 5;
                config.link.backoff.cap = secs(1);
            },
            ..Setup::default()
        });
        world.wire(1).refuses = true;
        world.reset(1);
        world.run_for(ms(1));
        let innocent: Vec<_> =
            (0..neighbours).map(|n| world.submit(&format!("innocent {n}"), Job::takes(secs(2)))).collect();
        let poison = world.submit("poison", Job::takes(secs(2)));
        world.drive_until("all run", |world| world.starts.len() == neighbours + 1);
        world.run_for(ms(100));
        world.wire(1).refuses = false;
        // From now on whoever runs the poison crashes after a while.
        let end = world.now() + secs(300);
        while !innocent.iter().chain([&poison]).all(|task| world.outcome(*task).is_some()) && world.now() < end {
            let (_, _, _, at) = *world.starts.iter().rfind(|start| start.0 == poison).expect("it runs");
            let token = world.starts.iter().rfind(|start| start.0 == poison).map(|start| start.1);
            if token.is_some_and(|token| world.worker(at).attempt(token).is_some())
                && world.coordinator.why(poison) == Some(Why::Runs)
            {
                world.crash(at);
                world.run_for(ms(50));
                world.restart(at);
            }
            world.run_for(ms(50));
        }
        assert_eq!(world.outcome(poison), Some(Outcome::Failed(Failure::Poisonous)));
        for task in &innocent {
            assert_eq!(world.outcome(*task), DONE, "{neighbours} neighbours");
            assert_eq!(world.executions(*task), 2, "once beside it, and once alone");
        }
        assert_eq!(world.executions(poison), 4, "the crash among others is nobody's");
        world.audit();
    }
}

#[test]
fn task_6_plain_losses_have_a_bound_of_their_own() {
    let mut world = connected(Setup {
        coordinator: |config| {
            config.losses_max = 4;
            config.lost_after = secs(1);
        },
        ..Setup::default()
    });
    let task = world.submit("never lucky", Job::takes(secs(3600)));
    world.run_for(ms(10));
    for loss in 1..=4 {
        assert_eq!(world.outcome(task), None, "loss {loss}");
        world.wire(0).refuses = true;
        world.reset(0);
        world.run_for(secs(2));
        world.wire(0).refuses = false;
        common::drive_connected(&mut world, 0);
        world.run_for(ms(10));
    }
    assert_eq!(world.outcome(task), Some(Outcome::Failed(Failure::WorkerLost)));
    world.run_for(ms(100));
    assert_eq!((world.executions(task), world.worker(0).held()), (1, 0), "taken back each time, and stopped at last");
}

#[test]
fn task_6_what_a_crashed_worker_had_not_started_is_no_crash_of_its() {
    let mut world = connected(Setup { worker: |config| config.prefetch = 4, ..Setup::default() });
    let runs = world.submit("runs", Job::takes(secs(1)));
    let waits: Vec<_> = (0..3).map(|n| world.submit(&format!("waits {n}"), Job::takes(ms(1)))).collect();
    for _ in 0..2 {
        world.run_for(ms(50));
        assert_eq!(world.coordinator.why(runs), Some(Why::Runs));
        assert_eq!(world.coordinator.why(waits[0]), Some(Why::AtWorker));
        world.crash(0);
        world.restart(0);
        common::drive_connected(&mut world, 0);
    }
    world.drive_until("all are over", |world| waits.iter().chain([&runs]).all(|task| world.succeeded(*task)));
    assert_eq!(world.coordinator.stats().crashed_attempts, 2);
    world.audit();
}

#[test]
fn task_6_suspects_do_not_wait_for_a_worker_that_is_lost() {
    let mut world = connected(Setup { workers: 2, worker: |config| config.slots = 2, ..Setup::default() });
    world.wire(1).refuses = true;
    world.reset(1);
    world.run_for(ms(5));
    let suspects = ["a", "b"].map(|name| world.submit(name, Job::takes(secs(5))));
    world.run_for(ms(50));
    world.crash(0);
    world.restart(0);
    common::drive_connected(&mut world, 0);
    world.run_for(ms(50));
    assert_eq!(suspects.map(|task| world.coordinator.why(task)), [Some(Why::Runs), Some(Why::WaitsToRunAlone)]);
    // The worker that was kept free for them never comes back.
    world.crash(0);
    world.wire(1).refuses = false;
    world.drive_until("the other worker clears both", |world| suspects.iter().all(|task| world.succeeded(*task)));
    world.audit();
}

// TASK-7

#[test]
fn task_7_a_cancelled_task_is_not_given_out_again_when_its_worker_crashed_before_it_started() {
    let mut world = connected(Setup::default());
    world.submit("in front", Job::takes(secs(1)));
    let task = world.submit("waits", Job::takes(ms(1)));
    world.run_for(ms(50));
    assert_eq!(world.coordinator.why(task), Some(Why::AtWorker));
    world.crash(0);
    world.run_for(ms(5));
    world.tell_coordinator(Input::Cancel { task }).expect("it is known");
    world.restart(0);
    world.drive_until("it is over", |world| world.outcome(task).is_some());
    assert_eq!((world.outcome(task), world.executions(task)), (CANCELLED, 0));
}

#[test]
fn task_7_a_cancel_ends_a_task_in_every_state_and_again_is_fine() {
    let states = ["accepting", "ready", "backoff", "waiting", "running", "away", "lost", "ended", "forgotten"];
    for state in states {
        let mut world = connected(Setup {
            worker: |config| config.prefetch = 3,
            coordinator: |config| {
                config.retry_pause = secs(10);
                config.lost_after = secs(20);
            },
            ..Setup::default()
        });
        let retries = TaskSpec { retries: 1, ..TaskSpec::default() };
        let mut long = Job::takes(secs(30));
        match state {
            "accepting" => world.journal.mode = JournalMode::Syncs(ms(100)),
            "ready" => {
                world.wire(0).refuses = true;
                world.reset(0);
                world.run_for(ms(10));
            }
            "backoff" => long = Job::fails(1),
            "waiting" => {
                world.submit("in front", Job::takes(secs(60)));
            }
            "ended" | "forgotten" => long = Job::takes(ms(1)),
            _ => {}
        }
        let task = world.submit_with("cancelled", retries, long);
        if !matches!(state, "accepting") {
            world.run_for(ms(50));
        }
        let expected = match state {
            "accepting" => TaskState::Accepting,
            "ready" => TaskState::Ready,
            "backoff" => TaskState::Backoff,
            "ended" | "forgotten" => TaskState::Ended,
            _ => TaskState::Assigned,
        };
        assert_eq!(world.coordinator.task(task).map(|task| task.state), Some(expected), "{state}");
        match state {
            "away" | "lost" => {
                world.wire(0).refuses = true;
                world.reset(0);
                world.run_for(if state == "lost" { secs(25) } else { secs(1) });
            }
            "forgotten" => world.tell_coordinator(Input::Forget { task }).expect("it is over"),
            _ => {}
        }
        let before = world.executions(task);
        for _ in 0..3 {
            let answer = if state == "forgotten" { Err(Rejected::Unknown) } else { Ok(()) };
            assert_eq!(world.tell_coordinator(Input::Cancel { task }), answer, "{state}");
        }
        world.wire(0).refuses = false;
        if state == "forgotten" {
            continue;
        }
        world.drive_until("it is over", |world| world.outcome(task).is_some());
        assert_eq!(world.outcome(task), if state == "ended" { DONE } else { CANCELLED }, "{state}");
        world.run_for(secs(120));
        assert_eq!(world.executions(task), before, "{state}: never given out again");
        assert_eq!(world.worker(0).held(), 0, "{state}");
        let requests = world.journal.records(true).filter(|r| matches!(r, Record::Cancel { .. })).count();
        assert_eq!(requests, usize::from(state != "ended"), "{state}: a journaled request, once");
        world.audit();
    }
    let mut world = World::new(Setup::default());
    let task = TaskId::from_text("unknown");
    assert_eq!(world.tell_coordinator(Input::Cancel { task }), Err(Rejected::Unknown));
}

#[test]
fn task_7_a_cancel_that_races_a_result_ends_by_whichever_is_durable_first() {
    let (mut done, mut cancelled) = (0, 0);
    for at in 0..80 {
        for lag in [0, 3] {
            let mut world = connected(Setup { clients: 1, ..Setup::default() });
            world.journal.mode = JournalMode::Syncs(ms(lag));
            world.wire(0).latency = ms(2);
            let task = world.submit_by_client(0, "raced", Job::takes(ms(5)));
            world.run_for(Duration::from_micros(at * 300));
            let told = world.coordinator.task(task).is_some_and(|task| task.end.is_some());
            let client = rejoin_core::client::Input::Cancel { task };
            world.tell_client(0, client).expect("it is followed");
            if at % 2 == 0 {
                world.reset(0);
            }
            world.drive_until("the client knows", |world| {
                world.client(0).task(task).is_some_and(|task| task.end.is_some())
            });
            world.run_for(secs(5));
            let end = world.client(0).task(task).and_then(|task| task.end).map(|end| end.0);
            assert_eq!(end, world.outcome(task));
            assert!(!told || end == DONE, "what was told stays");
            match end {
                Some(Outcome::Succeeded) => done += 1,
                Some(Outcome::Cancelled) => cancelled += 1,
                _ => panic!("{end:?}"),
            }
            assert_eq!((world.worker(0).held(), world.coordinator.stats().violations), (0, 0));
            world.audit();
        }
    }
    assert!(done > 20 && cancelled > 20, "{done} done, {cancelled} cancelled");
}

#[test]
fn task_7_a_cancel_reaches_a_worker_whose_session_ended_meanwhile() {
    let mut world = connected(Setup { coordinator: |config| config.session_lifetime = secs(1), ..Setup::default() });
    let task = world.submit("runs on", Job::takes(secs(3600)));
    world.run_for(ms(20));
    world.wire(0).refuses = true;
    world.reset(0);
    world.run_for(secs(5));
    world.tell_coordinator(Input::Cancel { task }).expect("it is known");
    world.wire(0).refuses = false;
    world.drive_until("it is over", |world| world.outcome(task).is_some());
    assert_eq!((world.outcome(task), world.coordinator.stats().resumed), (CANCELLED, 0));
}

// TASK-9

#[test]
fn task_9_the_most_urgent_goes_first_and_within_a_priority_the_oldest() {
    let mut world = World::new(Setup { worker: |config| config.prefetch = 0, ..Setup::default() });
    let mut expected = Vec::new();
    for n in 0..20u8 {
        let spec = TaskSpec { priority: n * 7 % PRIORITIES, retries: 0 };
        expected.push((spec.priority, n, world.submit_with(&format!("task {n}"), spec, Job::takes(ms(3)))));
    }
    expected.sort();
    world.drive_until("all are over", |world| expected.iter().all(|(_, _, task)| world.succeeded(*task)));
    let order: Vec<_> = world.starts.iter().map(|start| start.0).collect();
    assert_eq!(order, expected.iter().map(|(_, _, task)| *task).collect::<Vec<_>>());
}

#[test]
fn task_9_work_is_spread_over_the_least_loaded() {
    let mut world = connected(Setup {
        workers: 4,
        worker: |config| {
            config.slots = 3;
            config.prefetch = 3;
        },
        ..Setup::default()
    });
    for n in 0..12 {
        world.submit(&format!("task {n}"), Job::takes(secs(1)));
    }
    world.run_for(ms(100));
    for worker in 0..4 {
        assert_eq!(world.starts.iter().filter(|start| start.3 == worker).count(), 3);
    }
}

#[test]
fn task_9_unstarted_work_is_taken_from_the_busy_for_the_idle_and_is_no_attempt() {
    let mut world = connected(Setup { workers: 3, worker: |config| config.prefetch = 8, ..Setup::default() });
    for peer in 1..3 {
        world.wire(peer).refuses = true;
        world.reset(peer);
    }
    world.run_for(ms(5));
    let tasks: Vec<_> = (0..9).map(|n| world.submit(&format!("task {n}"), Job::takes(secs(1)))).collect();
    world.run_for(ms(100));
    assert_eq!(world.worker(0).held(), 9);
    let from = world.now();
    for peer in 1..3 {
        world.wire(peer).refuses = false;
    }
    world.drive_until("all are over", |world| tasks.iter().all(|task| world.succeeded(*task)));
    assert!(world.now().since(from) < secs(5), "three at a time: {:?}", world.now().since(from));
    for task in &tasks {
        assert_eq!((world.executions(*task), world.coordinator.task(*task).map(|t| t.attempts)), (1, Some(1)));
    }
    world.audit();
}

#[test]
fn task_9_a_recall_that_comes_too_late_changes_nothing() {
    for lag in 0..12 {
        let mut world = connected(Setup { workers: 2, worker: |config| config.prefetch = 3, ..Setup::default() });
        world.wire(1).refuses = true;
        world.reset(1);
        world.run_for(ms(5));
        world.wire(0).latency = ms(5);
        let tasks: Vec<_> = (0..4).map(|n| world.submit(&format!("task {n}"), Job::takes(ms(10)))).collect();
        world.run_for(ms(lag));
        world.wire(1).refuses = false;
        if lag % 3 == 0 {
            world.reset(0);
        }
        world.drive_until("all are over", |world| tasks.iter().all(|task| world.succeeded(*task)));
        world.run_for(secs(2));
        assert!(tasks.iter().all(|task| world.executions(*task) == 1), "lag {lag}");
        assert_eq!((world.worker(0).held(), world.worker(1).held()), (0, 0));
        world.audit();
    }
}

#[test]
fn task_9_why_a_task_does_not_run_has_an_answer() {
    let mut world = connected(Setup { workers: 1, ..Setup::default() });
    world.wire(0).refuses = true;
    world.reset(0);
    world.run_for(ms(5));
    world.journal.mode = JournalMode::Syncs(ms(10));
    let spec = TaskSpec { retries: 1, ..TaskSpec::default() };
    let first = world.submit_with("first", spec, Job { takes: ms(100), ..Job::fails(1) });
    let why = |world: &World, task| world.coordinator.why(task);
    assert_eq!(why(&world, first), Some(Why::NotDurable));
    world.run_for(ms(10));
    assert_eq!(why(&world, first), Some(Why::NoWorker));
    let [second, third] = ["second", "third"].map(|name| world.submit(name, Job::takes(secs(5))));
    world.run_for(ms(10));
    world.wire(0).refuses = false;
    world.drive_until("it runs", |world| world.coordinator.why(first) == Some(Why::Runs));
    assert_eq!([second, third].map(|task| why(&world, task)), [Some(Why::AtWorker), Some(Why::WorkersBusy)]);
    world.drive_until("it failed", |world| world.coordinator.why(first) == Some(Why::Pausing));
    world.drive_until("it is over", |world| world.coordinator.why(first) == Some(Why::Ended));
    assert_eq!(why(&world, TaskId::from_text("unknown")), None);
    // Two run when their worker crashes: one waits while the other runs alone.
    let mut world = connected(Setup { worker: |config| config.slots = 2, ..Setup::default() });
    let both = ["a", "b"].map(|name| world.submit(name, Job::takes(secs(1))));
    world.run_for(ms(50));
    world.crash(0);
    world.restart(0);
    common::drive_connected(&mut world, 0);
    world.run_for(ms(50));
    assert_eq!(both.map(|task| world.coordinator.why(task)), [Some(Why::Runs), Some(Why::WaitsToRunAlone)]);
    world.drive_until("both are over", |world| both.iter().all(|task| world.succeeded(*task)));
}

#[test]
fn task_7_the_reason_travels_with_the_order_to_stop() {
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world, 1);
    let task = world.submit("one", Job::takes(ms(1)));
    puppet.hear(&mut world);
    world.tell_coordinator(Input::Cancel { task }).expect("it is known");
    let heard = puppet.hear(&mut world);
    let reasons: Vec<_> = heard
        .iter()
        .filter_map(to_worker)
        .filter_map(|(_, message)| if let ToWorker::Cancel { reason, .. } = message { Some(reason) } else { None })
        .collect();
    assert_eq!(reasons, [CancelReason::Requested]);
}

#[test]
fn task_7_a_task_that_comes_back_unstarted_while_it_is_being_cancelled_has_ended() {
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world, 1);
    let task = world.submit("one", Job::takes(ms(1)));
    let heard = puppet.hear(&mut world);
    let Some((_, ToWorker::Assign { token, .. })) = heard.iter().filter_map(to_worker).next() else { panic!() };
    world.tell_coordinator(Input::Cancel { task }).expect("it is known");
    assert_eq!(world.outcome(task), None, "the worker may have started it");
    puppet.say(&mut world, |body| {
        body.push(Class::Numbered(2), &FromWorker::GivenBack { token });
    });
    world.run_for(ms(1));
    assert_eq!(world.outcome(task), CANCELLED);
    world.audit();
}

#[test]
fn task_9_an_assignment_that_has_not_left_is_taken_back_for_an_idle_worker_without_asking() {
    let mut world = World::new(Setup { workers: 2, ..Setup::default() });
    world.wire(1).refuses = true;
    drive_connected(&mut world, 0);
    let conn = world.connection(0).expect("connected");
    world.tell_coordinator(Input::Writable { conn, writable: false }).expect("never refused");
    let tasks = [0, 1].map(|n| world.submit(&format!("task {n}"), Job::takes(secs(1))));
    world.wire(1).refuses = false;
    drive_connected(&mut world, 1);
    world.run_for(ms(10));
    assert_eq!(world.starts.iter().map(|start| start.3).collect::<Vec<_>>(), [1], "the first one is blocked");
    world.tell_coordinator(Input::Writable { conn, writable: true }).expect("never refused");
    world.drive_until("both are over", |world| tasks.iter().all(|task| world.succeeded(*task)));
    world.audit();
    for task in tasks {
        assert_eq!(world.coordinator.task(task).map(|task| task.attempts), Some(1), "what never left was no attempt");
    }
}
