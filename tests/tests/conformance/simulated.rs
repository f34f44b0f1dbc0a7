//! What machines see in the simulator

use std::collections::BTreeMap;

use rejoin_sim::recorded::Recorded;
use rejoin_sim::schedule::{Node, Schedule};
use rejoin_sim::simulation::Stop;
use rejoin_sim::trace::Told;

use super::Seen;

const WORKER: Node = Node::Worker(0);

/// Runs a schedule up to the end of its faults
pub(super) fn run(schedule: &Schedule) -> Seen {
    let until = rejoin_core::Instant::from_micros(schedule.safety.as_micros() as u64);
    let recorded = Recorded::run(schedule, Some(Stop::At(until))).expect("no panic");
    assert!(recorded.failure.is_none(), "{:?}", recorded.failure);
    let mut reader = Reader::default();
    recorded.steps().iter().for_each(|(_, _, told)| reader.told(told));
    reader.seen
}

#[derive(Default)]
struct Reader {
    seen: Seen,
    /// Where the events of a connection are, at either end
    at_peer: BTreeMap<u64, usize>,
    at_coordinator: BTreeMap<u64, usize>,
}

impl Reader {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the others are not about transports")]
    fn told(&mut self, told: &Told) {
        match told {
            Told::Dialled(WORKER, conn) => {
                self.seen.peer.push(vec!["dials".into()]);
                conn.map(|conn| self.at_peer.insert(conn, self.seen.peer.len() - 1));
            }
            Told::Opened { conn, peer: Some(WORKER) } => {
                self.at(WORKER, *conn, "opened");
                self.seen.coordinator.push(vec!["opened".into()]);
                self.at_coordinator.insert(*conn, self.seen.coordinator.len() - 1);
            }
            Told::Received { by, conn, .. } => self.at(*by, *conn, "hears"),
            Told::Lost(node, conn) => self.at(*node, *conn, "lost"),
            Told::Note(WORKER, note) => {
                let last = self.seen.peer.last_mut();
                if let Some(reason) = note.strip_prefix("closes its connection: ") {
                    last.expect("a connection").push(format!("closes: {reason}"));
                } else if note.starts_with("its dial fails: ") {
                    last.expect("a dial").push("lost".into());
                }
            }
            Told::Note(Node::Coordinator, note) => {
                let words = note.strip_prefix("closes connection ").and_then(|rest| rest.split_once(": "));
                if let Some((conn, reason)) = words {
                    self.at(Node::Coordinator, conn.parse().expect("a number"), &format!("closes: {reason}"));
                }
            }
            _ => {}
        }
    }

    /// An event of the worker's connections; others are not looked at
    fn at(&mut self, node: Node, conn: u64, what: &str) {
        let (places, all) = match node {
            WORKER => (&self.at_peer, &mut self.seen.peer),
            Node::Coordinator => (&self.at_coordinator, &mut self.seen.coordinator),
            Node::Worker(_) | Node::Client(_) => return,
        };
        if let Some(place) = places.get(&conn) {
            all[*place].push(what.into());
        }
    }
}
