//! Peers that say odd things at odd times, and embedders that are slow: bounds hold, and nobody else suffers

mod common;

use std::sync::mpsc::channel;
use std::time::Duration;

use common::{connected, denied, ms, secs, to_worker, welcomed};
use rejoin_core::Rejected;
use rejoin_core::blob::chunk_name;
use rejoin_core::client::{Event as ClientEvent, Input as ClientInput};
use rejoin_core::coordinator::Input;
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::journal::Record;
use rejoin_core::limits::{KEYS_NEXT_MAX, TOKEN_KEYS_MAX};
use rejoin_core::wire::keys::Key;
use rejoin_core::wire::message::{
    Class, Control, Credit, Denied, Follow, FromClient, FromWorker, Held, InventoryItem, Item, Outcome, TaskSpec,
    ToClient, ToWorker,
};
use rejoin_sim::{Heard, Job, Puppet, Setup, Side, World, worker_key};

fn holder_of(key: &Key) -> Puppet {
    let mut puppet = Puppet::worker(0).with_version(2).with_secret(*key.secret.reveal());
    puppet.key = key.clone();
    puppet
}

fn told(world: &mut World, mut puppet: Puppet) -> Vec<Heard> {
    puppet.greet(world);
    puppet.challenged(world);
    puppet.prove(world);
    puppet.hear(world)
}

fn newcomer() -> World {
    World::new(Setup {
        coordinator: |config| config.tokens = vec![(worker_key(0).id, secs(600))],
        worker: |config| config.link.token = true,
        ..Setup::default()
    })
}

/// The embedder is done with the key that it was to keep last
fn the_last_key_is_kept(world: &mut World) {
    if let Some(key) = world.unsaid_keys.last().copied() {
        assert_eq!(world.tell_coordinator(Input::KeyKept { key, kept: true }), Ok(()));
    }
}

/// However connections end, few keys of a name are durable that nobody has used
#[test]
fn auth_6_no_more_than_four_unused_keys_are_made_durable_however_connections_end() {
    let mut world = connected(Setup::default());
    world.wire(0).refuses = true;
    world.reset(0);
    world.run_for(secs(1));
    let mut first = Puppet::worker(0).with_version(2);
    first.enter(&mut world);
    assert_eq!(world.tell_coordinator(Input::RotateKey { peer: &worker_key(0).name }), Ok(()));
    world.run_for(ms(10));
    first.close(&mut world);
    // From here on the embedder needs a moment to write a key down, and connections do not last for that long.
    world.keeps_keys[Side::Coordinator as usize] = false;
    for _ in 0..40 {
        let mut puppet = Puppet::worker(0).with_version(2);
        puppet.enter(&mut world);
        puppet.close(&mut world);
        world.run_for(ms(10));
        the_last_key_is_kept(&mut world);
    }
    let kept = world.next_keys();
    assert!(kept <= KEYS_NEXT_MAX, "{kept} keys of one name were made durable, and none was used");
}

/// Nor of a token
#[test]
fn auth_6_no_more_than_sixteen_keys_of_a_token_are_made_durable_however_connections_end() {
    let mut world = newcomer();
    world.crash(0);
    world.keeps_keys[Side::Coordinator as usize] = false;
    for _ in 0..60 {
        let mut puppet = Puppet::worker(0).with_version(2);
        puppet.greet(&mut world);
        puppet.challenged(&mut world);
        puppet.prove(&mut world);
        puppet.close(&mut world);
        world.run_for(ms(10));
        the_last_key_is_kept(&mut world);
    }
    let kept = world.next_keys();
    assert!(kept <= TOKEN_KEYS_MAX, "{kept} keys followed from one token");
}

