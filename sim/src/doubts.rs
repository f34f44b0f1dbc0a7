//! Lines of a schedule from which nothing comes, for those who write one by hand
//!
//! They are no errors: what a line means may hang on other lines, as a worker does on how many there are, and whatever is
//! left of a schedule when lines are left out is one as well.

use crate::menu::{Kind, Scope};
use crate::schedule::{BadSchedule, Entry, Fault, Node, Schedule, What};

/// Lines that mean less than they say, and why; none for a text that is no schedule
pub fn doubts(text: &str) -> Vec<BadSchedule> {
    let Ok(schedule) = text.parse::<Schedule>() else { return Vec::new() };
    let numbered = text.lines().enumerate();
    numbered.filter_map(|(n, line)| Some(BadSchedule { line: n + 1, problem: doubt(&schedule, line)? })).collect()
}

fn doubt(schedule: &Schedule, line: &str) -> Option<String> {
    let line = line.split('#').next()?.trim();
    let mut alone = Schedule::quiet(0);
    alone.take_line(line).ok()?;
    let Some(Entry { at, what: What::Fault(fault) }) = alone.entries.first() else { return None };
    if *at > schedule.safety {
        return Some(format!("behind {} s, where `safety` ends, nothing breaks", schedule.safety.as_secs_f64()));
    }
    nobody(schedule, fault.node)
        .or_else(|| spared(fault))
        .or_else(|| (line.contains(" towards=") && !fault.kind.dish().directed).then(|| undirected(fault.kind)))
}

fn nobody(schedule: &Schedule, node: Node) -> Option<String> {
    let (letter, n, all) = match node {
        Node::Coordinator => return None,
        Node::Worker(n) => ('w', n, schedule.workers),
        Node::Client(n) => ('c', n, schedule.clients),
    };
    let most = all - 1;
    let there = if most == 0 { format!("only {letter}0") } else { format!("{letter}0 to {letter}{most}") };
    (n > most).then(|| format!("there is no {node}, and nothing breaks: there is {there}"))
}

fn spared(fault: &Fault) -> Option<String> {
    let (fits, whom) = match (fault.kind.dish().scope, fault.node) {
        (Scope::Link, node) => (node != Node::Coordinator, "workers and clients"),
        (Scope::Worker, node) => (matches!(node, Node::Worker(_)), "workers"),
        (Scope::Coordinator, node) => (node == Node::Coordinator, "the coordinator"),
        (Scope::Anybody, _) => (true, "anybody"),
    };
    (!fits).then(|| format!("{} strikes {whom} alone, and {} is spared", fault.kind.name(), fault.node))
}

fn undirected(kind: Kind) -> String {
    format!("{} has no direction, and `towards` means nothing", kind.name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_mean_nothing_are_named_and_the_others_are_not() {
        let text = "\
rejoin schedule 1
workers 8
safety 30
1.0 crash w7 for=1 # the last one
2.0 crash w8 for=1
3.0 stall c1 towards=peer for=1
4.0 crash coordinator
5.0 restart w0
6.0 reset w0 towards=peer
6.5 pause coordinator for=1
31.0 submit c9 task=1
31.0 reset w0
";
        let all = doubts(text);
        let parts = [
            (5, "there is no w8, and nothing breaks: there is w0 to w7"),
            (6, "there is no c1, and nothing breaks: there is only c0"),
            (7, "crash strikes workers alone, and coordinator is spared"),
            (8, "restart strikes the coordinator alone, and w0 is spared"),
            (9, "reset has no direction"),
            (12, "behind 30 s"),
        ];
        assert_eq!(all.len(), parts.len(), "{all:#?}");
        for (doubt, (line, part)) in all.iter().zip(parts) {
            assert!(doubt.line == line && doubt.problem.contains(part), "{doubt}");
        }
        assert!(doubts("rain").is_empty());
    }
}
