//! Payload bytes of a worker: slots of one size whose memory is allocated once

use alloc::boxed::Box;
use alloc::vec::Vec;

/// A slot that is in use
#[derive(Debug, PartialEq, Eq, Hash, Clone)]
pub(crate) struct Slot {
    index: u16,
}

/// Slots of one size; holding one is having its room reserved
///
/// A copy has memory for what is in use alone, and allocates more when it needs it; so has one that was not reserved.
#[derive(Clone, Debug)]
pub(crate) struct Arena {
    slots: Box<[Vec<u8>]>,
    slot_bytes: usize,
    free: Vec<u16>,
}

impl Arena {
    /// So many slots, allocated now or as they are needed
    pub(crate) fn new(slots: u16, slot_bytes: usize, reserve: bool) -> Self {
        let free = (0..slots).rev().collect();
        let slots = (0..slots).map(|_| if reserve { Vec::with_capacity(slot_bytes) } else { Vec::new() }).collect();
        Arena { slots, slot_bytes, free }
    }

    /// Reserves a slot
    pub(crate) fn reserve(&mut self) -> Option<Slot> {
        self.free.pop().map(|index| Slot { index })
    }

    /// Fills a slot; `false` and no change if the bytes do not fit
    pub(crate) fn fill(&mut self, slot: &mut Slot, bytes: &[u8]) -> bool {
        if bytes.len() > self.slot_bytes {
            return false;
        }
        let room = &mut self.slots[usize::from(slot.index)];
        room.clear();
        room.extend_from_slice(bytes);
        true
    }

    /// Adds to what a slot holds; `false` and no change if the bytes do not fit
    pub(crate) fn extend(&mut self, slot: &mut Slot, bytes: &[u8]) -> bool {
        let room = &mut self.slots[usize::from(slot.index)];
        let fits = room.len() + bytes.len() <= self.slot_bytes;
        if fits {
            room.extend_from_slice(bytes);
        }
        fits
    }

    /// Returns what a slot holds
    pub(crate) fn bytes(&self, slot: &Slot) -> &[u8] {
        &self.slots[usize::from(slot.index)]
    }

    /// Gives a slot back
    pub(crate) fn free(&mut self, slot: Slot) {
        self.slots[usize::from(slot.index)].clear();
        debug_assert!(self.free.len() < self.slots.len(), "no slot is given back twice");
        self.free.push(slot.index);
    }

    /// Returns how many slots there are
    pub(crate) fn slots(&self) -> u64 {
        self.slots.len() as u64
    }

    /// Returns how many slots are free
    pub(crate) fn room(&self) -> u64 {
        self.free.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_bounded_keep_their_bytes_apart_and_are_used_again() {
        let mut arena = Arena::new(2, 4, true);
        let mut a = arena.reserve().unwrap();
        let mut b = arena.reserve().unwrap();
        assert_eq!(arena.reserve(), None);
        assert!(arena.fill(&mut a, b"aaaa") && arena.fill(&mut b, b"b"));
        assert!(!arena.fill(&mut b, b"bbbbb") && !arena.extend(&mut b, b"bbbb"), "larger than a slot");
        assert!(arena.extend(&mut b, b"bb"));
        assert_eq!((arena.bytes(&a), arena.bytes(&b)), (&b"aaaa"[..], &b"bbb"[..]));
        arena.free(a);
        assert_eq!(arena.room(), 1);
        let c = arena.reserve().unwrap();
        assert_eq!(arena.bytes(&c), b"");
    }
}
