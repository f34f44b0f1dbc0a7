//! `rejoin sim`: the simulator for people
//!
//! Standard output depends on seeds and schedules alone: no times of this machine, no counts of its processors.

mod bench;
mod cause;
mod corpus;
mod cover;
mod diff;
mod explore;
pub mod outputs;
mod step;
pub mod swarm;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use rejoin_sim::doubts::doubts;
use rejoin_sim::generate::{Size, generate_sized};
use rejoin_sim::menu::{Kind, Scope};
use rejoin_sim::recorded::Recorded;
use rejoin_sim::schedule::Schedule;
use rejoin_sim::shrink::{is_shrunk, shrink};
use rejoin_sim::simulation::{Ending, Figures};
use rejoin_sim::swarm::{Failure, Report, attempt};
use rejoin_sim::timeline::Timeline;

use crate::args::{Eyes, SimCommand, SimReplay, SimRun, SimShrink};
use crate::mutants::mutants;
use crate::report::{EXIT_INTERNAL, EXIT_USAGE};
use crate::say::{complain, print};

/// Most events of a sequence diagram; more of them cannot be read
const MERMAID_EVENTS_MAX: usize = 60;
/// Most lines of a schedule that are named because nothing comes of them
const DOUBTS_MAX: usize = 10;
/// Something did not hold
pub const EXIT_VIOLATION: u8 = 1;
/// Too many seeds did nothing
const EXIT_VOID: u8 = 2;
/// The same schedule went two ways
pub const EXIT_NOT_DETERMINISTIC: u8 = 3;

/// Does what the command line asks for, and returns the exit status
pub fn run(command: &SimCommand) -> u8 {
    // A machine that panics is reported like everything else that fails.
    std::panic::set_hook(Box::new(|_| {}));
    let done = match command {
        SimCommand::Run(args) => run_seed(args),
        SimCommand::Swarm(args) => swarm::run(args),
        SimCommand::Replay(args) => replay(args),
        SimCommand::Shrink(args) => shrink_file(args),
        SimCommand::Explore(args) => explore::run(args),
        SimCommand::Mutants(args) => mutants(args),
        SimCommand::Diff(args) => diff::run(args),
        SimCommand::Cause(args) => cause::run(args),
        SimCommand::Cover(args) => cover::run(args),
        SimCommand::Corpus(args) => corpus::run(args),
        SimCommand::Bench(args) => bench::run(args),
        SimCommand::Menu => menu(),
    };
    done.unwrap_or_else(|Unusable(status, message)| {
        complain(&message);
        status
    })
}

/// A file that cannot be used: exit status, and why
pub struct Unusable(pub u8, pub String);

/// Writes a file; `-` is standard output
pub fn write(path: &Path, text: &str) -> Result<(), Unusable> {
    if path == Path::new("-") {
        return if print(text) { Ok(()) } else { Err(Unusable(EXIT_INTERNAL, "standard output is closed".into())) };
    }
    fs::write(path, text).map_err(|error| Unusable(EXIT_INTERNAL, format!("{}: {error}", path.display())))
}

/// Reads a schedule, and names the lines from which nothing comes
pub fn read(path: &Path) -> Result<Schedule, Unusable> {
    Ok(read_both(path)?.0)
}

/// A schedule, and what its file says
fn read_both(path: &Path) -> Result<(Schedule, String), Unusable> {
    let bytes = fs::read(path).map_err(|error| Unusable(EXIT_INTERNAL, format!("{}: {error}", path.display())))?;
    let no_text = |_| Unusable(EXIT_USAGE, format!("{}: this is no text, and so no schedule", path.display()));
    let text = String::from_utf8(bytes).map_err(no_text)?;
    let parsed = text.parse().map_err(|error| Unusable(EXIT_USAGE, format!("{}: {error}", path.display())))?;
    let doubts = doubts(&text);
    for doubt in doubts.iter().take(DOUBTS_MAX) {
        complain(&format!("{}: {doubt}", path.display()));
    }
    if let Some(more) = doubts.len().checked_sub(DOUBTS_MAX + 1) {
        complain(&format!("{}: and {} more such lines", path.display(), more + 1));
    }
    Ok((parsed, text))
}

