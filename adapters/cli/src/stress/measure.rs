//! Figures: how times are spread, and what the processes of a fleet took of memory and descriptors

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Upper ends of the bars of a histogram, in milliseconds; the last one has none
const BARS_MS: [u64; 11] = [5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000];
/// How often processes are looked at
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Most looks that are kept; then every second one goes, and looks become rarer
const LOOKS_MAX: usize = 240;

/// How times are spread
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// How many there are
    pub(crate) count: usize,
    /// Half of them are at most this, in milliseconds
    pub(crate) p50_ms: f64,
    /// 99 of 100 are
    pub(crate) p99_ms: f64,
    /// All of them are
    pub(crate) max_ms: f64,
    /// How many there are up to each of the ends that `up_to_ms` names, and beyond all of them
    pub(crate) bars: Vec<usize>,
    /// The ends of the bars
    pub(crate) up_to_ms: Vec<u64>,
}

impl Spread {
    /// That of these times, in microseconds
    pub(crate) fn of(times: impl IntoIterator<Item = u64>) -> Spread {
        let mut times: Vec<u64> = times.into_iter().collect();
        times.sort_unstable();
        let mut bars = vec![0; BARS_MS.len() + 1];
        for time in &times {
            bars[BARS_MS.iter().position(|end| *time <= end * 1000).unwrap_or(BARS_MS.len())] += 1;
        }
        let at = |share: usize| times.get((times.len() * share / 100).min(times.len().saturating_sub(1)));
        let ms = |time: Option<&u64>| (time.copied().unwrap_or_default() / 10) as f64 / 100.0;
        Spread {
            count: times.len(),
            p50_ms: ms(at(50)),
            p99_ms: ms(at(99)),
            max_ms: ms(times.last()),
            bars,
            up_to_ms: BARS_MS.to_vec(),
        }
    }
}

/// What all processes of a kind took at a time
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Look {
    /// Seconds from the start of the scenario
    pub(crate) at_s: f64,
    /// Memory of all of them, in KiB
    pub(crate) rss_kib: u64,
    /// Open descriptors of all of them
    pub(crate) descriptors: u64,
    /// How many there are
    pub(crate) processes: u64,
}

/// Looks at processes now and then, on a thread of its own
#[derive(Clone, Debug)]
pub(crate) struct Sampler(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    watched: Mutex<Vec<(&'static str, u32)>>,
    looks: Mutex<BTreeMap<&'static str, Vec<Look>>>,
    over: AtomicBool,
    begun: Instant,
}

impl Sampler {
    /// Begins to look
    pub(crate) fn start() -> (Sampler, JoinHandle<()>) {
        let shared = Shared {
            watched: Mutex::default(),
            looks: Mutex::default(),
            over: AtomicBool::new(false),
            begun: Instant::now(),
        };
        let sampler = Sampler(Arc::new(shared));
        let looking = sampler.clone();
        (sampler, std::thread::spawn(move || looking.run()))
    }

    /// Looks at this process as well, until it has ended
    pub(crate) fn watch(&self, kind: &'static str, pid: u32) {
        self.0.watched.lock().unwrap_or_else(PoisonError::into_inner).push((kind, pid));
    }

    /// Ends the looking, and returns what was seen
    pub(crate) fn stop(&self) -> BTreeMap<&'static str, Vec<Look>> {
        self.0.over.store(true, Ordering::Relaxed);
        std::mem::take(&mut *self.0.looks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn run(&self) {
        let (mut every, mut longest) = (LOOK_EVERY, 0);
        while !self.0.over.load(Ordering::Relaxed) {
            std::thread::sleep(every.min(LOOK_EVERY));
            if self.0.begun.elapsed() < every * longest {
                continue;
            }
            longest += 1;
            let now = self.look();
            let mut looks = self.0.looks.lock().unwrap_or_else(PoisonError::into_inner);
            for (kind, look) in now {
                looks.entry(kind).or_default().push(look);
            }
            if looks.values().any(|looks| looks.len() >= LOOKS_MAX) {
                for looks in looks.values_mut() {
                    let mut nth = 0;
                    looks.retain(|_| {
                        nth += 1;
                        nth % 2 == 0
                    });
                }
                (every, longest) = (every * 2, longest / 2);
            }
        }
    }

    /// One look at all processes that are there
    fn look(&self) -> BTreeMap<&'static str, Look> {
        let mut watched = self.0.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: BTreeMap<&'static str, Look> = BTreeMap::new();
        let at_s = (self.0.begun.elapsed().as_millis() / 10) as f64 / 100.0;
        watched.retain(|(kind, pid)| {
            let Some((rss_kib, descriptors)) = usage(*pid) else { return false };
            let look = all.entry(kind).or_insert(Look { at_s, ..Look::default() });
            look.rss_kib += rss_kib;
            look.descriptors += descriptors;
            look.processes += 1;
            true
        });
        all
    }
}

/// Memory in KiB and open descriptors of a process, if it lives
fn usage(pid: u32) -> Option<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next();
    let rss = field("VmRSS:")?.parse().ok()?;
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count();
    Some((rss, descriptors as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_its_middle_its_end_and_every_time_in_a_bar() {
        let spread = Spread::of((1..=100).map(|n| n * 1000));
        assert_eq!((spread.count, spread.p50_ms, spread.p99_ms, spread.max_ms), (100, 51.0, 100.0, 100.0));
        assert_eq!(spread.bars[..5], [5, 5, 10, 30, 50]);
        assert_eq!(Spread::of([]).bars.iter().sum::<usize>(), 0);
        assert_eq!(Spread::of([60_000_000]).bars.last(), Some(&1));
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let (rss, descriptors) = usage(std::process::id()).expect("a proc file system");
        assert!(rss > 100 && descriptors > 2, "{rss} {descriptors}");
        assert_eq!(usage(u32::MAX), None);
    }
}
