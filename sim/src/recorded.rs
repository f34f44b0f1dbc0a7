//! One run with everything that happened in it, however it ended

use std::panic::AssertUnwindSafe;

use rejoin_core::Instant;

use crate::schedule::Schedule;
use crate::simulation::{Simulation, Stop};
use crate::swarm::Failure;
use crate::trace::{Told, Trace};

/// An event of a run: when, the fingerprint behind it, and what it was
pub type Step = (Instant, u64, Told);

/// A run that was recorded
pub struct Recorded {
    /// As it was left
    pub simulation: Simulation,
    /// Why it failed, if it did
    pub failure: Option<Failure>,
}

impl Recorded {
    /// Runs a schedule to its end, its first failure, or where it is to stop
    pub fn run(schedule: &Schedule, stop: Option<Stop>) -> Result<Recorded, Failure> {
        let caught = std::panic::catch_unwind(|| Simulation::recording(schedule));
        let mut simulation = caught.map_err(Failure::panicked)?;
        if let Some(stop) = stop {
            simulation.stop_at(stop);
        }
        // What a panic leaves behind is looked at, and never goes on.
        let caught = std::panic::catch_unwind(AssertUnwindSafe(|| simulation.pass_phases()));
        let failure = match caught {
            Ok(()) => simulation.violation().cloned().map(Failure::Violation),
            Err(panic) => Some(Failure::panicked(panic)),
        };
        Ok(Recorded { simulation, failure })
    }

    /// What a timeline is drawn from
    pub fn trace(&self) -> &Trace {
        self.simulation.trace()
    }

    /// All that happened
    pub fn steps(&self) -> &[Step] {
        self.simulation.steps()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::{Profile, generate};

    #[test]
    fn a_run_stops_where_it_is_told_to_and_says_what_everything_is_like() {
        let schedule = generate(1, Profile::Standard);
        let whole = Recorded::run(&schedule, None).unwrap();
        assert!(whole.failure.is_none() && !whole.simulation.has_stopped());
        assert_eq!(whole.simulation.hash(), Simulation::run(&schedule).hash);
        let at = Instant::from_micros(20_000_000);
        let part = Recorded::run(&schedule, Some(Stop::At(at))).unwrap();
        assert!(part.simulation.has_stopped() && part.simulation.now() == at);
        assert!(whole.steps().starts_with(part.steps()) && whole.steps()[part.steps().len()].0 > at);
        let text = part.simulation.describe();
        for name in ["coordinator: life", "w0: life", "w7: life", "c1: life", "connection ", "wakes in "] {
            assert!(text.contains(name), "{name}: {text}");
        }
        let few = Recorded::run(&schedule, Some(Stop::Events(100))).unwrap();
        assert!((100..200).contains(&few.steps().len()) && whole.steps().starts_with(few.steps()));
    }
}
