//! Lightweight workers, all in one process: what it prints, second by second, and what it has written down of tasks

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::audit::Start;

use super::fleet::{Fleet, Process, Release, ended};
use super::log::Stamp;
use super::scenario::{Trouble, pause};
use super::task::{Deed, Mark};

/// Where starts and ends of tasks are written down
const LOG: &str = "crowd.tasks";

/// A process with lightweight workers
pub(crate) struct Crowd {
    process: Process,
    out: PathBuf,
    err: PathBuf,
    /// How many there are
    pub(crate) workers: usize,
}

/// A second of a crowd's life
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Second {
    /// Workers that were connected at its end
    pub(crate) connected: u64,
    /// Dials
    pub(crate) dials: u64,
    /// Welcomes
    pub(crate) welcomed: u64,
    /// Dials that were told to come later
    pub(crate) turned_away: u64,
    /// Dials that failed otherwise
    pub(crate) failed: u64,
    /// Connections that were lost
    pub(crate) lost: u64,
    /// Tasks begun
    pub(crate) started: u64,
}

impl Crowd {
    /// Starts the lightweight workers of a fleet's plan, so many in a second
    pub(crate) fn start(fleet: &Fleet, rate: usize) -> Result<Crowd, Trouble> {
        let (url, rate) = (format!("ws://{}", fleet.address()), rate.to_string());
        let words = ["crowd", "--coordinator", &url, "--key", "crowd.keys", "--rate", &rate, "--json", "--log", LOG];
        let (out, err) = (fleet.dir().join("crowd-seconds.log"), fleet.dir().join("crowd.log"));
        let mut command = fleet.command(Release::New, "crowd.log", &words)?;
        let child = command.stdout(File::create(&out)?).stdin(Stdio::null()).spawn()?;
        Ok(Crowd { process: Process::of(child), out, err, workers: fleet.plan.crowd })
    }

    /// Its number
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn said(&self) -> Result<Vec<Value>, Trouble> {
        let text = fs::read_to_string(&self.out)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let read =
            |line| serde_json::from_str(line).map_err(|error| Trouble::new(format!("crowd-seconds.log: {error}")));
        whole.lines().map(read).collect()
    }

    /// All seconds that it has told of
    pub(crate) fn seconds(&self) -> Result<Vec<Second>, Trouble> {
        let said = self.said()?;
        Ok(said.iter().filter(|said| said["type"] == "second").map(Second::read).collect())
    }

    /// Waits until something holds of its last second
    pub(crate) async fn until(
        &mut self,
        what: &str,
        within: Duration,
        holds: impl Fn(Second) -> bool,
    ) -> Result<(), Trouble> {
        let begun = Instant::now();
        loop {
            let last = self.seconds()?.last().copied().unwrap_or_default();
            if holds(last) {
                return Ok(());
            }
            if self.process.has_ended() {
                let why = fs::read_to_string(&self.err).unwrap_or_default();
                return Err(Trouble::new(format!("the lightweight workers have ended: {}", why.trim())));
            }
            if begun.elapsed() > within {
                let Second { connected, .. } = last;
                let of = self.workers;
                return Err(Trouble::new(format!("{what}: not within {within:?}; {connected} of {of} are connected")));
            }
            pause(Duration::from_millis(50)).await;
        }
    }

    /// Has them say goodbye, and returns what they say of all that they went through
    pub(crate) async fn end(self) -> Result<Value, Trouble> {
        self.process.signal(Signal::TERM);
        let Crowd { process, out, err, workers } = self;
        ended(process, "the lightweight workers").await?;
        let text = fs::read_to_string(&out)?;
        let last = text.lines().last().unwrap_or_default();
        let summary: Option<Value> = serde_json::from_str(last).ok().filter(|last: &Value| last["type"] == "summary");
        summary.ok_or_else(|| {
            let why = fs::read_to_string(&err).unwrap_or_default();
            Trouble::new(format!("{workers} lightweight workers have ended without a word: {}", why.trim()))
        })
    }
}

impl Second {
    fn read(said: &Value) -> Second {
        let field = |name: &str| said[name].as_u64().unwrap_or_default();
        Second {
            connected: field("connected"),
            dials: field("dials"),
            welcomed: field("welcomed"),
            turned_away: field("turned_away"),
            failed: field("failed"),
            lost: field("lost"),
            started: field("started"),
        }
    }
}

/// What a fleet's lightweight workers have written down, as marks of tasks
pub(crate) fn marks(fleet: &Fleet) -> Result<Vec<Mark>, Trouble> {
    let text = match fs::read_to_string(fleet.dir().join(LOG)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    Ok(text.lines().filter_map(mark).collect())
}

fn mark(line: &str) -> Option<Mark> {
    let (line, deed) = match line.strip_suffix(" end") {
        Some(line) => (line, Deed::End),
        None => (line, Deed::Start(0)),
    };
    let Start { token, task, attempt } = Start::parse(line).ok()?;
    Some(Mark { at: Stamp(0), task, token, attempt, deed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_and_ends_become_marks_and_torn_lines_do_not() {
        let start = Start { token: 7, task: [3; 16], attempt: 2 };
        let mark_of = |line: String| mark(&line).map(|mark| (mark.token, mark.task, mark.attempt, mark.deed));
        assert_eq!(mark_of(start.to_string()), Some((7, [3; 16], 2, Deed::Start(0))));
        assert_eq!(mark_of(format!("{start} end")), Some((7, [3; 16], 2, Deed::End)));
        assert_eq!(mark_of(start.to_string()[..50].to_owned()), None);
        assert_eq!(mark_of(format!("{start} en")), None);
    }
}
