//! AUTH-6: keys that are replaced while their holders are connected

mod common;

use common::{connected, denied, divert, drive_connected, ms, secs, welcomed};
use rejoin_core::Rejected;
use rejoin_core::client;
use rejoin_core::coordinator::{Event, Input};
use rejoin_core::ids::{KeyId, PeerName};
use rejoin_core::limits::KEYS_NEXT_MAX;
use rejoin_core::link::{LinkState, Reason};
use rejoin_core::wire::message::{Class, Control, Credit, Denied, Welcome};
use rejoin_core::wire::view::{Question, RotationView};
use rejoin_core::worker;
use rejoin_sim::{Heard, Job, Puppet, Setup, Side, World, worker_key};

const CREDIT: Credit = Credit { tasks: 2, messages: 4096, bulk: 1 << 20 };

fn name(n: usize) -> PeerName {
    worker_key(n).name
}

fn rotate(world: &mut World) -> Result<(), Rejected> {
    world.tell_coordinator(Input::RotateKey { peer: &name(0) })
}

/// Keys that were used first, in order
fn used(world: &World) -> Vec<KeyId> {
    let used = |event: &Event| if let Event::KeyUsed { key, .. } = event { Some(*key) } else { None };
    world.events.iter().filter_map(used).collect()
}

/// What the holder of worker 0's first key is told
fn told_with_the_first_key(world: &mut World) -> (Option<Denied>, bool) {
    let mut old = Puppet::worker(0).with_version(2);
    old.greet(world);
    old.challenged(world);
    old.prove(world);
    let heard = old.hear(world);
    (denied(&heard), welcomed(&heard).is_some())
}

#[test]
fn auth_6_a_key_is_replaced_while_its_holder_works_and_nothing_of_it_travels() {
    let mut world = connected(Setup::default());
    let task = world.submit("meanwhile", Job::takes(ms(500)));
    world.run_for(ms(100));
    world.tap = Some(Vec::new());
    assert_eq!(rotate(&mut world), Ok(()));
    world.drive_until("the new key is used", |world| !used(world).is_empty());
    let key = world.kept_keys[&0].clone();
    assert_eq!((used(&world), key.name.clone()), (vec![key.id], name(0)));
    assert_ne!((key.id, &key.secret), (worker_key(0).id, &worker_key(0).secret));
    assert_eq!(world.leaves, [(0, Reason::Rekeyed)]);
    drive_connected(&mut world, 0);
    world.drive_until("and the task ends", |world| world.succeeded(task));
    assert_eq!((world.worker(0).stats().resumed, world.starts.len()), (1, 1), "it costs the session nothing");
    let said = world.tap.take().unwrap_or_default();
    let tells = |bytes: &[u8]| bytes.windows(32).any(|part| part == key.secret.reveal());
    assert!(said.len() > 4 && !said.iter().any(|tap| tells(&tap.bytes)));
    assert_eq!(told_with_the_first_key(&mut world), (Some(Denied::Revoked), false));
    // Once more, by the key that is in use now.
    assert_eq!(rotate(&mut world), Ok(()));
    world.drive_until("another one is used", |world| used(world).len() == 2);
    drive_connected(&mut world, 0);
    // Whatever begins anew begins with it.
    world.crash(0);
    world.restart(0);
    world.restart_coordinator();
    drive_connected(&mut world, 0);
    assert_eq!(used(&world).len(), 2);
}

#[test]
fn auth_6_both_keys_are_good_until_the_new_one_is_used() {
    let mut world = connected(Setup::default());
    world.keeps_keys[Side::Peer as usize] = false;
    assert_eq!(rotate(&mut world), Ok(()));
    world.drive_until("it is told to keep it", |world| !world.kept_keys.is_empty());
    assert!(used(&world).is_empty() && world.state(0) == LinkState::Connected, "work goes on meanwhile");
    // Nobody is dialled before the key is kept, so that whoever comes with the old key has no newer one.
    let dials = world.dials(0);
    world.reset(0);
    world.run_for(secs(30));
    assert_eq!((world.dials(0), world.state(0)), (dials, LinkState::Waiting));
    assert_eq!(told_with_the_first_key(&mut world), (None, true));
    assert_eq!(world.tell_worker(0, worker::Input::KeyKept { kept: true }), Ok(()));
    world.drive_until("the new key is used", |world| !used(world).is_empty());
    assert_eq!(told_with_the_first_key(&mut world), (Some(Denied::Revoked), false));
    assert_eq!(world.tell_worker(0, worker::Input::KeyKept { kept: true }), Err(Rejected::NotExpected));
}

