//! The four messages that open a connection (AUTH-1); their layout never changes
//!
//! A handshake message is one byte of kind, then its fields, each behind its length as a little-endian `u16`. Numbers
//! are little endian. The MAC is always the last field, so that "the message without its MAC" is a prefix. M4 is the
//! first sealed frame and no concern of this file.

use crate::ids::{BootId, ClusterId, KeyId, PeerName, Role, SessionId};
use crate::limits::{AUDIENCE_BYTES_MAX, HANDSHAKE_BYTES_MAX};
use crate::planted::{self, Bug};
use crate::wire::keys::MacBytes;

/// Capability bit: lz4 bodies may be sent (FRAME-5)
pub const CAPABILITY_LZ4: u64 = 1;

const KIND_HELLO: u8 = b'H';
const KIND_CHALLENGE: u8 = b'C';
const KIND_PROOF: u8 = b'P';
const KIND_RETRY_AFTER: u8 = b'R';
const KIND_REJECT: u8 = b'J';
const VERSIONS_MAX: usize = 8;
const RESUME_BYTES: usize = 16 + 4 * 8 + 32;

/// M1, from the end that dialled
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Wire versions the dialler speaks, best first
    pub versions: heapless::Vec<u16, VERSIONS_MAX>,
    /// What it can do beyond that, as bits
    pub capabilities: u64,
    /// The URL as dialled
    pub audience: &'a str,
    /// Kind of channel binding offered; empty for none
    pub binding: &'a [u8],
    /// What it wants to be
    pub role: Role,
    /// Who it says it is
    pub name: PeerName,
    /// Which key it will use
    pub key: KeyId,
    /// Which life of its memory this is
    pub boot: BootId,
    /// The session it would like to resume
    pub session: Option<SessionId>,
    /// The highest epoch of the coordinator it has seen
    pub epoch: u64,
    /// 32 fresh random bytes
    pub nonce: [u8; 32],
}

impl<'a> Hello<'a> {
    /// Writes the message and returns its length
    pub fn encode(&self, out: &mut [u8]) -> usize {
        let mut versions = [0; 2 * VERSIONS_MAX];
        for (bytes, version) in versions.as_chunks_mut::<2>().0.iter_mut().zip(&self.versions) {
            *bytes = version.to_le_bytes();
        }
        let mut w = Writer::new(out, KIND_HELLO);
        w.field(&versions[..2 * self.versions.len()]);
        w.field(&self.capabilities.to_le_bytes());
        w.field(self.audience.as_bytes());
        w.field(self.binding);
        w.field(&[role_byte(self.role)]);
        w.field(self.name.as_str().as_bytes());
        w.field(&self.key.0);
        w.field(&self.boot.0);
        w.field(self.session.as_ref().map_or(&[][..], |s| &s.0));
        w.field(&self.epoch.to_le_bytes());
        w.field(&self.nonce);
        w.len
    }

    /// Reads the message; `None` if anything about it is wrong
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut r = Reader::new(bytes, KIND_HELLO)?;
        let (versions, odd) = r.field()?.as_chunks::<2>();
        let versions = versions.iter().map(|v| u16::from_le_bytes(*v));
        if !odd.is_empty() || versions.len() > VERSIONS_MAX {
            return None;
        }
        let hello = Hello {
            versions: versions.collect(),
            capabilities: r.number()?,
            audience: core::str::from_utf8(r.field()?).ok().filter(|a| a.len() <= AUDIENCE_BYTES_MAX)?,
            binding: r.field()?,
            role: role_of(r.array::<1>()?[0])?,
            name: core::str::from_utf8(r.field()?).ok()?.parse().ok()?,
            key: KeyId(r.array()?),
            boot: BootId(r.array()?),
            session: match r.field()? {
                [] => None,
                id => Some(SessionId(id.try_into().ok()?)),
            },
            epoch: r.number()?,
            nonce: r.array()?,
        };
        r.end(hello)
    }
}

/// M2, from the coordinator
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge<'a> {
    /// The wire version chosen
    pub version: u16,
    /// The capabilities both sides have
    pub capabilities: u64,
    /// Kind of channel binding in use; empty for none
    pub binding: &'a [u8],
    /// The coordinator's cluster
    pub cluster: ClusterId,
    /// The coordinator's epoch
    pub epoch: u64,
    /// Largest frame the coordinator accepts
    pub frame_bytes_max: u32,
    /// Numbered messages it grants in the session named, as an absolute total (LANES-2)
    pub messages: u64,
    /// Bulk bytes it grants on this connection, as an absolute total (LANES-2)
    pub bulk: u64,
    /// `Some(received)` when the session named in M1 is open: the worker sends what is above (AUTH-3)
    pub open: Option<u64>,
    /// 32 fresh random bytes
    pub nonce: [u8; 32],
}

