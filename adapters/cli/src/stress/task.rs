//! The task of the stress suite: a program that leaves a mark wherever it has come to
//!
//! It is this program again, started by a worker like any other command. It works in steps, may make a checkpoint after
//! each, and returns bytes that follow from its task's id, so that a damaged one is seen. Marks are lines in one file that all
//! tasks append to, each written at once; nothing that a machine of rejoin believes takes part in them.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use super::log::Stamp;

/// What a task is to do
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    /// Steps to go, at least one
    pub(crate) steps: u64,
    /// How long each takes, in milliseconds
    pub(crate) step_ms: u64,
    /// Bytes of the checkpoint that is made after each step; none if 0
    pub(crate) checkpoint_bytes: u64,
    /// Thousandths of a checkpoint that are not as they were in the one before
    pub(crate) fresh_permille: u64,
    /// Bytes it returns
    pub(crate) result_bytes: u64,
    /// Bytes it writes to its standard output, in each step
    pub(crate) output_bytes: u64,
}

impl Work {
    /// The command line that does it
    pub(crate) fn argv(self, program: &Path, marks: &Path) -> Vec<OsString> {
        let Work { steps, step_ms, checkpoint_bytes, fresh_permille, result_bytes, output_bytes } = self;
        let numbers = [steps, step_ms, checkpoint_bytes, fresh_permille, result_bytes, output_bytes];
        let mut argv = vec![program.into(), "stress-task".into(), marks.into()];
        argv.extend(numbers.map(|number| OsString::from(number.to_string())));
        argv
    }

    /// Reads the numbers of a command line
    pub(crate) fn read(numbers: &[u64]) -> Option<Work> {
        let &[steps, step_ms, checkpoint_bytes, fresh_permille, result_bytes, output_bytes] = numbers else {
            return None;
        };
        Some(Work { steps, step_ms, checkpoint_bytes, fresh_permille, result_bytes, output_bytes })
    }
}

/// What a task has left a mark of
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// It was started, from this step on
    Start(u64),
    /// It has done this step
    Step(u64),
    /// It has come to its end
    End,
}

/// A line of the marks
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    /// When
    pub(crate) at: Stamp,
    /// Which task
    pub(crate) task: [u8; 16],
    /// Which of its attempts
    pub(crate) token: u64,
    /// Its number
    pub(crate) attempt: u32,
    /// What it has done
    pub(crate) deed: Deed,
}

impl Mark {
    fn line(&self) -> String {
        let (what, step) = match self.deed {
            Deed::Start(step) => ('s', step),
            Deed::Step(step) => ('t', step),
            Deed::End => ('e', 0),
        };
        let task = u128::from_be_bytes(self.task);
        format!("{:016x} {task:032x} {:016x} {:08x} {what} {step:08x}\n", self.at.0, self.token, self.attempt)
    }

    /// Reads a line; `None` if it was torn off
    pub(crate) fn parse(line: &str) -> Option<Mark> {
        let mut fields = line.split(' ');
        let mut hex = |digits| {
            let field = fields.next().filter(|field| field.len() == digits)?;
            u128::from_str_radix(field, 16).ok()
        };
        let (at, task, token, attempt) = (hex(16)?, hex(32)?, hex(16)?, hex(8)?);
        let what = fields.next()?;
        let step = fields.next().filter(|field| field.len() == 8)?;
        let step = u64::from_str_radix(step, 16).ok()?;
        let deed = match what {
            "s" => Deed::Start(step),
            "t" => Deed::Step(step),
            "e" => Deed::End,
            _ => return None,
        };
        Some(Mark {
            at: Stamp(u64::try_from(at).ok()?),
            task: task.to_be_bytes(),
            token: u64::try_from(token).ok()?,
            attempt: u32::try_from(attempt).ok()?,
            deed,
        })
    }

