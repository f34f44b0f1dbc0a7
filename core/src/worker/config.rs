//! Settings of a worker

use crate::about::Tags;
use crate::error::ConfigError;
use crate::limits::{INLINE_BYTES_MAX, WORKER_ATTEMPTS_MAX, WORKER_BULK_WINDOW_BYTES};
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
    /// Largest result in bytes; larger ones become a failure (FRAME-3)
    pub result_bytes_max: u32,
    /// Labels and amounts by which tasks find this worker (TASK-9)
    pub offers: Tags,
}

impl Config {
    /// One slot, one task waiting, and room for 64 attempts with results of 4 KiB
    pub fn new(link: LinkConfig) -> Self {
        Config { link, slots: 1, prefetch: 1, attempts_max: 64, result_bytes_max: 4096, offers: Tags::default() }
    }

    /// Returns the memory that a worker with these settings allocates for payloads, checkpoints and results, in bytes
    pub fn arena_bytes(&self) -> usize {
        (usize::from(self.slots) + usize::from(self.prefetch)) * 3 * INLINE_BYTES_MAX
            + usize::from(self.attempts_max) * self.result_bytes_max as usize
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
        Ok(())
    }
}
