//! Whatever may befall a fleet, drawn by the seed

use std::time::{Duration, Instant};

use rejoin_smol::chaos::{End, Fault, Kind};

use super::fleet::Fleet;
use super::hits::{Hit, Notice};
use super::log::Stamp;
use super::scenario::{Stage, Trouble, pause};

/// Something that is under way, and ends later
struct Pending {
    worker: usize,
    what: What,
    at: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Thaw,
    Start,
}

/// Breaks one thing after another, on workers that are connected
pub(crate) struct Mischief {
    pending: Vec<Pending>,
    /// Behind how many other faults the coordinator is killed
    coordinator_behind: usize,
    since: usize,
    frozen: Duration,
}

impl Mischief {
    /// Freezes and absences last so long; the coordinator is killed behind so many other faults, again and again
    pub(crate) fn new(frozen: Duration, coordinator_behind: usize) -> Mischief {
        Mischief { pending: Vec::new(), coordinator_behind, since: 0, frozen }
    }

    /// Breaks something, if there is somebody to whom nothing else happens just now
    pub(crate) async fn strike(&mut self, stage: &mut Stage, fleet: &mut Fleet) -> Result<(), Trouble> {
        self.due(fleet)?;
        self.since += 1;
        // Who is frozen or away could not notice it.
        if self.since > self.coordinator_behind && self.pending.is_empty() {
            self.since = 0;
            pause(fleet.plan.silence_max()).await;
            fleet.kill_coordinator()?;
            pause(stage.between(20, 200)).await;
            fleet.start_coordinator()?;
            fleet.all_over();
            return Ok(());
        }
        fleet.look()?;
        // Nobody is struck again before the last time had to be noticed.
        let rests = |hit: &Hit| Stamp::now().since(hit.at) > fleet.plan.silence_max().as_micros() as u64;
        let last = |n: usize| fleet.hits.iter().rev().find(|hit| hit.worker == n);
        let free = |n: &usize| {
            let left_alone = self.pending.iter().all(|pending| pending.worker != *n);
            left_alone && fleet.is_connected(*n) && last(*n).is_none_or(rests)
        };
        let victims: Vec<usize> = (0..fleet.workers.len()).filter(free).collect();
        let Some(victim) = victims.get(stage.below(victims.len())).copied() else { return Ok(()) };
        let silence = Some(fleet.plan.silence_max());
        let silent = Notice { worker: silence, coordinator: silence, silent: true };
        match stage.below(8) {
            0 => {
                fleet.freeze(victim);
                self.later(victim, What::Thaw);
            }
            1 => {
                fleet.kill_worker(victim);
                self.later(victim, What::Start);
            }
            2 => {
                fleet.kill_worker(victim);
                fleet.over(victim);
                fleet.start_worker(victim)?;
            }
            3 => fleet.strike(victim, Fault::of_all(Kind::Dead), silent),
            4 => {
                let towards = if stage.below(2) == 0 { End::Peer } else { End::Coordinator };
                let fault = Fault { towards, ..Fault::of_all(Kind::HalfOpen) };
                let notice = match towards {
                    End::Peer => Notice { coordinator: None, ..silent },
                    End::Coordinator => Notice { worker: None, ..silent },
                };
                fleet.strike(victim, fault, notice);
            }
            _ => fleet.reset(victim),
        }
        Ok(())
    }

    fn later(&mut self, worker: usize, what: What) {
        self.pending.push(Pending { worker, what, at: Instant::now() + self.frozen });
    }

    /// Ends what has lasted long enough
    fn due(&mut self, fleet: &mut Fleet) -> Result<(), Trouble> {
        let now = Instant::now();
        let (due, pending): (Vec<Pending>, Vec<Pending>) =
            std::mem::take(&mut self.pending).into_iter().partition(|pending| pending.at <= now);
        self.pending = pending;
        due.into_iter().try_for_each(|pending| end(fleet, &pending))
    }

    /// Waits until all that lasts is over
    pub(crate) async fn end(&mut self, fleet: &mut Fleet) -> Result<(), Trouble> {
        while !self.pending.is_empty() {
            self.due(fleet)?;
            pause(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

fn end(fleet: &mut Fleet, pending: &Pending) -> Result<(), Trouble> {
    match pending.what {
        What::Thaw => fleet.thaw(pending.worker),
        What::Start => {
            fleet.over(pending.worker);
            fleet.start_worker(pending.worker)?;
        }
    }
    Ok(())
}
