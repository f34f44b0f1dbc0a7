//! What a box says of itself: who is where, and what became of the packets

use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use rejoin_smol::chaos::End;
use rejoin_smol::packets::{Counts, Netbox, PEER, SERVICE};
use serde::Serialize;

/// That there is a box
pub(super) struct Ready {
    pub(super) seed: u64,
    pub(super) control: Option<SocketAddr>,
}

impl Ready {
    pub(super) fn text(&self, json: bool) -> String {
        let Ready { seed, control } = self;
        if json {
            let control = control.map(|control| control.to_string());
            let object = serde_json::json!({
                "type": "ready", "service": SERVICE.to_string(), "peer": PEER.to_string(), "control": control, "seed": seed
            });
            return format!("{object}\n");
        }
        let orders = control.map_or_else(String::new, |control| format!(", orders at {control}"));
        format!("rejoin: service at {SERVICE}, command at {PEER}{orders}, seed {seed}\n")
    }
}

/// What became of the packets
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    #[serde(rename = "type")]
    kind: &'static str,
    seed: u64,
    wall_ms: u64,
    /// The address that the command's side has now, and how often that has changed
    peer: Ipv4Addr,
    roamed: u64,
    towards_peer: Counts,
    towards_coordinator: Counts,
}

impl Summary {
    pub(super) fn of(netbox: &Netbox, seed: u64, started: Instant) -> Summary {
        Summary {
            kind: "summary",
            seed,
            wall_ms: started.elapsed().as_millis() as u64,
            peer: netbox.peer_address(),
            roamed: netbox.roamed(),
            towards_peer: netbox.counts(End::Peer),
            towards_coordinator: netbox.counts(End::Coordinator),
        }
    }

    /// One object, on one line
    pub(super) fn json(&self) -> String {
        // Numbers and names: there is nothing that could not be written.
        let object = serde_json::to_string(self).unwrap_or_default();
        format!("{object}\n")
    }

    /// A line for each direction, with what has happened there
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        for (name, counts) in [("peer", &self.towards_peer), ("coordinator", &self.towards_coordinator)] {
            let Counts { packets, bytes, .. } = counts;
            let _ = write!(text, "rejoin: {packets} packets towards {name}, {bytes} bytes");
            for (number, what) in happened(counts).into_iter().filter(|(number, _)| *number > 0) {
                let _ = write!(text, ", {number} {what}");
            }
            text.push('\n');
        }
        if self.roamed > 0 {
            let _ = writeln!(
                text,
                "rejoin: the command's side has roamed to {} (changes of its address: {})",
                self.peer, self.roamed
            );
        }
        text
    }
}

fn happened(counts: &Counts) -> [(u64, &'static str); 9] {
    [
        (counts.lost, "lost"),
        (counts.partitioned, "lost in partitions"),
        (counts.blackholed, "lost since they were too large"),
        (counts.overflowed, "lost in a full queue"),
        (counts.undeliverable, "lost since the device was down"),
        (counts.duplicated, "duplicated"),
        (counts.reordered, "reordered"),
        (counts.corrupted, "corrupted"),
        (counts.flipped, "flipped"),
    ]
}
