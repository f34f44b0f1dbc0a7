//! A fleet of real processes: a coordinator and workers of this same program, each worker behind a proxy of its own
//!
//! The proxy is a worker's cable: what is broken there is broken for that worker alone, and for sure.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rejoin_core::ids::{KeyId, Role};
use rejoin_core::limits::WIRE_VERSION;
use rejoin_core::wire::keys::{Key, Secret};
use rejoin_smol::chaos::{End, Fault, Kind, Profile, Proxy};
use rejoin_smol::clock::entropy;
use rustix::process::{Pid, Signal, kill_process};
use smol::Timer;

use crate::keys::key_line;

use super::boxes;
use super::hits::{Hit, Notice};
use super::log::{Log, Stamp};
use super::measure::Sampler;
use super::scenario::{Planted, Setting, Trouble};

/// Longest that a process may take to start, on a machine that does much else
const START_MAX: Duration = Duration::from_secs(60);
/// How often a log is looked at while something is awaited
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a process may take to end once it was told to
const END_MAX: Duration = Duration::from_secs(20);
/// The variable that plants a bug in a child, where the build can have any
pub(crate) const PLANTED: &str = "REJOIN_PLANTED";

/// Which release of the program a process is
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Release {
    /// The one that is played with
    New,
    /// The one before: the program that was given for it, or the same one held at the wire version before
    Old,
}

/// What a fleet is made of
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Workers, named `w0` and so on
    pub(crate) workers: usize,
    /// Tasks that each runs at a time
    pub(crate) slots: u16,
    /// Clients, named `c0` and so on
    pub(crate) clients: usize,
    /// Heartbeat period of all links
    pub(crate) heartbeat: Duration,
    /// When a worker that is away is lost
    pub(crate) lost_after: Duration,
    /// Whether links are TLS
    pub(crate) secure: bool,
    /// Whether each worker keeps what it has finished
    pub(crate) keeps: bool,
    /// Conditions of the packet box of each worker; none if there are to be no boxes
    pub(crate) boxes: Vec<Vec<String>>,
    /// What cables do by themselves from the beginning
    pub(crate) noise: Option<Profile>,
    /// Lightweight workers beside these, in a process of their own
    pub(crate) crowd: usize,
    /// How long workers may take to come back after a start of the coordinator
    pub(crate) recovery_window: Duration,
    /// Which release begins
    pub(crate) release: Release,
    /// Further options of the coordinator
    pub(crate) coordinator: Vec<String>,
    /// Further options of each worker
    pub(crate) worker: Vec<String>,
}

impl Plan {
    /// Workers with so many slots, and one client; silence is found in 2.5 s, more than a loaded machine makes of it
    pub(crate) fn of(workers: usize, slots: u16) -> Plan {
        Plan {
            workers,
            slots,
            clients: 1,
            heartbeat: Duration::from_secs(1),
            lost_after: Duration::from_secs(60),
            secure: false,
            keeps: true,
            boxes: Vec::new(),
            noise: None,
            crowd: 0,
            recovery_window: Duration::from_secs(20),
            release: Release::New,
            coordinator: Vec::new(),
            worker: Vec::new(),
        }
    }

    /// When silence is to be noticed at the latest, by the rule and with the time that a loaded machine may need (LIVE-2)
    pub(crate) fn silence_max(&self) -> Duration {
        self.heartbeat * 5 / 2 + self.heartbeat + Duration::from_millis(500)
    }
}

/// A process, which ends with this
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    /// A child
    pub(crate) fn of(child: Child) -> Process {
        Process(child)
    }

    /// Its number
    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        if let Some(pid) = Pid::from_raw(self.0.id().cast_signed()) {
            // One that has ended has not been waited for, so that nobody else has its number.
            let _ = kill_process(pid, signal);
        }
    }

    fn end_at_once(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Whether it has ended by itself
    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(Some(_)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end_at_once();
    }
}

/// A worker, its cable, and what it has said
pub(crate) struct Worker {
    /// Its name
    pub(crate) name: String,
    process: Option<Process>,
    /// What it is started as from now on
    pub(crate) release: Release,
    /// What stands between it and the coordinator
    pub(crate) cable: Proxy,
    /// What it has said, through all its lives
    pub(crate) log: Log,
}

