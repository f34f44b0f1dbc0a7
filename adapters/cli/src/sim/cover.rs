//! `rejoin sim cover`: which fault struck in which state, and what was never reached

use std::fmt::Write as _;
use std::path::Path;
use std::time::Instant;

use rejoin_sim::cover::{Cover, Group, State};
use rejoin_sim::menu::Kind;
use rejoin_sim::swarm::{Plan, Report, swarm};

use super::{Unusable, jobs, verdict_of_failures, write};
use crate::args::SimCover;
use crate::say::complain;

pub(super) fn run(args: &SimCover) -> Result<u8, Unusable> {
    let (first, end) = args.seeds;
    let jobs = jobs(args.jobs);
    let begun = Instant::now();
    let report = swarm(&Plan { first, seeds: end - first, profile: args.profile, double: false, jobs });
    complain(&format!("{} seeds in {:.1?} on {jobs} threads", report.seeds, begun.elapsed()));
    for (seed, failure) in &report.failures {
        complain(&format!("seed {seed}: {failure}"));
    }
    write(Path::new("-"), &told(&report, args.missing))?;
    Ok(verdict_of_failures(&report))
}

fn told(report: &Report, missing: usize) -> String {
    let mut text = format!("{} seeds, {} faults\n", report.seeds, report.figures.faults);
    for group in Group::ALL {
        table(&mut text, &report.cover, *group);
    }
    never_hit(&mut text, report);
    let cells = report.cover.missing();
    let _ =
        writeln!(text, "\ncells never reached: {}; the most plausible first, with how often by chance", cells.len());
    for cell in cells.iter().take(missing) {
        let group = match cell.state.group() {
            Group::Link => "link",
            Group::Coordinator => "coordinator",
            Group::Tasks => "task",
        };
        let _ = writeln!(text, "{:<14} {group} {:<12} {:>9.1}", cell.kind.name(), cell.state.name(), cell.expected);
    }
    if cells.len() > missing {
        let _ = writeln!(text, "and {} more", cells.len() - missing);
    }
    text
}

/// One table: a row for each kind of fault, a column for each state
fn table(text: &mut String, cover: &Cover, group: Group) {
    let columns: Vec<State> = State::ALL.iter().copied().filter(|state| state.group() == group).collect();
    let title = match group {
        Group::Link => "link of whoever was struck",
        Group::Coordinator => "coordinator that was struck",
        Group::Tasks => "tasks of whoever was struck",
    };
    let _ = write!(text, "\n{title}\n{:<14}", "fault");
    columns.iter().for_each(|state| {
        let _ = write!(text, " {:>11}", state.name());
    });
    text.push('\n');
    for kind in Kind::ALL {
        let counts: Vec<Option<u64>> = columns.iter().map(|state| cover.count(*kind, *state)).collect();
        if counts.iter().all(Option::is_none) {
            continue;
        }
        let _ = write!(text, "{:<14}", kind.name());
        for count in counts {
            let shown = match count {
                None => String::new(),
                Some(0) => "never".into(),
                Some(count) => count.to_string(),
            };
            let _ = write!(text, " {shown:>11}");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
}

fn never_hit(text: &mut String, report: &Report) {
    let dead: Vec<&str> = report.dead().iter().map(|kind| kind.name()).collect();
    let idle: Vec<String> = report.idle().iter().map(ToString::to_string).collect();
    let list = |all: String| if all.is_empty() { "none".into() } else { all };
    let _ = writeln!(text, "\nfaults without any effect: {}", list(dead.join(", ")));
    let _ = writeln!(text, "checks without an occasion: {}", list(idle.join(", ")));
}
