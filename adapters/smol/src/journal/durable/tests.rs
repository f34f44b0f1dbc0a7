use super::*;
use std::ops::Range;
use std::sync::Mutex;

use redb::TableHandle;
use rejoin_core::coordinator::{self, Coordinator, Recovery};
use rejoin_core::ids::ClusterId;
use rejoin_core::wire::message::{Outcome, TaskSpec};
use rejoin_core::{Instant, Seed};

use crate::journal::lock;

/// A disk of which only what was synced is sure to be there
#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Platter>>);

#[derive(Clone, Debug, Default)]
struct Platter {
    bytes: Vec<u8>,
    /// As of the last sync, and everything that has happened since
    synced: Vec<u8>,
    since: Vec<Change>,
    /// Calls that succeed until the disk is full; no end if absent
    room: Option<usize>,
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Len(u64),
}

impl Change {
    fn apply(&self, to: &mut Vec<u8>, cut: usize) {
        match self {
            Change::Len(len) => to.resize(*len as usize, 0),
            Change::Write(at, bytes) => {
                let at = *at as usize;
                let part = &bytes[..cut.min(bytes.len())];
                if to.len() < at + part.len() {
                    to.resize(at + part.len(), 0);
                }
                to[at..at + part.len()].copy_from_slice(part);
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Change::Len(_) => 0,
            Change::Write(_, bytes) => bytes.len(),
        }
    }
}

impl Disk {
    fn of(bytes: Vec<u8>) -> Disk {
        Disk(Arc::new(Mutex::new(Platter { synced: bytes.clone(), bytes, ..Platter::default() })))
    }

    fn bytes(&self) -> Vec<u8> {
        lock(&self.0).bytes.clone()
    }

