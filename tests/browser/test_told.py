"""That what is told of the examples is what they are."""

from __future__ import annotations

from typing import Any

from tests.node import ROOT

EXAMPLES = ROOT / "examples"


def test_the_page_in_the_readme_and_the_guide_is_the_example() -> None:
    """README.md shows what is tested here, line by line."""
    page = (EXAMPLES / "page" / "index.html").read_text(encoding="utf-8")
    for told in ("README.md", "docs/guides/live-page.md"):
        text = (ROOT / told).read_text(encoding="utf-8")
        lines = [line.strip() for line in text.splitlines()]
        assert "\n".join(line.strip() for line in page.splitlines()) in "\n".join(lines), told


def test_every_example_is_told_of() -> None:
    told = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    there: list[Any] = [
        path for path in EXAMPLES.iterdir() if path.suffix == ".py" or path.is_dir()
    ]
    for path in there:
        assert path.name in told
