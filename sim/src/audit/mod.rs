//! The auditor: stands outside, sees what crosses the border of each machine, and knows what must hold
//!
//! Each check counts how often its premise held. One that never had occasion to fail has shown nothing, and a swarm in
//! which that happens has failed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use rejoin_core::Instant;
use rejoin_core::blob::RESULT;
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::journal::Record;
use rejoin_core::wire::message::{Failure, Outcome};

use crate::words::words;

macro_rules! checks {
    ($($name:ident $sentence:literal for $($rule:literal)*),* $(,)?) => {
        /// What must hold
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Check {
            $(#[doc = $sentence] $name),*
        }

        impl Check {
            /// All of them
            pub const ALL: &'static [Check] = &[$(Check::$name),*];

            /// What it says
            pub fn sentence(self) -> &'static str {
                match self {
                    $(Check::$name => $sentence),*
                }
            }

            /// Rules of the protocol that it watches over
            pub fn rules(self) -> &'static [&'static str] {
                match self {
                    $(Check::$name => &[$($rule),*]),*
                }
            }
        }
    };
}

checks! {
    S1 "a submission that was acknowledged as accepted is durable, and known in every later state" for "TASK-1" "JOURN-3",
    S2 "the same submit again is the same task" for "TASK-1",
    S3 "a task ends once, and its outcome never changes" for "TASK-3",
    S4 "an attempt's result is applied at most once" for "TASK-3",
    S5 "an outcome that is told is durable" for "JOURN-3",
    S6 "a worker forgets a result only when the coordinator has it durably" for "TASK-3" "SESS-7" "SESS-9",
    S7 "what is said of an attempt that is not the sender's, or not any more, changes nothing" for "TASK-3",
    S8 "nothing that comes on a connection that was replaced changes anything" for "SESS-4",
    S9 "two attempts of an exclusive task never run at a time" for "TASK-4",
    S10 "attempts only rise, and no token is given twice" for "TASK-2",
    S11 "whoever resumes says every number once, in order, as it was; nobody who keeps to the rules is found to break them" for "SESS-1" "SESS-3" "SESS-5",
    S12 "acknowledgements never go back, and never name what was not sent" for "SESS-2",
    S13 "checkpoints rise, and an attempt starts from the newest durable one" for "CKPT-3" "CKPT-4",
    S14 "only the newest attempt of a task makes checkpoints, and none after its end" for "CKPT-3",
    S15 "a message that was altered on its way changes nothing" for "AUTH-1" "FRAME-1",
    S16 "a bad frame counts once, and nothing behind it counts at all" for "FRAME-2",
    S17 "every queue, window and table is within its bound" for "LANES-2" "AUTH-5",
    S18 "a result that comes again is known as such" for "TASK-3",
    S19 "the most urgent comes first, in the order of submits among equals, and nothing that was cancelled" for "LANES-1" "TASK-9",
    S20 "no task is counted twice, nor one that nobody submitted" for "TASK-1",
    S21 "no worker runs more tasks than it has slots" for "TASK-9" "LANES-2",
    S22 "dials obey the law of backoff or a slot that was named, and are spread" for "BACK-1" "BACK-2" "BACK-3",
    S23 "a peer has one connection at a time" for "AUTH-4",
    S24 "an idle link beats within its period" for "LIVE-1",
    S25 "no timer spins, whatever the clock shows" for "LIVE-1" "LIVE-2",
    S26 "cancel and result race to one outcome, the same at both ends" for "TASK-7",
    S27 "what a coordinator recovers depends on its durable records alone" for "JOURN-4" "JOURN-5",
    S28 "to whoever speaks an older version nothing is said that is newer" for "FRAME-6",
    S30 "after a drain nothing is left" for "TASK-8",
    S31 "a task that ended as succeeded was executed to its end" for "TASK-3",
    S32 "all that clients are told of a task is one history" for "TASK-3" "JOURN-3",
    S33 "with replay switched off, tasks end as they do with it" for "SESS-7",
    S34 "a worker holds what the coordinator believes it to hold, unless it was put back or has a double" for "SESS-8",
    S35 "nobody goes on with a coordinator whose store is older than what was seen, and what a store has lost is named" for "JOURN-2",
    S36 "what a worker had kept when it crashed is with it in its next life" for "SESS-9",
    S37 "a key that was revoked, or retired by another one, opens no connection" for "AUTH-6",
    L1 "every accepted task ends within the bound after the network has healed" for "TASK-6" "JOURN-4",
    L2 "every peer is connected within the bound after the network has healed" for "BACK-1" "AUTH-8",
    L3 "an end that hears nothing finds that out within its bound" for "LIVE-2",
    L4 "no result waits at a worker that is connected" for "SESS-3" "LANES-1",
    L5 "tasks of workers that never come back are done by others" for "TASK-5",
    L6 "the noise dies down: in quiet there is nothing but heartbeats" for "LIVE-1" "BACK-1",
    L7 "the least urgent tasks are done as well" for "LANES-1",
    L8 "a poisonous task ends as failed" for "TASK-6",
    L9 "whoever could not send can send again" for "LANES-2",
    L10 "after the network has healed, work is done as fast as if nothing had been broken" for "SESS-4",
    L11 "a drain ends, and loses nothing" for "TASK-8",
    L12 "a checkpoint is durable after the time of one upload" for "CKPT-1",
    Frame3 "a large result reaches its client as it was returned" for "FRAME-3",
    Log1 "output arrives without gap, overlap or error" for "LOG-1",
    Outside "what tasks act upon is as their workload says that it must be" for "TASK-3",
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

mod dials;
mod order;
mod stores;
#[cfg(test)]
mod tests;
mod wire;

use self::dials::DialAudit;
use self::order::Place;
use self::stores::Stores;
use self::wire::Wire;

/// What did not hold
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which check
    pub check: Check,
    /// When
    pub at: Instant,
    /// What was seen
    pub what: String,
    /// Which task it is about
    pub task: Option<TaskId>,
}

