//! Histories that are wrong, each of which must be objected to by the check that it breaks

use std::time::Duration;

use rejoin_core::Instant;
use rejoin_core::ids::{ConnId, PeerName, SessionId, TaskId, Token};
use rejoin_core::journal::Record;
use rejoin_core::wire::handshake::{Challenge, Proof, Resume};
use rejoin_core::wire::message::{
    Control, Credit, Failure, FromWorker, Outcome, Settlement, StreamEnd, TaskSpec, ToWorker, Welcome,
};

use super::{Auditor, Check};
use crate::net::Side;
use crate::tap::{Handshake, Message, Said};

const TASK: TaskId = TaskId([1; 16]);
const SESSION: SessionId = SessionId([2; 16]);
const CONN: ConnId = ConnId(1);
const GOOD: Outcome = Outcome::Succeeded;
const BAD: Outcome = Outcome::Failed(Failure::Exit(1));

fn submit(auditor: &mut Auditor) {
    auditor.submitted(TASK, false);
    auditor.durable(&Record::Submit { task: TASK, spec: TaskSpec::default(), about: &[], payload: &[] });
}

fn assign(auditor: &mut Auditor, token: u64, attempt: u32) {
    let worker: PeerName = "worker-0".parse().unwrap();
    auditor.durable(&Record::Assign { task: TASK, token: Token(token), attempt, worker });
}

fn result(auditor: &mut Auditor, token: u64, outcome: Outcome) {
    let streams = [StreamEnd::default(); 2];
    let token = Some(Token(token));
    auditor.durable(&Record::Result { task: TASK, token, attempt: 1, outcome, result: &[], streams, last: true });
}

fn checkpoint(auditor: &mut Auditor, token: u64, number: u64) {
    auditor.durable(&Record::Checkpoint { task: TASK, token: Token(token), number, bytes: &[] });
}

/// A task that was submitted, given out and executed
fn executed(auditor: &mut Auditor) {
    submit(auditor);
    assign(auditor, 1, 1);
    auditor.started(TASK, Token(1), 1, None);
    auditor.finished(Token(1), GOOD);
}

/// A worker's session, opened on the first connection
fn opened(auditor: &mut Auditor) {
    auditor.greeted(CONN);
    auditor.said(CONN, 0, Side::Peer, &Said::Handshake(Handshake::Proof(Proof { resume: None })));
    auditor.said(CONN, 0, Side::Peer, &Said::Control(Control::Begin { session: SESSION }));
    auditor.said(CONN, 0, Side::Coordinator, &welcome(None));
}

fn welcome(resumed: Option<u64>) -> Said<'static> {
    let credit = Credit::default();
    let (generation, heartbeat_us, spread_us, lifetime_us) = (1, 1, 0, 1);
    Said::Control(Control::Welcome(Welcome { generation, resumed, heartbeat_us, spread_us, lifetime_us, credit }))
}

/// The session goes on: the coordinator has received so many, the worker says it has sent so many
fn resumed(auditor: &mut Auditor, open: u64, sent: u64) {
    let conn = ConnId(2);
    auditor.greeted(conn);
    let challenge = Challenge {
        version: 1,
        capabilities: 0,
        binding: &[],
        cluster: rejoin_core::ids::ClusterId([0; 16]),
        epoch: 1,
        frame_bytes_max: 0,
        messages: 0,
        bulk: 0,
        open: Some(open),
        nonce: [0; 32],
    };
    auditor.said(conn, 0, Side::Coordinator, &Said::Handshake(Handshake::Challenge(challenge)));
    let resume = Resume { session: SESSION, generation: 1, received: 0, sent, acknowledged: 0, rmac: [0; 32] };
    auditor.said(conn, 0, Side::Peer, &Said::Handshake(Handshake::Proof(Proof { resume: Some(resume) })));
    auditor.said(conn, 0, Side::Coordinator, &welcome(Some(open)));
}

