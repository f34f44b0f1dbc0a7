//! From a seed to a schedule
//!
//! What a seed breaks is decided before anything runs: each kind of fault on its own stream, so that a new kind moves
//! none of the others. Leaving out is the point: most seeds have few kinds, so that what one of them does is not
//! covered up by another.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rejoin_core::terms::{Class, OnReturn, Replace, Span, Terms};

use crate::draws::{Draws, Purpose};
use crate::menu::{Kind, Scope};
use crate::net::Side;
use crate::schedule::{Entry, Fault, Knob, Node, Schedule, Setting, Task, WORKERS_MAX, What};
use crate::wild;

/// How wide the net is cast
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// 8 workers, a minute of faults: for every change
    Standard,
    /// 1 to 64 workers, now and then hundreds, minutes of faults, and settings to match
    Wide,
    /// Stories and extreme values, of the second generator
    Wild,
}

impl FromStr for Profile {
    type Err = String;

    fn from_str(text: &str) -> Result<Profile, String> {
        match text {
            "standard" => Ok(Profile::Standard),
            "wide" => Ok(Profile::Wide),
            "wild" => Ok(Profile::Wild),
            _ => Err(format!("{text} is no profile: standard, wide or wild")),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Profile::Standard => "standard",
            Profile::Wide => "wide",
            Profile::Wild => "wild",
        })
    }
}

/// What is not as the profile says
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Workers
    pub workers: Option<u16>,
    /// How long faults may happen; tasks become as many more
    pub safety: Option<Duration>,
}

/// The tasks of a flood are numbered from here
const FLOOD_FROM: u32 = 1_000_000;
/// With the largest inputs, more than four mebibytes
const FLOOD_TASKS: u32 = 100;
/// The tasks that outlast their leases are numbered from here
const OUTLAST_FROM: u32 = 2_000_000;
/// Workers whose answers are long under way
const OUTLASTED: u16 = 4;
/// Most tasks of a schedule that is made longer
const TASKS_MAX: u64 = 20_000;

/// How many in a thousand of the seeds with many kinds have one that takes away what was promised
const DRASTIC: u64 = 40;

/// Makes the schedule of a seed
pub fn generate(seed: u64, profile: Profile) -> Schedule {
    generate_sized(seed, profile, Size::default())
}

/// Makes the schedule of a seed with another size
pub fn generate_sized(seed: u64, profile: Profile, size: Size) -> Schedule {
    if profile == Profile::Wild {
        let mut schedule = wild::generate(seed);
        schedule.workers = size.workers.unwrap_or(schedule.workers);
        schedule.safety = size.safety.unwrap_or(schedule.safety);
        return schedule;
    }
    let mut draws = Draws::new(seed, Purpose::Settings, 0);
    let mut schedule = Schedule::quiet(seed);
    (schedule.workers, schedule.clients) = (8, 2);
    if profile == Profile::Wide {
        schedule.workers = match draws.below(100) {
            0..2 => draws.between(200, 400) as u16,
            _ => draws.between_log(1, 64) as u16,
        };
        schedule.clients = draws.between(1, 4) as u16;
        schedule.safety = Duration::from_secs(draws.between_log(20, 240));
    }
    let usual = schedule.safety;
    schedule.workers = size.workers.unwrap_or(schedule.workers).clamp(1, WORKERS_MAX);
    schedule.safety = size.safety.unwrap_or(usual);
    schedule.settings = settings(seed, &mut draws);
    load(&mut schedule, profile, usual);
    let served = served(seed);
    if Draws::new(seed, Purpose::Keeps, 0).one_in(600) || served.iter().any(|(kind, _)| kind.is_of_stores()) {
        schedule.settings.push(Setting { name: Knob::Keeps, value: 1 });
    }
    for (kind, per_minute) in served {
        serve(&mut schedule, kind, per_minute);
    }
    schedule.sort();
    schedule
}

