//! SESS: what outlives a connection, and what happens when it does not

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{connected, divert, drive_connected, ms, noise, puppet_worker, secs, to_worker, welcomed};
use quickcheck::{Gen, QuickCheck, TestResult};
use rejoin_core::coordinator::{Input, PeerState};
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::link::{LinkState, Reason};
use rejoin_core::wire::message::{
    CancelReason, Class, Control, FromWorker, Outcome, Settlement, Stream, ToWorker, Verdict,
};
use rejoin_core::worker::AttemptState;
use rejoin_sim::{Heard, Job, JournalMode, Puppet, Setup, Side, World};

fn quick() -> Setup {
    Setup {
        clients: 1,
        coordinator: |config| config.heartbeat = Some(ms(200)),
        worker: |config| config.link.backoff.slow_min = ms(200),
        ..Setup::default()
    }
}

// SESS-1 to SESS-3

#[test]
fn sess_1_numbers_rise_by_one_and_only_reliable_messages_have_them() {
    let mut world = World::new(quick());
    let mut puppet = puppet_worker(&mut world, 5);
    for n in 0..5 {
        world.submit(&format!("task {n}"), Job::takes(ms(1)));
    }
    world.run_for(ms(400));
    let heard = puppet.hear(&mut world);
    let numbers: Vec<u64> = heard.iter().filter_map(to_worker).map(|(number, _)| number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert!(heard.iter().any(|heard| matches!(heard, Heard::Control(Control::Beat { .. }))), "a probe has none");
}

#[test]
fn sess_2_an_acknowledgement_says_durable_and_leaves_within_a_second() {
    let mut world = World::new(Setup { clients: 0, ..quick() });
    let mut puppet = puppet_worker(&mut world, 1);
    let task = world.submit("one", Job::takes(ms(1)));
    let token = assigned(&puppet.hear(&mut world))[0].1;
    let from = world.now();
    let acked = |heard: &[Heard], upto| heard.contains(&Heard::Control(Control::Ack { received: upto }));
    let mut heard = Vec::new();
    puppet.say(&mut world, |body| {
        body.push(Class::Numbered(2), &FromWorker::Running { token, progress: 1 });
    });
    world.drive_until("it is acknowledged", |world| {
        heard.extend(puppet.hear(world));
        acked(&heard, 2)
    });
    assert!(world.now().since(from) <= secs(1));
    // A result: at once when durable, and not before.
    world.journal.mode = JournalMode::Syncs(ms(70));
    let from = world.now();
    puppet.say(&mut world, |body| {
        let streams = Default::default();
        let result = FromWorker::Result { task, token, outcome: Outcome::Succeeded, result: b"", streams };
        body.push(Class::Numbered(3), &result);
    });
    heard.clear();
    world.drive_until("it is settled", |world| {
        heard.extend(puppet.hear(world));
        settled(&heard) == [(token, Settlement::Applied)]
    });
    assert_eq!(world.now().since(from), ms(70));
    assert!(acked(&heard, 3));
}

fn assigned(heard: &[Heard]) -> Vec<(u64, Token, TaskId)> {
    let assigns = heard.iter().filter_map(to_worker).filter_map(|(number, message)| {
        if let ToWorker::Assign { task, token, .. } = message { Some((number, token, task)) } else { None }
    });
    assigns.collect()
}

fn settled(heard: &[Heard]) -> Vec<(Token, Settlement)> {
    let settled = heard.iter().filter_map(to_worker).filter_map(|(_, message)| {
        if let ToWorker::Settled { token, settlement, .. } = message { Some((token, settlement)) } else { None }
    });
    settled.collect()
}

/// Resumes a puppet's session and returns what it is told
fn come_back(world: &mut World, puppet: &mut Puppet, received: u64, sent: u64) -> Vec<Heard> {
    let generation = world.coordinator.stats().resumed + 1;
    puppet.close(world);
    puppet.greet(world);
    let acknowledged = puppet.challenged(world).expect("the session is open");
    puppet.resume(world, generation, received, sent, acknowledged);
    puppet.hear(world)
}

#[test]
fn sess_3_every_number_above_what_was_received_is_sent_once_more_in_order_and_as_the_same() {
    let mut world = World::new(Setup { clients: 0, ..quick() });
    let mut puppet = puppet_worker(&mut world, 5);
    for n in 0..5 {
        world.submit(&format!("task {n}"), Job::takes(ms(1)));
    }
    let first = assigned(&puppet.hear(&mut world));
    assert_eq!(first.len(), 5);
    for received in 0..=5 {
        // Nothing but the welcome and the confirmation passes between two cuts; received may stand still.
        let heard = come_back(&mut world, &mut puppet, received, 1);
        assert_eq!(welcomed(&heard).and_then(|welcome| welcome.resumed), Some(1));
        assert_eq!(assigned(&heard), first[received as usize..]);
    }
}

#[test]
fn sess_3_what_has_no_cause_any_more_comes_as_void_and_the_news_under_new_numbers() {
    let mut world =
        World::new(Setup { workers: 2, coordinator: |config| config.lost_after = secs(1), ..Setup::default() });
    world.wire(1).refuses = true;
    world.reset(1);
    let mut puppet = puppet_worker(&mut world, 3);
    let tasks = [0, 1, 2].map(|n| world.submit(&format!("task {n}"), Job::takes(ms(1))));
    let first = assigned(&puppet.hear(&mut world));
    assert_eq!(first.len(), 3);
    puppet.close(&mut world);
    world.wire(1).refuses = false;
    world.drive_until("another worker does them", |world| tasks.iter().all(|task| world.succeeded(*task)));
    puppet.greet(&mut world);
    puppet.challenged(&mut world);
    puppet.resume(&mut world, 1, 1, 1, 0);
    let heard = puppet.hear(&mut world);
    let void = |number| heard.contains(&Heard::Numbered(number, Vec::new()));
    assert!(!void(1) && void(2) && void(3), "{heard:?}");
    let cancels: Vec<_> = heard.iter().filter_map(to_worker).collect();
    for (_, token, _) in first {
        let news = ToWorker::Cancel { token, reason: CancelReason::Replaced };
        assert!(cancels.iter().any(|(number, message)| *number > 3 && *message == news), "{cancels:?}");
    }
}

// SESS-4

#[test]
fn sess_4_late_close_of_the_old_connection_leaves_the_new_one_alone() {
    let mut world = connected(Setup::default());
    let task = world.submit("long", Job::takes(secs(3)));
    world.run_for(ms(10));
    world.reset_seen_by(0, Side::Peer);
    world.drive_until("it is back", |world| world.worker(0).stats().resumed == 1);
    world.run_for(ms(5));
    world.deliver_old_closes(0);
    let old = world.dials(0) - 1;
    let loss = rejoin_core::Loss::Peer;
    world.tell_worker(0, rejoin_core::worker::Input::Disconnected { attempt: old, loss }).expect("never refused");
    world.tell_worker(0, rejoin_core::worker::Input::Received { attempt: old, bytes: b"late" }).expect("never refused");
    world.drive_until("it is over", |world| world.succeeded(task));
    assert_eq!((world.state(0), world.seen(0), world.dials(0)), (LinkState::Connected, PeerState::Connected, 2));
    assert_eq!(world.executions(task), 1);
}

#[test]
fn sess_4_resuming_works_with_nothing_exchanged_and_any_number_of_times() {
    let mut world = connected(quick());
    for round in 1..=60 {
        match round % 3 {
            0 => world.reset(0),
            1 => world.reset_seen_by(0, Side::Peer),
            _ => world.reset_seen_by(0, Side::Coordinator),
        }
        world.drive_until("it is back", |world| world.worker(0).stats().resumed == round);
    }
    assert_eq!(world.coordinator.stats().opened, 2, "one each for the worker and the client");
    let task = world.submit("after all that", Job::prints(b"x"));
    world.drive_until("it is over", |world| world.succeeded(task));
}

#[test]
fn sess_4_a_cut_after_any_message_in_any_manner_loses_and_doubles_nothing() {
    type Manner = fn(&mut World, usize);
    let manners: [(&str, Manner); 7] = [
        ("both notice", |world, peer| world.reset(peer)),
        ("the peer notices", |world, peer| world.reset_seen_by(peer, Side::Peer)),
        ("the coordinator notices", |world, peer| world.reset_seen_by(peer, Side::Coordinator)),
        ("the peer is deaf", |world, peer| world.half_open(peer, Side::Peer)),
        ("the coordinator is deaf", |world, peer| world.half_open(peer, Side::Coordinator)),
        ("the peer gets damage", |world, peer| world.corrupt_next(peer, Side::Peer)),
        ("the coordinator gets damage", |world, peer| world.corrupt_next(peer, Side::Coordinator)),
    ];
    let mut cuts = 0;
    for (what, manner) in manners {
        for (peer, at) in [(0, Side::Peer), (0, Side::Coordinator), (1, Side::Peer), (1, Side::Coordinator)] {
            for count in 1.. {
                let place = format!("{what}, after message {count} at {at:?} of peer {peer}");
                if !life_of_a_task(&place, peer, at, count, manner) {
                    break;
                }
                cuts += 1;
            }
        }
    }
    assert!(cuts > 150, "{cuts} cuts");
}

/// One task, from the first dial to the last acknowledgement, with one cut; `false` if it never came to the cut
fn life_of_a_task(place: &str, peer: usize, at: Side, count: u64, manner: fn(&mut World, usize)) -> bool {
    let mut world = World::new(quick());
    let output = noise(3000);
    let job = Job { returns: b"done".to_vec(), ..Job::prints(&output) };
    let task = world.submit_by_client(0, "the task", job);
    let end = world.now() + ms(300);
    while world.arrivals(peer, at) < count {
        if world.now() > end || !world.step() {
            return false;
        }
    }
    manner(&mut world, peer);
    world.drive_until(place, |world| {
        world.client(0).task(task).is_some_and(|task| task.end.is_some()) && world.worker(0).held() == 0
    });
    world.audit();
    let (outcome, result, _) = world.client(0).task(task).and_then(|task| task.end).expect("over");
    assert_eq!((outcome, result), (Outcome::Succeeded, &b"done"[..]), "{place}");
    let token =
        world.coordinator.task(task).and_then(|task| task.end).and_then(|end| end.token).expect("by an attempt");
    assert_eq!(world.client_output[0].get(&(task, token, Stream::Out)), Some(&output), "{place}");
    assert_eq!(world.executions(task), 1, "{place}");
    let stats = world.coordinator.stats();
    assert_eq!((stats.applied, stats.violations, stats.stale_results), (1, 0, 0), "{place}");
    assert_eq!((world.worker(0).stats().violations, world.client(0).stats().violations), (0, 0), "{place}");
    true
}

#[test]
fn sess_4_cuts_upon_cuts_lose_and_double_nothing() {
    fn holds(seed: u64, cuts: Vec<(u8, u8, bool)>) -> bool {
        let mut world = World::new(Setup { seed, ..quick() });
        let output = noise(40_000);
        let tasks = ["a", "b", "c"].map(|name| world.submit_by_client(0, name, Job::prints(&output)));
        for (steps, manner, client) in cuts {
            for _ in 0..steps % 24 {
                world.step();
            }
            let peer = usize::from(client);
            match manner % 7 {
                0 => world.reset(peer),
                1 => world.reset_seen_by(peer, Side::Peer),
                2 => world.reset_seen_by(peer, Side::Coordinator),
                3 => world.half_open(peer, Side::Peer),
                4 => world.half_open(peer, Side::Coordinator),
                5 => world.corrupt_next(peer, Side::Peer),
                _ => world.deliver_old_closes(peer),
            }
        }
        world.drive_until("the client knows and the worker has forgotten", |world| {
            let known = |task| world.client(0).task(task).is_some_and(|task| task.end.is_some());
            tasks.iter().all(|task| known(*task)) && world.worker(0).held() == 0
        });
        world.audit();
        let whole = |task: &TaskId| world.succeeded(*task) && world.output(*task) == output;
        tasks.iter().all(whole) && world.starts.len() == 3 && world.coordinator.stats().violations == 0
    }
    QuickCheck::new().rng(Gen::new(16)).tests(60).quickcheck(holds as fn(u64, Vec<(u8, u8, bool)>) -> bool);
}

// SESS-5 to SESS-7

#[test]
fn sess_5_numbers_that_cannot_be_of_the_same_history_open_a_new_session() {
    // The coordinator has sent 2, of which 1 is acknowledged, and has received 1.
    let claims = [(1, 1, true), (2, 1, true), (2, 9, true), (3, 1, false), (0, 1, false), (1, 0, false)];
    for (received, sent, resumes) in claims {
        let mut world = World::new(Setup::default());
        let mut puppet = puppet_worker(&mut world, 2);
        world.submit("one", Job::takes(ms(1)));
        world.submit("two", Job::takes(ms(1)));
        assert_eq!(assigned(&puppet.hear(&mut world)).len(), 2);
        puppet.say(&mut world, |body| {
            body.push(Class::Control, &Control::Ack { received: 1 });
        });
        puppet.close(&mut world);
        puppet.greet(&mut world);
        assert_eq!(puppet.challenged(&mut world), Some(1));
        puppet.resume(&mut world, 1, received, sent, 0);
        let stats = world.coordinator.stats();
        assert_eq!((stats.resumed, stats.opened), if resumes { (1, 1) } else { (0, 2) }, "{received}, {sent}");
    }
}

#[test]
fn sess_5_a_worker_restored_from_a_snapshot_reconciles() {
    let mut world = connected(Setup::default());
    let early = world.submit("early", Job::takes(ms(1)));
    world.drive_until("it is over", |world| world.succeeded(early));
    world.run_for(secs(2));
    let snapshot = world.worker(0).clone();
    for n in 0..5 {
        let task = world.submit(&format!("later {n}"), Job::takes(ms(1)));
        world.drive_until("it is over", |world| world.succeeded(task));
    }
    world.run_for(secs(2));
    world.crash(0);
    world.run_for(ms(1));
    world.replace_worker(0, snapshot);
    let loss = rejoin_core::Loss::Local;
    world.tell_worker(0, rejoin_core::worker::Input::Disconnected { attempt: 1, loss }).expect("never refused");
    drive_connected(&mut world, 0);
    let stats = world.coordinator.stats();
    assert_eq!((stats.resumed, stats.opened, stats.violations), (0, 2, 0));
    let task = world.submit("at last", Job::takes(ms(1)));
    world.drive_until("it is over", |world| world.succeeded(task));
    world.audit();
}

#[test]
fn sess_6_a_restarted_coordinator_reconciles_in_as_many_round_trips_and_adopts_what_runs() {
    let mut world = connected(Setup { worker: |config| config.slots = 2, ..Setup::default() });
    world.journal.mode = JournalMode::Syncs(ms(1));
    let running = world.submit("runs through it", Job::takes(secs(2)));
    let over = world.submit("ends meanwhile", Job { returns: b"r".to_vec(), ..Job::takes(ms(30)) });
    world.run_for(ms(10));
    assert_eq!((world.executions(running), world.executions(over)), (1, 1));
    world.wire(0).refuses = true;
    world.restart_coordinator();
    assert_eq!(world.seen(0), PeerState::Disconnected);
    world.run_for(ms(100));
    *world.wire(0) = rejoin_sim::Wire { latency: ms(50), ..Default::default() };
    world.drive_until("it is let in", |world| world.state(0) == LinkState::Greeting);
    let from = world.now();
    world.drive_until("it is welcomed", |world| world.state(0) == LinkState::Reconciling);
    assert_eq!(world.now().since(from), ms(4 * 50), "M1, M2, M3 with the inventory, M4: as in a resumed session");
    drive_connected(&mut world, 0);
    assert!(world.now().since(from) <= ms(6 * 50 + 2), "the verdict waits for the confirmation");
    world.drive_until("both are over", |world| world.succeeded(running) && world.succeeded(over));
    assert_eq!((world.executions(running), world.executions(over)), (1, 1), "nothing ran twice");
    assert_eq!(world.coordinator.stats().resumed, 0);
    world.audit();
}

#[test]
fn sess_7_each_item_of_an_inventory_gets_its_verdict() {
    let mut world = connected(Setup {
        coordinator: |config| config.session_lifetime = Duration::ZERO,
        worker: |config| {
            config.slots = 3;
            config.prefetch = 4;
        },
        ..Setup::default()
    });
    let runs = world.submit("runs", Job::prints(&noise(100)));
    let over = world.submit("ends meanwhile", Job { returns: b"r".to_vec(), ..Job::takes(ms(50)) });
    let fills = world.submit("fills the slot", Job::takes(secs(3)));
    let waits = world.submit("waits", Job::takes(ms(1)));
    let cancelled = world.submit("is cancelled meanwhile", Job::takes(secs(50)));
    world.run_for(ms(8));
    world.wire(0).refuses = true;
    world.reset(0);
    world.run_for(ms(200));
    world.tell_coordinator(Input::Cancel { task: cancelled }).expect("it is known");
    world.wire(0).refuses = false;
    let all = [runs, over, fills, waits, cancelled];
    world.drive_until("all are over", |world| all.iter().all(|task| world.outcome(*task).is_some()));
    assert_eq!(world.outcome(cancelled), Some(Outcome::Cancelled));
    assert_eq!(world.output(runs), noise(100));
    for task in [runs, over, fills, waits] {
        assert_eq!((world.outcome(task), world.executions(task)), (Some(Outcome::Succeeded), 1));
    }
    assert_eq!((world.coordinator.stats().opened, world.coordinator.stats().resumed), (2, 0));
    world.audit();
}

#[test]
fn sess_7_a_long_inventory_comes_in_parts() {
    let mut world = connected(Setup {
        coordinator: |config| config.session_lifetime = Duration::ZERO,
        worker: |config| {
            config.slots = 1;
            config.prefetch = 400;
            config.attempts_max = 500;
            config.result_bytes_max = 16;
        },
        ..Setup::default()
    });
    let tasks: Vec<_> = (0..401).map(|n| world.submit(&format!("task {n}"), Job::takes(ms(20)))).collect();
    world.run_for(ms(50));
    assert!(world.worker(0).held() > 390);
    world.reset(0);
    world.drive_until("it reconciles", |world| world.state(0) == LinkState::Reconciling);
    assert_eq!(world.coordinator.stats().opened, 2);
    drive_connected(&mut world, 0);
    world.run_for(ms(50));
    assert!(tasks.iter().all(|task| world.executions(*task) <= 1));
    assert_eq!(world.coordinator.stats().violations, 0);
    world.drive_until("all are over", |world| tasks.iter().all(|task| world.succeeded(*task)));
    assert_eq!(world.starts.len(), 401);
}

#[test]
fn sess_7_an_item_of_a_task_that_is_over_is_discarded_and_one_never_given_too() {
    let mut world = World::new(Setup { workers: 1, ..Setup::default() });
    world.wire(0).refuses = true;
    world.reset(0);
    let mut puppet = Puppet::worker(0);
    puppet.enter(&mut world);
    let unknown = rejoin_core::wire::message::InventoryItem {
        task: TaskId::from_text("never heard of"),
        token: Token(77),
        attempt: 1,
        held: rejoin_core::wire::message::Held::Finished,
    };
    // An item is encoded like any message, without a head.
    let mut body = vec![0; 200];
    let mut writer = rejoin_core::wire::message::BodyWriter::new(&mut body);
    assert!(writer.push(Class::Loose, &unknown));
    let len = writer.len();
    let items = body[3..len].to_vec();
    puppet.say(&mut world, |body| {
        body.push(Class::Numbered(1), &FromWorker::Inventory { part: 0, last: true, cut: 0, items: &items });
    });
    let heard = puppet.hear(&mut world);
    let verdicts: Vec<_> = heard.iter().filter_map(to_worker).collect();
    assert_eq!(verdicts, [(1, ToWorker::Verdict { token: Token(77), verdict: Verdict::Discard })]);
}

/// Outcome, result and output
type Ending = (Option<Outcome>, Vec<u8>, Vec<u8>);

/// What a script of tasks and cuts leads to, with replay or without
fn endings(seed: u64, script: &[(u8, u8)], replay: bool) -> BTreeMap<TaskId, Ending> {
    let mut world = World::new(Setup {
        workers: 2,
        seed,
        coordinator: if replay {
            |config| config.heartbeat = Some(ms(200))
        } else {
            |config| {
                config.heartbeat = Some(ms(200));
                config.session_lifetime = Duration::ZERO;
            }
        },
        worker: |config| config.slots = 2,
        ..Setup::default()
    });
    let mut tasks = Vec::new();
    for (n, (what, how)) in script.iter().enumerate() {
        let job = Job {
            returns: vec![*how; 20],
            ends: Job::fails(usize::from(how % 3)).ends,
            ..Job::prints(&noise(usize::from(*how) * 99))
        };
        let spec = rejoin_core::wire::message::TaskSpec { priority: what % 5, retries: 2 };
        tasks.push(world.submit_with(&format!("task {n}"), spec, job));
        let peer = usize::from(what % 2);
        match what / 2 % 6 {
            0 => world.reset(peer),
            1 => world.reset_seen_by(peer, Side::Peer),
            2 => world.reset_seen_by(peer, Side::Coordinator),
            3 => world.half_open(peer, Side::Peer),
            4 => world.corrupt_next(peer, Side::Coordinator),
            _ => {}
        }
        world.run_for(Duration::from_micros(u64::from(*how) * 331));
    }
    world.drive_until("all are over", |world| tasks.iter().all(|task| world.outcome(*task).is_some()));
    world.audit();
    let end = |world: &World, task| {
        let result = world.coordinator.task(task).and_then(|t| t.end).map(|end| end.result.to_vec());
        (world.outcome(task), result.unwrap_or_default(), world.output(task).to_vec())
    };
    tasks.iter().map(|task| (*task, end(&world, *task))).collect()
}

#[test]
fn sess_7_without_replay_the_same_tasks_end_the_same_way() {
    fn same(seed: u64, script: Vec<(u8, u8)>) -> TestResult {
        let with = endings(seed, &script, true);
        TestResult::from_bool(with == endings(seed, &script, false) && with.len() == script.len())
    }
    QuickCheck::new().rng(Gen::new(12)).tests(30).quickcheck(same as fn(u64, Vec<(u8, u8)>) -> TestResult);
}

// SESS-9

#[test]
fn sess_9_a_session_lives_for_its_lifetime_after_the_cut_and_not_longer() {
    for (away, open) in [(secs(300) - ms(1), Some(0)), (secs(300), None)] {
        let mut world = World::new(Setup::default());
        world.wire(0).refuses = true;
        world.reset(0);
        let mut puppet = Puppet::worker(0);
        let welcome = welcomed(&puppet.enter(&mut world)).expect("a welcome");
        assert_eq!(welcome.lifetime_us, 300_000_000, "the peer is told");
        world.run_for(secs(10));
        puppet.close(&mut world);
        world.run_for(away);
        puppet.greet(&mut world);
        assert_eq!(puppet.challenged(&mut world), open);
    }
}

#[test]
fn sess_9_a_worker_takes_no_task_without_room_for_its_result_and_drops_none() {
    let mut world = connected(Setup {
        worker: |config| {
            config.slots = 2;
            config.prefetch = 2;
            config.attempts_max = 4;
        },
        ..Setup::default()
    });
    let tasks: Vec<_> = (0..12)
        .map(|n| world.submit(&format!("task {n}"), Job { returns: vec![n; 4096], ..Job::takes(ms(5)) }))
        .collect();
    // Nothing is durable any more, so that no result is settled.
    world.run_for(ms(3));
    world.journal.mode = JournalMode::Syncs(secs(5));
    world.run_for(secs(4));
    assert_eq!(world.worker(0).held(), 4, "four results wait, and nothing else was taken");
    world.journal.mode = JournalMode::Syncs(ms(1));
    world.drive_until("all are over", |world| tasks.iter().all(|task| world.succeeded(*task)));
    for (n, task) in tasks.iter().enumerate() {
        let end = world.coordinator.task(*task).and_then(|task| task.end).expect("over");
        assert_eq!(end.result, vec![n as u8; 4096]);
    }
    world.audit();
}

#[test]
fn journ_2_a_worker_does_not_listen_to_an_older_epoch_or_another_cluster() {
    let mut world = connected(Setup::default());
    world.restart_coordinator();
    drive_connected(&mut world, 0);
    let conn = divert(&mut world);
    let mut twin = Puppet::coordinator(0);
    twin.accept(&mut world, conn, 1);
    assert!(!twin.has_proof());
    assert_eq!(world.leaves.last(), Some(&(0, Reason::OldCoordinator { epoch: 1, seen: 2 })));
    assert!(world.worker(0).is_slow());
    assert_ne!(world.state(0), LinkState::Stopped);
    world.wire(0).diverted = false;
    drive_connected(&mut world, 0);
    assert_eq!(world.worker(0).stats().resumed, 1, "to the true one its session is still open");
}

#[test]
fn sess_4_a_finished_attempt_is_forgotten_only_when_it_is_settled() {
    let mut world = connected(Setup::default());
    let task = world.submit("ends while cut", Job::takes(ms(10)));
    world.run_for(ms(5));
    world.wire(0).refuses = true;
    world.reset(0);
    world.run_for(secs(10));
    let token = world.starts[0].1;
    assert_eq!(world.worker(0).attempt(token), Some(AttemptState::Finished));
    world.wire(0).refuses = false;
    world.drive_until("it is forgotten", |world| world.worker(0).held() == 0);
    assert!(world.succeeded(task));
}
