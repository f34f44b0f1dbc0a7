//! The life of one link

use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use smol::Timer;
use smol::future::{self, FutureExt};

use super::MAX_HALF_OPEN_TIME;
use super::plan::{Manner, Plan, Refusal, Silence};
use super::pump::Lane;
use super::random::{Purpose, Random};
use super::shared::{Order, Place, Shared};
use super::socket::{Socket, is_closed, peek, reset_on_close, within};

/// Shortest time between the turns of a stalling link
const SHORTEST_TURN: Duration = Duration::from_millis(1);

/// Longest wait for the upstream to accept, or for a refused client to speak
const PATIENCE: Duration = Duration::from_secs(1);

/// Refuses a connection, or makes a link of it and sees it through
pub(super) async fn serve(place: Place, client: Socket, plan: Plan) {
    if let Some(refusal) = plan.refusal {
        return refuse(&place, client, refusal).await;
    }
    let connected = within(PATIENCE, Socket::connect(place.shared.upstream)).await;
    let Some(Ok(upstream)) = connected else {
        // The client shall see what it would see without a proxy: no connection.
        return reset_on_close(&[&client]);
    };
    for socket in [&client, &upstream] {
        // A link works without, only slower.
        let _ = socket.get_ref().set_nodelay(true);
    }
    Link::new(place, client, upstream, plan).run().await;
}

async fn refuse(place: &Place, client: Socket, refusal: Refusal) {
    if refusal == Refusal::AtFirstBytes {
        // An error shows below, as a closed connection.
        let _ = within(PATIENCE, client.readable()).await;
    }
    if !is_closed(&client) {
        place.shared.state().counts.resets += 1;
    }
    reset_on_close(&[&client]);
}

/// A client's connection joined to one to the upstream
struct Link {
    client: Socket,
    upstream: Socket,
    plan: Plan,
    up: Lane,
    down: Lane,
    /// Last, so that a link is off the list only when its connections are closed
    place: Place,
}

/// What a live link waits for
enum Event {
    Order(Order),
    TimeIsUp,
    Over(io::Result<()>),
}

impl Link {
    fn new(place: Place, client: Socket, upstream: Socket, plan: Plan) -> Self {
        let lane = |to_upstream, purposes| {
            let flip = plan.early_flip.filter(|flip| flip.to_upstream == to_upstream);
            Lane::new(&place, purposes, flip.map(|flip| flip.at))
        };
        let up = lane(true, [Purpose::UpPace, Purpose::UpFlips]);
        let down = lane(false, [Purpose::DownPace, Purpose::DownFlips]);
        Self { client, upstream, plan, up, down, place }
    }

    async fn run(mut self) {
        match self.live().await {
            Ok(None) => {}
            Ok(Some(manner)) => self.cut(manner).await,
            // What broke one connection goes on to the other; it is not our doing.
            Err(_) => reset_on_close(&[&self.client, &self.upstream]),
        }
    }

    /// Forwards both directions until both ended, one broke, or the link is to be cut
    async fn live(&mut self) -> io::Result<Option<Manner>> {
        let mut cut = self.plan.cut.map(|cut| (Instant::now() + cut.after, cut.manner));
        let Shared { settings, seed, .. } = &*self.place.shared;
        let mut random = Random::keyed(*seed, self.place.connection, Purpose::StallTimes);
        let mut turn = self.plan.stalls.then(|| Instant::now() + random.duration(&settings.stall_gap));
        let mut stalled = false;
        loop {
            let next = turn.into_iter().chain(cut.map(|(at, _)| at)).min();
            let order = async { Event::Order(self.place.order().await) };
            let time = async {
                next.map_or_else(Timer::never, Timer::at).await;
                Event::TimeIsUp
            };
            let up = self.up.carry_all(&self.client, &self.upstream);
            let down = self.down.carry_all(&self.upstream, &self.client);
            let work = async {
                if stalled {
                    future::pending::<()>().await;
                }
                Event::Over(future::try_zip(up, down).await.map(drop))
            };
            // Polled in this order: no amount of traffic keeps a timer from its turn.
            match order.or(time).or(work).await {
                Event::Over(ending) => return ending.map(|()| None),
                Event::Order(Order::Cut(manner)) => return Ok(Some(manner)),
                Event::Order(Order::Calm) => {
                    (cut, turn, stalled) = (None, None, false);
                }
                Event::TimeIsUp => {
                    if let Some((_, manner)) = cut.filter(|(at, _)| *at <= Instant::now()) {
                        return Ok(Some(manner));
                    }
                    if stalled && self.holds_data()? {
                        self.place.shared.state().counts.stalls += 1;
                    }
                    stalled = !stalled;
                    let length = if stalled { &settings.stall_for } else { &settings.stall_gap };
                    // Turns without length would leave no time for anything else.
                    turn = Some(Instant::now() + random.duration(length).max(SHORTEST_TURN));
                }
            }
        }
    }

