"""`runstream trigger`: makes a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from runstream.cli.server import NOT_COMPLETED, NOT_TOLD, Server, carry_out, server_options
from runstream.cli.text import clean, json_line
from runstream.cli.views import RunView
from runstream.cli.watch import follow, is_terminal


@click.command()
@click.argument("task")
@click.option("--payload", help="JSON; @FILE reads it from a file, - from standard input.")
@click.option("--tag", "tags", multiple=True, help="A label; may be repeated.")
@click.option("--idempotency-key", help="With a key that was used before: the first run.")
@click.option("--delay", type=click.FloatRange(min=0), help="Seconds until it is due.")
@click.option("--wait", is_flag=True, help="Show it until it is final, and end as `watch` does.")
@click.option("--json", "as_json", is_flag=True, help="The whole run as JSON, not its id.")
@server_options
@click.pass_obj
def trigger(
    server: Server,
    task: str,
    payload: str | None,
    tags: tuple[str, ...],
    idempotency_key: str | None,
    delay: float | None,
    wait: bool,
    as_json: bool,
) -> None:
    """Makes a run of TASK, and prints its id."""
    value = _payload(payload)

    async def work() -> bool:
        async with server.client() as client:
            made = await client.trigger(
                task,
                value,
                tags=tags or None,
                idempotency_key=idempotency_key,
                delay=delay,
            )
            if not wait:
                click.echo(json_line(made) if as_json else clean(made.id))
                return True
            on_screen = not as_json and is_terminal()
            subscription = client.subscribe_to_run(made.id)
            return await follow(client, server, subscription, RunView(made.id), on_screen=on_screen)

    if not carry_out(work, server, code=NOT_TOLD if wait else 1):
        sys.exit(NOT_COMPLETED)


def _payload(text: str | None) -> Any:
    if text is None:
        return None
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
        return msgspec.json.decode(text)
    except OSError as error:
        raise click.BadParameter(str(error), param_hint="--payload") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"this is no JSON: {error}", param_hint="--payload") from error
