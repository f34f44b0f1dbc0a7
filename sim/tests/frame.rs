//! FRAME: what a seal protects, and what it does not excuse

mod common;

use common::{connected, denied, divert, drive_connected, ms, noise, secs, welcomed};
use rejoin_core::Seed;
use rejoin_core::coordinator::Input;
use rejoin_core::ids::{ClusterId, SessionId, TaskId, Token};
use rejoin_core::limits::{BODY_BYTES_MAX, BULK_PIECE_BYTES_MAX, FRAME_BYTES_MAX, WORKER_ATTEMPTS_MAX};
use rejoin_core::link::{LinkState, Reason};
use rejoin_core::wire::handshake::{Challenge, Refusal};
use rejoin_core::wire::message::{
    BodyWriter, Class, Control, Credit, Denied, Failure, FromWorker, Held, InventoryItem, Outcome, Stream, TaskSpec,
    ToWorker, Verdict, Welcome,
};
use rejoin_sim::{Heard, Job, Puppet, Setup, Side, World};

/// A world whose worker 0 is a puppet, in session and confirmed
fn puppet() -> (World, Puppet) {
    let mut world = World::new(Setup::default());
    world.wire(0).refuses = true;
    world.reset(0);
    let mut puppet = Puppet::worker(0);
    assert!(welcomed(&puppet.enter(&mut world)).is_some());
    (world, puppet)
}

fn inventory(body: &mut BodyWriter<'_>) {
    body.push(Class::Numbered(1), &FromWorker::Inventory { part: 0, last: true, cut: 0, items: &[] });
}

#[test]
fn frame_1_a_frame_sent_twice_or_out_of_turn_is_refused() {
    for swap in [false, true] {
        let (mut world, mut puppet) = puppet();
        let frames = [puppet.seal(0, 0, &[]), puppet.seal(0, 0, &[])];
        world.say(puppet.conn, &frames[usize::from(swap)]);
        world.say(puppet.conn, &frames[0]);
        assert_eq!(world.closes.get(&puppet.conn), Some(&Reason::BadTag));
        assert_eq!(world.coordinator.stats().bad_tags, 1);
    }
}

#[test]
fn frame_2_a_flipped_bit_anywhere_in_a_sealed_frame_costs_the_connection_and_nothing_else() {
    let (mut world, mut puppet) = puppet();
    puppet.say(&mut world, inventory);
    let mut bit = 0;
    loop {
        let mut body = vec![0; 100];
        let mut writer = BodyWriter::new(&mut body);
        writer.push(Class::Numbered(2), &FromWorker::Running { token: Token(7), progress: 1 });
        let len = writer.len();
        let mut frame = puppet.seal(0, len as u16, &body[..len]);
        if bit == frame.len() * 8 {
            break;
        }
        frame[bit / 8] ^= 1 << (bit % 8);
        world.say(puppet.conn, &frame);
        assert_eq!(world.closes.get(&puppet.conn), Some(&Reason::BadTag), "bit {bit}");
        puppet.hear(&mut world);
        puppet.greet(&mut world);
        assert_eq!(puppet.challenged(&mut world), Some(1), "the session is open, and nothing was taken in");
        let generation = world.coordinator.stats().resumed + 1;
        puppet.resume(&mut world, generation, 0, 1, 0);
        assert!(welcomed(&puppet.hear(&mut world)).is_some_and(|welcome| welcome.resumed == Some(1)));
        let generation = generation + 1;
        puppet.say(&mut world, |body| {
            body.push(Class::Control, &Control::Confirm { generation });
        });
        bit += 3;
        bit = bit.min(frame.len() * 8);
    }
    assert!(world.coordinator.stats().bad_tags > 80);
    assert_eq!((world.coordinator.stats().violations, world.coordinator.stats().opened), (0, 1));
}

#[test]
fn frame_2_a_cut_short_or_lengthened_frame_is_a_bad_tag() {
    for change in [-1i32, -17, -100, 1, 16, 70_000] {
        let (mut world, mut puppet) = puppet();
        let mut frame = puppet.seal(0, 3, b"\0\0\x02");
        frame.resize((frame.len() as i32 + change).max(0) as usize, 0);
        world.say(puppet.conn, &frame);
        assert_eq!(world.closes.get(&puppet.conn), Some(&Reason::BadTag));
    }
}

