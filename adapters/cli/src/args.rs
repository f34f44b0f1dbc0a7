//! The command line

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::items::{Source, label};
use crate::report::EXIT_USAGE;

/// Run commands on workers whose links may be cut
#[derive(Debug, Parser)]
#[command(name = "rejoin", version, arg_required_else_help = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run one command per item on several local workers
    ///
    /// The links between the workers and the coordinator may be cut at any time:
    /// workers rejoin, work goes on, and every task's result counts exactly once.
    ///
    /// `{}` in CMD and its ARGs is replaced by the item, anywhere and as often as it
    /// occurs. Without any `{}` the item becomes the last argument. No shell is
    /// involved; for pipes and redirections run one: `sh -c '…' sh {}`.
    ///
    /// Items are given after `:::`, or one per line by --from or on standard input.
    /// Lines are taken as they are, empty ones too. Equal items are separate tasks.
    ///
    /// What a task writes appears whole when it has finished, never mixed with
    /// another's: its standard output on standard output, its standard error on
    /// standard error.
    #[command(
        verbatim_doc_comment,
        override_usage = "rejoin run [OPTIONS] -- CMD [ARG]... [::: ITEM...]",
        after_help = "Try `rejoin run --help` for examples and exit statuses.",
        after_long_help = AFTER_HELP,
    )]
    Run(Run),
}

/// What `rejoin run` is called with
#[derive(Debug, Args)]
pub struct Run {
    /// Number of workers, 1 to 256
    ///
    /// Each has a link of its own to the coordinator.
    /// By default as many as there are processors, at most 8.
    #[arg(long, value_name = "N", verbatim_doc_comment, default_value_t = default_workers(),
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub workers: u16,

    /// Tasks that one worker runs at a time, 1 to 256
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u16).range(1..=256))]
    pub slots: u16,

    /// Disturb the links on purpose
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Disrupt::None)]
    pub disrupt: Disrupt,

    /// Seed of all random choices, to repeat a run's disruptions
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,

    /// Print the tasks' output in the order of the items
    ///
    /// Without it each task's output is printed as soon as the task has finished.
    #[arg(long, verbatim_doc_comment)]
    pub keep_order: bool,

    /// Run a task that failed again, up to N times
    #[arg(long, value_name = "N", default_value_t = 0,
          value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub retries: u32,

    /// Stop a task that runs longer than D; it has failed
    ///
    /// D is a number with ms, s, m, h or d, as in 500ms, 30s, 5m or 1h30m.
    /// A plain number means seconds. Every attempt has the whole time.
    #[arg(long, value_name = "D", verbatim_doc_comment, value_parser = duration)]
    pub timeout: Option<Duration>,

    /// Stop a task that writes more than that; it has failed
    ///
    /// Standard output and standard error are counted separately.
    /// BYTES is a number, alone or with k, M, G or T (powers of 1000)
    /// or Ki, Mi, Gi or Ti (powers of 1024), a B may follow: 10k, 64MiB.
    #[arg(long, value_name = "BYTES", verbatim_doc_comment, default_value = "64MiB",
          value_parser = bytes)]
    pub output_max: u64,

    /// Directory for what a run writes to disk
    ///
    /// These are the workers' start logs, and output that is too large for memory
    /// until it is printed. They are in the folder rejoin-run there, which one run
    /// uses at a time; what an earlier one left in it is removed. Without --data a
    /// temporary directory is used, and removed at the end.
    #[arg(long, value_name = "DIR", verbatim_doc_comment)]
    pub data: Option<PathBuf>,

    /// Print one JSON object per finished task, and a summary last
    ///
    /// They replace the tasks' output. Text that is not UTF-8 is given in
    /// base64, in a field whose name ends in _base64.
    #[arg(long, verbatim_doc_comment)]
    pub json: bool,

    /// Read the items from FILE, one per line; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,

    /// What stands where only options may, taken in order to explain what is missing
    #[arg(num_args = 0.., hide = true)]
    stray: Vec<OsString>,

    /// The command after `--`, and the items after `:::`
    #[arg(last = true, num_args = 0.., value_name = "CMD", hide = true)]
    words: Vec<OsString>,
}