    /// Reads all marks of a file, none if it is not there
    pub(crate) fn read(path: &Path) -> io::Result<Vec<Mark>> {
        match fs::read_to_string(path) {
            Ok(text) => Ok(text.lines().filter_map(Mark::parse).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

/// So many bytes that follow from a task's id and a number alone, and do not compress
pub(crate) fn content(task: [u8; 16], salt: u64, length: u64) -> Vec<u8> {
    let id = u128::from_be_bytes(task);
    let (low, high) = (id as u64, (id >> 64) as u64);
    let mut state = (low ^ high.rotate_left(21) ^ salt.wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1;
    let mut bytes = Vec::with_capacity(length as usize + 8);
    while (bytes.len() as u64) < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
    }
    bytes.truncate(length as usize);
    bytes
}

/// Does a task's work; returns the exit status
pub(crate) fn task(marks: &Path, numbers: &[u64]) -> u8 {
    let Some(work) = Work::read(numbers) else { return 2 };
    match perform(marks, work) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("stress-task: {error}");
            1
        }
    }
}

/// Who it is, as its worker has told it
struct Task {
    task: [u8; 16],
    token: u64,
    attempt: u32,
    marks: File,
}

impl Task {
    fn from_env(marks: &Path) -> io::Result<Task> {
        let missing = |name: &'static str| move || io::Error::other(format!("{name}: not set as a worker sets it"));
        let text = |name: &'static str| std::env::var(name).map_err(|_| missing(name)());
        let task = u128::from_str_radix(&text("REJOIN_TASK")?, 16).map_err(|_| missing("REJOIN_TASK")())?;
        Ok(Task {
            task: task.to_be_bytes(),
            token: text("REJOIN_TOKEN")?.parse().map_err(|_| missing("REJOIN_TOKEN")())?,
            attempt: text("REJOIN_ATTEMPT")?.parse().map_err(|_| missing("REJOIN_ATTEMPT")())?,
            marks: OpenOptions::new().create(true).append(true).open(marks)?,
        })
    }

    fn mark(&mut self, deed: Deed) -> io::Result<()> {
        let Task { task, token, attempt, .. } = *self;
        self.marks.write_all(Mark { at: Stamp::now(), task, token, attempt, deed }.line().as_bytes())
    }
}

fn perform(marks: &Path, work: Work) -> io::Result<()> {
    let mut task = Task::from_env(marks)?;
    let from = begin(&task, work)?;
    task.mark(Deed::Start(from))?;
    for step in from..work.steps {
        sleep(Duration::from_millis(work.step_ms));
        if work.output_bytes > 0 {
            let bytes = content(task.task, step, work.output_bytes);
            io::stdout().write_all(&bytes)?;
        }
        task.mark(Deed::Step(step))?;
        if work.checkpoint_bytes > 0 && step + 1 < work.steps {
            save(&task, work, step + 1)?;
        }
    }
    if let Some(path) = std::env::var_os("REJOIN_RESULT").filter(|_| work.result_bytes > 0) {
        fs::write(path, content(task.task, 0, work.result_bytes))?;
    }
    task.mark(Deed::End)
}

/// The step to begin with, by the checkpoint that it starts from; a damaged one is an error
fn begin(task: &Task, work: Work) -> io::Result<u64> {
    let Some(path) = std::env::var_os("REJOIN_CHECKPOINT_IN") else { return Ok(0) };
    let bytes = fs::read(path)?;
    let step = bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    match step.filter(|step| checkpoint(task.task, work, *step) == bytes) {
        Some(step) => Ok(step),
        None => Err(io::Error::other("the checkpoint is not what was saved")),
    }
}

/// The checkpoint behind so many steps: the number, what is always the same, and what is new
fn checkpoint(task: [u8; 16], work: Work, step: u64) -> Vec<u8> {
    let length = work.checkpoint_bytes.max(8);
    let fresh = (length - 8) * work.fresh_permille.min(1000) / 1000;
    let mut bytes = step.to_le_bytes().to_vec();
    bytes.extend(content(task, step, fresh));
    bytes.extend(content(task, u64::MAX, length - 8 - fresh));
    bytes
}

fn save(task: &Task, work: Work, step: u64) -> io::Result<()> {
    let Some(out) = std::env::var_os("REJOIN_CHECKPOINT_OUT").map(PathBuf::from) else { return Ok(()) };
    let new = out.with_extension("new");
    fs::write(&new, checkpoint(task.task, work, step))?;
    fs::rename(new, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_as_they_were_written_and_torn_ones_are_left_out() {
        for deed in [Deed::Start(0), Deed::Step(7), Deed::End] {
            let mark = Mark { at: Stamp(1_700_000_000_000_000), task: [9; 16], token: 77, attempt: 3, deed };
            let line = mark.line();
            assert_eq!(Mark::parse(line.trim_end()), Some(mark));
            assert_eq!(Mark::parse(&line[..line.len() - 3]), None);
        }
    }

    #[test]
    fn what_a_task_returns_follows_from_its_id() {
        let bytes = content([1; 16], 0, 1001);
        assert!(bytes.len() == 1001 && bytes == content([1; 16], 0, 1001));
        assert!(bytes != content([2; 16], 0, 1001));
        assert!(bytes != content([1; 16], 1, 1001));
        assert!(content([1; 16], 0, 0).is_empty());
    }

    #[test]
    fn a_checkpoint_says_its_step_and_how_much_of_it_is_new() {
        let work = Work { checkpoint_bytes: 100_008, fresh_permille: 100, ..Work::default() };
        let (one, two) = (checkpoint([1; 16], work, 1), checkpoint([1; 16], work, 2));
        assert_eq!((one.len(), one[0], two[0]), (100_008, 1, 2));
        let same = one.iter().zip(&two).filter(|(one, two)| one == two).count();
        assert!((89_000..92_000).contains(&same), "{same}");
    }
}
