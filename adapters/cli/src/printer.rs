//! Printing: which task's output when, and the lines around it
//!
//! The printer has no clock and opens no file; it is told what has finished and
//! what time it is. Standard output is flushed after every task, so that whoever
//! reads it sees a task as soon as it is printed.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, BufWriter, Write};
use std::time::Duration;

use crate::bar::Bar;
use crate::items::label;
use crate::report::{OutputSource, Summary, TaskReport, counted, write_summary, write_task};

/// Shortest time between two progress lines
pub const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// How a run is printed
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Style {
    /// Print tasks in the order of their items
    pub keep_order: bool,
    /// Print JSON lines in place of the tasks' output
    pub json: bool,
}

/// A finished task with its output
#[derive(Debug)]
pub struct Finished<S> {
    /// What is to be said about it
    pub report: TaskReport,
    /// Its standard output
    pub stdout: S,
    /// Its standard error
    pub stderr: S,
}

/// How far a run has come
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Tasks that have finished, however they ended
    pub done: u64,
    /// Tasks that are running
    pub running: u64,
    /// Tasks that have failed
    pub failed: u64,
    /// Tasks there are
    pub total: u64,
    /// Workers whose link is down
    pub reconnecting: u64,
}

/// Prints finished tasks whole, one after the other
#[derive(Debug)]
pub struct Printer<O: Write, E: Write, S> {
    out: Stream<O>,
    err: Stream<E>,
    style: Style,
    // With `keep_order`: the first task not printed yet, and those after it.
    next: usize,
    held: BTreeMap<usize, Finished<S>>,
    skipped: BTreeSet<usize>,
    progress_at: Duration,
    progress: Option<Progress>,
    bar: Option<Bar>,
    // Whether the last of what was written, to whichever stream, was within a line.
    within_line: bool,
}

impl<O: Write, E: Write, S: OutputSource> Printer<O, E, S> {
    /// A printer to standard output and standard error, or what stands for them
    pub fn new(out: O, err: E, style: Style) -> Self {
        Self {
            out: Stream::new(out),
            err: Stream::new(err),
            style,
            next: 0,
            held: BTreeMap::new(),
            skipped: BTreeSet::new(),
            progress_at: Duration::ZERO,
            progress: None,
            bar: None,
            within_line: false,
        }
    }

    /// Shows a progress bar in place of progress lines
    #[must_use]
    pub fn with_bar(mut self, bar: Option<Bar>) -> Self {
        self.bar = bar;
        self
    }

    /// Takes the finished task of the item with that index, from 0
    ///
    /// It is printed at once, or when it is its turn. Of a task that waits the
    /// printer holds `S`, which is why large output should not be in memory.
    ///
    /// # Errors
    ///
    /// If the output cannot be read or printed; the printer is of no use after that.
    pub fn finished(&mut self, index: usize, done: Finished<S>) -> Result<(), PrintError> {
        if !self.style.keep_order {
            return self.print(index, &done);
        }
        self.held.insert(index, done);
        self.print_in_order()
    }

    fn print_in_order(&mut self) -> Result<(), PrintError> {
        loop {
            if self.skipped.remove(&self.next) {
                self.next += 1;
                continue;
            }
            let Some(entry) = self.held.first_entry().filter(|entry| *entry.key() <= self.next) else { return Ok(()) };
            let (index, done) = entry.remove_entry();
            self.next = self.next.max(index + 1);
            self.print(index, &done)?;
        }
    }

    /// The item with that index was printed by an earlier run
    ///
    /// # Errors
    ///
    /// If output that waited for its turn cannot be read or printed.
    pub fn skip(&mut self, index: usize) -> Result<(), PrintError> {
        if !self.style.keep_order {
            return Ok(());
        }
        self.skipped.insert(index);
        self.print_in_order()
    }

