"""Carries hints between processes: at most once, in no promised order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from store.broker.metrics import NO_METRICS, BrokerMetrics
from store.model import Change, Run


class Hint(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A change that was committed, in the hope that it arrives.

    `run` is the run as it stands at that version, less its payload but at version 1; for a
    deletion what the log keeps of it, for a seal None. Not `whole`: it was over the limit, only
    the ids came through, `run` is None and `change.changed` empty; the reader fetches the group.
    """

    change: Change
    run: Run | None
    whole: bool = True


class BrokerState(StrEnum):
    """What a broker says of itself."""

    OK = "ok"
    DEGRADED = "degraded"
    """Away or suspect: the tail carries everything until it is back."""


class Suspicion(StrEnum):
    """The reasons that a listener is given; also a metric's label."""

    FOLLOWED = "followed"
    """Hints of a project that was not followed before have begun to flow."""
    SUBSCRIBED = "subscribed"
    """Hints flow, for the first time or again."""
    LOST = "lost"
    """The connection is gone, and what is published now is not heard."""
    CANARY = "canary"
    """The connection stands, but this process does not hear its own heartbeat on it."""
    HOLE = "hole"
    """A publisher's counter has jumped."""
    UNKNOWN_PUBLISHER = "unknown_publisher"
    """A publisher was heard for the first time: what it published before is not known."""
    OVERFLOW = "overflow"
    """More hints came than were taken, and all that waited were thrown away."""
    UNREADABLE = "unreadable"
    """A message that this version of the program cannot read."""


class Listener(Protocol):
    """Who is told what a broker brings. Called on the event loop; must not block.

    Both are called from the loop itself, never from inside `publish`, `follow` or `unfollow`, so
    a listener may call those. An exception is logged and goes no further.
    """

    def hinted(self, hints: Sequence[Hint]) -> None:
        """Changes that some process committed, perhaps this one, perhaps for the second time.

        Called about once in a turn of the loop, with all that came meanwhile: first what this
        process published, in that order, then what others did, each publisher's in its order.
        """

    def suspect(self, project: str | None, reason: str) -> None:
        """Hints of the project (None: of every project) may have been lost: read the tail now.

        `reason` is a `Suspicion`. After each subscribe and resubscribe it is told once the server
        has confirmed it: a change committed before that is found by a read that begins now, and
        one committed after it is published into a subscription that stands.
        """


Told = Callable[[Sequence[Hint]], None]
"""Who is told, besides the listener, of the hints that other processes published."""


def tell_nobody(hints: Sequence[Hint]) -> None:
    """Nobody is."""


class Broker(Protocol):
    """One contract for the memory of one process and for Redis.

    All of it is called on the event loop that `start` ran on.
    """

    @property
    def state(self) -> BrokerState:
        """OK only while hints are known to come through."""

    async def start(self, listener: Listener) -> None:
        """Begins in the background; returns also if the broker cannot be reached.

        Called once. What is published before it is not carried.
        """

    async def close(self) -> None:
        """Ends for good and leaves no task, connection or call to the listener behind.

        What has been published and not yet sent is lost, as hints may be.
        """

    def publish(self, hints: Sequence[Hint]) -> None:
        """Queues the hints of one commit. Never waits, never raises, may lose them.

        Those of followed projects reach this process's own listener directly, later in this
        turn of the loop or in the next, also while the broker is away.
        """

    def follow(self, project: str) -> None:
        """From now on hand this project's hints to the listener; following twice is following.

        Told by `suspect` once they flow. May be called before `start`.
        """

    def unfollow(self, project: str) -> None:
        """Hands over none of this project's hints any more, not even those that wait."""


def open_broker(
    url: str | None,
    *,
    namespace: str = "runstream",
    metrics: BrokerMetrics = NO_METRICS,
    of_others: Told = tell_nobody,
) -> Broker:
    """The broker for that URL, not started; ValueError for a URL that makes no sense.

    None or `memory://`: the memory of this process. `redis://`, `rediss://` (TLS): Redis or
    Valkey. `redis+cluster://`, `rediss+cluster://`: sharded pub/sub on a cluster, any of whose
    nodes the URL names.

    `of_others` is called on the event loop with what other processes published about followed
    projects; those of this process its writer knows of.

    Processes hear each other exactly if they share the namespace. Two databases on one Redis
    need two of them: the hints of one mean nothing, or worse, to the readers of the other.
    """
    scheme = "memory" if url is None else urlsplit(url).scheme
    # Redis is imported only where it is used: it costs a start more than all the rest of us.
    match scheme:
        case "memory":
            from store.broker.memory import MemoryBroker

            return MemoryBroker(metrics=metrics)
        case "redis" | "rediss":
            from store.broker.redis import RedisBroker

            return RedisBroker(str(url), namespace=namespace, metrics=metrics, of_others=of_others)
        case "redis+cluster" | "rediss+cluster":
            from store.broker.redis import ClusterBroker

            return ClusterBroker(
                str(url), namespace=namespace, metrics=metrics, of_others=of_others
            )
        case _:
            raise ValueError(
                f"a broker's URL begins with memory://, redis://, rediss://, redis+cluster:// "
                f"or rediss+cluster://, not {scheme}://"
            )
