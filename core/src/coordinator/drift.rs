//! Whether workers hold what they should, while they are connected (SESS-8)
//!
//! A worker says with each heartbeat what it holds, as a number, and up to which numbers of both ends that is so. This end
//! knows what it should be then: what it has in its tables as the worker's, less what was given above that number, and
//! with what it has retired and the worker could not know of yet. Two mismatches in a row, and the worker is asked for
//! all that it holds, one by one. What both ends know stays as it is; nothing is interrupted.

use alloc::collections::BTreeMap;

use crate::channel::Violation;
use crate::drift::mark;
use crate::ids::{ConnId, TaskId, Token};
use crate::limits::{COMPARE_PAUSE, DIGEST_SINCE, MISMATCHES_MAX, WORKER_ATTEMPTS_MAX};
use crate::time::Instant;
use crate::wire::message::Settlement;

use super::entry::Conn;
use super::gate::Effect;
use super::peers::{PeerIx, PeerSession, Sent};
use super::{Desk, Event};

/// How what a worker holds compares with what it should, in one session
#[derive(Clone, Debug, Default)]
pub(crate) struct Drift {
    /// Mismatches in a row
    pub(crate) mismatches: u32,
    /// The worker is not asked again before
    not_before: Instant,
    /// Retired here, and still held by a worker that has not said or heard yet that they are over
    parting: BTreeMap<Token, Parting>,
}

#[derive(Clone, Copy, Debug)]
struct Parting {
    task: TaskId,
    /// Number of its assignment, if that was in this session
    from: u64,
    /// Number of the message that makes its worker forget it
    until: Option<u64>,
}

impl Drift {
    /// A new session: its inventory has just been compared
    pub(crate) fn start_over(&mut self) {
        *self = Drift::default();
    }

    /// The worker has said that an attempt is over, or never had it
    pub(crate) fn is_over(&mut self, token: Token) {
        self.parting.remove(&token);
    }

    /// The worker forgets an attempt with the message of this number
    pub(crate) fn settled(&mut self, token: Token, number: u64) {
        if let Some(parting) = self.parting.get_mut(&token) {
            parting.until.get_or_insert(number);
        }
    }

    /// The worker has what it is about to be told to do without
    pub(crate) fn discard(&mut self, token: Token, task: TaskId) {
        self.part_with(token, Parting { task, from: 0, until: None });
    }

    fn part_with(&mut self, token: Token, parting: Parting) {
        if self.parting.len() >= WORKER_ATTEMPTS_MAX {
            // More than it can hold: it has not kept to the rules, and will be asked what it has.
            self.parting.pop_first();
        }
        self.parting.insert(token, parting);
    }
}

impl Desk {
    /// An attempt is about to be retired without a word of its worker's, which holds it until it says or hears otherwise
    pub(super) fn part_with(&mut self, token: Token) {
        let Some(attempt) = self.tasks.attempts.get(&token) else { return };
        let (task, ix) = (attempt.task, attempt.peer);
        let Some((id, number)) = attempt.sent_as else { return };
        let over_in = attempt.early.as_ref().map(|early| early.session);
        let peer = self.roster.get_mut(ix);
        for session in [&mut peer.session, &mut peer.previous].into_iter().flatten() {
            if session.version >= DIGEST_SINCE && over_in != Some(session.numbers.id) {
                let from = if session.numbers.id == id { number } else { 0 };
                session.drift.part_with(token, Parting { task, from, until: None });
            }
        }
    }

