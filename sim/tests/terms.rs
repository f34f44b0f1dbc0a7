//! TASK-4, TASK-5, LIVE-4: what becomes of tasks whose worker is out of reach, or that do not get on

mod common;

use std::time::Duration;

use common::{connected, drive_connected, ms, secs};
use rejoin_core::about::About;
use rejoin_core::coordinator::{Input, TaskState, Why};
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::terms::{Class, OnReturn, Replace, Span, Terms};
use rejoin_core::wire::message::{Failure, Outcome, TaskSpec};
use rejoin_core::worker::{self, AttemptState};
use rejoin_core::{Instant, Rejected};
use rejoin_sim::{Job, Setup, World};

const DONE: Option<Outcome> = Some(Outcome::Succeeded);
const LOST: Option<Outcome> = Some(Outcome::Failed(Failure::WorkerLost));

const PLAIN: Terms = Terms {
    class: Class::Idempotent,
    lost_after: None,
    replace: Replace::WhenLost,
    on_return: OnReturn::FirstResult,
    self_stop_after: None,
    progress_timeout: None,
};
const EXCLUSIVE: Terms = Terms { class: Class::Exclusive, ..PLAIN };

fn span(span: Duration) -> Span {
    span.try_into().expect("a legal time")
}

fn submit_with(world: &mut World, name: &str, spec: TaskSpec, terms: Terms, job: Job) -> TaskId {
    let task = world.plan(name, job);
    let about = About { terms, ..About::default() }.encode().expect("they do not contradict each other");
    let submit = Input::Submit { task, spec, about: &about, payload: name.as_bytes() };
    world.tell_coordinator(submit).expect("the submit is legal");
    task
}

fn submit(world: &mut World, name: &str, terms: Terms, job: Job) -> TaskId {
    submit_with(world, name, TaskSpec::default(), terms, job)
}

/// Worker 0 runs it, and is cut off at both ends; returns the attempt
fn cut_off_while_it_runs(world: &mut World, task: TaskId) -> Token {
    world.drive_until("it runs", |world| world.coordinator.why(task) == Some(Why::Runs));
    let (_, token, _, worker) = *world.starts.iter().rfind(|start| start.0 == task).expect("it was started");
    assert_eq!(worker, 0);
    world.wire(0).refuses = true;
    world.reset(0);
    world.run_for(ms(5));
    token
}

fn reconnect(world: &mut World) {
    world.wire(0).refuses = false;
    drive_connected(world, 0);
    world.run_for(ms(50));
}

fn two(setup: Setup) -> World {
    connected(Setup { workers: 2, ..setup })
}

/// When another attempt was started, counted from a time
fn until_it_starts_again(world: &mut World, task: TaskId, from: Instant) -> Duration {
    let before = world.executions(task);
    world.drive_until("it is started again", |world| world.executions(task) > before);
    world.now().since(from)
}

// TASK-4

#[test]
fn task_4_a_second_exclusive_attempt_waits_until_nothing_can_run_under_the_lease_of_the_first() {
    let mut world = two(Setup::default());
    let task = submit(&mut world, "charge", EXCLUSIVE, Job::takes(secs(3600)));
    world.drive_until("it runs", |world| world.coordinator.why(task) == Some(Why::Runs));
    world.run_for(secs(20));
    let from = world.now();
    // Its memory is gone, and that is known at once; whether its task has gone as well is not.
    world.crash(0);
    world.restart(0);
    drive_connected(&mut world, 0);
    world.run_for(ms(50));
    assert_eq!(world.coordinator.why(task), Some(Why::LeaseHeld));
    assert_eq!(world.coordinator.task(task).map(|task| task.state), Some(TaskState::Backoff));
    let waited = until_it_starts_again(&mut world, task, from);
    assert!(waited > ms(42_150) && waited < secs(45), "{waited:?}: 40 s, 3 % and a second from its welcome");
}

#[test]
fn task_4_an_idempotent_task_is_given_out_again_at_once_where_an_exclusive_one_waits() {
    let mut world = two(Setup::default());
    let task = submit(&mut world, "plain", PLAIN, Job::takes(secs(3600)));
    world.drive_until("it runs", |world| world.coordinator.why(task) == Some(Why::Runs));
    let from = world.now();
    world.crash(0);
    world.restart(0);
    assert!(until_it_starts_again(&mut world, task, from) < secs(1));
}

