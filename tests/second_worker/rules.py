#!/usr/bin/env python3
"""What the coordinator answers to whoever keeps to a rule and to whoever breaks it, message by message

Call: python3 tests/second_worker/rules.py target/release/rejoin
"""

import hashlib
import os
import socket
import struct
import subprocess
import sys

import frames
import rules_chunks
from dialler import NONE, SCHEMA, Dialler, breach
from handshake import Failed, Handshake, pack, resume_field
from lab import WAIT_S, Lab, Wrong, check, say
from messages import Value


def transport(lab):
    def ask(head):
        with socket.create_connection(("127.0.0.1", lab.port)) as line:
            line.settimeout(WAIT_S)
            line.sendall(head.replace("\n", "\r\n").encode())
            return line.recv(65_536).split(b"\r\n")[0].split(b" ")[1].decode()

    upgrade = "Host: h\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Key: {}\nSec-WebSocket-Version: {}\n\n"
    good = "AAAAAAAAAAAAAAAAAAAAAA=="
    check("upgrade", ask("GET /v1/worker HTTP/1.1\n" + upgrade.format(good, 13)), "101")
    check("upgrade behind a path", ask("GET /some/where/v1/worker HTTP/1.1\n" + upgrade.format(good, 13)), "404")
    check("version 12", ask("GET /v1/worker HTTP/1.1\n" + upgrade.format(good, 12)), "426")
    check("no upgrade", ask("GET /v1/worker HTTP/1.1\nHost: h\n\n"), "426")
    check("no key", ask("GET /v1/worker HTTP/1.1\n" + upgrade.format("short", 13)), "400")
    check("POST", ask("POST /v1/worker HTTP/1.1\nHost: h\n\n"), "405")
    check("another path", ask("GET /v2 HTTP/1.1\nHost: h\n\n"), "404")
    check("health", ask("GET /healthz HTTP/1.1\nHost: h\n\n"), "200")
    dialler = Dialler(lab)
    dialler.ws.write(1, b"text")
    dialler.flush()
    check("a text message ends the connection", not isinstance(dialler.closed(), bytes))
    say("transport: the answers of section 2")


def handshake(lab):
    def refused(reason, dialler):
        try:
            answer = dialler.greet() if reason else dialler.message()
            dialler.shake.challenged(answer)
        except Failed as failed:
            check("refusal", str(failed), f"REJECT {reason}")
            check("close code", dialler.closed(), 4100)

    dialler = Dialler(lab)
    dialler.shake = Handshake(dialler.key, [1], 1, "", dialler.boot, None, 0, bytes(32))
    dialler.raw(pack(0x48, b"", b""))
    refused(0, dialler)
    dialler = Dialler(lab)
    dialler.key.id = bytes(8)
    refused(1, dialler)
    refused(2, Dialler(lab, versions=[9]))
    dialler = Dialler(lab, versions=[9, 1], capabilities=0).prove()
    check("the version and capabilities chosen", (dialler.challenge.version, dialler.challenge.capabilities), (1, 0))
    check("a wrong M3 is closed without a word", Dialler(lab).prove(spoil=True).message(), 4100)
    say("handshake: REJECT 0, 1, 2; the common version; a wrong proof")


