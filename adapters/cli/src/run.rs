//! `rejoin run`: one task per item, their output, and a summary

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufReader, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use async_signal::{Signal, Signals};
use rejoin_core::coordinator::Event;
use rejoin_core::ids::TaskId;
use rejoin_core::wire::message::{Failure, Outcome, TaskSpec};
use rejoin_smol::clock::entropy;
use rejoin_smol::command::Command;
use rejoin_smol::coordinator::{Ended, Notice};
use rejoin_smol::disrupt::Profile;
use rejoin_smol::spool::Spool;
use smol::channel::Receiver;
use smol::future::FutureExt;
use smol::stream::StreamExt;

use crate::args::{Disrupt, Run};
use crate::descriptors;
use crate::fleet::{Fleet, Plan, claim};
use crate::items::Source;
use crate::printer::{Finished, PrintError, Printer, Progress, Style};
use crate::report::{EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_USAGE, OutputSource, Status, Summary, TaskReport};
use crate::template::Template;

/// Tasks submitted and not yet printed; beyond, items wait
const OPEN_MAX: usize = 4096;

/// Does the job and returns the exit status
pub fn run(options: &Run, command: Vec<OsString>, items: Source) -> u8 {
    let job = Template::new(command).map_err(|error| error.to_string()).and_then(|template| {
        let items = items.load(BufReader::new(io::stdin())).map_err(|error| error.to_string())?;
        // All of them before the first runs: half a job is worse than none.
        items.iter().try_for_each(|item| template.command(item).map(|_| ())).map_err(|error| error.to_string())?;
        Ok((template, items))
    });
    let (template, items) = match job {
        Ok(job) => job,
        Err(message) => {
            complain(&message);
            return EXIT_USAGE;
        }
    };
    match smol::block_on(Job::start(options, template, items)) {
        Ok(job) => smol::block_on(job.finish()),
        Err(error) => {
            complain(&error.to_string());
            EXIT_INTERNAL
        }
    }
}

fn complain(message: &str) {
    // If standard error is gone there is nobody left to tell.
    let _ = writeln!(io::stderr(), "rejoin: {message}");
}

struct Job {
    started: Instant,
    template: Template,
    items: Vec<OsString>,
    spec: TaskSpec,
    timeout: Option<Duration>,
    output_max: u64,
    cwd: Option<PathBuf>,
    run_id: [u8; 8],
    fleet: Fleet,
    notices: Receiver<Notice>,
    signals: Signals,
    printer: Printer<io::Stdout, io::Stderr, Output>,
    /// Items that are submitted and have no outcome yet
    open: BTreeMap<TaskId, Open>,
    next_item: usize,
    progress: Progress,
    interrupted: bool,
    _data: Data,
}

struct Open {
    index: usize,
    running_since: Option<Instant>,
}

/// Where the run's files are; a temporary directory goes with it
enum Data {
    Own { _lock: std::fs::File },
    Temporary { _dir: tempfile::TempDir },
}

struct Output(Spool);

impl OutputSource for Output {
    fn copy_to(&self, to: &mut dyn Write) -> io::Result<()> {
        self.0.copy_to(to)
    }

    fn len(&self) -> u64 {
        self.0.len()
    }
}

/// Why a run stops early
enum Stop {
    /// Nobody reads standard output any more
    Closed,
    /// Something failed
    Failed(String),
    /// Asked for twice
    Now,
}

impl From<PrintError> for Stop {
    fn from(error: PrintError) -> Self {
        match error {
            PrintError::Closed => Stop::Closed,
            PrintError::Write(_) | PrintError::Read(_) => Stop::Failed(error.to_string()),
        }
    }
}

/// What a run wakes up for
enum Wake {
    Notice(Notice),
    CoordinatorGone,
    Signal,
    Tick,
}

