//! What several stories need
#![allow(dead_code, unreachable_pub)]

use std::time::Duration;

use rejoin_core::coordinator::Event;
use rejoin_core::ids::ConnId;
use rejoin_core::link::LinkState;
use rejoin_core::wire::message::{Class, Control, Credit, Denied, FromWorker, Item, ToWorker};
use rejoin_sim::{Heard, Puppet, Setup, World};

pub fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

pub fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A world in which everybody is connected
pub fn connected(setup: Setup) -> World {
    let peers = setup.workers + setup.clients;
    let mut world = World::new(setup);
    for peer in 0..peers {
        drive_connected(&mut world, peer);
    }
    // The coordinator knows it, too.
    world.run_for(ms(5));
    world
}

pub fn drive_connected(world: &mut World, peer: usize) {
    world.run_for(Duration::ZERO);
    world.drive_until("the peer is connected", |world| world.state(peer) == LinkState::Connected);
}

/// Leads worker 0's next dial to nobody in particular, and waits for its M1 to arrive there
pub fn divert(world: &mut World) -> ConnId {
    world.wire(0).diverted = true;
    world.reset(0);
    world.run_for(Duration::ZERO);
    let dials = world.dials(0);
    world.drive_until("it greets", |world| world.state(0) == LinkState::Greeting && world.dials(0) >= dials);
    let latency = world.wire(0).latency;
    world.run_for(latency);
    world.connection(0).expect("dialled")
}

/// How often the coordinator let somebody in
pub fn entries(world: &World) -> usize {
    world.events.iter().filter(|event| matches!(event, Event::Connected { .. })).count()
}

/// What a puppet was refused with, under seal
pub fn denied(heard: &[Heard]) -> Option<Denied> {
    heard
        .iter()
        .find_map(|heard| if let Heard::Control(Control::Denied(denied)) = heard { Some(*denied) } else { None })
}

/// What a puppet was welcomed with
pub fn welcomed(heard: &[Heard]) -> Option<rejoin_core::wire::message::Welcome> {
    heard
        .iter()
        .find_map(|heard| if let Heard::Control(Control::Welcome(welcome)) = heard { Some(*welcome) } else { None })
}

/// Bytes that no compression makes smaller
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// Reads what a puppet worker heard
pub fn to_worker(heard: &Heard) -> Option<(u64, ToWorker<'_>)> {
    let (number, payload) = match heard {
        Heard::Numbered(number, payload) => (*number, payload),
        Heard::Loose(payload) => (0, payload),
        Heard::Control(_) => return None,
    };
    Item { class: Class::Loose, ignorable: false, payload }.decode().map(|message| (number, message))
}

/// A world whose worker 0 is a puppet: in session, confirmed, reconciled, and granting this many tasks
pub fn puppet_worker(world: &mut World, tasks: u64) -> Puppet {
    world.wire(0).refuses = true;
    world.reset(0);
    let mut puppet = Puppet::worker(0);
    assert!(welcomed(&puppet.enter(world)).is_some());
    puppet.say(world, |body| {
        let credit = Credit { tasks, messages: 4096, bulk: 1 << 20 };
        body.push(Class::Control, &Control::Credit(credit));
        body.push(Class::Numbered(1), &FromWorker::Inventory { part: 0, last: true, cut: 0, items: &[] });
    });
    puppet
}
