//! The roster: who may connect, who is connected, and the session of each (SESS-4, AUTH-4, AUTH-8)

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::ops::Bound;

use crate::about::Tags;
use crate::ids::{BootId, ConnId, KeyId, PeerName, Role, SessionId, TaskId, Token};
use crate::lease::Lease;
use crate::limits::{SESSION_UNACKED_MAX, WORKER_ATTEMPTS_MAX};
use crate::outline::{Counter, Giver, Name, Outline};
use crate::session::{HeapLog, Session};
use crate::stream::Outgoing;
use crate::time::Instant;
use crate::wire::keys::{Key, Secret};
use crate::wire::message::{
    CancelReason, CheckpointRefused, Follow, InventoryItem, Outcome, Refused, Settlement, Stream, Verdict,
};

use super::drift::Drift;
use super::fetches::Fetch;

/// A peer's place in the roster
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PeerIx(pub(crate) u32);

/// What a numbered message to a peer stands for (SESS-3)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// An assignment that never arrived, and never will
    Void,
    Assign(Token),
    Cancel(Token, CancelReason),
    Recall(Token),
    Verdict(Token, Verdict),
    Settled(Token, Settlement, Option<Outcome>),
    Accepted(TaskId),
    Refused(TaskId, Refused),
    Progress(TaskId),
    Outcome(TaskId),
    /// What an assignment starts from, right behind it (CKPT-4)
    Restore(Token),
    Checkpointed(Token, u64, Option<CheckpointRefused>),
    Drain,
    Answer(u64),
}

impl Sent {
    /// The lane of assignments
    const ASSIGNMENTS: usize = 2;

    /// Which lane it waits in until it is numbered: control, results, task state (LANES-1)
    const fn lane(self) -> usize {
        match self {
            // What is said of an attempt is never in front of the verdict on it.
            Sent::Cancel(..) | Sent::Recall(_) | Sent::Verdict(..) | Sent::Refused(..) | Sent::Drain => 0,
            Sent::Settled(..) | Sent::Checkpointed(..) | Sent::Accepted(_) | Sent::Outcome(_) | Sent::Answer(_) => 1,
            Sent::Assign(_) | Sent::Restore(_) | Sent::Progress(_) | Sent::Void => 2,
        }
    }
}

impl Sent {
    pub(crate) fn outline(self, o: &mut Outline) {
        o.put(core::mem::discriminant(&self));
        match self {
            Sent::Assign(token) | Sent::Recall(token) | Sent::Restore(token) => o.name(Name::Token(token)),
            Sent::Cancel(token, reason) => {
                o.name(Name::Token(token));
                o.put(reason);
            }
            Sent::Verdict(token, verdict) => {
                o.name(Name::Token(token));
                o.put(verdict);
            }
            Sent::Settled(token, settlement, outcome) => {
                o.name(Name::Token(token));
                o.put((settlement, outcome));
            }
            Sent::Checkpointed(token, number, refused) => {
                o.name(Name::Token(token));
                o.put((number, refused));
            }
            Sent::Accepted(task) | Sent::Refused(task, _) | Sent::Progress(task) | Sent::Outcome(task) => o.put(task),
            Sent::Void | Sent::Drain | Sent::Answer(_) => {}
        }
    }
}

/// A session, with what belongs to it on the coordinator's side
#[derive(Clone, Debug)]
pub(crate) struct PeerSession {
    pub(crate) numbers: Session<HeapLog<Sent, SESSION_UNACKED_MAX>>,
    pub(crate) boot: BootId,
    /// The wire version in which it was opened; it goes on in no other (FRAME-6)
    pub(crate) version: u16,
    /// Newest generation whose welcome was acknowledged (AUTH-8)
    pub(crate) confirmed: Option<u64>,
    /// Both sides know what the other holds (SESS-7)
    pub(crate) reconciled: bool,
    /// Highest number taken in whose consequences are durable (SESS-2)
    pub(crate) tellable: u64,
    /// Numbers of results that wait for output in front of them
    pub(crate) early: BTreeSet<u64>,
    /// Tasks the worker grants, and tasks given, as totals of this session (LANES-2)
    pub(crate) tasks_granted: u64,
    pub(crate) tasks_given: u64,
    pub(crate) inventory: Inventory,
    /// What the worker offers to tasks (TASK-9)
    pub(crate) offers: Tags,
    /// The worker takes nothing new (TASK-8)
    pub(crate) draining: bool,
    /// Under which exclusive attempts run; none where the peer knows of none (TASK-4)
    pub(crate) lease: Option<Lease>,
    /// Whether the worker holds what it should (SESS-8)
    pub(crate) drift: Drift,
    lanes: [VecDeque<Sent>; 3],
}

