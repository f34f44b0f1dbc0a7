//! AUTH: who is who, and what it takes to believe it

mod common;

use common::{connected, denied, divert, drive_connected, entries, ms, secs, welcomed};
use rejoin_core::binding::{Binding, TLS_EXPORTER};
use rejoin_core::coordinator::{Address, AdmissionConfig, Contention, Event, Input, PeerState};
use rejoin_core::ids::Role;
use rejoin_core::limits::{HANDSHAKE_TIME, PROBE_TIME, PROOF_TIME};
use rejoin_core::link::{LinkState, Reason};
use rejoin_core::wire::handshake::{Challenge, Hello, Refusal, RejectCode, append_mac};
use rejoin_core::wire::message::{Class, Control, Credit, Denied};
use rejoin_core::{Loss, Rejected};
use rejoin_sim::{Job, Puppet, Setup, Side, World, worker_key};

// AUTH-1

#[test]
fn auth_1_a_flipped_bit_in_any_byte_of_any_handshake_message_is_refused() {
    // M1, M2, M3 and M4: where each arrives, and as which message there; of a first handshake and of a resuming one.
    let messages = [(Side::Coordinator, 0), (Side::Peer, 0), (Side::Coordinator, 1), (Side::Peer, 1)];
    for (resumes, (at, count)) in [false, true].into_iter().flat_map(|r| messages.map(|message| (r, message))) {
        let m4 = (at, count) == (Side::Peer, 1);
        for byte in 0.. {
            let mut world = World::new(Setup::default());
            if resumes {
                drive_connected(&mut world, 0);
                world.run_for(ms(5));
                world.reset(0);
            }
            let before = (world.arrivals(0, at), entries(&world), world.worker(0).stats());
            world.tap = Some(Vec::new());
            assert!(world.drive_to_arrival(0, at, before.0 + count));
            world.corrupt_bit(0, at, byte * 8 + byte % 8);
            assert!(world.drive_to_arrival(0, at, before.0 + count + 1));
            let taps = world.tap.take().unwrap_or_default();
            let len = taps.iter().rfind(|tap| tap.at == at).map_or(0, |tap| tap.bytes.len());
            drive_connected(&mut world, 0);
            let stats = world.worker(0).stats();
            assert_eq!(stats.dials, before.2.dials + if resumes { 2 } else { 1 }, "byte {byte} of message {count}");
            // What a lost M4 would have welcomed to is resumed, because the coordinator has it.
            assert_eq!(entries(&world) - before.1, if m4 { 2 } else { 1 }, "only the second handshake leads in");
            assert_eq!(stats.resumed, u64::from(resumes || m4));
            assert_eq!((stats.bad_tags, world.coordinator.stats().opened), (u64::from(m4), 1));
            if byte + 1 == len {
                break;
            }
        }
    }
}

#[test]
fn auth_1_a_replayed_handshake_leads_nowhere() {
    let mut world = World::new(Setup::default());
    world.tap = Some(Vec::new());
    drive_connected(&mut world, 0);
    let task = world.submit("once", Job::takes(ms(1)));
    world.drive_until("it is over", |world| world.succeeded(task));
    let taps = world.tap.take().unwrap_or_default();
    let said: Vec<_> = taps.iter().filter(|tap| tap.at == Side::Coordinator).map(|tap| tap.bytes.clone()).collect();
    let answered = taps.iter().find(|tap| tap.at == Side::Peer).map(|tap| tap.bytes.clone());
    for worker_is_there in [true, false] {
        if !worker_is_there {
            world.wire(0).refuses = true;
            world.reset(0);
            world.run_for(secs(1));
        }
        let before = world.coordinator.stats();
        let conn = world.stranger().expect("let in");
        world.say(conn, &said[0]);
        let challenge = world.hear(conn).pop();
        assert!(challenge.is_some() && challenge != answered, "another nonce, so another challenge");
        for message in &said[1..] {
            world.say(conn, message);
        }
        world.hear(conn);
        assert_eq!(world.closes.get(&conn), Some(&Reason::NotAuthenticated));
        let after = world.coordinator.stats();
        assert_eq!((after.opened, after.resumed, after.takeovers), (before.opened, before.resumed, before.takeovers));
        assert_eq!(world.state(0) == LinkState::Connected, worker_is_there);
    }
    assert_eq!(world.journal.ends(task).len(), 1);
}

#[test]
fn auth_1_a_replayed_challenge_convinces_no_worker() {
    let mut world = World::new(Setup::default());
    world.tap = Some(Vec::new());
    drive_connected(&mut world, 0);
    let taps = world.tap.take().unwrap_or_default();
    let answers: Vec<_> = taps.iter().filter(|tap| tap.at == Side::Peer).map(|tap| tap.bytes.clone()).collect();
    let conn = divert(&mut world);
    assert_eq!(world.hear(conn).len(), 1, "an M1");
    for answer in &answers {
        world.say(conn, answer);
    }
    assert_eq!(world.leaves.last(), Some(&(0, Reason::NotAuthenticated)));
    world.run_for(ms(5));
    assert!(world.hear(conn).is_empty(), "no proof for somebody who proved nothing");
}

#[test]
fn auth_1_a_coordinator_without_the_key_gets_no_proof() {
    let mut world = World::new(Setup::default());
    let conn = divert(&mut world);
    let mut impostor = Puppet::coordinator(0).with_secret([3; 32]);
    impostor.accept(&mut world, conn, 1);
    assert!(!impostor.has_proof());
    assert_eq!(world.leaves.last(), Some(&(0, Reason::NotAuthenticated)));
}

