"""Stand-ins: a store that plays transactions, a broker that loses hints, an outlet that records."""

from __future__ import annotations

from tests.doubles.broker import FakeBroker
from tests.doubles.grant import FakeGrant
from tests.doubles.outlet import RecordingOutlet, of_type
from tests.doubles.store import FakeStore, FakeTransaction

__all__ = [
    "FakeBroker",
    "FakeGrant",
    "FakeStore",
    "FakeTransaction",
    "RecordingOutlet",
    "of_type",
]
