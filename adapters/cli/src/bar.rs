//! A progress bar at the bottom of a terminal, below whatever else is written there
//!
//! It has no colours, and no clock of its own: it is drawn when its owner says so. Whatever is to be printed while it
//! is shown is printed while [`Bar::handle`] is suspended.

use std::env;
use std::fmt;
use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

use crate::logs;
use crate::printer::Progress;

/// Age of a run at which its bar appears; a shorter one needs none
const FIRST_AFTER: Duration = Duration::from_millis(300);

/// Shortest time between two pictures
const DRAW_EVERY: Duration = Duration::from_millis(100);

/// A progress bar
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    /// Whether standard output is on the same screen
    with_out: bool,
    drawn_at: Option<Duration>,
}

impl Bar {
    /// A bar on standard error, if that is a terminal on which one can be drawn
    ///
    /// Where log lines are wanted they would get in each other's way, and the lines win.
    #[must_use]
    pub fn on_stderr() -> Option<Self> {
        let dumb = env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        if dumb || logs::wanted() || !io::stderr().is_terminal() {
            return None;
        }
        Some(Self::new(ProgressDrawTarget::stderr(), io::stdout().is_terminal()))
    }

    /// A bar drawn on that; `with_out` says whether standard output is written there too
    #[must_use]
    pub fn new(target: ProgressDrawTarget, with_out: bool) -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), target).with_finish(ProgressFinish::AndClear);
        // Were the template wrong, a test would tell, and another bar would be shown.
        if let Ok(style) = ProgressStyle::with_template("[{bar:24}] {wide_msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Bar { bar, with_out, drawn_at: None }
    }

    /// Whether it is time for another picture; `now` is the time since the run began
    #[must_use]
    pub fn is_due(&self, now: Duration) -> bool {
        match self.drawn_at {
            None => now >= FIRST_AFTER,
            Some(at) => now.saturating_sub(at) >= DRAW_EVERY,
        }
    }

    /// Whether a cursor within a line of standard output would be in the way
    #[must_use]
    pub fn is_with_out(&self) -> bool {
        self.with_out
    }

    /// Shows how far a run has come; the cursor must be at the start of a line
    pub fn show(&mut self, now: Duration, progress: Progress) {
        self.drawn_at = Some(now);
        self.bar.update(|state| {
            state.set_len(progress.total);
            state.set_pos(progress.done);
        });
        self.bar.set_message(Told { progress, left: left(now, progress) }.to_string());
        self.bar.force_draw();
    }

    /// What to suspend while something else is printed, none while it is not on the screen
    ///
    /// The cursor must be at the start of a line again when that ends.
    #[must_use]
    pub fn handle(&self) -> Option<ProgressBar> {
        self.drawn_at.map(|_| self.bar.clone())
    }

    /// Takes it from the screen for good
    pub fn end(self) {
        self.bar.finish_and_clear();
    }
}

/// The words beside the bar
struct Told {
    progress: Progress,
    left: Option<Duration>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.progress)?;
        let Some(left) = self.left else { return Ok(()) };
        let secs = left.as_secs();
        match (secs / 86_400, secs / 3600 % 24, secs / 60 % 60, secs % 60) {
            (0, 0, 0, secs) => write!(f, ", {secs}s left"),
            (0, 0, mins, secs) => write!(f, ", {mins}m{secs:02}s left"),
            (0, hours, mins, _) => write!(f, ", {hours}h{mins:02}m left"),
            (days, hours, _, _) => write!(f, ", {days}d{hours:02}h left"),
        }
    }
}

