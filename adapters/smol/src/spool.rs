//! Output that is written once and read at any offset, small in memory and large on disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that a spool usually keeps in memory before it moves to a file
pub const MEMORY_BYTES_MAX: usize = 64 * 1024;

/// Bytes of one output stream, appended once and read at any offset
///
/// They stay in memory up to a threshold and then move to a file, which is deleted when the spool
/// is dropped. No descriptor stays open between two calls, so that the number of spools is bounded
/// by memory and disk but not by the limit on open files.
#[derive(Debug)]
pub struct Spool {
    dir: Arc<Path>,
    memory_bytes_max: usize,
    len: u64,
    store: Store,
}

#[derive(Debug)]
enum Store {
    Memory(Vec<u8>),
    Disk(SpoolFile),
}

impl Spool {
    /// An empty spool, which will create its file in `dir` when it outgrows `memory_bytes_max`
    ///
    /// The disk is not touched before that.
    pub fn new(dir: impl Into<Arc<Path>>, memory_bytes_max: usize) -> Self {
        Self { dir: dir.into(), memory_bytes_max, len: 0, store: Store::Memory(Vec::new()) }
    }

    /// Adds `bytes` at the end
    ///
    /// # Errors
    ///
    /// When the file cannot be created or written; the message names its path. The spool then
    /// holds what it held before.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.store {
            Store::Memory(kept) if kept.len() + bytes.len() <= self.memory_bytes_max => {
                kept.extend_from_slice(bytes);
            }
            Store::Memory(kept) => {
                // On failure the file is dropped, and thereby deleted, and `kept` is still there.
                let (file, mut open) = SpoolFile::create(&self.dir)?;
                open.write_all(kept)
                    .and_then(|()| open.write_all(bytes))
                    .map_err(|error| file.explain("write", &error))?;
                self.store = Store::Disk(file);
            }
            // Written at the known end: what a failed append left behind is overwritten.
            Store::Disk(file) => file.write_at(self.len, bytes)?,
        }
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Number of bytes appended so far
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was appended yet
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Reads bytes from `offset` on into `out` and returns how many
    ///
    /// That is as many as fit and are there: 0 only at the end, or when `out` is empty.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, or was truncated by someone else.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let left = self.len.saturating_sub(offset);
        let count = usize::try_from(left).map_or(out.len(), |left| left.min(out.len()));
        if count == 0 {
            return Ok(0);
        }
        match &self.store {
            Store::Memory(kept) => {
                // The offset lies within `kept`, for `left` is not 0.
                let kept = &kept[offset as usize..];
                out[..count].copy_from_slice(&kept[..count]);
            }
            Store::Disk(file) => file.read_at(offset, &mut out[..count])?,
        }
        Ok(count)
    }

    /// Returns the bytes, if they are in memory; otherwise they are in the file `path` from now on, which stays
    ///
    /// # Errors
    ///
    /// When the file cannot be moved. The spool then is where it was before.
    pub fn keep_as(&mut self, path: &Path) -> io::Result<Option<Vec<u8>>> {
        match &mut self.store {
            Store::Memory(kept) => Ok(Some(kept.clone())),
            Store::Disk(file) => file.keep_as(path).map(|()| None),
        }
    }

    /// Writes all bytes to `out`
    ///
    /// # Errors
    ///
    /// When the file cannot be read, was truncated by someone else, or `out` refuses the bytes.
    pub fn copy_to(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.store {
            Store::Memory(kept) => out.write_all(kept),
            Store::Disk(file) => file.copy_to(self.len, out),
        }
    }
}

/// The path of a file that belongs to one spool, and whether it goes away with it
#[derive(Debug)]
struct SpoolFile {
    path: PathBuf,
    stays: bool,
}

impl SpoolFile {
    /// Creates a file that nobody had before, readable by its owner only
    fn create(dir: &Path) -> io::Result<(Self, File)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = dir.join(format!("output-{}-{number}.spool", process::id()));
            let mut options = OpenOptions::new();
            match options.write(true).create_new(true).mode(0o600).open(&path) {
                Ok(open) => return Ok((Self { path, stays: false }, open)),
                // Left behind by a dead process that had the same id.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(explain("create", &path, &error)),
            }
        }
    }

    fn keep_as(&mut self, path: &Path) -> io::Result<()> {
        if self.path != path {
            fs::rename(&self.path, path).map_err(|error| self.explain("move", &error))?;
            self.path = path.to_path_buf();
        }
        self.stays = true;
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        OpenOptions::new()
            .write(true)
            .open(&self.path)
            .and_then(|file| file.write_all_at(bytes, offset))
            .map_err(|error| self.explain("write", &error))
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        File::open(&self.path)
            .and_then(|file| file.read_exact_at(out, offset))
            .map_err(|error| self.explain("read", &error))
    }

    fn copy_to(&self, len: u64, out: &mut dyn Write) -> io::Result<()> {
        let file = File::open(&self.path).map_err(|error| self.explain("read", &error))?;
        if io::copy(&mut file.take(len), out)? == len {
            return Ok(());
        }
        let short = io::Error::from(io::ErrorKind::UnexpectedEof);
        Err(self.explain("read", &short))
    }

    fn explain(&self, verb: &str, error: &io::Error) -> io::Error {
        explain(verb, &self.path, error)
    }
}

