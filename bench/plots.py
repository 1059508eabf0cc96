"""Draws what benchmarks have found, for docs/benchmarks.md: `python -m bench plots` draws all.

A picture is made of its benchmark's result alone, so it says what the file says and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.result import FOLDER, Result, Row, kept
from bench.svg import Ink, Picture

IMAGES: Final = FOLDER.parent.parent / "docs" / "images"
WIDTH: Final = 820
EDGE: Final = 16
NAMES: Final = 258
"""What the names on the left take."""
ROW: Final = 24
BAR: Final = 13


def draw_all(results: Path = FOLDER, images: Path | None = None) -> list[Path]:
    """Draws each result that has a picture, and says where."""
    return [draw(result, images) for result in kept(results) if result.benchmark in PICTURES]


def draw(result: Result, images: Path | None = None) -> Path:
    path = (images or IMAGES) / f"bench-{result.benchmark}.svg"
    path.write_text(PICTURES[result.benchmark](result), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------ the pictures


def fanout(result: Result) -> str:
    """Each server's cost, one by one and in bursts, with the limit as a line through all."""
    bars = []
    for under in headings(result.rows):
        mine = [row for row in result.rows if row.under == under]
        limits = [row.numbers["us"] for row in mine if ink_of(row) == "limit"]
        for row in mine:
            us = row.numbers["us"]
            label = f"{us:.2f}" + (f" · {us / limits[0]:.2f} ×" if limits else "")
            spread = (row.numbers["least_us"], row.numbers["most_us"])
            bars.append(Bar(row.name, under, us, label, ink_of(row), spread))
    picture = begun(
        result,
        "Fan-out: server CPU for each delivery, µs (less is better)",
        "Dashed: the limit, and × how many times it; thin: from the cheapest round to the dearest.",
    )
    put_bars(picture, bars)
    return picture.finished()


def latency(result: Result) -> str:
    picture = begun(
        result,
        "From a change's time to the subscriber, ms (less is better)",
        "Thick from p10 to p90 with p50 as a notch, thin up to p99, a dot for the longest.",
    )
    put_ranges(picture, result.rows)
    return picture.finished()


def mixed(result: Result) -> str:
    picture = begun(
        result,
        "A mixed load: from a change's time to its reader, ms (less is better)",
        "Thick from p50 to p90, thin up to p99, a dot for the longest.",
    )
    put_ranges(picture, result.rows)
    return picture.finished()


def memory(result: Result) -> str:
    picture = begun(
        result,
        "Memory of an idle connection with one subscription, KiB (less is better)",
        "Growth of what is resident in the server's process, for each connection.",
    )
    bars = [
        Bar(row.name, row.under, row.numbers["KiB"], f"{row.numbers['KiB']:.2f}", "ours")
        for row in result.rows
    ]
    put_bars(picture, bars)
    return picture.finished()


PICTURES: Final[Mapping[str, Callable[[Result], str]]] = {
    "fanout": fanout,
    "latency": latency,
    "memory": memory,
    "mixed": mixed,
}


# --------------------------------------------------------------------------------- what they share

TOP: Final = 102
"""Where the first heading stands: below the title and its three lines."""


def begun(result: Result, title: str, key: str) -> Picture:
    """With its title, what was measured on what, and how to read it."""
    picture = Picture(WIDTH, f"{title}. {result.about}.")
    cpu, load = result.machine["cpu"], result.machine["load"].partition(",")[0]
    picture.text(EDGE, 26, title, bold=True)
    picture.text(EDGE, 45, f"{result.about}.", "faint")
    picture.text(EDGE, 63, f"{result.date}, {cpu}, at a load of {load}.", "faint")
    picture.text(EDGE, 81, key, "faint")
    return picture


@dataclass(frozen=True)
class Bar:
    name: str
    under: str
    number: float
    label: str
    ink: Ink
    spread: tuple[float, float] | None = None