#[test]
fn auth_1_reflected_messages_are_refused() {
    // M1 back to the worker as M2.
    let mut world = World::new(Setup::default());
    let conn = divert(&mut world);
    let m1 = world.hear(conn).pop().expect("an M1");
    world.say(conn, &m1);
    assert_eq!(world.leaves.last(), Some(&(0, Reason::NotAuthenticated)));
    // The coordinator's own proof back to it as the worker's.
    let mut world = World::new(Setup::default());
    let mut puppet = Puppet::worker(0);
    puppet.greet(&mut world);
    let m2 = world.hear(puppet.conn).pop().expect("a challenge");
    let mac: [u8; 32] = m2[m2.len() - 32..].try_into().expect("32 bytes");
    let mut m3 = vec![0; 64];
    let len = rejoin_core::wire::handshake::Proof { resume: None }.encode(&mut m3);
    let len = append_mac(&mut m3, len, &mac);
    world.say(puppet.conn, &m3[..len]);
    world.hear(puppet.conn);
    assert_eq!(world.closes.get(&puppet.conn), Some(&Reason::NotAuthenticated));
    // A sealed frame back to who sealed it.
    let mut puppet = Puppet::worker(0);
    puppet.greet(&mut world);
    puppet.challenged(&mut world);
    puppet.prove(&mut world);
    let welcome = world.hear(puppet.conn).pop().expect("a welcome");
    world.say(puppet.conn, &welcome);
    world.hear(puppet.conn);
    assert_eq!(world.closes.get(&puppet.conn), Some(&Reason::BadTag));
}

// AUTH-2

#[test]
fn auth_2_three_failed_handshakes_lead_to_the_slow_lane_and_a_welcome_leads_out() {
    let mut world = World::new(Setup::default());
    for failures in 1..=6u64 {
        world.corrupt_next(0, Side::Peer);
        world.drive_until("another handshake failed", |world| world.worker(0).stats().failed_handshakes == failures);
        assert_eq!(world.worker(0).is_slow(), failures >= 3);
        assert_ne!(world.state(0), LinkState::Stopped);
        if failures >= 3 {
            let (failed_at, dials) = (world.now(), world.dials(0));
            world.drive_until("it dials again", |world| world.dials(0) > dials);
            let pause = world.now().since(failed_at);
            assert!(pause >= secs(30) && pause <= secs(300), "{pause:?}");
        }
    }
    drive_connected(&mut world, 0);
    assert!(!world.worker(0).is_slow());
}

#[test]
fn auth_2_a_client_has_a_slow_lane_as_well() {
    let mut world = World::new(Setup { clients: 1, ..Setup::default() });
    let client = world.client_peer(0);
    for failures in 1..=3u64 {
        assert!(!world.client(0).is_slow());
        world.corrupt_next(client, Side::Peer);
        world.drive_until("another handshake failed", |world| world.client(0).stats().failed_handshakes == failures);
    }
    assert!(world.client(0).is_slow());
    let from = world.now();
    drive_connected(&mut world, client);
    assert!(!world.client(0).is_slow() && world.now().since(from) >= secs(30));
}

#[test]
fn auth_2_nothing_unauthenticated_stops_a_worker() {
    let mut answers = vec![b"".to_vec(), b"garbage".to_vec(), vec![0xff; 70_000]];
    let refusals = [
        Refusal::RetryAfter(u64::MAX),
        Refusal::RetryAfter(0),
        Refusal::Reject(RejectCode::Malformed),
        Refusal::Reject(RejectCode::UnknownKey),
        Refusal::Reject(RejectCode::Version),
        Refusal::Reject(RejectCode::Unbound),
        Refusal::Reject(RejectCode::Audience),
    ];
    for refusal in refusals {
        let mut bytes = vec![0; 32];
        let len = refusal.encode(&mut bytes);
        answers.push(bytes[..len].to_vec());
    }
    for answer in answers {
        let mut world = World::new(Setup::default());
        world.wire(0).refuses = true;
        world.reset(0);
        world.run_for(ms(10));
        *world.wire(0) = rejoin_sim::Wire { diverted: true, ..Default::default() };
        for _ in 0..5 {
            world.drive_until("it dials and greets", |world| world.state(0) == LinkState::Greeting);
            world.run_for(ms(2));
            let conn = world.connection(0).expect("connected to nobody in particular");
            world.say(conn, &answer);
            assert_eq!(world.state(0), LinkState::Waiting, "{answer:?} may delay");
            let (from, dials) = (world.now(), world.dials(0));
            world.drive_until("it dials again", |world| world.dials(0) > dials);
            assert!(world.now().since(from) <= secs(301), "five minutes at most");
        }
        world.wire(0).diverted = false;
        world.reset(0);
        drive_connected(&mut world, 0);
    }
}

#[test]
fn auth_2_only_a_sealed_final_denial_stops_a_worker_and_busy_comes_back() {
    let all = [
        (Denied::Revoked, true),
        (Denied::Removed, true),
        (Denied::TakenOver, true),
        (Denied::Version, true),
        (Denied::Config, true),
        (Denied::Spent, true),
        (Denied::Busy { retry_after_us: 7_000_000 }, false),
        (Denied::Busy { retry_after_us: u64::MAX }, false),
        (Denied::Protocol, false),
    ];
    for (why, is_final) in all {
        let (mut world, mut puppet) = diverted();
        puppet.say(&mut world, |body| {
            body.push(Class::Control, &Control::Denied(why));
        });
        assert_eq!(world.leaves.last(), Some(&(0, Reason::Denied(why))));
        assert_eq!(world.state(0) == LinkState::Stopped, is_final, "{why:?}");
        assert_eq!(world.worker(0).stopped().is_some(), is_final);
        assert_eq!(world.worker(0).is_slow(), why == Denied::Protocol);
        assert_eq!(Reason::Denied(why).close_code() >= 4500, is_final);
        let (dials, from) = (world.dials(0), world.now());
        if is_final {
            world.run_for(secs(3600));
            assert_eq!(world.dials(0), dials, "for good");
        } else {
            world.drive_until("it dials again", |world| world.dials(0) > dials);
            let floor = if let Denied::Busy { retry_after_us: 7_000_000 } = why { secs(7) } else { secs(30) };
            let pause = world.now().since(from);
            assert!(pause >= floor && pause <= secs(300), "{pause:?}");
        }
    }
}

