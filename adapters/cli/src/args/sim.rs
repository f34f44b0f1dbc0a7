//! The options of `rejoin sim`

mod corpus;
mod find;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use rejoin_core::Instant;
use rejoin_core::planted::{Bug, WAITING};
use rejoin_sim::bench::Load;
use rejoin_sim::generate::Profile;
use rejoin_sim::schedule::WORKERS_MAX;
use rejoin_sim::simulation::Stop;

pub use self::corpus::{SimCorpus, SimCorpusAdd, SimCorpusCheck};
pub use self::find::{SimCause, SimCover, SimDiff};
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
    /// Name the first event in which two runs differ
    #[command(verbatim_doc_comment, after_long_help = find::DIFF_HELP)]
    Diff(SimDiff),
    /// Name the fault that tips a schedule that fails, and until when healing helps
    #[command(verbatim_doc_comment, after_long_help = find::CAUSE_HELP)]
    Cause(SimCause),
    /// Print which fault struck in which state, and what was never reached
    #[command(verbatim_doc_comment, after_long_help = find::COVER_HELP)]
    Cover(SimCover),
    /// Keep schedules that once failed, and see that none fails again
    #[command(subcommand, verbatim_doc_comment, after_long_help = corpus::HELP)]
    Corpus(SimCorpus),
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
    /// Measure how fast simulations are on this machine
    ///
    /// Loads without faults, then standard seeds with them, all on one core.
    #[command(verbatim_doc_comment, after_long_help = BENCH_HELP)]
    Bench(SimBench),
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

    /// How wide the net is cast: standard, wide or wild
    #[arg(long, value_name = "P", default_value = "standard")]
    pub profile: Profile,

    /// So many workers, whatever the profile says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(WORKERS_MAX)))]
    pub workers: Option<u16>,

    /// How long faults may happen, at most 7d; there are as many tasks and faults a minute
    #[arg(long = "for", value_name = "D", value_parser = safety)]
    pub safety: Option<Duration>,

    /// Run it twice, and compare
    #[arg(long)]
    pub double: bool,

    /// Write its schedule there; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub schedule: Option<PathBuf>,

    /// What to write of it
    #[command(flatten)]
    pub eyes: Eyes,
}

/// What is written of a run for those who want to see it
#[derive(Debug, Args)]
pub struct Eyes {
    /// Write all that happens there, a line each; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,

    /// Write a timeline there, a page for a browser
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,

    /// Write a sequence diagram there, in Mermaid's language
    ///
    /// Of at most 60 events: the last before a failure, or else those from the
    /// first fault on. Heartbeats and acknowledgements are left out.
    #[arg(long, value_name = "FILE", verbatim_doc_comment)]
    pub mermaid: Option<PathBuf>,

    /// Write all that happens there, a JSON object each; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub jsonl: Option<PathBuf>,
}

impl Eyes {
    /// Whether anything is wanted
    pub fn any(&self) -> bool {
        self.paths().next().is_some()
    }

    /// Whether some of it goes to standard output, where nothing else may be then
    pub fn is_on_standard_output(&self) -> bool {
        self.paths().any(|path| path == Path::new("-"))
    }

    /// Where it is written
    pub fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        self.all().flatten()
    }

    fn all(&self) -> impl Iterator<Item = &Option<PathBuf>> {
        [&self.trace, &self.html, &self.mermaid, &self.jsonl].into_iter()
    }
}

/// What `rejoin sim swarm` is called with
#[derive(Debug, Args)]
pub struct SimSwarm {
    /// How many seeds from 0 on, or which: 10000, or 500..600
    #[arg(long, value_name = "N|A..B", value_parser = seeds)]
    pub seeds: (u64, u64),

    /// How wide the net is cast: standard, wide or wild
    #[arg(long, value_name = "P", default_value = "standard")]
    pub profile: Profile,

    /// Run each seed twice, and compare
    #[arg(long)]
    pub double: bool,

    /// Begin no seed any more once so much time has passed; those under way have 2 s to end, or do not count
    #[arg(long, value_name = "D", value_parser = duration)]
    pub time: Option<Duration>,

    /// Threads; by default as many as there are processors
    #[arg(long, value_name = "J", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub jobs: Option<u16>,

    /// Write the schedules of seeds that fail to this directory, which is made at once
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
}

/// What `rejoin sim replay` is called with
#[derive(Debug, Args)]
pub struct SimReplay {
    /// The schedule
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Run it twice to its end, and compare
    #[arg(long, conflicts_with_all = ["until", "step"])]
    pub double: bool,

    /// Stop behind that time in seconds, or that event, as in `#120`, and print what everything is like
    #[arg(long, value_name = "E", value_parser = stop)]
    pub until: Option<Stop>,

    /// Print the events one at a time: Enter goes on, a number goes on by so many, q quits
    ///
    /// From a pipe or a file these are read as well, a line each, and their end quits. Where
    /// there are none, or standard output alone is no terminal, all events are printed.
    #[arg(long, conflicts_with = "trace", verbatim_doc_comment)]
    pub step: bool,

    /// What to write of it
    #[command(flatten)]
    pub eyes: Eyes,
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
}

/// What `rejoin sim mutants` is called with
#[derive(Debug, Args)]
pub struct SimMutants {
    /// Most seeds for each bug
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,

    /// Only these bugs
    #[arg(long, value_name = "M5,M6", value_delimiter = ',', value_parser = bug)]
    pub only: Vec<Bug>,

    /// Write the schedule that found each bug to this directory
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,

    /// Shrink each of these schedules, for 30 seconds at most
    #[arg(long)]
    pub shrink: bool,

