"""What all commands share: which server, and how errors are told to whoever types."""

from __future__ import annotations

import asyncio
import functools
import logging
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import click

from runstream.client import Runstream
from runstream.effects import State
from runstream.errors import (
    ConnectionLost,
    Forbidden,
    RunstreamError,
    Unauthorized,
    Unprocessable,
)

T = TypeVar("T")

INTERRUPTED = 130


@dataclass(frozen=True)
class Server:
    """Where the server is, and the key to it."""

    url: str = "http://127.0.0.1:8080"
    api_key: str | None = None

    def client(self) -> Runstream:
        """A client of it; a mistake in the address is the operator's to hear."""
        try:
            return Runstream(self.url, api_key=self.api_key or None)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="--url") from error


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--url` and `--api-key`, which may stand before the command's name or after it."""
    # Only the group looks at the environment: what is said before the name must hold
    # against it, too.
    is_group = command.__name__ == "main"

    @click.option(
        "--url",
        envvar="RUNSTREAM_URL" if is_group else None,
        help="The server's address.  [env: RUNSTREAM_URL; default: http://127.0.0.1:8080]",
    )
    @click.option(
        "--api-key",
        envvar="RUNSTREAM_API_KEY" if is_group else None,
        help="An API key or a token.  [env: RUNSTREAM_API_KEY]",
    )
    @click.pass_context
    @functools.wraps(command)
    def with_server(
        context: click.Context, /, *args: Any, url: str | None, api_key: str | None, **kwargs: Any
    ) -> Any:
        server = context.obj if isinstance(context.obj, Server) else Server()
        if url:
            server = replace(server, url=url)
        if api_key:
            server = replace(server, api_key=api_key)
        context.obj = server
        return context.invoke(command, *args, **kwargs)

    return with_server


def carry_out(work: Callable[[], Awaitable[T]], server: Server) -> T:
    """Runs it, and tells what goes wrong in a sentence; a Ctrl-C ends with 130."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("runstream: %(message)s"))
    logging.getLogger("runstream").addHandler(handler)

    async def main() -> T:
        return await work()

    try:
        return asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read this has seen enough: `| head`.
        _close_stdout()
        sys.exit(0)
    except RunstreamError as error:
        raise click.ClickException(explain(error, server)) from error
    finally:
        logging.getLogger("runstream").removeHandler(handler)


def explain(error: RunstreamError, server: Server) -> str:
    """What went wrong, and what may help."""
    match error:
        case ConnectionLost():
            return f"{error}\nIs a server running at {server.url}? `realtime serve` starts one."
        case Unauthorized():
            return f"{error}\nGive a key with --api-key or RUNSTREAM_API_KEY."
        case Forbidden():
            return f"{error}\nThe key or token does not allow this."
        case Unprocessable(errors=errors) if errors:
            return "\n".join([str(error), *(f"  {one.path}: {one.message}" for one in errors)])
        case _:
            return str(error)


def tell_when_away(client: Runstream, server: Server) -> None:
    """Says once each time that the server is away, so that a command that waits says for what."""
    away = False

    def note(state: State) -> None:
        nonlocal away
        if state is State.WAITING and not away:
            away = True
            click.echo(f"runstream: waiting for {server.url}: {client.last_error}", err=True)
        elif state is State.OPEN and away:
            away = False
            click.echo(f"runstream: connected to {server.url}", err=True)

    client.on_state(note)


def _close_stdout() -> None:
    try:
        sys.stdout.close()
    except BrokenPipeError:
        pass
