//! A TCP proxy that breaks links on purpose
//!
//! [`Proxy`] stands on loopback between workers and a coordinator and does to
//! their links what bad networks do: resets, silence, stalls, delays, flipped
//! bytes. Which fate a link meets is drawn from a seed and the link's number
//! alone (see [`plan`]), so a run can be repeated; when data moves in between is
//! up to the machine. Only what really took effect is counted.

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::{Range, RangeInclusive};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smol::channel::{self, Receiver, Sender};
use smol::future::{self, FutureExt};
use smol::{Async, Task, Timer};
use socket2::SockRef;

/// Most links that may be half-open at one time; further ones are reset instead
pub const MAX_HALF_OPEN: usize = 64;

/// Longest time a link stays half-open
pub const MAX_HALF_OPEN_TIME: Duration = Duration::from_secs(5);

/// Bytes held per direction of a link, at most
const BUFFER: usize = 64 * 1024;

/// Bytes at the start of a link among which the early flip is drawn
const EARLY: u64 = 2048;

/// Largest piece of data that is forwarded in small pieces
const MAX_PIECE: u64 = 256;

/// Longest wait for the upstream to accept, or for a refused client to speak
const PATIENCE: Duration = Duration::from_secs(1);

/// Shortest time between the turns of a stalling link
const SHORTEST_TURN: Duration = Duration::from_millis(1);

/// Longest time drawn, whatever the settings say, so that no deadline overflows
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// A named set of [`Settings`]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Profile {
    /// Each link is cut after a short life, by reset or by silence
    Cuts,
    /// Cuts, and stalls, delays, flipped bytes and refused connections before them
    Storm,
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cuts => "cuts",
            Self::Storm => "storm",
        })
    }
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, UnknownProfile> {
        match name {
            "cuts" => Ok(Self::Cuts),
            "storm" => Ok(Self::Storm),
            _ => Err(UnknownProfile),
        }
    }
}

/// A name that is no [`Profile`]'s
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownProfile;

impl fmt::Display for UnknownProfile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no such disruption: use cuts or storm")
    }
}

impl Error for UnknownProfile {}

/// What a [`Proxy`] does to links, and how often
///
/// Shares are probabilities from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Share of links that are cut at all
    pub cut_share: f64,
    /// Life of a link that is cut
    pub cut_after: RangeInclusive<Duration>,
    /// Share of cut links that become half-open; the others are reset
    pub half_open_share: f64,
    /// Share of half-open links that are silent in one direction only
    pub one_way_share: f64,
    /// Time after which a half-open link is closed, up to [`MAX_HALF_OPEN_TIME`]
    pub half_open_for: Duration,
    /// Share of half-open links whose other side is kept when one side closes
    pub late_close_share: f64,
    /// Time for which that other side is kept
    pub late_close: RangeInclusive<Duration>,
    /// Share of links that stall
    pub stall_share: f64,
    /// Time between the stalls of a link
    pub stall_gap: RangeInclusive<Duration>,
    /// Length of a stall, in which neither direction is forwarded
    pub stall_for: RangeInclusive<Duration>,
    /// Share of chunks that are delayed, and all behind them
    pub delay_share: f64,
    /// Delay of such a chunk
    pub delay_for: RangeInclusive<Duration>,
    /// Share of bytes in which one bit is flipped
    pub flip_share: f64,
    /// Share of links in which a byte of the first 2 KiB of one direction is flipped
    pub early_flip_share: f64,
    /// Share of chunks that are forwarded in small pieces
    pub rechunk_share: f64,
    /// Share of connections that are reset as soon as made, or at their first bytes
    pub refuse_share: f64,
}

impl Settings {
    /// The settings of a profile
    pub fn of(profile: Profile) -> Self {
        let cuts = Self {
            cut_share: 1.0,
            half_open_share: 0.5,
            one_way_share: 0.3,
            late_close_share: 0.3,
            ..Self::none()
        };
        match profile {
            Profile::Cuts => cuts,
            Profile::Storm => Self {
                stall_share: 0.5,
                delay_share: 0.25,
                flip_share: 1.0 / 65536.0,
                early_flip_share: 0.15,
                rechunk_share: 0.2,
                refuse_share: 0.05,
                ..cuts
            },
        }
    }

    /// Settings that disrupt nothing: all shares are 0
    pub fn none() -> Self {
        let millis = |from, to| Duration::from_millis(from)..=Duration::from_millis(to);
        Self {
            cut_share: 0.0,
            cut_after: millis(50, 300),
            half_open_share: 0.0,
            one_way_share: 0.0,
            half_open_for: MAX_HALF_OPEN_TIME,
            late_close_share: 0.0,
            late_close: millis(100, 2000),
            stall_share: 0.0,
            stall_gap: millis(20, 200),
            stall_for: millis(20, 400),
            delay_share: 0.0,
            delay_for: millis(1, 30),
            flip_share: 0.0,
            early_flip_share: 0.0,
            rechunk_share: 0.0,
            refuse_share: 0.0,
        }
    }
}

/// A running proxy; dropping it closes its links and its listener
#[derive(Debug)]
pub struct Proxy {
    local_addr: SocketAddr,
    shared: Arc<Shared>,
    /// Accepts connections, and owns their tasks
    _accepting: Task<()>,
}

