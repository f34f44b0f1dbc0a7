//! The options of `rejoin crowd`

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use rejoin_smol::crowd::WORKERS_MAX;

use super::Access;
use super::values::{duration, heartbeat};

/// What `rejoin crowd` is called with
#[derive(Debug, Args)]
pub struct Crowd {
    /// Where to; --key is a file with many keys, as `rejoin key new NAME --count N` makes it
    #[command(flatten)]
    pub access: Access,

    /// How many workers, at most as there are keys in the file [default: as many]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=WORKERS_MAX as i64))]
    pub workers: Option<u32>,

    /// How many of them begin in a second, 1 to 10000
    ///
    /// A coordinator lets 2,000 in per second, and 1,000 from one address that is not
    /// its own.
    #[arg(long, value_name = "N", verbatim_doc_comment, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rate: u32,

    /// Leave after so long [default: when told to, by SIGTERM or Ctrl-C]
    #[arg(long = "for", value_name = "D", value_parser = duration)]
    pub lasts: Option<Duration>,

    /// Heartbeat period to ask the coordinator for, 50ms to 40s
    #[arg(long, value_name = "D", value_parser = heartbeat)]
    pub heartbeat: Option<Duration>,

    /// Write down each start of a task, a line each, and its end, the same line and ` end`, for an audit
    #[arg(long, value_name = "FILE", hide = true)]
    pub log: Option<PathBuf>,

    /// Print an object for each second, and the report as one
    #[arg(long)]
    pub json: bool,
}

pub(super) const HELP: &str = "\
Examples:
  A coordinator for the trial, with 10,000 keys:
    rejoin key new crowd --count 10000 --out crowd.keys --keys trial.keys
    rejoin coordinator --listen 127.0.0.1:7879 --data trial.state --keys trial.keys
  What it is like with all of them, and when it is killed and started again meanwhile:
    rejoin crowd --coordinator ws://127.0.0.1:7879 --key crowd.keys
  Tasks that pretend to take 100 ms each, as many as the workers can do:
    rejoin key new me --role client --out me.key --keys trial.keys
    yes 100 | head -n 50000 | rejoin run --coordinator ws://127.0.0.1:7879 --key me.key \\
      --need crowd=yes -- pretend

Each worker takes a descriptor here and one at the coordinator, and one of this
machine's ports for each of the coordinator's URLs. What does not fit is refused
before anything starts.

Exit status:
  0      each worker was connected at some time
  1      some never were, or the coordinator has refused them for good
  254    it could not start
  255    wrong usage, or more workers than descriptors, ports or keys";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn parse(line: &str) -> Result<Crowd, String> {
        let words = "rejoin crowd --coordinator ws://127.0.0.1:1 --key k".split(' ');
        let words = words.chain(line.split(' ').filter(|word| !word.is_empty()));
        let command = Cli::try_parse_from(words).map_err(|error| error.to_string())?.command;
        let Command::Crowd(crowd) = command else { panic!("another command") };
        Ok(*crowd)
    }

    #[test]
    fn every_option() {
        let crowd = parse("").expect("nothing else is needed");
        assert_eq!((crowd.workers, crowd.rate, crowd.lasts, crowd.json), (None, 500, None, false));
        let crowd = parse("--workers 7 --rate 9 --for 1m --heartbeat 1s --log s --json").expect("legal options");
        assert_eq!((crowd.workers, crowd.rate, crowd.lasts), (Some(7), 9, Some(Duration::from_secs(60))));
        assert_eq!((crowd.heartbeat, crowd.log), (Some(Duration::from_secs(1)), Some("s".into())));
        assert!(crowd.json);
    }

    #[test]
    fn what_is_out_of_bounds_is_told() {
        for line in ["--workers 0", "--workers 50001", "--rate 0", "--rate 10001", "--for 0"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
