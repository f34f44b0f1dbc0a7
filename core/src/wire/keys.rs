//! Keys and the key schedule of the handshake (AUTH-1)

use core::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::ids::{KeyId, PeerName, Role, SessionId};

/// 32 secret bytes: wiped when dropped, never printed
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(crate) [u8; 32]);

impl Secret {
    /// Takes over secret bytes; they must come from a cryptographic source
    pub const fn new(bytes: [u8; 32]) -> Self {
        Secret(bytes)
    }

    /// The secret itself, for whoever keeps it where only its owner can read it
    pub const fn reveal(&self) -> &[u8; 32] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// One peer's long-term key: it belongs to one name and one role (AUTH-6)
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The public name of the key, sent in the clear
    pub id: KeyId,
    /// What both sides must know
    pub secret: Secret,
    /// The only peer that may use it
    pub name: PeerName,
    /// What that peer may do
    pub role: Role,
}

/// A MAC over a whole message, or a tag before it is cut to length
pub(crate) type MacBytes = [u8; 32];

/// Computes HMAC-SHA256
pub(crate) fn mac(key: &Secret, parts: &[&[u8]]) -> MacBytes {
    keyed(key, parts).finalize().into_bytes().into()
}

/// Compares in constant time
pub(crate) fn mac_is(key: &Secret, parts: &[&[u8]], claimed: &[u8]) -> bool {
    keyed(key, parts).verify_slice(claimed).is_ok()
}

fn keyed(key: &Secret, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = hmac(key);
    parts.iter().for_each(|part| mac.update(part));
    mac
}

/// The keyed state that frame tags start from; cloning it saves hashing the key again
pub(crate) fn hmac(key: &Secret) -> Hmac<Sha256> {
    match <Hmac<Sha256> as KeyInit>::new_from_slice(&key.0) {
        Ok(mac) => mac,
        Err(_) => unreachable!("HMAC takes keys of any length"),
    }
}

/// Tells messages apart without keeping them
pub(crate) fn fingerprint(message: &[u8]) -> [u8; 32] {
    Sha256::digest(message).into()
}

/// What both sides have said so far, and the keys that follow from it
///
/// Both ends feed it the exact bytes of M1, M2 and M3; any difference gives different MACs and keys.
#[derive(Clone)]
pub(crate) struct Transcript {
    hash: Sha256,
}

impl Transcript {
    /// Starts with the exact bytes of M1
    pub(crate) fn start(hello: &[u8]) -> Self {
        let mut transcript = Transcript { hash: Sha256::new() };
        transcript.add(b"rejoin transcript 2");
        transcript.add(hello);
        transcript
    }

    /// Adds M2 without its MAC and the binding value, and derives what M2 and M3 are proved with
    pub(crate) fn challenge(mut self, key: &Secret, nonces: [&[u8]; 2], challenge: &[u8], binding: &[u8]) -> Proofs {
        self.add(challenge);
        self.add(binding);
        let t2 = self.hash.finalize().into();
        let mut salt = [0; 64];
        salt[..32].copy_from_slice(nonces[0]);
        salt[32..].copy_from_slice(nonces[1]);
        Proofs { prk: Hkdf::new(Some(&salt), &key.0), t2 }
    }

    fn add(&mut self, bytes: &[u8]) {
        add(&mut self.hash, bytes);
    }
}

/// The state of the handshake once M2 is fixed
#[derive(Clone)]
pub(crate) struct Proofs {
    prk: Hkdf<Sha256>,
    t2: [u8; 32],
}

impl Proofs {
    /// The coordinator's proof, the last field of M2
    pub(crate) fn mac_c(&self) -> MacBytes {
        mac(&self.expand(b"rejoin c fin", &[]), &[&self.t2])
    }

    /// Checks the coordinator's proof in constant time
    pub(crate) fn mac_c_is(&self, claimed: &[u8]) -> bool {
        mac_is(&self.expand(b"rejoin c fin", &[]), &[&self.t2], claimed)
    }

    /// The proof that a session is being resumed by its owner
    pub(crate) fn rmac(&self, resume: &Secret) -> MacBytes {
        mac(resume, &[b"rejoin resume", &self.t2])
    }

    /// Checks the resume proof in constant time
    pub(crate) fn rmac_is(&self, resume: &Secret, claimed: &[u8]) -> bool {
        mac_is(resume, &[b"rejoin resume", &self.t2], claimed)
    }

    /// The worker's proof, the last field of M3, over M3 without it
    pub(crate) fn mac_w(&self, proof: &[u8]) -> MacBytes {
        mac(&self.expand(b"rejoin w fin", &[]), &[&self.t3(proof)])
    }

    /// Checks the worker's proof in constant time
    pub(crate) fn mac_w_is(&self, proof: &[u8], claimed: &[u8]) -> bool {
        mac_is(&self.expand(b"rejoin w fin", &[]), &[&self.t3(proof)], claimed)
    }

    /// The keys of this connection, and of the session if this handshake opens one
    pub(crate) fn keys(&self, proof: &[u8], mac_w: &[u8]) -> ConnectionKeys {
        let mut hash = Sha256::new();
        add(&mut hash, b"rejoin transcript 4");
        add(&mut hash, &self.t3(proof));
        add(&mut hash, mac_w);
        let t4: [u8; 32] = hash.finalize().into();
        let mut session = [0; 16];
        session.copy_from_slice(&self.expand(b"rejoin session", &t4).0[..16]);
        ConnectionKeys {
            to_coordinator: self.expand(b"rejoin w2c", &t4),
            to_peer: self.expand(b"rejoin c2w", &t4),
            session: SessionId(session),
            resume: self.expand(b"rejoin resume key", &t4),
            next: self.next_key(&t4),
        }
    }

    /// What the peer's key may be replaced by: nothing of it ever travels (AUTH-6)
    fn next_key(&self, t4: &[u8; 32]) -> NextKey {
        let mut id = [0; 8];
        id.copy_from_slice(&self.expand(b"rejoin next key id", t4).0[..8]);
        NextKey { id: KeyId(id), secret: self.expand(b"rejoin next key", t4) }
    }

    fn t3(&self, proof: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new();
        add(&mut hash, b"rejoin transcript 3");
        add(&mut hash, &self.t2);
        add(&mut hash, &self.mac_c());
        add(&mut hash, proof);
        hash.finalize().into()
    }

    fn expand(&self, label: &[u8], context: &[u8]) -> Secret {
        let mut secret = Secret([0; 32]);
        let fits = self.prk.expand_multi_info(&[label, context], &mut secret.0).is_ok();
        debug_assert!(fits, "32 bytes are far below what HKDF can give");
        secret
    }
}

impl fmt::Debug for Proofs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proofs(secret)")
    }
}

/// What a finished handshake yields
#[derive(Clone, Debug)]
pub(crate) struct ConnectionKeys {
    pub(crate) to_coordinator: Secret,
    pub(crate) to_peer: Secret,
    pub(crate) session: SessionId,
    pub(crate) resume: Secret,
    pub(crate) next: NextKey,
}

/// The key that a connection's handshake leads to, which both ends know and nobody else (AUTH-6)
#[derive(Clone, Debug)]
pub(crate) struct NextKey {
    pub(crate) id: KeyId,
    secret: Secret,
}

impl NextKey {
    /// The same as the key of that peer
    pub(crate) fn of(&self, name: &PeerName, role: Role) -> Key {
        Key { id: self.id, secret: self.secret.clone(), name: name.clone(), role }
    }
}

/// Hashes a field behind its length, so that no two lists of fields hash alike
fn add(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u32).to_le_bytes());
    hash.update(bytes);
}
