"""Peers come from their registries when they are measured, into a folder that goes afterwards."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

WITHIN_S = 600.0


class NotHad(Exception):
    """The peer can't be had here and now: says why."""


def run(what: str, command: Sequence[str], folder: Path, **env: str) -> None:
    """Runs it there. Raises NotHad, with what it said last."""
    if shutil.which(command[0]) is None:
        raise NotHad(f"{what} needs {command[0]}, which is not here")
    mine: Mapping[str, str] = os.environ | env
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=mine,
            capture_output=True,
            text=True,
            check=False,
            timeout=WITHIN_S,
        )
    except subprocess.TimeoutExpired:
        raise NotHad(f"{what} was not installed within {WITHIN_S:.0f} s") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise NotHad(f"{what} could not be installed: {said[-1] if said else done.returncode}")
