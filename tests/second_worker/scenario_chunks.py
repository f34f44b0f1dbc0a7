"""Checkpoints in chunks over links that are cut: what version 2 adds to the story"""

import hashlib
import random
import time

from chunks import CHUNK_BYTES, chunk_count
from lab import Worker, check, say, until

LENGTH = 3 << 20
CHUNKS = chunk_count(LENGTH)
CHANGED_AT = 1_234_567
PAUSE_S, STALLS_S = 0.2, 60.0

# It saves what it is given, as soon as that is there; what goes on from a checkpoint only says from which.
SAVES = """
save() {{
    until [ -e {name}.state-$1 ]; do sleep 0.02; done
    cp {name}.state-$1 "$REJOIN_CHECKPOINT_OUT.new" && mv "$REJOIN_CHECKPOINT_OUT.new" "$REJOIN_CHECKPOINT_OUT"
}}
echo "from $(sha256sum < "${{REJOIN_CHECKPOINT_IN:-/dev/null}}")"
if [ -z "$REJOIN_CHECKPOINT_IN" ]; then for n in {saves}; do save $n; done; fi
wait_go
"""


def submit(lab, name, saves):
    return lab.submit(name, SAVES.format(name=name, saves=" ".join(str(n + 1) for n in range(saves))))


def state(seed, change=None):
    """Something that cannot be compressed, and may have another byte at one place"""
    data = bytearray(random.Random(seed).randbytes(LENGTH))
    if change is not None:
        data[CHANGED_AT] = change
    return data


def came_from(data):
    return f"from {hashlib.sha256(data).hexdigest()}  -\n".encode()


def save(lab, name, number, data):
    """Lets the task save this"""
    path = lab.path / f"{name}.state-{number}"
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").rename(path)


def with_pauses(cuts):
    return [(*cut, PAUSE_S)[:3] for cut in cuts]


def plan(proxy, worker, *cuts):
    """The connection that comes now is the first of those that are cut; what gives back waits until all of them were"""
    planned, mark = proxy.planned_cuts, worker.mark()
    proxy.plan.extend(with_pauses(cuts))
    proxy.cut()
    worker.wait("welcome", mark)
    return lambda: until("all cuts", lambda: proxy.planned_cuts == planned + len(cuts))


