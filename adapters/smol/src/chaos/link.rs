//! The life of one connection: two sockets, and a pipe towards each of them

use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use smol::future::{self, FutureExt};
use smol::stream::Stream;
use smol::{Timer, channel::Receiver};

use super::fault::{End, Fault, Kind, Manner};
use super::http;
use super::laws::Spell;
use super::pipe::{Name, Next, Pipe};
use super::places::{Dial, Lasting, Order, Place};
use super::socket::{Socket, is_closed, reset_on_close, within};

/// Longest wait for the upstream to accept
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest that a connection is kept which nobody hears anything on
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// Bytes read at a time
const BUFFER_BYTES: usize = 32 * 1024;
/// Bytes read of whoever speaks while its dial hangs, to see whether it is still there
const AHEAD_BYTES_MAX: usize = 64 * 1024;
/// Most pieces written towards an end before everybody else has a turn
const PIECES_MAX: usize = 64;
/// How late what a dead connection had under way arrives
const GHOST_AFTER: Duration = Duration::from_millis(30);
/// How long the upstream believes in a dead connection behind that
const GHOST_STAYS: Duration = Duration::from_millis(20);

/// Sees a connection through, from its dial on
pub(super) async fn serve(mut place: Place, client: Arc<Socket>) {
    let dial = place.dial();
    if dial.refused {
        if !is_closed(&client) {
            place.shared.feel(Kind::Refuse);
        }
        return reset_on_close(&[&client]);
    }
    let mut ahead = Vec::new();
    while let Some((kind, until)) = place.hangs() {
        place.shared.feel(kind);
        let healed = async { while !matches!(place.orders.recv().await, Ok(Order::Heal) | Err(_)) {} };
        healed.or(async { _ = Timer::at(until).await }).await;
        // Whoever has given up meanwhile must not be heard as if it had got through.
        match read_ahead(&client) {
            Some(said) => ahead.extend(said),
            None => return,
        }
    }
    if let Some(late) = dial.late {
        place.shared.feel(Kind::SlowDial);
        Timer::after(late).await;
    }
    if let Some((status, until)) = dial.status {
        match http::asks(&client).await {
            Ok(true) => {
                // Counted before it is done, so that whoever sees it finds it counted.
                place.shared.feel(Kind::HttpStatus);
                return http::answer(&client, status, until.saturating_duration_since(Instant::now())).await;
            }
            Ok(false) => place.cannot(Kind::HttpStatus),
            Err(_) => return,
        }
    }
    let Some(Ok(upstream)) = within(PATIENCE, place.shared.upstream.connect()).await else {
        // The client shall see what it would see without a proxy: no connection.
        return reset_on_close(&[&client]);
    };
    for socket in [&*client, &upstream] {
        // A link works without, only slower.
        let _ = socket.get_ref().set_nodelay(true);
    }
    let (laid, fate) = place.open();
    let mut link = Link::new(place, client, upstream);
    link.pipes[End::Coordinator as usize].take(link.opened, &ahead);
    link.meet(dial);
    link.due.extend(fate.into_iter().map(|(at, fault)| (link.opened + at, Act::Suffer(fault))));
    laid.into_iter().for_each(|lasting| link.suffer(lasting));
    link.run().await;
}

struct Link {
    opened: Instant,
    /// The connections to both ends, as far as they are there
    sockets: [Option<Arc<Socket>>; 2],
    /// Whether more may come from an end
    reads: [bool; 2],
    /// Whether an end takes nothing at the moment
    full: [bool; 2],
    /// What goes towards each end
    pipes: [Pipe; 2],
    due: Vec<(Instant, Act)>,
    broken: bool,
    /// Whether everybody knows that there are no messages here
    is_known: bool,
    buffer: Box<[u8]>,
    timer: Timer,
    orders: Pin<Box<Receiver<Order>>>,
    /// Last, so that a link is off the list only when its connections are closed
    place: Place,
}

/// What happens to a link at a time
#[derive(Clone, Copy)]
enum Act {
    Suffer(Fault),
    Break(Kind),
    /// An end learns at last that the connection is gone
    Learn(End),
}

/// Why a link has its turn
enum Event {
    Order(Order),
    Time,
    /// Something can be read from these ends, or written
    Ready([bool; 2]),
}

