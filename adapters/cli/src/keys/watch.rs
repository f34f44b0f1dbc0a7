//! A keys file that is changed while a coordinator runs

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rejoin_core::ids::KeyId;
use rejoin_core::wire::keys::Key;

use super::{KeysError, Stamp, Standing, parse, read};

/// Time between two looks at the file
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Age from which on a file's time tells that it has not been written since it was read
///
/// A second write within one tick of the file system's clock leaves the time as it was.
const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// What has become of a coordinator's keys; take up what is gone before what is new
///
/// A key whose line has changed is gone and new, under the same id.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys that are in force from now on
    pub added: Vec<Key>,
    /// Join tokens that are in force from now on, and until when in seconds since 1970
    pub tokens: Vec<(Key, u64)>,
    /// Keys that were in force and have been revoked
    pub revoked: Vec<KeyId>,
    /// Keys that were made and revoked since the last look: whoever comes with one is to be told
    pub barred: Vec<Key>,
    /// Keys that were in force and are not in the file any more, which means the same
    pub vanished: Vec<KeyId>,
}

/// Follows a keys file
#[derive(Debug)]
pub struct KeysWatch {
    path: PathBuf,
    /// Those that are not revoked
    in_force: BTreeMap<KeyId, Key>,
    /// Those that are
    revoked: BTreeSet<KeyId>,
    /// The file when it was last read; none if that must be done again
    read: Option<Stamp>,
    /// The file when it was last looked at, and since when it is like that
    seen: (Option<Stamp>, Instant),
    /// The last complaint, which is not made twice in a row
    complaint: Option<String>,
}

impl KeysWatch {
    /// Reads the keys to begin with
    ///
    /// # Errors
    ///
    /// As [`load_keys`](super::load_keys).
    pub fn new(path: &Path) -> Result<Self, KeysError> {
        let (in_force, revoked) = (BTreeMap::new(), BTreeSet::new());
        let seen = (None, Instant::now());
        let mut watch = KeysWatch { path: path.into(), in_force, revoked, read: None, seen, complaint: None };
        watch.look()?;
        Ok(watch)
    }

    /// Returns the keys that are in force, those that are not revoked
    pub fn keys(&self) -> Vec<Key> {
        self.in_force.values().cloned().collect()
    }

    /// Waits until the keys are others than before
    ///
    /// May be dropped and called again; no change is lost by that.
    ///
    /// # Errors
    ///
    /// If the file cannot be used: told once, while the keys stay in force as they are. It is well to wait again.
    pub async fn changed(&mut self) -> Result<Changes, KeysError> {
        loop {
            smol::Timer::after(LOOK_EVERY).await;
            if let Some(news) = self.poll() {
                return news;
            }
        }
    }

    /// Looks whether there is something to say, without waiting
    ///
    /// A file that is written in place is read once it has been the same for as long as there is between two looks, however
    /// often it is looked at: half of it may read well, and would take the other half's keys away.
    pub fn poll(&mut self) -> Option<Result<Changes, KeysError>> {
        let now = fs::metadata(&self.path).ok().map(|metadata| Stamp::of(&metadata));
        let (before, since) = self.seen;
        if before != now {
            self.seen = (now, Instant::now());
        }
        if now.is_some() && now == self.read {
            self.complaint = None;
            return None;
        }
        let in_place = before.map(|stamp| stamp.inode) == now.map(|stamp| stamp.inode);
        if in_place && (before != now || since.elapsed() < LOOK_EVERY) {
            return None;
        }
        match self.look() {
            Ok(changes) => {
                self.complaint = None;
                (changes != Changes::default()).then_some(Ok(changes))
            }
            Err(error) => {
                let complaint = error.to_string();
                let news = self.complaint.as_ref() != Some(&complaint);
                self.complaint = Some(complaint);
                news.then_some(Err(error))
            }
        }
    }

