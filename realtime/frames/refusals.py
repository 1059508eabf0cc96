"""Whole answers to what never becomes a request of the application."""

from __future__ import annotations

import json
from typing import Final


def _problem(status: int, code: str, title: str, detail: str, head: str = "") -> bytes:
    """The answer, after which the connection is closed."""
    body = json.dumps(
        {
            "type": f"urn:runstream:problem:{code}",
            "title": title,
            "status": status,
            "detail": detail,
            "code": code,
        }
    )
    return (
        f"HTTP/1.1 {status} {title}\r\n"
        "content-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\n"
        "cache-control: no-store\r\n"
        "x-content-type-options: nosniff\r\n"
        f"{head}"
        "connection: close\r\n\r\n"
        f"{body}"
    ).encode()


OTHER_VERSION: Final = _problem(
    426,
    "bad_request",
    "Upgrade Required",
    "WebSockets of version 13 are spoken here",
    "upgrade: websocket\r\nsec-websocket-version: 13\r\n",
)
NO_HTTP: Final = _problem(400, "bad_request", "Bad Request", "this is not a request of HTTP/1.1")
TOO_LARGE: Final = _problem(
    431, "head_too_large", "Request Header Fields Too Large", "the head of the request is too long"
)
