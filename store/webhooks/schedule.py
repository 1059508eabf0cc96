"""When a delivery is tried again."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final

TRIED_FOR: Final = timedelta(hours=24)
"""How long a delivery is tried."""

WAITS_S: Final = (
    5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0, 21_600.0, 28_800.0,
)  # fmt: skip
"""The waits between one try and the next, before chance makes each up to a fifth longer."""

ASKED_MOST_S: Final = 6 * 3_600.0
"""The longest that a receiver may ask us to wait."""


def next_try(
    tries: int, at: datetime, gives_up_at: datetime, asked_s: float | None, chance: float
) -> datetime | None:
    """When to try again after so many tries, None for never; `chance` is from 0 to 1.

    What the receiver has asked for is kept, up to a bound; the last try is made when the time is
    over.
    """
    if at >= gives_up_at:
        return None
    wait_s = WAITS_S[min(tries, len(WAITS_S)) - 1] * (1 + chance / 5)
    if asked_s is not None:
        wait_s = max(wait_s, min(asked_s, ASKED_MOST_S))
    return min(at + timedelta(seconds=wait_s), gives_up_at)


def retry_after_s(
    header: str | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)
) -> float | None:
    """What a `Retry-After` asks for, in seconds; None if it says nothing that can be read."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), 1e9) if len(text) < 20 else math.inf
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max((at - now()).total_seconds(), 0.0)
