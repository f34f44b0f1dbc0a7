//! `rejoin sim explore`: all short histories, to a stated depth

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use rejoin_sim::audit::Check;
use rejoin_sim::explore::{Kind, Plan, Report, Size, explore};

use super::{EXIT_VIOLATION, Unusable, write};
use crate::args::SimExplore;
use crate::say::complain;

pub(super) fn run(args: &SimExplore) -> Result<u8, Unusable> {
    let jobs = super::jobs(args.jobs);
    let size = Size { workers: args.workers, tasks: args.tasks, faults: args.faults };
    let plan = Plan { size, depth: usize::from(args.depth), states: args.states as usize, jobs };
    let begun = Instant::now();
    let report = explore(&plan);
    // Not on standard output: it is this machine's.
    let took = begun.elapsed();
    let speed = report.states() as f64 / took.as_secs_f64().max(0.001);
    complain(&format!("{} states in {took:.1?} on {jobs} threads, {speed:.0} a second", report.states()));
    write(Path::new("-"), &table(&plan, &report))?;
    Ok(if report.found.is_some() { EXIT_VIOLATION } else { 0 })
}

fn table(plan: &Plan, report: &Report) -> String {
    let Size { workers, tasks, faults } = plan.size;
    let mut text =
        format!("1 coordinator, {workers} workers, {tasks} tasks, {faults} faults\ndepth        new     states\n");
    let mut states = 0;
    for (depth, new) in report.levels.iter().enumerate() {
        states += new;
        let part = if depth > report.complete { "  not complete" } else { "" };
        let _ = writeln!(text, "{depth:>5} {new:>10} {states:>10}{part}");
    }
    text.push_str("choice            tried\n");
    for kind in Kind::ALL {
        let fault = if kind.is_fault() { "  a fault" } else { "" };
        let _ = writeln!(text, "{kind:<13} {:>9}{fault}", report.kinds.get(&kind).copied().unwrap_or(0));
    }
    text.push_str("check      occasions  what must hold\n");
    for check in Check::ALL {
        let occasions = report.premises.get(*check as usize).copied().unwrap_or(0);
        if occasions > 0 {
            let _ = writeln!(text, "{:<6} {occasions:>13}  {}", check.to_string(), check.sentence());
        }
    }
    let _ = writeln!(
        text,
        "{} states, {} transitions, complete to depth {}; {} states were healed, and came to their end",
        report.states(),
        report.transitions,
        report.complete,
        report.healed
    );
    if let Some(found) = &report.found {
        let _ = writeln!(text, "FAILED  after {} steps: {}", found.steps.len(), found.what);
        for (n, step) in (1..).zip(&found.steps) {
            let _ = writeln!(text, "{n:>5}   {step}");
        }
    }
    text
}