    fn use_room(platter: &mut Platter) -> io::Result<()> {
        if let Some(room) = &mut platter.room {
            *room = room.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        }
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.0).bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let platter = lock(&self.0);
        let range = offset as usize..offset as usize + out.len();
        out.copy_from_slice(platter.bytes.get(range).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut platter = lock(&self.0);
        Disk::use_room(&mut platter)?;
        let change = Change::Len(len);
        change.apply(&mut platter.bytes, 0);
        platter.since.push(change);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = lock(&self.0);
        Disk::use_room(&mut platter)?;
        platter.synced = platter.bytes.clone();
        platter.since.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut platter = lock(&self.0);
        Disk::use_room(&mut platter)?;
        let change = Change::Write(offset, data.into());
        change.apply(&mut platter.bytes, usize::MAX);
        platter.since.push(change);
        Ok(())
    }
}

fn path() -> PathBuf {
    "journal".into()
}

fn task(n: u8) -> TaskId {
    TaskId([n; 16])
}

fn submit(n: u8) -> Vec<u8> {
    Record::Submit { task: task(n), spec: TaskSpec::default(), about: &[], payload: &[n; 90] }.encode()
}

fn assign(n: u8, token: u64) -> Vec<u8> {
    let worker = "w".parse().unwrap();
    Record::Assign { task: task(n), token: Token(token), attempt: 1, worker }.encode()
}

fn output(n: u8, token: u64, offset: u64, bytes: &[u8]) -> Vec<u8> {
    Record::Output { task: task(n), token: Token(token), stream: Stream::Out, offset, bytes }.encode()
}

fn checkpoint(n: u8, token: u64, number: u64) -> Vec<u8> {
    Record::Checkpoint { task: task(n), token: Token(token), number, bytes: &[number as u8; 500] }.encode()
}

fn result(n: u8, token: u64, last: bool) -> Vec<u8> {
    let (outcome, streams) = (Outcome::Succeeded, Default::default());
    let token = Some(Token(token));
    Record::Result { task: task(n), token, attempt: 1, outcome, last, result: b"done", streams }.encode()
}

fn append(journal: &mut DurableJournal, group: &[Vec<u8>]) {
    group.iter().for_each(|record| journal.append(record).unwrap());
    journal.sync().unwrap();
}

/// All records that a disk gives back
fn recovered(disk: Disk) -> io::Result<Vec<Vec<u8>>> {
    let mut journal = DurableJournal::with_backend(path(), disk).map_err(io::Error::other)?;
    let mut records = Vec::new();
    journal.replay(&mut |record| {
        records.push(record.to_vec());
        Ok(())
    })?;
    Ok(records)
}

/// A disk with a few groups on it, and all records of each, as they will be given back one after the other
fn story() -> (Disk, Vec<Vec<Vec<u8>>>) {
    let groups = vec![
        vec![Record::Tokens { below: 9 }.encode(), submit(1)],
        vec![assign(1, 1), submit(2), submit(3)],
        vec![assign(2, 2), result(1, 1, true)],
        vec![submit(4)],
    ];
    let disk = Disk::default();
    let mut journal = DurableJournal::with_backend(path(), disk.clone()).unwrap();
    groups.iter().for_each(|group| append(&mut journal, group));
    (disk, groups)
}

#[test]
fn journ_4_records_come_back_in_order_however_often_the_journal_is_opened() {
    let (disk, groups) = story();
    let mut expected = groups.concat();
    assert_eq!(recovered(disk.clone()).unwrap(), expected);
    let mut journal = DurableJournal::with_backend(path(), disk.clone()).unwrap();
    append(&mut journal, &[submit(5)]);
    drop(journal);
    expected.push(submit(5));
    assert_eq!(recovered(disk).unwrap(), expected);
}

#[test]
fn journ_4_output_comes_back_for_open_attempts_and_is_gone_with_those_that_do_not_count() {
    let disk = Disk::default();
    let mut journal = DurableJournal::with_backend(path(), disk.clone()).unwrap();
    append(&mut journal, &[submit(1), assign(1, 1), output(1, 1, 0, b"ab"), assign(1, 2), output(1, 2, 0, b"cd")]);
    append(&mut journal, &[output(1, 2, 2, b"efg"), submit(2), assign(2, 3), output(2, 3, 0, b"open")]);
    append(&mut journal, &[output(2, 3, 4, b"more"), result(1, 2, true)]);
    let outputs = journal.outputs();
    let read = |token, offset, room: usize| {
        let mut out = vec![0; room];
        let count = outputs.read_at(Token(token), Stream::Out, offset, &mut out).unwrap();
        out.truncate(count);
        String::from_utf8(out).unwrap()
    };
    for offset in 0..=6 {
        for room in 0..=6 {
            let all = &b"cdefg"[(offset as usize).min(5)..];
            assert_eq!(read(2, offset, room).as_bytes(), &all[..room.min(all.len())], "{offset} {room}");
        }
    }
    assert_eq!(read(1, 0, 9), "", "another attempt ended the task");
    drop((journal, outputs));
    let records = recovered(disk.clone()).unwrap();
    let pieces: Vec<_> = records.iter().filter(|r| matches!(Record::decode(r), Some(Record::Output { .. }))).collect();
    assert_eq!(
        pieces,
        [&output(2, 3, 0, b"open"), &output(2, 3, 4, b"more")],
        "those of ended tasks are not looked at"
    );
    let mut journal = DurableJournal::with_backend(path(), disk).unwrap();
    journal.replay(&mut |_| Ok(())).unwrap();
    append(&mut journal, &[Record::Forget { task: task(1) }.encode()]);
    let mut out = [0; 9];
    assert_eq!(journal.outputs().read_at(Token(2), Stream::Out, 0, &mut out).unwrap(), 0, "it was forgotten");
}

#[test]
fn ckpt_1_only_the_newest_checkpoint_is_kept_and_only_until_the_task_ends() {
    let disk = Disk::default();
    let mut journal = DurableJournal::with_backend(path(), disk.clone()).unwrap();
    append(&mut journal, &[submit(1), assign(1, 1), submit(2), assign(2, 2), checkpoint(1, 1, 1), checkpoint(2, 2, 1)]);
    append(&mut journal, &[checkpoint(1, 1, 2)]);
    append(&mut journal, &[result(2, 2, true), checkpoint(1, 1, 3)]);
    drop(journal);
    let records = recovered(disk).unwrap();
    let kept: Vec<_> = records.iter().filter(|r| is_checkpoint(r)).collect();
    assert_eq!(kept, [&checkpoint(1, 1, 3)]);
}

#[test]
fn journ_4_a_power_cut_at_any_byte_of_the_last_group_leaves_it_whole_or_not_at_all() {
    let (disk, groups) = story();
    let before = groups[..3].concat();
    let after = groups.concat();
    // As it was when the last group was begun, and what was written since, sync by sync.
    let disk_before = Disk::default();
    let mut journal = DurableJournal::with_backend(path(), disk_before.clone()).unwrap();
    groups[..3].iter().for_each(|group| append(&mut journal, group));
    let start = disk_before.bytes();
    drop((journal, disk));
    let traced = Traced::default();
    *lock(&traced.disk.0) = Platter { bytes: start.clone(), ..Platter::default() };
    let mut journal = DurableJournal::with_backend(path(), traced.clone()).unwrap();
    lock(&traced.changes).clear();
    let start = traced.disk.bytes();
    append(&mut journal, &groups[3]);
    let changes = lock(&traced.changes).clone();
    drop(journal);
    let (mut old, mut new) = (0, 0);
    let mut image = start;
    for change in &changes {
        // Every byte of what is short, and the first and last ones of what is long.
        let cuts: Vec<usize> = (0..change.len()).filter(|at| *at < 700 || at % 97 == 0).collect();
        for cut in cuts {
            let mut torn = image.clone();
            change.apply(&mut torn, cut);
            let records = recovered(Disk::of(torn)).unwrap();
            assert!(records == before || records == after, "neither the old nor the new");
            *if records == before { &mut old } else { &mut new } += 1;
        }
        change.apply(&mut image, usize::MAX);
    }
    assert_eq!(recovered(Disk::of(image)).unwrap(), after);
    assert!(old > 100, "{old} cuts left the old records, {new} the new ones");
}

/// A disk that remembers all changes, synced or not
#[derive(Clone, Debug, Default)]
struct Traced {
    disk: Disk,
    changes: Arc<Mutex<Vec<Change>>>,
}

impl StorageBackend for Traced {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        lock(&self.changes).push(Change::Len(len));
        self.disk.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        lock(&self.changes).push(Change::Write(offset, data.into()));
        self.disk.write(offset, data)
    }
}

