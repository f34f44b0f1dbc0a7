//! Pieces that have come and wait for the embedder, in memory that is allocated once, or as it is needed

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use crate::ids::Token;
use crate::limits::WORKER_BULK_WINDOW_BYTES;

/// Most pieces that wait; a coordinator's are never so small that there are more in a window
const PIECES_MAX: usize = 256;
/// Bytes that wait at most
const RING_BYTES: usize = WORKER_BULK_WINDOW_BYTES as usize;

/// Where a piece belongs
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) token: Token,
    pub(crate) number: u64,
    pub(crate) offset: u64,
    pub(crate) len: usize,
}

/// A ring of bytes, and what they are
///
/// A copy has memory for what was ever in use alone, and allocates more when it needs it.
#[derive(Clone, Debug)]
pub(crate) struct Intake {
    heads: VecDeque<Head>,
    /// As far as it was ever in use: most workers never need it, and to clear it costs them their start
    ring: Vec<u8>,
    start: usize,
    len: usize,
}

impl Intake {
    /// All its room, allocated now or as it is needed
    pub(crate) fn new(reserve: bool) -> Self {
        let (pieces, bytes) = if reserve { (PIECES_MAX, RING_BYTES) } else { (0, 0) };
        Intake { heads: VecDeque::with_capacity(pieces), ring: Vec::with_capacity(bytes), start: 0, len: 0 }
    }

    /// Keeps a piece; `false` if there is no room for it
    pub(crate) fn push(&mut self, head: Head, bytes: &[u8]) -> bool {
        if self.len + bytes.len() > RING_BYTES || self.heads.len() == PIECES_MAX {
            return false;
        }
        self.heads.push_back(head);
        let at = (self.start + self.len) % RING_BYTES;
        let first = bytes.len().min(RING_BYTES - at);
        self.ring.resize(self.ring.len().max(at + first), 0);
        self.ring[at..at + first].copy_from_slice(&bytes[..first]);
        self.ring[..bytes.len() - first].copy_from_slice(&bytes[first..]);
        self.len += bytes.len();
        true
    }

    /// Hands the oldest piece over, into a buffer that is large enough for any
    pub(crate) fn pop(&mut self, out: &mut [u8]) -> Option<Head> {
        let head = self.heads.pop_front()?;
        let first = head.len.min(RING_BYTES - self.start);
        out[..first].copy_from_slice(&self.ring[self.start..self.start + first]);
        out[first..head.len].copy_from_slice(&self.ring[..head.len - first]);
        self.start = (self.start + head.len) % RING_BYTES;
        self.len -= head.len;
        Some(head)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn pieces_come_out_as_they_went_in_all_around_the_ring_and_no_more_than_there_is_room_for() {
        let mut intake = Intake::new(true);
        let mut out = vec![0; 60_000];
        let piece = |n: u64| vec![n as u8; 50_000];
        let head = |n| Head { token: Token(n), number: 1, offset: n * 50_000, len: 50_000 };
        for n in 0..5 {
            assert!(intake.push(head(n), &piece(n)));
        }
        assert!(!intake.push(head(5), &piece(5)), "262,144 bytes");
        for n in 0..20 {
            assert_eq!(intake.pop(&mut out), Some(head(n)));
            assert_eq!(out[..50_000], piece(n));
            assert!(intake.push(head(n + 5), &piece(n + 5)));
        }
        for n in 0..5 {
            assert_eq!(intake.pop(&mut out), Some(head(n + 20)));
        }
        assert_eq!(intake.pop(&mut out), None);
        let small = Head { len: 1, ..head(0) };
        assert!((0..PIECES_MAX).all(|_| intake.push(small, b"x")) && !intake.push(small, b"x"));
    }
}
