"""What it means that a socket could not be opened."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime

import websockets

from runstream.effects import DialFailed
from runstream.errors import RunstreamError, refusal
from runstream.session import Session
from runstream.timing import seconds_to_wait


def why(error: Exception, session: Session) -> DialFailed:
    """What a failed attempt to open a socket means: trying again, or telling the caller."""
    match error:
        case websockets.InvalidStatus(response=response):
            status = response.status_code
            text = f"the server answers {status} at its stream"
            wait = seconds_to_wait(response.headers.get("Retry-After"), datetime.now(UTC))
            if status == 401:
                return DialFailed(text, unauthorized=True)
            if status in (429, 503):
                return DialFailed(text, busy=True, retry_after_s=wait)
            # While a server is being replaced there may be nothing at the address for
            # a moment. Where there never was anything, the address is wrong.
            if status >= 500 or (status == 404 and session.stats.connects):
                return DialFailed(text, retry_after_s=wait)
            return DialFailed(text, error=refusal(None, text, status))
        case ssl.SSLCertVerificationError():
            detail = f"the server's certificate is not trusted: {error.verify_message}"
            return DialFailed(detail, error=RunstreamError(detail))
        case websockets.InvalidHandshake() if not isinstance(error, websockets.InvalidMessage):
            detail = f"this is no Runstream server: {error}"
            return DialFailed(
                detail, error=None if session.stats.connects else RunstreamError(detail)
            )
        case OSError() | websockets.WebSocketException() | TimeoutError() | EOFError():
            return DialFailed(str(error) or type(error).__name__)
        case _:
            return DialFailed(repr(error), error=RunstreamError(f"cannot connect: {error!r}"))
