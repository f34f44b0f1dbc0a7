"""Messages by wire version and variant number, and how they become bytes

The tables are in the notation of PROTOCOL.md, section 5, whose order they keep: `vectors.py` compares the two. A newer
wire version is the older one's text and one that has what was appended.
"""

import hashlib

SCHEMA_1 = """
struct Credit          tasks u64, messages u64, bulk u64
struct StreamEnd       len u64, sha256 raw32
struct Tag_            name text, tag Tag
struct Tags            u64 and that many Tag_
struct InventoryItem   task raw16, token u64, attempt u32, held Held
enum Control
  0 Welcome            generation u64, resumed opt(u64), heartbeat_us u64, spread_us u64, lifetime_us u64, credit Credit
  1 Denied             reason Denied
  2 Confirm            generation u64
  3 Begin              session raw16
  4 Ack                received u64
  5 Credit             credit Credit
  6 Beat               stamp u64, credit Credit
  7 Echo               stamp u64, credit Credit
  8 Bye
enum FromWorker
  0 Inventory          part u16, last bool, cut u64, items bytes
  1 Running            token u64, progress u64
  2 Result             task raw16, token u64, outcome Outcome, result bytes, streams pair(StreamEnd)
  3 GivenBack          token u64
  4 Output             token u64, stream Stream, offset u64, bytes bytes
  5 Offers             tags bytes
  6 Draining
  7 Checkpoint         token u64, number u64, bytes bytes
enum ToWorker
  0 Assign             task raw16, token u64, attempt u32, priority u8, restores bool, payload bytes
  1 Cancel             token u64, reason CancelReason
  2 Recall             token u64
  3 Verdict            token u64, verdict Verdict
  4 Settled            token u64, settlement Settlement, outcome opt(Outcome)
  5 Kept               token u64, stream Stream, offset u64
  6 Restore            token u64, number u64, bytes bytes
  7 Checkpointed       token u64, number u64, refused opt(CheckpointRefused)
  8 Drain
enum Denied
  0 Revoked
  1 Removed
  2 TakenOver
  3 Version
  4 Config
  5 Busy               retry_after_us u64
  6 Protocol
enum Outcome
  0 Succeeded
  1 Failed             failure Failure
  2 Cancelled
enum Failure
  0 Exit               status i32
  1 Signal             signal i32
  2 TimedOut
  3 CannotStart
  4 OutputTooLarge
  5 ResultTooLarge
  6 Poisonous
  7 WorkerLost
  8 Error
  9 Stalled
enum Stream
  0 Out
  1 Err
enum Held
  0 Waiting
  1 Running            progress u64
  2 Finished
enum Verdict
  0 Keep               kept pair(u64)
  1 SendResult         kept pair(u64)
  2 Discard
enum CancelReason
  0 Requested
  1 Replaced
enum Settlement
  0 Applied
  1 Duplicate
  2 Stale
enum CheckpointRefused
  0 Stale
  1 TooLarge
  2 Full
enum Tag
  0 Label              text
  1 Amount             u32
"""

SINCE_2 = """
struct Conditions      exclusive bool, self_stop_after_us opt(u64), progress_timeout_us opt(u64)
enum Control
  9 Lease              ttl_us u64, grace_us u64
  10 Digest            received u64, sent u64, held u64
  11 Compare
  12 GoAway             slot_us u64
  13 Mtbf               mean_us u64
  14 NextKey
enum Denied
  7 Spent
enum FromWorker
  8 Offer              token u64, number u64, length u64, names bytes
  9 Piece              token u64, number u64, offset u64, bytes bytes
  10 RestoreNeed       token u64, number u64, wanted bytes
  11 RestoreBad        token u64, number u64
  12 Holdings          received u64, sent u64, items bytes
  13 LargeResult       task raw16, token u64, outcome Outcome, length u64, names bytes, streams pair(StreamEnd)
enum ToWorker
  9 Need               token u64, number u64, wanted bytes
  10 RestoreOffer      token u64, number u64, length u64, names bytes
  11 RestorePiece      token u64, number u64, offset u64, bytes bytes
  12 AssignUnder       task raw16, token u64, attempt u32, priority u8, restores bool, conditions Conditions, payload bytes
  13 AssignLarge       task raw16, token u64, attempt u32, priority u8, restores bool, conditions Conditions, payload bytes, length u64, names bytes
enum CheckpointRefused
  3 Damaged
"""

LOOSE = {"Output", "Kept", "Offer", "Piece", "RestoreNeed", "RestoreBad", "Need", "RestoreOffer", "RestorePiece", "Holdings"}
FINAL = {"Revoked", "Removed", "TakenOver", "Version", "Config", "Spent"}


def digest(held):
    """The XOR of the marks of attempts, each a pair of task and token (SESS-8)"""
    total = 0
    for task, token in held:
        mark = hashlib.sha256(b"rejoin held" + task + token.to_bytes(8, "little")).digest()
        total ^= int.from_bytes(mark[:8], "little")
    return total


class Breach(Exception):
    """What came has a right tag and breaks a rule (FRAME-2)"""


