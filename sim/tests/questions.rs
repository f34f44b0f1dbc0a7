//! What clients may ask about a coordinator, and what they are told (section 12 of PROTOCOL.md)

mod common;

use common::{connected, drive_connected, ms, noise, secs, welcomed};
use rejoin_core::Rejected;
use rejoin_core::about::{About, Tag, Tags};
use rejoin_core::client::Input;
use rejoin_core::coordinator::{self, PeerState};
use rejoin_core::ids::TaskId;
use rejoin_core::limits::{ANSWER_BYTES_MAX, ASKS_MAX, TAGS_MAX};
use rejoin_core::link::{LinkState, Reason};
use rejoin_core::wire::message::{Class, Denied, Failure, Follow, FromClient, Item, Outcome, TaskSpec, ToClient};
use rejoin_core::wire::view::{Forgetting, Page, Question, StatusView, TaskView, Why, WorkerState, WorkerView};
use rejoin_sim::{Heard, Job, JournalMode, Puppet, Setup, Side, World, worker_key};

fn asks(world: &mut World, ask: u64, question: Question) -> Result<(), Rejected> {
    world.tell_client(0, Input::Ask { ask, question: &question })
}

/// Asks through client 0, and waits for the answer
fn answer(world: &mut World, question: Question) -> Vec<u8> {
    let answered = world.answers.len();
    asks(world, answered as u64, question).expect("no question waits");
    world.drive_until("it is answered", |world| world.answers.len() > answered);
    let (client, ask, answer) = world.answers.last().cloned().expect("an answer");
    assert_eq!((client, ask), (0, answered as u64));
    assert!(answer.len() <= ANSWER_BYTES_MAX + 8, "{} bytes", answer.len());
    answer
}

fn status(world: &mut World) -> StatusView {
    postcard::from_bytes(&answer(world, Question::Status)).expect("a status")
}

fn task(world: &mut World, task: TaskId) -> Option<TaskView> {
    postcard::from_bytes(&answer(world, Question::Task(task))).expect("a task, or none")
}

fn drain(world: &mut World, worker: &str) -> bool {
    let name = worker.parse().expect("a name");
    postcard::from_bytes(&answer(world, Question::Drain(name))).expect("yes or no")
}

/// All workers, and the number of pages that they came in
fn workers(world: &mut World) -> (Vec<WorkerView>, usize) {
    let mut all: Vec<WorkerView> = Vec::new();
    for pages in 1.. {
        let after = all.last().map(|worker| worker.name.clone());
        let answer = answer(world, Question::Workers { after });
        let Page { last, mut items } = postcard::from_bytes(&answer).expect("a page");
        while !items.is_empty() {
            let (item, rest) = postcard::take_from_bytes(items).expect("a worker");
            all.push(item);
            items = rest;
        }
        if last {
            return (all, pages);
        }
    }
    unreachable!("pages end")
}

/// All tasks, or the open ones, and the number of pages that they came in
fn tasks(world: &mut World, open: bool) -> (Vec<TaskView>, usize) {
    let mut all: Vec<TaskView> = Vec::new();
    for pages in 1.. {
        let after = all.last().map_or(0, |task| task.position);
        let answer = answer(world, Question::Tasks { after, open });
        let Page { last, mut items } = postcard::from_bytes(&answer).expect("a page");
        while !items.is_empty() {
            let (item, rest) = postcard::take_from_bytes(items).expect("a task");
            all.push(item);
            items = rest;
        }
        if last {
            return (all, pages);
        }
    }
    unreachable!("pages end")
}

fn asker(workers: usize) -> Setup {
    Setup { workers, clients: 1, ..Setup::default() }
}

