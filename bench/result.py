"""What a benchmark has found, kept as a small file beside it: pictures are drawn of nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

FOLDER: Final = Path(__file__).parent / "results"
DECIMALS: Final = 3


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of numbers."""

    name: str
    numbers: dict[str, float]
    """Each by its name, with its unit in it where it is no percentile."""
    under: str = ""
    """The heading it stands under, where rows are compared in groups."""


class Found(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a benchmark's `main` returns, once its check has found nothing lost."""

    about: str
    """What was measured, and how often: "1,000 readers; medians of 5 rounds"."""
    rows: Sequence[Row]
    servers: Sequence[str] = ()
    """With their versions, those that it started and that are not ours: "PostgreSQL 18.6"."""


class Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was found, when and on what."""

    benchmark: str
    date: str
    """In UTC, as 2026-01-31."""
    machine: dict[str, str]
    """As `machine.facts` says, with the load from before the benchmark began."""
    about: str
    rows: list[Row]


def keep(result: Result, folder: Path | None = None) -> Path:
    """Writes it in the place of what was found before, and says where."""
    rows = [
        msgspec.structs.replace(
            row, numbers={name: round(number, DECIMALS) for name, number in row.numbers.items()}
        )
        for row in result.rows
    ]
    kept: dict[str, Any] = msgspec.to_builtins(msgspec.structs.replace(result, rows=rows))
    folder = folder or FOLDER
    folder.mkdir(exist_ok=True)
    path = folder / f"{result.benchmark}.json"
    # A file that is half written must not take the place of a whole one.
    half = path.with_suffix(".half")
    half.write_bytes(msgspec.json.format(msgspec.json.encode(kept), indent=2) + b"\n")
    return half.replace(path)


def read(path: Path) -> Result:
    """Raises msgspec.ValidationError if it is no result."""
    return msgspec.json.decode(path.read_bytes(), type=Result)


def kept(folder: Path = FOLDER) -> list[Result]:
    """All there are, by name."""
    return [read(path) for path in sorted(folder.glob("*.json"))]