/// Knows what was promised, and compares it with what happens
#[derive(Clone, Debug)]
pub struct Auditor {
    now: Instant,
    premises: Vec<u64>,
    violation: Option<Violation>,
    submitted: BTreeMap<TaskId, Promised>,
    /// Clients that submitted something else under the id of a task
    clashing: BTreeSet<(TaskId, usize)>,
    /// Attempts, by token: task, number
    assigned: BTreeMap<Token, (TaskId, u32)>,
    results: BTreeSet<Token>,
    finished: BTreeMap<Token, Outcome>,
    /// How the coordinator has judged attempts, durably or not
    judged: BTreeMap<Token, Outcome>,
    stores: Stores,
    wire: Wire,
    dials: DialAudit,
    /// Tasks that were never given out
    waiting: BTreeMap<Place, TaskId>,
    /// Submits so far, and when the last one was taken in
    submits: u64,
    queued_at: Instant,
    /// What the coordinator's clock shows, and how long its sessions outlive their connections
    coordinator_now: Instant,
    lifetime: Duration,
    /// Some worker does not know what it has done
    amnesia: bool,
    /// What each worker has on its disk of attempts that are not settled
    kept: BTreeMap<usize, BTreeSet<Token>>,
    /// Somebody has spoken an older version: a task whose checkpoint is in chunks may have begun anew there (CKPT-4)
    spoke_old: bool,
}

/// What is known of a task
#[derive(Clone, Debug, Default)]
struct Promised {
    accepted: bool,
    exclusive: bool,
    /// Whether what was accepted is what came second under its id
    content: Option<bool>,
    cancelled: bool,
    cancel_durable: bool,
    /// The coordinator has forgotten it once
    forgotten: bool,
    /// Attempts that began, by their number
    begun: BTreeMap<u32, Token>,
    durable: bool,
    durable_at: Instant,
    attempts: u32,
    ended: Option<Outcome>,
    /// The attempt that ended it
    ended_by: Option<Token>,
    /// What some client was told
    told: Option<Outcome>,
    /// The attempt that was given out last
    newest: Option<Token>,
    /// Its place among those that wait
    place: Option<Place>,
    /// Durable checkpoints: attempt and number
    checkpoints: Vec<(Token, u64)>,
    /// It was durable once, and the store went back behind that; how it had ended then
    undone: bool,
    undone_end: Option<Outcome>,
}

