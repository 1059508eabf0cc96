"""Whom a group concerns, and what each of them is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from realtime.errors import MailboxFull
from realtime.hub.cohorts import SMALLEST, Cohorts
from realtime.hub.connection import connection_of, end, look_again
from realtime.hub.parcel import Item, Parcel
from realtime.hub.services import Services
from realtime.matching import Index
from realtime.protocol import Delivery
from realtime.session import Member
from realtime.subscription import Phase
from store.model import Group


class Dispatch:
    """Shows groups to the subscriptions of a project that they match: puts what each is told into
    its connection's mailbox, or gives it to its cohort; holds back what is for those who join."""

    def __init__(
        self,
        services: Services,
        index: Index[Member],
        cohorts: Cohorts,
        seems_over: Callable[[Member], None],
        remembers: Callable[[Member], None],
    ) -> None:
        self._services = services
        self._index = index
        self._cohorts = cohorts
        self._seems_over = seems_over
        """The stream is over once the tail has passed."""
        self._remembers = remembers
        """It remembers what it was shown until the tail has passed."""
        self._gathers = False

    def show(self, group: Group, loaded: Mapping[str, bytes | None]) -> bool:
        """Shows it to whom it concerns. False, and nothing is done, if that takes a payload that
        is neither loaded nor at hand."""
        members = self._index.candidates(group)
        if not members:
            return True
        run_id = group.first.run_id
        payload = loaded.get(run_id) or self._services.payloads.get(run_id)
        gone = payload is None and run_id in loaded
        if not self._share(Parcel(group, payload, gone=gone), members):
            return False
        if not self._gathers:
            self.spread()
        return True

    def gather(self) -> None:
        """Until `spread`, which comes in the same turn, mailboxes may be owed lines that are not
        in them: consecutive changes that concern the same members go into each with one call."""
        self._gathers = True

    def spread(self) -> None:
        """Whatever was gathered is in the mailboxes now."""
        self._gathers = False
        self._cohorts.spread()

    def _share(self, parcel: Parcel, members: list[Member]) -> bool:
        """Tells all at once that are to be told the same, and the others one by one."""
        if len(members) < SMALLEST:
            self._cohorts.spread()
            return self._deliver(parcel, members)
        audience = self._cohorts.audience(members)
        verdicts = [parcel.verdict(cohort.wish) for cohort in audience.cohorts]
        for cohort, verdict in zip(audience.cohorts, verdicts, strict=True):
            if parcel.lacks_payload(verdict, cohort.wish):
                return False
            if verdict.is_for_each:
                # Some are over with it: what they are owed comes before their end. Or each has to
                # remember for itself what it can't be shown.
                self._cohorts.spread()
                return self._deliver(parcel, members)
        if audience.others and not self._deliver(parcel, audience.others):
            return False
        told = 0
        for cohort, verdict in zip(audience.cohorts, verdicts, strict=True):
            for item in parcel.items(verdict, cohort.wish):
                self._cohorts.owe(cohort, item.line((cohort.id,)))
            if verdict.kind is not None:
                told += len(cohort)
        if told:
            self._services.delivered(parcel.group.last, told)
        return True

    def _deliver(self, parcel: Parcel, members: Sequence[Member]) -> bool:
        group = parcel.group
        verdicts = []
        joining = []
        for member in members:
            if member.phase is Phase.LIVE:
                if member.is_settled:
                    verdict = parcel.verdict(member.wish)
                else:
                    left = member.trim(group)
                    if left is None:
                        continue
                    verdict = parcel.verdict(member.wish, left)
                if parcel.lacks_payload(verdict, member.wish):
                    return False
                if verdict.kind is not None or verdict.is_for_each:
                    verdicts.append((member, verdict))
            elif member.phase is Phase.JOINING:
                joining.append(member)
        for member in joining:
            member.hold(group)
        if not verdicts:
            return True
        if len(verdicts) == 1:
            member, verdict = verdicts[0]
            _tell([member], parcel.items(verdict, member.wish))
        else:
            # Subscriptions of one connection that are told the same share a message.
            owed: dict[tuple[int, int], tuple[list[Member], Sequence[Item]]] = {}
            for member, verdict in verdicts:
                items = parcel.items(verdict, member.wish)
                key = (id(member.mailbox), id(items))
                if key in owed:
                    owed[key][0].append(member)
                else:
                    owed[key] = ([member], items)
            for told, items in owed.values():
                _tell(told, items)
        self._services.delivered(group.last, len(verdicts))
        for member, verdict in verdicts:
            if verdict.lost:
                member.lose(group.first.run_id)
                self._remembers(member)
            if verdict.unsure:
                look_again(member)
            if verdict.end is not None:
                end(member, verdict.end)
            elif verdict.over is not None:
                member.over = verdict.over
                self._seems_over(member)
        return True


def _tell(members: list[Member], items: Sequence[Item]) -> None:
    """Puts what is to be said into the mailbox of one connection."""
    mailbox = members[0].mailbox
    every = tuple(each.id for each in members if each.delivery is Delivery.EVERY)
    try:
        for item in items:
            if every:
                mailbox.put(item.line(every))
            if len(every) < len(members):
                for member in members:
                    if member.delivery is Delivery.LATEST:
                        mailbox.put_latest(
                            member.id,
                            item.run_id,
                            item.kind,
                            item.fields,
                            item.line((member.id,)),
                        )
    except MailboxFull:
        connection_of(members[0]).overflowed()
