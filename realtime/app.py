"""Puts the parts together; the only file that knows them all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from realtime import VERSION, api, dash, sse
from realtime.api.origins import Origins
from realtime.auth import Authority, Grant
from realtime.gateway import WebSocketEndpoint
from realtime.hub import Hub, HubSettings
from realtime.limits import RequestLimits
from realtime.metrics import Metrics
from realtime.session import SessionSettings
from realtime.settings import Settings
from store import Retention, RunStore, open_broker
from store.access import Access
from store.broker import Broker
from store.engine import Database, open_database
from store.schema import migrate
from store.tables import log_state
from store.webhooks import AddressPolicy

log = logging.getLogger(__name__)

_RESTART_S: Final = 1.0
_SPARED_READERS: Final = 4
"""Connections that joins and resumes leave to the tail, calls, timers and webhooks."""

TAIL_S: Final = 1.0
TAIL_ALONE_S: Final = 0.5
"""Without Redis the tail is how other processes' changes come: they are to take a second at most,
with the read and the way to the client."""


class Runtime:
    """One server process: its parts, from the start until it has drained.

    The parts are there while it is `running`; before that nobody calls.
    """

    store: RunStore
    access: Access
    authority: Authority
    hub: Hub

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.limits = RequestLimits(
            key_per_s=settings.key_requests_per_s,
            token_per_s=settings.token_requests_per_s,
            guesses_per_s=settings.guesses_per_s,
            bodies_bytes=settings.bodies_bytes,
            body_patience_s=settings.body_patience_s,
        )
        self.draining = False
        self.has_failed = False
        """A part failed without which nothing goes on: the process is to end."""
        self._broker: Broker | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """All parts, at work until the block is left."""
        database = await open_database(
            self.settings.database, postgres_readers=self.settings.postgres_readers
        )
        try:
            await migrate(database)
            broker = await self._make(database)
        except BaseException:
            await database.close()
            raise
        tasks = [
            asyncio.create_task(self._run_hub(), name="hub"),
            asyncio.create_task(_kept_running("timers", self.store.timers.run)),
            asyncio.create_task(_kept_running("housekeeping", self.store.housekeeping.run)),
            asyncio.create_task(_kept_running("claims", self.store.claims.run)),
            asyncio.create_task(_kept_running("webhooks", self.store.webhooks.run)),
            asyncio.create_task(_kept_running("artifacts", self.store.artifacts.run)),
            asyncio.create_task(_kept_running("access", self.authority.run)),
        ]
        try:
            await self.hub.ready.wait()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await broker.close()
            await self.store.close()

    async def _make(self, database: Database) -> Broker:
        settings = self.settings
        namespace = settings.redis_namespace
        if namespace is None:
            namespace = await database.read(_namespace)
        self._broker = broker = open_broker(
            settings.redis,
            namespace=namespace,
            metrics=self.metrics.broker,
            # Claims and webhooks that wait here for what is done elsewhere.
            of_others=lambda hints: self.store.told(hints),
        )
        self.store = RunStore(
            database,
            broker,
            limits=settings.limits,
            retention=_retention(settings),
            addresses=AddressPolicy(
                loopback=settings.is_loopback or settings.webhook_private_addresses,
                private=settings.webhook_private_addresses,
            ),
            blobs=settings.artifacts,
            artifact_bytes=settings.artifact_bytes,
            committed=self.metrics.committed,
        )
        await self.store.housekeeping.prepare()
        self.access = Access(database)
        self.authority = Authority(
            self.access,
            first_key=settings.api_key,
            loopback=settings.is_loopback,
            guesses=self.limits.guesses,
        )
        await self.authority.start()
        self.hub = Hub(self.store, broker, settings=_hub_settings(settings), measures=self.metrics)
        self.authority.on_revocation(lambda: self.hub.revoked(self._stands))
        return broker

    def _stands(self, grant: object) -> bool:
        return isinstance(grant, Grant) and self.authority.stands(grant)

    async def _run_hub(self) -> None:
        try:
            await self.hub.run()
        except Exception:
            # Its streams are gone with it; they resume at another process, or at the next.
            log.critical("the hub failed", exc_info=True)
            self.has_failed = True
            self.hub.ready.set()

    async def drain(self, deadline_s: float) -> None:
        """Sends the streams away; returns when all are gone, or after the deadline."""
        self.draining = True
        await self.store.claims.close()
        await self.hub.drain(deadline_s)

    # What the health calls ask.

    @property
    def broker(self) -> str:
        return "ok" if self._broker is None else str(self._broker.state)

    async def check_database(self) -> None:
        await self.store.check()

    def metrics_text(self) -> bytes:
        self.metrics.tasks.set(len(asyncio.all_tasks()))
        return self.metrics.text()


class _Application(Starlette):
    """Starlette's application, but that calls of the API's resources go straight to them."""

    resources: api.Resources | None = None
    """There while the application runs."""
    _straight: ASGIApp | None = None

    def open(self, resources: api.Resources, guarded: Callable[[ASGIApp], ASGIApp]) -> None:
        """From now on calls of these resources are answered by them, behind the guard."""
        self.resources = resources
        self._straight = guarded(_carry_out)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.resources is not None and self._straight is not None:
            endpoint = self.resources.find(scope)
            if endpoint is not None:
                scope["app"] = self
                scope["endpoint"] = endpoint
                await self._straight(scope, receive, send)
                return
        await super().__call__(scope, receive, send)


async def _carry_out(scope: Scope, receive: Receive, send: Send) -> None:
    endpoint: ASGIApp = scope["endpoint"]
    await endpoint(scope, receive, send)


def create_app(settings: Settings) -> Starlette:
    """The ASGI application; `app.state.runtime` is its Runtime."""
    runtime = Runtime(settings)

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with runtime.running():
            services = api.Services(
                store=runtime.store,
                authority=runtime.authority,
                settings=settings,
                metrics=runtime.metrics,
                health=runtime,
                limits=runtime.limits,
            )
            app.router.routes[:] = [
                *api.routes(services),
                *_streams(runtime),
                *dash.routes(),
            ]
            app.open(api.Resources(api.RESOURCES, services), partial(Origins, **guard))
            yield

    guard: dict[str, Any] = {
        "is_open": lambda: runtime.authority.open,
        "allowed": settings.allowed_origins,
    }
    app = _Application(
        lifespan=lifespan,
        exception_handlers={HTTPException: api.no_such_route},
        middleware=[Middleware(Origins, **guard)],
    )
    app.router.redirect_slashes = False
    app.state.runtime = runtime
    return app


def _streams(runtime: Runtime) -> list[BaseRoute]:
    async def granted(token: str | None, address: str | None) -> Grant:
        # Who may call at all, from where and out of which page, Origins has looked at.
        grant = await runtime.authority.grant(token, address)
        runtime.limits.request(key_id=grant.key_id, token_id=grant.token_id)
        return grant

    return [
        WebSocketRoute("/v1/realtime", WebSocketEndpoint(runtime.hub, granted)),
        *sse.routes(runtime.hub, granted),
    ]


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


def _hub_settings(settings: Settings) -> HubSettings:
    return HubSettings(
        session=SessionSettings(
            heartbeat_s=settings.heartbeat_s,
            authenticate_s=settings.authenticate_s,
            subscriptions=settings.subscriptions,
            message_bytes=settings.message_bytes,
            key_messages_per_s=settings.key_messages_per_s,
            token_messages_per_s=settings.token_messages_per_s,
            server=f"runstream/{VERSION}",
        ),
        connections=settings.connections,
        connections_per_address=settings.connections_per_address,
        connections_per_project=settings.connections_per_project,
        sse_connections=settings.sse_connections,
        unauthenticated=settings.unauthenticated,
        mailbox_bytes=settings.mailbox_bytes,
        slow_consumer_s=settings.slow_consumer_s,
        replay_changes=settings.replay_changes,
        cold_reads=settings.postgres_readers - _SPARED_READERS,
        tail_s=TAIL_ALONE_S if settings.redis is None else TAIL_S,
    )


def _namespace(connection: Connection) -> str:
    # Two databases on one Redis must not hear each other, and all processes on one must.
    epoch = connection.scalar(sa.select(log_state.c.epoch))
    return f"runstream:{epoch}"
