"""What the demo sees: prints each change as it comes, and counts what came."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from runstream import Changed, Entered, Left, Run, Runstream

_STYLES: Final = {
    "QUEUED": "dim",
    "EXECUTING": "cyan",
    "COMPLETED": "green",
    "FAILED": "red",
    "CANCELED": "yellow",
}


class Watch:
    """One stream of changes, as somebody sees it who counts."""

    def __init__(self) -> None:
        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._seen: dict[str, int] = {}
        """Of each run, up to which version it was shown."""
        self._committed: dict[str, int] = {}
        self._pushed = 0
        self._gaps = 0
        self._delays_ms: list[float] = []
        self._news = asyncio.Event()

    # ------------------------------------------------------------------------------- what comes

    async def follow(self, changes: AsyncIterator[Any]) -> None:
        """Takes what comes, until it is cancelled."""
        async for change in changes:
            if isinstance(change, Entered | Changed | Left):
                self._take(change.run, entered=isinstance(change, Entered))

    def _take(self, run: Run[Any, Any], *, entered: bool) -> None:
        delay_ms = (datetime.now(UTC) - run.updated_at).total_seconds() * 1000
        before = self._seen.get(run.id, 0)
        # A run that enters is shown as it stands: what it was before is covered by that.
        if not entered and run.version != before + 1:
            self._gaps += 1
        self._seen[run.id] = run.version
        self._pushed += run.version - before
        self._delays_ms.append(delay_ms)
        self._show(run, delay_ms)
        self._news.set()

    def _show(self, run: Run[Any, Any], delay_ms: float) -> None:
        status = str(run.status)
        self._console.print(
            Text.assemble(
                (f"{delay_ms:7.1f} ms  ", "dim"),
                f"{run.task_identifier:<12} #{run.number:<4} v{run.version:<3}",
                (f"{status:<10} ", _STYLES.get(status, "")),
                _progress(run),
            )
        )

    # -------------------------------------------------------------------------------- what counts

    async def count_committed(self, client: Runstream) -> None:
        """Counts every change that is in the store's log."""
        async for run in client.runs.list(limit=1000):
            versions = [entry.version async for entry in client.runs.history(run.id, limit=1000)]
            assert versions == list(range(1, run.version + 1)), (run.id, versions)
            self._committed[run.id] = len(versions)

    async def all_arrived(self) -> None:
        """Returns when nothing that was counted is missing any more."""
        while self.missing:
            self._news.clear()
            await self._news.wait()

    @property
    def missing(self) -> int:
        """How many of the committed changes have not arrived."""
        late = sum(
            max(0, committed - self._seen.get(id, 0)) for id, committed in self._committed.items()
        )
        return late + self._gaps

    def summary(self, seconds: float) -> str:
        """What there was to see, in numbers."""
        delays = sorted(self._delays_ms) or [0.0]

        def percentile(share: float) -> float:
            return delays[min(len(delays) - 1, int(len(delays) * share))]

        return (
            f"\n{len(self._committed)} runs in {seconds:.1f} s\n"
            f"changes committed: {sum(self._committed.values())}\n"
            f"changes pushed:    {self._pushed}\n"
            f"commit to client:  p50 {percentile(0.5):.1f} ms, p99 {percentile(0.99):.1f} ms"
        )


def _progress(run: Run[Any, Any]) -> str:
    if run.error is not None:
        return run.error.message
    parts = []
    progress = run.metadata.get("progress")
    if isinstance(progress, int | float) and not run.is_final:
        filled = round(10 * progress)
        parts.append("█" * filled + "░" * (10 - filled))
    if "message" in run.metadata:
        parts.append(str(run.metadata["message"]))
    elif run.is_queued or not run.metadata:
        parts.append(" ".join(run.tags))
    return "  ".join(parts)[:100]
