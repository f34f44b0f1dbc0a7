//! The options of `rejoin key`

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use rejoin_core::ids::{PeerName, Role};
use rejoin_smol::crowd::WORKERS_MAX;

use super::Reach;
use super::values::duration;

/// What can be done about keys
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key for a new worker or client
    ///
    /// The key goes to two files: --out is for its holder and has nothing else in
    /// it, --keys is for the coordinator and has all keys. Both are made if they are
    /// missing, so that nobody but their owner may read or write them. A coordinator
    /// that is running takes the new key as soon as its holder comes.
    ///
    /// A name has one key at a time and one role for ever.
    #[command(verbatim_doc_comment, after_long_help = NEW_HELP)]
    New(KeyNew),
    /// Make a join token, by which a new worker gets a key of its own
    ///
    /// The worker is started with it, and with a --key FILE that does not exist yet:
    /// coordinator and worker derive a key, nothing secret travels, and the worker
    /// keeps it there. The first use of that key burns the token. Until then the same
    /// token may be used again, so that an answer may be lost.
    ///
    /// Without --out the token is printed, for a pipe. Whoever has it first can be
    /// that worker: give it away by a way that you trust. `rejoin key revoke` takes
    /// it back, and the key that came of it.
    #[command(verbatim_doc_comment, after_long_help = TOKEN_HELP)]
    Token(KeyToken),
    /// Let a key's holder in no longer
    ///
    /// The key stays in the file, marked as revoked. A coordinator that is running
    /// cuts its holder off within a second.
    #[command(verbatim_doc_comment, after_long_help = REVOKE_HELP)]
    Revoke(KeyRevoke),
    /// Give a worker another key while it is connected
    ///
    /// Coordinator and worker derive it from what they share: nothing secret
    /// travels. Each keeps it in its file, and the worker comes back with it at
    /// once; then the key before is retired. Until then both are good, so that the
    /// two stay together whichever of them ends meanwhile. It costs no task anything.
    ///
    /// This is hygiene. Whoever knows a key, and has recorded its holder's links,
    /// knows those that follow from it: if it may have been seen by others, revoke
    /// it and make a new one.
    #[command(verbatim_doc_comment, after_long_help = ROTATE_HELP)]
    Rotate(KeyRotate),
}

/// What `rejoin key new` is called with
#[derive(Debug, Args)]
pub struct KeyNew {
    /// Whose key it is: 1 to 64 letters, digits, dots, dashes or underscores
    #[arg(value_name = "NAME")]
    pub name: PeerName,

    /// What its holder does: run tasks, or submit and follow them
    #[arg(long, value_name = "ROLE", default_value = "worker",
          value_parser = PossibleValuesParser::new(["worker", "client"]).map(|role| role_of(&role)))]
    pub role: Role,

    /// The file to make for the key's holder; must not exist
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,

    /// The coordinator's file
    #[arg(long, value_name = "FILE")]
    pub keys: PathBuf,

    /// Make so many, named NAME-1 and so on, all in --out: for `rejoin crowd`
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=WORKERS_MAX as i64))]
    pub count: Option<u32>,
}

/// What `rejoin key token` is called with
#[derive(Debug, Args)]
pub struct KeyToken {
    /// Name of the worker that is to come: 1 to 64 letters, digits, dots, dashes or underscores
    #[arg(value_name = "NAME")]
    pub name: PeerName,

    /// The file to make for the token; must not exist
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    /// The coordinator's file
    #[arg(long, value_name = "FILE")]
    pub keys: PathBuf,

    /// How long it is good, 1s to 30 days
    #[arg(long, value_name = "D", default_value = "10m", value_parser = valid)]
    pub valid: Duration,
}

/// The longest that a join token may be good
pub const TOKEN_VALID_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

fn valid(text: &str) -> Result<Duration, String> {
    let valid = duration(text)?;
    let allowed = Duration::from_secs(1)..=TOKEN_VALID_MAX;
    if allowed.contains(&valid) { Ok(valid) } else { Err("a join token is good for 1s to 30 days".into()) }
}

/// What `rejoin key revoke` is called with
#[derive(Debug, Args)]
pub struct KeyRevoke {
    /// Whose key it is
    #[arg(value_name = "NAME")]
    pub name: PeerName,

    /// The coordinator's file
    #[arg(long, value_name = "FILE")]
    pub keys: PathBuf,
}

/// What `rejoin key rotate` is called with
#[derive(Debug, Args)]
pub struct KeyRotate {
    /// How to reach the coordinator
    #[command(flatten)]
    pub reach: Reach,

    /// Name of the worker, as its key has it
    #[arg(value_name = "WORKER")]
    pub worker: PeerName,
}

/// The role that one of the possible values means
fn role_of(text: &str) -> Role {
    if text == "client" { Role::Client } else { Role::Worker }
}