impl Proxy {
    /// Starts a proxy on a loopback address, port 0 for any free port
    ///
    /// # Errors
    ///
    /// `InvalidInput` if `listen` is not on loopback, else what listening failed with.
    pub async fn start(
        listen: SocketAddr,
        upstream: SocketAddr,
        settings: Settings,
        seed: u64,
    ) -> io::Result<Self> {
        if !listen.ip().to_canonical().is_loopback() {
            let why = "the disruption proxy listens on loopback only";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let listener = Async::<TcpListener>::bind(listen)?;
        let local_addr = listener.get_ref().local_addr()?;
        let shared = Arc::new(Shared::new(upstream, settings, seed));
        let accepting = smol::spawn(accept(listener, shared.clone()));
        Ok(Self {
            local_addr,
            shared,
            _accepting: accepting,
        })
    }

    /// Address to connect to
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What took effect so far
    pub fn counts(&self) -> Counts {
        let tally = &self.shared.tally;
        Counts {
            connections: tally.connections.load(SeqCst),
            resets: tally.resets.load(SeqCst),
            half_opens: tally.half_opens.load(SeqCst),
            stalls: tally.stalls.load(SeqCst),
            delays: tally.delays.load(SeqCst),
            flipped_bytes: tally.flipped_bytes.load(SeqCst),
        }
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
        self.shared.calm.store(true, SeqCst);
        self.shared.order_all(Order::Calm);
    }

    /// Resets all links, half-open ones too
    pub fn reset_all(&self) {
        self.shared.order_all(Order::Reset);
    }

    /// Makes all links half-open, in both directions
    ///
    /// As always, those above [`MAX_HALF_OPEN`] are reset.
    pub fn half_open_all(&self) {
        self.shared.order_all(Order::HalfOpen);
    }

    /// Resets new connections as soon as they are made, until called with `false`
    pub fn refuse_new(&self, refuse: bool) {
        self.shared.refuse.store(refuse, SeqCst);
    }

    /// Number of links now, half-open ones included
    pub fn connections_now(&self) -> usize {
        self.shared.links().len()
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

/// What is to become of one connection
///
/// Stalls, delays, flips over the whole length and small pieces are drawn while
/// data moves, each kind from a sequence of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Whether and when the connection is reset before it becomes a link
    pub refusal: Option<Refusal>,
    /// Whether, when and how the link is cut
    pub cut: Option<Cut>,
    /// Whether and where a byte near the start is flipped
    pub early_flip: Option<EarlyFlip>,
    /// Whether the link stalls now and then
    pub stalls: bool,
}

/// When a refused connection is reset
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As soon as it is made
    AtOnce,
    /// When the client's first bytes arrive
    AtFirstBytes,
}

/// The end of a link's life
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Time from the making of the link to its cut
    pub after: Duration,
    /// How the link is cut
    pub manner: Manner,
}

/// How a link is cut
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Both peers see a reset
    Reset,
    /// Both connections stay open, but data is lost
    HalfOpen {
        /// Where data is lost
        silence: Silence,
        /// Time for which one side is kept after the other closed
        late_close: Option<Duration>,
    },
}

/// The directions in which a half-open link is silent
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Both directions
    Both,
    /// From the client to the upstream
    ToUpstream,
    /// From the upstream to the client
    ToClient,
}

/// A flip drawn for the start of a link, which carries its handshake
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EarlyFlip {
    /// Whether the byte is on its way to the upstream, or else to the client
    pub to_upstream: bool,
    /// Which byte of that direction, counted from 0
    pub at: u64,
}

/// Draws the fate of a connection; the first one accepted has number 0
///
/// The same arguments always give the same plan.
pub fn plan(settings: &Settings, seed: u64, connection: u64) -> Plan {
    let draw = |purpose| Random::keyed(seed, connection, purpose);
    let mut refusal = draw(Purpose::Refusal);
    let mut flip = draw(Purpose::EarlyFlip);
    Plan {
        refusal: refusal
            .chance(settings.refuse_share)
            .then(|| match refusal.below(2) {
                0 => Refusal::AtOnce,
                _ => Refusal::AtFirstBytes,
            }),
        cut: draw_cut(settings, draw(Purpose::Cut), draw(Purpose::Silence)),
        early_flip: flip.chance(settings.early_flip_share).then(|| EarlyFlip {
            to_upstream: flip.chance(0.5),
            at: flip.below(EARLY),
        }),
        stalls: draw(Purpose::Stalls).chance(settings.stall_share),
    }
}

fn draw_cut(settings: &Settings, mut cut: Random, mut silence: Random) -> Option<Cut> {
    if !cut.chance(settings.cut_share) {
        return None;
    }
    let after = cut.duration(&settings.cut_after);
    if !cut.chance(settings.half_open_share) {
        let manner = Manner::Reset;
        return Some(Cut { after, manner });
    }
    let one_way = silence.chance(settings.one_way_share);
    let to_upstream = silence.chance(0.5);
    let late = silence.chance(settings.late_close_share);
    let manner = Manner::HalfOpen {
        silence: match (one_way, to_upstream) {
            (false, _) => Silence::Both,
            (true, true) => Silence::ToUpstream,
            (true, false) => Silence::ToClient,
        },
        late_close: late.then(|| silence.duration(&settings.late_close)),
    };
    Some(Cut { after, manner })
}

/// What the handle, the accepting task and the links have in common
#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    settings: Settings,
    seed: u64,
    calm: AtomicBool,
    refuse: AtomicBool,
    half_open_now: AtomicUsize,
    tally: Tally,
    links: Mutex<HashMap<u64, Sender<Order>>>,
}

#[derive(Debug, Default)]
struct Tally {
    connections: AtomicU64,
    resets: AtomicU64,
    half_opens: AtomicU64,
    stalls: AtomicU64,
    delays: AtomicU64,
    flipped_bytes: AtomicU64,
}

/// What the handle asks of a link
#[derive(Clone, Copy, Debug)]
enum Order {
    Calm,
    Reset,
    HalfOpen,
}

impl Shared {
    fn new(upstream: SocketAddr, settings: Settings, seed: u64) -> Self {
        Self {
            upstream,
            settings,
            seed,
            calm: AtomicBool::new(false),
            refuse: AtomicBool::new(false),
            half_open_now: AtomicUsize::new(0),
            tally: Tally::default(),
            links: Mutex::default(),
        }
    }

    fn links(&self) -> MutexGuard<'_, HashMap<u64, Sender<Order>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn order_all(&self, order: Order) {
        for link in self.links().values() {
            // The queue has no bound to exceed, and a closed one is of an ended link.
            let _ = link.try_send(order);
        }
    }

    fn is_calm(&self) -> bool {
        self.calm.load(SeqCst)
    }

    fn plan(&self, connection: u64) -> Plan {
        if self.is_calm() {
            return Plan::default();
        }
        plan(&self.settings, self.seed, connection)
    }
}

/// A link's place in the list of links, given up on drop
struct Registration {
    shared: Arc<Shared>,
    connection: u64,
    orders: Receiver<Order>,
}

impl Registration {
    fn new(shared: Arc<Shared>, connection: u64) -> Self {
        let (sender, orders) = channel::unbounded();
        shared.links().insert(connection, sender);
        Self {
            shared,
            connection,
            orders,
        }
    }

    async fn order(&self) -> Order {
        match self.orders.recv().await {
            Ok(order) => order,
            Err(_) => future::pending().await,
        }
    }

    /// Does the work of a half-open link until its time is over or it is reset
    async fn limit<T>(&self, bound: Instant, work: impl Future<Output = T>) -> Result<T, Limit> {
        let time = async {
            Timer::at(bound).await;
            Err(Limit::Time)
        };
        let reset = async {
            // Other orders change nothing about a link that is half-open.
            while !matches!(self.order().await, Order::Reset) {}
            Err(Limit::Reset)
        };
        time.or(reset).or(async { Ok(work.await) }).await
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.shared.links().remove(&self.connection);
    }
}

/// What ended the work of a half-open link early
enum Limit {
    Time,
    Reset,
}

