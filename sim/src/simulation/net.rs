//! Virtual sockets: two pipes of bytes each, and what a peer's network is like at the moment
//!
//! Bytes arrive in order or not at all. Messages are told apart by their length in front, as the transport of a real
//! adapter would do in its own way: so a flipped or missing byte can strike that length as well.

use std::collections::VecDeque;

use rejoin_core::Instant;
use rejoin_core::ids::ConnId;
use rejoin_core::limits::FRAME_BYTES_MAX;

use super::laws::Law;
use super::rogue::Rogue;
use crate::net::Side;
use crate::schedule::Fault;

/// Bytes of a message's length, little endian, in front of it
pub(super) const LENGTH_BYTES: usize = 4;

/// Messages remembered for those who say them again
const REMEMBERED: usize = 32;

/// A value for a while
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Timed {
    value: u64,
    until: Instant,
}

impl Timed {
    pub(super) fn set(&mut self, value: u64, until: Instant) {
        *self = Timed { value, until };
    }

    /// For good
    pub(super) const FOR_EVER: Instant = Instant::from_micros(u64::MAX / 2);

    /// The value, while it is one
    pub(super) fn at(&self, now: Instant) -> Option<u64> {
        (now < self.until).then_some(self.value)
    }
}

/// One direction of a peer's network
#[derive(Clone, Debug, Default)]
pub(super) struct Way {
    /// How much longer bytes take
    pub(super) laws: Vec<Law>,
    /// How often such a law was asked
    pub(super) drawn: u64,
    pub(super) bandwidth: Timed,
    pub(super) bloat: Timed,
    pub(super) rechunk: Timed,
    pub(super) drip: Timed,
    pub(super) stalled: Timed,
    pub(super) blocked: Timed,
    /// When the bytes before are through
    pub(super) busy_until: Instant,
    /// What strikes the next bytes or messages, in turn
    pub(super) struck: VecDeque<Fault>,
    /// A message that waits for the next one to overtake it, and its connection
    pub(super) overtaken: Option<(ConnId, Vec<u8>)>,
}

/// What a peer's network is like
#[derive(Clone, Debug, Default)]
pub(super) struct Net {
    /// By the side towards which bytes go
    pub(super) ways: [Way; 2],
    pub(super) partitioned: Timed,
    pub(super) refuses: Timed,
    pub(super) hangs: Timed,
    pub(super) dials_late: Timed,
    pub(super) mute: Timed,
    pub(super) breaks: Timed,
    /// How often connections break again
    pub(super) flaps: Timed,
    /// What strikes the next greeting
    pub(super) downgrade: Option<Fault>,
    /// The next greeting comes twice (AUTH-9)
    pub(super) regreet: bool,
    /// The connection on which the next answer is lost
    pub(super) unanswered: Option<ConnId>,
}

impl Way {
    /// What strikes the message that comes now
    pub(super) fn next_strike(&mut self) -> Option<Fault> {
        let first = self.struck.front_mut()?;
        if first.after > 0 {
            first.after -= 1;
            return None;
        }
        self.struck.pop_front()
    }

    /// A law of delay holds from now on; one of its kind that held is over
    pub(super) fn delays(&mut self, law: Law) {
        self.laws.retain(|old| old.kind != law.kind && law.since < old.until);
        self.laws.push(law);
    }
}

/// Bytes under way towards one end of a connection
#[derive(Clone, Debug, Default)]
pub(super) struct Pipe {
    chunks: VecDeque<(Instant, Vec<u8>)>,
    pub(super) in_flight: usize,
    last_arrival: Instant,
    /// What has arrived of messages that are not complete
    inbox: Vec<u8>,
    /// Nothing arrives any more, and nobody is told
    pub(super) deaf: bool,
    /// The other end has closed: that is learned behind the last byte
    pub(super) over: bool,
    /// The connection breaks behind so many more bytes
    pub(super) breaks_after: Option<u64>,
    /// The sender was told that it is not writable
    pub(super) full: bool,
    /// The last messages that were sent
    pub(super) history: VecDeque<Vec<u8>>,
    /// Bytes sent and taken out so far, and from which one on they are not what they should be
    sent: u64,
    taken: u64,
    altered_from: Option<u64>,
}

/// What comes out of a pipe
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// A message is complete; whether it is not what was sent, or not in its place
    Message(Vec<u8>, bool),
    /// No transport would take this for a message
    Nonsense,
    /// The connection breaks here
    Break,
    /// The other end has closed
    Over,
}

