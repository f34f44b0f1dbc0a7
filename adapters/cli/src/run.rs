//! `rejoin run`: one task per item, their output, and a summary

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_signal::{Signal, Signals};
use rejoin_core::about::{About, Tags};
use rejoin_core::ids::TaskId;
use rejoin_core::terms::Terms;
use rejoin_core::wire::message::{Outcome, TaskSpec};
use rejoin_smol::chaos::Profile;
use rejoin_smol::clock::entropy;
use rejoin_smol::command::Command;
use rejoin_smol::spool::Spool;
use smol::future::FutureExt;
use smol::stream::StreamExt;

use crate::args::{Disrupt, Reach, Run};
use crate::ask::refusal;
use crate::backend::{Backend, Ended, Happened};
use crate::bar::Bar;
use crate::caller::{Caller, Failed};
use crate::descriptors;
use crate::fleet::{Fleet, Keep, Plan, claim};
use crate::items::Source;
use crate::printer::{Finished, PrintError, Printer, Progress, Style};
use crate::report::{EXIT_INTERNAL, EXIT_INTERRUPTED, EXIT_USAGE, OutputSource, Status, Summary, TaskReport};
use crate::resume::{History, ItemId};
use crate::say::complain;
use crate::submit::title;
use crate::template::Template;
use crate::views;

/// How long a run that was interrupted waits for a coordinator that is away
const AWAY_MAX: Duration = Duration::from_secs(5);
/// Tasks submitted and not yet printed; beyond, items wait
const OPEN_MAX: usize = 4096;

/// Does the job, here or on a fleet, and returns the exit status
pub fn run(options: &Run, about: (Tags, Terms), fleet: Option<Reach>, command: Vec<OsString>, items: Source) -> u8 {
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
    match smol::block_on(Job::start(options, about, fleet, template, items)) {
        Ok(job) => smol::block_on(job.finish()),
        Err(failed) => {
            complain(&failed.to_string());
            failed.status()
        }
    }
}

struct Job {
    started: Instant,
    template: Template,
    items: Vec<OsString>,
    spec: TaskSpec,
    needs: Tags,
    terms: Terms,
    /// What people call the run
    name: Option<String>,
    timeout: Option<Duration>,
    output_max: u64,
    cwd: Option<PathBuf>,
    history: History,
    resumed: bool,
    backend: Backend,
    signals: Signals,
    printer: Printer<io::Stdout, io::Stderr, Output>,
    /// Items that are submitted and have no outcome yet
    open: BTreeMap<TaskId, Open>,
    next_item: usize,
    progress: Progress,
    /// How items have ended, those of earlier runs that this one continues included
    ends: [u64; 3],
    interrupted: bool,
    _data: Data,
}

#[derive(Clone, Copy)]
struct Open {
    index: usize,
    item: ItemId,
    /// Counts the times that a cancelled task is done again
    round: u32,
    running_since: Option<Instant>,
}

/// Where the run's files are; a temporary directory goes with it
enum Data {
    Own { _lock: std::fs::File },
    Temporary { _dir: tempfile::TempDir },
}

/// What a task wrote, if that is to be printed
struct Output(Option<Spool>);

impl OutputSource for Output {
    fn copy_to(&self, to: &mut dyn Write) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |spool| spool.copy_to(to))
    }

    fn len(&self) -> u64 {
        self.0.as_ref().map_or(0, Spool::len)
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
    Happened(Result<Happened, String>),
    Signal,
    Tick,
}