#[test]
fn frame_2_a_sealed_breach_of_the_rules_ends_the_session_with_a_reason_and_not_its_tasks() {
    type Breach = (&'static str, fn(&mut BodyWriter<'_>));
    let welcome = |body: &mut BodyWriter<'_>| {
        let credit = Credit::default();
        let welcome = Welcome { generation: 1, resumed: None, heartbeat_us: 1, spread_us: 1, lifetime_us: 1, credit };
        body.push(Class::Control, &Control::Welcome(welcome));
    };
    let breaches: [Breach; 17] = [
        ("a gap in the numbers", |body| {
            body.push_void(5);
        }),
        ("an unknown message", |body| {
            body.push(Class::Numbered(1), &250u8);
        }),
        ("an unknown control message", |body| {
            body.push(Class::Control, &250u8);
        }),
        ("a message with something behind it", |body| {
            body.push(Class::Numbered(1), &(FromWorker::GivenBack { token: Token(1) }, 1u8));
        }),
        ("a welcome from a peer", welcome),
        ("a denial from a peer", |body| {
            body.push(Class::Control, &Control::Denied(Denied::Config));
        }),
        ("an acknowledgement of what was never sent", |body| {
            body.push(Class::Control, &Control::Ack { received: 1000 });
        }),
        ("a confirmation of another generation", |body| {
            body.push(Class::Control, &Control::Confirm { generation: 9 });
        }),
        ("a second beginning", |body| {
            body.push(Class::Control, &Control::Begin { session: SessionId([0; 16]) });
        }),
        ("a second inventory", |body| {
            inventory(body);
            body.push(Class::Numbered(2), &FromWorker::Inventory { part: 0, last: true, cut: 0, items: &[] });
        }),
        ("an inventory that starts in the middle", |body| {
            body.push(Class::Numbered(1), &FromWorker::Inventory { part: 1, last: true, cut: 0, items: &[] });
        }),
        ("an inventory of garbage", |body| {
            body.push(Class::Numbered(1), &FromWorker::Inventory { part: 0, last: true, cut: 0, items: b"xyz" });
        }),
        ("an inventory of more than any worker can hold", |body| {
            let item = |n| InventoryItem { task: TaskId([1; 16]), token: Token(n), attempt: 1, held: Held::Waiting };
            let items: Vec<u8> = (0..=WORKER_ATTEMPTS_MAX as u64)
                .flat_map(|n| postcard::to_allocvec(&item(n)).expect("memory grows"))
                .collect();
            assert!(
                body.push(Class::Numbered(1), &FromWorker::Inventory { part: 0, last: false, cut: 0, items: &items })
            );
        }),
        ("an offer behind the inventory", |body| {
            inventory(body);
            body.push(Class::Numbered(2), &FromWorker::Offers { tags: &[] });
        }),
        ("an offer that means nothing", |body| {
            body.push(Class::Numbered(1), &FromWorker::Offers { tags: b"xyz" });
        }),
        ("numbered output", |body| {
            let (token, stream) = (Token(1), Stream::Out);
            body.push(Class::Numbered(1), &FromWorker::Output { token, stream, offset: 0, bytes: b"x" });
        }),
        ("a loose result", |body| {
            body.push(Class::Loose, &FromWorker::GivenBack { token: Token(1) });
        }),
    ];
    for (what, breach) in breaches {
        let (mut world, mut puppet) = puppet();
        let task = world.submit("stays", Job::takes(ms(1)));
        puppet.say(&mut world, breach);
        assert_eq!(denied(&puppet.hear(&mut world)), Some(Denied::Protocol), "{what}");
        assert_eq!(world.closes.get(&puppet.conn), Some(&Reason::Denied(Denied::Protocol)));
        assert_eq!(world.coordinator.stats().violations, 1);
        puppet.greet(&mut world);
        assert_eq!(puppet.challenged(&mut world), None, "{what}: the session is no more");
        world.wire(0).refuses = false;
        world.drive_until("an honest worker does the task", |world| world.succeeded(task));
    }
}

