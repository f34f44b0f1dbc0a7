//! AUTH-6: workers that come with a join token, and go on with a key of their own

mod common;

use common::{denied, divert, drive_connected, ms, secs, welcomed};
use rejoin_core::coordinator::{Event, Input};
use rejoin_core::ids::KeyId;
use rejoin_core::limits::TOKEN_KEYS_MAX;
use rejoin_core::link::{LinkState, Reason};
use rejoin_core::wire::keys::Key;
use rejoin_core::wire::message::{Class, Control, Credit, Denied, Welcome};
use rejoin_core::worker;
use rejoin_core::{Rejected, limits};
use rejoin_sim::{Heard, Job, Puppet, Setup, Side, World, worker_key};

const VALID_S: u64 = 600;

/// A world whose worker 0 has a join token, and no key yet
fn newcomer() -> World {
    World::new(Setup {
        coordinator: |config| config.tokens = vec![(worker_key(0).id, secs(VALID_S))],
        worker: |config| config.link.token = true,
        ..Setup::default()
    })
}

/// Keys that were used first, in order
fn used(world: &World) -> Vec<KeyId> {
    let used = |event: &Event| if let Event::KeyUsed { key, .. } = event { Some(*key) } else { None };
    world.events.iter().filter_map(used).collect()
}

/// What whoever holds the token is told
fn told_with_the_token(world: &mut World) -> Vec<Heard> {
    told(world, Puppet::worker(0).with_version(2))
}

fn told(world: &mut World, mut puppet: Puppet) -> Vec<Heard> {
    puppet.greet(world);
    puppet.challenged(world);
    puppet.prove(world);
    puppet.hear(world)
}

fn refused(world: &mut World) -> Option<Denied> {
    let heard = told_with_the_token(world);
    assert!(welcomed(&heard).is_none() && !heard.contains(&Heard::Control(Control::NextKey)));
    denied(&heard)
}

fn holder_of(key: &Key) -> Puppet {
    let mut puppet = Puppet::worker(0).with_version(2).with_secret(*key.secret.reveal());
    puppet.key = key.clone();
    puppet
}

#[test]
fn auth_6_a_token_becomes_a_key_that_nobody_hears_and_is_good_once() {
    let mut world = newcomer();
    world.tap = Some(Vec::new());
    drive_connected(&mut world, 0);
    let key = world.kept_keys[&0].clone();
    assert_eq!((used(&world), &key.name), (vec![key.id], &worker_key(0).name));
    assert_ne!((key.id, &key.secret), (worker_key(0).id, &worker_key(0).secret));
    let task = world.submit("first", Job::takes(ms(100)));
    world.drive_until("it works", |world| world.succeeded(task));
    let said = world.tap.take().unwrap_or_default();
    let tells = |bytes: &[u8], key: &Key| bytes.windows(32).any(|part| part == key.secret.reveal());
    assert!(said.len() > 4);
    assert!(!said.iter().any(|tap| tells(&tap.bytes, &key) || tells(&tap.bytes, &worker_key(0))));
    assert_eq!(refused(&mut world), Some(Denied::Revoked));
    // It begins with that key from now on, and the token stays burnt.
    world.crash(0);
    world.restart(0);
    world.restart_coordinator();
    drive_connected(&mut world, 0);
    assert_eq!((used(&world).len(), refused(&mut world)), (1, Some(Denied::Revoked)));
    // The key is one like any other.
    assert_eq!(world.tell_coordinator(Input::RotateKey { peer: &key.name }), Ok(()));
    world.drive_until("another one is used", |world| used(world).len() == 2);
    drive_connected(&mut world, 0);
}

#[test]
fn auth_6_whoever_ends_while_a_worker_enrols_the_same_token_leads_to_a_key() {
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Ends {
        Worker,
        Coordinator,
        Link,
    }
    for ends in [Ends::Worker, Ends::Coordinator, Ends::Link] {
        for after in 0..24 {
            let mut world = newcomer();
            world.run_for(std::time::Duration::from_micros(after * 500));
            match ends {
                Ends::Worker => {
                    world.crash(0);
                    world.restart(0);
                }
                Ends::Coordinator => world.restart_coordinator(),
                Ends::Link => world.reset(0),
            }
            world.run_for(secs(20));
            let case = (ends, after);
            assert_eq!((world.state(0), used(&world).len()), (LinkState::Connected, 1), "{case:?}");
            assert_eq!(refused(&mut world), Some(Denied::Revoked), "{case:?}");
        }
    }
}

#[test]
fn auth_6_of_all_keys_that_followed_from_a_token_only_the_one_used_first_is_good() {
    let mut world = newcomer();
    world.keeps_keys[Side::Peer as usize] = false;
    world.drive_until("the worker has a key", |world| !world.kept_keys.is_empty());
    // Another one comes with a copy of the token.
    let first = world.kept_keys.remove(&0).expect("it was told to keep it");
    world.crash(0);
    assert!(
        told_with_the_token(&mut world).contains(&Heard::Control(Control::NextKey)),
        "it is good until a key is used"
    );
    world.keeps_keys[Side::Peer as usize] = true;
    world.restart(0);
    drive_connected(&mut world, 0);
    assert_eq!(denied(&told(&mut world, holder_of(&first))), Some(Denied::Revoked));
    assert_eq!(refused(&mut world), Some(Denied::Revoked));
    world.restart_coordinator();
    assert_eq!(denied(&told(&mut world, holder_of(&first))), Some(Denied::Revoked), "nor after a restart");
    // The other way round: what came later is not good either.
    let mut world = newcomer();
    world.keeps_keys[Side::Peer as usize] = false;
    world.drive_until("the worker has a key", |world| !world.kept_keys.is_empty());
    let first = world.kept_keys.remove(&0).expect("it was told to keep it");
    world.crash(0);
    world.restart(0);
    world.drive_until("and another one", |world| !world.kept_keys.is_empty());
    assert!(welcomed(&told(&mut world, holder_of(&first))).is_some());
    let later = world.kept_keys[&0].clone();
    assert_eq!(denied(&told(&mut world, holder_of(&later))), Some(Denied::Revoked));
}

