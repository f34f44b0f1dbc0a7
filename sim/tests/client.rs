//! What a client asks for, and what it is told

mod common;

use common::{connected, denied, drive_connected, ms, noise, secs};
use rejoin_core::Rejected;
use rejoin_core::client::{Event, FollowState, Input};
use rejoin_core::coordinator;
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::journal::Record;
use rejoin_core::limits::INLINE_BYTES_MAX;
use rejoin_core::link::LinkState;
use rejoin_core::wire::message::{
    BodyWriter, Class, Denied, Follow, FromClient, Item, Outcome, Refused, Stream, TaskSpec, ToClient,
};
use rejoin_core::wire::view::Question;
use rejoin_sim::{Heard, Job, Puppet, Setup, Side, World};

fn two_clients() -> World {
    connected(Setup { clients: 2, ..Setup::default() })
}

#[test]
fn task_1_two_clients_that_submit_the_same_follow_the_same_task_and_another_content_is_refused() {
    let mut world = two_clients();
    let task = world.submit_by_client(0, "shared", Job { returns: b"r".to_vec(), ..Job::prints(b"out") });
    world.submit_by_client(1, "shared", Job { returns: b"r".to_vec(), ..Job::prints(b"out") });
    world.drive_until("both know", |world| (0..2).all(|n| world.client_events[n].contains(&Event::Ended { task })));
    assert_eq!(world.executions(task), 1);
    for n in 0..2 {
        assert_eq!(world.client_events[n][0], Event::Accepted { task });
        assert_eq!(
            world.client(n).task(task).and_then(|task| task.end).map(|end| (end.0, end.1)),
            Some((Outcome::Succeeded, &b"r"[..]))
        );
        assert_eq!(world.client_events[n].iter().filter(|event| **event == Event::Ended { task }).count(), 1);
    }
    let mut world = two_clients();
    let task = world.submit_by_client(0, "taken", Job::takes(ms(1)));
    world.run_for(ms(10));
    let other = Input::Submit {
        task,
        spec: TaskSpec::default(),
        about: &[],
        payload: b"another content",
        follow: Follow::Output,
    };
    world.tell_client(1, other).expect("it cannot know");
    world.run_for(ms(10));
    assert_eq!(world.client_events[1], [Event::Refused { task, reason: Refused::Conflict }]);
    assert_eq!(world.client(1).task(task).map(|task| task.state), Some(FollowState::Refused));
}

#[test]
fn task_1_what_a_client_can_know_is_refused_before_it_is_sent() {
    let mut world = connected(Setup { clients: 1, client: |config| config.tasks_max = 2, ..Setup::default() });
    let (task, spec) = (TaskId::from_text("a"), TaskSpec::default());
    let large = vec![0; 49_153];
    assert_eq!(
        world.tell_client(0, Input::Submit { task, spec, about: &[], payload: &large, follow: Follow::Output }),
        Err(Rejected::TooLarge)
    );
    let wrong = TaskSpec { priority: 5, ..spec };
    assert_eq!(
        world.tell_client(0, Input::Submit { task, spec: wrong, about: &[], payload: b"", follow: Follow::Output }),
        Err(Rejected::BadSpec)
    );
    assert_eq!(world.tell_client(0, Input::Cancel { task }), Err(Rejected::Unknown));
    assert_eq!(world.tell_client(0, Input::Forget { task }), Err(Rejected::Unknown));
    assert_eq!(world.tell_client(0, Input::Watch { task, follow: Follow::Output }), Ok(()));
    world.run_for(ms(10));
    assert_eq!(world.client_events[0], [Event::Refused { task, reason: Refused::Unknown }]);
    let other = TaskId::from_text("b");
    assert_eq!(world.tell_client(0, Input::Watch { task: other, follow: Follow::Output }), Ok(()));
    assert_eq!(
        world.tell_client(0, Input::Watch { task: TaskId::from_text("c"), follow: Follow::Output }),
        Err(Rejected::Full)
    );
    assert_eq!(world.tell_client(0, Input::Forget { task }), Ok(()));
    assert_eq!(world.client(0).task(task), None);
}

