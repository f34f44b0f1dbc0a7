"""A TCP proxy that cuts, stalls and swallows"""

import collections
import select
import socket
import struct
import threading
import time

PIECE = 1_400  # Small, so that a cut lands in the middle of things.


class Link:
    """One connection through the proxy, and what is done to it"""

    def __init__(self, proxy, client):
        self.proxy, self.client = proxy, client
        self.held, self.swallows, self.dead = False, False, False
        self.swallowed, self.passed = {"up": 0, "down": 0}, {"up": 0, "down": 0}
        self.direction, self.left, *pause = proxy.plan.popleft() if proxy.plan else (None, 0)
        self.pause_s, self.ends_at = sum(pause), None
        self.planned = self.direction is not None

    def run(self):
        try:
            self.server = socket.create_connection(self.proxy.target, timeout=5)
        except OSError:
            self.reset(self.client)
            return
        for end in (self.client, self.server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(5)
        try:
            while not self.dead:
                self.dead = self.dead or self.ends_at is not None and time.monotonic() >= self.ends_at
                watched = [] if self.held else [self.client, self.server]
                for end in select.select(watched, [], [], 0.01)[0]:
                    self.pass_on(end)
        except OSError:
            pass
        self.reset(self.client)
        self.reset(self.server)
        self.dead = True

    def pass_on(self, end):
        data = end.recv(PIECE)
        direction, other = ("up", self.server) if end is self.client else ("down", self.client)
        if not data:
            self.dead = True
        elif self.swallows:
            self.swallowed[direction] += len(data)
        else:
            if direction == self.direction:
                data = data[: self.left]
                self.left -= len(data)
            other.sendall(data)
            self.passed[direction] += len(data)
            if direction == self.direction and self.left == 0:
                self.held, self.ends_at = True, time.monotonic() + self.pause_s
                self.proxy.planned_cuts += 1

    def reset(self, end):
        """Closes; by a reset where this is a cut on purpose, and in any case at once"""
        if self.planned:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()


class Proxy:
    """Listens on a free port of its own; `plan` says after how many bytes the next connections are cut

    A third figure is a pause before the cut, in seconds: what has passed gets time to be taken in, which a reset may take
    away, or the link is found to be silent before it ends.
    """

    def __init__(self, target):
        self.target, self.plan, self.planned_cuts, self.links = target, collections.deque(), 0, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.links.append(Link(self, client))
            threading.Thread(target=self.links[-1].run, daemon=True).start()

    def cut(self):
        """Ends what there is at present"""
        for link in self.links:
            link.dead = True

    def hold(self):
        """Lets nothing through any more on what there is, and says so to nobody"""
        self.links[-1].held = True

    def swallow(self):
        """Takes everything on what there is, and passes none of it on"""
        self.links[-1].swallows = True
        return self.links[-1]
