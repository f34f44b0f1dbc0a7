//! Any bytes, given to everything that reads bytes from elsewhere
//!
//! The fuzzer and the replay of its corpus are a few lines each around [`message_decoding`].

use rejoin_core::client::{self, Client};
use rejoin_core::coordinator::{self, Coordinator};
use rejoin_core::ids::{BootId, ClusterId, KeyId, Role, TaskId};
use rejoin_core::journal::Record;
use rejoin_core::limits::{BODY_BYTES_MAX, HANDSHAKE_BYTES_MAX, HEARTBEAT_MAX};
use rejoin_core::link::LinkConfig;
use rejoin_core::wire::handshake::{Challenge, Hello, Proof, Refusal, append_mac};
use rejoin_core::wire::keys::{Key, Secret};
use rejoin_core::wire::message::{
    BodyReader, BodyWriter, Class, Control, Follow, FromClient, FromWorker, InventoryItem, Item, TaskSpec, ToClient,
    ToWorker,
};
use rejoin_core::worker::{self, Worker};
use rejoin_core::{Instant, Seed};

use crate::pair::{EchoWorker, Pair, Peer};
use crate::stranger::{Schedule, Seal};

/// The task that the machines know, so that messages can be about it; its attempt's token is 1
pub const TASK: TaskId = TaskId([0x11; 16]);

/// What the fuzzer runs; panics if anything is wrong
pub fn message_decoding(data: &[u8]) {
    decoders(data);
    machines(data);
}

/// Gives bytes to every decoder; what is decoded must survive being encoded again
pub fn decoders(data: &[u8]) {
    decode_handshake(data);
    if let Some(record) = Record::decode(data) {
        assert_eq!(Record::decode(&record.encode()).as_ref(), Some(&record));
    }
    decode_message(data);
    for item in BodyReader::new(data).map_while(Result::ok) {
        decode_message(item.payload);
    }
}

/// Gives bytes to machines in the middle of things, sealed by their peer and not; no machine may contradict itself
pub fn machines(data: &[u8]) {
    thread_local! {
        static STAGES: (Stages<EchoWorker>, Stages<Client>) = (Stages::worker(), Stages::client());
    }
    STAGES.with(|(worker, client)| {
        worker.tell(data);
        client.tell(data);
    });
}

/// Handshake messages have one encoding only
fn decode_handshake(data: &[u8]) {
    let mut out = [0; HANDSHAKE_BYTES_MAX];
    if let Some(hello) = Hello::decode(data) {
        let len = hello.encode(&mut out);
        assert_eq!(&out[..len], data);
    }
    if let Some((challenge, signed, mac)) = Challenge::decode(data) {
        let len = challenge.encode(&mut out);
        assert_eq!(&out[..len], signed);
        let len = append_mac(&mut out, len, &mac);
        assert_eq!(&out[..len], data);
    }
    if let Some((proof, signed, mac)) = Proof::decode(data) {
        let len = proof.encode(&mut out);
        assert_eq!(&out[..len], signed);
        let len = append_mac(&mut out, len, &mac);
        assert_eq!(&out[..len], data);
    }
    if let Some(refusal) = Refusal::decode(data) {
        let len = refusal.encode(&mut out);
        assert_eq!(&out[..len], data);
    }
}

fn decode_message(payload: &[u8]) {
    macro_rules! survives {
        ($($message:ty),*) => {$(
            let item = Item { class: Class::Loose, ignorable: false, payload };
            if let Some(message) = item.decode::<$message>() {
                let mut room = vec![0; payload.len() + 16];
                let mut body = BodyWriter::new(&mut room);
                if body.push(Class::Loose, &message) {
                    let len = body.len();
                    let again = BodyReader::new(&room[..len]).next().expect("one item").expect("a whole one");
                    assert_eq!(again.decode::<$message>(), Some(message));
                }
            }
        )*};
    }
    survives!(Control, FromWorker<'_>, ToWorker<'_>, FromClient<'_>, ToClient<'_>, InventoryItem);
}

