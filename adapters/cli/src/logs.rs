//! What the program says of its own accord, for those who run it: lines on standard error

use std::ffi::OsStr;
use std::io::{self, IsTerminal};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::items::label;

/// The variable that says how much is told
pub const VARIABLE: &str = "REJOIN_LOG";

/// Whether how much is told was asked for, so that lines may come at any time
#[must_use]
pub fn wanted() -> bool {
    std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty())
}

/// Starts to write log lines to standard error, of that level unless `REJOIN_LOG` says otherwise
///
/// Colours are for terminals, and not if `NO_COLOR` is set. To be called once, before anything is logged; another call
/// has no effect.
///
/// # Errors
///
/// If `REJOIN_LOG` is no level; the message is for its author.
pub fn init(default_level: LevelFilter) -> Result<(), String> {
    let level = level(std::env::var_os(VARIABLE).as_deref(), default_level)?;
    let colours = colours(io::stderr().is_terminal(), std::env::var_os("NO_COLOR").as_deref());
    // It fails if there is a subscriber already, which then goes on.
    let _ = tracing::subscriber::set_global_default(subscriber(level, colours, io::stderr));
    Ok(())
}

fn subscriber<W>(level: LevelFilter, colours: bool, to: W) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(colours)
        .log_internal_errors(false)
        .with_writer(to)
        .finish()
}

fn level(asked: Option<&OsStr>, default: LevelFilter) -> Result<LevelFilter, String> {
    let Some(asked) = asked.filter(|asked| !asked.is_empty()) else { return Ok(default) };
    match asked.to_str() {
        Some("error") => Ok(LevelFilter::ERROR),
        Some("warn") => Ok(LevelFilter::WARN),
        Some("info") => Ok(LevelFilter::INFO),
        Some("debug") => Ok(LevelFilter::DEBUG),
        Some("trace") => Ok(LevelFilter::TRACE),
        _ => Err(format!("{VARIABLE} is {}: set it to error, warn, info, debug or trace", label(asked))),
    }
}

fn colours(terminal: bool, no_color: Option<&OsStr>) -> bool {
    terminal && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::sync::{Arc, Mutex, PoisonError};

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Written {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: LevelFilter, colours: bool) -> String {
        let written = Written::default();
        let to = written.clone();
        tracing::subscriber::with_default(subscriber(level, colours, move || to.clone()), || {
            tracing::info!(worker = "lab-3", "it came \x1b[2Jback");
            tracing::debug!("in detail");
        });
        written.text()
    }

    #[test]
    fn as_much_is_told_as_was_asked_for() {
        let info = logged(LevelFilter::INFO, false);
        assert!(info.contains(" INFO ") && info.contains("worker=\"lab-3\"") && info.ends_with("\n"), "{info}");
        assert_eq!(info.lines().count(), 1);
        assert_eq!(logged(LevelFilter::DEBUG, false).lines().count(), 2);
        assert_eq!(logged(LevelFilter::WARN, false), "");
    }

    #[test]
    fn colours_are_only_where_they_are_wanted_and_no_text_brings_its_own() {
        assert!(!logged(LevelFilter::INFO, false).contains('\x1b'));
        assert!(logged(LevelFilter::INFO, true).contains('\x1b'));
        assert!(!logged(LevelFilter::INFO, true).contains("\x1b[2J"));
        assert!(colours(true, None) && colours(true, Some(OsStr::new(""))));
        assert!(!colours(true, Some(OsStr::new("1"))) && !colours(false, None));
    }

    #[test]
    fn a_level_is_one_of_five_words() {
        for (word, is) in [
            ("error", LevelFilter::ERROR),
            ("warn", LevelFilter::WARN),
            ("info", LevelFilter::INFO),
            ("debug", LevelFilter::DEBUG),
            ("trace", LevelFilter::TRACE),
            ("", LevelFilter::OFF),
        ] {
            assert_eq!(level(Some(OsStr::new(word)), LevelFilter::OFF), Ok(is));
        }
        assert_eq!(level(None, LevelFilter::WARN), Ok(LevelFilter::WARN));
        for word in ["INFO", "all", "off", "info,smol=debug"] {
            let message = level(Some(OsStr::new(word)), LevelFilter::WARN).unwrap_err();
            assert!(message.starts_with("REJOIN_LOG is \"") && message.contains("set it to error"), "{message}");
        }
    }
}
