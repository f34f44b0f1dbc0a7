use std::time::Duration;

use rejoin_core::coordinator::{self, Coordinator, TaskState};
use rejoin_core::ids::{BootId, ClusterId, KeyId, Role, TaskId};
use rejoin_core::link::LinkConfig;
use rejoin_core::wire::keys::{Key, Secret};
use rejoin_core::wire::message::TaskSpec;
use rejoin_core::worker::{self, Worker};
use rejoin_core::{Instant, Seed};
use rejoin_sim::pair::{EchoWorker, Pair};
use rejoin_sim::stranger::{Schedule, Seal};

use crate::book::Book;
use crate::messages::TASK;

const SECRET: [u8; 32] = [0x5e; 32];
const OTHER_TASK: TaskId = TaskId([0x12; 16]);

/// A worker and a coordinator, with a stranger who knows the key and writes everything down
struct Witness {
    book: Book,
    pair: Pair<EchoWorker>,
    connection: u8,
    keys: Option<Schedule>,
    up: Seal,
    down: Seal,
    counters: [u64; 2],
    compressed: [u64; 2],
}

impl Witness {
    fn new() -> Self {
        let name = "lab-3".parse().expect("a legal name");
        let key = Key { id: KeyId([1; 8]), secret: Secret::new(SECRET), name, role: Role::Worker };
        let start = Instant::from_micros(1_000_000);
        // What was said in version 1 must still be said like that.
        let link = LinkConfig { wire_version: 1, ..LinkConfig::new(key.clone(), BootId([2; 16]), "ws://coordinator") };
        let worker = Worker::new(worker::Config::new(link), Seed([3; 32]), start).expect("legal settings");
        let config = coordinator::Config::new(ClusterId([5; 16]), 7, vec![key]);
        let coordinator = Coordinator::new(config, Seed([4; 32]), start).expect("legal settings");
        let mut book = Book::open(
            "conversation.txt",
            "A worker connects, runs a task, loses its connection, and resumes its session\n\n\
             Messages are named by connection, direction (up is to the coordinator), and their place in it.\n\
             A body is what a frame carries, before compression, for which a compressor may find other bytes than these.",
        );
        book.tell("secret", "the worker's key, as both sides know it", &SECRET);
        let (up, down) = (Seal::new([0; 32]), Seal::new([0; 32]));
        let pair = Pair::new(start, EchoWorker::new(worker), coordinator);
        Witness { book, pair, connection: 0, keys: None, up, down, counters: [0; 2], compressed: [0; 2] }
    }

    /// M1 to M3, and everything that follows from them; returns what the worker sends right behind
    fn handshake(&mut self) -> Vec<Vec<u8>> {
        self.connection += 1;
        let n = self.connection;
        self.book.chapter(&format!("Connection {n}"));
        assert!(self.pair.connect([0x10 + n; 32], [0x20 + n; 32]));
        let m1 = self.pair.peer_says().remove(0);
        let m1 = self.book.add(&format!("{n}.m1"), &format_args!("from the worker"), &m1);
        self.pair.tell_coordinator(&m1);
        let m2 = self.pair.coordinator_says().remove(0);
        let m2 = self.book.add(&format!("{n}.m2"), &format_args!("from the coordinator; ends with MAC_C"), &m2);
        self.pair.tell_peer(&m2);
        let mut behind = self.pair.peer_says();
        let m3 =
            self.book.add(&format!("{n}.m3"), &format_args!("from the worker; ends with MAC_W"), &behind.remove(0));
        self.pair.tell_coordinator(&m3);

        let keys = Schedule::follow(&SECRET, &m1, &m2, &m3);
        let steps: [(&str, &str, &[u8]); 12] = [
            ("t2", "SHA-256 over M1, M2 without its MAC, and an empty channel binding", &keys.t2),
            ("prk", "HKDF-Extract of the secret; the salt is both nonces, the worker's first", &keys.prk),
            ("coordinator_proof", "HKDF-Expand with \"rejoin c fin\"", &keys.coordinator_proof),
            ("mac_c", "HMAC-SHA-256 of T2 under that", &keys.mac_c),
            ("t3", "SHA-256 over T2, MAC_C, and M3 without its MAC", &keys.t3),
            ("peer_proof", "HKDF-Expand with \"rejoin w fin\"", &keys.peer_proof),
            ("mac_w", "HMAC-SHA-256 of T3 under that", &keys.mac_w),
            ("t4", "SHA-256 over T3 and MAC_W", &keys.t4),
            (
                "to_coordinator",
                "HKDF-Expand with \"rejoin w2c\" and T4: key of the worker's frames",
                &keys.to_coordinator,
            ),
            ("to_peer", "HKDF-Expand with \"rejoin c2w\" and T4: key of the coordinator's frames", &keys.to_peer),
            ("session", "HKDF-Expand with \"rejoin session\" and T4: id of a session opened here", &keys.session),
            ("resume_key", "HKDF-Expand with \"rejoin resume key\" and T4: its resume key", &keys.resume_key),
        ];
        for (name, story, bytes) in steps {
            self.book.tell(&format!("{n}.{name}"), story, bytes);
        }
        assert!(m2.ends_with(&keys.mac_c) && m3.ends_with(&keys.mac_w), "the stranger comes to the same proofs");
        if let Some(first) = &self.keys {
            let rmac = keys.rmac(&first.resume_key);
            self.book.tell(
                &format!("{n}.rmac"),
                "HMAC-SHA-256 of \"rejoin resume\" and T2 under the resume key",
                &rmac,
            );
            assert!(m3[..m3.len() - 34].ends_with(&rmac), "the worker proves that the session is its own");
        }
        (self.up, self.down) = (Seal::new(keys.to_coordinator), Seal::new(keys.to_peer));
        self.counters = [0; 2];
        self.keys.get_or_insert(keys);
        behind
    }

