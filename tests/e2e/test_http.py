"""HTTP with a real server process: what only a socket shows."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx2
import pytest
from websockets import Subprotocol
from websockets.asyncio.client import connect

from tests.processes import API_KEY, Server

AUTH = {"Authorization": f"Bearer {API_KEY}"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all that does no harm to it."""
    folder = tmp_path_factory.mktemp("http")
    with Server(f"sqlite:///{folder / 'runstream.db'}") as server:
        yield server


@contextmanager
def conversation(server: Server) -> Iterator[socket.socket]:
    """A plain TCP connection."""
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=10)) as line:
        yield line


def answer(line: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer: status, headers, body."""
    reader = line.makefile("rb")
    status = int(reader.readline().split()[1])
    headers = {}
    while (header := reader.readline().decode().strip()) != "":
        name, _, value = header.partition(": ")
        headers[name.lower()] = value
    return status, headers, reader.read(int(headers.get("content-length", 0)))


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    given = {"Host": "localhost", **AUTH, "Content-Length": str(len(body)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in given.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


NEW = json.dumps({"taskIdentifier": "e2e"}).encode()


def test_a_run_lives_its_life_over_http(server: Server) -> None:
    """On each kind of database and broker."""
    with httpx2.Client(base_url=server.url, headers=AUTH) as client:
        made = client.post("/v1/runs", json={"taskIdentifier": "job", "tags": ["t"]})
        assert made.status_code == 201
        path = f"/v1/runs/{made.json()['id']}"
        client.patch(path, json={"status": "EXECUTING"})
        done = client.patch(path, json={"status": "COMPLETED", "output": {"x": 1}}).json()
        assert client.get(path).json() == done
        assert [each["version"] for each in client.get(f"{path}/changes").json()["data"]] == [
            1,
            2,
            3,
        ]
        assert client.get("/v1/runs", params={"tag": "t"}).json()["data"] == [done]
        batch = client.post("/v1/batches", json={"items": [{"taskIdentifier": "job"}] * 3}).json()
        assert client.get(f"/v1/batches/{batch['batch']['id']}").json()["size"] == 3
        assert client.get("/readyz").json()["broker"] == "ok"


def test_one_connection_carries_many_requests_also_after_refusals(api: Server) -> None:
    """A refused body is not taken for the next request."""
    with conversation(api) as line:
        for body, expected in [
            (NEW, 201), (b"{", 400), (b"[]", 422), (NEW, 201), (b" " * 12_000_000, 413), (NEW, 201),
        ]:  # fmt: skip
            line.sendall(request("POST", "/v1/runs", body))
            status, headers, said = answer(line)
            assert status == expected, said
            assert "server" not in headers
            assert "date" not in headers


def test_a_chunked_body_is_read_as_one_and_not_beyond_the_limit(api: Server) -> None:
    """It says nothing of its length beforehand."""
    head = request("POST", "/v1/runs").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    with conversation(api) as line:
        line.sendall(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(NEW), NEW))
        assert answer(line)[0] == 201
    with conversation(api) as line:
        line.sendall(head)
        chunk = b"%x\r\n%b\r\n" % (1_000_000, b" " * 1_000_000)
        line.settimeout(30)
        for _ in range(10):
            line.sendall(chunk)
        status, _, said = answer(line)
        assert (status, json.loads(said)["code"]) == (413, "payload_too_large")


@pytest.mark.parametrize(
    "noise",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01", b"GET\r\n\r\n", b"\0" * 1_000, b"GET / HTTP/9.9\r\n\r\n",
     request("POST", "/v1/runs", Content_Length="-5"), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
     request("POST", "/v1/runs", NEW, Transfer_Encoding="chunked")],
)  # fmt: skip
def test_what_is_no_http_is_hung_up_on(api: Server, noise: bytes) -> None:
    """And the server goes on; a request that could be read in two ways is not read at all."""
    with conversation(api) as line:
        line.sendall(noise)
        line.shutdown(socket.SHUT_WR)
        said = b""
        while chunk := line.recv(65_536):
            said += chunk
    assert b" 20" not in said.split(b"\r\n")[0]
    assert api.get("/healthz") == 200


def test_a_caller_who_goes_away_harms_nobody(api: Server) -> None:
    """Half a body, then silence."""
    for _ in range(20):
        with conversation(api) as line:
            line.sendall(request("POST", "/v1/runs", NEW)[:-5])
    assert api.get("/healthz") == 200
    assert "Traceback" not in api.log()


def test_no_log_line_holds_a_key_or_a_token(
    start_server: Callable[..., Server], sqlite_url: str
) -> None:
    """Also where every request is logged."""
    server = start_server(sqlite_url, None, args=["--access-log", "--log-level", "debug"])
    with httpx2.Client(base_url=server.url, headers=AUTH) as client:
        made = client.post("/v1/runs", json={"taskIdentifier": "x"})
        token = made.headers["runstream-token"]
        client.get("/v1/runs", headers={"Authorization": f"Bearer {token}"})
        client.get("/v1/runs", headers={"Authorization": f"Bearer {token}x"})
        key = client.post("/v1/tokens", json={"scopes": ["read:runs"]}).json()["token"]
        client.get("/metrics")
    log = server.log(most=1_000_000)
    assert "POST /v1/runs" in log
    for secret in (API_KEY, token, key, token.rpartition(".")[2]):
        assert secret not in log


async def test_a_server_that_is_asked_to_stop_sends_its_streams_away_first(
    start_server: Callable[..., Server], sqlite_url: str
) -> None:
    """It is not ready any more, tells when it goes, delivers until then, and goes in time."""
    server = start_server(sqlite_url, None, args=["--drain-s", "3"])
    uri = server.url.replace("http", "ws") + "/v1/realtime"
    async with (
        connect(uri, additional_headers=AUTH, subprotocols=[Subprotocol("runstream.v1")]) as stream,
        httpx2.AsyncClient(base_url=server.url, headers=AUTH) as client,
    ):
        await stream.send(json.dumps({"type": "subscribeToRuns", "id": 1}))
        messages: list[dict[str, Any]] = []

        async def until(type_: str) -> dict[str, Any]:
            while True:
                found = [each for each in messages if each["type"] == type_]
                if found:
                    return found[0]
                text = await asyncio.wait_for(stream.recv(), 10)
                messages.extend(map(json.loads, str(text).split("\n")))

        await until("live")
        began = time.monotonic()
        server.signal(server.graceful)
        told = await until("reconnect")
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["draining"]) == (503, True)
        made = await client.post("/v1/runs", json={"taskIdentifier": "late"})
        assert made.status_code == 201
        assert (await until("change"))["run"]["id"] == made.json()["id"]
        await asyncio.wait_for(stream.wait_closed(), 10)
        assert stream.close_code in (1001, 1012)
        assert 0 < told["afterMs"] <= 3000
    assert server.stop() == 0
    assert time.monotonic() - began < 15, "far from what it was given, and half of the default"
