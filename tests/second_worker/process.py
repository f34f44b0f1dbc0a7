"""One command as a process group, with what it writes and its checkpoint files"""

import os
import selectors
import signal
import subprocess

from messages import Reader, Schema

STOP_GRACE_S = 10.0
STRAYS_S = 1.0


class Command:
    """The input of a task of the shipped command-line tool (PROTOCOL.md, section 10)"""

    def __init__(self, payload):
        reader, schema = Reader(payload), Schema("")
        if reader.take(1) != b"\1":
            raise ValueError("an input of another form than 01")
        self.arguments = [schema.read("bytes", reader) for _ in range(reader.number(64))]
        self.directory = schema.read("opt(bytes)", reader)
        limit_us = schema.read("opt(u64)", reader)
        self.limit_s = None if limit_us is None else limit_us / 1e6
        self.output_bytes_max = reader.number(64)
        if not reader.done() or not self.arguments:
            raise ValueError("an input with too much in it, or without a program")


class Process:
    """A running command; `ended` once it is over and all that it wrote was read"""

    def __init__(self, command, environment, directory, restore, streams, selector, now):
        self.command, self.streams, self.selector, self.directory = command, streams, selector, directory
        os.makedirs(directory, exist_ok=True)
        self.checkpoint_path, self.checkpoints = os.path.join(directory, "out"), 0
        environment = {**os.environ, **environment, "REJOIN_CHECKPOINT_OUT": self.checkpoint_path}
        if restore is not None:
            environment["REJOIN_CHECKPOINT_IN"] = restore
        self.process = subprocess.Popen(
            command.arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=command.directory,
            env=environment,
            start_new_session=True,
        )
        self.pipes = {self.process.stdout: streams[0], self.process.stderr: streams[1]}
        for pipe in self.pipes:
            os.set_blocking(pipe.fileno(), False)
            selector.register(pipe, selectors.EVENT_READ, lambda _, pipe=pipe: self.read(pipe))
        self.stop_why = None
        self.times_out_at = None if command.limit_s is None else now + command.limit_s
        self.kill_at = self.strays_at = None

    def read(self, pipe):
        data = os.read(pipe.fileno(), 65_536)
        stream = self.pipes[pipe]
        if len(stream.data) + len(data) > self.command.output_bytes_max:
            self.stop_why, data = "OutputTooLarge", b""
            self.signal(signal.SIGKILL)
        stream.append(data)
        if not data:
            self.close(pipe)

    def close(self, pipe):
        self.selector.unregister(pipe)
        pipe.close()
        del self.pipes[pipe]

    def stop(self, why, now):
        """SIGTERM to its group, and SIGKILL some time later"""
        if self.stop_why is None:
            self.stop_why, self.kill_at = why, now + STOP_GRACE_S
            self.signal(signal.SIGTERM)

    def signal(self, which):
        try:
            os.killpg(self.process.pid, which)
        except ProcessLookupError:
            pass

    def ended(self, now):
        """Sees to its times; whether it is over"""
        if self.process.poll() is None:
            if self.times_out_at is not None and now >= self.times_out_at:
                self.stop("TimedOut", now)
            if self.kill_at is not None and now >= self.kill_at:
                self.signal(signal.SIGKILL)
            return False
        self.strays_at = self.strays_at or now + STRAYS_S
        if self.pipes and now >= self.strays_at:
            self.signal(signal.SIGKILL)
            for pipe in list(self.pipes):
                self.close(pipe)
        return not self.pipes

    def checkpoint(self):
        """The file of the newest checkpoint that was not taken up yet, or None"""
        taken = os.path.join(self.directory, f"taken-{self.checkpoints + 1}")
        try:
            os.rename(self.checkpoint_path, taken)
        except FileNotFoundError:
            return None
        self.checkpoints += 1
        return taken
