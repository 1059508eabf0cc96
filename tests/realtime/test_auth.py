"""What keys and tokens grant, and what is no key or token."""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import msgspec
import pytest

from realtime.auth import (
    TOKEN_CHARS_MAX,
    Authority,
    Denied,
    Grant,
    Unauthorized,
    check_scope,
    key_hash,
    new_key,
)
from store.access import Access
from store.engine import open_database
from store.model import Facet, Filter, Match, RunStatus, Selection, new_id
from store.schema import migrate
from tests.builders import a_run

QUEUED = RunStatus.QUEUED


@pytest.fixture
async def access(sqlite_url: str) -> AsyncIterator[Access]:
    database = await open_database(sqlite_url)
    await migrate(database)
    yield Access(database)
    await database.close()


@pytest.fixture
async def authority(access: Access) -> Authority:
    made = Authority(access, first_key="the-first-key-0123456789")
    await made.start()
    return made


async def denied(authority: Authority, token: str | None) -> Denied:
    with pytest.raises(Unauthorized) as refused:
        await authority.grant(token)
    return refused.value.reason


# ------------------------------------------------------------------------------------------ grants


RUN = a_run(id="run_1", task_identifier="send", tags=("user:7", "a:b:c"), batch_id="batch_1")


@pytest.mark.parametrize(
    "scope, covered",
    [
        ("read:runs", True),
        ("read:runs:run_1", True),
        ("read:tags:user:7", True),
        ("read:tags:a:b:c", True),
        ("read:batch:batch_1", True),
        ("read:tasks:send", True),
        ("read:runs:run_11", False),
        ("read:runs:RUN_1", False),
        ("read:runs:", False),
        ("read:runs:*", False),
        ("read:tags:user", False),
        ("read:tags:user:7 ", False),
        ("read:tags:user:77", False),
        ("read:tags:a", False),
        ("read:tags:", False),
        ("read:tags", False),
        ("read:tag:user:7", False),
        ("read:batches:batch_1", False),
        ("read:tasks:sen", False),
        ("read:tasks", False),
        ("read:*", False),
        ("read", False),
        ("*", False),
        ("", False),
        (":runs", False),
        ("READ:runs", False),
        (" read:runs", False),
        ("write:runs", False),
        ("trigger:tasks:send", False),
    ],
)
def test_a_scope_covers_just_what_it_names(scope: str, covered: bool) -> None:
    """No prefix, no other case, no wildcard: what is granted by accident is read by accident."""
    grant = Grant(project=RUN.project, scopes=frozenset({scope}))
    assert grant.reads(RUN) is covered


def test_no_grant_reaches_into_another_project() -> None:
    """Ids, tags and tasks may be called alike in two of them."""
    for grant in (
        Grant(project="other", full=True),
        Grant(project="other", read_only=True),
        Grant(project="other", scopes=frozenset({"read:runs", "read:runs:run_1"})),
    ):
        assert not grant.reads(RUN)
        assert not grant.allows(Selection(project=RUN.project, run_id=RUN.id))


def test_a_grant_by_tag_goes_with_the_tag() -> None:
    """What a run's tags are at that version decides, not what they are now."""
    grant = Grant(project=RUN.project, scopes=frozenset({"read:tags:user:7"}))
    assert grant.covers(RUN, Facet(QUEUED, ("user:7",)))
    assert not grant.covers(RUN, Facet(QUEUED, ("user:8",)))


def test_a_scope_for_a_job_run_covers_its_workflow_runs_and_no_other_children() -> None:
    """A run that a run made may be somebody else's business."""
    grant = Grant(project=RUN.project, scopes=frozenset({"read:runs:run_job"}))
    step = a_run(parent_run_id="run_job", workflow_id="wf_1", position=0)
    child = a_run(parent_run_id="run_job")
    assert grant.reads(step)
    assert not grant.reads(child)


def _wish(**what: Any) -> Selection:
    return Selection(project=RUN.project, **what)


