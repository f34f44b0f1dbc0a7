//! What a worker has to say, in the order of its lanes (LANES-1), and how it is said again (SESS-3)

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use crate::blob::{INPUT, RESULT, Sending, chunks};
use crate::ids::{SessionId, Token};
use crate::limits::{
    BULK_PIECE_BYTES_MAX, CHUNKS_SINCE, INVENTORY_PART_ITEMS, WIRE_VERSION_OLDEST, WORKER_ATTEMPTS_MAX,
    WORKER_UNACKED_MAX,
};
use crate::link::{Account, Link};
use crate::outline::{Name, Outline};
use crate::session::{HeapLog, Numbers};
use crate::time::Instant;
use crate::wire::message::{BodyWriter, Class, Control, Failure, FromWorker, InventoryItem, Outcome, Stream};
use crate::worker::arena::Arena;
use crate::worker::attempt::{Attempt, AttemptState};
use crate::worker::attempts::Attempts;

/// What a number stands for (SESS-3)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Inventory(u16),
    Result(Token),
    /// One whose bytes follow in chunks
    LargeResult(Token),
    Running(Token),
    GivenBack(Token),
    Offers,
    Draining,
    Checkpoint(Token),
}

pub(crate) type SentLog = HeapLog<Sent, WORKER_UNACKED_MAX>;

/// At most [`WORKER_ATTEMPTS_MAX`] of them
type Lane = VecDeque<Token>;

const INVENTORY_ITEM_BYTES_MAX: usize = 48;
const HOLDINGS_ITEM_BYTES_MAX: usize = 26;
/// Bytes of the largest list of items there can be where so many attempts are held at most
fn items_bytes(attempts_max: u16) -> usize {
    let attempts = usize::from(attempts_max);
    (attempts.min(INVENTORY_PART_ITEMS) * INVENTORY_ITEM_BYTES_MAX).max(attempts * HOLDINGS_ITEM_BYTES_MAX)
}

/// What waits to be sent: ids only, each attempt at most once per lane
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    /// The session that the inventory below belongs to
    pub(crate) session: Option<SessionId>,
    /// Some stream or checkpoint may have bytes to read
    pub(crate) may_read: bool,
    /// The wire version of the newest connection
    pub(crate) version: u16,
    inventory_parts: u16,
    inventory_next: u16,
    /// What is offered, and whether it has to be said yet
    offers: Box<[u8]>,
    offers_due: bool,
    draining_due: bool,
    results: Lane,
    reports: Lane,
    given_back: Lane,
    checkpoints: Lane,
    /// The stream whose turn it is
    turn: usize,
    reading: Option<Reading>,
    piece: Option<Reading>,
    /// Some attempt may have an offer, or what is missing of one, to say
    pub(crate) may_transfer: bool,
    /// Never more than [`BULK_PIECE_BYTES_MAX`]
    piece_bytes: Vec<u8>,
    items: Box<[u8]>,
}

/// Where bytes are that messages carry
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stores<'a> {
    pub(crate) checkpoints: &'a Arena,
    pub(crate) results: &'a Arena,
}

