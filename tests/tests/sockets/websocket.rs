//! Faults of WebSockets between a worker and its coordinator: whatever befalls a frame, tasks are done once

use std::fs;
use std::time::Duration;

use rejoin_core::wire::message::Outcome;
use rejoin_smol::chaos::{End, Fault, Kind, Profile, Proxy, Settings, Whom};
use rejoin_tests::{LOOPBACK, LocalWorker, Rig, run, shell, until};

/// A fleet behind a proxy, and how many tasks it was given
struct Fleet {
    rig: Rig,
    proxy: Proxy,
    worker: LocalWorker,
    tasks: u32,
}

impl Fleet {
    async fn start() -> Fleet {
        let rig = Rig::start().await;
        let proxy = rig.proxy(Profile::Calm).await;
        let worker = rig.worker("w0", proxy.local_addr());
        worker.connected().await;
        Fleet { rig, proxy, worker, tasks: 0 }
    }

    /// A fault strikes beside a task, which is done once; how many reconnections that costs
    async fn gets_over(&mut self, fault: Fault) -> u64 {
        let (before, felt) = (self.worker.glance().stats.reconnections, self.proxy.counts().felt(fault.kind));
        self.tasks += 1;
        let task = format!("task {}", self.tasks);
        let file = self.rig.path().join(&task);
        self.proxy.strike(fault);
        let script = format!("echo x >> '{}'", file.display());
        let ended = self.rig.done(&task, &shell(&script)).await;
        assert_eq!((ended.outcome, ended.attempt), (Outcome::Succeeded, 1), "{fault:?}");
        until(async || self.proxy.counts().felt(fault.kind) > felt).await;
        assert_eq!(self.proxy.counts().impossible(fault.kind), 0);
        let starts = fs::read_to_string(file).expect("it was started");
        assert_eq!(starts, "x\n", "{fault:?}");
        self.worker.glance().stats.reconnections - before
    }

    /// The same, of a fault that breaks a connection
    async fn comes_back_from(&mut self, fault: Fault) {
        let before = self.worker.glance().stats.reconnections;
        self.gets_over(fault).await;
        self.worker.reconnected(before + 1).await;
        self.rig.until_connected("w0", true).await;
    }

    async fn ends(self) {
        self.ends_with(1).await;
    }

    /// Nothing was done twice, and of so many workers none has lost its session
    async fn ends_with(self, workers: u64) {
        let (ours, theirs) = (self.worker.glance().stats, self.rig.overview().await.stats);
        assert_eq!((ours.opened, theirs.opened), (1, workers));
        assert_eq!(theirs.assigned, u64::from(self.tasks));
    }
}

fn towards(kind: Kind, towards: End, amount: u64) -> Fault {
    Fault { towards, amount, ..Fault::of_all(kind) }
}

#[test]
fn every_close_code_is_followed_by_a_reconnection() {
    run(async {
        let mut fleet = Fleet::start().await;
        for end in [End::Peer, End::Coordinator] {
            for code in [0, 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 4000, 4999] {
                fleet.comes_back_from(towards(Kind::CloseFrame, end, code)).await;
            }
        }
        fleet.ends().await;
    });
}

#[test]
fn frames_that_no_rule_allows_end_the_connection_and_nothing_else() {
    run(async {
        let mut fleet = Fleet::start().await;
        for end in [End::Peer, End::Coordinator] {
            // A close with a code that is none, or that nobody may send.
            fleet.comes_back_from(towards(Kind::CloseFrame, end, 999)).await;
            fleet.comes_back_from(towards(Kind::CloseFrame, end, 1005)).await;
            fleet.comes_back_from(towards(Kind::WrongMask, end, 0)).await;
            for bits in [1, 2, 4, 7] {
                fleet.comes_back_from(towards(Kind::ReservedBits, end, bits)).await;
            }
            // Longer than any limit.
            fleet.comes_back_from(towards(Kind::Lie, end, 1 << 40)).await;
        }
        fleet.ends().await;
    });
}

