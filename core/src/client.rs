//! The client: submits tasks, follows them, and fetches what they return

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

use crate::about::About;
use crate::backoff::Loss;
use crate::blob::{ChunkName, Sending, names_of};
use crate::channel::{Violation, body_of};
use crate::digest::Digest;
use crate::error::{ConfigError, Rejected};
use crate::ids::{SessionId, TaskId, Token};
use crate::limits::{
    ASKS_MAX, BLOB_BYTES_MAX, BULK_WINDOW_BYTES, CHUNKS_SINCE, FRAME_BYTES_MAX, INLINE_BYTES_MAX, PRIORITIES,
    SESSION_UNACKED_MAX,
};
use crate::link::{Link, LinkConfig, LinkEvent, LinkOutput, LinkState, Reason};
use crate::rng::Seed;
use crate::session::HeapLog;
use crate::stats::LinkStats;
use crate::stream::{Incoming, Piece};
use crate::time::Instant;
use crate::wire::codec::Scratch;
use crate::wire::message::{
    BodyReader, BodyWriter, Class, Follow, FromClient, Item, Outcome, Refused, Stream, StreamEnd, TaskSpec, ToClient,
};
use crate::wire::view::Question;

/// How a client behaves
#[derive(Clone, Debug)]
pub struct Config {
    /// How it reaches the coordinator
    pub link: LinkConfig,
    /// Most tasks that are followed at a time; costs about 400 bytes each, and the payload until it is accepted
    pub tasks_max: usize,
}

impl Config {
    /// Room for 100,000 tasks
    pub fn new(link: LinkConfig) -> Self {
        Config { link, tasks_max: 100_000 }
    }
}

/// What happened
///
/// `attempt` counts the dials, as with a [`Worker`](crate::worker::Worker).
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The transport is open
    Connected {
        /// Which dial
        attempt: u64,
        /// 32 fresh random bytes
        entropy: [u8; 32],
        /// What both ends of the TLS connection beneath can derive from it by RFC 9266, if there is one (AUTH-7)
        binding: Option<[u8; 32]>,
    },
    /// A message arrived
    Received {
        /// Which dial
        attempt: u64,
        /// The whole message
        bytes: &'a [u8],
    },
    /// Bytes of a message that is not complete yet arrived (LIVE-2)
    Arriving {
        /// Which dial
        attempt: u64,
    },
    /// The transport is gone, or could not be opened
    Disconnected {
        /// Which dial
        attempt: u64,
        /// Who ended it
        loss: Loss,
    },
    /// The transport takes more, or takes no more
    Writable {
        /// Which dial
        attempt: u64,
        /// Whether it takes more
        writable: bool,
    },
    /// Have a task done; the same one again is fine (TASK-1)
    Submit {
        /// The key of idempotence
        task: TaskId,
        /// How to treat it
        spec: TaskSpec,
        /// An encoded [`About`]; may be empty
        about: &'a [u8],
        /// Its input
        payload: &'a [u8],
        /// What to be told of it
        follow: Follow,
    },
    /// Have a task done whose input is too large for a message; the same one again is fine (TASK-1, FRAME-3)
    ///
    /// Its bytes are asked for by [`Output::ReadInput`], until the task is accepted or refused.
    /// [`Rejected::TooLarge`] above [`BLOB_BYTES_MAX`], or if payload and names have more than [`INLINE_BYTES_MAX`] together.
    SubmitLarge {
        /// The key of idempotence
        task: TaskId,
        /// How to treat it
        spec: TaskSpec,
        /// An encoded [`About`]; may be empty
        about: &'a [u8],
        /// What comes beside the large input
        payload: &'a [u8],
        /// All bytes of the large input
        length: u64,
        /// The name of each of its chunks, by [`chunk_name`](crate::blob::chunk_name)
        names: &'a [ChunkName],
        /// What to be told of it
        follow: Follow,
    },
    /// The answer to [`Output::ReadInput`]; empty if it cannot be read any more, so that the task is not submitted
    InputRead {
        /// Which task
        task: TaskId,
        /// Where the bytes stand in the input
        offset: u64,
        /// The bytes
        bytes: &'a [u8],
    },
    /// Follow a task that somebody submitted
    Watch {
        /// Which one
        task: TaskId,
        /// How much to be told of it
        follow: Follow,
    },
    /// Ask something about the coordinator; at most [`ASKS_MAX`] questions wait for their answers at a time
    Ask {
        /// Names the answer; a name never used before
        ask: u64,
        /// What is wanted
        question: &'a Question,
    },
    /// Leave for good: the coordinator forgets this client (TASK-8)
    Leave,
    /// Stop a task (TASK-7)
    Cancel {
        /// Which one
        task: TaskId,
    },
    /// Follow a task no more
    Forget {
        /// Which one
        task: TaskId,
    },
    /// Time has passed
    Timeout,
}

