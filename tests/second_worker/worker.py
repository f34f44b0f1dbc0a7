#!/usr/bin/env python3
"""A second worker for rejoin, written from PROTOCOL.md alone

It speaks with the coordinator that it is told of, runs commands, and prints what happens as one JSON object per line.
SIGTERM drains it. Call: python3 worker.py --coordinator ws://127.0.0.1:7878 --key lab-1.key
"""

import argparse
import errno
import json
import os
import random
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
import urllib.parse

import frames
from handshake import Failed, Handshake, Key, Retry, resume_field
from messages import FINAL, LOOSE, SCHEMAS, VERSIONS, Breach, Value, digest
from session import WINDOW, Bulk, Session
from tasks import Tasks
from websocket import Ended, WebSocket

OPEN_S, WELCOME_S = 10.0, 10.0
BASE_S, STABLE_S, LATE_AFTER_S, LATE_CAP_S = 0.1, 30.0, 600.0, 120.0
SLOW_S, FAILED_MAX, FLOOR_MAX_S = (30.0, 300.0), 3, 300.0
PERIOD_S = (0.05, 40.0)
TICK_S = 0.1


def emit(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


class Loss(Exception):
    """The end of a connection: why, with which close code of ours, and what follows"""

    def __init__(self, why, code=None, local=False, failed=False, slow=False, floor_s=0.0, final=False):
        super().__init__(why)
        self.code, self.local, self.failed, self.slow = code, local, failed, slow
        self.floor_s, self.final = floor_s, final


class Pauses:
    """How long to wait before the next dial (BACK-1)"""

    def __init__(self, cap_s):
        self.cap_s, self.previous_s, self.first_at, self.spread_s = cap_s, None, None, 0.0
        self.failed, self.slow = 0, False

    def welcomed(self, spread_s):
        self.spread_s, self.failed, self.slow = spread_s, 0, False

    def after(self, loss, lasted_s, now):
        self.failed = self.failed + 1 if loss.failed else self.failed
        self.slow = self.slow or loss.slow or self.failed >= FAILED_MAX
        first = self.previous_s is None or lasted_s >= STABLE_S
        if first:
            self.first_at, self.previous_s = now, BASE_S
        if self.slow:
            pause = random.uniform(*SLOW_S)
        elif first:
            pause = 0.0 if loss.local else random.uniform(0.0, self.spread_s)
        else:
            cap = self.cap_s if now - self.first_at < LATE_AFTER_S else max(self.cap_s, LATE_CAP_S)
            self.previous_s = min(cap, random.uniform(BASE_S, 3 * self.previous_s))
            pause = random.uniform(self.previous_s / 2, self.previous_s)
        return max(pause, min(loss.floor_s, FLOOR_MAX_S))


class Connection:
    """One connection; its states are those of PROTOCOL.md, section 14"""

    def __init__(self, url, now):
        parts = urllib.parse.urlsplit(url)
        self.ws = WebSocket(parts.netloc, parts.path.rstrip("/") + "/v1/worker")
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = self.socket.connect_ex((parts.hostname, parts.port or 7878))
        if error not in (0, errno.EINPROGRESS):
            self.socket.close()
            raise Loss(os.strerror(error))
        self.state, self.deadline = "Connecting", now + OPEN_S
        self.handshake = self.sealer = self.opener = self.welcomed_at = None
        self.resumes, self.bulk, self.capabilities, self.schema = False, Bulk(0), 0, None
        self.control, self.heard_at, self.beat_at, self.probed = [], now, None, False
        self.unfinished = 0
        self.digest_due = self.compare = False


class Worker:
    """The dialler: what it knows over all connections, and the loop around it"""

    def __init__(self, options):
        self.options, self.key = options, Key(options.key)
        self.boot, self.cluster, self.epoch = os.urandom(16), None, 0
        self.session, self.connection, self.period_s = None, None, 5.0
        self.pauses, self.dial_at, self.stopped = Pauses(options.pause_max), 0.0, None
        self.selector = selectors.DefaultSelector()
        self.directory = tempfile.mkdtemp(prefix="second-worker-")
        self.tasks = Tasks(options.slots, options.places, self.tags(), self.directory, self.selector, emit)
        self.said_bye, self.stop_at = False, None
        self.watch_signals()

    def tags(self):
        tags = [(name, Value("Label", it=value)) for name, _, value in (it.partition("=") for it in self.options.label)]
        tags += [(name, Value("Amount", it=int(value))) for name, _, value in (it.partition("=") for it in self.options.resource)]
        tags = [Value("Tag_", name=name, tag=tag) for name, tag in sorted(tags, key=lambda it: it[0])]
        return SCHEMAS[1].encode("Tags", Value("Tags", it=tags)) if tags else b""

    def watch_signals(self):
        """A signal is a byte to read, so that it wakes the loop"""
        self.wakes, writes = socket.socketpair()
        for end in (self.wakes, writes):
            end.setblocking(False)
        self.wake_writes = writes
        signal.set_wakeup_fd(writes.fileno())
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: self.drain())
        self.selector.register(self.wakes, selectors.EVENT_READ, lambda _: self.wakes.recv(4_096))

    def drain(self):
        self.tasks.drain()
        self.stop_at = self.stop_at or time.monotonic() + self.options.drain_timeout

    # The loop

    def run(self):
        while self.stopped is None:
            now = time.monotonic()
            self.tasks.step(now)
            if self.stop_at is not None and now >= self.stop_at:
                self.tasks.stop_all(now)
            try:
                self.step(now)
            except Loss as loss:
                self.lost(loss)
                continue
            self.watch_socket()
            for key, mask in self.selector.select(max(0.0, min(TICK_S, self.wake_at() - time.monotonic()))):
                try:
                    key.data(mask)
                except Loss as loss:
                    self.lost(loss)
        shutil.rmtree(self.directory, ignore_errors=True)
        return self.stopped

    def step(self, now):
        """What is due: a dial, a deadline, a beat, frames"""
        line = self.connection
        if line is None:
            if now >= self.dial_at:
                self.connection = Connection(self.options.coordinator, now)
                self.selector.register(self.connection.socket, selectors.EVENT_WRITE, self.on_socket)
            return
        if line.welcomed_at is None:
            if now >= line.deadline:
                raise Loss("no transport or no Welcome in time", code=4003, local=True)
        else:
            self.watch_silence(line, now)
        self.fill_frames(line, now)
        self.maybe_leave(line)

    def wake_at(self):
        line = self.connection
        if line is None:
            return self.dial_at
        return line.deadline if line.beat_at is None else line.beat_at

    def watch_socket(self):
        line = self.connection
        if line is not None:
            writes = line.state == "Connecting" or line.ws.out
            mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if writes else 0)
            if self.selector.get_key(line.socket).events != mask:
                self.selector.modify(line.socket, mask, self.on_socket)

    def on_socket(self, mask):
        line, now = self.connection, time.monotonic()
        try:
            if mask & selectors.EVENT_WRITE:
                error = line.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if error:
                    raise Loss(os.strerror(error))
                line.state = "Upgrading" if line.state == "Connecting" else line.state
                del line.ws.out[: line.socket.send(line.ws.out)]
            if mask & selectors.EVENT_READ:
                data = line.socket.recv(65_536)
                if not data:
                    raise Loss("end of the connection")
                if line.unfinished < 2:
                    line.heard_at, line.unfinished = now, line.unfinished + 1
                for message in line.ws.feed(data):
                    self.take(line, message, now)
        except BlockingIOError:
            pass
        except OSError as error:
            raise Loss(error.strerror) from None
        except Ended as ended:
            raise Loss(str(ended), floor_s=ended.floor_s) from None
        except Retry as retry:
            raise Loss("RETRY_AFTER", code=4001, floor_s=retry.args[0]) from None
        except Failed as failed:
            raise Loss(f"failed handshake: {failed}", code=4100, local=True, failed=True) from None
        except frames.WrongTag as wrong:
            raise Loss(str(wrong), code=4101, local=True) from None
        except Breach as breach:
            self.session = None
            raise Loss(f"breach: {breach}", code=4102, local=True, slow=True) from None

    def lost(self, loss):
        line, now = self.connection, time.monotonic()
        self.connection = None
        code = None
        if line is not None:
            if loss.code is not None and line.ws.open:
                line.ws.close(loss.code)
                try:
                    line.socket.send(line.ws.out)
                except OSError:
                    pass
            code = line.ws.close_code
            self.selector.unregister(line.socket)
            line.socket.close()
        lasted_s = now - line.welcomed_at if line is not None and line.welcomed_at is not None else 0.0
        pause_s = self.pauses.after(loss, lasted_s, now)
        self.dial_at = now + pause_s
        emit("lost", why=str(loss), our_code=loss.code, their_code=code, slow=self.pauses.slow, pause_s=pause_s)
        if loss.final or self.said_bye:
            self.stopped = 0 if self.said_bye else 1

    # The handshake

    def take(self, line, message, now):
        if message is None:
            self.greet(line, now)
        elif line.state == "Greeting":
            self.prove(line, message, now)
        else:
            self.take_frame(line, message, now)

    def greet(self, line, now):
        ident = self.session.id if self.session else None
        nonce = os.urandom(32)
        url = self.options.coordinator
        versions = [version for version in VERSIONS if version <= self.options.version_max]
        line.handshake = Handshake(self.key, versions, frames.LZ4, url, self.boot, ident, self.epoch, nonce)
        line.ws.send(line.handshake.m1)
        line.state, line.deadline = "Greeting", now + WELCOME_S

    def prove(self, line, message, now):
        challenge = line.handshake.challenged(message)
        if challenge.epoch < self.epoch or self.cluster not in (None, challenge.cluster):
            raise Loss(f"old twin: epoch {challenge.epoch} behind {self.epoch}", code=4100, local=True, slow=True)
        self.cluster, self.epoch = challenge.cluster, challenge.epoch
        line.version, line.capabilities = challenge.version, challenge.capabilities & frames.LZ4
        line.schema, line.frame_bytes_max = SCHEMAS[challenge.version], min(challenge.frame_bytes_max, frames.FRAME_BYTES_MAX)
        line.bulk, session = Bulk(challenge.bulk), self.session
        same = challenge.received is not None and session.version == challenge.version
        line.resumes = same and session.acknowledged <= challenge.received <= session.sent
        if line.resumes:
            session.resumed(challenge.received, challenge.messages)
            self.tasks.reconnected()
            numbers = (session.generation, session.received, session.sent, session.acknowledged)
            line.ws.send(line.handshake.proof(resume_field(session.id, *numbers), session.resume_key))
        else:
            line.ws.send(line.handshake.proof())
            self.open_session(line)
        line.sealer = frames.Sealer(line.handshake.key_up)
        line.opener = frames.Opener(line.handshake.key_down, line.capabilities)
        line.state = "Proving"
        emit("proved", epoch=self.epoch, version=line.version, received=challenge.received, resumes=line.resumes, sent=self.session.sent)

    def open_session(self, line):
        """A session of this handshake, which begins on this connection"""
        self.session = Session(line.handshake.session, line.handshake.resume_key, line.version)
        self.tasks.anew(self.session.received, line.version)
        self.tell(line, Value("Begin", session=self.session.id))

    def welcomed(self, line, welcome, now):
        session = self.session
        if welcome.resumed is not None:
            if not line.resumes:
                raise Breach("resumed, which nobody asked for")
            session.take_ack(welcome.resumed)
        elif line.resumes:
            line.control.clear()
            line.bulk.sent = 0
            self.open_session(line)
            session = self.session
        session.generation = welcome.generation
        self.period_s = min(max(welcome.heartbeat_us / 1e6, PERIOD_S[0]), PERIOD_S[1])
        self.pauses.welcomed(welcome.spread_us / 1e6)
        self.take_credit(line, welcome.credit)
        self.tell(line, Value("Confirm", generation=welcome.generation))
        line.state, line.welcomed_at = "Connected", now
        self.next_beat(line, now)
        emit(
            "welcome", version=line.version, session=session.id.hex(), generation=welcome.generation, resumed=welcome.resumed, epoch=self.epoch,
            held={token: it.state for token, it in self.tasks.attempts.items()},
        )  # fmt: skip

    # Frames that come

    def take_frame(self, line, frame, now):
        body = line.opener.open(frame)
        line.heard_at, line.unfinished, line.probed = now, 0, False
        for item, ignorable, number, payload in frames.items(body):
            if item == frames.NUMBERED:
                if line.welcomed_at is None:
                    raise Breach("a number before Welcome")
                new = self.session.take_number(number, len(payload), now)
                if not new or not payload:
                    emit("number", number=number, new=new, void=not payload)
                    continue
            try:
                message = line.schema.decode("Control" if item == frames.CONTROL else "ToWorker", payload)
            except Breach:
                if ignorable:
                    continue
                raise
            if item != frames.CONTROL and (item == frames.LOOSE) != (message.name in LOOSE):
                raise Breach(f"{message.name} in a class that is not its own")
            if item == frames.NUMBERED:
                emit("number", number=number, new=True, message=message.name)
            if item == frames.CONTROL:
                self.take_control(line, message, now)
            elif line.welcomed_at is None:
                raise Breach(f"{message.name} before Welcome")
            else:
                if message.name == "RestorePiece":
                    line.bulk.take(len(message.bytes))
                self.tasks.take(message, self.session, now)

    def take_control(self, line, message, now):
        if message.name == "Denied":
            self.denied(message.reason)
        elif message.name == "GoAway":
            raise Loss("GoAway", code=4000, local=True, floor_s=max(message.slot_us / 1e6, 0.1))
        elif (message.name == "Welcome") != (line.welcomed_at is None) or message.name in ("Confirm", "Begin"):
            raise Breach(f"{message.name} at the wrong time")
        elif message.name == "Welcome":
            self.welcomed(line, message, now)
        elif message.name == "Ack":
            self.session.take_ack(message.received)
        elif message.name in ("Credit", "Beat", "Echo"):
            self.take_credit(line, message.credit)
            if message.name == "Beat":
                self.tell(line, Value("Echo", stamp=message.stamp, credit=self.credit()))
        elif message.name == "Compare":
            line.compare = True

    def denied(self, reason):
        final, name = reason.name in FINAL, reason.name
        if name == "Protocol":
            self.session = None
        floor_s = reason.retry_after_us / 1e6 if name == "Busy" else 0.0
        raise Loss(f"Denied({name})", code=4500 if final else 4102, slow=name == "Protocol", floor_s=floor_s, final=final)

    def take_credit(self, line, credit):
        self.session.messages_credit = max(self.session.messages_credit, credit.messages)
        line.bulk.credit = max(line.bulk.credit, credit.bulk)

    def watch_silence(self, line, now):
        silence_s = now - line.heard_at
        if silence_s >= 2.5 * self.period_s:
            raise Loss("silence", code=4003, local=True)
        if now >= line.beat_at or silence_s >= 1.5 * self.period_s and not line.probed:
            line.probed = silence_s >= 1.5 * self.period_s
            self.tell(line, Value("Beat", stamp=int(now * 1e6), credit=self.credit()))
            line.digest_due = line.version >= 2
            self.next_beat(line, now)

    def next_beat(self, line, now):
        line.beat_at = now + self.period_s * random.uniform(0.9, 1.1)

    # Frames that go

    def credit(self):
        tasks, bulk = self.tasks.credit(self.session), self.connection.bulk.grant(self.session.version)
        return Value("Credit", tasks=tasks, messages=self.session.received + WINDOW, bulk=bulk)

    def tell(self, line, message):
        line.control.append(message)

    def fill_frames(self, line, now):
        while line.sealer is not None and len(line.ws.out) < frames.FRAME_BYTES_MAX:
            body, bulk = self.fill(line, now)
            if not body:
                return
            line.ws.send(line.sealer.seal(body))
            if bulk is not None and bulk.name == "Piece":
                emit("piece", number=bulk.number, offset=bulk.offset, size=len(bulk.bytes), ends_at=line.ws.written)

    def fill(self, line, now):
        """One body, in the order of LANES-1, and the piece at its end"""
        session, schema, room = self.session, line.schema, min(frames.BODY_BYTES_MAX, line.frame_bytes_max - 20) - 512
        inside, bulk = b"".join(self.numbered(line, room)), None
        if not session.replay:
            inside += self.account(line)
            inside += b"".join(self.loose(line, room - len(inside)))
            if len(inside) + frames.PIECE_BYTES_MAX < room:
                bulk = self.tasks.bulk(line.bulk.left())
        if bulk is not None:
            line.bulk.sent += len(bulk.bytes)
            inside += frames.pack_item(frames.LOOSE, schema.encode("FromWorker", bulk))
        tasks = self.tasks.credit(session)
        control, line.control = line.control[:8], line.control[8:]
        if session.received > session.told_ack and (inside or control or session.ack_due(now)):
            control.append(Value("Ack", received=session.received))
            session.ack_told()
        credit = (tasks, session.received + WINDOW)
        if session.credit_due(tasks) or line.bulk.due(session.version) or (inside or control) and session.told_credit != credit:
            control.append(Value("Credit", credit=self.credit()))
            session.credit_told(tasks)
        return b"".join(frames.pack_item(frames.CONTROL, schema.encode("Control", it)) for it in control) + inside, bulk

    def numbered(self, line, room):
        """Replay, then what is new, each as an item"""
        session = self.session
        while session.replay and room >= frames.MESSAGE_BYTES_MAX:
            sent = session.replay.popleft()
            payload = self.payload(line, sent.name, sent.about)
            emit("sent", number=sent.number, message=sent.name if payload else "VOID", again=True)
            item = frames.pack_item(frames.NUMBERED, payload, sent.number)
            room -= len(item)
            yield item
        while room >= frames.MESSAGE_BYTES_MAX and session.may_number() and (due := self.tasks.next()) is not None:
            payload = self.payload(line, *due)
            number = session.number(*due, len(payload))
            emit("sent", number=number, message=due[0] if payload else "VOID", again=False)
            item = frames.pack_item(frames.NUMBERED, payload, number)
            room -= len(item)
            yield item

    def account(self, line):
        """What is held, as a number or one by one, behind everything numbered (SESS-8)"""
        if line.welcomed_at is None or not (line.digest_due or line.compare) or (held := self.tasks.account()) is None:
            return b""
        numbers = {"received": self.session.received, "sent": self.session.sent}
        if line.compare:
            items = b"".join(task + line.schema.encode("u64", token) for task, token in held)
            item = frames.LOOSE, line.schema.encode("FromWorker", Value("Holdings", **numbers, items=items))
        else:
            item = frames.CONTROL, line.schema.encode("Control", Value("Digest", **numbers, held=digest(held)))
        line.digest_due = line.compare = False
        return frames.pack_item(*item)

    def loose(self, line, room):
        """Offers and needs, each as an item"""
        due = self.tasks.loose()
        while room >= frames.MESSAGE_BYTES_MAX and (message := next(due, None)) is not None:
            item = frames.pack_item(frames.LOOSE, line.schema.encode("FromWorker", message))
            room -= len(item)
            yield item

    def payload(self, line, name, about):
        message = self.tasks.message(name, about)
        if message is None:
            return b""
        if name == "Inventory":
            held = [Value("InventoryItem", task=it.task, token=it.token, attempt=it.attempt, held=it.held()) for it in message.items]
            message = Value(name, **{**message.fields, "items": b"".join(line.schema.encode("InventoryItem", it) for it in held)})
        return line.schema.encode("FromWorker", message)

    def maybe_leave(self, line):
        if line.welcomed_at is None or self.said_bye or not self.tasks.done():
            return
        if not self.session.unacknowledged:
            self.tell(line, Value("Bye"))
            self.said_bye = True
            emit("bye")


def main():
    parser = argparse.ArgumentParser(description="A second worker for rejoin, written from PROTOCOL.md alone")
    parser.add_argument("--coordinator", required=True, metavar="URL")
    parser.add_argument("--key", required=True, metavar="FILE")
    parser.add_argument("--slots", type=int, default=1)
    parser.add_argument("--places", type=int, default=1, help="waiting places")
    parser.add_argument("--label", action="append", default=[], metavar="K=V")
    parser.add_argument("--resource", action="append", default=[], metavar="NAME=AMOUNT")
    parser.add_argument("--pause-max", type=float, default=30.0, metavar="SECONDS", help="cap of the pauses before a dial")
    parser.add_argument("--version-max", type=int, choices=VERSIONS, default=VERSIONS[0], help="newest wire version to speak")
    parser.add_argument("--drain-timeout", type=float, default=30.0, metavar="SECONDS")
    sys.exit(Worker(parser.parse_args()).run())


if __name__ == "__main__":
    main()
