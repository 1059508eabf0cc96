"""How a server says how it is, and what it can be asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from realtime.api.asyncapi import SAID_BY_SERVER
from store.errors import Unavailable
from store.model import WIRE_FIELDS
from tests.processes import ROOT
from tests.realtime.api.calling import Caller, serving_on

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(request: pytest.FixtureRequest) -> AsyncIterator[Caller]:
    async with serving_on("sqlite", request) as caller:
        yield caller.with_token(None)


async def test_a_server_that_serves_is_alive_and_ready(api: Caller) -> None:
    """Nobody needs a key to ask."""
    assert (await api.get("/healthz")).status_code == 200
    ready = await api.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ok", "database": "ok", "broker": "ok", "draining": False}


async def test_without_its_database_it_is_alive_but_not_ready(
    api: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Restarting it would help nobody; sending requests elsewhere may."""

    async def away() -> None:
        raise Unavailable("away")

    monkeypatch.setattr(api.runtime.store, "check", away)
    ready = await api.get("/readyz")
    assert (ready.status_code, ready.json()["database"]) == (503, "unavailable")
    assert (await api.get("/healthz")).status_code == 200


async def test_without_its_broker_it_is_ready_and_says_so(
    api: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Streams go on without it, only slower."""
    monkeypatch.setattr(type(api.runtime), "broker", property(lambda _: "degraded"))
    ready = await api.get("/readyz")
    assert (ready.status_code, ready.json()["broker"]) == (200, "degraded")
    assert "runstream_broker_up" in (await api.get("/metrics")).text


async def test_a_server_that_drains_is_not_ready(
    api: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The balancer sends nobody here any more."""
    monkeypatch.setattr(api.runtime, "draining", True)
    ready = await api.get("/readyz")
    assert (ready.status_code, ready.json()["draining"]) == (503, True)


async def test_metrics_count_requests_by_route_and_never_by_path(
    api: Caller, request: pytest.FixtureRequest
) -> None:
    """A label that clients make up would fill the memory of whoever collects them."""
    await api.get("/v1/runs/run_made_up_by_a_client")
    await api.call("BREW", "/v1/runs")
    text = (await api.get("/metrics")).text
    assert 'runstream_http_requests_total{method="GET",route="/v1/runs/{id}",status="401"}' in text
    assert 'method="other",route="/v1/runs",status="405"' in text
    assert "made_up" not in text
    assert "runstream_commits_total" in text


async def test_metrics_count_the_tasks_at_work(api: Caller) -> None:
    """What is left behind is seen by it: nothing else shows a task that waits for ever."""

    async def counted() -> float:
        text = (await api.get("/metrics")).text
        (line,) = (each for each in text.splitlines() if each.startswith("runstream_tasks "))
        return float(line.split()[1])

    async with asyncio.TaskGroup() as tasks:
        over = asyncio.Event()
        for _ in range(100):
            tasks.create_task(over.wait())
        assert await counted() >= 100
        over.set()
    assert await counted() < 100


async def test_the_home_page_lets_nothing_in(api: Caller) -> None:
    """No script, no frame, whatever is found in it one day."""
    response = await api.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"


# ------------------------------------------------------------------------------------- documents


def golden(name: str) -> list[Any]:
    """The golden messages, less those that only a later version would send."""
    examples: list[Any] = msgspec.json.decode((ROOT / "tests/wire" / name).read_bytes())
    return [example for example in examples if not example["name"].startswith("unknown_")]


def references(value: Any) -> set[str]:
    """Every $ref in it."""
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*(references(each) for each in value.values()))
    if isinstance(value, list):
        return set().union(*(references(each) for each in value))
    return set()


def resolve(document: Any, reference: str) -> Any:
    for part in reference.removeprefix("#/").split("/"):
        document = document[part.replace("~1", "/")]
    return document


async def test_the_openapi_document_has_every_route_and_resolves(api: Caller) -> None:
    """It is made of the table that answers the calls, so it cannot fall behind."""
    document = (await api.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    routes = {
        getattr(route, "path", "")
        for route in api.client._transport.app.routes  # type: ignore[attr-defined]
    }
    assert {path for path in routes if path.startswith("/v1/") and path != "/v1/realtime"} <= set(
        document["paths"]
    )
    for reference in references(document):
        assert resolve(document, reference)
    names = []
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if method == "parameters":
                assert "{id}" in path
                continue
            names.append(operation["operationId"])
            assert operation["responses"]
            for status, response in operation["responses"].items():
                assert response["description"]
                content = response.get("content", {})
                if int(status) >= 400 and path.startswith("/v1/"):
                    assert list(content) == ["application/problem+json"]
            if path.startswith("/v1/"):
                assert {"400", "401", "403", "500", "503"} <= operation["responses"].keys()
    assert len(names) == len(set(names))
    assert set(document["components"]["schemas"]["Run"]["properties"]) == set(WIRE_FIELDS.values())
    assert "ProblemBody" in document["components"]["schemas"]


async def test_the_asyncapi_document_has_every_message_and_resolves(api: Caller) -> None:
    """Those of the golden examples, in both directions."""
    document = (await api.get("/asyncapi.json")).json()
    assert document["asyncapi"].startswith("3.0")
    for reference in references(document):
        assert resolve(document, reference)
    messages = document["components"]["messages"].keys()
    for name in ("client.json", "server.json"):
        for example in golden(name):
            assert example["message"]["type"] in messages


@pytest.mark.parametrize("example", golden("server.json"), ids=lambda example: example["name"])
async def test_what_the_document_says_of_a_message_is_what_the_message_is(example: Any) -> None:
    """Every golden message has just the fields that its schema has."""
    message = example["message"]
    type_ = SAID_BY_SERVER[message["type"]]
    fields = {each.encode_name: each for each in msgspec.structs.fields(type_)}
    assert message.keys() <= fields.keys()
    assert {name for name, each in fields.items() if each.required} <= message.keys()
    for name, each in fields.items():
        if name in message and name not in ("run", "runs"):
            msgspec.convert(message[name], each.type)
