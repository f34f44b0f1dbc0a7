//! The options of the commands for a fleet of separate processes

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::error::ErrorKind;
use rejoin_core::about::{BadAbout, Tag, Tags};
use rejoin_core::ids::{ClusterId, PeerName, TaskId};
use rejoin_core::limits::{WIRE_VERSION, WIRE_VERSION_OLDEST};
use rejoin_core::terms::Terms;
use rejoin_smol::url::Endpoint;

use crate::args::pins::PinOptions;
use crate::args::terms::TermsOptions;
use crate::args::tls::{Security, Shown};
use crate::args::usage;
use crate::args::values::{address, amount, bytes, cluster, duration, heartbeat, id_text, label, task, title};

/// Where coordinators are, and who wants to get in
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Access {
    /// Where the coordinator is, as in wss://box:7878 or wss://box/prefix
    ///
    /// May be given several times, or in the environment several separated by commas:
    /// any of them that answers will do.
    #[arg(
        long = "coordinator",
        value_name = "URL",
        verbatim_doc_comment,
        required = true,
        value_delimiter = ',',
        env = "REJOIN_COORDINATOR",
        hide_env_values = true
    )]
    pub coordinators: Vec<Endpoint>,

    /// The key file that `rejoin key new` made
    #[arg(long, value_name = "FILE", env = "REJOIN_KEY", hide_env_values = true)]
    pub key: PathBuf,

    /// How far it, and the way to it, are trusted
    #[command(flatten)]
    pub security: Security,
}

/// How a client reaches its coordinator
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Reach {
    /// Where to, and with which key
    #[command(flatten)]
    pub access: Access,

    /// How long to be without a coordinator before giving up
    ///
    /// By default 30 seconds; a command that follows tasks then waits for as long
    /// as it takes, once it was connected.
    #[arg(long, value_name = "D", verbatim_doc_comment, value_parser = duration)]
    pub patience: Option<Duration>,
}

/// What `rejoin coordinator` is called with
#[derive(Debug, Args)]
pub struct Coordinator {
    /// Address to listen on, as in 127.0.0.1:7878; without a port 7878
    ///
    /// 0.0.0.0 and :: are all addresses of this machine. With port 0 the system
    /// chooses one.
    #[arg(long, value_name = "ADDR", verbatim_doc_comment, value_parser = address)]
    pub listen: SocketAddr,

    /// Directory for everything that must survive this process
    ///
    /// It belongs to one coordinator at a time.
    #[arg(long, value_name = "DIR", verbatim_doc_comment)]
    pub data: PathBuf,

    /// The directory may be an old one: a backup was put back, or all was lost
    ///
    /// What was accepted after the backup is gone. So that nothing goes wrong with the
    /// rest, everything that is counted begins far above what workers and clients may
    /// have seen, and exclusive tasks wait until no lease can be in force any more. What
    /// they still hold is taken if its task is known, and else named in the log. To be
    /// given at the first start after that; at others it does no harm.
    #[arg(long, verbatim_doc_comment)]
    pub restored: bool,

    /// Id of the fleet that an empty directory is to go on with, as `rejoin status` shows it
    ///
    /// Workers and clients that still run serve no other one, and say which theirs is.
    #[arg(long, value_name = "ID", verbatim_doc_comment, requires = "restored", value_parser = cluster)]
    pub cluster: Option<ClusterId>,

    /// Who may connect: the file that `rejoin key new` writes
    ///
    /// It is followed while the coordinator runs.
    #[arg(long, value_name = "FILE", verbatim_doc_comment)]
    pub keys: PathBuf,

    /// What it shows of itself
    #[command(flatten)]
    pub shown: Shown,

    /// A URL by which workers and clients may dial; may be given several times
    ///
    /// Whoever was led here by another URL is refused. By default any URL will do.
    #[arg(long = "public-url", value_name = "URL", verbatim_doc_comment)]
    pub public_urls: Vec<Endpoint>,

    /// Heartbeat period of all links, 50ms to 40s
    ///
    /// A link is given up after 2.5 of them without a word. By default it follows
    /// the size of the fleet.
    #[arg(long, value_name = "D", verbatim_doc_comment, value_parser = heartbeat)]
    pub heartbeat: Option<Duration>,

