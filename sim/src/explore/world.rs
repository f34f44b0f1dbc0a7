//! One state: the machines, what is under way between them, the journal, and what may still break
//!
//! Copies share the machines until one of them changes its own.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use rejoin_core::coordinator::{self, Address, Coordinator, Recovery};
use rejoin_core::ids::{BootId, ClusterId, ConnId, TaskId, Token};
use rejoin_core::journal::Record;
use rejoin_core::limits::FRAME_BYTES_MAX;
use rejoin_core::link::{LinkConfig, LinkState};
use rejoin_core::wire::message::{Failure, Outcome, TaskSpec};
use rejoin_core::worker::{self, Worker};
use rejoin_core::{Instant, Loss, Seed};

use super::choice::{Choice, Fault};
use crate::audit::{Auditor, Check};
use crate::net::Side;
use crate::world::worker_key;

/// How much there is in a world
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Workers, each with one slot and one place to wait
    pub workers: u8,
    /// Tasks, each of which is tried again once after a failure
    pub tasks: u8,
    /// Faults in each history
    pub faults: u8,
}

/// Something under way towards an end
#[derive(Clone, Debug)]
pub(super) enum Parcel {
    Message(Rc<[u8]>),
    /// The far end has closed
    Close,
}

/// A connection, until neither end believes in it and nothing is under way
#[derive(Clone, Debug)]
pub(super) struct Socket {
    pub(super) conn: ConnId,
    pub(super) worker: usize,
    pub(super) attempt: u64,
    /// Which ends believe in it, by side
    pub(super) open: [bool; 2],
    /// Nothing passes any more
    pub(super) deaf: bool,
    /// What is under way, by the side it goes to
    pub(super) pipes: [VecDeque<Parcel>; 2],
}

/// An execution
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) task: TaskId,
    pub(super) token: Token,
    pub(super) attempt: u32,
    pub(super) made_checkpoint: bool,
    pub(super) stopping: bool,
}

/// A worker, and what its embedder knows
#[derive(Clone)]
pub(super) struct Station {
    pub(super) machine: Rc<Worker>,
    pub(super) dialling: Option<u64>,
    pub(super) runs: Vec<Run>,
    /// Executions that are over, until the worker forgets them
    pub(super) over: Vec<(TaskId, Token)>,
}

/// A state of the world
#[derive(Clone)]
pub(super) struct World {
    pub(super) now: Instant,
    pub(super) chief: Rc<Coordinator>,
    pub(super) stations: Vec<Station>,
    pub(super) sockets: Vec<Socket>,
    /// All records, of which so many are durable, and so many of earlier lives
    pub(super) records: Vec<Rc<[u8]>>,
    pub(super) durable: usize,
    earlier: usize,
    pub(super) faults_left: u8,
    auditor: Rc<Auditor>,
    /// Names and entropy drawn so far: none is drawn twice
    drawn: u64,
}

/// Room for a frame
pub(super) type Frame = [u8; FRAME_BYTES_MAX];

impl World {
    /// A fleet at rest, whose tasks have just been submitted, and are not durable yet
    pub(super) fn new(size: Size, frame: &mut Frame) -> World {
        World::begin(size, 1_000_000, 0, frame)
    }

    /// The same at another time, and with other names and entropy
    pub(super) fn begin(size: Size, at_us: u64, drawn: u64, frame: &mut Frame) -> World {
        let now = Instant::from_micros(at_us);
        let chief = Coordinator::new(settings(size.workers), seed(0), now).expect("settings that are legal together");
        let mut world = World {
            now,
            chief: Rc::new(chief),
            stations: Vec::new(),
            sockets: Vec::new(),
            records: Vec::new(),
            durable: 0,
            earlier: 0,
            faults_left: size.faults,
            auditor: Rc::new(Auditor::default()),
            drawn,
        };
        world.drain_chief(frame);
        for n in 0..usize::from(size.workers) {
            let machine = world.new_worker(n);
            world.stations.push(Station { machine, dialling: None, runs: Vec::new(), over: Vec::new() });
            world.drain_worker(n, frame);
        }
        while let Some(choice) = world.fair() {
            world.apply(choice, frame);
        }
        for n in 0..size.tasks {
            let (task, spec) = (TaskId([n + 1; 16]), TaskSpec { priority: 0, retries: 1 });
            let input = coordinator::Input::Submit { task, spec, about: &[], payload: &[n] };
            world.audit().submitted(task, false);
            let submitted = Rc::make_mut(&mut world.chief).handle(now, input);
            submitted.expect("there is room for a few tasks");
        }
        world.drain_chief(frame);
        world
    }

