//! Tasks run, their output arrives, and what is too large ends as that

use std::collections::BTreeMap;
use std::time::Duration;

use rejoin_core::Rejected;
use rejoin_core::client::Event;
use rejoin_core::ids::{Role, TaskId};
use rejoin_core::limits::INLINE_BYTES_MAX;
use rejoin_core::wire::message::{Failure, Follow, Outcome, Stream, TaskSpec};
use rejoin_smol::chaos::Profile;
use rejoin_smol::client::{Connection, Told};
use rejoin_smol::command::Command;
use rejoin_tests::{Rig, WORKERS, endpoint, key, link, noise, run, shell, timed};

const SPEC: TaskSpec = TaskSpec { priority: 2, retries: 0 };

/// Follows tasks to their ends, and returns what each wrote to its standard output
async fn follow(client: &mut Connection, tasks: &[TaskId]) -> BTreeMap<TaskId, Vec<u8>> {
    let mut outputs: BTreeMap<TaskId, Vec<u8>> = tasks.iter().map(|task| (*task, Vec::new())).collect();
    let mut open = tasks.len();
    while open > 0 {
        match client.next().await.expect("a client that is wanted") {
            Told::Piece { task, stream: Stream::Out, offset, bytes, .. } => {
                let output = outputs.get_mut(&task).expect("a task that was submitted");
                assert_eq!(output.len() as u64, offset, "pieces without gap or overlap");
                output.extend(bytes);
            }
            Told::Event(Event::Ended { task }) => {
                assert_eq!(client.end(task).map(|end| end.0), Some(Outcome::Succeeded));
                open -= 1;
            }
            Told::Event(Event::Refused { reason, .. }) => panic!("refused: {reason:?}"),
            Told::Event(Event::Forgotten { task }) => panic!("forgotten: {task}"),
            Told::Piece { .. } | Told::Answer { .. } | Told::Event(Event::Accepted { .. } | Event::Progress { .. }) => {
            }
        }
    }
    outputs
}

#[test]
fn a_client_gets_output_and_outcome_of_what_it_submits() {
    run(async {
        let rig = Rig::start().await;
        let _worker = rig.worker("w0", rig.address);
        let mut client = rig.client(rig.address);
        let task = TaskId::from_text("hello");
        client
            .submit(task, SPEC, &[], &shell("printf hello; echo aside >&2; exit 3").encode(), Follow::Output)
            .unwrap();
        let mut pieces = Vec::new();
        loop {
            match client.next().await.unwrap() {
                Told::Piece { stream, bytes, .. } => pieces.push((stream, bytes)),
                Told::Event(Event::Ended { .. }) => break,
                Told::Event(_) | Told::Answer { .. } => {}
            }
        }
        pieces.sort();
        assert_eq!(pieces, [(Stream::Out, b"hello".to_vec()), (Stream::Err, b"aside\n".to_vec())]);
        let (outcome, result, streams) = client.end(task).unwrap();
        assert_eq!((outcome, result), (Outcome::Failed(Failure::Exit(3)), &b""[..]));
        assert_eq!(streams.map(|stream| stream.len), [5, 6]);
    });
}

#[test]
fn sess_4_everything_arrives_once_while_all_links_are_cut() {
    run(async {
        let rig = Rig::start().await;
        let (near, far) = (rig.proxy(Profile::Cuts).await, rig.proxy(Profile::Cuts).await);
        let workers = [0, 1].map(|n| rig.worker(WORKERS[n], near.local_addr()));
        let mut client = rig.client(far.local_addr());
        let tasks: Vec<TaskId> = (0..60).map(|n| TaskId::from_text(&n.to_string())).collect();
        for (n, task) in tasks.iter().enumerate() {
            let script = shell(&format!("sleep 0.03; echo {n} in attempt $REJOIN_ATTEMPT"));
            client.submit(*task, SPEC, &[], &script.encode(), Follow::Output).unwrap();
        }
        let outputs = follow(&mut client, &tasks).await;
        for (n, task) in tasks.iter().enumerate() {
            assert_eq!(outputs[task], format!("{n} in attempt 1\n").into_bytes(), "a cut costs no attempt");
        }
        let stats = rig.overview().await.stats;
        assert_eq!((stats.applied, stats.lost_attempts, stats.crashed_attempts), (60, 0, 0));
        assert!(client.stats().reconnections > 0 && workers.iter().all(|w| w.glance().stats.reconnections > 0));
    });
}

#[test]
fn log_1_large_binary_output_survives_cuts_byte_for_byte() {
    run(async {
        let rig = Rig::start().await;
        let (near, far) = (rig.proxy(Profile::Cuts).await, rig.proxy(Profile::Cuts).await);
        let worker = rig.worker("w0", near.local_addr());
        let mut client = rig.client(far.local_addr());
        let (path, bytes) = (rig.path().join("noise"), noise(20 << 20));
        std::fs::write(&path, &bytes).unwrap();
        let task = TaskId::from_text("large");
        client.submit(task, SPEC, &[], &shell(&format!("cat '{}'", path.display())).encode(), Follow::Output).unwrap();
        let outputs = follow(&mut client, &[task]).await;
        assert!(outputs[&task] == bytes, "{} bytes arrived", outputs[&task].len());
        assert!(worker.glance().stats.reconnections > 0 && client.stats().reconnections > 0);
    });
}

