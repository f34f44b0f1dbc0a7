//! All states, level by level, on any number of threads
//!
//! Worlds are large and states are many, so that a state is kept as its parent and the place of the choice that led to it. Whoever
//! goes on from it makes it again: states of a level are gone through in the order of a walk through the tree, so that most
//! of the way is there already. Batches are of one size and are merged in their order, so that the result is the same on any
//! number of threads.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rejoin_core::limits::FRAME_BYTES_MAX;

use super::choice::{Choice, Kind};
use super::world::{Frame, Size, World};
use crate::audit::{Check, Violation};

/// States that are gone on from before what they led to is merged
const BATCH: usize = 8192;
/// States of a batch that a thread takes at a time
const CHUNK: usize = 64;
/// One state in so many is healed and run to its end, and every one from which nothing but time goes on
const HEALED_ONE_IN: u64 = 64;
/// Most steps until a healed world is at its end
const HEALED_STEPS_MAX: usize = 5_000;

/// How far to search
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What there is
    pub size: Size,
    /// Most choices in a history
    pub depth: usize,
    /// No further once there are so many states
    pub states: usize,
    /// Threads
    pub jobs: usize,
}

/// What a search has shown
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// States found at each depth for the first time
    pub levels: Vec<u64>,
    /// All histories of so many choices were gone through
    pub complete: usize,
    /// Choices that were tried
    pub transitions: u64,
    /// How often each kind of choice was tried
    pub kinds: BTreeMap<Kind, u64>,
    /// States that were healed and came to their end
    pub healed: u64,
    /// How often each check had occasion to fail on the way to a new state
    pub premises: Vec<u64>,
    /// What did not hold, at the smallest depth
    pub found: Option<Found>,
}

impl Report {
    /// States that differ
    pub fn states(&self) -> u64 {
        self.levels.iter().sum()
    }
}

/// Something that did not hold, and how to get there
#[derive(Clone, Debug)]
pub struct Found {
    /// Steps from the root, in words
    pub steps: Vec<String>,
    /// What did not hold
    pub what: Broken,
}

/// What did not hold
#[derive(Clone, Debug)]
pub enum Broken {
    /// A check of the auditor, after the last step
    Check(Violation),
    /// A check of the auditor, after the last step and once everything was healed
    Healed(Violation),
    /// A machine panicked
    Panic(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of =
            |violation: &Violation| format!("{}: {} ({})", violation.check, violation.check.sentence(), violation.what);
        match self {
            Broken::Check(violation) => f.write_str(&of(violation)),
            Broken::Healed(violation) => write!(f, "after it was healed, {}", of(violation)),
            Broken::Panic(message) => write!(f, "a machine panicked: {message}"),
        }
    }
}

/// How a state came about
#[derive(Clone, Copy)]
struct Node {
    parent: u32,
    /// Which of the parent's choices
    choice: u16,
}

/// A state that may be new
struct Candidate {
    node: Node,
    digest: u64,
    healed: bool,
}

/// What a chunk of states led to
#[derive(Default)]
struct Harvest {
    candidates: Vec<Candidate>,
    transitions: u64,
    kinds: BTreeMap<Kind, u64>,
    premises: Vec<u64>,
    broken: Option<(Node, Broken)>,
}

