"""A token bucket: how often something may happen."""

from __future__ import annotations


class Bucket:
    """Lets `rate` things a second through, and `burst` of them at once."""

    __slots__ = ("_at", "_left", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._left = burst
        self._at = now

    def take(self, now: float, cost: float = 1.0) -> float:
        """Takes one, and 0 is returned; or none, and then it is how long to wait."""
        self._left = min(self.burst, self._left + (now - self._at) * self.rate)
        self._at = now
        if self._left >= cost:
            self._left -= cost
            return 0.0
        return (cost - self._left) / self.rate

    def give_back(self, cost: float = 1.0) -> None:
        """It was not used after all."""
        self._left = min(self.burst, self._left + cost)