impl Link {
    fn new(place: Place, client: Arc<Socket>, upstream: Socket) -> Self {
        let settings = place.shared.settings;
        let pipe = |towards| {
            let name = Name { seed: settings.seed, connection: place.connection, towards, place: place.number };
            Pipe::new(name, settings.latency, place.shared.memory.clone())
        };
        Link {
            opened: Instant::now(),
            sockets: [Some(client), Some(Arc::new(upstream))],
            reads: [true; 2],
            full: [false; 2],
            pipes: End::BOTH.map(pipe),
            due: Vec::new(),
            broken: false,
            is_known: false,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            timer: Timer::never(),
            orders: Box::pin(place.orders.clone()),
            place,
        }
    }

    /// It meets what new connections meet
    fn meet(&mut self, dial: Dial) {
        if dial.mute {
            self.place.shared.feel(Kind::Mute);
            self.silence();
        }
        if let Some(after) = dial.breaks_after {
            self.due.push((self.opened + after, Act::Break(Kind::AcceptReset)));
        }
    }

    async fn run(mut self) {
        loop {
            let now = Instant::now();
            let (mut wake, mut again) = (None::<Instant>, false);
            for end in End::BOTH {
                match self.flush(end, now) {
                    Some(until) if until <= now => again = true,
                    until => wake = wake.into_iter().chain(until).min(),
                }
            }
            self.report();
            // Behind that, so that what was to arrive before has arrived.
            if self.act(now) && !self.broken {
                continue;
            }
            wake = self.due.iter().map(|(at, _)| *at).chain(wake).min();
            if self.broken {
                let open: Vec<&Socket> = self.sockets.iter().flatten().map(|socket| &**socket).collect();
                return reset_on_close(&open);
            }
            if self.is_over() {
                return;
            }
            if again {
                future::yield_now().await;
                wake = Some(now);
            }
            match self.event(wake, now).await {
                Event::Order(Order::Heal) => self.heal(),
                Event::Order(Order::Suffer(lasting)) => self.suffer(lasting),
                Event::Ready(from) => {
                    End::BOTH.into_iter().filter(|end| from[*end as usize]).for_each(|end| self.read(end));
                }
                Event::Time => {}
            }
        }
    }

    /// Waits for whatever comes first
    async fn event(&mut self, wake: Option<Instant>, now: Instant) -> Event {
        match wake {
            Some(at) => self.timer.set_at(at),
            None => self.timer = Timer::never(),
        }
        let wanted = End::BOTH.map(|end| self.wants(end, now));
        let Link { sockets, full, timer, orders, .. } = self;
        future::poll_fn(|cx| {
            // Polled in this order: no amount of traffic keeps a timer from its turn.
            if let Poll::Ready(Some(order)) = orders.as_mut().poll_next(cx) {
                return Poll::Ready(Event::Order(order));
            }
            if wake.is_some() && Pin::new(&mut *timer).poll(cx).is_ready() {
                return Poll::Ready(Event::Time);
            }
            let mut any = false;
            let mut from = [false; 2];
            for (end, socket) in sockets.iter().enumerate() {
                let Some(socket) = socket else { continue };
                from[end] = wanted[end] && socket.poll_readable(cx).is_ready();
                if full[end] && socket.poll_writable(cx).is_ready() {
                    (full[end], any) = (false, true);
                }
                any |= from[end];
            }
            match any {
                true => Poll::Ready(Event::Ready(from)),
                false if wake.is_some_and(|wake| wake <= now) => Poll::Ready(Event::Time),
                false => Poll::Pending,
            }
        })
        .await
    }

    /// Whether what an end sends is to be looked at
    fn wants(&self, end: End, now: Instant) -> bool {
        let pipe = &self.pipes[end.other() as usize];
        let unfelt = pipe.blocked(now).is_some_and(|(_, felt)| !felt);
        self.reads[end as usize] && (unfelt || pipe.room(now) > 0)
    }

    // Bytes.