#[test]
fn task_1_a_client_follows_a_task_once_and_what_it_has_forgotten_is_not_asked_again() {
    let mut world = connected(Setup { clients: 1, ..Setup::default() });
    let [kept, dropped] = ["kept", "dropped"].map(|name| world.submit_by_client(0, name, Job::takes(ms(1))));
    let (spec, follow) = (TaskSpec::default(), Follow::Outcome);
    let again = Input::Submit { task: kept, spec, about: &[], payload: b"kept", follow };
    assert_eq!(world.tell_client(0, again), Err(Rejected::Conflict));
    assert_eq!(world.tell_client(0, Input::Watch { task: kept, follow }), Err(Rejected::Conflict));
    // Forgotten before the submit is known to have arrived, it is sent again as void.
    world.tell_client(0, Input::Forget { task: dropped }).expect("it is followed");
    world.reset(1);
    world.drive_until("it is over", |world| world.client_events[0].contains(&Event::Ended { task: kept }));
    world.run_for(secs(5));
    assert!(world.client_events[0].iter().all(|event| !matches!(event, Event::Ended { task } if *task == dropped)));
    let submits = world.journal.records(true).filter(|record| matches!(record, Record::Submit { .. })).count();
    assert_eq!((submits, world.client(0).stats().resumed), (1, 1));
}

#[test]
fn log_1_who_wants_no_more_than_acceptance_is_told_no_more_also_in_another_session() {
    let mut world =
        connected(Setup { clients: 1, coordinator: |config| config.session_lifetime = secs(0), ..Setup::default() });
    let task = world.plan("quiet", Job { prints: noise(5000), ..Job::takes(secs(2)) });
    let (spec, follow) = (TaskSpec::default(), Follow::Acceptance);
    let submit = Input::Submit { task, spec, about: &[], payload: b"", follow };
    world.tell_client(0, submit).expect("legal");
    world.run_for(secs(1));
    world.reset(1);
    drive_connected(&mut world, 1);
    world.drive_until("it is over", |world| world.succeeded(task));
    world.run_for(secs(5));
    assert_eq!(world.client_events[0], [Event::Accepted { task }]);
    assert!(world.client_output[0].is_empty());
    assert_eq!((world.client(0).stats().opened, world.client(0).stats().resumed), (2, 0));
}

#[test]
fn frame_3_submits_that_need_many_frames_arrive_once_each_wherever_the_connection_is_cut() {
    for cut_after in 0..24 {
        let mut world = connected(Setup { clients: 1, ..Setup::default() });
        world.wire(1).refuses = true;
        world.reset(1);
        world.run_for(ms(5));
        let payload = noise(40_000);
        let tasks: Vec<TaskId> = (0..6)
            .map(|n| {
                let task = world.plan(&format!("large {n}"), Job::takes(ms(1)));
                let (spec, follow) = (TaskSpec::default(), Follow::Outcome);
                let submit = Input::Submit { task, spec, about: &[], payload: &payload, follow };
                world.tell_client(0, submit).expect("legal");
                task
            })
            .collect();
        world.wire(1).refuses = false;
        world.drive_until("it dials again", |world| world.state(1) == LinkState::Greeting);
        // While the submits are under way, and until all is over.
        for _ in 0..cut_after {
            world.step();
        }
        world.reset(1);
        for task in &tasks {
            world.drive_until("it is over", |world| world.client_events[0].contains(&Event::Ended { task: *task }));
            assert_eq!(world.executions(*task), 1, "cut after step {cut_after}");
        }
        let submits = world.journal.records(true).filter(|record| matches!(record, Record::Submit { .. })).count();
        assert_eq!((submits, world.coordinator.stats().violations), (6, 0));
    }
}