/// One of the [`MAX_HALF_OPEN`] places, given up on drop
struct HalfOpenPlace<'a>(&'a AtomicUsize);

impl<'a> HalfOpenPlace<'a> {
    fn take(now: &'a AtomicUsize) -> Option<Self> {
        let more = |count| (count < MAX_HALF_OPEN).then_some(count + 1);
        now.fetch_update(SeqCst, SeqCst, more).ok()?;
        Some(Self(now))
    }
}

impl Drop for HalfOpenPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, SeqCst);
    }
}

async fn accept(listener: Async<TcpListener>, shared: Arc<Shared>) {
    let mut tasks: Vec<Task<()>> = Vec::new();
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of descriptors, say: trying again at once would only spin.
            Timer::after(Duration::from_millis(10)).await;
            continue;
        };
        tasks.retain(|task| !task.is_finished());
        let connection = shared.tally.connections.fetch_add(1, SeqCst);
        // Registered before its plan is drawn, so that `calm` cannot fall in between.
        let place = Registration::new(shared.clone(), connection);
        let plan = shared.plan(connection);
        let refusal = if shared.refuse.load(SeqCst) {
            Some(Refusal::AtOnce)
        } else {
            plan.refusal
        };
        tasks.push(smol::spawn(async move {
            match refusal {
                Some(refusal) => refuse(&place.shared, client, refusal).await,
                None => serve(place, client, plan).await,
            }
        }));
        // A flood of connections must not keep the links from their turns.
        future::yield_now().await;
    }
}

async fn refuse(shared: &Shared, client: Socket, refusal: Refusal) {
    if refusal == Refusal::AtFirstBytes {
        let patience = async {
            Timer::after(PATIENCE).await;
            Ok(())
        };
        // An error shows below, as a closed connection.
        let _ = patience.or(client.readable()).await;
    }
    if !is_closed(&client) {
        shared.tally.resets.fetch_add(1, SeqCst);
    }
    reset_on_close(&client);
}

async fn serve(place: Registration, client: Socket, plan: Plan) {
    let patience = async {
        Timer::after(PATIENCE).await;
        Err(io::ErrorKind::TimedOut.into())
    };
    let connected = patience.or(Socket::connect(place.shared.upstream)).await;
    let Ok(upstream) = connected else {
        // The client shall see what it would see without a proxy: no connection.
        return reset_on_close(&client);
    };
    for socket in [&client, &upstream] {
        // A link works without, only slower.
        let _ = socket.get_ref().set_nodelay(true);
    }
    Link::new(place, client, upstream, plan).run().await;
}

type Socket = Async<TcpStream>;

/// Makes the drop of the socket a reset, with whatever was not delivered yet lost
fn reset_on_close(socket: &Socket) {
    // Fails only on a socket that is gone already.
    let _ = SockRef::from(socket.get_ref()).set_linger(Some(Duration::ZERO));
}

/// What the next read would find, without waiting
///
/// The system tells an error only once: who finds one here must act on it.
fn look(socket: &Socket) -> io::Result<Next> {
    match socket.get_ref().peek(&mut [0]) {
        Ok(0) => Ok(Next::End),
        Ok(_) => Ok(Next::Data),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Next::Nothing),
        Err(error) => Err(error),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Nothing,
    Data,
    End,
}

/// Whether the peer is known to be gone, as nothing more can be read
fn is_closed(socket: &Socket) -> bool {
    look(socket).map_or(true, |next| next == Next::End)
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => Timer::at(at).await,
        None => future::pending().await,
    };
}

/// A client's connection joined to one to the upstream
struct Link {
    client: Socket,
    upstream: Socket,
    plan: Plan,
    up: Lane,
    down: Lane,
    /// Last, so that a link is off the list only when its connections are closed
    place: Registration,
}

/// How the live part of a link ended
enum Ending {
    Closed,
    Broken,
    Cut(Manner),
}

/// What a live link waits for
enum Event {
    Order(Order),
    TimeIsUp,
    Over(Ending),
}

impl Link {
    fn new(place: Registration, client: Socket, upstream: Socket, plan: Plan) -> Self {
        let flip = |to_upstream| {
            let flip = plan
                .early_flip
                .filter(|flip| flip.to_upstream == to_upstream);
            flip.map(|flip| flip.at)
        };
        let (shared, connection) = (&place.shared, place.connection);
        let up = Lane::new(shared, connection, Way::Up, flip(true));
        let down = Lane::new(shared, connection, Way::Down, flip(false));
        Self {
            client,
            upstream,
            plan,
            up,
            down,
            place,
        }
    }

    async fn run(mut self) {
        match self.live().await {
            Ending::Closed => {}
            // What broke one connection goes on to the other; it is not our doing.
            Ending::Broken => self.reset_both(),
            Ending::Cut(Manner::Reset) => self.cut_by_reset(),
            Ending::Cut(Manner::HalfOpen {
                silence,
                late_close,
            }) => {
                let shared = self.place.shared.clone();
                match HalfOpenPlace::take(&shared.half_open_now) {
                    Some(_place) => self.half_open(silence, late_close).await,
                    None => self.cut_by_reset(),
                }
            }
        }
    }

    /// Forwards both directions until both ended, one broke, or the link is cut
    async fn live(&mut self) -> Ending {
        let shared = self.place.shared.clone();
        let mut cut = self
            .plan
            .cut
            .map(|cut| (Instant::now() + cut.after, cut.manner));
        let mut stalls = Stalls::new(&shared, self.place.connection, self.plan.stalls);
        loop {
            let next = stalls.turn.into_iter().chain(cut.map(|(at, _)| at)).min();
            let order = async { Event::Order(self.place.order().await) };
            let time = async {
                sleep_until(next).await;
                Event::TimeIsUp
            };
            let lanes = (&mut self.up, &mut self.down);
            let work = async {
                if stalls.stalled {
                    future::pending::<()>().await;
                }
                Event::Over(exchange(lanes, &self.client, &self.upstream).await)
            };
            // Polled in this order: no amount of traffic keeps a timer from its turn.
            match order.or(time).or(work).await {
                Event::Over(ending) => return ending,
                Event::Order(Order::Reset) => return Ending::Cut(Manner::Reset),
                Event::Order(Order::HalfOpen) => {
                    return Ending::Cut(Manner::HalfOpen {
                        silence: Silence::Both,
                        late_close: None,
                    });
                }
                Event::Order(Order::Calm) => {
                    cut = None;
                    stalls.stop();
                    self.up.release();
                    self.down.release();
                }
                Event::TimeIsUp => {
                    if let Some((_, manner)) = cut.filter(|(at, _)| *at <= Instant::now()) {
                        return Ending::Cut(manner);
                    }
                    if stalls.stalled && self.count_stall().is_err() {
                        return Ending::Broken;
                    }
                    stalls.toggle();
                }
            }
        }
    }