impl Job {
    async fn start(options: &Run, template: Template, items: Vec<OsString>) -> io::Result<Job> {
        let started = Instant::now();
        descriptors::provide(options.workers, options.slots)?;
        let (path, data) = match &options.data {
            Some(path) => {
                // A folder of its own, because what is found there is removed.
                let path = path.join("rejoin-run");
                (path.clone(), Data::Own { _lock: claim(&path)? })
            }
            None => {
                let dir = tempfile::Builder::new().prefix("rejoin-").tempdir()?;
                (dir.path().to_path_buf(), Data::Temporary { _dir: dir })
            }
        };
        let plan = Plan {
            workers: options.workers,
            slots: options.slots,
            disrupt: match options.disrupt {
                Disrupt::None => None,
                Disrupt::Cuts => Some(Profile::Cuts),
                Disrupt::Storm => Some(Profile::Storm),
            },
            seed: match options.seed {
                Some(seed) => seed,
                None => u64::from_le_bytes(entropy()?),
            },
            output_max: options.output_max,
            tasks_open_max: OPEN_MAX,
        };
        let fleet = Fleet::start(&plan, &path).await?;
        let progress = Progress { total: items.len() as u64, ..Progress::default() };
        Ok(Job {
            started,
            template,
            items,
            spec: TaskSpec { priority: 2, retries: options.retries },
            timeout: options.timeout,
            output_max: options.output_max,
            cwd: std::env::current_dir().ok(),
            run_id: entropy()?,
            notices: fleet.server.notices(),
            fleet,
            signals: Signals::new([Signal::Int, Signal::Term, Signal::Hup])?,
            printer: Printer::new(
                io::stdout(),
                io::stderr(),
                Style { keep_order: options.keep_order, json: options.json },
            ),
            open: BTreeMap::new(),
            next_item: 0,
            progress,
            interrupted: false,
            _data: data,
        })
    }

    async fn finish(mut self) -> u8 {
        let Err(stop) = self.work().await else { return self.conclude() };
        self.fleet.end().await;
        match stop {
            Stop::Closed | Stop::Now => EXIT_INTERRUPTED,
            Stop::Failed(message) => {
                complain(&message);
                EXIT_INTERNAL
            }
        }
    }

    fn conclude(mut self) -> u8 {
        self.fleet.calm();
        let links = self.fleet.links();
        let audit = match self.fleet.audit() {
            Ok(audit) => audit,
            Err(error) => {
                complain(&format!("cannot read the start logs, so that nothing can be said of this run: {error}"));
                return EXIT_INTERNAL;
            }
        };
        let summary = Summary {
            submitted: audit.submitted,
            succeeded: audit.succeeded,
            failed: audit.failed,
            cancelled: audit.cancelled,
            applied: audit.applied,
            lost: audit.lost,
            duplicated: audit.duplicated,
            executions: audit.executions,
            reconnections: links.reconnections,
            resumed: links.resumed,
            disruptions: links.disruptions,
            wall_ms: millis(self.started.elapsed()),
        };
        let status = summary.exit_status(self.interrupted);
        for anomaly in &audit.anomalies {
            complain(anomaly);
        }
        match self.printer.finish(&summary) {
            Ok(()) if !audit.is_clean() => EXIT_INTERNAL,
            Ok(()) => status,
            Err(PrintError::Closed) => EXIT_INTERRUPTED,
            Err(error) => {
                complain(&error.to_string());
                EXIT_INTERNAL
            }
        }
    }

    /// Submits, listens and prints until every item has its outcome
    async fn work(&mut self) -> Result<(), Stop> {
        loop {
            while self.next_item < self.items.len() && self.open.len() < OPEN_MAX && !self.interrupted {
                self.submit().await?;
            }
            if self.open.is_empty() && (self.next_item == self.items.len() || self.interrupted) {
                return Ok(());
            }
            match self.next_wake().await {
                Wake::Notice(Notice::Ended(ended)) => self.ended(ended).await?,
                Wake::Notice(Notice::Event(event)) => self.happened(event),
                Wake::CoordinatorGone => {
                    let why = self.fleet.server.ended().await.err().map_or_else(String::new, |why| format!(": {why}"));
                    return Err(Stop::Failed(format!("the coordinator has stopped{why}")));
                }
                Wake::Signal => self.interrupt().await?,
                Wake::Tick => {}
            }
            self.show_progress()?;
        }
    }

    async fn submit(&mut self) -> Result<(), Stop> {
        let index = self.next_item;
        let argv = self.template.command(&self.items[index]).map_err(|error| Stop::Failed(error.to_string()))?;
        let command = Command { argv, cwd: self.cwd.clone(), timeout: self.timeout, output_bytes_max: self.output_max };
        let task = self.task_id(index);
        let submitted = self.fleet.server.handle().submit(task, self.spec, command.encode()).await;
        submitted.map_err(|error| Stop::Failed(format!("the coordinator refused task {}: {error}", index + 1)))?;
        self.open.insert(task, Open { index, running_since: None });
        self.next_item += 1;
        Ok(())
    }