impl Job {
    async fn start(
        options: &Run,
        (needs, terms): (Tags, Terms),
        fleet: Option<Reach>,
        template: Template,
        items: Vec<OsString>,
    ) -> Result<Job, Failed> {
        let started = Instant::now();
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
        let kept = if options.resume { History::resume(&path)? } else { None };
        if options.resume && kept.is_none() {
            complain(&format!("{}: there is no run to go on with; this one begins", path.display()));
        }
        let resumed = kept.is_some();
        let history = match kept {
            Some(history) => history,
            None if options.data.is_some() => History::begin(&path)?,
            None => History::none()?,
        };
        let backend = Self::backend(options, fleet, &path, resumed).await?;
        let progress = Progress { total: items.len() as u64, ..Progress::default() };
        Ok(Job {
            started,
            template,
            items,
            spec: TaskSpec { priority: options.priority, retries: options.retries },
            needs,
            terms,
            name: options.name.clone(),
            timeout: options.timeout,
            output_max: options.output_max,
            cwd: std::env::current_dir().ok(),
            history,
            resumed,
            backend,
            signals: Signals::new([Signal::Int, Signal::Term, Signal::Hup])?,
            printer: Printer::new(
                io::stdout(),
                io::stderr(),
                Style { keep_order: options.keep_order, json: options.json },
            )
            .with_bar(Bar::on_stderr()),
            open: BTreeMap::new(),
            next_item: 0,
            progress,
            ends: [0; 3],
            interrupted: false,
            _data: data,
        })
    }

