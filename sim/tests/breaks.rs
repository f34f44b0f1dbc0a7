//! What an authenticated peer, an unlucky order, or a full connection must not bring about

mod common;

use common::{connected, denied, ms, puppet_worker, secs, to_worker, welcomed};
use rejoin_core::coordinator::{Input, TaskState, Why};
use rejoin_core::ids::{BootId, KeyId, Role, TaskId, Token};
use rejoin_core::link::LinkState;
use rejoin_core::wire::keys::{Key, Secret};
use rejoin_core::wire::message::{
    BodyWriter, CancelReason, Class, Control, Credit, Failure, Follow, FromClient, FromWorker, Held, InventoryItem,
    Outcome, ToWorker, Verdict,
};
use rejoin_core::worker;
use rejoin_sim::{Heard, Job, JournalMode, Puppet, Setup, World};

fn inventory(world: &mut World, puppet: &mut Puppet, item: InventoryItem) {
    // An item is written as a message is, behind a class and two bytes of length.
    let mut body = [0; 128];
    let mut writer = BodyWriter::new(&mut body);
    assert!(writer.push(Class::Loose, &item));
    let len = writer.len();
    let items = &body[3..len];
    puppet.say(world, |body| {
        body.push(Class::Numbered(1), &FromWorker::Inventory { part: 0, last: true, cut: 0, items });
    });
}

fn grant(world: &mut World, puppet: &mut Puppet, tasks: u64) {
    puppet.say(world, |body| {
        body.push(Class::Control, &Control::Credit(Credit { tasks, messages: 4096, bulk: 1 << 20 }));
    });
}

fn assigned(heard: &[Heard]) -> Vec<Token> {
    heard
        .iter()
        .filter_map(to_worker)
        .filter_map(|(_, m)| if let ToWorker::Assign { token, .. } = m { Some(token) } else { None })
        .collect()
}

#[test]
fn log_1_a_result_follows_output_that_turns_out_to_be_kept_while_it_is_being_sent_again() {
    let mut world = connected(Setup { worker: |config| config.slots = 6, ..Setup::default() });
    let prints = common::noise(500_000);
    let tasks: Vec<_> = (0..4)
        .map(|n| world.submit(&format!("task {n}"), Job { prints: prints.clone(), ..Job::takes(secs(2)) }))
        .collect();
    let large = world.submit("large", Job { prints: common::noise(4_000_000), ..Job::takes(secs(3)) });
    world.run_for(ms(500));
    world.journal.mode = JournalMode::Stuck;
    world.run_for(ms(700));
    // All they have printed has arrived, and none of it is durable, when the link is cut and they end.
    world.wire(0).refuses = true;
    world.reset(0);
    world.run_for(ms(100));
    let tokens: Vec<Token> = world.starts.iter().filter(|s| tasks.contains(&s.0)).map(|s| s.1).collect();
    for token in tokens {
        let outcome = Outcome::Succeeded;
        world.tell_worker(0, worker::Input::Finished { token, outcome, result: b"" }).expect("it runs");
    }
    world.journal.mode = JournalMode::Syncs(ms(0));
    world.submit("wakes the journal", Job::takes(ms(1)));
    world.run_for(secs(1));
    world.wire(0).refuses = false;
    world.wire(0).latency = ms(20);
    common::drive_connected(&mut world, 0);
    world.run_for(secs(10));
    for task in tasks.iter().chain([&large]) {
        assert!(world.succeeded(*task), "{task}: {:?}", world.coordinator.why(*task));
    }
    world.audit();
}