@pytest.mark.parametrize(
    "scopes, wish, allowed",
    [
        ("read:runs", _wish(), True),
        ("read:runs", _wish(tags=("a",)), True),
        ("read:runs:run_1", _wish(), False),
        ("read:runs:run_1", _wish(run_id="run_1"), True),
        # Which scope covers a run is only known with the run.
        ("read:tags:a", _wish(run_id="run_2"), True),
        ("trigger:tasks:send", _wish(run_id="run_2"), False),
        ("read:tags:a", _wish(tags=("a",)), True),
        ("read:tags:a", _wish(tags=("b",)), False),
        ("read:tags:a", _wish(tags=("a", "b"), match=Match.ALL), True),
        ("read:tags:a", _wish(tags=("a", "b"), match=Match.ANY), False),
        ("read:tags:a read:tags:b", _wish(tags=("a", "b"), match=Match.ANY), True),
        ("read:tags:a", _wish(), False),
        ("read:batch:batch_1", _wish(batch_id="batch_1"), True),
        ("read:batch:batch_1", _wish(batch_id="batch_2"), False),
        ("read:runs:batch_1", _wish(batch_id="batch_1"), False),
        ("read:runs:run_1", _wish(job_run_id="run_1"), True),
        ("read:runs:run_1", _wish(job_run_id="run_2"), False),
        ("read:tasks:send", _wish(), False),
        ("read:tasks:send", _wish(filter=Filter(tasks=frozenset({"send"}))), True),
        ("read:tasks:send", _wish(filter=Filter(tasks=frozenset({"send", "x"}))), False),
        ("read:tasks:send", _wish(filter=Filter(tasks=frozenset())), False),
        ("read:tasks:send", _wish(tags=("a",), filter=Filter(tasks=frozenset({"send"}))), True),
        ("", _wish(run_id="run_1"), False),
    ],
)
def test_a_wish_is_allowed_only_if_the_scopes_name_it(
    scopes: str, wish: Selection, allowed: bool
) -> None:
    """A stream that may be asked for is one whose runs are all, or each, granted."""
    grant = Grant(project=RUN.project, scopes=frozenset(scopes.split(" ")))
    assert grant.allows(wish) is allowed


def test_only_a_key_with_full_rights_writes() -> None:
    """A token that reads everything still changes nothing."""
    assert Grant(project="p", full=True).may_write
    assert not Grant(project="p", read_only=True).may_write
    assert not Grant(project="p", scopes=frozenset({"read:runs", "write:runs"})).may_write


def test_a_trigger_scope_is_for_its_task() -> None:
    """Task names may hold colons too."""
    grant = Grant(project="p", scopes=frozenset({"trigger:tasks:mail:send"}))
    assert grant.may_trigger("mail:send")
    assert not grant.may_trigger("mail")
    assert not Grant(project="p", read_only=True).may_trigger("mail:send")


@pytest.mark.parametrize(
    "scope", ["read", "read:", "read:runs:", "read:tags", "read:tags:", "trigger:tasks:", "x",
              "trigger:runs:a", "read:tags:a\n", "read:tags:a\0", "read:tags:" + "x" * 600, ""],
)  # fmt: skip
def test_a_scope_that_grants_nothing_is_not_put_into_a_token(scope: str) -> None:
    """Its maker meant something by it, and would look for the mistake elsewhere."""
    assert check_scope(scope) is not None


# -------------------------------------------------------------------------------------------- keys


async def test_a_key_is_stored_as_its_hash_alone(access: Access) -> None:
    """Who reads the database must not be able to call the API."""
    key = new_key()
    stored = await access.create_key("default", "ci", key_hash(key), read_only=False)
    assert key not in msgspec.json.encode(stored).decode()
    assert key.startswith("rsk_")


async def test_keys_grant_their_project_with_their_rights(
    access: Access, authority: Authority
) -> None:
    """A read-only key is one for dashboards."""
    full, reader = new_key(), new_key()
    await access.create_key("shop", "a", key_hash(full), read_only=False)
    await access.create_key("shop", "b", key_hash(reader), read_only=True)
    grant = await authority.grant(full)
    assert (grant.project, grant.may_write, grant.reads_all) == ("shop", True, True)
    grant = await authority.grant(reader)
    assert (grant.project, grant.may_write, grant.reads_all) == ("shop", False, True)


async def test_the_first_key_of_the_environment_needs_no_database(authority: Authority) -> None:
    """One variable is enough to start."""
    grant = await authority.grant("the-first-key-0123456789")
    assert (grant.project, grant.may_write) == ("default", True)


@pytest.mark.parametrize("wrong", ["", "x", "the-first-key-012345678", "rsk_" + "x" * 40, "é" * 40,
                                   "rsk_" + "x" * 10_000, "a.b", "\udc80" * 20])  # fmt: skip