/// A coordinator, its workers, and the files of both
pub(crate) struct Fleet {
    /// What it is made of
    pub(crate) plan: Plan,
    dir: PathBuf,
    program: PathBuf,
    old: Option<PathBuf>,
    /// What the coordinator is started as from now on
    pub(crate) release: Release,
    planted: Option<Planted>,
    address: SocketAddr,
    coordinator: Option<Process>,
    /// What the coordinator has said, through all its lives
    pub(crate) said: Log,
    /// All workers
    pub(crate) workers: Vec<Worker>,
    /// The cables of clients
    pub(crate) clients: Vec<(Key, Proxy)>,
    /// What was broken, in the order of time
    pub(crate) hits: Vec<Hit>,
    sampler: Sampler,
}

impl Fleet {
    /// Starts all of it, and waits until every worker is connected
    pub(crate) async fn start(plan: Plan, dir: PathBuf, setting: &Setting, sampler: Sampler) -> Result<Fleet, Trouble> {
        fs::create_dir_all(&dir)?;
        let keys = Keys::make(&dir, &plan)?;
        if plan.secure {
            certify(&setting.program, &dir)?;
        }
        let said = Log::new(dir.join("coordinator.log"));
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let release = plan.release;
        let mut fleet = Fleet {
            plan,
            dir,
            program: setting.program.clone(),
            old: setting.old.clone(),
            release,
            planted: setting.planted,
            address,
            coordinator: None,
            said,
            workers: Vec::new(),
            clients: Vec::new(),
            hits: Vec::new(),
            sampler,
        };
        fleet.start_coordinator()?;
        let profile = fleet.plan.noise.unwrap_or(Profile::Calm);
        let cable = |n: u64| Proxy::start(address, fleet.address, profile, setting.seed ^ (n << 32));
        let mut clients = Vec::new();
        for (key, n) in keys.clients.into_iter().zip(1_000_000..) {
            clients.push((key, cable(n).await?));
        }
        let mut workers = Vec::new();
        for n in 0..fleet.plan.workers {
            let name = format!("w{n}");
            let log = Log::new(fleet.dir.join(format!("{name}.log")));
            let cable = cable(n as u64).await?;
            if !fleet.plan.boxes.is_empty() {
                boxes::bridge(&fleet.dir, &name, cable.local_addr())?;
            }
            workers.push(Worker { name, process: None, release, cable, log });
        }
        (fleet.clients, fleet.workers) = (clients, workers);
        for n in 0..fleet.workers.len() {
            fleet.start_worker(n)?;
        }
        if profile == Profile::Calm {
            fleet.all_connected(START_MAX).await?;
        }
        Ok(fleet)
    }

    /// Where tasks leave their marks
    pub(crate) fn marks(&self) -> PathBuf {
        self.dir.join("marks")
    }

    /// Where the journal is
    pub(crate) fn journal(&self) -> PathBuf {
        self.dir.join("journal")
    }

    /// The certificate that the coordinator shows, if links are TLS
    pub(crate) fn certificate(&self) -> Option<PathBuf> {
        self.plan.secure.then(|| self.dir.join("cert.pem"))
    }

    /// Where the coordinator listens
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The folder of all files
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command of a process of the fleet, whose log is kept under that name
    pub(crate) fn command(&self, release: Release, log: &str, words: &[&str]) -> io::Result<Command> {
        let old = self.old.as_ref().filter(|_| release == Release::Old);
        let mut command = Command::new(old.unwrap_or(&self.program));
        command.current_dir(&self.dir).stdin(Stdio::null()).args(words);
        for variable in ["REJOIN_CA", "REJOIN_COORDINATOR", "REJOIN_KEY", "REJOIN_LOG"] {
            command.env_remove(variable);
        }
        if release == Release::Old && old.is_none() {
            command.args(["--wire-version", &(WIRE_VERSION - 1).to_string()]);
        }
        if let Some(Planted::Bug(number)) = self.planted {
            command.env(PLANTED, number.to_string());
        }
        let log = OpenOptions::new().create(true).append(true).open(self.dir.join(log))?;
        command.stderr(log);
        Ok(command)
    }

    // The coordinator.

