//! A simulation: the machines of production over virtual sockets, clocks, disks and processes
//!
//! | room | concern |
//! | --- | --- |
//! | `mod` | time: what happens next, and to whom |
//! | `net` | bytes under way, and what a network is like |
//! | `wires` | dials, messages, closes |
//! | `nodes` | clocks, processes, disks |
//! | `people` | what workers and clients do |
//! | `chief` | what the coordinator does, and its journal |
//! | `faults` | what the menu's kinds do |
//! | `phases` | from the start to the last audit |
//!
//! There are no ticks. Every machine is drained until it is idle, then time jumps to the earliest thing that happens.
//! What happens at the same time to different entities happens in an order that is drawn.

mod chief;
mod faults;
mod net;
mod nodes;
mod people;
mod phases;
mod wires;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::time::Duration;

use rejoin_core::ids::{ConnId, TaskId, Token};
use rejoin_core::limits::FRAME_BYTES_MAX;
use rejoin_core::{Instant, Loss, coordinator};

use self::net::Socket;
use self::nodes::{Chief, Machine, Peer};
pub use self::phases::{Ending, Figures};
use crate::audit::{Auditor, Check};
use crate::draws::{Draws, Purpose, mix};
use crate::menu::Tally;
use crate::net::Side;
use crate::schedule::{Knob, Schedule, Task};
use crate::trace::Trace;

/// One way, where nothing else is said
const LATENCY: Duration = Duration::from_millis(1);
/// Bytes under way above which a connection is not writable
const SEND_BUFFER: u64 = 64 * 1024;
/// Events at one instant above which a timer spins
const EVENTS_AT_ONCE_MAX: u64 = 50_000;

/// Somebody who may be woken: the coordinator, or a peer
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Chief,
    Peer(usize),
}

/// Something that will happen
#[derive(Clone, Debug)]
enum Happening {
    /// A line of the schedule
    Line(usize),
    /// A machine's time has come
    Wake(Who),
    /// A process starts again
    Start(Who),
    /// A connection opens at both ends
    Opens { conn: ConnId },
    /// The coordinator's system hands a connection over
    Accepted { conn: ConnId },
    /// A dial fails
    Fails { peer: usize, attempt: u64, life: u64, loss: Loss },
    /// Bytes may have arrived at an end
    Bytes { conn: ConnId, towards: Side },
    /// An end learns that its connection is gone
    Closed { conn: ConnId, at: Side },
    /// An end may send again
    Writable { conn: ConnId, at: Side },
    /// The connection breaks at both ends
    Breaks { conn: ConnId },
    /// Records are durable, unless the coordinator that wrote them is gone
    Synced { upto: u64, life: u64 },
    /// A clock runs right again, and shows every microsecond
    ClockRight(Who),
    /// Something of a task at a worker
    Work { peer: usize, life: u64, token: Token, moment: Moment },
    /// An end that hears nothing should have found out by now
    FoundOut { conn: ConnId, at: Side, who: Who, life: u64 },
}

#[derive(Clone, Copy, Debug)]
enum Moment {
    Prints,
    Step(u8),
    Ends,
    /// It takes its worker with it
    Kills,
}

/// One simulation
pub struct Simulation {
    schedule: Schedule,
    now: Instant,
    heap: BinaryHeap<Reverse<(Instant, u64, u64)>>,
    happenings: BTreeMap<u64, Happening>,
    sequence: u64,
    at_once: u64,
    chief: Chief,
    peers: Vec<Peer>,
    sockets: BTreeMap<ConnId, Socket>,
    dirty: BTreeSet<Who>,
    tasks: BTreeMap<TaskId, Task>,
    by_number: BTreeMap<u32, TaskId>,
    entropy: Draws,
    latency_draws: Draws,
    latency: Duration,
    send_buffer: u64,
    /// Some fault says again what was said before
    remembers: bool,
    /// Nothing breaks any more
    healed: bool,
    /// Counts lives, for their ids
    boots: u64,
    /// Breaches of the rules that lives which have ended had found
    breaches: u64,
    tally: Tally,
    auditor: Auditor,
    trace: Trace,
    figures: Figures,
    output: BTreeMap<(u16, TaskId), (Token, u64)>,
    frame: Vec<u8>,
}

impl Simulation {
    /// Prepares what a schedule says
    ///
    /// # Panics
    ///
    /// If its settings are not legal together.
    pub fn new(schedule: &Schedule) -> Simulation {
        Simulation::with(schedule, Trace::default())
    }

