//! Making keys and revoking them

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use rejoin_core::ids::{KeyId, PeerName, Role};
use rejoin_core::wire::keys::{Key, Secret};
use rejoin_smol::clock::entropy;
use zeroize::Zeroizing;

use super::enrol::{new_token, now_s, print_token};
use super::{Entry, KeysError, REVOKED, Standing, Why, parse, read, role_word, shown};
use crate::args::{KeyCommand, KeyNew, KeyRevoke, KeyToken};
use crate::ask;
use crate::report::{EXIT_INTERNAL, EXIT_USAGE};

/// Does what `rejoin key` was asked for and returns the exit status
pub fn run(command: &KeyCommand) -> u8 {
    let done = match command {
        KeyCommand::New(KeyNew { name, role, out, keys, count: Some(count) }) => {
            new_crowd(name, *count, *role, out, keys).map(|()| crowd_made(*count, out))
        }
        KeyCommand::New(KeyNew { name, role, out, keys, count: None }) => {
            new_key(name, *role, out, keys).map(|()| made(name, *role, out))
        }
        KeyCommand::Revoke(KeyRevoke { name, keys }) => revoke(name, keys).map(|revoked| gone(name, keys, revoked)),
        KeyCommand::Token(KeyToken { name, out: Some(out), keys, valid }) => {
            new_token(name, *valid, out, keys).map(|()| token_made(name, out))
        }
        KeyCommand::Token(KeyToken { name, out: None, keys, valid }) => print_token(name, *valid, keys),
        KeyCommand::Rotate(rotate) => return ask::rotate_key(rotate),
    };
    match done {
        Ok(line) => {
            // Whoever closed standard output does not want to know: the files are written.
            let _ = writeln!(io::stdout(), "{line}");
            0
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "rejoin: {error}");
            if error.is_usage() { EXIT_USAGE } else { EXIT_INTERNAL }
        }
    }
}

fn made(name: &PeerName, role: Role, out: &Path) -> String {
    let next = match role {
        Role::Worker => "worker",
        Role::Client => "status",
    };
    let (role, out) = (role_word(role), shown(out));
    format!("made {out}, the key of {role} {name}; next: rejoin {next} --coordinator URL --key {out}")
}

fn crowd_made(count: u32, out: &Path) -> String {
    let out = shown(out);
    format!("made {out}, with {count} keys; next, for workers: rejoin crowd --coordinator URL --key {out}")
}

fn token_made(name: &PeerName, out: &Path) -> String {
    let out = shown(out);
    format!(
        "made {out}, a join token of worker {name}; next: rejoin worker --coordinator URL --token-file {out} --key FILE"
    )
}

fn gone(name: &PeerName, keys: &Path, revoked: Revoked) -> String {
    let keys = shown(keys);
    let what = match revoked {
        Revoked::Now => format!("revoked the key of {name}, as a coordinator that runs sees within seconds"),
        Revoked::Before => format!("the key of {name} was revoked already"),
    };
    format!("{what}; for another one: rejoin key new {name} --out FILE --keys {keys}")
}

/// Makes a key: in a file of its own for its holder, and in the coordinator's file
///
/// # Errors
///
/// If `out` exists, the name has a key or another role, or a file cannot be read or written. Then nobody has a new key;
/// after a crash the coordinator's file may have one, which can be revoked.
pub fn new_key(name: &PeerName, role: Role, out: &Path, keys: &Path) -> Result<(), KeysError> {
    make(std::slice::from_ref(name), role, out, keys, "")
}

/// Makes keys for as many, named NAME-1 and so on, all in one file, as [`rejoin crowd`](crate::crowd) takes it
///
/// # Errors
///
/// As [`new_key`], or if the names would be too long.
pub fn new_crowd(name: &PeerName, count: u32, role: Role, out: &Path, keys: &Path) -> Result<(), KeysError> {
    let name_of = |n: u32| format!("{name}-{n}").parse();
    let names: Result<Vec<PeerName>, _> = (1..=count).map(name_of).collect();
    let names = names.map_err(|_| KeysError::new(out, Why::LongName(name.clone())))?;
    make(&names, role, out, keys, "")
}

