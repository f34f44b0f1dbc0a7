//! What a worker has finished and the coordinator does not have yet, on disk, so that the next process delivers it (SESS-9)
//!
//! One file for each attempt in the folder `results` of the worker's data directory, written under another name, synced
//! and renamed; beside it files with output and a result that were too large for memory. A file goes when its attempt is settled. What
//! is torn or foreign when a worker starts is named, and never taken for a result.
//!
//! Room for what is still to be kept is reserved in a file of its own, so that a full disk stops new work and not
//! what is under way.

mod format;
mod keeper;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rejoin_core::blob::{ChunkName, chunks};
use rejoin_core::ids::{ClusterId, PeerName, Token};
use rejoin_core::limits::{BLOB_BYTES_MAX, INLINE_BYTES_MAX};
use rejoin_core::wire::message::{Stream, StreamEnd};
use rejoin_core::worker::StreamMeter;

use self::format::Bad;
pub(crate) use self::format::Kept;
pub(crate) use self::keeper::{Happened, Job, Keeper};
use crate::checkpoint::Large;
use crate::spool::MEMORY_BYTES_MAX;

/// Bytes that a worker may keep for its coordinator, unless something else is said
pub const RESULTS_BYTES_MAX: u64 = 1 << 30;

const FOLDER: &str = "results";
const LOCK: &str = "lock";
const RESERVE: &str = "reserve";
const RESULT: &str = "result";
const LARGE: &str = "large";
const DAMAGED: &str = "damaged";
/// What a result file has beside result, checkpoint and output, and what the last block of a file wastes
const OVERHEAD_BYTES: u64 = 8 * 1024;

/// Why a worker's data directory cannot be used
#[derive(Debug)]
#[non_exhaustive]
pub enum OpenError {
    /// The folder or a file in it cannot be used
    Path(PathBuf, io::Error),
    /// Another worker is using it
    InUse(PathBuf),
    /// It was written by a newer program
    Newer(PathBuf),
    /// It has results of one worker, and another one is to use it
    Foreign(PathBuf, Box<[PeerName; 2]>),
    /// It has results for different clusters
    Mixed(PathBuf),
    /// There is not even room for one result
    TooSmall {
        /// What may be kept
        max: u64,
        /// What one attempt may need
        one: u64,
    },
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Path(path, error) => {
                write!(f, "{}: {error}: give a folder that can be written", path.display())
            }
            OpenError::InUse(path) => {
                write!(
                    f,
                    "{}: another worker or a coordinator is using this folder: stop it, or give another",
                    path.display()
                )
            }
            OpenError::Newer(path) => {
                write!(f, "{}: written by a newer program: use that one until it is delivered", path.display())
            }
            OpenError::Foreign(path, names) => write!(
                f,
                "{}: this is a result of the worker {}, and this worker is {}: give each worker a folder of \
                 its own",
                path.display(),
                names[0],
                names[1]
            ),
            OpenError::Mixed(path) => write!(
                f,
                "{}: this folder has results for more than one cluster: start a worker for each with its own files",
                path.display()
            ),
            OpenError::TooSmall { max, one } => {
                write!(f, "{max} bytes for results are too few: the largest may need {one}")
            }
        }
    }
}

impl std::error::Error for OpenError {}

/// The folder, as long as this process has it
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Bytes of each attempt that is kept
    kept: BTreeMap<Token, u64>,
    bytes_max: u64,
    /// Largest that an attempt may need beside output and a result in files
    place_bytes: u64,
    /// Attempts for which there should be room, and is
    wanted: u16,
    reserved: u16,
    /// It was said that there is less room than there should be
    short: bool,
    reserve: File,
    _lock: File,
}

/// An attempt of an earlier process, and where its output is
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) kept: Kept,
    pub(crate) output: FoundOutput,
    /// What it returned, where that is in a file
    pub(crate) large: Option<Large>,
}

/// The output of an attempt of an earlier process
#[derive(Debug)]
pub(crate) struct FoundOutput([Place; 2]);

#[derive(Debug)]
enum Place {
    Inline(Vec<u8>),
    File(PathBuf),
}

impl FoundOutput {
    /// Reads bytes from an offset on, and returns how many
    pub(crate) fn read_at(&self, stream: Stream, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        match &self.0[stream.index()] {
            Place::Inline(bytes) => {
                let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
                let count = rest.len().min(out.len());
                out[..count].copy_from_slice(&rest[..count]);
                Ok(count)
            }
            Place::File(path) => {
                let read = File::open(path).and_then(|file| file.read_at(out, offset));
                read.map_err(|error| named(path, error))
            }
        }
    }
}

