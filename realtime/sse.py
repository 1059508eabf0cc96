"""The streams over server-sent events, for where a WebSocket can't go."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import parse_qsl

import msgspec
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from realtime import protocol
from realtime.auth import Unauthorized
from realtime.bearer import Authority, address_of, bearer
from realtime.hub import Connection, Hub
from realtime.hub.packing import Packing
from realtime.limits import TooMany
from realtime.outlets import TaskOutlet
from realtime.protocol import AnySubscribe, CloseCode, EndReason, ErrorCode
from realtime.session import NO_CURSOR
from realtime.subscription import Grant
from store.errors import StoreError

log = logging.getLogger(__name__)

ABORT: Final = "runstream.abort"
CHECKPOINT_S: Final = 1.0
ENDED: Final = "end."
"""With this begins the id of a final `end`; whoever comes back with one has nothing to come
back for."""

_STATUS: Final[Mapping[str, int]] = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.CONFLICT: 409,
    ErrorCode.TOO_MANY_REQUESTS: 429,
    ErrorCode.UNAVAILABLE: 503,
}
_CLOSED: Final[Mapping[int, ErrorCode]] = {
    CloseCode.UNAUTHENTICATED: ErrorCode.UNAUTHORIZED,
    CloseCode.FORBIDDEN: ErrorCode.FORBIDDEN,
    CloseCode.TOO_MANY: ErrorCode.TOO_MANY_REQUESTS,
}
"""What to answer where a connection is closed before its stream has begun; else unavailable."""

_LISTS: Final = frozenset({"skip", "tasks", "statuses", "tags"})
_SAME: Final = {"tag": "tags", "task": "tasks", "status": "statuses"}
"""Names as the lists of runs have them, which are taken too."""

_UNDECIDED: Final = frozenset({"welcome", "stale", "fresh", "heartbeat"})
"""Messages that may come before it is known whether the stream begins."""

_RUN, _RUNS, _BATCH, _JOB_RUN = "run", "runs", "batch", "jobRun"


def routes(hub: Hub, authority: Authority) -> list[Route]:
    """The four streams, under the paths of the protocol."""

    def endpoint(about: str) -> _Endpoint:
        return _Endpoint(hub, authority, about)

    return [
        Route("/v1/realtime/runs/{id}", endpoint(_RUN), methods=["GET"]),
        Route("/v1/realtime/runs", endpoint(_RUNS), methods=["GET"]),
        Route("/v1/realtime/batches/{id}", endpoint(_BATCH), methods=["GET"]),
        Route("/v1/realtime/job-runs/{id}", endpoint(_JOB_RUN), methods=["GET"]),
    ]


class _Endpoint:
    """One kind of stream, as a raw ASGI callable."""

    def __init__(self, hub: Hub, authority: Authority, about: str) -> None:
        self._hub = hub
        self._authority = authority
        self._about = about

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        last_id = headers.get("last-event-id", "")
        if last_id.startswith(ENDED):
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        try:
            grant = await self._authority(bearer(scope), address_of(scope))
            asked = self._read(scope, last_id)
        except Unauthorized as error:
            await refuse(send, ErrorCode.UNAUTHORIZED, str(error))
        except TooMany as error:
            await refuse(send, ErrorCode.TOO_MANY_REQUESTS, str(error), error.retry_after_s)
        except StoreError:
            await refuse(send, ErrorCode.UNAVAILABLE, "the token can't be looked up just now")
        except ValueError as error:
            await refuse(send, ErrorCode.BAD_REQUEST, str(error))
        else:
            await self._stream(scope, receive, send, grant, asked)

    def _read(self, scope: Scope, last_id: str) -> AnySubscribe:
        """What is asked for, out of the path, the query and the header."""
        fields: dict[str, Any] = {"id": 1}
        try:
            query = parse_qsl(
                scope["query_string"].decode("ascii"),
                keep_blank_values=True,
                strict_parsing=bool(scope["query_string"]),
                errors="strict",
            )
        except ValueError:
            raise ValueError("the query can't be read") from None
        for name, value in query:
            field = _SAME.get(name, name)
            if field in _LISTS:
                fields.setdefault(field, []).append(value)
            elif field in ("type", "id") or field in fields:
                raise ValueError(f"{name} can't be given here, or not more than once")
            else:
                fields[field] = value
        if last_id:
            fields["cursor"] = last_id
        id = scope.get("path_params", {}).get("id")
        match self._about:
            case "run":
                fields |= {"type": "subscribeToRun", "runId": id}
            case "batch":
                fields |= {"type": "subscribeToBatch", "batchId": id}
            case "jobRun":
                fields |= {"type": "subscribeToJobRun", "jobRunId": id}
            case _ if "tags" in fields:
                fields["type"] = "subscribeToRunsWithTag"
            case _:
                fields["type"] = "subscribeToRuns"
        return protocol.convert(fields)

    async def _stream(
        self, scope: Scope, receive: Receive, send: Send, grant: Grant, asked: AnySubscribe
    ) -> None:
        outlet = _SseOutlet(send, scope)

        async def granted(token: str | None) -> Grant:
            return grant

        hub = self._hub
        settings = replace(hub.settings.session, checkpoint_s=CHECKPOINT_S)
        connection = hub.connect(
            outlet, granted, kind="sse", session=settings, address=address_of(scope)
        )
        outlet.attach(connection)
        watcher = asyncio.create_task(_until_gone(receive, outlet), name="SSE reader")
        try:
            await connection.open(None)
            await connection.take(asked)
            await outlet.run()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not outlet.aborted or task is None:
                raise
            task.uncancel()
        except OSError:
            pass  # the peer has gone
        except Exception as error:
            log.exception("a stream of events failed")
            connection.broke(error)
        finally:
            connection.lost()
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)


async def _until_gone(receive: Receive, outlet: _SseOutlet) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            outlet.leave()
            return


class _SseOutlet(TaskOutlet):
    """Writes messages as events; begins the response with the first that decides."""

    def __init__(self, send: Send, scope: Scope) -> None:
        super().__init__()
        self._send = send
        self._abort_transport = scope.get("extensions", {}).get(ABORT)
        self._begun = False
        self._ended = False
        self._early: list[bytes] = []
        self._last_id = ""

    def pack(self, lines: Sequence[bytes], packing: Packing) -> list[bytes]:
        return list(lines)

    async def send(self, message: Any) -> None:
        lines: list[bytes] = message
        if not self._begun:
            lines = [*self._early, *lines]
            decisive = [line for line in lines if protocol.type_of(line) not in _UNDECIDED]
            if not decisive:
                self._early = lines
                return
            if protocol.type_of(decisive[0]) == "error":
                error = msgspec.json.decode(decisive[0])
                await refuse(self._send, ErrorCode(error["code"]), error["message"])
                self._ended = True
                self.leave()
                return
            self._begun = True
            await self._send(
                {
                    "type": "http.response.start",
                    "status": 200,
                    "headers": [
                        (b"content-type", b"text/event-stream; charset=utf-8"),
                        (b"cache-control", b"no-store"),
                        # nginx else holds back what does not fill its buffer.
                        (b"x-accel-buffering", b"no"),
                    ],
                }
            )
        body = b"".join(self._written(line) for line in lines if not self._ended)
        if body:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
        if self._ended:
            self._hang_up()

    async def finish(self, code: int, reason: str) -> None:
        if self._begun:
            await self._send({"type": "http.response.body", "body": b""})
        elif not self._ended:
            await refuse(self._send, _CLOSED.get(code, ErrorCode.UNAVAILABLE), reason)

    def abort(self) -> None:
        if self._abort_transport is not None:
            self._abort_transport()
        super().abort()

    def leave(self) -> None:
        """The peer has gone, or was refused: nothing more is to be sent."""
        self._waiting = None
        self.close(CloseCode.BYE, "")
        self._begun = False
        self._ended = True

    def _hang_up(self) -> None:
        connection: Connection | None = self._connection
        if connection is not None:
            connection.close(CloseCode.BYE, "the subscription is over")

    def _written(self, line: bytes) -> bytes:
        type_ = protocol.type_of(line)
        if type_ == "welcome" or self._ended:
            return b""
        id = ""
        before = b""
        if type_ in ("live", "checkpoint", "heartbeat"):
            cursor = msgspec.json.decode(line)["cursor"]
            # While nothing is live there is no place to come back to but the one before.
            id = "" if cursor == NO_CURSOR else cursor
        if type_ == "heartbeat":
            if not id or id == self._last_id:
                return b": heartbeat\n\n"
            before = b": heartbeat\n\n"
        if type_ == "end":
            reason = EndReason(msgspec.json.decode(line)["reason"])
            id = f"{ENDED}{reason}" if reason.is_final else ""
            self._ended = True
        if type_ == "error":
            self._ended = True  # it was refused as it started again: nothing more will come
        if type_ == "reconnect":
            before = b"retry: %d\n" % msgspec.json.decode(line)["afterMs"]
        self._last_id = id or self._last_id
        name = f"id: {id}\n".encode() if id else b""
        return before + name + b"event: " + type_.encode() + b"\ndata: " + line + b"\n\n"


async def refuse(send: Send, code: ErrorCode, detail: str, retry_after_s: float = 1.0) -> None:
    """Answers with problem details (RFC 9457)."""
    status = _STATUS[code]
    body = msgspec.json.encode(
        {
            "type": f"urn:runstream:problem:{code}",
            "title": HTTPStatus(status).phrase,
            "status": status,
            "detail": detail,
            "code": code,
        }
    )
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
    ]
    if status in (429, 503):
        headers.append((b"retry-after", b"%d" % math.ceil(retry_after_s)))
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