/// Which kinds of fault a seed has, and how often each in a minute
fn served(seed: u64) -> Vec<(Kind, f64)> {
    let mut draws = Draws::new(seed, Purpose::Menu, 0);
    let rate = |draws: &mut Draws, kind: Kind| draws.between_log(500, kind.dish().per_minute * 1000) as f64 / 1000.0;
    let all = Kind::ALL;
    match draws.below(100) {
        0..10 => Vec::new(),
        10..20 => {
            let kind = *draws.pick(all);
            vec![(kind, kind.dish().per_minute as f64)]
        }
        // Two at a time, each pair in its turn.
        20..40 => {
            let pair = draws.below((all.len() * (all.len() - 1)) as u64) as usize;
            let (first, second) = (pair / (all.len() - 1), pair % (all.len() - 1));
            let second = if second >= first { second + 1 } else { second };
            [first, second].map(|n| (all[n], all[n].dish().per_minute as f64)).into()
        }
        _ => {
            let mut served = Vec::new();
            for kind in all {
                let mut draws = Draws::new(seed, Purpose::Menu, kind.stream());
                if draws.one_in(if kind.is_drastic() { DRASTIC } else { 500 }) {
                    served.push((*kind, rate(&mut draws, *kind)));
                }
            }
            served
        }
    }
}

/// Puts a kind of fault into the schedule, so often a minute
fn serve(schedule: &mut Schedule, kind: Kind, per_minute: f64) {
    let mut draws = Draws::new(schedule.seed, Purpose::Fault, kind.stream());
    let dish = kind.dish();
    let expected = per_minute * schedule.safety.as_secs_f64() / 60.0;
    // A fraction of one is one now and then.
    let whole = expected.floor() as u64 + u64::from(draws.below(1000) < (expected.fract() * 1000.0) as u64);
    // In a large fleet as often for each of its members as in one of eight.
    let many =
        if dish.scope == Scope::Coordinator { 1.0 } else { (f64::from(schedule.workers) / 8.0).clamp(1.0, 16.0) };
    for _ in 0..(whole as f64 * many) as u64 {
        let at = Duration::from_micros(draws.below(schedule.safety.as_micros() as u64));
        let node = match dish.scope {
            Scope::Coordinator => Node::Coordinator,
            Scope::Worker => Node::Worker(draws.below(schedule.workers.into()) as u16),
            Scope::Link if draws.one_in(200) => Node::Client(draws.below(schedule.clients.into()) as u16),
            Scope::Link => Node::Worker(draws.below(schedule.workers.into()) as u16),
            Scope::Anybody => match draws.below(10) {
                0 => Node::Coordinator,
                1 => Node::Client(draws.below(schedule.clients.into()) as u16),
                _ => Node::Worker(draws.below(schedule.workers.into()) as u16),
            },
        };
        let towards = if !dish.directed || draws.one_in(500) { Side::Peer } else { Side::Coordinator };
        let span = match dish.span_ms {
            (0, 0) => Duration::ZERO,
            (low, high) => Duration::from_micros(draws.between_log(low * 1000, high * 1000)),
        };
        let amount = match dish.amount {
            (0, 0) => 0,
            (0, high) => draws.below(high + 1),
            (low, high) => draws.between_log(low, high),
        };
        let fault = Fault { kind, node, towards, span, amount, after: 0 };
        schedule.entries.push(Entry { at, what: What::Fault(fault) });
    }
}

