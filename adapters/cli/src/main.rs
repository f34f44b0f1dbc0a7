//! The program `rejoin`

pub mod access;
pub mod args;
pub mod ask;
pub mod audit;
pub mod backend;
pub mod bar;
pub mod caller;
pub mod certificate;
pub mod chaos;
pub mod checkpoints;
pub mod control;
pub mod coordinator;
pub mod crowd;
pub mod descriptors;
pub mod fleet;
pub mod forget;
pub mod items;
pub mod keys;
pub mod logs;
pub mod mutants;
#[cfg(target_os = "linux")]
pub mod netbox;
pub mod printer;
pub mod report;
pub mod resume;
pub mod run;
pub mod say;
pub mod sim;
pub mod stress;
pub mod submit;
pub mod template;
pub mod views;
pub mod worker;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Parser;
use tracing::level_filters::LevelFilter;

use crate::args::{Cli, Command, Run, conclude};
use crate::report::EXIT_USAGE;
use crate::say::complain;

fn main() -> ExitCode {
    #[cfg(rejoin_planted)]
    plant();
    let status = match Cli::try_parse() {
        Ok(Cli { command }) => start(&command),
        Err(said) => conclude(&said),
    };
    ExitCode::from(status)
}

/// Does what the command line asks for, with a log, and returns the exit status
fn start(command: &Command) -> u8 {
    // Those that run for long have nobody in front of them: the log is what they have to say.
    let serves = matches!(command, Command::Coordinator(_) | Command::Worker(_));
    // What clients of the stress suite come across is broken on purpose.
    let breaks = matches!(command, Command::Stress(_));
    let level = if serves { LevelFilter::INFO } else { LevelFilter::WARN };
    let logging = logs::init(if breaks { LevelFilter::OFF } else { level });
    if let Err(message) = logging {
        complain(&message);
        return EXIT_USAGE;
    }
    dispatch(command).unwrap_or_else(|said| conclude(&said))
}

/// Hands a command to what does it; an error is one of usage
fn dispatch(command: &Command) -> Result<u8, clap::Error> {
    Ok(match command {
        Command::Run(options) => run(options)?,
        Command::Coordinator(options) => coordinator::coordinator(options),
        Command::Worker(options) => worker::worker(options, options.offers()?),
        Command::Submit(options) => submit::submit(options, options.needs()?, options.terms()?),
        Command::Wait(options) => ask::wait(options),
        Command::Result(options) => ask::result(options),
        Command::Checkpoints(options) => checkpoints::checkpoints(options),
        Command::Logs(options) => ask::logs(options),
        Command::Cancel(options) => ask::cancel(options),
        Command::Forget(options) => forget::forget(options),
        Command::Status(options) => ask::status(options),
        Command::Workers(options) => ask::workers(options),
        Command::Tasks(options) => ask::tasks(options),
        Command::Drain(options) => ask::drain(options),
        Command::Brake(options) => ask::brake(options),
        Command::Cert(options) => certificate::cert(options),
        Command::Chaos(options) => chaos::chaos(options),
        #[cfg(target_os = "linux")]
        Command::Netbox(options) => netbox::netbox(options)?,
        Command::Crowd(options) => crowd::crowd(options),
        Command::Key { command } => keys::run(command),
        #[cfg(not(rejoin_planted))]
        Command::Sim { command } => sim::run(command),
        #[cfg(rejoin_planted)]
        Command::Sim { command, planted } => rejoin_sim::mutants::with(*planted, || sim::run(command)),
        Command::Stress(options) => stress::stress(options),
        Command::StressTask(options) => stress::task(options),
        Command::StressRelay(options) => stress::relay(options),
        Command::Guardian => {
            rejoin_smol::guardian::guard(io::stdin());
            0
        }
    })
}

fn run(options: &Run) -> Result<u8, clap::Error> {
    let (command, items) = options.work(io::stdin().is_terminal())?;
    let fleet = options.fleet(std::env::var_os("REJOIN_KEY"))?;
    Ok(run::run(options, (options.needs()?, options.terms()?), fleet, command, items))
}

/// Plants the bug that whoever started this process wants it to have
#[cfg(rejoin_planted)]
fn plant() {
    let number = std::env::var("REJOIN_PLANTED").ok().and_then(|number| number.parse().ok());
    rejoin_core::planted::plant(number.and_then(rejoin_core::planted::Bug::numbered));
}
