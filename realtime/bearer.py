"""Who comes with a connection: the token in its header, and what that grants."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.types import Scope

from realtime.auth import Unauthorized
from realtime.hub.connection import Authenticate
from realtime.subscription import Grant

Authority = Callable[[str | None, str | None], Awaitable[Grant]]
"""What the token grants to somebody at that address; raises Unauthorized or TooMany."""


def bearer(scope: Scope) -> str | None:
    """The token in the header; None if there is no such header."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, token = value.decode("latin-1").partition(" ")
            # A wrong kind of header is a wrong token, not none.
            return token.strip() if kind.lower() == "bearer" else ""
    return None


def address_of(scope: Scope) -> str | None:
    """Where it comes from, as far as that is known."""
    client = scope.get("client")
    return client[0] if client else None


def asks(authority: Authority, scope: Scope) -> Authenticate:
    """How the connection finds out what a token grants."""
    host = address_of(scope)

    async def authenticate(token: str | None) -> Grant | str:
        try:
            return await authority(token, host)
        except Unauthorized as error:
            return str(error)

    return authenticate