    /// From a worker's disconnection to giving its tasks to others
    #[arg(long, value_name = "D", default_value = "60s", value_parser = duration)]
    pub lost_after: Duration,

    /// A worker whose link breaks more than five times within D gets one task at a time
    #[arg(long, value_name = "D", default_value = "10m", value_parser = duration)]
    pub flapping_within: Duration,

    /// How long an exclusive task may run without a word from here; or three heartbeats
    #[arg(long, value_name = "D", default_value = "30s", value_parser = duration)]
    pub lease: Duration,

    /// How much later it is over, killed if need be
    #[arg(long, value_name = "D", default_value = "10s", value_parser = duration)]
    pub lease_grace: Duration,

    /// How long workers may take to come back after a start of the coordinator
    ///
    /// Then the tasks of those that are missing go to others.
    #[arg(long, value_name = "D", verbatim_doc_comment, default_value = "120s", value_parser = duration)]
    pub recovery_window: Duration,

    /// In about what time after an end in order another coordinator is there
    ///
    /// SIGTERM, SIGHUP or Ctrl-C end it in order: everybody is told when to come back,
    /// one behind the other from then on.
    #[arg(long, value_name = "D", verbatim_doc_comment, default_value = "1s", value_parser = duration)]
    pub back_in: Duration,

    /// How long a session outlives its connection
    #[arg(long, value_name = "D", default_value = "300s", value_parser = duration)]
    pub session_lifetime: Duration,

    /// Speak this wire version at most, 1 or 2, for a fleet that is to stay at an older one
    #[arg(long, value_name = "N", default_value_t = WIRE_VERSION, hide_default_value = true, overrides_with = "wire_version",
          value_parser = clap::value_parser!(u16).range(WIRE_VERSION_OLDEST as i64..=WIRE_VERSION as i64))]
    pub wire_version: u16,

    /// How long tasks that have ended are kept
    ///
    /// Then their inputs, results and output go; how they ended is known for another day.
    #[arg(long, value_name = "D", verbatim_doc_comment, default_value = "7d", value_parser = duration)]
    pub keep_ended: Duration,

    /// What is not left to adapt by itself
    #[command(flatten)]
    pub pins: PinOptions,
}

/// What `rejoin worker` is called with
#[derive(Debug, Args)]
pub struct Worker {
    /// Where to, and with which key
    #[command(flatten)]
    pub access: Access,

    /// A join token of `rejoin key token`, for the first start; - is standard input
    ///
    /// If there is no --key FILE yet, the token gets this worker a key of its own,
    /// which is kept there. If there is one, the token is not looked at. To other
    /// hosts a token is used over TLS only.
    #[arg(long, value_name = "FILE", verbatim_doc_comment)]
    pub token_file: Option<PathBuf>,

    /// Tasks to run at a time, 1 to 256
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub slots: u16,

    /// Something tasks may ask for by --need, as in os=linux; may be given several times
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, Tag)>,

    /// Something tasks may take some of, as in gpu=2; may be given several times
    ///
    /// Each task that runs takes what its --take says, and never more than is left.
    #[arg(long = "resource", value_name = "NAME=AMOUNT", verbatim_doc_comment, value_parser = amount)]
    resources: Vec<(String, Tag)>,

    /// Directory where results, output and checkpoints wait for the coordinator
    ///
    /// What the worker has finished is kept there until the coordinator has it.
    /// A worker that is killed and started again with the same DIR delivers it;
    /// tasks that still ran are executed again. Each worker needs a DIR of its own.
    /// Without --data a temporary directory is used, and removed at the end:
    /// what is not delivered when the worker ends is executed again.
    #[arg(long, value_name = "DIR", verbatim_doc_comment)]
    pub data: Option<PathBuf>,

    /// Most bytes of finished tasks in --data; beyond that no new task is taken
    ///
    /// The room that a task may need is reserved on the disk before it is taken,
    /// but for output beyond 64KiB. So a full disk stops new work, and loses
    /// nothing that is finished.
    #[arg(long, value_name = "BYTES", verbatim_doc_comment, default_value = "1GiB", value_parser = bytes)]
    pub spool_max: u64,

    /// How long running tasks may go on when the worker is asked to end
    ///
    /// SIGTERM or Ctrl-C ask for it; a second one ends the worker at once.
    #[arg(long, value_name = "D", verbatim_doc_comment, default_value = "30s", value_parser = duration)]
    pub drain_timeout: Duration,

    /// Heartbeat period to ask the coordinator for, 50ms to 40s
    #[arg(long, value_name = "D", value_parser = heartbeat)]
    pub heartbeat: Option<Duration>,

    /// Speak this wire version at most, 1 or 2, for a fleet that is to stay at an older one
    #[arg(long, value_name = "N", default_value_t = WIRE_VERSION, hide_default_value = true, overrides_with = "wire_version",
          value_parser = clap::value_parser!(u16).range(WIRE_VERSION_OLDEST as i64..=WIRE_VERSION as i64))]
    pub wire_version: u16,

    /// What is not left to adapt by itself
    #[command(flatten)]
    pub pins: PinOptions,
}

