//! `rejoin submit`: one task for a running fleet

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rejoin_core::about::{About, Tags};
use rejoin_core::client::Event;
use rejoin_core::ids::TaskId;
use rejoin_core::limits::BLOB_BYTES_MAX;
use rejoin_core::terms::Terms;
use rejoin_core::wire::message::{Follow, Outcome, TaskSpec};
use rejoin_smol::client::Told;
use rejoin_smol::clock::entropy;
use rejoin_smol::command::Command;
use serde_json::json;

use crate::args::Submit;
use crate::ask::{Show, follow, refusal};
use crate::caller::{Caller, Failed};
use crate::items::label;
use crate::report::{EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_USAGE, exit_status};
use crate::say::{complain, print};

/// What people call a task: its name or that of its run, and its command, cut to what a title may have
pub fn title(name: Option<&str>, argv: &[OsString]) -> String {
    let command = argv.iter().map(|arg| plain(arg)).collect::<Vec<String>>().join(" ");
    let mut title = name.map_or_else(|| command.clone(), |name| format!("{name}: {command}"));
    let end = (0..=rejoin_core::limits::TITLE_BYTES_MAX).rev().find(|at| title.is_char_boundary(*at)).unwrap_or(0);
    title.truncate(end);
    title
}

/// A word as it would be typed, quoted only where it must be
fn plain(word: &OsStr) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "%+,-./:=@_{}".contains(c);
    match word.to_str() {
        Some(text) if !text.is_empty() && text.chars().all(is_plain) => text.into(),
        _ => label(word),
    }
}

/// The input of the task, if it has one: nothing of it is sent before it is known that it may be
fn input(args: &Submit) -> Result<Option<Vec<u8>>, String> {
    let Some(path) = &args.input else { return Ok(None) };
    let named = |error: io::Error| format!("{}: {error}", path.display());
    let source: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path).map_err(named)?) };
    let mut bytes = Vec::new();
    source.take(BLOB_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(named)?;
    if bytes.len() as u64 > BLOB_BYTES_MAX {
        return Err(format!("{}: an input has at most 16 MiB; put it where workers can fetch it", path.display()));
    }
    // An empty one is what a command gets that has none.
    Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
}

/// Submits a task, and follows it if that is wanted
pub fn submit(args: &Submit, needs: Tags, terms: Terms) -> u8 {
    let (task, about, payload) = match prepare(args, needs, terms) {
        Ok(prepared) => prepared,
        Err(message) => {
            complain(&message);
            return EXIT_USAGE;
        }
    };
    let input = match input(args) {
        Ok(input) => input,
        Err(message) => {
            complain(&message);
            return EXIT_USAGE;
        }
    };
    smol::block_on(async {
        run(args, task, &about, &payload, input).await.unwrap_or_else(|failed| {
            complain(&failed.to_string());
            failed.status()
        })
    })
}

fn prepare(args: &Submit, needs: Tags, terms: Terms) -> Result<(TaskId, Vec<u8>, Vec<u8>), String> {
    let task = match args.id {
        Some(task) => task,
        None => TaskId(entropy().map_err(|error| error.to_string())?),
    };
    let title = args.name.clone().unwrap_or_else(|| title(None, &args.command));
    let about = About { title, needs, terms }.encode().map_err(|error| error.to_string())?;
    let command = Command {
        argv: args.command.clone(),
        cwd: args.cwd.clone(),
        timeout: args.timeout,
        output_bytes_max: args.output_max,
    };
    Ok((task, about, command.encode()))
}

async fn run(args: &Submit, task: TaskId, about: &[u8], payload: &[u8], input: Option<Vec<u8>>) -> Result<u8, Failed> {
    let mut caller = Caller::new(&args.reach, args.wait)?;
    let spec = TaskSpec { priority: args.priority, retries: args.retries };
    let how = if args.wait { Follow::Output } else { Follow::Acceptance };
    let submitted = match input {
        None => caller.connection().submit(task, spec, about, payload, how),
        Some(input) => caller.connection().submit_large(task, spec, about, payload, input, how),
    };
    submitted.map_err(|error| Failed::Usage(format!("the task cannot be submitted: {error}")))?;
    loop {
        match caller.next().await? {
            Told::Event(Event::Accepted { .. }) => break,
            Told::Event(Event::Refused { reason, .. }) => {
                complain(&refusal(task, reason));
                caller.leave().await;
                return Ok(EXIT_INTERNAL);
            }
            Told::Event(_) | Told::Piece { .. } | Told::Answer { .. } => {}
        }
    }
    let said = match (args.wait, args.json) {
        (_, true) => print(&format!("{}\n", json!({ "id": task.to_string() }))),
        (false, false) => print(&format!("{task}\n")),
        // Standard output is the task's.
        (true, false) => true,
    };
    let mut status = if said { 0 } else { EXIT_INTERRUPTED };
    if args.wait && said {
        status = follow(&mut caller, task, None, Show::Both).await?;
        if status == 0 {
            let outcome = caller.connection().end(task).map(|end| end.0);
            let reason = caller.connection().end(task).and_then(|end| crate::views::reason(end.0, end.1));
            if let Some(reason) = reason {
                complain(&format!("task {task} failed: {reason}"));
            }
            status = exit_status(u64::from(outcome != Some(Outcome::Succeeded)), 0, false);
        }
    }
    caller.leave().await;
    Ok(status)
}
