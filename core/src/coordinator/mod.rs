//! The coordinator: accepts tasks, gives them to workers, and takes each result exactly once
//!
//! | room | concern |
//! | --- | --- |
//! | `config`, `seam` | settings; what goes in and what comes out |
//! | `admission` | how many connections are let in |
//! | `door` | connections that have not proved who they are |
//! | `rotation` | keys that are replaced while their holders are connected |
//! | `enrolment` | newcomers that come with a join token, and leave with a key |
//! | `peers` | who may connect, and the session of each |
//! | `entry` | takeover, contention, welcome, and the end of a connection |
//! | `tasks` | tasks and attempts, and the tables of their states |
//! | `queues`, `schedule` | who gets what |
//! | `checkpoints` | what a task's next attempt starts from |
//! | `uploads`, `restores` | the same in chunks: on its way here, and on its way out; results in chunks |
//! | `inputs` | large inputs, from clients and to workers |
//! | `worker_talk`, `client_talk`, `views`, `fetches` | what peers say, and what clients are told |
//! | `reconcile` | inventories and verdicts |
//! | `drift` | whether workers hold what they should, while they are connected |
//! | `endings` | results, retries, crashes and cancels |
//! | `failures` | how long workers go between failures |
//! | `flapping` | workers whose links break again and again |
//! | `brake` | many workers that vanish at a time |
//! | `departure` | an end by plan |
//! | `losses` | workers that are away, and leases |
//! | `frames` | what is put into frames |
//! | `outline` | what decides on the future, for searches over many histories |
//! | `gate`, `recovery`, `restored` | the journal's seam, and the way back from it, also where it is an old one |

mod admission;
mod brake;
mod checkpoints;
mod client_talk;
mod config;
mod departure;
mod door;
mod drift;
mod endings;
mod enrolment;
mod entry;
mod failures;
mod fetches;
mod flapping;
mod frames;
mod gate;
mod inputs;
mod losses;
mod outline;
mod peers;
mod queues;
mod reconcile;
mod recovery;
mod restored;
mod restores;
mod rotation;
mod schedule;
mod seam;
mod tasks;
mod uploads;
mod views;
mod worker_talk;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};
use core::time::Duration;

pub use self::admission::{Address, AdmissionConfig};
pub use self::config::{Config, Contention};
pub use self::recovery::{Recovery, RecoveryError};
pub use self::seam::{EndView, Event, Input, Output, PeerState, PeerView, TaskView};
pub use self::tasks::{Counts, TaskState};

use self::admission::Admission;
use self::brake::Brake;
use self::door::Door;
use self::enrolment::Enrolling;
use self::entry::{Conn, Goodbye};
use self::failures::Failures;
use self::gate::{Effect, Gate};
use self::inputs::Large;
use self::peers::{PeerIx, Reading, Roster, Sent};
use self::restored::Gap;
use self::schedule::Schedule;
pub(crate) use self::tasks::content_digest;
use self::tasks::{Body, NewTask, Remembered, TaskStep, Tasks};
use crate::about::About;
use crate::digest::Digest;
use crate::error::{ConfigError, Rejected};
use crate::ids::{ClusterId, ConnId, KeyId, TaskId, Token};
use crate::journal::Record;
use crate::lease::Lease;
use crate::limits::{FRAME_BYTES_MAX, HEARTBEAT_MAX, INLINE_BYTES_MAX, TOKEN_BLOCK};
use crate::link::Reason;
use crate::planted::{self, Bug};
use crate::rng::{Rng, Seed};
use crate::stats::CoordinatorStats;
use crate::story::{Note, Story};
use crate::time::Instant;
use crate::timers::Timers;
use crate::wire::codec::Scratch;
use crate::wire::message::{Outcome, TaskSpec};
use crate::wire::view::RotationView;
pub use crate::wire::view::Why;

