//! A TCP proxy that breaks links on purpose
//!
//! [`Proxy`] stands on loopback between workers and a coordinator and does to
//! their links what bad networks do: resets, silence, stalls, delays, flipped
//! bytes. Which fate a link meets is drawn from a seed and the link's number
//! alone (see [`plan()`]), so a run can be repeated; when data moves in between is
//! up to the machine. Only what really took effect is counted.

#[cfg(test)]
mod bench;
mod link;
mod plan;
mod pump;
mod random;
mod shared;
mod socket;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use smol::{Async, Task, Timer, future};

pub use plan::{Cut, EarlyFlip, Manner, Plan, Profile, Refusal, Settings, Silence, UnknownProfile, plan};

use shared::{Order, Place, Shared};

/// Most links that may be half-open at one time; further ones are reset instead
pub const MAX_HALF_OPEN: usize = 64;

/// Longest time a link stays half-open
pub const MAX_HALF_OPEN_TIME: Duration = Duration::from_secs(5);

/// A running proxy; dropping it closes its links and its listener
#[derive(Debug)]
pub struct Proxy {
    local_addr: SocketAddr,
    shared: Arc<Shared>,
    _accepting: Task<()>,
}

impl Proxy {
    /// Starts a proxy on a loopback address, port 0 for any free port
    ///
    /// # Errors
    ///
    /// `InvalidInput` if `listen` is not on loopback, else what listening failed with.
    pub async fn start(listen: SocketAddr, upstream: SocketAddr, settings: Settings, seed: u64) -> io::Result<Self> {
        if !listen.ip().to_canonical().is_loopback() {
            let why = "the disruption proxy listens on loopback only";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let listener = Async::<TcpListener>::bind(listen)?;
        let local_addr = listener.get_ref().local_addr()?;
        let shared = Arc::new(Shared::new(upstream, settings, seed));
        let accepting = smol::spawn(accept(listener, shared.clone()));
        Ok(Self { local_addr, shared, _accepting: accepting })
    }

    /// Address to connect to
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What took effect so far
    pub fn counts(&self) -> Counts {
        self.shared.state().counts
    }

    /// Number of disruptions that took effect so far
    pub fn disruptions(&self) -> u64 {
        self.counts().disruptions()
    }

    /// Stops disrupting for good: links stay as they are, new ones pass through
    ///
    /// What a stall or a delay holds is forwarded at once. A half-open link stays
    /// silent until its time is over. The calls below work as before.
    pub fn calm(&self) {
        let mut state = self.shared.state();
        state.calm = true;
        state.order_all(Order::Calm);
    }

    /// Resets all links, half-open ones too
    pub fn reset_all(&self) {
        self.shared.state().order_all(Order::Cut(Manner::Reset));
    }

    /// Makes all links half-open, in both directions
    ///
    /// When one end closes, the other one is closed at once, or, if the share of late closes is 1, when the longest time
    /// for that has passed. As always, those above [`MAX_HALF_OPEN`] are reset.
    pub fn half_open_all(&self) {
        let settings = &self.shared.settings;
        let late_close = (settings.late_close_share >= 1.0).then(|| *settings.late_close.end());
        let manner = Manner::HalfOpen { silence: Silence::Both, late_close };
        self.shared.state().order_all(Order::Cut(manner));
    }

    /// Resets new connections as soon as they are made, until called with `false`
    pub fn refuse_new(&self, refuse: bool) {
        self.shared.state().refuse = refuse;
    }

    /// Number of links now, half-open ones included
    pub fn connections_now(&self) -> usize {
        self.shared.state().links.len()
    }
}

/// Accepts connections for good, and owns their tasks
async fn accept(listener: Async<TcpListener>, shared: Arc<Shared>) {
    let mut tasks: Vec<Task<()>> = Vec::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of descriptors, say: trying again at once would only spin.
            Timer::after(Duration::from_millis(10)).await;
            continue;
        };
        tasks.retain(|task| !task.is_finished());
        let (place, plan) = Place::new(shared.clone());
        tasks.push(smol::spawn(link::serve(place, client, plan)));
        // A flood of connections must not keep the links from their turns.
        future::yield_now().await;
    }
}

/// What a [`Proxy`] did so far
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted, refused ones included
    pub connections: u64,
    /// Links and new connections reset while a side was open
    pub resets: u64,
    /// Links made half-open while a side was open
    pub half_opens: u64,
    /// Stalls that held data up
    pub stalls: u64,
    /// Chunks of data that were delayed
    pub delays: u64,
    /// Bytes forwarded with a bit flipped
    pub flipped_bytes: u64,
}

impl Counts {
    /// Number of disruptions of all kinds
    pub fn disruptions(&self) -> u64 {
        self.resets + self.half_opens + self.stalls + self.delays + self.flipped_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::bench::*;
    use super::*;
    use smol::io::AsyncWriteExt;
    use socket::Socket;

    #[test]
    fn listening_beyond_loopback_is_an_error() {
        let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let proxy = run(Proxy::start(everywhere, LOOPBACK, Settings::none(), 1));
        assert_eq!(proxy.expect_err("an error").kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn refused_connections_are_reset_and_counted() {
        run(async {
            let bench = Bench::new(Settings::none(), 1).await;
            bench.proxy.refuse_new(true);
            assert_refuses(&bench.proxy).await;
            bench.proxy.refuse_new(false);
            let (client, server) = bench.link().await;
            assert_passes(&client, &server).await;
            let counts = bench.proxy.counts();
            assert_eq!((counts.connections, counts.resets), (2, 1));

            let bench = Bench::new(Settings { refuse_share: 1.0, ..Settings::none() }, 1).await;
            for resets in 1..10 {
                assert_refuses(&bench.proxy).await;
                until(|| bench.proxy.counts().resets == resets).await;
            }
        });
    }

    #[test]
    fn an_absent_upstream_shows_as_a_reset_uncounted() {
        run(async {
            let Bench { proxy, upstream } = Bench::new(Settings::none(), 1).await;
            drop(upstream);
            assert_refuses(&proxy).await;
            assert_eq!(proxy.disruptions(), 0);
        });
    }

    #[test]
    fn dropping_the_proxy_closes_all() {
        run(async {
            let bench = Bench::new(Settings::none(), 1).await;
            let silent = [bench.link().await, bench.link().await];
            bench.proxy.half_open_all();
            until(|| bench.proxy.counts().half_opens == 2).await;
            let whole = bench.link().await;
            assert_passes(&whole.0, &whole.1).await;
            let address = bench.proxy.local_addr();
            drop(bench.proxy);
            for (client, server) in silent.iter().chain([&whole]) {
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
            let Bench { proxy, upstream } = Bench::new(Settings::of(Profile::Storm), 11).await;
            let _echo = smol::spawn(async move {
                let mut links = Vec::new();
                while let Ok((server, _)) = upstream.accept().await {
                    links.push(smol::spawn(async move { smol::io::copy(&server, &server).await }));
                }
            });
            let is_missing = |counts: Counts| {
                let Counts { resets, half_opens, stalls, delays, flipped_bytes, .. } = counts;
                [resets, half_opens, stalls, delays, flipped_bytes].contains(&0)
            };
            while is_missing(proxy.counts()) {
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
}
