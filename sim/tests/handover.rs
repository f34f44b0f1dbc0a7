//! What is on its way when one session gives way to another must not be lost, nor counted twice

mod common;

use std::time::Duration;

use common::{ms, secs, to_worker};
use rejoin_core::coordinator::{self, Coordinator};
use rejoin_core::ids::{BootId, ClusterId, KeyId, Role, TaskId, Token};
use rejoin_core::link::{LinkConfig, LinkState};
use rejoin_core::wire::keys::{Key, Secret};
use rejoin_core::wire::message::{Class, Control, Credit, FromWorker, Outcome, Stream, TaskSpec, ToWorker};
use rejoin_core::worker::{self, AttemptState, Worker};
use rejoin_core::{Instant, Loss, Seed};
use rejoin_sim::pair::{Happens, Pair, Peer, Wish};
use rejoin_sim::{Job, Puppet, Setup, World};

/// A worker whose task runs until the test says otherwise
#[derive(Clone)]
struct Patient {
    machine: Worker,
    running: Option<Token>,
}

impl Peer for Patient {
    fn take(&mut self, now: Instant, attempt: u64, happens: Happens<'_>) {
        let input = match happens {
            Happens::Opened(entropy) => worker::Input::Connected { attempt, entropy, binding: None },
            Happens::Message(bytes) => worker::Input::Received { attempt, bytes },
            Happens::Closed => worker::Input::Disconnected { attempt, loss: Loss::Local },
            Happens::Timeout => worker::Input::Timeout,
        };
        self.machine.handle(now, input).expect("what the network does is never refused");
    }

