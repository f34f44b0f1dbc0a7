//! What becomes of each packet between the two sides

use std::error::Error;
use std::fmt;
use std::time::Duration;

use super::condition::{Condition, Kind};
use super::packet;
use super::way::{Counts, Way, Weather};
use crate::chaos::End;

/// Most conditions that may hold, or wait to hold again, at a time
pub const CONDITIONS_MAX: usize = 1024;

/// Both ways between two sides, without devices and clocks
///
/// Time is what has passed since any start; a value that goes back is clamped. The fate of a packet follows from the
/// seed, its direction and its number, counted from 0 at the first one of that direction, and from what the way is like then.
#[derive(Debug)]
pub struct Forwarder {
    now: Duration,
    conditions: Vec<Held>,
    /// When the first of them ends
    changes_at: Option<Duration>,
    /// What they come to, by direction
    weather: [Weather; 2],
    ways: [Way; 2],
}

/// A condition, and when it ends
#[derive(Clone, Copy, Debug)]
struct Held {
    condition: Condition,
    until: Option<Duration>,
}

/// More conditions than there may be at a time
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

impl fmt::Display for TooMany {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{CONDITIONS_MAX} conditions hold already: heal first, or wait until some have ended")
    }
}

impl Error for TooMany {}

impl Forwarder {
    /// One where all packets get through as they are
    pub fn new(seed: u64) -> Forwarder {
        Forwarder {
            now: Duration::ZERO,
            conditions: Vec::new(),
            changes_at: None,
            weather: [[None; Kind::ALL.len()]; 2],
            ways: [Way::new(seed, 0), Way::new(seed, 1)],
        }
    }

    /// From now on the way is like this; of the same kind, what was said last holds
    ///
    /// Kinds that are not of packets mean nothing here.
    ///
    /// # Errors
    ///
    /// [`TooMany`] hold already.
    pub fn set(&mut self, now: Duration, condition: Condition) -> Result<(), TooMany> {
        self.advance(now);
        if condition.span.is_none() {
            // Nothing that is said before will ever hold again.
            self.conditions.retain(|held| {
                held.condition.kind != condition.kind
                    || condition.towards.is_some() && condition.towards != held.condition.towards
            });
        }
        if self.conditions.len() >= CONDITIONS_MAX {
            return Err(TooMany);
        }
        self.conditions.push(Held { condition, until: condition.span.map(|span| self.now + span) });
        self.weigh();
        Ok(())
    }

    /// All conditions end, and what is under way arrives at once, in its order
    pub fn heal(&mut self, now: Duration) {
        self.advance(now);
        self.conditions.clear();
        self.weigh();
        for way in &mut self.ways {
            way.hurry(self.now);
        }
    }

    /// A packet comes out of one side, towards the other
    ///
    /// What is no packet of IPv4 is not forwarded, and has no number.
    pub fn handle(&mut self, now: Duration, towards: End, packet: &[u8]) {
        self.advance(now);
        if packet::is_ipv4(packet) {
            self.ways[towards as usize].handle(self.now, &self.weather[towards as usize], packet);
        }
    }

    /// The next packet that has arrived, and where to
    pub fn poll(&mut self, now: Duration) -> Option<(End, Vec<u8>)> {
        self.advance(now);
        let now = self.now;
        End::BOTH.into_iter().find_map(|end| {
            let packet = self.ways[end as usize].poll(now, &self.weather[end as usize])?;
            Some((end, packet))
        })
    }

    /// The next time at which [`Forwarder::poll`] should be called
    pub fn wake_at(&self) -> Option<Duration> {
        let ways = End::BOTH.into_iter().filter_map(|end| self.ways[end as usize].wake_at(&self.weather[end as usize]));
        // What waits for bandwidth goes sooner or later when that changes.
        ways.min().map(|at| self.changes_at.map_or(at, |changes_at| at.min(changes_at)))
    }

    /// A packet that had arrived could not be handed over
    pub fn undelivered(&mut self, towards: End) {
        let counts = &mut self.ways[towards as usize].counts;
        counts.delivered -= 1;
        counts.undeliverable += 1;
    }

    /// What became of the packets towards a side
    pub fn counts(&self, towards: End) -> Counts {
        self.ways[towards as usize].counts
    }

    fn advance(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if self.changes_at.is_some_and(|at| at <= self.now) {
            let now = self.now;
            self.conditions.retain(|held| held.until.is_none_or(|until| until > now));
            self.weigh();
        }
    }

    /// What all conditions come to
    fn weigh(&mut self) {
        self.weather = [[None; Kind::ALL.len()]; 2];
        for Held { condition, .. } in &self.conditions {
            for end in condition.ends() {
                self.weather[end as usize][condition.kind as usize] = Some(condition.amount);
            }
        }
        self.changes_at = self.conditions.iter().filter_map(|held| held.until).min();
    }
}
