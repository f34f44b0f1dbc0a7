//! Coordinator, workers and tasks as people and programs read them

use std::fmt::Write;

use rejoin_core::about::{Tag, Tags};
use rejoin_core::terms::{Class, OnReturn, Replace, Span, Terms};
use rejoin_core::wire::message::{Failure, Outcome};
use rejoin_core::wire::view::{BrakeView, CheckpointView, StatusView, TaskView, Why, WorkerState, WorkerView};
use serde_json::{Map, Value, json};

/// A word for where a worker stands
///
/// One that has a key and was not seen since the coordinator started is as good as disconnected.
pub fn worker_state(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Connected => "connected",
        WorkerState::Suspect => "suspect",
        WorkerState::Draining => "draining",
        WorkerState::Unknown | WorkerState::Disconnected => "disconnected",
        WorkerState::Lost => "lost",
        WorkerState::Flapping => "flapping",
        WorkerState::Revoked => "revoked",
    }
}

/// A word for how far a task is
pub fn task_state(task: &TaskView) -> &'static str {
    match (task.outcome, task.why) {
        (Some(outcome), _) => outcome_word(outcome),
        (None, Why::Runs) => "running",
        (None, Why::AtWorker) => "assigned",
        (None, Why::WorkerAway) => "unknown",
        (
            None,
            Why::NotDurable
            | Why::NoWorker
            | Why::NothingFits
            | Why::WorkersBusy
            | Why::Pausing
            | Why::WaitsToRunAlone
            | Why::LeaseHeld
            | Why::Ended,
        ) => "waiting",
    }
}

/// A word for how a task ended
pub fn outcome_word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Failed(_) => "failed",
        Outcome::Cancelled => "cancelled",
    }
}

/// Why a task does not run, for people
pub fn why(why: Why) -> &'static str {
    match why {
        Why::NotDurable => "it is being accepted",
        Why::NoWorker => "no worker is connected",
        Why::NothingFits => "no connected worker offers what it needs",
        Why::WorkersBusy => "all workers that could take it are busy",
        Why::Pausing => "its last attempt failed; it pauses before the next",
        Why::WaitsToRunAlone => "it waits for a worker of its own, because its last one crashed",
        Why::AtWorker => "it waits at its worker for a slot",
        Why::Runs => "it runs",
        Why::WorkerAway => "its worker is not connected",
        Why::Ended => "it is over",
        Why::LeaseHeld => "it waits for the lease of its last worker to end",
    }
}

/// Why a task does not run, with the name of whom it waits for
pub fn waits(task: &TaskView) -> String {
    match (task.why, &task.worker) {
        (Why::LeaseHeld, Some(worker)) => format!("it waits for the lease of {worker} to end"),
        (of, _) => why(of).into(),
    }
}

/// The terms of a task, as options say them
pub fn terms_json(terms: &Terms) -> Value {
    let ms = |span: Option<Span>| span.map(|span| span.get().as_millis() as u64);
    json!({
        "class": match terms.class {
            Class::Pure => "pure",
            Class::Idempotent => "idempotent",
            Class::Exclusive => "exclusive",
        },
        "lost_after_ms": ms(terms.lost_after),
        "replace": match terms.replace {
            Replace::Never => json!("never"),
            Replace::WhenLost => json!("when-lost"),
            Replace::After(span) => json!({ "after_ms": span.get().as_millis() as u64 }),
        },
        "on_return": match terms.on_return {
            OnReturn::FirstResult => "first-result",
            OnReturn::KeepReplacement => "keep-replacement",
        },
        "self_stop_after_ms": ms(terms.self_stop_after),
        "progress_timeout_ms": ms(terms.progress_timeout),
    })
}