/// Settings away from their defaults, tiny ones among them
fn settings(seed: u64, draws: &mut Draws) -> Vec<Setting> {
    let ranges: [(Knob, u64, u64); 15] = [
        (Knob::Heartbeat, 200, 4_000),
        (Knob::LostAfter, 500, 10_000),
        (Knob::RecoveryWindow, 500, 10_000),
        (Knob::SessionLifetime, 200, 20_000),
        (Knob::BackoffCap, 100, 4_000),
        (Knob::Slots, 1, 6),
        (Knob::Prefetch, 0, 4),
        (Knob::AttemptsMax, 1, 32),
        (Knob::CrashesMax, 1, 6),
        (Knob::RetryPause, 1, 1_000),
        (Knob::SyncTakes, 1, 50_000),
        (Knob::Latency, 10, 100_000),
        (Knob::SendBuffer, 500, 200_000),
        (Knob::Ageing, 1, 60_000),
        (Knob::LossesMax, 2, 20),
    ];
    let mut settings = Vec::new();
    for (name, low, high) in ranges {
        if draws.one_in(350) {
            let value = if low == 0 { draws.between(low, high) } else { draws.between_log(low, high) };
            settings.push(Setting { name, value });
        }
    }
    for (name, value, per_mille) in [
        (Knob::Compress, 0, 200),
        (Knob::NoReplay, 1, 50),
        (Knob::AdmissionRate, draws.between_log(4, 200), 100),
        (Knob::Compare, draws.between(1, 2), 15),
        (Knob::TasksMax, draws.between_log(10, 100), 50),
        (Knob::PendingMax, draws.between(2, 12), 50),
        (Knob::OutputMax, draws.between_log(1, 60_000), 50),
        (Knob::CheckpointsMax, draws.between_log(1, 1_000), 50),
        (Knob::CheckpointEvery, draws.between_log(1_000, 20_000), 200),
    ] {
        if draws.one_in(per_mille) {
            settings.push(Setting { name, value });
        }
    }
    let mut leases = Draws::new(seed, Purpose::Terms, u64::MAX - 1);
    for (name, low, high) in [(Knob::LeaseTtl, 300, 10_000), (Knob::LeaseGrace, 10, 3_000)] {
        if leases.one_in(600) {
            settings.push(Setting { name, value: leases.between_log(low, high) });
        }
    }
    settings
}

/// Tasks of all kinds, in bursts and alone
fn load(schedule: &mut Schedule, profile: Profile, usual: Duration) {
    let mut draws = Draws::new(schedule.seed, Purpose::Load, 0);
    let safety = schedule.safety.as_micros() as u64;
    let count = if profile == Profile::Wide { draws.between_log(20, 600) } else { draws.between(36, 70) };
    // In a time that was made longer or shorter as many a minute.
    let count = if schedule.safety == usual {
        count
    } else {
        let share = schedule.safety.as_secs_f64() / usual.as_secs_f64();
        ((count as f64 * share).ceil() as u64).min(TASKS_MAX)
    };
    if draws.one_in(15) {
        flood(schedule, &mut draws);
    }
    let mut bind = Draws::new(schedule.seed, Purpose::Terms, u64::MAX);
    let bound = bind.one_in(400);
    if bound && bind.one_in(100) {
        outlast(schedule, &mut bind);
    }
    let poisonous = draws.one_in(150);
    let many_large = Draws::new(schedule.seed, Purpose::Returns, u64::MAX).one_in(25);
    let many_inputs = Draws::new(schedule.seed, Purpose::Inputs, u64::MAX).one_in(15);
    let hot = draws.one_in(200).then(|| draws.below(5) as u8);
    let mut at = 0;
    for number in 0..count as u32 {
        // In bursts: most follow each other closely.
        if draws.one_in(400) {
            at = draws.below(safety * 9 / 10);
        }
        at = (at + draws.between_log(1, 50_000)).min(safety - 1);
        let client = draws.below(schedule.clients.into()) as u16;
        let mut task = Task::new(client, number);
        task.takes = Duration::from_micros(draws.between_log(100, 3_000_000));
        task.priority = hot.unwrap_or_else(|| draws.below(5) as u8);
        // Four bytes of the number go before it, and 48 KiB is the most that fits into a message.
        task.input = match draws.below(40) {
            0 => draws.between(49_140, 49_148) as u32,
            1..15 => draws.between_log(1, 2_000) as u32,
            _ => 0,
        };
        task.prints = if draws.one_in(400) { draws.between_log(1, 20_000) as u32 } else { 0 };
        // A kibibyte is the most that a worker here says in a message; beyond, it goes in chunks (FRAME-3).
        task.returns = match draws.below(40) {
            0 => draws.between(1023, 1025) as u32,
            1..15 => draws.below(200) as u32,
            _ => 0,
        };
        let mut large = Draws::new(schedule.seed, Purpose::Returns, number.into());
        if large.below(if many_large { 8 } else { 4_000 }) == 0 {
            task.returns = large.between_log(1_100, 200_000) as u32;
        }
        let mut large = Draws::new(schedule.seed, Purpose::Inputs, number.into());
        if large.below(if many_inputs { 8 } else { 4_000 }) == 0 {
            task.input = large.between_log(49_149, 150_000) as u32;
        }
        if draws.one_in(150) {
            (task.retries, task.fails) = (draws.below(4) as u32, draws.below(4) as u32);
        }
        if draws.one_in(200) {
            task.steps = draws.between(2, 12) as u8;
            let mut saves = Draws::new(schedule.seed, Purpose::Saves, number.into());
            if saves.one_in(40) {
                task.saves = saves.between_log(45_000, 250_000) as u32;
            }
        }
        if poisonous && draws.one_in(50) {
            task.poison = if draws.one_in(500) { 1 } else { 1_000 };
        }
        if bound {
            let mut draws = Draws::new(schedule.seed, Purpose::Terms, number.into());
            task.terms = terms(&mut draws);
            if task.terms.class == Class::Exclusive && draws.one_in(300) {
                // Longer than a lease.
                task.takes = Duration::from_micros(draws.between_log(1_000_000, 20_000_000));
            }
        }
        let submit = Duration::from_micros(at);
        schedule.entries.push(Entry { at: submit, what: What::Submit(task) });
        if draws.one_in(100) {
            let after = Duration::from_micros(draws.between_log(10, 4_000_000));
            let what = What::Cancel { client, task: number };
            schedule.entries.push(Entry { at: (submit + after).min(schedule.safety), what });
        }
        if draws.one_in(60) && schedule.clients > 1 {
            let after = Duration::from_micros(draws.between_log(1, 4_000_000));
            let client = (client + 1) % schedule.clients;
            let what = if draws.one_in(300) {
                What::Clash { client, task: number }
            } else {
                What::Again { client, task: number }
            };
            schedule.entries.push(Entry { at: (submit + after).min(schedule.safety), what });
        }
    }
}

