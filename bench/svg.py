"""A picture of bars and lines as SVG: the same numbers give the same bytes.

It brings its own background, light or dark as its reader prefers, so it can be read on any page.
"""

from __future__ import annotations

from html import escape
from typing import Final, Literal

Ink = Literal["ink", "faint", "rule", "limit", "ours", "peer"]
LIGHT: Final[dict[str, str]] = {
    "paper": "#ffffff",
    "ink": "#1f2328",
    "faint": "#59636e",
    "rule": "#d1d9e0",
    "limit": "#6e7781",
    "ours": "#0969da",
    "peer": "#bc6c25",
}
DARK: Final[dict[str, str]] = {
    "paper": "#0d1117",
    "ink": "#e6edf3",
    "faint": "#9198a1",
    "rule": "#30363d",
    "limit": "#8b949e",
    "ours": "#58a6ff",
    "peer": "#d9945a",
}


class Picture:
    """Grows downwards as things are put on it; places and sizes are in pixels."""

    def __init__(self, width: int, says: str) -> None:
        """`says` is read out to those who can't see it."""
        self.width = width
        self._says = says
        self._parts: list[str] = []
        self._bottom = 0.0

    def text(
        self,
        x: float,
        y: float,
        words: str,
        ink: Ink = "ink",
        *,
        at: Literal["start", "middle", "end"] = "start",
        bold: bool = False,
    ) -> None:
        """`y` is the line that the letters stand on."""
        anchor = "" if at == "start" else f' text-anchor="{at}"'
        weight = ' font-weight="600"' if bold else ""
        self._parts.append(
            f'<text class="{ink}" x="{x:.1f}" y="{y:.1f}"{anchor}{weight}>'
            f"{escape(words, quote=False)}</text>"
        )
        self._bottom = max(self._bottom, y)

    def bar(self, x: float, y: float, width: float, height: float, ink: Ink) -> None:
        self._parts.append(
            f'<rect class="{ink}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}"'
            f' height="{height:.1f}" rx="1.5"/>'
        )
        self._bottom = max(self._bottom, y + height)

    def line(
        self,
        x1: float,
        y1: float,
        x2: float,
        y2: float,
        ink: Ink,
        *,
        width: float = 1,
        dashed: bool = False,
    ) -> None:
        dashes = ' stroke-dasharray="3 3"' if dashed else ""
        self._parts.append(
            f'<line class="{ink}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
            f' stroke-width="{width:g}"{dashes}/>'
        )
        self._bottom = max(self._bottom, y1, y2)

    def dot(self, x: float, y: float, radius: float, ink: Ink) -> None:
        self._parts.append(f'<circle class="{ink}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}"/>')
        self._bottom = max(self._bottom, y + radius)

    def finished(self, margin: float = 14) -> str:
        height = round(self._bottom + margin)
        says = escape(self._says)
        fonts = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"
        size = f'viewBox="0 0 {self.width} {height}" width="{self.width}" height="{height}"'
        read_out = f'role="img" aria-label="{says}"'
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" {size} {read_out}',
                f'  font-family="{fonts}" font-size="13">',
                "<style>",
                *colours(LIGHT),
                "@media (prefers-color-scheme: dark) {",
                *colours(DARK),
                "}",
                "</style>",
                '<rect class="paper" width="100%" height="100%" rx="8"/>',
                *self._parts,
                "</svg>",
                "",
            ]
        )


def colours(of: dict[str, str]) -> list[str]:
    return [
        f".{name} {{ fill: {colour} }} line.{name} {{ stroke: {colour} }}"
        for name, colour in of.items()
    ]
