"""Which id stands for which subscription, on one connection."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from runstream import protocol
from runstream.stream import Stream


class Roster:
    """Gives ids to streams, from 1, and takes each back when the server has ended it.

    The lowest free id is given first: servers build one frame for all who use the same id.
    """

    def __init__(self) -> None:
        self.by_id: dict[int, Stream] = {}
        self._free: list[int] = []
        self._last = 0
        # No stream any more, but the server has not said `end`: what still comes for
        # such an id must not be taken for another stream's.
        self._leaving: set[int] = set()

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

    def ended(self, stream_id: int) -> None:
        """The server has said the last about this id."""
        if self.by_id.pop(stream_id, None) is not None or stream_id in self._leaving:
            self._leaving.discard(stream_id)
            heapq.heappush(self._free, stream_id)

    def leave(self, stream: Stream) -> Iterable[protocol.Unsubscribe]:
        """Takes the stream from its id, if it has one; the message that says so."""
        stream_id = stream.id
        if stream_id is None or self.by_id.get(stream_id) is not stream:
            return ()
        del self.by_id[stream_id]
        self._leaving.add(stream_id)
        return (protocol.Unsubscribe(stream_id),)