#[test]
fn auth_6_of_two_keys_of_a_token_that_was_revoked_meanwhile_one_is_good_at_most() {
    let mut world = newcomer();
    world.keeps_keys[Side::Peer as usize] = false;
    world.drive_until("the worker has a key", |world| !world.kept_keys.is_empty());
    let first = world.kept_keys.remove(&0).unwrap();
    world.crash(0);
    world.restart(0);
    world.drive_until("whoever has a copy of the token has another one", |world| !world.kept_keys.is_empty());
    let second = world.kept_keys[&0].clone();
    world.crash(0);
    // As `rejoin key new other` does, once the token's time is over.
    assert_eq!(world.tell_coordinator(Input::RevokeKey { key: worker_key(0).id }), Ok(()));
    let in_by_first = welcomed(&told(&mut world, holder_of(&first))).is_some();
    let in_by_second = welcomed(&told(&mut world, holder_of(&second))).is_some();
    let first_locked_out = denied(&told(&mut world, holder_of(&first))) == Some(Denied::Revoked);
    assert!(
        !(in_by_first && in_by_second),
        "one token let two in; the first one, who has a key that was good, is locked out: {first_locked_out}"
    );
}

#[test]
fn auth_6_with_a_key_those_that_follow_from_it_are_revoked() {
    let mut world = connected(Setup::default());
    world.keeps_keys[Side::Peer as usize] = false;
    assert_eq!(world.tell_coordinator(Input::RotateKey { peer: &worker_key(0).name }), Ok(()));
    world.drive_until("it is told", |world| !world.kept_keys.is_empty());
    let next = world.kept_keys[&0].clone();
    world.crash(0);
    assert_eq!(world.tell_coordinator(Input::RevokeKey { key: worker_key(0).id }), Ok(()));
    let heard = told(&mut world, holder_of(&next));
    assert_eq!((welcomed(&heard).is_some(), denied(&heard)), (false, Some(Denied::Revoked)));
}

fn enter(world: &mut World, n: usize, items: &[InventoryItem]) -> (Puppet, Vec<Heard>) {
    let mut p = Puppet::worker(n).with_version(2);
    let mut heard = p.enter(world);
    let bytes: Vec<u8> = items.iter().flat_map(|i| postcard::to_allocvec(i).expect("serialises")).collect();
    let credit = Credit { tasks: 1, messages: 4096, bulk: 1 << 20 };
    p.say(world, |body| {
        assert!(body.push(Class::Control, &Control::Credit(credit)));
        assert!(body.push(Class::Numbered(1), &FromWorker::Inventory { part: 0, last: true, cut: 0, items: &bytes }));
    });
    world.run_for(ms(50));
    heard.extend(p.hear(world));
    (p, heard)
}

fn assigned(heard: &[Heard]) -> Token {
    let assign = |(_, m)| if let ToWorker::Assign { token, .. } = m { Some(token) } else { None };
    heard.iter().filter_map(to_worker).find_map(assign).expect("it was assigned")
}

/// An attempt that was replaced and has not started asks for a checkpoint whose chunks cannot be read
fn asks_for_what_cannot_be_read() {
    let mut w = World::new(Setup { workers: 2, coordinator: |c| c.lost_after = secs(1), ..Setup::default() });
    for n in 0..2 {
        w.wire(n).refuses = true;
        w.reset(n);
    }
    let (mut a, _) = enter(&mut w, 0, &[]);
    let task = w.submit("a", Job::takes(ms(1)));
    w.run_for(ms(50));
    let one = assigned(&a.hear(&mut w));
    let blob = vec![7; 65_537];
    let names: Vec<u8> = blob.chunks(65_536).flat_map(chunk_name).collect();
    a.say(&mut w, |b| {
        assert!(b.push(Class::Numbered(2), &FromWorker::Running { token: one, progress: 0 }));
        assert!(b.push(Class::Loose, &FromWorker::Offer { token: one, number: 1, length: 65_537, names: &names }));
    });
    w.run_for(ms(50));
    for (offset, bytes) in [(0, &blob[..32_768]), (32_768, &blob[..32_768]), (65_536, &blob[..1])] {
        a.say(&mut w, |b| {
            assert!(b.push(Class::Loose, &FromWorker::Piece { token: one, number: 1, offset, bytes }));
        });
    }
    w.run_for(ms(50));
    a.close(&mut w);
    w.run_for(secs(2));
    // Given to the second worker, which is away before it has started it.
    let (mut b, heard) = enter(&mut w, 1, &[]);
    let two = assigned(&heard);
    b.close(&mut w);
    w.run_for(secs(2));
    // The first one has it once more, and runs it.
    let (mut a, heard) = enter(&mut w, 0, &[]);
    let three = assigned(&heard);
    a.say(&mut w, |b| assert!(b.push(Class::Numbered(2), &FromWorker::Running { token: three, progress: 0 })));
    w.run_for(ms(50));
    w.journal.lose_chunks();
    let item = InventoryItem { task, token: two, attempt: 2, held: Held::Waiting };
    let (mut b, heard) = enter(&mut w, 1, &[item]);
    let offered = |(_, m)| matches!(m, ToWorker::RestoreOffer { token, number: 1, .. } if token == two);
    assert!(heard.iter().filter_map(to_worker).any(offered), "it is offered what cannot be read");
    b.say(&mut w, |b| assert!(b.push(Class::Loose, &FromWorker::RestoreNeed { token: two, number: 1, wanted: &[3] })));
    w.run_for(ms(50));
}