fn running(number: u64, token: u64) -> Said<'static> {
    Said::Numbered(number, Message::FromWorker(FromWorker::Running { token: Token(token), progress: 1 }))
}

fn finished(number: u64) -> Said<'static> {
    let (token, streams) = (Token(1), [StreamEnd::default(); 2]);
    let said = FromWorker::Result { task: TASK, token, outcome: GOOD, result: &[], streams };
    Said::Numbered(number, Message::FromWorker(said))
}

fn settled(settlement: Settlement) -> Said<'static> {
    let said = ToWorker::Settled { token: Token(1), settlement, outcome: None };
    Said::Numbered(1, Message::ToWorker(said))
}

fn ack(received: u64) -> Said<'static> {
    Said::Control(Control::Ack { received })
}

fn at(ms: u64) -> Instant {
    Instant::ZERO + Duration::from_millis(ms)
}

/// A history, and the check that it breaks
type Story = (Check, fn(&mut Auditor));

const STORIES: &[Story] = &[
    (Check::S1, |a| {
        a.submitted(TASK, false);
        a.accepted(TASK, 0);
    }),
    (Check::S2, |a| {
        submit(a);
        submit(a);
    }),
    (Check::S2, |a| {
        submit(a);
        a.clashes(TASK, 1);
        a.accepted(TASK, 0);
        a.accepted(TASK, 1);
    }),
    (Check::S3, |a| {
        executed(a);
        result(a, 1, GOOD);
        result(a, 2, BAD);
    }),
    (Check::S4, |a| {
        executed(a);
        result(a, 1, GOOD);
        result(a, 1, GOOD);
    }),
    (Check::S5, |a| {
        executed(a);
        a.told(TASK, GOOD);
    }),
    (Check::S5, |a| {
        executed(a);
        opened(a);
        a.said(CONN, 0, Side::Coordinator, &settled(Settlement::Applied));
    }),
    (Check::S6, |a| {
        executed(a);
        a.forgotten(TASK, Token(1));
    }),
    (Check::S6, |a| {
        executed(a);
        opened(a);
        a.said(CONN, 0, Side::Peer, &finished(1));
        a.said(CONN, 0, Side::Coordinator, &ack(1));
    }),
    (Check::S7, |a| {
        executed(a);
        result(a, 1, GOOD);
        opened(a);
        a.said(CONN, 0, Side::Coordinator, &settled(Settlement::Stale));
    }),
    (Check::S10, |a| {
        submit(a);
        assign(a, 1, 2);
        assign(a, 2, 1);
    }),
    (Check::S10, |a| {
        submit(a);
        a.started(TASK, Token(7), 1, None);
    }),
    (Check::S11, |a| {
        opened(a);
        a.said(CONN, 0, Side::Peer, &running(2, 1));
    }),
    (Check::S11, |a| {
        opened(a);
        a.said(CONN, 0, Side::Peer, &running(1, 1));
        resumed(a, 0, 1);
        a.said(ConnId(2), 0, Side::Peer, &running(1, 9));
    }),
    (Check::S11, |a| {
        opened(a);
        a.said(CONN, 0, Side::Peer, &running(1, 1));
        a.said(CONN, 0, Side::Peer, &running(2, 1));
        resumed(a, 1, 2);
        a.said(ConnId(2), 0, Side::Peer, &running(1, 1));
    }),
    (Check::S12, |a| {
        opened(a);
        a.said(CONN, 0, Side::Peer, &ack(1));
    }),
    (Check::S12, |a| {
        opened(a);
        a.said(CONN, 0, Side::Peer, &running(1, 1));
        a.said(CONN, 0, Side::Coordinator, &ack(1));
        a.said(CONN, 0, Side::Coordinator, &ack(0));
    }),
    (Check::S13, |a| {
        submit(a);
        assign(a, 1, 1);
        checkpoint(a, 1, 2);
        checkpoint(a, 1, 1);
    }),
    (Check::S13, |a| {
        submit(a);
        assign(a, 1, 1);
        checkpoint(a, 1, 1);
        assign(a, 2, 2);
        a.started(TASK, Token(2), 2, None);
    }),
    (Check::S14, |a| {
        submit(a);
        assign(a, 1, 1);
        assign(a, 2, 2);
        checkpoint(a, 1, 1);
    }),
    (Check::S18, |a| {
        executed(a);
        opened(a);
        a.said(CONN, 0, Side::Coordinator, &settled(Settlement::Duplicate));
    }),
    (Check::S19, |a| {
        submit(a);
        a.durable(&Record::Cancel { task: TASK });
        assign(a, 1, 1);
    }),
    (Check::S22, |a| {
        for (lost, dialled) in [(10, 10), (20, 20)] {
            a.lost(0, at(lost));
            a.dials(0, at(dialled), true);
        }
    }),
    (Check::S22, |a| {
        for peer in 0..10 {
            for (lost, dialled) in [(10, 10), (20, 90), (100, 333)] {
                a.lost(peer, at(lost));
                a.dials(peer, at(dialled), true);
            }
        }
    }),
    (Check::S22, |a| {
        a.named_slot(0, CONN, Duration::from_micros(200_000));
        a.sent_away(0, CONN, at(10));
        a.dials(0, at(20), true);
    }),
    (Check::S26, |a| {
        executed(a);
        a.cancel_asked(TASK);
        result(a, 1, GOOD);
        a.told(TASK, Outcome::Cancelled);
    }),
    (Check::S31, |a| {
        submit(a);
        assign(a, 1, 1);
        result(a, 1, GOOD);
    }),
    (Check::S32, |a| {
        executed(a);
        result(a, 1, GOOD);
        a.told(TASK, GOOD);
        a.told(TASK, BAD);
    }),
];

