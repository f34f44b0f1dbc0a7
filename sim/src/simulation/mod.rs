//! A simulation: the machines of production over virtual sockets, clocks, disks and processes
//!
//! | room | concern |
//! | --- | --- |
//! | `mod` | time: what happens next, and to whom |
//! | `net`, `laws` | bytes under way, what a network is like, laws of delay |
//! | `wires` | dials, messages, closes |
//! | `nodes` | clocks, processes, disks |
//! | `people` | what workers and clients do |
//! | `inputs`, `fetches` | large inputs on their way from clients, and large results to them |
//! | `chief`, `stores` | what the coordinator does, and its journal; stores that are not what they were |
//! | `faults`, `rogue` | what the menu's kinds do |
//! | `stores` | what workers keep on their disks |
//! | `struck` | what whoever a fault strikes is like |
//! | `phases` | from the start to the last audit |
//! | `twins` | the same with one thing changed, to compare with |
//! | `view` | stopping on the way, and what everything is like there |
//!
//! There are no ticks. Every machine is drained until it is idle, then time jumps to the earliest thing that happens.
//! What happens at the same time to different entities happens in an order that is drawn.

mod chief;
mod faults;
mod fetches;
mod inputs;
mod laws;
mod net;
mod nodes;
mod people;
mod phases;
mod rogue;
mod spools;
mod stores;
mod struck;
mod twins;
mod view;
mod wires;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rejoin_core::blob::ChunkName;
use rejoin_core::ids::{ConnId, KeyId, TaskId, Token};
use rejoin_core::limits::FRAME_BYTES_MAX;
use rejoin_core::wire::keys::Key;
use rejoin_core::{Instant, Loss, coordinator};

use self::net::{Arrived, Socket};
use self::nodes::{Chief, Life, Machine, Peer};
pub use self::phases::{Ending, Figures};
pub use self::view::Stop;
use crate::audit::{Auditor, Check};
use crate::cover::Cover;
use crate::draws::{Draws, Purpose, mix};
use crate::logic::{Scripted, Seen, Workload};
use crate::menu::{Kind, Tally};
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
    /// Nobody can believe in a ghost any more
    Vanishes { conn: ConnId },
    /// A flapping connection breaks again
    Flaps { peer: usize },
    /// A peer is cut off
    CutOff { peer: usize, until: Instant },
    /// A clock runs so many thousandths fast from now on
    Drifts { who: Who, fast: i64 },
    /// The clock of a process that was suspended goes on
    Resumes(Who),
    /// A worker of that life ends
    Dies { peer: usize, life: u64, kind: Kind, away: Duration },
    /// The coordinator of that life ends
    ChiefDies { life: u64, away: Duration },
    /// The coordinator gets its right store back
    RightStore,
    /// The coordinator of that life, which has told everybody, ends
    ChiefLeaves { life: u64, away: Duration },
    /// A worker is put back to what it was
    PutBack { peer: usize },
    /// A clone of that life ends
    CloneEnds { clone: usize, life: u64 },
    /// A worker that had a wrong secret has the right one
    RightKey { peer: usize },
    /// A worker whose key was revoked has another one
    Enrols { peer: usize },
    /// The coordinator of that life has written a worker's new key, unless the one before has been revoked
    ChiefKeeps { key: Box<Key>, after: KeyId, life: u64 },
    /// It knows that
    ChiefKept { key: KeyId, life: u64 },
    /// A worker of that life has written its new key
    WorkerKeeps { peer: usize, life: u64 },
    /// It knows that
    WorkerKept { peer: usize, life: u64 },
    /// Something of a task at a worker
    Work { peer: usize, life: u64, token: Token, moment: Moment },
    /// What a worker of that life keeps of an attempt is synced
    Kept { peer: usize, life: u64, token: Token },
    /// There may be room on a worker's disk again
    StoreRoom { peer: usize },
    /// A worker of that life starts anew with the store that it had then
    OldSpool { peer: usize, store: Box<spools::Store> },
    /// The guardian of a worker of that life looks after exclusive tasks
    Guards { peer: usize, life: u64 },
    /// An end that hears nothing should have found out by now
    FoundOut { conn: ConnId, at: Side, who: Who, life: u64 },
}