/// Worker 1 has a task and was declared lost; worker 0 is a puppet that takes nothing
fn lost_at_another() -> (World, Puppet, TaskId, Token) {
    let mut world =
        World::new(Setup { workers: 2, coordinator: |config| config.lost_after = secs(1), ..Setup::default() });
    world.wire(0).refuses = true;
    world.reset(0);
    common::drive_connected(&mut world, 1);
    let task = world.submit("theirs", Job::takes(secs(30)));
    world.drive_until("it runs", |world| world.executions(task) == 1);
    world.run_for(ms(10));
    let token = world.starts[0].1;
    world.wire(1).refuses = true;
    world.reset(1);
    world.run_for(secs(2));
    let mut puppet = Puppet::worker(0);
    puppet.enter(&mut world);
    assert_eq!(world.coordinator.task(task).map(|task| task.state), Some(TaskState::Ready));
    (world, puppet, task, token)
}

#[test]
fn sess_7_an_inventory_that_names_the_attempt_of_another_worker_changes_nothing_for_it() {
    let (mut world, mut thief, task, token) = lost_at_another();
    inventory(&mut world, &mut thief, InventoryItem { task, token, attempt: 1, held: Held::Running { progress: 0 } });
    assert_eq!(world.coordinator.task(task).map(|task| task.state), Some(TaskState::Ready));
    grant(&mut world, &mut thief, 1);
    assert_eq!(assigned(&thief.hear(&mut world)).len(), 1, "it is free to be given to anybody");
}

#[test]
fn sess_7_an_inventory_that_names_another_task_under_a_token_is_not_believed() {
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world, 1);
    let task = world.submit("one", Job::takes(ms(1)));
    let token = assigned(&puppet.hear(&mut world))[0];
    puppet.close(&mut world);
    let mut again = Puppet::worker(0);
    again.enter(&mut world);
    let other = TaskId::from_text("another");
    inventory(&mut world, &mut again, InventoryItem { task: other, token, attempt: 1, held: Held::Waiting });
    let heard = again.hear(&mut world);
    let verdict = heard.iter().filter_map(to_worker).find_map(|(_, message)| {
        let ToWorker::Verdict { verdict, .. } = message else { return None };
        Some(verdict)
    });
    assert_eq!(verdict, Some(Verdict::Discard));
    assert_eq!(world.coordinator.task(task).map(|task| task.state), Some(TaskState::Ready), "its holder has lost it");
}

#[test]
fn task_2_an_adopted_attempt_may_claim_any_number() {
    for attempt in [0, u32::MAX] {
        let mut world = World::new(Setup::default());
        world.wire(0).refuses = true;
        world.reset(0);
        world.run_for(ms(10));
        let task = world.submit("wanted", Job::takes(ms(1)));
        world.run_for(ms(10));
        world.restart_coordinator();
        world.run_for(ms(10));
        let mut puppet = Puppet::worker(0);
        puppet.enter(&mut world);
        let item = InventoryItem { task, token: Token(1), attempt, held: Held::Waiting };
        inventory(&mut world, &mut puppet, item);
        puppet.say(&mut world, |body| {
            let (token, outcome, result, streams) = (Token(1), Outcome::Cancelled, &b""[..], Default::default());
            match attempt {
                0 => body.push(Class::Numbered(2), &FromWorker::GivenBack { token }),
                _ => body.push(Class::Numbered(2), &FromWorker::Result { task, token, outcome, result, streams }),
            };
        });
        grant(&mut world, &mut puppet, 1);
        assert_eq!(assigned(&puppet.hear(&mut world)).len(), 1);
    }
}

#[test]
fn auth_4_a_newcomer_does_not_pay_for_the_breach_of_the_one_it_waits_for() {
    let mut world = World::new(Setup::default());
    let mut old = puppet_worker(&mut world, 0);
    let mut newcomer = Puppet::worker(0);
    newcomer.boot = BootId([1; 16]);
    newcomer.greet(&mut world);
    newcomer.challenged(&mut world);
    newcomer.prove(&mut world);
    assert!(newcomer.hear(&mut world).is_empty(), "it waits");
    old.say(&mut world, |body| {
        body.push(Class::Numbered(77), &FromWorker::GivenBack { token: Token(1) });
    });
    let heard = newcomer.hear(&mut world);
    assert!(welcomed(&heard).is_some(), "{heard:?}");
    let session = newcomer.session.expect("opened").0;
    newcomer.say(&mut world, |body| {
        body.push(Class::Control, &Control::Begin { session });
        body.push(Class::Control, &Control::Confirm { generation: 1 });
    });
    assert_eq!(denied(&newcomer.hear(&mut world)), None);
}

