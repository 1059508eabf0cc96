"""One followed project: what is next of each run, and whom it is shown to.

`order` settles what is next, `dispatch` whom it concerns and what they are told, `batches` when
one is complete, `checkpoints` which cursor stands for what was told, and `waits` who waits for the
tail to pass. `project` puts them together, for the hub and for the tail.
"""

from realtime.hub.project.project import Project

__all__ = ["Project"]
