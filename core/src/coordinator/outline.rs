//! What decides on the coordinator's future, without keys, counters and clocks

use crate::outline::{Counter, Name, Outline};

use super::entry::Conn;
use super::tasks::{Attempt, Task};
use super::{Coordinator, Desk, Timer};

impl Coordinator {
    /// Adds the state to an outline; complete when the machine is idle
    pub fn outline(&self, o: &mut Outline) {
        let Desk { tasks, roster, conns, door, gate, timers, schedule, config, .. } = &*self.desk;
        o.count(Counter::Epoch, config.epoch);
        o.at(self.desk.back_at);
        o.put(tasks.all.len());
        for (id, task) in &tasks.all {
            o.put(id);
            task.outline(o);
        }
        o.put(tasks.attempts.len());
        for (token, attempt) in &tasks.attempts {
            o.name(Name::Token(*token));
            attempt.outline(o);
        }
        for (_, peer) in roster.iter() {
            o.name_if(peer.conn.map(Name::Conn));
            o.name_if(peer.contender.map(Name::Conn));
            o.name_if(peer.boot.map(Name::Boot));
            o.put((peer.disconnected_at.is_some(), peer.lost, peer.reserved, peer.to_drain, peer.cuts.len()));
            for session in [&peer.session, &peer.previous] {
                o.put(session.is_some());
                session.iter().for_each(|session| session.outline(o));
            }
        }
        o.put(conns.len());
        for (conn, state) in conns {
            o.name(Name::Conn(*conn));
            state.outline(o);
        }
        door.outline(o);
        gate.outline(o);
        schedule.outline(o);
        let timers = timers.iter();
        o.put(timers.len());
        for (timer, at) in timers {
            timer.outline(o);
            o.at(Some(at));
        }
    }
}

impl Task {
    fn outline(&self, o: &mut Outline) {
        o.put((self.state, self.cancel_requested, self.suspect, self.told));
        o.put((self.attempts, self.retries, self.losses, self.crashes, self.terms));
        o.at(self.leased.map(|(until, _)| until));
        o.names(self.live.iter().map(|token| Name::Token(*token)));
        o.names(self.concluded.iter().map(|token| Name::Token(*token)));
        o.name_if(self.checkpoint.as_ref().map(|checkpoint| Name::Token(checkpoint.token)));
        o.put(self.checkpoint.as_ref().map(|checkpoint| checkpoint.number));
        o.put(self.ended.as_ref().map(|end| (end.outcome, end.attempt)));
        o.name_if(self.ended.as_ref().and_then(|end| end.token).map(Name::Token));
    }
}

impl Attempt {
    fn outline(&self, o: &mut Outline) {
        o.put((self.task, self.peer, self.attempt, self.sent_as.is_some()));
        if let Some((session, number)) = self.sent_as {
            o.name(Name::Session(session));
            o.count(Counter::Numbers(session, crate::outline::Giver::Coordinator), number);
        }
        o.put((self.running, self.detached, self.recalled, self.restores, self.early.is_some()));
        o.put((self.upload.is_some(), self.restoring.is_some()));
    }
}

impl Conn {
    fn outline(&self, o: &mut Outline) {
        match self {
            Conn::Live(live) => {
                o.put(live.rotation);
                o.put((live.peer, live.welcome.is_some(), live.awaiting_begin));
                live.channel.outline(o);
            }
            Conn::Contending(contending) => contending.outline(o),
        }
    }
}

impl Timer {
    fn outline(self, o: &mut Outline) {
        o.put(core::mem::discriminant(&self));
        match self {
            Timer::Conn(conn) | Timer::Contender(conn) => o.name(Name::Conn(conn)),
            Timer::Lost(peer) | Timer::Steady(peer) | Timer::Session(peer) => o.put(peer),
            Timer::Retry(task) | Timer::Retention(task) | Timer::Forget(task) => o.put(task),
            Timer::UnknownLeases => {}
        }
    }
}
