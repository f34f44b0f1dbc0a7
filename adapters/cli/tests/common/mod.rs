//! A fleet of processes in a folder of its own; they end with it

#![allow(dead_code, unreachable_pub, reason = "a room of tests, none of which needs all of it, is no library")]

use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest that anything may take, however slow the machine
const PATIENCE: Duration = Duration::from_secs(90);

/// A coordinator, and who it knows
pub struct Fleet {
    dir: tempfile::TempDir,
    options: Vec<String>,
    address: String,
    coordinator: Option<Child>,
    logs: RefCell<u32>,
}

/// A process of the fleet
pub struct Process {
    child: Option<Child>,
    out: PathBuf,
    err: PathBuf,
}

/// A process that has ended
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Fleet {
    /// A coordinator on a free port, and a client's key
    pub fn start(options: &[&str]) -> Fleet {
        let dir = tempfile::tempdir().expect("a directory");
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        let mut fleet = Fleet { dir, options, address: "127.0.0.1:0".into(), coordinator: None, logs: RefCell::new(0) };
        fleet.key("client", "client");
        fleet.start_coordinator();
        fleet
    }

    /// The coordinator's URL where it does not
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// The coordinator's URL where it speaks TLS
    pub fn secure_url(&self) -> String {
        format!("wss://{}", self.address)
    }

    /// Whoever is started from now on dials another address, which leads to the coordinator; returns the one before
    pub fn dial(&mut self, address: String) -> String {
        std::mem::replace(&mut self.address, address)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, program: &OsStr) -> Command {
        let mut command = Command::new(program);
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        for variable in ["REJOIN_CA", "REJOIN_COORDINATOR", "REJOIN_KEY", "REJOIN_LOG"] {
            command.env_remove(variable);
        }
        command
    }

    /// Starts the program with words of any kind
    fn spawn<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Process {
        *self.logs.borrow_mut() += 1;
        let n = *self.logs.borrow();
        let (out, err) = (self.path(&format!("{n}.out")), self.path(&format!("{n}.err")));
        let mut command = self.command(env!("CARGO_BIN_EXE_rejoin").as_ref());
        command.args(words);
        command.stdout(File::create(&out).expect("a file")).stderr(File::create(&err).expect("a file"));
        Process { child: Some(command.spawn().expect("the program to start")), out, err }
    }

    /// Starts the program with these words
    pub fn start_rejoin<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Process {
        self.spawn(words)
    }

    /// Runs the program to its end under limits that a shell sets
    pub fn limited(&self, limits: &str, words: &[&str]) -> Ended {
        let mut command = self.command("sh".as_ref());
        command.args(["-c", &format!("{limits} && exec \"$@\""), "_", env!("CARGO_BIN_EXE_rejoin")]).args(words);
        let (out, err) = (self.path("limited.out"), self.path("limited.err"));
        command.stdout(File::create(&out).expect("a file")).stderr(File::create(&err).expect("a file"));
        Process::of(command.spawn().expect("a shell"), out, err).end()
    }

    /// Runs the program to its end
    pub fn rejoin_unchecked(&self, words: &[&str]) -> Ended {
        self.spawn(words.iter().copied()).end()
    }

    /// Runs the program to its good end
    pub fn rejoin(&self, words: &[&str]) -> String {
        let ended = self.rejoin_unchecked(words);
        assert_eq!(ended.code, Some(0), "{words:?}: {}", ended.err);
        ended.out
    }

    /// Makes a key, unless it is there
    pub fn key(&self, name: &str, role: &str) -> PathBuf {
        let path = self.path(&format!("{name}.key"));
        if !path.exists() {
            let file = path.to_str().expect("UTF-8");
            self.rejoin(&["key", "new", name, "--role", role, "--out", file, "--keys", "keys"]);
        }
        path
    }

    // The coordinator.

    /// Starts the coordinator with one more option from now on
    pub fn option(&mut self, option: &str) {
        self.options.push(option.into());
    }

    fn coordinator_words(&self) -> Vec<String> {
        let words = ["coordinator", "--listen", &self.address, "--data", "data", "--keys", "keys"];
        words.into_iter().map(str::to_owned).chain(self.options.iter().cloned()).collect()
    }

    pub fn start_coordinator(&mut self) {
        let mut command = self.command(env!("CARGO_BIN_EXE_rejoin").as_ref());
        command.args(self.coordinator_words());
        self.watch_coordinator(command);
    }

    /// One that may make files of that many bytes only
    pub fn start_coordinator_with_file_limit(&mut self, bytes: u64) {
        // The signal that comes with the limit would hide the error.
        let script = format!("trap '' XFSZ; exec prlimit --fsize={bytes} \"$@\"");
        let mut command = self.command("sh".as_ref());
        command.args(["-c", &script, "_", env!("CARGO_BIN_EXE_rejoin")]).args(self.coordinator_words());
        self.watch_coordinator(command);
    }

    fn watch_coordinator(&mut self, mut command: Command) {
        let err = File::options().create(true).append(true).open(self.path("coordinator.err")).expect("a file");
        let mut child = command.stdout(Stdio::piped()).stderr(err).spawn().expect("the coordinator to start");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let log = || fs::read_to_string(self.path("coordinator.err")).unwrap_or_default();
        self.address = line.trim().strip_prefix("listening on ").unwrap_or_else(|| panic!("{line} {}", log())).into();
        self.coordinator = Some(child);
    }

    /// Starts it and does not wait until it is ready
    pub fn start_coordinator_unwatched(&mut self) {
        let mut command = self.command(env!("CARGO_BIN_EXE_rejoin").as_ref());
        command.args(self.coordinator_words()).stdout(Stdio::null()).stderr(Stdio::null());
        self.coordinator = Some(command.spawn().expect("the coordinator to start"));
    }

    pub fn kill_coordinator(&mut self) {
        let mut child = self.coordinator.take().expect("a coordinator");
        child.kill().expect("its end");
        child.wait().expect("its end");
    }

    /// Tells it to stop, and waits until it has
    pub fn stop_coordinator(&mut self) -> Ended {
        signal("TERM", self.coordinator.as_ref().expect("a coordinator").id());
        self.coordinator_end()
    }

    /// Waits until it has ended
    pub fn coordinator_end(&mut self) -> Ended {
        let mut child = self.coordinator.take().expect("a coordinator");
        let mut status = None;
        until("the coordinator's end", || {
            status = child.try_wait().expect("a state");
            status.is_some()
        });
        let err = fs::read_to_string(self.path("coordinator.err")).unwrap_or_default();
        Ended { code: status.and_then(|status| status.code()), out: String::new(), err }
    }

    // Everybody else.

    /// A worker with a key of its own
    pub fn worker(&mut self, name: &str, options: &[&str]) -> Process {
        let key = self.key(name, "worker");
        self.worker_with_key(&key, options)
    }

    pub fn worker_with_key(&self, key: &Path, options: &[&str]) -> Process {
        let key = key.to_str().expect("UTF-8");
        let words = ["worker", "--coordinator", &self.address, "--key", key];
        self.spawn(words.into_iter().chain(options.iter().copied()))
    }

    /// A proxy in front of the coordinator
    pub fn chaos(&self, options: &[&str]) -> Chaos {
        let words = ["chaos", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--to", &self.address];
        Chaos::of(self.spawn(words.into_iter().chain(options.iter().copied())))
    }

    /// A worker that dials another address than the coordinator's
    pub fn worker_at(&mut self, address: &str, name: &str, options: &[&str]) -> Process {
        let key = self.key(name, "worker");
        let key = key.to_str().expect("UTF-8");
        self.spawn(["worker", "--coordinator", address, "--key", key].into_iter().chain(options.iter().copied()))
    }

    /// A command of a client that does so
    pub fn client_at<'a>(
        &self,
        address: &'a str,
        command: &'a str,
        words: impl IntoIterator<Item = &'a str>,
    ) -> Process {
        self.spawn([command, "--coordinator", address, "--key", "client.key"].into_iter().chain(words))
    }

    /// A command of a client
    pub fn client<'a>(&'a self, command: &'a str, words: impl IntoIterator<Item = &'a str>) -> Process {
        let reach = [command, "--coordinator", &self.address, "--key", "client.key"];
        self.spawn(reach.into_iter().chain(words))
    }

    pub fn client_with_key(&self, key: &Path, command: &str, words: &[&str]) -> Process {
        let key = key.to_str().expect("UTF-8");
        let reach = [command, "--coordinator", &self.address, "--key", key];
        self.spawn(reach.into_iter().chain(words.iter().copied()))
    }

    /// What a command says with `--json`
    pub fn json(&self, command: &str, words: &[&str]) -> Value {
        let ended = self.client(command, ["--json"].into_iter().chain(words.iter().copied())).end();
        serde_json::from_str(&ended.out).unwrap_or_else(|_| panic!("no JSON: {} {}", ended.out, ended.err))
    }

    /// Submits a command, and returns the task's id
    pub fn submit(&self, options: &[&str], command: &[&str]) -> String {
        let words = options.iter().copied().chain(["--"]).chain(command.iter().copied());
        let ended = self.client("submit", words).end();
        assert_eq!(ended.code, Some(0), "{}", ended.err);
        ended.out.trim().to_owned()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Some(mut child) = self.coordinator.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Process {
    /// A process whose output goes to these files
    pub fn of(child: Child, out: PathBuf, err: PathBuf) -> Process {
        Process { child: Some(child), out, err }
    }

    pub fn pid(&self) -> i32 {
        self.child.as_ref().expect("a process").id() as i32
    }

    pub fn signal(&self, name: &str) {
        signal(name, self.child.as_ref().expect("a process").id());
    }

    pub fn kill(self) {
        drop(self);
    }

    /// What it has printed so far
    pub fn out(&self) -> String {
        fs::read_to_string(&self.out).unwrap_or_default()
    }

    /// What it has said so far
    pub fn err(&self) -> String {
        fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// Processor time that it has used
    pub fn cpu_time(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("a proc file system");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        Duration::from_millis(
            fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("a number")).sum::<u64>() * 10,
        )
    }

    /// Waits until it has ended
    pub fn end(mut self) -> Ended {
        let mut child = self.child.take().expect("a process");
        let start = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("a state") {
                break status;
            }
            if start.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("it never ends: {}", self.err());
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let out = String::from_utf8_lossy(&fs::read(&self.out).expect("a file")).into_owned();
        Ended { code: status.code(), out, err: self.err() }
    }
}

/// A proxy, and where it listens
pub struct Chaos {
    pub process: Process,
    pub address: String,
    pub control: String,
}

impl Chaos {
    /// One that has just been started
    pub fn of(process: Process) -> Chaos {
        let mut line = String::new();
        until("its address", || {
            line = fs::read_to_string(&process.out).unwrap_or_default();
            assert!(lives(process.pid()), "{}", process.err());
            line.ends_with('\n')
        });
        // Whether it is JSON or not.
        let mut words = line
            .split(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')
            .filter(|word| word.len() > 1 && word.contains(':'));
        let (address, control) = (words.next().expect("an address"), words.next().expect("another one"));
        Chaos { address: address.to_owned(), control: control.to_owned(), process }
    }

    /// What it answers to an order
    pub fn order(&self, line: &str) -> String {
        order_at(&self.control, line)
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.order("status")).expect("JSON")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status();
    assert!(sent.expect("kill").success());
}

/// What is answered to an order at a control address
pub fn order_at(control: &str, line: &str) -> String {
    let mut stream = TcpStream::connect(control).expect("somebody who takes orders");
    writeln!(stream, "{line}").expect("an order");
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).expect("an answer");
    answer.trim().to_owned()
}

/// Whether a process runs; one that has ended and was not waited for does not
pub fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// Waits until something holds
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what} never comes");
        std::thread::sleep(Duration::from_millis(5));
    }
}
