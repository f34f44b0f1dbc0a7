#!/usr/bin/env python3
"""The second worker against the real coordinator, over links that are cut; once for each wire version

Call: python3 tests/second_worker/scenario.py target/release/rejoin
"""

import json
import shutil
import signal
import subprocess
import sys

import scenario_chunks
from lab import WAIT_S, Lab, Worker, Wrong, check, free_port, is_there, say, until
from proxy import Proxy


def lines(below):
    return "".join(f"{number}\n" for number in range(below)).encode()


def check_numbers(worker):
    """In each session numbers were taken in without gap and once, generations counted, and sent ones given in order"""
    taken = given = generation = 0
    session = None
    for event in worker.events:
        if event["event"] == "welcome":
            if event["session"] != session:
                check("generation of a new session", event["generation"] >= 1)
                session, taken, generation = event["session"], 0, event["generation"] - 1
            check("generation", event["generation"] > generation)
            generation = event["generation"]
        elif event["event"] == "number" and event["new"]:
            taken += 1
            check("number taken in", event["number"], taken)
        elif event["event"] == "sent" and not event["again"]:
            given = 0 if event["number"] == 1 else given
            given += 1
            check("number given", event["number"], given)
    tokens = [event["token"] for event in worker.all("started")]
    check("no attempt was started twice", len(tokens), len(set(tokens)))


# The parts of the story


def keys(lab):
    for name, role in (("lab-1", "worker"), ("lab-2", "worker"), ("lab-3", "worker"), ("me", "client")):
        lab.run("key", "new", name, "--role", role, "--out", f"{name}.key", "--keys", "fleet.keys")
    lines = lab.read("lab-2.key").splitlines()
    secret = lines[1].split()[3]
    (lab.path / "wrong.key").write_text(lines[1].replace(secret, ("0" if secret[0] != "0" else "1") + secret[1:]) + "\n")


def connect_through_cuts(lab, proxy):
    """Cut in the upgrade, in M2, in M3, in `Welcome`"""
    proxy.plan.extend([("down", 60), ("down", 129 + 70), ("up", 380), ("down", 129 + 141 + 12)])
    worker = Worker(lab, "lab-1", proxy.port, None, "--slots", "2", "--label", "os=python", "--resource", "gpu=2")
    welcome = worker.wait("welcome")
    check("planned cuts, version", (proxy.planned_cuts, welcome["version"]), (4, lab.version))
    check("no cut counts as a failed handshake", worker.all("lost", slow=True), [])
    check("M2 was verified, and M3 sent, before `Welcome`", len(worker.all("proved")) >= 2)
    say(f"connected after 4 cuts in the handshake: session {welcome['session'][:8]}, generation {welcome['generation']}")
    return worker


def run_tasks(lab, worker):
    lab.submit("large", "seq 0 199999; echo two >&2", "--need", "os=python", "--take", "gpu=2")
    lab.submit("fails", "echo no >&2; exit 3")
    lab.submit("killed", "kill -9 $$")
    lab.submit("slow", "sleep 600 & wait", "--timeout", "200ms")
    lab.run("submit", "--id", "no-program", "--", "./no-such-program")
    lab.ended("large", out=lines(200_000), err=b"two\n")
    lab.ended("fails", err=b"no\n", outcome="failed", exit_code=3)
    lab.ended("killed", outcome="failed", exit_code=None)
    check("signal", lab.task("killed")["signal"], 9)
    lab.ended("slow", outcome="failed", exit_code=None)
    lab.ended("no-program", outcome="failed", exit_code=None, runs=0)
    say("output of 1.3 MB came back exactly; failures, a signal, a timeout and a missing program as they were")


def cut_while_running(lab, proxy, worker):
    mark, before = worker.mark(), worker.all("welcome")[-1]
    cuts = [("up", 30_000), ("up", 90_001), ("down", 700), ("up", 650), ("up", 61_003), ("down", 901), ("up", 150_007)]
    proxy.plan.extend(cuts)
    planned = proxy.planned_cuts
    lab.submit("cut", "i=0; while [ $i -lt 300 ]; do seq $((i * 1000)) $((i * 1000 + 999)); i=$((i + 1)); sleep 0.01; done; wait_go")
    worker.wait("started", mark)
    proxy.cut()
    until("all cuts", lambda: proxy.planned_cuts == planned + len(cuts))
    until("a connection behind the cuts", lambda: not proxy.links[-1].planned)
    worker.wait_connected()
    stalled = worker.mark()
    proxy.hold()
    silence = worker.wait("lost", stalled)
    check("a stalled link is given up", (silence["why"], silence["our_code"]), ("silence", 4003))
    worker.wait("welcome", stalled)
    lab.go("cut")
    lab.ended("cut", out=lines(300_000))
    check("each of them is the same session", {it["session"] for it in worker.all("welcome", mark)}, {before["session"]})
    resumes = [it["generation"] for it in worker.all("welcome", mark)]
    check("every `Welcome` resumed", all(it["resumed"] is not None for it in worker.all("welcome", mark)))
    check("generations rise", resumes == sorted(set(resumes)) and resumes[0] > before["generation"])
    check("results of it", len(worker.all("settled", mark)), 1)
    say(f"{len(cuts) + 1} cuts and a stall while a task ran: {len(resumes)} resumes, generation {resumes[-1]}, one start, output exact")