fn run_seed(args: &SimRun) -> Result<u8, Unusable> {
    let schedule = generate_sized(args.seed, args.profile, Size { workers: args.workers, safety: args.safety });
    outputs::check(args.schedule.iter().chain(args.eyes.paths()))?;
    if let Some(path) = &args.schedule {
        write(path, &schedule.to_string())?;
    }
    let mut again = format!("rejoin sim run --seed {} --profile {}", args.seed, args.profile);
    if let Some(workers) = args.workers {
        let _ = write!(again, " --workers {workers}");
    }
    if let Some(safety) = args.safety {
        let _ = write!(again, " --for {}ms", safety.as_millis());
    }
    let aside = args.eyes.is_on_standard_output() || args.schedule.as_deref() == Some(Path::new("-"));
    let next = match args.schedule.as_deref().filter(|path| *path != Path::new("-")) {
        Some(path) => format!("smaller rejoin sim shrink {}\n", path.display()),
        None => format!("smaller {again} --schedule {0}.sched; rejoin sim shrink {0}.sched\n", args.seed),
    };
    show(&schedule, args.double, &args.eyes, aside, &format!("again   {again}\n{next}"))
}

fn replay(args: &SimReplay) -> Result<u8, Unusable> {
    let (schedule, text) = read_both(&args.file)?;
    outputs::check(args.eyes.paths())?;
    if args.step || args.until.is_some() {
        return step::run(&schedule, args);
    }
    let aside = args.eyes.is_on_standard_output();
    let file = args.file.display();
    let next = if is_shrunk(&text) {
        format!("cause   rejoin sim cause {file}\n")
    } else {
        format!("smaller rejoin sim shrink {file}\n")
    };
    show(&schedule, args.double, &args.eyes, aside, &format!("again   rejoin sim replay {file}\n{next}"))
}

/// Runs a schedule, and prints what it did, and how to go on if it fails
fn show(schedule: &Schedule, double: bool, eyes: &Eyes, aside: bool, next: &str) -> Result<u8, Unusable> {
    let ended = attempt(schedule, double);
    if eyes.any() {
        write_what_is_seen(schedule, &ended, eyes)?;
    }
    match ended {
        Ok(Ending { violation: None, figures, hash, void, .. }) => {
            // Two that differ would have been a failure.
            let times = if double { 2 } else { 1 };
            let hashes = format!("{hash:016x}\n").repeat(times);
            let nothing = if void { "nothing was executed, so that nothing was shown\n" } else { "" };
            conclude(aside, &format!("{}{nothing}{hashes}", sums(&figures)))?;
            Ok(if void { EXIT_VOID } else { 0 })
        }
        Ok(Ending { violation: Some(violation), .. }) => {
            conclude(aside, &card(schedule, &Failure::Violation(violation), next))?;
            Ok(EXIT_VIOLATION)
        }
        Err(failure) => {
            conclude(aside, &card(schedule, &failure, next))?;
            Ok(status(&failure))
        }
    }
}

/// Says how a run ended: not where something else is written that others read
fn conclude(aside: bool, text: &str) -> Result<(), Unusable> {
    if aside {
        complain(text.trim_end());
        return Ok(());
    }
    write(Path::new("-"), text)
}

/// Runs it once more, recorded, and writes what is wanted of that
fn write_what_is_seen(schedule: &Schedule, ended: &Result<Ending, Failure>, eyes: &Eyes) -> Result<(), Unusable> {
    let Ok(run) = Recorded::run(schedule, None) else { return Ok(()) };
    // What two runs differ in, or a run and its twin, is not in one of them.
    let other = match ended {
        Ok(ending) => ending.violation.clone().map(Failure::Violation),
        Err(failure) => Some(failure.clone()),
    };
    write_eyes(schedule, &run, run.failure.as_ref().or(other.as_ref()), eyes)
}

/// Writes what is wanted of a run
fn write_eyes(schedule: &Schedule, run: &Recorded, failure: Option<&Failure>, eyes: &Eyes) -> Result<(), Unusable> {
    if let Some(path) = &eyes.trace {
        let lines = run.steps().iter().map(|(at, hash, told)| format!("{at:?} {hash:016x} {told}\n"));
        write(path, &lines.collect::<String>())?;
    }
    let timeline = Timeline::new(schedule, run.trace(), failure);
    for (path, text) in [
        (&eyes.html, Timeline::html as fn(&Timeline) -> String),
        (&eyes.mermaid, |timeline| timeline.mermaid(MERMAID_EVENTS_MAX)),
        (&eyes.jsonl, Timeline::jsonl),
    ] {
        if let Some(path) = path {
            write(path, &text(&timeline))?;
        }
    }
    Ok(())
}

fn status(failure: &Failure) -> u8 {
    match failure {
        Failure::Violation(_) | Failure::Panic(_) => EXIT_VIOLATION,
        Failure::NotDeterministic { .. } => EXIT_NOT_DETERMINISTIC,
    }
}

/// The exit status that the failures of a swarm ask for
fn verdict_of_failures(report: &Report) -> u8 {
    let all = || report.failures.values();
    let worst = all().find(|failure| matches!(failure, Failure::NotDeterministic { .. })).or_else(|| all().next());
    worst.map_or(0, status)
}

