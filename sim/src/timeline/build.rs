//! From recorded steps to a timeline

use std::collections::BTreeMap;

use rejoin_core::ids::{TaskId, Token};

use super::{Band, Class, Event, Failed, Fate, Focus, Link, Message, Run, Timeline, What};
use crate::audit::Violation;
use crate::schedule::{Fault, Node, Schedule, What as Entry};
use crate::swarm::Failure;
use crate::trace::{Arrival, Line, Stage, Told, Trace};

/// Most tasks of one message that are followed
const TASKS_MAX: usize = 8;

pub(super) fn build(schedule: &Schedule, trace: &Trace, failure: Option<&Failure>) -> Timeline {
    let mut builder = Builder::new(schedule);
    for (at, _, told) in trace.steps() {
        builder.now = at.as_micros();
        builder.step(told);
    }
    builder.finish(failure)
}

struct Builder {
    timeline: Timeline,
    now: u64,
    lanes: BTreeMap<Node, usize>,
    /// Positions of messages and connections in the timeline, by their numbers
    messages: BTreeMap<usize, usize>,
    links: BTreeMap<u64, usize>,
    runs: BTreeMap<(usize, Token), usize>,
    ids: BTreeMap<TaskId, u32>,
    // The last events, which are the causes of the next ones.
    heard: BTreeMap<usize, usize>,
    on_link: BTreeMap<(usize, u64), usize>,
    of_task_at: BTreeMap<(usize, u32), usize>,
    of_task: BTreeMap<u32, usize>,
    closed: BTreeMap<u64, usize>,
    struck: BTreeMap<usize, usize>,
    /// The fault before each message that may have struck it
    struck_before: Vec<Option<usize>>,
    died: BTreeMap<usize, usize>,
    /// Why a node closes what it closes at this moment
    reasons: BTreeMap<usize, (u64, String)>,
    last_arrived: BTreeMap<(u64, usize), usize>,
    healed: Option<u64>,
}

impl Builder {
    fn new(schedule: &Schedule) -> Builder {
        let workers = (0..schedule.workers).map(Node::Worker);
        let nodes: Vec<Node> =
            (0..schedule.clients).map(Node::Client).chain([Node::Coordinator]).chain(workers).collect();
        let lanes = nodes.iter().enumerate().map(|(lane, node)| (*node, lane)).collect();
        let count = |n: u16, one: &str, more: &str| format!("{n} {}", if n == 1 { one } else { more });
        let title = format!(
            "seed {}, {}, {}",
            schedule.seed,
            count(schedule.workers, "worker", "workers"),
            count(schedule.clients, "client", "clients")
        );
        let timeline = Timeline {
            title,
            names: nodes.iter().map(ToString::to_string).collect(),
            nodes,
            events: Vec::new(),
            messages: Vec::new(),
            links: Vec::new(),
            runs: Vec::new(),
            faults: Vec::new(),
            downs: Vec::new(),
            failed: None,
            end: 0,
        };
        Builder {
            timeline,
            now: 0,
            lanes,
            messages: BTreeMap::new(),
            links: BTreeMap::new(),
            runs: BTreeMap::new(),
            ids: BTreeMap::new(),
            heard: BTreeMap::new(),
            on_link: BTreeMap::new(),
            of_task_at: BTreeMap::new(),
            of_task: BTreeMap::new(),
            closed: BTreeMap::new(),
            struck: BTreeMap::new(),
            struck_before: Vec::new(),
            died: BTreeMap::new(),
            reasons: BTreeMap::new(),
            last_arrived: BTreeMap::new(),
            healed: None,
        }
    }

    fn lane(&self, node: Node) -> usize {
        self.lanes.get(&node).copied().unwrap_or(0)
    }