#[test]
fn journ_3_what_was_synced_survives_whichever_unsynced_writes_a_power_cut_swallows() {
    let mut draw = 1_u64;
    for round in 0..150 {
        let disk = Disk::default();
        let mut journal = DurableJournal::with_backend(path(), disk.clone()).unwrap();
        append(&mut journal, &[submit(1), assign(1, 1)]);
        append(&mut journal, &[output(1, 1, 0, &[7; 3000]), submit(2)]);
        let sure = recovered(Disk::of(disk.bytes())).unwrap();
        // The next group is under way when the power fails.
        lock(&disk.0).room = Some(round % 14);
        journal.append(&submit(3)).unwrap();
        let told = journal.sync().is_ok();
        let Platter { mut synced, since, .. } = lock(&disk.0).clone();
        for change in since {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if draw >> 63 == 0 {
                change.apply(&mut synced, (draw >> 40) as usize % (change.len() + 1));
            } else if draw >> 62 == 2 {
                change.apply(&mut synced, usize::MAX);
            }
        }
        drop(journal);
        let records = recovered(Disk::of(synced)).unwrap();
        let without_third = |records: &[Vec<u8>]| records.iter().filter(|r| **r != submit(3)).count();
        assert_eq!(without_third(&records), sure.len(), "round {round}");
        assert!(!told || records.contains(&submit(3)), "what was told to be durable is there");
    }
}

#[test]
fn journ_3_a_full_disk_is_final_and_named_and_loses_nothing_that_was_acknowledged() {
    for room in 0..40 {
        let disk = Disk::default();
        let mut journal = DurableJournal::with_backend(path(), disk.clone()).unwrap();
        append(&mut journal, &[submit(1)]);
        lock(&disk.0).room = Some(room);
        let mut acknowledged = vec![submit(1)];
        let failed = (2..40).find_map(|n| {
            journal.append(&submit(n)).unwrap();
            match journal.sync() {
                Ok(()) => {
                    acknowledged.push(submit(n));
                    None
                }
                Err(error) => Some(error),
            }
        });
        let Some(error) = failed else { continue };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
        assert!(error.to_string().starts_with("journal: "), "{error}");
        assert!(journal.append(&submit(50)).and_then(|()| journal.sync()).is_err(), "it stays so");
        drop(journal);
        let records = recovered(Disk::of(disk.bytes())).unwrap();
        assert_eq!(records[..acknowledged.len()], acknowledged, "{room} calls");
        assert!(records.len() <= acknowledged.len() + 1);
    }
}

/// What a damaged file gives back: all records as they were, or an error that names the file
fn damaged_is_named(bytes: Vec<u8>, whole: &[Vec<u8>], what: &dyn fmt::Debug) -> bool {
    match recovered(Disk::of(bytes)) {
        Ok(records) => {
            assert_eq!(records, whole, "{what:?} goes unnoticed");
            false
        }
        Err(error) => {
            let text = error.to_string();
            assert!(text.starts_with("journal: "), "{what:?}: {text}");
            true
        }
    }
}

