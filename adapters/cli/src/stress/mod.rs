//! `rejoin stress`: real processes over real sockets, broken on purpose, with verdicts that can fail
//!
//! | room | concern |
//! | --- | --- |
//! | `scenario` | what a scenario is, and the stage it is played on |
//! | `scenarios` | all of them, a file each, and their table |
//! | `fleet`, `log` | coordinator and workers as processes, each worker behind a proxy of its own; what they say |
//! | `boxes` | a worker behind a packet box |
//! | `crowd` | lightweight workers, all in one process |
//! | `load`, `task` | what is done meanwhile, and the program that does it |
//! | `hits` | what was broken, and how soon that was noticed and mended |
//! | `judge` | what must hold, by the journal, the tasks' own marks, and what clients were told |
//! | `findings`, `measure`, `page` | checks, figures and verdicts; the report |
//! | `mischief` | whatever may befall a fleet, drawn by the seed |
//! | `mutants` | whether each scenario fails where it must |

mod boxes;
mod crowd;
mod findings;
mod fleet;
mod hits;
mod judge;
mod load;
mod log;
mod measure;
mod mischief;
mod mutants;
mod page;
mod scenario;
mod scenarios;
mod task;

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use async_signal::{Signal, Signals};
use rejoin_smol::clock::entropy;
use smol::future::FutureExt;
use smol::stream::StreamExt;

use crate::args::{Stress, StressRelay, StressTask};
use crate::descriptors;
use crate::report::{EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_USAGE};
use crate::say::{complain, print};

use findings::Findings;
use measure::Sampler;
use scenario::{Scenario, Setting, Stage, Trouble};

/// Exit status if a scenario failed
const EXIT_FAILED: u8 = 1;
/// Longest that a scenario may take beyond the time in which things are broken
const SCENARIO_MAX: Duration = Duration::from_secs(240);

/// Plays scenarios, and returns the exit status
pub fn stress(args: &Stress) -> u8 {
    if args.list {
        let list = scenarios::ALL.iter().map(|scenario| format!("{:<18} {}\n", scenario.name, scenario.says));
        return if print(&list.collect::<String>()) { 0 } else { EXIT_INTERRUPTED };
    }
    let (planted, names) = match args.names.split_first() {
        Some((first, rest)) if first == "mutants" => (true, rest),
        Some(_) | None => (false, args.names.as_slice()),
    };
    let chosen = match chosen(names) {
        Ok(chosen) => chosen,
        Err(message) => {
            complain(&message);
            return EXIT_USAGE;
        }
    };
    let played = setting(args).and_then(|setting| {
        descriptors::raise()?;
        if planted { mutants::hunt(setting, &chosen) } else { play_all(args, &setting, &chosen) }
    });
    match played {
        Ok(status) => status,
        Err(error) => {
            complain(&error.to_string());
            EXIT_INTERNAL
        }
    }
}

/// Does the work of a task of the suite
pub fn task(args: &StressTask) -> u8 {
    task::task(&args.marks, &args.numbers)
}

/// Takes connections to a Unix socket, for a worker in a packet box
pub fn relay(args: &StressRelay) -> u8 {
    match boxes::relay(args.listen, &args.socket) {
        Ok(()) => 0,
        Err(error) => {
            complain(&error.to_string());
            EXIT_INTERNAL
        }
    }
}

fn chosen(names: &[String]) -> Result<Vec<&'static Scenario>, String> {
    if names.is_empty() || names.iter().any(|name| name == "all") {
        return Ok(scenarios::ALL.iter().collect());
    }
    let find = |name: &String| {
        scenarios::ALL
            .iter()
            .find(|scenario| scenario.name == name)
            .ok_or_else(|| format!("{name}: no such scenario; `rejoin stress --list` names them"))
    };
    names.iter().map(find).collect()
}

fn setting(args: &Stress) -> io::Result<Setting> {
    let seed = match args.seed {
        Some(seed) => seed,
        None => u64::from_le_bytes(entropy()?) >> 32,
    };
    let found = |program: &Path| {
        program.canonicalize().map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}: give a program of rejoin", program.display()))
        })
    };
    let program = args.program.as_deref().map_or_else(std::env::current_exe, found)?;
    let old = args.old.as_deref().map(found).transpose()?;
    Ok(Setting {
        long: args.long,
        span: args.span,
        workers: args.workers,
        seed,
        program,
        old,
        logs: args.report.clone(),
        planted: None,
    })
}

fn play_all(args: &Stress, setting: &Setting, chosen: &[&'static Scenario]) -> io::Result<u8> {
    if let Some(dir) = &args.report {
        fs::create_dir_all(dir)?;
    }
    let mut signals = Signals::new([Signal::Int, Signal::Term, Signal::Hup])?;
    let mut all = Vec::new();
    for scenario in chosen {
        let Some(findings) = smol::block_on(play_or_stop(scenario, setting, &mut signals))? else {
            return Ok(EXIT_INTERRUPTED);
        };
        if !print(&if args.json { findings.json() } else { findings.text() }) {
            return Ok(EXIT_INTERRUPTED);
        }
        all.push(findings);
        if let Some(dir) = &args.report {
            report(dir, &all)?;
        }
    }
    let failed = all.iter().filter(|findings| !findings.passed).count();
    if !args.json {
        let seconds: f64 = all.iter().map(|findings| findings.seconds).sum();
        print(&format!(
            "{} of {} scenarios passed in {seconds:.0} s; seed {}\n",
            all.len() - failed,
            all.len(),
            setting.seed
        ));
    }
    Ok(if failed == 0 { 0 } else { EXIT_FAILED })
}

/// Plays one scenario; `None` if that was stopped: all processes end with what is dropped
async fn play_or_stop(scenario: &Scenario, setting: &Setting, signals: &mut Signals) -> io::Result<Option<Findings>> {
    let stopped = async {
        signals.next().await;
        Ok(None)
    };
    async { play(scenario, setting).await.map(Some) }.or(stopped).await
}

/// Plays one scenario, to its verdict
async fn play(scenario: &Scenario, setting: &Setting) -> io::Result<Findings> {
    let begun = Instant::now();
    let (sampler, sampling) = Sampler::start();
    let mut stage = Stage::new(scenario, setting, sampler)?;
    let longest = SCENARIO_MAX + stage.span(0, 3600);
    let late = async {
        smol::Timer::after(longest).await;
        Err(Trouble::new(format!("it was not over after {} s", longest.as_secs())))
    };
    let played = (scenario.play)(&mut stage).or(late).await;
    stage.looks();
    let _ = sampling.join();
    stage.findings.conclude(begun.elapsed(), played);
    if let Some(dir) = setting.logs.as_ref().filter(|_| !stage.findings.passed) {
        stage.keep_logs(&dir.join(scenario.name))?;
    }
    Ok(stage.findings)
}

/// Writes what was found so far
fn report(dir: &Path, all: &[Findings]) -> io::Result<()> {
    let text = serde_json::to_string_pretty(all).map_err(io::Error::other)?;
    fs::write(dir.join("stress.json"), text)?;
    fs::write(dir.join("stress.html"), page::page(all))
}
