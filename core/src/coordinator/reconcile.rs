//! After a session was opened: what the worker holds against what it should hold (SESS-7)

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::channel::Violation;
use crate::ids::{SessionId, Token};
use crate::limits::{UNKNOWN_TASKS_MAX, WORKER_ATTEMPTS_MAX};
use crate::wire::message::{CancelReason, Held, InventoryItem, Stream, Verdict};

use crate::journal::Record;
use crate::planted::{self, Bug};
use crate::terms::Class;

use super::gate::Effect;
use super::peers::{PeerIx, Sent};
use super::tasks::{Attempt, TaskState, TaskStep};
use super::{Desk, Event};

impl Desk {
    pub(super) fn take_inventory(
        &mut self,
        ix: PeerIx,
        part: u16,
        last: bool,
        cut: u64,
        mut items: &[u8],
    ) -> Result<(), Violation> {
        let session = self.roster.get_mut(ix).session.as_mut().ok_or(Violation)?;
        let inventory = &mut session.inventory;
        let adds = last || !items.is_empty();
        if session.reconciled || inventory.complete || part != inventory.parts || !adds {
            return Err(Violation);
        }
        while !items.is_empty() {
            let (item, rest) = postcard::take_from_bytes::<InventoryItem>(items).map_err(|_| Violation)?;
            inventory.items.push(item);
            items = rest;
        }
        if inventory.items.len() > WORKER_ATTEMPTS_MAX {
            return Err(Violation);
        }
        inventory.parts += 1;
        inventory.cut = cut;
        inventory.complete = last;
        self.reconcile(ix);
        Ok(())
    }

    /// Compares, once the inventory is complete and the session confirmed
    pub(super) fn reconcile(&mut self, ix: PeerIx) {
        let peer = self.roster.get_mut(ix);
        let Some(session) = &mut peer.session else { return };
        if !session.inventory.complete || session.confirmed.is_none() || session.reconciled {
            return;
        }
        session.reconciled = true;
        session.drift.start_over();
        let inventory = core::mem::take(&mut session.inventory);
        let (id, boot) = (session.numbers.id, session.boot);
        let known = peer.boot.replace(boot);
        let (restarted, same) = (known.is_some_and(|old| old != boot), known == Some(boot));
        peer.lost = false;
        let mut there: BTreeMap<Token, InventoryItem> = inventory.items.iter().map(|i| (i.token, *i)).collect();
        let names = |token: &Token| {
            let task = self.tasks.attempts.get(token).map(|attempt| attempt.task);
            there.get(token).is_some_and(|item| Some(item.task) == task)
        };
        let absent: Vec<Token> = peer.held.iter().copied().filter(|token| !names(token)).collect();
        let before_cut = |token: &Token| {
            let sent_as = self.tasks.attempts.get(token).and_then(|attempt| attempt.sent_as);
            // Whatever an earlier session carried is older than this inventory; in this one, the cut decides.
            sent_as.is_none_or(|(session, number)| session != id || number <= inventory.cut)
        };
        let absent: Vec<Token> = absent.into_iter().filter(before_cut).collect();
        if restarted {
            self.crashed(&absent);
        } else {
            // Whoever may have been another process cannot speak for what that one left running.
            absent.into_iter().for_each(|token| self.lost_attempt(token, !same));
        }
        let (mut unknown, mut tasks) = (0, Vec::new());
        for item in inventory.items {
            // An item named twice is judged once.
            if there.remove(&item.token).is_some() {
                let verdict = if item.held == Held::Waiting && self.cannot_restore(ix, item.token) {
                    // It would wait for ever for what it is to start from.
                    self.take_unstarted_back(item.token);
                    Verdict::Discard
                } else {
                    self.judge(ix, &item)
                };
                if verdict == Verdict::Discard && self.is_unheard_of(&item) {
                    unknown += 1;
                    if tasks.len() < UNKNOWN_TASKS_MAX {
                        tasks.push(item.task);
                    }
                }
                if verdict == Verdict::Discard
                    && let Some(session) = self.roster.get_mut(ix).session_mut(id)
                {
                    session.drift.discard(item.token, item.task);
                }
                self.gate.then(Effect::Say(ix, id, Sent::Verdict(item.token, verdict)));
                let from = self.tasks.all.get(&item.task).and_then(|task| task.checkpoint.as_ref());
                let inline = from.is_some_and(|from| from.names().is_empty());
                if inline && item.held == Held::Waiting && verdict != Verdict::Discard {
                    // What it was to start from may have gone down with the old session (CKPT-4).
                    self.gate.then(Effect::Say(ix, id, Sent::Restore(item.token)));
                }
                if verdict != Verdict::Discard && self.tasks.all.get(&item.task).is_some_and(|t| t.cancel_requested) {
                    // Asked for while there was no session to say it in, or in one that ended (TASK-7).
                    self.gate.then(Effect::Say(ix, id, Sent::Cancel(item.token, CancelReason::Requested)));
                }
                self.yield_to_replacement(item.token);
            }
        }
        if unknown > 0 {
            self.stats.unknown_attempts += unknown;
            let peer = self.roster.get(ix).name.clone();
            self.events.push_back(Event::Unknown { peer, attempts: unknown, tasks });
        }
        self.place(ix);
        self.touch(ix);
    }