async def test_what_is_no_key_is_refused(authority: Authority, wrong: str) -> None:
    """Whatever a header can hold."""
    assert await denied(authority, wrong) is Denied.INVALID


async def test_no_token_is_missing_where_keys_are_needed(authority: Authority) -> None:
    """It is told apart, since the remedy is another."""
    assert await denied(authority, None) is Denied.MISSING


async def test_a_revoked_key_is_refused_wherever_it_was_known(
    access: Access, authority: Authority
) -> None:
    """Gateways remember good keys, so as not to ask the database for each request."""
    key = new_key()
    stored = await access.create_key("default", "ci", key_hash(key), read_only=False)
    grant = await authority.grant(key)
    assert authority.stands(grant)
    await access.revoke_key(stored.id)
    await authority.start()  # what each process does every second
    assert await denied(authority, key) is Denied.REVOKED
    assert not authority.stands(grant)


async def test_a_server_without_any_key_is_open_until_one_is_made(access: Access) -> None:
    """And then it stays closed, also when that one is revoked: nobody meant to open it."""
    authority = Authority(access, loopback=True)
    await authority.start()
    everybody = await authority.grant(None)
    assert authority.open
    assert everybody.may_write
    stored = await access.create_key("default", "ci", key_hash(new_key()), read_only=False)
    await authority.start()
    assert await denied(authority, None) is Denied.MISSING
    assert not authority.stands(everybody)
    await access.revoke_key(stored.id)
    later = Authority(access, loopback=True)
    await later.start()
    assert not later.open


async def test_a_server_that_others_can_reach_is_never_open(access: Access) -> None:
    """Whatever else went wrong."""
    authority = Authority(access, loopback=False)
    await authority.start()
    assert await denied(authority, None) is Denied.MISSING


# ------------------------------------------------------------------------------------------ tokens


async def test_a_token_grants_what_was_put_into_it(authority: Authority) -> None:
    """The way from its making to a grant loses and adds nothing."""
    signer = await authority.signer("shop")
    token = signer.sign(
        ["read:runs:run_1", "trigger:tasks:a:b"],
        expires_in_s=60, skip=["payload"], one_time=True,
    )  # fmt: skip
    grant = await authority.grant(token.token)
    assert grant.project == "shop"
    assert grant.scopes == {"read:runs:run_1", "trigger:tasks:a:b"}
    assert grant.skip == {"payload"}
    assert grant.token_id == token.id
    assert grant.one_time
    assert grant.expires_at == token.expires_at
    assert not grant.may_write


async def test_a_revoked_token_is_refused_and_its_grant_stands_no_longer(
    access: Access, authority: Authority
) -> None:
    """In this process at once, in another when it has looked."""
    other = Authority(access)
    await other.start()
    token = (await authority.signer("shop")).sign(["read:runs"], expires_in_s=60)
    grant = await other.grant(token.token)
    told: list[None] = []
    other.on_revocation(lambda: told.append(None))
    await authority.revoke_token("shop", token.id)
    assert await denied(authority, token.token) is Denied.REVOKED
    await other.start()
    assert await denied(other, token.token) is Denied.REVOKED
    assert not other.stands(grant)
    assert told


async def test_a_token_is_not_revoked_by_another_project(authority: Authority) -> None:
    """Ids of tokens are no secret."""
    token = (await authority.signer("shop")).sign(["read:runs"], expires_in_s=60)
    await authority.revoke_token("other", token.id)
    assert (await authority.grant(token.token)).project == "shop"


async def test_tokens_outlive_the_rotation_of_the_secret_that_signed_them(
    access: Access, authority: Authority
) -> None:
    """Rotating must not log everybody out."""
    before = (await authority.signer("shop")).sign(["read:runs"], expires_in_s=60)
    await access.rotate_secret("shop")
    later = Authority(access)
    after = (await later.signer("shop")).sign(["read:runs"], expires_in_s=60)
    kids = {jwt.get_unverified_header(one.token)["kid"] for one in (before, after)}
    assert len(kids) == 2
    for one in (before, after):
        assert (await later.grant(one.token)).project == "shop"


