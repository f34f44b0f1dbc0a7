//! Bytes on their way from one socket to another

use std::io;
use std::net::Shutdown;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::{Timer, future};

use super::random::{Purpose, Random};
use super::shared::{Place, Shared};
use super::socket::Socket;

/// Bytes held per direction of a link, at most
const BUFFER: usize = 64 * 1024;

/// Largest piece of data that is forwarded in small pieces
const MAX_PIECE: u64 = 256;

/// One direction of a link
///
/// All its futures may be dropped and started anew without loss of data.
pub(super) struct Lane {
    shared: Arc<Shared>,
    buffer: Box<[u8]>,
    /// The part of the buffer that is still to be forwarded
    filled: Range<usize>,
    /// Bytes forwarded so far
    forwarded: u64,
    /// Whether the end was read
    ended: bool,
    /// Time before which nothing of the chunk is forwarded
    hold: Option<Instant>,
    /// Whether the chunk is forwarded in small pieces
    in_pieces: bool,
    pace: Random,
    flips: Flips,
}

impl Lane {
    pub(super) fn new(place: &Place, [pace, flips]: [Purpose; 2], early_flip: Option<u64>) -> Self {
        let shared = place.shared.clone();
        let draw = |purpose| Random::keyed(shared.seed, place.connection, purpose);
        Self {
            buffer: vec![0; BUFFER].into_boxed_slice(),
            filled: 0..0,
            forwarded: 0,
            ended: false,
            hold: None,
            in_pieces: false,
            pace: draw(pace),
            flips: Flips::new(draw(flips), shared.settings.flip_share, early_flip),
            shared,
        }
    }

    pub(super) fn holds_data(&self) -> bool {
        !self.filled.is_empty()
    }

    /// Forwards up to the end, and the end
    pub(super) async fn carry_all(&mut self, from: &Socket, to: &Socket) -> io::Result<()> {
        self.carry(from, to).await?;
        // Fails only if the other side is gone, which its own lane finds out.
        let _ = to.get_ref().shutdown(Shutdown::Write);
        Ok(())
    }

    /// Forwards up to the end
    async fn carry(&mut self, from: &Socket, to: &Socket) -> io::Result<()> {
        while !self.ended {
            if self.filled.is_empty() {
                self.fill(from).await?;
            } else {
                self.wait_out().await;
                self.forward(to).await?;
            }
            // Two fast peers would keep this loop from ever waiting.
            future::yield_now().await;
        }
        Ok(())
    }

    async fn read(&mut self, mut from: &Socket) -> io::Result<usize> {
        let count = from.read(&mut self.buffer).await?;
        self.ended = count == 0;
        Ok(count)
    }

    /// Reads a chunk and draws what is to happen to it
    async fn fill(&mut self, from: &Socket) -> io::Result<()> {
        self.filled = 0..self.read(from).await?;
        let settings = &self.shared.settings;
        let delayed = self.pace.chance(settings.delay_share);
        self.hold = delayed.then(|| Instant::now() + self.pace.duration(&settings.delay_for));
        self.in_pieces = self.pace.chance(settings.rechunk_share);
        Ok(())
    }

    async fn wait_out(&mut self) {
        let calm = self.shared.state().calm;
        if let Some(hold) = self.hold.filter(|_| !calm) {
            Timer::at(hold).await;
            self.shared.state().counts.delays += 1;
        }
        self.hold = None;
    }

    /// Writes a piece of the chunk: a flipped byte, or all up to the next one
    async fn forward(&mut self, mut to: &Socket) -> io::Result<()> {
        let calm = self.shared.state().calm;
        let unharmed = if calm { u64::MAX } else { self.flips.next().saturating_sub(self.forwarded) };
        let chunk = &self.buffer[self.filled.clone()];
        let flipped = [chunk[0] ^ self.flips.mask];
        let piece = if unharmed == 0 {
            &flipped
        } else {
            let most = if self.in_pieces && !calm { 1 + self.pace.below(MAX_PIECE) } else { u64::MAX };
            &chunk[..most.min(unharmed).min(chunk.len() as u64) as usize]
        };
        let count = to.write(piece).await?;
        if unharmed == 0 && count > 0 {
            self.flips.advance();
            self.shared.state().counts.flipped_bytes += 1;
        }
        self.filled.start += count;
        self.forwarded += count as u64;
        Ok(())
    }

    /// Forwards, or discards if silent, until a side closes: `from`, or else `to`
    pub(super) async fn until_closed(&mut self, silent: bool, from: &Socket, to: &Socket) -> bool {
        // This lane's end is old news; the other lane may still find the close.
        if self.ended {
            return future::pending().await;
        }
        if silent {
            self.discard(from).await;
            return true;
        }
        // Whether it ended or failed: data is left over only if it could not be written.
        let _ = self.carry(from, to).await;
        !self.holds_data()
    }

    /// Reads and throws away up to the end
    pub(super) async fn discard(&mut self, from: &Socket) {
        while !self.ended && self.read(from).await.is_ok() {
            future::yield_now().await;
        }
    }
}

