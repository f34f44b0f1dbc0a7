"""The dialler's side of a WebSocket, without IO: bytes in, messages out (PROTOCOL.md, section 2)"""

import base64
import hashlib
import os
import struct

MESSAGE_BYTES_MAX = 65_536
HEAD_BYTES_MAX = 8_192
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


class Ended(Exception):
    """The connection is over: why, and for how long one is asked to stay away"""

    def __init__(self, why, floor_s=0.0):
        super().__init__(why)
        self.floor_s = floor_s


class WebSocket:
    """One connection; `out` is what is still to be written to the socket, `written` all that ever was"""

    def __init__(self, host, path):
        self.key = base64.b64encode(os.urandom(16)).decode()
        self.inside, self.open, self.message = bytearray(), False, None
        self.close_code = None
        self.out = bytearray(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {self.key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.written = len(self.out)

    def feed(self, data):
        """Takes what was read, and yields whole messages; None stands for the upgrade"""
        self.inside += data
        if not self.open:
            if not self.upgraded():
                return
            yield None
        while (frame := self.next_frame()) is not None:
            final, opcode, payload = frame
            if opcode == PING:
                self.write(PONG, payload)
            elif opcode == CLOSE:
                self.close_code = struct.unpack_from(">H", payload)[0] if len(payload) >= 2 else 1005
                raise Ended(f"closed with {self.close_code}")
            elif opcode in (BINARY, CONTINUATION):
                if (opcode == BINARY) != (self.message is None):
                    raise Ended("fragments out of order")
                self.message = (self.message or b"") + payload
                if len(self.message) > MESSAGE_BYTES_MAX:
                    raise Ended("a message that is too long")
                if final:
                    whole, self.message = self.message, None
                    yield whole
            elif opcode != PONG:
                raise Ended("a message that is not binary")

    def upgraded(self):
        head, end, rest = bytes(self.inside).partition(b"\r\n\r\n")
        if len(head) > HEAD_BYTES_MAX:
            raise Ended("an answer without end to the upgrade")
        if not end:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = (first.split() + ["", ""])[1]
        if status != "101":
            wait = fields.get("retry-after", "")
            floor = float(wait) if status in ("429", "502", "503", "504") and wait.isdigit() else 0.0
            raise Ended(f"HTTP status {status}", floor)
        accept = base64.b64encode(hashlib.sha1((self.key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest())
        if fields.get("sec-websocket-accept") != accept.decode():
            raise Ended("an upgrade that is none")
        self.open, self.inside = True, bytearray(rest)
        return True

    def next_frame(self):
        if len(self.inside) < 2:
            return None
        first, second = self.inside[:2]
        size, at = second & 0x7F, 2
        if first & 0x70 or second & 0x80:
            raise Ended("a masked frame, or an extension")
        if size >= 126:
            at = 4 if size == 126 else 10
            if len(self.inside) < at:
                return None
            size = int.from_bytes(self.inside[2:at], "big")
        if size > MESSAGE_BYTES_MAX:
            raise Ended("a message that is too long")
        if len(self.inside) < at + size:
            return None
        payload = bytes(self.inside[at : at + size])
        del self.inside[: at + size]
        return bool(first & 0x80), first & 0x0F, payload

    def send(self, message):
        self.write(BINARY, message)

    def close(self, code):
        self.write(CLOSE, struct.pack(">H", code))

    def write(self, opcode, payload):
        size = len(payload)
        head = bytes([0x80 | opcode])
        if size < 126:
            head += bytes([0x80 | size])
        elif size < 65_536:
            head += struct.pack(">BH", 0x80 | 126, size)
        else:
            head += struct.pack(">BQ", 0x80 | 127, size)
        mask = os.urandom(4)
        keys = int.from_bytes((mask * (size // 4 + 1))[:size], "little")
        frame = head + mask + (int.from_bytes(payload, "little") ^ keys).to_bytes(size, "little")
        self.out += frame
        self.written += len(frame)
