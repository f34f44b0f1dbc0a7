//! Links of all kinds of slowness, side by side: how long a worker takes to come back over each

use std::time::{Duration, Instant};

use rejoin_smol::chaos::{End, Fault, Kind};

use crate::stress::boxes;
use crate::stress::findings::Table;
use crate::stress::fleet::{Fleet, Plan};
use crate::stress::hits::{Notice, noticed};
use crate::stress::judge::Expected;
use crate::stress::load::{Job, Load};
use crate::stress::scenario::{Planted, Scenario, Stage, Trouble, pause};
use crate::stress::task::Work;

pub(in crate::stress) const SCENARIO: Scenario = Scenario {
    name: "slow-link",
    says: "24 links at a time: 0, 50, 500 ms of latency, 0, 1, 5, 20 % of loss, full or 64 kbit/s, each cut twice and more",
    caught: &[Planted::Bug(2)],
    play: |stage| Box::pin(play(stage)),
};

/// One way, in milliseconds
const LATENCIES_MS: [u64; 3] = [0, 50, 500];
/// In percent
const LOSSES: [u64; 4] = [0, 1, 5, 20];
/// Bytes per second; none is as much as there is
const RATES: [Option<u64>; 2] = [None, Some(8000)];
/// Longer than all of this takes
const FOR_GOOD: Duration = Duration::from_secs(86_400);
/// Packets in a second, each of which may be lost
const PACKETS_PER_S: u64 = 10;
/// What a lost packet costs first; twice as much each time that it is lost again
const RESENT_AFTER: Duration = Duration::from_millis(200);

#[derive(Clone, Copy)]
struct Cell {
    latency_ms: u64,
    loss: u64,
    rate: Option<u64>,
}

impl Cell {
    /// The same for a packet box
    fn conditions(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut add = |option: &str, value: String| all.extend([option.to_owned(), value]);
        if self.latency_ms > 0 {
            add("--delay", format!("{}ms", self.latency_ms));
        }
        if self.loss > 0 {
            add("--loss", format!("{}%", self.loss));
        }
        if let Some(rate) = self.rate {
            add("--bandwidth", format!("{}kbit", rate * 8 / 1000));
        }
        all
    }
}

async fn play(stage: &mut Stage) -> Result<(), Trouble> {
    let mut cells = Vec::new();
    for latency_ms in LATENCIES_MS {
        for loss in LOSSES {
            cells.extend(RATES.map(|rate| Cell { latency_ms, loss, rate }));
        }
    }
    let mut plan = Plan::of(cells.len(), 2);
    let unavailable = boxes::unavailable(&stage.setting.program)?;
    let boxed = unavailable.is_none();
    // Longer than a round trip and what a packet costs that is lost twice.
    plan.heartbeat = Duration::from_secs(if boxed { 5 } else { 2 });
    if boxed {
        plan.boxes = cells.iter().map(Cell::conditions).collect();
    }
    let means = unavailable.map_or("that of packets, in packet boxes".to_owned(), |why| {
        format!("stalls in the proxy, since there can be no packet box here: {why}")
    });
    stage.findings.check(None, "what loss is", true, means);
    let mut fleet = stage.fleet(plan).await?;
    let load = Load::start(&fleet, 0)?;
    // Where there are boxes, they do all of it.
    let lossy: Vec<Cell> = if boxed { Vec::new() } else { cells.clone() };
    lossy.iter().enumerate().for_each(|(n, cell)| slow_down(&fleet, n, *cell));
    let work = Work { steps: 2, step_ms: 100, result_bytes: 3000, output_bytes: 500, ..Work::default() };
    let tasks = stage.pick(4, 30);
    for n in 0..cells.len() {
        load.submit_all(tasks, Job { only: Some(n), ..Job::of(work) })?;
    }
    let cuts = stage.pick(2, 8);
    for _ in 0..cuts {
        // Each is cut once, as soon as it is connected, and all go on until that is mended.
        let mut left: Vec<usize> = (0..cells.len()).collect();
        let begun = Instant::now();
        while !left.is_empty() {
            if begun.elapsed() > Duration::from_secs(60) {
                return Err(Trouble::rule(
                    "L2",
                    format!("{} links were not to be cut: nobody was connected", left.len()),
                ));
            }
            lose(stage, &fleet, &lossy);
            pause(Duration::from_millis(100)).await;
            fleet.look()?;
            for n in std::mem::take(&mut left) {
                if fleet.is_connected(n) && begun.elapsed() > Duration::from_secs(1) {
                    cut(&mut fleet, n, boxed);
                } else {
                    left.push(n);
                }
            }
        }
        let begun = Instant::now();
        while fleet.connected_now()? < cells.len() && begun.elapsed() < Duration::from_secs(30) {
            lose(stage, &fleet, &lossy);
            pause(Duration::from_millis(100)).await;
        }
    }
    let begun = Instant::now();
    while load.open() > 0 && begun.elapsed() < Duration::from_secs(30 + 3 * tasks as u64) {
        lose(stage, &fleet, &lossy);
        pause(Duration::from_millis(100)).await;
    }
    let marks = table(&fleet, &cells);
    let expected = Expected {
        tasks: (cells.len() * tasks) as u64,
        faults: (cells.len() * cuts) as u64,
        resume_half_max: Duration::from_secs(6),
        end_within: Duration::from_secs(90),
        redone_max_percent: 0,
        unplanned_max: cells.len(),
        // A handshake that had packets lost may take ten seconds, and the pause behind it as long.
        resume_max: Duration::from_secs(60),
        back_within: Duration::from_secs(60),
    };
    let lost = stage.conclude_with(fleet, vec![load], expected, |fleet| lost(fleet, cells.len(), boxed)).await??;
    report(stage, &cells, marks, &lost);
    Ok(())
}

