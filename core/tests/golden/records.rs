use rejoin_core::ids::{ClusterId, Token};
use rejoin_core::journal::Record;
use rejoin_core::wire::message::{Outcome, Stream, StreamEnd};

use crate::book::Book;
use crate::messages::{SPEC, TASK, TOKEN, outcomes, streams};
use crate::variants::{Variants, every};

#[test]
fn journ_1_every_record_is_encoded_as_ever() {
    let mut book = Book::open(
        "records.txt",
        "Every record of journal format 1\n\n1 byte version, and the record in postcard's format",
    );
    let (task, token) = (TASK, TOKEN);
    let ended_unrun = Record::Result {
        task,
        token: None,
        attempt: 0,
        outcome: Outcome::Cancelled,
        last: true,
        result: b"",
        streams: [StreamEnd::default(); 2],
    };
    let worker = "lab-3".parse().expect("a legal name");
    let mut all = every([
        Record::Epoch { epoch: 7, cluster: ClusterId([5; 16]) },
        Record::Tokens { below: (1 << 20) + 1 },
        Record::Submit { task, spec: SPEC, about: b"about", payload: b"input" },
        Record::Assign { task, token: Token(300), attempt: 2, worker },
        ended_unrun,
        Record::Cancel { task },
        Record::Forget { task },
        Record::Output { task, token, stream: Stream::Err, offset: 300, bytes: b"hello" },
        Record::Checkpoint { task, token, number: 3, bytes: b"so far" },
        Record::Piece { task, home: 300, offset: 16_384, bytes: b"a piece" },
        Record::Chunk { task, home: 300, length: 65_536, name: [0x44; 32] },
        Record::Manifest { task, token, number: 4, length: 70_000, homes: &[0xac, 0x02, 7] },
        Record::Unreadable { task },
        Record::Gone { task, homes: &[0xac, 0x02, 7] },
        Record::Forgotten { task, content: [0x55; 32], outcome: Outcome::Succeeded },
        Record::Lapsed { task },
        Record::Lease { ttl_us: 30_000_000, grace_us: 10_000_000 },
        Record::Restored { from: 300, below: 1 << 40, waits: true },
        Record::SubmitLarge {
            task,
            spec: SPEC,
            about: b"about",
            payload: b"payload",
            length: 70_000,
            names: &[0x44; 64],
            homes: &[1, 0xac, 2],
        },
    ])
    .to_vec();
    all.extend(outcomes().into_iter().map(|outcome| Record::Result {
        task,
        token: Some(token),
        attempt: 1,
        outcome,
        last: outcome == Outcome::Succeeded,
        result: b"result",
        streams: streams(),
    }));
    for variant in Record::ALL {
        for (n, record) in all.iter().filter(|record| record.variant() == *variant).enumerate() {
            let found = book.add(&format!("Record.{variant}.{}", n + 1), record, &record.encode());
            assert_eq!(Record::decode(&found).as_ref(), Some(record));
        }
    }
    book.close();
}
