"""The gateway: commands in over HTTP, changes out over WebSocket and SSE."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("runstream-server")
except PackageNotFoundError:  # run from a folder of sources that nobody installed
    VERSION = "0"