#[test]
fn the_status_counts_tasks_as_they_stand_and_workers_as_they_are() {
    let mut world = connected(asker(2));
    let failed = Job { ends: vec![Outcome::Failed(Failure::Exit(1))], ..Job::takes(ms(1)) };
    let ended = [world.submit("good", Job::takes(ms(1))), world.submit("bad", failed)];
    world.drive_until("both are over", |world| ended.iter().all(|task| world.outcome(*task).is_some()));
    // Two run, and two more are at the workers; the last one waits.
    let open = ["a", "b", "c", "d", "e"].map(|name| world.submit(name, Job::takes(secs(50))));
    world.run_for(ms(20));
    world.tell_coordinator(coordinator::Input::Cancel { task: open[4] }).expect("it waits");
    world.submit("f", Job::takes(secs(1)));
    world.reset(0);
    world.run_for(ms(100));
    let now = status(&mut world);
    assert_eq!((now.waiting, now.assigned, now.ended), (1, 4, [1, 1, 1]));
    assert_eq!((now.workers, now.connected, now.resumed, now.stale), (2, 2, 1, 0));
    assert_eq!((now.cluster.0, now.epoch), ([9; 16], 1));
    world.restart_coordinator();
    (0..3).for_each(|peer| drive_connected(&mut world, peer));
    let then = status(&mut world);
    assert_eq!((then.epoch, then.ended, then.waiting + then.assigned), (2, [1, 1, 1], 5), "the journal has it all");
    assert!(then.up_us < 10_000_000, "{} µs of this life", then.up_us);
}

#[test]
fn journ_3_an_answer_says_nothing_that_is_not_durable() {
    let mut world = connected(asker(1));
    let over = world.submit("over", Job::takes(ms(400)));
    world.run_for(ms(50));
    world.journal.mode = JournalMode::Syncs(ms(500));
    let early = world.submit("early", Job::takes(ms(1)));
    world.run_for(ms(100));
    for (ask, question) in [Question::Tasks { after: 0, open: false }, Question::Status].into_iter().enumerate() {
        asks(&mut world, ask as u64, question).expect("room");
    }
    world.run_for(ms(100));
    let late = world.submit("late", Job::takes(ms(1)));
    world.run_for(ms(290));
    assert_eq!(world.answers, [], "what was written before the question is not durable yet");
    world.run_for(ms(30));
    assert_eq!(world.answers, [], "what was written before the answer is not durable yet");
    world.run_for(ms(500));
    let Page { items, .. } = postcard::from_bytes(&world.answers[0].2).expect("a page");
    let (first, rest) = postcard::take_from_bytes::<TaskView>(items).expect("a task");
    let (second, rest) = postcard::take_from_bytes::<TaskView>(rest).expect("a task");
    assert_eq!(([first.task, second.task], rest), ([over, early], &[][..]), "and not {late}");
    // Its result was here and not durable: to all who asked it ran.
    assert_eq!((first.outcome, first.why), (None, Why::Runs));
    let now: StatusView = postcard::from_bytes(&world.answers[1].2).expect("a status");
    assert_eq!((now.ended, now.assigned), ([0; 3], 1));
    world.run_for(secs(3));
    let view = task(&mut world, over).expect("it is known");
    assert_eq!((view.outcome, view.why), (Some(Outcome::Succeeded), Why::Ended));
    assert_eq!(status(&mut world).ended, [3, 0, 0]);
}

#[test]
fn a_task_is_told_with_where_it_runs_and_how_far_it_is() {
    let mut world = connected(asker(1));
    let job = Job { prints: noise(3000), ..Job::steps(4, ms(800)) };
    let id = world.plan("job", job);
    let about = About { title: "grüße".into(), ..About::default() }.encode().expect("short");
    let spec = TaskSpec { priority: 2, retries: 1 };
    let submit = Input::Submit { task: id, spec, about: &about, payload: b"job", follow: Follow::Acceptance };
    world.tell_client(0, submit).expect("legal");
    world.run_for(ms(500));
    let token = Some(world.starts[0].1);
    let view = task(&mut world, id).expect("it is known");
    assert_eq!((view.task, &*view.title, view.spec, view.attempts), (id, "grüße", spec, 1));
    assert_eq!((view.why, view.worker.as_ref().map(|name| name.as_str())), (Why::Runs, Some("worker-0")));
    assert_eq!((view.progress, view.checkpoint, view.token), (50, Some(2), token));
    assert_eq!((view.kept, view.outcome), ([1500, 0], None));
    world.drive_until("it is over", |world| world.succeeded(id));
    let view = task(&mut world, id).expect("it is known");
    assert_eq!((view.why, view.worker, view.checkpoint, view.token), (Why::Ended, None, None, token));
    assert_eq!((view.kept, view.outcome), ([3000, 0], Some(Outcome::Succeeded)));
    assert_eq!(task(&mut world, TaskId::from_text("another")), None);
}

