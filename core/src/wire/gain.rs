//! From how many bytes on compressing a body is worth trying (FRAME-5, LIVE-6)
//!
//! The law, for each connection and direction: bodies of [`COMPRESS_FROM_BYTES`] and more are tried at first. One that
//! does not become smaller doubles that, up to beyond the largest body; one that does lowers it to half of itself, or of
//! the body's length where that is less, down to [`COMPRESS_FROM_BYTES_MIN`]. Every [`PROBED_AFTER`]th body in turn that
//! was too short, and not below that least, is tried all the same. So bulk that cannot be compressed costs next to
//! nothing, and what can be is found out again.

use crate::limits::{BODY_BYTES_MAX, COMPRESS_FROM_BYTES, COMPRESS_FROM_BYTES_MIN};

/// Bodies that are not tried until one is
const PROBED_AFTER: u8 = 64;

/// What compressing has brought on one connection
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gain {
    from: usize,
    pinned: bool,
    passed_over: u8,
}

impl Gain {
    /// Follows the law, or holds one threshold
    pub(crate) fn new(pinned: Option<usize>) -> Self {
        Gain { from: pinned.unwrap_or(COMPRESS_FROM_BYTES), pinned: pinned.is_some(), passed_over: 0 }
    }

    /// Bytes from which on a body is tried; more than any has when none is
    pub(crate) fn from(&self) -> usize {
        self.from
    }

    /// Whether a body of this length is worth trying; call it once for each
    pub(crate) fn tries(&mut self, len: usize) -> bool {
        if len >= self.from {
            return true;
        }
        if self.pinned || len < COMPRESS_FROM_BYTES_MIN {
            return false;
        }
        self.passed_over += 1;
        self.passed_over >= PROBED_AFTER
    }

    /// A body of this length was tried
    pub(crate) fn tried(&mut self, len: usize, shrank: bool) {
        self.passed_over = 0;
        if self.pinned {
            return;
        }
        self.from = if shrank {
            (self.from.min(len) / 2).max(COMPRESS_FROM_BYTES_MIN)
        } else {
            (self.from * 2).min(BODY_BYTES_MAX + 1)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frame_5_what_never_shrinks_is_hardly_ever_tried_and_what_does_is_found_again() {
        let mut gain = Gain::new(None);
        let mut tries = 0;
        for _ in 0..6400 {
            if gain.tries(16_384) {
                tries += 1;
                gain.tried(16_384, false);
            }
        }
        assert!((100..=108).contains(&tries), "{tries} of 6400");
        assert_eq!(gain.from(), BODY_BYTES_MAX + 1);
        let found = (1..=64).find(|_| gain.tries(16_384));
        assert!(found.is_some(), "probed again");
        gain.tried(16_384, true);
        assert!(gain.tries(16_384) && gain.from() == 8192);
    }

    #[test]
    fn frame_5_the_threshold_stays_within_its_bounds_and_a_pinned_one_where_it_is() {
        let mut gain = Gain::new(None);
        for _ in 0..100 {
            gain.tried(300, true);
            assert!(gain.from() >= COMPRESS_FROM_BYTES_MIN);
        }
        assert!(!gain.tries(255) && gain.tries(256));
        for _ in 0..100 {
            gain.tried(65_000, false);
            assert!(gain.from() <= BODY_BYTES_MAX + 1);
        }
        let mut pinned = Gain::new(Some(1000));
        (0..100).for_each(|n| pinned.tried(2000, n % 2 == 0));
        assert_eq!(pinned.from(), 1000);
        assert!((0..200).all(|_| !pinned.tries(999)) && pinned.tries(1000));
    }
}