/// What to do next
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output<'b> {
    /// Open a transport to the coordinator; never while another one is open
    Connect {
        /// Names the connection in all its events
        attempt: u64,
        /// Which of [`LinkConfig::endpoints`] to dial (BACK-4)
        endpoint: usize,
    },
    /// Close the transport
    Disconnect {
        /// Which dial
        attempt: u64,
        /// Why
        reason: Reason,
    },
    /// Send a message on the current transport
    Send {
        /// The whole message
        bytes: &'b [u8],
    },
    /// A piece of a task's output; pieces of one attempt's stream follow each other without gap or overlap, unless the
    /// attempt changes: whichever comes then, even one that came before, starts again at offset 0
    Piece {
        /// Which task
        task: TaskId,
        /// Which attempt; another one starts again at offset 0
        token: Token,
        /// Which stream
        stream: Stream,
        /// Where the bytes stand in it
        offset: u64,
        /// The bytes
        bytes: &'b [u8],
    },
    /// The answer to a question
    Answer {
        /// Which question
        ask: u64,
        /// What the question says it is answered by
        answer: &'b [u8],
    },
    /// Answer with a piece of a task's large input by [`Input::InputRead`], at once if possible
    ReadInput {
        /// Which task
        task: TaskId,
        /// Where
        offset: u64,
        /// How many bytes at most
        max: u32,
    },
    /// Something about a task; details are looked up with [`Client::task`]
    Event(Event),
    /// Nothing, until something happens or the time has come
    Idle {
        /// When to say [`Input::Timeout`]
        wake_at: Option<Instant>,
    },
}

/// Something about a task
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The coordinator has it durably
    Accepted {
        /// Which one
        task: TaskId,
    },
    /// A request was not carried out
    Refused {
        /// Which one
        task: TaskId,
        /// Why
        reason: Refused,
    },
    /// It runs
    Progress {
        /// Which one
        task: TaskId,
    },
    /// It is over, and all its output has been handed out
    Ended {
        /// Which one
        task: TaskId,
    },
    /// It is over, and how it ended is all that is left of it: the coordinator has forgotten its result, and whatever was not
    /// handed out of its output (JOURN-5)
    Forgotten {
        /// Which one
        task: TaskId,
    },
}

/// How far a task is, as its client knows
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FollowState {
    /// Submitted, not yet accepted
    Submitted,
    /// Accepted, or being followed
    Followed,
    /// Not carried out
    Refused,
    /// Over
    Ended,
}

/// A task as its client knows it
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskView<'a> {
    /// How far it is
    pub state: FollowState,
    /// The newest attempt known, from 1; 0 before
    pub attempt: u32,
    /// What it last reported
    pub progress: u64,
    /// How it ended, and what it returned, where that came with it; of one that was forgotten only the first
    pub end: Option<(Outcome, &'a [u8], [StreamEnd; 2])>,
    /// How many bytes it returned, where those are fetched by [`Question::CheckpointPiece`] (FRAME-3)
    pub elsewhere: Option<u64>,
}

/// A client as a state machine, driven like a [`Worker`](crate::worker::Worker)
#[derive(Clone, Debug)]
pub struct Client {
    now: Instant,
    scratch: Scratch,
    desk: Box<Desk>,
}

type Log = HeapLog<Asked, SESSION_UNACKED_MAX>;

/// What a number stands for (SESS-3)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Submit(TaskId),
    Watch(TaskId),
    Cancel(TaskId),
    Question(u64),
}

