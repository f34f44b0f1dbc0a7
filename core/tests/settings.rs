//! A setting that is out of range is refused by name, and what is at the border is not

use std::time::Duration;

use rejoin_core::client::{self, Client};
use rejoin_core::coordinator::{self, Coordinator, Recovery};
use rejoin_core::ids::{BootId, ClusterId, KeyId, Role};
use rejoin_core::limits::{
    AUDIENCE_BYTES_MAX, BLOB_BYTES_MAX, ENDPOINTS_MAX, HANDSHAKE_TIME, HEARTBEAT_MAX, HEARTBEAT_MIN,
};
use rejoin_core::limits::{INLINE_BYTES_MAX, WORKER_ATTEMPTS_MAX};
use rejoin_core::link::LinkConfig;
use rejoin_core::wire::keys::Key;
use rejoin_core::worker::{self, Worker};
use rejoin_core::{ConfigError, Instant, Seed};
use rejoin_sim::{client_key, worker_key};

const SEED: Seed = Seed([1; 32]);
const MICRO: Duration = Duration::from_micros(1);

fn link(change: fn(&mut LinkConfig)) -> Result<(), ConfigError> {
    let mut config = LinkConfig::new(worker_key(0), BootId([2; 16]), "ws://coordinator/v1/worker");
    change(&mut config);
    // Both machines that dial look at it.
    let as_worker = Worker::new(worker::Config::new(config.clone()), SEED, Instant::ZERO).map(|_| ());
    let as_client = Client::new(client::Config::new(config), SEED, Instant::ZERO).map(|_| ());
    assert_eq!(as_worker, as_client);
    as_worker
}

fn worker(change: fn(&mut worker::Config)) -> Result<(), ConfigError> {
    let link = LinkConfig::new(worker_key(0), BootId([2; 16]), "ws://coordinator/v1/worker");
    let mut config = worker::Config::new(link);
    change(&mut config);
    Worker::new(config, SEED, Instant::ZERO).map(|_| ())
}

fn coordinator(change: fn(&mut coordinator::Config)) -> Result<(), ConfigError> {
    let mut config = coordinator::Config::new(ClusterId([3; 16]), 1, vec![worker_key(0), client_key(0)]);
    change(&mut config);
    let recovered = Recovery::start(config.clone(), SEED, Instant::ZERO).map(|_| ());
    let began = Coordinator::new(config, SEED, Instant::ZERO).map(|_| ());
    assert_eq!(began, recovered, "a journal makes no difference to what is legal");
    began
}

/// Refused, and by the name of this field
fn refused(result: Result<(), ConfigError>, field: &str) {
    let error = result.expect_err(field);
    assert_eq!(error.field, field);
    let text = error.to_string();
    assert!(text.contains(field) && text.contains(error.allowed), "{text}");
}

#[test]
fn what_dials_needs_endpoints_and_times_that_can_hold() {
    refused(link(|c| c.endpoints.clear()), "endpoints");
    refused(link(|c| c.endpoints = vec!["ws://a".into(); ENDPOINTS_MAX + 1]), "endpoints");
    refused(link(|c| c.endpoints.push("x".repeat(AUDIENCE_BYTES_MAX + 1))), "endpoints");
    assert_eq!(link(|c| c.endpoints = vec!["x".repeat(AUDIENCE_BYTES_MAX); ENDPOINTS_MAX]), Ok(()));
    refused(link(|c| c.heartbeat = Some(HEARTBEAT_MIN - MICRO)), "heartbeat");
    refused(link(|c| c.heartbeat = Some(HEARTBEAT_MAX + MICRO)), "heartbeat");
    assert_eq!(link(|c| c.heartbeat = Some(HEARTBEAT_MIN)), Ok(()));
    refused(link(|c| c.handshake_time = Duration::ZERO), "handshake_time");
    refused(link(|c| c.handshake_time = HANDSHAKE_TIME + MICRO), "handshake_time");
    refused(link(|c| c.backoff.base = Duration::ZERO), "backoff");
    refused(link(|c| c.backoff.cap = c.backoff.base - MICRO), "backoff");
    assert_eq!(link(|c| c.backoff.cap = c.backoff.base), Ok(()));
}