    /// Whether there is data that a stall holds up
    fn holds_data(&self) -> io::Result<bool> {
        let waiting = [peek(&self.client)?, peek(&self.upstream)?].contains(&Some(1));
        Ok(waiting || self.up.holds_data() || self.down.holds_data())
    }

    async fn cut(self, manner: Manner) {
        let is_over = is_closed(&self.client) && is_closed(&self.upstream);
        match manner {
            Manner::HalfOpen { .. } if is_over => {}
            Manner::HalfOpen { silence, late_close } if self.place.turn_half_open() => {
                self.half_open(silence, late_close).await;
            }
            Manner::Reset | Manner::HalfOpen { .. } => {
                // Counted first, so that whoever sees the reset finds it counted.
                self.place.shared.state().counts.resets += u64::from(!is_over);
                reset_on_close(&[&self.client, &self.upstream]);
            }
        }
    }

    /// Goes on holding both connections, with data lost, until a side closes
    async fn half_open(self, silence: Silence, late_close: Option<Duration>) {
        let Self { place, client, upstream, mut up, mut down, .. } = self;
        place.shared.state().counts.half_opens += 1;
        let bound = Instant::now() + place.shared.settings.half_open_for.min(MAX_HALF_OPEN_TIME);
        let up_closed = up.until_closed(silence != Silence::ToClient, &client, &upstream);
        let down_closed = down.until_closed(silence != Silence::ToUpstream, &upstream, &client);
        let client_closed = up_closed.or(async { !down_closed.await });
        let (closed, kept, mut lane) = match limit(&place, bound, &[&client, &upstream], client_closed).await {
            Some(true) => (client, upstream, down),
            Some(false) => (upstream, client, up),
            None => return,
        };
        drop(closed);
        if let Some(late) = late_close {
            let bound = bound.min(Instant::now() + late);
            limit(&place, bound, &[&kept], lane.discard(&kept)).await;
        }
    }
}

/// Does the work of a half-open link until its time is over or it is reset
async fn limit<T>(place: &Place, bound: Instant, open: &[&Socket], work: impl Future<Output = T>) -> Option<T> {
    let time = async {
        Timer::at(bound).await;
        None
    };
    let reset = async {
        // Other orders change nothing about a link that is half-open.
        while place.order().await != Order::Cut(Manner::Reset) {}
        place.shared.state().counts.resets += 1;
        reset_on_close(open);
        None
    };
    time.or(reset).or(async { Some(work.await) }).await
}

#[cfg(test)]
mod tests {
    use super::super::bench::*;
    use super::super::{Counts, MAX_HALF_OPEN, Profile, Settings, plan};
    use super::*;
    use smol::io::{AsyncReadExt, AsyncWriteExt};

    fn half_opening() -> Settings {
        Settings { half_open_share: 1.0, ..resetting() }
    }

    /// Not so soon that a client on a busy machine could be reset while it still connects
    fn resetting() -> Settings {
        Settings { cut_share: 1.0, cut_after: millis(400)..=millis(410), ..Settings::none() }
    }

    #[test]
    fn a_reset_is_seen_by_both_peers_and_counted() {
        with_link(resetting(), async |bench, client, server| {
            assert_reset(&client).await;
            assert_reset(&server).await;
            assert_eq!(bench.proxy.counts().resets, 1);
            assert_eq!(bench.proxy.disruptions(), 1);
        });
    }

    #[test]
    fn a_reset_of_one_peer_reaches_the_other_uncounted() {
        with_link(Settings::none(), async |bench, client, server| {
            reset_on_close(&[&client]);
            drop(client);
            assert_reset(&server).await;
            assert_eq!(bench.proxy.disruptions(), 0);
        });
    }

    #[test]
    fn a_half_open_link_is_silent_until_a_peer_closes() {
        with_link(half_opening(), async |bench, client, server| {
            until(|| bench.proxy.counts().half_opens == 1).await;
            send(&client, b"lost").await;
            send(&server, b"lost").await;
            assert!(read_soon(&server).await.is_none());
            assert!(read_soon(&client).await.is_none());
            assert_eq!(bench.proxy.connections_now(), 1);
            drop(client);
            assert_eq!(receive_all(&server).await.expect("read"), b"");
            bench.until_empty().await;
            assert_eq!(bench.proxy.disruptions(), 1);
        });
    }

