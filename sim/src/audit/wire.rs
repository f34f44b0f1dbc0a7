//! What leaves the machines, read off the wire: numbers, acknowledgements, settlements (S7, S11, S12)
//!
//! Each connection is one of a session; each session has numbers in both directions. Whoever resumes sends every number
//! above what the other end has received, once and in order, and each number stands for what it stood for (SESS-3).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use rejoin_core::Instant;
use rejoin_core::ids::{ConnId, KeyId, SessionId, TaskId, Token};
use rejoin_core::limits::{MTBF_SINCE, SLOTS_SINCE, WIRE_VERSION};
use rejoin_core::wire::handshake::Resume;
use rejoin_core::wire::message::{Control, FromWorker, Outcome, Settlement, ToWorker};

use super::{Auditor, Check};
use crate::draws::mix;
use crate::net::Side;
use crate::tap::{Handshake, Message, Said};
use crate::words::words;

/// Sessions of a peer that may still go on: one, and another one that it has not replaced yet
const SESSIONS_KEPT: usize = 3;

/// What has been read
#[derive(Clone, Debug, Default)]
pub(super) struct Wire {
    lines: BTreeMap<ConnId, Line>,
    talks: BTreeMap<SessionId, Talk>,
    sessions: BTreeMap<usize, VecDeque<SessionId>>,
    /// The connection that counts for each peer
    current: BTreeMap<usize, ConnId>,
    /// Since when a session has had none, by the coordinator's clock
    away: BTreeMap<SessionId, Instant>,
    /// Keys that are good for nothing any more
    retired: BTreeSet<KeyId>,
}

impl Wire {
    fn greeted(&mut self, conn: ConnId, key: Option<KeyId>) {
        self.lines.insert(conn, Line { key, ..Line::default() });
    }
}

/// A connection
#[derive(Clone, Debug, Default)]
struct Line {
    /// With which key its peer came
    key: Option<KeyId>,
    /// Up to which number the coordinator says in M2 that it has received
    open: Option<u64>,
    resume: Option<Resume>,
    session: Option<SessionId>,
    /// The number that is due from each end, by its side; none before it may number
    due: [Option<u64>; 2],
    /// The wire version that was chosen
    version: u16,
    /// The highest epoch that the peer has seen, and that of the coordinator
    seen: u64,
    epoch: u64,
}

/// A session
#[derive(Clone, Debug, Default)]
struct Talk {
    /// Of the last connection on which the coordinator said welcome
    generation: u64,
    /// The highest number that each end has used, by its side
    sent: [u64; 2],
    /// Up to which number each end says that it has received
    told: [u64; 2],
    /// What numbers stand for that were not acknowledged
    meanings: [BTreeMap<u64, u64>; 2],
    /// Results among them
    results: BTreeMap<u64, (TaskId, Token, Outcome)>,
}

impl Auditor {
    /// A frame leaves that says this, among other things
    pub(crate) fn said(&mut self, conn: ConnId, peer: usize, from: Side, said: &Said<'_>) {
        let mut wire = std::mem::take(&mut self.wire);
        match said {
            Said::Handshake(handshake) => self.shook(&mut wire, conn, handshake),
            Said::Control(control) => self.controlled(&mut wire, conn, peer, from, control),
            Said::Void(number) => self.numbered(&mut wire, conn, from, *number, None),
            Said::Numbered(number, message) => {
                self.numbered(&mut wire, conn, from, *number, Some(message));
                if let Message::ToWorker(ToWorker::Verdict { token, verdict }) = message {
                    self.judged_as(*token, *verdict);
                }
                self.settled(message);
            }
            Said::Loose(_) => {}
            Said::Unreadable => self.expect(Check::S11, false, || format!("nobody can read what the {from} says")),
        }
        let version = wire.lines.get(&conn).map_or(0, |line| line.version);
        if (1..WIRE_VERSION).contains(&version)
            && let Some(message) = said.message()
        {
            let since = message.since();
            self.expect(Check::S28, since <= version, || {
                format!("the {from} says {} in version {version}, which came with {since}", message.verb())
            });
        }
        self.wire = wire;
    }

