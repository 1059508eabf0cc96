"""The page that shows what goes on, and the browser client that any page may load from here."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

FOLDER: Final = Path(__file__).parent

_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}

HEADERS: Final[Mapping[str, str]] = {
    # Nothing but what this server serves, and nothing written into the page itself. A page
    # that shows what jobs have put into their metadata must not be able to run it.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    # Looked at again each time, by its ETag: a page of one version with modules of another
    # would break.
    "Cache-Control": "no-cache",
}


@dataclass(frozen=True)
class File:
    """One file as it is sent."""

    body: bytes
    zipped: bytes
    media_type: str
    etag: str


@cache
def files() -> Mapping[str, File]:
    """All there is to serve, by its path in this folder."""
    found: dict[str, File] = {}
    for path in sorted(FOLDER.rglob("*")):
        media_type = _TYPES.get(path.suffix)
        if media_type is None or path.name.endswith(".d.ts"):
            continue
        body = path.read_bytes()
        found[path.relative_to(FOLDER).as_posix()] = File(
            body=body,
            zipped=gzip.compress(body, mtime=0),
            media_type=media_type,
            etag=f'"{hashlib.sha256(body).hexdigest()[:32]}"',
        )
    return found


def page(request: Request) -> Response:
    """The page itself, to be served at `/` whatever the query says."""
    return _answer(request, files()["index.html"])


def routes() -> list[BaseRoute]:
    """What the page loads, below `/dash/`; and the browser client, below `/client/`."""
    return [
        Route("/dash/{path:path}", _dash, methods=["GET"]),
        Route("/client/{path:path}", _client, methods=["GET"]),
    ]


async def _dash(request: Request) -> Response:
    return _named(request, request.path_params["path"])


async def _client(request: Request) -> Response:
    return _named(request, "client/" + request.path_params["path"])


def _named(request: Request, name: str) -> Response:
    # A look into what was read at the start: no path out of here can be meant.
    file = files().get(name)
    if file is None:
        return Response("There is no such file.\n", 404, HEADERS, "text/plain")
    return _answer(request, file)


def _answer(request: Request, file: File) -> Response:
    headers = {**HEADERS, "ETag": file.etag, "Vary": "Accept-Encoding"}
    if file.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    body = file.body
    if "gzip" in request.headers.get("accept-encoding", ""):
        body = file.zipped
        headers["Content-Encoding"] = "gzip"
    return Response(body, headers=headers, media_type=file.media_type)
