//! The same once more with one thing changed, to compare with

use std::time::Duration;

use rejoin_core::wire::message::{Failure, Outcome};

use super::Simulation;
use super::people::worker_slots;
use crate::audit::Check;
use crate::schedule::{Knob, Schedule, Setting, Task, What};
use crate::words::words;

/// The batch's tasks are numbered from here, where no schedule's are
const BATCH_FROM: u32 = 0xF000_0000;
/// Most tasks of a batch
const BATCH_MAX: u32 = 400;
/// How long each of them takes
const BATCH_TAKES: Duration = Duration::from_millis(500);
/// What messages and syncs may take beyond that
const SLACK: Duration = Duration::from_millis(300);

impl Simulation {
    /// Runs what the schedule wants to be compared with, and compares
    pub(super) fn compare(&mut self) {
        match self.schedule.setting(Knob::Compare) {
            Some(1) => self.compare_without_replay(),
            Some(2) => self.compare_without_faults(),
            _ => {}
        }
    }

    /// With replay switched off, tasks end as they do with it (SESS-7, S33)
    fn compare_without_replay(&mut self) {
        let mut twin = self.schedule.clone();
        twin.settings.push(Setting { name: Knob::NoReplay, value: 1 });
        let mut twin = Simulation::new(&twin);
        twin.given_up.clone_from(&self.given_up);
        twin.pass_phases();
        let failed = twin.auditor.violation().map(|violation| violation.what.clone());
        self.auditor.expect(Check::S33, failed.is_none(), || {
            format!("with replay switched off: {}", failed.unwrap_or_default())
        });
        // How often a task that fails at first is executed depends on which workers were lost.
        for (id, task) in self.tasks.iter().filter(|(_, task)| task.fails == 0) {
            let (with, without) = (self.auditor.ended(*id), twin.auditor.ended(*id));
            // What depends on when things happen may differ: cancels, lost workers, and a coordinator that is full.
            let (Some(with), Some(without)) = (with, without) else { continue };
            if by_chance(with) || by_chance(without) {
                continue;
            }
            self.auditor.expect_of(Check::S33, *id, with == without, || {
                let (with, without) = (words(with), words(without));
                format!("task {} ended as {with} with replay, and as {without} without", task.number)
            });
        }
    }

    /// After everything has healed, work is done as fast as where nothing was ever broken (L10)
    fn compare_without_faults(&mut self) {
        let twin = without_faults(&self.schedule);
        let mut twin = Simulation::new(&twin);
        twin.given_up.clone_from(&self.given_up);
        twin.pass_phases();
        let (Some(healed), Some(unbroken)) = (self.goodput, twin.goodput) else { return };
        self.auditor.expect(Check::L10, healed * 9 / 10 <= unbroken + SLACK, || {
            format!("a batch took {healed:?} after all had healed, and {unbroken:?} where nothing was broken")
        });
    }

    /// How long a batch of tasks takes that fills all workers
    pub(super) fn measure_goodput(&mut self) {
        if self.schedule.setting(Knob::Compare) != Some(2) || self.schedule.setting(Knob::TasksMax).is_some() {
            return;
        }
        let slots = worker_slots(&self.schedule) as u32;
        let batch = (u32::from(self.schedule.workers) * slots * 4).min(BATCH_MAX);
        let begun = self.now;
        for number in BATCH_FROM..BATCH_FROM + batch {
            self.submit(Task { takes: BATCH_TAKES, ..Task::new(0, number) });
        }
        self.drain();
        let all = |simulation: &Simulation| {
            simulation.auditor.promised().all(|task| simulation.auditor.ended(task).is_some())
        };
        let told = self.figures.told + u64::from(batch);
        let most = begun + BATCH_TAKES * batch + Duration::from_secs(60);
        while self.goes_on() && self.now < most && !(all(self) && self.figures.told >= told) {
            self.run_until((self.now + Duration::from_millis(10)).min(most));
        }
        self.goodput = Some(self.now.since(begun));
    }
}

/// Whether an outcome depends on what happened when
fn by_chance(outcome: Outcome) -> bool {
    let failed = |failure| matches!(failure, Failure::WorkerLost | Failure::Poisonous | Failure::Signal(_));
    outcome == Outcome::Cancelled || matches!(outcome, Outcome::Failed(failure) if failed(failure))
}

fn without_faults(schedule: &Schedule) -> Schedule {
    let mut schedule = schedule.clone();
    schedule.entries.retain(|entry| !matches!(entry.what, What::Fault(_)));
    schedule
}
