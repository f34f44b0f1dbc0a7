use std::time::Duration;

use rejoin_core::about::{About, Tag, Tags};
use rejoin_core::drift::mark;
use rejoin_core::ids::{ClusterId, PeerName, SessionId, TaskId, Token};
use rejoin_core::terms::{Class as TaskClass, Conditions, OnReturn, Replace, Span, Terms};
use rejoin_core::wire::message::{
    BodyReader, BodyWriter, CancelReason, CheckpointRefused, Class, Control, Credit, Denied, Failure, Follow,
    FromClient, FromWorker, Held, InventoryItem, Outcome, Refused, Settlement, Stream, StreamEnd, TaskSpec, ToClient,
    ToWorker, Verdict, Welcome,
};

use rejoin_core::wire::view::{Forgetting, Page, Question, StatusView, TaskView, Why, WorkerState, WorkerView};

use crate::book::Book;
use crate::variants::{Variants, every};

pub(crate) const TASK: TaskId = TaskId([0x11; 16]);
pub(crate) const TOKEN: Token = Token(1);
pub(crate) const SPEC: TaskSpec = TaskSpec { priority: 4, retries: 300 };
const CREDIT: Credit = Credit { tasks: 2, messages: 4096, bulk: 1 << 20 };

pub(crate) fn streams() -> [StreamEnd; 2] {
    [StreamEnd { len: 5, sha256: [0x22; 32] }, StreamEnd::default()]
}

pub(crate) fn outcomes() -> Vec<Outcome> {
    let failures = every([
        Failure::Exit(1),
        Failure::Exit(-1),
        Failure::Signal(9),
        Failure::TimedOut,
        Failure::CannotStart,
        Failure::OutputTooLarge,
        Failure::ResultTooLarge,
        Failure::Poisonous,
        Failure::WorkerLost,
        Failure::Error,
        Failure::Stalled,
    ]);
    let ends = every([Outcome::Succeeded, Outcome::Cancelled, Outcome::Failed(Failure::Error)]);
    ends[..2].iter().copied().chain(failures.map(Outcome::Failed)).collect()
}

/// Adds each message as the only item of a body, and reads it again
macro_rules! add {
    ($book:ident, $message:ty, $class:expr, $values:expr) => {{
        let values: Vec<$message> = $values;
        let class: fn(&$message) -> Class = $class;
        $book.chapter(stringify!($message));
        for variant in <$message>::ALL {
            let all: Vec<_> = values.iter().filter(|value| value.variant() == *variant).collect();
            for (n, value) in all.iter().enumerate() {
                let mut room = [0; 1024];
                let mut body = BodyWriter::new(&mut room);
                assert!(body.push(class(value), *value));
                let len = body.len();
                let name = format!("{}.{variant}.{}", <$message>::TYPE, n + 1);
                let found = $book.add(&name, value, &room[..len]);
                let mut items = BodyReader::new(&found);
                let item = items.next().expect("an item").expect("a whole one");
                assert_eq!((item.class, items.next()), (class(value), None));
                assert_eq!(item.decode::<$message>().as_ref(), Some(*value), "{name} means something else");
            }
        }
    }};
}

fn class_of(is_loose: bool) -> Class {
    if is_loose { Class::Loose } else { Class::Numbered(1) }
}

/// Whether it came with the second version
fn is_second(message: &Control) -> bool {
    let control = matches!(
        message,
        Control::Lease { .. }
            | Control::Digest { .. }
            | Control::Compare
            | Control::GoAway { .. }
            | Control::Mtbf { .. }
            | Control::NextKey
    );
    control || matches!(message, Control::Denied(Denied::Spent))
}

fn control() -> Vec<Control> {
    let welcome = Welcome {
        generation: 1,
        resumed: None,
        heartbeat_us: 5_000_000,
        spread_us: 0,
        lifetime_us: 300_000_000,
        credit: CREDIT,
    };
    let mut all = vec![
        Control::Welcome(welcome),
        Control::Welcome(Welcome { generation: 2, resumed: Some(300), ..welcome }),
        Control::Confirm { generation: 1 },
        Control::Begin { session: SessionId([0x33; 16]) },
        Control::Ack { received: 0 },
        Control::Ack { received: u64::MAX },
        Control::Credit(CREDIT),
        Control::Credit(Credit::default()),
        Control::Beat { stamp: 1_000_000, credit: CREDIT },
        Control::Echo { stamp: 1_000_000, credit: CREDIT },
        Control::Bye,
        Control::Lease { ttl_us: 30_000_000, grace_us: 10_000_000 },
        Control::Digest { received: 1, sent: 300, held: mark(TASK, TOKEN) },
        Control::Digest { received: 0, sent: 0, held: 0 },
        Control::Compare,
        Control::GoAway { slot_us: 2_000_000 },
        Control::Mtbf { mean_us: 21_600_000_000 },
        Control::NextKey,
    ];
    all.extend(
        every([
            Denied::Revoked,
            Denied::Removed,
            Denied::TakenOver,
            Denied::Version,
            Denied::Config,
            Denied::Busy { retry_after_us: 30_000_000 },
            Denied::Protocol,
            Denied::Spent,
        ])
        .map(Control::Denied),
    );
    all
}