/// A worker that has proved itself to a puppet coordinator
fn diverted() -> (World, Puppet) {
    let mut world = World::new(Setup::default());
    let conn = divert(&mut world);
    let mut puppet = Puppet::coordinator(0);
    puppet.accept(&mut world, conn, 1);
    assert_eq!(world.state(0), LinkState::Proving);
    (world, puppet)
}

#[test]
fn auth_2_bad_tags_on_an_established_session_are_cuts_like_any_other() {
    let mut world = connected(Setup { worker: |config| config.link.heartbeat = Some(ms(200)), ..Setup::default() });
    for round in 1..=5 {
        world.corrupt_next(0, if round % 2 == 0 { Side::Peer } else { Side::Coordinator });
        world.drive_until("the session went on", |world| world.worker(0).stats().resumed == round);
        assert!(!world.worker(0).is_slow());
    }
    assert_eq!(world.coordinator.stats().opened, 1);
}

// AUTH-3

#[test]
fn auth_3_data_rides_right_behind_m3() {
    let mut world = connected(Setup::default());
    let task = world.submit("ends while cut", Job::takes(ms(10)));
    world.run_for(ms(5));
    world.wire(0).refuses = true;
    world.reset(0);
    world.run_for(ms(50));
    assert_eq!(world.outcome(task), None);
    *world.wire(0) = rejoin_sim::Wire { latency: ms(100), ..Default::default() };
    world.drive_until("the transport opens", |world| world.state(0) == LinkState::Greeting);
    let opened = world.now();
    world.drive_until("it is over", |world| world.succeeded(task));
    // M1 there, M2 back, M3 and the result there: no round trip for the welcome.
    assert_eq!(world.now().since(opened), ms(300));
    assert_eq!(world.state(0), LinkState::Proving, "the welcome is still on its way");
    drive_connected(&mut world, 0);
    world.audit();
}

#[test]
fn auth_3_frames_behind_m3_are_dropped_when_the_session_went_between_m2_and_m3_and_nothing_is_lost_or_doubled() {
    let mut world = connected(Setup {
        worker: |config| config.slots = 3,
        coordinator: |config| config.session_lifetime = ms(400),
        ..Setup::default()
    });
    let over = world.submit("ends while cut", Job { returns: b"r".to_vec(), ..Job::prints(&[5; 40_000]) });
    let running = world.submit("still runs", Job::takes(secs(3)));
    world.run_for(ms(4));
    assert_eq!(world.executions(over) + world.executions(running), 2);
    world.wire(0).latency = ms(100);
    world.reset(0);
    world.drive_until("M3 is on its way", |world| world.state(0) == LinkState::Proving);
    let stats = world.coordinator.stats();
    assert_eq!((stats.resumed, stats.opened), (0, 1), "M2 said that the session is open");
    drive_connected(&mut world, 0);
    let stats = world.coordinator.stats();
    assert_eq!((stats.resumed, stats.opened), (0, 2), "and it was not any more when M3 came");
    assert_eq!((stats.violations, world.worker(0).stats().violations), (0, 0));
    world.drive_until("both are over", |world| world.succeeded(over) && world.succeeded(running));
    assert_eq!(world.output(over), [5; 40_000]);
    assert_eq!((world.executions(over), world.executions(running)), (1, 1));
    world.audit();
}

#[test]
fn auth_3_frames_behind_a_false_m3_are_never_read() {
    let mut world = World::new(Setup::default());
    let mut liar = Puppet::worker(0).with_secret([1; 32]);
    liar.conn = world.stranger().expect("let in");
    let hello = liar.hello();
    let mut bytes = vec![0; 1024];
    let len = hello.encode(&mut bytes);
    world.say(liar.conn, &bytes[..len]);
    let mut m3 = vec![0; 64];
    let len = rejoin_core::wire::handshake::Proof { resume: None }.encode(&mut m3);
    let len = append_mac(&mut m3, len, &[0; 32]);
    world.say(liar.conn, &m3[..len]);
    for _ in 0..100 {
        world.say(liar.conn, &[7; 60_000]);
    }
    let stats = world.coordinator.stats();
    assert_eq!((stats.failed_handshakes, stats.frames_in, stats.bad_tags), (1, 0, 0));
}

// AUTH-4

#[test]
fn auth_4_a_half_open_connection_is_taken_over_at_once() {
    let mut world = connected(Setup::default());
    let task = world.submit("long", Job::takes(secs(20)));
    world.run_for(ms(10));
    world.reset_seen_by(0, Side::Peer);
    let cut = world.now();
    world.drive_until("it is back", |world| world.worker(0).stats().resumed == 1);
    // Open, M1, M2, M3, M4, a millisecond each way: no probe, no waiting for a timeout.
    assert_eq!(world.now().since(cut), ms(6));
    assert_eq!(world.coordinator.stats().takeovers, 1);
    assert!(world.closes.values().any(|reason| *reason == Reason::Superseded));
    world.drive_until("it is over", |world| world.succeeded(task));
    assert_eq!(world.executions(task), 1);
}