    /// Starts the coordinator on its journal and its port, and returns when it listens
    pub(crate) fn start_coordinator(&mut self) -> Result<(), Trouble> {
        let (address, heartbeat) = (self.address.to_string(), millis(self.plan.heartbeat));
        let (lost_after, window) = (millis(self.plan.lost_after), millis(self.plan.recovery_window));
        let words = ["coordinator", "--listen", &address, "--data", "journal", "--keys", "keys"];
        let mut command = self.command(self.release, "coordinator.log", &words)?;
        command.args(["--heartbeat", &heartbeat, "--lost-after", &lost_after, "--recovery-window", &window]);
        if let Some(Planted::Options(options, _)) = self.planted {
            command.args(options);
        }
        command.args(&self.plan.coordinator).stdout(Stdio::piped());
        if self.plan.secure {
            command.args(["--tls-cert", "cert.pem", "--tls-key", "tls.key"]);
        }
        let mut child = command.spawn()?;
        let out = child.stdout.take();
        let process = Process(child);
        let mut line = String::new();
        if let Some(out) = out {
            BufReader::new(out).read_line(&mut line)?;
        }
        let told = line.trim().strip_prefix("listening on ").and_then(|address| address.parse().ok());
        self.address = told.ok_or_else(|| {
            let log = fs::read_to_string(self.dir.join("coordinator.log")).unwrap_or_default();
            let last = log.lines().last().unwrap_or_default().to_owned();
            Trouble::new(format!("the coordinator does not start: {last}"))
        })?;
        self.sampler.watch("coordinator", process.pid());
        self.coordinator = Some(process);
        Ok(())
    }

    /// Tells the coordinator to end, and waits until it has: every worker that is connected has to notice that
    pub(crate) async fn stop_coordinator(&mut self) -> Result<(), Trouble> {
        self.look()?;
        let at = Stamp::now();
        let connected: Vec<usize> = (0..self.workers.len()).filter(|n| self.is_connected(*n)).collect();
        if let Some(process) = self.coordinator.take() {
            process.signal(Signal::TERM);
            ended(process, "the coordinator").await?;
        }
        self.look()?;
        self.said.peers.clear();
        for n in connected {
            let notice = Notice { worker: Some(Duration::from_secs(2)), coordinator: None, silent: false };
            self.hits.push(Hit::new(n, "coordinator replaced", at, notice));
        }
        Ok(())
    }

    /// Kills the coordinator: every worker that is connected has to notice that, and to come back when it is there again
    pub(crate) fn kill_coordinator(&mut self) -> Result<(), Trouble> {
        self.look()?;
        let at = Stamp::now();
        if let Some(mut process) = self.coordinator.take() {
            process.end_at_once();
        }
        // What it said last counts no more.
        let connected: Vec<usize> = (0..self.workers.len()).filter(|n| self.is_connected(*n)).collect();
        self.said.peers.clear();
        for n in connected {
            let notice = Notice { worker: Some(Duration::from_secs(2)), coordinator: None, silent: false };
            self.hits.push(Hit::new(n, "coordinator killed", at, notice));
        }
        Ok(())
    }

    // Workers.

    /// Starts a worker, in a new life if it had one
    pub(crate) fn start_worker(&mut self, n: usize) -> Result<(), Trouble> {
        let scheme = if self.plan.secure { "wss" } else { "ws" };
        let worker = &self.workers[n];
        let (name, mut url) = (worker.name.clone(), format!("{scheme}://{}", worker.cable.local_addr()));
        let (key, slots, data) = (format!("{name}.key"), self.plan.slots.to_string(), format!("{name}.data"));
        let label = format!("{}={name}", super::load::ONLY);
        let log = format!("{name}.log");
        let boxed = self.plan.boxes.get(n);
        let mut command = match boxed {
            Some(conditions) => {
                let command = self.command(Release::New, &log, &["netbox"])?;
                let (mut command, inside) = boxes::around(command, &self.program, &name, conditions, n as u64)?;
                url = inside;
                command.arg("worker");
                command
            }
            None => self.command(worker.release, &log, &["worker"])?,
        };
        command.args(["--coordinator", &url, "--key", &key, "--slots", &slots, "--label", &label]);
        if boxed.is_some() {
            command.arg("--insecure-ws");
        }
        if self.plan.keeps {
            command.args(["--data", &data]);
        }
        if self.plan.secure {
            command.args(["--ca", "cert.pem"]);
        }
        if let Some(Planted::Options(options, _)) = self.planted {
            command.args(options);
        }
        let child = command.args(&self.plan.worker).stdout(Stdio::null()).spawn()?;
        if self.plan.boxes.is_empty() {
            self.sampler.watch("workers", child.id());
        }
        self.workers[n].process = Some(Process(child));
        Ok(())
    }

