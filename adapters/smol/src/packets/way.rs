//! One way between the sides: its packets under way

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

use super::condition::Kind;
use super::packet;
use crate::chaos::random::{Purpose, Random};

/// Bytes that may wait where the bandwidth is short, if nobody says otherwise and a quarter of a second is less
pub const QUEUE_BYTES_MIN: u64 = 16 << 10;
/// Most bytes under way, beyond which packets are lost: what a long delay may cost in memory, each way
const UNDER_WAY_BYTES_MAX: u64 = 16 << 20;
/// How late packets come that are to come behind others, in milliseconds
const LATE_MS: (u64, u64) = (5, 50);

/// What became of the packets that go one way
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Those that came out of the one side
    pub packets: u64,
    /// Their bytes
    pub bytes: u64,
    /// Those that went into the other side, copies and damaged ones included
    pub delivered: u64,
    /// Lost by [`Kind::Loss`]
    pub lost: u64,
    /// Lost by [`Kind::Partition`]
    pub partitioned: u64,
    /// Lost by [`Kind::Blackhole`]
    pub blackholed: u64,
    /// Lost since more was waiting than [`Kind::Queue`] allows, or than is held under way at all (16 MiB)
    pub overflowed: u64,
    /// Lost since the device at the end was down, or took no more
    pub undeliverable: u64,
    /// Copies made by [`Kind::Duplicate`]
    pub duplicated: u64,
    /// Made late by [`Kind::Reorder`]
    pub reordered: u64,
    /// Damaged by [`Kind::Corrupt`]
    pub corrupted: u64,
    /// Damaged by [`Kind::Flip`]
    pub flipped: u64,
}

/// What a way is like, by kind; nothing where it is not there
pub(super) type Weather = [Option<u64>; Kind::ALL.len()];

#[derive(Debug)]
pub(super) struct Way {
    seed: u64,
    /// A number of its own
    name: u64,
    pub(super) counts: Counts,
    /// Those that wait for the bandwidth
    waiting: VecDeque<Packet>,
    waiting_bytes: u64,
    /// When the last one had been sent
    sent_at: Duration,
    /// Those on their way by when they arrive, and in which order
    flying: BTreeMap<(Duration, u64), Packet>,
    flying_bytes: u64,
    flown: u64,
    /// When the last one arrives that is not late
    last_due: Duration,
}

#[derive(Debug)]
struct Packet {
    number: u64,
    came_at: Duration,
    is_late: bool,
    bytes: Vec<u8>,
}