#[test]
fn auth_4_another_incarnation_is_told_busy_while_the_first_one_answers() {
    let mut world = connected(Setup::default());
    let mut clone = Puppet::worker(0);
    clone.greet(&mut world);
    assert_eq!(clone.challenged(&mut world), None);
    clone.prove(&mut world);
    let from = world.now();
    let mut heard = Vec::new();
    world.drive_until("it is answered", |world| {
        heard.extend(clone.hear(world));
        !heard.is_empty()
    });
    assert!(world.now().since(from) <= ms(3), "one round trip of the probe");
    assert!(matches!(denied(&heard), Some(Denied::Busy { .. })), "{heard:?}");
    assert_eq!((world.dials(0), world.state(0)), (1, LinkState::Connected), "the first one never noticed");
}

#[test]
fn auth_4_newest_stops_the_one_displaced_for_good() {
    let mut world =
        connected(Setup { coordinator: |config| config.contention = Contention::Newest, ..Setup::default() });
    let clone = world.add_clone(0);
    drive_connected(&mut world, clone);
    assert_eq!(world.worker(0).stopped(), Some(Reason::Denied(Denied::TakenOver)));
    let dials = world.dials(0) + world.dials(clone);
    world.run_for(secs(3600));
    assert_eq!(world.dials(0) + world.dials(clone), dials, "they do not fight");
    assert_eq!(world.state(clone), LinkState::Connected);
}

#[test]
fn auth_4_clones_do_not_fight_under_reject_either() {
    let mut world = connected(Setup::default());
    let clone = world.add_clone(0);
    world.run_for(secs(600));
    assert_eq!((world.dials(0), world.state(0)), (1, LinkState::Connected));
    assert!((2..40).contains(&world.dials(clone)), "{} dials in ten minutes", world.dials(clone));
    world.crash(0);
    drive_connected(&mut world, clone);
}

#[test]
fn auth_4_a_dead_predecessor_gives_way_after_the_probe() {
    let mut world = connected(Setup { coordinator: |config| config.heartbeat = Some(secs(40)), ..Setup::default() });
    world.crash_unnoticed(0);
    world.restart(0);
    let from = world.now();
    drive_connected(&mut world, 0);
    let waited = world.now().since(from);
    assert!(waited >= PROBE_TIME && waited < PROBE_TIME + ms(50), "{waited:?}");
    assert_eq!(world.dials(0), 2);
}

#[test]
fn auth_4_a_crowd_of_clones_waits_one_at_a_time() {
    let mut world = connected(Setup { coordinator: |config| config.heartbeat = Some(secs(40)), ..Setup::default() });
    world.half_open(0, Side::Coordinator);
    world.half_open(0, Side::Peer);
    let mut clones: Vec<Puppet> = (0..3).map(|_| Puppet::worker(0)).collect();
    for (n, clone) in clones.iter_mut().enumerate() {
        clone.boot = rejoin_core::ids::BootId([n as u8 + 50; 16]);
        clone.greet(&mut world);
        clone.challenged(&mut world);
        clone.prove(&mut world);
    }
    for earlier in &mut clones[..2] {
        assert!(matches!(denied(&earlier.hear(&mut world)), Some(Denied::Busy { .. })));
    }
    world.run_for(PROBE_TIME + ms(1));
    assert!(welcomed(&clones[2].hear(&mut world)).is_some(), "the last one is let in when the old one is dead");
}

#[test]
fn auth_4_who_waits_may_not_say_much_and_who_was_first_stays() {
    let mut world = connected(Setup::default());
    let mut clone = Puppet::worker(0);
    clone.greet(&mut world);
    clone.challenged(&mut world);
    clone.prove(&mut world);
    // The probe's answer takes a round trip; meanwhile what the clone says is kept for it, up to a bound.
    let mut said = 0;
    while !world.closes.contains_key(&clone.conn) {
        clone.say(&mut world, |body| {
            body.push(Class::Control, &Control::Echo { stamp: 0, credit: Credit::default() });
        });
        said += 1;
    }
    assert_eq!((world.closes.get(&clone.conn), said), (Some(&Reason::Crowded), 9));
    world.run_for(secs(60));
    assert_eq!((world.state(0), world.dials(0)), (LinkState::Connected, 1), "nothing happened to the first");
}

#[test]
fn auth_4_who_waits_gives_way_to_the_holder_of_the_session() {
    let mut world = connected(Setup::default());
    // The worker has lost its link, of which the coordinator knows nothing: it is probed in vain.
    world.wire(0).refuses = true;
    world.reset_seen_by(0, Side::Peer);
    world.run_for(ms(1));
    let mut clone = Puppet::worker(0);
    clone.greet(&mut world);
    clone.challenged(&mut world);
    clone.prove(&mut world);
    world.wire(0).refuses = false;
    drive_connected(&mut world, 0);
    assert_eq!(world.worker(0).stats().resumed, 1);
    assert!(matches!(denied(&clone.hear(&mut world)), Some(Denied::Busy { .. })));
    assert_eq!(world.coordinator.stats().takeovers, 1);
}

// AUTH-5

#[test]
fn auth_5_the_first_message_has_four_kilobytes() {
    let mut world = World::new(Setup::default());
    for (padding, fits) in [(0, true), (3700, true), (4200, false)] {
        let mut puppet = Puppet::worker(0);
        let offered = vec![b'x'; padding];
        let hello = rejoin_core::wire::handshake::Hello { binding: &offered, ..puppet.hello() };
        puppet.greet_with(&mut world, &hello);
        world.hear(puppet.conn);
        assert_eq!(!world.closes.contains_key(&puppet.conn), fits, "{padding} bytes more");
    }
    let mut puppet = Puppet::worker(0);
    puppet.greet(&mut world);
    puppet.challenged(&mut world);
    world.say(puppet.conn, &[b'P'; 4097]);
    world.hear(puppet.conn);
    assert_eq!(world.closes.get(&puppet.conn), Some(&Reason::NotAuthenticated));
}

