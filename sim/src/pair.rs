//! One peer and a coordinator without a network in between: whoever holds them carries each message by hand

use std::collections::BTreeMap;
use std::time::Duration;

use rejoin_core::client::{self, Client};
use rejoin_core::coordinator::{self, Address, Coordinator};
use rejoin_core::ids::{ConnId, Token};
use rejoin_core::limits::FRAME_BYTES_MAX;
use rejoin_core::wire::message::{Outcome, Stream};
use rejoin_core::worker::{self, Worker};
use rejoin_core::{Instant, Loss};

use crate::journal::Journal;

/// What the dialling end wants
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A connection, or the end of one
    Connection(Option<u64>),
    /// A message sent
    Send(Vec<u8>),
}

/// What happens to the dialling end
#[derive(Clone, Copy, Debug)]
pub enum Happens<'a> {
    /// A connection has opened; the nonce is for it
    Opened([u8; 32]),
    /// A message has arrived
    Message(&'a [u8]),
    /// The connection has ended
    Closed,
    /// Time has passed
    Timeout,
}

/// The dialling end of a [`Pair`]
pub trait Peer: Clone {
    /// Takes in what happens on connection `attempt`
    fn take(&mut self, now: Instant, attempt: u64, happens: Happens<'_>);
    /// Returns the next wish; everything else the machine asks for is done at once
    fn wish(&mut self, now: Instant, frame: &mut [u8]) -> Option<Wish>;
    /// When time is to be told
    fn wake_at(&self) -> Option<Instant>;
    /// Panics if the machine contradicts itself
    fn check(&self);
}

/// A worker whose tasks end at once and print and return their input
#[derive(Clone, Debug)]
pub struct EchoWorker {
    /// The machine
    pub machine: Worker,
    inputs: BTreeMap<Token, Vec<u8>>,
}

impl EchoWorker {
    /// Puts a machine to work
    pub fn new(machine: Worker) -> Self {
        EchoWorker { machine, inputs: BTreeMap::new() }
    }

    fn run(&mut self, now: Instant, token: Token) {
        let input = self.machine.payload(token).expect("the input is there when the task is to start").to_vec();
        let result = &input[..input.len().min(64)];
        let (stream, total) = (Stream::Out, input.len() as u64);
        let steps = [
            worker::Input::Started { token },
            worker::Input::OutputGrew { token, stream, total },
            worker::Input::Finished { token, outcome: Outcome::Succeeded, result },
        ];
        for step in steps {
            self.machine.handle(now, step).expect("the task was to be started");
        }
        self.inputs.insert(token, input);
    }
}

impl Peer for EchoWorker {
    fn take(&mut self, now: Instant, attempt: u64, happens: Happens<'_>) {
        let input = match happens {
            Happens::Opened(entropy) => worker::Input::Connected { attempt, entropy, binding: None },
            Happens::Message(bytes) => worker::Input::Received { attempt, bytes },
            Happens::Closed => worker::Input::Disconnected { attempt, loss: Loss::Peer },
            Happens::Timeout => worker::Input::Timeout,
        };
        self.machine.handle(now, input).expect("what a peer does is never refused");
    }

