"""What one connection has still to be sent, in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol, TypeAlias, cast

from realtime import protocol
from realtime.errors import MailboxFull
from realtime.protocol import Fields, Kind

MESSAGE_BYTES: Final = 256 * 1024
"""About how much one WebSocket message holds; a longer line goes alone."""


_AROUND: Final = 64
"""About what a message holds besides its run."""


class Owner(Protocol):
    """Whose mailbox it is. Called from inside `put`; must not wait."""

    def owed(self) -> None:
        """Something is in it now, and nothing was before."""

    def pressed(self) -> None:
        """It is about to be full: take out now what can be taken."""


class Lane(Protocol):
    """What a mailbox is owed while nothing waits in it: written past it, together with others."""

    @property
    def count(self) -> int:
        """How many lines it has had."""

    @property
    def taken(self) -> int:
        """How many of them were written."""

    def leave(self, mailbox: Mailbox) -> None:
        """Puts what it has and has not written into the mailbox, which goes its own way then."""


class _Page:
    """A line of a snapshot or a replay: it was waited for, and does not count."""

    __slots__ = ("line",)

    def __init__(self, line: bytes) -> None:
        self.line = line


class _Checkpoint:
    """A cursor: holds for whatever stands before it."""

    __slots__ = ("line",)

    def __init__(self, line: bytes) -> None:
        self.line = line


class _Latest:
    """The newest state that one subscription is owed of one run."""

    __slots__ = ("fields", "id", "kind", "line", "run_id", "size")

    def __init__(
        self, id: int, run_id: str, kind: Kind, fields: Fields, line: bytes | None, size: int
    ) -> None:
        self.id = id
        self.run_id = run_id
        self.kind = kind
        self.fields = fields
        self.line = line
        """The finished line, as long as nothing was merged into it."""
        self.size = size


_Entry: TypeAlias = bytes | _Page | _Checkpoint | _Latest

_NONE: Final[deque[_Entry]] = deque(maxlen=0)
"""The entries of all mailboxes that are empty."""
_NO_LATEST: Final[dict[int, dict[str, _Latest]]] = {}
"""The same of what they are owed under `latest`."""


class Mailbox:
    """Finished lines, in order; those of `latest` merge while they wait.

    A newer state of a run takes the place of the *older* one: whatever was said of other runs
    after that, and each checkpoint since, stays true, since nothing is told later than it was
    going to be. Nothing merges across a `reset`, a `live` or an `end` of its subscription.
    """

    __slots__ = (
        "_entries",
        "_latest",
        "_marks",
        "_put",
        "_taken",
        "closed",
        "is_plain",
        "lane",
        "max_bytes",
        "owner",
        "pages",
        "size",
    )

    def __init__(self, owner: Owner, max_bytes: int = 1_000_000) -> None:
        self.owner = owner
        self.max_bytes = max_bytes
        self.size = 0
        """How many bytes count against the bound."""
        self.pages = 0
        """How many lines of snapshots and replays are in it."""
        self.closed = False
        self.lane: Lane | None = None
        """Where lines go past it, until the next is put into it."""
        self.is_plain = True
        """Whether nothing but plain lines is in it, each counted by its length."""
        # An empty deque takes three quarters of a kilobyte, and most mailboxes are empty: theirs
        # is shared.
        self._entries: deque[_Entry] = _NONE
        self._latest: dict[int, dict[str, _Latest]] = _NO_LATEST
        self._put = 0
        self._taken = 0
        self._marks: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def count(self) -> int:
        """How many entries were ever put in."""
        return self._put if self.lane is None else self._put + self.lane.count

    @property
    def taken(self) -> int:
        """How many of them are out of it."""
        return self._taken if self.lane is None else self._taken + self.lane.taken

    def enter(self, lane: Lane) -> None:
        """From now on the lane's lines are its own, although they never are in it.

        It must be empty, and the lane must have written all it had.
        """
        assert not self._entries
        assert self.lane is None
        # So that the lane has to count for none of its mailboxes: what it counted before is not
        # this one's.
        self._put -= lane.count
        self._taken -= lane.taken
        self._marks.clear()
        self.lane = lane

    def left(self, owed: Sequence[bytes]) -> None:
        """The lane's lines are its own no more; these it was owed and are in it now."""
        lane = self.lane
        assert lane is not None
        self.lane = None
        self._put += lane.count - len(owed)
        self._taken += lane.taken
        if owed:
            self.put_all(owed, sum(map(len, owed)))

    def put(self, line: bytes) -> None:
        """One more line. Raises MailboxFull, and then it is not in."""
        if self.lane is not None:
            self.lane.leave(self)
        if self.closed:
            return
        size = len(line)
        if self.size + size > self.max_bytes:
            self._make_room(size)
        self.size += size
        self._append(line)

    def put_all(self, lines: Sequence[bytes], size: int) -> None:
        """Some lines, of so many bytes together. Raises MailboxFull, and then some may be in."""
        if self.lane is not None:
            self.lane.leave(self)
        if self.closed:
            return
        if self.size + size > self.max_bytes:
            for line in lines:
                self.put(line)
            return
        self.size += size
        self._put += len(lines)
        entries = self._entries
        was_empty = not entries
        if entries is _NONE:
            entries = self._entries = deque()
        entries.extend(lines)
        if was_empty:
            self.owner.owed()

    def put_latest(self, id: int, run_id: str, kind: Kind, fields: Fields, line: bytes) -> None:
        """A state that may stand in for an older one of the same run and subscription.

        `line` says the same as the rest. Raises MailboxFull.
        """
        if self.lane is not None:
            self.lane.leave(self)
        if self.closed:
            return
        mine = self._latest_of(id)
        old = mine.get(run_id)
        if old is None or (kind is Kind.CHANGE and old.kind is Kind.LEAVE):
            size = len(line)
            if self.size + size > self.max_bytes:
                self._make_room(size)
                mine = self._latest_of(id)
            self.size += size
            entry = _Latest(id, run_id, kind, fields, line, size)
            mine[run_id] = entry
            self.is_plain = False
            self._append(entry)
            return
        if kind is Kind.CHANGE:
            old.fields = {**old.fields, **fields}
            old.line = None
            size = protocol.size_of(old.fields) + _AROUND
        else:
            old.kind, old.fields, old.line = kind, fields, line
            size = len(line)
        self.size += size - old.size
        old.size = size
        if self.size > self.max_bytes:
            self._make_room(0)

    def put_page(self, line: bytes) -> None:
        """A line that does not count: whoever puts it waits until it is taken."""
        if self.lane is not None:
            self.lane.leave(self)
        if not self.closed:
            self.pages += 1
            self.is_plain = False
            self._append(_Page(line))

    def put_checkpoint(self, line: bytes) -> None:
        """A cursor; the one before goes, if nothing stands between them. Raises MailboxFull."""
        if self.lane is not None:
            self.lane.leave(self)
        if self.closed:
            return
        if self._entries and isinstance(last := self._entries[-1], _Checkpoint):
            self.size += len(line) - len(last.line)
            last.line = line
            return
        if self.size + len(line) > self.max_bytes:
            self._make_room(len(line))
        self.size += len(line)
        self.is_plain = False
        self._append(_Checkpoint(line))

    def part(self, id: int) -> None:
        """From here on nothing of that subscription merges into what it was told before."""
        if self._latest:
            self._latest.pop(id, None)

    def take(self, max_bytes: int = MESSAGE_BYTES) -> list[bytes]:
        """The next lines, for one message; none if nothing is owed."""
        entries = self._entries
        if self.is_plain and self.size <= max_bytes:
            plain = cast("list[bytes]", list(entries))
            self._entries = _NONE
            self._taken += len(plain)
            self.size = 0
            return plain
        lines: list[bytes] = []
        total = 0
        while entries:
            entry = entries[0]
            if type(entry) is bytes:
                line = entry
            elif isinstance(entry, _Latest):
                line = entry.line or _write(entry)
            else:
                assert not isinstance(entry, bytes)
                line = entry.line
            if lines and total + len(line) > max_bytes:
                break
            entries.popleft()
            self._taken += 1
            if type(entry) is bytes or isinstance(entry, _Checkpoint):
                self.size -= len(line)
            elif isinstance(entry, _Page):
                self.pages -= 1
            elif isinstance(entry, _Latest):
                self.size -= entry.size
                self._forget(entry)
                line = self._with_equals(entry, line)
            lines.append(line)
            total += len(line) + 1
        if not entries:
            self._entries = _NONE
            self.is_plain = True
        return lines

    def is_overdue(self, now: float, max_age_s: float) -> bool:
        """Whether something has waited for longer than that; to be asked again and again."""
        if not self._entries:
            self._marks.clear()
            return False
        while self._marks and self._marks[0][1] <= self._taken:
            del self._marks[0]
        if not self._marks or self._marks[-1][1] < self._put:
            self._marks.append((now, self._put))
        return now - self._marks[0][0] > max_age_s

    def clear(self) -> None:
        """Throws away all that is owed."""
        if self.lane is not None:
            self.lane.leave(self)
        self._taken += len(self._entries)
        self._entries = _NONE
        self.is_plain = True
        self._latest = _NO_LATEST
        self._marks.clear()
        self.size = 0
        self.pages = 0

    def close(self) -> None:
        """Throws away all that is owed, and takes nothing more."""
        self.clear()
        self.closed = True

    def _append(self, entry: _Entry) -> None:
        self._put += 1
        if self._entries is _NONE:
            self._entries = deque()
        self._entries.append(entry)
        if len(self._entries) == 1:
            self.owner.owed()

    def _make_room(self, size: int) -> None:
        # A burst within one turn of the loop is no slow reader: the socket has had no chance yet.
        self.owner.pressed()
        # One line longer than the bound is nobody's fault, and can't be sent in parts: alone it
        # is let in, or (size 0) left in.
        others = len(self._entries) if size else len(self._entries) - 1
        if others > 0 and self.size > 0 and self.size + size > self.max_bytes:
            raise MailboxFull(self.size + size, self.max_bytes)

    def _latest_of(self, id: int) -> dict[str, _Latest]:
        if self._latest is _NO_LATEST:
            self._latest = {}
        return self._latest.setdefault(id, {})

    def _forget(self, entry: _Latest) -> None:
        mine = self._latest.get(entry.id)
        if mine is not None and mine.get(entry.run_id) is entry:
            del mine[entry.run_id]
            if not mine:
                del self._latest[entry.id]
                if not self._latest:
                    self._latest = _NO_LATEST

    def _with_equals(self, entry: _Latest, line: bytes) -> bytes:
        """Takes out what follows and says the same to other subscriptions, and says it once."""
        entries = self._entries
        ids = [entry.id]
        while entries:
            following = entries[0]
            if (
                not isinstance(following, _Latest)
                or following.fields is not entry.fields
                or following.kind is not entry.kind
            ):
                break
            entries.popleft()
            self._taken += 1
            self.size -= following.size
            self._forget(following)
            ids.append(following.id)
        if len(ids) == 1:
            return line
        return protocol.change(ids, entry.kind, protocol.run_object(entry.fields))


def _write(entry: _Latest) -> bytes:
    return protocol.change([entry.id], entry.kind, protocol.run_object(entry.fields))
