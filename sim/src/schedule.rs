//! A schedule: all that differs from a quiet world, as text
//!
//! A simulation is a function of its schedule and of nothing else. Each line is one decision that stands for itself, so
//! that any subset of the lines is a schedule as well: that is what shrinking needs. Lines name what happens and not
//! what was drawn, so that they mean the same after the generator has changed.
//!
//! ```text
//! rejoin schedule 1
//! seed 17
//! workers 3
//! clients 1
//! safety 60.000000
//! set heartbeat-ms 500
//! 0.120000 submit c0 task=1 takes=0.300000 prints=200
//! 4.250000 stall w2 towards=coordinator for=1.500000
//! 6.000000 crash coordinator for=0.200000
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rejoin_core::limits::BLOB_BYTES_MAX;
use rejoin_core::terms::{Class, OnReturn, Replace, Span, Terms};

use crate::menu::{Kind, OF_WEBSOCKETS};
use crate::net::Side;

/// Most workers of a schedule
pub const WORKERS_MAX: u16 = 10_000;
/// Most clients of a schedule
pub const CLIENTS_MAX: u16 = 100;

/// Everything that happens in one simulation
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// Of whatever is still drawn: jitter, nonces, the order of what happens at once
    pub seed: u64,
    /// Workers
    pub workers: u16,
    /// Clients, at least one
    pub clients: u16,
    /// How long faults may happen; then everything heals
    pub safety: Duration,
    /// Settings that are not at their defaults
    pub settings: Vec<Setting>,
    /// What happens, in the order of time
    pub entries: Vec<Entry>,
}

/// A setting that is not at its default
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Which one
    pub name: Knob,
    /// In the unit of its name
    pub value: u64,
}

/// Something that happens at a time
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From the start
    pub at: Duration,
    /// What
    pub what: What,
}

/// Something that happens
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A client submits a task
    Submit(Task),
    /// A client asks for a task to be stopped
    Cancel {
        /// Which client
        client: u16,
        /// Number of the task
        task: u32,
    },
    /// A client submits what another one has submitted: the same task (TASK-1)
    Again {
        /// Which client
        client: u16,
        /// Number of the task
        task: u32,
    },
    /// A client submits something else under the id of a task: one of the two is refused (TASK-1)
    Clash {
        /// Which client
        client: u16,
        /// Number of the task
        task: u32,
    },
    /// Something breaks
    Fault(Fault),
}

impl What {
    /// Whether it is a fault of one of these kinds
    pub(crate) fn is_one_of(&self, kinds: &[Kind]) -> bool {
        matches!(self, What::Fault(fault) if kinds.contains(&fault.kind))
    }
}

/// Bytes of a checkpoint, where nothing else is said
const SAVES: u32 = 20;

/// A task, and what executing it is like
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Task {
    /// Which client submits it
    pub client: u16,
    /// Its number, from which it has its id
    pub number: u32,
    /// 0 is the most urgent
    pub priority: u8,
    /// How often it may fail
    pub retries: u32,
    /// From start to end
    pub takes: Duration,
    /// Bytes of standard output
    pub prints: u32,
    /// Bytes of its result
    pub returns: u32,
    /// Bytes of its input
    pub input: u32,
    /// How many of its first attempts fail
    pub fails: u32,
    /// How many of its first attempts take their worker with them
    pub poison: u32,
    /// Steps of equal length; behind each but the last it makes a checkpoint
    pub steps: u8,
    /// Bytes of each checkpoint; of one that is too large for a message it goes in chunks
    pub saves: u32,
    /// What may happen to it when its worker is out of reach
    pub terms: Terms,
}

impl Task {
    /// A silent task of 100 ms
    pub fn new(client: u16, number: u32) -> Task {
        Task {
            client,
            number,
            priority: 2,
            retries: 0,
            takes: Duration::from_millis(100),
            prints: 0,
            returns: 0,
            input: 0,
            fails: 0,
            poison: 0,
            steps: 1,
            saves: SAVES,
            terms: Terms::default(),
        }
    }
}

/// Something that breaks; which of the fields mean something depends on the kind
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What breaks
    pub kind: Kind,
    /// Whose network, clock or life
    pub node: Node,
    /// In which direction, for what has one
    pub towards: Side,
    /// For how long
    pub span: Duration,
    /// How much, in the unit of the kind
    pub amount: u64,
    /// Of messages, how many go before the one that is struck
    pub after: u64,
}