#[test]
fn task_4_the_worker_stops_an_exclusive_task_when_its_lease_has_ended() {
    let mut world = two(Setup::default());
    let task = submit(&mut world, "charge", EXCLUSIVE, Job::takes(secs(3600)));
    let token = cut_off_while_it_runs(&mut world, task);
    let lease = world.worker(0).lease().expect("it was granted one");
    assert!(world.worker(0).is_exclusive(token));
    assert_eq!(lease.grace, secs(10));
    world.run_for(lease.until.since(world.now()) - ms(1));
    assert_eq!(world.worker(0).attempt(token), Some(AttemptState::Running));
    world.run_for(ms(1));
    assert_eq!(world.worker(0).attempt(token), Some(AttemptState::Stopping), "to the microsecond");
    world.run_for(ms(5));
    assert_eq!(world.worker(0).attempt(token), Some(AttemptState::Finished));
    // Back in time, it says that it was stopped: the task is given out again, and no lease need be waited for.
    let from = world.now();
    world.wire(0).refuses = false;
    assert!(until_it_starts_again(&mut world, task, from) < secs(35));
}

#[test]
fn task_4_what_was_killed_while_its_worker_stood_still_was_stopped_and_did_not_fail() {
    let mut world = two(Setup::default());
    let task = submit(&mut world, "charge", EXCLUSIVE, Job::takes(secs(3600)));
    let token = cut_off_while_it_runs(&mut world, task);
    let until = world.worker(0).lease().expect("it was granted one").until;
    let outcome_at = |at, outcome| {
        // The first thing that it learns when it goes on.
        let mut worker = world.worker(0).clone();
        worker.handle(at, worker::Input::Finished { token, outcome, result: b"" }).expect("it ran");
        worker.finished(token).map(|finished| finished.outcome)
    };
    let killed = Outcome::Failed(Failure::Signal(9));
    assert_eq!(outcome_at(until + secs(20), killed), Some(Outcome::Cancelled));
    assert_eq!(outcome_at(until - ms(1), killed), Some(killed), "by somebody else");
    let failed = Outcome::Failed(Failure::Exit(1));
    assert_eq!(outcome_at(until + secs(20), failed), Some(failed), "by itself");
}

#[test]
fn task_4_a_lease_that_is_renewed_in_time_costs_nothing() {
    let mut world = two(Setup::default());
    let task = submit(&mut world, "charge", EXCLUSIVE, Job::takes(secs(300)));
    for _ in 0..4 {
        cut_off_while_it_runs(&mut world, task);
        world.run_for(secs(10));
        reconnect(&mut world);
        let lease = world.worker(0).lease().expect("it has one");
        assert!(lease.until >= world.now() + secs(28), "renewed by the handshake, from before M3 was sent");
        world.run_for(secs(40));
    }
    world.drive_until("it is done", |world| world.succeeded(task));
    assert_eq!(world.executions(task), 1);
    world.audit();
}

#[test]
fn task_4_only_an_echo_renews_a_lease_and_from_when_it_was_asked_for() {
    let mut world = two(Setup::default());
    let task = submit(&mut world, "charge", EXCLUSIVE, Job::takes(secs(3600)));
    world.drive_until("it runs", |world| world.coordinator.why(task) == Some(Why::Runs));
    let until = |world: &World| world.worker(0).lease().expect("it has one").until;
    for _ in 0..8 {
        let before = until(&world);
        world.drive_until("it is renewed", |world| until(world) > before);
        // The beat had left two latencies before.
        let both_ways = world.wire(0).latency * 2;
        assert_eq!(until(&world), world.now() + secs(30) - both_ways);
    }
}

#[test]
fn task_4_what_waits_goes_back_when_the_lease_ends() {
    let mut world = two(Setup { worker: |config| config.prefetch = 2, ..Setup::default() });
    let long = Job::takes(secs(3600));
    let plain: Vec<_> = (0..2).map(|n| submit(&mut world, &format!("p{n}"), PLAIN, long.clone())).collect();
    world.run_for(ms(50));
    let task = submit(&mut world, "waits", EXCLUSIVE, Job::takes(ms(5)));
    world.run_for(ms(50));
    assert_eq!(world.coordinator.why(task), Some(Why::AtWorker));
    let holder = (0..2).find(|n| world.worker(*n).held() == 2).expect("one of them has it");
    world.wire(holder).refuses = true;
    world.reset(holder);
    world.run_for(secs(31));
    assert_eq!(world.worker(holder).held(), 1, "it must not start any more: another worker may have it by then");
    assert_eq!(plain.iter().filter(|task| world.executions(**task) == 1).count(), 2, "others go on");
    world.wire(holder).refuses = false;
    drive_connected(&mut world, holder);
}

