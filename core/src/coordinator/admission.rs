//! How many connections are let in, and when the others may come back (BACK-2, AUTH-5)

use alloc::collections::BTreeMap;
use core::ops::Bound;
use core::time::Duration;

use crate::limits::RETRY_AFTER_MAX;
use crate::rng::Rng;
use crate::time::Instant;

/// Where a connection comes from: an IPv6 address, or an IPv4 address mapped into one
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Address(pub [u8; 16]);

impl Address {
    /// The loopback address
    pub const LOOPBACK: Address = Address([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);

    const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

    /// Makes an address from the four bytes of IPv4
    pub fn v4(bytes: [u8; 4]) -> Self {
        let mut address = [0; 16];
        address[..12].copy_from_slice(&Self::V4_MAPPED);
        address[12..].copy_from_slice(&bytes);
        Address(address)
    }

    fn is_loopback(self) -> bool {
        self == Address::LOOPBACK || (self.0[..12] == Self::V4_MAPPED && self.0[12] == 127)
    }

    /// What one holder is taken to own: an IPv4 address, or a /56
    fn network(self) -> Address {
        let mut network = self.0;
        if network[..12] != Self::V4_MAPPED {
            network[7..].fill(0);
        }
        Address(network)
    }
}

/// How many connections are let in
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionConfig {
    /// Connections per second in the long run
    pub rate: u32,
    /// Connections at once
    pub burst: u32,
    /// Connections per second and network address; loopback is exempt
    pub address_rate: u32,
    /// Connections at once per network address
    pub address_burst: u32,
}

impl Default for AdmissionConfig {
    fn default() -> Self {
        AdmissionConfig { rate: 2000, burst: 2000, address_rate: 1000, address_burst: 1000 }
    }
}

const ADDRESSES_MAX: usize = 4096;

/// Decides at accept, before anything is computed for the connection
#[derive(Clone, Debug)]
pub(crate) struct Admission {
    config: AdmissionConfig,
    all: Bucket,
    /// The last slot that was given: whoever is sent away next comes behind
    line_end: Instant,
    by_address: BTreeMap<Address, Bucket>,
    /// The address forgotten last
    forgotten: Address,
}

/// What became of a connection that asks to be let in
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// Let in
    Yes,
    /// Only if it turns out to resume an open session
    IfOpen,
    /// Not now
    No(Duration),
}

impl Admission {
    pub(crate) fn new(config: AdmissionConfig, now: Instant) -> Self {
        Admission {
            all: Bucket::full(config.burst, now),
            config,
            line_end: now,
            by_address: BTreeMap::new(),
            forgotten: Address::LOOPBACK,
        }
    }

    /// Charges a connection at accept
    ///
    /// Sessions that are open go first: once the burst is used up, as many again may still show that they are.
    pub(crate) fn charge(&mut self, now: Instant, address: Address, rng: &mut Rng) -> Admitted {
        let AdmissionConfig { rate, burst, address_rate, address_burst } = self.config;
        if !address.is_loopback() {
            self.make_room();
            let bucket = self.by_address.entry(address.network()).or_insert(Bucket::full(address_burst, now));
            bucket.refill(now, address_rate, address_burst);
            if !bucket.take(0) {
                return Admitted::No(bucket.slot(address_rate, rng));
            }
        }
        self.all.refill(now, rate, burst);
        if !self.all.take(-i64::from(burst)) {
            Admitted::No(self.slot(now, rng))
        } else if self.all.level < 0 {
            Admitted::IfOpen
        } else {
            Admitted::Yes
        }
    }

    /// A connection that was let in only if open turned out not to be: it costs nothing, and comes back then
    ///
    /// Were it charged, those who are sent away would use up what they are sent away for, and a large enough herd
    /// would never get in.
    pub(crate) fn send_away(&mut self, now: Instant, rng: &mut Rng) -> Duration {
        self.all.level = self.all.level.saturating_add(1).min(i64::from(self.config.burst));
        self.slot(now, rng)
    }

    /// A slot behind all that were given: one after the other at the rate, give or take a tenth
    fn slot(&mut self, now: Instant, rng: &mut Rng) -> Duration {
        let pause = Duration::from_micros(1_000_000 / u64::from(self.config.rate.max(1)));
        self.line_end = (self.line_end.max(now) + pause).min(now + RETRY_AFTER_MAX);
        let slot = self.line_end.since(now);
        rng.between(slot * 9 / 10, slot * 11 / 10)
    }

    /// Forgets an address, each in its turn: a full table is never a reason to refuse, nor to search it
    fn make_room(&mut self) {
        if self.by_address.len() < ADDRESSES_MAX {
            return;
        }
        let behind = (Bound::Excluded(self.forgotten), Bound::Unbounded);
        let next = self.by_address.range(behind).next().or(self.by_address.first_key_value());
        if let Some(address) = next.map(|(address, _)| *address) {
            self.by_address.remove(&address);
            self.forgotten = address;
        }
    }
}

/// A token bucket that may go into debt
#[derive(Clone, Copy, Debug)]
struct Bucket {
    level: i64,
    /// Up to when it has been refilled
    refilled: Instant,
}

impl Bucket {
    fn full(burst: u32, now: Instant) -> Self {
        Bucket { level: i64::from(burst), refilled: now }
    }

