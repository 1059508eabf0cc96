"""Our protocol classes under uvicorn: finished frames past the per-message path, bounds on heads.

    uvicorn.Config(app, ws="realtime.frames:FramesProtocol", http="realtime.frames:HttpProtocol")

The application finds a `Link` in `scope["extensions"]["runstream.frames"]`; without one, under
any other server, it sends as ASGI has it.
"""

from realtime.frames.config import Config
from realtime.frames.http import HttpProtocol
from realtime.frames.link import Link
from realtime.frames.websocket import FramesProtocol

__all__ = ["Config", "FramesProtocol", "HttpProtocol", "Link"]