/// Who
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// The coordinator
    Coordinator,
    /// A worker
    Worker(u16),
    /// A client
    Client(u16),
}

macro_rules! knobs {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $low:literal, $high:literal;)*) => {
        /// A setting that a schedule may change
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Knob {
            $($(#[$doc])* $variant),*
        }

        impl Knob {
            /// All of them
            pub const ALL: &'static [Knob] = &[$(Knob::$variant),*];

            /// Its name in a schedule
            pub fn name(self) -> &'static str {
                match self {
                    $(Knob::$variant => $name),*
                }
            }

            /// Smallest and largest value
            pub fn range(self) -> (u64, u64) {
                match self {
                    $(Knob::$variant => ($low, $high)),*
                }
            }
        }
    };
}

knobs! {
    /// Heartbeat period of everybody
    Heartbeat = "heartbeat-ms", 50, 40_000;
    /// From a worker's disconnection to giving its tasks to others
    LostAfter = "lost-after-ms", 0, 86_400_000;
    /// How long workers may take to come back after a restart of the coordinator
    RecoveryWindow = "recovery-window-ms", 0, 86_400_000;
    /// How long a session outlives its connection
    SessionLifetime = "session-lifetime-ms", 0, 86_400_000;
    /// Longest pause between two dials
    BackoffCap = "backoff-cap-ms", 100, 120_000;
    /// Tasks that a worker runs at a time
    Slots = "slots", 1, 64;
    /// Tasks that wait at a worker
    Prefetch = "prefetch", 0, 64;
    /// Attempts that a worker holds
    AttemptsMax = "attempts-max", 1, 512;
    /// Crashes that end a task as poisonous
    CrashesMax = "crashes-max", 1, 1_000_000;
    /// Pause before a failed attempt is followed by another
    RetryPause = "retry-pause-ms", 0, 60_000;
    /// How long a sync takes
    SyncTakes = "sync-us", 0, 60_000_000;
    /// One way, unless a fault says otherwise
    Latency = "latency-us", 0, 1_000_000;
    /// Bytes that may wait on their way before a connection is not writable
    SendBuffer = "send-buffer-bytes", 1, 1_000_000_000;
    /// Whether lz4 may be used
    Compress = "compress", 0, 1;
    /// Bytes of a bulk piece, 0 for what is found out (FRAME-4)
    BulkPiece = "bulk-piece-bytes", 0, 32_768;
    /// Bytes of bulk that may be under way, 0 for what is found out (FRAME-4)
    BulkUnderWay = "bulk-under-way-bytes", 0, 1_048_576;
    /// Bytes from which on a body is compressed, 0 for what is found out (FRAME-5)
    CompressFrom = "compress-from-bytes", 0, 65_000;
    /// How long a task runs until it is asked for a checkpoint, 0 for what is found out (LIVE-6)
    CheckpointEvery = "checkpoint-every-ms", 0, 86_400_000;
    /// New connections per second
    AdmissionRate = "admission-rate", 1, 100_000;
    /// How long a task waits until it counts as one priority more urgent
    Ageing = "ageing-ms", 0, 86_400_000;
    /// Losses of its worker that end a task
    LossesMax = "losses-max", 1, 1_000_000;
    /// Tasks that the coordinator keeps
    TasksMax = "tasks-max", 1, 1_000_000;
    /// Connections that have not proved who they are
    PendingMax = "pending-max", 2, 100_000;
    /// Bytes of a task's output
    OutputMax = "output-max-bytes", 0, 1_000_000_000;
    /// What is run besides: 1 the same with replay switched off (S33), 2 the same without faults (L10)
    Compare = "compare", 0, 2;
    /// Bytes of all checkpoints together
    CheckpointsMax = "checkpoints-max-bytes", 0, 1_000_000_000;
    /// Workers that lose their connections too often within this get less work
    FlappingWithin = "flapping-within-ms", 0, 86_400_000;
    /// How long losses are delayed after many workers have vanished at a time
    BrakeFor = "brake-ms", 0, 86_400_000;
    /// How long a lease lasts from its last renewal, and at least three heartbeats
    LeaseTtl = "lease-ttl-ms", 1, 86_400_000;
    /// How long after its end an exclusive task is over
    LeaseGrace = "lease-grace-ms", 0, 86_400_000;
    /// Whether resumed sessions are always reconciled instead (SESS-7)
    NoReplay = "no-replay", 0, 1;
    /// Whether workers keep what they have finished until it is settled, also when they crash (SESS-9)
    Keeps = "keeps", 0, 1;
}

