"""Who may use a project: its API keys, its signing secrets, and what was taken back."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.engine import Connection, Row

from store.engine import Database
from store.errors import NotFound
from store.model import new_id
from store.tables import api_keys, projects, revoked_tokens, signing_secrets

TOKEN_LIFE_MAX: Final = timedelta(days=30)
"""No token lives longer."""


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """A key as the store knows it: its hash, never itself."""

    id: str
    project: str
    name: str
    hash: str
    read_only: bool
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True, kw_only=True)
class SigningSecret:
    """What tokens of a project are signed with, by the `kid` in their header."""

    kid: str
    project: str
    secret: str
    created_at: datetime
    retired_at: datetime | None
    """It signs no more; what it signed is taken until that is over."""


@dataclass(frozen=True, kw_only=True)
class Revocations:
    """What was taken back of late, and whether anything was ever given."""

    tokens: frozenset[tuple[str, str]]
    """Project and id of each revoked token."""
    keys: frozenset[str]
    """Ids of revoked keys."""
    any_key: bool
    """Whether a key was ever made, revoked or not."""


class Access:
    """The face of all this. Raises Unavailable where the database cannot be reached."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # --------------------------------------------------------------------------------- API keys

    async def create_key(self, project: str, name: str, hash: str, *, read_only: bool) -> ApiKey:
        """Stores a new key by its hash, and makes the project if it is new."""
        key = ApiKey(
            id=new_id("key"),
            project=project,
            name=name,
            hash=hash,
            read_only=read_only,
            created_at=datetime.now(UTC),
            revoked_at=None,
        )
        await self._database.write(_create_key, key)
        return key

    async def find_key(self, hash: str) -> ApiKey | None:
        """The key with that hash, also if it is revoked."""
        return await self._database.read(_find_key, hash)

    async def list_keys(self, project: str | None = None) -> list[ApiKey]:
        """All keys, of one project or of every one, the oldest first."""
        return await self._database.read(_list_keys, project)

    async def revoke_key(self, id: str) -> ApiKey:
        """Takes a key back for good. Raises NotFound; doing it twice is no error."""
        key = await self._database.write(_revoke_key, id)
        if key is None:
            raise NotFound("key", id)
        return key

    # --------------------------------------------------------------------------- signing secrets

    async def signing_secret(self, project: str) -> SigningSecret:
        """The secret that signs for the project now; made if there is none yet."""
        found = await self._database.read(_current_secret, project)
        if found is None:
            found = await self._database.write(_ensure_secret, project)
        return found

    async def find_secret(self, kid: str) -> SigningSecret | None:
        """The secret of that name, also if it is retired."""
        return await self._database.read(_find_secret, kid)

    async def rotate_secret(self, project: str) -> SigningSecret:
        """A new secret signs from now on; what the old ones signed is taken until it expires."""
        return await self._database.write(_rotate_secret, project)

    # ------------------------------------------------------------------------------- revocation

    async def revoke_token(self, project: str, token_id: str, expires_at: datetime) -> None:
        """Takes a token back. It is remembered until `expires_at`, when it is over anyway."""
        await self._database.write(_revoke_token, project, token_id, expires_at)

    async def revocations(self, since: datetime | None = None) -> Revocations:
        """What was revoked since then, or ever; tokens that are over anyway are left out."""
        return await self._database.read(_revocations, since)

    async def forget_expired(self) -> None:
        """Forgets revoked tokens that are over, and secrets whose tokens all are."""
        await self._database.write(_forget_expired)


def _create_key(connection: Connection, key: ApiKey) -> None:
    _ensure_project(connection, key.project)
    connection.execute(
        sa.insert(api_keys).values(
            id=key.id,
            project=key.project,
            name=key.name,
            hash=key.hash,
            read_only=key.read_only,
            created_at=key.created_at,
        )
    )


def _find_key(connection: Connection, hash: str) -> ApiKey | None:
    row = connection.execute(sa.select(api_keys).where(api_keys.c.hash == hash)).one_or_none()
    return None if row is None else _key(row)


def _list_keys(connection: Connection, project: str | None) -> list[ApiKey]:
    query = sa.select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
    if project is not None:
        query = query.where(api_keys.c.project == project)
    return [_key(row) for row in connection.execute(query)]


