//! Many timers, each with a name and at most one deadline

use alloc::collections::{BTreeMap, BTreeSet};

use crate::planted::{self, Bug};
use crate::time::Instant;

/// Deadlines by name; equal deadlines fire in the order of names
#[derive(Clone, Debug)]
pub(crate) struct Timers<K> {
    by_time: BTreeSet<(Instant, K)>,
    by_key: BTreeMap<K, Instant>,
}

impl<K: Ord + Copy> Timers<K> {
    pub(crate) fn new() -> Self {
        Timers { by_time: BTreeSet::new(), by_key: BTreeMap::new() }
    }

    /// Sets or moves a deadline; `None` disarms
    pub(crate) fn set(&mut self, key: K, at: Option<Instant>) {
        let old = match at {
            Some(at) => self.by_key.insert(key, at),
            None => self.by_key.remove(&key),
        };
        if let Some(old) = old {
            self.by_time.remove(&(old, key));
        }
        if let Some(at) = at {
            self.by_time.insert((at, key));
        }
    }

    /// Moves a deadline forward only: for deadlines that are looked at again when they fire
    pub(crate) fn advance(&mut self, key: K, at: Option<Instant>) {
        let earlier = match (self.by_key.get(&key), at) {
            (Some(old), Some(at)) => at < *old,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if earlier {
            self.set(key, at);
        }
    }

    /// Takes the next name whose time has come, disarmed
    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<K> {
        let (at, key) = *self.by_time.first()?;
        if at > now || (planted::is(Bug::TimerSpins) && at == now) {
            return None;
        }
        self.set(key, None);
        Some(key)
    }

    /// The names whose time has come, in the order in which they fire
    pub(crate) fn due(&self, now: Instant) -> impl Iterator<Item = K> + '_ {
        self.by_time.iter().take_while(move |(at, _)| *at <= now).map(|(_, key)| *key)
    }

    /// All deadlines, in the order of names
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (K, Instant)> + '_ {
        self.by_key.iter().map(|(key, at)| (*key, *at))
    }

    /// The earliest deadline
    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_fire_once_in_order_and_only_when_due() {
        let at = Instant::from_micros;
        let mut timers = Timers::new();
        timers.set('b', Some(at(5)));
        timers.set('a', Some(at(5)));
        timers.set('c', Some(at(3)));
        timers.set('c', Some(at(9)));
        timers.advance('b', Some(at(7)));
        assert_eq!(timers.next(), Some(at(5)));
        assert_eq!(timers.pop_due(at(4)), None);
        assert_eq!(timers.due(at(5)).collect::<alloc::vec::Vec<_>>(), ['a', 'b']);
        assert_eq!(timers.pop_due(at(5)), Some('a'));
        assert_eq!(timers.pop_due(at(5)), Some('b'));
        assert_eq!(timers.pop_due(at(5)), None);
        timers.advance('c', Some(at(6)));
        timers.set('d', Some(at(6)));
        timers.set('d', None);
        assert_eq!(timers.pop_due(at(6)), Some('c'));
        assert_eq!(timers.next(), None);
    }
}