/// What may happen to a task when its worker is out of reach: mostly what is usual, never what contradicts itself
pub(crate) fn terms(draws: &mut Draws) -> Terms {
    let span = |draws: &mut Draws, low: u64, high: u64| {
        let us = draws.between_log(low * 1000, high * 1000);
        Span::try_from(Duration::from_micros(us)).ok()
    };
    let class = match draws.below(10) {
        0..4 => Class::Idempotent,
        4 => Class::Pure,
        _ => Class::Exclusive,
    };
    let mut terms = Terms { class, ..Terms::default() };
    // Within a lease nobody may have an exclusive task.
    let least = if class == Class::Exclusive { 12_000 } else { 300 };
    match draws.below(10) {
        0 => terms.replace = Replace::Never,
        1 => terms.replace = span(draws, least, 30_000).map_or(Replace::WhenLost, Replace::After),
        2 => terms.lost_after = span(draws, least, 30_000),
        _ => {}
    }
    if draws.one_in(250) && terms.replace != Replace::Never {
        terms.on_return = OnReturn::KeepReplacement;
    }
    if draws.one_in(150) {
        terms.self_stop_after = span(draws, 100, 5_000);
    }
    if draws.one_in(100) {
        terms.progress_timeout = span(draws, 500, 10_000);
    }
    if terms.validate().is_ok() { terms } else { Terms { class, ..Terms::default() } }
}

