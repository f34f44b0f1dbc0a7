//! Large results on their way to clients (FRAME-3)

use std::collections::BTreeMap;

use rejoin_core::blob::RESULT;
use rejoin_core::client;
use rejoin_core::ids::TaskId;
use rejoin_core::limits::ANSWER_BYTES_MAX;
use rejoin_core::wire::view::Question;

use super::nodes::Machine;
use super::people::content_name;
use super::{Simulation, Who};
use crate::audit::Check;
use crate::world::chunk_names;

/// Pieces that a client asks for before the first of them has come
const AHEAD: usize = 8;

/// What a client fetches
#[derive(Clone, Debug, Default)]
pub(super) struct Fetches {
    results: BTreeMap<TaskId, Fetching>,
    /// Of which result, and from where on
    asked: BTreeMap<u64, (TaskId, u64)>,
    /// Questions so far
    asks: u64,
}

#[derive(Clone, Debug)]
struct Fetching {
    /// How far it was asked for, and how much has come
    next: u64,
    have: u64,
    bytes: Vec<u8>,
}

impl Fetches {
    /// A result of this length is to be fetched
    pub(super) fn begin(&mut self, task: TaskId, length: u64) {
        self.results.insert(task, Fetching { next: 0, have: 0, bytes: vec![0; length as usize] });
    }

    /// Whether nothing is left to fetch
    pub(super) fn is_empty(&self) -> bool {
        self.results.is_empty()
    }

    /// Where the next piece is, unless enough are on their way
    fn next(&mut self) -> Option<(u64, TaskId, u64)> {
        if self.asked.len() >= AHEAD {
            return None;
        }
        let is_open = |(_, fetching): &(&TaskId, &mut Fetching)| fetching.next < fetching.bytes.len() as u64;
        let (task, fetching) = self.results.iter_mut().find(is_open)?;
        let offset = fetching.next;
        fetching.next += ANSWER_BYTES_MAX as u64;
        self.asks += 1;
        self.asked.insert(self.asks, (*task, offset));
        Some((self.asks, *task, offset))
    }
}

impl Simulation {
    /// A client asks for what is next of the results that it fetches
    pub(super) fn fetch(&mut self, peer: usize) {
        let now = self.clock(Who::Peer(peer));
        let node = &mut self.peers[peer];
        let Some(Machine::Client(client)) = &mut node.machine else { return };
        while let Some((ask, task, offset)) = node.fetches.next() {
            let question = Question::CheckpointPiece { task, number: RESULT, offset };
            let asked = client.handle(now, client::Input::Ask { ask, question: &question });
            asked.expect("fewer questions wait than there may be");
        }
        self.dirty.insert(Who::Peer(peer));
    }

    /// A piece has come; the whole has to be what the attempt returned
    pub(super) fn fetched(&mut self, peer: usize, ask: u64, piece: &[u8]) {
        let fetches = &mut self.peers[peer].fetches;
        let Some((task, offset)) = fetches.asked.remove(&ask) else { return };
        if self.auditor.end_is_undone(task) {
            // The store has lost it, and may have got another one since (JOURN-2).
            fetches.results.remove(&task);
            return self.fetch(peer);
        }
        let Some(fetching) = fetches.results.get_mut(&task) else { return };
        let room = fetching.bytes.get_mut(offset as usize..).unwrap_or_default();
        let fits = !piece.is_empty() && piece.len() == room.len().min(ANSWER_BYTES_MAX);
        if fits {
            room[..piece.len()].copy_from_slice(piece);
        }
        fetching.have += piece.len() as u64;
        let whole = fetching.have >= fetching.bytes.len() as u64;
        self.auditor.expect_of(Check::Frame3, task, fits, || {
            format!("{} bytes of the result of {task} at {offset} reached its client", piece.len())
        });
        let fetched = if whole { self.peers[peer].fetches.results.remove(&task) } else { None };
        if let Some(Fetching { bytes, .. }) = fetched {
            let name = content_name(&chunk_names(&bytes));
            let by = self.auditor.ended_by(task).and_then(|token| self.returned.get(&token));
            let same = by.is_some_and(|(returned, _)| *returned == name);
            self.auditor
                .expect_of(Check::Frame3, task, same, || format!("{task} returned something else than was fetched"));
            let number = self.tasks.get(&task).map(|task| task.number);
            if let Some(seen) = number.and_then(|number| self.seen.tasks.get_mut(&number)) {
                seen.result = bytes;
            }
        }
        self.fetch(peer);
    }
}