#[test]
fn what_is_wrong_is_objected_to_by_the_check_that_it_breaks() {
    for (check, story) in STORIES {
        let mut auditor = Auditor::default();
        story(&mut auditor);
        let found = auditor.violation().map(|violation| violation.check);
        assert_eq!(found, Some(*check), "{:?}", auditor.violation());
    }
}

#[test]
fn what_is_right_is_not_objected_to() {
    let mut auditor = Auditor::default();
    executed(&mut auditor);
    auditor.accepted(TASK, 0);
    opened(&mut auditor);
    auditor.said(CONN, 0, Side::Peer, &running(1, 1));
    auditor.said(CONN, 0, Side::Peer, &finished(2));
    auditor.said(CONN, 0, Side::Coordinator, &ack(1));
    resumed(&mut auditor, 1, 2);
    auditor.said(ConnId(2), 0, Side::Peer, &finished(2));
    result(&mut auditor, 1, GOOD);
    auditor.said(ConnId(2), 0, Side::Coordinator, &ack(2));
    auditor.said(ConnId(2), 0, Side::Coordinator, &settled(Settlement::Applied));
    auditor.forgotten(TASK, Token(1));
    auditor.told(TASK, GOOD);
    for (lost, dialled) in [(10, 10), (20, 90), (100, 333)] {
        auditor.lost(0, at(lost));
        auditor.dials(0, at(dialled), true);
    }
    assert_eq!(auditor.violation(), None);
}

#[test]
fn what_becomes_durable_in_the_moment_in_which_another_is_given_out_may_come_behind_it() {
    let (mut auditor, ms) = (Auditor::default(), |ms| Instant::ZERO + Duration::from_millis(ms));
    let other = TaskId([9; 16]);
    auditor.queued(other, ms(1), Duration::from_millis(50));
    auditor.queued(TASK, ms(2), Duration::ZERO);
    auditor.at(ms(3));
    submit(&mut auditor);
    assert_eq!(auditor.goes_before(other).count(), 0);
    auditor.at(ms(4));
    assert_eq!(auditor.goes_before(other).collect::<Vec<_>>(), [TASK]);
}
