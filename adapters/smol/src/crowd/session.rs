//! One worker of a crowd

use std::convert::Infallible;
use std::io::{self, Write};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use rejoin_core::ids::{TaskId, Token};
use rejoin_core::link::{LinkState, Reason};
use rejoin_core::wire::message::{Failure, Outcome};
use rejoin_core::worker::{Config, Input, Output, Worker};
use rejoin_core::{Instant, Loss};
use smol::channel::Receiver;
use smol::future::FutureExt;

use super::law::{Kind, Row};
use super::tally::{Second, Tally};
use super::{PRETEND, Shared};
use crate::clock::{entropy, seed};
use crate::command::Command;
use crate::journal::lock;
use crate::line::{Line, LineEvent};
use crate::url::Endpoint;

/// Events taken in between two drains
const BATCH: usize = 16;
/// Longest time that a task may pretend to take
const PRETEND_MAX: Duration = Duration::from_secs(24 * 3600);

/// What becomes of a task that is a command
const NO_COMMANDS: &[u8] =
    b"given to a worker of `rejoin crowd`, which runs no commands: have it --need something that \
    only real workers offer, or give the crowd a coordinator of its own";

pub(super) struct Session {
    shared: Arc<Shared>,
    orders: Receiver<Infallible>,
    worker: Worker,
    line: Line,
    /// What pretends to run
    tasks: Vec<Task>,
    now: Instant,
    state: LinkState,
    leaving: bool,
    row: Row,
    /// Since when it is without a connection that it had
    away_since: Option<Instant>,
    /// The loss behind which no dial has come yet, and its step
    lost: Option<(Instant, usize, Kind)>,
    /// When the next dial is due
    due: Option<Instant>,
    /// Who ended the connection, as far as is known while an event is taken in
    kind: Option<Kind>,
    /// The machine has ended a connection, in vain or not, and has not said why yet
    unexplained: Option<bool>,
    /// Sessions that went on, when it was last welcomed
    resumed: u64,
    /// Dials, when it was last looked at
    dials: u64,
}

/// A task that pretends to run
struct Task {
    until: Instant,
    token: Token,
    /// What is written down of it
    line: String,
}

/// What it wakes up for
enum Event {
    Line(LineEvent),
    Leave,
    Time,
}

impl Session {
    /// A worker that has not dialled yet
    pub(super) fn new(shared: Arc<Shared>, config: Config, endpoint: Endpoint, orders: Receiver<Infallible>) -> Self {
        let now = shared.clock.now();
        let line = Line::new(vec![endpoint], config.link.handshake_time).trusting(shared.trust.clone());
        // The settings are the crowd's own, and without randomness nothing would have come this far.
        let worker = Worker::new(config, seed().expect("there was randomness"), now).expect("legal settings");
        Session {
            shared,
            orders,
            worker,
            line,
            tasks: Vec::new(),
            now,
            state: LinkState::Waiting,
            leaving: false,
            row: Row::default(),
            away_since: None,
            lost: None,
            due: None,
            kind: None,
            unexplained: None,
            resumed: 0,
            dials: 0,
        }
    }

    /// Works until it is to leave, or refused for good
    pub(super) async fn run(mut self) {
        loop {
            let wake_at = self.act();
            if self.worker.stopped().is_some() || (self.leaving && !is_up(self.state)) {
                break;
            }
            let event = self.next(wake_at).await;
            self.take(event);
            for _ in 1..BATCH {
                let Some(event) = self.line.try_next() else { break };
                self.take(Event::Line(event));
            }
        }
        if !self.leaving {
            self.tally().refused += 1;
        }
        self.line.finish().await;
    }

    async fn next(&mut self, wake_at: Option<Instant>) -> Event {
        let (clock, leaving) = (self.shared.clock, self.leaving);
        let task_ends = self.tasks.iter().map(|task| task.until).min();
        let wake_at = wake_at.into_iter().chain(task_ends).min();
        let line = async { Event::Line(self.line.next().await) };
        let time = async {
            match wake_at {
                Some(at) => clock.sleep_until(at).await,
                None => smol::future::pending().await,
            }
            Event::Time
        };
        let orders = async {
            if leaving {
                return smol::future::pending().await;
            }
            // Nothing is ever sent: the end of the channel is the order.
            let _ = self.orders.recv().await;
            Event::Leave
        };
        line.or(orders).or(time).await
    }

