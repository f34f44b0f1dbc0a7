//! Join tokens, by which workers enrol that have no key yet (AUTH-6)

use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rejoin_core::ids::{ClusterId, PeerName, Role};
use rejoin_core::wire::keys::Key;
use zeroize::Zeroizing;

use super::change::{concat, folder, holders_text, key_line, lock, made_lines, make, replace, sync_folder, with_line};
use super::{CLUSTER, KeysError, Standing, TOKEN, Why, parse, read};

/// Most bytes of a token that come by standard input
const INPUT_BYTES_MAX: u64 = 4096;

/// The time in seconds since 1970; none of a token's time is left where the clock is before
pub fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs())
}

fn ending(valid: Duration) -> String {
    format!(" {TOKEN} {}", now_s().saturating_add(valid.as_secs()))
}

/// Makes a join token: in a file of its own for the worker, and in the coordinator's file
///
/// # Errors
///
/// As [`new_key`](super::new_key).
pub(super) fn new_token(name: &PeerName, valid: Duration, out: &Path, keys: &Path) -> Result<(), KeysError> {
    make(std::slice::from_ref(name), Role::Worker, out, keys, &ending(valid))
}

/// Makes a join token for whoever reads it, and puts it into the coordinator's file
///
/// # Errors
///
/// As [`new_key`](super::new_key).
pub(super) fn print_token(name: &PeerName, valid: Duration, keys: &Path) -> Result<String, KeysError> {
    let _lock = lock(keys)?;
    let (old, line) = made_lines(std::slice::from_ref(name), Role::Worker, keys, &ending(valid))?;
    replace(keys, &with_line(&old, &line))?;
    Ok(String::clone(&line))
}

/// Reads a join token from a file, or with `-` from standard input
///
/// # Errors
///
/// If it cannot be read, others may read or write it, it is no token, or its time is over.
pub fn load_token(path: &Path) -> Result<Key, KeysError> {
    let text = if path == Path::new("-") { from_input(path)? } else { read(path)?.1 };
    let mut entries = parse(path, &text)?.into_iter();
    match (entries.next().map(|entry| (entry.standing, entry.key)), entries.next()) {
        (Some((Standing::Token(until), _)), None) if until <= now_s() => Err(KeysError::new(path, Why::Expired)),
        (Some((Standing::Token(_), key)), None) => Ok(key),
        _ => Err(KeysError::new(path, Why::NoToken)),
    }
}

fn from_input(path: &Path) -> Result<Zeroizing<String>, KeysError> {
    let mut text = Zeroizing::new(String::with_capacity(INPUT_BYTES_MAX as usize));
    io::stdin().take(INPUT_BYTES_MAX).read_to_string(&mut text).map_err(KeysError::io(path, "read"))?;
    Ok(text)
}

