"""Places in the change log: what was seen of it, and from where to go on."""

from __future__ import annotations

import base64

import msgspec


class Horizon(msgspec.Struct, frozen=True, array_like=True):
    """What a statement could see of the log: a transaction snapshot.

    On PostgreSQL it is `pg_current_snapshot()`; on SQLite, where one writer makes the log's
    order, `xmax` is the log's sequence plus one and nothing is open below it.
    """

    xmin: int
    xmax: int
    xip: tuple[int, ...] = ()
    witness: int = 0
    """SQLite: the stamp of the newest commit that was seen, which tells two histories apart."""

    def seen(self, xid: int) -> bool:
        """Whether a change made by that transaction was visible."""
        return xid < self.xmin or (xid < self.xmax and xid not in self.xip)

    def covers(self, other: Horizon) -> bool:
        """Whether it has seen all that the other has."""
        return self.xmax >= other.xmax and not any(map(other.seen, self.xip))

    def is_sound(self) -> bool:
        """Whether a database can have made it: places in order, each within 63 bits."""
        return (
            0 <= self.xmin <= self.xmax < 2**63
            and all(self.xmin <= xid < self.xmax for xid in self.xip)
            and -(2**63) <= self.witness < 2**63
        )


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """A place to go on from: all that `horizon` covers was put on the socket before it.

    `wishes` are short hashes of the subscriptions that it holds for, so that a cursor is not
    taken for another's; `forced` is one of the fields that the token forced out.
    """

    epoch: str
    horizon: Horizon
    wishes: tuple[int, ...] = ()
    forced: int = 0

    def encode(self) -> str:
        """The cursor as clients hold it: opaque."""
        return base64.urlsafe_b64encode(msgspec.msgpack.encode(self)).rstrip(b"=").decode()

    @classmethod
    def decode(cls, text: str) -> Cursor:
        """Raises ValueError for anything that `encode` did not make."""
        try:
            raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            cursor = msgspec.msgpack.decode(raw, type=cls)
            # Anybody can send one: what no database counts to must not reach a statement, and a
            # second spelling of a cursor is not one.
            if not cursor.horizon.is_sound() or cursor.encode() != text:
                raise ValueError("not a cursor")
        except (ValueError, OverflowError, RecursionError) as error:
            raise ValueError("not a cursor") from error
        return cursor
