//! What is put into frames: what has to be said again, then lane by lane, then one bulk piece (LANES-1, SESS-3)

use core::ops::Bound;

use crate::blob::INPUT;
use crate::channel::body_of;
use crate::ids::{ConnId, Role};
use crate::lease::Lease;
use crate::limits::{CHUNKS_SINCE, FORGOTTEN_SINCE};
use crate::time::{Instant, micros};
use crate::wire::codec::Scratch;
use crate::wire::message::{BodyWriter, Class, Control, ToClient, ToWorker, Verdict};

use super::Desk;
use super::entry::{Conn, Live};
use super::peers::{Peer, Piece, Reading, Sent};
use super::restores::tell_transfers;
use super::rotation::Rotation;
use super::tasks::{Body, Checkpoint, Tasks};

impl Desk {
    /// Writes and seals the next frame of any connection that has something to say, in turn
    pub(super) fn next_frame(&mut self, frame: &mut [u8], scratch: &mut Scratch) -> Option<(ConnId, usize)> {
        loop {
            let behind = (Bound::Excluded(self.last_served), Bound::Unbounded);
            let conn = *self.dirty.range(behind).next().or(self.dirty.first())?;
            let Some(Conn::Live(live)) = self.conns.get_mut(&conn) else {
                self.dirty.remove(&conn);
                continue;
            };
            self.last_served = conn;
            let ix = live.peer;
            let peer = self.roster.get_mut(ix);
            let given = peer.session.as_ref().map(|session| session.tasks_given);
            let body_len = fill(self.now, live, peer, &mut self.tasks, frame);
            let reads = peer.role == Role::Client || !peer.restoring.is_empty();
            let freed = given != peer.session.as_ref().map(|session| session.tasks_given);
            if reads {
                // A piece may have left, or turned out to be of no use any more.
                self.readers.insert(ix);
            }
            if body_len == 0 {
                self.dirty.remove(&conn);
            }
            if freed {
                // Credit came back: somebody may be waiting for it.
                self.place(ix);
                self.give_tasks();
            }
            if body_len == 0 {
                continue;
            }
            let Some(Conn::Live(live)) = self.conns.get_mut(&conn) else { continue };
            let len = live.channel.seal(frame, body_len, scratch);
            self.stats.frames_out += 1;
            return Some((conn, len));
        }
    }
}

/// Writes one frame's body and returns its length, zero if there is nothing to say
fn fill(now: Instant, live: &mut Live, peer: &mut Peer, tasks: &mut Tasks, frame: &mut [u8]) -> usize {
    let Some(session) = &peer.session else { return 0 };
    let news = live.welcome.is_some()
        || live.compare == Some(false)
        || live.mtbf.is_some()
        || live.rotation == Rotation::Due
        || live.channel.has_news(now, &session.numbers, session.tellable, 0)
        || session.has_news()
        || !peer.to_tell.is_empty()
        || !peer.to_need.is_empty()
        || !peer.to_offer.is_empty()
        || !peer.inputs_due.is_empty()
        || peer.piece.is_some();
    if !news || !live.channel.is_writable() {
        return 0;
    }
    let mut body = body_of(frame);
    if let Some(welcome) = live.welcome.take() {
        let fits = body.push(Class::Control, &Control::Welcome(welcome));
        debug_assert!(fits, "the first message of a frame always fits");
    }
    if let Some(Lease { ttl, grace }) = live.lease.take() {
        let fits = body.push(Class::Control, &Control::Lease { ttl_us: micros(ttl), grace_us: micros(grace) });
        debug_assert!(fits, "the second one does as well");
    }
    if let Some(mean) = live.mtbf.take() {
        let fits = body.push(Class::Control, &Control::Mtbf { mean_us: micros(mean) });
        debug_assert!(fits, "and so does this one");
    }
    if live.compare == Some(false) && body.push(Class::Control, &Control::Compare) {
        live.compare = Some(true);
    }
    if live.rotation == Rotation::Due && body.push(Class::Control, &Control::NextKey) {
        live.rotation = Rotation::Told;
    }
    if let Some(session) = &mut peer.session {
        live.channel.write(now, &mut body, &mut session.numbers, session.tellable, 0);
    }
    let version = live.channel.version;
    if replay(peer, tasks, version, &mut body)
        && say_new(peer, tasks, version, &mut body)
        && tell_kept(peer, tasks, &mut body)
        && tell_transfers(live.peer, peer, tasks, &mut body)
    {
        send_piece(now, live, peer, tasks, &mut body);
    }
    body.len()
}

/// `false` when the frame is full
fn replay(peer: &mut Peer, tasks: &Tasks, version: u16, body: &mut BodyWriter<'_>) -> bool {
    while let Some((number, sent)) = peer.session.as_ref().and_then(|session| session.numbers.to_replay()) {
        if !write(number, sent, peer, tasks, version, body) {
            return false;
        }
        let Some(session) = &mut peer.session else { return true };
        if let Sent::Assign(token) = sent
            && is_pointless(sent, tasks)
        {
            session.drift.is_over(token);
            // The worker never counted it, so that its credit is free again (LANES-2).
            session.numbers.restate(Sent::Void);
            session.tasks_given -= 1;
        }
        session.numbers.replayed_one();
    }
    true
}