#[test]
fn many_tasks_come_in_pages_in_the_order_of_their_submission_each_once() {
    let mut world = connected(asker(1));
    let about = |n: usize| About { title: format!("{n:0200}"), ..About::default() }.encode().expect("short");
    let all: Vec<TaskId> = (0..300)
        .map(|n| {
            let task = world.plan(&format!("task {n}"), Job::takes(ms(1)));
            let (spec, about) = (TaskSpec::default(), about(n));
            let submit = coordinator::Input::Submit { task, spec, about: &about, payload: b"" };
            world.tell_coordinator(submit).expect("legal");
            task
        })
        .collect();
    let over = |world: &World| all.iter().filter(|task| world.succeeded(**task)).count();
    world.drive_until("some are over", |world| over(world) >= 100);
    // Nothing moves while it is being asked.
    world.wire(0).refuses = true;
    world.reset(0);
    world.run_for(ms(5));
    let (told, pages) = tasks(&mut world, false);
    assert!(pages > 1, "300 titles of 200 bytes are more than a page");
    assert_eq!(told.iter().map(|view| view.task).collect::<Vec<_>>(), all);
    assert!(told.iter().enumerate().all(|(n, view)| view.title == format!("{n:0200}")));
    let (open, _) = tasks(&mut world, true);
    let without = told.into_iter().filter(|view| view.outcome.is_none()).map(|view| view.task);
    assert_eq!(open.iter().map(|view| view.task).collect::<Vec<_>>(), without.collect::<Vec<_>>());
    assert_eq!(open.len(), all.len() - over(&world));
}

#[test]
fn workers_are_told_by_name_each_in_its_state() {
    let mut world = World::new(Setup {
        coordinator: |config| {
            config.keys.push(worker_key(5));
            config.heartbeat = Some(secs(2));
            config.lost_after = secs(20);
        },
        worker: |config| {
            if config.link.key.name.as_str() == "worker-0" {
                config.offers.insert("gpu", Tag::Amount(2)).expect("legal");
            }
        },
        ..asker(5)
    });
    (0..6).for_each(|peer| drive_connected(&mut world, peer));
    world.submit("first", Job::takes(secs(500)));
    for away in [3, 2] {
        world.wire(away).refuses = true;
        world.reset(away);
        world.run_for(secs(if away == 3 { 21 } else { 1 }));
    }
    for name in ["second", "third"] {
        world.submit(name, Job::takes(secs(500)));
    }
    world.run_for(secs(1));
    assert!(drain(&mut world, "worker-1"));
    world.half_open(4, Side::Coordinator);
    world.drive_until("it is suspect", |world| world.seen(4) == PeerState::Suspect);
    let (told, _) = workers(&mut world);
    let names: Vec<&str> = told.iter().map(|worker| worker.name.as_str()).collect();
    assert_eq!(names, ["worker-0", "worker-1", "worker-2", "worker-3", "worker-4", "worker-5"]);
    use WorkerState as S;
    let states = [S::Connected, S::Draining, S::Disconnected, S::Lost, S::Suspect, S::Unknown];
    assert_eq!(told.iter().map(|worker| worker.state).collect::<Vec<_>>(), states);
    assert_eq!(told[0].held, [1, 1], "it runs the first");
    let offered = Tags::decode(&told[0].offers).expect("legal");
    assert_eq!(offered.iter().next(), Some(("gpu", &Tag::Amount(2))));
    assert!(told[1..].iter().all(|worker| worker.offers.is_empty()));
    let away: Vec<u64> = told.iter().map(|worker| worker.away_us.unwrap_or(0) / 1_000_000).collect();
    assert!(away[2] >= 2 && away[3] >= 23 && [0, 1, 4, 5].iter().all(|n| away[*n] == 0), "{away:?}");
    assert!([2, 3, 5].iter().all(|n| told[*n].rtt_us.is_none()), "nobody answers who is not there");
    // AUTH-6: whoever cannot come any more is told from those who may.
    for peer in [2, 5] {
        world.tell_coordinator(coordinator::Input::RevokeKey { key: worker_key(peer).id }).unwrap();
    }
    let (told, _) = workers(&mut world);
    let states = [S::Connected, S::Draining, S::Revoked, S::Lost, S::Suspect, S::Revoked];
    assert_eq!(told.iter().map(|worker| worker.state).collect::<Vec<_>>(), states);
}

