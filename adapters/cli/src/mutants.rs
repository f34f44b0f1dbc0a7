//! `rejoin sim mutants`: how soon bugs are found that were planted in the core on purpose

use std::path::PathBuf;
use std::process::Command;

use crate::args::SimMutants;
#[cfg(not(rejoin_planted))]
use crate::report::EXIT_INTERNAL;
use crate::say::complain;
use crate::sim::{Unusable, outputs};

#[cfg(rejoin_planted)]
pub use hunting::mutants;

/// Builds the program with planted bugs, and returns where it is
///
/// # Errors
///
/// If it cannot be built here, and what to do about that.
pub fn build() -> Result<PathBuf, String> {
    let unusable = |what: String| format!("{what}; run it in a checkout of rejoin");
    complain("building rejoin with planted bugs");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args(["build", "--quiet", "-p", "rejoin", "--profile", "planted", "--target-dir", "target/planted"])
        .env("RUSTFLAGS", "--cfg rejoin_planted")
        .status();
    if !built.map_err(|error| unusable(format!("cargo cannot be run: {error}")))?.success() {
        return Err(unusable("it cannot be built here".to_owned()));
    }
    Ok(PathBuf::from("target/planted/planted/rejoin"))
}

/// Builds the program with planted bugs, and has that one do it
#[cfg(not(rejoin_planted))]
pub fn mutants(args: &SimMutants) -> Result<u8, Unusable> {
    let unusable = |what: &str| Unusable(EXIT_INTERNAL, format!("{what}; run it in a checkout of rejoin"));
    if let Some(dir) = &args.report {
        outputs::folder(dir)?;
    }
    let mut hunt = Command::new(build().map_err(|problem| Unusable(EXIT_INTERNAL, problem))?);
    hunt.args(["sim", "mutants", "--seeds", &args.seeds.to_string()]);
    for bug in &args.only {
        hunt.args(["--only", &bug.says().0.to_string()]);
    }
    if let Some(dir) = &args.report {
        hunt.arg("--report").arg(dir);
    }
    hunt.args(args.shrink.then_some("--shrink")).args(args.canary.then_some("--canary"));
    let status = hunt.status();
    let status = status.map_err(|error| unusable(&format!("the program that was built cannot be run: {error}")))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(EXIT_INTERNAL))
}

#[cfg(rejoin_planted)]
mod hunting {
    use std::path::Path;
    use std::time::{Duration, Instant};

    use rejoin_core::planted::{Bug, TOGETHER, WAITING};
    use rejoin_sim::generate::{Profile, generate};
    use rejoin_sim::mutants::{FOLDER, hunt, together, with};
    use rejoin_sim::schedule::Schedule;
    use rejoin_sim::shrink::shrink;
    use rejoin_sim::swarm::{Failure, Plan, swarm};

    use super::{SimMutants, Unusable, complain, outputs};
    use crate::sim::swarm::verdict;
    use crate::sim::{EXIT_NOT_DETERMINISTIC, EXIT_VIOLATION, read, write};

    const SHRINK_FOR: Duration = Duration::from_secs(30);

    /// What must fail, how the swarm must end for that, and what must have found it
    const CANARIES: [(Bug, u8, &str); 3] = [
        (Bug::AttemptReused, EXIT_VIOLATION, "S10"),
        (Bug::TimerSpins, EXIT_VIOLATION, "panic"),
        (Bug::UnorderedDispatch, EXIT_NOT_DETERMINISTIC, "S29"),
    ];

