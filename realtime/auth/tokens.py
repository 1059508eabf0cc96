"""Keys and tokens: how they look, and how a token is signed."""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import jwt
import msgspec

from store.access import SigningSecret
from store.model import new_id

KEY_PREFIX: Final = "rsk_"
"""Every stored key begins with it, so that a scanner for secrets can find one that got out."""

RUN_TOKEN_S: Final = 24 * 3600
"""How long the token lives that comes with a new run or batch."""

ISSUER: Final = "runstream"
AUDIENCE: Final = "runstream"
_ALPHABET: Final = string.ascii_letters + string.digits
KEY: Final = re.compile(re.escape(KEY_PREFIX) + r"[A-Za-z0-9]{40}")
_ID: Final = r"_[0-9a-hjkmnp-tv-z]{26}"
KID: Final = re.compile("sgn" + _ID)
TOKEN_ID: Final = re.compile("tok" + _ID)
TOKEN_CHARS_MAX: Final = 8_192


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


class Claims(msgspec.Struct, kw_only=True, rename="camel"):
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
            "iss": ISSUER,
            "aud": AUDIENCE,
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
