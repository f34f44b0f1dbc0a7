//! `rejoin sim cause`: the point of no return

use std::fmt::Write as _;
use std::path::Path;

use rejoin_sim::cause::{Cause, cause};

use super::{EXIT_VIOLATION, Unusable, read, write};
use crate::args::SimCause;
use crate::say::complain;

/// Events shown behind the fault, and before the failure
const SHOWN: usize = 15;

pub(super) fn run(args: &SimCause) -> Result<u8, Unusable> {
    let schedule = read(&args.file)?;
    let Some(cause) = cause(&schedule, args.budget) else {
        complain("this schedule does not fail");
        return Ok(EXIT_VIOLATION);
    };
    let late = if cause.untried > 0 {
        format!("; the time is over, and {} numbers of faults were not tried", cause.untried)
    } else {
        String::new()
    };
    complain(&format!("{}: {} schedules tried{late}", cause.mark, cause.tried));
    write(Path::new("-"), &told(&cause, schedule.faults()))?;
    Ok(0)
}

fn told(cause: &Cause, faults: usize) -> String {
    let mut text = String::new();
    if let Some(failure) = &cause.run.failure {
        let _ = writeln!(text, "FAILED  {}", failure.to_string().lines().next().unwrap_or_default());
    }
    match &cause.fault {
        Some(fault) => {
            let _ = writeln!(text, "tips it {fault}");
            let _ = writeln!(
                text,
                "        number {} of {faults}; without it and all behind it, it does not fail so",
                cause.enough
            );
        }
        None => text.push_str("tips it no fault: it fails without any\n"),
    }
    if !cause.undone.is_empty() {
        let counts: Vec<String> = cause.undone.iter().take(SHOWN).map(ToString::to_string).collect();
        let more = if cause.undone.len() > SHOWN { ", and more" } else { "" };
        let _ = writeln!(text, "        not so plain: with the first {}{more} it does not fail so", counts.join(", "));
    }
    match cause.healing {
        Some((saved, lost)) => {
            let _ = writeln!(text, "heals   at {saved:.3?} it is saved, at {lost:.3?} it is too late");
        }
        None if cause.fault.is_some() => {
            text.push_str("heals   never: it is too late as soon as the fault has struck\n")
        }
        None => {}
    }
    if let Some(takes) = cause.takes() {
        let _ = writeln!(text, "takes   {takes:?} from the fault to the failure");
    }
    let events = cause.events();
    let hidden = events.len().saturating_sub(2 * SHOWN);
    for (index, (number, (at, _, told))) in events.iter().enumerate() {
        if hidden == 0 || index < SHOWN || index >= SHOWN + hidden {
            let _ = writeln!(text, "event   #{number} {at:?} {told}");
        } else if index == SHOWN {
            let _ = writeln!(text, "        {hidden} more");
        }
    }
    text
}