    /// Hunts each planted bug
    pub fn mutants(args: &SimMutants) -> Result<u8, Unusable> {
        let jobs = std::thread::available_parallelism().map_or(1, usize::from);
        if args.canary {
            return canary(jobs);
        }
        if let Some(dir) = &args.report {
            outputs::folder(dir)?;
        }
        let bugs = if args.only.is_empty() { Bug::ALL } else { &args.only };
        let mut all: Vec<u64> = Vec::new();
        let mut missed = 0;
        for bug in bugs {
            let (number, says) = bug.says();
            let begun = Instant::now();
            let Some(found) = hunt(Some(*bug), args.seeds, jobs) else {
                missed += 1;
                tell(&format!("M{number:<3}     not found    {says}"))?;
                continue;
            };
            all.push(found.seeds);
            tell(&format!("M{number:<3} {:>5} seeds  {:<6} {says}", found.seeds, found_by(&found.failure)))?;
            // Not on standard output: it is this machine's.
            complain(&format!("M{number}: {:.1?}: {}", begun.elapsed(), found.failure));
            let schedule = generate(found.seed, Profile::Standard);
            if let Some(dir) = &args.report {
                write(&dir.join(format!("M{number}.sched")), &schedule.to_string())?;
            }
            if args.shrink {
                make_smaller(*bug, &schedule, args.report.as_deref())?;
            }
        }
        missed += see_together(bugs)?;
        if args.only.is_empty() {
            for (number, says, what) in WAITING {
                tell(&format!("M{number:<3} waits for {what}: {says}"))?;
            }
            if let Some(found) = hunt(None, args.seeds.min(200), jobs) {
                missed += 1;
                tell(&format!("without any bug seed {} fails: {}", found.seed, found.failure))?;
            }
        }
        all.sort_unstable();
        let (median, worst) = (all.get(all.len() / 2).copied().unwrap_or(0), all.last().copied().unwrap_or(0));
        tell(&format!("{} of {} found, median {median} seeds, worst {worst}", all.len(), bugs.len()))?;
        Ok(if missed == 0 { 0 } else { EXIT_VIOLATION })
    }

    /// Whether what is said to need several things together does; how many do not
    fn see_together(bugs: &[Bug]) -> Result<usize, Unusable> {
        let mut missed = 0;
        for (bug, what) in TOGETHER.iter().filter(|(bug, _)| bugs.contains(bug)) {
            let number = bug.says().0;
            let needs = match together(*bug, &read(&Path::new(FOLDER).join(format!("M{number}.sched")))?) {
                Ok((faults, settings)) => {
                    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
                    let and = if settings > 0 { format!(" and {}", count(settings, "setting")) } else { String::new() };
                    format!("needs {}{and} together: {what}", count(faults, "fault"))
                }
                Err(problem) => {
                    missed += 1;
                    format!("DOES NOT NEED several things together: {problem}")
                }
            };
            tell(&format!("M{number:<3} {needs}"))?;
        }
        Ok(missed)
    }

    fn make_smaller(bug: Bug, schedule: &Schedule, dir: Option<&Path>) -> Result<(), Unusable> {
        let (number, begun) = (bug.says().0, Instant::now());
        let Some(shrunk) = with(Some(bug), || shrink(schedule, SHRINK_FOR)) else {
            return Ok(complain(&format!("M{number}: its schedule does not fail again")));
        };
        complain(&format!(
            "M{number}: {} by {} lines, {} of them faults, and {} settings, after {} schedules in {:.1?}",
            shrunk.mark,
            shrunk.schedule.entries.len(),
            shrunk.schedule.faults(),
            shrunk.schedule.settings.len(),
            shrunk.tried,
            begun.elapsed(),
        ));
        match dir {
            Some(dir) => write(&dir.join(format!("M{number}.small.sched")), &shrunk.file()),
            None => Ok(()),
        }
    }

    /// Whether a swarm fails in each way in which it can
    fn canary(jobs: usize) -> Result<u8, Unusable> {
        let mut silent = 0;
        for (bug, status, by) in CANARIES {
            let plan = Plan { first: 0, seeds: 20, profile: Profile::Standard, double: true, jobs };
            let report = with(Some(bug), || swarm(&plan));
            let found = report.failures.values().any(|failure| found_by(failure) == by);
            let sings = found && verdict(&report) == status;
            silent += u8::from(!sings);
            let (number, says) = bug.says();
            let said = if sings { "fails as it must" } else { "DOES NOT FAIL as it must" };
            tell(&format!("M{number:<3} {said}, with {status} and by {by}: {says}"))?;
        }
        Ok(if silent == 0 { 0 } else { EXIT_VIOLATION })
    }

    fn found_by(failure: &Failure) -> String {
        match failure {
            Failure::Violation(violation) => violation.check.to_string(),
            Failure::Panic(_) => "panic".into(),
            Failure::NotDeterministic { .. } => "S29".into(),
        }
    }

    fn tell(line: &str) -> Result<(), Unusable> {
        write(Path::new("-"), &format!("{line}\n"))
    }
}