    fn refill(&mut self, now: Instant, rate: u32, burst: u32) {
        let rate = u64::from(rate.max(1));
        let elapsed = now.as_micros().saturating_sub(self.refilled.as_micros());
        let gained = elapsed.saturating_mul(rate) / 1_000_000;
        // Only whole tokens move the clock, so that no fraction is lost between calls.
        self.refilled = self.refilled + Duration::from_micros(gained.saturating_mul(1_000_000) / rate);
        self.level = self.level.saturating_add_unsigned(gained).min(i64::from(burst));
    }

    fn take(&mut self, lowest: i64) -> bool {
        if self.level <= lowest {
            return false;
        }
        self.level -= 1;
        true
    }

    /// Length of the queue divided by the rate, give or take a tenth
    fn slot(&self, rate: u32, rng: &mut Rng) -> Duration {
        let queue = (1 - self.level).max(1).unsigned_abs();
        let slot = Duration::from_micros(queue.saturating_mul(1_000_000) / u64::from(rate.max(1)));
        rng.between(slot * 9 / 10, slot * 11 / 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Seed;

    #[test]
    fn back_2_a_burst_then_open_sessions_then_nobody_and_the_rate_in_the_long_run() {
        let mut rng = Rng::new(Seed([1; 32]));
        let config = AdmissionConfig { rate: 10, burst: 5, ..AdmissionConfig::default() };
        let mut admission = Admission::new(config, Instant::ZERO);
        let mut charge = |at: u64| admission.charge(Instant::from_micros(at), Address::LOOPBACK, &mut rng);
        for _ in 0..5 {
            assert_eq!(charge(0), Admitted::Yes);
        }
        for _ in 0..5 {
            assert_eq!(charge(0), Admitted::IfOpen);
        }
        let Admitted::No(slot) = charge(0) else { panic!("the door is open") };
        assert!(
            slot >= Duration::from_millis(90) && slot <= Duration::from_millis(110),
            "first in line at ten a second"
        );
        let Admitted::No(slot) = charge(0) else { panic!("the door is open") };
        assert!(slot >= Duration::from_millis(180) && slot <= Duration::from_millis(220), "second in line");
        let mut let_in = 0;
        for at in (0..10_000_000u64).step_by(1000) {
            let_in += u32::from(charge(at) != Admitted::No(Duration::ZERO) && matches!(charge(at), Admitted::IfOpen));
        }
        assert!(let_in <= 101, "{let_in}");
    }

    #[test]
    fn back_2_a_herd_of_any_size_is_let_in_at_the_rate_if_it_obeys() {
        let mut rng = Rng::new(Seed([1; 32]));
        let config = AdmissionConfig { rate: 100, burst: 20, ..AdmissionConfig::default() };
        let mut admission = Admission::new(config, Instant::ZERO);
        let mut line: BTreeMap<(Instant, u32), ()> = (0..2000).map(|n| ((Instant::ZERO, n), ())).collect();
        let (mut last, mut knocks) = (Instant::ZERO, 0);
        while let Some(((at, n), ())) = line.pop_first() {
            (last, knocks) = (at, knocks + 1);
            let slot = match admission.charge(at, Address::LOOPBACK, &mut rng) {
                Admitted::Yes => continue,
                Admitted::IfOpen => admission.send_away(at, &mut rng),
                Admitted::No(slot) => slot,
            };
            line.insert((at + slot, n), ());
        }
        let took = last.since(Instant::ZERO);
        assert!(took >= Duration::from_secs(19) && took <= Duration::from_secs(30), "2,000 at 100 a second: {took:?}");
        assert!(knocks < 8000, "nobody knocks again and again: {knocks}");
    }

    #[test]
    fn auth_5_one_address_cannot_use_up_the_door_for_all() {
        let mut rng = Rng::new(Seed([1; 32]));
        let config = AdmissionConfig { address_rate: 1, address_burst: 2, ..AdmissionConfig::default() };
        let mut admission = Admission::new(config, Instant::ZERO);
        let mut charge = |address| admission.charge(Instant::ZERO, address, &mut rng);
        let greedy = Address::v4([192, 0, 2, 1]);
        assert_eq!((charge(greedy), charge(greedy)), (Admitted::Yes, Admitted::Yes));
        assert!(matches!(charge(greedy), Admitted::No(_)));
        assert_eq!(charge(Address::v4([192, 0, 2, 2])), Admitted::Yes);
        let mut v6 = [0x20; 16];
        assert_eq!((charge(Address(v6)), charge(Address(v6))), (Admitted::Yes, Admitted::Yes));
        v6[7] = 9;
        assert!(matches!(charge(Address(v6)), Admitted::No(_)), "the same /56");
        v6[6] = 9;
        assert_eq!(charge(Address(v6)), Admitted::Yes);
    }

    #[test]
    fn the_table_of_addresses_is_bounded() {
        let mut rng = Rng::new(Seed([1; 32]));
        let mut admission = Admission::new(AdmissionConfig::default(), Instant::ZERO);
        for n in 0..20_000u32 {
            admission.charge(Instant::ZERO, Address::v4(n.to_be_bytes()), &mut rng);
        }
        assert!(admission.by_address.len() <= ADDRESSES_MAX);
    }
}
