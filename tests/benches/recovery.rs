//! What a restart costs: from the journal on disk to a coordinator that listens
//!
//! The journal is that of a long life: 1,000,000 tasks that have ended and 100,000 that have not, half of those at a
//! worker. Beside it, in turns, the same file is read and hashed with SHA-256 and nothing else is done: no recovery that
//! looks at every byte can be faster. `cargo bench -p rejoin-tests --bench recovery` prints both.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use rejoin_core::coordinator::Config;
use rejoin_core::ids::{ClusterId, Role, TaskId, Token};
use rejoin_core::journal::Record;
use rejoin_core::wire::message::{Outcome, TaskSpec};
use rejoin_smol::coordinator::{Recovered, Server};
use rejoin_smol::journal::{DurableJournal, Journal};
use rejoin_tests::{LOOPBACK, WORKERS, key};
use sha2::{Digest, Sha256};

const FINISHED: u64 = 1_000_000;
const OPEN: u64 = 100_000;
/// Tasks whose records are synced together, as they are under load
const GROUP: u64 = 250;
const ROUNDS: u64 = 5;

fn main() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("journal.redb");
    let written = Instant::now();
    let records = write(dir.path());
    let size = File::open(&path).and_then(|file| file.metadata()).expect("a journal").len();
    println!(
        "{records} records of {FINISHED} finished and {OPEN} open tasks, {} MB, written in {:.1?}",
        size / 1_000_000,
        written.elapsed()
    );
    let (mut bare, mut recoveries) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        bare.push(read(&path));
        let (recovered, took) = recover(dir.path());
        recoveries.push(took);
        // Each start adds its epoch and its tokens.
        assert_eq!((recovered.records, recovered.open, recovered.ended), (records + 2 * round, OPEN, FINISHED));
    }
    let (bare, recovery) = (median(bare), median(recoveries));
    println!("reading and hashing the file:                 {bare:.2?}");
    println!("recovery, from opening to listening:          {recovery:.2?}");
    println!("ratio of the medians: {:.2}", recovery.as_secs_f64() / bare.as_secs_f64());
    println!("rate: {:.0} records/s", records as f64 / recovery.as_secs_f64());
}

fn id(n: u64) -> TaskId {
    let mut id = [0x5a; 16];
    id[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    TaskId(id)
}

/// Writes the journal, and returns how many records it has
fn write(dir: &Path) -> u64 {
    let mut journal = DurableJournal::open(dir).expect("a journal");
    let mut records = 0;
    let mut append = |journal: &mut DurableJournal, record: Record<'_>| {
        records += 1;
        journal.append(&record.encode()).expect("room");
    };
    append(&mut journal, Record::Epoch { epoch: 1, cluster: ClusterId([7; 16]) });
    append(&mut journal, Record::Tokens { below: 2 * (FINISHED + OPEN) });
    // As one command of some 80 bytes has them.
    let (spec, payload) = (TaskSpec { priority: 2, retries: 0 }, [0x61; 80]);
    let worker: rejoin_core::ids::PeerName = WORKERS[0].parse().expect("a name");
    for n in 1..=FINISHED + OPEN {
        let (task, token) = (id(n), Token(n));
        append(&mut journal, Record::Submit { task, spec, about: &[], payload: &payload });
        let ended = n <= FINISHED;
        if ended || n % 2 == 0 {
            append(&mut journal, Record::Assign { task, token, attempt: 1, worker: worker.clone() });
        }
        if ended {
            let (outcome, streams) = (Outcome::Succeeded, Default::default());
            let token = Some(token);
            append(&mut journal, Record::Result { task, token, attempt: 1, outcome, last: true, result: &[], streams });
        }
        if n % GROUP == 0 {
            journal.sync().expect("room");
        }
    }
    journal.sync().expect("room");
    records
}

/// What was found, and how long it took until somebody could connect
fn recover(dir: &Path) -> (Recovered, Duration) {
    smol::block_on(async {
        let begun = Instant::now();
        let journal = DurableJournal::open(dir).expect("a journal");
        let config = Config::new(ClusterId([0; 16]), 1, vec![key(WORKERS[0], Role::Worker)]);
        let mut server = Server::start(LOOPBACK, config, journal).await.expect("a coordinator");
        let took = begun.elapsed();
        let recovered = server.recovered();
        server.handle().stop().await;
        server.ended().await.expect("an orderly end");
        (recovered, took)
    })
}

fn read(path: &Path) -> Duration {
    let begun = Instant::now();
    let mut file = File::open(path).expect("a journal");
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 20]);
    loop {
        let count = file.read(&mut piece).expect("a journal");
        if count == 0 {
            break;
        }
        hash.update(&piece[..count]);
    }
    std::hint::black_box(hash.finalize());
    begun.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
