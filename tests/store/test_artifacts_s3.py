"""Artifacts in an object store: a server that speaks S3, in a process of its own."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import timedelta

import httpx2
import pytest

from store import RunStore, open_broker
from store.artifacts import Artifacts
from store.artifacts.blobs import Blobs
from store.artifacts.rows import Artifact
from store.errors import BlobsAway, NotFound, TooLarge
from store.housekeeping import Retention
from store.model import RunStatus
from tests.builders import PROJECT
from tests.processes import Process
from tests.store.asking import create
from tests.store.jobs.jobbing import move

BUCKET = "artifacts"
PART = bytes(range(256)) * 1_000


class S3(Process):
    """An object store on loopback, in memory, with one bucket."""

    name = "S3"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]

    def environment(self) -> Mapping[str, str]:
        # It speaks of other machines' services only if it is asked to; this makes sure.
        return {**os.environ, "MOTO_SERVICE": "s3", "AWS_EC2_METADATA_DISABLED": "true"}

    def answers(self) -> bool:
        try:
            return httpx2.put(f"{self.url}/{BUCKET}", timeout=5.0).status_code in (200, 409)
        except httpx2.HTTPError:
            return False

    def keys(self) -> list[str]:
        """The names of all objects."""
        listed = httpx2.get(f"{self.url}/{BUCKET}", params={"list-type": "2"}, timeout=30.0)
        assert listed.status_code == 200
        return re.findall("<Key>([^<]*)</Key>", listed.text)

    def uploads(self) -> int:
        """How many uploads in parts are under way."""
        listed = httpx2.get(f"{self.url}/{BUCKET}", params={"uploads": ""}, timeout=30.0)
        assert listed.status_code == 200
        return listed.text.count("<UploadId>")


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with S3() as server:
        yield server


@pytest.fixture
async def store(sqlite_url: str) -> AsyncIterator[RunStore]:
    """One that keeps no run that is over."""
    broker = open_broker(None)
    store = await RunStore.open(
        sqlite_url, broker=broker, retention=Retention(final_runs=timedelta(0))
    )
    yield store
    await store.close()
    await broker.close()


@pytest.fixture
def kept(store: RunStore, s3: S3, monkeypatch: pytest.MonkeyPatch) -> Artifacts:
    """As it is configured: by the URL, and by the environment for what is secret."""
    monkeypatch.setenv("AWS_ENDPOINT", s3.url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    blobs = Blobs(f"s3://{BUCKET}/of-runs")
    return Artifacts(store.database, blobs, size_max=30_000_000)


async def parts(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield PART


async def content(kept: Artifacts, artifact: Artifact, start: int, end: int) -> bytes:
    return b"".join([chunk async for chunk in await kept.open(artifact, start, end)])


async def test_bytes_come_back_whole_and_in_part_and_go_with_their_run(
    store: RunStore, kept: Artifacts, s3: S3
) -> None:
    """Large ones in several parts, which the store puts together; small and empty ones at once.

    Taken out: deleting the bytes; they stayed for ever.
    """
    run = await create(store)
    whole = PART * 50  # 12.8 MB, of which a part is 5
    large = await kept.upload(PROJECT, run.id, "../large", "text/plain", parts(50))
    small = await kept.upload(PROJECT, run.id, "small", "text/plain", parts(1))
    empty = await kept.upload(PROJECT, run.id, "empty", "text/plain", parts(0))
    assert (large.size, large.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert await content(kept, large, 0, large.size) == whole
    assert await content(kept, large, 5_999_990, 6_000_010) == whole[5_999_990:6_000_010]
    assert await content(kept, large, large.size - 1, large.size) == whole[-1:]
    assert await content(kept, small, 0, small.size) == PART
    assert await content(kept, empty, 0, 0) == b""
    keys = await asyncio.to_thread(s3.keys)
    assert sorted(keys) == sorted(
        f"of-runs/{one.id[-2:]}/{one.id}" for one in (large, small, empty)
    )
    await move(store, run, RunStatus.EXECUTING, RunStatus.COMPLETED)
    await store.housekeeping.keep()
    with pytest.raises(NotFound):
        await kept.get(PROJECT, large.id)
    assert await kept.clean() == 3
    assert await asyncio.to_thread(s3.keys) == []


async def test_an_upload_that_breaks_off_leaves_nothing(
    store: RunStore, kept: Artifacts, s3: S3
) -> None:
    run = await create(store)

    async def broken() -> AsyncIterator[bytes]:
        async for chunk in parts(50):
            yield chunk
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await kept.upload(PROJECT, run.id, "broken", "text/plain", broken())
    with pytest.raises(TooLarge):
        await kept.upload(PROJECT, run.id, "too large", "text/plain", parts(200))
    assert await kept.of_run(PROJECT, run.id) == []
    assert await kept.clean() == 2
    assert await asyncio.to_thread(s3.keys) == []
    assert await asyncio.to_thread(s3.uploads) == 0


async def test_a_bucket_that_is_not_there_is_said_so(store: RunStore, kept: Artifacts) -> None:
    run = await create(store)
    elsewhere = Artifacts(store.database, Blobs("s3://no-such-bucket/x"))
    with pytest.raises(BlobsAway):
        await elsewhere.upload(PROJECT, run.id, "lost", "text/plain", parts(1))
    assert await kept.of_run(PROJECT, run.id) == []
