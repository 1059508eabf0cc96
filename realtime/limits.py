"""Bounds on what callers may hold and how fast they may ask."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Final

from realtime.bucket import Bucket

BUCKETS_MAX: Final = 10_000
"""So many are remembered by name; the one that was not asked for longest is forgotten first."""

BURST_S: Final = 10
"""After a rest, as much is let through at once as else in this time."""

PATIENCE_S: Final = 30.0
"""So long a body may stand still, or be slower than SLOWEST from its beginning on."""

SLOWEST: Final = 1_000
"""Bytes a second."""

EVICTED_AFTER_S: Final = 1.0
"""Whoever is newer is not sent away to make room, unless there are FLOOD times too many."""

FLOOD: Final = 4


class TooMany(Exception):
    """Somebody asks for more, or more often, than is allowed."""

    def __init__(self, what: str, retry_after_s: float = 1.0) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s


class Buckets:
    """A bucket for each name. A rate of 0 is no limit."""

    def __init__(
        self, rate: float, burst: float, what: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate = rate
        self._burst = burst
        self._what = what
        self._clock = clock
        self._buckets: OrderedDict[object, Bucket] = OrderedDict()

    def take(self, name: object, cost: float = 1.0) -> None:
        """Raises TooMany if there is nothing left for that name."""
        if not self._rate:
            return
        now = self._clock()
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = Bucket(self._rate, self._burst, now)
            while len(self._buckets) > BUCKETS_MAX:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(name)
        wait_s = bucket.take(now, cost)
        if wait_s:
            raise TooMany(self._what, wait_s)

    def give_back(self, name: object, cost: float = 1.0) -> None:
        """What was taken was not used after all."""
        bucket = self._buckets.get(name)
        if bucket is not None:
            bucket.give_back(cost)


@dataclass(frozen=True)
class _Waiting:
    since: float
    address: str
    drop: Callable[[], None]


class Handshakes:
    """Connections that have not yet said what they want: so many, and each for so long.

    Over the limit whoever has waited longest goes. A good client says what it wants at once, so
    those that are sent away are others, however many of them there are.
    """

    def __init__(
        self,
        most: int,
        wait_s: float,
        *,
        head_bytes: int = 131_072,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.most = most
        self.wait_s = wait_s
        self.head_bytes = head_bytes
        """How long the head of a request may be."""
        self._clock = clock
        self._waiting: OrderedDict[object, _Waiting] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def enter(self, who: object, address: str, drop: Callable[[], None]) -> None:
        """It begins; `drop` is called if it takes too long. It waits from now on."""
        now = self._clock()
        self._waiting[who] = _Waiting(now, address, drop)
        if len(self._waiting) > self.most:
            eldest, waiting = next(iter(self._waiting.items()))
            old_enough = now - waiting.since >= EVICTED_AFTER_S
            if old_enough or len(self._waiting) > FLOOD * self.most:
                self._drop(eldest)
        if self._timer is None:
            self._set_timer()

    def leave(self, who: object) -> None:
        """It has said what it wants, or has gone."""
        self._waiting.pop(who, None)

    def _drop(self, who: object) -> None:
        self._waiting.pop(who).drop()

    def _set_timer(self) -> None:
        # One timer for all: they all have the same time, so the first that came is the first due.
        wait_s = max(self.wait_s / 10, 0.01)
        if self._waiting:
            first = next(iter(self._waiting.values()))
            wait_s = max(first.since + self.wait_s - self._clock(), wait_s)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self._clock()
        while self._waiting:
            who, first = next(iter(self._waiting.items()))
            if now - first.since < self.wait_s:
                break
            self._drop(who)
        if self._waiting:
            self._set_timer()


class Shares:
    """How many each name holds at once. No limit is None."""

    def __init__(self, most: int | None, what: str) -> None:
        self._most = most
        self._what = what
        self._held: Counter[str] = Counter()

    def take(self, name: str) -> None:
        """One more. Raises TooMany."""
        if self._most is not None and self._held[name] >= self._most:
            raise TooMany(self._what)
        self._held[name] += 1

    def give_back(self, name: str) -> None:
        """One fewer."""
        self._held[name] -= 1
        if self._held[name] <= 0:
            del self._held[name]


class Bodies:
    """The bytes of all bodies that are being read: together they have a bound."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.held = 0

    def hold(self, size: int) -> None:
        """So many more. Raises TooMany."""
        if self.held + size > self._most:
            raise TooMany("too much is being sent just now")
        self.held += size

    def let_go(self, size: int) -> None:
        self.held -= size


class TooSlow(Exception):
    """A body comes so slowly that it is not waited for."""


async def paced(
    stream: AsyncIterator[bytes], *, patience_s: float = PATIENCE_S, slowest: float = SLOWEST
) -> AsyncIterator[bytes]:
    """The stream's parts. Raises TooSlow if one does not come, or all of them trickle."""
    loop = asyncio.get_running_loop()
    waited = 0.0
    received = 0
    while True:
        # What has come buys time for what is still to come; our own slowness is not counted.
        began = loop.time()
        left_s = min(patience_s, patience_s + received / slowest - waited)
        try:
            async with asyncio.timeout(max(left_s, 0.0)):
                part = await anext(stream, None)
        except TimeoutError:
            raise TooSlow("the body comes too slowly") from None
        if part is None:
            return
        waited += loop.time() - began
        received += len(part)
        yield part


class RequestLimits:
    """How fast keys, tokens and strangers may ask, and how much they may send at once."""

    def __init__(
        self,
        *,
        key_per_s: float = 0.0,
        token_per_s: float = 0.0,
        guesses_per_s: float = 0.0,
        bodies_bytes: int = 2**62,
        body_patience_s: float = PATIENCE_S,
    ) -> None:
        self._keys = Buckets(key_per_s, BURST_S * key_per_s, "too many requests with this key")
        self._tokens = Buckets(
            token_per_s, BURST_S * token_per_s, "too many requests with this token"
        )
        self.guesses = Buckets(
            guesses_per_s, BURST_S * guesses_per_s, "too many unknown keys and tokens"
        )
        self.bodies = Bodies(bodies_bytes)
        self.body_patience_s = body_patience_s

    def request(self, *, key_id: str | None, token_id: str | None) -> None:
        """One more request with that key or token. Raises TooMany."""
        if token_id is not None:
            self._tokens.take(token_id)
        else:
            self._keys.take(key_id)
