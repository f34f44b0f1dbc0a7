//! Uploads by whoever lies, or comes back at the wrong moment (CKPT-1, CKPT-2, CKPT-4)
#![allow(clippy::unwrap_used)]

mod common;

use common::{denied, ms, secs, to_worker};
use rejoin_core::blob::chunk_name;
use rejoin_core::client::Input;
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::journal::{Record, homes_of};
use rejoin_core::limits::ANSWER_BYTES_MAX;
use rejoin_core::wire::message::{
    CheckpointRefused, Class, Control, Credit, FromWorker, Held, InventoryItem, ToWorker,
};
use rejoin_core::wire::view::{CheckpointView, Question};
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
        clients: 1,
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

fn ask(world: &mut World, question: &Question) -> Vec<u8> {
    let asked = world.answers.len();
    world.tell_client(0, Input::Ask { ask: asked as u64, question }).unwrap();
    world.drive_until("it is answered", |world| world.answers.len() > asked);
    let (client, ask, answer) = world.answers.last().cloned().unwrap();
    assert_eq!((client, ask), (0, asked as u64));
    answer
}

fn kept(world: &mut World, question: &Question) -> Vec<CheckpointView> {
    postcard::from_bytes(&ask(world, question)).unwrap()
}

/// All bytes of a checkpoint as a client is shown them
fn shown(world: &mut World, task: TaskId, number: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let offset = bytes.len() as u64;
        let piece = ask(world, &Question::CheckpointPiece { task, number, offset });
        let piece: Vec<u8> = postcard::from_bytes::<Option<_>>(&piece).unwrap()?;
        assert!(piece.len() <= ANSWER_BYTES_MAX);
        if piece.is_empty() {
            return Some(bytes);
        }
        bytes.extend_from_slice(&piece);
    }
}

#[test]
fn ckpt_2_people_see_what_is_kept_and_have_a_task_begin_anew() {
    let mut w = world();
    let (mut a, task, one) = running(&mut w);
    let [first, second] = [blob(1, 65_636), blob(2, 131_172)];
    assert_eq!(answers(&send(&mut w, &mut a, one, 1, &first)), [(1, None)]);
    assert_eq!(answers(&send(&mut w, &mut a, one, 2, &second)), [(2, None)]);
    let both = kept(&mut w, &Question::Checkpoints(task));
    let view = |number, length, chunks| CheckpointView { number, token: one, length, chunks };
    assert_eq!(both, [view(2, 131_172, 3), view(1, 65_636, 2)]);
    assert!(shown(&mut w, task, 2) == Some(second) && shown(&mut w, task, 1) == Some(first));
    assert_eq!(shown(&mut w, task, 3), None, "there is no such checkpoint");
    let nothing = kept(&mut w, &Question::Checkpoints(TaskId::from_text("nobody's")));
    assert_eq!(nothing, []);

    let left = kept(&mut w, &Question::DropCheckpoints(task));
    assert_eq!((left.len(), shown(&mut w, task, 2)), (0, None));
    a.close(&mut w);
    w.restart_coordinator();
    assert_eq!(kept(&mut w, &Question::Checkpoints(task)), [], "nor after a restart");
    w.run_for(secs(200));
    let (mut b, heard) = enter(&mut w, 1, &[]);
    assert!(assigned(&heard) > one);
    let offered = heard.iter().filter_map(to_worker).any(|(_, m)| matches!(m, ToWorker::RestoreOffer { .. }));
    assert!(!offered, "the next attempt begins anew");
    b.close(&mut w);
}

#[test]
fn sess_4_a_piece_that_a_client_waits_for_comes_though_its_link_breaks_meanwhile() {
    let mut w = world();
    let (mut a, task, one) = running(&mut w);
    let bytes = blob(1, 65_636);
    assert_eq!(answers(&send(&mut w, &mut a, one, 1, &bytes)), [(1, None)]);
    for (n, offset) in [(0, 0), (1, 32_768), (2, 65_536)] {
        w.tell_client(0, Input::Ask { ask: n, question: &Question::CheckpointPiece { task, number: 1, offset } })
            .unwrap();
        w.reset(w.client_peer(0));
    }
    w.drive_until("all are answered", |w| w.answers.len() == 3);
    let mut pieces: Vec<(u64, Option<Vec<u8>>)> =
        w.answers.iter().map(|(_, ask, answer)| (*ask, postcard::from_bytes(answer).unwrap())).collect();
    pieces.sort_by_key(|(ask, _)| *ask);
    let whole: Vec<u8> = pieces.into_iter().flat_map(|(_, piece)| piece.unwrap()).collect();
    assert!(whole == bytes);
}
