//! The options of `rejoin stress`

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::values;

/// What `rejoin stress` is called with
#[derive(Debug, Args)]
pub struct Stress {
    /// Which scenarios, or all of them; behind `mutants` those to be seen failing
    ///
    /// `mutants` is for checkouts: it builds rejoin with bugs planted on purpose, and plays
    /// each scenario with those that it must find.
    #[arg(required_unless_present = "list", value_name = "NAME", verbatim_doc_comment)]
    pub names: Vec<String>,

    /// List all scenarios
    #[arg(long)]
    pub list: bool,

    /// Larger fleets, for longer
    #[arg(long)]
    pub long: bool,

    /// How long things are broken in each scenario, in place of its own choice
    #[arg(long = "for", value_name = "D", value_parser = values::duration)]
    pub span: Option<Duration>,

    /// How many workers there are, in place of each scenario's own choice
    #[arg(long, value_name = "N", value_parser = workers)]
    pub workers: Option<usize>,

    /// Repeat what is drawn: what breaks, and when [default: drawn]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,

    /// Write a report with charts, stress.html, and its figures, stress.json, to this directory
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,

    /// Play with coordinator and workers of another build, such as an older version
    #[arg(long, value_name = "FILE")]
    pub program: Option<PathBuf>,

    /// The release before, for rolling-upgrade [default: this one, held at the version before]
    #[arg(long, value_name = "FILE")]
    pub old: Option<PathBuf>,

    /// Print an object for each scenario
    #[arg(long)]
    pub json: bool,
}

/// What a task of the suite is called with
#[derive(Debug, Args)]
pub struct StressTask {
    /// Where it leaves its marks
    pub marks: PathBuf,
    /// What it is to do
    pub numbers: Vec<u64>,
}

/// What the relay of a packet box is called with
#[derive(Debug, Args)]
pub struct StressRelay {
    /// Where it listens
    pub listen: SocketAddr,
    /// The Unix socket to which it takes what comes
    pub socket: PathBuf,
}

/// Most workers: each is a process with a proxy
const WORKERS_MAX: usize = 1000;

fn workers(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=WORKERS_MAX).contains(number));
    number.ok_or_else(|| format!("expected 1 to {WORKERS_MAX}: each worker is a process"))
}

pub(super) const HELP: &str = "\
Examples:
  All scenarios in their short form, within ten minutes on two cores:
    rejoin stress all --report stress-report
  One of them for an hour, with more workers:
    rejoin stress worker-kill --for 1h --workers 20 --seed 7
  Whether they can fail:
    rejoin stress mutants

Each scenario is one line, or with --json one object: submitted / applied / duplicated / lost
tasks, which must read n / n / 0 / 0, faults that had an effect, reconnections, and how soon faults
were noticed and mended. What did not hold stands below. A scenario that did no work, saw no
reconnection where it planned one, or could not break what it meant to, has failed.
docs/testing.md has all of it.

Exit status:
  0      all scenarios passed
  1      at least one failed
  130    interrupted
  254    internal error
  255    wrong usage";