/// The bytes of a lane in which a bit is flipped
///
/// They are drawn by their place in the stream, so chunking does not move them.
struct Flips {
    random: Random,
    share: f64,
    early: u64,
    regular: u64,
    /// The bit to flip
    mask: u8,
}

impl Flips {
    fn new(random: Random, share: f64, early: Option<u64>) -> Self {
        let mut flips = Self { random, share, early: early.unwrap_or(u64::MAX), regular: 0, mask: 0 };
        flips.draw(0);
        flips
    }

    /// Place of the next byte to flip
    fn next(&self) -> u64 {
        self.early.min(self.regular)
    }

    /// Goes on from the byte just flipped to the one after it
    fn advance(&mut self) {
        let done = self.next();
        if self.early == done {
            self.early = u64::MAX;
        }
        if self.regular == done {
            self.draw(done + 1);
        }
    }

    fn draw(&mut self, from: u64) {
        self.regular = from.saturating_add(self.random.gap(self.share));
        self.mask = 1 << self.random.below(8);
    }
}

#[cfg(test)]
mod tests {
    use super::super::bench::*;
    use super::super::plan::{EARLY, plan};
    use super::super::{Counts, Settings};
    use super::*;
    use std::time::Duration;

    #[test]
    fn without_disruption_all_bytes_pass_both_ways() {
        with_link(Settings::none(), async |bench, client, server| {
            let (there, back) = (noise(1, 8 << 20), noise(2, 8 << 20));
            let (at_server, at_client) = swap((&client, &there), (&server, &back)).await;
            assert!(at_server == there && at_client == back);
            bench.until_empty().await;
            assert_eq!(bench.proxy.counts(), Counts { connections: 1, ..Counts::default() });
        });
    }

    #[test]
    fn a_half_closed_link_answers() {
        with_link(Settings::none(), async |_bench, client, server| {
            send_all(&client, b"question").await;
            assert_eq!(receive_all(&server).await.expect("read"), b"question");
            send_all(&server, b"answer").await;
            assert_eq!(receive_all(&client).await.expect("read"), b"answer");
        });
    }

    #[test]
    fn a_slow_receiver_holds_the_sender_back() {
        with_link(Settings::none(), async |_bench, mut client, server| {
            let mut sent = 0;
            while let Some(count) = within(millis(300), client.write(&[7; BUFFER])).await {
                sent += count.expect("write");
                assert!(sent < 64 << 20, "nothing holds the sender back");
            }
            send_all(&client, b"").await;
            assert_eq!(receive_all(&server).await.expect("read").len(), sent);
        });
    }

    #[test]
    fn flips_counted_are_bytes_that_differ() {
        let settings = Settings { flip_share: 1.0 / 500.0, ..Settings::none() };
        with_link(settings, async |bench, client, server| {
            let (there, back) = (noise(1, 1 << 20), noise(2, 100_000));
            let (at_server, at_client) = swap((&client, &there), (&server, &back)).await;
            let flips = differences(&there, &at_server).len() + differences(&back, &at_client).len();
            assert!((1500..3000).contains(&flips), "{flips}");
            assert_eq!(bench.proxy.counts().flipped_bytes, flips as u64);
        });
    }

    #[test]
    fn an_early_flip_is_where_the_plan_has_it() {
        run(async {
            let settings = Settings { early_flip_share: 1.0, ..Settings::none() };
            for seed in 0..8 {
                let bench = Bench::new(settings.clone(), seed).await;
                let (client, server) = bench.link().await;
                let data = noise(seed, 5000);
                let (there, back) = swap((&client, &data), (&server, &data)).await;
                let flip = plan(&settings, seed, 0).early_flip.expect("a flip");
                let (hit, spared) = if flip.to_upstream { (there, back) } else { (back, there) };
                assert_eq!(differences(&data, &hit), [flip.at]);
                assert!(spared == data && flip.at < EARLY);
            }
        });
    }

    #[test]
    fn stalls_delays_and_small_pieces_keep_bytes_and_order() {
        let settings = Settings {
            stall_share: 1.0,
            stall_gap: millis(1)..=millis(5),
            stall_for: millis(5)..=millis(10),
            delay_share: 0.5,
            delay_for: millis(1)..=millis(3),
            rechunk_share: 0.5,
            ..Settings::none()
        };
        with_link(settings, async |bench, client, server| {
            let data = noise(1, 2 << 20);
            let (received, _) = swap((&client, &data), (&server, &[])).await;
            assert!(received == data);
            let counts = bench.proxy.counts();
            assert!(counts.stalls > 0 && counts.delays > 0, "{counts:?}");
            assert_eq!(counts.disruptions(), counts.stalls + counts.delays);
        });
    }

    #[test]
    fn calm_frees_what_a_delay_holds() {
        let hour = Duration::from_secs(3600);
        let settings = Settings { delay_share: 1.0, delay_for: hour..=hour, ..Settings::none() };
        with_link(settings, async |bench, client, server| {
            send(&client, b"held").await;
            assert!(read_soon(&server).await.is_none());
            bench.proxy.calm();
            assert_eq!(&read_some(&server).await, b"held");
            assert_eq!(bench.proxy.disruptions(), 0);
        });
    }
}