/// Names of timers
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    /// A connection in front of the door, or one whose peer must be heard
    Conn(ConnId),
    /// A newcomer waits for an old connection to answer
    Contender(ConnId),
    /// A worker will be lost for its tasks
    Lost(PeerIx),
    /// A worker has kept its connection for long enough to be trusted again
    Steady(PeerIx),
    /// A session will be dropped
    Session(PeerIx),
    /// A task's pause is over
    Retry(TaskId),
    /// A forgotten task is to be forgotten altogether
    Retention(TaskId),
    /// A task that has ended has been kept for long enough
    Forget(TaskId),
    /// Leases of which nothing is known have ended
    UnknownLeases,
}

/// A coordinator as a state machine
///
/// Tell it what happened with [`handle`](Coordinator::handle), then ask [`poll`](Coordinator::poll) what to do until
/// it says [`Output::Idle`].
#[derive(Clone, Debug)]
pub struct Coordinator {
    scratch: Scratch,
    desk: Box<Desk>,
}

/// Everything but the working memory, so that messages can be read from there while this changes
#[derive(Clone, Debug)]
struct Desk {
    config: Config,
    now: Instant,
    rng: Rng,
    admission: Admission,
    door: Door,
    roster: Roster,
    conns: BTreeMap<ConnId, Conn>,
    /// Who waits for a key of its own, by the join token that it came with (AUTH-6)
    enrolling: BTreeMap<KeyId, Enrolling>,
    tasks: Tasks,
    schedule: Schedule,
    gate: Gate,
    timers: Timers<Timer>,
    brake: Brake,
    /// The next token, and the end of the block that is durably reserved
    token_next: u64,
    tokens_reserved: u64,
    tokens_asked: u64,
    tokens_asked_at: u64,
    /// Names the next chunk of a checkpoint
    next_home: u64,
    /// Epochs of which nothing is known (JOURN-2)
    gaps: Vec<Gap>,
    /// Tasks submitted in this life begin here
    submits_from: u64,
    /// Leases of such an epoch may be in force
    unknown_leases: bool,
    /// No exclusive task is given out before: a worker that nobody here knows of may run it under a lease (TASK-4)
    exclusive_from: Instant,
    /// Somebody says to have seen a higher epoch
    outdated: bool,
    /// The lease under which exclusive attempts were last given out, as it is recorded
    recorded_lease: Option<Lease>,
    /// How often workers fail (LIVE-6)
    failures: Failures,
    /// While records are replayed: chunks that have come in part, or whose task is forgotten
    strays: BTreeMap<u64, TaskId>,
    /// While records are replayed: what attempts returned in chunks, before the record of their end
    returned: BTreeMap<TaskId, (Token, Body)>,
    /// Handshake messages to send
    answers: VecDeque<(ConnId, Vec<u8>)>,
    /// Refusals to seal and send, then close
    goodbyes: VecDeque<Goodbye>,
    closes: VecDeque<(ConnId, Reason)>,
    events: VecDeque<Event>,
    /// Connections whose next key is to be kept
    keeps: VecDeque<ConnId>,
    /// Connections that may have something to send
    dirty: BTreeSet<ConnId>,
    /// The connection that had the last frame; the next one in line follows
    last_served: ConnId,
    /// Peers that may have something to be read for: clients output, workers pieces of checkpoints
    readers: BTreeSet<PeerIx>,
    /// Tasks whose outcome was told and that are not forgotten: succeeded, failed, cancelled
    told: [u64; 3],
    /// When this epoch began
    began: Instant,
    /// It ends by plan, and about then another one is there (BACK-3)
    back_at: Option<Instant>,
    stats: CoordinatorStats,
    story: Story,
}

impl Coordinator {
    /// Makes a coordinator; its first outputs are the records of its epoch and its first tokens
    pub fn new(config: Config, seed: Seed, now: Instant) -> Result<Self, ConfigError> {
        let mut desk = Desk::new(config, seed, now)?;
        desk.begin();
        Ok(Coordinator { scratch: Scratch::new(), desk: Box::new(desk) })
    }