    /// Equal items are separate tasks, so that the position is part of the name
    fn task_id(&self, index: usize) -> TaskId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.run_id);
        id[8..].copy_from_slice(&(index as u64).to_be_bytes());
        TaskId(id)
    }

    async fn next_wake(&mut self) -> Wake {
        let notice = async {
            match self.notices.recv().await {
                Ok(notice) => Wake::Notice(notice),
                Err(_) => Wake::CoordinatorGone,
            }
        };
        let signal = async {
            match self.signals.next().await {
                Some(_) => Wake::Signal,
                None => smol::future::pending().await,
            }
        };
        let tick = async {
            smol::Timer::after(Duration::from_millis(250)).await;
            Wake::Tick
        };
        signal.or(notice).or(tick).await
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Running { task, .. } => {
                if let Some(open) = self.open.get_mut(&task) {
                    self.progress.running += u64::from(open.running_since.is_none());
                    open.running_since = Some(Instant::now());
                }
            }
            Event::Again { task } => {
                if let Some(open) = self.open.get_mut(&task) {
                    self.progress.running -= u64::from(open.running_since.take().is_some());
                }
            }
            Event::Accepted { .. }
            | Event::Ended { .. }
            | Event::Connected { .. }
            | Event::Disconnected { .. }
            | Event::Lost { .. }
            | Event::Stopped => {}
        }
    }

    async fn ended(&mut self, ended: Ended) -> Result<(), Stop> {
        let Some(open) = self.open.remove(&ended.task) else { return Ok(()) };
        self.progress.done += 1;
        self.progress.running -= u64::from(open.running_since.is_some());
        self.progress.failed += u64::from(matches!(ended.outcome, Outcome::Failed(_)));
        let wall_ms = open.running_since.map_or(0, |since| millis(since.elapsed()));
        let report = report(self.items[open.index].clone(), &ended, wall_ms);
        let [stdout, stderr] = match ended.token {
            Some(token) => self.fleet.outputs.take(token).map(Output),
            None => [0, 1].map(|_| Output(Spool::new(PathBuf::new(), 0))),
        };
        self.printer.finished(open.index, Finished { report, stdout, stderr })?;
        let forgotten = self.fleet.server.handle().forget(ended.task).await;
        forgotten.map_err(|error| Stop::Failed(format!("the coordinator cannot forget a task: {error}")))
    }

    /// Once: stop what runs and print what there is; twice: go at once
    async fn interrupt(&mut self) -> Result<(), Stop> {
        if self.interrupted {
            return Err(Stop::Now);
        }
        self.interrupted = true;
        self.fleet.calm();
        complain("interrupted: stopping the tasks that run; interrupt again to leave at once");
        let open = self.open.keys().copied().collect();
        let cancelled = self.fleet.server.handle().cancel(open).await;
        cancelled.map_err(|error| Stop::Failed(format!("the coordinator cannot stop the tasks: {error}")))
    }

    fn show_progress(&mut self) -> Result<(), Stop> {
        self.progress.reconnecting = self.fleet.links().away;
        Ok(self.printer.progress(self.started.elapsed(), self.progress)?)
    }
}

fn report(item: OsString, ended: &Ended, wall_ms: u64) -> TaskReport {
    let (mut exit_code, mut signal, mut error) = (None, None, None);
    let message = || String::from_utf8_lossy(&ended.result).into_owned();
    let status = match ended.outcome {
        Outcome::Succeeded => {
            exit_code = Some(0);
            Status::Succeeded
        }
        Outcome::Cancelled => Status::Cancelled,
        Outcome::Failed(failure) => {
            match failure {
                Failure::Exit(code) => exit_code = Some(code),
                Failure::Signal(number) => signal = Some(number),
                Failure::TimedOut => error = Some("ran longer than --timeout allows".into()),
                Failure::CannotStart | Failure::Error => error = Some(message()),
                Failure::OutputTooLarge => {
                    error = Some("output too large: it wrote more than --output-max allows".into());
                }
                Failure::ResultTooLarge => error = Some("its result is too large".into()),
                Failure::Poisonous => error = Some("its worker crashed each time it ran".into()),
                Failure::WorkerLost => error = Some("its workers were lost too often".into()),
            }
            Status::Failed
        }
    };
    TaskReport { item, status, exit_code, signal, attempt: ended.attempt, error, wall_ms }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
