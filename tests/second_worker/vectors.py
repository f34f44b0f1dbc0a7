#!/usr/bin/env python3
"""Proves the handshake, the key schedule, the frames and the messages against the project's test vectors

Call: python3 tests/second_worker/vectors.py
"""

import pathlib
import re
import sys
import types

import chunks
import frames
import handshake
import messages

ROOT = pathlib.Path(__file__).resolve().parents[2]
VECTORS = ROOT / "core/tests/vectors"
CHECKED = 0


def check(what, actual, expected):
    global CHECKED
    CHECKED += 1
    if actual != expected:
        show = lambda it: it.hex() if isinstance(it, bytes) else it
        sys.exit(f"vectors: {what} is\n  {show(actual)}\nand should be\n  {show(expected)}")


def load(name):
    lines = (line.split(" = ") for line in (VECTORS / name).read_text().splitlines() if " = " in line and line[0] != "#")
    return {key: bytes.fromhex(value) for key, value in lines}


def schema_lines(text):
    """Enum, fields, and number and name of each line of a schema; a note behind the fields does not count"""
    kind = None
    for line in filter(None, text.splitlines()):
        kind = None if line.startswith("struct") else line.split()[1] if line.startswith("enum") else kind
        fields = re.split(r" {3,}", line[23:])[0].split() if line[22:23] == " " else []
        yield line, (kind, " ".join(fields), *line[:22].split()[:2])


def check_page():
    """The page's schema has what is spoken here, and its worked session is that of the vectors"""
    page = (ROOT / "PROTOCOL.md").read_text()
    blocks = "".join(re.findall(r"^```schema\n(.*?)^```", page, re.M | re.S))
    of_page = {entry: "since 2" in line for line, entry in schema_lines(blocks)}
    for text, since_2 in ((messages.SCHEMA_1, False), (messages.SINCE_2, True)):
        for line, entry in schema_lines(text):
            expected = since_2 and not line.startswith("enum")
            check(f"`since 2` in PROTOCOL.md's line for {line.strip()!r}", of_page.get(entry), expected)
    spoken = {entry for _, entry in schema_lines(messages.SINCE_2)}
    # A worker hears nothing of what clients say, and are told.
    others = ("FromClient", "ToClient", "Refused")
    marked = {entry for entry, since_2 in of_page.items() if since_2 and entry[0] not in others}
    check("what PROTOCOL.md marks with `since 2`", marked - spoken, set())
    conversation = load("conversation.txt")
    worked = page[page.index("## 15. Worked session\n") :]
    for name, value in re.findall(r"^([12]\.\S+) += ((?:[0-9a-f]+\s+)+)", worked, re.M):
        check(f"{name} in PROTOCOL.md", bytes.fromhex("".join(value.split())), conversation[name])


def check_handshake():
    vectors = load("handshake.txt")
    key = types.SimpleNamespace(name="lab-3", id=bytes([1] * 8), secret=b"")
    hello = handshake.Handshake(key, [1], 1, "ws://coordinator", bytes([2] * 16), None, 0, bytes([3] * 32))
    check("Hello.1", hello.m1, vectors["Hello.1"])
    first, second = (handshake.Challenge(vectors[f"Challenge.{n}"]) for n in (1, 2))
    said = lambda it: (it.version, it.capabilities, it.cluster, it.epoch, it.frame_bytes_max, it.messages, it.bulk, it.received)
    limits = (1, 1, bytes([5] * 16), 7, 65_536, 4_096, 1_048_576)
    check("Challenge.1", said(first), (*limits, None))
    check("Challenge.2", said(second), (*limits, 300))
    check("its binding", second.binding, b"tls-exporter")
    aa, bb = bytes([0xAA] * 32), bytes([0xBB] * 32)
    check("Proof.1", handshake.pack(handshake.PROOF, b"", aa), vectors["Proof.1"])
    resume = handshake.resume_field(bytes([4] * 16), 2, 3, 500, 400) + bb
    check("Proof.2", handshake.pack(handshake.PROOF, resume, aa), vectors["Proof.2"])
    refusals = {"RetryAfter": "1.5", "Reject.Malformed": "REJECT 0", "Reject.UnknownKey": "REJECT 1", "Reject.Version": "REJECT 2"}
    refusals |= {"Reject.Unbound": "REJECT 3", "Reject.Audience": "REJECT 4"}
    for name, expected in refusals.items():
        try:
            answer = hello.challenged(vectors[name])
        except (handshake.Failed, handshake.Retry) as refusal:
            answer = str(refusal)
        check(name, answer, expected)


