//! What peers say on a live connection, and what workers mean by it

use crate::about::Tags;
use crate::blob::{INPUT, names_of};
use crate::channel::Violation;
use crate::ids::{ConnId, Role, Token};
use crate::journal::Record;
use crate::limits::{BLOB_BYTES_MAX, INLINE_BYTES_MAX};
use crate::planted::{self, Bug};
use crate::session::Arrival;
use crate::stream::Piece;
use crate::wire::message::{BodyReader, Class, Control, Failure, FromWorker, Item, Stream};

use super::entry::Conn;
use super::gate::Effect;
use super::peers::{PeerIx, Sent};
use super::tasks::Body;
use super::{Desk, Event};

impl Desk {
    pub(super) fn take_batch(&mut self, conn: ConnId, body: &[u8]) {
        for item in BodyReader::new(body) {
            let taken = item.map_err(|_| Violation).and_then(|item| self.take(conn, &item));
            if taken.is_err() {
                return self.violated(conn);
            }
            if !self.conns.contains_key(&conn) {
                // The message ended the connection; nothing behind it counts.
                return;
            }
        }
        if let Some(Conn::Live(live)) = self.conns.get(&conn) {
            let ix = live.peer;
            self.touch(ix);
        }
    }

    fn take(&mut self, conn: ConnId, item: &Item<'_>) -> Result<(), Violation> {
        let Some(Conn::Live(live)) = self.conns.get_mut(&conn) else { return Err(Violation) };
        let (ix, stale) = (live.peer, live.awaiting_begin);
        match item.class {
            Class::Control => self.take_control(conn, ix, item),
            // Sent on trust in a session that did not go on: the peer counts it as never sent (AUTH-3).
            Class::Numbered(_) | Class::Loose if stale => Ok(()),
            Class::Loose => self.take_message(conn, ix, item, 0),
            Class::Numbered(number) => {
                if !live.channel.grants(number) {
                    return Err(Violation);
                }
                let session = self.roster.get_mut(ix).session.as_mut().ok_or(Violation)?;
                let id = session.numbers.id;
                match session.numbers.arrive(self.now, number, item.payload.len()) {
                    Arrival::New => {}
                    Arrival::Duplicate => {
                        self.stats.duplicates += 1;
                        return Ok(());
                    }
                    Arrival::Gap => return Err(Violation),
                }
                if !item.payload.is_empty() {
                    self.take_message(conn, ix, item, number)?;
                }
                if planted::is(Bug::AckOfReceived) {
                    self.apply(Effect::Ack(ix, id, number));
                    return Ok(());
                }
                // Behind whatever record the message caused (JOURN-3).
                self.gate.then(Effect::Ack(ix, id, number));
                Ok(())
            }
        }
    }

    fn take_control(&mut self, conn: ConnId, ix: PeerIx, item: &Item<'_>) -> Result<(), Violation> {
        let Some(control) = item.decode::<Control>() else {
            return if item.ignorable { Ok(()) } else { Err(Violation) };
        };
        let Some(Conn::Live(live)) = self.conns.get_mut(&conn) else { return Err(Violation) };
        let session = self.roster.get_mut(ix).session.as_mut().ok_or(Violation)?;
        match control {
            Control::Begin { session: id } => {
                // A peer that sent on trust begins again when the welcome tells it to; one that did not, once.
                if !live.awaiting_begin || id != session.numbers.id {
                    return Err(Violation);
                }
                live.awaiting_begin = false;
            }
            Control::Bye => self.left(conn, ix),
            Control::Confirm { .. }
            | Control::Welcome(_)
            | Control::Denied(_)
            | Control::Ack { .. }
            | Control::Credit(_)
            | Control::Beat { .. }
            | Control::Echo { .. }
            | Control::Lease { .. }
            | Control::Digest { .. }
            | Control::Compare
            | Control::GoAway { .. }
            | Control::Mtbf { .. }
            | Control::NextKey
                if live.awaiting_begin => {}
            Control::Confirm { generation } => {
                if generation != live.generation {
                    return Err(Violation);
                }
                self.confirmed(ix);
            }
            Control::Digest { received, sent, held } => {
                if self.roster.get(ix).role != Role::Worker {
                    return Err(Violation);
                }
                self.take_digest(conn, ix, (received, sent), held)?;
            }
            Control::Welcome(_)
            | Control::Denied(_)
            | Control::Ack { .. }
            | Control::Credit(_)
            | Control::Beat { .. }
            | Control::Echo { .. }
            | Control::Lease { .. }
            | Control::Compare
            | Control::GoAway { .. }
            | Control::Mtbf { .. }
            | Control::NextKey => {
                let beat = matches!(control, Control::Beat { .. });
                let credit = live.channel.control(self.now, &control, &mut session.numbers)?;
                if let Some(credit) = credit {
                    session.tasks_granted = session.tasks_granted.max(credit.tasks);
                    self.place(ix);
                }
                if beat {
                    // The echo renews it.
                    self.renew_lease(ix);
                }
            }
        }
        Ok(())
    }