#[test]
fn frame_2_sealed_bodies_that_are_no_batch_end_the_session() {
    let lie = |len: u16, flags: u8, body: &[u8]| {
        let (mut world, mut puppet) = puppet();
        let frame = puppet.seal(flags, len, body);
        world.say(puppet.conn, &frame);
        denied(&puppet.hear(&mut world))
    };
    let protocol = Some(Denied::Protocol);
    assert_eq!(lie(0, 0, b""), None, "an empty batch is a batch");
    assert_eq!(lie(1, 0, b"x"), protocol, "an item cut short");
    assert_eq!(lie(3, 0, b"\0\0\x03"), protocol, "an unknown class");
    assert_eq!(lie(3, 0, b"\xff\xff\x00"), protocol, "a length beyond the end");
    assert_eq!(lie(9, 0, b"\0\0\x02"), protocol, "another length than the header's");
    assert_eq!(lie(u16::MAX, 0, b"\0\0\x02"), protocol, "longer than a body may be");
    assert_eq!(lie(3, 2, b"\0\0\x02"), protocol, "an unknown flag");
    assert_eq!(lie(3, 1, b"\x30\0\0\x02"), protocol, "compressed, though that was not agreed on");
}

#[test]
fn frame_2_a_bomb_of_compressed_zeroes_stops_at_the_cap() {
    let mut world = World::new(Setup::default());
    world.wire(0).refuses = true;
    world.reset(0);
    let mut puppet = Puppet::worker(0);
    let hello = rejoin_core::wire::handshake::Hello { capabilities: 1, ..puppet.hello() };
    puppet.greet_with(&mut world, &hello);
    puppet.challenged(&mut world);
    puppet.prove(&mut world);
    // One literal, then a match that repeats it without end.
    let mut bomb = vec![0x1f, 0, 1, 0];
    bomb.resize(4000, 0xff);
    bomb.extend([0, 0x50, 0, 0, 0, 0, 0]);
    let frame = puppet.seal(1, BODY_BYTES_MAX as u16, &bomb);
    world.say(puppet.conn, &frame);
    assert_eq!(world.coordinator.stats().violations, 1);
    assert!(world.closes.contains_key(&puppet.conn));
}

#[test]
fn frame_2_a_worker_leaves_a_coordinator_that_breaks_the_rules_under_seal() {
    type Breach = (&'static str, fn(&mut BodyWriter<'_>));
    let breaches: [Breach; 10] = [
        ("a gap", |body| {
            body.push_void(3);
        }),
        ("an unknown message", |body| {
            body.push(Class::Numbered(1), &99u8);
        }),
        ("a second welcome", |body| {
            body.push(Class::Control, &Control::Welcome(welcome()));
        }),
        ("an acknowledgement of what was never sent", |body| {
            body.push(Class::Control, &Control::Ack { received: 77 });
        }),
        ("a verdict nobody asked for", |body| {
            body.push(Class::Numbered(1), &ToWorker::Verdict { token: Token(1), verdict: Verdict::Discard });
        }),
        ("more tasks than it takes", |body| {
            for n in 1..=3 {
                assign(body, n, Token(n << 40), b"input");
            }
        }),
        ("the same token twice", |body| {
            assign(body, 1, Token(1 << 40), b"a");
            assign(body, 2, Token(1 << 40), b"a");
        }),
        ("an input larger than any may be", |body| assign(body, 1, Token(1 << 40), &[0; 49_153])),
        ("a checkpoint larger than any may be", |body| {
            let (token, bytes) = (Token(1 << 40), &[0; 49_153][..]);
            assert!(body.push(Class::Numbered(1), &ToWorker::Restore { token, number: 1, bytes }));
        }),
        ("output of a task", |body| {
            body.push(Class::Loose, &(200u8, 200u8));
        }),
    ];
    for (what, breach) in breaches {
        let mut world = World::new(Setup::default());
        world.submit("of a puppet", Job::takes(ms(1)));
        let mut puppet = welcomed_by_puppet(&mut world);
        assert_eq!(world.state(0), LinkState::Connected);
        puppet.say(&mut world, breach);
        assert_eq!(world.leaves.last(), Some(&(0, Reason::Protocol)), "{what}");
        assert!(world.worker(0).is_slow(), "{what}");
        assert_eq!((world.state(0), world.worker(0).stats().violations), (LinkState::Waiting, 1));
        world.wire(0).diverted = false;
        let from = world.now();
        drive_connected(&mut world, 0);
        assert!(world.now().since(from) >= secs(30));
        assert!(!world.worker(0).is_slow());
    }
}