#[derive(Clone, Debug)]
struct Desk {
    link: Link<Log>,
    session: Option<SessionId>,
    tasks_max: usize,
    order: u64,
    tasks: BTreeMap<TaskId, Followed>,
    queue: VecDeque<Asked>,
    /// Questions that were not answered yet
    asks: BTreeMap<u64, Question>,
    answers: VecDeque<(u64, Vec<u8>)>,
    pieces: VecDeque<Arrived>,
    events: VecDeque<Event>,
    /// How far output was taken, to be told; the newest value wins
    taken: BTreeMap<(TaskId, Token, Stream), u64>,
    /// Tasks of whose large input something is wanted, in turn
    sending: VecDeque<TaskId>,
    /// A piece that the embedder was asked for: of which task, where, and how long
    reading: Option<(TaskId, u64, usize)>,
    /// One that was read, and waits for a frame
    piece: Option<(TaskId, u64, Vec<u8>)>,
}

#[derive(Clone, Debug)]
struct Followed {
    spec: TaskSpec,
    /// Kept until the task is accepted
    about: Box<[u8]>,
    /// Kept until the task is accepted
    payload: Box<[u8]>,
    /// What goes in chunks beside that, until the task is accepted
    input: Option<Box<Large>>,
    follow: Follow,
    /// Order in which they were asked for
    order: u64,
    state: FollowState,
    cancel: bool,
    attempt: u32,
    progress: u64,
    token: Option<Token>,
    streams: [Incoming; 2],
    end: Option<End>,
}

impl Followed {
    fn new(state: FollowState, spec: TaskSpec, (about, payload): (Box<[u8]>, Box<[u8]>), follow: Follow) -> Self {
        Followed {
            spec,
            about,
            payload,
            input: None,
            follow,
            order: 0,
            state,
            cancel: false,
            attempt: 0,
            progress: 0,
            token: None,
            streams: [Incoming::new(), Incoming::new()],
            end: None,
        }
    }

    /// Its outcome is known, and so is all its output, if that is wanted
    fn has_all(&self) -> bool {
        let have = self.streams.each_ref().map(Incoming::received);
        self.end.as_ref().is_some_and(|end| {
            let all = self.follow < Follow::Output || have == end.streams.map(|stream| stream.len);
            all && !end.forgotten
        })
    }

    fn drop_input(&mut self) {
        self.about = Box::default();
        self.payload = Box::default();
        self.input = None;
    }
}

/// A large input
#[derive(Clone, Debug)]
struct Large {
    length: u64,
    names: Box<[ChunkName]>,
    sending: Sending,
}

#[derive(Clone, Debug)]
struct End {
    outcome: Outcome,
    result: Box<[u8]>,
    /// How much it returned that did not come with it
    elsewhere: Option<u64>,
    streams: [StreamEnd; 2],
    forgotten: bool,
}

#[derive(Clone, Debug)]
struct Arrived {
    task: TaskId,
    token: Token,
    stream: Stream,
    offset: u64,
    bytes: Vec<u8>,
    /// What it cost of the window, known parts included
    cost: u64,
}

impl Client {
    /// Makes a client that wants to dial at once
    pub fn new(config: Config, seed: Seed, now: Instant) -> Result<Self, ConfigError> {
        if config.tasks_max == 0 {
            return Err(ConfigError { field: "tasks_max", allowed: "at least 1" });
        }
        let mut link = Link::new(config.link, seed, now, Log::default(), BULK_WINDOW_BYTES)?;
        link.expire(now);
        let desk = Desk {
            link,
            session: None,
            tasks_max: config.tasks_max,
            order: 0,
            tasks: BTreeMap::new(),
            queue: VecDeque::new(),
            asks: BTreeMap::new(),
            answers: VecDeque::new(),
            pieces: VecDeque::new(),
            events: VecDeque::new(),
            taken: BTreeMap::new(),
            sending: VecDeque::new(),
            reading: None,
            piece: None,
        };
        Ok(Client { now, scratch: Scratch::new(), desk: Box::new(desk) })
    }

