//! What a proxy and its links have in common: who stands where, and what is in force

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use smol::channel::{self, Receiver, Sender};

use super::fault::{Counts, End, Fault, Kind, Manner, Whom};
use super::frames::Opaque;
use super::memory::Memory;
use super::profile::{Profile, fate};
use super::random::{Purpose, Random};
use super::socket::{Socket, is_closed};
use super::upstream::Upstream;

/// Most connections at a time; further ones are reset
pub(super) const LINKS_MAX: usize = 2000;
/// Most faults that a link can be told of before its next turn
const ORDERS_MAX: usize = 1000;
/// Most faults that last, at a time
const IN_FORCE_MAX: usize = 10_000;
/// Most faults that wait for a connection
const WAITING_MAX: usize = 1000;

/// What a proxy does by itself, and to what kind of network it belongs
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What becomes of connections that no fault is meant for
    pub profile: Profile,
    /// Of everything that is drawn
    pub seed: u64,
    /// How long bytes take one way, unless a fault says otherwise
    pub latency: Duration,
    /// Half, one or two of these are between the breaks of `flap`
    pub heartbeat: Duration,
    /// Whether messages are kept for `replay`, `splice` and `impostor`, which are impossible without
    ///
    /// Costs up to 200 KB for each connection at a time.
    pub remembers: bool,
}

impl Settings {
    /// A profile as it is
    pub fn of(profile: Profile, seed: u64) -> Settings {
        Settings { profile, seed, latency: Duration::ZERO, heartbeat: Duration::from_secs(2), remembers: false }
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) upstream: Upstream,
    pub(super) settings: Settings,
    /// What was said before, if that is kept
    pub(super) memory: Option<Arc<Memory>>,
    /// Bytes written towards each end
    carried: [AtomicU64; 2],
    state: Mutex<State>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) counts: Counts,
    /// Whether the profile is over
    healed: bool,
    links: BTreeMap<u64, Entry>,
    in_force: Vec<Lasting>,
    /// What befalls the first bytes of the next connection in a place
    waiting: Vec<Fault>,
    /// How many faults there were, for what each of them draws
    faults: u64,
}

/// What is known of a link
#[derive(Debug)]
struct Entry {
    place: u64,
    orders: Sender<Order>,
    /// The connection of whoever dialled, as long as it is there
    client: Weak<Socket>,
    /// Whether it has reached the upstream
    open: bool,
    /// Why it has no messages, if that is known
    opaque: Option<Opaque>,
    /// When a bit of it was flipped first
    scarred: Option<Instant>,
}

/// A fault with the time for which it holds
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Lasting {
    pub(super) fault: Fault,
    pub(super) since: Instant,
    /// Never for what holds for good
    pub(super) until: Option<Instant>,
    number: u64,
}

/// What is asked of a link
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Order {
    Suffer(Lasting),
    Heal,
}

/// What a new connection meets
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dial {
    pub(super) refused: bool,
    pub(super) late: Option<Duration>,
    pub(super) mute: bool,
    pub(super) breaks_after: Option<Duration>,
    /// The answer to its upgrade, and until when others are given it
    pub(super) status: Option<(u16, Instant)>,
}

impl Lasting {
    /// One that holds from now on
    pub(super) fn from(fault: Fault, now: Instant) -> Lasting {
        let until = if fault.kind == Kind::Far { None } else { Some(now + fault.span) };
        Lasting { fault, since: now, until, number: 0 }
    }

    fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// Whether it strikes a place
    fn strikes(&self, seed: u64, place: u64) -> bool {
        let Fault { kind, whom, amount, .. } = self.fault;
        let meant = whom == Whom::All || whom == Whom::Place(place);
        let draw = || Random::keyed(seed, Purpose::Share, &[self.number, place]).below(1000);
        meant && (!kind.is_of_a_share() || draw() < amount)
    }
}