#[test]
fn task_4_after_a_restart_of_the_coordinator_the_lease_is_waited_for_from_its_start() {
    let mut world = two(Setup {
        coordinator: |config| {
            config.recovery_window = secs(1);
            config.lost_after = secs(1);
        },
        ..Setup::default()
    });
    let task = submit(&mut world, "charge", EXCLUSIVE, Job::takes(secs(3600)));
    world.drive_until("it runs", |world| world.coordinator.why(task) == Some(Why::Runs));
    world.run_for(secs(20));
    world.wire(0).refuses = true;
    let from = world.now();
    world.restart_coordinator();
    let waited = until_it_starts_again(&mut world, task, from);
    assert!(waited > ms(42_150) && waited < secs(45), "{waited:?}, whatever the window");
}

#[test]
fn task_4_a_second_exclusive_attempt_retires_the_first() {
    let mut world = two(Setup::default());
    let task = submit(&mut world, "charge", EXCLUSIVE, Job::takes(secs(90)));
    let first = cut_off_while_it_runs(&mut world, task);
    let from = world.now();
    let waited = until_it_starts_again(&mut world, task, from);
    assert!(waited > secs(59) && waited < secs(62), "lost after a minute: {waited:?}");
    reconnect(&mut world);
    assert_eq!(world.worker(0).attempt(first), None, "it was stopped, and nobody wants to hear of it");
    world.drive_until("the second one ends it", |world| world.succeeded(task));
    assert_eq!(world.executions(task), 2);
    world.audit();
}

#[test]
fn task_4_pure_tasks_are_given_out_again_sooner() {
    let mut world = two(Setup::default());
    let task = submit(&mut world, "pure", Terms { class: Class::Pure, ..PLAIN }, Job::takes(secs(3600)));
    cut_off_while_it_runs(&mut world, task);
    let from = world.now();
    let waited = until_it_starts_again(&mut world, task, from);
    assert!(waited > secs(14) && waited < secs(16), "a quarter of a minute: {waited:?}");
    assert_ne!(world.seen(0), rejoin_core::coordinator::PeerState::Lost, "the worker itself is given its minute");
}

#[test]
fn task_4_a_worker_that_knows_no_leases_gets_no_task_that_needs_one() {
    let mut world = connected(Setup { worker: |config| config.link.wire_version = 1, ..Setup::default() });
    let task = submit(&mut world, "charge", EXCLUSIVE, Job::takes(ms(5)));
    let timed =
        submit(&mut world, "timed", Terms { progress_timeout: Some(span(secs(5))), ..PLAIN }, Job::takes(ms(5)));
    let never = submit(&mut world, "never", Terms { replace: Replace::Never, ..PLAIN }, Job::takes(ms(5)));
    world.drive_until("what does not concern the worker is done", |world| world.succeeded(never));
    assert_eq!([task, timed].map(|task| world.coordinator.why(task)), [Some(Why::NothingFits); 2]);
    assert_eq!(world.worker(0).lease(), None);
}

#[test]
fn task_4_a_worker_that_leaves_with_an_exclusive_task_leaves_its_lease_behind() {
    let mut world = two(Setup::default());
    let task = submit(&mut world, "charge", EXCLUSIVE, Job::takes(secs(3600)));
    world.drive_until("it runs", |world| world.coordinator.why(task) == Some(Why::Runs));
    world.tell_worker(0, rejoin_core::worker::Input::Leave).expect("it may");
    world.run_for(ms(50));
    assert_eq!(world.coordinator.why(task), Some(Why::LeaseHeld));
}

// TASK-5