/// The coordinator must not read the same piece again and again
#[test]
fn ckpt_4_a_chunk_that_cannot_be_read_for_a_replaced_attempt_does_not_stop_the_coordinator() {
    let (done, is_done) = channel();
    std::thread::spawn(move || {
        asks_for_what_cannot_be_read();
        let _ = done.send(());
    });
    assert_eq!(is_done.recv_timeout(Duration::from_secs(20)), Ok(()), "it reads the same piece again and again");
}

fn to_client(heard: &Heard) -> Option<ToClient<'_>> {
    let (Heard::Numbered(_, payload) | Heard::Loose(payload)) = heard else { return None };
    Item { class: Class::Loose, ignorable: false, payload }.decode()
}

fn puppet_client(world: &mut World) -> Puppet {
    let mut client = Puppet::client(0).with_version(2);
    assert!(welcomed(&client.enter(world)).is_some());
    client
}

/// S17: what waits for its input counts as a task
#[test]
fn task_1_tasks_whose_inputs_are_still_to_come_are_no_more_than_there_may_be_tasks() {
    let mut world = World::new(Setup { clients: 1, coordinator: |c| c.tasks_max = 2, ..Setup::default() });
    let at = world.client_peer(0);
    world.wire(at).refuses = true;
    world.reset(at);
    let mut client = puppet_client(&mut world);
    let payload = vec![7; 49_120];
    let mut wanted = 0;
    for n in 0..200u64 {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_le_bytes());
        let (task, spec, names) = (TaskId(id), TaskSpec::default(), &chunk_name(b"x"));
        let follow = Follow::Acceptance;
        client.say(&mut world, |b| {
            let large = FromClient::SubmitLarge { task, spec, about: &[], payload: &payload, length: 1, names, follow };
            assert!(b.push(Class::Numbered(n + 1), &large));
        });
        world.run_for(ms(20));
        let heard = client.hear(&mut world);
        wanted += heard.iter().filter_map(to_client).filter(|m| matches!(m, ToClient::InputNeed { .. })).count();
    }
    assert!(wanted <= 2, "{wanted} drafts are held where there may be 2 tasks");
}

/// TASK-1: the same again is the same submit, also while pieces for the one before are under way
#[test]
fn frame_3_the_same_large_submit_again_is_no_breach_while_pieces_are_on_their_way() {
    let mut world = World::new(Setup { clients: 1, ..Setup::default() });
    let at = world.client_peer(0);
    world.wire(at).refuses = true;
    world.reset(at);
    let mut client = puppet_client(&mut world);
    let (input, task) = (vec![7; 65_536], TaskId([3; 16]));
    let names = chunk_name(&input);
    let submit = |number: u64, client: &mut Puppet, world: &mut World| {
        client.say(world, |b| {
            let (spec, follow) = (TaskSpec::default(), Follow::Acceptance);
            let large =
                FromClient::SubmitLarge { task, spec, about: &[], payload: &[], length: 65_536, names: &names, follow };
            assert!(b.push(Class::Numbered(number), &large));
        });
    };
    let piece = |offset: u64, client: &mut Puppet, world: &mut World| {
        client.say(world, |b| {
            let bytes = &input[..16_384];
            assert!(b.push(Class::Loose, &FromClient::InputPiece { task, offset, bytes }));
        });
    };
    submit(1, &mut client, &mut world);
    world.run_for(ms(20));
    assert!(client.hear(&mut world).iter().filter_map(to_client).any(|m| matches!(m, ToClient::InputNeed { .. })));
    piece(0, &mut client, &mut world);
    submit(2, &mut client, &mut world);
    // The newest `InputNeed` that it has heard is still the first one.
    piece(16_384, &mut client, &mut world);
    world.run_for(ms(20));
    assert_eq!(denied(&client.hear(&mut world)), None);
}

