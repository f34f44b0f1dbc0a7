//! The forwarder in virtual time

use std::time::Duration;

use super::{CONDITIONS_MAX, Condition, Counts, Forwarder, Kind, TooMany};
use crate::chaos::End;

const HOUR: Duration = Duration::from_secs(3600);

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A forwarder, what the time is there, and what has come out towards the coordinator
struct Rig {
    forwarder: Forwarder,
    now: Duration,
    arrived: Vec<(Duration, Vec<u8>)>,
}

impl Rig {
    fn new(seed: u64, conditions: &[(Kind, u64)]) -> Rig {
        let mut rig = Rig { forwarder: Forwarder::new(seed), now: Duration::ZERO, arrived: Vec::new() };
        for (kind, amount) in conditions {
            rig.set(Condition::new(*kind, *amount));
        }
        rig
    }

    fn set(&mut self, condition: Condition) {
        self.forwarder.set(self.now, condition).expect("room for a condition");
    }

    fn send(&mut self, packet: &[u8]) {
        self.forwarder.handle(self.now, End::Coordinator, packet);
        self.drain();
    }

    /// Lets time pass, and does something only when it is asked for
    fn pass(&mut self, span: Duration) {
        let until = self.now + span;
        while let Some(at) = self.forwarder.wake_at().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.drain();
        }
        self.now = until;
    }

    fn drain(&mut self) {
        while let Some((end, packet)) = self.forwarder.poll(self.now) {
            assert_eq!(end, End::Coordinator, "it goes where it was sent to");
            self.arrived.push((self.now, packet));
        }
        assert!(self.forwarder.wake_at().is_none_or(|at| at > self.now), "nothing is due that did not come");
    }

    /// Sends packets that know their numbers, so far apart, and waits until all have arrived
    fn send_numbered(&mut self, count: u64, apart: Duration) {
        for number in 0..count {
            self.send(&numbered(number));
            self.pass(apart);
        }
        self.pass(HOUR);
    }

    /// Numbers of the packets that have arrived, in their order
    fn numbers(&self) -> Vec<u64> {
        self.arrived.iter().map(|(_, packet)| number_of(packet)).collect()
    }

    fn counts(&self) -> Counts {
        self.forwarder.counts(End::Coordinator)
    }
}

/// A packet with a number in a place where nothing is ever flipped
fn numbered(number: u64) -> Vec<u8> {
    let mut packet = segment(200);
    packet[4..6].copy_from_slice(&(number as u16).to_be_bytes());
    packet
}

fn number_of(packet: &[u8]) -> u64 {
    u16::from_be_bytes([packet[4], packet[5]]).into()
}

#[test]
fn without_conditions_all_bytes_pass_at_once() {
    let mut rig = Rig::new(7, &[]);
    for number in 0..100 {
        rig.send(&numbered(number));
    }
    let expected: Vec<_> = (0..100).map(|number| (Duration::ZERO, numbered(number))).collect();
    assert_eq!(rig.arrived, expected);
}

#[test]
fn a_share_is_that_of_many_packets_and_the_same_each_time() {
    type Read = fn(&Counts) -> u64;
    const COUNT: u64 = 4_000;
    let read: [(Kind, Read); 5] = [
        (Kind::Loss, |counts| counts.lost),
        (Kind::Duplicate, |counts| counts.duplicated),
        (Kind::Reorder, |counts| counts.reordered),
        (Kind::Corrupt, |counts| counts.corrupted),
        (Kind::Flip, |counts| counts.flipped),
    ];
    for (kind, count) in read {
        let outcome = |seed, millionths, packets| {
            let mut rig = Rig::new(seed, &[(kind, millionths)]);
            rig.send_numbered(packets, millis(1));
            (count(&rig.counts()), rig.arrived)
        };
        // Five deviations to either side.
        for (millionths, low, high) in [(10_000, 9, 71), (200_000, 673, 927), (1_000_000, COUNT, COUNT)] {
            let (times, _) = outcome(7, millionths, COUNT);
            assert!((low..=high).contains(&times), "{}: {times}", kind.name());
        }
        assert_eq!(outcome(7, 0, 100).0, 0, "{}", kind.name());
        assert!(outcome(7, 200_000, 300) == outcome(7, 200_000, 300), "{} follows from the seed", kind.name());
        assert!(outcome(7, 200_000, 300) != outcome(8, 200_000, 300), "{} follows from the seed", kind.name());
    }
}

