"""The demo's processes: each ends with whoever started it, however that ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]


def command(*arguments: str) -> Sequence[str]:
    """The command line of a child: `serve …`, or `work URL FOLDER [--again]`."""
    return [sys.executable, "-m", "realtime.demo.child", *arguments]


def environment() -> dict[str, str]:
    """A child's environment: nothing of the user's settings, and the sources that run here."""
    mine = {k: v for k, v in os.environ.items() if not k.startswith("RUNSTREAM_")}
    path = [str(ROOT), mine.get("PYTHONPATH", "")]
    return mine | {"PYTHONPATH": os.pathsep.join(part for part in path if part)}


def end_with_parent() -> None:
    """Stops this process when the other end of stdin closes: even a killed parent closes it."""

    def watch() -> None:
        while os.read(sys.stdin.fileno(), 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    end_with_parent()
    if sys.argv[1] == "work":
        from realtime.demo.work import work

        # Its commands end with it: as after Ctrl-C, each is killed and waited for.
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        with suppress(KeyboardInterrupt):
            work(sys.argv[2], Path(sys.argv[3]), again="--again" in sys.argv[4:])
    else:
        from realtime.cli import main as realtime

        realtime(prog_name="realtime")


if __name__ == "__main__":
    main()