#[test]
fn auth_6_a_token_whose_time_is_over_or_that_is_revoked_is_refused_under_seal() {
    let mut world = newcomer();
    world.crash(0);
    world.run_for(secs(VALID_S - 1));
    let of_version_1 = told(&mut world, Puppet::worker(0).with_version(1));
    assert_eq!(denied(&of_version_1), Some(Denied::Version));
    assert!(told_with_the_token(&mut world).contains(&Heard::Control(Control::NextKey)));
    world.run_for(secs(2));
    assert_eq!(refused(&mut world), Some(Denied::Spent));
    world.restart(0);
    world.run_for(secs(1));
    assert_eq!(world.worker(0).stopped(), Some(Reason::Denied(Denied::Spent)));
    // Another one, for the same worker.
    let token = Key { id: KeyId([8; 8]), ..worker_key(0) };
    assert_eq!(world.tell_coordinator(Input::AddToken { key: &token, valid: secs(60) }), Ok(()));
    let client = Key { id: KeyId([7; 8]), ..rejoin_sim::client_key(0) };
    let refused_role = world.tell_coordinator(Input::AddToken { key: &client, valid: secs(60) });
    assert_eq!(refused_role, Err(Rejected::Conflict), "clients do not enrol");
    // Whoever enrols when it is revoked is told so, and gets no key.
    world.keeps_keys[Side::Coordinator as usize] = false;
    let mut holder = holder_of(&token);
    holder.greet(&mut world);
    holder.challenged(&mut world);
    holder.prove(&mut world);
    let next = world.unsaid_keys.pop().expect("it is to be kept");
    assert_eq!(world.tell_coordinator(Input::RevokeKey { key: token.id }), Ok(()));
    assert_eq!(denied(&holder.hear(&mut world)), Some(Denied::Revoked));
    assert_eq!(world.tell_coordinator(Input::KeyKept { key: next, kept: true }), Ok(()));
    let mut late = holder_of(&token);
    late.greet(&mut world);
    late.challenged(&mut world);
    late.prove(&mut world);
    assert_eq!(denied(&late.hear(&mut world)), Some(Denied::Revoked));
}

#[test]
fn auth_6_whoever_enrols_is_given_little_time_and_few_keys() {
    let mut world = newcomer();
    world.crash(0);
    world.keeps_keys[Side::Coordinator as usize] = false;
    let mut first = Puppet::worker(0).with_version(2);
    for puppet in [&mut first, &mut Puppet::worker(0).with_version(2)] {
        puppet.greet(&mut world);
        puppet.challenged(&mut world);
        puppet.prove(&mut world);
    }
    assert_eq!(world.closes.get(&first.conn), Some(&Reason::Superseded), "one at a time");
    world.run_for(limits::HANDSHAKE_TIME + secs(1));
    assert_eq!(world.closes.values().filter(|reason| **reason == Reason::Timeout).count(), 1);
    world.keeps_keys[Side::Coordinator as usize] = true;
    // Two were made durable too late to tell anybody.
    for key in std::mem::take(&mut world.unsaid_keys) {
        assert_eq!(world.tell_coordinator(Input::KeyKept { key, kept: true }), Ok(()));
    }
    for n in 0..TOKEN_KEYS_MAX {
        assert!(told_with_the_token(&mut world).contains(&Heard::Control(Control::NextKey)), "{n}");
        world.run_for(secs(1));
    }
    assert_eq!(refused(&mut world), Some(Denied::Spent));
}

#[test]
fn auth_6_a_token_that_cannot_be_kept_comes_again_and_never_works() {
    let mut world = newcomer();
    world.keeps_keys[Side::Peer as usize] = false;
    world.drive_until("the worker has a key", |world| !world.kept_keys.is_empty());
    let dials = world.dials(0);
    world.run_for(secs(30));
    assert_eq!((world.dials(0), world.state(0)), (dials, LinkState::Waiting), "nobody is dialled meanwhile");
    world.keeps_keys[Side::Peer as usize] = true;
    assert_eq!(world.tell_worker(0, worker::Input::KeyKept { kept: false }), Ok(()));
    drive_connected(&mut world, 0);
    // A session is nothing that a token leads to, whoever says so.
    let mut world = newcomer();
    let conn = divert(&mut world);
    let mut puppet = Puppet::coordinator(0).with_version(2);
    puppet.accept(&mut world, conn, 1);
    puppet.say(&mut world, |body| {
        let credit = Credit { tasks: 2, messages: 4096, bulk: 1 << 20 };
        let (heartbeat_us, spread_us, lifetime_us) = (1_000_000, 0, 300_000_000);
        let welcome = Welcome { generation: 1, resumed: None, heartbeat_us, spread_us, lifetime_us, credit };
        body.push(Class::Control, &Control::Welcome(welcome));
    });
    assert_eq!(world.leaves.last(), Some(&(0, Reason::Protocol)));
}
