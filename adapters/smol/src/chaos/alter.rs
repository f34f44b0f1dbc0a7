//! What befalls a message: a whole frame of a WebSocket

use std::time::Duration;

use super::fault::{End, Fault, Kind};
use super::frames::{framed, lengthened, mask, parts};

/// Most fragments of a message
const FRAGMENTS_MAX: usize = 1000;
/// Pause between two segments, unless a fault says otherwise
const SEGMENT_PAUSE: Duration = Duration::from_millis(1);
/// Mask of what is said in the place of whoever dialled, and of what should have none
const MASK: [u8; 4] = *b"mask";

const FINAL: u8 = 0x80;
const CONTROL: u8 = 0x08;
const RESERVED_SHIFT: u32 = 4;
const CONTINUATION: u8 = 0x00;
const CLOSE: u8 = 0x08;
const PING: u8 = 0x09;
const PONG: u8 = 0x0a;

/// What a fault makes of a message
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Altered {
    /// This goes on its way in its place
    Bytes(Vec<u8>),
    /// First this, and the rest that much later
    Apart(Vec<u8>, Duration, Vec<u8>),
    /// The connection breaks in front of it
    Break,
    /// The fault is for another one, which is still to come
    Spared,
    /// No message of this direction can suffer that
    Impossible,
}

/// What a fault makes of a message
#[allow(clippy::wildcard_enum_match_arm, reason = "the others leave a message as it is")]
pub(super) fn altered(fault: Fault, message: &[u8]) -> Altered {
    let bytes = match fault.kind {
        Kind::Drop => Vec::new(),
        Kind::Duplicate => message.repeat(2),
        Kind::Truncate => {
            // Fewer could be made good by chance, by the first bytes of what follows.
            let gone = usize::try_from(fault.amount).unwrap_or(usize::MAX).max(4);
            message[..message.len().saturating_sub(gone)].to_vec()
        }
        Kind::Lie => lengthened(message, fault.amount.max(1)),
        Kind::Ping | Kind::CloseFrame => [interjection(fault).as_slice(), message].concat(),
        Kind::WrongMask => wrongly_masked(message),
        Kind::ReservedBits => {
            let bits = if fault.amount == 0 { 7 } else { fault.amount as u8 & 7 };
            [&[message[0] | bits << RESERVED_SHIFT], &message[1..]].concat()
        }
        Kind::Fragment => return fragmented(message, fault.amount),
        Kind::Segment => return segmented(message, fault),
        Kind::ResetFrame => return Altered::Break,
        _ => message.to_vec(),
    };
    Altered::Bytes(bytes)
}

/// Whether a message answers a ping
pub(super) fn is_pong(message: &[u8]) -> bool {
    message[0] & 0x0f == PONG
}

/// A control frame that nobody has sent
pub(super) fn interjection(fault: Fault) -> Vec<u8> {
    let mask = (fault.towards == End::Coordinator).then_some(MASK);
    if fault.kind == Kind::Ping {
        return framed(FINAL | PING, mask, &vec![b'x'; fault.amount as usize & 0x7f]);
    }
    let code = (fault.amount as u16).to_be_bytes();
    framed(FINAL | CLOSE, mask, if fault.amount == 0 { &[] } else { &code })
}

/// The same message without a mask, or with one if there was none
fn wrongly_masked(message: &[u8]) -> Vec<u8> {
    let (header, payload) = parts(message);
    match mask(header) {
        Some(key) => {
            let plain: Vec<u8> = payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            framed(header[0], None, &plain)
        }
        None => framed(header[0], Some(MASK), payload),
    }
}

/// A message of data in so many fragments that each has at most so many bytes; in two at least
fn fragmented(message: &[u8], most: u64) -> Altered {
    let (header, payload) = parts(message);
    if header[0] & CONTROL != 0 {
        // What controls a connection may not be fragmented.
        return Altered::Spared;
    }
    let most = usize::try_from(most).unwrap_or(usize::MAX).max(payload.len().div_ceil(FRAGMENTS_MAX)).max(1);
    let mask = mask(header);
    let plain: Vec<u8> = payload.iter().zip(mask.unwrap_or_default().iter().cycle()).map(|(b, k)| b ^ k).collect();
    let mut pieces: Vec<&[u8]> = plain.chunks(most).collect();
    while pieces.len() < 2 {
        pieces.push(&[]);
    }
    let last = pieces.len() - 1;
    let fragment = |(n, piece): (usize, &&[u8])| {
        let first = if n == 0 { header[0] & !FINAL } else { CONTINUATION };
        let end = if n == last { header[0] & FINAL } else { 0 };
        framed(first | end, mask, piece)
    };
    Altered::Bytes(pieces.iter().enumerate().flat_map(fragment).collect())
}

