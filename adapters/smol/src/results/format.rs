//! What a finished attempt looks like on a worker's disk
//!
//! | bytes | what |
//! | --- | --- |
//! | 4 | `rjr1` |
//! | 4 | length of what follows, little endian |
//! | n | the attempt, in postcard |
//! | 16 | first half of the SHA-256 of all of that |
//!
//! Output that was in memory is in there as well; output that was in a file stays in one beside it, as does a large result.

use rejoin_core::blob::ChunkName;
use rejoin_core::ids::{ClusterId, PeerName, TaskId, Token};
use rejoin_core::wire::message::{Outcome, StreamEnd};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const MAGIC: &[u8; 4] = b"rjr1";
const HEAD_BYTES: usize = 8;
const SUM_BYTES: usize = 16;

/// An attempt that is over, until it is settled
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Whose it is: the token was given to this worker, by a coordinator of this cluster
    pub(crate) worker: PeerName,
    pub(crate) cluster: ClusterId,
    pub(crate) task: TaskId,
    pub(crate) token: Token,
    pub(crate) attempt: u32,
    pub(crate) outcome: Outcome,
    pub(crate) result: Vec<u8>,
    /// Length and names of chunks of what it returned, where that is in a file of its own
    pub(crate) large: Option<(u64, Vec<ChunkName>)>,
    pub(crate) checkpoint: Option<(u64, Vec<u8>)>,
    pub(crate) streams: [StreamEnd; 2],
    /// The output itself, unless it is in a file of its own
    pub(crate) inline: [Option<Vec<u8>>; 2],
}

/// Why a file is no attempt
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bad {
    /// It ends too early, or its sum is wrong
    Damaged(&'static str),
    /// Another version has written it
    Newer,
}

pub(super) fn seal(kept: &Kept) -> Result<Vec<u8>, postcard::Error> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&[0; 4]);
    let mut bytes = postcard::to_extend(kept, bytes)?;
    let len = u32::try_from(bytes.len() - HEAD_BYTES).map_err(|_| postcard::Error::SerializeBufferFull)?;
    bytes[4..HEAD_BYTES].copy_from_slice(&len.to_le_bytes());
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum[..SUM_BYTES]);
    Ok(bytes)
}

pub(super) fn open(sealed: &[u8]) -> Result<Kept, Bad> {
    let (magic, rest) = sealed.split_first_chunk::<4>().ok_or(Bad::Damaged("it is too short"))?;
    if magic != MAGIC {
        let newer = magic.starts_with(&MAGIC[..3]);
        return Err(if newer { Bad::Newer } else { Bad::Damaged("it is no result of a task") });
    }
    let (len, rest) = rest.split_first_chunk::<4>().ok_or(Bad::Damaged("it is too short"))?;
    let len = u32::from_le_bytes(*len) as usize;
    if rest.len() != len.saturating_add(SUM_BYTES) {
        return Err(Bad::Damaged("it has not the length that it should have"));
    }
    let (bytes, sum) = sealed.split_at(HEAD_BYTES + len);
    if Sha256::digest(bytes)[..SUM_BYTES] != *sum {
        return Err(Bad::Damaged("its checksum is wrong"));
    }
    postcard::from_bytes(&bytes[HEAD_BYTES..]).map_err(|_| Bad::Damaged("it says nothing that makes sense"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn kept(token: u64) -> Kept {
        Kept {
            worker: "lab-1".parse().unwrap(),
            cluster: ClusterId([7; 16]),
            task: TaskId::from_text("a task"),
            token: Token(token),
            attempt: 3,
            outcome: Outcome::Succeeded,
            result: b"a result".to_vec(),
            large: None,
            checkpoint: Some((2, b"half way".to_vec())),
            streams: [StreamEnd { len: 5, sha256: Sha256::digest(b"hello").into() }, StreamEnd::default()],
            inline: [Some(b"hello".to_vec()), Some(Vec::new())],
        }
    }

    #[test]
    fn sess_9_what_was_written_is_read_and_damage_anywhere_is_found() {
        let sealed = seal(&kept(5)).unwrap();
        assert_eq!(open(&sealed), Ok(kept(5)));
        for end in 0..sealed.len() {
            assert!(open(&sealed[..end]).is_err(), "cut at {end}");
        }
        for at in 0..sealed.len() {
            let mut damaged = sealed.clone();
            damaged[at] ^= 0x10;
            assert!(open(&damaged).is_err(), "a bit of byte {at}");
        }
        let mut longer = sealed.clone();
        longer.push(0);
        assert!(open(&longer).is_err());
        let mut newer = sealed;
        newer[3] = b'2';
        assert_eq!(open(&newer), Err(Bad::Newer));
    }
}
