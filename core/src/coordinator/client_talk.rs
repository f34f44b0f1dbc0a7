//! What clients ask for, and what they are told (TASK-1, TASK-7, LOG-1)

use crate::channel::Violation;
use crate::error::Rejected;
use crate::ids::{ConnId, Role, TaskId, Token};
use crate::wire::message::{Follow, FromClient, Item, Refused, Stream};

use super::Desk;
use super::entry::Conn;
use super::inputs::Offered;
use super::peers::{PeerIx, Piece, Reading, Sent, Watch};
use super::tasks::TaskState;

impl Desk {
    pub(super) fn take_from_client(
        &mut self,
        conn: ConnId,
        ix: PeerIx,
        item: &Item<'_>,
        numbered: bool,
    ) -> Result<(), Violation> {
        let Some(message) = item.decode::<FromClient<'_>>() else {
            return if item.ignorable { Ok(()) } else { Err(Violation) };
        };
        if numbered == message.is_loose() || message.since() > self.version_of(ix) {
            return Err(Violation);
        }
        match message {
            FromClient::Submit { task, spec, about, payload, follow } => {
                match self.submit(task, spec, about, payload) {
                    Ok(()) => self.watch(ix, task, follow),
                    Err(rejected) => self.say(ix, Sent::Refused(task, refused(rejected))),
                }
            }
            FromClient::Watch { task, follow } if self.tasks.knows(task) => self.watch(ix, task, follow),
            FromClient::Watch { task, .. } => {
                self.stats.unknown_tasks += 1;
                self.say(ix, Sent::Refused(task, Refused::Unknown));
            }
            FromClient::Cancel { task } => {
                if !self.cancel_draft(ix, task) {
                    self.cancel_for(ix, task);
                }
            }
            FromClient::Taken { task, token, stream, offset } => {
                let watch = self.roster.get_mut(ix).watches.get_mut(&task).filter(|watch| watch.token == Some(token));
                if let Some(watch) = watch {
                    if !watch.streams[stream.index()].acknowledge(offset) {
                        return Err(Violation);
                    }
                    if !watch.is_behind() {
                        // Another attempt may be waiting for its turn.
                        self.grow_watches(task);
                    }
                }
            }
            FromClient::Ask { ask, question } => self.asked(ix, ask, question),
            FromClient::SubmitLarge { task, spec, about, payload, length, names, follow } => {
                self.submit_large(ix, task, Offered { spec, about, payload, length, names, follow })?;
            }
            FromClient::InputPiece { task, offset, bytes } => self.take_input_piece(conn, ix, task, offset, bytes)?,
        }
        Ok(())
    }

    pub(super) fn cancel_for(&mut self, ix: PeerIx, task: TaskId) {
        if let Err(rejected) = self.request_cancel(task) {
            self.stats.unknown_tasks += u64::from(rejected == Rejected::Unknown);
            self.say(ix, Sent::Refused(task, refused(rejected)));
        }
    }

    pub(super) fn watch(&mut self, ix: PeerIx, id: TaskId, follow: Follow) {
        let Some(task) = self.tasks.all.get_mut(&id) else {
            // Forgotten: of all there was, only the outcome is left to tell (TASK-1).
            self.say(ix, Sent::Accepted(id));
            if follow > Follow::Acceptance {
                self.say(ix, Sent::Outcome(id));
            }
            return;
        };
        task.watchers.insert(ix);
        let durable = task.state != TaskState::Accepting;
        let watch = self.roster.get_mut(ix).watches.entry(id).or_insert_with(|| Watch::new(follow));
        watch.follow = watch.follow.max(follow);
        if durable {
            self.accepted_told(ix, id);
        }
        let current = self.tasks.current(id).and_then(|token| self.tasks.attempts.get(&token));
        if current.is_some_and(|attempt| attempt.running) {
            self.progress_told(ix, id);
        }
        self.grow_watches(id);
    }

    /// The task is being forgotten: whoever has not got all that it wants of it is told its outcome, and that this is all
    pub(super) fn unwatch(&mut self, ix: PeerIx, id: TaskId) {
        let watch = self.roster.get_mut(ix).watches.remove(&id);
        if watch.is_some_and(|watch| !watch.outcome_queued || watch.is_behind()) {
            self.say(ix, Sent::Outcome(id));
        }
    }

    pub(super) fn tell_accepted(&mut self, id: TaskId) {
        self.for_watchers(id, |desk, ix| desk.accepted_told(ix, id));
    }

    /// Tells that a task is durable; whoever wants to know no more follows it no more
    fn accepted_told(&mut self, ix: PeerIx, id: TaskId) {
        self.say(ix, Sent::Accepted(id));
        let peer = self.roster.get_mut(ix);
        if peer.watches.get(&id).is_some_and(|watch| watch.follow == Follow::Acceptance) {
            peer.watches.remove(&id);
            if let Some(task) = self.tasks.all.get_mut(&id) {
                task.watchers.remove(&ix);
            }
        }
    }

    pub(super) fn tell_progress(&mut self, id: TaskId) {
        self.for_watchers(id, |desk, ix| desk.progress_told(ix, id));
    }

    fn progress_told(&mut self, ix: PeerIx, id: TaskId) {
        let watch = self.roster.get_mut(ix).watches.get_mut(&id);
        if watch.is_some_and(|watch| !core::mem::replace(&mut watch.progress_queued, true)) {
            self.say(ix, Sent::Progress(id));
        }
    }

    pub(super) fn tell_ended(&mut self, id: TaskId) {
        self.grow_watches(id);
    }

    /// More output of a task is durable, or its outcome is: whoever follows it gets that
    pub(super) fn grow_watches(&mut self, id: TaskId) {
        let Some(task) = self.tasks.all.get(&id) else { return };
        let end = task.ended.as_ref().filter(|_| task.told);
        let (token, kept) = match end {
            Some(end) => (end.token, end.streams.map(|stream| stream.len)),
            None => {
                let current = self.tasks.current(id);
                let attempt = current.and_then(|token| self.tasks.attempts.get(&token));
                let kept = |stream: Stream| attempt.map_or(0, |a| a.streams[stream.index()].kept());
                (current, Stream::ALL.map(kept))
            }
        };
        self.for_watchers(id, |desk, ix| {
            let peer = desk.roster.get_mut(ix);
            let Some(watch) = peer.watches.get_mut(&id) else { return };
            if watch.token != token && watch.is_behind() {
                // The last words of the attempt before tell why there is another one.
                return;
            }
            if watch.token != token {
                watch.turn_to(token);
            }
            watch.streams.iter_mut().zip(kept).for_each(|(stream, kept)| stream.grow(kept));
            if !core::mem::replace(&mut watch.in_line, true) {
                peer.streaming.push_back(id);
            }
            desk.readers.insert(ix);
        });
    }

    /// An attempt is durably over and another one follows: whoever follows it gets its output to the end
    pub(super) fn tell_attempt_over(&mut self, id: TaskId, token: Token, lengths: [u64; 2]) {
        self.for_watchers(id, |desk, ix| {
            let peer = desk.roster.get_mut(ix);
            let Some(watch) = peer.watches.get_mut(&id).filter(|watch| watch.follow == Follow::Output) else { return };
            if watch.token != Some(token) {
                // Of two attempts that are over, the newer one's output is the one that is still kept.
                watch.turn_to(Some(token));
            }
            watch.streams.iter_mut().zip(lengths).for_each(|(stream, length)| stream.grow(length));
            if !core::mem::replace(&mut watch.in_line, true) {
                peer.streaming.push_back(id);
            }
            desk.readers.insert(ix);
        });
    }

    /// On a new connection: output goes on behind what the client has taken
    pub(super) fn rewind_watches(&mut self, ix: PeerIx) {
        let peer = self.roster.get_mut(ix);
        for (id, watch) in &mut peer.watches {
            watch.streams.iter_mut().for_each(|stream| stream.rewind());
            if !core::mem::replace(&mut watch.in_line, true) {
                peer.streaming.push_back(*id);
            }
        }
        self.readers.insert(ix);
    }

    /// The next piece of output that a client could be sent, to be read by the embedder
    pub(super) fn next_read(&mut self) -> Option<Reading> {
        while let Some(ix) = self.readers.first().copied() {
            if let Some(reading) = self.next_read_for(ix) {
                return Some(reading);
            }
            self.readers.remove(&ix);
        }
        None
    }

    fn next_read_for(&mut self, ix: PeerIx) -> Option<Reading> {
        let peer = self.roster.get(ix);
        if peer.reading.is_some() || peer.piece.is_some() {
            return None;
        }
        if let Some(reading) = self.next_fetch(ix) {
            self.roster.get_mut(ix).reading = Some(reading);
            return Some(reading);
        }
        let most = self.next_piece(ix)?;
        let peer = self.roster.get(ix);
        if peer.role == Role::Worker {
            let reading = self.next_chunk_for(ix, most)?;
            self.roster.get_mut(ix).reading = Some(reading);
            return Some(reading);
        }
        while let Some(task) = self.roster.get(ix).streaming.front().copied() {
            let peer = self.roster.get_mut(ix);
            let watch = peer.watches.get_mut(&task);
            if let Some(reading) = watch.as_ref().and_then(|watch| watch.next_piece(task, most)) {
                // To the back of the line, so that one long output does not hold up the others.
                peer.streaming.rotate_left(1);
                peer.reading = Some(reading);
                return Some(reading);
            }
            if let Some(watch) = watch {
                watch.in_line = false;
            }
            peer.streaming.pop_front();
            self.offer_outcome(ix, task);
        }
        None
    }

    /// All output there is has been sent: the outcome may follow
    fn offer_outcome(&mut self, ix: PeerIx, id: TaskId) {
        let told = self.tasks.all.get(&id).filter(|task| task.told);
        let Some(end) = told.and_then(|task| task.ended.as_ref()) else { return };
        let by = end.token;
        let watch = self.roster.get_mut(ix).watches.get_mut(&id).filter(|watch| watch.token == by);
        if watch.is_some_and(|watch| !core::mem::replace(&mut watch.outcome_queued, true)) {
            self.say(ix, Sent::Outcome(id));
            self.let_effects_happen();
        }
    }

    /// The embedder answers; an answer that nobody waits for any more is dropped
    pub(super) fn output_read(&mut self, token: Token, stream: Stream, offset: u64, bytes: &[u8]) {
        let asked = |reading: &Reading| matches!(*reading, Reading::Output { token: t, stream: s, offset: o, .. } if (t, s, o) == (token, stream, offset));
        let waiting = self.roster.iter().find(|(_, peer)| peer.reading.as_ref().is_some_and(asked));
        let Some(ix) = waiting.map(|(ix, _)| ix) else { return };
        let peer = self.roster.get_mut(ix);
        let Some(from) = peer.reading.take() else { return };
        let Reading::Output { task, max, .. } = from else { return };
        let len = bytes.len().min(max as usize);
        if len > 0 {
            peer.piece = Some(Piece { from, bytes: bytes[..len].into() });
        } else if let Some(watch) = peer.watches.get_mut(&task).filter(|watch| watch.token == Some(token)) {
            // Of an attempt before the last that failed nothing is kept.
            watch.turn_to(None);
            self.grow_watches(task);
        }
        self.readers.insert(ix);
        self.touch(ix);
    }

    fn for_watchers(&mut self, id: TaskId, mut f: impl FnMut(&mut Desk, PeerIx)) {
        let Some(task) = self.tasks.all.get(&id).filter(|task| !task.watchers.is_empty()) else { return };
        for ix in task.watchers.clone() {
            f(self, ix);
        }
    }

    /// Effects that arose while outputs were being asked for
    pub(super) fn let_effects_happen(&mut self) {
        while let Some(effect) = self.gate.next_effect() {
            self.apply(effect);
        }
    }

    /// Most bytes of a peer's next bulk piece, if one may be sent
    fn next_piece(&self, ix: PeerIx) -> Option<u64> {
        match self.roster.get(ix).conn.and_then(|conn| self.conns.get(&conn))? {
            Conn::Live(live) => live.channel.next_piece().filter(|_| live.channel.is_writable()),
            Conn::Contending(_) => None,
        }
    }
}

pub(super) fn refused(rejected: Rejected) -> Refused {
    match rejected {
        Rejected::Conflict => Refused::Conflict,
        Rejected::TooLarge => Refused::TooLarge,
        Rejected::BadSpec => Refused::BadSpec,
        Rejected::Unknown => Refused::Unknown,
        Rejected::Full | Rejected::NotExpected | Rejected::RetryAfter(_) | Rejected::Stopped => Refused::Full,
    }
}