/// As [`new_key`], with something at the end of the line
pub(super) fn make(names: &[PeerName], role: Role, out: &Path, keys: &Path, ending: &str) -> Result<(), KeysError> {
    let _lock = lock(keys)?;
    let (old, lines) = made_lines(names, role, keys, ending)?;
    // The holder's file is only claimed at first, and empty. The key goes to the coordinator's file before it goes
    // there: whatever ends this in between, no key file is left that looks good and that no coordinator knows.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(out).map_err(|error| {
        let exists = error.kind() == ErrorKind::AlreadyExists;
        KeysError::new(out, if exists { Why::Exists } else { Why::Io("create", error) })
    })?;
    let written = check_two_files(out, keys).and_then(|()| {
        replace(keys, &with_line(&old, &lines))?;
        let what = if ending.is_empty() { "key" } else { "join token" };
        let holders = match names {
            [name] => holders_text(name.as_str(), role, what, &lines),
            [first, .., last] => holders_text(&format!("{first} to {last}"), role, "keys", &lines),
            [] => Zeroizing::new(String::new()),
        };
        let filled = file.write_all(holders.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| sync_folder(out));
        filled.map_err(KeysError::io(out, "write")).inspect_err(|_| {
            // Nobody has this key, so that nobody should be let in with it. If that fails too, it can be revoked.
            let _ = replace(keys, &old);
        })
    });
    written.inspect_err(|_| {
        // It is empty or useless, and would be in the way of the next attempt.
        let _ = fs::remove_file(out);
    })
}

/// When a key was revoked
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// Just now
    Now,
    /// Before, and nothing was left to do
    Before,
}

/// Marks a name's key as revoked, and those that are to replace it; their lines stay
///
/// # Errors
///
/// If the name has no key, or the file cannot be read or written.
pub fn revoke(name: &PeerName, keys: &Path) -> Result<Revoked, KeysError> {
    // Before there is a file that locks it: where there are no keys, nothing is to be left behind.
    read(keys)?;
    let _lock = lock(keys)?;
    let old = read(keys)?.1;
    let entries = parse(keys, &old)?;
    let mut of_name = entries.iter().filter(|entry| entry.key.name == *name).peekable();
    if of_name.peek().is_none() {
        return Err(KeysError::new(keys, Why::Unknown(name.clone())));
    }
    let good: Vec<usize> =
        of_name.filter(|entry| entry.standing != Standing::Revoked).map(|entry| entry.line).collect();
    if good.is_empty() {
        return Ok(Revoked::Before);
    }
    replace(keys, &marked(&old, |line| good.contains(&line).then_some(REVOKED)))?;
    Ok(Revoked::Now)
}

/// The text with another last word, or none, where there is to be another
pub(super) fn marked(old: &str, ending: impl Fn(usize) -> Option<&'static str>) -> Zeroizing<String> {
    let mut pieces = Vec::new();
    for (index, line) in old.lines().enumerate() {
        match ending(index + 1) {
            None => pieces.push(line),
            Some(ending) => {
                let key = line.match_indices(' ').nth(3).map_or(line, |(end, _)| &line[..end]);
                pieces.extend([key, if ending.is_empty() { "" } else { " " }, ending]);
            }
        }
        pieces.push("\n");
    }
    concat(&pieces)
}

/// What a keys file starts with
const COORDINATORS: &str = "\
# The keys that a rejoin coordinator takes. Keep this file secret: whoever has it can be any worker or client.
# It is changed by `rejoin key` and by its coordinator, which follows while it runs.
";

/// What a key file says behind whose key it is
const HOLDERS: &str = " of rejoin. Keep this file secret: whoever has it can pass for its holder.\n";

/// What is in a holder's file
pub(super) fn holders_text(name: &str, role: Role, what: &str, lines: &str) -> Zeroizing<String> {
    concat(&["# The ", what, " of ", role_word(role), " ", name, HOLDERS, lines, "\n"])
}