/// The same with a client that follows a task no more, and thinks better of it
#[test]
fn frame_3_a_client_that_submits_a_large_input_again_keeps_its_session() {
    let mut world = connected(Setup { clients: 1, ..Setup::default() });
    let at = world.client_peer(0);
    world.wire(at).latency = ms(20);
    let input: Vec<u8> = (0..400_000u32).map(|n| (n * 7 + n / 251) as u8).collect();
    for wait in 0..60 {
        let name = format!("large {wait}");
        let task = world.submit_large(0, &name, &input, Job::takes(ms(10))).unwrap();
        world.run_for(ms(wait));
        if world.client_events[0].contains(&ClientEvent::Accepted { task }) {
            continue;
        }
        world.tell_client(0, ClientInput::Forget { task }).unwrap();
        world.submit_large(0, &name, &input, Job::takes(ms(10))).unwrap();
        world.drive_until("it is over", |world| world.client_events[0].contains(&ClientEvent::Ended { task }));
        assert_eq!(world.coordinator.stats().violations, 0, "submitted again after {wait} ms");
    }
}

/// No way to cut the same bytes makes two contents one
#[test]
fn task_1_a_task_with_a_large_input_is_another_one_than_any_without() {
    let mut world = connected(Setup { clients: 1, ..Setup::default() });
    let input = vec![5; 1000];
    let task = world.submit_large(0, "large", &input, Job::takes(ms(10))).unwrap();
    world.drive_until("it is accepted", |world| world.coordinator.task(task).is_some());
    let payload = [&b"large"[..], &chunk_name(&input), &1000u64.to_le_bytes(), &5u64.to_le_bytes()].concat();
    let other = Input::Submit { task, spec: TaskSpec::default(), about: &[], payload: &payload };
    assert_eq!(world.tell_coordinator(other), Err(Rejected::Conflict));
}

/// Also where the number of a part has no room for more
#[test]
fn sess_7_an_inventory_of_endless_empty_parts_is_a_breach() {
    let mut world = World::new(Setup::default());
    world.wire(0).refuses = true;
    world.reset(0);
    let mut puppet = Puppet::worker(0).with_version(2);
    puppet.enter(&mut world);
    let (mut part, parts) = (0u32, u32::from(u16::MAX) + 10);
    while part < parts {
        puppet.say(&mut world, |body| {
            for _ in 0..1000.min(parts - part) {
                let said = FromWorker::Inventory { part: part as u16, last: false, cut: 0, items: &[] };
                assert!(body.push(Class::Numbered(u64::from(part) + 1), &said));
                part += 1;
            }
        });
        world.run_for(ms(20));
        puppet.hear(&mut world);
    }
    assert!(world.coordinator.stats().violations > 0);
}