#[test]
fn frame_2_a_client_that_breaks_the_rules_under_seal_loses_its_session_and_nothing_else() {
    type Breach = (&'static str, fn(&mut BodyWriter<'_>, TaskId));
    let breaches: [Breach; 5] = [
        ("an unknown message", |body, _| {
            body.push(Class::Numbered(1), &250u8);
        }),
        ("a loose submit", |body, task| {
            let (spec, follow) = (TaskSpec::default(), Follow::Outcome);
            body.push(Class::Loose, &FromClient::Submit { task, spec, about: &[], payload: b"", follow });
        }),
        ("numbered news of what was taken", |body, task| {
            let (token, stream) = (Token(1), Stream::Out);
            body.push(Class::Numbered(1), &FromClient::Taken { task, token, stream, offset: 0 });
        }),
        ("more taken than was sent", |body, task| {
            body.push(Class::Numbered(1), &FromClient::Watch { task, follow: Follow::Output });
            let (token, stream) = (Token(1), Stream::Out);
            body.push(Class::Loose, &FromClient::Taken { task, token, stream, offset: 1 << 20 });
        }),
        ("a message of a worker", |body, _| {
            body.push(Class::Numbered(1), &(200u8, 200u8));
        }),
    ];
    for (what, breach) in breaches {
        let mut world = connected(Setup { clients: 1, ..Setup::default() });
        let task = world.submit("stays", Job { prints: noise(3000), ..Job::takes(ms(200)) });
        world.run_for(ms(50));
        world.wire(1).refuses = true;
        world.reset(1);
        let mut puppet = Puppet::client(0);
        puppet.enter(&mut world);
        puppet.say(&mut world, |body| breach(body, task));
        assert_eq!(denied(&puppet.hear(&mut world)), Some(Denied::Protocol), "{what}");
        assert_eq!(world.coordinator.stats().violations, 1, "{what}");
        puppet.greet(&mut world);
        assert_eq!(puppet.challenged(&mut world), None, "{what}: the session is no more");
        world.drive_until("it is over", |world| world.succeeded(task));
        assert_eq!(world.executions(task), 1);
    }
}

#[test]
fn task_1_a_client_that_does_not_look_is_told_what_is_wrong_with_a_submit() {
    let mut world = connected(Setup { clients: 1, coordinator: |config| config.tasks_max = 1, ..Setup::default() });
    world.submit("first", Job::takes(secs(50)));
    world.wire(1).refuses = true;
    world.reset(1);
    let mut puppet = Puppet::client(0);
    puppet.enter(&mut world);
    puppet.hear(&mut world);
    let large = vec![0; INLINE_BYTES_MAX + 1];
    let (spec, follow) = (TaskSpec::default(), Follow::Outcome);
    let wrong = TaskSpec { priority: 200, ..spec };
    let [first, other] = ["first", "other"].map(TaskId::from_text);
    type Bad<'a> = (TaskId, TaskSpec, &'a [u8], &'a [u8], Refused);
    let submits: [Bad<'_>; 5] = [
        (other, spec, b"", &large, Refused::TooLarge),
        (other, wrong, b"", b"", Refused::BadSpec),
        (other, spec, b"xyz", b"", Refused::BadSpec),
        (first, spec, b"", b"another content", Refused::Conflict),
        (other, spec, b"", b"", Refused::Full),
    ];
    for (number, (task, spec, about, payload, refused)) in (1..).zip(submits) {
        puppet.say(&mut world, |body| {
            assert!(body.push(Class::Numbered(number), &FromClient::Submit { task, spec, about, payload, follow }));
        });
        let heard = puppet.hear(&mut world);
        let told = heard.iter().find_map(|heard| match heard {
            Heard::Numbered(_, payload) => Item { class: Class::Loose, ignorable: false, payload }.decode(),
            Heard::Control(_) | Heard::Loose(_) => None,
        });
        assert_eq!(told, Some(ToClient::Refused { task, reason: refused }));
    }
    assert_eq!((world.coordinator.counts().open(), world.coordinator.stats().violations), (1, 0));
}