    /// See instead whether a swarm can fail: by a check, by a panic, and by a second run
    /// that differs
    #[arg(long, conflicts_with_all = ["only", "report", "shrink"])]
    pub canary: bool,
}

pub(super) fn bug(text: &str) -> Result<Bug, String> {
    let number = text.strip_prefix(['M', 'm']).unwrap_or(text).parse().map_err(|_| format!("no bug: {text}"))?;
    if let Some((.., what)) = WAITING.iter().find(|(waiting, ..)| *waiting == number) {
        return Err(format!("{text} cannot be planted yet: it waits for {what}"));
    }
    Bug::numbered(number).ok_or_else(|| format!("there is no bug {text}: they are M1 to M38"))
}

/// What `rejoin sim bench` is called with
#[derive(Debug, Args)]
pub struct SimBench {
    /// How often each is run; medians count
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub runs: u32,

    /// How many standard seeds
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,

    /// How many of the loads without faults, from the smallest on
    #[arg(long, value_name = "N", default_value_t = Load::ALL.len())]
    pub loads: usize,

    /// A part of each load only: its tasks, divided by that
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub share: u32,
}

fn seeds(text: &str) -> Result<(u64, u64), String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("not a number: {text}"));
    let (first, end) = match text.split_once("..") {
        Some((first, end)) => (number(first)?, number(end)?),
        None => (0, number(text)?),
    };
    if first < end { Ok((first, end)) } else { Err("there are no seeds in that".into()) }
}

fn safety(text: &str) -> Result<Duration, String> {
    let most = Duration::from_secs(7 * 86_400);
    duration(text).and_then(|span| if span <= most { Ok(span) } else { Err("it is at most 7d".into()) })
}

fn stop(text: &str) -> Result<Stop, String> {
    if let Some(number) = text.strip_prefix('#') {
        let number = number.parse().ok().filter(|number| *number > 0);
        return number.map(Stop::Events).ok_or_else(|| "an event is `#` and its number, from 1".into());
    }
    let seconds = text.parse::<f64>().ok().filter(|at| (0.0..1e9).contains(at));
    let seconds = seconds.ok_or("a time in seconds, as in 12.5, or an event, as in #120")?;
    Ok(Stop::At(Instant::from_micros((seconds * 1e6).round() as u64)))
}

const RUN_HELP: &str = "\
Examples:
    rejoin sim run --seed 1 --double
    rejoin sim run --seed 1 --schedule seed-1.sched --trace seed-1.trace
    rejoin sim run --seed 1 --workers 100 --for 5m
    rejoin sim run --seed 1 --html seed-1.html
    rejoin sim run --seed 1 --jsonl - | grep altered

Exit status:
  0      everything held
  1      something did not
  2      there were tasks, and none was executed
  3      it did not do the same again
  254    a file cannot be written
  255    wrong usage";

const SWARM_HELP: &str = "\
Examples:
    rejoin sim swarm --seeds 10000
    rejoin sim swarm --seeds 500..600 --profile wide --double --report failed
    rejoin sim swarm --seeds 1000000 --time 1m

Exit status:
  0      everything held; from 10,000 seeds on: every fault had an effect, and every
         check an occasion to fail
  1      something did not hold, or was not shown
  2      more than 1 % of the seeds did nothing
  3      a seed did not do the same again
  254    a file cannot be written
  255    wrong usage";

const REPLAY_HELP: &str = "\
Examples:
    rejoin sim replay failed/172.sched
    rejoin sim replay failed/172.sched --until 12.5
    rejoin sim replay failed/172.sched --until '#1200' --step
    printf '100\n5\nq\n' | rejoin sim replay failed/172.sched --step
    rejoin sim replay small.sched --html small.html --mermaid small.mmd

Exit status:
  0      everything held
  1      something did not
  2      there were tasks, and none was executed
  3      it did not do the same again
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
Examples:
    rejoin sim mutants --seeds 200
    rejoin sim mutants --only M5,M6 --shrink --report failed
    target/planted/planted/rejoin sim replay failed/M5.small.sched --planted M5
    rejoin sim mutants --canary

Exit status:
  0      every bug was found that does not wait for what it would be in, and nothing
         without any; each schedule in sim/planted needs all of its faults and settings;
         with --canary: what must fail failed
  1      a bug was not found, or something was found without any, or a schedule in
         sim/planted needs less; with --canary: something did not fail that must
  254    it cannot be built here, or a file cannot be read or written
  255    wrong usage";

const BENCH_HELP: &str = "\
Examples:
    rejoin sim bench
    rejoin sim bench --runs 1 --seeds 20 --loads 1 --share 10

Exit status:
  0      printed
  1      something did not hold in a seed
  254    standard output is closed
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

    #[test]
    fn bugs_are_named_by_their_number() {
        assert_eq!((bug("M5"), bug("5")), (Ok(Bug::DedupByCount), Ok(Bug::DedupByCount)));
        for bad in ["M0", "M39", "x", ""] {
            assert!(bug(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_stop_is_a_time_in_seconds_or_the_number_of_an_event() {
        assert_eq!(stop("12.5"), Ok(Stop::At(Instant::from_micros(12_500_000))));
        assert_eq!((stop("0"), stop("#7")), (Ok(Stop::At(Instant::ZERO)), Ok(Stop::Events(7))));
        for bad in ["#0", "#", "#x", "-1", "NaN", "inf", "", "1s"] {
            assert!(stop(bad).is_err(), "{bad}");
        }
        assert!(safety("8d").is_err() && safety("1h") == Ok(Duration::from_secs(3600)));
    }
}
