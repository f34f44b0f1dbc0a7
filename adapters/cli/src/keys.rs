//! Key files: who may connect, and the secrets they prove it with
//!
//! There are two kinds, both of them lines of text. A key file is for the key's holder and has one key. A keys file is
//! for the coordinator and has all of them, one to a line; ` revoked` ends the line of one that is not taken any more, and
//! ` next` that of one which is to replace those of its name in front of it, and was not used yet, and ` token` with a time in
//! seconds since 1970 that of a join token, which is good for enrolling until then:
//!
//! ```text
//! # what starts like this, and an empty line, says nothing
//! worker lab-3 00112233445566aa 64 hexadecimal digits
//! client alice 0123456789abcdef 64 hexadecimal digits revoked
//! ```
//!
//! The file of a worker that enrolled says as well which fleet that was, by a line of `cluster` and 32 hexadecimal digits.
//!
//! No message repeats anything of such a line, because words may have been mixed up and any of them be a secret.

mod change;
mod enrol;
mod rotate;
mod watch;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rejoin_core::ids::{ClusterId, KeyId, PeerName, Role};
use rejoin_core::wire::keys::{Key, Secret};
use zeroize::Zeroizing;

use crate::items::label;

pub(crate) use change::key_line;
pub use change::{Revoked, new_crowd, new_key, revoke, run};
pub use enrol::{enrol_key, load_token, now_s};
pub use rotate::{drop_next, keep_next, key_used, replace_key};
pub use watch::{Changes, KeysWatch};

/// Most bytes of a key file; room for some 100,000 keys
const FILE_BYTES_MAX: u64 = 16 << 20;

/// Permissions that nobody but the owner may have
const OTHERS_MAY: u32 = 0o066;

/// The last word of a line whose key is revoked
const REVOKED: &str = "revoked";
/// The last word of a line whose key came about by rotation, and was not used yet
const NEXT: &str = "next";
/// The word behind which a join token's line says until when it is good
const TOKEN: &str = "token";
/// What the line of a cluster begins with
const CLUSTER: &str = "cluster ";

/// Whether a key is taken (AUTH-6)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is
    Good,
    /// It is, and the first time that happens those in front of it are retired
    Next,
    /// It is not
    Revoked,
    /// It is a join token, good until so many seconds after 1970
    Token(u64),
}

/// Reads a coordinator's keys, each with whether it is taken
///
/// # Errors
///
/// If the file cannot be read, others may read or write it, or anything in it is not as it should be.
pub fn load_keys(path: &Path) -> Result<Vec<(Key, Standing)>, KeysError> {
    let text = read(path)?.1;
    Ok(parse(path, &text)?.into_iter().map(|entry| (entry.key, entry.standing)).collect())
}

/// Reads all keys of a file that holds one or many workers' keys, as `rejoin key new --count` makes it
///
/// # Errors
///
/// As [`load_keys`], or if one of them is not a good key of a worker, or there is none.
pub fn load_crowd(path: &Path) -> Result<Vec<Key>, KeysError> {
    let text = read(path)?.1;
    let mut keys = Vec::new();
    for Entry { line, key, standing } in parse(path, &text)? {
        let fault = match standing {
            Standing::Good if key.role == Role::Worker => {
                keys.push(key);
                continue;
            }
            Standing::Good | Standing::Next => Fault::NoWorker,
            Standing::Revoked => Fault::Revoked,
            Standing::Token(_) => Fault::Token,
        };
        return Err(KeysError::at(path, line, fault));
    }
    if keys.is_empty() { Err(KeysError::new(path, Why::NoKey)) } else { Ok(keys) }
}

/// Reads the one key of its holder
///
/// # Errors
///
/// As [`load_keys`], or if there is none, several, or a revoked one.
pub fn load_key(path: &Path) -> Result<Key, KeysError> {
    holders_key(path).map(|(key, _)| key)
}

/// Reads the one key of its holder, and the cluster that it is for, where that is known
///
/// # Errors
///
/// As [`load_key`].
pub fn holders_key(path: &Path) -> Result<(Key, Option<ClusterId>), KeysError> {
    let text = read(path)?.1;
    let cluster = text.lines().find_map(|line| line.strip_prefix(CLUSTER)).and_then(bytes).map(|id| ClusterId(*id));
    let mut entries = parse(path, &text)?.into_iter();
    match (entries.next(), entries.next()) {
        (Some(Entry { standing: Standing::Revoked, line, .. }), None) => Err(KeysError::at(path, line, Fault::Revoked)),
        (Some(Entry { standing: Standing::Token(_), line, .. }), None) => Err(KeysError::at(path, line, Fault::Token)),
        (Some(entry), None) => Ok((entry.key, cluster)),
        (None, _) => Err(KeysError::new(path, Why::NoKey)),
        (Some(_), Some(_)) => Err(KeysError::new(path, Why::SeveralKeys)),
    }
}

