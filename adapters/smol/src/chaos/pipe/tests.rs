//! Pipes in virtual time

use super::super::fault::Whom;
use super::super::frames::tests::frame;
use super::super::rig::noise;
use super::*;

/// A pipe, and what has come out of it when
struct Bench {
    pipe: Pipe,
    now: Instant,
    start: Instant,
    out: Vec<(u64, Vec<u8>)>,
}

const NAME: Name = Name { seed: 1, connection: 0, towards: End::Peer, place: 0 };

fn fault(kind: Kind, amount: u64) -> Fault {
    Fault { kind, whom: Whom::All, towards: End::Peer, span: Duration::from_millis(30), amount, after: 0 }
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        Bench { pipe: Pipe::new(NAME, Duration::ZERO, None), now, start: now, out: Vec::new() }
    }

    /// One on which something holds from its start, for a second
    fn under(kind: Kind, amount: u64) -> Self {
        let mut bench = Bench::new();
        bench.spell(kind, amount, 1000);
        bench
    }

    fn spell(&mut self, kind: Kind, amount: u64, ms: u64) {
        let until = Some(self.now + Duration::from_millis(ms));
        self.pipe.spell(Spell { kind, amount, since: self.now, until, felt: false });
    }

    /// Takes what it has room for, and lets out all that may leave, jumping over pauses; how it ends
    fn carry(&mut self, mut bytes: &[u8]) -> Option<Kind> {
        loop {
            let (now, count) = (self.now, self.pipe.room(self.now).min(bytes.len()));
            self.pipe.take(now, &bytes[..count]);
            bytes = &bytes[count..];
            match self.pipe.next(now) {
                Next::Bytes(piece) => {
                    self.out.push((now.duration_since(self.start).as_millis() as u64, piece.to_vec()));
                    let count = piece.len();
                    self.pipe.sent(now, count);
                }
                Next::Wait(until) => self.now = until,
                Next::Break(kind) => return kind,
                Next::End => self.pipe.told_end(),
                Next::Idle if bytes.is_empty() => return None,
                Next::Idle => self.now += Duration::from_millis(1),
            }
        }
    }

    fn bytes(&self) -> Vec<u8> {
        self.out.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
    }

    /// When the first and the last byte came out, in milliseconds
    fn times(&self) -> (u64, u64) {
        (self.out.first().expect("bytes").0, self.out.last().expect("bytes").0)
    }
}

/// What comes out where something befalls the next bytes, whatever pieces they come in
fn struck(kind: Kind, amount: u64, data: &[u8]) -> Vec<u8> {
    let outs = [1, 2, 3, 7, 1000, data.len()].map(|chunk| {
        let mut bench = Bench::new();
        bench.carry(b"before");
        bench.out.clear();
        bench.pipe.strike(bench.now, fault(kind, amount));
        data.chunks(chunk).for_each(|piece| _ = bench.carry(piece));
        bench.pipe.end(bench.now);
        bench.carry(b"");
        assert_eq!(bench.pipe.take_felt(), [kind], "in pieces of {chunk}");
        bench.bytes()
    });
    assert!(outs.windows(2).all(|two| two[0] == two[1]), "it depends on the pieces");
    outs[0].clone()
}

/// What comes out where something befalls the second message of a WebSocket
fn messages(kind: Kind, amount: u64) -> Vec<u8> {
    let head = b"GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n";
    let outs = [1, 3, 1000].map(|chunk| {
        let mut bench = Bench::new();
        let rest = [frame(b"second"), frame(b"third")].concat();
        bench.carry(&[&head[..], &frame(b"first")].concat());
        bench.out.clear();
        bench.pipe.strike(bench.now, fault(kind, amount));
        rest.chunks(chunk).for_each(|piece| _ = bench.carry(piece));
        bench.pipe.end(bench.now);
        bench.carry(b"");
        assert_eq!(bench.pipe.take_felt(), [kind]);
        bench.bytes()
    });
    assert!(outs.windows(2).all(|two| two[0] == two[1]), "it depends on the pieces");
    outs[0].clone()
}