#[test]
fn a_worker_has_room_for_all_that_it_may_be_given() {
    refused(worker(|c| c.slots = 0), "slots");
    refused(worker(|c| c.prefetch = WORKER_ATTEMPTS_MAX as u16), "slots");
    refused(worker(|c| c.attempts_max = c.slots + c.prefetch - 1), "attempts_max");
    refused(worker(|c| c.attempts_max = WORKER_ATTEMPTS_MAX as u16 + 1), "attempts_max");
    assert_eq!(worker(|c| c.attempts_max = c.slots + c.prefetch), Ok(()));
    refused(worker(|c| c.result_bytes_max = INLINE_BYTES_MAX as u32 + 1), "result_bytes_max");
    assert_eq!(worker(|c| c.result_bytes_max = INLINE_BYTES_MAX as u32), Ok(()));
    refused(worker(|c| c.large_result_max = BLOB_BYTES_MAX + 1), "large_result_max");
}

#[test]
fn a_worker_says_beforehand_how_much_memory_its_settings_cost() {
    let mut config = worker::Config::new(LinkConfig::new(worker_key(0), BootId([2; 16]), "ws://a"));
    (config.slots, config.prefetch, config.attempts_max, config.result_bytes_max) = (3, 2, 10, 1000);
    // An input and two checkpoints for each that runs or waits, a result for each that is held, and a window of pieces.
    let without_results = 5 * 3 * INLINE_BYTES_MAX + 256 * 1024;
    config.large_result_max = 0;
    assert_eq!(config.arena_bytes(), without_results + 10 * 1000);
    // The names of the chunks of a large result, where those are more than a small one.
    config.large_result_max = BLOB_BYTES_MAX;
    assert_eq!(config.arena_bytes(), without_results + 10 * 256 * 32);
}

#[test]
fn a_client_can_follow_something() {
    let link = LinkConfig::new(client_key(0), BootId([2; 16]), "ws://a");
    let mut config = client::Config::new(link);
    config.tasks_max = 0;
    refused(Client::new(config, SEED, Instant::ZERO).map(|_| ()), "tasks_max");
}

#[test]
fn a_coordinator_has_room_time_and_a_place_in_its_history() {
    refused(coordinator(|c| c.heartbeat = Some(HEARTBEAT_MIN - MICRO)), "heartbeat");
    refused(coordinator(|c| c.heartbeat = Some(HEARTBEAT_MAX + MICRO)), "heartbeat");
    refused(coordinator(|c| c.epoch = 0), "epoch");
    refused(coordinator(|c| c.tokens_from = 0), "epoch");
    refused(coordinator(|c| c.pending_max = 1), "pending_max");
    refused(coordinator(|c| c.tasks_max = 0), "pending_max");
    refused(coordinator(|c| c.admission.rate = 0), "admission");
    refused(coordinator(|c| c.admission.burst = 0), "admission");
    refused(coordinator(|c| c.clients_max = 0), "clients_max");
    refused(coordinator(|c| c.crashes_max = 0), "crashes_max");
}

#[test]
fn auth_6_keys_that_contradict_each_other_are_refused() {
    let other_role = |key: Key| Key { role: Role::Client, id: KeyId([7; 8]), ..key };
    let mut config = coordinator::Config::new(ClusterId([3; 16]), 1, vec![worker_key(0), other_role(worker_key(0))]);
    refused(Coordinator::new(config.clone(), SEED, Instant::ZERO).map(|_| ()), "keys");
    config.keys = vec![worker_key(0), Key { id: worker_key(0).id, ..worker_key(1) }];
    refused(Coordinator::new(config.clone(), SEED, Instant::ZERO).map(|_| ()), "keys");
    config.keys = vec![worker_key(0)];
    config.revoked = vec![worker_key(1).id];
    refused(Coordinator::new(config.clone(), SEED, Instant::ZERO).map(|_| ()), "revoked");
    config.revoked = vec![worker_key(0).id];
    assert!(Coordinator::new(config, SEED, Instant::ZERO).is_ok());
}
