//! What decides on a worker's future, without keys, counters and clocks

use crate::outline::{Counter, Name, Outline};
use crate::worker::attempt::Attempt;
use crate::worker::outbox::Sent;
use crate::worker::{Desk, Worker};

impl Worker {
    /// Adds the state to an outline; complete when the machine is idle
    pub fn outline(&self, o: &mut Outline) {
        let Desk { link, attempts, outbox, assigned, may_start, draining, standing, cadence, .. } = &*self.desk;
        link.outline(o, |o, sent| sent.outline(o));
        o.put((attempts.len(), may_start, draining));
        for (token, attempt) in attempts.iter() {
            o.name(Name::Token(*token));
            o.put(attempts.values().filter(|other| other.arrival < attempt.arrival).count());
            attempt.outline(o);
        }
        if let Some(session) = outbox.session {
            o.count(Counter::Tasks(session), *assigned);
        }
        if standing.bound > 0 {
            o.at(standing.lease.map(|lease| lease.until));
            o.at(self.desk.conditions_deadline());
        }
        o.at(cadence.next);
        outbox.outline(o);
    }
}

impl Attempt {
    fn outline(&self, o: &mut Outline) {
        o.put((self.task, self.attempt, self.state, self.outcome, self.progress));
        o.put((self.unjudged, self.report_queued, self.result_queued, self.result_numbered, self.cancel_due));
        o.put((self.conditions, self.lapsed, self.stalled, self.kept));
        let kept = &self.checkpoint;
        o.put((kept.slot.is_some(), kept.current, kept.waiting, kept.awaited, kept.answered));
        o.put(self.rhythm.is_asked());
        o.put((kept.queued, kept.in_flight, kept.told, kept.offer_due, kept.restoring.is_some()));
    }
}

impl Sent {
    fn outline(self, o: &mut Outline) {
        o.put(core::mem::discriminant(&self));
        match self {
            Sent::Inventory(part) => o.put(part),
            Sent::Result(token)
            | Sent::LargeResult(token)
            | Sent::Running(token)
            | Sent::GivenBack(token)
            | Sent::Checkpoint(token) => {
                o.name(Name::Token(token));
            }
            Sent::Offers | Sent::Draining => {}
        }
    }
}