/// One peer and a coordinator, in the middle of their conversation
struct Stages<P> {
    /// M1 is under way
    greeting: Box<Pair<P>>,
    /// M3 is under way
    proving: Box<Pair<P>>,
    /// Both are at work
    connected: Box<Pair<P>>,
    to_peer: Next,
    to_coordinator: Next,
}

/// What the next frame of a direction needs
struct Next {
    seal: Seal,
    number: u64,
}

impl Next {
    fn opened(&mut self, frames: &[Vec<u8>]) {
        for frame in frames {
            let body = self.seal.open(frame).expect("what a machine seals can be opened");
            for item in BodyReader::new(&body) {
                if let Class::Numbered(number) = item.expect("a machine writes whole items").class {
                    self.number = number + 1;
                }
            }
        }
    }
}

impl Stages<EchoWorker> {
    fn worker() -> Self {
        let mut config = worker::Config::new(link_config(Role::Worker));
        (config.slots, config.prefetch, config.attempts_max, config.result_bytes_max) = (1, 1, 4, 256);
        let worker = Worker::new(config, Seed([1; 32]), START).expect("legal settings");
        Stages::new(EchoWorker::new(worker), Role::Worker, |pair| {
            let input = coordinator::Input::Submit {
                task: TASK,
                spec: TaskSpec::default(),
                about: &[],
                payload: b"some input",
            };
            pair.coordinator.handle(pair.now, input).expect("the submit is legal");
        })
    }
}

impl Stages<Client> {
    fn client() -> Self {
        let mut config = client::Config::new(link_config(Role::Client));
        config.tasks_max = 4;
        let client = Client::new(config, Seed([1; 32]), START).expect("legal settings");
        Stages::new(client, Role::Client, |pair| {
            let input = client::Input::Submit {
                task: TASK,
                spec: TaskSpec::default(),
                about: &[],
                payload: b"some input",
                follow: Follow::Output,
            };
            pair.peer.handle(pair.now, input).expect("the submit is legal");
        })
    }
}

const START: Instant = Instant::from_micros(1_000_000);
const SECRET: [u8; 32] = [5; 32];

fn key(role: Role) -> Key {
    Key { id: KeyId([6; 8]), secret: Secret::new(SECRET), name: "peer".parse().expect("a legal name"), role }
}

fn link_config(role: Role) -> LinkConfig {
    LinkConfig::new(key(role), BootId([7; 16]), "ws://coordinator")
}

impl<P: Peer> Stages<P> {
    fn new(peer: P, role: Role, begin_work: fn(&mut Pair<P>)) -> Self {
        let config = coordinator::Config::new(ClusterId([9; 16]), 1, vec![key(role)]);
        let coordinator = Coordinator::new(config, Seed([2; 32]), START).expect("legal settings");
        let mut pair = Box::new(Pair::new(START, peer, coordinator));
        assert!(pair.connect([3; 32], [4; 32]));
        let m1 = pair.peer_says().remove(0);
        let greeting = pair.clone();
        pair.tell_coordinator(&m1);
        let m2 = pair.coordinator_says().remove(0);
        pair.tell_peer(&m2);
        let mut up = pair.peer_says();
        let m3 = up.remove(0);
        let proving = pair.clone();
        let keys = Schedule::follow(&SECRET, &m1, &m2, &m3);
        let mut to_peer = Next { seal: Seal::new(keys.to_peer), number: 1 };
        let mut to_coordinator = Next { seal: Seal::new(keys.to_coordinator), number: 1 };
        pair.tell_coordinator(&m3);
        let mut work = Some(begin_work);
        loop {
            to_coordinator.opened(&up);
            up.iter().for_each(|frame| pair.tell_coordinator(frame));
            let down = pair.coordinator_says();
            to_peer.opened(&down);
            down.iter().for_each(|frame| pair.tell_peer(frame));
            match work.take_if(|_| down.is_empty()) {
                Some(begin_work) => begin_work(&mut pair),
                // What the peer answers to the last frames is what the bytes will stand in for.
                None if work.is_none() && !down.is_empty() => break,
                None => {}
            }
            up = pair.peer_says();
        }
        pair.peer_says();
        Stages { greeting, proving, connected: pair, to_peer, to_coordinator }
    }