/// What to do to the links on purpose
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Disrupt {
    /// Leave them alone
    None,
    /// Cut them now and then
    Cuts,
    /// Disturb them in every way, all the time
    Storm,
}

const AFTER_HELP: &str = "\
Examples:
  Compress three files, two at a time:
    rejoin run --workers 2 -- gzip -9 ::: a.log b.log c.log
  The item in the middle, items from another program:
    find . -name '*.wav' | rejoin run -- ffmpeg -i {} {}.ogg
  One item per line of a file, output in the order of the lines:
    rejoin run --from urls.txt --keep-order -- curl -sS {}
  See the work survive links that are cut all the time:
    rejoin run --disrupt storm --seed 7 -- sh -c 'sleep 1; echo \"$1\"' sh {} ::: 1 2 3

Exit status:
  0      all tasks succeeded
  1-100  that many tasks failed
  101    more than 100 tasks failed
  130    interrupted, also by the reader of the output going away
  254    internal error, or the coordinator cannot be reached
  255    wrong usage";

/// Most workers when their number is not given
const DEFAULT_WORKERS_MAX: u16 = 8;

fn default_workers() -> u16 {
    std::thread::available_parallelism()
        .map_or(1, |cpus| u16::try_from(cpus.get()).unwrap_or(u16::MAX))
        .min(DEFAULT_WORKERS_MAX)
}

impl Run {
    /// The command, and where its items come from
    ///
    /// # Errors
    ///
    /// A usage error if one of the two is missing or given twice.
    pub fn work(&self, stdin_is_terminal: bool) -> Result<(Vec<OsString>, Source), clap::Error> {
        if let Some(word) = self.stray.first() {
            let message = format!("{} is no option; {DASHES_FIRST}", label(word));
            return Err(usage(ErrorKind::UnknownArgument, &message));
        }
        let mut parts = self.words.split(|word| word == OsStr::new(":::"));
        let command = parts.next().unwrap_or_default().to_vec();
        let listed = parts.next();
        if command.is_empty() {
            return Err(usage(ErrorKind::MissingRequiredArgument, NO_COMMAND));
        }
        if parts.next().is_some() {
            return Err(usage(ErrorKind::TooManyValues, SECOND_LIST));
        }
        let source = match (listed, &self.from) {
            (Some(_), Some(_)) => return Err(usage(ErrorKind::ArgumentConflict, TWO_SOURCES)),
            (Some(items), None) => Source::Listed(items.to_vec()),
            (None, Some(path)) if path.as_os_str() == "-" => Source::Stdin,
            (None, Some(path)) => Source::File(path.clone()),
            (None, None) if stdin_is_terminal => {
                return Err(usage(ErrorKind::MissingRequiredArgument, NO_ITEMS));
            }
            (None, None) => Source::Stdin,
        };
        Ok((command, source))
    }
}

const NO_COMMAND: &str = "no command given; write it after `--`, as in `rejoin run -- gzip {} ::: a.log b.log`";
const DASHES_FIRST: &str = "write `--` before the command, and all options before that";
const NO_ITEMS: &str = "no items given; write `::: ITEM...` after the command, or use \
    `--from FILE` (`--from -` to type them, one per line)";
const TWO_SOURCES: &str = "items are given both after `:::` and by `--from`; leave out one of the two";
const SECOND_LIST: &str = "`:::` occurs twice; write all items after the first one, \
    and give an item that is `:::` itself by `--from`";

/// A usage error as clap would report it for `rejoin run`
fn usage(kind: ErrorKind, message: &str) -> clap::Error {
    let mut cli = Cli::command();
    cli.build();
    match cli.find_subcommand_mut("run") {
        Some(run) => run.error(kind, message),
        None => cli.error(kind, message),
    }
}

