//! In which states faults have struck, and in which they never have

use crate::menu::{Kind, Scope};

/// What somebody was like when a fault struck
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// A worker or client is not alive
    PeerGone,
    /// The link waits for its next dial
    Waiting,
    /// The transport is being opened
    Connecting,
    /// The handshake has begun
    Greeting,
    /// The peer has proved itself, and waits for the welcome
    Proving,
    /// Both sides compare what they hold
    Reconciling,
    /// Work goes on
    Connected,
    /// The link has stopped for good
    Stopped,
    /// The coordinator is not alive
    CoordinatorGone,
    /// Its recovery window is not over
    Recovering,
    /// It is up
    Up,
    /// No task that is not over is there
    NoTask,
    /// A task waits: for its record, for a worker, or for a slot
    TaskWaits,
    /// A task is given out, or runs
    TaskRuns,
    /// A task was told to stop
    TaskStops,
    /// A task is over, and its result not settled
    TaskOver,
}

/// Columns that belong together
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// The link of a worker or client
    Link,
    /// The coordinator
    Coordinator,
    /// Tasks of whoever was struck
    Tasks,
}

impl Group {
    /// All of them
    pub const ALL: &'static [Group] = &[Group::Link, Group::Coordinator, Group::Tasks];
}

impl State {
    /// All of them
    pub const ALL: &'static [State] = &[
        State::PeerGone,
        State::Waiting,
        State::Connecting,
        State::Greeting,
        State::Proving,
        State::Reconciling,
        State::Connected,
        State::Stopped,
        State::CoordinatorGone,
        State::Recovering,
        State::Up,
        State::NoTask,
        State::TaskWaits,
        State::TaskRuns,
        State::TaskStops,
        State::TaskOver,
    ];

    /// What it is called in a table
    pub fn name(self) -> &'static str {
        match self {
            State::PeerGone | State::CoordinatorGone => "gone",
            State::Waiting => "waiting",
            State::Connecting => "connecting",
            State::Greeting => "greeting",
            State::Proving => "proving",
            State::Reconciling => "reconciling",
            State::Connected => "connected",
            State::Stopped => "stopped",
            State::Recovering => "recovering",
            State::Up => "up",
            State::NoTask => "none",
            State::TaskWaits => "waits",
            State::TaskRuns => "runs",
            State::TaskStops => "stops",
            State::TaskOver => "over",
        }
    }

    /// Which table it belongs to
    pub fn group(self) -> Group {
        match self {
            State::PeerGone
            | State::Waiting
            | State::Connecting
            | State::Greeting
            | State::Proving
            | State::Reconciling
            | State::Connected
            | State::Stopped => Group::Link,
            State::CoordinatorGone | State::Recovering | State::Up => Group::Coordinator,
            State::NoTask | State::TaskWaits | State::TaskRuns | State::TaskStops | State::TaskOver => Group::Tasks,
        }
    }

    /// Whether a fault of a kind can find somebody like that
    pub fn may_be_struck_by(self, kind: Kind) -> bool {
        let scope = kind.dish().scope;
        match self.group() {
            Group::Link => scope != Scope::Coordinator,
            Group::Coordinator => matches!(scope, Scope::Coordinator | Scope::Anybody),
            // What was told to stop, and what is over, is the worker's alone.
            Group::Tasks => scope != Scope::Coordinator || !matches!(self, State::TaskStops | State::TaskOver),
        }
    }
}

/// How often each kind of fault struck in each state
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cover {
    counts: Vec<[u64; State::ALL.len()]>,
}

impl Default for Cover {
    fn default() -> Self {
        Cover { counts: vec![[0; State::ALL.len()]; Kind::ALL.len()] }
    }
}

/// A cell that was never reached
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Missing {
    /// The kind of fault
    pub kind: Kind,
    /// The state
    pub state: State,
    /// How often it would have been, if states did not depend on kinds
    pub expected: f64,
}

impl Cover {
    pub(crate) fn strike(&mut self, kind: Kind, state: State) {
        self.counts[kind as usize][state as usize] += 1;
    }

    /// Adds another one
    pub fn add(&mut self, other: &Cover) {
        for (row, more) in self.counts.iter_mut().zip(&other.counts) {
            row.iter_mut().zip(more).for_each(|(sum, n)| *sum += n);
        }
    }

    /// How often a kind of fault struck in a state; `None` where it cannot
    pub fn count(&self, kind: Kind, state: State) -> Option<u64> {
        state.may_be_struck_by(kind).then(|| self.counts[kind as usize][state as usize])
    }

    fn row(&self, kind: Kind, group: Group) -> u64 {
        State::ALL.iter().filter(|state| state.group() == group).filter_map(|state| self.count(kind, *state)).sum()
    }

    fn column(&self, state: State) -> u64 {
        Kind::ALL.iter().filter_map(|kind| self.count(*kind, state)).sum()
    }

    /// Cells of a table that were never reached, though they could be, the most plausible first
    pub fn missing(&self) -> Vec<Missing> {
        let mut missing = Vec::new();
        for state in State::ALL {
            let all: u64 = Kind::ALL.iter().map(|kind| self.row(*kind, state.group())).sum();
            let column = self.column(*state);
            for kind in Kind::ALL.iter().filter(|kind| self.count(**kind, *state) == Some(0)) {
                let expected = self.row(*kind, state.group()) as f64 * column as f64 / all.max(1) as f64;
                missing.push(Missing { kind: *kind, state: *state, expected });
            }
        }
        missing.sort_by(|one, other| other.expected.total_cmp(&one.expected));
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generate::Profile;
    use crate::swarm::{Plan, swarm};

    #[test]
    fn what_never_happened_is_listed_with_what_was_most_likely_first() {
        let mut cover = Cover::default();
        for (kind, state, times) in [
            (Kind::Stall, State::Connected, 90),
            (Kind::Reset, State::Connected, 10),
            (Kind::Reset, State::Waiting, 10),
            (Kind::Reset, State::Proving, 1),
        ] {
            (0..times).for_each(|_| cover.strike(kind, state));
        }
        let missing = cover.missing();
        let first: Vec<_> = missing.iter().take(2).map(|cell| (cell.kind, cell.state)).collect();
        assert_eq!(first, [(Kind::Stall, State::Waiting), (Kind::Stall, State::Proving)]);
        assert!(missing.is_sorted_by(|one, other| one.expected >= other.expected));
        assert_eq!(cover.count(Kind::Stall, State::Up), None, "a network is not the coordinator");
        assert!(missing.iter().all(|cell| cell.state.may_be_struck_by(cell.kind)));
    }

    #[test]
    fn a_swarm_counts_each_fault_in_one_state_of_its_link_or_of_the_coordinator() {
        let report = swarm(&Plan { first: 0, seeds: 30, profile: Profile::Standard, double: false, jobs: 1 });
        let cover = &report.cover;
        for kind in Kind::ALL {
            let struck = cover.row(*kind, Group::Link) + cover.row(*kind, Group::Coordinator);
            assert_eq!(struck, report.tally.fired[*kind as usize], "{}", kind.name());
            assert!(cover.row(*kind, Group::Tasks) >= struck, "{}", kind.name());
        }
        for state in [State::Connected, State::Waiting, State::Up, State::NoTask, State::TaskRuns] {
            assert!(cover.column(state) > 0, "{state:?}");
        }
    }
}
