//! What virtual tasks do

use std::collections::BTreeMap;
use std::time::Duration;

use rejoin_core::ids::Token;
use rejoin_core::wire::message::{Failure, Outcome, Stream};

/// A task: how long it takes, what it prints, and how it ends
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// From start to end
    pub takes: Duration,
    /// Bytes on standard output, half of them at the start
    pub prints: Vec<u8>,
    /// What it returns
    pub returns: Vec<u8>,
    /// How its first attempts end; later ones succeed
    pub ends: Vec<Outcome>,
    /// Into how many equal steps it divides its time: behind each it makes a checkpoint, from which it can go on
    pub steps: u8,
}

impl Job {
    /// A task of 10 ms that prints something and succeeds
    pub fn prints(bytes: &[u8]) -> Self {
        Job { takes: Duration::from_millis(10), prints: bytes.into(), returns: Vec::new(), ends: Vec::new(), steps: 1 }
    }

    /// A silent task that succeeds after some time
    pub fn takes(takes: Duration) -> Self {
        Job { takes, ..Job::prints(b"") }
    }

    /// A silent task that makes a checkpoint behind each of its equal steps
    pub fn steps(steps: u8, takes: Duration) -> Self {
        Job { steps, ..Job::takes(takes) }
    }

    /// A task whose first attempts fail with exit status 1
    pub fn fails(times: usize) -> Self {
        Job { ends: vec![Outcome::Failed(Failure::Exit(1)); times], ..Job::prints(b"") }
    }

    pub(crate) fn outcome(&self, attempt: u32) -> Outcome {
        self.ends.get(attempt as usize - 1).copied().unwrap_or(Outcome::Succeeded)
    }
}

/// A worker's running tasks
#[derive(Clone, Debug, Default)]
pub(crate) struct Executor {
    pub(crate) running: BTreeMap<Token, Running>,
}

#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) job: Job,
    pub(crate) outcome: Outcome,
    /// Output so far
    pub(crate) printed: usize,
    pub(crate) over: bool,
}

/// What a virtual task's checkpoint says: behind which step it was made
pub(crate) fn checkpoint(step: u8) -> [u8; 20] {
    [step; 20]
}

impl Executor {
    /// Answers what an output stream has at an offset
    pub(crate) fn read(&self, token: Token, stream: Stream, offset: u64, max: u32) -> &[u8] {
        let Some(running) = self.running.get(&token).filter(|_| stream == Stream::Out) else { return &[] };
        let start = offset as usize;
        let end = running.printed.min(start + max as usize);
        running.job.prints.get(start..end).unwrap_or(&[])
    }

    /// Answers what a task returned at an offset
    pub(crate) fn returned(&self, token: Token, offset: u64, max: u32) -> &[u8] {
        let returns = self.running.get(&token).map_or(&[][..], |running| &running.job.returns);
        let rest = returns.get(offset as usize..).unwrap_or_default();
        &rest[..rest.len().min(max as usize)]
    }
}