/// Time that is left if it goes on as it did; none while nothing tells
fn left(now: Duration, progress: Progress) -> Option<Duration> {
    let open = progress.total.saturating_sub(progress.done);
    if progress.done == 0 || open == 0 {
        return None;
    }
    let secs = now.as_secs_f64() * open as f64 / progress.done as f64;
    // Up to a whole second: "0s left" is no news.
    Duration::try_from_secs_f64(secs.ceil()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::printer::{Finished, Printer, Style};
    use crate::report::{Status, Summary, TaskReport};
    use indicatif::{InMemoryTerm, TermLike};
    use std::io::Write;

    /// A stream that is shown on a screen
    struct Shown(InMemoryTerm);

    impl Write for Shown {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // As a terminal does it for whoever writes lines.
            self.0.write_str(&str::from_utf8(bytes).unwrap().replace('\n', "\r\n"))?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            self.0.flush()
        }
    }

    type Test = Printer<Shown, Shown, Vec<u8>>;

    fn screen(json: bool) -> (InMemoryTerm, Test) {
        let term = InMemoryTerm::new(20, 70);
        let bar = Bar::new(ProgressDrawTarget::term_like(Box::new(term.clone())), true);
        let style = Style { keep_order: false, json };
        (term.clone(), Printer::new(Shown(term.clone()), Shown(term), style).with_bar(Some(bar)))
    }

    fn task(stdout: &str, stderr: &str, exit_code: i32) -> Finished<Vec<u8>> {
        let status = if exit_code == 0 { Status::Succeeded } else { Status::Failed };
        let exit_code = Some(exit_code);
        let report =
            TaskReport { item: "a".into(), status, exit_code, signal: None, attempt: 1, error: None, wall_ms: 1 };
        Finished { report, stdout: stdout.into(), stderr: stderr.into() }
    }

    fn progress(done: u64) -> Progress {
        Progress { done, running: 2, failed: 0, total: 4, reconnecting: 0 }
    }

    const fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    const HALF: &str = "[============>           ] 2/4 done, 2 running, 1s left";

    #[test]
    fn it_stays_below_what_is_printed_and_goes_at_the_end() {
        let (term, mut printer) = screen(false);
        printer.finished(0, task("one\n", "", 0)).unwrap();
        printer.progress(millis(500), progress(2)).unwrap();
        assert_eq!(term.contents(), format!("one\n{HALF}"));
        printer.finished(1, task("two\nthree\n", "aside\n", 3)).unwrap();
        let failed = "rejoin: task 2 (item \"a\") failed: exit status 3";
        assert_eq!(term.contents(), format!("one\ntwo\nthree\naside\n{failed}\n{HALF}"));
        printer.note("a word").unwrap();
        assert!(term.contents().ends_with(&format!("rejoin: a word\n{HALF}")), "{}", term.contents());
        printer.finish(&Summary::default()).unwrap();
        let end = term.contents();
        assert!(end.contains("a word\nrejoin: 0 succeeded, 0 failed in") && !end.contains("==="), "{end}");
    }

    #[test]
    fn a_line_without_an_end_is_not_taken_along() {
        for (stdout, stderr) in [("cut", ""), ("", "cut"), ("cut", "cut\n"), ("x\ncut", "")] {
            for before in [false, true] {
                let (term, mut printer) = screen(false);
                if before {
                    printer.progress(millis(300), progress(0)).unwrap();
                }
                printer.finished(0, task(stdout, stderr, 0)).unwrap();
                printer.progress(millis(500), progress(2)).unwrap();
                printer.progress(millis(600), progress(2)).unwrap();
                let shown = term.contents();
                assert!(shown.contains("cut\n[") && shown.ends_with(HALF), "{shown}");
                printer.end_bar();
                assert!(term.contents().ends_with("cut"), "{}", term.contents());
            }
        }
    }

    #[test]
    fn json_lines_and_the_bar_share_a_screen() {
        let (term, mut printer) = screen(true);
        printer.progress(millis(500), progress(2)).unwrap();
        printer.finished(0, task("x", "", 0)).unwrap();
        let shown = term.contents();
        assert!(shown.starts_with("{\"type\":\"task\"") && shown.ends_with(HALF), "{shown}");
        printer.finish(&Summary::default()).unwrap();
        assert!(!term.contents().contains("==="), "{}", term.contents());
    }

    #[test]
    fn a_short_run_has_none_and_a_long_one_is_not_drawn_all_the_time() {
        let (term, mut printer) = screen(false);
        printer.progress(millis(299), progress(1)).unwrap();
        assert_eq!(term.contents(), "");
        printer.progress(millis(300), progress(1)).unwrap();
        printer.progress(millis(399), progress(3)).unwrap();
        assert!(term.contents().contains("1/4 done"));
        printer.progress(millis(400), progress(3)).unwrap();
        assert!(term.contents().contains("3/4 done"));
    }

    #[test]
    fn it_goes_with_its_printer_whatever_happens() {
        let (term, mut printer) = screen(false);
        printer.progress(millis(500), progress(2)).unwrap();
        drop(printer);
        assert_eq!(term.contents(), "");
    }

    #[test]
    fn it_fits_a_narrow_screen_on_one_line() {
        let term = InMemoryTerm::new(5, 50);
        let mut bar = Bar::new(ProgressDrawTarget::term_like(Box::new(term.clone())), true);
        bar.show(millis(500), Progress { failed: 1, reconnecting: 3, ..progress(2) });
        bar.show(millis(900), Progress { failed: 1, reconnecting: 3, ..progress(2) });
        assert_eq!(term.contents().lines().count(), 1, "{}", term.contents());
        bar.end();
        assert_eq!(term.contents(), "");
    }

    #[test]
    fn what_is_left_is_reckoned_from_what_is_done() {
        let told = |secs, done| {
            let (now, progress) = (Duration::from_secs(secs), Progress { running: 0, total: 100, ..progress(done) });
            Told { progress, left: left(now, progress) }.to_string()
        };
        assert_eq!(told(10, 0), "0/100 done, 0 running");
        assert_eq!(told(10, 100), "100/100 done, 0 running");
        assert_eq!(told(10, 50), "50/100 done, 0 running, 10s left");
        assert_eq!(told(10, 10), "10/100 done, 0 running, 1m30s left");
        assert_eq!(told(3725, 50), "50/100 done, 0 running, 1h02m left");
        assert_eq!(told(2000, 1), "1/100 done, 0 running, 2d07h left");
    }
}
