//! What outlives a connection: numbers, acknowledgements and the log of what was sent (SESS-1 to SESS-6)

use alloc::collections::VecDeque;

use crate::ids::SessionId;
use crate::limits::{
    ACK_AFTER, ACK_AFTER_BYTES, ACK_AFTER_MESSAGES, MESSAGE_BYTES_MAX, SESSION_UNACKED_BYTES, SESSION_UNACKED_MAX,
};
use crate::outline::{Counter, Giver, Name, Outline};
use crate::planted::{self, Bug};
use crate::time::Instant;
use crate::wire::keys::Secret;

/// The log of numbered messages not yet acknowledged: what each number stands for, never its bytes (SESS-3)
pub(crate) trait Log {
    /// What a number stands for
    type Entry: Copy;

    /// Appends, with the length of the message; only called while there is room
    fn push(&mut self, entry: Self::Entry, bytes: u32);
    /// Removes the oldest and returns the length of its message
    fn pop(&mut self) -> u32;
    /// Returns the one at a distance from the oldest
    fn get(&self, index: usize) -> Option<Self::Entry>;
    /// Replaces the one at a distance from the oldest
    fn set(&mut self, index: usize, entry: Self::Entry);
    /// Returns how many more fit
    fn room(&self) -> usize;
    /// Removes all
    fn clear(&mut self);
}

/// A log on the heap that grows with use up to a bound
#[derive(Clone, Debug)]
pub(crate) struct HeapLog<E, const MAX: usize>(VecDeque<(E, u32)>);

impl<E, const MAX: usize> Default for HeapLog<E, MAX> {
    fn default() -> Self {
        HeapLog(VecDeque::new())
    }
}

impl<E, const MAX: usize> HeapLog<E, MAX> {
    /// Allocates all its room; a copy has room for what it holds
    pub(crate) fn reserved() -> Self {
        HeapLog(VecDeque::with_capacity(MAX))
    }
}

impl<E: Copy, const MAX: usize> Log for HeapLog<E, MAX> {
    type Entry = E;

    fn push(&mut self, entry: E, bytes: u32) {
        debug_assert!(self.0.len() < MAX, "room was checked");
        self.0.push_back((entry, bytes));
    }

    fn pop(&mut self) -> u32 {
        self.0.pop_front().map_or(0, |(_, bytes)| bytes)
    }

    fn get(&self, index: usize) -> Option<E> {
        self.0.get(index).map(|(entry, _)| *entry)
    }

    fn set(&mut self, index: usize, entry: E) {
        if let Some(old) = self.0.get_mut(index) {
            old.0 = entry;
        }
    }

    fn room(&self) -> usize {
        MAX - self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// One end of a session
#[derive(Clone, Debug)]
pub(crate) struct Session<L> {
    pub(crate) id: SessionId,
    pub(crate) resume_key: Secret,
    /// The newest generation this end has welcomed, or was welcomed to
    pub(crate) generation: u64,
    sent: u64,
    acknowledged: u64,
    unacked_bytes: u64,
    next: u64,
    granted: u64,
    received: u64,
    /// Numbers the peer may use: never lowered (LANES-2)
    offered: u64,
    /// Messages that wait here to be numbered
    backlog: u64,
    /// How much bulk the next connection begins with, as the one before has found it out (FRAME-4)
    bulk_begins: u64,
    owed: Owed,
    log: L,
}

/// What this end has taken in and not yet acknowledged
#[derive(Clone, Copy, Debug, Default)]
struct Owed {
    told: u64,
    bytes: u64,
    since: Option<Instant>,
}

/// What a number that arrived means
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// The next one: take it in
    New,
    /// Seen before: drop it
    Duplicate,
    /// Something in between is missing, which no network can do
    Gap,
}

/// What a peer says of the session's numbers
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbers {
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) acknowledged: u64,
}

/// The peer claims what cannot be
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Implausible;

impl<L: Log> Session<L> {
    /// Opens a session in which `granted` numbers may be used for now
    pub(crate) fn open(id: SessionId, resume_key: Secret, granted: u64, mut log: L) -> Self {
        log.clear();
        Session {
            id,
            resume_key,
            generation: 0,
            sent: 0,
            acknowledged: 0,
            unacked_bytes: 0,
            next: 1,
            granted,
            received: 0,
            offered: SESSION_UNACKED_MAX as u64,
            backlog: 0,
            owed: Owed::default(),
            bulk_begins: 0,
            log,
        }
    }

