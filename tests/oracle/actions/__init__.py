"""All that can happen."""

from __future__ import annotations

from typing import Final

from tests.oracle.actions import (
    connections,
    faults,
    gateways,
    hints,
    reads,
    scenes,
    subscriptions,
    tokens,
    writers,
)
from tests.oracle.actions.action import Action

# In this order a seed chooses among them.
ACTIONS: Final[dict[str, tuple[int, Action]]] = {
    **writers.ACTIONS,
    **hints.ACTIONS,
    **reads.ACTIONS,
    **gateways.ACTIONS,
    **faults.ACTIONS,
    **connections.ACTIONS,
    **subscriptions.ACTIONS,
    **tokens.ACTIONS,
    **scenes.ACTIONS,
}
