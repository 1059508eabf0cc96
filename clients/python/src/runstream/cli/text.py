"""Text that others wrote, made fit for a terminal: nothing in it acts, and it is as wide as said."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Final

import msgspec
from rich.cells import cell_len, set_cell_size

MOST: Final = 2_000
"""How many characters of one text are looked at: no line shows more."""

# Whole sequences first, so that what stands between the colours of a program is read without
# their remains: the strings that terminals take (titles, links, clipboards), CSI, the rest.
_SEQUENCE: Final = re.compile(
    "(?:\x1b[\\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\\\|\x9c)"
    "|(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]"
    "|\x1b[ -/]*[0-~]"
)
_SPACE: Final = re.compile("[\t\n\v\f\r\x1c-\x1f\x85\u2028\u2029 ]+")
# Controls of both sets, what turns the direction of writing, what has no width and no place
# in a word, halves of surrogates, tags.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)
# The same as UTF-8, less what JSON escapes by itself. It stands in strings only, so an escape
# of JSON's says the same.
_UNSAFE_JSON: Final = re.compile(
    b"\x7f|\xc2[\x80-\x9f]|\xd8\x9c|\xe2\x80[\x8b\x8e\x8f\xa8-\xae]|\xe2\x81[\xa0-\xaf]|\xef\xbb\xbf"
)


def clean(text: str) -> str:
    """The text on one line, without anything that a terminal would obey."""
    text = text[:MOST]
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub("\ufffd", _SPACE.sub(" ", _SEQUENCE.sub("", text)))


def clean_lines(text: str, most: int) -> list[str]:
    """The last lines of a text, each on its own and clean, empty ones at the end left out."""
    lines = text[-MOST * most :].rstrip().replace("\r\n", "\n").split("\n")
    return [clean(line.rstrip()) for line in lines[-most:]] if text.strip() else []


def width_of(text: str) -> int:
    """How many columns a clean text takes."""
    return cell_len(text)


def head_of(text: str, width: int) -> str:
    """The beginning of a clean text that takes no more than so many columns."""
    head = set_cell_size(text, width) if cell_len(text) > width else text
    # Where half a wide character is left it gives a space, which is none of the text's.
    return head if text.startswith(head) else head[:-1]


def fit(text: str, width: int, *, right: bool = False) -> str:
    """A clean text in exactly so many columns: filled up, or cut off with an ellipsis."""
    if width <= 0:
        return ""
    wide = cell_len(text)
    if wide > width:
        return set_cell_size(head_of(text, width - 1).rstrip() + "…", width)
    return " " * (width - wide) + text if right else text + " " * (width - wide)


def duration(seconds: float) -> str:
    """How long, in the unit that suits it."""
    if seconds < 0.9995:
        return f"{max(0, round(seconds * 1000))} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3_600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole // 60 % 60:02} min"
    return f"{whole // 86_400} d {whole // 3_600 % 24} h"


def between(begin: datetime, end: datetime) -> str:
    """How long it was from one moment to another."""
    return duration((end - begin).total_seconds())


def so_far(begin: datetime, now: datetime) -> str:
    """How long it has been going on: in whole seconds, so that it does not flicker."""
    whole = max(0, int((now - begin).total_seconds()))
    return f"{whole} s" if whole < 60 else duration(whole)


def clock(at: datetime) -> str:
    """The time of day here, to the millisecond."""
    return at.astimezone().strftime("%H:%M:%S.%f")[:-3]


def json_line(value: Any) -> str:
    """The value as JSON on one line, in which a terminal finds nothing to obey either."""
    return _UNSAFE_JSON.sub(_escaped, msgspec.json.encode(value)).decode()


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(found[0].decode())