    /// Shows how the run goes, by the bar, or by a line if there is news and it is time again
    ///
    /// `now` is the time since the run began; in its first second there is no line.
    ///
    /// # Errors
    ///
    /// If standard error cannot be written.
    pub fn progress(&mut self, now: Duration, progress: Progress) -> Result<(), PrintError> {
        if self.bar.is_some() {
            return self.show_bar(now, progress);
        }
        let early = now.saturating_sub(self.progress_at) < PROGRESS_EVERY;
        if early || self.progress == Some(progress) {
            return Ok(());
        }
        self.progress_at = now;
        self.progress = Some(progress);
        self.err.line(progress)
    }

    /// Prints a line of the program's own
    ///
    /// # Errors
    ///
    /// If standard error cannot be written.
    pub fn note(&mut self, text: &str) -> Result<(), PrintError> {
        self.above(|printer| {
            printer.within_line = false;
            printer.err.line(text)
        })
    }

    /// Takes the bar from the screen for good, so that others may write there
    pub fn end_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.end();
        }
    }

    /// Prints what is still held back, in order, and then the summary
    ///
    /// After an interruption tasks may be missing between those held back.
    ///
    /// # Errors
    ///
    /// If output cannot be read or printed.
    pub fn finish(&mut self, summary: &Summary) -> Result<(), PrintError> {
        self.end_bar();
        for (index, done) in std::mem::take(&mut self.held) {
            self.print(index, &done)?;
        }
        if self.style.json { self.out.with(|out| write_summary(out, summary)) } else { self.err.line(summary) }
    }

    fn show_bar(&mut self, now: Duration, progress: Progress) -> Result<(), PrintError> {
        if !self.bar.as_ref().is_some_and(|bar| bar.is_due(now)) {
            return Ok(());
        }
        self.end_lines()?;
        if let Some(bar) = &mut self.bar {
            bar.show(now, progress);
        }
        Ok(())
    }

    /// Prints while the bar is out of the way
    fn above(&mut self, print: impl FnOnce(&mut Self) -> Result<(), PrintError>) -> Result<(), PrintError> {
        match self.bar.as_ref().and_then(Bar::handle) {
            Some(bar) => bar.suspend(|| print(self).and_then(|()| self.end_lines())),
            None => print(self),
        }
    }

    /// Ends the line that the cursor is in: the bar would continue it, and take it along when it goes
    fn end_lines(&mut self) -> Result<(), PrintError> {
        let with_out = self.bar.as_ref().is_some_and(Bar::is_with_out);
        let within_line = if with_out { self.within_line } else { self.err.within_line };
        if !within_line {
            return Ok(());
        }
        // On standard error even for standard output, which has nothing in it but what tasks wrote.
        self.within_line = false;
        self.err.with(|err| err.write_all(b"\n"))
    }

    fn print(&mut self, index: usize, done: &Finished<S>) -> Result<(), PrintError> {
        self.above(|printer| printer.print_now(index, done))
    }

    fn print_now(&mut self, index: usize, done: &Finished<S>) -> Result<(), PrintError> {
        let Finished { report, stdout, stderr } = done;
        if self.style.json {
            return self.out.with(|out| write_task(out, report, stdout, stderr));
        }
        self.out.copy(stdout)?;
        if !stdout.is_empty() {
            self.within_line = self.out.within_line;
        }
        self.err.copy(stderr)?;
        if let Some(reason) = report.reason() {
            self.err.line(Failure { index, report, reason: &reason })?;
            self.within_line = false;
        } else if !stderr.is_empty() {
            self.within_line = self.err.within_line;
        }
        Ok(())
    }
}

/// Why printing failed
#[derive(Debug)]
pub enum PrintError {
    /// Whoever read standard output or standard error has closed it
    Closed,
    /// Standard output or standard error cannot be written
    Write(io::Error),
    /// A task's output cannot be read
    Read(io::Error),
}

impl fmt::Display for PrintError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => write!(f, "the output was closed by its reader"),
            Self::Write(error) => write!(f, "cannot print: {error}"),
            Self::Read(error) => write!(f, "cannot read the output of a task: {error}"),
        }
    }
}

