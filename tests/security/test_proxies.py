"""nginx and Caddy with TLS, as `docs/security.md` configures them, and who calls through them."""

from __future__ import annotations

import json
import re
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx2
import pytest
import trustme
from websockets.asyncio.client import connect

from tests.processes import API_KEY, Process, Server
from tests.realtime.serving import Reader

PAGE: Final = Path(__file__).parents[2] / "docs" / "security.md"
NAME: Final = "runs.example.com"
AUTHORIZED: Final = {"Authorization": f"Bearer {API_KEY}"}


def written(language: str) -> str:
    """The page's configuration in this language."""
    found = re.search(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def replaced(text: str, *changes: tuple[str, str]) -> str:
    """Each once or more: what is not there any more is not tested either."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


class Proxy(Process):
    """A proxy before a server, on a port with TLS."""

    program: str
    addresses: tuple[str, str]
    """Of whom a test has call through it."""

    def __init__(self, upstream: Server) -> None:
        super().__init__()
        self.upstream = upstream
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.folder / "authority.pem"))
        issued = authority.issue_cert(NAME)
        issued.private_key_pem.write_to_path(str(self.folder / "key.pem"))
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(str(self.folder / "cert.pem"), append=number > 0)
        self.tls = ssl.create_default_context()
        authority.configure_trust(self.tls)
        self.configure()

    def configure(self) -> None:
        raise NotImplementedError

    def answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=2) as plain:
                with self.tls.wrap_socket(plain, server_hostname=NAME) as secure:
                    head = f"GET /healthz HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n"
                    secure.sendall(head.encode())
                    return b" 200 " in secure.recv(100)
        except OSError:
            return False

    @asynccontextmanager
    async def reader(
        self, address: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[Reader]:
        """A WebSocket of somebody at that address of loopback."""
        plain = socket.create_connection(
            ("127.0.0.1", self.port), timeout=30, source_address=(address, 0)
        )
        plain.setblocking(False)
        async with connect(
            f"wss://{NAME}/v1/realtime",
            sock=plain,
            ssl=self.tls,
            server_hostname=NAME,
            additional_headers={**AUTHORIZED, **(headers or {})},
            proxy=None,
            open_timeout=60,
        ) as stream:
            yield Reader(stream)


class Nginx(Proxy):
    name = program = "nginx"
    addresses = ("127.0.0.2", "127.0.0.3")

    def configure(self) -> None:
        site = replaced(
            written("nginx"),
            ("127.0.0.1:8080", f"127.0.0.1:{self.upstream.port}"),
            ("listen 443 ssl;", f"listen 127.0.0.1:{self.port} ssl;"),
            ("/etc/ssl/runs.example.com.pem", str(self.folder / "cert.pem")),
            ("/etc/ssl/runs.example.com.key", str(self.folder / "key.pem")),
        )
        folders = "\n".join(
            f"{kind}_temp_path {self.folder / kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            f"daemon off; pid {self.folder / 'pid'}; error_log stderr;\nevents {{}}\n"
            f"http {{ access_log off;\n{folders}\n{site} }}\n",
            encoding="utf-8",
        )

    def command(self) -> Sequence[str]:
        return ["nginx", "-e", "stderr", "-p", str(self.folder), "-c", "nginx.conf"]


class Caddy(Proxy):
    name = program = "caddy"
    addresses = ("127.0.0.4", "127.0.0.5")

    def configure(self) -> None:
        tls = f"tls {self.folder / 'cert.pem'} {self.folder / 'key.pem'}"
        site = replaced(
            written("caddyfile"),
            ("127.0.0.1:8080", f"127.0.0.1:{self.upstream.port}"),
            (f"{NAME} {{\n", f"https://{NAME}:{self.port} {{\n\tbind 127.0.0.1\n\t{tls}\n"),
        )
        # The UDP port of the same number is held against other test runs: no HTTP/3.
        options = (
            "{\n\tadmin off\n\tauto_https disable_redirects\n\tgrace_period 1s\n"
            "\tservers {\n\t\tprotocols h1 h2\n\t}\n}\n"
        )
        (self.folder / "Caddyfile").write_text(options + site, encoding="utf-8")

    def command(self) -> Sequence[str]:
        return ["caddy", "run", "--adapter", "caddyfile", "--config", "Caddyfile"]

    def environment(self) -> Mapping[str, str]:
        return {**super().environment(), "HOME": str(self.folder)}


KINDS: Final = [
    pytest.param(
        kind,
        marks=pytest.mark.skipif(
            shutil.which(kind.program) is None,
            reason=f"no {kind.program} is installed: it was NOT tested with it",
        ),
    )
    for kind in (Nginx, Caddy)
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Behind a proxy on loopback; two streams an address."""
    args = ("--trusted-proxies", "127.0.0.1", "--connections-per-address", "2")
    with tempfile.TemporaryDirectory() as folder:
        with Server(f"sqlite:///{folder}/runstream.db", args=args) as made:
            yield made


@pytest.fixture
def start_proxy() -> Iterator[Callable[[Proxy], Proxy]]:
    started: list[Proxy] = []

    def start(proxy: Proxy) -> Proxy:
        started.append(proxy)
        proxy.start()
        return proxy

    yield start
    for proxy in started:
        proxy.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_streams_and_addresses_come_through_a_proxy(
    server: Server, start_proxy: Callable[[Proxy], Proxy], kind: type[Proxy]
) -> None:
    """Both kinds of stream with real traffic over TLS; and limits go by who calls, which a
    client cannot choose and only a trusted proxy is believed about."""
    here, elsewhere = kind.addresses
    proxy = start_proxy(kind(server))
    async with httpx2.AsyncClient(base_url=server.url, headers=AUTHORIZED, timeout=30) as api:
        made = await api.post("/v1/runs", json={"taskIdentifier": "t", "status": "EXECUTING"})
        run = made.json()["id"]
        async with proxy.reader(here) as one:
            welcome = await one.until("welcome")
            await one.say({"type": "subscribeToRun", "id": 1, "runId": run})
            await one.until("live")
            # An event stream is handed on as it comes, not when a buffer is full.
            plain = socket.create_connection(
                ("127.0.0.1", proxy.port), timeout=30, source_address=(here, 0)
            )
            with proxy.tls.wrap_socket(plain, server_hostname=NAME) as events:
                head = f"GET /v1/realtime/runs/{run} HTTP/1.1\r\nHost: {NAME}\r\n"
                head += f"Authorization: Bearer {API_KEY}\r\n\r\n"
                events.sendall(head.encode())
                _received(events, b"event: live")
                patch = {"metadata": {"progress": 0.42}}
                assert (await api.patch(f"/v1/runs/{run}", json=patch)).status_code == 200
                change = await one.until("change")
                assert change["run"]["metadata"] == {"progress": 0.42}
                _received(events, json.dumps(0.42).encode())

                # Both are of one address, which has no third; another has, and who says that
                # it is another has not.
                async with proxy.reader(here) as third:
                    assert await third.closed() == 4429
                liar = {"X-Forwarded-For": "203.0.113.9"}
                async with proxy.reader(here, liar) as third:
                    assert await third.closed() == 4429
                async with proxy.reader(elsewhere) as other:
                    assert (await other.until("welcome"))["server"] == welcome["server"]


def _received(stream: ssl.SSLSocket, wanted: bytes) -> None:
    got, deadline = b"", time.monotonic() + 30
    while wanted not in got:
        assert time.monotonic() < deadline, got
        part = stream.recv(65_536)
        assert part, got
        got += part


async def test_an_address_that_is_not_trusted_is_not_believed(server: Server) -> None:
    """It may claim what it likes: it is counted as who it is."""

    @asynccontextmanager
    async def reader(address: str, claimed: str) -> AsyncIterator[Reader]:
        headers = {**AUTHORIZED, "X-Forwarded-For": claimed}
        url = server.url.replace("http", "ws") + "/v1/realtime"
        async with connect(
            url, local_addr=(address, 0), additional_headers=headers, proxy=None
        ) as stream:
            yield Reader(stream)

    async with reader("127.0.0.9", "203.0.113.1") as one, reader("127.0.0.9", "203.0.113.2") as two:
        await one.until("welcome")
        await two.until("welcome")
        async with reader("127.0.0.9", "203.0.113.3") as third:
            assert await third.closed() == 4429
    async with reader("127.0.0.1", "203.0.113.1") as one, reader("127.0.0.1", "203.0.113.1") as two:
        await one.until("welcome")
        await two.until("welcome")
        async with reader("127.0.0.1", "203.0.113.2") as third:
            await third.until("welcome")
        # What the proxy itself adds stands last: what a client wrote before it is not believed.
        async with reader("127.0.0.1", "203.0.113.2, 203.0.113.1") as third:
            assert await third.closed() == 4429