    fn step(&mut self, told: &Told) {
        match told {
            Told::Woken(node) => {
                let event = self.event(What::Timer, Some(*node), "a timer is due".into());
                self.heard(event);
            }
            Told::Sent { from, to, conn, bytes, message, says } => self.sent(*from, *to, *conn, *bytes, *message, says),
            Told::Received { by, from, conn, message, arrival, .. } => {
                self.received(*by, *from, *conn, *message, *arrival);
            }
            Told::Dialled(node, conn) => {
                let text = conn.map_or("dials, and nobody answers".into(), |conn| format!("dials: connection {conn}"));
                let event = self.event(What::Dialled, Some(*node), text);
                self.caused_by_what_was_heard(event);
                if let Some(conn) = conn {
                    let peer = Some(self.lane(*node));
                    self.dialled(*conn, peer);
                    self.on(event, *conn);
                }
            }
            Told::Opened { conn, peer } => self.opened(*conn, *peer),
            Told::HungUp(node, conn) => self.hung_up(*node, *conn),
            Told::Lost(node, conn) => self.lost(*node, *conn),
            Told::Started(node) => self.started(*node),
            Told::Died(node) => self.stopped(*node),
            Told::Task { at, task, stage } => self.task(*at, *task, stage),
            Told::Durable { record, task } => {
                let event = self.event(What::Durable, Some(Node::Coordinator), format!("durable: {record}"));
                task.iter().for_each(|task| self.about(event, *task));
                self.heard(event);
            }
            Told::Phase(phase) => {
                self.healed = self.healed.or(Some(self.now));
                self.event(What::Phase, None, (*phase).into());
            }
            Told::Note(node, what) => {
                let event = self.event(What::Note, Some(*node), what.clone());
                self.caused_by_what_was_heard(event);
                if let Some((_, reason)) = what.split_once(": ").filter(|_| what.starts_with("closes")) {
                    self.reasons.insert(self.lane(*node), (self.now, reason.into()));
                }
            }
            Told::Fault(fault) => self.fault(*fault),
        }
    }

    // Events and what caused them.

    fn event(&mut self, what: What, node: Option<Node>, text: String) -> usize {
        let node = node.map(|node| self.lane(node));
        let (at, conn, message) = (self.now, None, None);
        let event = Event { at, node, what, text, conn, message, tasks: Vec::new(), causes: Vec::new() };
        self.timeline.events.push(event);
        self.timeline.events.len() - 1
    }

    fn cause(&mut self, event: usize, cause: Option<usize>) {
        let causes = &mut self.timeline.events[event].causes;
        if let Some(cause) = cause.filter(|cause| *cause < event && !causes.contains(cause)) {
            causes.push(cause);
        }
    }

    /// Whatever a machine does, it does because of the last that it heard
    fn caused_by_what_was_heard(&mut self, event: usize) {
        let Some(node) = self.timeline.events[event].node else { return };
        self.cause(event, self.heard.get(&node).copied());
    }

    /// A machine hears of something; what is written is so because of what it had heard before
    fn heard(&mut self, event: usize) {
        let Some(node) = self.timeline.events[event].node else { return };
        let before = self.heard.insert(node, event);
        if self.timeline.events[event].what == What::Durable {
            self.cause(event, before);
        }
    }

    /// It has to do with a connection: what happened there before led to it
    fn on(&mut self, event: usize, conn: u64) {
        self.timeline.events[event].conn = Some(conn);
        if let Some(node) = self.timeline.events[event].node {
            let before = self.on_link.insert((node, conn), event);
            self.cause(event, before);
        }
    }

    /// It has to do with a task: what happened to that at the same node led to it
    fn about(&mut self, event: usize, task: u32) {
        let tasks = &mut self.timeline.events[event].tasks;
        if tasks.contains(&task) || tasks.len() == TASKS_MAX {
            return;
        }
        tasks.push(task);
        self.of_task.insert(task, event);
        if let Some(node) = self.timeline.events[event].node {
            let before = self.of_task_at.insert((node, task), event);
            self.cause(event, before);
        }
    }

    // Messages.