    /// What a peer will say is not what it has said: it goes on from an earlier state
    pub(crate) fn put_back(&mut self, peer: usize) {
        for session in self.wire.sessions.remove(&peer).into_iter().flatten() {
            self.wire.talks.remove(&session);
        }
    }

    /// A peer greets on a new connection
    #[cfg(test)]
    pub(super) fn greeted(&mut self, conn: ConnId) {
        self.wire.greeted(conn, None);
    }

    /// A key is good for nothing from now on
    pub(crate) fn retired(&mut self, key: KeyId) {
        self.wire.retired.insert(key);
    }

    /// The coordinator knows that a connection is over, at that time of its clock
    pub(crate) fn ended_at(&mut self, conn: ConnId, peer: usize, now: Instant) {
        if self.wire.current.get(&peer) == Some(&conn) {
            self.wire.current.remove(&peer);
            if let Some(session) = self.wire.lines.get(&conn).and_then(|line| line.session) {
                self.wire.away.insert(session, now);
            }
        }
    }

    /// Another coordinator knows of no session
    pub(crate) fn sessions_over(&mut self) {
        self.wire.current.clear();
        self.wire.away.clear();
    }

    /// What the coordinator's clock shows, and how long sessions outlive their connections
    pub(crate) fn coordinator_at(&mut self, now: Instant, lifetime: Duration) {
        (self.coordinator_now, self.lifetime) = (now, lifetime);
    }

    /// Nobody says anything on a connection any more
    pub(crate) fn hung_up(&mut self, conn: ConnId) {
        self.wire.lines.remove(&conn);
    }

    fn shook(&mut self, wire: &mut Wire, conn: ConnId, handshake: &Handshake<'_>) {
        match handshake {
            Handshake::Hello(hello) => {
                wire.greeted(conn, Some(hello.key));
                if let Some(line) = wire.lines.get_mut(&conn) {
                    line.seen = hello.epoch;
                }
            }
            Handshake::Challenge(challenge) => {
                if let Some(line) = wire.lines.get_mut(&conn) {
                    (line.open, line.version) = (challenge.open, challenge.version);
                    line.epoch = challenge.epoch;
                    if line.seen > line.epoch {
                        self.stores.refused();
                    }
                }
            }
            Handshake::Refusal(_) => {}
            Handshake::Proof(proof) => {
                let Some(line) = wire.lines.get_mut(&conn) else { return };
                let (seen, epoch) = (line.seen, line.epoch);
                self.expect(Check::S35, seen <= epoch, || format!("whoever has seen epoch {seen} goes on in {epoch}"));
                let Some(resume) = proof.resume else { return };
                line.session = Some(resume.session);
                line.resume = Some(resume);
                line.due[Side::Peer as usize] = line.open.map(|open| open + 1);
                if let Some(talk) = wire.talks.get_mut(&resume.session) {
                    self.acknowledged(talk, Side::Peer, resume.received);
                    // It counts as sent what it could not be seen to send: those frames may have been lost in its system.
                    talk.sent[Side::Peer as usize] = talk.sent[Side::Peer as usize].max(resume.sent);
                }
            }
        }
    }

