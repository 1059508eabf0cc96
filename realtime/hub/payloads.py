"""Payloads as JSON, of the runs that were seen last."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeAlias

from realtime.protocol import encode_value

CACHE_BYTES: Final = 16_000_000
LOAD_RUNS: Final = 200
"""How many payloads are read at once."""

_OVERHEAD: Final = 250
"""What an entry takes beside its payload, in bytes: its run's id, and its place."""

Read: TypeAlias = Callable[[str, Sequence[str]], Awaitable[dict[str, Any]]]
"""The payloads of these runs of a project; raises Unavailable while they can't be read."""


class Payloads:
    """A bounded cache. A payload never changes, so what is in it is never out of date.

    `max_bytes` are of memory: the smaller the payloads, the more of it goes into keeping them.
    """

    def __init__(self, read: Read, max_bytes: int = CACHE_BYTES) -> None:
        self._read = read
        self._max_bytes = max_bytes
        self._found: OrderedDict[str, bytes] = OrderedDict()
        self.size = 0

    def get(self, run_id: str) -> bytes | None:
        """The run's payload, if it is at hand."""
        found = self._found.get(run_id)
        if found is not None:
            self._found.move_to_end(run_id)
        return found

    def put(self, run_id: str, payload: Any) -> bytes:
        """Keeps it, and returns it as JSON."""
        encoded = encode_value(payload)
        self.drop(run_id)
        self.size += _size(encoded)
        self._found[run_id] = encoded
        while self.size > self._max_bytes:
            self.size -= _size(self._found.popitem(last=False)[1])
        return encoded

    def drop(self, run_id: str) -> None:
        """Keeps it no longer, if it was kept."""
        old = self._found.pop(run_id, None)
        if old is not None:
            self.size -= _size(old)

    async def load(self, project: str, run_ids: Sequence[str]) -> dict[str, bytes | None]:
        """The payloads of these runs, read where they are not at hand; None for a run that was
        deleted. Raises Unavailable."""
        loaded: dict[str, bytes | None] = {id: self.get(id) for id in run_ids}
        missing = [id for id, payload in loaded.items() if payload is None]
        for start in range(0, len(missing), LOAD_RUNS):
            found = await self._read(project, missing[start : start + LOAD_RUNS])
            for id, payload in found.items():
                loaded[id] = self.put(id, payload)
        return loaded


def _size(payload: bytes) -> int:
    return len(payload) + _OVERHEAD
