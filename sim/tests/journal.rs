//! JOURN-3: nothing is told before it is durable, and nothing at all after a failure

mod common;

use common::{connected, ms, puppet_worker, secs, to_worker};
use rejoin_core::Rejected;
use rejoin_core::client;
use rejoin_core::coordinator::{Event, Input, TaskState};
use rejoin_core::ids::{ConnId, KeyId, TaskId};
use rejoin_core::link::Reason;
use rejoin_core::wire::message::{Class, Control, FromWorker, Outcome, TaskSpec, ToWorker};
use rejoin_sim::{Heard, Job, JournalMode, Puppet, Setup, World, client_key, worker_key};

fn told(world: &World, event: impl Fn(&Event) -> bool) -> bool {
    world.events.iter().any(event)
}

#[test]
fn journ_3_a_submit_is_neither_accepted_nor_given_out_before_it_is_durable() {
    let mut world = connected(Setup { clients: 1, ..Setup::default() });
    world.journal.mode = JournalMode::Syncs(secs(7));
    let task = world.submit_by_client(0, "one", Job::takes(ms(1)));
    let submitted = world.now();
    world.run_for(secs(7));
    assert!(world.coordinator.task(task).is_some_and(|task| task.state == TaskState::Accepting));
    assert!(world.client_events[0].is_empty() && world.starts.is_empty() && world.coordinator.stats().assigned == 0);
    assert!(!told(&world, |event| matches!(event, Event::Accepted { .. })));
    world.drive_until("it is accepted", |world| world.client_events[0].contains(&client::Event::Accepted { task }));
    assert_eq!(world.now().since(submitted), secs(7) + ms(2), "one way, the journal, and back");
}

#[test]
fn journ_3_a_result_is_neither_settled_nor_acknowledged_nor_told_before_it_is_durable() {
    let mut world = connected(Setup { clients: 1, ..Setup::default() });
    world.wire(0).refuses = true;
    world.reset(0);
    let mut puppet = puppet_worker(&mut world, 2);
    let task = world.submit_by_client(0, "one", Job::takes(ms(1)));
    world.run_for(ms(5));
    let heard = puppet.hear(&mut world);
    let Some((_, ToWorker::Assign { token, .. })) = heard.iter().filter_map(to_worker).next() else { panic!() };
    world.journal.mode = JournalMode::Syncs(ms(1500));
    puppet.say(&mut world, |body| {
        let streams = Default::default();
        let result = FromWorker::Result { task, token, outcome: Outcome::Succeeded, result: b"r", streams };
        body.push(Class::Numbered(2), &result);
        body.push(Class::Numbered(3), &FromWorker::Running { token, progress: 1 });
    });
    world.run_for(ms(1499));
    let heard = puppet.hear(&mut world);
    assert!(!heard.iter().any(|heard| matches!(heard, Heard::Control(Control::Ack { .. }))), "{heard:?}");
    assert!(heard.iter().filter_map(to_worker).next().is_none(), "{heard:?}");
    assert_eq!((world.outcome(task), world.client(0).task(task).and_then(|task| task.end)), (None, None));
    // Nor on another connection.
    puppet.close(&mut world);
    puppet.greet(&mut world);
    assert_eq!(puppet.challenged(&mut world), Some(1));
    world.run_for(ms(1));
    assert_eq!(world.outcome(task), Some(Outcome::Succeeded));
    puppet.resume(&mut world, 1, 1, 3, 1);
    let heard = puppet.hear(&mut world);
    assert!(heard.iter().filter_map(to_worker).any(|(_, message)| matches!(message, ToWorker::Settled { .. })));
    world.run_for(ms(2));
    assert!(world.client(0).task(task).is_some_and(|task| task.end.is_some()));
}

#[test]
fn journ_3_a_journal_that_lags_orders_everything_as_if_it_did_not() {
    for lag in [0, 1, 5, 50, 700] {
        let mut world = connected(Setup { workers: 2, clients: 1, ..Setup::default() });
        world.journal.mode = JournalMode::Syncs(ms(lag));
        let tasks: Vec<_> =
            (0..10).map(|n| world.submit_by_client(0, &format!("task {n}"), Job::prints(&[n; 1000]))).collect();
        while !tasks.iter().all(|task| world.client(0).task(*task).is_some_and(|task| task.end.is_some())) {
            assert!(world.step());
            for task in &tasks {
                // Whatever anybody was told stands in the durable part of the journal.
                let known = world.client(0).task(*task).and_then(|task| task.end).is_some();
                assert!(!known || world.journal.ends(*task).len() == 1);
                assert!(world.outcome(*task).is_none() || world.journal.ends(*task).len() == 1);
            }
        }
        world.audit();
    }
}

