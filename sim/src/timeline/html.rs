//! A page that shows a timeline: one file, which needs nothing from elsewhere

use std::ops::Range;

use super::json::Value;
use super::{Event, Link, Message, Timeline, arrival_name};

/// Most events of a page; a browser draws so many without effort
const EVENTS_MAX: usize = 60_000;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPTS: [&str; 3] =
    [include_str!("page/model.js"), include_str!("page/draw.js"), include_str!("page/controls.js")];

pub(super) fn page(timeline: &Timeline) -> String {
    let mut data = String::new();
    let range = shown(timeline);
    values(timeline, &range).write(&mut data);
    let mut out = String::with_capacity(data.len() + 64 * 1024);
    let mut rest = PAGE;
    // Each of these stands in the page once, in this order.
    for (mark, text) in [
        ("<!--title-->", escaped(&timeline.title)),
        ("/*style*/", STYLE.into()),
        ("/*data*/", data),
        ("/*scripts*/", SCRIPTS.concat()),
    ] {
        let (before, after) = rest.split_once(mark).unwrap_or((rest, ""));
        out.push_str(before);
        out.push_str(&text);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// Those around the failure, or else the first, where there are too many
fn shown(timeline: &Timeline) -> Range<usize> {
    let all = timeline.events.len();
    if timeline.failed.is_some() { all.saturating_sub(EVENTS_MAX)..all } else { 0..all.min(EVENTS_MAX) }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn values<'a>(timeline: &'a Timeline, range: &Range<usize>) -> Value<'a> {
    let inside = |n: &usize| range.contains(n);
    // Messages are counted anew, those whose sending is not shown left out.
    let mut place = vec![None; timeline.messages.len()];
    let messages: Vec<&Message> = timeline.messages.iter().filter(|message| inside(&message.sent)).collect();
    let kept = timeline.messages.iter().enumerate().filter(|(_, message)| inside(&message.sent));
    kept.enumerate().for_each(|(new, (old, _))| place[old] = Some(new));
    let nth = |n: usize| n - range.start;
    let event = |event: &'a Event| {
        let causes: Vec<usize> = event.causes.iter().filter(|n| inside(n)).map(|n| nth(*n)).collect();
        Value::List(vec![
            event.at.into(),
            event.node.into(),
            event.what.name().into(),
            event.text.as_str().into(),
            event.conn.into(),
            event.message.and_then(|message| place[message]).into(),
            event.tasks.clone().into(),
            causes.into(),
        ])
    };
    let message = |message: &'a Message| {
        let arrivals = message.arrivals.iter().filter(|(n, _)| inside(n));
        let arrivals = arrivals.map(|(n, how)| Value::List(vec![nth(*n).into(), arrival_name(*how).into()]));
        let says = message.says.iter().map(|line| line.text.as_str().into());
        Value::List(vec![
            nth(message.sent).into(),
            message.from.into(),
            message.to.into(),
            message.conn.into(),
            message.bytes.into(),
            message.class.name().into(),
            message.fate.name().into(),
            Value::List(says.collect()),
            Value::List(arrivals.collect()),
        ])
    };
    let failure = timeline.failed.as_ref().map(|failed| nth(failed.event));
    let faults = timeline.faults.iter().filter(|fault| inside(&fault.event));
    Value::Object(vec![
        ("title", timeline.title.as_str().into()),
        ("end", timeline.end.into()),
        ("before", Some(range.start).filter(|n| *n > 0).into()),
        ("after", Some(timeline.events.len() - range.end).filter(|n| *n > 0).into()),
        ("nodes", Value::List(timeline.names.iter().map(|name| name.as_str().into()).collect())),
        ("events", Value::List(timeline.events[range.clone()].iter().map(event).collect())),
        ("messages", Value::List(messages.into_iter().map(message).collect())),
        ("links", Value::List(timeline.links.iter().map(|one| link(one)).collect())),
        (
            "runs",
            Value::List(
                timeline
                    .runs
                    .iter()
                    .map(|run| {
                        Value::Object(vec![
                            ("node", run.node.into()),
                            ("task", run.task.into()),
                            ("attempt", run.attempt.into()),
                            ("from", run.from.into()),
                            ("to", run.to.into()),
                            ("ended", run.ended.as_str().into()),
                        ])
                    })
                    .collect(),
            ),
        ),
        (
            "faults",
            Value::List(
                faults
                    .map(|fault| {
                        Value::Object(vec![
                            ("node", fault.node.into()),
                            ("kind", fault.kind.name().into()),
                            ("says", fault.kind.dish().says.into()),
                            ("from", fault.from.into()),
                            ("to", fault.to.into()),
                            ("event", nth(fault.event).into()),
                        ])
                    })
                    .collect(),
            ),
        ),
        (
            "downs",
            Value::List(
                timeline
                    .downs
                    .iter()
                    .map(|(node, from, to)| Value::List(vec![(*node).into(), (*from).into(), (*to).into()]))
                    .collect(),
            ),
        ),
        ("failure", failure.into()),
    ])
}

fn link(link: &Link) -> Value<'_> {
    let end = |side: usize| match &link.ends[side] {
        Some((at, why)) => Value::List(vec![(*at).into(), why.as_str().into()]),
        None => Value::None,
    };
    Value::Object(vec![
        ("conn", link.conn.into()),
        ("peer", link.peer.into()),
        ("dialled", link.dialled.into()),
        ("opened", link.opened.into()),
        ("peerEnd", end(0)),
        ("coordinatorEnd", end(1)),
        ("session", link.session.as_deref().into()),
        ("generation", link.welcome.map(|(generation, _)| generation).into()),
        ("resumed", link.welcome.map(|(_, resumed)| resumed).into()),
    ])
}
