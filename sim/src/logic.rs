//! What tasks do when they are executed: what their lines say, or a user's own logic
//!
//! A [`Workload`] stands for all that is outside of rejoin: it has the inputs of the tasks, makes the [`Logic`] of each
//! execution, and holds whatever these act upon, such as a mock of a service. There is a new one for each simulation. The
//! lines of a schedule that submit tasks are executed by [`Scripted`], unless another one is given.
//!
//! An execution is asked for one [`Act`] after the other, at the virtual time at which it comes to that. It knows what a
//! real one knows: its input, its attempt, its token, and the last checkpoint. It ends without a word when its worker
//! crashes, and while it is cut off it goes on, as real ones do. All it draws comes from [`Start::draws`], so that the
//! same schedule does the same again.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use rejoin_core::ids::Token;
use rejoin_core::limits::INLINE_BYTES_MAX;
use rejoin_core::wire::message::{Failure, Outcome};

use crate::draws::Draws;
use crate::schedule::Task;

/// Largest result that a worker keeps and says in a message
pub(crate) const RESULT_BYTES_MAX: u32 = 1024;

/// Most acts of an execution at one moment
pub const ACTS_AT_ONCE_MAX: u32 = 10_000;

/// What an execution does next
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing for a while
    Wait(Duration),
    /// Writes to standard output
    Print(Vec<u8>),
    /// Reports how far it is
    Progress(u64),
    /// Makes a checkpoint; the next attempt starts from the last that became durable
    Checkpoint(Vec<u8>),
    /// Is over, with a result of at most 16 MiB; more than 1,024 bytes go in chunks
    End(Outcome, Vec<u8>),
    /// Takes its worker with it
    Crash,
}

/// One execution of a task
pub trait Logic: fmt::Debug {
    /// What it does next; not asked again behind [`Act::End`] and [`Act::Crash`], nor once it is told to stop
    fn next(&mut self) -> Act;

    /// Its worker would like a checkpoint, as they get rare or it is being drained; what it saves, if it can at this moment
    fn wanted(&mut self) -> Option<Vec<u8>> {
        None
    }
}

/// What a worker knows when it starts a task
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// Its line of the schedule
    pub task: Task,
    /// Its input
    pub payload: &'a [u8],
    /// Which attempt, from 1
    pub attempt: u32,
    /// Of this attempt and no other
    pub token: Token,
    /// The newest durable checkpoint, if there is one
    pub checkpoint: Option<&'a [u8]>,
    /// Random numbers of this execution
    pub draws: Draws,
}

/// What there is to be executed, and what is outside
pub trait Workload {
    /// The input of a task, the same each time; by default its number, and as many bytes more as its line says
    ///
    /// Above 48 KiB all but four bytes of it go in chunks, of which there are 16 MiB at most (FRAME-3).
    fn payload(&self, task: &Task) -> Vec<u8> {
        let mut payload = task.number.to_le_bytes().to_vec();
        let input = task.input as usize;
        if payload.len() + input > INLINE_BYTES_MAX {
            payload.extend(unlike(task.number, input));
        } else {
            payload.resize(4 + input, 0x17);
        }
        payload
    }

    /// A worker starts a task
    fn execute(&mut self, start: Start<'_>) -> Box<dyn Logic>;

    /// All is over: whether everything outside is as it should be, or what is wrong
    fn check(&self, _seen: &Seen) -> Result<(), String> {
        Ok(())
    }
}

/// What was seen of the tasks of a simulation
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// By number
    pub tasks: BTreeMap<u32, TaskSeen>,
}

/// What was seen of a task
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskSeen {
    /// What its client was told
    pub outcome: Option<Outcome>,
    /// What it returned
    pub result: Vec<u8>,
    /// How often it was begun: more than once where workers were lost, or it failed
    pub executions: u32,
}

/// Does what the lines of the schedule say
#[derive(Clone, Copy, Debug)]
pub struct Scripted;

impl Workload for Scripted {
    fn execute(&mut self, start: Start<'_>) -> Box<dyn Logic> {
        let done = start.checkpoint.and_then(|bytes| bytes.first().copied()).unwrap_or(0);
        Box::new(Script::new(start.task, start.attempt, done))
    }
}

/// What a line says, in the order of time
#[derive(Debug)]
struct Script {
    task: Task,
    attempt: u32,
    /// Last first
    scenes: Vec<(u64, Scene)>,
    now_us: u64,
    printed: u64,
    /// Steps that are done
    done: u8,
}

#[derive(Clone, Copy, Debug)]
enum Scene {
    /// So many bytes have been printed by then
    Prints(u32),
    Half,
    Step(u8),
    Kills,
    Ends,
}

