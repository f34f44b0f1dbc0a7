//! What machines are told, and what they do by themselves

use std::rc::Rc;

use rejoin_core::ids::{TaskId, Token};
use rejoin_core::{Rejected, coordinator, worker};

use super::world::{Frame, Parcel, Run, Socket, World};
use crate::audit::Check;
use crate::net::Side;

impl World {
    pub(super) fn tell_chief(&mut self, input: coordinator::Input<'_>, frame: &mut Frame) {
        let told = Rc::make_mut(&mut self.chief).handle(self.now, input);
        told.expect("neither the network nor the journal is refused");
        self.drain_chief(frame);
    }

    pub(super) fn tell_worker(
        &mut self,
        worker: usize,
        input: worker::Input<'_>,
        frame: &mut Frame,
    ) -> Result<(), Rejected> {
        let told = Rc::make_mut(&mut self.stations[worker].machine).handle(self.now, input);
        self.drain_worker(worker, frame);
        told
    }

    pub(super) fn drain_chief(&mut self, frame: &mut Frame) {
        loop {
            match Rc::make_mut(&mut self.chief).poll(frame) {
                coordinator::Output::Journal { record, .. } => self.records.push(record.into()),
                coordinator::Output::Send { conn, bytes } => {
                    let parcel = Parcel::Message(bytes.into());
                    self.send(Side::Coordinator, parcel, |socket| socket.conn == conn);
                }
                coordinator::Output::Close { conn, .. } => {
                    self.hang_up(Side::Coordinator, |socket| socket.conn == conn);
                }
                coordinator::Output::Event(coordinator::Event::Accepted { task }) => self.audit().accepted(task, 0),
                coordinator::Output::Event(coordinator::Event::Ended { task }) => {
                    let outcome = self.chief.task(task).and_then(|task| task.end).map(|end| end.outcome);
                    let known = outcome.is_some();
                    self.audit().expect_of(Check::S5, task, known, || format!("{task} ended without outcome"));
                    outcome.into_iter().for_each(|outcome| self.audit().told(task, outcome));
                }
                // Nobody writes output here, nor large checkpoints, nor asks for another key.
                coordinator::Output::Event(_)
                | coordinator::Output::KeepKey { .. }
                | coordinator::Output::ReadOutput { .. }
                | coordinator::Output::ReadChunk { .. } => {}
                coordinator::Output::Idle { .. } => break,
            }
        }
    }

    pub(super) fn drain_worker(&mut self, worker: usize, frame: &mut Frame) {
        loop {
            match Rc::make_mut(&mut self.stations[worker].machine).poll(frame) {
                worker::Output::Connect { attempt, .. } => {
                    let open = |socket: &Socket| socket.worker == worker && socket.open[Side::Peer as usize];
                    let has_one = self.sockets.iter().any(open);
                    let dials = self.stations[worker].dialling.replace(attempt).is_some();
                    let what = || format!("worker {worker} dials while it has a connection");
                    self.audit().expect(Check::S23, !has_one && !dials, what);
                }
                worker::Output::Disconnect { attempt, .. } => {
                    let station = &mut self.stations[worker];
                    station.dialling = station.dialling.filter(|dialled| *dialled != attempt);
                    self.hang_up(Side::Peer, |socket| (socket.worker, socket.attempt) == (worker, attempt));
                }
                worker::Output::Send { bytes } => {
                    let parcel = Parcel::Message(bytes.into());
                    self.send(Side::Peer, parcel, |socket| socket.worker == worker);
                }
                worker::Output::Run { task, token, attempt } => self.run(worker, task, token, attempt),
                worker::Output::Cancel { token, .. } => {
                    let runs = &mut self.stations[worker].runs;
                    runs.iter_mut().filter(|run| run.token == token).for_each(|run| run.stopping = true);
                }
                worker::Output::Forget { token } => {
                    let over = &mut self.stations[worker].over;
                    let known = over.iter().position(|(_, known)| *known == token).map(|index| over.remove(index));
                    known.into_iter().for_each(|(task, token)| self.audit().forgotten(task, token));
                }
                worker::Output::Keep { .. }
                | worker::Output::Freeze { .. }
                | worker::Output::Thaw { .. }
                | worker::Output::WantCheckpoint { .. }
                | worker::Output::KeepKey
                | worker::Output::ReadOutput { .. }
                | worker::Output::ReadCheckpoint { .. }
                | worker::Output::RestorePiece { .. }
                | worker::Output::Checkpointed { .. } => {}
                worker::Output::Idle { .. } => break,
            }
        }
    }

    fn run(&mut self, worker: usize, task: TaskId, token: Token, attempt: u32) {
        let now = self.now;
        let machine = Rc::make_mut(&mut self.stations[worker].machine);
        let restored = machine.checkpoint(token).map(|(number, _)| number);
        machine.handle(now, worker::Input::Started { token }).expect("it was to be started");
        self.audit().started(task, token, attempt, restored);
        self.stations[worker].runs.push(Run { task, token, attempt, made_checkpoint: false, stopping: false });
        let runs = self.stations[worker].runs.len();
        self.audit()
            .expect_of(Check::S21, task, runs <= 1, || format!("worker {worker} runs {runs} tasks in one slot"));
    }

    fn send(&mut self, from: Side, parcel: Parcel, is_it: impl Fn(&Socket) -> bool) {
        let open = |socket: &&mut Socket| socket.open[from as usize] && is_it(socket);
        if let Some(socket) = self.sockets.iter_mut().find(open).filter(|socket| !socket.deaf) {
            socket.pipes[from.other() as usize].push_back(parcel);
        }
    }
}
