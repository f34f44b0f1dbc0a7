//! LOG: output travels whole, or the task fails and says so

mod common;

use common::{connected, ms, noise, puppet_worker, secs, to_worker, welcomed};
use quickcheck::{Gen, QuickCheck};
use rejoin_core::coordinator::Input;
use rejoin_core::link::Reason;
use rejoin_core::wire::message::{
    BodyWriter, Class, Control, Credit, Denied, Failure, FromWorker, Held, InventoryItem, Outcome, Stream, StreamEnd,
    TaskSpec, ToWorker,
};
use rejoin_core::worker::StreamMeter;
use rejoin_sim::{Heard, Job, JournalMode, Puppet, Setup, Side, World};

#[test]
fn log_1_output_larger_than_every_window_arrives_whole_through_cuts_at_both_ends() {
    let mut world = connected(Setup {
        clients: 1,
        coordinator: |config| config.heartbeat = Some(ms(200)),
        worker: |config| config.link.backoff.cap = ms(300),
        client: |config| config.link.backoff.cap = ms(300),
        ..Setup::default()
    });
    let output = noise(5_000_000);
    for peer in 0..2 {
        world.wire(peer).latency = ms(20);
    }
    world.journal.mode = JournalMode::Syncs(ms(15));
    let task = world.submit_by_client(0, "prints", Job::prints(&output));
    let mut cuts = 0;
    while world.client(0).task(task).is_none_or(|task| task.end.is_none()) {
        assert!(cuts < 400, "no progress through cuts");
        world.run_for(ms(330 + cuts % 7 * 10));
        let peer = cuts as usize % 2;
        match cuts % 5 {
            0 => world.half_open(peer, Side::Peer),
            1 => world.corrupt_next(peer, Side::Coordinator),
            2 => world.corrupt_next(peer, Side::Peer),
            _ => world.reset(peer),
        }
        cuts += 1;
    }
    assert!(cuts > 10, "{cuts} cuts");
    assert!(world.succeeded(task) && world.output(task) == output);
    let told = world.client_output[0].get(&(task, world.starts[0].1, Stream::Out));
    assert!(told == Some(&output));
    assert_eq!((world.executions(task), world.coordinator.stats().violations), (1, 0));
}

#[test]
fn log_1_output_cut_anywhere_arrives_whole() {
    fn whole(size: u32, cuts: Vec<u8>, seed: u64) -> bool {
        let output = noise(size as usize % 200_000);
        let mut world = connected(Setup {
            seed,
            coordinator: |config| config.heartbeat = Some(ms(200)),
            worker: |config| config.link.compress = false,
            ..Setup::default()
        });
        let task = world.submit("prints", Job::prints(&output));
        for cut in &cuts {
            for _ in 0..cut % 16 {
                world.step();
            }
            if cut % 2 == 0 { world.reset(0) } else { world.reset_seen_by(0, Side::Peer) }
        }
        world.drive_until("it is over", |world| world.outcome(task).is_some());
        world.succeeded(task) && world.output(task) == output && world.coordinator.stats().violations == 0
    }
    QuickCheck::new().rng(Gen::new(20)).tests(60).quickcheck(whole as fn(u32, Vec<u8>, u64) -> bool);
}

#[test]
fn log_1_output_beyond_the_limit_is_a_typed_failure_once_and_never_shortened_in_silence() {
    for (size, fits) in [(100_000, true), (100_001, false), (3_000_000, false)] {
        let mut world = connected(Setup {
            clients: 1,
            coordinator: |config| config.output_bytes_max = 100_000,
            ..Setup::default()
        });
        let spec = TaskSpec { retries: 5, ..TaskSpec::default() };
        let task = world.submit_with("prints", spec, Job { prints: noise(size), ..Job::takes(secs(2)) });
        world.drive_until("it is over", |world| world.outcome(task).is_some());
        let expected = if fits { Outcome::Succeeded } else { Outcome::Failed(Failure::OutputTooLarge) };
        assert_eq!(world.outcome(task), Some(expected), "{size}");
        world.run_for(secs(60));
        assert_eq!((world.executions(task), world.worker(0).held(), world.dials(0)), (1, 0, 1));
        let end = world.coordinator.task(task).and_then(|task| task.end).expect("over");
        assert_eq!(end.streams[0].len as usize, world.output(task).len(), "what is kept is told exactly");
        assert!(noise(size).starts_with(world.output(task)));
        world.audit();
    }
}

