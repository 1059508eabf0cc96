"""The browser client's own tests, types and size, run by Node: the machine's, else the wheel's."""

import fcntl
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[1]
CLIENT: Final = ROOT / "clients" / "js"
OLDEST: Final = 20


def node_folder() -> Path | None:
    """Where a Node is that is new enough; None for the wheel's."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    major = re.match(r"v(\d+)", version.stdout)
    return Path(found).parent if major and int(major[1]) >= OLDEST else None


def environment() -> dict[str, str]:
    folder = node_folder() or Path(sysconfig.get_path("scripts"))
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "FORCE_COLOR": "0"}


def run(*command: str) -> str:
    """What the command prints; a failure shows it."""
    done = subprocess.run(
        command,
        cwd=CLIENT,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (
        f"{' '.join(command)}\n{done.stdout[-20_000:]}{done.stderr[-5_000:]}"
    )
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    """What `package-lock.json` names is installed, once for all who test at the same time."""
    lock = CLIENT / "package-lock.json"
    stamp = CLIENT / "node_modules" / ".installed"
    with (Path(tempfile.gettempdir()) / f"runstream-npm-{os.getuid()}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
            run("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
            stamp.write_bytes(lock.read_bytes())


@pytest.mark.parametrize("file", sorted(path.name for path in CLIENT.glob("test/*.test.js")))
def test_the_browser_client_holds_its_own_tests(file: str) -> None:
    """Each file is a run of its own, so that one that hangs is named."""
    printed = run("node", "--test", f"test/{file}")
    passed = re.search(r"^(?:#|ℹ) pass (\d+)", printed, re.MULTILINE)
    assert passed is not None, printed
    assert int(passed[1]) > 0, printed


def test_the_browser_client_is_typed_throughout() -> None:
    """`tsc --checkJs --strict` finds nothing."""
    run("node", "node_modules/typescript/bin/tsc", "--project", "tsconfig.json")
