"""The commands, but for serve itself: see test_serve.py."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import CliRunner, Result

from realtime.auth import Authority, Grant
from realtime.cli import main
from store.access import Access
from store.engine import open_database


@pytest.fixture
def realtime(tmp_path: Path) -> Any:
    """Runs a command on a database of its own."""
    url = f"sqlite:///{tmp_path / 'runstream.db'}"

    def run(*args: str, **environment: str) -> Result:
        clean = {"RUNSTREAM_DATABASE": url, "RUNSTREAM_API_KEY": ""} | environment
        return CliRunner().invoke(main, args, env=clean, prog_name="realtime")

    run.url = url  # type: ignore[attr-defined]
    return run


def granted(url: str, token: str) -> Grant:
    """What a server on that database makes of a key or token."""

    async def ask() -> Grant:
        database = await open_database(url)
        try:
            authority = Authority(Access(database))
            await authority.start()
            return await authority.grant(token)
        finally:
            await database.close()

    return asyncio.run(ask())


def test_a_key_stands_alone_on_the_last_line(realtime: Any) -> None:
    """`KEY=$(realtime key create ci | tail -1)` is how it is used."""
    result = realtime("key", "create", "ci", "--project", "shop")
    assert result.exit_code == 0, result.output
    key = result.stdout.splitlines()[-1]
    assert re.fullmatch(r"rsk_[A-Za-z0-9]{40}", key)
    grant = granted(realtime.url, key)
    assert (grant.project, grant.may_write) == ("shop", True)
    key = realtime("key", "create", "dashboard", "--read-only").stdout.splitlines()[-1]
    grant = granted(realtime.url, key)
    assert (grant.project, grant.may_write, grant.reads_all) == ("default", False, True)


def test_keys_are_listed_without_themselves_and_revoked_by_their_id(realtime: Any) -> None:
    """The list may be shown to anybody."""
    key = realtime("key", "create", "ci").stdout.splitlines()[-1]
    realtime("key", "create", "other", "--project", "shop")
    listed = realtime("key", "list").stdout
    assert len(listed.splitlines()) == 2
    assert key not in listed
    assert len(realtime("key", "list", "--project", "shop").stdout.splitlines()) == 1
    id = listed.split("\t")[0]
    assert realtime("key", "revoke", id).exit_code == 0
    assert "revoked" in realtime("key", "list").stdout.splitlines()[0]
    with pytest.raises(Exception, match="revoked"):
        granted(realtime.url, key)
    result = realtime("key", "revoke", "key_unknown")
    assert (result.exit_code, result.stderr) == (1, "realtime: there is no key key_unknown\n")


def test_a_token_stands_alone_on_the_last_line(realtime: Any) -> None:
    """Signed with the project's secret, which is made with the first token."""
    result = realtime(
        "token", "create", "--scope", "read:tags:user:7", "--scope", "read:runs:run_1",
        "--project", "shop", "--expires-in", "60", "--skip", "payload",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    token = result.stdout.splitlines()[-1]
    grant = granted(realtime.url, token)
    assert grant.project == "shop"
    assert grant.scopes == {"read:tags:user:7", "read:runs:run_1"}
    assert grant.skip == {"payload"}
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == 60


def test_a_token_is_revoked_by_its_id(realtime: Any) -> None:
    """Which is printed with it."""
    result = realtime("token", "create", "--scope", "read:runs")
    id, token = result.stdout.split(":")[0], result.stdout.splitlines()[-1]
    assert granted(realtime.url, token).token_id == id
    assert realtime("token", "revoke", id).exit_code == 0
    with pytest.raises(Exception, match="revoked"):
        granted(realtime.url, token)
    assert realtime("token", "revoke", "x").exit_code == 1


def test_tokens_are_signed_with_another_secret_after_a_rotation(realtime: Any) -> None:
    """Those made before stay valid."""
    before = realtime("token", "create", "--scope", "read:runs").stdout.splitlines()[-1]
    assert realtime("token", "rotate").exit_code == 0
    after = realtime("token", "create", "--scope", "read:runs").stdout.splitlines()[-1]
    kids = {jwt.get_unverified_header(token)["kid"] for token in (before, after)}
    assert len(kids) == 2
    assert granted(realtime.url, before).project == granted(realtime.url, after).project


def test_migrate_says_what_it_did(realtime: Any) -> None:
    """And may be called again."""
    result = realtime("migrate")
    assert (result.exit_code, "migrated from nothing" in result.stdout) == (0, True)
    result = realtime("migrate")
    assert (result.exit_code, "as it should be" in result.stdout) == (0, True)
    result = realtime("migrate", "--new-epoch")
    assert (result.exit_code, "new epoch" in result.stdout) == (0, True)


@pytest.mark.parametrize(
    "args, said",
    [
        (["serve", "--port", "x"], "--port"),
        (["serve", "--workers", "0"], "--workers"),
        (["serve", "--database", "oracle://x"], "--database"),
        (["serve", "--nonsense"], "--nonsense"),
        (["key", "create", "a\nb"], "NAME"),
        (["key", "create", ""], "NAME"),
        (["token", "create"], "--scope"),
        (["token", "create", "--scope", "read:everything"], "read:everything"),
        (["token", "create", "--scope", "read:runs", "--skip", "id"], "id"),
        (["token", "create", "--scope", "read:runs", "--expires-in", "0"], "--expires-in"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(realtime: Any, args: list[str], said: str) -> None:
    """In words, with an exit code, without a traceback."""
    result = realtime(*args)
    assert result.exit_code == 2
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_a_mistake_in_the_environment_is_named(realtime: Any) -> None:
    """By the name of the variable."""
    result = realtime("serve", RUNSTREAM_PORT="many")
    assert result.exit_code == 2
    assert "RUNSTREAM_PORT" in result.stderr


def test_a_database_that_cannot_be_reached_is_said_in_one_line(realtime: Any) -> None:
    """What the driver says of it, and no more."""
    for url in ("sqlite:////nowhere/at/all.db", "postgresql://u:secret@127.0.0.1:1/d"):
        result = realtime("key", "list", "--database", url)
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1, result.stderr
        assert "secret" not in result.output


def test_help_names_each_option_with_its_variable(realtime: Any) -> None:
    """Whoever runs it in a container needs the variables."""
    text = re.sub(r"\s+", " ", realtime("serve", "--help").stdout)
    for name in ("HOST", "PORT", "DATABASE", "REDIS", "WORKERS", "SLOW_CONSUMER_S", "API_KEY"):
        assert f"--{name.lower().replace('_', '-')}" in text
        assert f"[RUNSTREAM_{name}]" in text
