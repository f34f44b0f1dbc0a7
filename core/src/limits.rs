//! Every fixed bound, with what it costs
//!
//! Bounds that a deployment may change are fields of a machine's `Config` instead; where a default exists it is here.

use core::time::Duration;

/// Newest version of the wire format that this build speaks (FRAME-6)
pub const WIRE_VERSION: u16 = 2;
/// Oldest version of the wire format that this build speaks (FRAME-6)
pub const WIRE_VERSION_OLDEST: u16 = 1;

/// Largest frame, header and tag included (FRAME-3)
///
/// The buffer handed to `poll` must be at least this long.
pub const FRAME_BYTES_MAX: usize = 65_536;
/// Largest body of a frame, before compression and after decompression (FRAME-3)
pub const BODY_BYTES_MAX: usize = 65_000;
/// Largest encoded message (FRAME-3)
pub const MESSAGE_BYTES_MAX: usize = 60_000;
/// Largest task input or result that travels inside a message (FRAME-3)
pub const INLINE_BYTES_MAX: usize = 48 * 1024;
/// Largest first or third handshake message that is looked at (AUTH-5)
pub const HANDSHAKE_BYTES_MAX: usize = 4096;
/// Bodies shorter than this are not compressed at first, until it is known whether that pays (FRAME-5)
pub const COMPRESS_FROM_BYTES: usize = 512;
/// Bodies shorter than this are never compressed (FRAME-5)
pub const COMPRESS_FROM_BYTES_MIN: usize = 256;
/// Fewest bytes of a bulk piece, while there are as many (FRAME-4)
pub const BULK_PIECE_BYTES_MIN: u64 = 1024;
/// Most bytes of a bulk piece: half of the smallest chunk (FRAME-4)
///
/// A worker has memory for one, once.
pub const BULK_PIECE_BYTES_MAX: usize = 32 * 1024;
/// Smallest window of bulk that every sender makes use of; it may wait until as much is left (LANES-2)
pub const BULK_WINDOW_BYTES_MIN: u64 = 16 * 1024;
/// Bulk bytes that may be under way on a connection beyond what the receiver has dealt with (LANES-2)
pub const BULK_WINDOW_BYTES: u64 = 1024 * 1024;

/// Bytes of a chunk of a blob, doubled until there are at most [`CHUNKS_MAX`] (CKPT-1)
pub const CHUNK_BYTES: u64 = 64 * 1024;
/// Most chunks of a blob (CKPT-1)
pub const CHUNKS_MAX: usize = 1024;
/// Largest input and largest result of a task that go in chunks (FRAME-3)
pub const BLOB_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// First wire version with blobs in chunks (FRAME-6)
pub const CHUNKS_SINCE: u16 = 2;
/// Bulk bytes that a worker takes in before its embedder has taken them over (LANES-2)
///
/// Costs as much, once, when the worker is made.
pub const WORKER_BULK_WINDOW_BYTES: u64 = 256 * 1024;

/// Longest name of a worker or client, in bytes
pub const NAME_BYTES_MAX: usize = 64;
/// Most endpoints of a coordinator that a peer tries in turn (BACK-4)
pub const ENDPOINTS_MAX: usize = 16;
/// Longest title of a task, in bytes
pub const TITLE_BYTES_MAX: usize = 200;
/// How long a peer stays away at least from a coordinator that is of another cluster, or older than what it has seen (JOURN-2)
pub const WRONG_COORDINATOR_MIN: Duration = Duration::from_secs(5);
/// And at most, if that is not longer than its backoff
pub const WRONG_COORDINATOR_MAX: Duration = Duration::from_secs(15);
/// Most tasks that are named of those that a worker holds and no journal knows (JOURN-2)
pub const UNKNOWN_TASKS_MAX: usize = 16;
/// Most labels and amounts of a task or a worker (TASK-9)
pub const TAGS_MAX: usize = 16;
/// Most bytes that may be said about a task or a worker, encoded (TASK-9)
pub const ABOUT_BYTES_MAX: usize = 2400;
/// First wire version in which workers' keys are replaced while they are connected (FRAME-6)
pub const ROTATION_SINCE: u16 = 2;
/// Most keys of a name that came about by rotation and were not used yet (AUTH-6)
pub const KEYS_NEXT_MAX: usize = 4;
/// Most keys that may follow from one join token: beyond that it is spent (AUTH-6)
pub const TOKEN_KEYS_MAX: usize = 16;
/// Longest time that the terms of a task may name (TASK-5)
pub const TERM_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
/// First wire version in which workers hold leases, and are told the terms of tasks (FRAME-6)
pub const TERMS_SINCE: u16 = 2;
/// First wire version in which heartbeats carry a digest of what a worker holds (FRAME-6)
pub const DIGEST_SINCE: u16 = 2;
/// First wire version in which a coordinator that goes away by plan says when to come back (FRAME-6)
pub const SLOTS_SINCE: u16 = 2;
/// First wire version in which workers are told how often they fail (FRAME-6)
pub const MTBF_SINCE: u16 = 2;
/// Shortest time from one checkpoint to the next that is asked for, where that is not pinned (LIVE-6)
pub const CHECKPOINT_EVERY_MIN: Duration = Duration::from_secs(10);
/// And the longest
pub const CHECKPOINT_EVERY_MAX: Duration = Duration::from_secs(3600);
/// How long a worker is taken to go between failures before any are seen (LIVE-6)
pub const MTBF_PRIOR: Duration = Duration::from_secs(6 * 3600);
/// Shortest mean time between failures that a coordinator tells
pub const MTBF_MIN: Duration = Duration::from_secs(60);
/// And the longest
pub const MTBF_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// First wire version in which clients are told that a task was forgotten (FRAME-6)
pub const FORGOTTEN_SINCE: u16 = 2;
/// Mismatches in a row after which a worker is asked what it holds (SESS-8)
pub const MISMATCHES_MAX: u32 = 2;
/// Shortest time between two such questions in a session (SESS-8)
pub const COMPARE_PAUSE: Duration = Duration::from_secs(60);
/// How much faster or slower a clock may run than it should for exclusive attempts never to overlap, in percent (TASK-4)
pub const CLOCK_DRIFT_PERCENT: u32 = 1;
/// Longest audience (the URL as dialled), in bytes
pub const AUDIENCE_BYTES_MAX: usize = 512;