def put_bars(picture: Picture, bars: Sequence[Bar]) -> None:
    """From 0, one beside the other for each heading; each heading has a scale of its own."""
    under = headings(bars)
    names = list(dict.fromkeys(bar.name for bar in bars))
    whole = (WIDTH - NAMES - EDGE) / len(under)
    long = whole - 116  # the label beside the longest
    top = TOP + 14 if any(under) else TOP - 4
    for place, name in enumerate(names):
        picture.text(NAMES - 10, top + place * ROW + BAR - 2, name, at="end")
    for column, heading in enumerate(under):
        mine = {bar.name: bar for bar in bars if bar.under == heading}
        x = NAMES + column * whole
        most = max(max(bar.number, *(bar.spread or (0.0,))) for bar in mine.values())
        bottom = top + len(names) * ROW - (ROW - BAR)
        picture.text(x, TOP + 2, heading, bold=True)
        for bar in mine.values():
            if bar.ink == "limit":
                at = x + bar.number / most * long
                picture.line(at, top - 4, at, bottom + 4, "limit", dashed=True)
        for place, name in enumerate(names):
            if (found := mine.get(name)) is None:
                continue
            y = top + place * ROW
            picture.bar(x, y, found.number / most * long, BAR, found.ink)
            right = found.number
            if found.spread is not None:
                least, right = found.spread[0], max(right, found.spread[1])
                middle = y + BAR / 2
                picture.line(
                    x + least / most * long, middle, x + right / most * long, middle, "ink"
                )
            picture.text(x + right / most * long + 6, y + BAR - 2, found.label, found.ink)
        picture.line(x, top - 4, x, bottom + 4, "rule")


def put_ranges(picture: Picture, rows: Sequence[Row]) -> None:
    """Along a scale on which each step is ten times the one before."""
    left, right = NAMES, WIDTH - 160.0
    p50, p99 = right + 80, right + 140
    lowest = min(min(row.numbers.values()) for row in rows)
    highest = max(max(row.numbers.values()) for row in rows)
    first, last = math.log10(step_below(lowest)), math.log10(step_above(highest))

    def at(ms: float) -> float:
        return left + (math.log10(max(ms, 10**first)) - first) / (last - first) * (right - left)

    top = TOP + 2
    y = float(top)
    places: list[tuple[float, Row]] = []
    written: list[tuple[float, str]] = []
    for heading in headings(rows):
        if heading:
            y += 18 if not places else 26
            written.append((y - 6, heading))
        for row in rows:
            if row.under == heading:
                places.append((y, row))
                y += ROW
    bottom = y - (ROW - BAR) + 6
    for ms in steps(10**first, 10**last):
        picture.line(at(ms), top, at(ms), bottom, "rule")
        picture.text(at(ms), bottom + 16, f"{ms:,g}", "faint", at="middle")
    first_line = top + (12 if any(headings(rows)) else 2)
    picture.text(p50, first_line, "p50", "faint", at="end")
    picture.text(p99, first_line, "p99", "faint", at="end")
    for line, heading in written:
        picture.text(EDGE, line, heading, bold=True)
    for y, row in places:
        number = row.numbers
        middle = y + 8 + BAR / 2
        low = number.get("p10", number["p50"])
        picture.text(NAMES - 10, y + 8 + BAR - 2, row.name, at="end")
        picture.line(at(low), middle, at(number["p99"]), middle, "ours", width=2)
        picture.bar(at(low), y + 8, at(number["p90"]) - at(low), BAR, "ours")
        if "p10" in number:
            picture.line(at(number["p50"]), y + 5, at(number["p50"]), y + 11 + BAR, "ink", width=2)
        picture.dot(at(number["max"]), middle, 2.5, "ours")
        picture.text(p50, y + 8 + BAR - 2, f"{number['p50']:,.2f}", at="end")
        picture.text(p99, y + 8 + BAR - 2, f"{number['p99']:,.2f}", at="end")


def headings(rows: Sequence[Row] | Sequence[Bar]) -> list[str]:
    """Each once, in their order."""
    return list(dict.fromkeys(row.under for row in rows))


def ink_of(row: Row) -> Ink:
    if row.name.startswith("Runstream"):
        return "ours"
    return "limit" if "the limit" in row.name else "peer"


def steps(first: float, last: float) -> list[float]:
    """1, 2, 5, 10, 20 … between the two, both included."""
    decades = range(math.floor(math.log10(first)) - 1, math.ceil(math.log10(last)) + 1)
    every = [times * 10.0**decade for decade in decades for times in (1, 2, 5)]
    return [step for step in every if first * 0.999 <= step <= last * 1.001]


def step_below(number: float) -> float:
    return steps(number / 10, number)[-1]


def step_above(number: float) -> float:
    return steps(number, number * 10)[0]