#[test]
fn without_faults_bytes_leave_at_once_and_as_they_are() {
    let (mut bench, data) = (Bench::new(), noise(1, 1 << 20));
    assert_eq!(bench.carry(&data), None);
    assert!(bench.bytes() == data && bench.times() == (0, 0));
    bench.pipe.end(bench.now);
    assert_eq!(bench.pipe.next(bench.now), Next::End);
    assert_eq!(bench.pipe.take_felt(), []);
}

#[test]
fn what_waits_is_bounded_and_its_sender_with_it() {
    let mut bench = Bench::under(Kind::Stall, 0);
    assert_eq!(bench.pipe.room(bench.now), QUEUE_BYTES_MAX);
    bench.pipe.take(bench.now, &noise(1, QUEUE_BYTES_MAX));
    assert_eq!(bench.pipe.room(bench.now), 0);
    assert_eq!(Bench::under(Kind::Bandwidth, 1).pipe.room(Instant::now()), NARROW_BYTES_MAX);
    assert_eq!(Bench::under(Kind::Bloat, 1).pipe.room(Instant::now()), BLOAT_BYTES_MAX);
    assert_eq!(Bench::under(Kind::Blocked, 0).pipe.room(Instant::now()), 0);
}

#[test]
fn delays_keep_the_order_and_depend_on_the_place_of_a_byte_alone() {
    let data = noise(1, 20_000);
    for kind in [Kind::Delay, Kind::Jitter, Kind::Exponential, Kind::LogNormal, Kind::Pareto, Kind::Bimodal] {
        let times = [100, 1024, 3000, 20_000].map(|chunk| {
            let mut bench = Bench::under(kind, 10_000);
            data.chunks(chunk).for_each(|piece| bench.pipe.take(bench.now, piece));
            bench.carry(b"");
            assert!(bench.bytes() == data && bench.pipe.take_felt() == [kind]);
            bench.times()
        });
        assert!(times.iter().all(|time| *time == times[0] && time.1 > 0), "{}: {times:?}", kind.name());
    }
    let mut bench = Bench::under(Kind::Ramp, 100_000);
    bench.now += Duration::from_millis(500);
    bench.carry(b"x");
    assert_eq!(bench.times(), (550, 550), "half of the way up");
}

#[test]
fn narrow_ways_let_so_many_bytes_through_in_a_second() {
    for kind in [Kind::Bandwidth, Kind::Bloat] {
        let mut bench = Bench::under(kind, 10_000);
        bench.carry(&[7; 5000]);
        assert!((400..=520).contains(&bench.times().1), "{:?}", bench.times());
        assert_eq!(bench.pipe.take_felt(), [kind]);
    }
    let mut drip = Bench::under(Kind::Drip, 5_000);
    drip.carry(&[7; 100]);
    assert!(drip.out.iter().all(|(_, bytes)| bytes.len() == 1));
    assert!((470..=500).contains(&drip.times().1), "{:?}", drip.times());
    let mut pieces = Bench::under(Kind::Rechunk, 7);
    pieces.carry(&[7; 100]);
    assert!(pieces.out.iter().all(|(_, bytes)| bytes.len() <= 7) && pieces.out.len() >= 15);
    // When it is over, it is.
    drip.now += Duration::from_secs(1);
    drip.out.clear();
    drip.carry(&[7; 100]);
    assert_eq!(drip.out.len(), 1);
}

#[test]
fn a_stall_holds_up_bytes_and_the_end_behind_them_and_then_lets_all_go() {
    for kind in [Kind::Stall, Kind::Partition, Kind::Split, Kind::Swizzle] {
        let mut bench = Bench::under(kind, 0);
        assert_eq!(bench.pipe.next(bench.now), Next::Idle);
        assert_eq!(bench.pipe.take_felt(), [], "there was nothing to hold up");
        bench.pipe.end(bench.now);
        assert!(matches!(bench.pipe.next(bench.now), Next::Wait(_)), "nobody learns of an end");
        assert_eq!(bench.pipe.take_felt(), [kind]);
    }
    let mut bench = Bench::under(Kind::Stall, 0);
    bench.carry(b"held");
    assert_eq!(bench.times(), (1000, 1000));
}

