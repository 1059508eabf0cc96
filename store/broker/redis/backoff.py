"""How long to wait before the next dial. No I/O."""

from __future__ import annotations

import random
from collections.abc import Callable

from store.broker.redis.tuning import Tuning


class Backoff:
    """The first redial at once, then jittered waits that grow: a thousand processes that lost
    the same Redis do not come back in step."""

    def __init__(self, tuning: Tuning, chance: Callable[[], float] = random.random) -> None:
        self._tuning = tuning
        self._chance = chance
        self._failures = 0

    def next_s(self, stood_s: float = 0.0) -> float:
        """The wait after a dial that failed or a connection that stood for so long.

        One that was let in and cut off soon, again and again, is no success: the waits grow.
        """
        if stood_s >= self._tuning.steady_s:
            self._failures = 0
        self._failures += 1
        if self._failures == 1:
            return 0.0
        most = min(
            self._tuning.redial_most_s, self._tuning.redial_s * 2.0 ** min(self._failures - 2, 20)
        )
        return most * (0.5 + 0.5 * self._chance())