/// Exit status, signal, and the reason of a failure where those do not tell it
pub fn failure(outcome: Outcome, message: &[u8]) -> (Option<i32>, Option<i32>, Option<String>) {
    let said = || Some(String::from_utf8_lossy(message).into_owned()).filter(|text| !text.is_empty());
    match outcome {
        Outcome::Succeeded => (Some(0), None, None),
        Outcome::Cancelled => (None, None, None),
        Outcome::Failed(failure) => match failure {
            Failure::Exit(code) => (Some(code), None, None),
            Failure::Signal(number) => (None, Some(number), None),
            Failure::TimedOut => (None, None, Some("ran longer than its --timeout allows".into())),
            Failure::CannotStart => (None, None, said().or(Some("it could not be started".into()))),
            Failure::Error => (None, None, said().or(Some("something went wrong".into()))),
            Failure::OutputTooLarge => (None, None, Some("output too large: it wrote more than allowed".into())),
            Failure::ResultTooLarge => {
                (None, None, Some(said().unwrap_or("its result is too large: 16 MiB is the most".into())))
            }
            Failure::Poisonous => (None, None, Some("its worker crashed each time it ran".into())),
            Failure::WorkerLost => (None, None, Some("its worker was lost, too often or for good".into())),
            Failure::Stalled => {
                (None, None, Some("reported nothing for longer than its --progress-timeout allows".into()))
            }
        },
    }
}

/// A failure in a few words
pub fn reason(outcome: Outcome, message: &[u8]) -> Option<String> {
    match failure(outcome, message) {
        (_, _, Some(error)) => Some(error),
        (_, Some(signal), None) => Some(format!("killed by signal {signal}")),
        (Some(0) | None, None, None) => None,
        (Some(code), None, None) => Some(format!("exit status {code}")),
    }
}

/// The coordinator as JSON
pub fn status_json(status: &StatusView) -> Value {
    let [succeeded, failed, cancelled] = status.ended;
    json!({
        "cluster": status.cluster.to_string(),
        "epoch": status.epoch,
        "up_ms": status.up_us / 1000,
        "tasks": {
            "waiting": status.waiting,
            "assigned": status.assigned,
            "succeeded": succeeded,
            "failed": failed,
            "cancelled": cancelled,
        },
        "workers": { "known": status.workers, "connected": status.connected },
        "sessions_resumed": status.resumed,
        "results_stale": status.stale,
    })
}

/// The coordinator for people
pub fn status_text(status: &StatusView) -> String {
    let [succeeded, failed, cancelled] = status.ended;
    format!(
        "cluster   {}\nepoch     {}, up {}\nworkers   {} of {} connected\n\
         tasks     {} waiting, {} at workers, {} succeeded, {} failed, {} cancelled\n\
         sessions  {} resumed\nresults   {} refused as stale\n",
        status.cluster,
        status.epoch,
        span(status.up_us),
        status.connected,
        status.workers,
        status.waiting,
        status.assigned,
        succeeded,
        failed,
        cancelled,
        status.resumed,
        status.stale,
    )
}

/// The brake on losses as JSON
pub fn brake_json(brake: &BrakeView) -> Value {
    json!({ "delayed": brake.delayed, "left_ms": brake.left_us / 1000, "per_second": brake.per_second })
}

/// The brake on losses for people
pub fn brake_text(brake: &BrakeView) -> String {
    format!(
        "brake     many workers have vanished: {} of them are waited for, the first for {} more, then {} are lost in a second\n          \
         `rejoin brake --off` ends that\n",
        brake.delayed,
        span(brake.left_us),
        brake.per_second,
    )
}

/// A worker as JSON
pub fn worker_json(worker: &WorkerView) -> Value {
    let offers = Tags::decode(&worker.offers).unwrap_or_default();
    let (mut labels, mut resources) = (Map::new(), Map::new());
    for (name, tag) in offers.iter() {
        match tag {
            Tag::Label(text) => labels.insert(name.into(), json!(text)),
            Tag::Amount(amount) => resources.insert(name.into(), json!(amount)),
        };
    }
    json!({
        "name": worker.name.as_str(),
        "state": worker_state(worker.state),
        "tasks": worker.held[0],
        "running": worker.held[1],
        "rtt_ms": worker.rtt_us.map(|us| us as f64 / 1000.0),
        "away_ms": worker.away_us.map(|us| us / 1000),
        "labels": labels,
        "resources": resources,
    })
}

