//! Checkpoints and results as files: what a task starts from, and what it leaves on its way and at its end (CKPT-4)
//!
//! A task that can go on reads the file named by `REJOIN_CHECKPOINT_IN`, if that is set. It writes a file of its own and
//! renames it to `REJOIN_CHECKPOINT_OUT`, as often as it likes. Renaming is what makes it whole: nobody ever sees half a
//! checkpoint. A task that would rather not find out by itself how often that pays looks whether there is a file
//! `REJOIN_CHECKPOINT_WANTED`: it comes when a checkpoint is due, and goes when one is taken (LIVE-6, TASK-8). What it returns
//! it writes to the file named by `REJOIN_RESULT`, which is looked at when it has ended.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rejoin_core::blob::{ChunkName, chunk_bytes, chunk_name, chunk_span, chunks};
use rejoin_core::limits::BLOB_BYTES_MAX;
use rustix::fs::OFlags;

/// How often is looked whether there is a new one
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Most bytes of a file that are looked at; the coordinator may take less (CKPT-2)
pub(crate) const BYTES_MAX: u64 = 1 << 30;

const IN: &str = "in";
const INPUT: &str = "input";
const OUT: &str = "checkpoint";
const WANTED: &str = "wanted";
const RESULT: &str = "result";
const TAKEN: &str = "taken";

/// Why a file is not taken as a checkpoint, with which the task goes on, or as its result, with which it has failed
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NotTaken {
    /// It has so many bytes
    TooLarge {
        /// Bytes it has
        bytes: u64,
        /// Bytes it may have
        max: u64,
    },
    /// It is a folder, a link or the like
    NoFile,
    /// It cannot be read
    Unreadable(String),
}

impl fmt::Display for NotTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotTaken::TooLarge { bytes, max } => write!(f, "it has {bytes} bytes, and {max} are taken"),
            NotTaken::NoFile => f.write_str("it is no regular file"),
            NotTaken::Unreadable(error) => write!(f, "it cannot be read: {error}"),
        }
    }
}

/// What a task has left as a checkpoint, or as its result
#[derive(Debug)]
pub enum Made {
    /// Its bytes, which fit into a message
    Small(Vec<u8>),
    /// A file that goes in chunks
    Large(Large),
}

/// A large checkpoint or result; its file has no name any more, and goes with this, unless it is one that is kept
#[derive(Clone, Debug)]
pub struct Large {
    file: Arc<File>,
    length: u64,
    names: Vec<ChunkName>,
}

impl Large {
    /// All its bytes
    pub fn len(&self) -> u64 {
        self.length
    }

    /// Whether it is empty, which a large one never is
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The names of its chunks (CKPT-1)
    pub fn names(&self) -> &[ChunkName] {
        &self.names
    }

    /// Reads bytes from an offset on, and returns how many: fewer than fit if the file has become shorter
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        read_full(&self.file, offset, out)
    }

    /// Writes all its bytes to a file that survives the process
    pub(crate) fn copy_to(&self, path: &Path) -> io::Result<()> {
        let mut copy = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
        let mut chunk = vec![0; chunk_bytes(self.length) as usize];
        for span in (0..self.names.len()).map(|chunk| chunk_span(self.length, chunk)) {
            let read = self.read_at(span.start, &mut chunk[..(span.end - span.start) as usize])?;
            copy.write_all(&chunk[..read])?;
        }
        copy.sync_all()
    }

    /// Opens such a file; `None` if it is not what it was
    pub(crate) fn reopen(path: &Path, length: u64, names: Vec<ChunkName>) -> io::Result<Option<Large>> {
        let file = Arc::new(File::open(path)?);
        if file.metadata()?.len() != length {
            return Ok(None);
        }
        let same = match (Claimed { file, length }).read(0) {
            Ok(Made::Large(large)) if large.names == names => Some(large),
            Ok(_) => None,
            Err(error) => return Err(io::Error::other(error.to_string())),
        };
        Ok(same)
    }
}

/// A file that a task has left, before its content was looked at
#[derive(Clone, Debug)]
pub(crate) struct Claimed {
    file: Arc<File>,
    length: u64,
}

