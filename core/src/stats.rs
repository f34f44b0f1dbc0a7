//! Plain counters; whoever embeds a machine turns them into metrics

/// What the dialling end of a connection has seen
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Dials begun
    pub dials: u64,
    /// Transports that opened
    pub connections: u64,
    /// Welcomes after the first, whether that arrived or not
    pub reconnections: u64,
    /// Sessions that went on where they were
    pub resumed: u64,
    /// Sessions that were opened
    pub opened: u64,
    /// Handshakes that failed verification
    pub failed_handshakes: u64,
    /// Frames whose tag did not verify
    pub bad_tags: u64,
    /// Sealed frames that broke the rules
    pub violations: u64,
    /// Links found dead by silence
    pub silences: u64,
    /// Messages dropped because they had arrived before
    pub duplicates: u64,
    /// Frames sealed
    pub frames_out: u64,
    /// Frames opened
    pub frames_in: u64,
    /// Bytes of sealed frames sent
    pub bytes_out: u64,
    /// Bytes of sealed frames received
    pub bytes_in: u64,
    /// Last round trip of a heartbeat, in microseconds
    pub rtt_us: Option<u64>,
    /// What the laws of the connection have come to, while there is one
    pub laws: Option<LawStats>,
}

/// What the laws that adapt to a connection have come to at one end of it (LIVE-6)
///
/// Each can be held at a value by [`Pins`](crate::pins::Pins).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LawStats {
    /// Bytes of a bulk piece (FRAME-4)
    pub bulk_piece_bytes: u64,
    /// Bytes of bulk that may be under way (FRAME-4)
    pub bulk_under_way_bytes: u64,
    /// The shortest round trip, in microseconds, once it is known (FRAME-4)
    pub shortest_round_trip_us: Option<u64>,
    /// Bytes from which on a body is compressed (FRAME-5)
    pub compress_from_bytes: u64,
}

/// What the coordinator has seen
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoordinatorStats {
    /// Connections accepted
    pub accepted: u64,
    /// Connections turned away by admission (BACK-2)
    pub turned_away: u64,
    /// Handshakes that failed verification, whatever the reason
    pub failed_handshakes: u64,
    /// Sessions that went on where they were
    pub resumed: u64,
    /// Sessions that were opened
    pub opened: u64,
    /// Connections taken over by a newer one of the same session (AUTH-4)
    pub takeovers: u64,
    /// Links found dead by silence
    pub silences: u64,
    /// Frames whose tag did not verify
    pub bad_tags: u64,
    /// Sealed frames that broke the rules
    pub violations: u64,
    /// Messages dropped because they had arrived before
    pub duplicates: u64,
    /// Results that became an outcome or a failed attempt
    pub applied: u64,
    /// Results that had been applied before
    pub duplicate_results: u64,
    /// Results under a retired token (TASK-3)
    pub stale_results: u64,
    /// Checkpoints kept
    pub checkpoints: u64,
    /// Checkpoints refused (CKPT-2)
    pub checkpoints_refused: u64,
    /// Checkpoints that an attempt was to start from, and could not be read (CKPT-4)
    pub checkpoints_unreadable: u64,
    /// Attempts given to workers
    pub assigned: u64,
    /// Attempts given up because their worker was lost
    pub lost_attempts: u64,
    /// Attempts given up because their worker crashed
    pub crashed_attempts: u64,
    /// Digests of what a worker holds that were compared (SESS-8)
    pub digests: u64,
    /// Those that were not what they should be
    pub mismatches: u64,
    /// Times that a worker was asked what it holds, and said so
    pub repairs: u64,
    /// Greetings of peers that say to have seen a higher epoch; unproven (JOURN-2)
    pub newer_epochs: u64,
    /// Attempts that workers held and the journal knows nothing of (JOURN-2)
    pub unknown_attempts: u64,
    /// Times that a client asked for a task that is not known
    pub unknown_tasks: u64,
    /// Frames sealed
    pub frames_out: u64,
    /// Frames opened
    pub frames_in: u64,
}