/// Threads: as many as were asked for, or as there are processors
fn jobs(asked: Option<u16>) -> usize {
    let jobs = asked.map(usize::from);
    jobs.or(std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1)
}

fn sums(figures: &Figures) -> String {
    format!(
        "{} tasks, {} executions, {} outcomes told, {} checkpoints\n\
         {} faults, {} dials, {} sessions resumed and {} opened, {} links found silent, {} recoveries\n\
         {} happenings, {} frames with {} messages, {} bytes, {} records, {}.{:03} virtual hours\n",
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
        figures.messages,
        figures.bytes,
        figures.records,
        figures.time_us / 3_600_000_000,
        figures.time_us / 3_600_000 % 1000,
    )
}

/// What failed, at most twelve lines: the check, the nearest faults, the last that concerned it, and how to go on
fn card(schedule: &Schedule, failure: &Failure, next: &str) -> String {
    let said = failure.to_string();
    let first: Vec<&str> = said.lines().take(3).collect();
    let mut text = match failure {
        Failure::NotDeterministic { .. } => format!("FAILED  {said}\n"),
        Failure::Violation(_) | Failure::Panic(_) => format!("FAILED  {}\n", first.join(" ")),
    };
    if let Failure::Violation(violation) = failure {
        let at = std::time::Duration::from_micros(violation.at.as_micros());
        let faults = schedule.entries.iter().filter(|entry| entry.at <= at);
        let faults = faults.filter(|entry| matches!(entry.what, rejoin_sim::schedule::What::Fault(_)));
        let nearest: Vec<String> = faults.rev().take(3).map(ToString::to_string).collect();
        nearest.iter().rev().for_each(|fault| text.push_str(&format!("fault   {fault}\n")));
    }
    if let Ok(run) = Recorded::run(schedule, None) {
        let failure = run.failure.as_ref().or(Some(failure));
        for event in Timeline::new(schedule, run.trace(), failure).before_failure(5) {
            let _ = writeln!(text, "event   {event}");
        }
    }
    text.push_str(next);
    text
}

fn shrink_file(args: &SimShrink) -> Result<u8, Unusable> {
    let schedule = read(&args.file)?;
    outputs::check([&args.out])?;
    let Some(shrunk) = shrink(&schedule, args.budget) else {
        complain("this schedule does not fail");
        return Ok(EXIT_VIOLATION);
    };
    let finished = if shrunk.finished { "" } else { "; the time is over, and there may be smaller ones" };
    complain(&format!(
        "{}: {} of {} lines are left, {} of them faults, after {} schedules{finished}",
        shrunk.mark,
        shrunk.schedule.entries.len(),
        schedule.entries.len(),
        shrunk.schedule.faults(),
        shrunk.tried,
    ));
    write(&args.out, &shrunk.file())?;
    Ok(0)
}

fn menu() -> Result<u8, Unusable> {
    let mut text = String::new();
    let width = Kind::ALL.iter().map(|kind| kind.name().len()).max().unwrap_or(0);
    for kind in Kind::ALL {
        let dish = kind.dish();
        let whom = match dish.scope {
            Scope::Link => "a worker or client",
            Scope::Worker => "a worker",
            Scope::Coordinator => "the coordinator",
            Scope::Anybody => "anybody",
        };
        let _ = writeln!(text, "{:<width$} {whom:<19} {}", dish.name, dish.says);
    }
    write(Path::new("-"), &text)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use rejoin_sim::generate::Profile;
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_line_of_what_is_written_as_json_is_an_object_that_says_when_and_what() {
        let schedule = generate_sized(7, Profile::Standard, Size::default());
        let run = Recorded::run(&schedule, None).unwrap();
        let timeline = Timeline::new(&schedule, run.trace(), run.failure.as_ref());
        let (mut at, mut fates) = (0, 0);
        for (n, line) in timeline.jsonl().lines().enumerate() {
            let event: Value = serde_json::from_str(line).unwrap();
            assert_eq!(event["n"], n + 1);
            assert!(event["at_us"].as_u64().unwrap() >= at && event["type"].is_string() && event["text"].is_string());
            at = event["at_us"].as_u64().unwrap();
            if event["type"] == "sent" {
                assert!(event["says"].is_array() && event["to"].is_string() && event["fate"].is_string(), "{line}");
                fates += 1;
            }
        }
        assert!(fates > 1000, "{fates} messages");
        let page = timeline.html();
        let data = page.split_once("const DATA = ").unwrap().1.split_once(";\n").unwrap().0;
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["nodes"].as_array().unwrap().len(), 11, "2 clients, the coordinator, 8 workers");
    }
}
