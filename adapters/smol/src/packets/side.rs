//! A host: a network namespace with a TUN device, and a thread that lives in it

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socket_with};
use smol::Async;
use tappers::linux::Tun;
use tappers::{AddAddressV4, DeviceState, Interface};

use super::MTU;
use super::namespaces::Unavailable;

/// What the devices are called
const DEVICE: &str = "rejoin0";
/// Both sides are in one network
const NETMASK: u8 = 24;
/// Index of the loopback device, which is the first one in every network namespace
const LOOPBACK: i32 = 1;

type Job = Box<dyn FnOnce(&Tun) + Send>;

pub(super) struct Side {
    jobs: Sender<Job>,
    device: Async<Arc<Tun>>,
}

impl Side {
    pub(super) fn new(address: Ipv4Addr) -> Result<Side, Unavailable> {
        let (jobs, to_do) = channel::<Job>();
        let (ready, made) = channel();
        let live = move || {
            // Its socket, and whoever is started from here, is on this side.
            let device = match make(address) {
                Ok(device) => Arc::new(device),
                Err(unavailable) => {
                    let _ = ready.send(Err(unavailable));
                    return;
                }
            };
            let _ = ready.send(Ok(device.clone()));
            for job in to_do {
                job(&device);
            }
        };
        let thread = thread::Builder::new().name(format!("side {address}"));
        thread.spawn(live).map_err(Unavailable::of("start a thread"))?;
        let gone = |_| Err(Unavailable::of("make a side")(io::Error::other("its thread has ended")));
        let device = made.recv().unwrap_or_else(gone)?;
        let device = Async::new(device).map_err(Unavailable::of("wait for packets"))?;
        Ok(Side { jobs, device })
    }

    /// Packets come out of it, and go into it
    pub(super) fn device(&self) -> &Async<Arc<Tun>> {
        &self.device
    }

    /// Starts a command on this side
    pub(super) fn spawn(&self, mut command: Command) -> io::Result<Child> {
        self.run(move |_| command.spawn())
    }

    /// Whether somebody on this side accepts connections at a port of its address
    pub(super) fn listens(&self, address: Ipv4Addr, port: u16) -> bool {
        let soon = Duration::from_millis(200);
        let connected = self.run(move |_| TcpStream::connect_timeout(&SocketAddr::from((address, port)), soon));
        connected.is_ok()
    }

    pub(super) fn set_up(&self, is_up: bool) -> io::Result<()> {
        self.run(move |device| device.set_state(if is_up { DeviceState::Up } else { DeviceState::Down }))
    }

    /// Gives it another address in the place of the one it had
    pub(super) fn move_to(&self, from: Ipv4Addr, to: Ipv4Addr) -> io::Result<()> {
        self.run(move |device| {
            device.remove_addr(IpAddr::V4(from))?;
            add_address(device, to)
        })
    }

    /// Has its thread do something, and waits for that
    fn run<T: Send + 'static>(&self, job: impl FnOnce(&Tun) -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let (done, answer) = channel();
        let gone = || io::Error::other("the thread of a side has ended");
        self.jobs.send(Box::new(move |device| _ = done.send(job(device)))).map_err(|_| gone())?;
        answer.recv().map_err(|_| gone())?
    }
}

/// Moves this thread into a namespace of its own
fn make(address: Ipv4Addr) -> Result<Tun, Unavailable> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(Unavailable::of("make a network namespace"))?;
    loopback_up().map_err(Unavailable::of("set up the loopback device"))?;
    let device = Interface::new(DEVICE).and_then(Tun::create_named);
    let device = device.map_err(Unavailable::of("make a TUN device"))?;
    let configure = || {
        device.set_nonblocking(true)?;
        device.set_mtu(MTU)?;
        add_address(&device, address)?;
        device.set_state(DeviceState::Up)
    };
    configure().map_err(Unavailable::of("set up a TUN device"))?;
    Ok(device)
}

fn add_address(device: &Tun, address: Ipv4Addr) -> io::Result<()> {
    let mut request = AddAddressV4::new(address);
    request.set_netmask(NETMASK);
    device.add_addr(request)
}

/// Says to the kernel what `ip link set lo up` says (RTM_NEWLINK, without waiting for the answer: it is done in the call)
fn loopback_up() -> io::Result<()> {
    const LENGTH: u32 = 32;
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST: u16 = 1;
    const IFF_UP: u32 = 1;
    let mut message = Vec::with_capacity(LENGTH as usize);
    message.extend(LENGTH.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]); // The number of the request, and who asks.
    message.extend([0; 4]); // Any family, any type of device.
    message.extend(LOOPBACK.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes());
    message.extend(IFF_UP.to_ne_bytes()); // That flag is to change.
    // The protocol that has number 0 is that of routes and devices.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    send(&socket, &message, SendFlags::empty())?;
    Ok(())
}
