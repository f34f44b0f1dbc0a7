//! Both sides and what is between them

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use smol::Timer;
use smol::channel::{Receiver, Sender, bounded};
use smol::future::{self, FutureExt};

use super::condition::{Condition, Kind};
use super::forwarder::Forwarder;
use super::namespaces::Unavailable;
use super::side::Side;
use super::way::Counts;
use super::{MTU, PEER, SERVICE};
use crate::chaos::End;

/// Most packets taken from a side before the other one has its turn
const TURN_PACKETS: usize = 64;

/// Two hosts, and the packets between them
///
/// Needs the rights of root in its user namespace, as [`launch`](super::launch) gives them. Both sides end with it, and
/// with the processes that were started there.
pub struct Netbox {
    /// By [`End`]: the one that dials, and the one where the service is
    sides: [Side; 2],
    forwarder: RefCell<Forwarder>,
    started: Instant,
    /// When a device comes up again
    down_until: [Cell<Option<Instant>>; 2],
    is_down: [Cell<bool>; 2],
    peer: Cell<Ipv4Addr>,
    roamed: Cell<u64>,
    changed: (Sender<()>, Receiver<()>),
}

impl Netbox {
    /// Makes both sides, [`PEER`] and [`SERVICE`], between which all packets get through
    ///
    /// # Errors
    ///
    /// What the system does not let us do.
    pub fn new(seed: u64) -> Result<Netbox, Unavailable> {
        Ok(Netbox {
            sides: [Side::new(PEER)?, Side::new(SERVICE)?],
            forwarder: RefCell::new(Forwarder::new(seed)),
            started: Instant::now(),
            down_until: Default::default(),
            is_down: Default::default(),
            peer: Cell::new(PEER),
            roamed: Cell::new(0),
            changed: bounded(1),
        })
    }

    /// Forwards packets for good; nothing gets through while it is not polled
    ///
    /// # Errors
    ///
    /// What reading from a device failed with.
    pub async fn serve(&self) -> io::Result<()> {
        loop {
            self.bring_up_what_is_due()?;
            self.deliver();
            self.wait().await?;
            for end in End::BOTH {
                self.take_from(end)?;
            }
            // A flood of packets must not keep everybody else from their turns.
            future::yield_now().await;
        }
    }

    /// The way is like this from now on
    ///
    /// # Errors
    ///
    /// Too many conditions, or what a device does not let us do.
    pub fn set(&self, condition: Condition) -> io::Result<()> {
        if condition.kind == Kind::Down {
            condition.ends().try_for_each(|end| self.down(end, condition.span))?;
        } else if condition.kind == Kind::Roam {
            self.roam()?;
        } else {
            self.forwarder.borrow_mut().set(self.now(), condition).map_err(io::Error::other)?;
        }
        self.change();
        Ok(())
    }

    /// All conditions end: devices are up, what is under way arrives at once, and new packets get through
    ///
    /// The side that dials keeps the address it has.
    ///
    /// # Errors
    ///
    /// What a device does not let us do.
    pub fn heal(&self) -> io::Result<()> {
        for end in End::BOTH {
            self.up(end)?;
        }
        self.forwarder.borrow_mut().heal(self.now());
        self.change();
        Ok(())
    }

    /// Starts a command on a side; whoever has it waits for its end
    ///
    /// # Errors
    ///
    /// What starting it failed with.
    pub fn spawn(&self, end: End, command: Command) -> io::Result<Child> {
        self.sides[end as usize].spawn(command)
    }

    /// Whether the service accepts connections at a port of [`SERVICE`], as seen from its own side
    pub fn service_listens(&self, port: u16) -> bool {
        self.sides[End::Coordinator as usize].listens(SERVICE, port)
    }

    /// What became of the packets towards a side
    pub fn counts(&self, towards: End) -> Counts {
        self.forwarder.borrow().counts(towards)
    }

    /// The address that the side has which dials
    pub fn peer_address(&self) -> Ipv4Addr {
        self.peer.get()
    }

    /// How often that has changed
    pub fn roamed(&self) -> u64 {
        self.roamed.get()
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Has whoever serves look again
    fn change(&self) {
        // One that waits there already does for both.
        let _ = self.changed.0.try_send(());
    }

    fn down(&self, end: End, span: Option<Duration>) -> io::Result<()> {
        self.sides[end as usize].set_up(false)?;
        self.is_down[end as usize].set(true);
        self.down_until[end as usize].set(span.map(|span| Instant::now() + span));
        Ok(())
    }

    fn up(&self, end: End) -> io::Result<()> {
        self.down_until[end as usize].set(None);
        if self.is_down[end as usize].replace(false) {
            self.sides[end as usize].set_up(true)?;
        }
        Ok(())
    }

    fn roam(&self) -> io::Result<()> {
        let [a, b, c, last] = self.peer.get().octets();
        let next = if last < 254 { Ipv4Addr::new(a, b, c, last + 1) } else { PEER };
        self.sides[End::Peer as usize].move_to(self.peer.get(), next)?;
        self.peer.set(next);
        self.roamed.set(self.roamed.get() + 1);
        Ok(())
    }

    fn bring_up_what_is_due(&self) -> io::Result<()> {
        for end in End::BOTH {
            if self.down_until[end as usize].get().is_some_and(|until| until <= Instant::now()) {
                self.up(end)?;
            }
        }
        Ok(())
    }

    /// Hands over what has arrived
    fn deliver(&self) {
        let mut forwarder = self.forwarder.borrow_mut();
        while let Some((end, packet)) = forwarder.poll(self.now()) {
            if self.sides[end as usize].device().get_ref().send(&packet).is_err() {
                forwarder.undelivered(end);
            }
        }
    }

    /// Waits until there is something to do
    async fn wait(&self) -> io::Result<()> {
        let [peer, service] = &self.sides;
        let packets = async { peer.device().readable().or(service.device().readable()).await };
        let wake_at = self.forwarder.borrow().wake_at().map(|at| self.started + at);
        let ups = self.down_until.iter().filter_map(Cell::get);
        let due = async {
            match ups.chain(wake_at).min() {
                Some(at) => _ = Timer::at(at).await,
                None => future::pending().await,
            }
            Ok(())
        };
        let changed = async {
            let _ = self.changed.1.recv().await;
            Ok(())
        };
        packets.or(due).or(changed).await
    }

    /// Takes what has come out of a side
    fn take_from(&self, end: End) -> io::Result<()> {
        let mut buffer = [0; MTU];
        let mut forwarder = self.forwarder.borrow_mut();
        for _ in 0..TURN_PACKETS {
            match self.sides[end as usize].device().get_ref().recv(&mut buffer) {
                Ok(len) => forwarder.handle(self.now(), end.other(), &buffer[..len]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
