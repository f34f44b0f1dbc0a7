//! Connections that have not proved who they are (AUTH-1 to AUTH-7)
//!
//! Nothing here changes anything but counters and this table. It is bounded, and so is the time of each entry.

use crate::binding::{Binding, TLS_EXPORTER};
use crate::ids::{BootId, ClusterId, ConnId, KeyId, PeerName, SessionId};
use crate::limits::{
    BULK_WINDOW_BYTES, FRAME_BYTES_MAX, HANDSHAKE_TIME, PROOF_TIME, SESSION_UNACKED_MAX, WIRE_VERSION_OLDEST,
};
use crate::link::Reason;
use crate::outline::{Name, Outline};
use crate::time::Instant;
use crate::wire::codec::Codec;
use crate::wire::handshake::{CAPABILITY_LZ4, Challenge, Hello, Proof, Refusal, RejectCode, Resume, append_mac};
use crate::wire::keys::{NextKey, Proofs, Secret, Transcript, fingerprint};
use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use super::config::Config;
use super::peers::Roster;

/// What the door says of itself in M2
#[derive(Clone, Copy, Debug)]
pub(crate) struct Face<'a> {
    cluster: ClusterId,
    epoch: u64,
    wire_version: u16,
    compress: bool,
    binding: Binding,
    audiences: &'a [String],
}

impl<'a> Face<'a> {
    pub(crate) fn of(config: &'a Config) -> Self {
        let Config { cluster, epoch, wire_version, compress, binding, ref audiences, .. } = *config;
        Face { cluster, epoch, wire_version, compress, binding, audiences }
    }
}

/// A connection in front of the door
#[derive(Clone, Debug)]
struct Waiting {
    deadline: Instant,
    entropy: [u8; 32],
    /// What the handshake can be bound to (AUTH-7)
    binding: Option<[u8; 32]>,
    /// Let in only if it resumes an open session
    only_open: bool,
    challenged: Option<Box<Challenged>>,
}

#[derive(Clone, Debug)]
struct Challenged {
    proofs: Proofs,
    key: KeyId,
    boot: BootId,
    open: Option<SessionId>,
    version: u16,
    compress: bool,
    /// Which M1 this answers, and how, until it came a second time (AUTH-9)
    answered: Option<([u8; 32], Vec<u8>)>,
}

/// A peer that has proved who it is
#[derive(Clone, Debug)]
pub(crate) struct Verified {
    pub(crate) key: KeyId,
    pub(crate) boot: BootId,
    pub(crate) codec: Codec,
    pub(crate) version: u16,
    /// The key it used has been revoked: all it gets is a sealed refusal
    pub(crate) revoked: bool,
    /// The session it resumes, with a proof that is right
    pub(crate) resume: Option<Resume>,
    /// The session this handshake opens otherwise
    pub(crate) session: SessionId,
    pub(crate) resume_key: Secret,
    /// What its key may be replaced by (AUTH-6)
    pub(crate) next: NextKey,
}

/// Somebody says to have seen a higher epoch, which is not proven (JOURN-2)
#[derive(Debug)]
pub(crate) struct Newer {
    pub(crate) name: PeerName,
    pub(crate) epoch: u64,
}

/// What the door wants done after a message
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Send this and wait
    Answer(Vec<u8>, Option<Newer>),
    /// Send this, if anything, and close
    Refuse(Option<Vec<u8>>, Reason),
    /// Too many want to get in, and this one resumes nothing: send it away for a while (BACK-2)
    Later,
    /// Refuse for want of this key
    Unknown(Vec<u8>, KeyId),
    /// Let it in
    Enter(Box<Verified>),
}

/// The table of connections in front of the door
#[derive(Clone, Debug)]
pub(crate) struct Door {
    waiting: BTreeMap<ConnId, Waiting>,
    /// Those that did not name an open session; they get half the room
    strangers: BTreeSet<ConnId>,
    max: usize,
}

impl Door {
    pub(crate) fn new(max: usize) -> Self {
        Door { waiting: BTreeMap::new(), strangers: BTreeSet::new(), max }
    }

