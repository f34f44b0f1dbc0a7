//! A journal on disk: one redb file in a folder that one coordinator uses at a time
//!
//! Each group of records that is synced together is one value, so that appending costs what one value costs, and a crash
//! leaves whole groups. Output and checkpoints stand beside the log in tables of their own, written in the same
//! transaction: they can be read piece by piece, and go when they are of no use any more.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::journal::{Census, Record, homes_of};
use rejoin_core::wire::message::Stream;

use super::compaction::Log;
use super::format::{Group, open, open_piece, seal_piece};
use super::{Attempts, Journal, Outputs, Useless};

/// Pieces of output by attempt, stream and offset
const OUTPUTS: TableDefinition<'_, (u64, u8, u64), &[u8]> = TableDefinition::new("outputs");
/// Pieces of the chunks of large checkpoints, by chunk and offset
const CHUNKS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("chunks");
/// The newest small checkpoint of each open task, behind its attempt and number
const CHECKPOINTS: TableDefinition<'_, [u8; 16], &[u8]> = TableDefinition::new("checkpoints");
/// What the file is, and how it is written
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

const FILE: &str = "journal.redb";
/// How far the log has come: number of the record behind the last one that is durable, and a sum
///
/// Written behind each sync and never synced itself, so that it costs next to nothing. If it is ahead of the log, the log
/// has lost its end: the database takes a damaged header for a write that a power cut tore, and goes back to the one
/// before.
const MARK: &str = "mark";
const LOCK: &str = "lock";
/// An older program does not know all records of this one; this one knows all of older ones
const VERSION: u64 = 2;
/// Memory for pages; output is read once, and records are read at the start only
const CACHE_BYTES: usize = 64 * 1024 * 1024;

/// Why a journal cannot be opened
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder or a file in it cannot be used
    Path(PathBuf, io::Error),
    /// Another coordinator is using it
    InUse(PathBuf),
    /// It was written by a newer program
    Newer(PathBuf, u64),
    /// It is damaged, or no journal
    Damaged(PathBuf, String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Path(path, error) if error.kind() == io::ErrorKind::StorageFull => {
                write!(f, "{}: the disk is full: make room, and start again; nothing is lost", path.display())
            }
            OpenError::Path(path, error) => {
                write!(f, "{}: {error}: give a folder that can be written", path.display())
            }
            OpenError::InUse(path) => {
                write!(
                    f,
                    "{}: another coordinator or a worker is using this folder: stop it, or give another",
                    path.display()
                )
            }
            OpenError::Newer(path, version) => write!(
                f,
                "{}: written in format {version} by a newer program, and this one knows {VERSION}: use the newer one",
                path.display()
            ),
            OpenError::Damaged(path, what) => write!(
                f,
                "{}: {what}; nothing was changed: put a backup of the folder back and start with --restored; without one, start on an empty folder with \
                 --restored --cluster ID, which workers and `rejoin status` know",
                path.display()
            ),
        }
    }
}

impl std::error::Error for OpenError {}

/// A journal on disk
#[derive(Debug)]
pub struct DurableJournal {
    db: Arc<Database>,
    path: PathBuf,
    group: Group,
    beside: Beside,
    attempts: Attempts,
    /// Groups by the number of their first record
    log: Log,
    census: Census,
    mark: Option<File>,
    _lock: Option<File>,
}

/// Changes beside the log that belong to the group in the making
#[derive(Debug, Default)]
struct Beside {
    pieces: BTreeMap<(u64, u8, u64), Vec<u8>>,
    checkpoints: BTreeMap<[u8; 16], Option<Vec<u8>>>,
    dropped: BTreeSet<u64>,
    chunks: BTreeMap<(u64, u64), Vec<u8>>,
    chunks_gone: BTreeSet<u64>,
}

