//! Where the tasks of a run are done: by workers in this process, or by a fleet that is there already

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rejoin_core::client;
use rejoin_core::coordinator::Event;
use rejoin_core::ids::{TaskId, Token};
use rejoin_core::wire::message::{Failure, Follow, Outcome, Refused, TaskSpec};
use rejoin_smol::client::Told;
use rejoin_smol::coordinator::Notice;
use rejoin_smol::spool::{MEMORY_BYTES_MAX, Spool};
use smol::channel::Receiver;

use crate::audit::Audit;
use crate::caller::Caller;
use crate::fleet::{Fleet, Links};
use crate::views;

/// What happened to a task
pub enum Happened {
    /// It runs
    Running(TaskId),
    /// An attempt failed or was lost; another follows
    Again(TaskId),
    /// It is over
    Ended(Ended),
    /// It will not be done
    Refused(TaskId, Refused),
    /// Nothing that concerns a task
    Nothing,
}

/// How a task ended
pub struct Ended {
    /// Which one
    pub task: TaskId,
    /// How
    pub outcome: Outcome,
    /// The attempt that ended it, from 1; 0 if there was none
    pub attempt: u32,
    /// A sentence on what went wrong, if there is one
    pub message: Vec<u8>,
    /// What it wrote
    pub outputs: [Spool; 2],
}

/// Whoever does the tasks of a run
pub enum Backend {
    /// Workers in this process
    Local(Box<Local>),
    /// A fleet that is there already
    Fleet(Box<Remote>),
}

/// Workers in this process, and their coordinator
pub struct Local {
    fleet: Fleet,
    notices: Receiver<Notice>,
    /// Tasks that had ended before they were submitted again
    ended: VecDeque<rejoin_smol::coordinator::Ended>,
}

/// A fleet, by way of a client
pub struct Remote {
    caller: Caller,
    spool_dir: Arc<Path>,
    /// Output of tasks that are not over, with the attempt it is of
    outputs: BTreeMap<TaskId, (Token, [Spool; 2])>,
    audit: Audit,
}

impl Backend {
    /// Workers in this process
    pub fn local(fleet: Fleet) -> Backend {
        let notices = fleet.server.notices();
        Backend::Local(Box::new(Local { fleet, notices, ended: VecDeque::new() }))
    }

    /// A fleet; output that is too large for memory waits in `spool_dir`
    pub fn fleet(caller: Caller, spool_dir: PathBuf) -> Backend {
        let spool_dir = spool_dir.into();
        Backend::Fleet(Box::new(Remote { caller, spool_dir, outputs: BTreeMap::new(), audit: Audit::default() }))
    }

    /// Has a task done; the same one again is fine
    pub async fn submit(
        &mut self,
        task: TaskId,
        spec: TaskSpec,
        about: Vec<u8>,
        payload: Vec<u8>,
    ) -> Result<(), String> {
        match self {
            Backend::Local(local) => {
                let handle = local.fleet.server.handle();
                let submitted = handle.submit(task, spec, about, payload).await;
                submitted.map_err(|error| format!("the coordinator refused a task: {error}"))?;
                if local.fleet.server.recovered().records > 0 {
                    // Of what has ended in an earlier life nothing more is heard.
                    local.ended.extend(handle.ended(task).await);
                }
                Ok(())
            }
            Backend::Fleet(remote) => {
                remote.audit.submitted += 1;
                let submitted = remote.caller.connection().submit(task, spec, &about, &payload, Follow::Output);
                submitted.map_err(|error| format!("a task cannot be submitted: {error}"))
            }
        }
    }

    /// Asks for tasks to be stopped
    pub async fn cancel(&mut self, tasks: Vec<TaskId>) -> Result<(), String> {
        match self {
            Backend::Local(local) => {
                let cancelled = local.fleet.server.handle().cancel(tasks).await;
                cancelled.map_err(|error| format!("the coordinator cannot stop the tasks: {error}"))
            }
            Backend::Fleet(remote) => {
                for task in tasks {
                    // Of what has ended meanwhile the end is on its way.
                    let _ = remote.caller.connection().cancel(task);
                }
                Ok(())
            }
        }
    }

    /// The outcome of a task was printed, and nobody will ask for it again
    pub async fn forget(&mut self, task: TaskId) -> Result<(), String> {
        match self {
            Backend::Local(local) => {
                let forgotten = local.fleet.server.handle().forget(task).await;
                forgotten.map_err(|error| format!("the coordinator cannot forget a task: {error}"))
            }
            Backend::Fleet(remote) => {
                remote.caller.connection().forget(task);
                Ok(())
            }
        }
    }

    /// Waits for the next thing to happen; may be dropped and called again
    pub async fn next(&mut self) -> Result<Happened, String> {
        match self {
            Backend::Local(local) => local.next().await,
            Backend::Fleet(remote) => remote.next().await,
        }
    }

    /// What the links went through so far
    pub fn links(&mut self) -> Links {
        match self {
            Backend::Local(local) => local.fleet.links(),
            Backend::Fleet(remote) => {
                let away = u64::from(!remote.caller.is_connected());
                let stats = remote.caller.connection().stats();
                Links { reconnections: stats.reconnections, resumed: stats.resumed, disruptions: 0, away }
            }
        }
    }

    /// Whether there has been no coordinator for so long
    pub fn is_away_for(&self, span: Duration) -> bool {
        match self {
            Backend::Local(_) => false,
            Backend::Fleet(remote) => remote.caller.away_for() >= span,
        }
    }

    /// Disturbs the links no more
    pub fn calm(&mut self) {
        if let Backend::Local(local) = self {
            local.fleet.calm();
        }
    }

