"""Who is let in: how many connections there may be, in all and of one kind, address or project."""

from __future__ import annotations

import time
from collections import OrderedDict

from realtime.hub.connection import Connection
from realtime.hub.measures import Measures
from realtime.hub.settings import HubSettings
from realtime.limits import EVICTED_AFTER_S, FLOOD, Shares, TooMany
from realtime.protocol import CloseCode


class Admission:
    """Counts the connections; one for which there is no room is closed, and told so."""

    def __init__(self, settings: HubSettings, measures: Measures) -> None:
        self._settings = settings
        self._measures = measures
        self._all = 0
        self._kinds: dict[str, int] = {}
        self._unauthenticated: OrderedDict[Connection, float] = OrderedDict()
        """Since when each waits that has shown no token."""
        self._of_address = Shares(
            settings.connections_per_address, "too many connections from this address"
        )
        self._of_project = Shares(
            settings.connections_per_project, "too many connections of this project"
        )
        self._held: dict[Connection, list[tuple[Shares, str]]] = {}

    def admit(self, connection: Connection, address: str | None) -> bool:
        """A connection has come. Whether there is room for it; else it is closed, and told so."""
        settings, kind = self._settings, connection.kind
        self._count(kind, 1)
        if self._all > settings.connections:
            connection.close(CloseCode.TOO_MANY, "too many connections")
            return False
        if (
            kind == "sse"
            and settings.sse_connections is not None
            and self._kinds[kind] > settings.sse_connections
        ):
            connection.close(CloseCode.TOO_MANY, "too many streams of server-sent events")
            return False
        self._unauthenticated[connection] = time.monotonic()
        if len(self._unauthenticated) > settings.unauthenticated:
            # A good client shows its token at once.
            eldest, since = next(iter(self._unauthenticated.items()))
            waited_s = time.monotonic() - since
            if waited_s >= EVICTED_AFTER_S or len(self._unauthenticated) > (
                FLOOD * settings.unauthenticated
            ):
                del self._unauthenticated[eldest]
                eldest.close(CloseCode.TOO_MANY, "too many connections without a token")
        return address is None or self._share(connection, self._of_address, address)

    def _count(self, kind: str, more: int) -> None:
        self._all += more
        self._kinds[kind] = self._kinds.get(kind, 0) + more
        self._measures.connections.labels(kind=kind).set(self._kinds[kind])

    def _share(self, connection: Connection, shares: Shares, name: str) -> bool:
        try:
            shares.take(name)
        except TooMany as refused:
            connection.close(CloseCode.TOO_MANY, str(refused))
            return False
        self._held.setdefault(connection, []).append((shares, name))
        return True

    def opened(self, connection: Connection) -> None:
        """It is authenticated, and there may be too many of its project."""
        self._unauthenticated.pop(connection, None)
        project = connection.project
        if project is not None:
            self._share(connection, self._of_project, project)

    def closed(self, connection: Connection) -> None:
        """One that has come is over; its place is free."""
        self._count(connection.kind, -1)
        self._unauthenticated.pop(connection, None)
        for shares, name in self._held.pop(connection, ()):
            shares.give_back(name)
