"""What all commands share: which server, and how errors are told to whoever types."""

from __future__ import annotations

import asyncio
import functools
import logging
import re
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

import click

from runstream.cli.text import clean
from runstream.client import Runstream
from runstream.effects import State
from runstream.errors import (
    ConnectionLost,
    Forbidden,
    Refused,
    RunstreamError,
    Unauthorized,
    Unprocessable,
)

T = TypeVar("T")

NOT_COMPLETED: Final = 1
NOT_TOLD: Final = 3
INTERRUPTED: Final = 130


class Failure(click.ClickException):
    """What was waited for could not be: another matter than that it did not end well."""

    def __init__(self, message: str, code: int = NOT_TOLD) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # click means it for the class


@dataclass(frozen=True)
class Server:
    """Where the server is, and the key to it."""

    url: str = "http://127.0.0.1:8080"
    api_key: str | None = None

    def client(self) -> Runstream:
        """A client of it; a mistake in the address is the operator's to hear."""
        # `localhost:8080` can mean one thing only.
        url = self.url if "://" in self.url else f"http://{self.url}"
        try:
            return Runstream(url, api_key=self.api_key or None)
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


def carry_out(work: Callable[[], Awaitable[T]], server: Server, *, code: int = 1) -> T:
    """Runs it, and tells what goes wrong in a sentence, ending with `code`.

    A Ctrl-C ends with 130, another signal that asks to end with 128 and its number.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("runstream: %(message)s"))
    logging.getLogger("runstream").addHandler(handler)
    ended_by: list[int] = []

    async def main() -> T:
        task = asyncio.current_task()

        def end(which: int) -> None:
            ended_by.append(which)
            if task is not None:
                task.cancel()

        for which in _ENDS:
            asyncio.get_running_loop().add_signal_handler(which, end, which)
        return await work()

    try:
        return asyncio.run(main())
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except asyncio.CancelledError:
        sys.exit(128 + ended_by[0] if ended_by else INTERRUPTED)
    except BrokenPipeError:
        # Whoever read this has seen enough: `| head`.
        _close_stdout()
        sys.exit(0)
    except RunstreamError as error:
        raise Failure(explain(error, server), code) from error
    except OSError as error:
        # The disk that the output goes to is full; the terminal is gone.
        raise Failure(f"Nothing more can be written: {plainly(str(error))}.", code) from error
    finally:
        logging.getLogger("runstream").removeHandler(handler)


_ENDS: Final = () if sys.platform == "win32" else (signal.SIGTERM, signal.SIGHUP)


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(clean, super().format(record).split("\n")))


def explain(error: RunstreamError, server: Server) -> str:
    """What went wrong, and what may help."""
    told, url = plainly(str(error)), clean(server.url)
    match error:
        case ConnectionLost():
            return (
                f"The server at {url} cannot be reached: {told}.\n"
                "`realtime serve` starts one; --url or RUNSTREAM_URL says where it is."
            )
        case Unauthorized():
            wanted = "another key" if server.api_key else "a key"
            return f"{url} refuses: {told}.\nGive {wanted} with --api-key or RUNSTREAM_API_KEY."
        case Forbidden():
            return f"{url} refuses: {told}.\nThe key or token does not allow this."
        case Unprocessable(errors=errors) if errors:
            return "\n".join(f"{clean(one.path)}: {clean(one.message)}" for one in errors)
        case Refused() if told.startswith("the server answers"):
            return f"{url}: {told}. Is that a Runstream server?"
        case _:
            return told


_ERRNO: Final = re.compile(r"^(?:the server cannot be reached: )?(?:\[Errno -?\d+\] )?")
_REFUSED: Final = re.compile(
    r"(?:Multiple exceptions: .*|Connect call failed \(.*\)|All connection attempts failed)$"
)


def plainly(said: str) -> str:
    """Why a server can't be reached, less what only a programmer would read."""
    if said == "closed with no code":
        return "the connection was lost"
    return _REFUSED.sub("nothing answers there", _ERRNO.sub("", clean(said)))


def tell_when_away(client: Runstream, server: Server) -> None:
    """Says once each time that the server is away, so that a command that waits says for what."""
    away = False

    def note(state: State) -> None:
        nonlocal away
        if state is State.WAITING and not away:
            away = True
            said = plainly(client.last_error or "")
            click.echo(f"runstream: waiting for {clean(server.url)}: {said}", err=True)
        elif state is State.OPEN and away:
            away = False
            click.echo(f"runstream: connected to {clean(server.url)}", err=True)

    client.on_state(note)


def _close_stdout() -> None:
    try:
        sys.stdout.close()
    except BrokenPipeError:
        pass