/// One key of a file
struct Entry {
    /// Where it stands, from 1
    line: usize,
    key: Key,
    standing: Standing,
}

/// Why keys cannot be read or changed
#[derive(Debug)]
pub struct KeysError {
    path: PathBuf,
    why: Why,
}

#[derive(Debug)]
enum Why {
    /// The system says so
    Io(&'static str, io::Error),
    Exposed,
    NoFile,
    NotText,
    TooLarge,
    Line(usize, Fault),
    NoKey,
    SeveralKeys,
    /// The key file to be made is there already
    Exists,
    /// Both files are one
    SameFile,
    /// It is no join token
    NoToken,
    /// The join token's time is over
    Expired,
    HasKey(PeerName),
    OtherRole(PeerName, Role),
    Unknown(PeerName),
    /// Names made of this one would be longer than names may be
    LongName(PeerName),
}

/// What is wrong with a line
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Words,
    Role,
    Name,
    Id,
    Secret,
    Ending,
    Until,
    Token,
    TokenRole,
    NoWorker,
    Cluster,
    Revoked,
    SameId(usize),
    SameName(usize),
    TwoRoles(usize),
}

impl KeysError {
    fn new(path: &Path, why: Why) -> Self {
        KeysError { path: path.into(), why }
    }

    fn at(path: &Path, line: usize, fault: Fault) -> Self {
        Self::new(path, Why::Line(line, fault))
    }

    fn io(path: &Path, what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::new(path, Why::Io(what, error))
    }

    /// Whether what was asked for cannot be done, rather than something having failed
    #[must_use]
    pub fn is_usage(&self) -> bool {
        match self.why {
            Why::Exists
            | Why::SameFile
            | Why::NoToken
            | Why::Expired
            | Why::HasKey(_)
            | Why::OtherRole(..)
            | Why::Unknown(_)
            | Why::LongName(_) => true,
            Why::Io(..)
            | Why::Exposed
            | Why::NoFile
            | Why::NotText
            | Why::TooLarge
            | Why::Line(..)
            | Why::NoKey
            | Why::SeveralKeys => false,
        }
    }
}

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = shown(&self.path);
        match &self.why {
            Why::Io(what, error) => write!(f, "cannot {what} {path}: {error}"),
            Why::Exposed => {
                write!(f, "{path} can be read or written by others than its owner: run `chmod 600 {path}`")?;
                f.write_str(", and replace its keys if others may have seen them")
            }
            Why::NoFile => write!(f, "{path} is no file: give one made by `rejoin key new`"),
            Why::NotText => write!(f, "{path} is no text: give a file made by `rejoin key new`"),
            Why::TooLarge => {
                write!(f, "{path} has more than {FILE_BYTES_MAX} bytes: give a file made by `rejoin key new`")
            }
            Why::Line(line, fault) => write!(f, "{path}, line {line}: {fault}"),
            Why::NoKey => write!(f, "{path} has no key in it: remove it, and make one by `rejoin key new`"),
            Why::SeveralKeys => write!(
                f,
                "{path} has several keys, as only a coordinator's has: give the file that \
                 `rejoin key new` made for this worker or client"
            ),
            Why::Exists => write!(
                f,
                "{path} exists already, and no key is ever overwritten: give another --out, or remove it if it is of \
                 no use"
            ),
            Why::SameFile => write!(f, "{path} is given both by --out and by --keys: give two files"),
            Why::NoToken => write!(f, "{path} is no join token: give what `rejoin key token` made"),
            Why::Expired => {
                write!(f, "the time of the join token in {path} is over: ask for another one (`rejoin key token`)")
            }
            Why::HasKey(name) => write!(
                f,
                "{name} has a key or a join token in {path}: take another name, or revoke that key first by \
                 `rejoin key revoke {name} --keys {path}`"
            ),
            Why::OtherRole(name, role) => {
                write!(f, "{name} is a {} in {path}, and a name has one role: take another name", role_word(*role))
            }
            Why::Unknown(name) => {
                write!(f, "{name} has no key in {path}: look there for the name that is meant")
            }
            Why::LongName(name) => {
                write!(f, "{name} with a number behind it is longer than a name may be (64 bytes): give a shorter one")
            }
        }
    }
}

