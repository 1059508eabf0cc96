"""Ids of whatever is made."""

from __future__ import annotations

import secrets
import threading
import time
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case


class IdMaker:
    """Makes ids that sort by the time of their making, also within one millisecond."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last = 0

    def __call__(self, prefix: str) -> str:
        """A new id: the prefix, `_`, and 26 characters of time and chance."""
        with self._lock:
            # 48 bits of milliseconds, 16 of a counter that keeps the order inside one
            # millisecond (and when the clock steps back), 66 of chance.
            self._last = max((time.time_ns() // 1_000_000) << 16, self._last + 1)
            number = (self._last << 66) | secrets.randbits(66)
        digits = []
        for _ in range(26):
            number, digit = divmod(number, 32)
            digits.append(_ALPHABET[digit])
        return f"{prefix}_{''.join(reversed(digits))}"


new_id: Final = IdMaker()
