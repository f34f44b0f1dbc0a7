//! What tasks need of workers: labels that are there, and amounts that are free (TASK-9)

mod common;

use common::{connected, ms, secs};
use rejoin_core::about::{About, Tag, Tags};
use rejoin_core::coordinator::{Input, TaskState, Why};
use rejoin_core::ids::TaskId;
use rejoin_core::wire::message::TaskSpec;
use rejoin_sim::{Job, Setup, World};

/// Worker 0 has two units and worker 1 has a label; both take several tasks at a time
fn fleet() -> World {
    connected(Setup {
        workers: 2,
        worker: |config| {
            (config.slots, config.prefetch) = (4, 4);
            let (name, tag) = match config.link.key.name.as_str() {
                "worker-0" => ("gpu", Tag::Amount(2)),
                _ => ("os", Tag::Label("linux".into())),
            };
            config.offers.insert(name, tag).expect("legal");
        },
        ..Setup::default()
    })
}

fn submit(world: &mut World, name: &str, needs: &[(&str, Tag)], takes: Job) -> TaskId {
    let task = world.plan(name, takes);
    let mut tags = Tags::default();
    needs.iter().for_each(|(name, tag)| tags.insert(name, tag.clone()).expect("legal"));
    let about = About { title: name.into(), needs: tags, ..About::default() }.encode().expect("short");
    let input = Input::Submit { task, spec: TaskSpec::default(), about: &about, payload: name.as_bytes() };
    world.tell_coordinator(input).expect("legal");
    task
}

#[test]
fn task_9_a_worker_is_given_no_more_than_it_has_free_of_an_amount() {
    let mut world = fleet();
    let gpu = |n| ("gpu", Tag::Amount(n));
    let tasks: Vec<TaskId> =
        (0..6).map(|n| submit(&mut world, &format!("one {n}"), &[gpu(1)], Job::takes(ms(100)))).collect();
    let both = submit(&mut world, "both", &[gpu(2)], Job::takes(ms(100)));
    let mut most = 0;
    let all: Vec<TaskId> = tasks.iter().copied().chain([both]).collect();
    world.drive_until("all are over", |world| {
        // What is at the worker takes its amount, whether it runs yet or not.
        let held = |task: &&TaskId| world.coordinator.task(**task).is_some_and(|t| t.state == TaskState::Assigned);
        let taken = all.iter().filter(held).map(|task| if *task == both { 2 } else { 1 }).sum::<u32>();
        most = most.max(taken);
        all.iter().all(|task| world.succeeded(*task))
    });
    assert_eq!(most, 2, "all there is, and no more");
    assert!(world.starts.iter().all(|start| start.3 == 0), "nobody else has any");
    world.audit();
}

#[test]
fn task_9_who_needs_nothing_goes_past_who_waits_for_an_amount() {
    let mut world = fleet();
    let gpu = ("gpu", Tag::Amount(2));
    let long = submit(&mut world, "long", std::slice::from_ref(&gpu), Job::takes(secs(10)));
    let waits = submit(&mut world, "waits", &[gpu], Job::takes(ms(1)));
    let free = submit(&mut world, "free", &[], Job::takes(ms(1)));
    world.drive_until("it is over", |world| world.succeeded(free));
    assert_eq!([long, waits].map(|task| world.coordinator.why(task)), [Some(Why::Runs), Some(Why::WorkersBusy)]);
    world.drive_until("it is over", |world| world.succeeded(waits));
    world.audit();
}

#[test]
fn task_9_who_needs_what_nobody_offers_waits_for_somebody_who_does() {
    let mut world = fleet();
    let label = |text: &str| ("os", Tag::Label(text.into()));
    let linux = submit(&mut world, "linux", &[label("linux")], Job::takes(ms(1)));
    let mac = submit(&mut world, "mac", &[label("mac")], Job::takes(ms(1)));
    let many = submit(&mut world, "many", &[("gpu", Tag::Amount(3))], Job::takes(ms(1)));
    let mixed = submit(&mut world, "mixed", &[label("linux"), ("gpu", Tag::Amount(1))], Job::takes(ms(1)));
    world.run_for(secs(10));
    assert!(world.succeeded(linux));
    assert_eq!(world.starts.iter().map(|start| start.3).collect::<Vec<_>>(), [1]);
    assert_eq!([mac, many, mixed].map(|task| world.coordinator.why(task)), [Some(Why::NothingFits); 3]);
    // Offers are of a worker's life: the next one may have more.
    world.wire(1).refuses = true;
    world.crash(1);
    world.run_for(ms(10));
    assert_eq!(world.coordinator.why(mac), Some(Why::NothingFits));
}
