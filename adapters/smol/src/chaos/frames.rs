//! Where the messages of a WebSocket begin and end

/// Longest HTTP head in front of the messages
pub(super) const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Longest header of a frame: two bytes, a length of eight, a mask
const HEADER_BYTES_MAX: usize = 14;

/// Why the messages of a connection cannot be told apart
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opaque {
    /// They are encrypted
    Tls,
    /// It is no WebSocket
    Other,
}

/// Follows one direction of a connection, from its first byte on
///
/// What does not begin with the upgrade to a WebSocket has no messages, as far as anybody here knows.
#[derive(Debug)]
pub(super) enum Frames {
    /// In the HTTP head
    Head(Vec<u8>),
    /// In the header of a frame
    Header { bytes: [u8; HEADER_BYTES_MAX], len: usize },
    /// In the payload of a frame, of which so much is still to come
    Payload { left: u64 },
    /// There are no messages
    Opaque(Opaque),
}

const START: Frames = Frames::Header { bytes: [0; HEADER_BYTES_MAX], len: 0 };

impl Default for Frames {
    fn default() -> Self {
        Frames::Head(Vec::new())
    }
}

impl Frames {
    /// Whether the next byte is the first one of a frame
    pub(super) fn is_between(&self) -> bool {
        matches!(self, Frames::Header { len: 0, .. })
    }

    /// Whether the messages have not begun
    pub(super) fn is_head(&self) -> bool {
        matches!(self, Frames::Head(_))
    }

    /// Why there are no messages, if that is known
    pub(super) fn opaque(&self) -> Option<Opaque> {
        match self {
            Frames::Opaque(why) => Some(*why),
            Frames::Head(_) | Frames::Header { .. } | Frames::Payload { .. } => None,
        }
    }

    /// Goes on up to the end of the head or frame, if it is there: how many bytes that are
    pub(super) fn advance(&mut self, input: &[u8]) -> usize {
        let mut at = 0;
        while let Some(byte) = input.get(at) {
            match self {
                Frames::Head(head) => {
                    at += 1;
                    head.push(*byte);
                    if let Some(next) = behind_head(head) {
                        let is_message = next.is_between();
                        *self = next;
                        if is_message {
                            return at;
                        }
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
                Frames::Opaque(_) => return input.len(),
            }
        }
        at
    }
}

/// What comes behind the first bytes of a connection, once they say that
fn behind_head(head: &[u8]) -> Option<Frames> {
    let begins = [b"GET ", b"HTTP"].iter().any(|word| word.iter().zip(head).all(|(known, byte)| known == byte));
    if !begins || head.len() > HEAD_BYTES_MAX {
        // A record of the handshake is what TLS begins with.
        return Some(Frames::Opaque(if head[0] == 0x16 { Opaque::Tls } else { Opaque::Other }));
    }
    head.ends_with(b"\r\n\r\n").then(|| if is_upgrade(head) { START } else { Frames::Opaque(Opaque::Other) })
}

/// Whether an HTTP head asks for a WebSocket, or agrees to one
fn is_upgrade(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head);
    let asks = |line: &str| {
        let (name, value) = line.split_once(':').unwrap_or_default();
        name.trim().eq_ignore_ascii_case("upgrade") && value.trim().eq_ignore_ascii_case("websocket")
    };
    if head.starts_with(b"HTTP") { text.split(' ').nth(1) == Some("101") } else { text.lines().any(asks) }
}

/// Header and payload of a whole frame
pub(super) fn parts(frame: &[u8]) -> (&[u8], &[u8]) {
    let whole = |len: &usize| payload(&frame[..*len]).is_some();
    let len = (2..=HEADER_BYTES_MAX.min(frame.len())).find(whole).unwrap_or(frame.len());
    frame.split_at(len)
}

/// A frame with this first byte, and a mask if it has one
pub(super) fn framed(first: u8, mask: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut out = header(first, mask.as_ref().map(|mask| &mask[..]), payload.len() as u64);
    let mask = mask.unwrap_or_default();
    out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}

fn header(first: u8, mask: Option<&[u8]>, length: u64) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut out = vec![first];
    // Others than the shortest form are not legal.
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
    out.extend_from_slice(mask.unwrap_or_default());
    out
}

/// The mask at the end of a header, if there is one
pub(super) fn mask(header: &[u8]) -> Option<[u8; 4]> {
    let masked = header.get(1).is_some_and(|second| second & 0x80 != 0);
    header.last_chunk().copied().filter(|_| masked)
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
    let (head, rest) = parts(frame);
    let Some(length) = payload(head) else { return frame.to_vec() };
    let length = length.saturating_add(more) & (u64::MAX >> 1);
    let mask = mask(head);
    [header(head[0], mask.as_ref().map(|mask| &mask[..]), length).as_slice(), rest].concat()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A frame without a mask
    pub(crate) fn frame(payload: &[u8]) -> Vec<u8> {
        framed(0x82, None, payload)
    }

    #[test]
    fn frames_are_found_however_the_bytes_come() {
        let parts = [
            b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n".to_vec(),
            frame(b""),
            framed(0x82, Some([1, 2, 3, 4]), b"abc"),
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
    fn what_is_no_websocket_has_no_messages() {
        for (bytes, why) in [
            (&b"SSH-2.0-x\r\n\r\n\x82\x00"[..], Opaque::Other),
            (b"\x16\x03\x01\x02\x00\x01", Opaque::Tls),
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Opaque::Other),
            (b"HTTP/1.1 503 x\r\n\r\n", Opaque::Other),
        ] {
            let mut frames = Frames::default();
            assert_eq!(frames.advance(bytes), bytes.len());
            assert_eq!((frames.opaque(), frames.is_between()), (Some(why), false));
        }
        let mut frames = Frames::default();
        frames.advance(b"HTTP/1.1 101 Switching Protocols\r\n\r\n");
        assert_eq!((frames.opaque(), frames.is_between()), (None, true));
    }

    #[test]
    fn a_lie_is_in_the_header_alone() {
        let lie = lengthened(&frame(b"abc"), 1000);
        assert_eq!(lie, [&[0x82, 126, 3, 235][..], b"abc"].concat());
        assert_eq!(lengthened(&[0x82, 0x81, 1, 2, 3, 4, b'x'], 2), [0x82, 0x83, 1, 2, 3, 4, b'x']);
    }
}