#[test]
fn frame_2_a_worker_takes_nothing_in_before_its_welcome_and_believes_no_resume_that_it_did_not_ask_for() {
    type Breach = (&'static str, fn(&mut BodyWriter<'_>));
    let breaches: [Breach; 4] = [
        ("a message in front of the welcome", |body| assign(body, 1, Token(1 << 40), b"input")),
        ("a loose message in front of the welcome", |body| {
            let (token, stream) = (Token(1 << 40), Stream::Out);
            body.push(Class::Loose, &ToWorker::Kept { token, stream, offset: 0 });
        }),
        ("a heartbeat in front of the welcome", |body| {
            body.push(Class::Control, &Control::Beat { stamp: 1, credit: Credit::default() });
        }),
        ("a resume of nothing", |body| {
            body.push(Class::Control, &Control::Welcome(Welcome { resumed: Some(0), ..welcome() }));
        }),
    ];
    for (what, breach) in breaches {
        let mut world = World::new(Setup::default());
        let conn = divert(&mut world);
        let mut puppet = Puppet::coordinator(0);
        puppet.accept(&mut world, conn, 1);
        puppet.say(&mut world, breach);
        assert_eq!(world.leaves.last(), Some(&(0, Reason::Protocol)), "{what}");
        assert_eq!((world.worker(0).held(), world.worker(0).stats().violations), (0, 1), "{what}");
        world.wire(0).diverted = false;
        drive_connected(&mut world, 0);
    }
    // Sealed well, and of no form that there is.
    let mut world = World::new(Setup::default());
    let mut puppet = welcomed_by_puppet(&mut world);
    let frame = puppet.seal(0x40, 0, &[]);
    world.say(puppet.conn, &frame);
    assert_eq!(world.leaves.last(), Some(&(0, Reason::Protocol)));
}

#[test]
fn frame_3_inputs_and_results_that_need_many_frames_arrive_once_each_wherever_the_connection_is_cut() {
    for cut_after in 0..60 {
        let mut world = connected(Setup {
            worker: |config| (config.slots, config.prefetch, config.result_bytes_max) = (6, 0, 48 * 1024),
            ..Setup::default()
        });
        let noise = noise(45_000);
        let tasks: Vec<TaskId> = (0..6)
            .map(|n| {
                let returns = noise[n..].to_vec();
                let task = world.plan(&format!("large {n}"), Job { returns, prints: vec![7; 10], ..Job::takes(ms(5)) });
                let submit = Input::Submit { task, spec: TaskSpec::default(), about: &[], payload: &noise };
                world.tell_coordinator(submit).expect("legal");
                task
            })
            .collect();
        for _ in 0..cut_after {
            world.step();
        }
        world.reset(0);
        world.drive_until("all are over", |world| tasks.iter().all(|task| world.succeeded(*task)));
        for (n, task) in tasks.iter().enumerate() {
            let view = world.coordinator.task(*task).expect("it is known");
            assert_eq!(view.end.map(|end| end.result), Some(&noise[n..]), "cut after step {cut_after}");
            assert_eq!((world.executions(*task), view.attempts), (1, 1), "cut after step {cut_after}");
        }
        let violations = world.coordinator.stats().violations + world.worker(0).stats().violations;
        assert_eq!((violations, world.coordinator.stats().stale_results), (0, 0));
    }
}

fn welcome() -> Welcome {
    let credit = Credit { tasks: 0, messages: 4096, bulk: 1 << 20 };
    Welcome { generation: 1, resumed: None, heartbeat_us: 5_000_000, spread_us: 0, lifetime_us: 300_000_000, credit }
}

fn assign(body: &mut BodyWriter<'_>, number: u64, token: Token, payload: &[u8]) {
    let task = rejoin_core::ids::TaskId::from_text("of a puppet");
    let assign = ToWorker::Assign { task, token, attempt: 1, priority: 0, restores: false, payload };
    assert!(body.push(Class::Numbered(number), &assign));
}

fn welcomed_by_puppet(world: &mut World) -> Puppet {
    let conn = divert(world);
    let mut puppet = Puppet::coordinator(0);
    puppet.accept(world, conn, 1);
    puppet.say(world, |body| {
        body.push(Class::Control, &Control::Welcome(welcome()));
    });
    puppet
}

