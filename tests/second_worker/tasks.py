"""The attempts that a worker holds, and what it says about them (PROTOCOL.md, sections 6, 10 and 11)"""

import collections
import hashlib
import os
import shutil

from chunks import CHECKPOINT_BYTES_MAX, Checkpoint, Restore
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
        self.awaits_restore, self.restore, self.download = assign.restores, None, None
        self.process, self.streams = None, (Stream(), Stream())
        self.running_due = self.result_numbered = False
        self.outcome, self.result = None, b""
        self.checkpoint_number, self.checkpoint_waits, self.checkpoint_under_way = 0, None, None

    def held(self):
        if self.state == WAITING:
            return Value("Waiting")
        return Value("Finished") if self.state == FINISHED else Value("Running", progress=0)

    def last_checkpoint_left(self):
        """Whether a result would leave an older one for the next attempt (CKPT-4)"""
        chunks_go = self.checkpoint_under_way is not None and not self.checkpoint_under_way.small
        return self.checkpoint_waits is not None or chunks_go

    def output_left(self):
        return any(stream.sent < len(stream.data) for stream in self.streams)

    def finish(self, outcome, result=b""):
        self.state, self.outcome, self.result = FINISHED, outcome, result


class Tasks:
    """All attempts of this worker"""

    def __init__(self, slots, places, tags, directory, selector, emit):
        self.slots, self.places, self.tags, self.directory = slots, places, tags, directory
        self.selector, self.emit = selector, emit
        self.attempts, self.arrivals, self.version = {}, 0, 1
        self.draining = False
        self.first, self.given_back = collections.deque(), collections.deque()

    # What the coordinator says

    def take(self, message, session, now):
        token = message.fields.get("token")
        attempt = self.attempts.get(token)
        if message.name in ("Assign", "AssignUnder"):
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
        if self.draining or message.name == "AssignUnder":
            # Leases and the like are unknown here: it is left to a worker that knows them.
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
            path = os.path.join(self.directory_of(attempt), "in")
            with open(path, "wb") as file:
                file.write(message.bytes)
            self.restored(attempt, message.number, path)
            self.emit("restore", token=attempt.token, number=message.number, bytes=message.bytes.decode("latin-1"))

    def take_restoreoffer(self, attempt, message, now):
        if attempt.state != WAITING:
            return
        self.emit("restore_offer", token=attempt.token, number=message.number, length=message.length)
        before = attempt.download
        if message.length == 0:
            self.restored(attempt, message.number, None)
            return
        if before is None or (before.number, before.length) != (message.number, message.length):
            attempt.download = Restore(message, self.directory_of(attempt), before)
        attempt.download.reconnected()
        attempt.download.need_due, attempt.awaits_restore = True, bool(attempt.download.lacks)
        self.restored_in_chunks(attempt)

    def take_restorepiece(self, attempt, message, now):
        if attempt.state != WAITING or attempt.download is None:
            return
        self.emit("restore_piece", token=attempt.token, number=message.number, offset=message.offset, size=len(message.bytes))
        attempt.download.piece(message)
        self.restored_in_chunks(attempt)

    def restored_in_chunks(self, attempt):
        if not attempt.download.lacks:
            self.restored(attempt, attempt.download.number, attempt.download.path)
            self.emit("restored", token=attempt.token, number=attempt.download.number)

    def restored(self, attempt, number, path):
        attempt.awaits_restore, attempt.restore, attempt.checkpoint_number = False, path, number

    def take_need(self, attempt, message, now):
        under_way = attempt.checkpoint_under_way
        if under_way is not None and under_way.number == message.number and under_way.offered:
            self.emit("need", token=attempt.token, number=message.number, wanted=under_way.need(message.wanted))

    def take_checkpointed(self, attempt, message, now):
        if attempt.checkpoint_under_way and attempt.checkpoint_under_way.number == message.number:
            attempt.checkpoint_under_way.remove()
            attempt.checkpoint_under_way = None
            self.emit("checkpointed", token=attempt.token, number=message.number, refused=message.refused and message.refused.name)

    def directory_of(self, attempt):
        directory = os.path.join(self.directory, str(attempt.token))
        os.makedirs(directory, exist_ok=True)
        return directory

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
                self.saved(attempt, checkpoint)
            if ended:
                self.ended(attempt)
        ready = [it for it in self.attempts.values() if it.state == WAITING and it.judged and not it.awaits_restore]
        for attempt in sorted(ready, key=lambda it: it.order)[: max(0, self.slots - self.occupied(running=True))]:
            self.start(attempt, now)

    def saved(self, attempt, path):
        """A new checkpoint waits, in place of one that has waited"""
        checkpoint = Checkpoint(attempt.checkpoint_number + 1, path)
        if checkpoint.length > CHECKPOINT_BYTES_MAX or self.version < 2 and not checkpoint.small:
            self.emit("too_large", token=attempt.token, length=checkpoint.length)
            checkpoint.remove()
            return
        if attempt.checkpoint_waits is not None:
            attempt.checkpoint_waits.remove()
        attempt.checkpoint_number, attempt.checkpoint_waits = checkpoint.number, checkpoint

    def start(self, attempt, now):
        environment = {"REJOIN_TASK": attempt.task.hex(), "REJOIN_ATTEMPT": str(attempt.attempt), "REJOIN_TOKEN": str(attempt.token)}
        directory = self.directory_of(attempt)
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

    def anew(self, received, version):
        """A new session: everything held waits for its verdict, and the inventory comes first"""
        self.version = version
        self.given_back.clear()
        self.first.clear()
        if self.tags:
            self.first.append(("Offers", None))
        if self.draining:
            self.first.append(("Draining", None))
        for attempt in self.attempts.values():
            attempt.judged = attempt.running_due = attempt.result_numbered = False
            self.checkpoint_anew(attempt)
        tokens = list(self.attempts)
        parts = [tokens[at : at + PART_ITEMS] for at in range(0, len(tokens), PART_ITEMS)] or [[]]
        for part, inside in enumerate(parts):
            self.first.append(("Inventory", (part, part == len(parts) - 1, received, inside)))

    def checkpoint_anew(self, attempt):
        """What was not answered is sent again, unless a newer one waits or this version cannot carry it (CKPT-3)"""
        under_way, attempt.checkpoint_under_way = attempt.checkpoint_under_way, None
        if under_way is not None and attempt.checkpoint_waits is None:
            under_way.reconnected()
            attempt.checkpoint_waits = under_way
        elif under_way is not None:
            under_way.remove()
        if self.version < 2 and attempt.checkpoint_waits is not None and not attempt.checkpoint_waits.small:
            attempt.checkpoint_waits.remove()
            attempt.checkpoint_waits = None
        if attempt.download is not None:
            attempt.download.reconnected()

    def reconnected(self):
        """Another connection of the same session: output goes on where it is kept, and chunks are offered again"""
        for attempt in self.attempts.values():
            for stream in attempt.streams:
                stream.sent = stream.kept
            if attempt.checkpoint_under_way is not None:
                attempt.checkpoint_under_way.reconnected()
            if attempt.download is not None:
                attempt.download.reconnected()

    def account(self):
        """Task and token of all that the coordinator believes here; `None` while it cannot know (SESS-8)"""
        if self.first or self.given_back or not all(it.judged for it in self.attempts.values()):
            return None
        return [(it.task, it.token) for it in self.attempts.values() if it.state != ABANDONED and not it.result_numbered]

    def next(self):
        """Kind of the next numbered message and what finds it again, in the order of the lanes"""
        if self.first:
            return self.first.popleft()
        judged = [it for it in self.attempts.values() if it.judged]
        for attempt in judged:
            if attempt.state != FINISHED or attempt.result_numbered or attempt.output_left():
                continue
            if not attempt.last_checkpoint_left() or attempt.outcome.name == "Succeeded":
                attempt.result_numbered, attempt.running_due = True, False
                return "Result", attempt.token
        if self.given_back:
            return "GivenBack", self.given_back.popleft()
        for attempt in judged:
            if attempt.running_due:
                attempt.running_due = False
                return "Running", attempt.token
        for attempt in judged:
            if self.may_save(attempt, small=True):
                attempt.checkpoint_under_way, attempt.checkpoint_waits = attempt.checkpoint_waits, None
                return "Checkpoint", (attempt.token, attempt.checkpoint_under_way.number)
        return None

    def may_save(self, attempt, small):
        """Whether there is a checkpoint of that kind to go under way"""
        waits = attempt.checkpoint_waits is not None and attempt.checkpoint_under_way is None
        in_time = attempt.state in (RUNNING, STOPPING, FINISHED) and not attempt.result_numbered
        return waits and in_time and attempt.checkpoint_waits.small == small

    def loose(self):
        """Offers and what is missing of them, as far as they are due"""
        for attempt in self.attempts.values():
            if not attempt.judged:
                continue
            if self.may_save(attempt, small=False):
                attempt.checkpoint_under_way, attempt.checkpoint_waits = attempt.checkpoint_waits, None
            if self.offers(attempt) and not attempt.checkpoint_under_way.offered:
                offer = attempt.checkpoint_under_way.offer(attempt.token)
                path = attempt.checkpoint_under_way.path
                self.emit("offered", token=attempt.token, number=offer.number, length=offer.length, path=path)
                yield offer
            download = attempt.download
            if download is not None and download.need_due:
                self.emit("restore_need", token=attempt.token, number=download.number, wanted=sorted(download.lacks))
                yield download.need(attempt.token)
            if download is not None and download.bad_due:
                self.emit("restore_bad", token=attempt.token, number=download.number)
                yield download.bad(attempt.token)

    @staticmethod
    def offers(attempt):
        """Whether a checkpoint in chunks is under way; one of a task that is over is of no use"""
        under_way = attempt.checkpoint_under_way
        return under_way is not None and not under_way.small and not attempt.result_numbered and attempt.state != ABANDONED


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
        return Value(name, token=token, number=number, bytes=under_way.data) if under_way and under_way.number == number else None

    def bulk(self, size_max):
        """One piece of output or of a chunk to send, or None"""
        for attempt in self.attempts.values():
            if not attempt.judged or attempt.state == ABANDONED:
                continue
            for which, stream in zip(STREAMS, attempt.streams):
                if size_max > 0 and stream.sent < len(stream.data):
                    piece = bytes(stream.data[stream.sent : stream.sent + size_max])
                    offset, stream.sent = stream.sent, stream.sent + len(piece)
                    stream.sent_ever = max(stream.sent_ever, stream.sent)
                    return Value("Output", token=attempt.token, stream=Value(which), offset=offset, bytes=piece)
            if self.offers(attempt) and (piece := attempt.checkpoint_under_way.piece(attempt.token, size_max)) is not None:
                return piece
        return None

    def done(self):
        return self.draining and not self.attempts and not self.first and not self.given_back