#[test]
fn the_fate_of_a_packet_follows_from_its_number_whatever_else_happens() {
    let lost = |conditions: &[(Kind, u64)], apart| {
        let mut rig = Rig::new(7, &[&[(Kind::Loss, 200_000)], conditions].concat());
        rig.send_numbered(1_000, apart);
        let mut numbers = rig.numbers();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    };
    let plain = lost(&[], millis(1));
    let mess =
        [(Kind::Jitter, 20_000), (Kind::Duplicate, 300_000), (Kind::Reorder, 300_000), (Kind::Bandwidth, 1_000_000)];
    assert_eq!(lost(&mess, millis(2)), plain);
    // Nor does the one direction have anything to do with the other.
    let mut rig = Rig::new(7, &[(Kind::Loss, 200_000)]);
    let mut back = Vec::new();
    for number in 0..1_000 {
        rig.forwarder.handle(rig.now, End::Peer, &numbered(number));
        back.extend(rig.forwarder.poll(rig.now).map(|(_, packet)| number_of(&packet)));
        rig.send(&numbered(number));
    }
    assert_eq!(rig.numbers(), plain);
    assert_ne!(back, plain, "the directions have fates of their own");
}

#[test]
fn delays_are_as_long_as_they_should_be_and_keep_the_order() {
    let mut rig = Rig::new(7, &[(Kind::Delay, 30_000), (Kind::Jitter, 20_000)]);
    rig.send_numbered(1_000, millis(3));
    assert_eq!(rig.numbers(), (0..1_000).collect::<Vec<_>>());
    let delays: Vec<Duration> = (0..).zip(&rig.arrived).map(|(n, (at, _))| *at - millis(3) * n).collect();
    assert!(delays.iter().all(|delay| (millis(30)..=millis(50)).contains(delay)), "{delays:?}");
    assert!(delays.iter().any(|delay| *delay < millis(32)) && delays.iter().any(|delay| *delay > millis(48)));
}

#[test]
fn packets_that_come_late_do_so_behind_others() {
    let mut rig = Rig::new(7, &[(Kind::Reorder, 100_000)]);
    rig.send_numbered(1_000, millis(1));
    let mut on_time = Vec::new();
    for (at, packet) in &rig.arrived {
        let sent = millis(number_of(packet));
        if *at == sent {
            on_time.push(number_of(packet));
        } else {
            assert!((millis(5)..=millis(50)).contains(&(*at - sent)), "{:?}", *at - sent);
        }
    }
    assert!(on_time.is_sorted(), "the others keep their order");
    assert_eq!(on_time.len() as u64, 1_000 - rig.counts().reordered);
    assert!(!rig.numbers().is_sorted());
}

#[test]
fn so_many_bytes_get_through_in_a_second() {
    let mut rig = Rig::new(7, &[(Kind::Bandwidth, 10_000), (Kind::Queue, 5_000)]);
    for _ in 0..20 {
        rig.send(&segment(960));
    }
    rig.pass(HOUR);
    // Each of 1,000 bytes, of which five may wait.
    let times: Vec<Duration> = rig.arrived.iter().map(|(at, _)| *at).collect();
    assert_eq!(times, [100, 200, 300, 400, 500].map(millis));
    assert_eq!(rig.counts().overflowed, 15);
}

#[test]
fn what_waits_for_bandwidth_goes_when_there_is_more() {
    let mut rig = Rig::new(7, &[]);
    rig.set(Condition::new(Kind::Bandwidth, 1).lasting(millis(700)));
    for number in 0..5 {
        rig.send(&numbered(number));
    }
    rig.pass(millis(699));
    assert!(rig.arrived.is_empty());
    rig.pass(millis(1));
    assert_eq!(rig.numbers(), [0, 1, 2, 3, 4]);
}

#[test]
fn a_black_hole_takes_what_is_larger() {
    let mut rig = Rig::new(7, &[(Kind::Blackhole, 600)]);
    rig.send(&segment(560));
    rig.send(&segment(561));
    rig.send(&segment(1460));
    assert_eq!((rig.arrived.len(), rig.counts().blackholed), (1, 2));
    assert_eq!(rig.arrived[0].1.len(), 600);
}

#[test]
fn a_condition_of_one_way_leaves_the_other_alone() {
    let mut rig = Rig::new(7, &[]);
    rig.set(Condition::new(Kind::Partition, 0).towards(End::Peer));
    rig.send(&numbered(0));
    rig.forwarder.handle(rig.now, End::Peer, &numbered(1));
    rig.drain();
    assert_eq!(rig.numbers(), [0]);
    assert_eq!((rig.counts().partitioned, rig.forwarder.counts(End::Peer).partitioned), (0, 1));
}