def replay(lab, proxy, worker):
    """A result and an assignment are swallowed, and come again"""
    mark = worker.mark()
    task = lab.submit("result-lost", "wait_go; echo done")
    worker.wait("started", mark, task=task)
    worker.wait("sent", mark, message="Running")
    link = proxy.swallow()
    lab.go("result-lost")
    lost = worker.wait("sent", mark, message="Result")
    given = lab.submit("assign-lost", "echo mine")
    until("the coordinator gave it out", lambda: lab.task("assign-lost")["worker"] == "lab-1")
    check("something was swallowed, both ways", min(link.swallowed.values()) > 0)
    proxy.cut()
    lab.ended("result-lost", out=b"done\n")
    lab.ended("assign-lost", out=b"mine\n")
    proved = worker.wait("proved", mark)
    again = worker.all("sent", mark, again=True)
    check("what is sent again begins above `received`", again[0]["number"], proved["received"] + 1)
    check("the result is among it", (lost["number"], "Result") in [(it["number"], it["message"]) for it in again])
    check("the assignment was taken once", len(worker.all("assigned", mark, task=given)), 1)
    say(f"a swallowed result came again as number {lost['number']}, and a swallowed assignment with the resume")


def restart_coordinator(lab, coordinator, worker):
    mark, epoch = worker.mark(), worker.all("welcome")[-1]["epoch"]
    runs, finishes, waits = (lab.submit(name, f"wait_go; echo {name}") for name in ("runs", "finishes", "waits"))
    for task in (runs, finishes):
        worker.wait("started", mark, task=task)
    worker.wait("assigned", mark, task=waits)
    coordinator.kill()
    coordinator.wait()
    lab.go("finishes")
    worker.wait("finished", mark, task=finishes)
    coordinator = lab.coordinator()
    welcome = worker.wait("welcome", mark)
    check("resumed, epoch", (welcome["resumed"], welcome["epoch"]), (None, epoch + 1))
    for name in ("runs", "waits"):
        lab.go(name)
    for name in ("runs", "finishes", "waits"):
        lab.ended(name, out=f"{name}\n".encode())
    verdicts = sorted(it["verdict"] for it in worker.all("verdict", mark))
    check("verdicts", verdicts, ["Keep", "Keep", "SendResult"])
    say(f"the coordinator was killed and came back in epoch {epoch + 1}: inventory of 3, verdicts {', '.join(verdicts)}, nothing ran twice")
    return coordinator


COUNTS = """
n=$(cat "${REJOIN_CHECKPOINT_IN:-/dev/null}")
echo "from ${n:-0}"
echo 5 > "$REJOIN_CHECKPOINT_OUT.new" && mv "$REJOIN_CHECKPOINT_OUT.new" "$REJOIN_CHECKPOINT_OUT"
wait_go
"""


def crash_and_restore(lab, proxy, worker):
    mark = worker.mark()
    lab.submit("counts", COUNTS)
    answer = worker.wait("checkpointed", mark)
    check("the checkpoint was taken", answer["refused"], None)
    check("the coordinator shows it", lab.task("counts")["checkpoint"], answer["number"])
    check_numbers(worker)
    worker.kill()
    worker = Worker(lab, "lab-1", proxy.port, None, "--slots", "2")
    assigned = worker.wait("assigned")
    check("the next attempt restores", (assigned["attempt"], assigned["restores"]), (2, True))
    check("from the checkpoint", worker.wait("restore")["bytes"], "5\n")
    lab.go("counts")
    lab.ended("counts", out=b"from 5\n", runs=2, attempt=2)
    say("a worker was killed: the second attempt went on from the checkpoint of the first")
    return worker


def cancel(lab, worker):
    mark = worker.mark()
    names = ("cancel-1", "cancel-2", "cancel-3")
    tasks = [lab.submit(name, "wait_go", "--retries", "3") for name in names]
    pids = [worker.wait("started", mark, task=task)["pid"] for task in tasks[:2]]
    worker.wait("assigned", mark, task=tasks[2])
    lab.run("cancel", *(f"id:{name}" for name in names))
    for name, runs in zip(names, (1, 1, 0)):
        lab.ended(name, outcome="cancelled", runs=runs, exit_code=None)
    check("cancels that came", [it["reason"] for it in worker.all("cancel", mark)], ["Requested"] * 3)
    for pid in pids:
        check("its process is gone", is_there(pid), False)
    say("two running tasks and a waiting one were cancelled")


