//! Sealed frames: `header ‖ body ‖ tag` (FRAME-1 to FRAME-5)
//!
//! | bytes | what |
//! | --- | --- |
//! | 1 | version, [`FRAME_VERSION`] |
//! | 1 | flags: bit 0 is set when the body is lz4 |
//! | 2 | length of the body before compression, little endian |
//! | n | body |
//! | 16 | tag over counter, header and body as sent |
//!
//! A [`Codec`] is a value of its own and may be moved to another thread than the machine that made it.

use alloc::boxed::Box;
use alloc::vec;
use core::fmt;

use hmac::{Hmac, Mac};
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};
use sha2::Sha256;

use crate::limits::{BODY_BYTES_MAX, FRAME_BYTES_MAX};
use crate::planted::{self, Bug};
use crate::wire::gain::Gain;
use crate::wire::keys::{ConnectionKeys, Secret, hmac};

/// First byte of every sealed frame
pub const FRAME_VERSION: u8 = 1;
/// Bytes in front of the body
pub const HEADER_BYTES: usize = 4;
/// Bytes behind the body
pub const TAG_BYTES: usize = 16;

const FLAG_LZ4: u8 = 1;

/// Seals what one end sends and opens what it receives, on one connection
#[derive(Clone, Debug)]
pub struct Codec {
    seal: Direction,
    open: Direction,
    compress: bool,
    gain: Gain,
}

impl Codec {
    /// For the end that dialled
    pub(crate) fn dialer(keys: &ConnectionKeys, compress: bool) -> Self {
        Codec {
            seal: Direction::new(&keys.to_coordinator),
            open: Direction::new(&keys.to_peer),
            compress,
            gain: Gain::new(None),
        }
    }

    /// For the end that accepted
    pub(crate) fn acceptor(keys: &ConnectionKeys, compress: bool) -> Self {
        Codec {
            seal: Direction::new(&keys.to_peer),
            open: Direction::new(&keys.to_coordinator),
            compress,
            gain: Gain::new(None),
        }
    }

    /// Holds the threshold of compression at a value, or lets it follow its law (FRAME-5)
    pub(crate) fn compress_from(&mut self, pinned: Option<usize>) {
        self.gain = Gain::new(pinned);
    }

    /// Bytes from which on a body is compressed (FRAME-5)
    pub(crate) fn compresses_from(&self) -> usize {
        self.gain.from()
    }

    /// Seals the body that stands in `frame` behind the room for the header, and returns the frame's length
    ///
    /// `frame` must have room for the tag behind the body. Compresses where that makes the frame smaller (FRAME-5);
    /// the tag covers the body as sent.
    pub fn seal(&mut self, frame: &mut [u8], body_len: usize, scratch: &mut Scratch) -> usize {
        debug_assert!(body_len <= BODY_BYTES_MAX);
        let mut sent_len = body_len;
        let mut flags = 0;
        if self.compress && self.gain.tries(body_len) {
            let body = &mut frame[HEADER_BYTES..HEADER_BYTES + body_len];
            let Memory { buf, table } = scratch.memory();
            let shorter = compress_into_with_table(body, buf, table).ok().filter(|len| *len < body_len);
            self.gain.tried(body_len, shorter.is_some());
            if let Some(len) = shorter {
                body[..len].copy_from_slice(&buf[..len]);
                sent_len = len;
                flags = FLAG_LZ4;
            }
        }
        frame[0] = FRAME_VERSION;
        frame[1] = flags;
        frame[2..4].copy_from_slice(&(body_len as u16).to_le_bytes());
        let end = HEADER_BYTES + sent_len;
        let tag = self.seal.tag(&frame[..end]).finalize().into_bytes();
        frame[end..end + TAG_BYTES].copy_from_slice(&tag[..TAG_BYTES]);
        end + TAG_BYTES
    }