/// A message in two segments, cut in the midst of its header, its mask or its payload
fn segmented(message: &[u8], fault: Fault) -> Altered {
    let (header, payload) = parts(message);
    let at = match (fault.amount, mask(header)) {
        (0, _) => 1,
        (1, Some(_)) => header.len() - 2,
        (1, None) => return Altered::Impossible,
        (_, _) if payload.len() < 2 => return Altered::Spared,
        (_, _) => header.len() + payload.len() / 2,
    };
    let pause = if fault.span.is_zero() { SEGMENT_PAUSE } else { fault.span };
    let (first, rest) = message.split_at(at);
    Altered::Apart(first.to_vec(), pause, rest.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 4] = [1, 2, 3, 4];

    fn made(kind: Kind, amount: u64, message: &[u8]) -> Altered {
        altered(Fault { amount, towards: End::Coordinator, ..Fault::of_all(kind) }, message)
    }

    #[test]
    fn a_fragmented_message_says_the_same_in_continuation_frames() {
        let whole = framed(0x82, Some(KEY), b"abcde");
        let parts = [framed(0x02, Some(KEY), b"ab"), framed(0, Some(KEY), b"cd"), framed(0x80, Some(KEY), b"e")];
        assert_eq!(made(Kind::Fragment, 2, &whole), Altered::Bytes(parts.concat()));
        // There are two in any case.
        let parts = [framed(0x02, None, b"abc"), framed(0x80, None, b"")];
        assert_eq!(made(Kind::Fragment, 100, &framed(0x82, None, b"abc")), Altered::Bytes(parts.concat()));
        assert_eq!(made(Kind::Fragment, 1, &framed(0x89, None, b"ping")), Altered::Spared);
        let Altered::Bytes(many) = made(Kind::Fragment, 1, &framed(0x82, None, &[7; 60_000])) else { panic!("spared") };
        assert_eq!(many.len(), 60_000 + 2 * FRAGMENTS_MAX);
    }

    #[test]
    fn masks_and_reserved_bits_are_altered_and_nothing_else() {
        let (masked, plain) = (framed(0x82, Some(KEY), b"abc"), framed(0x82, None, b"abc"));
        assert_eq!(made(Kind::WrongMask, 0, &masked), Altered::Bytes(plain.clone()));
        assert_eq!(made(Kind::WrongMask, 0, &plain), Altered::Bytes(framed(0x82, Some(MASK), b"abc")));
        for (amount, first) in [(0, 0xf2), (1, 0x92), (2, 0xa2), (4, 0xc2), (7, 0xf2)] {
            assert_eq!(made(Kind::ReservedBits, amount, &plain), Altered::Bytes(framed(first, None, b"abc")));
        }
    }

    #[test]
    fn frames_that_nobody_sent_are_masked_where_they_must_be() {
        let fault = |kind, amount, towards| Fault { amount, towards, ..Fault::of_all(kind) };
        assert_eq!(interjection(fault(Kind::CloseFrame, 1011, End::Peer)), [0x88, 2, 0x03, 0xf3]);
        assert_eq!(interjection(fault(Kind::CloseFrame, 0, End::Peer)), [0x88, 0]);
        let there = interjection(fault(Kind::CloseFrame, 1000, End::Coordinator));
        assert_eq!(there, framed(0x88, Some(MASK), &[0x03, 0xe8]));
        assert_eq!(interjection(fault(Kind::Ping, 2, End::Peer)), [0x89, 2, b'x', b'x']);
    }

    #[test]
    fn a_message_is_cut_in_its_header_its_mask_or_its_payload() {
        let (masked, plain) = (framed(0x82, Some(KEY), b"abcd"), framed(0x82, None, b"abcd"));
        for (amount, message, at) in [(0, &masked, 1), (1, &masked, 4), (2, &masked, 8), (0, &plain, 1), (2, &plain, 4)]
        {
            let apart = Altered::Apart(message[..at].to_vec(), SEGMENT_PAUSE, message[at..].to_vec());
            assert_eq!(made(Kind::Segment, amount, message), apart);
        }
        assert_eq!(made(Kind::Segment, 1, &plain), Altered::Impossible, "there is no mask");
        assert_eq!(made(Kind::Segment, 2, &framed(0x82, None, b"")), Altered::Spared);
    }
}
