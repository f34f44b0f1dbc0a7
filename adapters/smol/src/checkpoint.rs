//! Checkpoints as files: what a task starts from, and what it leaves on its way (CKPT-4)
//!
//! A task that can go on reads the file named by `REJOIN_CHECKPOINT_IN`, if that is set. It writes a file of its own and
//! renames it to `REJOIN_CHECKPOINT_OUT`, as often as it likes. Renaming is what makes it whole: nobody ever sees half a
//! checkpoint.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::OFlags;

/// How often is looked whether there is a new one
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(200);

const IN: &str = "in";
const OUT: &str = "checkpoint";
const TAKEN: &str = "taken";

/// Why a file is not taken as a checkpoint; the task goes on
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

/// A folder of one execution, which goes away with it
#[derive(Debug)]
pub struct Checkpoints {
    dir: PathBuf,
    restored: bool,
    bytes_max: u64,
    taken: AtomicU64,
}

impl Checkpoints {
    /// Makes the folder, in it the file that the task starts from if there is one
    pub fn new(below: &Path, restored: Option<&[u8]>, bytes_max: u64) -> io::Result<Checkpoints> {
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
        let checkpoints = Checkpoints { dir, restored: restored.is_some(), bytes_max, taken: AtomicU64::new(0) };
        if let Some(bytes) = restored {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600).open(checkpoints.dir.join(IN))?.write_all(bytes)?;
        }
        Ok(checkpoints)
    }

    /// What the task has to know of it
    pub fn env(&self) -> Vec<(OsString, OsString)> {
        let mut env = vec![("REJOIN_CHECKPOINT_OUT".into(), self.dir.join(OUT).into())];
        if self.restored {
            env.push(("REJOIN_CHECKPOINT_IN".into(), self.dir.join(IN).into()));
        }
        env
    }

    /// Takes what the task has renamed into place since it was last asked, if it has
    pub fn take(&self) -> Option<Result<Vec<u8>, NotTaken>> {
        let out = self.dir.join(OUT);
        let kind = fs::symlink_metadata(&out).ok()?.file_type();
        // A name of its own, should the last one be a folder that cannot be removed.
        let taken = self.dir.join(format!("{TAKEN}-{}", self.taken.fetch_add(1, Ordering::Relaxed)));
        // From here on the next one that the task makes is another one.
        fs::rename(&out, &taken).ok()?;
        let read = if kind.is_file() { self.read(&taken) } else { Err(NotTaken::NoFile) };
        let removed = if kind.is_dir() { fs::remove_dir_all(&taken) } else { fs::remove_file(&taken) };
        if let Err(error) = removed {
            tracing::debug!(%error, "a checkpoint file stays behind");
        }
        Some(read)
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, NotTaken> {
        let unreadable = |error: io::Error| NotTaken::Unreadable(error.to_string());
        // Neither followed nor waited for, should it have become something else in the meantime.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits();
        let file = OpenOptions::new().read(true).custom_flags(flags as i32).open(path).map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?;
        if !meta.is_file() {
            return Err(NotTaken::NoFile);
        }
        let mut bytes = Vec::new();
        file.take(self.bytes_max + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > self.bytes_max {
            return Err(NotTaken::TooLarge { bytes: meta.len().max(bytes.len() as u64), max: self.bytes_max });
        }
        Ok(bytes)
    }
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
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn folder(restored: Option<&[u8]>) -> (tempfile::TempDir, Checkpoints) {
        let dir = tempfile::tempdir().unwrap();
        let checkpoints = Checkpoints::new(dir.path(), restored, 8).unwrap();
        (dir, checkpoints)
    }

    fn path(checkpoints: &Checkpoints, name: &str) -> Option<PathBuf> {
        checkpoints.env().into_iter().find(|(known, _)| known == name).map(|(_, path)| path.into())
    }

    #[test]
    fn ckpt_4_each_file_renamed_into_place_is_taken_once() {
        let (_dir, checkpoints) = folder(None);
        assert_eq!(path(&checkpoints, "REJOIN_CHECKPOINT_IN"), None);
        let out = path(&checkpoints, "REJOIN_CHECKPOINT_OUT").unwrap();
        assert_eq!(checkpoints.take(), None);
        for bytes in [&b"one"[..], b"", b"12345678"] {
            let own = out.with_extension("own");
            fs::write(&own, bytes).unwrap();
            fs::rename(&own, &out).unwrap();
            assert_eq!(checkpoints.take(), Some(Ok(bytes.to_vec())));
            assert_eq!(checkpoints.take(), None);
        }
    }

    #[test]
    fn ckpt_2_what_is_too_large_or_no_file_is_refused_and_the_next_one_counts() {
        let (dir, checkpoints) = folder(None);
        let out = path(&checkpoints, "REJOIN_CHECKPOINT_OUT").unwrap();
        fs::write(&out, b"123456789").unwrap();
        assert_eq!(checkpoints.take(), Some(Err(NotTaken::TooLarge { bytes: 9, max: 8 })));
        fs::create_dir(&out).unwrap();
        fs::write(out.join("x"), b"").unwrap();
        assert_eq!(checkpoints.take(), Some(Err(NotTaken::NoFile)));
        fs::write(dir.path().join("secret"), b"secret").unwrap();
        symlink(dir.path().join("secret"), &out).unwrap();
        assert_eq!(checkpoints.take(), Some(Err(NotTaken::NoFile)));
        assert!(dir.path().join("secret").exists(), "what a link points to stays");
        let made = std::process::Command::new("mkfifo").arg(&out).status().unwrap();
        assert!(made.success());
        assert_eq!(checkpoints.take(), Some(Err(NotTaken::NoFile)), "nobody waits for a pipe");
        fs::write(&out, b"good").unwrap();
        assert_eq!(checkpoints.take(), Some(Ok(b"good".to_vec())));
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
}
