"""Which id stands for which subscription, on one connection."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from enum import Enum, auto

from runstream import protocol
from runstream.stream import Stream


class _Owed(Enum):
    """What the server has still to say about an id that is no stream's any more."""

    ANSWER = auto()
    """It was unsubscribed: `end` unsubscribed, unless the server has ended it meanwhile."""
    ERROR = auto()
    """The server has, so it knows no such id when it is unsubscribed: `error` not_found."""
    END = auto()
    """It was refused as not_found, which is said twice."""


class Roster:
    """Gives ids to streams, from 1, and takes each back when the server has said its last word of it.

    The lowest free id is given first: servers build one frame for all who use the same id.
    """

    def __init__(self) -> None:
        self.by_id: dict[int, Stream] = {}
        self._free: list[int] = []
        self._last = 0
        # No stream any more, but the server has not said its last: what still comes for
        # such an id must not be taken for another stream's.
        self._leaving: dict[int, _Owed] = {}

    def clear(self) -> None:
        """Another connection: all ids are free."""
        self.by_id.clear()
        self._leaving.clear()
        self._free.clear()
        self._last = 0

    def join(self, stream: Stream) -> protocol.Wish:
        """Gives the stream an id; the message that asks for it."""
        if self._free:
            stream_id = heapq.heappop(self._free)
        else:
            self._last += 1
            stream_id = self._last
        self.by_id[stream_id] = stream
        return stream.joining(stream_id)

    def free(self, stream_id: int) -> None:
        """Nothing more comes for this id."""
        had = self.by_id.pop(stream_id, None) or self._leaving.pop(stream_id, None)
        if had is not None:
            heapq.heappush(self._free, stream_id)

    def ended(self, stream_id: int, reason: str) -> None:
        """The server has said `end` about this id."""
        if self._leaving.get(stream_id) is _Owed.ANSWER and reason != "unsubscribed":
            self._leaving[stream_id] = _Owed.ERROR
        else:
            self.free(stream_id)

    def refused(self, stream_id: int, code: str) -> None:
        """The server has said `error` about this id."""
        is_not_found = code == "not_found"
        match self._leaving.get(stream_id):
            case None if is_not_found and stream_id in self.by_id:
                del self.by_id[stream_id]
                self._leaving[stream_id] = _Owed.END
            case _Owed.ANSWER if not is_not_found:
                self._leaving[stream_id] = _Owed.ERROR
            case _Owed.ANSWER | _Owed.END:
                # Said of the subscription, and `end` says it once more.
                pass
            case _:
                self.free(stream_id)

    def leave(self, stream: Stream) -> Iterable[protocol.Unsubscribe]:
        """Takes the stream from its id, if it has one; the message that says so."""
        stream_id = stream.id
        if stream_id is None or self.by_id.get(stream_id) is not stream:
            return ()
        del self.by_id[stream_id]
        self._leaving[stream_id] = _Owed.ANSWER
        return (protocol.Unsubscribe(stream_id),)