def check_upload(worker, mark, link, proxy, number):
    """Each connection sends what was wanted on it, in order, and nothing is wanted that has arrived as a whole

    The link is that at the mark. Gives back what was wanted each time, how many bytes of chunks were sent, and how many
    bytes of all kinds came through.
    """
    needs, sent, going, ends, arrived, started = [], 0, [], {}, set(), link
    for event in worker.events[mark:]:
        if event["event"] == "lost":
            arrived |= {chunk for chunk, end in ends.items() if end <= proxy.links[link].passed["up"]}
            link, going, ends = link + 1, [], {}
        elif event.get("number") != number:
            continue
        elif event["event"] == "need":
            if needs:
                check("what is wanted again is what has not arrived", event["wanted"], [it for it in needs[-1] if it not in arrived])
            needs.append(event["wanted"])
            going = [(chunk * CHUNK_BYTES, min((chunk + 1) * CHUNK_BYTES, LENGTH)) for chunk in event["wanted"]]
        elif event["event"] == "piece":
            at, end = going[0]
            check("a piece goes on where the last one ended", event["offset"], at)
            going[0] = (at + event["size"], end)
            sent += event["size"]
            if going[0][0] == end:
                going.pop(0)
                ends[(end - 1) // CHUNK_BYTES] = event["ends_at"]
    check("at the end all was sent", going, [])
    return needs, sent, sum(it.passed["up"] for it in proxy.links[started : link + 1])


def upload(lab, proxy, worker):
    """Cut and stalled in the middle, and not one chunk goes twice"""
    submit(lab, "saves", 4)
    worker.wait_connected()
    cuts = [("up", 300_001), ("up", 60_000), ("up", 431_717), ("down", 360), ("up", 90_001), ("up", 555_555, STALLS_S), ("up", 250_007)]
    all_cuts = plan(proxy, worker, *cuts)
    mark, link = worker.mark(), len(proxy.links) - 1
    save(lab, "saves", 1, state(1))
    answer = worker.wait("checkpointed", mark)
    all_cuts()
    needs, _, passed = check_upload(worker, mark, link, proxy, answer["number"])
    check("it was taken, and all of it was wanted at first", (answer["refused"], needs[0]), (None, list(range(CHUNKS))))
    check("the coordinator shows it", lab.task("saves")["checkpoint"], answer["number"])
    check("hardly anything came through twice", passed < LENGTH + len(cuts) * CHUNK_BYTES + 100_000)
    check("it was the same session", all(it["resumed"] is not None for it in worker.all("welcome", mark)))
    chunks = " ".join(str(len(need)) for need in needs)
    say(f"a checkpoint of 3 MiB over {len(cuts)} cuts: chunks wanted {chunks}; {passed} bytes came through, with all that is not chunks")


def one_byte(lab, proxy, worker):
    mark, link = worker.mark(), len(proxy.links) - 1
    save(lab, "saves", 2, state(1, change=2))
    check("it was taken", worker.wait("checkpointed", mark)["refused"], None)
    number = worker.all("checkpointed")[-1]["number"]
    needs, sent, _ = check_upload(worker, mark, link, proxy, number)
    check("one changed byte costs one chunk", (needs, sent), ([[CHANGED_AT // CHUNK_BYTES]], CHUNK_BYTES))
    say("a checkpoint with one changed byte sent one chunk")


def changed_while_sent(lab, proxy, worker):
    mark = worker.mark()
    proxy.hold()
    save(lab, "saves", 3, state(1, change=3))
    offered = worker.wait("offered", mark)
    with open(offered["path"], "r+b") as file:
        file.seek(CHANGED_AT)
        file.write(b"\xff")
    proxy.cut()
    answer = worker.wait("checkpointed", mark)
    check("what was changed while it was sent", (answer["number"], answer["refused"]), (offered["number"], "Damaged"))
    check("the checkpoint before stays", lab.task("saves")["checkpoint"], offered["number"] - 1)
    mark, link = worker.mark(), len(proxy.links) - 1
    save(lab, "saves", 4, state(1, change=3))
    answer = worker.wait("checkpointed", mark)
    check("the task went on, and its next one was taken", answer["refused"], None)
    needs, _, _ = check_upload(worker, mark, link, proxy, answer["number"])
    check("a chunk that was damaged is wanted again", needs, [[CHANGED_AT // CHUNK_BYTES]])
    say("a file that was changed while it was sent: Damaged, the checkpoint before stayed, the next one was taken")


def check_download(worker, cuts):
    """No chunk comes again that has come as a whole"""
    came, lacks = 0, None
    for event in worker.events:
        if event["event"] == "restore_need":
            check("less is missing each time", lacks is None or set(event["wanted"]) <= lacks)
            lacks = set(event["wanted"])
        elif event["event"] == "restore_piece":
            came += event["size"]
    needs = [len(event["wanted"]) for event in worker.all("restore_need")]
    check("what came twice is less than a chunk for each cut", LENGTH <= came < LENGTH + cuts * CHUNK_BYTES)
    check("it came over some cuts", len(set(needs)) >= 3)
    return " ".join(map(str, needs)), came - LENGTH


def restored_over_cuts(lab, proxy, worker):
    worker.kill()
    cuts = [("down", 400_001), ("down", 50_000), ("up", 900), ("down", 700_001, STALLS_S), ("down", 333_333), ("down", 262_200)]
    planned = proxy.planned_cuts
    proxy.plan.extend(with_pauses(cuts))
    worker = Worker(lab, "lab-2", proxy.port)
    worker.wait("restored")
    until("all cuts", lambda: proxy.planned_cuts == planned + len(cuts))
    check("the next attempt restores", [it["restores"] for it in worker.all("assigned")], [True])
    needs, twice = check_download(worker, len(cuts))
    lab.go("saves")
    lab.ended("saves", out=came_from(state(1, change=3)), runs=2, attempt=2)
    say(f"another worker process restored it over {len(cuts)} cuts: chunks wanted {needs}; {twice} bytes came twice; the same bytes")
    return worker


def other_version(lab, proxy, worker):
    """A worker of version 1 cannot be given chunks: it starts from the beginning"""
    submit(lab, "older", 1)
    mark = worker.mark()
    save(lab, "older", 1, state(3))
    check("it was taken", worker.wait("checkpointed", mark)["refused"], None)
    worker.kill()
    worker = Worker(lab, "lab-2", proxy.port, version=1)
    check("a worker of version 1", worker.wait("assigned")["restores"], False)
    worker.wait("too_large")
    lab.go("older")
    lab.ended("older", out=came_from(b""), runs=2, attempt=2)
    check("what it was sent", [it["message"] for it in worker.all("number") if it.get("message") == "Restore"], [])
    worker.process.terminate()
    worker.wait("bye")
    say("a worker of version 1 got a task with such a checkpoint from the beginning")
    return Worker(lab, "lab-2", proxy.port)


def coordinator_killed(lab, coordinator, proxy, worker):
    """What has arrived as a whole, and is durable, is not wanted again by the next epoch"""
    submit(lab, "survives", 1)
    worker.wait_connected()
    all_cuts = plan(proxy, worker, ("up", 1_500_001, STALLS_S), ("up", 500_003), ("up", 400_009))
    mark, link = worker.mark(), len(proxy.links) - 1
    save(lab, "survives", 1, state(2))
    until("the middle of the upload", lambda: proxy.links[link].held)
    time.sleep(0.3)  # So that what has arrived is durable.
    coordinator.kill()
    coordinator.wait()
    lab.coordinator()
    answer = worker.wait("checkpointed", mark)
    all_cuts()
    check("it was taken", answer["refused"], None)
    needs, _, passed = check_upload(worker, mark, link, proxy, answer["number"])
    check("a new session", [it["resumed"] is None for it in worker.all("welcome", mark)].count(True) >= 1)
    chunks = " ".join(str(len(need)) for need in needs)
    say(f"the coordinator was killed in the middle of an upload: chunks wanted {chunks}; {passed} bytes came through")
    lab.go("survives")
    lab.ended("survives", out=came_from(b""))


def story(lab, coordinator, proxy, worker):
    upload(lab, proxy, worker)
    one_byte(lab, proxy, worker)
    changed_while_sent(lab, proxy, worker)
    worker = restored_over_cuts(lab, proxy, worker)
    worker = other_version(lab, proxy, worker)
    coordinator_killed(lab, coordinator, proxy, worker)
    return worker
