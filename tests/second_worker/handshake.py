"""The dialler's side of the handshake: M1, M2, M3 and the keys that come of them (PROTOCOL.md, section 3)"""

import hashlib
import hmac
import struct

HELLO, CHALLENGE, PROOF, RETRY_AFTER, REJECT = b"HCPRJ"
ROLE_WORKER = 0


class Failed(Exception):
    """A failed handshake (AUTH-2)"""


class Retry(Exception):
    """RETRY_AFTER, with the seconds that it asks for"""


class Key:
    """A key file: one line of role, name, id and secret that is no comment"""

    def __init__(self, path):
        lines = [line.split() for line in open(path) if line.strip() and not line.startswith("#")]
        if len(lines) != 1 or len(lines[0]) != 4 or lines[0][0] != "worker":
            raise SystemExit(f"{path} is no key file of a worker; make one with `rejoin key new`")
        self.name, self.id, self.secret = lines[0][1], bytes.fromhex(lines[0][2]), bytes.fromhex(lines[0][3])


def mac(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def transcript(*parts):
    return hashlib.sha256(b"".join(struct.pack("<I", len(part)) + part for part in parts)).digest()


def pack(kind, *fields):
    return bytes([kind]) + b"".join(struct.pack("<H", len(field)) + field for field in fields)


def unpack(kind, sizes, data):
    """The fields of a message, whose sizes must be among those given; None is any"""
    fields, at = [], 1
    for allowed in sizes:
        if len(data) < at + 2:
            raise Failed("a handshake message ends too early")
        size = struct.unpack_from("<H", data, at)[0]
        at += 2 + size
        if at > len(data) or allowed is not None and size not in allowed:
            raise Failed("a field has a wrong length")
        fields.append(data[at - size : at])
    if data[0] != kind or at != len(data) or len(data) > 4096:
        raise Failed("a handshake message of another kind or length")
    return fields


class Challenge:
    """M2, read and not yet believed"""

    SIZES = ([2], [8], None, [16], [8], [20], [0, 8], [32], [32])

    def __init__(self, data):
        version, capabilities, self.binding, self.cluster, epoch, limits, session, self.nonce, self.mac_c = unpack(
            CHALLENGE, self.SIZES, data
        )
        self.version, self.capabilities, self.epoch = (int.from_bytes(it, "little") for it in (version, capabilities, epoch))
        self.frame_bytes_max, self.messages, self.bulk = struct.unpack("<IQQ", limits)
        self.received = int.from_bytes(session, "little") if session else None
        self.cut = data[:-34]


class Handshake:
    """One handshake, from M1 to the keys of a connection"""

    def __init__(self, key, versions, capabilities, audience, boot, session, epoch, nonce):
        self.key, self.versions, self.nonce = key, versions, nonce
        self.m1 = pack(
            HELLO,
            b"".join(struct.pack("<H", version) for version in versions),
            struct.pack("<Q", capabilities),
            audience.encode(),
            b"",
            bytes([ROLE_WORKER]),
            key.name.encode(),
            key.id,
            boot,
            session or b"",
            struct.pack("<Q", epoch),
            nonce,
        )

    def challenged(self, data):
        """What M2 says, if its proof is right"""
        if data[:1] == bytes([RETRY_AFTER]):
            raise Retry(int.from_bytes(unpack(RETRY_AFTER, [[8]], data)[0], "little") / 1e6)
        if data[:1] == bytes([REJECT]):
            raise Failed(f"REJECT {unpack(REJECT, [[1]], data)[0][0]}")
        challenge = Challenge(data)
        self.prk = mac(self.nonce + challenge.nonce, self.key.secret)
        self.t2 = transcript(b"rejoin transcript 2", self.m1, challenge.cut, b"")
        if not hmac.compare_digest(challenge.mac_c, mac(self.expand(b"rejoin c fin"), self.t2)):
            raise Failed("mac_c is wrong: the coordinator does not have this key")
        if challenge.version not in self.versions or challenge.binding:
            raise Failed("a version or binding that was not offered")
        self.mac_c = challenge.mac_c
        return challenge

    def expand(self, info):
        return mac(self.prk, info + b"\1")

    def proof(self, resume=b"", resume_key=b""):
        """M3; `resume` is the first 48 bytes of that field, or empty for a new session"""
        if resume:
            resume += mac(resume_key, b"rejoin resume" + self.t2)
        self.t3 = transcript(b"rejoin transcript 3", self.t2, self.mac_c, pack(PROOF, resume))
        self.mac_w = mac(self.expand(b"rejoin w fin"), self.t3)
        self.t4 = transcript(b"rejoin transcript 4", self.t3, self.mac_w)
        self.key_up = self.expand(b"rejoin w2c" + self.t4)
        self.key_down = self.expand(b"rejoin c2w" + self.t4)
        self.session = self.expand(b"rejoin session" + self.t4)[:16]
        self.resume_key = self.expand(b"rejoin resume key" + self.t4)
        return pack(PROOF, resume, self.mac_w)


def resume_field(session, generation, received, sent, acknowledged):
    return session + struct.pack("<QQQQ", generation, received, sent, acknowledged)
