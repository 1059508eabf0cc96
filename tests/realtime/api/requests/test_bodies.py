"""Bodies: what is no JSON, what does not fit, what is too much."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from realtime.api.bodies import UpdateBody
from realtime.api.problems import Problem
from realtime.api.requests import fit, parse, parse_json
from tests.realtime.api.calling import A_RUN, Caller, assert_problem

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b'{"status": "EXECUTING"}', b'{"status": "nope", "status": "EXECUTING"}',
     b'{"status": "EXECUTING", "status": 5}', b'{"ifVersion": 1.0}', b'{"ifVersion": 1e0}',
     b'{"ifVersion": "1"}', b'{"ifVersion": true}', b'{"costInCents": 5}', b'{"costInCents": 5e-1}',
     b'{"costInCents": ' + b"9" * 30 + b"}", b'{"ifVersion": ' + b"9" * 30 + b"}",
     b'{"output": ' + b"9" * 30 + b"}", b'{"output": 1e999}', b'{"output": -0.0}',
     b'{"output": {"a": 1, "a": 2}}', b'{"addTags": ["a"]}', b'{"addTags": "a"}',
     b'{"addTags": ["a", 5]}', b'{"error": null}', b'{"error": []}', b'{"metadata": null}',
     b'{"delayUntil": "2026-01-01T00:00:00Z"}', b'{"delayUntil": "2026-01-01T00:00:00"}',
     b'{"delayUntil": "2026-01-01 00:00:00+05:30"}', b'{"delayUntil": 5}',
     b'{"delayUntil": "2016-12-31T23:59:60Z"}', b'{"unknown": 1}', b'{"unknown": 1, "status": 5}',
     b'{"\\u0073tatus": "EXECUTING"}', b'{"output": "\\ud83d\\ude00"}', b" {} ", b"[]"],
)  # fmt: skip
async def test_a_body_read_in_one_step_is_as_it_is_read_in_two(body: bytes) -> None:
    """The fast way takes nothing that the thorough one refuses, nor takes it for another thing."""

    def outcome(read: Callable[[], UpdateBody]) -> object:
        try:
            body = read()
        except Problem as problem:
            return problem.body()
        return [(type(value), value) for value in msgspec.structs.astuple(body)]

    def thoroughly() -> UpdateBody:
        return fit(parse_json(body) if body else {}, UpdateBody)

    assert outcome(lambda: parse(body, UpdateBody)) == outcome(thoroughly)


@pytest.mark.parametrize(
    "body",
    [b"{", b"nope", b"{'taskIdentifier': 'x'}", b'{"taskIdentifier": "x"} {}', b"\xff\xfe{}",
     b'{"taskIdentifier": "\xff"}', b'{"taskIdentifier": "\xed\xa0\x80"}', b"\xef\xbb\xbf" + A_RUN,
     b'{"taskIdentifier": "x", "payload": NaN}', b'{"taskIdentifier": 5,', b" ", b"\0",
     b'{"taskIdentifier": "\\ud800"}', b'{"taskIdentifier": "x",}', b'{"a": 01}'],
)  # fmt: skip
async def test_what_is_no_json_is_a_bad_request(api: Caller, body: bytes) -> None:
    """As against JSON that does not fit."""
    assert_problem(await api.call("POST", "/v1/runs", content=body), 400, "bad_request")


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"null", b"5", b'"x"', b"[" * 100_000,
     b'{"taskIdentifier": "x", "payload": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
     b'{"taskIdentifier": "x", "payload": ' + b"[" * 65 + b"]" * 65 + b"}",
     b'{"taskIdentifier": "x", "payload": ' + b'{"a":' * 65 + b"1" + b"}" * 65 + b"}",
     b'{"taskIdentifier": "x", "payload": ' + b"9" * 5_000 + b"}",
     b'{"taskIdentifier": "x", "ttl": ' + b"9" * 5_000 + b"}",
     b'{"taskIdentifier": "x", "payload": 1e999}',
     b'{"taskIdentifier": "x", "payload": "\\u0000"}'],
)  # fmt: skip
async def test_json_that_does_not_fit_is_unprocessable(api: Caller, body: bytes) -> None:
    """Also what would exhaust a parser."""
    problem = assert_problem(await api.call("POST", "/v1/runs", content=body), 422, "unprocessable")
    assert problem["errors"]


async def test_json_may_nest_as_deep_as_the_limit(api: Caller) -> None:
    """64 arrays around one another, and no more."""
    body = b'{"taskIdentifier": "x", "payload": ' + b"[" * 64 + b"]" * 64 + b"}"
    response = await api.call("POST", "/v1/runs", content=body)
    assert response.status_code == 201
    assert (await api.get(f"/v1/runs/{response.json()['id']}")).json() == response.json()


@pytest.mark.parametrize(
    "type_", ["application/json", "text/plain", "application/x-www-form-urlencoded", None]
)
async def test_json_is_taken_whatever_the_header_calls_it(api: Caller, type_: str | None) -> None:
    """`curl -d` calls everything a form."""
    headers = {} if type_ is None else {"Content-Type": type_}
    response = await api.call("POST", "/v1/runs", content=A_RUN, headers=headers)
    assert response.status_code == 201


@pytest.mark.parametrize("claimed", [None, "10", "99999999999999999999", "-1", "x"])
async def test_a_body_is_never_read_beyond_the_limit_whatever_its_header_claims(
    api: Caller, claimed: str | None
) -> None:
    """A header proves nothing, and a chunked body has none."""
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1_000):
            read += 100_000
            yield b" " * 100_000

    headers = {} if claimed is None else {"Content-Length": claimed}
    for path in ("/v1/runs", "/v1/runs/bulk", "/v1/tokens", "/v1/batches"):
        read = 0
        response = await api.call("POST", path, content=endless(), headers=headers)
        assert_problem(response, 413, "payload_too_large")
        assert read < 40_000_000


async def test_errors_speak_of_json_and_not_of_python(api: Caller) -> None:
    """Whoever reads them may never have seen Python."""
    body = {
        "taskIdentifier": 1, "tags": "x", "metadata": [], "ttl": "a", "isTest": 1, "delay": "x",
        "delayUntil": 3, "status": "x", "maxAttempts": 1.5, "idempotencyKey": 5, "str": 1,
    }  # fmt: skip
    problem = assert_problem(await api.post("/v1/runs", body), 422, "unprocessable")
    said = {each["path"]: each["message"] for each in problem["errors"]}
    assert said == {
        "taskIdentifier": "Expected string, got integer",
        "tags": "Expected array, got string",
        "metadata": "Expected object, got array",
        "ttl": "Expected integer | null, got string",
        "isTest": "Expected boolean, got integer",
        "delay": "Expected number | null, got string",
        "delayUntil": "Expected time | null, got integer",
        "status": "Invalid value 'x'",
        "maxAttempts": "Expected integer, got number",
        "idempotencyKey": "Expected string | null, got integer",
        "str": "is not known here",
    }
    for time in ("x", "2026-01-01T00:00:00"):
        response = await api.post("/v1/runs", {"taskIdentifier": "t", "delayUntil": time})
        problem = assert_problem(response, 422, "unprocessable")
        assert problem["errors"] == [
            {"path": "delayUntil", "message": "Expected a time like 2026-01-31T12:00:00Z"}
        ]
    response = await api.get("/v1/runs", params={"limit": "x"})
    detail = assert_problem(response, 400, "bad_request")["detail"]
    assert "integer" in detail
    assert "int " not in detail
