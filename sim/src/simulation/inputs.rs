//! Inputs of tasks, small and large, on their way from clients (FRAME-3)

use rejoin_core::client;
use rejoin_core::ids::TaskId;
use rejoin_core::limits::INLINE_BYTES_MAX;
use rejoin_core::wire::message::{Follow, TaskSpec};

use super::nodes::Machine;
use super::people::about_of;
use super::{Simulation, Who};
use crate::schedule::Task;
use crate::world::chunk_names;

/// How much of a payload that is too large for a message goes in one all the same
const BESIDE: usize = 4;

impl Simulation {
    /// A client submits a task with this payload
    pub(super) fn ask_for(&mut self, peer: usize, id: TaskId, task: &Task, payload: Vec<u8>) {
        let now = self.clock(Who::Peer(peer));
        let (about, spec) = (about_of(task), TaskSpec { priority: task.priority, retries: task.retries });
        let Some(Machine::Client(client)) = &mut self.peers[peer].machine else { return };
        let (about, follow) = (&*about, Follow::Output);
        let large = payload.len() > INLINE_BYTES_MAX;
        let asked = if large {
            let (beside, input) = payload.split_at(BESIDE);
            let (length, names) = (input.len() as u64, &*chunk_names(input));
            let submit = client::Input::SubmitLarge { task: id, spec, about, payload: beside, length, names, follow };
            client.handle(now, submit)
        } else {
            client.handle(now, client::Input::Submit { task: id, spec, about, payload: &payload, follow })
        };
        asked.expect("a client has room for the tasks of a schedule");
        if large {
            self.peers[peer].inputs.insert(id, payload);
        }
        self.figures.submitted += 1;
        self.dirty.insert(Who::Peer(peer));
    }

    /// A client is asked for a piece of an input
    pub(super) fn read_input(&mut self, peer: usize, task: TaskId, offset: u64, max: u32) {
        let now = self.clock(Who::Peer(peer));
        let node = &mut self.peers[peer];
        let Some(Machine::Client(client)) = &mut node.machine else { return };
        let input = node.inputs.get(&task).map_or(&[][..], |payload| &payload[BESIDE + offset as usize..]);
        let bytes = &input[..input.len().min(max as usize)];
        client.handle(now, client::Input::InputRead { task, offset, bytes }).expect("an answer is never refused");
    }
}
