//! The options of `rejoin sim corpus`

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// What can be done with the corpus
#[derive(Debug, Subcommand)]
pub enum SimCorpus {
    /// Add a schedule that once failed, and passes now
    ///
    /// To be run in a checkout: writes into sim/corpus. Shrink it first.
    #[command(verbatim_doc_comment, after_long_help = ADD_HELP)]
    Add(SimCorpusAdd),
    /// Replay all schedules twice, and print a line for each
    #[command(verbatim_doc_comment, after_long_help = CHECK_HELP)]
    Check(SimCorpusCheck),
}

/// What `rejoin sim corpus add` is called with
#[derive(Debug, Args)]
pub struct SimCorpusAdd {
    /// The schedule
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// What went wrong, in one line
    #[arg(long, value_name = "TEXT")]
    pub says: String,

    /// Its name: a-z, 0-9 and -; by default made of what it says
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// Add it although it fails, before its bug is mended
    #[arg(long)]
    pub still_fails: bool,
}

/// What `rejoin sim corpus check` is called with
#[derive(Debug, Args)]
pub struct SimCorpusCheck {
    /// Where they are
    #[arg(value_name = "DIR", default_value = rejoin_sim::corpus::FOLDER)]
    pub folder: PathBuf,
}

const ADD_HELP: &str = "\
Example:
    rejoin sim corpus add small.sched --says 'L2: a herd never got in' --name herd

Exit status:
  0      added
  1      it fails now (or passes, with --still-fails), or is there already
  254    a file cannot be read or written, or there is no sim/corpus here
  255    wrong usage, or the file is no schedule";

const CHECK_HELP: &str = "\
Examples:
    rejoin sim corpus check
    rejoin sim corpus check failed

Exit status:
  0      everything holds in all of them
  1      something does not in one of them
  254    the folder cannot be read
  255    wrong usage";

pub(super) const HELP: &str = "\
Examples:
    rejoin sim corpus add small.sched --says 'L2: a herd never got in'
    rejoin sim corpus check

Exit status:
  0      done
  1      a schedule does not hold, or is not added
  254    a file or folder cannot be read or written
  255    wrong usage";
