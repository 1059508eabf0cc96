"""The commands: serve, migrate, key, token, demo."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import fields
from typing import Any, ParamSpec, TypeVar

import click

from realtime import VERSION
from realtime.auth import (
    DEFAULT_PROJECT,
    SKIPPABLE,
    TOKEN_ID,
    Authority,
    check_scope,
    key_hash,
    new_key,
)
from realtime.settings import Settings, SettingsError, option, variable
from store.access import TOKEN_LIFE_MAX, Access
from store.engine import open_database
from store.errors import StoreError
from store.model import rfc3339
from store.schema import migrate as migrate_database
from store.schema import new_epoch as begin_epoch

P = ParamSpec("P")
T = TypeVar("T")


class Failure(click.ClickException):
    """Something that the user can be told in one line."""

    def show(self, file: Any = None) -> None:
        click.echo(f"realtime: {self.message}", file=file or sys.stderr)


def settings_options(*names: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """An option for each of those settings, or for every one, in their order."""

    def decorate(command: Callable[P, T]) -> Callable[P, T]:
        for each in reversed(fields(Settings)):
            if names and each.name not in names:
                continue
            text = f"{each.metadata['help']} [{variable(each.name)}]"
            if isinstance(each.default, bool):
                flag = f"{option(each.name)}/--no-{option(each.name)[2:]}"
                command = click.option(flag, each.name, default=None, help=text)(command)
                continue
            shown = ",".join(each.default) if isinstance(each.default, tuple) else each.default
            if shown not in (None, ""):
                text += f" [default: {shown}]"
            command = click.option(option(each.name), each.name, metavar="…", help=text)(command)
        return command

    return decorate


def read_settings(given: dict[str, Any]) -> Settings:
    try:
        return Settings.read(os.environ, **given)
    except SettingsError as error:
        raise click.UsageError(str(error)) from None


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(VERSION, prog_name="realtime")
def main() -> None:
    """Runstream: pushes each change of a background job's run to whoever watches it.

    Each option of the server is also an environment variable, RUNSTREAM_…, as its help says.
    """


@main.command()
@settings_options()
def serve(**given: Any) -> None:
    """Serve the API and the streams, until stopped."""
    from realtime.serve import CannotServe
    from realtime.serve import serve as run

    settings = read_settings(given)
    try:
        run(settings)
    except CannotServe as error:
        raise Failure(str(error)) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


@main.command()
@click.option(
    "--new-epoch", is_flag=True, help="Say that the log was restored: every stream is reset."
)
@settings_options("database")
def migrate(new_epoch: bool, **given: Any) -> None:
    """Bring the database to this version's schema; `serve` does so by itself."""

    async def work() -> tuple[str | None, str]:
        database = await open_database(read_settings(given).database)
        try:
            found, now = await migrate_database(database)
            if new_epoch:
                await begin_epoch(database)
            return found, now
        finally:
            await database.close()

    found, now = _run(work())
    if found == now:
        click.echo(f"The database is at schema {now}, as it should be.")
    else:
        click.echo(f"The database was migrated from {found or 'nothing'} to schema {now}.")
    if new_epoch:
        click.echo("A new epoch has begun: every stream that is resumed starts from a snapshot.")


# -------------------------------------------------------------------------------------- API keys


@main.group()
def key() -> None:
    """API keys: secrets with full rights, or read-only ones."""


_project = click.option(
    "--project", default=DEFAULT_PROJECT, show_default=True, envvar="RUNSTREAM_PROJECT",
    help="The project; a new name makes a new one. [RUNSTREAM_PROJECT]",
)  # fmt: skip


@key.command("create")
@click.argument("name")
@_project
@click.option("--read-only", is_flag=True, help="It may read everything and change nothing.")
@settings_options("database")
def key_create(name: str, project: str, read_only: bool, **given: Any) -> None:
    """Make an API key. It stands alone on the last line, and is shown this once."""
    _check_name("NAME", name)
    _check_name("--project", project)
    made = new_key()
    stored = _with_access(
        given,
        lambda access: access.create_key(project, name, key_hash(made), read_only=read_only),
    )
    rights = "read-only" if read_only else "with full rights"
    click.echo(f"{stored.id}: the API key {name!r} of project {project!r}, {rights}:")
    click.echo(made)