#[test]
fn many_workers_come_in_pages_each_once() {
    let mut world = World::new(Setup {
        worker: |config| {
            for n in 0..TAGS_MAX {
                config.offers.insert(&format!("label-{n:02}"), Tag::Label("x".repeat(60))).expect("legal");
            }
        },
        ..asker(40)
    });
    (0..41).for_each(|peer| drive_connected(&mut world, peer));
    world.run_for(secs(1));
    let (told, pages) = workers(&mut world);
    assert!(pages > 1, "40 workers with so many labels are more than a page");
    assert_eq!(told.len(), 40);
    assert!(told.is_sorted_by(|a, b| a.name < b.name), "each once, by name");
    assert!(told.iter().all(|worker| Tags::decode(&worker.offers).is_ok_and(|tags| tags.iter().count() == TAGS_MAX)));
}

#[test]
fn task_8_a_worker_that_is_asked_to_drain_leaves_when_its_work_is_settled_also_if_it_was_away() {
    for away in [false, true] {
        let mut world = connected(asker(2));
        let held = world.submit("held", Job::takes(secs(2)));
        world.run_for(ms(100));
        let holder = world.starts[0].3;
        if away {
            world.wire(holder).refuses = true;
            world.crash(holder);
            world.run_for(secs(1));
        }
        assert!(!drain(&mut world, "nobody"), "there is none of this name");
        let name = format!("worker-{holder}");
        assert!(drain(&mut world, &name) && drain(&mut world, &name), "again is fine");
        let next = world.submit("next", Job::takes(ms(1)));
        if away {
            world.wire(holder).refuses = false;
            world.restart(holder);
        }
        world.drive_until("it has left", |world| world.state(holder) == LinkState::Stopped);
        assert_eq!(world.worker(holder).stopped(), Some(Reason::Left));
        world.drive_until("all is done", |world| [held, next].iter().all(|task| world.succeeded(*task)));
        let elsewhere =
            |task| world.starts.iter().rfind(|start| start.0 == task).is_some_and(|start| start.3 != holder);
        assert!(elsewhere(next), "who drains is given nothing new");
        assert_eq!(elsewhere(held), away, "what ran there was let finish, where it could be");
        world.audit();
    }
}

#[test]
fn a_client_asks_a_bounded_number_of_questions_each_under_a_number_of_its_own() {
    let mut world = connected(asker(1));
    world.wire(1).refuses = true;
    world.reset(1);
    world.run_for(ms(10));
    for ask in 0..ASKS_MAX as u64 {
        assert_eq!(asks(&mut world, ask, Question::Status), Ok(()));
        assert_eq!(asks(&mut world, ask, Question::Status), Err(Rejected::Conflict));
    }
    assert_eq!(asks(&mut world, 99, Question::Status), Err(Rejected::Full));
    world.wire(1).refuses = false;
    drive_connected(&mut world, 1);
    world.run_for(secs(1));
    let answered: Vec<u64> = world.answers.iter().map(|(_, ask, _)| *ask).collect();
    assert_eq!(answered, (0..ASKS_MAX as u64).collect::<Vec<_>>());
    assert_eq!(asks(&mut world, 99, Question::Status), Ok(()), "there is room again");
}

#[test]
fn sess_7_a_question_is_answered_once_wherever_the_connection_is_cut() {
    for lifetime in [0, 300] {
        for cut_after in 0..12 {
            let mut world = connected(Setup {
                coordinator: match lifetime {
                    0 => |config| config.session_lifetime = secs(0),
                    _ => |_| {},
                },
                ..asker(1)
            });
            for ask in 0..3 {
                asks(&mut world, ask, Question::Status).expect("room");
            }
            for _ in 0..cut_after {
                world.step();
            }
            world.reset(1);
            world.drive_until("all are answered", |world| world.answers.len() >= 3);
            world.run_for(secs(10));
            let answered: Vec<u64> = world.answers.iter().map(|(_, ask, _)| *ask).collect();
            assert_eq!(answered, [0, 1, 2], "cut after step {cut_after}");
            assert_eq!(world.coordinator.stats().violations + world.client(0).stats().violations, 0);
        }
    }
}