impl Drop for SpoolFile {
    fn drop(&mut self) {
        if !self.stays {
            // Nobody is left to be told; a file that is gone already is fine as well.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn explain(verb: &str, path: &Path, error: &io::Error) -> io::Error {
    let text = format!("cannot {verb} output file {}: {error}", path.display());
    io::Error::new(error.kind(), text)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A directory of one test, removed in the end
    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("spool-{name}-{}", process::id()));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn files(&self) -> Vec<PathBuf> {
            let entries = fs::read_dir(&self.0).unwrap();
            entries.map(|entry| entry.unwrap().path()).collect()
        }

        fn spool(&self, memory_bytes_max: usize) -> Spool {
            Spool::new(self.0.as_path(), memory_bytes_max)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn all(spool: &Spool) -> Vec<u8> {
        let mut out = Vec::new();
        spool.copy_to(&mut out).unwrap();
        out
    }

    #[test]
    fn moves_to_a_private_file_past_the_threshold_and_deletes_it() {
        let dir = Dir::new("moves");
        let mut spool = dir.spool(8);
        assert!(spool.is_empty());
        spool.append(b"12345678").unwrap();
        assert!(dir.files().is_empty());
        spool.append(b"9").unwrap();
        spool.append(b"ab").unwrap();
        let files = dir.files();
        assert_eq!(files.len(), 1);
        let mode = fs::metadata(&files[0]).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!((spool.len(), all(&spool).as_slice()), (11, &b"123456789ab"[..]));
        drop(spool);
        assert!(dir.files().is_empty());
    }

    #[test]
    fn reads_every_range_alike_from_memory_and_disk() {
        let dir = Dir::new("ranges");
        let bytes: Vec<u8> = (0..=40).collect();
        for memory_bytes_max in [0, 7, 64] {
            let mut spool = dir.spool(memory_bytes_max);
            bytes.chunks(6).for_each(|part| spool.append(part).unwrap());
            for offset in 0..=bytes.len() + 2 {
                for room in 0..=bytes.len() + 2 {
                    let mut out = vec![0; room];
                    let count = spool.read_at(offset as u64, &mut out).unwrap();
                    let start = offset.min(bytes.len());
                    let end = (start + room).min(bytes.len());
                    assert_eq!(out[..count], bytes[start..end]);
                }
            }
            assert_eq!(spool.read_at(u64::MAX, &mut [0]).unwrap(), 0);
        }
    }

    #[test]
    fn names_are_unique() {
        let dir = Dir::new("unique");
        let spools: Vec<Spool> = (0..50)
            .map(|number| {
                let mut spool = dir.spool(0);
                spool.append(&[number]).unwrap();
                spool
            })
            .collect();
        assert_eq!(dir.files().len(), 50);
        for (number, spool) in spools.iter().enumerate() {
            assert_eq!(all(spool), [number as u8]);
        }
    }

    #[test]
    fn a_failed_append_keeps_what_was_there_and_names_the_path() {
        let dir = Dir::new("failed");
        let gone = dir.0.join("gone");
        let mut spool = Spool::new(gone.as_path(), 4);
        spool.append(b"1234").unwrap();
        let error = spool.append(b"5").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains(gone.to_str().unwrap()), "{error}");
        assert_eq!((spool.len(), all(&spool).as_slice()), (4, &b"1234"[..]));
        fs::create_dir(&gone).unwrap();
        spool.append(b"5").unwrap();
        assert_eq!(all(&spool), b"12345");
    }

    #[test]
    fn a_truncated_or_removed_file_is_an_error() {
        let dir = Dir::new("truncated");
        let mut spool = dir.spool(0);
        spool.append(b"12345").unwrap();
        File::options().write(true).open(&dir.files()[0]).unwrap().set_len(3).unwrap();
        let kind = spool.read_at(1, &mut [0; 9]).unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::UnexpectedEof);
        let kind = spool.copy_to(&mut Vec::new()).unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::UnexpectedEof);
        fs::remove_file(&dir.files()[0]).unwrap();
        let kind = spool.append(b"6").unwrap_err().kind();
        assert_eq!(kind, io::ErrorKind::NotFound);
    }
}
