"""The run store: from a command to a published change.

`RunStore` is its face; commands are in `store.commands`, the nouns in `store.model`, what can go
wrong in `store.errors`, the brokers in `store.broker`.
"""

from store.broker import open_broker
from store.housekeeping import Retention
from store.runs import RunStore

__all__ = ["Retention", "RunStore", "open_broker"]