impl Folder {
    /// Takes a worker's data directory for this process, and returns what an earlier one has left there
    ///
    /// `places` are the attempts for which room is to be reserved.
    pub(crate) fn open(
        data: &Path,
        worker: &PeerName,
        bytes_max: u64,
        result_bytes_max: u32,
        places: u16,
    ) -> Result<(Folder, Vec<Found>), OpenError> {
        let place_bytes = place_bytes(result_bytes_max);
        if bytes_max < place_bytes {
            return Err(OpenError::TooSmall { max: bytes_max, one: place_bytes });
        }
        let path = data.join(FOLDER);
        let failed = |path: &Path| {
            let path = path.to_path_buf();
            move |error| OpenError::Path(path, error)
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed(&path))?;
        let lock = lock(&data.join(LOCK))?;
        remove_leftovers(data).map_err(failed(data))?;
        let reserve = path.join(RESERVE);
        let reserve = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&reserve);
        let reserve = reserve.map_err(failed(&path))?;
        let mut folder = Folder {
            path,
            kept: BTreeMap::new(),
            bytes_max,
            place_bytes,
            wanted: places,
            reserved: 0,
            short: false,
            reserve,
            _lock: lock,
        };
        let found = folder.read(worker)?;
        folder.reserve();
        Ok((folder, found))
    }

    /// Attempts for which there is room beside those that are kept
    pub(crate) fn reserved(&self) -> u16 {
        self.reserved
    }

    /// Whether there is room for as many attempts as there should be
    fn is_reserved(&self) -> bool {
        self.reserved == self.wanted
    }

    // What was left.

    /// Reads what is there; what is torn is set aside, and what belongs to no result goes
    fn read(&mut self, worker: &PeerName) -> Result<Vec<Found>, OpenError> {
        let failed = |path: &Path, error| OpenError::Path(path.to_path_buf(), error);
        let entries = fs::read_dir(&self.path).map_err(|error| failed(&self.path, error))?;
        let names: io::Result<BTreeSet<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
        let names = names.map_err(|error| failed(&self.path, error))?;
        let mut found: Vec<Found> = Vec::new();
        for path in names.iter().filter(|path| path.extension().is_some_and(|ext| ext == RESULT)) {
            let bytes = fs::read(path).map_err(|error| failed(path, error))?;
            let result = match format::open(&bytes) {
                Err(Bad::Newer) => return Err(OpenError::Newer(path.clone())),
                Err(Bad::Damaged(why)) => Err(why.to_owned()),
                Ok(kept) if kept.worker != *worker => {
                    return Err(OpenError::Foreign(path.clone(), Box::new([kept.worker, worker.clone()])));
                }
                Ok(kept) if self.file(kept.token, RESULT) != *path => Err("it has another one's name".to_owned()),
                Ok(kept) => self.with_files(kept).map_err(|error| failed(path, error))?,
            };
            match result {
                Ok((found_one, in_files)) => {
                    if found.first().is_some_and(|first| first.kept.cluster != found_one.kept.cluster) {
                        return Err(OpenError::Mixed(self.path.clone()));
                    }
                    self.kept.insert(found_one.kept.token, bytes.len() as u64 + in_files);
                    found.push(found_one);
                }
                Err(why) => self.set_aside(path, &why).map_err(|error| failed(path, error))?,
            }
        }
        // Written in part, or output of what never came to be kept.
        for path in names.iter().filter(|path| ["tmp", "out", "err", LARGE].iter().any(|ext| has_extension(path, ext)))
        {
            if token_of(path).is_none_or(|token| !self.kept.contains_key(&token)) {
                remove(path).map_err(|error| failed(path, error))?;
            }
        }
        Ok(found)
    }

    /// Looks at the files that belong to a result; how many bytes they have, or what is wrong with them
    fn with_files(&self, kept: Kept) -> io::Result<Result<(Found, u64), String>> {
        let mut kept = kept;
        let mut in_files = 0;
        let mut places = [Place::Inline(Vec::new()), Place::Inline(Vec::new())];
        for stream in Stream::ALL {
            let end = kept.streams[stream.index()];
            let path = self.output(kept.token, stream);
            let (place, there) = match kept.inline[stream.index()].take() {
                Some(bytes) => {
                    let mut meter = StreamMeter::new();
                    meter.update(&bytes);
                    (Place::Inline(bytes), meter.end())
                }
                None => match measure(&path) {
                    Ok(there) => {
                        in_files += there.len;
                        (Place::File(path.clone()), there)
                    }
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        return Ok(Err(format!("{} with its output is missing", path.display())));
                    }
                    Err(error) => return Err(named(&path, error)),
                },
            };
            if there != end {
                return Ok(Err(format!("its output is not what it was when the task ended: {}", path.display())));
            }
            places[stream.index()] = place;
        }
        let mut large = None;
        if let Some((length, names)) = kept.large.take() {
            let path = self.file(kept.token, LARGE);
            match Large::reopen(&path, length, names) {
                Ok(Some(same)) => large = Some(same),
                Ok(None) => return Ok(Err(format!("{} is not what the task returned", path.display()))),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Err(format!("{} with what the task returned is missing", path.display())));
                }
                Err(error) => return Err(named(&path, error)),
            }
            in_files += length;
        }
        Ok(Ok((Found { kept, output: FoundOutput(places), large }, in_files)))
    }

    /// Gives a file that is no good another name, so that somebody may look into it
    fn set_aside(&self, path: &Path, why: &str) -> io::Result<()> {
        for ext in [RESULT, "out", "err", LARGE] {
            let (old, new) = (path.with_extension(ext), path.with_extension(format!("{ext}.{DAMAGED}")));
            match fs::rename(&old, &new) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        let aside = path.with_extension(format!("{RESULT}.{DAMAGED}"));
        tracing::warn!(
            "{}: {why}; set aside as {}: its task counts as crashed, and is executed again",
            path.display(),
            aside.display()
        );
        Ok(())
    }

    // What is kept now.

    /// Writes an attempt so that it survives; the folder has to be synced behind it
    fn write(&mut self, job: &Job) -> io::Result<()> {
        let mut kept = job.kept.clone();
        let token = kept.token;
        // What takes this place was reserved for it.
        self.shrink_reserve(1)?;
        let mut bytes = 0;
        for stream in Stream::ALL {
            let path = self.output(token, stream);
            let inline = job.output(stream).map_or(Ok(Some(Vec::new())), |output| output.keep_as(&path))?;
            kept.streams[stream.index()] = match &inline {
                Some(inline) => {
                    let mut meter = StreamMeter::new();
                    meter.update(inline);
                    meter.end()
                }
                None => {
                    File::open(&path).and_then(|file| file.sync_all()).map_err(|error| named(&path, error))?;
                    measure(&path).map_err(|error| named(&path, error))?
                }
            };
            bytes += if inline.is_none() { kept.streams[stream.index()].len } else { 0 };
            kept.inline[stream.index()] = inline;
        }
        if let Some(large) = &job.large {
            let path = self.file(token, LARGE);
            large.copy_to(&path).map_err(|error| named(&path, error))?;
            bytes += large.len();
        }
        let sealed = format::seal(&kept).map_err(io::Error::other)?;
        let (temporary, path) = (self.file(token, "tmp"), self.file(token, RESULT));
        let written = || {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?;
            file.write_all(&sealed)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        written().map_err(|error| named(&path, error))?;
        self.kept.insert(token, bytes + sealed.len() as u64);
        Ok(())
    }

    /// An attempt is settled
    fn remove(&mut self, token: Token) -> io::Result<()> {
        self.kept.remove(&token);
        // The result goes first: output without one means nothing.
        for ext in [RESULT, "tmp", "out", "err", LARGE] {
            let path = self.file(token, ext);
            remove(&path).map_err(|error| named(&path, error))?;
        }
        Ok(())
    }

    /// Makes what was written and renamed survive a power cut
    fn sync(&self) -> io::Result<()> {
        File::open(&self.path).and_then(|folder| folder.sync_all()).map_err(|error| named(&self.path, error))
    }

    // Room.

    /// Reserves room again for as many attempts as there should be, as far as there is any
    fn reserve(&mut self) {
        let used: u64 = self.kept.values().sum();
        let allowed = self.bytes_max.saturating_sub(used) / self.place_bytes;
        let wanted = u64::from(self.wanted).min(allowed);
        let mut refused = None;
        while u64::from(self.reserved) < wanted && refused.is_none() {
            let len = (u64::from(self.reserved) + 1) * self.place_bytes;
            match allocate(&self.reserve, len - self.place_bytes, self.place_bytes) {
                Ok(()) => self.reserved += 1,
                Err(error) => {
                    // A part of it may have been.
                    let _ = self.reserve.set_len(len - self.place_bytes);
                    refused = Some(error);
                }
            }
        }
        self.say_if_short(refused);
    }

    /// Nobody would know why the worker takes nothing
    fn say_if_short(&mut self, refused: Option<io::Error>) {
        let short = refused.is_some() || self.reserved == 0;
        if short && !self.short {
            let why = refused.map_or("what is kept has reached its limit".into(), |error| error.to_string());
            tracing::warn!(
                folder = %self.path.display(), more = self.reserved, %why,
                "there is room to keep the results of so many more tasks, and no others are taken until there is more"
            );
        } else if self.short && !short {
            tracing::info!("there is room to keep results again");
        }
        self.short = short;
    }

    fn shrink_reserve(&mut self, places: u16) -> io::Result<()> {
        self.reserved = self.reserved.saturating_sub(places);
        self.reserve.set_len(u64::from(self.reserved) * self.place_bytes)
    }

    fn file(&self, token: Token, ext: &str) -> PathBuf {
        self.path.join(format!("{:016x}.{ext}", token.0))
    }

    fn output(&self, token: Token, stream: Stream) -> PathBuf {
        self.file(token, if stream == Stream::Out { "out" } else { "err" })
    }
}

/// Largest that a worker keeps of an attempt, beside output and a result in files
pub(crate) fn place_bytes(result_bytes_max: u32) -> u64 {
    let names = (chunks(BLOB_BYTES_MAX) * size_of::<ChunkName>()) as u64;
    OVERHEAD_BYTES + u64::from(result_bytes_max).max(names) + INLINE_BYTES_MAX as u64 + 2 * MEMORY_BYTES_MAX as u64
}

/// The cluster whose coordinator is to have what was found
pub(crate) fn cluster_of(found: &[Found]) -> Option<ClusterId> {
    found.first().map(|found| found.kept.cluster)
}

fn lock(path: &Path) -> Result<File, OpenError> {
    let failed = |error| OpenError::Path(path.to_path_buf(), error);
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            Err(OpenError::InUse(path.parent().unwrap_or(Path::new("")).to_path_buf()))
        }
        Err(fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Removes what processes that have ended had in the directory for their own use
fn remove_leftovers(data: &Path) -> io::Result<()> {
    for entry in fs::read_dir(data)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let ours = |prefix: &str, suffix: &str| {
            let numbers = name.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
            let parts = numbers.and_then(|numbers| numbers.split_once('-'));
            let number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            parts.is_some_and(|(process, count)| number(process) && number(count))
        };
        if ours("task-", "") {
            fs::remove_dir_all(&path).map_err(|error| named(&path, error))?;
        } else if ours("output-", ".spool") || ours("restore-", "") {
            remove(&path).map_err(|error| named(&path, error))?;
        }
    }
    Ok(())
}

/// Removes a file; one that is gone already is fine as well
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn has_extension(path: &Path, ext: &str) -> bool {
    path.extension().is_some_and(|own| own == ext)
}

fn token_of(path: &Path) -> Option<Token> {
    u64::from_str_radix(path.file_stem()?.to_str()?, 16).ok().map(Token)
}

/// Length and digest of a file
fn measure(path: &Path) -> io::Result<StreamEnd> {
    let mut file = File::open(path)?;
    let (mut meter, mut piece) = (StreamMeter::new(), vec![0; MEMORY_BYTES_MAX]);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(meter.end()),
            Ok(count) => meter.update(&piece[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(target_os = "linux")]
fn allocate(file: &File, offset: u64, len: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), offset, len) {
        Err(rustix::io::Errno::OPNOTSUPP) => write_zeroes(file, offset, len),
        allocated => Ok(allocated?),
    }
}

#[cfg(not(target_os = "linux"))]
fn allocate(file: &File, offset: u64, len: u64) -> io::Result<()> {
    write_zeroes(file, offset, len)
}

/// Has a file take room where the system has no better way
fn write_zeroes(file: &File, offset: u64, len: u64) -> io::Result<()> {
    let zeroes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    file.write_all_at(&zeroes, offset)?;
    file.sync_data()
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