impl Schedule {
    /// A quiet world with nothing to do
    pub fn quiet(seed: u64) -> Schedule {
        let (settings, entries) = (Vec::new(), Vec::new());
        Schedule { seed, workers: 3, clients: 1, safety: Duration::from_secs(60), settings, entries }
    }

    /// Puts what happens into the order of time; what happens at once stays in its order
    pub fn sort(&mut self) {
        self.entries.sort_by_key(|entry| entry.at);
    }

    /// A setting, if it is not at its default
    pub fn setting(&self, name: Knob) -> Option<u64> {
        self.settings.iter().rev().find(|setting| setting.name == name).map(|setting| setting.value)
    }

    /// How many faults it has
    pub fn faults(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry.what, What::Fault(_))).count()
    }

    /// How many tasks it has
    pub fn tasks(&self) -> usize {
        self.entries.iter().filter(|entry| matches!(entry.what, What::Submit(_))).count()
    }
}

/// Why a text is no schedule
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSchedule {
    /// Which line, from 1
    pub line: usize,
    /// What is wrong with it
    pub problem: String,
}

impl fmt::Display for BadSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.problem)
    }
}

impl std::error::Error for BadSchedule {}

const FIRST_LINE: &str = "rejoin schedule 1";

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{FIRST_LINE}\nseed {}\nworkers {}\nclients {}", self.seed, self.workers, self.clients)?;
        writeln!(f, "safety {}", Seconds(self.safety))?;
        for Setting { name, value } in &self.settings {
            writeln!(f, "set {} {value}", name.name())?;
        }
        self.entries.iter().try_for_each(|entry| writeln!(f, "{entry}"))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", Seconds(self.at), self.what)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Submit(task) => {
                let plain = Task::new(task.client, task.number);
                write!(f, "submit c{} task={}", task.client, task.number)?;
                let mut number = |name, value: u64, usual: u64| {
                    if value == usual { Ok(()) } else { write!(f, " {name}={value}") }
                };
                number("priority", task.priority.into(), plain.priority.into())?;
                number("retries", task.retries.into(), 0)?;
                number("prints", task.prints.into(), 0)?;
                number("returns", task.returns.into(), 0)?;
                number("input", task.input.into(), 0)?;
                number("fails", task.fails.into(), 0)?;
                number("poison", task.poison.into(), 0)?;
                number("steps", task.steps.into(), 1)?;
                number("saves", task.saves.into(), SAVES.into())?;
                write_terms(f, &task.terms)?;
                write!(f, " takes={}", Seconds(task.takes))
            }
            What::Cancel { client, task } => write!(f, "cancel c{client} task={task}"),
            What::Again { client, task } => write!(f, "again c{client} task={task}"),
            What::Clash { client, task } => write!(f, "clash c{client} task={task}"),
            What::Fault(fault) => {
                write!(f, "{} {}", fault.kind.name(), fault.node)?;
                if fault.kind.dish().directed {
                    write!(f, " towards={}", fault.towards)?;
                }
                if !fault.span.is_zero() {
                    write!(f, " for={}", Seconds(fault.span))?;
                }
                if fault.amount > 0 {
                    write!(f, " amount={}", fault.amount)?;
                }
                if fault.after > 0 { write!(f, " after={}", fault.after) } else { Ok(()) }
            }
        }
    }
}