/// Writes the key that a worker was given for its token: a file that was not there before
///
/// # Errors
///
/// If the file exists, or cannot be written.
pub fn enrol_key(path: &Path, key: &Key, cluster: ClusterId) -> Result<(), KeysError> {
    let lines = concat(&[CLUSTER, &cluster.to_string(), "\n", &key_line(key)]);
    let text = holders_text(key.name.as_str(), key.role, "key", &lines);
    let whole = || -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(".rejoin-key-").tempfile_in(folder(path))?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path).map_err(|error| error.error)?;
        sync_folder(path)
    };
    whole().map_err(|error| {
        let exists = error.kind() == ErrorKind::AlreadyExists;
        KeysError::new(path, if exists { Why::Exists } else { Why::Io("write", error) })
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{file, line};
    use super::super::{holders_key, keep_next, key_used, load_key, load_keys, new_key, replace_key, revoke};
    use super::*;
    use rejoin_core::ids::KeyId;
    use rejoin_core::wire::keys::Secret;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    const HOUR: Duration = Duration::from_secs(3600);

    fn name() -> PeerName {
        "a".parse().unwrap()
    }

    fn key(id: u64) -> Key {
        let secret = Secret::new([id as u8; 32]);
        Key { id: KeyId(id.to_be_bytes()), secret, name: name(), role: Role::Worker }
    }

    fn standings(path: &Path) -> Vec<Standing> {
        load_keys(path).unwrap().into_iter().map(|(_, standing)| standing).collect()
    }

    #[test]
    fn auth_6_a_token_is_in_both_files_and_is_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let (keys, out) = (dir.path().join("keys"), dir.path().join("a.token"));
        new_token(&name(), HOUR, &out, &keys).unwrap();
        let token = load_token(&out).unwrap();
        let known = load_keys(&keys).unwrap();
        assert!(known[0].0 == token && matches!(known[0].1, Standing::Token(until) if until > now_s() + 3000));
        assert_eq!(fs::metadata(&out).unwrap().mode() & 0o777, 0o600);
        assert!(load_key(&out).unwrap_err().to_string().contains("--token-file"));
        assert!(new_key(&name(), Role::Worker, &dir.path().join("k"), &keys).is_err(), "the name is taken");
        let printed = print_token(&"b".parse().unwrap(), HOUR, &keys).unwrap();
        assert!(fs::read_to_string(&keys).unwrap().ends_with(&format!("{printed}\n")));
        revoke(&name(), &keys).unwrap();
        assert_eq!(standings(&keys)[0], Standing::Revoked);
        assert_eq!(fs::read_to_string(&keys).unwrap().matches(" token ").count(), 1, "of the other one");
    }

    #[test]
    fn auth_6_a_token_whose_time_is_over_frees_its_name() {
        let (dir, path) = file(&format!("{} token 1000\n", line("worker", "a", 1)));
        assert!(load_token(&path).unwrap_err().to_string().contains("is over"));
        new_key(&name(), Role::Worker, &dir.path().join("k"), &path).unwrap();
        assert_eq!(standings(&path), [Standing::Revoked, Standing::Good]);
        assert!(load_token(&dir.path().join("k")).unwrap_err().to_string().contains("no join token"));
    }

    #[test]
    fn auth_6_the_first_use_of_a_key_burns_the_token_and_its_other_keys() {
        let (_dir, path) = file(&format!("{} token 99999999999\n", line("worker", "a", 1)));
        let token = KeyId(1u64.to_be_bytes());
        for id in [2, 3, 4] {
            assert!(keep_next(&path, &key(id), token).unwrap());
        }
        key_used(&path, &name(), key(3).id).unwrap();
        use Standing::{Good, Revoked};
        assert_eq!(standings(&path), [Revoked, Revoked, Good, Revoked]);
        assert!(!keep_next(&path, &key(5), token).unwrap());
    }

    #[test]
    fn auth_6_an_enrolled_workers_file_names_its_fleet_and_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        enrol_key(&path, &key(1), ClusterId([0xab; 16])).unwrap();
        assert_eq!(holders_key(&path).unwrap(), (key(1), Some(ClusterId([0xab; 16]))));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(enrol_key(&path, &key(2), ClusterId([1; 16])).unwrap_err().to_string().contains("exists already"));
        replace_key(&path, &key(3)).unwrap();
        assert_eq!(holders_key(&path).unwrap(), (key(3), Some(ClusterId([0xab; 16]))), "it stays with the next key");
        let (_dir, bad) = file(&format!("cluster 12\n{}\n", line("worker", "a", 1)));
        assert!(load_key(&bad).unwrap_err().to_string().contains("32 digits"));
    }

    #[test]
    fn what_is_wrong_with_a_token_is_told() {
        for (ending, part) in [(" token", "no time"), (" token soon", "no time"), (" token 1 2", "four words")] {
            let (_dir, path) = file(&format!("{}{ending}\n", line("worker", "a", 1)));
            let message = load_keys(&path).unwrap_err().to_string();
            assert!(message.contains(part), "{message}");
        }
        let (_dir, path) = file(&format!("{} token 99999999999\n", line("client", "a", 1)));
        assert!(load_keys(&path).unwrap_err().to_string().contains("only workers"));
    }
}
