"""Celery's tasks as runs: `connect` reports them, a `Dispatcher` sends runs to them.

Needs Celery 5: `pip install runstream[celery]`.
"""

from runstream.celery.dispatcher import Dispatcher
from runstream.celery.reports import Reports
from runstream.celery.signals import connect

__all__ = ["Dispatcher", "Reports", "connect"]
