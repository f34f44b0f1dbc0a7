//! The options of `rejoin run`

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, ValueEnum};
use rejoin_core::about::{Tag, Tags};
use rejoin_core::terms::Terms;
use rejoin_smol::url::Endpoint;

use crate::args::fleet::{Access, Reach, tags};
use crate::args::terms::TermsOptions;
use crate::args::tls::Security;
use crate::args::usage;
use crate::args::values::{amount, bytes, duration, label as label_of, title};
use crate::items::{Source, label};

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

    /// Which tasks go first where others wait as well, 0 to 4; 0 is the most urgent
    #[arg(long, value_name = "P", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=4))]
    pub priority: u8,

    /// Run tasks only on workers with this label, as in os=linux; may be given several times
    #[arg(long = "need", value_name = "K=V", value_parser = label_of, requires = "coordinators")]
    needs: Vec<(String, Tag)>,

    /// Have each task take some of what its worker has, as in gpu=1; may be given several times
    #[arg(long = "take", value_name = "NAME=AMOUNT", value_parser = amount, requires = "coordinators")]
    takes: Vec<(String, Tag)>,

    #[command(flatten)]
    terms: TermsOptions,

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

    /// Use the workers of the fleet whose coordinator is at URL
    ///
    /// May be given several times: any of them that answers will do. There are no
    /// local workers then, so that --workers, --slots, --disrupt and --seed are of
    /// no use. Without --coordinator nothing leaves this machine.
    #[arg(long = "coordinator", value_name = "URL", verbatim_doc_comment,
          conflicts_with_all = ["workers", "slots", "disrupt", "seed"])]
    pub coordinators: Vec<Endpoint>,

    /// The client's key file for --coordinator [env: REJOIN_KEY]
    #[arg(long, value_name = "FILE", requires = "coordinators")]
    pub key: Option<PathBuf>,

    /// How far that coordinator, and the way to it, are trusted
    #[command(flatten)]
    pub security: Security,

    /// What people call the run; `rejoin tasks` shows it
    #[arg(long, value_name = "TEXT", value_parser = title)]
    pub name: Option<String>,

    /// Go on with the run that was broken off in --data
    ///
    /// Tasks that have ended there do not run again, and what was printed is not
    /// printed again. Tasks are known by their commands: the list may have changed.
    #[arg(long, verbatim_doc_comment)]
    pub resume: bool,

    /// Directory for what a run writes to disk
    ///
    /// These are the journal, the workers' start logs, and output that is too large
    /// for memory until it is printed. They are in the folder rejoin-run there,
    /// which one run uses at a time; what an earlier one left in it is removed,
    /// unless --resume goes on with it. Without --data a temporary directory is
    /// used, and removed at the end.
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

pub(super) const AFTER_HELP: &str = "\
Examples:
  Compress three files, two at a time:
    rejoin run --workers 2 -- gzip -9 ::: a.log b.log c.log
  The item in the middle, items from another program:
    find . -name '*.wav' | rejoin run -- ffmpeg -i {} {}.ogg
  One item per line of a file, output in the order of the lines:
    rejoin run --from urls.txt --keep-order -- curl -sS {}
  On the workers of a fleet:
    rejoin run --coordinator wss://box:7878 --key me.key -- ./convert ::: a b c
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
            return Err(usage("run", ErrorKind::UnknownArgument, &message));
        }
        if self.resume && self.data.is_none() {
            return Err(usage("run", ErrorKind::MissingRequiredArgument, NO_DATA));
        }
        let mut parts = self.words.split(|word| word == OsStr::new(":::"));
        let command = parts.next().unwrap_or_default().to_vec();
        let listed = parts.next();
        if command.is_empty() {
            return Err(usage("run", ErrorKind::MissingRequiredArgument, NO_COMMAND));
        }
        if parts.next().is_some() {
            return Err(usage("run", ErrorKind::TooManyValues, SECOND_LIST));
        }
        let source = match (listed, &self.from) {
            (Some(_), Some(_)) => return Err(usage("run", ErrorKind::ArgumentConflict, TWO_SOURCES)),
            (Some(items), None) => Source::Listed(items.to_vec()),
            (None, Some(path)) if path.as_os_str() == "-" => Source::Stdin,
            (None, Some(path)) => Source::File(path.clone()),
            (None, None) if stdin_is_terminal => {
                return Err(usage("run", ErrorKind::MissingRequiredArgument, NO_ITEMS));
            }
            (None, None) => Source::Stdin,
        };
        Ok((command, source))
    }

    /// What the tasks need of their workers
    ///
    /// # Errors
    ///
    /// A usage error if a name occurs twice, or there are too many.
    pub fn needs(&self) -> Result<Tags, clap::Error> {
        tags("run", "--need and --take", self.needs.iter().chain(&self.takes))
    }

    /// What may happen to the tasks when their workers are out of reach
    ///
    /// # Errors
    ///
    /// A usage error if that is contradictory.
    pub fn terms(&self) -> Result<Terms, clap::Error> {
        self.terms.terms("run")
    }

    /// The fleet that does the work, none if it is done here; the key file may come from the environment
    ///
    /// # Errors
    ///
    /// A usage error if there is no key file.
    pub fn fleet(&self, key_from_env: Option<OsString>) -> Result<Option<Reach>, clap::Error> {
        if self.coordinators.is_empty() {
            if self.security != Security::default() {
                return Err(usage("run", ErrorKind::MissingRequiredArgument, NO_COORDINATOR));
            }
            return Ok(None);
        }
        let from_env = || key_from_env.filter(|path| !path.is_empty()).map(PathBuf::from);
        let Some(key) = self.key.clone().or_else(from_env) else {
            return Err(usage("run", ErrorKind::MissingRequiredArgument, NO_KEY));
        };
        let access = Access { coordinators: self.coordinators.clone(), key, security: self.security.clone() };
        Ok(Some(Reach { access, patience: None }))
    }
}

