"""`client.artifacts`: what runs leave behind."""

from __future__ import annotations

from collections.abc import Sequence

from runstream.http import Content, Http, part, read
from runstream.resources.models import Artifact
from runstream.resources.paging import Page


class Artifacts:
    """Calls about artifacts."""

    def __init__(self, http: Http) -> None:
        self._http = http

    async def create(
        self,
        run_id: str,
        name: str,
        content: Content,
        *,
        content_type: str = "application/octet-stream",
        command_key: str | None = None,
    ) -> Artifact:
        """Keeps these bytes for the run. A stream of bytes is sent as it comes, and only once."""
        response = await self._http.request(
            "POST",
            f"/v1/runs/{part(run_id)}/artifacts",
            query={"name": name},
            content=content,
            content_type=content_type,
            command_key=command_key,
        )
        return read(Artifact, response)

    async def list(self, run_id: str) -> Sequence[Artifact]:
        """The run's artifacts, less their bytes."""
        path = f"/v1/runs/{part(run_id)}/artifacts"
        return (await self._http.call(Page[Artifact, str], "GET", path)).data

    async def get(self, artifact_id: str) -> Artifact:
        """What is known of the artifact, less its bytes."""
        return await self._http.call(Artifact, "GET", f"/v1/artifacts/{part(artifact_id)}")

    async def content(
        self, artifact_id: str, *, first_byte: int | None = None, last_byte: int | None = None
    ) -> bytes:
        """Its bytes, or those from one to another, both included."""
        headers = {}
        if first_byte is not None or last_byte is not None:
            start = first_byte or 0
            headers["Range"] = f"bytes={start}-{'' if last_byte is None else last_byte}"
        response = await self._http.request(
            "GET", f"/v1/artifacts/{part(artifact_id)}/content", headers=headers
        )
        return response.content
