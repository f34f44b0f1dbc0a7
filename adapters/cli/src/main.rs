//! The program `rejoin`

pub mod args;
pub mod audit;
pub mod descriptors;
pub mod fleet;
pub mod items;
pub mod printer;
pub mod report;
pub mod run;
pub mod template;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;

use crate::args::{Cli, Command, conclude};

fn main() -> ExitCode {
    let status = match Cli::try_parse() {
        Ok(Cli { command: Command::Run(options) }) => match options.work(std::io::stdin().is_terminal()) {
            Ok((command, items)) => run::run(&options, command, items),
            Err(error) => conclude(&error),
        },
        Err(error) => conclude(&error),
    };
    ExitCode::from(status)
}