    /// Takes in what happened, and fires what is due
    pub fn handle(&mut self, now: Instant, input: Input<'_>) -> Result<(), Rejected> {
        self.now = self.now.max(now);
        let now = self.now;
        let desk = &mut *self.desk;
        let result = match input {
            Input::Connected { attempt, entropy, binding } => desk.link.opened(now, attempt, entropy, binding),
            Input::Received { attempt, bytes } => {
                if let Some(body) = desk.link.receive(now, attempt, bytes, &mut self.scratch) {
                    desk.take_batch(now, body);
                }
                desk.follow_link();
                Ok(())
            }
            Input::Arriving { attempt } => {
                desk.link.arriving(now, attempt);
                Ok(())
            }
            Input::Disconnected { attempt, loss } => {
                desk.link.closed(now, attempt, loss);
                Ok(())
            }
            Input::Writable { attempt, writable } => {
                desk.link.set_writable(attempt, writable);
                Ok(())
            }
            Input::Submit { task, spec, about, payload, follow } => desk.submit(task, spec, about, payload, follow),
            Input::SubmitLarge { task, spec, about, payload, length, names, follow } => {
                desk.submit_large(task, spec, (about, payload), (length, names), follow)
            }
            Input::InputRead { task, offset, bytes } => {
                desk.input_read(task, offset, bytes);
                Ok(())
            }
            Input::Watch { task, follow } => desk.watch(task, follow),
            Input::Ask { ask, question } => desk.ask(ask, question),
            Input::Leave => {
                desk.link.leave();
                Ok(())
            }
            Input::Cancel { task } => desk.cancel(task),
            Input::Forget { task } => desk.tasks.remove(&task).map(|_| ()).ok_or(Rejected::Unknown),
            Input::Timeout => Ok(()),
        };
        desk.link.expire(now);
        desk.refuse_what_cannot_be_sent();
        result
    }

    /// Says what to do next; call until it says [`Output::Idle`]
    ///
    /// `frame` must have room for [`FRAME_BYTES_MAX`] bytes.
    pub fn poll<'b>(&mut self, frame: &'b mut [u8]) -> Output<'b> {
        assert!(frame.len() >= FRAME_BYTES_MAX, "the buffer is too small for a frame");
        let desk = &mut *self.desk;
        match desk.link.poll(frame) {
            Some(LinkOutput::Connect { attempt, endpoint }) => return Output::Connect { attempt, endpoint },
            Some(LinkOutput::Disconnect { attempt, reason }) => return Output::Disconnect { attempt, reason },
            Some(LinkOutput::Send { len }) => return Output::Send { bytes: &frame[..len] },
            None => {}
        }
        while let Some(Arrived { task, token, stream, offset, bytes, cost }) = desk.pieces.pop_front() {
            desk.link.bulk_dealt_with(cost);
            desk.offer_end(task);
            if !bytes.is_empty() {
                let room = &mut frame[..bytes.len()];
                room.copy_from_slice(&bytes);
                return Output::Piece { task, token, stream, offset, bytes: room };
            }
        }
        if let Some((ask, answer)) = desk.answers.pop_front() {
            frame[..answer.len()].copy_from_slice(&answer);
            return Output::Answer { ask, answer: &frame[..answer.len()] };
        }
        if let Some(event) = desk.events.pop_front() {
            return Output::Event(event);
        }
        let body_len = desk.fill(self.now, frame);
        if body_len > 0 {
            let len = desk.link.seal(frame, body_len, &mut self.scratch);
            return Output::Send { bytes: &frame[..len] };
        }
        if let Some((task, offset, max)) = desk.next_read() {
            return Output::ReadInput { task, offset, max };
        }
        let wake_at = self.wake_at();
        debug_assert!(wake_at.is_none_or(|at| at > self.now), "a timer would spin");
        Output::Idle { wake_at }
    }

    /// When to say [`Input::Timeout`], whatever else happens
    pub fn wake_at(&self) -> Option<Instant> {
        self.desk.link.wake_at()
    }

    /// Where the connection stands
    pub fn state(&self) -> LinkState {
        self.desk.link.state()
    }

    /// The wire version of the connection; the oldest where there is none (FRAME-6)
    pub fn wire_version(&self) -> u16 {
        self.desk.link.version()
    }

    /// Why the client stopped for good, if it did
    pub fn stopped(&self) -> Option<Reason> {
        self.desk.link.stopped()
    }

    /// The highest epoch of the coordinator that it has seen; 0 before the first (JOURN-2)
    pub fn epoch(&self) -> u64 {
        self.desk.link.epoch()
    }

    /// Whether failed handshakes have put it into the slow lane (AUTH-2)
    pub fn is_slow(&self) -> bool {
        self.desk.link.is_slow()
    }

    /// Returns a task that is being followed
    pub fn task(&self, task: TaskId) -> Option<TaskView<'_>> {
        let task = self.desk.tasks.get(&task)?;
        let end = task.end.as_ref().filter(|_| task.state == FollowState::Ended);
        Some(TaskView {
            state: task.state,
            attempt: task.attempt,
            progress: task.progress,
            end: end.map(|end| (end.outcome, &*end.result, end.streams)),
            elsewhere: end.and_then(|end| end.elsewhere),
        })
    }

    /// Returns the counters
    pub fn stats(&self) -> LinkStats {
        self.desk.link.stats()
    }

    /// Returns a digest of the state: equal for equal histories, on every machine
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::new();
        self.desk.link.digest(&mut digest);
        for (id, task) in &self.desk.tasks {
            (id, task.state, task.attempt, task.progress, task.token).hash(&mut digest);
        }
        digest.finish()
    }

    /// Panics if the state contradicts itself; for tests and simulation
    pub fn check(&self) {
        self.desk.link.check();
        for (id, task) in &self.desk.tasks {
            let over = task.state == FollowState::Ended;
            assert!(!over || task.end.is_some(), "{id} is over without an outcome");
            assert!(
                (task.payload.is_empty() && task.about.is_empty()) || task.state == FollowState::Submitted,
                "{id} keeps its input for nothing"
            );
        }
    }
}

