//! Commands that ask a running coordinator, or tell it something

use std::collections::BTreeSet;
use std::io::{self, Write};

use rejoin_core::blob::RESULT;
use rejoin_core::client::Event;
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::limits::{ROTATION_SINCE, TERMS_SINCE};
use rejoin_core::terms::Terms;
use rejoin_core::wire::message::{Follow, Outcome, Refused, Stream};
use rejoin_core::wire::view::{BrakeView, Question, RotationView};
use rejoin_smol::client::Told;
use serde_json::{Value, json};

use crate::args::{Brake, Cancel, Drain, KeyRotate, List, Logs, Reach, ResultOf, Tasks, Wait};
use crate::caller::{Caller, Failed};
use crate::checkpoints::{fetch, save};
use crate::report::{EXIT_INTERNAL, EXIT_INTERRUPTED, exit_status};
use crate::say::{complain, print};
use crate::views;

/// Exit status of `rejoin result` while there is none
const EXIT_OPEN: u8 = 2;

/// Runs one command against the coordinator, and says goodbye
pub fn with<F>(reach: &Reach, follows: bool, work: F) -> u8
where
    F: AsyncFnOnce(&mut Caller) -> Result<u8, Failed>,
{
    smol::block_on(async {
        let worked = async {
            let mut caller = Caller::new(reach, follows)?;
            let status = work(&mut caller).await?;
            caller.leave().await;
            Ok::<u8, Failed>(status)
        };
        worked.await.unwrap_or_else(|failed| {
            complain(&failed.to_string());
            failed.status()
        })
    })
}

/// The status for something that was printed
pub fn printed(text: &str) -> u8 {
    if print(text) { 0 } else { EXIT_INTERRUPTED }
}

/// A value over several lines
pub fn lines(value: &Value) -> String {
    format!("{value:#}\n")
}

/// `rejoin status`
pub fn status(args: &List) -> u8 {
    with(&args.reach, false, async |caller| {
        let status = caller.status().await?;
        let brake = brake_of(caller, false).await?;
        let text = if args.json {
            let mut value = views::status_json(&status);
            value["brake"] = brake.as_ref().map_or(Value::Null, views::brake_json);
            lines(&value)
        } else {
            views::status_text(&status) + &brake.as_ref().map(views::brake_text).unwrap_or_default()
        };
        Ok(printed(&text))
    })
}

/// `rejoin workers`
pub fn workers(args: &List) -> u8 {
    with(&args.reach, false, async |caller| {
        let workers = caller.workers().await?;
        Ok(printed(&if args.json {
            lines(&workers.iter().map(views::worker_json).collect())
        } else {
            views::workers_text(&workers)
        }))
    })
}

/// `rejoin tasks`
pub fn tasks(args: &Tasks) -> u8 {
    with(&args.reach, false, async |caller| {
        let tasks = caller.tasks(args.open).await?;
        Ok(printed(&if args.json {
            lines(&tasks.iter().map(views::task_json).collect())
        } else {
            views::tasks_text(&tasks)
        }))
    })
}

/// `rejoin drain`
pub fn drain(args: &Drain) -> u8 {
    with(&args.reach, false, async |caller| {
        if caller.drain(&args.worker).await? {
            return Ok(printed(&format!(
                "{} drains, now or when it is back: it takes nothing new, and ends when it has nothing left\n",
                args.worker
            )));
        }
        complain(&format!("there is no worker {}, or its key is revoked: `rejoin workers` lists them", args.worker));
        Ok(EXIT_INTERNAL)
    })
}

/// `rejoin key rotate`
pub fn rotate_key(args: &KeyRotate) -> u8 {
    with(&args.reach, false, async |caller| {
        let worker = &args.worker;
        // Whoever is asked first tells which version it speaks.
        caller.status().await?;
        if caller.connection().wire_version() < ROTATION_SINCE {
            complain("the coordinator is of a version in which keys stay as they are: replace its program first");
            return Ok(EXIT_INTERNAL);
        }
        let refused = match caller.rotate_key(worker).await? {
            RotationView::Begun => {
                let then =
                    "the coordinator's log says when it uses that, and the log of an end that cannot keep it why";
                return Ok(printed(&format!("{worker} is to be given another key: {then}\n")));
            }
            RotationView::Unknown => format!("there is no worker {worker}: `rejoin workers` lists them"),
            RotationView::Away => format!("{worker} is not connected: try again when it is"),
            RotationView::TooOld => format!("{worker} is of a version that keeps its key: replace its program first"),
            RotationView::TooMany => format!(
                "{worker} was given other keys, and used none of them: look into its log, or make it a new key by \
                 `rejoin key revoke` and `rejoin key new`"
            ),
        };
        complain(&refused);
        Ok(EXIT_INTERNAL)
    })
}

