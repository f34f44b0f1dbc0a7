//! What a worker holds against what it should hold, while it is connected (SESS-8)

mod common;

use common::{connected, denied, divert, drive_connected, ms, secs, to_worker, welcomed};
use rejoin_core::coordinator::{Event, Input, TaskState};
use rejoin_core::drift::mark;
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::wire::message::{
    Class, Control, Credit, Denied, FromWorker, Item, Outcome, Settlement, StreamEnd, TaskSpec, ToWorker, Welcome,
};
use rejoin_sim::{Heard, Job, Puppet, Setup, World};

const CREDIT: Credit = Credit { tasks: 3, messages: 4096, bulk: 1 << 20 };

/// A world whose worker 0 is a puppet that speaks of what it holds
fn puppet_worker(world: &mut World) -> Puppet {
    world.wire(0).refuses = true;
    world.reset(0);
    let mut puppet = Puppet::worker(0).with_version(2);
    assert!(welcomed(&puppet.enter(world)).is_some());
    puppet.say(world, |body| {
        body.push(Class::Control, &Control::Credit(CREDIT));
        body.push(Class::Numbered(1), &FromWorker::Inventory { part: 0, last: true, cut: 0, items: &[] });
    });
    puppet
}

/// The assignments among what it heard: number, task and token
fn assigned(heard: &[Heard]) -> Vec<(u64, TaskId, Token)> {
    let assigned = |(number, message)| {
        if let ToWorker::Assign { task, token, .. } = message { Some((number, task, token)) } else { None }
    };
    heard.iter().filter_map(to_worker).filter_map(assigned).collect()
}

fn settled(heard: &[Heard]) -> Vec<(u64, Token, Settlement)> {
    let settled = |(number, message)| {
        if let ToWorker::Settled { token, settlement, .. } = message { Some((number, token, settlement)) } else { None }
    };
    heard.iter().filter_map(to_worker).filter_map(settled).collect()
}

fn asked(heard: &[Heard]) -> bool {
    heard.contains(&Heard::Control(Control::Compare))
}

/// Says what it holds as a number, and returns what it hears
fn digest(world: &mut World, puppet: &mut Puppet, received: u64, sent: u64, held: u64) -> Vec<Heard> {
    puppet.say(world, |body| {
        body.push(Class::Control, &Control::Digest { received, sent, held });
    });
    puppet.hear(world)
}

fn holdings(world: &mut World, puppet: &mut Puppet, received: u64, held: &[(TaskId, Token)]) -> Vec<Heard> {
    let items: Vec<u8> = held.iter().flat_map(|item| postcard::to_allocvec(item).expect("it can be encoded")).collect();
    puppet.say(world, |body| {
        body.push(Class::Loose, &FromWorker::Holdings { received, sent: 1, items: &items });
    });
    puppet.hear(world)
}

fn figures(world: &World) -> (u64, u64, u64) {
    let stats = world.coordinator.stats();
    (stats.digests, stats.mismatches, stats.repairs)
}

fn drifts(world: &World) -> Vec<(u64, u64)> {
    let drift = |event: &Event| {
        if let Event::Drifted { lost, discarded, .. } = event { Some((*lost, *discarded)) } else { None }
    };
    world.events.iter().filter_map(drift).collect()
}

#[test]
fn sess_8_what_a_worker_turns_out_not_to_have_goes_to_others_and_it_stays_connected() {
    let mut world = World::new(Setup { workers: 2, ..Setup::default() });
    world.wire(1).refuses = true;
    let mut puppet = puppet_worker(&mut world);
    let tasks = ["kept", "lost"].map(|name| world.submit(name, Job::takes(ms(1))));
    let given = assigned(&puppet.hear(&mut world));
    let [(_, kept, first), (last, lost, second)] = given[..] else { panic!("{given:?}") };
    assert_eq!([kept, lost], tasks);
    assert!(digest(&mut world, &mut puppet, last, 1, mark(kept, first) ^ mark(lost, second)).is_empty());
    let closes = world.closes.len();
    assert!(!asked(&digest(&mut world, &mut puppet, last, 1, mark(kept, first))), "once is not enough");
    assert!(asked(&digest(&mut world, &mut puppet, last, 1, mark(kept, first))));
    let heard = holdings(&mut world, &mut puppet, last, &[(kept, first)]);
    assert_eq!((figures(&world), drifts(&world)), ((3, 2, 1), vec![(1, 0)]));
    // It has a place again, and nobody else is there.
    let [(last, again, third)] = assigned(&heard)[..] else { panic!("{heard:?}") };
    assert!(again == lost && third > second);
    let view = |world: &World, task| world.coordinator.task(task).map(|task| (task.state, task.attempts));
    assert_eq!(view(&world, kept), Some((TaskState::Assigned, 1)), "nothing has changed for it");
    assert_eq!(view(&world, lost), Some((TaskState::Assigned, 2)));
    assert!(digest(&mut world, &mut puppet, last, 1, mark(kept, first) ^ mark(lost, third)).is_empty());
    assert_eq!((figures(&world), world.closes.len()), ((4, 2, 1), closes), "in agreement, on the same connection");
}

