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

    /// An event in words, with whom it happened to, and what became of what it says
    fn line(&self, event: &Event) -> String {
        let message = event.message.filter(|_| event.what == What::Sent).map(|message| &self.messages[message]);
        let fate = match message.map(|message| message.fate) {
            None | Some(Fate::Delivered | Fate::UnderWay) => String::new(),
            Some(fate) => format!(" [{}]", fate.name()),
        };
        match event.node {
            Some(node) => format!("{}: {}{fate}", self.names[node], event.text),
            None => event.text.clone(),
        }
    }
}

/// A time in seconds with six digits behind the point
fn seconds(us: u64) -> String {
    format!("{}.{:06}", us / 1_000_000, us % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::{Check, Violation};
    use crate::generate::{Profile, generate};
    use crate::recorded::Recorded;
    use rejoin_core::Instant;
    use rejoin_core::ids::TaskId;
    use std::time::Duration;

    /// The first part of a seed, and what was seen of it
    fn watched(seed: u64) -> (Schedule, Trace) {
        let mut schedule = generate(seed, Profile::Standard);
        schedule.safety = Duration::from_secs(45);
        schedule.entries.retain(|entry| entry.at < schedule.safety);
        // Not every seed has messages that change places, or come twice.
        let swaps =
            (0..8).map(|n| format!("{0}.5 swap w{n} towards=coordinator\n{0}.7 duplicate w{n} towards=peer\n", 10 + n));
        let text = format!("{schedule}{}", swaps.collect::<String>());
        let schedule: Schedule = text.parse().unwrap();
        let run = Recorded::run(&schedule, None).unwrap();
        assert!(run.failure.is_none(), "seed {seed}: {:?}", run.failure);
        (schedule, run.trace().clone())
    }

    fn violation(what: &str, task: Option<TaskId>) -> Failure {
        let at = Instant::from_micros(u64::MAX >> 20);
        Failure::Violation(Violation { check: Check::S4, at, what: what.into(), task })
    }

    #[test]
    fn messages_are_followed_to_their_fates_and_causes_lie_before() {
        let mut fates = Vec::new();
        for seed in [7, 11, 13] {
            let (schedule, trace) = watched(seed);
            let timeline = Timeline::new(&schedule, &trace, None);
            assert!(timeline.events.is_sorted_by_key(|event| event.at));
            for (n, event) in timeline.events.iter().enumerate() {
                assert!(event.causes.iter().all(|cause| *cause < n), "{n}: {event:?}");
            }
            for message in &timeline.messages {
                let sent = timeline.events[message.sent].at;
                assert!(message.arrivals.iter().all(|(n, _)| timeline.events[*n].at >= sent), "{message:?}");
                fates.push(message.fate);
            }
            let of = |what| timeline.events.iter().filter(|event| event.what == what).count();
            let never =
                [What::Sent, What::Received, What::Timer, What::Dialled, What::Opened, What::Closed, What::Gone]
                    .into_iter()
                    .chain([What::Started, What::Task, What::Durable, What::Fault, What::Phase])
                    .find(|what| of(*what) == 0);
            // Some seeds break nothing.
            assert!(schedule.faults() == 0 || never.is_none(), "seed {seed}: {never:?}");
            let whole = timeline.links.iter().filter(|link| link.session.is_some() && link.welcome.is_some()).count();
            assert!(whole * 2 > timeline.links.len(), "most connections have a session");
            assert!(timeline.runs.iter().all(|run| run.from <= run.to && run.to <= timeline.end));
        }
        let delivered = fates.iter().filter(|fate| **fate == Fate::Delivered).count();
        assert!(delivered * 10 > fates.len() * 8, "{delivered} of {}", fates.len());
        for fate in [Fate::Lost, Fate::Altered, Fate::Duplicated, Fate::OutOfPlace] {
            assert!(fates.contains(&fate), "no message is {}", fate.name());
        }
    }

    #[test]
    fn before_a_failure_only_what_it_is_about_is_told() {
        let (schedule, trace) = watched(7);
        let timeline = |failure: &Failure| Timeline::new(&schedule, &trace, Some(failure));
        let task = timeline(&violation("it counted twice", Some(TaskId::from_text("task 3"))));
        let lines = task.before_failure(5);
        assert_eq!(lines.len(), 5);
        assert!(lines.iter().all(|line| line.contains("task 3") || line.contains("(task 3)")), "{lines:#?}");
        let node = timeline(&violation("w2 does not come to the end of its drain", None)).before_failure(5);
        assert!(node.iter().all(|line| line.contains("w2")) && node.len() == 5, "{node:#?}");
        let conn = task.links[4].conn;
        let about = violation(&format!("w1 still believes in connection {conn}"), None);
        let lines = timeline(&about);
        assert_eq!(lines.failed.as_ref().map(|failed| failed.focus), Some(Focus::Connection(conn)));
        assert!(!lines.before_failure(5).is_empty());
    }

    #[test]
    fn a_diagram_has_no_more_events_than_it_may_and_says_what_is_missing() {
        let (schedule, trace) = watched(7);
        for failure in [None, Some(violation("something", None))] {
            let diagram = Timeline::new(&schedule, &trace, failure.as_ref()).mermaid(30);
            assert!(diagram.starts_with("sequenceDiagram\n    participant "));
            assert!(diagram.contains("earlier events are left out"), "{diagram}");
            let events = diagram.lines().filter(|line| line.contains("->>") || line.contains("Note over")).count();
            assert!((10..=34).contains(&events), "{diagram}");
            assert!(diagram.lines().all(|line| !line.contains(';') && !line.contains('#')));
            assert_eq!(diagram.contains("FAILED S4"), failure.is_some());
        }
    }

    #[test]
    fn a_page_is_whole_and_needs_nothing_from_elsewhere() {
        let (schedule, trace) = watched(7);
        let page = Timeline::new(&schedule, &trace, Some(&violation("</script><b>", None))).html();
        for mark in ["<!--title-->", "/*style*/", "/*data*/", "/*scripts*/", "http://", "https://", " src=", "@import"]
        {
            assert!(!page.contains(mark), "{mark}");
        }
        assert_eq!(page.matches("</script>").count(), 1);
        assert!(page.contains("\\u003c/script\\u003e\\u003cb\\u003e"), "what is seen cannot end the script");
    }

    #[test]
    fn of_nothing_there_is_still_something_to_show() {
        let schedule = generate(1, Profile::Standard);
        let timeline = Timeline::new(&schedule, &Trace::default(), None);
        assert_eq!(timeline.jsonl(), "");
        assert!(timeline.mermaid(10).contains("participant coordinator"));
        assert!(timeline.html().contains("\"events\":[]"));
    }
}