    /// Takes in what happened
    ///
    /// Fires what is due as well; several calls before the next [`poll`](Coordinator::poll) are fine. What a peer
    /// does never causes an error. After a failed journal everything but [`Input::Timeout`] and the end of
    /// connections is [`Rejected::Stopped`].
    pub fn handle(&mut self, now: Instant, input: Input<'_>) -> Result<(), Rejected> {
        let desk = &mut *self.desk;
        desk.now = desk.now.max(now);
        desk.excuse_what_was_missed();
        let result = match input {
            Input::Closed { conn } => {
                desk.closed(conn);
                Ok(())
            }
            Input::Timeout => Ok(()),
            Input::JournalFailed => {
                desk.journal_failed();
                Ok(())
            }
            _ if desk.gate.has_failed() => Err(Rejected::Stopped),
            Input::Accepted { conn, address, entropy, binding } => desk.accepted(conn, address, entropy, binding),
            Input::Received { conn, bytes } => {
                desk.received(conn, bytes, &mut self.scratch);
                Ok(())
            }
            Input::Arriving { conn } => {
                desk.arriving(conn);
                Ok(())
            }
            Input::Writable { conn, writable } => {
                desk.writable(conn, writable);
                Ok(())
            }
            Input::Submit { task, spec, about, payload } => desk.submit(task, spec, about, payload),
            Input::Cancel { task } => desk.request_cancel(task),
            Input::Forget { task } => desk.forget(task),
            Input::AddKey { key } => {
                if desk.roster.add_key(key.clone()) {
                    Ok(())
                } else {
                    Err(Rejected::Conflict)
                }
            }
            Input::AddToken { key, valid } => desk.add_token(key, valid),
            Input::RevokeKey { key } => desk.revoke(key),
            Input::RotateKey { peer } => match desk.rotate_key(peer) {
                RotationView::Begun => Ok(()),
                RotationView::Unknown => Err(Rejected::Unknown),
                RotationView::Away | RotationView::TooOld => Err(Rejected::NotExpected),
                RotationView::TooMany => Err(Rejected::Full),
            },
            Input::KeyKept { key, kept } => {
                desk.key_kept(key, kept);
                Ok(())
            }
            Input::EndBrake => {
                desk.end_brake();
                Ok(())
            }
            Input::GoAway { back_in } => {
                desk.go_away(back_in);
                Ok(())
            }
            Input::Journaled { upto } => {
                desk.gate.journaled(upto);
                Ok(())
            }
            Input::OutputRead { token, stream, offset, bytes } => {
                desk.output_read(token, stream, offset, bytes);
                Ok(())
            }
            Input::ChunkRead { home, offset, bytes } => {
                desk.chunk_read(home, offset, bytes);
                Ok(())
            }
        };
        desk.settle_down();
        result
    }