impl std::error::Error for PrintError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Closed => None,
            Self::Write(error) | Self::Read(error) => Some(error),
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} done, {} running", self.done, self.total, self.running)?;
        if self.failed > 0 {
            write!(f, ", {} failed", self.failed)?;
        }
        if self.reconnecting > 0 {
            write!(f, ", {} reconnecting", counted(self.reconnecting, "worker"))?;
        }
        Ok(())
    }
}

/// The line about a task that failed
struct Failure<'a> {
    index: usize,
    report: &'a TaskReport,
    reason: &'a str,
}

impl fmt::Display for Failure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, item) = (self.index + 1, label(&self.report.item));
        write!(f, "task {number} (item {item}) failed: {}", self.reason)?;
        match self.report.attempt {
            0 | 1 => Ok(()),
            attempts => write!(f, " (attempt {attempts})"),
        }
    }
}

/// Standard output or standard error
#[derive(Debug)]
struct Stream<W: Write> {
    to: BufWriter<W>,
    // Tells a failure to write from one of the source that is copied.
    broken: bool,
    within_line: bool,
}

impl<W: Write> Stream<W> {
    fn new(to: W) -> Self {
        Self { to: BufWriter::new(to), broken: false, within_line: false }
    }

    fn copy(&mut self, source: &impl OutputSource) -> Result<(), PrintError> {
        if source.is_empty() {
            return Ok(());
        }
        self.with(|stream| source.copy_to(stream))
    }

    /// Writes a line of the program's own, which never continues a task's
    fn line(&mut self, text: impl fmt::Display) -> Result<(), PrintError> {
        self.with(|stream| {
            if stream.within_line {
                stream.write_all(b"\n")?;
            }
            writeln!(stream, "rejoin: {text}")
        })
    }

    fn with(&mut self, write: impl FnOnce(&mut Self) -> io::Result<()>) -> Result<(), PrintError> {
        write(self).and_then(|()| self.flush()).map_err(|error| {
            if !self.broken {
                PrintError::Read(error)
            } else if error.kind() == io::ErrorKind::BrokenPipe {
                PrintError::Closed
            } else {
                PrintError::Write(error)
            }
        })
    }

    fn watch<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        self.broken |= result.as_ref().is_err_and(|e| e.kind() != io::ErrorKind::Interrupted);
        result
    }
}

