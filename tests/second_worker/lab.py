"""A laboratory: the programs of the project and the second worker as processes, and what they must do"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
WAIT_S = 15.0
HEARTBEAT = "300ms"
STARTED = time.monotonic()


class Wrong(Exception):
    """Something is not as it must be"""


def say(text):
    print(f"{time.monotonic() - STARTED:5.1f} s  {text}", flush=True)


def check(what, actual, expected=True):
    if actual != expected:
        raise Wrong(f"{what}: {str(actual)[:300]!r}, and should be {str(expected)[:300]!r}")


def until(what, condition):
    """Waits for a condition, and gives back what it found"""
    deadline = time.monotonic() + WAIT_S
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise Wrong(f"in {WAIT_S:.0f} s this did not happen: {what}")
        time.sleep(0.01)
    return found


class Worker:
    """A process of the second worker, and the events that it prints"""

    def __init__(self, lab, name, port, key=None, *options, version=None):
        self.events, self.lab, self.name = [], lab, name
        command = [sys.executable, str(HERE / "worker.py"), "--coordinator", f"ws://127.0.0.1:{port}", "--key", key or f"{name}.key"]
        command += ["--pause-max", "0.3", "--version-max", str(version or lab.version), *options]
        self.process = lab.start(command, stdout=subprocess.PIPE, stderr=open(lab.path / f"{name}.err", "ab"))
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == "started":
                self.lab.groups.append(event["pid"])
            self.events.append(event)

    def all(self, event, since=0, **fields):
        return [it for it in self.events[since:] if it["event"] == event and all(it.get(name) == value for name, value in fields.items())]

    def wait(self, event, since=0, **fields):
        def found():
            if self.process.poll() is not None and not self.all(event, since, **fields):
                said = self.lab.read(f"{self.name}.err")
                raise Wrong(f"worker {self.name} has ended with {self.process.returncode}, and said:\n{said}")
            return self.all(event, since, **fields)

        return until(f"{event} {fields} at {self.name}; its last events: {self.events[-8:]}", found)[0]

    def wait_connected(self):
        said = lambda: [it["event"] for it in self.events if it["event"] in ("lost", "welcome")]
        until(f"{self.name} is connected", lambda: said()[-1:] == ["welcome"])

    def mark(self):
        return len(self.events)

    def kill(self):
        """As a crash: the worker and all that it runs"""
        self.process.kill()
        self.process.wait()
        for event in self.all("started"):
            end_group(event["pid"])


def end_group(pid):
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def is_there(pid):
    try:
        os.kill(pid, 0)
        return True
    except ProcessLookupError:
        return False


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


class Lab:
    """A directory, the programs in it, and their ends; its workers offer that version at most"""

    def __init__(self, program, version=2):
        self.program, self.version = os.path.abspath(program), version
        self.path = pathlib.Path(tempfile.mkdtemp(prefix="second-worker-lab-"))
        self.processes, self.groups = [], []
        self.port = free_port()

    def start(self, command, **options):
        environment = {**os.environ, "TMPDIR": str(self.path)}  # What a killed worker leaves goes with the laboratory.
        process = subprocess.Popen(command, cwd=self.path, env=environment, stdin=subprocess.DEVNULL, **options)
        self.processes.append(process)
        return process

    def run(self, *arguments, status=0):
        environment = {**os.environ, "REJOIN_COORDINATOR": f"ws://127.0.0.1:{self.port}", "REJOIN_KEY": "me.key"}
        done = subprocess.run([self.program, *arguments], cwd=self.path, env=environment, capture_output=True, timeout=WAIT_S)
        check(f"exit status of rejoin {' '.join(arguments)[:80]} ({done.stderr.decode()})", done.returncode, status)
        return done.stdout

    def coordinator(self, data="state", port=None, heartbeat=HEARTBEAT):
        port = port or self.port
        command = [self.program, "coordinator", "--listen", f"127.0.0.1:{port}", "--data", data, "--keys", "fleet.keys"]
        # Links are cut here far more often than a worker's that is given several tasks at a time (TASK-10).
        command += ["--heartbeat", heartbeat, "--lost-after", "10s", "--flapping-within", "1ms"]
        with open(self.path / f"{data}.out", "wb") as out, open(self.path / f"{data}.err", "ab") as err:
            process = self.start(command, stdout=out, stderr=err)
        until("the coordinator listens", lambda: process.poll() is not None or "listening" in self.read(f"{data}.out"))
        check("whether the coordinator runs: " + self.read(f"{data}.err"), process.poll(), None)
        return process

    def read(self, name):
        try:
            return (self.path / name).read_text()
        except FileNotFoundError:
            return ""

    def submit(self, name, script, *options):
        """A task whose starts are counted in a file; until that file's name plus `.go` exists, `wait_go` waits"""
        script = f"echo run >> {name}.runs\nwait_go() {{ until [ -e {name}.go ]; do sleep 0.02; done; }}\n{script}"
        return self.run("submit", "--id", name, *options, "--", "sh", "-c", f"cd {self.path} && {script}").decode().strip()

    def go(self, name):
        (self.path / f"{name}.go").touch()

    def task(self, name):
        return json.loads(self.run("result", "--json", f"id:{name}", status=self.status(name)))

    def status(self, name):
        done = subprocess.run(
            [self.program, "result", f"id:{name}", "--coordinator", f"ws://127.0.0.1:{self.port}", "--key", "me.key"],
            cwd=self.path, capture_output=True, timeout=WAIT_S,
        )  # fmt: skip
        return done.returncode

    def ended(self, name, out=b"", err=b"", outcome="succeeded", runs=1, attempt=1, exit_code=0):
        """The task has ended like that, and its output is that, byte by byte"""
        self.run("wait", f"id:{name}", status=0 if outcome == "succeeded" else 1)
        task = json.loads(self.run("result", "--json", f"id:{name}", status=0 if outcome == "succeeded" else 1))
        check(f"outcome of {name}", task["status"], outcome)
        check(f"exit code of {name}", task["exit_code"], exit_code)
        check(f"attempt of {name}", task["attempt"], attempt)
        check(f"starts of {name}", self.read(f"{name}.runs").count("run"), runs)
        check(f"output of {name}", self.run("logs", f"id:{name}"), out)
        check(f"standard error of {name}", self.run("logs", "--stderr", f"id:{name}"), err)

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        for pid in self.groups:
            end_group(pid)
        shutil.rmtree(self.path)