    /// Workers in this process, or the fleet that was named
    async fn backend(options: &Run, fleet: Option<Reach>, path: &Path, resumed: bool) -> Result<Backend, Failed> {
        if let Some(reach) = fleet {
            let spool_dir = path.join("spool");
            std::fs::create_dir_all(&spool_dir)?;
            return Ok(Backend::fleet(Caller::new(&reach, true)?, spool_dir));
        }
        descriptors::provide(options.workers, options.slots)?;
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
            keep: if options.data.is_none() {
                Keep::Nothing
            } else if resumed {
                Keep::GoOn
            } else {
                Keep::Anew
            },
        };
        Ok(Backend::local(Fleet::start(&plan, path).await?))
    }

    async fn finish(mut self) -> u8 {
        let worked = self.work().await;
        self.printer.end_bar();
        let status = match worked {
            Ok(()) => self.conclude(),
            Err(Stop::Closed | Stop::Now) => EXIT_INTERRUPTED,
            Err(Stop::Failed(message)) => {
                complain(&message);
                EXIT_INTERNAL
            }
        };
        self.backend.end().await;
        status
    }

    fn conclude(&mut self) -> u8 {
        self.backend.calm();
        let links = self.backend.links();
        let mut audit = match self.backend.audit() {
            Ok(audit) => audit,
            Err(error) => {
                complain(&format!("cannot read the start logs, so that nothing can be said of this run: {error}"));
                return EXIT_INTERNAL;
            }
        };
        let [succeeded, failed, cancelled] = self.ends;
        if !self.resumed && (audit.succeeded, audit.failed, audit.cancelled) != (succeeded, failed, cancelled) {
            audit.anomalies.push("the audit counts other ends of tasks than were printed".into());
        }
        let summary = Summary {
            submitted: self.next_item as u64,
            succeeded,
            failed,
            cancelled,
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
        let printed = self.printer.finish(&summary);
        if self.interrupted && self.history.is_kept() {
            complain("the same command with --resume does what is missing");
        }
        match printed {
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
                self.submit_next().await?;
            }
            if self.open.is_empty() && (self.next_item == self.items.len() || self.interrupted) {
                return Ok(());
            }
            match self.next_wake().await {
                Wake::Happened(happened) => self.happened(happened.map_err(Stop::Failed)?).await?,
                Wake::Signal => self.interrupt().await?,
                Wake::Tick => {}
            }
            if self.interrupted && self.backend.is_away_for(AWAY_MAX) {
                let _ = self.printer.note("there is no coordinator to stop the tasks: they may go on there");
                return Err(Stop::Now);
            }
            self.show_progress()?;
        }
    }

    async fn submit_next(&mut self) -> Result<(), Stop> {
        let index = self.next_item;
        self.next_item += 1;
        let argv = self.template.command(&self.items[index]).map_err(|error| Stop::Failed(error.to_string()))?;
        let item = self.history.name(&argv);
        if let Some(status) = self.history.done(item) {
            self.count(status);
            return Ok(self.printer.skip(index)?);
        }
        self.submit(argv, Open { index, item, round: 0, running_since: None }).await
    }

    async fn submit(&mut self, argv: Vec<OsString>, open: Open) -> Result<(), Stop> {
        let title = title(self.name.as_deref(), &argv);
        let command = Command { argv, cwd: self.cwd.clone(), timeout: self.timeout, output_bytes_max: self.output_max };
        let about = About { title, needs: self.needs.clone(), terms: self.terms }
            .encode()
            .map_err(|error| Stop::Failed(error.to_string()))?;
        let task = self.history.task(open.item, open.round);
        self.backend.submit(task, self.spec, about, command.encode()).await.map_err(Stop::Failed)?;
        self.open.insert(task, open);
        Ok(())
    }

    async fn next_wake(&mut self) -> Wake {
        let happened = async { Wake::Happened(self.backend.next().await) };
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
        signal.or(happened).or(tick).await
    }

    async fn happened(&mut self, happened: Happened) -> Result<(), Stop> {
        match happened {
            Happened::Running(task) => {
                if let Some(open) = self.open.get_mut(&task) {
                    self.progress.running += u64::from(open.running_since.is_none());
                    open.running_since = Some(Instant::now());
                }
            }
            Happened::Again(task) => {
                if let Some(open) = self.open.get_mut(&task) {
                    self.progress.running -= u64::from(open.running_since.take().is_some());
                }
            }
            Happened::Ended(ended) => self.ended(ended).await?,
            Happened::Refused(task, reason) => return Err(Stop::Failed(refusal(task, reason))),
            Happened::Nothing => {}
        }
        Ok(())
    }

    async fn ended(&mut self, ended: Ended) -> Result<(), Stop> {
        let Some(open) = self.open.remove(&ended.task) else { return Ok(()) };
        self.progress.running -= u64::from(open.running_since.is_some());
        let cancelled_before = self.resumed && open.running_since.is_none() && !self.interrupted;
        if ended.outcome == Outcome::Cancelled && cancelled_before {
            // With the run that this one continues: here it has not run.
            let argv =
                self.template.command(&self.items[open.index]).map_err(|error| Stop::Failed(error.to_string()))?;
            return self.submit(argv, Open { round: open.round + 1, running_since: None, ..open }).await;
        }
        let wall_ms = open.running_since.map_or(0, |since| millis(since.elapsed()));
        let report = report(self.items[open.index].clone(), &ended, wall_ms);
        let (task, status) = (ended.task, report.status);
        self.count(status);
        // What a run leaves that can be continued is printed when it is done.
        let whole = status != Status::Cancelled || !self.history.is_kept();
        let [stdout, stderr] = ended.outputs.map(|spool| Output(Some(spool).filter(|_| whole)));
        self.printer.finished(open.index, Finished { report, stdout, stderr })?;
        if status != Status::Cancelled {
            self.history.note(open.item, status).map_err(|error| Stop::Failed(error.to_string()))?;
            self.backend.forget(task).await.map_err(Stop::Failed)?;
        }
        Ok(())
    }

    fn count(&mut self, status: Status) {
        self.progress.done += 1;
        self.progress.failed += u64::from(status == Status::Failed);
        self.ends[match status {
            Status::Succeeded => 0,
            Status::Failed => 1,
            Status::Cancelled => 2,
        }] += 1;
    }

    /// Once: stop what runs and print what there is; twice: go at once
    async fn interrupt(&mut self) -> Result<(), Stop> {
        if self.interrupted {
            return Err(Stop::Now);
        }
        self.interrupted = true;
        self.backend.calm();
        // If standard error is gone there is nobody left to tell, and the tasks are to be stopped all the same.
        let _ = self.printer.note("interrupted: stopping the tasks that run; interrupt again to leave at once");
        let open = self.open.keys().copied().collect();
        self.backend.cancel(open).await.map_err(Stop::Failed)
    }

    fn show_progress(&mut self) -> Result<(), Stop> {
        self.progress.reconnecting = self.backend.links().away;
        Ok(self.printer.progress(self.started.elapsed(), self.progress)?)
    }
}

fn report(item: OsString, ended: &Ended, wall_ms: u64) -> TaskReport {
    let (exit_code, signal, error) = views::failure(ended.outcome, &ended.message);
    let status = match ended.outcome {
        Outcome::Succeeded => Status::Succeeded,
        Outcome::Failed(_) => Status::Failed,
        Outcome::Cancelled => Status::Cancelled,
    };
    TaskReport { item, status, exit_code, signal, attempt: ended.attempt, error, wall_ms }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
