//! Settings of a coordinator

use alloc::string::String;
use alloc::vec::Vec;
use core::time::Duration;

use crate::binding::Binding;
use crate::error::ConfigError;
use crate::ids::{ClusterId, KeyId};
use crate::limits::{HEARTBEAT_MAX, HEARTBEAT_MIN, TERM_MAX, WIRE_VERSION, WIRE_VERSION_OLDEST};
use crate::pins::Pins;
use crate::wire::keys::Key;

use super::admission::AdmissionConfig;

/// How a coordinator behaves
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster, the same for all its epochs
    pub cluster: ClusterId,
    /// Higher than that of any start before (JOURN-2)
    pub epoch: u64,
    /// Tokens below this may have been given by an earlier epoch (TASK-2)
    pub tokens_from: u64,
    /// The records may be older than what peers have seen: epoch and tokens go beyond all that (JOURN-2)
    ///
    /// `Some` has the time: milliseconds since 1970, or any number of that kind that is higher at each such start, so that
    /// the same records may be put back twice.
    pub restored: Option<u64>,
    /// Everybody who may connect (AUTH-6)
    pub keys: Vec<Key>,
    /// Those of the keys whose holders are told that they have been revoked (AUTH-6)
    pub revoked: Vec<KeyId>,
    /// Those of the keys that came about by rotation and were not used yet (AUTH-6)
    ///
    /// The first handshake with one retires what stands in front of it in `keys` under the same name.
    pub next: Vec<KeyId>,
    /// Those of the keys that are join tokens of workers, and for how long from the start on (AUTH-6)
    ///
    /// A join token opens no session: its holder is given a key of its own, whose first use burns it.
    pub tokens: Vec<(KeyId, Duration)>,
    /// Heartbeat period; `None` follows the size of the fleet (LIVE-1)
    pub heartbeat: Option<Duration>,
    /// How long a session outlives its connection (SESS-9)
    pub session_lifetime: Duration,
    /// From a worker's disconnection to giving its tasks to others (TASK-5)
    pub lost_after: Duration,
    /// A worker that loses its connection more than five times within this gets less work; 0 turns that off (TASK-10)
    pub flapping_within: Duration,
    /// How long losses are delayed after many workers have vanished at a time; 0 turns that off (TASK-10)
    pub brake_for: Duration,
    /// How long a lease lasts from its last renewal, and at least three heartbeats; `None` is 30 s (TASK-4)
    pub lease_ttl: Option<Duration>,
    /// How long after the end of its lease an exclusive attempt is over (TASK-4)
    pub lease_grace: Duration,
    /// How long workers may take to come back after a recovery before their tasks go to others (JOURN-4)
    pub recovery_window: Duration,
    /// How many connections are let in (BACK-2)
    pub admission: AdmissionConfig,
    /// Most connections that have not proved who they are; costs about 1 KiB each, while used
    pub pending_max: usize,
    /// Most tasks, ended ones that were not forgotten included; costs about 500 bytes and the payload each
    pub tasks_max: usize,
    /// How long a task that has ended is kept before it is forgotten; `None` is until that is asked for (JOURN-5)
    pub forget_after: Option<Duration>,
    /// How long a forgotten task's id and outcome are remembered (TASK-1)
    pub retention: Duration,
    /// Most forgotten tasks that are remembered; costs about 100 bytes each
    pub forgotten_max: usize,
    /// Largest output of a task, per stream, in bytes (LOG-1)
    pub output_bytes_max: u64,
    /// First pause before a failed attempt is followed by another; doubles up to a minute
    pub retry_pause: Duration,
    /// Crashes of its worker, while it ran alone, that end a task as poisonous (TASK-6)
    pub crashes_max: u32,
    /// Losses of its worker that end a task (TASK-6)
    pub losses_max: u32,
    /// How long a task waits until it counts as one priority more urgent (LANES-1)
    pub ageing: Duration,
    /// Largest checkpoint, in bytes; those of more than 48 KiB stay with the embedder (CKPT-2)
    pub checkpoint_max: u64,
    /// Most bytes of all checkpoints of open tasks; of a task with large ones the last two are kept (CKPT-2)
    pub checkpoint_bytes_max: u64,
    /// Most bytes of all that is kept in chunks: checkpoints of open tasks, and what ended ones returned (FRAME-3)
    pub blob_bytes_max: u64,
    /// Most lives of clients that are connected or may resume; costs about 1 KiB each, while used
    pub clients_max: usize,
    /// Who stays when two hold the same key (AUTH-4)
    pub contention: Contention,
    /// Newest wire version to speak, for a fleet that is to stay at an older one (FRAME-6)
    pub wire_version: u16,
    /// Whether lz4 may be used (FRAME-5)
    pub compress: bool,
    /// Values for what connections find out by themselves (LIVE-6)
    pub pins: Pins,
    /// Whether handshakes are bound to the TLS connection beneath them (AUTH-7)
    pub binding: Binding,
    /// The URLs by which this coordinator may be dialled, in the dialling end's normal form; none: any (AUTH-7)
    pub audiences: Vec<String>,
}

