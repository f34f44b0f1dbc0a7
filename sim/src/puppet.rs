//! A peer worked by hand: it holds a key, speaks the wire with code of its own, and may lie

use std::collections::VecDeque;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use rejoin_core::ids::{BootId, ConnId, SessionId};
use rejoin_core::wire::handshake::{Challenge, Hello, Proof, Resume, append_mac};
use rejoin_core::wire::keys::Key;
use rejoin_core::wire::message::{BodyReader, BodyWriter, Class, Control};
use sha2::{Digest, Sha256};

use crate::world::{World, client_key, secret, worker_key};

type Bytes32 = [u8; 32];

/// One message of a frame that a puppet heard
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// About the connection
    Control(Control),
    /// Reliable: its number and encoded message
    Numbered(u64, Vec<u8>),
    /// Replaceable: its encoded message
    Loose(Vec<u8>),
}

/// One end of a connection, as its owner wants it to be
///
/// It dials with [`Puppet::worker`] or [`Puppet::client`], or stands in for the coordinator with
/// [`Puppet::coordinator`] on a connection that a peer's network diverts.
#[derive(Clone, Debug)]
pub struct Puppet {
    /// The connection it speaks on
    pub conn: ConnId,
    /// What it says it is
    pub key: Key,
    /// Which life of its memory it claims
    pub boot: BootId,
    /// The session it opened last, and the key to resume it
    pub session: Option<(SessionId, Bytes32)>,
    secret: Bytes32,
    /// The one wire version that it speaks
    version: u16,
    dials: bool,
    hello: Vec<u8>,
    nonce: Bytes32,
    proofs: Option<Proofs>,
    seal: (Bytes32, u64),
    open: (Bytes32, u64),
    raw: VecDeque<Vec<u8>>,
}

/// What follows from M1 and M2
#[derive(Clone, Debug)]
struct Proofs {
    prk: Hkdf<Sha256>,
    t2: Bytes32,
    mac_c: Bytes32,
}

impl Puppet {
    /// Holds the key of worker `n`
    pub fn worker(n: usize) -> Self {
        Puppet::new(worker_key(n), secret(1, n), true)
    }

    /// Holds the key of client `n`
    pub fn client(n: usize) -> Self {
        Puppet::new(client_key(n), secret(2, n), true)
    }

    /// Stands in for the coordinator towards worker `n`
    pub fn coordinator(n: usize) -> Self {
        Puppet::new(worker_key(n), secret(1, n), false)
    }

    fn new(key: Key, secret: Bytes32, dials: bool) -> Self {
        Puppet {
            conn: ConnId(0),
            key,
            boot: BootId([99; 16]),
            version: 1,
            session: None,
            secret,
            dials,
            hello: Vec::new(),
            nonce: [42; 32],
            proofs: None,
            seal: ([0; 32], 0),
            open: ([0; 32], 0),
            raw: VecDeque::new(),
        }
    }

    /// Uses another secret than the one that belongs to its key
    pub fn with_secret(mut self, secret: Bytes32) -> Self {
        self.secret = secret;
        self
    }

    /// Speaks another wire version than 1
    pub fn with_version(mut self, version: u16) -> Self {
        self.version = version;
        self
    }

