"""One server for the tests that need nothing special of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.security.serving import Serving, serving


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server, kept for all tests; each finds a tag and a project of its own."""
    with serving(tmp_path_factory.mktemp("security")) as made:
        yield made
