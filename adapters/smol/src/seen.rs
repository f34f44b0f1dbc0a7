//! What machines see of their transports, as log lines of the finest level

use std::fmt;
use std::net::SocketAddr;

use rejoin_core::ids::ConnId;
use rejoin_core::link::Reason;

use crate::url::Endpoint;

/// Target of these lines
///
/// Their fields are `end`, which is `peer` or `coordinator`; `at`, the URL that was dialled or the address that listens; `conn`, the
/// machine's number for the connection; and `what`.
pub const TARGET: &str = "rejoin::transport";

/// What happens to a transport, in the eyes of a machine
#[derive(Clone, Copy, Debug)]
pub(crate) enum Seen {
    /// The machine wants it
    Dials,
    Opened,
    /// A message has arrived
    Hears,
    /// It is gone, or could not be opened
    Lost,
    /// The machine wants it no more
    Closes(Reason),
}

impl Seen {
    /// By whoever dials, and dialled that last
    pub(crate) fn by_peer(self, at: Option<&Endpoint>, conn: u64) {
        tracing::trace!(target: TARGET, end = "peer", at = at.map(tracing::field::display), conn, what = %self);
    }

    /// By whoever was dialled, at its own address
    pub(crate) fn by_coordinator(self, at: SocketAddr, conn: ConnId) {
        tracing::trace!(target: TARGET, end = "coordinator", %at, conn = conn.0, what = %self);
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Dials => f.write_str("dials"),
            Seen::Opened => f.write_str("opened"),
            Seen::Hears => f.write_str("hears"),
            Seen::Lost => f.write_str("lost"),
            Seen::Closes(reason) => write!(f, "closes: {reason}"),
        }
    }
}