#[test]
fn auth_6_a_key_that_cannot_be_kept_leaves_the_one_before_in_use() {
    let mut world = connected(Setup::default());
    world.keeps_keys[Side::Peer as usize] = false;
    assert_eq!(rotate(&mut world), Ok(()));
    world.drive_until("it is told to keep it", |world| !world.kept_keys.is_empty());
    assert_eq!(world.tell_worker(0, worker::Input::KeyKept { kept: false }), Ok(()));
    world.reset(0);
    drive_connected(&mut world, 0);
    assert_eq!((used(&world), told_with_the_first_key(&mut world).0), (vec![], None));
    // Whoever asked for it need not ask again: it is tried with each connection.
    assert_eq!(world.tell_worker(0, worker::Input::KeyKept { kept: false }), Ok(()));
    world.keeps_keys[Side::Peer as usize] = true;
    world.reset(0);
    world.drive_until("a new key is used", |world| !used(world).is_empty());
    assert_eq!(told_with_the_first_key(&mut world), (Some(Denied::Revoked), false));
}

#[test]
fn auth_6_whoever_crashes_at_any_point_of_a_rotation_the_two_are_a_pair_that_works() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Ends {
        Worker,
        Coordinator,
        Link,
    }
    for ends in [Ends::Worker, Ends::Coordinator, Ends::Link] {
        for holds in [None, Some(Side::Coordinator), Some(Side::Peer)] {
            for after in 0..12 {
                let case = (ends, holds, after);
                let mut world = connected(Setup::default());
                holds.into_iter().for_each(|side| world.keeps_keys[side as usize] = false);
                assert_eq!(rotate(&mut world), Ok(()));
                world.run_for(std::time::Duration::from_micros(after * 500));
                world.keeps_keys = [true; 2];
                match ends {
                    Ends::Worker => {
                        world.crash(0);
                        world.restart(0);
                    }
                    Ends::Coordinator => world.restart_coordinator(),
                    Ends::Link => world.reset(0),
                }
                if ends != Ends::Worker && holds == Some(Side::Peer) && world.worker(0).next_key().is_some() {
                    world.tell_worker(0, worker::Input::KeyKept { kept: true }).unwrap();
                }
                world.run_for(secs(10));
                assert_eq!(world.state(0), LinkState::Connected, "{case:?}");
                let before = used(&world).len();
                assert_eq!(rotate(&mut world), Ok(()), "{case:?}");
                world.run_for(secs(10));
                assert_eq!((world.state(0), used(&world).len()), (LinkState::Connected, before + 1), "{case:?}");
                assert_eq!(told_with_the_first_key(&mut world), (Some(Denied::Revoked), false), "{case:?}");
            }
        }
    }
}

#[test]
fn auth_6_a_retirement_that_was_not_kept_is_made_good_by_the_next_handshake() {
    let mut world = connected(Setup::default());
    world.keeps_retired = false;
    assert_eq!(rotate(&mut world), Ok(()));
    world.drive_until("the new key is used", |world| used(world).len() == 1);
    drive_connected(&mut world, 0);
    world.wire(0).refuses = true;
    world.restart_coordinator();
    world.wire(0).refuses = false;
    world.keeps_retired = true;
    drive_connected(&mut world, 0);
    assert_eq!(used(&world).len(), 2);
    assert_eq!(told_with_the_first_key(&mut world), (Some(Denied::Revoked), false));
}

#[test]
fn auth_6_no_key_follows_from_one_that_was_revoked_meanwhile() {
    let mut world = connected(Setup::default());
    world.keeps_keys[Side::Coordinator as usize] = false;
    world.events.clear();
    assert_eq!(rotate(&mut world), Ok(()));
    let next = world.unsaid_keys.pop().expect("it is to be kept");
    assert_eq!(world.tell_coordinator(Input::RevokeKey { key: worker_key(0).id }), Ok(()));
    // Its embedder had not known that yet, or it would not have kept it.
    assert_eq!(world.tell_coordinator(Input::KeyKept { key: next, kept: true }), Ok(()));
    world.run_for(secs(5));
    assert_eq!(world.worker(0).stopped(), Some(Reason::Denied(Denied::Revoked)));
    assert!(world.kept_keys.is_empty());
}

#[test]
fn auth_6_a_rotation_that_was_cut_off_goes_on_by_itself() {
    for restarts in [false, true] {
        let mut world = connected(Setup::default());
        world.half_open(0, Side::Peer);
        assert_eq!(rotate(&mut world), Ok(()));
        world.run_for(secs(1));
        assert!(world.kept_keys.is_empty(), "it does not arrive");
        if restarts {
            world.restart_coordinator();
        }
        world.drive_until("a new key is used", |world| !used(world).is_empty());
        drive_connected(&mut world, 0);
        assert_eq!(used(&world), [world.kept_keys[&0].id]);
        assert_eq!(told_with_the_first_key(&mut world), (Some(Denied::Revoked), false));
        world.reset(0);
        drive_connected(&mut world, 0);
        world.run_for(secs(5));
        let rekeyed = world.leaves.iter().filter(|(_, reason)| *reason == Reason::Rekeyed).count();
        assert_eq!((used(&world).len(), rekeyed), (1, 1), "and then it is over");
    }
}

