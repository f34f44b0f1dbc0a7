//! The options that say what may happen to a task when its worker is out of reach (TASK-4, TASK-5, LIVE-4)

use std::time::Duration;

use clap::Args;
use clap::error::ErrorKind;
use rejoin_core::terms::{Class, OnReturn, Replace, Span, Terms};

use crate::args::usage;
use crate::args::values::duration;

/// What may happen to a task when its worker is out of reach
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub(super) struct TermsOptions {
    /// What executing a task twice would do: pure, idempotent or exclusive
    ///
    /// pure        nothing, so that it goes to another worker soon
    /// idempotent  no harm
    /// exclusive   harm, if both happen at a time: it runs under a lease of its
    ///             worker, and goes to another one only when that has ended
    #[arg(long, value_name = "CLASS", verbatim_doc_comment, default_value = "idempotent", value_parser = class,
          hide_default_value = true)]
    class: Class,

    /// A worker that is away for D is lost for the task; by default the coordinator says when
    #[arg(long, value_name = "D", value_parser = duration)]
    lost_after: Option<Duration>,

    /// When another worker gets it: never, when-lost (the default), or D after its worker went
    #[arg(long, value_name = "WHEN", default_value = "when-lost", value_parser = replace, hide_default_value = true)]
    replace: Replace,

    /// What becomes of a task that another worker has got, and whose first worker is back
    ///
    /// first-result      both go on, and what ends first counts (the default)
    /// keep-replacement  the first one is stopped, unless it has ended already
    #[arg(long, value_name = "WHAT", verbatim_doc_comment, default_value = "first-result", value_parser = on_return,
          hide_default_value = true)]
    on_return: OnReturn,

    /// A worker that is cut off for D, and not frozen itself, stops the task
    #[arg(long, value_name = "D", value_parser = duration)]
    self_stop_after: Option<Duration>,

    /// Stop a task that writes nothing and makes no checkpoint for D; it has failed
    #[arg(long, value_name = "D", value_parser = duration)]
    progress_timeout: Option<Duration>,
}

impl TermsOptions {
    /// All of them together
    ///
    /// # Errors
    ///
    /// A usage error if they contradict each other.
    pub(super) fn terms(&self, command: &str) -> Result<Terms, clap::Error> {
        let span = |of: Option<Duration>| of.and_then(|of| Span::try_from(of).ok());
        let terms = Terms {
            class: self.class,
            lost_after: span(self.lost_after),
            replace: self.replace,
            on_return: self.on_return,
            self_stop_after: span(self.self_stop_after),
            progress_timeout: span(self.progress_timeout),
        };
        let bad = |bad| usage(command, ErrorKind::ArgumentConflict, &format!("{bad}"));
        terms.validate().map_err(bad)?;
        Ok(terms)
    }
}

fn class(text: &str) -> Result<Class, String> {
    match text {
        "pure" => Ok(Class::Pure),
        "idempotent" => Ok(Class::Idempotent),
        "exclusive" => Ok(Class::Exclusive),
        _ => Err("expected pure, idempotent or exclusive".into()),
    }
}

fn replace(text: &str) -> Result<Replace, String> {
    match text {
        "never" => Ok(Replace::Never),
        "when-lost" => Ok(Replace::WhenLost),
        _ => {
            let after = duration(text).map_err(|why| format!("expected never, when-lost or a time: {why}"))?;
            Span::try_from(after).map(Replace::After).map_err(|bad| bad.to_string())
        }
    }
}

fn on_return(text: &str) -> Result<OnReturn, String> {
    match text {
        "first-result" => Ok(OnReturn::FirstResult),
        "keep-replacement" => Ok(OnReturn::KeepReplacement),
        _ => Err("expected first-result or keep-replacement".into()),
    }
}