/// Goes through all histories, until the depth, the number of states, or a failure
pub fn explore(plan: &Plan) -> Report {
    let mut report = Report { levels: vec![1], ..Report::default() };
    let root = catch_unwind(|| World::new(plan.size, &mut Box::new([0; FRAME_BYTES_MAX])).outline());
    let root = match root {
        Ok(root) => root,
        Err(panic) => {
            report.found = Some(Found { steps: Vec::new(), what: Broken::Panic(said(&*panic)) });
            return report;
        }
    };
    let mut nodes = vec![Node { parent: 0, choice: 0 }];
    let mut seen = BTreeSet::from([root]);
    let mut level = 0..1;
    while report.complete < plan.depth && !level.is_empty() {
        let mut next = level.clone();
        report.levels.push(0);
        while !next.is_empty() {
            let batch = next.start..next.end.min(next.start + BATCH);
            next.start = batch.end;
            for harvest in harvest(plan, &nodes, &seen, batch) {
                report.take(harvest, &mut nodes, &mut seen, plan.size);
            }
            if report.found.is_some() || (nodes.len() >= plan.states && !next.is_empty()) {
                return report;
            }
        }
        report.complete += 1;
        level = level.end..nodes.len();
        if nodes.len() >= plan.states {
            break;
        }
    }
    report
}

impl Report {
    fn take(&mut self, harvest: Harvest, nodes: &mut Vec<Node>, seen: &mut BTreeSet<u64>, size: Size) {
        for Candidate { node, digest, healed } in harvest.candidates {
            if seen.insert(digest) {
                nodes.push(node);
                *self.levels.last_mut().expect("there is a root") += 1;
                self.healed += u64::from(healed);
            }
        }
        self.transitions += harvest.transitions;
        for (kind, times) in harvest.kinds {
            *self.kinds.entry(kind).or_default() += times;
        }
        self.premises.resize(Check::ALL.len(), 0);
        self.premises.iter_mut().zip(&harvest.premises).for_each(|(sum, n)| *sum += n);
        if let Some((node, what)) = harvest.broken.filter(|_| self.found.is_none()) {
            self.found = Some(Found { steps: story(nodes, node, size), what });
        }
    }
}

/// Goes on from a batch of states, on all threads; what they led to comes in their order
fn harvest(plan: &Plan, nodes: &[Node], seen: &BTreeSet<u64>, batch: std::ops::Range<usize>) -> Vec<Harvest> {
    let chunks = batch.len().div_ceil(CHUNK);
    let (taken, done) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let work = || {
        let mut walker = Walker::new(nodes, seen, plan.size);
        loop {
            let chunk = taken.fetch_add(1, Ordering::Relaxed);
            if chunk >= chunks {
                break;
            }
            let from = batch.start + chunk * CHUNK;
            let mut harvest = Harvest::default();
            for state in from..batch.end.min(from + CHUNK) {
                walker.go_on_from(state, &mut harvest);
            }
            // Nobody panics while holding it.
            done.lock().expect("nobody panics here").insert(chunk, harvest);
        }
    };
    thread::scope(|scope| {
        for _ in 1..plan.jobs.max(1) {
            scope.spawn(work);
        }
        work();
    });
    done.into_inner().expect("nobody panics here").into_values().collect()
}

/// Makes states again, each from the one before as far as the way is the same
struct Walker<'a> {
    nodes: &'a [Node],
    seen: &'a BTreeSet<u64>,
    /// The way from the root: a state, and its world
    way: Vec<(usize, World)>,
    frame: Box<Frame>,
    choices: Vec<Choice>,
}

impl<'a> Walker<'a> {
    fn new(nodes: &'a [Node], seen: &'a BTreeSet<u64>, size: Size) -> Self {
        let mut frame = Box::new([0; FRAME_BYTES_MAX]);
        let root = World::new(size, &mut frame);
        Walker { nodes, seen, way: vec![(0, root)], frame, choices: Vec::new() }
    }

    /// Makes a state's world, and leaves it at the end of the way
    fn walk_to(&mut self, state: usize) {
        let mut missing = Vec::new();
        let mut at = state;
        // Parents come before their children, so that whatever stands behind this one is not on its way.
        while self.way.last().is_some_and(|(known, _)| *known != at) {
            if self.way.last().is_some_and(|(known, _)| *known > at) {
                self.way.pop();
            } else {
                missing.push(at);
                at = self.nodes[at].parent as usize;
            }
        }
        for state in missing.into_iter().rev() {
            let Some((_, parent)) = self.way.last() else { return };
            parent.choices(&mut self.choices);
            let mut world = parent.clone();
            world.apply(self.choices[usize::from(self.nodes[state].choice)], &mut self.frame);
            self.way.push((state, world));
        }
    }