impl std::error::Error for KeysError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let Why::Io(_, error) = &self.why else { return None };
        Some(error)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Words => f.write_str("a key is four words with one space between them: role, name, id, secret"),
            Fault::Role => f.write_str("the first word is neither `worker` nor `client`: say what the key is for"),
            Fault::Name => write!(f, "the second word is no name: {}", rejoin_core::ids::BadName),
            Fault::Id => f.write_str("the third word is no id: write 16 digits out of 0-9 and a-f"),
            Fault::Secret => f.write_str(
                "the fourth word is no secret of 64 digits out of 0-9 and a-f: copy it whole, or make another key",
            ),
            Fault::Ending => write!(f, "the fifth word is neither `{REVOKED}` nor `{NEXT}` nor `{TOKEN}`: remove it"),
            Fault::Until => write!(f, "behind `{TOKEN}` there is no time in seconds since 1970: make another token"),
            Fault::Token => f.write_str("this is a join token, and no key: give it by --token-file"),
            Fault::TokenRole => f.write_str("only workers enrol by a join token: make a key for a client"),
            Fault::NoWorker => f.write_str(
                "a crowd has workers' keys only, and none of a coordinator's file: make some by `rejoin key new NAME --count N`",
            ),
            Fault::Cluster => {
                write!(f, "behind `{CLUSTER}` there are no 32 digits out of 0-9 and a-f: remove the line")
            }
            Fault::Revoked => f.write_str("the key is revoked: ask for another one"),
            Fault::SameId(line) => write!(f, "the same id as in line {line}: remove one of the two lines"),
            Fault::SameName(line) => write!(
                f,
                "the name has another key in line {line}: end one of the two lines with ` {REVOKED}`, or remove it"
            ),
            Fault::TwoRoles(line) => {
                write!(f, "the name has another role in line {line}, and a name has one role: remove one of the lines")
            }
        }
    }
}

/// A path as it can be typed, or quoted where it is odd
fn shown(path: &Path) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%=".contains(c);
    match path.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(plain) => text.to_owned(),
        _ => label(path.as_os_str()),
    }
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Worker => "worker",
        Role::Client => "client",
    }
}

/// What tells whether a file has been changed
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    inode: (u64, u64),
    len: u64,
    modified: (i64, i64),
}

