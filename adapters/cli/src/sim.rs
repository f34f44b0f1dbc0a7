//! `rejoin sim`: the simulator for people
//!
//! Standard output depends on seeds and schedules alone: no times of this machine, no counts of its processors.

mod explore;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rejoin_sim::audit::Check;
use rejoin_sim::generate::generate;
use rejoin_sim::menu::{Kind, Scope};
use rejoin_sim::schedule::Schedule;
use rejoin_sim::shrink::shrink;
use rejoin_sim::simulation::{Ending, Figures, Simulation};
use rejoin_sim::swarm::{Failure, Plan, Report, attempt, swarm};

use crate::args::{SimCommand, SimMutants, SimReplay, SimRun, SimShrink, SimSwarm};
use crate::report::{EXIT_INTERNAL, EXIT_USAGE};
use crate::say::{complain, print};

/// Something did not hold
const EXIT_VIOLATION: u8 = 1;
/// Too many seeds did nothing
const EXIT_VOID: u8 = 2;
/// The same schedule went two ways
const EXIT_NOT_DETERMINISTIC: u8 = 3;

/// Does what the command line asks for, and returns the exit status
pub fn run(command: &SimCommand) -> u8 {
    // A machine that panics is reported like everything else that fails.
    std::panic::set_hook(Box::new(|_| {}));
    let done = match command {
        SimCommand::Run(args) => run_seed(args),
        SimCommand::Swarm(args) => run_swarm(args),
        SimCommand::Replay(args) => replay(args),
        SimCommand::Shrink(args) => shrink_file(args),
        SimCommand::Explore(args) => explore::run(args),
        SimCommand::Mutants(args) => mutants(args),
        SimCommand::Menu => menu(),
    };
    done.unwrap_or_else(|Unusable(status, message)| {
        complain(&message);
        status
    })
}

/// A file that cannot be used: exit status, and why
struct Unusable(u8, String);

fn write(path: &Path, text: &str) -> Result<(), Unusable> {
    if path == Path::new("-") {
        return if print(text) { Ok(()) } else { Err(Unusable(EXIT_INTERNAL, "standard output is closed".into())) };
    }
    fs::write(path, text).map_err(|error| Unusable(EXIT_INTERNAL, format!("{}: {error}", path.display())))
}

fn read(path: &Path) -> Result<Schedule, Unusable> {
    let text = fs::read_to_string(path);
    let text = text.map_err(|error| Unusable(EXIT_INTERNAL, format!("{}: {error}", path.display())))?;
    text.parse().map_err(|error| Unusable(EXIT_USAGE, format!("{}: {error}", path.display())))
}

fn run_seed(args: &SimRun) -> Result<u8, Unusable> {
    let schedule = generate(args.seed, args.profile);
    if let Some(path) = &args.schedule {
        write(path, &schedule.to_string())?;
    }
    let again = format!("rejoin sim run --seed {} --profile {}", args.seed, args.profile);
    show(&schedule, args.double, args.trace.as_ref(), &again)
}

fn replay(args: &SimReplay) -> Result<u8, Unusable> {
    let schedule = read(&args.file)?;
    show(&schedule, false, args.trace.as_ref(), &format!("rejoin sim replay {}", args.file.display()))
}

/// Runs a schedule, and prints what it did
fn show(schedule: &Schedule, double: bool, trace: Option<&PathBuf>, again: &str) -> Result<u8, Unusable> {
    let ended = attempt(schedule, double);
    if let (Some(path), Ok(_)) = (trace, &ended) {
        let mut simulation = Simulation::new(schedule);
        simulation.record();
        let mut text = String::new();
        for (at, hash, told) in simulation.finish().trace.steps() {
            let _ = writeln!(text, "{at:?} {hash:016x} {told}");
        }
        write(path, &text)?;
    }
    match ended {
        Ok(Ending { violation: None, figures, hash, void, .. }) => {
            // Two that differ would have been a failure.
            let times = if double { 2 } else { 1 };
            let hashes = format!("{hash:016x}\n").repeat(times);
            let nothing = if void { "nothing was executed, so that nothing was shown\n" } else { "" };
            write(Path::new("-"), &format!("{}{nothing}{hashes}", sums(&figures)))?;
            Ok(if void { EXIT_VOID } else { 0 })
        }
        Ok(Ending { violation: Some(violation), .. }) => {
            write(Path::new("-"), &card(schedule, &Failure::Violation(violation), again))?;
            Ok(EXIT_VIOLATION)
        }
        Err(failure) => {
            write(Path::new("-"), &card(schedule, &failure, again))?;
            Ok(status(&failure))
        }
    }
}