def _revoke_key(connection: Connection, id: str) -> ApiKey | None:
    connection.execute(
        sa.update(api_keys)
        .where(api_keys.c.id == id, api_keys.c.revoked_at.is_(None))
        .values(revoked_at=datetime.now(UTC))
    )
    row = connection.execute(sa.select(api_keys).where(api_keys.c.id == id)).one_or_none()
    return None if row is None else _key(row)


def _current_secret(connection: Connection, project: str) -> SigningSecret | None:
    row = connection.execute(
        sa.select(signing_secrets)
        .where(signing_secrets.c.project == project, signing_secrets.c.retired_at.is_(None))
        # Two processes may each have made a first one; all sign with the same then.
        .order_by(signing_secrets.c.created_at.desc(), signing_secrets.c.kid.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else _secret(row)


def _find_secret(connection: Connection, kid: str) -> SigningSecret | None:
    row = connection.execute(
        sa.select(signing_secrets).where(signing_secrets.c.kid == kid)
    ).one_or_none()
    return None if row is None else _secret(row)


def _ensure_secret(connection: Connection, project: str) -> SigningSecret:
    return _current_secret(connection, project) or _new_secret(connection, project)


def _rotate_secret(connection: Connection, project: str) -> SigningSecret:
    connection.execute(
        sa.update(signing_secrets)
        .where(signing_secrets.c.project == project, signing_secrets.c.retired_at.is_(None))
        .values(retired_at=datetime.now(UTC))
    )
    return _new_secret(connection, project)


def _new_secret(connection: Connection, project: str) -> SigningSecret:
    _ensure_project(connection, project)
    secret = SigningSecret(
        kid=new_id("sgn"),
        project=project,
        secret=secrets.token_urlsafe(48),
        created_at=datetime.now(UTC),
        retired_at=None,
    )
    connection.execute(
        sa.insert(signing_secrets).values(
            kid=secret.kid,
            project=project,
            secret=secret.secret,
            created_at=secret.created_at,
        )
    )
    return secret


def _revoke_token(
    connection: Connection, project: str, token_id: str, expires_at: datetime
) -> None:
    values = {
        "project": project,
        "token_id": token_id,
        "revoked_at": datetime.now(UTC),
        "expires_at": expires_at,
    }
    _insert_new(connection, revoked_tokens, values)


def _revocations(connection: Connection, since: datetime | None) -> Revocations:
    tokens = sa.select(revoked_tokens.c.project, revoked_tokens.c.token_id)
    keys = sa.select(api_keys.c.id).where(api_keys.c.revoked_at.is_not(None))
    if since is None:
        tokens = tokens.where(revoked_tokens.c.expires_at > datetime.now(UTC))
    else:
        tokens = tokens.where(revoked_tokens.c.revoked_at > since)
        keys = keys.where(api_keys.c.revoked_at > since)
    return Revocations(
        tokens=frozenset((row.project, row.token_id) for row in connection.execute(tokens)),
        keys=frozenset(connection.scalars(keys)),
        any_key=connection.scalar(sa.select(api_keys.c.id).limit(1)) is not None,
    )


def _forget_expired(connection: Connection) -> None:
    now = datetime.now(UTC)
    connection.execute(sa.delete(revoked_tokens).where(revoked_tokens.c.expires_at < now))
    connection.execute(
        sa.delete(signing_secrets).where(signing_secrets.c.retired_at < now - TOKEN_LIFE_MAX)
    )


def _ensure_project(connection: Connection, project: str) -> None:
    _insert_new(connection, projects, {"id": project, "created_at": datetime.now(UTC)})


def _insert_new(connection: Connection, table: sa.Table, values: dict[str, object]) -> None:
    """Inserts the row unless there is one with its key."""
    if connection.dialect.name == "sqlite":
        connection.execute(sqlite_insert(table).values(values).on_conflict_do_nothing())
    else:
        connection.execute(postgresql_insert(table).values(values).on_conflict_do_nothing())


def _key(row: Row[tuple[object, ...]]) -> ApiKey:
    return ApiKey(**row._mapping)


def _secret(row: Row[tuple[object, ...]]) -> SigningSecret:
    return SigningSecret(**row._mapping)
