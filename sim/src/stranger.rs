//! Wire format 1 as a stranger writes it who has nothing but its description: key schedule and seals
//!
//! It shares no code with the core. What it derives from the bytes on the wire must open what the core has sealed,
//! and what it seals the core must open, so that neither can change alone.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

const HEADER_BYTES: usize = 4;
const TAG_BYTES: usize = 16;
/// A field of 32 bytes behind its length
const LAST_FIELD_BYTES: usize = 34;

/// Everything that follows from a key and the messages of one handshake
#[derive(Clone, Debug)]
pub struct Schedule {
    /// Hash of M1, M2 without its MAC, and the channel binding
    pub t2: [u8; 32],
    /// HKDF-Extract of the key, salted with both nonces
    pub prk: [u8; 32],
    /// Key of the coordinator's proof
    pub coordinator_proof: [u8; 32],
    /// The coordinator's proof, last field of M2
    pub mac_c: [u8; 32],
    /// Hash of all that and M3 without its MAC
    pub t3: [u8; 32],
    /// Key of the peer's proof
    pub peer_proof: [u8; 32],
    /// The peer's proof, last field of M3
    pub mac_w: [u8; 32],
    /// Hash of the whole handshake
    pub t4: [u8; 32],
    /// Key of frames to the coordinator
    pub to_coordinator: [u8; 32],
    /// Key of frames to the peer
    pub to_peer: [u8; 32],
    /// Id of the session that this handshake opens, unless it resumes one
    pub session: [u8; 16],
    /// Key with which the peer proves later that it owns that session
    pub resume_key: [u8; 32],
}

impl Schedule {
    /// Follows a handshake from its first three messages; panics if they are too short to be any
    pub fn follow(secret: &[u8; 32], m1: &[u8], m2: &[u8], m3: &[u8]) -> Self {
        let signed_m2 = &m2[..m2.len() - LAST_FIELD_BYTES];
        let signed_m3 = &m3[..m3.len() - LAST_FIELD_BYTES];
        // The nonces are the last fields of M1 and of M2 without its MAC.
        let salt = [&m1[m1.len() - 32..], &signed_m2[signed_m2.len() - 32..]].concat();
        let t2 = hash(&[b"rejoin transcript 2", m1, signed_m2, b""]);
        let prk = hmac(&salt, &[secret]);
        let coordinator_proof = expand(&prk, b"rejoin c fin", b"");
        let mac_c = hmac(&coordinator_proof, &[&t2]);
        let t3 = hash(&[b"rejoin transcript 3", &t2, &mac_c, signed_m3]);
        let peer_proof = expand(&prk, b"rejoin w fin", b"");
        let mac_w = hmac(&peer_proof, &[&t3]);
        let t4 = hash(&[b"rejoin transcript 4", &t3, &mac_w]);
        let mut session = [0; 16];
        session.copy_from_slice(&expand(&prk, b"rejoin session", &t4)[..16]);
        Schedule {
            t2,
            prk,
            coordinator_proof,
            mac_c,
            t3,
            peer_proof,
            mac_w,
            t4,
            to_coordinator: expand(&prk, b"rejoin w2c", &t4),
            to_peer: expand(&prk, b"rejoin c2w", &t4),
            session,
            resume_key: expand(&prk, b"rejoin resume key", &t4),
        }
    }

    /// The proof in this handshake that a session belongs to its peer
    pub fn rmac(&self, resume_key: &[u8; 32]) -> [u8; 32] {
        hmac(resume_key, &[b"rejoin resume", &self.t2])
    }
}

/// One direction of a connection
#[derive(Clone, Debug)]
pub struct Seal {
    key: [u8; 32],
    counter: u64,
}

impl Seal {
    /// Starts a direction, before its first frame
    pub fn new(key: [u8; 32]) -> Self {
        Seal { key, counter: 0 }
    }

    /// Seals a body as the next frame, uncompressed
    pub fn seal(&mut self, body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u16).to_le_bytes();
        self.seal_as([1, 0, len[0], len[1]], body)
    }

    /// Seals a body as the next frame, behind a header that may say anything
    pub(crate) fn seal_as(&mut self, header: [u8; 4], body: &[u8]) -> Vec<u8> {
        let mut frame = [&header[..], body].concat();
        let tag = self.tag(&frame);
        frame.extend_from_slice(&tag[..TAG_BYTES]);
        frame
    }

    /// Opens the next frame; `None` if it was not sealed with this key at this place, or breaks the rules
    pub fn open(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let (signed, tag) = frame.split_at_checked(frame.len().checked_sub(TAG_BYTES)?)?;
        if self.tag(signed)[..TAG_BYTES] != *tag {
            return None;
        }
        let (header, body) = signed.split_at_checked(HEADER_BYTES)?;
        let len = usize::from(u16::from_le_bytes([header[2], header[3]]));
        let body = match header[..2] {
            [1, 0] => body.into(),
            [1, 1] => {
                let mut full = vec![0; len];
                let full_len = lz4_flex::block::decompress_into(body, &mut full).ok()?;
                full.truncate(full_len);
                full
            }
            _ => return None,
        };
        (body.len() == len).then_some(body)
    }

    fn tag(&mut self, signed: &[u8]) -> [u8; 32] {
        let tag = hmac(&self.key, &[&self.counter.to_le_bytes(), signed]);
        self.counter += 1;
        tag
    }
}

/// Hashes each field behind its length
fn hash(fields: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for field in fields {
        hash.update((field.len() as u32).to_le_bytes());
        hash.update(field);
    }
    hash.finalize().into()
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// HKDF-Expand to 32 bytes, which is one block
fn expand(prk: &[u8; 32], label: &[u8], context: &[u8]) -> [u8; 32] {
    hmac(prk, &[label, context, &[1]])
}