impl Desk {
    fn submit(
        &mut self,
        id: TaskId,
        spec: TaskSpec,
        about: &[u8],
        payload: &[u8],
        follow: Follow,
    ) -> Result<(), Rejected> {
        if payload.len() > INLINE_BYTES_MAX {
            return Err(Rejected::TooLarge);
        }
        if spec.priority >= PRIORITIES || About::decode(about).is_err() {
            return Err(Rejected::BadSpec);
        }
        let input = (about.into(), payload.into());
        self.follow(id, Followed::new(FollowState::Submitted, spec, input, follow))?;
        self.queue.push_back(Asked::Submit(id));
        Ok(())
    }

    fn submit_large(
        &mut self,
        id: TaskId,
        spec: TaskSpec,
        (about, payload): (&[u8], &[u8]),
        (length, names): (u64, &[ChunkName]),
        follow: Follow,
    ) -> Result<(), Rejected> {
        let bytes = names.as_flattened();
        if length > BLOB_BYTES_MAX || payload.len() + bytes.len() > INLINE_BYTES_MAX {
            return Err(Rejected::TooLarge);
        }
        if names_of(length, bytes).is_none() {
            return Err(Rejected::BadSpec);
        }
        self.submit(id, spec, about, payload, follow)?;
        if let Some(known) = self.tasks.get_mut(&id) {
            known.input = Some(Box::new(Large { length, names: names.into(), sending: Sending::new(length) }));
        }
        Ok(())
    }

    fn watch(&mut self, id: TaskId, follow: Follow) -> Result<(), Rejected> {
        self.follow(id, Followed::new(FollowState::Followed, TaskSpec::default(), Default::default(), follow))?;
        self.queue.push_back(Asked::Watch(id));
        Ok(())
    }

    fn follow(&mut self, id: TaskId, mut followed: Followed) -> Result<(), Rejected> {
        if self.tasks.contains_key(&id) {
            return Err(Rejected::Conflict);
        }
        if self.tasks.len() >= self.tasks_max {
            return Err(Rejected::Full);
        }
        self.order += 1;
        followed.order = self.order;
        self.tasks.insert(id, followed);
        Ok(())
    }

    fn ask(&mut self, ask: u64, question: &Question) -> Result<(), Rejected> {
        if self.asks.contains_key(&ask) {
            return Err(Rejected::Conflict);
        }
        if self.asks.len() >= ASKS_MAX {
            return Err(Rejected::Full);
        }
        self.asks.insert(ask, question.clone());
        self.queue.push_back(Asked::Question(ask));
        Ok(())
    }

    fn cancel(&mut self, id: TaskId) -> Result<(), Rejected> {
        let task = self.tasks.get_mut(&id).ok_or(Rejected::Unknown)?;
        if task.end.is_none() && !core::mem::replace(&mut task.cancel, true) {
            self.queue.push_back(Asked::Cancel(id));
        }
        Ok(())
    }

    /// On a new connection nothing of an input is sent before it is wanted there
    fn rewind_inputs(&mut self) {
        self.piece = None;
        for task in core::mem::take(&mut self.sending) {
            if let Some(input) = self.tasks.get_mut(&task).and_then(|known| known.input.as_mut()) {
                input.sending.rewind();
            }
        }
    }

