//! What an interrupted run leaves behind, so that the next one executes only what is missing
//!
//! Two files in the run's folder: `run`, its name, from which its tasks have theirs; and `done`, a line for each task
//! that has been printed. A task is named after its command and not after its place in the list, so that a list may grow
//! or be sorted anew in between.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rejoin_core::ids::TaskId;
use rejoin_smol::clock::entropy;
use sha2::{Digest, Sha256};

use crate::report::Status;

/// Names of the files
const RUN: &str = "run";
const DONE: &str = "done";

/// A task of a run, whatever became of its attempts
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId([u8; 16]);

/// Names of a run's tasks, and which of them are done
#[derive(Debug)]
pub struct History {
    run: [u8; 16],
    done: BTreeMap<ItemId, Status>,
    log: Option<File>,
    /// How often each command has occurred so far: equal items are separate tasks
    occurrences: BTreeMap<[u8; 16], u64>,
}

impl History {
    /// A run that nobody will continue
    pub fn none() -> io::Result<History> {
        Ok(History { run: entropy()?, done: BTreeMap::new(), log: None, occurrences: BTreeMap::new() })
    }

    /// A run that may be continued from `dir`; what an earlier one left there goes
    pub fn begin(dir: &Path) -> io::Result<History> {
        let run: [u8; 16] = entropy()?;
        for name in [RUN, DONE] {
            match fs::remove_file(dir.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(&dir.join(name), &error)),
                _ => {}
            }
        }
        let path = dir.join(RUN);
        fs::write(&path, format!("{}\n", TaskId(run))).map_err(|error| named(&path, &error))?;
        Ok(History { run, log: Some(open_log(dir)?), ..History::none()? })
    }

    /// Goes on with the run that was interrupted in `dir`; `None` if there is none
    pub fn resume(dir: &Path) -> io::Result<Option<History>> {
        let path = dir.join(RUN);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| named(&path, &error))?,
        };
        let damaged =
            || io::Error::other(format!("{}: not the name of a run; start it anew without --resume", path.display()));
        let run = unhex(text.trim_end()).ok_or_else(damaged)?;
        let path = dir.join(DONE);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.map_err(|error| named(&path, &error))?,
        };
        // A line that was cut off says nothing: its task is printed once more rather than not at all.
        let done = text.lines().filter_map(parse).collect();
        let mut log = open_log(dir)?;
        if !text.is_empty() && !text.ends_with('\n') {
            log.write_all(b"\n").map_err(|error| named(&path, &error))?;
        }
        Ok(Some(History { run, done, log: Some(log), occurrences: BTreeMap::new() }))
    }

    /// Names the next item's task; to be called for all items, in their order
    pub fn name(&mut self, argv: &[OsString]) -> ItemId {
        let mut hash = Sha256::new();
        for arg in argv {
            hash.update((arg.len() as u64).to_le_bytes());
            hash.update(arg.as_bytes());
        }
        let command = first_16(hash);
        let nth = self.occurrences.entry(command).or_default();
        *nth += 1;
        ItemId(first_16(Sha256::new().chain_update(command).chain_update(nth.to_le_bytes())))
    }

    /// The id of a task; one that was cancelled with an earlier run is done again under that of the next round
    pub fn task(&self, item: ItemId, round: u32) -> TaskId {
        let hash = Sha256::new().chain_update(self.run).chain_update(item.0).chain_update(round.to_le_bytes());
        TaskId(first_16(hash))
    }

    /// How an item was done before this run, if it was
    pub fn done(&self, item: ItemId) -> Option<Status> {
        self.done.get(&item).copied()
    }

    /// An item is done, and printed
    pub fn note(&mut self, item: ItemId, status: Status) -> io::Result<()> {
        let Some(log) = &mut self.log else { return Ok(()) };
        // One write for one line, so that a run that is killed leaves whole lines.
        log.write_all(format!("{} {}\n", TaskId(item.0), word(status)).as_bytes())
    }

    /// Whether the run can be continued
    pub fn is_kept(&self) -> bool {
        self.log.is_some()
    }
}

fn open_log(dir: &Path) -> io::Result<File> {
    let path = dir.join(DONE);
    OpenOptions::new().create(true).append(true).open(&path).map_err(|error| named(&path, &error))
}

fn word(status: Status) -> &'static str {
    match status {
        Status::Succeeded => "succeeded",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
    }
}

fn parse(line: &str) -> Option<(ItemId, Status)> {
    let (id, said) = line.split_once(' ')?;
    let status = [Status::Succeeded, Status::Failed, Status::Cancelled].into_iter().find(|s| word(*s) == said)?;
    Some((ItemId(unhex(id)?), status))
}

fn unhex(text: &str) -> Option<[u8; 16]> {
    let hex = text.len() == 32 && text.bytes().all(|c| c.is_ascii_hexdigit());
    u128::from_str_radix(text, 16).ok().filter(|_| hex).map(u128::to_be_bytes)
}

fn first_16(hash: Sha256) -> [u8; 16] {
    let mut first = [0; 16];
    first.copy_from_slice(&hash.finalize()[..16]);
    first
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(item: &str) -> Vec<OsString> {
        vec!["echo".into(), item.into()]
    }

    #[test]
    fn a_run_that_goes_on_knows_its_tasks_by_their_commands_wherever_they_stand() {
        let dir = tempfile::tempdir().unwrap();
        assert!(History::resume(dir.path()).unwrap().is_none(), "there was none");
        let mut first = History::begin(dir.path()).unwrap();
        let [a, b, second_a] = ["a", "b", "a"].map(|item| first.name(&argv(item)));
        assert!(a != b && a != second_a, "equal items are separate tasks");
        first.note(a, Status::Succeeded).unwrap();
        first.note(b, Status::Failed).unwrap();
        let mut next = History::resume(dir.path()).unwrap().unwrap();
        let items = ["new", "b", "a", "a"].map(|item| next.name(&argv(item)));
        assert_eq!(items[1..], [b, a, second_a]);
        let done = items.map(|item| next.done(item));
        assert_eq!(done, [None, Some(Status::Failed), Some(Status::Succeeded), None]);
        assert_eq!(next.task(b, 0), first.task(b, 0));
        assert_ne!(next.task(b, 0), next.task(b, 1));
        let mut anew = History::begin(dir.path()).unwrap();
        let a_again = anew.name(&argv("a"));
        assert_eq!((a_again, anew.done(a_again)), (a, None), "another run knows nothing of it");
        assert_ne!(anew.task(a, 0), first.task(a, 0));
    }

    #[test]
    fn a_line_that_was_cut_off_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let mut run = History::begin(dir.path()).unwrap();
        let [a, b] = ["a", "b"].map(|item| run.name(&argv(item)));
        run.note(a, Status::Succeeded).unwrap();
        run.note(b, Status::Succeeded).unwrap();
        let path = dir.path().join(DONE);
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() - 1 {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut next = History::resume(dir.path()).unwrap().unwrap();
            assert_eq!(next.done(b), None, "cut at {cut}");
            next.note(b, Status::Failed).unwrap();
            let again = History::resume(dir.path()).unwrap().unwrap();
            assert_eq!(again.done(b), Some(Status::Failed), "cut at {cut}");
        }
        fs::write(dir.path().join(RUN), "nonsense\n").unwrap();
        assert!(History::resume(dir.path()).unwrap_err().to_string().contains("without --resume"));
    }
}