/// What `rejoin submit` is called with
#[derive(Debug, Args)]
pub struct Submit {
    /// How to reach the coordinator
    #[command(flatten)]
    pub reach: Reach,

    /// Text to make the task's id of, so that the same submit again is the same task
    ///
    /// Other commands take id:TEXT for this task. Without --id each submit is a
    /// task of its own.
    #[arg(long, value_name = "TEXT", verbatim_doc_comment, value_parser = id_text)]
    pub id: Option<TaskId>,

    /// What people call the task
    #[arg(long, value_name = "TEXT", value_parser = title)]
    pub name: Option<String>,

    /// Which tasks go first, 0 to 4; 0 is the most urgent
    #[arg(long, value_name = "P", default_value_t = 2, value_parser = clap::value_parser!(u8).range(0..=4))]
    pub priority: u8,

    /// Run the task again if it fails, up to N times
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub retries: u32,

    /// Stop the task if it runs longer than D; it has failed
    ///
    /// D is a number with ms, s, m, h or d, as in 500ms, 30s, 5m or 1h30m.
    /// A plain number means seconds. Every attempt has the whole time.
    #[arg(long, value_name = "D", verbatim_doc_comment, value_parser = duration)]
    pub timeout: Option<Duration>,

    /// Stop the task if it writes more than that to a stream; it has failed
    #[arg(long, value_name = "BYTES", default_value = "64MiB", value_parser = bytes)]
    pub output_max: u64,

    /// Directory to run the command in, as the worker sees it
    ///
    /// Without it the command runs where its worker was started.
    #[arg(long, value_name = "DIR", verbatim_doc_comment)]
    pub cwd: Option<PathBuf>,

    /// File that the command gets as its standard input, at most 16 MiB; `-` is standard input
    ///
    /// Without it the command's standard input is empty.
    #[arg(long, value_name = "FILE", verbatim_doc_comment)]
    pub input: Option<PathBuf>,

    /// Run only on workers with this label, as in os=linux; may be given several times
    #[arg(long = "need", value_name = "K=V", value_parser = label)]
    needs: Vec<(String, Tag)>,

    /// Take that much of what a worker has, as in gpu=1; may be given several times
    #[arg(long = "take", value_name = "NAME=AMOUNT", value_parser = amount)]
    takes: Vec<(String, Tag)>,

    #[command(flatten)]
    terms: TermsOptions,

    /// Wait for the task's end, print its output, and end as it did
    #[arg(long)]
    pub wait: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// The command after `--`
    #[arg(last = true, required = true, num_args = 1.., value_name = "CMD")]
    pub command: Vec<OsString>,
}

/// What `rejoin wait` is called with
#[derive(Debug, Args)]
pub struct Wait {
    /// How to reach the coordinator
    #[command(flatten)]
    pub reach: Reach,

    /// Which tasks: ids as `submit` prints them, or id:TEXT
    #[arg(required = true, value_name = "TASK", value_parser = task)]
    pub tasks: Vec<TaskId>,
}