    #[test]
    fn a_half_open_link_may_be_silent_one_way_only() {
        run(async {
            let settings = Settings { one_way_share: 1.0, ..half_opening() };
            let silent_up = Manner::HalfOpen { silence: Silence::ToUpstream, late_close: None };
            let manner = |seed| plan(&settings, seed, 0).cut.map(|cut| cut.manner);
            let seed = (0..).find(|seed| manner(*seed) == Some(silent_up));
            let bench = Bench::new(settings.clone(), seed.expect("a seed")).await;
            let (client, server) = bench.link().await;
            until(|| bench.proxy.counts().half_opens == 1).await;
            send(&client, b"lost").await;
            send(&server, b"here").await;
            assert_eq!(&read_some(&client).await, b"here");
            assert!(read_soon(&server).await.is_none());
        });
    }

    #[test]
    fn the_other_side_of_a_half_open_link_may_close_late() {
        let late = millis(300);
        let settings = Settings { late_close_share: 1.0, late_close: late..=late, ..half_opening() };
        with_link(settings, async |bench, client, server| {
            until(|| bench.proxy.counts().half_opens == 1).await;
            let closed = Instant::now();
            drop(server);
            assert_eq!(receive_all(&client).await.expect("read"), b"");
            assert!(closed.elapsed() >= late);
        });
    }

    #[test]
    fn half_open_links_are_bounded_in_time() {
        let settings = Settings { half_open_for: millis(50), ..half_opening() };
        with_link(settings, async |bench, client, server| {
            assert_eq!(receive_all(&client).await.expect("read"), b"");
            assert_eq!(receive_all(&server).await.expect("read"), b"");
            bench.until_empty().await;
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
            until(|| bench.proxy.connections_now() == MAX_HALF_OPEN).await;
            until(|| bench.proxy.disruptions() == links.len() as u64).await;
            let counts = bench.proxy.counts();
            assert_eq!((counts.half_opens, counts.resets), (MAX_HALF_OPEN as u64, 3));
            bench.proxy.reset_all();
            bench.until_empty().await;
            for (client, server) in &links {
                assert_reset(client).await;
                assert_reset(server).await;
            }
            assert_eq!(bench.proxy.counts().resets, links.len() as u64);
        });
    }

    #[test]
    fn what_has_no_effect_is_not_counted() {
        let settings = Settings {
            stall_share: 1.0,
            stall_gap: millis(1)..=millis(2),
            stall_for: millis(1)..=millis(2),
            delay_share: 1.0,
            flip_share: 1.0,
            ..Settings::none()
        };
        with_link(settings, async |bench, client, server| {
            Timer::after(millis(50)).await;
            assert_eq!(bench.proxy.disruptions(), 0);
            drop((client, server));
            bench.until_empty().await;
            bench.proxy.reset_all();
            bench.proxy.half_open_all();
            assert_eq!(bench.proxy.disruptions(), 0);
        });
    }

    #[test]
    fn lengths_of_nothing_and_forever_are_harmless() {
        let never = Duration::ZERO..=Duration::ZERO;
        let settings = Settings {
            cut_share: 1.0,
            cut_after: Duration::MAX..=Duration::MAX,
            stall_share: 1.0,
            stall_gap: never.clone(),
            stall_for: never,
            ..Settings::none()
        };
        with_link(settings, async |_bench, client, server| {
            assert_passes(&client, &server).await;
        });
    }

    #[test]
    fn traffic_does_not_starve_the_cut() {
        let settings = resetting();
        with_link(settings, async |bench, mut client, mut server| {
            let mut buffer = vec![0; 1 << 16];
            let flood = smol::spawn(async move { while client.write_all(&[7; 1 << 16]).await.is_ok() {} });
            let start = Instant::now();
            while server.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
            assert!(start.elapsed() < Duration::from_secs(5));
            assert_eq!(bench.proxy.counts().resets, 1);
            flood.await;
        });
    }

    #[test]
    fn calm_spares_links_old_and_new() {
        let settings = Settings { cut_after: millis(1000)..=millis(1000), ..Settings::of(Profile::Cuts) };
        with_link(settings, async |bench, client, server| {
            bench.proxy.calm();
            let new = bench.link().await;
            Timer::after(millis(1100)).await;
            assert_passes(&client, &server).await;
            assert_passes(&new.0, &new.1).await;
            assert_eq!(bench.proxy.disruptions(), 0);
        });
    }

    #[test]
    fn links_meet_the_fate_that_is_planned() {
        run(async {
            let settings = Settings { half_open_share: 0.5, ..half_opening() };
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
}
