//! LIVE and BACK: finding out that a link is dead, and coming back

mod common;

use std::collections::BTreeSet;

use common::{connected, divert, ms, puppet_worker, secs, welcomed};
use rejoin_core::about::About;
use rejoin_core::coordinator::{self, Event, PeerState};
use rejoin_core::ids::TaskId;
use rejoin_core::link::{LinkState, Reason};
use rejoin_core::terms::{Class, Replace, Terms};
use rejoin_core::wire::message::{Class as ItemClass, Control, Outcome, TaskSpec};
use rejoin_core::worker;
use rejoin_sim::{Heard, Job, Puppet, Setup, Side, World, worker_key};

#[test]
fn live_1_the_period_follows_the_fleet_and_a_peer_may_ask_for_less() {
    let told = |setup: Setup| {
        let mut world = World::new(setup);
        world.wire(0).refuses = true;
        world.reset(0);
        welcomed(&Puppet::worker(0).enter(&mut world)).map(|welcome| welcome.heartbeat_us / 1000)
    };
    assert_eq!(told(Setup::default()), Some(5_000));
    let fleet = |config: &mut rejoin_core::coordinator::Config| config.keys.extend((1..4000).map(worker_key));
    assert_eq!(told(Setup { coordinator: fleet, ..Setup::default() }), Some(10_000));
    let fleet = |config: &mut rejoin_core::coordinator::Config| config.keys.extend((1..20_000).map(worker_key));
    assert_eq!(told(Setup { coordinator: fleet, ..Setup::default() }), Some(40_000));
    for (wish, beats) in [(None, 180..=220), (Some(ms(500)), 1800..=2200), (Some(secs(40)), 180..=220)] {
        let mut world = connected(Setup {
            worker: match wish {
                None => |_| {},
                Some(wish) if wish == secs(40) => |config| config.link.heartbeat = Some(secs(40)),
                Some(_) => |config| config.link.heartbeat = Some(ms(500)),
            },
            ..Setup::default()
        });
        let before = world.worker(0).stats().frames_out;
        world.run_for(secs(1000));
        let sent = world.worker(0).stats().frames_out - before;
        assert!(beats.contains(&sent), "{sent} beats in 1,000 s");
        assert_eq!(world.worker(0).stats().rtt_us, Some(2000), "the echo gives the round trip");
        assert_eq!(world.dials(0), 1);
    }
}

#[test]
fn live_2_an_idle_half_open_link_is_found_by_both_ends_within_three_periods_and_costs_one_reconnection() {
    let deaf: [&[Side]; 3] = [&[Side::Peer], &[Side::Coordinator], &[Side::Peer, Side::Coordinator]];
    for sides in deaf {
        for phase in 0..30 {
            let mut world =
                connected(Setup { coordinator: |config| config.heartbeat = Some(secs(1)), ..Setup::default() });
            world.run_for(secs(3) + ms(phase * 67));
            let (cut, conn) = (world.now(), world.connection(0));
            for side in sides {
                world.half_open(0, *side);
            }
            world.drive_until("the worker gives up", |world| world.connection(0) != conn);
            assert!(world.now().since(cut) <= secs(3), "worker, {sides:?}, phase {phase}");
            let gone = |world: &World| world.events.iter().any(|event| matches!(event, Event::Disconnected { .. }));
            world.drive_until("the coordinator gives up", |world| gone(world));
            assert!(world.now().since(cut) <= secs(3), "coordinator, {sides:?}, phase {phase}");
            world.run_for(secs(120));
            assert_eq!((world.dials(0), world.worker(0).stats().resumed), (2, 1), "{sides:?}, phase {phase}");
            assert_eq!((world.state(0), world.seen(0)), (LinkState::Connected, PeerState::Connected));
        }
    }
}