#[test]
fn the_nth_frame_may_be_missing_or_come_twice_or_break_the_connection() {
    run(async {
        let mut fleet = Fleet::start().await;
        for end in [End::Peer, End::Coordinator] {
            for after in 0..4 {
                for kind in [Kind::Drop, Kind::Duplicate, Kind::Swap, Kind::ResetFrame] {
                    fleet.comes_back_from(Fault { after, ..towards(kind, end, 0) }).await;
                }
            }
        }
        fleet.ends().await;
    });
}

#[test]
fn messages_of_others_and_of_the_past_end_the_connection_and_nothing_else() {
    run(async {
        let rig = Rig::start().await;
        let settings = Settings { remembers: true, ..Settings::of(Profile::Calm, 1) };
        let (proxy, serving) = Proxy::bind(LOOPBACK, rig.address, settings).expect("a proxy");
        let _serving = smol::spawn(serving);
        let worker = rig.worker("w0", proxy.local_addr());
        worker.connected().await;
        let second = rig.worker("w1", proxy.local_addr());
        second.connected().await;
        let mut fleet = Fleet { rig, proxy, worker, tasks: 0 };
        for end in [End::Peer, End::Coordinator] {
            for kind in [Kind::Replay, Kind::Splice] {
                for amount in [1, 2, 5] {
                    let fault = Fault { whom: Whom::Place(0), ..towards(kind, end, amount) };
                    fleet.comes_back_from(fault).await;
                }
            }
        }
        for amount in [1, 2, 3, 16] {
            let fault = Fault { whom: Whom::Place(0), amount, ..Fault::of_all(Kind::Impostor) };
            assert_eq!(fleet.gets_over(fault).await, 0, "somebody else's connection is his own business");
        }
        fleet.ends_with(2).await;
    });
}

#[test]
fn fragments_segments_and_delays_break_nothing() {
    run(async {
        let mut fleet = Fleet::start().await;
        for end in [End::Peer, End::Coordinator] {
            for bytes in [1, 7, 1000] {
                assert_eq!(fleet.gets_over(towards(Kind::Fragment, end, bytes)).await, 0);
            }
            let cuts = if end == End::Coordinator { &[0, 1, 2][..] } else { &[0, 2] };
            for cut in cuts {
                let apart = towards(Kind::Segment, end, *cut).lasting(Duration::from_millis(30));
                assert_eq!(fleet.gets_over(apart).await, 0);
            }
            let late = towards(Kind::Hold, end, 0).lasting(Duration::from_millis(30));
            assert_eq!(fleet.gets_over(Fault { after: 1, ..late }).await, 0);
        }
        fleet.ends().await;
    });
}

#[test]
fn pings_are_answered_and_nobody_waits_for_a_pong() {
    run(async {
        let mut fleet = Fleet::start().await;
        for end in [End::Peer, End::Coordinator] {
            let other = if end == End::Peer { End::Coordinator } else { End::Peer };
            assert_eq!(fleet.gets_over(towards(Kind::Ping, end, 125)).await, 0);
            fleet.proxy.strike(towards(Kind::NoPong, other, 0).lasting(Duration::from_secs(600)));
            let felt = fleet.proxy.counts().felt(Kind::NoPong);
            assert_eq!(fleet.gets_over(towards(Kind::Ping, end, 0)).await, 0);
            until(async || fleet.proxy.counts().felt(Kind::NoPong) > felt).await;
        }
        fleet.ends().await;
    });
}

#[test]
fn a_worker_that_is_answered_with_a_status_comes_back_when_that_is_over() {
    run(async {
        let mut fleet = Fleet::start().await;
        for status in [429, 503, 302, 200, 404] {
            let answered = Fault { amount: status, ..Fault::of_all(Kind::HttpStatus) };
            let felt = fleet.proxy.counts().felt(Kind::HttpStatus);
            fleet.proxy.strike(answered.lasting(Duration::from_millis(500)));
            fleet.comes_back_from(Fault::of_all(Kind::Reset)).await;
            assert!(fleet.proxy.counts().felt(Kind::HttpStatus) > felt);
        }
        fleet.ends().await;
    });
}
