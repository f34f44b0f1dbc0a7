//! A journal that fails takes nothing with it that was promised

use std::collections::BTreeSet;
use std::time::Duration;

use rejoin_core::client::Event;
use rejoin_core::ids::TaskId;
use rejoin_core::journal::Record;
use rejoin_core::wire::message::{Follow, TaskSpec};
use rejoin_smol::client::{Connection, Told};
use rejoin_smol::dial::dial;
use rejoin_smol::tls::Trust;
use rejoin_smol::url::Endpoint;
use rejoin_tests::{FailingJournal, Rig, endpoint, run, shell};
use smol::future::FutureExt;

/// What a client was told until its coordinator stopped: tasks accepted, tasks ended
async fn told(client: &mut Connection, promises: &mut [BTreeSet<TaskId>; 2]) {
    while let Ok(told) = client.next().await {
        match told {
            Told::Event(Event::Accepted { task }) => promises[0].insert(task),
            Told::Event(Event::Ended { task }) => promises[1].insert(task),
            Told::Piece { .. }
            | Told::Answer { .. }
            | Told::Event(Event::Refused { .. } | Event::Progress { .. } | Event::Forgotten { .. }) => false,
        };
    }
}

async fn with_failure(failing: FailingJournal) {
    let journal = failing.clone();
    let mut rig = Rig::with(|_| {}, |_| journal).await;
    let _worker = rig.worker("w0", rig.address);
    let at: Endpoint = endpoint(rig.address);
    let (mut idle, _writer) = dial(&at, &Trust::system(), Duration::from_secs(5)).await.expect("a link").split();
    let mut client = rig.client(rig.address);
    for n in 0..20 {
        let task = TaskId::from_text(&n.to_string());
        let spec = TaskSpec { priority: 2, retries: 0 };
        client.submit(task, spec, &[], &shell("true").encode(), Follow::Outcome).expect("room");
    }
    let mut promises = [BTreeSet::new(), BTreeSet::new()];
    let telling = async {
        told(&mut client, &mut promises).await;
        panic!("a stopped coordinator has no say in who may come back");
    };
    let error = rig.server.ended().or(telling).await.expect_err("the journal has failed");
    assert!(error.to_string().contains("the journal failed"), "{error}");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert!(idle.next().await.is_err(), "all connections are closed");

    // What was on its way when the connection closed may still arrive.
    let rest = async { _ = smol::Timer::after(Duration::from_millis(50)).await };
    told(&mut client, &mut promises).or(rest).await;
    let mut durable = [BTreeSet::new(), BTreeSet::new()];
    for record in failing.durable() {
        match Record::decode(&record) {
            Some(Record::Submit { task, .. }) => durable[0].insert(task),
            Some(Record::Result { task, last: true, .. }) => durable[1].insert(task),
            _ => false,
        };
    }
    assert!(promises[0].is_subset(&durable[0]), "accepted, and not durable");
    assert!(promises[1].is_subset(&durable[1]), "ended, and not durable");
}

#[test]
fn journ_3_nothing_is_promised_that_is_not_durable_when_a_sync_fails() {
    for syncs in [1, 2, 3, 5, 8] {
        run(with_failure(FailingJournal::after(usize::MAX, syncs)));
    }
}

#[test]
fn journ_3_nothing_is_promised_that_is_not_durable_when_an_append_fails() {
    for appends in [2, 3, 7, 30, 50] {
        run(with_failure(FailingJournal::after(appends, usize::MAX)));
    }
}
