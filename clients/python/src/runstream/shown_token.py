"""The token that a session shows: how long it holds, and which were refused."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Final

from runstream.timing import Timing

MAX_REFUSED: Final = 3


class ShownToken:
    """A fixed token, or the last one of a provider."""

    def __init__(
        self,
        token: str | None,
        *,
        has_provider: bool,
        timing: Timing,
        wall_clock: Callable[[], datetime],
    ) -> None:
        self.value = token
        self.has_provider: Final = has_provider
        self.refresh_at: float | None = None
        """When the provider should be asked for the next one."""
        self.is_asked_early = False
        """Whether it has been asked, while this one still holds."""
        self._timing = timing
        self._wall_clock = wall_clock
        self._refused: list[str] = []
        self._ends_at: float | None = None

    @property
    def is_needed(self) -> bool:
        """Whether the provider must be asked before there is anything to show."""
        return self.has_provider and self.value is None

    def was_refused(self, token: str) -> bool:
        """Whether the server has refused this one since it last accepted any."""
        return token in self._refused

    def refused(self) -> bool:
        """The server refuses it. False if it is no use to ask for another."""
        if not self.has_provider:
            return False
        if self.value is not None:
            self._refused.append(self.value)
        self.value = None
        # A provider whose every token is refused gives wrong ones.
        return len(self._refused) < MAX_REFUSED

    def accepted(self, ends_at: datetime | None, now: float) -> None:
        """The server accepts it, until then."""
        self._refused.clear()
        self._ends_at = self.refresh_at = None
        if ends_at is None or not self.has_provider:
            return
        # The only place where the wall clock counts: the server says a time of day.
        left_s = (ends_at - self._wall_clock()).total_seconds()
        if left_s <= 0:
            # It was accepted just now, so it is our clock that is wrong. The server
            # will say when it is over.
            return
        self._ends_at = now + left_s
        early_s = min(self._timing.refresh_before_s, left_s * (1 - self._timing.refresh_at))
        self.refresh_at = now + left_s - early_s

    def ask_early(self) -> None:
        """The provider is being asked for the next one."""
        self.refresh_at = None
        self.is_asked_early = True

    def stays(self, now: float) -> None:
        """There is no other for now: half of what is left may pass until it is asked again."""
        self.is_asked_early = False
        left_s = 0.0 if self._ends_at is None else self._ends_at - now
        self.refresh_at = now + max(1.0, left_s / 2)

    def replaced(self, token: str) -> None:
        """This is the one to show from now on."""
        self.is_asked_early = False
        self.value = token

    def lost(self) -> None:
        """The connection on which it was shown is gone."""
        self.refresh_at = None
        self.is_asked_early = False

    def start_anew(self, *, with_fresh: bool) -> None:
        """What was is forgotten; also the token itself, if it is to be a fresh one."""
        self._refused.clear()
        if with_fresh and self.has_provider:
            self.value = None