    fn take(&mut self, event: Event) {
        self.kind = None;
        match event {
            Event::Line(LineEvent::Connected { attempt, binding }) => {
                // A dial that gets no randomness comes to nothing, and times out.
                if let Ok(entropy) = entropy() {
                    self.tell(Input::Connected { attempt, entropy, binding });
                }
            }
            Event::Line(LineEvent::Message { attempt, bytes }) => self.tell(Input::Received { attempt, bytes: &bytes }),
            Event::Line(LineEvent::Disconnected { attempt, loss }) => {
                self.kind = Some(match loss {
                    Loss::Peer => Kind::Peer,
                    Loss::Local => Kind::Local,
                    Loss::Busy { retry_after } => Kind::Busy(Some(retry_after)),
                });
                self.tell(Input::Disconnected { attempt, loss });
            }
            Event::Line(LineEvent::Writable { attempt }) => self.tell(Input::Writable { attempt, writable: true }),
            Event::Leave => {
                self.leaving = true;
                self.tell(Input::Leave);
            }
            Event::Time => {
                if let Some(attempt) = self.line.arriving() {
                    self.tell(Input::Arriving { attempt });
                }
                self.tell(Input::Timeout);
                self.finish_tasks();
            }
        }
    }

    /// Tells the machine, and notes what became of the connection
    fn tell(&mut self, input: Input<'_>) {
        self.now = self.shared.clock.now().max(self.now);
        if let Err(rejected) = self.worker.handle(self.now, input) {
            tracing::debug!(%rejected, "too late");
        }
        self.look();
    }

    /// Does what the machine asks for, until it asks for nothing
    fn act(&mut self) -> Option<Instant> {
        let shared = self.shared.clone();
        // No other session is in here meanwhile: none of this waits.
        let mut frame = lock(&shared.frame);
        let wake_at = loop {
            match self.worker.poll(&mut frame) {
                Output::Connect { attempt, endpoint } => {
                    self.dials();
                    self.line.connect(attempt, endpoint);
                }
                Output::Disconnect { reason, .. } => {
                    self.gave_up(reason);
                    self.line.disconnect(reason);
                }
                Output::Send { bytes } => {
                    if let Some(attempt) = self.line.send(bytes) {
                        self.tell(Input::Writable { attempt, writable: false });
                    }
                }
                Output::Run { task, token, attempt } => self.start(task, token, attempt),
                Output::Cancel { token, .. } => {
                    if self.drop_task(token) {
                        self.finish(token, Outcome::Cancelled, b"");
                    }
                }
                // It has no place to keep anything.
                Output::KeepKey => self.tell(Input::KeyKept { kept: false }),
                // Its tasks print nothing, return nothing, and know no checkpoints.
                Output::ReadOutput { .. }
                | Output::ReadCheckpoint { .. }
                | Output::RestorePiece { .. }
                | Output::Checkpointed { .. }
                | Output::WantCheckpoint { .. }
                | Output::Freeze { .. }
                | Output::Thaw { .. }
                | Output::Keep { .. }
                | Output::Forget { .. } => {}
                Output::Idle { wake_at } => break wake_at,
            }
        };
        self.look();
        if self.lost.is_some() {
            self.due = wake_at;
        }
        wake_at
    }

    // Its tasks.

    fn start(&mut self, task: TaskId, token: Token, attempt: u32) {
        let command = self.worker.payload(token).and_then(Command::decode);
        let Some(takes) = command.as_ref().and_then(pretends) else {
            return self.finish(token, Outcome::Failed(Failure::CannotStart), NO_COMMANDS);
        };
        let line = format!("{task} {:016x} {attempt:08x}", token.0);
        if let Err(error) = self.log(&line, "\n") {
            return self.finish(token, Outcome::Failed(Failure::CannotStart), error.to_string().as_bytes());
        }
        self.second(|second| second.started += 1);
        self.tell(Input::Started { token });
        self.tasks.push(Task { until: self.now + takes, token, line });
        self.finish_tasks();
    }

    /// One write for one line, so that a killed crowd leaves whole lines only
    fn log(&self, line: &str, ending: &str) -> io::Result<()> {
        let Some(log) = &self.shared.log else { return Ok(()) };
        lock(log).write_all([line, ending].concat().as_bytes())
    }

    fn finish_tasks(&mut self) {
        let now = self.now;
        while let Some(at) = self.tasks.iter().position(|task| task.until <= now) {
            let Task { token, line, .. } = self.tasks.swap_remove(at);
            match self.log(&line, " end\n") {
                Ok(()) => self.finish(token, Outcome::Succeeded, b""),
                Err(error) => self.finish(token, Outcome::Failed(Failure::Error), error.to_string().as_bytes()),
            }
        }
    }

    /// Whether the task was running
    fn drop_task(&mut self, token: Token) -> bool {
        let at = self.tasks.iter().position(|task| task.token == token);
        at.map(|at| self.tasks.swap_remove(at)).is_some()
    }

    fn finish(&mut self, token: Token, outcome: Outcome, result: &[u8]) {
        self.second(|second| second.finished += 1);
        self.tell(Input::Finished { token, outcome, result });
    }

    // What is noted.