impl Default for Auditor {
    fn default() -> Self {
        Auditor {
            now: Instant::ZERO,
            premises: vec![0; Check::ALL.len()],
            violation: None,
            submitted: BTreeMap::new(),
            clashing: BTreeSet::new(),
            assigned: BTreeMap::new(),
            results: BTreeSet::new(),
            finished: BTreeMap::new(),
            judged: BTreeMap::new(),
            stores: Stores::default(),
            wire: Wire::default(),
            dials: DialAudit::default(),
            waiting: BTreeMap::new(),
            submits: 0,
            queued_at: Instant::ZERO,
            coordinator_now: Instant::ZERO,
            lifetime: Duration::MAX,
            amnesia: false,
            kept: BTreeMap::new(),
            spoke_old: false,
        }
    }
}

impl Auditor {
    /// Says that a check's premise held, and whether it does
    pub(crate) fn expect(&mut self, check: Check, holds: bool, what: impl FnOnce() -> String) {
        self.expect_of(check, None, holds, what);
    }

    pub(crate) fn expect_of(
        &mut self,
        check: Check,
        task: impl Into<Option<TaskId>>,
        holds: bool,
        what: impl FnOnce() -> String,
    ) {
        self.premises[check as usize] += 1;
        if !holds && self.violation.is_none() {
            self.violation = Some(Violation { check, at: self.now, what: what(), task: task.into() });
        }
    }

    pub(crate) fn at(&mut self, now: Instant) {
        self.now = now;
    }

    /// What did not hold, if anything: the first of it
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// How often each check's premise held
    pub fn premises(&self) -> &[u64] {
        &self.premises
    }

    // What crosses the borders.

    pub(crate) fn submitted(&mut self, task: TaskId, exclusive: bool) {
        self.submitted.entry(task).or_default().exclusive = exclusive;
    }

    pub(crate) fn cancel_asked(&mut self, task: TaskId) {
        self.submitted.entry(task).or_default().cancelled = true;
    }

    /// A client submits something else under the id of a task
    pub(crate) fn clashes(&mut self, task: TaskId, client: usize) {
        self.clashing.insert((task, client));
    }

    /// A client was told that its task is accepted
    pub(crate) fn accepted(&mut self, task: TaskId, client: usize) {
        let other = self.clashing.contains(&(task, client));
        let known = self.submitted.entry(task).or_default();
        if known.undone && !known.durable {
            // It was said before the store went back.
            return;
        }
        known.accepted = true;
        let (durable, before) = (known.durable, known.content.replace(other));
        if before.is_some() {
            self.expect_of(Check::S2, task, before == Some(other), || {
                format!("{task} was accepted with two different inputs")
            });
        }
        self.expect_of(Check::S1, task, durable, || format!("{task} was accepted before it was durable"));
    }

    /// The coordinator writes how an attempt ended
    pub(crate) fn judged(&mut self, token: Token, outcome: Outcome) {
        self.judged.insert(token, outcome);
    }