    /// Tries everything that can happen in a state
    fn go_on_from(&mut self, state: usize, harvest: &mut Harvest) {
        self.walk_to(state);
        let Some((_, world)) = self.way.last() else { return };
        world.choices(&mut self.choices);
        for (index, choice) in self.choices.iter().enumerate() {
            let node = Node { parent: state as u32, choice: index as u16 };
            harvest.transitions += 1;
            *harvest.kinds.entry(choice.kind()).or_default() += 1;
            let (seen, frame) = (self.seen, &mut *self.frame);
            let tried = catch_unwind(AssertUnwindSafe(|| attempt(world, *choice, seen, frame)));
            match tried.unwrap_or_else(|panic| Tried::Broken(Broken::Panic(said(&*panic)))) {
                Tried::Known => {}
                Tried::New { digest, healed, premises } => {
                    harvest.candidates.push(Candidate { node, digest, healed });
                    harvest.premises.resize(premises.len(), 0);
                    harvest.premises.iter_mut().zip(premises).for_each(|(sum, n)| *sum += n);
                }
                Tried::Broken(what) => {
                    harvest.broken.get_or_insert((node, what));
                }
            }
        }
    }
}

/// What became of a choice
enum Tried {
    /// A state that was there before
    Known,
    New {
        digest: u64,
        healed: bool,
        premises: Vec<u64>,
    },
    Broken(Broken),
}

fn attempt(before: &World, choice: Choice, seen: &BTreeSet<u64>, frame: &mut Frame) -> Tried {
    let mut world = before.clone();
    world.apply(choice, frame);
    if let Some(violation) = world.auditor().violation() {
        return Tried::Broken(Broken::Check(violation.clone()));
    }
    let digest = world.outline();
    if seen.contains(&digest) {
        return Tried::Known;
    }
    world.check();
    let was = before.auditor().premises();
    let premises = world.auditor().premises().iter().zip(was).map(|(now, was)| now - was).collect();
    let healed = digest.is_multiple_of(HEALED_ONE_IN) || world.fair().is_none();
    if healed {
        heal(&mut world, frame);
        if let Some(violation) = world.auditor().violation() {
            return Tried::Broken(Broken::Healed(violation.clone()));
        }
    }
    Tried::New { digest, healed, premises }
}

/// Runs on without faults, and fairly, until everything is at its end
fn heal(world: &mut World, frame: &mut Frame) {
    world.faults_left = 0;
    for _ in 0..HEALED_STEPS_MAX {
        let choice = world.fair();
        if choice.is_none() && world.is_done() {
            break;
        }
        world.apply(choice.unwrap_or(Choice::Wait), frame);
        if world.auditor().violation().is_some() {
            return;
        }
    }
    world.check();
    world.expect_done();
}

/// The way to a state in words, and the choice behind it
fn story(nodes: &[Node], last: Node, size: Size) -> Vec<String> {
    let mut way = vec![last];
    let mut at = last.parent as usize;
    while at != 0 {
        way.push(nodes[at]);
        at = nodes[at].parent as usize;
    }
    let mut frame = Box::new([0; FRAME_BYTES_MAX]);
    let mut world = World::new(size, &mut frame);
    let (mut choices, mut steps) = (Vec::new(), Vec::new());
    while let Some(node) = way.pop() {
        world.choices(&mut choices);
        let choice = choices[usize::from(node.choice)];
        steps.push(world.says(choice));
        if !way.is_empty() {
            world.apply(choice, &mut frame);
        }
    }
    steps
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or(panic.downcast_ref::<&str>().map(|text| (*text).into())).unwrap_or_else(|| "without a word".into())
}
