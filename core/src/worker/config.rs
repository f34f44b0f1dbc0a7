//! Settings of a worker

use crate::about::Tags;
use crate::blob::{ChunkName, chunks};
use crate::error::ConfigError;
use crate::limits::{BLOB_BYTES_MAX, INLINE_BYTES_MAX, WORKER_ATTEMPTS_MAX, WORKER_BULK_WINDOW_BYTES};
use crate::link::LinkConfig;

/// How a worker behaves
#[derive(Clone, Debug)]
pub struct Config {
    /// How it reaches the coordinator
    pub link: LinkConfig,
    /// Tasks that run at a time
    pub slots: u16,
    /// Tasks beyond that which may wait here, so that a slot never waits for the network
    pub prefetch: u16,
    /// Attempts held at a time, finished ones included; at least `slots + prefetch`
    pub attempts_max: u16,
    /// Largest result in bytes that is kept here and travels in a message; larger ones become a failure (FRAME-3)
    pub result_bytes_max: u32,
    /// Largest result in bytes that goes in chunks and stays with the embedder; larger ones become a failure (FRAME-3)
    ///
    /// Costs 32 bytes for each chunk for each of `attempts_max`, where that is more than `result_bytes_max`.
    pub large_result_max: u64,
    /// Labels and amounts by which tasks find this worker (TASK-9)
    pub offers: Tags,
    /// Whether all memory is allocated when the worker is made, and none later; by default it is
    ///
    /// Otherwise it is allocated as it is needed, for many workers in one process: one that is idle then has some
    /// 5 KiB. The bounds are the same.
    pub reserve: bool,
}

impl Config {
    /// One slot, one task waiting, and room for 64 attempts with results of 4 KiB here, or 16 MiB in chunks
    pub fn new(link: LinkConfig) -> Self {
        Config {
            link,
            slots: 1,
            prefetch: 1,
            attempts_max: 64,
            result_bytes_max: 4096,
            large_result_max: BLOB_BYTES_MAX,
            offers: Tags::default(),
            reserve: true,
        }
    }

    /// Bytes that are reserved for the result of an attempt, or for the names of its chunks
    pub(super) fn result_room(&self) -> usize {
        (self.result_bytes_max as usize).max(chunks(self.large_result_max) * size_of::<ChunkName>())
    }

    /// Returns the memory that a worker with these settings allocates for payloads, checkpoints and results, in bytes
    pub fn arena_bytes(&self) -> usize {
        (usize::from(self.slots) + usize::from(self.prefetch)) * 3 * INLINE_BYTES_MAX
            + usize::from(self.attempts_max) * self.result_room()
            + WORKER_BULK_WINDOW_BYTES as usize
    }

    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let active = usize::from(self.slots) + usize::from(self.prefetch);
        if self.slots == 0 || active > WORKER_ATTEMPTS_MAX {
            return Err(ConfigError { field: "slots", allowed: "at least 1, with `prefetch` at most 512" });
        }
        if !(active..=WORKER_ATTEMPTS_MAX).contains(&usize::from(self.attempts_max)) {
            return Err(ConfigError { field: "attempts_max", allowed: "from slots + prefetch to 512" });
        }
        if self.result_bytes_max as usize > INLINE_BYTES_MAX {
            return Err(ConfigError { field: "result_bytes_max", allowed: "at most 48 KiB" });
        }
        if self.large_result_max > BLOB_BYTES_MAX {
            return Err(ConfigError { field: "large_result_max", allowed: "at most 16 MiB" });
        }
        Ok(())
    }
}
