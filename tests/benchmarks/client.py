"""The load: raw sockets, and frames that are made beforehand.

While the clock runs the client neither makes nor parses a frame, lest it be what
is measured.  A first connection sends each message of the load once and looks at
the replies; from then on a reply is right if its bytes are those.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, cast

from tests.servers import RawClient

PATIENCE = 30.0  # seconds without a byte, until a reply counts as lost
KNOCKING = 50  # connections asked for at once: fewer than any server's backlog holds
CHUNK = 1 << 18
TEXT, BINARY = 1, 2
MASK = b"\x37\xfa\x21\x3d"


class WrongReply(Exception):
    """A message was lost, or came back as another one."""


class Load(NamedTuple):
    """What the clients do; at "/push" one connection speaks, and all of them hear it.

    The payloads are sent over and over.  They are of one length, each has a number
    of its own, and there are more of them than a connection has in flight.
    """

    title: str
    path: str
    payloads: list[bytes]
    connections: int
    in_flight: int = 1
    opcode: int = TEXT
    in_batches: bool = False  # the next ones are sent when all replies have come
    idle: int = 0  # connections beside those, which say nothing


def _numbered(size: int, number: int) -> list[bytes]:
    return [b"%08d" % n + b"unisock." * (size // 8 - 1) for n in range(number)]


def _json(size: int, number: int) -> list[bytes]:
    fields = '"room":"general","tags":["a","b"],"read":false,"by":{"id":7,"name":"Ada"},"at":17.25'
    heads = [f'{{"id":{1000 + n},{fields},"text":"'.encode() for n in range(number)]
    return [head.ljust(size - 2, b"x") + b'"}' for head in heads]


LOADS = {
    "small": Load("32 B text, 50 connections", "/text", _numbered(32, 8), 50),
    "pipelined": Load("32 B text, 8 connections, 32 in flight", "/text", _numbered(32, 64), 8, 32),
    "batches": Load(
        "32 B text, 8 connections, 32 sent at once, and again when all are answered",
        "/text",
        _numbered(32, 64),
        8,
        32,
        in_batches=True,
    ),
    "json": Load("512 B JSON, 50 connections", "/json", _json(512, 8), 50),
    "medium": Load("16 KiB text, 10 connections", "/text", _numbered(1 << 14, 4), 10),
    "large": Load("1 MiB binary, 2 connections", "/binary", _numbered(1 << 20, 2), 2, 1, BINARY),
    "push": Load(
        "32 B to each of 1,000 connections; a message is one delivery",
        "/push",
        _numbered(32, 8),
        1000,
    ),
}


class Sample(NamedTuple):
    """One measurement."""

    messages: int  # that came: replies, deliveries of pushes, or connections
    wall: float  # seconds
    server: float  # seconds of the server's CPU time
    grown: int = 0  # bytes of the server's memory

    def rate(self) -> float:
        """Messages in a second."""
        return self.messages / self.wall

    def cpu(self) -> float:
        """Microseconds of the server's CPU time for a message."""
        return self.server / self.messages * 1e6

    def busy(self) -> float:
        """How much of the time the server was at work, in percent."""
        return self.server / self.wall * 100

    def memory(self) -> float:
        """KiB of the server's memory for a connection."""
        return self.grown / self.messages / 1024


def cpu_time(pid: int) -> float:
    """The CPU seconds of all threads of a process, to the nanosecond."""
    # Linux has a clock for each process, numbered as clock_getcpuclockid(3) does;
    # what /proc has of all threads is in ticks of 10 ms.
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e9


