"""HTTP calls about artifacts: bytes in as they come, bytes out in any part."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

import msgspec
from starlette.responses import Response, StreamingResponse

from realtime.api.bodies import NoQuery
from realtime.api.problems import Problem, bad_request, too_large
from realtime.api.requests import parse_query
from realtime.api.routing import Call, Operation, Resource, answer
from realtime.api.runs import readable_run
from realtime.limits import paced
from store.artifacts.rows import Artifact
from store.errors import NotFound
from store.model import wire_value

DEFAULT_TYPE: Final = "application/octet-stream"


class UploadQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the artifact is called."""

    name: str


class ArtifactBody(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is known of an artifact, less its bytes."""

    id: str
    run_id: str
    name: str
    content_type: str
    size: int
    sha256: str
    created_at: datetime


class ArtifactsAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """All artifacts of a run, the oldest first; of a job run those of its workflow runs too."""

    data: list[ArtifactBody]
    next: None = None


def artifact_body(artifact: Artifact) -> dict[str, Any]:
    """See ArtifactBody."""
    return {
        each.encode_name: wire_value(getattr(artifact, each.name))
        for each in msgspec.structs.fields(ArtifactBody)
    }


async def upload(call: Call) -> Response:
    call.writer()
    run_id = call.id("run")
    name = call.query(UploadQuery).name
    headers = call.request.headers
    length = headers.get("content-length", "")
    most = call.store.artifacts.size_max
    if length.isdigit() and (len(length) > 18 or int(length) > most):
        raise too_large(most)
    made = await call.store.artifacts.upload(
        call.project,
        run_id,
        name,
        headers.get("content-type") or DEFAULT_TYPE,
        paced(call.request.stream(), patience_s=call.services.limits.body_patience_s),
        sha256=_digest(headers.get("content-digest")),
        key=call.key(),
    )
    return answer(artifact_body(made), 201)


_SHA256: Final = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/=]*):")


def _digest(header: str | None) -> bytes | None:
    """The sha256 in a `Content-Digest` (RFC 9530). Raises 400 for one that is none."""
    found = None if header is None else _SHA256.search(header)
    if found is None:
        return None
    try:
        digest = base64.b64decode(found[1], validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise bad_request("Content-Digest: its sha-256 is none")
    return digest


async def list_all(call: Call) -> Response:
    run_id = call.id("run")
    await readable_run(call, run_id)
    found = await call.store.artifacts.of_run(call.project, run_id)
    if not call.grant.reads_all:
        # A token may cover a job run by a tag that its workflow runs don't have.
        covered = {
            id: await _covers(call, id) for id in {one.run_id for one in found} - {run_id}
        } | {run_id: True}
        found = [one for one in found if covered[one.run_id]]
    return answer({"data": [artifact_body(one) for one in found], "next": None})


async def _covers(call: Call, run_id: str) -> bool:
    try:
        await readable_run(call, run_id)
    except NotFound:
        return False
    return True


async def _readable(call: Call) -> Artifact:
    """The artifact, if its run may be read; else NotFound, either way."""
    id = call.id("artifact")
    artifact = await call.store.artifacts.get(call.project, id)
    if not await _covers(call, artifact.run_id):
        raise NotFound("artifact", id)
    return artifact


async def get(call: Call) -> Response:
    return answer(artifact_body(await _readable(call)))


async def delete(call: Call) -> Response:
    call.writer()
    id = call.id("artifact")
    await call.no_body()
    await call.store.artifacts.delete(call.project, id, call.key())
    return Response(status_code=204, headers={"Cache-Control": "no-store"})


async def content(call: Call) -> Response:
    # Browsers and proxies ask for the same bytes with whatever query they like; ours has none.
    parse_query(call.request, NoQuery)
    artifact = await _readable(call)
    asked = call.request.headers
    tag = f'"{artifact.sha256}"'
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": disposition(artifact.name),
        "X-Content-Type-Options": "nosniff",
        # Whatever it is, it must not act as a page of ours.
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "Cache-Control": "private, no-cache",
    }
    if "if-match" in asked and not _names(asked["if-match"], tag, weak=False):
        raise Problem("precondition_failed", "the artifact has another ETag", headers={"ETag": tag})
    if "if-none-match" in asked and _names(asked["if-none-match"], tag, weak=True):
        return Response(status_code=304, headers=headers)
    start, end, status = 0, artifact.size, 200
    # A range of another version of it would not fit to what the caller has.
    if "range" in asked and asked.get("if-range", tag) == tag:
        part = byte_range(asked["range"], artifact.size)
        if part is not None:
            start, end = part
            status = 206
            if start >= end:
                raise Problem(
                    "range_not_satisfiable",
                    f"the artifact has {artifact.size} bytes",
                    headers={"Content-Range": f"bytes */{artifact.size}"},
                )
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{artifact.size}"
    headers["Content-Length"] = str(end - start)
    headers["Content-Type"] = artifact.content_type
    if call.request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    chunks = await call.store.artifacts.open(artifact, start, end)
    return StreamingResponse(chunks, status, headers=headers)


_RANGE: Final = re.compile(r"bytes\s*=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*")


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """The part that a `Range` asks for, from its first byte to before its end.

    None where it is to be ignored: for several parts at once, which nobody has to serve, and for
    what is no range. A part that lies outside ends where it begins.
    """
    found = _RANGE.fullmatch(header.strip().lower())
    if found is None or size == 0:
        return None
    first, last = found.groups()
    if first:
        start = int(first)
        end = size if not last else min(int(last) + 1, size)
        if last and int(last) < start:
            return None
        return (start, end) if start < size else (size, size)
    if not last:
        return None
    return (max(size - int(last), 0), size) if int(last) else (size, size)


def _names(header: str, tag: str, *, weak: bool) -> bool:
    """Whether the list of entity tags names this one; `*` names all."""
    if header.strip() == "*":
        return True
    tags = [one.strip() for one in header.split(",")]
    return tag in tags or (weak and f"W/{tag}" in tags)


def disposition(name: str) -> str:
    """An attachment by that name, which is never a path, in the two forms that browsers read."""
    safe = "".join("_" if c in '/\\"%:*?<>|' or not c.isprintable() else c for c in name)
    safe = safe.strip(". ") or "artifact"
    plain = "".join(c if c.isascii() else "_" for c in safe)
    if plain == safe:
        return f'attachment; filename="{plain}"'
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(safe, safe='')}"


RESOURCES: Final[Sequence[Resource]] = (
    Resource(
        "/v1/runs/{id}/artifacts",
        "artifacts",
        {
            "POST": Operation(
                name="uploadArtifact",
                summary="Keep the body's bytes for a run; while it lives and 24 h after",
                handle=upload,
                query=UploadQuery,
                body="application/octet-stream",
                answers={201: ArtifactBody},
                problems=(404, 409),
                is_command=True,
            ),
            "GET": Operation(
                name="listArtifacts",
                summary="List the artifacts of a run",
                handle=list_all,
                answers={200: ArtifactsAnswer},
                problems=(404,),
            ),
        },
    ),
    Resource(
        "/v1/artifacts/{id}",
        "artifacts",
        {
            "GET": Operation(
                name="getArtifact",
                summary="What is known of an artifact",
                handle=get,
                answers={200: ArtifactBody},
                problems=(404,),
            ),
            "DELETE": Operation(
                name="deleteArtifact",
                summary="Delete an artifact",
                handle=delete,
                answers={204: None},
                problems=(404, 413, 422),
                is_command=True,
            ),
        },
    ),
    Resource(
        "/v1/artifacts/{id}/content",
        "artifacts",
        {
            "GET": Operation(
                name="downloadArtifact",
                summary="The bytes, whole or a range of them",
                handle=content,
                answers={200: DEFAULT_TYPE, 206: DEFAULT_TYPE, 304: None},
                problems=(404, 412, 416),
            )
        },
    ),
)