@key.command("list")
@click.option(
    "--project", default=None, envvar="RUNSTREAM_PROJECT",
    help="Only this project's. [RUNSTREAM_PROJECT]",
)  # fmt: skip
@settings_options("database")
def key_list(project: str | None, **given: Any) -> None:
    """List the API keys; the keys themselves are not kept."""
    for each in _with_access(given, lambda access: access.list_keys(project)):
        rights = "read-only" if each.read_only else "full"
        state = f"revoked {rfc3339(each.revoked_at)}" if each.revoked_at else "valid"
        made = rfc3339(each.created_at)
        click.echo(f"{each.id}\t{each.project}\t{each.name}\t{rights}\t{made}\t{state}")


@key.command("revoke")
@click.argument("id")
@settings_options("database")
def key_revoke(id: str, **given: Any) -> None:
    """Take an API key back, by its id; takes effect within a second."""
    revoked = _with_access(given, lambda access: access.revoke_key(id))
    click.echo(f"{revoked.id} ({revoked.name!r}, project {revoked.project!r}) is revoked.")


# ---------------------------------------------------------------------------------------- tokens


@main.group()
def token() -> None:
    """Public access tokens, for browsers and apps."""


@token.command("create")
@click.option("--scope", "scopes", multiple=True, required=True, help="Like read:tags:user:7.")
@_project
@click.option("--expires-in", type=click.IntRange(1, int(TOKEN_LIFE_MAX.total_seconds())),
              default=900, show_default=True, help="Seconds.")  # fmt: skip
@click.option("--skip", multiple=True, help="A field of a run that it never shows.")
@click.option("--one-time/--reusable", default=None,
              help="Whether it triggers one run only; by default if it triggers at all.")  # fmt: skip
@settings_options("database")
def token_create(
    scopes: tuple[str, ...],
    project: str,
    expires_in: int,
    skip: tuple[str, ...],
    one_time: bool | None,
    **given: Any,
) -> None:
    """Make a public access token. It stands alone on the last line."""
    _check_name("--project", project)
    for scope in scopes:
        if (wrong := check_scope(scope)) is not None:
            raise click.UsageError(f"--scope {scope!r}: {wrong}")
    for name in skip:
        if name not in SKIPPABLE:
            raise click.UsageError(f"--skip {name!r}: is no field of a run that may be left out")
    triggers = any(scope.startswith("trigger:") for scope in scopes)

    async def make(access: Access) -> Any:
        return (await Authority(access).signer(project)).sign(
            scopes,
            expires_in_s=expires_in,
            skip=skip,
            one_time=triggers if one_time is None else one_time and triggers,
        )

    made = _with_access(given, make)
    click.echo(f"{made.id}: valid until {rfc3339(made.expires_at)}:")
    click.echo(made.token)


@token.command("revoke")
@click.argument("id")
@_project
@settings_options("database")
def token_revoke(id: str, project: str, **given: Any) -> None:
    """Take a token back, by its id; takes effect within a second."""
    if not TOKEN_ID.fullmatch(id):
        raise Failure(f"{id} is no token's id")
    _with_access(given, lambda access: Authority(access).revoke_token(project, id))
    click.echo(f"{id} is revoked.")


@token.command("rotate")
@_project
@settings_options("database")
def token_rotate(project: str, **given: Any) -> None:
    """Sign new tokens with a new secret; those made before stay valid until they expire."""
    _check_name("--project", project)
    secret = _with_access(given, lambda access: access.rotate_secret(project))
    click.echo(f"Tokens of project {project!r} are signed with {secret.kid} from now on.")


# ------------------------------------------------------------------------------------------ demo


@main.command()
@click.option("--stay", is_flag=True, help="Then keep the server and some runs going until Ctrl-C.")
def demo(*, stay: bool) -> None:
    """Run a few real commands as runs, and watch their changes as they are pushed."""
    from realtime.demo import DemoFailed
    from realtime.demo import demo as run

    try:
        run(stay=stay)
    except DemoFailed as error:
        raise Failure(str(error)) from None


def _with_access(given: dict[str, Any], work: Callable[[Access], Awaitable[T]]) -> T:
    settings = read_settings(given)

    async def on_database() -> T:
        database = await open_database(settings.database)
        try:
            await migrate_database(database)
            return await work(Access(database))
        finally:
            await database.close()

    return _run(on_database())


def _run(work: Coroutine[Any, Any, T]) -> T:
    try:
        return asyncio.run(work)
    except (StoreError, OSError) as error:
        raise Failure(str(error)) from None


def _check_name(what: str, name: str) -> None:
    if not 1 <= len(name) <= 100 or not name.isprintable() or name != name.strip():
        raise click.UsageError(f"{what}: 1 to 100 printable characters")


if __name__ == "__main__":
    main(prog_name="realtime")