impl Script {
    fn new(task: Task, attempt: u32, done: u8) -> Script {
        let done = done.min(task.steps);
        let left = u32::from(task.steps - done).max(1);
        let takes = task.takes * left / u32::from(task.steps);
        let us = |span: Duration| span.as_micros() as u64;
        let mut scenes = vec![(us(takes / 2), Scene::Prints(task.prints / 2)), (us(takes / 2), Scene::Half)];
        let steps = done + 1..task.steps;
        scenes.extend(steps.map(|step| (us(takes * u32::from(step - done) / left), Scene::Step(step))));
        if attempt <= task.poison {
            scenes.push((us(takes / 2), Scene::Kills));
        }
        scenes.extend([(us(takes), Scene::Prints(task.prints)), (us(takes), Scene::Ends)]);
        // What happens at once stays in its order.
        scenes.sort_by_key(|(at, _)| *at);
        scenes.reverse();
        Script { task, attempt, scenes, now_us: 0, printed: 0, done }
    }
}

impl Logic for Script {
    fn next(&mut self) -> Act {
        while let Some((at, scene)) = self.scenes.last().copied() {
            if at > self.now_us {
                let wait = at - std::mem::replace(&mut self.now_us, at);
                return Act::Wait(Duration::from_micros(wait));
            }
            self.scenes.pop();
            match scene {
                Scene::Prints(upto) => {
                    let from = std::mem::replace(&mut self.printed, upto.into());
                    if from < self.printed {
                        return Act::Print((from..self.printed).map(|at| printed(self.task.number, at)).collect());
                    }
                }
                Scene::Half => return Act::Progress(50),
                Scene::Step(step) => {
                    self.done = step;
                    return Act::Checkpoint(saved(&self.task, step));
                }
                Scene::Kills => return Act::Crash,
                Scene::Ends => break,
            }
        }
        let fails = self.attempt <= self.task.fails;
        let outcome = if fails { Outcome::Failed(Failure::Exit(1)) } else { Outcome::Succeeded };
        Act::End(outcome, returned(&self.task))
    }

    fn wanted(&mut self) -> Option<Vec<u8>> {
        (self.task.steps > 1).then(|| saved(&self.task, self.done))
    }
}

/// What a task returns; of a large result no two chunks are alike
fn returned(task: &Task) -> Vec<u8> {
    let returns = task.returns as usize;
    if returns > RESULT_BYTES_MAX as usize { unlike(task.number, returns) } else { vec![7; returns] }
}

/// Bytes of which no two chunks are alike
fn unlike(number: u32, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let run = |at: u64| (at | u64::from(number) << 32).to_le_bytes();
    bytes.chunks_mut(8).zip(0..).for_each(|(bytes, at)| bytes.copy_from_slice(&run(at)[..bytes.len()]));
    bytes
}

/// A checkpoint behind a step: the step, and bytes of which most are those of the step before
fn saved(task: &Task, step: u8) -> Vec<u8> {
    let (all, changed) = (task.saves as usize, 1 + task.saves as usize / 100);
    // In runs, as two divisions for each byte would take longer than all that becomes of a large one.
    let mut bytes = vec![0; all];
    bytes.chunks_mut(241).for_each(|run| run.iter_mut().zip(0..).for_each(|(byte, at)| *byte = at));
    bytes.chunks_mut(251).zip(0u64..).for_each(|(run, number)| run.iter_mut().for_each(|byte| *byte ^= number as u8));
    let from = usize::from(step) * changed % all;
    bytes.iter_mut().skip(from).take(changed).for_each(|byte| *byte ^= step);
    bytes[0] = step;
    bytes
}

/// The byte of a task's output at an offset
fn printed(task: u32, offset: u64) -> u8 {
    (u64::from(task).wrapping_mul(31).wrapping_add(offset.wrapping_mul(7)) ^ (offset >> 8)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acts(task: Task, attempt: u32, done: u8) -> Vec<Act> {
        let mut script = Script::new(task, attempt, done);
        let mut acts = Vec::new();
        while !matches!(acts.last(), Some(Act::End(..) | Act::Crash)) {
            acts.push(script.next());
        }
        acts
    }

    #[test]
    fn a_script_says_in_order_what_its_line_says_and_goes_on_from_its_checkpoint() {
        let wait = |ms| Act::Wait(Duration::from_millis(ms));
        let task = Task { prints: 3, steps: 2, returns: 1, fails: 1, ..Task::new(0, 5) };
        let bytes = |range: std::ops::Range<u64>| Act::Print(range.map(|at| printed(5, at)).collect());
        let end = |outcome| Act::End(outcome, returned(&task));
        let (failed, half) = (Outcome::Failed(Failure::Exit(1)), Act::Progress(50));
        let first =
            [wait(50), bytes(0..1), half.clone(), Act::Checkpoint(saved(&task, 1)), wait(50), bytes(1..3), end(failed)];
        assert_eq!(acts(task, 1, 0), first);
        assert_eq!(acts(task, 2, 1), [wait(25), bytes(0..1), half, wait(25), bytes(1..3), end(Outcome::Succeeded)]);
        assert_eq!(acts(Task { poison: 2, prints: 0, steps: 1, ..task }, 2, 0).last(), Some(&Act::Crash));
    }
}
