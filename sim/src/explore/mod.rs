//! Exhaustive search: every order of events and every fault at every point, to a stated depth
//!
//! A swarm draws long histories at random; here all short ones are gone through. The machines are those of production, with a
//! small fleet around them: every choice of what happens next leads to a state, and states that differ in names, keys, counters
//! and times alone are one. The search goes breadth first, so that what it finds is as short as can be.
//!
//! | room | concern |
//! | --- | --- |
//! | `choice` | the kinds of thing that can happen |
//! | `world`, `drain` | one state, and what follows from a choice |
//! | `options` | what can happen next in a state |
//! | `sketch` | what counts of a state, and what a choice is called |
//! | `search` | all states, level by level, on any number of threads |
//!
//! # What is searched
//!
//! The root is a fleet at rest whose tasks have just been submitted. A choice is the arrival of the first message of a pipe, a
//! sync of the journal, a step of an execution, a transport that opens, the passing of time to the next deadline, or a fault.
//! Time passes by itself only where no message is under way and nobody dials; elsewhere that is a fault. What a machine does by itself (it is drained,
//! a task that it was told to run is running, a process that crashed begins again) belongs to the choice before.
//!
//! Once all faults are used up, a worker to which a message is under way goes first, in everything it can do. That loses no
//! state that matters: until then nobody else can change the first message of its pipes nor its executions, time stands still,
//! and what others do meanwhile commutes with it.
//!
//! # What is not
//!
//! States are told apart by a digest of 64 bits of an outline (`rejoin_core::outline`) that leaves things out on purpose, and of those
//! that look alike the first one found goes on. So the search may miss what only another one leads to; what it reports is
//! real.

mod choice;
mod drain;
mod options;
mod search;
mod sketch;
mod world;

pub use self::choice::Kind;
pub use self::search::{Broken, Found, Plan, Report, explore};
pub use self::world::Size;
