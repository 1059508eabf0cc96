"""HTTP calls about artifacts: streamed in, served whole or in part, and harmless to browsers."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from email.message import Message
from typing import Any

import pytest
import pytest_asyncio

from realtime.api.artifacts import byte_range, disposition
from store.model import new_id
from tests.realtime.api.calling import Caller, assert_problem, serving_on

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXT = bytes(range(256)) * 400


@pytest_asyncio.fixture(loop_scope="module", scope="module", params=["sqlite", "postgres"])
async def api(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Caller]:
    folder = tmp_path_factory.mktemp("blobs")
    async with serving_on(
        request.param, request, artifacts=str(folder), artifact_bytes=200_000
    ) as caller:
        yield caller


async def upload(
    api: Caller, run: dict[str, Any], content: Any = TEXT, name: str = "report.bin", **headers: str
) -> dict[str, Any]:
    response = await api.post(
        f"/v1/runs/{run['id']}/artifacts",
        params={"name": name},
        content=content,
        headers={"Content-Type": "application/x-report", **headers},
    )
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    return made


async def test_an_artifact_is_uploaded_listed_and_fetched(api: Caller) -> None:
    run = await api.run()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(TEXT), 7_000):
            yield TEXT[start : start + 7_000]

    made = await upload(api, run, chunks())
    sha256 = hashlib.sha256(TEXT).hexdigest()
    assert made["id"].startswith("art_")
    assert made == {
        "id": made["id"], "runId": run["id"], "name": "report.bin",
        "contentType": "application/x-report", "size": len(TEXT), "sha256": sha256,
        "createdAt": made["createdAt"],
    }  # fmt: skip
    assert (await api.get(f"/v1/artifacts/{made['id']}")).json() == made
    listed = await api.get(f"/v1/runs/{run['id']}/artifacts")
    assert listed.json() == {"data": [made], "next": None}
    whole = await api.get(f"/v1/artifacts/{made['id']}/content")
    assert whole.status_code == 200
    assert whole.content == TEXT
    assert whole.headers["etag"] == f'"{sha256}"'
    assert whole.headers["content-type"] == "application/x-report"
    assert whole.headers["content-length"] == str(len(TEXT))
    assert whole.headers["content-disposition"] == 'attachment; filename="report.bin"'
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert whole.headers["accept-ranges"] == "bytes"
    assert (await api.delete(f"/v1/artifacts/{made['id']}")).status_code == 204
    assert_problem(await api.get(f"/v1/artifacts/{made['id']}/content"), 404, "not_found")


@pytest.mark.parametrize(
    "asked,start,end",
    [
        ("bytes=0-9", 0, 10),
        ("bytes=100-", 100, len(TEXT)),
        ("bytes=-5", len(TEXT) - 5, len(TEXT)),
        ("bytes=0-999999999", 0, len(TEXT)),
        ("bytes=-999999999", 0, len(TEXT)),
        (f"bytes={len(TEXT) - 1}-", len(TEXT) - 1, len(TEXT)),
        ("Bytes = 5 - 6", 5, 7),
    ],
)
async def test_a_part_of_it_is_served(api: Caller, asked: str, start: int, end: int) -> None:
    made = await upload(api, await api.run())
    part = await api.get(f"/v1/artifacts/{made['id']}/content", headers={"Range": asked})
    assert part.status_code == 206
    assert part.content == TEXT[start:end]
    assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(TEXT)}"
    assert part.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "lines=0-9", "bytes=9-5", "bytes=-", "0-9"])
async def test_what_is_no_single_range_is_answered_with_the_whole(api: Caller, asked: str) -> None:
    """RFC 9110: who does not understand a Range ignores it."""
    made = await upload(api, await api.run(), b"abc" * 10)
    whole = await api.get(f"/v1/artifacts/{made['id']}/content", headers={"Range": asked})
    assert (whole.status_code, whole.content) == (200, b"abc" * 10)


@pytest.mark.parametrize("asked", ["bytes=30-", "bytes=99-100", "bytes=-0"])
async def test_a_part_that_there_is_not_is_refused_with_the_size(api: Caller, asked: str) -> None:
    made = await upload(api, await api.run(), b"abc" * 10)
    refused = await api.get(f"/v1/artifacts/{made['id']}/content", headers={"Range": asked})
    assert refused.status_code == 416
    assert refused.headers["content-range"] == "bytes */30"


async def test_conditions_are_kept(api: Caller) -> None:
    made = await upload(api, await api.run())
    path = f"/v1/artifacts/{made['id']}/content"
    tag = f'"{made["sha256"]}"'
    for header in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        same = await api.get(path, headers={"If-None-Match": header})
        assert (same.status_code, same.content) == (304, b"")
        assert same.headers["etag"] == tag
    assert (await api.get(path, headers={"If-None-Match": '"other"'})).status_code == 200
    assert (await api.get(path, headers={"If-Match": tag})).status_code == 200
    assert (await api.get(path, headers={"If-Match": '"other"'})).status_code == 412
    part = {"Range": "bytes=0-9"}
    assert (await api.get(path, headers=part | {"If-Range": tag})).status_code == 206
    for other in ('"other"', f"W/{tag}", "Sun, 01 Mar 2026 12:00:00 GMT"):
        assert (await api.get(path, headers=part | {"If-Range": other})).status_code == 200


async def test_a_head_says_what_a_get_would(api: Caller) -> None:
    made = await upload(api, await api.run())
    path = f"/v1/artifacts/{made['id']}/content"
    for headers in ({}, {"Range": "bytes=0-9"}):
        head = await api.call("HEAD", path, headers=headers)
        got = await api.get(path, headers=headers)
        assert (head.status_code, head.content) == (got.status_code, b"")
        for name in ("content-length", "etag", "content-type"):
            assert head.headers[name] == got.headers[name]


async def test_what_comes_is_held_against_what_was_said(api: Caller) -> None:
    run = await api.run()
    right = base64.b64encode(hashlib.sha256(TEXT).digest()).decode()
    await upload(api, run, **{"Content-Digest": f"sha-256=:{right}:"})
    wrong = base64.b64encode(hashlib.sha256(b"").digest()).decode()
    path = f"/v1/runs/{run['id']}/artifacts"
    refused = await api.post(
        path, params={"name": "x"}, content=TEXT, headers={"Content-Digest": f"sha-256=:{wrong}:"}
    )
    assert_problem(refused, 422, "unprocessable")
    refused = await api.post(
        path, params={"name": "x"}, content=TEXT, headers={"Content-Digest": "sha-256=:abc:"}
    )
    assert_problem(refused, 400, "bad_request")
    assert len((await api.get(path)).json()["data"]) == 1


async def test_uploads_are_bounded_and_need_a_name_and_a_run(api: Caller) -> None:
    run = await api.run()
    path = f"/v1/runs/{run['id']}/artifacts"

    async def much() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield b"x" * 10_000

    for content in (b"x" * 200_001, much()):
        big = await api.post(path, params={"name": "x"}, content=content)
        assert_problem(big, 413, "payload_too_large")
    assert_problem(await api.post(path, content=b"x"), 400, "bad_request")
    for name in ("", "a\nb", "x" * 256):
        odd = await api.post(path, params={"name": name}, content=b"x")
        assert_problem(odd, 422, "unprocessable")
    unknown = await api.post(
        f"/v1/runs/{new_id('run')}/artifacts", params={"name": "x"}, content=b"x"
    )
    assert_problem(unknown, 404, "not_found")
    assert (await api.get(path)).json()["data"] == []


async def test_a_repeated_upload_is_answered_with_the_first(api: Caller) -> None:
    run = await api.run()
    key = {"Idempotency-Key": new_id("key")}
    first = await upload(api, run, **key)
    assert await upload(api, run, **key) == first
    assert (await api.get(f"/v1/runs/{run['id']}/artifacts")).json()["data"] == [first]


async def test_who_may_read_the_run_may_read_its_artifacts(api: Caller) -> None:
    run = await api.run(tags=["a"])
    made = await upload(api, run)
    reader = await api.a_token(f"read:runs:{run['id']}")
    other = await api.a_token("read:tags:b")
    for path in (
        f"/v1/artifacts/{made['id']}",
        f"/v1/artifacts/{made['id']}/content",
        f"/v1/runs/{run['id']}/artifacts",
    ):
        assert (await reader.get(path)).status_code == 200
        assert_problem(await other.get(path), 404, "not_found")
    refused = await reader.post(
        f"/v1/runs/{run['id']}/artifacts", params={"name": "x"}, content=b"x"
    )
    assert_problem(refused, 403, "forbidden")
    assert_problem(await reader.delete(f"/v1/artifacts/{made['id']}"), 403, "forbidden")


@pytest.mark.parametrize(
    "name,seen",
    [
        ("report.txt", "report.txt"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ('a"b\\c', "a_b_c"),
        ("a/b", "a_b"),
        ("...", "artifact"),
        ("naïve ☃.txt", "na_ve _.txt"),
        ("x\u202etxt.exe", "x_txt.exe"),
    ],
)
async def test_a_browser_is_told_a_name_that_is_no_path(name: str, seen: str) -> None:
    header = disposition(name)
    assert header.isascii()
    read = Message()
    read["content-disposition"] = header
    assert read.get_content_disposition() == "attachment"
    assert read.get_filename() == seen


async def test_a_name_in_any_letters_is_told_too() -> None:
    assert disposition("naïve ☃.txt").endswith("; filename*=UTF-8''na%C3%AFve%20%E2%98%83.txt")


async def test_a_range_of_nothing_is_ignored() -> None:
    assert byte_range("bytes=0-0", 0) is None
