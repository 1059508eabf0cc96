"""Where the bytes of artifacts are kept: a folder, or any object store by its URL."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.store import LocalStore, ObjectStore, from_url

UPLOAD_PARTS_AT_ONCE: Final = 2
"""Parts of 5 MB of one upload that are under way: what an upload takes of memory at most."""

CHUNK_BYTES: Final = 256 * 1024


class BlobNotFound(Exception):
    """There are no such bytes."""


class Blobs:
    """Bytes by key. A key is made of an artifact's id, never of anything that somebody said."""

    def __init__(self, url: str) -> None:
        """Nothing is made, opened or reached before the first call that needs it."""
        self._url = url
        self._opened: ObjectStore | None = None
        self._folder = folder_of(url)

    @property
    def _store(self) -> ObjectStore:
        if self._opened is None:
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
                self._opened = LocalStore(self._folder, automatic_cleanup=True, mkdir=True)
            else:
                self._opened = from_url(self._url)
        return self._opened

    async def put(self, key: str, chunks: AsyncIterator[bytes]) -> None:
        """Keeps the bytes as they come, never all of them in memory; all of them, or none."""
        await obstore.put_async(
            self._store, key, chunks, max_concurrency=UPLOAD_PARTS_AT_ONCE
        )  # fmt: skip
        if self._folder is not None:
            await asyncio.to_thread(_to_disk, self._folder / key)

    async def open(self, key: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes from `start` to before `end`. Raises BlobNotFound."""
        try:
            found = await obstore.get_async(self._store, key, options={"range": (start, end)})
        except FileNotFoundError as error:
            raise BlobNotFound(key) from error
        return _as_bytes(found.stream(min_chunk_size=CHUNK_BYTES))

    async def delete(self, key: str) -> None:
        """Deletes the bytes, and what an upload that was cut off has left of them."""
        try:
            await obstore.delete_async(self._store, key)
        except FileNotFoundError:
            pass
        if self._folder is not None:
            await asyncio.to_thread(_sweep, self._folder / key)


async def _as_bytes(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for chunk in stream:
        yield bytes(chunk)


def folder_of(url: str) -> Path | None:
    """The folder that the URL names, None for an object store. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme == "":
        return Path(url)
    if parts.scheme != "file":
        if not parts.netloc:
            raise ValueError("an object store's URL names a bucket: s3://BUCKET/FOLDER")
        return None
    if parts.netloc not in ("", "localhost"):
        raise ValueError("a folder's URL names no host: file:///PATH")
    return Path(url2pathname(parts.path))


def _to_disk(path: Path) -> None:
    """What is answered with success survives the machine: a rename alone does not."""
    for each in (path, path.parent, path.parent.parent):
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _sweep(path: Path) -> None:
    # A killed process leaves the file that it was writing, named after the one it was to become.
    left: Iterable[Path] = path.parent.glob(path.name + "#*") if path.parent.is_dir() else ()
    for each in left:
        each.unlink(missing_ok=True)