impl<'a> Challenge<'a> {
    /// Writes the message without its MAC and returns its length so far
    pub fn encode(&self, out: &mut [u8]) -> usize {
        let mut limits = [0; 20];
        limits[..4].copy_from_slice(&self.frame_bytes_max.to_le_bytes());
        limits[4..12].copy_from_slice(&self.messages.to_le_bytes());
        limits[12..].copy_from_slice(&self.bulk.to_le_bytes());
        let mut w = Writer::new(out, KIND_CHALLENGE);
        w.field(&self.version.to_le_bytes());
        w.field(&self.capabilities.to_le_bytes());
        w.field(self.binding);
        w.field(&self.cluster.0);
        w.field(&self.epoch.to_le_bytes());
        w.field(&limits);
        w.field(self.open.map(u64::to_le_bytes).as_ref().map_or(&[][..], |r| r));
        w.field(&self.nonce);
        w.len
    }

    /// Reads the message, the part its MAC covers, and the MAC
    pub fn decode(bytes: &'a [u8]) -> Option<(Self, &'a [u8], MacBytes)> {
        let mut r = Reader::new(bytes, KIND_CHALLENGE)?;
        let version = u16::from_le_bytes(r.array()?);
        let capabilities = r.number()?;
        let binding = r.field()?;
        let cluster = ClusterId(r.array()?);
        let epoch = r.number()?;
        let limits: [u8; 20] = r.array()?;
        let (words, _) = limits[4..].as_chunks::<8>();
        let challenge = Challenge {
            version,
            capabilities,
            binding,
            cluster,
            epoch,
            frame_bytes_max: u32::from_le_bytes(*limits.first_chunk()?),
            messages: u64::from_le_bytes(words[0]),
            bulk: u64::from_le_bytes(words[1]),
            open: match r.field()? {
                [] => None,
                received => Some(u64::from_le_bytes(received.try_into().ok()?)),
            },
            nonce: r.array()?,
        };
        let signed = r.so_far();
        let mac = r.array()?;
        r.end((challenge, signed, mac))
    }
}

/// What a worker says of the session it resumes (SESS-5)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Which session
    pub session: SessionId,
    /// The newest generation the worker was welcomed to (SESS-4)
    pub generation: u64,
    /// Highest number it has taken in
    pub received: u64,
    /// Highest number it has given
    pub sent: u64,
    /// Highest of its numbers that was acknowledged
    pub acknowledged: u64,
    /// Proof that it owns the session
    pub rmac: MacBytes,
}

/// M3, from the end that dialled
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    /// `None` opens a new session
    pub resume: Option<Resume>,
}

impl Proof {
    /// Writes the message without its MAC and returns its length so far
    pub fn encode(&self, out: &mut [u8]) -> usize {
        let mut resume = [0; RESUME_BYTES];
        let mut w = Writer::new(out, KIND_PROOF);
        let Some(r) = self.resume else {
            w.field(&[]);
            return w.len;
        };
        resume[..16].copy_from_slice(&r.session.0);
        let words = [r.generation, r.received, r.sent, r.acknowledged];
        for (bytes, word) in resume[16..48].as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = word.to_le_bytes();
        }
        resume[48..].copy_from_slice(&r.rmac);
        w.field(&resume);
        w.len
    }

    /// Reads the message, the part its MAC covers, and the MAC
    pub fn decode(bytes: &[u8]) -> Option<(Self, &[u8], MacBytes)> {
        let mut r = Reader::new(bytes, KIND_PROOF)?;
        let resume = match r.field()? {
            [] => None,
            bytes => Some(Proof::decode_resume(bytes.try_into().ok()?)),
        };
        let signed = r.so_far();
        let mac = r.array()?;
        r.end((Proof { resume }, signed, mac))
    }

    fn decode_resume(bytes: &[u8; RESUME_BYTES]) -> Resume {
        let mut session = [0; 16];
        session.copy_from_slice(&bytes[..16]);
        let (words, _) = bytes[16..48].as_chunks::<8>();
        let mut rmac = [0; 32];
        rmac.copy_from_slice(&bytes[48..]);
        Resume {
            session: SessionId(session),
            generation: u64::from_le_bytes(words[0]),
            received: u64::from_le_bytes(words[1]),
            sent: u64::from_le_bytes(words[2]),
            acknowledged: u64::from_le_bytes(words[3]),
            rmac,
        }
    }
}