    fn wish(&mut self, now: Instant, frame: &mut [u8]) -> Option<Wish> {
        loop {
            match self.machine.poll(frame) {
                worker::Output::Connect { attempt, .. } => return Some(Wish::Connection(Some(attempt))),
                worker::Output::Disconnect { .. } => return Some(Wish::Connection(None)),
                worker::Output::Send { bytes } => return Some(Wish::Send(bytes.into())),
                worker::Output::Run { token, .. } => self.run(now, token),
                worker::Output::ReadOutput { token, stream, offset, max } => {
                    let bytes = &self.inputs[&token][offset as usize..];
                    let bytes = &bytes[..bytes.len().min(max as usize)];
                    let input = worker::Input::OutputRead { token, stream, offset, bytes };
                    self.machine.handle(now, input).expect("an answer is never refused");
                }
                worker::Output::Forget { token } => {
                    self.inputs.remove(&token);
                }
                worker::Output::Cancel { .. }
                | worker::Output::Keep { .. }
                | worker::Output::Freeze { .. }
                | worker::Output::Thaw { .. }
                | worker::Output::WantCheckpoint { .. }
                | worker::Output::Checkpointed { .. }
                | worker::Output::KeepKey
                | worker::Output::ReadCheckpoint { .. }
                | worker::Output::RestorePiece { .. } => {}
                worker::Output::Idle { .. } => return None,
            }
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        self.machine.wake_at()
    }

    fn check(&self) {
        self.machine.check();
    }
}

impl Peer for Client {
    fn take(&mut self, now: Instant, attempt: u64, happens: Happens<'_>) {
        let input = match happens {
            Happens::Opened(entropy) => client::Input::Connected { attempt, entropy, binding: None },
            Happens::Message(bytes) => client::Input::Received { attempt, bytes },
            Happens::Closed => client::Input::Disconnected { attempt, loss: Loss::Peer },
            Happens::Timeout => client::Input::Timeout,
        };
        self.handle(now, input).expect("what a peer does is never refused");
    }

    fn wish(&mut self, _: Instant, frame: &mut [u8]) -> Option<Wish> {
        loop {
            match self.poll(frame) {
                client::Output::Connect { attempt, .. } => return Some(Wish::Connection(Some(attempt))),
                client::Output::Disconnect { .. } => return Some(Wish::Connection(None)),
                client::Output::Send { bytes } => return Some(Wish::Send(bytes.into())),
                client::Output::Piece { .. }
                | client::Output::Answer { .. }
                | client::Output::ReadInput { .. }
                | client::Output::Event(_) => {}
                client::Output::Idle { .. } => return None,
            }
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        Client::wake_at(self)
    }

    fn check(&self) {
        Client::check(self);
    }
}

/// One peer and a coordinator
///
/// Journal records are durable at once. Nothing else happens by itself: messages are returned by
/// [`peer_says`](Pair::peer_says) and [`coordinator_says`](Pair::coordinator_says) and lost unless they are told.
#[derive(Clone, Debug)]
pub struct Pair<P> {
    /// What time it is
    pub now: Instant,
    /// The dialling end
    pub peer: P,
    /// The accepting end
    pub coordinator: Coordinator,
    /// What the coordinator wrote
    pub journal: Journal,
    /// The connection that the peer wants or has
    attempt: Option<u64>,
    conn: Option<ConnId>,
    conns: u64,
    frame: Vec<u8>,
}

impl<P: Peer> Pair<P> {
    /// Puts both ends next to each other
    pub fn new(now: Instant, peer: P, coordinator: Coordinator) -> Self {
        let (attempt, conn, conns) = (None, None, 0);
        let frame = vec![0; FRAME_BYTES_MAX];
        let mut pair = Pair { now, peer, coordinator, journal: Journal::new(), attempt, conn, conns, frame };
        pair.peer_says();
        pair.coordinator_says();
        pair
    }

    /// Whether the peer waits for a connection
    pub fn wants_connection(&self) -> bool {
        self.attempt.is_some() && self.conn.is_none()
    }

    /// Opens the connection that the peer wants; `false` if it wants none, or the coordinator lets nobody in
    pub fn connect(&mut self, peer_nonce: [u8; 32], coordinator_nonce: [u8; 32]) -> bool {
        let Some(attempt) = self.attempt.filter(|_| self.conn.is_none()) else { return false };
        self.conns += 1;
        let conn = ConnId(self.conns);
        let input = coordinator::Input::Accepted {
            conn,
            address: Address::LOOPBACK,
            entropy: coordinator_nonce,
            binding: None,
        };
        let accepted = self.coordinator.handle(self.now, input).is_ok();
        if accepted {
            self.conn = Some(conn);
            self.peer.take(self.now, attempt, Happens::Opened(peer_nonce));
        }
        accepted
    }

