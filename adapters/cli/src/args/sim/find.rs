//! The options of those commands of `rejoin sim` that look for a cause

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rejoin_sim::generate::Profile;

use super::seeds;
use crate::args::values::duration;

/// What `rejoin sim diff` is called with
#[derive(Debug, Args)]
pub struct SimDiff {
    /// A schedule
    #[arg(value_name = "A")]
    pub first: PathBuf,

    /// Another one, or the same once more
    #[arg(value_name = "B")]
    pub second: PathBuf,
}

/// What `rejoin sim cause` is called with
#[derive(Debug, Args)]
pub struct SimCause {
    /// The schedule
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// How long to try
    #[arg(long, value_name = "D", default_value = "30s", value_parser = duration)]
    pub budget: Duration,
}

/// What `rejoin sim cover` is called with
#[derive(Debug, Args)]
pub struct SimCover {
    /// How many seeds from 0 on, or which: 1000, or 500..600
    #[arg(long, value_name = "N|A..B", default_value = "1000", value_parser = seeds)]
    pub seeds: (u64, u64),

    /// How wide the net is cast: standard, wide or wild
    #[arg(long, value_name = "P", default_value = "standard")]
    pub profile: Profile,

    /// Threads; by default as many as there are processors
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,

    /// How many of the cells that were never reached are listed
    #[arg(long, value_name = "N", default_value_t = 40)]
    pub missing: usize,
}

pub(super) const DIFF_HELP: &str = "\
Connections of both runs are numbered as in the longer schedule, so that the runs part
where what the schedules say differs; the shorter one's fingerprint is another than in
its replay.

Examples:
    rejoin sim diff failed/172.sched small.sched
    rejoin sim diff failed/172.sched failed/172.sched

Exit status:
  0      all events are the same
  1      they differ, or a machine panics before it has begun
  254    a file cannot be read
  255    wrong usage, or a file is no schedule";

pub(super) const CAUSE_HELP: &str = "\
Example:
    rejoin sim cause failed/172.sched

Exit status:
  0      the cause was found
  1      the schedule does not fail
  254    the file cannot be read
  255    wrong usage, or the file is no schedule";

pub(super) const COVER_HELP: &str = "\
Examples:
    rejoin sim cover
    rejoin sim cover --seeds 200 --profile wide --missing 10

Exit status:
  0      printed
  1      something did not hold in a seed
  254    standard output is closed
  255    wrong usage";
