"""`client.tokens`: short-lived tokens for browsers and other programs."""

from __future__ import annotations

from collections.abc import Sequence

from runstream.commands import given
from runstream.http import Http, part
from runstream.merging import FIELD_NAMES
from runstream.resources.models import Token


class Tokens:
    """Calls about public access tokens."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def create(
        self,
        scopes: Sequence[str],
        *,
        expires_in_s: int | None = None,
        skip: Sequence[str] | None = None,
        one_time: bool | None = None,
        command_key: str | None = None,
    ) -> Token:
        """Makes a token: `read:runs:<id>`, `read:tags:<tag>`, `trigger:tasks:<task>` and so on.

        It lives 15 minutes unless said otherwise; fields in `skip` are kept from its bearer.
        """
        body = given(
            scopes=[*scopes],
            expiresIn=expires_in_s,
            skip=None if skip is None else [FIELD_NAMES.get(name, name) for name in skip],
            oneTime=one_time,
        )
        return await self._http.call(
            Token, "POST", "/v1/tokens", body=body, command_key=command_key
        )

    async def revoke(self, token_id: str, *, command_key: str | None = None) -> None:
        """Ends a token, and its streams with it."""
        await self._http.request("DELETE", f"/v1/tokens/{part(token_id)}", command_key=command_key)