const NO_COMMAND: &str = "no command given; write it after `--`, as in `rejoin run -- gzip {} ::: a.log b.log`";
const DASHES_FIRST: &str = "write `--` before the command, and all options before that";
const NO_ITEMS: &str = "no items given; write `::: ITEM...` after the command, or use \
    `--from FILE` (`--from -` to type them, one per line)";
const TWO_SOURCES: &str = "items are given both after `:::` and by `--from`; leave out one of the two";
const NO_DATA: &str = "`--resume` goes on with a run that kept what it did; name its directory by `--data DIR`";
const NO_COORDINATOR: &str = "`--ca`, `--insecure-ws` and `--binding` are about links to a fleet; name its coordinator by \
    `--coordinator URL`";
const NO_KEY: &str = "`--coordinator` lets nobody in without a key; give its file by `--key FILE` or in REJOIN_KEY";
const SECOND_LIST: &str = "`:::` occurs twice; write all items after the first one, \
    and give an item that is `:::` itself by `--from`";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::values::DURATION_HINT;
    use crate::args::{Cli, Command, status};
    use clap::Parser;
    use std::os::unix::ffi::OsStringExt;

    fn parse(line: &[&str]) -> Result<Run, clap::Error> {
        let words = ["rejoin", "run"].iter().chain(line);
        let Command::Run(run) = Cli::try_parse_from(words)?.command else { panic!("another command") };
        Ok(*run)
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
        assert_eq!((run.name.as_deref(), run.resume), (None, false));
        assert_eq!(run.fleet(Some("key".into())).unwrap(), None, "a key in the environment is no wish for a fleet");
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
    fn a_fleet_takes_the_place_of_local_workers() {
        let line = ["--coordinator", "box", "--coordinator", "ws://other:1", "--name", "x y", "--", "c"];
        let run = parse(&line).unwrap();
        let reach = run.fleet(Some("from-env".into())).unwrap().unwrap();
        let urls: Vec<_> = reach.access.coordinators.iter().map(ToString::to_string).collect();
        assert_eq!(urls, ["wss://box:7878/v1/worker", "ws://other:1/v1/worker"]);
        assert_eq!((reach.access.key, reach.patience), ("from-env".into(), None));
        assert_eq!(run.name.as_deref(), Some("x y"));
        let given = parse(&["--key", "given", "--coordinator", "box", "--", "c"]).unwrap();
        assert_eq!(given.fleet(Some("from-env".into())).unwrap().unwrap().access.key, PathBuf::from("given"));
        for nothing in [None, Some(OsString::new())] {
            assert!(run.fleet(nothing).unwrap_err().to_string().contains(NO_KEY));
        }
        for local in ["--workers=1", "--slots=1", "--disrupt=none", "--seed=1"] {
            let message = refused(&["--coordinator", "box", local, "--", "c"]);
            assert!(message.contains("'--coordinator <URL>' cannot be used with"), "{message}");
            assert!(message.contains(&local[..6]), "{message}");
        }
        assert!(refused(&["--key", "k", "--", "c"]).contains("--coordinator <URL>"));
        assert!(refused(&["--coordinator", "ftp://x", "--", "c"]).contains("the URL's scheme is unknown"));
    }

    #[test]
    fn a_run_is_resumed_from_its_data() {
        assert!(parse(&["--resume", "--data", "d", "--", "c", ":::"]).unwrap().work(true).is_ok());
        assert!(refused(&["--resume", "--", "c", ":::"]).contains(NO_DATA));
        assert!(refused(&["--name", "a\tb", "--", "c", ":::"]).contains("control characters"));
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
        let Command::Run(run) = Cli::try_parse_from(line).unwrap().command else { panic!("another command") };
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
        assert!(refused(&["--timeout", "soon", "--", "c"]).contains(DURATION_HINT));
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
