//! What is said about tasks and runs: JSON lines, the summary, the exit status

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use base64::write::EncoderWriter;
use serde::Serialize;

/// Exit status of a run that was interrupted, or whose output nobody reads
pub const EXIT_INTERRUPTED: u8 = 130;

/// Exit status when the program itself failed or cannot reach the coordinator
pub const EXIT_INTERNAL: u8 = 254;

/// Exit status when the program was called wrongly
pub const EXIT_USAGE: u8 = 255;

/// Most failed tasks that the exit status can count
const COUNTED_MAX: u64 = 100;

/// The exit status of a run that did its work
///
/// A cancelled task counts like a failed one, since 0 says that all succeeded.
#[must_use]
pub fn exit_status(failed: u64, cancelled: u64, interrupted: bool) -> u8 {
    if interrupted {
        return EXIT_INTERRUPTED;
    }
    let unsuccessful = failed.saturating_add(cancelled).min(COUNTED_MAX + 1);
    u8::try_from(unsuccessful).unwrap_or(u8::MAX)
}

/// How a task ended
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Its command exited with status 0
    Succeeded,
    /// Its command failed or could not be run, in the last attempt it had
    Failed,
    /// It was given up before it ended
    Cancelled,
}

/// What is to be said about a finished task, beside its output
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskReport {
    /// The task's item
    pub item: OsString,
    /// How the task ended
    pub status: Status,
    /// Exit status of the command, if it exited
    pub exit_code: Option<i32>,
    /// Number of the signal that ended the command, if one did
    pub signal: Option<i32>,
    /// Which attempt this was, from 1; 0 if there was none
    pub attempt: u32,
    /// Reason of a failure if exit status and signal do not tell it, such as a timeout
    pub error: Option<String>,
    /// How long the task took, in milliseconds
    pub wall_ms: u64,
}

impl TaskReport {
    /// Why the task failed, none if it did not
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        if self.status != Status::Failed {
            return None;
        }
        Some(match (&self.error, self.exit_code, self.signal) {
            (Some(error), _, _) => error.clone(),
            (None, _, Some(signal)) => format!("killed by signal {signal}"),
            (None, Some(code), None) => format!("exit status {code}"),
            (None, None, None) => "unknown reason".to_owned(),
        })
    }
}

/// A task's standard output or standard error, wherever it is kept
pub trait OutputSource {
    /// Writes all of it
    ///
    /// # Errors
    ///
    /// If it cannot be read, or `to` cannot be written.
    fn copy_to(&self, to: &mut dyn Write) -> io::Result<()>;

    /// Its length in bytes
    fn len(&self) -> u64;

    /// Whether there is nothing to copy
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl OutputSource for Vec<u8> {
    fn copy_to(&self, to: &mut dyn Write) -> io::Result<()> {
        to.write_all(self)
    }

    fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }
}

/// Writes a finished task as one line of JSON
///
/// The output is read twice, first to see whether it is UTF-8, and never held
/// in memory. `to` should be buffered.
///
/// # Errors
///
/// If the output cannot be read, or `to` cannot be written.
pub fn write_task(
    to: &mut dyn Write,
    report: &TaskReport,
    stdout: &dyn OutputSource,
    stderr: &dyn OutputSource,
) -> io::Result<()> {
    let head = serde_json::to_string(&Head::new(report))?;
    to.write_all(head.strip_suffix('}').unwrap_or(&head).as_bytes())?;
    write_output(to, "stdout", stdout)?;
    write_output(to, "stderr", stderr)?;
    writeln!(to, ",\"wall_ms\":{}}}", report.wall_ms)
}

/// The fields of a task's line that come before its output
#[derive(Serialize)]
struct Head<'a> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    item: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    item_base64: Option<String>,
    status: Status,
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    attempt: u32,
}

impl<'a> Head<'a> {
    fn new(report: &'a TaskReport) -> Self {
        let item: &OsStr = &report.item;
        Self {
            r#type: "task",
            item: item.to_str(),
            item_base64: item.to_str().is_none().then(|| STANDARD.encode(item.as_bytes())),
            status: report.status,
            exit_code: report.exit_code,
            signal: report.signal,
            error: report.reason(),
            attempt: report.attempt,
        }
    }
}

