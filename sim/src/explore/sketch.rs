//! What counts of a state, and what a step is called
//!
//! The outline of a world is that of its machines (`rejoin_core::outline`), of what is under way, of executions and of
//! the journal. Of messages the kinds count, and the attempts and sessions that they name: numbers, credit and acknowledgements
//! follow from the two ends, and so does what the keys of a connection are. Of durable records their order counts within each
//! task, of the others their order altogether, because a crash may cut them anywhere.

use std::fmt::Write as _;
use std::hash::Hasher as _;

use rejoin_core::ids::TaskId;
use rejoin_core::journal::Record;
use rejoin_core::outline::{Name, Outline};
use rejoin_core::wire::codec::{HEADER_BYTES, TAG_BYTES};
use rejoin_core::wire::handshake::{Challenge, Hello, Proof, Refusal};
use rejoin_core::wire::message::{BodyReader, Class, Control, FromWorker, Item, ToWorker};

use super::choice::{Choice, Fault};
use super::world::{Parcel, Run, Socket, World};
use crate::net::Side;

impl World {
    /// The same for all states that differ in names, counters, keys and times alone
    pub(super) fn outline(&self) -> u64 {
        let mut o = Outline::new();
        o.put(self.faults_left);
        self.chief.outline(&mut o);
        for station in &self.stations {
            station.machine.outline(&mut o);
            o.put((station.dialling.is_some(), station.runs.len()));
            for run in &station.runs {
                let Run { token, made_checkpoint, stopping, .. } = *run;
                o.name(Name::Token(token));
                o.put((made_checkpoint, stopping));
            }
        }
        o.put(self.sockets.len());
        for socket in &self.sockets {
            o.name(Name::Conn(socket.conn));
            o.put((socket.worker, socket.open, socket.deaf));
            for (pipe, towards) in socket.pipes.iter().zip([Side::Peer, Side::Coordinator]) {
                o.put(pipe.len());
                pipe.iter().for_each(|parcel| sketch(parcel, towards, &mut o));
            }
        }
        self.sketch_journal(&mut o);
        o.finish()
    }

    fn sketch_journal(&self, o: &mut Outline) {
        let (durable, others) = self.records.split_at(self.durable);
        let decoded =
            |record: &std::rc::Rc<[u8]>| Record::decode(record).map(|known| (task_of(&known), record.clone()));
        let mut by_task: Vec<_> = durable.iter().filter_map(decoded).collect();
        by_task.sort_by_key(|(task, _)| *task);
        for record in by_task.iter().map(|(_, record)| record).chain(others) {
            if let Some(record) = Record::decode(record) {
                sketch_record(&record, o);
            }
        }
        o.put((durable.len(), others.len()));
    }

    /// What a choice means in this state, for people
    pub(super) fn says(&self, choice: Choice) -> String {
        match choice {
            Choice::Deliver { socket, towards } => format!("deliver {}", self.first_of(socket, towards)),
            Choice::Sync => format!("sync {} records", self.records.len() - self.durable),
            Choice::Checkpoint { worker, run } => format!("checkpoint of {}", self.execution(worker, run)),
            Choice::Finish { worker, run } => format!("finish {}", self.execution(worker, run)),
            Choice::Fail { worker, run } => format!("fail {}", self.execution(worker, run)),
            Choice::Stop { worker, run } => format!("stop {}", self.execution(worker, run)),
            Choice::Open { worker } => format!("open the transport that w{worker} dials"),
            Choice::Wait => "wait for the next deadline".into(),
            Choice::Break(fault) => format!("FAULT {}", self.says_fault(fault)),
        }
    }

    fn says_fault(&self, fault: Fault) -> String {
        let end = |socket: usize, at: Side| match at {
            Side::Peer => format!("w{}", self.sockets[socket].worker),
            Side::Coordinator => "the coordinator".into(),
        };
        match fault {
            Fault::Reset { socket } => format!("reset {}: both ends learn of it", self.connection(socket)),
            Fault::Cut { socket, at, rest: true } => {
                let (first, last) = (end(socket, at), end(socket, at.other()));
                format!("close {}, seen by {first} now, by {last} behind what is under way", self.connection(socket))
            }
            Fault::Cut { socket, at, rest: false } => {
                format!("close {}, seen by {} alone", self.connection(socket), end(socket, at))
            }
            Fault::HalfOpen { socket } => format!("half-open {}: nobody learns of it", self.connection(socket)),
            Fault::Repeat { socket, towards } => format!("deliver twice {}", self.first_of(socket, towards)),
            Fault::Refuse { worker } => format!("refuse the transport that w{worker} dials"),
            Fault::CrashWorker { worker } => format!("crash w{worker}, which begins again"),
            Fault::CrashCoordinator { survive } => {
                let lost = self.records.len() - self.durable - survive;
                format!(
                    "crash the coordinator, which recovers; {survive} records of the last sync survive, {lost} do not"
                )
            }
            Fault::Stall => "stall all that is under way until the next deadline".into(),
        }
    }