/// Appends the MAC to a message that was encoded without it, and returns the whole length
pub fn append_mac(out: &mut [u8], len: usize, mac: &MacBytes) -> usize {
    let mut w = Writer { out, len };
    w.field(mac);
    w.len
}

/// What the coordinator may answer before it knows the peer: it may delay, never stop (AUTH-2)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Come back after this many microseconds (BACK-2)
    RetryAfter(u64),
    /// This handshake leads nowhere
    Reject(RejectCode),
}

/// Why a handshake leads nowhere; advice for people, proof of nothing
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectCode {
    /// The first message could not be read
    Malformed,
    /// No such key, or it belongs to another name or role
    UnknownKey,
    /// No common wire version
    Version,
    /// The coordinator wants the handshake to be bound to TLS, and it cannot be (AUTH-7)
    Unbound,
    /// The coordinator is not to be reached by the URL that was dialled (AUTH-7)
    Audience,
}

impl Refusal {
    /// Writes the message and returns its length
    pub fn encode(&self, out: &mut [u8]) -> usize {
        match self {
            Refusal::RetryAfter(micros) => {
                let mut w = Writer::new(out, KIND_RETRY_AFTER);
                w.field(&micros.to_le_bytes());
                w.len
            }
            Refusal::Reject(code) => {
                let mut w = Writer::new(out, KIND_REJECT);
                w.field(&[match code {
                    RejectCode::Malformed => 0,
                    RejectCode::UnknownKey => 1,
                    RejectCode::Version => 2,
                    RejectCode::Unbound => 3,
                    RejectCode::Audience => 4,
                }]);
                w.len
            }
        }
    }

    /// Reads the message; `None` if it is neither of the two
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if let Some(mut r) = Reader::new(bytes, KIND_RETRY_AFTER) {
            let micros = r.number()?;
            return r.end(Refusal::RetryAfter(micros));
        }
        let mut r = Reader::new(bytes, KIND_REJECT)?;
        let code = match r.array::<1>()? {
            [0] => RejectCode::Malformed,
            [1] => RejectCode::UnknownKey,
            [2] => RejectCode::Version,
            [3] => RejectCode::Unbound,
            [4] => RejectCode::Audience,
            _ => return None,
        };
        r.end(Refusal::Reject(code))
    }
}

fn role_byte(role: Role) -> u8 {
    match role {
        Role::Worker => 0,
        Role::Client => 1,
    }
}

fn role_of(byte: u8) -> Option<Role> {
    match byte {
        0 => Some(Role::Worker),
        1 => Some(Role::Client),
        _ => None,
    }
}

struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl<'a> Writer<'a> {
    fn new(out: &'a mut [u8], kind: u8) -> Self {
        out[0] = kind;
        Writer { out, len: 1 }
    }

    fn field(&mut self, bytes: &[u8]) {
        let at = self.len + 2;
        self.out[self.len..at].copy_from_slice(&(bytes.len() as u16).to_le_bytes());
        self.out[at..at + bytes.len()].copy_from_slice(bytes);
        self.len = at + bytes.len();
    }
}

struct Reader<'a> {
    all: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn new(all: &'a [u8], kind: u8) -> Option<Self> {
        (all.len() <= HANDSHAKE_BYTES_MAX && all.first() == Some(&kind)).then_some(Reader { all, at: 1 })
    }

    fn field(&mut self) -> Option<&'a [u8]> {
        let len = self.all.get(self.at..self.at + 2)?;
        let start = self.at + 2;
        let end = start + usize::from(u16::from_le_bytes([len[0], len[1]]));
        let field = if planted::is(Bug::LengthTrusted) { &self.all[start..end] } else { self.all.get(start..end)? };
        self.at = end;
        Some(field)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.field()?.try_into().ok()
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn so_far(&self) -> &'a [u8] {
        &self.all[..self.at]
    }

    /// Nothing may follow the last field
    fn end<T>(self, value: T) -> Option<T> {
        (self.at == self.all.len()).then_some(value)
    }
}
