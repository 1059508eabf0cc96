"""What a job has said of itself and the server has not been told yet."""

from __future__ import annotations

import threading
from typing import Any, Final

from runstream.commands import Operation

MAX_OPERATIONS: Final = 1_000


class Outbox:
    """Operations on metadata, and tags, merged where a later one makes an earlier one void.

    May be filled from any thread. It has a bound: above it the oldest operations are
    dropped, and counted.
    """

    def __init__(self, max_operations: int = MAX_OPERATIONS) -> None:
        self._max_operations = max_operations
        self._lock = threading.Lock()
        self._operations: list[Operation] = []
        self._tags: dict[str, None] = {}
        self.dropped = 0

    def __bool__(self) -> bool:
        return bool(self._operations or self._tags)

    def put(self, operation: Operation) -> None:
        """Adds an operation, to be done after those that are in here."""
        with self._lock:
            if operation.op in ("set", "delete"):
                # Whatever was said of the same place, or of one inside it, is void.
                self._operations = [
                    earlier
                    for earlier in self._operations
                    if not _is_within(earlier.path, operation.path)
                ]
            elif operation.op == "increment" and self._incremented(operation):
                return
            self._operations.append(operation)
            if len(self._operations) > self._max_operations:
                del self._operations[0]
                self.dropped += 1

    def add_tags(self, tags: tuple[str, ...]) -> None:
        """Adds tags."""
        with self._lock:
            self._tags.update(dict.fromkeys(tags))

    def take(self) -> tuple[list[Operation], list[str]]:
        """All that is in here, no longer in here."""
        with self._lock:
            operations, self._operations = self._operations, []
            tags, self._tags = list(self._tags), {}
            return operations, tags

    def _incremented(self, operation: Operation) -> bool:
        # Adds to an earlier number of the same place, unless something between the two
        # concerns that place.
        for index in range(len(self._operations) - 1, -1, -1):
            earlier = self._operations[index]
            if earlier.path == operation.path and _is_number(earlier.value):
                if earlier.op in ("set", "increment"):
                    total = earlier.value + operation.value
                    self._operations[index] = Operation(earlier.op, earlier.path, total)
                    return True
                return False
            if _is_within(earlier.path, operation.path) or _is_within(operation.path, earlier.path):
                return False
        return False


def _is_within(path: str, outer: str) -> bool:
    return path == outer or path.startswith(outer + ".")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