    /// Counts a stall that is over, if there is data it held up
    fn count_stall(&self) -> io::Result<()> {
        let waiting = [look(&self.client)?, look(&self.upstream)?].contains(&Next::Data);
        if waiting || !self.up.filled.is_empty() || !self.down.filled.is_empty() {
            self.place.shared.tally.stalls.fetch_add(1, SeqCst);
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        is_closed(&self.client) && is_closed(&self.upstream)
    }

    fn cut_by_reset(self) {
        // Counted first, so that whoever sees the reset finds it counted.
        if !self.is_over() {
            self.place.shared.tally.resets.fetch_add(1, SeqCst);
        }
        self.reset_both();
    }

    fn reset_both(self) {
        reset_on_close(&self.client);
        reset_on_close(&self.upstream);
    }

    /// Goes on holding both connections, with data lost, until a side closes
    async fn half_open(self, silence: Silence, late_close: Option<Duration>) {
        if self.is_over() {
            return;
        }
        let Self {
            place,
            client,
            upstream,
            mut up,
            mut down,
            ..
        } = self;
        let shared = &place.shared;
        shared.tally.half_opens.fetch_add(1, SeqCst);
        let bound = shared.settings.half_open_for.min(MAX_HALF_OPEN_TIME);
        let bound = Instant::now() + bound;

        let first = {
            let up = up.until_closed(silence != Silence::ToClient, &client, &upstream);
            let down = down.until_closed(silence != Silence::ToUpstream, &upstream, &client);
            let up = async { matches!(up.await, Lost::From) };
            let down = async { matches!(down.await, Lost::To) };
            place.limit(bound, up.or(down)).await
        };
        let (closed, kept, mut lane) = match first {
            Ok(true) => (client, upstream, down),
            Ok(false) => (upstream, client, up),
            Err(Limit::Time) => return,
            Err(Limit::Reset) => {
                shared.tally.resets.fetch_add(1, SeqCst);
                reset_on_close(&client);
                return reset_on_close(&upstream);
            }
        };
        drop(closed);
        let Some(late) = late_close else { return };
        let bound = bound.min(Instant::now() + late);
        if let Err(Limit::Reset) = place.limit(bound, lane.discard(&kept)).await {
            shared.tally.resets.fetch_add(1, SeqCst);
            reset_on_close(&kept);
        }
    }
}

/// Forwards both directions until both ended or a connection broke
async fn exchange(lanes: (&mut Lane, &mut Lane), client: &Socket, upstream: &Socket) -> Ending {
    let up = lanes.0.carry_all(client, upstream);
    let down = lanes.1.carry_all(upstream, client);
    match future::try_zip(up, down).await {
        Ok(_) => Ending::Closed,
        Err(_) => Ending::Broken,
    }
}

#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

/// One direction of a link
///
/// All its futures may be dropped and started anew without loss of data.
struct Lane {
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

/// Which connection of a lane failed
enum Lost {
    From,
    To,
}

impl Lane {
    fn new(shared: &Arc<Shared>, connection: u64, way: Way, early_flip: Option<u64>) -> Self {
        let draw = |purpose| Random::keyed(shared.seed, connection, purpose);
        let (pace, flips) = match way {
            Way::Up => (Purpose::UpPace, Purpose::UpFlips),
            Way::Down => (Purpose::DownPace, Purpose::DownFlips),
        };
        Self {
            shared: shared.clone(),
            buffer: vec![0; BUFFER].into_boxed_slice(),
            filled: 0..0,
            forwarded: 0,
            ended: false,
            hold: None,
            in_pieces: false,
            pace: draw(pace),
            flips: Flips::new(draw(flips), shared.settings.flip_share, early_flip),
        }
    }

    /// Forwards up to the end, and the end
    async fn carry_all(&mut self, from: &Socket, to: &Socket) -> Result<(), Lost> {
        self.carry(from, to).await?;
        // Fails only if the other side is gone, which its own lane finds out.
        let _ = to.get_ref().shutdown(Shutdown::Write);
        Ok(())
    }

    /// Forwards up to the end
    async fn carry(&mut self, from: &Socket, to: &Socket) -> Result<(), Lost> {
        while !self.ended {
            if self.filled.is_empty() {
                self.fill(from).await.map_err(|_| Lost::From)?;
            } else {
                self.wait_out().await;
                self.forward(to).await.map_err(|_| Lost::To)?;
            }
            // Two fast peers would keep this loop from ever waiting.
            future::yield_now().await;
        }
        Ok(())
    }

    /// Reads a chunk and draws what is to happen to it
    async fn fill(&mut self, from: &Socket) -> io::Result<()> {
        let buffer = &mut self.buffer;
        let count = from.read_with(|mut socket| socket.read(buffer)).await?;
        self.ended = count == 0;
        self.filled = 0..count;
        let settings = &self.shared.settings;
        let delay = self.pace.chance(settings.delay_share);
        let delay = delay.then(|| self.pace.duration(&settings.delay_for));
        self.in_pieces = self.pace.chance(settings.rechunk_share);
        if !self.ended && !self.shared.is_calm() {
            self.hold = delay.map(|delay| Instant::now() + delay);
        }
        Ok(())
    }

    async fn wait_out(&mut self) {
        if let Some(hold) = self.hold {
            Timer::at(hold).await;
            self.hold = None;
            self.shared.tally.delays.fetch_add(1, SeqCst);
        }
    }

    /// Writes a piece of the chunk: a flipped byte, or all up to the next one
    async fn forward(&mut self, to: &Socket) -> io::Result<()> {
        let calm = self.shared.is_calm();
        let unharmed = if calm {
            u64::MAX
        } else {
            self.flips.next().saturating_sub(self.forwarded)
        };
        let piece = &self.buffer[self.filled.clone()];
        let flipped = [piece[0] ^ self.flips.mask];
        let piece = if unharmed == 0 {
            &flipped[..]
        } else {
            let most = if self.in_pieces && !calm {
                unharmed.min(1 + self.pace.below(MAX_PIECE))
            } else {
                unharmed
            };
            let most = usize::try_from(most).unwrap_or(usize::MAX);
            &piece[..piece.len().min(most)]
        };
        let count = to.write_with(|mut socket| socket.write(piece)).await?;
        if unharmed == 0 && count > 0 {
            self.flips.advance();
            self.shared.tally.flipped_bytes.fetch_add(1, SeqCst);
        }
        self.filled.start += count;
        self.forwarded += count as u64;
        Ok(())
    }

