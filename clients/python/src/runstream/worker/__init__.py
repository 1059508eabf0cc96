"""Executes runs: claims them, keeps them, calls the functions of their tasks, and reports."""

from runstream.worker.work import Work, executes
from runstream.worker.worker import Worker

__all__ = ["Work", "Worker", "executes"]