#[test]
fn task_5_terms_that_contradict_each_other_or_the_settings_are_refused() {
    let mut world = connected(Setup::default());
    let lost_after = |seconds| Terms { lost_after: Some(span(secs(seconds))), ..EXCLUSIVE };
    for (name, terms, accepted) in [
        ("shorter than a lease", lost_after(42), false),
        ("longer than a lease", lost_after(43), true),
        ("stops too late", Terms { self_stop_after: Some(span(secs(61))), ..EXCLUSIVE }, false),
        ("stops in time", Terms { self_stop_after: Some(span(secs(59))), ..EXCLUSIVE }, true),
    ] {
        let about = About { terms, ..About::default() }.encode().expect("whether it may depends on the coordinator");
        let task = TaskId::from_text(name);
        let submit = Input::Submit { task, spec: TaskSpec::default(), about: &about, payload: b"" };
        let said = world.tell_coordinator(submit);
        assert_eq!(said, if accepted { Ok(()) } else { Err(Rejected::BadSpec) }, "{name}");
    }
}

#[test]
fn task_5_each_task_is_given_up_at_a_time_of_its_own() {
    let mut world = two(Setup { worker: |config| config.slots = 4, ..Setup::default() });
    world.wire(1).refuses = true;
    world.reset(1);
    world.run_for(ms(50));
    let terms = [
        Terms { lost_after: Some(span(secs(5))), ..PLAIN },
        Terms { replace: Replace::After(span(secs(10))), ..PLAIN },
        PLAIN,
        Terms { lost_after: Some(span(secs(200))), ..PLAIN },
    ];
    let tasks: Vec<_> = terms
        .iter()
        .enumerate()
        .map(|(n, t)| submit(&mut world, &format!("{n}"), *t, Job::takes(secs(3600))))
        .collect();
    world.drive_until("all run", |world| tasks.iter().all(|task| world.coordinator.why(*task) == Some(Why::Runs)));
    world.wire(1).refuses = false;
    drive_connected(&mut world, 1);
    world.wire(0).refuses = true;
    world.reset(0);
    let from = world.now();
    world.run_for(ms(5));
    for (task, seconds) in tasks.into_iter().zip([5, 10, 60, 200]) {
        assert_eq!(world.coordinator.why(task), Some(Why::WorkerAway));
        let waited = until_it_starts_again(&mut world, task, from);
        assert!(waited + ms(10) > secs(seconds) && waited < secs(seconds + 1), "{waited:?} instead of {seconds} s");
    }
}

#[test]
fn task_5_a_worker_that_is_cut_off_stops_a_task_by_itself() {
    let mut world = two(Setup::default());
    let terms = Terms { self_stop_after: Some(span(secs(7))), ..PLAIN };
    let task = submit(&mut world, "stops", terms, Job::takes(secs(3600)));
    let token = cut_off_while_it_runs(&mut world, task);
    world.run_for(secs(6));
    assert_eq!(world.worker(0).attempt(token), Some(AttemptState::Running));
    world.run_for(secs(1));
    assert_eq!(world.worker(0).attempt(token), Some(AttemptState::Finished));
    let from = world.now();
    world.wire(0).refuses = false;
    assert!(until_it_starts_again(&mut world, task, from) < secs(10), "it says so when it is back");
}

// LIVE-4

#[test]
fn live_4_a_task_that_reports_nothing_for_too_long_is_stopped_and_has_failed() {
    let mut world = two(Setup::default());
    let terms = Terms { progress_timeout: Some(span(secs(5))), ..PLAIN };
    let spec = TaskSpec { retries: 1, ..TaskSpec::default() };
    let stuck = submit_with(&mut world, "stuck", spec, terms, Job::takes(secs(3600)));
    let moves = submit_with(&mut world, "moves", spec, terms, Job::steps(10, secs(40)));
    let quick = submit_with(&mut world, "quick", spec, terms, Job::takes(secs(4)));
    world.drive_until("it is over", |world| world.outcome(stuck).is_some());
    assert_eq!(world.outcome(stuck), Some(Outcome::Failed(Failure::Stalled)));
    assert_eq!(world.executions(stuck), 2, "it is retried like any other failure");
    world.drive_until("the others are", |world| world.succeeded(moves) && world.succeeded(quick));
    assert_eq!((world.executions(moves), world.executions(quick)), (1, 1), "a checkpoint is a report");
}

// What goes wrong elsewhere when workers are cut off: six failures of a `disconnect` policy.

