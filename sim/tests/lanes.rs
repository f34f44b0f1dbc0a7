//! LANES: what goes first, and how much may be under way

mod common;

use common::{connected, ms, noise, puppet_worker, secs, to_worker};
use rejoin_core::coordinator::{Input, PeerState};
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::limits::{BULK_WINDOW_BYTES, SESSION_UNACKED_MAX};
use rejoin_core::wire::message::{Class, Control, Credit, FromWorker, Outcome, ToWorker};
use rejoin_sim::{Heard, Job, JournalMode, Puppet, Setup, World};

#[test]
fn lanes_1_urgent_messages_overtake_what_waits() {
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world, 4);
    let first = world.submit("first", Job::takes(ms(1)));
    puppet.hear(&mut world);
    world.tell_coordinator(Input::Writable { conn: puppet.conn, writable: false }).expect("never refused");
    for n in 0..3 {
        world.submit(&format!("later {n}"), Job::takes(ms(1)));
    }
    world.tell_coordinator(Input::Cancel { task: first }).expect("it is known");
    assert!(puppet.hear(&mut world).is_empty(), "nothing is sent while nothing is taken");
    world.tell_coordinator(Input::Writable { conn: puppet.conn, writable: true }).expect("never refused");
    let heard = puppet.hear(&mut world);
    let order: Vec<bool> =
        heard.iter().filter_map(to_worker).map(|(_, m)| matches!(m, ToWorker::Cancel { .. })).collect();
    assert_eq!(order, [true, false, false, false], "the cancel came last and goes first");
}

#[test]
fn lanes_1_small_things_do_not_wait_behind_bulk() {
    let mut world = connected(Setup {
        worker: |config| {
            config.slots = 2;
            config.link.compress = false;
        },
        ..Setup::default()
    });
    world.wire(0).latency = ms(50);
    let bulky = world.submit("bulky", Job::prints(&noise(8_000_000)));
    world.run_for(ms(300));
    let small = world.submit("small", Job::takes(ms(1)));
    let from = world.now();
    world.drive_until("the small one is over", |world| world.succeeded(small));
    assert!(world.now().since(from) <= ms(110), "one round trip: {:?}", world.now().since(from));
    assert_eq!(world.outcome(bulky), None);
    world.drive_until("the bulky one is over", |world| world.succeeded(bulky));
    assert_eq!(world.output(bulky), noise(8_000_000));
}

fn assigned(heard: &[Heard]) -> usize {
    heard.iter().filter_map(to_worker).filter(|(_, message)| matches!(message, ToWorker::Assign { .. })).count()
}

#[test]
fn lanes_2_task_credit_is_an_absolute_total_never_exceeded_never_lowered_and_told_by_every_beat() {
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world, 2);
    for n in 0..8 {
        world.submit(&format!("task {n}"), Job::takes(ms(1)));
    }
    assert_eq!(assigned(&puppet.hear(&mut world)), 2);
    let mut say = |world: &mut World, control: Control| {
        puppet.say(world, |body| {
            body.push(Class::Control, &control);
        });
        assigned(&puppet.hear(world))
    };
    let credit = |tasks| Credit { tasks, messages: 4096, bulk: 1 << 20 };
    assert_eq!(say(&mut world, Control::Credit(credit(2))), 0, "the same total again");
    assert_eq!(say(&mut world, Control::Credit(credit(0))), 0, "an older one");
    assert_eq!(say(&mut world, Control::Credit(credit(3))), 1);
    // The credit for 4 and 5 was lost; the next beat says 5.
    assert_eq!(say(&mut world, Control::Beat { stamp: 1, credit: credit(5) }), 2);
    assert_eq!(say(&mut world, Control::Echo { stamp: 1, credit: credit(6) }), 1);
    assert_eq!(say(&mut world, Control::Credit(credit(u64::MAX))), 2);
    world.run_for(secs(2));
    assert_eq!(world.seen(0), PeerState::Connected);
}

#[test]
fn lanes_2_unacknowledged_messages_stay_within_the_window_and_an_acknowledgement_opens_it() {
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world, 0);
    puppet.hear(&mut world);
    // Each late result is answered.
    let mut number = 1;
    let mut deliver = |world: &mut World, puppet: &mut Puppet, count: usize| {
        puppet.say(world, |body| {
            for _ in 0..count {
                number += 1;
                let (task, token, outcome) = (TaskId::from_text("unknown"), Token(99), Outcome::Succeeded);
                let result = FromWorker::Result { task, token, outcome, result: b"", streams: Default::default() };
                assert!(body.push(Class::Numbered(number), &result));
            }
        });
    };
    (0..SESSION_UNACKED_MAX / 64).for_each(|_| deliver(&mut world, &mut puppet, 64));
    deliver(&mut world, &mut puppet, 50);
    let numbered = |heard: &[Heard]| heard.iter().filter(|heard| matches!(heard, Heard::Numbered(..))).count();
    assert_eq!(numbered(&puppet.hear(&mut world)), SESSION_UNACKED_MAX);
    puppet.say(&mut world, |body| {
        body.push(Class::Control, &Control::Ack { received: 10 });
        body.push(Class::Control, &Control::Credit(Credit { tasks: 0, messages: 10 + 4096, bulk: 0 }));
    });
    assert_eq!(numbered(&puppet.hear(&mut world)), 10);
    puppet.say(&mut world, |body| {
        body.push(Class::Control, &Control::Ack { received: 4106 });
        body.push(Class::Control, &Control::Credit(Credit { tasks: 0, messages: 4120, bulk: 0 }));
    });
    assert_eq!(numbered(&puppet.hear(&mut world)), 14, "never beyond what the peer grants");
}

#[test]
fn lanes_2_bulk_stays_within_its_window_until_it_is_durable() {
    let mut world = connected(Setup { worker: |config| config.link.compress = false, ..Setup::default() });
    let task = world.submit("bulky", Job::prints(&noise(3_000_000)));
    world.run_for(ms(3));
    world.journal.mode = JournalMode::Syncs(secs(10));
    world.run_for(secs(9));
    let sent = world.worker(0).stats().bytes_out;
    assert!(sent > BULK_WINDOW_BYTES / 2 && sent < BULK_WINDOW_BYTES + 20_000, "{sent}");
    assert_eq!(world.dials(0), 1, "heartbeats went on");
    world.drive_until("it is over", |world| world.succeeded(task));
    assert_eq!(world.output(task), noise(3_000_000));
}

#[test]
fn lanes_2_a_worker_never_holds_more_than_it_granted() {
    let mut world = connected(Setup {
        workers: 2,
        worker: |config| {
            config.slots = 2;
            config.prefetch = 1;
        },
        ..Setup::default()
    });
    let tasks: Vec<_> = (0..40).map(|n| world.submit(&format!("task {n}"), Job::takes(ms(7)))).collect();
    while !tasks.iter().all(|task| world.succeeded(*task)) {
        assert!(world.step());
        for peer in world.coordinator.peers() {
            assert!(peer.held <= 3, "{} has {}", peer.name, peer.held);
        }
    }
    world.audit();
}