#[test]
fn auth_5_ten_seconds_in_all_and_five_for_the_proof() {
    let mut world = connected(Setup::default());
    let silent = world.stranger().expect("let in");
    world.run_for(HANDSHAKE_TIME - ms(1));
    assert_eq!(world.closes.get(&silent), None);
    world.run_for(ms(1));
    assert_eq!(world.closes.get(&silent), Some(&Reason::Timeout));
    let mut puppet = Puppet::worker(0);
    puppet.greet(&mut world);
    world.run_for(PROOF_TIME - ms(1));
    assert_eq!(world.closes.get(&puppet.conn), None);
    world.run_for(ms(1));
    assert_eq!(world.closes.get(&puppet.conn), Some(&Reason::Timeout));
    // A late first message leaves only what is left of the ten seconds.
    let late = world.stranger().expect("let in");
    world.run_for(secs(8));
    let mut hello = vec![0; 1024];
    let len = puppet.hello().encode(&mut hello);
    world.say(late, &hello[..len]);
    world.run_for(secs(2));
    assert_eq!(world.closes.get(&late), Some(&Reason::Timeout));
    assert_eq!(world.state(0), LinkState::Connected);
}

#[test]
fn auth_5_the_table_is_bounded_and_half_of_it_is_kept_for_open_sessions() {
    let mut world = World::new(Setup { coordinator: |config| config.pending_max = 8, ..Setup::default() });
    world.wire(0).refuses = true;
    world.reset(0);
    let mut puppet = Puppet::worker(0);
    assert!(welcomed(&puppet.enter(&mut world)).is_some());
    puppet.close(&mut world);
    puppet.greet(&mut world);
    assert_eq!(puppet.challenged(&mut world), Some(0), "it names an open session");
    let strangers: Vec<_> = (0..30).map(|_| world.stranger().expect("let in")).collect();
    let crowded = strangers.iter().filter(|conn| world.closes.get(conn) == Some(&Reason::Crowded)).count();
    assert_eq!(crowded, 26, "four may wait");
    assert!(strangers[..26].iter().all(|conn| world.closes.contains_key(conn)), "the oldest go");
    assert_eq!(world.closes.get(&puppet.conn), None, "but nobody who names an open session");
    puppet.resume(&mut world, 1, 0, 0, 0);
    assert_eq!(welcomed(&puppet.hear(&mut world)).and_then(|welcome| welcome.resumed), Some(0));
}

#[test]
fn auth_5_buckets_are_global_and_per_address_and_open_sessions_go_first() {
    let mut world = World::new(Setup {
        workers: 2,
        coordinator: |config| {
            config.admission = AdmissionConfig { rate: 1, burst: 6, address_rate: 1, address_burst: 2 };
        },
        ..Setup::default()
    });
    for peer in 0..2 {
        drive_connected(&mut world, peer);
    }
    let from = |n| Address::v4([192, 0, 2, n]);
    assert!(world.stranger_from(from(1)).is_ok() && world.stranger_from(from(1)).is_ok());
    assert!(matches!(world.stranger_from(from(1)), Err(Rejected::RetryAfter(_))), "one address is at its limit");
    assert!(world.stranger_from(from(2)).is_ok() && world.stranger_from(from(2)).is_ok());
    // The burst is used up: only who resumes an open session is let in, others are told when to come back.
    let turned_away = world.coordinator.stats().turned_away;
    let mut newcomer = Puppet::worker(0);
    newcomer.greet(&mut world);
    let answers = world.hear(newcomer.conn);
    assert!(matches!(Refusal::decode(&answers[0]), Some(Refusal::RetryAfter(us)) if us > 0), "before any HMAC");
    assert_eq!(world.coordinator.stats().turned_away, turned_away + 1);
    world.reset(1);
    let cut = world.now();
    world.drive_until("it is back", |world| world.worker(1).stats().resumed == 1);
    assert!(world.now().since(cut) < ms(20), "an open session waits for nobody");
    // A bucket is never on a key: the worker whose key the newcomer named is as free as before.
    world.run_for(secs(10));
    world.reset(0);
    drive_connected(&mut world, 0);
    assert_eq!(world.worker(0).stats().resumed, 1);
}

// AUTH-6

#[test]
fn auth_6_a_key_serves_one_name_and_one_role_and_anything_else_is_an_unknown_key() {
    let mut world = connected(Setup { workers: 2, clients: 1, ..Setup::default() });
    let honest = Puppet::worker(0);
    let mut unknown = honest.hello();
    unknown.key.0[7] ^= 1;
    let mut other_name = honest.hello();
    other_name.name = worker_key(1).name;
    let mut other_role = honest.hello();
    other_role.role = Role::Client;
    let answers: Vec<_> = [unknown, other_name, other_role]
        .iter()
        .map(|hello| {
            let mut puppet = honest.clone();
            puppet.greet_with(&mut world, hello);
            let answers = world.hear(puppet.conn);
            assert_eq!(world.closes.get(&puppet.conn), Some(&Reason::Rejected));
            answers
        })
        .collect();
    assert_eq!(Refusal::decode(&answers[0][0]), Some(Refusal::Reject(RejectCode::UnknownKey)));
    assert!(answers.iter().all(|answer| *answer == answers[0]), "nobody learns which part was wrong");
    let mut named = honest.hello().key;
    named.0[7] ^= 1;
    assert!(world.events.contains(&Event::UnknownKey { key: named }), "so that somebody may look for it");
    assert_eq!(world.state(0), LinkState::Connected);
    let twice = rejoin_core::wire::keys::Key { role: Role::Client, ..worker_key(0) };
    assert_eq!(world.tell_coordinator(Input::AddKey { key: &twice }), Err(Rejected::Conflict));
}

