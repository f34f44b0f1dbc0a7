//! Links that die without a word, and what is left of them

use std::time::Duration;

use rejoin_core::wire::message::Outcome;
use rejoin_smol::chaos::{Fault, Kind, Profile};
use rejoin_tests::{Rig, run, shell, timed, until};

/// Long enough that half a period is more than a busy machine takes to wake up
const PERIOD: Duration = Duration::from_millis(500);

#[test]
fn live_2_both_ends_find_an_idle_half_open_link_within_three_periods() {
    run(async {
        let rig = Rig::with(|config| config.heartbeat = Some(PERIOD), |journal| journal).await;
        let proxy = rig.proxy(Profile::Calm).await;
        let worker = rig.worker("w0", proxy.local_addr());
        worker.connected().await;
        rig.until_connected("w0", true).await;
        // Nobody comes back before the coordinator has had to find out by itself.
        proxy.strike(Fault::of_all(Kind::Refuse).lasting(Duration::from_secs(60)));
        // Each end has to find out by itself: that the other one has closed is never told.
        proxy.strike(Fault::of_all(Kind::Dead));
        let found = timed(async {
            until(async || worker.glance().stats.silences == 1).await;
            rig.until_connected("w0", false).await;
        })
        .await;
        assert!(found < 3 * PERIOD, "found after {found:?}");
        assert_eq!(rig.overview().await.stats.silences, 1);
        proxy.heal();
        worker.reconnected(1).await;
        assert_eq!(rig.done("next", &shell("true")).await.outcome, Outcome::Succeeded);
        assert_eq!((worker.glance().stats.reconnections, worker.glance().stats.resumed), (1, 1));
    });
}

#[test]
fn back_1_each_cut_costs_exactly_one_reconnection() {
    run(async {
        let rig = Rig::start().await;
        let proxy = rig.proxy(Profile::Calm).await;
        let worker = rig.worker("w0", proxy.local_addr());
        worker.connected().await;
        for cut in 1..=10 {
            // In silence and by reset, in turns.
            proxy.strike(Fault::of_all(if cut % 2 == 0 { Kind::Dead } else { Kind::Reset }));
            worker.reconnected(cut).await;
            let ended = rig.done(&cut.to_string(), &shell("true")).await;
            assert_eq!((ended.outcome, ended.attempt), (Outcome::Succeeded, 1));
            let stats = worker.glance().stats;
            assert_eq!((stats.reconnections, stats.resumed, stats.opened), (cut, cut, 1));
        }
        assert_eq!(rig.overview().await.stats.opened, 1);
    });
}

#[test]
fn sess_4_the_late_close_of_an_old_connection_leaves_the_new_one_alone() {
    run(async {
        let rig = Rig::start().await;
        let proxy = rig.proxy(Profile::Calm).await;
        let worker = rig.worker("w0", proxy.local_addr());
        worker.connected().await;
        let task = rig.submit("spanning", shell("sleep 2; echo done").encode()).await;
        until(async || rig.overview().await.counts.assigned == 1).await;
        proxy.strike(Fault::of_all(Kind::LateClose).lasting(Duration::from_secs(1)));
        worker.reconnected(1).await;
        // The old connection outlives the cut, and closes beside the new one.
        until(async || proxy.connections_now() == 1).await;
        let ended = rig.ended(task).await;
        assert_eq!((ended.outcome, ended.attempt), (Outcome::Succeeded, 1));
        let (ours, theirs) = (worker.glance().stats, rig.overview().await.stats);
        assert_eq!((ours.reconnections, ours.resumed, theirs.opened, theirs.assigned), (1, 1, 1, 1));
    });
}