    fn controlled(&mut self, wire: &mut Wire, conn: ConnId, peer: usize, from: Side, control: &Control) {
        let Some(line) = wire.lines.get_mut(&conn) else { return };
        if let (Control::Welcome(_), Some(key)) = (control, line.key)
            && !wire.retired.is_empty()
        {
            let good = !wire.retired.contains(&key);
            self.expect(Check::S37, good, || format!("connection {} came with key {key}, which was retired", conn.0));
        }
        match *control {
            Control::Begin { session } => {
                let coordinator = line.due[Side::Coordinator as usize].map_or(0, |due| due - 1);
                line.session = Some(session);
                line.due[Side::Peer as usize] = Some(1);
                let talk = Talk { sent: [0, coordinator], ..Talk::default() };
                wire.talks.insert(session, talk);
                let sessions = wire.sessions.entry(peer).or_default();
                sessions.push_back(session);
                if sessions.len() > SESSIONS_KEPT
                    && let Some(old) = sessions.pop_front()
                {
                    wire.talks.remove(&old);
                    wire.away.remove(&old);
                }
            }
            Control::Welcome(welcome) => match (welcome.resumed, line.resume) {
                (Some(received), Some(resume)) => {
                    let away =
                        wire.away.remove(&resume.session).map_or(Duration::ZERO, |at| self.coordinator_now.since(at));
                    wire.current.insert(peer, conn);
                    let (lifetime, talk) = (self.lifetime, wire.talks.get_mut(&resume.session));
                    let before = talk.map_or(0, |talk| std::mem::replace(&mut talk.generation, welcome.generation));
                    // A connection that ended before its welcome was said is not seen, and the session lives on from its end.
                    let unseen = welcome.generation > before + 1;
                    self.expect(Check::S11, unseen || away <= lifetime, || {
                        format!("a session goes on after {away:?} without a connection, and lives for {lifetime:?}")
                    });
                    line.due[Side::Coordinator as usize] = Some(resume.received + 1);
                    if let Some(talk) = wire.talks.get_mut(&resume.session) {
                        self.acknowledged(talk, Side::Coordinator, received);
                    }
                }
                (Some(_), None) => self.expect(Check::S11, false, || "a session goes on that nobody resumed".into()),
                (None, _) => {
                    wire.current.insert(peer, conn);
                    line.due[Side::Coordinator as usize] = Some(1);
                    if let Some(talk) = line.session.and_then(|session| wire.talks.get_mut(&session)) {
                        talk.generation = welcome.generation;
                    }
                    // What is said before the peer learns that, and begins anew, counts as never sent (AUTH-3).
                    if line.resume.take().is_some() {
                        line.session = None;
                    }
                }
            },
            Control::Ack { received } => {
                if let Some(talk) = line.session.and_then(|session| wire.talks.get_mut(&session)) {
                    self.acknowledged(talk, from, received);
                }
            }
            Control::Denied(_)
            | Control::Confirm { .. }
            | Control::Credit(_)
            | Control::Beat { .. }
            | Control::Echo { .. }
            | Control::Bye
            | Control::Lease { .. }
            | Control::Digest { .. }
            | Control::Compare
            | Control::NextKey => {}
            Control::Mtbf { .. } => {
                let version = line.version;
                self.expect(Check::S28, version >= MTBF_SINCE, || {
                    format!("a peer of version {version} is told how often workers fail")
                });
            }
            Control::GoAway { slot_us } => {
                let version = line.version;
                self.expect(Check::S28, version >= SLOTS_SINCE, || {
                    format!("a peer of version {version} is told in which slot to come back")
                });
                self.named_slot(peer, conn, Duration::from_micros(slot_us));
            }
        }
    }

    /// An end says up to which number it has received (S12); the coordinator's word is that all of that is durable
    fn acknowledged(&mut self, talk: &mut Talk, by: Side, received: u64) {
        let (before, sent) = (talk.told[by as usize], talk.sent[by.other() as usize]);
        self.expect(Check::S12, (before..=sent).contains(&received), || {
            format!("the {by} acknowledges {received} after {before}, and {sent} were sent")
        });
        talk.told[by as usize] = before.max(received);
        while let Some(first) =
            talk.meanings[by.other() as usize].first_entry().filter(|first| *first.key() <= received)
        {
            first.remove();
        }
        while by == Side::Coordinator
            && let Some(first) = talk.results.first_entry().filter(|first| *first.key() <= received)
        {
            let (task, token, outcome) = first.remove();
            // One that the coordinator has judged before it came is of no use any more.
            let overruled = self.judged.get(&token).is_some_and(|judged| *judged != outcome);
            let counted = overruled || self.is_over(task, token);
            self.expect_of(Check::S6, task, counted, || {
                format!("the result of {token} at {task} is acknowledged, and not durable")
            });
        }
    }