/// Exclusive tasks on links whose answers are long under way, and on which then nothing reaches the coordinator
fn outlast(schedule: &mut Schedule, draws: &mut Draws) {
    let share = |percent: u64| schedule.safety * percent as u32 / 100;
    let fault = |kind, worker, towards, span, amount| {
        What::Fault(Fault { kind, node: Node::Worker(worker), towards, span, amount, after: 0 })
    };
    // Given up for lost before its lease ends, so that the next attempt begins as soon as it may.
    let settings = [(Knob::Heartbeat, 1_000), (Knob::LostAfter, 500)];
    schedule.settings.retain(|setting| settings.iter().all(|(name, _)| *name != setting.name));
    schedule.settings.extend(settings.map(|(name, value)| Setting { name, value }));
    let mut entries = Vec::new();
    for worker in 0..schedule.workers.min(OUTLASTED) {
        let submit = Task {
            takes: Duration::from_micros(draws.between(10_000_000, 30_000_000)),
            terms: Terms { class: Class::Exclusive, ..Terms::default() },
            ..Task::new(0, OUTLAST_FROM + u32::from(worker))
        };
        let slow = fault(Kind::Delay, worker, Side::Peer, schedule.safety, draws.between(1_200_000, 2_400_000));
        let cut = fault(Kind::HalfOpen, worker, Side::Coordinator, Duration::ZERO, 0);
        entries.push(Entry { at: Duration::ZERO, what: slow });
        entries.push(Entry { at: share(draws.between(10, 20)), what: What::Submit(submit) });
        entries.push(Entry { at: share(draws.between(40, 60)), what: cut });
    }
    schedule.entries.extend(entries);
}

/// More than a window's bytes at once, from one client: they wait for each other, and for workers
fn flood(schedule: &mut Schedule, draws: &mut Draws) {
    let at = Duration::from_micros(draws.below(schedule.safety.as_micros() as u64 / 2));
    for number in FLOOD_FROM..FLOOD_FROM + FLOOD_TASKS {
        let takes = Duration::from_micros(draws.between_log(1_000, 2_000_000));
        let priority = draws.below(5) as u8;
        let task = Task { input: 48_000, takes, priority, ..Task::new(0, number) };
        schedule.entries.push(Entry { at, what: What::Submit(task) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_has_one_schedule_that_survives_being_written() {
        for profile in [Profile::Standard, Profile::Wide] {
            for seed in 0..50 {
                let schedule = generate(seed, profile);
                assert_eq!(schedule, generate(seed, profile));
                let text = schedule.to_string();
                assert!(text.parse::<Schedule>().as_ref() == Ok(&schedule), "seed {seed}, {profile}");
                assert!(schedule.tasks() >= 20);
            }
        }
    }

    #[test]
    fn another_size_has_as_many_tasks_a_minute_and_strikes_all_its_workers() {
        let plain = generate(3, Profile::Standard);
        assert_eq!(plain, generate_sized(3, Profile::Standard, Size::default()));
        let size = Size { workers: Some(20), safety: Some(Duration::from_secs(600)) };
        let large = generate_sized(3, Profile::Standard, size);
        assert_eq!((large.workers, large.safety, large.tasks()), (20, Duration::from_secs(600), plain.tasks() * 10));
        assert!(large.to_string().contains(" w19 ") && large.entries.iter().all(|entry| entry.at <= large.safety));
        let endless = Size { workers: None, safety: Some(Duration::from_secs(7 * 86_400)) };
        assert_eq!(generate_sized(3, Profile::Standard, endless).tasks() as u64, TASKS_MAX);
    }

    #[test]
    fn some_seeds_break_nothing_some_one_thing_and_every_kind_is_served() {
        let menus: Vec<_> = (0..2000).map(served).collect();
        let share = |wanted: &dyn Fn(usize) -> bool| menus.iter().filter(|menu| wanted(menu.len())).count();
        assert!((120..280).contains(&share(&|n| n == 0)), "{}", share(&|n| n == 0));
        assert!((120..280).contains(&share(&|n| n == 1)));
        assert!((280..520).contains(&share(&|n| n == 2)));
        for kind in Kind::ALL {
            assert!(menus.iter().flatten().any(|(served, _)| served == kind), "{} is never served", kind.name());
        }
    }
}