#[derive(Clone, Copy, Debug)]
enum Moment {
    /// It goes on with what it does
    Acts,
    /// It was told to stop, and has
    Stopped,
}

/// One simulation
pub struct Simulation {
    schedule: Schedule,
    workload: Box<dyn Workload>,
    now: Instant,
    /// Time, drawn rank, sequence, and the place of what happens
    heap: BinaryHeap<Reverse<(Instant, u64, u64, usize)>>,
    happenings: Vec<Option<Happening>>,
    /// Places without one
    free: Vec<usize>,
    sequence: u64,
    at_once: u64,
    chief: Chief,
    peers: Vec<Peer>,
    sockets: BTreeMap<ConnId, Socket>,
    /// Connections with a part of a message at the coordinator
    arriving: BTreeSet<ConnId>,
    dirty: BTreeSet<Who>,
    tasks: BTreeMap<TaskId, Task>,
    by_number: BTreeMap<u32, TaskId>,
    latency: Duration,
    send_buffer: u64,
    /// Some fault says again what was said before
    remembers: bool,
    /// Some worker is put back, or has a double, so that it may say what is not so
    doubled: bool,
    /// Nothing breaks any more
    healed: bool,
    /// Breaches of the rules that lives which have ended had found
    breaches: u64,
    /// Breaches that somebody committed on purpose, and how many came for that
    provoked: u64,
    rogues: usize,
    /// Connections that were nobody's worker or client
    intruders: u64,
    /// Nothing has been broken since, and what it left behind should be over
    calm_since: Instant,
    /// Clocks have run at different rates, or memories were put back: nothing is promised of leases (TASK-4)
    clocks_differ: bool,
    /// Nothing but heartbeats is due
    quiet: bool,
    /// Somebody could not send for a while
    was_full: bool,
    /// Tasks at workers that stayed broken when all else had healed
    orphans: Vec<TaskId>,
    /// How long a batch of tasks took at the end, where that is measured (L10)
    goodput: Option<Duration>,
    /// Working memory for what frames say, and for what arrives
    scratch: Vec<u8>,
    arrived: Vec<Arrived>,
    tally: Tally,
    cover: Cover,
    auditor: Auditor,
    trace: Trace,
    figures: Figures,
    /// What each attempt printed, and of which one clients have how much
    printed: BTreeMap<Token, Vec<u8>>,
    /// Every checkpoint that was made: of which task, its number, and the name of its content
    made: BTreeSet<(TaskId, u64, ChunkName)>,
    /// The name of the content of each large result that an attempt returned, and of how many different chunks it consists
    returned: BTreeMap<Token, (ChunkName, usize)>,
    output: BTreeMap<(u16, TaskId), (Token, u64)>,
    seen: Seen,
    frame: Vec<u8>,
    /// Where to stop on the way, and whether it has
    stop: Option<Stop>,
    stopped: bool,
    /// Whoever waits for it does so no longer
    given_up: Option<Arc<AtomicBool>>,
}

impl Simulation {
    /// Prepares what a schedule says, with tasks that do what its lines say
    ///
    /// # Panics
    ///
    /// If its settings are not legal together.
    pub fn new(schedule: &Schedule) -> Simulation {
        Simulation::with(schedule, Box::new(Scripted))
    }

    /// Prepares what a schedule says, with tasks that do what a workload says
    ///
    /// # Panics
    ///
    /// If its settings are not legal together.
    pub fn with(schedule: &Schedule, workload: Box<dyn Workload>) -> Simulation {
        Simulation::traced(schedule, workload, Trace::default())
    }

    /// The same as [`Simulation::new`], and keeps all that happens; costs memory
    pub(crate) fn recording(schedule: &Schedule) -> Simulation {
        Simulation::traced(schedule, Box::new(Scripted), Trace::recording())
    }

