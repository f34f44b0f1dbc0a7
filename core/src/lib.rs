//! The core of rejoin
#![no_std]
extern crate alloc;
pub mod backoff;
mod channel;
pub mod client;
pub mod coordinator;
mod digest;
pub mod error;
mod heartbeat;
pub mod ids;
pub mod journal;
pub mod limits;
pub mod link;
mod rng;
mod session;
pub mod stats;
pub mod story;
mod stream;
mod time;
mod timers;
pub mod wire;
pub mod worker;
pub use backoff::Loss;
pub use error::{ConfigError, Rejected};
pub use rng::Seed;
pub use time::Instant;