/// What `rejoin cancel` is called with
#[derive(Debug, Args)]
pub struct Cancel {
    /// How to reach the coordinator
    #[command(flatten)]
    pub reach: Reach,

    /// Which tasks: ids as `submit` prints them, or id:TEXT
    #[arg(required = true, value_name = "TASK", value_parser = task)]
    pub tasks: Vec<TaskId>,
}

/// What `rejoin forget` is called with
#[derive(Debug, Args)]
pub struct Forget {
    /// How to reach the coordinator
    #[command(flatten)]
    pub reach: Reach,

    /// Which tasks: ids as `submit` prints them, or id:TEXT
    #[arg(required = true, value_name = "TASK", value_parser = task)]
    pub tasks: Vec<TaskId>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `rejoin result` is called with
#[derive(Debug, Args)]
pub struct ResultOf {
    /// How to reach the coordinator
    #[command(flatten)]
    pub reach: Reach,

    /// Which task: an id as `submit` prints it, or id:TEXT
    #[arg(value_name = "TASK", value_parser = task)]
    pub task: TaskId,

    /// Write what the task returned to FILE; `-` is standard output
    ///
    /// A task returns what it leaves in the file that `REJOIN_RESULT` names.
    #[arg(long, value_name = "FILE", verbatim_doc_comment, conflicts_with = "json")]
    pub fetch: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `rejoin checkpoints` is called with
#[derive(Debug, Args)]
pub struct Checkpoints {
    /// How to reach the coordinator
    #[command(flatten)]
    pub reach: Reach,

    /// Which task: an id as `submit` prints it, or id:TEXT
    #[arg(value_name = "TASK", value_parser = task)]
    pub task: TaskId,

    /// Write a copy of the newest one to FILE; `-` is standard output
    #[arg(long, value_name = "FILE", conflicts_with = "drop")]
    pub fetch: Option<PathBuf>,

    /// Not the newest one, but the one of this number
    #[arg(long, value_name = "N", requires = "fetch", conflicts_with = "drop")]
    pub number: Option<u64>,

    /// Do without them: the next attempt begins anew; one that runs now may make others
    #[arg(long)]
    pub drop: bool,

    /// Print JSON
    #[arg(long, conflicts_with_all = ["fetch", "drop"])]
    pub json: bool,
}

/// What `rejoin logs` is called with
#[derive(Debug, Args)]
pub struct Logs {
    /// How to reach the coordinator
    #[command(flatten)]
    pub reach: Reach,

    /// Which task: an id as `submit` prints it, or id:TEXT
    #[arg(value_name = "TASK", value_parser = task)]
    pub task: TaskId,

    /// Go on until the task has ended
    #[arg(long)]
    pub follow: bool,

    /// Print what it wrote to standard error in place of standard output
    #[arg(long)]
    pub stderr: bool,
}

/// What `rejoin status` and `rejoin workers` are called with
#[derive(Debug, Args)]
pub struct List {
    /// How to reach the coordinator
    #[command(flatten)]
    pub reach: Reach,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// What `rejoin tasks` is called with
#[derive(Debug, Args)]
pub struct Tasks {
    /// How to reach the coordinator
    #[command(flatten)]
    pub reach: Reach,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Leave out tasks that have ended
    #[arg(long)]
    pub open: bool,
}

/// What `rejoin drain` is called with
#[derive(Debug, Args)]
pub struct Drain {
    /// How to reach the coordinator
    #[command(flatten)]
    pub reach: Reach,

    /// Name of the worker, as its key has it
    #[arg(value_name = "WORKER")]
    pub worker: PeerName,
}

/// What `rejoin brake` is called with
#[derive(Debug, Args)]
pub struct Brake {
    /// How to reach the coordinator
    #[command(flatten)]
    pub reach: Reach,

    /// Give the tasks of all workers that have been away for too long to others now
    #[arg(long)]
    pub off: bool,
}

impl Worker {
    /// What the worker offers to tasks
    ///
    /// # Errors
    ///
    /// A usage error if a name occurs twice, or there are too many.
    pub fn offers(&self) -> Result<Tags, clap::Error> {
        tags("worker", "--label and --resource", self.labels.iter().chain(&self.resources))
    }
}

impl Submit {
    /// What the task needs of its worker
    ///
    /// # Errors
    ///
    /// A usage error if a name occurs twice, or there are too many.
    pub fn needs(&self) -> Result<Tags, clap::Error> {
        tags("submit", "--need and --take", self.needs.iter().chain(&self.takes))
    }