#[test]
fn the_original_is_not_stopped_while_nobody_has_replaced_it() {
    let mut world = connected(Setup::default());
    let terms = Terms { replace: Replace::After(span(secs(5))), on_return: OnReturn::KeepReplacement, ..PLAIN };
    let task = submit(&mut world, "only worker", terms, Job::takes(secs(60)));
    let token = cut_off_while_it_runs(&mut world, task);
    world.run_for(secs(20));
    assert_eq!(world.coordinator.why(task), Some(Why::NoWorker), "it is to be replaced, and nobody is there to do it");
    reconnect(&mut world);
    assert_eq!(world.worker(0).attempt(token), Some(AttemptState::Running), "so that the original goes on");
    world.drive_until("it is done", |world| world.succeeded(task));
    assert_eq!(world.executions(task), 1);
    world.audit();
}

#[test]
fn the_replacement_is_not_stopped_at_once_when_the_original_returns() {
    for (on_return, kept) in [(OnReturn::FirstResult, true), (OnReturn::KeepReplacement, false)] {
        let mut world = two(Setup::default());
        let terms = Terms { replace: Replace::After(span(secs(5))), on_return, ..PLAIN };
        let task = submit(&mut world, "both", terms, Job::takes(secs(60)));
        let token = cut_off_while_it_runs(&mut world, task);
        world.run_for(secs(10));
        assert_eq!(world.executions(task), 2);
        let replacement = world.starts.last().expect("it was started").1;
        reconnect(&mut world);
        assert_eq!(world.worker(1).attempt(replacement), Some(AttemptState::Running), "{on_return:?}");
        assert_eq!(world.worker(0).attempt(token).is_some(), kept, "{on_return:?}: what is stopped is the original");
        world.drive_until("it is done", |world| world.succeeded(task));
        assert_eq!(world.executions(task), 2);
        world.run_for(secs(1));
        assert_eq!((world.worker(0).held(), world.worker(1).held()), (0, 0));
        world.audit();
    }
}

#[test]
fn a_finished_original_beats_an_unfinished_replacement() {
    for on_return in [OnReturn::FirstResult, OnReturn::KeepReplacement] {
        for resumes in [true, false] {
            let mut world = two(Setup {
                coordinator: if resumes { |_| {} } else { |config| config.session_lifetime = secs(1) },
                ..Setup::default()
            });
            let terms = Terms { replace: Replace::After(span(secs(5))), on_return, ..PLAIN };
            let task = submit(&mut world, "done before", terms, Job::takes(secs(20)));
            let token = cut_off_while_it_runs(&mut world, task);
            world.run_for(secs(21));
            assert_eq!(world.worker(0).attempt(token), Some(AttemptState::Finished));
            reconnect(&mut world);
            assert_eq!(world.outcome(task), DONE, "{on_return:?}");
            let end = world.coordinator.task(task).and_then(|task| task.end).and_then(|end| end.token);
            assert_eq!(end, Some(token), "{on_return:?}");
            world.run_for(secs(1));
            assert_eq!(world.worker(1).held(), 0, "the replacement is stopped");
            world.audit();
        }
    }
}

#[test]
fn a_replacement_that_has_failed_already_does_not_keep_the_original_from_going_on() {
    for on_return in [OnReturn::FirstResult, OnReturn::KeepReplacement] {
        let mut world = two(Setup { coordinator: |config| config.retry_pause = secs(60), ..Setup::default() });
        let terms = Terms { replace: Replace::After(span(secs(5))), on_return, ..PLAIN };
        let failed = Outcome::Failed(Failure::Exit(1));
        // The first attempt would succeed; the second one fails while the first is away.
        let job = Job { ends: vec![Outcome::Succeeded, failed], ..Job::takes(secs(40)) };
        let spec = TaskSpec { retries: 1, ..TaskSpec::default() };
        let task = submit_with(&mut world, "unlucky replacement", spec, terms, job);
        let token = cut_off_while_it_runs(&mut world, task);
        world.drive_until("the replacement has failed", |world| {
            world.executions(task) == 2 && world.coordinator.why(task) == Some(Why::Pausing)
        });
        reconnect(&mut world);
        assert_eq!(world.outcome(task), DONE, "{on_return:?}: what the original has done counts");
        assert_eq!(world.coordinator.task(task).and_then(|task| task.end).and_then(|end| end.token), Some(token));
        world.audit();
    }
}

