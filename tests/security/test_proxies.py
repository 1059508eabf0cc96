"""nginx and Caddy with TLS, as `docs/security.md` configures them, and who calls through them."""

from __future__ import annotations

import json
import shutil
import socket
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import httpx2
import pytest
import trustme
from websockets.asyncio.client import connect

from tests.processes import API_KEY, Server
from tests.proxies import Caddy, Nginx, Proxy, replaced
from tests.realtime.serving import Reader

PAGE: Final = Path(__file__).parents[2] / "docs" / "security.md"
NAME: Final = "runs.example.com"
AUTHORIZED: Final = {"Authorization": f"Bearer {API_KEY}"}


class Secured(Proxy):
    """One on a port with TLS."""

    addresses: tuple[str, str]
    """Of whom a test has call through it."""

    def configure(self, site: str) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert(NAME)
        issued.private_key_pem.write_to_path(str(self.folder / "key.pem"))
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(str(self.folder / "cert.pem"), append=number > 0)
        self.tls = ssl.create_default_context()
        authority.configure_trust(self.tls)
        self.secure(site)

    def secure(self, site: str) -> None:
        """Writes the configuration, with the certificate that is in the folder."""
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


class SecuredNginx(Secured, Nginx):
    addresses = ("127.0.0.2", "127.0.0.3")

    def secure(self, site: str) -> None:
        self.write(
            replaced(
                site,
                ("listen 443 ssl;", f"listen 127.0.0.1:{self.port} ssl;"),
                ("/etc/ssl/runs.example.com.pem", str(self.folder / "cert.pem")),
                ("/etc/ssl/runs.example.com.key", str(self.folder / "key.pem")),
            )
        )


class SecuredCaddy(Secured, Caddy):
    addresses = ("127.0.0.4", "127.0.0.5")

    def secure(self, site: str) -> None:
        tls = f"tls {self.folder / 'cert.pem'} {self.folder / 'key.pem'}"
        here = f"https://{NAME}:{self.port} {{\n\tbind 127.0.0.1\n\t{tls}\n"
        # The UDP port of the same number is held against other test runs: no HTTP/3.
        options = "\tauto_https disable_redirects\n\tservers {\n\t\tprotocols h1 h2\n\t}\n"
        self.write(replaced(site, (f"{NAME} {{\n", here)), options)


KINDS: Final = [
    pytest.param(
        kind,
        marks=pytest.mark.skipif(
            shutil.which(kind.name) is None,
            reason=f"no {kind.name} is installed: it was NOT tested with it",
        ),
    )
    for kind in (SecuredNginx, SecuredCaddy)
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Behind a proxy on loopback; two streams an address."""
    args = ("--trusted-proxies", "127.0.0.1", "--connections-per-address", "2")
    with tempfile.TemporaryDirectory() as folder:
        with Server(f"sqlite:///{folder}/runstream.db", args=args) as made:
            yield made


@pytest.mark.parametrize("kind", KINDS)
async def test_streams_and_addresses_come_through_a_proxy(
    server: Server, kind: type[Secured]
) -> None:
    """Both kinds of stream with real traffic over TLS; and limits go by who calls, which a
    client cannot choose and only a trusted proxy is believed about."""
    here, elsewhere = kind.addresses
    api = httpx2.AsyncClient(base_url=server.url, headers=AUTHORIZED, timeout=30)
    with kind(PAGE, server) as proxy:
        async with api:
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