    /// Forwards what a delay holds at once
    fn release(&mut self) {
        self.hold = None;
    }

    /// Forwards, or discards if silent, and tells which connection closed
    async fn until_closed(&mut self, silent: bool, from: &Socket, to: &Socket) -> Lost {
        // This lane's end is old news; the other lane may still find the close.
        if self.ended {
            return future::pending().await;
        }
        if silent {
            self.discard(from).await;
            return Lost::From;
        }
        self.carry(from, to).await.err().unwrap_or(Lost::From)
    }

    /// Reads and throws away up to the end
    async fn discard(&mut self, from: &Socket) {
        while !self.ended {
            let buffer = &mut self.buffer;
            let read = from.read_with(|mut socket| socket.read(buffer)).await;
            self.ended = matches!(read, Err(_) | Ok(0));
            future::yield_now().await;
        }
    }
}

/// The times at which a link stalls and goes on
struct Stalls<'a> {
    settings: &'a Settings,
    random: Random,
    /// When to stall, or go on, next
    turn: Option<Instant>,
    stalled: bool,
}

impl<'a> Stalls<'a> {
    fn new(shared: &'a Shared, connection: u64, any: bool) -> Self {
        let settings = &shared.settings;
        let mut random = Random::keyed(shared.seed, connection, Purpose::StallTimes);
        let turn = any.then(|| Instant::now() + random.duration(&settings.stall_gap));
        Self {
            settings,
            random,
            turn,
            stalled: false,
        }
    }

    fn toggle(&mut self) {
        self.stalled = !self.stalled;
        let length = if self.stalled {
            &self.settings.stall_for
        } else {
            &self.settings.stall_gap
        };
        // Turns without length would leave no time for anything else.
        let length = self.random.duration(length).max(SHORTEST_TURN);
        self.turn = Some(Instant::now() + length);
    }

    fn stop(&mut self) {
        self.turn = None;
        self.stalled = false;
    }
}

/// The bytes of a lane in which a bit is flipped
///
/// They are drawn by their place in the stream, so chunking does not move them.
struct Flips {
    random: Random,
    share: f64,
    early: Option<u64>,
    regular: u64,
    /// The bit to flip
    mask: u8,
}

impl Flips {
    fn new(random: Random, share: f64, early: Option<u64>) -> Self {
        let mut flips = Self {
            random,
            share,
            early,
            regular: 0,
            mask: 0,
        };
        flips.draw(0);
        flips
    }

    /// Place of the next byte to flip
    fn next(&self) -> u64 {
        self.early
            .map_or(self.regular, |early| early.min(self.regular))
    }

    /// Goes on from the byte just flipped to the one after it
    fn advance(&mut self) {
        let done = self.next();
        self.early = self.early.filter(|early| *early != done);
        if self.regular == done {
            self.draw(done + 1);
        }
    }

