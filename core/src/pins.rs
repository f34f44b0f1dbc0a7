//! Laws that adapt to the link, held at a value instead (LIVE-6)

use core::time::Duration;

use crate::error::ConfigError;
use crate::limits::{
    BODY_BYTES_MAX, BULK_PIECE_BYTES_MAX, BULK_PIECE_BYTES_MIN, BULK_WINDOW_BYTES, COMPRESS_FROM_BYTES_MIN,
    DEAD_PERMILLE, SUSPECT_MIN_PERMILLE, TERM_MAX,
};

/// Values that take the place of what a connection would find out by itself; `None` is its law
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    /// Bytes of a bulk piece, [`BULK_PIECE_BYTES_MIN`] to [`BULK_PIECE_BYTES_MAX`] (FRAME-4)
    pub bulk_piece: Option<u64>,
    /// Bytes of bulk that may be under way, [`BULK_PIECE_BYTES_MIN`] to [`BULK_WINDOW_BYTES`] (FRAME-4)
    ///
    /// The last piece may go beyond by half of its own length, but never beyond the credit of the other end.
    pub bulk_under_way: Option<u64>,
    /// Bytes from which on a body is compressed, [`COMPRESS_FROM_BYTES_MIN`] to [`BODY_BYTES_MAX`] (FRAME-5)
    pub compress_from: Option<usize>,
    /// Silence on which a peer is suspected, in thousandths of a heartbeat period, [`SUSPECT_MIN_PERMILLE`] to
    /// [`DEAD_PERMILLE`], where the link is dead before anybody is suspected (LIVE-3)
    pub suspect_after: Option<u64>,
    /// How long a task runs from one checkpoint to the next that it is asked for, 1 s to 365 days (LIVE-6)
    pub checkpoint_every: Option<Duration>,
}

impl Pins {
    /// Checks that each is within its bounds
    ///
    /// # Errors
    ///
    /// Names the first one that is not, and what is allowed.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let error = |field, allowed| Err(ConfigError { field, allowed });
        if self.bulk_piece.is_some_and(|bytes| !(BULK_PIECE_BYTES_MIN..=BULK_PIECE_BYTES_MAX as u64).contains(&bytes)) {
            return error("bulk_piece", "1024 to 32768 bytes");
        }
        if self.bulk_under_way.is_some_and(|bytes| !(BULK_PIECE_BYTES_MIN..=BULK_WINDOW_BYTES).contains(&bytes)) {
            return error("bulk_under_way", "1024 to 1048576 bytes");
        }
        if self.compress_from.is_some_and(|bytes| !(COMPRESS_FROM_BYTES_MIN..=BODY_BYTES_MAX).contains(&bytes)) {
            return error("compress_from", "256 to 65000 bytes");
        }
        if self.suspect_after.is_some_and(|permille| !(SUSPECT_MIN_PERMILLE..=DEAD_PERMILLE).contains(&permille)) {
            return error("suspect_after", "1250 to 2500 thousandths of a period");
        }
        let every = Duration::from_secs(1)..=TERM_MAX;
        if self.checkpoint_every.is_some_and(|span| !every.contains(&span)) {
            return error("checkpoint_every", "1 s to 365 days");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_6_each_law_can_be_pinned_within_its_bounds_and_not_beyond() {
        let piece = |bytes| Pins { bulk_piece: Some(bytes), ..Pins::default() };
        let under_way = |bytes| Pins { bulk_under_way: Some(bytes), ..Pins::default() };
        let compress = |bytes| Pins { compress_from: Some(bytes), ..Pins::default() };
        for good in [Pins::default(), piece(1024), piece(32_768), under_way(1024), under_way(1 << 20), compress(256)] {
            assert_eq!(good.validate(), Ok(()));
        }
        for bad in [piece(1023), piece(32_769), under_way(1023), under_way((1 << 20) + 1), compress(255)] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
        let suspect = |permille| Pins { suspect_after: Some(permille), ..Pins::default() };
        assert!(suspect(1_250).validate().is_ok() && suspect(2_500).validate().is_ok());
        assert!(suspect(1_249).validate().is_err() && suspect(2_501).validate().is_err());
        let every = |ms| Pins { checkpoint_every: Some(Duration::from_millis(ms)), ..Pins::default() };
        assert!(every(1_000).validate().is_ok() && every(999).validate().is_err());
        assert_eq!(compress(65_001).validate().map_err(|error| error.field), Err("compress_from"));
    }
}