    /// Takes a connection in; returns one that has to go instead (AUTH-5)
    pub(crate) fn accept(
        &mut self,
        now: Instant,
        conn: ConnId,
        entropy: [u8; 32],
        binding: Option<[u8; 32]>,
        only_open: bool,
    ) -> Option<ConnId> {
        let deadline = now + HANDSHAKE_TIME;
        self.waiting.insert(conn, Waiting { deadline, entropy, binding, only_open, challenged: None });
        self.strangers.insert(conn);
        let crowded = if self.strangers.len() > self.max / 2 {
            self.strangers.first().copied()
        } else if self.waiting.len() > self.max {
            self.waiting.first_key_value().map(|(conn, _)| *conn)
        } else {
            None
        };
        crowded.filter(|conn| self.leave(*conn))
    }

    /// Whether this connection is in front of the door
    pub(crate) fn has(&self, conn: ConnId) -> bool {
        self.waiting.contains_key(&conn)
    }

    /// Forgets a connection; `false` if it is not here
    pub(crate) fn leave(&mut self, conn: ConnId) -> bool {
        self.strangers.remove(&conn);
        self.waiting.remove(&conn).is_some()
    }

    /// Forgets all, and returns who was there
    pub(crate) fn clear(&mut self) -> impl Iterator<Item = ConnId> + use<> {
        self.strangers.clear();
        core::mem::take(&mut self.waiting).into_keys()
    }

    /// When a connection must be through
    pub(crate) fn deadline(&self, conn: ConnId) -> Option<Instant> {
        self.waiting.get(&conn).map(|waiting| waiting.deadline)
    }

    /// Takes M1 or M3 in
    pub(crate) fn receive(
        &mut self,
        now: Instant,
        conn: ConnId,
        bytes: &[u8],
        face: Face<'_>,
        roster: &Roster,
    ) -> Verdict {
        let Some(waiting) = self.waiting.get_mut(&conn) else { return Verdict::Refuse(None, Reason::Timeout) };
        let verdict = match waiting.challenged.take() {
            None => waiting.hello(now, bytes, face, roster),
            Some(mut challenged) => match challenged.again(bytes) {
                Some(answer) => {
                    waiting.challenged = Some(challenged);
                    Verdict::Answer(answer, None)
                }
                None => challenged.proof(bytes, roster),
            },
        };
        match &verdict {
            Verdict::Answer(..) => {
                if waiting.challenged.as_ref().is_some_and(|c| c.open.is_some()) {
                    self.strangers.remove(&conn);
                }
            }
            Verdict::Refuse(..) | Verdict::Later | Verdict::Unknown(..) | Verdict::Enter(_) => {
                self.leave(conn);
            }
        }
        verdict
    }

    /// Takes in who waits, and whether for M1 or M3
    pub(crate) fn outline(&self, o: &mut Outline) {
        o.put(self.waiting.len());
        for (conn, waiting) in &self.waiting {
            o.name(Name::Conn(*conn));
            o.put((waiting.only_open, waiting.challenged.is_some()));
            o.name_if(waiting.challenged.as_ref().and_then(|challenged| challenged.open.map(Name::Session)));
        }
    }

    /// Panics if the table is larger than it may be (S17)
    pub(crate) fn check(&self) {
        assert!(self.waiting.len() <= self.max && self.strangers.len() <= self.max / 2);
        assert!(self.strangers.iter().all(|conn| self.waiting.contains_key(conn)));
    }
}

