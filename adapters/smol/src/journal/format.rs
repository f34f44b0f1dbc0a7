//! What a group of records looks like on disk, and the bytes that stand beside them
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | `rjg1` |
//! | 8 | number of the group's first record, little endian |
//! | 4 | number of records, those that were left out included (JOURN-5) |
//! | n | each record behind its length in 4 bytes |
//! | 16 | first half of the SHA-256 of all of that |
//!
//! The database has checksums of its own, which it looks at only after a crash. These are looked at always, and say
//! which group is damaged.

use sha2::{Digest, Sha256};

const MAGIC: &[u8; 4] = b"rjg1";
const HEAD_BYTES: usize = 16;
const GROUP_SUM_BYTES: usize = 16;
/// What stands beside the log has a shorter sum
const PIECE_SUM_BYTES: usize = 8;

/// A group of records in the making
#[derive(Clone, Debug)]
pub(super) struct Group {
    bytes: Vec<u8>,
    first: u64,
    count: u32,
}

impl Group {
    /// Starts a group whose first record will have this number
    pub(super) fn new(first: u64) -> Self {
        let mut bytes = Vec::with_capacity(1024);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&first.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        Group { bytes, first, count: 0 }
    }

    pub(super) fn push(&mut self, record: &[u8]) {
        self.bytes.extend_from_slice(&(record.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(record);
        self.count += 1;
    }

    /// Records up to this number are in the group, or have been left out
    pub(super) fn end_at(&mut self, end: u64) {
        self.count = u32::try_from(end - self.first).unwrap_or(u32::MAX);
    }

    /// Bytes so far
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Number of the record behind the last one
    pub(super) fn end(&self) -> u64 {
        self.first + u64::from(self.count)
    }

    /// Returns the bytes to be kept
    pub(super) fn seal(mut self) -> Vec<u8> {
        self.bytes[12..HEAD_BYTES].copy_from_slice(&self.count.to_le_bytes());
        let sum = Sha256::digest(&self.bytes);
        self.bytes.extend_from_slice(&sum[..GROUP_SUM_BYTES]);
        self.bytes
    }
}

/// Opens a group, and returns how many records it has and an iterator over them; `None` if it is damaged
pub(super) fn open(first: u64, sealed: &[u8]) -> Option<(u64, Records<'_>)> {
    let (bytes, sum) = sealed.split_last_chunk::<GROUP_SUM_BYTES>()?;
    if Sha256::digest(bytes)[..GROUP_SUM_BYTES] != sum[..] {
        return None;
    }
    let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>()?;
    if head[..4] != MAGIC[..] || head[4..12] != first.to_le_bytes() {
        return None;
    }
    let count = u32::from_le_bytes(head[12..].try_into().ok()?);
    Some((u64::from(count), Records { rest }))
}

/// The records of a group
#[derive(Clone, Debug)]
pub(super) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.rest.split_first_chunk::<4>()?;
        let (record, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        self.rest = rest;
        Some(record)
    }
}

/// Bytes that stand beside the log, behind their sum
pub(super) fn seal_piece(head: &[u8], bytes: &[u8]) -> Vec<u8> {
    let sum = piece_sum(head, bytes);
    [&sum[..], bytes].concat()
}

/// The bytes of a piece; `None` if it is damaged
pub(super) fn open_piece<'a>(head: &[u8], sealed: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, bytes) = sealed.split_first_chunk::<PIECE_SUM_BYTES>()?;
    (piece_sum(head, bytes) == *sum).then_some(bytes)
}

fn piece_sum(head: &[u8], bytes: &[u8]) -> [u8; PIECE_SUM_BYTES] {
    let hash = Sha256::new().chain_update(head).chain_update(bytes).finalize();
    let mut sum = [0; PIECE_SUM_BYTES];
    sum.copy_from_slice(&hash[..PIECE_SUM_BYTES]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journ_4_a_group_with_any_bit_flipped_or_cut_anywhere_is_damaged() {
        let mut group = Group::new(7);
        [&b"one"[..], b"", b"three"].iter().for_each(|record| group.push(record));
        assert_eq!((group.first(), group.end()), (7, 10));
        let sealed = group.seal();
        let (count, records) = open(7, &sealed).unwrap();
        assert_eq!((count, records.collect::<Vec<_>>()), (3, vec![&b"one"[..], b"", b"three"]));
        assert!(open(8, &sealed).is_none(), "it stands in another's place");
        for cut in 0..sealed.len() {
            assert!(open(7, &sealed[..cut]).is_none(), "cut at {cut}");
        }
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open(7, &flipped).is_none(), "bit {bit}");
        }
        let piece = seal_piece(b"head", b"bytes");
        assert_eq!(open_piece(b"head", &piece), Some(&b"bytes"[..]));
        assert_eq!((open_piece(b"tail", &piece), open_piece(b"head", &piece[..9])), (None, None));
    }
}
