//! Timelines: what was recorded of a simulation, made into something to look at
//!
//! | room | concern |
//! | --- | --- |
//! | `mod` | what there is to see, and what led to what |
//! | `build` | from recorded steps to that |
//! | `html` | a page that shows it; what it does is in `page/` |
//! | `mermaid` | a sequence diagram of what is around a failure |
//! | `jsonl` | an object for each event, for other programs |
//! | `json` | values as JSON |

mod build;
mod html;
mod json;
mod jsonl;
mod mermaid;

use crate::menu::Kind;
use crate::schedule::{Node, Schedule};
use crate::swarm::Failure;
use crate::trace::{Arrival, Line, Trace};

/// Everything that can be seen of a simulation
#[derive(Clone, Debug)]
pub struct Timeline {
    title: String,
    nodes: Vec<Node>,
    names: Vec<String>,
    events: Vec<Event>,
    messages: Vec<Message>,
    links: Vec<Link>,
    runs: Vec<Run>,
    faults: Vec<Band>,
    downs: Vec<(usize, u64, u64)>,
    failed: Option<Failed>,
    end: u64,
}

/// Something that happened at a node, or to all of them
#[derive(Clone, Debug)]
struct Event {
    at: u64,
    node: Option<usize>,
    what: What,
    text: String,
    conn: Option<u64>,
    message: Option<usize>,
    tasks: Vec<u32>,
    /// Earlier events without which it would not have happened as it did
    causes: Vec<usize>,
}

/// Sorts of events
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Sent,
    Received,
    Timer,
    Dialled,
    Opened,
    Closed,
    Gone,
    Started,
    Died,
    Task,
    Durable,
    Fault,
    Phase,
    Note,
    Failure,
}

impl What {
    fn name(self) -> &'static str {
        match self {
            What::Sent => "sent",
            What::Received => "received",
            What::Timer => "timer",
            What::Dialled => "dialled",
            What::Opened => "opened",
            What::Closed => "closed",
            What::Gone => "gone",
            What::Started => "started",
            What::Died => "died",
            What::Task => "task",
            What::Durable => "durable",
            What::Fault => "fault",
            What::Phase => "phase",
            What::Note => "note",
            What::Failure => "failure",
        }
    }
}

/// A message, from its sending to its arrivals
#[derive(Clone, Debug)]
struct Message {
    sent: usize,
    from: usize,
    to: usize,
    conn: u64,
    bytes: usize,
    says: Vec<Line>,
    class: Class,
    arrivals: Vec<(usize, Arrival)>,
    fate: Fate,
}

/// What a message is about, the most telling first
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Session,
    Task,
    Output,
    Beat,
}

impl Class {
    fn of(verb: &str) -> Class {
        match verb {
            "Beat" | "Echo" | "Ack" | "Credit" | "Void" => Class::Beat,
            "Output" | "Kept" | "Taken" => Class::Output,
            "Hello" | "Challenge" | "RetryAfter" | "Reject" | "Proof" | "Welcome" | "Denied" | "Confirm" | "Begin"
            | "Bye" => Class::Session,
            _ => Class::Task,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Class::Session => "session",
            Class::Task => "task",
            Class::Output => "output",
            Class::Beat => "beat",
        }
    }
}

/// What became of a message
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Delivered,
    Lost,
    UnderWay,
    Altered,
    Duplicated,
    OutOfPlace,
}

impl Fate {
    fn name(self) -> &'static str {
        match self {
            Fate::Delivered => "delivered",
            Fate::Lost => "lost",
            Fate::UnderWay => "under way",
            Fate::Altered => "altered",
            Fate::Duplicated => "duplicated",
            Fate::OutOfPlace => "out of place",
        }
    }
}

fn arrival_name(arrival: Arrival) -> &'static str {
    match arrival {
        Arrival::InPlace => "in place",
        Arrival::OutOfPlace => "out of place",
        Arrival::Again => "again",
        Arrival::Altered => "altered",
    }
}

/// A connection, and the session that it carried
#[derive(Clone, Debug)]
struct Link {
    conn: u64,
    peer: Option<usize>,
    dialled: u64,
    opened: Option<u64>,
    /// When each end was over, and why; the peer's first
    ends: [Option<(u64, String)>; 2],
    session: Option<String>,
    welcome: Option<(u64, bool)>,
}

/// An execution of a task
#[derive(Clone, Debug)]
struct Run {
    node: usize,
    task: u32,
    attempt: u32,
    from: u64,
    to: u64,
    ended: String,
}

/// A fault, from its beginning to its end
#[derive(Clone, Debug)]
struct Band {
    node: usize,
    kind: Kind,
    from: u64,
    to: u64,
    event: usize,
}

/// What failed
#[derive(Clone, Debug)]
struct Failed {
    event: usize,
    focus: Focus,
}

/// What a failure is about, as far as that can be told
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Focus {
    Task(u32),
    Connection(u64),
    Node(usize),
    Everything,
}

impl Timeline {
    /// Makes a timeline of what was recorded
    pub fn new(schedule: &Schedule, trace: &Trace, failure: Option<&Failure>) -> Timeline {
        build::build(schedule, trace, failure)
    }

    /// A page that shows all of it, in one file and without anything from elsewhere
    pub fn html(&self) -> String {
        html::page(self)
    }

    /// A sequence diagram in Mermaid's language of at most so many events around the failure, if there is one
    pub fn mermaid(&self, events_max: usize) -> String {
        mermaid::diagram(self, events_max)
    }

    /// An object for each event, a line each
    pub fn jsonl(&self) -> String {
        jsonl::lines(self)
    }

    /// The last events before the failure that have to do with it, as lines for people
    pub fn before_failure(&self, count: usize) -> Vec<String> {
        let Some(failed) = &self.failed else { return Vec::new() };
        let concerned = |event: &&Event| self.tells(event) && self.is_about(event, failed.focus);
        let mut last: Vec<&Event> = self.events[..failed.event].iter().rev().filter(concerned).take(count).collect();
        last.reverse();
        last.into_iter().map(|event| format!("{} {}", seconds(event.at), self.line(event))).collect()
    }

    /// Whether it says more than that time passes
    fn tells(&self, event: &Event) -> bool {
        let beat = event.message.is_some_and(|message| {
            let message = &self.messages[message];
            message.class == Class::Beat && matches!(message.fate, Fate::Delivered | Fate::UnderWay)
        });
        event.what != What::Timer && !beat
    }

    fn is_about(&self, event: &Event, focus: Focus) -> bool {
        match focus {
            Focus::Task(task) => event.tasks.contains(&task),
            Focus::Connection(conn) => event.conn == Some(conn),
            Focus::Node(node) => {
                let message = event.message.map(|message| &self.messages[message]);
                event.node == Some(node) || message.is_some_and(|message| message.from == node || message.to == node)
            }
            Focus::Everything => true,
        }
    }

    /// An event in words, with whom it happened to
    fn line(&self, event: &Event) -> String {
        match event.node {
            Some(node) => format!("{}: {}", self.names[node], event.text),
            None => event.text.clone(),
        }
    }
}

/// A time in seconds with six digits behind the point
fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}
