"""Puts the parts together; the only file that knows them all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from starlette.applications import Starlette
from starlette.middleware import Middleware

from realtime import api
from realtime.api.origins import Origins
from realtime.auth import Authority
from realtime.metrics import Metrics
from realtime.settings import Settings
from store import Retention, RunStore, open_broker
from store.access import Access
from store.broker import Broker, Hint
from store.engine import open_database
from store.schema import migrate
from store.tables import log_state

log = logging.getLogger(__name__)

_RESTART_S: Final = 1.0


class Gateway:
    """One server process: its parts, from the start until it has drained.

    The parts are there between `start` and `close`; before the start nobody calls.
    """

    store: RunStore
    access: Access
    authority: Authority

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.draining = False
        self._broker: Broker | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All parts, at work until the block is left."""
        settings = self.settings
        database = await open_database(settings.database)
        try:
            await migrate(database)
            namespace = settings.redis_namespace
            if namespace is None:
                namespace = await database.read(_namespace)
            self._broker = broker = open_broker(settings.redis, namespace=namespace)
            self.store = RunStore(
                database,
                broker,
                limits=settings.limits,
                retention=_retention(settings),
                committed=self.metrics.committed,
            )
            await self.store.housekeeping.prepare()
            self.access = Access(database)
            self.authority = Authority(
                self.access, first_key=settings.api_key, loopback=settings.is_loopback
            )
            await self.authority.start()
        except BaseException:
            await database.close()
            raise
        await broker.start(_Nobody())
        parts: dict[str, Callable[[], Awaitable[None]]] = {
            "timers": self.store.timers.run,
            "housekeeping": self.store.housekeeping.run,
            "access": self.authority.run,
        }
        tasks = [
            asyncio.create_task(_kept_running(name, run), name=name) for name, run in parts.items()
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await broker.close()
            await self.store.close()

    async def drain(self) -> None:
        """Sends the connections away. No more new ones are taken from now on."""
        self.draining = True

    # What the health calls ask.

    @property
    def broker(self) -> str:
        return "ok" if self._broker is None else str(self._broker.state)

    async def check_database(self) -> None:
        await self.store.check()

    def metrics_text(self) -> bytes:
        self.metrics.broker_up.set(self.broker == "ok")
        return self.metrics.text()


def create_app(settings: Settings) -> Starlette:
    """The ASGI application; `app.state.gateway` is its Gateway."""
    gateway = Gateway(settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with gateway.running():
            services = api.Services(
                store=gateway.store,
                authority=gateway.authority,
                settings=settings,
                metrics=gateway.metrics,
                health=gateway,
            )
            app.router.routes[:] = api.routes(services)
            yield

    app = Starlette(
        lifespan=lifespan,
        exception_handlers={404: api.no_such_route},
        middleware=[
            Middleware(
                Origins,
                is_open=lambda: gateway.authority.open,
                allowed=settings.allowed_origins,
            )
        ],
    )
    app.router.redirect_slashes = False
    app.state.gateway = gateway
    return app


async def _kept_running(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """A part that fails is said so, and begun again: the others go on meanwhile."""
    while True:
        try:
            await run()
            return
        except Exception:
            log.exception("%s failed and begins again in %s s", name, _RESTART_S)
        await asyncio.sleep(_RESTART_S)


def _retention(settings: Settings) -> Retention:
    final = settings.delete_final_after_days
    return Retention(
        changes=timedelta(days=settings.retention_days),
        final_runs=None if final is None else timedelta(days=final),
    )


def _namespace(connection: Connection) -> str:
    # Two databases on one Redis must not hear each other, and all processes on one must.
    epoch = connection.scalar(sa.select(log_state.c.epoch))
    return f"runstream:{epoch}"


class _Nobody:
    """Listens to hints where no stream is served."""

    def hinted(self, hints: Sequence[Hint]) -> None:
        pass

    def suspect(self, project: str | None, reason: Any) -> None:
        pass