    fn sent(&mut self, from: Node, to: Node, conn: u64, bytes: usize, number: usize, says: &[Line]) {
        let text = format!("to {to}: {}", gist(says));
        let event = self.event(What::Sent, Some(from), text);
        self.caused_by_what_was_heard(event);
        self.on(event, conn);
        let class = says.iter().map(|line| Class::of(line.verb)).min().unwrap_or(Class::Session);
        says.iter().filter_map(|line| line.task).for_each(|task| self.about(event, task));
        let position = self.timeline.messages.len();
        self.timeline.events[event].message = Some(position);
        self.messages.insert(number, position);
        let peer = self.lane(if to == Node::Coordinator { from } else { to });
        self.struck_before.push(self.struck.get(&peer).copied());
        let (from, to) = (self.lane(from), self.lane(to));
        self.timeline.messages.push(Message {
            sent: event,
            from,
            to,
            conn,
            bytes,
            says: says.into(),
            class,
            arrivals: Vec::new(),
            fate: Fate::Lost,
        });
        if let Some(link) = self.links.get(&conn).map(|link| &mut self.timeline.links[*link]) {
            let welcome = says.iter().find_map(|line| line.welcome);
            link.welcome = link.welcome.or(welcome);
            // A session that is only wished for is none yet.
            let session = says.iter().filter(|line| line.verb != "Hello").find_map(|line| line.session.clone());
            link.session = link.session.take().or(session);
        }
    }

    fn received(&mut self, by: Node, from: Node, conn: u64, number: Option<usize>, arrival: Arrival) {
        let message = number.and_then(|number| self.messages.get(&number).copied());
        let whom = if by == from { "a stranger".into() } else { from.to_string() };
        let says = message.map(|message| gist(&self.timeline.messages[message].says));
        let text = match (arrival, says) {
            (Arrival::InPlace, Some(says)) => format!("from {whom}: {says}"),
            (Arrival::OutOfPlace, Some(says)) => format!("from {whom}, out of place: {says}"),
            (Arrival::Again, Some(says)) => format!("from {whom}, once more: {says}"),
            (Arrival::Altered, Some(says)) => format!("from {whom}, altered; it was: {says}"),
            (_, None) => format!("from {whom}: what nobody sent"),
        };
        let event = self.event(What::Received, Some(by), text);
        let lane = self.lane(by);
        if let Some(message) = message {
            self.timeline.messages[message].arrivals.push((event, arrival));
            self.timeline.events[event].message = Some(message);
            let sent = self.timeline.messages[message].sent;
            self.cause(event, Some(sent));
            let tasks = self.timeline.events[sent].tasks.clone();
            tasks.into_iter().for_each(|task| self.about(event, task));
            let last = self.last_arrived.entry((conn, lane)).or_insert(message);
            *last = message.max(*last);
        }
        self.on(event, conn);
        self.heard(event);
    }

    // Connections.

    fn dialled(&mut self, conn: u64, peer: Option<usize>) {
        self.links.insert(conn, self.timeline.links.len());
        let (dialled, ends) = (self.now, [None, None]);
        self.timeline.links.push(Link { conn, peer, dialled, opened: None, ends, session: None, welcome: None });
    }

    fn opened(&mut self, conn: u64, peer: Option<Node>) {
        if peer.is_none() {
            self.dialled(conn, None);
        }
        let whom = peer.map_or("a stranger".into(), |peer| peer.to_string());
        let event = self.event(What::Opened, Some(Node::Coordinator), format!("takes connection {conn} of {whom}"));
        self.on(event, conn);
        self.heard(event);
        if let Some(link) = self.links.get(&conn) {
            self.timeline.links[*link].opened = Some(self.now);
        }
        if let Some(lane) = peer.map(|peer| self.lane(peer)) {
            let dial = self.on_link.insert((lane, conn), event);
            self.cause(event, dial);
            self.heard.insert(lane, event);
        }
    }

    fn end(&mut self, node: Node, conn: u64, why: &str) {
        let side = usize::from(node == Node::Coordinator);
        if let Some(link) = self.links.get(&conn) {
            self.timeline.links[*link].ends[side].get_or_insert((self.now, why.into()));
        }
    }

    fn hung_up(&mut self, node: Node, conn: u64) {
        let reason = self.reasons.get(&self.lane(node)).filter(|(at, _)| *at == self.now);
        let why = reason.map_or("nothing that arrives makes sense".into(), |(_, why)| why.clone());
        let event = self.event(What::Closed, Some(node), format!("closes connection {conn}: {why}"));
        self.caused_by_what_was_heard(event);
        self.on(event, conn);
        self.closed.insert(conn, event);
        self.end(node, conn, &why);
    }

