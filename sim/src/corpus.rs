//! Schedules that once failed and pass now: a file each, whose first line says what went wrong

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::schedule::Schedule;
use crate::swarm::{Failure, attempt};

/// Where a checkout keeps them
pub const FOLDER: &str = "sim/corpus";
/// How their files end
const ENDING: &str = "sched";
/// Longest name of a file, without its ending
const NAME_MAX: usize = 80;
/// Longest sentence
const SAYS_MAX: usize = 200;

/// One schedule of the corpus, replayed
#[derive(Clone, Debug)]
pub struct Checked {
    /// Its file
    pub path: PathBuf,
    /// What went wrong once
    pub says: String,
    /// Its fingerprint, or what is wrong with it now
    pub result: Result<u64, String>,
}

/// Replays all of them twice, in the order of their names
pub fn check(folder: &Path) -> io::Result<Vec<Checked>> {
    let checked = files(folder)?.into_iter().map(|path| {
        let text = fs::read_to_string(&path)?;
        let says = text.lines().next().and_then(|line| line.strip_prefix("# ")).unwrap_or_default().to_owned();
        let result = replay(&text).and_then(|hash| {
            let unsaid = "it holds, and its first line does not say what once went wrong, as in `# L2: …`";
            if says.is_empty() { Err(unsaid.into()) } else { Ok(hash) }
        });
        Ok(Checked { path, says, result })
    });
    checked.collect()
}

fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == ENDING) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn replay(text: &str) -> Result<u64, String> {
    let schedule: Schedule = text.parse().map_err(|error| format!("it is no schedule: {error}"))?;
    passes(&schedule).map_err(|failure| failure.to_string())
}

/// Runs a schedule twice, and returns its fingerprint if everything holds
fn passes(schedule: &Schedule) -> Result<u64, Failure> {
    let ending = attempt(schedule, true)?;
    ending.violation.map_or(Ok(ending.hash), |violation| Err(Failure::Violation(violation)))
}

/// What is to be added
#[derive(Clone, Copy, Debug)]
pub struct New<'a> {
    /// The schedule, as small as it can be
    pub schedule: &'a Schedule,
    /// What went wrong
    pub says: &'a str,
    /// Its name, if that is not to be made of what it says
    pub name: Option<&'a str>,
    /// Whether it is added although it fails now: before its bug is mended
    pub fails: bool,
}

/// Why a schedule was not added
#[derive(Debug)]
pub enum NotAdded {
    /// It fails now
    Fails(Failure),
    /// It is to fail now, and passes
    Passes,
    /// It is there already
    Known(PathBuf),
    /// A file of that name is there already
    Taken(PathBuf),
    /// It cannot be called that
    BadName(String),
    /// That says nothing, or too much
    BadSentence,
    /// A file cannot be read or written
    File(PathBuf, io::Error),
}

impl fmt::Display for NotAdded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotAdded::Fails(failure) => write!(
                f,
                "it still fails: {failure}\nmend that first, or add it with --still-fails to have the tests fail until then"
            ),
            NotAdded::Passes => f.write_str("it passes now: add it without --still-fails"),
            NotAdded::Known(path) => write!(f, "the same schedule is there already: {}", path.display()),
            NotAdded::Taken(path) => write!(f, "{} is there already; choose another --name", path.display()),
            NotAdded::BadName(name) => {
                write!(f, "{name:?} is no name for a file: --name takes up to {NAME_MAX} of a-z, 0-9 and -")
            }
            NotAdded::BadSentence => {
                write!(f, "say what went wrong in one line of up to {SAYS_MAX} characters")
            }
            NotAdded::File(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

impl std::error::Error for NotAdded {}

/// Adds a schedule, and returns its file
pub fn add(folder: &Path, new: New<'_>) -> Result<PathBuf, NotAdded> {
    let says = new.says.trim();
    if says.is_empty() || says.len() > SAYS_MAX || says.contains(char::is_control) {
        return Err(NotAdded::BadSentence);
    }
    let name = new.name.map_or_else(|| slug(says), str::to_owned);
    let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(sound) || name.starts_with('-') {
        return Err(NotAdded::BadName(name));
    }
    for path in files(folder).map_err(|error| NotAdded::File(folder.into(), error))? {
        let text = fs::read_to_string(&path).map_err(|error| NotAdded::File(path.clone(), error))?;
        if text.parse::<Schedule>().as_ref() == Ok(new.schedule) {
            return Err(NotAdded::Known(path));
        }
    }
    let path = folder.join(format!("{name}.{ENDING}"));
    if path.exists() {
        return Err(NotAdded::Taken(path));
    }
    match (passes(new.schedule), new.fails) {
        (Ok(_), false) | (Err(_), true) => {}
        (Ok(_), true) => return Err(NotAdded::Passes),
        (Err(failure), false) => return Err(NotAdded::Fails(failure)),
    }
    let written = fs::write(&path, format!("# {says}\n{}", new.schedule));
    written.map_err(|error| NotAdded::File(path.clone(), error))?;
    Ok(path)
}

/// A name for a file made of a sentence
fn slug(says: &str) -> String {
    let lower = says.to_ascii_lowercase();
    let words = lower.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let mut slug = String::new();
    for word in words {
        if slug.len() + 1 + word.len() > NAME_MAX {
            break;
        }
        if !slug.is_empty() {
            slug.push('-');
        }
        slug.push_str(word);
    }
    slug
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_becomes_a_name_that_is_short_enough() {
        assert_eq!(slug("L2: a client's welcome, lost!"), "l2-a-client-s-welcome-lost");
        assert_eq!(slug("…"), "");
        let long = slug(&"word ".repeat(100));
        assert!(long.len() <= NAME_MAX && long.ends_with("-word"));
    }

    #[test]
    fn what_passes_is_added_once_and_what_fails_only_on_request() {
        let folder = std::env::temp_dir().join(format!("rejoin-corpus-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let schedule = Schedule::quiet(5);
        let new = New { schedule: &schedule, says: "L2: nothing went wrong", name: None, fails: false };
        let path = add(&folder, new).unwrap();
        assert!(path.ends_with("l2-nothing-went-wrong.sched"));
        assert!(fs::read_to_string(&path).unwrap().starts_with("# L2: nothing went wrong\nrejoin schedule 1\n"));
        assert!(
            matches!(add(&folder, New { name: Some("other"), ..new }), Err(NotAdded::Known(known)) if known == path)
        );
        let other = Schedule::quiet(6);
        assert!(matches!(add(&folder, New { schedule: &other, ..new }), Err(NotAdded::Taken(_))));
        let named = |name| add(&folder, New { schedule: &other, name: Some(name), ..new });
        assert!(matches!(named("../x"), Err(NotAdded::BadName(_))));
        assert!(matches!(add(&folder, New { says: "two\nlines", ..new }), Err(NotAdded::BadSentence)));
        let asked = New { schedule: &other, name: Some("other"), fails: true, ..new };
        assert!(matches!(add(&folder, asked), Err(NotAdded::Passes)));
        fs::write(folder.join("bad.sched"), "rejoin schedule 1\n").unwrap();
        fs::write(folder.join("worse.sched"), "# S1: it was\nrejoin\n").unwrap();
        let checked = check(&folder).unwrap();
        let results: Vec<bool> = checked.iter().map(|checked| checked.result.is_ok()).collect();
        assert_eq!(results, [false, true, false], "{checked:?}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