#[test]
fn task_7_a_cancel_never_overtakes_the_assignment_it_is_about() {
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world, 1);
    let conn = puppet.conn;
    puppet.hear(&mut world);
    world.tell_coordinator(Input::Writable { conn, writable: false }).unwrap();
    let task = world.submit("called off", Job::takes(secs(1)));
    world.run_for(ms(10));
    world.tell_coordinator(Input::Cancel { task }).unwrap();
    world.run_for(ms(10));
    world.tell_coordinator(Input::Writable { conn, writable: true }).unwrap();
    let heard = puppet.hear(&mut world);
    let order: Vec<_> = heard.iter().filter_map(to_worker).map(|(_, message)| message).collect();
    let assign = order.iter().position(|m| matches!(m, ToWorker::Assign { .. }));
    let cancel = order.iter().position(|m| matches!(m, ToWorker::Cancel { reason: CancelReason::Requested, .. }));
    assert!(assign.is_none() || assign < cancel, "{order:?}");
}

#[test]
fn task_6_suspects_do_not_wait_for_a_worker_that_takes_nothing() {
    let mut world = connected(Setup { workers: 3, worker: |config| config.slots = 2, ..Setup::default() });
    world.wire(2).refuses = true;
    world.reset(2);
    let mut idler = puppet_worker(&mut world, 0);
    let suspects = ["a", "b"].map(|name| world.submit(name, Job::takes(secs(5))));
    world.run_for(ms(50));
    world.crash(1);
    world.restart(1);
    common::drive_connected(&mut world, 1);
    let end = world.now() + secs(60);
    while world.now() < end {
        // It answers each heartbeat, and takes nothing.
        grant(&mut world, &mut idler, 0);
        world.run_for(secs(1));
    }
    assert!(suspects.iter().all(|task| world.succeeded(*task)), "{:?}", suspects.map(|t| world.coordinator.why(t)));
}

#[test]
fn task_6_suspects_move_to_a_worker_that_has_become_idle() {
    let mut world = connected(Setup {
        workers: 2,
        worker: |config| {
            config.slots = 2;
            config.prefetch = 0;
        },
        ..Setup::default()
    });
    world.wire(1).refuses = true;
    world.reset(1);
    world.run_for(ms(5));
    let suspects = ["a", "b"].map(|name| world.submit(name, Job::takes(secs(5))));
    world.run_for(ms(50));
    world.wire(1).refuses = false;
    common::drive_connected(&mut world, 1);
    let long = world.submit("long", Job::takes(secs(3000)));
    world.run_for(ms(50));
    world.crash(0);
    world.run_for(ms(50));
    assert_eq!(world.coordinator.why(long), Some(Why::Runs));
    world.restart(0);
    world.run_for(secs(60));
    assert!(suspects.iter().all(|task| world.succeeded(*task)), "{:?}", suspects.map(|t| world.coordinator.why(t)));
}

#[test]
fn lanes_2_a_worker_gets_no_more_than_any_worker_can_hold() {
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world, u64::MAX);
    for n in 0..2000 {
        world.submit(&format!("task {n}"), Job::takes(ms(1)));
    }
    assert_eq!(assigned(&puppet.hear(&mut world)).len(), 512);
}

