//! Laws that adapt to the link, held at a value instead (LIVE-6)

use crate::error::ConfigError;
use crate::limits::{
    BODY_BYTES_MAX, BULK_PIECE_BYTES_MAX, BULK_PIECE_BYTES_MIN, BULK_WINDOW_BYTES, COMPRESS_FROM_BYTES_MIN,
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
}

impl Pins {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
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
        assert_eq!(compress(65_001).validate().map_err(|error| error.field), Err("compress_from"));
    }
}
