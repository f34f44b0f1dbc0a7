//! Many small worlds, each broken in its own way by its seed; every task still ends exactly once

use std::time::Duration;

use rejoin_core::wire::message::Outcome;
use rejoin_sim::{Job, JournalMode, Setup, Side, World};

/// SplitMix64
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % bound
    }
}

/// What one seed did
#[derive(Default)]
struct Seen {
    tasks: usize,
    disruptions: u64,
    resumed: u64,
    opened: u64,
    client_ends: usize,
}

fn world_of(seed: u64) -> World {
    World::new(Setup {
        workers: 3,
        clients: 1,
        seed,
        coordinator: |config| {
            config.heartbeat = Some(Duration::from_millis(500));
            config.lost_after = Duration::from_secs(8);
            config.session_lifetime = Duration::from_secs(12);
            config.crashes_max = 1000;
            config.losses_max = 1000;
        },
        worker: |config| {
            config.slots = 2;
            config.prefetch = 1;
            config.link.heartbeat = Some(Duration::from_millis(500));
            config.link.backoff.cap = Duration::from_secs(1);
            config.link.backoff.slow_min = Duration::from_secs(1);
            config.link.backoff.slow_max = Duration::from_secs(2);
        },
        client: |config| {
            config.link.heartbeat = Some(Duration::from_millis(500));
            config.link.backoff.cap = Duration::from_secs(1);
            config.link.backoff.slow_min = Duration::from_secs(1);
            config.link.backoff.slow_max = Duration::from_secs(2);
        },
    })
}

fn job(draws: &mut Draws) -> Job {
    let mut job = Job::takes(Duration::from_micros(draws.below(400_000)));
    job.prints = (0..draws.below(5).pow(7)).map(|n| (n * 31) as u8).collect();
    job.returns = vec![7; draws.below(300) as usize];
    job
}

fn disrupt(world: &mut World, draws: &mut Draws, crashed: &mut Vec<usize>) {
    let peer = draws.below(4) as usize;
    let worker = draws.below(3) as usize;
    let side = if draws.below(2) == 0 { Side::Peer } else { Side::Coordinator };
    match draws.below(9) {
        0 | 1 => world.reset(peer),
        2 => world.half_open(peer, side),
        3 => world.reset_seen_by(peer, side),
        4 => world.corrupt_next(peer, side),
        5 => world.deliver_old_closes(peer),
        6 if !crashed.contains(&worker) => {
            if draws.below(2) == 0 {
                world.crash(worker);
            } else {
                world.crash_unnoticed(worker);
            }
            crashed.push(worker);
        }
        7 if draws.below(3) == 0 => world.restart_coordinator(),
        7 => world.wire(peer).latency = Duration::from_micros(draws.below(80_000)),
        _ => world.journal.mode = JournalMode::Syncs(Duration::from_micros(draws.below(50_000))),
    }
    if draws.below(3) == 0
        && let Some(worker) = crashed.pop()
    {
        world.restart(worker);
    }
}

fn run(seed: u64) -> Seen {
    let mut draws = Draws(seed);
    let mut world = world_of(seed);
    let mut tasks = Vec::new();
    let mut crashed = Vec::new();
    let mut seen = Seen::default();
    for round in 0..40 {
        if draws.below(2) == 0 {
            let name = format!("task {round}");
            let job = job(&mut draws);
            let by_client = draws.below(3) == 0;
            let task = if by_client { world.submit_by_client(0, &name, job) } else { world.submit(&name, job) };
            tasks.push((task, by_client));
        }
        if draws.below(8) == 0
            && let Some((task, _)) = tasks.last()
        {
            // A client's submit may still be on its way.
            let _ = world.tell_coordinator(rejoin_core::coordinator::Input::Cancel { task: *task });
        }
        if draws.below(3) > 0 {
            disrupt(&mut world, &mut draws, &mut crashed);
            seen.disruptions += 1;
        }
        world.run_for(Duration::from_micros(draws.below(700_000)));
    }
    // Heal: everything must end.
    while let Some(worker) = crashed.pop() {
        world.restart(worker);
    }
    for peer in 0..4 {
        world.wire(peer).latency = Duration::from_millis(1);
    }
    world.drive_until("every task ends after the network has healed", |world| {
        tasks.iter().all(|(task, _)| world.outcome(*task).is_some())
    });
    let followed: Vec<_> = tasks.iter().filter(|(_, by_client)| *by_client).map(|(task, _)| *task).collect();
    world.drive_until("the client learns every outcome", |world| {
        followed.iter().all(|task| world.client(0).task(*task).is_some_and(|task| task.end.is_some()))
    });
    world.audit();
    // Whatever the network does, nobody who keeps to the rules is found to break them.
    assert_eq!(world.coordinator.stats().violations, 0);
    assert!((0..3).all(|n| world.worker(n).stats().violations == 0) && world.client(0).stats().violations == 0);
    for task in &followed {
        let (outcome, ..) = world.client(0).task(*task).and_then(|task| task.end).expect("it ended");
        assert_eq!(Some(outcome), world.outcome(*task), "client and coordinator agree");
        seen.client_ends += 1;
    }
    for (task, _) in &tasks {
        let outcome = world.outcome(*task);
        assert!(matches!(outcome, Some(Outcome::Succeeded | Outcome::Cancelled)), "{task} ended as {outcome:?}");
    }
    world.run_for(Duration::from_secs(60));
    seen.tasks = tasks.len();
    seen.resumed = world.coordinator.stats().resumed;
    seen.opened = world.coordinator.stats().opened;
    seen
}

#[test]
fn every_accepted_task_ends_exactly_once_whatever_breaks() {
    let seeds = std::env::var("REJOIN_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(300);
    let first = std::env::var("REJOIN_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut total = Seen::default();
    for seed in first..first + seeds {
        let seen = std::panic::catch_unwind(|| run(seed))
            .unwrap_or_else(|_| panic!("seed {seed} failed (REJOIN_SEED={seed} REJOIN_SEEDS=1 runs it alone)"));
        total.tasks += seen.tasks;
        total.disruptions += seen.disruptions;
        total.resumed += seen.resumed;
        total.opened += seen.opened;
        total.client_ends += seen.client_ends;
    }
    println!(
        "{seeds} seeds: {} tasks, {} disruptions, {} resumes, {} new sessions, {} outcomes at clients",
        total.tasks, total.disruptions, total.resumed, total.opened, total.client_ends
    );
    // A swarm that broke nothing has shown nothing.
    assert!(total.resumed as usize > seeds as usize && total.client_ends > 0 && total.disruptions > seeds);
}