CLAIMS = {
    "iss": "runstream",
    "aud": "runstream",
    "jti": new_id("tok"),
    "scopes": ["read:runs"],
}


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "somebody"},
        {"aud": "something"},
        {"aud": ["else", "where"]},
        {"iss": None},
        {"jti": None},
        {"jti": 7},
        {"exp": None},
        {"exp": "soon"},
        {"exp": 10**30},
        {"exp": 1e308},
        {"exp": -1},
        {"iat": None},
        {"iat": -(10**30)},
        {"iat": int(time.time()) + 3600},
        {"exp": int(time.time()) + 40 * 24 * 3600},
        {"scopes": None},
        {"scopes": "read:runs"},
        {"scopes": [1]},
        {"skip": "payload"},
        {"nbf": int(time.time()) + 3600},
    ],
)
async def test_a_token_with_a_wrong_claim_is_refused_also_if_well_signed(
    access: Access, authority: Authority, changed: dict[str, Any]
) -> None:
    """Programs of our own users will one day sign tokens too."""
    secret = await access.signing_secret("shop")
    claims: dict[str, Any] = CLAIMS | {"iat": int(time.time()), "exp": int(time.time()) + 60}
    claims = {k: v for k, v in (claims | changed).items() if v is not None}
    token = jwt.encode(claims, secret.secret, algorithm="HS256", headers={"kid": secret.kid})
    assert await denied(authority, token) in (Denied.INVALID, Denied.EXPIRED)


async def test_an_expired_token_is_told_so(access: Access, authority: Authority) -> None:
    """A client then asks for a fresh one."""
    token = (await authority.signer("shop")).sign(["read:runs"], expires_in_s=-1)
    assert await denied(authority, token.token) is Denied.EXPIRED


async def test_tokens_are_refused_however_they_were_forged(
    access: Access, authority: Authority
) -> None:
    """No algorithm, another's, another project's secret under this kid, an altered byte."""
    ours = await access.signing_secret("shop")
    theirs = await access.signing_secret("other")
    claims = CLAIMS | {"iat": int(time.time()), "exp": int(time.time()) + 60}
    good = jwt.encode(claims, ours.secret, algorithm="HS256", headers={"kid": ours.kid})
    assert (await authority.grant(good)).project == "shop"
    header, payload, signature = good.split(".")
    other = base64.urlsafe_b64encode(
        msgspec.json.encode(claims | {"scopes": ["read:runs", "trigger:tasks:x"]})
    ).rstrip(b"=").decode()  # fmt: skip
    none = base64.urlsafe_b64encode(
        msgspec.json.encode({"alg": "none", "typ": "JWT", "kid": ours.kid})
    ).rstrip(b"=").decode()  # fmt: skip
    forged = [
        jwt.encode(claims, theirs.secret, algorithm="HS256", headers={"kid": ours.kid}),
        jwt.encode(claims, ours.secret, algorithm="HS512", headers={"kid": ours.kid}),
        jwt.encode(claims, ours.secret, algorithm="HS256"),
        jwt.encode(claims, ours.secret, algorithm="HS256", headers={"kid": "sgn_" + "0" * 26}),
        jwt.encode(claims, ours.secret, algorithm="HS256", headers={"kid": "' OR 1=1 --"}),
        jwt.encode(claims, ours.kid + "0" * 32, algorithm="HS256", headers={"kid": ours.kid}),
        f"{header}.{other}.{signature}",
        f"{none}.{payload}.",
        f"{none}.{payload}.{signature}",
        f"{header}.{payload}.",
        f"{header}.{payload}.{signature[:-2]}",
        f"{header}..{signature}",
        "..",
        "a.b.c",
        f"{header}.{payload}.{signature}" + "x" * TOKEN_CHARS_MAX,
        ("[" * 3000) + ".a.b",
    ]
    for token in forged:
        assert await denied(authority, token) is Denied.INVALID, token[:60]
    moved = jwt.encode(claims, theirs.secret, algorithm="HS256", headers={"kid": theirs.kid})
    assert (await authority.grant(moved)).project == "other"


async def test_expired_revocations_are_forgotten_and_others_are_not(access: Access) -> None:
    """The list is read every second: it must not grow for ever."""
    now = datetime.now(UTC)
    await access.revoke_token("p", "tok_old", now - timedelta(seconds=1))
    await access.revoke_token("p", "tok_new", now + timedelta(hours=1))
    assert (await access.revocations()).tokens == {("p", "tok_new")}
    await access.forget_expired()
    since = now - timedelta(days=1)
    assert (await access.revocations(since)).tokens == {("p", "tok_new")}
