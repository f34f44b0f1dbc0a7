//! What was broken on purpose, and how soon that was noticed and mended
//!
//! The rule is strict. A hit has a window: from when it struck to when the next one struck the same worker. Within it the ends
//! that must notice have to say so by themselves, for a reason that fits: silence where nobody was told, anything but
//! silence where they were; the coordinator may also learn it from the worker's next connection, if the worker had to notice first. And then the worker has to be connected again, once. What is found in no window, or does not
//! fit, is not noticed, however soon things went well again. A hit that is overtaken by the next one before it had to be noticed need
//! not be, and is counted.

use std::collections::BTreeMap;
use std::time::Duration;

use rejoin_smol::chaos::Kind;

use super::fleet::Fleet;
use super::log::{Said, Stamp, Word};

/// What an end says that has heard nothing for too long
const SILENCE: &str = "nothing was heard for too long";

/// Who has to notice a hit, within what time
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    /// The worker
    pub(crate) worker: Option<Duration>,
    /// The coordinator
    pub(crate) coordinator: Option<Duration>,
    /// Whether nobody is told, so that silence is how it is found out
    pub(crate) silent: bool,
}

/// Something that befell a worker's connection
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    /// Which worker
    pub(crate) worker: usize,
    /// What it was
    pub(crate) label: &'static str,
    /// When it struck
    pub(crate) at: Stamp,
    /// From when on the worker could come back
    pub(crate) over: Stamp,
    /// Who has to notice
    pub(crate) notice: Notice,
    /// The proxy's name for it, if it was the proxy's doing
    pub(crate) kind: Option<Kind>,
    /// Whether it strikes some time later, so that nobody knows how long noticing took
    pub(crate) untimed: bool,
}

impl Hit {
    /// One that is over at once
    pub(crate) fn new(worker: usize, label: &'static str, at: Stamp, notice: Notice) -> Hit {
        Hit { worker, label, at, over: at, notice, kind: None, untimed: false }
    }
}

/// What became of a hit
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Noticed {
    /// Which worker
    pub(crate) worker: usize,
    /// What it was
    pub(crate) label: &'static str,
    /// How long the ends took to notice that had to, in microseconds
    pub(crate) detected: Vec<u64>,
    /// From when it was over, and noticed, to the worker's being connected, in microseconds
    pub(crate) resumed: Option<u64>,
    /// What was not as it has to be
    pub(crate) fault: Option<String>,
    /// Whether another one struck the same worker before this one had to be noticed
    pub(crate) overtaken: bool,
}

/// Looks what became of each hit
pub(crate) fn noticed(fleet: &Fleet) -> Vec<Noticed> {
    let words = coordinators_words(fleet);
    let mut next: BTreeMap<usize, Stamp> = BTreeMap::new();
    let mut all: Vec<Noticed> = Vec::new();
    for hit in fleet.hits.iter().rev() {
        let until = next.insert(hit.worker, hit.at).unwrap_or(Stamp(u64::MAX));
        let worker = &fleet.workers[hit.worker];
        let within = |said: &&&Said| hit.at <= said.at && said.at < until;
        let own: Vec<&Said> = worker.log.said.iter().collect();
        let own: Vec<&Said> = own.iter().filter(within).copied().collect();
        let others = words.get(worker.name.as_str()).map(Vec::as_slice).unwrap_or_default();
        let others: Vec<&Said> = others.iter().filter(within).copied().collect();
        let mut noticed = judge(hit, &own, &others);
        let bound = hit.notice.worker.max(hit.notice.coordinator).unwrap_or_default();
        if noticed.fault.is_some() && u128::from(until.since(hit.at)) < bound.as_micros() {
            (noticed.overtaken, noticed.fault) = (true, None);
        }
        all.push(noticed);
    }
    all.reverse();
    all
}

/// Connections of workers that no hit accounts for
pub(crate) fn unplanned(fleet: &Fleet) -> usize {
    let made = |n: usize| {
        let said = fleet.workers[n].log.said.iter();
        said.filter(|said| said.word == Word::Connected).count()
    };
    let hits = |n: usize| fleet.hits.iter().filter(|hit| hit.worker == n).count();
    (0..fleet.workers.len()).map(|n| made(n).saturating_sub(hits(n) + 1)).sum()
}

/// What the coordinator said of each peer
fn coordinators_words(fleet: &Fleet) -> BTreeMap<&str, Vec<&Said>> {
    let mut words: BTreeMap<&str, Vec<&Said>> = BTreeMap::new();
    for said in &fleet.said.said {
        if let Word::Welcomed { peer, .. } | Word::Parted { peer, .. } | Word::Lost { peer } = &said.word {
            words.entry(peer.as_str()).or_default().push(said);
        }
    }
    words
}

