"""A worker's end that does just what it is told, to see what the coordinator answers"""

import hashlib
import os
import socket
import time

import frames
from handshake import Handshake, Key, resume_field
from lab import WAIT_S, Wrong, check
from messages import SCHEMAS, Value
from websocket import Ended, WebSocket

SCHEMA = SCHEMAS[2]
NONE = Value("StreamEnd", len=0, sha256=bytes(32))


class Dialler:
    """A worker's end that does just what it is told; it keeps no rule by itself"""

    def __init__(self, lab, name="lab-1", boot=None, session=None, versions=(1,), capabilities=1):
        self.lab, self.key, self.boot = lab, Key(lab.path / f"{name}.key"), boot or os.urandom(16)
        self.session, self.versions, self.capabilities, self.sent = session, list(versions), capabilities, 0
        self.received = 0
        self.ws, self.messages, self.items, self.code = WebSocket("here", "/v1/worker"), [], [], None
        self.socket = socket.create_connection(("127.0.0.1", lab.port))
        self.socket.settimeout(WAIT_S)
        self.flush()
        check("the upgrade", self.message(), None)

    def flush(self):
        self.socket.sendall(self.ws.out)
        self.ws.out.clear()

    def message(self):
        """The next WebSocket message, or the close code as an integer"""
        while not self.messages:
            try:
                data = self.socket.recv(65_536)
                if not data:
                    return "end"
                self.messages.extend(self.ws.feed(data))
            except ConnectionResetError:
                return "end"
            except Ended:
                self.messages.append(self.ws.close_code)
        return self.messages.pop(0)

    def greet(self):
        ident = self.session.session if self.session else None
        self.shake = Handshake(self.key, self.versions, self.capabilities, "ws://here", self.boot, ident, 0, os.urandom(32))
        self.ws.send(self.shake.m1)
        self.flush()
        return self.message()

    def prove(self, resume=b"", spoil=False):
        answer = self.greet()
        self.challenge = self.shake.challenged(answer)
        m3 = self.shake.proof(resume, self.session.resume_key if resume else b"")
        self.ws.send(m3[:-1] + bytes([m3[-1] ^ spoil]))
        self.flush()
        self.sealer = frames.Sealer(self.shake.key_up)
        self.opener = frames.Opener(self.shake.key_down, self.challenge.capabilities)
        return self

    def begin(self, tasks=100, bulk=1 << 20, held=()):
        """A new session, with those attempts in its inventory"""
        self.prove()
        self.control("Begin", session=self.shake.session)
        self.grant(tasks, bulk)
        self.number("Inventory", part=0, last=True, cut=0, items=b"".join(SCHEMA.encode("InventoryItem", it) for it in held))
        return self.welcomed()

    def grant(self, tasks, bulk):
        self.control("Credit", credit=Value("Credit", tasks=tasks, messages=4_096, bulk=bulk))

    def resume(self):
        """A new connection of the session, whose newest generation it knows, when everything was taken in"""
        self.echoed()
        again = Dialler(self.lab, self.key.name, self.boot, self.session or self.shake, self.versions, self.capabilities)
        again.generation, again.sent, again.received = self.generation, self.sent, self.received
        again.prove(resume_field(again.session.session, self.generation, self.received, self.sent, 0))
        again.welcomed()
        return again

    def welcomed(self):
        self.generation = self.wait("Welcome").generation
        self.control("Confirm", generation=self.generation)
        return self

    def control(self, name, **fields):
        self.item(frames.CONTROL, SCHEMA.encode("Control", Value(name, **fields)))

    def number(self, name, **fields):
        self.numbered(SCHEMA.encode("FromWorker", Value(name, **fields)))

    def numbered(self, payload, kind=frames.NUMBERED, step=1):
        self.sent += step
        self.item(kind, payload, self.sent)

    def loose(self, name, **fields):
        self.item(frames.LOOSE, SCHEMA.encode("FromWorker", Value(name, **fields)))

    def output(self, token, offset, data):
        fields = {"token": token, "stream": Value("Out"), "offset": offset, "bytes": data}
        self.item(frames.LOOSE, SCHEMA.encode("FromWorker", Value("Output", **fields)))

    def item(self, kind, payload, number=None):
        self.body(frames.pack_item(kind, payload, number))

    def body(self, body):
        self.raw(self.sealer.seal(body))

    def raw(self, message):
        self.ws.send(message)
        self.flush()

    def next(self, what="a message", deadline=None):
        """The next message, but for VOIDs"""
        while not self.items:
            if deadline is not None and time.monotonic() > deadline:
                raise Wrong(f"waited for {what} in vain")
            frame = self.message()
            if not isinstance(frame, bytes):
                raise Wrong(f"waited for {what}, and was closed with {frame}")
            for kind, _, number, payload in frames.items(self.opener.open(frame)):
                self.received = number or self.received
                if payload:
                    self.items.append(SCHEMA.decode("Control" if kind == frames.CONTROL else "ToWorker", payload))
        return self.items.pop(0)

    def wait(self, name, **fields):
        """The next message of that name; a `Beat` on the way is answered"""
        deadline = time.monotonic() + WAIT_S / 3
        while True:
            message = self.next(f"{name} {fields}", deadline)
            if message.name == "Beat" and name != "Beat":
                self.control("Echo", stamp=message.stamp, credit=message.credit)
            if message.name == name and all(message.fields[field] == value for field, value in fields.items()):
                return message

    def closed(self):
        """The close code, whatever comes before"""
        while isinstance(message := self.message(), bytes):
            pass
        return message

    def assigned(self, name):
        assign = self.wait("Assign", task=hashlib.sha256(name.encode()).digest()[:16])
        self.number("Running", token=assign.token, progress=0)
        return assign

    def mine(self, name):
        """A new task, which only this worker can get"""
        self.lab.submit(name, "true")
        return self.assigned(name)

    def result(self, assign, outcome, streams=(NONE, NONE)):
        self.number("Result", task=assign.task, token=assign.token, outcome=outcome, result=b"", streams=streams)

    def settle(self):
        """Everything sent so far was taken in"""
        self.number("GivenBack", token=0)
        self.wait("Ack", received=self.sent)
        return self

    def echoed(self):
        """Likewise, sooner: an ack may wait for a second; it may not be durable yet"""
        self.control("Beat", stamp=self.sent, credit=Value("Credit", tasks=0, messages=0, bulk=0))
        self.wait("Echo", stamp=self.sent)

    def bye(self):
        self.control("Bye")
        check("close code after `Bye`", self.closed(), 4000)


def breach(what, lab, does, **options):
    """A frame with a right tag that breaks a rule: told under seal, and closed with 4102 (FRAME-2)"""
    dialler = Dialler(lab, **options).begin()
    does(dialler)
    try:
        reason = dialler.wait("Denied").reason.name
    except Wrong as wrong:
        raise Wrong(f"{what}: {wrong}") from None
    check(f"{what}: the reason", reason, "Protocol")
    check(f"{what}: the close code", dialler.closed(), 4102)