def frames_and_items(lab):
    dialler = Dialler(lab).begin()
    dialler.raw(bytes(30))
    check("a wrong tag", dialler.closed(), 4101)
    running = SCHEMA.encode("FromWorker", Value("Running", token=1, progress=0))
    piece = frames.pack_item(2, SCHEMA.encode("FromWorker", Value("Output", token=1, stream=Value("Out"), offset=0, bytes=b"x")))
    breach("a gap", lab, lambda it: it.numbered(running, step=2))
    breach("an unknown variant", lab, lambda it: it.numbered(b"\x63"))
    breach("bytes behind a message", lab, lambda it: it.numbered(running + b"\0"))
    breach("a numbered message as a loose one", lab, lambda it: it.item(2, running))
    breach("class 3", lab, lambda it: it.item(3, running))
    breach("class 3, marked", lab, lambda it: it.item(0x83, running))
    breach("a number of 11 bytes", lab, lambda it: it.numbered(b"\1\x81" + b"\x80" * 9 + b"\0\0"))
    breach("a number that does not fit", lab, lambda it: it.numbered(b"\1" + b"\xff" * 9 + b"\x7f\0"))
    breach("a second inventory", lab, lambda it: it.number("Inventory", part=0, last=True, cut=0, items=b""))
    breach("offers behind the inventory", lab, lambda it: it.number("Offers", tags=b""))
    breach("another generation", lab, lambda it: it.control("Confirm", generation=2))
    dialler = Dialler(lab).begin()
    dialler.numbered(b"\x63", kind=frames.NUMBERED | frames.IGNORABLE)
    dialler.item(frames.CONTROL | frames.IGNORABLE, b"\x63")
    dialler.numbered(b"")
    dialler.numbered(running)
    dialler.sent -= 1
    dialler.numbered(running)
    dialler.numbered(b"\1\x81\0\0")
    dialler.wait("Ack", received=5)
    dialler.raw(sealed(dialler, 1, 4, b"\x40\1\0\0\x08"))
    check("a compressed `Bye`", dialler.closed(), 4000)
    say("frames: every breach ends in Denied(Protocol); ignorable, VOID, repeated and compressed ones do not")


def sealed(dialler, flags, size, body):
    sealer = dialler.sealer
    frame = struct.pack("<BBH", 1, flags, size) + body
    tag = frames.mac(sealer.key, struct.pack("<Q", sealer.counter) + frame)[:16]
    sealer.counter += 1
    return frame + tag


def sessions(lab):
    first = Dialler(lab).begin().settle()
    for generation in (2, 3):
        again = Dialler(lab, boot=first.boot, session=first.shake)
        again.prove(resume_field(first.shake.session, 1, 0, 2, 0))
        welcome = again.wait("Welcome")
        check("resumed, with no `Confirm` between", (welcome.generation, welcome.resumed), (generation, 2))
    check("the first connection is closed at once", first.closed(), 4000)
    again.control("Confirm", generation=3)
    again.sent = 2
    again.settle()
    other = Dialler(lab, session=first.shake).prove()
    check("another boot id finds no session", other.challenge.received, None)
    beat = again.wait("Beat")
    again.control("Echo", stamp=beat.stamp, credit=beat.credit)
    denied = other.wait("Denied").reason
    check("a contender", (denied.name, denied.retry_after_us, other.closed()), ("Busy", 30_000_000, 4102))
    again.bye()
    lost = Dialler(lab).prove()
    lost.wait("Welcome")
    again = Dialler(lab, boot=lost.boot, session=lost.shake).prove(resume_field(lost.shake.session, 0, 0, 0, 0))
    check("a session whose `Begin` and first `Welcome` were lost", again.wait("Welcome").generation, 2)
    again.control("Confirm", generation=2)
    again.number("Inventory", part=0, last=True, cut=0, items=b"")
    again.settle().bye()
    say("sessions: resumed twice over a live connection, contended, and resumed without any `Welcome`")