    /// Ends the connection, as both ends notice
    pub fn cut(&mut self) {
        if let Some(conn) = self.conn.take() {
            self.coordinator.handle(self.now, coordinator::Input::Closed { conn }).expect("an end is never refused");
        }
        if let Some(attempt) = self.attempt.take() {
            self.peer.take(self.now, attempt, Happens::Closed);
        }
    }

    /// Lets the peer do what it wants, and returns what it sends
    pub fn peer_says(&mut self) -> Vec<Vec<u8>> {
        let mut said = Vec::new();
        while let Some(wish) = self.peer.wish(self.now, &mut self.frame) {
            match wish {
                Wish::Send(bytes) => said.push(bytes),
                Wish::Connection(attempt) => {
                    self.attempt = None;
                    self.cut();
                    self.attempt = attempt;
                }
            }
        }
        said
    }

    /// Lets the coordinator do what it wants, and returns what it sends
    pub fn coordinator_says(&mut self) -> Vec<Vec<u8>> {
        let mut said = Vec::new();
        loop {
            let answer = match self.coordinator.poll(&mut self.frame) {
                coordinator::Output::Send { bytes, .. } => {
                    said.push(bytes.into());
                    continue;
                }
                coordinator::Output::Close { conn, .. } => {
                    if self.conn == Some(conn) {
                        self.conn = None;
                        self.cut();
                    }
                    continue;
                }
                coordinator::Output::Journal { seq, record } => {
                    self.journal.append(record);
                    coordinator::Input::Journaled { upto: seq }
                }
                coordinator::Output::ReadOutput { token, stream, offset, max } => {
                    let bytes = &self.journal.kept(token, stream)[offset as usize..];
                    let bytes = &bytes[..bytes.len().min(max as usize)];
                    coordinator::Input::OutputRead { token, stream, offset, bytes }
                }
                coordinator::Output::ReadChunk { home, offset, max } => {
                    let bytes = &self.journal.chunk(home)[offset as usize..];
                    let bytes = &bytes[..bytes.len().min(max as usize)];
                    coordinator::Input::ChunkRead { home, offset, bytes }
                }
                coordinator::Output::KeepKey { .. } | coordinator::Output::Event(_) => continue,
                coordinator::Output::Idle { .. } => return said,
            };
            self.coordinator.handle(self.now, answer).expect("an answer is never refused");
        }
    }

    /// Delivers a message to the peer
    pub fn tell_peer(&mut self, bytes: &[u8]) {
        if let Some(attempt) = self.attempt {
            self.peer.take(self.now, attempt, Happens::Message(bytes));
        }
    }

    /// Delivers a message to the coordinator
    pub fn tell_coordinator(&mut self, bytes: &[u8]) {
        if let Some(conn) = self.conn {
            let input = coordinator::Input::Received { conn, bytes };
            self.coordinator.handle(self.now, input).expect("what a peer does is never refused");
        }
    }

    /// Carries messages both ways until nobody has anything to say
    pub fn talk(&mut self) {
        loop {
            let (up, down) = (self.peer_says(), self.coordinator_says());
            if up.is_empty() && down.is_empty() {
                return;
            }
            up.iter().for_each(|bytes| self.tell_coordinator(bytes));
            down.iter().for_each(|bytes| self.tell_peer(bytes));
        }
    }

    /// Lets time pass up to the next deadline of either end, but no longer than this
    pub fn wait(&mut self, at_most: Duration) {
        let end = self.now + at_most;
        let due = [self.peer.wake_at(), self.coordinator.wake_at()].into_iter().flatten().min();
        self.now = due.map_or(end, |due| due.clamp(self.now, end));
        self.peer.take(self.now, 0, Happens::Timeout);
        self.coordinator.handle(self.now, coordinator::Input::Timeout).expect("time is never refused");
    }

    /// Panics if either end contradicts itself
    pub fn check(&self) {
        self.peer.check();
        self.coordinator.check();
    }
}