/// `rejoin brake`
pub fn brake(args: &Brake) -> u8 {
    with(&args.reach, false, async |caller| {
        let brake = brake_of(caller, args.off).await?;
        let text = match (brake, args.off) {
            (Some(_), true) => "the brake is off: workers that have been away for too long are lost now\n".into(),
            (Some(brake), false) => views::brake_text(&brake),
            (None, _) => "the brake is off: no losses are delayed\n".into(),
        };
        Ok(printed(&text))
    })
}

/// How the brake on losses stands, or stood before it was ended; none where the coordinator has none
async fn brake_of(caller: &mut Caller, end: bool) -> Result<Option<BrakeView>, Failed> {
    // Whoever is asked first tells which version it speaks.
    caller.status().await?;
    if caller.connection().wire_version() < TERMS_SINCE {
        return Ok(None);
    }
    caller.ask(&Question::Brake { end }).await
}

/// `rejoin cancel`
pub fn cancel(args: &Cancel) -> u8 {
    with(&args.reach, false, async |caller| {
        let mut open: BTreeSet<TaskId> = args.tasks.iter().copied().collect();
        for task in &open {
            let connection = caller.connection();
            let asked = connection.watch(*task, Follow::Outcome).and_then(|()| connection.cancel(*task));
            asked.map_err(|error| Failed::Internal(error.to_string()))?;
        }
        let mut unknown = 0;
        while !open.is_empty() {
            match caller.next().await? {
                Told::Event(Event::Ended { task } | Event::Forgotten { task }) => {
                    if open.remove(&task)
                        && let Some((outcome, ..)) = caller.connection().end(task)
                        && !print(&format!("{task} {}\n", views::outcome_word(outcome)))
                    {
                        return Ok(EXIT_INTERRUPTED);
                    }
                }
                Told::Event(Event::Refused { task, reason }) => {
                    open.remove(&task);
                    unknown += 1;
                    complain(&refusal(task, reason));
                }
                Told::Event(Event::Accepted { .. } | Event::Progress { .. })
                | Told::Piece { .. }
                | Told::Answer { .. } => {}
            }
        }
        Ok(if unknown > 0 { EXIT_INTERNAL } else { 0 })
    })
}

/// Says why there is nothing to show of a task: it was forgotten, or never known
async fn gone(caller: &mut Caller, id: TaskId) -> Result<u8, Failed> {
    let watched = caller.connection().watch(id, Follow::Outcome);
    watched.map_err(|error| Failed::Internal(error.to_string()))?;
    let why = loop {
        match caller.next().await? {
            Told::Event(Event::Forgotten { task } | Event::Ended { task }) if task == id => {
                break forgotten(caller, id);
            }
            Told::Event(Event::Refused { task, reason }) if task == id => break refusal(id, reason),
            Told::Event(_) | Told::Piece { .. } | Told::Answer { .. } => {}
        }
    };
    complain(&why);
    Ok(EXIT_INTERNAL)
}

/// That a task is over, and that what was asked for is no longer there
fn forgotten(caller: &mut Caller, task: TaskId) -> String {
    let outcome = caller.connection().end(task).map_or("ended", |end| match end.0 {
        Outcome::Cancelled => "been cancelled",
        ended @ (Outcome::Succeeded | Outcome::Failed(_)) => views::outcome_word(ended),
    });
    format!(
        "{task}: it has {outcome}, and its result and output, or what was left to read of them, have been forgotten"
    )
}

/// What a refusal means
pub fn refusal(task: TaskId, reason: Refused) -> String {
    match reason {
        Refused::Unknown => format!("{task}: no such task; `rejoin tasks` lists them"),
        Refused::Conflict => format!("{task}: another task has this id; take another --id"),
        Refused::Full => format!("{task}: the coordinator holds as many tasks as it may; try again later"),
        Refused::TooLarge => format!(
            "{task}: the command is too long, or the input larger than 16 MiB; or the coordinator is too old to take inputs"
        ),
        Refused::Damaged => format!("{task}: the input changed while it was sent; submit it again"),
        Refused::BadSpec => format!(
            "{task}: the coordinator cannot keep to what is asked for: an exclusive task can be replaced only when the \
             lease of its worker has ended, so make --lost-after or --replace longer, or --self-stop-after shorter; or \
             the coordinator is too old to know of --class and the like"
        ),
    }
}

