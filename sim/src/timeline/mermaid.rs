//! A sequence diagram in Mermaid's language
//!
//! Such a diagram is readable up to some dozens of events. So it has those before the failure, or else those from the
//! first fault on, and says what it leaves out. Heartbeats and acknowledgements that arrived are not in it.

use std::fmt::Write as _;

use super::{Fate, Timeline, What, seconds};
use crate::schedule::Node;

pub(super) fn diagram(timeline: &Timeline, events_max: usize) -> String {
    let shown: Vec<usize> = (0..timeline.events.len()).filter(|n| is_shown(timeline, *n)).collect();
    let first_fault = shown.iter().position(|n| timeline.events[*n].what == What::Fault).unwrap_or(0);
    let start = match timeline.failed {
        Some(_) => shown.len().saturating_sub(events_max),
        None => first_fault.min(shown.len().saturating_sub(events_max)),
    };
    let cut = &shown[start..shown.len().min(start + events_max)];
    let mut out = String::from("sequenceDiagram\n");
    let met = |node: usize| cut.iter().any(|n| ends(timeline, *n).contains(&Some(node)));
    let mut participants: Vec<usize> = (0..timeline.nodes.len()).filter(|node| met(*node)).collect();
    if participants.is_empty() {
        participants = timeline.nodes.iter().position(|node| *node == Node::Coordinator).into_iter().collect();
    }
    for node in &participants {
        let _ = writeln!(out, "    participant {}", timeline.names[*node]);
    }
    let (first, last) = (participants.first().copied().unwrap_or(0), participants.last().copied().unwrap_or(0));
    let over = if first == last {
        timeline.names[first].clone()
    } else {
        format!("{},{}", timeline.names[first], timeline.names[last])
    };
    note(&mut out, &over, &timeline.title);
    if start > 0 {
        note(&mut out, &over, &format!("{start} earlier events are left out"));
    }
    for &n in cut {
        event(timeline, &mut out, &over, n);
    }
    let after = shown.len() - start - cut.len();
    if after > 0 {
        note(&mut out, &over, &format!("{after} later events are left out"));
    }
    out
}

/// Arrivals are part of their message's arrow, unless there is something to be said of them
fn is_shown(timeline: &Timeline, n: usize) -> bool {
    let event = &timeline.events[n];
    let message = event.message.map(|message| &timeline.messages[message]);
    let first = message.is_some_and(|message| message.arrivals.first().is_some_and(|(arrived, _)| *arrived == n));
    let plain = message.is_some_and(|message| message.fate == Fate::Delivered);
    let said = match event.what {
        What::Received => !plain && !first,
        What::Durable | What::Dialled => false,
        // The close that follows says why as well.
        What::Note => !event.text.starts_with("closes"),
        What::Sent
        | What::Timer
        | What::Opened
        | What::Closed
        | What::Gone
        | What::Started
        | What::Died
        | What::Task
        | What::Fault
        | What::Phase
        | What::Failure => true,
    };
    said && timeline.tells(event)
}

/// Whose lifelines an event touches
fn ends(timeline: &Timeline, n: usize) -> [Option<usize>; 2] {
    let event = &timeline.events[n];
    let message = event.message.map(|message| &timeline.messages[message]);
    [event.node, message.map(|message| if event.node == Some(message.from) { message.to } else { message.from })]
}

fn event(timeline: &Timeline, out: &mut String, over: &str, n: usize) {
    let event = &timeline.events[n];
    match (event.what, event.message.map(|message| &timeline.messages[message])) {
        (What::Sent, Some(message)) => {
            let arrow = match message.fate {
                Fate::Lost => "-x",
                Fate::Delivered | Fate::Duplicated | Fate::OutOfPlace => "->>",
                Fate::Altered | Fate::UnderWay => "--)",
            };
            let fate =
                if message.fate == Fate::Delivered { String::new() } else { format!(" [{}]", message.fate.name()) };
            let (from, to) = (&timeline.names[message.from], &timeline.names[message.to]);
            let says = event.text.split_once(": ").map_or("", |(_, says)| says);
            let _ = writeln!(out, "    {from}{arrow}{to}: {} {}{fate}", seconds(event.at), plain(says));
        }
        (What::Received, Some(message)) => {
            let (from, to) = (&timeline.names[message.from], &timeline.names[message.to]);
            let _ = writeln!(out, "    {from}--){to}: {} {}", seconds(event.at), plain(&event.text));
        }
        (What::Phase, _) => note(out, over, &format!("{} {}", seconds(event.at), event.text)),
        (What::Failure, _) => {
            out.push_str("    rect rgb(255, 205, 205)\n");
            note(out, over, &format!("{} FAILED {}", seconds(event.at), event.text));
            out.push_str("    end\n");
        }
        _ => {
            let at = event.node.map_or(over, |node| timeline.names[node].as_str());
            let fault = if event.what == What::Fault { "FAULT " } else { "" };
            note(out, at, &format!("{} {fault}{}", seconds(event.at), event.text));
        }
    }
}

fn note(out: &mut String, over: &str, text: &str) {
    let _ = writeln!(out, "    Note over {over}: {}", plain(text));
}

/// Without the signs that mean something in that language
fn plain(text: &str) -> String {
    text.chars()
        .map(|letter| match letter {
            ';' => ',',
            '#' => '№',
            '\n' => ' ',
            letter => letter,
        })
        .collect()
}