impl DurableJournal {
    /// Opens the journal in a folder, or begins one there
    ///
    /// Checks every page of the file, which takes about a second for a gigabyte.
    pub fn open(dir: &Path) -> Result<DurableJournal, OpenError> {
        let at = |path: &Path| {
            let path = path.to_path_buf();
            move |error: io::Error| OpenError::Path(path, error)
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(at(dir))?;
        let lock_path = dir.join(LOCK);
        let lock = File::create(&lock_path).map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(OpenError::InUse(dir.into())),
            Err(fs::TryLockError::Error(error)) => return Err(at(&lock_path)(error)),
        }
        let path = dir.join(FILE);
        let mut options = fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path).map_err(at(&path))?;
        let backend = redb::backends::FileBackend::new(file);
        let backend = backend.map_err(|error| database_error(&path, &error))?;
        let mut journal = Self::with_backend(path, backend)?;
        // The name of a new file must outlive a power cut as well as its content.
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))?;
        let mark = dir.join(MARK);
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&mark);
        let file = file.map_err(at(&mark))?;
        let (end, reached) = (journal.group.first(), read_mark(&file));
        if reached > end {
            let lost = format!("records {end} to {} are missing at its end", reached - 1);
            return Err(OpenError::Damaged(journal.path, lost));
        }
        (journal.mark, journal._lock) = (Some(file), Some(lock));
        Ok(journal)
    }

    /// Opens the journal that a backend holds; `path` is for messages
    fn with_backend(path: PathBuf, backend: impl StorageBackend) -> Result<DurableJournal, OpenError> {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
        let opened = guarded(|| {
            let db = builder.create_with_backend(backend).map_err(|error| database_error(&path, &error))?;
            let (version, log, end) = prepare(&db).map_err(|error| storage_error(&path, &error))?;
            Ok((db, version, log, end))
        });
        let damaged = |what| OpenError::Damaged(path.clone(), what);
        let (db, version, log, end) = opened.map_err(damaged)??;
        if version > VERSION {
            return Err(OpenError::Newer(path, version));
        }
        let group = Group::new(end.map_err(|first| OpenError::Damaged(path.clone(), damaged_group(first)))?);
        let (beside, attempts) = (Beside::default(), Attempts::default());
        let census = Census::default();
        Ok(DurableJournal { db: Arc::new(db), path, group, beside, attempts, log, census, mark: None, _lock: None })
    }

    /// Returns a way to read records while this is being written
    pub fn reader(&self) -> Records {
        Records { db: self.db.clone(), path: self.path.clone() }
    }

    fn commit(&mut self) -> Result<(), redb::Error> {
        let first = self.group.first();
        let group = std::mem::replace(&mut self.group, Group::new(first));
        let end = group.end();
        let beside = std::mem::take(&mut self.beside);
        let txn = self.db.begin_write()?;
        {
            if !group.is_empty() {
                let sealed = group.seal();
                self.log.grew(sealed.len() as u64);
                txn.open_table(self.log.table())?.insert(first, &*sealed)?;
            }
            let mut outputs = txn.open_table(OUTPUTS)?;
            for (place, piece) in beside.pieces {
                outputs.insert(place, &*piece)?;
            }
            for token in beside.dropped {
                outputs.retain_in((token, 0, 0)..(token + 1, 0, 0), |_, _| false)?;
            }
            let mut chunks = txn.open_table(CHUNKS)?;
            for (place, piece) in beside.chunks {
                chunks.insert(place, &*piece)?;
            }
            for home in beside.chunks_gone {
                chunks.retain_in((home, 0)..=(home, u64::MAX), |_, _| false)?;
            }
            let mut checkpoints = txn.open_table(CHECKPOINTS)?;
            for (task, checkpoint) in beside.checkpoints {
                match checkpoint {
                    Some(bytes) => checkpoints.insert(task, &*bytes)?,
                    None => checkpoints.remove(task)?,
                };
            }
        }
        self.log.copy_some(&txn, META, &mut self.census, end)?;
        txn.commit()?;
        self.group = Group::new(end);
        if let Some(mark) = &self.mark {
            // A safeguard: what it guards is durable, whether this succeeds or not.
            let _ = mark.write_all_at(&seal_piece(MARK.as_bytes(), &end.to_le_bytes()), 0);
        }
        Ok(())
    }
}

impl Journal for DurableJournal {
    type Outputs = DurableOutputs;

    fn outputs(&self) -> DurableOutputs {
        DurableOutputs { db: self.db.clone(), path: self.path.clone() }
    }