    /// Writes a frame down and returns it
    fn frame(&mut self, up: bool, frame: &[u8]) -> Vec<u8> {
        let (seal, way, who) =
            if up { (&mut self.up, "up", "worker") } else { (&mut self.down, "down", "coordinator") };
        let body = seal.open(frame).expect("the stranger opens what the core has sealed");
        let counter = self.counters[usize::from(up)];
        self.counters[usize::from(up)] += 1;
        let compressed = frame[1] & 1 == 1;
        self.compressed[usize::from(up)] += u64::from(compressed);
        let name = format!("{}.{way}.{counter}", self.connection);
        self.book.tell(&format!("{name}.body"), &format!("from the {who}"), &body);
        let story = if compressed { "sealed, compressed" } else { "sealed" };
        self.book.add(&name, &format_args!("{story}"), frame)
    }

    /// Carries and writes down everything until nobody has anything to say
    fn talk(&mut self, mut up: Vec<Vec<u8>>) {
        loop {
            for frame in &up {
                let frame = self.frame(true, frame);
                self.pair.tell_coordinator(&frame);
            }
            let down = self.pair.coordinator_says();
            for frame in &down {
                let frame = self.frame(false, frame);
                self.pair.tell_peer(&frame);
            }
            if up.is_empty() && down.is_empty() {
                return;
            }
            up = self.pair.peer_says();
        }
    }
}

#[test]
fn frame_6_a_worked_conversation_is_what_a_stranger_makes_of_it() {
    let mut witness = Witness::new();
    let behind = witness.handshake();
    witness.talk(behind);

    let payload = b"the same again, ".repeat(40);
    let input = coordinator::Input::Submit { task: TASK, spec: TaskSpec::default(), about: &[], payload: &payload };
    witness.pair.coordinator.handle(witness.pair.now, input).expect("the submit is legal");
    witness.talk(Vec::new());
    let task = witness.pair.coordinator.task(TASK).expect("it is there");
    assert_eq!(task.state, TaskState::Ended);
    assert!(witness.compressed.iter().all(|frames| *frames > 0), "both sides have sent a compressed frame");

    // What the coordinator says now is lost with the connection, and said again on the next one.
    let input =
        coordinator::Input::Submit { task: OTHER_TASK, spec: TaskSpec::default(), about: &[], payload: b"other input" };
    witness.pair.coordinator.handle(witness.pair.now, input).expect("the submit is legal");
    assert_eq!(witness.pair.coordinator_says().len(), 1);
    witness.pair.cut();
    while !witness.pair.wants_connection() {
        witness.pair.wait(Duration::from_secs(1));
        witness.pair.peer_says();
    }
    let behind = witness.handshake();
    witness.talk(behind);
    let task = witness.pair.coordinator.task(OTHER_TASK).expect("it is there");
    assert_eq!(task.state, TaskState::Ended);
    assert_eq!(witness.pair.coordinator.stats().resumed, 1);
    witness.book.close();
}
