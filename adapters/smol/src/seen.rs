//! What machines see of their transports, as log lines of the finest level

use std::fmt;

use rejoin_core::link::Reason;

/// Target of these lines; `end` is `peer` or `coordinator`, `conn` the name that the machine has for the connection
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
    /// By whoever dials
    pub(crate) fn by_peer(self, conn: u64) {
        tracing::trace!(target: TARGET, end = "peer", conn, what = %self);
    }

    /// By whoever was dialled
    pub(crate) fn by_coordinator(self, conn: u64) {
        tracing::trace!(target: TARGET, end = "coordinator", conn, what = %self);
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