    /// A reliable message leaves (S11)
    fn numbered(&mut self, wire: &mut Wire, conn: ConnId, from: Side, number: u64, message: Option<&Message<'_>>) {
        let Some(line) = wire.lines.get_mut(&conn) else { return };
        let due = line.due[from as usize];
        // A peer that goes on from an earlier state may know of no session that anybody has seen it open.
        let known = line.session.and_then(|session| wire.talks.get_mut(&session));
        if from == Side::Peer && line.session.is_some() && known.is_none() {
            return;
        }
        self.expect(Check::S11, due == Some(number), || {
            format!("the {from} says number {number} on connection {}, and {} is due", conn.0, words(due))
        });
        line.due[from as usize] = Some(number.saturating_add(1));
        let Some(talk) = known else { return };
        let again = number <= talk.sent[from as usize];
        talk.sent[from as usize] = talk.sent[from as usize].max(number);
        let Some(message) = message else { return };
        if let (
            Side::Peer,
            Message::FromWorker(
                FromWorker::Result { task, token, outcome, .. } | FromWorker::LargeResult { task, token, outcome, .. },
            ),
        ) = (from, message)
        {
            talk.results.insert(number, (*task, *token, *outcome));
        }
        let means = meaning(message);
        let before = *talk.meanings[from as usize].entry(number).or_insert(means);
        if again {
            self.expect_of(Check::S11, message.task(), before == means, || {
                format!("the {from} says something else under number {number} than before")
            });
        }
    }

    /// The coordinator says what became of a result (S5, S7)
    fn settled(&mut self, message: &Message<'_>) {
        let Message::ToWorker(ToWorker::Settled { token, settlement, outcome }) = *message else { return };
        let Some((task, _)) = self.assigned.get(&token).copied() else {
            return self.expect(Check::S7, settlement == Settlement::Stale, || {
                format!("{token} was never given out, and its result is {}", words(settlement))
            });
        };
        let (ended, ended_by) = self.submitted.get(&task).map_or((None, None), |known| (known.ended, known.ended_by));
        let counted = self.results.contains(&token);
        match settlement {
            Settlement::Applied => self.expect_of(Check::S5, task, counted, || {
                format!("the result of {token} at {task} is said to be applied, and is not durable")
            }),
            Settlement::Duplicate => self.expect_of(Check::S18, task, counted, || {
                format!("the result of {token} at {task} is said to be known, and never was")
            }),
            Settlement::Stale => self.expect_of(Check::S7, task, ended_by != Some(token), || {
                format!("the result of {token} ended {task}, and is said to be stale")
            }),
        }
        if outcome.is_some() {
            self.expect_of(Check::S5, task, outcome == ended, || {
                format!("a worker is told that {task} ended as {}, and durable is {}", words(outcome), words(ended))
            });
        }
    }

    /// Whether nothing can come of an attempt's result any more
    fn is_over(&self, task: TaskId, token: Token) -> bool {
        let Some(known) = self.submitted.get(&task) else { return true };
        self.results.contains(&token) || known.ended.is_some() || known.newest != Some(token)
    }
}

/// What may never change under a number: the kind, the task and the attempt
fn meaning(message: &Message<'_>) -> u64 {
    let kind = message.verb().bytes().fold(0, |hash: u64, byte| hash.wrapping_mul(31) ^ u64::from(byte));
    let task = message.task().map_or(0, |task| {
        let (first, second) = task.0.split_at(8);
        let number = |bytes: &[u8]| bytes.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        mix(number(first)) ^ number(second)
    });
    mix(kind ^ mix(task ^ mix(message.token().map_or(0, |token| token.0))))
}
