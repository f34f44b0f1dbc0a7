//! Somebody with a key of his own who says what nobody may say
//!
//! He greets as a worker does, with code that is not the core's, begins a session, and then breaks one rule. Whatever it
//! is, no task may notice (S7), and the coordinator ends nothing but his session (FRAME-2).

use rejoin_core::ids::{BootId, TaskId, Token};
use rejoin_core::limits::BODY_BYTES_MAX;
use rejoin_core::wire::handshake::{Hello, Proof, append_mac};
use rejoin_core::wire::keys::Key;
use rejoin_core::wire::message::{
    BodyWriter, Class, Control, FromWorker, Held, InventoryItem, Outcome, Stream, StreamEnd,
};

use crate::menu::Kind;
use crate::schedule::Schedule;
use crate::stranger::{Schedule as Keys, Seal};
use crate::world::{secret, worker_key};

/// The first one's number among the workers: nobody else has it
const FIRST: usize = 60_000;
/// Most of them in one schedule: each has a key of his own, so that none stands in another one's way
const MOST: usize = 64;
/// His messages: M1, M3, a beginning, and the breach
const FRAMES: u32 = 4;
/// Bytes in front of a message without a number
const ITEM_HEAD_BYTES: usize = 3;
/// Bytes of a MAC behind its length
const MAC_FIELD_BYTES: usize = 34;

/// The keys of those that a schedule has
pub(super) fn keys(schedule: &Schedule) -> impl Iterator<Item = Key> {
    let rogues = schedule.entries.iter().filter(|entry| entry.what.is_one_of(&[Kind::Rogue])).count();
    (FIRST..FIRST + rogues.min(MOST)).map(worker_key)
}

/// One of them, until he has said it
#[derive(Clone, Debug)]
pub(super) struct Rogue {
    number: usize,
    kind: u64,
    /// An attempt of somebody else
    victim: (TaskId, Token),
    hello: Vec<u8>,
    done: bool,
    /// Messages of his that the coordinator has heard
    heard: u32,
}

impl Rogue {
    /// The one that comes after so many others; none if there are too many
    pub(super) fn new(earlier: usize, kind: u64, victim: Option<(TaskId, Token)>, entropy: [u8; 32]) -> Option<Rogue> {
        let number = FIRST + earlier;
        if earlier >= MOST {
            return None;
        }
        let key = worker_key(number);
        let mut boot = [0; 16];
        boot.copy_from_slice(&entropy[16..]);
        let hello = Hello {
            versions: [1].into_iter().collect(),
            capabilities: 1,
            audience: "ws://coordinator/v1/worker",
            binding: &[],
            role: key.role,
            name: key.name,
            key: key.id,
            boot: BootId(boot),
            session: None,
            epoch: 0,
            nonce: entropy,
        };
        let mut bytes = vec![0; 1024];
        let len = hello.encode(&mut bytes);
        bytes.truncate(len);
        let victim = victim.unwrap_or((TaskId([0x77; 16]), Token(1)));
        Some(Rogue { number, kind, victim, hello: bytes, done: false, heard: 0 })
    }

    /// Whether the next of his frames must be refused, and was the last one
    pub(super) fn breaks_a_rule(&mut self) -> bool {
        self.heard += 1;
        let last = self.heard == FRAMES;
        last && matches!(self.kind, 0..=4 | 8 | 11 | 12)
    }

    /// His M1
    pub(super) fn hello(&self) -> &[u8] {
        &self.hello
    }