#[test]
fn what_was_before_holds_again_when_a_condition_ends() {
    let mut rig = Rig::new(7, &[(Kind::Delay, 10_000)]);
    rig.set(Condition::new(Kind::Delay, 100_000).lasting(millis(1_000)));
    rig.set(Condition::new(Kind::Loss, 1_000_000).lasting(millis(500)));
    for (number, expected) in [(0, None), (1, Some(600 + 100)), (2, Some(1_200 + 10))] {
        rig.now = millis(600 * number);
        rig.send(&numbered(number));
        rig.pass(millis(200));
        let arrived = rig.arrived.pop().map(|(at, _)| at);
        assert_eq!(arrived, expected.map(millis), "packet {number}");
    }
}

#[test]
fn healing_hands_over_what_is_under_way_in_its_order() {
    let mut rig = Rig::new(7, &[(Kind::Delay, 1_000_000), (Kind::Bandwidth, 1_000)]);
    for number in 0..6 {
        rig.send(&numbered(number));
        rig.pass(millis(100));
    }
    assert!(rig.arrived.is_empty());
    rig.forwarder.heal(rig.now);
    rig.drain();
    rig.send(&numbered(6));
    assert_eq!(rig.numbers(), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(rig.arrived[0].0, rig.now);
}

#[test]
fn every_packet_is_accounted_for() {
    for seed in 0..5 {
        let mut rig = Rig::new(seed, &[(Kind::Delay, 50_000), (Kind::Bandwidth, 100_000)]);
        for kind in [Kind::Loss, Kind::Duplicate, Kind::Reorder, Kind::Corrupt, Kind::Flip] {
            rig.set(Condition::new(kind, 100_000));
        }
        rig.set(Condition::new(Kind::Blackhole, 1_400).lasting(millis(300)));
        rig.set(Condition::new(Kind::Partition, 0).lasting(millis(100)));
        for n in 0..500 {
            rig.send(&segment((n * 37 + seed as usize) % 1461));
            rig.pass(millis(2));
        }
        rig.forwarder.heal(rig.now);
        rig.drain();
        let Counts { packets, delivered, lost, partitioned, blackholed, overflowed, duplicated, .. } = rig.counts();
        assert_eq!(packets, 500);
        assert_eq!(packets + duplicated, delivered + lost + partitioned + blackholed + overflowed);
        assert_eq!(delivered, rig.arrived.len() as u64);
        for happened in [lost, partitioned, blackholed, overflowed, duplicated] {
            assert!(happened > 0, "{:?}", rig.counts());
        }
    }
}

#[test]
fn conditions_have_a_bound_and_those_that_can_never_hold_again_do_not_count() {
    let mut rig = Rig::new(7, &[]);
    for share in 0..10_000 {
        rig.set(Condition::new(Kind::Loss, share));
        rig.set(Condition::new(Kind::Loss, share).towards(End::Peer));
    }
    rig.set(Condition::new(Kind::Loss, 0));
    for _ in 1..CONDITIONS_MAX {
        rig.set(Condition::new(Kind::Loss, 5).lasting(millis(10)));
    }
    let one_more = Condition::new(Kind::Delay, 5);
    assert_eq!(rig.forwarder.set(rig.now, one_more), Err(TooMany));
    rig.pass(millis(10));
    rig.set(one_more);
}

#[test]
fn what_is_no_ipv4_does_not_pass_and_has_no_number() {
    let mut rig = Rig::new(7, &[]);
    let mut ipv6 = [0; 60];
    ipv6[0] = 0x60;
    for packet in [&ipv6[..], &[], &[0x45; 19]] {
        rig.send(packet);
    }
    assert_eq!(rig.counts(), Counts::default());
}

#[test]
fn a_clock_that_goes_back_stands_still() {
    let mut rig = Rig::new(7, &[(Kind::Delay, 10_000)]);
    rig.pass(millis(100));
    rig.send(&numbered(0));
    rig.now = millis(50);
    rig.send(&numbered(1));
    rig.pass(HOUR);
    assert_eq!(rig.numbers(), [0, 1]);
    assert!(rig.arrived.iter().all(|(at, _)| *at == millis(110)));
}

/// A packet of TCP with so many bytes in it and right checksums
pub(super) fn segment(payload: usize) -> Vec<u8> {
    let len = (40 + payload) as u16;
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 2, 192, 0, 2, 1];
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet.extend([0x1f, 0x90, 0x1e, 0xc6, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    packet.extend((0..payload).map(|n| (n * 7) as u8));
    let sum = !segment_sum(&packet);
    packet[36..38].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// Whether the checksum of TCP is right
pub(super) fn checksum_holds(packet: &[u8]) -> bool {
    segment_sum(packet) == u16::MAX
}

/// The sum of RFC 9293 over the pseudo header and the segment
fn segment_sum(packet: &[u8]) -> u16 {
    let len = (packet.len() - 20) as u16;
    let pseudo = [&packet[12..20], &[0, 6], &len.to_be_bytes()].concat();
    let words = pseudo.chunks(2).chain(packet[20..].chunks(2));
    let mut sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}