    fn replay(&mut self, take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let Self { db, path, attempts, census, log, .. } = self;
        let replayed = guarded(|| {
            let bytes = read_log(db, path, &mut |record| {
                if let Some(record) = noted(record) {
                    attempts.note(&record);
                    census.note(&record);
                }
                take(record)
            })?;
            log.grew(bytes);
            read_outputs(db, path, attempts, take)
        });
        replayed.map_err(|what| io::Error::other(OpenError::Damaged(path.clone(), what)))?
    }

    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        let decoded = Record::decode(record).ok_or(io::ErrorKind::InvalidData)?;
        match decoded {
            Record::Output { token, stream, offset, bytes, .. } => {
                let place = (token.0, stream.index() as u8, offset);
                self.beside.pieces.insert(place, seal_piece(&piece_head(place), bytes));
                return Ok(());
            }
            Record::Checkpoint { task, token, number, bytes } => {
                let head = checkpoint_head(task, token, number);
                let value = [&head[16..], &seal_piece(&head, bytes)].concat();
                self.beside.checkpoints.insert(task.0, Some(value));
                self.group.push(&Record::Checkpoint { task, token, number, bytes: &[] }.encode());
            }
            Record::Piece { task, home, offset, bytes } => {
                self.beside.chunks.insert((home, offset), seal_piece(&chunk_head(home, offset), bytes));
                self.group.push(&Record::Piece { task, home, offset, bytes: &[] }.encode());
            }
            Record::Gone { homes, .. } => {
                for home in homes_of(homes) {
                    self.beside.chunks.retain(|place, _| place.0 != home);
                    self.beside.chunks_gone.insert(home);
                }
                self.group.push(record);
            }
            Record::Epoch { .. }
            | Record::Tokens { .. }
            | Record::Lease { .. }
            | Record::Restored { .. }
            | Record::Submit { .. }
            | Record::SubmitLarge { .. }
            | Record::Assign { .. }
            | Record::Result { .. }
            | Record::Cancel { .. }
            | Record::Forget { .. }
            | Record::Chunk { .. }
            | Record::Manifest { .. }
            | Record::Unreadable { .. }
            | Record::Forgotten { .. }
            | Record::Lapsed { .. } => self.group.push(record),
        }
        self.census.note(&decoded);
        let Useless { outputs, checkpoint } = self.attempts.note(&decoded);
        for token in outputs {
            self.beside.pieces.retain(|place, _| place.0 != token.0);
            self.beside.dropped.insert(token.0);
        }
        if let Some(task) = checkpoint {
            self.beside.checkpoints.insert(task.0, None);
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        if self.group.is_empty() && self.beside.pieces.is_empty() {
            return Ok(());
        }
        let path = self.path.clone();
        self.commit().map_err(|error| {
            let kind = if let redb::Error::Io(error) = &error { error.kind() } else { io::ErrorKind::Other };
            io::Error::new(kind, format!("{}: {error}", path.display()))
        })
    }

    fn waits(&self) -> bool {
        true
    }
}

/// Reads the records of a journal that is being written
#[derive(Clone, Debug)]
pub struct Records {
    db: Arc<Database>,
    path: PathBuf,
}

impl Records {
    /// Hands out all durable records but those of output
    pub fn read(&self, take: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        read_log(&self.db, &self.path, &mut |record| {
            take(record);
            Ok(())
        })
        .map(|_| ())
    }
}

/// Reads output and chunks that a [`DurableJournal`] keeps
#[derive(Clone, Debug)]
pub struct DurableOutputs {
    db: Arc<Database>,
    path: PathBuf,
}

impl Outputs for DurableOutputs {
    fn read_at(&self, token: Token, stream: Stream, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let stored = |error: redb::Error| io::Error::other(format!("{}: {error}", self.path.display()));
        let txn = self.db.begin_read().map_err(|error| stored(error.into()))?;
        let table = txn.open_table(OUTPUTS).map_err(|error| stored(error.into()))?;
        let at = (token.0, stream.index() as u8, offset);
        let start = (token.0, at.1, 0);
        // The piece that begins at or before the offset, and those behind it.
        let mut pieces = table.range(start..=at).map_err(|error| stored(error.into()))?;
        let first = match pieces.next_back() {
            Some(piece) => piece.map_err(|error| stored(error.into()))?.0.value(),
            None => return Ok(0),
        };
        let (mut filled, mut next) = (0, offset);
        for piece in table.range(first..(token.0, at.1, u64::MAX)).map_err(|error| stored(error.into()))? {
            let (place, sealed) = piece.map_err(|error| stored(error.into()))?;
            let place = place.value();
            let bytes = open_piece(&piece_head(place), sealed.value()).ok_or_else(|| {
                let what = format!("{}: output of attempt {token} is damaged at {}", self.path.display(), place.2);
                io::Error::other(what)
            })?;
            let skip = usize::try_from(next.saturating_sub(place.2)).unwrap_or(usize::MAX);
            if place.2 > next || filled == out.len() {
                break;
            }
            let bytes = bytes.get(skip..).unwrap_or_default();
            let count = bytes.len().min(out.len() - filled);
            out[filled..filled + count].copy_from_slice(&bytes[..count]);
            filled += count;
            next += count as u64;
        }
        Ok(filled)
    }

