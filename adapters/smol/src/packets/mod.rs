//! A box of two hosts whose packets suffer what those on bad networks do
//!
//! Each side is a network namespace of Linux with a TUN device; what leaves one comes out at the other, unless the
//! [`Forwarder`] between them decides otherwise. So it is the system's own TCP that meets loss, duplicates, packets out of
//! order, damage, black holes and addresses that change. What becomes of a packet follows from the seed, its direction and
//! its number alone; which packet has which number is up to the system.
//!
//! | room | concern |
//! | --- | --- |
//! | `condition` | what the way can be like, and for how long |
//! | `forwarder`, `way` | the fate of each packet, without devices and clocks |
//! | `packet` | damage to a packet, with its checksum left wrong or mended |
//! | `namespaces`, `side`, `netbox` | processes of their own, hosts with devices, and both sides together; on Linux alone |

mod condition;
mod forwarder;
#[cfg(target_os = "linux")]
mod namespaces;
#[cfg(target_os = "linux")]
mod netbox;
mod packet;
#[cfg(target_os = "linux")]
mod side;
#[cfg(test)]
mod tests;
mod way;

use std::net::Ipv4Addr;

pub use condition::{Condition, Kind, Measure};
pub use forwarder::{CONDITIONS_MAX, Forwarder, TooMany};
#[cfg(target_os = "linux")]
pub use namespaces::{Unavailable, launch, settle};
#[cfg(target_os = "linux")]
pub use netbox::Netbox;
pub use way::{Counts, QUEUE_BYTES_MIN};

/// Address of the side where the service is
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// First address of the side that dials; with each [`Kind::Roam`] it has the next one, and after .254 this one again
pub const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
/// Most bytes of a packet, as both sides know it
pub const MTU: usize = 1500;