    fn judge(&mut self, ix: PeerIx, item: &InventoryItem) -> Verdict {
        let token = item.token;
        if !self.tasks.attempts.contains_key(&token) && !self.adopt(ix, item) {
            return Verdict::Discard;
        }
        let theirs = |attempt: &&mut Attempt| attempt.peer == ix && attempt.task == item.task;
        let Some(attempt) = self.tasks.attempts.get_mut(&token).filter(theirs) else {
            return Verdict::Discard;
        };
        // An order to give it back may have gone down with the old session.
        attempt.recalled = false;
        self.schedule.not_recalled(token);
        self.take_back(token);
        let Some(attempt) = self.tasks.attempts.get_mut(&token) else { return Verdict::Discard };
        let kept = Stream::ALL.map(|stream| attempt.streams[stream.index()].received());
        match item.held {
            Held::Waiting => Verdict::Keep { kept },
            Held::Running { progress } => {
                attempt.running = true;
                attempt.progress = progress;
                Verdict::Keep { kept }
            }
            Held::Finished => {
                attempt.running = true;
                Verdict::SendResult { kept }
            }
        }
    }

    /// A worker holds an attempt of an unfinished task that nobody else has, under a token that may have been given:
    /// the record of its assignment was lost with an earlier epoch (TASK-2)
    fn adopt(&mut self, ix: PeerIx, item: &InventoryItem) -> bool {
        // What has not started is left to the queue: nothing is lost with it.
        let given_before = item.token.0 < self.config.tokens_from && item.held != Held::Waiting;
        let free = self.tasks.all.get(&item.task).is_some_and(|task| {
            matches!(task.state, TaskState::Ready | TaskState::Backoff)
                && !task.cancel_requested
                // What else there is of it may still run.
                && (task.terms.class != Class::Exclusive || task.live.is_empty())
                && (planted::is(Bug::DedupByLife) || !task.concluded.contains(&item.token))
        });
        if !given_before || !free || self.is_of_a_namesake(item) {
            return false;
        }
        self.tasks.step(item.task, TaskStep::Adopt);
        self.timers.set(super::Timer::Retry(item.task), None);
        self.tasks.give(item.token, item.task, ix, item.attempt);
        let (task, token, attempt) = (item.task, item.token, item.attempt);
        if self.tasks.all.get(&task).is_some_and(|task| task.terms.class == Class::Exclusive) {
            self.record_lease(ix);
        }
        let peer = self.roster.get_mut(ix);
        peer.held.insert(token);
        if let Some(adopted) = self.tasks.attempts.get_mut(&token) {
            // Under a session that is no more: it is there without an assignment in this one.
            adopted.sent_as = Some((SessionId([0; 16]), 0));
        }
        // As if it had been given now: what becomes of it must find it in the journal.
        self.gate.write(&Record::Assign { task, token, attempt, worker: peer.name.clone() });
        self.story.note(self.now, item.task, Some(item.token), "adopted");
        true
    }
}