impl Way {
    pub(super) fn new(seed: u64, name: u64) -> Way {
        Way {
            seed,
            name,
            counts: Counts::default(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            sent_at: Duration::ZERO,
            flying: BTreeMap::new(),
            flying_bytes: 0,
            flown: 0,
            last_due: Duration::ZERO,
        }
    }

    /// A packet sets out
    pub(super) fn handle(&mut self, now: Duration, weather: &Weather, bytes: &[u8]) {
        let number = self.counts.packets;
        self.counts.packets += 1;
        self.counts.bytes += bytes.len() as u64;
        if weather[Kind::Partition as usize].is_some() {
            self.counts.partitioned += 1;
        } else if weather[Kind::Blackhole as usize].is_some_and(|most| bytes.len() as u64 > most) {
            self.counts.blackholed += 1;
        } else if self.strikes(weather, Kind::Loss, Purpose::PacketLoss, number) {
            self.counts.lost += 1;
        } else {
            self.send(now, weather, number, bytes);
        }
    }

    fn send(&mut self, now: Duration, weather: &Weather, number: u64, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        if self.strikes(weather, Kind::Corrupt, Purpose::PacketCorruption, number) {
            let mut place = self.draw(Purpose::PacketCorruptionPlace, number);
            self.counts.corrupted += u64::from(packet::corrupt(&mut bytes, &mut place));
        }
        if self.strikes(weather, Kind::Flip, Purpose::PacketFlip, number) {
            let mut place = self.draw(Purpose::PacketFlipPlace, number);
            self.counts.flipped += u64::from(packet::flip(&mut bytes, &mut place));
        }
        let is_late = self.strikes(weather, Kind::Reorder, Purpose::PacketOrder, number);
        self.counts.reordered += u64::from(is_late);
        let copy = self.strikes(weather, Kind::Duplicate, Purpose::PacketCopy, number).then(|| bytes.clone());
        self.counts.duplicated += u64::from(copy.is_some());
        for bytes in [Some(bytes), copy].into_iter().flatten() {
            self.enqueue(weather, Packet { number, came_at: now, is_late, bytes });
        }
    }

    fn enqueue(&mut self, weather: &Weather, packet: Packet) {
        let len = packet.bytes.len() as u64;
        let mut most = UNDER_WAY_BYTES_MAX.saturating_sub(self.flying_bytes);
        if let Some(bandwidth) = weather[Kind::Bandwidth as usize] {
            let queue = weather[Kind::Queue as usize].unwrap_or(QUEUE_BYTES_MIN.max(bandwidth / 4));
            most = most.min(queue);
        }
        if self.waiting_bytes + len > most {
            self.counts.overflowed += 1;
        } else {
            self.waiting_bytes += len;
            self.waiting.push_back(packet);
        }
    }

    /// The next packet that has arrived
    pub(super) fn poll(&mut self, now: Duration, weather: &Weather) -> Option<Vec<u8>> {
        self.fly(now, weather);
        let first = self.flying.first_entry().filter(|first| first.key().0 <= now)?;
        let packet = first.remove();
        self.flying_bytes -= packet.bytes.len() as u64;
        self.counts.delivered += 1;
        Some(packet.bytes)
    }

    /// When a packet is ready at the earliest
    pub(super) fn wake_at(&self, weather: &Weather) -> Option<Duration> {
        let sent = self.waiting.front().map(|first| self.will_be_sent(first, weather));
        let arrived = self.flying.first_key_value().map(|((due, _), _)| *due);
        sent.into_iter().chain(arrived).min()
    }

    /// What is under way arrives now, in its order
    pub(super) fn hurry(&mut self, now: Duration) {
        let mut packets: VecDeque<Packet> = std::mem::take(&mut self.flying).into_values().collect();
        packets.append(&mut self.waiting);
        (self.waiting_bytes, self.flying_bytes, self.last_due) = (0, 0, now);
        self.sent_at = self.sent_at.min(now);
        for packet in packets {
            self.land(now, packet);
        }
    }

    /// Sends what has had its turn by now
    fn fly(&mut self, now: Duration, weather: &Weather) {
        while let Some(packet) = self.waiting.pop_front() {
            let sent_at = self.will_be_sent(&packet, weather);
            if sent_at > now {
                self.waiting.push_front(packet);
                return;
            }
            self.sent_at = sent_at;
            self.waiting_bytes -= packet.bytes.len() as u64;
            let jitter = weather[Kind::Jitter as usize]
                .map_or(0, |most| self.draw(Purpose::PacketJitter, packet.number).between(0, most));
            let delay = weather[Kind::Delay as usize].unwrap_or(0) + jitter;
            // Time that passes at different rates for each of them must not change their order.
            let mut due = (sent_at + Duration::from_micros(delay)).max(self.last_due);
            if packet.is_late {
                due += self.draw(Purpose::PacketLateness, packet.number).millis(LATE_MS.0, LATE_MS.1);
            } else {
                self.last_due = due;
            }
            self.land(due, packet);
        }
    }

    fn land(&mut self, due: Duration, packet: Packet) {
        self.flying_bytes += packet.bytes.len() as u64;
        self.flying.insert((due, self.flown), packet);
        self.flown += 1;
    }

    fn will_be_sent(&self, packet: &Packet, weather: &Weather) -> Duration {
        let Some(bandwidth) = weather[Kind::Bandwidth as usize] else { return packet.came_at };
        let takes = packet.bytes.len() as f64 / bandwidth.max(1) as f64;
        self.sent_at.max(packet.came_at) + Duration::from_secs_f64(takes)
    }

    fn strikes(&self, weather: &Weather, kind: Kind, purpose: Purpose, number: u64) -> bool {
        weather[kind as usize].is_some_and(|millionths| self.draw(purpose, number).below(1_000_000) < millionths)
    }

    fn draw(&self, purpose: Purpose, number: u64) -> Random {
        Random::keyed(self.seed, purpose, &[self.name, number])
    }
}