    /// What a worker should hold once it has taken in numbers up to this one
    fn believed<'a>(
        &'a self,
        ix: PeerIx,
        session: &'a PeerSession,
        received: u64,
    ) -> impl Iterator<Item = (Token, TaskId, u64)> + 'a {
        let given = move |sent_as| match sent_as {
            Some((id, number)) => id != session.numbers.id || number <= received,
            None => false,
        };
        let held = self.roster.get(ix).held.iter().filter_map(move |token| {
            let attempt = self.tasks.attempts.get(token)?;
            // What it said in another session it has to say again in this one, and holds until then.
            let over = attempt.early.as_ref().is_some_and(|early| early.session == session.numbers.id);
            let here = given(attempt.sent_as) && !over;
            here.then_some((*token, attempt.task, attempt.mark))
        });
        let there = move |parting: &Parting| parting.from <= received && parting.until.is_none_or(|at| at > received);
        let parting = session.drift.parting.iter().filter(move |(_, parting)| there(parting));
        held.chain(parting.map(|(token, parting)| (*token, parting.task, mark(parting.task, *token))))
    }

    /// Whether it is known what the worker should hold at these numbers
    fn is_comparable(&self, ix: PeerIx, received: u64, sent: u64) -> Result<bool, Violation> {
        let session = self.roster.get(ix).session.as_ref().ok_or(Violation)?;
        let numbers = session.numbers.numbers();
        if session.version < DIGEST_SINCE || received > numbers.sent || sent > numbers.received {
            return Err(Violation);
        }
        // What was acknowledged is in no log any more, so that nothing below can be told apart.
        Ok(session.reconciled && received >= numbers.acknowledged && sent == numbers.received)
    }

    /// A worker says what it holds, as a number
    pub(super) fn take_digest(
        &mut self,
        conn: ConnId,
        ix: PeerIx,
        (received, sent): (u64, u64),
        held: u64,
    ) -> Result<(), Violation> {
        if !self.is_comparable(ix, received, sent)? {
            return Ok(());
        }
        let Some(session) = &self.roster.get(ix).session else { return Ok(()) };
        let believed = self.believed(ix, session, received).fold(0, |all, (_, _, mark)| all ^ mark);
        self.stats.digests += 1;
        let now = self.now;
        let Some(session) = &mut self.roster.get_mut(ix).session else { return Ok(()) };
        let drift = &mut session.drift;
        drift.parting.retain(|_, parting| parting.until.is_none_or(|at| at > received));
        if believed == held {
            drift.mismatches = 0;
            return Ok(());
        }
        self.stats.mismatches += 1;
        drift.mismatches = drift.mismatches.saturating_add(1);
        if drift.mismatches >= MISMATCHES_MAX && drift.not_before <= now {
            drift.not_before = now + COMPARE_PAUSE;
            if let Some(Conn::Live(live)) = self.conns.get_mut(&conn) {
                live.compare = Some(false);
            }
        }
        Ok(())
    }

    /// A worker that was asked says what it holds, one by one: what it does not have is lost, and what it should not have goes
    pub(super) fn take_holdings(
        &mut self,
        conn: ConnId,
        ix: PeerIx,
        (received, sent): (u64, u64),
        mut items: &[u8],
    ) -> Result<(), Violation> {
        let Some(Conn::Live(live)) = self.conns.get_mut(&conn) else { return Err(Violation) };
        if live.compare.take() != Some(true) {
            return Err(Violation);
        }
        let mut there: BTreeMap<Token, TaskId> = BTreeMap::new();
        while !items.is_empty() {
            let ((task, token), rest) = postcard::take_from_bytes(items).map_err(|_| Violation)?;
            if there.insert(token, task).is_some() || there.len() > WORKER_ATTEMPTS_MAX {
                return Err(Violation);
            }
            items = rest;
        }
        if !self.is_comparable(ix, received, sent)? {
            return Ok(());
        }
        let Some(session) = &self.roster.get(ix).session else { return Ok(()) };
        let id = session.numbers.id;
        let mut absent = alloc::vec::Vec::new();
        for (token, task, _) in self.believed(ix, session, received) {
            if there.get(&token) == Some(&task) {
                there.remove(&token);
            } else {
                absent.push(token);
            }
        }
        let (mut lost, mut discarded) = (0, 0);
        for token in absent {
            lost += u64::from(self.tasks.attempts.contains_key(&token));
            if let Some(session) = &mut self.roster.get_mut(ix).session {
                session.drift.is_over(token);
            }
            // It is not in the worker's memory, which has just been found wrong.
            self.lost_attempt(token, true);
        }
        for (token, task) in there {
            if self.tasks.attempts.get(&token).is_some_and(|attempt| attempt.peer == ix && attempt.task == task) {
                // Its result waits here for output that is still to come.
                continue;
            }
            discarded += 1;
            let outcome = self.outcome_of(task);
            if let Some(session) = &mut self.roster.get_mut(ix).session {
                session.drift.discard(token, task);
            }
            self.gate.then(Effect::Say(ix, id, Sent::Settled(token, Settlement::Stale, outcome)));
        }
        self.stats.repairs += 1;
        let peer = self.roster.get(ix).name.clone();
        self.gate.then(Effect::Event(Event::Drifted { peer, lost, discarded }));
        self.place(ix);
        self.touch(ix);
        Ok(())
    }
}