    fn draw(&mut self, from: u64) {
        self.regular = from.saturating_add(self.random.gap(self.share));
        self.mask = 1 << self.random.below(8);
    }
}

/// What a sequence of draws is for
///
/// Each purpose of each connection has its own, so that no draw moves another's.
#[derive(Clone, Copy)]
enum Purpose {
    Refusal,
    Cut,
    Silence,
    EarlyFlip,
    Stalls,
    StallTimes,
    UpPace,
    DownPace,
    UpFlips,
    DownFlips,
}

/// A small generator of random numbers (SplitMix64)
#[derive(Clone)]
struct Random(u64);

impl Random {
    fn keyed(seed: u64, connection: u64, purpose: Purpose) -> Self {
        let key = [seed, connection, purpose as u64].into_iter();
        Self(key.fold(0, |state, part| Self(state ^ part).next()))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number less than `bound`
    fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// A number from 0 up to, but not, 1
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    fn duration(&mut self, range: &RangeInclusive<Duration>) -> Duration {
        let from = LONGEST.min(*range.start());
        let width = LONGEST.min(*range.end()).saturating_sub(from);
        let width = u64::try_from(width.as_nanos()).unwrap_or(u64::MAX);
        from + Duration::from_nanos(self.below(width.saturating_add(1)))
    }

    /// Number of misses before the next hit, where `share` of all tries hit
    fn gap(&mut self, share: f64) -> u64 {
        let unit = self.unit();
        if share > 0.0 {
            // Converting saturates, which is what a far too rare hit calls for.
            ((1.0 - unit).ln() / (-share.min(1.0)).ln_1p()) as u64
        } else {
            u64::MAX
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use smol::io::{AsyncReadExt, AsyncWriteExt};
    use std::io::ErrorKind;

    const LOOPBACK: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    /// A proxy, and the upstream behind it
    struct Bench {
        proxy: Proxy,
        upstream: Async<TcpListener>,
    }

    impl Bench {
        async fn new(settings: Settings, seed: u64) -> Self {
            let upstream = Async::<TcpListener>::bind(LOOPBACK).expect("bind");
            let address = upstream.get_ref().local_addr().expect("address");
            let proxy = Proxy::start(LOOPBACK, address, settings, seed).await;
            let proxy = proxy.expect("start");
            Self { proxy, upstream }
        }

        /// Both ends of a new link
        async fn link(&self) -> (Socket, Socket) {
            let client = Socket::connect(self.proxy.local_addr()).await;
            let client = client.expect("connect");
            let (server, _) = self.upstream.accept().await.expect("accept");
            (client, server)
        }
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        let limit = async {
            Timer::after(Duration::from_secs(60)).await;
            panic!("the test hangs")
        };
        smol::block_on(test.or(limit))
    }

    async fn until(condition: impl Fn() -> bool) {
        while !condition() {
            Timer::after(millis(2)).await;
        }
    }

    /// What is read within a while, if anything
    async fn read_soon(mut socket: &Socket) -> Option<io::Result<Vec<u8>>> {
        let mut buffer = [0; 64];
        let silence = async {
            Timer::after(millis(60)).await;
            None
        };
        let read = async { Some(socket.read(&mut buffer).await) };
        let count = read.or(silence).await?;
        Some(count.map(|count| buffer[..count].to_vec()))
    }

    async fn send(mut socket: &Socket, data: &[u8]) {
        socket.write_all(data).await.expect("write");
    }

    async fn send_all(socket: &Socket, data: &[u8]) {
        send(socket, data).await;
        socket
            .get_ref()
            .shutdown(Shutdown::Write)
            .expect("shutdown");
    }

    async fn receive_all(mut socket: &Socket) -> io::Result<Vec<u8>> {
        let mut data = Vec::new();
        socket.read_to_end(&mut data).await.map(|_| data)
    }

    async fn assert_passes(client: &Socket, server: &Socket) {
        send(client, b"ping").await;
        assert_eq!(read_some(server).await, b"ping");
        send(server, b"pong").await;
        assert_eq!(read_some(client).await, b"pong");
    }

    async fn read_some(mut socket: &Socket) -> Vec<u8> {
        let mut buffer = [0; 4];
        socket.read_exact(&mut buffer).await.expect("read");
        buffer.to_vec()
    }

    async fn assert_reset(socket: &Socket) {
        let error = receive_all(socket).await.expect_err("a reset");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }

    /// A reset shows while connecting, writing or reading, whichever comes first
    async fn assert_refuses(proxy: &Proxy) {
        let attempt = async {
            let client = Socket::connect(proxy.local_addr()).await?;
            (&client).write_all(b"hello").await?;
            receive_all(&client).await
        };
        let error = attempt.await.expect_err("a reset");
        let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
        assert!(kinds.contains(&error.kind()), "{error}");
    }

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut random = Random(seed);
        (0..len).map(|_| random.next() as u8).collect()
    }

    fn differences(left: &[u8], right: &[u8]) -> Vec<u64> {
        assert_eq!(left.len(), right.len());
        let pairs = left.iter().zip(right).zip(0..);
        pairs
            .filter(|((l, r), _)| l != r)
            .map(|(_, at)| at)
            .collect()
    }

    fn half_opening() -> Settings {
        Settings {
            cut_share: 1.0,
            cut_after: millis(5)..=millis(10),
            half_open_share: 1.0,
            ..Settings::none()
        }
    }

    #[test]
    fn without_disruption_all_bytes_pass_both_ways() {
        run(async {
            let bench = Bench::new(Settings::none(), 1).await;
            let (client, server) = bench.link().await;
            let (there, back) = (noise(1, 8 << 20), noise(2, 8 << 20));
            let sent = future::zip(send_all(&client, &there), send_all(&server, &back));
            let received = future::zip(receive_all(&server), receive_all(&client));
            let (_, (at_server, at_client)) = future::zip(sent, received).await;
            assert!(at_server.expect("read") == there);
            assert!(at_client.expect("read") == back);
            until(|| bench.proxy.connections_now() == 0).await;
            let connections = 1;
            let counts = Counts {
                connections,
                ..Counts::default()
            };
            assert_eq!(bench.proxy.counts(), counts);
        });
    }

    #[test]
    fn a_half_closed_link_answers() {
        run(async {
            let bench = Bench::new(Settings::none(), 1).await;
            let (client, server) = bench.link().await;
            send_all(&client, b"question").await;
            assert_eq!(receive_all(&server).await.expect("read"), b"question");
            send_all(&server, b"answer").await;
            assert_eq!(receive_all(&client).await.expect("read"), b"answer");
        });
    }

    #[test]
    fn a_reset_is_seen_by_both_peers_and_counted() {
        run(async {
            let half_open_share = 0.0;
            let bench = Bench::new(
                Settings {
                    half_open_share,
                    ..half_opening()
                },
                1,
            )
            .await;
            let (client, server) = bench.link().await;
            assert_reset(&client).await;
            assert_reset(&server).await;
            assert_eq!(bench.proxy.counts().resets, 1);
            assert_eq!(bench.proxy.disruptions(), 1);
        });
    }

    #[test]
    fn a_reset_of_one_peer_reaches_the_other_uncounted() {
        run(async {
            let bench = Bench::new(Settings::none(), 1).await;
            let (client, server) = bench.link().await;
            reset_on_close(&client);
            drop(client);
            assert_reset(&server).await;
            assert_eq!(bench.proxy.disruptions(), 0);
        });
    }

    #[test]
    fn a_half_open_link_is_silent_until_a_peer_closes() {
        run(async {
            let bench = Bench::new(half_opening(), 1).await;
            let (client, server) = bench.link().await;
            until(|| bench.proxy.counts().half_opens == 1).await;
            send(&client, b"lost").await;
            send(&server, b"lost").await;
            assert!(read_soon(&server).await.is_none());
            assert!(read_soon(&client).await.is_none());
            assert_eq!(bench.proxy.connections_now(), 1);
            drop(client);
            assert_eq!(receive_all(&server).await.expect("read"), b"");
            until(|| bench.proxy.connections_now() == 0).await;
            assert_eq!(bench.proxy.disruptions(), 1);
        });
    }

    #[test]
    fn a_half_open_link_may_be_silent_one_way_only() {
        run(async {
            let settings = Settings {
                one_way_share: 1.0,
                ..half_opening()
            };
            let late_close = None;
            let silent_up = Manner::HalfOpen {
                silence: Silence::ToUpstream,
                late_close,
            };
            let manner = |seed| plan(&settings, seed, 0).cut.map(|cut| cut.manner);
            let seed = (0..).find(|seed| manner(*seed) == Some(silent_up));
            let bench = Bench::new(settings.clone(), seed.expect("a seed")).await;
            let (client, server) = bench.link().await;
            until(|| bench.proxy.counts().half_opens == 1).await;
            send(&client, b"lost").await;
            send(&server, b"here").await;
            assert_eq!(read_some(&client).await, b"here");
            assert!(read_soon(&server).await.is_none());
        });
    }

    #[test]
    fn the_other_side_of_a_half_open_link_may_close_late() {
        run(async {
            let late = millis(300);
            let bench = Bench::new(
                Settings {
                    late_close_share: 1.0,
                    late_close: late..=late,
                    ..half_opening()
                },
                1,
            )
            .await;
            let (client, server) = bench.link().await;
            until(|| bench.proxy.counts().half_opens == 1).await;
            let closed = Instant::now();
            drop(server);
            assert_eq!(receive_all(&client).await.expect("read"), b"");
            assert!(closed.elapsed() >= late);
        });
    }

    #[test]
    fn half_open_links_are_bounded_in_time() {
        run(async {
            let half_open_for = millis(50);
            let bench = Bench::new(
                Settings {
                    half_open_for,
                    ..half_opening()
                },
                1,
            )
            .await;
            let (client, server) = bench.link().await;
            assert_eq!(receive_all(&client).await.expect("read"), b"");
            assert_eq!(receive_all(&server).await.expect("read"), b"");
            until(|| bench.proxy.connections_now() == 0).await;
        });
    }

    #[test]
    fn half_open_links_are_bounded_in_number() {
        run(async {
            let bench = Bench::new(Settings::none(), 1).await;
            let mut links = Vec::new();
            for _ in 0..MAX_HALF_OPEN + 3 {
                let (client, server) = bench.link().await;
                assert_passes(&client, &server).await;
                links.push((client, server));
            }
            bench.proxy.half_open_all();
            until(|| bench.proxy.disruptions() == links.len() as u64).await;
            let counts = bench.proxy.counts();
            assert_eq!(
                (counts.half_opens, counts.resets),
                (MAX_HALF_OPEN as u64, 3)
            );
            until(|| bench.proxy.connections_now() == MAX_HALF_OPEN).await;
            bench.proxy.reset_all();
            until(|| bench.proxy.connections_now() == 0).await;
            for (client, server) in &links {
                assert_reset(client).await;
                assert_reset(server).await;
            }
            assert_eq!(bench.proxy.counts().resets, links.len() as u64);
        });
    }

    #[test]
    fn flips_counted_are_bytes_that_differ() {
        run(async {
            let flip_share = 1.0 / 500.0;
            let bench = Bench::new(
                Settings {
                    flip_share,
                    ..Settings::none()
                },
                5,
            )
            .await;
            let (client, server) = bench.link().await;
            let (there, back) = (noise(1, 1 << 20), noise(2, 100_000));
            let sent = future::zip(send_all(&client, &there), send_all(&server, &back));
            let received = future::zip(receive_all(&server), receive_all(&client));
            let (_, (at_server, at_client)) = future::zip(sent, received).await;
            let flips = differences(&there, &at_server.expect("read")).len()
                + differences(&back, &at_client.expect("read")).len();
            assert!((1500..3000).contains(&flips), "{flips}");
            until(|| bench.proxy.connections_now() == 0).await;
            assert_eq!(bench.proxy.counts().flipped_bytes, flips as u64);
        });
    }

    #[test]
    fn an_early_flip_is_where_the_plan_has_it() {
        run(async {
            let settings = Settings {
                early_flip_share: 1.0,
                ..Settings::none()
            };
            for seed in 0..8 {
                let bench = Bench::new(settings.clone(), seed).await;
                let flip = plan(&settings, seed, 0).early_flip.expect("a flip");
                let (client, server) = bench.link().await;
                let data = noise(seed, 5000);
                send_all(&client, &data).await;
                let there = receive_all(&server).await.expect("read");
                send_all(&server, &data).await;
                let back = receive_all(&client).await.expect("read");
                let (hit, spared) = if flip.to_upstream {
                    (there, back)
                } else {
                    (back, there)
                };
                assert_eq!(differences(&data, &hit), [flip.at]);
                assert!(spared == data && flip.at < EARLY);
            }
        });
    }

    #[test]
    fn stalls_delays_and_small_pieces_keep_bytes_and_order() {
        run(async {
            let settings = Settings {
                stall_share: 1.0,
                stall_gap: millis(1)..=millis(5),
                stall_for: millis(5)..=millis(10),
                delay_share: 0.5,
                delay_for: millis(1)..=millis(3),
                rechunk_share: 0.5,
                ..Settings::none()
            };
            let bench = Bench::new(settings, 3).await;
            let (client, server) = bench.link().await;
            let data = noise(1, 2 << 20);
            let sent = send_all(&client, &data);
            let (_, received) = future::zip(sent, receive_all(&server)).await;
            assert!(received.expect("read") == data);
            let counts = bench.proxy.counts();
            assert!(counts.stalls > 0 && counts.delays > 0, "{counts:?}");
            assert_eq!(counts.disruptions(), counts.stalls + counts.delays);
        });
    }

    #[test]
    fn what_has_no_effect_is_not_counted() {
        run(async {
            let settings = Settings {
                stall_share: 1.0,
                stall_gap: millis(1)..=millis(2),
                stall_for: millis(1)..=millis(2),
                delay_share: 1.0,
                flip_share: 1.0,
                ..Settings::none()
            };
            let bench = Bench::new(settings, 3).await;
            let idle = bench.link().await;
            Timer::after(millis(50)).await;
            assert_eq!(bench.proxy.disruptions(), 0);
            drop(idle);
            until(|| bench.proxy.connections_now() == 0).await;
            bench.proxy.reset_all();
            bench.proxy.half_open_all();
            assert_eq!(bench.proxy.disruptions(), 0);
        });
    }

    #[test]
    fn a_storm_does_all_it_can() {
        run(async {
            let bench = Bench::new(Settings::of(Profile::Storm), 11).await;
            let Bench { proxy, upstream } = bench;
            let _echo = smol::spawn(async move {
                let mut links = Vec::new();
                while let Ok((server, _)) = upstream.accept().await {
                    links.push(smol::spawn(async move {
                        let _ = smol::io::copy(&server, &server).await;
                    }));
                }
            });
            let missing = |counts: Counts| {
                let Counts {
                    resets,
                    half_opens,
                    stalls,
                    delays,
                    flipped_bytes,
                    ..
                } = counts;
                [resets, half_opens, stalls, delays, flipped_bytes].contains(&0)
            };
            while missing(proxy.counts()) {
                let talk = async {
                    let client = Socket::connect(proxy.local_addr()).await?;
                    let sent = async { (&client).write_all(&noise(1, 1 << 18)).await };
                    future::try_zip(sent, receive_all(&client)).await.map(drop)
                };
                let patience = async {
                    Timer::after(millis(400)).await;
                    Ok(())
                };
                // How it ends does not matter, only that it does.
                let _: io::Result<()> = talk.or(patience).await;
            }
        });
    }

    #[test]
    fn lengths_of_nothing_and_forever_are_harmless() {
        run(async {
            let never = Duration::ZERO..=Duration::ZERO;
            let settings = Settings {
                cut_share: 1.0,
                cut_after: Duration::MAX..=Duration::MAX,
                stall_share: 1.0,
                stall_gap: never.clone(),
                stall_for: never,
                ..Settings::none()
            };
            let bench = Bench::new(settings, 1).await;
            let (client, server) = bench.link().await;
            assert_passes(&client, &server).await;
        });
    }

    #[test]
    fn traffic_does_not_starve_the_cut() {
        run(async {
            let half_open_share = 0.0;
            let cut_after = millis(100)..=millis(100);
            let settings = Settings {
                half_open_share,
                cut_after,
                ..half_opening()
            };
            let bench = Bench::new(settings, 1).await;
            let (client, server) = bench.link().await;
            let flood = smol::spawn(async move {
                let block = vec![7; BUFFER];
                while (&client).write_all(&block).await.is_ok() {}
            });
            let mut buffer = vec![0; BUFFER];
            let start = Instant::now();
            while (&server)
                .read(&mut buffer)
                .await
                .is_ok_and(|count| count > 0)
            {}
            assert!(start.elapsed() < Duration::from_secs(5));
            assert_eq!(bench.proxy.counts().resets, 1);
            flood.await;
        });
    }

    #[test]
    fn a_slow_receiver_holds_the_sender_back() {
        run(async {
            let bench = Bench::new(Settings::none(), 1).await;
            let (client, server) = bench.link().await;
            let block = vec![7; BUFFER];
            let mut sent = 0;
            loop {
                let full = async {
                    Timer::after(millis(300)).await;
                    None
                };
                let write = async { (&client).write(&block).await.ok() };
                let Some(count) = write.or(full).await else {
                    break;
                };
                sent += count;
                assert!(sent < 64 << 20, "nothing holds the sender back");
            }
            client
                .get_ref()
                .shutdown(Shutdown::Write)
                .expect("shutdown");
            assert_eq!(receive_all(&server).await.expect("read").len(), sent);
        });
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

            let refuse_share = 1.0;
            let bench = Bench::new(
                Settings {
                    refuse_share,
                    ..Settings::none()
                },
                1,
            )
            .await;
            for resets in 1..10 {
                assert_refuses(&bench.proxy).await;
                until(|| bench.proxy.counts().resets == resets).await;
            }
        });
    }