    /// What may happen to the task when its worker is out of reach
    ///
    /// # Errors
    ///
    /// A usage error if that is contradictory.
    pub fn terms(&self) -> Result<Terms, clap::Error> {
        self.terms.terms("submit")
    }
}

pub(super) fn tags<'a>(
    command: &str,
    options: &str,
    mut of: impl Iterator<Item = &'a (String, Tag)>,
) -> Result<Tags, clap::Error> {
    let mut tags = Tags::default();
    let all = of.try_for_each(|(name, tag)| {
        let refused = |bad: BadAbout| usage(command, ErrorKind::ValueValidation, &format!("{options}: {name}: {bad}"));
        tags.insert(name, tag.clone()).map_err(refused)
    });
    all.map(|()| tags)
}

pub(super) const COORDINATOR_HELP: &str = "\
Example:
    rejoin key new lab-3 --out lab-3.key --keys coordinator.keys
    rejoin coordinator --listen 127.0.0.1:7878 --data state --keys coordinator.keys

If workers say that the coordinator's journal is older than what they have seen,
stop it, and put the right --data back. If that is lost, start with --restored.

Exit status:
  0      asked to end by SIGTERM or Ctrl-C
  254    internal error: the port or the directory is in use, or cannot be used
  255    wrong usage";

pub(super) const WORKER_HELP: &str = "\
Examples:
    rejoin worker --coordinator wss://box:7878 --ca box.pem --key lab-3.key --slots 4
    rejoin worker --coordinator wss://box/fleet --key lab-4.key --label os=linux --resource gpu=2

Exit status:
  0      asked to end by SIGTERM or Ctrl-C, or drained
  254    internal error, or the coordinator refuses this worker for good
  255    wrong usage";

pub(super) const SUBMIT_HELP: &str = "\
Examples:
  A task, and its output once it has ended:
    rejoin submit --coordinator wss://box:7878 --key me.key --wait -- make -C /src test
  The same task however often this is called:
    rejoin submit --id backup-2024-05-01 --retries 3 --need disk=large -- ./backup
    rejoin wait id:backup-2024-05-01

Exit status:
  0      accepted; with --wait, succeeded
  1      with --wait: failed or cancelled
  130    interrupted; what was accepted runs on
  254    internal error, no coordinator within --patience, or it refuses the task
  255    wrong usage";

pub(super) const WAIT_HELP: &str = "\
Example:
    rejoin wait 00112233445566778899aabbccddeeff id:backup-2024-05-01

Exit status:
  0      all of the tasks succeeded
  1-100  that many failed or were cancelled
  101    more than 100 did
  130    interrupted
  254    internal error, no coordinator within --patience, or no such task
  255    wrong usage";

pub(super) const RESULT_HELP: &str = "\
Example:
    rejoin result --json id:backup-2024-05-01

Exit status:
  0      the task succeeded
  1      it failed or was cancelled
  2      it has not ended yet
  254    internal error, no coordinator within --patience, or no such task
  255    wrong usage";

pub(super) const CHECKPOINTS_HELP: &str = "\
Examples:
    rejoin checkpoints id:training
    rejoin checkpoints id:training --fetch model.part

Exit status:
  0      done
  254    internal error, no coordinator within --patience, no such task, or no such checkpoint
  255    wrong usage";

pub(super) const LOGS_HELP: &str = "\
Example:
    rejoin logs --follow id:backup-2024-05-01

Exit status:
  0      everything there is was printed
  130    interrupted, also by the reader of the output going away
  254    internal error, no coordinator within --patience, or no such task
  255    wrong usage";

pub(super) const CANCEL_HELP: &str = "\
Example:
    rejoin cancel id:backup-2024-05-01

Exit status:
  0      asked for; tasks that have ended stay as they are
  254    internal error, no coordinator within --patience, or no such task
  255    wrong usage";

pub(super) const FORGET_HELP: &str = "\
Example:
    rejoin forget id:backup-2024-05-01

Exit status:
  0      forgotten
  1      some of the tasks have not ended, and stay as they are
  254    internal error, no coordinator within --patience, or no such task
  255    wrong usage";

pub(super) const STATUS_HELP: &str = "\
Example:
    rejoin status --coordinator wss://box:7878 --key me.key

Exit status:
  0      printed
  254    internal error, or no coordinator within --patience
  255    wrong usage";

pub(super) const WORKERS_HELP: &str = "\
Example:
    rejoin workers --json

Exit status:
  0      printed
  254    internal error, or no coordinator within --patience
  255    wrong usage";

pub(super) const TASKS_HELP: &str = "\
Example:
    rejoin tasks --open

Exit status:
  0      printed
  254    internal error, or no coordinator within --patience
  255    wrong usage";

pub(super) const DRAIN_HELP: &str = "\
Example:
    rejoin drain lab-3

Exit status:
  0      the worker gets no more tasks
  254    internal error, no coordinator within --patience, or no such worker
  255    wrong usage";

pub(super) const BRAKE_HELP: &str = "\
Example:
    rejoin brake --off

Exit status:
  0      printed
  254    internal error, or no coordinator within --patience
  255    wrong usage";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use clap::Parser;

