//! The kinds of thing that can happen in a world

use std::fmt;

use crate::net::Side;

/// One thing that can happen next
///
/// Workers, connections and executions are named by their places in the world in which the choice is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// The first message of a pipe arrives
    Deliver { socket: usize, towards: Side },
    /// All records written so far become durable
    Sync,
    /// An execution makes a checkpoint
    Checkpoint { worker: usize, run: usize },
    /// An execution ends as it should
    Finish { worker: usize, run: usize },
    /// An execution ends as it should not
    Fail { worker: usize, run: usize },
    /// An execution that was told to stop does so
    Stop { worker: usize, run: usize },
    /// A transport that a worker dials is open
    Open { worker: usize },
    /// Nothing happens until the next deadline of any machine
    Wait,
    /// Something breaks, which uses up one of the faults
    Break(Fault),
}

/// Something that breaks
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Both ends learn that the connection is gone; what is under way is lost
    Reset { socket: usize },
    /// One end learns it at once; the other one behind what is under way, or, if that is lost, by silence alone
    Cut { socket: usize, at: Side, rest: bool },
    /// What is under way is lost, and so is all that follows; nobody is told
    HalfOpen { socket: usize },
    /// The first message of a pipe arrives, and arrives again
    Repeat { socket: usize, towards: Side },
    /// A transport that a worker dials cannot be opened
    Refuse { worker: usize },
    /// A worker loses its memory and begins again
    CrashWorker { worker: usize },
    /// The coordinator loses its memory and recovers; so many records that were not durable survive
    CrashCoordinator { survive: usize },
    /// What is under way stays there until the next deadline of any machine
    Stall,
}

/// Kinds of choice, to be counted
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A message arrives
    Deliver,
    /// Records become durable
    Sync,
    /// A checkpoint is made
    Checkpoint,
    /// An execution ends as it should
    Finish,
    /// An execution ends as it should not
    Fail,
    /// An execution is stopped
    Stop,
    /// A transport opens
    Open,
    /// Time passes
    Wait,
    /// A connection is reset
    Reset,
    /// An end learns late that its connection is gone
    LateClose,
    /// An end learns by silence alone that its connection is gone
    SilentClose,
    /// Both ends learn that by silence alone
    HalfOpen,
    /// A message arrives twice
    Repeat,
    /// A transport does not open
    Refuse,
    /// A worker crashes
    CrashWorker,
    /// The coordinator crashes
    CrashCoordinator,
    /// Time passes while messages are under way
    Stall,
}

impl Kind {
    /// All of them
    pub const ALL: [Kind; 17] = [
        Kind::Deliver,
        Kind::Sync,
        Kind::Checkpoint,
        Kind::Finish,
        Kind::Fail,
        Kind::Stop,
        Kind::Open,
        Kind::Wait,
        Kind::Reset,
        Kind::LateClose,
        Kind::SilentClose,
        Kind::HalfOpen,
        Kind::Repeat,
        Kind::Refuse,
        Kind::CrashWorker,
        Kind::CrashCoordinator,
        Kind::Stall,
    ];

    /// What it is called
    pub fn name(self) -> &'static str {
        match self {
            Kind::Deliver => "deliver",
            Kind::Sync => "sync",
            Kind::Checkpoint => "checkpoint",
            Kind::Finish => "finish",
            Kind::Fail => "fail",
            Kind::Stop => "stop",
            Kind::Open => "open",
            Kind::Wait => "wait",
            Kind::Reset => "reset",
            Kind::LateClose => "late-close",
            Kind::SilentClose => "silent-close",
            Kind::HalfOpen => "half-open",
            Kind::Repeat => "repeat",
            Kind::Refuse => "refuse",
            Kind::CrashWorker => "crash-worker",
            Kind::CrashCoordinator => "crash-coord",
            Kind::Stall => "stall",
        }
    }

    /// Whether it is a fault
    pub fn is_fault(self) -> bool {
        self >= Kind::Reset
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Choice {
    pub(super) fn kind(self) -> Kind {
        match self {
            Choice::Deliver { .. } => Kind::Deliver,
            Choice::Sync => Kind::Sync,
            Choice::Checkpoint { .. } => Kind::Checkpoint,
            Choice::Finish { .. } => Kind::Finish,
            Choice::Fail { .. } => Kind::Fail,
            Choice::Stop { .. } => Kind::Stop,
            Choice::Open { .. } => Kind::Open,
            Choice::Wait => Kind::Wait,
            Choice::Break(fault) => match fault {
                Fault::Reset { .. } => Kind::Reset,
                Fault::Cut { rest: true, .. } => Kind::LateClose,
                Fault::Cut { rest: false, .. } => Kind::SilentClose,
                Fault::HalfOpen { .. } => Kind::HalfOpen,
                Fault::Repeat { .. } => Kind::Repeat,
                Fault::Refuse { .. } => Kind::Refuse,
                Fault::CrashWorker { .. } => Kind::CrashWorker,
                Fault::CrashCoordinator { .. } => Kind::CrashCoordinator,
                Fault::Stall => Kind::Stall,
            },
        }
    }
}