    #[test]
    fn calm_spares_links_old_and_new() {
        run(async {
            let cut_after = millis(500)..=millis(500);
            let settings = Settings {
                cut_after,
                ..Settings::of(Profile::Cuts)
            };
            let bench = Bench::new(settings, 1).await;
            let old = bench.link().await;
            bench.proxy.calm();
            let new = bench.link().await;
            Timer::after(millis(600)).await;
            assert_passes(&old.0, &old.1).await;
            assert_passes(&new.0, &new.1).await;
            assert_eq!(bench.proxy.disruptions(), 0);
        });
    }

    #[test]
    fn calm_frees_what_a_delay_holds() {
        run(async {
            let hour = Duration::from_secs(3600);
            let (delay_share, delay_for) = (1.0, hour..=hour);
            let settings = Settings {
                delay_share,
                delay_for,
                ..Settings::none()
            };
            let bench = Bench::new(settings, 1).await;
            let (client, server) = bench.link().await;
            send(&client, b"held").await;
            assert!(read_soon(&server).await.is_none());
            bench.proxy.calm();
            assert_eq!(read_some(&server).await, b"held");
            assert_eq!(bench.proxy.disruptions(), 0);
        });
    }

    #[test]
    fn dropping_the_proxy_closes_all() {
        run(async {
            let bench = Bench::new(Settings::none(), 1).await;
            let whole = bench.link().await;
            let silent = bench.link().await;
            assert_passes(&whole.0, &whole.1).await;
            bench.proxy.half_open_all();
            until(|| bench.proxy.counts().half_opens == 2).await;
            let whole_too = bench.link().await;
            let address = bench.proxy.local_addr();
            drop(bench.proxy);
            for (client, server) in [&whole, &silent, &whole_too] {
                let _ = receive_all(client).await;
                let _ = receive_all(server).await;
            }
            while Socket::connect(address).await.is_ok() {
                Timer::after(millis(2)).await;
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
    fn links_meet_the_fate_that_is_planned() {
        run(async {
            let half_open_share = 0.5;
            let settings = Settings {
                half_open_share,
                ..half_opening()
            };
            let bench = Bench::new(settings.clone(), 77).await;
            let mut planned = Counts::default();
            for connection in 0..12 {
                planned.connections += 1;
                match plan(&settings, 77, connection).cut.expect("a cut").manner {
                    Manner::Reset => planned.resets += 1,
                    Manner::HalfOpen { .. } => planned.half_opens += 1,
                }
                let _link = bench.link().await;
                until(|| bench.proxy.disruptions() == connection + 1).await;
                assert_eq!(bench.proxy.counts(), planned);
            }
        });
    }

    #[test]
    fn a_plan_depends_on_its_arguments_alone() {
        let storm = Settings::of(Profile::Storm);
        let plans = |settings: &Settings, seed| -> Vec<Plan> {
            (0..1000)
                .map(|connection| plan(settings, seed, connection))
                .collect()
        };
        assert_eq!(plans(&storm, 7), plans(&storm, 7));
        assert_ne!(plans(&storm, 7), plans(&storm, 8));
        // Seeds that are close together must not share plans in another order.
        assert_ne!(plan(&storm, 7, 0), plan(&storm, 6, 1));

        let cuts =
            |settings| -> Vec<_> { plans(settings, 7).iter().map(|plan| plan.cut).collect() };
        assert_eq!(cuts(&storm), cuts(&Settings::of(Profile::Cuts)));
        let quiet = Plan::default();
        assert!(
            plans(&Settings::none(), 7)
                .iter()
                .all(|plan| *plan == quiet)
        );
    }

    #[test]
    fn plans_keep_to_their_settings() {
        let storm = Settings::of(Profile::Storm);
        let plans: Vec<Plan> = (0..2000).map(|n| plan(&storm, 9, n)).collect();
        let share = |fits: fn(&Plan) -> bool| {
            plans.iter().filter(|plan| fits(plan)).count() as f64 / plans.len() as f64
        };
        let near = |left: f64, right: f64| (left - right).abs() < 0.05;
        let is_reset = |plan: &Plan| plan.cut.is_some_and(|cut| cut.manner == Manner::Reset);
        assert!(near(share(is_reset), 0.5));
        assert!(near(share(|plan| plan.stalls), 0.5));
        assert!(near(share(|plan| plan.early_flip.is_some()), 0.15));
        assert!(near(share(|plan| plan.refusal.is_some()), 0.05));
        for cut in plans.iter().map(|plan| plan.cut.expect("a cut")) {
            assert!(storm.cut_after.contains(&cut.after));
        }
    }

    #[test]
    fn flips_are_as_frequent_as_asked() {
        let draw = |share| Random(4).gap(share);
        assert_eq!((draw(0.0), draw(1.0)), (u64::MAX, 0));
        let mut random = Random(4);
        let mean = (0..10_000).map(|_| random.gap(0.01)).sum::<u64>() / 10_000;
        assert!((90..110).contains(&mean), "{mean}");
    }

    #[test]
    fn profiles_have_names() {
        for profile in [Profile::Cuts, Profile::Storm] {
            assert_eq!(profile.to_string().parse(), Ok(profile));
        }
        assert_eq!("calm".parse::<Profile>(), Err(UnknownProfile));
    }

    #[test]
    fn listening_beyond_loopback_is_an_error() {
        let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let proxy = run(Proxy::start(everywhere, LOOPBACK, Settings::none(), 1));
        assert_eq!(proxy.expect_err("an error").kind(), ErrorKind::InvalidInput);
    }
}
