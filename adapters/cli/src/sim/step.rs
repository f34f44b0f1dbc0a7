//! `rejoin sim replay --until` and `--step`: a run looked at from the inside

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use rejoin_sim::recorded::{Recorded, Step};
use rejoin_sim::schedule::Schedule;

use super::{Unusable, status, write, write_eyes};
use crate::args::SimReplay;
use crate::report::{EXIT_INTERNAL, EXIT_USAGE};

pub(super) fn run(schedule: &Schedule, args: &SimReplay) -> Result<u8, Unusable> {
    let run = match Recorded::run(schedule, args.until) {
        Ok(run) => run,
        Err(failure) => {
            write(Path::new("-"), &format!("FAILED  {failure}\n"))?;
            return Ok(status(&failure));
        }
    };
    if args.eyes.any() {
        write_eyes(schedule, &run, run.failure.as_ref(), &args.eyes)?;
    }
    if args.step {
        let (mut input, mut out) = (io::stdin().lock(), io::stdout().lock());
        let by = match (io::stdin().is_terminal(), io::stdout().is_terminal()) {
            (true, true) => Asked::Somebody,
            (true, false) => Asked::Nobody,
            (false, _) => Asked::Script,
        };
        if !one_at_a_time(run.steps(), by, &mut input, &mut out)? {
            return Ok(0);
        }
    }
    if args.until.is_some() {
        let place = if run.simulation.has_stopped() { "stopped behind" } else { "over behind" };
        write(Path::new("-"), &format!("{place} event #{}\n{}", run.steps().len(), run.simulation.describe()))?;
    }
    match &run.failure {
        Some(failure) => {
            write(Path::new("-"), &format!("FAILED  {failure}\n"))?;
            Ok(status(failure))
        }
        None => Ok(0),
    }
}

/// Who says how to go on behind an event
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// All events are printed
    Nobody,
    /// Somebody at a terminal
    Somebody,
    /// A pipe or a file
    Script,
}

/// What goes on
const HELP: &str = "Enter goes on, a number goes on by so many, q quits";

/// Prints events, and asks behind each; `false` when there shall be no more
fn one_at_a_time(
    steps: &[Step],
    mut asked: Asked,
    input: &mut impl BufRead,
    out: &mut impl Write,
) -> Result<bool, Unusable> {
    let closed = |error: io::Error| Unusable(EXIT_INTERNAL, format!("standard output: {error}"));
    let (mut free, mut heard) = (1_u64, false);
    for (number, (at, _, told)) in (1..).zip(steps) {
        writeln!(out, "#{number} {at:?} {told}").map_err(closed)?;
        free = free.saturating_sub(1);
        while free == 0 && asked != Asked::Nobody {
            if asked == Asked::Somebody {
                write!(out, "> ").and_then(|()| out.flush()).map_err(closed)?;
            }
            let mut line = String::new();
            let read = input.read_line(&mut line);
            let read = read.map_err(|error| Unusable(EXIT_USAGE, format!("standard input: {error}")))?;
            match (read, line.trim()) {
                // Whoever starts it without any input wants to see it all.
                (0, _) if asked == Asked::Script && !heard => asked = Asked::Nobody,
                (0, _) | (_, "q") => return out.flush().map(|()| false).map_err(closed),
                (_, "") => free = 1,
                (_, count) => match count.parse() {
                    Ok(count) if count > 0 => free = count,
                    Ok(_) | Err(_) if asked == Asked::Somebody => writeln!(out, "{HELP}").map_err(closed)?,
                    Ok(_) | Err(_) => {
                        out.flush().map_err(closed)?;
                        return Err(Unusable(EXIT_USAGE, format!("standard input: what is {count}? {HELP}")));
                    }
                },
            }
            heard = true;
        }
    }
    out.flush().map_err(closed)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use rejoin_core::Instant;
    use rejoin_sim::schedule::Node;
    use rejoin_sim::trace::Told;

    use super::*;

    fn shown(asked: Asked, mut typed: &[u8]) -> (Option<bool>, String) {
        let steps: Vec<Step> = (0..10).map(|n| (Instant::from_micros(n), 0, Told::Woken(Node::Worker(1)))).collect();
        let mut out = Vec::new();
        let goes_on = one_at_a_time(&steps, asked, &mut typed, &mut out).ok();
        (goes_on, String::from_utf8(out).unwrap())
    }

    #[test]
    fn events_come_one_at_a_time_or_so_many_or_all_where_nobody_types() {
        let (goes_on, text) = shown(Asked::Somebody, b"\n3\nx\nq\n");
        assert!(goes_on == Some(false) && text.contains("#5 ") && !text.contains("#6 "), "{text}");
        assert!(text.contains("q quits"), "{text}");
        assert_eq!(shown(Asked::Somebody, b"").0, Some(false), "the terminal is closed");
        let (goes_on, text) = shown(Asked::Somebody, b"100\n");
        assert!(goes_on == Some(true) && text.contains("#10 "));
        let (goes_on, text) = shown(Asked::Nobody, b"q\n");
        assert!(goes_on == Some(true) && text.lines().count() == 10 && !text.contains('>'));
    }

    #[test]
    fn a_script_is_followed_to_its_end_and_without_one_all_is_shown() {
        for (script, goes_on, lines) in [
            ("", Some(true), 10),
            ("\n", Some(false), 2),
            ("3\n\n", Some(false), 5),
            ("3\nq\n5\n", Some(false), 4),
            ("100", Some(true), 10),
            ("2\nx\n", None, 3),
            ("0\n", None, 1),
        ] {
            let (went_on, text) = shown(Asked::Script, script.as_bytes());
            assert!(went_on == goes_on && text.lines().count() == lines && !text.contains('>'), "{script:?}: {text}");
        }
    }
}