#[test]
fn live_2_what_this_end_sends_is_no_life() {
    let mut world = connected(Setup { coordinator: |config| config.heartbeat = Some(secs(1)), ..Setup::default() });
    world.submit("prints and prints", Job { prints: vec![1; 500_000], ..Job::takes(secs(2)) });
    world.run_for(ms(20));
    world.half_open(0, Side::Peer);
    let cut = world.now();
    world.drive_until("the worker gives up", |world| world.leaves.contains(&(0, Reason::Silence)));
    assert!(world.now().since(cut) <= secs(3));
}

#[test]
fn live_2_an_unfinished_frame_puts_the_verdict_off_twice_at_most() {
    let mut world = connected(Setup { coordinator: |config| config.heartbeat = Some(secs(1)), ..Setup::default() });
    world.run_for(secs(2));
    world.half_open(0, Side::Peer);
    world.half_open(0, Side::Coordinator);
    let cut = world.now();
    let conn = world.connection(0);
    while world.connection(0) == conn {
        world.run_for(ms(100));
        world.tell_worker(0, worker::Input::Arriving { attempt: 1 }).expect("never refused");
        assert!(world.now().since(cut) < secs(8), "for ever is too long");
    }
    assert!(world.now().since(cut) >= secs(2));
}

#[test]
fn live_2_only_connections_that_are_silent_for_too_long_are_asked_for_unfinished_messages() {
    let coordinator = |config: &mut coordinator::Config| config.heartbeat = Some(secs(1));
    let mut world = connected(Setup { workers: 20, coordinator, ..Setup::default() });
    world.run_for(secs(5));
    let conn = world.connection(3).expect("it is connected");
    world.half_open(3, Side::Coordinator);
    let mut asked = BTreeSet::new();
    while !world.closes.contains_key(&conn) {
        // What an embedder asks in front of each timeout: many of these are about others.
        asked.extend(world.coordinator.due(world.now() + ms(10)));
        world.run_for(ms(10));
    }
    assert_eq!(asked.into_iter().collect::<Vec<_>>(), [conn]);
    assert_eq!(world.closes.get(&conn), Some(&Reason::Silence));
}

#[test]
fn live_1_the_accepting_end_probes_before_it_gives_up() {
    let mut world = World::new(Setup { coordinator: |config| config.heartbeat = Some(secs(1)), ..Setup::default() });
    let mut puppet = puppet_worker(&mut world, 0);
    puppet.hear(&mut world);
    world.run_for(ms(1499));
    assert!(!puppet.hear(&mut world).iter().any(|heard| matches!(heard, Heard::Control(Control::Beat { .. }))));
    world.run_for(ms(1));
    assert!(puppet.hear(&mut world).iter().any(|heard| matches!(heard, Heard::Control(Control::Beat { .. }))));
    world.run_for(ms(999));
    assert_eq!(world.closes.get(&puppet.conn), None);
    world.run_for(ms(1));
    assert_eq!(world.closes.get(&puppet.conn), Some(&Reason::Silence));
}

#[test]
fn live_3_a_suspected_worker_is_asked_gets_nothing_new_and_loses_nothing() {
    let mut world = connected(Setup { coordinator: |config| config.heartbeat = Some(secs(1)), ..Setup::default() });
    world.run_for(secs(60));
    let law = world.coordinator.peers().next().and_then(|peer| peer.laws).expect("connected").suspect_after_us;
    assert_eq!(law, 1_250_000, "its heartbeats come regularly");
    // The next ones come late, and not too late.
    world.wire(0).latency = ms(700);
    world.drive_until("it is suspected", |world| world.seen(0) == PeerState::Suspect);
    world.submit("waits", Job::takes(ms(10)));
    assert!(world.worker(0).held() == 0 && world.coordinator.stats().assigned == 0);
    world.drive_until("it is heard", |world| world.seen(0) != PeerState::Suspect);
    assert_eq!(world.coordinator.stats().assigned, 1);
    world.run_for(secs(20));
    assert!(world.succeeded(TaskId::from_text("waits")));
    assert_eq!((world.dials(0), world.coordinator.stats().silences), (1, 0));
}