#[test]
fn frame_6_what_a_client_says_beyond_our_version_is_skipped_if_it_may_be() {
    let mut world = connected(Setup { clients: 1, ..Setup::default() });
    world.wire(1).refuses = true;
    world.reset(1);
    let mut puppet = Puppet::client(0);
    puppet.enter(&mut world);
    puppet.hear(&mut world);
    // A numbered message that is marked as ignorable.
    let body = [1, 0, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 250];
    let frame = puppet.seal(0, body.len() as u16, &body);
    world.say(puppet.conn, &frame);
    puppet.say(&mut world, |body| {
        body.push(Class::Numbered(2), &FromClient::Ask { ask: 7, question: Question::Status });
    });
    let heard = puppet.hear(&mut world);
    assert!(heard.iter().any(|heard| matches!(heard, Heard::Numbered(1, _))), "the question is answered: {heard:?}");
    assert_eq!(world.coordinator.stats().violations, 0);
}

#[test]
fn log_1_a_late_watcher_gets_all_output_and_the_outcome_after_it() {
    for watch_at in [0, 50, 150, 5000] {
        let mut world = two_clients();
        let output = noise(300_000);
        let task = world.submit_by_client(0, "printed", Job { prints: output.clone(), ..Job::takes(ms(100)) });
        world.run_for(ms(5 + watch_at));
        world.tell_client(1, Input::Watch { task, follow: Follow::Output }).expect("legal");
        world.drive_until("both know", |world| (0..2).all(|n| world.client_events[n].contains(&Event::Ended { task })));
        let ended = world.client(1).task(task).and_then(|task| task.end).expect("over");
        assert_eq!(ended.2[0].len, 300_000);
        let token = world.starts[0].1;
        assert!(world.client_output.iter().all(|taken| taken.get(&(task, token, Stream::Out)) == Some(&output)));
    }
}

#[test]
fn sess_7_a_client_whose_session_is_gone_asks_again_and_nothing_is_done_twice() {
    for reset_after in 0..40 {
        let mut world = connected(Setup {
            clients: 1,
            coordinator: |config| config.session_lifetime = secs(0),
            ..Setup::default()
        });
        let output = noise(2000);
        let [first, second] = ["first", "second"]
            .map(|name| world.submit_by_client(0, name, Job { prints: output.clone(), ..Job::takes(ms(8)) }));
        world.tell_client(0, Input::Cancel { task: second }).expect("it is followed");
        for _ in 0..reset_after {
            world.step();
        }
        world.reset(1);
        world.drive_until("the client knows both", |world| {
            [first, second].iter().all(|task| world.client(0).task(*task).is_some_and(|task| task.end.is_some()))
        });
        let end = |task| world.client(0).task(task).and_then(|task| task.end).map(|end| end.0);
        assert_eq!([end(first), end(second)], [Some(Outcome::Succeeded), Some(Outcome::Cancelled)]);
        for task in [first, second] {
            let ended = world.client_events[0].iter().filter(|event| **event == Event::Ended { task }).count();
            let accepted = world.client_events[0].iter().filter(|event| **event == Event::Accepted { task }).count();
            assert_eq!((ended, accepted), (1, 1), "cut after step {reset_after}");
        }
        assert_eq!(world.coordinator.stats().violations + world.client(0).stats().violations, 0);
        world.audit();
    }
}

#[test]
fn task_7_a_client_cancels_what_it_follows_and_is_told_the_end() {
    let mut world = two_clients();
    let task = world.submit_by_client(0, "long", Job::takes(secs(100)));
    world.run_for(ms(20));
    world.tell_client(1, Input::Watch { task, follow: Follow::Output }).expect("legal");
    world.run_for(ms(20));
    for _ in 0..2 {
        world.tell_client(1, Input::Cancel { task }).expect("it is followed");
    }
    world.drive_until("both know", |world| (0..2).all(|n| world.client_events[n].contains(&Event::Ended { task })));
    assert_eq!(world.outcome(task), Some(Outcome::Cancelled));
}

