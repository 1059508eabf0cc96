"""A connection to Redis that listens: it only parses, and hands on what it parsed."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import deque
from collections.abc import Iterable
from typing import Any, Final, Protocol, cast

import hiredis

from store.broker.redis.address import Address

MESSAGES: Final = frozenset({b"message", b"smessage"})
SUBSCRIBED: Final = frozenset({b"subscribe", b"ssubscribe"})
UNSUBSCRIBED: Final = frozenset({b"unsubscribe", b"sunsubscribe"})

KEEPALIVE_IDLE_S: Final = 15
KEEPALIVE_EVERY_S: Final = 5
UNACKNOWLEDGED_MS: Final = 10_000


class Hearing(Protocol):
    """Who is told what comes in. Called on the loop, as it is parsed."""

    def heard(self, channel: bytes, message: bytes) -> None:
        """A message on a channel."""

    def paused(self) -> None:
        """That was all that one read of the socket brought."""

    def confirmed(self, channel: bytes) -> None:
        """The server has put us on the channel's list: from here on nothing is left out."""

    def refused(self, channel: bytes, reason: str) -> None:
        """The server will not put us on it, or has taken us off it unasked."""


class Subscriber(asyncio.Protocol):
    """One such connection, from its dial to its end; speaks RESP2.

    What is asked is answered in its order, messages come in between: a queue of what was asked
    tells whose answer one is.
    """

    def __init__(self, hearing: Hearing, *, sharded: bool = False) -> None:
        loop = asyncio.get_running_loop()
        self.settled: asyncio.Future[None] = loop.create_future()
        """Done once all that was asked first has been answered; never, if it ends before."""
        self.closed: asyncio.Future[str] = loop.create_future()
        """Done once the connection is gone, with the reason."""
        self._hearing = hearing
        self._subscribe = b"SSUBSCRIBE" if sharded else b"SUBSCRIBE"
        self._unsubscribe = b"SUNSUBSCRIBE" if sharded else b"UNSUBSCRIBE"
        self._reader = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._asked: deque[tuple[bytes, bytes]] = deque()
        self._why: str | None = None

    # What a link asks for.

    def begin(self, address: Address, channels: Iterable[bytes]) -> None:
        """Logs in and subscribes, in one write: no answer has to be waited for."""
        if address.password is not None:
            name = () if address.username is None else (address.username,)
            self._ask(b"AUTH", b"", *name, address.password)
        if address.db:
            self._ask(b"SELECT", b"", str(address.db))
        # Who runs the server sees by the name what this connection is. A server that does not
        # allow it is as good.
        self._ask(b"CLIENT", b"", "SETNAME", "runstream-hints")
        self.subscribe(channels)

    def subscribe(self, channels: Iterable[bytes]) -> None:
        # One command each, so that each is refused alone; on a cluster they must be.
        self._write([self._pack(self._subscribe, channel, channel) for channel in channels])

    def unsubscribe(self, channel: bytes) -> None:
        self._ask(self._unsubscribe, channel, channel)

    def abort(self, why: str) -> None:
        """Ends it at once; `closed` gives the first reason."""
        if self._why is None:
            self._why = why
        if self._transport is not None:
            self._transport.abort()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are none by their class, but do all the same.
        self._transport = cast(asyncio.Transport, transport)
        tend(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        gets = self._reader.gets
        heard = self._hearing.heard
        try:
            while (reply := gets()) is not False:
                if type(reply) is list and reply[0] in MESSAGES:
                    heard(reply[1], reply[2])
                else:
                    self._answer(reply)
        except hiredis.ProtocolError as error:
            self.abort(f"it does not speak Redis: {error}")
        self._hearing.paused()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if not self.closed.done():
            self.closed.set_result(self._why or (str(exc) if exc else "closed by the server"))

    # How it is done.

    def _answer(self, reply: object) -> None:
        if type(reply) is list:
            kind, channel = reply[0], reply[1]
            if kind in UNSUBSCRIBED and self._next() != (self._unsubscribe, channel):
                # Unasked: the slot has gone to another node of the cluster.
                self._hearing.refused(channel, "taken off by the server")
                return
            self._asked.popleft()
            if kind in SUBSCRIBED:
                self._hearing.confirmed(channel)
        else:
            command, channel = self._asked.popleft()
            if isinstance(reply, hiredis.ReplyError):
                if command == self._subscribe:
                    self._hearing.refused(channel, str(reply))
                elif command in (b"AUTH", b"SELECT"):
                    self.abort(f"{command.decode()} refused: {reply}")
        if not self._asked and not self.settled.done():
            self.settled.set_result(None)

    def _next(self) -> tuple[bytes, bytes] | None:
        return self._asked[0] if self._asked else None

    def _ask(self, command: bytes, channel: bytes, *arguments: bytes | str) -> None:
        self._write([self._pack(command, channel, *arguments)])

    def _pack(self, command: bytes, channel: bytes, *arguments: bytes | str) -> bytes:
        self._asked.append((command, channel))
        words: Any = (command, *arguments)  # its own type allows for one word only
        return hiredis.pack_command(words)  # type: ignore[no-any-return]

    def _write(self, commands: list[bytes]) -> None:
        if self._transport is not None and commands:
            self._transport.write(b"".join(commands))


def keepalive_options() -> dict[int, int]:
    """What makes the kernel notice a peer that is gone, where it can."""
    wanted = {
        "TCP_KEEPIDLE": KEEPALIVE_IDLE_S,
        "TCP_KEEPALIVE": KEEPALIVE_IDLE_S,  # macOS calls it so
        "TCP_KEEPINTVL": KEEPALIVE_EVERY_S,
        "TCP_KEEPCNT": 3,
        # Bytes that were sent and stay unacknowledged: without it the kernel tries for 15 minutes.
        "TCP_USER_TIMEOUT": UNACKNOWLEDGED_MS,
    }
    if sys.platform != "darwin":
        del wanted["TCP_KEEPALIVE"]
    return {getattr(socket, name): value for name, value in wanted.items() if hasattr(socket, name)}


def tend(sock: socket.socket | None) -> None:
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in keepalive_options().items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
