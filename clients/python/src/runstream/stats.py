"""What has happened to a client's subscriptions, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Stats:
    """What has happened so far; counts only rise."""

    connects: int = 0
    reconnects: int = 0
    resumes: int = 0
    resets: int = 0
    changes: int = 0
    repeats_dropped: int = 0
    gaps: int = 0
    fetches: int = 0
    pauses: int = 0
