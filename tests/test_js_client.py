"""The browser client's own tests, types and size; and that the page uses what is published."""

import re
from pathlib import Path
from typing import Final

import pytest

from tests.node import CLIENT, MODULES, ROOT, install, run

DASH: Final = ROOT / "realtime" / "dash"


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    install()


@pytest.mark.parametrize("file", sorted(path.name for path in CLIENT.glob("test/*.test.js")))
def test_the_browser_client_holds_its_own_tests(file: str) -> None:
    """Each file is a run of its own, so that one that hangs is named."""
    printed = run("node", "--test", f"test/{file}")
    passed = re.search(r"^(?:#|ℹ) pass (\d+)", printed, re.MULTILINE)
    assert passed is not None, printed
    assert int(passed[1]) > 0, printed


@pytest.mark.parametrize("project", ["tsconfig.json", "tsconfig.dash.json"])
def test_the_browser_client_and_the_dash_page_are_typed_throughout(project: str) -> None:
    """`tsc --checkJs --strict` finds nothing."""
    run("node", "node_modules/typescript/bin/tsc", "--project", project)


def test_the_dash_page_loads_the_browser_client_as_it_is_published() -> None:
    """`cp clients/js/src/*.js realtime/dash/client/` after each change of the client."""
    assert contents(DASH / "client") == contents(CLIENT / "src")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.js")}


def test_what_is_vendored_is_what_the_packages_hold() -> None:
    vendored = [path for path in (DASH / "vendor").rglob("*") if path.is_file()]
    assert len(vendored) > 10
    for path in vendored:
        name = path.relative_to(DASH / "vendor").as_posix()
        if name == "README.md":
            continue
        origin = MODULES / name
        if name.startswith("uplot/") and name != "uplot/LICENSE":
            # Declarations are found beside their module, under its name.
            origin = (
                MODULES
                / "uplot"
                / "dist"
                / name.removeprefix("uplot/").replace(".esm.d.ts", ".d.ts")
            )
        assert path.read_bytes() == origin.read_bytes(), name