#[test]
fn journ_3_after_a_failed_write_nothing_is_told_and_nothing_is_taken() {
    let mut world = connected(Setup { workers: 2, clients: 1, ..Setup::default() });
    let done = world.submit_by_client(0, "done", Job::takes(ms(1)));
    let running = world.submit_by_client(0, "running", Job::takes(ms(100)));
    world.drive_until("one is over", |world| world.client(0).task(done).is_some_and(|task| task.end.is_some()));
    world.run_for(ms(50));
    world.journal.mode = JournalMode::Fails;
    let (events, told_before) = (world.client_events[0].len(), world.events.len());
    let lost = world.submit_by_client(0, "lost", Job::takes(ms(1)));
    world.run_for(secs(1));
    assert!(world.events[told_before..].iter().all(|event| *event == Event::Stopped), "{:?}", world.events);
    assert!(told(&world, |event| *event == Event::Stopped));
    assert_eq!(world.client_events[0].len(), events, "neither the submit nor the result was told");
    assert!(world.client(0).task(running).is_some_and(|task| task.end.is_none()));
    assert!(world.client(0).task(lost).is_some());
    let closed = world.closes.values().filter(|reason| **reason == Reason::Stopping).count();
    assert_eq!(closed, 3, "every connection");
    let frames = world.coordinator.stats().frames_out;
    let (task, spec) = (TaskId::from_text("x"), TaskSpec::default());
    let key = client_key(5);
    let inputs = [
        Input::Submit { task, spec, about: &[], payload: b"" },
        Input::Cancel { task: running },
        Input::Forget { task: done },
        Input::AddKey { key: &key },
        Input::RevokeKey { key: KeyId([0; 8]) },
        Input::Journaled { upto: u64::MAX },
        Input::Received { conn: ConnId(1), bytes: b"" },
        Input::Arriving { conn: ConnId(1) },
        Input::Writable { conn: ConnId(1), writable: true },
    ];
    for input in inputs {
        assert_eq!(world.tell_coordinator(input), Err(Rejected::Stopped), "{input:?}");
    }
    assert!(matches!(world.stranger(), Err(Rejected::Stopped)));
    assert_eq!(world.tell_coordinator(Input::Closed { conn: ConnId(1) }), Ok(()));
    assert_eq!(world.tell_coordinator(Input::JournalFailed), Ok(()), "again is nothing new");
    world.run_for(secs(600));
    assert_eq!(world.coordinator.stats().frames_out, frames);
    assert_eq!(world.events.iter().filter(|event| **event == Event::Stopped).count(), 1);
    assert_eq!(world.coordinator.wake_at(), None);
    // A successor goes on from what is durable.
    world.journal.mode = JournalMode::Syncs(ms(1));
    world.restart_coordinator();
    world.drive_until("the client's tasks are over", |world| {
        [running, lost].iter().all(|task| world.client(0).task(*task).is_some_and(|task| task.end.is_some()))
    });
    world.audit();
}

#[test]
fn journ_3_connections_in_front_of_the_door_and_on_their_way_out_are_closed_too() {
    let mut world = connected(Setup { workers: 2, ..Setup::default() });
    world.wire(1).refuses = true;
    world.reset(1);
    let leaving = world.connection(0).expect("connected");
    let waiting = world.stranger().expect("let in");
    let mut greeted = Puppet::worker(1);
    greeted.greet(&mut world);
    // The refusal is decided on, and not sent when the journal fails.
    let now = world.now();
    world.coordinator.handle(now, Input::RevokeKey { key: worker_key(0).id }).expect("a known key");
    world.tell_coordinator(Input::JournalFailed).expect("never refused");
    for conn in [leaving, waiting, greeted.conn] {
        assert_eq!(world.closes.get(&conn), Some(&Reason::Stopping), "{conn}");
    }
}