impl Claimed {
    /// Reads it, which takes a while where it is large; up to so many bytes are kept here
    pub(crate) fn read(&self, small_max: usize) -> Result<Made, NotTaken> {
        let unreadable = |error: io::Error| NotTaken::Unreadable(error.to_string());
        let read = |span: Range<u64>| {
            let mut bytes = vec![0; (span.end - span.start) as usize];
            let count = read_full(&self.file, span.start, &mut bytes)?;
            bytes.truncate(count);
            Ok(bytes)
        };
        if self.length <= small_max as u64 {
            return read(0..self.length).map(Made::Small).map_err(unreadable);
        }
        let spans = (0..chunks(self.length)).map(|chunk| chunk_span(self.length, chunk));
        let names: io::Result<Vec<ChunkName>> = spans.map(|span| Ok(chunk_name(&read(span)?))).collect();
        let names = names.map_err(unreadable)?;
        Ok(Made::Large(Large { file: self.file.clone(), length: self.length, names }))
    }
}

fn read_full(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < out.len() {
        match file.read_at(&mut out[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// What an execution starts from
#[derive(Clone, Copy, Debug)]
pub enum StartsFrom<'a> {
    /// These bytes
    Bytes(&'a [u8]),
    /// This file, which is moved into place
    File(&'a Path),
}

/// A large checkpoint on its way here, in a file that goes with this unless it was moved away
#[derive(Debug)]
pub(crate) struct Restoring {
    number: u64,
    file: File,
    path: PathBuf,
}

impl Restoring {
    /// Begins with nothing
    pub(crate) fn new(below: &Path, number: u64) -> io::Result<Restoring> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let name = format!("restore-{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = below.join(name);
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok(Restoring { number, file, path }),
                // Left behind by a dead process that had the same id.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
            }
        }
    }

    /// Which checkpoint it is
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// Puts a piece in its place
    pub(crate) fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display()));
        self.file.write_all_at(bytes, offset).map_err(named)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Restoring {
    fn drop(&mut self) {
        // It is gone if an execution starts from it.
        let _ = fs::remove_file(&self.path);
    }
}

/// A folder of one execution, which goes away with it
#[derive(Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    restored: bool,
    /// Whether there is an input
    fed: bool,
    bytes_max: u64,
    taken: AtomicU64,
}

impl Checkpoints {
    /// Makes the folder, in it the file that the task starts from if there is one
    pub fn new(below: &Path, restored: Option<StartsFrom<'_>>, bytes_max: u64) -> io::Result<Checkpoints> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let dir = loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let dir = below.join(format!("task-{}-{number}", process::id()));
            match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => break dir,
                // Left behind by a dead process that had the same id.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", dir.display()))),
            }
        };
        let (restores, taken) = (restored.is_some(), AtomicU64::new(0));
        let checkpoints = Checkpoints { dir, restored: restores, fed: false, bytes_max, taken };
        let place = checkpoints.dir.join(IN);
        match restored {
            None => {}
            Some(StartsFrom::Bytes(bytes)) => {
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(place)?.write_all(bytes)?;
            }
            Some(StartsFrom::File(path)) => fs::rename(path, place)?,
        }
        Ok(checkpoints)
    }

    /// Moves the file there that the task reads as its standard input
    pub fn feed(&mut self, file: &Path) -> io::Result<()> {
        fs::rename(file, self.dir.join(INPUT))?;
        self.fed = true;
        Ok(())
    }

    /// The file that the task reads as its standard input, if there is one
    pub fn input(&self) -> Option<PathBuf> {
        self.fed.then(|| self.dir.join(INPUT))
    }

    /// What the task has to know of it
    pub fn env(&self) -> Vec<(OsString, OsString)> {
        let mut env = vec![
            ("REJOIN_CHECKPOINT_OUT".into(), self.dir.join(OUT).into()),
            ("REJOIN_CHECKPOINT_WANTED".into(), self.dir.join(WANTED).into()),
            ("REJOIN_RESULT".into(), self.dir.join(RESULT).into()),
        ];
        if self.restored {
            env.push(("REJOIN_CHECKPOINT_IN".into(), self.dir.join(IN).into()));
        }
        env
    }

    /// Lets the task know that it should make one
    pub(crate) fn want(&self) -> io::Result<()> {
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.dir.join(WANTED)).map(drop)
    }

    /// Takes what the task has renamed into place since it was last asked, if it has, without looking into it yet
    pub(crate) fn claim(&self) -> Option<Result<Claimed, NotTaken>> {
        let claimed = self.take(OUT, self.bytes_max)?;
        // There need not be one.
        let _ = fs::remove_file(self.dir.join(WANTED));
        Some(claimed)
    }

    /// Takes what the task has left as its result, once it has ended
    pub(crate) fn claim_result(&self) -> Option<Result<Claimed, NotTaken>> {
        self.take(RESULT, BLOB_BYTES_MAX)
    }

    fn take(&self, name: &str, bytes_max: u64) -> Option<Result<Claimed, NotTaken>> {
        let out = self.dir.join(name);
        let kind = fs::symlink_metadata(&out).ok()?.file_type();
        // A name of its own, should the last one be a folder that cannot be removed.
        let taken = self.dir.join(format!("{TAKEN}-{}", self.taken.fetch_add(1, Ordering::Relaxed)));
        // From here on the next one that the task makes is another one.
        fs::rename(&out, &taken).ok()?;
        let claimed = if kind.is_file() { open(&taken, bytes_max) } else { Err(NotTaken::NoFile) };
        let removed = if kind.is_dir() { fs::remove_dir_all(&taken) } else { fs::remove_file(&taken) };
        if let Err(error) = removed {
            tracing::debug!(%error, "a checkpoint file stays behind");
        }
        Some(claimed)
    }
}

