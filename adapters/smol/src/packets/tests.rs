//! The forwarder in virtual time

/// A packet of TCP with so many bytes in it and right checksums
pub(super) fn segment(payload: usize) -> Vec<u8> {
    let len = (40 + payload) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1];
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet.extend([0x1f, 0x90, 0x1e, 0xc6, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    packet.extend((0..payload).map(|n| (n * 7) as u8));
    let sum = !segment_sum(&packet);
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Whether the checksum of TCP is right
pub(super) fn checksum_holds(packet: &[u8]) -> bool {
    segment_sum(packet) == u16::MAX
}

/// The sum of RFC 9293 over the pseudo header and the segment
fn segment_sum(packet: &[u8]) -> u16 {
    let len = (packet.len() - 20) as u16;
    let pseudo = [&packet[12..20], &[0, 6], &len.to_be_bytes()].concat();
    let words = pseudo.chunks(2).chain(packet[20..].chunks(2));
    let mut sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