    /// What he says to the first answer: M3, a beginning, and the breach
    pub(super) fn answer(&mut self, challenge: &[u8]) -> Vec<Vec<u8>> {
        if std::mem::replace(&mut self.done, true) || challenge.len() < 100 {
            return Vec::new();
        }
        let mut proof = vec![0; 256];
        let len = Proof { resume: None }.encode(&mut proof);
        proof.truncate(len + MAC_FIELD_BYTES);
        let keys = Keys::follow(&secret(1, self.number), &self.hello, challenge, &proof);
        append_mac(&mut proof, len, &keys.mac_w);
        let mut seal = Seal::new(keys.to_coordinator);
        let items = self.inventory();
        let begin = body(|body| {
            body.push(Class::Control, &Control::Begin { session: rejoin_core::ids::SessionId(keys.session) });
            let inventory = FromWorker::Inventory { part: 0, last: true, cut: 0, items: &items };
            body.push(Class::Numbered(1), &inventory);
            body.push(Class::Control, &Control::Confirm { generation: 1 });
        });
        vec![proof, seal.seal(&begin), self.breach(&mut seal)]
    }

    /// What he says that he holds: an attempt of somebody else, if that is his kind
    fn inventory(&self) -> Vec<u8> {
        let (task, token) = self.victim;
        let item = InventoryItem { task, token, attempt: 1, held: Held::Finished };
        if self.kind != 7 {
            return Vec::new();
        }
        let written = body(|body| {
            body.push(Class::Loose, &item);
        });
        written[ITEM_HEAD_BYTES..].into()
    }

    fn breach(&self, seal: &mut Seal) -> Vec<u8> {
        let (task, token) = self.victim;
        let class = Class::Numbered(2);
        match self.kind {
            // Lengths and flags that lie, under a tag that is right.
            0 => seal.seal_as([1, 0, 0xff, 0xff], &[0; 40]),
            // A bomb; and what is longer than it says, and would fit.
            1 => {
                let claimed = (BODY_BYTES_MAX as u16).to_le_bytes();
                seal.seal_as([1, 1, claimed[0], claimed[1]], &bomb())
            }
            12 => {
                let body = body(|body| {
                    body.push(Class::Control, &Control::Bye);
                });
                // All of it as literals, behind one byte that says how many they are.
                let packed = [&[(body.len() as u8) << 4], &body[..]].concat();
                seal.seal_as([1, 1, body.len() as u8 - 1, 0], &packed)
            }
            2 => seal.seal(&[0xff, 0xff, 1, 2, 0, 0, 0, 0, 0, 0, 0]),
            8 => seal.seal(&[1, 0, 7, 0]),
            11 => seal.seal_as([1, 0x80, 4, 0], &[0; 4]),
            3 => seal.seal(&body(|body| {
                body.push(Class::Control, &Control::Ack { received: 1 << 40 });
            })),
            4 => seal.seal(&body(|body| {
                body.push(Class::Numbered(99), &FromWorker::Draining);
            })),
            6 => seal.seal(&body(|body| {
                body.push(class, &FromWorker::Checkpoint { token, number: 1_000, bytes: &[9; 20] });
            })),
            9 => seal.seal(&body(|body| {
                body.push(class, &FromWorker::Running { token, progress: 99 });
                body.push(Class::Numbered(3), &FromWorker::GivenBack { token });
            })),
            10 => seal.seal(&body(|body| {
                let (stream, bytes) = (Stream::Out, &[b'!'; 50][..]);
                body.push(Class::Loose, &FromWorker::Output { token, stream, offset: 0, bytes });
            })),
            // A result, which for kind 7 is the one that he says he has.
            _ => seal.seal(&body(|body| {
                let (outcome, streams) = (Outcome::Succeeded, [StreamEnd::default(); 2]);
                body.push(class, &FromWorker::Result { task, token, outcome, result: b"mine", streams });
            })),
        }
    }
}

/// Some 60,000 bytes of lz4 that become 15 million: a zero, a repetition without end, and five zeroes
fn bomb() -> Vec<u8> {
    let mut bytes = vec![0x1f, 0, 1, 0];
    bytes.resize(60_000, 255);
    bytes.extend([0, 0x50, 0, 0, 0, 0, 0]);
    bytes
}

fn body(write: impl FnOnce(&mut BodyWriter<'_>)) -> Vec<u8> {
    let mut bytes = vec![0; 2048];
    let mut body = BodyWriter::new(&mut bytes);
    write(&mut body);
    let len = body.len();
    bytes.truncate(len);
    bytes
}
