"""A broker is opened from a URL; one that makes no sense is refused at once."""

from __future__ import annotations

import pytest

from store.broker import BrokerState, open_broker
from store.broker.memory import MemoryBroker
from store.broker.redis import ClusterBroker, RedisBroker, Tuning
from store.broker.redis.address import Address, parse_url


@pytest.mark.parametrize(
    "url, kind",
    [
        (None, MemoryBroker),
        ("memory://", MemoryBroker),
        ("redis://localhost", RedisBroker),
        ("rediss://u:p@localhost:7000/3?ssl_cert_reqs=none", RedisBroker),
        ("redis+cluster://localhost:7000", ClusterBroker),
        ("rediss+cluster://:p@localhost:7000", ClusterBroker),
    ],
)
def test_the_url_says_which_broker(url: str | None, kind: type) -> None:
    broker = open_broker(url)
    assert type(broker) is kind
    assert broker.state is (BrokerState.OK if kind is MemoryBroker else BrokerState.DEGRADED)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "localhost:6379",
        "",
        "redis://localhost/zero",
        "redis://localhost/1/2",
        "redis://localhost:99999",
        "redis://localhost?socket_timeout=5",
        "redis://localhost?ssl_cert_reqs=none",
        "rediss://localhost?ssl_cert_reqs=maybe",
        "rediss://:hunter2@localhost?ssl_check_hostname=1",
        "redis+cluster://localhost/1",
    ],
)
def test_a_url_that_makes_no_sense_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match=r".+") as refused:
        open_broker(url)
    assert "hunter2" not in str(refused.value)


def test_an_address_does_not_show_its_password() -> None:
    address = parse_url("rediss://us%40er:hunter2%2F@h.example:7000/3?ssl_check_hostname=false")
    assert (address.username, address.password) == ("us@er", "hunter2/")
    assert (address.host, address.port, address.db) == ("h.example", 7000, 3)
    assert address.tls is not None
    assert address.tls.verify
    assert not address.tls.check_hostname
    assert "hunter2" not in f"{address} {address!r}"
    assert parse_url("redis://localhost") == Address()


def test_a_message_must_have_room_for_a_hint() -> None:
    with pytest.raises(ValueError, match="room"):
        Tuning(inline_bytes=10, message_bytes=9)
