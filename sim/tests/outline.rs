//! Two states of a coordinator look alike to a search only if they go on alike

mod common;

use std::collections::BTreeMap;
use std::hash::Hasher;

use common::{connected, ms, puppet_worker, to_worker};
use rejoin_core::coordinator::Input;
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::outline::Outline;
use rejoin_core::wire::message::{Class, Control, Credit, FromWorker, Held, InventoryItem, ToWorker};
use rejoin_sim::{Job, Puppet, Setup, Side, World};

fn look(world: &World) -> u64 {
    let mut outline = Outline::new();
    world.coordinator.outline(&mut outline);
    outline.finish()
}

fn setup(seed: u64) -> Setup {
    Setup { seed, ..Setup::default() }
}

/// A puppet that was given a task and has acknowledged nothing
fn given(seed: u64) -> (World, Puppet, TaskId, Token) {
    let mut world = World::new(setup(seed));
    let mut puppet = puppet_worker(&mut world, 1);
    let task = world.submit("one", Job::takes(ms(1)));
    let heard = puppet.hear(&mut world);
    let Some((_, ToWorker::Assign { token, .. })) = heard.iter().filter_map(to_worker).next() else { panic!() };
    (world, puppet, task, token)
}

/// A puppet in session that names these attempts in the first part of its inventory, or in all of it
fn inventory(seed: u64, last: bool, items: &[Held]) -> World {
    let mut world = World::new(setup(seed));
    world.wire(0).refuses = true;
    world.reset(0);
    let mut puppet = Puppet::worker(0);
    puppet.enter(&mut world);
    let item =
        |(n, held): (u64, &Held)| InventoryItem { task: TaskId([1; 16]), token: Token(n), attempt: 1, held: *held };
    let items: Vec<u8> =
        (1..).zip(items).flat_map(|item_of| postcard::to_allocvec(&item(item_of)).expect("memory grows")).collect();
    puppet.say(&mut world, |body| {
        body.push(Class::Numbered(1), &FromWorker::Inventory { part: 0, last, cut: 0, items: &items });
    });
    world
}

/// A connected worker, and a clone that has said so much behind its proof while it waits
fn contended(seed: u64, said: Option<usize>) -> World {
    let mut world = connected(setup(seed));
    world.half_open(0, Side::Coordinator);
    let Some(said) = said else { return world };
    let mut clone = Puppet::worker(0);
    clone.greet(&mut world);
    clone.challenged(&mut world);
    clone.prove(&mut world);
    for _ in 0..said {
        clone.say(&mut world, |body| {
            body.push(Class::Control, &Control::Echo { stamp: 0, credit: Credit::default() });
        });
    }
    world
}

#[test]
fn what_is_under_way_to_a_peer_and_who_waits_makes_a_difference_and_names_do_not() {
    type State = (&'static str, fn(u64) -> World);
    let states: [State; 11] = [
        ("a task was given", |seed| given(seed).0),
        ("it is to be stopped", |seed| {
            let (mut world, _, task, _) = given(seed);
            world.tell_coordinator(Input::Cancel { task }).expect("it is known");
            world
        }),
        ("it runs", |seed| {
            let (mut world, mut puppet, _, token) = given(seed);
            puppet.say(&mut world, |body| {
                body.push(Class::Numbered(2), &FromWorker::Running { token, progress: 0 });
            });
            world
        }),
        ("an inventory of nothing, and more to come", |seed| inventory(seed, false, &[])),
        ("an inventory with an item, and more to come", |seed| inventory(seed, false, &[Held::Waiting])),
        ("an inventory with another item, and more to come", |seed| inventory(seed, false, &[Held::Finished])),
        ("an inventory of nothing", |seed| inventory(seed, true, &[])),
        ("an inventory with an item that was judged", |seed| inventory(seed, true, &[Held::Waiting])),
        ("nobody waits", |seed| contended(seed, None)),
        ("a clone waits", |seed| contended(seed, Some(0))),
        ("a clone waits and has said something", |seed| contended(seed, Some(1))),
    ];
    let mut looks = BTreeMap::new();
    for (what, state) in states {
        let world = state(1);
        if let Some(other) = looks.insert(look(&world), what) {
            panic!("`{what}` looks like `{other}`");
        }
        assert_eq!(look(&state(2)), look(&world), "{what}: other names and keys, and the same state");
    }
}
