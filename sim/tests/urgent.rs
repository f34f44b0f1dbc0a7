//! Urgent tasks beside bulk, over narrow and wide links (FRAME-4)
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write;

use rejoin_sim::recorded::Recorded;
use rejoin_sim::schedule::Schedule;
use rejoin_sim::trace::{Stage, Told};

/// What an urgent task does
const TAKES_US: u64 = 100_000;
/// Bytes of the smallest piece with all that is around it
const PIECE_BYTES: u64 = 1300;

/// A link, in bytes per second and microseconds
#[derive(Clone, Copy, Debug)]
struct Link {
    rate: u64,
    round_trip_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    Upload,
    Restore,
}

/// Latencies of urgent tasks: 99 of 100 are at most this, in microseconds
#[derive(Clone, Copy, Debug)]
struct Latency {
    /// From the submission's arrival at the coordinator to the start
    start: u64,
    /// From the end of the execution to the durable result
    result: u64,
    /// From the submission's arrival to the outcome's leaving
    whole: u64,
    /// Share of the link that bulk took, in percent
    used: u64,
}

fn secs(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

fn measure(link: Link, beside: Beside, settings: &str) -> Latency {
    let Link { rate, round_trip_us } = link;
    let bulk_rate = rate.min((1 << 20) * 1_000_000 / round_trip_us);
    // The more the link carries, the shorter it is looked at.
    let looked_us = (30_000_000_000_000 / bulk_rate).clamp(2_500_000, 45_000_000);
    let blob = (bulk_rate * (looked_us + 6_000_000) / 1_000_000).clamp(50_000, 60_000_000);
    // At first it finds out what the link carries.
    let warm_us = if bulk_rate > 20_000_000 { 1_000_000 } else { 3_000_000 };
    let blobs = (bulk_rate * (looked_us + warm_us) / 1_000_000).div_ceil(blob).max(1);
    // A restore begins when its attempt has failed: the checkpoint before travels over a wide link.
    let (fails, steps_takes) = match beside {
        Beside::Restore => (1, 60_000_000),
        Beside::Nothing | Beside::Upload => (0, 2 * (looked_us + 10_000_000)),
    };
    let begins_us = 1_000_000 + if beside == Beside::Restore { steps_takes + 100_000 } else { steps_takes / 2 };
    let safety_us = begins_us + looked_us + 10_000_000;
    let wide_until = if beside == Beside::Restore { begins_us - 500_000 } else { 500_000 };
    let mut text = format!(
        "rejoin schedule 1\nseed 1\nworkers 1\nclients 1\nsafety {}\n\
         set latency-us {}\nset slots 64\nset attempts-max 512\nset prefetch 64\n\
         set send-buffer-bytes 1000000000\nset checkpoints-max-bytes 1000000000\nset compress 0\n\
         set heartbeat-ms 5000\n{settings}",
        secs(safety_us),
        round_trip_us / 2,
    );
    for towards in ["peer", "coordinator"] {
        writeln!(text, "{} bandwidth w0 towards={towards} for={} amount={rate}", secs(wide_until), secs(safety_us))
            .unwrap();
    }
    // What is narrow is not calm, so that nobody expects an upload to be through soon.
    for towards in ["peer", "coordinator"].into_iter().filter(|_| beside == Beside::Restore) {
        let wide = secs(wide_until - 500_000);
        writeln!(text, "0.500000 bandwidth w0 towards={towards} for={wide} amount=1000000000000").unwrap();
    }
    if beside != Beside::Nothing {
        for n in 0..blobs {
            let takes = secs(steps_takes);
            writeln!(
                text,
                "1.000000 submit c0 task={} priority=4 retries=1 fails={fails} steps=2 saves={blob} takes={takes}",
                1_000_000 + n
            )
            .unwrap();
        }
    }
    let from = begins_us + warm_us;
    let until = from + looked_us * 9 / 10;
    // Not in step with anything else.
    let apart = (until - from) / 197;
    for n in 0..=(until - from) / apart {
        let at = secs(from + n * apart + n * n * 7919 % apart.min(50_000));
        writeln!(text, "{at} submit c0 task={n} priority=0 takes={} input=100 returns=100", secs(TAKES_US)).unwrap();
    }
    let schedule: Schedule = text.parse().unwrap();
    let recorded = Recorded::run(&schedule, None).unwrap();
    let failure = recorded.failure.as_ref().map(ToString::to_string);
    let mut times: BTreeMap<u32, [u64; 5]> = BTreeMap::new();
    for (at, _, told) in recorded.steps() {
        let (task, which) = if let Told::Durable { task: Some(task), .. } = told {
            (task, 3)
        } else if let Told::Task { task, stage, .. } = told {
            let which = match stage {
                Stage::Submitted(_) => 0,
                Stage::Started { .. } => 1,
                Stage::Finished { .. } => 2,
                Stage::Ended(_) => 4,
                Stage::CancelAsked | Stage::Accepted | Stage::Checkpoint { .. } => continue,
            };
            (task, which)
        } else {
            continue;
        };
        times.entry(*task).or_default()[which] = at.as_micros();
    }
    let urgent = || times.iter().filter(|(task, _)| **task < 1_000_000).map(|(_, times)| *times);
    assert!(urgent().count() > 190, "{link:?} {beside:?}: {}, {failure:?}", urgent().count());
    let of = |latency: &dyn Fn([u64; 5]) -> u64| {
        let mut all: Vec<u64> = urgent().map(latency).collect();
        all.sort_unstable();
        all[all.len() * 99 / 100]
    };
    let one_way = round_trip_us / 2;
    let mut carried = 0;
    for (at, _, told) in recorded.steps() {
        if let Told::Sent { bytes, .. } = told
            && (from..until).contains(&at.as_micros())
            && *bytes > 900
        {
            carried += *bytes as u64;
        }
    }
    let used = carried * 100 * 1_000_000 / (bulk_rate * (until - from));
    assert_eq!(failure, None, "{link:?} {beside:?}");
    Latency {
        start: of(&|[submitted, started, ..]| started - submitted - one_way),
        result: of(&|[_, _, finished, durable, _]| durable - finished),
        whole: of(&|[submitted, _, _, _, ended]| ended - submitted - 2 * one_way),
        used,
    }
}

const ROUND_TRIPS_US: [u64; 2] = [20_000, 200_000];

/// Twice as long as alone, and for either half of it two of the smallest pieces besides
fn expect_short(link: Link, alone: Latency, beside: Beside, with: Latency) {
    let pieces_us = 2 * PIECE_BYTES * 1_000_000 / link.rate;
    let said = format!("{link:?} {beside:?}: alone {alone:?}, beside {with:?}");
    assert!(with.whole <= 2 * alone.whole, "{said}");
    assert!(with.start <= 2 * alone.start + pieces_us, "{said}");
    assert!(with.result <= 2 * alone.result + pieces_us, "{said}");
}

fn urgent_beside_bulk(rates: &[u64]) {
    for rate in rates.iter().copied() {
        for round_trip_us in ROUND_TRIPS_US {
            let link = Link { rate, round_trip_us };
            let alone = measure(link, Beside::Nothing, "");
            let upload = measure(link, Beside::Upload, "");
            expect_short(link, alone, Beside::Upload, upload);
            assert!(upload.used >= 60, "bulk makes use of the link: {link:?} {upload:?}");
            let restore = measure(link, Beside::Restore, "");
            expect_short(link, alone, Beside::Restore, restore);
        }
    }
}

#[test]
fn frame_4_an_urgent_task_beside_bulk_takes_at_most_twice_as_long_as_alone_over_narrow_links() {
    urgent_beside_bulk(&[8_000, 64_000]);
}

#[test]
fn frame_4_an_urgent_task_beside_bulk_takes_at_most_twice_as_long_as_alone_over_medium_links() {
    urgent_beside_bulk(&[512_000, 4_000_000]);
}

#[test]
fn frame_4_an_urgent_task_beside_bulk_takes_at_most_twice_as_long_as_alone_over_wide_links() {
    urgent_beside_bulk(&[100_000_000]);
}

#[test]
fn frame_4_pieces_of_16_kib_and_a_full_window_under_way_hold_urgent_tasks_up() {
    for rate in [64_000, 512_000] {
        let link = Link { rate, round_trip_us: 20_000 };
        let alone = measure(link, Beside::Nothing, "");
        let pinned = "set bulk-piece-bytes 16384\nset bulk-under-way-bytes 1048576\n";
        let with = measure(link, Beside::Upload, pinned);
        assert!(with.whole > 5 * alone.whole, "{link:?}: alone {alone:?}, beside {with:?}");
    }
}
