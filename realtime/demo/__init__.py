"""A few real commands as runs on a server of their own, each change shown as it is pushed."""

from __future__ import annotations

import asyncio
import importlib.util


class DemoFailed(Exception):
    """The demo could not be shown, or a change that was committed did not arrive."""


def demo() -> None:
    """Shows it. Raises DemoFailed."""
    if importlib.util.find_spec("runstream") is None:
        raise DemoFailed(
            "the demo watches its runs through the Python client, which is not installed: "
            "pip install ./clients/python"
        )
    # Only now, since these need the client.
    from realtime.demo.play import play

    try:
        asyncio.run(play())
    except KeyboardInterrupt:
        raise SystemExit(130) from None