def check_conversation():
    """Both connections: keys out of the messages, then each frame, opened and sealed"""
    vectors = load("conversation.txt")
    key = types.SimpleNamespace(name="lab-3", id=bytes([1] * 8), secret=vectors["secret"])
    session = resume_key = None
    for which, nonce in (("1", 0x11), ("2", 0x12)):
        get = lambda name: vectors[f"{which}.{name}"]
        shake = handshake.Handshake(key, [1], 1, "ws://coordinator", bytes([2] * 16), session, 7 if session else 0, bytes([nonce] * 32))
        check(f"{which}.m1", shake.m1, get("m1"))
        challenge = shake.challenged(get("m2"))
        resume = handshake.resume_field(session, 1, 2, 2, 2) if session else b""
        check(f"{which}.m3", shake.proof(resume, resume_key), get("m3"))
        for name in ("prk", "t2", "mac_c", "t3", "mac_w", "t4", "session", "resume_key"):
            check(f"{which}.{name}", getattr(shake, name), get(name))
        check(f"{which}.to_coordinator", shake.key_up, get("to_coordinator"))
        check(f"{which}.to_peer", shake.key_down, get("to_peer"))
        session, resume_key = session or shake.session, resume_key or shake.resume_key
        check_frames(vectors, f"{which}.up.", shake.key_up, "FromWorker", challenge)
        check_frames(vectors, f"{which}.down.", shake.key_down, "ToWorker", challenge)


def check_frames(vectors, prefix, key, kind, challenge):
    opener, sealer = frames.Opener(key, challenge.capabilities), frames.Sealer(key)
    count = 0
    while (name := f"{prefix}{count}") in vectors:
        frame, body = vectors[name], vectors[f"{name}.body"]
        check(name, opener.open(frame), body)
        sealed = sealer.seal(body)
        if frame[1] == 0:
            check(f"{name}, sealed", sealed, frame)
        check_items(f"{name}.body", kind, body, 1)
        broken = frames.Opener(key, challenge.capabilities)
        broken.counter = count
        try:
            broken.open(bytes([frame[0] ^ 1]) + frame[1:])
            check(f"{name} with a changed byte", "believed", "refused")
        except frames.WrongTag:
            pass
        count += 1
    check(f"{prefix}* are there", count > 0, True)


def check_items(what, kind, body, version):
    schema, again = messages.SCHEMAS[version], b""
    for item, _, number, payload in frames.items(body):
        name = "Control" if item == frames.CONTROL else kind
        message = schema.decode(name, payload)
        check(f"class of {message}", item == frames.LOOSE, name != "Control" and message.name in messages.LOOSE)
        again += frames.pack_item(item, schema.encode(name, message), number)
    check(f"{what}, read and written", again, body)


def check_messages():
    """Those of version 1 in both versions, what version 2 adds only in that"""
    count = 0
    for name, body in load("messages.txt").items():
        kind = name.split(".")[0]
        if kind in ("Control", "FromWorker", "ToWorker"):
            for version in messages.VERSIONS:
                check_items(name, kind, body, version)
            count += 1
    check("messages are there", count > 40, True)
    added = load("messages_2.txt")
    for name, body in added.items():
        kind = name.split(".")[0]
        if kind not in ("Control", "FromWorker", "ToWorker"):
            continue
        check_items(name, kind, body, 2)
        try:
            check_items(name, kind, body, 1)
            check(f"{name} in version 1", "read", "a breach")
        except messages.Breach:
            pass
    lines = [entry for _, entry in schema_lines(messages.SINCE_2) if entry[0] in ("FromWorker", "ToWorker") and entry[2] != "enum"]
    check("each message since 2 has a vector", {f"{kind}.{name}.1" for kind, _, _, name in lines} - set(added), set())
    held = messages.digest([(bytes([0x11] * 16), 1)])
    payload = next(payload for _, _, _, payload in frames.items(added["Control.Digest.1"]))
    check("the digest of one attempt", messages.SCHEMAS[2].decode("Control", payload).held, held)
    offer = messages.Value("RestoreOffer", token=1, number=300, length=70_000, names=bytes([0x44] * 64))
    payload = next(payload for _, _, _, payload in frames.items(added["ToWorker.RestoreOffer.1"]))
    check("ToWorker.RestoreOffer.1", str(messages.SCHEMAS[2].decode("ToWorker", payload)), str(offer))
    check("the length fits the names", chunks.chunk_count(offer.length) * chunks.NAME_BYTES, len(offer.names))
    check("chunks of 64 MiB, and of one byte more", [chunks.chunk_count(n) for n in (1 << 26, (1 << 26) + 1)], [1_024, 513])


def main():
    check_handshake()
    check_conversation()
    check_messages()
    check_page()
    print(f"vectors: all {CHECKED} comparisons hold")


if __name__ == "__main__":
    main()
