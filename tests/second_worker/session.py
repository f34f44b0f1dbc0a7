"""Numbers, acks, replay and credit of one session (PROTOCOL.md, sections 6 and 7)"""

import collections

import frames
from messages import Breach

UNACKNOWLEDGED_MAX = 4_096
UNACKNOWLEDGED_BYTES_MAX = 4_194_304
ACK_MESSAGES, ACK_BYTES, ACK_S = 64, 262_144, 1.0
WINDOW, BULK_WINDOW = 4_096, {1: 1_048_576, 2: 262_144}
BULK_STEP = 65_536  # Sooner than must be, or whoever sends would wait with every window.


class Sent:
    """What stands for a number until it is acknowledged: kind, what finds it again, and its size"""

    def __init__(self, number, name, about, size):
        self.number, self.name, self.about, self.size = number, name, about, size


class Session:
    """One session of the worker, over any number of connections"""

    def __init__(self, ident, resume_key, version):
        self.id, self.resume_key, self.version, self.generation = ident, resume_key, version, 0
        self.received = self.sent = self.acknowledged = 0
        self.unacknowledged = collections.deque()
        self.unacknowledged_bytes = 0
        self.replay = collections.deque()
        self.messages_credit = WINDOW
        self.told_ack, self.told_credit = 0, None
        self.ack_bytes, self.ack_due_at = 0, None
        self.assigned = self.granted = 0

    def resumed(self, received, messages_credit):
        """A connection goes on with it: what it must send again is all above what the other end has"""
        self.take_ack(received)
        self.replay = collections.deque(self.unacknowledged)
        self.messages_credit = max(self.messages_credit, messages_credit)
        self.told_ack, self.told_credit = -1, None

    def take_number(self, number, size, now):
        """Whether this is new; a known one is dropped, and a gap is a breach"""
        if number <= self.received:
            return False
        if number != self.received + 1:
            raise Breach(f"number {number} came behind {self.received}")
        self.received = number
        self.ack_bytes += size
        self.ack_due_at = self.ack_due_at or now + ACK_S / 2
        return True

    def take_ack(self, received):
        if received > self.sent:
            raise Breach(f"an ack of {received}, where {self.sent} was the last")
        self.acknowledged = max(self.acknowledged, received)
        while self.unacknowledged and self.unacknowledged[0].number <= received:
            self.unacknowledged_bytes -= self.unacknowledged.popleft().size
        while self.replay and self.replay[0].number <= received:
            self.replay.popleft()

    def may_number(self):
        """Whether a new message may be given a number (SESS-1, LANES-2)"""
        return (
            not self.replay
            and self.sent < self.messages_credit
            and len(self.unacknowledged) < UNACKNOWLEDGED_MAX
            and self.unacknowledged_bytes < UNACKNOWLEDGED_BYTES_MAX
        )

    def number(self, name, about, size):
        self.sent += 1
        self.unacknowledged.append(Sent(self.sent, name, about, size))
        self.unacknowledged_bytes += size
        return self.sent

    def ack_due(self, now):
        news = self.received - self.told_ack
        late = self.ack_due_at is not None and now >= self.ack_due_at
        return news > 0 and (late or news >= ACK_MESSAGES or self.ack_bytes >= ACK_BYTES)

    def ack_told(self):
        self.told_ack, self.ack_bytes, self.ack_due_at = self.received, 0, None

    def credit_told(self, tasks):
        self.told_credit = (tasks, self.received + WINDOW)
        self.granted = max(self.granted, tasks)

    def credit_due(self, tasks):
        """Whether credit must be told at once (LANES-2)"""
        return self.told_credit is None or tasks > self.told_credit[0] or self.received + WINDOW >= self.told_credit[1] + 1_024


class Bulk:
    """Credit for output and chunks, which is counted anew on each connection"""

    def __init__(self, credit):
        self.credit, self.sent, self.taken, self.told = credit, 0, 0, 0

    def left(self):
        return min(frames.PIECE_BYTES_MAX, self.credit - self.sent)

    def grant(self, version):
        """The total that may come, as it is told"""
        self.told = self.taken + BULK_WINDOW[version]
        return self.told

    def due(self, version):
        return self.taken + BULK_WINDOW[version] - self.told >= BULK_STEP

    def take(self, size):
        """A piece that came, and is dealt with at once"""
        self.taken += size
        if self.taken > self.told:
            raise Breach("more bulk than was granted")
