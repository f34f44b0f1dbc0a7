"""What the coordinator answers to checkpoints in chunks, well formed or not (PROTOCOL.md, CKPT-1 to CKPT-4)"""

import hashlib

import frames
from chunks import CHUNK_BYTES, bits, chosen, chunk_count, names_of
from dialler import SCHEMA, Dialler, breach
from lab import check, say
from messages import Value

VERSIONS = (2, 1)
LENGTH = 150_000  # Two whole chunks and a rest.
BULK = 1 << 20


def content(*seeds):
    """A checkpoint whose chunks are the same where the seeds are"""
    return b"".join(hashlib.sha256(b"%d" % seed).digest() * (CHUNK_BYTES // 32) for seed in seeds)[: LENGTH if len(seeds) == 3 else None]


FIRST, SECOND = content(1, 2, 3), content(4, 5, 6)


class Saver:
    """One attempt, and a dialler that saves checkpoints of it"""

    counted = 0

    def __init__(self, lab, dialler=None):
        Saver.counted += 1
        self.lab, self.name = lab, f"chunks-{Saver.counted}"
        self.dialler = dialler or Dialler(lab, versions=VERSIONS).begin()
        self.attempt = self.dialler.mine(self.name)

    def say(self, name, number, **fields):
        self.dialler.loose(name, token=self.attempt.token, number=number, **fields)

    def offer(self, number, data=FIRST, **other):
        self.say("Offer", number, **{"length": len(data), "names": names_of(data), **other})

    def piece(self, number, offset, data):
        self.say("Piece", number, offset=offset, bytes=data)

    def chunks(self, number, data, *which):
        for at in [at for chunk in which for at in range(chunk * CHUNK_BYTES, min((chunk + 1) * CHUNK_BYTES, len(data)), frames.PIECE_BYTES_MAX)]:
            end = min((at // CHUNK_BYTES + 1) * CHUNK_BYTES, len(data), at + frames.PIECE_BYTES_MAX)
            self.piece(number, at, data[at:end])

    def wanted(self, number, data=FIRST):
        return chosen(self.dialler.wait("Need", token=self.attempt.token, number=number).wanted, chunk_count(len(data)))

    def answer(self, number):
        refused = self.dialler.wait("Checkpointed", token=self.attempt.token, number=number).refused
        return refused and refused.name

    def save(self, number, data=FIRST):
        """The chunks that were wanted, and the answer"""
        self.offer(number, data)
        wanted = self.wanted(number, data)
        self.chunks(number, data, *wanted)
        return wanted, self.answer(number)

    def next_attempt(self):
        self.dialler.result(self.attempt, Value("Cancelled"))
        self.dialler.wait("Settled", token=self.attempt.token)
        self.attempt = self.dialler.wait("Assign", task=self.attempt.task)
        return self.attempt

    def resume(self):
        """Another connection of the same session, with credit for chunks"""
        self.dialler = self.dialler.resume()
        self.dialler.grant(100, BULK)

    def item(self, held):
        return Value("InventoryItem", task=self.attempt.task, token=self.attempt.token, attempt=self.attempt.attempt, held=held)

    def anew(self, held):
        """A new session of the same boot, with the attempt in its inventory"""
        self.dialler.echoed()
        self.dialler.socket.close()
        self.dialler = Dialler(self.lab, versions=VERSIONS, boot=self.dialler.boot).begin(held=[self.item(held)])

    def end(self):
        self.dialler.number("Running", token=self.attempt.token, progress=0)
        self.dialler.result(self.attempt, Value("Succeeded"))
        self.dialler.wait("Settled", token=self.attempt.token)

    def offered(self):
        return self.dialler.wait("RestoreOffer", token=self.attempt.token)

    def restore(self, number, wanted, data):
        """Asks for these chunks, and gives back what comes"""
        self.say("RestoreNeed", number, wanted=bits(wanted, chunk_count(len(data))))
        came = b""
        for chunk in wanted:
            end = min((chunk + 1) * CHUNK_BYTES, len(data))
            at = chunk * CHUNK_BYTES
            while at < end:
                piece = self.dialler.wait("RestorePiece", token=self.attempt.token, number=number)
                check("offset of a piece", piece.offset, at)
                at, came = at + len(piece.bytes), came + piece.bytes
        return came


def nothing_comes(saver, what, *names):
    """Everything sent so far was taken in, and was answered by none of those"""
    saver.dialler.number("GivenBack", token=0)
    while (message := saver.dialler.next()).name != "Ack" or message.received < saver.dialler.sent:
        check(f"{what}: no answer", message.name in names, False)


def offers(lab):
    saver = Saver(lab)
    check("all is wanted, and taken", saver.save(1), ([0, 1, 2], None))
    saver.offer(1)
    check("the same again", saver.answer(1), None)
    check("what changed is wanted", saver.save(2, content(1, 7, 3)), ([1], None))
    saver.offer(3, content(1, 2, 3))
    check("everything is known: no Need", saver.answer(3), None)
    saver.offer(2, content(1, 7, 3))
    check("an older one", saver.answer(2), "Stale")
    check("twice the same content: the first is wanted", saver.save(4, content(8, 9, 8, 9, 8)), ([0, 1], None))
    saver.offer(5, SECOND)
    saver.wanted(5)
    saver.chunks(5, SECOND, 0)
    saver.offer(6, content(4, 5, 10))
    check("an offer takes the place of one that was not answered", saver.wanted(6), [1, 2])
    saver.piece(5, CHUNK_BYTES, b"late")
    saver.piece(7, 0, b"nobody's")
    nothing_comes(saver, "pieces of what is not taken", "Need", "Checkpointed", "Denied")
    saver.chunks(6, content(4, 5, 10), 1, 2)
    check("its end", saver.answer(6), None)
    saver.offer(7, b"x")
    saver.wanted(7, b"x")
    saver.piece(7, 0, b"y")
    check("damaged", saver.answer(7), "Damaged")
    check("a byte", saver.save(8, b"x"), ([0], None))
    saver.offer(9, b"", length=(1 << 26) + 1, names=bytes(513 * 32))
    check("more than 64 MiB", saver.answer(9), "TooLarge")
    saver.dialler.loose("Offer", token=999_999, number=1, length=1, names=bytes(32))
    check("an offer of nobody's attempt", saver.dialler.wait("Checkpointed", token=999_999, number=1).refused.name, "Stale")
    saver.offer(10)
    saver.wanted(10)
    saver.dialler.number("Checkpoint", token=saver.attempt.token, number=11, bytes=b"x")
    check("a small one behind it", saver.answer(11), None)
    saver.chunks(10, FIRST, 0, 1, 2)
    check("it is older when it has come", saver.answer(10), "Stale")
    saver.end()
    saver.offer(12)
    check("an offer behind the end", saver.answer(12), "Stale")
    saver.dialler.bye()
    say("offers: wanted once, known, doubled, replaced, damaged, too large, stale")


def over_connections(lab):
    saver = Saver(lab)
    saver.offer(1)
    saver.wanted(1)
    saver.chunks(1, FIRST, 0)
    saver.piece(1, CHUNK_BYTES, FIRST[CHUNK_BYTES : CHUNK_BYTES + 5])
    saver.resume()
    saver.offer(1)
    check("a whole chunk is not wanted again, a part is", saver.wanted(1), [1, 2])
    saver.chunks(1, FIRST, 1)
    saver.offer(1)
    check("an offer on the same connection is answered, too", saver.wanted(1), [2])
    saver.anew(Value("Running", progress=0))
    check("verdict", saver.dialler.wait("Verdict").verdict.name, "Keep")
    saver.offer(1)
    check("in a new session", saver.wanted(1), [2])
    saver.chunks(1, FIRST, 2)
    check("taken", saver.answer(1), None)
    saver.end()
    saver.dialler.bye()
    say("offers over connections and sessions: only what has not come as a whole is wanted again")


def restores(lab):
    saver = Saver(lab)
    saver.dialler.number("Checkpoint", token=saver.attempt.token, number=1, bytes=b"small")
    check("a small one", saver.answer(1), None)
    saver.save(2, FIRST)
    saver.save(3, SECOND)
    check("restores", saver.next_attempt().restores)
    offer = saver.offered()
    check("the newest is offered", (offer.number, offer.length, offer.names), (3, LENGTH, names_of(SECOND)))
    check("what is wanted comes", saver.restore(3, [2], SECOND), SECOND[2 * CHUNK_BYTES :])
    saver.resume()
    check("it is offered again", saver.offered().number, 3)
    check("and comes", saver.restore(3, [0, 1, 2], SECOND), SECOND)
    saver.say("RestoreNeed", 3, wanted=bits([], 3))
    saver.say("RestoreNeed", 2, wanted=bits([0], 3))
    saver.say("RestoreBad", 2)
    saver.dialler.loose("RestoreNeed", token=999_999, number=3, wanted=b"\1")
    saver.dialler.loose("RestoreBad", token=999_999, number=3)
    nothing_comes(saver, "nothing wanted, or of another offer", "RestorePiece", "RestoreOffer", "Restore")
    saver.anew(Value("Waiting"))
    check("in a new session it is offered", saver.offered().number, 3)
    saver.dialler.wait("Verdict")
    saver.say("RestoreBad", 3)
    check("the one before takes its place", saver.offered().number, 2)
    check("and comes", saver.restore(2, [0, 1, 2], FIRST), FIRST)
    saver.say("RestoreBad", 2)
    # The small one was not kept: of two in chunks it is the third.
    offer = saver.offered()
    check("nothing is left", (offer.number, offer.length, offer.names), (0, 0, b""))
    saver.dialler.number("Running", token=saver.attempt.token, progress=0)
    saver.dialler.number("Checkpoint", token=saver.attempt.token, number=1, bytes=b"small again")
    check("numbers start again", saver.answer(1), None)
    saver.save(2)
    check("restores", saver.next_attempt().restores)
    saver.offered()
    saver.say("RestoreBad", 2)
    check("a small one takes its place", saver.dialler.wait("Restore", token=saver.attempt.token).bytes, b"small again")
    saver.end()
    saver.dialler.bye()
    say("restores: offered on each connection, in chunks, and one before the other where it is bad")


def credit(lab):
    saver = Saver(lab, Dialler(lab, versions=VERSIONS).begin(bulk=0))
    saver.save(1)
    saver.next_attempt()
    saver.offered()
    saver.say("RestoreNeed", 1, wanted=bits([0, 1, 2], 3))
    nothing_comes(saver, "no credit", "RestorePiece")
    saver.dialler.grant(100, 20_000)
    piece = saver.dialler.wait("RestorePiece")
    check("the first piece", (piece.offset, 0 < len(piece.bytes) <= 20_000), (0, True))
    saver.say("RestoreNeed", 1, wanted=bits([1, 2], 3))
    came = len(piece.bytes)
    while (piece := saver.dialler.wait("RestorePiece")).offset < CHUNK_BYTES:
        came += len(piece.bytes)
    check("the newest need counts", piece.offset, CHUNK_BYTES)
    check("within the credit", came + len(piece.bytes) <= 20_000, True)
    saver.dialler.grant(100, BULK)
    saver.end()
    saver.dialler.bye()
    say("credit: pieces only within the total of this connection")


def breaches(lab):
    def of_offer(what, **fields):
        breach(what, lab, lambda it: Saver(lab, it).offer(1, **fields), versions=VERSIONS)

    def of_piece(what, *pieces):
        def does(dialler):
            saver = Saver(lab, dialler)
            saver.offer(1)
            saver.wanted(1)
            for at, size in pieces:
                saver.piece(1, at, (FIRST + bytes(CHUNK_BYTES))[at : at + size])

        breach(what, lab, does, versions=VERSIONS)

    def of_need(what, wanted):
        def does(dialler):
            saver = Saver(lab, dialler)
            saver.save(1)
            saver.next_attempt()
            saver.offered()
            saver.say("RestoreNeed", 1, wanted=wanted)

        breach(what, lab, does, versions=VERSIONS)

    names = names_of(FIRST)
    of_offer("names that are too few", names=names[:-32])
    of_offer("names that are too many", names=names + bytes(32))
    of_offer("half a name", names=names + bytes(16))
    of_offer("no names", names=b"")
    of_offer("a length of 0", length=0, names=b"")
    of_offer("a length of 0 with a name", length=0, names=bytes(32))
    of_offer("names that do not fit a length that is too large", length=(1 << 26) + 1, names=bytes(32 * 1_025))
    of_piece("a piece that does not start its chunk", (5, 1))
    of_piece("a piece of another chunk than the next", (CHUNK_BYTES, 1))
    of_piece("a gap", (0, 100), (101, 100))
    of_piece("an overlap", (0, 100), (99, 100))
    of_piece("an empty piece", (0, 0))
    of_piece("a piece beyond the end of its chunk", (0, 40_000), (40_000, CHUNK_BYTES - 40_000 + 1))
    of_need("bits beyond the end", b"\x0f")
    of_need("a byte too many", b"\x07\0")
    of_need("a byte too few", b"")
    breach("a numbered offer", lab, lambda it: it.number("Offer", token=1, number=1, length=1, names=bytes(32)), versions=VERSIONS)
    breach("a loose checkpoint", lab, lambda it: it.loose("Checkpoint", token=1, number=1, bytes=b"x"), versions=VERSIONS)
    say("breaches of version 2: names, lengths, places, bits, classes")


def versions(lab):
    check("the first version of M1 is chosen", Dialler(lab, versions=(1, 2)).prove().challenge.version, 1)
    check("or the first that is spoken", Dialler(lab, versions=(3, 2, 1)).prove().challenge.version, 2)
    saver = Saver(lab)
    saver.save(5)
    saver.dialler.result(saver.attempt, Value("Cancelled"))
    saver.dialler.bye()
    older = Dialler(lab).begin()
    assign = older.assigned(saver.name)
    check("in version 1 it is assigned without a checkpoint", assign.restores, False)
    for number, refused in ((5, "Stale"), (6, None)):
        older.number("Checkpoint", token=assign.token, number=number, bytes=b"small")
        answer = older.wait("Checkpointed", number=number)
        check(f"its own checkpoint {number}", answer.refused and answer.refused.name, refused)
    older.result(assign, Value("Cancelled"))
    again = older.wait("Assign", task=assign.task)
    check("a small one is restored in version 1, too", (again.restores, older.wait("Restore", token=again.token).bytes), (True, b"small"))
    older.number("Running", token=again.token, progress=0)
    older.result(again, Value("Succeeded"))
    older.wait("Settled", token=again.token)
    older.bye()
    say("versions: the one that is chosen, and what a checkpoint in chunks is in version 1")


PARTS = (offers, over_connections, restores, credit, versions, breaches)
