//! Loads for figures, and what they come to
//!
//! Time is measured by whoever runs them: nothing here looks at a clock of this machine.

use std::time::Duration;

use crate::draws::{Draws, Purpose};
use crate::schedule::{Entry, Knob, Schedule, Setting, Task, What};
use crate::simulation::{Figures, Simulation};

/// Tasks that each worker runs at a time
const SLOTS: u64 = 8;
/// Workers for each client
const WORKERS_PER_CLIENT: u16 = 25;

/// A load without faults
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Workers
    pub workers: u16,
    /// Tasks
    pub tasks: u32,
    /// Submitted in this time, as many at once as fill a quarter of the workers
    pub span: Duration,
}

impl Load {
    /// Those of the published figures: few nodes, a hundred and a thousand
    pub const ALL: [Load; 3] = [
        Load { workers: 8, tasks: 2_000, span: Duration::from_secs(2) },
        Load { workers: 98, tasks: 5_000, span: Duration::from_secs(2) },
        Load { workers: 980, tasks: 10_000, span: Duration::from_secs(2) },
    ];

    /// The same load with a share of its tasks and time, at least one of both
    pub fn share(self, of: u32) -> Load {
        let of = of.max(1);
        let span = (self.span / of).max(Duration::from_secs(1));
        Load { tasks: (self.tasks / of).max(1), span, ..self }
    }

    /// Short tasks with input, output, results, progress and checkpoints; their clients follow each
    pub fn schedule(self) -> Schedule {
        let mut schedule = Schedule::quiet(1);
        schedule.workers = self.workers;
        schedule.clients = (self.workers / WORKERS_PER_CLIENT).clamp(2, 100);
        schedule.safety = self.span;
        schedule.settings = [(Knob::Slots, SLOTS), (Knob::Prefetch, SLOTS), (Knob::AttemptsMax, 64)]
            .map(|(name, value)| Setting { name, value })
            .into();
        let mut draws = Draws::new(schedule.seed, Purpose::Load, 0);
        for number in 0..self.tasks {
            let together = (u32::from(self.workers) * SLOTS as u32 / 4).max(1);
            let at = self.span * (number / together * together) / self.tasks;
            let mut task = Task::new(draws.below(schedule.clients.into()) as u16, number);
            task.takes = Duration::from_millis(draws.between(4, 40));
            task.priority = draws.below(5) as u8;
            task.input = draws.between_log(10, 500) as u32;
            task.prints = draws.between_log(10, 500) as u32;
            task.returns = draws.between_log(1, 100) as u32;
            task.steps = draws.between(2, 3) as u8;
            schedule.entries.push(Entry { at, what: What::Submit(task) });
        }
        schedule
    }
}

/// Runs a schedule, and returns what it comes to
///
/// # Panics
///
/// If something does not hold: figures of what is broken say nothing.
pub fn count(schedule: &Schedule) -> Figures {
    let ending = Simulation::run(schedule);
    assert_eq!(ending.violation, None, "a load without faults holds");
    ending.figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_load_is_carried_out_and_has_no_more_than_four_messages_in_a_frame() {
        let load = Load::ALL[0].share(2);
        let counted = count(&load.schedule());
        assert_eq!(counted.told, 1000);
        let (messages, frames) = (counted.messages, counted.frames);
        assert!(messages > 10 * 1000 && (frames..=frames * 4).contains(&messages), "{messages} in {frames}");
    }
}
