//! Stopping on the way, and what everything is like there

use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rejoin_core::Instant;

use super::nodes::Machine;
use super::{Simulation, Who};
use crate::audit::Violation;
use crate::net::Side;
use crate::trace::{Told, Trace};
use crate::words::words;

/// Tasks and connections that are named for each node; the others are counted
const NAMED_MAX: usize = 8;

/// Where a simulation is to stop
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Behind everything that happens up to then
    At(Instant),
    /// As soon as so many events have been recorded
    Events(u64),
}

impl Simulation {
    /// Has it stop there, instead of at the last audit
    pub fn stop_at(&mut self, stop: Stop) {
        self.stop = Some(stop);
    }

    /// Has it stop as soon as somebody sets that; what it has come to by then is of no use
    pub(crate) fn stop_when(&mut self, given_up: Arc<AtomicBool>) {
        self.given_up = Some(given_up);
    }

    /// Whether what comes next, in a part that goes on to `end`, lies behind the place where it is to stop
    pub(super) fn stops_before(&mut self, next: Instant, end: Instant) -> bool {
        match self.stop {
            None => {}
            Some(Stop::At(at)) if next > at && at < end => {
                self.now = self.now.max(at);
                self.stopped = true;
            }
            Some(Stop::At(_)) => {}
            Some(Stop::Events(count)) => self.stopped = self.trace.steps().len() as u64 >= count,
        }
        self.stopped
    }

    /// Whether it has stopped where it was to, and not at its end
    pub fn has_stopped(&self) -> bool {
        self.stopped
    }

    /// What time it is
    pub fn now(&self) -> Instant {
        self.now
    }

    /// The fingerprint of all so far (S29)
    pub fn hash(&self) -> u64 {
        self.trace.hash()
    }

    /// What is being recorded
    pub(crate) fn trace(&self) -> &Trace {
        &self.trace
    }

    /// What was recorded so far
    pub fn steps(&self) -> &[(Instant, u64, Told)] {
        self.trace.steps()
    }

    /// What did not hold so far, if anything
    pub fn violation(&self) -> Option<&Violation> {
        self.auditor.violation()
    }

    /// What all nodes and connections are like now: a line each, and one for the fingerprint
    pub fn describe(&self) -> String {
        let phase = if self.healed { "healed" } else { "faults may strike" };
        let mut text = format!("{:?}: {phase}, fingerprint {:016x}\n", self.now, self.hash());
        self.describe_chief(&mut text);
        for peer in 0..self.peers.len() {
            self.describe_peer(peer, &mut text);
        }
        for socket in self.sockets.values() {
            let peer = socket.peer.map_or("a stranger".into(), |peer| self.name(Who::Peer(peer)).to_string());
            let _ = write!(text, "connection {} of {peer}:", socket.conn.0);
            for (side, name) in [(Side::Peer, "peer"), (Side::Coordinator, "coordinator")] {
                let pipe = &socket.pipes[side as usize];
                let open = if socket.is_open(side) { "open" } else { "closed" };
                let _ = write!(text, " {open} at the {name}, {} bytes under way to it", pipe.in_flight);
                let marks = [(pipe.is_arriving(), "part of a message there"), (pipe.deaf, "deaf"), (pipe.full, "full")];
                for (_, mark) in marks.into_iter().filter(|(is, _)| *is) {
                    let _ = write!(text, ", {mark}");
                }
                text.push_str(if side == Side::Peer { ";" } else { "\n" });
            }
        }
        text
    }

    fn describe_chief(&self, text: &mut String) {
        let journal = &self.chief.journal;
        let _ = write!(text, "coordinator: life {}, ", self.chief.life.number);
        match &self.chief.machine {
            None => text.push_str("not alive"),
            Some(machine) => {
                let counts = machine.counts();
                let _ = write!(
                    text,
                    "tasks: {} accepting, {} ready, {} backing off, {} assigned, {} ended; {}",
                    counts.accepting,
                    counts.ready,
                    counts.backoff,
                    counts.assigned,
                    counts.ended,
                    Wakes(self.until_wake(Who::Chief))
                );
            }
        }
        let syncing = if self.chief.syncing.is_some() { ", a sync is under way" } else { "" };
        let _ = writeln!(text, "; {} records, {} durable{syncing}", journal.records.len(), journal.durable);
    }

    fn describe_peer(&self, peer: usize, text: &mut String) {
        let node = &self.peers[peer];
        let _ = write!(text, "{}: life {}, ", self.name(Who::Peer(peer)), node.life.number);
        let Some(machine) = &node.machine else { return text.push_str("not alive\n") };
        if let Some(state) = self.state(peer) {
            text.push_str(&words(state));
        }
        if let Some(conn) = node.conn {
            let _ = write!(text, " on {}", conn.0);
        }
        let _ = write!(text, "; {}", Wakes(self.until_wake(Who::Peer(peer))));
        match machine {
            Machine::Worker(worker) => {
                let draining = if node.draining { "; draining" } else { "" };
                let _ = write!(text, "{draining}; {} attempts", worker.held());
                for (token, execution) in node.running.iter().take(NAMED_MAX) {
                    let state = worker.attempt(*token).map(words);
                    let number = self.tasks.get(&execution.id).map_or(0, |task| task.number);
                    let printed = self.printed.get(token).map_or(0, Vec::len);
                    let _ = write!(text, ", task {number} {}", state.as_deref().unwrap_or("forgotten"));
                    if printed > 0 {
                        let _ = write!(text, " ({printed} bytes printed)");
                    }
                }
                more(text, node.running.len());
            }
            Machine::Client(client) => {
                let mine = |number: u16| self.client_peer(number) == peer;
                let open: Vec<_> = self
                    .tasks
                    .iter()
                    .filter(|(_, task)| mine(task.client))
                    .filter_map(|(id, task)| Some((task.number, client.task(*id)?)))
                    .filter(|(_, view)| view.end.is_none())
                    .collect();
                let _ = write!(text, "; {} tasks open", open.len());
                for (number, view) in open.iter().take(NAMED_MAX) {
                    let state = words(view.state);
                    let _ = write!(text, ", task {number} {state} at attempt {}", view.attempt);
                }
                more(text, open.len());
            }
        }
        text.push('\n');
    }

    /// How long until somebody's own time comes
    fn until_wake(&self, who: Who) -> Option<core::time::Duration> {
        self.life(who).wake.map(|at| at.since(self.now))
    }
}

fn more(text: &mut String, all: usize) {
    if all > NAMED_MAX {
        let _ = write!(text, ", and {} more", all - NAMED_MAX);
    }
}

/// When somebody's time comes
struct Wakes(Option<core::time::Duration>);

impl fmt::Display for Wakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(after) => write!(f, "wakes in {after:?}"),
            None => f.write_str("no timer"),
        }
    }
}
