"""What can go wrong in the gateway, each error with its facts."""

from __future__ import annotations


class RealtimeError(Exception):
    """Base of everything that the gateway's own parts raise."""


class MailboxFull(RealtimeError):
    """A connection is owed more than its mailbox may hold: its reader is too slow."""

    def __init__(self, owed: int, limit: int) -> None:
        super().__init__(f"{owed} bytes are owed; the limit is {limit}")
        self.owed = owed
        self.limit = limit


class BadCursor(RealtimeError):
    """A cursor that no server made, or that was made for another subscription."""


class StoreAway(RealtimeError):
    """The store could not be read for as long as a subscription may wait for it."""


class AlreadyRunning(RealtimeError):
    """A part that runs once was started a second time."""