    /// The next piece of an input that may be sent, to be read by the embedder
    fn next_read(&mut self) -> Option<(TaskId, u64, u32)> {
        if self.reading.is_some() || self.piece.is_some() || self.sending.is_empty() {
            return None;
        }
        let most = self.link.next_piece().filter(|_| self.link.may_send())?;
        while let Some(task) = self.sending.front().copied() {
            let input = self.tasks.get(&task).and_then(|known| known.input.as_ref());
            if let Some((offset, len)) = input.and_then(|input| input.sending.next(most)) {
                // To the back of the line, so that one large input does not hold up the others.
                self.sending.rotate_left(1);
                self.reading = Some((task, offset, len as usize));
                return Some((task, offset, len as u32));
            }
            self.sending.pop_front();
        }
        None
    }

    /// The embedder answers; an answer that nobody waits for any more is dropped
    fn input_read(&mut self, task: TaskId, offset: u64, bytes: &[u8]) {
        let Some((_, _, len)) = self.reading.take_if(|(t, o, _)| (*t, *o) == (task, offset)) else { return };
        let Some(known) = self.tasks.get_mut(&task).filter(|known| known.input.is_some()) else { return };
        if bytes.is_empty() {
            // The coordinator forgets what has come of it with this client's session, or is given all of it again.
            known.state = FollowState::Refused;
            known.drop_input();
            self.events.push_back(Event::Refused { task, reason: Refused::Damaged });
        } else {
            self.piece = Some((task, offset, bytes[..bytes.len().min(len)].into()));
        }
    }

    /// Writes a piece of an input, if it is still wanted
    fn write_piece(&mut self, now: Instant, body: &mut BodyWriter<'_>) {
        let Some((task, offset, bytes)) = &self.piece else { return };
        if self.link.measure(now, body) {
            return;
        }
        let (task, offset, len) = (*task, *offset, bytes.len() as u64);
        let input = self.tasks.get_mut(&task).and_then(|known| known.input.as_mut());
        let Some(input) = input.filter(|input| input.sending.next(len) == Some((offset, len))) else {
            self.piece = None;
            return;
        };
        if body.push(Class::Loose, &FromClient::InputPiece { task, offset, bytes }) {
            input.sending.sent(len);
            self.link.bulk_sent(now, body, len);
            self.piece = None;
        }
    }

    /// A coordinator that knows nothing of chunks takes none (FRAME-6)
    fn refuse_what_cannot_be_sent(&mut self) {
        if self.link.agreed_version().is_none_or(|version| version >= CHUNKS_SINCE) {
            return;
        }
        let cannot = |known: &Followed| known.input.is_some();
        while let Some((task, known)) = self.tasks.iter_mut().find(|(_, known)| cannot(known)) {
            known.state = FollowState::Refused;
            known.drop_input();
            self.events.push_back(Event::Refused { task: *task, reason: Refused::TooLarge });
        }
    }

    /// In a new session the coordinator knows nothing of what was asked: ask again, which is harmless (TASK-1)
    fn follow_link(&mut self) {
        if self.link.take_fresh() {
            self.rewind_inputs();
        }
        let session = self.link.session_id();
        if session.is_none() || self.session == session {
            return;
        }
        self.session = session;
        self.queue.clear();
        self.taken.clear();
        let mut in_order: Vec<_> = self.tasks.iter().collect();
        in_order.sort_unstable_by_key(|(_, task)| task.order);
        for (id, task) in in_order {
            match task.state {
                FollowState::Submitted => self.queue.push_back(Asked::Submit(*id)),
                FollowState::Followed if task.follow > Follow::Acceptance => self.queue.push_back(Asked::Watch(*id)),
                FollowState::Followed => {}
                FollowState::Refused | FollowState::Ended => continue,
            }
            if task.cancel {
                self.queue.push_back(Asked::Cancel(*id));
            }
        }
        self.queue.extend(self.asks.keys().map(|ask| Asked::Question(*ask)));
    }

    fn take_batch(&mut self, now: Instant, body: &[u8]) {
        for item in BodyReader::new(body) {
            let taken = item.map_err(|_| Violation).and_then(|item| self.take(now, &item));
            if taken.is_err() {
                return self.link.violated(now);
            }
            if !self.link.carries_frames() {
                return;
            }
        }
    }