/// Writes an output as a field that is not the first of its object
fn write_output(to: &mut dyn Write, name: &str, source: &dyn OutputSource) -> io::Result<()> {
    let mut probe = Utf8Probe::default();
    source.copy_to(&mut probe)?;
    if probe.is_utf8() {
        write!(to, ",\"{name}\":\"")?;
        source.copy_to(&mut Escape { to })?;
    } else {
        write!(to, ",\"{name}_base64\":\"")?;
        let mut encoder = EncoderWriter::new(&mut *to, &STANDARD);
        source.copy_to(&mut encoder)?;
        encoder.finish()?;
    }
    to.write_all(b"\"")
}

/// Finds out whether what is written to it is UTF-8
#[derive(Default)]
struct Utf8Probe {
    // Start of a character whose rest is still to come
    partial: Vec<u8>,
    broken: bool,
}

impl Utf8Probe {
    fn is_utf8(&self) -> bool {
        !self.broken && self.partial.is_empty()
    }

    fn check(&mut self, bytes: &[u8]) {
        match str::from_utf8(bytes) {
            Ok(_) => {}
            Err(error) if error.error_len().is_some() => self.broken = true,
            Err(error) => self.partial = bytes[error.valid_up_to()..].to_vec(),
        }
    }
}

impl Write for Utf8Probe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while let (false, false, Some((first, others))) = (self.broken, self.partial.is_empty(), rest.split_first()) {
            let mut joined = std::mem::take(&mut self.partial);
            joined.push(*first);
            self.check(&joined);
            rest = others;
        }
        if !self.broken {
            self.check(rest);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Escapes UTF-8 for the inside of a JSON string
///
/// It works on bytes, as chunks may end within a character: all that needs an
/// escape is ASCII.
struct Escape<'a> {
    to: &'a mut dyn Write,
}

impl Write for Escape<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for run in bytes.split_inclusive(|byte| needs_escape(*byte)) {
            match run.split_last() {
                Some((last, plain)) if needs_escape(*last) => {
                    self.to.write_all(plain)?;
                    self.escape(*last)?;
                }
                _ => self.to.write_all(run)?,
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl Escape<'_> {
    fn escape(&mut self, byte: u8) -> io::Result<()> {
        match byte {
            b'"' | b'\\' => self.to.write_all(&[b'\\', byte]),
            b'\n' => self.to.write_all(b"\\n"),
            b'\r' => self.to.write_all(b"\\r"),
            b'\t' => self.to.write_all(b"\\t"),
            _ => write!(self.to, "\\u{byte:04x}"),
        }
    }
}

fn needs_escape(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// What is to be said about a whole run
///
/// Its [`Display`](fmt::Display) is one line for people.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename = "summary")]
pub struct Summary {
    /// Tasks there were
    pub submitted: u64,
    /// Tasks that succeeded
    pub succeeded: u64,
    /// Tasks that failed
    pub failed: u64,
    /// Tasks that were given up
    pub cancelled: u64,
    /// Final results that were applied
    pub applied: u64,
    /// Tasks without a final result
    pub lost: u64,
    /// Results or executions that there were once too often
    pub duplicated: u64,
    /// Commands that workers started
    pub executions: u64,
    /// Times a worker came back after its link was cut
    pub reconnections: u64,
    /// Reconnections that went on where the link was cut
    pub resumed: u64,
    /// Disruptions made on purpose
    pub disruptions: u64,
    /// How long the run took, in milliseconds
    pub wall_ms: u64,
}

impl Summary {
    /// The exit status of the run
    ///
    /// A lost or duplicated result is a fault of the program, whatever else happened.
    #[must_use]
    pub fn exit_status(&self, interrupted: bool) -> u8 {
        if self.lost > 0 || self.duplicated > 0 {
            return EXIT_INTERNAL;
        }
        exit_status(self.failed, self.cancelled, interrupted)
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} succeeded, {} failed", self.succeeded, self.failed)?;
        if self.cancelled > 0 {
            write!(f, ", {} cancelled", self.cancelled)?;
        }
        write!(
            f,
            " in {}; {} ({} resumed), {}; lost {}, duplicated {}",
            elapsed(self.wall_ms),
            counted(self.reconnections, "reconnection"),
            self.resumed,
            counted(self.disruptions, "disruption"),
            self.lost,
            self.duplicated
        )
    }
}

/// Writes the summary as one line of JSON
///
/// # Errors
///
/// If `to` cannot be written.
pub fn write_summary(to: &mut dyn Write, summary: &Summary) -> io::Result<()> {
    serde_json::to_writer(&mut *to, summary)?;
    to.write_all(b"\n")
}

/// A number of things, such as `1 task` or `2 tasks`
#[must_use]
pub fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

fn elapsed(millis: u64) -> String {
    // Rounded before it is taken apart, or 59.97 s would become 60.0 s.
    let tenths = millis.saturating_add(50) / 100;
    let seconds = tenths / 10;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}.{} s", tenths % 10),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quickcheck::quickcheck;
    use serde_json::{Value, json};
    use std::os::unix::ffi::OsStringExt;

