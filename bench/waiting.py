"""Waiting for what a benchmark needs before it goes on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from bench.load import Lost

WITHIN_S: Final = 60.0
"""Longer than anything here takes on a machine that has other work too."""


async def until(
    condition: Callable[[], bool], *, within_s: float = WITHIN_S, pause_s: float = 0.02
) -> None:
    """Returns once it is true, having looked every `pause_s`. Raises Lost if it does not come
    true in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            raise Lost(f"not so within {within_s:.0f} s: {condition.__qualname__}")
        await asyncio.sleep(pause_s)
