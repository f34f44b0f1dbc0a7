//! The proxy over real sockets

use std::time::Instant;

use smol::io::{AsyncReadExt, AsyncWriteExt};

mod websocket;

use super::rig::*;
use super::socket::Socket;
use super::*;

#[test]
fn without_faults_all_bytes_pass_both_ways() {
    with_link(async |rig, client, server| {
        let (there, back) = (noise(1, 8 << 20), noise(2, 8 << 20));
        let (at_server, at_client) = swap((&client, &there), (&server, &back)).await;
        assert!(at_server == there && at_client == back);
        rig.until_empty().await;
        let counts = rig.proxy.counts();
        assert_eq!((counts.connections, counts.disruptions()), (1, 0));
    });
}

#[test]
fn a_half_closed_link_answers() {
    with_link(async |_rig, client, server| {
        send_all(&client, b"question").await;
        assert_eq!(receive_all(&server).await.expect("read"), b"question");
        send_all(&server, b"answer").await;
        assert_eq!(receive_all(&client).await.expect("read"), b"answer");
    });
}

#[test]
fn a_slow_receiver_holds_the_sender_back() {
    with_link(async |_rig, mut client, server| {
        let mut sent = 0;
        while let Some(count) = within(millis(300), client.write(&[7; 1 << 16])).await {
            sent += count.expect("write");
            assert!(sent < 64 << 20, "nothing holds the sender back");
        }
        send_all(&client, b"").await;
        assert_eq!(receive_all(&server).await.expect("read").len(), sent);
    });
}

#[test]
fn traffic_does_not_starve_a_fault() {
    with_link(async |rig, mut client, mut server| {
        let mut buffer = vec![0; 1 << 16];
        let flood = smol::spawn(async move { while client.write_all(&[7; 1 << 16]).await.is_ok() {} });
        server.read_exact(&mut buffer).await.expect("traffic");
        let start = Instant::now();
        rig.proxy.strike(Fault::of_all(Kind::Reset));
        while server.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(rig.proxy.counts().felt(Kind::Reset), 1);
        flood.await;
    });
}

#[test]
fn a_reset_is_seen_by_both_ends_and_counted() {
    for kind in [Kind::Reset, Kind::MassReset] {
        with_link(async |rig, client, server| {
            rig.proxy.strike(Fault::of_all(kind));
            assert_reset(&client).await;
            assert_reset(&server).await;
            let counts = rig.proxy.counts();
            assert_eq!((counts.fired(kind), counts.felt(kind), counts.disruptions()), (1, 1, 1));
        });
    }
}

#[test]
fn a_reset_of_one_end_reaches_the_other_uncounted() {
    with_link(async |rig, client, server| {
        reset_on_close(&[&client]);
        drop(client);
        assert_reset(&server).await;
        assert_eq!(rig.proxy.counts().disruptions(), 0);
    });
}

#[test]
fn a_reset_behind_so_many_bytes_lets_these_through() {
    with_link(async |rig, client, mut server| {
        let fault = Fault { towards: End::Coordinator, ..fault(Kind::ResetAfter, 1000) };
        rig.proxy.strike(fault);
        until(|| rig.proxy.counts().fired(Kind::ResetAfter) == 1).await;
        send(&client, &[7; 1000]).await;
        server.read_exact(&mut [0; 1000]).await.expect("all of them");
        assert_reset(&server).await;
        assert_reset(&client).await;
    });
}

#[test]
fn a_close_comes_behind_what_is_under_way_and_a_half_close_at_one_end() {
    with_link(async |rig, client, server| {
        rig.proxy.strike(fault(Kind::Close, 0));
        assert_eq!(receive_all(&client).await.expect("an end"), b"");
        assert_eq!(receive_all(&server).await.expect("an end"), b"");
    });
    with_link(async |rig, client, server| {
        rig.proxy.strike(fault(Kind::HalfClose, 0));
        assert_eq!(receive_all(&client).await.expect("an end"), b"");
        send_all(&client, b"bye").await;
        assert_eq!(receive_all(&server).await.expect("an end"), b"bye");
        drop(server);
        rig.until_empty().await;
    });
}

#[test]
fn what_is_dead_is_silent_until_both_ends_have_found_out() {
    with_link(async |rig, client, server| {
        rig.proxy.strike(fault(Kind::Dead, 0));
        rig.until_felt(Kind::Dead).await;
        send(&client, b"lost").await;
        send(&server, b"lost").await;
        drop(client);
        assert!(read_soon(&server).await.is_none(), "nobody tells the other end");
        assert_eq!(rig.proxy.connections_now(), 1);
        drop(server);
        rig.until_empty().await;
    });
}