/// The coordinator's file as it is without tokens whose time is over, and the lines of new keys for it
pub(super) fn made_lines(
    names: &[PeerName],
    role: Role,
    keys: &Path,
    ending: &str,
) -> Result<(Zeroizing<String>, Zeroizing<String>), KeysError> {
    let old = read_or_begin(keys)?;
    let entries = parse(keys, &old)?;
    check_free(names, role, keys, &entries)?;
    let pending = |entry: &Entry| {
        entries.iter().any(|other| other.key.name == entry.key.name && other.standing == Standing::Next)
    };
    // What has followed from a token before its time was over is good, and would be revoked with it.
    let over = entries.iter().filter(|entry| is_over(entry.standing) && !pending(entry));
    let over: Vec<usize> = over.map(|entry| entry.line).collect();
    let old = if over.is_empty() { old } else { marked(&old, |line| over.contains(&line).then_some(REVOKED)) };
    let lines: Result<Vec<_>, _> = names.iter().map(|name| new_line(name, role)).collect();
    let lines = lines.map_err(KeysError::io(keys, "make a key for"))?;
    let mut pieces = Vec::with_capacity(3 * lines.len());
    for line in &lines {
        pieces.extend([if pieces.is_empty() { "" } else { "\n" }, line, ending]);
    }
    Ok((old, concat(&pieces)))
}

fn new_line(name: &PeerName, role: Role) -> io::Result<Zeroizing<String>> {
    let (id, secret) = (KeyId(entropy()?), Secret::new(entropy()?));
    Ok(key_line(&Key { id, secret, name: name.clone(), role }))
}

/// Whether this is a join token that is good no more
fn is_over(standing: Standing) -> bool {
    matches!(standing, Standing::Token(until) if until <= now_s())
}

pub(crate) fn key_line(key: &Key) -> Zeroizing<String> {
    let mut digits = Zeroizing::new(String::with_capacity(64));
    for nibble in key.secret.reveal().iter().flat_map(|byte| [byte >> 4, byte & 0xf]) {
        digits.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
    }
    concat(&[role_word(key.role), " ", key.name.as_str(), " ", &key.id.to_string(), " ", &digits])
}

pub(super) fn with_line(old: &str, line: &str) -> Zeroizing<String> {
    let end = if old.is_empty() || old.ends_with('\n') { "" } else { "\n" };
    concat(&[if old.is_empty() { COORDINATORS } else { old }, end, line, "\n"])
}

/// All of it in one buffer that never grows, because a buffer that moves leaves secrets behind
pub(super) fn concat(pieces: &[&str]) -> Zeroizing<String> {
    let mut text = Zeroizing::new(String::with_capacity(pieces.iter().map(|piece| piece.len()).sum()));
    pieces.iter().for_each(|piece| text.push_str(piece));
    text
}

fn check_free(names: &[PeerName], role: Role, keys: &Path, entries: &[Entry]) -> Result<(), KeysError> {
    let names: BTreeSet<&PeerName> = names.iter().collect();
    for entry in entries.iter().filter(|entry| names.contains(&entry.key.name)) {
        let name = &entry.key.name;
        if entry.key.role != role {
            return Err(KeysError::new(keys, Why::OtherRole(name.clone(), entry.key.role)));
        }
        if entry.standing != Standing::Revoked && !is_over(entry.standing) {
            return Err(KeysError::new(keys, Why::HasKey(name.clone())));
        }
    }
    Ok(())
}

/// Two ways to write one file, found out now that the first of them exists
fn check_two_files(out: &Path, keys: &Path) -> Result<(), KeysError> {
    let out_is = fs::canonicalize(out).map_err(KeysError::io(out, "find"))?;
    match fs::canonicalize(keys) {
        Ok(keys_is) if keys_is == out_is => Err(KeysError::new(out, Why::SameFile)),
        _ => Ok(()),
    }
}

/// The text of a keys file, nothing if there is none yet
fn read_or_begin(keys: &Path) -> Result<Zeroizing<String>, KeysError> {
    match read(keys) {
        Ok((_, text)) => Ok(text),
        Err(KeysError { why: Why::Io(_, error), .. }) if error.kind() == ErrorKind::NotFound => {
            Ok(Zeroizing::new(String::new()))
        }
        Err(error) => Err(error),
    }
}

/// Keeps others from changing a keys file, as long as the file returned is open
///
/// It is another file that is locked, since the keys file is replaced by each change.
pub(super) fn lock(keys: &Path) -> Result<File, KeysError> {
    let mut path = real(keys).into_os_string();
    path.push(".lock");
    let path = PathBuf::from(path);
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = file.map_err(KeysError::io(&path, "create"))?;
    file.lock().map_err(KeysError::io(&path, "lock"))?;
    Ok(file)
}