    /// Gives back the log, to be used again by the next session
    pub(crate) fn into_log(self) -> L {
        self.log
    }

    /// Whether another message may be numbered: within the peer's credit and the window, which has room for one more
    /// of any size (SESS-1)
    pub(crate) fn may_number(&self) -> bool {
        if planted::is(Bug::LogUnbounded) {
            return self.sent < self.granted && self.replayed();
        }
        self.sent < self.granted && self.log.room() > 0 && self.unacked_bytes < SESSION_UNACKED_BYTES && self.replayed()
    }

    /// Gives the next number to a message that enters a frame for the first time (SESS-1)
    pub(crate) fn number(&mut self, entry: L::Entry, bytes: usize) -> u64 {
        debug_assert!(self.may_number());
        self.log.push(entry, bytes as u32);
        self.unacked_bytes += bytes as u64;
        self.sent += 1;
        self.next = self.sent + 1;
        self.sent
    }

    /// How much bulk a connection that starts now begins with: half as much with each that finds nothing out (FRAME-4)
    pub(crate) fn begin_bulk(&mut self) -> u64 {
        let begins = self.bulk_begins;
        self.bulk_begins /= 2;
        begins
    }

    /// A connection has found out how much bulk its link carries
    pub(crate) fn bulk_found(&mut self, bytes: u64) {
        self.bulk_begins = bytes;
    }

