//! An object for each event, in the order in which they happened
//!
//! Events are counted from 1, as they are wherever people name one.

use super::json::Value;
use super::{Event, Timeline, What, arrival_name};

pub(super) fn lines(timeline: &Timeline) -> String {
    let mut out = String::new();
    for (n, event) in timeline.events.iter().enumerate() {
        Value::Object(fields(timeline, n, event)).write(&mut out);
        out.push('\n');
    }
    out
}

fn fields<'a>(timeline: &'a Timeline, n: usize, event: &'a Event) -> Vec<(&'static str, Value<'a>)> {
    let causes: Vec<usize> = event.causes.iter().map(|cause| cause + 1).collect();
    let mut fields = vec![
        ("n", (n + 1).into()),
        ("at_us", event.at.into()),
        ("type", event.what.name().into()),
        ("node", event.node.map(|node| timeline.names[node].as_str()).into()),
        ("text", event.text.as_str().into()),
        ("conn", event.conn.into()),
        ("message", event.message.into()),
        ("tasks", Some(event.tasks.clone()).filter(|tasks| !tasks.is_empty()).into()),
        ("causes", Some(causes).filter(|causes| !causes.is_empty()).into()),
    ];
    if let Some(message) = event.message.map(|message| &timeline.messages[message]) {
        let arrived = message.arrivals.first().map(|(event, _)| timeline.events[*event].at);
        let how = message.arrivals.iter().find(|(arrived, _)| *arrived == n).map(|(_, how)| arrival_name(*how));
        if event.what == What::Sent {
            fields.extend([
                ("to", timeline.names[message.to].as_str().into()),
                ("bytes", message.bytes.into()),
                ("class", message.class.name().into()),
                ("says", Value::List(message.says.iter().map(|line| line.text.as_str().into()).collect())),
                ("fate", message.fate.name().into()),
                ("arrived_us", arrived.into()),
            ]);
        } else {
            fields.extend([("from", timeline.names[message.from].as_str().into()), ("arrival", how.into())]);
        }
    }
    if event.what == What::Fault
        && let Some(fault) = timeline.faults.iter().find(|fault| fault.event == n)
    {
        fields.extend([("fault", fault.kind.name().into()), ("until_us", fault.to.into())]);
    }
    fields
}