#[test]
fn auth_6_revoking_an_old_key_leaves_a_connection_alone_that_uses_the_new_one() {
    let mut world = connected(Setup::default());
    let old =
        Key { id: KeyId([77; 8]), secret: Secret::new([1; 32]), name: "worker-0".parse().unwrap(), role: Role::Worker };
    world.tell_coordinator(Input::AddKey { key: &old }).unwrap();
    world.tell_coordinator(Input::RevokeKey { key: old.id }).unwrap();
    world.run_for(secs(1));
    assert_eq!(world.state(0), LinkState::Connected);
}

#[test]
fn lanes_2_who_asks_and_never_takes_the_answers_is_granted_no_more() {
    let mut world = World::new(Setup { clients: 1, ..Setup::default() });
    world.wire(1).refuses = true;
    world.reset(1);
    let mut client = Puppet::client(0);
    let mut granted = welcomed(&client.enter(&mut world)).expect("a welcome").credit.messages;
    let task = TaskId::from_text("unknown");
    let mut number = 0;
    for _ in 0..200 {
        let upto = granted.min(number + 512);
        client.say(&mut world, |body| {
            for number in number + 1..=upto {
                assert!(body.push(Class::Numbered(number), &FromClient::Watch { task, follow: Follow::Output }));
            }
        });
        number = upto;
        for heard in client.hear(&mut world) {
            if let Heard::Control(Control::Credit(credit)) = heard {
                granted = granted.max(credit.messages);
            }
        }
    }
    assert_eq!(number, granted, "it has used all it was granted");
    assert!(number <= 3 * 4096, "{number}");
    // Once it takes answers, it may ask again.
    client.say(&mut world, |body| {
        body.push(Class::Control, &Control::Ack { received: 4096 });
        body.push(Class::Control, &Control::Credit(Credit { tasks: 0, messages: 1 << 40, bulk: 0 }));
    });
    let more = client
        .hear(&mut world)
        .into_iter()
        .any(|heard| matches!(heard, Heard::Control(Control::Credit(credit)) if credit.messages > granted));
    assert!(more);
}

#[test]
fn sess_7_no_attempt_is_recalled_before_the_verdict_on_it() {
    let mut world = connected(Setup {
        workers: 2,
        coordinator: |config| config.session_lifetime = ms(10),
        worker: |config| config.prefetch = 3,
        ..Setup::default()
    });
    world.wire(1).refuses = true;
    world.reset(1);
    world.run_for(ms(5));
    let tasks: Vec<_> = (0..4).map(|n| world.submit(&format!("task {n}"), Job::takes(secs(5)))).collect();
    world.run_for(ms(50));
    world.journal.mode = JournalMode::Syncs(secs(2));
    world.submit("keeps the journal busy", Job::takes(ms(1)));
    // Both come back, one with work that has not started and one with nothing.
    world.wire(0).refuses = true;
    world.reset(0);
    world.run_for(ms(100));
    world.wire(0).refuses = false;
    world.wire(1).refuses = false;
    world.run_for(secs(60));
    assert!(tasks.iter().all(|task| world.succeeded(*task)));
    assert_eq!(world.worker(0).stats().violations, 0);
    assert!(world.starts.iter().any(|start| start.3 == 1), "some of it was given to the idle one");
    world.audit();
}

#[test]
fn task_6_a_client_learns_of_a_poisonous_task_whose_output_it_has() {
    let mut world = connected(Setup { clients: 1, ..Setup::default() });
    let task = world.submit_by_client(0, "poison", Job { prints: vec![7; 1000], ..Job::takes(secs(2)) });
    for crash in 1..=3 {
        world.drive_until("it runs and prints", |world| world.executions(task) == crash);
        world.run_for(ms(1500));
        world.crash(0);
        world.run_for(ms(50));
        world.restart(0);
    }
    world.drive_until("it is poisonous", |world| world.outcome(task).is_some());
    world.run_for(secs(1));
    let end = world.client(0).task(task).and_then(|task| task.end).map(|end| end.0);
    assert_eq!(end, Some(Outcome::Failed(Failure::Poisonous)));
}
