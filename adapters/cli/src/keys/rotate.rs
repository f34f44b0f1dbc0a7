//! Keys that are replaced while their holders are connected (AUTH-6)

use std::path::Path;

use rejoin_core::ids::{KeyId, PeerName};
use rejoin_core::wire::keys::Key;

use super::change::{concat, key_line, lock, marked, replace, with_line};
use super::{Entry, KeysError, NEXT, REVOKED, Standing, Why, parse, read};

/// Adds a key to a coordinator's file that is to replace another one, and was not used yet
///
/// `false` if the other one is revoked: what follows from that is as good as known to whoever knows it.
///
/// # Errors
///
/// If the file cannot be read or written.
pub fn keep_next(keys: &Path, key: &Key, after: KeyId) -> Result<bool, KeysError> {
    let _lock = lock(keys)?;
    let old = read(keys)?.1;
    let entries = parse(keys, &old)?;
    let standing = |id| entries.iter().find(|entry| entry.key.id == id).map(|entry| entry.standing);
    match (standing(after), standing(key.id)) {
        (None | Some(Standing::Revoked), _) | (_, Some(Standing::Revoked)) => Ok(false),
        (Some(_), Some(_)) => Ok(true),
        (Some(_), None) => {
            let line = concat(&[&key_line(key), " ", NEXT]);
            replace(keys, &with_line(&old, &line))?;
            Ok(true)
        }
    }
}

/// Marks a key of a coordinator's file as good, and those of its name in front of it as revoked
///
/// If none of these was in use, all followed from one join token, and those behind it are revoked as well.
///
/// # Errors
///
/// If the file cannot be read or written.
pub fn key_used(keys: &Path, name: &PeerName, used: KeyId) -> Result<(), KeysError> {
    let _lock = lock(keys)?;
    let old = read(keys)?.1;
    let entries = parse(keys, &old)?;
    let of_name = || entries.iter().filter(|entry| entry.key.name == *name);
    let Some(used) = of_name().find(|entry| entry.key.id == used && entry.standing == Standing::Next) else {
        // Somebody has revoked it meanwhile, or taken it away.
        return Ok(());
    };
    let burns = !of_name().any(|entry| entry.line < used.line && entry.standing == Standing::Good);
    let other = |entry: &Entry| entry.line < used.line || (burns && entry.line > used.line);
    let retired = |entry: &&Entry| other(entry) && entry.standing != Standing::Revoked;
    let retired: Vec<usize> = of_name().filter(retired).map(|entry| entry.line).collect();
    let becomes = |line| {
        let good = (line == used.line).then_some("");
        good.or(retired.contains(&line).then_some(REVOKED))
    };
    replace(keys, &marked(&old, becomes))
}

/// Takes a key out of a coordinator's file that its holder was not told of
///
/// # Errors
///
/// If the file cannot be read or written.
pub fn drop_next(keys: &Path, key: KeyId) -> Result<(), KeysError> {
    let _lock = lock(keys)?;
    let old = read(keys)?.1;
    let untold = |entry: &&Entry| entry.key.id == key && entry.standing == Standing::Next;
    let Some(line) = parse(keys, &old)?.iter().find(untold).map(|entry| entry.line) else { return Ok(()) };
    let others = old.lines().enumerate().filter(|(index, _)| index + 1 != line);
    replace(keys, &concat(&others.flat_map(|(_, text)| [text, "\n"]).collect::<Vec<_>>()))
}

/// Puts a key in the place of the one in its holder's file
///
/// # Errors
///
/// If the file cannot be read or written, or has not one key in it.
pub fn replace_key(path: &Path, key: &Key) -> Result<(), KeysError> {
    let old = read(path)?.1;
    let line = match parse(path, &old)?[..] {
        [Entry { line, .. }] => line,
        [] => return Err(KeysError::new(path, Why::NoKey)),
        [_, _, ..] => return Err(KeysError::new(path, Why::SeveralKeys)),
    };
    let new = key_line(key);
    let lines = old.lines().enumerate().map(|(index, text)| if index + 1 == line { new.as_str() } else { text });
    replace(path, &concat(&lines.flat_map(|text| [text, "\n"]).collect::<Vec<_>>()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{file, line};
    use super::super::{load_key, load_keys, new_key, revoke};
    use super::*;
    use rejoin_core::ids::Role;
    use rejoin_core::wire::keys::Secret;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    fn next(id: u64) -> Key {
        let secret = Secret::new([id as u8; 32]);
        Key { id: KeyId(id.to_be_bytes()), secret, name: "a".parse().unwrap(), role: Role::Worker }
    }

    fn standings(path: &Path) -> Vec<Standing> {
        load_keys(path).unwrap().into_iter().map(|(_, standing)| standing).collect()
    }

    #[test]
    fn auth_6_a_key_is_good_beside_the_one_before_until_it_is_used() {
        use Standing::{Good, Next, Revoked};
        let text = format!(
            "# mine\n{} revoked\n{}\n{}\n",
            line("worker", "a", 1),
            line("worker", "a", 2),
            line("client", "b", 9)
        );
        let (_dir, path) = file(&text);
        let old = KeyId(2u64.to_be_bytes());
        assert!(keep_next(&path, &next(3), old).unwrap());
        assert!(keep_next(&path, &next(3), old).unwrap(), "once more is the same");
        assert!(keep_next(&path, &next(4), old).unwrap());
        assert_eq!(standings(&path), [Revoked, Good, Good, Next, Next]);
        assert_eq!(load_keys(&path).unwrap()[3].0, next(3));
        let name = next(3).name;
        key_used(&path, &name, next(3).id).unwrap();
        assert_eq!(standings(&path), [Revoked, Revoked, Good, Good, Next]);
        key_used(&path, &name, next(4).id).unwrap();
        key_used(&path, &name, next(3).id).unwrap();
        assert_eq!(standings(&path), [Revoked, Revoked, Good, Revoked, Good]);
        assert!(!keep_next(&path, &next(5), old).unwrap(), "not after one that is revoked");
        assert!(fs::read_to_string(&path).unwrap().starts_with("# mine\n"));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn auth_6_a_key_that_nobody_was_told_of_leaves_no_line() {
        let text = format!("# mine\n{}\n", line("worker", "a", 1));
        let (_dir, path) = file(&text);
        assert!(keep_next(&path, &next(2), KeyId(1u64.to_be_bytes())).unwrap());
        drop_next(&path, next(2).id).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        // What is in use stays.
        drop_next(&path, KeyId(1u64.to_be_bytes())).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn auth_6_revoking_takes_those_along_that_would_follow() {
        let (_dir, path) = file(&line("worker", "a", 2));
        assert!(keep_next(&path, &next(3), KeyId(2u64.to_be_bytes())).unwrap());
        revoke(&next(3).name, &path).unwrap();
        assert_eq!(standings(&path), [Standing::Revoked; 2]);
        key_used(&path, &next(3).name, next(3).id).unwrap();
        assert_eq!(standings(&path), [Standing::Revoked; 2], "whatever comes too late");
    }

    #[test]
    fn auth_6_a_holders_file_has_the_new_key_in_the_place_of_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.key");
        new_key(&next(3).name, Role::Worker, &path, &dir.path().join("keys")).unwrap();
        replace_key(&path, &next(3)).unwrap();
        assert_eq!(load_key(&path).unwrap(), next(3));
        assert!(fs::read_to_string(&path).unwrap().starts_with("# The key of worker a of rejoin."));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::write(&path, "").unwrap();
        assert!(replace_key(&path, &next(3)).unwrap_err().to_string().contains("no key in it"));
    }
}