/// `rejoin wait`
pub fn wait(args: &Wait) -> u8 {
    with(&args.reach, true, async |caller| wait_for(caller, &args.tasks).await)
}

/// Waits for tasks, and says how each ended
async fn wait_for(caller: &mut Caller, tasks: &[TaskId]) -> Result<u8, Failed> {
    let mut open: BTreeSet<TaskId> = tasks.iter().copied().collect();
    for task in &open {
        let watched = caller.connection().watch(*task, Follow::Outcome);
        watched.map_err(|error| Failed::Internal(error.to_string()))?;
    }
    let (mut failed, mut cancelled, mut unknown) = (0, 0, 0);
    while !open.is_empty() {
        match caller.next().await? {
            Told::Event(Event::Ended { task } | Event::Forgotten { task }) if open.remove(&task) => {
                let Some((outcome, message, _)) = caller.connection().end(task) else { continue };
                failed += u64::from(matches!(outcome, Outcome::Failed(_)));
                cancelled += u64::from(outcome == Outcome::Cancelled);
                let reason = views::reason(outcome, message).map_or_else(String::new, |reason| format!(": {reason}"));
                if !print(&format!("{task} {}{reason}\n", views::outcome_word(outcome))) {
                    return Ok(EXIT_INTERRUPTED);
                }
            }
            Told::Event(Event::Refused { task, reason }) => {
                open.remove(&task);
                unknown += 1;
                complain(&refusal(task, reason));
            }
            Told::Event(
                Event::Accepted { .. } | Event::Progress { .. } | Event::Ended { .. } | Event::Forgotten { .. },
            )
            | Told::Piece { .. }
            | Told::Answer { .. } => {}
        }
    }
    Ok(if unknown > 0 { EXIT_INTERNAL } else { exit_status(failed, cancelled, false) })
}

/// `rejoin result`
pub fn result(args: &ResultOf) -> u8 {
    with(&args.reach, false, async |caller| {
        let Some(task) = caller.task(args.task).await? else { return gone(caller, args.task).await };
        let id = task.task;
        if task.outcome.is_none() {
            let text = if args.json {
                let mut value = views::task_json(&task);
                value["terms"] = terms_of(caller, id).await?;
                lines(&value)
            } else {
                format!("{id} {}: {}\n", views::task_state(&task), views::waits(&task))
            };
            return Ok(if print(&text) { EXIT_OPEN } else { EXIT_INTERRUPTED });
        }
        let watched = caller.connection().watch(id, Follow::Outcome);
        watched.map_err(|error| Failed::Internal(error.to_string()))?;
        loop {
            match caller.next().await? {
                Told::Event(Event::Ended { task }) if task == id => break,
                Told::Event(Event::Forgotten { task }) if task == id => {
                    complain(&forgotten(caller, id));
                    return Ok(EXIT_INTERNAL);
                }
                Told::Event(Event::Refused { reason, .. }) => return Err(Failed::Internal(refusal(id, reason))),
                Told::Event(_) | Told::Piece { .. } | Told::Answer { .. } => {}
            }
        }
        let elsewhere = caller.connection().elsewhere(id);
        let Some((outcome, message, streams)) = caller.connection().end(id) else {
            return Err(Failed::Internal("the outcome is not there".into()));
        };
        let message = message.to_vec();
        let returned = elsewhere.or(Some(message.len() as u64).filter(|_| outcome == Outcome::Succeeded)).unwrap_or(0);
        if let Some(file) = args.fetch.as_ref().filter(|_| outcome == Outcome::Succeeded) {
            if returned == 0 {
                complain(&format!(
                    "{id} returned nothing: a task returns what it leaves in the file that REJOIN_RESULT names"
                ));
                return Ok(EXIT_INTERNAL);
            }
            let bytes = match elsewhere {
                Some(length) => fetch(caller, id, RESULT, length).await?,
                None => Some(message),
            };
            let gone = || Failed::Internal(format!("{id} was forgotten meanwhile, and what it returned with it"));
            return save(file, &bytes.ok_or_else(gone)?);
        }
        let message = &*message;
        let (exit_code, signal, error) = views::failure(outcome, message);
        let text = if args.json {
            let mut value = views::task_json(&task);
            value["terms"] = terms_of(caller, id).await?;
            value["exit_code"] = json!(exit_code);
            value["signal"] = json!(signal);
            value["error"] = json!(error);
            value["returned_bytes"] = json!(returned);
            for (name, end) in ["stdout_sha256", "stderr_sha256"].iter().zip(streams) {
                let digest: String = end.sha256.iter().map(|byte| format!("{byte:02x}")).collect();
                value[*name] = if end.len > 0 { json!(digest) } else { Value::Null };
            }
            lines(&value)
        } else {
            let reason = views::reason(outcome, message).map_or_else(String::new, |reason| format!(": {reason}"));
            let attempts = if task.attempts > 1 { format!(" ({} attempts)", task.attempts) } else { String::new() };
            let returned = match returned {
                0 => String::new(),
                bytes => format!("; it returned {bytes} bytes, which --fetch FILE gets"),
            };
            format!("{id} {}{reason}{attempts}{returned}\n", views::outcome_word(outcome))
        };
        let status = exit_status(u64::from(outcome != Outcome::Succeeded), 0, false);
        Ok(if print(&text) { status } else { EXIT_INTERRUPTED })
    })
}