    fn new_worker(&mut self, n: usize) -> Rc<Worker> {
        let life = self.draw();
        let mut link = LinkConfig::new(worker_key(n), BootId(bytes(life)), "ws://explored");
        link.compress = false;
        let mut config = worker::Config::new(link);
        (config.attempts_max, config.result_bytes_max) = (4, 16);
        Rc::new(Worker::new(config, seed(n as u64 + 1), self.now).expect("settings that are legal together"))
    }

    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    pub(super) fn audit(&mut self) -> &mut Auditor {
        Rc::make_mut(&mut self.auditor)
    }

    /// What has not held by now
    pub(super) fn auditor(&self) -> &Auditor {
        &self.auditor
    }

    /// Lets something happen, and each machine do whatever follows from it by itself
    pub(super) fn apply(&mut self, choice: Choice, frame: &mut Frame) {
        let now = self.now;
        self.audit().at(now);
        match choice {
            Choice::Deliver { socket, towards } => {
                if let Some(parcel) = self.sockets[socket].pipes[towards as usize].pop_front() {
                    self.deliver(socket, towards, &parcel, frame);
                }
            }
            Choice::Sync => self.sync(frame),
            Choice::Checkpoint { worker, run } => {
                let Run { token, attempt, .. } = self.stations[worker].runs[run];
                self.stations[worker].runs[run].made_checkpoint = true;
                // Refused where nobody wants the attempt any more.
                let _ = self.tell_worker(worker, worker::Input::Checkpoint { token, bytes: &[attempt as u8] }, frame);
            }
            Choice::Finish { worker, run } => self.end(worker, run, Outcome::Succeeded, frame),
            Choice::Fail { worker, run } => self.end(worker, run, Outcome::Failed(Failure::Exit(1)), frame),
            Choice::Stop { worker, run } => self.end(worker, run, Outcome::Cancelled, frame),
            Choice::Open { worker } => self.open(worker, frame),
            Choice::Wait => self.wait(frame),
            Choice::Break(fault) => {
                self.faults_left -= 1;
                self.fault(fault, frame);
            }
        }
        self.tidy();
        self.expect_no_breach();
    }

    fn fault(&mut self, fault: Fault, frame: &mut Frame) {
        match fault {
            Fault::Reset { socket } => {
                self.sockets[socket].pipes.iter_mut().for_each(VecDeque::clear);
                self.lose(socket, Side::Peer, frame);
                self.lose(socket, Side::Coordinator, frame);
            }
            Fault::Cut { socket, at, rest } => {
                let known = &mut self.sockets[socket];
                known.pipes[at as usize].clear();
                if rest {
                    known.pipes[at.other() as usize].push_back(Parcel::Close);
                } else {
                    known.pipes.iter_mut().for_each(VecDeque::clear);
                    known.deaf = true;
                }
                self.lose(socket, at, frame);
            }
            Fault::HalfOpen { socket } => {
                self.sockets[socket].pipes.iter_mut().for_each(VecDeque::clear);
                self.sockets[socket].deaf = true;
            }
            Fault::Repeat { socket, towards } => {
                if let Some(parcel) = self.sockets[socket].pipes[towards as usize].pop_front() {
                    self.deliver(socket, towards, &parcel, frame);
                    self.deliver(socket, towards, &parcel, frame);
                }
            }
            Fault::Refuse { worker } => {
                if let Some(attempt) = self.stations[worker].dialling.take() {
                    let lost = worker::Input::Disconnected { attempt, loss: Loss::Peer };
                    self.tell_worker(worker, lost, frame).expect("what the network does is never refused");
                }
            }
            Fault::CrashWorker { worker } => self.crash_worker(worker, frame),
            Fault::CrashCoordinator { survive } => self.crash_coordinator(survive, frame),
            Fault::Stall => self.wait(frame),
        }
    }