/// Who stays when a second holder of a key comes while the first one answers (AUTH-4)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contention {
    /// The first; the second is told to come back
    Reject,
    /// The second; the first is told to stop
    Newest,
}

impl Config {
    /// Everything but identity and keys at its default
    pub fn new(cluster: ClusterId, epoch: u64, keys: Vec<Key>) -> Self {
        Config {
            cluster,
            epoch,
            tokens_from: 1,
            restored: None,
            keys,
            revoked: Vec::new(),
            next: Vec::new(),
            tokens: Vec::new(),
            heartbeat: None,
            session_lifetime: Duration::from_secs(300),
            lost_after: Duration::from_secs(60),
            flapping_within: Duration::from_secs(600),
            brake_for: Duration::from_secs(300),
            lease_ttl: None,
            lease_grace: Duration::from_secs(10),
            recovery_window: Duration::from_secs(120),
            admission: AdmissionConfig::default(),
            pending_max: 4096,
            tasks_max: 1_000_000,
            forget_after: None,
            retention: Duration::from_secs(24 * 3600),
            forgotten_max: 1_000_000,
            output_bytes_max: 64 * 1024 * 1024,
            retry_pause: Duration::from_millis(100),
            crashes_max: 3,
            losses_max: 20,
            ageing: Duration::from_secs(60),
            checkpoint_max: 64 * 1024 * 1024,
            checkpoint_bytes_max: 1024 * 1024 * 1024,
            blob_bytes_max: 4 * 1024 * 1024 * 1024,
            clients_max: 1024,
            contention: Contention::Reject,
            wire_version: WIRE_VERSION,
            compress: true,
            pins: Pins::default(),
            binding: Binding::default(),
            audiences: Vec::new(),
        }
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let error = |field, allowed| Err(ConfigError { field, allowed });
        if self.heartbeat.is_some_and(|period| !(HEARTBEAT_MIN..=HEARTBEAT_MAX).contains(&period)) {
            return error("heartbeat", "50 ms to 40 s");
        }
        if self.epoch == 0 || self.tokens_from == 0 {
            return error("epoch", "at least 1, and so must the first token");
        }
        if self.pending_max < 2 || self.tasks_max == 0 {
            return error("pending_max", "at least 2, with room for at least one task");
        }
        if self.admission.rate == 0 || self.admission.burst == 0 {
            return error("admission", "at least one connection per second and at once");
        }
        if self.clients_max == 0 {
            return error("clients_max", "at least 1");
        }
        if !(WIRE_VERSION_OLDEST..=WIRE_VERSION).contains(&self.wire_version) {
            return error("wire_version", "1 or 2");
        }
        if self.lease_ttl.is_some_and(|ttl| ttl.is_zero() || ttl > TERM_MAX) || self.lease_grace > TERM_MAX {
            return error("lease_ttl", "above 0, at most 365 days, and so must its grace");
        }
        if self.crashes_max == 0 {
            return error("crashes_max", "at least 1");
        }
        self.pins.validate()
    }
}
