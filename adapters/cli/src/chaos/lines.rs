//! Lines of a schedule as a proxy can do them
//!
//! The format is the simulator's, and so is its reader. What is new is `all` in the place of a node: every connection.

use std::time::Duration;

use rejoin_sim::Side;
use rejoin_sim::doubts::doubts;
use rejoin_sim::menu::{self, OF_WEBSOCKETS, Scope};
use rejoin_sim::schedule::{BadSchedule, Entry, Knob, Node, Schedule, WORKERS_MAX, What};
use rejoin_smol::chaos::{End, Fault, Kind, Whom};

/// Most bytes of a schedule
pub(super) const BYTES_MAX: u64 = 64 << 20;
/// Heartbeat period of the simulator's machines
const HEARTBEAT: Duration = Duration::from_secs(2);

/// What a schedule says of connections
#[derive(Debug)]
pub(super) struct Lines {
    pub(super) seed: u64,
    pub(super) workers: u16,
    pub(super) heartbeat: Duration,
    pub(super) latency: Duration,
    /// When everything heals
    pub(super) safety: Duration,
    /// In the order of time
    pub(super) faults: Vec<(Duration, Fault)>,
    /// Lines from which nothing comes
    pub(super) notes: Vec<String>,
}

impl Lines {
    /// Reads a schedule
    ///
    /// # Errors
    ///
    /// The line that is none, or that no proxy can do, and why.
    pub(super) fn read(text: &str) -> Result<Lines, String> {
        if text.len() as u64 > BYTES_MAX {
            return Err(format!("a schedule has at most {BYTES_MAX} bytes"));
        }
        let plain: Vec<String> = text.lines().map(|line| Plain::of(line).line).collect();
        let plain = plain.join("\n");
        let schedule: Schedule = plain.parse().map_err(|bad: BadSchedule| bad.to_string())?;
        let knob = |knob| schedule.setting(knob);
        let mut lines = Lines {
            seed: schedule.seed,
            workers: schedule.workers,
            heartbeat: knob(Knob::Heartbeat).map_or(HEARTBEAT, Duration::from_millis),
            latency: knob(Knob::Latency).map_or(Duration::ZERO, Duration::from_micros),
            safety: schedule.safety,
            faults: Vec::new(),
            notes: doubts(&plain).iter().map(ToString::to_string).collect(),
        };
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.split('#').next().unwrap_or_default();
            let bad = |problem| format!("line {number}: {problem}");
            let Ok(entry) = Plain::of(line).line.parse::<Entry>() else {
                lines.notes.extend(setting_note(line).map(bad));
                continue;
            };
            match struck(line, &entry, &schedule) {
                Ok(fault) => lines.faults.extend(fault.map(|fault| (entry.at, fault))),
                Err(Unfit::Task) => lines.notes.push(bad("tasks are not submitted here".to_owned())),
                Err(Unfit::Beyond(problem)) => return Err(bad(problem)),
            }
        }
        lines.faults.sort_by_key(|(at, _)| *at);
        Ok(lines)
    }
}

impl Lines {
    /// Whether any of them has it said again what was said before
    pub(super) fn repeats(&self) -> bool {
        self.faults.iter().any(|(_, fault)| matches!(fault.kind, Kind::Replay | Kind::Splice | Kind::Impostor))
    }
}

/// A line without a time, which strikes now, beside a schedule with so many workers or without any
///
/// # Errors
///
/// What is wrong with it, or that no proxy can do it.
pub(super) fn order(line: &str, workers: Option<u16>) -> Result<Fault, String> {
    if line.starts_with(|c: char| c.is_ascii_digit()) {
        return Err("an order has no time in front: it strikes now".to_owned());
    }
    let line = format!("0 {line}");
    let entry: Entry = Plain::of(&line).line.parse()?;
    if let What::Fault(fault) = &entry.what {
        match (fault.node, workers) {
            (Node::Worker(n), Some(workers)) if n >= workers => {
                return Err(format!("there are w0 to w{}, and behind them c0 and so on", workers - 1));
            }
            (Node::Client(_), None) => {
                return Err(
                    "c0 is behind the workers of a schedule, and there is none: w0 is the first of all".to_owned()
                );
            }
            _ => {}
        }
    }
    // Whoever gives orders can see who is there.
    let workers = workers.unwrap_or(WORKERS_MAX);
    let everybody = Schedule { workers, clients: u16::MAX, ..Schedule::quiet(0) };
    match struck(&line, &entry, &everybody) {
        Ok(Some(fault)) => Ok(fault),
        Ok(None) => Err("that strikes nobody: give w0, c0 or all, and of what strikes many, all".to_owned()),
        Err(Unfit::Task) => Err("tasks are not submitted here".to_owned()),
        Err(Unfit::Beyond(problem)) => Err(problem),
    }
}

/// Why a line is no fault of connections
enum Unfit {
    /// It is about tasks
    Task,
    /// No proxy can do it, for this reason
    Beyond(String),
}

