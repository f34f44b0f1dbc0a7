//! Files that a command writes once it has run: whether that will be possible is seen before

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};

use super::Unusable;
use crate::report::{EXIT_INTERNAL, EXIT_USAGE};

/// Sees whether all these files can be written, each of them another one; `-` is standard output
///
/// What is there already stays as it is.
pub fn check<'a>(paths: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), Unusable> {
    let mut known = BTreeSet::new();
    for path in paths {
        if !known.insert(path) {
            let what = if path == Path::new("-") { "standard output".into() } else { path.display().to_string() };
            return Err(Unusable(EXIT_USAGE, format!("two things are to be written to {what}: give each its own")));
        }
        check_one(path)?;
    }
    Ok(())
}

/// Makes a directory for files that are written later, and sees whether they can be
pub fn folder(path: &Path) -> Result<(), Unusable> {
    fs::create_dir_all(path).map_err(|error| cannot(path, &error))?;
    check_one(&path.join(".rejoin-writes-here"))
}

fn check_one(path: &Path) -> Result<(), Unusable> {
    if path == Path::new("-") {
        return Ok(());
    }
    let opened = match fs::metadata(path) {
        Ok(there) if there.is_dir() => {
            return Err(Unusable(EXIT_INTERNAL, format!("{}: this is a directory; name a file", path.display())));
        }
        Ok(there) if there.is_file() => OpenOptions::new().append(true).open(path).map(drop),
        // The other end of a pipe would take its opening and closing for the end of all.
        Ok(_) => Ok(()),
        Err(_) => OpenOptions::new().write(true).create_new(true).open(path).and_then(|_| fs::remove_file(path)),
    };
    opened.map_err(|error| cannot(path, &error))
}

fn cannot(path: &Path, error: &std::io::Error) -> Unusable {
    Unusable(EXIT_INTERNAL, format!("{}: nothing can be written there: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_written_is_refused_and_what_can_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::write(dir.join("old"), "kept").unwrap();
        let status = |paths: &[&PathBuf]| check(paths.iter().copied()).err().map(|Unusable(status, _)| status);
        let [old, new, lost] = ["old", "new", "no/where"].map(|name| dir.join(name));
        assert_eq!(status(&[&old, &new, &"-".into(), &"/dev/null".into()]), None);
        assert!(fs::read_to_string(&old).unwrap() == "kept" && !new.exists());
        assert_eq!(status(&[&lost]), Some(EXIT_INTERNAL));
        assert_eq!(status(&[&dir.into()]), Some(EXIT_INTERNAL));
        assert_eq!(status(&[&new, &old, &new]), Some(EXIT_USAGE));
        assert!(folder(&dir.join("a/b")).is_ok() && fs::read_dir(dir.join("a/b")).unwrap().next().is_none());
        assert!(folder(&old).is_err());
    }
}
