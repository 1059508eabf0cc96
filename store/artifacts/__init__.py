"""Artifacts: what runs leave behind. A row says what there is; the bytes are in a blob store.

The row is there first, unseen, then come the bytes, and then the row is whole. So whatever dies
in between, nothing half is ever shown, and the row says what is to be cleaned away.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any, Final

import msgspec

from store.artifacts import rows
from store.artifacts.blobs import BlobNotFound, Blobs
from store.artifacts.rows import Artifact
from store.commands import check_words
from store.engine import Database
from store.errors import (
    BlobsAway,
    Conflict,
    Invalid,
    NotFound,
    OutcomeUnknown,
    StoreError,
    TooLarge,
)  # fmt: skip
from store.model import new_id
from store.once import Key

log = logging.getLogger(__name__)

SIZE_MAX: Final = 1_000_000_000
NAME_CHARS: Final = 255
UPLOAD_S: Final = 3_600.0
"""How long one upload may take."""

CLEAN_EVERY_S: Final = 60.0
ABORT_S: Final = 10.0
PIPE_CHUNKS: Final = 4

_CONTENT_TYPE: Final = re.compile(r"[\w!#$&^.+-]{1,127}/[\w!#$&^.+-]{1,127}(?:\s*;[ -~]{0,200})?")


class Artifacts:
    """The face of all this; `run` cleans up."""

    def __init__(
        self,
        database: Database,
        blobs: Blobs,
        *,
        size_max: int = SIZE_MAX,
        upload_s: float = UPLOAD_S,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self.size_max = size_max
        self._upload_s = upload_s
        self._clean = asyncio.Event()

    async def upload(
        self,
        project: str,
        run_id: str,
        name: str,
        content_type: str,
        chunks: AsyncIterator[bytes],
        *,
        sha256: bytes | None = None,
        key: Key | None = None,
    ) -> Artifact:
        """The new artifact, once its bytes are safe; what was said to be their sha256 is checked.

        Raises NotFound for the run, Conflict if that has been over for too long, TooLarge,
        Invalid, Unavailable; and what `chunks` raises. Then, or cancelled, it leaves nothing.
        """
        _check(name, content_type)
        id = new_id("art")
        cleaned_after = timedelta(seconds=2 * self._upload_s)
        counted = _Counted(chunks, self.size_max)
        try:
            artifact = await self._database.write(
                rows.reserve, id, project, run_id, name, content_type, cleaned_after
            )
            async with asyncio.timeout(self._upload_s):
                await self._put(id, counted.chunks())
            if sha256 is not None and counted.digest.digest() != sha256:
                raise Invalid("Content-Digest", "is not the sha256 of the bytes that came")
            whole = msgspec.structs.replace(
                artifact, size=counted.size, sha256=counted.digest.hexdigest()
            )
            if key is not None:
                key = key._replace(fingerprint=f"{key.fingerprint}:{whole.sha256}")
            kept = await self._database.write(rows.finish, whole, key)
        except TimeoutError:
            await self._abandon(id)
            raise Conflict(f"the upload took longer than {self._upload_s:g} s") from None
        except OutcomeUnknown:
            raise  # if it was not committed, it is cleaned away in its time
        except BaseException:
            # Also cancelled: the row would be found in time, but the bytes may be many.
            await asyncio.shield(self._abandon(id))
            raise
        if kept.id != id:
            await self._abandon(id)  # the key's first upload stands
        return kept

    async def _put(self, id: str, chunks: AsyncIterator[bytes]) -> None:
        """Hands the chunks on as they come; in this task, so that whoever stops it stops them."""
        pipe = _Pipe()
        putting = asyncio.create_task(self._blobs.put(_key(id), pipe))
        try:
            async for chunk in chunks:
                if not await pipe.send(chunk, putting):
                    break
            pipe.end()
            await putting
        except BaseException as error:
            if putting.done() and not putting.cancelled() and putting.exception() is error:
                raise BlobsAway(str(error)) from error
            # The library leaves nothing of an upload whose source has failed.
            pipe.end(error)
            await asyncio.shield(asyncio.wait([putting], timeout=ABORT_S))
            putting.cancel()
            raise

    async def _abandon(self, id: str) -> None:
        try:
            await self._database.write(rows.mark, id)
        except StoreError as error:
            log.info("artifact %s is cleaned away later: %s", id, error)
        self._clean.set()

    async def get(self, project: str, id: str) -> Artifact:
        """Raises NotFound."""
        return await self._database.read(rows.get, project, id)

    async def of_run(self, project: str, run_id: str) -> list[Artifact]:
        """The artifacts of a run, those of its steps if it is a job run, the oldest first."""
        return await self._database.read(rows.of_run, project, run_id)

    async def open(self, artifact: Artifact, start: int, end: int) -> AsyncIterator[bytes]:
        """Its bytes from `start` to before `end`. Raises NotFound."""
        if start >= end:
            return _nothing()
        try:
            return await self._blobs.open(_key(artifact.id), start, end)
        except BlobNotFound:
            raise NotFound("artifact", artifact.id) from None
        except Exception as error:
            raise BlobsAway(str(error)) from error

    async def delete(self, project: str, id: str, key: Key | None = None) -> None:
        """Deletes it. Raises NotFound."""
        await self._database.write(rows.delete, project, id, key)
        self._clean.set()

    async def run(self) -> None:
        """Cleans away what is deleted and what came to nothing, until cancelled."""
        while True:
            self._clean.clear()
            try:
                while await self.clean():
                    pass
            except Exception as error:
                log.warning("artifacts: %s", error)
            try:
                async with asyncio.timeout(CLEAN_EVERY_S):
                    await self._clean.wait()
            except TimeoutError:
                pass

    async def clean(self) -> int:
        """One round of cleaning; how many it were."""
        ids = await self._database.read(rows.to_clean)
        for id in ids:
            # The bytes first: without the row nobody would know of them.
            await self._blobs.delete(_key(id))
        if ids:
            await self._database.write(rows.forget, ids)
        return len(ids)


class _Pipe:
    """A few chunks between who brings them and who takes them."""

    def __init__(self) -> None:
        self._room: Final = asyncio.Semaphore(PIPE_CHUNKS)
        self._chunks: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()

    async def send(self, chunk: bytes, taker: asyncio.Future[None]) -> bool:
        """Waits for room; False if nobody takes any more."""
        if self._room.locked():
            waiting = asyncio.ensure_future(self._room.acquire())
            either: set[asyncio.Future[Any]] = {waiting, taker}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                if not waiting.done():
                    waiting.cancel()
            if taker.done():
                return False
        else:
            await self._room.acquire()
        self._chunks.put_nowait(chunk)
        return not taker.done()

    def end(self, error: BaseException | None = None) -> None:
        """There is no more, or it has failed."""
        self._chunks.put_nowait(error)

    def __aiter__(self) -> _Pipe:
        return self

    async def __anext__(self) -> bytes:
        chunk = await self._chunks.get()
        if isinstance(chunk, bytes):
            self._room.release()
            return chunk
        if chunk is None:
            raise StopAsyncIteration
        raise UploadEnded


class UploadEnded(Exception):
    """The bytes of an upload have stopped coming."""


class _Counted:
    """Bytes on their way, counted and digested."""

    def __init__(self, chunks: AsyncIterator[bytes], most: int) -> None:
        self._chunks = chunks
        self._most = most
        self.size = 0
        self.digest = hashlib.sha256()

    async def chunks(self) -> AsyncIterator[bytes]:
        async for chunk in self._chunks:
            if not chunk:
                continue
            self.size += len(chunk)
            if self.size > self._most:
                raise TooLarge("content", self.size, self._most)
            self.digest.update(chunk)
            yield chunk


async def _nothing() -> AsyncIterator[bytes]:
    return
    yield b""


def _key(id: str) -> str:
    # The last characters are chance, so that no folder has too many.
    return f"{id[-2:]}/{id}"


def _check(name: str, content_type: str) -> None:
    check_words("name", name, NAME_CHARS)
    if not _CONTENT_TYPE.fullmatch(content_type):
        raise Invalid("Content-Type", "is no media type")
