"""The HTTP calls under the resources: retries what is safe to repeat, raises what was refused."""

from __future__ import annotations

import asyncio
import random
import ssl
import uuid
from collections.abc import AsyncIterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlsplit

import httpx2
import msgspec

from runstream import values
from runstream.commands import time_text
from runstream.connection import LOOPBACK
from runstream.credentials import Credentials
from runstream.errors import (
    Conflict,
    ConnectionLost,
    FieldError,
    OutcomeUnknown,
    ProtocolError,
    Refused,
    TooManyRequests,
    Unavailable,
    Unprocessable,
    refusal,
)
from runstream.models import AnyRun
from runstream.timing import seconds_to_wait

T = TypeVar("T")

TRIES: Final = 4
BASE_DELAY_S: Final = 0.2
MAX_DELAY_S: Final = 2.0
# A server that asks for more patience than this is a matter for the caller.
MAX_RETRY_AFTER_S: Final = 10.0

# Failures before anything was sent.
_NOT_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)

Query = Mapping[str, Any]
Content = bytes | AsyncIterable[bytes]


class Http:
    """Makes calls to one server, over a pool of connections that opens with the first."""

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        *,
        timeout_s: float,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._credentials = credentials
        self._timeout_s = timeout_s
        self._ssl = ssl_context
        self._client: httpx2.AsyncClient | None = None

    async def aclose(self) -> None:
        """Closes the connections; a later call would open new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def call(
        self,
        kind: type[T],
        method: str,
        path: str,
        *,
        query: Query | None = None,
        body: Any = None,
        command_key: str | None = None,
        patience_s: float = 0,
        tries: int = TRIES,
    ) -> T:
        """The answer to a call, as a value of this type."""
        response = await self.request(
            method,
            path,
            query=query,
            content=None if body is None else values.encode(body),
            command_key=command_key,
            patience_s=patience_s,
            tries=tries,
        )
        return read(kind, response)

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Query | None = None,
        content: Content | None = None,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        command_key: str | None = None,
        patience_s: float = 0,
        tries: int = TRIES,
    ) -> httpx2.Response:
        """The answer to a call, if it is a success.

        Reads are tried again if the server can't be reached, does not answer in time or says
        that it is unavailable; a `Retry-After` of up to ten seconds is waited for, also after
        429. Commands are, too: they carry a key by which the server knows the repeat. Raises a `Refused` for what the server refuses, `ConnectionLost` if nothing
        could be sent, `OutcomeUnknown` if a command's answer was lost.
        """
        is_command = method != "GET"
        key = (command_key or uuid.uuid4().hex) if is_command else None
        sent_headers = dict(headers or {})
        if content is not None:
            sent_headers["Content-Type"] = content_type
        if key is not None:
            sent_headers["Idempotency-Key"] = key
        if content is not None and not isinstance(content, bytes):
            tries = 1  # A stream of bytes can be read once.
        maybe_done = False
        has_asked = False
        failures = 0
        while True:
            token = await self._credentials.current()
            if token is not None:
                sent_headers["Authorization"] = f"Bearer {token}"
            delay_s = min(MAX_DELAY_S, BASE_DELAY_S * 2**failures) * random.uniform(0.5, 1)
            try:
                response = await self._opened().request(
                    method,
                    self._url + path,
                    params=_query(query),
                    content=content,
                    headers=sent_headers,
                    timeout=httpx2.Timeout(self._timeout_s, read=self._timeout_s + patience_s),
                )
            except httpx2.TransportError as error:
                maybe_done = maybe_done or not isinstance(error, _NOT_SENT)
                failures += 1
                if failures >= tries:
                    raise _lost(error, key if maybe_done else None) from error
            except httpx2.InvalidURL as error:
                raise ConnectionLost(f"{self._url}{path} is no address: {error}") from error
            else:
                if response.is_success:
                    return response
                refused = problem(response)
                if response.status_code == 401 and self._credentials.has_provider and not has_asked:
                    has_asked = True
                    await self._credentials.fresh(token)
                    continue
                if isinstance(refused, OutcomeUnknown):
                    maybe_done = True
                    refused.command_key = key
                failures += 1
                wait_s = getattr(refused, "retry_after", None)
                # One who asked too much is told, unless the server says when there is room again.
                may_pass = response.status_code in (502, 503, 504) or (
                    response.status_code == 429 and wait_s is not None
                )
                if not may_pass or failures >= tries or (wait_s or 0.0) > MAX_RETRY_AFTER_S:
                    if maybe_done and isinstance(refused, Unavailable):
                        # One of the earlier tries may have been the one that worked.
                        raise _lost(refused, key) from refused
                    raise refused
                delay_s += wait_s or 0.0
            await asyncio.sleep(delay_s)

    def _opened(self) -> httpx2.AsyncClient:
        if self._client is None:
            parts = urlsplit(self._url)
            is_loopback = parts.hostname in LOOPBACK
            verify: ssl.SSLContext | bool = self._ssl or True
            if self._ssl is None and is_loopback and parts.scheme == "http":
                # To load the machine's certificates takes longer than many a command. This
                # one has none, and would trust nobody.
                verify = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._client = httpx2.AsyncClient(
                verify=verify,
                # A proxy that the environment names is not meant for this machine itself.
                trust_env=not is_loopback,
                limits=httpx2.Limits(max_connections=50, max_keepalive_connections=10),
            )
        return self._client


def read(kind: type[T], response: httpx2.Response) -> T:
    """The body of an answer as a value of this type."""
    try:
        return msgspec.json.decode(response.content, type=kind)
    except msgspec.DecodeError as error:
        raise ProtocolError(
            f"{response.request.url} gave an answer that cannot be read: {error}"
        ) from error


def part(name: str) -> str:
    """A name as one part of a path, whatever is in it."""
    return quote(name, safe="") or "%20"


def problem(response: httpx2.Response) -> Refused:
    """The error that an answer stands for."""
    try:
        told = msgspec.json.decode(response.content, type=dict[str, Any])
    except msgspec.DecodeError:
        told = {}
    return problem_of(told, response.status_code, response.headers.get("Retry-After"))


def problem_of(told: Mapping[str, Any], status: int, retry_after: str | None = None) -> Refused:
    """The error that problem details stand for."""
    code, detail = told.get("code"), told.get("detail") or told.get("title")
    error = refusal(
        code if isinstance(code, str) else None,
        str(detail) if detail else f"the server answers {status}",
        status,
    )
    match error:
        case Conflict() if isinstance(told.get("run"), dict):
            try:
                error.run = msgspec.convert(told["run"], AnyRun)
            except msgspec.ValidationError:
                pass
        case Unprocessable() if isinstance(told.get("errors"), list):
            error.errors = tuple(
                FieldError(str(entry.get("path", "")), str(entry.get("message", "")))
                for entry in told["errors"]
                if isinstance(entry, dict)
            )
        case TooManyRequests() | Unavailable():
            error.retry_after = seconds_to_wait(retry_after, datetime.now(UTC))
    return error


def _lost(error: Exception, command_key: str | None) -> ConnectionLost | OutcomeUnknown:
    detail = str(error) or type(error).__name__
    if command_key is None:
        return ConnectionLost(f"the server cannot be reached: {detail}")
    unknown = OutcomeUnknown(f"the answer to a command was lost: {detail}")
    unknown.command_key = command_key
    return unknown


def _query(query: Query | None) -> list[tuple[str, str | int | float | bool | None]] | None:
    if not query:
        return None
    pairs: list[tuple[str, str | int | float | bool | None]] = []
    for name, value in query.items():
        if value is None:
            continue
        several = value if isinstance(value, list | tuple | set | frozenset) else [value]
        pairs += [(name, _text(one)) for one in several]
    return pairs


def _text(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case datetime():
            return time_text(value)
        case _:
            return str(value)
