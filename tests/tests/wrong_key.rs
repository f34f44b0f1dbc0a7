//! A worker with a wrong key, alone in its process, so that what it costs can be measured

use std::time::Duration;

use rejoin_core::backoff::BackoffConfig;
use rejoin_core::coordinator::PeerState;
use rejoin_core::ids::{KeyId, Role};
use rejoin_core::limits::FAILED_HANDSHAKES_MAX;
use rejoin_core::wire::keys::{Key, Secret};
use rejoin_tests::{Rig, cpu_time, endpoint, key, link, run, until};

#[test]
fn auth_2_a_wrong_key_changes_nothing_and_does_not_spin() {
    run(async {
        let rig = Rig::start().await;
        let known = key("w0", Role::Worker);
        let wrong_secret = Key { secret: Secret::new([0; 32]), ..known.clone() };
        let unknown_id = Key { id: KeyId([0; 8]), name: "nobody".parse().unwrap(), ..known };
        let workers = [wrong_secret, unknown_id].map(|key| {
            let mut link = link(key, &endpoint(rig.address));
            link.backoff = BackoffConfig { base: Duration::from_millis(10), ..BackoffConfig::default() };
            rig.worker_with(link, endpoint(rig.address), |_| {})
        });
        until(async || workers.iter().all(|worker| worker.glance().slow)).await;
        let before = cpu_time();
        // The time over which nothing must happen.
        smol::Timer::after(Duration::from_secs(2)).await;
        let spent = cpu_time() - before;
        assert!(spent < Duration::from_millis(200), "two workers in the slow lane took {spent:?} of processor time");
        for worker in &workers {
            let stats = worker.glance().stats;
            assert_eq!((stats.dials, stats.opened), (u64::from(FAILED_HANDSHAKES_MAX), 0));
            assert!(!worker.running.is_finished(), "nobody proved that it is not wanted");
        }
        let overview = rig.overview().await;
        assert_eq!((overview.stats.opened, overview.stats.resumed), (0, 0));
        assert!(overview.peers.iter().all(|peer| peer.state == PeerState::Unknown));
    });
}
