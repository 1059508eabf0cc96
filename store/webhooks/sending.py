"""Sends one request to an endpoint, to an address that was looked at, and nowhere else."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any, Final

import httpcore2

from store.webhooks.addresses import AddressPolicy
from store.webhooks.values import ATTEMPT_S, Answer, Resolve

CONNECT_S: Final = 5.0

RESPONSE_BYTES: Final = 16_384
"""How much of a response's body is read; the rest is cut off."""

SHOWN_BYTES: Final = 2_048
"""How much of it is kept."""

LOOKUPS: Final = 32
"""Host names that are looked up at once; a slow name server holds a thread each."""


class Refused(httpcore2.ConnectError):
    """None of a host's addresses may be sent to."""


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to the very address that it has checked.

    Were the name looked up once to be checked and once more to connect, a name server that
    changes its answer in between would lead anywhere.
    """

    def __init__(self, policy: AddressPolicy, resolve: Resolve) -> None:
        self._policy = policy
        self._resolve = resolve
        self._plain = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                found = await self._resolve(host, port)
        except TimeoutError:
            raise httpcore2.ConnectTimeout(f"{host} could not be looked up in time") from None
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} could not be looked up: {error}") from error
        refused = "it has no address"
        failed: Exception | None = None
        for text in found:
            said = self._policy.refusal(ipaddress.ip_address(text.partition("%")[0]))
            if said is not None:
                refused = said
                continue
            try:
                return await self._plain.connect_tcp(
                    text, port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        if failed is not None:
            raise failed
        raise Refused(f"{host} must not be sent to: {refused}")

    async def connect_unix_socket(self, *_args: Any, **_kwargs: Any) -> Any:
        raise httpcore2.UnsupportedProtocol("there are no sockets of this machine here")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Sender:
    """One process's connections to endpoints."""

    def __init__(
        self,
        policy: AddressPolicy,
        *,
        resolve: Resolve | None = None,
        attempt_s: float = ATTEMPT_S,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._lookups: ThreadPoolExecutor | None = None
        self._attempt_s = attempt_s
        # It follows no redirects, knows no proxies, and reads nothing of the environment.
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls or httpcore2.default_ssl_context(),
            max_connections=None,
            max_keepalive_connections=20,
            keepalive_expiry=10.0,
            network_backend=CheckedBackend(policy, resolve or self._look_up),
        )

    async def close(self) -> None:
        """Cuts all connections."""
        await self._pool.aclose()
        if self._lookups is not None:
            self._lookups.shutdown(wait=False, cancel_futures=True)

    async def _look_up(self, host: str, port: int) -> Sequence[str]:
        if self._lookups is None:
            self._lookups = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="webhook-lookup")
        found = await asyncio.get_running_loop().run_in_executor(
            self._lookups,
            lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM),
        )
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def post(self, url: str, headers: Mapping[str, str], body: str) -> Answer:
        """What the endpoint answers; never raises for what an endpoint can do."""
        began = monotonic()
        status: int | None = None
        retry_after: str | None = None
        start = b""
        error: str | None = None
        try:
            async with asyncio.timeout(self._attempt_s):
                async with self._pool.stream(
                    "POST",
                    url,
                    headers=[
                        *{
                            "content-type": "application/json",
                            "accept-encoding": "identity",
                            "user-agent": "runstream-webhooks/1",
                            **headers,
                        }.items()
                    ],
                    content=body.encode(),
                    extensions={"timeout": {"connect": CONNECT_S, "pool": CONNECT_S}},
                ) as response:
                    status = response.status
                    retry_after = _header(response.headers, b"retry-after")
                    async for chunk in response.aiter_stream():
                        start += chunk[: RESPONSE_BYTES - len(start)]
                        if len(start) >= RESPONSE_BYTES:
                            break
        except TimeoutError:
            error = f"there was no answer within {self._attempt_s:g} s"
        except (httpcore2.TimeoutException, httpcore2.NetworkError, httpcore2.ProtocolError) as why:
            error = _said(why)
        except (OSError, ssl.SSLError, httpcore2.UnsupportedProtocol, ValueError) as why:
            error = _said(why)
        if error is not None and status is not None and 200 <= status < 300:
            error = None  # it has taken the message; what it says further does not matter
        if error is None and status is not None and not 200 <= status < 300:
            error = f"it answered {status}"
        return Answer(
            status=status,
            body=start[:SHOWN_BYTES].decode(errors="replace").replace("\0", "\ufffd"),
            error=error,
            duration_ms=round((monotonic() - began) * 1000),
            retry_after=retry_after,
        )


def _header(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> str | None:
    for each, value in headers:
        if each.lower() == name:
            return value.decode("latin-1")
    return None


def _said(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300].replace("\0", "\ufffd")
