//! Settings of the dialling end

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use crate::backoff::BackoffConfig;
use crate::binding::Binding;
use crate::error::ConfigError;
use crate::ids::{BootId, ClusterId};
use crate::limits::{
    AUDIENCE_BYTES_MAX, ENDPOINTS_MAX, HANDSHAKE_TIME, HEARTBEAT_MAX, HEARTBEAT_MIN, WIRE_VERSION, WIRE_VERSION_OLDEST,
};
use crate::pins::Pins;
use crate::wire::keys::Key;

/// How a worker or client reaches its coordinator
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// Name, role and secret (AUTH-6)
    pub key: Key,
    /// The key is a join token: the first connection gives this worker a key of its own in its place (AUTH-6)
    pub token: bool,
    /// Which life of the embedder's memory this is; 16 fresh random bytes for each
    pub boot: BootId,
    /// URLs of the coordinator, as dialled, in the order in which they are tried (BACK-4); 1 to [`ENDPOINTS_MAX`], of at
    /// most [`AUDIENCE_BYTES_MAX`] bytes each
    pub endpoints: Vec<String>,
    /// The cluster this peer belongs to, where it is known
    pub cluster: Option<ClusterId>,
    /// A heartbeat period to ask less than the coordinator's (LIVE-1)
    pub heartbeat: Option<Duration>,
    /// The law of reconnection
    pub backoff: BackoffConfig,
    /// Newest wire version to offer, for a fleet that is to stay at an older one (FRAME-6)
    pub wire_version: u16,
    /// Whether to offer lz4 (FRAME-5)
    pub compress: bool,
    /// Values for what connections find out by themselves (LIVE-6)
    pub pins: Pins,
    /// Whether handshakes are bound to the TLS connection beneath them (AUTH-7)
    pub binding: Binding,
    /// Longest time for the transport to open, and then for the handshake to end (AUTH-5)
    pub handshake_time: Duration,
}

impl LinkConfig {
    /// Everything but key, life and the one endpoint at its default
    pub fn new(key: Key, boot: BootId, endpoint: &str) -> Self {
        LinkConfig {
            key,
            token: false,
            boot,
            endpoints: vec![endpoint.into()],
            cluster: None,
            heartbeat: None,
            backoff: BackoffConfig::default(),
            wire_version: WIRE_VERSION,
            compress: true,
            pins: Pins::default(),
            binding: Binding::default(),
            handshake_time: HANDSHAKE_TIME,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let too_long = |endpoint: &String| endpoint.len() > AUDIENCE_BYTES_MAX;
        if !(1..=ENDPOINTS_MAX).contains(&self.endpoints.len()) || self.endpoints.iter().any(too_long) {
            return Err(ConfigError { field: "endpoints", allowed: "1 to 16, of at most 512 bytes each" });
        }
        if self.heartbeat.is_some_and(|period| !(HEARTBEAT_MIN..=HEARTBEAT_MAX).contains(&period)) {
            return Err(ConfigError { field: "heartbeat", allowed: "50 ms to 40 s" });
        }
        if self.handshake_time.is_zero() || self.handshake_time > HANDSHAKE_TIME {
            return Err(ConfigError { field: "handshake_time", allowed: "above 0, at most 10 s" });
        }
        if !(WIRE_VERSION_OLDEST..=WIRE_VERSION).contains(&self.wire_version) {
            return Err(ConfigError { field: "wire_version", allowed: "1 or 2" });
        }
        if self.backoff.base.is_zero() || self.backoff.cap < self.backoff.base {
            return Err(ConfigError { field: "backoff", allowed: "0 < base <= cap" });
        }
        self.pins.validate()
    }
}