#[test]
fn auth_6_a_revoked_key_is_told_so_under_seal_now_and_later() {
    let mut world = connected(Setup { workers: 2, ..Setup::default() });
    world.wire(1).refuses = true;
    world.reset(1);
    world.run_for(ms(10));
    for n in 0..2 {
        assert_eq!(world.tell_coordinator(Input::RevokeKey { key: worker_key(n).id }), Ok(()));
    }
    world.run_for(ms(2));
    assert_eq!(world.worker(0).stopped(), Some(Reason::Denied(Denied::Revoked)));
    world.wire(1).refuses = false;
    world.drive_until("it comes back and is told", |world| world.state(1) == LinkState::Stopped);
    assert_eq!(world.worker(1).stopped(), Some(Reason::Denied(Denied::Revoked)));
    assert_eq!(world.seen(1), PeerState::Disconnected);
    let unknown = rejoin_core::ids::KeyId([0; 8]);
    assert_eq!(world.tell_coordinator(Input::RevokeKey { key: unknown }), Err(Rejected::Unknown));
}

#[test]
fn auth_6_another_key_of_the_same_holder_stays_good_and_a_revoked_one_stays_revoked() {
    let mut world = connected(Setup::default());
    let used = worker_key(0);
    let spare = rejoin_core::wire::keys::Key { id: rejoin_core::ids::KeyId([9; 8]), ..used.clone() };
    assert_eq!(world.tell_coordinator(Input::AddKey { key: &spare }), Ok(()));
    assert_eq!(world.tell_coordinator(Input::RevokeKey { key: spare.id }), Ok(()));
    world.run_for(secs(100));
    assert_eq!((world.state(0), world.dials(0)), (LinkState::Connected, 1));
    assert_eq!(world.tell_coordinator(Input::AddKey { key: &spare }), Ok(()), "known already");
    let other = rejoin_core::wire::keys::Key { id: used.id, ..worker_key(7) };
    assert_eq!(world.tell_coordinator(Input::AddKey { key: &other }), Err(Rejected::Conflict), "an id is one key's");
    assert_eq!(world.tell_coordinator(Input::RevokeKey { key: used.id }), Ok(()));
    assert_eq!(world.tell_coordinator(Input::AddKey { key: &used }), Ok(()));
    world.run_for(secs(1));
    assert_eq!(world.worker(0).stopped(), Some(Reason::Denied(Denied::Revoked)));
}

#[test]
fn auth_6_revoking_reaches_whoever_waits_for_the_one_before() {
    let mut world = connected(Setup::default());
    world.half_open(0, Side::Coordinator);
    let mut clone = Puppet::worker(0);
    clone.greet(&mut world);
    clone.challenged(&mut world);
    clone.prove(&mut world);
    world.tell_coordinator(Input::RevokeKey { key: worker_key(0).id }).expect("a known key");
    world.run_for(PROBE_TIME + ms(1));
    let heard = clone.hear(&mut world);
    assert_eq!((denied(&heard), welcomed(&heard)), (Some(Denied::Revoked), None));
    assert_eq!(world.seen(0), PeerState::Lost);
}

// AUTH-7

/// A world in which each end may derive something from TLS, and wants it to be of use
fn over_tls(exporters: [Option<[u8; 32]>; 2], coordinator: Binding, worker: Binding) -> World {
    let coordinator: fn(&mut rejoin_core::coordinator::Config) = match coordinator {
        Binding::Off => |config| config.binding = Binding::Off,
        Binding::Prefer => |config| config.binding = Binding::Prefer,
        Binding::Require => |config| config.binding = Binding::Require,
    };
    let worker: fn(&mut rejoin_core::worker::Config) = match worker {
        Binding::Off => |config| config.link.binding = Binding::Off,
        Binding::Prefer => |config| config.link.binding = Binding::Prefer,
        Binding::Require => |config| config.link.binding = Binding::Require,
    };
    let mut world = World::new(Setup { coordinator, worker, ..Setup::default() });
    world.wire(0).exporters = exporters;
    world.tap = Some(Vec::new());
    world.run_for(secs(1));
    world
}

/// What M1 offered and what M2 took up
fn bindings(world: &World) -> (Vec<u8>, Option<Vec<u8>>) {
    let taps = world.tap.as_deref().unwrap_or_default();
    let at = |side| taps.iter().find(|tap| tap.at == side).map(|tap| tap.bytes.clone());
    let m1 = at(Side::Coordinator).expect("an M1");
    let offered = Hello::decode(&m1).expect("an M1").binding.to_vec();
    let taken = at(Side::Peer).and_then(|m2| Challenge::decode(&m2).map(|(m2, ..)| m2.binding.to_vec()));
    (offered, taken)
}

#[test]
fn auth_7_a_handshake_is_bound_where_both_ends_can_and_want_to() {
    use Binding::{Off, Prefer, Require};
    let (same, one) = ([Some([1; 32]); 2], Some([1; 32]));
    let bound = TLS_EXPORTER.to_vec();
    for (exporters, coordinator, worker, offers, binds) in [
        (same, Prefer, Prefer, true, true),
        (same, Require, Require, true, true),
        (same, Off, Prefer, true, false),
        (same, Prefer, Off, false, false),
        ([one, None], Prefer, Prefer, true, false),
        ([None, one], Prefer, Prefer, false, false),
        ([None, None], Prefer, Off, false, false),
    ] {
        let world = over_tls(exporters, coordinator, worker);
        let case = (exporters, coordinator, worker);
        assert_eq!(world.state(0), LinkState::Connected, "{case:?}");
        let of = |is: bool| if is { bound.clone() } else { Vec::new() };
        assert_eq!(bindings(&world), (of(offers), Some(of(binds))), "{case:?}");
    }
}

