"""Sealed frames, the items in them, and lz4 blocks (PROTOCOL.md, section 4)"""

import hmac
import struct

from handshake import mac
from messages import Breach

FRAME_BYTES_MAX = 65_536
BODY_BYTES_MAX = 65_000
MESSAGE_BYTES_MAX = 60_000
PIECE_BYTES_MAX = 32_768
CONTROL, NUMBERED, IGNORABLE = 0, 1, 0x80
LOOSE = 2
LZ4 = 1


class WrongTag(Exception):
    """A frame that cannot be believed: a cut like any other"""


class Sealer:
    """Makes frames; never compressed, which a sender is free to do"""

    def __init__(self, key):
        self.key, self.counter = key, 0

    def seal(self, body):
        frame = struct.pack("<BBH", 1, 0, len(body)) + body
        tag = mac(self.key, struct.pack("<Q", self.counter) + frame)[:16]
        self.counter += 1
        return frame + tag


class Opener:
    """Verifies frames, then reads them"""

    def __init__(self, key, capabilities):
        self.key, self.capabilities, self.counter = key, capabilities, 0

    def open(self, frame):
        if not 20 <= len(frame) <= FRAME_BYTES_MAX:
            raise WrongTag("a frame of impossible length")
        tag = mac(self.key, struct.pack("<Q", self.counter) + frame[:-16])[:16]
        if not hmac.compare_digest(tag, frame[-16:]):
            raise WrongTag("a wrong tag")
        self.counter += 1
        version, flags, size = struct.unpack_from("<BBH", frame)
        body = frame[4:-16]
        if version != 1 or flags > 1 or size > BODY_BYTES_MAX:
            raise Breach("a header that says what there is not")
        if flags:
            if not self.capabilities & LZ4:
                raise Breach("a compressed body without that capability")
            body = lz4_block(body, size)
        if len(body) != size:
            raise Breach("a body of another length than its header says")
        return body


def lz4_block(block, size_max):
    """Decompresses one raw block"""
    out, at, end = bytearray(), 0, len(block)

    def longer(length):
        nonlocal at
        more = True
        while more:
            length, more = length + block[at], block[at] == 255
            at += 1
        return length

    try:
        while True:
            token = block[at]
            at += 1
            literals, match = token >> 4, token & 15
            if literals == 15:
                literals = longer(15)
            if at + literals > end:
                raise Breach("a compressed body ends too early")
            out += block[at : at + literals]
            at += literals
            if len(out) > size_max:
                raise Breach("a compressed body is larger than its header says")
            if at == end:
                return bytes(out)
            distance = block[at] | block[at + 1] << 8
            at += 2
            match = (longer(15) if match == 15 else match) + 4
            start = len(out) - distance
            if not 0 <= start < len(out) or len(out) + match > size_max:
                raise Breach("a match outside of a compressed body")
            if distance >= match:
                out += out[start : start + match]
            else:
                out += (out[start:] * (match // distance + 1))[:match]
    except IndexError:
        raise Breach("a compressed body ends too early") from None


def pack_item(kind, payload, number=None):
    return struct.pack("<HB", len(payload), kind) + (b"" if number is None else struct.pack("<Q", number)) + payload


def items(body):
    """Class, whether it may be skipped, number or None, and payload of each item"""
    at = 0
    while at < len(body):
        if len(body) - at < 3:
            raise Breach("an item ends too early")
        size, kind = struct.unpack_from("<HB", body, at)
        at += 3
        number = None
        if kind & 0x7F == NUMBERED:
            if len(body) - at < 8:
                raise Breach("an item ends too early")
            number = struct.unpack_from("<Q", body, at)[0]
            at += 8
        if kind & 0x7F > LOOSE or size > MESSAGE_BYTES_MAX or size > len(body) - at:
            raise Breach("an item of no class, or too long")
        at += size
        yield kind & 0x7F, bool(kind & IGNORABLE), number, body[at - size : at]