/// Prints what clap has to say, be it help or an error, and gives the exit status
#[must_use]
pub fn conclude(said: &clap::Error) -> u8 {
    // Whoever closed the stream does not want to read it: nothing to report.
    let _ = said.print();
    status(said)
}

fn status(said: &clap::Error) -> u8 {
    if said.use_stderr() { EXIT_USAGE } else { 0 }
}

const DURATION_HINT: &str = "expected a duration such as 500ms, 30s, 5m or 1h30m (a plain number means seconds)";

/// Longest timeout in milliseconds
const DURATION_MAX: u64 = 365 * 86_400_000;

/// Units in milliseconds, in the order in which they may follow each other
const DURATION_UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

fn duration(text: &str) -> Result<Duration, String> {
    let (number, rest) = number(text).ok_or(DURATION_HINT)?;
    let millis = if rest.is_empty() { number.checked_mul(1_000) } else { with_units(text)? };
    match millis {
        Some(0) => Err("a timeout must be longer than zero".to_owned()),
        Some(millis) if millis <= DURATION_MAX => Ok(Duration::from_millis(millis)),
        _ => Err("a timeout is at most 365d".to_owned()),
    }
}

/// Milliseconds of a text such as `1h30m`, none if they are beyond all bounds
fn with_units(mut text: &str) -> Result<Option<u64>, String> {
    let mut total = Some(0_u64);
    let mut units = DURATION_UNITS.iter();
    while !text.is_empty() {
        let (count, rest) = number(text).ok_or(DURATION_HINT)?;
        let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (unit, rest) = rest.split_at(end);
        // `find` goes on where it stopped, so that a unit comes once and in order.
        let (_, millis) = units.find(|(name, _)| *name == unit).ok_or(DURATION_HINT)?;
        total = total.and_then(|total| total.checked_add(count.checked_mul(*millis)?));
        text = rest;
    }
    Ok(total)
}

const BYTES_HINT: &str = "expected a number of bytes such as 1000, 10k or 64MiB (k, M, G, T or Ki, Mi, Gi, Ti)";

/// Most bytes of output that can be allowed
const BYTES_MAX: u64 = 1 << 40;

fn bytes(text: &str) -> Result<u64, String> {
    let (number, unit) = number(text).ok_or(BYTES_HINT)?;
    let unit = unit.to_ascii_lowercase();
    let factor = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 1,
        "k" => 1_000,
        "m" => 1_000_000,
        "g" => 1_000_000_000,
        "t" => 1_000_000_000_000,
        "ki" => 1 << 10,
        "mi" => 1 << 20,
        "gi" => 1 << 30,
        "ti" => 1 << 40,
        _ => return Err(BYTES_HINT.to_owned()),
    };
    match number.checked_mul(factor) {
        Some(0) => Err("at least 1 byte must be allowed".to_owned()),
        Some(bytes) if bytes <= BYTES_MAX => Ok(bytes),
        _ => Err("at most 1TiB can be allowed".to_owned()),
    }
}