/// Where a file is whose path may lead over a link: it is the file that is replaced, not the link
fn real(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.into())
}

/// Puts a text in a file's place, all of it or nothing
pub(super) fn replace(keys: &Path, text: &str) -> Result<(), KeysError> {
    let cannot = KeysError::io(keys, "write");
    let path = real(keys);
    let whole = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".rejoin-keys-").tempfile_in(folder(&path))?;
        if let Ok(old) = fs::metadata(&path) {
            let new = file.as_file().metadata()?;
            if (old.uid(), old.gid()) != (new.uid(), new.gid()) {
                // Root changes the file of a coordinator that runs as somebody else, who must be able to read it.
                fchown(file.as_file(), Some(old.uid()), Some(old.gid()))?;
            }
        }
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        sync_folder(&path)
    };
    whole().map_err(cannot)
}

/// Makes sure that a file is found under its name after a crash
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder(path))?.sync_all()
}

pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{SECRET, file, line};
    use super::super::{load_key, load_keys};
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn name(text: &str) -> PeerName {
        text.parse().unwrap()
    }

    fn make(dir: &Path, text: &str, role: Role) -> Result<(), String> {
        new_key(&name(text), role, &dir.join(text), &dir.join("keys")).map_err(|error| {
            assert!(error.is_usage(), "{error}");
            error.to_string()
        })
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn both_sides_get_the_same_key_and_nobody_else_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), "w", Role::Worker).unwrap();
        make(dir.path(), "c", Role::Client).unwrap();
        let keys = load_keys(&dir.path().join("keys")).unwrap();
        for ((key, standing), of) in keys.iter().zip(["w", "c"]) {
            assert_eq!((key, *standing), (&load_key(&dir.path().join(of)).unwrap(), Standing::Good));
            assert_eq!(mode(&dir.path().join(of)), 0o600);
        }
        assert_eq!((keys.len(), keys[0].0.role, keys[1].0.role), (2, Role::Worker, Role::Client));
        assert_ne!(keys[0].0.secret, keys[1].0.secret);
        assert_eq!(mode(&dir.path().join("keys")), 0o600);
        let text = fs::read_to_string(dir.path().join("w")).unwrap();
        assert!(text.starts_with("# The key of worker w of rejoin. Keep this file secret"), "{text}");
        let others: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(others.len(), 4, "no temporary file is left: {others:?}");
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("w"), "precious").unwrap();
        assert!(make(dir.path(), "w", Role::Worker).unwrap_err().contains("exists already"));
        assert_eq!(fs::read(dir.path().join("w")).unwrap(), b"precious");
        assert!(!dir.path().join("keys").exists());
    }

    #[test]
    fn a_name_has_one_key_and_one_role() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        make(dir.path(), "w", Role::Worker).unwrap();
        fs::rename(dir.path().join("w"), dir.path().join("first")).unwrap();
        let refused = make(dir.path(), "w", Role::Worker).unwrap_err();
        assert!(refused.contains("take another name") && refused.contains("rejoin key revoke w --keys"), "{refused}");
        assert!(make(dir.path(), "w", Role::Client).unwrap_err().contains("w is a worker in"));
        assert!(!dir.path().join("w").exists(), "what was refused leaves nothing");
        assert_eq!(revoke(&name("w"), &keys).unwrap(), Revoked::Now);
        assert!(make(dir.path(), "w", Role::Client).unwrap_err().contains("a name has one role"));
        make(dir.path(), "w", Role::Worker).unwrap();
        let all = load_keys(&keys).unwrap();
        let standings: Vec<_> = all.iter().map(|(_, standing)| *standing).collect();
        assert_eq!(standings, [Standing::Revoked, Standing::Good]);
        assert_eq!(all[0].0, load_key(&dir.path().join("first")).unwrap());
        assert_ne!(all[0].0.id, all[1].0.id);
    }

    #[test]
    fn revoking_keeps_everything_else_as_it_is() {
        let text = format!(
            "# mine\n\n{}\n{} revoked\n{}",
            line("worker", "a", 1),
            line("client", "b", 2),
            line("client", "b", 3)
        );
        let (_dir, path) = file(&text);
        let unknown = revoke(&name("c"), &path).unwrap_err();
        assert!(unknown.is_usage() && unknown.to_string().contains("c has no key in"), "{unknown}");
        assert_eq!(revoke(&name("b"), &path).unwrap(), Revoked::Now);
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{text} revoked\n"));
        assert_eq!(revoke(&name("b"), &path).unwrap(), Revoked::Before);
        assert!(!revoke(&name("b"), Path::new("/no/such/file")).unwrap_err().is_usage());
    }

    #[test]
    fn a_file_without_its_last_newline_is_continued_on_a_line_of_its_own() {
        let (dir, path) = file(&line("worker", "a", 1));
        new_key(&name("b"), Role::Worker, &dir.path().join("b"), &path).unwrap();
        assert_eq!(load_keys(&path).unwrap().len(), 2);
    }

    #[test]
    fn a_damaged_or_open_keys_file_is_left_alone() {
        let (dir, path) = file(&format!("worker a {SECRET}"));
        let out = dir.path().join("b");
        assert!(new_key(&name("b"), Role::Worker, &out, &path).unwrap_err().to_string().contains("line 1"));
        fs::write(&path, "").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(new_key(&name("b"), Role::Worker, &out, &path).unwrap_err().to_string().contains("chmod 600"));
        assert!(!out.exists() && fs::read(&path).unwrap().is_empty());
    }

    #[test]
    fn what_cannot_be_written_leaves_no_key_anywhere() {
        let dir = tempfile::tempdir().unwrap();
        let (keys, nowhere) = (dir.path().join("keys"), dir.path().join("no/such/folder"));
        assert!(new_key(&name("w"), Role::Worker, &nowhere, &keys).is_err());
        assert!(!keys.exists());
        assert!(new_key(&name("w"), Role::Worker, &dir.path().join("w"), &nowhere).is_err());
        assert!(!dir.path().join("w").exists());
        // The same file in two ways, there already or not.
        for _ in 0..2 {
            let twice = new_key(&name("w"), Role::Worker, &dir.path().join("./keys"), &keys).unwrap_err();
            assert!(twice.is_usage(), "{twice}");
            make(dir.path(), "w", Role::Worker).unwrap_or_default();
        }
        assert_eq!(load_keys(&keys).unwrap().len(), 1);
    }

    #[test]
    fn the_file_behind_a_link_is_changed_and_the_link_stays() {
        let (dir, path) = file("");
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        new_key(&name("a"), Role::Worker, &dir.path().join("a"), &link).unwrap();
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(load_keys(&path).unwrap().len(), 1);
    }

    #[test]
    fn keys_made_at_the_same_time_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for number in 0..24 {
                let dir = dir.path();
                scope.spawn(move || make(dir, &format!("w{number}"), Role::Worker).unwrap());
            }
        });
        assert_eq!(load_keys(&dir.path().join("keys")).unwrap().len(), 24);
    }

    #[test]
    fn one_of_many_with_the_same_name_gets_it() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        let made = std::thread::scope(|scope| {
            let makers = [0, 1, 2, 3, 4, 5, 6, 7].map(|number| {
                let (out, keys) = (dir.path().join(number.to_string()), &keys);
                scope.spawn(move || new_key(&name("w"), Role::Worker, &out, keys).is_ok())
            });
            makers.into_iter().map(|maker| maker.join().unwrap()).filter(|made| *made).count()
        });
        assert_eq!((made, load_keys(&keys).unwrap().len()), (1, 1));
    }

    #[test]
    fn the_line_about_it_has_no_secret_and_says_what_comes_next() {
        let line = made(&name("w"), Role::Worker, Path::new("w.key"));
        assert_eq!(line, "made w.key, the key of worker w; next: rejoin worker --coordinator URL --key w.key");
        assert!(
            made(&name("c"), Role::Client, Path::new("a b")).ends_with("rejoin status --coordinator URL --key \"a b\"")
        );
        assert!(gone(&name("w"), Path::new("k"), Revoked::Now).ends_with("rejoin key new w --out FILE --keys k"));
    }
}