#[test]
fn what_is_half_open_is_silent_at_one_end() {
    with_link(async |rig, client, server| {
        rig.proxy.strike(Fault { towards: End::Coordinator, ..fault(Kind::HalfOpen, 0) });
        rig.until_felt(Kind::HalfOpen).await;
        send(&client, b"lost").await;
        send(&server, b"here").await;
        assert_eq!(&read_some(&client).await, b"here");
        assert!(read_soon(&server).await.is_none());
    });
}

#[test]
fn one_end_learns_of_a_cut_and_the_other_late_or_never() {
    with_link(async |rig, client, server| {
        rig.proxy.strike(fault(Kind::CutSeenBy, 0));
        assert_reset(&client).await;
        send(&server, b"lost").await;
        assert!(read_soon(&server).await.is_none());
        drop(server);
        rig.until_empty().await;
    });
    with_link(async |rig, client, server| {
        let start = Instant::now();
        rig.proxy.strike(fault(Kind::LateClose, 0).lasting(millis(200)));
        assert_reset(&client).await;
        assert_reset(&server).await;
        assert!(start.elapsed() >= millis(200));
    });
}

#[test]
fn a_ghost_speaks_beside_the_next_connection() {
    with_link(async |rig, client, server| {
        rig.proxy.strike(Fault { towards: End::Coordinator, ..fault(Kind::Stall, 0) });
        send(&client, b"late").await;
        rig.until_felt(Kind::Stall).await;
        rig.proxy.heal();
        rig.proxy.strike(Fault { towards: End::Coordinator, ..fault(Kind::Delay, 10_000_000) });
        assert_eq!(&read_some(&server).await, b"late");
        send(&client, b"more").await;
        rig.until_felt(Kind::Delay).await;
        rig.proxy.strike(fault(Kind::Ghost, 0));
        assert_reset(&client).await;
        assert_eq!(&read_some(&server).await, b"more");
        assert_reset(&server).await;
    });
}

#[test]
fn what_has_no_effect_is_not_counted() {
    with_link(async |rig, client, server| {
        for kind in [Kind::Stall, Kind::Delay, Kind::Blocked, Kind::Flip, Kind::Drop, Kind::Refuse, Kind::Hang] {
            rig.proxy.strike(fault(kind, 1000));
        }
        assert!(read_soon(&server).await.is_none());
        // An end would be held up like bytes.
        rig.proxy.heal();
        drop((client, server));
        rig.until_empty().await;
        rig.proxy.strike(Fault::of_all(Kind::Reset));
        assert_eq!(rig.proxy.counts().disruptions(), 0);
        assert_eq!(rig.proxy.counts().fired(Kind::Stall), 1);
    });
}

#[test]
fn a_blocked_sender_is_held_back_and_goes_on_when_that_is_over() {
    with_link(async |rig, client, server| {
        rig.proxy.strike(Fault { towards: End::Coordinator, ..fault(Kind::Blocked, 0) }.lasting(millis(300)));
        send(&client, b"held").await;
        rig.until_felt(Kind::Blocked).await;
        assert!(read_soon(&server).await.is_none());
        assert_eq!(&read_some(&server).await, b"held");
    });
}

#[test]
fn a_partition_holds_up_both_ways_and_dials_until_it_heals() {
    with_link(async |rig, client, server| {
        rig.proxy.strike(Fault::of_all(Kind::Partition).lasting(HOUR));
        send(&client, b"held").await;
        send(&server, b"held").await;
        assert!(read_soon(&client).await.is_none());
        let second = Socket::connect(rig.proxy.local_addr()).await.expect("the system accepts");
        until(|| rig.proxy.counts().felt(Kind::Partition) == 3).await;
        assert!(within(millis(60), rig.upstream.accept()).await.is_none());
        rig.proxy.heal();
        assert_eq!(&read_some(&client).await, b"held");
        assert_eq!(&read_some(&server).await, b"held");
        let (at_second, _) = rig.upstream.accept().await.expect("its dial goes on");
        assert_passes(&second, &at_second).await;
    });
}

