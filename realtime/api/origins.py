"""What the web asks of a server: who may call it out of a browser's page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from realtime.api.problems import Problem
from realtime.api.requests import header
from realtime.settings import is_loopback

EXPOSED: Final = "Runstream-Token, Retry-After, ETag, Content-Disposition"
_METHODS: Final = "GET, HEAD, POST, PUT, PATCH, DELETE"
_HEADERS: Final = "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Cache-Control"
_PREFLIGHT_S: Final = "7200"


class Origins:
    """Lets browsers' pages call where that is meant, over HTTP and WebSocket alike.

    While the server is open to everybody on this machine, a page of another site must not act
    as them: requests with a foreign `Origin`, or a `Host` that is not this machine's (a name
    that was made to point here), are refused. With keys every origin may call, since no
    browser sends a key by itself; a setting narrows it.
    """

    def __init__(
        self, app: ASGIApp, *, is_open: Callable[[], bool], allowed: tuple[str, ...]
    ) -> None:
        self._app = app
        self._is_open = is_open
        self._any = "*" in allowed
        self._allowed = frozenset(allowed)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        origin = header(scope, b"origin")
        refused = self._refusal(scope, origin)
        allow = None if origin is None or refused is not None else self._allow_origin(origin)

        async def send_with_headers(message: Message) -> None:
            # A WebSocket that is refused is answered over HTTP too.
            start = message["type"] in ("http.response.start", "websocket.http.response.start")
            if start and origin is None:
                message["headers"] = headers = list(message.get("headers", ()))
                names = [name for name, _ in headers]
                if b"x-content-type-options" not in names:
                    headers.append((b"x-content-type-options", b"nosniff"))
                if b"cache-control" not in names:
                    headers.append((b"cache-control", b"no-store"))
            elif start:
                answer = MutableHeaders(scope=message)
                # What is sent as JSON is no page, whatever is in it.
                answer.setdefault("X-Content-Type-Options", "nosniff")
                answer.setdefault("Cache-Control", "no-store")
                answer.add_vary_header("Origin")
                if allow is not None:
                    answer["Access-Control-Allow-Origin"] = allow
                    answer["Access-Control-Expose-Headers"] = EXPOSED
            await send(message)

        if refused is not None:
            await self._refuse(refused, scope, receive, send_with_headers)
        elif scope["type"] == "websocket":
            await self._app(scope, receive, send)
        elif (
            allow is not None
            and scope["method"] == "OPTIONS"
            and header(scope, b"access-control-request-method") is not None
        ):
            response = Response(status_code=204, headers=self._preflight(allow))
            await response(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, origin: str | None) -> str | None:
        if self._is_open():
            client = scope.get("client")
            if client is not None and client[0] and not is_loopback(client[0]):
                return "no API key is configured: only this machine may call"
            if not is_loopback(_host(header(scope, b"host") or "")):
                return "no API key is configured: the Host must be this machine's, like localhost"
            if origin is not None and not (
                is_loopback(_origin_host(origin)) or origin in self._allowed
            ):
                return "no API key is configured: pages of other origins may not call"
            return None
        if (
            # A browser asks nobody before it opens a WebSocket.
            scope["type"] == "websocket"
            and origin is not None
            and self._allow_origin(origin) is None
            and not _same(origin, header(scope, b"host") or "")
        ):
            return "pages of this origin may not call"
        return None

    def _allow_origin(self, origin: str) -> str | None:
        if self._is_open():
            return origin  # it was looked at before
        if self._any:
            return "*"
        return origin if origin in self._allowed else None

    def _preflight(self, allow: str) -> dict[str, str]:
        return {
            "Access-Control-Allow-Origin": allow,
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": _HEADERS,
            "Access-Control-Max-Age": _PREFLIGHT_S,
            "Vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
        }

    async def _refuse(self, why: str, scope: Scope, receive: Receive, send: Send) -> None:
        response = Problem("forbidden", why).response()
        if scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
            await response(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})


def _host(host: str) -> str:
    """The name or address of a Host header, without its port."""
    if host.startswith("["):
        return host.partition("]")[0][1:]
    return host.partition(":")[0]


def _origin_host(origin: str) -> str:
    try:
        parts = urlsplit(origin)
        return (parts.hostname or "") if parts.scheme in ("http", "https") else ""
    except ValueError:
        return ""


def _same(origin: str, host: str) -> bool:
    return origin.partition("://")[2] == host