/// An assignment whose attempt is no more
fn is_pointless(sent: Sent, tasks: &Tasks) -> bool {
    matches!(sent, Sent::Assign(token) if !tasks.attempts.contains_key(&token))
}

/// What an assignment that is no more was to start from
fn is_restore_of_none(sent: Sent, tasks: &Tasks) -> bool {
    matches!(sent, Sent::Restore(token) if !tasks.attempts.contains_key(&token))
}

/// `false` when the frame is full
fn say_new(peer: &mut Peer, tasks: &mut Tasks, version: u16, body: &mut BodyWriter<'_>) -> bool {
    loop {
        let Some(session) = peer.session.as_ref().filter(|session| session.numbers.may_number()) else { return true };
        let Some(sent) = session.next_to_say() else { return true };
        let (id, number) = (session.numbers.id, session.numbers.next_number());
        let before = body.len();
        let pointless = is_pointless(sent, tasks) || is_restore_of_none(sent, tasks);
        if !pointless && !write(number, sent, peer, tasks, version, body) {
            return false;
        }
        let Some(session) = &mut peer.session else { return true };
        session.said(sent);
        if pointless {
            session.tasks_given -= u64::from(matches!(sent, Sent::Assign(_)));
            continue;
        }
        session.numbers.number(sent, body.len() - before);
        match sent {
            Sent::Assign(token) => {
                if let Some(attempt) = tasks.attempts.get_mut(&token) {
                    attempt.sent_as = Some((id, number));
                    if attempt.restoring.is_some() && version >= CHUNKS_SINCE {
                        peer.to_offer.insert(token);
                    }
                }
            }
            Sent::Progress(task) => {
                if let Some(watch) = peer.watches.get_mut(&task) {
                    watch.progress_queued = false;
                }
            }
            Sent::Settled(token, ..) | Sent::Verdict(token, Verdict::Discard) => session.drift.settled(token, number),
            Sent::Void
            | Sent::Cancel(..)
            | Sent::Recall(_)
            | Sent::Verdict(..)
            | Sent::Accepted(_)
            | Sent::Refused(..)
            | Sent::Outcome(_)
            | Sent::Restore(_)
            | Sent::Checkpointed(..)
            | Sent::Drain
            | Sent::Answer(_) => {}
        }
    }
}

