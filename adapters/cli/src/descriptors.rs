//! Open files: as many as a fleet needs, and a clear word where the system does not allow them

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that are open whatever the fleet is like
const BASE: u64 = 64;
/// Both ends of a worker's link, what stands between them, and the worker's own files
const PER_WORKER: u64 = 8;
/// A task's pipes and process
const PER_SLOT: u64 = 6;

/// Raises the limit to what a fleet needs, and no further: tasks inherit it
///
/// # Errors
///
/// If a fleet of this size would run out of descriptors all the same: better now than in the middle.
pub fn provide(workers: u16, slots: u16) -> io::Result<()> {
    let needed = needed(workers, slots);
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|have| have >= needed) {
        return Ok(());
    }
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum });
    if raised.is_ok() {
        return Ok(());
    }
    let have = maximum.unwrap_or_default();
    Err(io::Error::other(format!(
        "{workers} workers with {slots} slots need about {needed} open files, and this process may have {have}: \
         raise `ulimit -Hn`, or lower --workers or --slots"
    )))
}

/// Raises the limit as far as it goes, for a coordinator that runs no tasks and may have any number of peers
///
/// # Errors
///
/// If the system does not even allow what it says it does.
pub fn raise() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}

/// Raises the limit as far as it goes, for a process that has so many links and nothing else
///
/// # Errors
///
/// If that many would not fit: better now than in the middle.
pub fn provide_links(links: usize) -> io::Result<()> {
    raise()?;
    // A link that was given up may still be saying goodbye while the next one opens, for a second at most.
    let needed = BASE + links as u64 + links as u64 / 10;
    let have = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if have >= needed {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{links} workers need about {needed} open files, and this process may have {have}: raise `ulimit -Hn`, or lower \
         --workers"
    )))
}

fn needed(workers: u16, slots: u16) -> u64 {
    BASE + u64::from(workers) * (PER_WORKER + u64::from(slots) * PER_SLOT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_fleet_always_fits_and_an_impossible_one_is_told_what_to_do() {
        provide(1, 1).unwrap();
        if getrlimit(Resource::Nofile).maximum.is_some_and(|max| max < needed(u16::MAX, u16::MAX)) {
            let message = provide(u16::MAX, u16::MAX).unwrap_err().to_string();
            assert!(message.contains("ulimit -Hn") && message.contains("--workers"), "{message}");
        }
    }
}