    /// Reads the file and takes over what it says
    fn look(&mut self) -> Result<Changes, KeysError> {
        let (metadata, text) = read(&self.path)?;
        let mut keys = BTreeMap::new();
        let mut revoked = BTreeMap::new();
        let mut next = BTreeSet::new();
        let mut tokens = BTreeMap::new();
        for entry in parse(&self.path, &text)? {
            match entry.standing {
                Standing::Good => &mut keys,
                // The coordinator has put it there itself, and knows when it is to be taken.
                Standing::Next => {
                    next.insert(entry.key.id);
                    &mut keys
                }
                Standing::Token(until) => {
                    tokens.insert(entry.key.id, until);
                    &mut keys
                }
                Standing::Revoked => &mut revoked,
            }
            .insert(entry.key.id, entry.key);
        }
        let age = metadata.modified().ok().and_then(|modified| SystemTime::now().duration_since(modified).ok());
        let stamp = Some(Stamp::of(&metadata));
        // Two looks are apart by that at least, so that the next one in this place counts at once.
        self.seen = (stamp, Instant::now().checked_sub(LOOK_EVERY).unwrap_or_else(Instant::now));
        self.read = stamp.filter(|_| age.is_some_and(|age| age >= SETTLED_AFTER));
        let before = std::mem::replace(&mut self.in_force, keys);
        let known = std::mem::replace(&mut self.revoked, revoked.keys().copied().collect());
        let barred = revoked.values().filter(|key| !known.contains(&key.id) && !before.contains_key(&key.id));
        let barred = barred.cloned().collect();
        let gone = before.iter().filter(|(id, key)| self.in_force.get(id) != Some(key)).map(|(id, _)| *id);
        let (revoked, vanished) = gone.partition(|id| revoked.contains_key(id));
        let new = |key: &&Key| before.get(&key.id) != Some(*key) && !next.contains(&key.id);
        let mut changes = Changes { revoked, barred, vanished, ..Changes::default() };
        for key in self.in_force.values().filter(new) {
            match tokens.get(&key.id) {
                Some(until) => changes.tokens.push((key.clone(), *until)),
                None => changes.added.push(key.clone()),
            }
        }
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{file, line};
    use super::*;
    use smol::future::FutureExt;
    use std::fs::FileTimes;
    use std::os::unix::fs::PermissionsExt;

    fn id(number: u64) -> KeyId {
        KeyId(number.to_be_bytes())
    }

    fn names(keys: &[Key]) -> Vec<&str> {
        keys.iter().map(|key| key.name.as_str()).collect()
    }

    /// The next news, of which there must be some within seconds
    fn news(watch: &mut KeysWatch) -> Result<Changes, KeysError> {
        let late = async {
            smol::Timer::after(Duration::from_secs(30)).await;
            panic!("no news");
        };
        smol::block_on(watch.changed().or(late))
    }

    /// Looks for as long as a file that was written in place has to be the same
    fn look_twice(watch: &mut KeysWatch) -> Option<Result<Changes, KeysError>> {
        let until = Instant::now() + LOOK_EVERY + Duration::from_millis(10);
        loop {
            let late = Instant::now() > until;
            if let Some(news) = watch.poll() {
                return Some(news);
            }
            if late {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[test]
    fn what_is_added_revoked_and_removed_is_told() {
        let (a, b, c) = (line("worker", "a", 1), line("worker", "b", 2), line("client", "c", 3));
        let (_dir, path) = file(&format!("{a}\n{b}\n{c} revoked\n"));
        let mut watch = KeysWatch::new(&path).unwrap();
        assert_eq!(names(&watch.keys()), ["a", "b"]);
        assert!(look_twice(&mut watch).is_none());
        fs::write(&path, format!("{a} revoked\n{c}\n")).unwrap();
        let changes = news(&mut watch).unwrap();
        assert_eq!((names(&changes.added), changes.revoked, changes.vanished), (vec!["c"], vec![id(1)], vec![id(2)]));
        assert_eq!(names(&watch.keys()), ["c"]);
        assert_eq!(changes.barred, [], "it was known when it was in force");
        let d = line("worker", "d", 4);
        fs::write(&path, format!("{a} revoked\n{c}\n{d} revoked\n")).unwrap();
        let changes = news(&mut watch).unwrap();
        assert_eq!((names(&changes.barred), changes.added.len(), changes.revoked.len()), (vec!["d"], 0, 0));
        fs::write(&path, format!("{a} revoked\n{c}\n{d} revoked\n\n")).unwrap();
        assert!(look_twice(&mut watch).is_none(), "once");
        // A revoked key that goes was not in force.
        fs::write(&path, format!("# less\n{c}\n")).unwrap();
        assert!(look_twice(&mut watch).is_none());
    }

    #[test]
    fn a_file_that_is_being_written_is_left_alone() {
        let (dir, path) = file(&format!("{}\n{}\n", line("worker", "a", 1), line("worker", "b", 2)));
        let mut watch = KeysWatch::new(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(watch.poll().is_none(), "a moment later it may be whole");
        fs::write(&path, line("worker", "a", 1)).unwrap();
        assert!(watch.poll().is_none() && watch.poll().is_none(), "however often somebody makes it look");
        assert_eq!(look_twice(&mut watch).unwrap().unwrap().vanished, [id(2)]);
        // One that is put in its place is whole.
        let other = dir.path().join("other");
        fs::write(&other, line("worker", "c", 3)).unwrap();
        fs::set_permissions(&other, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&other, &path).unwrap();
        assert_eq!(names(&watch.poll().unwrap().unwrap().added), ["c"]);
    }

    #[test]
    fn a_key_that_changes_is_gone_and_new() {
        let (_dir, path) = file(&line("worker", "a", 1));
        let mut watch = KeysWatch::new(&path).unwrap();
        // As long as before and perhaps within the same tick of the clock.
        fs::write(&path, line("worker", "b", 1)).unwrap();
        let changes = look_twice(&mut watch).unwrap().unwrap();
        assert_eq!((names(&changes.added), changes.revoked, changes.vanished), (vec!["b"], vec![], vec![id(1)]));
    }

    #[test]
    fn a_broken_file_is_told_once_and_changes_nothing() {
        let (_dir, path) = file(&line("worker", "a", 1));
        let mut watch = KeysWatch::new(&path).unwrap();
        fs::write(&path, "worker b\n").unwrap();
        assert!(news(&mut watch).unwrap_err().to_string().contains("line 1: a key is four words"));
        assert!(look_twice(&mut watch).is_none() && look_twice(&mut watch).is_none());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(look_twice(&mut watch).unwrap().unwrap_err().to_string().contains("chmod 600"));
        fs::remove_file(&path).unwrap();
        assert!(look_twice(&mut watch).unwrap().is_err());
        assert!(look_twice(&mut watch).is_none());
        assert_eq!(names(&watch.keys()), ["a"], "it stays in force");
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(look_twice(&mut watch).unwrap().unwrap().vanished, [id(1)]);
        fs::remove_file(&path).unwrap();
        assert!(look_twice(&mut watch).unwrap().is_err(), "it is told again after it was mended");
    }

    #[test]
    fn a_file_that_has_rested_is_not_read_again() {
        let (_dir, path) = file(&line("worker", "a", 1));
        let old = FileTimes::new().set_modified(SystemTime::now() - Duration::from_secs(60));
        fs::File::options().write(true).open(&path).unwrap().set_times(old).unwrap();
        let mut watch = KeysWatch::new(&path).unwrap();
        assert!(watch.read.is_some() && look_twice(&mut watch).is_none());
        fs::write(&path, line("worker", "b", 2)).unwrap();
        assert_eq!(names(&look_twice(&mut watch).unwrap().unwrap().added), ["b"]);
        assert!(watch.read.is_none(), "it may be written again within the same tick");
    }

    #[test]
    fn there_is_no_beginning_without_a_file() {
        assert!(KeysWatch::new(Path::new("/no/such/file")).is_err());
    }
}
