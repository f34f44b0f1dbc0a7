//! What an embedder says at the wrong time is refused, and changes nothing

mod common;

use common::{connected, ms, noise, secs};
use rejoin_core::coordinator::{self, Address, Coordinator, TaskState};
use rejoin_core::ids::{BootId, ClusterId, ConnId, KeyId, TaskId, Token};
use rejoin_core::limits::INLINE_BYTES_MAX;
use rejoin_core::link::{LinkConfig, Reason};
use rejoin_core::wire::message::{Failure, Outcome, Stream, TaskSpec};
use rejoin_core::worker::{self, AttemptState, Input, Worker};
use rejoin_core::{Instant, Loss, Rejected, Seed};
use rejoin_sim::pair::{Happens, Pair, Peer, Wish};
use rejoin_sim::{Job, Setup, worker_key};

/// A worker that does nothing by itself
#[derive(Clone)]
struct ByHand {
    machine: Worker,
    /// What it was told to run, to forget, and to stop
    runs: Vec<Token>,
    forgets: Vec<Token>,
    stops: Vec<Token>,
}

impl ByHand {
    fn says(&mut self, now: Instant, input: Input<'_>) -> Result<(), Rejected> {
        let before = self.machine.digest();
        let result = self.machine.handle(now, input);
        self.machine.check();
        assert!(result.is_ok() || self.machine.digest() == before, "refused, and yet something has changed");
        result
    }
}

impl Peer for ByHand {
    fn take(&mut self, now: Instant, attempt: u64, happens: Happens<'_>) {
        let input = match happens {
            Happens::Opened(entropy) => Input::Connected { attempt, entropy, binding: None },
            Happens::Message(bytes) => Input::Received { attempt, bytes },
            Happens::Closed => Input::Disconnected { attempt, loss: Loss::Peer },
            Happens::Timeout => Input::Timeout,
        };
        self.machine.handle(now, input).expect("what the network does is never refused");
    }

