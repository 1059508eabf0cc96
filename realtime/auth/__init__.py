"""Keys and tokens, and the grants they give."""

from realtime.auth.authority import Authority
from realtime.auth.grants import (
    DEFAULT_PROJECT,
    SCOPES_MAX,
    SKIPPABLE,
    Denied,
    Forbidden,
    Grant,
    Unauthorized,
    check_scope,
)
from realtime.auth.tokens import RUN_TOKEN_S, TOKEN_CHARS_MAX, TOKEN_ID, key_hash, new_key

__all__ = [
    "DEFAULT_PROJECT",
    "RUN_TOKEN_S",
    "SCOPES_MAX",
    "SKIPPABLE",
    "TOKEN_CHARS_MAX",
    "TOKEN_ID",
    "Authority",
    "Denied",
    "Forbidden",
    "Grant",
    "Unauthorized",
    "check_scope",
    "key_hash",
    "new_key",
]