    const ACCESS: [&str; 4] = ["--coordinator", "ws://box", "--key", "k"];

    fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Command, String> {
        let all = ["rejoin"].into_iter().chain(words);
        Cli::try_parse_from(all).map(|cli| cli.command).map_err(|error| error.to_string())
    }

    /// A line of words, and how to reach a coordinator after its first one
    fn reaching(line: &str) -> Result<Command, String> {
        let mut words: Vec<&str> = line.split(' ').collect();
        words.splice(1..1, ACCESS);
        parse(words)
    }

    macro_rules! options {
        ($variant:ident, $line:expr) => {
            match $line.unwrap() {
                Command::$variant(options) => options,
                other => panic!("{other:?}"),
            }
        };
    }

    fn ids(tasks: &[&str]) -> Vec<TaskId> {
        tasks.iter().map(|text| TaskId::from_text(text)).collect()
    }

    const fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn coordinator() {
        let least = options!(Coordinator, parse("coordinator --listen [::1] --data d --keys k".split(' ')));
        assert_eq!((least.listen.to_string().as_str(), least.heartbeat), ("[::1]:7878", None));
        assert_eq!((least.data, least.keys), ("d".into(), "k".into()));
        let spans = [least.lease, least.lost_after, least.recovery_window, least.session_lifetime];
        assert_eq!(spans, [30, 60, 120, 300].map(secs));
        let line = "coordinator --listen 0.0.0.0:1 --data d --keys k --heartbeat 2s --lease 3s --lost-after 4s \
                    --recovery-window 5s --session-lifetime 6s";
        let all = options!(Coordinator, parse(line.split_whitespace()));
        assert_eq!((all.heartbeat, all.lease, all.lost_after), (Some(secs(2)), secs(3), secs(4)));
        assert_eq!((all.recovery_window, all.session_lifetime), (secs(5), secs(6)));
        assert!(!all.restored && all.cluster.is_none());
        let line = "coordinator --listen [::1] --data d --keys k --restored --cluster 00112233445566778899AABBCCDDEEFF";
        let restored = options!(Coordinator, parse(line.split(' ')));
        let id = restored.cluster.map(|id| id.to_string());
        assert!(restored.restored && id.as_deref() == Some("00112233445566778899aabbccddeeff"));
        for (line, part) in [
            ("coordinator --data d --keys k", "--listen <ADDR>"),
            ("coordinator --listen [::] --keys k", "--data <DIR>"),
            ("coordinator --listen [::] --data d", "--keys <FILE>"),
            ("coordinator --listen box --data d --keys k", "expected an IP address with a port"),
            ("coordinator --listen [::] --data d --keys k --heartbeat 1ms", "50ms to 40s"),
            ("coordinator --listen [::] --data d --keys k --lease 0", "longer than zero"),
            ("coordinator --listen [::] --data d --keys k --cluster 0123456789abcdef0123456789abcdef", "--restored"),
            ("coordinator --listen [::] --data d --keys k --restored --cluster 12", "32 hexadecimal digits"),
        ] {
            let message = parse(line.split(' ')).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn worker() {
        let least = options!(Worker, reaching("worker"));
        assert_eq!(least.access.coordinators, ["ws://box".parse().unwrap()]);
        assert_eq!((least.access.key.clone(), least.slots, least.data.clone()), ("k".into(), 1, None));
        assert_eq!((least.drain_timeout, least.heartbeat), (secs(30), None));
        assert!(least.offers().unwrap().is_empty());
        let line = "worker --coordinator wss://other/x,third --slots 256 --label os=linux --resource gpu=2 --data d \
                    --label zone=a --drain-timeout 1m --heartbeat 1s";
        let all = options!(Worker, reaching(&line.split_whitespace().collect::<Vec<_>>().join(" ")));
        assert_eq!(all.access.coordinators.len(), 3);
        assert_eq!((all.slots, all.data.clone()), (256, Some("d".into())));
        assert_eq!((all.drain_timeout, all.heartbeat), (secs(60), Some(secs(1))));
        let offers = all.offers().unwrap();
        let names: Vec<_> = offers.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["gpu", "os", "zone"]);
        assert!(offers.iter().any(|tag| tag == ("gpu", &Tag::Amount(2))));
    }

    #[test]
    fn what_a_worker_cannot_be_is_refused() {
        for (line, part) in [
            ("worker --slots 0", "1..=256"),
            ("worker --slots 257", "1..=256"),
            ("worker --label linux", "os=linux"),
            ("worker --resource gpu=no", "gpu=2"),
            ("worker --heartbeat 41s", "50ms to 40s"),
            ("worker --coordinator http://me:secret@x", "remove all up to the @"),
            ("worker --drain-timeout 0", "longer than zero"),
        ] {
            let message = reaching(line).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
        let twice = options!(Worker, reaching("worker --label a=b --resource a=1")).offers().unwrap_err().to_string();
        assert!(twice.contains("--label and --resource: a: a name is given twice"), "{twice}");
        assert!(twice.contains("Usage: rejoin worker"), "{twice}");
        let many: Vec<_> = (0..17).map(|n| format!("--label l{n}=x")).collect();
        let many = options!(Worker, reaching(&format!("worker {}", many.join(" ")))).offers().unwrap_err();
        assert!(many.to_string().contains("at most 16 labels"), "{many}");
    }

    #[test]
    fn submit() {
        let least = options!(Submit, reaching("submit -- make -C x"));
        assert_eq!(least.command, ["make", "-C", "x"]);
        assert_eq!((least.id, least.name.as_deref(), least.priority, least.retries), (None, None, 2, 0));
        assert_eq!((least.timeout, least.output_max, least.cwd.as_deref()), (None, 64 << 20, None));
        assert!(!least.wait && !least.json && least.needs().unwrap().is_empty());
        let line = "submit --id a --name b --priority 0 --retries 3 --timeout 1m --output-max 1k --cwd d \
                    --need os=linux --take gpu=1 --wait --json --patience 5s -- c --json";
        let all = options!(Submit, reaching(&line.split_whitespace().collect::<Vec<_>>().join(" ")));
        assert_eq!((all.id, all.name.as_deref()), (Some(TaskId::from_text("a")), Some("b")));
        assert_eq!((all.priority, all.retries, all.timeout), (0, 3, Some(secs(60))));
        assert_eq!((all.output_max, all.cwd.clone()), (1000, Some("d".into())));
        assert!(all.wait && all.json && all.reach.patience == Some(secs(5)));
        assert_eq!(all.command, ["c", "--json"]);
        let needs = all.needs().unwrap();
        assert!(needs.iter().eq([("gpu", &Tag::Amount(1)), ("os", &Tag::Label("linux".into()))]));
    }

    #[test]
    fn what_cannot_be_submitted_is_refused() {
        for (line, part) in [
            ("submit", "<CMD>"),
            ("submit --", "<CMD>"),
            ("submit make", "unexpected argument 'make'"),
            ("submit --priority 5 -- c", "0..=4"),
            ("submit --retries 1001 -- c", "0..=1000"),
            ("submit --timeout soon -- c", "expected a duration"),
            ("submit --output-max 0 -- c", "at least 1 byte"),
            ("submit --id= -- c", "must not be empty"),
            ("submit --need os -- c", "os=linux"),
            ("submit --take os=linux -- c", "gpu=2"),
        ] {
            let message = reaching(line).unwrap_err();
            assert!(message.contains(part), "{line}: {message}");
        }
        let twice = options!(Submit, reaching("submit --need a=b --need a=b -- c")).needs().unwrap_err().to_string();
        assert!(twice.contains("--need and --take: a: a name is given twice"), "{twice}");
    }

    #[test]
    fn tasks_are_named_by_id_or_by_text() {
        let id = TaskId::from_text("x").to_string();
        let line = format!("id:a {id} id:a");
        assert_eq!(options!(Wait, reaching(&format!("wait {line}"))).tasks, ids(&["a", "x", "a"]));
        assert_eq!(options!(Cancel, reaching(&format!("cancel {line}"))).tasks, ids(&["a", "x", "a"]));
        let forget = options!(Forget, reaching(&format!("forget {line} --json")));
        assert!(forget.json && forget.tasks == ids(&["a", "x", "a"]));
        let result = options!(Result, reaching("result --json id:a"));
        assert!(result.json && result.task == ids(&["a"])[0]);
        let logs = options!(Logs, reaching("logs id:a --follow --stderr"));
        assert!(logs.follow && logs.stderr && logs.task == ids(&["a"])[0]);
        let logs = options!(Logs, reaching("logs id:a"));
        assert!(!logs.follow && !logs.stderr);
        for command in ["wait", "cancel", "forget", "result", "logs"] {
            assert!(reaching(command).unwrap_err().contains("<TASK>"), "{command}");
            let message = reaching(&format!("{command} nightly")).unwrap_err();
            assert!(message.contains("expected a task id of 32 hexadecimal digits"), "{message}");
        }
        assert!(reaching("result id:a id:b").is_err());
    }

    #[test]
    fn lists_and_drain() {
        assert!(!options!(Status, reaching("status")).json && options!(Status, reaching("status --json")).json);
        assert!(!options!(Workers, reaching("workers")).json && options!(Workers, reaching("workers --json")).json);
        let tasks = options!(Tasks, reaching("tasks"));
        assert!(!tasks.json && !tasks.open);
        let tasks = options!(Tasks, reaching("tasks --json --open"));
        assert!(tasks.json && tasks.open);
        assert_eq!(options!(Drain, reaching("drain lab-3")).worker.as_str(), "lab-3");
        assert!(reaching("drain a/b").unwrap_err().contains("a name is 1 to 64 letters"));
    }

    #[test]
    fn every_command_of_a_client_says_where_to_with_which_key_and_how_long() {
        for line in ["wait id:a", "cancel id:a", "result id:a", "logs id:a", "status", "workers", "tasks", "drain w"] {
            let words: Vec<_> = line.split(' ').collect();
            // Both may come from the environment, as they do not here.
            if std::env::var_os("REJOIN_COORDINATOR").is_none() {
                assert!(
                    parse(words.iter().copied().chain(["--key", "k"])).unwrap_err().contains("--coordinator <URL>")
                );
            }
            if std::env::var_os("REJOIN_KEY").is_none() {
                let message = parse(words.iter().copied().chain(["--coordinator", "x"])).unwrap_err();
                assert!(message.contains("--key <FILE>"), "{message}");
            }
            assert!(reaching(&format!("{line} --patience 0")).unwrap_err().contains("longer than zero"));
            assert!(reaching(&format!("{line} --patience 1h")).is_ok());
        }
        assert_eq!(options!(Status, reaching("status")).reach.patience, None);
    }

    #[test]
    fn the_guardian_is_not_shown() {
        assert!(matches!(parse(["guardian"]), Ok(Command::Guardian)));
        assert!(!parse(["--help"]).unwrap_err().contains("guardian"));
    }
}
