//! Uploads by whoever lies, or comes back at the wrong moment (CKPT-1, CKPT-2, CKPT-4)
#![allow(clippy::unwrap_used)]

mod common;

use common::{denied, ms, secs, to_worker};
use rejoin_core::blob::chunk_name;
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::journal::{Record, homes_of};
use rejoin_core::wire::message::{
    CheckpointRefused, Class, Control, Credit, FromWorker, Held, InventoryItem, ToWorker,
};
use rejoin_sim::{Heard, Job, Puppet, Setup, World};

fn enter(world: &mut World, n: usize, items: &[InventoryItem]) -> (Puppet, Vec<Heard>) {
    let mut p = Puppet::worker(n);
    let mut hello = p.hello();
    hello.versions = [2].into_iter().collect();
    p.greet_with(world, &hello);
    p.challenged(world);
    p.prove(world);
    let mut heard = p.hear(world);
    let session = p.session.unwrap().0;
    let bytes: Vec<u8> = items.iter().flat_map(|i| postcard::to_allocvec(i).unwrap()).collect();
    let credit = Credit { tasks: 1, messages: 4096, bulk: 1 << 20 };
    p.say(world, |body| {
        assert!(body.push(Class::Control, &Control::Begin { session }));
        assert!(body.push(Class::Control, &Control::Confirm { generation: 1 }));
        assert!(body.push(Class::Control, &Control::Credit(credit)));
        assert!(body.push(Class::Numbered(1), &FromWorker::Inventory { part: 0, last: true, cut: 0, items: &bytes }));
    });
    world.run_for(ms(50));
    heard.extend(p.hear(world));
    (p, heard)
}

fn world() -> World {
    let mut world = World::new(Setup {
        workers: 2,
        coordinator: |c| {
            c.lost_after = secs(1);
            c.checkpoint_bytes_max = 6 * 65_536;
        },
        ..Setup::default()
    });
    for n in 0..2 {
        world.wire(n).refuses = true;
        world.reset(n);
    }
    world
}

fn assigned(heard: &[Heard]) -> Token {
    heard
        .iter()
        .filter_map(to_worker)
        .find_map(|(_, m)| if let ToWorker::Assign { token, .. } = m { Some(token) } else { None })
        .unwrap()
}

fn answers(heard: &[Heard]) -> Vec<(u64, Option<CheckpointRefused>)> {
    heard
        .iter()
        .filter_map(to_worker)
        .filter_map(
            |(_, m)| {
                if let ToWorker::Checkpointed { number, refused, .. } = m { Some((number, refused)) } else { None }
            },
        )
        .collect()
}

fn send(world: &mut World, p: &mut Puppet, token: Token, number: u64, blob: &[u8]) -> Vec<Heard> {
    offer(world, p, token, number, blob);
    pieces(world, p, token, number, blob);
    world.run_for(ms(50));
    p.hear(world)
}

fn offer(world: &mut World, p: &mut Puppet, token: Token, number: u64, blob: &[u8]) {
    let names: Vec<u8> = blob.chunks(65_536).flat_map(chunk_name).collect();
    p.say(world, |b| {
        assert!(b.push(Class::Loose, &FromWorker::Offer { token, number, length: blob.len() as u64, names: &names }))
    });
    world.run_for(ms(50));
}

fn pieces(world: &mut World, p: &mut Puppet, token: Token, number: u64, blob: &[u8]) {
    let mut offset = 0;
    for chunk in blob.chunks(65_536) {
        for bytes in chunk.chunks(16_384) {
            p.say(world, |b| assert!(b.push(Class::Loose, &FromWorker::Piece { token, number, offset, bytes })));
            offset += bytes.len() as u64;
        }
    }
}

/// A task that runs on worker 0, by its first attempt
fn running(world: &mut World) -> (Puppet, TaskId, Token) {
    let (mut a, _) = enter(world, 0, &[]);
    let task = world.submit("a", Job::takes(ms(1)));
    world.run_for(ms(50));
    let token = assigned(&a.hear(world));
    a.say(world, |b| assert!(b.push(Class::Numbered(2), &FromWorker::Running { token, progress: 0 })));
    (a, task, token)
}