impl Stamp {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Stamp {
            inode: (metadata.dev(), metadata.ino()),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// The text of a file that only its owner may touch
fn read(path: &Path) -> Result<(Metadata, Zeroizing<String>), KeysError> {
    let cannot = || KeysError::io(path, "read");
    let mut file = File::open(path).map_err(cannot())?;
    // Of the open file: whoever replaces it meanwhile changes nothing about what is read.
    let metadata = file.metadata().map_err(cannot())?;
    if !metadata.is_file() {
        return Err(KeysError::new(path, Why::NoFile));
    }
    if metadata.mode() & OTHERS_MAY != 0 {
        return Err(KeysError::new(path, Why::Exposed));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(KeysError::new(path, Why::TooLarge));
    }
    let bytes = contents(&mut file, metadata.len()).map_err(cannot())?;
    match str::from_utf8(&bytes) {
        Ok(text) => Ok((metadata, Zeroizing::new(text.to_owned()))),
        Err(_) => Err(KeysError::new(path, Why::NotText)),
    }
}

/// Reads as much as there is said to be; a buffer that grew would leave secrets behind where it was before
fn contents(file: &mut File, len: u64) -> io::Result<Zeroizing<Vec<u8>>> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    let mut bytes = Zeroizing::new(vec![0; len + 1]);
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read(&mut bytes[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    if filled > len {
        return Err(io::Error::other("it is being written: try again"));
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// All keys of a file, in order
fn parse(path: &Path, text: &str) -> Result<Vec<Entry>, KeysError> {
    let mut entries: Vec<Entry> = Vec::new();
    // Where an id stands, and the one key of a name that is good, or else any.
    let mut ids = BTreeMap::new();
    let mut names: BTreeMap<PeerName, (usize, Role, bool)> = BTreeMap::new();
    for (index, text) in text.lines().enumerate() {
        let line = index + 1;
        if text.is_empty() || text.starts_with('#') {
            continue;
        }
        if let Some(id) = text.strip_prefix(CLUSTER) {
            bytes::<16>(id).ok_or_else(|| KeysError::at(path, line, Fault::Cluster))?;
            continue;
        }
        let (key, standing) = parse_line(text).map_err(|fault| KeysError::at(path, line, fault))?;
        let clash = match (ids.insert(key.id, line), names.get(&key.name)) {
            (Some(other), _) => Some(Fault::SameId(other)),
            (None, Some((other, role, _))) if *role != key.role => Some(Fault::TwoRoles(*other)),
            (None, Some((other, _, true))) if standing == Standing::Good => Some(Fault::SameName(*other)),
            (None, _) => None,
        };
        if let Some(fault) = clash {
            return Err(KeysError::at(path, line, fault));
        }
        let place = names.entry(key.name.clone()).or_insert((line, key.role, false));
        if standing == Standing::Good {
            *place = (line, key.role, true);
        }
        entries.push(Entry { line, key, standing });
    }
    Ok(entries)
}

fn parse_line(text: &str) -> Result<(Key, Standing), Fault> {
    if text.split(' ').any(str::is_empty) {
        return Err(Fault::Words);
    }
    let mut words = text.split(' ');
    let mut word = || words.next().ok_or(Fault::Words);
    let (role, name, id, secret) = (word()?, word()?, word()?, word()?);
    let standing = match words.next() {
        None => Standing::Good,
        Some(REVOKED) => Standing::Revoked,
        Some(NEXT) => Standing::Next,
        Some(TOKEN) => Standing::Token(words.next().and_then(|until| until.parse().ok()).ok_or(Fault::Until)?),
        Some(_) => return Err(Fault::Ending),
    };
    if words.next().is_some() {
        return Err(Fault::Words);
    }
    let role = match role {
        "worker" => Role::Worker,
        "client" if matches!(standing, Standing::Token(_)) => return Err(Fault::TokenRole),
        "client" => Role::Client,
        _ => return Err(Fault::Role),
    };
    let name = name.parse().map_err(|_| Fault::Name)?;
    let id = KeyId(*bytes(id).ok_or(Fault::Id)?);
    let secret = Secret::new(*bytes(secret).ok_or(Fault::Secret)?);
    Ok((Key { id, secret, name, role }, standing))
}

/// The bytes that lower-case hexadecimal digits stand for
fn bytes<const N: usize>(digits: &str) -> Option<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    pub(super) const SECRET: &str = "5ec2e7005ec2e7015ec2e7025ec2e7035ec2e7045ec2e7055ec2e7065ec2e707";

    pub(super) fn line(role: &str, name: &str, id: u64) -> String {
        format!("{role} {name} {id:016x} {SECRET}")
    }

    /// A file with that text, which only its owner may touch
    pub(super) fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        (dir, path)
    }

    fn refused(text: &str) -> String {
        let (_dir, path) = file(text);
        let message = load_keys(&path).unwrap_err().to_string();
        assert!(message.starts_with(&shown(&path)), "{message}");
        assert!(!message.contains("5ec2e7"), "a secret is repeated: {message}");
        message
    }

    #[test]
    fn keys_are_read_line_by_line() {
        let text = format!(
            "# for the coordinator\n\n{}\n{} revoked\n{}",
            line("worker", "a", 1),
            line("worker", "a", 2),
            line("client", "b", 0xfedc_ba98_7654_3210)
        );
        let (_dir, path) = file(&text);
        let keys = load_keys(&path).unwrap();
        let told: Vec<_> = keys.iter().map(|(key, standing)| (key.name.as_str(), key.role, *standing)).collect();
        let (good, revoked) = (Standing::Good, Standing::Revoked);
        assert_eq!(told, [("a", Role::Worker, good), ("a", Role::Worker, revoked), ("b", Role::Client, good)]);
        assert_eq!(keys[2].0.id, KeyId([0xfe, 0xdc, 0xba, 0x98, 0x76, 0x54, 0x32, 0x10]));
        assert_eq!(keys[0].0.secret, Secret::new(*bytes(SECRET).unwrap()));
    }

    #[test]
    fn a_fault_is_told_with_its_line_and_what_to_do() {
        let good = line("worker", "a", 1);
        for (bad, part) in [
            (format!("worker a 0000000000000002{SECRET}"), "four words"),
            (format!("worker {SECRET} a"), "four words"),
            (format!("worker  b 0000000000000002 {SECRET}"), "four words with one space"),
            (format!(" worker b 0000000000000002 {SECRET}"), "four words with one space"),
            (line("boss", "b", 2), "neither `worker` nor `client`"),
            (line("Worker", "b", 2), "neither `worker` nor `client`"),
            (line("worker", "b/c", 2), "the second word is no name"),
            (format!("worker b {SECRET} 0000000000000002"), "the third word"),
            (format!("worker b 000000000000000G {SECRET}"), "the third word"),
            (line("worker", "b", 2)[..70].to_owned(), "the fourth word"),
            (line("worker", "b", 2) + "0", "the fourth word"),
            (line("worker", "b", 2).replace("5ec2e700", "5EC2E700"), "the fourth word"),
            (line("worker", "b", 2) + "\r\r", "the fourth word"),
            (line("worker", "b", 2) + " gone", "the fifth word is neither"),
            (line("worker", "b", 2) + " ", "four words with one space"),
            (line("worker", "b", 2) + " revoked twice", "four words"),
            (line("worker", "b", 1), "the same id as in line 1"),
            (line("worker", "a", 2), "another key in line 1"),
            (line("client", "a", 2) + " revoked", "another role in line 1"),
        ] {
            let message = refused(&format!("{good}\n# a comment\n{bad}\n"));
            assert!(message.contains(", line 3: ") && message.contains(part), "{message}");
        }
    }

    #[test]
    fn the_third_key_of_a_name_clashes_with_the_one_that_is_not_revoked() {
        let text = [line("worker", "a", 1) + " revoked", line("worker", "a", 2), line("worker", "a", 3) + " revoked"];
        let (_dir, path) = file(&text.join("\n"));
        assert_eq!(load_keys(&path).unwrap().len(), 3);
        assert!(refused(&(text.join("\n") + "\n" + &line("worker", "a", 4))).contains("another key in line 2"));
    }

    #[test]
    fn a_file_that_others_may_touch_is_refused() {
        let (_dir, path) = file(&line("worker", "a", 1));
        for mode in [0o640, 0o604, 0o620, 0o602, 0o666] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            for message in [load_keys(&path).unwrap_err().to_string(), load_key(&path).unwrap_err().to_string()] {
                assert!(message.contains(&format!("chmod 600 {}", path.display())), "{mode:o}: {message}");
            }
        }
        for mode in [0o600, 0o400, 0o700] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(load_keys(&path).is_ok(), "{mode:o}");
        }
    }