fn write_terms(f: &mut fmt::Formatter<'_>, terms: &Terms) -> fmt::Result {
    match terms.class {
        Class::Pure => f.write_str(" class=pure")?,
        Class::Idempotent => {}
        Class::Exclusive => f.write_str(" class=exclusive")?,
    }
    match terms.replace {
        Replace::Never => f.write_str(" replace=never")?,
        Replace::WhenLost => {}
        Replace::After(span) => write!(f, " replace={}", Seconds(span.get()))?,
    }
    match terms.on_return {
        OnReturn::FirstResult => {}
        OnReturn::KeepReplacement => f.write_str(" on-return=keep-replacement")?,
    }
    let spans = [
        ("lost-after", terms.lost_after),
        ("self-stop", terms.self_stop_after),
        ("progress-timeout", terms.progress_timeout),
    ];
    let mut given = spans.into_iter().filter_map(|(name, span)| Some((name, span?)));
    given.try_for_each(|(name, span)| write!(f, " {name}={}", Seconds(span.get())))
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Coordinator => f.write_str("coordinator"),
            Node::Worker(n) => write!(f, "w{n}"),
            Node::Client(n) => write!(f, "c{n}"),
        }
    }
}

/// A time as seconds with six digits behind the point
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0.as_secs(), self.0.subsec_micros())
    }
}

impl FromStr for Schedule {
    type Err = BadSchedule;

    fn from_str(text: &str) -> Result<Schedule, BadSchedule> {
        let mut schedule = Schedule::quiet(0);
        let mut begun = false;
        let mut given = BTreeMap::new();
        for (index, raw) in text.lines().enumerate() {
            let line = raw.split('#').next().unwrap_or_default().trim();
            let bad = |problem: String| BadSchedule { line: index + 1, problem };
            if line.is_empty() {
                continue;
            }
            if !std::mem::replace(&mut begun, true) {
                if line != FIRST_LINE {
                    return Err(bad(format!("a schedule begins with `{FIRST_LINE}`")));
                }
                continue;
            }
            if let Some(before) = once(line).and_then(|what| given.insert(what, index + 1)) {
                return Err(bad(format!("this is in line {before} already: {line}")));
            }
            schedule.take_line(line).map_err(bad)?;
        }
        if !begun {
            return Err(BadSchedule { line: 1, problem: format!("a schedule begins with `{FIRST_LINE}`") });
        }
        schedule.sort();
        Ok(schedule)
    }
}

impl FromStr for Entry {
    type Err = String;

    /// A line with a time in front
    fn from_str(line: &str) -> Result<Entry, String> {
        let mut alone = Schedule::quiet(0);
        alone.take_line(line.trim())?;
        alone.entries.pop().ok_or_else(|| format!("it has no time in front, as in 1.500000: {line}"))
    }
}

