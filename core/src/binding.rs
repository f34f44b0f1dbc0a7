//! Channel binding: what ties a handshake to the TLS connection it travels on (AUTH-7)
//!
//! Both ends of a TLS connection can derive the same 32 bytes from it, and nobody else can: whoever stands between two
//! connections has two different values. The embedder hands the value in when the transport is open, and it goes into
//! the proofs of both ends.

/// The one kind of channel binding there is, as M1 and M2 name it (RFC 9266)
pub const TLS_EXPORTER: &[u8] = b"tls-exporter";

/// Whether handshakes are bound to the TLS connection beneath them
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Binding {
    /// Never: something that is trusted ends TLS between the two ends
    Off,
    /// Where both ends can
    #[default]
    Prefer,
    /// Always: a connection that cannot be bound is given up
    Require,
}
