//! What machines see on real sockets: a coordinator and a worker with the chaos proxy in between

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rejoin_core::ids::Role;
use rejoin_core::link::LinkConfig;
use rejoin_core::wire::message::Outcome;
use rejoin_sim::Side;
use rejoin_sim::schedule::{Knob, Schedule, What};
use rejoin_smol::chaos::{End, Fault, Kind, Profile, Whom};
use rejoin_smol::seen::TARGET;
use rejoin_tests::{Rig, endpoint, key, link, run as run_test, shell, until};
use smol::{Timer, future};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::set_global_default;
use tracing::{Event, Metadata, Subscriber};

use super::Seen;

/// What has been seen so far, by end, address and connection
static LINES: Mutex<BTreeMap<(String, String, u64), Vec<String>>> = Mutex::new(BTreeMap::new());

/// Has it recorded what machines see; to be called once
pub(super) fn record() {
    set_global_default(Recorder).expect("there is no other subscriber");
}

/// Runs a schedule until all is over, and one task behind it is done
pub(super) fn run(schedule: &Schedule) -> Seen {
    run_test(follow(schedule))
}

async fn follow(schedule: &Schedule) -> Seen {
    let period = Duration::from_millis(schedule.setting(Knob::Heartbeat).expect("a heartbeat"));
    let rig = Rig::with(|config| config.heartbeat = Some(period), |journal| journal).await;
    let proxy = rig.proxy(Profile::Calm).await;
    let via = endpoint(proxy.local_addr());
    forget(&[via.to_string(), rig.address.to_string()]);
    let mut link = link(key("w0", Role::Worker), &via);
    // As patient as the simulator's worker.
    link.handshake_time = LinkConfig::new(link.key.clone(), link.boot, &via.to_string()).handshake_time;
    let worker = rig.worker_with(link, via.clone(), |_| {});
    worker.connected().await;
    let faults = schedule.entries.iter().filter_map(|entry| Some((entry.at, fault(&entry.what)?)));
    let ends = schedule.entries.iter().filter_map(|entry| Some(entry.at + fault(&entry.what)?.span)).max();
    let start = Instant::now();
    let working = async {
        for entry in &schedule.entries {
            let What::Submit(task) = &entry.what else { continue };
            Timer::at(start + entry.at).await;
            let script = format!("head -c {} /dev/zero; sleep {}", task.prints, task.takes.as_secs_f64());
            rig.submit(&task.number.to_string(), shell(&script).encode()).await;
        }
    };
    future::zip(proxy.follow(faults), working).await;
    Timer::at(start + ends.unwrap_or_default()).await;
    // What waits for a message has had its effect, or ended the connection.
    for entry in &schedule.entries {
        let Some(fault) = fault(&entry.what) else { continue };
        until(async || proxy.counts().felt(fault.kind) > 0).await;
    }
    assert_eq!(rig.done("last", &shell("true")).await.outcome, Outcome::Succeeded);
    let seen = || seen(&via.to_string(), &rig.address.to_string());
    until(async || seen().is_settled()).await;
    seen()
}

fn fault(what: &What) -> Option<Fault> {
    let What::Fault(fault) = what else { return None };
    let towards = match fault.towards {
        Side::Peer => End::Peer,
        Side::Coordinator => End::Coordinator,
    };
    let kind = Kind::named(fault.kind.name()).expect("a fault of connections");
    Some(Fault { kind, whom: Whom::Place(0), towards, span: fault.span, amount: fault.amount, after: fault.after })
}

fn seen(peer: &str, coordinator: &str) -> Seen {
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    let of = |end: &str, at: &str| {
        let all = lines.iter().filter(|((whose, place, _), _)| whose == end && place == at);
        all.map(|(_, events)| events.clone()).collect()
    };
    Seen { peer: of("peer", peer), coordinator: of("coordinator", coordinator) }
}

/// The system gives ports that were left to somebody else: what is known of these is of an earlier schedule
fn forget(addresses: &[String]) {
    let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
    lines.retain(|(_, at, _), _| !addresses.contains(at));
}

/// Takes the lines that say what machines see of their transports
struct Recorder;

#[derive(Default)]
struct Line {
    end: String,
    at: String,
    conn: u64,
    what: String,
}

impl Visit for Line {
    fn record_u64(&mut self, _: &Field, value: u64) {
        self.conn = value;
    }

    fn record_str(&mut self, _: &Field, value: &str) {
        self.end = value.to_owned();
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let to = if field.name() == "at" { &mut self.at } else { &mut self.what };
        *to = format!("{value:?}");
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == TARGET
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line::default();
        event.record(&mut line);
        let mut lines = LINES.lock().unwrap_or_else(PoisonError::into_inner);
        lines.entry((line.end, line.at, line.conn)).or_default().push(line.what);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
