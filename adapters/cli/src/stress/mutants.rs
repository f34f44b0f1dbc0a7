//! `rejoin stress mutants`: whether each scenario fails where coordinator and workers have a bug that it must find
//!
//! They are processes of another build, which can have bugs that are planted on purpose; the judge is this one, which has none.

use std::io;

use async_signal::{Signal, Signals};
use rejoin_core::planted::Bug;

use crate::mutants::build;
use crate::report::EXIT_INTERRUPTED;
use crate::say::print;

use super::findings::Check;
use super::scenario::{Planted, Scenario, Setting};
use super::{EXIT_FAILED, play_or_stop};

/// Most checks that are shown of one scenario, and most letters of what they found
const SHOWN_MAX: usize = 4;
const FOUND_CHARS_MAX: usize = 200;

/// Plays each scenario with each bug that it is to find, and returns the exit status
pub(super) fn hunt(mut setting: Setting, chosen: &[&'static Scenario]) -> io::Result<u8> {
    if setting.program == std::env::current_exe()? {
        setting.program = build().map_err(io::Error::other)?.canonicalize()?;
    }
    let mut signals = Signals::new([Signal::Int, Signal::Term, Signal::Hup])?;
    let mut missed = 0;
    for scenario in chosen {
        for planted in scenario.caught {
            setting.planted = Some(*planted);
            let Some(findings) = smol::block_on(play_or_stop(scenario, &setting, &mut signals))? else {
                return Ok(EXIT_INTERRUPTED);
            };
            let (which, says) = match planted {
                Planted::Bug(number) => {
                    (format!("M{number}"), Bug::numbered(*number).map_or("no such bug", |bug| bug.says().1))
                }
                Planted::Options(options, says) => (options.join(" "), *says),
            };
            let failed: Vec<&Check> = findings.checks.iter().filter(|check| !check.holds).collect();
            missed += u8::from(failed.is_empty());
            let shown = failed.iter().take(SHOWN_MAX);
            let shown = shown.map(|check| {
                let found: String = check.found.chars().take(FOUND_CHARS_MAX).collect();
                format!("     {}: {}: {found}\n", check.rule.unwrap_or("-"), check.says)
            });
            let mut found: String = shown.collect();
            if failed.is_empty() {
                "     NOT FOUND: it passed\n".clone_into(&mut found);
            }
            let name = scenario.name;
            if !print(&format!("{name:<18} {which:<4} {:>5.1} s  {says}\n{found}", findings.seconds)) {
                return Ok(EXIT_INTERRUPTED);
            }
        }
    }
    Ok(if missed == 0 { 0 } else { EXIT_FAILED })
}