impl Pipe {
    /// Takes bytes in that arrive then, or behind those before
    pub(super) fn push(&mut self, at: Instant, bytes: Vec<u8>) -> Instant {
        self.last_arrival = self.last_arrival.max(at);
        self.in_flight += bytes.len();
        self.sent += bytes.len() as u64;
        self.chunks.push_back((self.last_arrival, bytes));
        self.last_arrival
    }

    /// When the last byte arrives
    pub(super) fn last_arrival(&self) -> Instant {
        self.last_arrival
    }

    /// Nothing of what is under way arrives before that
    pub(super) fn postpone(&mut self, to: Instant) {
        self.chunks.iter_mut().for_each(|(at, _)| *at = to.max(*at));
        self.last_arrival = self.last_arrival.max(to);
    }

    /// Nothing of what is sent from now on arrives before that
    pub(super) fn nothing_before(&mut self, at: Instant) {
        self.last_arrival = self.last_arrival.max(at);
    }

    /// Nothing arrives any more, and what was under way is lost
    pub(super) fn die(&mut self) {
        self.clear();
        self.deaf = true;
    }

    /// Forgets what is under way
    pub(super) fn clear(&mut self) {
        self.chunks.clear();
        self.in_flight = 0;
    }

    /// Behind so many more bytes, what is sent is not what it should be
    pub(super) fn alter(&mut self, behind: u64) {
        self.altered_from = Some(self.altered_from.unwrap_or(u64::MAX).min(self.sent + behind));
    }

    pub(super) fn remember(&mut self, message: &[u8]) {
        let full = self.history.len() == REMEMBERED;
        let oldest = if full { self.history.pop_front() } else { None };
        let mut room = oldest.unwrap_or_default();
        room.clear();
        room.extend_from_slice(message);
        self.history.push_back(room);
    }

    /// Whether part of a message is there
    pub(super) fn is_arriving(&self) -> bool {
        !self.inbox.is_empty()
    }

    /// Takes out what has arrived by now
    pub(super) fn arrive(&mut self, now: Instant, mut take: impl FnMut(Arrived)) {
        while self.chunks.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, bytes)) = self.chunks.pop_front() else { break };
            self.in_flight -= bytes.len();
            if self.deaf {
                continue;
            }
            let whole = bytes.len() as u64;
            if self.breaks_after.is_none() && self.inbox.is_empty() && is_one_message(&bytes) {
                self.taken += whole;
                let altered = self.altered_from.is_some_and(|from| self.taken > from);
                take(Arrived::Message(unframed(bytes), altered));
                continue;
            }
            let taken = self.breaks_after.map_or(whole, |left| left.min(whole));
            if self.inbox.is_empty() && taken == whole {
                self.inbox = bytes;
            } else {
                self.inbox.extend_from_slice(&bytes[..taken as usize]);
            }
            if !self.take_messages(&mut take) {
                return take(Arrived::Nonsense);
            }
            if let Some(left) = &mut self.breaks_after {
                *left -= taken;
                if taken < whole || *left == 0 {
                    return take(Arrived::Break);
                }
            }
        }
        if self.over && self.chunks.is_empty() && !self.deaf {
            take(Arrived::Over);
        }
    }

    /// `false` when what is there is no message
    fn take_messages(&mut self, take: &mut impl FnMut(Arrived)) -> bool {
        let mut at = 0;
        while let Some(length) = self.inbox.get(at..at + LENGTH_BYTES) {
            let mut bytes = [0; LENGTH_BYTES];
            bytes.copy_from_slice(length);
            let length = u32::from_le_bytes(bytes) as usize;
            if length > FRAME_BYTES_MAX {
                return false;
            }
            let start = at + LENGTH_BYTES;
            let Some(message) = self.inbox.get(start..start + length) else { break };
            let altered = self.altered_from.is_some_and(|from| self.taken + (start + length) as u64 > from);
            take(Arrived::Message(message.into(), altered));
            at = start + length;
        }
        self.taken += at as u64;
        if at == self.inbox.len() {
            self.inbox.clear();
        } else {
            self.inbox.drain(..at);
        }
        true
    }
}

/// One connection, from its dial to its end
#[derive(Clone, Debug)]
pub(super) struct Socket {
    /// Which peer dialled; none for a stranger
    pub(super) peer: Option<usize>,
    /// Which dial of which life of that peer
    pub(super) attempt: u64,
    pub(super) life: u64,
    pub(super) conn: ConnId,
    /// Whether an end believes in it
    pub(super) open: [bool; 2],
    /// Bytes towards each end
    pub(super) pipes: [Pipe; 2],
    /// What it had under way arrives late, whatever its ends believe
    pub(super) ghost: bool,
    /// When each end spoke last
    pub(super) spoke: [Instant; 2],
    /// Whoever dialled, if that is nobody's worker or client
    pub(super) rogue: Option<Box<Rogue>>,
}

