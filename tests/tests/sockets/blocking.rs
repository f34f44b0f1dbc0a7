//! The core's example on plain threads is a worker like any other

#[allow(dead_code)]
#[path = "../../../core/examples/blocking_worker.rs"]
mod blocking_worker;

use rejoin_core::ids::Role;
use rejoin_core::wire::message::Outcome;
use rejoin_core::worker::Config;
use rejoin_smol::chaos::{Fault, Kind, Profile};
use rejoin_tests::{Rig, endpoint, key, link, noise, run};

#[test]
fn a_worker_on_blocking_threads_answers_each_task_once_through_cuts() {
    run(async {
        let rig = Rig::start().await;
        let proxy = rig.proxy(Profile::Calm).await;
        let config = Config::new(link(key("w0", Role::Worker), &endpoint(proxy.local_addr())));
        // It ends with the process: threads that block cannot be told to.
        std::thread::spawn(move || blocking_worker::work(config));
        for round in 1..=20 {
            let task = rig.submit(&format!("before cut {round}"), noise(round)).await;
            // In silence and by reset, in turns, and before or after the result has left.
            proxy.strike(Fault::of_all(if round % 2 == 0 { Kind::Dead } else { Kind::Reset }));
            let ended = rig.ended(task).await;
            assert_eq!((ended.outcome, ended.attempt, ended.result), (Outcome::Succeeded, 1, noise(round)));
        }
        let stats = rig.overview().await.stats;
        assert_eq!((stats.opened, stats.applied, stats.assigned), (1, 20, 20));
        assert!(stats.resumed > 0);
    });
}