/// The fault of a line; none if it strikes nobody
fn struck(line: &str, entry: &Entry, schedule: &Schedule) -> Result<Option<Fault>, Unfit> {
    let What::Fault(fault) = &entry.what else { return Err(Unfit::Task) };
    let Plain { all, kind, .. } = Plain::of(line);
    let kind = kind.or_else(|| Kind::named(fault.kind.name())).ok_or_else(|| Unfit::Beyond(beyond(fault.kind)))?;
    let amount = amount(kind, fault.amount).map_err(Unfit::Beyond)?;
    let of_many = fault.kind.dish().scope == Scope::Coordinator;
    let whom = match fault.node {
        _ if all => Some(Whom::All),
        Node::Coordinator => of_many.then_some(Whom::All),
        Node::Worker(n) => (!of_many && n < schedule.workers).then(|| Whom::Place(n.into())),
        Node::Client(n) => {
            (!of_many && n < schedule.clients).then(|| Whom::Place(u64::from(schedule.workers) + u64::from(n)))
        }
    };
    let towards = match fault.towards {
        Side::Peer => End::Peer,
        Side::Coordinator => End::Coordinator,
    };
    let whom = whom.filter(|_| entry.at <= schedule.safety);
    Ok(whom.map(|whom| Fault { kind, whom, towards, span: fault.span, amount, after: fault.after }))
}

/// A measure that means something; of an answer to an upgrade it is 503 where nothing is said
fn amount(kind: Kind, amount: u64) -> Result<u64, String> {
    let amount = if kind == Kind::HttpStatus && amount == 0 { 503 } else { amount };
    match kind.amounts().filter(|range| !range.contains(&amount)) {
        None => Ok(amount),
        Some(range) => Err(format!("amount: {} has one from {} to {}", kind.name(), range.start(), range.end())),
    }
}

/// Why no proxy can do a fault
fn beyond(kind: menu::Kind) -> String {
    use menu::Kind::{Downgrade, Regreet, Rogue};
    let why = if [Downgrade, Regreet, Rogue].contains(&kind) {
        "takes somebody who knows the protocol, or a key of it"
    } else {
        "befalls a process, its clock or its store"
    };
    format!("{} {why}, and this is a proxy: leave the line out, or `rejoin sim replay` the schedule", kind.name())
}

/// A line as the simulator would say it, and what it really says
struct Plain {
    line: String,
    all: bool,
    /// A kind that the simulator does not have
    kind: Option<Kind>,
}

impl Plain {
    /// With a kind and a node that the simulator knows in the place of those that it does not
    fn of(line: &str) -> Plain {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        let kind = words.get(1).copied().filter(|name| OF_WEBSOCKETS.contains(name)).and_then(Kind::named);
        if let Some(kind) = kind {
            // One with the same fields.
            words[1] = if kind.is_directed() { "drop" } else { "refuse" };
        }
        let all = words.get(2) == Some(&"all");
        if all {
            let of_many = menu::Kind::named(words[1]).is_some_and(|kind| kind.dish().scope == Scope::Coordinator);
            words[2] = if of_many { "coordinator" } else { "w0" };
        }
        let line = if all || kind.is_some() { words.join(" ") } else { line.to_owned() };
        Plain { line, all, kind }
    }
}