#[test]
fn settings_at_their_ends_do_not_panic() {
    let extreme = |config: &mut rejoin_core::coordinator::Config| {
        (config.session_lifetime, config.lost_after, config.recovery_window) =
            (Duration::MAX, Duration::MAX, Duration::MAX);
        (config.flapping_within, config.brake_for, config.retention) = (Duration::MAX, Duration::MAX, Duration::MAX);
        (config.retry_pause, config.ageing, config.forget_after) = (Duration::MAX, Duration::MAX, Some(Duration::MAX));
        (config.output_bytes_max, config.checkpoint_max, config.checkpoint_bytes_max, config.blob_bytes_max) =
            (u64::MAX, u64::MAX, u64::MAX, u64::MAX);
        config.admission.rate = u32::MAX;
        config.admission.burst = u32::MAX;
    };
    let mut world = connected(Setup { workers: 12, clients: 1, coordinator: extreme, ..Setup::default() });
    let input = vec![5; 100_000];
    let task = world.submit_large(0, "large", &input, Job::takes(ms(10))).unwrap();
    for n in 0..12 {
        world.reset(n);
    }
    world.drive_until("it is over", |world| world.client_events[0].contains(&ClientEvent::Ended { task }));
    for n in 0..8 {
        world.crash(n);
    }
    world.run_for(secs(100));
    world.restart_coordinator();
    world.run_for(secs(100));
    world
        .tell_coordinator(Input::AddToken {
            key: &Key { id: rejoin_core::ids::KeyId([8; 8]), ..worker_key(0) },
            valid: Duration::MAX,
        })
        .unwrap();
    world.tell_coordinator(Input::GoAway { back_in: Duration::MAX }).unwrap();
    world.run_for(secs(1000));
}

/// A token of an earlier epoch is said to be another task's
#[test]
fn journ_4_a_worker_that_lies_about_an_old_token_does_not_spoil_the_journal() {
    let mut w = World::new(Setup { workers: 3, ..Setup::default() });
    for n in 0..3 {
        w.wire(n).refuses = true;
        w.reset(n);
    }
    let (mut a, _) = enter(&mut w, 0, &[]);
    w.submit("x", Job::takes(ms(1)));
    w.run_for(ms(50));
    let old = assigned(&a.hear(&mut w));
    // Another task waits, which nobody has.
    let other = w.submit("y", Job::takes(ms(1)));
    w.run_for(ms(50));
    w.restart_coordinator();
    // The memory of the first worker is gone: `x` is given out again.
    let (mut a, heard) = enter(&mut w, 0, &[]);
    assert_ne!(assigned(&heard), old);
    w.run_for(ms(50));
    a.hear(&mut w);
    // A worker says that it runs the other one under the token that the first one had.
    let item = InventoryItem { task: other, token: old, attempt: 1, held: Held::Running { progress: 0 } };
    enter(&mut w, 1, &[item]);
    w.run_for(secs(1));
    // Panics: "what a coordinator wrote can be read".
    w.restart_coordinator();
}

#[test]
fn frame_3_inputs_and_results_together_are_no_more_than_may_be_kept() {
    let mut w = World::new(Setup { clients: 1, coordinator: |c| c.blob_bytes_max = 100_000, ..Setup::default() });
    w.wire(0).refuses = true;
    w.reset(0);
    let at = w.client_peer(0);
    common::drive_connected(&mut w, at);
    let (mut a, _) = enter(&mut w, 0, &[]);
    let task = w.submit("x", Job::takes(ms(1)));
    w.run_for(ms(50));
    let token = assigned(&a.hear(&mut w));
    // The one worker takes no more: the second task waits, and its input with it.
    w.submit_large(0, "y", &vec![5; 60_000], Job::takes(ms(1))).unwrap();
    w.run_for(secs(1));
    let result = vec![6; 60_000];
    let (outcome, names, streams) = (Outcome::Succeeded, &chunk_name(&result), Default::default());
    a.say(&mut w, |b| {
        let said = FromWorker::LargeResult { task, token, outcome, length: 60_000, names, streams };
        assert!(b.push(Class::Numbered(2), &said));
    });
    w.run_for(ms(50));
    for (n, bytes) in result.chunks(30_000).enumerate() {
        let (number, offset) = (0, n as u64 * 30_000);
        a.say(&mut w, |b| assert!(b.push(Class::Loose, &FromWorker::Piece { token, number, offset, bytes })));
    }
    w.run_for(ms(50));
    let kept: u64 =
        w.journal.records(true).map(|r| if let Record::Piece { bytes, .. } = r { bytes.len() as u64 } else { 0 }).sum();
    let gone = w.journal.records(true).any(|r| matches!(r, Record::Gone { .. }));
    assert!(gone || kept <= 100_000, "{kept} bytes are kept where there may be 100,000");
}

