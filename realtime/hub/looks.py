"""When each connection is to be looked at without anybody's doing."""

from __future__ import annotations

from realtime.hub.connection import Connection


class Looks:
    """When each connection is to be looked at next, in slots of so many seconds."""

    def __init__(self, slot_s: float) -> None:
        self._slot_s = slot_s
        self._slots: dict[int, dict[Connection, None]] = {}
        self._slot_of: dict[Connection, int] = {}

    def put(self, connection: Connection, at: float) -> None:
        """Not before that time, by the monotonic clock; instead of any other."""
        self.forget(connection)
        slot = self._slot_of[connection] = int(at / self._slot_s) + 1
        self._slots.setdefault(slot, {})[connection] = None

    def forget(self, connection: Connection) -> None:
        """It is not to be looked at any more."""
        slot = self._slot_of.pop(connection, None)
        if slot is not None:
            connections = self._slots[slot]
            del connections[connection]
            if not connections:
                del self._slots[slot]

    def take(self, now: float) -> list[Connection]:
        """Those whose time has come; they are forgotten."""
        slots = [slot for slot in self._slots if slot * self._slot_s <= now]
        connections = [connection for slot in sorted(slots) for connection in self._slots[slot]]
        for connection in connections:
            self.forget(connection)
        return connections