    fn execution(&self, worker: usize, run: usize) -> String {
        let Run { task, token, attempt, .. } = self.stations[worker].runs[run];
        format!("task {}, attempt {attempt} under {token} at w{worker}", task.0[0])
    }

    fn connection(&self, socket: usize) -> String {
        let Socket { conn, worker, .. } = self.sockets[socket];
        format!("connection {} of w{worker}", conn.0)
    }

    fn first_of(&self, socket: usize, towards: Side) -> String {
        let worker = self.sockets[socket].worker;
        let to = match towards {
            Side::Peer => format!("to w{worker}"),
            Side::Coordinator => format!("to the coordinator from w{worker}"),
        };
        let what = self.sockets[socket].pipes[towards as usize].front().map(|parcel| named(parcel, towards));
        format!("{to} on connection {}: {}", self.sockets[socket].conn.0, what.unwrap_or_default())
    }
}

/// What stands in a message
enum Content<'a> {
    Hello(Hello<'a>),
    Challenge(Challenge<'a>),
    Proof(Proof),
    Refusal,
    Frame(BodyReader<'a>),
}

fn content(bytes: &[u8]) -> Option<Content<'_>> {
    if let Some(hello) = Hello::decode(bytes) {
        return Some(Content::Hello(hello));
    }
    if let Some((challenge, ..)) = Challenge::decode(bytes) {
        return Some(Content::Challenge(challenge));
    }
    if let Some((proof, ..)) = Proof::decode(bytes) {
        return Some(Content::Proof(proof));
    }
    if Refusal::decode(bytes).is_some() {
        return Some(Content::Refusal);
    }
    // Nothing is compressed here.
    let body = bytes.get(HEADER_BYTES..bytes.len().checked_sub(TAG_BYTES)?)?;
    Some(Content::Frame(BodyReader::new(body)))
}

fn sketch(parcel: &Parcel, towards: Side, o: &mut Outline) {
    let Parcel::Message(bytes) = parcel else { return o.put(0u8) };
    match content(bytes) {
        None | Some(Content::Refusal) => o.put(1u8),
        Some(Content::Hello(hello)) => {
            o.put((2u8, hello.session.is_some()));
            o.name_if(hello.session.map(Name::Session));
        }
        Some(Content::Challenge(challenge)) => o.put((3u8, challenge.open.is_some())),
        Some(Content::Proof(proof)) => {
            o.put((4u8, proof.resume.is_some()));
            o.name_if(proof.resume.map(|resume| Name::Session(resume.session)));
        }
        Some(Content::Frame(items)) => {
            o.put(5u8);
            items.flatten().for_each(|item| sketch_item(&item, towards, o));
        }
    }
}

fn sketch_item(item: &Item<'_>, towards: Side, o: &mut Outline) {
    if item.class == Class::Control {
        return sketch_control(item.decode(), o);
    }
    match towards {
        Side::Coordinator => sketch_from_worker(item.decode(), o),
        Side::Peer => sketch_to_worker(item.decode(), o),
    }
}

fn sketch_control(control: Option<Control>, o: &mut Outline) {
    o.put(control.as_ref().map(std::mem::discriminant));
    match control {
        Some(Control::Begin { session }) => o.name(Name::Session(session)),
        Some(Control::Welcome(welcome)) => o.put(welcome.resumed.is_some()),
        Some(Control::Denied(denied)) => o.put(std::mem::discriminant(&denied)),
        // What they count follows from the state of the end that sent them.
        Some(
            Control::Confirm { .. }
            | Control::Ack { .. }
            | Control::Credit(_)
            | Control::Beat { .. }
            | Control::Echo { .. }
            | Control::Bye
            | Control::Lease { .. }
            | Control::Digest { .. }
            | Control::Compare
            | Control::GoAway { .. }
            | Control::Mtbf { .. }
            | Control::NextKey,
        )
        | None => {}
    }
}

fn sketch_from_worker(message: Option<FromWorker<'_>>, o: &mut Outline) {
    o.put(message.as_ref().map(std::mem::discriminant));
    match message {
        // Which attempts these are follows from the worker's state.
        Some(FromWorker::Inventory { items, .. }) => o.put(items.len()),
        Some(
            FromWorker::Running { token, .. }
            | FromWorker::GivenBack { token }
            | FromWorker::Output { token, .. }
            | FromWorker::Offer { token, .. }
            | FromWorker::Piece { token, .. }
            | FromWorker::RestoreNeed { token, .. }
            | FromWorker::RestoreBad { token, .. },
        ) => {
            o.name(Name::Token(token));
        }
        Some(FromWorker::Result { token, outcome, .. } | FromWorker::LargeResult { token, outcome, .. }) => {
            o.name(Name::Token(token));
            o.put(outcome);
        }
        Some(FromWorker::Checkpoint { token, number, .. }) => {
            o.name(Name::Token(token));
            o.put(number);
        }
        Some(FromWorker::Offers { .. } | FromWorker::Draining | FromWorker::Holdings { .. }) | None => {}
    }
}

fn sketch_to_worker(message: Option<ToWorker<'_>>, o: &mut Outline) {
    o.put(message.as_ref().map(std::mem::discriminant));
    match message {
        Some(
            ToWorker::Assign { token, restores, .. }
            | ToWorker::AssignUnder { token, restores, .. }
            | ToWorker::AssignLarge { token, restores, .. },
        ) => {
            o.name(Name::Token(token));
            o.put(restores);
        }
        Some(ToWorker::Cancel { token, reason }) => {
            o.name(Name::Token(token));
            o.put(reason);
        }
        Some(ToWorker::Verdict { token, verdict }) => {
            o.name(Name::Token(token));
            o.put(verdict);
        }
        Some(ToWorker::Settled { token, settlement, outcome }) => {
            o.name(Name::Token(token));
            o.put((settlement, outcome));
        }
        Some(ToWorker::Restore { token, number, .. }) => {
            o.name(Name::Token(token));
            o.put(number);
        }
        Some(ToWorker::Checkpointed { token, number, refused }) => {
            o.name(Name::Token(token));
            o.put((number, refused));
        }
        Some(
            ToWorker::Recall { token }
            | ToWorker::Kept { token, .. }
            | ToWorker::Need { token, .. }
            | ToWorker::RestoreOffer { token, .. }
            | ToWorker::RestorePiece { token, .. },
        ) => o.name(Name::Token(token)),
        Some(ToWorker::Drain) | None => {}
    }
}

fn task_of(record: &Record<'_>) -> Option<TaskId> {
    match *record {
        Record::Submit { task, .. }
        | Record::SubmitLarge { task, .. }
        | Record::Assign { task, .. }
        | Record::Result { task, .. }
        | Record::Cancel { task }
        | Record::Forget { task }
        | Record::Output { task, .. }
        | Record::Checkpoint { task, .. }
        | Record::Piece { task, .. }
        | Record::Chunk { task, .. }
        | Record::Manifest { task, .. }
        | Record::Unreadable { task }
        | Record::Gone { task, .. }
        | Record::Forgotten { task, .. }
        | Record::Lapsed { task } => Some(task),
        Record::Epoch { .. } | Record::Tokens { .. } | Record::Lease { .. } | Record::Restored { .. } => None,
    }
}

fn sketch_record(record: &Record<'_>, o: &mut Outline) {
    o.put((std::mem::discriminant(record), task_of(record)));
    match record {
        Record::Assign { token, attempt, worker, .. } => {
            o.name(Name::Token(*token));
            o.put((attempt, worker));
        }
        Record::Result { token, outcome, last, .. } => {
            o.name_if(token.map(Name::Token));
            o.put((outcome, last));
        }
        Record::Checkpoint { token, number, .. } | Record::Manifest { token, number, .. } => {
            o.name(Name::Token(*token));
            o.put(number);
        }
        Record::Epoch { .. }
        | Record::Tokens { .. }
        | Record::Lease { .. }
        | Record::Restored { .. }
        | Record::Submit { .. }
        | Record::SubmitLarge { .. }
        | Record::Cancel { .. }
        | Record::Forget { .. }
        | Record::Output { .. }
        | Record::Piece { .. }
        | Record::Chunk { .. }
        | Record::Unreadable { .. }
        | Record::Forgotten { .. }
        | Record::Lapsed { .. }
        | Record::Gone { .. } => {}
    }
}

fn named(parcel: &Parcel, towards: Side) -> String {
    let Parcel::Message(bytes) = parcel else { return "the close".into() };
    let kind = match content(bytes) {
        None => "something",
        Some(Content::Hello(_)) => "M1",
        Some(Content::Challenge(_)) => "M2",
        Some(Content::Proof(_)) => "M3",
        Some(Content::Refusal) => "a refusal",
        Some(Content::Frame(items)) => {
            return items.flatten().fold(String::new(), |text, item| text + &one(&item, towards));
        }
    };
    kind.into()
}

/// One message of a frame, in a word
fn one(item: &Item<'_>, towards: Side) -> String {
    let mut text = String::from(" ");
    let whole = match (item.class, towards) {
        (Class::Control, _) => item.decode::<Control>().map(|message| format!("{message:?}")),
        (Class::Numbered(_) | Class::Loose, Side::Coordinator) => {
            item.decode::<FromWorker<'_>>().map(|message| format!("{message:?}"))
        }
        (Class::Numbered(_) | Class::Loose, Side::Peer) => {
            item.decode::<ToWorker<'_>>().map(|message| format!("{message:?}"))
        }
    };
    if let Class::Numbered(number) = item.class {
        let _ = write!(text, "{number}:");
    }
    let whole = whole.unwrap_or_else(|| "VOID".into());
    text.push_str(whole.split([' ', '(']).next().unwrap_or_default());
    text
}

#[cfg(test)]
mod tests {
    use rejoin_core::limits::FRAME_BYTES_MAX;

    use super::super::world::{Frame, Size};
    use super::*;

    const SIZE: Size = Size { workers: 2, tasks: 2, faults: 2 };

    fn frame() -> Box<Frame> {
        Box::new([0; FRAME_BYTES_MAX])
    }

    fn all(world: &World) -> Vec<Choice> {
        let mut choices = Vec::new();
        world.choices(&mut choices);
        choices
    }

    /// Applies the first choice that is called like this
    fn go(world: &World, called: &str) -> World {
        let choice = all(world).into_iter().find(|choice| world.says(*choice).contains(called));
        let mut next = world.clone();
        next.apply(choice.unwrap_or_else(|| panic!("nothing is called {called}")), &mut frame());
        next
    }

    fn calm(mut world: World) -> World {
        while let Some(choice) =
            world.fair().filter(|choice| matches!(choice, Choice::Deliver { .. } | Choice::Open { .. }))
        {
            world.apply(choice, &mut frame());
        }
        world
    }

    #[test]
    fn histories_that_differ_in_names_keys_counters_and_times_alone_are_one_state() {
        let mut one = World::new(SIZE, &mut frame());
        let mut other = World::begin(SIZE, 77_000_000, 1_000, &mut frame());
        assert_eq!(one.outline(), other.outline());
        for called in ["sync", "sync", "FAULT reset connection", "FAULT crash the coordinator"] {
            (one, other) = (go(&one, called), go(&other, called));
            assert_eq!(one.outline(), other.outline(), "after {called}");
            (one, other) = (calm(one), calm(other));
            assert_eq!(one.outline(), other.outline(), "at rest after {called}");
        }
    }

    #[test]
    fn what_commutes_leads_to_one_state_and_what_does_not_to_two() {
        let given = go(&go(&World::new(SIZE, &mut frame()), "sync"), "sync");
        let one = go(&go(&given, "deliver to w0"), "deliver to w1");
        let other = go(&go(&given, "deliver to w1"), "deliver to w0");
        assert_eq!(one.outline(), other.outline());
        assert_ne!(given.outline(), one.outline());
        let (finished, failed) = (go(&one, "finish task 1"), go(&one, "fail task 1"));
        assert_ne!(finished.outline(), failed.outline());
    }

    #[test]
    fn every_choice_has_a_name_and_each_leads_somewhere_else() {
        let given = go(&go(&World::new(SIZE, &mut frame()), "sync"), "sync");
        let world = go(&given, "deliver to w0");
        let mut names: Vec<String> = all(&world).into_iter().map(|choice| world.says(choice)).collect();
        let known = world.outline();
        for choice in all(&world) {
            let mut next = world.clone();
            next.apply(choice, &mut frame());
            assert_ne!(next.outline(), known, "{}", world.says(choice));
            assert!(next.auditor().violation().is_none(), "{:?}", next.auditor().violation());
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all(&world).len());
    }
}