fn blob(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|n| (n / 65_536) as u8 ^ seed).collect()
}

#[test]
fn ckpt_4_whoever_has_not_started_is_offered_the_newest_and_may_ask_for_just_that() {
    let mut w = world();
    let (mut a, task, one) = running(&mut w);
    assert_eq!(answers(&send(&mut w, &mut a, one, 1, &blob(1, 65_636))), [(1, None)]);
    a.close(&mut w);
    w.run_for(secs(2));
    let (mut b, heard) = enter(&mut w, 1, &[]);
    let two = assigned(&heard);
    b.close(&mut w); // in the middle of its restore
    w.run_for(secs(2));
    let (mut a, heard) = enter(&mut w, 0, &[]);
    let three = assigned(&heard);
    a.say(&mut w, |b| assert!(b.push(Class::Numbered(2), &FromWorker::Running { token: three, progress: 0 })));
    assert_eq!(answers(&send(&mut w, &mut a, three, 2, &blob(2, 131_172))), [(2, None)]);
    let item = InventoryItem { task, token: two, attempt: 2, held: Held::Waiting };
    let (mut b, heard) = enter(&mut w, 1, &[item]);
    let offered = heard.iter().filter_map(to_worker).find_map(|(_, m)| {
        if let ToWorker::RestoreOffer { token, number, length, .. } = m { Some((token, number, length)) } else { None }
    });
    assert_eq!(offered, Some((two, 2, 131_172)));
    b.say(&mut w, |b| assert!(b.push(Class::Loose, &FromWorker::RestoreNeed { token: two, number: 2, wanted: &[7] })));
    w.run_for(ms(50));
    assert_eq!(denied(&b.hear(&mut w)), None, "it asked for just what it was offered");
}

#[test]
fn ckpt_1_a_chunk_that_comes_twice_counts_once_and_the_journal_can_be_recovered() {
    let mut w = world();
    let (mut a, task, one) = running(&mut w);
    offer(&mut w, &mut a, one, 1, &blob(1, 65_537));
    a.close(&mut w);
    w.run_for(secs(2));
    let (mut b, heard) = enter(&mut w, 1, &[]);
    let two = assigned(&heard);
    assert_eq!(answers(&send(&mut w, &mut b, two, 1, &blob(1, 65_536))), [(1, None)]);
    let item = InventoryItem { task, token: one, attempt: 1, held: Held::Running { progress: 0 } };
    let (mut a, _) = enter(&mut w, 0, &[item]);
    pieces(&mut w, &mut a, one, 1, &blob(1, 65_536));
    w.run_for(ms(50));
    w.restart_coordinator();
}

#[test]
fn ckpt_2_what_is_left_of_damaged_uploads_makes_room_for_the_next() {
    let mut w = world();
    let (mut a, _, one) = running(&mut w);
    let mut all = Vec::new();
    for number in 1..=9 {
        let mut bytes = blob(number as u8 * 16, 65_537);
        offer(&mut w, &mut a, one, number, &bytes);
        *bytes.last_mut().unwrap() ^= 0x80; // its file changed while it was sent
        pieces(&mut w, &mut a, one, number, &bytes);
        w.run_for(ms(50));
        all.extend(answers(&a.hear(&mut w)));
    }
    assert!(all.iter().all(|a| a.1 == Some(CheckpointRefused::Damaged)), "{all:?}");
}

#[test]
fn ckpt_1_whole_chunks_outlive_the_coordinator() {
    let mut w = world();
    let (mut a, _, one) = running(&mut w);
    offer(&mut w, &mut a, one, 1, &blob(1, 65_537));
    pieces(&mut w, &mut a, one, 1, &blob(1, 65_536));
    w.run_for(ms(50));
    w.restart_coordinator();
    w.run_for(ms(50));
    let gone: Vec<u64> = w
        .journal
        .records(false)
        .filter_map(
            |r| if let Record::Gone { homes, .. } = r { Some(homes_of(homes).collect::<Vec<_>>()) } else { None },
        )
        .flatten()
        .collect();
    assert_eq!(gone, [] as [u64; 0], "ARCHITECTURE.md: whole chunks are kept and not asked for again");
}