/// What fits into a worker's message need not fit into the client's, which has more in it
#[test]
fn frame_3_a_result_that_is_larger_than_it_may_be_does_not_shut_a_client_out() {
    let mut w = World::new(Setup { clients: 1, ..Setup::default() });
    w.wire(0).refuses = true;
    w.reset(0);
    let at = w.client_peer(0);
    common::drive_connected(&mut w, at);
    let (mut a, _) = enter(&mut w, 0, &[]);
    let task = w.submit_by_client(0, "x", Job::takes(ms(1)));
    w.run_for(ms(50));
    let token = assigned(&a.hear(&mut w));
    let (outcome, streams) = (Outcome::Succeeded, Default::default());
    let said = |result| FromWorker::Result { task, token, outcome, result, streams };
    let spare = postcard::to_allocvec(&said(&[7; 50_000])).unwrap().len() - 50_000;
    let result = vec![7; 60_000 - spare];
    a.say(&mut w, |b| assert!(b.push(Class::Numbered(2), &said(&result))));
    w.run_for(secs(5));
    if denied(&a.hear(&mut w)) == Some(Denied::Protocol) {
        return;
    }
    let other = w.submit_by_client(0, "y", Job::takes(ms(1)));
    w.run_for(secs(60));
    assert!(w.client_events[0].contains(&ClientEvent::Accepted { task: other }), "nothing reaches the client any more");
}

/// S17: what waits for the journal counts as well
#[test]
fn ckpt_1_offers_without_end_are_a_breach_while_the_journal_is_slow_as_well() {
    let mut w = World::new(Setup::default());
    w.wire(0).refuses = true;
    w.reset(0);
    let (mut a, _) = enter(&mut w, 0, &[]);
    w.journal.mode = rejoin_sim::JournalMode::Syncs(secs(2));
    w.submit("x", Job::takes(ms(1)));
    for _ in 0..40 {
        a.say(&mut w, |b| {
            for number in 1..=800 {
                let offer = FromWorker::Offer { token: Token(1 << 40), number, length: 1, names: &[7; 32] };
                assert!(b.push(Class::Loose, &offer));
            }
        });
        w.run_for(ms(1));
    }
    w.run_for(ms(500));
    let violations = w.coordinator.stats().violations;
    assert!(violations > 0, "32,000 answers wait, of which none can leave");
}

/// S17: a confirmation needs no credit, and so must cost nothing
#[test]
fn task_8_whoever_confirms_again_and_again_is_told_once_to_drain() {
    let mut w = World::new(Setup { clients: 1, ..Setup::default() });
    w.wire(0).refuses = true;
    w.reset(0);
    let at = w.client_peer(0);
    common::drive_connected(&mut w, at);
    let (mut a, _) = enter(&mut w, 0, &[]);
    let question = rejoin_core::wire::view::Question::Drain(worker_key(0).name);
    w.tell_client(0, ClientInput::Ask { ask: 1, question: &question }).unwrap();
    w.run_for(ms(50));
    for _ in 0..10 {
        a.say(&mut w, |b| (0..1000).for_each(|_| assert!(b.push(Class::Control, &Control::Confirm { generation: 1 }))));
        w.run_for(ms(20));
    }
    w.run_for(ms(500));
    let drains = a.hear(&mut w).iter().filter_map(to_worker).filter(|(_, m)| matches!(m, ToWorker::Drain)).count();
    assert!(drains <= 2, "it was told {drains} times");
}

#[test]
fn auth_6_a_key_that_is_added_again_is_let_in_or_refused_as_conflicting() {
    let mut world = World::new(Setup::default());
    world.crash(0);
    let key = worker_key(0);
    assert_eq!(world.tell_coordinator(Input::RevokeKey { key: key.id }), Ok(()));
    let added = world.tell_coordinator(Input::AddKey { key: &key });
    let heard = told(&mut world, Puppet::worker(0).with_version(2));
    assert!(added.is_err() || welcomed(&heard).is_some(), "it was added, and is answered by {:?}", denied(&heard));
}
