//! What whoever a fault strikes is like at that moment

use std::time::Duration;

use rejoin_core::client::FollowState;
use rejoin_core::link::LinkState;
use rejoin_core::worker::AttemptState;

use super::nodes::Machine;
use super::{Simulation, Who};
use crate::cover::State;
use crate::schedule::{Fault, Knob};

impl Simulation {
    /// Counts in which states a fault finds whoever it strikes
    pub(super) fn count_states(&mut self, fault: Fault) {
        let Some(who) = self.who(fault.node) else { return };
        let (first, tasks) = match who {
            Who::Chief => (self.chief_state(), self.chief_tasks()),
            Who::Peer(peer) => (self.peer_state(peer), self.peer_tasks(peer)),
        };
        self.cover.strike(fault.kind, first);
        let mut any = false;
        for (_, state) in tasks.into_iter().filter(|(is, _)| *is) {
            any = true;
            self.cover.strike(fault.kind, state);
        }
        if !any {
            self.cover.strike(fault.kind, State::NoTask);
        }
    }

    fn chief_state(&self) -> State {
        let window = self.schedule.setting(Knob::RecoveryWindow).unwrap_or(super::chief::RECOVERY_WINDOW_MS);
        match self.chief.machine {
            None => State::CoordinatorGone,
            Some(_) if self.chief.life.number > 1 && self.now < self.chief.begun + Duration::from_millis(window) => {
                State::Recovering
            }
            Some(_) => State::Up,
        }
    }

    fn chief_tasks(&self) -> [(bool, State); 4] {
        let counts = self.chief.machine.as_ref().map(|machine| machine.counts()).unwrap_or_default();
        let waits = counts.accepting + counts.ready + counts.backoff;
        tasks([waits > 0, counts.assigned > 0, false, false])
    }

    fn peer_state(&self, peer: usize) -> State {
        match self.state(peer) {
            None => State::PeerGone,
            Some(LinkState::Waiting) => State::Waiting,
            Some(LinkState::Connecting) => State::Connecting,
            Some(LinkState::Greeting) => State::Greeting,
            Some(LinkState::Proving) => State::Proving,
            Some(LinkState::Reconciling) => State::Reconciling,
            Some(LinkState::Connected) => State::Connected,
            Some(LinkState::Stopped) => State::Stopped,
        }
    }

    fn peer_tasks(&self, peer: usize) -> [(bool, State); 4] {
        let node = &self.peers[peer];
        let mut is = [false; 4];
        match &node.machine {
            None => {}
            Some(Machine::Worker(worker)) => {
                is[0] = worker.held() > node.running.len();
                for state in node.running.keys().filter_map(|token| worker.attempt(*token)) {
                    match state {
                        AttemptState::Waiting => is[0] = true,
                        AttemptState::Starting | AttemptState::Running => is[1] = true,
                        AttemptState::Stopping | AttemptState::Abandoned => is[2] = true,
                        AttemptState::Finished => is[3] = true,
                        AttemptState::Gone => {}
                    }
                }
            }
            Some(Machine::Client(client)) => {
                let mine = self.tasks.iter().filter(|(_, task)| self.client_peer(task.client) == peer);
                for state in mine.filter_map(|(id, _)| client.task(*id)).map(|view| view.state) {
                    match state {
                        FollowState::Submitted => is[0] = true,
                        FollowState::Followed => is[1] = true,
                        FollowState::Refused | FollowState::Ended => {}
                    }
                }
            }
        }
        tasks(is)
    }
}

/// Whether there are tasks that wait, run, stop, and are over
fn tasks(is: [bool; 4]) -> [(bool, State); 4] {
    let states = [State::TaskWaits, State::TaskRuns, State::TaskStops, State::TaskOver];
    std::array::from_fn(|n| (is[n], states[n]))
}
