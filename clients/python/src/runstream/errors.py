"""The errors of this package: one base class, one kind for each thing that can go wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runstream.models import Run


class RunstreamError(Exception):
    """Whatever this package raises by itself; every other error here is one of these."""


class ConnectionLost(RunstreamError):
    """The server could not be reached over HTTP, also not after a few tries, or does not answer.

    Nothing was changed. Also if there is no token for now: its provider can't be reached, or
    does not answer. A subscription never raises this: it goes on trying.
    """


class ClientClosed(RunstreamError):
    """The client was closed, with `aclose` or by leaving its `async with`."""


class StreamEnded(RunstreamError):
    """A stream is over before what was waited for has come; `reason` is the server's word for why."""

    def __init__(self, reason: str, message: str | None = None) -> None:
        super().__init__(message or f"the stream has ended: {reason}")
        self.reason = reason


class DecodeError(RunstreamError):
    """A value of a run does not fit the type that the task gives it."""

    def __init__(self, run_id: str, field: str, detail: str) -> None:
        super().__init__(f"{field} of run {run_id} does not fit: {detail}")
        self.run_id = run_id
        self.field = field
        self.detail = detail


class ProtocolError(RunstreamError):
    """The server said something that the protocol does not know; most likely it is no Runstream server."""


class Refused(RunstreamError):
    """The server refused a request. `code` is its word for why, `status` the HTTP status."""

    code = "refused"
    status = 400

    def __init__(
        self, detail: str | None = None, *, code: str | None = None, status: int | None = None
    ) -> None:
        self.code = code or type(self).code
        self.status = status or type(self).status
        self.detail = detail or self.code.replace("_", " ")
        super().__init__(self.detail)


class BadRequest(Refused):
    """The request could not be understood."""

    code, status = "bad_request", 400


class Unauthorized(Refused):
    """There is no key or token, or it is wrong, expired or revoked."""

    code, status = "unauthorized", 401


class Forbidden(Refused):
    """The token does not cover this."""

    code, status = "forbidden", 403


class NotFound(Refused):
    """There is no such thing, or the token may not know of it."""

    code, status = "not_found", 404


class Conflict(Refused):
    """What was asked does not fit with how things stand: a transition that the lifecycle refuses, say.

    `run` is the run as it stands, where the conflict is about one.
    """

    code, status = "conflict", 409
    run: Run[Any, Any] | None = None


class PayloadTooLarge(Refused):
    """A value is above the server's limit."""

    code, status = "payload_too_large", 413


@dataclass(frozen=True)
class FieldError:
    """One thing that does not fit, and where."""

    path: str
    message: str


class Unprocessable(Refused):
    """The request is JSON, but does not fit; `errors` says where."""

    code, status = "unprocessable", 422
    errors: Sequence[FieldError] = ()


class TooManyRequests(Refused):
    """A limit is reached; `retry_after` is how many seconds to wait, where the server says so."""

    code, status = "too_many_requests", 429
    retry_after: float | None = None


class Unavailable(Refused):
    """The server can't do it just now, also not after a few tries; nothing was changed."""

    code, status = "unavailable", 503
    retry_after: float | None = None


class OutcomeUnknown(Refused):
    """A command may or may not have been carried out: its answer was lost.

    Give the same call `command_key=error.command_key` to repeat it: if it was
    carried out, that returns its first answer.
    """

    code, status = "outcome_unknown", 503
    command_key: str | None = None


_KINDS: dict[str, type[Refused]] = {
    kind.code: kind
    for kind in (
        BadRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        Conflict,
        PayloadTooLarge,
        Unprocessable,
        TooManyRequests,
        Unavailable,
        OutcomeUnknown,
    )
}
_BY_STATUS: dict[int, type[Refused]] = {
    kind.status: kind for kind in _KINDS.values() if kind is not OutcomeUnknown
}


def refusal(code: str | None, detail: str | None = None, status: int | None = None) -> Refused:
    """The error for a code of the protocol, or, where there is none, for an HTTP status."""
    kind = _KINDS.get(code or "") or _BY_STATUS.get(status or 0)
    if kind is None and status is not None and status >= 500:
        kind = Unavailable
    return (kind or Refused)(detail, code=code, status=status)