    fn read_chunk(&self, home: u64, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let stored = |error: redb::Error| io::Error::other(format!("{}: {error}", self.path.display()));
        let txn = self.db.begin_read().map_err(|error| stored(error.into()))?;
        let table = txn.open_table(CHUNKS).map_err(|error| stored(error.into()))?;
        // The piece that begins at or before the offset, and those behind it.
        let mut before = table.range((home, 0)..=(home, offset)).map_err(|error| stored(error.into()))?;
        let Some(first) = before.next_back() else { return Ok(0) };
        let first = first.map_err(|error| stored(error.into()))?.0.value();
        let mut filled = 0;
        for piece in table.range(first..=(home, u64::MAX)).map_err(|error| stored(error.into()))? {
            let (place, sealed) = piece.map_err(|error| stored(error.into()))?;
            let at = place.value().1;
            let bytes = open_piece(&chunk_head(home, at), sealed.value()).ok_or_else(|| {
                io::Error::other(format!("{}: chunk {home} of a checkpoint is damaged at {at}", self.path.display()))
            })?;
            let wanted = offset + filled as u64;
            let bytes = usize::try_from(wanted.saturating_sub(at)).ok().and_then(|skip| bytes.get(skip..));
            let count = bytes.map_or(0, |bytes| bytes.len().min(out.len() - filled));
            if at > wanted || filled == out.len() {
                break;
            }
            out[filled..filled + count].copy_from_slice(&bytes.unwrap_or_default()[..count]);
            filled += count;
        }
        Ok(filled)
    }
}

/// How far the log had come; 0 where nothing can be said
fn read_mark(file: &File) -> u64 {
    let mut bytes = [0; 16];
    let read = file.read_exact_at(&mut bytes, 0);
    let end = read.ok().and_then(|()| open_piece(MARK.as_bytes(), &bytes)).and_then(|end| end.try_into().ok());
    end.map_or(0, u64::from_le_bytes)
}

/// Makes the tables; returns the version, and the number of the next record or of the last group if that is damaged
fn prepare(db: &Database) -> Result<(u64, Log, Result<u64, u64>), redb::Error> {
    let known = match db.begin_read()?.open_table(META) {
        Ok(table) => table.get("version")?.map(|version| version.value()),
        Err(redb::TableError::TableDoesNotExist(_)) => None,
        Err(error) => return Err(error.into()),
    };
    if known.is_none_or(|known| known < VERSION) {
        let txn = db.begin_write()?;
        txn.open_table(META)?.insert("version", VERSION)?;
        if known.is_none() {
            txn.open_table(Log::new(0).table())?;
        }
        txn.open_table(OUTPUTS)?;
        txn.open_table(CHECKPOINTS)?;
        txn.open_table(CHUNKS)?;
        txn.commit()?;
    }
    let version = known.unwrap_or(VERSION);
    if version > VERSION {
        return Ok((version, Log::new(0), Ok(1)));
    }
    let txn = db.begin_read()?;
    let log = Log::new(Log::live_in(&txn.open_table(META)?)?);
    let end = match txn.open_table(log.table())?.last()? {
        None => Ok(1),
        Some((first, sealed)) => {
            let first = first.value();
            open(first, sealed.value()).map(|(count, _)| first + count).ok_or(first)
        }
    };
    Ok((version, log, end))
}

