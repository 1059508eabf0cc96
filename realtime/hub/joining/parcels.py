"""Groups on their way to those who join."""

from __future__ import annotations

from typing import Final

from realtime.hub.parcel import Parcel
from store.model import Group

PARCELS: Final = 5_000


class Parcels:
    """Gives each group as one parcel to all who are shown it now."""

    def __init__(self) -> None:
        self._parcels: dict[tuple[int, bool], Parcel] = {}

    def of(self, group: Group, payload: bytes | None) -> Parcel:
        """The group, with the payload of its run."""
        key = (id(group), payload is None)
        parcel = self._parcels.get(key)
        if parcel is None:
            if len(self._parcels) >= PARCELS:
                self._parcels.clear()
            parcel = self._parcels[key] = Parcel(group, payload)
        return parcel

    def clear(self) -> None:
        """Nobody joins any more."""
        self._parcels.clear()