    /// Says what to do next; call until it says [`Output::Idle`]
    ///
    /// `frame` must have room for [`FRAME_BYTES_MAX`] bytes.
    pub fn poll<'b>(&mut self, frame: &'b mut [u8]) -> Output<'b> {
        assert!(frame.len() >= FRAME_BYTES_MAX, "the buffer is too small for a frame");
        let desk = &mut *self.desk;
        if let Some((seq, record)) = desk.gate.next_record() {
            frame[..record.len()].copy_from_slice(&record);
            return Output::Journal { seq, record: &frame[..record.len()] };
        }
        if let Some((conn, answer)) = desk.answers.pop_front() {
            frame[..answer.len()].copy_from_slice(&answer);
            return Output::Send { conn, bytes: &frame[..answer.len()] };
        }
        if let Some(goodbye) = desk.goodbyes.pop_front() {
            let (conn, len) = desk.seal_goodbye(goodbye, frame, &mut self.scratch);
            return Output::Send { conn, bytes: &frame[..len] };
        }
        if let Some((conn, reason)) = desk.closes.pop_front() {
            return Output::Close { conn, reason };
        }
        if let Some((conn, len)) = desk.next_frame(frame, &mut self.scratch) {
            return Output::Send { conn, bytes: &frame[..len] };
        }
        if let Some((key, after)) = desk.next_keep() {
            return Output::KeepKey { key, after };
        }
        match desk.next_read() {
            Some(Reading::Output { token, stream, offset, max, .. }) => {
                return Output::ReadOutput { token, stream, offset, max };
            }
            Some(Reading::Chunk { home, within, max, .. } | Reading::Shown { home, within, max, .. }) => {
                return Output::ReadChunk { home, offset: within, max };
            }
            None => {}
        }
        // An outcome follows the last of the output, of which there is no more to read.
        if let Some((conn, len)) = desk.next_frame(frame, &mut self.scratch) {
            return Output::Send { conn, bytes: &frame[..len] };
        }
        if let Some(event) = desk.events.pop_front() {
            return Output::Event(event);
        }
        if desk.gate.has_records() {
            // Of a task that was given out while frames were filled.
            return self.poll(frame);
        }
        let wake_at = desk.timers.next();
        debug_assert!(wake_at.is_none_or(|at| at > desk.now), "a timer would spin");
        Output::Idle { wake_at }
    }

    /// When to say [`Input::Timeout`], whatever else happens
    pub fn wake_at(&self) -> Option<Instant> {
        self.desk.timers.next()
    }

    /// Connections of which nothing was heard for so long that something follows from it now, unless part of a message has
    /// come in: then say [`Input::Arriving`] before the next [`Input::Timeout`] (LIVE-2)
    ///
    /// Costs as much as there are of these, and not as there are connections.
    pub fn due(&self, now: Instant) -> impl Iterator<Item = ConnId> + '_ {
        self.desk.timers.due(now).filter_map(move |timer| match timer {
            Timer::Conn(conn) if self.desk.is_due(conn, now) => Some(conn),
            Timer::Conn(_)
            | Timer::Contender(_)
            | Timer::Lost(_)
            | Timer::Steady(_)
            | Timer::Session(_)
            | Timer::Retry(_)
            | Timer::Retention(_)
            | Timer::UnknownLeases
            | Timer::Forget(_) => None,
        })
    }

    /// Returns a task, unless it is unknown or forgotten
    pub fn task(&self, task: TaskId) -> Option<TaskView<'_>> {
        let task = self.desk.tasks.all.get(&task)?;
        let end = task.ended.as_ref().filter(|_| task.told).map(|end| EndView {
            outcome: end.outcome,
            token: end.token,
            attempt: end.attempt,
            result: end.result.inline(),
            elsewhere: end.result.elsewhere(),
            streams: end.streams,
        });
        Some(TaskView { state: task.state, attempts: task.attempts, end })
    }

    /// Returns how a forgotten task ended, within the retention time (TASK-1)
    pub fn remembered(&self, task: TaskId) -> Option<Outcome> {
        self.desk.tasks.forgotten.get(&task).map(|old| old.outcome)
    }

    /// Why a task does not run (TASK-9)
    pub fn why(&self, task: TaskId) -> Option<Why> {
        self.desk.why(task)
    }

    /// Returns how many tasks are in each state
    pub fn counts(&self) -> Counts {
        self.desk.tasks.counts
    }

    /// Returns the cluster, and which epoch of it this is
    pub fn epoch(&self) -> (ClusterId, u64) {
        (self.desk.config.cluster, self.desk.config.epoch)
    }

    /// Returns all peers, in the order in which their keys came
    pub fn peers(&self) -> impl Iterator<Item = PeerView> + '_ {
        self.desk.roster.iter().map(|(ix, peer)| PeerView {
            name: peer.name.clone(),
            state: self.desk.peer_state(ix),
            held: peer.held.len(),
            flapping: self.desk.is_flapping(ix),
            rtt_us: peer.conn.and_then(|conn| self.desk.rtt(conn)),
            laws: peer.conn.and_then(|conn| self.desk.laws(conn)),
        })
    }

    /// Returns the counters
    pub fn stats(&self) -> CoordinatorStats {
        self.desk.stats
    }

    /// Returns the last transitions of a task
    pub fn story(&self, task: TaskId) -> impl Iterator<Item = Note> + '_ {
        self.desk.story.of(task)
    }

    /// Returns a digest of the state: equal for equal histories, on every machine
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::new();
        for (id, task) in &self.desk.tasks.all {
            // What had failed before is of no use any more once it has ended, and may be left out of the journal (JOURN-5).
            let retries = if task.ended.is_none() { task.retries } else { 0 };
            (id, task.state, task.attempts, retries, task.losses, task.crashes).hash(&mut digest);
            (task.suspect, task.cancel_requested, &task.live).hash(&mut digest);
            for checkpoint in task.checkpoints() {
                (checkpoint.token, checkpoint.number).hash(&mut digest);
            }
        }
        for (token, attempt) in &self.desk.tasks.attempts {
            (token, attempt.peer, attempt.running, attempt.detached, attempt.progress).hash(&mut digest);
        }
        (self.desk.token_next, self.desk.gate.written()).hash(&mut digest);
        digest.finish()
    }

    /// Panics if the state contradicts itself; for tests and simulation
    pub fn check(&self) {
        self.desk.check();
    }
}

