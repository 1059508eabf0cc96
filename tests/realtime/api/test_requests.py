"""What any call may get wrong: bodies, methods, paths, headers, origins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from realtime.api.bodies import UpdateBody
from realtime.api.problems import Problem
from realtime.api.requests import fit, parse, parse_json
from store.errors import OutcomeUnknown, Unavailable
from tests.realtime.api.calling import Caller, assert_problem, serving, serving_on

pytestmark = pytest.mark.asyncio(loop_scope="module")

GOOD = b'{"taskIdentifier": "send"}'


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(request: pytest.FixtureRequest) -> AsyncIterator[Caller]:
    async with serving_on("sqlite", request) as caller:
        yield caller


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def open_api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Caller]:
    """A server without any key."""
    folder = tmp_path_factory.mktemp("open")
    async with serving(f"sqlite:///{folder / 'runstream.db'}", api_key=None) as caller:
        yield caller


# ----------------------------------------------------------------------------------------- bodies


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
     b'{"taskIdentifier": "\xff"}', b'{"taskIdentifier": "\xed\xa0\x80"}', b"\xef\xbb\xbf" + GOOD,
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
    response = await api.call("POST", "/v1/runs", content=GOOD, headers=headers)
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


# -------------------------------------------------------------------------------- paths and methods


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/", "/v1/runs/", "/V1/runs", "/v1/nothing", "/v1/runs/a/b/c", "/v1//runs",
             "/v2/runs", "/favicon.ico", "/v1/runs%2f", "/../etc/passwd", "/v1/realtime/"],
)  # fmt: skip
async def test_there_is_nothing_at_other_paths(api: Caller, path: str) -> None:
    """And it is said in the form that all problems have."""
    assert_problem(await api.get(path), 404, "not_found")


async def test_where_a_websocket_is_taken_a_plain_request_is_told_so(api: Caller) -> None:
    """A browser or `curl` may come by."""
    response = await api.get("/v1/realtime")
    assert "WebSocket" in assert_problem(response, 400, "bad_request")["detail"]
    assert response.headers["upgrade"] == "websocket"


@pytest.mark.parametrize("method", ["POST", "DELETE", "PUT"])
async def test_streams_of_events_are_read_and_nothing_else(api: Caller, method: str) -> None:
    """In the form that all problems have."""
    response = await api.call(method, "/v1/realtime/runs")
    assert_problem(response, 405, "method_not_allowed")
    assert "GET" in response.headers["allow"]


@pytest.mark.parametrize(
    "method, path, allow",
    [
        ("PUT", "/v1/runs", "GET, HEAD, OPTIONS, POST"),
        ("POST", "/v1/runs/x", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        ("GET", "/v1/runs/bulk", "OPTIONS, POST"),
        ("DELETE", "/healthz", "GET, HEAD, OPTIONS"),
        ("BREW", "/v1/batches", "OPTIONS, POST"),
    ],
)
async def test_another_method_is_told_which_there_are(
    api: Caller, method: str, path: str, allow: str
) -> None:
    """Of the whole path, not of the first route that matched."""
    response = await api.call(method, path)
    assert_problem(response, 405, "method_not_allowed")
    assert response.headers["allow"] == allow
    response = await api.call("OPTIONS", path)
    assert (response.status_code, response.headers["allow"]) == (204, allow)


async def test_head_is_get_without_the_body(api: Caller) -> None:
    """With the same headers, the length too."""
    run = await api.run()
    get = await api.get(f"/v1/runs/{run['id']}")
    head = await api.call("HEAD", f"/v1/runs/{run['id']}")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == get.headers["content-length"]


@pytest.mark.parametrize(
    "method, path",
    [("POST", "/v1/runs?x=1"), ("GET", "/v1/runs/run_00000000000000000000000000?limit=1")],
)
async def test_a_query_where_none_is_known_is_a_bad_request(
    api: Caller, method: str, path: str
) -> None:
    """It was meant for something, and would have no effect."""
    assert_problem(await api.call(method, path, content=GOOD), 400, "bad_request")


# ----------------------------------------------------------------------------------- authorization


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer ", "Bearer x", "Basic a2V5", "x", "", "Bearer a.b.c", "bearer\t",
               "Bearer " + "x" * 5_000],
)  # fmt: skip
async def test_without_a_good_key_nothing_is_told(api: Caller, header: str) -> None:
    """Neither whether there is such a run nor what was wrong with the body."""
    for method, path in (("GET", "/v1/runs"), ("GET", "/v1/runs/x"), ("POST", "/v1/runs")):
        response = await api.with_token(None).call(
            method, path, headers={"Authorization": header}, content=b"{"
        )
        assert_problem(response, 401, "unauthorized")
        assert response.headers["www-authenticate"] == "Bearer"
    assert_problem(await api.with_token(None).get("/v1/runs"), 401, "unauthorized")


async def test_two_authorization_headers_are_none(api: Caller) -> None:
    """A proxy and the application might each believe another one."""
    headers = [("Authorization", f"Bearer {api.token}"), ("Authorization", "Bearer x")]
    response = await api.client.get("/v1/runs", headers=headers)
    assert_problem(response, 401, "unauthorized")


async def test_the_scheme_is_read_in_any_case(api: Caller) -> None:
    """As RFC 9110 has it."""
    response = await api.with_token(None).get(
        "/v1/runs", headers={"Authorization": f"bEaReR  {api.token}"}
    )
    assert response.status_code == 200


# ------------------------------------------------------------------------- what the web asks for


PREFLIGHT = {
    "Origin": "https://app.example",
    "Access-Control-Request-Method": "PATCH",
    "Access-Control-Request-Headers": "authorization,content-type,idempotency-key",
}


async def test_with_a_key_pages_of_any_origin_may_call_without_credentials(api: Caller) -> None:
    """No browser sends a key by itself, so a page that has one was given it."""
    response = await api.with_token(None).call("OPTIONS", "/v1/runs/x", headers=PREFLIGHT)
    assert response.status_code == 204
    assert response.headers["access-control-allow-origin"] == "*"
    assert "PATCH" in response.headers["access-control-allow-methods"]
    allowed = response.headers["access-control-allow-headers"].lower()
    assert {"authorization", "content-type", "idempotency-key"} <= set(allowed.split(", "))
    assert "access-control-allow-credentials" not in response.headers
    for answer in (
        await api.get("/v1/runs", headers={"Origin": "https://app.example"}),
        await api.with_token("x").get("/v1/runs", headers={"Origin": "null"}),
        await api.get("/nothing", headers={"Origin": "https://app.example"}),
    ):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "Runstream-Token" in answer.headers["access-control-expose-headers"]
        assert "Origin" in answer.headers["vary"]


async def test_a_setting_narrows_the_origins(sqlite_url: str) -> None:
    """Others get no leave from the browser."""
    origin = "https://app.example"
    async with serving(sqlite_url, allowed_origins=(origin,)) as api:
        response = await api.get("/v1/runs", headers={"Origin": origin})
        assert response.headers["access-control-allow-origin"] == origin
        for other in ("https://evil.example", "null", "https://app.example.evil.example"):
            response = await api.get("/v1/runs", headers={"Origin": other})
            assert "access-control-allow-origin" not in response.headers
            response = await api.call("OPTIONS", "/v1/runs", headers=PREFLIGHT | {"Origin": other})
            assert "access-control-allow-origin" not in response.headers


async def test_without_a_key_everybody_on_this_machine_may_do_everything(
    open_api: Caller,
) -> None:
    """A key of another server does no harm; a token restricts its bearer all the same."""
    run = await open_api.run()
    assert (await open_api.get(f"/v1/runs/{run['id']}")).status_code == 200
    assert (await open_api.with_token("a-key-from-elsewhere").get("/v1/runs")).status_code == 200
    reader = await open_api.a_token("read:tags:a")
    assert_problem(await reader.get("/v1/runs"), 403, "forbidden")
    assert_problem(await open_api.with_token("a.b.c").get("/v1/runs"), 401, "unauthorized")


@pytest.mark.parametrize(
    "host, good",
    [
        ("localhost", True),
        ("localhost:1", True),
        ("127.0.0.1:8080", True),
        ("[::1]:8080", True),
        ("[::1]", True),
        ("app.localhost:8080", True),
        ("evil.example", False),
        ("evil.example:8080", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("10.0.0.1", False),
        ("0.0.0.0:8080", False),
        ("[::ffff:10.0.0.1]", False),
        ("", False),
    ],
)
async def test_without_a_key_a_foreign_host_is_refused(
    open_api: Caller, host: str, good: bool
) -> None:
    """A page may point a name of its own at 127.0.0.1, and is then of the same origin."""
    for path in ("/v1/runs", "/", "/metrics"):
        response = await open_api.get(path, headers={"Host": host})
        if good:
            assert response.status_code == 200
        else:
            assert_problem(response, 403, "forbidden")


@pytest.mark.parametrize(
    "origin, good",
    [
        ("http://localhost:5173", True),
        ("http://127.0.0.1:8080", True),
        ("http://[::1]:3000", True),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://localhost@evil.example", False),
        ("null", False),
        ("file://", False),
        ("http://[evil", False),
        ("", False),
    ],
)
async def test_without_a_key_a_foreign_origin_is_refused(
    open_api: Caller, origin: str, good: bool
) -> None:
    """Any page in this user's browser could call otherwise."""
    response = await open_api.post("/v1/runs", {"taskIdentifier": "x"}, headers={"Origin": origin})
    preflight = await open_api.call("OPTIONS", "/v1/runs", headers=PREFLIGHT | {"Origin": origin})
    if good:
        assert response.status_code == 201
        assert response.headers["access-control-allow-origin"] == origin
        assert preflight.status_code == 204
    else:
        assert_problem(response, 403, "forbidden")
        assert_problem(preflight, 403, "forbidden")
        assert "access-control-allow-origin" not in response.headers


