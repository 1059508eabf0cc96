"""What those who join a project at the same time read, and are shown, alike."""

from __future__ import annotations

from realtime.hub.joining.log import Log
from realtime.hub.joining.parcels import Parcels
from realtime.hub.joining.reading import Reading
from realtime.hub.joining.recent import Recent
from realtime.hub.joining.snapshot import Snapshots
from realtime.hub.project import Project


class Shared:
    """The places where a project's history is."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.reading = Reading(project.services)
        self.snapshots = Snapshots(project, self.reading)
        self.log = Log(project, self.reading)
        self.recent = Recent(project, self.reading, self.log)
        self.parcels = Parcels()