    /// What became of all tasks, as far as this side can tell
    ///
    /// Of its own workers it reads the journal and the start logs. Of a fleet it knows what it was told.
    pub fn audit(&self) -> io::Result<Audit> {
        match self {
            Backend::Local(local) => local.fleet.audit(),
            Backend::Fleet(remote) => {
                let lost = remote.audit.submitted - remote.audit.applied;
                Ok(Audit { lost, ..remote.audit.clone() })
            }
        }
    }

    /// Ends what is in this process; a fleet goes on
    pub async fn end(self) {
        match self {
            Backend::Local(local) => local.fleet.end().await,
            Backend::Fleet(remote) => remote.caller.leave().await,
        }
    }
}

impl Local {
    async fn next(&mut self) -> Result<Happened, String> {
        if let Some(ended) = self.ended.pop_front() {
            return self.told(ended);
        }
        let Ok(notice) = self.notices.recv().await else {
            let why = self.fleet.server.ended().await.err().map_or_else(String::new, |why| format!(": {why}"));
            return Err(format!("the coordinator has stopped{why}"));
        };
        Ok(match notice {
            Notice::Ended(ended) => return self.told(ended),
            Notice::Event(Event::Running { task, .. }) => Happened::Running(task),
            Notice::Event(Event::Again { task }) => Happened::Again(task),
            // Nobody asks for another key here.
            Notice::KeepKey { .. } => Happened::Nothing,
            Notice::Event(
                Event::Accepted { .. }
                | Event::Ended { .. }
                | Event::Connected { .. }
                | Event::Disconnected { .. }
                | Event::Lost { .. }
                | Event::Drifted { .. }
                | Event::Unknown { .. }
                | Event::Outdated { .. }
                | Event::UnknownKey { .. }
                | Event::KeyUsed { .. }
                | Event::KeyUntold { .. }
                | Event::Stopped,
            ) => Happened::Nothing,
        })
    }
}

impl Local {
    fn told(&self, ended: rejoin_smol::coordinator::Ended) -> Result<Happened, String> {
        let outputs = match ended.token {
            Some(token) => self.fleet.take_output(token).map_err(|error| error.to_string())?,
            None => empty(Path::new("")),
        };
        let (task, outcome, attempt) = (ended.task, ended.outcome, ended.attempt);
        Ok(Happened::Ended(Ended { task, outcome, attempt, message: ended.result, outputs }))
    }
}

impl Remote {
    async fn next(&mut self) -> Result<Happened, String> {
        Ok(match self.caller.next().await.map_err(|failed| failed.to_string())? {
            Told::Piece { task, token, stream, offset, bytes } => {
                let dir = &self.spool_dir;
                let entry = self.outputs.entry(task).or_insert_with(|| (token, empty(dir)));
                if entry.0 != token {
                    *entry = (token, empty(dir));
                }
                let spool = &mut entry.1[stream.index()];
                if spool.len() != offset {
                    return Err(format!("output of task {task} came out of order"));
                }
                spool.append(&bytes).map_err(|error| error.to_string())?;
                Happened::Nothing
            }
            Told::Event(client::Event::Progress { task }) => Happened::Running(task),
            Told::Event(client::Event::Refused { task, reason }) => Happened::Refused(task, reason),
            Told::Event(client::Event::Ended { task }) => self.ended(task),
            Told::Event(client::Event::Forgotten { task }) => self.forgotten(task),
            Told::Event(client::Event::Accepted { .. }) | Told::Answer { .. } => Happened::Nothing,
        })
    }

    /// It is over, and nobody has its output any more: that must not look like a task that wrote nothing
    fn forgotten(&mut self, task: TaskId) -> Happened {
        let outcome = self.caller.connection().end(task).map(|end| end.0);
        let (outcome, message) = match outcome {
            Some(Outcome::Cancelled) => (Outcome::Cancelled, String::new()),
            Some(ended @ (Outcome::Succeeded | Outcome::Failed(_))) => (
                Outcome::Failed(Failure::Error),
                format!("it {}, but its output was forgotten before it was fetched", views::outcome_word(ended)),
            ),
            None => return Happened::Nothing,
        };
        let outputs = empty(&self.spool_dir);
        self.outputs.remove(&task);
        self.end_with(Ended { task, outcome, attempt: 0, message: message.into_bytes(), outputs })
    }

    fn ended(&mut self, task: TaskId) -> Happened {
        let kept = self.outputs.remove(&task);
        let connection = self.caller.connection();
        let (Some((outcome, message, streams)), attempt) = (connection.end(task), connection.attempt(task)) else {
            return Happened::Nothing;
        };
        // Of an attempt that wrote nothing no piece ever came.
        let outputs = match kept {
            Some((_, outputs)) if streams.iter().any(|end| end.len > 0) => outputs,
            Some(_) | None => empty(&self.spool_dir),
        };
        let message = message.to_vec();
        self.end_with(Ended { task, outcome, attempt, message, outputs })
    }

    fn end_with(&mut self, ended: Ended) -> Happened {
        self.audit.applied += 1;
        self.audit.executions += u64::from(ended.attempt);
        *match ended.outcome {
            Outcome::Succeeded => &mut self.audit.succeeded,
            Outcome::Failed(_) => &mut self.audit.failed,
            Outcome::Cancelled => &mut self.audit.cancelled,
        } += 1;
        Happened::Ended(ended)
    }
}

fn empty(dir: &Path) -> [Spool; 2] {
    [0, 1].map(|_| Spool::new(dir, MEMORY_BYTES_MAX))
}
