"""Requests that were made to break something: each gets its answer, and the server goes on."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import urllib.parse
from contextlib import closing
from typing import Any

import pytest

from realtime.api import RESOURCES
from tests.security.serving import KEY, Serving

AUTH = f"Authorization: Bearer {KEY}\r\n".encode()


async def is_well(served: Serving) -> None:
    """It serves as before."""
    async with served.caller() as caller:
        run = await caller.made("/v1/runs", {"taskIdentifier": "t"})
        assert (await caller.get(f"/v1/runs/{run['id']}")).status_code == 200


BOMBS: dict[str, bytes] = {
    "deep lists": b"[" * 100_000,
    "deep lists, closed": b"[" * 50_000 + b"]" * 50_000,
    "deep objects": b'{"a":' * 100_000,
    "deep payload": b'{"taskIdentifier":"t","payload":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "wide": b'{"taskIdentifier":"t",' + b",".join(b'"%d":1' % n for n in range(100_000)) + b"}",
    "wide metadata": b'{"taskIdentifier":"t","metadata":{'
    + b",".join(b'"%d":1' % n for n in range(100_000))
    + b"}}",
    "long number": b'{"taskIdentifier":"t","payload":' + b"9" * 500_000 + b"}",
    "exponent": b'{"taskIdentifier":"t","payload":1e999999999}',
    "many tags": b'{"taskIdentifier":"t","tags":['
    + b",".join(b'"%d"' % n for n in range(9_000))
    + b"]}",
    "half a character": b'{"taskIdentifier":"\\ud800"}',
    "NUL": b'{"taskIdentifier":"a\\u0000b"}',
    "not UTF-8": b'{"taskIdentifier":"\xff\xfe"}',
    "NaN": b'{"taskIdentifier":"t","payload":NaN}',
    "mark of byte order": b'\xef\xbb\xbf{"taskIdentifier":"t"}',
    "__proto__": b'{"taskIdentifier":"t","__proto__":{"status":"COMPLETED"}}',
}


@pytest.mark.parametrize("what", BOMBS)
@pytest.mark.parametrize("path", ["/v1/runs", "/v1/runs/bulk", "/v1/batches", "/v1/tokens"])
async def test_json_that_is_a_bomb(served: Serving, what: str, path: str) -> None:
    """Refused with a reason; the reason is short, however long the request was."""
    async with served.caller() as caller:
        response = await caller.post(path, content=BOMBS[what])
    assert response.status_code in (400, 413, 422), response.text
    assert len(response.content) < 10_000


async def test_bombs_over_websocket(served: Serving) -> None:
    """Over its bound 1009, no JSON 4400, and what nests too deep is one or the other."""
    for what, bomb in BOMBS.items():
        async with served.reader() as reader:
            await reader.until("welcome")
            await reader.socket.send(bomb, text=True)
            assert await reader.closed() in (1007, 1009, 4400), what
    await is_well(served)


async def test_of_keys_that_come_twice_one_counts_everywhere(served: Serving) -> None:
    """What is checked is what is stored: no reader of the same bytes sees the other one."""
    body = b'{"taskIdentifier":"a","taskIdentifier":"b","payload":{"x":1,"x":2}}'
    async with served.caller() as caller:
        made = await caller.made("/v1/runs", content=body)
        got = (await caller.get(f"/v1/runs/{made['id']}")).json()
    for run in (made, got):
        assert (run["taskIdentifier"], run["payload"]) == ("b", {"x": 2})
    token = await _trigger(served, "a")
    async with served.caller(token) as caller:
        assert (await caller.post("/v1/runs", content=body)).status_code == 403


async def _trigger(served: Serving, task: str) -> str:
    async with served.caller() as caller:
        return await caller.a_token(f"trigger:tasks:{task}")


SQL = [
    "'; DROP TABLE runs; --",
    "' OR '1'='1",
    '" OR ""="',
    "\\'; DELETE FROM runs; --",
    "1); DELETE FROM runs; --",
    "%' UNION SELECT secret FROM signing_secrets --",
    "$1",
    ":project",
    "{project}",
    "%(project)s",
    "?",
    "a_%",
]


@pytest.mark.parametrize("text", SQL)
async def test_sql_is_text_wherever_it_stands(served: Serving, text: str) -> None:
    """In every field, filter, id and header it comes back as it was sent, and finds itself."""
    with closing(sqlite3.connect(served.file)) as database:
        secrets = [row[0] for row in database.execute("SELECT secret FROM signing_secrets")]
    async with served.caller() as caller:
        body = {
            "taskIdentifier": text,
            "tags": [text],
            "payload": {text: text},
            "metadata": {text: text},
            "idempotencyKey": text,
        }
        run = await caller.made("/v1/runs", body, headers={"Idempotency-Key": text})
        assert {key: run[key] for key in body} == body
        for query in ({"tag": text}, {"task": text}):
            found = (await caller.get("/v1/runs", params=query)).json()["data"]
            assert [each["id"] for each in found] == [run["id"]]
        paths = [
            resource.path.replace("{id}", "X").replace("{delivery}", "X").replace("X", "{0}")
            for resource in RESOURCES
            if "{" in resource.path
        ]
        quoted = urllib.parse.quote(text, safe="")
        for path in paths:
            response = await caller.get(path.format(quoted))
            assert response.status_code in (404, 405), (path, response.text)
        for name in ("status", "batchId", "parentRunId", "createdAfter", "limit", "after"):
            response = await caller.get("/v1/runs", params={name: text})
            assert response.status_code in (200, 400)
            assert all(secret not in response.text for secret in secrets)
            if response.status_code == 200:
                assert response.json()["data"] == []
    async with served.reader() as reader:
        await reader.until("welcome")
        await reader.say({"type": "subscribeToRunsWithTag", "id": 1, "tag": text})
        assert [each["id"] for each in (await reader.until("snapshot"))["runs"]] == [run["id"]]
        await reader.say({"type": "subscribeToRun", "id": 2, "runId": text})
        assert (await reader.until("error", id=2))["code"] == "not_found"


PATHS = [
    "/dash/../settings.py",
    "/dash/..%2f..%2fsettings.py",
    "/dash/%2e%2e/%2e%2e/pyproject.toml",
    "/dash//etc/passwd",
    "/dash/....//....//etc/passwd",
    "/dash/..%5c..%5csettings.py",
    "/dash/dash.js%00.txt",
    "/client/../dash.js/../../settings.py",
    "/client/%2fetc%2fpasswd",
    "/v1/runs/../tokens",
    "/v1/runs/..%2ftokens",
    "/v1/runs/%00",
    "/v1//runs",
    "//v1/runs",
    "/v1/runs/",
    "/V1/runs",
    "/v1/runs;x=1",
    "/v1/runs%20",
    "/v1/artifacts/..%2f..%2fetc%2fpasswd/content",
]


@pytest.mark.parametrize("path", PATHS)
async def test_paths_lead_nowhere_else(served: Serving, path: str) -> None:
    """Sent as they are: a client library would tidy them up before."""
    answer = await served.raw(
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\n".encode() + AUTH + b"\r\n"
    )
    assert answer.startswith((b"HTTP/1.1 404", b"HTTP/1.1 400")), answer[:200]
    assert b"root:" not in answer
    assert b"class Settings" not in answer


async def test_names_of_artifacts_are_names(served: Serving) -> None:
    """Neither a path on the server nor a header of the answer."""
    async with served.caller() as caller:
        run = await caller.made("/v1/runs", {"taskIdentifier": "t"})
        for name in ("../../etc/passwd", "a\r\nX-Evil: 1", 'a"; filename="b', "..", "a/b", "C:\\x"):
            made = await caller.post(
                f"/v1/runs/{run['id']}/artifacts", params={"name": name}, content=b"x"
            )
            if made.status_code != 201:
                assert made.status_code in (400, 422), made.text
                continue
            got = await caller.get(f"/v1/artifacts/{made.json()['id']}/content")
            assert got.content == b"x"
            assert "x-evil" not in got.headers
            disposition = got.headers["content-disposition"]
            plain = disposition.partition(";")[2].partition(";")[0]
            assert "/" not in plain
            assert "\\" not in plain
            assert disposition.startswith("attachment")


async def test_content_types_of_artifacts_are_no_way_into_a_header(served: Serving) -> None:
    """What somebody sent with an upload is sent to all who download it."""
    async with served.caller() as caller:
        run = await caller.made("/v1/runs", {"taskIdentifier": "t"})
        for kind in ("text/html", "text/html; charset=\x7f", "x" * 500, "\u00e9/x"):
            made = await caller.post(
                f"/v1/runs/{run['id']}/artifacts?name=x",
                content=b"<script>1</script>",
                headers={"Content-Type": kind.encode("latin-1")},
            )
            if made.status_code != 201:
                assert made.status_code in (400, 422), made.text
                continue
            got = await caller.get(f"/v1/artifacts/{made.json()['id']}/content")
            assert got.status_code == 200
            assert got.headers["x-content-type-options"] == "nosniff"
            assert "sandbox" in got.headers["content-security-policy"]


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 400_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
        b"GET /healthz?" + b"x" * 400_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: a\r\n" + b"X" * 400_000 + b": y\r\n\r\n",
    ],
    ids=["long value", "many", "long query", "long name"],
)
async def test_a_flood_of_headers_is_cut_off(served: Serving, head: bytes) -> None:
    """Before it is read to its end, without a key."""
    answer = await served.raw(head)
    assert answer.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400")) or not answer, answer[:100]
    await is_well(served)


SMUGGLED = [
    b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}   ",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    b"Content-Length: -1\r\n\r\n",
    b"Content-Length: +2\r\n\r\n{}",
    b"Content-Length: 99999999999999999999999\r\n\r\n",
    b"Content-Length : 2\r\n\r\n{}",
    b"X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}",
    b"X: a\rb\r\n\r\n",
    b"X: a\x00b\r\n\r\n",
]


@pytest.mark.parametrize("rest", SMUGGLED)
async def test_requests_that_two_servers_would_read_differently(
    served: Serving, rest: bytes
) -> None:
    """One answer, or none; never a second request out of the body of the first."""
    head = b"POST /v1/batches HTTP/1.1\r\nHost: localhost\r\n" + AUTH
    answer = await served.raw(head + rest + b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", eof=True)
    assert answer.count(b"HTTP/1.1 ") <= 2
    assert b"HTTP/1.1 5" not in answer
    await is_well(served)


async def test_headers_of_answers_are_not_written_by_callers(served: Serving) -> None:
    """An Origin, a Host and a Last-Event-ID come back in no header that they could split."""
    evil = b"x%0d%0aX-Evil:%201"
    for header in (b"Origin", b"Host", b"Last-Event-ID", b"Idempotency-Key", b"If-None-Match"):
        answer = await served.raw(
            b"GET /v1/runs HTTP/1.1\r\n" + AUTH + header + b": http://a" + evil + b"\r\n\r\n"
        )
        assert b"\r\nx-evil" not in answer.lower()


async def test_keys_that_were_made_to_collide_cost_nothing_special(served: Serving) -> None:
    """Names in JSON are hashed with a secret that is new with each process."""
    assert sys.flags.hash_randomization == 1
    body: dict[str, Any] = {"taskIdentifier": "t", "metadata": {f"{n}\0": n for n in range(5_000)}}
    async with served.caller() as caller:
        response = await caller.post("/v1/runs", content=json.dumps(body).encode())
    assert response.status_code in (201, 413, 422)


async def test_bytes_that_are_no_http(served: Serving) -> None:
    """Another protocol, half a one, none."""
    for data in (b"\x16\x03\x01\x02\x00", b"\x00" * 10_000, b"SSH-2.0-x\r\n", b"GET\r\n\r\n",
                 b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b""):  # fmt: skip
        answer = await served.raw(data, eof=True)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 400"), answer[:100]
    await asyncio.wait_for(is_well(served), 30)
