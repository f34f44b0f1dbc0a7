//! Virtual sockets: two ordered pipes of messages between a peer and the coordinator, and what can befall them

use std::fmt;
use std::time::Duration;

use rejoin_core::Instant;
use rejoin_core::ids::ConnId;

/// One of the two ends of a connection
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// The worker or client
    Peer,
    /// The coordinator
    Coordinator,
}

impl Side {
    pub(crate) fn other(self) -> Side {
        match self {
            Side::Peer => Side::Coordinator,
            Side::Coordinator => Side::Peer,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Peer => "peer",
            Side::Coordinator => "coordinator",
        })
    }
}

/// One connection, from its opening to its end
#[derive(Clone, Debug)]
pub(crate) struct Socket {
    pub(crate) peer: usize,
    pub(crate) attempt: u64,
    pub(crate) conn: ConnId,
    /// Whether an end still believes in it
    pub(crate) peer_open: bool,
    pub(crate) coordinator_open: bool,
    /// Towards an end, nothing arrives any more and nobody is told
    pub(crate) deaf: [bool; 2],
    /// The far end is worked by hand: what arrives there waits to be heard
    pub(crate) by_hand: Option<Side>,
}

impl Socket {
    pub(crate) fn is_open(&self, side: Side) -> bool {
        match side {
            Side::Peer => self.peer_open,
            Side::Coordinator => self.coordinator_open,
        }
    }

    pub(crate) fn close(&mut self, side: Side) {
        match side {
            Side::Peer => self.peer_open = false,
            Side::Coordinator => self.coordinator_open = false,
        }
    }

    pub(crate) fn deaf(&mut self, side: Side) -> &mut bool {
        &mut self.deaf[side as usize]
    }
}

/// A message that arrived, for stories that look at the wire
#[derive(Clone, Debug)]
pub struct Tapped {
    /// When
    pub time: Instant,
    /// On which connection
    pub conn: ConnId,
    /// At which end
    pub at: Side,
    /// As it arrived
    pub bytes: Vec<u8>,
}

/// What a peer's network is like
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    /// One way
    pub latency: Duration,
    /// New connections fail
    pub refuses: bool,
    /// The one endpoint at which new connections do not fail, if not all are good
    pub only: Option<usize>,
    /// New connections are dropped without a word
    pub swallows: bool,
    /// New connections lead to somebody who is not the coordinator, and who is worked by hand
    pub diverted: bool,
    /// What each end derives from the TLS connection beneath, first the peer; none without TLS (AUTH-7)
    pub exporters: [Option<[u8; 32]>; 2],
}

impl Default for Wire {
    fn default() -> Self {
        Wire {
            latency: Duration::from_millis(1),
            refuses: false,
            only: None,
            swallows: false,
            diverted: false,
            exporters: [None; 2],
        }
    }
}