/// The number a text starts with, as large as can be if it is larger, and the rest
fn number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    (!digits.is_empty()).then(|| (digits.parse().unwrap_or(u64::MAX), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn parse(line: &[&str]) -> Result<Run, clap::Error> {
        let words = ["rejoin", "run"].iter().chain(line);
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Run(run) => run,
        })
    }

    fn refused(line: &[&str]) -> String {
        let error = parse(line).and_then(|run| run.work(true)).unwrap_err();
        assert_eq!(status(&error), 255);
        error.to_string()
    }

    fn work(line: &[&str]) -> (Vec<OsString>, Source) {
        parse(line).unwrap().work(false).unwrap()
    }

    #[test]
    fn clap_finds_no_fault_with_the_definition() {
        Cli::command().debug_assert();
    }

    #[test]
    fn defaults() {
        let run = parse(&["--", "true"]).unwrap();
        assert!((1..=DEFAULT_WORKERS_MAX).contains(&run.workers));
        assert_eq!(run.slots, 1);
        assert_eq!(run.disrupt, Disrupt::None);
        assert_eq!(run.seed, None);
        assert!(!run.keep_order && !run.json);
        assert_eq!(run.retries, 0);
        assert_eq!(run.timeout, None);
        assert_eq!(run.output_max, 64 << 20);
        assert_eq!(run.data, None);
        assert_eq!(run.from, None);
    }

    #[test]
    fn every_option() {
        let line = "--workers 3 --slots 4 --disrupt storm --seed 9 --keep-order --retries 2 \
                    --timeout 1h30m --output-max 10k --data d --json --from f -- c";
        let run = parse(&line.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!((run.workers, run.slots, run.retries), (3, 4, 2));
        assert_eq!((run.disrupt, run.seed), (Disrupt::Storm, Some(9)));
        assert!(run.keep_order && run.json);
        assert_eq!(run.timeout, Some(Duration::from_secs(5400)));
        assert_eq!(run.output_max, 10_000);
        assert_eq!(run.data, Some("d".into()));
        assert_eq!(run.from, Some("f".into()));
    }

    #[test]
    fn the_command_ends_at_the_colons() {
        assert_eq!(
            work(&["--", "cp", "-v", "--json", "{}", ":::", "a", "", "a"]),
            (
                vec!["cp".into(), "-v".into(), "--json".into(), "{}".into()],
                Source::Listed(vec!["a".into(), "".into(), "a".into()])
            )
        );
    }

    #[test]
    fn no_item_after_the_colons_is_no_task() {
        assert_eq!(work(&["--", "cp", ":::"]).1, Source::Listed(Vec::new()));
    }

    #[test]
    fn items_from_elsewhere() {
        assert_eq!(work(&["--", "cp"]).1, Source::Stdin);
        assert_eq!(work(&["--from", "-", "--", "cp"]).1, Source::Stdin);
        assert_eq!(work(&["--from", "list", "--", "cp"]).1, Source::File("list".into()));
        let typed = parse(&["--from", "-", "--", "cp"]).unwrap();
        assert_eq!(typed.work(true).unwrap().1, Source::Stdin);
    }

    #[test]
    fn words_need_not_be_utf8() {
        let strange = OsString::from_vec(b"\xff".to_vec());
        let mut line: Vec<OsString> = ["rejoin", "run", "--", "c"].iter().map(OsString::from).collect();
        line.extend([strange.clone(), ":::".into(), strange.clone()]);
        let Command::Run(run) = Cli::try_parse_from(line).unwrap().command;
        let (command, source) = run.work(false).unwrap();
        assert_eq!(command[1], strange);
        assert_eq!(source, Source::Listed(vec![strange]));
    }

    #[test]
    fn a_missing_part_is_explained() {
        for line in [&[][..], &["--json"], &["--"], &["--", ":::", "a"]] {
            let message = refused(line);
            assert!(message.contains(NO_COMMAND), "{message}");
            assert!(message.contains("Usage: rejoin run [OPTIONS] -- CMD"), "{message}");
        }
        assert!(refused(&["--", "c"]).contains(NO_ITEMS));
        for line in [&["c", ":::", "a"][..], &["--json", "c"], &["c", "--", "d"]] {
            let message = refused(line);
            assert!(message.contains("\"c\" is no option; write `--` before"), "{message}");
        }
    }

    #[test]
    fn two_sources_of_items_are_refused() {
        assert!(refused(&["--from", "f", "--", "c", ":::", "a"]).contains(TWO_SOURCES));
        assert!(refused(&["--from", "f", "--", "c", ":::"]).contains(TWO_SOURCES));
        assert!(refused(&["--", "c", ":::", "a", ":::", "b"]).contains(SECOND_LIST));
    }

    #[test]
    fn bounds() {
        for option in ["--workers", "--slots"] {
            for good in ["1", "256"] {
                assert!(parse(&[option, good, "--", "c"]).is_ok());
            }
            for bad in ["0", "257", "70000", "-1", "x", ""] {
                let message = refused(&[&format!("{option}={bad}"), "--", "c"]);
                assert!(message.contains(option), "{message}");
            }
        }
        assert!(refused(&["--workers", "257", "--", "c"]).contains("257 is not in 1..=256"));
        assert!(parse(&["--retries", "1000", "--", "c"]).is_ok());
        assert!(refused(&["--retries", "1001", "--", "c"]).contains("0..=1000"));
        assert!(refused(&["--disrupt", "rain", "--", "c"]).contains("[possible values: none, cuts, storm]"));
        assert!(refused(&["--seed", "x", "--", "c"]).contains("--seed"));
    }

    #[test]
    fn durations() {
        for (text, millis) in [
            ("1", 1_000),
            ("0030", 30_000),
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1d1h1m1s1ms", 90_061_001),
            ("0h1s", 1_000),
            ("90m", 5_400_000),
            ("365d", DURATION_MAX),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1", "+1", "1.5", "1.5s", "1h30", "1 s", "30m1h", "1s1s", "1y", "1S", "²s"] {
            assert_eq!(duration(text), Err(DURATION_HINT.to_owned()), "{text}");
        }
        assert!(duration("0").unwrap_err().contains("longer than zero"));
        assert!(duration("0h0ms").unwrap_err().contains("longer than zero"));
        for text in ["366d", "99999999999999999999", "18446744073709551615d"] {
            assert!(duration(text).unwrap_err().contains("at most 365d"), "{text}");
        }
        assert!(refused(&["--timeout", "soon", "--", "c"]).contains(DURATION_HINT));
    }

    #[test]
    fn sizes() {
        for (text, size) in [
            ("1", 1),
            ("1000", 1_000),
            ("10k", 10_000),
            ("10K", 10_000),
            ("10kB", 10_000),
            ("10KiB", 10_240),
            ("10Ki", 10_240),
            ("7B", 7),
            ("64MiB", 64 << 20),
            ("2M", 2_000_000),
            ("1g", 1_000_000_000),
            ("3gib", 3 << 30),
            ("1T", 1_000_000_000_000),
            ("1TiB", BYTES_MAX),
        ] {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in ["", "k", "-1", "1.5M", "1 k", "1kk", "1ib", "1bb", "1P"] {
            assert_eq!(bytes(text), Err(BYTES_HINT.to_owned()), "{text}");
        }
        assert!(bytes("0").unwrap_err().contains("at least 1 byte"));
        for text in ["2TiB", "1099511627777", "99999999999999999999", "18446744073709551615Ti"] {
            assert!(bytes(text).unwrap_err().contains("at most 1TiB"), "{text}");
        }
    }

    #[test]
    fn help_is_no_error_and_everything_else_is() {
        let status = |line: &[&str]| status(&Cli::try_parse_from(line).unwrap_err());
        for line in [
            &["rejoin", "--help"][..],
            &["rejoin", "-h"],
            &["rejoin", "--version"],
            &["rejoin", "help", "run"],
            &["rejoin", "run", "--help"],
            &["rejoin", "run", "-h"],
        ] {
            assert_eq!(status(line), 0, "{line:?}");
        }
        for line in [
            &["rejoin"][..],
            &["rejoin", "walk"],
            &["rejoin", "--nonsense"],
            &["rejoin", "run", "--nonsense"],
            &["rejoin", "run", "--timeout"],
            &["rejoin", "run", "--json", "--json", "--", "c"],
        ] {
            assert_eq!(status(line), 255, "{line:?}");
        }
    }

    #[test]
    fn the_long_help_has_it_all() {
        let help = parse(&["--help"]).unwrap_err().to_string();
        for part in ["Examples:", "Exit status:", "130 ", "{}", ":::", "--output-max <BYTES>", "1h30m"] {
            assert!(help.contains(part), "{part} is not in\n{help}");
        }
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
}