#[test]
fn live_5_a_worker_that_overslept_asks_freezes_what_is_exclusive_and_keeps_its_link() {
    for (asleep, frozen) in [(5, vec![true, false]), (29, vec![true, false]), (60, vec![])] {
        let mut world = connected(Setup { coordinator: |config| config.heartbeat = Some(secs(1)), ..Setup::default() });
        let about = About { terms: Terms { class: Class::Exclusive, ..Terms::default() }, ..About::default() };
        let about = about.encode().expect("not too long");
        let task = world.plan("alone", Job::takes(secs(100)));
        let submit = coordinator::Input::Submit { task, spec: TaskSpec::default(), about: &about, payload: &[] };
        world.tell_coordinator(submit).expect("the submit is legal");
        world.run_for(secs(3));
        assert_eq!(world.starts.len(), 1);
        world.oversleeps(0, secs(asleep));
        world.run_for(ms(20));
        let seen: Vec<_> = world.frozen.iter().map(|(_, frozen)| *frozen).collect();
        // Beyond the lease there is nothing to wait for: it is stopped.
        assert_eq!(seen, frozen, "after {asleep} s");
        assert_eq!(world.worker(0).stats().stalls, 1);
        world.run_for(secs(asleep + 10));
        assert_eq!((world.dials(0), world.worker(0).stats().silences), (1, 0), "after {asleep} s");
    }
}

#[test]
fn live_5_a_coordinator_that_overslept_declares_nobody_dead_or_lost_for_that_time() {
    let mut world = connected(Setup {
        workers: 3,
        coordinator: |config| (config.heartbeat, config.lost_after) = (Some(secs(1)), secs(60)),
        ..Setup::default()
    });
    world.run_for(secs(10));
    world.wire(2).refuses = true;
    world.reset(2);
    world.run_for(secs(10));
    let lost = |world: &World| world.events.iter().filter(|event| matches!(event, Event::Lost { .. })).count();
    let slept_at = world.now();
    world.coordinator_oversleeps(secs(300));
    world.run_for(secs(5));
    assert_eq!((lost(&world), world.coordinator.stats().silences), (0, 0));
    assert_eq!([0, 1, 2].map(|n| world.seen(n)), [PeerState::Connected, PeerState::Connected, PeerState::Disconnected]);
    assert_eq!((world.dials(0), world.dials(1)), (1, 1));
    // What was left is left.
    world.drive_until("it is lost", |world| lost(world) > 0);
    let after = world.now().since(slept_at);
    assert!(after > secs(300 + 45) && after < secs(300 + 55), "{after:?}");
}

// BACK

#[test]
fn back_1_the_first_retry_is_immediate_in_a_small_fleet_and_after_silence_in_any() {
    let mut world = connected(Setup::default());
    world.run_for(secs(60));
    for _ in 0..3 {
        let (cut, dials) = (world.now(), world.dials(0));
        world.reset(0);
        world.drive_until("it dials", |world| world.dials(0) > dials);
        assert_eq!(world.now(), cut);
        world.run_for(secs(60));
    }
}

#[test]
fn back_1_in_a_large_fleet_the_first_retry_after_a_reset_is_spread_and_after_silence_it_is_not() {
    let mut pauses = BTreeSet::new();
    for seed in 0..40 {
        let mut world = connected(Setup {
            seed,
            coordinator: |config| {
                config.keys.extend((1..1010).map(worker_key));
                config.admission.burst = 10;
                config.admission.rate = 100;
                config.heartbeat = Some(secs(1));
            },
            ..Setup::default()
        });
        world.run_for(secs(60));
        let cut = world.now();
        world.reset(0);
        world.drive_until("it dials", |world| world.dials(0) == 2);
        let pause = world.now().since(cut);
        assert!(pause <= secs(10), "1,000 beyond the burst at 100 a second: {pause:?}");
        pauses.insert(pause.as_millis() / 1000);
        world.run_for(secs(60));
        world.half_open(0, Side::Peer);
        world.drive_until("it gives up", |world| world.leaves.contains(&(0, Reason::Silence)));
        assert_eq!(world.dials(0), 3, "at once");
    }
    assert!(pauses.len() >= 8, "over the whole spread: {pauses:?}");
}