impl Waiting {
    fn hello(&mut self, now: Instant, bytes: &[u8], face: Face<'_>, roster: &Roster) -> Verdict {
        let reject_for = |code, reason| Verdict::Refuse(Some(encoded(Refusal::Reject(code))), reason);
        let reject = |code| reject_for(code, Reason::Rejected);
        let Some(hello) = Hello::decode(bytes) else { return reject(RejectCode::Malformed) };
        let spoken = WIRE_VERSION_OLDEST..=face.wire_version;
        let Some(version) = hello.versions.iter().copied().find(|version| spoken.contains(version)) else {
            return reject_for(RejectCode::Version, Reason::Version);
        };
        if !face.audiences.is_empty() && !face.audiences.iter().any(|audience| audience == hello.audience) {
            return reject_for(RejectCode::Audience, Reason::Audience);
        }
        let bound = self.binding.filter(|_| face.binding != Binding::Off && hello.binding == TLS_EXPORTER);
        if bound.is_none() && face.binding == Binding::Require {
            return reject_for(RejectCode::Unbound, Reason::Unbound);
        }
        let Some(key) = roster.key(hello.key, &hello.name, hello.role) else {
            return Verdict::Unknown(encoded(Refusal::Reject(RejectCode::UnknownKey)), hello.key);
        };
        let holder = roster.holder(hello.key, hello.boot).map(|ix| roster.get(ix));
        let session = hello.session.and_then(|id| holder?.session_named(id));
        let session = session.filter(|session| (session.boot, session.version) == (hello.boot, version));
        if session.is_none() && self.only_open {
            // Before anything is computed (AUTH-5).
            return Verdict::Later;
        }
        let capabilities = hello.capabilities & if face.compress { CAPABILITY_LZ4 } else { 0 };
        let challenge = Challenge {
            version,
            capabilities,
            binding: if bound.is_some() { TLS_EXPORTER } else { &[] },
            cluster: face.cluster,
            epoch: face.epoch,
            frame_bytes_max: FRAME_BYTES_MAX as u32,
            messages: session.map_or(SESSION_UNACKED_MAX as u64, |s| s.numbers.offered()),
            bulk: BULK_WINDOW_BYTES,
            open: session.map(|s| s.tellable),
            nonce: self.entropy,
        };
        let mut answer = alloc::vec![0; 512];
        let len = challenge.encode(&mut answer);
        let nonces = [&hello.nonce[..], &challenge.nonce[..]];
        let binding = bound.as_ref().map_or(&[][..], |value| value);
        let proofs = Transcript::start(bytes).challenge(&key.secret, nonces, &answer[..len], binding);
        let len = append_mac(&mut answer, len, &proofs.mac_c());
        answer.truncate(len);
        self.deadline = self.deadline.min(now + PROOF_TIME);
        self.challenged = Some(Box::new(Challenged {
            proofs,
            key: hello.key,
            boot: hello.boot,
            open: session.map(|s| s.numbers.id),
            version,
            compress: capabilities & CAPABILITY_LZ4 != 0,
            answered: Some((fingerprint(bytes), answer.clone())),
        }));
        let newer = (hello.epoch > face.epoch).then_some(Newer { name: hello.name, epoch: hello.epoch });
        Verdict::Answer(answer, newer)
    }
}

impl Challenged {
    /// The same answer to the same M1: the one that came with the upgrade may not have got through (AUTH-9)
    fn again(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let (hello, answer) = self.answered.take()?;
        (hello == fingerprint(bytes)).then_some(answer)
    }

    fn proof(&self, bytes: &[u8], roster: &Roster) -> Verdict {
        let Some((proof, signed, mac)) = Proof::decode(bytes) else {
            return Verdict::Refuse(None, Reason::NotAuthenticated);
        };
        if !self.proofs.mac_w_is(signed, &mac) {
            return Verdict::Refuse(None, Reason::NotAuthenticated);
        }
        let keys = self.proofs.keys(signed, &mac);
        let named = |r: &Resume| {
            let open = roster.get(roster.holder(self.key, self.boot)?).session_named(r.session)?;
            (self.open == Some(r.session) && self.proofs.rmac_is(&open.numbers.resume_key, &r.rmac)).then_some(*r)
        };
        Verdict::Enter(Box::new(Verified {
            key: self.key,
            boot: self.boot,
            codec: Codec::acceptor(&keys, self.compress),
            version: self.version,
            revoked: roster.is_revoked(self.key),
            resume: proof.resume.as_ref().and_then(named),
            session: keys.session,
            resume_key: keys.resume,
            next: keys.next,
        }))
    }
}

pub(super) fn encoded(refusal: Refusal) -> Vec<u8> {
    let mut answer = alloc::vec![0; 32];
    let len = refusal.encode(&mut answer);
    answer.truncate(len);
    answer
}
