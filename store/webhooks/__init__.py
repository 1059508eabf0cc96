"""Webhooks: endpoints that are told of what happens, out of the change log, at least once."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from time import monotonic
from types import NoneType
from typing import TYPE_CHECKING, Any, Final

from store.broker import Hint
from store.engine import Database
from store.errors import StoreError
from store.once import Key, once
from store.webhooks import deliveries, endpoints, planning, signing
from store.webhooks.addresses import AddressPolicy
from store.webhooks.deliveries import PAUSED_AFTER, Claimed
from store.webhooks.endpoints import ChangedEndpoint, NewEndpoint
from store.webhooks.values import ATTEMPT_S, Delivery, Endpoint, Resolve

if TYPE_CHECKING:
    from store.webhooks.sending import Sender

__all__ = [
    "AddressPolicy",
    "ChangedEndpoint",
    "Delivery",
    "Endpoint",
    "NewEndpoint",
    "Webhooks",
]

log = logging.getLogger(__name__)

LOOK_EVERY_S: Final = 1.0
"""How often the log and the deliveries are looked at without being told."""

AT_ONCE: Final = 4
"""Tries of one endpoint at the same time; of one that fails, one."""

AT_ONCE_IN_ALL: Final = 256
FORGET_EVERY_S: Final = 600.0


class Webhooks:
    """Endpoints and their deliveries; `run` makes and sends these in every server alike."""

    def __init__(
        self,
        database: Database,
        policy: AddressPolicy,
        *,
        resolve: Resolve | None = None,
        attempt_s: float = ATTEMPT_S,
        look_every_s: float = LOOK_EVERY_S,
        paused_after: timedelta = PAUSED_AFTER,
    ) -> None:
        self._database = database
        self._policy = policy
        self._resolve = resolve
        self._attempt_s = attempt_s
        self._look_every_s = look_every_s
        self._paused_after = paused_after
        self._news = asyncio.Event()
        self._due = asyncio.Event()
        self._projects: set[str] = set()
        self._trying: Counter[str] = Counter()
        self._ails: set[str] = set()
        """The endpoints whose last try failed."""

    # ------------------------------------------------------------------------------ endpoints

    async def create(self, project: str, new: NewEndpoint, key: Key | None = None) -> Endpoint:
        """The new endpoint with its secret. Raises Invalid."""
        endpoints.check(new, self._policy)
        made = await self._database.write(once, key, Endpoint, endpoints.create, project, new)
        self._projects.add(project)
        return made

    async def get(self, project: str, id: str) -> Endpoint:
        """Raises NotFound."""
        return await self._database.read(endpoints.get, project, id)

    async def list_endpoints(
        self, project: str, limit: int, after: str | None
    ) -> tuple[list[Endpoint], str | None]:
        """A page, newest first, and the `after` of the next."""
        return await self._database.read(endpoints.page, project, limit, after)

    async def change(
        self, project: str, id: str, asked: ChangedEndpoint, key: Key | None = None
    ) -> Endpoint:
        """The endpoint after the change. Raises Invalid or NotFound."""
        endpoints.check(asked, self._policy)
        changed = await self._database.write(
            once, key, Endpoint, endpoints.change, project, id, asked
        )
        self._due.set()
        return changed

    async def delete(self, project: str, id: str, key: Key | None = None) -> None:
        """Deletes the endpoint with its deliveries. Raises NotFound."""
        await self._database.write(once, key, NoneType, endpoints.delete, project, id)

    async def list_deliveries(
        self, project: str, id: str, limit: int, after: str | None
    ) -> tuple[list[Delivery], str | None]:
        """A page of what the endpoint was sent, newest first. Raises NotFound."""
        await self.get(project, id)
        return await self._database.read(deliveries.page, id, limit, after)

    async def get_delivery(self, project: str, id: str, delivery_id: str) -> Delivery:
        """Raises NotFound."""
        await self.get(project, id)
        return await self._database.read(deliveries.get, id, delivery_id)

    async def retry(
        self, project: str, id: str, delivery_id: str, key: Key | None = None
    ) -> Delivery:
        """Sends it again, now. Raises NotFound."""
        await self.get(project, id)
        found = await self._database.write(once, key, Delivery, deliveries.retry, id, delivery_id)
        self._due.set()
        return found

    # -------------------------------------------------------------------------------- at work

    def told(self, hints: Iterable[Hint]) -> None:
        """Something was committed: looks at the log at once, where there are webhooks."""
        if self._projects and any(hint.change.project in self._projects for hint in hints):
            self._news.set()

    async def run(self) -> None:
        """Makes deliveries and sends them, until cancelled, whatever goes wrong."""
        # Its library costs a start more than all the rest of webhooks.
        from store.webhooks.sending import Sender

        sender = Sender(self._policy, resolve=self._resolve, attempt_s=self._attempt_s)
        self._trying.clear()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep_on("planning", self._news, self.plan))
                tasks.create_task(
                    self._keep_on("sending", self._due, lambda: self._dispatch(tasks, sender))
                )
                tasks.create_task(self._keep_forgetting())
        finally:
            await sender.close()

    async def _keep_on(self, what: str, told: asyncio.Event, work: Callable[[], Any]) -> None:
        while True:
            told.clear()
            try:
                await work()
            except StoreError as error:
                log.warning("webhooks, %s: %s", what, error)
            except Exception:
                # Messages that nobody sends would be the price of giving up.
                log.exception("webhooks, %s", what)
            try:
                async with asyncio.timeout(self._look_every_s * random.uniform(0.8, 1.2)):
                    await told.wait()
            except TimeoutError:
                pass

    async def plan(self) -> int:
        """Turns what is new in the log into deliveries; how many these are."""
        self._projects = set(await self._database.read(planning.projects))
        made = 0
        for project in sorted(self._projects):
            while planned := await self._database.read(planning.plan, project):
                if planned.lost is not None:
                    log.error(
                        "webhooks of project %s: part of the log is gone (%s) and cannot be told",
                        project,
                        planned.lost,
                    )
                if await self._database.write(planning.keep, planned):
                    made += len(planned.rows)
                if not planned.rows and not planned.more:
                    break
        if made:
            self._due.set()
        return made

    async def _dispatch(self, tasks: asyncio.TaskGroup, sender: Sender) -> None:
        """Begins all tries that are due and for which there is room."""
        full = [id for id in self._trying if self._room(id) <= 0]
        waiting = await self._database.read(deliveries.due, full)
        random.shuffle(waiting)
        for id in waiting:
            room = min(self._room(id), AT_ONCE_IN_ALL - self._trying.total())
            if room <= 0:
                continue
            claimed = await self._database.write(
                deliveries.claim, id, room, secrets.token_hex(8)
            )  # fmt: skip
            for one in claimed:
                if one.endpoint.failing_since is not None:
                    self._ails.add(id)
                self._trying[id] += 1
                tasks.create_task(self._try(sender, one))

    def _room(self, id: str) -> int:
        """How many more tries of the endpoint may begin."""
        return (1 if id in self._ails else AT_ONCE) - self._trying[id]

    async def _try(self, sender: Sender, claimed: Claimed) -> None:
        endpoint, delivery = claimed.endpoint, claimed.delivery
        at = datetime.now(UTC)
        try:
            headers = signing.headers(
                endpoint.keys(at), delivery.id, int(at.timestamp()), delivery.body
            )
            answer = await sender.post(endpoint.url, headers, delivery.body)
            if answer.is_taken:
                self._ails.discard(endpoint.id)
            else:
                self._ails.add(endpoint.id)
            await self._database.write(
                deliveries.note, claimed, at, answer, random.random(), self._paused_after
            )
        except Exception as error:
            # Whatever came of it, the claim runs out, and it is tried again: at least once.
            log.warning("webhook %s, delivery %s: %s", endpoint.id, delivery.id, error)
        finally:
            self._trying[endpoint.id] -= 1
            if self._trying[endpoint.id] <= 0:
                del self._trying[endpoint.id]
            self._due.set()

    async def _keep_forgetting(self) -> None:
        looked = 0.0
        while True:
            if monotonic() - looked > FORGET_EVERY_S:
                looked = monotonic()
                try:
                    while await self._database.write(deliveries.forget):
                        pass
                except StoreError as error:
                    log.warning("webhooks, forgetting: %s", error)
            await asyncio.sleep(FORGET_EVERY_S / 10)