#[test]
fn log_1_pieces_are_acknowledged_by_the_offset_that_is_durable_and_a_gap_is_a_breach() {
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world, 1);
    world.submit("prints", Job::takes(ms(1)));
    let heard = puppet.hear(&mut world);
    let Some((_, ToWorker::Assign { token, .. })) = heard.iter().filter_map(to_worker).next() else { panic!() };
    world.journal.mode = JournalMode::Syncs(ms(100));
    let stream = Stream::Err;
    puppet.say(&mut world, |body| {
        body.push(Class::Loose, &FromWorker::Output { token, stream, offset: 0, bytes: b"some" });
        body.push(Class::Loose, &FromWorker::Output { token, stream, offset: 2, bytes: b"me more" });
    });
    let kept =
        |heard: &[_]| heard.iter().filter_map(to_worker).any(|(_, m)| m == ToWorker::Kept { token, stream, offset: 9 });
    assert!(!kept(&puppet.hear(&mut world)), "not before it is durable");
    world.run_for(ms(100));
    assert!(kept(&puppet.hear(&mut world)));
    assert_eq!(world.journal.kept(token, stream), b"some more");
    puppet.say(&mut world, |body| {
        body.push(Class::Loose, &FromWorker::Output { token, stream, offset: 99, bytes: b"gap" });
    });
    puppet.hear(&mut world);
    assert_eq!(world.closes.get(&puppet.conn), Some(&Reason::Denied(Denied::Protocol)));
}

#[test]
fn log_1_a_result_whose_digest_is_wrong_is_a_failure_and_not_a_wait_without_end() {
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world, 1);
    let task = world.submit("prints", Job::takes(ms(1)));
    let heard = puppet.hear(&mut world);
    let Some((_, ToWorker::Assign { token, .. })) = heard.iter().filter_map(to_worker).next() else { panic!() };
    let stream = Stream::Out;
    puppet.say(&mut world, |body| {
        body.push(Class::Loose, &FromWorker::Output { token, stream, offset: 0, bytes: b"some" });
        let streams = [StreamEnd { len: 4, sha256: [1; 32] }, StreamEnd::default()];
        let result = FromWorker::Result { task, token, outcome: Outcome::Succeeded, result: b"", streams };
        body.push(Class::Numbered(2), &result);
    });
    world.run_for(ms(10));
    assert_eq!(world.outcome(task), Some(Outcome::Failed(Failure::Error)), "{:?}", world.coordinator.why(task));
    let acked = puppet.hear(&mut world).contains(&rejoin_sim::Heard::Control(Control::Ack { received: 2 }));
    assert!(acked);
    world.tell_coordinator(Input::Forget { task }).expect("it is over");
}

#[test]
fn log_1_a_result_that_came_before_its_output_is_judged_when_that_is_here() {
    let stream = Stream::Out;
    let early = |world: &mut World, puppet: &mut Puppet, claims: StreamEnd| {
        let task = world.submit("prints", Job::takes(ms(1)));
        let heard = puppet.hear(world);
        let Some((_, ToWorker::Assign { token, .. })) = heard.iter().filter_map(to_worker).next() else { panic!() };
        puppet.say(world, |body| {
            let streams = [claims, StreamEnd::default()];
            let result = FromWorker::Result { task, token, outcome: Outcome::Succeeded, result: b"", streams };
            body.push(Class::Numbered(2), &result);
        });
        world.run_for(secs(2));
        assert_eq!(world.outcome(task), None, "its output is still to come");
        let acked = Heard::Control(Control::Ack { received: 2 });
        assert!(!puppet.hear(world).contains(&acked), "what waits is not acknowledged (SESS-2)");
        (task, token, acked)
    };
    // Of the length that it says, and of another digest.
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world, 1);
    let (task, token, acked) = early(&mut world, &mut puppet, StreamEnd { len: 4, sha256: [1; 32] });
    puppet.say(&mut world, |body| {
        body.push(Class::Loose, &FromWorker::Output { token, stream, offset: 0, bytes: b"some" });
    });
    world.run_for(secs(2));
    assert_eq!(world.outcome(task), Some(Outcome::Failed(Failure::Error)));
    assert!(puppet.hear(&mut world).contains(&acked));
    // Beyond the limit before it is complete.
    let mut world = World::new(Setup { coordinator: |config| config.output_bytes_max = 1000, ..Setup::default() });
    let mut puppet = puppet_worker(&mut world, 1);
    let (task, token, acked) = early(&mut world, &mut puppet, StreamEnd { len: 2000, sha256: [1; 32] });
    puppet.say(&mut world, |body| {
        body.push(Class::Loose, &FromWorker::Output { token, stream, offset: 0, bytes: &[0; 1001] });
    });
    world.run_for(secs(2));
    assert_eq!(world.outcome(task), Some(Outcome::Failed(Failure::OutputTooLarge)));
    assert!(puppet.hear(&mut world).contains(&acked));
}