/// Most attempts a worker holds: waiting, running, or finished and not yet settled
///
/// Costs about 1 KiB each, once, when the worker is made.
pub const WORKER_ATTEMPTS_MAX: usize = 512;
/// Most numbered messages of a worker that may wait for an acknowledgement (SESS-1)
///
/// Costs 24 bytes each, once, when the worker is made.
pub const WORKER_UNACKED_MAX: usize = 4096;
/// Most numbered messages from the coordinator to one peer that may wait for an acknowledgement (SESS-1)
///
/// Costs 48 bytes each, while used.
pub const SESSION_UNACKED_MAX: usize = 4096;
/// Most bytes of numbered messages that may wait for an acknowledgement, per direction (SESS-1)
///
/// The last message may go beyond by its own length.
pub const SESSION_UNACKED_BYTES: u64 = 4 * 1024 * 1024;
/// Items of an inventory that travel in one message; below 32 KiB at the largest item (SESS-7)
pub const INVENTORY_PART_ITEMS: usize = 256;

/// Most questions of a client that wait for their answers (section 12 of PROTOCOL.md)
pub const ASKS_MAX: usize = 16;
/// Most bytes of an answer
pub const ANSWER_BYTES_MAX: usize = 32 * 1024;

/// An acknowledgement leaves after this many messages at the latest (SESS-2)
pub const ACK_AFTER_MESSAGES: u64 = 64;
/// An acknowledgement leaves after this many bytes at the latest (SESS-2)
pub const ACK_AFTER_BYTES: u64 = 256 * 1024;
/// An acknowledgement leaves after this time at the latest (SESS-2)
pub const ACK_AFTER: Duration = Duration::from_secs(1);

/// Shortest heartbeat period that is accepted (LIVE-1)
pub const HEARTBEAT_MIN: Duration = Duration::from_millis(50);
/// Longest heartbeat period that is accepted (LIVE-1)
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(40);
/// Least silence on which a peer is suspected, in thousandths of a period (LIVE-3)
pub const SUSPECT_MIN_PERMILLE: u64 = 1_250;
/// Most silence until a peer is suspected, in thousandths of a period (LIVE-3)
pub const SUSPECT_MAX_PERMILLE: u64 = 2_250;
/// Silence on which a link is dead, in thousandths of a period (LIVE-2)
pub const DEAD_PERMILLE: u64 = 2_500;
/// How often an unfinished frame may put off the verdict that a link is dead (LIVE-2)
pub const SLOW_FRAME_REPRIEVES: u8 = 2;

/// From the transport's opening to the end of the handshake (AUTH-5)
pub const HANDSHAKE_TIME: Duration = Duration::from_secs(10);
/// From the challenge to the proof (AUTH-5)
pub const PROOF_TIME: Duration = Duration::from_secs(5);
/// How long a contended worker name waits for the old connection to answer (AUTH-4)
pub const PROBE_TIME: Duration = Duration::from_secs(5);
/// Handshakes in a row that fail verification before a peer goes to the slow lane (AUTH-2)
pub const FAILED_HANDSHAKES_MAX: u32 = 3;
/// Shortest pause in the slow lane (AUTH-2)
pub const SLOW_LANE_MIN: Duration = Duration::from_secs(30);
/// Longest pause in the slow lane (AUTH-2)
pub const SLOW_LANE_MAX: Duration = Duration::from_secs(300);
/// Longest wait that an unauthenticated RETRY_AFTER can impose (BACK-2)
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// Tokens are reserved in blocks of this many by one durable record (TASK-2)
pub const TOKEN_BLOCK: u64 = 1 << 20;
/// How many epochs a coordinator leaves out whose records may be old, and whose clock is behind them (JOURN-2)
pub const RESTORED_EPOCHS: u64 = 1_000_000;
/// The same in tokens (TASK-2)
pub const RESTORED_TOKENS: u64 = 1 << 30;
/// Tokens for each millisecond of the clock by which such a start goes: more than are given or reserved in one (JOURN-2)
///
/// Such tokens have 53 bits until the year 2039, so that every program that reads JSON can hold them.
pub const RESTORED_TOKENS_PER_MS: u64 = 1 << 12;
/// Number of task priorities; 0 is the most urgent (LANES-1)
pub const PRIORITIES: u8 = 5;
