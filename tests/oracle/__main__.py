"""Plays seeds: `python -m tests.oracle postgres-redis --seeds 0:1000`."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from unittest import mock

import click

from tests.oracle import settling
from tests.oracle.actions import ACTIONS
from tests.oracle.history import plan, play
from tests.oracle.place import Place, SetUp
from tests.oracle.world import Step
from tests.servers import Postgres, Valkey

SEEDS: Final = Path(__file__).parent / "seeds"
SHORT_ROUNDS: Final = 100
"""How often it is looked whether all has settled, while a history is made shorter."""
SET_UPS: Final = ("sqlite", "sqlite-redis", "postgres", "postgres-redis")


@contextlib.contextmanager
def provided(name: str) -> Iterator[SetUp]:
    """The servers of a set-up, of its own."""
    database, _, redis = name.partition("-")
    postgres = None
    with contextlib.ExitStack() as stack:
        if database == "sqlite":
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="runstream-oracle-"))
            url = f"sqlite:///{folder}/runstream.db"
        else:
            postgres = stack.enter_context(Postgres())
            url = postgres.create_database()
        valkey = stack.enter_context(Valkey()) if redis else None
        yield SetUp(name, url, None if valkey is None else valkey.url, postgres, valkey)


def shortened(place: Place, seed: int, history: list[Step], seconds: float) -> list[Step]:
    """What is left of a history when all is taken out that its finding does not need.

    Or as much as could be taken out in so long.
    """
    until = time.monotonic() + seconds

    def fails(some: list[Step]) -> bool:
        try:
            with mock.patch.object(settling, "ROUNDS", SHORT_ROUNDS):
                play(place, seed, iter(some))
        except Exception:
            # Findings are of every kind: a broken promise, an assertion, a time that ran out, or
            # whatever the server itself let through. Any of them is worth a shorter history.
            return True
        return False

    size = len(history) // 2
    while size:
        start = 0
        while start < len(history):
            if time.monotonic() > until:
                return history
            some = history[:start] + history[start + size :]
            if fails(some):
                history = some
            else:
                start += size
        size //= 2
    return history


def _step_of(error: Exception) -> int:
    """At which step of its history it was found."""
    return int(getattr(error, "__notes__", ["step 0"])[-1].rpartition(" ")[2])


def replayed(path: Path) -> None:
    """Plays what was kept; raises what it finds."""
    kept = json.loads(path.read_text())
    with provided(kept["setUp"]) as set_up, Place(set_up) as place:
        play(place, kept["seed"], ((name, number) for name, number in kept["history"]))


@click.command()
@click.argument("set_ups", nargs=-1, type=click.Choice(SET_UPS))
@click.option("--seeds", default="0:100", help="From the first to before the last.")
@click.option("--steps", default=400, help="How long each history is.")
@click.option("--minutes", default=60.0, help="No more are begun after so long.")
@click.option("--often", multiple=True, type=click.Choice(list(ACTIONS)), help="More of this.")
@click.option("--stop/--go-on", default=True, help="At the first finding.")
@click.option("--brief", is_flag=True, help="Findings in one line.")
@click.option("--replay", help="Nothing but what was kept under this name, or in this file.")
@click.option("--keep", help="Shorten what was found, and keep it under this name.")
@click.option("--shorten", default=600.0, help="For so many seconds.")
def main(
    set_ups: tuple[str, ...],
    seeds: str,
    steps: int,
    minutes: float,
    often: tuple[str, ...],
    stop: bool,
    brief: bool,
    keep: str | None,
    shorten: float,
    replay: str | None,
) -> None:
    """Plays random histories and says what they found."""
    if replay is not None:
        replayed(Path(replay) if replay.endswith(".json") else SEEDS / f"{replay}.json")
        return
    first, _, last = seeds.partition(":")
    wanted = range(int(first), int(last or int(first) + 1))
    found = 0
    for name in set_ups or SET_UPS:
        began, played, done = time.monotonic(), 0, 0
        with provided(name) as set_up, Place(set_up) as place:
            for seed in wanted:
                if time.monotonic() - began > minutes * 60:
                    break
                done += 1
                try:
                    played += len(play(place, seed, plan(seed, steps, often)).history)
                except Exception as error:
                    found += 1
                    *_, where = getattr(error, "__notes__", [""])
                    click.echo(f"{where}: {type(error).__name__} {error}"[:400])
                    if not brief:
                        click.echo("".join(traceback.format_exception(error)))
                    if keep is not None:
                        step = _step_of(error)
                        history = list(plan(seed, steps, often))[:step]
                        history = shortened(place, seed, history, shorten)
                        kept = {"setUp": name, "seed": seed, "step": step, "history": history}
                        (SEEDS / f"{keep}.json").write_text(json.dumps(kept) + "\n")
                        click.echo(f"{keep}: {len(history)} steps")
                    if stop:
                        break
        took = time.monotonic() - began
        click.echo(f"{name}: {done} seeds, {played} steps in {took:.1f} s, {found} findings so far")
    raise SystemExit(1 if found else 0)


if __name__ == "__main__":
    main()
