"""The key or token that a client shows, and where a fresh one comes from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import httpx2

from runstream.errors import (
    ConnectionLost,
    RunstreamError,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)

TokenProvider = Callable[[], Awaitable[str]]

# A provider mostly asks some server for the token, and that one may be away for a while, too.
PASSING: Final = (
    OSError,
    TimeoutError,
    ConnectionLost,
    Unavailable,
    TooManyRequests,
    httpx2.TransportError,
)
PATIENCE_S: Final = 30.0


class Credentials:
    """Holds the present token; asks the provider once for all who need a fresh one."""

    def __init__(self, token: str | None, provider: TokenProvider | None) -> None:
        self.token = token
        self.has_provider: Final = provider is not None
        self._provider = provider
        self._asking: asyncio.Lock | None = None

    async def current(self) -> str | None:
        """The token to show; asks the provider if there is none yet."""
        if self.token is None and self._provider is not None:
            return await self.fresh(None)
        return self.token

    async def fresh(self, stale: str | None) -> str:
        """Another token than `stale`, from the provider, or from whoever asked it meanwhile.

        Raises `Unauthorized` if the provider fails, but if that may pass (see `PASSING`), or
        if it has not answered after `PATIENCE_S`, `ConnectionLost` or what it raised of ours.
        """
        if self._provider is None:
            raise Unauthorized("the key or token is not accepted")
        if self._asking is None:
            self._asking = asyncio.Lock()
        try:
            # Also while somebody else asks, or those who wait would have to one after the other.
            async with asyncio.timeout(PATIENCE_S), self._asking:
                if self.token is None or self.token == stale:
                    self.token = await self._ask(self._provider)
                return self.token
        except TimeoutError as error:
            raise ConnectionLost("the token provider does not answer") from error

    async def _ask(self, provider: TokenProvider) -> str:
        try:
            token = await provider()
        except PASSING as error:
            if isinstance(error, RunstreamError | TimeoutError):
                raise
            raise ConnectionLost(f"there is no token for now: {error!r}") from error
        except Unauthorized:
            raise
        except RunstreamError as error:
            raise Unauthorized(f"the token provider failed: {error}") from error
        except Exception as error:
            raise Unauthorized(f"the token provider failed: {error!r}") from error
        if not token:
            raise Unauthorized("the token provider gave no token")
        return token