#[test]
fn back_1_pauses_grow_to_the_cap_and_later_to_the_late_cap_and_only_a_stable_session_resets_them() {
    let mut world = connected(Setup::default());
    world.run_for(secs(60));
    world.wire(0).refuses = true;
    world.reset(0);
    let cut = world.now();
    let (mut last, mut longest, mut early) = (cut, secs(0), 0);
    while world.now().since(cut) < secs(7200) {
        let dials = world.dials(0);
        world.drive_until("another dial", |world| world.dials(0) > dials);
        let pause = world.now().since(last);
        let late = world.now().since(cut) > secs(600) + pause;
        assert!(pause <= secs(if late { 120 } else { 30 }) + ms(2), "{pause:?}");
        longest = longest.max(pause);
        early += u32::from(!late);
        last = world.now();
    }
    assert!(longest > secs(45) && early > 20);
    world.wire(0).refuses = false;
    common::drive_connected(&mut world, 0);
    for stable in [false, true] {
        let dials = world.dials(0);
        world.run_for(secs(if stable { 31 } else { 10 }));
        world.reset(0);
        world.run_for(ms(0));
        assert_eq!(world.dials(0) > dials, stable, "only 30 s are stable");
        common::drive_connected(&mut world, 0);
    }
}

#[test]
fn back_4_endpoints_are_tried_in_turn_at_once_and_the_one_that_worked_is_dialled_again() {
    let endpoints = |config: &mut rejoin_core::worker::Config| {
        config.link.endpoints = ["ws://a", "ws://b", "ws://c"].map(String::from).into();
    };
    let mut world = connected(Setup { worker: endpoints, ..Setup::default() });
    world.run_for(secs(60));
    world.wire(0).only = Some(2);
    world.reset(0);
    let cut = world.now();
    common::drive_connected(&mut world, 0);
    assert_eq!(world.dialled[1..], [(0, 0), (0, 1), (0, 2)]);
    assert!(world.now().since(cut) < ms(20), "no pause between endpoints");
    world.run_for(secs(60));
    world.reset(0);
    common::drive_connected(&mut world, 0);
    assert_eq!(world.dialled[4..], [(0, 2)], "what worked is tried first");
    // All of them fail: each has its turn, and only then there is a pause.
    world.wire(0).only = Some(9);
    world.reset(0);
    let mut times = Vec::new();
    for dial in 6..13 {
        world.drive_until("another dial", |world| world.dials(0) >= dial);
        times.push(world.now());
    }
    assert_eq!(world.dialled[5..].iter().map(|(_, endpoint)| *endpoint).collect::<Vec<_>>(), [2, 0, 1, 2, 0, 1, 2]);
    let pause = |n: usize| times[n + 1].since(times[n]);
    assert!([0, 1, 3, 4].map(pause).iter().all(|pause| *pause <= ms(2)), "{times:?}");
    assert!([2, 5].map(pause).iter().all(|pause| *pause >= ms(50)), "{times:?}");
}

#[test]
fn back_2_a_herd_is_let_in_at_the_rate_and_nobody_starves() {
    let mut world = World::new(Setup {
        workers: 40,
        coordinator: |config| {
            config.admission.rate = 10;
            config.admission.burst = 10;
            config.session_lifetime = secs(0);
        },
        ..Setup::default()
    });
    let from = world.now();
    world.drive_until("all are in", |world| (0..40).all(|peer| world.state(peer) == LinkState::Connected));
    let took = world.now().since(from);
    assert!(took >= secs(2) && took < secs(60), "{took:?}");
    let stats = world.coordinator.stats();
    assert_eq!(stats.opened, 40);
    assert!(stats.turned_away + stats.failed_handshakes > 0);
}