    fn lost(&mut self, node: Node, conn: u64) {
        let closed = self.closed.get(&conn).copied();
        let why = if closed.is_some() { "the other end closed it" } else { "it broke" };
        let event = self.event(What::Gone, Some(node), format!("connection {conn} is gone: {why}"));
        let peer = self.links.get(&conn).and_then(|link| self.timeline.links[*link].peer);
        let struck = peer.and_then(|peer| self.struck.get(&peer).copied());
        self.cause(event, closed.or(struck));
        self.on(event, conn);
        self.heard(event);
        self.end(node, conn, why);
    }

    // Processes.

    fn started(&mut self, node: Node) {
        let event = self.event(What::Started, Some(node), "begins".into());
        if let Some(died) = self.died.remove(&self.lane(node)) {
            self.cause(event, Some(died));
            let from = self.timeline.events[died].at;
            self.timeline.downs.push((self.lane(node), from, self.now));
        }
        self.heard(event);
    }

    fn stopped(&mut self, node: Node) {
        let event = self.event(What::Died, Some(node), "ends with all that it knew".into());
        let lane = self.lane(node);
        let struck = self.struck.get(&lane).copied().filter(|fault| self.timeline.events[*fault].at == self.now);
        self.cause(event, struck.or(self.heard.get(&lane).copied()));
        self.died.insert(lane, event);
        self.reasons.insert(lane, (self.now, "its process ended".into()));
        let now = self.now;
        let open: Vec<_> = self.runs.keys().copied().filter(|(at, _)| *at == lane).collect();
        for run in open.into_iter().filter_map(|key| self.runs.remove(&key)) {
            let run = &mut self.timeline.runs[run];
            (run.to, run.ended) = (now, "its worker ended".into());
        }
    }

    // Tasks.

    fn task(&mut self, node: Node, task: u32, stage: &Stage) {
        let text = crate::trace::StageOf { task, stage }.to_string();
        let event = self.event(What::Task, Some(node), text);
        let lane = self.lane(node);
        self.about(event, task);
        match stage {
            Stage::Accepted | Stage::Ended(_) => self.caused_by_what_was_heard(event),
            Stage::CancelAsked | Stage::Checkpoint { .. } => self.heard(event),
            Stage::Submitted(id) => {
                self.ids.insert(*id, task);
                self.heard(event);
            }
            Stage::Started { attempt, token } => {
                self.caused_by_what_was_heard(event);
                let (from, ended) = (self.now, String::new());
                self.runs.insert((lane, *token), self.timeline.runs.len());
                self.timeline.runs.push(Run { node: lane, task, attempt: *attempt, from, to: u64::MAX, ended });
            }
            Stage::Finished { token, outcome } => {
                self.heard(event);
                if let Some(run) = self.runs.remove(&(lane, *token)) {
                    let run = &mut self.timeline.runs[run];
                    (run.to, run.ended) = (self.now, outcome.clone());
                }
            }
        }
    }

    fn fault(&mut self, fault: Fault) {
        let event = self.event(What::Fault, Some(fault.node), Entry::Fault(fault).to_string());
        let node = self.lane(fault.node);
        self.struck.insert(node, event);
        let span = u64::try_from(fault.span.as_micros()).unwrap_or(u64::MAX);
        let to = self.now.saturating_add(span);
        self.timeline.faults.push(Band { node, kind: fault.kind, from: self.now, to, event });
    }

    // The end.