def drain(lab, proxy, worker):
    mark = worker.mark()
    tasks = [lab.submit(f"drain-{n}", f"wait_go; echo {n}") for n in range(3)]
    for task in tasks[:2]:
        worker.wait("started", mark, task=task)
    worker.wait("assigned", mark, task=tasks[2])
    lab.run("drain", "lab-1")
    worker.wait("sent", mark, message="Draining")
    worker.wait("sent", mark, message="GivenBack")
    until("the coordinator knows", lambda: json.loads(lab.run("workers", "--json"))[0]["state"] == "draining")
    proxy.cut()
    worker.wait("welcome", mark)
    other = Worker(lab, "lab-2", proxy.port, None, "--drain-timeout", "0")
    other.wait("started", task=tasks[2])
    for n in range(3):
        lab.go(f"drain-{n}")
        lab.ended(f"drain-{n}", out=f"{n}\n".encode())
    worker.wait("bye", mark)
    check("exit status of the drained worker", worker.process.wait(WAIT_S), 0)
    until("its last event", lambda: worker.all("lost", mark, their_code=4000))
    check_numbers(worker)
    say("drained, over a cut: the waiting task went to another worker, the running ones ended, Bye was answered with 4000")
    return other


def hand_over(lab, proxy, worker):
    mark = worker.mark()
    lab.submit("handed", COUNTS)
    worker.wait("checkpointed", mark)
    worker.process.send_signal(signal.SIGTERM)
    worker.wait("bye", mark)
    check("exit status", worker.process.wait(WAIT_S), 0)
    check_numbers(worker)
    worker = Worker(lab, "lab-2", proxy.port)
    check("restored", worker.wait("restore")["bytes"], "5\n")
    lab.go("handed")
    lab.ended("handed", out=b"from 5\n", runs=2, attempt=2)
    say("a worker that was told to end stopped its task and handed it over with its checkpoint")
    return worker


def old_twin(lab, proxy, worker):
    mark, port = worker.mark(), free_port()
    lab.coordinator("twin", port)
    proxy.target = ("127.0.0.1", port)
    proxy.cut()
    lost = worker.wait("lost", mark, our_code=4100)
    check("it is known as an old twin, and leads to the slow lane", (lost["why"][:8], lost["slow"]), ("old twin", True))
    check("pause of the slow lane", 30 <= lost["pause_s"] <= 300)
    check("it did not stop for good", worker.process.poll(), None)
    check_numbers(worker)
    worker.kill()
    say(f"{lost['why']}: closed with 4100, in the slow lane for {lost['pause_s']:.0f} s")


def wrong_key(lab):
    worker = Worker(lab, "lab-2", lab.port, "wrong.key")
    lost = worker.wait("lost", slow=True)
    failures = worker.all("lost")
    check("each attempt failed by its proof", all("mac_c is wrong" in it["why"] and it["our_code"] == 4100 for it in failures))
    check("attempts before the slow lane, and its pause", (len(failures), 30 <= lost["pause_s"] <= 300), (3, True))
    check("nothing was proved to it", worker.all("proved"), [])
    worker.kill()
    say("a coordinator without the key is not believed: three attempts, then the slow lane")


def revoke(lab):
    worker = Worker(lab, "lab-3", lab.port)
    worker.wait("welcome")
    lab.run("key", "revoke", "lab-3", "--keys", "fleet.keys")
    lost = worker.wait("lost")
    check("a revoked key ends it for good", (lost["why"], lost["our_code"], worker.process.wait(WAIT_S)), ("Denied(Revoked)", 4500, 1))
    say("a revoked worker stopped for good")


def story(lab):
    keys(lab)
    first = lab.coordinator()
    first.terminate()
    first.wait(WAIT_S)
    shutil.copytree(lab.path / "state", lab.path / "twin")
    coordinator = lab.coordinator()
    proxy = Proxy(("127.0.0.1", lab.port))
    worker = connect_through_cuts(lab, proxy)
    run_tasks(lab, worker)
    cut_while_running(lab, proxy, worker)
    replay(lab, proxy, worker)
    coordinator = restart_coordinator(lab, coordinator, worker)
    worker = crash_and_restore(lab, proxy, worker)
    cancel(lab, worker)
    worker = drain(lab, proxy, worker)
    worker = hand_over(lab, proxy, worker)
    if lab.version >= 2:
        worker = scenario_chunks.story(lab, coordinator, proxy, worker)
        check_numbers(worker)
    old_twin(lab, proxy, worker)
    wrong_key(lab)
    revoke(lab)
    log = lab.read("state.err")
    check("the coordinator found no breach", [line for line in log.splitlines() if "breach" in line or "ERROR" in line], [])


def main():
    if len(sys.argv) != 2:
        sys.exit(f"usage: {sys.argv[0]} REJOIN; for example target/release/rejoin")
    for version in (1, 2):
        say(f"wire version {version}")
        lab = Lab(sys.argv[1], version)
        try:
            story(lab)
        except (Wrong, subprocess.TimeoutExpired) as wrong:
            for name in sorted(lab.path.glob("*.err")):
                print(f"-- the end of {name.name}\n" + "\n".join(name.read_text().splitlines()[-15:]))
            sys.exit(f"scenario: {wrong}")
        finally:
            lab.close()
    say("all of it held")


if __name__ == "__main__":
    main()