fn judge(hit: &Hit, own: &[&Said], others: &[&Said]) -> Noticed {
    let mut noticed = Noticed {
        worker: hit.worker,
        label: hit.label,
        detected: Vec::new(),
        resumed: None,
        fault: None,
        overtaken: false,
    };
    let mut faults = Vec::new();
    let mut last = hit.at;
    let ends = [("the worker", hit.notice.worker, own), ("the coordinator", hit.notice.coordinator, others)];
    for (who, within, said) in ends {
        let Some(within) = within else { continue };
        // A worker that has noticed silence first comes back, and so tells the coordinator.
        let told = hit.notice.worker.is_some();
        let is_told = |said: &Said| told && matches!(said.word, Word::Welcomed { .. });
        match said.iter().find(|said| is_notice(said, hit.notice.silent) || is_told(said)) {
            Some(said) => {
                let took = said.at.since(hit.at);
                if !hit.untimed {
                    noticed.detected.push(took);
                }
                last = last.max(said.at);
                if u128::from(took) > within.as_micros() {
                    faults.push(format!("{who} noticed it after {} ms", took / 1000));
                }
            }
            None => faults.push(format!("{who} did not notice it")),
        }
    }
    let back = own.iter().find(|said| said.at >= hit.at && said.word == Word::Connected);
    match back {
        Some(said) => noticed.resumed = Some(said.at.since(hit.over.max(last.min(said.at)))),
        None => faults.push("the worker was not connected again".to_owned()),
    }
    if !faults.is_empty() {
        noticed.fault = Some(format!("{} of w{}: {}", hit.label, hit.worker, faults.join(", ")));
    }
    noticed
}

/// Whether an end says that its connection is gone, for a reason that fits
fn is_notice(said: &Said, silent: bool) -> bool {
    match &said.word {
        Word::GaveUp(reason) => !silent || reason == SILENCE,
        Word::Parted { reason, .. } => !silent || reason.as_deref() == Some(SILENCE),
        Word::ConnectionLost => !silent,
        Word::Connected
        | Word::Welcomed { .. }
        | Word::Lost { .. }
        | Word::Drifted
        | Word::Restored
        | Word::Refused
        | Word::Panic(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Option<Duration> = Some(Duration::from_secs(1));

    fn said(at: u64, word: Word) -> Said {
        Said { at: Stamp(at), word }
    }

    fn hit(silent: bool) -> Hit {
        Hit::new(0, "x", Stamp(1_000_000), Notice { worker: SOON, coordinator: SOON, silent })
    }

    fn parted(reason: Option<&str>) -> Word {
        Word::Parted { peer: "w0".into(), reason: reason.map(str::to_owned) }
    }

    fn judged(hit: &Hit, own: &[Said], others: &[Said]) -> Noticed {
        judge(hit, &own.iter().collect::<Vec<_>>(), &others.iter().collect::<Vec<_>>())
    }

    #[test]
    fn a_hit_that_both_ends_notice_is_measured_from_when_it_struck() {
        let own = [said(1_200_000, Word::ConnectionLost), said(1_500_000, Word::Connected)];
        let noticed = judged(&hit(false), &own, &[said(1_300_000, parted(None))]);
        assert_eq!((noticed.detected, noticed.resumed, noticed.fault), (vec![200_000, 300_000], Some(200_000), None));
    }

    #[test]
    fn going_on_well_without_having_noticed_is_not_enough() {
        let own = [said(1_500_000, Word::Connected)];
        let fault = judged(&hit(false), &own, &[said(1_300_000, parted(None))]).fault.expect("a fault");
        assert!(fault.contains("the worker did not notice"), "{fault}");
        let own = [said(1_200_000, Word::ConnectionLost)];
        let fault = judged(&hit(false), &own, &[said(1_300_000, parted(None))]).fault.expect("a fault");
        assert!(fault.contains("not connected again"), "{fault}");
    }

    #[test]
    fn silence_is_noticed_as_silence_or_not_at_all() {
        let silence = || Word::GaveUp(SILENCE.to_owned());
        let own = [said(1_200_000, silence()), said(1_500_000, Word::Connected)];
        assert_eq!(judged(&hit(true), &own, &[said(1_300_000, parted(Some(SILENCE)))]).fault, None);
        assert!(judged(&hit(true), &own, &[said(1_300_000, parted(None))]).fault.is_some());
    }

    #[test]
    fn noticing_too_late_is_a_fault() {
        let own = [said(2_200_000, Word::ConnectionLost), said(2_500_000, Word::Connected)];
        let fault = judged(&hit(false), &own, &[said(1_300_000, parted(None))]).fault.expect("a fault");
        assert!(fault.contains("after 1200 ms"), "{fault}");
    }
}
