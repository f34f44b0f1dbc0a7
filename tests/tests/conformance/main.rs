//! One schedule in the simulator and on real sockets: machines see the same of their transports
//!
//! What is compared are the kinds of events and their order, connection by connection and end by end. Each difference is
//! a bug of the virtual socket.

mod real;
mod simulated;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use rejoin_sim::schedule::Schedule;

/// Seeds that a schedule is simulated with: which of two timers is first, where both are due, is drawn
const SEEDS: u64 = 16;
/// Schedules that are run at a time: they mostly wait
const AT_A_TIME: usize = 8;

/// What one end sees of a connection
type Events = Vec<String>;

/// What both ends see of the connections between them, in the order in which these begin
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Seen {
    peer: Vec<Events>,
    coordinator: Vec<Events>,
}

impl Seen {
    /// The same without what is up to timing: how many messages arrive, and how often the same happens again
    fn canonical(&self) -> Seen {
        let mut seen = self.clone();
        for events in seen.peer.iter_mut().chain(&mut seen.coordinator) {
            events.dedup();
            // Bytes behind a damaged message that are no frame end the transport before the machine is asked, or after.
            if let [.., lost, closes] = events.as_slice()
                && lost == "lost"
                && closes.starts_with("closes")
            {
                events.remove(events.len() - 2);
            }
        }
        for events in &mut seen.peer {
            // The system accepts in front of a proxy, whatever becomes of the dial.
            if events.len() == 3 && events[1] == "opened" && events[2] != "hears" {
                events.remove(1);
            }
        }
        seen.peer.dedup();
        seen.coordinator.dedup();
        seen
    }

    /// Whether all is over but for a last connection, on which both ends have heard something
    fn is_settled(&self) -> bool {
        [&self.peer, &self.coordinator].into_iter().all(|all| {
            let open = |events: &Events| events.last().is_some_and(|last| last == "hears");
            all.last().is_some_and(open) && all.iter().rev().skip(1).all(|events| !open(events))
        })
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (end, all) in [("peer", &self.peer), ("coordinator", &self.coordinator)] {
            for (n, events) in all.iter().enumerate() {
                writeln!(f, "  {end}, connection {n}: {}", events.join(", "))?;
            }
        }
        Ok(())
    }
}

/// Runs lines of a schedule in both worlds: what differs, if anything does
fn differs(name: &str, lines: &[&str]) -> Option<String> {
    let lines = lines.join("\n");
    let text = format!("rejoin schedule 1\nworkers 1\nsafety 20\nset heartbeat-ms 400\n{lines}");
    let schedule: Schedule = text.parse().expect("a schedule");
    let real = real::run(&schedule).canonical();
    let simulated: BTreeSet<Seen> =
        (0..SEEDS).map(|seed| simulated::run(&Schedule { seed, ..schedule.clone() }).canonical()).collect();
    let all: Vec<String> = simulated.iter().map(Seen::to_string).collect();
    let differs = !simulated.contains(&real);
    differs.then(|| format!("{name}:\n{lines}\nreal sockets:\n{real}simulated:\n{}", all.join("  or\n")))
}

#[test]
fn machines_see_the_same_of_transports_in_the_simulator_and_on_real_sockets() {
    real::record();
    let (next, differences) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let work = || {
            while let Some((name, lines)) = SCHEDULES.get(next.fetch_add(1, Ordering::Relaxed)) {
                let differs = differs(name, lines);
                differences.lock().expect("no panic").extend(differs);
            }
        };
        (0..AT_A_TIME).map(|_| scope.spawn(work)).for_each(drop);
    });
    let differences = differences.into_inner().expect("no panic");
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

const SCHEDULES: &[(&str, &[&str])] = &[
    ("nothing", &["0.5 submit c0 task=1 takes=1"]),
    ("reset", &["1.0 reset w0"]),
    ("reset beside work", &["0.5 submit c0 task=1 takes=2 prints=100000", "1.0 reset w0"]),
    ("reset behind bytes for the peer", &["1.0 reset-after w0 towards=peer amount=60"]),
    ("reset behind bytes for the coordinator", &["1.0 reset-after w0 towards=coordinator amount=60"]),
    ("close", &["1.0 close w0"]),
    ("half close for the peer", &["1.0 half-close w0 towards=peer"]),
    ("half close for the coordinator", &["1.0 half-close w0 towards=coordinator"]),
    ("half open for the peer", &["1.0 half-open w0 towards=peer"]),
    ("half open for the coordinator", &["1.0 half-open w0 towards=coordinator"]),
    ("dead", &["1.0 dead w0"]),
    ("cut seen by the peer", &["1.0 cut-seen-by w0 towards=peer"]),
    ("cut seen by the coordinator", &["1.0 cut-seen-by w0 towards=coordinator"]),
    ("late close for the peer", &["1.0 late-close w0 towards=coordinator for=0.5"]),
    ("late close for the coordinator", &["1.0 late-close w0 towards=peer for=0.5"]),
    ("ghost", &["1.0 ghost w0"]),
    ("refuse", &["1.0 refuse w0 for=1.5", "1.1 reset w0"]),
    ("accept reset", &["1.0 accept-reset w0 for=1 amount=150000", "1.1 reset w0"]),
    ("mute", &["1.0 mute w0 for=5", "1.1 reset w0"]),
    ("hang", &["1.0 hang w0 for=13", "1.1 reset w0"]),
    ("hang for a moment", &["1.0 hang w0 for=2", "1.1 reset w0"]),
    ("partition", &["1.0 partition w0 for=0.5"]),
    ("partition past the patience", &["1.0 partition w0 for=4"]),
    ("slow dial", &["1.0 slow-dial w0 for=2 amount=700000", "1.1 reset w0"]),
    ("stall for the peer", &["1.0 stall w0 towards=peer for=0.5"]),
    ("stall for the coordinator", &["1.0 stall w0 towards=coordinator for=0.5"]),
    ("stall past the patience", &["1.0 stall w0 towards=peer for=3"]),
    ("blocked", &["1.0 blocked w0 towards=coordinator for=0.5"]),
    ("truncate for the peer", &["1.0 truncate w0 towards=peer amount=9"]),
    ("truncate for the coordinator", &["1.0 truncate w0 towards=coordinator amount=9"]),
    ("lie", &["1.0 lie w0 towards=peer amount=20"]),
    ("lie beyond all limits", &["1.0 lie w0 towards=coordinator amount=100000"]),
    ("flip for the peer", &["1.0 flip w0 towards=peer amount=100"]),
    ("flip for the coordinator", &["1.0 flip w0 towards=coordinator amount=100"]),
    ("drop for the peer", &["1.0 drop w0 towards=peer"]),
    ("drop for the coordinator", &["1.0 drop w0 towards=coordinator after=2"]),
    ("duplicate for the peer", &["1.0 duplicate w0 towards=peer"]),
    ("duplicate for the coordinator", &["1.0 duplicate w0 towards=coordinator"]),
    ("swap", &["1.0 swap w0 towards=coordinator"]),
    ("insert", &["1.0 insert w0 towards=peer amount=50"]),
    ("snip", &["1.0 snip w0 towards=peer amount=20"]),
];
