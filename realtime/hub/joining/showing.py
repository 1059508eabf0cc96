"""What its history means to a subscription, put on its socket page by page."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from realtime import protocol
from realtime.hub.connection import Connection
from realtime.hub.joining.parcels import Parcels
from realtime.hub.joining.reading import Reading
from realtime.hub.joining.target import Target
from realtime.hub.parcel import Parcel
from realtime.hub.payloads import Payloads
from realtime.hub.services import SLICE
from realtime.mailbox import MESSAGE_BYTES
from realtime.session import Member
from realtime.subscription import Wish
from store.lifecycle import is_final
from store.model import Facet, Group, Horizon, Run


class Showing:
    """Shows one subscription groups and whole runs, and waits for its socket to take them.

    What it shows of the target's end it notes there.
    """

    def __init__(
        self,
        connection: Connection,
        member: Member,
        target: Target,
        payloads: Payloads,
        parcels: Parcels,
        reading: Reading,
    ) -> None:
        self._connection = connection
        self._member = member
        self._target = target
        self._payloads = payloads
        self._parcels = parcels
        self._reading = reading

    async def groups(self, groups: Sequence[Group]) -> None:
        """Puts groups on the socket, slice by slice."""
        for start in range(0, len(groups), SLICE):
            some = groups[start : start + SLICE]
            target, loaded = self._target, dict[str, bytes | None]()
            ending, over = target.ending, target.over
            while True:
                # Until nothing is lacking at one look: while some are read, others may be
                # forgotten.
                while lacking := self.lacking(some, loaded):
                    loaded |= await self.load(lacking)
                wish = self._member.wish
                if await self._put(self.lines(some, loaded), wish):
                    break
                target.ending, target.over = ending, over

    async def runs(self, runs: Sequence[Run]) -> int:
        """Puts whole runs on the socket; returns how many bytes they took."""
        while True:
            wish = self._member.wish
            lines, total = self._snapshot(runs, wish)
            if await self._put(lines, wish):
                return total

    async def one(self, run: Run, wish: Wish) -> bool:
        """Puts the one run on the socket. False, and nothing is put, if its token was replaced
        before it was its turn."""
        lines, _ = self._snapshot([run], wish)
        return await self._put(lines, wish)

    def _snapshot(self, runs: Sequence[Run], wish: Wish) -> tuple[list[bytes], int]:
        member = self._member
        hides_payload = "payload" in wish.hidden
        objects = []
        for run in runs:
            if not wish.grant.covers(run, Facet(run.status, run.tags)):
                continue
            payload = b"null" if hides_payload else self._payload(run)
            fields = protocol.without(protocol.whole_run(run, payload), wish.hidden)
            objects.append(protocol.run_object(fields))
        lines = []
        total = size = start = 0
        for end, each in enumerate(objects):
            if end > start and size + len(each) > MESSAGE_BYTES:
                lines.append(protocol.snapshot(member.id, objects[start:end]))
                start, size = end, 0
            size += len(each) + 1
            total += len(each)
        if start < len(objects):
            lines.append(protocol.snapshot(member.id, objects[start:]))
        return lines, total

    def _payload(self, run: Run) -> bytes:
        if is_final(run.status):
            # There are more of these than of those that live, and few change again.
            return protocol.encode_value(run.payload)
        return self._payloads.put(run.id, run.payload)

    def remember(self, groups: Sequence[Group], horizon: Horizon) -> None:
        """What was shown and is newer than the horizon that stands for the rest."""
        for group in groups:
            if not horizon.seen(group.last.xid):
                shown = self._member.shown
                run_id, version = group.first.run_id, group.last.version
                shown[run_id] = max(shown.get(run_id, 0), version)

    def lacking(self, groups: Sequence[Group], loaded: dict[str, bytes | None]) -> list[str]:
        """The runs among them whose payload it takes to show them."""
        lacking = []
        for group in groups:
            run_id = group.first.run_id
            left = self._member.trim(group)
            if left is None or run_id in loaded:
                continue
            parcel = self._parcels.of(group, self._payloads.get(run_id))
            wish = self._member.wish
            if parcel.lacks_payload(parcel.verdict(wish, left), wish):
                lacking.append(run_id)
        return lacking

    async def load(self, run_ids: Sequence[str]) -> dict[str, bytes | None]:
        """Their payloads, as soon as they can be read; raises StoreAway."""
        project = self._member.wish.selection.project
        return await self._reading.patiently(partial(self._payloads.load, project, run_ids))

    def lines(self, groups: Sequence[Group], loaded: dict[str, bytes | None]) -> list[bytes]:
        """What the groups mean to the subscription, as messages."""
        lines: list[bytes] = []
        member, wish, target = self._member, self._member.wish, self._target
        for group in groups:
            if target.ending is not None:
                break
            left = member.trim(group)
            if left is None:
                continue
            run_id = group.first.run_id
            payload = loaded.get(run_id) or self._payloads.get(run_id)
            if payload is None and run_id in loaded:
                parcel = Parcel(group, None, gone=True)
            else:
                parcel = self._parcels.of(group, payload)
            verdict = parcel.verdict(wish, left)
            lines += [item.line((member.id,)) for item in parcel.items(verdict, wish)]
            if verdict.lost:
                member.lose(run_id)
            target.ending = verdict.end
            target.over = verdict.over or target.over
        return lines

    async def _put(self, lines: Sequence[bytes], wish: Wish) -> bool:
        """Puts lines into the mailbox, and waits until they are out of it. False, and nothing is
        put, if the token was replaced before it was their turn: it may not cover them."""
        if not lines:
            return True
        connection = self._connection
        async with connection.page_turn:
            if not connection.session.holds(self._member):
                return True
            if self._member.wish is not wish:
                return False
            for line in lines:
                connection.mailbox.put_page(line)
            await connection.drained()
            return True
