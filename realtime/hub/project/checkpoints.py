"""Which cursor stands for what a project's connections were told, and who is to be sent one."""

from __future__ import annotations

from realtime.errors import MailboxFull
from realtime.hub.cohorts import Cohorts
from realtime.hub.connection import Connection
from realtime.hub.project.order import Order
from realtime.session import NO_CURSOR, Moment


class Checkpoints:
    """Sends cursors whenever the horizon has moved. What passes without the tail, such as
    heartbeats and the checkpoint after the last of some changes, the hub sends."""

    def __init__(self, order: Order, cohorts: Cohorts) -> None:
        self._order = order
        self._cohorts = cohorts
        self.news: dict[Connection, None] = {}
        """Those that were told something for which no cursor stands yet."""

    def cursor_for(self, connection: Connection) -> str:
        """What stands in for the cursor of each of the connection's live subscriptions, where
        there is such a cursor (`has_come_to`); of whoever is told in a lane there always is."""
        session, horizon = connection.session, self._order.horizon
        if horizon is None or not any(m.is_live for m in session.subscriptions.values()):
            return NO_CURSOR
        return session.cursor_for(self._order.epoch, horizon).encode()

    def has_come_to(self, connection: Connection) -> bool:
        """Whether there is a cursor by now that may stand in for all that the connection has."""
        horizon = self._order.horizon
        return horizon is None or connection.session.has_come_to(horizon)

    def send(self, now: Moment) -> None:
        """To everybody of whom it is time; all that the horizon covers has been handed on."""
        epoch, horizon = self._order.epoch, self._order.horizon
        assert horizon is not None
        self._cohorts.send_cursors(now, self.cursor_for, heartbeat=False)
        written: dict[object, str] = {}
        for connection in list(self.news):
            if not connection.session.has_news or connection.mailbox.lane is not None:
                del self.news[connection]
                continue
            session = connection.session
            if session.checkpoint_is_due(now) and session.has_come_to(horizon):
                cursor = session.cursor_for(epoch, horizon)
                key = (cursor.wishes, cursor.forced)
                if key not in written:
                    written[key] = cursor.encode()
                try:
                    session.checkpoint(written[key], now)
                except MailboxFull:
                    connection.overflowed()