fn open(path: &Path, bytes_max: u64) -> Result<Claimed, NotTaken> {
    let unreadable = |error: io::Error| NotTaken::Unreadable(error.to_string());
    // Neither followed nor waited for, should it have become something else in the meantime.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags as i32).open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(NotTaken::NoFile);
    }
    if meta.len() > bytes_max {
        return Err(NotTaken::TooLarge { bytes: meta.len(), max: bytes_max });
    }
    Ok(Claimed { file: Arc::new(file), length: meta.len() })
}

impl Drop for Checkpoints {
    fn drop(&mut self) {
        // Nobody is left to be told.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rejoin_core::limits::INLINE_BYTES_MAX;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn folder(restored: Option<&[u8]>) -> (tempfile::TempDir, Checkpoints) {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(dir.path(), restored.map(StartsFrom::Bytes), 8).unwrap();
        (dir, checkpoints)
    }

    fn take(checkpoints: &Checkpoints) -> Option<Result<Vec<u8>, NotTaken>> {
        let read = checkpoints.claim()?.and_then(|claimed| claimed.read(INLINE_BYTES_MAX));
        Some(read.map(|made| match made {
            Made::Small(bytes) => bytes,
            Made::Large(large) => panic!("{large:?}"),
        }))
    }

    fn path(checkpoints: &Checkpoints, name: &str) -> Option<PathBuf> {
        checkpoints.env().into_iter().find(|(known, _)| known == name).map(|(_, path)| path.into())
    }

    #[test]
    fn live_6_a_checkpoint_is_wanted_until_one_is_taken() {
        let (_dir, checkpoints) = folder(None);
        let wanted = path(&checkpoints, "REJOIN_CHECKPOINT_WANTED").unwrap();
        assert!(!wanted.exists());
        checkpoints.want().unwrap();
        checkpoints.want().unwrap();
        assert!(wanted.exists());
        fs::write(path(&checkpoints, "REJOIN_CHECKPOINT_OUT").unwrap(), b"made").unwrap();
        assert_eq!(take(&checkpoints), Some(Ok(b"made".to_vec())));
        assert!(!wanted.exists());
    }

    #[test]
    fn ckpt_4_each_file_renamed_into_place_is_taken_once() {
        let (_dir, checkpoints) = folder(None);
        assert_eq!(path(&checkpoints, "REJOIN_CHECKPOINT_IN"), None);
        let out = path(&checkpoints, "REJOIN_CHECKPOINT_OUT").unwrap();
        assert_eq!(take(&checkpoints), None);
        for bytes in [&b"one"[..], b"", b"12345678"] {
            let own = out.with_extension("own");
            fs::write(&own, bytes).unwrap();
            fs::rename(&own, &out).unwrap();
            assert_eq!(take(&checkpoints), Some(Ok(bytes.to_vec())));
            assert_eq!(take(&checkpoints), None);
        }
    }