    /// The welcome was acknowledged: this session counts, and what it replaces is gone (AUTH-8)
    fn confirmed(&mut self, ix: PeerIx) {
        let peer = self.roster.get_mut(ix);
        peer.previous = None;
        let role = peer.role;
        let Some(session) = &mut peer.session else { return };
        let first = session.confirmed.replace(session.numbers.generation).is_none();
        match role {
            Role::Worker => {
                self.reconcile(ix);
                if first && self.roster.get(ix).to_drain {
                    // Asked for while there was no session to say it in, or in one that ended.
                    self.say(ix, Sent::Drain);
                }
            }
            Role::Client => session.reconciled = true,
        }
    }

    fn take_message(&mut self, conn: ConnId, ix: PeerIx, item: &Item<'_>, number: u64) -> Result<(), Violation> {
        let numbered = item.class != Class::Loose;
        if self.roster.get(ix).role == Role::Client {
            return self.take_from_client(conn, ix, item, numbered);
        }
        let Some(message) = item.decode::<FromWorker<'_>>() else {
            return if item.ignorable { Ok(()) } else { Err(Violation) };
        };
        let version = match self.conns.get(&conn) {
            Some(Conn::Live(live)) => live.channel.version,
            Some(Conn::Contending(_)) | None => return Err(Violation),
        };
        if numbered == message.is_loose() || message.since() > version {
            return Err(Violation);
        }
        match message {
            FromWorker::Inventory { part, last, cut, items } => self.take_inventory(ix, part, last, cut, items)?,
            FromWorker::Running { token, progress } => self.running(ix, token, progress),
            FromWorker::Result { task, token, outcome, result, streams } => {
                if result.len() > INLINE_BYTES_MAX {
                    return Err(Violation);
                }
                self.take_result(ix, number, task, token, outcome, result.into(), streams);
            }
            FromWorker::LargeResult { task, token, outcome, length, names, streams } => {
                let names = names_of(length, names).filter(|_| length <= BLOB_BYTES_MAX).ok_or(Violation)?;
                let result = Body::Chunks { length, names: names.into() };
                self.take_result(ix, number, task, token, outcome, result, streams);
            }
            FromWorker::GivenBack { token } => self.given_back(ix, token),
            FromWorker::Output { token, stream, offset, bytes } => {
                self.take_output(conn, ix, token, stream, offset, bytes)?;
            }
            FromWorker::Offers { tags } => self.take_offers(ix, tags)?,
            FromWorker::Draining => {
                if let Some(session) = &mut self.roster.get_mut(ix).session {
                    session.draining = true;
                }
                // It leaves once it knows that it is given nothing more.
                if let Some(Conn::Live(live)) = self.conns.get_mut(&conn) {
                    live.channel.ack_soon();
                }
                self.place(ix);
            }
            FromWorker::Checkpoint { token, number, bytes } => self.take_checkpoint(ix, token, number, bytes),
            FromWorker::Offer { token, number, length, names } => self.take_offer(ix, token, number, length, names)?,
            FromWorker::Piece { token, number, offset, bytes } => {
                self.take_piece(conn, ix, token, number, offset, bytes)?;
            }
            FromWorker::RestoreNeed { token, number: INPUT, wanted } => self.take_input_need(ix, token, wanted)?,
            FromWorker::RestoreBad { token, number: INPUT } => self.input_is_bad(ix, token),
            FromWorker::RestoreNeed { token, number, wanted } => self.take_restore_need(ix, token, number, wanted)?,
            FromWorker::RestoreBad { token, number } => self.take_restore_bad(ix, token, number),
            FromWorker::Holdings { received, sent, items } => self.take_holdings(conn, ix, (received, sent), items)?,
        }
        Ok(())
    }

    /// What a worker offers, before it holds anything in this session (TASK-9)
    fn take_offers(&mut self, ix: PeerIx, tags: &[u8]) -> Result<(), Violation> {
        let session = self.roster.get_mut(ix).session.as_mut().ok_or(Violation)?;
        if session.reconciled || session.inventory.parts > 0 {
            return Err(Violation);
        }
        session.offers = Tags::decode(tags).map_err(|_| Violation)?;
        Ok(())
    }

    fn running(&mut self, ix: PeerIx, token: Token, progress: u64) {
        let Some(attempt) = self.tasks.attempts.get_mut(&token).filter(|attempt| attempt.peer == ix) else { return };
        let first = !core::mem::replace(&mut attempt.running, true);
        attempt.progress = progress;
        let task = attempt.task;
        self.schedule.not_recalled(token);
        if first {
            self.story.note(self.now, task, Some(token), "running");
            self.gate.then(Effect::Event(Event::Running { task, token }));
        }
        self.tell_progress(task);
    }

    fn given_back(&mut self, ix: PeerIx, token: Token) {
        if let Some(session) = &mut self.roster.get_mut(ix).session {
            session.drift.is_over(token);
        }
        match self.tasks.attempts.get(&token).filter(|attempt| attempt.peer == ix).map(|attempt| attempt.running) {
            Some(false) => self.take_unstarted_back(token),
            // An inventory called it running while it was being started, and that failed.
            Some(true) => self.lost_attempt(token, false),
            None => {}
        }
    }

    /// It never started, so that it was no attempt, and its number is used again
    pub(super) fn take_unstarted_back(&mut self, token: Token) {
        let Some(attempt) = self.drop_attempt(token) else { return };
        let Some(task) = self.tasks.all.get_mut(&attempt.task) else { return };
        if task.attempts == attempt.attempt {
            task.attempts = task.attempts.saturating_sub(1);
        }
        self.story.note(self.now, attempt.task, Some(token), "given back");
        if !attempt.detached {
            self.never_ran(attempt.task);
        }
    }

    fn take_output(
        &mut self,
        conn: ConnId,
        ix: PeerIx,
        token: Token,
        stream: Stream,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), Violation> {
        let len = bytes.len() as u64;
        self.bulk_arrived(conn, len)?;
        let Some(attempt) = self.tasks.attempts.get_mut(&token).filter(|attempt| attempt.peer == ix) else {
            // Of an attempt that is no more: of no use, but it makes room.
            self.bulk_dealt_with(conn, len);
            return Ok(());
        };
        let task = attempt.task;
        if offset.saturating_add(len) > self.config.output_bytes_max {
            self.bulk_dealt_with(conn, len);
            self.fail_attempt(token, Failure::OutputTooLarge);
            return Ok(());
        }
        match attempt.streams[stream.index()].arrive(offset, bytes) {
            Piece::New(new) => {
                let upto = attempt.streams[stream.index()].received();
                let offset = upto - new.len() as u64;
                self.gate.write(&Record::Output { task, token, stream, offset, bytes: new });
                self.gate.then(Effect::Keep(token, stream, upto));
                self.gate.then(Effect::Bulk(conn, len));
                self.try_early_result(token);
            }
            Piece::Known => self.bulk_dealt_with(conn, len),
            Piece::Gap => return Err(Violation),
        }
        Ok(())
    }

    /// Output is durable: the worker may be told, and clients may have it
    pub(super) fn output_kept(&mut self, token: Token, stream: Stream, offset: u64) {
        let Some(attempt) = self.tasks.attempts.get_mut(&token) else { return };
        attempt.streams[stream.index()].keep(offset);
        let (task, ix) = (attempt.task, attempt.peer);
        self.roster.get_mut(ix).to_tell.insert((token, stream));
        self.touch(ix);
        self.grow_watches(task);
    }

    /// On a new connection: what was told on the last one may have been lost
    pub(super) fn tell_kept_again(&mut self, ix: PeerIx) {
        let peer = self.roster.get_mut(ix);
        for token in &peer.held {
            let Some(attempt) = self.tasks.attempts.get(token) else { continue };
            for stream in Stream::ALL {
                if attempt.streams[stream.index()].kept() > 0 {
                    peer.to_tell.insert((*token, stream));
                }
            }
        }
    }
}