/// An inventory's items, one behind the other
fn inventory() -> Vec<u8> {
    let items = every([Held::Waiting, Held::Running { progress: 50 }, Held::Finished]);
    let items = items.map(|held| InventoryItem { task: TASK, token: TOKEN, attempt: 1, held });
    items.iter().flat_map(|item| postcard::to_allocvec(item).expect("items can be encoded")).collect()
}

fn from_worker<'a>(items: &'a [u8], tags: &'a [u8]) -> Vec<FromWorker<'a>> {
    let (task, token) = (TASK, TOKEN);
    let mut all = vec![
        FromWorker::Inventory { part: 0, last: true, cut: 0, items: &[] },
        FromWorker::Inventory { part: 1, last: false, cut: 300, items },
        FromWorker::Running { token, progress: 0 },
        FromWorker::Running { token: Token(u64::MAX), progress: 128 },
        FromWorker::GivenBack { token },
        FromWorker::Offers { tags },
        FromWorker::Draining,
        FromWorker::Checkpoint { token, number: 300, bytes: b"so far" },
        FromWorker::Offer { token, number: 300, length: 70_000, names: &[0x44; 64] },
        FromWorker::Piece { token, number: 300, offset: 65_536, bytes: b"a piece" },
        FromWorker::RestoreNeed { token, number: 300, wanted: &[0b10] },
        FromWorker::RestoreBad { token, number: 300 },
        FromWorker::Holdings { received: 300, sent: 2, items: &[] },
        // One item: the task, and token 17.
        FromWorker::Holdings { received: 300, sent: 2, items: &[0x11; 17] },
    ];
    all.extend(outcomes().into_iter().map(|outcome| FromWorker::Result {
        task,
        token,
        outcome,
        result: b"result",
        streams: streams(),
    }));
    let output = |stream| FromWorker::Output { token, stream, offset: 0, bytes: b"hello" };
    all.extend(every([Stream::Out, Stream::Err]).map(output));
    let (outcome, names) = (Outcome::Succeeded, &[0x44; 64]);
    all.push(FromWorker::LargeResult { task, token, outcome, length: 70_000, names, streams: streams() });
    all
}

fn to_worker() -> Vec<ToWorker<'static>> {
    let (task, token) = (TASK, TOKEN);
    let mut all = vec![
        ToWorker::Assign { task, token, attempt: 1, priority: 0, restores: false, payload: b"input" },
        ToWorker::Assign { task, token: Token(1 << 20), attempt: 300, priority: 4, restores: true, payload: b"" },
        ToWorker::Recall { token },
        ToWorker::Settled { token, settlement: Settlement::Applied, outcome: Some(Outcome::Succeeded) },
        ToWorker::Restore { token, number: 300, bytes: b"so far" },
        ToWorker::Checkpointed { token, number: 301, refused: None },
        ToWorker::Drain,
        ToWorker::Need { token, number: 300, wanted: &[0b11] },
        ToWorker::RestoreOffer { token, number: 300, length: 70_000, names: &[0x44; 64] },
        ToWorker::RestoreOffer { token, number: 0, length: 0, names: b"" },
        ToWorker::RestorePiece { token, number: 300, offset: 65_536, bytes: b"a piece" },
    ];
    let conditions = [
        Conditions { exclusive: true, ..Conditions::default() },
        Conditions { exclusive: false, self_stop_after_us: Some(7_000_000), progress_timeout_us: Some(300) },
    ];
    all.extend(conditions.map(|conditions| ToWorker::AssignUnder {
        task,
        token,
        attempt: 300,
        priority: 4,
        restores: false,
        conditions,
        payload: b"input",
    }));
    all.push(ToWorker::AssignLarge {
        task,
        token,
        attempt: 300,
        priority: 4,
        restores: true,
        conditions: Conditions { exclusive: true, ..Conditions::default() },
        payload: b"payload",
        length: 70_000,
        names: &[0x44; 64],
    });
    let refusals = every([
        CheckpointRefused::Stale,
        CheckpointRefused::TooLarge,
        CheckpointRefused::Full,
        CheckpointRefused::Damaged,
    ]);
    all.extend(refusals.map(|refused| ToWorker::Checkpointed { token, number: 1, refused: Some(refused) }));
    all.extend(
        every([CancelReason::Requested, CancelReason::Replaced]).map(|reason| ToWorker::Cancel { token, reason }),
    );
    let verdicts = every([Verdict::Keep { kept: [0, 0] }, Verdict::SendResult { kept: [5, 300] }, Verdict::Discard]);
    all.extend(verdicts.map(|verdict| ToWorker::Verdict { token, verdict }));
    let settlements = every([Settlement::Applied, Settlement::Duplicate, Settlement::Stale]);
    all.extend(settlements.map(|settlement| ToWorker::Settled { token, settlement, outcome: None }));
    all.extend(every([Stream::Out, Stream::Err]).map(|stream| ToWorker::Kept { token, stream, offset: 5 }));
    all
}