    /// Its M1, ready to be changed
    pub fn hello(&self) -> Hello<'static> {
        Hello {
            versions: [self.version].into_iter().collect(),
            capabilities: 0,
            audience: "ws://coordinator/v1/worker",
            binding: &[],
            role: self.key.role,
            name: self.key.name.clone(),
            key: self.key.id,
            boot: self.boot,
            session: self.session.map(|session| session.0),
            epoch: 0,
            nonce: self.nonce,
        }
    }

    /// The M1 it has said
    pub fn m1(&self) -> &[u8] {
        &self.hello
    }

    /// Opens a connection to the coordinator and says M1
    pub fn greet(&mut self, world: &mut World) {
        let hello = self.hello();
        self.greet_with(world, &hello);
    }

    /// Opens a connection to the coordinator and says this M1
    pub fn greet_with(&mut self, world: &mut World, hello: &Hello<'_>) {
        self.conn = world.stranger().expect("the coordinator lets strangers in");
        let mut bytes = vec![0; 8192];
        let len = hello.encode(&mut bytes);
        bytes.truncate(len);
        world.say(self.conn, &bytes);
        self.hello = bytes;
    }

    /// Takes M2; the number up to which the session named is open, if it is
    ///
    /// Panics if the answer is no challenge, or its proof is wrong.
    pub fn challenged(&mut self, world: &mut World) -> Option<u64> {
        let answers = world.hear(self.conn);
        let (challenge, signed, mac) = answers.first().and_then(|m2| Challenge::decode(m2)).expect("a challenge");
        let nonces = [self.nonce, challenge.nonce];
        let proofs = Proofs::new(&self.secret, nonces, &self.hello, signed);
        assert_eq!(mac, proofs.mac_c, "the coordinator knows the key");
        self.proofs = Some(proofs);
        challenge.open
    }

    /// Says M3: opens a session
    pub fn prove(&mut self, world: &mut World) {
        self.prove_with(world, None);
    }

    /// Says M3: resumes the session it opened, with these numbers
    pub fn resume(&mut self, world: &mut World, generation: u64, received: u64, sent: u64, acknowledged: u64) {
        let (session, key) = self.session.expect("a session to resume");
        let t2 = self.proofs.as_ref().expect("a challenge came first").t2;
        let rmac = mac(&key, &[b"rejoin resume", &t2]);
        self.prove_with(world, Some(Resume { session, generation, received, sent, acknowledged, rmac }));
    }

    fn prove_with(&mut self, world: &mut World, resume: Option<Resume>) {
        let proofs = self.proofs.clone().expect("a challenge came first");
        let mut bytes = vec![0; 256];
        let len = Proof { resume }.encode(&mut bytes);
        let mac_w = proofs.mac_w(&bytes[..len]);
        self.take_keys(&proofs, &bytes[..len], &mac_w, resume.is_none());
        let len = append_mac(&mut bytes, len, &mac_w);
        world.say(self.conn, &bytes[..len]);
    }

    fn take_keys(&mut self, proofs: &Proofs, signed: &[u8], mac_w: &Bytes32, opens: bool) {
        let t4 = hash(&[b"rejoin transcript 4", &proofs.t3(signed), mac_w]);
        let to_coordinator = (proofs.expand(&[b"rejoin w2c", &t4]), 0);
        let to_peer = (proofs.expand(&[b"rejoin c2w", &t4]), 0);
        (self.seal, self.open) = if self.dials { (to_coordinator, to_peer) } else { (to_peer, to_coordinator) };
        if opens {
            let mut id = [0; 16];
            id.copy_from_slice(&proofs.expand(&[b"rejoin session", &t4])[..16]);
            self.session = Some((SessionId(id), proofs.expand(&[b"rejoin resume key", &t4])));
        }
    }

    /// Dials, proves itself, begins a session and confirms it; returns what it was told
    pub fn enter(&mut self, world: &mut World) -> Vec<Heard> {
        self.greet(world);
        self.challenged(world);
        self.prove(world);
        let heard = self.hear(world);
        let session = self.session.expect("one was opened").0;
        self.say(world, |body| {
            body.push(Class::Control, &Control::Begin { session });
            body.push(Class::Control, &Control::Confirm { generation: 1 });
        });
        heard
    }

    /// Answers the M1 of a diverted peer with M2, and takes M3
    pub fn accept(&mut self, world: &mut World, conn: ConnId, epoch: u64) {
        self.conn = conn;
        self.hello = world.hear(conn).pop().expect("an M1");
        let hello = Hello::decode(&self.hello).expect("an M1");
        let challenge = Challenge {
            version: self.version,
            capabilities: 0,
            binding: &[],
            cluster: rejoin_core::ids::ClusterId([9; 16]),
            epoch,
            frame_bytes_max: 65_536,
            messages: 4096,
            bulk: 1 << 20,
            open: None,
            nonce: [43; 32],
        };
        let mut bytes = vec![0; 512];
        let len = challenge.encode(&mut bytes);
        let proofs = Proofs::new(&self.secret, [hello.nonce, [43; 32]], &self.hello, &bytes[..len]);
        let len = append_mac(&mut bytes, len, &proofs.mac_c);
        world.say(conn, &bytes[..len]);
        let latency = world.wire(0).latency;
        world.run_for(latency);
        self.raw.extend(world.hear(conn));
        let Some(m3) = self.raw.pop_front() else { return };
        let (_, signed, mac) = Proof::decode(&m3).expect("an M3");
        assert_eq!(mac, proofs.mac_w(signed), "the peer knows the key");
        let signed = signed.to_vec();
        self.take_keys(&proofs, &signed, &mac, true);
        self.proofs = Some(proofs);
    }

    /// Whether the peer has answered a challenge with its proof
    pub fn has_proof(&self) -> bool {
        self.proofs.is_some()
    }

    /// Seals a frame and says it
    pub fn say(&mut self, world: &mut World, write: impl FnOnce(&mut BodyWriter<'_>)) {
        let mut body = vec![0; 65_000];
        let mut writer = BodyWriter::new(&mut body);
        write(&mut writer);
        let len = writer.len();
        let frame = self.seal(0, len as u16, &body[..len]);
        world.say(self.conn, &frame);
    }

    /// Seals any body under any flags and length
    pub fn seal(&mut self, flags: u8, full_len: u16, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![1, flags];
        frame.extend(full_len.to_le_bytes());
        frame.extend(body);
        let tag = mac(&self.seal.0, &[&self.seal.1.to_le_bytes(), &frame]);
        self.seal.1 += 1;
        frame.extend(&tag[..16]);
        frame
    }

    /// Takes and opens everything that has arrived
    ///
    /// Panics if a tag is wrong; frames must not be compressed.
    pub fn hear(&mut self, world: &mut World) -> Vec<Heard> {
        self.raw.extend(world.hear(self.conn));
        let mut heard = Vec::new();
        while let Some(frame) = self.raw.pop_front() {
            let (signed, tag) = frame.split_at(frame.len() - 16);
            assert_eq!(mac(&self.open.0, &[&self.open.1.to_le_bytes(), signed])[..16], *tag, "sealed by the other end");
            self.open.1 += 1;
            assert_eq!(signed[1], 0, "not compressed");
            for item in BodyReader::new(&signed[4..]) {
                let item = item.expect("a batch");
                heard.push(match item.class {
                    Class::Control => Heard::Control(item.decode().expect("a control message")),
                    Class::Numbered(number) => Heard::Numbered(number, item.payload.into()),
                    Class::Loose => Heard::Loose(item.payload.into()),
                });
            }
        }
        heard
    }

    /// Leaves
    pub fn close(&mut self, world: &mut World) {
        world.close_by_hand(self.conn);
    }
}