    fn take(&mut self, now: Instant, item: &Item<'_>) -> Result<(), Violation> {
        match item.class {
            Class::Control => match self.link.control(now, item)? {
                LinkEvent::Nothing => {}
                // There is no inventory to compare: asking again is all. A session that is resumed may be one whose first
                // welcome was lost.
                LinkEvent::Resumed | LinkEvent::Anew => self.link.reconciled(),
            },
            Class::Numbered(number) => {
                if self.link.arrive(now, number, item.payload.len())? && !item.payload.is_empty() {
                    self.take_message(item)?;
                }
            }
            Class::Loose if !self.link.is_welcomed() => return Err(Violation),
            Class::Loose => self.take_message(item)?,
        }
        Ok(())
    }

    fn take_message(&mut self, item: &Item<'_>) -> Result<(), Violation> {
        let Some(message) = item.decode::<ToClient<'_>>() else {
            return if item.ignorable { Ok(()) } else { Err(Violation) };
        };
        if message.is_loose() != (item.class == Class::Loose) || message.since() > self.link.version() {
            return Err(Violation);
        }
        match message {
            ToClient::Accepted { task } => {
                if let Some(known) = self.tasks.get_mut(&task).filter(|known| known.state == FollowState::Submitted) {
                    known.state = FollowState::Followed;
                    known.drop_input();
                    self.events.push_back(Event::Accepted { task });
                }
            }
            ToClient::Refused { task, reason } => {
                if let Some(known) = self.tasks.get_mut(&task).filter(|known| known.state != FollowState::Ended) {
                    known.state = FollowState::Refused;
                    known.drop_input();
                    self.events.push_back(Event::Refused { task, reason });
                }
            }
            ToClient::Progress { task, attempt, progress } => {
                if let Some(known) = self.tasks.get_mut(&task).filter(|known| known.end.is_none()) {
                    known.attempt = known.attempt.max(attempt);
                    known.progress = progress;
                    self.events.push_back(Event::Progress { task });
                }
            }
            ToClient::Output { task, token, stream, offset, bytes } => {
                self.take_output(task, token, stream, offset, bytes)?;
            }
            ToClient::Outcome { task, attempt, token, outcome, result, streams } => {
                let end = End { outcome, result: result.into(), elsewhere: None, streams, forgotten: false };
                self.take_end(task, Some((attempt, token)), end);
            }
            ToClient::LargeOutcome { task, attempt, token, outcome, length, streams } => {
                let (result, elsewhere) = (Box::default(), Some(length));
                let end = End { outcome, result, elsewhere, streams, forgotten: false };
                self.take_end(task, Some((attempt, Some(token))), end);
            }
            ToClient::Forgotten { task, outcome } => {
                let (result, streams) = (Box::default(), Default::default());
                self.take_end(task, None, End { outcome, result, elsewhere: None, streams, forgotten: true });
            }
            ToClient::InputNeed { task, wanted } => {
                let Some(input) = self.tasks.get_mut(&task).and_then(|known| known.input.as_mut()) else {
                    return Ok(());
                };
                input.sending.need(wanted)?;
                if !self.sending.contains(&task) {
                    self.sending.push_back(task);
                }
            }
            ToClient::Answer { ask, answer } => {
                if self.asks.remove(&ask).is_some() {
                    self.answers.push_back((ask, answer.into()));
                }
            }
        }
        Ok(())
    }

    /// A task is over, by that attempt and token; one that was forgotten may be known to be over, and is not all there
    fn take_end(&mut self, task: TaskId, by: Option<(u32, Option<Token>)>, end: End) {
        let is_news = |known: &Followed| known.end.is_none() || (end.forgotten && !known.has_all());
        let Some(known) = self.tasks.get_mut(&task).filter(|known| is_news(known)) else { return };
        if let Some((attempt, token)) = by {
            known.attempt = attempt;
            if known.token != token {
                known.token = token;
                known.streams = [Incoming::new(), Incoming::new()];
            }
        }
        known.drop_input();
        if known.state == FollowState::Submitted {
            known.state = FollowState::Followed;
            self.events.push_back(Event::Accepted { task });
        }
        known.end = Some(end);
        self.offer_end(task);
    }

    fn take_output(
        &mut self,
        task: TaskId,
        token: Token,
        stream: Stream,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Violation> {
        let cost = bytes.len() as u64;
        self.link.bulk_arrived(cost)?;
        let Some(known) = self.tasks.get_mut(&task) else {
            self.link.bulk_dealt_with(cost);
            return Ok(());
        };
        if known.token != Some(token) {
            known.token = Some(token);
            known.streams = [Incoming::new(), Incoming::new()];
        }
        let new = match known.streams[stream.index()].arrive(offset, bytes) {
            Piece::New(new) => new,
            Piece::Known => &[],
            Piece::Gap => return Err(Violation),
        };
        let behind = offset + cost;
        let offset = behind - new.len() as u64;
        self.pieces.push_back(Arrived { task, token, stream, offset, bytes: new.into(), cost });
        self.taken.insert((task, token, stream), behind);
        Ok(())
    }

    /// The end is told once all output was handed out: on a new connection the outcome may come before it
    fn offer_end(&mut self, id: TaskId) {
        if self.pieces.iter().any(|piece| piece.task == id) {
            return;
        }
        let Some(task) = self.tasks.get_mut(&id).filter(|task| task.state != FollowState::Ended) else { return };
        let forgotten = task.end.as_ref().is_some_and(|end| end.forgotten);
        if forgotten || task.has_all() {
            task.state = FollowState::Ended;
            self.events.push_back(if forgotten { Event::Forgotten { task: id } } else { Event::Ended { task: id } });
        }
    }

    fn fill(&mut self, now: Instant, frame: &mut [u8]) -> usize {
        if !self.link.may_send() {
            return 0;
        }
        let numbered = self
            .link
            .session()
            .is_some_and(|session| !session.replayed() || (session.may_number() && !self.queue.is_empty()));
        if !numbered && self.taken.is_empty() && self.piece.is_none() && !self.link.has_news(now) {
            return 0;
        }
        let mut body = body_of(frame);
        self.link.write(now, &mut body);
        self.write(&mut body);
        self.write_piece(now, &mut body);
        body.len()
    }

    fn write(&mut self, body: &mut BodyWriter<'_>) {
        let Some(session) = self.link.session() else { return };
        while let Some((number, asked)) = session.to_replay() {
            if !write_one(number, asked, &self.tasks, &self.asks, body) {
                return;
            }
            session.replayed_one();
        }
        while session.may_number() {
            let Some(asked) = self.queue.front().copied() else { break };
            let before = body.len();
            if !write_one(session.next_number(), asked, &self.tasks, &self.asks, body) {
                return;
            }
            session.number(asked, body.len() - before);
            self.queue.pop_front();
        }
        while let Some((key, offset)) = self.taken.first_key_value().map(|(key, offset)| (*key, *offset)) {
            let (task, token, stream) = key;
            if !body.push(Class::Loose, &FromClient::Taken { task, token, stream, offset }) {
                return;
            }
            self.taken.remove(&key);
        }
    }
}

