//! The options of `rejoin chaos`

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use rejoin_smol::chaos::{Profile, Upstream};

use super::values;

/// What `rejoin chaos` is called with
#[derive(Debug, Args)]
pub struct Chaos {
    /// Where to listen, such as 127.0.0.1:9000; port 0 is any free one
    ///
    /// Whoever reaches this address reaches the service.
    #[arg(long, value_name = "ADDR", value_parser = values::address)]
    pub listen: SocketAddr,

    /// The service in front of which to stand: a host and a port
    ///
    /// A name is looked up anew for each connection. Bytes pass as they are: of wss:// give
    /// the host and the port, and dial the proxy by wss://.
    #[arg(long, value_name = "HOST:PORT", verbatim_doc_comment)]
    pub to: Upstream,

    /// What breaks when: a schedule as `rejoin sim` writes it; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "profile")]
    pub schedule: Option<PathBuf>,

    /// What becomes of each connection: calm, cuts, storm, slow or noise
    ///
    /// calm breaks nothing. cuts cuts each connection after 50 to 300 ms, half of the
    /// time so that both ends learn it. storm adds stalls, delays, flipped bits and
    /// refused connections. slow cuts nothing: far, narrow and unsteady ways. noise flips
    /// a bit in about 10,000 bytes.
    #[arg(long, value_name = "NAME", verbatim_doc_comment, value_parser = profiles())]
    pub profile: Option<Profile>,

    /// Repeat what is drawn [default: the schedule's, or drawn]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Take orders at this address, on loopback: a fault, heal, status or help, a line each
    #[arg(long, value_name = "ADDR", value_parser = values::loopback)]
    pub control: Option<SocketAddr>,

    /// Print where it listens, and the summary, as JSON
    #[arg(long)]
    pub json: bool,
}

fn profiles() -> impl TypedValueParser<Value = Profile> {
    PossibleValuesParser::new(Profile::ALL.map(Profile::name)).try_map(|name| name.parse())
}

pub(super) const HELP: &str = "\
Examples:
  Cut each link of a fleet's workers again and again, the same way each time:
    rejoin chaos --listen 127.0.0.1:9000 --to 127.0.0.1:7878 --profile cuts --seed 7
    rejoin worker --coordinator ws://127.0.0.1:9000 --key lab-1.key
  Try on real sockets what has failed in the simulator:
    rejoin chaos --listen 127.0.0.1:9000 --to 127.0.0.1:7878 --schedule small.sched
  Break what you like, when you like, in front of any service:
    rejoin chaos --listen 127.0.0.1:8080 --to 127.0.0.1:80 --control 127.0.0.1:9001
    echo 'delay all towards=peer for=5 amount=300000' | nc -N 127.0.0.1 9001

docs/chaos.md has all kinds of fault, and how a schedule names connections.

Exit status:
  0      told to stop, by SIGTERM or Ctrl-C
  254    it cannot listen, or a file cannot be read
  255    wrong usage, or a schedule with lines that no proxy can do";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn parse(line: &str) -> Result<Chaos, String> {
        let words = ["rejoin", "chaos"].into_iter().chain(line.split(' '));
        let command = Cli::try_parse_from(words).map_err(|error| error.to_string())?.command;
        let Command::Chaos(chaos) = command else { panic!("another command") };
        Ok(chaos)
    }

    #[test]
    fn every_option() {
        let line = "--listen 127.0.0.1:0 --to [::1]:80 --profile storm --seed 7 --control 127.0.0.1:9 --json";
        let chaos = parse(line).unwrap();
        assert_eq!(
            (chaos.listen.port(), chaos.to.address().map_or(0, |to| to.port()), chaos.control.unwrap().port()),
            (0, 80, 9)
        );
        assert_eq!((chaos.profile, chaos.seed, chaos.json), (Some(Profile::Storm), Some(7), true));
    }

    #[test]
    fn what_is_missing_or_wrong_is_told() {
        let both = "--listen 127.0.0.1:0 --to 127.0.0.1:80";
        for (line, part) in [
            ("--to 127.0.0.1:80", "--listen <ADDR>"),
            ("--listen 127.0.0.1:0 --to wss://example.org:80", "a host with a port and no scheme"),
            ("--listen 127.0.0.1:0 --to example.org", "it has no port"),
            ("--listen example.org:0 --to example.org:80", "expected an IP address"),
            (&format!("{both} --profile rain"), "[possible values: calm, cuts, storm, slow, noise]"),
            (&format!("{both} --profile cuts --schedule x"), "cannot be used with"),
            (&format!("{both} --control 0.0.0.0:9"), "from this machine alone"),
        ] {
            let message = parse(line).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }
}
