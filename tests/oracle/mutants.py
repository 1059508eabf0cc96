"""Takes the rules out, one at a time, and plays until that is noticed.

`python -m tests.oracle.mutants [NAME…]` does so in a copy of the code, says after how many steps
of which seed the oracle has noticed, and keeps the history in `rules/`, shortened. `--check` plays
what is kept there instead. Where a rule names a test, that is run, and has to fail.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import click

from tests.oracle.rules import KEPT, RULES, Rule

ROOT: Final = Path(__file__).parents[2]
PARTS: Final = ("realtime", "store", "tests")


def copied(folder: Path, rule: Rule) -> None:
    """The code without the rule."""
    ignored = shutil.ignore_patterns("__pycache__", "node_modules", "*.db")
    for part in PARTS:
        shutil.copytree(ROOT / part, folder / part, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    for edit in rule.edits:
        # Each is applied to what the one before has left.
        (folder / edit.path).write_text(edit.applied(folder))


def ran(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, capture_output=True, text=True, check=False
    )


def test_fails(folder: Path, name: str) -> bool:
    """Whether the test fails there."""
    (path,) = [
        path for path in (folder / "tests").rglob("test_*.py") if f"def {name}(" in path.read_text()
    ]
    done = ran(folder, "pytest", "-q", "-x", "-k", name, "-p", "no:cacheprovider", str(path))
    return done.returncode == 1


def oracle_finds(folder: Path, name: str, rule: Rule, minutes: float, shorten: float) -> str | None:
    """Where the oracle has noticed, or None; its history is kept."""
    for set_up in rule.set_ups:
        done = ran(
            folder,
            *("tests.oracle", set_up, "--seeds", "0:100000", "--minutes", str(minutes)),
            *("--brief", "--keep", name, "--shorten", str(shorten)),
            *(f"--often={each}" for each in rule.often),
        )
        kept = folder / "tests/oracle/seeds" / f"{name}.json"
        if kept.exists():
            shutil.copy(kept, KEPT)
            said = json.loads(kept.read_text())
            found = next((line for line in done.stdout.splitlines() if "seed" in line), "")
            return (
                f"{set_up} | {said['seed']} | {said['seed'] * 400 + said['step']}"
                f" | {len(said['history'])} | {found[:150]}"
            )
        if done.returncode != 0:
            return f"{set_up}: {done.stdout[-300:]} {done.stderr[-300:]}"
    return None


def kept_fails(folder: Path, name: str) -> bool:
    """Whether the history that is kept shows that the rule is out."""
    done = ran(folder, "tests.oracle", "--replay", str(KEPT / f"{name}.json"))
    return done.returncode != 0 and re.search(r"step \d+", done.stderr) is not None


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(RULES)))
@click.option("--minutes", default=3.0, help="How long the oracle plays, on each set-up.")
@click.option("--shorten", default=120.0, help="For how many seconds a history is made shorter.")
@click.option("--check", is_flag=True, help="Play nothing but the histories that are kept.")
@click.option("--oracle", is_flag=True, help="Ask the oracle also where a rule names a test.")
def main(names: tuple[str, ...], minutes: float, shorten: float, check: bool, oracle: bool) -> None:
    """Says of each rule what shows that it is out; ends with 1 if of one nothing does."""
    unnoticed = 0
    for name in names or RULES:
        rule = RULES[name]
        with tempfile.TemporaryDirectory(prefix="runstream-mutant-") as temporary:
            folder = Path(temporary)
            copied(folder, rule)
            if rule.shown_by is not None and not oracle:
                shown = rule.shown_by if test_fails(folder, rule.shown_by) else None
            elif check:
                shown = "its history" if kept_fails(folder, name) else None
            else:
                shown = oracle_finds(folder, name, rule, minutes, shorten)
        unnoticed += shown is None
        click.echo(f"{name} | {shown or 'UNNOTICED'}")
    raise SystemExit(1 if unnoticed else 0)


if __name__ == "__main__":
    main()
