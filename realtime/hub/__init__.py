"""Hands each change to the subscriptions that it matches; joins history to live."""

from realtime.hub.connection import Connection, Outlet
from realtime.hub.hub import Hub, HubSettings
from realtime.hub.measures import Measures, NoMeasures
from realtime.hub.project import Store

__all__ = ["Connection", "Hub", "HubSettings", "Measures", "NoMeasures", "Outlet", "Store"]