    fn with(schedule: &Schedule, trace: Trace) -> Simulation {
        let seed = schedule.seed;
        let knob = |name| schedule.setting(name);
        let mut simulation = Simulation {
            now: Instant::ZERO,
            heap: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            sequence: 0,
            at_once: 0,
            chief: Chief::new(schedule),
            peers: Vec::new(),
            sockets: BTreeMap::new(),
            dirty: BTreeSet::new(),
            tasks: BTreeMap::new(),
            by_number: BTreeMap::new(),
            entropy: Draws::new(seed, Purpose::Entropy, 0),
            latency_draws: Draws::new(seed, Purpose::Latency, 0),
            latency: knob(Knob::Latency).map_or(LATENCY, Duration::from_micros),
            send_buffer: knob(Knob::SendBuffer).unwrap_or(SEND_BUFFER),
            remembers: schedule.entries.iter().any(|entry| entry.what.says_again()),
            healed: false,
            boots: 0,
            breaches: 0,
            tally: Tally::default(),
            auditor: Auditor::default(),
            trace,
            figures: Figures::default(),
            output: BTreeMap::new(),
            frame: vec![0; FRAME_BYTES_MAX],
            schedule: schedule.clone(),
        };
        for index in 0..schedule.entries.len() {
            let at = Instant::ZERO + schedule.entries[index].at;
            simulation.happen_at(at, u64::MAX, Happening::Line(index));
        }
        simulation.start_chief();
        for peer in 0..usize::from(schedule.workers) + usize::from(schedule.clients) {
            simulation.peers.push(Peer::default());
            simulation.start_peer(peer);
        }
        simulation
    }

    /// Keeps what happens, for a timeline; costs memory
    pub fn record(&mut self) {
        self.trace.record();
    }

    /// Who has the number of a peer
    fn is_worker(&self, peer: usize) -> bool {
        peer < usize::from(self.schedule.workers)
    }

    // Time.

    /// Lets time pass up to a moment, or to the first violation
    fn run_until(&mut self, end: Instant) {
        while self.auditor.violation().is_none() && self.step_before(end) {}
        self.now = self.now.max(end.min(Instant::from_micros(u64::MAX - 1)));
    }

    /// Jumps to the next thing that happens and lets it happen; `false` when that is later
    fn step_before(&mut self, end: Instant) -> bool {
        let Some(Reverse((at, ..))) = self.heap.peek() else { return false };
        if *at > end {
            return false;
        }
        let Some(Reverse((at, _, key))) = self.heap.pop() else { return false };
        self.at_once = if at > self.now { 0 } else { self.at_once + 1 };
        self.now = self.now.max(at);
        self.auditor.at(self.now);
        let spins = self.at_once > EVENTS_AT_ONCE_MAX;
        if spins {
            self.auditor.expect(Check::S25, false, || "time does not pass any more".into());
        }
        if let Some(happening) = self.happenings.remove(&key) {
            self.figures.events += 1;
            self.let_happen(happening);
            self.drain();
        }
        true
    }

    /// Has something happen; what happens at the same time to one entity stays in its order
    fn happen_at(&mut self, at: Instant, entity: u64, happening: Happening) {
        self.sequence += 1;
        let at = at.max(self.now);
        let rank = mix(self.schedule.seed ^ mix(at.as_micros()) ^ entity);
        self.heap.push(Reverse((at, rank, self.sequence)));
        self.happenings.insert(self.sequence, happening);
    }

    fn happen(&mut self, after: Duration, entity: u64, happening: Happening) {
        self.happen_at(self.now + after, entity, happening);
    }

    /// Whether somebody stands still, and until when
    fn paused_until(&self, who: Who) -> Option<Instant> {
        if self.healed {
            return None;
        }
        let life = match who {
            Who::Chief => &self.chief.life,
            Who::Peer(peer) => &self.peers[peer].life,
        };
        life.paused.at(self.now).map(Instant::from_micros)
    }

    /// Puts something off while whoever it concerns stands still
    fn put_off(&mut self, who: Who, entity: u64, happening: &Happening) -> bool {
        let Some(until) = self.paused_until(who) else { return false };
        self.tally.hit(crate::menu::Kind::Pause);
        self.happen_at(until, entity, happening.clone());
        true
    }