    fn read(&mut self, from: End) {
        let now = Instant::now();
        let Some(socket) = &self.sockets[from as usize] else { return };
        let pipe = &mut self.pipes[from.other() as usize];
        if pipe.blocked(now).is_some() {
            return pipe.feel(Kind::Blocked);
        }
        let room = pipe.room(now).min(BUFFER_BYTES);
        if room == 0 {
            return;
        }
        match socket.get_ref().read(&mut self.buffer[..room]) {
            Ok(0) => {
                self.reads[from as usize] = false;
                pipe.end(now);
            }
            Ok(count) => pipe.take(now, &self.buffer[..count]),
            Err(error) if is_passing(error.kind()) => {}
            Err(_) => self.lose(from, now),
        }
    }

    /// Writes what may be written towards an end: when there will be more
    fn flush(&mut self, towards: End, now: Instant) -> Option<Instant> {
        let at = towards as usize;
        let pipe = &mut self.pipes[at];
        // Its sender is heard again when it is no longer kept from sending.
        let unblocked = pipe.blocked(now).and_then(|(until, _)| until);
        for _ in 0..PIECES_MAX {
            let Some(socket) = self.sockets[at].as_ref().filter(|_| !self.full[at]) else { return unblocked };
            match pipe.next(now) {
                Next::Bytes(bytes) => match socket.get_ref().write(bytes) {
                    Ok(count) => {
                        self.place.shared.carry(towards, count);
                        pipe.sent(now, count);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => self.full[at] = true,
                    Err(error) if is_passing(error.kind()) => {}
                    Err(_) => {
                        self.lose(towards, now);
                        return None;
                    }
                },
                Next::Wait(until) => return Some(unblocked.map_or(until, |other| other.min(until))),
                Next::Idle => return unblocked,
                Next::End => {
                    pipe.told_end();
                    // Fails only if that end is gone, which reading from it finds out.
                    let _ = socket.get_ref().shutdown(Shutdown::Write);
                }
                Next::Break(kind) => {
                    kind.into_iter().for_each(|kind| self.place.shared.feel(kind));
                    self.broken = true;
                    return None;
                }
            }
        }
        Some(now)
    }

    /// An end has broken the connection: the other one learns it behind what is under way, if it hears anything
    fn lose(&mut self, end: End, now: Instant) {
        self.sockets[end as usize] = None;
        self.reads[end as usize] = false;
        self.pipes[end as usize].deafen();
        self.pipes[end.other() as usize].broke(now);
    }

    /// Whether nothing will ever be carried any more
    fn is_over(&self) -> bool {
        let ends = self.sockets.iter().zip(&self.reads).zip(&self.pipes);
        let mut over = ends.map(|((socket, reads), pipe)| socket.is_none() || (!reads && pipe.is_over()));
        over.all(|over| over)
    }

    fn report(&mut self) {
        for kind in self.pipes.iter_mut().flat_map(Pipe::take_felt) {
            self.place.shared.feel(kind);
        }
        for kind in self.pipes.iter_mut().flat_map(Pipe::take_impossible) {
            self.place.cannot(kind);
        }
        if !self.is_known
            && let Some(opaque) = self.pipes.iter().find_map(Pipe::opaque)
        {
            self.is_known = true;
            self.place.is_opaque(opaque);
        }
        if self.pipes.iter_mut().fold(false, |any, pipe| pipe.take_scar() | any) {
            self.place.scar();
        }
    }

    // Faults.

    /// Whatever is due comes true: whether anything is
    fn act(&mut self, now: Instant) -> bool {
        let mut any = false;
        while let Some(index) = self.due.iter().position(|(at, _)| *at <= now) {
            let (at, act) = self.due.remove(index);
            match act {
                Act::Suffer(fault) => {
                    if fault.kind.manner() != Manner::Dial {
                        self.place.shared.state().counts.fire(fault.kind);
                        self.suffer(Lasting::from(fault, at));
                    }
                }
                Act::Break(kind) => self.break_all(kind),
                Act::Learn(end) => self.cut_off(end),
            }
            any = true;
        }
        any
    }

    fn suffer(&mut self, lasting: Lasting) {
        let Lasting { fault, since, until, .. } = lasting;
        match fault.kind.manner() {
            Manner::Weather if fault.kind == Kind::Flap => self.flap(lasting),
            Manner::Weather => {
                let spell = Spell { kind: fault.kind, amount: fault.amount, since, until, felt: false };
                let felt_at = |pipe: &&mut Pipe| fault.is_felt_at(pipe.towards());
                self.pipes.iter_mut().filter(felt_at).for_each(|pipe| pipe.spell(spell));
            }
            Manner::Strike => self.pipes[fault.towards as usize].strike(Instant::now(), fault),
            Manner::Blow => self.befall(fault),
            // No open connection suffers these.
            Manner::Dial | Manner::Aside => {}
        }
    }

    /// The connection breaks at the next of the times at which it does again and again
    fn flap(&mut self, lasting: Lasting) {
        let Lasting { fault, since, until, .. } = lasting;
        let beat = self.place.shared.settings.heartbeat;
        let period = (beat * (1 << fault.amount.min(2)) / 2).max(Duration::from_millis(1));
        let passed = self.opened.saturating_duration_since(since).as_nanos().div_ceil(period.as_nanos());
        let at = since + period * u32::try_from(passed).unwrap_or(u32::MAX);
        if until.is_none_or(|until| at < until) {
            self.due.push((at, Act::Break(Kind::Flap)));
        }
    }

    #[allow(clippy::wildcard_enum_match_arm, reason = "only what befalls connections comes here")]
    fn befall(&mut self, fault: Fault) {
        let (now, towards) = (Instant::now(), fault.towards);
        match fault.kind {
            Kind::ResetAfter => return self.pipes[towards as usize].break_behind(fault.amount.max(1)),
            Kind::Close => self.pipes.iter_mut().for_each(|pipe| pipe.end(now)),
            Kind::HalfClose => self.pipes[towards as usize].end(now),
            Kind::HalfOpen => self.pipes[towards as usize].deafen(),
            Kind::Dead => self.silence(),
            Kind::CutSeenBy => {
                self.silence();
                self.cut_off(towards);
            }
            Kind::LateClose => {
                self.silence();
                self.cut_off(towards);
                self.due.push((now + fault.span, Act::Learn(towards.other())));
            }
            Kind::Ghost => {
                self.read(End::Peer);
                self.pipes[End::Peer as usize].deafen();
                self.cut_off(End::Peer);
                self.pipes[End::Coordinator as usize].postpone(now + GHOST_AFTER);
                self.due.push((now + GHOST_AFTER + GHOST_STAYS, Act::Learn(End::Coordinator)));
            }
            kind => return self.break_all(kind),
        }
        self.place.shared.feel(fault.kind);
    }

    fn break_all(&mut self, kind: Kind) {
        if !self.sockets.iter().flatten().all(|socket| is_closed(socket)) {
            // Counted before it is done, so that whoever sees it finds it counted.
            self.place.shared.feel(kind);
        }
        self.broken = true;
    }

    /// Nothing arrives at either end any more, and nobody is told
    fn silence(&mut self) {
        self.pipes.iter_mut().for_each(Pipe::deafen);
        self.due.push((Instant::now() + SILENCE_MAX, Act::Learn(End::Peer)));
        self.due.push((Instant::now() + SILENCE_MAX, Act::Learn(End::Coordinator)));
    }

    /// One end learns that the connection is gone
    fn cut_off(&mut self, end: End) {
        if let Some(socket) = self.sockets[end as usize].take() {
            reset_on_close(&[&socket]);
        }
        self.reads[end as usize] = false;
    }

    fn heal(&mut self) {
        let now = Instant::now();
        self.pipes.iter_mut().for_each(|pipe| pipe.heal(now));
        // What is dead stays so, and whoever has to learn that does.
        self.due.retain(|(_, act)| matches!(act, Act::Learn(_)));
    }
}

/// Reads what somebody has said before it was heard; nothing if it is gone
fn read_ahead(client: &Socket) -> Option<Vec<u8>> {
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    while said.len() < AHEAD_BYTES_MAX {
        match client.get_ref().read(&mut buffer) {
            Ok(0) => return None,
            Ok(count) => said.extend_from_slice(&buffer[..count]),
            Err(error) if is_passing(error.kind()) => break,
            Err(_) => return None,
        }
    }
    Some(said)
}

/// Whether the same may well succeed in a moment
fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