/// Why a setting means nothing here, if it is one of those
fn setting_note(line: &str) -> Option<String> {
    let name = line.trim().strip_prefix("set ")?.split_whitespace().next()?;
    let known = [Knob::Heartbeat, Knob::Latency].iter().any(|knob| knob.name() == name);
    (!known).then(|| format!("{name} is a setting of machines, which are not here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str) -> Result<Lines, String> {
        Lines::read(&format!("rejoin schedule 1\n{lines}"))
    }

    #[test]
    fn every_kind_means_what_it_means_in_the_simulator() {
        for kind in Kind::ALL {
            match menu::Kind::named(kind.name()) {
                Some(menu) => assert_eq!(kind.is_directed(), menu.dish().directed, "{}", kind.name()),
                None => assert!(OF_WEBSOCKETS.contains(&kind.name()), "{} is not on the menu", kind.name()),
            }
        }
        assert!(OF_WEBSOCKETS.iter().all(|name| Kind::named(name).is_some() && menu::Kind::named(name).is_none()));
        let rest: Vec<&str> =
            menu::Kind::ALL.iter().map(|kind| kind.name()).filter(|name| Kind::named(name).is_none()).collect();
        for name in ["crash", "pause", "drift", "slow-sync", "wipe-store", "rogue", "downgrade"] {
            assert!(rest.contains(&name), "{name}");
        }
    }

    #[test]
    fn lines_name_connections_by_place_or_all_of_them() {
        let text = "\
seed 9
workers 2
clients 1
safety 30
set heartbeat-ms 500
set latency-us 700
3.0 delay c0 towards=coordinator for=1.5 amount=2000 # a remark
2.0 reset w1
1.0 flip all amount=9
4.0 split coordinator for=1 amount=500
5.0 mass-reset all amount=1000
";
        let lines = read(text).unwrap();
        assert_eq!((lines.seed, lines.workers, lines.safety.as_secs(), lines.notes.len()), (9, 2, 30, 0));
        assert_eq!((lines.heartbeat.as_millis(), lines.latency.as_micros()), (500, 700));
        let whom: Vec<(Kind, Whom)> = lines.faults.iter().map(|(_, fault)| (fault.kind, fault.whom)).collect();
        let expected = [
            (Kind::Flip, Whom::All),
            (Kind::Reset, Whom::Place(1)),
            (Kind::Delay, Whom::Place(2)),
            (Kind::Split, Whom::All),
            (Kind::MassReset, Whom::All),
        ];
        assert_eq!(whom, expected);
        let (at, delay) = lines.faults[2];
        assert_eq!(
            (at.as_secs(), delay.span.as_millis(), delay.amount, delay.towards),
            (3, 1500, 2000, End::Coordinator)
        );
    }

    #[test]
    fn what_no_proxy_can_do_is_refused_with_its_line() {
        for (line, part) in [
            ("1.0 crash w0 for=1", "line 2: crash befalls a process, its clock or its store"),
            ("1.0 drift all amount=3", "line 2: drift befalls"),
            ("1.0 slow-sync coordinator for=1 amount=1000", "line 2: slow-sync befalls"),
            ("\n1.0 downgrade w0", "line 3: downgrade takes somebody who knows the protocol"),
            ("1.0 rain w0", "line 2: there is no fault rain"),
            ("1.0 close-frame w0 amount=65536", "line 2: amount: close-frame has one from 0 to 65535"),
            ("1.0 http-status all amount=199", "line 2: amount: http-status has one from 200 to 599"),
            ("1.0 reset all after=1", "line 2: after: reset does not wait for a message"),
            ("1.0 reset x0", "line 2: x0 is nobody"),
            ("seed 1\nseed 2", "line 3: this is in line 2 already"),
        ] {
            let problem = read(line).unwrap_err();
            assert!(problem.starts_with(part) || problem.contains(part), "{problem}");
        }
    }

    #[test]
    fn faults_of_websockets_are_lines_as_well_and_messages_may_go_before() {
        let lines = read("1.0 fragment w1 towards=coordinator amount=9 after=4\n2.0 http-status all for=3\n").unwrap();
        let [(_, fragment), (_, status)] = lines.faults[..] else { panic!("{:?}", lines.faults) };
        assert_eq!((fragment.kind, fragment.amount, fragment.after), (Kind::Fragment, 9, 4));
        assert_eq!((fragment.whom, fragment.towards), (Whom::Place(1), End::Coordinator));
        assert_eq!((status.kind, status.amount, status.span.as_secs()), (Kind::HttpStatus, 503, 3));
        assert!(lines.notes.is_empty(), "{:?}", lines.notes);
        assert_eq!(order("close-frame all amount=1001", None).unwrap().kind, Kind::CloseFrame);
    }

    #[test]
    fn what_nothing_comes_of_is_noted_and_left_out() {
        let text = "\
workers 1
safety 10
set slots 2
1.0 submit c0 task=1
1.0 reset w1
1.0 partition coordinator for=1
11.0 reset w0
2.0 reset w0
";
        let lines = read(text).unwrap();
        assert_eq!(lines.faults.len(), 1);
        for (line, part) in [(4, "machines"), (5, "tasks"), (6, "there is no w1"), (7, "is spared"), (8, "behind 10 s")]
        {
            let note = lines.notes.iter().find(|note| note.starts_with(&format!("line {line}: ")));
            assert!(note.is_some_and(|note| note.contains(part)), "{line}: {:?}", lines.notes);
        }
    }

    #[test]
    fn orders_are_lines_without_a_time() {
        let fault = order("stall w1 towards=coordinator for=2", Some(3)).unwrap();
        assert_eq!((fault.kind, fault.whom, fault.towards), (Kind::Stall, Whom::Place(1), End::Coordinator));
        assert_eq!(order("reset c1", Some(3)).unwrap().whom, Whom::Place(4));
        assert_eq!(order("reset all", Some(3)).unwrap().whom, Whom::All);
        assert_eq!(order("reset w1999", None).unwrap().whom, Whom::Place(1999));
        assert!(order("reset c0", None).unwrap_err().contains("w0 is the first of all"));
        for (line, part) in [
            ("reset", "to whom"),
            ("reset w3", "w0 to w2"),
            ("reset coordinator", "strikes nobody"),
            ("crash w0", "befalls a process"),
            ("submit c0 task=1", "tasks"),
            ("1.0 reset w0", "no time in front"),
        ] {
            let problem = order(line, Some(3)).unwrap_err();
            assert!(problem.contains(part), "{problem}");
        }
    }
}