#[test]
fn who_asks_more_than_may_wait_gets_the_newest_answers_and_void_for_the_others() {
    let mut world = connected(Setup { clients: 1, ..Setup::default() });
    world.wire(1).refuses = true;
    world.reset(1);
    let mut puppet = Puppet::client(0);
    assert!(welcomed(&puppet.enter(&mut world)).is_some());
    puppet.hear(&mut world);
    let many = ASKS_MAX as u64 + 4;
    puppet.say(&mut world, |body| {
        for ask in 1..=many {
            body.push(Class::Numbered(ask), &FromClient::Ask { ask, question: Question::Status });
        }
    });
    let heard = puppet.hear(&mut world);
    let mut void = 0;
    let mut answered = Vec::new();
    for payload in
        heard.iter().filter_map(|heard| if let Heard::Numbered(_, payload) = heard { Some(payload) } else { None })
    {
        match (Item { class: Class::Loose, ignorable: false, payload }).decode::<ToClient<'_>>() {
            Some(ToClient::Answer { ask, .. }) => answered.push(ask),
            Some(other) => panic!("{other:?}"),
            None => void += u64::from(payload.is_empty()),
        }
    }
    assert_eq!((void, answered), (4, (5..=many).collect::<Vec<_>>()));
}

#[test]
fn a_client_that_says_goodbye_makes_room_at_once_and_one_that_is_away_for_a_newcomer() {
    let setup = || Setup { clients: 2, coordinator: |config| config.clients_max = 1, ..Setup::default() };
    // There is one place: who has it and answers keeps it.
    let mut world = World::new(setup());
    let [first, second] = [0, 1].map(|n| world.client_peer(n));
    world.wire(second).refuses = true;
    drive_connected(&mut world, first);
    world.wire(second).refuses = false;
    world.drive_until("it is refused", |world| world.leaves.iter().any(|(peer, _)| *peer == second));
    let busy = Reason::Denied(Denied::Busy { retry_after_us: 1_000_000 });
    assert_eq!(world.leaves, [(second, busy)]);
    world.tell_client(0, Input::Leave).expect("never refused");
    world.drive_until("the second is in", |world| world.state(second) == LinkState::Connected);
    assert_eq!(world.client(0).stopped(), Some(Reason::Left));
    // Who is away gives way, and comes back when it can.
    world.wire(second).refuses = true;
    world.reset(second);
    world.run_for(ms(10));
    let mut puppet = Puppet::client(0);
    assert!(welcomed(&puppet.enter(&mut world)).is_some());
    assert_eq!(
        world.coordinator.peers().filter(|peer| peer.state != PeerState::Unknown).count(),
        2,
        "a worker, a client"
    );
    puppet.close(&mut world);
    world.wire(second).refuses = false;
    world.drive_until("it is back", |world| world.state(second) == LinkState::Connected);
    assert_eq!(world.client(1).stats().resumed, 0, "its session had to go");
}

#[test]
fn journ_5_tasks_that_have_ended_are_forgotten_when_a_client_asks_for_that_and_open_ones_are_not() {
    let mut world = connected(Setup { clients: 2, ..Setup::default() });
    let ended = world.submit_by_client(0, "ended", Job::prints(&noise(1000)));
    world.drive_until("it is over", |world| world.succeeded(ended));
    let open = world.submit_by_client(0, "open", Job::takes(secs(50)));
    world.run_for(ms(100));
    let forget = |world: &mut World, task| -> Forgetting {
        postcard::from_bytes(&answer(world, Question::Forget(task))).expect("whether it is forgotten")
    };
    assert_eq!(forget(&mut world, open), Forgetting::Open);
    assert_eq!(forget(&mut world, TaskId::from_text("never")), Forgetting::Unknown);
    for _ in 0..2 {
        // Again, because the answer may have been lost, is no other thing.
        assert_eq!(forget(&mut world, ended), Forgetting::Done);
    }
    assert!(world.coordinator.task(ended).is_none() && world.coordinator.task(open).is_some());
    assert_eq!(world.coordinator.remembered(ended), Some(Outcome::Succeeded));
    world.restart_coordinator();
    drive_connected(&mut world, 1);
    assert_eq!(forget(&mut world, ended), Forgetting::Done);
    // It is still the same task for whoever submits it (TASK-1).
    world.submit_by_client(1, "ended", Job::prints(&noise(1000)));
    world.drive_until("its outcome is told", |world| {
        world.client(1).task(ended).and_then(|task| task.end).is_some_and(|end| end.0 == Outcome::Succeeded)
    });
    assert_eq!(world.executions(ended), 1);
}
