//! `rejoin chaos`: a proxy that breaks connections on purpose, in front of any service

mod lines;
mod summary;

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use async_signal::{Signal, Signals};
use rejoin_smol::chaos::{Kind, Opaque, Profile, Proxy, Settings};
use rejoin_smol::clock::entropy;
use smol::future::{FutureExt, pending};
use smol::stream::StreamExt;

use crate::args::Chaos;
use crate::caller::Failed;
use crate::control::Control;
use crate::descriptors;
use crate::say::{complain, print};
use lines::{Lines, order};
use summary::{Listening, Summary};

const HELP: &str = "orders: a line of a schedule without its time, such as `delay all towards=peer for=5 amount=300000`; heal; status; help";

/// Most notes on a schedule that are printed
const NOTES_MAX: usize = 10;

/// Serves until told to stop, and returns the exit status
pub fn chaos(args: &Chaos) -> u8 {
    match smol::block_on(serve(args)) {
        Ok(()) => 0,
        Err(failed) => {
            complain(&failed.to_string());
            failed.status()
        }
    }
}

async fn serve(args: &Chaos) -> Result<(), Failed> {
    let lines = match &args.schedule {
        Some(path) => Some(read(path)?),
        None => None,
    };
    let seed = match args.seed.or(lines.as_ref().map(|lines| lines.seed)) {
        Some(seed) => seed,
        None => u64::from_le_bytes(entropy()?),
    };
    let mut settings = Settings::of(args.profile.unwrap_or(Profile::Calm), seed);
    if let Some(lines) = &lines {
        (settings.latency, settings.heartbeat) = (lines.latency, lines.heartbeat);
    }
    // An order may ask for what was said before it.
    settings.remembers = args.control.is_some() || lines.as_ref().is_some_and(Lines::repeats);
    descriptors::raise()?;
    let cannot =
        |address: std::net::SocketAddr| move |error: io::Error| Failed::Internal(format!("{address}: {error}"));
    if args.to.address() == Some(args.listen) {
        return Err(Failed::Usage(format!("--to {} is --listen: give the address of the service", args.to)));
    }
    let (proxy, serving) = Proxy::bind(args.listen, args.to.clone(), settings).map_err(cannot(args.listen))?;
    let control = match args.control {
        Some(address) => Some(Control::bind(address).map_err(cannot(address))?),
        None => None,
    };
    let mut signals = Signals::new([Signal::Int, Signal::Term, Signal::Hup])?;
    let listening = Listening { address: proxy.local_addr(), control: control.as_ref().map(Control::address), seed };
    if !print(&listening.text(args.json)) {
        return Err(Failed::Internal("standard output is closed".into()));
    }
    let workers = lines.as_ref().map(|lines| lines.workers);
    let (healed, heals) = smol::channel::bounded(1);
    let breaking = async {
        if let Some(Lines { faults, safety, .. }) = lines {
            let following = async {
                let over = smol::Timer::after(safety);
                proxy.follow(faults).await;
                over.await;
                proxy.heal();
            };
            // Whoever heals by hand does not want the rest of the schedule.
            following.or(async { _ = heals.recv().await }).await;
        }
        pending::<()>().await;
    };
    let controlling = async {
        match control {
            Some(control) => {
                let obey = |line: &str| match line {
                    "" | "help" => format!("{HELP}\n"),
                    "status" => Summary::of(&proxy, seed).json(),
                    "heal" => {
                        proxy.heal();
                        // Once is enough.
                        let _ = healed.try_send(());
                        "ok\n".to_owned()
                    }
                    _ => strike(&proxy, line, workers),
                };
                control.serve(obey).await
            }
            None => pending().await,
        }
    };
    let stopped = async { _ = signals.next().await };
    stopped.or(serving).or(breaking).or(controlling).await;
    let summary = Summary::of(&proxy, seed);
    print(&if args.json { summary.json() } else { summary.text() });
    Ok(())
}

/// Has the fault of an order strike, and what to say to that
fn strike(proxy: &Proxy, line: &str, workers: Option<u16>) -> String {
    match order(line, workers) {
        Ok(fault) => {
            proxy.strike(fault);
            proxy.opaque(fault).map_or_else(|| "ok\n".to_owned(), |why| impossible(fault.kind, why))
        }
        Err(problem) => format!("error: {problem}\n"),
    }
}

/// Why nothing comes of a fault
fn impossible(kind: Kind, why: Opaque) -> String {
    let why = match why {
        Opaque::Tls => "they are encrypted (TLS)",
        Opaque::Other => "it is no WebSocket",
    };
    format!(
        "error: {} is impossible, because nobody can tell the messages of that connection apart: {why}\n",
        kind.name()
    )
}

/// Reads a schedule, and says what of it means nothing here
fn read(path: &Path) -> Result<Lines, Failed> {
    let named = |error: io::Error| Failed::Internal(format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        io::stdin().take(lines::BYTES_MAX + 1).read_to_end(&mut bytes).map_err(named)?;
    } else {
        let file = fs::File::open(path).map_err(named)?;
        file.take(lines::BYTES_MAX + 1).read_to_end(&mut bytes).map_err(named)?;
    }
    let text = String::from_utf8(bytes).map_err(|_| "this is no text, and so no schedule".to_owned());
    let lines = text.and_then(|text| Lines::read(&text));
    let lines = lines.map_err(|problem| Failed::Usage(format!("{}: {problem}", path.display())))?;
    for note in lines.notes.iter().take(NOTES_MAX) {
        complain(&format!("{}: {note}", path.display()));
    }
    if let Some(more) = lines.notes.len().checked_sub(NOTES_MAX).filter(|more| *more > 0) {
        complain(&format!("{}: and {more} more such lines", path.display()));
    }
    Ok(lines)
}