#[test]
fn log_1_a_result_that_waits_is_not_acknowledged_by_what_waited_in_another_session() {
    let (outcome, stream) = (Outcome::Succeeded, Stream::Out);
    let mut meter = StreamMeter::new();
    meter.update(b"some");
    let streams = [meter.end(), StreamEnd::default()];
    let mut world = World::new(Setup::default());
    let mut puppet = puppet_worker(&mut world, 2);
    let tasks = [0, 1].map(|n| world.submit(&format!("prints {n}"), Job::takes(ms(1))));
    let heard = puppet.hear(&mut world);
    let given: Vec<_> = heard.iter().filter_map(to_worker).collect();
    let [(_, ToWorker::Assign { token: one, .. }), (_, ToWorker::Assign { token: two, .. })] = given[..] else {
        panic!("{given:?}")
    };
    puppet.say(&mut world, |body| {
        let result = FromWorker::Result { task: tasks[0], token: one, outcome, result: b"", streams };
        body.push(Class::Numbered(2), &result);
    });
    world.run_for(ms(100));
    // In the next session its numbers begin anew.
    puppet.close(&mut world);
    assert!(welcomed(&puppet.enter(&mut world)).is_some());
    let mut items = Vec::new();
    for (task, token) in tasks.into_iter().zip([one, two]) {
        let mut body = [0; 128];
        let mut writer = BodyWriter::new(&mut body);
        writer.push(Class::Loose, &InventoryItem { task, token, attempt: 1, held: Held::Finished });
        let len = writer.len();
        items.extend_from_slice(&body[3..len]);
    }
    puppet.say(&mut world, |body| {
        let credit = Credit { tasks: 2, messages: 4096, bulk: 1 << 20 };
        body.push(Class::Control, &Control::Credit(credit));
        body.push(Class::Numbered(1), &FromWorker::Inventory { part: 0, last: true, cut: 0, items: &items });
    });
    world.run_for(ms(100));
    puppet.say(&mut world, |body| {
        for (number, task, token) in [(2, tasks[1], two), (3, tasks[0], one)] {
            let result = FromWorker::Result { task, token, outcome, result: b"", streams };
            body.push(Class::Numbered(number), &result);
        }
        body.push(Class::Loose, &FromWorker::Output { token: one, stream, offset: 0, bytes: b"some" });
    });
    world.run_for(secs(2));
    assert_eq!((world.outcome(tasks[0]), world.outcome(tasks[1])), (Some(outcome), None));
    let acked = |heard: &[Heard]| {
        let acks = heard.iter().filter_map(|heard| {
            if let Heard::Control(Control::Ack { received }) = heard { Some(*received) } else { None }
        });
        acks.max()
    };
    assert_eq!(
        acked(&puppet.hear(&mut world)),
        Some(1),
        "number 2 waits in this session, whatever became of it in another"
    );
    puppet.say(&mut world, |body| {
        body.push(Class::Loose, &FromWorker::Output { token: two, stream, offset: 0, bytes: b"some" });
    });
    world.run_for(secs(2));
    assert_eq!(world.outcome(tasks[1]), Some(outcome));
    assert_eq!(acked(&puppet.hear(&mut world)), Some(3));
}
