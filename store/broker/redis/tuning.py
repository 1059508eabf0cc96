"""The times and bounds of a Redis broker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The defaults are for servers; tests are in more of a hurry."""

    beat_s: float = 1.0
    """How often a process publishes its heartbeat to itself."""
    silent_beats: int = 3
    """So many beats without hearing one, and the connections are made anew."""
    connect_s: float = 3.0
    """To dial, be let in and have all subscriptions confirmed."""
    send_s: float = 2.0
    """For one pipeline of publishes and its answers."""
    redial_s: float = 0.05
    """The second redial waits up to this, the next ones twice as long each; the first, not."""
    redial_most_s: float = 2.0
    steady_s: float = 5.0
    """A connection that stood for so long earns the next an immediate redial again."""
    topology_s: float = 10.0
    """How often a healthy cluster is asked who owns what."""

    inline_bytes: int = 16_384
    """A larger hint goes out as its ids only."""
    message_bytes: int = 65_536
    """Hints of one commit travel together up to this."""
    queue_bytes: int = 8_000_000
    queue_messages: int = 20_000
    """What may wait to be published; beyond, the oldest is dropped."""
    inbox_bytes: int = 32_000_000
    inbox_messages: int = 100_000
    """What may wait for the listener; beyond, all of it is dropped."""

    def __post_init__(self) -> None:
        if self.message_bytes < self.inline_bytes:
            raise ValueError("a message must have room for the largest inline hint")