/// What a piece is of
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Stream(Stream),
    /// The checkpoint of this number, or the result
    Checkpoint(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reading {
    token: Token,
    source: Source,
    offset: u64,
    len: usize,
}

impl Outbox {
    /// With room for what is said of so many attempts, allocated now or as it is needed
    pub(crate) fn new(offers: Box<[u8]>, attempts_max: u16, reserve: bool) -> Self {
        let lane = || Lane::with_capacity(if reserve { WORKER_ATTEMPTS_MAX } else { 0 });
        Outbox {
            session: None,
            may_read: false,
            version: WIRE_VERSION_OLDEST,
            inventory_parts: 0,
            inventory_next: 0,
            offers,
            offers_due: false,
            draining_due: false,
            results: lane(),
            reports: lane(),
            given_back: lane(),
            checkpoints: lane(),
            turn: 0,
            reading: None,
            piece: None,
            may_transfer: false,
            piece_bytes: Vec::with_capacity(if reserve { BULK_PIECE_BYTES_MAX } else { 0 }),
            items: vec![0; items_bytes(attempts_max)].into(),
        }
    }

    /// A new session: nothing was said in it yet, and the inventory comes first
    pub(crate) fn start_over(&mut self, session: SessionId, items: u16, draining: bool) {
        self.session = Some(session);
        self.inventory_parts = items.div_ceil(INVENTORY_PART_ITEMS as u16).max(1);
        self.inventory_next = 0;
        self.results.clear();
        self.reports.clear();
        self.given_back.clear();
        self.checkpoints.clear();
        self.offers_due = !self.offers.is_empty();
        self.draining_due = draining;
    }

    /// A new connection: output goes on behind what the coordinator keeps
    pub(crate) fn connected(&mut self, attempts: &mut Attempts) {
        for attempt in attempts.values_mut() {
            attempt.streams.iter_mut().for_each(|stream| stream.rewind());
            attempt.checkpoint.sending.rewind();
            attempt.returning.rewind();
            if let Some(restoring) = &mut attempt.checkpoint.restoring {
                // It is offered again on each connection.
                restoring.receiving.rewind();
                restoring.need_due = false;
            }
            if let Some(feeding) = &mut attempt.input {
                feeding.ask();
            }
            attempt.checkpoint.offer_due = attempt.checkpoint.upload().is_some();
        }
        self.piece = None;
        self.may_transfer = true;
        self.may_read = true;
    }

    /// The coordinator wants to go on with an attempt of the inventory
    pub(crate) fn resume(&mut self, token: Token, attempt: &mut Attempt) {
        self.may_read = true;
        self.may_transfer |= attempt.input.is_some();
        self.offer_checkpoint(token, attempt);
        self.offer_result(token, attempt);
    }

    /// Says in this session, and in each that follows, that nothing is taken any more (TASK-8)
    pub(crate) fn say_draining(&mut self) {
        self.draining_due = self.session.is_some();
    }

    /// Whether nothing waits to be said
    pub(crate) fn is_empty(&self) -> bool {
        let lanes = [&self.results, &self.reports, &self.given_back, &self.checkpoints];
        !self.draining_due && self.inventory_next >= self.inventory_parts && lanes.iter().all(|lane| lane.is_empty())
    }

    /// Takes in what waits to be said
    pub(crate) fn outline(&self, o: &mut Outline) {
        o.name_if(self.session.map(Name::Session));
        o.put((self.inventory_next, self.inventory_parts, self.offers_due, self.draining_due));
        for lane in [&self.results, &self.reports, &self.given_back, &self.checkpoints] {
            o.put(lane.iter().count());
            lane.iter().for_each(|token| o.name(Name::Token(*token)));
        }
    }

    /// Queues the newest checkpoint, unless one is on its way already (CKPT-3)
    pub(crate) fn offer_checkpoint(&mut self, token: Token, attempt: &mut Attempt) {
        if !attempt.checkpoint_ready() || attempt.checkpoint.queued {
            return;
        }
        let Some(current) = attempt.checkpoint.current else { return };
        match current.chunked {
            Some(length) => {
                attempt.checkpoint.in_flight = Some(current.number);
                attempt.checkpoint.sending = Sending::new(length);
                attempt.checkpoint.offer_due = true;
                self.may_transfer = true;
            }
            None => attempt.checkpoint.queued = push(&mut self.checkpoints, token),
        }
    }

    /// Queues a result, as soon as all output went before it
    pub(crate) fn offer_result(&mut self, token: Token, attempt: &mut Attempt) {
        if attempt.result_ready() && !attempt.result_queued {
            attempt.result_queued = push(&mut self.results, token);
        }
    }

    /// A result that was numbered, and is not settled
    pub(crate) fn a_sent_result(&self, attempts: &Attempts) -> Option<Token> {
        let sent = |(token, attempt): &(&Token, &Attempt)| {
            attempt.state == AttemptState::Finished
                && attempt.result_queued
                && !self.results.iter().any(|waiting| waiting == *token)
        };
        attempts.iter().find(sent).map(|(token, _)| *token)
    }

    /// Queues a report that an attempt runs
    pub(crate) fn report(&mut self, token: Token, attempt: &mut Attempt) {
        if !attempt.unjudged && !attempt.report_queued {
            attempt.report_queued = push(&mut self.reports, token);
        }
    }

    /// Queues the news that an attempt will not be started
    pub(crate) fn give_back(&mut self, token: Token) {
        push(&mut self.given_back, token);
    }

    /// How much was given back and not said yet
    pub(crate) fn to_give_back(&self) -> usize {
        self.given_back.len()
    }

    /// Asks for the next piece of output or of a checkpoint, of at most so many bytes, going round all of them
    pub(crate) fn next_read(&mut self, attempts: &Attempts, most: u64) -> Option<(Token, Source, u64, u32)> {
        if !self.may_read || self.reading.is_some() || self.piece.is_some() {
            return None;
        }
        let sources = attempts.len() * SOURCES;
        for step in 0..sources {
            let turn = (self.turn + step) % sources;
            let Some((token, attempt)) = attempts.get_index(turn / SOURCES) else { continue };
            if let Some((source, offset, unsent)) = next_piece(attempt, turn % SOURCES) {
                let len = unsent.min(most) as usize;
                self.turn = turn + 1;
                self.reading = Some(Reading { token: *token, source, offset, len });
                return Some((*token, source, offset, len as u32));
            }
        }
        self.may_read = false;
        None
    }

    /// Takes the answer; one that was not asked for is dropped
    pub(crate) fn take_read(&mut self, token: Token, source: Source, offset: u64, bytes: &[u8]) {
        let Some(reading) = self.reading.take() else { return };
        let len = bytes.len().min(reading.len);
        if (reading.token, reading.source, reading.offset) == (token, source, offset) && len > 0 {
            self.piece_bytes.clear();
            self.piece_bytes.extend_from_slice(&bytes[..len]);
            self.piece = Some(Reading { len, ..reading });
        }
    }

    /// Whether a frame is worth sending
    pub(crate) fn has_news(&mut self, link: &mut Link<SentLog>, attempts: &Attempts) -> bool {
        self.drop_stale_piece(attempts);
        if self.piece.is_some() || self.may_transfer {
            return true;
        }
        let new = !self.is_empty();
        link.session().is_some_and(|session| !session.replayed() || (new && session.may_number()))
    }

    /// Writes as much as fits: what has to be said again, then lane by lane, then one piece of output
    pub(crate) fn write(
        &mut self,
        now: Instant,
        link: &mut Link<SentLog>,
        attempts: &mut Attempts,
        stores: Stores<'_>,
        body: &mut BodyWriter<'_>,
    ) {
        let mut full = !self.replay(link, attempts, stores, body);
        while !full {
            let Some(session) = link.session().filter(|session| session.may_number()) else { break };
            let Some(sent) = self.next(attempts) else { break };
            let (number, before) = (session.next_number(), body.len());
            if self.write_one(number, sent, session.received(), attempts, stores, body) {
                session.number(sent, body.len() - before);
                self.advance(sent, attempts);
            } else {
                full = true;
            }
        }
        if !full && self.write_account(link, attempts, body) && self.write_transfers(link, attempts, stores, body) {
            self.write_piece(now, link, attempts, body);
        }
    }

    /// Writes what is held, as a number or one by one; `false` when the frame is full (SESS-8)
    ///
    /// What was given back and has no number yet is not held any more, and the coordinator cannot know: then it waits.
    fn write_account(&mut self, link: &mut Link<SentLog>, attempts: &Attempts, body: &mut BodyWriter<'_>) -> bool {
        let Some(account) = link.account_due().filter(|_| self.given_back.is_empty()) else { return true };
        let Some(Numbers { received, sent, .. }) = link.session().map(|session| session.numbers()) else { return true };
        let held = attempts.iter().filter(|(_, attempt)| attempt.counts());
        let fits = match account {
            Account::Digest => {
                let held = held.fold(0, |all, (_, attempt)| all ^ attempt.mark);
                body.push(Class::Control, &Control::Digest { received, sent, held })
            }
            Account::Holdings => {
                let mut len = 0;
                for (token, attempt) in held {
                    len += postcard::to_slice(&(attempt.task, *token), &mut self.items[len..])
                        .map_or(0, |item| item.len());
                }
                body.push(Class::Loose, &FromWorker::Holdings { received, sent, items: &self.items[..len] })
            }
        };
        if fits {
            link.accounted();
        }
        fits
    }

    /// Writes offers and what is missing of others; `false` when the frame is full (CKPT-1, CKPT-4)
    fn write_transfers(
        &mut self,
        link: &Link<SentLog>,
        attempts: &mut Attempts,
        stores: Stores<'_>,
        body: &mut BodyWriter<'_>,
    ) -> bool {
        if !self.may_transfer {
            return true;
        }
        for (token, attempt) in attempts.iter_mut().filter(|_| link.version() >= CHUNKS_SINCE) {
            let (token, kept) = (*token, &mut attempt.checkpoint);
            let feeds = attempt.state == AttemptState::Waiting && !attempt.unjudged;
            if let Some(feeding) = attempt.input.as_mut().filter(|feeding| feeds && feeding.need_due) {
                let wanted = feeding.receiving.missing().bytes(chunks(feeding.length));
                let need = FromWorker::RestoreNeed { token, number: INPUT, wanted: &wanted };
                let said = if feeding.bad { FromWorker::RestoreBad { token, number: INPUT } } else { need };
                if !body.push(Class::Loose, &said) {
                    return false;
                }
                feeding.need_due = false;
            }
            if let Some(restoring) = kept.restoring.as_mut().filter(|restoring| restoring.need_due) {
                let number = restoring.number;
                let wanted = restoring.receiving.missing().bytes(chunks(restoring.length));
                let need = FromWorker::RestoreNeed { token, number, wanted: &wanted };
                let said = if restoring.bad { FromWorker::RestoreBad { token, number } } else { need };
                if !body.push(Class::Loose, &said) {
                    return false;
                }
                restoring.need_due = false;
            }
            if kept.offer_due
                && !attempt.unjudged
                && let (Some((number, length)), Some(slot)) = (kept.upload(), &kept.slot)
            {
                let names = stores.checkpoints.bytes(slot);
                if !body.push(Class::Loose, &FromWorker::Offer { token, number, length, names }) {
                    return false;
                }
                kept.offer_due = false;
            }
        }
        self.may_transfer = false;
        true
    }

    /// `false` when the frame is full
    fn replay(
        &mut self,
        link: &mut Link<SentLog>,
        attempts: &Attempts,
        stores: Stores<'_>,
        body: &mut BodyWriter<'_>,
    ) -> bool {
        let Some(session) = link.session() else { return true };
        while let Some((number, sent)) = session.to_replay() {
            if !self.write_one(number, sent, session.received(), attempts, stores, body) {
                return false;
            }
            session.replayed_one();
        }
        true
    }

    /// The first message in the order of lanes that has no number yet
    fn next(&mut self, attempts: &mut Attempts) -> Option<Sent> {
        if self.offers_due {
            return Some(Sent::Offers);
        }
        if self.draining_due {
            return Some(Sent::Draining);
        }
        if self.inventory_next < self.inventory_parts {
            return Some(Sent::Inventory(self.inventory_next));
        }
        while let Some(token) = self.results.front().copied() {
            match attempts.get_mut(&token) {
                Some(attempt) if attempt.result_ready() => {
                    let in_chunks = attempt.large.is_some() && self.version >= CHUNKS_SINCE;
                    return Some(if in_chunks { Sent::LargeResult(token) } else { Sent::Result(token) });
                }
                // Settled meanwhile, or its output has to go again first.
                Some(attempt) => attempt.result_queued = false,
                None => {}
            }
            self.results.pop_front();
        }
        if let Some(token) = self.given_back.front() {
            return Some(Sent::GivenBack(*token));
        }
        while let Some(token) = self.reports.front().copied() {
            match attempts.get_mut(&token) {
                Some(attempt) if attempt.state.occupies_slot() => return Some(Sent::Running(token)),
                Some(attempt) => attempt.report_queued = false,
                None => {}
            }
            self.reports.pop_front();
        }
        while let Some(token) = self.checkpoints.front().copied() {
            match attempts.get_mut(&token) {
                Some(attempt) if attempt.checkpoint_ready() => return Some(Sent::Checkpoint(token)),
                Some(attempt) => attempt.checkpoint.queued = false,
                None => {}
            }
            self.checkpoints.pop_front();
        }
        None
    }

    /// Takes a message that was written out of its lane
    fn advance(&mut self, sent: Sent, attempts: &mut Attempts) {
        match sent {
            Sent::Inventory(_) => self.inventory_next += 1,
            Sent::Result(token) | Sent::LargeResult(token) => {
                self.results.pop_front();
                if let Some(attempt) = attempts.get_mut(&token) {
                    attempt.result_numbered = true;
                    // Of which nothing is sent before it is asked for.
                    attempt.returning = Sending::new(attempt.large.unwrap_or(0));
                }
            }
            Sent::GivenBack(_) => {
                self.given_back.pop_front();
            }
            Sent::Running(token) => {
                self.reports.pop_front();
                if let Some(attempt) = attempts.get_mut(&token) {
                    attempt.report_queued = false;
                }
            }
            Sent::Offers => self.offers_due = false,
            Sent::Draining => self.draining_due = false,
            Sent::Checkpoint(token) => {
                self.checkpoints.pop_front();
                if let Some(attempt) = attempts.get_mut(&token) {
                    attempt.checkpoint.queued = false;
                    attempt.checkpoint.in_flight = attempt.checkpoint.current.map(|current| current.number);
                    // Its result may have waited for this to go in front.
                    self.offer_result(token, attempt);
                }
            }
        }
    }

    /// Writes what a number stands for, or VOID when its cause is gone; `false` when the frame is full
    fn write_one(
        &mut self,
        number: u64,
        sent: Sent,
        cut: u64,
        attempts: &Attempts,
        stores: Stores<'_>,
        body: &mut BodyWriter<'_>,
    ) -> bool {
        let class = Class::Numbered(number);
        match sent {
            Sent::Inventory(part) => {
                let len = self.inventory_items(part, attempts);
                let last = part + 1 == self.inventory_parts;
                body.push(class, &FromWorker::Inventory { part, last, cut, items: &self.items[..len] })
            }
            Sent::Result(token) => match attempts.get(&token).filter(|a| a.state == AttemptState::Finished) {
                Some(attempt) => {
                    let (task, streams) = (attempt.task, [0, 1].map(|i| attempt.streams[i].end()));
                    let kept = stores.results.bytes(&attempt.result);
                    let (outcome, result) = match attempt.large {
                        None => (attempt.outcome.spoken_in(self.version), kept),
                        // A coordinator that knows nothing of chunks cannot have it (FRAME-6).
                        Some(_) => (Outcome::Failed(Failure::ResultTooLarge), &[][..]),
                    };
                    body.push(class, &FromWorker::Result { task, token, outcome, result, streams })
                }
                None => body.push_void(number),
            },
            Sent::LargeResult(token) => {
                let over = attempts.get(&token).filter(|a| a.state == AttemptState::Finished);
                match over.and_then(|attempt| Some((attempt, attempt.large?))) {
                    Some((attempt, length)) => {
                        let (task, streams) = (attempt.task, [0, 1].map(|i| attempt.streams[i].end()));
                        let (outcome, names) = (attempt.outcome, stores.results.bytes(&attempt.result));
                        body.push(class, &FromWorker::LargeResult { task, token, outcome, length, names, streams })
                    }
                    None => body.push_void(number),
                }
            }
            Sent::Running(token) => match attempts.get(&token).filter(|a| a.state.occupies_slot()) {
                Some(attempt) => body.push(class, &FromWorker::Running { token, progress: attempt.progress }),
                None => body.push_void(number),
            },
            Sent::GivenBack(token) => body.push(class, &FromWorker::GivenBack { token }),
            Sent::Offers => body.push(class, &FromWorker::Offers { tags: &self.offers }),
            Sent::Draining => body.push(class, &FromWorker::Draining),
            Sent::Checkpoint(token) => {
                let kept = attempts.get(&token).map(|attempt| &attempt.checkpoint);
                let current = kept.and_then(|kept| {
                    let unanswered = kept.current.filter(|c| c.number > kept.answered && c.chunked.is_none())?;
                    Some((unanswered.number, kept.slot.as_ref()?))
                });
                match current {
                    Some((number, slot)) => {
                        let bytes = stores.checkpoints.bytes(slot);
                        body.push(class, &FromWorker::Checkpoint { token, number, bytes })
                    }
                    None => body.push_void(number),
                }
            }
        }
    }

    /// Writes one part's items; parts are cut by position, so that a part sent again has the same items
    fn inventory_items(&mut self, part: u16, attempts: &Attempts) -> usize {
        let start = usize::from(part) * INVENTORY_PART_ITEMS;
        let unjudged = attempts.iter().filter(|(_, attempt)| attempt.unjudged);
        let mut len = 0;
        for (token, attempt) in unjudged.skip(start).take(INVENTORY_PART_ITEMS) {
            let (task, held) = (attempt.task, attempt.held());
            let item = InventoryItem { task, token: *token, attempt: attempt.attempt, held };
            let written = postcard::to_slice(&item, &mut self.items[len..]).map_or(0, |bytes| bytes.len());
            debug_assert!((1..=INVENTORY_ITEM_BYTES_MAX).contains(&written), "an item has a largest size");
            len += written;
        }
        len
    }

    fn write_piece(
        &mut self,
        now: Instant,
        link: &mut Link<SentLog>,
        attempts: &mut Attempts,
        body: &mut BodyWriter<'_>,
    ) {
        let Some(Reading { token, source, offset, len }) = self.piece else { return };
        if link.measure(now, body) {
            return;
        }
        let Some(attempt) = attempts.get_mut(&token) else { return };
        let bytes = &self.piece_bytes[..len];
        let said = match source {
            Source::Stream(stream) => FromWorker::Output { token, stream, offset, bytes },
            Source::Checkpoint(number) => FromWorker::Piece { token, number, offset, bytes },
        };
        if !body.push(Class::Loose, &said) {
            return;
        }
        match source {
            Source::Stream(stream) => attempt.streams[stream.index()].sent(offset, bytes),
            Source::Checkpoint(number) => attempt.sending(number).sent(len as u64),
        }
        link.bulk_sent(now, body, len as u64);
        self.piece = None;
        self.offer_result(token, attempt);
    }

    fn drop_stale_piece(&mut self, attempts: &Attempts) {
        let stale = self.piece.is_some_and(|piece| {
            attempts.get(&piece.token).is_none_or(|attempt| {
                let next = next_piece(attempt, piece.source.index());
                next.is_none_or(|(source, offset, _)| (source, offset) != (piece.source, piece.offset))
            })
        });
        if stale {
            self.piece = None;
            self.may_read = true;
        }
    }
}

/// What an attempt may have pieces of: two streams, and a checkpoint or its result
const SOURCES: usize = 3;

impl Source {
    /// Position among those of one attempt
    fn index(self) -> usize {
        match self {
            Source::Stream(stream) => stream.index(),
            Source::Checkpoint(_) => SOURCES - 1,
        }
    }
}

/// Where to go on with one of an attempt's sources, and how much there is
fn next_piece(attempt: &Attempt, source: usize) -> Option<(Source, u64, u64)> {
    if attempt.unjudged || matches!(attempt.state, AttemptState::Gone | AttemptState::Abandoned) {
        return None;
    }
    match Stream::ALL.get(source) {
        Some(stream) => {
            let (offset, unsent) = attempt.streams[stream.index()].unsent()?;
            Some((Source::Stream(*stream), offset, unsent))
        }
        None => {
            let number = attempt.under_way()?;
            let sending = if number == RESULT { &attempt.returning } else { &attempt.checkpoint.sending };
            let (offset, unsent) = sending.next(u64::MAX)?;
            Some((Source::Checkpoint(number), offset, unsent))
        }
    }
}

/// Each attempt is in a lane at most once, so that a lane never overflows
fn push(lane: &mut Lane, token: Token) -> bool {
    let fits = lane.len() < WORKER_ATTEMPTS_MAX;
    debug_assert!(fits, "a lane has room for every attempt");
    if fits {
        lane.push_back(token);
    }
    fits
}