    fn wish(&mut self, now: Instant, frame: &mut [u8]) -> Option<Wish> {
        loop {
            let answer = match self.machine.poll(frame) {
                worker::Output::Connect { attempt, .. } => return Some(Wish::Connection(Some(attempt))),
                worker::Output::Disconnect { .. } => return Some(Wish::Connection(None)),
                worker::Output::Send { bytes } => return Some(Wish::Send(bytes.into())),
                worker::Output::Run { token, .. } => {
                    self.running = Some(token);
                    self.machine.handle(now, worker::Input::Started { token })
                }
                worker::Output::ReadOutput { token, stream, offset, max } => {
                    let bytes = vec![(offset / 7) as u8; max as usize];
                    let input = worker::Input::OutputRead { token, stream, offset, bytes: &bytes };
                    self.machine.handle(now, input)
                }
                worker::Output::Cancel { .. }
                | worker::Output::Keep { .. }
                | worker::Output::Freeze { .. }
                | worker::Output::Thaw { .. }
                | worker::Output::WantCheckpoint { .. }
                | worker::Output::Checkpointed { .. }
                | worker::Output::ReadCheckpoint { .. }
                | worker::Output::RestorePiece { .. }
                | worker::Output::KeepKey
                | worker::Output::Forget { .. } => Ok(()),
                worker::Output::Idle { .. } => return None,
            };
            answer.expect("an answer is never refused");
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        self.machine.wake_at()
    }

    fn check(&self) {
        self.machine.check();
    }
}

/// A connected pair whose worker runs one task
fn pair(change: impl FnOnce(&mut coordinator::Config)) -> (Pair<Patient>, TaskId, Token) {
    let name = "lab".parse().expect("a legal name");
    let key = Key { id: KeyId([1; 8]), secret: Secret::new([7; 32]), name, role: Role::Worker };
    let start = Instant::from_micros(1_000_000);
    let mut link = LinkConfig::new(key.clone(), BootId([2; 16]), "ws://c");
    link.backoff.base = ms(1);
    link.backoff.cap = ms(100);
    link.compress = false;
    link.pins.bulk_under_way = Some(1 << 20);
    let machine = Worker::new(worker::Config::new(link), Seed([3; 32]), start).expect("legal settings");
    let mut config = coordinator::Config::new(ClusterId([5; 16]), 7, vec![key]);
    change(&mut config);
    let coordinator = Coordinator::new(config, Seed([4; 32]), start).expect("legal settings");
    let mut pair = Pair::new(start, Patient { machine, running: None }, coordinator);
    assert!(pair.connect([1; 32], [2; 32]));
    pair.talk();
    let task = TaskId([9; 16]);
    let submit = coordinator::Input::Submit { task, spec: TaskSpec::default(), about: &[], payload: b"" };
    pair.coordinator.handle(pair.now, submit).expect("the submit is legal");
    pair.talk();
    let token = pair.peer.running.expect("it runs");
    (pair, task, token)
}

fn cut_for(pair: &mut Pair<Patient>, at_least: Duration) {
    pair.cut();
    let end = pair.now + at_least;
    while pair.now < end || !pair.wants_connection() {
        pair.wait(ms(1));
        pair.peer_says();
        pair.coordinator_says();
    }
}

#[test]
fn auth_3_output_sent_on_trust_in_a_session_that_is_gone_does_not_use_up_the_window() {
    let (mut pair, _, token) = pair(|config| config.session_lifetime = ms(500));
    let cut = pair.now;
    cut_for(&mut pair, ms(1));
    assert!(pair.connect([3; 32], [4; 32]));
    let total = 4 << 20;
    let grew = worker::Input::OutputGrew { token, stream: Stream::Out, total };
    pair.peer.machine.handle(pair.now, grew).expect("it runs");
    pair.peer_says().iter().for_each(|bytes| pair.tell_coordinator(bytes));
    let challenge = pair.coordinator_says();
    while pair.now.since(cut) <= ms(600) {
        pair.wait(ms(50));
    }
    // Only now does M2 arrive: M3 and a whole window of output follow, and the session is no more.
    challenge.iter().for_each(|bytes| pair.tell_peer(bytes));
    let behind = pair.peer_says();
    assert!(behind.len() > 30, "{}", behind.len());
    behind.iter().for_each(|bytes| pair.tell_coordinator(bytes));
    for _ in 0..100 {
        pair.talk();
        pair.wait(ms(100));
    }
    assert_eq!(pair.journal.kept(token, Stream::Out).len() as u64, total);
}

#[test]
fn sess_7_what_nobody_wants_any_more_may_end_between_inventory_and_verdict() {
    let (mut pair, task, token) = pair(|config| {
        config.session_lifetime = ms(5);
        config.lost_after = ms(5);
    });
    cut_for(&mut pair, ms(100));
    pair.coordinator.handle(pair.now, coordinator::Input::Cancel { task }).expect("there is such a task");
    pair.coordinator_says();
    assert!(pair.connect([3; 32], [4; 32]));
    pair.talk();
    assert_eq!(pair.peer.machine.attempt(token), Some(AttemptState::Abandoned));
    cut_for(&mut pair, ms(100));
    assert!(pair.connect([5; 32], [6; 32]));
    for _ in 0..2 {
        pair.peer_says().iter().for_each(|bytes| pair.tell_coordinator(bytes));
        pair.coordinator_says().iter().for_each(|bytes| pair.tell_peer(bytes));
    }
    let over = worker::Input::Finished { token, outcome: Outcome::Cancelled, result: b"" };
    pair.peer.machine.handle(pair.now, over).expect("it ran");
    pair.talk();
    assert_eq!(pair.peer.machine.state(), LinkState::Connected);
    assert_eq!((pair.peer.machine.stats().violations, pair.peer.machine.held()), (0, 0));
}

fn grant(puppet: &mut Puppet, world: &mut World, inventory: bool) {
    puppet.say(world, |body| {
        if inventory {
            body.push(Class::Numbered(1), &FromWorker::Inventory { part: 0, last: true, cut: 0, items: &[] });
        }
        body.push(Class::Control, &Control::Credit(Credit { tasks: 1, messages: 4096, bulk: 0 }));
    });
    world.run_for(ms(20));
}

fn assignment(puppet: &mut Puppet, world: &mut World) -> Option<Token> {
    let heard = puppet.hear(world);
    heard.iter().filter_map(to_worker).find_map(|(_, message)| match message {
        ToWorker::Assign { token, .. } => Some(token),
        ToWorker::Cancel { .. }
        | ToWorker::Recall { .. }
        | ToWorker::Verdict { .. }
        | ToWorker::Settled { .. }
        | ToWorker::Kept { .. }
        | ToWorker::Restore { .. }
        | ToWorker::Checkpointed { .. }
        | ToWorker::Drain
        | ToWorker::Need { .. }
        | ToWorker::RestoreOffer { .. }
        | ToWorker::RestorePiece { .. }
        | ToWorker::AssignUnder { .. }
        | ToWorker::AssignLarge { .. } => None,
    })
}

#[test]
fn lanes_2_an_assignment_that_became_void_gives_its_credit_back() {
    let mut world = World::new(Setup { workers: 2, coordinator: |c| c.lost_after = ms(100), ..Setup::default() });
    for peer in 0..2 {
        world.wire(peer).refuses = true;
        world.reset(peer);
    }
    world.run_for(ms(50));
    let mut first = Puppet::worker(0);
    first.enter(&mut world);
    grant(&mut first, &mut world, true);
    let task = world.submit("x", Job::takes(ms(1)));
    world.run_for(ms(20));
    let token = assignment(&mut first, &mut world).expect("the only worker gets it");
    first.close(&mut world);
    world.run_for(ms(200));
    // The second one is given the task, and cut before it hears of that.
    let mut second = Puppet::worker(1);
    second.enter(&mut world);
    grant(&mut second, &mut world, true);
    assert!(assignment(&mut second, &mut world).is_some());
    second.close(&mut world);
    // Meanwhile the first one delivers.
    first.greet(&mut world);
    first.challenged(&mut world);
    first.resume(&mut world, 1, 1, 1, 1);
    first.say(&mut world, |body| {
        let (outcome, streams) = (Outcome::Succeeded, Default::default());
        body.push(Class::Numbered(2), &FromWorker::Result { task, token, outcome, result: b"", streams });
    });
    world.run_for(ms(20));
    assert!(world.succeeded(task));
    // Twice, so that the credit would be given back twice if it could.
    for generation in 2..4 {
        second.greet(&mut world);
        second.challenged(&mut world);
        second.resume(&mut world, generation - 1, 0, 1, 1);
        second.say(&mut world, |body| {
            body.push(Class::Control, &Control::Confirm { generation });
        });
        grant(&mut second, &mut world, false);
        assert_eq!(assignment(&mut second, &mut world), None);
        if generation == 2 {
            second.close(&mut world);
        }
    }
    world.submit("y", Job::takes(ms(1)));
    world.submit("z", Job::takes(ms(1)));
    world.run_for(secs(1));
    assert!(assignment(&mut second, &mut world).is_some(), "it granted one task and has none");
}