#[test]
fn whoever_gives_up_while_its_dial_hangs_is_never_heard() {
    run(async {
        let rig = Rig::new(Profile::Calm, 1).await;
        rig.proxy.strike(Fault::of_all(Kind::Hang).lasting(HOUR));
        let connect = || async { Socket::connect(rig.proxy.local_addr()).await.expect("the system accepts") };
        let (gone, stays) = (connect().await, connect().await);
        send(&gone, b"gone").await;
        send(&stays, b"here").await;
        drop(gone);
        until(|| rig.proxy.counts().felt(Kind::Hang) == 2).await;
        rig.proxy.heal();
        let (server, _) = rig.upstream.accept().await.expect("accept");
        assert_eq!(&read_some(&server).await, b"here");
        assert!(within(millis(60), rig.upstream.accept()).await.is_none());
        assert_passes(&stays, &server).await;
    });
}

#[test]
fn dials_are_refused_late_mute_or_broken() {
    run(async {
        let rig = Rig::new(Profile::Calm, 1).await;
        rig.proxy.strike(fault(Kind::Refuse, 0));
        assert_refuses(&rig.proxy).await;
        until(|| rig.proxy.counts().felt(Kind::Refuse) == 1).await;
        rig.proxy.heal();
        let start = Instant::now();
        rig.proxy.strike(fault(Kind::SlowDial, 100_000));
        drop(rig.open().await);
        assert!(start.elapsed() >= millis(100));
        rig.proxy.heal();
        rig.until_empty().await;
        rig.proxy.strike(fault(Kind::AcceptReset, 1000));
        assert_reset(&rig.link().await.1).await;
        rig.proxy.heal();
        rig.until_empty().await;
        rig.proxy.strike(fault(Kind::Mute, 0));
        let (client, server) = rig.link().await;
        send(&client, b"lost").await;
        assert!(read_soon(&server).await.is_none());
        let counts = rig.proxy.counts();
        assert_eq!([Kind::SlowDial, Kind::AcceptReset, Kind::Mute].map(|kind| counts.felt(kind)), [1, 1, 1]);
    });
}

#[test]
fn an_absent_upstream_shows_as_a_reset_uncounted() {
    run(async {
        let Rig { proxy, upstream } = Rig::new(Profile::Calm, 1).await;
        drop(upstream);
        assert_refuses(&proxy).await;
        assert_eq!(proxy.counts().disruptions(), 0);
    });
}

#[test]
fn a_place_is_taken_again_by_whoever_comes_back() {
    run(async {
        let rig = Rig::new(Profile::Calm, 1).await;
        let (first, second) = (rig.open().await, rig.open().await);
        drop(first);
        for _ in 0..20 {
            let (_client, server) = rig.open().await;
            rig.proxy.strike(fault(Kind::Reset, 0));
            assert_reset(&server).await;
            // This one closes by itself, and the next one is there at once.
            drop(rig.open().await);
        }
        assert_passes(&second.0, &second.1).await;
    });
}

#[test]
fn what_strikes_nobody_waits_for_the_next_connection_in_its_place() {
    run(async {
        let rig = Rig::new(Profile::Calm, 1).await;
        rig.proxy.strike(Fault { towards: End::Coordinator, ..fault(Kind::Flip, 9) });
        let (client, server) = rig.link().await;
        send(&client, b"abcd").await;
        assert_eq!(&read_some(&server).await, b"a`cd");
    });
}

#[test]
fn a_share_of_all_is_cut_off_or_reset_and_swizzled_ones_come_back() {
    run(async {
        let rig = Rig::new(Profile::Calm, 3).await;
        let mut links = Vec::new();
        for _ in 0..20 {
            links.push(rig.open().await);
        }
        rig.proxy.strike(Fault { amount: 500, ..Fault::of_all(Kind::MassReset) });
        let mut whole = Vec::new();
        for (client, server) in links {
            // A link hears of a fault before it reads what is sent behind it.
            if (&client).write_all(b"said").await.is_ok() && (&server).read_exact(&mut [0; 4]).await.is_ok() {
                whole.push((client, server));
            }
        }
        assert!((4..17).contains(&whole.len()), "{}", whole.len());
        assert_eq!(rig.proxy.counts().felt(Kind::MassReset), 20 - whole.len() as u64);
        rig.proxy.strike(Fault { amount: 3, ..Fault::of_all(Kind::Swizzle) }.lasting(millis(400)));
        // They are as they were when it is over, whenever that was.
        for (client, server) in &whole {
            assert_passes(client, server).await;
        }
        rig.proxy.strike(Fault { amount: 500, ..Fault::of_all(Kind::Split).lasting(HOUR) });
        for (client, _) in &whole {
            send(client, b"said").await;
        }
        rig.until_felt(Kind::Split).await;
    });
}