#[test]
fn journ_4_any_flipped_byte_is_named_or_harmless() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let (disk, groups) = story();
    let (bytes, whole) = (disk.bytes(), groups.concat());
    let used: Vec<Range<usize>> = used_pages(&bytes);
    let (mut flips, mut named) = (0, 0);
    for page in used {
        // Every byte of the header, a third of all others.
        for at in page.clone().filter(|at| *at < 512 || at % 3 == 0) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x40;
            named += usize::from(damaged_is_named(flipped, &whole, &at));
            flips += 1;
        }
    }
    std::panic::set_hook(hook);
    assert!(flips > 1000 && named > flips / 10, "{named} of {flips} named");
}

/// Pages that hold anything
fn used_pages(bytes: &[u8]) -> Vec<Range<usize>> {
    let pages = (0..bytes.len()).step_by(4096).map(|at| at..(at + 4096).min(bytes.len()));
    pages.filter(|page| bytes[page.clone()].iter().any(|byte| *byte != 0)).collect()
}

#[test]
fn journ_4_a_file_cut_short_is_named() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let (disk, groups) = story();
    let (bytes, whole) = (disk.bytes(), groups.concat());
    let used = used_pages(&bytes).last().unwrap().end;
    let mut named = 0;
    for cut in (1..used).step_by(61) {
        named += usize::from(damaged_is_named(bytes[..cut].to_vec(), &whole, &cut));
    }
    std::panic::set_hook(hook);
    assert!(named > 50, "{named}");
}

#[test]
fn a_missing_group_and_a_damaged_one_are_named_by_their_records() {
    let (disk, _) = story();
    let change = |edit: &dyn Fn(&redb::WriteTransaction)| {
        let db = Builder::new().create_with_backend(Disk::of(disk.bytes())).unwrap();
        let copy = Disk::of(disk.bytes());
        drop(db);
        let db = Builder::new().create_with_backend(copy.clone()).unwrap();
        let txn = db.begin_write().unwrap();
        edit(&txn);
        txn.commit().unwrap();
        drop(db);
        recovered(copy).unwrap_err().to_string()
    };
    let missing = change(&|txn| {
        txn.open_table(Log::new(0).table()).unwrap().remove(3).unwrap();
    });
    assert!(missing.contains("records 3 to 5 are missing") && missing.contains("backup"), "{missing}");
    for first in [3, 8] {
        let damaged = change(&|txn| {
            let mut log = txn.open_table(Log::new(0).table()).unwrap();
            let mut bytes = log.get(first).unwrap().unwrap().value().to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            log.insert(first, &*bytes).unwrap();
        });
        assert!(damaged.contains(&format!("from number {first} on is damaged")), "{damaged}");
    }
    let newer = change(&|txn| {
        txn.open_table(META).unwrap().insert("version", VERSION + 1).unwrap();
    });
    assert!(newer.contains("newer"), "{newer}");
}

#[test]
fn folders_that_cannot_be_used_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("a/b");
    let first = DurableJournal::open(&data).unwrap();
    let second = DurableJournal::open(&data).unwrap_err();
    assert!(matches!(second, OpenError::InUse(_)) && second.to_string().contains("another coordinator"), "{second}");
    drop(first);
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&data).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o700);
    drop(DurableJournal::open(&data).unwrap());
    fs::write(data.join(FILE), b"something else entirely, which is no journal at all").unwrap();
    let other = DurableJournal::open(&data).unwrap_err();
    assert!(matches!(other, OpenError::Damaged(..)), "{other}");
    let file = dir.path().join("file");
    fs::write(&file, b"").unwrap();
    let below_a_file = DurableJournal::open(&file.join("data")).unwrap_err();
    assert!(below_a_file.to_string().contains("can be written"), "{below_a_file}");
}

#[test]
fn journ_4_a_log_that_lost_its_end_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (file, backup) = (dir.path().join(FILE), dir.path().join("backup"));
    let mut journal = DurableJournal::open(dir.path()).unwrap();
    append(&mut journal, &[submit(1)]);
    append(&mut journal, &[submit(2)]);
    drop(journal);
    fs::copy(&file, &backup).unwrap();
    let mut journal = DurableJournal::open(dir.path()).unwrap();
    append(&mut journal, &[submit(3), submit(4)]);
    drop(journal);
    assert!(DurableJournal::open(dir.path()).is_ok());
    // What the database makes of a damaged header: the commit before.
    fs::copy(&backup, &file).unwrap();
    let error = DurableJournal::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("records 3 to 4 are missing at its end"), "{error}");
    // Without the mark nothing can be said, and one that is torn says nothing.
    fs::write(dir.path().join(MARK), [0x55; 9]).unwrap();
    assert!(DurableJournal::open(dir.path()).is_ok());
}

