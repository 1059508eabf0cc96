"""Hands each change to the subscriptions that it matches; joins history to live.

`hub` has the connections and the time, `admission` says who is let in, `project` what is next in
one project and whom it is shown to, `joining` has the way of each subscription from its history to
live.
"""

from realtime.hub.connection import Connection, Outlet
from realtime.hub.hub import Hub
from realtime.hub.measures import Measures, NoMeasures
from realtime.hub.services import Store
from realtime.hub.settings import HubSettings

__all__ = ["Connection", "Hub", "HubSettings", "Measures", "NoMeasures", "Outlet", "Store"]