#[test]
fn back_3_each_peer_comes_back_in_its_own_slot_and_a_planned_restart_costs_nothing() {
    let mut world = connected(Setup {
        workers: 3,
        clients: 1,
        coordinator: |config| {
            config.lost_after = secs(5);
            config.admission.rate = 2;
        },
        worker: |config| config.slots = 2,
        ..Setup::default()
    });
    let tasks: Vec<_> = (0..6).map(|n| world.submit(&format!("task {n}"), Job::takes(secs(3)))).collect();
    world.run_for(secs(1));
    assert_eq!(world.starts.len(), 6);
    let (told, dials) = (world.now(), world.dialled.len());
    world.tell_coordinator(coordinator::Input::GoAway { back_in: secs(2) }).expect("an end is never refused");
    world.run_for(ms(10));
    let reasons: Vec<_> = world.leaves.iter().map(|(_, reason)| *reason).collect();
    assert_eq!(reasons, [Reason::GoingAway; 4]);
    assert!((0..3).all(|n| world.worker(n).stats().sent_away == 1));
    world.restart_coordinator();
    for n in 0..4 {
        world.drive_until("the next one dials", |world| world.dialled.len() > dials + n);
        // Half a second apart, workers first, give or take a tenth.
        let slot = secs(2) + ms(500) * (n as u32 + 1);
        let pause = world.now().since(told);
        assert!(pause >= slot * 9 / 10 && pause <= slot * 11 / 10 + ms(10), "number {n} after {pause:?}");
    }
    world.run_for(secs(10));
    assert_eq!((world.dialled.len(), world.starts.len()), (dials + 4, 6), "one dial each, and no execution more");
    for task in tasks {
        let task = world.coordinator.task(task).expect("known");
        assert_eq!((task.attempts, task.end.expect("over").outcome), (1, Outcome::Succeeded));
    }
    assert!(!world.events.iter().any(|event| matches!(event, Event::Lost { .. })));
}

#[test]
fn back_3_whoever_goes_away_lets_nobody_in_and_declares_nobody_lost() {
    let mut world = connected(Setup {
        workers: 2,
        coordinator: |config| config.lost_after = ms(500),
        worker: |config| config.link.wire_version = 1,
        ..Setup::default()
    });
    let about = About { terms: Terms { replace: Replace::Never, ..Terms::default() }, ..About::default() };
    let about = about.encode().expect("not too long");
    let task = world.plan("never again", Job::takes(secs(3)));
    let submit = coordinator::Input::Submit { task, spec: TaskSpec::default(), about: &about, payload: &[] };
    world.tell_coordinator(submit).expect("the submit is legal");
    world.run_for(secs(1));
    world.tell_coordinator(coordinator::Input::GoAway { back_in: secs(1) }).expect("an end is never refused");
    world.run_for(secs(60));
    // They speak version 1, which has no word for it.
    assert!(world.closes.values().all(|reason| *reason == Reason::Stopping));
    assert_eq!((world.worker(0).stats().sent_away, world.worker(0).stats().connections), (0, 1));
    assert_eq!(world.seen(0), PeerState::Disconnected);
    assert!(world.coordinator.task(task).expect("known").end.is_none());
}

#[test]
fn back_3_a_slot_is_told_under_seal_only_and_not_to_version_1() {
    for (version, ends) in [(1, Reason::Protocol), (2, Reason::GoingAway)] {
        let mut world = World::new(Setup::default());
        let conn = divert(&mut world);
        let mut puppet = Puppet::coordinator(0).with_version(version);
        puppet.accept(&mut world, conn, 1);
        puppet.say(&mut world, |body| {
            body.push(ItemClass::Control, &Control::GoAway { slot_us: 3_000_000 });
        });
        let said = world.now();
        world.run_for(ms(10));
        assert_eq!(world.leaves.last(), Some(&(0, ends)), "version {version}");
        if version == 2 {
            let dials = world.dials(0);
            world.drive_until("it dials", |world| world.dials(0) > dials);
            assert!(world.now().since(said) >= secs(3) && world.now().since(said) < secs(3) + ms(10));
        }
    }
}