/// A message with its length in front
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(LENGTH_BYTES + message.len());
    bytes.extend_from_slice(&(message.len() as u32).to_le_bytes());
    bytes.extend_from_slice(message);
    bytes
}

/// Whether that is one message with its length in front, and nothing else
fn is_one_message(bytes: &[u8]) -> bool {
    let length = bytes.first_chunk::<LENGTH_BYTES>().map(|length| u32::from_le_bytes(*length) as usize);
    length.is_some_and(|length| length <= FRAME_BYTES_MAX && bytes.len() == LENGTH_BYTES + length)
}

/// A message without its length
fn unframed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.drain(..LENGTH_BYTES);
    bytes
}

impl Socket {
    /// One that has been dialled, by nobody's worker or client: nobody else knows of it yet
    pub(super) fn dialled(conn: ConnId, now: Instant) -> Socket {
        let pipes = [Pipe::default(), Pipe::default()];
        let open = [true, false];
        Socket { peer: None, attempt: 0, life: 0, conn, open, pipes, ghost: false, spoke: [now; 2], rogue: None }
    }

    pub(super) fn pipe(&mut self, towards: Side) -> &mut Pipe {
        &mut self.pipes[towards as usize]
    }

    pub(super) fn is_open(&self, side: Side) -> bool {
        self.open[side as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Instant {
        Instant::from_micros(us)
    }

    fn arrived(pipe: &mut Pipe, us: u64) -> Vec<Arrived> {
        let mut all = Vec::new();
        pipe.arrive(at(us), |one| all.push(one));
        all
    }

    #[test]
    fn a_strike_lets_so_many_messages_go_before() {
        let line = "1.0 drop w0 after=2".parse::<crate::schedule::Entry>().unwrap();
        let crate::schedule::What::Fault(fault) = line.what else { panic!("no fault") };
        let mut way = Way { struck: [fault, fault].into(), ..Way::default() };
        let struck: Vec<bool> = (0..6).map(|_| way.next_strike().is_some()).collect();
        assert_eq!(struck, [false, false, true, false, false, true]);
    }

    #[test]
    fn messages_arrive_whole_and_in_order_however_their_bytes_are_cut() {
        let bytes = [framed(b"one"), framed(b""), framed(b"three")].concat();
        for chunk in 1..=bytes.len() {
            let mut pipe = Pipe::default();
            for (n, piece) in bytes.chunks(chunk).enumerate() {
                pipe.push(at(n as u64), piece.into());
            }
            let all = arrived(&mut pipe, 1000);
            let expected = [&b"one"[..], b"", b"three"].map(|m| Arrived::Message(m.into(), false));
            assert_eq!(all, expected, "in pieces of {chunk}");
            assert!(!pipe.is_arriving() && pipe.in_flight == 0);
        }
    }

    #[test]
    fn nothing_overtakes_what_went_before_and_the_end_comes_last() {
        let mut pipe = Pipe::default();
        pipe.push(at(50), framed(b"slow"));
        assert_eq!(pipe.push(at(10), framed(b"fast")), at(50));
        pipe.over = true;
        assert_eq!(arrived(&mut pipe, 49), []);
        let expected = [&b"slow"[..], b"fast"].map(|m| Arrived::Message(m.into(), false));
        let expected: Vec<Arrived> = expected.into_iter().chain([Arrived::Over]).collect();
        assert_eq!(arrived(&mut pipe, 50), expected);
    }

    #[test]
    fn a_connection_breaks_at_any_byte_and_a_length_that_lies_is_nonsense() {
        for after in 1..=9 {
            let mut pipe = Pipe { breaks_after: Some(after), ..Pipe::default() };
            pipe.push(at(1), framed(b"abcde"));
            let all = arrived(&mut pipe, 1);
            assert_eq!(all.last(), Some(&Arrived::Break));
            assert_eq!(all.len() == 2, after == 9, "broken behind {after} bytes");
        }
        let mut pipe = Pipe::default();
        pipe.push(at(1), vec![0xff; 5]);
        assert_eq!(arrived(&mut pipe, 1), [Arrived::Nonsense]);
    }
}
