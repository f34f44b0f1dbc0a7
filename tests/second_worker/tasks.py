"""The attempts that a worker holds, and what it says about them (PROTOCOL.md, sections 6, 10 and 11)"""

import collections
import hashlib
import os
import shutil

from messages import Breach, Value
from process import Command, Process

PART_ITEMS = 256
HELD_MAX = 64
WAITING, RUNNING, STOPPING, ABANDONED, FINISHED = "Waiting", "Running", "Stopping", "Abandoned", "Finished"
STREAMS = ("Out", "Err")


class Stream:
    """All output of an attempt on one stream, and how far it was sent"""

    def __init__(self):
        self.data, self.digest = bytearray(), hashlib.sha256()
        self.sent = self.kept = self.sent_ever = 0

    def append(self, data):
        self.data += data
        self.digest.update(data)

    def end(self):
        sha256 = self.digest.digest() if self.data else bytes(32)
        return Value("StreamEnd", len=len(self.data), sha256=sha256)


class Attempt:
    """One attempt at a task, from its assignment to its settlement"""

    def __init__(self, assign, arrival):
        self.task, self.token, self.attempt, self.payload = assign.task, assign.token, assign.attempt, assign.payload
        self.order = (assign.priority, arrival)
        self.state, self.judged = WAITING, True
        self.awaits_restore, self.restore = assign.restores, None
        self.process, self.streams = None, (Stream(), Stream())
        self.running_due = self.result_numbered = False
        self.outcome, self.result = None, b""
        self.checkpoint_number, self.checkpoint_waits, self.checkpoint_under_way = 0, None, None

    def held(self):
        if self.state == WAITING:
            return Value("Waiting")
        return Value("Finished") if self.state == FINISHED else Value("Running", progress=0)

    def output_left(self):
        return any(stream.sent < len(stream.data) for stream in self.streams)

    def finish(self, outcome, result=b""):
        self.state, self.outcome, self.result = FINISHED, outcome, result


