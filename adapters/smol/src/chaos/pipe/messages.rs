//! Messages among the bytes: what befalls them, and what is remembered of them

use std::time::Instant;

use super::super::alter::{Altered, altered, is_pong};
use super::super::fault::{End, Fault, Kind};
use super::{MESSAGE_BYTES_MAX, Name, Pipe};

impl Pipe {
    /// What befalls the message that has come
    fn next_fault(&mut self) -> Option<Fault> {
        let first = self.messages.front_mut()?;
        if first.after > 0 {
            first.after -= 1;
            return None;
        }
        self.messages.pop_front()
    }

    /// A whole message has come, and something may befall it
    pub(super) fn message(&mut self, now: Instant, message: Vec<u8>) {
        if is_pong(&message) && self.lacks_pongs(now) {
            return self.feel(Kind::NoPong);
        }
        let Some(fault) = self.next_fault() else { return self.untouched(now, &message) };
        if matches!(fault.kind, Kind::Replay | Kind::Splice) {
            let again = self.again(fault);
            // There may be nothing yet that could be said again.
            self.felt.extend(again.iter().map(|_| fault.kind));
            self.enter(now, &again.unwrap_or_default());
            return self.untouched(now, &message);
        }
        if let Some(memory) = self.memory.as_ref().filter(|_| fault.kind == Kind::Drop) {
            // Said again, it would be in its place after all.
            memory.unsays(self.name.place, self.name.towards);
        }
        let made = altered(fault, &message);
        if made == Altered::Spared {
            self.messages.push_front(fault);
            return self.untouched(now, &message);
        }
        // One that nothing has overtaken yet goes first after all.
        let held = self.overtaken.take();
        self.enter(now, &held.unwrap_or_default());
        if fault.kind == Kind::Swap {
            self.overtaken = Some(message);
            return;
        }
        if fault.kind == Kind::Hold {
            self.last_due = self.last_due.max(Some(now + fault.span));
        }
        match made {
            Altered::Bytes(bytes) => self.enter(now, &bytes),
            Altered::Apart(first, pause, rest) => {
                self.enter(now, &first);
                self.last_due = self.last_due.max(Some(now + pause));
                self.enter(now, &rest);
            }
            Altered::Break => {
                // Felt when whatever is in front has left.
                self.breaks_at = Some((self.entered + self.carried.len() as u64, fault.kind));
                return;
            }
            Altered::Impossible => {
                self.impossible.push(fault.kind);
                return self.enter(now, &message);
            }
            Altered::Spared => {}
        }
        self.felt.push(fault.kind);
    }

    /// A message goes on as it is, and overtakes one that waits for that
    fn untouched(&mut self, now: Instant, message: &[u8]) {
        self.enter(now, message);
        if let Some(held) = self.overtaken.take() {
            self.felt.push(Kind::Swap);
            self.enter(now, &held);
        }
    }

    /// Whether answers to pings are taken out at the moment
    pub(super) fn lacks_pongs(&self, now: Instant) -> bool {
        self.spells.iter().any(|spell| spell.kind == Kind::NoPong && spell.holds(now))
    }

    /// Keeps what is said, for faults that say it again
    pub(super) fn remember(&mut self, is_head: bool, bytes: &[u8]) {
        let Name { place, towards, .. } = self.name;
        let Some(memory) = self.memory.as_ref().filter(|_| self.frames.opaque().is_none()) else {
            self.said = Vec::new();
            return;
        };
        if self.said.len() <= MESSAGE_BYTES_MAX {
            self.said.extend_from_slice(bytes);
        }
        if !self.frames.is_between() {
            return;
        }
        let said = std::mem::take(&mut self.said);
        match (is_head, towards) {
            (true, End::Coordinator) => memory.begins(place, said),
            (true, End::Peer) => {}
            (false, _) => memory.says(place, towards, &said),
        }
    }

    /// What a fault says again
    fn again(&self, fault: Fault) -> Option<Vec<u8>> {
        let (memory, Name { place, towards, .. }) = (self.memory.as_ref()?, self.name);
        if fault.kind == Kind::Replay {
            // None before it is the message itself, and that would be a duplicate.
            return memory.back(place, towards, fault.amount.max(1));
        }
        memory.of_another(place, towards, fault.amount)
    }

    /// There are no messages here, and so nothing can befall them
    pub(super) fn give_up(&mut self) {
        let pongs = self.spells.extract_if(.., |spell| spell.kind == Kind::NoPong);
        let all = self.messages.drain(..).map(|fault| fault.kind).chain(pongs.map(|spell| spell.kind));
        self.impossible.extend(all);
    }
}