/// The terms of a task; nothing where the coordinator knows of none
async fn terms_of(caller: &mut Caller, id: TaskId) -> Result<Value, Failed> {
    if caller.connection().wire_version() < TERMS_SINCE {
        return Ok(Value::Null);
    }
    let terms: Option<Terms> = caller.ask(&Question::Terms(id)).await?;
    Ok(terms.as_ref().map_or(Value::Null, views::terms_json))
}

/// `rejoin logs`
pub fn logs(args: &Logs) -> u8 {
    with(&args.reach, args.follow, async |caller| {
        let Some(task) = caller.task(args.task).await? else { return gone(caller, args.task).await };
        let wanted = if args.stderr { Show::Err } else { Show::Out };
        let upto = (!args.follow).then_some((task.token, task.kept));
        if upto.is_some_and(|(_, kept)| kept == [0, 0]) {
            return Ok(0);
        }
        let watched = caller.connection().watch(args.task, Follow::Output);
        watched.map_err(|error| Failed::Internal(error.to_string()))?;
        follow(caller, args.task, upto, wanted).await
    })
}

/// Which output goes where
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    /// Standard output, and nothing else
    Out,
    /// Standard error on standard output, and nothing else
    Err,
    /// Each where it belongs
    Both,
}

/// Prints a task's output as it comes: up to a point, or up to the task's end
pub async fn follow(
    caller: &mut Caller,
    id: TaskId,
    upto: Option<(Option<Token>, [u64; 2])>,
    show: Show,
) -> Result<u8, Failed> {
    let mut printing: Option<Token> = None;
    let mut have = [0, 0];
    loop {
        match caller.next().await? {
            Told::Piece { task, token, stream, offset, bytes } if task == id => {
                if printing.replace(token).is_some_and(|before| before != token) {
                    complain("another attempt begins; its output follows");
                    have = [0, 0];
                }
                let known = usize::try_from(have[stream.index()] - offset.min(have[stream.index()])).unwrap_or(0);
                let news = bytes.get(known..).unwrap_or_default();
                if !print_bytes(show, stream, news) {
                    return Ok(EXIT_INTERRUPTED);
                }
                have[stream.index()] += news.len() as u64;
                let enough = |(wanted, kept): (Option<Token>, [u64; 2])| {
                    wanted != Some(token) || (have[0] >= kept[0] && have[1] >= kept[1])
                };
                if upto.is_some_and(enough) {
                    return Ok(0);
                }
            }
            Told::Event(Event::Ended { task }) if task == id => return Ok(0),
            Told::Event(Event::Forgotten { task }) if task == id => {
                complain(&forgotten(caller, id));
                return Ok(EXIT_INTERNAL);
            }
            Told::Event(Event::Refused { task, reason }) if task == id => {
                complain(&refusal(id, reason));
                return Ok(EXIT_INTERNAL);
            }
            Told::Event(_) | Told::Piece { .. } | Told::Answer { .. } => {}
        }
    }
}

fn print_bytes(show: Show, stream: Stream, bytes: &[u8]) -> bool {
    match (show, stream) {
        (Show::Out | Show::Both, Stream::Out) | (Show::Err, Stream::Err) => write_all(&mut io::stdout().lock(), bytes),
        (Show::Both, Stream::Err) => write_all(&mut io::stderr().lock(), bytes),
        (Show::Out, Stream::Err) | (Show::Err, Stream::Out) => true,
    }
}

fn write_all(to: &mut dyn Write, bytes: &[u8]) -> bool {
    to.write_all(bytes).and_then(|()| to.flush()).is_ok()
}