impl Proofs {
    fn new(key: &Bytes32, nonces: [Bytes32; 2], hello: &[u8], challenge: &[u8]) -> Self {
        let t2 = hash(&[b"rejoin transcript 2", hello, challenge, &[]]);
        let mut proofs = Proofs { prk: Hkdf::new(Some(&nonces.concat()), key), t2, mac_c: [0; 32] };
        proofs.mac_c = mac(&proofs.expand(&[b"rejoin c fin"]), &[&t2]);
        proofs
    }

    fn t3(&self, signed: &[u8]) -> Bytes32 {
        hash(&[b"rejoin transcript 3", &self.t2, &self.mac_c, signed])
    }

    fn mac_w(&self, signed: &[u8]) -> Bytes32 {
        mac(&self.expand(&[b"rejoin w fin"]), &[&self.t3(signed)])
    }

    fn expand(&self, info: &[&[u8]]) -> Bytes32 {
        let mut out = [0; 32];
        self.prk.expand_multi_info(info, &mut out).expect("32 bytes are few");
        out
    }
}

fn hash(fields: &[&[u8]]) -> Bytes32 {
    let mut hash = Sha256::new();
    for field in fields {
        hash.update((field.len() as u32).to_le_bytes());
        hash.update(field);
    }
    hash.finalize().into()
}

fn mac(key: &Bytes32, parts: &[&[u8]]) -> Bytes32 {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("any length will do");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}