impl Desk {
    fn new(config: Config, seed: Seed, now: Instant) -> Result<Self, ConfigError> {
        config.validate()?;
        let mut roster = Roster::default();
        for key in &config.keys {
            if !roster.add_key(key.clone()) {
                return Err(ConfigError { field: "keys", allowed: "one role for each name, one key for each id" });
            }
        }
        if !config.revoked.iter().all(|key| roster.revoke(*key)) {
            return Err(ConfigError { field: "revoked", allowed: "ids of some of the keys" });
        }
        if !config.next.iter().all(|key| roster.is_next(*key)) {
            return Err(ConfigError { field: "next", allowed: "ids of some of the keys" });
        }
        if !config.tokens.iter().all(|(key, valid)| roster.is_token(*key, now + *valid)) {
            return Err(ConfigError { field: "tokens", allowed: "ids of some of the workers' keys" });
        }
        Ok(Desk {
            now,
            rng: Rng::new(seed),
            admission: Admission::new(config.admission, now),
            door: Door::new(config.pending_max),
            roster,
            conns: BTreeMap::new(),
            enrolling: BTreeMap::new(),
            tasks: Tasks::default(),
            schedule: Schedule::default(),
            gate: Gate::default(),
            timers: Timers::new(),
            brake: Brake::default(),
            token_next: config.tokens_from,
            tokens_reserved: config.tokens_from,
            tokens_asked: config.tokens_from,
            tokens_asked_at: 0,
            next_home: 1,
            gaps: Vec::new(),
            submits_from: 0,
            unknown_leases: false,
            exclusive_from: Instant::ZERO,
            outdated: false,
            recorded_lease: None,
            failures: Failures::new(now),
            strays: BTreeMap::new(),
            returned: BTreeMap::new(),
            answers: VecDeque::new(),
            goodbyes: VecDeque::new(),
            closes: VecDeque::new(),
            events: VecDeque::new(),
            keeps: VecDeque::new(),
            dirty: BTreeSet::new(),
            last_served: ConnId(0),
            readers: BTreeSet::new(),
            told: [0; 3],
            began: now,
            back_at: None,
            stats: CoordinatorStats::default(),
            story: Story::default(),
            config,
        })
    }

    /// Writes the first records of an epoch
    fn begin(&mut self) {
        if let Some(time) = self.config.restored {
            self.leap(time);
        }
        self.wait_for_unknown_leases();
        self.gate.write(&Record::Epoch { epoch: self.config.epoch, cluster: self.config.cluster });
        self.reserve_tokens();
    }

