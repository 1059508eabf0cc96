"""A client that costs little, and holds the server to its promises while it is cut and resumes."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from store.lifecycle import FINAL
from store.model import RunStatus
from tests.processes import API_KEY

SLOW_S: Final = 1.0
"""A delivery that took longer is kept, with its time, to be held against what was done then."""
WAIT_FIRST_S: Final = 0.05
WAIT_LONGEST_S: Final = 2.0
KEPT: Final = 50
NEVER: Final = datetime.max.replace(tzinfo=UTC)


class _Run(msgspec.Struct, rename="camel"):
    id: str
    version: int
    status: RunStatus
    updated_at: datetime


class _Message(msgspec.Struct):
    type: str
    id: int = 0
    ids: tuple[int, ...] = ()
    kind: str = ""
    run: _Run | None = None
    runs: tuple[_Run, ...] = ()
    cursor: str = ""
    reason: str = ""
    code: str = ""
    message: str = ""
    resumed: bool = False
    truncated: bool = False


_decoder = msgspec.json.Decoder(_Message)


@dataclass(frozen=True, slots=True)
class Late:
    """A change that came late."""

    came: float
    """By the monotonic clock."""
    delay: float
    """In s, from its commit on."""
    port: int
    """Of the gateway that sent it."""
    ask: Mapping[str, Any]
    run_id: str
    version: int


@dataclass
class Findings:
    """What all readers together have found, and counted."""

    broken: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    closes: Counter[int] = field(default_factory=Counter)
    delays: list[float] = field(default_factory=list)
    """Of changes that were made while the stream was live, in s from commit to delivery."""
    slow: list[Late] = field(default_factory=list)
    """Those that took longer than SLOW_S."""
    keeps_delays: bool = True

    def found(self, what: str) -> None:
        """A promise was broken."""
        self.counts["broken"] += 1
        if len(self.broken) < KEPT:
            self.broken.append(what)


@dataclass(eq=False)
class Stream:
    """One subscription as its client sees it, through all of its connections."""

    id: int
    ask: Mapping[str, Any]
    findings: Findings
    covers: Callable[[Mapping[str, Any]], bool] = lambda run: True
    """Whether a run, as the API shows it, belongs to the stream."""
    cursor: str = ""
    have: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, RunStatus] = field(default_factory=dict)
    gone: dict[str, int] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    is_live: bool = False
    live_since: datetime = NEVER
    was_reset: bool = False
    ended: str = ""
    told: int = 0
    port: int = 0
    """Of the gateway that it was last connected to."""

    @property
    def is_latest(self) -> bool:
        return self.ask.get("delivery") == "latest"

    def asked(self) -> dict[str, Any]:
        """The message that asks for it, or to go on with it."""
        self.is_live, self.was_reset = False, False
        self.sent = {}
        asked = {**self.ask, "id": self.id}
        if self.cursor:
            asked["cursor"] = self.cursor
        else:
            self.have, self.gone, self.statuses = {}, {}, {}
        return asked

    def snapshot(self, runs: Sequence[_Run]) -> None:
        for run in runs:
            self.sent[run.id] = run.version
            self._take(run)

    def change(self, kind: str, run: _Run, now: datetime) -> None:
        findings = self.findings
        self.told += 1
        last = self.sent.get(run.id)
        if last is not None and run.version <= last:
            findings.found(f"{self.ask}: {run.id}: {run.version} came after {last}")
        self.sent[run.id] = run.version
        if self.ended:
            findings.found(f"{self.ask}: {run.id} came after the end")
        if self.is_live and run.updated_at >= self.live_since:
            delay = (now - run.updated_at).total_seconds()
            if findings.keeps_delays:
                findings.delays.append(delay)
            if delay > SLOW_S:
                late = Late(time.monotonic(), delay, self.port, self.ask, run.id, run.version)
                findings.slow.append(late)
        had = self.have.get(run.id)
        if kind == "enter":
            self._take(run)
        elif kind == "leave":
            self.gone[run.id] = run.version
            if had is not None and run.version >= had:
                del self.have[run.id]
                self.statuses.pop(run.id, None)
        elif had is None:
            if self.gone.get(run.id, 0) < run.version:
                findings.found(f"{self.ask}: a change of {run.id}, which it does not have")
        elif run.version <= had:
            findings.counts["repeats"] += 1
        elif run.version > had + 1 and not self.is_latest:
            findings.found(f"{self.ask}: {run.id}: a gap from {had} to {run.version}")
            self._take(run)
        else:
            self._take(run)

    def _take(self, run: _Run) -> None:
        if run.version >= self.have.get(run.id, 0):
            self.have[run.id] = run.version
            self.statuses[run.id] = run.status

    def live(self, message: _Message) -> None:
        self.is_live = True
        self.live_since = datetime.now(UTC)
        if message.resumed is not (bool(self.cursor) and not self.was_reset):
            self.findings.found(f"{self.ask}: resumed is {message.resumed}")
        if message.truncated:
            self.findings.found(f"{self.ask}: truncated")
        self.cursor = message.cursor

    def reset(self, reason: str) -> None:
        self.findings.counts[f"reset {reason}"] += 1
        self.have, self.gone, self.sent, self.statuses = {}, {}, {}, {}
        self.was_reset, self.is_live = True, False

    def end(self, reason: str) -> None:
        self.ended = reason
        if reason != "completed" or not self.is_live:
            self.findings.found(f"{self.ask}: ended with {reason}, live: {self.is_live}")
        target = self.ask.get("runId") or self.ask.get("jobRunId")
        if target is not None and self.statuses.get(target) not in FINAL:
            self.findings.found(f"{self.ask}: ended, and its run is {self.statuses.get(target)}")
        if "batchId" in self.ask and any(each not in FINAL for each in self.statuses.values()):
            self.findings.found(f"{self.ask}: ended, and not all of its runs are over")

    def differs(self, truth: Mapping[str, Mapping[str, Any]]) -> str | None:
        """What it lacks or has too much, held against all runs as they stand."""
        expected = {id: run["version"] for id, run in truth.items() if self.covers(run)}
        if self.ended:
            # Tags and metadata may still change after the end.
            missing = [id for id in expected if id not in self.have]
            return f"{self.ask}: ended without {missing[:3]}" if missing else None
        if not self.is_live:
            return f"{self.ask}: not live"
        if self.have == expected:
            return None
        wrong = [
            f"{id}: {self.have.get(id)} and not {expected.get(id)}"
            for id in {**expected, **self.have}
            if self.have.get(id) != expected.get(id)
        ]
        return f"{self.ask}: {len(wrong)} differ: {', '.join(wrong[:5])}"


class Reader:
    """One client: keeps a connection with its streams, and resumes them wherever it can."""

    def __init__(
        self,
        ports: Sequence[int],
        streams: Sequence[Stream],
        findings: Findings,
        chance: random.Random,
        *,
        receive_buffer: int | None = None,
        longest_wait_s: float = WAIT_LONGEST_S,
    ) -> None:
        self.ports = ports
        self.streams = {stream.id: stream for stream in streams}
        self.findings = findings
        self.connections = 0
        self.transport: asyncio.Transport | None = None
        self.is_paused = False
        self.may_connect = asyncio.Event()
        """While it is not set, it stays away."""
        self.may_connect.set()
        self._chance = chance
        self._receive_buffer = receive_buffer
        self._longest_wait_s = longest_wait_s
        self._after_s = 0.0

    @property
    def is_live(self) -> bool:
        """Whether every stream is live, or has come to its end."""
        return all(stream.is_live or stream.ended for stream in self.streams.values())

    @property
    def is_over(self) -> bool:
        return all(stream.ended for stream in self.streams.values())

    def cut(self) -> None:
        """Drops the connection as it is."""
        if self.transport is not None:
            self.transport.abort()

    def pause(self) -> None:
        """Takes nothing any more."""
        self.is_paused = True
        if self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        self.is_paused = False
        for stream in self.streams.values():
            # What waited for it meanwhile is late by its own fault.
            stream.live_since = max(stream.live_since, datetime.now(UTC))
        if self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()

    async def run(self) -> None:
        """Follows until all streams have ended, or it is cancelled."""
        failures = 0
        first = self._chance.randrange(len(self.ports))
        turn = first
        try:
            while not self.is_over:
                began = time.monotonic()
                self._after_s = 0.0
                await self.may_connect.wait()
                try:
                    await self._connect(self.ports[turn % len(self.ports)])
                except OSError:
                    turn += 1
                if time.monotonic() - began > 1:
                    failures = 0
                longest = min(self._longest_wait_s, WAIT_FIRST_S * 2**failures)
                failures += 1
                await asyncio.sleep(self._after_s or self._chance.uniform(0, longest))
        finally:
            self.cut()

    async def _connect(self, port: int) -> None:
        """One connection, from beginning to end."""
        loop = asyncio.get_running_loop()
        sock = socket.socket()
        sock.setblocking(False)
        try:
            if self._receive_buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
            async with asyncio.timeout(5):
                await loop.sock_connect(sock, ("127.0.0.1", port))
        except BaseException:
            sock.close()
            raise
        for stream in self.streams.values():
            stream.port = port
        wire = _Wire(self)
        await loop.create_connection(lambda: wire, sock=sock)
        self.connections += 1
        try:
            await wire.closed
        finally:
            self.transport = None
            for stream in self.streams.values():
                stream.is_live = False

    # What the wire tells.

    def opened(self, wire: _Wire) -> None:
        self.transport = wire.transport
        if self.is_paused:
            self.pause()
        lines = [json.dumps(stream.asked()) for stream in self.streams.values() if not stream.ended]
        for start in range(0, len(lines), 20):
            wire.send("\n".join(lines[start : start + 20]).encode())

    def closed(self, code: int) -> None:
        self.findings.closes[code] += 1
        if code in (4400, 4401, 4403):
            self.findings.found(f"closed with {code}")

    def take(self, text: bytes) -> None:
        """A message of the server."""
        now = datetime.now(UTC)
        for line in text.split(b"\n"):
            message = _decoder.decode(line)
            match message.type:
                case "change":
                    assert message.run is not None
                    for id in message.ids:
                        self.streams[id].change(message.kind, message.run, now)
                case "snapshot":
                    self.streams[message.id].snapshot(message.runs)
                case "live":
                    self.streams[message.id].live(message)
                case "checkpoint" | "heartbeat":
                    for stream in self.streams.values():
                        if stream.is_live and not stream.ended:
                            stream.cursor = message.cursor
                case "reset":
                    self.streams[message.id].reset(message.reason)
                case "end":
                    self.streams[message.id].end(message.reason)
                    if self.is_over:
                        self.cut()
                case "error" if message.code == "unavailable" and message.id:
                    # It may try again at once: here by another connection.
                    self.findings.counts["unavailable"] += 1
                    self.cut()
                case "error":
                    self.findings.found(f"error {message.code}: {message.message}")
                case "reconnect":
                    self._after_s = 0.01 + self._chance.random() / 10
                    self.findings.counts["reconnect"] += 1
                case _:
                    self.findings.counts[message.type] += 1


class _Wire(asyncio.Protocol):
    """The WebSocket, as little of it as is needed."""

    def __init__(self, reader: Reader) -> None:
        self.transport: asyncio.Transport | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = reader
        self._buffer = bytearray()
        self._is_open = False
        self._code = 1006

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(
            b"GET /v1/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"Sec-WebSocket-Protocol: runstream.v1\r\n"
            b"Authorization: Bearer " + API_KEY.encode() + b"\r\n\r\n"
        )

    def send(self, payload: bytes, opcode: int = 1) -> None:
        """Masked with zeros, as a mask may be."""
        size = len(payload)
        if size < 126:
            head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
        elif size < 65_536:
            head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
        else:
            head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
        if self.transport is not None:
            self.transport.write(head + b"\0\0\0\0" + payload)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._is_open:
            head, end, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not end:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                assert self.transport is not None
                self._code = int(head[9:12])
                self.transport.abort()
                return
            self._is_open = True
            self._buffer = bytearray(rest)
            self._reader.opened(self)
        while self._frame():
            pass

    def _frame(self) -> bool:
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        size, at = buffer[1] & 0x7F, 2
        if size == 126:
            if len(buffer) < 4:
                return False
            size, at = struct.unpack_from("!H", buffer, 2)[0], 4
        elif size == 127:
            if len(buffer) < 10:
                return False
            size, at = struct.unpack_from("!Q", buffer, 2)[0], 10
        if len(buffer) < at + size:
            return False
        opcode, payload = buffer[0] & 0x0F, bytes(buffer[at : at + size])
        del buffer[: at + size]
        if opcode == 1:
            self._reader.take(payload)
        elif opcode == 9:
            self.send(payload, 10)
        elif opcode == 8:
            self._code = int.from_bytes(payload[:2], "big") if size >= 2 else 1005
            self.send(payload[:2], 8)
            assert self.transport is not None
            self.transport.close()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)
        self._reader.closed(self._code)
