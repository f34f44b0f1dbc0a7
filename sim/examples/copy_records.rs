//! Tasks of one's own under the faults of the simulator: copies records, and books each with a service
//!
//! Each task goes through its records one after the other: it reads one, books it, and makes a checkpoint. A worker may
//! crash between the booking and its checkpoint, and one that is cut off may go on beside its successor. So a record may
//! be booked more than once, and the service has to know it again by its key. Here is shown that this holds with a key
//! made of task and record, and how a key of the attempt is found out.
//!
//! ```sh
//! cargo run --release -p rejoin-sim --example copy_records
//! ```

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rejoin_core::wire::message::Outcome;
use rejoin_sim::draws::Draws;
use rejoin_sim::generate::Profile;
use rejoin_sim::logic::{Act, Logic, Seen, Start, Workload};
use rejoin_sim::schedule::{Knob, Setting, Task};
use rejoin_sim::trial::Trial;

const TASKS: u32 = 30;
const RECORDS: u8 = 20;

/// A mock of the service: what was booked, by record, under which keys
#[derive(Debug, Default)]
struct Service {
    /// By task and record, each key once
    booked: BTreeMap<(u32, u8), Vec<(u64, u8)>>,
    /// Bookings that it knew again
    repeated: u64,
}

impl Service {
    fn book(&mut self, record: (u32, u8), key: (u64, u8)) {
        let keys = self.booked.entry(record).or_default();
        if keys.contains(&key) {
            self.repeated += 1;
        } else {
            keys.push(key);
        }
    }
}

/// All of the job, and the service that it uses
struct Copy {
    naive: bool,
    service: Rc<RefCell<Service>>,
}

impl Workload for Copy {
    fn payload(&self, _task: &Task) -> Vec<u8> {
        vec![RECORDS]
    }

    fn execute(&mut self, start: Start<'_>) -> Box<dyn Logic> {
        Box::new(Copying {
            task: start.task.number,
            key: if self.naive { start.token.0 } else { start.task.number.into() },
            records: start.payload[0],
            record: start.checkpoint.map_or(0, |bytes| bytes[0]),
            step: Step::Read,
            service: Rc::clone(&self.service),
            draws: start.draws,
        })
    }

    fn check(&self, seen: &Seen) -> Result<(), String> {
        let service = self.service.borrow();
        for (number, task) in &seen.tasks {
            if task.outcome != Some(Outcome::Succeeded) || task.result != [RECORDS] {
                return Err(format!("task {number} ended as {:?} with {:?}", task.outcome, task.result));
            }
            for record in 0..RECORDS {
                let times = service.booked.get(&(*number, record)).map_or(0, Vec::len);
                if times != 1 {
                    return Err(format!("record {record} of task {number} was booked {times} times"));
                }
            }
        }
        Ok(())
    }
}

/// One execution: where it is
#[derive(Debug)]
struct Copying {
    task: u32,
    key: u64,
    records: u8,
    record: u8,
    step: Step,
    service: Rc<RefCell<Service>>,
    draws: Draws,
}

#[derive(Debug)]
enum Step {
    Read,
    Book,
    Save,
}

impl Logic for Copying {
    fn next(&mut self) -> Act {
        if self.record == self.records {
            return Act::End(Outcome::Succeeded, vec![self.records]);
        }
        match self.step {
            Step::Read => {
                self.step = Step::Book;
                Act::Wait(Duration::from_millis(self.draws.between(5, 50)))
            }
            Step::Book => {
                self.step = Step::Save;
                self.service.borrow_mut().book((self.task, self.record), (self.key, self.record));
                // Until the service has answered.
                Act::Wait(Duration::from_millis(self.draws.between(1, 20)))
            }
            Step::Save => {
                self.step = Step::Read;
                self.record += 1;
                Act::Checkpoint(vec![self.record])
            }
        }
    }
}

fn trial(naive: bool) -> Trial<impl Fn() -> Copy + Sync> {
    let longest = Duration::from_millis(70) * u32::from(RECORDS);
    Trial {
        tasks: (0..TASKS).map(|number| Task { takes: longest, ..Task::new(number as u16 % 2, number) }).collect(),
        settings: vec![
            Setting { name: Knob::Heartbeat, value: 1_000 },
            Setting { name: Knob::LostAfter, value: 3_000 },
        ],
        profile: Profile::Standard,
        workload: move || Copy { naive, service: Rc::default() },
    }
}

fn main() {
    let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for (name, naive) in [("a key of task and record", false), ("a key of the attempt", true)] {
        let trial = trial(naive);
        let report = trial.swarm(0..300, jobs);
        let [_, reconnections, kinds] = report.medians();
        println!("{name}: {} seeds, {} failed", report.seeds, report.failures.len());
        println!("  {} tasks, {} executions", report.figures.submitted, report.figures.executions);
        println!("  median seed: {reconnections} reconnections, {kinds} kinds of fault with effect");
        if let Some((seed, failure)) = report.failures.first_key_value() {
            println!("  seed {seed}: {failure}");
            if let Some(small) = trial.shrink(&trial.schedule(*seed), Duration::from_secs(5)) {
                println!("{}", small.schedule);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rejoin_sim::audit::Check;
    use rejoin_sim::schedule::Schedule;
    use rejoin_sim::shrink::Mark;

    #[test]
    fn a_key_of_task_and_record_books_once_whatever_breaks() {
        let report = trial(false).swarm(0..12, 2);
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        assert!(report.figures.executions > report.figures.submitted, "some work was done again");
    }

    #[test]
    fn a_key_of_the_attempt_is_found_out_and_fails_again_from_a_small_schedule() {
        let trial = trial(true);
        let fails = |seed: &u64| trial.run(&trial.schedule(*seed)).is_ok_and(|ending| ending.violation.is_some());
        let seed = (0..40).find(fails).expect("booked twice");
        let small = trial.shrink(&trial.schedule(seed), Duration::from_secs(600)).expect("it fails");
        assert!(small.finished, "it was not given the time");
        assert_eq!(small.mark, Mark::Check(Check::Outside));
        let (tasks, faults) = (small.schedule.tasks(), small.schedule.faults());
        assert!(tasks <= 3 && faults <= 5, "{}", small.schedule);
        let read: Schedule = small.schedule.to_string().parse().expect("it is text");
        let violation = trial.run(&read).expect("no panic").violation.expect("it fails again");
        assert!(violation.what.contains("was booked 2 times"), "{}", violation.what);
    }
}