    /// Kills a worker; its hit is over when it is started again
    pub(crate) fn kill_worker(&mut self, n: usize) {
        let at = Stamp::now();
        if let Some(mut process) = self.workers[n].process.take() {
            process.end_at_once();
        }
        let notice = Notice { worker: None, coordinator: Some(Duration::from_secs(2)), silent: false };
        self.hits.push(Hit::new(n, "worker killed", at, notice));
    }

    /// Drains a worker, and waits until it has ended; its hit is over when it is started again
    pub(crate) async fn drain_worker(&mut self, n: usize) -> Result<(), Trouble> {
        let at = Stamp::now();
        if let Some(process) = self.workers[n].process.take() {
            process.signal(Signal::TERM);
            ended(process, &format!("w{n}")).await?;
        }
        let notice = Notice { worker: None, coordinator: Some(END_MAX), silent: false };
        self.hits.push(Hit::new(n, "worker replaced", at, notice));
        Ok(())
    }

    /// Stops a worker's time
    pub(crate) fn freeze(&mut self, n: usize) {
        let at = Stamp::now();
        if let Some(process) = &self.workers[n].process {
            process.signal(Signal::STOP);
        }
        let notice = Notice { worker: None, coordinator: Some(self.plan.silence_max()), silent: true };
        self.hits.push(Hit::new(n, "worker frozen", at, notice));
    }

    /// Lets it go on
    pub(crate) fn thaw(&mut self, n: usize) {
        if let Some(process) = &self.workers[n].process {
            process.signal(Signal::CONT);
        }
        self.over(n);
    }

    /// What befell a worker last is over from now on
    pub(crate) fn over(&mut self, n: usize) {
        let now = Stamp::now();
        if let Some(hit) = self.hits.iter_mut().rev().find(|hit| hit.worker == n) {
            hit.over = now;
        }
    }

    /// What befell all workers last, as the coordinator's end did, is over from now on
    pub(crate) fn all_over(&mut self) {
        let now = Stamp::now();
        let last = self.hits.last().map(|hit| hit.at);
        self.hits.iter_mut().filter(|hit| Some(hit.at) == last).for_each(|hit| hit.over = now);
    }

    /// Breaks a worker's cable, and takes down who has to notice
    pub(crate) fn strike(&mut self, n: usize, fault: Fault, notice: Notice) {
        let at = Stamp::now();
        self.workers[n].cable.strike(fault);
        let mut hit = Hit::new(n, fault.kind.name(), at, notice);
        hit.kind = Some(fault.kind);
        hit.over = Stamp(at.0 + u64::try_from(fault.span.as_micros()).unwrap_or(u64::MAX));
        self.hits.push(hit);
    }

    /// Whether a kind of fault on a worker's cable has not had its effect each time yet
    pub(crate) fn waits(&self, n: usize, kind: Kind) -> bool {
        let planned = self.hits.iter().filter(|hit| hit.worker == n && hit.kind == Some(kind)).count() as u64;
        self.workers[n].cable.counts().felt(kind) < planned
    }

    /// Does the last fault of a worker again, which has had no effect: behind the next byte towards the coordinator
    pub(crate) fn strike_again(&mut self, n: usize, kind: Kind) {
        let fault = Fault { towards: End::Coordinator, amount: 1, ..Fault::of_all(kind) };
        let now = Stamp::now();
        if let Some(hit) = self.hits.iter_mut().rev().find(|hit| hit.worker == n) {
            (hit.at, hit.over) = (now, now);
        }
        self.workers[n].cable.strike(fault);
    }

    /// Breaks a worker's cable by a reset, which both ends learn at once
    pub(crate) fn reset(&mut self, n: usize) {
        let notice =
            Notice { worker: Some(Duration::from_secs(2)), coordinator: Some(Duration::from_secs(2)), silent: false };
        self.strike(n, Fault::of_all(Kind::Reset), notice);
    }

    // What can be seen.

    /// Reads on in all logs; a panic ends the scenario
    pub(crate) fn look(&mut self) -> Result<(), Trouble> {
        self.said.read()?;
        for worker in &mut self.workers {
            worker.log.read()?;
        }
        Ok(())
    }

    /// Whether a worker is connected, by what it says and by what the coordinator says
    pub(crate) fn is_connected(&self, n: usize) -> bool {
        let worker = &self.workers[n];
        worker.log.connected && self.said.peers.contains(&worker.name)
    }

    /// How many are
    pub(crate) fn connected_now(&mut self) -> Result<usize, Trouble> {
        self.look()?;
        Ok((0..self.workers.len()).filter(|n| self.is_connected(*n)).count())
    }