#[test]
fn auth_7_somebody_in_between_has_another_value_and_is_found() {
    for policy in [Binding::Prefer, Binding::Require] {
        let mut world = over_tls([Some([1; 32]), Some([2; 32])], policy, policy);
        assert_ne!(world.state(0), LinkState::Connected);
        assert_eq!(world.leaves.first(), Some(&(0, Reason::NotAuthenticated)));
        assert_eq!(world.coordinator.stats().opened, 0);
        // It is gone, and nothing is left of it.
        world.wire(0).exporters = [Some([3; 32]); 2];
        drive_connected(&mut world, 0);
    }
}

#[test]
fn auth_7_nobody_in_between_takes_the_binding_away() {
    for taken_up in [&b""[..], TLS_EXPORTER] {
        let mut world = World::new(Setup::default());
        world.wire(0).exporters = [Some([1; 32]); 2];
        let between = divert(&mut world);
        let m1 = world.hear(between).pop().expect("an M1");
        let offer = Hello::decode(&m1).expect("an M1");
        assert_eq!(offer.binding, TLS_EXPORTER);
        let mut changed = vec![0; 1024];
        let len = Hello { binding: &[], ..offer }.encode(&mut changed);
        let conn = world.stranger().expect("let in");
        world.say(conn, &changed[..len]);
        let m2 = world.hear(conn).pop().expect("an M2");
        let (challenge, _, mac) = Challenge::decode(&m2).expect("an M2");
        assert!(challenge.binding.is_empty());
        let len = Challenge { binding: taken_up, ..challenge }.encode(&mut changed);
        let len = append_mac(&mut changed, len, &mac);
        world.say(between, &changed[..len]);
        assert_eq!(world.leaves.last(), Some(&(0, Reason::NotAuthenticated)));
        world.run_for(ms(5));
        assert!(world.hear(between).is_empty(), "no proof for somebody who proved nothing");
    }
}

#[test]
fn auth_7_whoever_requires_a_binding_gives_up_without_one_and_says_why() {
    use Binding::{Off, Prefer, Require};
    let (same, one) = ([Some([1; 32]); 2], Some([1; 32]));
    for (exporters, coordinator, worker) in [
        (same, Require, Off),
        (same, Off, Require),
        ([None, one], Require, Prefer),
        ([one, None], Require, Prefer),
        ([one, None], Prefer, Require),
        ([None, one], Prefer, Require),
    ] {
        let world = over_tls(exporters, coordinator, worker);
        let case = (exporters, coordinator, worker);
        assert_ne!(world.state(0), LinkState::Connected, "{case:?}");
        assert!(
            !world.leaves.is_empty() && world.leaves.iter().all(|leave| *leave == (0, Reason::Unbound)),
            "{case:?}"
        );
        assert_eq!(world.coordinator.stats().opened, 0);
        let told = world.closes.values().any(|reason| *reason == Reason::Unbound);
        assert_eq!(told, coordinator == Require, "{case:?}");
        // As any handshake that failed: no faster, and not for good (AUTH-2).
        assert!(world.worker(0).is_slow() && world.worker(0).stopped().is_none(), "{case:?}");
    }
}

#[test]
fn auth_7_a_coordinator_that_knows_its_urls_is_not_to_be_reached_by_others() {
    let mut world = World::new(Setup {
        coordinator: |config| config.audiences = vec!["wss://a/v1/worker".into(), "ws://coordinator/v1/worker".into()],
        ..Setup::default()
    });
    drive_connected(&mut world, 0);
    let mut puppet = Puppet::worker(0);
    let elsewhere = Hello { audience: "ws://coordinator:81/v1/worker", ..puppet.hello() };
    puppet.greet_with(&mut world, &elsewhere);
    let answer = world.hear(puppet.conn).pop();
    assert_eq!(answer.as_deref().and_then(Refusal::decode), Some(Refusal::Reject(RejectCode::Audience)));
    assert_eq!(world.closes.get(&puppet.conn), Some(&Reason::Audience));
}

// AUTH-8

#[test]
fn auth_8_a_lost_welcome_does_not_make_a_worker_its_own_clone() {
    for manner in 0..2 {
        let mut world = World::new(Setup::default());
        world.drive_to_arrival(0, Side::Coordinator, 2);
        assert_eq!((world.state(0), world.seen(0)), (LinkState::Proving, PeerState::Reconciling));
        // M4 is on its way, and never arrives; the coordinator does not notice.
        if manner == 0 {
            world.reset_seen_by(0, Side::Peer);
        } else {
            world.half_open(0, Side::Peer);
            world.half_open(0, Side::Coordinator);
        }
        let from = world.now();
        drive_connected(&mut world, 0);
        let waited = world.now().since(from);
        let allowed = if manner == 0 { ms(10) } else { HANDSHAKE_TIME + ms(10) };
        assert!(waited <= allowed, "replaced without a probe: {waited:?}");
        let stats = world.coordinator.stats();
        assert_eq!((stats.opened, stats.resumed, stats.takeovers, world.dials(0)), (1, 1, 1, 2));
    }
}

#[test]
fn auth_8_another_incarnation_replaces_an_unconfirmed_session_without_a_probe() {
    let mut world = World::new(Setup::default());
    world.wire(0).refuses = true;
    world.reset(0);
    for life in 0..5 {
        let mut puppet = Puppet::worker(0);
        puppet.boot = rejoin_core::ids::BootId([life; 16]);
        puppet.greet(&mut world);
        puppet.challenged(&mut world);
        puppet.prove(&mut world);
        assert!(welcomed(&puppet.hear(&mut world)).is_some(), "at once");
    }
    assert_eq!(world.coordinator.stats().takeovers, 4);
}