    /// Verifies, then decompresses under the cap, and returns the body (FRAME-2)
    ///
    /// The body stands in `frame` itself, or in `scratch` where it had been compressed.
    pub fn open<'a>(&mut self, frame: &'a [u8], scratch: &'a mut Scratch) -> Result<&'a [u8], OpenError> {
        let Some(body_len) = frame.len().checked_sub(HEADER_BYTES + TAG_BYTES) else {
            return Err(OpenError::BadTag);
        };
        if frame.len() > FRAME_BYTES_MAX {
            return Err(OpenError::BadTag);
        }
        let (signed, tag) = frame.split_at(HEADER_BYTES + body_len);
        let compared = if planted::is(Bug::TagCompared) { &tag[..1] } else { tag };
        if self.open.tag(signed).verify_truncated_left(compared).is_err() {
            return Err(OpenError::BadTag);
        }
        let (header, body) = signed.split_at(HEADER_BYTES);
        let full_len = usize::from(u16::from_le_bytes([header[2], header[3]]));
        if header[0] != FRAME_VERSION || header[1] & !FLAG_LZ4 != 0 || full_len > BODY_BYTES_MAX {
            return Err(OpenError::Malformed);
        }
        if header[1] & FLAG_LZ4 == 0 {
            return if body.len() == full_len { Ok(body) } else { Err(OpenError::Malformed) };
        }
        if !self.compress {
            return Err(OpenError::Malformed);
        }
        let memory = scratch.memory();
        if planted::is(Bug::DecompressesAll) {
            let len = decompress_into(body, &mut memory.buf).map_err(|_| OpenError::Malformed)?;
            return Ok(&memory.buf[..len]);
        }
        let buf = &mut memory.buf[..full_len];
        match decompress_into(body, buf) {
            Ok(len) if len == full_len => Ok(buf),
            _ => Err(OpenError::Malformed),
        }
    }
}

/// Why a frame was refused
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Not sealed by the peer, or damaged on the way: the connection ends, the session does not
    BadTag,
    /// Sealed by the peer, and still against the rules: the session ends
    Malformed,
}

/// Working memory for compression, shared by all connections of a machine
///
/// Costs 72 KiB and 8 KiB of table, once.
pub struct Scratch(Option<Memory>);

struct Memory {
    buf: Box<[u8]>,
    table: Box<CompressTable>,
}

impl Scratch {
    /// Allocates the memory; nothing is allocated later
    pub fn new() -> Self {
        Scratch(Some(Memory::new()))
    }

    /// Allocates nothing until there is something to compress or decompress
    pub(crate) fn none() -> Self {
        Scratch(None)
    }

    fn memory(&mut self) -> &mut Memory {
        self.0.get_or_insert_with(Memory::new)
    }
}

impl Memory {
    fn new() -> Self {
        Memory { buf: vec![0; get_maximum_output_size(BODY_BYTES_MAX)].into(), table: Box::new(CompressTable::small()) }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch::new()
    }
}

impl Clone for Scratch {
    /// What it holds has no meaning between calls, so a copy has no memory until it needs some
    fn clone(&self) -> Self {
        Scratch::none()
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scratch")
    }
}

/// One direction's key and implicit counter (FRAME-1)
#[derive(Clone)]
struct Direction {
    keyed: Hmac<Sha256>,
    counter: u64,
}

impl Direction {
    fn new(key: &Secret) -> Self {
        Direction { keyed: hmac(key), counter: 0 }
    }

    /// A failed verification ends the connection, so that the counter may move either way
    fn tag(&mut self, signed: &[u8]) -> Hmac<Sha256> {
        let mut mac = self.keyed.clone();
        let counter = if planted::is(Bug::TagWithoutCounter) { 0 } else { self.counter };
        mac.update(&counter.to_le_bytes());
        mac.update(signed);
        self.counter += 1;
        mac
    }
}

impl fmt::Debug for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Direction({})", self.counter)
    }
}