    // What the embedder asks for.

    fn submit(&mut self, id: TaskId, spec: TaskSpec, about: &[u8], payload: &[u8]) -> Result<(), Rejected> {
        if payload.len() > INLINE_BYTES_MAX {
            return Err(Rejected::TooLarge);
        }
        let content = content_digest(spec, about, payload, None);
        let Some(said) = self.may_submit(id, spec, about, content)? else { return Ok(()) };
        self.insert(id, spec, said, content, payload, None);
        self.gate.write(&Record::Submit { task: id, spec, about, payload });
        self.accept(id);
        Ok(())
    }

    /// A task has been written down, and is accepted once that is durable
    fn accept(&mut self, id: TaskId) {
        self.gate.then(Effect::Accept(id));
        self.story.note(self.now, id, None, "submitted");
    }

    fn insert(
        &mut self,
        id: TaskId,
        spec: TaskSpec,
        about: About,
        content: [u8; 32],
        payload: &[u8],
        input: Option<Large>,
    ) {
        let (submitted, ageing) = (self.now, self.config.ageing);
        if self.tasks.insert(id, NewTask { spec, about, content, payload, input, submitted, ageing }) {
            self.list_all();
        }
    }

    fn forget(&mut self, id: TaskId) -> Result<(), Rejected> {
        let task = self.tasks.all.get(&id).ok_or(Rejected::Unknown)?;
        let Some(end) = task.ended.as_ref().filter(|_| task.told) else { return Err(Rejected::NotExpected) };
        let until = self.now + self.config.retention;
        let remembered = Remembered { content: task.content, outcome: end.outcome };
        for watcher in task.watchers.clone() {
            self.unwatch(watcher, id);
        }
        *self.told_as(remembered.outcome) -= 1;
        let chunks = self.tasks.remove(id).map(|task| task.chunks).unwrap_or_default();
        self.tasks.forgotten.insert(id, remembered);
        self.timers.set(Timer::Forget(id), None);
        self.timers.set(Timer::Retention(id), Some(until));
        self.gate.write(&Record::Forget { task: id });
        self.chunks_gone(id, chunks.into_values().map(|chunk| chunk.home).collect());
        Ok(())
    }

    fn journal_failed(&mut self) {
        if self.gate.has_failed() {
            return;
        }
        self.gate.fail();
        self.answers.clear();
        self.events.clear();
        self.keeps.clear();
        self.dirty.clear();
        self.readers.clear();
        let leaving = core::mem::take(&mut self.goodbyes).into_iter().map(|goodbye| goodbye.conn);
        let enrolling = core::mem::take(&mut self.enrolling).into_values().map(|entry| entry.conn);
        let live = core::mem::take(&mut self.conns).into_keys();
        self.closes
            .extend(leaving.chain(enrolling).chain(live).chain(self.door.clear()).map(|conn| (conn, Reason::Stopping)));
        for ix in self.roster.iter().map(|(ix, _)| ix).collect::<Vec<_>>() {
            let peer = self.roster.get_mut(ix);
            peer.conn = None;
            peer.contender = None;
            self.place(ix);
        }
        self.timers = Timers::new();
        self.events.push_back(Event::Stopped);
    }

    // What follows from it.

    /// Fires what is due, lets happen what has become durable, and gives out tasks, until nothing is left
    fn settle_down(&mut self) {
        loop {
            if let Some(timer) = self.timers.pop_due(self.now) {
                self.fire(timer);
            } else if let Some(effect) = self.gate.next_effect() {
                self.apply(effect);
            } else {
                self.give_tasks();
                if !self.gate.is_open() {
                    return;
                }
            }
        }
    }

