"""How much there is room for in a world: so little, now and then, that it is met."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass
from functools import partial
from typing import Final
from unittest import mock

from realtime import ring, subscription
from realtime.hub import HubSettings
from realtime.hub.joining import joining
from realtime.hub.project import batches, project
from realtime.session import SessionSettings

LONG: Final = 10_000.0
"""Seconds that never pass: the test decides when it is time."""


@dataclass(frozen=True)
class Bounds:
    """Of all gateways of a world, and how many there are."""

    joins_at_once: int
    buffer_changes: int
    """What a joining holds back."""
    ring_run_changes: int
    ring_changes: int
    hub: HubSettings
    pages_of: int | None
    """How many rows a read brings at most."""
    gateways: int
    small_limits: bool
    """Whether snapshots are cut off after a few runs."""

    @staticmethod
    def drawn(chance: random.Random) -> Bounds:
        """Some."""
        return Bounds(
            joins_at_once=chance.choice([1, 50]),
            buffer_changes=chance.choice([3, 10_000]),
            ring_run_changes=chance.choice([4, 1_000]),
            ring_changes=chance.choice([0, 6, 20_000]),
            hub=HubSettings(
                session=SessionSettings(
                    checkpoint_s=0.0, heartbeat_s=chance.choice([0.05, LONG]), authenticate_s=LONG
                ),
                mailbox_bytes=chance.choice([4_000, 1_000_000, 1_000_000]),
                slow_consumer_s=LONG,
                replay_changes=chance.choice([25, 100_000, 100_000]),
                payload_cache_bytes=chance.choice([0, 1_000_000]),
                join_s=LONG,
                linger_s=chance.choice([0.0, LONG]),
                tail_s=LONG,
                tail_degraded_s=LONG,
                look_s=0.0,
            ),
            pages_of=chance.choice([1, 2, None, None]),
            gateways=chance.choice([1, 2, 2]),
            small_limits=chance.random() < 0.3,
        )

    def apply(self, patches: contextlib.ExitStack) -> None:
        """Puts those in place that are no settings, for as long as the patches are."""
        ring_ = partial(ring.Ring, max_changes=self.ring_changes)
        for where, name, value in (
            (batches, "INTERVAL_S", 0.0),
            (joining, "AT_ONCE", self.joins_at_once),
            (subscription, "BUFFER_CHANGES", self.buffer_changes),
            (ring, "RUN_CHANGES", self.ring_run_changes),
            (project, "Ring", ring_),
        ):
            patches.enter_context(mock.patch.object(where, name, value))
