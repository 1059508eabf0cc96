"""Whatever is sent, the answer is one that the protocol names, and the server goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from realtime.api import RESOURCES
from realtime.api.bodies import ChangesQuery, NewRunBody, RunsQuery, TokenBody, UpdateBody
from realtime.api.problems import CODES
from store.model import RunStatus
from tests.realtime.api.calling import Caller, serving_on

FEW = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Running:
    """An application and the loop that it lives on, for tests that are not coroutines."""

    def __init__(self, request: pytest.FixtureRequest, kind: str) -> None:
        self.runner = asyncio.Runner()
        self.serving = serving_on(kind, request)
        self.api: Caller = self.runner.run(self.serving.__aenter__())
        self.run = self.runner.run(self.api.run(status="EXECUTING"))
        self.batch = self.runner.run(self.api.post("/v1/batches", {})).json()["batch"]

    def close(self) -> None:
        self.runner.run(self.serving.__aexit__(None, None, None))
        self.runner.close()

    def check(self, method: str, path: str, **how: Any) -> None:
        """Calls, and looks at the answer's form."""
        path = path.replace("{run}", self.run["id"]).replace("{batch}", self.batch["id"])
        response = self.runner.run(self.api.call(method, path, **how))
        assert response.status_code != 500, response.text
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json"
            problem = response.json()
            assert CODES[problem["code"]] == response.status_code
            assert (response.status_code == 422) is bool(problem.get("errors"))
        # What is answered can be read again, by any reader.
        if response.content and response.status_code != 204:
            msgspec.json.decode(response.content)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    made = Running(request, request.param)
    yield made
    made.close()


TEXT = st.text(max_size=20) | st.sampled_from(
    ["\0", "a\0b", "a:b", "%", "'", '"', "\\", "\u202e", "x" * 200, "𝕏", "é", "\x7f", "\n"]
)
SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**70), max_value=2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
    | st.sampled_from([status.value for status in RunStatus])
    | st.sampled_from(["2026-01-01T00:00:00Z", "9999-12-31T23:59:59.999999-23:59", "{run}"])
)
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)


def names(*types: type[msgspec.Struct]) -> st.SearchStrategy[str]:
    """Names that are known, and some that are not."""
    known = sorted(each.encode_name for one in types for each in msgspec.structs.fields(one))
    return st.sampled_from(known) | TEXT


BODY = (
    st.dictionaries(
        names(NewRunBody, UpdateBody, TokenBody)
        | st.sampled_from(["operations", "target", "items", "sealed", "commands", "op", "path"]),
        VALUE,
        max_size=6,
    )
    | VALUE
)
COMMANDS = [
    ("POST", "/v1/runs"),
    ("POST", "/v1/runs/bulk"),
    ("PATCH", "/v1/runs/{run}"),
    ("POST", "/v1/runs/{run}/metadata"),
    ("POST", "/v1/runs/{run}/heartbeat"),
    ("POST", "/v1/batches"),
    ("POST", "/v1/batches/{batch}/items"),
    ("POST", "/v1/tokens"),
]


def encoded(value: Any) -> bytes:
    # Python's floats of large size and text with lone halves must arrive as they may be sent.
    return msgspec.json.encode(value)


@FEW
@given(call=st.sampled_from(COMMANDS), body=BODY)
def test_no_json_breaks_a_command(running: Running, call: tuple[str, str], body: Any) -> None:
    """Known names with values of every kind."""
    running.check(*call, content=encoded(body))


@FEW
@given(fields=st.dictionaries(names(NewRunBody), VALUE, max_size=4), item=BODY)
def test_no_run_breaks_a_create(running: Running, fields: dict[str, Any], item: Any) -> None:
    """The same, but nearly right, alone and among others."""
    body = {"taskIdentifier": "fuzz"} | fields
    running.check("POST", "/v1/runs", content=encoded(body))
    bulk = {"commands": [{"create": body}, {"update": {"runId": "{run}"}}, {"update": item}]}
    running.check("POST", "/v1/runs/bulk", content=encoded(bulk))
    running.check("POST", "/v1/batches", content=encoded({"items": [body]}))


@FEW
@given(fields=st.dictionaries(names(UpdateBody), VALUE, max_size=4))
def test_no_change_breaks_an_update(running: Running, fields: dict[str, Any]) -> None:
    """Whatever was changed before."""
    running.check("PATCH", "/v1/runs/{run}", content=encoded(fields))


@FEW
@given(
    operations=st.lists(
        st.fixed_dictionaries(
            {"op": st.sampled_from(["set", "delete", "append", "remove", "increment"]),
             "path": st.sampled_from(["a", "a.b", "a.b.c", "n", "l", ".", "a..b"]) | TEXT},
            optional={"value": VALUE},
        ),
        max_size=4,
    )
)  # fmt: skip
def test_no_operation_breaks_the_metadata(running: Running, operations: list[Any]) -> None:
    """Paths that lead through what is no object, sums that no float holds."""
    body = {"operations": operations}
    running.check("POST", "/v1/runs/{run}/metadata", content=encoded(body))


@FEW
@given(
    call=st.sampled_from(COMMANDS),
    body=st.binary(max_size=200)
    | st.builds(lambda value, at: encoded(value)[:at], BODY, st.integers(0, 200)),
)
def test_no_bytes_break_a_command(running: Running, call: tuple[str, str], body: bytes) -> None:
    """Noise, and JSON that was cut off."""
    running.check(*call, content=body)


@FEW
@given(
    path=st.sampled_from(["/v1/runs", "/v1/runs/{run}/changes", "/v1/runs/{run}", "/readyz"]),
    query=st.lists(
        st.tuples(
            names(RunsQuery, ChangesQuery),
            TEXT
            | st.integers().map(str)
            | st.sampled_from(["true", "null", "QUEUED", "2026-01-01T00:00:00Z", "9" * 5_000]),
        ),
        max_size=4,
    ),
)
def test_no_query_breaks_a_read(running: Running, path: str, query: list[tuple[str, str]]) -> None:
    """Known parameters with values of every kind, and unknown ones."""
    pairs = "&".join(f"{quote(name)}={quote(value)}" for name, value in query)
    running.check("GET", f"{path}?{pairs}")


@FEW
@given(query=st.text(alphabet="abcdefgnlimtgs=&%;+0123456789fF[]", max_size=60))
def test_no_noise_in_a_query_breaks_a_read(running: Running, query: str) -> None:
    """Escapes that are none, signs without names."""
    running.check("GET", f"/v1/runs?{query}")


@FEW
@given(
    resource=st.sampled_from(RESOURCES),
    method=st.sampled_from(["GET", "POST", "PATCH", "DELETE", "PUT", "OPTIONS"]),
    id=TEXT.filter(lambda text: text not in ("", ".", "..")),
)
def test_no_path_breaks_the_router(running: Running, resource: Any, method: str, id: str) -> None:
    """Any text where an id belongs."""
    if resource.path in ("/", "/metrics"):
        return  # answered in another form than JSON
    running.check(method, resource.path.replace("{id}", quote(id, safe="")), content=b"{}")


@FEW
@given(header=st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=60))
def test_no_authorization_breaks_the_door(running: Running, header: str) -> None:
    """Keys and tokens of every kind but a good one."""
    for value in (header, f"Bearer {header}", f"Bearer {header}.{header}.{header}"):
        running.check("GET", "/v1/runs", headers={"Authorization": value})