#[test]
fn what_befalls_bytes_does_so_at_their_place() {
    let data = noise(1, 3000);
    let flipped = struck(Kind::Flip, 8 * 777 + 3, &data);
    assert_eq!(flipped[777], data[777] ^ 8);
    assert!(flipped[..777] == data[..777] && flipped[778..] == data[778..]);
    let scrambled = struck(Kind::Scramble, 999, &data);
    assert_eq!((scrambled[999], scrambled[1000]), (data[1000], data[999]));
    assert!(scrambled[..999] == data[..999] && scrambled[1001..] == data[1001..]);
    assert!(struck(Kind::Snip, 1500, &data) == data[1500..]);
    let inserted = struck(Kind::Insert, 200, &data);
    assert!(inserted.len() == 3200 && inserted[200..] == data);
}

#[test]
fn what_befalls_messages_befalls_whole_ones() {
    let [second, third] = [frame(b"second"), frame(b"third")];
    assert_eq!(messages(Kind::Drop, 0), third);
    assert_eq!(messages(Kind::Duplicate, 0), [&*second, &*second, &*third].concat());
    assert_eq!(messages(Kind::Swap, 0), [&*third, &*second].concat());
    assert_eq!(messages(Kind::Truncate, 5), [&second[..3], &*third].concat());
    assert_eq!(messages(Kind::Lie, 7), [&[0x82, 13][..], b"second", &third].concat());
    assert_eq!(messages(Kind::Hold, 0), [&*second, &*third].concat());
}

#[test]
fn messages_of_what_is_no_websocket_are_left_alone() {
    let mut bench = Bench::new();
    bench.pipe.strike(bench.now, fault(Kind::Drop, 0));
    bench.carry(b"SSH-2.0");
    assert_eq!((bench.bytes(), bench.pipe.take_felt()), (b"SSH-2.0".to_vec(), vec![]));
}

#[test]
fn a_connection_breaks_behind_so_many_bytes_and_not_before() {
    let mut bench = Bench::new();
    bench.carry(b"before");
    bench.pipe.break_behind(100);
    assert_eq!(bench.carry(&[7; 99]), None);
    assert_eq!(bench.carry(&[7; 50]), Some(Kind::ResetAfter));
    assert_eq!(bench.bytes().len(), 106);
}

#[test]
fn a_break_of_the_other_end_comes_behind_what_is_under_way() {
    let mut bench = Bench::under(Kind::Delay, 10_000);
    bench.pipe.take(bench.now, b"said");
    bench.pipe.broke(bench.now);
    assert_eq!(bench.carry(b""), None);
    assert_eq!(bench.bytes(), b"said");
    assert_eq!(bench.pipe.next(bench.now), Next::Break(None));
}

#[test]
fn what_is_deaf_takes_everything_and_lets_nothing_out() {
    let mut bench = Bench::new();
    bench.pipe.take(bench.now, b"under way");
    bench.pipe.deafen();
    assert_eq!(bench.pipe.room(bench.now), usize::MAX);
    bench.carry(b"lost");
    bench.pipe.broke(bench.now);
    assert_eq!(bench.pipe.next(bench.now), Next::Idle);
    assert!(bench.out.is_empty() && bench.pipe.is_over());
}

#[test]
fn what_heals_goes_on_at_once_and_loses_nothing() {
    let mut bench = Bench::under(Kind::Delay, 900_000);
    bench.spell(Kind::Stall, 0, 900);
    bench.pipe.strike(bench.now, fault(Kind::Flip, 800));
    bench.pipe.strike(bench.now, fault(Kind::Drop, 0));
    bench.pipe.take(bench.now, b"held");
    bench.pipe.heal(bench.now);
    bench.carry(b", and more");
    assert_eq!((bench.bytes(), bench.times()), (b"held, and more".to_vec(), (0, 0)));
}
