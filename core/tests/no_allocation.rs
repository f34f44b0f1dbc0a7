//! A worker allocates when it is made, and never again

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::VecDeque;
use std::time::Duration;

use rejoin_core::coordinator::{self, Address, Coordinator};
use rejoin_core::ids::{BootId, ClusterId, ConnId, KeyId, Role, TaskId};
use rejoin_core::limits::{BULK_PIECE_BYTES_MAX, FRAME_BYTES_MAX};
use rejoin_core::link::LinkConfig;
use rejoin_core::wire::keys::{Key, Secret};
use rejoin_core::wire::message::{Outcome, Stream, TaskSpec};
use rejoin_core::worker::{self, Worker};
use rejoin_core::{Instant, Loss, Seed};

const TASKS: u64 = 1000;
/// More than one piece, and easy to compress
const PRINTED: &[u8] = &[b'x'; BULK_PIECE_BYTES_MAX * 5 / 2];

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, which counts while it is watched
struct Counting;

// SAFETY: everything is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + u64::from(WATCHED.get()));
        BYTES.set(BYTES.get() + if WATCHED.get() { layout.size() } else { 0 });
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn watched<T>(work: impl FnOnce() -> T) -> T {
    WATCHED.set(true);
    let value = work();
    WATCHED.set(false);
    value
}

/// A worker and a coordinator; only the worker's calls are watched
struct Bench {
    now: Instant,
    worker: Worker,
    coordinator: Coordinator,
    frame: Vec<u8>,
    dial: u64,
    up: VecDeque<Vec<u8>>,
    runs: u64,
    reads: u64,
}

impl Bench {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(settings: impl Fn(&mut worker::Config)) -> Self {
        let now = Instant::from_micros(1);
        let name = "bench".parse().expect("a legal name");
        let key = Key { id: KeyId([2; 8]), secret: Secret::new([3; 32]), name, role: Role::Worker };
        let mut config = coordinator::Config::new(ClusterId([4; 16]), 1, vec![key.clone()]);
        config.heartbeat = Some(Duration::from_millis(50));
        let coordinator = Coordinator::new(config, Seed([5; 32]), now).expect("legal settings");
        let link = LinkConfig::new(key, BootId([6; 16]), "memory");
        let mut config = worker::Config::new(link);
        settings(&mut config);
        let worker = watched(|| Worker::new(config, Seed([7; 32]), now)).expect("legal settings");
        let (frame, up) = (vec![0; FRAME_BYTES_MAX], VecDeque::new());
        Bench { now, worker, coordinator, frame, dial: 0, up, runs: 0, reads: 0 }
    }

    fn tell(&mut self, input: worker::Input<'_>) {
        let Bench { now, worker, .. } = self;
        watched(|| worker.handle(*now, input)).expect("what happens was expected");
    }

    fn tell_coordinator(&mut self, input: coordinator::Input<'_>) {
        self.coordinator.handle(self.now, input).expect("what happens was expected");
    }

    fn worker_acts(&mut self) {
        loop {
            let Bench { worker, frame, .. } = self;
            match watched(|| worker.poll(frame)) {
                worker::Output::Connect { attempt, .. } => {
                    self.dial = attempt;
                    let (conn, address, entropy) = (ConnId(attempt), Address::LOOPBACK, [8; 32]);
                    self.tell_coordinator(coordinator::Input::Accepted { conn, address, entropy, binding: None });
                    self.tell(worker::Input::Connected { attempt, entropy: [9; 32], binding: None });
                }
                worker::Output::Send { bytes } => self.up.push_back(bytes.into()),
                worker::Output::Run { token, .. } => {
                    self.runs += 1;
                    let (stream, total, outcome) = (Stream::Out, PRINTED.len() as u64, Outcome::Succeeded);
                    self.tell(worker::Input::Started { token });
                    self.tell(worker::Input::Progress { token, value: 50 });
                    self.tell(worker::Input::OutputGrew { token, stream, total });
                    self.tell(worker::Input::Checkpoint { token, bytes: b"half way" });
                    self.tell(worker::Input::LargeCheckpoint { token, length: 100_000, names: &[[5; 32]; 2] });
                    self.tell(worker::Input::Finished { token, outcome, result: b"a result" });
                }
                worker::Output::ReadOutput { token, stream, offset, max } => {
                    self.reads += 1;
                    let bytes = &PRINTED[offset as usize..];
                    let bytes = &bytes[..bytes.len().min(max as usize)];
                    self.tell(worker::Input::OutputRead { token, stream, offset, bytes });
                }
                worker::Output::ReadCheckpoint { token, number, offset, max } => {
                    let bytes = &[6; 100_000][..max as usize];
                    self.tell(worker::Input::CheckpointRead { token, number, offset, bytes });
                }
                worker::Output::Keep { token } => {
                    assert!(watched(|| self.worker.finished(token)).is_some(), "there is something to keep");
                    self.tell(worker::Input::Kept { token });
                }
                worker::Output::Forget { .. } | worker::Output::Checkpointed { .. } => {}
                worker::Output::Idle { .. } => break,
                other @ (worker::Output::Disconnect { .. }
                | worker::Output::KeepKey
                | worker::Output::RestorePiece { .. }
                | worker::Output::Freeze { .. }
                | worker::Output::Thaw { .. }
                | worker::Output::WantCheckpoint { .. }
                | worker::Output::Cancel { .. }) => {
                    panic!("nobody asked for {other:?}")
                }
            }
        }
    }

