"""The example that plots progress, as it stands, against a real server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

from tests.processes import API_KEY, Server

ROOT = Path(__file__).resolve().parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def test_the_plot_has_a_curve_for_each_run_and_says_how_it_ended(
    sqlite_url: str, start_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = start_server(sqlite_url)
    environ = {**os.environ, "RUNSTREAM_URL": server.url, "RUNSTREAM_API_KEY": API_KEY}
    environ["PYTHONPATH"] = str(ROOT / "clients" / "python" / "src")
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "progress_plot.py"],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert "progress.svg" in done.stdout
    plot = ElementTree.parse(tmp_path / "progress.svg").getroot()
    curves = [line.attrib["points"].split() for line in plot.iter(f"{SVG}polyline")]
    assert len(curves) == 4
    # Each change was told: every curve has more than its two ends.
    assert all(len(curve) > 5 for curve in curves)
    said = [text.text for text in plot.iter(f"{SVG}text")]
    assert "encode-video COMPLETED" in said
    assert "train-model FAILED" in said
