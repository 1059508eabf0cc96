"""What benchmarks have found is kept whole, and drawn the same each time."""

import re
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from bench import plots
from bench.__main__ import keep_and_draw
from bench.result import FOLDER, Found, Result, Row, keep, kept, read

MACHINE = {"cpu": "Some CPU, 2 usable of 2", "load": "0.42, 0.50, 0.61 (1, 5, 15 min)"}

LETTER = 7.4
"""Pixels, in the mean: more than any common font takes at 13."""


def a_result(benchmark: str) -> Result:
    return Result(benchmark, "2026-01-31", MACHINE, f"a sample of {benchmark}", ROWS[benchmark])


def cost(us: float) -> dict[str, float]:
    return {"us": us, "least_us": us * 0.9, "most_us": us * 1.2}


def times(p50: float) -> dict[str, float]:
    return {"p50": p50, "p90": p50 * 2, "p99": p50 * 5, "max": p50 * 9}


ROWS = {
    "fanout": [
        Row(name, cost(us * share), under)
        for under, share in (("one by one", 1.0), ("bursts of 10", 0.1))
        for name, us in (
            ("bare send() in C (the limit)", 5.72),
            ("Runstream, uvloop", 9.0),
            ("websockets <broadcast> & more", 25.0),
        )
    ],
    "latency": [
        Row("SQLite, one process", {"p10": 2.1} | times(3.04)),
        Row("PostgreSQL, two, no Redis", {"p10": 41.0} | times(254.96)),
    ],
    "memory": [Row("on uvloop", {"KiB": 8.91}), Row("on asyncio", {"KiB": 9.54})],
    "mixed": [
        Row(name, times(p50), f"{rate} changes/s")
        for rate, p50 in ((250, 2.5), (1_000, 6.5))
        for name in ("own runs, first gateway", "dashboards")
    ],
}


def drawn(result: Result, folder: Path) -> str:
    """Of the file that is kept, as all pictures are."""
    return plots.draw(read(keep(result, folder)), folder).read_text(encoding="utf-8")


@pytest.mark.parametrize("benchmark", plots.PICTURES)
def test_the_same_result_gives_the_same_bytes(benchmark: str, tmp_path: Path) -> None:
    """Or each run of `bench plots` would look like news to git."""
    result = a_result(benchmark)
    once = drawn(result, tmp_path)
    assert drawn(result, tmp_path) == once
    assert drawn(read(tmp_path / f"{benchmark}.json"), tmp_path) == once


@pytest.mark.parametrize("benchmark", plots.PICTURES)
def test_a_picture_holds_each_name_and_stays_inside_its_frame(
    benchmark: str, tmp_path: Path
) -> None:
    result = a_result(benchmark)
    picture = ElementTree.fromstring(drawn(result, tmp_path))
    words = {element.text for element in picture if element.tag.endswith("text")}
    assert {row.name for row in result.rows} <= words
    assert {row.under for row in result.rows if row.under} <= words
    assert_all_is_inside(picture)


def assert_all_is_inside(picture: ElementTree.Element) -> None:
    width, height = float(picture.attrib["width"]), float(picture.attrib["height"])
    for element in picture:
        if "x" not in element.attrib:
            continue
        x, y = float(element.attrib["x"]), float(element.attrib["y"])
        wide = float(element.attrib.get("width", LETTER * len(element.text or "")))
        left = x - wide * {"middle": 0.5, "end": 1.0}.get(element.attrib.get("text-anchor", ""), 0)
        assert 0 <= left <= left + wide <= width, element.text
        assert 0 <= y <= y + float(element.attrib.get("height", 0)) <= height


def test_bars_are_as_long_as_their_numbers(tmp_path: Path) -> None:
    """Each heading's from 0, so that lengths may be compared."""
    picture = ElementTree.fromstring(drawn(a_result("fanout"), tmp_path))
    widths = [
        float(element.attrib["width"])
        for element in picture
        if element.tag.endswith("rect") and element.attrib["class"] != "paper"
    ]
    limit, ours, peer = widths[:3]
    assert ours / limit == pytest.approx(9.0 / 5.72, rel=0.01)
    assert peer / limit == pytest.approx(25.0 / 5.72, rel=0.01)


def test_a_picture_has_its_own_paper_for_light_and_for_dark_pages(tmp_path: Path) -> None:
    """As an image it can't know the page that it is on."""
    text = drawn(a_result("memory"), tmp_path)
    light, dark = text.split("@media (prefers-color-scheme: dark)")
    for colours in (light, dark):
        assert re.search(r"\.paper { fill: #", colours)
        assert re.search(r"\.ink { fill: #", colours)


def test_a_result_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    result = a_result("latency")
    path = keep(result, tmp_path)
    assert path.name == "latency.json"
    assert read(path) == result
    assert kept(tmp_path) == [result]


def test_a_file_that_is_no_result_is_refused(tmp_path: Path) -> None:
    """A number that nobody draws, by a wrong name, would be missed by nobody."""
    path = keep(a_result("memory"), tmp_path)
    path.write_text(path.read_text().replace('"about"', '"abuot"'))
    with pytest.raises(msgspec.ValidationError):
        read(path)


def test_what_a_benchmark_found_is_kept_with_the_load_from_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After it the load is the benchmark's own."""
    monkeypatch.setattr("bench.result.FOLDER", tmp_path)
    monkeypatch.setattr("bench.plots.IMAGES", tmp_path)
    found = Found("10,000 connections", ROWS["memory"], ["PostgreSQL 18.6"])
    keep_and_draw("memory", found, "0.01, 0.02, 0.03 (1, 5, 15 min)")
    result = read(tmp_path / "memory.json")
    assert result.machine["load"] == "0.01, 0.02, 0.03 (1, 5, 15 min)"
    assert "PostgreSQL 18.6" in result.machine["servers"]
    assert (tmp_path / "bench-memory.svg").exists()
    assert "bench-memory.svg" in capsys.readouterr().out


def test_the_pictures_in_the_docs_are_those_of_the_results_that_are_kept(tmp_path: Path) -> None:
    """Whoever changes the one has to make the other: `python -m bench plots`."""
    for picture in plots.draw_all(FOLDER, tmp_path):
        assert (plots.IMAGES / picture.name).read_bytes() == picture.read_bytes()
        assert_all_is_inside(ElementTree.fromstring(picture.read_text(encoding="utf-8")))