    #[test]
    fn ckpt_2_what_is_too_large_or_no_file_is_refused_and_the_next_one_counts() {
        let (dir, checkpoints) = folder(None);
        let out = path(&checkpoints, "REJOIN_CHECKPOINT_OUT").unwrap();
        fs::write(&out, b"123456789").unwrap();
        assert_eq!(take(&checkpoints), Some(Err(NotTaken::TooLarge { bytes: 9, max: 8 })));
        fs::create_dir(&out).unwrap();
        fs::write(out.join("x"), b"").unwrap();
        assert_eq!(take(&checkpoints), Some(Err(NotTaken::NoFile)));
        fs::write(dir.path().join("secret"), b"secret").unwrap();
        symlink(dir.path().join("secret"), &out).unwrap();
        assert_eq!(take(&checkpoints), Some(Err(NotTaken::NoFile)));
        assert!(dir.path().join("secret").exists(), "what a link points to stays");
        let made = std::process::Command::new("mkfifo").arg(&out).status().unwrap();
        assert!(made.success());
        assert_eq!(take(&checkpoints), Some(Err(NotTaken::NoFile)), "nobody waits for a pipe");
        fs::write(&out, b"good").unwrap();
        assert_eq!(take(&checkpoints), Some(Ok(b"good".to_vec())));
    }

    #[test]
    fn ckpt_4_what_is_restored_is_private_and_goes_with_the_execution() {
        let (dir, checkpoints) = folder(Some(b"so far"));
        let restored = path(&checkpoints, "REJOIN_CHECKPOINT_IN").unwrap();
        assert_eq!(fs::read(&restored).unwrap(), b"so far");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&restored), mode(restored.parent().unwrap())), (0o600, 0o700));
        drop(checkpoints);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn ckpt_1_a_large_file_is_named_chunk_by_chunk_and_can_be_read_though_its_name_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(dir.path(), None, BYTES_MAX).unwrap();
        let bytes: Vec<u8> = (0..150_000u32).map(|n| (n * 7 + n / 251) as u8).collect();
        fs::write(path(&checkpoints, "REJOIN_CHECKPOINT_OUT").unwrap(), &bytes).unwrap();
        let Some(Ok(Made::Large(large))) = checkpoints.claim().map(|claimed| claimed.unwrap().read(INLINE_BYTES_MAX))
        else {
            panic!("150,000 bytes are too many for a message");
        };
        assert_eq!(fs::read_dir(&checkpoints.dir).unwrap().count(), 0);
        let names: Vec<_> = bytes.chunks(65_536).map(chunk_name).collect();
        assert_eq!((large.len(), large.names()), (150_000, &names[..]));
        let mut piece = [0; 1000];
        assert_eq!(large.read_at(149_500, &mut piece).unwrap(), 500);
        assert_eq!(piece[..500], bytes[149_500..]);
    }

    #[test]
    fn frame_3_a_result_is_taken_at_the_end_and_one_that_is_too_large_is_none() {
        let (_dir, checkpoints) = folder(None);
        assert!(checkpoints.claim_result().is_none());
        let file = path(&checkpoints, "REJOIN_RESULT").unwrap();
        fs::write(&file, b"more than eight bytes").unwrap();
        let Some(Ok(Made::Large(large))) = checkpoints.claim_result().map(|claimed| claimed.unwrap().read(0)) else {
            panic!("nothing of it is kept here");
        };
        assert_eq!(large.names(), [chunk_name(b"more than eight bytes")]);
        File::create(&file).unwrap().set_len(BLOB_BYTES_MAX + 1).unwrap();
        let refused = checkpoints.claim_result().unwrap().unwrap_err();
        assert_eq!(refused, NotTaken::TooLarge { bytes: BLOB_BYTES_MAX + 1, max: BLOB_BYTES_MAX });
    }

    #[test]
    fn ckpt_4_pieces_in_any_order_make_a_file_to_start_from() {
        let dir = tempfile::tempdir().unwrap();
        let restoring = Restoring::new(dir.path(), 3).unwrap();
        restoring.write_at(4, b"chunk").unwrap();
        restoring.write_at(0, b"the ").unwrap();
        let started = Checkpoints::new(dir.path(), Some(StartsFrom::File(restoring.path())), 8).unwrap();
        drop(restoring);
        assert_eq!(fs::read(path(&started, "REJOIN_CHECKPOINT_IN").unwrap()).unwrap(), b"the chunk");
        drop(Restoring::new(dir.path(), 4).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "one that nobody started from goes");
    }
}
