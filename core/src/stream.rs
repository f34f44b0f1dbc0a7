//! Output as resumable streams: what was sent, what is kept, and where to go on (LOG-1)

use sha2::{Digest, Sha256};

use crate::wire::message::StreamEnd;

/// The sending end of one stream; the bytes themselves stay with the embedder
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    available: u64,
    sent: u64,
    acknowledged: u64,
    hashed: u64,
    hash: Sha256,
    /// The digest of the whole stream, where an earlier life has made it
    whole: Option<[u8; 32]>,
}

impl Outgoing {
    pub(crate) fn new() -> Self {
        Outgoing { available: 0, sent: 0, acknowledged: 0, hashed: 0, hash: Sha256::new(), whole: None }
    }

    /// A stream that is complete, of which an earlier life may have sent anything (SESS-9)
    pub(crate) fn restored(end: StreamEnd) -> Self {
        Outgoing { available: end.len, hashed: end.len, whole: Some(end.sha256), ..Outgoing::new() }
    }

    /// The stream has this many bytes by now
    pub(crate) fn grow(&mut self, available: u64) {
        self.available = self.available.max(available);
    }

    /// Whether the peer keeps all there is
    pub(crate) fn is_taken(&self) -> bool {
        self.acknowledged >= self.available
    }

    /// Where to go on, and how many bytes there are
    pub(crate) fn unsent(&self) -> Option<(u64, u64)> {
        (self.sent < self.available).then(|| (self.sent, self.available - self.sent))
    }

    /// A piece went out; hashes what was not hashed before
    pub(crate) fn sent(&mut self, offset: u64, bytes: &[u8]) {
        debug_assert_eq!(offset, self.sent);
        self.sent = offset + bytes.len() as u64;
        if self.sent > self.hashed {
            let new = (self.sent - self.hashed) as usize;
            self.hash.update(&bytes[bytes.len() - new..]);
            self.hashed = self.sent;
        }
    }

    /// The peer keeps everything below `offset`; more than was ever sent is a breach
    pub(crate) fn acknowledge(&mut self, offset: u64) -> bool {
        if offset > self.hashed {
            return false;
        }
        self.acknowledged = self.acknowledged.max(offset);
        self.sent = self.sent.max(self.acknowledged);
        true
    }

    /// The peer says where to go on, whatever it had acknowledged; at most [`Self::known`]
    pub(crate) fn go_on_at(&mut self, offset: u64) {
        debug_assert!(offset <= self.hashed);
        self.acknowledged = offset;
        self.sent = offset;
    }

    /// How much of it was ever sent
    pub(crate) fn known(&self) -> u64 {
        self.hashed
    }

    /// On a new connection: go on behind what the peer keeps
    pub(crate) fn rewind(&mut self) {
        self.sent = self.acknowledged;
    }

    /// Length and digest of the whole stream, which must have been sent at least once
    pub(crate) fn end(&self) -> StreamEnd {
        debug_assert_eq!(self.hashed, self.available);
        match self.whole {
            Some(sha256) => StreamEnd { len: self.hashed, sha256 },
            None => end(self.hashed, &self.hash),
        }
    }
}

/// Length and digest of a stream whose bytes come one after the other
#[derive(Clone, Debug, Default)]
pub struct StreamMeter {
    len: u64,
    hash: Sha256,
}

impl StreamMeter {
    /// A stream of nothing so far
    pub fn new() -> Self {
        StreamMeter::default()
    }

    /// Takes the next bytes in
    pub fn update(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.len += bytes.len() as u64;
    }

    /// What a result says of the stream, if there are no more bytes (LOG-1)
    pub fn end(&self) -> StreamEnd {
        end(self.len, &self.hash)
    }
}

/// The receiving end of one stream
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    received: u64,
    kept: u64,
    hash: Sha256,
}

/// What a piece that arrived means
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Piece<'a> {
    /// The bytes that are new, possibly without a part that was known
    New(&'a [u8]),
    /// Nothing new
    Known,
    /// Bytes in between are missing, which no network can do
    Gap,
}

impl Incoming {
    pub(crate) fn new() -> Self {
        Incoming { received: 0, kept: 0, hash: Sha256::new() }
    }

    /// Takes a piece in
    pub(crate) fn arrive<'a>(&mut self, offset: u64, bytes: &'a [u8]) -> Piece<'a> {
        if offset > self.received {
            return Piece::Gap;
        }
        let known = self.received - offset;
        let new = usize::try_from(known).ok().and_then(|known| bytes.get(known..)).unwrap_or(&[]);
        if new.is_empty() {
            return Piece::Known;
        }
        self.hash.update(new);
        self.received += new.len() as u64;
        Piece::New(new)
    }

    /// Bytes that have arrived
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Everything below `offset` is durable
    pub(crate) fn keep(&mut self, offset: u64) {
        debug_assert!(offset <= self.received);
        self.kept = self.kept.max(offset);
    }

    /// Bytes that are durable
    pub(crate) fn kept(&self) -> u64 {
        self.kept
    }

    /// Length and digest of what has arrived
    pub(crate) fn end(&self) -> StreamEnd {
        end(self.received, &self.hash)
    }
}

fn end(len: u64, hash: &Sha256) -> StreamEnd {
    if len == 0 {
        return StreamEnd::default();
    }
    StreamEnd { len, sha256: hash.clone().finalize().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_1_a_stream_cut_anywhere_arrives_whole_and_both_ends_agree_on_its_digest() {
        let text: alloc::vec::Vec<u8> = (0..1000u32).map(|n| (n * 7) as u8).collect();
        for cut in 0..200 {
            let mut out = Outgoing::new();
            let mut inc = Incoming::new();
            let mut kept = alloc::vec::Vec::new();
            out.grow(1000);
            for round in 0..200 {
                let Some((offset, len)) = out.unsent() else { break };
                let piece = &text[offset as usize..(offset + len.min(9)) as usize];
                out.sent(offset, piece);
                if round == cut {
                    // The piece is lost with the connection.
                    inc.keep(inc.received());
                    assert!(out.acknowledge(inc.kept().saturating_sub(cut % 30)));
                    out.rewind();
                    continue;
                }
                match inc.arrive(offset, piece) {
                    Piece::New(new) => kept.extend_from_slice(new),
                    Piece::Known => {}
                    Piece::Gap => unreachable!("ordered"),
                }
            }
            assert_eq!(kept, text);
            assert_eq!((out.unsent(), out.end()), (None, inc.end()));
        }
    }

    #[test]
    fn log_1_gaps_and_acknowledgements_of_the_unsent_are_refused() {
        let mut inc = Incoming::new();
        assert_eq!(inc.arrive(1, b"x"), Piece::Gap);
        assert_eq!(inc.arrive(0, b"ab"), Piece::New(b"ab"));
        assert_eq!(inc.arrive(0, b"ab"), Piece::Known);
        assert_eq!(inc.arrive(1, b"bc"), Piece::New(b"c"));
        let mut out = Outgoing::new();
        out.grow(10);
        assert!(!out.acknowledge(1));
        assert_eq!(out.unsent(), Some((0, 10)));
        assert_eq!(Outgoing::new().end(), StreamEnd::default(), "an empty stream is complete");
    }
}
