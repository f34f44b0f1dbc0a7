//! `rejoin checkpoints`: what is kept of a task, a copy of it, or doing without it

use std::collections::VecDeque;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use rejoin_core::ids::TaskId;
use rejoin_core::limits::{ANSWER_BYTES_MAX, TERMS_SINCE};
use rejoin_core::wire::message::Refused;
use rejoin_core::wire::view::{CheckpointView, Question};
use serde_bytes::ByteBuf;

use crate::args::Checkpoints;
use crate::ask::{lines, printed, refusal, with};
use crate::caller::{Caller, Failed};
use crate::report::{EXIT_INTERNAL, EXIT_INTERRUPTED};
use crate::say::{complain, print};
use crate::views;

/// Pieces that are asked for before the first of them has come: so that a long way costs little time
const AHEAD: usize = 8;
/// How often the newest checkpoint is begun anew because a newer one has taken its place
const TRIES: usize = 10;

/// `rejoin checkpoints`
pub fn checkpoints(args: &Checkpoints) -> u8 {
    with(&args.reach, false, async |caller| {
        // Whoever is asked first tells which version it speaks.
        if caller.task(args.task).await?.is_none() {
            complain(&refusal(args.task, Refused::Unknown));
            return Ok(EXIT_INTERNAL);
        }
        if caller.connection().wire_version() < TERMS_SINCE {
            return Err(Failed::Internal("the coordinator is too old to show checkpoints".into()));
        }
        if args.drop {
            if kept(caller, args.task).await?.is_empty() {
                complain(&none_such(args.task, None, &[]));
                return Ok(EXIT_INTERNAL);
            }
            let _left: Vec<CheckpointView> = caller.ask(&Question::DropCheckpoints(args.task)).await?;
            let said = format!("{} has no checkpoint any more: its next attempt begins anew\n", args.task);
            return Ok(printed(&said));
        }
        let Some(file) = &args.fetch else {
            let kept = kept(caller, args.task).await?;
            return Ok(printed(&if args.json {
                lines(&kept.iter().map(views::checkpoint_json).collect())
            } else {
                views::checkpoints_text(&kept)
            }));
        };
        for _ in 0..TRIES {
            let kept = kept(caller, args.task).await?;
            let wanted = |view: &&CheckpointView| args.number.is_none_or(|number| number == view.number);
            let Some(view) = kept.iter().find(wanted) else {
                complain(&none_such(args.task, args.number, &kept));
                return Ok(EXIT_INTERNAL);
            };
            if let Some(bytes) = fetch(caller, args.task, view.number, view.length).await? {
                return save(file, &bytes);
            }
        }
        Err(Failed::Internal(format!("{} makes checkpoints faster than they can be fetched", args.task)))
    })
}

async fn kept(caller: &mut Caller, task: TaskId) -> Result<Vec<CheckpointView>, Failed> {
    caller.ask(&Question::Checkpoints(task)).await
}

fn none_such(task: TaskId, number: Option<u64>, kept: &[CheckpointView]) -> String {
    let numbers: Vec<String> = kept.iter().map(|view| view.number.to_string()).collect();
    match number {
        Some(number) if !kept.is_empty() => {
            format!("{task} has no checkpoint {number}, but {}", numbers.join(" and "))
        }
        _ => format!("{task} has no checkpoint"),
    }
}

/// All bytes of a checkpoint, or of a result; none if it is not there any more
pub async fn fetch(caller: &mut Caller, task: TaskId, number: u64, length: u64) -> Result<Option<Vec<u8>>, Failed> {
    let mut bytes = Vec::new();
    let mut offsets = (0..length.max(1)).step_by(ANSWER_BYTES_MAX);
    let mut asked = VecDeque::new();
    loop {
        while asked.len() < AHEAD
            && let Some(offset) = offsets.next()
        {
            asked.push_back(caller.begin(&Question::CheckpointPiece { task, number, offset })?);
        }
        let Some(ask) = asked.pop_front() else { return Ok(Some(bytes)) };
        let piece: Option<ByteBuf> = caller.answer_to(ask).await?;
        let Some(piece) = piece else { return Ok(None) };
        let expected = (length - bytes.len() as u64).min(ANSWER_BYTES_MAX as u64);
        if piece.len() as u64 != expected {
            return Err(Failed::Internal(format!("the coordinator sent {} bytes in place of {expected}", piece.len())));
        }
        bytes.extend_from_slice(&piece);
    }
}

/// Writes a whole file or none; `-` is standard output
pub fn save(file: &Path, bytes: &[u8]) -> Result<u8, Failed> {
    if file == Path::new("-") {
        let written = io::stdout().lock().write_all(bytes).and_then(|()| io::stdout().flush());
        return match written {
            Ok(()) => Ok(0),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(EXIT_INTERRUPTED),
            Err(error) => Err(Failed::Internal(format!("standard output: {error}"))),
        };
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(Failed::Usage(format!("{}: there is no such directory", folder.display())));
    }
    let written = tempfile::NamedTempFile::new_in(folder).and_then(|mut part| {
        part.write_all(bytes)?;
        part.as_file().sync_all()?;
        part.persist(file).map_err(|failed| failed.error)?;
        fs::File::open(folder)?.sync_all()
    });
    written.map_err(|error| Failed::Internal(format!("{}: {error}", file.display())))?;
    Ok(if print(&format!("{} bytes in {}\n", bytes.len(), file.display())) { 0 } else { EXIT_INTERRUPTED })
}
