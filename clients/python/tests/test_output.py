"""What `runstream exec` makes of a program's output."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runstream.cli.output import TAIL_BYTES, TAIL_LINES, Progress, Splitter, Tail, parse

PIECES = st.lists(
    st.sampled_from(
        [b"::progress 0.5 half\n", b"::prog", b"ress 1\n", b"text", b"\n", b": ", b"::"]
    )
)


def test_a_progress_line_has_a_number_and_perhaps_a_text() -> None:
    assert parse(b"::progress 0.4 packing  boxes") == Progress(0.4, "packing  boxes")
    assert parse(b"::progress 1") == Progress(1.0, "")
    assert parse(b"::progress 40% x\r") == Progress(0.4, "x")
    assert parse(b"::progress 7 too far") == Progress(1.0, "too far")
    assert parse(b"::progress soon") is None
    assert parse(b" ::progress 1") is None
    assert parse(b"::progress 0.1 \x1b[31mred\x1b[0m\x00") == Progress(0.1, "red")


def test_progress_lines_are_taken_out_and_all_else_passes() -> None:
    splitter = Splitter(keep=False)
    shown, told = splitter.split(b"a\n::progress 0.5 half\nb\n::progress oops\n")
    assert shown == b"a\nb\n::progress oops\n"
    assert told == [Progress(0.5, "half")]


def test_what_may_become_a_progress_line_waits_and_a_prompt_does_not() -> None:
    splitter = Splitter(keep=False)
    assert splitter.split(b"password: ") == (b"password: ", [])
    assert splitter.split(b"\n::pro") == (b"\n", [])
    assert splitter.split(b"gress 0.1 x\n") == (b"", [Progress(0.1, "x")])
    assert splitter.split(b"::prose") == (b"::prose", [])
    assert splitter.rest() == (b"", [])


@given(PIECES, st.booleans())
def test_however_it_is_cut_into_pieces_it_comes_to_the_same(
    pieces: list[bytes], keep: bool
) -> None:
    parts, one = Splitter(keep=keep), Splitter(keep=keep)
    shown, told = b"", []
    for piece in pieces:
        more, progress = parts.split(piece)
        shown += more
        told += progress
    more, progress = parts.rest()
    whole_shown, whole_told = one.split(b"".join(pieces))
    rest_shown, rest_told = one.rest()
    assert shown + more == whole_shown + rest_shown
    assert told + progress == whole_told + rest_told
    if keep:
        assert shown + more == b"".join(pieces)


@given(st.lists(st.binary(max_size=3000), max_size=20))
def test_the_tail_is_short_text_whatever_is_written(chunks: list[bytes]) -> None:
    tail = Tail()
    for chunk in chunks:
        tail.add(chunk)
    text = tail.text()
    assert "\x00" not in text
    assert len(text) <= TAIL_BYTES
    assert text.count("\n") <= TAIL_LINES
    assert not tail.is_news


def test_the_tail_is_the_last_lines_each_as_it_was_written_over() -> None:
    tail = Tail()
    tail.add(b"first\n" + b"10%\r20%\r30%\n" + b"line\n" * TAIL_LINES + b"open")
    assert tail.is_news
    assert tail.text() == "\n".join(["line"] * TAIL_LINES + ["open"])
    other = Tail()
    other.add(b"10%\r20%\r")
    assert other.text() == "20%"