#[test]
fn a_task_that_was_cancelled_or_done_meanwhile_is_not_gone_on_with() {
    for cancelled in [true, false] {
        let mut world = two(Setup::default());
        let terms = Terms { replace: Replace::After(span(secs(5))), ..PLAIN };
        let task = submit(&mut world, "changed", terms, Job::takes(secs(30)));
        let token = cut_off_while_it_runs(&mut world, task);
        world.run_for(secs(10));
        if cancelled {
            world.tell_coordinator(Input::Cancel { task }).expect("it is known");
        }
        world.run_for(secs(1));
        let mut after = Outcome::Cancelled;
        if !cancelled {
            world.drive_until("the replacement ends it", |world| world.outcome(task).is_some());
            after = Outcome::Succeeded;
        }
        assert_eq!(world.outcome(task), Some(after));
        reconnect(&mut world);
        world.run_for(secs(1));
        assert_eq!((world.worker(0).attempt(token), world.worker(0).held()), (None, 0), "cancelled: {cancelled}");
        assert_eq!(world.outcome(task), Some(after), "and its outcome stays");
        world.audit();
    }
}

#[test]
fn no_task_of_a_worker_that_is_away_stays_without_an_end() {
    for terms in [
        PLAIN,
        EXCLUSIVE,
        Terms { replace: Replace::Never, ..PLAIN },
        Terms { replace: Replace::Never, ..EXCLUSIVE },
        Terms { replace: Replace::After(span(secs(90))), ..EXCLUSIVE },
        Terms { on_return: OnReturn::KeepReplacement, ..EXCLUSIVE },
        Terms { class: Class::Pure, self_stop_after: Some(span(secs(1))), ..PLAIN },
        Terms { lost_after: Some(span(secs(3))), progress_timeout: Some(span(secs(30))), ..PLAIN },
    ] {
        let mut world = two(Setup::default());
        let task = submit(&mut world, "must end", terms, Job::takes(secs(20)));
        cut_off_while_it_runs(&mut world, task);
        // It never comes back.
        world.drive_until("it has an end", |world| world.outcome(task).is_some());
        let expected = if terms.replace == Replace::Never { LOST } else { DONE };
        assert_eq!(world.outcome(task), expected, "{terms:?}");
        world.audit();
    }
}

#[test]
fn a_task_that_is_never_to_be_replaced_is_not_given_out_again() {
    for stage in 0..4 {
        let mut world = two(Setup::default());
        let terms = Terms { replace: Replace::Never, lost_after: Some(span(secs(5))), ..PLAIN };
        let spec = TaskSpec { retries: 3, ..TaskSpec::default() };
        let task = submit_with(&mut world, "once", spec, terms, Job::takes(secs(3600)));
        match stage {
            // It is away, and comes back too late.
            0 => {
                cut_off_while_it_runs(&mut world, task);
                world.run_for(secs(6));
                reconnect(&mut world);
            }
            // Its worker crashes.
            1 => {
                world.drive_until("it runs", |world| world.coordinator.why(task) == Some(Why::Runs));
                world.crash(0);
                world.restart(0);
            }
            // Its worker leaves.
            2 => {
                world.drive_until("it runs", |world| world.coordinator.why(task) == Some(Why::Runs));
                world.tell_worker(0, rejoin_core::worker::Input::Leave).expect("it may");
            }
            // The coordinator restarts, and its worker does not come back.
            _ => {
                world.drive_until("it runs", |world| world.coordinator.why(task) == Some(Why::Runs));
                world.wire(0).refuses = true;
                world.restart_coordinator();
            }
        }
        world.drive_until("it is over", |world| world.outcome(task).is_some());
        assert_eq!((world.outcome(task), world.executions(task)), (LOST, 1), "stage {stage}");
        world.run_for(secs(1));
        assert_eq!(world.worker(1).held(), 0);
    }
}

#[test]
fn a_contradictory_policy_is_not_accepted() {
    let never = Terms { replace: Replace::Never, on_return: OnReturn::KeepReplacement, ..PLAIN };
    let about = About { terms: never, ..About::default() };
    assert!(about.encode().expect_err("refused").to_string().contains("leave out --on-return"));
    // Whoever writes it all the same is refused by the coordinator.
    let bytes = postcard::to_allocvec(&("", 0u8, never)).expect("it can be written");
    let mut world = connected(Setup::default());
    let task = TaskId::from_text("contradictory");
    let submit = Input::Submit { task, spec: TaskSpec::default(), about: &bytes, payload: b"" };
    assert_eq!(world.tell_coordinator(submit), Err(Rejected::BadSpec));
    assert_eq!(world.coordinator.task(task), None);
}