    fn deliver(&mut self, socket: usize, towards: Side, parcel: &Parcel, frame: &mut Frame) {
        let Socket { conn, worker, attempt, open, .. } = self.sockets[socket];
        if !open[towards as usize] {
            return;
        }
        let Parcel::Message(bytes) = parcel else { return self.lose(socket, towards, frame) };
        match towards {
            Side::Peer => {
                let input = worker::Input::Received { attempt, bytes };
                self.tell_worker(worker, input, frame).expect("what the network does is never refused");
            }
            Side::Coordinator => self.tell_chief(coordinator::Input::Received { conn, bytes }, frame),
        }
    }

    /// An end learns that its connection is gone
    fn lose(&mut self, socket: usize, at: Side, frame: &mut Frame) {
        let Socket { conn, worker, attempt, ref mut open, .. } = self.sockets[socket];
        if !std::mem::replace(&mut open[at as usize], false) {
            return;
        }
        match at {
            Side::Peer => {
                let input = worker::Input::Disconnected { attempt, loss: Loss::Peer };
                self.tell_worker(worker, input, frame).expect("what the network does is never refused");
            }
            Side::Coordinator => self.tell_chief(coordinator::Input::Closed { conn }, frame),
        }
    }

    /// An end closes by itself: the other one learns of it behind what is under way
    pub(super) fn hang_up(&mut self, at: Side, is_it: impl Fn(&Socket) -> bool) {
        for socket in self.sockets.iter_mut().filter(|socket| socket.open[at as usize] && is_it(socket)) {
            socket.open[at as usize] = false;
            if !socket.deaf {
                socket.pipes[at.other() as usize].push_back(Parcel::Close);
            }
        }
    }

    fn sync(&mut self, frame: &mut Frame) {
        let from = std::mem::replace(&mut self.durable, self.records.len());
        self.audit_durable(from);
        let upto = (self.durable - self.earlier) as u64;
        self.tell_chief(coordinator::Input::Journaled { upto }, frame);
    }

    fn audit_durable(&mut self, from: usize) {
        for index in from..self.durable {
            let record = self.records[index].clone();
            if let Some(record) = Record::decode(&record) {
                self.audit().durable(&record);
            }
        }
    }

    fn end(&mut self, worker: usize, run: usize, outcome: Outcome, frame: &mut Frame) {
        let Run { task, token, .. } = self.stations[worker].runs.remove(run);
        self.stations[worker].over.push((task, token));
        self.audit().finished(token, outcome);
        let input = worker::Input::Finished { token, outcome, result: b"r" };
        self.tell_worker(worker, input, frame).expect("it was running");
    }

    fn open(&mut self, worker: usize, frame: &mut Frame) {
        let Some(attempt) = self.stations[worker].dialling.take() else { return };
        let conn = ConnId(self.draw());
        self.sockets.push(Socket {
            conn,
            worker,
            attempt,
            open: [true; 2],
            deaf: false,
            pipes: [VecDeque::new(), VecDeque::new()],
        });
        let (theirs, ours) = (bytes(self.draw()), bytes(self.draw()));
        let address = Address::LOOPBACK;
        self.tell_chief(coordinator::Input::Accepted { conn, address, entropy: ours, binding: None }, frame);
        let input = worker::Input::Connected { attempt, entropy: theirs, binding: None };
        self.tell_worker(worker, input, frame).expect("it was dialled");
    }

    fn wait(&mut self, frame: &mut Frame) {
        let Some(at) = self.wake_at() else { return };
        let later = at > self.now;
        self.audit().expect(Check::S25, later, || format!("a timer is due at {at:?}"));
        self.now = self.now.max(at);
        if self.chief.wake_at().is_some_and(|due| due <= at) {
            self.tell_chief(coordinator::Input::Timeout, frame);
        }
        for worker in 0..self.stations.len() {
            if self.stations[worker].machine.wake_at().is_some_and(|due| due <= at) {
                self.tell_worker(worker, worker::Input::Timeout, frame).expect("time is never refused");
            }
        }
    }