fn from_client(about: &[u8]) -> Vec<FromClient<'_>> {
    let (task, token) = (TASK, TOKEN);
    let mut all = vec![
        FromClient::Submit { task, spec: TaskSpec::default(), about: &[], payload: b"input", follow: Follow::Output },
        FromClient::Submit { task, spec: SPEC, about, payload: b"", follow: Follow::Acceptance },
        FromClient::Cancel { task },
    ];
    let follow = every([Follow::Acceptance, Follow::Outcome, Follow::Output]);
    all.extend(follow.map(|follow| FromClient::Watch { task, follow }));
    let name: PeerName = "lab-3".parse().expect("a legal name");
    let questions = every([
        Question::Status,
        Question::Workers { after: None },
        Question::Tasks { after: 0, open: true },
        Question::Task(task),
        Question::Drain(name.clone()),
        Question::Terms(task),
        Question::Brake { end: true },
        Question::Checkpoints(task),
        Question::CheckpointPiece { task, number: 300, offset: 65_536 },
        Question::DropCheckpoints(task),
        Question::Forget(task),
        Question::RotateKey(name.clone()),
    ]);
    all.extend(questions.map(|question| FromClient::Ask { ask: 1, question }));
    all.push(FromClient::Ask { ask: 300, question: Question::Workers { after: Some(name) } });
    all.extend(every([Stream::Out, Stream::Err]).map(|stream| FromClient::Taken { task, token, stream, offset: 5 }));
    let (payload, length, names, follow) = (b"payload", 70_000, &[0x44; 64], Follow::Outcome);
    all.push(FromClient::SubmitLarge { task, spec: SPEC, about, payload, length, names, follow });
    all.push(FromClient::InputPiece { task, offset: 65_536, bytes: b"a piece" });
    all
}

fn to_client(answer: &[u8]) -> Vec<ToClient<'_>> {
    let (task, token) = (TASK, TOKEN);
    let mut all = vec![
        ToClient::Accepted { task },
        ToClient::Progress { task, attempt: 1, progress: 50 },
        ToClient::Answer { ask: 300, answer },
        ToClient::Forgotten { task, outcome: Outcome::Succeeded },
        ToClient::Outcome {
            task,
            attempt: 0,
            token: None,
            outcome: Outcome::Cancelled,
            result: b"",
            streams: [StreamEnd::default(); 2],
        },
    ];
    let reasons = every([
        Refused::Conflict,
        Refused::Unknown,
        Refused::Full,
        Refused::TooLarge,
        Refused::BadSpec,
        Refused::Damaged,
    ]);
    all.extend(reasons.map(|reason| ToClient::Refused { task, reason }));
    let output = |stream| ToClient::Output { task, token, stream, offset: 0, bytes: b"hello" };
    all.extend(every([Stream::Out, Stream::Err]).map(output));
    all.extend(outcomes().into_iter().map(|outcome| ToClient::Outcome {
        task,
        attempt: 1,
        token: Some(token),
        outcome,
        result: b"result",
        streams: streams(),
    }));
    let (outcome, length) = (Outcome::Succeeded, 70_000);
    all.push(ToClient::LargeOutcome { task, attempt: 1, token, outcome, length, streams: streams() });
    all.push(ToClient::InputNeed { task, wanted: &[3] });
    all
}

/// What a worker offers, and a task needs
fn tags() -> Tags {
    let mut tags = Tags::default();
    for (name, tag) in ["os", "gpu"].into_iter().zip(every([Tag::Label("linux".into()), Tag::Amount(300)])) {
        tags.insert(name, tag).expect("a legal name");
    }
    tags
}

