//! `rejoin sim bench`: how fast simulations are on this machine

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rejoin_sim::bench::{Load, count};
use rejoin_sim::generate::Profile;
use rejoin_sim::simulation::Simulation;
use rejoin_sim::swarm::{Plan, swarm};

use super::{Unusable, verdict_of_failures, write};
use crate::args::SimBench;

pub(super) fn run(args: &SimBench) -> Result<u8, Unusable> {
    let mut text = String::from("one core, codec, tags and checks on; medians\n");
    let _ = writeln!(
        text,
        "{:>6} {:>7} {:>7} {:>11} {:>10} {:>12} {:>13} {:>9} {:>14}",
        "nodes",
        "workers",
        "tasks",
        "messages/s",
        "frames/s",
        "happenings/s",
        "messages/frame",
        "virtual s",
        "virtual/real"
    );
    write(Path::new("-"), &text)?;
    for load in Load::ALL.into_iter().take(args.loads) {
        write(Path::new("-"), &of_load(load.share(args.share), args.runs))?;
    }
    let plan = Plan { first: 0, seeds: args.seeds, profile: Profile::Standard, double: false, jobs: 1 };
    let (mut took, mut report) = (Vec::new(), None);
    for _ in 0..args.runs {
        let begun = Instant::now();
        report = Some(swarm(&plan));
        took.push(begun.elapsed());
    }
    let Some(report) = report else { return Ok(0) };
    let real = median(&mut took).as_secs_f64();
    let figures = &report.figures;
    let [tasks, reconnections, kinds] = report.medians();
    let text = format!(
        "standard seeds 0..{}: 8 workers; the median has {tasks} tasks, {reconnections} reconnections, {kinds} kinds of \
         fault\n{:>10.0} virtual over real\n{:>10.1} seeds/s\n{:>10.0} frames/s\n{:>10.0} happenings/s\n",
        args.seeds,
        figures.time_us as f64 / 1e6 / real,
        report.seeds as f64 / real,
        figures.frames as f64 / real,
        figures.events as f64 / real,
    );
    write(Path::new("-"), &text)?;
    Ok(verdict_of_failures(&report))
}

fn of_load(load: Load, runs: u32) -> String {
    let schedule = load.schedule();
    let figures = count(&schedule);
    let mut took: Vec<Duration> = (0..runs)
        .map(|_| {
            let begun = Instant::now();
            std::hint::black_box(Simulation::run(&schedule));
            begun.elapsed()
        })
        .collect();
    let real = median(&mut took).as_secs_f64();
    let nodes = 1 + u32::from(schedule.workers) + u32::from(schedule.clients);
    let seconds = figures.time_us as f64 / 1e6;
    format!(
        "{nodes:>6} {:>7} {:>7} {:>11.0} {:>10.0} {:>12.0} {:>14.2} {seconds:>9.0} {:>14.0}\n",
        load.workers,
        load.tasks,
        figures.messages as f64 / real,
        figures.frames as f64 / real,
        figures.events as f64 / real,
        figures.messages as f64 / figures.frames.max(1) as f64,
        seconds / real,
    )
}

fn median(took: &mut [Duration]) -> Duration {
    took.sort_unstable();
    took.get(took.len() / 2).copied().unwrap_or_default()
}