impl Shared {
    pub(super) fn new(upstream: Upstream, settings: Settings) -> Self {
        let memory = settings.remembers.then(Arc::default);
        Self { upstream, settings, memory, carried: Default::default(), state: Mutex::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// So many bytes have gone towards an end
    pub(super) fn carry(&self, towards: End, bytes: usize) {
        self.carried[towards as usize].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn carried(&self) -> [u64; 2] {
        End::BOTH.map(|end| self.carried[end as usize].load(Ordering::Relaxed))
    }

    pub(super) fn feel(&self, kind: Kind) {
        self.state().counts.feel(kind);
    }

    /// A fault comes now
    pub(super) fn strike(&self, fault: Fault) {
        let (now, seed) = (Instant::now(), self.settings.seed);
        let mut state = self.state();
        state.counts.fire(fault.kind);
        state.faults += 1;
        let lasting = Lasting { number: state.faults, ..Lasting::from(fault, now) };
        match fault.kind.manner() {
            Manner::Weather if fault.kind == Kind::Swizzle => {
                for part in state.swizzled(lasting, seed) {
                    state.lay(part, seed);
                }
            }
            Manner::Weather | Manner::Dial => state.lay(lasting, seed),
            Manner::Blow => _ = state.tell(lasting, seed),
            Manner::Strike => {
                let waits = state.tell(lasting, seed) == 0 && fault.whom != Whom::All;
                if waits && state.waiting.len() < WAITING_MAX {
                    state.waiting.push(fault);
                }
            }
            Manner::Aside if fault.kind == Kind::Impostor && self.memory.is_none() => state.counts.cannot(fault.kind),
            Manner::Aside => {}
        }
    }

    /// Why a fault of messages can have no effect on any of the connections that it strikes now
    pub(super) fn opaque(&self, fault: Fault) -> Option<Opaque> {
        let state = self.state();
        let meant = |link: &&Entry| link.open && [Whom::All, Whom::Place(link.place)].contains(&fault.whom);
        let mut why = None;
        for link in state.links.values().filter(meant) {
            why = Some(link.opaque?);
        }
        why.filter(|_| fault.kind.is_of_messages() || fault.kind == Kind::NoPong)
    }

    /// Everything heals that can, and the profile is over
    pub(super) fn heal(&self) {
        let mut state = self.state();
        state.healed = true;
        state.in_force.clear();
        state.waiting.clear();
        for link in state.links.values() {
            let _ = link.orders.try_send(Order::Heal);
        }
    }
}

impl State {
    /// When a bit was flipped of the open connection that has gone on longest with that
    pub(super) fn scarred(&self) -> Option<Instant> {
        self.links.values().filter_map(|link| link.scarred).min()
    }

    pub(super) fn links(&self) -> usize {
        self.links.len()
    }

    /// Something holds from now on, for links that there are and for those to come
    fn lay(&mut self, lasting: Lasting, seed: u64) {
        let now = Instant::now();
        let same = |old: &Lasting| {
            let (old, new) = (old.fault, lasting.fault);
            (old.kind, old.whom, old.towards) == (new.kind, new.whom, new.towards) && !new.kind.is_of_a_share()
        };
        self.in_force.retain(|old| !old.is_over(now) && !same(old));
        if self.in_force.len() < IN_FORCE_MAX {
            self.in_force.push(lasting);
        }
        if lasting.fault.kind.manner() == Manner::Weather {
            self.tell(lasting, seed);
        }
    }

    /// Tells the open links that it strikes: how many
    fn tell(&self, lasting: Lasting, seed: u64) -> usize {
        let struck = self.links.values().filter(|link| link.open && lasting.strikes(seed, link.place));
        // One whose queue is full has more to suffer than it can; one that is over suffers no more.
        struck.map(|link| link.orders.try_send(Order::Suffer(lasting))).filter(Result::is_ok).count()
    }

    /// Some are cut off one after another, and come back in another order
    fn swizzled(&self, lasting: Lasting, seed: u64) -> Vec<Lasting> {
        let Lasting { fault, since, number, .. } = lasting;
        let draw = |place: u64| Random::keyed(seed, Purpose::Swizzle, &[number, place]);
        let mut places: Vec<u64> = self.links.values().map(|link| link.place).collect();
        places.sort_by_key(|place| draw(*place).next());
        places.truncate(usize::try_from(fault.amount).unwrap_or(usize::MAX));
        let (half, count) = (fault.span / 2, places.len() as u32);
        let parts = places.into_iter().zip(0..).map(|(place, nth)| {
            let back = Duration::from_micros(draw(place).below(half.as_micros() as u64));
            let fault = Fault { whom: Whom::Place(place), ..fault };
            Lasting { fault, since: since + half * nth / count, until: Some(since + half + back), number }
        });
        parts.collect()
    }

    /// The lowest place that is free
    fn free_place(&self) -> u64 {
        // A peer that has closed, and is back already, finds its own place free.
        let stays = |link: &&Entry| link.client.upgrade().is_some_and(|client| !is_closed(&client));
        let taken: BTreeSet<u64> = self.links.values().filter(stays).map(|link| link.place).collect();
        (0..).zip(&taken).find(|(free, place)| free != *place).map_or(taken.len() as u64, |(free, _)| free)
    }
}

/// A connection's entry in the list of links, given up on drop
pub(super) struct Place {
    pub(super) shared: Arc<Shared>,
    pub(super) connection: u64,
    pub(super) number: u64,
    fate: Vec<(Duration, Fault)>,
    pub(super) orders: Receiver<Order>,
}

impl Place {
    /// Gives a new connection its place; none if there are too many
    pub(super) fn new(shared: Arc<Shared>, client: &Arc<Socket>) -> Option<Self> {
        let mut state = shared.state();
        let connection = state.counts.connections;
        state.counts.connections += 1;
        if state.links.len() >= LINKS_MAX {
            return None;
        }
        let number = state.free_place();
        let (sender, orders) = channel::bounded(ORDERS_MAX);
        let client = Arc::downgrade(client);
        let entry = Entry { place: number, orders: sender, client, open: false, opaque: None, scarred: None };
        state.links.insert(connection, entry);
        let profile = if state.healed { Profile::Calm } else { shared.settings.profile };
        drop(state);
        let fate = fate(profile, shared.settings.seed, connection);
        Some(Self { shared, connection, number, fate, orders })
    }

    /// A bit of this connection was flipped
    pub(super) fn scar(&self) {
        if let Some(link) = self.shared.state().links.get_mut(&self.connection) {
            link.scarred.get_or_insert_with(Instant::now);
        }
    }

    /// What this connection meets before it is one
    #[allow(clippy::wildcard_enum_match_arm, reason = "the others are no faults of dials")]
    pub(super) fn dial(&self) -> Dial {
        let (now, seed) = (Instant::now(), self.shared.settings.seed);
        let mut dial = Dial::default();
        let State { counts, in_force, .. } = &mut *self.shared.state();
        let laid = in_force.iter().filter(|lasting| !lasting.is_over(now) && lasting.strikes(seed, self.number));
        let fated = self.fate.iter().map(|(_, fault)| fault).filter(|fault| fault.kind.manner() == Manner::Dial);
        let fated = fated.inspect(|fault| counts.fire(fault.kind)).map(|fault| Lasting::from(*fault, now));
        for Lasting { fault, until, .. } in laid.copied().chain(fated) {
            let span = Duration::from_micros(fault.amount);
            match fault.kind {
                Kind::Refuse => dial.refused = true,
                Kind::SlowDial => dial.late = Some(span),
                Kind::Mute => dial.mute = true,
                Kind::AcceptReset => dial.breaks_after = Some(span),
                Kind::HttpStatus => dial.status = Some((fault.amount as u16, until.unwrap_or(now))),
                _ => {}
            }
        }
        dial
    }

    /// Why and until when a dial hangs, if it does
    pub(super) fn hangs(&self) -> Option<(Kind, Instant)> {
        let (now, seed) = (Instant::now(), self.shared.settings.seed);
        let state = self.shared.state();
        let hanging = state.in_force.iter().filter(|lasting| {
            let kind = lasting.fault.kind;
            (kind == Kind::Hang || kind.cuts_off()) && lasting.since <= now && !lasting.is_over(now)
        });
        let mine = hanging.filter(|lasting| lasting.strikes(seed, self.number));
        mine.filter_map(|lasting| Some((lasting.fault.kind, lasting.until?))).max_by_key(|(_, until)| *until)
    }

    /// A fault can have no effect here
    pub(super) fn cannot(&self, kind: Kind) {
        tracing::warn!("{} is impossible on connection {}: it has no such messages", kind.name(), self.connection);
        self.shared.state().counts.cannot(kind);
    }

    /// It has no messages, and everybody is to know
    pub(super) fn is_opaque(&self, why: Opaque) {
        if let Some(link) = self.shared.state().links.get_mut(&self.connection) {
            link.opaque = Some(why);
        }
    }

    /// It is open from now on: what is in force for it, and what becomes of it by itself
    pub(super) fn open(&mut self) -> (Vec<Lasting>, Vec<(Duration, Fault)>) {
        let (now, seed) = (Instant::now(), self.shared.settings.seed);
        let mut state = self.shared.state();
        if let Some(link) = state.links.get_mut(&self.connection) {
            link.open = true;
        }
        let mine = |lasting: &&Lasting| {
            let weather = lasting.fault.kind.manner() == Manner::Weather;
            weather && !lasting.is_over(now) && lasting.strikes(seed, self.number)
        };
        let mut all: Vec<Lasting> = state.in_force.iter().filter(mine).copied().collect();
        state.waiting.retain(|fault| {
            let mine = fault.whom == Whom::Place(self.number);
            if mine {
                all.push(Lasting::from(*fault, now));
            }
            !mine
        });
        let fate = if state.healed { Vec::new() } else { std::mem::take(&mut self.fate) };
        (all, fate)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.state().links.remove(&self.connection);
    }
}
