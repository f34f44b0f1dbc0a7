//! Damage to packets of IPv4

use std::ops::Range;

use crate::chaos::random::Random;

const IP_HEADER_BYTES_MIN: usize = 20;
const UDP_HEADER_BYTES: usize = 8;
const TCP_HEADER_BYTES_MIN: usize = 20;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Whether these bytes are a packet of IPv4
pub(super) fn is_ipv4(packet: &[u8]) -> bool {
    packet.len() >= IP_HEADER_BYTES_MIN && packet[0] >> 4 == 4
}

/// Flips a bit behind the IP header, and leaves the checksum as it was; `false` where there is none
pub(super) fn corrupt(packet: &mut [u8], random: &mut Random) -> bool {
    let behind = ip_header_bytes(packet)..packet.len();
    let Some((at, mask)) = draw(behind, random) else { return false };
    packet[at] ^= mask;
    true
}

/// Flips a bit of what TCP or UDP carries, and mends the checksum; `false` where they carry nothing
pub(super) fn flip(packet: &mut [u8], random: &mut Random) -> bool {
    let Some(segment) = Segment::of(packet) else { return false };
    let Some((at, mask)) = draw(segment.payload.clone(), random) else { return false };
    let word_at = at - (at - segment.start) % 2;
    // The last byte of an odd number of them counts as the upper half of a word.
    let word =
        |packet: &[u8]| u16::from_be_bytes([packet[word_at], packet.get(word_at + 1).copied().unwrap_or_default()]);
    let before = word(packet);
    packet[at] ^= mask;
    let after = word(packet);
    let sum = u16::from_be_bytes([packet[segment.checksum_at], packet[segment.checksum_at + 1]]);
    if !(segment.is_udp && sum == 0) {
        let mended = mend(sum, before, after);
        // No checksum at all is how UDP writes 0.
        let mended = if segment.is_udp && mended == 0 { u16::MAX } else { mended };
        packet[segment.checksum_at..segment.checksum_at + 2].copy_from_slice(&mended.to_be_bytes());
    }
    true
}

/// The checksum of a packet in which one word has changed (RFC 1624)
fn mend(sum: u16, before: u16, after: u16) -> u16 {
    let total = u32::from(!sum) + u32::from(!before) + u32::from(after);
    let folded = (total & 0xffff) + (total >> 16);
    !(((folded & 0xffff) + (folded >> 16)) as u16)
}

/// A place in a range and a bit of it
fn draw(range: Range<usize>, random: &mut Random) -> Option<(usize, u8)> {
    if range.is_empty() {
        return None;
    }
    let bit = random.below(range.len() as u64 * 8) as usize;
    Some((range.start + bit / 8, 1 << (bit % 8)))
}

fn ip_header_bytes(packet: &[u8]) -> usize {
    usize::from(packet[0] & 0x0f) * 4
}

/// Where things are in a packet of TCP or UDP that is in one piece
struct Segment {
    start: usize,
    checksum_at: usize,
    payload: Range<usize>,
    is_udp: bool,
}

impl Segment {
    fn of(packet: &[u8]) -> Option<Segment> {
        let start = ip_header_bytes(packet);
        let is_piece = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
        let rest = packet.get(start..).filter(|_| !is_piece && start >= IP_HEADER_BYTES_MIN)?;
        let (header, checksum_at, is_udp) = match packet[9] {
            TCP if rest.len() >= TCP_HEADER_BYTES_MIN => (usize::from(rest[12] >> 4) * 4, start + 16, false),
            UDP if rest.len() >= UDP_HEADER_BYTES => (UDP_HEADER_BYTES, start + 6, true),
            _ => return None,
        };
        let payload = (header <= rest.len()).then_some(start + header..packet.len())?;
        Some(Segment { start, checksum_at, payload, is_udp })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{checksum_holds, segment};
    use super::*;

    #[test]
    fn a_checksum_that_is_left_is_wrong_and_one_that_is_mended_is_right() {
        for payload in [1, 2, 3, 700, 1401] {
            for seed in 0..200 {
                let whole = segment(payload);
                assert!(checksum_holds(&whole), "the test's own packets are whole");
                let (mut corrupted, mut flipped) = (whole.clone(), whole.clone());
                assert!(corrupt(&mut corrupted, &mut Random(seed)), "there is something to flip");
                assert!(!checksum_holds(&corrupted), "the system must throw it away");
                assert!(flip(&mut flipped, &mut Random(seed)), "there is something to flip");
                assert!(checksum_holds(&flipped), "the system must hand it on");
                assert_ne!(flipped[40..], whole[40..], "and what it hands on is damaged");
                assert_eq!(flipped[..36], whole[..36], "but for the checksum the headers are as they were");
            }
        }
    }

    #[test]
    fn what_carries_nothing_stays_whole() {
        let mut empty = segment(0);
        let whole = empty.clone();
        assert!(!flip(&mut empty, &mut Random(1)));
        assert_eq!(empty, whole);
        let mut piece = segment(100);
        piece[6] = 0x20;
        assert!(!flip(&mut piece, &mut Random(1)), "the checksum of a piece is in another piece");
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for seed in 0..2000 {
            let mut random = Random(seed);
            let len = random.between(20, 80) as usize;
            let mut packet: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
            packet[0] = 0x40 | packet[0] & 0x0f;
            packet[9] = if seed % 2 == 0 { TCP } else { UDP };
            assert!(is_ipv4(&packet));
            flip(&mut packet, &mut random);
            corrupt(&mut packet, &mut random);
        }
    }
}
