//! Blobs: bytes too large for a message, sent in chunks that are named by their content (CKPT-1)
//!
//! The offer names all chunks, the answer those that are missing, and these come one after the other, in pieces. A chunk
//! counts once it is there as a whole and its content has its name; what a cut leaves of one comes again.

use core::ops::Range;

use sha2::{Digest, Sha256};

use crate::channel::Violation;
use crate::limits::{CHUNK_BYTES, CHUNKS_MAX};

/// The number under which chunks are asked for that are no checkpoint's: those of what an attempt returned
///
/// Checkpoints are counted from 1.
pub const RESULT: u64 = 0;

/// The number under which a worker is sent chunks that are no checkpoint's: those of its task's input
///
/// What travels the other way under the same number is a [`RESULT`].
pub const INPUT: u64 = 0;

/// SHA-256 of a chunk's content
pub type ChunkName = [u8; 32];

/// Returns how many bytes each chunk of a blob of this length has, but for the last
///
/// 64 KiB, doubled until there are at most [`CHUNKS_MAX`].
pub fn chunk_bytes(length: u64) -> u64 {
    let mut bytes = CHUNK_BYTES;
    while length.div_ceil(bytes) > CHUNKS_MAX as u64 {
        bytes *= 2;
    }
    bytes
}

/// Returns how many chunks a blob of this length has
pub fn chunks(length: u64) -> usize {
    length.div_ceil(chunk_bytes(length)) as usize
}

/// Returns where a chunk stands in a blob of this length
pub fn chunk_span(length: u64, chunk: usize) -> Range<u64> {
    let bytes = chunk_bytes(length);
    let start = chunk as u64 * bytes;
    start..length.min(start + bytes)
}

/// Returns the name of a chunk with this content
pub fn chunk_name(content: &[u8]) -> ChunkName {
    Sha256::digest(content).into()
}

/// Reads the names of an offer; `None` unless there is one for each chunk
pub(crate) fn names_of(length: u64, bytes: &[u8]) -> Option<&[ChunkName]> {
    let (names, []) = bytes.as_chunks::<32>() else { return None };
    // The length is anybody's claim: nothing is computed with one that could not be right.
    let plausible = (1..=u64::MAX / 4).contains(&length) && names.len() <= CHUNKS_MAX;
    (plausible && names.len() == chunks(length)).then_some(names)
}

/// Some chunks of a blob
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ChunkSet([u64; CHUNKS_MAX / 64]);

impl ChunkSet {
    /// Bytes of the largest set on the wire
    pub(crate) const BYTES_MAX: usize = CHUNKS_MAX / 8;

    pub(crate) fn insert(&mut self, chunk: usize) {
        self.0[chunk / 64] |= 1 << (chunk % 64);
    }

    pub(crate) fn remove(&mut self, chunk: usize) {
        self.0[chunk / 64] &= !(1 << (chunk % 64));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0 == [0; CHUNKS_MAX / 64]
    }

    /// The first of them
    pub(crate) fn first(&self) -> Option<usize> {
        let word = self.0.iter().position(|word| *word != 0)?;
        Some(word * 64 + self.0[word].trailing_zeros() as usize)
    }

    /// As they are written: a bit for each of so many chunks, lowest first
    pub(crate) fn bytes(&self, chunks: usize) -> heapless::Vec<u8, { ChunkSet::BYTES_MAX }> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).take(chunks.div_ceil(8)).collect()
    }

    /// Reads a set of so many chunks; `None` if it has another length, or bits for others
    pub(crate) fn read(bytes: &[u8], chunks: usize) -> Option<ChunkSet> {
        if bytes.len() != chunks.div_ceil(8) || chunks > CHUNKS_MAX {
            return None;
        }
        let mut set = ChunkSet::default();
        for (place, byte) in bytes.iter().enumerate() {
            set.0[place / 8] |= u64::from(*byte) << (place % 8 * 8);
        }
        let beyond = (chunks..bytes.len() * 8).any(|chunk| set.has(chunk));
        (!beyond).then_some(set)
    }

    pub(crate) fn has(&self, chunk: usize) -> bool {
        self.0.get(chunk / 64).is_some_and(|word| word >> (chunk % 64) & 1 == 1)
    }
}

/// The sending end of one blob; the bytes themselves stay with the embedder
#[derive(Clone, Debug, Default)]
pub(crate) struct Sending {
    length: u64,
    wanted: ChunkSet,
    /// How much of the first chunk wanted has been sent
    done: u64,
}

impl Sending {
    pub(crate) fn new(length: u64) -> Self {
        Sending { length, ..Sending::default() }
    }

    /// On a new connection: nothing is sent before it is wanted there
    pub(crate) fn rewind(&mut self) {
        (self.wanted, self.done) = (ChunkSet::default(), 0);
    }

    /// The other end says what it lacks
    pub(crate) fn need(&mut self, wanted: &[u8]) -> Result<(), Violation> {
        self.wanted = ChunkSet::read(wanted, chunks(self.length)).ok_or(Violation)?;
        self.done = 0;
        Ok(())
    }

    /// Where the next piece starts, and how long it is: never beyond the end of a chunk
    pub(crate) fn next(&self, max: u64) -> Option<(u64, u64)> {
        let span = chunk_span(self.length, self.wanted.first()?);
        let offset = span.start + self.done;
        Some((offset, max.min(span.end - offset)))
    }

    /// A piece was sent
    pub(crate) fn sent(&mut self, bytes: u64) {
        let Some(chunk) = self.wanted.first() else { return };
        let span = chunk_span(self.length, chunk);
        self.done += bytes;
        if span.start + self.done >= span.end {
            self.wanted.remove(chunk);
            self.done = 0;
        }
    }
}