    fn fire(&mut self, timer: Timer) {
        match timer {
            Timer::Conn(conn) => self.conn_due(conn),
            Timer::Contender(conn) => self.contention_over(conn),
            Timer::Lost(peer) => self.absence_due(peer),
            Timer::Steady(peer) => self.place(peer),
            Timer::Session(peer) if planted::is(Bug::ResumesExpired) && self.roster.get(peer).session.is_some() => {}
            Timer::Session(peer) => self.session_over(peer),
            Timer::Retry(task) => {
                self.tasks.step(task, TaskStep::Due);
            }
            Timer::Retention(task) => {
                if self.tasks.forgotten.remove(&task).is_some() {
                    self.gate.write(&Record::Lapsed { task });
                }
            }
            Timer::UnknownLeases => self.unknown_leases_over(),
            Timer::Forget(task) => {
                // Unless somebody has asked for that before.
                let _ = self.forget(task);
            }
        }
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Accept(task) => {
                // It may have been cancelled before it was durable.
                self.tasks.step(task, TaskStep::Accept);
                self.events.push_back(Event::Accepted { task });
                self.tell_accepted(task);
            }
            Effect::Say(peer, session, sent) => {
                let behind = self.is_about_unsent(sent);
                if let Some(session) = self.roster.get_mut(peer).session_mut(session) {
                    if behind {
                        session.say_behind_assignment(sent)
                    } else {
                        session.say(sent)
                    }
                    self.touch(peer);
                }
            }
            Effect::Ack(peer, session, number) => {
                if let Some(session) = self.roster.get_mut(peer).session_mut(session) {
                    // Not past a result that waits for its output: it is not taken in yet.
                    let before_early = session.early.first().map_or(u64::MAX, |early| early - 1);
                    session.tellable = session.tellable.max(number.min(before_early));
                    self.touch(peer);
                }
            }
            Effect::NotEarly(peer, session, number) => {
                if let Some(session) = self.roster.get_mut(peer).session_mut(session) {
                    session.early.remove(&number);
                }
            }
            Effect::Offer(peer, token) => self.offer_restore(peer, token),
            Effect::Keep(token, stream, offset) => self.output_kept(token, stream, offset),
            Effect::AttemptOver(task, token, lengths) => self.tell_attempt_over(task, token, lengths),
            Effect::Bulk(conn, bytes) => self.bulk_dealt_with(conn, bytes),
            Effect::End(task) => {
                if let Some(known) = self.tasks.all.get_mut(&task) {
                    known.told = true;
                    if let Some(outcome) = known.ended.as_ref().map(|end| end.outcome) {
                        *self.told_as(outcome) += 1;
                    }
                }
                self.events.push_back(Event::Ended { task });
                if let Some(keep) = self.config.forget_after {
                    self.timers.set(Timer::Forget(task), Some(self.now + keep));
                }
                self.tell_ended(task);
                if planted::is(Bug::DedupByCount) && self.tasks.counts.ended > 16 {
                    self.forget_the_oldest();
                }
            }
            Effect::Event(event) => self.events.push_back(event),
            Effect::Answer(peer, session, ask, question) => self.answer(peer, session, ask, &question),
        }
    }

    /// Forgets the oldest task whose outcome is on its way to all who wait for it
    fn forget_the_oldest(&mut self) {
        let is_behind =
            |id: &TaskId, ix: &PeerIx| self.roster.get(*ix).watches.get(id).is_some_and(|watch| !watch.outcome_queued);
        let is_over = |id: &&TaskId| {
            let task = self.tasks.all.get(*id).filter(|task| task.told);
            task.is_some_and(|task| !task.watchers.iter().any(|ix| is_behind(id, ix)))
        };
        if let Some(oldest) = self.tasks.by_order.values().find(is_over).copied()
            && self.forget(oldest).is_ok()
        {
            self.tasks.forgotten.remove(&oldest);
        }
    }

    /// Whether this is about an assignment that is still waiting to be sent, and would mean nothing in front of it
    fn is_about_unsent(&self, sent: Sent) -> bool {
        let (Sent::Cancel(token, _) | Sent::Recall(token)) = sent else { return false };
        self.tasks.attempts.get(&token).is_some_and(|attempt| attempt.sent_as.is_none())
    }

    /// The next token, if one is durably reserved (TASK-2)
    fn next_token(&mut self) -> Option<Token> {
        if self.gate.is_durable(self.tokens_asked_at) {
            self.tokens_reserved = self.tokens_asked;
        }
        if self.token_next + TOKEN_BLOCK / 2 > self.tokens_asked {
            self.reserve_tokens();
        }
        if self.token_next >= self.tokens_reserved {
            return None;
        }
        let token = Token(self.token_next);
        self.token_next += 1;
        Some(token)
    }

    fn reserve_tokens(&mut self) {
        self.tokens_asked += TOKEN_BLOCK;
        self.gate.write(&Record::Tokens { below: self.tokens_asked });
        self.tokens_asked_at = self.gate.written();
    }

    /// Heartbeat period for a fleet of this size (LIVE-1)
    fn heartbeat(&self) -> Duration {
        let by_size = Duration::from_micros(self.roster.workers() * 1_000_000 / 400);
        self.config.heartbeat.unwrap_or(by_size.clamp(Duration::from_secs(5), HEARTBEAT_MAX))
    }

    /// Over how long first retries are spread (BACK-1)
    fn spread(&self) -> Duration {
        let AdmissionConfig { rate, burst, .. } = self.config.admission;
        let excess = self.roster.workers().saturating_sub(u64::from(burst));
        Duration::from_micros(excess * 1_000_000 / u64::from(rate)).min(Duration::from_secs(30))
    }

    fn check(&self) {
        self.tasks.check();
        self.door.check();
        for (ix, peer) in self.roster.iter() {
            for session in [&peer.session, &peer.previous].into_iter().flatten() {
                session.numbers.check();
                assert!(session.tellable <= session.numbers.received(), "told more than was taken in");
                assert!(session.tasks_given <= session.tasks_granted || !session.reconciled, "beyond its credit (S21)");
            }
            if let Some(conn) = peer.conn {
                assert!(matches!(self.conns.get(&conn), Some(Conn::Live(live)) if live.peer == ix));
            }
            for token in &peer.held {
                assert!(self.tasks.attempts.get(token).is_some_and(|attempt| attempt.peer == ix));
            }
        }
        for (token, attempt) in &self.tasks.attempts {
            assert!(self.roster.get(attempt.peer).held.contains(token), "{token} is held by nobody");
        }
        self.check_schedule();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn task_2_a_block_of_tokens_is_asked_for_early_and_waited_for_if_its_record_lags() {
        let config = Config::new(ClusterId([1; 16]), 1, Vec::new());
        let mut desk = Desk::new(config, Seed([2; 32]), Instant::ZERO).unwrap();
        desk.begin();
        let sync = |desk: &mut Desk| {
            while let Some((seq, _)) = desk.gate.next_record() {
                desk.gate.journaled(seq);
            }
        };
        assert_eq!(desk.next_token(), None, "the first block is not durable");
        sync(&mut desk);
        assert!((1..=TOKEN_BLOCK / 2).all(|n| desk.next_token() == Some(Token(n))));
        assert!(!desk.gate.has_records());
        assert_eq!(desk.next_token(), Some(Token(TOKEN_BLOCK / 2 + 1)));
        assert!((TOKEN_BLOCK / 2 + 2..=TOKEN_BLOCK).all(|n| desk.next_token() == Some(Token(n))));
        let (_, record) = desk.gate.next_record().expect("another block was asked for");
        assert_eq!(Record::decode(&record), Some(Record::Tokens { below: 2 * TOKEN_BLOCK + 1 }));
        assert!(!desk.gate.has_records(), "and no more than one");
        assert_eq!(desk.next_token(), None, "it may be lost");
        desk.gate.journaled(desk.gate.written());
        assert_eq!(desk.next_token(), Some(Token(TOKEN_BLOCK + 1)));
    }
}