/// Parts of an inventory that have arrived
#[derive(Clone, Debug, Default)]
pub(crate) struct Inventory {
    pub(crate) items: Vec<InventoryItem>,
    pub(crate) parts: u16,
    pub(crate) cut: u64,
    pub(crate) complete: bool,
}

impl PeerSession {
    pub(crate) fn open(id: SessionId, resume_key: Secret, boot: BootId, version: u16) -> Self {
        PeerSession {
            numbers: Session::open(id, resume_key, SESSION_UNACKED_MAX as u64, HeapLog::default()),
            boot,
            version,
            confirmed: None,
            reconciled: false,
            tellable: 0,
            early: BTreeSet::new(),
            tasks_granted: 0,
            tasks_given: 0,
            inventory: Inventory::default(),
            offers: Tags::default(),
            draining: false,
            lease: None,
            drift: Drift::default(),
            lanes: Default::default(),
        }
    }

    /// Queues a message that gets its number when it enters a frame
    pub(crate) fn say(&mut self, sent: Sent) {
        self.lanes[sent.lane()].push_back(sent);
        self.numbers.waiting(self.backlog());
    }

    /// Queues a message about an assignment that has no number yet, and must not be overtaken
    pub(crate) fn say_behind_assignment(&mut self, sent: Sent) {
        self.lanes[Sent::ASSIGNMENTS].push_back(sent);
        self.numbers.waiting(self.backlog());
    }

    /// How many messages wait to be numbered
    pub(crate) fn backlog(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }

    /// The first message in the order of lanes
    pub(crate) fn next_to_say(&self) -> Option<Sent> {
        self.lanes.iter().find_map(|lane| lane.front().copied())
    }

    /// The message returned by [`Self::next_to_say`] was written, or is of no use any more
    pub(crate) fn said(&mut self, sent: Sent) {
        let front = self.lanes.iter_mut().find(|lane| !lane.is_empty()).and_then(VecDeque::pop_front);
        debug_assert_eq!(front, Some(sent));
        self.numbers.waiting(self.backlog());
    }

    /// Whether there is anything numbered to send
    pub(crate) fn has_news(&self) -> bool {
        !self.numbers.replayed() || (self.numbers.may_number() && self.next_to_say().is_some())
    }

    /// Takes in what decides how the session goes on
    pub(crate) fn outline(&self, o: &mut Outline) {
        let id = self.numbers.id;
        self.numbers.outline(o, Giver::Coordinator, |o, sent| sent.outline(o));
        o.name(Name::Boot(self.boot));
        o.put((self.confirmed.is_some(), self.reconciled, self.draining, self.early.len()));
        self.confirmed.iter().for_each(|generation| o.count(Counter::Generation(id), *generation));
        o.count(Counter::Numbers(id, Giver::Dialler), self.tellable);
        o.count(Counter::Tasks(id), self.tasks_given);
        o.count(Counter::Tasks(id), self.tasks_granted);
        o.put(self.drift.mismatches);
        o.put((self.inventory.parts, self.inventory.complete, self.inventory.items.len()));
        for item in &self.inventory.items {
            o.name(Name::Token(item.token));
            o.put((item.task, item.held));
        }
        for lane in &self.lanes {
            o.put(lane.len());
            lane.iter().for_each(|sent| sent.outline(o));
        }
    }

    /// Tasks that may still be given (LANES-2)
    pub(crate) fn task_credit(&self) -> u64 {
        self.tasks_granted.saturating_sub(self.tasks_given)
    }
}