    fn finish(mut self, failure: Option<&Failure>) -> Timeline {
        self.timeline.end = self.now;
        if let Some(failure) = failure {
            self.fail(failure);
        }
        let end = self.timeline.end;
        self.timeline.runs.iter_mut().for_each(|run| run.to = run.to.min(end));
        let healed = self.healed.unwrap_or(end);
        // What began before everything healed ends with that.
        self.timeline.faults.iter_mut().for_each(|fault| fault.to = fault.to.min(healed).max(fault.from));
        self.timeline.downs.extend(self.died.iter().map(|(lane, died)| (*lane, self.timeline.events[*died].at, end)));
        for position in 0..self.timeline.messages.len() {
            let fate = self.fate(position);
            self.timeline.messages[position].fate = fate;
            if !matches!(fate, Fate::Delivered | Fate::UnderWay) {
                self.cause(self.timeline.messages[position].sent, self.struck_before[position]);
            }
        }
        self.timeline
    }

    fn fate(&self, position: usize) -> Fate {
        let message = &self.timeline.messages[position];
        let with = |arrival| message.arrivals.iter().any(|(_, one)| *one == arrival);
        if message.arrivals.is_empty() {
            let side = usize::from(self.timeline.nodes[message.to] == Node::Coordinator);
            let link = self.links.get(&message.conn).map(|link| &self.timeline.links[*link]);
            let closed = link.is_some_and(|link| link.ends[side].is_some());
            let overtaken = self.last_arrived.get(&(message.conn, message.to)).is_some_and(|last| *last > position);
            return if closed || overtaken { Fate::Lost } else { Fate::UnderWay };
        }
        match message.arrivals.first() {
            Some((_, Arrival::Altered)) => Fate::Altered,
            _ if with(Arrival::Again) => Fate::Duplicated,
            _ if with(Arrival::OutOfPlace) => Fate::OutOfPlace,
            _ => Fate::Delivered,
        }
    }

    /// Says what failed, as the last event of all
    fn fail(&mut self, failure: &Failure) {
        let text = failure.to_string();
        let focus = match failure {
            Failure::Violation(violation) => {
                self.now = self.now.max(violation.at.as_micros());
                self.focus(violation)
            }
            Failure::Panic(_) | Failure::NotDeterministic { .. } => Focus::Everything,
        };
        let last = self.timeline.events.len().checked_sub(1);
        let event = self.event(What::Failure, None, text);
        let found = match focus {
            Focus::Task(task) => {
                self.timeline.events[event].tasks.push(task);
                self.of_task.get(&task).copied()
            }
            Focus::Connection(conn) => {
                self.timeline.events[event].conn = Some(conn);
                self.timeline.events[..event].iter().rposition(|one| one.conn == Some(conn))
            }
            Focus::Node(node) => self.timeline.events[..event].iter().rposition(|one| one.node == Some(node)),
            Focus::Everything => None,
        };
        self.cause(event, found.or(last));
        self.timeline.end = self.now;
        self.timeline.failed = Some(Failed { event, focus });
    }

    /// What it is about: a task, or else the connection or the node that its words name
    fn focus(&self, violation: &Violation) -> Focus {
        if let Some(task) = violation.task.and_then(|id| self.ids.get(&id)) {
            return Focus::Task(*task);
        }
        let words: Vec<&str> = violation.what.split(|c: char| !c.is_alphanumeric()).collect();
        let after = |word: &str| words.iter().position(|one| *one == word).and_then(|at| words.get(at + 1));
        if let Some(task) =
            after("task").and_then(|number| number.parse().ok()).filter(|n| self.of_task.contains_key(n))
        {
            return Focus::Task(task);
        }
        if let Some(conn) = after("connection").and_then(|number| number.parse().ok()) {
            return Focus::Connection(conn);
        }
        let named = |(lane, node): (usize, &Node)| words.contains(&node.to_string().as_str()).then_some(lane);
        self.timeline.nodes.iter().enumerate().find_map(named).map_or(Focus::Everything, Focus::Node)
    }
}

/// What a message says, in a line of bounded length: the most telling first
fn gist(says: &[Line]) -> String {
    let mut lines: Vec<&Line> = says.iter().collect();
    lines.sort_by_key(|line| Class::of(line.verb));
    let mut text = lines.iter().take(3).map(|line| line.text.as_str()).collect::<Vec<_>>().join("; ");
    if lines.len() > 3 {
        text.push_str(&format!("; and {} more", lines.len() - 3));
    }
    text
}