    fn tally(&self) -> MutexGuard<'_, Tally> {
        lock(&self.shared.tally)
    }

    fn second(&self, note: impl FnOnce(&mut Second)) {
        let age = self.now.since(Instant::ZERO);
        note(self.tally().at(age));
    }

    /// Whether the connection has come or gone since it was last looked at
    fn look(&mut self) {
        let (before, state) = (self.state, self.worker.state());
        self.state = state;
        if !is_up(before) && is_up(state) {
            self.welcomed();
        } else if is_up(before) && !is_up(state) {
            self.away_since = Some(self.now);
            self.tally().connected -= 1;
            self.second(|second| second.lost += 1);
        }
        // A dial that is due at once begins before anybody could see that there was no connection.
        let dials = self.worker.stats().dials;
        let redialled = dials > std::mem::replace(&mut self.dials, dials);
        let ended =
            !matches!(before, LinkState::Waiting | LinkState::Stopped) && (state == LinkState::Waiting || redialled);
        match self.kind {
            Some(kind) if ended => self.ended(kind, !is_up(before)),
            None if ended => self.unexplained = Some(!is_up(before)),
            Some(_) | None => {}
        }
    }

    fn welcomed(&mut self) {
        let (now, away) = (self.now, self.away_since.take());
        self.row.welcomed(now.since(Instant::ZERO));
        let stats = self.worker.stats();
        let resumed = stats.resumed > std::mem::replace(&mut self.resumed, stats.resumed);
        let mut tally = self.tally();
        tally.connected += 1;
        tally.at(now.since(Instant::ZERO)).welcomed += 1;
        tally.seen += usize::from(stats.resumed + stats.opened == 1);
        *(if resumed { &mut tally.resumed } else { &mut tally.opened }) += 1;
        if let Some(away) = away {
            tally.returned(now.since(away));
        }
    }

    /// A connection or a dial has ended
    fn ended(&mut self, kind: Kind, in_vain: bool) {
        let step = self.row.lost(self.now.since(Instant::ZERO));
        self.lost = step.filter(|_| !self.worker.is_slow()).map(|step| (self.now, step, kind));
        self.due = None;
        if in_vain {
            let trouble = self.line.trouble().map(str::to_owned);
            self.second(|second| match kind {
                Kind::Busy(_) => second.turned_away += 1,
                Kind::Peer | Kind::Local => second.failed += 1,
            });
            if let Some(trouble) = trouble.filter(|_| !matches!(kind, Kind::Busy(_))) {
                self.tally().trouble(&trouble);
            }
        }
    }

    /// The machine has given a connection up by itself
    fn gave_up(&mut self, reason: Reason) {
        self.kind = match reason {
            Reason::RetryAfter => Some(Kind::Busy(None)),
            // These are no losses: whoever was sent away comes at the time that was named (BACK-3).
            Reason::GoingAway | Reason::Rekeyed | Reason::Left => None,
            Reason::Denied(_) | Reason::OldCoordinator { .. } | Reason::OtherCluster { .. } => Some(Kind::Busy(None)),
            Reason::Silence
            | Reason::Timeout
            | Reason::NotAuthenticated
            | Reason::BadTag
            | Reason::Protocol
            | Reason::Rejected
            | Reason::Version
            | Reason::Unbound
            | Reason::Audience
            | Reason::Superseded
            | Reason::Crowded
            | Reason::Stopping => Some(Kind::Local),
        };
        if let (Some(in_vain), Some(kind)) = (self.unexplained.take(), self.kind) {
            self.ended(kind, in_vain);
        }
        if !matches!(reason, Reason::RetryAfter | Reason::GoingAway | Reason::Rekeyed | Reason::Left) {
            self.tally().trouble(&reason.to_string());
        }
    }

    /// A dial begins
    fn dials(&mut self) {
        self.second(|second| second.dials += 1);
        if let Some((lost, step, kind)) = self.lost.take() {
            let due = self.due.take().unwrap_or(self.now);
            lock(&self.shared.tally).pauses.made(&mut self.row, step, kind, due.since(lost));
        }
    }
}

/// Whether it has been welcomed
fn is_up(state: LinkState) -> bool {
    matches!(state, LinkState::Reconciling | LinkState::Connected)
}

/// How long a task pretends to take; none if it is no such task
fn pretends(command: &Command) -> Option<Duration> {
    let mut words = command.argv.iter().map(|word| word.to_str());
    let (Some(Some(PRETEND)), takes, None) = (words.next(), words.next(), words.next()) else { return None };
    let takes = takes.map_or(Some(0), |takes| takes?.parse().ok())?;
    Some(Duration::from_millis(takes)).filter(|takes| *takes <= PRETEND_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_pretends_is_a_task_of_a_crowd() {
        let pretends = |words: &str| {
            let argv = words.split(' ').map(Into::into).collect();
            pretends(&Command { argv, cwd: None, timeout: None, output_bytes_max: 1 })
        };
        assert_eq!(pretends("pretend"), Some(Duration::ZERO));
        assert_eq!(pretends("pretend 1500"), Some(Duration::from_millis(1500)));
        for other in ["true", "pretend soon", "pretend -1", "pretend 1 2", "pretend 99999999999", "/bin/pretend"] {
            assert_eq!(pretends(other), None, "{other}");
        }
    }
}