def results(lab):
    worker = Dialler(lab).begin()
    lab.submit("retried", "true", "--retries", "3")
    assign = worker.assigned("retried")
    cancel = lab.start([lab.program, "cancel", "id:retried", "--coordinator", f"ws://127.0.0.1:{lab.port}", "--key", "me.key"], stdout=subprocess.DEVNULL)
    worker.wait("Cancel", token=assign.token)
    worker.result(assign, Value("Failed", failure=Value("Signal", signal=15)))
    outcome = worker.wait("Settled", token=assign.token).outcome
    check("a failure where a cancel was asked for is the end", (outcome.name, lab.task("retried")["status"]), ("Failed", "failed"))
    check("exit status of the cancel", cancel.wait(WAIT_S), 0)
    assign = worker.mine("digest")
    worker.output(assign.token, 0, b"abc")
    worker.result(assign, Value("Succeeded"), (Value("StreamEnd", len=3, sha256=bytes(32)), NONE))
    settled = worker.wait("Settled", token=assign.token)
    check("a digest that contradicts", (settled.settlement.name, str(settled.outcome)), ("Applied", "Failed(failure Error)"))
    assign = worker.mine("late")
    worker.result(assign, Value("Succeeded"), (Value("StreamEnd", len=3, sha256=hashlib.sha256(b"abc").digest()), NONE))
    worker.output(assign.token, 0, b"ab")
    worker.wait("Kept", token=assign.token, offset=2)
    worker.output(assign.token, 1, b"bc")
    check("a result before its output", worker.wait("Settled", token=assign.token).settlement.name, "Applied")
    check("output", lab.run("logs", "id:late"), b"abc")
    worker.result(assign, Value("Succeeded"))
    check("a result again", worker.wait("Settled", token=assign.token).settlement.name, "Duplicate")
    worker.number("Result", task=bytes(16), token=999_999, outcome=Value("Succeeded"), result=b"", streams=(NONE, NONE))
    check("a result of nobody's", worker.wait("Settled", token=999_999).settlement.name, "Stale")
    assign = worker.mine("saves")
    for n, refused in ((1, None), (1, None), (3, None), (2, "Stale")):
        worker.number("Checkpoint", token=assign.token, number=n, bytes=b"x" * n)
        answer = worker.wait("Checkpointed", token=assign.token, number=n)
        check(f"checkpoint {n}", answer.refused and answer.refused.name, refused)
    worker.number("Checkpoint", token=assign.token, number=4, bytes=bytes(49_153))
    check("a large checkpoint", worker.wait("Checkpointed", number=4).refused.name, "TooLarge")
    worker.result(assign, Value("Cancelled"))
    check("handed over", worker.wait("Settled", token=assign.token).outcome, None)
    again = worker.wait("Assign", task=assign.task)
    check("restored", (again.restores, worker.wait("Restore", token=again.token).number), (True, 3))
    worker.number("GivenBack", token=again.token)
    worker.bye()
    breach("output beyond what there is", lab, lambda it: it.output(it.mine("gap").token, 5, b"x"))
    breach("an empty control message", lab, lambda it: it.item(0, b""))
    breach("`Welcome` from a dialler", lab, lambda it: it.item(0, bytes([0, 1, 0, 0, 0, 0, 0, 0, 0])))
    breach("a second `Begin`", lab, lambda it: it.control("Begin", session=it.shake.session))
    breach("an ack of what was never sent", lab, lambda it: it.control("Ack", received=1_000))
    breach("a flag that does not exist", lab, lambda it: it.raw(sealed(it, 2, 0, b"")))
    breach("a wrong length", lab, lambda it: it.raw(sealed(it, 0, 9, b"\1\0\0\x08")))
    breach("compressed without the capability", lab, lambda it: it.raw(sealed(it, 1, 4, b"\x40\1\0\0\x08")), capabilities=0)
    say("results: settlements, late output, checkpoints, handing over, output out of bounds")


def main():
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} REJOIN; for example target/release/rejoin")
    lab = Lab(sys.argv[1])
    try:
        for name, role in (("lab-1", "worker"), ("me", "client")):
            lab.run("key", "new", name, "--role", role, "--out", f"{name}.key", "--keys", "fleet.keys")
        lab.coordinator(heartbeat="5s")
        for part in (transport, handshake, frames_and_items, sessions, results, *rules_chunks.PARTS):
            part(lab)
    except (Wrong, subprocess.TimeoutExpired, TimeoutError) as wrong:
        print(lab.read("state.err")[-3_000:])
        sys.exit(f"rules: {wrong}")
    finally:
        lab.close()
    say("all of it held")


if __name__ == "__main__":
    main()
