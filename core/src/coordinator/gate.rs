//! The journal's seam: records out, durability in, and nothing derived leaves before (JOURN-3)

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use crate::ids::{ConnId, SessionId, TaskId, Token};
use crate::journal::Record;
use crate::outline::{Counter, Giver, Name, Outline};
use crate::wire::message::Stream;
use crate::wire::view::Question;

use super::Event;
use super::peers::{PeerIx, Sent};

/// What may happen outside once a record is durable
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The task may be assigned, and its submitter told (TASK-1)
    Accept(TaskId),
    /// A message may go out in this session
    Say(PeerIx, SessionId, Sent),
    /// The peer may be told that this number was taken in (SESS-2)
    Ack(PeerIx, SessionId, u64),
    /// The result under this number waits for its output no more
    NotEarly(PeerIx, SessionId, u64),
    /// What an attempt starts from may be offered to its worker (CKPT-4)
    Offer(PeerIx, Token),
    /// Output up to here is kept (LOG-1)
    Keep(Token, Stream, u64),
    /// An attempt is over, and another one follows: its output has these lengths
    AttemptOver(TaskId, Token, [u64; 2]),
    /// Bulk bytes of this connection were dealt with
    Bulk(ConnId, u64),
    /// The task's outcome may be told
    End(TaskId),
    /// The embedder may be told
    Event(Event),
    /// A client's question may be answered
    Answer(PeerIx, SessionId, u64, Question),
}

impl Effect {
    fn outline(&self, o: &mut Outline) {
        match self {
            Effect::Accept(task) | Effect::End(task) => o.put(task),
            Effect::Say(peer, session, sent) => {
                o.put(peer);
                o.name(Name::Session(*session));
                sent.outline(o);
            }
            Effect::Ack(peer, session, number) | Effect::NotEarly(peer, session, number) => {
                o.put(peer);
                o.name(Name::Session(*session));
                o.count(Counter::Numbers(*session, Giver::Dialler), *number);
            }
            Effect::Offer(peer, token) => {
                o.put(peer);
                o.name(Name::Token(*token));
            }
            Effect::AttemptOver(task, token, _) => {
                o.put(task);
                o.name(Name::Token(*token));
            }
            // Of output and clients, which outlines leave out, and what only the embedder is told.
            Effect::Keep(..) | Effect::Bulk(..) | Effect::Event(_) | Effect::Answer(..) => {}
        }
    }
}

/// Records on their way to the journal, and what waits for them
#[derive(Clone, Debug, Default)]
pub(crate) struct Gate {
    written: u64,
    durable: u64,
    records: VecDeque<(u64, Vec<u8>)>,
    waiting: VecDeque<(u64, Effect)>,
    /// How many of these are messages, by peer
    says: BTreeMap<PeerIx, usize>,
    failed: bool,
}

impl Gate {
    /// Hands a record to the journal
    pub(crate) fn write(&mut self, record: &Record<'_>) {
        self.written += 1;
        self.records.push_back((self.written, record.encode()));
    }

    /// Lets something happen once all records written so far are durable
    pub(crate) fn then(&mut self, effect: Effect) {
        if let Effect::Say(peer, ..) = &effect {
            *self.says.entry(*peer).or_default() += 1;
        }
        self.waiting.push_back((self.written, effect));
    }

    /// Everything up to this record is durable; more than was handed out is not believed
    pub(crate) fn journaled(&mut self, upto: u64) {
        let handed_out = self.records.front().map_or(self.written, |(seq, _)| seq - 1);
        self.durable = self.durable.max(upto.min(handed_out));
    }

    /// The journal failed: nothing more will ever be durable
    pub(crate) fn fail(&mut self) {
        self.failed = true;
        self.records.clear();
        self.waiting.clear();
        self.says.clear();
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// The next record to append
    pub(crate) fn next_record(&mut self) -> Option<(u64, Vec<u8>)> {
        self.records.pop_front()
    }

    /// Whether there is a record to append
    pub(crate) fn has_records(&self) -> bool {
        !self.records.is_empty()
    }

    /// Whether something may happen now
    pub(crate) fn is_open(&self) -> bool {
        !self.failed && self.waiting.front().is_some_and(|(seq, _)| *seq <= self.durable)
    }

    /// The next thing that may happen now
    pub(crate) fn next_effect(&mut self) -> Option<Effect> {
        if !self.is_open() {
            return None;
        }
        let (_, effect) = self.waiting.pop_front()?;
        if let Effect::Say(peer, ..) = &effect
            && let Some(says) = self.says.get_mut(peer)
        {
            *says -= 1;
            if *says == 0 {
                self.says.remove(peer);
            }
        }
        Some(effect)
    }

    /// Messages to a peer that wait for the journal
    pub(crate) fn says(&self, peer: PeerIx) -> usize {
        self.says.get(&peer).copied().unwrap_or(0)
    }

    /// Takes in what waits, and for how many records
    pub(crate) fn outline(&self, o: &mut Outline) {
        o.put((self.written - self.durable, self.records.len(), self.failed, self.waiting.len()));
        for (seq, effect) in &self.waiting {
            o.put((seq.saturating_sub(self.durable), core::mem::discriminant(effect)));
            effect.outline(o);
        }
    }

    /// Number of the last record written
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Whether everything up to a record is durable
    pub(crate) fn is_durable(&self, seq: u64) -> bool {
        seq <= self.durable && !self.failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::TaskId;

    #[test]
    fn journ_3_nothing_happens_before_its_record_is_durable() {
        let mut gate = Gate::default();
        let task = TaskId([1; 16]);
        gate.then(Effect::End(task));
        assert_eq!(gate.next_effect(), Some(Effect::End(task)), "derived from nothing");
        gate.write(&Record::Cancel { task });
        gate.then(Effect::Accept(task));
        gate.write(&Record::Cancel { task });
        gate.then(Effect::End(task));
        gate.journaled(2);
        assert_eq!(gate.next_effect(), None, "a record that was not handed out is not durable");
        assert_eq!(gate.next_record().map(|r| r.0), Some(1));
        assert_eq!(gate.next_record().map(|r| r.0), Some(2));
        gate.journaled(1);
        assert_eq!(gate.next_effect(), Some(Effect::Accept(task)));
        assert_eq!(gate.next_effect(), None);
        gate.journaled(0);
        assert!(gate.is_durable(1) && !gate.is_durable(2));
        gate.fail();
        gate.journaled(2);
        assert_eq!(gate.next_effect(), None, "after a failure nothing is ever told");
    }
}