impl<W: Write> Write for Stream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.to.write(bytes);
        let written = self.watch(result)?;
        if let Some(last) = bytes[..written].last() {
            self.within_line = *last != b'\n';
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.to.flush();
        self.watch(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Status;
    use quickcheck::quickcheck;

    const PLAIN: Style = Style { keep_order: false, json: false };
    const ORDERED: Style = Style { keep_order: true, json: false };
    const JSON: Style = Style { keep_order: false, json: true };

    fn task(item: &str, stdout: &str, stderr: &str, exit_code: i32) -> Finished<Vec<u8>> {
        Finished {
            report: TaskReport {
                item: item.into(),
                status: if exit_code == 0 { Status::Succeeded } else { Status::Failed },
                exit_code: Some(exit_code),
                signal: None,
                attempt: 1,
                error: None,
                wall_ms: 1,
            },
            stdout: stdout.into(),
            stderr: stderr.into(),
        }
    }

    type Test<'a> = Printer<&'a mut Vec<u8>, &'a mut Vec<u8>, Vec<u8>>;

    fn printed(style: Style, run: impl FnOnce(&mut Test<'_>)) -> (String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        run(&mut Printer::new(&mut out, &mut err, style));
        (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    fn progress(done: u64) -> Progress {
        Progress { done, running: 4, failed: 0, total: 500, reconnecting: 0 }
    }

    #[test]
    fn tasks_are_printed_as_they_finish() {
        let (out, err) = printed(PLAIN, |printer| {
            printer.finished(2, task("c", "C\n", "c\n", 0)).unwrap();
            printer.finished(0, task("a", "A", "", 0)).unwrap();
            printer.finished(1, task("b", "B\n", "b", 0)).unwrap();
        });
        assert_eq!((out.as_str(), err.as_str()), ("C\nAB\n", "c\nb"));
    }

    #[test]
    fn order_is_kept_if_asked() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut printer = Printer::new(&mut out, &mut err, ORDERED);
        printer.finished(2, task("c", "C", "", 0)).unwrap();
        printer.finished(1, task("b", "B", "", 3)).unwrap();
        assert_eq!(printer.held.len(), 2);
        printer.finished(0, task("a", "A", "", 0)).unwrap();
        assert!(printer.held.is_empty());
        printer.finished(3, task("d", "D", "", 0)).unwrap();
        assert!(printer.held.is_empty());
        drop(printer);
        assert_eq!(out, b"ABCD");
        assert_eq!(err, b"rejoin: task 2 (item \"b\") failed: exit status 3\n");
    }

    #[test]
    fn a_task_that_comes_again_does_not_upset_the_order() {
        let (out, _) = printed(ORDERED, |printer| {
            for index in [0, 1, 0, 3, 2] {
                printer.finished(index, task("x", &index.to_string(), "", 0)).unwrap();
            }
        });
        assert_eq!(out, "01023");
    }

    #[test]
    fn what_is_held_is_printed_at_the_end() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut printer = Printer::new(&mut out, &mut err, ORDERED);
        for (index, text) in [(5, "F"), (1, "B"), (3, "D")] {
            printer.finished(index, task("x", text, "", 0)).unwrap();
        }
        printer.finish(&Summary { succeeded: 3, ..Summary::default() }).unwrap();
        drop(printer);
        assert_eq!(out, b"BDF");
        assert!(err.starts_with(b"rejoin: 3 succeeded, 0 failed in 0.0 s; "));
        assert!(err.ends_with(b"\n"));
    }

    #[test]
    fn a_failure_gets_a_line_after_its_output() {
        let (out, err) = printed(PLAIN, |printer| {
            let mut failed = task("x y", "partial", "oops", 3);
            failed.report.attempt = 2;
            printer.finished(16, failed).unwrap();
        });
        assert_eq!(out, "partial");
        assert_eq!(err, "oops\nrejoin: task 17 (item \"x y\") failed: exit status 3 (attempt 2)\n");
    }

    #[test]
    fn items_are_shortened_and_escaped() {
        let (_, err) = printed(PLAIN, |printer| {
            printer.finished(0, task(&format!("\n{}", "x".repeat(100)), "", "", 1)).unwrap();
        });
        let shown = format!("\\n{}…", "x".repeat(77));
        assert_eq!(err, format!("rejoin: task 1 (item \"{shown}\") failed: exit status 1\n"));
    }

    #[test]
    fn json_replaces_all_output() {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut printer = Printer::new(&mut out, &mut err, JSON);
        printer.finished(1, task("b", "B", "e", 3)).unwrap();
        printer.finished(0, task("a", "A", "", 0)).unwrap();
        printer.finish(&Summary::default()).unwrap();
        drop(printer);
        let lines: Vec<serde_json::Value> =
            String::from_utf8(out).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!((&lines[0]["item"], &lines[0]["error"]), (&"b".into(), &"exit status 3".into()));
        assert_eq!(lines[1]["stdout"], "A");
        assert_eq!(lines[2]["type"], "summary");
        assert!(err.is_empty());
    }

    #[test]
    fn progress_is_at_most_one_line_a_second_and_only_with_news() {
        let (_, err) = printed(PLAIN, |printer| {
            for (millis, done) in [(0, 0), (999, 1), (1_000, 2), (1_999, 3), (2_500, 2), (2_600, 4), (3_599, 5), (1, 6)]
            {
                printer.progress(Duration::from_millis(millis), progress(done)).unwrap();
            }
        });
        assert_eq!(err, "rejoin: 2/500 done, 4 running\nrejoin: 4/500 done, 4 running\n");
    }

    #[test]
    fn progress_tells_of_failures_and_lost_links() {
        let line = |failed, reconnecting| Progress { failed, reconnecting, ..progress(12) }.to_string();
        assert_eq!(line(1, 0), "12/500 done, 4 running, 1 failed");
        assert_eq!(line(1, 1), "12/500 done, 4 running, 1 failed, 1 worker reconnecting");
        assert_eq!(line(0, 2), "12/500 done, 4 running, 2 workers reconnecting");
    }

    #[test]
    fn progress_begins_a_line_of_its_own() {
        let (_, err) = printed(PLAIN, |printer| {
            printer.finished(0, task("a", "", "no newline", 0)).unwrap();
            printer.progress(Duration::from_secs(1), progress(1)).unwrap();
        });
        assert_eq!(err, "no newline\nrejoin: 1/500 done, 4 running\n");
    }

    /// A stream that takes some bytes and then fails
    struct Failing(usize, io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let taken = bytes.len().min(self.0);
            self.0 -= taken;
            if taken == 0 { Err(self.1.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output that cannot be read
    struct Unreadable;

    impl OutputSource for Unreadable {
        fn copy_to(&self, to: &mut dyn Write) -> io::Result<()> {
            to.write_all(b"begin")?;
            Err(io::ErrorKind::BrokenPipe.into())
        }

        fn len(&self) -> u64 {
            9
        }
    }

    fn failure(kind: io::ErrorKind, style: Style, size: usize) -> PrintError {
        let mut printer = Printer::new(Failing(5, kind), io::sink(), style);
        printer.finished(0, task("a", &"x".repeat(size), "", 0)).unwrap_err()
    }

    #[test]
    fn a_closed_output_is_told_from_a_full_one() {
        for (style, size) in [(PLAIN, 6), (PLAIN, 100_000), (JSON, 6), (JSON, 100_000)] {
            assert!(matches!(failure(io::ErrorKind::BrokenPipe, style, size), PrintError::Closed));
            assert!(matches!(failure(io::ErrorKind::StorageFull, style, size), PrintError::Write(_)));
        }
    }

    #[test]
    fn a_closed_standard_error_is_noticed_too() {
        let err = Failing(0, io::ErrorKind::BrokenPipe);
        let mut printer = Printer::<_, _, Vec<u8>>::new(io::sink(), err, PLAIN);
        assert!(matches!(printer.finish(&Summary::default()), Err(PrintError::Closed)));
    }

    #[test]
    fn output_that_cannot_be_read_is_not_taken_for_a_closed_stream() {
        for style in [PLAIN, JSON] {
            let mut printer = Printer::new(io::sink(), io::sink(), style);
            let report = task("a", "", "", 0).report;
            let done = Finished { report, stdout: Unreadable, stderr: Unreadable };
            assert!(matches!(printer.finished(0, done), Err(PrintError::Read(_))));
        }
    }

    /// A permutation of `0..keys.len()`
    fn permutation(keys: &[u32]) -> Vec<usize> {
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_by_key(|index| keys[*index]);
        order
    }

    quickcheck! {
        fn every_task_is_printed_once(keys: Vec<u32>, keep_order: bool) -> bool {
            let order = permutation(&keys);
            let (out, err) = printed(Style { keep_order, json: false }, |printer| {
                for index in &order {
                    let text = format!("{index}\n");
                    printer.finished(*index, task("x", &text, &text, 0)).unwrap();
                }
                assert!(printer.held.is_empty());
            });
            let expected = if keep_order { (0..keys.len()).collect() } else { order };
            let printed: Vec<usize> = out.lines().map(|line| line.parse().unwrap()).collect();
            out == err && printed == expected
        }
    }
}
