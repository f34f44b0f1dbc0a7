//! What was said before, for faults that say it again

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::fault::End;

/// Most messages remembered of each direction of a place
const MESSAGES_MAX: usize = 32;
/// Longest message that is remembered
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// Most bytes remembered of each direction of a place, and as many of how its connection began
const BYTES_MAX: usize = 64 * 1024;

/// The last messages of each place, those of earlier connections among them
#[derive(Debug, Default)]
pub(super) struct Memory {
    places: Mutex<BTreeMap<u64, Said>>,
}

#[derive(Debug, Default)]
struct Said {
    /// By the end that they went to
    last: [VecDeque<Vec<u8>>; 2],
    bytes: [usize; 2],
    /// The upgrade and the first messages of whoever dialled last
    first: Vec<Vec<u8>>,
}

impl Memory {
    /// Whoever is in a place begins a connection with this
    pub(super) fn begins(&self, place: u64, head: Vec<u8>) {
        self.places().entry(place).or_default().first = vec![head];
    }

    /// A message goes to an end
    pub(super) fn says(&self, place: u64, towards: End, message: &[u8]) {
        if message.len() > MESSAGE_BYTES_MAX {
            return;
        }
        let mut places = self.places();
        let said = places.entry(place).or_default();
        let begun: usize = said.first.iter().map(Vec::len).sum();
        if towards == End::Coordinator && begun + message.len() <= BYTES_MAX && !said.first.is_empty() {
            said.first.push(message.to_vec());
        }
        let (last, bytes) = (&mut said.last[towards as usize], &mut said.bytes[towards as usize]);
        last.push_back(message.to_vec());
        *bytes += message.len();
        while last.len() > MESSAGES_MAX || *bytes > BYTES_MAX {
            *bytes -= last.pop_front().map_or(0, |oldest| oldest.len());
        }
    }

    /// The last message has not got anywhere
    pub(super) fn unsays(&self, place: u64, towards: End) {
        if let Some(said) = self.places().get_mut(&place)
            && let Some(last) = said.last[towards as usize].pop_back()
        {
            said.bytes[towards as usize] -= last.len();
        }
    }

    /// What went to an end so many messages before the last one
    pub(super) fn back(&self, place: u64, towards: End, messages: u64) -> Option<Vec<u8>> {
        let back = usize::try_from(messages).ok()?;
        self.places().get(&place)?.last[towards as usize].iter().rev().nth(back).cloned()
    }

    /// The last message that went to an end from somebody so many places further
    pub(super) fn of_another(&self, place: u64, towards: End, further: u64) -> Option<Vec<u8>> {
        let places = self.places();
        let others: Vec<&Said> = places.range(place + 1..).chain(places.range(..place)).map(|(_, said)| said).collect();
        let nth = (further as usize).checked_rem(others.len())?;
        others[nth].last[towards as usize].back().cloned()
    }

    /// How somebody began: the upgrade, and so many messages
    pub(super) fn first(&self, place: u64, messages: u64) -> Vec<u8> {
        let count = usize::try_from(messages).unwrap_or(usize::MAX).saturating_add(1);
        self.places()
            .get(&place)
            .map(|said| said.first.iter().take(count).flatten().copied().collect())
            .unwrap_or_default()
    }

    /// The places of which anything is known
    pub(super) fn known(&self) -> Vec<u64> {
        self.places().keys().copied().collect()
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<u64, Said>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_messages_of_each_place_are_known_and_no_more_than_there_is_room_for() {
        let memory = Memory::default();
        for n in 0..100_u8 {
            memory.says(1, End::Peer, &[n; 100]);
            memory.says(4, End::Peer, &[n, 4]);
        }
        assert_eq!(memory.back(1, End::Peer, 0), Some(vec![99; 100]));
        assert_eq!(memory.back(1, End::Peer, 31), Some(vec![68; 100]));
        assert_eq!(memory.back(1, End::Peer, 32), None);
        assert_eq!(memory.back(1, End::Coordinator, 0), None);
        memory.unsays(1, End::Peer);
        assert_eq!(memory.back(1, End::Peer, 0), Some(vec![98; 100]));
        (0..10).for_each(|n| memory.says(1, End::Peer, &[n; MESSAGE_BYTES_MAX]));
        assert_eq!(memory.back(1, End::Peer, 3).map(|message| message[0]), Some(6));
        assert_eq!(memory.back(1, End::Peer, 4), None);
        memory.says(1, End::Peer, &[77; MESSAGE_BYTES_MAX + 1]);
        assert_eq!(memory.back(1, End::Peer, 0).map(|message| message[0]), Some(9), "it is too long");
    }

    #[test]
    fn others_are_counted_in_a_ring() {
        let memory = Memory::default();
        assert_eq!(memory.of_another(0, End::Peer, 3), None);
        (0..3).for_each(|place| memory.says(place, End::Peer, &[place as u8]));
        let of = |place, further| memory.of_another(place, End::Peer, further).map(|message| message[0]);
        assert_eq!([of(0, 0), of(0, 1), of(0, 2), of(2, 0), of(2, 1)], [Some(1), Some(2), Some(1), Some(0), Some(1)]);
    }

    #[test]
    fn how_somebody_began_is_known_until_it_begins_again() {
        let memory = Memory::default();
        memory.says(0, End::Coordinator, b"of nobody");
        for head in ["a", "b"] {
            memory.begins(0, head.into());
            memory.says(0, End::Coordinator, b"1");
            memory.says(0, End::Peer, b"x");
            memory.says(0, End::Coordinator, b"2");
        }
        assert_eq!(
            (memory.first(0, 1), memory.first(0, 16), memory.first(1, 1)),
            (b"b1".into(), b"b12".into(), vec![])
        );
    }
}