    fn coordinator_acts(&mut self) {
        while let Some(bytes) = self.up.pop_front() {
            self.tell_coordinator(coordinator::Input::Received { conn: ConnId(self.dial), bytes: &bytes });
        }
        loop {
            match self.coordinator.poll(&mut self.frame) {
                coordinator::Output::Send { bytes, .. } => {
                    let Bench { now, worker, dial, .. } = self;
                    let input = worker::Input::Received { attempt: *dial, bytes };
                    watched(|| worker.handle(*now, input)).expect("a message is never refused");
                }
                coordinator::Output::Journal { seq, .. } => {
                    self.tell_coordinator(coordinator::Input::Journaled { upto: seq });
                }
                coordinator::Output::Event(_) => {}
                coordinator::Output::Idle { .. } => break,
                other @ (coordinator::Output::Close { .. }
                | coordinator::Output::KeepKey { .. }
                | coordinator::Output::ReadChunk { .. }
                | coordinator::Output::ReadOutput { .. }) => {
                    panic!("nobody asked for {other:?}")
                }
            }
        }
    }

    /// The connection breaks, and what was under way is lost
    fn cut(&mut self) {
        self.up.clear();
        self.tell_coordinator(coordinator::Input::Closed { conn: ConnId(self.dial) });
        self.tell(worker::Input::Disconnected { attempt: self.dial, loss: Loss::Peer });
    }

    /// Both ends act, and a millisecond passes
    fn step(&mut self) {
        self.worker_acts();
        self.coordinator_acts();
        self.now = self.now + Duration::from_millis(1);
        self.tell(worker::Input::Timeout);
        self.tell_coordinator(coordinator::Input::Timeout);
    }
}

#[test]
fn a_worker_connects_runs_a_thousand_tasks_and_reconnects_without_allocating() {
    let mut bench = Bench::new();
    assert!(ALLOCATIONS.replace(0) > 0, "making a worker allocates, and is counted");
    for n in 0..TASKS {
        let task = TaskId::from_text(&n.to_string());
        let spec = TaskSpec::default();
        bench.tell_coordinator(coordinator::Input::Submit { task, spec, about: &[], payload: b"an input" });
        if n % 100 == 50 {
            bench.worker_acts();
            bench.cut();
        }
        while bench.coordinator.counts().ended <= n {
            bench.step();
        }
    }
    for _ in 0..10 {
        bench.step();
    }
    let stats = bench.worker.stats();
    assert_eq!((bench.runs, bench.worker.held()), (TASKS, 0), "every task ran once, was settled and forgotten");
    assert!(bench.reads >= 3 * TASKS && stats.frames_out > 2 * TASKS && stats.rtt_us.is_some());
    assert_eq!((stats.opened, stats.resumed), (1, 10));
    assert_eq!(ALLOCATIONS.get(), 0, "the worker has allocated");
}

#[test]
fn one_of_many_workers_that_reserve_nothing_is_small_and_does_the_same_in_the_end() {
    let small = |config: &mut worker::Config| {
        (config.attempts_max, config.result_bytes_max, config.large_result_max) = (4, 256, 0);
    };
    let mut figures = Vec::new();
    for reserve in [true, false] {
        let before = BYTES.get();
        let mut bench = Bench::with(|config| {
            small(config);
            config.reserve = reserve;
        });
        let made = BYTES.get() - before;
        for n in 0..40 {
            let (task, spec) = (TaskId::from_text(&n.to_string()), TaskSpec::default());
            bench.tell_coordinator(coordinator::Input::Submit { task, spec, about: &[], payload: b"an input" });
            if n % 10 == 5 {
                bench.worker_acts();
                bench.cut();
            }
        }
        while bench.coordinator.counts().ended < 40 {
            bench.step();
        }
        bench.worker.check();
        figures.push((made, bench.runs, bench.reads, bench.now, bench.worker.digest()));
    }
    assert!(figures[0].0 > 500_000 && figures[1].0 < 8_000, "bytes allocated: {} and {}", figures[0].0, figures[1].0);
    let (_, runs, reads, now, digest) = figures[0];
    assert_eq!((runs, reads, now, digest), (figures[1].1, figures[1].2, figures[1].3, figures[1].4));
}
