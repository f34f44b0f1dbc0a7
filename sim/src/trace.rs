//! A fingerprint of all that happens, and, where it is asked for, what that was

use std::fmt;

use rejoin_core::Instant;

use crate::schedule::Node;

/// Something that happened, for those who look at it
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A machine's time had come
    Woken(Node),
    /// A message left an end
    Sent {
        /// From whom
        from: Node,
        /// To whom
        to: Node,
        /// On which connection
        conn: u64,
        /// Its bytes
        bytes: usize,
    },
    /// A message reached an end
    Received {
        /// By whom
        by: Node,
        /// From whom
        from: Node,
        /// On which connection
        conn: u64,
        /// Its bytes
        bytes: usize,
    },
    /// Anything else, in words
    Note(Node, String),
    /// A fault, in words
    Fault(Node, String),
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Told::Woken(node) => write!(f, "{node}: time has come"),
            Told::Sent { from, to, conn, bytes } => write!(f, "{from} -> {to}: {bytes} bytes on {conn}"),
            Told::Received { by, from, conn, bytes } => write!(f, "{by} <- {from}: {bytes} bytes on {conn}"),
            Told::Note(node, what) | Told::Fault(node, what) => write!(f, "{node}: {what}"),
        }
    }
}

/// The rolling fingerprint (S29)
///
/// Everything that enters or leaves a machine goes into it, with its time: two runs with the same one were the same.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    hash: u64,
    recording: bool,
    steps: Vec<(Instant, u64, Told)>,
}

impl Trace {
    pub(crate) fn record(&mut self) {
        self.recording = true;
    }

    /// Takes something in without words
    pub(crate) fn mix(&mut self, value: u64) {
        self.hash = (self.hash.rotate_left(23) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    pub(crate) fn mix_bytes(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let mut eight = [0; 8];
            eight.copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(eight));
        }
        chunks.remainder().iter().for_each(|byte| self.mix(u64::from(*byte)));
    }

    /// Takes something in that has words
    pub(crate) fn note(&mut self, at: Instant, told: Told) {
        self.mix(at.as_micros());
        self.mix(match &told {
            Told::Woken(_) => 1,
            Told::Sent { conn, bytes, .. } => 2 ^ conn << 8 ^ (*bytes as u64) << 32,
            Told::Received { conn, bytes, .. } => 3 ^ conn << 8 ^ (*bytes as u64) << 32,
            Told::Note(..) => 4,
            Told::Fault(..) => 5,
        });
        if self.recording {
            self.steps.push((at, self.hash, told));
        }
    }

    /// The same, with words that are only made where somebody wants them
    pub(crate) fn note_with(&mut self, at: Instant, node: Node, what: impl FnOnce() -> String) {
        if self.recording {
            self.note(at, Told::Note(node, what()));
        } else {
            self.note(at, Told::Note(node, String::new()));
        }
    }

    /// The fingerprint of all so far
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// What was recorded: when, the fingerprint behind it, and what it was
    pub fn steps(&self) -> &[(Instant, u64, Told)] {
        &self.steps
    }
}
