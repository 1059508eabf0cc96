"""The bounds and the times of the hub."""

from __future__ import annotations

from dataclasses import dataclass, field

from realtime.hub.payloads import CACHE_BYTES
from realtime.session import SessionSettings


@dataclass(frozen=True, kw_only=True)
class HubSettings:
    """What the hub is told from outside."""

    session: SessionSettings = field(default_factory=SessionSettings)
    connections: int = 100_000
    """More than so many are sent away with 4429."""
    connections_per_address: int | None = None
    connections_per_project: int | None = None
    sse_connections: int | None = None
    unauthenticated: int = 4_000
    """Of more than so many that have no token yet those go that have waited longest."""
    mailbox_bytes: int = 1_000_000
    slow_consumer_s: float = 30.0
    replay_changes: int = 100_000
    payload_cache_bytes: int = CACHE_BYTES
    cold_reads: int = 8
    """How many snapshots, replays and fetches are read at once: fewer than there are readers."""
    join_s: float = 30.0
    """How long a subscription waits for a store that can't be read."""
    linger_s: float = 30.0
    """How long a project is followed on after its last subscription has gone."""
    tail_s: float = 1.0
    tail_degraded_s: float = 0.1
    look_s: float = 0.05
