"""Checkpoints in chunks, both ways (PROTOCOL.md, CKPT-1 and CKPT-4, since version 2)"""

import collections
import hashlib
import os

from messages import Breach, Value

CHUNK_BYTES, CHUNKS_MAX = 65_536, 1_024
NAME_BYTES = 32
SMALL_BYTES_MAX = 49_152
CHECKPOINT_BYTES_MAX = 67_108_864


def name_of(chunk):
    return hashlib.sha256(chunk).digest()


def chunk_bytes(length):
    """Size of all chunks but the last"""
    size = CHUNK_BYTES
    while length > size * CHUNKS_MAX:
        size *= 2
    return size


def chunk_count(length):
    return -(-length // chunk_bytes(length))


def names_of(data):
    size = chunk_bytes(len(data))
    return b"".join(name_of(data[at : at + size]) for at in range(0, len(data), size))


def bits(chosen, count):
    """A bit for each chunk, lowest bit of the first byte first"""
    wanted = bytearray((count + 7) // 8)
    for chunk in chosen:
        wanted[chunk // 8] |= 1 << chunk % 8
    return bytes(wanted)


def chosen(wanted, count):
    """The chunks whose bits are set, in order"""
    value = int.from_bytes(wanted, "little")
    if len(wanted) != (count + 7) // 8 or value >> count:
        raise Breach("bits that stand for no chunk")
    return [chunk for chunk in range(count) if value >> chunk & 1]


class Checkpoint:
    """One that a task has made, as a file; a large one is read again when it is sent, so that it costs no memory"""

    def __init__(self, number, path):
        self.number, self.path, self.length = number, path, os.path.getsize(path)
        self.small = self.length <= SMALL_BYTES_MAX
        self.file = open(path, "rb")
        self.data = self.file.read(SMALL_BYTES_MAX) if self.small else None
        self.names = None
        self.reconnected()

    def reconnected(self):
        """What was said on another connection counts no more: neither the offer nor what was wanted"""
        self.offered, self.wanted, self.offset = False, collections.deque(), 0

    def offer(self, token):
        size = chunk_bytes(self.length)
        if self.names is None:
            self.names = b"".join(name_of(self.read(at, size)) for at in range(0, self.length, size))
        self.offered = True
        return Value("Offer", token=token, number=self.number, length=self.length, names=self.names)

    def need(self, wanted):
        self.wanted, self.offset = collections.deque(chosen(wanted, chunk_count(self.length))), 0
        return list(self.wanted)

    def piece(self, token, size_max):
        """The next bytes of what is wanted, or None"""
        if not self.wanted or size_max <= 0:
            return None
        size = chunk_bytes(self.length)
        start, end = self.wanted[0] * size, min((self.wanted[0] + 1) * size, self.length)
        at = start + self.offset
        data = self.read(at, min(size_max, end - at))
        self.offset += len(data)
        if at + len(data) == end:
            self.wanted.popleft()
            self.offset = 0
        return Value("Piece", token=token, number=self.number, offset=at, bytes=data)

    def read(self, at, size):
        """Zeros stand for what the file has lost meanwhile: the names will tell"""
        size = min(size, self.length - at)
        self.file.seek(at)
        return self.file.read(size).ljust(size, b"\0")

    def remove(self):
        self.file.close()
        os.unlink(self.path)


class Restore:
    """A checkpoint that comes in chunks, into a file; what has come as a whole stays over connections"""

    def __init__(self, offer, directory, before):
        self.number, self.length = offer.number, offer.length
        self.size, count = chunk_bytes(self.length), chunk_count(self.length)
        if len(offer.names) != count * NAME_BYTES:
            raise Breach("names that do not fit the length")
        self.names = [offer.names[at : at + NAME_BYTES] for at in range(0, len(offer.names), NAME_BYTES)]
        self.path = os.path.join(directory, f"in-{self.number}")
        self.file = open(self.path, "w+b")
        self.lacks = set(range(count))
        if before is not None:
            self.copy(before)
        self.reconnected()

    def copy(self, before):
        """What another checkpoint has brought already"""
        have = {before.names[chunk]: chunk for chunk in range(len(before.names)) if chunk not in before.lacks}
        for chunk in sorted(self.lacks):
            if self.names[chunk] in have:
                self.keep(chunk, before.read(have[self.names[chunk]]))

    def read(self, chunk):
        self.file.seek(chunk * self.size)
        return self.file.read(self.size)

    def reconnected(self):
        """Nothing comes before the next offer was answered"""
        self.need_due, self.bad_due, self.comes, self.inside = False, False, collections.deque(), bytearray()

    def need(self, token):
        self.need_due, self.comes, self.inside = False, collections.deque(sorted(self.lacks)), bytearray()
        return Value("RestoreNeed", token=token, number=self.number, wanted=bits(self.comes, len(self.names)))

    def bad(self, token):
        self.bad_due = False
        return Value("RestoreBad", token=token, number=self.number)

    def piece(self, message):
        """Takes a piece in; one of a checkpoint that is not being taken is dropped"""
        if message.number != self.number or not self.comes:
            return
        chunk = self.comes[0]
        end = min(self.size, self.length - chunk * self.size)
        if message.offset != chunk * self.size + len(self.inside) or not 0 < len(message.bytes) <= end - len(self.inside):
            raise Breach("a piece in the wrong place")
        self.inside += message.bytes
        if len(self.inside) < end:
            return
        if name_of(self.inside) != self.names[chunk]:
            self.reconnected()
            self.bad_due = True
            return
        self.keep(self.comes.popleft(), self.inside)
        self.inside = bytearray()

    def keep(self, chunk, data):
        self.file.seek(chunk * self.size)
        self.file.write(data)
        self.file.flush()
        self.lacks.discard(chunk)
