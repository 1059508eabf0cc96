"""Counts what is published and what is heard, so that what was lost shows as a hole. No I/O."""

from __future__ import annotations

from enum import Enum
from typing import Final

PUBLISHERS: Final = 256
"""So many publishers are remembered for a channel. One that is forgotten is unknown when it is
heard again, which costs one read."""


class Heard(Enum):
    """What the number of a message tells."""

    NEXT = "the one after the last"
    OLD = "not newer than the last: doubled or late, and no loss"
    HOLE = "at least one before it has not come"
    UNKNOWN = "the first of this publisher: what was before is not known"


class Numbers:
    """The publisher's side: messages of a channel are numbered 1, 2, 3… whether sent or lost."""

    def __init__(self) -> None:
        self._last: dict[bytes, int] = {}

    def next(self, channel: bytes) -> int:
        number = self._last.get(channel, 0) + 1
        self._last[channel] = number
        return number


class Counters:
    """The reader's side: the last number heard of each publisher on each channel.

    A new connection changes nothing here: what was published while there was none is a hole,
    found with the first message after it.
    """

    def __init__(self, publishers: int = PUBLISHERS) -> None:
        self._publishers = publishers
        self._last: dict[bytes, dict[bytes, int]] = {}

    def hear(self, channel: bytes, publisher: bytes, number: int) -> Heard:
        of_channel = self._last.get(channel)
        if of_channel is None:
            of_channel = self._last[channel] = {}
        last = of_channel.get(publisher)
        if last is None:
            # Processes come and go, each with an id of its own: the longest known goes first.
            if len(of_channel) >= self._publishers:
                del of_channel[next(iter(of_channel))]
            of_channel[publisher] = number
            return Heard.UNKNOWN
        if number <= last:
            return Heard.OLD
        of_channel[publisher] = number
        return Heard.NEXT if number == last + 1 else Heard.HOLE

    def forget(self, channel: bytes) -> None:
        """Of a channel that is not listened to any more."""
        self._last.pop(channel, None)