def _resident_memory(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def frame(opcode: int, payload: bytes, mask: bytes = b"") -> bytes:
    """A frame; `mask` is of four bytes, or none."""
    size = len(payload)
    short = size if size < 126 else 126 if size < 1 << 16 else 127
    extended = b"" if short < 126 else size.to_bytes(2 if short == 126 else 8, "big")
    head = bytes([0x80 | opcode, short | (0x80 if mask else 0)]) + extended
    if mask:
        key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
        payload = (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")
    return head + mask + payload


@contextmanager
def connected(port: int, path: str, number: int) -> Generator[list[RawClient]]:
    """So many connections whose handshakes were accepted; closed at the end."""
    with ExitStack() as stack:
        clients: list[RawClient] = []
        for first in range(0, number, KNOCKING):
            some = [RawClient(port, path) for _ in range(min(KNOCKING, number - first))]
            clients += map(stack.enter_context, some)
            for client in some:
                status = client.read_head()
                if not status.startswith(b"HTTP/1.1 101 "):
                    raise WrongReply(f"a handshake was answered with {status!r}")
        yield clients


class Cycle:
    """Frames of one length, one after the other, over and over."""

    def __init__(self, frames: list[bytes]) -> None:
        self.size = len(frames[0])
        if any(len(frame) != self.size for frame in frames):
            raise WrongReply("the replies to messages of one length have several")
        self.length = self.size * len(frames)
        self._twice = b"".join(frames) * 2
        self._view = memoryview(self._twice)

    def has(self, data: bytes, position: int) -> bool:
        """Whether `data`, which is not longer than one turn, stands there."""
        return self._twice.startswith(data, position % self.length)

    def part(self, position: int, size: int) -> memoryview:
        """So many bytes from there on, not more than one turn."""
        start = position % self.length
        return self._view[start : start + size]


def _learn_replies(port: int, load: Load) -> Cycle:
    """The frames in which the server echoes the messages; what they say is checked here."""
    replies: list[bytes] = []
    meaning = json.loads if load.path == "/json" else bytes
    with connected(port, load.path, 1) as (client,):
        for payload in load.payloads:
            client.write(frame(load.opcode, payload, MASK))
            opcode, reply = client.read_frame()
            if opcode != load.opcode or meaning(reply) != meaning(payload):
                raise WrongReply(f"{payload[:64]!r} came back as {reply[:64]!r}")
            replies.append(frame(opcode, reply))
    return Cycle(replies)


class Talk:
    """One connection: how far along the cycles it has sent and received."""

    def __init__(self, sock: socket.socket, requests: Cycle, replies: Cycle) -> None:
        # A timeout of Python's would be one more system call for each of these.
        sock.settimeout(None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(PATIENCE), 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._requests, self._replies = sock, requests, replies
        self._chunk = min(CHUNK, replies.length)
        self._sent = self._received = 0
        self.unanswered = 0

    def say(self, messages: int) -> None:
        """Send the next messages."""
        size = messages * self._requests.size
        self._socket.sendall(self._requests.part(self._sent, size))
        self._sent += size
        self.unanswered += messages

    def hear(self) -> int:
        """Take what has come; how many replies that completes."""
        data = self._socket.recv(self._chunk)
        before = self._received // self._replies.size
        if not data or not self._replies.has(data, self._received):
            raise WrongReply(f"instead of reply {before} came {data[:64]!r}")
        self._received += len(data)
        replies = self._received // self._replies.size - before
        self.unanswered -= replies
        return replies


def _exchange(poll: select.epoll, talks: dict[int, Talk], load: Load, seconds: float) -> int:
    """Keep messages in flight for so long, and wait for the last replies; how many came."""
    is_push = load.path == "/push"
    speakers = list(talks.values())[: 1 if is_push else None]
    heard_by = len(talks) if is_push else 1
    until = time.perf_counter() + seconds
    for talk in speakers:
        talk.say(load.in_flight)
    pending = len(speakers) * load.in_flight * heard_by
    messages = 0
    while pending:
        events = poll.poll(PATIENCE)
        if not events:
            raise WrongReply(f"{pending} replies are lost")
        goes_on = time.perf_counter() < until
        for fd, _ in events:
            talk = talks[fd]
            replies = talk.hear()
            messages += replies
            pending -= replies
            more = replies
            if load.in_batches:
                more = 0 if talk.unanswered else load.in_flight
            if goes_on and more and not is_push:
                talk.say(more)
                pending += more
        if goes_on and not pending:  # all have heard the push
            speakers[0].say(1)
            pending = heard_by
    return messages


def measure(port: int, pid: int, load: Load, seconds: float) -> Sample:
    """Put the load on the server for so long, after a warm-up.

    Raises:
        WrongReply: a message was lost, or came back as another one.
    """
    replies = _learn_replies(port, load)
    requests = Cycle([frame(load.opcode, payload, MASK) for payload in load.payloads])
    number = load.connections + load.idle
    with connected(port, load.path, number) as clients, select.epoll() as poll:
        speaking = clients[:: number // load.connections][: load.connections]
        talks = {c.socket.fileno(): Talk(c.socket, requests, replies) for c in speaking}
        for fd in talks:
            poll.register(fd, select.EPOLLIN)
        _exchange(poll, talks, load, seconds / 5)
        wall, server = time.perf_counter(), cpu_time(pid)
        messages = _exchange(poll, talks, load, seconds)
        wall, server = time.perf_counter() - wall, cpu_time(pid) - server
    _wait_until_idle(pid)
    return Sample(messages, wall, server)


def measure_connections(port: int, pid: int, number: int) -> Sample:
    """Open so many connections that stay idle; the server is a fresh one."""
    with connected(port, "/text", KNOCKING):  # what the first ones load stays in memory
        _wait_until_idle(pid)
        memory, wall, server = _resident_memory(pid), time.perf_counter(), cpu_time(pid)
        with connected(port, "/text", number) as clients:
            wall = time.perf_counter() - wall
            _wait_until_idle(pid)
            server = cpu_time(pid) - server
            memory = _resident_memory(pid) - memory
            for client in clients:
                client.socket.setblocking(False)
                # None if nothing has come, which is not in the types of files.
                said = cast(bytes | None, client.file.read(1))
                if said is not None:
                    raise WrongReply("an idle connection was not left in peace")
    return Sample(number, wall, server, memory)


def _wait_until_idle(pid: int) -> None:
    """Wait until the server has done what its clients have left it to do."""
    until = time.monotonic() + PATIENCE
    before = -1.0
    while (now := cpu_time(pid)) - before > 0.001:
        assert time.monotonic() < until, "the server works, though no client speaks"
        before = now
        time.sleep(0.05)