    fn traced(schedule: &Schedule, workload: Box<dyn Workload>, trace: Trace) -> Simulation {
        let knob = |name| schedule.setting(name);
        let has = |kinds: &[Kind]| schedule.entries.iter().any(|entry| entry.what.is_one_of(kinds));
        let mut simulation = Simulation {
            now: Instant::ZERO,
            heap: BinaryHeap::new(),
            happenings: Vec::new(),
            free: Vec::new(),
            sequence: 0,
            at_once: 0,
            chief: Chief::new(schedule),
            peers: Vec::new(),
            sockets: BTreeMap::new(),
            arriving: BTreeSet::new(),
            dirty: BTreeSet::new(),
            tasks: BTreeMap::new(),
            by_number: BTreeMap::new(),
            latency: knob(Knob::Latency).map_or(LATENCY, Duration::from_micros),
            send_buffer: knob(Knob::SendBuffer).unwrap_or(SEND_BUFFER),
            remembers: has(&[Kind::Replay, Kind::Splice, Kind::Impostor]),
            doubled: has(&[Kind::Snapshot, Kind::Clone]),
            healed: false,
            breaches: 0,
            provoked: 0,
            rogues: 0,
            intruders: 0,
            calm_since: Instant::ZERO,
            clocks_differ: false,
            quiet: false,
            was_full: false,
            orphans: Vec::new(),
            goodput: None,
            scratch: Vec::new(),
            arrived: Vec::new(),
            tally: Tally::default(),
            cover: Cover::default(),
            auditor: Auditor::default(),
            trace,
            figures: Figures::default(),
            printed: BTreeMap::new(),
            made: BTreeSet::new(),
            returned: BTreeMap::new(),
            output: BTreeMap::new(),
            seen: Seen::default(),
            frame: vec![0; FRAME_BYTES_MAX],
            stop: None,
            stopped: false,
            given_up: None,
            schedule: schedule.clone(),
            workload,
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

    /// Whether a peer is a worker, or another process with the key of one
    fn is_worker(&self, peer: usize) -> bool {
        peer < usize::from(self.schedule.workers) || self.is_clone(peer)
    }

    /// Whether a peer is another process with the key of a worker: behind all workers and clients
    fn is_clone(&self, peer: usize) -> bool {
        peer >= self.people()
    }

    /// Workers and clients
    fn people(&self) -> usize {
        usize::from(self.schedule.workers) + usize::from(self.schedule.clients)
    }

    /// Connections that a peer dialled
    fn sockets_of(&self, peer: usize) -> impl Iterator<Item = &Socket> {
        let first = |peer: usize| ConnId((peer as u64 + 1) << 32);
        self.sockets.range(first(peer)..first(peer + 1)).map(|(_, socket)| socket)
    }

    /// Whether nothing breaks any more for somebody
    fn is_whole(&self, who: Who) -> bool {
        self.healed && !matches!(who, Who::Peer(peer) if self.peers[peer].frozen)
    }

    // Time.

    /// Lets time pass up to a moment, or to the first violation
    fn run_until(&mut self, end: Instant) {
        while self.goes_on() && self.step_before(end) {}
        if self.goes_on() {
            self.now = self.now.max(end.min(Instant::from_micros(u64::MAX - 1)));
        }
    }

    /// Jumps to the next thing that happens and lets it happen; `false` when that is later
    fn step_before(&mut self, end: Instant) -> bool {
        let Some(Reverse((at, ..))) = self.heap.peek() else { return false };
        let at = *at;
        self.stopped |= self.given_up.as_ref().is_some_and(|given_up| given_up.load(Ordering::Relaxed));
        if self.stopped || self.stops_before(at, end) || at > end {
            return false;
        }
        let Some(Reverse((at, _, _, place))) = self.heap.pop() else { return false };
        self.at_once = if at > self.now { 0 } else { self.at_once + 1 };
        self.now = self.now.max(at);
        self.auditor.at(self.now);
        let spins = self.at_once > EVENTS_AT_ONCE_MAX;
        if spins {
            self.auditor.expect(Check::S25, false, || "time does not pass any more".into());
        }
        if let Some(happening) = self.happenings[place].take() {
            self.free.push(place);
            self.figures.events += 1;
            self.let_happen(happening);
            if !self.drains_later() {
                self.drain();
            }
        }
        true
    }

    /// Whether what happens next is taken in before machines are asked what to do, as adapters take in all that is there
    ///
    /// At half of the moments each happening is answered by itself.
    fn drains_later(&self) -> bool {
        let next = self.heap.peek().is_some_and(|Reverse((at, ..))| *at <= self.now);
        next && mix(self.schedule.seed ^ self.now.as_micros()).is_multiple_of(2)
    }

    /// Has something happen; what happens at the same time to one entity stays in its order
    fn happen_at(&mut self, at: Instant, entity: u64, happening: Happening) {
        self.sequence += 1;
        let at = at.max(self.now);
        let rank = mix(self.schedule.seed ^ mix(at.as_micros()) ^ entity);
        let place = self.free.pop().unwrap_or(self.happenings.len());
        match self.happenings.get_mut(place) {
            Some(free) => *free = Some(happening),
            None => self.happenings.push(Some(happening)),
        }
        self.heap.push(Reverse((at, rank, self.sequence, place)));
    }

    fn happen(&mut self, after: Duration, entity: u64, happening: Happening) {
        self.happen_at(self.now + after, entity, happening);
    }

    /// Whether somebody stands still, what by, and until when
    fn stands_still(&self, who: Who) -> Option<(Kind, Instant)> {
        let life = self.life(who);
        life.stands_still(self.now).filter(|_| !self.is_whole(who))
    }

    /// Puts something off while whoever it concerns stands still
    fn put_off(&mut self, who: Who, entity: u64, happening: &Happening) -> bool {
        let Some((kind, until)) = self.stands_still(who) else { return false };
        self.tally.hit(kind);
        self.happen_when_over(until, who, entity, happening);
        true
    }

    /// Has something happen when what is in its way is over
    fn happen_when_over(&mut self, until: Instant, who: Who, entity: u64, happening: &Happening) {
        // When all heals it goes on at once, unless it is to stay as it is.
        let heals = Instant::ZERO + self.schedule.safety + Duration::from_micros(1);
        let stays = matches!(who, Who::Peer(peer) if self.peers[peer].frozen);
        self.happen_at(if stays { until } else { until.min(heals) }, entity, happening.clone());
    }

    fn let_happen(&mut self, happening: Happening) {
        match happening {
            Happening::Line(index) => self.line(index),
            Happening::Wake(who) => self.wake(who),
            Happening::Start(Who::Chief) => self.start_chief(),
            // One that leaves after everything has healed has been told to for good.
            Happening::Start(Who::Peer(peer)) if self.healed && self.peers[peer].machine.is_some() => {}
            Happening::Start(Who::Peer(peer)) if self.healed && self.peers[peer].frozen => {}
            // Nobody looks after a clone.
            Happening::Start(Who::Peer(peer)) if self.is_clone(peer) => {}
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
            Happening::Vanishes { conn } => self.vanishes(conn),
            Happening::Guards { peer, life } => self.guards(peer, life),
            Happening::Flaps { peer } => self.flaps(peer),
            Happening::CutOff { peer, until } => self.cut_off(peer, until),
            Happening::Drifts { who, fast } => self.drifts(who, fast),
            Happening::Resumes(who) => self.resumes(who),
            Happening::Dies { peer, life, kind, away } => self.dies(peer, life, kind, away),
            Happening::ChiefDies { life, away } => self.chief_dies(life, away),
            Happening::RightStore => self.right_store(),
            Happening::ChiefLeaves { life, away } => self.chief_leaves(life, away),
            Happening::PutBack { peer } => self.put_back(peer),
            Happening::CloneEnds { clone, life } => self.clone_ends(clone, life),
            Happening::RightKey { peer } => self.right_key(peer),
            Happening::Enrols { peer } => self.enrols(peer),
            Happening::ChiefKeeps { .. } | Happening::ChiefKept { .. } if self.put_off(Who::Chief, 0, &happening) => {}
            Happening::ChiefKeeps { key, after, life } => self.chief_keeps(*key, after, life),
            Happening::ChiefKept { key, life } => self.chief_kept(key, life),
            Happening::WorkerKeeps { peer, .. } | Happening::WorkerKept { peer, .. }
                if self.put_off(Who::Peer(peer), peer as u64, &happening) => {}
            Happening::WorkerKeeps { peer, life } => self.worker_keeps(peer, life),
            Happening::WorkerKept { peer, life } => self.worker_kept(peer, life),
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
            Happening::Kept { peer, life, token } => {
                if !self.put_off(Who::Peer(peer), peer as u64, &happening) {
                    self.kept(peer, life, token);
                }
            }
            Happening::StoreRoom { peer } => self.store_has_room(peer),
            Happening::OldSpool { peer, store } => self.old_spool(peer, *store),
            Happening::FoundOut { conn, at, who, life } => self.found_out(conn, at, who, life),
        }
    }

    /// A machine's own time has come
    fn wake(&mut self, who: Who) {
        let now = self.now;
        let life = self.life_mut(who);
        if life.alarm != Some(now) {
            // An earlier one was set in its place.
            return;
        }
        life.alarm = None;
        match life.wake {
            Some(at) if at <= now => life.wake = None,
            // It was put off since.
            Some(at) => return self.set_wake(who, at),
            None => return,
        }
        if let Some((kind, until)) = self.stands_still(who) {
            self.tally.hit(kind);
            return self.set_wake(who, until);
        }
        if self.oversleeps(who) {
            return;
        }
        self.tell_arriving(who);
        self.trace.woken(self.now, self.name(who));
        self.tell_time(who);
    }

    /// Whether whoever was to be woken now is woken later instead
    fn oversleeps(&mut self, who: Who) -> bool {
        let (now, whole) = (self.now, self.is_whole(who));
        let life = self.life_mut(who);
        let Some(us) = life.late.at(now).filter(|_| !whole) else {
            life.overslept = false;
            return false;
        };
        life.overslept = !life.overslept;
        if !life.overslept {
            return false;
        }
        self.tally.hit(Kind::LateTimers);
        self.set_wake(who, now + Duration::from_micros(us.max(1)));
        true
    }

    /// Lets a machine see what time it is, unless it stands still
    fn tell_time(&mut self, who: Who) {
        if self.stands_still(who).is_some() {
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
        let life = self.life_mut(who);
        life.wake = Some(at);
        // One that rings before is set anew when it does: most are put off again and again.
        if life.alarm.is_none_or(|alarm| at < alarm) {
            life.alarm = Some(at);
            let entity = match who {
                Who::Chief => 0,
                Who::Peer(peer) => peer as u64 + 1,
            };
            self.happen_at(at, entity << 32 | 1, Happening::Wake(who));
        }
    }

    /// What somebody's clock shows
    fn clock(&self, who: Who) -> Instant {
        self.life(who).clock.read(self.now)
    }

    fn life(&self, who: Who) -> &Life {
        match who {
            Who::Chief => &self.chief.life,
            Who::Peer(peer) => &self.peers[peer].life,
        }
    }

    fn life_mut(&mut self, who: Who) -> &mut Life {
        match who {
            Who::Chief => &mut self.chief.life,
            Who::Peer(peer) => &mut self.peers[peer].life,
        }
    }

    /// Asks every machine that heard something what to do, until none has anything to do
    fn drain(&mut self) {
        while let Some(who) = self.dirty.pop_first() {
            match who {
                Who::Chief => self.drain_chief(),
                Who::Peer(peer) => self.drain_peer(peer),
            }
            let wake_at = match who {
                Who::Chief => self.chief.machine.as_ref().and_then(|machine| machine.wake_at()),
                Who::Peer(peer) => self.peers[peer].machine.as_ref().and_then(Machine::wake_at),
            };
            if let Some((_, until)) = self.stands_still(who) {
                // It began to in this very moment, and what its clock shows by now it has not seen.
                self.set_wake(who, until);
                continue;
            }
            let life = self.life_mut(who);
            if life.overslept {
                // It was not told the time, and will be woken.
                continue;
            }
            life.wake = None;
            let clock = life.clock;
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
            Who::Peer(peer) if self.is_clone(peer) => Node::Worker(self.peers[peer].clone_of.unwrap_or(0) as u16),
            Who::Peer(peer) if self.is_worker(peer) => Node::Worker(peer as u16),
            Who::Peer(peer) => Node::Client(peer as u16 - self.schedule.workers),
        }
    }

    /// What somebody draws who is at an end of a connection; nobody else's draws move
    fn fresh(&self, conn: ConnId, at: Side) -> [u8; 32] {
        Draws::new(self.schedule.seed, Purpose::Entropy, conn.0 << 1 | at as u64).bytes()
    }

    fn task_id(&mut self, number: u32) -> TaskId {
        *self.by_number.entry(number).or_insert_with(|| TaskId::from_text(&format!("task {number}")))
    }
}