#[test]
fn frame_3_frames_stay_within_their_size_whatever_is_in_them() {
    let mut world =
        connected(Setup { clients: 1, worker: |config| config.result_bytes_max = 48 * 1024, ..Setup::default() });
    world.tap = Some(Vec::new());
    let noise = noise(300_000);
    let job = Job { returns: noise[..48 * 1024].to_vec(), ..Job::prints(&noise) };
    let tasks: Vec<_> = (0..4).map(|n| world.submit_by_client(0, &format!("big {n}"), job.clone())).collect();
    world.drive_until("all are over", |world| {
        tasks.iter().all(|task| world.client(0).task(*task).is_some_and(|task| task.end.is_some()))
    });
    for task in tasks {
        assert_eq!(world.output(task), noise);
        assert_eq!(world.coordinator.task(task).and_then(|t| t.end).map(|end| end.result.len()), Some(48 * 1024));
    }
    let longest = world.tap.iter().flatten().map(|tap| tap.bytes.len()).max();
    assert!(longest.is_some_and(|len| len > 48 * 1024 && len <= FRAME_BYTES_MAX), "{longest:?}");
}

#[test]
fn frame_4_a_frame_carries_one_bulk_piece_of_bounded_size_at_most() {
    let mut world = connected(Setup { worker: |config| config.link.compress = false, ..Setup::default() });
    world.tap = Some(Vec::new());
    let task = world.submit("big", Job::prints(&noise(500_000)));
    world.drive_until("it is over", |world| world.succeeded(task));
    let longest = world.tap.iter().flatten().map(|tap| tap.bytes.len()).max().unwrap_or(0);
    assert!(longest > BULK_PIECE_BYTES_MAX / 4 && longest < BULK_PIECE_BYTES_MAX + 1024, "{longest}");
    assert_eq!(world.output(task), noise(500_000));
}

#[test]
fn frame_5_the_threshold_of_compression_follows_what_is_sent_unless_it_is_pinned() {
    let threshold = |bytes: &[u8], worker: fn(&mut rejoin_core::worker::Config)| {
        let mut world = connected(Setup { worker, ..Setup::default() });
        let task = world.submit("bulky", Job::prints(bytes));
        world.drive_until("it is over", |world| world.succeeded(task));
        assert_eq!(world.output(task), bytes);
        world.worker(0).stats().laws.map(|laws| laws.compress_from_bytes)
    };
    let text = b"the same again and again ".repeat(20_000);
    assert!(threshold(&noise(500_000), |_| {}) > Some(32 * 1024), "what cannot shrink is not tried any more");
    assert_eq!(threshold(&text, |_| {}), Some(256));
    for bytes in [noise(500_000), text] {
        assert_eq!(threshold(&bytes, |config| config.link.pins.compress_from = Some(2000)), Some(2000));
    }
}

#[test]
fn frame_4_pinned_pieces_are_as_long_as_they_are_told_and_wrong_pins_are_refused() {
    let pinned = |config: &mut rejoin_core::worker::Config| {
        config.link.compress = false;
        config.link.pins.bulk_piece = Some(5000);
    };
    let mut world = connected(Setup { worker: pinned, ..Setup::default() });
    world.tap = Some(Vec::new());
    let task = world.submit("big", Job::prints(&noise(500_000)));
    world.drive_until("it is over", |world| world.succeeded(task));
    let longest = world.tap.iter().flatten().map(|tap| tap.bytes.len()).max().unwrap_or(0);
    assert!((5000..5200).contains(&longest), "{longest}");
    let laws = world.worker(0).stats().laws.unwrap();
    assert_eq!((laws.bulk_piece_bytes, laws.shortest_round_trip_us), (5000, Some(2000)));
    assert!(world.coordinator.peers().all(|peer| peer.laws.is_some()), "the coordinator shows its own");
    let mut config = rejoin_core::coordinator::Config::new(ClusterId([1; 16]), 1, Vec::new());
    config.pins.bulk_under_way = Some(1);
    let refused = rejoin_core::coordinator::Coordinator::new(config, Seed([1; 32]), rejoin_core::Instant::ZERO);
    assert_eq!(refused.map(|_| ()).map_err(|error| error.field), Err("bulk_under_way"));
}