#[test]
fn task_1_of_a_forgotten_task_the_outcome_can_still_be_learned() {
    let mut world = two_clients();
    let task = world.submit_by_client(0, "old", Job::prints(b"gone"));
    world.drive_until("it is over", |world| world.succeeded(task));
    world.run_for(secs(1));
    assert_eq!(world.coordinator.remembered(task), None, "it is not forgotten");
    world.tell_coordinator(coordinator::Input::Forget { task }).expect("it is over");
    assert_eq!(world.coordinator.remembered(task), Some(Outcome::Succeeded));
    world.submit_by_client(1, "old", Job::prints(b"gone"));
    world.run_for(secs(10));
    assert_eq!(world.client_events[1], [Event::Accepted { task }, Event::Forgotten { task }]);
    assert_eq!(world.client(1).task(task).and_then(|t| t.end), Some((Outcome::Succeeded, &[][..], Default::default())));
    assert_eq!(world.executions(task), 1);
}

#[test]
fn task_1_a_client_that_was_away_when_its_task_was_forgotten_learns_the_outcome() {
    for new_session in [false, true] {
        let mut world = two_clients();
        let task = world.submit_by_client(0, "old", Job::takes(secs(2)));
        world.run_for(secs(1));
        let away = world.client_peer(0);
        world.wire(away).refuses = true;
        world.reset(away);
        world.drive_until("it is over", |world| world.succeeded(task));
        world.tell_coordinator(coordinator::Input::Forget { task }).expect("it is over");
        world.run_for(secs(if new_session { 400 } else { 1 }));
        world.wire(away).refuses = false;
        world.drive_until("the client knows", |world| world.client_events[0].contains(&Event::Forgotten { task }));
    }
}

#[test]
fn journ_5_whoever_is_still_reading_output_that_is_forgotten_is_told_so() {
    for [cut, slow] in [[false, true], [true, false], [true, true]] {
        let mut world = two_clients();
        let text = vec![b'x'; 300_000];
        let task = world.submit_by_client(0, "long", Job::prints(&text));
        if slow {
            let reader = world.client_peer(0);
            world.wire(reader).latency = ms(500);
        }
        world.drive_until("it is over", |world| world.succeeded(task));
        if cut {
            let reader = world.client_peer(0);
            world.reset(reader);
        }
        world.tell_coordinator(coordinator::Input::Forget { task }).expect("it is over");
        world.drive_until("the client knows", |world| world.client_events[0].contains(&Event::Forgotten { task }));
        world.run_for(secs(10));
        assert!(!world.client_events[0].contains(&Event::Ended { task }), "it has not got all");
        assert_eq!(world.client(0).task(task).and_then(|t| t.end).map(|end| end.0), Some(Outcome::Succeeded));
    }
}

#[test]
fn journ_5_whoever_has_all_output_before_it_is_forgotten_hears_of_its_end_once() {
    let mut world = two_clients();
    let task = world.submit_by_client(0, "short", Job::prints(b"all of it"));
    world.drive_until("the client knows", |world| world.client_events[0].contains(&Event::Ended { task }));
    world.tell_coordinator(coordinator::Input::Forget { task }).expect("it is over");
    let reader = world.client_peer(0);
    world.reset(reader);
    world.run_for(secs(10));
    let ends = |event: &&Event| matches!(event, Event::Ended { .. } | Event::Forgotten { .. });
    assert_eq!(world.client_events[0].iter().filter(ends).collect::<Vec<_>>(), [&Event::Ended { task }]);
}

