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
//!
//! A whole [`simulation`] is made by a seed: see [`swarm`](mod@swarm). What its tasks do may be a user's own [`logic`], which is
//! then put to the test with the settings it is to have, under the faults of many seeds. Whatever fails is a
//! [`schedule`]: text that fails again, and can be made small.
//!
//! ```
//! use std::time::Duration;
//! use rejoin_core::wire::message::Outcome;
//! use rejoin_sim::generate::Profile;
//! use rejoin_sim::logic::{Act, Logic, Seen, Start, Workload};
//! use rejoin_sim::schedule::Task;
//! use rejoin_sim::trial::Trial;
//!
//! struct Greetings;
//!
//! impl Workload for Greetings {
//!     fn execute(&mut self, start: Start<'_>) -> Box<dyn Logic> {
//!         let end = Act::End(Outcome::Succeeded, format!("hello {}", start.task.number).into());
//!         Box::new(Greeting(vec![end, Act::Print(b"hello".into()), Act::Wait(Duration::from_millis(200))]))
//!     }
//!
//!     fn check(&self, seen: &Seen) -> Result<(), String> {
//!         let greeted = seen.tasks.iter().all(|(number, task)| task.result == format!("hello {number}").as_bytes());
//!         if greeted { Ok(()) } else { Err("somebody was not greeted".into()) }
//!     }
//! }
//!
//! /// What is still to be done, last first
//! #[derive(Debug)]
//! struct Greeting(Vec<Act>);
//!
//! impl Logic for Greeting {
//!     fn next(&mut self) -> Act {
//!         self.0.pop().expect("it is over behind its end")
//!     }
//! }
//!
//! let trial = Trial {
//!     tasks: (0..10).map(|number| Task { takes: Duration::from_millis(200), ..Task::new(0, number) }).collect(),
//!     settings: Vec::new(),
//!     profile: Profile::Standard,
//!     workload: || Greetings,
//! };
//! let report = trial.swarm(0..3, 1);
//! assert!(report.failures.is_empty(), "{:?}", report.failures);
//! ```
//!
//! `examples/copy_records.rs` has checkpoints, a service with idempotency keys, and a mistake that is found.

pub mod audit;
pub mod bench;
pub mod cause;
pub mod corpus;
pub mod cover;
pub mod diff;
pub mod doubts;
pub mod draws;
mod executor;
pub mod explore;
pub mod fuzz;
pub mod generate;
mod journal;
pub mod logic;
pub mod menu;
#[cfg(rejoin_planted)]
pub mod mutants;
mod net;
pub mod pair;
mod puppet;
pub mod recorded;
mod recorder;
pub mod schedule;
pub mod shrink;
pub mod simulation;
mod store;
pub mod stranger;
pub mod swarm;
pub mod tap;
pub mod timeline;
pub mod trace;
pub mod trial;
pub mod wild;
mod words;
mod world;

pub use executor::Job;
pub use journal::{Journal, JournalMode};
pub use net::{Side, Tapped, Wire};
pub use puppet::{Heard, Puppet};
pub use world::{Setup, World, client_key, worker_key};
