//! `--pin`: laws that adapt to the link or the fleet, held at a value instead (LIVE-6)

use clap::Args;
use rejoin_core::pins::Pins;

use crate::args::values::{bytes, duration};

const HINT: &str = "expected LAW=VALUE, as in checkpoint-every=5m; laws are bulk-piece and bulk-under-way (bytes), \
     compress-from (bytes), suspect-after (per cent of a heartbeat period) and checkpoint-every (a duration)";

/// Which laws are held, and where
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct PinOptions {
    /// Hold a law that adapts by itself at a value; may be given several times
    ///
    /// bulk-piece=BYTES        pieces of output and checkpoints, 1KiB to 32KiB
    /// bulk-under-way=BYTES    how much of these may be under way, 1KiB to 1MiB
    /// compress-from=BYTES     frames with as much are compressed, 256 to 65000
    /// suspect-after=PERCENT   silence that is suspicious, 125 to 250 per cent of a
    ///                         heartbeat period; with 250 nobody is suspected
    /// checkpoint-every=D      how often tasks are asked for checkpoints, from 1s
    ///                         (by their worker)
    #[arg(long = "pin", value_name = "LAW=VALUE", verbatim_doc_comment, value_parser = pin)]
    pins: Vec<Pins>,
}

impl PinOptions {
    /// All of them together; of one that is given twice the last counts
    pub fn all(&self) -> Pins {
        self.pins.iter().fold(Pins::default(), |all, pin| Pins {
            bulk_piece: pin.bulk_piece.or(all.bulk_piece),
            bulk_under_way: pin.bulk_under_way.or(all.bulk_under_way),
            compress_from: pin.compress_from.or(all.compress_from),
            suspect_after: pin.suspect_after.or(all.suspect_after),
            checkpoint_every: pin.checkpoint_every.or(all.checkpoint_every),
        })
    }
}

/// One of them
fn pin(text: &str) -> Result<Pins, String> {
    let (law, value) = text.split_once('=').ok_or(HINT)?;
    let mut pins = Pins::default();
    match law {
        "bulk-piece" => pins.bulk_piece = Some(bytes(value)?),
        "bulk-under-way" => pins.bulk_under_way = Some(bytes(value)?),
        "compress-from" => pins.compress_from = Some(usize::try_from(bytes(value)?).unwrap_or(usize::MAX)),
        "suspect-after" => {
            let percent: u64 = value.trim_end_matches('%').parse().map_err(|_| "expected per cent, as in 150")?;
            pins.suspect_after = Some(percent.saturating_mul(10));
        }
        "checkpoint-every" => pins.checkpoint_every = Some(duration(value)?),
        _ => return Err(HINT.into()),
    }
    match pins.validate() {
        Ok(()) => Ok(pins),
        // The core counts in finer units than people do here.
        Err(_) if law == "suspect-after" => Err("suspect-after is 125 to 250 per cent of a heartbeat period".into()),
        Err(error) => Err(format!("{law} is {}", error.allowed)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn live_6_each_law_can_be_pinned_and_what_is_out_of_its_bounds_is_refused() {
        let all = |texts: &[&str]| PinOptions { pins: texts.iter().map(|text| pin(text).expect(text)).collect() }.all();
        assert_eq!(all(&[]), Pins::default());
        let pins = all(&[
            "bulk-piece=2KiB",
            "bulk-under-way=1MiB",
            "compress-from=65000",
            "suspect-after=150%",
            "checkpoint-every=1h",
            "checkpoint-every=5m",
        ]);
        assert_eq!(
            (pins.bulk_piece, pins.bulk_under_way, pins.compress_from),
            (Some(2048), Some(1 << 20), Some(65_000))
        );
        assert_eq!((pins.suspect_after, pins.checkpoint_every), (Some(1_500), Some(Duration::from_secs(300))));
        for (bad, says) in [
            ("bulk-piece", "expected LAW=VALUE"),
            ("nothing=1", "laws are"),
            ("bulk-piece=1023", "bulk-piece is 1024 to 32768 bytes"),
            ("bulk-under-way=2MiB", "1024 to 1048576"),
            ("compress-from=1", "256 to 65000"),
            ("suspect-after=100", "125 to 250 per cent"),
            ("suspect-after=much", "per cent"),
            ("checkpoint-every=500ms", "1 s to 365 days"),
            ("checkpoint-every=soon", "duration"),
        ] {
            let error = pin(bad).expect_err(bad);
            assert!(error.contains(says), "{bad}: {error}");
        }
    }
}
