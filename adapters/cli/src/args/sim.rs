//! The options of `rejoin sim`

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use rejoin_sim::generate::Profile;

use crate::args::values::duration;

/// What can be done with simulations
#[derive(Debug, Subcommand)]
pub enum SimCommand {
    /// Run one seed, and print what it did and its fingerprint
    #[command(verbatim_doc_comment, after_long_help = RUN_HELP)]
    Run(SimRun),
    /// Run many seeds, and print what they have shown together
    #[command(verbatim_doc_comment, after_long_help = SWARM_HELP)]
    Swarm(SimSwarm),
    /// Run a schedule from a file
    #[command(verbatim_doc_comment, after_long_help = REPLAY_HELP)]
    Replay(SimReplay),
    /// Make a schedule that fails as small as it can be
    #[command(verbatim_doc_comment, after_long_help = SHRINK_HELP)]
    Shrink(SimShrink),
    /// Go through all short histories of a small fleet
    ///
    /// Every order of events, and every fault at every point, to a stated depth.
    /// States that differ in names, keys, counters and times alone are one.
    #[command(verbatim_doc_comment, after_long_help = EXPLORE_HELP)]
    Explore(SimExplore),
    /// See how soon bugs that are planted in the core are found
    ///
    /// To be run in a checkout: builds the program once more, with the bugs, into
    /// target/planted.
    #[command(verbatim_doc_comment, after_long_help = MUTANTS_HELP)]
    Mutants(SimMutants),
    /// Print all kinds of fault, and what they do
    #[command(verbatim_doc_comment, after_long_help = MENU_HELP)]
    Menu,
}

/// What `rejoin sim run` is called with
#[derive(Debug, Args)]
pub struct SimRun {
    /// Which seed
    #[arg(long, value_name = "S")]
    pub seed: u64,

    /// How wide the net is cast: standard or wide
    #[arg(long, value_name = "P", default_value = "standard")]
    pub profile: Profile,

    /// Run it twice, and compare
    #[arg(long)]
    pub double: bool,

    /// Write its schedule there; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub schedule: Option<PathBuf>,

    /// Write all that happens there, a line each; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

/// What `rejoin sim swarm` is called with
#[derive(Debug, Args)]
pub struct SimSwarm {
    /// How many seeds from 0 on, or which: 10000, or 500..600
    #[arg(long, value_name = "N|A..B", value_parser = seeds)]
    pub seeds: (u64, u64),

    /// How wide the net is cast: standard or wide
    #[arg(long, value_name = "P", default_value = "standard")]
    pub profile: Profile,

    /// Run each seed twice, and compare
    #[arg(long)]
    pub double: bool,

    /// Threads; by default as many as there are processors
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,

    /// Write the schedules of seeds that fail to this directory
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
}

/// What `rejoin sim replay` is called with
#[derive(Debug, Args)]
pub struct SimReplay {
    /// The schedule
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Write all that happens there, a line each; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
}

/// What `rejoin sim shrink` is called with
#[derive(Debug, Args)]
pub struct SimShrink {
    /// The schedule
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// How long to try
    #[arg(long, value_name = "D", default_value = "30s", value_parser = duration)]
    pub budget: Duration,

    /// Where to write the smaller schedule; `-` is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    pub out: PathBuf,
}

/// What `rejoin sim explore` is called with
#[derive(Debug, Args)]
pub struct SimExplore {
    /// Most choices in a history
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub depth: u16,

    /// No further once there are so many states
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub states: u32,

    /// Most faults in a history
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=8))]
    pub faults: u8,

    /// Workers, each with one slot and one place to wait
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub workers: u8,

    /// Tasks, each of which is tried again once after a failure
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=4))]
    pub tasks: u8,

    /// Threads; by default as many as there are processors
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,

    /// Plant a bug in the core beforehand, by its number: M1
    #[cfg(rejoin_planted)]
    #[arg(long, value_name = "M", value_parser = bug)]
    pub planted: Option<rejoin_sim::mutants::Bug>,
}

/// What `rejoin sim mutants` is called with
#[derive(Debug, Args)]
pub struct SimMutants {
    /// Most seeds for each bug
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("not a number: {text}"));
    let (first, end) = match text.split_once("..") {
        Some((first, end)) => (number(first)?, number(end)?),
        None => (0, number(text)?),
    };
    if first < end { Ok((first, end)) } else { Err("there are no seeds in that".into()) }
}

#[cfg(rejoin_planted)]
fn bug(text: &str) -> Result<rejoin_sim::mutants::Bug, String> {
    let all = rejoin_sim::mutants::Bug::ALL;
    let known = all.iter().copied().find(|bug| format!("M{}", bug.says().0) == text);
    known.ok_or_else(|| "no such bug: `rejoin sim mutants` prints their numbers".into())
}

const RUN_HELP: &str = "\
Examples:
    rejoin sim run --seed 1 --double
    rejoin sim run --seed 1 --schedule seed-1.sched --trace seed-1.trace

Exit status:
  0      everything held
  1      something did not
  2      nothing was executed
  3      it did not do the same again
  254    a file cannot be written
  255    wrong usage";

const SWARM_HELP: &str = "\
Examples:
    rejoin sim swarm --seeds 10000
    rejoin sim swarm --seeds 500..600 --profile wide --double --report failed

Exit status:
  0      everything held; from 10,000 seeds on: every fault had an effect, and every
         check an occasion to fail
  1      something did not hold, or was not shown
  2      more than 1 % of the seeds did nothing
  3      a seed did not do the same again
  254    a file cannot be written
  255    wrong usage";

const REPLAY_HELP: &str = "\
Example:
    rejoin sim replay failed/172.sched

Exit status:
  0      everything held
  1      something did not
  2      nothing was executed
  254    a file cannot be read or written
  255    wrong usage, or the file is no schedule";

const SHRINK_HELP: &str = "\
Example:
    rejoin sim shrink failed/172.sched --out small.sched

Exit status:
  0      the smaller schedule was written
  1      the schedule does not fail
  254    a file cannot be read or written
  255    wrong usage, or the file is no schedule";

const EXPLORE_HELP: &str = "\
Examples:
    rejoin sim explore
    rejoin sim explore --states 50000 --faults 1
    rejoin sim explore --depth 8 --workers 1 --tasks 1

Standard output is the same on each run, on any number of threads. In a build with
planted bugs, --planted M1 plants one first.

Exit status:
  0      everything held in every state
  1      something did not: the shortest way there is printed
  254    standard output is closed
  255    wrong usage";

const MUTANTS_HELP: &str = "\
Example:
    rejoin sim mutants --seeds 200

Exit status:
  0      every bug was found, and nothing without any
  1      a bug was not found, or something was found without any
  254    it cannot be built here
  255    wrong usage";

const MENU_HELP: &str = "\
Example:
    rejoin sim menu

Exit status:
  0      printed
  254    internal error
  255    wrong usage";

pub(super) const HELP: &str = "\
Examples:
    rejoin sim swarm --seeds 2000
    rejoin sim run --seed 7 --double

Exit status:
  0      everything held
  1-3    it did not: each command's help says how
  254    internal error
  255    wrong usage";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_number_or_a_range() {
        assert_eq!((seeds("10"), seeds("5..9")), (Ok((0, 10)), Ok((5, 9))));
        for bad in ["0", "9..5", "5..5", "x", "1..", "-1", ""] {
            assert!(seeds(bad).is_err(), "{bad}");
        }
    }
}