#[test]
fn auth_8_what_an_unconfirmed_session_would_replace_stays_valid_until_it_is_confirmed() {
    for confirmed in [false, true] {
        let mut world = World::new(Setup { ..Setup::default() });
        world.wire(0).refuses = true;
        world.reset(0);
        let mut first = Puppet::worker(0);
        first.enter(&mut world);
        first.close(&mut world);
        let mut second = Puppet::worker(0);
        second.boot = rejoin_core::ids::BootId([5; 16]);
        if confirmed {
            second.enter(&mut world);
        } else {
            second.greet(&mut world);
            second.challenged(&mut world);
            second.prove(&mut world);
        }
        second.close(&mut world);
        first.greet(&mut world);
        let open = first.challenged(&mut world);
        assert_eq!(open, if confirmed { None } else { Some(0) });
        if open.is_some() {
            first.resume(&mut world, 1, 0, 0, 0);
            let welcome = welcomed(&first.hear(&mut world)).expect("welcome back");
            assert_eq!((welcome.resumed, welcome.generation), (Some(0), 2));
        }
    }
}

#[test]
fn auth_4_a_resume_needs_the_sessions_own_key_and_a_generation_that_was_welcomed() {
    for (wrong_key, generation, resumes) in
        [(false, 1, true), (true, 1, false), (false, 0, false), (false, 2, false), (false, u64::MAX, false)]
    {
        let mut world = World::new(Setup::default());
        world.wire(0).refuses = true;
        world.reset(0);
        let mut puppet = Puppet::worker(0);
        puppet.enter(&mut world);
        puppet.close(&mut world);
        if wrong_key {
            puppet.session = puppet.session.map(|(id, _)| (id, [0; 32]));
        }
        puppet.greet(&mut world);
        puppet.challenged(&mut world);
        puppet.resume(&mut world, generation, 0, 0, 0);
        assert_eq!(world.coordinator.stats().resumed, u64::from(resumes), "generation {generation}");
    }
}

#[test]
fn auth_2_a_connection_lost_before_the_answer_is_no_failed_handshake() {
    let mut world = World::new(Setup::default());
    for _ in 0..10 {
        world.drive_until("M1 is on its way", |world| world.state(0) == LinkState::Greeting);
        world.reset(0);
        world.run_for(ms(1));
    }
    assert!(!world.worker(0).is_slow());
    let attempt = world.dials(0);
    let old = rejoin_core::worker::Input::Disconnected { attempt: attempt - 1, loss: Loss::Peer };
    assert_eq!(world.tell_worker(0, old), Ok(()), "and a late close of an old one is nothing");
    drive_connected(&mut world, 0);
}

#[test]
fn auth_6_no_machine_shows_a_secret_when_it_is_printed() {
    // Each of these keys ends in 24 bytes that are alike.
    let [worker, client] = ["1, ", "2, "].map(|byte| byte.repeat(20));
    assert!(format!("{:?}", [1u8; 32]).contains(&worker), "this is how bytes are printed");
    let mut world = World::new(Setup { clients: 1, ..Setup::default() });
    for step in 0..40 {
        let printed = format!("{:?} {:?} {:?}", world.coordinator, world.worker(0), world.client(0));
        assert!(printed.contains("(secret)"), "keys are there");
        assert!(!printed.contains(&worker) && !printed.contains(&client), "after step {step}");
        world.step();
    }
    assert_eq!((world.state(0), world.state(1)), (LinkState::Connected, LinkState::Connected));
}

// AUTH-9

#[test]
fn auth_9_the_same_m1_again_is_answered_alike_and_once() {
    let mut world = connected(Setup::default());
    for again in 0..3 {
        let mut puppet = Puppet::worker(0);
        puppet.greet(&mut world);
        let hello = puppet.m1().to_vec();
        let first = world.hear(puppet.conn).pop().expect("an M2");
        for _ in 0..again {
            world.say(puppet.conn, &hello);
        }
        let answers = world.hear(puppet.conn);
        assert!(answers.len() <= 1 && answers.iter().all(|answer| *answer == first), "nothing new for an old M1");
        assert_eq!(world.closes.get(&puppet.conn), (again > 1).then_some(&Reason::NotAuthenticated), "{again}");
    }
}

#[test]
fn auth_9_whoever_says_m1_twice_gets_in() {
    let mut world = World::new(Setup { workers: 0, clients: 1, ..Setup::default() });
    let mut puppet = Puppet::client(0);
    puppet.greet(&mut world);
    // With the upgrade, whose answer was stripped of M2; then as the first message.
    assert_eq!(world.hear(puppet.conn).len(), 1);
    let hello = puppet.m1().to_vec();
    world.say(puppet.conn, &hello);
    puppet.challenged(&mut world);
    puppet.prove(&mut world);
    assert!(welcomed(&puppet.hear(&mut world)).is_some());
}

#[test]
fn auth_9_an_old_m1_in_front_of_the_right_one_costs_the_connection_and_nothing_else() {
    let mut world = connected(Setup::default());
    let mut old = Puppet::worker(0);
    old.greet(&mut world);
    let mut puppet = Puppet::worker(0);
    puppet.greet(&mut world);
    assert_eq!(world.hear(puppet.conn).len(), 1);
    let other = rejoin_core::wire::handshake::Hello { nonce: [77; 32], ..puppet.hello() };
    let mut bytes = vec![0; 1024];
    let len = other.encode(&mut bytes);
    world.say(puppet.conn, &bytes[..len]);
    assert!(world.hear(puppet.conn).is_empty());
    assert_eq!(world.closes.get(&puppet.conn), Some(&Reason::NotAuthenticated));
    assert_eq!(world.state(0), LinkState::Connected);
}