/// The coordinator that records make
fn coordinator(records: &[Vec<u8>]) -> Coordinator {
    let now = Instant::from_micros(1);
    let config = coordinator::Config::new(ClusterId([5; 16]), 1, Vec::new());
    let mut recovery = Recovery::start(config, Seed([3; 32]), now).unwrap();
    records.iter().for_each(|record| recovery.take(record).unwrap());
    recovery.finish()
}

#[test]
fn journ_5_the_log_stays_as_long_as_what_is_of_use_and_recovers_to_the_same_whenever_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = DurableJournal::open(dir.path()).unwrap();
    journal.log.worth = 40_000;
    let cluster = ClusterId([5; 16]);
    let mut all = vec![Record::Epoch { epoch: 1, cluster }.encode(), Record::Tokens { below: 1 << 20 }.encode()];
    append(&mut journal, &all);
    let (mut longest, mut live) = (0, BTreeSet::new());
    for n in 0..600u32 {
        let id = |n: u32| TaskId(u128::from(n).to_le_bytes());
        let (task, token) = (id(n), Token(u64::from(n) + 1));
        let (spec, worker) = (TaskSpec::default(), "w".parse().unwrap());
        let (outcome, streams) = (Outcome::Succeeded, Default::default());
        let mut group = vec![
            Record::Submit { task, spec, about: &[], payload: &[n as u8; 900] }.encode(),
            Record::Assign { task, token, attempt: 1, worker }.encode(),
        ];
        if n % 50 != 7 {
            let token = Some(token);
            group.push(
                Record::Result { task, token, attempt: 1, outcome, last: true, result: b"done", streams }.encode(),
            );
        }
        // Ten that have ended are kept, and of ten more it is known how they ended.
        if n >= 10 && (n - 10) % 50 != 7 {
            group.push(Record::Forget { task: id(n - 10) }.encode());
        }
        if n >= 20 && (n - 20) % 50 != 7 {
            group.push(Record::Lapsed { task: id(n - 20) }.encode());
        }
        append(&mut journal, &group);
        all.extend(group);
        longest = longest.max(journal.log.bytes());
        live.insert(journal.log.table().name().to_owned());
        if n % 37 == 0 {
            drop(journal);
            journal = DurableJournal::open(dir.path()).unwrap();
            journal.log.worth = 40_000;
            let mut records = Vec::new();
            journal
                .replay(&mut |record| {
                    records.push(record.to_vec());
                    Ok(())
                })
                .unwrap();
            let (from_disk, from_all) = (coordinator(&records), coordinator(&all));
            from_disk.check();
            assert_eq!(from_disk.digest(), from_all.digest(), "after {n}");
            for n in 0..n {
                let known = |c: &Coordinator| (c.task(id(n)).is_some(), c.remembered(id(n)));
                assert_eq!(known(&from_disk), known(&from_all), "task {n}");
            }
        }
    }
    assert!(longest < 160_000 && all.concat().len() > 600_000, "{longest} of {}", all.concat().len());
    assert_eq!(live.len(), 2, "each of the two tables was the log");
}

#[test]
fn journ_5_a_compaction_that_is_cut_off_anywhere_leaves_the_log_as_it_was() {
    let disk = Disk::default();
    let mut journal = DurableJournal::with_backend(path(), disk.clone()).unwrap();
    journal.log.worth = 1;
    let tokens = Record::Tokens { below: 9 }.encode();
    let groups = [vec![tokens, submit(1), assign(1, 1)], vec![result(1, 1, true)], vec![submit(2)]];
    groups.iter().for_each(|group| append(&mut journal, group));
    drop(journal);
    let whole = recovered(disk.clone()).unwrap();
    assert_eq!(whole, groups.concat());
    for room in 0..40 {
        let copy = Disk::of(disk.bytes());
        lock(&copy.0).room = Some(usize::MAX);
        let mut journal = DurableJournal::with_backend(path(), copy.clone()).unwrap();
        journal.replay(&mut |_| Ok(())).unwrap();
        journal.log.worth = 1;
        lock(&copy.0).room = Some(room);
        let forget = Record::Forget { task: task(1) }.encode();
        journal.append(&forget).unwrap();
        let synced = journal.sync().is_ok();
        drop(journal);
        let durable = lock(&copy.0).synced.clone();
        let records = recovered(Disk::of(durable)).unwrap();
        let longer = [whole.clone(), vec![forget.clone()]].concat();
        let known = |records: &[Vec<u8>]| coordinator(records).digest();
        let before = records == whole && !synced;
        assert!(before || known(&records) == known(&longer), "room for {room} calls: {}", records.len());
    }
}