/// Writes what a number stands for, or VOID when its cause is gone; `false` when the frame is full (SESS-3)
fn write_one(
    number: u64,
    asked: Asked,
    tasks: &BTreeMap<TaskId, Followed>,
    asks: &BTreeMap<u64, Question>,
    body: &mut BodyWriter<'_>,
) -> bool {
    let class = Class::Numbered(number);
    match asked {
        Asked::Submit(task) => match tasks.get(&task).filter(|known| known.state == FollowState::Submitted) {
            Some(known) => {
                let Followed { spec, about, payload, follow, input, .. } = known;
                if let Some(input) = input {
                    let (length, names) = (input.length, input.names.as_flattened());
                    let (spec, follow) = (*spec, *follow);
                    return body
                        .push(class, &FromClient::SubmitLarge { task, spec, about, payload, length, names, follow });
                }
                body.push(class, &FromClient::Submit { task, spec: *spec, about, payload, follow: *follow })
            }
            None => body.push_void(number),
        },
        Asked::Watch(task) => {
            let follow = tasks.get(&task).map_or(Follow::Acceptance, |known| known.follow);
            body.push(class, &FromClient::Watch { task, follow })
        }
        Asked::Cancel(task) => body.push(class, &FromClient::Cancel { task }),
        Asked::Question(ask) => match asks.get(&ask) {
            Some(question) => body.push(class, &FromClient::Ask { ask, question: question.clone() }),
            None => body.push_void(number),
        },
    }
}