/// One holder of a key
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) name: PeerName,
    pub(crate) role: Role,
    /// The one connection that counts
    pub(crate) conn: Option<ConnId>,
    /// A newcomer that waits for the old connection to answer (AUTH-4)
    pub(crate) contender: Option<ConnId>,
    pub(crate) session: Option<PeerSession>,
    /// What an unconfirmed session would replace; valid until then (AUTH-8)
    pub(crate) previous: Option<PeerSession>,
    pub(crate) disconnected_at: Option<Instant>,
    /// When its last connections broke, oldest first (TASK-10)
    pub(crate) cuts: VecDeque<Instant>,
    /// Nothing of it is lost before: it is given time to come back after a recovery (JOURN-4)
    pub(crate) withheld_until: Instant,
    /// Until when exclusive attempts may run there without a word (TASK-4)
    pub(crate) leased_until: Instant,
    /// Declared lost for its tasks (TASK-5)
    pub(crate) lost: bool,
    /// Life of the memory whose inventory was last compared
    pub(crate) boot: Option<BootId>,
    /// Live attempts at this worker
    pub(crate) held: BTreeSet<Token>,
    /// Runs a suspect alone, or is kept free for one (TASK-6)
    pub(crate) reserved: bool,
    /// Somebody wants it to drain; until it has left (TASK-8)
    pub(crate) to_drain: bool,
    /// Attempts whose kept output the worker does not know yet
    pub(crate) to_tell: BTreeSet<(Token, Stream)>,
    /// Attempts whose offered checkpoint the worker is to be asked for (CKPT-1)
    pub(crate) to_need: BTreeSet<Token>,
    /// Attempts that are to be offered what they start from (CKPT-4)
    pub(crate) to_offer: BTreeSet<Token>,
    /// Attempts with chunks to send of what they start from, in turn
    pub(crate) restoring: VecDeque<Token>,
    /// Tasks of whose large input the client is to be told what is missing (FRAME-3)
    pub(crate) inputs_due: BTreeSet<TaskId>,
    /// What a client follows
    pub(crate) watches: BTreeMap<TaskId, Watch>,
    /// Watches with output to send, in turn
    pub(crate) streaming: VecDeque<TaskId>,
    pub(crate) reading: Option<Reading>,
    pub(crate) piece: Option<Piece>,
    /// Answers to a client's last questions
    pub(crate) answers: BTreeMap<u64, Box<[u8]>>,
    /// Pieces of checkpoints that a client waits for
    pub(crate) fetching: VecDeque<Fetch>,
    /// The place is free: its client has left
    vacant: bool,
}

/// A task that a client follows
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    /// The attempt whose output is being sent
    pub(crate) token: Option<Token>,
    pub(crate) streams: [Outgoing; 2],
    /// In the line of watches with output to send
    pub(crate) in_line: bool,
    pub(crate) progress_queued: bool,
    pub(crate) outcome_queued: bool,
    pub(crate) follow: Follow,
}

impl Watch {
    pub(crate) fn new(follow: Follow) -> Self {
        Watch {
            token: None,
            streams: [Outgoing::new(), Outgoing::new()],
            in_line: false,
            progress_queued: false,
            outcome_queued: false,
            follow,
        }
    }

    /// Whether output of the attempt that is being followed is still to be taken
    pub(crate) fn is_behind(&self) -> bool {
        self.follow == Follow::Output && !self.streams.iter().all(Outgoing::is_taken)
    }

    /// Goes over to another attempt: its output starts at the beginning
    pub(crate) fn turn_to(&mut self, token: Option<Token>) {
        *self = Watch { token, in_line: self.in_line, ..Watch::new(self.follow) };
    }

    /// What to send next of the task's output, of at most so many bytes
    pub(crate) fn next_piece(&self, task: TaskId, most: u64) -> Option<Reading> {
        let token = self.token.filter(|_| self.follow == Follow::Output)?;
        Stream::ALL.into_iter().find_map(|stream| {
            let (offset, unsent) = self.streams[stream.index()].unsent()?;
            Some(Reading::Output { task, token, stream, offset, max: unsent.min(most) as u32 })
        })
    }
}

/// A piece asked of the embedder
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Of output, for a client
    Output { task: TaskId, token: Token, stream: Stream, offset: u64, max: u32 },
    /// Of a chunk, for a worker that starts from a checkpoint: where in the checkpoint, and where in the chunk
    Chunk { token: Token, number: u64, offset: u64, home: u64, within: u64, max: u32 },
    /// Of a chunk, for a client that asked
    Shown { ask: u64, home: u64, within: u64, max: u32 },
}

/// A piece on its way to a peer
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) from: Reading,
    pub(crate) bytes: Vec<u8>,
}

impl Peer {
    fn new(name: PeerName, role: Role) -> Self {
        Peer {
            name,
            role,
            conn: None,
            contender: None,
            session: None,
            previous: None,
            disconnected_at: None,
            cuts: VecDeque::new(),
            withheld_until: Instant::ZERO,
            leased_until: Instant::ZERO,
            lost: false,
            boot: None,
            held: BTreeSet::new(),
            reserved: false,
            to_drain: false,
            to_tell: BTreeSet::new(),
            to_need: BTreeSet::new(),
            to_offer: BTreeSet::new(),
            restoring: VecDeque::new(),
            inputs_due: BTreeSet::new(),
            watches: BTreeMap::new(),
            streaming: VecDeque::new(),
            reading: None,
            piece: None,
            answers: BTreeMap::new(),
            fetching: VecDeque::new(),
            vacant: false,
        }
    }