    fn tell(&self, data: &[u8]) {
        let handshake = matches!(data.first(), Some(b'H' | b'C' | b'P' | b'R' | b'J'));
        let stages: &[_] = if handshake { &[&self.greeting, &self.proving] } else { &[&self.connected] };
        for stage in stages {
            let mut pair = Box::clone(stage);
            pair.tell_peer(data);
            pair.tell_coordinator(data);
            go_on(&mut pair);
        }
        if data.len() > BODY_BYTES_MAX {
            return;
        }
        self.tell_sealed(data, data);
        let [down, up] = [&self.to_peer, &self.to_coordinator].map(|next| renumbered(data, next.number));
        if down != data || up != data {
            self.tell_sealed(&down, &up);
        }
    }

    fn tell_sealed(&self, down: &[u8], up: &[u8]) {
        let mut pair = self.connected.clone();
        pair.tell_peer(&self.to_peer.seal.clone().seal(down));
        pair.tell_coordinator(&self.to_coordinator.seal.clone().seal(up));
        go_on(&mut pair);
    }
}

/// Gives a body's items the numbers that are expected, lest every other one be a gap
fn renumbered(body: &[u8], next: u64) -> Vec<u8> {
    let mut out = Vec::new();
    let mut next = next;
    for item in BodyReader::new(body).map_while(Result::ok) {
        let ignorable = u8::from(item.ignorable) << 7;
        out.extend_from_slice(&(item.payload.len() as u16).to_le_bytes());
        match item.class {
            Class::Control => out.push(ignorable),
            Class::Loose => out.push(2 | ignorable),
            Class::Numbered(_) => {
                out.push(1 | ignorable);
                out.extend_from_slice(&next.to_le_bytes());
                next += 1;
            }
        }
        out.extend_from_slice(item.payload);
    }
    out
}

/// Whatever was said, life goes on: machines answer, time passes, connections are opened again
fn go_on<P: Peer>(pair: &mut Pair<P>) {
    for round in 0..3 {
        pair.talk();
        pair.check();
        pair.wait(HEARTBEAT_MAX);
        pair.peer_says();
        pair.connect([10 + round; 32], [20 + round; 32]);
    }
    pair.talk();
    pair.check();
}

#[cfg(test)]
mod tests {
    use rejoin_core::coordinator::TaskState;
    use rejoin_core::ids::Token;
    use rejoin_core::wire::message::{Outcome, Settlement, StreamEnd};

    use super::*;

    fn body(write: impl FnOnce(&mut BodyWriter<'_>) -> bool) -> Vec<u8> {
        let mut room = vec![0; 256];
        let mut body = BodyWriter::new(&mut room);
        assert!(write(&mut body));
        let len = body.len();
        room.truncate(len);
        room
    }

    #[test]
    fn sealed_bytes_are_listened_to() {
        let stages = Stages::worker();
        let (task, token, outcome) = (TASK, Token(1), Outcome::Succeeded);
        let streams = [StreamEnd::default(); 2];
        let result = FromWorker::Result { task, token, outcome, result: b"", streams };
        let settled = ToWorker::Settled { token, settlement: Settlement::Applied, outcome: Some(outcome) };
        let [up, down] = [
            renumbered(&body(|body| body.push(Class::Numbered(0), &result)), stages.to_coordinator.number),
            renumbered(&body(|body| body.push(Class::Numbered(0), &settled)), stages.to_peer.number),
        ];
        let mut pair = stages.connected;
        assert!(pair.peer.machine.attempt(token).is_some());
        pair.tell_coordinator(&stages.to_coordinator.seal.clone().seal(&up));
        pair.tell_peer(&stages.to_peer.seal.clone().seal(&down));
        pair.coordinator_says();
        pair.peer_says();
        assert_eq!(pair.coordinator.task(TASK).map(|task| task.state), Some(TaskState::Ended));
        assert_eq!(pair.peer.machine.attempt(token), None);
        assert_eq!((pair.coordinator.stats().violations, pair.peer.machine.stats().violations), (0, 0));
    }
}
