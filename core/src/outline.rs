//! A digest of what decides on a machine's future, without keys, counters and clocks
//!
//! A search over many histories must know when two of them have come to the same. Names (tokens, sessions, lives,
//! connections) tell things apart and mean nothing else, so that only the order counts in which they appear; a counter
//! counts from the value with which it appears first; of deadlines only their order counts. One [`Outline`] is shared by
//! all machines of a world, so that what two of them call alike stays alike.
//!
//! What is left out on purpose: the state of the jitter, how far apart deadlines are, windows that are far from full,
//! output streams, clients, statistics and the story. Two histories with the same outline may differ in these, so that a search
//! that goes on from one of them alone may miss what only the other leads to. It never reports what cannot happen.

use alloc::vec::Vec;
use core::hash::{Hash, Hasher};

use crate::ids::{BootId, ConnId, SessionId, Token};
use crate::time::Instant;

const MULTIPLIER: u64 = 0x9E37_79B9_7F4A_7C15;

/// Something that only tells one thing from another
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// An attempt
    Token(Token),
    /// A session
    Session(SessionId),
    /// A life of a peer's memory
    Boot(BootId),
    /// A connection
    Conn(ConnId),
}

/// Something of which only differences count
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// Numbers that an end of a session gives: the one that dialled, or the coordinator (SESS-1)
    Numbers(SessionId, Giver),
    /// Tasks granted and given in a session (LANES-2)
    Tasks(SessionId),
    /// Connections of a session (SESS-4)
    Generation(SessionId),
    /// Lives of the coordinator (SESS-6)
    Epoch,
}

/// An end of a session
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Giver {
    /// The one that dialled
    Dialler,
    /// The one that accepted
    Coordinator,
}

impl Giver {
    pub(crate) fn other(self) -> Giver {
        match self {
            Giver::Dialler => Giver::Coordinator,
            Giver::Coordinator => Giver::Dialler,
        }
    }
}

/// Takes in the states of the machines of a world, one behind the other
#[derive(Clone, Debug, Default)]
pub struct Outline {
    state: u64,
    names: Vec<Name>,
    counters: Vec<(Counter, u64)>,
    deadlines: Vec<Instant>,
}

impl Outline {
    /// Starts without any names
    pub fn new() -> Self {
        Outline::default()
    }

    /// Takes in anything whose value counts
    pub fn put(&mut self, value: impl Hash) {
        value.hash(self);
    }

    /// Takes in a name, as its place in the order of appearance
    pub fn name(&mut self, name: Name) {
        let place = self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.names.push(name);
            self.names.len() - 1
        });
        self.write_usize(place);
    }

    /// Takes in names, and how many there are
    pub fn names(&mut self, names: impl ExactSizeIterator<Item = Name>) {
        self.write_usize(names.len());
        names.for_each(|name| self.name(name));
    }

    /// Takes in a name that there may be
    pub fn name_if(&mut self, name: Option<Name>) {
        self.put(name.is_some());
        name.into_iter().for_each(|name| self.name(name));
    }

    /// Takes in the value of a counter, from the first that appears
    pub fn count(&mut self, counter: Counter, value: u64) {
        let base = self.counters.iter().find(|(known, _)| *known == counter).map(|(_, base)| *base);
        let base = base.unwrap_or_else(|| {
            self.counters.push((counter, value));
            value
        });
        self.write_u64(value.wrapping_sub(base));
    }

    /// Takes in a deadline, as its place among all deadlines
    pub fn at(&mut self, deadline: Option<Instant>) {
        self.put(deadline.is_some());
        self.deadlines.extend(deadline);
    }
}

impl Hasher for Outline {
    fn finish(&self) -> u64 {
        let mut order = self.deadlines.clone();
        order.sort_unstable();
        order.dedup();
        let mut state = self.state;
        for at in &self.deadlines {
            state = mixed(state, order.partition_point(|earlier| earlier < at) as u64);
        }
        mixed(state, MULTIPLIER)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, n: u8) {
        self.write_u64(u64::from(n));
    }

    fn write_u16(&mut self, n: u16) {
        self.write_u64(u64::from(n));
    }

    fn write_u32(&mut self, n: u32) {
        self.write_u64(u64::from(n));
    }

    fn write_u64(&mut self, n: u64) {
        self.state = mixed(self.state, n);
    }

    fn write_usize(&mut self, n: usize) {
        self.write_u64(n as u64);
    }

    fn write_isize(&mut self, n: isize) {
        self.write_u64(n as u64);
    }

    fn write_i32(&mut self, n: i32) {
        self.write_u64(n as u64);
    }
}

/// Both halves of a product: one multiplication for eight bytes
fn mixed(state: u64, word: u64) -> u64 {
    let product = u128::from(state.rotate_left(23) ^ word ^ MULTIPLIER) * u128::from(MULTIPLIER ^ 0x5555_5555);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(f: impl Fn(&mut Outline)) -> u64 {
        let mut outline = Outline::new();
        f(&mut outline);
        outline.finish()
    }

    #[test]
    fn names_counters_and_deadlines_say_no_more_than_how_they_differ() {
        let of = |token: u64, session: u8, n: u64, at: u64| {
            outline(|o| {
                o.name(Name::Token(Token(token)));
                o.name(Name::Token(Token(token + 3)));
                o.name(Name::Token(Token(token)));
                let counter = Counter::Numbers(SessionId([session; 16]), Giver::Dialler);
                o.count(counter, n);
                o.count(counter, n + 2);
                o.at(Some(Instant::from_micros(at)));
                o.at(Some(Instant::from_micros(at * 3)));
            })
        };
        assert_eq!(of(1, 2, 3, 4), of(50, 60, 70, 80));
        let two = |a: u64, b: u64| outline(|o| [a, b].into_iter().for_each(|t| o.name(Name::Token(Token(t)))));
        assert_ne!(two(1, 1), two(1, 2));
        let at = |a: u64, b: u64| outline(|o| [a, b].into_iter().for_each(|t| o.at(Some(Instant::from_micros(t)))));
        assert_ne!(at(1, 2), at(2, 1));
        assert_ne!(at(1, 2), at(1, 1));
        let counter = Counter::Epoch;
        let count = |a: u64, b: u64| outline(|o| [a, b].into_iter().for_each(|n| o.count(counter, n)));
        assert_ne!(count(1, 2), count(1, 3));
    }
}