    fn crash_worker(&mut self, worker: usize, frame: &mut Frame) {
        self.hang_up(Side::Peer, |socket| socket.worker == worker);
        let machine = self.new_worker(worker);
        self.stations[worker] = Station { machine, dialling: None, runs: Vec::new(), over: Vec::new() };
        self.drain_worker(worker, frame);
    }

    fn crash_coordinator(&mut self, survive: usize, frame: &mut Frame) {
        let from = self.durable;
        self.durable += survive;
        self.audit_durable(from);
        self.records.truncate(self.durable);
        self.earlier = self.durable;
        self.hang_up(Side::Coordinator, |_| true);
        let config = settings(self.stations.len() as u8);
        let recovery = Recovery::start(config, seed(0), self.now);
        let mut recovery = recovery.expect("settings that are legal together");
        for record in &self.records {
            if let Err(error) = recovery.take(record) {
                let what = format!("what a coordinator wrote cannot be read: {error}");
                return self.audit().expect(Check::S27, false, || what);
            }
        }
        self.chief = Rc::new(recovery.finish());
        for task in self.auditor.promised().collect::<Vec<_>>() {
            let known = self.chief.task(task).is_some();
            self.audit().expect_of(Check::S1, task, known, || format!("{task} was accepted, and is not recovered"));
        }
        self.drain_chief(frame);
    }

    /// What goes to an end that does not believe in its connection any more changes nothing
    fn tidy(&mut self) {
        for socket in &mut self.sockets {
            for side in [Side::Peer, Side::Coordinator] {
                if !socket.open[side as usize] {
                    socket.pipes[side as usize].clear();
                }
            }
        }
        self.sockets.retain(|socket| socket.open != [false; 2]);
    }

    fn expect_no_breach(&mut self) {
        let workers: u64 = self.stations.iter().map(|station| station.machine.stats().violations).sum();
        let breaches = workers + self.chief.stats().violations;
        self.audit().expect(Check::S11, breaches == 0, || format!("{breaches} breaches were found"));
        let mismatches = self.chief.stats().mismatches;
        self.audit().expect(Check::S34, mismatches == 0, || format!("{mismatches} digests were not as expected"));
    }

    /// Panics if a machine contradicts itself
    pub(super) fn check(&self) {
        self.chief.check();
        self.stations.iter().for_each(|station| station.machine.check());
    }

    /// Whether all tasks have ended durably, no worker keeps anything, and all are connected
    pub(super) fn is_done(&self) -> bool {
        let ended = |task: TaskId| self.auditor.ended(task).is_some();
        let rests = |station: &Station| station.machine.held() == 0 && is_connected(station);
        self.auditor.promised().all(ended) && self.stations.iter().all(rests)
    }

    /// Says how far the world has come to its end (L1, L2)
    pub(super) fn expect_done(&mut self) {
        let open: Vec<TaskId> = self.auditor.promised().filter(|task| self.auditor.ended(*task).is_none()).collect();
        let held: usize = self.stations.iter().map(|station| station.machine.held()).sum();
        let connected = self.stations.iter().all(is_connected);
        self.audit().expect(Check::L2, connected, || "a worker does not come back".into());
        let done = open.is_empty() && held == 0;
        self.audit().expect(Check::L1, done, || format!("{open:?} have not ended, and workers keep {held} attempts"));
    }
}

fn is_connected(station: &Station) -> bool {
    station.machine.state() == LinkState::Connected
}

/// Spans far enough apart that each has a meaning of its own
fn settings(workers: u8) -> coordinator::Config {
    let keys = (0..usize::from(workers)).map(worker_key).collect();
    let mut config = coordinator::Config::new(ClusterId([9; 16]), 1, keys);
    config.heartbeat = Some(Duration::from_secs(2));
    config.lost_after = Duration::from_secs(8);
    config.recovery_window = Duration::from_secs(16);
    config.session_lifetime = Duration::from_secs(40);
    config.compress = false;
    config
}

fn seed(n: u64) -> Seed {
    Seed(bytes(n + 1))
}

fn bytes<const N: usize>(n: u64) -> [u8; N] {
    let mut bytes = [7; N];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    bytes
}