#[test]
fn sess_8_what_a_worker_should_not_have_it_is_told_to_forget() {
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world);
    let task = world.submit("there", Job::takes(ms(1)));
    let [(last, _, token)] = assigned(&puppet.hear(&mut world))[..] else { panic!("no assignment") };
    let (unknown, beyond) = (TaskId([7; 16]), Token(700));
    let both = mark(task, token) ^ mark(unknown, beyond);
    assert!(!asked(&digest(&mut world, &mut puppet, last, 1, both)));
    assert!(asked(&digest(&mut world, &mut puppet, last, 1, both)));
    let heard = holdings(&mut world, &mut puppet, last, &[(task, token), (unknown, beyond)]);
    let [(number, told, Settlement::Stale)] = settled(&heard)[..] else { panic!("{heard:?}") };
    assert_eq!((told, drifts(&world)), (beyond, vec![(0, 1)]));
    // Until it has heard that, it is believed to have it.
    assert!(digest(&mut world, &mut puppet, last, 1, both).is_empty());
    assert!(digest(&mut world, &mut puppet, number, 1, mark(task, token)).is_empty());
    assert_eq!(figures(&world), (4, 2, 1));
    assert_eq!(world.coordinator.task(task).map(|task| (task.state, task.attempts)), Some((TaskState::Assigned, 1)));
}

#[test]
fn sess_8_another_task_under_a_token_is_both_lost_and_forgotten() {
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world);
    world.submit("there", Job::takes(ms(1)));
    let [(last, _, token)] = assigned(&puppet.hear(&mut world))[..] else { panic!("no assignment") };
    let other = TaskId([7; 16]);
    digest(&mut world, &mut puppet, last, 1, mark(other, token));
    assert!(asked(&digest(&mut world, &mut puppet, last, 1, mark(other, token))));
    let heard = holdings(&mut world, &mut puppet, last, &[(other, token)]);
    assert_eq!((settled(&heard).len(), assigned(&heard).len(), drifts(&world)), (1, 1, vec![(1, 1)]));
}

#[test]
fn sess_8_only_mismatches_in_a_row_count_and_one_that_stays_is_asked_about_once_a_minute() {
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world);
    for held in [1, 0, 1, 0, 1] {
        assert!(!asked(&digest(&mut world, &mut puppet, 0, 1, held)));
    }
    assert!(asked(&digest(&mut world, &mut puppet, 0, 1, 1)));
    // It counts in another way, and lists what is right.
    assert!(!asked(&holdings(&mut world, &mut puppet, 0, &[])));
    assert_eq!(drifts(&world), [(0, 0)]);
    let mut times = 0;
    for _ in 0..90 {
        world.run_for(secs(2));
        times += u32::from(asked(&digest(&mut world, &mut puppet, 0, 1, 1)));
        if times > 0 && world.coordinator.stats().repairs == u64::from(times) {
            holdings(&mut world, &mut puppet, 0, &[]);
        }
    }
    assert_eq!(times, 3, "in three minutes");
    assert_eq!(denied(&puppet.hear(&mut world)), None);
}

#[test]
fn sess_8_nothing_is_compared_where_it_is_not_known_what_should_be_there() {
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world);
    let first = world.submit("first", Job::takes(ms(1)));
    let [(one, _, token)] = assigned(&puppet.hear(&mut world))[..] else { panic!("no assignment") };
    let second = world.submit("second", Job::takes(ms(1)));
    let [(two, _, later)] = assigned(&puppet.hear(&mut world))[..] else { panic!("no assignment") };
    // What is on its way is not there yet.
    digest(&mut world, &mut puppet, 0, 1, 0);
    digest(&mut world, &mut puppet, one, 1, mark(first, token));
    digest(&mut world, &mut puppet, two, 1, mark(first, token) ^ mark(second, later));
    assert_eq!(figures(&world), (3, 0, 0));
    puppet.say(&mut world, |body| {
        body.push(Class::Control, &Control::Ack { received: two });
    });
    digest(&mut world, &mut puppet, one, 1, 99);
    digest(&mut world, &mut puppet, two, 0, 99);
    assert_eq!(figures(&world), (3, 0, 0), "below what was acknowledged, or with something under way");
    // Whoever is stopped has it until it says so.
    world.tell_coordinator(Input::Cancel { task: first }).expect("it is known");
    puppet.hear(&mut world);
    digest(&mut world, &mut puppet, two + 1, 1, mark(first, token) ^ mark(second, later));
    puppet.say(&mut world, |body| {
        let (outcome, streams) = (Outcome::Cancelled, [StreamEnd::default(); 2]);
        let result = FromWorker::Result { task: first, token, outcome, result: &[], streams };
        body.push(Class::Numbered(2), &result);
    });
    digest(&mut world, &mut puppet, two + 1, 2, mark(second, later));
    assert_eq!(figures(&world), (5, 0, 0));
}