class Tasks:
    """All attempts of this worker"""

    def __init__(self, slots, places, tags, directory, selector, emit):
        self.slots, self.places, self.tags, self.directory = slots, places, tags, directory
        self.selector, self.emit = selector, emit
        self.attempts, self.arrivals = {}, 0
        self.draining = False
        self.first, self.given_back = collections.deque(), collections.deque()

    # What the coordinator says

    def take(self, message, session, now):
        token = message.fields.get("token")
        attempt = self.attempts.get(token)
        if message.name == "Assign":
            self.assign(message, session)
        elif message.name == "Drain":
            self.drain()
        elif message.name == "Verdict":
            self.judge(attempt, message, now)
        elif attempt is not None:
            getattr(self, "take_" + message.name.lower())(attempt, message, now)

    def assign(self, message, session):
        session.assigned += 1
        if message.token in self.attempts:
            raise Breach(f"token {message.token} is assigned twice")
        if session.assigned > session.granted:
            raise Breach("more is assigned than was granted")
        self.arrivals += 1
        self.attempts[message.token] = Attempt(message, self.arrivals)
        self.emit("assigned", task=message.task.hex(), token=message.token, attempt=message.attempt, restores=message.restores)
        if self.draining:
            self.give_back(self.attempts[message.token])

    def judge(self, attempt, message, now):
        if attempt is None or attempt.judged:
            raise Breach(f"a verdict on token {message.token}, which waits for none")
        verdict = message.verdict
        attempt.judged = True
        self.emit("verdict", token=attempt.token, verdict=verdict.name)
        if verdict.name == "Discard":
            self.abandon(attempt, now)
            return
        for stream, kept in zip(attempt.streams, verdict.kept):
            if kept > len(stream.data):
                raise Breach("a verdict keeps more than was written")
            stream.sent = stream.kept = kept
            stream.sent_ever = max(stream.sent_ever, kept)
        if self.draining and attempt.state == WAITING:
            self.give_back(attempt)

    def take_cancel(self, attempt, message, now):
        if attempt.state == WAITING:
            attempt.finish(Value("Cancelled"))
        elif attempt.state == RUNNING:
            attempt.state = STOPPING
            attempt.process.stop("Cancelled", now)
        self.emit("cancel", token=attempt.token, reason=message.reason.name)

    def take_recall(self, attempt, message, now):
        if attempt.state == WAITING:
            self.give_back(attempt)

    def take_settled(self, attempt, message, now):
        self.emit("settled", token=attempt.token, task=attempt.task.hex(), settlement=message.settlement.name)
        self.abandon(attempt, now)

    def take_kept(self, attempt, message, now):
        stream = attempt.streams[STREAMS.index(message.stream.name)]
        if message.offset > stream.sent_ever:
            raise Breach("more output is kept than was sent")
        stream.kept = max(stream.kept, message.offset)

    def take_restore(self, attempt, message, now):
        if attempt.state == WAITING:
            attempt.awaits_restore, attempt.restore = False, message.bytes
            attempt.checkpoint_number = message.number
            self.emit("restore", token=attempt.token, number=message.number, bytes=message.bytes.decode("latin-1"))

    def take_checkpointed(self, attempt, message, now):
        if attempt.checkpoint_under_way and attempt.checkpoint_under_way[0] == message.number:
            attempt.checkpoint_under_way = None
            self.emit("checkpointed", token=attempt.token, number=message.number, refused=message.refused and message.refused.name)

    def abandon(self, attempt, now):
        """Nobody wants it any more: it is forgotten, at the latest when its process has ended"""
        if attempt.process is not None and attempt.state != FINISHED:
            attempt.state = ABANDONED
            attempt.process.stop("Cancelled", now)
        else:
            self.forget(attempt)

    def forget(self, attempt):
        del self.attempts[attempt.token]
        shutil.rmtree(os.path.join(self.directory, str(attempt.token)), ignore_errors=True)

    def give_back(self, attempt):
        self.given_back.append(attempt.token)
        self.forget(attempt)
        self.emit("given_back", token=attempt.token)

    def drain(self):
        if not self.draining:
            self.draining = True
            self.first.append(("Draining", None))
            for attempt in [it for it in self.attempts.values() if it.judged and it.state == WAITING]:
                self.give_back(attempt)

    # What happens here

    def step(self, now):
        """Starts what may start, and sees what has ended"""
        for attempt in list(self.attempts.values()):
            if attempt.process is None or attempt.state == FINISHED:
                continue
            ended = attempt.process.ended(now)
            checkpoint = attempt.process.checkpoint()
            if checkpoint is not None and attempt.state != ABANDONED:
                attempt.checkpoint_number += 1
                attempt.checkpoint_waits = (attempt.checkpoint_number, checkpoint)
            if ended:
                self.ended(attempt)
        ready = [it for it in self.attempts.values() if it.state == WAITING and it.judged and not it.awaits_restore]
        for attempt in sorted(ready, key=lambda it: it.order)[: max(0, self.slots - self.occupied(running=True))]:
            self.start(attempt, now)

    def start(self, attempt, now):
        environment = {"REJOIN_TASK": attempt.task.hex(), "REJOIN_ATTEMPT": str(attempt.attempt), "REJOIN_TOKEN": str(attempt.token)}
        directory = os.path.join(self.directory, str(attempt.token))
        try:
            command = Command(attempt.payload)
            attempt.process = Process(command, environment, directory, attempt.restore, attempt.streams, self.selector, now)
        except (OSError, ValueError, Breach) as error:
            attempt.finish(Value("Failed", failure=Value("CannotStart")), str(error).encode())
            return
        attempt.state, attempt.running_due, attempt.payload = RUNNING, True, b""
        self.emit("started", task=attempt.task.hex(), token=attempt.token, pid=attempt.process.process.pid)

    def ended(self, attempt):
        status, why = attempt.process.process.returncode, attempt.process.stop_why
        if attempt.state == ABANDONED:
            self.forget(attempt)
            return
        if why in ("TimedOut", "OutputTooLarge"):
            outcome = Value("Failed", failure=Value(why))
        elif status == 0:
            outcome = Value("Succeeded")
        elif why is not None:
            outcome = Value("Cancelled")
        elif status < 0:
            outcome = Value("Failed", failure=Value("Signal", signal=-status))
        else:
            outcome = Value("Failed", failure=Value("Exit", status=status))
        attempt.finish(outcome)
        self.emit("finished", task=attempt.task.hex(), token=attempt.token, outcome=str(outcome))

    def stop_all(self, now):
        for attempt in self.attempts.values():
            if attempt.state == RUNNING:
                attempt.state = STOPPING
                attempt.process.stop("Cancelled", now)

    def occupied(self, running=False):
        others = {FINISHED, WAITING} if running else {FINISHED}
        return sum(it.state not in others for it in self.attempts.values())

    def credit(self, session):
        """Assignments granted in this session, in all (LANES-2)"""
        free = min(self.slots + self.places - self.occupied(), HELD_MAX - len(self.attempts))
        return session.assigned + (0 if self.draining else max(0, free))

    # What is said

    def anew(self, received):
        """A new session: everything held waits for its verdict, and the inventory comes first"""
        self.given_back.clear()
        self.first.clear()
        if self.tags:
            self.first.append(("Offers", None))
        if self.draining:
            self.first.append(("Draining", None))
        for attempt in self.attempts.values():
            attempt.judged = attempt.running_due = attempt.result_numbered = False
            attempt.checkpoint_waits = attempt.checkpoint_waits or attempt.checkpoint_under_way
            attempt.checkpoint_under_way = None
        tokens = list(self.attempts)
        parts = [tokens[at : at + PART_ITEMS] for at in range(0, len(tokens), PART_ITEMS)] or [[]]
        for part, inside in enumerate(parts):
            self.first.append(("Inventory", (part, part == len(parts) - 1, received, inside)))

    def reconnected(self):
        """Another connection of the same session: output goes on where it is kept"""
        for stream in (stream for attempt in self.attempts.values() for stream in attempt.streams):
            stream.sent = stream.kept

    def next(self):
        """Kind of the next numbered message and what finds it again, in the order of the lanes"""
        if self.first:
            return self.first.popleft()
        judged = [it for it in self.attempts.values() if it.judged]
        for attempt in judged:
            if attempt.state != FINISHED or attempt.result_numbered or attempt.output_left():
                continue
            if attempt.checkpoint_waits is None or attempt.outcome.name == "Succeeded":
                attempt.result_numbered, attempt.running_due = True, False
                return "Result", attempt.token
        if self.given_back:
            return "GivenBack", self.given_back.popleft()
        for attempt in judged:
            if attempt.running_due:
                attempt.running_due = False
                return "Running", attempt.token
        for attempt in judged:
            waits = attempt.checkpoint_waits is not None and attempt.checkpoint_under_way is None
            if waits and attempt.state in (RUNNING, STOPPING, FINISHED) and not attempt.result_numbered:
                attempt.checkpoint_under_way, attempt.checkpoint_waits = attempt.checkpoint_waits, None
                return "Checkpoint", (attempt.token, attempt.checkpoint_under_way[0])
        return None

    def message(self, name, about):
        """What stands under a number, now or when it is sent again; None is VOID"""
        if name == "Offers":
            return Value(name, tags=self.tags)
        if name == "Draining":
            return Value(name)
        if name == "GivenBack":
            return Value(name, token=about)
        if name == "Inventory":
            part, last, cut, tokens = about
            return Value(name, part=part, last=last, cut=cut, items=[self.attempts[token] for token in tokens])
        token, number = about if name == "Checkpoint" else (about, None)
        attempt = self.attempts.get(token)
        if attempt is None or attempt.state == ABANDONED:
            return None
        if name == "Result":
            streams = [stream.end() for stream in attempt.streams]
            return Value(name, task=attempt.task, token=token, outcome=attempt.outcome, result=attempt.result, streams=streams)
        if name == "Running":
            return Value(name, token=token, progress=0) if attempt.state in (RUNNING, STOPPING) else None
        under_way = attempt.checkpoint_under_way
        return Value(name, token=token, number=number, bytes=under_way[1]) if under_way and under_way[0] == number else None

    def output(self, size_max):
        """One piece of output to send, or None"""
        for attempt in self.attempts.values():
            if not attempt.judged or attempt.state == ABANDONED:
                continue
            for which, stream in zip(STREAMS, attempt.streams):
                if size_max > 0 and stream.sent < len(stream.data):
                    piece = bytes(stream.data[stream.sent : stream.sent + size_max])
                    offset, stream.sent = stream.sent, stream.sent + len(piece)
                    stream.sent_ever = max(stream.sent_ever, stream.sent)
                    return Value("Output", token=attempt.token, stream=Value(which), offset=offset, bytes=piece)
        return None

    def done(self):
        return self.draining and not self.attempts and not self.first and not self.given_back
