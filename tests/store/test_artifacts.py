"""Artifacts in the store: whole or not there, counted and digested as they come."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from store import RunStore
from store.artifacts import Artifacts
from store.artifacts.blobs import Blobs, folder_of
from store.artifacts.rows import Artifact, mark
from store.commands import AFTERTIME
from store.errors import BlobsAway, Conflict, IdempotencyKeyReused, Invalid, NotFound, TooLarge
from store.model import Run, RunStatus
from store.once import Key
from store.tables import runs
from store.tables.artifacts import artifacts as artifact_rows
from tests.builders import PROJECT
from tests.store.asking import create, delete, until
from tests.store.jobs.jobbing import a_job, begin, move

pytestmark = pytest.mark.asyncio(loop_scope="module")

EXECUTING = RunStatus.EXECUTING
COMPLETED = RunStatus.COMPLETED


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def kept(shared_store: RunStore, folder: Path) -> Artifacts:
    return Artifacts(shared_store.database, Blobs(str(folder)), size_max=1_000_000)


async def in_chunks(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def upload(
    kept: Artifacts, run: Run, *chunks: bytes, name: str = "report.txt", **how: Any
) -> Artifact:
    return await kept.upload(
        PROJECT, run.id, name, how.pop("content_type", "text/plain"), in_chunks(*chunks), **how
    )


async def content(kept: Artifacts, artifact: Artifact, start: int = 0, end: int = -1) -> bytes:
    last = artifact.size if end < 0 else end
    return b"".join([chunk async for chunk in await kept.open(artifact, start, last)])


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


async def test_bytes_come_back_as_they_were_given_whole_and_in_part(
    shared_store: RunStore, kept: Artifacts, folder: Path
) -> None:
    run = await create(shared_store)
    made = await upload(kept, run, b"abc", b"", b"def" * 1_000)
    whole = b"abc" + b"def" * 1_000
    assert (made.size, made.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())
    assert await content(kept, made) == whole
    assert await content(kept, made, 2, 7) == whole[2:7]
    assert await kept.get(PROJECT, made.id) == made
    empty = await upload(kept, run, name="nothing")
    assert (empty.size, await content(kept, empty)) == (0, b"")
    assert await kept.of_run(PROJECT, run.id) == [made, empty]
    with pytest.raises(NotFound):
        await kept.get("another", made.id)
    assert len(files(folder)) == 2


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "a/../b", "C:\\x", ".", "ü" * 255]
)
async def test_a_name_is_never_a_path(
    shared_store: RunStore, kept: Artifacts, folder: Path, name: str
) -> None:
    made = await upload(kept, await create(shared_store), b"x", name=name)
    assert made.name == name
    (file,) = files(folder)
    assert file.name == made.id
    assert file.resolve().is_relative_to(folder.resolve())


@pytest.mark.parametrize(
    "wrong,path",
    [
        ({"name": ""}, "name"),
        ({"name": "x" * 256}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "a\0b"}, "name"),
        ({"content_type": "text"}, "Content-Type"),
        ({"content_type": "text/html\r\nx: y"}, "Content-Type"),
        ({"sha256": b"\0" * 32}, "Content-Digest"),
    ],
)
async def test_what_does_not_fit_leaves_nothing(
    shared_store: RunStore, kept: Artifacts, folder: Path, wrong: dict[str, Any], path: str
) -> None:
    run = await create(shared_store)
    with pytest.raises(Invalid) as refused:
        await upload(kept, run, b"x", **wrong)
    assert refused.value.path == path
    assert await kept.of_run(PROJECT, run.id) == []
    await kept.clean()
    assert files(folder) == []


async def test_too_much_is_cut_off_where_the_limit_is(
    shared_store: RunStore, kept: Artifacts, folder: Path
) -> None:
    run = await create(shared_store)
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 100_000
            yield b"x" * 100_000

    with pytest.raises(TooLarge):
        await kept.upload(PROJECT, run.id, "x", "text/plain", endless())
    assert taken <= 1_100_000
    await kept.clean()
    assert files(folder) == []


async def test_an_upload_that_breaks_off_leaves_nothing(
    shared_store: RunStore, kept: Artifacts, folder: Path
) -> None:
    run = await create(shared_store)

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * 70_000
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        await kept.upload(PROJECT, run.id, "x", "text/plain", broken())

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * 70_000
        await asyncio.Event().wait()

    uploading = asyncio.create_task(kept.upload(PROJECT, run.id, "x", "text/plain", slow()))
    await until(lambda: _reserved(shared_store, run))
    assert await kept.of_run(PROJECT, run.id) == []
    uploading.cancel()
    await asyncio.wait([uploading])
    await kept.clean()
    assert files(folder) == []
    assert await kept.of_run(PROJECT, run.id) == []


async def test_one_that_takes_too_long_is_given_up(shared_store: RunStore, folder: Path) -> None:
    kept = Artifacts(shared_store.database, Blobs(str(folder)), upload_s=0.05)
    run = await create(shared_store)

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    with pytest.raises(Conflict):
        await kept.upload(PROJECT, run.id, "x", "text/plain", slow())
    assert await kept.of_run(PROJECT, run.id) == []


async def test_what_a_killed_server_leaves_is_never_seen_and_cleaned_away(
    shared_store: RunStore, kept: Artifacts, folder: Path
) -> None:
    """It dies with the bytes half written, or written and the row not yet whole."""
    run = await create(shared_store)
    made = await upload(kept, run, b"x" * 1_000)
    (file,) = files(folder)
    (file.parent / f"{file.name}#1").write_bytes(b"half")

    def never_finished(connection: Connection) -> None:
        mark(connection, made.id)

    await shared_store.database.write(never_finished)
    assert await kept.of_run(PROJECT, run.id) == []
    with pytest.raises(NotFound):
        await kept.get(PROJECT, made.id)
    await kept.clean()
    assert files(folder) == []
    assert await kept.clean() == 0


async def test_artifacts_go_with_their_run(
    shared_store: RunStore, kept: Artifacts, folder: Path
) -> None:
    made = await begin(shared_store, await a_job(shared_store, "fetch"))
    step = await upload(kept, made.steps[0], b"log", name="log")
    own = await upload(kept, made.run, b"sum", name="summary")
    assert await kept.of_run(PROJECT, made.run.id) == [step, own]
    assert await kept.of_run(PROJECT, made.steps[0].id) == [step]
    await move(shared_store, made.steps[0], EXECUTING, COMPLETED)
    await delete(shared_store, made.run.id)
    for artifact in (step, own):
        with pytest.raises(NotFound):
            await kept.get(PROJECT, artifact.id)
    await kept.clean()
    assert files(folder) == []


async def test_a_run_that_is_deleted_during_an_upload_keeps_nothing_of_it(
    shared_store: RunStore, kept: Artifacts, folder: Path
) -> None:
    run = await create(shared_store)
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await go_on.wait()

    uploading = asyncio.create_task(kept.upload(PROJECT, run.id, "x", "text/plain", slow()))
    await until(lambda: _reserved(shared_store, run))
    await move(shared_store, run, EXECUTING, COMPLETED)
    await delete(shared_store, run.id)
    go_on.set()
    with pytest.raises(NotFound):
        await uploading
    await kept.clean()
    assert files(folder) == []


async def test_a_run_takes_artifacts_while_it_lives_and_for_a_day(
    shared_store: RunStore, kept: Artifacts
) -> None:
    run = await create(shared_store)
    await move(shared_store, run, EXECUTING, COMPLETED)
    late = await upload(kept, run, b"late")
    assert await kept.of_run(PROJECT, run.id) == [late]

    def long_ago(connection: Connection, ago: timedelta) -> None:
        connection.execute(
            sa.update(runs).where(runs.c.id == run.id).values(finished_at=run.created_at - ago)
        )

    await shared_store.database.write(long_ago, AFTERTIME)
    with pytest.raises(Conflict):
        await upload(kept, run, b"too late")
    with pytest.raises(NotFound):
        await kept.upload(PROJECT, "run_none", "x", "text/plain", in_chunks(b""))
    with pytest.raises(NotFound):
        await kept.upload("another", run.id, "x", "text/plain", in_chunks(b""))


async def test_the_same_idempotency_key_uploads_once(
    shared_store: RunStore, kept: Artifacts, folder: Path
) -> None:
    run = await create(shared_store)
    key = Key(PROJECT, f"upload-{run.id}", "POST here")
    first = await upload(kept, run, b"abc", key=key)
    assert await upload(kept, run, b"abc", key=key) == first
    with pytest.raises(IdempotencyKeyReused):
        await upload(kept, run, b"other", key=key)
    assert await kept.of_run(PROJECT, run.id) == [first]
    await kept.clean()
    assert [file.name for file in files(folder)] == [first.id]


async def test_one_artifact_can_be_deleted(
    shared_store: RunStore, kept: Artifacts, folder: Path
) -> None:
    run = await create(shared_store)
    made = await upload(kept, run, b"abc")
    await kept.delete(PROJECT, made.id)
    with pytest.raises(NotFound):
        await kept.delete(PROJECT, made.id)
    await kept.clean()
    assert files(folder) == []


async def test_a_blob_store_that_is_away_is_said_so(shared_store: RunStore, tmp_path: Path) -> None:
    file = tmp_path / "not-a-folder"
    file.write_bytes(b"")
    kept = Artifacts(shared_store.database, Blobs(str(file)))
    with pytest.raises(BlobsAway):
        await upload(kept, await create(shared_store), b"abc")


async def test_a_place_for_artifacts_is_a_folder_or_an_object_store() -> None:
    assert folder_of("/var/lib/x") == Path("/var/lib/x")
    assert folder_of("file:///var/lib/x%20y") == Path("/var/lib/x y")
    assert folder_of("s3://bucket/folder") is None
    for wrong in ("s3:///folder", "file://host/x", "s3:"):
        with pytest.raises(ValueError, match="URL"):
            folder_of(wrong)


async def _reserved(store: RunStore, run: Run) -> bool:
    return bool(await store.database.read(_rows, run.id))


def _rows(connection: Connection, run_id: str) -> list[str]:
    found = sa.select(artifact_rows.c.id).where(artifact_rows.c.run_id == run_id)
    return list(connection.scalars(found))