/// Writes what a number stands for, or VOID when its cause is gone; `false` when the frame is full (SESS-3)
fn write(number: u64, sent: Sent, peer: &Peer, tasks: &Tasks, version: u16, body: &mut BodyWriter<'_>) -> bool {
    let class = Class::Numbered(number);
    match sent {
        Sent::Void => body.push_void(number),
        Sent::Assign(token) => {
            let attempt = tasks.attempts.get(&token);
            match attempt.and_then(|attempt| tasks.all.get(&attempt.task).map(|task| (attempt, task))) {
                Some((a, task)) => {
                    let (priority, payload) = (task.spec.priority, &*task.payload);
                    // Whoever knows nothing of chunks starts from the beginning.
                    let restores = a.restores && (a.restoring.is_none() || version >= CHUNKS_SINCE);
                    let (conditions, input) = (task.terms.at_worker(), task.input.as_ref());
                    let (task, attempt) = (a.task, a.attempt);
                    if let Some(input) = input {
                        let (length, names) = (input.length, input.names.as_flattened());
                        let conditions = conditions.unwrap_or_default();
                        let assign = ToWorker::AssignLarge {
                            task,
                            token,
                            attempt,
                            priority,
                            restores,
                            conditions,
                            payload,
                            length,
                            names,
                        };
                        return body.push(class, &assign);
                    }
                    match conditions {
                        None => {
                            body.push(class, &ToWorker::Assign { task, token, attempt, priority, restores, payload })
                        }
                        Some(conditions) => {
                            let assign =
                                ToWorker::AssignUnder { task, token, attempt, priority, restores, conditions, payload };
                            body.push(class, &assign)
                        }
                    }
                }
                None => body.push_void(number),
            }
        }
        Sent::Cancel(token, reason) => body.push(class, &ToWorker::Cancel { token, reason }),
        Sent::Recall(token) => body.push(class, &ToWorker::Recall { token }),
        Sent::Verdict(token, verdict) => body.push(class, &ToWorker::Verdict { token, verdict }),
        Sent::Settled(token, settlement, outcome) => {
            let outcome = outcome.map(|outcome| outcome.spoken_in(version));
            body.push(class, &ToWorker::Settled { token, settlement, outcome })
        }
        Sent::Accepted(task) => body.push(class, &ToClient::Accepted { task }),
        Sent::Refused(task, reason) => body.push(class, &ToClient::Refused { task, reason }),
        Sent::Progress(task) => match tasks.current(task).and_then(|token| tasks.attempts.get(&token)) {
            Some(a) => body.push(class, &ToClient::Progress { task, attempt: a.attempt, progress: a.progress }),
            None => body.push_void(number),
        },
        Sent::Outcome(task) => {
            if let Some(end) = tasks.all.get(&task).and_then(|task| task.ended.as_ref()) {
                let (attempt, token, streams) = (end.attempt, end.token, end.streams);
                let outcome = end.outcome.spoken_in(version);
                if let (Some(length), Some(token), true) = (end.result.elsewhere(), token, version >= CHUNKS_SINCE) {
                    let large = ToClient::LargeOutcome { task, attempt, token, outcome, length, streams };
                    return body.push(class, &large);
                }
                let result = end.result.inline();
                body.push(class, &ToClient::Outcome { task, attempt, token, outcome, result, streams })
            } else if let Some(old) = tasks.forgotten.get(&task) {
                let outcome = old.outcome.spoken_in(version);
                if version >= FORGOTTEN_SINCE {
                    body.push(class, &ToClient::Forgotten { task, outcome })
                } else {
                    let streams = Default::default();
                    body.push(
                        class,
                        &ToClient::Outcome { task, attempt: 0, token: None, outcome, result: &[], streams },
                    )
                }
            } else {
                body.push_void(number)
            }
        }
        Sent::Restore(token) => {
            let task = tasks.attempts.get(&token).and_then(|attempt| tasks.all.get(&attempt.task));
            match task.and_then(|task| task.checkpoint.as_ref()) {
                Some(Checkpoint { number, body: Body::Inline(bytes), .. }) => {
                    body.push(class, &ToWorker::Restore { token, number: *number, bytes })
                }
                Some(Checkpoint { body: Body::Chunks { .. }, .. }) | None => body.push_void(number),
            }
        }
        Sent::Checkpointed(token, number, refused) => {
            body.push(class, &ToWorker::Checkpointed { token, number, refused })
        }
        Sent::Drain => body.push(class, &ToWorker::Drain),
        Sent::Answer(ask) => match peer.answers.get(&ask) {
            Some(answer) => body.push(class, &ToClient::Answer { ask, answer }),
            None => body.push_void(number),
        },
    }
}

/// Newest value of what is kept of each output stream; `false` when the frame is full (LOG-1)
fn tell_kept(peer: &mut Peer, tasks: &Tasks, body: &mut BodyWriter<'_>) -> bool {
    while let Some((token, stream)) = peer.to_tell.first().copied() {
        if let Some(attempt) = tasks.attempts.get(&token) {
            let offset = attempt.streams[stream.index()].kept();
            if !body.push(Class::Loose, &ToWorker::Kept { token, stream, offset }) {
                return false;
            }
        }
        peer.to_tell.remove(&(token, stream));
    }
    true
}

fn send_piece(now: Instant, live: &mut Live, peer: &mut Peer, tasks: &mut Tasks, body: &mut BodyWriter<'_>) {
    let (Some(Piece { from, bytes }), Some(session)) = (&peer.piece, &peer.session) else { return };
    let (channel, numbers) = (&mut live.channel, &session.numbers);
    if channel.measure(now, body, numbers, 0) {
        return;
    }
    let (task, token, stream, offset) = match *from {
        Reading::Output { task, token, stream, offset, .. } => (task, token, stream, offset),
        // That goes into an answer.
        Reading::Shown { .. } => return,
        Reading::Chunk { token, number, offset, .. } => {
            let attempt = tasks.attempts.get_mut(&token);
            let sending = attempt.and_then(|attempt| match number {
                INPUT => attempt.feeding.as_mut(),
                _ => attempt.restoring.as_mut(),
            });
            let Some(sending) = sending.filter(|s| s.next(bytes.len() as u64) == Some((offset, bytes.len() as u64)))
            else {
                peer.piece = None;
                return;
            };
            if body.push(Class::Loose, &ToWorker::RestorePiece { token, number, offset, bytes }) {
                sending.sent(bytes.len() as u64);
                channel.bulk_sent(now, body, numbers, 0, bytes.len() as u64);
                peer.piece = None;
            }
            return;
        }
    };
    let watch = peer.watches.get_mut(&task).filter(|watch| watch.token == Some(token));
    let Some(watch) = watch.filter(|watch| watch.streams[stream.index()].unsent().is_some_and(|next| next.0 == offset))
    else {
        // The client follows another attempt by now, or has taken this already.
        peer.piece = None;
        return;
    };
    if body.push(Class::Loose, &ToClient::Output { task, token, stream, offset, bytes }) {
        watch.streams[stream.index()].sent(offset, bytes);
        channel.bulk_sent(now, body, numbers, 0, bytes.len() as u64);
        peer.piece = None;
    }
}
