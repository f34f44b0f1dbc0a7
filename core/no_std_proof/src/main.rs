//! The core without std: a worker and a coordinator meet in memory and get one task done
//!
//! `cargo run --manifest-path core/no_std_proof/Cargo.toml` exits with 0, or with the number of what went wrong.
//! Nothing here can find std: the program has no Rust runtime, an allocator of its own, and panics by stopping.
#![no_std]
#![no_main]

extern crate alloc;

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ffi::{c_char, c_int};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

use rejoin_core::coordinator::{self, Address, Coordinator};
use rejoin_core::ids::{BootId, ClusterId, ConnId, KeyId, Role, TaskId};
use rejoin_core::limits::FRAME_BYTES_MAX;
use rejoin_core::link::LinkConfig;
use rejoin_core::wire::keys::{Key, Secret};
use rejoin_core::wire::message::{Outcome, TaskSpec};
use rejoin_core::worker::{self, Worker};
use rejoin_core::{Instant, Seed};

const HEAP_BYTES: usize = 16 * 1024 * 1024;
const NOW: Instant = Instant::from_micros(1);
const TASK: TaskId = TaskId([1; 16]);
const CONN: ConnId = ConnId(1);

/// Gives memory out and never takes it back
struct Bump {
    heap: UnsafeCell<[u8; HEAP_BYTES]>,
    used: AtomicUsize,
}

// SAFETY: every byte of the heap is given out once, since `used` only rises.
unsafe impl Sync for Bump {}

// SAFETY: the block lies within the heap, is aligned as asked, and overlaps no other.
unsafe impl GlobalAlloc for Bump {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let heap = self.heap.get().cast::<u8>();
        let mut start = 0;
        let take = |used: usize| {
            start = (heap as usize + used).next_multiple_of(layout.align()) - heap as usize;
            start.checked_add(layout.size()).filter(|end| *end <= HEAP_BYTES)
        };
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(_) => heap.wrapping_add(start),
            Err(_) => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

#[global_allocator]
static HEAP: Bump = Bump { heap: UnsafeCell::new([0; HEAP_BYTES]), used: AtomicUsize::new(0) };

// The C library starts the program, ends it, and copies memory; nothing else of it is used.
#[link(name = "c")]
unsafe extern "C" {
    safe fn exit(status: c_int) -> !;
}

#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(101)
}

/// What unwinding would ask for: `alloc` names it, and panics that abort never call it
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

#[unsafe(no_mangle)]
extern "C" fn main(_: c_int, _: *const *const c_char) -> c_int {
    match run() {
        Some(Outcome::Succeeded) => 0,
        Some(_) => 1,
        None => 2,
    }
}

/// Returns how the task ended
fn run() -> Option<Outcome> {
    let key = Key { id: KeyId([2; 8]), secret: Secret::new([3; 32]), name: "proof".parse().ok()?, role: Role::Worker };
    let config = coordinator::Config::new(ClusterId([4; 16]), 1, vec![key.clone()]);
    let mut coordinator = Coordinator::new(config, Seed([5; 32]), NOW).ok()?;
    let link = LinkConfig::new(key, BootId([6; 16]), "memory");
    let mut worker = Worker::new(worker::Config::new(link), Seed([7; 32]), NOW).ok()?;
    coordinator
        .handle(NOW, coordinator::Input::Submit { task: TASK, spec: TaskSpec::default(), about: &[], payload: b"in" })
        .ok()?;
    let mut frame = vec![0; FRAME_BYTES_MAX];
    let mut dial = 0;
    let mut up = VecDeque::new();
    let mut down: VecDeque<Vec<u8>> = VecDeque::new();
    // Far more rounds than one task needs.
    for _ in 0..100 {
        while let Some(bytes) = up.pop_front() {
            let bytes: Vec<u8> = bytes;
            coordinator.handle(NOW, coordinator::Input::Received { conn: CONN, bytes: &bytes }).ok()?;
        }
        loop {
            match coordinator.poll(&mut frame) {
                coordinator::Output::Send { bytes, .. } => down.push_back(bytes.into()),
                coordinator::Output::Journal { seq, .. } => {
                    coordinator.handle(NOW, coordinator::Input::Journaled { upto: seq }).ok()?;
                }
                coordinator::Output::Event(_) => {}
                coordinator::Output::Idle { .. } => break,
                coordinator::Output::Close { .. }
                | coordinator::Output::KeepKey { .. }
                | coordinator::Output::ReadChunk { .. }
                | coordinator::Output::ReadOutput { .. } => return None,
            }
        }
        if let Some(end) = coordinator.task(TASK).and_then(|task| task.end) {
            return (end.result == b"out").then_some(end.outcome);
        }
        while let Some(bytes) = down.pop_front() {
            worker.handle(NOW, worker::Input::Received { attempt: dial, bytes: &bytes }).ok()?;
        }
        loop {
            match worker.poll(&mut frame) {
                worker::Output::Connect { attempt, .. } => {
                    dial = attempt;
                    let (address, entropy) = (Address::LOOPBACK, [8; 32]);
                    coordinator.handle(NOW, coordinator::Input::Accepted { conn: CONN, address, entropy, binding: None }).ok()?;
                    worker.handle(NOW, worker::Input::Connected { attempt, entropy: [9; 32], binding: None }).ok()?;
                }
                worker::Output::Send { bytes } => up.push_back(bytes.into()),
                worker::Output::Run { token, .. } => {
                    let right = worker.payload(token) == Some(b"in");
                    worker.handle(NOW, worker::Input::Started { token }).ok()?;
                    let outcome = if right { Outcome::Succeeded } else { Outcome::Cancelled };
                    worker.handle(NOW, worker::Input::Finished { token, outcome, result: b"out" }).ok()?;
                }
                worker::Output::Keep { .. } | worker::Output::Forget { .. } => {}
                worker::Output::Idle { .. } => break,
                worker::Output::Disconnect { .. }
                | worker::Output::KeepKey
                | worker::Output::Freeze { .. }
                | worker::Output::Thaw { .. }
                | worker::Output::WantCheckpoint { .. }
                | worker::Output::Cancel { .. }
                | worker::Output::Checkpointed { .. }
                | worker::Output::ReadCheckpoint { .. }
                | worker::Output::RestorePiece { .. }
                | worker::Output::ReadOutput { .. } => return None,
            }
        }
    }
    None
}