/// Hands out the records of the log, checkpoints whole and without those that were replaced; returns its bytes
fn read_log(db: &Database, path: &Path, take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> io::Result<u64> {
    let stored = |error: redb::Error| io::Error::other(storage_error(path, &error));
    let damaged = |what| io::Error::other(OpenError::Damaged(path.into(), what));
    let txn = db.begin_read().map_err(|error| stored(error.into()))?;
    let meta = txn.open_table(META).map_err(|error| stored(error.into()))?;
    let table = Log::new(Log::live_in(&meta).map_err(stored)?).table();
    let log = txn.open_table(table).map_err(|error| stored(error.into()))?;
    let checkpoints = txn.open_table(CHECKPOINTS).map_err(|error| stored(error.into()))?;
    let (mut expected, mut bytes) = (1, 0);
    for group in log.iter().map_err(|error| stored(error.into()))? {
        let (first, sealed) = group.map_err(|error| stored(error.into()))?;
        let first = first.value();
        if first != expected {
            return Err(damaged(format!("records {expected} to {} are missing", first - 1)));
        }
        let (count, records) = open(first, sealed.value()).ok_or_else(|| damaged(damaged_group(first)))?;
        for record in records {
            match Record::decode(record).filter(|_| is_checkpoint(record)) {
                Some(Record::Checkpoint { task, token, number, .. }) => {
                    let kept = checkpoints.get(task.0).map_err(|error| stored(error.into()))?;
                    let head = checkpoint_head(task, token, number);
                    // Another one stands there if this was replaced, and none if its task is over.
                    let Some(value) = kept.as_ref().map(|kept| kept.value()).filter(|v| v.starts_with(&head[16..]))
                    else {
                        continue;
                    };
                    let bytes = open_piece(&head, &value[16..])
                        .ok_or_else(|| damaged(format!("the checkpoint of task {task} is damaged")))?;
                    take(&Record::Checkpoint { task, token, number, bytes }.encode())?;
                }
                _ => take(record)?,
            }
        }
        expected = first + count;
        bytes += sealed.value().len() as u64;
    }
    Ok(bytes)
}

/// Hands out the output of attempts that go on; that of others is not looked at
fn read_outputs(
    db: &Database,
    path: &Path,
    attempts: &Attempts,
    take: &mut dyn FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let stored = |error: redb::Error| io::Error::other(storage_error(path, &error));
    let txn = db.begin_read().map_err(|error| stored(error.into()))?;
    let table = txn.open_table(OUTPUTS).map_err(|error| stored(error.into()))?;
    for (task, token) in attempts.open() {
        let all = (token.0, 0, 0)..(token.0 + 1, 0, 0);
        for piece in table.range(all).map_err(|error| stored(error.into()))? {
            let (place, sealed) = piece.map_err(|error| stored(error.into()))?;
            let place = place.value();
            let (stream, offset) = (Stream::ALL[usize::from(place.1.min(1))], place.2);
            let bytes = open_piece(&piece_head(place), sealed.value()).ok_or_else(|| {
                let what = format!("output of task {task} is damaged at {offset} ({stream:?}, attempt {token})");
                io::Error::other(OpenError::Damaged(path.into(), what))
            })?;
            take(&Record::Output { task, token, stream, offset, bytes }.encode())?;
        }
    }
    Ok(())
}

/// Records that the index of attempts and the census are about, told by their first two bytes: others need not be decoded
fn noted(record: &[u8]) -> Option<Record<'_>> {
    // Cancel, output, checkpoints, and what these consist of.
    const OTHERS: [u8; 7] = [5, 7, 8, 9, 10, 11, 12];
    record.get(1).filter(|kind| !OTHERS.contains(kind))?;
    Record::decode(record)
}

fn is_checkpoint(record: &[u8]) -> bool {
    const CHECKPOINT: u8 = 8;
    record.get(1) == Some(&CHECKPOINT)
}

fn piece_head((token, stream, offset): (u64, u8, u64)) -> [u8; 17] {
    let mut head = [stream; 17];
    head[..8].copy_from_slice(&token.to_le_bytes());
    head[8..16].copy_from_slice(&offset.to_le_bytes());
    head
}

fn chunk_head(home: u64, offset: u64) -> [u8; 16] {
    let mut head = [0; 16];
    head[..8].copy_from_slice(&home.to_le_bytes());
    head[8..].copy_from_slice(&offset.to_le_bytes());
    head
}

fn checkpoint_head(task: TaskId, token: Token, number: u64) -> [u8; 32] {
    let mut head = [0; 32];
    head[..16].copy_from_slice(&task.0);
    head[16..24].copy_from_slice(&token.0.to_le_bytes());
    head[24..].copy_from_slice(&number.to_le_bytes());
    head
}

fn damaged_group(first: u64) -> String {
    format!("the group of records from number {first} on is damaged")
}

/// Reads what may be damaged: the database is not made to survive every byte, and says so by a panic in places
fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read)).map_err(|_| "its pages are damaged".to_owned())
}

#[allow(clippy::wildcard_enum_match_arm, reason = "the database's errors are not ours to enumerate")]
fn database_error(path: &Path, error: &DatabaseError) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse(path.into()),
        DatabaseError::Storage(redb::StorageError::Io(error)) if error.kind() != io::ErrorKind::InvalidData => {
            OpenError::Path(path.into(), io::Error::new(error.kind(), error.to_string()))
        }
        other => OpenError::Damaged(path.into(), other.to_string()),
    }
}

#[allow(clippy::wildcard_enum_match_arm, reason = "the database's errors are not ours to enumerate")]
fn storage_error(path: &Path, error: &redb::Error) -> OpenError {
    match error {
        redb::Error::Io(error) => OpenError::Path(path.into(), io::Error::new(error.kind(), error.to_string())),
        other => OpenError::Damaged(path.into(), other.to_string()),
    }
}

#[cfg(test)]
mod tests;
