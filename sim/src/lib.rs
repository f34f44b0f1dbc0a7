//! Workers, clients and a coordinator in one process, over virtual sockets and in virtual time
//!
//! The machines are the ones that run in production. A [`World`] delivers their messages, runs their tasks, keeps
//! their journal, and breaks what it is told to break. Time jumps from one event to the next, so that hours pass in
//! milliseconds and nothing ever sleeps.
//!
//! ```
//! use core::time::Duration;
//! use rejoin_sim::{Job, Setup, World};
//!
//! let mut world = World::new(Setup::default());
//! let task = world.submit("greet", Job::prints(b"hello"));
//! world.run_for(Duration::from_millis(20));
//! world.reset(0);
//! world.drive_until("the task is over", |world| world.succeeded(task));
//! assert_eq!(world.output(task), b"hello");
//! ```

pub mod audit;
pub mod draws;
mod executor;
pub mod explore;
pub mod fuzz;
pub mod generate;
mod journal;
pub mod menu;
#[cfg(rejoin_planted)]
pub mod mutants;
mod net;
pub mod pair;
mod puppet;
pub mod schedule;
pub mod shrink;
pub mod simulation;
pub mod stranger;
pub mod swarm;
pub mod trace;
mod world;

pub use executor::Job;
pub use journal::{Journal, JournalMode};
pub use net::{Side, Tapped, Wire};
pub use puppet::{Heard, Puppet};
pub use world::{Setup, World, client_key, worker_key};