/// Packets that were lost in each box
fn lost(fleet: &Fleet, cells: usize, boxed: bool) -> Result<Vec<(u64, u64)>, Trouble> {
    let cells = if boxed { cells } else { 0 };
    (0..cells).map(|n| fleet.packets_lost(n).map_err(Trouble::from)).collect()
}

/// What a link is like from now on
fn slow_down(fleet: &Fleet, n: usize, cell: Cell) {
    let cable = &fleet.workers[n].cable;
    let fault = |kind, towards, amount| Fault { towards, amount, ..Fault::of_all(kind).lasting(FOR_GOOD) };
    if cell.latency_ms > 0 {
        cable.strike(fault(Kind::Far, End::Peer, cell.latency_ms * 1000));
    }
    for towards in [End::Peer, End::Coordinator] {
        if let Some(rate) = cell.rate {
            cable.strike(fault(Kind::Bandwidth, towards, rate));
        }
    }
}

/// Packets are lost for a tenth of a second: what is behind them waits until they were sent again
fn lose(stage: &mut Stage, fleet: &Fleet, cells: &[Cell]) {
    for (n, cell) in cells.iter().enumerate() {
        for towards in [End::Peer, End::Coordinator] {
            if stage.below(1000) as u64 >= cell.loss * PACKETS_PER_S {
                continue;
            }
            let mut span = RESENT_AFTER;
            while (stage.below(100) as u64) < cell.loss {
                span *= 2;
            }
            fleet.workers[n].cable.strike(Fault { towards, ..Fault::of_all(Kind::Stall).lasting(span) });
        }
    }
}

fn cut(fleet: &mut Fleet, n: usize, boxed: bool) {
    // The coordinator's end is beside it; what the worker learns may have to be sent again and again.
    let coordinator = Some(Duration::from_secs(3));
    let worker = Some(Duration::from_secs(if boxed { 20 } else { 3 }));
    fleet.strike(n, Fault::of_all(Kind::Reset), Notice { worker, coordinator, silent: false });
}

/// How long each worker took to come back
fn table(fleet: &Fleet, cells: &[Cell]) -> Vec<Vec<u64>> {
    let all = noticed(fleet);
    let of = |n| {
        let own = all.iter().filter(move |noticed| noticed.worker == n);
        let mut times: Vec<u64> = own.filter_map(|noticed| noticed.resumed).collect();
        times.sort_unstable();
        times
    };
    (0..cells.len()).map(of).collect()
}

fn report(stage: &mut Stage, cells: &[Cell], times: Vec<Vec<u64>>, lost: &[(u64, u64)]) {
    let mut rows = Vec::new();
    let mut whole = Vec::new();
    for (n, (cell, times)) in cells.iter().zip(times).enumerate() {
        let ms = |time: Option<&u64>| time.map_or("-".to_owned(), |time| format!("{} ms", time / 1000));
        let packets = lost.get(n).map_or("-".to_owned(), |(lost, all)| format!("{lost} of {all}"));
        if lost.get(n).is_some_and(|(lost, _)| cell.loss >= 5 && *lost == 0) {
            whole.push(format!("w{n}"));
        }
        rows.push(vec![
            format!("{} ms", cell.latency_ms),
            format!("{} %", cell.loss),
            cell.rate.map_or("full".to_owned(), |rate| format!("{} kbit/s", rate * 8 / 1000)),
            times.len().to_string(),
            ms(times.get(times.len().saturating_sub(1) / 2)),
            ms(times.last()),
            packets,
        ]);
    }
    stage.findings.check_none(None, "where 5 % and more are to be lost, some are, but for", &whole);
    let head = ["latency", "loss", "rate", "cuts", "resumed in (half)", "resumed in (all)", "packets lost"];
    let title = match lost.is_empty() {
        true => "Time to resume by link; loss as stalls of 0.2, 0.4, 0.8 s in the proxy",
        false => "Time to resume by link; loss of packets beneath the system's TCP",
    };
    let head = head.map(str::to_owned).to_vec();
    stage.findings.tables.push(Table { title: title.to_owned(), head, rows });
}