async def test_without_a_key_callers_from_elsewhere_are_refused(open_api: Caller) -> None:
    """Should another server be put in front that listens on every address."""
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "GET", "path": "/v1/runs", "raw_path": b"/v1/runs",
        "query_string": b"", "headers": [(b"host", b"localhost")], "client": ("10.0.0.1", 1),
        "scheme": "http", "http_version": "1.1", "root_path": "", "server": None,
    }  # fmt: skip
    await open_api.client._transport.app(scope, receive, send)  # type: ignore[attr-defined]
    assert sent[0]["status"] == 403


# ----------------------------------------------------------------------------- what nobody foresaw


async def test_what_nobody_foresaw_is_logged_and_not_told(
    api: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the text of an error nor a place in our code leaves the server."""

    async def broken(*_: Any) -> Any:
        raise RuntimeError("secret of the inside")

    monkeypatch.setattr(api.runtime.store, "get_run", broken)
    response = await api.get("/v1/runs/run_00000000000000000000000000")
    problem = assert_problem(response, 500, "internal")
    assert "secret" not in response.text
    assert "secret of the inside" in caplog.text
    assert problem["detail"].rsplit(" ", 1)[1] in caplog.text


@pytest.mark.parametrize(
    "error, code", [(Unavailable("away"), "unavailable"), (OutcomeUnknown("?"), "outcome_unknown")]
)
async def test_a_database_that_is_away_is_said_with_when_to_come_back(
    api: Caller, monkeypatch: pytest.MonkeyPatch, error: Exception, code: str
) -> None:
    """Nothing was changed, or it is not known: the two are told apart."""

    async def away(*_: Any) -> Any:
        raise error

    monkeypatch.setattr(api.runtime.store, "execute", away)
    response = await api.post("/v1/runs", {"taskIdentifier": "x"})
    assert_problem(response, 503, code)
    assert int(response.headers["retry-after"]) >= 1


async def test_no_banner_says_what_runs_here(api: Caller) -> None:
    """It helps only who looks for a version with a hole."""
    for path in ("/", "/v1/runs", "/nothing"):
        response = await api.get(path)
        assert not {"server", "x-powered-by"} & set(response.headers)


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