#[test]
fn frame_3_a_result_over_the_limit_is_one_typed_failure_and_never_a_loop() {
    for size in [4096, 4097, 1_000_000] {
        let worker = |config: &mut rejoin_core::worker::Config| config.large_result_max = 0;
        let mut world = connected(Setup { worker, clients: 1, ..Setup::default() });
        let job = Job { returns: vec![1; size], ..Job::takes(ms(1)) };
        let spec = rejoin_core::wire::message::TaskSpec { retries: 5, ..Default::default() };
        let task = world.submit_with("returns", spec, job);
        world.drive_until("it is over", |world| world.outcome(task).is_some());
        world.run_for(secs(300));
        let fits = size <= 4096;
        let expected = if fits { Outcome::Succeeded } else { Outcome::Failed(Failure::ResultTooLarge) };
        assert_eq!((world.outcome(task), world.executions(task)), (Some(expected), 1), "{size}");
        assert_eq!((world.dials(0), world.worker(0).held()), (1, 0), "no cut, nothing left behind");
        world.audit();
    }
}

#[test]
fn frame_5_compression_is_kept_where_it_helps_and_off_where_one_end_does_not_want_it() {
    let bytes_of = |coordinator: bool, worker: bool, noisy: bool| {
        let mut world = connected(Setup {
            coordinator: if coordinator { |_| {} } else { |config| config.compress = false },
            worker: if worker { |_| {} } else { |config| config.link.compress = false },
            ..Setup::default()
        });
        let text = if noisy { noise(100_000) } else { vec![b'a'; 100_000] };
        let task = world.submit("prints", Job::prints(&text));
        world.drive_until("it is over", |world| world.succeeded(task));
        assert_eq!(world.output(task), text);
        world.worker(0).stats().bytes_out
    };
    assert!(bytes_of(true, true, false) < 5_000);
    for (coordinator, worker) in [(true, false), (false, true), (false, false)] {
        assert!(bytes_of(coordinator, worker, false) > 100_000);
    }
    assert!((100_000..108_000).contains(&bytes_of(true, true, true)), "noise is not made larger");
}

#[test]
fn frame_6_what_may_be_skipped_is_skipped_and_versions_are_agreed_on() {
    let (mut world, mut puppet) = puppet();
    // Class control, numbered and loose, each marked as ignorable.
    let mut body = vec![1, 0, 0x80, 250];
    body.extend([1, 0, 0x81, 1, 0, 0, 0, 0, 0, 0, 0, 250]);
    body.extend([1, 0, 0x82, 250]);
    let frame = puppet.seal(0, body.len() as u16, &body);
    world.say(puppet.conn, &frame);
    world.run_for(secs(2));
    let heard = puppet.hear(&mut world);
    assert_eq!(denied(&heard), None);
    assert!(heard.contains(&Heard::Control(Control::Ack { received: 1 })), "and its number counts: {heard:?}");
    // The first of the dialler's that the coordinator speaks, too.
    let all = [
        (vec![3], 0),
        (vec![], 0),
        (vec![0], 0),
        (vec![2, 1], 2),
        (vec![1, 0, 7], 1),
        (vec![9, 1, 2], 1),
        (vec![2], 2),
    ];
    for (versions, chosen) in all {
        let mut puppet = Puppet::worker(0);
        let hello =
            rejoin_core::wire::handshake::Hello { versions: versions.iter().copied().collect(), ..puppet.hello() };
        puppet.greet_with(&mut world, &hello);
        let answers = world.hear(puppet.conn);
        let challenge = Challenge::decode(&answers[0]).map(|(challenge, ..)| challenge.version);
        assert_eq!(challenge.unwrap_or(0), chosen, "{versions:?}");
        assert_eq!(Refusal::decode(&answers[0]).is_some(), chosen == 0, "{versions:?}");
    }
}

#[test]
fn frame_2_a_bad_tag_at_either_end_leaves_the_running_task_alone() {
    for at in [Side::Peer, Side::Coordinator] {
        let mut world = connected(Setup { worker: |config| config.link.heartbeat = Some(ms(100)), ..Setup::default() });
        let task = world.submit("runs", Job::takes(secs(2)));
        world.run_for(ms(20));
        world.corrupt_next(0, at);
        world.drive_until("it is over", |world| world.succeeded(task));
        assert_eq!((world.executions(task), world.coordinator.stats().resumed), (1, 1));
        assert_eq!(world.coordinator.stats().bad_tags + world.worker(0).stats().bad_tags, 1);
    }
}