    /// A record has become durable
    pub(crate) fn durable(&mut self, record: &Record<'_>) {
        match *record {
            Record::Submit { task, .. } | Record::SubmitLarge { task, .. } => {
                let now = self.now;
                let known = self.submitted.entry(task).or_default();
                let again = std::mem::replace(&mut known.durable, true);
                known.durable_at = now;
                self.expect_of(Check::S2, task, !again, || format!("{task} was recorded as new twice"));
            }
            Record::Assign { task, token, attempt, .. } => {
                self.waits_no_more(task);
                let known = self.submitted.entry(task).or_default();
                let before = known.attempts;
                known.attempts = attempt.max(before);
                known.newest = Some(token);
                let again = self.assigned.insert(token, (task, attempt));
                // One that was given back before it began leaves its number to the next.
                let cancelled = known.cancel_durable;
                self.expect_of(Check::S19, task, !cancelled || again == Some((task, attempt)), || {
                    format!("{task} is given out under {token} after it was cancelled")
                });
                // One whose assignment was thought to be lost may turn out to be there (TASK-2).
                let undone = self.stores.was_given(token);
                let adopted = again.or(undone) == Some((task, attempt));
                self.expect_of(Check::S10, task, undone.is_none() || adopted, || {
                    format!("{task}: {token} is given again, after the store went back")
                });
                self.expect_of(Check::S10, task, (attempt >= before && again.is_none()) || adopted, || {
                    let again = words(again);
                    format!("{task}: attempt {attempt} under {token} follows attempt {before}, token before: {again}")
                });
            }
            Record::Result { task, token, outcome, last, .. } => {
                if let Some(token) = token {
                    let first = self.results.insert(token);
                    self.expect_of(Check::S4, task, first, || format!("{task}: the result of {token} counted twice"));
                }
                if last {
                    self.waits_no_more(task);
                    let known = self.submitted.entry(task).or_default();
                    let before = known.ended.replace(outcome);
                    known.ended_by = token;
                    self.expect_of(Check::S3, task, before.is_none(), || {
                        format!("{task} ended as {} after it had ended as {}", words(outcome), words(before))
                    });
                    let executed = token.and_then(|token| self.finished.get(&token)).copied();
                    if outcome == Outcome::Succeeded {
                        self.expect_of(Check::S31, task, executed == Some(outcome), || {
                            format!("{task} succeeded, and its attempt ended as {}", words(executed))
                        });
                    }
                }
            }
            // What an attempt returned, in front of its result.
            Record::Manifest { number: RESULT, .. } => {}
            Record::Checkpoint { task, token, number, .. } | Record::Manifest { task, token, number, .. } => {
                let known = self.submitted.entry(task).or_default();
                let before = known.checkpoints.last().copied();
                known.checkpoints.push((token, number));
                let (newest, ended) = (known.newest, known.ended);
                self.expect_of(Check::S14, task, newest == Some(token) && ended.is_none(), || {
                    let (newest, ended) = (words(newest), words(ended));
                    format!("{token} makes a checkpoint of {task}; its newest attempt is {newest}, ended: {ended}")
                });
                let rises = before.is_none_or(|(attempt, n)| attempt <= token && n < number);
                self.expect_of(Check::S13, task, rises, || {
                    format!("{task}: checkpoint {number} of {token} follows {}", words(before))
                });
            }
            Record::Cancel { task } => {
                self.waits_no_more(task);
                self.submitted.entry(task).or_default().cancel_durable = true;
            }
            Record::Unreadable { task } => {
                self.submitted.entry(task).or_default().checkpoints.pop();
            }
            Record::Forget { task } => self.submitted.entry(task).or_default().forgotten = true,
            Record::Epoch { .. }
            | Record::Tokens { .. }
            | Record::Output { .. }
            | Record::Piece { .. }
            | Record::Chunk { .. }
            | Record::Gone { .. }
            | Record::Forgotten { .. }
            | Record::Lapsed { .. }
            | Record::Lease { .. }
            | Record::Restored { .. } => {}
        }
    }

    /// A worker starts an attempt, from a checkpoint if there is one
    pub(crate) fn started(&mut self, task: TaskId, token: Token, attempt: u32, restored: Option<u64>) {
        let undone = self.stores.was_given(token);
        let assigned = self.assigned.get(&token).copied().or(undone);
        self.expect_of(Check::S10, task, assigned == Some((task, attempt)), || {
            format!("attempt {attempt} at {task} starts under {token}, which was given as {}", words(assigned))
        });
        if undone.is_some() {
            // Of a history that goes on in another way.
            return;
        }
        let known = self.submitted.entry(task).or_default();
        let before = *known.begun.entry(attempt).or_insert(token);
        let once = before == token || self.amnesia;
        self.expect_of(Check::S10, task, once, || {
            format!("{task}: attempt {attempt} begins under {token}, and had begun under {before}")
        });
        let known = self.submitted.entry(task).or_default();
        // One that was given out before a later attempt was may start behind that one's checkpoints, or before them; and
        // as it is told of each of these when it is durable, one that is far away hears of them later.
        let earlier = known.checkpoints.iter().rfind(|(by, _)| *by < token).map(|(_, number)| *number);
        let newest = known.checkpoints.last().map(|(_, number)| *number);
        let of_later = known.checkpoints.iter().any(|(by, number)| *by > token && restored == Some(*number));
        if newest.is_some() || restored.is_some() {
            let anew = restored.is_none() && self.spoke_old;
            self.expect_of(Check::S13, task, restored == earlier || of_later || anew, || {
                let [restored, earlier, newest] = [restored, earlier, newest].map(words);
                format!("{task}: attempt {attempt} starts from {restored}, not from {earlier} nor a later one up to {newest}")
            });
        }
    }

    /// From now on somebody speaks an older version
    pub(crate) fn speaks_old(&mut self) {
        self.spoke_old = true;
    }

    /// Whether somebody has ever spoken an older version
    pub(crate) fn spoke_old(&self) -> bool {
        self.spoke_old
    }