/// The receiving end of one blob
#[derive(Clone, Debug)]
pub(crate) struct Receiving {
    length: u64,
    missing: ChunkSet,
    /// How much of the first chunk missing has come, and its content so far
    done: u64,
    hash: Sha256,
}

/// What a piece makes whole
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    pub(crate) chunk: usize,
    pub(crate) name: ChunkName,
}

impl Receiving {
    pub(crate) fn new(length: u64, missing: ChunkSet) -> Self {
        Receiving { length, missing, done: 0, hash: Sha256::new() }
    }

    /// On a new connection: what has come of a chunk comes again
    pub(crate) fn rewind(&mut self) {
        self.done = 0;
        self.hash = Sha256::new();
    }

    /// Which chunks have not come
    pub(crate) fn missing(&self) -> &ChunkSet {
        &self.missing
    }

    /// Where the chunk begins that comes next
    pub(crate) fn chunk_begins(&self) -> Option<u64> {
        self.missing.first().map(|chunk| chunk_span(self.length, chunk).start)
    }

    /// How much has come of the chunk that comes next
    pub(crate) fn done(&self) -> u64 {
        self.done
    }

    /// Takes the next piece in; a chunk that it makes whole is missing no more, whatever its content
    pub(crate) fn arrive(&mut self, offset: u64, bytes: &[u8]) -> Result<Option<Whole>, Violation> {
        let chunk = self.missing.first().ok_or(Violation)?;
        let span = chunk_span(self.length, chunk);
        if bytes.is_empty() || offset != span.start + self.done || span.end - offset < bytes.len() as u64 {
            return Err(Violation);
        }
        self.hash.update(bytes);
        self.done += bytes.len() as u64;
        if span.start + self.done < span.end {
            return Ok(None);
        }
        self.missing.remove(chunk);
        self.done = 0;
        let name = core::mem::take(&mut self.hash).finalize().into();
        Ok(Some(Whole { chunk, name }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ckpt_1_chunks_have_64_kib_until_there_are_too_many() {
        assert_eq!((chunk_bytes(1), chunks(1)), (65_536, 1));
        assert_eq!((chunk_bytes(64 << 20), chunks(64 << 20)), (65_536, 1024));
        assert_eq!((chunk_bytes((64 << 20) + 1), chunks((64 << 20) + 1)), (131_072, 513));
        assert_eq!(chunk_span(70_000, 0), 0..65_536);
        assert_eq!(chunk_span(70_000, 1), 65_536..70_000);
    }

    #[test]
    fn ckpt_1_an_offer_names_each_chunk() {
        assert_eq!(names_of(65_537, &[7; 64]).map(<[_]>::len), Some(2));
        for (length, bytes) in [(65_537, 32), (65_537, 63), (65_537, 96), (0, 0), (u64::MAX, 32), (u64::MAX / 4, 32)] {
            assert_eq!(names_of(length, &[7; 96][..bytes]), None, "{length} in {bytes}");
        }
    }

    #[test]
    fn sets_of_chunks_have_one_form_on_the_wire() {
        let mut set = ChunkSet::default();
        [0, 9, 70].into_iter().for_each(|chunk| set.insert(chunk));
        let bytes = set.bytes(71);
        assert_eq!(&bytes[..], [1, 2, 0, 0, 0, 0, 0, 0, 64]);
        assert_eq!(ChunkSet::read(&bytes, 71), Some(set));
        assert_eq!(ChunkSet::read(&bytes, 70), None, "a bit for a chunk that is none");
        assert_eq!(ChunkSet::read(&bytes, 73), None, "another length");
        assert_eq!(ChunkSet::read(&[255; 128], 1024).and_then(|all| all.first()), Some(0));
        assert_eq!(ChunkSet::read(&[0; 200], 1024), None);
    }

    #[test]
    fn ckpt_1_after_any_cut_only_what_is_not_there_as_a_whole_comes_again() {
        let blob: alloc::vec::Vec<u8> = (0..200_000u32).map(|n| (n * 7 + n / 251) as u8).collect();
        let length = blob.len() as u64;
        for cut in 0..40 {
            let mut there = [false; 4];
            let mut all = ChunkSet::default();
            (0..4).for_each(|chunk| all.insert(chunk));
            let (mut sending, mut receiving) = (Sending::new(length), Receiving::new(length, all));
            assert_eq!(sending.next(9000), None, "nothing is sent before it is wanted");
            sending.need(&receiving.missing().bytes(4)).unwrap();
            let mut pieces = 0;
            while let Some((offset, len)) = sending.next(9000) {
                sending.sent(len);
                pieces += 1;
                if pieces == cut {
                    sending.rewind();
                    receiving.rewind();
                    sending.need(&receiving.missing().bytes(4)).unwrap();
                    continue;
                }
                let bytes = &blob[offset as usize..(offset + len) as usize];
                if let Some(whole) = receiving.arrive(offset, bytes).unwrap() {
                    let span = chunk_span(length, whole.chunk);
                    assert_eq!(whole.name, chunk_name(&blob[span.start as usize..span.end as usize]));
                    assert!(!core::mem::replace(&mut there[whole.chunk], true), "a whole chunk came again");
                }
            }
            assert_eq!((there, receiving.missing().is_empty()), ([true; 4], true));
            assert!(pieces <= 25 + 8, "{pieces}");
            assert_eq!(receiving.arrive(0, &blob[..10]), Err(Violation), "nothing is missing");
        }
        let mut receiving = Receiving::new(length, ChunkSet::read(&[8], 4).unwrap());
        assert_eq!(receiving.arrive(0, &blob[..10]), Err(Violation), "another chunk than the one missing");
        assert_eq!(receiving.arrive(196_608, &[0; 3393]), Err(Violation), "beyond the end of its chunk");
    }
}