#[test]
fn a_flapping_connection_breaks_again_and_again() {
    run(async {
        let upstream = Async::<TcpListener>::bind(LOOPBACK).expect("bind");
        let at = upstream.get_ref().local_addr().expect("address");
        let settings = Settings { heartbeat: millis(50), ..Settings::of(Profile::Calm, 1) };
        let (proxy, serving) = Proxy::bind(LOOPBACK, at, settings).expect("a port");
        let serving = smol::spawn(serving);
        let rig = Rig { proxy, upstream };
        rig.proxy.strike(fault(Kind::Flap, 1));
        for _ in 0..4 {
            assert_reset(&rig.link().await.1).await;
        }
        assert_eq!(rig.proxy.counts().felt(Kind::Flap), 4);
        drop(serving);
    });
}

#[test]
fn a_stranger_says_nothing_of_sense() {
    run(async {
        let rig = Rig::new(Profile::Calm, 1).await;
        rig.proxy.strike(Fault { amount: 300, ..Fault::of_all(Kind::Stranger) });
        let (stranger, _) = rig.upstream.accept().await.expect("accept");
        assert_eq!(receive_all(&stranger).await.expect("an end").len(), 300);
        rig.until_felt(Kind::Stranger).await;
    });
}

#[test]
fn faults_follow_in_their_time() {
    with_link(async |rig, client, server| {
        let flip = |bit| Fault { towards: End::Coordinator, ..fault(Kind::Flip, bit) };
        rig.proxy.follow([(millis(0), flip(0)), (millis(20), flip(9))]).await;
        until(|| rig.proxy.counts().fired(Kind::Flip) == 2).await;
        send(&client, b"abcd").await;
        let read = read_some(&server).await;
        assert_eq!(differences(b"abcd", &read), [0, 1]);
    });
}

#[test]
fn links_meet_the_fate_that_is_planned() {
    run(async {
        let rig = Rig::new(Profile::Cuts, 77).await;
        for connection in 0..12 {
            let (_, Fault { kind, .. }) = fate(Profile::Cuts, 77, connection)[0];
            let before = rig.proxy.counts().felt(kind);
            let _link = rig.link().await;
            until(|| rig.proxy.counts().disruptions() == connection + 1).await;
            assert_eq!(rig.proxy.counts().felt(kind), before + 1);
        }
    });
}

#[test]
fn a_profile_is_over_when_it_heals() {
    run(async {
        let rig = Rig::new(Profile::Cuts, 1).await;
        rig.proxy.heal();
        let (client, server) = rig.open().await;
        Timer::after(millis(400)).await;
        assert_passes(&client, &server).await;
        assert_eq!(rig.proxy.counts().disruptions(), 0);
    });
}

#[test]
fn dropping_the_proxy_closes_all() {
    run(async {
        let rig = Rig::new(Profile::Calm, 1).await;
        let silent = rig.open().await;
        rig.proxy.strike(Fault::of_all(Kind::Dead));
        rig.until_felt(Kind::Dead).await;
        let whole = rig.open().await;
        let address = rig.proxy.local_addr();
        drop(rig.proxy);
        for (client, server) in [&silent, &whole] {
            let _ = receive_all(client).await;
            let _ = receive_all(server).await;
        }
        while Socket::connect(address).await.is_ok() {
            Timer::after(millis(2)).await;
        }
    });
}

#[test]
fn a_storm_does_all_it_can() {
    run(async {
        let all = [
            Kind::Reset,
            Kind::Dead,
            Kind::HalfOpen,
            Kind::Partition,
            Kind::Jitter,
            Kind::Rechunk,
            Kind::Flip,
            Kind::Refuse,
            Kind::AcceptReset,
        ];
        // One that has all of it early.
        let fates = |seed| (0..20).flat_map(move |n| fate(Profile::Storm, seed, n)).map(|(_, fault)| fault.kind);
        let seed = (0..).find(|seed| all.iter().all(|kind| fates(*seed).filter(|other| other == kind).count() > 1));
        let Rig { proxy, upstream } = Rig::new(Profile::Storm, seed.expect("a seed")).await;
        let _echo = smol::spawn(async move {
            let mut links = Vec::new();
            while let Ok((server, _)) = upstream.accept().await {
                links.push(smol::spawn(async move { smol::io::copy(&server, &server).await }));
            }
        });
        while all.iter().any(|kind| proxy.counts().felt(*kind) == 0) {
            let talk = async {
                let client = Socket::connect(proxy.local_addr()).await?;
                let sent = async { (&client).write_all(&noise(1, 1 << 18)).await };
                future::try_zip(sent, receive_all(&client)).await
            };
            // How it ends does not matter, only that it does.
            let _ = within(millis(400), talk).await;
        }
    });
}