    fn wish(&mut self, _: Instant, frame: &mut [u8]) -> Option<Wish> {
        loop {
            match self.machine.poll(frame) {
                worker::Output::Connect { attempt, .. } => return Some(Wish::Connection(Some(attempt))),
                worker::Output::Disconnect { .. } => return Some(Wish::Connection(None)),
                worker::Output::Send { bytes } => return Some(Wish::Send(bytes.into())),
                worker::Output::Run { token, .. } => self.runs.push(token),
                worker::Output::Forget { token } => self.forgets.push(token),
                worker::Output::Cancel { token, .. } => self.stops.push(token),
                worker::Output::Keep { .. }
                | worker::Output::Freeze { .. }
                | worker::Output::Thaw { .. }
                | worker::Output::WantCheckpoint { .. }
                | worker::Output::KeepKey
                | worker::Output::ReadOutput { .. }
                | worker::Output::ReadCheckpoint { .. }
                | worker::Output::RestorePiece { .. }
                | worker::Output::Checkpointed { .. } => {}
                worker::Output::Idle { .. } => return None,
            }
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        self.machine.wake_at()
    }

    fn check(&self) {
        self.machine.check();
    }
}

/// A connected pair whose worker was told to run one task
fn pair() -> (Pair<ByHand>, TaskId, Token) {
    let start = Instant::from_micros(1_000_000);
    let link = LinkConfig::new(worker_key(0), BootId([2; 16]), "ws://c");
    let machine = Worker::new(worker::Config::new(link), Seed([3; 32]), start).expect("legal settings");
    let config = coordinator::Config::new(ClusterId([5; 16]), 1, vec![worker_key(0)]);
    let coordinator = Coordinator::new(config, Seed([4; 32]), start).expect("legal settings");
    let peer = ByHand { machine, runs: Vec::new(), forgets: Vec::new(), stops: Vec::new() };
    let mut pair = Pair::new(start, peer, coordinator);
    assert!(pair.connect([1; 32], [2; 32]));
    pair.talk();
    let task = TaskId([9; 16]);
    let submit = coordinator::Input::Submit { task, spec: TaskSpec::default(), about: &[], payload: b"" };
    pair.coordinator.handle(pair.now, submit).expect("the submit is legal");
    pair.talk();
    let token = pair.peer.runs[0];
    (pair, task, token)
}

#[test]
fn each_news_of_an_attempt_has_its_time() {
    let (mut pair, task, token) = pair();
    let (now, outcome) = (pair.now, Outcome::Succeeded);
    let large = noise(INLINE_BYTES_MAX + 1);
    let grew = |token| Input::OutputGrew { token, stream: Stream::Out, total: 0 };
    let none = Token(77);
    let mut says = |input| pair.peer.says(now, input);
    // Of what was never given nothing can be said.
    assert_eq!(says(Input::Started { token: none }), Err(Rejected::Unknown));
    assert_eq!(says(Input::Progress { token: none, value: 1 }), Err(Rejected::Unknown));
    assert_eq!(says(grew(none)), Err(Rejected::Unknown));
    assert_eq!(says(Input::Checkpoint { token: none, bytes: b"" }), Err(Rejected::Unknown));
    assert_eq!(says(Input::Finished { token: none, outcome, result: b"" }), Err(Rejected::Unknown));
    assert_eq!(says(Input::Declined { token: none }), Err(Rejected::NotExpected));
    // Before it runs it has no progress, and no checkpoint.
    assert_eq!(says(Input::Progress { token, value: 1 }), Err(Rejected::NotExpected));
    assert_eq!(says(Input::Checkpoint { token, bytes: b"" }), Err(Rejected::NotExpected));
    assert_eq!(says(Input::Started { token }), Ok(()));
    assert_eq!(says(Input::Started { token }), Err(Rejected::Unknown), "once");
    assert_eq!(says(Input::Declined { token }), Err(Rejected::NotExpected), "it runs");
    assert_eq!(says(Input::Progress { token, value: 1 }), Ok(()));
    assert_eq!(says(Input::Checkpoint { token, bytes: &large }), Err(Rejected::TooLarge));
    assert_eq!(says(Input::Checkpoint { token, bytes: &large[1..] }), Ok(()));
    assert_eq!(says(Input::Finished { token, outcome, result: b"r" }), Ok(()));
    // It is over.
    assert_eq!(says(Input::Finished { token, outcome, result: b"r" }), Err(Rejected::Unknown));
    assert_eq!(says(Input::Progress { token, value: 2 }), Err(Rejected::NotExpected));
    assert_eq!(says(Input::Checkpoint { token, bytes: b"" }), Err(Rejected::NotExpected));
    assert_eq!(says(grew(token)), Err(Rejected::NotExpected));
    pair.talk();
    let end = pair.coordinator.task(task).and_then(|task| task.end).map(|end| (end.outcome, end.result.to_vec()));
    assert_eq!(end, Some((outcome, b"r".to_vec())));
    assert_eq!((&pair.peer.forgets[..], pair.peer.machine.attempt(token)), (&[token][..], None));
}

#[test]
fn what_a_worker_cannot_start_is_given_back_and_was_no_attempt() {
    let (mut pair, task, first) = pair();
    let now = pair.now;
    assert_eq!(pair.peer.machine.attempt(first), Some(AttemptState::Starting));
    assert_eq!(pair.peer.says(now, Input::Declined { token: first }), Ok(()));
    pair.talk();
    assert_eq!(pair.peer.forgets, [first]);
    let second = pair.peer.runs[1];
    assert!(second > first, "it is given out anew, under another token");
    let view = pair.coordinator.task(task).expect("it is known");
    assert_eq!((view.state, view.attempts, pair.coordinator.stats().lost_attempts), (TaskState::Assigned, 1, 0));
    pair.check();
}

#[test]
fn sess_4_a_connection_opens_once_and_one_of_the_past_changes_nothing() {
    let mut world = connected(Setup::default());
    let task = world.submit("runs", Job::takes(ms(50)));
    world.run_for(ms(10));
    let entropy = [7; 32];
    assert_eq!(
        world.tell_worker(0, Input::Connected { attempt: 1, entropy, binding: None }),
        Err(Rejected::NotExpected)
    );
    for attempt in [0, 2, u64::MAX] {
        assert_eq!(
            world.tell_worker(0, Input::Connected { attempt, entropy, binding: None }),
            Ok(()),
            "of another connection"
        );
        assert_eq!(world.tell_worker(0, Input::Disconnected { attempt, loss: Loss::Peer }), Ok(()));
    }
    let conn = world.connection(0).expect("connected");
    let again = coordinator::Input::Accepted { conn, address: Address::LOOPBACK, entropy, binding: None };
    assert_eq!(world.tell_coordinator(again), Err(Rejected::Conflict));
    let waiting = world.stranger().expect("let in");
    let again = coordinator::Input::Accepted { conn: waiting, address: Address::LOOPBACK, entropy, binding: None };
    assert_eq!(world.tell_coordinator(again), Err(Rejected::Conflict));
    world.drive_until("it is over", |world| world.succeeded(task));
    assert_eq!((world.dials(0), world.connection(0)), (1, Some(conn)));
}

#[test]
fn a_coordinator_refuses_what_names_nothing_it_knows_and_drops_news_of_connections_that_are_gone() {
    let mut world = connected(Setup::default());
    let (task, conn, token) = (TaskId::from_text("none"), ConnId(999_999), Token(77));
    let before = world.coordinator.digest();
    use coordinator::Input as I;
    assert_eq!(world.tell_coordinator(I::Cancel { task }), Err(Rejected::Unknown));
    assert_eq!(world.tell_coordinator(I::Forget { task }), Err(Rejected::Unknown));
    assert_eq!(world.tell_coordinator(I::RevokeKey { key: KeyId([77; 8]) }), Err(Rejected::Unknown));
    for late in [
        I::Closed { conn },
        I::Received { conn, bytes: b"late" },
        I::Arriving { conn },
        I::Writable { conn, writable: true },
        I::OutputRead { token, stream: Stream::Out, offset: 0, bytes: b"late" },
    ] {
        assert_eq!(world.tell_coordinator(late), Ok(()), "{late:?}");
    }
    assert_eq!(world.coordinator.digest(), before);
}

#[test]
fn task_6_an_attempt_that_its_worker_gave_up_unasked_is_a_loss_and_not_the_end_of_the_task() {
    let (mut pair, task, _) = pair();
    let now = pair.now;
    for loss in 0..20 {
        let token = *pair.peer.runs.last().expect("it is given out again");
        assert_eq!(pair.coordinator.task(task).map(|task| task.attempts), Some(loss + 1));
        assert_eq!(pair.peer.says(now, Input::Started { token }), Ok(()));
        let given_up = Input::Finished { token, outcome: Outcome::Cancelled, result: b"" };
        assert_eq!(pair.peer.says(now, given_up), Ok(()));
        pair.talk();
    }
    let outcome = pair.coordinator.task(task).and_then(|task| task.end).map(|end| end.outcome);
    assert_eq!(outcome, Some(Outcome::Failed(Failure::WorkerLost)), "there is an end to it");
    assert_eq!((pair.peer.runs.len(), pair.peer.forgets.len()), (20, 20));
    pair.check();
}

#[test]
fn task_8_what_a_worker_that_drains_gives_up_costs_its_task_nothing() {
    let (mut pair, task, token) = pair();
    let now = pair.now;
    assert_eq!(pair.peer.says(now, Input::Started { token }), Ok(()));
    assert_eq!(pair.peer.says(now, Input::Drain), Ok(()));
    pair.talk();
    assert_eq!(pair.peer.says(now, Input::Finished { token, outcome: Outcome::Cancelled, result: b"" }), Ok(()));
    pair.talk();
    while pair.peer.machine.stopped().is_none() {
        pair.wait(ms(100));
        pair.talk();
    }
    assert_eq!(pair.peer.machine.stopped(), Some(Reason::Left), "it had nothing else");
    assert!(pair.now.since(now) < secs(5));
    let view = pair.coordinator.task(task).expect("it is known");
    assert_eq!((view.state, view.end.map(|end| end.outcome)), (TaskState::Ready, None));
    let losses = pair.coordinator.story(task).filter(|note| note.to_string().contains("lost")).count();
    assert_eq!((losses, pair.coordinator.stats().lost_attempts), (0, 0));
    pair.check();
}

#[test]
fn task_7_an_order_to_stop_that_comes_behind_the_end_is_not_given() {
    let (mut pair, task, token) = pair();
    let now = pair.now;
    assert_eq!(pair.peer.says(now, Input::Started { token }), Ok(()));
    pair.talk();
    pair.coordinator.handle(now, coordinator::Input::Cancel { task }).expect("it runs");
    for said in pair.coordinator_says() {
        pair.tell_peer(&said);
    }
    assert_eq!(pair.peer.machine.attempt(token), Some(AttemptState::Stopping));
    // The embedder has not asked yet what there is to do.
    assert_eq!(pair.peer.says(now, Input::Finished { token, outcome: Outcome::Succeeded, result: b"" }), Ok(()));
    pair.talk();
    assert_eq!(pair.peer.stops, [], "it is over");
    let outcome = pair.coordinator.task(task).and_then(|task| task.end).map(|end| end.outcome);
    assert_eq!(outcome, Some(Outcome::Succeeded), "what is durable first counts");
    pair.check();
}

#[test]
fn task_8_who_loses_its_link_while_it_says_goodbye_does_not_come_back_to_finish_it() {
    let (mut pair, ..) = pair();
    let now = pair.now;
    assert_eq!(pair.peer.says(now, Input::Leave), Ok(()));
    pair.cut();
    pair.talk();
    assert_eq!((pair.peer.machine.stopped(), pair.wants_connection()), (Some(Reason::Left), false));
    assert_eq!(pair.peer.machine.wake_at(), None);
}