#[test]
fn auth_6_a_worker_that_is_given_one_key_after_the_other_is_back_at_once_each_time_and_flaps_by_none() {
    let mut world = connected(Setup::default());
    for n in 1..=10 {
        assert_eq!(rotate(&mut world), Ok(()));
        world.run_for(secs(1));
        assert_eq!((used(&world).len(), world.state(0)), (n, LinkState::Connected));
    }
    assert!(world.coordinator.peers().any(|peer| peer.name == name(0) && !peer.flapping));
}

#[test]
fn auth_6_keys_that_never_reach_their_holder_are_few() {
    let mut world = connected(Setup::default());
    world.wire(0).refuses = true;
    world.reset(0);
    world.run_for(secs(1));
    let given_another = |world: &mut World, asks: bool| {
        let mut forgetful = Puppet::worker(0).with_version(2);
        let mut heard = forgetful.enter(world);
        if asks {
            assert_eq!(rotate(world), Ok(()));
            assert_eq!(rotate(world), Ok(()), "the same once more");
        }
        world.run_for(ms(10));
        heard.extend(forgetful.hear(world));
        forgetful.close(world);
        heard.iter().any(|heard| matches!(heard, Heard::Control(Control::NextKey)))
    };
    assert!(!given_another(&mut world, false));
    assert!((0..KEYS_NEXT_MAX).all(|n| given_another(&mut world, n == 0)));
    assert!(!given_another(&mut world, false));
    world.wire(0).refuses = false;
    drive_connected(&mut world, 0);
    assert_eq!((rotate(&mut world), used(&world)), (Err(Rejected::Full), vec![]));
    world.restart_coordinator();
    drive_connected(&mut world, 0);
    assert_eq!(rotate(&mut world), Err(Rejected::Full), "nor are there more after a restart");
}

#[test]
fn auth_6_only_a_connected_worker_of_the_second_version_gets_another_key() {
    let mut world = connected(Setup { workers: 2, clients: 1, ..Setup::default() });
    let ask = |world: &mut World, name: PeerName| {
        let answered = world.answers.len();
        let question = Question::RotateKey(name);
        world.tell_client(0, client::Input::Ask { ask: answered as u64, question: &question }).unwrap();
        world.drive_until("it is answered", |world| world.answers.len() > answered);
        postcard::from_bytes::<RotationView>(&world.answers[answered].2).unwrap()
    };
    assert_eq!(ask(&mut world, "client-0".parse().unwrap()), RotationView::Unknown);
    assert_eq!(ask(&mut world, name(0)), RotationView::Begun);
    world.drive_until("the new key is used", |world| !used(world).is_empty());
    world.wire(1).refuses = true;
    world.reset(1);
    world.run_for(ms(10));
    assert_eq!(ask(&mut world, name(1)), RotationView::Away);
    let mut old = Puppet::worker(1);
    old.enter(&mut world);
    assert_eq!(ask(&mut world, name(1)), RotationView::TooOld);
    assert!(!old.hear(&mut world).iter().any(|heard| matches!(heard, Heard::Control(Control::NextKey))));
}

#[test]
fn auth_6_a_new_key_that_nobody_may_speak_of_is_a_breach() {
    for (version, welcomed) in [(1, true), (2, false)] {
        let mut world = connected(Setup::default());
        let conn = divert(&mut world);
        let mut puppet = Puppet::coordinator(0).with_version(version);
        puppet.accept(&mut world, conn, 1);
        puppet.say(&mut world, |body| {
            if welcomed {
                let (heartbeat_us, spread_us, lifetime_us) = (1_000_000, 0, 300_000_000);
                let welcome =
                    Welcome { generation: 1, resumed: None, heartbeat_us, spread_us, lifetime_us, credit: CREDIT };
                body.push(Class::Control, &Control::Welcome(welcome));
            }
            body.push(Class::Control, &Control::NextKey);
        });
        assert_eq!(world.leaves.last(), Some(&(0, Reason::Protocol)), "version {version}");
    }
    let mut world = World::new(Setup::default());
    world.wire(0).refuses = true;
    world.reset(0);
    let mut puppet = Puppet::worker(0).with_version(2);
    puppet.enter(&mut world);
    puppet.say(&mut world, |body| assert!(body.push(Class::Control, &Control::NextKey)));
    assert_eq!(denied(&puppet.hear(&mut world)), Some(Denied::Protocol), "workers never say it");
}
