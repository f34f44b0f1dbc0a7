use rejoin_core::ids::{SessionId, TaskId, Token};
use rejoin_core::wire::message::{
    BodyReader, BodyWriter, CancelReason, Class, Control, Credit, Denied, Failure, FromClient, FromWorker, Held,
    InventoryItem, Outcome, Refused, Settlement, Stream, StreamEnd, TaskSpec, ToClient, ToWorker, Verdict, Welcome,
};

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
            assert!(!all.is_empty(), "{variant} has a vector");
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

fn from_worker(items: &[u8]) -> Vec<FromWorker<'_>> {
    let (task, token) = (TASK, TOKEN);
    let mut all = vec![
        FromWorker::Inventory { part: 0, last: true, cut: 0, items: &[] },
        FromWorker::Inventory { part: 1, last: false, cut: 300, items },
        FromWorker::Running { token, progress: 0 },
        FromWorker::Running { token: Token(u64::MAX), progress: 128 },
        FromWorker::GivenBack { token },
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
    all
}

fn to_worker() -> Vec<ToWorker<'static>> {
    let (task, token) = (TASK, TOKEN);
    let mut all = vec![
        ToWorker::Assign { task, token, attempt: 1, priority: 0, payload: b"input" },
        ToWorker::Assign { task, token: Token(1 << 20), attempt: 300, priority: 4, payload: b"" },
        ToWorker::Recall { token },
        ToWorker::Settled { token, settlement: Settlement::Applied, outcome: Some(Outcome::Succeeded) },
    ];
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

fn from_client() -> Vec<FromClient<'static>> {
    let (task, token) = (TASK, TOKEN);
    let mut all = vec![
        FromClient::Submit { task, spec: TaskSpec::default(), payload: b"input" },
        FromClient::Submit { task, spec: SPEC, payload: b"" },
        FromClient::Watch { task },
        FromClient::Cancel { task },
    ];
    all.extend(every([Stream::Out, Stream::Err]).map(|stream| FromClient::Taken { task, token, stream, offset: 5 }));
    all
}

fn to_client() -> Vec<ToClient<'static>> {
    let (task, token) = (TASK, TOKEN);
    let mut all = vec![
        ToClient::Accepted { task },
        ToClient::Progress { task, attempt: 1, progress: 50 },
        ToClient::Outcome {
            task,
            attempt: 0,
            token: None,
            outcome: Outcome::Cancelled,
            result: b"",
            streams: [StreamEnd::default(); 2],
        },
    ];
    let reasons = every([Refused::Conflict, Refused::Unknown, Refused::Full, Refused::TooLarge, Refused::BadSpec]);
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
    all
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
    add!(book, Control, |_| Class::Control, control());
    let items = inventory();
    add!(
        book,
        FromWorker<'_>,
        |message| if matches!(message, FromWorker::Output { .. }) { Class::Loose } else { Class::Numbered(1) },
        from_worker(&items)
    );
    add!(
        book,
        ToWorker<'_>,
        |message| if matches!(message, ToWorker::Kept { .. }) { Class::Loose } else { Class::Numbered(1) },
        to_worker()
    );
    add!(
        book,
        FromClient<'_>,
        |message| if matches!(message, FromClient::Taken { .. }) { Class::Loose } else { Class::Numbered(1) },
        from_client()
    );
    add!(
        book,
        ToClient<'_>,
        |message| if matches!(message, ToClient::Output { .. }) { Class::Loose } else { Class::Numbered(1) },
        to_client()
    );
    book.chapter("Batches");
    let mut room = [0; 256];
    let mut body = BodyWriter::new(&mut room);
    let (task, token, stream) = (TASK, TOKEN, Stream::Out);
    assert!(body.push(Class::Control, &Control::Ack { received: 1 }));
    assert!(body.push_void(1));
    assert!(body.push(Class::Numbered(2), &ToWorker::Recall { token }));
    assert!(body.push(Class::Numbered(3), &ToWorker::Assign { task, token, attempt: 1, priority: 0, payload: b"x" }));
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