fn status(failure: &Failure) -> u8 {
    match failure {
        Failure::Violation(_) | Failure::Panic(_) => EXIT_VIOLATION,
        Failure::NotDeterministic { .. } => EXIT_NOT_DETERMINISTIC,
    }
}

fn sums(figures: &Figures) -> String {
    format!(
        "{} tasks, {} executions, {} outcomes told, {} checkpoints\n\
         {} faults, {} dials, {} sessions resumed and {} opened, {} links found silent, {} recoveries\n\
         {} events, {} frames, {} bytes, {} records, {}.{:03} virtual hours\n",
        figures.submitted,
        figures.executions,
        figures.told,
        figures.checkpoints,
        figures.faults,
        figures.dials,
        figures.resumed,
        figures.opened,
        figures.silences,
        figures.recoveries,
        figures.events,
        figures.frames,
        figures.bytes,
        figures.records,
        figures.time_us / 3_600_000_000,
        figures.time_us / 3_600_000 % 1000,
    )
}

/// What failed, at most twelve lines: the check, the nearest faults, the last that happened, and how to go on
fn card(schedule: &Schedule, failure: &Failure, again: &str) -> String {
    let said = failure.to_string();
    let first: Vec<&str> = said.lines().take(3).collect();
    let mut text = format!("FAILED  {}\n", first.join(" "));
    if let Failure::Violation(violation) = failure {
        let at = std::time::Duration::from_micros(violation.at.as_micros());
        let faults = schedule.entries.iter().filter(|entry| entry.at <= at);
        let faults = faults.filter(|entry| matches!(entry.what, rejoin_sim::schedule::What::Fault(_)));
        let nearest: Vec<String> = faults.rev().take(3).map(ToString::to_string).collect();
        nearest.iter().rev().for_each(|fault| text.push_str(&format!("fault   {fault}\n")));
        let mut simulation = Simulation::new(schedule);
        simulation.record();
        let ending = simulation.finish();
        let steps = ending.trace.steps();
        for (at, _, told) in &steps[steps.len().saturating_sub(5)..] {
            let _ = writeln!(text, "event   {at:?} {told}");
        }
    }
    let _ = writeln!(text, "again   {again}\nsmaller rejoin sim shrink FILE   (run and swarm write the schedule)");
    text
}

