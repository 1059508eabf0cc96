"""Keys and tokens, and the grants they give."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import string
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from typing import Any, Final

import jwt
import msgspec

from realtime.limits import Buckets
from store.access import TOKEN_LIFE_MAX, Access, ApiKey, Revocations, SigningSecret
from store.errors import StoreError
from store.model import ALWAYS_SENT, WIRE_FIELDS, Facet, Match, Run, Selection, new_id

log = logging.getLogger(__name__)

DEFAULT_PROJECT: Final = "default"
KEY_PREFIX: Final = "rsk_"
"""Every stored key begins with it, so that a scanner for secrets can find one that got out."""

RUN_TOKEN_S: Final = 24 * 3600
"""How long the token lives that comes with a new run or batch."""

REFRESH_S: Final = 1.0
"""How often revocations are read; one takes effect everywhere within this time."""

_OVERLAP: Final = timedelta(minutes=10)
"""Revocations of so long are read again each time: a commit may come late, clocks differ."""

_ISSUER: Final = "runstream"
_AUDIENCE: Final = "runstream"
_ALPHABET: Final = string.ascii_letters + string.digits
_KEY: Final = re.compile(re.escape(KEY_PREFIX) + r"[A-Za-z0-9]{40}")
_ID: Final = r"_[0-9a-hjkmnp-tv-z]{26}"
_KID: Final = re.compile("sgn" + _ID)
TOKEN_ID: Final = re.compile("tok" + _ID)

TOKEN_CHARS_MAX: Final = 8_192
SCOPES_MAX: Final = 100
SCOPE_CHARS_MAX: Final = 512
SKIPPABLE: Final = frozenset(WIRE_FIELDS.values()) - ALWAYS_SENT
"""Fields of a run that may be left out."""


class Denied(StrEnum):
    """Why a token was not taken."""

    MISSING = "missing"
    INVALID = "invalid"
    EXPIRED = "expired"
    REVOKED = "revoked"


_SAID: Final = {
    Denied.MISSING: "send an API key or a public access token: Authorization: Bearer …",
    Denied.INVALID: "the API key or token is not valid",
    Denied.EXPIRED: "the token has expired",
    Denied.REVOKED: "the API key or token was revoked",
}


class Unauthorized(Exception):
    """There is no token, or not a good one."""

    def __init__(self, reason: Denied) -> None:
        super().__init__(_SAID[reason])
        self.reason = reason


class Forbidden(Exception):
    """The token is good, but not for this."""


# -------------------------------------------------------------------------------------- grants


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What a key or token allows, and until when."""

    project: str
    full: bool = False
    """A key that may do everything."""
    read_only: bool = False
    """A key that may read everything."""
    scopes: frozenset[str] = frozenset()
    expires_at: datetime | None = None
    skip: frozenset[str] = frozenset()
    """Fields that are left out of everything that is read with it, in the wire's names."""
    token_id: str | None = None
    key_id: str | None = None
    one_time: bool = False
    """It triggers one run and no more."""

    @cached_property
    def _read(self) -> dict[str, frozenset[str]]:
        """What its scopes let it read: kind (`runs`, `tags`, …) to names."""
        names: dict[str, set[str]] = {}
        for scope in self.scopes:
            # Split at the first two colons only: a tag may hold more.
            verb, _, rest = scope.partition(":")
            kind, _, name = rest.partition(":")
            if verb == "read" and name:
                names.setdefault(kind, set()).add(name)
        return {kind: frozenset(some) for kind, some in names.items()}

    @cached_property
    def reads_all(self) -> bool:
        """Whether every run of the project may be read."""
        return self.full or self.read_only or "read:runs" in self.scopes

    def _names(self, kind: str) -> frozenset[str]:
        return self._read.get(kind, frozenset())

    def covers(self, run: Run, facet: Facet) -> bool:
        """Whether the run, with that status and those tags, may be read."""
        if run.project != self.project:
            return False
        if self.reads_all:
            return True
        runs = self._names("runs")
        return (
            run.id in runs
            # A scope for a job run covers its workflow runs, but not just any child.
            or (run.workflow_id is not None and run.parent_run_id in runs)
            or run.batch_id in self._names("batch")
            or run.task_identifier in self._names("tasks")
            or not self._names("tags").isdisjoint(facet.tags)
        )

    def reads(self, run: Run) -> bool:
        """Whether the run as it stands may be read."""
        return self.covers(run, Facet(run.status, run.tags))

    def reads_batch(self, batch_id: str) -> bool:
        """Whether the batch itself may be read: how many of its runs stand where."""
        return self.reads_all or batch_id in self._names("batch")

    def allows(self, selection: Selection) -> bool:
        """Whether so much may be asked for at all; `covers` then decides run by run."""
        if selection.project != self.project:
            return False
        if self.reads_all:
            return True
        tasks = selection.filter.tasks
        if tasks and tasks <= self._names("tasks"):
            return True
        if selection.run_id is not None:
            # Which scopes cover it is only known with the run.
            return bool(self._read)
        if selection.job_run_id is not None:
            return selection.job_run_id in self._names("runs")
        if selection.batch_id is not None:
            return selection.batch_id in self._names("batch")
        if selection.tags:
            granted = self._names("tags")
            if selection.match is Match.ALL:
                return not granted.isdisjoint(selection.tags)
            return granted.issuperset(selection.tags)
        return False

    @property
    def may_write(self) -> bool:
        """Whether it may change anything in the project."""
        return self.full

    def may_trigger(self, task: str) -> bool:
        """Whether it may make a run of that task."""
        return self.full or f"trigger:tasks:{task}" in self.scopes


