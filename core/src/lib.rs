//! Workers and a coordinator that keep working together over networks that break
//!
//! This crate is the protocol and nothing else: three state machines without IO, clock, threads or global state.
//! [`Worker`](worker::Worker) takes tasks and keeps each result until it is safe, [`Coordinator`](coordinator::Coordinator)
//! gives out tasks and takes each result exactly once, and [`Client`](client::Client) submits and follows tasks. Whoever
//! embeds one moves its bytes, tells it the time, runs its tasks, and syncs its journal.
//!
//! # The seam
//!
//! All three are driven alike:
//!
//! * `handle(now, input)` says what happened; it changes the state and returns at once.
//! * `poll(frame)` says what to do next; call it until it says `Idle`, which names the time to say `Timeout`.
//!
//! Several calls of `handle` before the next `poll` are fine: what leaves is derived from the state when it is asked
//! for. Time is a number, randomness a seed, and fresh entropy comes with each new connection, so that the same inputs
//! give the same outputs, on every machine.
//!
//! ```
//! use rejoin_core::ids::{BootId, KeyId, Role};
//! use rejoin_core::limits::FRAME_BYTES_MAX;
//! use rejoin_core::link::LinkConfig;
//! use rejoin_core::wire::keys::{Key, Secret};
//! use rejoin_core::worker::{Config, Input, Output, Worker};
//! use rejoin_core::{Instant, Seed};
//!
//! let key = Key { id: KeyId([1; 8]), secret: Secret::new([2; 32]), name: "lab-3".parse()?, role: Role::Worker };
//! let link = LinkConfig::new(key, BootId([3; 16]), "ws://coordinator/v1/worker");
//! let now = Instant::from_micros(0);
//! let mut worker = Worker::new(Config::new(link), Seed([4; 32]), now)?;
//! let mut frame = vec![0; FRAME_BYTES_MAX];
//!
//! // A worker that was just made wants to be connected.
//! assert_eq!(worker.poll(&mut frame), Output::Connect { attempt: 1, endpoint: 0 });
//! worker.handle(now, Input::Connected { attempt: 1, entropy: [5; 32], binding: None })?;
//!
//! // Then it says who it is, and waits.
//! assert!(matches!(worker.poll(&mut frame), Output::Send { .. }));
//! assert!(matches!(worker.poll(&mut frame), Output::Idle { wake_at: Some(_) }));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Promises
//!
//! 1. An accepted task is never lost; accepted means that its record is durable.
//! 2. A result is applied exactly once per task. Execution is at least once: each attempt has a number and a token.
//! 3. A worker forgets a result only when the coordinator has it durably.
//! 4. Every queue, buffer and table has a bound; the bounds are in [`limits`] and in each machine's `Config`.
//! 5. No byte of a peer that has not proved who it is changes anything but counters.
//!
//! The rules behind them are numbered (`SESS-3` …) in `PROTOCOL.md`; the code that implements one names it.
//!
//! # Features
//!
//! The crate is `no_std` with `alloc`. The feature `std`, on by default, only turns on `std` in dependencies.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod about;
pub mod backoff;
pub mod binding;
pub mod blob;
mod channel;
pub mod client;
pub mod coordinator;
mod digest;
pub mod drift;
pub mod error;
mod heartbeat;
pub mod ids;
pub mod journal;
mod lease;
pub mod limits;
pub mod link;
pub mod outline;
mod pace;
pub mod pins;
#[doc(hidden)]
pub mod planted;
mod rng;
mod session;
pub mod stats;
pub mod story;
mod stream;
pub mod terms;
mod time;
mod timers;
pub mod wire;
pub mod worker;

pub use backoff::Loss;
pub use error::{ConfigError, Rejected};
pub use rng::Seed;
pub use time::Instant;
