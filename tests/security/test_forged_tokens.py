"""Tokens that nobody gave: each is refused, on every way in, in the same words."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jwt
import pytest
from websockets.exceptions import InvalidStatus

from realtime.auth import Authority, Denied, Unauthorized, key_hash, new_key
from store.access import Access, SigningSecret
from store.engine import open_database
from store.model import new_id
from store.schema import migrate
from tests.security.serving import Serving

Make = Callable[[SigningSecret, SigningSecret], str]


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    made = {"iss": "runstream", "aud": "runstream", "iat": now, "exp": now + 60}
    return made | {"jti": new_id("tok"), "scopes": ["read:runs"]} | changed


def signed(secret: SigningSecret, header: dict[str, Any] | None = None, **changed: Any) -> str:
    return jwt.encode(
        claims(**changed), secret.secret, algorithm="HS256",
        headers={"kid": secret.kid} | (header or {}),
    )  # fmt: skip


def part(value: Any) -> str:
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def by_hand(
    secret: SigningSecret, header: dict[str, Any], digest: Any = hashlib.sha256, **changed: Any
) -> str:
    """Signed with the right secret, whatever the header says."""
    text = f"{part({'kid': secret.kid, 'typ': 'JWT'} | header)}.{part(claims(**changed))}"
    return f"{text}.{part(hmac.new(secret.secret.encode(), text.encode(), digest).digest())}"


def altered(token: str, **changed: Any) -> str:
    header, body, signature = token.split(".")
    told = json.loads(base64.urlsafe_b64decode(body + "=="))
    return f"{header}.{part(told | changed)}.{signature}"


def without_signature(token: str) -> str:
    return token.rpartition(".")[0] + "."


FORGED: dict[str, Make] = {
    "alg none": lambda ours, _: f"{part({'alg': 'none', 'kid': ours.kid})}.{part(claims())}.",
    "alg NonE": lambda ours, _: f"{part({'alg': 'NonE', 'kid': ours.kid})}.{part(claims())}.",
    "none with a signature": lambda ours, _: by_hand(ours, {"alg": "none"}),
    "RS256 with the secret": lambda ours, _: by_hand(ours, {"alg": "RS256"}),
    "ES256 with the secret": lambda ours, _: by_hand(ours, {"alg": "ES256"}),
    "HS512": lambda ours, _: by_hand(ours, {"alg": "HS512"}, hashlib.sha512),
    "hs256": lambda ours, _: by_hand(ours, {"alg": "hs256"}),
    "a list of algorithms": lambda ours, _: by_hand(ours, {"alg": ["HS256"]}),
    "no algorithm": lambda ours, _: by_hand(ours, {}),
    "critical header": lambda ours, _: by_hand(ours, {"alg": "HS256", "crit": ["x"], "x": 1}),
    "bytes unencoded": lambda ours, _: by_hand(
        ours, {"alg": "HS256", "b64": False, "crit": ["b64"]}
    ),
    "no signature": lambda ours, _: without_signature(signed(ours)),
    "altered": lambda ours, _: altered(signed(ours, scopes=["read:runs:x"]), scopes=["read:runs"]),
    "lengthened": lambda ours, _: altered(signed(ours), exp=int(time.time()) + 9_999),
    "our kid, their secret": lambda ours, theirs: signed(theirs, {"kid": ours.kid}),
    "their kid, our secret": lambda ours, theirs: signed(ours, {"kid": theirs.kid}),
    "unknown kid": lambda ours, _: signed(ours, {"kid": new_id("sgn")}),
    "a path as kid": lambda ours, _: signed(ours, {"kid": "../../../dev/null"}),
    "SQL as kid": lambda ours, _: signed(ours, {"kid": "' OR 1=1 --"}),
    "a key in the header": lambda ours, _: signed(
        ours, {"kid": "x", "jwk": {"kty": "oct", "k": part(ours.secret.encode())}}
    ),
    "a key from elsewhere": lambda ours, _: signed(
        ours, {"kid": "x", "jku": "http://127.0.0.1:9/keys"}
    ),
    "empty secret": lambda ours, _: by_hand(replace(ours, secret=""), {"alg": "HS256"}),
    "the kid as secret": lambda ours, _: by_hand(replace(ours, secret=ours.kid), {"alg": "HS256"}),
    "expired": lambda ours, _: signed(ours, exp=int(time.time()) - 1),
    "not yet valid": lambda ours, _: signed(ours, nbf=int(time.time()) + 600),
    "from the future": lambda ours, _: signed(ours, iat=int(time.time()) + 600),
    "for ever": lambda ours, _: signed(ours, exp=2**53),
    "nested": lambda ours, _: f"{part(b'[' * 3_000)}.{part(claims())}.x",
    "compact in compact": lambda ours, _: signed(ours) + "." + signed(ours),
    "huge": lambda ours, _: signed(ours, scopes=["read:tags:" + "x" * 20_000]),
}


@pytest.mark.parametrize("how", FORGED)
async def test_a_forged_token_is_refused_everywhere(served: Serving, how: str) -> None:
    """One way in that looks less closely would be the way in."""
    token = FORGED[how](await served.a_secret("default"), await served.a_secret("other"))
    async with served.caller(token) as caller:
        response = await caller.get("/v1/runs")
        assert response.status_code == 401
        assert token not in response.text
    async with await served.sse("/v1/realtime/runs", token) as stream:
        assert stream.status == 401
        assert response.json()["detail"] == (await stream.problem())["detail"]
    if len(token) < 8_000:
        async with served.reader(token) as reader:
            assert await reader.closed() == 4401
            assert reader.socket.close_reason == response.json()["detail"]
    else:
        with pytest.raises(InvalidStatus, match="431"):
            async with served.reader(token):
                pass
    async with served.reader(None) as reader:
        await reader.say({"type": "authenticate", "token": token})
        assert await reader.closed() == 4401


async def test_the_good_one_beside_them_is_taken(served: Serving) -> None:
    """Else the tests above would prove nothing."""
    token = signed(await served.a_secret())
    async with served.caller(token) as caller:
        assert (await caller.get("/v1/runs")).status_code == 200
    async with served.reader(token) as reader:
        assert (await reader.next())["type"] == "welcome"


async def test_another_projects_token_does_not_take_an_open_connection_over(
    served: Serving,
) -> None:
    """4403: the streams are of one project for as long as the connection lives."""
    async with served.reader(signed(await served.a_secret())) as reader:
        await reader.until("welcome")
        await reader.say({"type": "authenticate", "token": signed(await served.a_secret("other"))})
        assert await reader.closed() == 4403


@pytest.mark.parametrize(
    "scope, tag, reads",
    [
        ("read:tags:a", "a", True),
        ("read:tags:a:b", "a:b", True),
        ("read:tags:a:b", "a", False),
        ("read:tags:a", "a:b", False),
        ("read::tags:a", "a", False),
        ("read:tags::a", "a", False),
        ("read:tags::a", ":a", True),
        ("read.tags.a", "a", False),
        ("read;tags;a", "a", False),
        ("read:tags:a,read:runs", "a", False),
        ("read:tags:a read:runs", "a", False),
        ("read:tags:a\nread:runs", "a", False),
        ("read:tags:A", "a", False),
        ("READ:tags:a", "a", False),
        ("read:tags:*", "a", False),
        ("read:tags:%", "a", False),
        ("read:tags:_", "a", False),
        ("read:tags:a%00", "a", False),
        ("read:tags:", "a", False),
        ("read:runs:", "a", False),
        ("read:runs:*", "a", False),
        ("read:tag:a", "a", False),
        ("read:tags:а", "a", False),  # Cyrillic
        ("read:tags:ａ", "a", False),  # full width
        ("read:tags:a\u200b", "a", False),  # a space of no width
        ("read:tags:é", "e\u0301", False),  # the same to see, another to compare
        ("read:tags:ß", "SS", False),
        ("read:tags:K", "\u212a", False),  # the sign for kelvin
        ("read:tags:\u202ea", "a", False),
        ("read:tags:a ", "a", False),
        ("write:runs", "a", False),
        ("*", "a", False),
    ],
)
async def test_a_scope_means_its_very_characters(
    served: Serving, scope: str, tag: str, reads: bool
) -> None:
    """Prefixes, cases, wildcards, separators and look-alikes: what a signer once wrote down."""
    token = signed(await served.a_secret("tags"), scopes=[scope])
    async with served.caller(await served.a_key("tags")) as owner:
        run = await owner.made("/v1/runs", {"taskIdentifier": "t", "tags": [tag]})
    async with served.caller(token) as caller:
        found = await caller.get(f"/v1/runs/{run['id']}")
        assert found.status_code == (200 if reads else 404)
        listed = await caller.get("/v1/runs", params={"tag": tag})
        assert listed.status_code == (200 if reads else 403)
    async with served.reader(token) as reader:
        await reader.until("welcome")
        await reader.say({"type": "subscribeToRunsWithTag", "id": 1, "tag": tag})
        got = await reader.next()
        assert got["type"] == ("snapshot" if reads else "error")


@pytest.mark.parametrize("change", [str.upper, lambda id: id[:-1], lambda id: id + "0",
                                    lambda id: id.replace("_", "-"), lambda id: id + " "])  # fmt: skip
async def test_an_id_in_a_scope_is_that_id(served: Serving, change: Callable[[str], str]) -> None:
    """Not its beginning, and not in another case."""
    async with served.caller() as owner:
        run = await owner.made("/v1/runs", {"taskIdentifier": "t"})
    secret = await served.a_secret()
    for id, status in ((change(run["id"]), 404), (run["id"], 200)):
        async with served.caller(signed(secret, scopes=[f"read:runs:{id}"])) as caller:
            assert (await caller.get(f"/v1/runs/{run['id']}")).status_code == status


# ----------------------------------------------------------------------------------- keys by guess


async def test_a_wrong_key_takes_the_way_of_an_unknown_one(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are hashed, looked up by the hash, and compared in constant time: what is compared
    byte by byte is never the key."""
    database = await open_database(sqlite_url)
    await migrate(database)
    access = Access(database)
    key = new_key()
    await access.create_key("default", "k", key_hash(key), read_only=False)
    authority = Authority(access, first_key="the-first-key-0123456789")
    await authority.start()
    way: list[str] = []
    compare, find = hmac.compare_digest, access.find_key

    def compared(a: Any, b: Any) -> bool:
        way.append("compare")
        assert len(a) == len(b) == 64, "hashes are compared, not keys"
        return compare(a, b)

    async def found(hash: str) -> Any:
        way.append("find")
        return await find(hash)

    monkeypatch.setattr("realtime.auth.authority.hmac.compare_digest", compared)
    monkeypatch.setattr(access, "find_key", found)
    ways = []
    for wrong in (new_key(), key[:-1] + ("a" if key[-1] != "a" else "b")):
        way.clear()
        with pytest.raises(Unauthorized) as refused:
            await authority.grant(wrong)
        assert refused.value.reason is Denied.INVALID
        ways.append(list(way))
    assert ways[0] == ways[1] == ["compare", "find"]
    await database.close()


async def test_who_is_refused_is_not_told_why_beyond_what_helps(
    served: Serving, caplog: pytest.LogCaptureFixture
) -> None:
    """An unknown key and one of the wrong form: one answer."""
    caplog.set_level(logging.DEBUG)
    answers = set()
    for wrong in (new_key(), new_key(), "x" * 44, "rsk_", "Basic"):
        async with served.caller(wrong) as caller:
            response = await caller.get("/v1/runs")
            answers.add((response.status_code, response.text))
        assert len(wrong) < 10 or wrong not in caplog.text
    assert len(answers) == 1
