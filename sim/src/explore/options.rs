//! What can happen next in a state

use rejoin_core::Instant;

use super::choice::{Choice, Fault};
use super::world::{Parcel, Socket, Station, World};
use crate::net::Side;

impl World {
    /// All that can happen next, in an order of its own
    pub(super) fn choices(&self, choices: &mut Vec<Choice>) {
        choices.clear();
        if self.faults_left == 0
            && let Some(worker) = self.first_addressed()
        {
            return self.choices_of(worker, choices);
        }
        for (socket, known) in self.sockets.iter().enumerate() {
            for towards in [Side::Peer, Side::Coordinator] {
                if !known.pipes[towards as usize].is_empty() {
                    choices.push(Choice::Deliver { socket, towards });
                }
            }
        }
        if self.durable < self.records.len() {
            choices.push(Choice::Sync);
        }
        for worker in 0..self.stations.len() {
            self.executions(worker, choices);
        }
        let quiet = !self.is_under_way();
        if quiet && self.wake_at().is_some() {
            choices.push(Choice::Wait);
        }
        if self.faults_left > 0 {
            self.faults(quiet, choices);
        }
    }

    /// The first worker to which a message is under way
    fn first_addressed(&self) -> Option<usize> {
        let addressed = |socket: &&Socket| !socket.pipes[Side::Peer as usize].is_empty();
        self.sockets.iter().filter(addressed).map(|socket| socket.worker).min()
    }

    /// What can happen at one worker
    fn choices_of(&self, worker: usize, choices: &mut Vec<Choice>) {
        for (socket, known) in self.sockets.iter().enumerate() {
            if known.worker == worker && !known.pipes[Side::Peer as usize].is_empty() {
                choices.push(Choice::Deliver { socket, towards: Side::Peer });
            }
        }
        self.executions(worker, choices);
    }

    fn executions(&self, worker: usize, choices: &mut Vec<Choice>) {
        let station = &self.stations[worker];
        if station.dialling.is_some() {
            choices.push(Choice::Open { worker });
        }
        for (run, known) in station.runs.iter().enumerate() {
            choices.push(Choice::Finish { worker, run });
            if known.stopping {
                choices.push(Choice::Stop { worker, run });
                continue;
            }
            if known.attempt == 1 {
                choices.push(Choice::Fail { worker, run });
            }
            if !known.made_checkpoint {
                choices.push(Choice::Checkpoint { worker, run });
            }
        }
    }

    fn faults(&self, quiet: bool, choices: &mut Vec<Choice>) {
        let mut fault = |fault| choices.push(Choice::Break(fault));
        for (socket, known) in self.sockets.iter().enumerate() {
            for towards in [Side::Peer, Side::Coordinator] {
                if matches!(known.pipes[towards as usize].front(), Some(Parcel::Message(_))) {
                    fault(Fault::Repeat { socket, towards });
                }
            }
            if known.deaf || known.open != [true; 2] {
                continue;
            }
            fault(Fault::Reset { socket });
            fault(Fault::HalfOpen { socket });
            for at in [Side::Peer, Side::Coordinator] {
                fault(Fault::Cut { socket, at, rest: true });
                fault(Fault::Cut { socket, at, rest: false });
            }
        }
        for (worker, station) in self.stations.iter().enumerate() {
            fault(Fault::CrashWorker { worker });
            if station.dialling.is_some() {
                fault(Fault::Refuse { worker });
            }
        }
        for survive in 0..=self.records.len() - self.durable {
            fault(Fault::CrashCoordinator { survive });
        }
        if !quiet && self.wake_at().is_some() {
            fault(Fault::Stall);
        }
    }

    /// What a fair world without faults does next; `None` when only time can go on
    pub(super) fn fair(&self) -> Option<Choice> {
        let towards = [Side::Peer, Side::Coordinator];
        let full = |(socket, known): (usize, &Socket)| {
            let towards = towards.into_iter().find(|towards| !known.pipes[*towards as usize].is_empty())?;
            Some(Choice::Deliver { socket, towards })
        };
        let dials = |(worker, station): (usize, &Station)| station.dialling.map(|_| Choice::Open { worker });
        let ends = |(worker, station): (usize, &Station)| {
            let first = station.runs.first()?;
            Some(if first.stopping { Choice::Stop { worker, run: 0 } } else { Choice::Finish { worker, run: 0 } })
        };
        let stations = || self.stations.iter().enumerate();
        (self.durable < self.records.len())
            .then_some(Choice::Sync)
            .or_else(|| self.sockets.iter().enumerate().find_map(full))
            .or_else(|| stations().find_map(dials))
            .or_else(|| stations().find_map(ends))
    }

    fn is_under_way(&self) -> bool {
        let dials = self.stations.iter().any(|station| station.dialling.is_some());
        dials || self.sockets.iter().any(|socket| socket.pipes.iter().any(|pipe| !pipe.is_empty()))
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        let workers = self.stations.iter().filter_map(|station| station.machine.wake_at());
        workers.chain(self.chief.wake_at()).min()
    }
}
