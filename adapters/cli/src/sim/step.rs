//! `rejoin sim replay --until` and `--step`: a run looked at from the inside

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use rejoin_sim::recorded::{Recorded, Step};
use rejoin_sim::schedule::Schedule;

use super::{Unusable, status, write, write_eyes};
use crate::args::SimReplay;
use crate::report::EXIT_INTERNAL;

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
        let asks = io::stdin().is_terminal() && io::stdout().is_terminal();
        let shown = one_at_a_time(run.steps(), asks, &mut input, &mut out);
        let goes_on = shown.map_err(|error| Unusable(EXIT_INTERNAL, format!("standard output: {error}")))?;
        if !goes_on {
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

/// Prints events, and asks behind each; `false` when there shall be no more
fn one_at_a_time(steps: &[Step], asks: bool, input: &mut impl BufRead, out: &mut impl Write) -> io::Result<bool> {
    let mut free = 1_u64;
    for (number, (at, _, told)) in (1..).zip(steps) {
        writeln!(out, "#{number} {at:?} {told}")?;
        free = free.saturating_sub(1);
        if !asks || free > 0 {
            continue;
        }
        free = loop {
            write!(out, "> ")?;
            out.flush()?;
            let mut line = String::new();
            if input.read_line(&mut line)? == 0 {
                return Ok(false);
            }
            match line.trim() {
                "" => break 1,
                "q" => return Ok(false),
                count => match count.parse() {
                    Ok(count) if count > 0 => break count,
                    Ok(_) | Err(_) => writeln!(out, "Enter goes on, a number goes on by so many, q quits")?,
                },
            }
        };
    }
    out.flush()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use rejoin_core::Instant;
    use rejoin_sim::schedule::Node;
    use rejoin_sim::trace::Told;

    use super::*;

    fn shown(asks: bool, mut typed: &[u8]) -> (bool, String) {
        let steps: Vec<Step> = (0..10).map(|n| (Instant::from_micros(n), 0, Told::Woken(Node::Worker(1)))).collect();
        let mut out = Vec::new();
        let goes_on = one_at_a_time(&steps, asks, &mut typed, &mut out).unwrap();
        (goes_on, String::from_utf8(out).unwrap())
    }

    #[test]
    fn events_come_one_at_a_time_or_so_many_or_all_where_nobody_types() {
        let (goes_on, text) = shown(true, b"\n3\nx\nq\n");
        assert!(!goes_on && text.contains("#5 ") && !text.contains("#6 ") && text.contains("q quits"), "{text}");
        assert!(!shown(true, b"").0, "the terminal is closed");
        let (goes_on, text) = shown(true, b"100\n");
        assert!(goes_on && text.contains("#10 "));
        let (goes_on, text) = shown(false, b"");
        assert!(goes_on && text.lines().count() == 10 && !text.contains('>'));
    }
}
