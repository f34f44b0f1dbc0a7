//! Where the messages of a WebSocket begin and end

/// Longest HTTP head in front of the messages
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Longest header of a frame: two bytes, a length of eight, a mask
const HEADER_BYTES_MAX: usize = 14;

/// Follows one direction of a connection, from its first byte on
///
/// What does not begin as HTTP does has no messages, as far as anybody here knows.
#[derive(Debug)]
pub(super) enum Frames {
    /// In the HTTP head: bytes so far, and how much of its end was seen
    Head { bytes: usize, end: usize },
    /// In the header of a frame
    Header { bytes: [u8; HEADER_BYTES_MAX], len: usize },
    /// In the payload of a frame, of which so much is still to come
    Payload { left: u64 },
    /// This is no WebSocket
    Other,
}

const START: Frames = Frames::Header { bytes: [0; HEADER_BYTES_MAX], len: 0 };

impl Default for Frames {
    fn default() -> Self {
        Frames::Head { bytes: 0, end: 0 }
    }
}

impl Frames {
    /// Whether the next byte is the first one of a frame
    pub(super) fn is_between(&self) -> bool {
        matches!(self, Frames::Header { len: 0, .. })
    }

    /// Goes on up to the end of the head or frame, if it is there: how many bytes that are
    pub(super) fn advance(&mut self, input: &[u8]) -> usize {
        let mut at = 0;
        while let Some(byte) = input.get(at) {
            match self {
                Frames::Head { bytes, end } => {
                    at += 1;
                    let begins =
                        [b"GET ", b"HTTP"].iter().any(|word| word.get(*bytes).is_none_or(|known| known == byte));
                    *bytes += 1;
                    *end = match (byte, *end) {
                        (b'\r', 2) => 3,
                        (b'\r', _) => 1,
                        (b'\n', 1 | 3) => *end + 1,
                        _ => 0,
                    };
                    if !begins || *bytes > HEAD_BYTES_MAX {
                        *self = Frames::Other;
                    } else if *end == 4 {
                        *self = START;
                        return at;
                    }
                }
                Frames::Header { bytes, len } => {
                    bytes[*len] = *byte;
                    (*len, at) = (*len + 1, at + 1);
                    if let Some(left) = payload(&bytes[..*len]) {
                        *self = if left == 0 { START } else { Frames::Payload { left } };
                        if left == 0 {
                            return at;
                        }
                    }
                }
                Frames::Payload { left } => {
                    let here = (*left).min((input.len() - at) as u64);
                    *left -= here;
                    at += here as usize;
                    if *left == 0 {
                        *self = START;
                        return at;
                    }
                }
                Frames::Other => return input.len(),
            }
        }
        at
    }
}

/// How long the payload is, once the header is whole
fn payload(header: &[u8]) -> Option<u64> {
    let second = *header.get(1)?;
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    let (length_bytes, short) = match second & 0x7f {
        126 => (2, 0),
        127 => (8, 0),
        short => (0, u64::from(short)),
    };
    let length = header.get(2..2 + length_bytes)?;
    let whole = header.len() == 2 + length_bytes + mask;
    whole.then(|| length.iter().fold(short, |sum, byte| sum << 8 | u64::from(*byte)))
}

/// The frame with a header that says that it is so many bytes longer
pub(super) fn lengthened(frame: &[u8], more: u64) -> Vec<u8> {
    let header_len = (2..=HEADER_BYTES_MAX.min(frame.len())).find(|len| payload(&frame[..*len]).is_some());
    let Some(header) = header_len.map(|len| &frame[..len]) else { return frame.to_vec() };
    let masked = header[1] & 0x80;
    let mask = if masked == 0 { &[][..] } else { &header[header.len() - 4..] };
    // The longest form is legal for lengths that need it, which is why a small lie makes a small header.
    let length = payload(header).unwrap_or_default().saturating_add(more) & (u64::MAX >> 1);
    let mut out = vec![header[0]];
    match length {
        0..126 => out.push(masked | length as u8),
        126..65_536 => {
            out.push(masked | 126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
    out.extend_from_slice(mask);
    out.extend_from_slice(&frame[header.len()..]);
    out
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A frame without a mask
    pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
        lengthened(&[0x82, 0], payload.len() as u64).into_iter().chain(payload.iter().copied()).collect()
    }

    #[test]
    fn frames_are_found_however_the_bytes_come() {
        let masked = [&[0x82, 0x83, 1, 2, 3, 4][..], b"abc"].concat();
        let parts = [
            b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n".to_vec(),
            frame(b""),
            masked,
            frame(&[7; 300]),
            frame(&[7; 70_000]),
        ];
        let stream = parts.concat();
        for chunk in [1, 2, 3, 1000, stream.len()] {
            let mut frames = Frames::default();
            let (mut ends, mut at) = (Vec::new(), 0);
            for piece in stream.chunks(chunk) {
                let mut piece = piece;
                while !piece.is_empty() {
                    let count = frames.advance(piece);
                    (at, piece) = (at + count, &piece[count..]);
                    if frames.is_between() {
                        ends.push(at);
                    }
                }
            }
            let sums = parts.iter().scan(0, |sum, part| {
                Some({
                    *sum += part.len();
                    *sum
                })
            });
            assert_eq!(ends, sums.collect::<Vec<_>>(), "in pieces of {chunk}");
        }
    }

    #[test]
    fn what_is_no_http_has_no_messages() {
        let mut frames = Frames::default();
        assert_eq!(frames.advance(b"SSH-2.0-x\r\n\r\n\x82\x00"), 15);
        assert!(!frames.is_between());
    }

    #[test]
    fn a_lie_is_in_the_header_alone() {
        let lie = lengthened(&frame(b"abc"), 1000);
        assert_eq!(lie, [&[0x82, 126, 3, 235][..], b"abc"].concat());
        assert_eq!(lengthened(&[0x82, 0x81, 1, 2, 3, 4, b'x'], 2), [0x82, 0x83, 1, 2, 3, 4, b'x']);
    }
}