/// What questions are answered by, bare
fn add_views(book: &mut Book) {
    let status = StatusView {
        cluster: ClusterId([5; 16]),
        epoch: 7,
        up_us: 1_000_000,
        waiting: 1,
        assigned: 2,
        ended: [300, 4, 5],
        workers: 6,
        connected: 5,
        stale: 1,
        resumed: 40,
    };
    add_view(book, "StatusView.1", &status);
    let name: PeerName = "lab-3".parse().expect("a legal name");
    let states = every([
        WorkerState::Unknown,
        WorkerState::Connected,
        WorkerState::Suspect,
        WorkerState::Draining,
        WorkerState::Disconnected,
        WorkerState::Lost,
        WorkerState::Flapping,
        WorkerState::Revoked,
    ]);
    for (n, state) in states.into_iter().enumerate() {
        let (rtt_us, away_us) = (Some(300), Some(5).filter(|_| n > 3 && n < 6));
        let offers = tags().encode().expect("legal");
        let view = WorkerView { name: name.clone(), state, held: [2, 1], rtt_us, away_us, offers };
        add_view(book, &format!("WorkerView.{}", n + 1), &view);
    }
    let whys = every([
        Why::NotDurable,
        Why::NoWorker,
        Why::NothingFits,
        Why::WorkersBusy,
        Why::Pausing,
        Why::WaitsToRunAlone,
        Why::AtWorker,
        Why::Runs,
        Why::WorkerAway,
        Why::Ended,
        Why::LeaseHeld,
    ]);
    for (n, why) in whys.into_iter().enumerate() {
        let runs = why == Why::Runs;
        let view = TaskView {
            position: 300,
            task: TASK,
            title: "gzip a.log".into(),
            spec: SPEC,
            attempts: 1,
            why,
            worker: runs.then(|| name.clone()),
            progress: 50,
            checkpoint: runs.then_some(3),
            token: runs.then_some(TOKEN),
            kept: [5, 0],
            outcome: (why == Why::Ended).then_some(Outcome::Succeeded),
        };
        add_view(book, &format!("TaskView.{}", n + 1), &view);
    }
    for (n, forgetting) in every([Forgetting::Done, Forgetting::Open, Forgetting::Unknown]).into_iter().enumerate() {
        add_view(book, &format!("Forgetting.{}", n + 1), &forgetting);
    }
    add_view(book, "Page.1", &Page { last: true, items: b"items" });
}

/// What is said about a task whose terms are not the usual ones
fn add_terms(book: &mut Book) {
    let span = Span::try_from(Duration::from_secs(90)).expect("a legal time");
    let usual = Terms::default();
    let mut all: Vec<Terms> = Vec::new();
    all.extend(
        every([TaskClass::Pure, TaskClass::Idempotent, TaskClass::Exclusive]).map(|class| Terms { class, ..usual }),
    );
    all.extend(
        every([Replace::Never, Replace::WhenLost, Replace::After(span)]).map(|replace| Terms { replace, ..usual }),
    );
    let returns = every([OnReturn::FirstResult, OnReturn::KeepReplacement]);
    all.extend(returns.map(|on_return| Terms { on_return, ..usual }));
    let (lost_after, self_stop_after, progress_timeout) = (Some(span), Some(span), Some(span));
    all.push(Terms { lost_after, self_stop_after, progress_timeout, ..usual });
    for (n, terms) in all.into_iter().filter(|terms| *terms != usual).enumerate() {
        let about = About { terms, ..About::default() };
        let found = book.add(&format!("About.{}", n + 1), &terms, &about.encode().expect("legal"));
        assert_eq!(About::decode(&found), Ok(about));
    }
}

fn add_view<T: serde::Serialize + std::fmt::Debug>(book: &mut Book, name: &str, view: &T) {
    book.add(name, view, &postcard::to_allocvec(view).expect("a view can be encoded"));
}

#[test]
fn every_variant_has_a_vector() {
    let (from_worker, to_worker) = (from_worker(&[], &[]), to_worker());
    for variant in FromWorker::ALL {
        assert!(from_worker.iter().any(|message| message.variant() == *variant), "{variant}");
    }
    for variant in ToWorker::ALL {
        assert!(to_worker.iter().any(|message| message.variant() == *variant), "{variant}");
    }
    for variant in Control::ALL {
        assert!(control().iter().any(|message| message.variant() == *variant), "{variant}");
    }
    for variant in FromClient::ALL {
        assert!(from_client(&[]).iter().any(|message| message.variant() == *variant), "{variant}");
    }
    for variant in ToClient::ALL {
        assert!(to_client(&[]).iter().any(|message| message.variant() == *variant), "{variant}");
    }
}