pub(super) const HELP: &str = "\
Examples:
  A key for a worker, then one for yourself:
    rejoin key new lab-3 --out lab-3.key --keys coordinator.keys
    rejoin key new alice --role client --out alice.key --keys coordinator.keys
  A token, by which a worker gets its key itself:
    rejoin key token lab-4 --out lab-4.token --keys coordinator.keys
  The worker's key is to be another one, while it works:
    rejoin key rotate lab-3 --coordinator ws://127.0.0.1:7878 --key alice.key
  The worker is gone, or its key may have been seen by others:
    rejoin key revoke lab-3 --keys coordinator.keys

Exit status:
  0      done
  254    a file cannot be read or written
  255    wrong usage, or what is asked for cannot be: a message says why";

const NEW_HELP: &str = "\
Examples:
  A key for a worker, then one for yourself:
    rejoin key new lab-3 --out lab-3.key --keys coordinator.keys
    rejoin key new alice --role client --out alice.key --keys coordinator.keys
  For 10,000 lightweight workers in one process, to try a coordinator of that size:
    rejoin key new crowd --count 10000 --out crowd.keys --keys trial.keys

Exit status:
  0      the key is in both files
  254    a file cannot be read or written; there is no new key file
  255    wrong usage, --out exists, or the name has a key or another role";

const TOKEN_HELP: &str = "\
Examples:
  By a file, and by a pipe:
    rejoin key token lab-3 --out lab-3.token --keys coordinator.keys
    rejoin key token lab-4 --keys coordinator.keys | ssh lab-4 \\
      rejoin worker --coordinator wss://box --token-file - --key lab-4.key

Exit status:
  0      the token is in the coordinator's file
  254    a file cannot be read or written
  255    wrong usage, --out exists, or the name has a key, a token, or another role";

const REVOKE_HELP: &str = "\
Example:
    rejoin key revoke lab-3 --keys coordinator.keys

Exit status:
  0      the key is revoked, now or since before
  254    the file cannot be read or written
  255    wrong usage, or the name has no key";

const ROTATE_HELP: &str = "\
Example:
    rejoin key rotate lab-3 --coordinator ws://127.0.0.1:7878 --key alice.key

Exit status:
  0      it is under way; both logs say when it is done
  254    there is no coordinator, or no such worker, or it is not connected
  255    wrong usage";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    fn parse(line: &str) -> Result<KeyCommand, String> {
        let words = "rejoin key".split(' ').chain(line.split(' '));
        let Command::Key { command } = Cli::try_parse_from(words).map_err(|error| error.to_string())?.command else {
            panic!("another command")
        };
        Ok(command)
    }

    #[test]
    fn every_option() {
        let KeyCommand::New(new) = parse("new lab-3 --out o --keys k").unwrap() else { panic!("another command") };
        assert_eq!((new.name.as_str(), new.role), ("lab-3", Role::Worker));
        assert_eq!((new.out, new.keys), ("o".into(), "k".into()));
        for (word, role) in [("worker", Role::Worker), ("client", Role::Client)] {
            let new = parse(&format!("new a --role {word} --out o --keys k")).unwrap();
            assert!(matches!(new, KeyCommand::New(KeyNew { role: is, .. }) if is == role));
        }
        let KeyCommand::Token(token) = parse("token a --keys k").unwrap() else { panic!("another command") };
        assert_eq!((token.out, token.valid), (None, Duration::from_secs(600)));
        let KeyCommand::Revoke(revoke) = parse("revoke a --keys k").unwrap() else { panic!("another command") };
        assert_eq!((revoke.name.as_str(), revoke.keys), ("a", "k".into()));
    }

    #[test]
    fn what_is_missing_or_wrong_is_told() {
        for (line, part) in [
            ("new --out o --keys k", "<NAME>"),
            ("new a --keys k", "--out <FILE>"),
            ("new a --out o", "--keys <FILE>"),
            ("token --keys k", "<NAME>"),
            ("token a", "--keys <FILE>"),
            ("token a --keys k --valid 0", "longer than zero"),
            ("token a --keys k --valid 31d", "30 days"),
            ("new a/b --out o --keys k", "a name is 1 to 64 letters"),
            ("new a --role boss --out o --keys k", "[possible values: worker, client]"),
            ("revoke a", "--keys <FILE>"),
            ("revoke --keys k", "<NAME>"),
            ("rotate", "<WORKER>"),
            ("list", "unrecognized subcommand 'list'"),
        ] {
            let message = parse(line).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn the_long_help_has_examples_and_exit_statuses() {
        for line in ["new --help", "token --help", "revoke --help", "rotate --help"] {
            let help = parse(line).unwrap_err();
            for part in ["Example", "    rejoin key ", "Exit status:", "  0 ", "  254 ", "  255 "] {
                assert!(help.contains(part), "{part} is not in\n{help}");
            }
            assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        }
    }
}