/// Workers for people
pub fn workers_text(workers: &[WorkerView]) -> String {
    let rows = workers.iter().map(|worker| {
        let offers = Tags::decode(&worker.offers).unwrap_or_default();
        let offers: Vec<String> = offers
            .iter()
            .map(|(name, tag)| match tag {
                Tag::Label(text) => format!("{name}={text}"),
                Tag::Amount(amount) => format!("{name}:{amount}"),
            })
            .collect();
        let state = match worker.away_us {
            Some(away) => format!("{} for {}", worker_state(worker.state), span(away)),
            None => worker_state(worker.state).into(),
        };
        let rtt = worker.rtt_us.map_or_else(|| "-".into(), |us| format!("{:.1} ms", us as f64 / 1000.0));
        [worker.name.to_string(), state, worker.held[0].to_string(), worker.held[1].to_string(), rtt, offers.join(" ")]
    });
    table(["WORKER", "STATE", "TASKS", "RUNNING", "ROUND TRIP", "OFFERS"], rows)
}

/// A task as JSON
pub fn task_json(task: &TaskView) -> Value {
    let (exit_code, signal, error) = task.outcome.map_or((None, None, None), |outcome| failure(outcome, b""));
    json!({
        "id": task.task.to_string(),
        "name": task.title,
        "status": task_state(task),
        "why": waits(task),
        "priority": task.spec.priority,
        "retries": task.spec.retries,
        "attempt": task.attempts,
        "worker": task.worker.as_ref().map(|name| name.as_str()),
        "progress": task.progress,
        "checkpoint": task.checkpoint,
        "exit_code": exit_code,
        "signal": signal,
        "error": error,
        "stdout_bytes": task.kept[0],
        "stderr_bytes": task.kept[1],
    })
}

/// Tasks for people
pub fn tasks_text(tasks: &[TaskView]) -> String {
    let rows = tasks.iter().map(|task| {
        let note = match task.outcome {
            Some(outcome) => reason(outcome, b"").unwrap_or_default(),
            None if matches!(task.why, Why::Runs | Why::AtWorker) => String::new(),
            None => waits(task),
        };
        let worker = task.worker.as_ref().map_or_else(|| "-".into(), ToString::to_string);
        let name = task.title.replace(char::is_control, " ");
        [task.task.to_string(), task_state(task).into(), task.attempts.to_string(), worker, name, note]
    });
    table(["TASK", "STATE", "ATTEMPTS", "WORKER", "NAME", ""], rows)
}

/// Checkpoints in columns
pub fn checkpoints_text(kept: &[CheckpointView]) -> String {
    if kept.is_empty() {
        return "no checkpoints\n".into();
    }
    let rows = kept.iter().map(|view| {
        let CheckpointView { number, token, length, chunks } = view;
        [number.to_string(), length.to_string(), chunks.to_string(), token.0.to_string()]
    });
    table(["NUMBER", "BYTES", "CHUNKS", "TOKEN"], rows)
}

/// A checkpoint as JSON
pub fn checkpoint_json(view: &CheckpointView) -> Value {
    json!({ "number": view.number, "bytes": view.length, "chunks": view.chunks, "token": view.token.0 })
}

/// A time in the largest unit that it fills, with one more below
pub fn span(us: u64) -> String {
    let seconds = us / 1_000_000;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (0, hours, minutes, _) => format!("{hours} h {minutes:02} min"),
        (days, hours, ..) => format!("{days} d {hours:02} h"),
    }
}

/// Columns that are as wide as they must be
fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "bcd"], ["efg", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(table(["A", "B"], rows.into_iter()), "A    B\na    bcd\nefg\n");
    }

    #[test]
    fn spans_have_two_units_at_most() {
        for (seconds, text) in
            [(0, "0 s"), (59, "59 s"), (61, "1 min 01 s"), (3_725, "1 h 02 min"), (90_000, "1 d 01 h")]
        {
            assert_eq!(span(seconds * 1_000_000), text);
        }
    }

    #[test]
    fn every_failure_has_a_reason_and_nothing_else_has() {
        assert_eq!((reason(Outcome::Succeeded, b""), reason(Outcome::Cancelled, b"")), (None, None));
        let failures = [
            (Failure::Exit(3), "exit status 3"),
            (Failure::Signal(9), "killed by signal 9"),
            (Failure::CannotStart, "no such file"),
            (Failure::Error, "no such file"),
        ];
        for (failure, text) in failures {
            assert_eq!(reason(Outcome::Failed(failure), b"no such file").as_deref(), Some(text));
        }
        for failure in
            [Failure::TimedOut, Failure::Poisonous, Failure::WorkerLost, Failure::CannotStart, Failure::Stalled]
        {
            assert!(reason(Outcome::Failed(failure), b"").is_some());
        }
    }
}