    /// The session that an id names, whether it is confirmed or about to be replaced
    pub(crate) fn session_named(&self, id: SessionId) -> Option<&PeerSession> {
        [&self.session, &self.previous].into_iter().flatten().find(|session| session.numbers.id == id)
    }

    /// Whether tasks may be given to it, were there any
    pub(crate) fn takes_tasks(&self) -> bool {
        self.role == Role::Worker
            && self.conn.is_some()
            && self.held.len() < WORKER_ATTEMPTS_MAX
            && !self.is_draining()
            && self.session.as_ref().is_some_and(|session| session.reconciled && session.task_credit() > 0)
    }

    /// Whether it takes nothing new, by its own will or somebody's (TASK-8)
    pub(crate) fn is_draining(&self) -> bool {
        self.to_drain || self.session.as_ref().is_some_and(|session| session.draining)
    }

    /// The session of this id, while it may still go on (AUTH-8)
    pub(crate) fn session_mut(&mut self, id: SessionId) -> Option<&mut PeerSession> {
        [&mut self.session, &mut self.previous].into_iter().flatten().find(|session| session.numbers.id == id)
    }
}

/// All keys and their holders
///
/// A worker has one place for the coordinator's life. A client has one for each life of a memory that uses its key, so
/// that any number of commands can use one key at a time; that place is free again once the client has left.
#[derive(Clone, Debug, Default)]
pub(crate) struct Roster {
    keys: BTreeMap<KeyId, KeyEntry>,
    /// Places of keys so far
    places: u64,
    roles: BTreeMap<PeerName, Role>,
    workers: BTreeMap<PeerName, PeerIx>,
    clients: BTreeMap<(PeerName, BootId), PeerIx>,
    peers: Vec<Peer>,
    vacant: Vec<PeerIx>,
}

#[derive(Clone, Debug)]
struct KeyEntry {
    key: Key,
    revoked: bool,
    stage: Stage,
    /// What it came about from, if that is known: after a restart it is not
    follows: Option<KeyId>,
    /// It is a join token, and good for enrolling until then (AUTH-6)
    token: Option<Instant>,
    /// Its place among those that came
    place: u64,
}

/// How far a key is that came about by rotation or enrolment (AUTH-6)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It is about to be durable, and opens nothing yet
    Keeping,
    /// Its holder may have it, and has not come with it
    Next,
    /// It was used, or came in another way
    Used,
}

impl KeyEntry {
    fn new(key: Key, stage: Stage, follows: Option<KeyId>, place: u64) -> Self {
        KeyEntry { key, revoked: false, stage, follows, token: None, place }
    }

    /// Whether it opens sessions, and did so before
    fn is_in_use(&self) -> bool {
        !self.revoked && self.stage == Stage::Used && self.token.is_none()
    }
}

impl Roster {
    /// Finds a worker, or makes a place for one that held tasks and has no key any more, or is a client now
    pub(crate) fn worker_named(&mut self, name: &PeerName) -> PeerIx {
        self.roles.entry(name.clone()).or_insert(Role::Worker);
        if let Some(ix) = self.workers.get(name) {
            return *ix;
        }
        let ix = self.new_place(Peer::new(name.clone(), Role::Worker));
        self.workers.insert(name.clone(), ix);
        ix
    }

    /// Returns the place of a worker that has, or had, a key
    pub(crate) fn worker(&self, name: &PeerName) -> Option<PeerIx> {
        self.workers.get(name).copied()
    }