fn run_swarm(args: &SimSwarm) -> Result<u8, Unusable> {
    let (first, end) = args.seeds;
    let jobs = args.jobs.map(usize::from);
    let jobs = jobs.or(std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let plan = Plan { first, seeds: end - first, profile: args.profile, double: args.double, jobs };
    let begun = Instant::now();
    let report = swarm(&plan);
    // Not on standard output: it is this machine's.
    complain(&format!("{} seeds in {:.1?} on {jobs} threads", report.seeds, begun.elapsed()));
    for (seed, failure) in &report.failures {
        if let Some(dir) = &args.report {
            fs::create_dir_all(dir).map_err(|error| Unusable(EXIT_INTERNAL, format!("{}: {error}", dir.display())))?;
            write(&dir.join(format!("{seed}.sched")), &generate(*seed, args.profile).to_string())?;
        }
        let again = format!("rejoin sim run --seed {seed} --profile {} --schedule FILE", args.profile);
        write(Path::new("-"), &format!("seed {seed}: {failure}\n  {again}\n"))?;
    }
    write(Path::new("-"), &table(&report))?;
    Ok(verdict(&report))
}

fn table(report: &Report) -> String {
    let [tasks, reconnections, kinds] = report.medians();
    let mut text = format!(
        "{} seeds: {} failed, {} void\nmedian seed: {tasks} tasks, {reconnections} reconnections, {kinds} kinds of fault with effect\n{}",
        report.seeds,
        report.failures.len(),
        report.void,
        sums(&report.figures)
    );
    text.push_str("fault           happened   effects\n");
    for kind in Kind::ALL {
        let (fired, hit) = (report.tally.fired[*kind as usize], report.tally.hit[*kind as usize]);
        let _ = writeln!(text, "{:<14} {fired:>9} {hit:>9}", kind.name());
    }
    text.push_str("check      occasions  what must hold\n");
    for check in Check::ALL {
        let occasions = report.premises.get(*check as usize).copied().unwrap_or(0);
        let _ = writeln!(text, "{:<6} {occasions:>13}  {}", check.to_string(), check.sentence());
    }
    text
}

fn verdict(report: &Report) -> u8 {
    if let Some(failure) = report.failures.values().find(|f| matches!(f, Failure::NotDeterministic { .. })) {
        return status(failure);
    }
    if !report.failures.is_empty() {
        return EXIT_VIOLATION;
    }
    if report.void * 100 > report.seeds {
        return EXIT_VOID;
    }
    // A few seeds cannot have everything; ten thousand must.
    let (dead, idle) = (report.dead(), report.idle());
    if report.seeds >= 10_000 && !(dead.is_empty() && idle.is_empty()) {
        let dead = dead.iter().map(|kind| kind.name());
        let idle: Vec<String> = idle.iter().map(ToString::to_string).collect();
        let missing: Vec<&str> = dead.chain(idle.iter().map(String::as_str)).collect();
        complain(&format!("without any effect or occasion in all these seeds: {}", missing.join(", ")));
        return EXIT_VIOLATION;
    }
    0
}

fn shrink_file(args: &SimShrink) -> Result<u8, Unusable> {
    let schedule = read(&args.file)?;
    let Some(shrunk) = shrink(&schedule, args.budget) else {
        complain("this schedule does not fail");
        return Ok(EXIT_VIOLATION);
    };
    let finished = if shrunk.finished { "" } else { "; the time is over, and there may be smaller ones" };
    complain(&format!(
        "{:?}: {} of {} lines are left, {} of them faults, after {} schedules{finished}",
        shrunk.mark,
        shrunk.schedule.entries.len(),
        schedule.entries.len(),
        shrunk.schedule.faults(),
        shrunk.tried,
    ));
    write(&args.out, &shrunk.schedule.to_string())?;
    Ok(0)
}

/// Hunts each planted bug, in a build that has them
#[cfg(rejoin_planted)]
fn mutants(args: &SimMutants) -> Result<u8, Unusable> {
    use rejoin_sim::mutants::{Bug, hunt};
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    let mut text = String::new();
    let mut missed = 0;
    let mut all: Vec<u64> = Vec::new();
    for bug in Bug::ALL {
        let (number, says) = bug.says();
        match hunt(Some(*bug), args.seeds, jobs) {
            Some(found) => {
                all.push(found.seeds);
                let by = match &found.failure {
                    Failure::Violation(violation) => violation.check.to_string(),
                    Failure::Panic(_) => "panic".into(),
                    Failure::NotDeterministic { .. } => "S29".into(),
                };
                let _ = writeln!(text, "M{number:<3} {:>5} seeds  {by:<6} {says}", found.seeds);
            }
            None => {
                missed += 1;
                let _ = writeln!(text, "M{number:<3}     not found    {says}");
            }
        }
    }
    if let Some(found) = hunt(None, args.seeds.min(200), jobs) {
        missed += 1;
        let _ = writeln!(text, "without any bug seed {} fails: {}", found.seed, found.failure);
    }
    all.sort_unstable();
    let (median, worst) = (all.get(all.len() / 2).copied().unwrap_or(0), all.last().copied().unwrap_or(0));
    let _ = writeln!(text, "{} of {} found, median {median} seeds, worst {worst}", all.len(), Bug::ALL.len());
    write(Path::new("-"), &text)?;
    Ok(if missed == 0 { 0 } else { EXIT_VIOLATION })
}

/// Builds the program with planted bugs, and has that one do it
#[cfg(not(rejoin_planted))]
fn mutants(args: &SimMutants) -> Result<u8, Unusable> {
    use std::process::Command;
    let unusable = |what: &str| Unusable(EXIT_INTERNAL, format!("{what}; run it in a checkout of rejoin"));
    complain("building rejoin with planted bugs");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "-p", "rejoin", "--profile", "planted", "--target-dir", "target/planted"])
        .env("RUSTFLAGS", "--cfg rejoin_planted")
        .status();
    if !built.map_err(|error| unusable(&format!("cargo cannot be run: {error}")))?.success() {
        return Err(unusable("it cannot be built here"));
    }
    let seeds = args.seeds.to_string();
    let hunted = Command::new("target/planted/planted/rejoin").args(["sim", "mutants", "--seeds", &seeds]).status();
    let status = hunted.map_err(|error| unusable(&format!("the program that was built cannot be run: {error}")))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(EXIT_INTERNAL))
}

fn menu() -> Result<u8, Unusable> {
    let mut text = String::new();
    for kind in Kind::ALL {
        let dish = kind.dish();
        let whom = match dish.scope {
            Scope::Link => "a worker or client",
            Scope::Worker => "a worker",
            Scope::Coordinator => "the coordinator",
            Scope::Anybody => "anybody",
        };
        let _ = writeln!(text, "{:<13} {whom:<19} {}", dish.name, dish.says);
    }
    write(Path::new("-"), &text)?;
    Ok(0)
}
