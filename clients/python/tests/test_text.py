"""What others wrote, on its way to a terminal."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from runstream.cli.text import clean, clean_lines, duration, fit, head_of, json_line

_PIECES = (
    "\x1b[31m", "\x1b]0;title\x07", "\x1b]8;;http://x\x1b\\", "\x9b2J", "\x9d0;x\x9c", "\x1b",
    "\u202e", "\u2066", "\n", "\r", "\t", "\x00", "\x7f", "\u2028", "\ufeff", "\U000e0041",
    "a", "é", "漢", "🚀", "e\u0301", "👩\u200d🚀", " ",
)  # fmt: skip
HOSTILE = st.lists(st.sampled_from(_PIECES), max_size=12).map("".join) | st.text(
    st.characters(exclude_categories=()), max_size=20
)
_TURNS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}


def acts(char: str) -> bool:
    """Whether a terminal does something with it but to show it."""
    return (
        unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")
        or unicodedata.bidirectional(char) in _TURNS
    )


@pytest.mark.parametrize(
    "text, shown",
    [
        ("plain", "plain"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;owned\x07title", "title"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b2Jgone\x9d0;owned\x9c?", "gone?"),
        ("a\x1bPq\x1b\\b", "ab"),
        ("\x1bcreset", "reset"),
        ("two\r\nlines\tand\x85more", "two lines and more"),
        ("evil\u202etxt.exe", "evil\ufffdtxt.exe"),
        ("\x1b", "\ufffd"),
        ("\ud800", "\ufffd"),
        ("👩\u200d🚀 漢字 é", "👩\u200d🚀 漢字 é"),
    ],
)
def test_what_a_terminal_would_obey_is_taken_out(text: str, shown: str) -> None:
    assert clean(text) == shown


@given(HOSTILE)
def test_no_text_keeps_anything_that_acts(text: str) -> None:
    """A name is chosen by whoever may make runs, and read by whoever runs the server."""
    assert not any(map(acts, clean(text)))
    clean(text).encode()


@given(HOSTILE, st.integers(0, 40), st.booleans())
def test_a_text_that_is_fitted_is_as_wide_as_said(text: str, width: int, right: bool) -> None:
    assert cell_len(fit(clean(text), width, right=right)) == width
    head = head_of(clean(text), width)
    assert clean(text).startswith(head)
    assert cell_len(head) <= width


def test_what_is_cut_off_shows_that_it_was() -> None:
    assert fit("漢字漢字", 6) == "漢字… "
    assert fit("abcdef", 4) == "abc…"
    assert fit("ab", 4, right=True) == "  ab"


@given(HOSTILE)
def test_json_lines_say_the_same_and_hold_nothing_that_acts(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return  # No JSON that came from a server has halves of surrogates.
    line = json_line({"text": text})
    assert json.loads(line) == {"text": text}
    assert not any(map(acts, line))


def test_the_last_lines_of_a_text_are_lines_of_their_own() -> None:
    assert clean_lines("a\nb\x1b[31m \r\n  c\n\n", 2) == ["b", "  c"]
    assert clean_lines(" \n", 3) == []


@pytest.mark.parametrize(
    "seconds, said",
    [
        (-1, "0 ms"),
        (0.0412, "41 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (3_599.6, "1 h 00 min"),
        (90_000, "1 d 1 h"),
    ],
)
def test_how_long_is_said_in_the_unit_that_suits_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said