#[test]
fn log_1_output_over_the_limit_is_a_failure_that_says_so() {
    run(async {
        let rig = Rig::with(|config| config.output_bytes_max = 100_000, |journal| journal).await;
        let _worker = rig.worker("w0", rig.address);
        let flood = shell("head -c 1000000 /dev/zero");
        // The worker's own limit, then one that only the coordinator has.
        for (task, output_bytes_max) in [("worker", 1000), ("coordinator", 64 << 20)] {
            let ended = rig.done(task, &Command { output_bytes_max, ..flood.clone() }).await;
            assert_eq!((ended.outcome, ended.attempt), (Outcome::Failed(Failure::OutputTooLarge), 1), "{task}");
        }
        assert_eq!(rig.done("next", &shell("true")).await.outcome, Outcome::Succeeded);
        assert_eq!(rig.overview().await.stats.assigned, 3);
    });
}

#[test]
fn frame_3_result_over_the_limit_is_a_failure_that_says_so() {
    run(async {
        let rig = Rig::start().await;
        let config = link(key("w0", Role::Worker), &endpoint(rig.address));
        let _worker = rig.worker_with(config, endpoint(rig.address), |config| config.result_bytes_max = 10);
        let missing = Command { argv: vec!["no-such-program-anywhere".into()], ..shell("") };
        let ended = rig.done("missing", &missing).await;
        assert_eq!((ended.outcome, ended.attempt), (Outcome::Failed(Failure::ResultTooLarge), 1));
        assert_eq!(rig.done("next", &shell("true")).await.outcome, Outcome::Succeeded);
        assert_eq!(rig.overview().await.stats.assigned, 2);
    });
}

#[test]
fn frame_3_input_over_the_limit_is_refused_before_it_is_sent() {
    run(async {
        let rig = Rig::start().await;
        let long = vec![0; INLINE_BYTES_MAX + 1];
        let refused = rig.handle.submit(TaskId::from_text("long"), SPEC, vec![], long.clone()).await;
        assert_eq!(refused, Err(Rejected::TooLarge));
        let submitted = rig.client(rig.address).submit(TaskId::from_text("long"), SPEC, &[], &long, Follow::Output);
        assert_eq!(submitted, Err(Rejected::TooLarge));
    });
}

#[test]
fn task_2_a_task_knows_its_name_attempt_and_token() {
    run(async {
        let rig = Rig::start().await;
        let _worker = rig.worker("w0", rig.address);
        let task = TaskId::from_text("who");
        let spec = TaskSpec { retries: 1, ..SPEC };
        let script = shell(r#"echo "$REJOIN_TASK $REJOIN_ATTEMPT $REJOIN_TOKEN"; [ "$REJOIN_ATTEMPT" = 2 ]"#);
        rig.handle.submit(task, spec, vec![], script.encode()).await.unwrap();
        let ended = rig.ended(task).await;
        let expected = format!("{task} 2 {}\n", ended.token.unwrap().0);
        assert_eq!(String::from_utf8(rig.output(&ended, Stream::Out)).unwrap(), expected);
        assert_eq!((ended.outcome, ended.attempt), (Outcome::Succeeded, 2));
    });
}

#[test]
fn task_7_a_cancelled_task_ends_soon_and_leaves_no_process() {
    run(async {
        let rig = Rig::start().await;
        let _worker = rig.worker("w0", rig.address);
        let pid = rig.path().join("pid");
        let script = format!("echo $$ > '{0}.new'; mv '{0}.new' '{0}'; sleep 1000", pid.display());
        let task = rig.submit("sleeper", shell(&script).encode()).await;
        rejoin_tests::until(async || pid.exists()).await;
        rig.handle.cancel(vec![task]).await.unwrap();
        assert_eq!(rig.ended(task).await.outcome, Outcome::Cancelled);
        let pid = std::fs::read_to_string(pid).unwrap();
        assert!(!std::path::Path::new("/proc").join(pid.trim()).exists());
    });
}

#[test]
fn lanes_2_kept_output_flows_to_a_late_follower_without_the_help_of_heartbeats() {
    run(async {
        let rig = Rig::with(|config| config.heartbeat = Some(Duration::from_secs(10)), |journal| journal).await;
        let _worker = rig.worker("w0", rig.address);
        // More than a window, so that the coordinator has to wait for the socket and for credit.
        let ended = rig.done("before", &shell("head -c 4000000 /dev/zero")).await;
        let mut client = rig.client(rig.address);
        client.watch(ended.task, Follow::Output).unwrap();
        let mut outputs = BTreeMap::new();
        let time = timed(async { outputs = follow(&mut client, &[ended.task]).await }).await;
        assert_eq!(outputs[&ended.task].len(), 4_000_000);
        assert!(time < Duration::from_secs(5), "{time:?} for 4 MB");
    });
}
