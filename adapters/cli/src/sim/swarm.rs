//! `rejoin sim swarm`: many seeds, and what they have shown

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use rejoin_sim::audit::Check;
use rejoin_sim::generate::generate;
use rejoin_sim::menu::Kind;
use rejoin_sim::swarm::{Plan, Report, swarm_for};

use super::{EXIT_VIOLATION, EXIT_VOID, Unusable, jobs, outputs, sums, verdict_of_failures, write};
use crate::args::SimSwarm;
use crate::say::complain;

pub(super) fn run(args: &SimSwarm) -> Result<u8, Unusable> {
    let (first, end) = args.seeds;
    let jobs = jobs(args.jobs);
    let plan = Plan { first, seeds: end - first, profile: args.profile, double: args.double, jobs };
    if let Some(dir) = &args.report {
        outputs::folder(dir)?;
    }
    let begun = Instant::now();
    let report = swarm_for(&plan, args.time);
    // Not on standard output: it is this machine's.
    complain(&format!("{} seeds in {:.1?} on {jobs} threads", report.seeds, begun.elapsed()));
    for (seed, failure) in &report.failures {
        if let Some(dir) = &args.report {
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

/// The exit status that a swarm deserves
pub fn verdict(report: &Report) -> u8 {
    let failed = verdict_of_failures(report);
    if failed != 0 {
        return failed;
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