class Value:
    """A struct, or a variant of an enum, with its fields as attributes"""

    def __init__(self, name, /, **fields):
        self.name = name
        self.fields = fields

    def __getattr__(self, field):
        try:
            return self.__dict__["fields"][field]
        except KeyError:
            raise AttributeError(field) from None

    def __eq__(self, other):
        return isinstance(other, Value) and (self.name, self.fields) == (other.name, other.fields)

    def __repr__(self):
        inside = ", ".join(f"{name} {value.hex() if isinstance(value, bytes) else value}" for name, value in self.fields.items())
        return f"{self.name}({inside})" if inside else self.name


class Reader:
    """Bytes that are read from the front"""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        if size > len(self.data) - self.at:
            raise Breach("a message ends too early")
        self.at += size
        return bytes(self.data[self.at - size : self.at])

    def number(self, bits):
        value = 0
        for place in range((bits + 6) // 7):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                if value >> bits:
                    break
                return value
        raise Breach(f"a number has more than {bits} bits")

    def done(self):
        return self.at == len(self.data)


def number(value):
    """LEB128"""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


class Schema:
    """The types of one wire version"""

    def __init__(self, text):
        self.structs, self.enums, self.numbers = {}, {}, {}
        for line in filter(None, text.splitlines()):
            if line.startswith("struct"):
                _, name, fields = line.split(None, 2)
                self.structs[name] = self.parse_fields(fields)
            elif line.startswith("enum"):
                enum = line.split()[1]
                self.enums.setdefault(enum, {}), self.numbers.setdefault(enum, {})
            else:
                variant, name, *fields = line.split(None, 2)
                self.enums[enum][int(variant)] = (name, self.parse_fields(*fields))
                self.numbers[enum][name] = int(variant)

    @staticmethod
    def parse_fields(text=""):
        """Pairs of name and type; a field that stands alone has only a type, and is called `it`"""
        fields = []
        for field in filter(None, text.split(", ")):
            name, _, kind = field.partition(" ")
            fields.append((name, kind) if kind and not kind.startswith("and ") else ("it", field))
        return fields

    def encode(self, kind, value):
        if kind in ("u8", "bool"):
            return bytes([value])
        if kind in ("u16", "u32", "u64"):
            return number(value)
        if kind == "i32":
            return number((value << 1 ^ value >> 31) & 0xFFFFFFFF)
        if kind.startswith("raw"):
            return bytes(value)
        if kind in ("bytes", "text"):
            raw = value.encode() if kind == "text" else bytes(value)
            return number(len(raw)) + raw
        if kind.startswith("opt("):
            return b"\0" if value is None else b"\1" + self.encode(kind[4:-1], value)
        if kind.startswith("pair("):
            return b"".join(self.encode(kind[5:-1], one) for one in value)
        if kind.startswith("u64 and that many "):
            return number(len(value)) + b"".join(self.encode(kind[18:], one) for one in value)
        if kind in self.structs:
            return self.encode_fields(self.structs[kind], value)
        variant = self.numbers[kind][value.name]
        return number(variant) + self.encode_fields(self.enums[kind][variant][1], value)

    def encode_fields(self, fields, value):
        return b"".join(self.encode(kind, value.fields[name]) for name, kind in fields)

    def read(self, kind, reader):
        if kind == "u8":
            return reader.take(1)[0]
        if kind == "bool":
            return bool(self.flag(reader))
        if kind in ("u16", "u32", "u64"):
            return reader.number(int(kind[1:]))
        if kind == "i32":
            zigzag = reader.number(32)
            return zigzag >> 1 ^ -(zigzag & 1)
        if kind.startswith("raw"):
            return reader.take(int(kind[3:]))
        if kind in ("bytes", "text"):
            raw = reader.take(reader.number(64))
            try:
                return raw.decode() if kind == "text" else raw
            except UnicodeDecodeError:
                raise Breach("a text is not UTF-8") from None
        if kind.startswith("opt("):
            return self.read(kind[4:-1], reader) if self.flag(reader) else None
        if kind.startswith("pair("):
            return [self.read(kind[5:-1], reader) for _ in range(2)]
        if kind.startswith("u64 and that many "):
            return [self.read(kind[18:], reader) for _ in range(reader.number(64))]
        if kind in self.structs:
            return Value(kind, **self.read_fields(self.structs[kind], reader))
        variant = reader.number(32)
        if variant not in self.enums[kind]:
            raise Breach(f"{kind} has no variant {variant}")
        name, fields = self.enums[kind][variant]
        return Value(name, **self.read_fields(fields, reader))

    def read_fields(self, fields, reader):
        return {name: self.read(kind, reader) for name, kind in fields}

    @staticmethod
    def flag(reader):
        flag = reader.take(1)[0]
        if flag > 1:
            raise Breach("a flag is neither 00 nor 01")
        return flag

    def decode(self, kind, data):
        """The one message that the whole of data is"""
        reader = Reader(data)
        value = self.read(kind, reader)
        if not reader.done():
            raise Breach(f"bytes follow a {kind}")
        return value


SCHEMAS = {1: Schema(SCHEMA_1), 2: Schema(SCHEMA_1 + SINCE_2)}
VERSIONS = sorted(SCHEMAS, reverse=True)
