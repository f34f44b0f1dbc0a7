//! A TCP proxy that breaks connections on purpose
//!
//! [`Proxy`] stands in front of any TCP service and does to its connections what bad networks do: by a schedule, by
//! hand, or by a [`Profile`], which draws from a seed and a connection's number alone what becomes of it. Kinds of fault
//! are those of the simulator, as far as somebody who sees bytes and WebSocket frames can do them. When data moves in
//! between is up to the machine. Beside how often each kind came it counts how often that really had an effect.
//!
//! | room | concern |
//! | --- | --- |
//! | `fault`, `laws` | what can break; laws of delay |
//! | `profile`, `random` | the fate of a connection by seed |
//! | `places` | which connection is meant, and what is in force |
//! | `link`, `socket`, `upstream` | the life of a connection, and where it leads |
//! | `pipe`, `frames`, `alter` | its bytes under way, without sockets and clocks; where messages begin, and what befalls them |
//! | `memory` | what was said before, for faults that say it again |
//! | `http`, `intruder` | answers in the place of the service; whoever else dials it |

mod alter;
mod fault;
mod frames;
mod http;
mod intruder;
mod laws;
mod link;
mod memory;
mod pipe;
mod places;
mod profile;
pub(crate) mod random;
#[cfg(test)]
mod rig;
mod socket;
mod upstream;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use smol::{Async, Executor, Task, Timer, future};

pub use fault::{Counts, End, Fault, Kind, Whom};
pub use frames::Opaque;
pub use places::Settings;
pub use profile::{Profile, UnknownProfile, fate};
pub use upstream::{BadUpstream, Upstream};

use fault::Manner;
use places::{Place, Shared};
use socket::reset_on_close;

/// A proxy; dropping what [`Proxy::start`] returns closes its connections and its listener
#[derive(Debug)]
pub struct Proxy {
    local_addr: SocketAddr,
    shared: Arc<Shared>,
    _serving: Option<Task<()>>,
}

impl Proxy {
    /// Starts a proxy of a profile, and has it served; port 0 is any free port
    ///
    /// # Errors
    ///
    /// What listening failed with.
    pub async fn start(
        listen: SocketAddr,
        upstream: impl Into<Upstream> + 'static,
        profile: Profile,
        seed: u64,
    ) -> io::Result<Self> {
        let (proxy, serving) = Proxy::bind(listen, upstream, Settings::of(profile, seed))?;
        Ok(Proxy { _serving: Some(smol::spawn(serving)), ..proxy })
    }

    /// A proxy that serves as long as the future is polled, which never ends
    ///
    /// # Errors
    ///
    /// What listening failed with.
    pub fn bind<U: Into<Upstream> + 'static>(
        listen: SocketAddr,
        upstream: U,
        settings: Settings,
    ) -> io::Result<(Self, impl Future<Output = ()> + Send + use<U>)> {
        let listener = Async::<TcpListener>::bind(listen)?;
        let local_addr = listener.get_ref().local_addr()?;
        let shared = Arc::new(Shared::new(upstream.into(), settings));
        let serving = serve(listener, shared.clone());
        Ok((Proxy { local_addr, shared, _serving: None }, serving))
    }

    /// Address to connect to
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What came so far, and what of it had an effect
    pub fn counts(&self) -> Counts {
        self.shared.state().counts.clone()
    }

    /// Number of connections now, those included of which one end alone is left
    pub fn connections_now(&self) -> usize {
        self.shared.state().links()
    }

    /// Bytes that have gone through so far, towards whoever dialled and towards the service
    pub fn carried(&self) -> [u64; 2] {
        self.shared.carried()
    }

    /// How long a connection has gone on in which a bit was flipped, the longest of those that are open
    ///
    /// Bits of the HTTP head in front of a WebSocket do not count: what is in it is vouched for by nobody.
    pub fn scarred_for(&self) -> Option<Duration> {
        self.shared.state().scarred().map(|at| at.elapsed())
    }

    /// A fault strikes now, whatever was healed before
    ///
    /// One that says again what was said is impossible where nothing is remembered.
    pub fn strike(&self, fault: Fault) {
        match fault.kind.manner() {
            Manner::Aside => smol::spawn(intruder::comes(self.shared.clone(), fault)).detach(),
            Manner::Weather | Manner::Dial | Manner::Blow | Manner::Strike => {}
        }
        self.shared.strike(fault);
    }

    /// Why a fault can have no effect on any of the connections that it strikes now, if that is known
    pub fn opaque(&self, fault: Fault) -> Option<Opaque> {
        self.shared.opaque(fault)
    }

    /// Ends all that lasts, and what the profile does: new connections pass through
    ///
    /// What is held up goes on at once. What is dead stays dead.
    pub fn heal(&self) {
        self.shared.heal();
    }

    /// Has faults strike, each at its time from the start of the call; they must be in the order of time
    pub async fn follow(&self, faults: impl IntoIterator<Item = (Duration, Fault)>) {
        let start = Instant::now();
        for (at, fault) in faults {
            Timer::at(start + at).await;
            self.strike(fault);
        }
    }
}

/// Accepts connections for good, and owns what becomes of them
///
/// They have an executor of their own, so that whoever polls this does all the work: a hop to another thread would cost
/// each message more than everything else here.
async fn serve(listener: Async<TcpListener>, shared: Arc<Shared>) {
    let links = Arc::new(Executor::new());
    // A task like the others, so that it has no turn whenever one of them has.
    links.spawn(accept(listener, shared, Arc::downgrade(&links))).detach();
    links.run(future::pending()).await
}

async fn accept(listener: Async<TcpListener>, shared: Arc<Shared>, links: Weak<Executor<'static>>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let client = Arc::new(client);
                match (Place::new(shared.clone(), &client), links.upgrade()) {
                    (Some(place), Some(links)) => links.spawn(link::serve(place, client)).detach(),
                    _ => reset_on_close(&[&client]),
                }
            }
            // Out of descriptors, say: trying again at once would only spin.
            Err(_) => _ = Timer::after(Duration::from_millis(10)).await,
        }
        // A flood of connections must not keep the links from their turns.
        future::yield_now().await;
    }
}

#[cfg(test)]
mod tests;