/// What a line sets that may be set but once; nothing for what happens at a time
fn once(line: &str) -> Option<&str> {
    let (first, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let setting = || rest.split_whitespace().next().unwrap_or_default();
    HEADS.contains(&first).then(|| if first == "set" { setting() } else { first })
}

/// First words of lines that are not about a time
const HEADS: [&str; 5] = ["seed", "workers", "clients", "safety", "set"];

impl Schedule {
    pub(crate) fn take_line(&mut self, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let mut one = |what: &str| words.next().ok_or_else(|| format!("{what} is missing"));
        match first {
            "seed" => self.seed = bounded(one("the seed")?, 0, u64::MAX)?,
            "workers" => self.workers = bounded(one("the number")?, 1, WORKERS_MAX)?,
            "clients" => self.clients = bounded(one("the number")?, 1, CLIENTS_MAX)?,
            "safety" => self.safety = seconds(one("the time")?)?,
            "set" => {
                let name = one("the name of the setting")?;
                let known = Knob::ALL.iter().find(|knob| knob.name() == name);
                let names = || Knob::ALL.iter().map(|knob| knob.name()).collect::<Vec<_>>().join(", ");
                let name = *known.ok_or_else(|| format!("there is no setting {name}; there are {}", names()))?;
                let (low, high) = name.range();
                let value = bounded(one("the value")?, low, high).map_err(|bad| format!("{}: {bad}", name.name()))?;
                self.settings.push(Setting { name, value });
            }
            _ => {
                let at = seconds(first).map_err(|_| {
                    format!(
                        "{first} is neither a time of at most {SECONDS_MAX} s, as in 1.500000, nor one of {}",
                        HEADS.join(", ")
                    )
                })?;
                self.entries.push(Entry { at, what: entry(&mut words)? });
                return Ok(());
            }
        }
        match words.next() {
            None => Ok(()),
            Some(word) => Err(format!("nothing is expected behind that: {word}")),
        }
    }
}

fn entry<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<What, String> {
    let kind = words.next().ok_or("it is missing what happens")?;
    let node: Node = words.next().ok_or("it is missing to whom")?.parse()?;
    match kind {
        "submit" => {
            let Node::Client(client) = node else { return Err("only clients submit".into()) };
            let mut task = Task::new(client, 0);
            let fields = fields(words)?;
            if !fields.iter().any(|(name, _)| *name == "task") {
                return Err("it is missing which task, as in task=1".into());
            }
            for (name, value) in fields {
                task_field(&mut task, name, value).map_err(|bad| format!("{name}: {bad}"))?;
            }
            task.terms.validate().map_err(|bad| bad.to_string())?;
            Ok(What::Submit(task))
        }
        "cancel" | "again" | "clash" => {
            let Node::Client(client) = node else { return Err(format!("only clients {kind}")) };
            let fields = fields(words)?;
            let &[("task", number)] = fields.as_slice() else {
                return Err("it is missing which task, as in task=1, or says more than that".into());
            };
            let task = bounded(number, 0, u32::MAX).map_err(|bad| format!("task: {bad}"))?;
            Ok(match kind {
                "cancel" => What::Cancel { client, task },
                "again" => What::Again { client, task },
                _ => What::Clash { client, task },
            })
        }
        _ => {
            let kind = Kind::named(kind).ok_or_else(|| no_fault(kind))?;
            let mut fault = Fault { kind, node, towards: Side::Peer, span: Duration::ZERO, amount: 0, after: 0 };
            for (name, value) in fields(words)? {
                fault_field(&mut fault, name, value).map_err(|bad| format!("{name}: {bad}"))?;
            }
            Ok(What::Fault(fault))
        }
    }
}

fn no_fault(name: &str) -> String {
    if OF_WEBSOCKETS.contains(&name) {
        return format!("{name} befalls WebSockets, and there are none here: `rejoin chaos` does it on real ones");
    }
    format!("there is no fault {name}; `rejoin sim menu` lists them, and there are submit, cancel, again and clash")
}

fn span(value: &str) -> Result<Span, String> {
    Span::try_from(seconds(value)?).map_err(|bad| bad.to_string())
}

fn task_field(task: &mut Task, name: &str, value: &str) -> Result<(), String> {
    match name {
        "task" => task.number = bounded(value, 0, u32::MAX)?,
        "priority" => task.priority = bounded(value, 0, 4)?,
        "retries" => task.retries = bounded(value, 0, 1_000_000)?,
        "takes" => task.takes = seconds(value)?,
        "prints" => task.prints = bounded(value, 0, 1 << 27)?,
        "returns" => task.returns = bounded(value, 0, RETURNS_MAX)?,
        "input" => task.input = bounded(value, 0, INPUT_MAX)?,
        "fails" => task.fails = bounded(value, 0, 1_000_000)?,
        "poison" => task.poison = bounded(value, 0, 1_000_000)?,
        "steps" => task.steps = bounded(value, 1, 200)?,
        "saves" => task.saves = bounded(value, 1, 1 << 27)?,
        "class" => {
            task.terms.class = match value {
                "pure" => Class::Pure,
                "idempotent" => Class::Idempotent,
                "exclusive" => Class::Exclusive,
                _ => return Err(format!("{value} is none of pure, idempotent and exclusive")),
            }
        }
        "replace" => {
            task.terms.replace = match value {
                "never" => Replace::Never,
                "when-lost" => Replace::WhenLost,
                _ => Replace::After(span(value)?),
            }
        }
        "on-return" => {
            task.terms.on_return = match value {
                "first-result" => OnReturn::FirstResult,
                "keep-replacement" => OnReturn::KeepReplacement,
                _ => return Err(format!("{value} is neither first-result nor keep-replacement")),
            }
        }
        "lost-after" => task.terms.lost_after = Some(span(value)?),
        "self-stop" => task.terms.self_stop_after = Some(span(value)?),
        "progress-timeout" => task.terms.progress_timeout = Some(span(value)?),
        _ => {
            let all = "task, priority, retries, takes, prints, returns, input, fails, poison, steps, saves, class, \
                       replace, on-return, lost-after, self-stop and progress-timeout";
            return Err(format!("no task has that; there are {all}"));
        }
    }
    Ok(())
}

fn fault_field(fault: &mut Fault, name: &str, value: &str) -> Result<(), String> {
    match (name, value) {
        ("towards", "peer") => fault.towards = Side::Peer,
        ("towards", "coordinator") => fault.towards = Side::Coordinator,
        ("towards", _) => return Err(format!("neither peer nor coordinator: {value}")),
        ("for", span) => fault.span = seconds(span)?,
        ("amount", amount) => fault.amount = bounded(amount, 0, AMOUNT_MAX)?,
        ("after", after) if fault.kind.is_of_messages() => fault.after = bounded(after, 0, AFTER_MAX)?,
        ("after", _) => return Err(format!("{} does not wait for a message, and has none", fault.kind.name())),
        _ => return Err("no fault has that; there are towards, for, amount and after".into()),
    }
    Ok(())
}

impl FromStr for Node {
    type Err = String;

    fn from_str(text: &str) -> Result<Node, String> {
        let (worker, client) = (WORKERS_MAX - 1, CLIENTS_MAX - 1);
        let bad = || format!("{text} is nobody: there are coordinator, w0 to w{worker} and c0 to c{client}");
        if text == "coordinator" {
            return Ok(Node::Coordinator);
        }
        let (kind, n) = text.split_at_checked(1).ok_or_else(bad)?;
        let n = n.parse().map_err(|_| bad())?;
        match kind {
            "w" if n < WORKERS_MAX => Ok(Node::Worker(n)),
            "c" if n < CLIENTS_MAX => Ok(Node::Client(n)),
            _ => Err(bad()),
        }
    }
}

/// The fields of a line, each at most once
fn fields<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Vec<(&'a str, &'a str)>, String> {
    let mut fields = Vec::new();
    for word in words {
        let (name, value) = pair(word)?;
        if fields.iter().any(|(known, _)| *known == name) {
            return Err(format!("{name} is there twice"));
        }
        fields.push((name, value));
    }
    Ok(fields)
}

fn pair(word: &str) -> Result<(&str, &str), String> {
    word.split_once('=').ok_or_else(|| format!("not of the form name=value: {word}"))
}

fn bounded<T: FromStr + PartialOrd + fmt::Display>(text: &str, low: T, high: T) -> Result<T, String> {
    let number = text.parse().ok().filter(|n| (&low..=&high).contains(&n));
    number.ok_or_else(|| format!("not a number from {low} to {high}: {text}"))
}

/// Longest time that a schedule may name: a week
const SECONDS_MAX: u64 = 7 * 86_400;
/// Largest result of a task: one byte more than there may be (FRAME-3)
const RETURNS_MAX: u32 = BLOB_BYTES_MAX as u32 + 1;
/// Largest input of a task, in front of which its number goes (FRAME-3)
const INPUT_MAX: u32 = BLOB_BYTES_MAX as u32;
/// Largest measure of a fault: some twelve days in microseconds
pub(crate) const AMOUNT_MAX: u64 = 1 << 40;
/// Most messages that go before the one that a fault strikes
const AFTER_MAX: u64 = 1_000_000_000;

fn seconds(text: &str) -> Result<Duration, String> {
    let bad = || {
        format!(
            "not a time from 0 to {SECONDS_MAX} seconds with up to six digits behind the point, as in 1.500000: {text}"
        )
    };
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 6 {
        return Err(bad());
    }
    let secs: u64 = whole.parse().ok().filter(|secs| *secs <= SECONDS_MAX).ok_or_else(bad)?;
    let micros: u64 = format!("{part:0<6}").parse().map_err(|_| bad())?;
    let span = Duration::from_secs(secs) + Duration::from_micros(micros);
    if span <= Duration::from_secs(SECONDS_MAX) { Ok(span) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
rejoin schedule 1
seed 17
workers 3
clients 2
safety 60.000000
set heartbeat-ms 500
0.120000 submit c1 task=1 priority=0 prints=200 steps=3 takes=0.300000
0.500000 cancel c1 task=1
0.600000 again c0 task=1
0.700000 clash c0 task=1
4.250000 stall w2 towards=coordinator for=1.500000
5.000000 drop w1 towards=peer after=3
6.000000 crash coordinator for=0.200000
";

    #[test]
    fn a_schedule_reads_what_it_writes_and_any_subset_of_its_lines_is_one() {
        let schedule: Schedule = TEXT.parse().unwrap();
        assert_eq!(schedule.to_string(), TEXT);
        assert_eq!((schedule.faults(), schedule.tasks(), schedule.setting(Knob::Heartbeat)), (3, 1, Some(500)));
        let lines: Vec<&str> = TEXT.lines().collect();
        for without in 1..lines.len() {
            let text: Vec<&str> = lines.iter().enumerate().filter(|(n, _)| *n != without).map(|(_, l)| *l).collect();
            text.join("\n").parse::<Schedule>().unwrap();
        }
        let disordered = "rejoin schedule 1\n2.0 flip w0 towards=peer amount=9 # a remark\n\n1 crash w1\n";
        let sorted = disordered.parse::<Schedule>().unwrap().to_string();
        assert!(sorted.ends_with("1.000000 crash w1\n2.000000 flip w0 towards=peer amount=9\n"), "{sorted}");
    }

    #[test]
    fn what_is_no_schedule_is_told_with_its_line_and_what_is_wrong() {
        for (text, line, part) in [
            ("", 1, "begins with"),
            ("seed 1", 1, "begins with"),
            ("rejoin schedule 1\nworkers 0", 2, "from 1 to 10000"),
            ("rejoin schedule 1\nset pace 3", 2, "there is no setting pace; there are heartbeat-ms"),
            ("rejoin schedule 1\n\n1.0 rain w0", 3, "no fault rain"),
            ("rejoin schedule 1\n1.0 crash x0", 2, "x0 is nobody"),
            ("rejoin schedule 1\n1.0000001 crash w0", 2, "neither a time"),
            ("rejoin schedule 1\n1.0 crash w0 soon", 2, "name=value"),
            ("rejoin schedule 1\n1.0 submit w0 task=1", 2, "only clients submit"),
            ("rejoin schedule 1\n1.0 submit c0 task=1 steps=0", 2, "from 1 to 200"),
            ("rejoin schedule 1\n1.0 submit c0 task=1 input=16777217", 2, "from 0 to 16777216"),
            ("rejoin schedule 1\n1.0 submit c0 task=1 poison=4000000000", 2, "from 0 to 1000000"),
            ("rejoin schedule 1\n1.0 delay w0 amount=18446744073709551615", 2, "from 0 to"),
            ("rejoin schedule 1\nset heartbeat-ms 0", 2, "from 50 to 40000"),
            ("rejoin schedule 1\nseed 1 2", 2, "nothing is expected"),
            ("rejoin schedule 1\n99999999999 crash w0", 2, "neither a time of at most 604800 s"),
            ("rejoin schedule 1\n604800.000001 crash w0", 2, "neither a time of at most 604800 s"),
            ("rejoin schedule 1\n1.0 crash w0 for=1 for=2", 2, "for is there twice"),
            ("rejoin schedule 1\n1.0 submit c0 task=1 task=1", 2, "task is there twice"),
            ("rejoin schedule 1\n1.0 crash w0 for=1s", 2, "for: not a time from 0 to 604800 seconds"),
            ("rejoin schedule 1\n1.0 stall w0 towards=me", 2, "towards: neither peer nor coordinator"),
            ("rejoin schedule 1\n1.0 crash w0 pace=1", 2, "there are towards, for, amount and after"),
            ("rejoin schedule 1\n1.0 crash w0 after=1", 2, "after: crash does not wait for a message"),
            ("rejoin schedule 1\n1.0 fragment w0", 2, "fragment befalls WebSockets"),
            ("rejoin schedule 1\n1.0 submit c0 takes=1", 2, "as in task=1"),
            ("rejoin schedule 1\n1.0 cancel c0 task=1 task=1", 2, "task is there twice"),
            ("rejoin schedule 1\n1.0 crash w10000", 2, "w0 to w9999 and c0 to c99"),
            ("rejoin schedule 1\nseed 1\n\nseed 2", 4, "in line 2 already"),
            ("rejoin schedule 1\nset slots 1\nset prefetch 1\nset slots 2", 4, "in line 2 already"),
            ("rejoin schedule 1\nset slots 65", 2, "slots: not a number from 1 to 64"),
            ("rejoin schedule 1\nseed -1", 2, "from 0 to 18446744073709551615"),
        ] {
            let error = text.parse::<Schedule>().unwrap_err();
            assert!(error.line == line && error.problem.contains(part), "{text:?}: {error}");
        }
    }
}