    /// Waits until a worker is connected
    pub(crate) async fn connected(&mut self, n: usize, within: Duration) -> Result<(), Trouble> {
        let begun = Instant::now();
        loop {
            self.look()?;
            if self.is_connected(n) {
                return Ok(());
            }
            if begun.elapsed() > within {
                return Err(Trouble::new(format!("w{n} was not connected within {within:?}")));
            }
            Timer::after(LOOK_EVERY).await;
        }
    }

    /// Waits until every worker is
    pub(crate) async fn all_connected(&mut self, within: Duration) -> Result<(), Trouble> {
        let begun = Instant::now();
        for n in 0..self.workers.len() {
            self.connected(n, within.saturating_sub(begun.elapsed())).await?;
        }
        Ok(())
    }

    /// Packets that were lost in a worker's box, and all that there were, once it has ended
    pub(crate) fn packets_lost(&self, n: usize) -> io::Result<(u64, u64)> {
        boxes::lost(&self.dir, &self.workers[n].name)
    }

    /// Bytes that went over all cables of workers
    pub(crate) fn carried(&self) -> u64 {
        self.workers.iter().map(|worker| worker.cable.carried().into_iter().sum::<u64>()).sum()
    }

    /// Ends everything in order: workers first, then the coordinator, whose journal is free afterwards
    pub(crate) async fn end(&mut self) -> Result<(), Trouble> {
        for process in self.workers.iter().filter_map(|worker| worker.process.as_ref()) {
            process.signal(Signal::CONT);
            process.signal(Signal::TERM);
        }
        for n in 0..self.workers.len() {
            let Some(process) = self.workers[n].process.take() else { continue };
            ended(process, &format!("w{n}")).await?;
        }
        if let Some(process) = self.coordinator.take() {
            process.signal(Signal::TERM);
            ended(process, "the coordinator").await?;
        }
        self.look()
    }
}

/// Waits until a process has ended
pub(crate) async fn ended(mut process: Process, who: &str) -> Result<(), Trouble> {
    let begun = Instant::now();
    while !process.has_ended() {
        if begun.elapsed() > END_MAX {
            return Err(Trouble::new(format!("{who} did not end within {END_MAX:?} of being told to")));
        }
        Timer::after(LOOK_EVERY).await;
    }
    Ok(())
}

fn millis(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

/// Makes the certificate of a coordinator on this machine
fn certify(program: &Path, dir: &Path) -> Result<(), Trouble> {
    let mut command = Command::new(program);
    command.args(["cert", "127.0.0.1", "--tls-cert", "cert.pem", "--tls-key", "tls.key"]).current_dir(dir);
    let made = command.stdin(Stdio::null()).stdout(Stdio::null()).output()?;
    if made.status.success() {
        return Ok(());
    }
    Err(Trouble::new(format!("no certificate can be made: {}", String::from_utf8_lossy(&made.stderr).trim())))
}

/// Key files of a fleet, written at once
struct Keys {
    clients: Vec<Key>,
}

impl Keys {
    fn make(dir: &Path, plan: &Plan) -> Result<Keys, Trouble> {
        let mut all = String::new();
        for n in 0..plan.workers {
            let key = new_key(&format!("w{n}"), Role::Worker)?;
            let line = key_line(&key);
            private_file(&dir.join(format!("w{n}.key")))?.write_all(line.as_bytes())?;
            all += &line;
            all.push('\n');
        }
        let crowd: Vec<Key> =
            (0..plan.crowd).map(|n| new_key(&format!("crowd-{n}"), Role::Worker)).collect::<Result<_, Trouble>>()?;
        let lines: String = crowd.iter().map(|key| key_line(key).to_string() + "\n").collect();
        private_file(&dir.join("crowd.keys"))?.write_all(lines.as_bytes())?;
        all += &lines;
        let clients = (0..plan.clients).map(|n| new_key(&format!("c{n}"), Role::Client));
        let clients: Vec<Key> = clients.collect::<Result<_, Trouble>>()?;
        for key in &clients {
            all += &key_line(key);
            all.push('\n');
        }
        private_file(&dir.join("keys"))?.write_all(all.as_bytes())?;
        Ok(Keys { clients })
    }
}

pub(crate) fn new_key(name: &str, role: Role) -> Result<Key, Trouble> {
    let name = name.parse().map_err(|_| Trouble::new(format!("{name} is no name")))?;
    Ok(Key { id: KeyId(entropy()?), secret: Secret::new(entropy()?), name, role })
}

pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)
}