#[test]
fn frame_6_an_older_client_is_told_the_outcome_of_what_is_forgotten_in_words_that_it_knows() {
    let (task, follow) = (TaskId::from_text("old"), Follow::Output);
    for version in [1, 2] {
        let mut world = connected(Setup { clients: 2, ..Setup::default() });
        world.wire(2).refuses = true;
        world.reset(2);
        world.submit_by_client(0, "old", Job::takes(ms(10)));
        world.drive_until("it is over", |world| world.succeeded(task));
        world.run_for(secs(1));
        world.tell_coordinator(coordinator::Input::Forget { task }).expect("it is over");
        let mut puppet = Puppet::client(1).with_version(version);
        puppet.enter(&mut world);
        puppet.say(&mut world, |body| assert!(body.push(Class::Numbered(1), &FromClient::Watch { task, follow })));
        let outcome = Outcome::Succeeded;
        let (attempt, token, result, streams) = (0, None, &[][..], Default::default());
        let older = ToClient::Outcome { task, attempt, token, outcome, result, streams };
        let said = if version == 1 { older } else { ToClient::Forgotten { task, outcome } };
        let heard = puppet.hear(&mut world);
        let told = heard.iter().any(|heard| match heard {
            Heard::Numbered(_, payload) => {
                Item { class: Class::Loose, ignorable: false, payload }.decode().as_ref() == Some(&said)
            }
            Heard::Control(_) | Heard::Loose(_) => false,
        });
        assert!(told, "version {version}: {heard:?}");
    }
}

#[test]
fn live_2_a_client_finds_a_dead_link_as_a_worker_does() {
    for deaf in [Side::Peer, Side::Coordinator] {
        let mut world =
            connected(Setup { clients: 1, coordinator: |config| config.heartbeat = Some(secs(1)), ..Setup::default() });
        world.run_for(secs(10));
        let conn = world.connection(1);
        world.half_open(1, deaf);
        let cut = world.now();
        world.drive_until("it gives up", |world| world.connection(1) != conn);
        assert!(world.now().since(cut) <= secs(3));
        drive_connected(&mut world, 1);
        assert_eq!(world.client(0).stats().resumed, 1);
    }
}

#[test]
fn auth_8_a_client_that_goes_on_in_front_of_an_unconfirmed_session_still_hears_of_its_tasks() {
    let mut world = connected(Setup { clients: 1, ..Setup::default() });
    let task = world.submit_by_client(0, "long", Job::takes(secs(3)));
    world.run_for(ms(50));
    world.wire(1).refuses = true;
    world.reset(1);
    world.run_for(ms(50));
    let mut other = Puppet::client(0);
    other.greet(&mut world);
    other.challenged(&mut world);
    other.prove(&mut world);
    other.hear(&mut world);
    other.close(&mut world);
    world.wire(1).refuses = false;
    world.drive_until("the client knows", |world| world.client_events[0].contains(&Event::Ended { task }));
    world.audit();
}

#[test]
fn a_follower_learns_that_a_silent_task_runs_also_when_it_comes_later() {
    let mut world = two_clients();
    let task = world.submit_by_client(0, "silent", Job::takes(secs(60)));
    world.run_for(secs(1));
    assert!(world.client_events[0].contains(&Event::Progress { task }), "{:?}", world.client_events[0]);
    world.tell_client(1, Input::Watch { task, follow: Follow::Outcome }).expect("room");
    world.run_for(secs(1));
    assert!(world.client_events[1].contains(&Event::Progress { task }), "{:?}", world.client_events[1]);
    assert_eq!(world.client(1).task(task).map(|task| task.attempt), Some(1));
}

#[test]
fn log_1_a_follower_gets_the_last_words_of_an_attempt_that_failed_also_over_a_cut() {
    for cut in [false, true] {
        let mut world = two_clients();
        let job = Job { prints: noise(60_000), ..Job::fails(1) };
        let spec = TaskSpec { retries: 1, ..TaskSpec::default() };
        let task = TaskId::from_text("fails once");
        world.submit_with("fails once", spec, job);
        world.tell_client(0, Input::Watch { task, follow: Follow::Output }).expect("room");
        if cut {
            world.drive_until("its output is under way", |world| !world.client_output[0].is_empty());
            let peer = world.client_peer(0);
            world.reset(peer);
        }
        world.drive_until("it ends", |world| world.client_events[0].contains(&Event::Ended { task }));
        let lengths: Vec<usize> = world.client_output[0].values().map(Vec::len).collect();
        assert_eq!(lengths, [60_000, 60_000], "both attempts, to their ends (cut: {cut})");
    }
}