    /// Returns workers in the order of their names, those behind one if that is named
    pub(crate) fn workers_behind(&self, after: Option<&PeerName>) -> impl Iterator<Item = PeerIx> + '_ {
        let from = after.map_or(Bound::Unbounded, |name| Bound::Excluded(name.clone()));
        self.workers.range((from, Bound::Unbounded)).map(|(_, ix)| *ix)
    }

    /// Adds a key; a name keeps its role
    ///
    /// `false` if the name has another role, or the id stands for another key. One that was revoked is good again.
    pub(crate) fn add_key(&mut self, key: Key) -> bool {
        if let Some(known) = self.keys.get_mut(&key.id) {
            known.revoked &= known.key != key;
            return known.key == key;
        }
        if self.roles.get(&key.name).is_some_and(|role| *role != key.role) {
            return false;
        }
        self.roles.insert(key.name.clone(), key.role);
        if key.role == Role::Worker {
            self.worker_named(&key.name);
        }
        let place = self.next_place();
        self.keys.insert(key.id, KeyEntry::new(key, Stage::Used, None, place));
        true
    }

    fn next_place(&mut self) -> u64 {
        self.places += 1;
        self.places
    }

    /// Flags a key as one that came about by rotation and was not used yet; `false` if there is none of this id
    pub(crate) fn is_next(&mut self, id: KeyId) -> bool {
        self.keys
            .get_mut(&id)
            .map(|entry| entry.stage = if entry.revoked { entry.stage } else { Stage::Next })
            .is_some()
    }

    /// A key that follows from another one is to be made durable; `false` if its id stands for another key
    pub(crate) fn keep(&mut self, key: &Key, follows: KeyId) -> bool {
        let place = self.next_place();
        let entry = || KeyEntry::new(key.clone(), Stage::Keeping, Some(follows), place);
        let entry = self.keys.entry(key.id).or_insert_with(entry);
        entry.key == *key && entry.stage != Stage::Used
    }

    /// A key that follows from another one is durable, or could not be made so; `true` if its holder may be told
    pub(crate) fn kept(&mut self, id: KeyId, kept: bool) -> bool {
        let Some(entry) = self.keys.get_mut(&id).filter(|entry| entry.stage == Stage::Keeping) else { return false };
        if kept {
            entry.stage = Stage::Next;
            return !entry.revoked;
        }
        self.keys.remove(&id);
        false
    }

    /// Flags a worker's key as a join token, good until then; `false` if there is no worker's key of this id
    pub(crate) fn is_token(&mut self, id: KeyId, until: Instant) -> bool {
        let entry = self.keys.get_mut(&id).filter(|entry| entry.key.role == Role::Worker);
        entry.map(|entry| entry.token = Some(until)).is_some()
    }

    /// For whom a join token is, and until when it is good
    pub(crate) fn token(&self, id: KeyId) -> Option<(PeerName, Instant)> {
        let entry = self.keys.get(&id)?;
        entry.token.map(|until| (entry.key.name.clone(), until))
    }

    /// Keys of a name that came about by rotation or enrolment and were not used yet, durable or about to be
    pub(crate) fn next_keys(&self, name: &PeerName) -> usize {
        self.unused(name).count()
    }

    /// Those of them that are durable
    pub(crate) fn next_keys_kept(&self, name: &PeerName) -> usize {
        self.unused(name).filter(|entry| entry.stage == Stage::Next).count()
    }

    fn unused<'a>(&'a self, name: &'a PeerName) -> impl Iterator<Item = &'a KeyEntry> {
        self.keys.values().filter(move |entry| entry.stage != Stage::Used && !entry.revoked && entry.key.name == *name)
    }

    /// Forgets a key that nobody was told of
    pub(crate) fn forget_next(&mut self, id: KeyId) {
        if self.keys.get(&id).is_some_and(|entry| entry.stage == Stage::Next) {
            self.keys.remove(&id);
        }
    }

    /// A key was used: the first time that happens to one that came about by rotation, those in front of it are retired
    ///
    /// So are those behind it if it is the first one in use: then all followed from one join token, which is good once.
    pub(crate) fn used(&mut self, id: KeyId) -> Option<(PeerName, Vec<KeyId>)> {
        let entry = self.keys.get_mut(&id).filter(|entry| entry.stage == Stage::Next)?;
        let (name, place) = (entry.key.name.clone(), entry.place);
        let others = || self.keys.iter().filter(|(_, entry)| entry.key.name == name && !entry.revoked);
        let burns = !others().any(|(_, entry)| entry.place < place && entry.is_in_use());
        let retires = |place_of: u64| place_of < place || (burns && place_of > place);
        let retired = others().filter(|(_, entry)| retires(entry.place)).map(|(id, _)| *id).collect();
        self.keys.get_mut(&id)?.stage = Stage::Used;
        Some((name, retired))
    }

    /// The keys that follow from one and were not used yet
    ///
    /// Where it is not known what one follows from, it is taken to be this one if no other key of its name is good.
    pub(crate) fn followers(&self, id: KeyId) -> Vec<KeyId> {
        let Some(KeyEntry { key: Key { name, .. }, .. }) = self.keys.get(&id) else { return Vec::new() };
        let good = || self.keys.iter().filter(|(_, entry)| !entry.revoked && entry.key.name == *name);
        let last = !good().any(|(other, entry)| *other != id && entry.stage == Stage::Used);
        let follows = |entry: &KeyEntry| entry.stage != Stage::Used && entry.follows.map_or(last, |from| from == id);
        good().filter(|(other, entry)| **other != id && follows(entry)).map(|(other, _)| *other).collect()
    }

    pub(crate) fn has_key(&self, id: KeyId) -> bool {
        self.keys.contains_key(&id)
    }

    /// Flags a key; it is kept, so that the refusal can be sealed (AUTH-6)
    pub(crate) fn revoke(&mut self, id: KeyId) -> bool {
        self.keys.get_mut(&id).map(|entry| entry.revoked = true).is_some()
    }

    /// Finds a key by what M1 says; another name or role is as good as no key (AUTH-6)
    pub(crate) fn key(&self, id: KeyId, name: &PeerName, role: Role) -> Option<&Key> {
        let entry = self.keys.get(&id).filter(|entry| entry.stage != Stage::Keeping)?;
        (entry.key.name == *name && entry.key.role == role).then_some(&entry.key)
    }

    /// Whether anybody could prove to be this peer
    pub(crate) fn may_come_back(&self, ix: PeerIx) -> bool {
        let peer = self.get(ix);
        let keys = self.keys.values().filter(|entry| !entry.revoked);
        keys.map(|entry| &entry.key).any(|key| key.name == peer.name && key.role == peer.role)
    }

    pub(crate) fn is_revoked(&self, id: KeyId) -> bool {
        self.keys.get(&id).is_none_or(|entry| entry.revoked)
    }

    /// Finds the place of a key's holder, if it has one
    pub(crate) fn holder(&self, id: KeyId, boot: BootId) -> Option<PeerIx> {
        let key = &self.keys.get(&id)?.key;
        match key.role {
            Role::Worker => self.workers.get(&key.name).copied(),
            Role::Client => self.clients.get(&(key.name.clone(), boot)).copied(),
        }
    }

    /// Gives a key's holder its place; `None` when there is none for another client
    pub(crate) fn admit(&mut self, id: KeyId, boot: BootId, clients_max: usize) -> Option<PeerIx> {
        if let Some(ix) = self.holder(id, boot) {
            return Some(ix);
        }
        let name = self.keys.get(&id)?.key.name.clone();
        if self.clients.len() >= clients_max {
            return None;
        }
        let mut peer = Peer::new(name.clone(), Role::Client);
        peer.boot = Some(boot);
        let ix = self.new_place(peer);
        self.clients.insert((name, boot), ix);
        Some(ix)
    }

    /// Returns the client that has been away for longest
    pub(crate) fn oldest_away(&self) -> Option<PeerIx> {
        let away = self.clients.values().filter(|ix| self.get(**ix).conn.is_none());
        away.min_by_key(|ix| self.get(**ix).disconnected_at).copied()
    }

    /// A client has left for good
    pub(crate) fn dismiss(&mut self, ix: PeerIx) {
        let peer = self.get_mut(ix);
        if peer.role != Role::Client || core::mem::replace(&mut peer.vacant, true) {
            return;
        }
        let place = peer.boot.map(|boot| (peer.name.clone(), boot));
        if let Some(place) = place {
            self.clients.remove(&place);
            self.vacant.push(ix);
        }
    }

    fn new_place(&mut self, peer: Peer) -> PeerIx {
        if let Some(ix) = self.vacant.pop() {
            *self.get_mut(ix) = peer;
            return ix;
        }
        self.peers.push(peer);
        PeerIx(self.peers.len() as u32 - 1)
    }

    pub(crate) fn get(&self, ix: PeerIx) -> &Peer {
        &self.peers[ix.0 as usize]
    }

    pub(crate) fn get_mut(&mut self, ix: PeerIx) -> &mut Peer {
        &mut self.peers[ix.0 as usize]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PeerIx, &Peer)> {
        let places = self.peers.iter().enumerate().map(|(n, peer)| (PeerIx(n as u32), peer));
        places.filter(|(_, peer)| !peer.vacant)
    }

    /// Workers that have a key, whether they are connected or not (LIVE-1, BACK-1)
    pub(crate) fn workers(&self) -> u64 {
        self.workers.len() as u64
    }
}