def check_scope(scope: str) -> str | None:
    """What is wrong with a scope, or None."""
    if len(scope) > SCOPE_CHARS_MAX:
        return f"a scope has at most {SCOPE_CHARS_MAX} characters"
    if not scope.isprintable():
        return "a scope has no control characters"
    verb, _, rest = scope.partition(":")
    kind, colon, name = rest.partition(":")
    if scope == "read:runs" or (
        colon
        and name
        and (verb, kind)
        in {
            ("read", "runs"),
            ("read", "tags"),
            ("read", "batch"),
            ("read", "tasks"),
            ("trigger", "tasks"),
        }
    ):
        return None
    return (
        "expected read:runs, read:runs:<id>, read:tags:<tag>, read:batch:<id>, "
        "read:tasks:<task> or trigger:tasks:<task>"
    )


# ---------------------------------------------------------------------------- keys and tokens


def new_key() -> str:
    """A new API key."""
    return KEY_PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(40))


def key_hash(key: str) -> str:
    """What is stored of a key. It holds 238 bits of chance, so no slow hash is needed."""
    return hashlib.sha256(key.encode()).hexdigest()


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """A public access token that was just made."""

    token: str
    id: str
    expires_at: datetime


class _Claims(msgspec.Struct, kw_only=True, rename="camel"):
    iss: str
    aud: str
    iat: int
    exp: int
    jti: str
    scopes: list[str]
    skip: list[str] = []
    one_time: bool = False


class Signer:
    """Makes tokens of one project."""

    def __init__(self, secret: SigningSecret) -> None:
        self._secret = secret.secret
        self._headers = {"kid": secret.kid}

    def sign(
        self,
        scopes: Sequence[str],
        *,
        expires_in_s: int,
        skip: Sequence[str] = (),
        one_time: bool = False,
    ) -> Token:
        """A new token; what it is to grant was checked before."""
        issued_at = int(time.time())
        id = new_id("tok")
        claims: dict[str, Any] = {
            "iss": _ISSUER,
            "aud": _AUDIENCE,
            "iat": issued_at,
            "exp": issued_at + expires_in_s,
            "jti": id,
            "scopes": list(scopes),
        }
        if skip:
            claims["skip"] = list(skip)
        if one_time:
            claims["oneTime"] = True
        return Token(
            token=jwt.encode(claims, self._secret, algorithm="HS256", headers=self._headers),
            id=id,
            expires_at=datetime.fromtimestamp(claims["exp"], UTC),
        )


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
        if not _KEY.fullmatch(token):
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
                    issuer=_ISSUER,
                    audience=_AUDIENCE,
                    options={"require": ["iss", "aud", "exp", "iat", "jti"], "verify_iat": False},
                ),
                _Claims,
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
        if not isinstance(kid, str) or not _KID.fullmatch(kid):
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