#[test]
fn frame_6_every_message_that_came_with_the_second_version_is_encoded_as_ever() {
    let mut book =
        Book::open("messages_2.txt", "What wire format 2 adds, each message as the only item of a frame's body");
    let said = control().into_iter().filter(is_second).collect();
    add!(book, Control, |_| Class::Control, said);
    let from_worker = from_worker(&[], &[]).into_iter().filter(|message| message.since() == 2).collect();
    add!(book, FromWorker<'_>, |message| class_of(message.is_loose()), from_worker);
    let to_worker = to_worker().into_iter().filter(|message| message.since() == 2).collect();
    add!(book, ToWorker<'_>, |message| class_of(message.is_loose()), to_worker);
    let to_client = to_client(&[]).into_iter().filter(|message| message.since() == 2).collect();
    add!(book, ToClient<'_>, |message| class_of(message.is_loose()), to_client);
    let from_client = from_client(&[]).into_iter().filter(|message| message.since() == 2).collect();
    add!(book, FromClient<'_>, |message| class_of(message.is_loose()), from_client);
    book.chapter("About with terms");
    add_terms(&mut book);
    book.close();
}

#[test]
fn frame_6_every_message_is_encoded_as_ever() {
    let mut book = Book::open(
        "messages.txt",
        "Every message of wire format 1, each as the only item of a frame's body\n\n\
         2 bytes length of the payload, 1 byte class (0 control, 1 numbered, 2 loose), 8 bytes number if there is one,\n\
         and the payload in postcard's format; numbers are little endian",
    );
    let numbered = Class::Numbered(1);
    let about = About { title: "gzip a.log".into(), needs: tags(), ..About::default() }.encode().expect("legal");
    let answer = postcard::to_allocvec(&true).expect("an answer can be encoded");
    let said = control().into_iter().filter(|message| !is_second(message)).collect();
    add!(book, Control, |_| Class::Control, said);
    let (items, tags) = (inventory(), tags().encode().expect("legal tags"));
    let first = |since: u16| since == 1;
    let from_worker = from_worker(&items, &tags).into_iter().filter(|message| first(message.since())).collect();
    add!(book, FromWorker<'_>, |message| class_of(message.is_loose()), from_worker);
    let to_worker = to_worker().into_iter().filter(|message| first(message.since())).collect();
    add!(book, ToWorker<'_>, |message| class_of(message.is_loose()), to_worker);
    add!(
        book,
        FromClient<'_>,
        |message| class_of(message.is_loose()),
        from_client(&about).into_iter().filter(|message| first(message.since())).collect()
    );
    let to_client = to_client(&answer).into_iter().filter(|message| first(message.since())).collect();
    add!(book, ToClient<'_>, |message| class_of(message.is_loose()), to_client);
    book.chapter("Answers");
    add_views(&mut book);
    book.chapter("Batches");
    let mut room = [0; 256];
    let mut body = BodyWriter::new(&mut room);
    let (task, token, stream) = (TASK, TOKEN, Stream::Out);
    assert!(body.push(Class::Control, &Control::Ack { received: 1 }));
    assert!(body.push_void(1));
    assert!(body.push(Class::Numbered(2), &ToWorker::Recall { token }));
    assert!(body.push(
        Class::Numbered(3),
        &ToWorker::Assign { task, token, attempt: 1, priority: 0, restores: false, payload: b"x" }
    ));
    assert!(body.push(Class::Loose, &ToWorker::Kept { token, stream, offset: 5 }));
    let len = body.len();
    let meaning = format_args!("an acknowledgement, a VOID under number 1, two numbered messages, a loose one");
    let found = book.add("batch", &meaning, &room[..len]);
    let classes: Vec<_> = BodyReader::new(&found).map(|item| item.expect("a whole item").class).collect();
    let numbers = [numbered, Class::Numbered(2), Class::Numbered(3)];
    assert_eq!(classes, [&[Class::Control][..], &numbers, &[Class::Loose]].concat());
    let mut ignorable = [0, 0, 0x82];
    let meaning = format_args!("a loose message of an unknown kind that may be ignored");
    ignorable[0] = 1;
    let found = book.add("ignorable", &meaning, &[&ignorable[..], &[0x7f]].concat());
    let item = BodyReader::new(&found).next().expect("an item").expect("a whole one");
    assert!(item.ignorable && item.decode::<ToWorker<'_>>().is_none());
    book.close();
}
