"""Turns errors into problem details (RFC 9457)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from starlette.responses import Response

from realtime.auth import Forbidden, Unauthorized
from realtime.limits import TooMany, TooSlow
from store import errors as store
from store.model import Run, wire_run

CODES: Final[Mapping[str, int]] = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "conflict": 409,
    "precondition_failed": 412,
    "payload_too_large": 413,
    "range_not_satisfiable": 416,
    "unprocessable": 422,
    "too_many_requests": 429,
    "internal": 500,
    "unavailable": 503,
    "outcome_unknown": 503,
}
"""Each word that `code` may be, and its HTTP status."""

RETRY_AFTER_S: Final = 1


class FieldError(msgspec.Struct, frozen=True):
    """One place in a request that does not fit; `path` is keys and indices joined by dots."""

    path: str
    message: str


class ProblemBody(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[FieldError] = []
    run: Run | None = None
    """With `conflict`: the run as it stands."""


class Problem(Exception):
    """An answer that says what went wrong."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
        run: Run | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status = CODES[code]
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})
        self.run = run

    def body(self, skip: frozenset[str] = frozenset()) -> dict[str, Any]:
        """The problem as JSON has it; `skip` are fields that its run must not show."""
        body: dict[str, Any] = {
            "type": f"urn:runstream:problem:{self.code}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
        }
        if self.errors:
            body["errors"] = self.errors
        if self.run is not None:
            body["run"] = wire_run(self.run, skip)
        return body

    def response(self, skip: frozenset[str] = frozenset()) -> Response:
        """The problem as an HTTP answer."""
        return Response(
            msgspec.json.encode(self.body(skip)),
            self.status,
            headers={"Cache-Control": "no-store"} | self.headers,
            media_type="application/problem+json",
        )


def bad_request(detail: str) -> Problem:
    """The request cannot be read: no JSON, or a bad query."""
    return Problem("bad_request", detail)


def unprocessable(errors: Sequence[FieldError]) -> Problem:
    """It can be read but does not fit; each error says where."""
    first = errors[0]
    said = f"{first.path}: {first.message}" if first.path else first.message
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem("unprocessable", said + more, errors=errors)


def too_large(limit: int) -> Problem:
    """The body is over what this call takes."""
    return Problem("payload_too_large", f"the body has more than {limit} bytes")


def not_found(what: str) -> Problem:
    """There is none, or none that the caller may know of: the two look alike."""
    return Problem("not_found", f"there is no such {what}")


def of(error: Exception) -> Problem | None:
    """The problem that says what the error says, None for one that nobody foresaw."""
    retry = {"Retry-After": str(RETRY_AFTER_S)}
    match error:
        case Problem():
            return error
        case Unauthorized():
            return Problem("unauthorized", str(error), headers={"WWW-Authenticate": "Bearer"})
        case Forbidden():
            return Problem("forbidden", str(error))
        case TooMany(retry_after_s=wait_s):
            after = {"Retry-After": str(math.ceil(wait_s))}
            return Problem("too_many_requests", str(error), headers=after)
        case TooSlow():
            return Problem("request_timeout", str(error), headers={"Connection": "close"})
        case store.NotFound(what=what):
            return not_found(what)
        case store.RunDeleted():
            return not_found("run")
        case store.Conflict(run=run):
            return Problem("conflict", str(error), run=run)
        case store.Invalid(path=path, detail=detail):
            return unprocessable([FieldError(path, detail)])
        case store.IdempotencyKeyReused():
            return unprocessable([FieldError("Idempotency-Key", str(error))])
        case store.TooLarge():
            return Problem("payload_too_large", str(error))
        case store.TokenUsed():
            return Problem(
                "unauthorized",
                "the one-time token was used before",
                headers={"WWW-Authenticate": "Bearer"},
            )
        case store.OutcomeUnknown():
            return Problem(
                "outcome_unknown",
                "the database went away during the commit: whether it was done is not known; "
                "repeat it with its idempotency key or ifVersion",
                headers=retry,
            )
        case store.BlobsAway():
            said = "the store of artifacts cannot be reached just now"
            return Problem("unavailable", said, headers=retry)
        case store.Unavailable():
            return Problem("unavailable", "the database cannot be reached just now", headers=retry)
        case _:
            return None
