//! The first two messages of a handshake as headers of the upgrade (AUTH-9)
//!
//! They save the round trip of the upgrade. Whatever is no such message is as good as none: it then comes as a message.

use async_tungstenite::tungstenite::http::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// M1, in the request
pub(crate) const HELLO: HeaderName = HeaderName::from_static("rejoin-hello");
/// The answer to it, in the response
pub(crate) const CHALLENGE: HeaderName = HeaderName::from_static("rejoin-challenge");

/// Longest value of either header
const HEADER_BYTES_MAX: usize = 1024;

/// The value that carries a message, if it is short enough
pub(crate) fn encode(message: &[u8]) -> Option<HeaderValue> {
    let text = URL_SAFE_NO_PAD.encode(message);
    HeaderValue::try_from(text).ok().filter(|value| value.len() <= HEADER_BYTES_MAX)
}

/// The message that a header carries, if it is there exactly once
pub(crate) fn decode(headers: &HeaderMap, name: HeaderName) -> Option<Vec<u8>> {
    let mut values = headers.get_all(name).into_iter();
    let value = values.next().filter(|value| value.len() <= HEADER_BYTES_MAX)?;
    if values.next().is_some() {
        // Somebody in between adds what it remembers; nobody can tell which is which.
        return None;
    }
    URL_SAFE_NO_PAD.decode(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auth_9_a_header_carries_a_message_or_nothing() {
        let mut headers = HeaderMap::new();
        assert_eq!(decode(&headers, HELLO), None);
        headers.insert(HELLO, encode(&[0xfb, 0xff, 0]).unwrap());
        assert_eq!(headers[HELLO], "-_8A");
        assert_eq!(decode(&headers, HELLO), Some(vec![0xfb, 0xff, 0]));
        assert_eq!(decode(&headers, CHALLENGE), None);
        headers.append(HELLO, encode(&[0xfb, 0xff, 0]).unwrap());
        assert_eq!(decode(&headers, HELLO), None, "it is there twice");
        for nonsense in ["=", "a", "-_8A=", "a b", "+/8A"] {
            headers.insert(HELLO, HeaderValue::from_static(nonsense));
            assert_eq!(decode(&headers, HELLO), None, "{nonsense}");
        }
    }

    #[test]
    fn auth_9_a_header_has_a_kilobyte() {
        assert_eq!(encode(&[7; 768]).map(|value| value.len()), Some(1024));
        assert_eq!(encode(&[7; 769]), None);
        let mut headers = HeaderMap::new();
        headers.insert(HELLO, HeaderValue::try_from("A".repeat(1028)).unwrap());
        assert_eq!(decode(&headers, HELLO), None);
    }
}
