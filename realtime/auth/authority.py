"""Who says what a key or token grants."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import jwt
import msgspec

from realtime.auth.grants import DEFAULT_PROJECT, SKIPPABLE, Denied, Grant, Unauthorized
from realtime.auth.tokens import (
    AUDIENCE,
    ISSUER,
    KEY,
    KID,
    TOKEN_CHARS_MAX,
    Claims,
    Signer,
    key_hash,
)
from realtime.limits import Buckets
from store.access import TOKEN_LIFE_MAX, Access, ApiKey, Revocations, SigningSecret
from store.errors import StoreError

log = logging.getLogger(__name__)

REFRESH_S: Final = 0.5
"""How often revocations are read: one takes effect everywhere within a second."""

_OVERLAP: Final = timedelta(minutes=10)
"""Revocations of so long are read again each time: a commit may come late, clocks differ."""


class Authority:
    """Says what a key or token grants; makes and revokes tokens.

    It answers from memory where it can, so that open streams and known keys go on while the
    database is away. `run` reads what other processes revoked.
    """

    def __init__(
        self,
        access: Access,
        *,
        first_key: str | None = None,
        loopback: bool = False,
        guesses: Buckets | None = None,
    ) -> None:
        self._access = access
        self._guesses = guesses
        self._first_hash = None if first_key is None else key_hash(first_key)
        self._loopback = loopback
        self._any_key = first_key is not None
        self._keys: OrderedDict[str, ApiKey] = OrderedDict()
        self._secrets: dict[str, SigningSecret] = {}
        self._signers: dict[str, tuple[float, Signer]] = {}
        self._revoked: set[tuple[str, str]] = set()
        self._revoked_keys: set[str] = set()
        self._listeners: list[Callable[[], None]] = []

    @property
    def open(self) -> bool:
        """Whether everybody on this machine may do everything, since no key was ever made."""
        return self._loopback and not self._any_key

    @property
    def has_key(self) -> bool:
        """Whether a key was ever made."""
        return self._any_key

    async def start(self) -> None:
        """Reads what stands in the database. Raises Unavailable."""
        self._take(await self._access.revocations())

    async def run(self) -> None:
        """Reads what was revoked, for ever."""
        forgot = time.monotonic()
        while True:
            await asyncio.sleep(REFRESH_S)
            try:
                self._take(await self._access.revocations(datetime.now(UTC) - _OVERLAP))
                if time.monotonic() - forgot > 3600:
                    forgot = time.monotonic()
                    await self._access.forget_expired()
                    self._revoked = set((await self._access.revocations()).tokens)
            except StoreError as error:
                log.debug("revocations could not be read: %s", error)

    def on_revocation(self, listener: Callable[[], None]) -> None:
        """Have it called, on the event loop, each time something new was revoked, or a server
        that was open to all got its first key; `stands` then says of each grant."""
        self._listeners.append(listener)

    def stands(self, grant: Grant) -> bool:
        """Whether the grant was not taken back; its expiry is not looked at."""
        if grant.key_id is not None:
            return grant.key_id not in self._revoked_keys
        if grant.token_id is not None:
            return (grant.project, grant.token_id) not in self._revoked
        return self.open

    async def grant(self, token: str | None, address: str | None = None) -> Grant:
        """What the key or token grants to somebody at that address; None is no token at all.

        Raises Unauthorized, TooMany if too many unknown ones came from there, or Unavailable if
        it is an unknown key while the database is away.
        """
        if token is None:
            if self.open:
                return _EVERYBODY
            raise Unauthorized(Denied.MISSING)
        if self._first_hash is not None and hmac.compare_digest(
            self._first_hash, hashlib.sha256(token.encode(errors="replace")).hexdigest()
        ):
            return _FIRST_KEY
        if token.count(".") == 2:
            return await self._token_grant(token, address)
        if self.open:
            return _EVERYBODY  # a key of another server: here nobody needs one
        return await self._key_grant(token, address)

    async def authenticate(self, token: str | None) -> Grant | str:
        """As `grant`, but says why there is none instead of raising Unauthorized."""
        try:
            return await self.grant(token)
        except Unauthorized as refused:
            return str(refused)

    async def _key_grant(self, token: str, address: str | None) -> Grant:
        if not KEY.fullmatch(token):
            raise Unauthorized(Denied.INVALID)
        hash = key_hash(token)
        key = self._keys.get(hash)
        if key is None:
            self._guess(address)
            key = await self._access.find_key(hash)
            if key is None or not hmac.compare_digest(key.hash, hash):
                raise Unauthorized(Denied.INVALID)
            self._guessed_right(address)
            self._keys[hash] = key
            while len(self._keys) > 10_000:
                self._keys.popitem(last=False)
        if key.revoked_at is not None or key.id in self._revoked_keys:
            raise Unauthorized(Denied.REVOKED)
        return Grant(
            project=key.project,
            full=not key.read_only,
            read_only=key.read_only,
            key_id=key.id,
        )

    async def _token_grant(self, token: str, address: str | None) -> Grant:
        if len(token) > TOKEN_CHARS_MAX:
            raise Unauthorized(Denied.INVALID)
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            raise Unauthorized(Denied.INVALID) from None
        secret = await self._secret(kid, address)
        try:
            claims = msgspec.convert(
                jwt.decode(
                    token,
                    secret.secret,
                    algorithms=["HS256"],
                    issuer=ISSUER,
                    audience=AUDIENCE,
                    options={"require": ["iss", "aud", "exp", "iat", "jti"], "verify_iat": False},
                ),
                Claims,
            )
            expires_at = datetime.fromtimestamp(claims.exp, UTC)
            issued_at = datetime.fromtimestamp(claims.iat, UTC)
        except jwt.ExpiredSignatureError:
            raise Unauthorized(Denied.EXPIRED) from None
        except (
            jwt.InvalidTokenError, msgspec.ValidationError, ValueError, OverflowError, OSError,
            RecursionError,
        ):  # fmt: skip
            raise Unauthorized(Denied.INVALID) from None
        # A revocation is remembered no longer than a token may live.
        if expires_at - issued_at > TOKEN_LIFE_MAX or issued_at > _now() + timedelta(minutes=1):
            raise Unauthorized(Denied.INVALID)
        if (secret.project, claims.jti) in self._revoked:
            raise Unauthorized(Denied.REVOKED)
        return Grant(
            project=secret.project,
            scopes=frozenset(claims.scopes),
            expires_at=expires_at,
            skip=frozenset(claims.skip) & SKIPPABLE,
            token_id=claims.jti,
            one_time=claims.one_time,
        )

    # What is not in memory costs a read of the database, so nobody may ask for much of it.

    def _guess(self, address: str | None) -> None:
        if self._guesses is not None:
            self._guesses.take(address)

    def _guessed_right(self, address: str | None) -> None:
        if self._guesses is not None:
            self._guesses.give_back(address)

    async def _secret(self, kid: object, address: str | None) -> SigningSecret:
        if not isinstance(kid, str) or not KID.fullmatch(kid):
            raise Unauthorized(Denied.INVALID)
        secret = self._secrets.get(kid)
        if secret is None:
            self._guess(address)
            secret = await self._access.find_secret(kid)
            if secret is None:
                raise Unauthorized(Denied.INVALID)
            self._guessed_right(address)
            self._secrets[kid] = secret
        return secret

    async def signer(self, project: str) -> Signer:
        """What makes tokens for the project. Raises Unavailable."""
        known = self._signers.get(project)
        if known is not None and time.monotonic() - known[0] < 10 * REFRESH_S:
            return known[1]
        try:
            secret = await self._access.signing_secret(project)
        except StoreError:
            if known is None:
                raise
            return known[1]
        signer = Signer(secret)
        self._signers[project] = (time.monotonic(), signer)
        self._secrets[secret.kid] = secret
        return signer

    async def revoke_token(self, project: str, token_id: str) -> None:
        """Takes a token back: here at once, in other processes within a second."""
        await self._access.revoke_token(project, token_id, _now() + TOKEN_LIFE_MAX)
        self._revoked.add((project, token_id))
        self._tell()

    def _take(self, found: Revocations) -> None:
        news = (
            not found.tokens <= self._revoked
            or not found.keys <= self._revoked_keys
            or (found.any_key and not self._any_key)
        )
        self._revoked |= found.tokens
        self._revoked_keys |= found.keys
        self._any_key = self._any_key or found.any_key
        if news:
            self._tell()

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()


_FIRST_KEY: Final = Grant(project=DEFAULT_PROJECT, full=True, key_id="first")
_EVERYBODY: Final = Grant(project=DEFAULT_PROJECT, full=True)


def _now() -> datetime:
    return datetime.now(UTC)
