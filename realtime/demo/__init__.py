"""A few real commands as runs on a server of their own, each change shown as it is pushed."""

from __future__ import annotations

import asyncio
import importlib.util


class DemoFailed(Exception):
    """The demo could not be shown, or a change that was committed did not arrive."""


def demo(*, stay: bool = False) -> None:
    """Shows it, and with `stay` goes on until it is interrupted. Raises DemoFailed."""
    if importlib.util.find_spec("runstream") is None:
        raise DemoFailed(
            "the demo watches its runs through the Python client, which is not installed: "
            "pip install ./clients/python"
        )
    # Only now, since these need the client.
    from realtime.demo.play import play

    try:
        asyncio.run(play(stay=stay))
    except KeyboardInterrupt:
        # Who stays has no other way to end it.
        raise SystemExit(0 if stay else 130) from None