    #[test]
    fn a_holders_file_has_one_key() {
        let of = |text: &str| {
            let (_dir, path) = file(text);
            load_key(&path).map_err(|error| error.to_string())
        };
        assert_eq!(of(&format!("# x\n{}\n", line("client", "a", 1))).unwrap().name.as_str(), "a");
        assert!(of("").unwrap_err().contains("has no key in it"));
        let two = format!("{}\n{}\n", line("worker", "a", 1), line("worker", "b", 2));
        assert!(of(&two).unwrap_err().contains("several keys"));
        assert!(of(&(line("worker", "a", 1) + " revoked")).unwrap_err().contains("line 1: the key is revoked"));
    }

    #[test]
    fn what_is_no_key_file_at_all_is_told() {
        let (dir, path) = file("");
        fs::write(&path, [0xff, b'\n']).unwrap();
        assert!(load_keys(&path).unwrap_err().to_string().contains("is no text"));
        File::options().write(true).open(&path).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert!(load_keys(&path).unwrap_err().to_string().contains("more than 16777216 bytes"));
        let missing = dir.path().join("a b");
        let message = load_keys(&missing).unwrap_err().to_string();
        assert!(message.starts_with("cannot read \"") && message.contains("a b\": No such file"), "{message}");
    }

    #[test]
    fn secrets_are_not_printed_even_for_debugging() {
        let (_dir, path) = file(&line("worker", "a", 1));
        assert!(!format!("{:?}", load_keys(&path).unwrap()).contains("5ec2e7"));
    }

    quickcheck! {
        fn no_text_upsets_the_parser(text: String) -> bool {
            parse(Path::new("x"), &text).is_ok() || !text.is_empty()
        }

        fn a_damaged_line_is_never_taken_for_another_key(at: usize, byte: u8) -> bool {
            let good = line("worker", "a", 1);
            let mut bytes = good.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte & 0x7f;
            let Ok(text) = String::from_utf8(bytes) else { return true };
            match parse_line(&text) {
                // A digit or a letter of the name may have become another one.
                Ok((key, standing)) => standing == Standing::Good && key.name.as_str().len() == 1,
                Err(_) => text != good,
            }
        }
    }
}
