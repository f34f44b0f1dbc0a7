//! `rejoin sim corpus`: schedules that once failed, and may not fail again

use std::fmt::Write as _;
use std::path::Path;

use rejoin_sim::corpus::{FOLDER, New, NotAdded, add, check};

use super::{EXIT_VIOLATION, Unusable, outputs, read, write};
use crate::args::{SimCorpus, SimCorpusAdd, SimCorpusCheck};
use crate::report::{EXIT_INTERNAL, EXIT_USAGE};
use crate::say::complain;

pub(super) fn run(command: &SimCorpus) -> Result<u8, Unusable> {
    match command {
        SimCorpus::Add(args) => add_file(args),
        SimCorpus::Check(args) => check_all(args),
    }
}

fn add_file(args: &SimCorpusAdd) -> Result<u8, Unusable> {
    let schedule = read(&args.file)?;
    let folder = Path::new(FOLDER);
    if !folder.is_dir() {
        return Err(Unusable(EXIT_INTERNAL, format!("there is no {FOLDER} here; run it in a checkout of rejoin")));
    }
    outputs::folder(folder)?;
    let new = New { schedule: &schedule, says: &args.says, name: args.name.as_deref(), fails: args.still_fails };
    match add(folder, new) {
        Ok(path) => {
            write(Path::new("-"), &format!("added {}\n", path.display()))?;
            Ok(0)
        }
        Err(refused) => {
            let status = match refused {
                NotAdded::Fails(_) | NotAdded::Passes | NotAdded::Known(_) | NotAdded::Taken(_) => EXIT_VIOLATION,
                NotAdded::BadName(_) | NotAdded::BadSentence => EXIT_USAGE,
                NotAdded::File(..) => EXIT_INTERNAL,
            };
            complain(&refused.to_string());
            Ok(status)
        }
    }
}

fn check_all(args: &SimCorpusCheck) -> Result<u8, Unusable> {
    let checked = check(&args.folder);
    let checked = checked.map_err(|error| {
        let here = args.folder.display();
        Unusable(EXIT_INTERNAL, format!("{here}: {error}; name a folder, or run it in a checkout of rejoin"))
    })?;
    let mut text = String::new();
    for one in &checked {
        let name = one.path.file_stem().unwrap_or_default().display();
        let _ = match &one.result {
            Ok(hash) => writeln!(text, "holds   {hash:016x} {name}"),
            Err(problem) if one.says.is_empty() => writeln!(text, "FAILED  {name}: {problem}"),
            Err(problem) => writeln!(text, "FAILED  {name}: {problem}\n        once: {}", one.says),
        };
    }
    let failed = checked.iter().filter(|one| one.result.is_err()).count();
    let _ = writeln!(text, "{} schedules: {failed} failed", checked.len());
    write(Path::new("-"), &text)?;
    Ok(if failed == 0 { 0 } else { EXIT_VIOLATION })
}