    /// An execution is over
    pub(crate) fn finished(&mut self, token: Token, outcome: Outcome) {
        // A worker that was put back may come to another end, after the first one has counted.
        let known = self.finished.entry(token).or_insert(outcome);
        if outcome == Outcome::Succeeded {
            *known = outcome;
        }
    }

    /// A worker was put back, or has a double: what it says to have never begun may have run
    pub(crate) fn forgets(&mut self) {
        self.amnesia = true;
    }

    /// A worker forgets an attempt that it had executed
    pub(crate) fn forgotten(&mut self, task: TaskId, token: Token) {
        let known = self.submitted.get(&task);
        let ended = known.is_some_and(|known| known.ended.is_some());
        // Its next attempt has retired it.
        let retired = known.is_some_and(|known| known.exclusive && known.newest > Some(token));
        // Of two with one key, what the first one had counts as gone when the second one comes.
        let undone = self.stores.is_undone(token);
        let kept = ended || retired || undone || self.amnesia || self.results.contains(&token);
        self.expect_of(Check::S6, task, kept, || {
            format!("the result of {token} at {task} is forgotten, and not durable")
        });
    }

    /// A worker has a result on its disk
    pub(crate) fn kept(&mut self, peer: usize, token: Token) {
        self.kept.entry(peer).or_default().insert(token);
    }

    /// A worker was told that it need not keep something
    pub(crate) fn let_go(&mut self, peer: usize, token: Token) {
        self.kept.entry(peer).or_default().remove(&token);
    }

    /// A worker's disk has something else on it, by no doing of its own
    pub(crate) fn store_replaced(&mut self, peer: usize, tokens: BTreeSet<Token>) {
        self.kept.insert(peer, tokens);
    }

    /// What a worker has on its disk
    pub(crate) fn kept_by(&self, peer: usize) -> Vec<Token> {
        self.kept.get(&peer).into_iter().flatten().copied().collect()
    }

    /// A client was told how a task ended
    pub(crate) fn told(&mut self, task: TaskId, outcome: Outcome) {
        let spoke_old = self.spoke_old;
        let known = self.submitted.entry(task).or_default();
        if known.ended.is_none() && known.undone_end == Some(outcome) {
            // It was said before the store went back.
            return;
        }
        let (durable, raced) = (known.ended, known.cancelled);
        let before = known.told.replace(outcome);
        // Version 1 has no word for tasks that did not get on (FRAME-6).
        let word = |outcome| match outcome {
            Outcome::Failed(Failure::Stalled) if spoke_old => Outcome::Failed(Failure::TimedOut),
            Outcome::Failed(_) | Outcome::Succeeded | Outcome::Cancelled => outcome,
        };
        let same = |known: Outcome| word(known) == word(outcome);
        let one = before.is_none_or(same) && (outcome != Outcome::Cancelled || raced);
        self.expect_of(Check::S32, task, one, || {
            let (ended, before, asked) = (words(outcome), words(before), if raced { "yes" } else { "no" });
            format!("a client is told that {task} ended as {ended}; told before: {before}, cancel asked: {asked}")
        });
        let check = if raced { Check::S26 } else { Check::S5 };
        self.expect_of(check, task, durable.is_some_and(same), || {
            format!("a client is told that {task} ended as {}, and durable is {}", words(outcome), words(durable))
        });
    }

    /// A client is told that what it wants of a task is no longer there
    pub(crate) fn told_forgotten(&mut self, task: TaskId) {
        let forgotten = self.submitted.entry(task).or_default().forgotten;
        self.expect_of(Check::S5, task, forgotten, || {
            format!("a client is told that {task} is forgotten, and it is not")
        });
    }

    /// How a task has durably ended
    pub(crate) fn ended(&self, task: TaskId) -> Option<Outcome> {
        self.submitted.get(&task)?.ended
    }

    /// Whether a task was accepted
    pub(crate) fn is_promised(&self, task: TaskId) -> bool {
        self.submitted.get(&task).is_some_and(|known| known.accepted || known.durable)
    }

    /// The attempt whose result a task has
    pub(crate) fn ended_by(&self, task: TaskId) -> Option<Token> {
        self.submitted.get(&task)?.ended_by
    }

    /// Tasks that were accepted
    pub(crate) fn promised(&self) -> impl Iterator<Item = TaskId> + '_ {
        self.submitted.iter().filter(|(_, known)| known.accepted || known.durable).map(|(task, _)| *task)
    }
}
