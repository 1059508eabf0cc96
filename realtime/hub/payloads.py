"""Payloads as JSON, of the runs that were seen last."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from realtime.protocol import encode_value

CACHE_BYTES: Final = 16_000_000


class Payloads:
    """A bounded cache. A payload never changes, so what is in it is never out of date."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
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
        old = self._found.pop(run_id, None)
        self.size += len(encoded) - (0 if old is None else len(old))
        self._found[run_id] = encoded
        while self.size > self._max_bytes:
            self.size -= len(self._found.popitem(last=False)[1])
        return encoded