    fn report(status: Status) -> TaskReport {
        TaskReport {
            item: "x y".into(),
            status,
            exit_code: Some(0),
            signal: None,
            attempt: 1,
            error: None,
            wall_ms: 12,
        }
    }

    fn line(report: &TaskReport, stdout: &dyn OutputSource, stderr: &dyn OutputSource) -> String {
        let mut line = Vec::new();
        write_task(&mut line, report, stdout, stderr).unwrap();
        String::from_utf8(line).unwrap()
    }

    fn text(text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    /// Output that comes in pieces of a few bytes
    struct Pieces(Vec<u8>, usize);

    impl OutputSource for Pieces {
        fn copy_to(&self, to: &mut dyn Write) -> io::Result<()> {
            self.0.chunks(self.1).try_for_each(|piece| to.write_all(piece))
        }

        fn len(&self) -> u64 {
            self.0.len() as u64
        }
    }

    #[test]
    fn exit_statuses() {
        for (failed, cancelled, interrupted, status) in [
            (0, 0, false, 0),
            (1, 0, false, 1),
            (100, 0, false, 100),
            (101, 0, false, 101),
            (255, 0, false, 101),
            (256, 0, false, 101),
            (u64::MAX, u64::MAX, false, 101),
            (0, 2, false, 2),
            (50, 51, false, 101),
            (0, 0, true, 130),
            (7, 7, true, 130),
        ] {
            assert_eq!(exit_status(failed, cancelled, interrupted), status);
        }
    }

    #[test]
    fn a_lost_or_duplicated_result_is_an_internal_error() {
        let clean = Summary { failed: 3, ..Summary::default() };
        assert_eq!(clean.exit_status(false), 3);
        assert_eq!(clean.exit_status(true), 130);
        assert_eq!(Summary::default().exit_status(false), 0);
        for broken in [Summary { lost: 1, ..clean.clone() }, Summary { duplicated: 1, ..clean }] {
            assert_eq!(broken.exit_status(false), 254);
            assert_eq!(broken.exit_status(true), 254);
        }
    }

    #[test]
    fn the_line_of_a_success() {
        assert_eq!(
            line(&report(Status::Succeeded), &text("a\n \"b\"\\\u{1}ü"), &text("")),
            concat!(
                r#"{"type":"task","item":"x y","status":"succeeded","exit_code":0,"attempt":1,"#,
                r#""stdout":"a\n \"b\"\\\u0001ü","stderr":"","wall_ms":12}"#,
                "\n"
            )
        );
    }

    #[test]
    fn the_line_of_a_signal_and_of_bytes() {
        let killed = TaskReport {
            item: OsString::from_vec(vec![0xff]),
            exit_code: None,
            signal: Some(9),
            attempt: 3,
            ..report(Status::Failed)
        };
        let parsed: Value = serde_json::from_str(&line(&killed, &vec![0xfe, 1], &text("e"))).unwrap();
        assert_eq!(
            parsed,
            json!({
                "type": "task", "item_base64": "/w==", "status": "failed", "exit_code": null,
                "signal": 9, "error": "killed by signal 9", "attempt": 3,
                "stdout_base64": "/gE=", "stderr": "e", "wall_ms": 12
            })
        );
    }

    #[test]
    fn an_item_that_ends_like_the_head_stays_whole() {
        let braces = TaskReport { item: "}}".into(), ..report(Status::Cancelled) };
        let parsed: Value = serde_json::from_str(&line(&braces, &text(""), &text(""))).unwrap();
        assert_eq!((&parsed["item"], &parsed["status"]), (&json!("}}"), &json!("cancelled")));
        assert_eq!(parsed.get("error"), None);
    }

    #[test]
    fn reasons() {
        let failed = report(Status::Failed);
        let reason = |error: Option<&str>, exit_code, signal| {
            let error = error.map(str::to_owned);
            TaskReport { exit_code, signal, error, ..failed.clone() }.reason().unwrap()
        };
        assert_eq!(reason(None, Some(3), None), "exit status 3");
        assert_eq!(reason(None, None, Some(9)), "killed by signal 9");
        assert_eq!(reason(Some("timed out"), None, Some(9)), "timed out");
        assert_eq!(reason(None, None, None), "unknown reason");
        assert_eq!(report(Status::Succeeded).reason(), None);
        assert_eq!(report(Status::Cancelled).reason(), None);
    }

    #[test]
    fn output_cut_within_a_character_is_not_utf8() {
        for (bytes, utf8) in [
            (&b"\xc3"[..], false),
            (b"a\xf0\x9f\x8c", false),
            (b"\xc3\xa9", true),
            (b"\xed\xa0\x80", false),
            (b"\x80", false),
            (b"", true),
        ] {
            for size in 1..4 {
                let line = line(&report(Status::Succeeded), &Pieces(bytes.to_vec(), size), &text(""));
                assert_eq!(line.contains("\"stdout\":"), utf8, "{line}");
                assert_eq!(line.contains("\"stdout_base64\":"), !utf8, "{line}");
            }
        }
    }

    #[test]
    fn the_probe_keeps_at_most_a_part_of_a_character() {
        let mut probe = Utf8Probe::default();
        for (bytes, kept, broken) in [
            (&b"a\xf0\x9f"[..], 2, false),
            (b"\x8c", 3, false),
            (b"\x8dbc\xc3", 1, false),
            (b"xxxx", 0, true),
            (b"\xc3", 0, true),
        ] {
            probe.write_all(bytes).unwrap();
            assert_eq!((probe.partial.len(), probe.broken), (kept, broken));
        }
    }

    #[test]
    fn the_summary_for_people() {
        let summary = Summary {
            submitted: 500,
            succeeded: 500,
            reconnections: 37,
            resumed: 35,
            disruptions: 74,
            wall_ms: 8_100,
            ..Summary::default()
        };
        assert_eq!(
            summary.to_string(),
            "500 succeeded, 0 failed in 8.1 s; 37 reconnections (35 resumed), 74 disruptions; \
             lost 0, duplicated 0"
        );
        let summary = Summary { cancelled: 2, reconnections: 1, ..Summary::default() };
        assert_eq!(
            summary.to_string(),
            "0 succeeded, 0 failed, 2 cancelled in 0.0 s; 1 reconnection (0 resumed), \
             0 disruptions; lost 0, duplicated 0"
        );
    }

    #[test]
    fn the_summary_as_json() {
        let mut line = Vec::new();
        write_summary(&mut line, &Summary { submitted: 1, wall_ms: 5, ..Summary::default() }).unwrap();
        assert_eq!(
            String::from_utf8(line).unwrap(),
            concat!(
                r#"{"type":"summary","submitted":1,"succeeded":0,"failed":0,"cancelled":0,"#,
                r#""applied":0,"lost":0,"duplicated":0,"executions":0,"reconnections":0,"#,
                r#""resumed":0,"disruptions":0,"wall_ms":5}"#,
                "\n"
            )
        );
    }

    #[test]
    fn elapsed_times() {
        for (millis, text) in [
            (0, "0.0 s"),
            (49, "0.0 s"),
            (50, "0.1 s"),
            (59_949, "59.9 s"),
            (59_950, "1 min 00 s"),
            (125_000, "2 min 05 s"),
            (3_600_000, "1 h 00 min"),
            (90_061_001, "25 h 01 min"),
        ] {
            assert_eq!(elapsed(millis), text);
        }
    }

    quickcheck! {
        fn text_survives_json(stdout: String, stderr: String, size: usize) -> bool {
            let size = size % 7 + 1;
            let line = line(
                &report(Status::Succeeded),
                &Pieces(text(&stdout), size),
                &Pieces(text(&stderr), size),
            );
            let parsed: Value = serde_json::from_str(&line).unwrap();
            line.matches('\n').count() == 1
                && parsed["stdout"] == stdout.as_str()
                && parsed["stderr"] == stderr.as_str()
        }

        fn bytes_survive_json(stdout: Vec<u8>, size: usize) -> bool {
            let source = Pieces(stdout.clone(), size % 7 + 1);
            let line = line(&report(Status::Succeeded), &source, &text(""));
            let parsed: Value = serde_json::from_str(&line).unwrap();
            match String::from_utf8(stdout) {
                Ok(utf8) => parsed["stdout"] == utf8.as_str(),
                Err(error) => {
                    let decoded = STANDARD.decode(parsed["stdout_base64"].as_str().unwrap());
                    decoded.unwrap() == error.into_bytes()
                }
            }
        }
    }
}