    /// Whether the peer has taken in everything that was numbered
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.acknowledged == self.sent
    }

    /// Returns the number a new message would get
    pub(crate) fn next_number(&self) -> u64 {
        self.sent + 1
    }

    /// Whether everything numbered so far has been put on this connection
    pub(crate) fn replayed(&self) -> bool {
        self.next > self.sent
    }

    /// Returns the next number to send again on this connection, and what it stands for (SESS-3)
    pub(crate) fn to_replay(&self) -> Option<(u64, L::Entry)> {
        if self.replayed() {
            return None;
        }
        let index = (self.next - self.acknowledged - 1) as usize;
        self.log.get(index).map(|entry| (self.next, entry))
    }

    /// From now on the number that [`Self::to_replay`] returned stands for something else
    pub(crate) fn restate(&mut self, entry: L::Entry) {
        let index = (self.next - self.acknowledged - 1) as usize;
        self.log.set(index, entry);
    }

    /// Moves the replay on, after the message was written
    pub(crate) fn replayed_one(&mut self) {
        debug_assert!(!self.replayed());
        self.next += 1;
    }

    /// Starts the replay on a new connection: everything above what the peer has received (SESS-3)
    pub(crate) fn rewind(&mut self, peer_received: u64) -> Result<(), Implausible> {
        let late = planted::is(Bug::ResumesTooLate) && peer_received < self.sent;
        let peer_received = peer_received + u64::from(late);
        if peer_received < self.acknowledged || peer_received > self.sent {
            return Err(Implausible);
        }
        let early = planted::is(Bug::ResumesTooEarly) && peer_received > self.acknowledged;
        self.next = peer_received + u64::from(!early);
        self.owed.told = self.owed.told.min(self.received);
        Ok(())
    }

    /// Takes an acknowledgement in; older ones are harmless (SESS-2)
    pub(crate) fn acknowledge(&mut self, received: u64) -> Result<(), Implausible> {
        if received > self.sent {
            return Err(Implausible);
        }
        while self.acknowledged < received {
            self.unacked_bytes -= u64::from(self.log.pop());
            self.acknowledged += 1;
        }
        self.next = self.next.max(self.acknowledged + 1);
        Ok(())
    }

    /// Raises what the peer grants (LANES-2)
    pub(crate) fn grant(&mut self, messages: u64) {
        self.granted = self.granted.max(messages);
    }

    /// Judges the number of a message that arrived, and counts it in if it is the next one (SESS-1)
    pub(crate) fn arrive(&mut self, now: Instant, number: u64, bytes: usize) -> Arrival {
        let behind = planted::is(Bug::ComparedShort) && (number as u8) <= (self.received as u8);
        if number <= self.received || behind {
            return Arrival::Duplicate;
        }
        if number != self.received + 1 {
            return Arrival::Gap;
        }
        self.received = number;
        self.offer();
        self.owed.bytes += bytes as u64;
        self.owed.since.get_or_insert(now);
        Arrival::New
    }

    /// Whatever was not acknowledged is to be sent again, and taken in again
    pub(crate) fn forget_arrivals(&mut self) {
        self.received = self.owed.told;
    }

    /// Notes how many messages wait to be numbered
    ///
    /// Whoever asks for more than it takes is granted no more until it takes some: so what waits has a bound.
    pub(crate) fn waiting(&mut self, backlog: usize) {
        self.backlog = backlog as u64;
        self.offer();
    }

    fn offer(&mut self) {
        let room = (SESSION_UNACKED_MAX as u64).saturating_sub(self.backlog);
        self.offered = self.offered.max(self.received + room);
    }

    /// Total of numbers that the peer may use (LANES-2)
    pub(crate) fn offered(&self) -> u64 {
        self.offered
    }

    /// Highest number taken in
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Whether an acknowledgement up to `tellable` is worth putting into a frame that leaves anyway
    pub(crate) fn ack_useful(&self, tellable: u64) -> bool {
        tellable > self.owed.told
    }

    /// Whether an acknowledgement up to `tellable` must leave now (SESS-2)
    pub(crate) fn ack_due(&self, now: Instant, tellable: u64) -> bool {
        self.ack_useful(tellable)
            && (tellable - self.owed.told >= ACK_AFTER_MESSAGES
                || self.owed.bytes >= ACK_AFTER_BYTES
                || self.owed.since.is_some_and(|since| since + ACK_AFTER <= now))
    }

    /// When an acknowledgement up to `tellable` must leave at the latest (SESS-2)
    pub(crate) fn ack_at(&self, tellable: u64) -> Option<Instant> {
        self.owed.since.filter(|_| self.ack_useful(tellable)).map(|since| since + ACK_AFTER)
    }

    /// Notes that an acknowledgement left
    pub(crate) fn ack_told(&mut self, now: Instant, tellable: u64) {
        let all = tellable == self.received;
        self.owed = Owed { told: tellable, bytes: 0, since: if all { None } else { Some(now) } };
    }

    /// What this end says of the session's numbers
    pub(crate) fn numbers(&self) -> Numbers {
        Numbers { received: self.received, sent: self.sent, acknowledged: self.acknowledged }
    }

    /// Whether the peer's numbers can belong to the same history (SESS-5)
    pub(crate) fn agrees(&self, peer: Numbers) -> bool {
        peer.received <= self.sent
            && self.acknowledged <= peer.received
            && self.received <= peer.sent
            && peer.acknowledged <= self.received
    }

    /// Takes in what decides how the session goes on, with what each number of the log stands for
    pub(crate) fn outline(&self, o: &mut Outline, end: Giver, entry: impl Fn(&mut Outline, L::Entry)) {
        let (mine, theirs) = (Counter::Numbers(self.id, end), Counter::Numbers(self.id, end.other()));
        o.name(Name::Session(self.id));
        o.count(Counter::Generation(self.id), self.generation);
        [self.acknowledged, self.sent, self.next].into_iter().for_each(|n| o.count(mine, n));
        [self.received, self.owed.told].into_iter().for_each(|n| o.count(theirs, n));
        o.at(self.owed.since);
        let held = (self.sent - self.acknowledged) as usize;
        (0..held).filter_map(|index| self.log.get(index)).for_each(|said| entry(o, said));
    }

    /// Panics if the numbers contradict each other
    pub(crate) fn check(&self) {
        assert!(self.acknowledged <= self.sent, "acknowledged more than was sent (S12)");
        assert!(self.next > self.acknowledged && self.next <= self.sent + 1, "replay outside of the log (S11)");
        assert!(self.owed.told <= self.received, "acknowledged more than was received (S12)");
        let most = SESSION_UNACKED_BYTES + MESSAGE_BYTES_MAX as u64;
        assert!(self.unacked_bytes <= most, "more is sent and not acknowledged than a window takes (S17)");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Small = HeapLog<u8, 4>;

    fn session() -> Session<Small> {
        Session::open(SessionId([1; 16]), Secret::new([2; 32]), 1000, Small::default())
    }

    #[test]
    fn sess_1_numbers_rise_by_one_and_stop_at_log_and_credit() {
        let mut s = session();
        for n in 1..=4 {
            assert!(s.may_number());
            assert_eq!(s.number(n as u8, 10), n);
        }
        assert!(!s.may_number(), "the log is full");
        assert_eq!(s.acknowledge(2), Ok(()));
        assert!(s.may_number());
        s.acknowledge(4).unwrap();
        s.number(5, SESSION_UNACKED_BYTES as usize);
        assert!(!s.may_number(), "the window of bytes is used up");
        s.acknowledge(5).unwrap();
        assert!(s.may_number());
        let mut poor = Session::open(SessionId([1; 16]), Secret::new([2; 32]), 1, Small::default());
        assert_eq!(poor.number(9, 10), 1);
        assert!(!poor.may_number(), "no credit");
        poor.grant(0);
        assert!(!poor.may_number(), "credit is never lowered, nor raised by an old total");
        poor.grant(2);
        assert!(poor.may_number());
    }

    #[test]
    fn sess_1_arrivals_are_new_duplicate_or_gap() {
        let mut s = session();
        let now = Instant::ZERO;
        assert_eq!(s.arrive(now, 2, 0), Arrival::Gap);
        assert_eq!(s.arrive(now, 1, 0), Arrival::New);
        assert_eq!(s.arrive(now, 1, 0), Arrival::Duplicate);
        assert_eq!(s.arrive(now, 0, 0), Arrival::Duplicate);
        assert_eq!(s.arrive(now, 2, 0), Arrival::New);
    }

    #[test]
    fn sess_2_acks_leave_after_64_messages_or_a_second() {
        let mut s = session();
        let start = Instant::from_micros(5);
        for n in 1..=63 {
            s.arrive(start, n, 1);
        }
        assert!(!s.ack_due(start, 63));
        assert_eq!(s.ack_at(63), Some(start + ACK_AFTER));
        assert!(s.ack_due(start + ACK_AFTER, 63));
        s.arrive(start, 64, 1);
        assert!(s.ack_due(start, 64));
        s.ack_told(start, 64);
        assert!(!s.ack_useful(64));
        assert_eq!(s.ack_at(64), None);
        s.arrive(start, 65, ACK_AFTER_BYTES as usize);
        assert!(s.ack_due(start, 65), "or after 256 KiB");
    }

    #[test]
    fn sess_3_replay_sends_exactly_what_the_peer_lacks_once_and_in_order() {
        let mut s = session();
        for n in 10..14 {
            s.number(n, 10);
        }
        s.acknowledge(1).unwrap();
        s.rewind(2).unwrap();
        assert!(!s.may_number(), "nothing new before the replay is through");
        let mut seen = alloc::vec::Vec::new();
        while let Some(entry) = s.to_replay() {
            seen.push(entry);
            s.replayed_one();
        }
        assert_eq!(seen, [(3, 12), (4, 13)]);
        s.check();
    }

    #[test]
    fn sess_5_implausible_numbers_are_refused() {
        let mut s = session();
        s.number(1, 10);
        s.number(2, 10);
        s.acknowledge(1).unwrap();
        s.arrive(Instant::ZERO, 1, 0);
        let good = Numbers { received: 1, sent: 1, acknowledged: 0 };
        assert!(s.agrees(good));
        assert!(!s.agrees(Numbers { received: 3, ..good }), "received what was never sent");
        assert!(!s.agrees(Numbers { received: 0, ..good }), "forgot what it had acknowledged");
        assert!(!s.agrees(Numbers { sent: 0, ..good }), "never sent what was received");
        assert!(!s.agrees(Numbers { acknowledged: 2, ..good }), "knows an acknowledgement nobody gave");
        assert_eq!(s.acknowledge(3), Err(Implausible));
        assert_eq!(s.rewind(3), Err(Implausible));
        assert_eq!(s.rewind(0), Err(Implausible));
    }
}
