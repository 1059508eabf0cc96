"""How patient the session is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


@dataclass(frozen=True)
class Timing:
    """How patient the session is, in seconds."""

    base_delay_s: float = 0.1
    max_delay_s: float = 10.0
    # For a server that says it is too busy: coming back quickly would make it worse.
    busy_base_delay_s: float = 1.0
    busy_max_delay_s: float = 60.0
    greeting_s: float = 10.0
    # After so many heartbeats of silence the server is asked, and a half later it is gone.
    silent_heartbeats: float = 2.0
    grace_heartbeats: float = 0.5
    min_grace_s: float = 0.5
    # With no subscription left the connection is kept a little, in case of another.
    linger_s: float = 30.0
    # A token is replaced when this part of its life is over, or when so little is left.
    refresh_at: float = 0.8
    refresh_before_s: float = 30.0
    busy_retries: int = 5


def seconds_to_wait(retry_after: str | None, now: datetime) -> float | None:
    """What a `Retry-After` asks for, which is seconds or a date; None if it can't be read."""
    if not retry_after:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            at = parsedate_to_datetime(retry_after)
        except ValueError:
            return None
        seconds = ((at if at.tzinfo else at.replace(tzinfo=UTC)) - now).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


class Backoff:
    """How long to wait before the next try; longer with each failure, and by chance."""

    def __init__(self, timing: Timing, chance: Callable[[], float]) -> None:
        self._timing = timing
        self._chance = chance
        self._failures = 0

    def reset(self) -> None:
        """It works again: the next failure is the first."""
        self._failures = 0

    def next(self, *, busy: bool = False, at_least: float | None = None) -> float:
        """The pause after one more failure."""
        delay = self.after(self._failures, busy=busy)
        self._failures += 1
        return delay if at_least is None else at_least + delay

    def after(self, failures: int, *, busy: bool) -> float:
        """The pause after so many failures; `busy` if the server said that it is."""
        timing = self._timing
        base = timing.busy_base_delay_s if busy else timing.base_delay_s
        cap = timing.busy_max_delay_s if busy else timing.max_delay_s
        full: float = min(cap, base * 2.0 ** min(failures, 30))
        # Full jitter: of many who lost the same server, few come back at the same moment.
        # One who was told to stay away stays away for half of it at least.
        return full * (0.5 + self._chance() / 2) if busy else full * self._chance()
