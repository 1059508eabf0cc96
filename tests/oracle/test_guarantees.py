"""The page of guarantees names what there is: tests, and rules that can still be taken out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.oracle.rules import KEPT, RULES

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "guarantees.md").read_text()


def all_tests() -> set[str]:
    """The names of all tests of the project."""
    folders = (ROOT / "tests", ROOT / "clients" / "python" / "tests")
    files = [path for folder in folders for path in folder.rglob("test_*.py")]
    return {
        name for path in files for name in re.findall(r"def (test_\w+)\(", path.read_text("utf-8"))
    }


def test_every_test_on_the_page_exists() -> None:
    """A guarantee whose test was renamed or taken away would be shown by nothing."""
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    named |= {rule.shown_by for rule in RULES.values() if rule.shown_by is not None}
    assert named
    assert named <= all_tests()


def test_the_page_lists_the_rules_that_are_taken_out() -> None:
    """With what shows the loss of each: a seed of the oracle's, or a test."""
    listed = dict(re.findall(r"^\| `([\w-]+)` \| (.+) \|$", PAGE, re.MULTILINE))
    assert listed.keys() == RULES.keys()
    for name, rule in RULES.items():
        assert rule.says.rstrip(".") in listed[name]
        assert rule.shown_by is None or f"`{rule.shown_by}`" in listed[name]
        assert rule.shown_by is not None or (KEPT / f"{name}.json").exists()


@pytest.mark.parametrize("name", RULES)
def test_each_rule_can_still_be_taken_out(name: str) -> None:
    """Where the code of a rule has moved, its edit in `rules/` moves with it: it is by these that
    the oracle is seen to notice. `python -m tests.oracle.mutants NAME` says whether it still does.
    """
    rule = RULES[name]
    for edit in rule.edits:
        assert edit.applied(ROOT) != (ROOT / edit.path).read_text()
