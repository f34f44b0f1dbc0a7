//! The command line
//!
//! Each command's options are next to its help: [`run`](self::Run) in a room of its own, the others, which deal with a
//! fleet of separate processes, together.

mod chaos;
mod crowd;
mod fleet;
mod keys;
#[cfg(target_os = "linux")]
mod netbox;
mod pins;
mod run;
mod sim;
mod stress;
mod terms;
mod tls;
mod values;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

pub use chaos::Chaos;
pub use crowd::Crowd;
pub use fleet::{
    Access, Brake, Cancel, Checkpoints, Coordinator, Drain, Forget, List, Logs, Reach, ResultOf, Submit, Tasks, Wait,
    Worker,
};
pub use keys::{KeyCommand, KeyNew, KeyRevoke, KeyRotate, KeyToken, TOKEN_VALID_MAX};
#[cfg(target_os = "linux")]
pub use netbox::{Netbox, Order};
pub use run::{Disrupt, Run};
pub use sim::{
    Eyes, SimBench, SimCause, SimCommand, SimCorpus, SimCorpusAdd, SimCorpusCheck, SimCover, SimDiff, SimExplore,
    SimMutants, SimReplay, SimRun, SimShrink, SimSwarm,
};
pub use stress::{Stress, StressRelay, StressTask};
pub use tls::{Cert, Security, Shown};

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
    /// Run one command per item, on local workers or on a fleet
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
        after_long_help = run::AFTER_HELP,
    )]
    Run(Box<Run>),
    /// Take tasks from clients and hand them to workers
    ///
    /// Everything that was accepted is in --data before anybody is told, so that a
    /// coordinator that ends, however it does, goes on where it was when it is started
    /// again with the same directory. Workers and clients come back by themselves.
    ///
    /// Links are always authenticated; with --tls-cert they are encrypted as well, as
    /// they must be beyond networks that you trust.
    #[command(verbatim_doc_comment, after_long_help = fleet::COORDINATOR_HELP)]
    Coordinator(Coordinator),
    /// Run tasks for a coordinator
    ///
    /// The worker comes back by itself whenever its link or its coordinator is gone, and
    /// what it runs goes on meanwhile.
    #[command(verbatim_doc_comment, after_long_help = fleet::WORKER_HELP)]
    Worker(Box<Worker>),
    /// Have a command run by some worker, and print the task's id
    ///
    /// No shell is involved; for pipes and redirections run one: `sh -c '…'`.
    #[command(verbatim_doc_comment, after_long_help = fleet::SUBMIT_HELP,
              override_usage = "rejoin submit [OPTIONS] --coordinator <URL> --key <FILE> -- CMD [ARG]...")]
    Submit(Box<Submit>),
    /// Wait until tasks have ended
    #[command(verbatim_doc_comment, after_long_help = fleet::WAIT_HELP)]
    Wait(Wait),
    /// Print how a task has ended
    #[command(verbatim_doc_comment, after_long_help = fleet::RESULT_HELP)]
    Result(ResultOf),
    /// List the checkpoints that are kept of a task, fetch one, or do without them
    #[command(after_long_help = fleet::CHECKPOINTS_HELP)]
    Checkpoints(Checkpoints),
    /// Print what a task has written so far
    ///
    /// If another attempt takes the place of one that was lost, its output follows from
    /// its beginning.
    #[command(verbatim_doc_comment, after_long_help = fleet::LOGS_HELP)]
    Logs(Logs),
    /// Stop tasks, whether they run yet or not
    ///
    /// What runs gets SIGTERM, and SIGKILL ten seconds later.
    #[command(verbatim_doc_comment, after_long_help = fleet::CANCEL_HELP)]
    Cancel(Cancel),
    /// Drop inputs, results and output of tasks that have ended
    ///
    /// How they ended is known for another day, so that the same submit again is still
    /// the same task. All tasks are forgotten in time: see the coordinator's --keep-ended.
    #[command(verbatim_doc_comment, after_long_help = fleet::FORGET_HELP)]
    Forget(Forget),
    /// Print how the coordinator and its fleet are doing
    #[command(verbatim_doc_comment, after_long_help = fleet::STATUS_HELP)]
    Status(List),
    /// Print all workers, what they offer, and what they do
    #[command(verbatim_doc_comment, after_long_help = fleet::WORKERS_HELP)]
    Workers(List),
    /// Print all tasks and how far they are
    #[command(verbatim_doc_comment, after_long_help = fleet::TASKS_HELP)]
    Tasks(Tasks),
    /// Give no more tasks to a worker
    ///
    /// What it runs goes on to its end.
    #[command(verbatim_doc_comment, after_long_help = fleet::DRAIN_HELP)]
    Drain(Drain),
    /// Print whether losses of workers are delayed, or end that
    ///
    /// When many workers vanish at a time, their tasks are not given to others for
    /// up to five minutes: it is hardly all of them that have failed.
    #[command(verbatim_doc_comment, after_long_help = fleet::BRAKE_HELP)]
    Brake(Brake),
    /// Make a certificate for a coordinator, signed by itself
    ///
    /// Whoever dials the coordinator is given the certificate by --ca; the private key
    /// stays with the coordinator.
    #[command(verbatim_doc_comment, after_long_help = tls::CERT_HELP)]
    Cert(Cert),
    /// Make and revoke the keys that workers and clients prove themselves with
    #[command(after_long_help = keys::HELP)]
    Key {
        /// What to do about keys
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Stand in front of any TCP service, and break connections on purpose
    ///
    /// What breaks is said by a schedule, as the simulator writes and reads it, drawn from
    /// a seed, or told while it runs. Without any of that all bytes pass as they are.
    #[command(verbatim_doc_comment, after_long_help = chaos::HELP)]
    Chaos(Chaos),
    /// Run a command behind a network that loses, delays and damages packets
    ///
    /// The command and a service have a host each: a network namespace of Linux, without
    /// any rights. Between them packets suffer what is asked for, beneath the system's
    /// own TCP. Which packets, by their number, follows from the seed.
    #[cfg(target_os = "linux")]
    #[command(verbatim_doc_comment, after_long_help = netbox::HELP,
              override_usage = "rejoin netbox [OPTIONS] -- CMD [ARG]...")]
    Netbox(Box<Netbox>),
    /// Break real fleets on this machine, and see whether everything holds
    ///
    /// Coordinators and workers are processes of their own, with proxies in between; they
    /// are killed, frozen and cut off while tasks are done, and judged by their journals,
    /// by marks that the tasks leave, and by what clients were told.
    #[command(verbatim_doc_comment, after_long_help = stress::HELP)]
    Stress(Stress),
    /// Be many lightweight workers at once, to try what a coordinator can carry
    ///
    /// Each has a key, a WebSocket and a session of its own, as any worker has, and comes
    /// back like one. They run no commands: the only tasks they do are those that pretend
    /// to take some time, and any other one fails. So give them a coordinator of their
    /// own, or have all other tasks --need what they do not offer.
    #[command(verbatim_doc_comment, after_long_help = crowd::HELP)]
    Crowd(Box<Crowd>),
    /// Break simulated fleets in every way, by seed, and see whether everything holds
    ///
    /// The machines are the ones that run in production, over virtual networks, clocks,
    /// disks and processes. A seed always does the same.
    #[command(verbatim_doc_comment, after_long_help = sim::HELP)]
    Sim {
        /// What to do
        #[command(subcommand)]
        command: SimCommand,

        /// Have one of the bugs that this build may have
        #[cfg(rejoin_planted)]
        #[arg(long, global = true, value_name = "M5", value_parser = sim::bug)]
        planted: Option<rejoin_core::planted::Bug>,
    },
    /// Watch over a worker's processes; for the program's own use
    #[command(hide = true)]
    Guardian,
    /// Be a task of `rejoin stress`; for the program's own use
    #[command(hide = true)]
    StressTask(StressTask),
    /// Be a relay of `rejoin stress`; for the program's own use
    #[command(hide = true)]
    StressRelay(StressRelay),
}

/// A usage error as clap would report it for a command
fn usage(command: &str, kind: ErrorKind, message: &str) -> clap::Error {
    let mut cli = Cli::command();
    cli.build();
    match cli.find_subcommand_mut(command) {
        Some(command) => command.error(kind, message),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_finds_no_fault_with_the_definition() {
        Cli::command().debug_assert();
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
    fn every_command_has_an_example_and_its_exit_statuses() {
        let mut cli = Cli::command();
        cli.build();
        for command in cli.get_subcommands_mut().filter(|command| !command.is_hide_set()) {
            let name = command.get_name().to_owned();
            if name == "help" {
                continue;
            }
            let help = command.render_long_help().to_string();
            for part in ["Exit status:", "  0 ", "  254 ", "  255 ", &format!("    rejoin {name} ")] {
                assert!(help.contains(part), "{part} is not in\n{help}");
            }
            assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
        }
    }
}
