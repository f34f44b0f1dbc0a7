//! rejoin on smol: real sockets, real processes, and the coordinator's port
//!
//! Thin adapters around the machines of [`rejoin_core`]: [`worker`] and [`client`] dial, [`coordinator`] listens.
//! Each is one task that owns its machine, tells it what happened, and does what it asks for.

pub mod client;
pub mod clock;
pub mod command;
pub mod coordinator;
pub mod dial;
pub mod disrupt;
pub mod exec;
pub mod http;
pub mod journal;
mod line;
mod pump;
pub mod spool;
pub mod transport;
pub mod url;
pub mod worker;
