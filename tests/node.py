"""Node for tests: the machine's, else the wheel's, with the packages that the browser client names."""

import fcntl
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
CLIENT: Final = ROOT / "clients" / "js"
MODULES: Final = CLIENT / "node_modules"
OLDEST: Final = 20


def machines_node() -> Path | None:
    """Where a Node is that is new enough, with its npm."""
    found = shutil.which("node")
    if found is None or shutil.which("npm") is None:
        return None
    version = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    major = re.match(r"v(\d+)", version.stdout)
    return Path(found).parent if major and int(major[1]) >= OLDEST else None


@cache
def environment() -> dict[str, str]:
    folder = machines_node() or Path(sysconfig.get_path("scripts"))
    return {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "FORCE_COLOR": "0"}


def run(*command: str, cwd: Path = CLIENT) -> str:
    """What the command prints; a failure shows it."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        printed = f"{done.stdout[-20_000:]}{done.stderr[-5_000:]}"
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}\n{printed}")
    return done.stdout


def install() -> None:
    """What `package-lock.json` names is installed, once for all who test at the same time."""
    lock = CLIENT / "package-lock.json"
    stamp = MODULES / ".installed"
    with (Path(tempfile.gettempdir()) / f"runstream-npm-{os.getuid()}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_bytes() != lock.read_bytes():
            run("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error")
            stamp.write_bytes(lock.read_bytes())
