//! `rejoin netbox`: a command and a service on hosts of their own, and a bad network between them

mod commands;
mod summary;

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::process::Command;
use std::time::Instant;

use async_signal::{Signal, Signals};
use rejoin_smol::clock::entropy;
use rejoin_smol::packets::{self, Kind};
use smol::Timer;
use smol::future::{FutureExt, pending};

use crate::args::{Netbox, Order};
use crate::caller::Failed;
use crate::control::Control;
use crate::say::complain;
use commands::{Commands, status};
use summary::{Ready, Summary};

/// Runs the command, and returns its exit status
///
/// # Errors
///
/// One of usage.
pub fn netbox(args: &Netbox) -> Result<u8, clap::Error> {
    let orders = args.orders()?;
    let ended = if args.inside { smol::block_on(inside(args, orders)) } else { launch() };
    Ok(ended.unwrap_or_else(|failed| {
        complain(&failed.to_string());
        failed.status()
    }))
}

/// Starts the same again, in namespaces of its own
fn launch() -> Result<u8, Failed> {
    let mut command = Command::new(env::current_exe()?);
    command.args(["netbox", "--inside"]).args(env::args_os().skip(2));
    let ended = packets::launch(&mut command).map_err(|unavailable| Failed::Internal(unavailable.to_string()))?;
    Ok(status(ended))
}

async fn inside(args: &Netbox, orders: Vec<(std::time::Duration, Order)>) -> Result<u8, Failed> {
    let unavailable = |unavailable: packets::Unavailable| Failed::Internal(unavailable.to_string());
    packets::settle().map_err(unavailable)?;
    let signals = Signals::new([Signal::Child, Signal::Hup, Signal::Int, Signal::Term])?;
    let mut report = Report::open(args)?;
    let seed = args.seed.map_or_else(|| entropy().map(u64::from_le_bytes), Ok)?;
    let netbox = packets::Netbox::new(seed).map_err(unavailable)?;
    for condition in args.conditions() {
        netbox.set(condition)?;
    }
    let control = match args.control {
        Some(address) => {
            let named = |error| Failed::Internal(format!("{address}: {error}"));
            Some(Control::bind(address).map_err(named)?)
        }
        None => None,
    };
    report.say(&Ready { seed, control: control.as_ref().map(Control::address) }.text(args.json))?;
    let started = Instant::now();
    let commands = Commands::new(&netbox);
    let (begun, begins) = smol::channel::bounded(1);
    let running = commands.run(args, signals, &begun);
    let serving = async { netbox.serve().await.map_or_else(|error| Err(Failed::from(error)), Ok).map(|()| 0) };
    let following = async {
        // Times count from the start of the command.
        let _ = begins.recv().await;
        let start = Instant::now();
        for (at, order) in orders {
            Timer::at(start + at).await;
            obey(&netbox, order)?;
        }
        pending().await
    };
    let controlling = async {
        match control {
            Some(control) => control.serve(|line| answer(&netbox, line, seed, started)).await,
            None => pending().await,
        }
        Ok(0)
    };
    let ended = running.or(serving).or(following).or(controlling).await?;
    let summary = Summary::of(&netbox, seed, started);
    report.say(&if args.json { summary.json() } else { summary.text() })?;
    Ok(ended)
}

fn obey(netbox: &packets::Netbox, order: Order) -> io::Result<()> {
    match order {
        Order::Set(condition) => netbox.set(condition),
        Order::Heal => netbox.heal(),
    }
}

/// What is said to an order
fn answer(netbox: &packets::Netbox, line: &str, seed: u64, started: Instant) -> String {
    match line {
        "" | "help" => {
            let names: Vec<&str> = Kind::ALL.iter().map(|kind| kind.name()).collect();
            format!(
                "orders: a condition, such as `loss 5% towards=peer for=3s` ({}); heal; status; help\n",
                names.join(", ")
            )
        }
        "status" => Summary::of(netbox, seed, started).json(),
        _ => {
            let obeyed = line.parse().and_then(|order| obey(netbox, order).map_err(|error| error.to_string()));
            obeyed.map_or_else(|problem| format!("error: {problem}\n"), |()| "ok\n".to_owned())
        }
    }
}

/// Where the program says what it has to say
struct Report(Option<File>);

impl Report {
    fn open(args: &Netbox) -> Result<Report, Failed> {
        let Some(path) = &args.report else { return Ok(Report(None)) };
        let file = File::create(path).map_err(|error| Failed::Internal(format!("{}: {error}", path.display())))?;
        Ok(Report(Some(file)))
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        match &mut self.0 {
            Some(file) => file.write_all(text.as_bytes()),
            // If standard error is gone the command goes on all the same.
            None => Ok(_ = io::stderr().write_all(text.as_bytes())),
        }
    }
}