// TASK-10

#[test]
fn task_10_a_worker_that_flaps_gets_one_task_at_a_time_and_after_all_others() {
    let mut world = two(Setup {
        worker: |config| (config.slots, config.prefetch) = (2, 2),
        coordinator: |config| config.flapping_within = secs(60),
        ..Setup::default()
    });
    for cut in 1..=6 {
        assert!(!flaps(&world), "after {} cuts", cut - 1);
        world.reset(0);
        world.run_for(ms(5));
        drive_connected(&mut world, 0);
        world.run_for(ms(5));
    }
    assert!(flaps(&world));
    let tasks: Vec<_> = (0..6).map(|n| submit(&mut world, &format!("{n}"), PLAIN, Job::takes(secs(1)))).collect();
    world.run_for(ms(50));
    assert_eq!(
        (world.worker(0).held(), world.worker(1).held()),
        (1, 4),
        "it comes last, and has no second one waiting"
    );
    world.drive_until("it is not refused, and all are done", |world| tasks.iter().all(|task| world.succeeded(*task)));
    assert!(world.starts.iter().any(|start| start.3 == 0));
    world.run_for(secs(60));
    assert!(!flaps(&world), "after a while without cuts it is like any other");
    for n in 6..12 {
        submit(&mut world, &format!("{n}"), PLAIN, Job::takes(secs(1)));
    }
    world.run_for(ms(50));
    assert_eq!(world.worker(0).held(), 3);
}

fn flaps(world: &World) -> bool {
    world.coordinator.peers().next().is_some_and(|peer| peer.flapping)
}

/// Twelve workers with a task each, of which so many vanish; returns their tasks
fn vanish(world: &mut World, gone: usize) -> Vec<TaskId> {
    let tasks: Vec<_> = (0..12).map(|n| submit(world, &format!("{n}"), PLAIN, Job::takes(secs(3600)))).collect();
    world.drive_until("all run", |world| tasks.iter().all(|task| world.coordinator.why(*task) == Some(Why::Runs)));
    for peer in 0..gone {
        world.wire(peer).refuses = true;
        world.reset(peer);
    }
    world.run_for(ms(5));
    tasks.into_iter().filter(|task| world.coordinator.why(*task) == Some(Why::WorkerAway)).collect()
}

fn lost(world: &World, tasks: &[TaskId]) -> usize {
    tasks.iter().filter(|task| world.coordinator.why(**task) != Some(Why::WorkerAway)).count()
}

#[test]
fn task_10_losses_of_many_workers_at_a_time_are_delayed_and_then_come_one_by_one() {
    let mut world = connected(Setup { workers: 12, ..Setup::default() });
    let tasks = vanish(&mut world, 5);
    world.run_for(secs(299));
    assert_eq!(lost(&world, &tasks), 0, "it is hardly all of them that have failed");
    for n in 1..=5 {
        world.run_for(secs(1));
        assert_eq!(lost(&world, &tasks), n, "one in a second");
    }
}

#[test]
fn task_10_losses_of_a_few_workers_are_not_delayed_and_an_operator_ends_the_brake() {
    let mut world = connected(Setup { workers: 12, ..Setup::default() });
    let tasks = vanish(&mut world, 3);
    world.run_for(secs(61));
    assert_eq!(lost(&world, &tasks), 3);
    let mut world = connected(Setup { workers: 12, ..Setup::default() });
    let tasks = vanish(&mut world, 6);
    world.run_for(secs(61));
    assert_eq!(lost(&world, &tasks), 0);
    world.tell_coordinator(Input::EndBrake).expect("it may");
    assert_eq!(lost(&world, &tasks), 6);
    // Whoever is back has its task all the same.
    let mut world = connected(Setup { workers: 12, ..Setup::default() });
    let tasks = vanish(&mut world, 6);
    world.run_for(secs(120));
    (0..6).for_each(|peer| world.wire(peer).refuses = false);
    world.run_for(secs(60));
    assert_eq!(tasks.iter().filter(|task| world.coordinator.why(**task) == Some(Why::Runs)).count(), 6);
    assert_eq!(world.starts.len(), 12);
}