    fn let_happen(&mut self, happening: Happening) {
        match happening {
            Happening::Line(index) => self.line(index),
            Happening::Wake(who) => self.wake(who),
            Happening::Start(Who::Chief) => self.start_chief(),
            // One that leaves after everything has healed has been told to for good.
            Happening::Start(Who::Peer(peer)) if self.healed && self.peers[peer].machine.is_some() => {}
            Happening::Start(Who::Peer(peer)) => self.start_peer(peer),
            Happening::Opens { conn } => self.opens(conn),
            Happening::Accepted { conn } => {
                if !self.put_off(Who::Chief, conn.0, &happening) {
                    self.accepted(conn);
                }
            }
            Happening::Fails { peer, attempt, life, loss } => {
                if !self.put_off(Who::Peer(peer), peer as u64, &happening) {
                    self.dial_fails(peer, attempt, life, loss);
                }
            }
            Happening::Bytes { conn, towards } => self.bytes(conn, towards),
            Happening::Closed { conn, at } => {
                let Some(who) = self.end_of(conn, at) else { return };
                if !self.put_off(who, conn.0, &happening) {
                    self.closed(conn, at);
                }
            }
            Happening::Writable { conn, at } => self.writable_again(conn, at),
            Happening::Breaks { conn } => self.break_now(conn),
            Happening::ClockRight(who) => self.clock_right(who),
            Happening::Synced { upto, life } => {
                if !self.put_off(Who::Chief, 0, &happening) {
                    self.synced(upto, life);
                }
            }
            Happening::Work { peer, life, token, moment } => {
                if !self.put_off(Who::Peer(peer), peer as u64, &happening) {
                    self.work(peer, life, token, moment);
                }
            }
            Happening::FoundOut { conn, at, who, life } => self.found_out(conn, at, who, life),
        }
    }

    /// A machine's own time has come
    fn wake(&mut self, who: Who) {
        let life = match who {
            Who::Chief => &mut self.chief.life,
            Who::Peer(peer) => &mut self.peers[peer].life,
        };
        if life.wake != Some(self.now) {
            // Another one was set in its place.
            return;
        }
        life.wake = None;
        if let Some(until) = self.paused_until(who) {
            self.set_wake(who, until);
            return;
        }
        self.tell_arriving(who);
        self.trace.woken(self.now, self.name(who));
        self.tell_time(who);
    }

    /// Lets a machine see what time it is, unless it stands still
    fn tell_time(&mut self, who: Who) {
        if self.paused_until(who).is_some() {
            return;
        }
        let now = self.clock(who);
        match who {
            Who::Chief => {
                if let Some(machine) = &mut self.chief.machine {
                    machine.handle(now, coordinator::Input::Timeout).expect("time is never refused");
                }
            }
            Who::Peer(peer) => {
                if let Some(machine) = &mut self.peers[peer].machine {
                    machine.timeout(now).expect("time is never refused");
                }
            }
        }
        self.dirty.insert(who);
    }

    fn set_wake(&mut self, who: Who, at: Instant) {
        let life = match who {
            Who::Chief => &mut self.chief.life,
            Who::Peer(peer) => &mut self.peers[peer].life,
        };
        if life.wake != Some(at) {
            life.wake = Some(at);
            let entity = match who {
                Who::Chief => 0,
                Who::Peer(peer) => peer as u64 + 1,
            };
            self.happen_at(at, entity << 32 | 1, Happening::Wake(who));
        }
    }

    /// What somebody's clock shows
    fn clock(&self, who: Who) -> Instant {
        match who {
            Who::Chief => self.chief.life.clock.read(self.now),
            Who::Peer(peer) => self.peers[peer].life.clock.read(self.now),
        }
    }

    /// Asks every machine that heard something what to do, until none has anything to do
    fn drain(&mut self) {
        while let Some(who) = self.dirty.pop_first() {
            match who {
                Who::Chief => self.drain_chief(),
                Who::Peer(peer) => self.drain_peer(peer),
            }
            let (wake_at, clock) = match who {
                Who::Chief => (self.chief.machine.as_ref().and_then(|m| m.wake_at()), self.chief.life.clock),
                Who::Peer(peer) => {
                    let peer = &self.peers[peer];
                    (peer.machine.as_ref().and_then(Machine::wake_at), peer.life.clock)
                }
            };
            if let Some(at) = wake_at {
                let shows = clock.read(self.now);
                let later = at > shows;
                self.auditor.expect(Check::S25, later, || format!("a timer is due at {at:?}, and it is {shows:?}"));
                // Later by the own clock is later in truth; one that does not move on is still waited for.
                self.set_wake(who, clock.when(at).max(self.now + Duration::from_micros(1)));
            }
        }
    }

    /// What people call somebody
    fn name(&self, who: Who) -> crate::schedule::Node {
        use crate::schedule::Node;
        match who {
            Who::Chief => Node::Coordinator,
            Who::Peer(peer) if self.is_worker(peer) => Node::Worker(peer as u16),
            Who::Peer(peer) => Node::Client(peer as u16 - self.schedule.workers),
        }
    }

    fn fresh(&mut self) -> [u8; 32] {
        self.entropy.bytes()
    }

    fn task_id(&mut self, number: u32) -> TaskId {
        *self.by_number.entry(number).or_insert_with(|| TaskId::from_text(&format!("task {number}")))
    }
}