#[test]
fn sess_8_what_is_retired_while_it_runs_is_believed_there_until_its_worker_says_or_hears_otherwise() {
    let mut world = World::new(Setup { coordinator: |config| config.output_bytes_max = 10, ..Setup::default() });
    let mut puppet = puppet_worker(&mut world);
    let task = world.submit("loud", Job::takes(ms(1)));
    let [(last, _, token)] = assigned(&puppet.hear(&mut world))[..] else { panic!("no assignment") };
    puppet.say(&mut world, |body| {
        let stream = rejoin_core::wire::message::Stream::Out;
        body.push(Class::Loose, &FromWorker::Output { token, stream, offset: 0, bytes: &[1; 11] });
    });
    let heard = puppet.hear(&mut world);
    let [(number, ..)] = settled(&heard)[..] else { panic!("{heard:?}") };
    assert!(world.outcome(task).is_some());
    digest(&mut world, &mut puppet, last, 1, mark(task, token));
    digest(&mut world, &mut puppet, number, 1, 0);
    assert_eq!(figures(&world), (2, 0, 0));
}

#[test]
fn sess_8_digests_that_nobody_may_say_are_breaches() {
    type Says = fn(&mut rejoin_core::wire::message::BodyWriter<'_>);
    let breaches: [(u16, Says); 7] = [
        (1, |body| assert!(body.push(Class::Control, &Control::Digest { received: 0, sent: 1, held: 0 }))),
        (2, |body| assert!(body.push(Class::Control, &Control::Digest { received: 1, sent: 1, held: 0 }))),
        (2, |body| assert!(body.push(Class::Control, &Control::Digest { received: 0, sent: 2, held: 0 }))),
        (2, |body| assert!(body.push(Class::Control, &Control::Compare))),
        (2, |body| assert!(body.push(Class::Loose, &FromWorker::Holdings { received: 0, sent: 1, items: &[] }))),
        (2, |body| assert!(body.push(Class::Numbered(2), &FromWorker::Holdings { received: 0, sent: 1, items: &[] }))),
        (1, |body| assert!(body.push(Class::Loose, &FromWorker::Holdings { received: 0, sent: 1, items: &[] }))),
    ];
    for (place, (version, says)) in breaches.into_iter().enumerate() {
        let mut world = World::new(Setup::default());
        world.wire(0).refuses = true;
        world.reset(0);
        let mut puppet = Puppet::worker(0).with_version(version);
        puppet.enter(&mut world);
        puppet.say(&mut world, |body| {
            body.push(Class::Control, &Control::Credit(CREDIT));
            body.push(Class::Numbered(1), &FromWorker::Inventory { part: 0, last: true, cut: 0, items: &[] });
        });
        puppet.say(&mut world, says);
        assert_eq!(denied(&puppet.hear(&mut world)), Some(Denied::Protocol), "breach {place}");
    }
    for items in [&[1, 2, 3][..], &[0x11; 34]] {
        let mut world = World::new(Setup::default());
        let mut puppet = puppet_worker(&mut world);
        digest(&mut world, &mut puppet, 0, 1, 1);
        assert!(asked(&digest(&mut world, &mut puppet, 0, 1, 1)));
        puppet.say(&mut world, |body| {
            body.push(Class::Loose, &FromWorker::Holdings { received: 0, sent: 1, items });
        });
        assert_eq!(denied(&puppet.hear(&mut world)), Some(Denied::Protocol), "half an item, or one twice");
    }
    let mut world = World::new(Setup { clients: 1, ..Setup::default() });
    let mut client = Puppet::client(0).with_version(2);
    client.enter(&mut world);
    client.say(&mut world, |body| {
        body.push(Class::Control, &Control::Digest { received: 0, sent: 0, held: 0 });
    });
    assert_eq!(denied(&client.hear(&mut world)), Some(Denied::Protocol));
}

/// Up to which number a list is, and what is on it
type Listed = (u64, Vec<(TaskId, Token)>);

/// What worker 0 says of all that it holds, among what it says
fn account(heard: &[Heard]) -> (Vec<(u64, u64, u64)>, Vec<Listed>) {
    let (mut digests, mut lists) = (Vec::new(), Vec::new());
    for heard in heard {
        match heard {
            Heard::Control(Control::Digest { received, sent, held }) => digests.push((*received, *sent, *held)),
            Heard::Loose(payload) => {
                let item = Item { class: Class::Loose, ignorable: false, payload };
                if let Some(FromWorker::Holdings { received, mut items, .. }) = item.decode() {
                    let mut all = Vec::new();
                    while !items.is_empty() {
                        let (item, rest) = postcard::take_from_bytes(items).expect("a whole item");
                        all.push(item);
                        items = rest;
                    }
                    lists.push((received, all));
                }
            }
            Heard::Control(_) | Heard::Numbered(..) => {}
        }
    }
    (digests, lists)
}

#[test]
fn sess_8_a_worker_says_what_it_holds_with_each_beat_and_lists_it_when_asked() {
    let mut world = World::new(Setup {
        worker: |config| (config.slots, config.link.heartbeat) = (1, Some(secs(1))),
        ..Setup::default()
    });
    let conn = divert(&mut world);
    let mut puppet = Puppet::coordinator(0).with_version(2);
    puppet.accept(&mut world, conn, 1);
    let [runs, waits] = ["runs", "waits"].map(|name| world.plan(name, Job::takes(ms(1_500))));
    puppet.say(&mut world, |body| {
        let welcome = Welcome {
            generation: 1,
            resumed: None,
            heartbeat_us: 1_000_000,
            spread_us: 0,
            lifetime_us: 300_000_000,
            credit: CREDIT,
        };
        body.push(Class::Control, &Control::Welcome(welcome));
        for (n, task) in [(1, runs), (2, waits)] {
            let (token, attempt, priority, restores) = (Token(n), 1, 2, false);
            let payload = &[];
            body.push(Class::Numbered(n), &ToWorker::Assign { task, token, attempt, priority, restores, payload });
        }
        body.push(Class::Control, &Control::Compare);
    });
    world.run_for(ms(100));
    let both = mark(runs, Token(1)) ^ mark(waits, Token(2));
    let (digests, lists) = account(&puppet.hear(&mut world));
    assert_eq!((digests, lists), (vec![], vec![(2, vec![(runs, Token(1)), (waits, Token(2))])]));
    world.run_for(ms(1_100));
    let (digests, lists) = account(&puppet.hear(&mut world));
    assert_eq!((digests.iter().map(|d| (d.0, d.2)).collect::<Vec<_>>(), lists), (vec![(2, both)], vec![]));
    // The first has ended, and its result has been said.
    world.run_for(ms(1_000));
    let (digests, _) = account(&puppet.hear(&mut world));
    assert_eq!(digests.last().map(|d| (d.0, d.2)), Some((2, mark(waits, Token(2)))));
    puppet.say(&mut world, |body| {
        let outcome = Some(Outcome::Cancelled);
        let settlement = Settlement::Stale;
        body.push(Class::Numbered(3), &ToWorker::Settled { token: Token(2), settlement, outcome });
        body.push(Class::Control, &Control::Compare);
    });
    world.run_for(ms(100));
    let (_, lists) = account(&puppet.hear(&mut world));
    assert_eq!(lists, [(3, vec![])], "what is being stopped and nobody wants is not held");
}

#[test]
fn sess_8_nothing_differs_under_traffic_cuts_recalls_and_cancels() {
    for seed in 1..=6 {
        let mut world = connected(Setup {
            workers: 3,
            seed,
            worker: |config| (config.slots, config.prefetch, config.link.heartbeat) = (2, 2, Some(ms(50))),
            ..Setup::default()
        });
        let spec = TaskSpec { retries: 2, ..TaskSpec::default() };
        let tasks: Vec<TaskId> = (0..60)
            .map(|n| {
                let job = Job { prints: vec![1; 3_000], ..Job::takes(ms(20 + 7 * (n % 11))) };
                let job = if n % 9 == 0 { Job { prints: vec![2; 9], ..Job::fails(1) } } else { job };
                world.submit_with(&format!("task {n}"), spec, job)
            })
            .collect();
        for (n, task) in tasks.iter().enumerate() {
            world.run_for(ms(13));
            if n % 5 == 0 {
                let _ = world.tell_coordinator(Input::Cancel { task: *task });
            }
            if n % 4 == 0 {
                world.reset(n % 3);
            }
            if n % 17 == 0 {
                world.half_open(n % 3, rejoin_sim::Side::Peer);
            }
        }
        world.drive_until("all are over", |world| tasks.iter().all(|task| world.outcome(*task).is_some()));
        for peer in 0..3 {
            drive_connected(&mut world, peer);
        }
        world.run_for(secs(1));
        let (digests, mismatches, repairs) = figures(&world);
        assert!(digests > 50, "{digests}");
        assert_eq!((mismatches, repairs), (0, 0), "seed {seed}");
        world.audit();
    }
}
